/* vault/gc_move.c - taking what is still named out of packs that are to go.
 *
 *   blocks, deltas   copied into new packs (gc_copy.c).  For the newest tree a MOVE operation says where blocks are now, a
 *                    RESEAL operation also how they are sealed; both do nothing to blocks that were written since
 *   nodes            of the newest tree: a leaf below them is marked, the next commit writes it anew, and so all that
 *                    lead to it; of older trees: gc_trees.c */
#include "base/error.h"
#include "base/mem.h"
#include "vault/gc_work.h"

enum {
	TOUCH_MAX = 1 << 20,
	WINDOWS_PER_OP = 64,
};

/* --- the newest tree ---------------------------------------------------------------------------- */

struct telling {
	struct nf_gc_work *w;
	struct nf_buf windows, olds; /* as they are now; as they were */
	bool resealed;               /* the two differ in more than the place */
	uint64_t ino;
	uint32_t nr;
	unsigned touch; /* nodes passed that want a key below them marked */
};

static int flush(struct telling *t)
{
	struct nf_op op = { .kind = t->resealed ? NF_OP_RESEAL : NF_OP_MOVE, .conflict_mode = NF_MODE_STASH,
			    .time = nf_clock_real(), .ino = t->ino, .windows = t->windows.p,
			    .windows_len = t->windows.len, .nr_windows = t->nr, .olds = t->olds.p, .olds_len = t->olds.len };

	if (!t->nr)
		return 0;
	int r = nf_buf_error(&t->windows);
	if (r == 0)
		r = nf_buf_error(&t->olds);
	if (r == 0)
		r = nf_vault_do_waiting(t->w->m.v, &op);
	t->w->r.ops += r == 0;
	t->windows.len = t->olds.len = 0;
	t->resealed = false;
	t->nr = 0;
	return r;
}

static int touch(struct telling *t, const struct nf_key *key)
{
	struct nf_vault *v = t->w->m.v;
	int r = 0;

	t->touch = 0;
	nf_lock_take(&v->ns);
	struct nf_key *p = v->nr_touched < TOUCH_MAX ? realloc(v->touched, (v->nr_touched + 1) * sizeof *p) : NULL;
	if (p) {
		v->touched = p;
		p[v->nr_touched++] = *key;
		t->w->r.nodes++;
	} else {
		r = nf_fail(-ENOMEM);
	}
	nf_lock_drop(&v->ns);
	return r;
}

static void put_window(struct nf_buf *out, const struct nf_key *key, const struct nf_block_ref refs[NF_WINDOW_BLOCKS],
		       const bool known[NF_WINDOW_BLOCKS], uint32_t block_bytes)
{
	struct nf_buf value = NF_BUF_INIT;

	nf_extent_encode(&value, refs, known, block_bytes, false);
	nf_buf_u64(out, key->a);
	nf_buf_str16(out, value.p, value.len);
	out->failed |= value.failed;
	nf_buf_deinit(&value);
}

static int tell_window(struct telling *t, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_gc_work *w = t->w;
	struct nf_block_ref refs[NF_WINDOW_BLOCKS], were[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS] = { false };
	struct nf_extent_ref ref = { 0 };
	bool any = false, resealed = false;

	int r = nf_gc_window(w->m.src, val, w->block_bytes, &ref, refs);
	if (r < 0)
		return r;
	memcpy(were, refs, sizeof were);
	/* A leaf that a whole window is named by goes: from now on the window names its blocks itself. */
	bool all = !nf_ref_is_null(&ref.leaf) && nf_gc_goes(w, &ref.leaf.pack);
	for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
		if (!refs[b].sealed_len)
			continue;
		known[b] = nf_gc_placed(w, &refs[b]) || all;
		any |= known[b];
		resealed |= memcmp(refs[b].tag, were[b].tag, sizeof refs[b].tag) != 0;
	}
	if (!any)
		return 0;
	if (t->nr && (t->ino != key->ino || t->nr == WINDOWS_PER_OP))
		r = flush(t);
	t->ino = key->ino;
	t->nr++;
	t->resealed |= resealed;
	put_window(&t->windows, key, refs, known, w->block_bytes);
	put_window(&t->olds, key, were, known, w->block_bytes);
	return r;
}

