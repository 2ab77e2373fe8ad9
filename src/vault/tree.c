/* Reading: look-ups, ranges, walks.  Descending carries the bounds that the parents promise, since a node's form
 * alone does not say whether it stands where it belongs. */
#include "vault/node.h"

#include "base/assert.h"
#include "base/error.h"

bool nf_is_damage(int r)
{
	return r == -NF_E_PACK_MISSING || r == -NF_E_XFORM_BAD_TAG || r == -NF_E_TREE_BAD || r == -NF_E_XFORM_TRUNCATED ||
	       r == -NF_E_FORMAT_BAD || r == -NF_E_XFORM_DECOMPRESS || r == -NF_E_STORE_SHORT ||
	       r == -NF_E_KEY_EPOCH_UNKNOWN;
}

int nf_source_load(struct nf_node_source *src, struct nf_want *w)
{
	return w->nr ? src->load(src->ctx, w) : 0;
}

int nf_source_get(struct nf_node_source *src, const struct nf_ref *ref, const uint8_t *lo,
		  const uint8_t *hi, struct nf_node **out)
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	nf_auto(nf_node_put_p) struct nf_node *node = nf_nodes_get(src->nodes, ref);
	int r;

	if (!node) {
		r = nf_want_add(src->nodes, &w, ref);
		if (r == 0)
			r = nf_source_load(src, &w);
		if (r < 0)
			return r;
		node = nf_nodes_get(src->nodes, ref);
		if (!node)
			return nf_fail(-NF_E_TREE_BAD);
	}
	r = nf_node_check_bounds(node, lo, hi);
	if (r < 0)
		return r;
	*out = nf_steal(&node);
	return 0;
}

/* --- look-up --------------------------------------------------------------------- */

struct path {
	struct nf_node *nodes[NF_TREE_LEVELS_MAX];
	unsigned nr;
};

static void path_deinit(struct path *p)
{
	while (p->nr)
		nf_node_put(p->nodes[--p->nr]);
}

static int want_below(struct nf_nodes *n, struct nf_want *w, const struct path *p,
		      const struct nf_ref *ref)
{
	int r = 0;

	nf_want_begin(n, w);
	for (unsigned i = 0; r == 0 && i < p->nr; i++)
		r = nf_want_keep(w, p->nodes[i]);
	if (r == 0)
		r = nf_want_add(n, w, ref);
	return r < 0 ? r : NF_TREE_WANT;
}

int nf_tree_lookup(struct nf_nodes *n, const struct nf_ref *root, const struct nf_key *key,
		   struct nf_want *w, struct nf_val *out)
{
	nf_auto(path_deinit) struct path path = { .nr = 0 };
	const uint8_t *lo = NULL, *hi = NULL;
	struct nf_ref ref = *root;
	uint8_t k[NF_KEY_ENCODED];

	if (nf_ref_is_null(root))
		return NF_TREE_NONE;
	if (root->level >= NF_TREE_LEVELS_MAX)
		return nf_fail(-NF_E_TREE_BAD);
	nf_key_encode(key, k);
	for (;;) {
		struct nf_node *node = nf_nodes_get(n, &ref);
		if (!node)
			return want_below(n, w, &path, &ref);
		path.nodes[path.nr++] = node;
		int r = nf_node_check_bounds(node, lo, hi);
		if (r < 0)
			return r;
		if (ref.level == 0)
			break;
		unsigned i = nf_node_child_of(node, k);
		lo = nf_node_key(node, i);
		if (memcmp(lo, k, NF_KEY_ENCODED) > 0)
			return NF_TREE_NONE;
		if (i + 1U < node->body.nr)
			hi = nf_node_key(node, i + 1);
		nf_node_child(node, i, &ref);
	}
	struct nf_node *leaf = path.nodes[path.nr - 1];
	unsigned i = nf_node_lower(leaf, k);
	if (i == leaf->body.nr || memcmp(nf_node_key(leaf, i), k, NF_KEY_ENCODED) != 0)
		return NF_TREE_NONE;
	nf_node_borrow(leaf, i, out);
	out->pin = leaf;
	path.nr--;
	return 0;
}

/* --- ranges ---------------------------------------------------------------------- */

struct range {
	struct nf_nodes *nodes;
	struct nf_want *w;
	const uint8_t *from, *to;
	unsigned looked; /* nodes looked at while collecting what is missing */
};

