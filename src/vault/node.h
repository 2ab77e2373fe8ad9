/* vault/node.h - decoded tree nodes and what the tree's files share.  Not for other folders' use.
 *
 *     level u8 | zero u8 | entries u16 | entry ...
 *     leaf entry    key [25] | value as str16
 *     inner entry   key [25] | reference [52]
 *
 * Keys are compared as bytes, encoded.  A node's content is immutable once it is in the cache.
 * A node that a want asks for stands in the cache before its bytes do (plain NULL), pinned by the
 * want: when the bytes come they cannot be evicted before the caller has seen them. */
#ifndef NF_VAULT_NODE_H
#define NF_VAULT_NODE_H

#include "base/list.h"
#include "vault/tree.h"

enum {
	NF_NODE_HEAD = 4,
	NF_NODE_INNER_ENTRY = NF_KEY_ENCODED + NF_REF_ENCODED,
	NF_NODE_PAYLOAD = NF_NODE_MAX - NF_NODE_HEAD,
};

/* I set when created;  F set once when the bytes come, then never changed (published by the cache's
 * lock);  l cache's lock */
struct nf_node {
	struct nf_nodes *cache;   /* I */
	struct nf_ref ref;        /* I */
	struct nf_node *next;     /* l  in the hash chain */
	struct nf_list lru;       /* l  linked while it has bytes and no pin */
	unsigned pins;            /* l */
	struct nf_node_body {
		uint8_t *plain;   /* F  NULL: not here yet */
		uint16_t *starts; /* F  leaves: where each entry starts */
		uint32_t len;     /* F */
		uint16_t nr;      /* F */
	} body;
};

/* Checks the form of a node's plain bytes read at REF and indexes them; -NF_E_TREE_BAD, -ENOMEM.
 * The bytes are copied. */
int nf_node_parse(const struct nf_ref *ref, const void *plain, size_t len, struct nf_node_body *out);
void nf_node_body_deinit(struct nf_node_body *b);

static inline const uint8_t *nf_node_key(const struct nf_node *n, unsigned i)
{
	return n->body.plain + (n->ref.level ? NF_NODE_HEAD + i * (size_t)NF_NODE_INNER_ENTRY
					     : n->body.starts[i]);
}
static inline const uint8_t *nf_node_value(const struct nf_node *n, unsigned i, size_t *len)
{
	const uint8_t *p = nf_node_key(n, i) + NF_KEY_ENCODED;
	*len = nf_get_le16(p);
	return p + 2;
}
/* The child's reference, with its pack named. */
void nf_node_child(const struct nf_node *n, unsigned i, struct nf_ref *out);
/* The number of entries whose key is < KEY. */
unsigned nf_node_lower(const struct nf_node *n, const uint8_t *key);
/* The child whose subtree KEY belongs to: the last one that does not start behind it, or the first. */
unsigned nf_node_child_of(const struct nf_node *n, const uint8_t *key);
/* All keys lie in [lo, hi); NULL: unbounded.  -NF_E_TREE_BAD. */
int nf_node_check_bounds(const struct nf_node *n, const uint8_t *lo, const uint8_t *hi);
void nf_node_to_text(const struct nf_node *n, struct nf_text *t);

/* --- cache --------------------------------------------------------------------- */

/* The node pinned, or NULL if it is not in the cache. */
struct nf_node *nf_nodes_get(struct nf_nodes *n, const struct nf_ref *ref);
void nf_node_put(struct nf_node *n); /* NULL allowed */
static inline void nf_node_put_p(struct nf_node **n) { nf_node_put(*n); }

/* Asks for REF: lists it and keeps a place for it, pinned by W. No-op when W is full or already asks for it. */
int nf_want_add(struct nf_nodes *n, struct nf_want *w, const struct nf_ref *ref);
/* Keeps NODE (another pin) until nf_want_deinit(). */
int nf_want_keep(struct nf_want *w, struct nf_node *node);
/* Forgets what the cache has meanwhile; called before a new round of asking. */
void nf_want_begin(struct nf_nodes *n, struct nf_want *w);
static inline bool nf_want_full(const struct nf_want *w) { return w->nr == NF_WANT_MAX; }

/* --- callers that may block ------------------------------------------------------ */

/* Loads what W asks for, if anything; W's pins keep it. */
int nf_source_load(struct nf_node_source *src, struct nf_want *w);
/* The node of a child that is to lie in [lo, hi), pinned; loads it if absent. */
int nf_source_get(struct nf_node_source *src, const struct nf_ref *ref, const uint8_t *lo,
		  const uint8_t *hi, struct nf_node **out);

/* The first leaf entry with key in [from, to): *LEAF pinned, *INDEX.  As nf_tree_next(). */
int nf_tree_seek(struct nf_nodes *n, const struct nf_ref *root, const uint8_t from[NF_KEY_ENCODED],
		 const uint8_t to[NF_KEY_ENCODED], struct nf_want *w, struct nf_node **leaf,
		 unsigned *index);
/* OUT borrows entry I of LEAF without a pin of its own. */
void nf_node_borrow(struct nf_node *leaf, unsigned i, struct nf_val *out);

#endif
