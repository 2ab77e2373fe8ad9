/* Nodes as they come from outside, their cache, and what updates cost. */
#include "base/error.h"
#include "suite.h"
#include "tree_store.h"
#include "vault/item.h"
#include "vault/layer.h"

#include <pthread.h>

/* --- nodes ------------------------------------------------------------------------- */

static struct nf_key key_of(uint64_t ino) { return (struct nf_key){ .ino = ino, .type = NF_ITEM_INODE }; }

static void leaf_begin(struct nf_buf *b, unsigned level, uint16_t nr)
{
	nf_buf_u8(b, (uint8_t)level);
	nf_buf_u8(b, 0);
	nf_buf_u16(b, nr);
}

static void add_key(struct nf_buf *b, uint64_t ino)
{
	uint8_t k[NF_KEY_ENCODED];
	struct nf_key key = key_of(ino);
	nf_key_encode(&key, k);
	nf_buf_bytes(b, k, sizeof k);
}

static struct nf_ref ref_of(unsigned level, size_t len)
{
	return (struct nf_ref){ .pack = store_pack_id(1), .sealed_len = (uint32_t)len + 40,
				.plain_len = (uint32_t)len, .epoch = 1, .level = (uint8_t)level };
}

static int parse(unsigned level, const struct nf_buf *b)
{
	struct nf_ref ref = ref_of(level, b->len);
	struct nf_node_body body;
	int r = nf_node_parse(&ref, b->p, b->len, &body);
	if (r == 0)
		nf_node_body_deinit(&body);
	return r;
}

START_TEST(a_leaf_is_taken_only_whole_and_in_order)
{
	static const uint8_t value[NF_VALUE_MAX + 1];
	struct nf_buf b = NF_BUF_INIT;
	leaf_begin(&b, 0, 2);
	add_key(&b, 5);
	nf_buf_str16(&b, "x", 1);
	add_key(&b, 6);
	nf_buf_str16(&b, value, NF_VALUE_MAX);
	ck_assert_int_eq(parse(0, &b), 0);
	ck_assert_int_eq(parse(1, &b), -NF_E_TREE_BAD);
	for (b.len--; b.len > 0; b.len--)
		ck_assert_int_eq(parse(0, &b), -NF_E_TREE_BAD);
	/* A byte too many; the reserved byte; keys equal; keys descending; a value too long. */
	for (int what = 0; what < 6; what++) {
		b.len = 0;
		leaf_begin(&b, 0, 2);
		b.p[1] = what == 1;
		add_key(&b, what == 2 ? 6 : what == 3 ? 7 : 5);
		nf_buf_str16(&b, "x", 1);
		add_key(&b, 6);
		nf_buf_str16(&b, value, what == 4 ? NF_VALUE_MAX + 1 : 3);
		if (what == 0)
			nf_buf_u8(&b, 0);
		ck_assert_int_eq(parse(0, &b), what == 5 ? 0 : -NF_E_TREE_BAD);
	}
	b.len = 0;
	leaf_begin(&b, 0, 0);
	ck_assert_int_eq(parse(0, &b), 0);
	nf_buf_deinit(&b);
}
END_TEST

START_TEST(an_inner_node_is_taken_only_with_children_of_the_next_level)
{
	struct nf_buf b = NF_BUF_INIT;
	for (int what = 0; what < 6; what++) {
		struct nf_ref child = ref_of(what == 1 ? 2 : what == 2 ? 0 : 1, 100);
		child.plain_len = what == 3 ? 3 : what == 4 ? 32769 : 100;
		child.flags = what == 5 ? 4 : 0;
		b.len = 0;
		leaf_begin(&b, 2, 1);
		add_key(&b, 1);
		nf_ref_encode(&b, &child);
		ck_assert_int_eq(parse(2, &b), what ? -NF_E_TREE_BAD : 0);
	}
	b.len = 0;
	leaf_begin(&b, 1, 0);
	ck_assert_int_eq(parse(1, &b), -NF_E_TREE_BAD);
	b.p[0] = 12;
	ck_assert_int_eq(parse(12, &b), -NF_E_TREE_BAD);
	nf_buf_deinit(&b);
}
END_TEST