/* Looking further than this for more to fetch at once costs more than it saves. */
enum { COLLECT_MAX = 8 * NF_WANT_MAX };

/* Adds what is missing of the range below REF, in key order. */
static int collect(struct range *g, const struct nf_ref *ref)
{
	if (nf_want_full(g->w) || g->looked++ > COLLECT_MAX)
		return 0;
	nf_auto(nf_node_put_p) struct nf_node *node = nf_nodes_get(g->nodes, ref);
	if (!node)
		return nf_want_add(g->nodes, g->w, ref);
	for (unsigned i = ref->level ? nf_node_child_of(node, g->from) : node->body.nr;
	     i < node->body.nr && memcmp(nf_node_key(node, i), g->to, NF_KEY_ENCODED) < 0; i++) {
		struct nf_ref child;
		nf_node_child(node, i, &child);
		if (child.level == 0 && nf_nodes_has(g->nodes, &child))
			continue;
		int r = collect(g, &child);
		if (r < 0)
			return r;
	}
	return 0;
}

static int seek(struct range *g, const struct nf_ref *ref, const uint8_t *lo, const uint8_t *hi,
		struct nf_node **leaf, unsigned *index)
{
	nf_auto(nf_node_put_p) struct nf_node *node = nf_nodes_get(g->nodes, ref);
	int r;

	if (!node)
		return NF_TREE_WANT;
	r = nf_node_check_bounds(node, lo, hi);
	if (r < 0)
		return r;
	if (ref->level == 0) {
		unsigned i = nf_node_lower(node, g->from);
		if (i == node->body.nr || memcmp(nf_node_key(node, i), g->to, NF_KEY_ENCODED) >= 0)
			return NF_TREE_NONE;
		*index = i;
		*leaf = nf_steal(&node);
		return 0;
	}
	for (unsigned i = nf_node_child_of(node, g->from); i < node->body.nr; i++) {
		const uint8_t *at = nf_node_key(node, i);
		struct nf_ref child;
		if (memcmp(at, g->to, NF_KEY_ENCODED) >= 0)
			break;
		nf_node_child(node, i, &child);
		r = seek(g, &child, at, i + 1U < node->body.nr ? nf_node_key(node, i + 1) : hi, leaf,
			 index);
		if (r == NF_TREE_WANT) {
			int kept = nf_want_keep(g->w, node);
			return kept < 0 ? kept : r;
		}
		if (r != NF_TREE_NONE)
			return r;
	}
	return NF_TREE_NONE;
}

int nf_tree_seek(struct nf_nodes *n, const struct nf_ref *root, const uint8_t from[NF_KEY_ENCODED],
		 const uint8_t to[NF_KEY_ENCODED], struct nf_want *w, struct nf_node **leaf,
		 unsigned *index)
{
	struct range g = { .nodes = n, .w = w, .from = from, .to = to };

	if (nf_ref_is_null(root) || memcmp(from, to, NF_KEY_ENCODED) >= 0)
		return NF_TREE_NONE;
	if (root->level >= NF_TREE_LEVELS_MAX)
		return nf_fail(-NF_E_TREE_BAD);
	int r = seek(&g, root, NULL, NULL, leaf, index);
	if (r != NF_TREE_WANT)
		return r;
	nf_want_begin(n, w);
	r = collect(&g, root);
	return r < 0 ? r : NF_TREE_WANT;
}

int nf_tree_next(struct nf_nodes *n, const struct nf_ref *root, const struct nf_key *from,
		 const struct nf_key *to, struct nf_want *w, struct nf_key *key_out,
		 struct nf_val *out)
{
	uint8_t f[NF_KEY_ENCODED], t[NF_KEY_ENCODED];
	struct nf_node *leaf;
	unsigned i;

	nf_key_encode(from, f);
	nf_key_encode(to, t);
	int r = nf_tree_seek(n, root, f, t, w, &leaf, &i);
	if (r)
		return r;
	nf_key_decode(nf_node_key(leaf, i), key_out);
	nf_node_borrow(leaf, i, out);
	out->pin = leaf;
	return 0;
}

/* --- walks ----------------------------------------------------------------------- */

