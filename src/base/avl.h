/* base/avl.h - intrusive balanced search tree (AVL), with optional augmentation.
 *
 * The caller finds the place itself, as with the kernel's rbtree: walk from
 * t->root comparing, then nf_avl_link() the node under the last one seen and
 * nf_avl_insert() rebalances.  nf_avl_find() and nf_avl_add() do that walk
 * with a comparison function.
 *
 * Augmentation: t->update(node), if set, recomputes what a node caches about
 * its subtree (for interval trees: the greatest end) from the node and its two
 * children; it is called bottom-up for every node whose subtree changed.  A
 * caller that changes a node's own value calls nf_avl_touch() afterwards.
 * Not thread safe. */
#ifndef NF_BASE_AVL_H
#define NF_BASE_AVL_H

#include <stdbool.h>
#include <stddef.h>

struct nf_avl_node {
	struct nf_avl_node *parent;
	struct nf_avl_node *child[2];
	int height; /* 1 for a leaf; 0 marks a node on no tree */
};

struct nf_avl {
	struct nf_avl_node *root;
	void (*update)(struct nf_avl_node *n);
};

void nf_avl_init(struct nf_avl *t, void (*update)(struct nf_avl_node *n));
static inline bool nf_avl_empty(const struct nf_avl *t) { return !t->root; }
static inline bool nf_avl_linked(const struct nf_avl_node *n) { return n->height != 0; }

/* Puts N under PARENT (NULL: the tree is empty) on side SIDE (0 left), which
 * must be free, and rebalances. */
void nf_avl_insert(struct nf_avl *t, struct nf_avl_node *parent, int side, struct nf_avl_node *n);
void nf_avl_erase(struct nf_avl *t, struct nf_avl_node *n);
void nf_avl_touch(struct nf_avl *t, struct nf_avl_node *n);

struct nf_avl_node *nf_avl_first(const struct nf_avl *t);
struct nf_avl_node *nf_avl_last(const struct nf_avl *t);
struct nf_avl_node *nf_avl_next(const struct nf_avl_node *n);
struct nf_avl_node *nf_avl_prev(const struct nf_avl_node *n);

/* < 0, 0 or > 0 as KEY is before, at or after N. */
typedef int nf_avl_cmp_fn(const void *key, const struct nf_avl_node *n);
/* The node at KEY, or NULL. */
struct nf_avl_node *nf_avl_find(const struct nf_avl *t, const void *key, nf_avl_cmp_fn *cmp);
/* The first node at or after KEY, or NULL. */
struct nf_avl_node *nf_avl_lower(const struct nf_avl *t, const void *key, nf_avl_cmp_fn *cmp);
/* Adds N at KEY; returns the node already there and adds nothing, or NULL. */
struct nf_avl_node *nf_avl_add(struct nf_avl *t, const void *key, nf_avl_cmp_fn *cmp,
			       struct nf_avl_node *n);

#endif
