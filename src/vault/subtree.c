/* vault/subtree.c - a stack of inodes; children go onto it in order of their numbers, as their items stand together then. */
#include "vault/subtree.h"

#include "base/error.h"
#include "base/mem.h"
#include "vault/apply.h"

enum { DEPTH_MAX = 4096 };

struct walk {
	struct nf_subtree *s;
	uint64_t *stack;
	size_t nr, cap;
	/* Of the inode at hand. */
	uint64_t ino;
	struct nf_inode_item item;
	bool found, shallow;
	struct nf_ref told[NF_TREE_LEVELS_MAX]; /* of each level the last: neighbours share them */
};

static int push(struct walk *k, uint64_t ino)
{
	if (k->nr == k->cap) {
		size_t cap = k->cap ? 2 * k->cap : 64;
		uint64_t *stack = reallocarray(k->stack, cap, sizeof *stack);
		if (!stack)
			return nf_fail(-ENOMEM);
		k->stack = stack;
		k->cap = cap;
	}
	k->stack[k->nr++] = ino;
	return 0;
}

static int descending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x < y) - (x > y);
}

static int see_entries(struct walk *k, const struct nf_val *v)
{
	struct nf_dirent d;
	size_t pos = 0;
	int r;

	while ((r = nf_dirent_iter(v->p, v->len, &pos, &d)) == 0) {
		r = push(k, d.ino);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : 0;
}

static int see_node(void *ctx, const struct nf_ref *ref)
{
	struct walk *k = ctx;

	if (!k->s->node || ref->level >= NF_TREE_LEVELS_MAX || nf_ref_equal(&k->told[ref->level], ref))
		return 0;
	k->told[ref->level] = *ref;
	return k->s->node(k->s->ctx, k->ino, ref);
}

/* The segments of one window, wherever they stand. */
static int segments(struct walk *k, const struct nf_val *v, struct nf_block_ref refs[NF_WINDOW_BLOCKS])
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	struct nf_node_source *src = k->s->src;
	uint32_t block_bytes = 1u << k->item.block_shift;
	struct nf_extent_ref ref;

	int r = nf_extent_ref_decode(v->p, v->len, &v->self, true, &ref);
	if (r == NF_TREE_NONE)
		return nf_extent_decode(v->p, v->len, &v->self, block_bytes, refs, NULL);
	if (r == 0)
		r = see_node(k, &ref.leaf);
	while (r == 0 && (r = nf_extent_resolve(src->nodes, &ref, block_bytes, &w, refs)) == NF_TREE_WANT) {
		r = src->load(src->ctx, &w);
		w.nr = 0;
	}
	return r;
}

static bool follows(const struct nf_block_ref *a, const struct nf_block_ref *b)
{
	return b->sealed_len && !memcmp(&a->pack, &b->pack, sizeof a->pack) && b->offset_bytes == a->offset_bytes + a->sealed_len;
}

static int see_extent(struct walk *k, const struct nf_key *key, const struct nf_val *v)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];

	int r = segments(k, v, refs);
	for (unsigned b = 0, n; r == 0 && b < NF_WINDOW_BLOCKS; b += n) {
		n = 1;
		if (!refs[b].sealed_len)
			continue;
		k->s->sealed_bytes += refs[b].sealed_len;
		for (; b + n < NF_WINDOW_BLOCKS && follows(&refs[b + n - 1], &refs[b + n]); n++)
			k->s->sealed_bytes += refs[b + n].sealed_len;
		if (k->s->run)
			r = k->s->run(k->s->ctx, k->ino, key->a + b, &refs[b], n);
	}
	return r;
}

static int see_item(void *ctx, const struct nf_key *key, const struct nf_val *v)
{
	struct walk *k = ctx;

	if (k->s->stop && *k->s->stop)
		return -NF_E_CANCELLED;
	switch (key->type) {
	case NF_ITEM_INODE:
		k->found = true;
		return nf_inode_decode(v->p, v->len, &k->item);
	case NF_ITEM_EXTENT:
		/* INODE items sort before EXTENT items. */
		return k->found && !k->shallow ? see_extent(k, key, v) : 0;
	case NF_ITEM_DIRENT:
		return k->shallow ? 0 : see_entries(k, v);
	default:
		return 0;
	}
}

/* The items of one inode; its children go onto the stack. */
static int visit(struct walk *k, uint64_t ino, bool shallow)
{
	struct nf_key from = { .ino = ino }, to = { .ino = ino + 1 };
	size_t below = k->nr;

	k->ino = ino;
	k->found = false;
	k->shallow = shallow;
	int r = nf_tree_walk_range(k->s->src, &k->s->root, &from, &to, see_item, see_node, k);
	if (k->nr > below)
		qsort(k->stack + below, k->nr - below, sizeof *k->stack, descending);
	if (r == 0 && k->found && !shallow && S_ISDIR(k->item.mode))
		k->s->dirs++;
	else if (r == 0 && k->found && !shallow)
		k->s->files++;
	return r == 0 && !k->found ? NF_TREE_NONE : r;
}

int nf_subtree_walk(struct nf_subtree *s, uint64_t ino)
{
	struct walk k = { .s = s };

	int r = visit(&k, ino, false);
	while (r == 0 && k.nr) {
		r = visit(&k, k.stack[--k.nr], false);
		if (r == NF_TREE_NONE)
			r = nf_fail(-NF_E_TREE_BAD); /* named, but not there */
	}
	free(k.stack);
	return r;
}

/* One step up; NF_TREE_NONE at the root. */
static int parent(struct nf_subtree *s, uint64_t ino, uint64_t *up)
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	struct nf_view view = { .nodes = s->src->nodes, .base = s->root };
	char name[NF_NAME_MAX + 1];
	uint8_t len;
	int r;

	if (ino == NF_INO_ROOT)
		return NF_TREE_NONE;
	while ((r = nf_view_parent(&view, ino, &w, up, name, &len)) == NF_TREE_WANT) {
		r = s->src->load(s->src->ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	return r;
}

int nf_subtree_walk_above(struct nf_subtree *s, uint64_t ino)
{
	struct walk k = { .s = s };
	int r = 0;

	for (int depth = 0; r == 0; depth++) {
		r = depth < DEPTH_MAX ? parent(s, ino, &ino) : nf_fail(-NF_E_TREE_BAD);
		if (r == 0)
			r = visit(&k, ino, true);
	}
	free(k.stack);
	return r == NF_TREE_NONE ? 0 : r;
}