struct walk {
	struct nf_node_source *src;
	int (*item_fn)(void *ctx, const struct nf_key *key, const struct nf_val *v);
	int (*node_fn)(void *ctx, const struct nf_ref *ref);
	void *ctx;
	const uint8_t *from, *to; /* encoded keys; NULL: all */
};

/* The entries of NODE that the walk wants: [*FIRST, *END). */
static void walk_entries(const struct walk *k, const struct nf_node *node, unsigned *first, unsigned *end)
{
	*first = k->from ? node->ref.level ? nf_node_child_of(node, k->from) : nf_node_lower(node, k->from) : 0;
	*end = k->to ? nf_node_lower(node, k->to) : node->body.nr;
}

static int walk_leaf(struct walk *k, struct nf_node *leaf)
{
	unsigned first, end;

	walk_entries(k, leaf, &first, &end);
	for (unsigned i = first; i < end; i++) {
		struct nf_key key;
		struct nf_val v;
		nf_key_decode(nf_node_key(leaf, i), &key);
		nf_node_borrow(leaf, i, &v);
		int r = k->item_fn(k->ctx, &key, &v);
		if (r)
			return r;
	}
	return 0;
}

/* Loads the children [I, END) of NODE that are missing, as many as go at once. */
static int walk_ahead(struct walk *k, struct nf_node *node, unsigned i, unsigned end, struct nf_want *w)
{
	struct nf_ref child;
	int r = 0;

	nf_node_child(node, i, &child);
	if (nf_nodes_has(k->src->nodes, &child))
		return 0;
	nf_want_deinit(w);
	for (; r == 0 && i < end && !nf_want_full(w); i++) {
		nf_node_child(node, i, &child);
		if (!nf_nodes_has(k->src->nodes, &child))
			r = nf_want_add(k->src->nodes, w, &child);
	}
	return r < 0 ? r : nf_source_load(k->src, w);
}

static int walk(struct walk *k, const struct nf_ref *ref, const uint8_t *lo, const uint8_t *hi)
{
	nf_auto(nf_want_deinit) struct nf_want ahead = NF_WANT_INIT;
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;
	int r = k->node_fn ? k->node_fn(k->ctx, ref) : 0;

	if (r || (ref->level == 0 && !k->item_fn))
		return r;
	r = nf_source_get(k->src, ref, lo, hi, &node);
	if (r < 0)
		return r;
	if (ref->level == 0)
		return walk_leaf(k, node);
	unsigned first, end;
	walk_entries(k, node, &first, &end);
	for (unsigned i = first; r == 0 && i < end; i++) {
		struct nf_ref child;
		nf_node_child(node, i, &child);
		if (child.level || k->item_fn)
			r = walk_ahead(k, node, i, end, &ahead);
		if (r == 0)
			r = walk(k, &child, nf_node_key(node, i),
				 i + 1U < node->body.nr ? nf_node_key(node, i + 1) : hi);
	}
	return r;
}

static int walk_root(struct walk *k, const struct nf_ref *root)
{
	if (nf_ref_is_null(root))
		return 0;
	if (root->level >= NF_TREE_LEVELS_MAX)
		return nf_fail(-NF_E_TREE_BAD);
	return walk(k, root, NULL, NULL);
}

int nf_tree_walk(struct nf_node_source *src, const struct nf_ref *root,
		 int (*item_fn)(void *ctx, const struct nf_key *key, const struct nf_val *v),
		 int (*node_fn)(void *ctx, const struct nf_ref *ref), void *ctx)
{
	struct walk k = { .src = src, .item_fn = item_fn, .node_fn = node_fn, .ctx = ctx };

	return walk_root(&k, root);
}

int nf_tree_walk_range(struct nf_node_source *src, const struct nf_ref *root, const struct nf_key *from,
		       const struct nf_key *to,
		       int (*item_fn)(void *ctx, const struct nf_key *key, const struct nf_val *v),
		       int (*node_fn)(void *ctx, const struct nf_ref *ref), void *ctx)
{
	uint8_t f[NF_KEY_ENCODED], t[NF_KEY_ENCODED];
	struct walk k = { .src = src, .item_fn = item_fn, .node_fn = node_fn, .ctx = ctx, .from = f, .to = t };

	nf_key_encode(from, f);
	nf_key_encode(to, t);
	return walk_root(&k, root);
}
