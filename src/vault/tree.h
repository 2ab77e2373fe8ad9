/* vault/tree.h - the copy-on-write B+tree: reading, batch updates, differences.
 *
 * A tree is a root reference.  Nodes are immutable; decoded ones live in a node cache
 * (struct nf_nodes), found by pack and offset.  Reading never does I/O: where a node
 * is not in the cache the call returns NF_TREE_WANT and lists the references it needs
 * in a struct nf_want; the caller gets them into the cache (without holding locks) and
 * calls again from the start.  So one code serves callers that may block and callers
 * that may not.  Nodes that were returned to a WANT loop are kept by the want's pins until
 * nf_want_deinit(), so that a small cache cannot make a caller start over for ever.
 *
 * Thread safety: the node cache is thread safe (rank NODES); the functions may run in
 * parallel. */
#ifndef NF_VAULT_TREE_H
#define NF_VAULT_TREE_H

#include "base/avl.h"
#include "vault/ref.h"

enum {
	NF_NODE_MAX = 16384,  /* plain bytes of a node with more than one entry */
	NF_VALUE_MAX = 8192,
	NF_TREE_LEVELS_MAX = 12,
	NF_WANT_MAX = 64,
};

/* Positive results. */
enum { NF_TREE_NONE = 1, NF_TREE_WANT = 2, NF_TREE_STOP = 3 };

struct nf_node;  /* decoded, immutable, counted */
struct nf_nodes; /* the cache */

/* LIMIT_BYTES: plain bytes of unpinned nodes kept. */
int nf_nodes_new(size_t limit_bytes, struct nf_nodes **out);
void nf_nodes_free(struct nf_nodes *n);
/* Validates PLAIN (as read from REF's pack at REF: entries, order, level, limits) and puts it in the
 * cache; -NF_E_TREE_BAD.  The bytes are copied. */
int nf_nodes_insert(struct nf_nodes *n, const struct nf_ref *ref, const void *plain, size_t len);
bool nf_nodes_has(struct nf_nodes *n, const struct nf_ref *ref);
size_t nf_nodes_bytes(struct nf_nodes *n);

/* What a reader misses.  A call that returns NF_TREE_WANT adds to the list (and takes off it what has come
 * meanwhile), so several look-ups may be tried before one loading.  Each node asked for and each one on the way
 * there stays pinned until nf_want_deinit(); whoever iterates far calls that now and then. */
struct nf_want {
	struct nf_ref refs[NF_WANT_MAX];
	size_t nr;
	struct nf_node **pins; /* nodes met so far by this caller */
	size_t nr_pins, cap_pins;
};
#define NF_WANT_INIT { .nr = 0 }
void nf_want_deinit(struct nf_want *w);

/* A value found; borrowed from the node, which PIN keeps; nf_val_deinit() lets it go. */
struct nf_val {
	const uint8_t *p;
	size_t len;
	struct nf_node *pin;
	uint8_t *owned; /* a copy, where there is no node to pin */
	struct nf_pack_id self; /* what "this pack" means in the value; zeros: it does not occur */
};
void nf_val_deinit(struct nf_val *v);

/* A null root is the empty tree. 0, NF_TREE_NONE, NF_TREE_WANT, or negative. */
int nf_tree_lookup(struct nf_nodes *n, const struct nf_ref *root, const struct nf_key *key,
		   struct nf_want *w, struct nf_val *out);

/* The first item with key >= FROM and < TO. 0, NF_TREE_NONE, NF_TREE_WANT. On WANT, more than one
 * reference of the range may be asked for at once (up to NF_WANT_MAX): the range is going to be read. */
int nf_tree_next(struct nf_nodes *n, const struct nf_ref *root, const struct nf_key *from,
		 const struct nf_key *to, struct nf_want *w, struct nf_key *key_out,
		 struct nf_val *out);