START_TEST(a_node_over_the_limit_is_refused)
{
	static const uint8_t value[NF_VALUE_MAX];
	struct nf_buf b = NF_BUF_INIT;
	leaf_begin(&b, 0, 2);
	add_key(&b, 1);
	nf_buf_str16(&b, value, NF_VALUE_MAX);
	add_key(&b, 2);
	nf_buf_str16(&b, value, NF_NODE_MAX - 4 - 54 - NF_VALUE_MAX);
	ck_assert_uint_eq(b.len, NF_NODE_MAX);
	ck_assert_int_eq(parse(0, &b), 0);
	nf_buf_u8(&b, 0);
	nf_put_le16(b.p + b.len - 1 - (NF_NODE_MAX - 4 - 54 - NF_VALUE_MAX) - 2, NF_NODE_MAX - 4 - 54 - NF_VALUE_MAX + 1);
	ck_assert_int_eq(parse(0, &b), -NF_E_TREE_BAD);
	nf_buf_deinit(&b);
}
END_TEST

START_TEST(a_child_that_stands_in_the_wrong_place_is_refused)
{
	struct nf_buf leaf = NF_BUF_INIT, root = NF_BUF_INIT;
	struct nf_want w = NF_WANT_INIT;
	struct nf_nodes *n;
	struct nf_val v;
	struct nf_key key = key_of(10), at;
	/* The leaf holds 3 and 10; its parent promises [5, 20), then [0, 10). */
	leaf_begin(&leaf, 0, 2);
	add_key(&leaf, 3);
	nf_buf_str16(&leaf, "a", 1);
	add_key(&leaf, 10);
	nf_buf_str16(&leaf, "b", 1);
	for (int what = 0; what < 3; what++) {
		struct nf_ref child = ref_of(0, leaf.len);
		root.len = 0;
		leaf_begin(&root, 1, 2);
		add_key(&root, what == 0 ? 5 : 0);
		nf_ref_encode(&root, &child);
		add_key(&root, what == 1 ? 10 : 20);
		struct nf_ref second = child;
		second.offset_bytes = 1000;
		nf_ref_encode(&root, &second);
		struct nf_ref top = ref_of(1, root.len);
		ck_assert_int_eq(nf_nodes_new(1 << 20, &n), 0);
		ck_assert_int_eq(nf_nodes_insert(n, &child, leaf.p, leaf.len), 0);
		ck_assert_int_eq(nf_nodes_insert(n, &top, root.p, root.len), 0);
		struct nf_key from = key_of(6), to = key_of(100);
		if (what == 1)
			key = key_of(6);
		int r = nf_tree_lookup(n, &top, &key, &w, &v);
		ck_assert_int_eq(r, what == 2 ? NF_TREE_NONE : -NF_E_TREE_BAD);
		r = nf_tree_next(n, &top, &from, &to, &w, &at, &v);
		ck_assert_int_eq(r, what == 2 ? 0 : -NF_E_TREE_BAD);
		if (r == 0)
			nf_val_deinit(&v);
		nf_want_deinit(&w);
		nf_nodes_free(n);
	}
	nf_buf_deinit(&leaf);
	nf_buf_deinit(&root);
}
END_TEST

/* --- cache --------------------------------------------------------------------------- */

static struct nf_ref insert_leaf(struct nf_nodes *n, uint32_t where)
{
	static const uint8_t value[1000];
	struct nf_buf b = NF_BUF_INIT;
	leaf_begin(&b, 0, 1);
	add_key(&b, where);
	nf_buf_str16(&b, value, sizeof value);
	struct nf_ref ref = ref_of(0, b.len);
	ref.offset_bytes = where;
	ck_assert_int_eq(nf_nodes_insert(n, &ref, b.p, b.len), 0);
	nf_buf_deinit(&b);
	return ref;
}