/* Marks the first item below REF, of a tree of which nothing else is to be told. */
static int touch_below(struct telling *t, const struct nf_ref *ref)
{
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;
	struct nf_ref child;
	struct nf_key key;

	int r = nf_source_get(t->w->m.src, ref, NULL, NULL, &node);
	if (r < 0)
		return r;
	if (ref->level) {
		nf_node_child(node, 0, &child);
		return child.level + 1 == ref->level ? touch_below(t, &child) : nf_fail(-NF_E_TREE_BAD);
	}
	nf_key_decode(nf_node_key(node, 0), &key);
	return node->body.nr ? touch(t, &key) : 0;
}

static int tell_below(struct telling *t, const struct nf_ref *ref)
{
	struct nf_gc_work *w = t->w;
	struct nf_gc_node *known = nf_gc_node_find(w, ref);
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;

	if (!known || !known->touched)
		return 0;
	int r = nf_source_get(w->m.src, ref, NULL, NULL, &node);
	t->touch += r == 0 && nf_gc_goes(w, &ref->pack);
	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		struct nf_key key;
		struct nf_val val;
		if (ref->level) {
			struct nf_ref child;
			nf_node_child(node, i, &child);
			/* What leads to this one wants it, if it does not itself. */
			struct nf_gc_node *c = nf_gc_node_find(w, &child);
			r = t->touch && c && !c->touched ? touch_below(t, &child) : tell_below(t, &child);
			continue;
		}
		nf_key_decode(nf_node_key(node, i), &key);
		if (t->touch)
			r = touch(t, &key);
		nf_node_borrow(node, i, &val);
		if (r == 0)
			r = nf_gc_step(w, &key, &val);
		if (r == 0 && key.type == NF_ITEM_EXTENT)
			r = tell_window(t, &key, &val);
	}
	return r;
}

int nf_gc_empty_op(struct nf_vault *v)
{
	struct nf_op op = { .kind = NF_OP_COLLECT, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(),
			    .item = NF_ITEM_CONDEMNED };

	return nf_vault_do_waiting(v, &op);
}

static int tell_newest(struct nf_gc_work *w)
{
	struct telling t = { .w = w };

	w->tree = w->m.leaf;
	w->ino = 0;
	int r = nf_ref_is_null(w->m.leaf) ? 0 : tell_below(&t, w->m.leaf);
	if (r == 0)
		r = flush(&t);
	nf_buf_deinit(&t.windows);
	nf_buf_deinit(&t.olds);
	return r;
}

int nf_gc_name(const struct nf_gc_work *w, const struct nf_pack_id *pack)
{
	struct nf_vault *v = w->m.v;

	nf_lock_take(&v->ns);
	int r = nf_named_add_locked(v, pack, w->since_s);
	if (r == 0) {
		struct nf_pack_entry *e = nf_pack_set_find(&v->named, pack);
		e->awaited = true;
		e->awaited_seq = UINT64_MAX;
	}
	nf_lock_drop(&v->ns);
	return r;
}

/* The operations are in the current epoch, or in one before it. */
static void names_told(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	for (struct nf_pack_entry *e = nf_pack_set_first(&v->named); e; e = nf_pack_set_next(e))
		if (e->awaited && e->awaited_seq == UINT64_MAX)
			e->awaited_seq = v->current->seq;
	nf_lock_drop(&v->ns);
}

int nf_gc_move(const struct nf_gc_move *m, struct nf_gc_moved *out)
{
	struct nf_gc_work w = { .m = *m };

	nf_lock_take(&m->v->ns);
	w.since_s = m->v->look_date_s;
	nf_lock_drop(&m->v->ns);
	w.codec = nf_codec_get(m->v->ring);
	w.epoch = nf_ring_newest(m->v->ring);
	int r = w.codec ? 0 : nf_fail(-ENOMEM);
	if (r == 0)
		r = nf_gc_plan(&w);
	if (r == 0 && !m->dry_run && m->from->nr) {
		r = nf_gc_copy(&w);
		if (r == 0)
			r = tell_newest(&w);
		if (r == 0)
			r = nf_gc_place(&w);
		if (r == 0 && w.r.nodes && !w.r.ops)
			r = nf_gc_empty_op(m->v);
		names_told(m->v);
	}
	nf_gc_work_deinit(&w);
	if (r == 0)
		*out = w.r;
	return r;
}
