/* vault/gc_mark.c - which packs are named, and for how much.
 *
 *   leaf            walked whole: live = what it names
 *     | difference  live changes by what one names and the other does not
 *   root before     ...
 *
 * What an earlier run found of these trees is not looked for again (gc_marks.h): of the leaf then only the difference to the
 * leaf of that run is read.  A pack that is live at one of the kept roots is needed.  The differences skip shared subtrees, so all roots
 * together cost what changed between them. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/gc.h"
#include "vault/node.h"

#include <stdio.h>

/* --- items ------------------------------------------------------------------------- */

int nf_gc_range(struct nf_node_source *src, const struct nf_ref *root, const struct nf_key *from, const struct nf_key *to,
		int (*fn)(void *ctx, const struct nf_key *key, const struct nf_val *val), void *ctx)
{
	struct nf_key at = *from, key;
	int r;

	for (;;) {
		struct nf_want w = NF_WANT_INIT;
		struct nf_val val = { 0 };
		while ((r = nf_tree_next(src->nodes, root, &at, to, &w, &key, &val)) == NF_TREE_WANT) {
			r = src->load(src->ctx, &w);
			if (r < 0)
				break;
			w.nr = 0;
		}
		if (r == 0)
			r = fn(ctx, &key, &val);
		nf_val_deinit(&val);
		nf_want_deinit(&w);
		if (r)
			return r == NF_TREE_NONE ? 0 : r;
		at = key;
		if (++at.b == 0)
			at.a++;
	}
}

static int add_condemned(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_pack_id id;
	int64_t date;

	nf_condemned_pack(key, &id);
	int r = nf_condemned_decode(val->p, val->len, &date);
	if (r < 0)
		return nf_fail(r);
	struct nf_pack_entry *e = nf_pack_set_get(ctx, &id);
	if (!e)
		return nf_fail(-ENOMEM);
	e->condemned = true;
	e->condemned_s = date;
	return 0;
}

int nf_gc_condemned(struct nf_node_source *src, const struct nf_ref *root, struct nf_pack_set *set)
{
	const struct nf_key from = { .type = NF_ITEM_CONDEMNED }, to = { .type = NF_ITEM_CONDEMNED + 1 };

	return nf_gc_range(src, root, &from, &to, add_condemned, set);
}

int nf_gc_window(struct nf_node_source *src, const struct nf_val *val, uint32_t block_bytes, struct nf_extent_ref *ref,
		 struct nf_block_ref out[NF_WINDOW_BLOCKS])
{
	struct nf_want w = NF_WANT_INIT;

	int r = nf_extent_ref_decode(val->p, val->len, &val->self, true, ref);
	if (r == NF_TREE_NONE)
		return nf_extent_decode(val->p, val->len, &val->self, block_bytes, out, NULL);
	while (r == 0 && (r = nf_extent_resolve(src->nodes, ref, block_bytes, &w, out)) == NF_TREE_WANT) {
		r = src->load(src->ctx, &w);
		w.nr = 0;
	}
	nf_want_deinit(&w);
	return r;
}

/* The block size is not known here; it is only needed to tell a full block from a short one. */
static int extent_packs(struct nf_node_source *src, const struct nf_val *val,
			int (*fn)(void *ctx, const struct nf_pack_id *pack, uint32_t bytes, uint32_t epoch), void *ctx)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref = { 0 };

	int r = nf_gc_window(src, val, 1u << NF_BLOCK_SHIFT_MAX, &ref, refs);
	if (r == 0 && !nf_ref_is_null(&ref.leaf))
		r = fn(ctx, &ref.leaf.pack, ref.leaf.sealed_len, ref.leaf.epoch);
	for (int b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++)
		if (refs[b].sealed_len)
			r = fn(ctx, &refs[b].pack, refs[b].sealed_len, refs[b].epoch);
	return r;
}