START_TEST(the_cache_keeps_its_limit_and_gives_up_the_coldest)
{
	struct nf_ref refs[2000];
	struct nf_nodes *n;
	ck_assert_int_eq(nf_nodes_new(100000, &n), 0);
	for (uint32_t i = 0; i < 2000; i++) {
		refs[i] = insert_leaf(n, i);
		ck_assert_uint_le(nf_nodes_bytes(n), 100000);
		struct nf_node *first = nf_nodes_get(n, &refs[0]);
		ck_assert_ptr_nonnull(first); /* used all the time */
		nf_node_put(first);
	}
	ck_assert_uint_gt(nf_nodes_bytes(n), 100000 - 2000);
	ck_assert(nf_nodes_has(n, &refs[1999]) && !nf_nodes_has(n, &refs[1]));
	struct nf_ref other = refs[1999];
	other.tag[3] ^= 1;
	ck_assert(!nf_nodes_has(n, &other));
	nf_nodes_free(n);
}
END_TEST

START_TEST(what_a_want_asked_for_stays_until_the_want_goes)
{
	struct nf_want w = NF_WANT_INIT;
	struct nf_key key = key_of(7);
	struct nf_nodes *n;
	struct nf_val v;
	ck_assert_int_eq(nf_nodes_new(0, &n), 0);
	struct nf_ref ref = insert_leaf(n, 7);
	ck_assert(!nf_nodes_has(n, &ref)); /* nothing fits */
	ck_assert_int_eq(nf_tree_lookup(n, &ref, &key, &w, &v), NF_TREE_WANT);
	ck_assert_uint_eq(w.nr, 1);
	ck_assert_int_eq(nf_tree_lookup(n, &ref, &key, &w, &v), NF_TREE_WANT);
	ck_assert_uint_eq(w.nr, 1);
	insert_leaf(n, 7);
	ck_assert(nf_nodes_has(n, &ref));
	ck_assert_int_eq(nf_tree_lookup(n, &ref, &key, &w, &v), 0);
	nf_want_deinit(&w);
	ck_assert_uint_eq(v.len, 1000); /* the value has a pin of its own */
	ck_assert(nf_nodes_has(n, &ref));
	nf_val_deinit(&v);
	ck_assert(!nf_nodes_has(n, &ref));
	ck_assert_uint_eq(nf_nodes_bytes(n), 0);
	nf_nodes_free(n);
}
END_TEST

static void *hammer(void *arg)
{
	struct nf_nodes *n = arg;
	struct nf_prng p;
	nf_prng_seed(&p, (uint64_t)(uintptr_t)&p);
	for (int i = 0; i < 4000; i++) {
		uint32_t where = (uint32_t)nf_prng_below(&p, 40);
		struct nf_ref ref = ref_of(0, 1031);
		struct nf_key key = key_of(where);
		struct nf_want w = NF_WANT_INIT;
		struct nf_val v;
		int r;
		ref.offset_bytes = where;
		while ((r = nf_tree_lookup(n, &ref, &key, &w, &v)) == NF_TREE_WANT)
			insert_leaf(n, where);
		ck_assert_int_eq(r, 0);
		ck_assert_uint_eq(v.len, 1000);
		if (i & 1)
			nf_want_deinit(&w);
		nf_val_deinit(&v);
		nf_want_deinit(&w);
	}
	return NULL;
}

START_TEST(threads_share_the_cache)
{
	pthread_t t[4];
	struct nf_nodes *n;
	ck_assert_int_eq(nf_nodes_new(10 * 1031, &n), 0);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, hammer, n), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	ck_assert_uint_le(nf_nodes_bytes(n), 10 * 1031);
	nf_nodes_free(n);
}
END_TEST

/* --- what it costs --------------------------------------------------------------------- */

enum { MANY = 100000 };

static void update(struct store *s, struct nf_ref *root, const struct nf_change *c, size_t nr,
		   const struct nf_cutout *cuts, size_t nr_cuts, unsigned spread_max, unsigned budget)
{
	struct nf_node_source src = store_source(s);
	struct nf_tree_writer w = { .emit = store_emit, .ctx = s, .spread_max = spread_max,
				    .spread_budget_nodes = budget };
	size_t pack = store_begin(s);
	s->loaded_nodes = s->loads = 0;
	ck_assert_int_eq(nf_tree_update(&src, root, c, nr, cuts, nr_cuts, &w, root), 0);
	store_name(root, pack);
}

