/* Looks at stores with many heads: whose names are read, and whose need not be. */
#include "aio/pool.h"
#include "base/clock.h"
#include "base/counter.h"
#include "vault/commit.h"
#include "vault/look.h"
#include "world.h"

enum { HEADS = 3000, NODES_BYTES = 8 << 20 };

struct rig {
	struct world w;
	struct nf_pool *pool;
	struct nf_nodes *nodes;
	struct nf_fetch *f;
	struct nf_look *l;
	struct nf_head h[HEADS]; /* a chain; what it is made of is up to the test */
};

/* A client that has seen nothing. */
static void restart(struct rig *r)
{
	struct nf_fetch_options o = { .store = r->w.store, .ring = r->w.ring, .pool = r->pool };

	nf_look_free(r->l);
	nf_fetch_free(r->f);
	nf_nodes_free(r->nodes);
	ck_assert_int_eq(nf_nodes_new(NODES_BYTES, &r->nodes), 0);
	o.nodes = r->nodes;
	ck_assert_int_eq(nf_fetch_new(&o, &r->f), 0);
	ck_assert_int_eq(nf_look_new(r->w.store, r->w.ring, r->f, &r->l), 0);
}

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof *r);

	world_init(&r->w);
	ck_assert_int_eq(nf_pool_new("test", 1, 0, &r->pool), 0);
	restart(r);
	return r;
}

static void rig_free(struct rig *r)
{
	nf_look_free(r->l);
	nf_fetch_free(r->f);
	nf_nodes_free(r->nodes);
	nf_pool_free(r->pool);
	for (size_t i = 0; i < HEADS; i++)
		nf_head_deinit(&r->h[i]);
	world_deinit(&r->w);
	free(r);
}

/* A tree with the ROOT items of HEADS on that of BASE (may be NULL), in a pack of its own. */
static struct nf_ref make_tree(struct rig *r, const struct nf_ref *base, struct nf_head *const *heads, size_t nr)
{
	struct nf_meta_pack m = { .codec = r->w.codec };
	struct nf_node_source src = { .nodes = r->nodes, .load = nf_fetch_load, .ctx = r->f };
	struct nf_tree_writer tw = { .emit = nf_meta_pack_emit, .ctx = &m };
	struct nf_ref none = { 0 }, root;
	struct nf_layer *layer;
	struct nf_change *c;
	struct nf_cutout *cuts;
	size_t nr_c, nr_cuts;

	ck_assert_int_eq(nf_layer_new(&layer), 0);
	for (size_t i = 0; i < nr; i++) {
		const struct nf_head *h = heads[i];
		ck_assert_int_eq(nf_merge_parents(layer, &h, 1, &(bool){ false }), 0);
	}
	ck_assert_int_eq(nf_layer_batch(layer, &c, &nr_c, &cuts, &nr_cuts), 0);
	ck_assert_int_eq(nf_tree_update(&src, base ? base : &none, c, nr_c, cuts, nr_cuts, &tw, &root), 0);
	struct iovec iov = { m.bytes.p, m.bytes.len };
	struct nf_pack_put put = { .store = r->w.store, .iov = &iov, .nr_iov = 1 };
	ck_assert_int_eq(nf_pack_put(&put), 0);
	root.pack = put.id;
	nf_buf_deinit(&m.bytes);
	nf_layer_free(layer);
	free(c);
	free(cuts);
	return root;
}

static void make_head(struct nf_head *h, const struct nf_head *parent, uint32_t writer, uint64_t seq)
{
	const struct nf_vector_entry e = { .writer = writer, .seq = seq };
	static const struct nf_ref some = { .pack = { { 1 } }, .sealed_len = 50, .plain_len = 10, .epoch = 1 };

	*h = (struct nf_head){ .id = { .seq = parent ? parent->id.seq + 1 : 1 }, .writer = writer, .writer_seq = seq,
			       .root = some };
	if (parent) {
		h->nr_parents = 1;
		h->parents[0] = parent->id;
		ck_assert_int_eq(nf_vector_copy(&h->vector, &parent->vector), 0);
	}
	ck_assert_int_eq(nf_vector_set(&h->vector, &e), 0);
}

