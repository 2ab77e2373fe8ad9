/* vault/mend.h - a correction of the newest tree that no operation can say: what stands in place of nodes that are lost.
 *
 *     base   [ a | lost | c ]      cut: the keys of `lost`, unread;  layer: what is known of them from elsewhere
 *                   |
 *            [ a | .... | c ]      the next commit's tree, below what was done meanwhile
 *
 * It belongs to one tree: a commit on any other base leaves it out, so nothing that others wrote is ever replaced, and whoever
 * made it looks again.  The delta does not have it: in a merge with a tree that still names what is lost it is made again. */
#ifndef NF_VAULT_MEND_H
#define NF_VAULT_MEND_H

#include "vault/layer.h"
#include "vault/vault_i.h"

struct nf_mend {
	struct nf_ref base;
	struct nf_layer *layer;
	struct nf_cutout *cuts; /* ascending, disjoint */
	size_t nr_cuts;
};

int nf_mend_new(const struct nf_ref *base, struct nf_mend **out);
void nf_mend_free(struct nf_mend *m); /* NULL allowed */
static inline void nf_mend_free_p(struct nf_mend **m) { nf_mend_free(*m); }
/* [from, to) is behind what was cut before.  A TO of inode UINT64_MAX is the end of the tree. */
int nf_mend_cut(struct nf_mend *m, const struct nf_key *from, const struct nf_key *to);
/* M's cuts among those of a batch, which are malloc'd, ascending and disjoint before and afterwards. */
int nf_mend_add_cuts(const struct nf_mend *m, struct nf_cutout **cuts, size_t *nr);
void nf_mend_to_text(const struct nf_mend *m, struct nf_text *t);
/* Commits M, which is taken, and waits for the commit.  0 does not say that its base was still the newest tree.  Blocks. */
int nf_mend_commit(struct nf_vault *v, struct nf_mend *m, _Atomic bool *stop);

#endif