static uint8_t values[300];

/* MANY items of 127 bytes: about 1000 leaves, 5 nodes above them and a root. */
static void load_many(struct store *s, struct nf_ref *root)
{
	struct nf_change *c = calloc(MANY, sizeof *c);
	for (uint64_t i = 0; i < MANY; i++)
		c[i] = (struct nf_change){ .key = key_of(i * 10), .value = values, .len = 100 };
	*root = (struct nf_ref){ 0 };
	update(s, root, c, MANY, NULL, 0, 0, 0);
	free(c);
}

START_TEST(a_bulk_load_fills_its_nodes_and_reads_nothing)
{
	struct nf_ref root;
	struct store s;
	store_init(&s, 1 << 20, 1);
	load_many(&s, &root);
	ck_assert_uint_eq(s.loads, 0);
	ck_assert_uint_eq(root.level, 2);
	ck_assert_uint_gt(s.leaf_bytes, s.leaves * NF_NODE_MAX * 95 / 100);
	ck_assert_uint_le(s.emitted - s.leaves, s.leaves / 200 + 3);
	store_deinit(&s);
}
END_TEST

START_TEST(one_change_costs_one_path)
{
	struct nf_change c = { .key = key_of(500005), .value = values, .len = 200 };
	struct nf_ref root, before;
	struct store s;
	store_init(&s, 0, 1);
	load_many(&s, &root);
	before = root;
	update(&s, &root, &c, 1, NULL, 0, 0, 0);
	ck_assert_uint_eq(s.loaded_nodes, 3);
	ck_assert_uint_le(s.emitted, 5); /* a full leaf and its full parent are halved */
	update(&s, &root, &c, 1, NULL, 0, 0, 0);
	ck_assert_uint_eq(s.emitted, 0); /* nothing changed */
	c.value = NULL;
	before = root;
	update(&s, &root, &c, 1, NULL, 0, 0, 0);
	ck_assert_uint_le(s.emitted, 4);
	before = root;
	update(&s, &root, &c, 1, NULL, 0, 0, 0);
	ck_assert_uint_eq(s.emitted, 0);
	ck_assert(nf_ref_equal(&before, &root));
	store_deinit(&s);
}
END_TEST

START_TEST(appending_leaves_full_nodes_behind)
{
	struct nf_change c = { .value = values, .len = 100 };
	struct nf_node_source src;
	struct nf_ref root = { 0 };
	struct store s;
	store_init(&s, 1 << 20, 1);
	for (uint64_t i = 0; i < 3000; i++) {
		c.key = key_of(i);
		update(&s, &root, &c, 1, NULL, 0, 0, 0);
	}
	struct nf_node *top;
	src = store_source(&s);
	ck_assert_int_eq(nf_source_get(&src, &root, NULL, NULL, &top), 0);
	ck_assert_uint_le(top->body.nr, 3000 * 127 / NF_NODE_MAX + 2);
	nf_node_put(top);
	store_deinit(&s);
}
END_TEST

START_TEST(a_cutout_drops_whole_subtrees_unread)
{
	struct nf_cutout cut = { .from = key_of(105), .to = key_of((MANY - 3) * UINT64_C(10)) };
	struct nf_want w = NF_WANT_INIT;
	struct nf_ref root;
	struct nf_val v;
	struct store s;
	store_init(&s, 1 << 20, 1);
	load_many(&s, &root);
	update(&s, &root, NULL, 0, &cut, 1, 0, 0);
	ck_assert_uint_le(s.loaded_nodes, 5); /* both edges */
	ck_assert_uint_eq(root.level, 0);     /* 11 + 3 items: no level above is left */
	ck_assert_uint_eq(s.emitted, 1);
	struct nf_key key = key_of((MANY - 3) * UINT64_C(10));
	while (nf_tree_lookup(s.nodes, &root, &key, &w, &v) == NF_TREE_WANT)
		store_load(&s, &w);
	ck_assert_uint_eq(v.len, 100);
	nf_val_deinit(&v);
	nf_want_deinit(&w);
	cut = (struct nf_cutout){ .to = { .ino = UINT64_MAX } };
	update(&s, &root, NULL, 0, &cut, 1, 0, 0);
	ck_assert(nf_ref_is_null(&root));
	store_deinit(&s);
}
END_TEST