static void put_head(struct rig *r, struct nf_head *h)
{
	ck_assert_int_eq(nf_head_put(r->w.store, r->w.codec, h), 0);
}

/* Heads [0, nr) of writer 1, each on top of the one before; the last one's tree names all of them. */
static void make_chain(struct rig *r, size_t nr)
{
	struct nf_head **all = calloc(nr, sizeof *all);

	for (size_t i = 0; i < nr; i++) {
		make_head(&r->h[i], i ? &r->h[i - 1] : NULL, 1, i + 1);
		all[i] = &r->h[i];
		if (i + 1 == nr && nr > 1)
			r->h[i].root = make_tree(r, NULL, all, nr - 1);
		put_head(r, &r->h[i]);
	}
	free(all);
	restart(r);
}

static void expect_leaves(struct nf_look *l, size_t nr, const struct nf_head *a, const struct nf_head *b)
{
	const struct nf_head *want[2] = { a, b };
	struct nf_look_result res;

	ck_assert_int_eq(nf_look(l, &res), 0);
	ck_assert_uint_eq(res.nr_leaves, nr);
	for (size_t i = 0; i < nr; i++) {
		bool found = false;
		for (size_t k = 0; k < nr; k++)
			found |= !memcmp(res.leaves[i]->id.tag, want[k]->id.tag, 16);
		ck_assert(found);
	}
}

static uint64_t gets(struct rig *r) { return world_seen(&r->w, NF_STORE_GET); }

START_TEST(of_thousands_of_heads_the_newest_is_read_and_what_its_tree_says)
{
	struct rig *r = rig_new();

	make_chain(r, HEADS);
	uint64_t had = gets(r), lists = world_seen(&r->w, NF_STORE_LIST);
	expect_leaves(r->l, 1, &r->h[HEADS - 1], NULL);
	ck_assert_uint_le(gets(r) - had, 12);
	had = gets(r);
	expect_leaves(r->l, 1, &r->h[HEADS - 1], NULL);
	ck_assert_int_eq(nf_look_poll(r->l), 0);
	/* Nothing new: one listing each, and nothing read. */
	ck_assert_uint_eq(gets(r), had);
	ck_assert_uint_eq(world_seen(&r->w, NF_STORE_LIST) - lists, 3);
	rig_free(r);
}
END_TEST

START_TEST(a_few_names_are_found_in_a_long_tree_by_reading_little_of_it)
{
	struct rig *r = rig_new();
	char name[64];

	make_chain(r, HEADS);
	/* All but the last five were pruned, and two far from them and from each other. */
	for (size_t i = 0; i < HEADS - 5; i++) {
		nf_head_name(r->h[i].id.seq, r->h[i].id.rand, name);
		if (i != 7 && i != HEADS / 2)
			ck_assert_int_eq(world_delete(&r->w, name), 0);
	}
	restart(r);
	uint64_t had = gets(r), nodes = nf_counter_get(NF_C_NODES_READ);
	expect_leaves(r->l, 1, &r->h[HEADS - 1], NULL);
	ck_assert_uint_le(gets(r) - had, 8);
	ck_assert_uint_le(nf_counter_get(NF_C_NODES_READ) - nodes, 6);
	rig_free(r);
}
END_TEST