int nf_item_packs(struct nf_node_source *src, const struct nf_key *key, const struct nf_val *val,
		  int (*fn)(void *ctx, const struct nf_pack_id *pack, uint32_t bytes, uint32_t epoch), void *ctx)
{
	struct nf_xattr_entry e;
	size_t pos = 0;
	int r = 0;

	if (key->type == NF_ITEM_EXTENT)
		return extent_packs(src, val, fn, ctx);
	if (key->type != NF_ITEM_XATTR)
		return 0;
	while (r == 0 && (r = nf_xattr_iter(val->p, val->len, &val->self, &pos, &e)) == 0)
		if (e.is_blob)
			r = fn(ctx, &e.blob.pack, e.blob.sealed_len, e.blob.epoch);
	return r < 0 ? r : 0;
}

/* --- one root ------------------------------------------------------------------------ */

/* The difference of two roots, aside until it is whole. */
struct step {
	struct nf_gc *g;
	struct nf_pack_set packs;
	int sign;
	bool stays; /* nothing is made that could say that it stands elsewhere */
};

static int count_pack(void *ctx, const struct nf_pack_id *pack, uint32_t bytes, uint32_t epoch)
{
	struct step *s = ctx;
	struct nf_pack_entry *e = nf_pack_set_get(&s->packs, pack);

	if (!e)
		return nf_fail(-ENOMEM);
	e->live_bytes += s->sign * (int64_t)bytes;
	e->stay_bytes += s->stays ? s->sign * (int64_t)bytes : 0;
	e->old_bytes += epoch < s->g->epoch ? s->sign * (int64_t)bytes : 0;
	return 0;
}

static int count_value(struct step *s, const struct nf_key *key, const struct nf_val *val, int sign)
{
	s->sign = sign;
	s->stays = key->type == NF_ITEM_XATTR;
	return val ? nf_item_packs(&s->g->src, key, val, count_pack, s) : 0;
}

static int differs(void *ctx, const struct nf_key *key, const struct nf_val *old, const struct nf_val *now)
{
	int r = count_value(ctx, key, old, -1);
	return r < 0 ? r : count_value(ctx, key, now, 1);
}

static int opened(void *ctx, const struct nf_ref *ref, bool is_old)
{
	struct step *s = ctx;

	s->sign = is_old ? -1 : 1;
	s->stays = false;
	return count_pack(s, &ref->pack, ref->sealed_len, ref->epoch);
}

static int walked_item(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	return count_value(ctx, key, val, 1);
}

static int walked_node(void *ctx, const struct nf_ref *ref) { return opened(ctx, ref, false); }

/* Brings a step into the sums. */
static int fold(struct nf_gc *g, const struct step *s)
{
	for (struct nf_pack_entry *d = nf_pack_set_first(&s->packs); d; d = nf_pack_set_next(d)) {
		struct nf_pack_entry *e = nf_pack_set_get(&g->packs, &d->id);
		if (!e)
			return nf_fail(-ENOMEM);
		e->live_bytes += d->live_bytes;
		e->stay_bytes += d->stay_bytes;
		e->old_bytes += d->old_bytes;
	}
	return 0;
}

/* The same of one that is remembered. */
static int recall(struct nf_gc *g, struct nf_gc_step *s)
{
	for (size_t i = 0; i < s->nr; i++) {
		struct nf_pack_entry *e = nf_pack_set_get(&g->packs, &s->sums[i].pack);
		if (!e)
			return nf_fail(-ENOMEM);
		e->live_bytes += s->sums[i].live_bytes;
		e->stay_bytes += s->sums[i].stay_bytes;
		e->old_bytes += s->sums[i].old_bytes;
	}
	s->used = true;
	return 0;
}

static void judge(struct nf_gc *g, bool kept)
{
	for (struct nf_pack_entry *e = nf_pack_set_first(&g->packs); e; e = nf_pack_set_next(e)) {
		if (e->live_bytes <= 0)
			continue;
		e->known = true;
		if (!kept)
			continue;
		e->needed = true;
		e->pinned = e->pinned || e->stay_bytes > 0;
		e->most_bytes = NF_MAX(e->most_bytes, e->live_bytes);
		e->most_old_bytes = NF_MAX(e->most_old_bytes, e->old_bytes);
	}
}

/* --- a root that is damaged --------------------------------------------------------- */