START_TEST(the_leaves_of_a_range_are_asked_for_together)
{
	struct nf_key from = key_of(100000), to = key_of(900000), key;
	struct nf_want w = NF_WANT_INIT;
	size_t items = 0;
	struct nf_ref root;
	struct nf_val v;
	struct store s;
	int r;
	store_init(&s, 64 << 20, 1);
	load_many(&s, &root);
	while ((r = nf_tree_next(s.nodes, &root, &from, &to, &w, &key, &v)) != NF_TREE_NONE) {
		if (r == NF_TREE_WANT) {
			store_load(&s, &w);
			continue;
		}
		ck_assert_int_eq(r, 0);
		nf_val_deinit(&v);
		from = key_of(key.ino + 1);
		items++;
	}
	nf_want_deinit(&w);
	ck_assert_uint_eq(items, 80000);
	/* About 630 leaves: by 64, and the two levels above. */
	ck_assert_uint_le(s.loads, 630 / NF_WANT_MAX + 4);
	store_deinit(&s);
}
END_TEST

static int count_packs(void *ctx, const struct nf_ref *ref)
{
	unsigned *packs = ctx;
	packs[nf_get_le64(ref->pack.b + 3)]++;
	return 0;
}

START_TEST(scattered_children_are_written_together_within_the_budget)
{
	struct nf_change c = { .value = values };
	struct nf_ref root, old;
	struct store s;
	store_init(&s, 1 << 20, 1);
	load_many(&s, &root);
	for (uint64_t i = 1; i < 12; i++) {
		c.key = key_of(i * 1000 + 1);
		c.len = (size_t)i;
		update(&s, &root, &c, 1, NULL, 0, 0, 0);
	}
	c.key = key_of(1);
	c.len = 1;
	old = root;
	update(&s, &root, &c, 1, NULL, 0, 100, 50);
	size_t plain = s.emitted;
	ck_assert_uint_le(plain, 4); /* not that many packs */
	root = old;
	update(&s, &root, &c, 1, NULL, 0, 4, 50);
	ck_assert_uint_eq(s.emitted, plain + 50);
	root = old;
	update(&s, &root, &c, 1, NULL, 0, 4, 100000);
	/* All under the first inner node came along, and nothing else. */
	ck_assert_uint_gt(s.emitted, plain + 150);
	ck_assert_uint_lt(s.emitted, 250);
	unsigned *packs = calloc(s.nr_packs, sizeof *packs);
	struct nf_node_source src = store_source(&s);
	ck_assert_int_eq(nf_tree_walk(&src, &root, NULL, count_packs, packs), 0);
	ck_assert_uint_eq(packs[s.nr_packs - 1], s.emitted);
	free(packs);
	store_deinit(&s);
}
END_TEST

static int stop_at_third(void *ctx, const struct nf_key *key, const struct nf_val *old, const struct nf_val *now)
{
	(void)key, (void)old, (void)now;
	return ++*(int *)ctx == 3 ? NF_TREE_STOP : 0;
}

START_TEST(a_difference_reads_what_differs_and_stops_when_told)
{
	struct nf_change c[50];
	struct nf_ref root, old;
	struct store s;
	int n = 0;
	store_init(&s, 0, 1);
	load_many(&s, &root);
	old = root;
	for (uint64_t i = 0; i < 50; i++)
		c[i] = (struct nf_change){ .key = key_of(100000 + i * 10), .value = values, .len = 101 };
	update(&s, &root, c, 50, NULL, 0, 0, 0);
	struct nf_node_source src = store_source(&s);
	s.loaded_nodes = 0;
	ck_assert_int_eq(nf_tree_diff(&src, &old, &root, stop_at_third, &n), NF_TREE_STOP);
	ck_assert_int_eq(n, 3);
	ck_assert_uint_le(s.loaded_nodes, 8);
	store_deinit(&s);
}
END_TEST

