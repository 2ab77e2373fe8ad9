/* Random batches on a tree in an in-memory store, against a plain sorted array.  Retained roots are kept with
 * their arrays, so that any two can be compared.  NF_SEED=n replays. */
#include "base/error.h"
#include "suite.h"
#include "tree_store.h"
#include "vault/item.h"
#include "vault/layer.h"

#include <stdio.h>

/* A value is made from its seed: the array stays small. */
struct row {
	struct nf_key key;
	uint32_t seed;
	uint32_t len;
	size_t pack; /* what "this pack" is in a value with a reference */
};
struct model {
	struct row *rows;
	size_t nr;
};
struct state {
	struct model m;
	struct nf_ref root;
};

enum { KEEP = 6, KEYS_INO = 40 };

struct world {
	struct store s;
	struct nf_prng rng;
	struct state kept[KEEP];
	bool big_values;
	unsigned spread_max, spread_budget;
};

static uint64_t below(struct world *w, uint64_t n) { return nf_prng_below(&w->rng, n); }

/* Blocks with gaps, in segments of random length. */
static void extent_of(struct nf_prng *p, size_t pack, struct nf_buf *out)
{
	struct nf_block_ref b[NF_WINDOW_BLOCKS] = { 0 };
	size_t end = 1 + nf_prng_below(p, NF_WINDOW_BLOCKS);
	for (size_t i = nf_prng_below(p, end); i < end; i++) {
		bool run = i && b[i - 1].sealed_len && nf_prng_below(p, 8);
		b[i].pack = store_pack_id(pack);
		b[i].sealed_len = nf_prng_below(p, 9) ? 1000 : 0;
		b[i].plain_len = nf_prng_below(p, 5) ? 4096 : 17;
		b[i].offset_bytes = run ? b[i - 1].offset_bytes + 1000 : (uint32_t)nf_prng_below(p, 100000);
		b[i].index = run ? b[i - 1].index + 1 : 0;
		b[i].epoch = 1;
	}
	nf_extent_encode(out, b, NULL, 4096, false);
}

/* PACK 0: with "this pack" left as it is. */
static void value_of(const struct row *r, struct nf_buf *out)
{
	struct nf_prng p;
	nf_prng_seed(&p, r->seed);
	if (r->key.type == NF_ITEM_ROOT) {
		struct nf_root_item i = { .time_s = r->seed };
		i.root = (struct nf_ref){ .offset_bytes = r->seed % 1000, .sealed_len = 100, .plain_len = 60,
					  .epoch = 1, .pack = store_pack_id(r->pack) };
		nf_root_encode(out, &i);
		return;
	}
	if (r->key.type == NF_ITEM_EXTENT) {
		extent_of(&p, r->pack, out);
		return;
	}
	for (uint32_t i = 0; i < r->len; i++)
		nf_buf_u8(out, (uint8_t)nf_prng_next(&p));
}

static struct nf_key random_key(struct world *w)
{
	static const uint8_t types[] = { NF_ITEM_INODE, NF_ITEM_EXTENT, NF_ITEM_EXTENT, NF_ITEM_DIRENT,
					 NF_ITEM_ROOT };
	struct nf_key k = { .ino = below(w, KEYS_INO), .type = types[below(w, sizeof types)] };
	if (k.type != NF_ITEM_INODE)
		k.a = below(w, 64) * 128;
	if (k.type == NF_ITEM_DIRENT)
		k.a = nf_prng_next(&w->rng) >> 2, k.b = below(w, 4);
	return k;
}

static uint32_t random_len(struct world *w)
{
	if (!w->big_values)
		return (uint32_t)below(w, 120);
	switch (below(w, 4)) {
	case 0: return NF_VALUE_MAX - (uint32_t)below(w, 3);
	case 1: return (uint32_t)below(w, NF_VALUE_MAX + 1);
	case 2: return 0;
	default: return (uint32_t)below(w, 300);
	}
}