START_TEST(both_sides_of_a_fork_are_found_and_what_nobody_built_upon)
{
	enum { SIDE = 200 };
	struct rig *r = rig_new();
	struct nf_head *side[2][SIDE];
	nf_auto(nf_head_deinit) struct nf_head lone;

	for (size_t s = 0; s < 2; s++) {
		for (size_t i = 0; i < SIDE; i++) {
			struct nf_head *h = &r->h[s * SIDE + i];
			side[s][i] = h;
			make_head(h, i ? h - 1 : s ? &r->h[0] : NULL, (uint32_t)s + 1, i + 1);
			if (i + 1 == SIDE)
				h->root = make_tree(r, NULL, side[s], i);
			put_head(r, h);
		}
	}
	/* Sent, never seen by its writer, who sent the same again: no tree names it. */
	make_head(&lone, &r->h[10], 3, 1);
	put_head(r, &lone);
	restart(r);
	uint64_t had = gets(r);
	struct nf_look_result res;
	ck_assert_int_eq(nf_look(r->l, &res), 0);
	ck_assert_uint_eq(res.nr_leaves, 3);
	ck_assert(!memcmp(res.leaves[0]->id.tag, lone.id.tag, 16));
	ck_assert(!memcmp(res.leaves[1]->id.tag, side[0][SIDE - 1]->id.tag, 16));
	ck_assert(!memcmp(res.leaves[2]->id.tag, side[1][SIDE - 1]->id.tag, 16));
	ck_assert_uint_le(gets(r) - had, 20);
	rig_free(r);
}
END_TEST

START_TEST(what_stands_under_a_covered_name_does_not_matter)
{
	struct rig *r = rig_new();
	char name[64];
	struct nf_look_result res;

	make_chain(r, 100);
	/* Nothing, garbage, and an authentic head that belongs elsewhere. */
	nf_auto(nf_head_deinit) struct nf_head foreign;
	void *file;
	size_t len;
	make_head(&foreign, &r->h[99], 9, 1);
	nf_random(foreign.id.rand, sizeof foreign.id.rand);
	ck_assert_int_eq(nf_head_seal(r->w.codec, &foreign, &file, &len), 0);
	for (size_t i = 10; i < 90; i++) {
		nf_head_name(r->h[i].id.seq, r->h[i].id.rand, name);
		ck_assert_int_eq(world_put(&r->w, name, i % 2 ? file : (void *)"x", i % 2 ? len : 1), 0);
	}
	expect_leaves(r->l, 1, &r->h[99], NULL);
	/* Names that only look like covered ones are read, and are nothing. */
	for (size_t i = 20; i < 30; i++) {
		uint8_t rand[16];
		memcpy(rand, r->h[i].id.rand, 16);
		rand[15] ^= 1;
		nf_head_name(r->h[i].id.seq, rand, name);
		ck_assert_int_eq(world_put(&r->w, name, file, len), 0);
	}
	uint64_t had = gets(r);
	ck_assert_int_eq(nf_look(r->l, &res), 0);
	ck_assert(res.nr_leaves == 1 && res.nr_unreadable == 10 && !memcmp(res.leaves[0]->id.tag, r->h[99].id.tag, 16));
	ck_assert_uint_ge(gets(r) - had, 10);
	free(file);
	rig_free(r);
}
END_TEST

START_TEST(names_stay_covered_only_while_a_head_that_covers_them_is_listed)
{
	struct rig *r = rig_new();
	char name[64];

	make_chain(r, 50);
	expect_leaves(r->l, 1, &r->h[49], NULL);
	/* A store that takes the leaf away again: those below are looked at anew. */
	nf_head_name(r->h[49].id.seq, r->h[49].id.rand, name);
	ck_assert_int_eq(world_delete(&r->w, name), 0);
	expect_leaves(r->l, 1, &r->h[48], NULL);
	expect_leaves(r->l, 1, &r->h[48], NULL);
	/* Long enough for the head that is gone to be forgotten. */
	for (int i = 0; i < 10; i++)
		expect_leaves(r->l, 1, &r->h[48], NULL);
	rig_free(r);
}
END_TEST

START_TEST(a_tree_that_cannot_be_read_covers_nothing_and_all_heads_are_read)
{
	struct rig *r = rig_new();
	char name[64];

	make_chain(r, 60);
	nf_pack_name(&r->h[59].root.pack, name);
	ck_assert_int_eq(world_delete(&r->w, name), 0);
	uint64_t had = gets(r);
	expect_leaves(r->l, 1, &r->h[59], NULL);
	ck_assert_uint_ge(gets(r) - had, 50); /* parents that were read say the same of theirs */
	rig_free(r);
}
END_TEST