static int load_nothing(void *ctx, struct nf_want *w)
{
	(void)ctx, (void)w;
	return -NF_E_OFFLINE;
}

START_TEST(errors_of_loading_and_bad_batches_come_through)
{
	struct nf_change c[2] = { { .key = key_of(5), .value = values, .len = 1 }, { .key = key_of(5) } };
	struct nf_cutout cut = { .from = key_of(9), .to = key_of(8) };
	struct nf_ref root, out = { 0 };
	struct store s;
	store_init(&s, 0, 1);
	load_many(&s, &root);
	struct nf_node_source src = { .nodes = s.nodes, .load = load_nothing };
	struct nf_tree_writer w = { .emit = store_emit, .ctx = &s };
	ck_assert_int_eq(nf_tree_update(&src, &root, c, 1, NULL, 0, &w, &out), -NF_E_OFFLINE);
	ck_assert_int_eq(nf_tree_update(&src, &root, c, 2, NULL, 0, &w, &out), -EINVAL);
	ck_assert_int_eq(nf_tree_update(&src, &root, NULL, 0, &cut, 1, &w, &out), -EINVAL);
	c[0].len = NF_VALUE_MAX + 1;
	ck_assert_int_eq(nf_tree_update(&src, &root, c, 1, NULL, 0, &w, &out), -EINVAL);
	ck_assert(nf_ref_is_null(&out));
	store_deinit(&s);
}
END_TEST

/* --- layers -------------------------------------------------------------------------- */

START_TEST(a_layer_counts_what_it_holds_and_forgets_what_its_marks_cover)
{
	struct nf_key inode = key_of(7), extent = { .ino = 7, .type = NF_ITEM_EXTENT, .a = 128 };
	struct nf_layer *l;
	const void *p;
	size_t len;
	ck_assert_int_eq(nf_layer_new(&l), 0);
	ck_assert(nf_layer_empty(l));
	ck_assert_int_eq(nf_layer_get(l, &inode, &p, &len), NF_TREE_NONE);
	ck_assert_int_eq(nf_layer_put(l, &inode, "abc", 3), 0);
	ck_assert_int_eq(nf_layer_put(l, &extent, "abc", 3), 0);
	ck_assert_int_eq(nf_layer_cut(l, 7, 128), 0);
	ck_assert_int_eq(nf_layer_get(l, &extent, &p, &len), NF_LAYER_GONE);
	extent.a = 0;
	ck_assert_int_eq(nf_layer_get(l, &extent, &p, &len), NF_TREE_NONE);
	ck_assert_int_eq(nf_layer_get(l, &inode, &p, &len), 0);
	size_t held = nf_layer_bytes(l);
	extent.a = 256;
	ck_assert_int_eq(nf_layer_remove(l, &extent), 0);
	ck_assert_uint_eq(nf_layer_bytes(l), held); /* covered by the cut */
	ck_assert_int_eq(nf_layer_wipe(l, 7), 0);
	ck_assert_uint_lt(nf_layer_bytes(l), held);
	ck_assert_int_eq(nf_layer_get(l, &inode, &p, &len), NF_LAYER_GONE);
	ck_assert_int_eq(nf_layer_put(l, &inode, "", 0), 0);
	ck_assert_int_eq(nf_layer_get(l, &inode, &p, &len), 0);
	ck_assert_uint_eq(len, 0);
	ck_assert(!nf_layer_empty(l));
	struct nf_text t = NF_TEXT_INIT;
	nf_layer_to_text(l, &t);
	ck_assert_ptr_nonnull(strstr(nf_text_str(&t), "7 wiped"));
	nf_text_deinit(&t);
	nf_layer_free(l);
}
END_TEST

