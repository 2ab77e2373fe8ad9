/* vault/gc_trees.c - trees of kept commits and of snapshots, written anew where they name what was moved.
 *
 *     root --> inner --> leaf [ .. block in a pack that goes .. ]
 *      '         '        '    becomes the same leaf, naming the new place
 *      '         '-------- whatever leads there, and nodes that stand in such a pack themselves
 *
 * A node is written once, however many trees have it, so trees share afterwards what they shared before.  What a tree says
 * does not change.  A PLACE operation tells which item names which tree from now on. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/gc_work.h"

enum { PLACES_PER_OP = 1000 };

struct writing {
	struct nf_gc_work *w;
	struct nf_meta_pack meta;
	struct nf_buf places; /* of the operation under construction */
	uint32_t nr_places;
};

/* Entries of one new node. */
struct entries {
	struct nf_buf bytes;
	uint32_t *starts;
	unsigned nr, cap;
};

static void entries_deinit(struct entries *e)
{
	nf_buf_deinit(&e->bytes);
	free(e->starts);
}

static int entry_begin(struct entries *e, const uint8_t key[NF_KEY_ENCODED])
{
	if (e->nr == e->cap) {
		unsigned cap = e->cap ? 2 * e->cap : 256;
		uint32_t *p = realloc(e->starts, cap * sizeof *p);
		if (!p)
			return nf_fail(-ENOMEM);
		e->starts = p;
		e->cap = cap;
	}
	e->starts[e->nr++] = (uint32_t)e->bytes.len;
	nf_buf_bytes(&e->bytes, key, NF_KEY_ENCODED);
	return 0;
}

/* --- packs --------------------------------------------------------------------------- */

static int send(struct nf_meta_pack *m)
{
	struct writing *t = m->ctx;
	struct nf_vault *v = t->w->m.v;
	struct iovec iov = { m->bytes.p, m->bytes.len };
	/* Its name stands in references already. */
	struct nf_pack_put put = { .store = v->store, .cache = v->cache, .iov = &iov, .nr_iov = 1, .stop = t->w->m.pace.stop,
				   .given_id = true, .id = m->id };

	if (!m->bytes.len)
		return 0;
	uint64_t began_ns = nf_clock_ns();
	int r = nf_pack_put(&put);
	nf_gc_rest(&t->w->m.pace, began_ns);
	if (r == 0)
		r = nf_gc_name(t->w, &m->id);
	m->bytes.len = 0;
	nf_pack_id_random(&m->id);
	return r;
}

/* Nodes of at most the proper size from the entries; they stand for the old one. */
static int emit(struct writing *t, unsigned level, const struct entries *e, struct nf_gc_node *g)
{
	struct nf_buf plain = NF_BUF_INIT;
	int r = nf_buf_error(&e->bytes);

	for (unsigned from = 0, to; r == 0 && from < e->nr; from = to) {
		size_t end = 0;
		for (to = from; to < e->nr; to++) {
			size_t next = to + 1 < e->nr ? e->starts[to + 1] : e->bytes.len;
			if (to > from && next - e->starts[from] > NF_NODE_PAYLOAD)
				break;
			end = next;
		}
		struct nf_gc_entry *now = realloc(g->now, (g->nr + 1) * sizeof *now);
		if (!now)
			return nf_buf_deinit(&plain), nf_fail(-ENOMEM);
		g->now = now;
		plain.len = 0;
		nf_buf_u8(&plain, (uint8_t)level);
		nf_buf_u8(&plain, 0);
		nf_buf_u16(&plain, (uint16_t)(to - from));
		nf_buf_bytes(&plain, e->bytes.p + e->starts[from], end - e->starts[from]);
		r = nf_buf_error(&plain);
		memcpy(now[g->nr].key, e->bytes.p + e->starts[from], NF_KEY_ENCODED);
		if (r == 0)
			r = nf_meta_pack_emit(&t->meta, level, plain.p, plain.len, &now[g->nr].ref);
		g->nr += r == 0;
	}
	nf_buf_deinit(&plain);
	return r;
}

/* --- nodes -------------------------------------------------------------------------------- */

/* An EXTENT value with the new places; *CHANGED if there are any.  The block size is needed only to tell full blocks from
 * short ones, on the way in and on the way out. */
static int extent(struct writing *t, const struct nf_val *val, struct nf_buf *out, bool *changed)
{
	struct nf_gc_work *w = t->w;
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS] = { false }, any = false;
	struct nf_extent_ref ref = { 0 };
	const uint32_t bs = 1u << NF_BLOCK_SHIFT_MAX;

	int r = nf_gc_window(w->m.src, val, bs, &ref, refs);
	if (r < 0)
		return r;
	any = !nf_ref_is_null(&ref.leaf) && nf_gc_goes(w, &ref.leaf.pack);
	for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
		known[b] = refs[b].sealed_len != 0;
		if (known[b])
			any |= nf_gc_placed(w, &refs[b]);
	}
	if (!any)
		return nf_extent_rebase(val->p, val->len, &val->self, out);
	*changed = true;
	nf_extent_encode(out, refs, known, bs, false);
	return nf_buf_error(out);
}

