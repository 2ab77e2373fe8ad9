/* vault/gc_move.c - taking what is still named out of packs that are to go.
 *
 *   blocks, deltas   sealed bytes copied into new packs.  For the newest tree a MOVE operation says where blocks are now, and
 *                    does nothing to blocks that were written since
 *   nodes            of the newest tree: a leaf below them is marked, the next commit writes it anew, and so all that
 *                    lead to it; of older trees: gc_trees.c
 *
 * Births and tags stay, so nothing is sealed again; each block is opened once on the way, so that damage is not carried on
 * as if it were whole. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/gc_work.h"

enum {
	MOVE_PACK_BYTES = 8 << 20,
	RUN_BYTES = 1 << 20,      /* read at once where objects stand together */
	TOUCH_MAX = 1 << 20,
	WINDOWS_PER_OP = 64,
};

/* --- bytes --------------------------------------------------------------------------- */

static bool is_same(const struct nf_block_ref *x, const struct nf_gc_object *y)
{
	return x->birth == y->id.birth && x->index == y->id.index && x->epoch == y->epoch &&
	       x->sealed_len == y->sealed_len && !memcmp(x->tag, y->tag, sizeof x->tag);
}

/* Where an operation of our own left the block in the journal. */
static bool find_local(const struct nf_op *op, const struct nf_gc_object *o, struct nf_journal_pos *pos)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref base;
	const uint8_t *value;
	uint64_t first;
	size_t len, at = 0;

	while (nf_op_window_iter(op, &at, &first, &value, &len) == 0) {
		if (nf_extent_patch_decode(value, len, true, 1u << NF_BLOCK_SHIFT_MAX, &base, refs, known) < 0)
			return false;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			if (!known[b] || !refs[b].sealed_len || !nf_ref_is_local(&refs[b].pack) || !is_same(&refs[b], o))
				continue;
			*pos = (struct nf_journal_pos){ nf_ref_local_segment(&refs[b].pack), refs[b].offset_bytes };
			return true;
		}
	}
	return false;
}

static int read_local(struct nf_gc_work *w, const struct nf_gc_object *o, uint8_t *buf)
{
	for (const struct nf_epoch *e = w->m.own; e && o->id.type == NF_SEAL_BLOCK; e = e->next) {
		struct nf_rd rd = nf_rd_of(e->ops.p, e->ops.len);
		struct nf_journal_pos pos;
		struct nf_op op;
		while (nf_rd_left(&rd) && nf_op_decode(&rd, NULL, &op) == 0)
			if (op.nr_windows && find_local(&op, o, &pos))
				return nf_journal_read(w->m.v->journal, pos, buf, o->sealed_len);
	}
	return nf_fail(-NF_E_PACK_MISSING);
}

/* A delta's size is bounded by the format only: it gets memory of its own. */
static int try_open(struct nf_gc_work *w, const struct nf_gc_object *o, const uint8_t *sealed)
{
	nf_auto_free uint8_t *own = o->plain_len > 1u << NF_BLOCK_SHIFT_MAX ? malloc(o->plain_len) : NULL;
	uint8_t *plain = own ? own : w->plain;

	if (o->plain_len > 1u << NF_BLOCK_SHIFT_MAX && !own)
		return nf_fail(-ENOMEM);
	return nf_codec_open(w->codec, &o->id, o->epoch, o->flags, o->tag, sealed, o->sealed_len, plain, o->plain_len);
}

/* The object's sealed bytes to BUF, whole: from our cache or the store, then the store alone, then the journal. */
static int get_object(struct nf_gc_work *w, const struct nf_gc_object *o, uint8_t *buf)
{
	struct nf_fetch *f = w->m.v->fetch;
	int r = nf_fetch_bytes(f, &o->from, o->from_bytes, o->sealed_len, buf);

	if (r == 0 && try_open(w, o, buf) == 0)
		return 0;
	if (r == 0)
		r = nf_fetch_from_store(f, &o->from, o->from_bytes, o->sealed_len, buf);
	if (r == 0)
		r = try_open(w, o, buf);
	if (nf_is_damage(r) && w->m.own && read_local(w, o, buf) == 0)
		r = try_open(w, o, buf);
	return r;
}

/* --- copying ------------------------------------------------------------------------------- */

struct copy {
	struct nf_gc_work *w;
	struct nf_buf bytes;
	struct nf_gc_object *first; /* those from here to the one at hand that are to be copied are in `bytes` */
};

/* The pack is put; what is in it stands there from now on. */
static int put_pack(struct copy *c, const struct nf_gc_object *end)
{
	struct nf_gc_work *w = c->w;
	struct iovec iov = { c->bytes.p, c->bytes.len };
	struct nf_pack_put put = { .store = w->m.v->store, .cache = w->m.v->cache, .iov = &iov, .nr_iov = 1,
				   .stop = w->m.pace.stop };

	if (c->bytes.len) {
		uint64_t began_ns = nf_clock_ns();
		int r = nf_pack_put(&put);
		nf_gc_rest(&w->m.pace, began_ns);
		if (r == 0)
			r = nf_gc_goes_on(&w->m.pace);
		if (r < 0)
			return r;
		w->r.packs++;
		w->r.bytes += c->bytes.len;
	}
	for (; c->first != end; c->first = c->first->next) {
		if (c->first->state != NF_GC_COPY)
			continue;
		c->first->state = NF_GC_PLACED;
		c->first->to = put.id;
	}
	c->bytes.len = 0;
	return 0;
}

