/* vault/apply.h - what an operation does to a tree: the one place for it.
 *
 * The same code serves an operation as it is made by an application, the journal at mount, our own delta
 * replayed on a newer head, and other writers' deltas in a merge.
 *
 * Where the object an operation means is no longer in the state the operation was based on, both sides
 * changed it.  Until more modes exist every operation acts as `stash`: the version in the view keeps the
 * name, the operation's appears beside it under a conflict name.  Nothing of the machine that applies enters: names, times
 * and inode numbers come from the operation and its delta, so a merge is a pure function of the store.
 *
 *   CREATE, LINK    parent gone: it is brought back from the delta's base.  Name taken: conflict name
 *   UNLINK          entry is another inode: nothing.  Content changed since: kept
 *   RENAME          source elsewhere or gone: nothing.  Target taken by another: conflict name for the moved.
 *                   Target's content changed since: it is kept under a conflict name.  A cycle: nothing
 *   SETATTR, XATTR  per field: applied if the field still has its base value (or already the new one)
 *   DATA            content stamp differs: a copy of the base version with the change, beside it.
 *                   Inode gone: the same, under its old name
 *
 * EXTENT values in layers are *patches*: explicit-holes form, naming only the blocks that changed, so that applying DATA
 * reads no extents.  A window cloned as a whole is a reference to a leaf; what is written there afterwards stands behind
 * it as a patch, so even that reads nothing.  nf_extent_lookup() reads through patches and references; publishing folds
 * them.
 *
 * Applying reads first and changes afterwards: when it returns NF_TREE_WANT nothing was changed. */
#ifndef NF_VAULT_APPLY_H
#define NF_VAULT_APPLY_H

#include "codec/codec.h"
#include "vault/layer.h"
#include "vault/op.h"

/* Counters count modulo 2^64 (docs/format.md): a few sparse files may have more bytes than a number holds, and every
 * order of adding must come to the same. */
static inline int64_t nf_counter_sum(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }

struct nf_apply {
	struct nf_view view;    /* layers[0] is what is changed */
	struct nf_layer *layer; /* == view.layers[0], writable */
	const struct nf_ring *ring;
	struct nf_stamp dot;    /* the delta's; content stamps become this */
	const char *host;       /* the author's, for conflict names */
	struct nf_ref base_root; /* what the operations were based on; null: the empty tree */
	const struct nf_layer *base_layer; /* [Optional] over base_root: the author's own epoch before this one */
	/* Inode numbers for conflict copies: first_spare + nr_spared is the next; a delta brings its own, so that
	 * they are the same wherever it is replayed. */
	uint64_t first_spare;
	uint64_t nr_spared;
	/* [Optional] The INODE value of INO as it is in view.base, if the caller has it; NULL: ask the tree. */
	const void *(*base_inode)(void *ctx, uint64_t ino, size_t *len);
	void *base_inode_ctx;
	/* [Optional] The operations as they took effect (stamps of what they met, conflict copies spelled out): what an
	 * unpublished delta becomes when it is replayed on a newer head. */
	struct nf_buf *out;
	uint32_t nr_out;
	/* Sums of differences, modulo 2^64: nf_counter_sum(). */
	int64_t inodes;
	int64_t bytes;
	/* What the collector says to stand elsewhere stays where it is: what is there may be gone by now. */
	bool stays;
	/* Conflicts met. */
	uint64_t conflicts;
	/* inode -> its conflict copy, within one replay */
	struct nf_redirect {
		uint64_t from, to;
	} *redirects;
	size_t nr_redirects;
};

void nf_apply_deinit(struct nf_apply *a);
/* 0, NF_TREE_WANT (get W's nodes, call again), or negative.  Operations must be valid (decoded). */
int nf_apply(struct nf_apply *a, const struct nf_op *op, struct nf_want *w);
/* The same without doing it: 0 says that nf_apply() will not want anything. */
int nf_apply_probe(struct nf_apply *a, const struct nf_op *op, struct nf_want *w);

/* The INODE item of INO in the view. 0, NF_TREE_NONE, NF_TREE_WANT. VAL keeps inline data alive. */
int nf_apply_inode(const struct nf_apply *a, uint64_t ino, struct nf_want *w, struct nf_val *val,
		   struct nf_inode_item *out);
/* Encodes and puts. */
int nf_layer_put_inode(struct nf_layer *l, uint64_t ino, const struct nf_inode_item *i);

/* The references of one window of blocks, as the view has them now. 0 or NF_TREE_WANT. */
int nf_extent_lookup(const struct nf_view *v, uint64_t ino, uint64_t first_block, uint32_t block_bytes,
		     struct nf_want *w, struct nf_block_ref out[NF_WINDOW_BLOCKS]);

/* The same of one value of a layer: what it names, and whether by itself it says everything. 0 or NF_TREE_WANT. */
int nf_extent_of_layer(struct nf_nodes *nodes, const void *value, size_t len, uint32_t block_bytes,
		       struct nf_want *w, struct nf_block_ref out[NF_WINDOW_BLOCKS], bool known[NF_WINDOW_BLOCKS]);
/* The segments that a whole value by reference stands for. 0, NF_TREE_WANT, -NF_E_TREE_BAD if they are not there. */
int nf_extent_resolve(struct nf_nodes *nodes, const struct nf_extent_ref *ref, uint32_t block_bytes,
		      struct nf_want *w, struct nf_block_ref out[NF_WINDOW_BLOCKS]);
/* Where the window's present value stands as a whole, in a leaf of the base: 0 with *OUT, NF_TREE_NONE if it stands in
 * no leaf alone (layers have their own of it, or it is all holes), NF_TREE_WANT. */
int nf_extent_locate(const struct nf_view *v, uint64_t ino, uint64_t first_block, struct nf_want *w,
		     struct nf_extent_ref *out);

struct nf_key nf_key_inode(uint64_t ino);
struct nf_key nf_key_dirent(uint64_t dir, uint64_t hash);
struct nf_key nf_key_parent(uint64_t ino, uint64_t dir, uint64_t hash);
struct nf_key nf_key_xattr(uint64_t ino, uint64_t hash);
struct nf_key nf_key_extent(uint64_t ino, uint64_t first_block);

/* NAME's entry in DIR. 0, NF_TREE_NONE, NF_TREE_WANT. */
int nf_view_find(const struct nf_view *v, const struct nf_ring *ring, uint64_t dir, const char *name,
		 size_t name_len, struct nf_want *w, uint64_t *ino, uint8_t *type);
/* Has DIR no entries? 0 empty, 1 has some, NF_TREE_WANT. */
int nf_view_dir_empty(const struct nf_view *v, uint64_t dir, struct nf_want *w);
/* A directory and name that INO is linked under (the first). */
int nf_view_parent(const struct nf_view *v, uint64_t ino, struct nf_want *w, uint64_t *dir,
		   char name[NF_NAME_MAX + 1], uint8_t *name_len);

#endif
