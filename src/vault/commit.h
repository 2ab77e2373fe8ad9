/* vault/commit.h - the committer's parts.  Rules R1.. are those of docs/internals/protocol.md. */
#ifndef NF_VAULT_COMMIT_H
#define NF_VAULT_COMMIT_H

#include "vault/vault_i.h"

/* cut.c */
/* Freezes the current epoch if it or any file holds something; true if there is a frozen epoch afterwards.
 * Starts the flushes. */
bool nf_cut(struct nf_vault *v);
/* Waits until the frozen epoch's data has drained; the error of a flush that failed (it is tried again at the next
 * call). */
int nf_cut_drain(struct nf_vault *v);

/* What a delta may hold, encoded: it must fit a body that the server takes. */
size_t nf_cut_ops_max_bytes(const struct nf_vault *v);
/* split.c */
/* Of a current epoch with more than MAX_BYTES of operations the first become the frozen epoch. -EAGAIN: it cannot be now. */
int nf_split(struct nf_vault *v, size_t max_bytes);

/* publish.c */
/* Puts packs and one head on top of v->base, with the frozen epoch (if there is one), or merging LEAVES (more than
 * one).  0: *OUT was read back as sent (R9). -NF_E_STORE_UNKNOWN_OUTCOME: look whether it is there. */
int nf_publish(struct nf_vault *v, const struct nf_head *const *leaves, size_t nr, struct nf_head *out);

/* adopt.c */
/* Makes LEAF the base: replays what is ours and not in it, tells the library and the kernel what
 * changed.  The remembered state is on disk before anybody sees it (R6). */
int nf_adopt(struct nf_vault *v, const struct nf_head *leaf);
/* merge.c */
int nf_replay(struct nf_vault *v, struct nf_apply *a, const void *ops, size_t len,
	      const struct nf_pack_id *self);
/* A copy of a head (vector included). */
int nf_head_copy(struct nf_head *to, const struct nf_head *from);
/* Where a local block went; false: it is not on the server. Takes ns. */
bool nf_moved_find(struct nf_vault *v, const struct nf_block_ref *ref, struct nf_moved *out);
int nf_moved_add(struct nf_vault *v, const struct nf_block_ref *ref, const struct nf_pack_id *pack,
		 uint32_t offset_bytes);
/* Drops what is known of segments below BOUND. */
void nf_moved_trim(struct nf_vault *v, uint64_t bound) NF_REQUIRES(v->ns);

#endif