/* Objects that stand together from O on: how many, and their bytes. */
static unsigned run_of(const struct nf_gc_object *o, uint64_t room, uint32_t *len)
{
	const struct nf_gc_object *at = o;
	unsigned nr = 0;

	for (*len = 0; at && at->state == NF_GC_COPY; at = at->next, nr++) {
		if (memcmp(&at->from, &o->from, sizeof o->from) || at->from_bytes != o->from_bytes + *len ||
		    (nr && (*len + at->sealed_len > room || *len + at->sealed_len > RUN_BYTES)))
			break;
		*len += at->sealed_len;
	}
	return nr;
}

/* The bytes of NR objects from O on, which stand together, to the end of the pack under construction. */
static int copy_run(struct copy *c, struct nf_gc_object *o, unsigned nr, uint32_t len)
{
	struct nf_gc_work *w = c->w;
	uint32_t at = 0;

	if (!nf_buf_reserve(&c->bytes, len))
		return nf_fail(-ENOMEM);
	uint8_t *buf = c->bytes.p + c->bytes.len;
	bool whole = nf_fetch_bytes(w->m.v->fetch, &o->from, o->from_bytes, len, buf) == 0;
	for (; nr; nr--, o = o->next) {
		/* `at` lags behind where O stood in the run once something was lost. */
		uint8_t *to = buf + at;
		int r = whole && try_open(w, o, to) == 0 ? 0 : get_object(w, o, to);
		if (nf_is_damage(r)) {
			o->state = NF_GC_LOST;
			w->r.lost++;
			whole = false;
			continue;
		}
		if (r < 0)
			return r;
		o->to_bytes = (uint32_t)c->bytes.len;
		c->bytes.len += o->sealed_len;
		at += o->sealed_len;
		w->r.blocks++;
	}
	return 0;
}

static int copy_all(struct nf_gc_work *w)
{
	struct copy c = { .w = w, .first = w->first };
	struct nf_gc_object *o = w->first;
	int r = 0;

	w->r.bytes = 0;
	while (r == 0 && o) {
		uint64_t max = NF_MIN((uint64_t)MOVE_PACK_BYTES, atomic_load(&w->m.v->store->max_put_bytes));
		uint32_t len;
		if (o->state != NF_GC_COPY) {
			o = o->next;
			continue;
		}
		if (c.bytes.len && c.bytes.len + o->sealed_len > max)
			r = put_pack(&c, o);
		unsigned nr = run_of(o, c.bytes.len < max ? max - c.bytes.len : 0, &len);
		if (r == 0)
			r = copy_run(&c, o, nr, len);
		for (; nr; nr--)
			o = o->next;
	}
	if (r == 0)
		r = put_pack(&c, NULL);
	nf_buf_deinit(&c.bytes);
	/* What is said to stand in a pack is looked after until that is reported. */
	for (o = w->first; r == 0 && o; o = o->next)
		if (o->state == NF_GC_PLACED && nf_gc_goes(w, &o->from))
			r = nf_named_add(w->m.v, &o->to);
	return r;
}

/* --- the newest tree ---------------------------------------------------------------------------- */

struct telling {
	struct nf_gc_work *w;
	struct nf_buf windows;
	uint64_t ino;
	uint32_t nr;
	unsigned touch; /* nodes passed that want a key below them marked */
};

static int flush(struct telling *t)
{
	struct nf_op op = { .kind = NF_OP_MOVE, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(), .ino = t->ino,
			    .windows = t->windows.p, .windows_len = t->windows.len, .nr_windows = t->nr };

	if (!t->nr)
		return 0;
	int r = nf_buf_error(&t->windows);
	if (r == 0)
		r = nf_vault_do_waiting(t->w->m.v, &op);
	t->w->r.ops += r == 0;
	t->windows.len = 0;
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

static int tell_window(struct telling *t, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_gc_work *w = t->w;
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS] = { false };
	struct nf_extent_ref ref = { 0 };
	struct nf_buf value = NF_BUF_INIT;
	bool any = false;

	int r = nf_gc_window(w->m.src, val, w->block_bytes, &ref, refs);
	/* A leaf that a whole window is named by goes: from now on the window names its blocks itself. */
	bool all = r == 0 && !nf_ref_is_null(&ref.leaf) && nf_gc_goes(w, &ref.leaf.pack);
	for (int b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++) {
		if (!refs[b].sealed_len)
			continue;
		known[b] = nf_gc_placed(w, &refs[b]) || all;
		any |= known[b];
	}
	if (r < 0 || !any)
		return r;
	if (t->nr && (t->ino != key->ino || t->nr == WINDOWS_PER_OP))
		r = flush(t);
	t->ino = key->ino;
	t->nr++;
	nf_extent_encode(&value, refs, known, w->block_bytes, false);
	nf_buf_u64(&t->windows, key->a);
	nf_buf_str16(&t->windows, value.p, value.len);
	if (r == 0)
		r = nf_buf_error(&value);
	nf_buf_deinit(&value);
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

/* A tree that was only to be written anew needs an operation to be committed with. */
static int empty_op(struct nf_vault *v)
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
	return r;
}

int nf_gc_move(const struct nf_gc_move *m, struct nf_gc_moved *out)
{
	struct nf_gc_work w = { .m = *m };

	w.plain = malloc((size_t)1 << NF_BLOCK_SHIFT_MAX);
	w.codec = nf_codec_get(m->v->ring);
	int r = w.plain && w.codec ? 0 : nf_fail(-ENOMEM);
	if (r == 0)
		r = nf_gc_plan(&w);
	if (r == 0 && !m->dry_run && m->from->nr) {
		r = copy_all(&w);
		if (r == 0)
			r = tell_newest(&w);
		if (r == 0)
			r = nf_gc_place(&w);
		if (r == 0 && w.r.nodes && !w.r.ops)
			r = empty_op(m->v);
	}
	nf_gc_work_deinit(&w);
	if (r == 0)
		*out = w.r;
	return r;
}