static int leaf_entries(struct writing *t, struct nf_node *node, struct entries *e, bool *changed)
{
	struct nf_buf value = NF_BUF_INIT;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		struct nf_key key;
		struct nf_val val;
		value.len = 0;
		nf_key_decode(nf_node_key(node, i), &key);
		nf_node_borrow(node, i, &val);
		r = key.type == NF_ITEM_EXTENT ? extent(t, &val, &value, changed)
					       : nf_item_rebase(key.type, val.p, val.len, &val.self, &value);
		if (r == 0)
			r = entry_begin(e, nf_node_key(node, i));
		nf_buf_str16(&e->bytes, value.p, value.len);
	}
	nf_buf_deinit(&value);
	return r;
}

static int write_node(struct writing *t, const struct nf_ref *ref, struct nf_gc_node **out);

static int inner_entries(struct writing *t, struct nf_node *node, struct entries *e, bool *changed)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		struct nf_gc_node *g = NULL;
		struct nf_ref child;
		nf_node_child(node, i, &child);
		r = write_node(t, &child, &g);
		*changed |= g && g->nr;
		for (unsigned k = 0; r == 0 && k < (g && g->nr ? g->nr : 1); k++) {
			/* The first keeps the key that leads there: it may be less than the subtree's first. */
			r = entry_begin(e, k ? g->now[k].key : nf_node_key(node, i));
			nf_ref_encode(&e->bytes, g && g->nr ? &g->now[k].ref : &child);
		}
	}
	return r;
}

/* *OUT says what stands for REF (nothing: it stays as it is). */
static int write_node(struct writing *t, const struct nf_ref *ref, struct nf_gc_node **out)
{
	struct nf_gc_node *g = nf_gc_node_find(t->w, ref);
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;
	nf_auto(entries_deinit) struct entries e = { 0 };
	bool changed = nf_gc_goes(t->w, &ref->pack);

	*out = g;
	if (!g || !g->touched || g->written)
		return 0;
	int r = nf_gc_goes_on(&t->w->m.pace);
	if (r < 0)
		return r;
	r = nf_source_get(t->w->m.src, ref, NULL, NULL, &node);
	if (r == 0)
		r = ref->level ? inner_entries(t, node, &e, &changed) : leaf_entries(t, node, &e, &changed);
	if (r == 0 && changed)
		r = emit(t, ref->level, &e, g);
	g->written = r == 0;
	return r;
}

/* A root that grew into several nodes gets one above them. */
static int one_root(struct writing *t, unsigned level, struct nf_gc_node *g)
{
	nf_auto(entries_deinit) struct entries e = { 0 };
	int r = level + 1 < NF_TREE_LEVELS_MAX ? 0 : nf_fail(-EFBIG);

	for (unsigned i = 0; r == 0 && i < g->nr; i++) {
		r = entry_begin(&e, g->now[i].key);
		nf_ref_encode(&e.bytes, &g->now[i].ref);
	}
	g->nr = 0;
	return r < 0 ? r : emit(t, level + 1, &e, g);
}

/* --- items --------------------------------------------------------------------------------- */

static int places_flush(struct writing *t)
{
	struct nf_op op = { .kind = NF_OP_PLACE, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(),
			    .places = t->places.p, .nr_places = t->nr_places };

	if (!t->nr_places)
		return 0;
	/* Whatever names a pack is said only once the pack is there. */
	int r = send(&t->meta);
	if (r == 0)
		r = nf_buf_error(&t->places);
	if (r == 0)
		r = nf_vault_do_waiting(t->w->m.v, &op);
	t->w->r.ops += r == 0;
	t->places.len = 0;
	t->nr_places = 0;
	return r;
}

static int place(struct writing *t, const struct nf_place *p)
{
	nf_place_encode(&t->places, p);
	return ++t->nr_places == PLACES_PER_OP ? places_flush(t) : 0;
}

static int place_root(struct writing *t, const struct nf_gc_root *root)
{
	struct nf_place p = { .key = root->key, .old = root->root };
	struct nf_gc_node *g;

	int r = write_node(t, &root->root, &g);
	if (r < 0 || !g || !g->nr)
		return r;
	for (unsigned level = root->root.level; r == 0 && g->nr > 1; level++)
		r = one_root(t, level, g);
	if (r < 0)
		return r;
	p.now = g->now[0].ref;
	if (root->key.type == NF_ITEM_SNAPSHOT)
		memcpy(p.rand, root->rand, sizeof p.rand);
	t->w->r.trees++;
	return place(t, &p);
}

static int place_delta(struct writing *t, const struct nf_gc_delta *d)
{
	struct nf_place p = { .key = d->key, .old = d->delta };

	return nf_gc_delta_placed(t->w, d, &p.now) ? place(t, &p) : 0;
}

int nf_gc_place(struct nf_gc_work *w)
{
	struct writing t = { .w = w };
	int r = 0;

	t.meta = (struct nf_meta_pack){ .codec = w->codec, .full = send, .ctx = &t,
					.max_bytes = NF_MIN((uint64_t)NF_PACK_MAX_BYTES,
							    atomic_load(&w->m.v->store->max_put_bytes)) };
	nf_pack_id_random(&t.meta.id);
	for (size_t i = w->m.nr_roots; r == 0 && i-- > 0;) {
		const struct nf_gc_root *root = &w->m.roots[i];
		if (root->kept && !root->broken && root->key.type && !nf_ref_is_null(&root->root))
			r = place_root(&t, root);
	}
	for (size_t i = 0; r == 0 && i < w->m.nr_deltas; i++)
		if (w->m.deltas[i].kept)
			r = place_delta(&t, &w->m.deltas[i]);
	if (r == 0)
		r = places_flush(&t);
	nf_buf_deinit(&t.places);
	nf_buf_deinit(&t.meta.bytes);
	return r;
}
