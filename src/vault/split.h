/* vault/split.h - the current epoch in parts (split.c, shelf.c).
 *
 * The committer's, which has the turn at the journal (v->journaling): what is there does not change its form, and what comes
 * meanwhile stands behind it. */
#ifndef NF_VAULT_SPLIT_H
#define NF_VAULT_SPLIT_H

#include "vault/commit.h"

/* One part while it is made. */
struct nf_part {
	struct nf_epoch *e;
	struct nf_apply a;
};
/* A part of OLD that is to be dot SEQ, on the tree ROOT and the layer BELOW (or NULL). */
int nf_part_init(struct nf_vault *v, struct nf_part *p, const struct nf_epoch *old, uint64_t seq, const struct nf_ref *root,
		 const struct nf_layer *below);
void nf_part_deinit(struct nf_part *p);
/* How many bytes, and operations, of E the first part takes: all that is in the journal, at most MAX_BYTES; at least one
 * operation. 0: nothing may be taken. */
size_t nf_part_first(const struct nf_epoch *e, size_t max_bytes, uint32_t *nr);
/* Operations [from, to) of the current epoch.  Takes ns; blocks. */
int nf_part_replay(struct nf_vault *v, struct nf_apply *a, size_t from, size_t to);
/* What came after *AT, which follows; the lock is dropped while nodes are fetched. */
int nf_part_tail(struct nf_vault *v, struct nf_apply *a, size_t *at) NF_REQUIRES(v->ns);
/* On the state they were made on operations meet no conflict. */
int nf_part_end(struct nf_part *p);
/* Dot FROM is the dots up to TO now. */
void nf_part_follow(struct nf_vault *v, uint64_t from, uint64_t to) NF_REQUIRES(v->ns);

#endif