static int row_cmp(const void *x, const void *y)
{
	const struct row *a = x, *b = y;
	return nf_key_cmp(&a->key, &b->key);
}

static size_t model_lower(const struct model *m, const struct nf_key *k)
{
	size_t lo = 0, hi = m->nr;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (nf_key_cmp(&m->rows[mid].key, k) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* --- a batch -------------------------------------------------------------------- */

struct batch {
	struct row *rows; /* len UINT32_MAX: removed */
	size_t nr;
	struct nf_cutout cuts[4];
	size_t nr_cuts;
};
#define REMOVED UINT32_MAX

static void sort_rows(struct batch *b)
{
	if (b->nr)
		qsort(b->rows, b->nr, sizeof *b->rows, row_cmp);
	size_t kept = 0;
	for (size_t i = 0; i < b->nr; i++)
		if (i == 0 || row_cmp(&b->rows[kept - 1], &b->rows[i]) != 0)
			b->rows[kept++] = b->rows[i];
	b->nr = kept;
}

static struct batch random_batch(struct world *w, const struct model *m)
{
	struct batch b = { .nr = 0 };
	size_t n = below(w, 6) ? below(w, 30) : below(w, w->big_values ? 300 : 4000);
	unsigned removals = below(w, 4) ? 30 : 90; /* percent */
	b.rows = calloc(n + 1, sizeof *b.rows);
	for (; b.nr < n; b.nr++) {
		struct row *r = &b.rows[b.nr];
		r->key = m->nr && below(w, 2) ? m->rows[below(w, m->nr)].key : random_key(w);
		r->seed = (uint32_t)nf_prng_next(&w->rng);
		r->len = below(w, 100) < removals ? REMOVED : random_len(w);
	}
	sort_rows(&b);
	uint64_t ino = below(w, KEYS_INO);
	while (below(w, 3) == 0 && b.nr_cuts < 4 && ino < KEYS_INO) {
		struct nf_cutout *c = &b.cuts[b.nr_cuts++];
		if (below(w, 2)) {
			c->from = (struct nf_key){ .ino = ino };
			ino += 1 + below(w, 3);
			c->to = (struct nf_key){ .ino = ino };
		} else {
			c->from = (struct nf_key){ .ino = ino, .type = NF_ITEM_EXTENT, .a = below(w, 64 * 128) };
			c->to = (struct nf_key){ .ino = ino, .type = NF_ITEM_EXTENT + 1 };
			ino++;
		}
		ino += below(w, 5);
	}
	return b;
}

static bool is_cut(const struct batch *b, const struct nf_key *k)
{
	for (size_t i = 0; i < b->nr_cuts; i++)
		if (nf_key_cmp(k, &b->cuts[i].from) >= 0 && nf_key_cmp(k, &b->cuts[i].to) < 0)
			return true;
	return false;
}

static struct model model_apply(const struct model *m, const struct batch *b, size_t pack)
{
	struct model out = { .rows = calloc(m->nr + b->nr + 1, sizeof *out.rows) };
	size_t i = 0, j = 0;
	while (i < m->nr || j < b->nr) {
		int c = i == m->nr ? 1 : j == b->nr ? -1 : row_cmp(&m->rows[i], &b->rows[j]);
		if (c < 0) {
			if (!is_cut(b, &m->rows[i].key))
				out.rows[out.nr++] = m->rows[i];
		} else if (b->rows[j].len != REMOVED) {
			out.rows[out.nr] = b->rows[j];
			out.rows[out.nr++].pack = pack;
		}
		i += c <= 0;
		j += c >= 0;
	}
	return out;
}

/* Applies B to FROM; checks that the writer kept its rules. */
static void apply(struct world *w, const struct state *from, const struct batch *b, struct state *to)
{
	struct nf_node_source src = store_source(&w->s);
	struct nf_tree_writer writer = { .emit = store_emit, .ctx = &w->s, .spread_max = w->spread_max,
					 .spread_budget_nodes = w->spread_budget };
	struct nf_change *c = calloc(b->nr + 1, sizeof *c);
	struct nf_buf values = NF_BUF_INIT;
	size_t *at = calloc(b->nr + 1, sizeof *at);
	size_t pack = store_begin(&w->s);

	for (size_t i = 0; i < b->nr; i++) {
		at[i] = values.len;
		if (b->rows[i].len != REMOVED)
			value_of(&b->rows[i], &values);
	}
	nf_buf_reserve(&values, 1);
	for (size_t i = 0; i < b->nr; i++)
		if ((c[i].key = b->rows[i].key, b->rows[i].len != REMOVED))
			c[i].value = values.p + at[i], c[i].len = (i + 1 < b->nr ? at[i + 1] : values.len) - at[i];
	ck_assert_int_eq(nf_tree_update(&src, &from->root, c, b->nr, b->cuts, b->nr_cuts, &writer, &to->root), 0);
	if (nf_ref_equal(&to->root, &from->root))
		ck_assert_uint_eq(w->s.emitted, 0);
	store_name(&to->root, pack);
	to->m = model_apply(&from->m, b, pack);
	free(c);
	free(at);
	nf_buf_deinit(&values);
}

/* --- comparing ------------------------------------------------------------------ */

static void expect_value(const struct row *r, const struct nf_val *v)
{
	struct nf_buf want = NF_BUF_INIT, have = NF_BUF_INIT;
	value_of(r, &want);
	ck_assert_int_eq(nf_item_rebase(r->key.type, v->p, v->len, &v->self, &have), 0);
	ck_assert_uint_eq(want.len, have.len);
	ck_assert(want.len == 0 || memcmp(want.p, have.p, want.len) == 0);
	nf_buf_deinit(&want);
	nf_buf_deinit(&have);
}

struct walked {
	const struct model *m;
	size_t at, nodes, small;
	bool inner_alone;
};

static int walk_item(void *ctx, const struct nf_key *key, const struct nf_val *v)
{
	struct walked *k = ctx;
	ck_assert_uint_lt(k->at, k->m->nr);
	ck_assert_int_eq(nf_key_cmp(key, &k->m->rows[k->at].key), 0);
	expect_value(&k->m->rows[k->at++], v);
	return 0;
}

static int walk_node(void *ctx, const struct nf_ref *ref)
{
	struct walked *k = ctx;
	k->nodes++;
	k->small += ref->plain_len < NF_NODE_MAX / 4 - 100;
	return 0;
}

static void expect_tree(struct world *w, const struct state *st)
{
	struct nf_node_source src = store_source(&w->s);
	struct walked k = { .m = &st->m };
	ck_assert_int_eq(nf_tree_walk(&src, &st->root, walk_item, walk_node, &k), 0);
	ck_assert_uint_eq(k.at, st->m.nr);
	ck_assert(nf_ref_is_null(&st->root) == (st->m.nr == 0));
	/* Only the last node of a level may be small. */
	ck_assert_uint_le(k.small, nf_ref_is_null(&st->root) ? 0 : st->root.level + 1U);
	if (st->root.level) {
		struct nf_node *root;
		ck_assert_int_eq(nf_source_get(&src, &st->root, NULL, NULL, &root), 0);
		ck_assert_uint_gt(root->body.nr, 1);
		nf_node_put(root);
	}
}

static void expect_lookup(struct world *w, const struct state *st)
{
	struct nf_want want = NF_WANT_INIT;
	struct nf_key k = st->m.nr && below(w, 2) ? st->m.rows[below(w, st->m.nr)].key : random_key(w);
	size_t i = model_lower(&st->m, &k);
	bool there = i < st->m.nr && nf_key_cmp(&st->m.rows[i].key, &k) == 0;
	struct nf_val v;
	int r;
	while ((r = nf_tree_lookup(w->s.nodes, &st->root, &k, &want, &v)) == NF_TREE_WANT)
		store_load_some(&w->s, &want);
	ck_assert_int_eq(r, there ? 0 : NF_TREE_NONE);
	if (there) {
		expect_value(&st->m.rows[i], &v);
		nf_val_deinit(&v);
	}
	nf_want_deinit(&want);
}

static void expect_range(struct world *w, const struct state *st)
{
	struct nf_want want = NF_WANT_INIT;
	struct nf_key from = random_key(w), to = random_key(w), key;
	struct nf_val v;
	size_t i = model_lower(&st->m, &from), end = model_lower(&st->m, &to);
	for (;;) {
		int r = nf_tree_next(w->s.nodes, &st->root, &from, &to, &want, &key, &v);
		if (r == NF_TREE_WANT) {
			store_load_some(&w->s, &want);
			continue;
		}
		if (r == NF_TREE_NONE)
			break;
		ck_assert_int_eq(r, 0);
		ck_assert_uint_lt(i, end);
		ck_assert_int_eq(nf_key_cmp(&key, &st->m.rows[i].key), 0);
		expect_value(&st->m.rows[i++], &v);
		nf_val_deinit(&v);
		from = key;
		from.b++;
		if (below(w, 50) == 0)
			nf_want_deinit(&want);
	}
	ck_assert_uint_ge(i, end);
	nf_want_deinit(&want);
}

struct diffed {
	const struct model *a, *b;
	size_t i, j;
};

static bool same_row(const struct row *x, const struct row *y)
{
	if (x->seed == y->seed && x->len == y->len && x->pack == y->pack)
		return true;
	struct nf_buf p = NF_BUF_INIT, q = NF_BUF_INIT;
	value_of(x, &p);
	value_of(y, &q);
	bool same = p.len == q.len && (p.len == 0 || memcmp(p.p, q.p, p.len) == 0);
	nf_buf_deinit(&p);
	nf_buf_deinit(&q);
	return same;
}

/* Moves to the next difference between the arrays; -1: only in a, 1: only in b, 0: both, 2: none. */
static int next_difference(struct diffed *d)
{
	for (;; d->i++, d->j++) {
		bool ea = d->i == d->a->nr, eb = d->j == d->b->nr;
		if (ea && eb)
			return 2;
		int c = ea ? 1 : eb ? -1 : row_cmp(&d->a->rows[d->i], &d->b->rows[d->j]);
		if (c)
			return c < 0 ? -1 : 1;
		if (!same_row(&d->a->rows[d->i], &d->b->rows[d->j]))
			return 0;
	}
}

static int diff_item(void *ctx, const struct nf_key *key, const struct nf_val *old, const struct nf_val *now)
{
	struct diffed *d = ctx;
	int c = next_difference(d);
	ck_assert_int_ne(c, 2);
	ck_assert_int_eq(c, !now ? -1 : !old ? 1 : 0);
	if (old) {
		ck_assert_int_eq(nf_key_cmp(key, &d->a->rows[d->i].key), 0);
		expect_value(&d->a->rows[d->i++], old);
	}
	if (now) {
		ck_assert_int_eq(nf_key_cmp(key, &d->b->rows[d->j].key), 0);
		expect_value(&d->b->rows[d->j++], now);
	}
	return 0;
}

static struct nf_ref *seen;
static size_t nr_seen;

static int collect_node(void *ctx, const struct nf_ref *ref)
{
	(void)ctx;
	seen = realloc(seen, (nr_seen + 1) * sizeof *seen);
	seen[nr_seen++] = *ref;
	return 0;
}

static int ref_order(const void *x, const void *y) { return memcmp(x, y, sizeof(struct nf_ref)); }

static struct nf_ref *shared;
static size_t nr_shared;

/* A load that refuses what both trees have. */
static int load_unshared(void *ctx, struct nf_want *w)
{
	for (size_t i = 0; i < w->nr; i++)
		for (size_t j = 0; j < nr_shared; j++)
			ck_assert_msg(!nf_ref_equal(&w->refs[i], &shared[j]), "a shared node is read");
	return store_load(ctx, w);
}

static void find_shared(struct world *w, const struct state *x, const struct state *y)
{
	struct nf_node_source src = store_source(&w->s);
	nr_seen = nr_shared = 0;
	ck_assert_int_eq(nf_tree_walk(&src, &x->root, NULL, collect_node, NULL), 0);
	size_t nr_x = nr_seen;
	ck_assert_int_eq(nf_tree_walk(&src, &y->root, NULL, collect_node, NULL), 0);
	if (nr_x)
		qsort(seen, nr_x, sizeof *seen, ref_order);
	for (size_t i = nr_x; i < nr_seen; i++) {
		if (nr_x && bsearch(&seen[i], seen, nr_x, sizeof *seen, ref_order)) {
			shared = realloc(shared, (nr_shared + 1) * sizeof *shared);
			shared[nr_shared++] = seen[i];
		}
	}
}

static void expect_diff(struct world *w, const struct state *x, const struct state *y)
{
	struct store cold = w->s; /* the same packs behind an empty cache */
	struct nf_node_source src = { .load = load_unshared, .ctx = &cold };
	struct diffed d = { .a = &x->m, .b = &y->m };
	find_shared(w, x, y);
	ck_assert_int_eq(nf_nodes_new(64 << 10, &cold.nodes), 0);
	src.nodes = cold.nodes;
	ck_assert_int_eq(nf_tree_diff(&src, &x->root, &y->root, diff_item, &d), 0);
	ck_assert_int_eq(next_difference(&d), 2);
	nf_nodes_free(cold.nodes);
}

static uint64_t seed_of(uint64_t loop)
{
	const char *e = getenv("NF_SEED");
	uint64_t seed;
	if (e)
		seed = strtoull(e, NULL, 0);
	else
		nf_random(&seed, sizeof seed);
	printf("# seed %llu (loop %llu)\n", (unsigned long long)seed, (unsigned long long)loop);
	fflush(stdout);
	return seed;
}

static void world_init(struct world *w, uint64_t seed, size_t cache_bytes)
{
	memset(w, 0, sizeof *w);
	nf_prng_seed(&w->rng, seed);
	store_init(&w->s, cache_bytes, seed);
}

static void world_deinit(struct world *w)
{
	for (unsigned i = 0; i < KEEP; i++)
		free(w->kept[i].m.rows);
	store_deinit(&w->s);
	free(seen);
	free(shared);
	seen = shared = NULL;
	nr_seen = nr_shared = 0;
}

/* A step from a random retained state to another. */
static struct state *random_step(struct world *w)
{
	struct state now;
	const struct state *from = &w->kept[below(w, KEEP)];
	struct batch b = random_batch(w, &from->m);
	apply(w, from, &b, &now);
	free(b.rows);
	struct state *to = &w->kept[below(w, KEEP)];
	free(to->m.rows);
	*to = now;
	return to;
}

START_TEST(a_tree_holds_what_the_array_holds)
{
	struct world w;
	world_init(&w, seed_of((uint64_t)_i), 40 << 10);
	w.big_values = _i & 1;
	w.s.split = _i & 2;
	if (_i & 4) {
		w.spread_max = 1 + (unsigned)below(&w, 4);
		w.spread_budget = (unsigned)below(&w, 20);
	}
	for (int n = 0; n < 60; n++) {
		struct state *st = random_step(&w);
		expect_tree(&w, st);
		for (int i = 0; i < 20; i++)
			expect_lookup(&w, st);
		for (int i = 0; i < 3; i++)
			expect_range(&w, st);
		expect_diff(&w, &w.kept[below(&w, KEEP)], &w.kept[below(&w, KEEP)]);
	}
	world_deinit(&w);
}
END_TEST

/* --- layers and views ------------------------------------------------------------- */

/* One random operation on a layer, and on the array of what is seen through it. */
static void layer_step(struct world *w, struct nf_layer *l, struct model *m)
{
	struct batch b = { .rows = calloc(1, sizeof *b.rows) };
	struct model now;
	struct row *r = b.rows;
	switch (below(w, 12)) {
	case 0:
		b.nr_cuts = 1;
		b.cuts[0].from.ino = below(w, KEYS_INO);
		b.cuts[0].to.ino = b.cuts[0].from.ino + 1;
		ck_assert_int_eq(nf_layer_wipe(l, b.cuts[0].from.ino), 0);
		break;
	case 1:
		b.nr_cuts = 1;
		b.cuts[0].from = (struct nf_key){ .ino = below(w, KEYS_INO), .type = NF_ITEM_EXTENT,
						  .a = below(w, 64 * 128) };
		b.cuts[0].to = (struct nf_key){ .ino = b.cuts[0].from.ino, .type = NF_ITEM_EXTENT + 1 };
		ck_assert_int_eq(nf_layer_cut(l, b.cuts[0].from.ino, b.cuts[0].from.a), 0);
		break;
	default:
		b.nr = 1;
		r->key = m->nr && below(w, 2) ? m->rows[below(w, m->nr)].key : random_key(w);
		r->seed = (uint32_t)nf_prng_next(&w->rng);
		r->len = below(w, 2) ? REMOVED : random_len(w);
		if (r->len == REMOVED) {
			ck_assert_int_eq(nf_layer_remove(l, &r->key), 0);
		} else {
			struct nf_buf v = NF_BUF_INIT;
			value_of(r, &v);
			ck_assert_int_eq(nf_layer_put(l, &r->key, v.p, v.len), 0);
			nf_buf_deinit(&v);
		}
	}
	now = model_apply(m, &b, 0);
	free(m->rows);
	*m = now;
	free(b.rows);
}

static void expect_view(struct world *w, const struct nf_view *v, const struct model *m)
{
	struct nf_want want = NF_WANT_INIT;
	struct nf_key from = { 0 }, to = { .ino = UINT64_MAX }, key;
	struct nf_val val;
	size_t i = 0, end = m->nr;
	int r;
	if (below(w, 2)) {
		from = random_key(w);
		to = random_key(w);
		i = model_lower(m, &from);
		end = model_lower(m, &to);
	}
	for (;;) {
		r = nf_view_next(v, &from, &to, &want, &key, &val);
		if (r == NF_TREE_WANT) {
			store_load_some(&w->s, &want);
			continue;
		}
		if (r == NF_TREE_NONE)
			break;
		ck_assert_int_eq(r, 0);
		ck_assert_uint_lt(i, end);
		ck_assert_int_eq(nf_key_cmp(&key, &m->rows[i].key), 0);
		expect_value(&m->rows[i++], &val);
		nf_val_deinit(&val);
		from = key;
		from.b++;
	}
	ck_assert_uint_ge(i, end);
	nf_want_deinit(&want);
	for (int n = 0; n < 20; n++) {
		struct nf_key k = m->nr && below(w, 2) ? m->rows[below(w, m->nr)].key : random_key(w);
		i = model_lower(m, &k);
		bool there = i < m->nr && nf_key_cmp(&m->rows[i].key, &k) == 0;
		while ((r = nf_view_lookup(v, &k, &want, &val)) == NF_TREE_WANT)
			store_load_some(&w->s, &want);
		ck_assert_int_eq(r, there ? 0 : NF_TREE_NONE);
		if (there) {
			expect_value(&m->rows[i], &val);
			nf_val_deinit(&val);
		}
	}
	nf_want_deinit(&want);
}

/* The layer's batch, as a tree of its own. */
static void merge_layer(struct world *w, const struct nf_layer *l, struct nf_ref *root)
{
	struct nf_node_source src = store_source(&w->s);
	struct nf_tree_writer writer = { .emit = store_emit, .ctx = &w->s };
	struct nf_change *c;
	struct nf_cutout *k;
	size_t nr, nr_cuts, pack = store_begin(&w->s);
	ck_assert_int_eq(nf_layer_batch(l, &c, &nr, &k, &nr_cuts), 0);
	ck_assert_int_eq(nf_tree_update(&src, root, c, nr, k, nr_cuts, &writer, root), 0);
	store_name(root, pack);
	free(c);
	free(k);
}

/* In a layer, ids are explicit: the model's rows with pack 0 have been written as zeros, and become the pack they
 * were merged into. */
static void settle_rows(struct model *m, size_t first_pack)
{
	for (size_t i = 0; i < m->nr; i++)
		if (nf_item_has_refs(m->rows[i].key.type) && m->rows[i].pack == 0)
			m->rows[i].pack = first_pack;
}

START_TEST(a_view_shows_the_base_through_its_layers_and_their_batches_give_the_same_tree)
{
	struct world w;
	world_init(&w, seed_of((uint64_t)_i), 40 << 10);
	w.big_values = _i & 1;
	for (int n = 0; n < 8; n++)
		random_step(&w);
	for (int n = 0; n < 12; n++) {
		struct state *st = &w.kept[below(&w, KEEP)];
		struct nf_layer *old, *young;
		struct model m = { .rows = calloc(st->m.nr + 1, sizeof *m.rows), .nr = st->m.nr };
		ck_assert_int_eq(nf_layer_new(&old), 0);
		ck_assert_int_eq(nf_layer_new(&young), 0);
		if (st->m.nr)
			memcpy(m.rows, st->m.rows, st->m.nr * sizeof *m.rows);
		struct nf_view v = { .nodes = w.s.nodes, .base = st->root, .layers = { young, old } };
		size_t steps = below(&w, 300);
		for (size_t i = 0; i < steps; i++)
			layer_step(&w, old, &m);
		expect_view(&w, &v, &m);
		struct model m_old = { .rows = calloc(m.nr + 1, sizeof *m.rows), .nr = m.nr };
		if (m.nr)
			memcpy(m_old.rows, m.rows, m.nr * sizeof *m.rows);
		steps = below(&w, 300);
		for (size_t i = 0; i < steps; i++)
			layer_step(&w, young, &m);
		expect_view(&w, &v, &m);

		struct state merged = { .m = m, .root = st->root };
		merge_layer(&w, old, &merged.root);
		settle_rows(&m_old, w.s.nr_packs - 1);
		struct state half = { .m = m_old, .root = merged.root };
		expect_tree(&w, &half);
		size_t old_pack = w.s.nr_packs - 1;
		merge_layer(&w, young, &merged.root);
		/* Which of the two packs a row of pack 0 went to: the old one if it stands there unchanged. */
		for (size_t i = 0; i < m.nr; i++) {
			const void *p;
			size_t len;
			if (nf_item_has_refs(m.rows[i].key.type) && m.rows[i].pack == 0)
				m.rows[i].pack = nf_layer_get(young, &m.rows[i].key, &p, &len) == 0
							 ? old_pack + 1 : old_pack;
		}
		merged.m = m;
		expect_tree(&w, &merged);
		free(m.rows);
		free(m_old.rows);
		nf_layer_free(old);
		nf_layer_free(young);
	}
	world_deinit(&w);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "tree", 120);
	tcase_add_loop_test(tc, a_tree_holds_what_the_array_holds, 0, 8);
	tcase_add_loop_test(tc, a_view_shows_the_base_through_its_layers_and_their_batches_give_the_same_tree, 0, 4);
}

NF_SUITE("vault/tree")
