/* Differences: two cursors go through both trees in key order.  What a cursor stands on is an item or a
 * whole subtree not yet opened:
 *
 *     same subtree on both sides            both step over it, unread
 *     the smaller key is a subtree          it is opened
 *     the smaller key is an item            it is only on that side
 *     equal keys, one subtree higher        the higher one is opened
 *     equal keys, same level                both are opened
 *     equal keys, two items                 compared
 *
 * A subtree keeps its key for as long as it is shared, so shared ones meet. */
#include "vault/node.h"

#include "base/assert.h"
#include "base/error.h"
#include "vault/item.h"

struct level {
	struct nf_node *node;
	struct nf_want ahead; /* children loaded together */
	unsigned at;
	const uint8_t *hi;
};

struct cursor {
	struct nf_node_source *src;
	struct level stack[NF_TREE_LEVELS_MAX];
	unsigned depth;
	struct nf_ref root;
	int (*opened)(void *ctx, const struct nf_ref *ref, bool is_old); /* NULL: nobody asks */
	void *ctx;
	bool is_old;
	bool at_root; /* on the root itself, not opened */
	bool lossy;   /* a subtree that cannot be read counts as empty */
};

static const uint8_t first_key[NF_KEY_ENCODED];

static void cursor_deinit(struct cursor *c)
{
	while (c->depth) {
		struct level *l = &c->stack[--c->depth];
		nf_want_deinit(&l->ahead);
		nf_node_put(l->node);
	}
}

static int cursor_init(struct cursor *c, struct nf_node_source *src, const struct nf_ref *root)
{
	*c = (struct cursor){ .src = src, .root = *root, .at_root = !nf_ref_is_null(root) };
	return root->level < NF_TREE_LEVELS_MAX ? 0 : nf_fail(-NF_E_TREE_BAD);
}

static struct level *top(struct cursor *c) { return &c->stack[c->depth - 1]; }

static bool at_end(const struct cursor *c) { return c->depth == 0 && !c->at_root; }

/* Leaves behind nodes that are done. */
static void settle(struct cursor *c)
{
	while (c->depth && top(c)->at == top(c)->node->body.nr) {
		struct level *l = top(c);
		nf_want_deinit(&l->ahead);
		nf_node_put(l->node);
		if (--c->depth)
			top(c)->at++;
	}
}

static void step(struct cursor *c)
{
	if (c->at_root)
		c->at_root = false;
	else
		top(c)->at++;
	settle(c);
}

static const uint8_t *key_of(struct cursor *c)
{
	return c->at_root ? first_key : nf_node_key(top(c)->node, top(c)->at);
}

/* 0 for an item, otherwise 1 + the level of the subtree, whose reference is *REF. */
static unsigned height_of(struct cursor *c, struct nf_ref *ref)
{
	if (c->at_root)
		*ref = c->root;
	else if (top(c)->node->ref.level)
		nf_node_child(top(c)->node, top(c)->at, ref);
	else
		return 0;
	return ref->level + 1U;
}

/* The other side's node of this level, if it is being gone through. */
static struct nf_node *peer_of(const struct cursor *other, unsigned level)
{
	for (unsigned i = 0; i < other->depth; i++)
		if (other->stack[i].node->ref.level == level)
			return other->stack[i].node;
	return NULL;
}

/* A shared child would stand in PEER under the same key. False also when PEER cannot tell. */
static bool surely_differs(const struct nf_node *peer, const uint8_t *key, const struct nf_ref *child)
{
	struct nf_ref there;

	if (memcmp(key, nf_node_key(peer, 0), NF_KEY_ENCODED) < 0 ||
	    memcmp(key, nf_node_key(peer, peer->body.nr - 1U), NF_KEY_ENCODED) > 0)
		return false;
	unsigned i = nf_node_lower(peer, key);
	if (memcmp(nf_node_key(peer, i), key, NF_KEY_ENCODED) != 0)
		return true;
	nf_node_child(peer, i, &there);
	return !nf_ref_equal(&there, child);
}

/* Loads the subtree that C stands on, and with it siblings that will have to be opened too. */
static int load_ahead(struct cursor *c, const struct cursor *other)
{
	struct level *l = top(c);
	struct nf_nodes *nodes = c->src->nodes;
	struct nf_node *peer = peer_of(other, l->node->ref.level);
	struct nf_ref child;
	int r;

	nf_node_child(l->node, l->at, &child);
	if (nf_nodes_has(nodes, &child))
		return 0;
	nf_want_deinit(&l->ahead);
	r = nf_want_add(nodes, &l->ahead, &child);
	for (unsigned i = l->at + 1; r == 0 && peer && i < l->node->body.nr && !nf_want_full(&l->ahead); i++) {
		nf_node_child(l->node, i, &child);
		if (surely_differs(peer, nf_node_key(l->node, i), &child) && !nf_nodes_has(nodes, &child))
			r = nf_want_add(nodes, &l->ahead, &child);
	}
	return r < 0 ? r : nf_source_load(c->src, &l->ahead);
}