START_TEST(covered_heads_are_pruned_without_being_read)
{
	struct rig *r = rig_new();
	uint64_t now_ns = UINT64_C(1000000) * NF_NS_PER_S;
	struct nf_head *all[200];
	size_t nr = 99, total = 0;

	nf_clock_fake_set(now_ns);
	for (size_t i = 0; i < 200; i++) {
		struct nf_head *h = &r->h[i];
		all[i] = h;
		make_head(h, i ? h - 1 : NULL, 1, i + 1);
		if (i == 180)
			nf_clock_fake_set(now_ns + 1000 * NF_NS_PER_S);
		if (i == 179 || i == 199)
			h->root = make_tree(r, NULL, all, i);
		put_head(r, h);
	}
	restart(r);
	expect_leaves(r->l, 1, &r->h[199], NULL);
	/* The leaf is young: what counts is the newest that is old enough itself. */
	uint64_t had = gets(r);
	do {
		ck_assert_int_eq(nf_look_prune(r->l, 300, &nr), 0);
		ck_assert_uint_le(nr, 64);
		total += nr;
	} while (nr);
	ck_assert_uint_eq(total, 179);
	ck_assert_uint_le(gets(r) - had, 6);
	ck_assert_uint_eq(world_list(&r->w, "heads"), 21);
	expect_leaves(r->l, 1, &r->h[199], NULL);
	nf_clock_fake_set(now_ns + 5000 * NF_NS_PER_S);
	ck_assert_int_eq(nf_look_prune(r->l, 300, &nr), 0);
	ck_assert_uint_eq(nr, 20);
	restart(r);
	expect_leaves(r->l, 1, &r->h[199], NULL);
	nf_clock_fake_end();
	rig_free(r);
}
END_TEST

START_TEST(names_that_were_not_asked_for_are_never_pruned_as_leftovers)
{
	struct rig *r = rig_new();
	static const uint8_t junk[4] = "junk";
	uint8_t rand[16] = { 0 };
	char name[64];
	size_t nr;

	nf_clock_fake_set(1000 * NF_NS_PER_S);
	make_chain(r, 3);
	/* A store that shows more names than a look reads: the true ones are the oldest. */
	for (uint32_t i = 0; i < 4200; i++) {
		nf_put_le64(rand, i);
		nf_head_name(1000000 + i, rand, name);
		ck_assert_int_eq(world_put(&r->w, name, junk, sizeof junk), 0);
	}
	nf_clock_fake_set(200000 * NF_NS_PER_S);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(nf_look_prune(r->l, 300, &nr), 0);
		ck_assert_uint_eq(nr, 64);
		struct nf_store_op op = { .verb = NF_STORE_STAT };
		nf_head_name(r->h[2].id.seq, r->h[2].id.rand, op.name);
		ck_assert_int_eq(nf_store_run(r->w.store, &op), 0);
		nf_store_op_deinit(&op);
	}
	nf_clock_fake_end();
	rig_free(r);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "cover", 120);
	tcase_add_test(tc, of_thousands_of_heads_the_newest_is_read_and_what_its_tree_says);
	tcase_add_test(tc, a_few_names_are_found_in_a_long_tree_by_reading_little_of_it);
	tcase_add_test(tc, both_sides_of_a_fork_are_found_and_what_nobody_built_upon);
	tcase_add_test(tc, what_stands_under_a_covered_name_does_not_matter);
	tcase_add_test(tc, names_stay_covered_only_while_a_head_that_covers_them_is_listed);
	tcase_add_test(tc, a_tree_that_cannot_be_read_covers_nothing_and_all_heads_are_read);
	tcase_add_test(tc, covered_heads_are_pruned_without_being_read);
	tcase_add_test(tc, names_that_were_not_asked_for_are_never_pruned_as_leftovers);
}

NF_SUITE("vault/cover")
