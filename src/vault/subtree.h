/* vault/subtree.h - everything on the server that a file, or a directory with all beneath it, is read by.
 *
 *	nodes   those of the tree on the way to its items, and leaves that windows are named in
 *	runs    blocks that stand one behind the other in a pack
 *
 * By a root as it is on the server: what is not published yet is not seen.  Blocks. */
#ifndef NF_VAULT_SUBTREE_H
#define NF_VAULT_SUBTREE_H

#include "vault/item.h"

struct nf_subtree {
	struct nf_node_source *src;
	struct nf_ref root;
	_Atomic bool *stop; /* NULL: never; -NF_E_CANCELLED */
	/* Return 0 or negative to end. NULL allowed. */
	int (*node)(void *ctx, uint64_t ino, const struct nf_ref *ref);
	int (*run)(void *ctx, uint64_t ino, uint64_t first_block, const struct nf_block_ref *refs, unsigned nr);
	void *ctx;
	/* Sums over all walks. */
	uint64_t files, dirs;
	uint64_t sealed_bytes; /* of blocks */
};

/* INO and what is beneath it, depth first, each inode's items at once.  NF_TREE_NONE: there is no such inode. */
int nf_subtree_walk(struct nf_subtree *s, uint64_t ino);
/* What it takes to get from the root to INO by name: the items of the directories above it. */
int nf_subtree_walk_above(struct nf_subtree *s, uint64_t ino);

#endif