static int need(void *ctx, const struct nf_pack_id *pack, uint32_t bytes, uint32_t epoch)
{
	struct nf_gc *g = ctx;
	struct nf_pack_entry *e = nf_pack_set_get(&g->packs, pack);

	if (!e)
		return nf_fail(-ENOMEM);
	e->known = e->needed = true;
	e->most_bytes = NF_MAX(e->most_bytes, (int64_t)bytes);
	if (epoch < g->epoch)
		e->most_old_bytes = NF_MAX(e->most_old_bytes, (int64_t)bytes);
	return 0;
}

/* What can still be read of it is kept, and what could not be read may come back. */
static int need_what_is_left(struct nf_gc *g, const struct nf_ref *ref)
{
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;

	int r = need(g, &ref->pack, ref->sealed_len, ref->epoch);
	if (r == 0)
		r = nf_source_get(&g->src, ref, NULL, NULL, &node);
	if (r < 0)
		return nf_is_damage(r) ? 0 : r;
	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		if (ref->level) {
			struct nf_ref child;
			nf_node_child(node, i, &child);
			r = need_what_is_left(g, &child);
		} else {
			struct nf_key key;
			struct nf_val val;
			nf_key_decode(nf_node_key(node, i), &key);
			nf_node_borrow(node, i, &val);
			r = nf_item_packs(&g->src, &key, &val, need, g);
			r = nf_is_damage(r) ? 0 : r;
		}
	}
	return r;
}

/* --- all of them ---------------------------------------------------------------------- */

static int walk(struct step *s, const struct nf_ref *from, const struct nf_ref *to)
{
	nf_pack_set_deinit(&s->packs);
	return from ? nf_tree_diff_nodes(&s->g->src, from, to, differs, opened, s)
		    : nf_tree_walk(&s->g->src, to, walked_item, walked_node, s);
}

/* All that the leaf names. */
static int mark_leaf(struct nf_gc *g, const struct nf_ref *leaf)
{
	struct nf_gc_step *known = nf_gc_marks_find(&g->marks, NULL, leaf), *whole = g->marks.whole;
	struct step s = { .g = g };
	int r = 0;

	if (known)
		return recall(g, known);
	if (whole)
		r = walk(&s, &whole->to, leaf);
	/* What it stood on may be gone. */
	if (!whole || nf_is_damage(r)) {
		r = walk(&s, NULL, leaf);
		whole = NULL;
	}
	if (r == 0 && whole)
		r = recall(g, whole);
	if (r == 0)
		r = fold(g, &s);
	if (whole)
		whole->used = false; /* this one stands for it from now on */
	if (r == 0)
		r = nf_gc_marks_put(&g->marks, NULL, leaf, &g->packs);
	nf_pack_set_deinit(&s.packs);
	return r;
}

static int mark_root(struct nf_gc *g, const struct nf_ref *from, const struct nf_gc_root *root)
{
	struct nf_gc_step *known = from ? nf_gc_marks_find(&g->marks, from, &root->root) : NULL;
	struct step s = { .g = g };

	if (!from)
		return mark_leaf(g, &root->root);
	if (known)
		return recall(g, known);
	int r = walk(&s, from, &root->root);
	if (r == 0)
		r = fold(g, &s);
	if (r == 0)
		r = nf_gc_marks_put(&g->marks, from, &root->root, &s.packs);
	nf_pack_set_deinit(&s.packs);
	return r;
}

static int load(void *ctx, struct nf_want *w)
{
	struct nf_gc *g = ctx;

	uint64_t began_ns = nf_clock_ns(), missing = 0;
	struct nf_vault *v = g->v;

	int r = nf_gc_goes_on(&g->pace);
	if (r == 0 && g->o.idle && g->surveying) {
		nf_lock_take(&v->ns);
		r = nf_gc_may_idle_locked(v) ? 0 : nf_fail(-NF_E_CANCELLED);
		nf_lock_drop(&v->ns);
	}
	for (size_t i = 0; i < w->nr; i++)
		missing += !v->cache || nf_cache_present(v->cache, &w->refs[i].pack, w->refs[i].offset_bytes,
							 w->refs[i].sealed_len) < w->refs[i].sealed_len;
	/* Each run gets somewhere, however little it may. */
	if (r == 0 && missing && g->o.max_nodes && g->r.fetched_nodes >= g->o.max_nodes)
		r = nf_fail(-NF_E_GC_TOO_MUCH);
	g->r.nodes += w->nr;
	g->r.fetched_nodes += missing;
	if (r == 0)
		r = g->o.idle ? nf_fetch_load_behind(v->fetch, w) : v->src.load(v->src.ctx, w);
	if (missing)
		nf_gc_rest(&g->pace, began_ns);
	return r;
}