static int grow(void *ctx, const struct nf_key *key, const void *value, size_t len, void **now, size_t *now_len)
{
	(void)ctx;
	if (key->ino != 2)
		return 0;
	*now = calloc(1, len + 1);
	memcpy(*now, value, len);
	*now_len = len + 1;
	return 1;
}

START_TEST(values_of_a_layer_can_be_rewritten)
{
	struct nf_layer *l;
	const void *p;
	size_t len;
	ck_assert_int_eq(nf_layer_new(&l), 0);
	for (uint64_t i = 0; i < 4; i++) {
		struct nf_key k = key_of(i);
		ck_assert_int_eq(nf_layer_put(l, &k, "ab", 2), 0);
	}
	ck_assert_int_eq(nf_layer_rewrite(l, NF_ITEM_EXTENT, grow, NULL), 0);
	ck_assert_int_eq(nf_layer_rewrite(l, NF_ITEM_INODE, grow, NULL), 0);
	for (uint64_t i = 0; i < 4; i++) {
		struct nf_key k = key_of(i);
		ck_assert_int_eq(nf_layer_get(l, &k, &p, &len), 0);
		ck_assert_uint_eq(len, i == 2 ? 3 : 2);
	}
	nf_layer_free(l);
}
END_TEST

START_TEST(a_view_passes_long_removed_runs_quickly)
{
	struct nf_want w = NF_WANT_INIT;
	struct nf_key from = { 0 }, to = { .ino = UINT64_MAX }, key;
	struct nf_layer *l;
	struct nf_ref root;
	struct nf_val v;
	struct store s;
	int r;
	store_init(&s, 64 << 20, 1);
	load_many(&s, &root);
	ck_assert_int_eq(nf_layer_new(&l), 0);
	for (uint64_t i = 0; i < MANY - 1; i++) {
		struct nf_key k = key_of(i * 10);
		ck_assert_int_eq(i & 1 ? nf_layer_wipe(l, k.ino) : nf_layer_remove(l, &k), 0);
	}
	struct nf_view view = { .nodes = s.nodes, .base = root, .layers = { l } };
	s.loads = 0;
	while ((r = nf_view_next(&view, &from, &to, &w, &key, &v)) == NF_TREE_WANT)
		store_load(&s, &w);
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(key.ino, (MANY - 1) * UINT64_C(10));
	ck_assert_uint_le(s.loads, 20);
	nf_val_deinit(&v);
	nf_want_deinit(&w);
	nf_layer_free(l);
	store_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "tree", 20);
	tcase_add_test(tc, a_leaf_is_taken_only_whole_and_in_order);
	tcase_add_test(tc, an_inner_node_is_taken_only_with_children_of_the_next_level);
	tcase_add_test(tc, a_node_over_the_limit_is_refused);
	tcase_add_test(tc, a_child_that_stands_in_the_wrong_place_is_refused);
	tcase_add_test(tc, the_cache_keeps_its_limit_and_gives_up_the_coldest);
	tcase_add_test(tc, what_a_want_asked_for_stays_until_the_want_goes);
	tcase_add_test(tc, threads_share_the_cache);
	tcase_add_test(tc, a_bulk_load_fills_its_nodes_and_reads_nothing);
	tcase_add_test(tc, one_change_costs_one_path);
	tcase_add_test(tc, appending_leaves_full_nodes_behind);
	tcase_add_test(tc, a_cutout_drops_whole_subtrees_unread);
	tcase_add_test(tc, the_leaves_of_a_range_are_asked_for_together);
	tcase_add_test(tc, scattered_children_are_written_together_within_the_budget);
	tcase_add_test(tc, a_difference_reads_what_differs_and_stops_when_told);
	tcase_add_test(tc, errors_of_loading_and_bad_batches_come_through);
	tcase_add_test(tc, a_layer_counts_what_it_holds_and_forgets_what_its_marks_cover);
	tcase_add_test(tc, values_of_a_layer_can_be_rewritten);
	tcase_add_test(tc, a_view_passes_long_removed_runs_quickly);
}

NF_SUITE("vault/tree")
