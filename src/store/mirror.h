/* store/mirror.h - a filter that writes a second store beside the first (`mount --mirror`).
 *
 *              PUT, DELETE ----> the store ------> what the caller hears
 *                   \----------> the mirror        heard by nobody; a failure leaves the mirror BEHIND
 *              GET, STAT, LIST -> the store
 *
 *   IN STEP --a write to the mirror failed--> BEHIND --all that was missing was copied--> IN STEP
 *
 * A mirror is a whole vault of its own, that can be mounted, at any moment: heads are written to it only when every pack
 * they may name is there.  So a mirror that is BEHIND is sent packs but no heads; a thread then compares listings and
 * copies packs, headers and at last heads.  It begins BEHIND, as nobody knows what happened before.
 *
 * What is deleted from the store is deleted from the mirror in step, or found by the comparison (packs and heads that only
 * the mirror has are removed after the copying).
 *
 * Thread safety: as any store. */
#ifndef NF_STORE_MIRROR_H
#define NF_STORE_MIRROR_H

#include "foliofs/store.h"

/* Takes both, also when it fails.  SECOND should be a link (store/link.h), so that a mirror that is away costs no time. */
int nf_mirror_new(struct nf_store *first, struct nf_store *second, struct nf_store **out);
bool nf_store_is_mirror(const struct nf_store *s);

struct nf_mirror_status {
	bool in_step;
	int last_error;           /* of the last copying, or of the write that left it behind */
	uint64_t copied_objects;  /* by comparing, since the beginning */
	uint64_t copied_bytes;
};
void nf_mirror_status(struct nf_store *mirror, struct nf_mirror_status *out);
/* Compare now, without waiting for the next try. */
void nf_mirror_wake(struct nf_store *mirror);

#endif
