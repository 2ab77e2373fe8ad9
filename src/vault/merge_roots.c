/* vault/merge_roots.c - which heads a merged tree says it was made on top of.
 *
 *        P ---- A1 ---- A2      a collector lets P go and deletes what only P named
 *         `
 *          --- B1               made by a machine that did not know: what B1 shares with P alone is not there any more
 *
 * Both sides' deltas are in the merged tree, and it is whole.  But B1 cannot be shown as a commit that is kept, so it is not
 * listed: nor is anything from there to the leaf.  That P was let go is seen in the merged tree: one side has its ROOT item,
 * and the other has not, or said that it goes.  All of this depends on the store's content only. */
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/gc.h"

#include <inttypes.h>

static int put(struct nf_layer *l, const struct nf_key *key, struct nf_buf *b)
{
	int r = nf_buf_error(b);
	if (r == 0)
		r = nf_layer_put(l, key, b->p, b->len);
	nf_buf_deinit(b);
	return r;
}

/* 0, NF_TREE_NONE or negative; blocks. */
static int has_item(struct nf_vault *v, const struct nf_view *view, const struct nf_key *key)
{
	struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	int r;

	while ((r = nf_view_lookup(view, key, &w, &val)) == NF_TREE_WANT) {
		r = v->src.load(v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	nf_val_deinit(&val);
	nf_want_deinit(&w);
	return r;
}

struct roots {
	struct nf_vault *v;
	struct nf_merged *m;
	struct nf_view merged, other; /* trees */
	uint64_t since;               /* a head's seq */
	bool gone;
};

static struct nf_view merged_view(struct nf_vault *v, const struct nf_merged *m)
{
	return (struct nf_view){ .nodes = v->nodes, .base = m->base->root, .layers = { m->layer } };
}

/* --- heads of one side that have lost what they stood on ------------------------------- */

static int stood_on(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct roots *t = ctx;

	(void)val;
	int r = has_item(t->v, &t->merged, key);
	t->gone = t->gone || r == NF_TREE_NONE;
	return NF_MIN(r, 0);
}

/* Did a collector let go what LEAF's side was made on, when it parted from what has the dots LACKS?  The first head that LACKS
 * has not was made on one whose seq is one less. */
static int was_let_go(struct nf_vault *v, struct nf_merged *m, const struct nf_head *leaf, const struct nf_vector *lacks, uint64_t *since,
		      bool *gone)
{
	struct roots t = { .v = v, .m = m, .merged = merged_view(v, m) };

	*gone = false;
	int r = nf_merge_parted(v, leaf, lacks, since);
	if (r || *since == 0)
		return NF_MIN(r, 0);
	const struct nf_key from = { .type = NF_ITEM_ROOT, .a = *since - 1 }, to = { .type = NF_ITEM_ROOT, .a = *since };
	r = nf_gc_range(&v->src, &leaf->root, &from, &to, stood_on, &t);
	*gone = t.gone;
	return r;
}

static int drop_root(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct roots *t = ctx;

	(void)val;
	int r = has_item(t->v, &t->other, key);
	return r == NF_TREE_NONE ? nf_layer_remove(t->m->layer, key) : NF_MIN(r, 0);
}

/* The base is on the side that did not know: what it lists since then goes, but for what OTHER lists as well. */
static int drop_roots(struct nf_vault *v, struct nf_merged *m, const struct nf_head *other, uint64_t since)
{
	const struct nf_key from = { .type = NF_ITEM_ROOT, .a = since }, to = { .type = NF_ITEM_ROOT + 1 };
	struct roots t = { .v = v, .m = m, .other = { .nodes = v->nodes, .base = other->root } };

	return nf_gc_range(&v->src, &m->base->root, &from, &to, drop_root, &t);
}

/* --- heads of the other sides ------------------------------------------------------------- */

/* One ROOT item that only the other tree has.  One of a head from before the trees parted was let go by a collector on the
 * side of the base; one that the merged tree says is gone, by that of a third. */
static int take_root(void *ctx, const struct nf_key *key, const struct nf_val *old, const struct nf_val *now)
{
	const struct roots *t = ctx;
	struct nf_root_item item;
	struct nf_buf b = NF_BUF_INIT;
	const void *value;
	size_t len;

	if (key->ino || key->type > NF_ITEM_ROOT)
		return NF_TREE_STOP;
	if (key->type != NF_ITEM_ROOT || old || !now || key->a < t->since ||
	    nf_layer_get(t->m->layer, key, &value, &len) == NF_LAYER_GONE)
		return 0;
	int r = nf_root_decode(now->p, now->len, &now->self, &item);
	if (r < 0)
		return nf_fail(r);
	nf_root_encode(&b, &item);
	return put(t->m->layer, key, &b);
}

/* The merged tree names the heads that LEAF was made on top of as well: a look need not read them (look_cover.c).  They come
 * early in key order, and what both trees share is not read. */
static int take_roots(struct nf_vault *v, struct nf_merged *m, const struct nf_head *leaf, uint64_t since)
{
	struct roots t = { .v = v, .m = m, .since = since };
	int r = nf_tree_diff(&v->src, &m->base->root, &leaf->root, take_root, &t);

	return r == NF_TREE_STOP ? 0 : r;
}

int nf_merge_roots(struct nf_vault *v, struct nf_merged *m, const struct nf_head *const *leaves, size_t nr, uint64_t since)
{
	uint64_t parted;
	int r = 0;

	for (size_t i = 0; r == 0 && i + 1 < nr; i++) {
		r = was_let_go(v, m, leaves[i], &m->base->vector, &parted, &m->unlisted[i]);
		if (r == 0 && !m->unlisted[i])
			r = take_roots(v, m, leaves[i], since);
		else if (r == 0)
			nf_trace(COMMIT, "merge: what head seq=%" PRIu64 " stood on was let go", leaves[i]->id.seq);
	}
	for (size_t i = 0; r == 0 && i + 1 < nr; i++) {
		bool gone;
		r = was_let_go(v, m, m->base, &leaves[i]->vector, &parted, &gone);
		if (r < 0 || !gone)
			continue;
		m->unlisted[nr - 1] = true;
		r = drop_roots(v, m, leaves[i], parted);
	}
	return r;
}

int nf_merge_parents(struct nf_layer *l, const struct nf_head *const *parents, size_t nr, const bool *unlisted)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < nr; i++) {
		const struct nf_head *h = parents[i];
		struct nf_buf b = NF_BUF_INIT;
		struct nf_key key = { .type = NF_ITEM_ROOT, .a = h->id.seq, .b = nf_get_be64(h->id.rand) };
		struct nf_root_item item = { .time_s = h->time.tv_sec, .root = h->root };
		memcpy(item.rand, h->id.rand, sizeof item.rand);
		memcpy(item.tag, h->id.tag, sizeof item.tag);
		if (!unlisted[i]) {
			nf_root_encode(&b, &item);
			r = put(l, &key, &b);
		}
		if (r < 0 || nf_ref_is_null(&h->delta))
			continue;
		struct nf_key dkey = { .type = NF_ITEM_DELTA, .a = h->writer, .b = h->writer_seq };
		struct nf_delta_item d = { .delta = h->delta, .time_s = h->time.tv_sec,
					   .head_seq = h->id.seq };
		nf_delta_item_encode(&b, &d);
		r = put(l, &dkey, &b);
	}
	return r;
}