/* How callers that may block get nodes. */
struct nf_node_source {
	struct nf_nodes *nodes;
	/* Blocks until all of W->refs are in the cache. */
	int (*load)(void *ctx, struct nf_want *w);
	void *ctx;
};

/* Says that what was read cannot be had, now or ever, rather than that the way to it is blocked. */
bool nf_is_damage(int error);

/* --- batch update ------------------------------------------------------------ */

/* One change; a batch is sorted by key, without duplicates. */
struct nf_change {
	struct nf_key key;
	const void *value; /* NULL: the key is removed */
	size_t len;
	bool rewrite; /* its leaf is written anew even if it has this value */
};
/* Keys in [from, to) are removed before the changes apply; sorted, disjoint. */
struct nf_cutout {
	struct nf_key from;
	struct nf_key to;
};

struct nf_tree_writer {
	/* Seals a node and appends it to the pack under construction; *OUT has a zero pack id, or
	 * the pack's own where one update may fill several packs.  Called children first. */
	int (*emit)(void *ctx, unsigned level, const void *plain, size_t len, struct nf_ref *out);
	void *ctx;
	/* An inner node that is rewritten and whose children lie in more than this many packs
	 * has its children rewritten too (0: never). */
	unsigned spread_max;
	/* Nodes rewritten for that reason only, at most, in one update. */
	unsigned spread_budget_nodes;
};

/* Applies a batch to ROOT and emits the new nodes; reads only nodes on the way to what changes (whole subtrees in
 * a cutout are dropped unread).  *OUT is the new root (a null reference if the tree became empty; ROOT
 * itself if nothing changed). */
int nf_tree_update(struct nf_node_source *src, const struct nf_ref *root,
		   const struct nf_change *changes, size_t nr, const struct nf_cutout *cuts,
		   size_t nr_cuts, const struct nf_tree_writer *w, struct nf_ref *out);

/* --- difference -------------------------------------------------------------- */

/* OLD or NEW is NULL where the key is absent.  Return 0 to go on, NF_TREE_STOP or negative to end. */
typedef int nf_diff_fn(void *ctx, const struct nf_key *key, const struct nf_val *old,
		       const struct nf_val *now);
/* Calls FN for each key whose value differs, ascending; shared subtrees are skipped by reference
 * and never read. */
int nf_tree_diff(struct nf_node_source *src, const struct nf_ref *old, const struct nf_ref *now,
		 nf_diff_fn *fn, void *ctx);

/* The same, where parts of OLD can be read no more: they count as empty, so FN is called for whatever NOW has there, and for
 * nothing that only OLD had. */
int nf_tree_diff_lossy(struct nf_node_source *src, const struct nf_ref *old, const struct nf_ref *now, nf_diff_fn *fn,
		       void *ctx);

/* The same, telling of each node that was opened, on which side: a node that both trees have may be opened, then on both
 * sides.  So what one tree has more of than the other is the difference of the two sides. */
int nf_tree_diff_nodes(struct nf_node_source *src, const struct nf_ref *old, const struct nf_ref *now, nf_diff_fn *fn,
		       int (*opened)(void *ctx, const struct nf_ref *ref, bool is_old), void *ctx);

/* Walks every node and calls FN for each item and NODE_FN (may be NULL) for each node's reference. */
int nf_tree_walk(struct nf_node_source *src, const struct nf_ref *root,
		 int (*item_fn)(void *ctx, const struct nf_key *key, const struct nf_val *v),
		 int (*node_fn)(void *ctx, const struct nf_ref *ref), void *ctx);
/* The same of the items with key in [FROM, TO) and the nodes on the way to them. */
int nf_tree_walk_range(struct nf_node_source *src, const struct nf_ref *root, const struct nf_key *from,
		       const struct nf_key *to,
		       int (*item_fn)(void *ctx, const struct nf_key *key, const struct nf_val *v),
		       int (*node_fn)(void *ctx, const struct nf_ref *ref), void *ctx);

#endif