struct nf_node_source nf_gc_source(struct nf_gc *g)
{
	return (struct nf_node_source){ .nodes = g->v->nodes, .load = load, .ctx = g };
}

static int mark_deltas(struct nf_gc *g)
{
	for (size_t i = 0; i < g->nr_deltas; i++) {
		struct nf_pack_entry *e = nf_pack_set_get(&g->packs, &g->deltas[i].delta.pack);
		if (!e)
			return nf_fail(-ENOMEM);
		e->known = true;
		if (!g->deltas[i].kept)
			continue;
		e->needed = true;
		e->most_bytes = NF_MAX(e->most_bytes, (int64_t)g->deltas[i].delta.sealed_len);
		/* No tree names it: it comes on top. */
		e->most_old_bytes += g->deltas[i].delta.epoch < g->epoch ? (int64_t)g->deltas[i].delta.sealed_len : 0;
	}
	return 0;
}

int nf_gc_mark(struct nf_gc *g)
{
	const struct nf_ref *from = NULL;

	int r = nf_gc_marks_load(g->v, g->epoch, &g->marks);
	if (r < 0)
		return r;
	for (size_t i = g->nr_roots; i-- > 0;) {
		struct nf_gc_root *root = &g->roots[i];
		r = mark_root(g, from, root);
		/* Of the leaf everything must be known; what is gone of others does not come back by collecting nothing. */
		if (nf_is_damage(r) && from) {
			root->broken = true;
			g->r.damaged_roots += root->kept;
			r = root->kept ? need_what_is_left(g, &root->root) : 0;
		} else if (r == 0) {
			judge(g, root->kept);
			from = &root->root;
		}
		if (r < 0)
			return r;
	}
	return mark_deltas(g);
}

/* --- the store ------------------------------------------------------------------------- */

static int take_pack(struct nf_gc *g, const char *dir, const struct nf_store_entry *from)
{
	struct nf_pack_id id;

	if (from->is_dir || nf_pack_name_parse(dir, from->name, &id) < 0)
		return 0; /* not ours */
	struct nf_pack_entry *e = nf_pack_set_get(&g->packs, &id);
	if (!e)
		return nf_fail(-ENOMEM);
	e->listed = true;
	e->size_bytes = from->size_bytes;
	e->mtime_s = from->mtime_s;
	return 0;
}

static int list_dir(struct nf_gc *g, const char *dir, bool top)
{
	struct nf_store_op op = { .verb = NF_STORE_LIST, .priority = NF_STORE_BACKGROUND };

	uint64_t began_ns = nf_clock_ns();
	int r = nf_gc_goes_on(&g->pace);
	if (r < 0)
		return r;
	(void)snprintf(op.name, sizeof op.name, top ? "%s" : "packs/%s", dir);
	r = nf_store_run(g->v->store, &op);
	nf_gc_rest(&g->pace, began_ns);
	if (r == -NF_E_STORE_NOT_FOUND)
		r = 0; /* empty directories may go */
	for (size_t i = 0; r == 0 && i < op.nr_entries; i++) {
		if (!top)
			r = take_pack(g, dir, &op.entries[i]);
		else if (op.entries[i].is_dir && strlen(op.entries[i].name) == 2)
			r = list_dir(g, op.entries[i].name, false);
	}
	nf_store_op_deinit(&op);
	return r;
}

int nf_gc_list(struct nf_gc *g) { return list_dir(g, "packs", true); }
