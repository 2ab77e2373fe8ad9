/* vault/gc_marks.h - what a run of the collector found, for the next one.
 *
 *      leaf              whole: what it names of each pack
 *        | step            what one names more or less than the other
 *      root before it
 *        | step
 *      ...
 *
 * Trees never change, so what was found of a pair of them holds for ever; a step that is not there is found anew by reading
 * what the two do not share.  In STATE_DIR/gc, sealed; if it is lost, or not from this device, everything is read again.
 *
 * Memory and file go by packs and commits: 40 bytes for each pack that a commit changed.  Not thread safe: whoever has the
 * collector's turn. */
#ifndef NF_VAULT_GC_MARKS_H
#define NF_VAULT_GC_MARKS_H

#include "vault/pack_set.h"
#include "vault/vault_i.h"

struct nf_gc_sum {
	struct nf_pack_id pack;
	int64_t live_bytes, stay_bytes, old_bytes;
};

struct nf_gc_step {
	struct nf_avl_node node;
	struct nf_ref from, to; /* from null: all that `to` names */
	struct nf_gc_sum *sums;
	size_t nr;
	bool used;              /* by this run */
};

/* A pack of which too much would have to be copied: an idle run leaves it alone for some runs. */
struct nf_gc_refused {
	struct nf_pack_id pack;
	int64_t most_bytes;
	uint32_t runs;
};

struct nf_gc_marks {
	struct nf_avl steps;
	struct nf_gc_step *whole; /* one of the steps, or NULL */
	uint32_t epoch;           /* the newest of the keys: what is older counts as old */
	struct nf_gc_refused *refused;
	size_t nr_refused;
};
/* Always something, if only nothing, as it is after there came new keys; -ENOMEM. */
int nf_gc_marks_load(struct nf_vault *v, uint32_t epoch, struct nf_gc_marks *m);
/* What this run used. */
int nf_gc_marks_save(struct nf_vault *v, const struct nf_gc_marks *m);
void nf_gc_marks_deinit(struct nf_gc_marks *m);
/* NULL: not there.  FROM NULL: the whole of TO. */
struct nf_gc_step *nf_gc_marks_find(struct nf_gc_marks *m, const struct nf_ref *from, const struct nf_ref *to);
/* The sums of SET that are not zero, as the step from FROM to TO; it is used. */
int nf_gc_marks_put(struct nf_gc_marks *m, const struct nf_ref *from, const struct nf_ref *to, const struct nf_pack_set *set);
bool nf_gc_marks_refused(const struct nf_gc_marks *m, const struct nf_pack_entry *e);
int nf_gc_marks_refuse(struct nf_gc_marks *m, const struct nf_pack_id *pack, int64_t most_bytes);

#endif