static int open_subtree(struct cursor *c, const struct cursor *other)
{
	const uint8_t *lo = NULL, *hi = NULL;
	struct nf_node *node;
	struct nf_ref ref;
	int r = 0;

	height_of(c, &ref);
	if (!c->at_root) {
		struct level *l = top(c);
		lo = nf_node_key(l->node, l->at);
		hi = l->at + 1U < l->node->body.nr ? nf_node_key(l->node, l->at + 1) : l->hi;
		r = load_ahead(c, other);
	}
	/* What could not be loaded may be one of those behind it. */
	if (r == 0 || (c->lossy && nf_is_damage(r)))
		r = nf_source_get(c->src, &ref, lo, hi, &node);
	if (c->lossy && nf_is_damage(r)) {
		step(c);
		return 0;
	}
	if (r < 0)
		return r;
	if (c->opened && (r = c->opened(c->ctx, &ref, c->is_old)) < 0) {
		nf_node_put(node);
		return r;
	}
	c->at_root = false;
	NF_ASSERT(c->depth < NF_TREE_LEVELS_MAX);
	c->stack[c->depth++] = (struct level){ .node = node, .hi = hi };
	settle(c);
	return 0;
}

/* --- items ------------------------------------------------------------------------- */

static int same_item(uint8_t type, const struct nf_val *old, const struct nf_val *now, bool *same)
{
	nf_auto(nf_buf_deinit) struct nf_buf x = NF_BUF_INIT;
	nf_auto(nf_buf_deinit) struct nf_buf y = NF_BUF_INIT;

	*same = false;
	if (old->len != now->len)
		return 0;
	if (!nf_item_has_refs(type) || memcmp(&old->self, &now->self, sizeof old->self) == 0) {
		*same = memcmp(old->p, now->p, old->len) == 0;
		return 0;
	}
	int r = nf_item_rebase(type, old->p, old->len, &old->self, &x);
	if (r == 0)
		r = nf_item_rebase(type, now->p, now->len, &now->self, &y);
	if (r == 0)
		r = nf_buf_error(&x);
	if (r == 0)
		r = nf_buf_error(&y);
	if (r == 0)
		*same = x.len == y.len && (x.len == 0 || memcmp(x.p, y.p, x.len) == 0);
	return r;
}

static void item_of(struct cursor *c, struct nf_key *key, struct nf_val *v)
{
	nf_key_decode(key_of(c), key);
	nf_node_borrow(top(c)->node, top(c)->at, v);
}

static int both(struct cursor *a, struct cursor *b, nf_diff_fn *fn, void *ctx)
{
	struct nf_val old, now;
	struct nf_key key;
	bool same;

	item_of(a, &key, &old);
	item_of(b, &key, &now);
	int r = same_item(key.type, &old, &now, &same);
	if (r == 0 && !same)
		r = fn(ctx, &key, &old, &now);
	step(a);
	step(b);
	return r;
}

static int one(struct cursor *c, bool is_old, nf_diff_fn *fn, void *ctx)
{
	struct nf_key key;
	struct nf_val v;

	item_of(c, &key, &v);
	int r = fn(ctx, &key, is_old ? &v : NULL, is_old ? NULL : &v);
	step(c);
	return r;
}

static int advance(struct cursor *a, struct cursor *b, nf_diff_fn *fn, void *ctx)
{
	struct nf_ref ra, rb;
	unsigned ha = at_end(a) ? 0 : height_of(a, &ra), hb = at_end(b) ? 0 : height_of(b, &rb);
	int cmp = at_end(a) ? 1 : at_end(b) ? -1 : memcmp(key_of(a), key_of(b), NF_KEY_ENCODED);

	if (ha && hb && nf_ref_equal(&ra, &rb)) {
		step(a);
		step(b);
		return 0;
	}
	if (cmp < 0)
		return ha ? open_subtree(a, b) : one(a, true, fn, ctx);
	if (cmp > 0)
		return hb ? open_subtree(b, a) : one(b, false, fn, ctx);
	if (ha == 0 && hb == 0)
		return both(a, b, fn, ctx);
	int r = ha >= hb ? open_subtree(a, b) : 0;
	if (r == 0 && hb >= ha)
		r = open_subtree(b, a);
	return r;
}

static int diff(struct nf_node_source *src, const struct nf_ref *old, const struct nf_ref *now, bool lossy, nf_diff_fn *fn,
		int (*opened)(void *ctx, const struct nf_ref *ref, bool is_old), void *ctx)
{
	nf_auto(cursor_deinit) struct cursor a = { .depth = 0 };
	nf_auto(cursor_deinit) struct cursor b = { .depth = 0 };
	int r = cursor_init(&a, src, old);

	if (r == 0)
		r = cursor_init(&b, src, now);
	a.opened = b.opened = opened;
	a.ctx = b.ctx = ctx;
	a.is_old = true;
	a.lossy = lossy;
	while (r == 0 && !(at_end(&a) && at_end(&b)))
		r = advance(&a, &b, fn, ctx);
	return r;
}

int nf_tree_diff_nodes(struct nf_node_source *src, const struct nf_ref *old, const struct nf_ref *now, nf_diff_fn *fn,
		       int (*opened)(void *ctx, const struct nf_ref *ref, bool is_old), void *ctx)
{
	return diff(src, old, now, false, fn, opened, ctx);
}

int nf_tree_diff_lossy(struct nf_node_source *src, const struct nf_ref *old, const struct nf_ref *now, nf_diff_fn *fn,
		       void *ctx)
{
	return diff(src, old, now, true, fn, NULL, ctx);
}

int nf_tree_diff(struct nf_node_source *src, const struct nf_ref *old, const struct nf_ref *now, nf_diff_fn *fn,
		 void *ctx)
{
	return nf_tree_diff_nodes(src, old, now, fn, NULL, ctx);
}
