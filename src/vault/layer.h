/* vault/layer.h - changes not yet in the tree, and views through them.
 *
 *        layer[0]   current operations        (newest, asked first)
 *        layer[1]   frozen by a cut, on its way to the server
 *        base       the tree of the newest head, on the server
 *
 * A layer is an ordered map of keys to values or removals, with two kinds of wider
 * removals so that no operation costs by the size of what it removes: a *wipe* of an inode (all
 * items with that ino below this layer are gone) and a *cut* of its extents (all EXTENT items
 * of the inode below this layer whose first block is >= some block are gone).  What the layer itself
 * holds for the inode is taken after its own wipes and cuts, so callers remove that first
 * (nf_layer_wipe() and nf_layer_cut() do).
 *
 * A view is a base and layers.  Reading one is like reading a tree: NF_TREE_WANT where a
 * base node is missing.  Layers are not locked: the vault's namespace lock protects them. */
#ifndef NF_VAULT_LAYER_H
#define NF_VAULT_LAYER_H

#include "vault/tree.h"

struct nf_layer;
int nf_layer_new(struct nf_layer **out);
void nf_layer_free(struct nf_layer *l);
/* Copies the value. */
int nf_layer_put(struct nf_layer *l, const struct nf_key *key, const void *value, size_t len);
int nf_layer_remove(struct nf_layer *l, const struct nf_key *key);
int nf_layer_wipe(struct nf_layer *l, uint64_t ino);
int nf_layer_cut(struct nf_layer *l, uint64_t ino, uint64_t first_block);
/* 0 with a value; NF_TREE_NONE: says nothing of the key; NF_LAYER_GONE: says it is removed. */
enum { NF_LAYER_GONE = 4 };
int nf_layer_get(const struct nf_layer *l, const struct nf_key *key, const void **value, size_t *len);
bool nf_layer_empty(const struct nf_layer *l);
size_t nf_layer_bytes(const struct nf_layer *l);
/* The batch that brings the layer's state into a tree, for nf_tree_update(): arrays are
 * malloc'd, the caller's; values borrowed from the layer. */
int nf_layer_batch(const struct nf_layer *l, struct nf_change **changes, size_t *nr,
		   struct nf_cutout **cuts, size_t *nr_cuts);
/* Visits each put value so that it may be rewritten in place or replaced (references of
 * blocks that have moved).  FN returns 0 to keep, 1 after filling *NOW with a malloc'd value
 * that the layer takes, or negative. */
int nf_layer_rewrite(struct nf_layer *l, uint8_t type,
		     int (*fn)(void *ctx, const struct nf_key *key, const void *value, size_t len,
			       void **now, size_t *now_len),
		     void *ctx);
/* Brings what FROM says into TO, as if done there after TO's own changes. */
int nf_layer_fold(struct nf_layer *to, const struct nf_layer *from);
/* The same with all that FROM has, which is empty afterwards.  Needs no memory: it cannot fail half-way. */
void nf_layer_take(struct nf_layer *to, struct nf_layer *from);
/* Copies to TO everything FROM holds for one inode (puts, removals, wipe and cut). */
int nf_layer_copy_inode(struct nf_layer *to, const struct nf_layer *from, uint64_t ino);
void nf_layer_to_text(const struct nf_layer *l, struct nf_text *t);

enum { NF_VIEW_LAYERS = 3 };
struct nf_view {
	struct nf_nodes *nodes;
	struct nf_ref base;                           /* null: the empty tree */
	const struct nf_layer *layers[NF_VIEW_LAYERS]; /* newest first; NULL: none */
};
int nf_view_lookup(const struct nf_view *v, const struct nf_key *key, struct nf_want *w,
		   struct nf_val *out);
int nf_view_next(const struct nf_view *v, const struct nf_key *from, const struct nf_key *to,
		 struct nf_want *w, struct nf_key *key_out, struct nf_val *out);

#endif
