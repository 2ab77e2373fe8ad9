#include "base/avl.h"

#include "base/assert.h"

void nf_avl_init(struct nf_avl *t, void (*update)(struct nf_avl_node *n))
{
	t->root = NULL;
	t->update = update;
}

static int height(const struct nf_avl_node *n) { return n ? n->height : 0; }

static void refresh(struct nf_avl *t, struct nf_avl_node *n)
{
	int l = height(n->child[0]), r = height(n->child[1]);
	n->height = 1 + (l > r ? l : r);
	if (t->update)
		t->update(n);
}

static void replace_child(struct nf_avl *t, struct nf_avl_node *parent, struct nf_avl_node *old,
			  struct nf_avl_node *now)
{
	if (!parent)
		t->root = now;
	else
		parent->child[parent->child[1] == old] = now;
	if (now)
		now->parent = parent;
}

/* Lifts N's child on the side opposite to SIDE above N. */
static struct nf_avl_node *rotate(struct nf_avl *t, struct nf_avl_node *n, int side)
{
	struct nf_avl_node *up = n->child[!side];

	replace_child(t, n->parent, n, up);
	n->child[!side] = up->child[side];
	if (n->child[!side])
		n->child[!side]->parent = n;
	up->child[side] = n;
	n->parent = up;
	refresh(t, n);
	refresh(t, up);
	return up;
}

/* N's subtrees may have another height than N knows.  Ends where the height is what it was: nobody above can tell, and the
 * nodes up there, with their children, are memory that no cache may hold. */
static void rebalance_up(struct nf_avl *t, struct nf_avl_node *n)
{
	for (; n; n = n->parent) {
		int was = n->height;
		refresh(t, n);
		int lean = height(n->child[1]) - height(n->child[0]);
		if (lean < -1 || lean > 1) {
			int heavy = lean > 0;
			struct nf_avl_node *c = n->child[heavy];
			if (height(c->child[!heavy]) > height(c->child[heavy]))
				rotate(t, c, heavy);
			n = rotate(t, n, !heavy);
		}
		if (n->height == was)
			break;
	}
	if (n)
		nf_avl_touch(t, n->parent);
}

void nf_avl_insert(struct nf_avl *t, struct nf_avl_node *parent, int side, struct nf_avl_node *n)
{
	n->parent = parent;
	n->child[0] = n->child[1] = NULL;
	n->height = 1;
	if (!parent) {
		NF_ASSERT(!t->root);
		t->root = n;
	} else {
		NF_ASSERT(!parent->child[side]);
		parent->child[side] = n;
	}
	if (t->update)
		t->update(n);
	rebalance_up(t, parent);
}

void nf_avl_erase(struct nf_avl *t, struct nf_avl_node *n)
{
	struct nf_avl_node *fix;

	if (n->child[0] && n->child[1]) {
		/* The next node has no left child; it takes N's place. */
		struct nf_avl_node *next = n->child[1];
		while (next->child[0])
			next = next->child[0];
		fix = next->parent == n ? next : next->parent;
		replace_child(t, next->parent, next, next->child[1]);
		replace_child(t, n->parent, n, next);
		next->height = n->height;
		for (int s = 0; s < 2; s++) {
			next->child[s] = n->child[s];
			if (next->child[s])
				next->child[s]->parent = next;
		}
	} else {
		fix = n->parent;
		replace_child(t, n->parent, n, n->child[n->child[0] == NULL]);
	}
	n->parent = n->child[0] = n->child[1] = NULL;
	n->height = 0;
	rebalance_up(t, fix);
}

void nf_avl_touch(struct nf_avl *t, struct nf_avl_node *n)
{
	if (t->update)
		for (; n; n = n->parent)
			t->update(n);
}

static struct nf_avl_node *end_of(struct nf_avl_node *n, int side)
{
	while (n && n->child[side])
		n = n->child[side];
	return n;
}

struct nf_avl_node *nf_avl_first(const struct nf_avl *t) { return end_of(t->root, 0); }
struct nf_avl_node *nf_avl_last(const struct nf_avl *t) { return end_of(t->root, 1); }

static struct nf_avl_node *step(const struct nf_avl_node *n, int side)
{
	if (n->child[side])
		return end_of(n->child[side], !side);
	while (n->parent && n->parent->child[side] == n)
		n = n->parent;
	return n->parent;
}

struct nf_avl_node *nf_avl_next(const struct nf_avl_node *n) { return step(n, 1); }
struct nf_avl_node *nf_avl_prev(const struct nf_avl_node *n) { return step(n, 0); }

struct nf_avl_node *nf_avl_find(const struct nf_avl *t, const void *key, nf_avl_cmp_fn *cmp)
{
	struct nf_avl_node *n = t->root;

	while (n) {
		int c = cmp(key, n);
		if (c == 0)
			return n;
		n = n->child[c > 0];
	}
	return NULL;
}

struct nf_avl_node *nf_avl_lower(const struct nf_avl *t, const void *key, nf_avl_cmp_fn *cmp)
{
	struct nf_avl_node *n = t->root, *best = NULL;

	while (n) {
		int c = cmp(key, n);
		if (c <= 0)
			best = n;
		n = n->child[c > 0];
	}
	return best;
}

struct nf_avl_node *nf_avl_add(struct nf_avl *t, const void *key, nf_avl_cmp_fn *cmp,
			       struct nf_avl_node *n)
{
	struct nf_avl_node *at = t->root, *parent = NULL;
	int side = 0;

	while (at) {
		int c = cmp(key, at);
		if (c == 0)
			return at;
		parent = at;
		side = c > 0;
		at = at->child[side];
	}
	nf_avl_insert(t, parent, side, n);
	return NULL;
}
