/* Regions, range sets and groups. */
#include "suite.h"

#include "base/mem.h"
#include "base/random.h"
#include "pagecache/group.h"
#include "pagecache/region.h"

static const struct nf_region_ops no_ops;
static struct nf_group *group, *other;
static struct nf_regions rs;

static void setup(void)
{
	group = nf_group_new(1);
	other = nf_group_new(2);
	nf_regions_init(&rs);
}

static void teardown(void)
{
	nf_regions_cut(&rs, 0, UINT64_MAX, "end");
	nf_group_free(group);
	nf_group_free(other);
}

static struct nf_region *dirty(enum nf_region_type type, struct nf_group *g, uint64_t start, uint64_t end)
{
	struct nf_region *rg = nf_region_new(type, NF_REGION_ACTIVE, g, start, end);

	nf_regions_cut(&rs, start, end, "superseded");
	nf_region_move(rg, NF_REGION_DIRTY, "commit");
	nf_list_add_tail(&g->dirty, &rg->link);
	return nf_regions_merge(&rs, rg, &no_ops);
}

static struct nf_region *ordinary(uint64_t start, uint64_t end)
{
	return dirty(NF_REGION_ORDINARY, group, start, end);
}

START_TEST(touching_ordinary_regions_become_one)
{
	ordinary(100, 200);
	ordinary(300, 400);
	struct nf_region *rg = ordinary(200, 300);
	ck_assert_uint_eq(rs.nr, 1);
	ck_assert_uint_eq(rg->start, 100);
	ck_assert_uint_eq(rg->end, 400);
	ck_assert_uint_eq(rs.bytes, 300);
	nf_regions_check(&rs, NF_REGION_DIRTY);
}
END_TEST

START_TEST(regions_of_two_groups_or_kinds_stay_apart)
{
	ordinary(0, 100);
	dirty(NF_REGION_ORDINARY, other, 100, 200);
	dirty(NF_REGION_DSYNC, other, 200, 300);
	dirty(NF_REGION_DSYNC, other, 300, 400);
	dirty(NF_REGION_FALLOCATE, other, 400, 500);
	ck_assert_uint_eq(rs.nr, 5);
	ck_assert_uint_eq(rs.bytes, 400); /* zeros weigh nothing */
	nf_regions_check(&rs, NF_REGION_DIRTY);
}
END_TEST

START_TEST(a_cut_inside_a_region_leaves_both_ends)
{
	ordinary(100, 400);
	nf_regions_cut(&rs, 200, 300, "cut");
	struct nf_region *a = nf_regions_at(&rs, 0), *b = nf_regions_next(a);
	ck_assert(a->start == 100 && a->end == 200 && b->start == 300 && b->end == 400);
	ck_assert_uint_eq(rs.bytes, 200);
	nf_regions_check(&rs, NF_REGION_DIRTY);
}
END_TEST

/* However many regions there are in a block: it is stored once. */
START_TEST(what_storing_takes_is_counted_by_blocks)
{
	enum { UNIT = 64, BLOCKS = 20, BYTES = UNIT * BLOCKS };
	static bool is_dirty[BYTES];
	struct nf_prng prng;

	memset(is_dirty, 0, sizeof is_dirty);
	nf_prng_seed(&prng, (uint64_t)_i);
	rs.block_bytes = UNIT;
	for (int i = 0; i < 3000; i++) {
		uint64_t start = nf_prng_below(&prng, BYTES - 1), len = 1 + nf_prng_below(&prng, i % 7 ? 5 : 150), blocks = 0;
		uint64_t end = NF_MIN(start + len, (uint64_t)BYTES);
		bool now = nf_prng_below(&prng, 2);
		if (now)
			ordinary(start, end);
		else
			nf_regions_cut(&rs, start, end, "cut");
		for (uint64_t at = start; at < end; at++)
			is_dirty[at] = now;
		for (unsigned b = 0; b < BLOCKS; b++)
			blocks += memchr(is_dirty + b * UNIT, true, UNIT) != NULL;
		ck_assert_uint_eq(rs.box_bytes, blocks * UNIT);
		nf_regions_check(&rs, NF_REGION_DIRTY);
	}
	nf_regions_cut(&rs, 0, UINT64_MAX, "end");
	ck_assert_uint_eq(rs.box_bytes, 0);
	/* What is stored apart counts apart. */
	ordinary(0, 10);
	dirty(NF_REGION_ORDINARY, other, 10, 20);
	dirty(NF_REGION_DSYNC, other, 20, 30);
	ck_assert_uint_eq(rs.box_bytes, 3 * UNIT);
}
END_TEST

static struct nf_region writer(enum nf_region_type type, uint64_t start, uint64_t end)
{
	return (struct nf_region){ .type = type, .start = start, .end = end,
				   .reserved_start = start, .reserved_end = end };
}

START_TEST(writers_wait_for_overlap_and_exclusive_ones_for_shared_blocks)
{
	static const struct {
		enum nf_region_type old, now;
		uint64_t start, end; /* of now; old is [1000, 2000) */
		bool pend;
	} rows[] = {
		{ NF_REGION_ORDINARY, NF_REGION_ORDINARY, 1999, 3000, true },
		{ NF_REGION_ORDINARY, NF_REGION_ORDINARY, 2000, 3000, false },
		{ NF_REGION_ORDINARY, NF_REGION_DSYNC, 0, 1000, false },
		{ NF_REGION_ORDINARY, NF_REGION_DIRECT, 2000, 3000, true },
		{ NF_REGION_DIRECT, NF_REGION_ORDINARY, 2000, 3000, true },
		{ NF_REGION_DIRECT, NF_REGION_ORDINARY, 4096, 5000, false },
		{ NF_REGION_ORDINARY, NF_REGION_TRUNCATE, 3000, UINT64_MAX, true },
		{ NF_REGION_ORDINARY, NF_REGION_TRUNCATE, 4096, UINT64_MAX, false },
		{ NF_REGION_FALLOCATE, NF_REGION_ORDINARY, 3000, 3001, true },
	};

	for (unsigned i = 0; i < NF_ARRAY_LEN(rows); i++) {
		struct nf_region old = writer(rows[i].old, 1000, 2000);
		struct nf_region now = writer(rows[i].now, rows[i].start, rows[i].end);
		ck_assert_int_eq(nf_region_must_pend(&old, &now, NULL, 4096, &no_ops), rows[i].pend);
	}
}
END_TEST

static bool never(void *ctx, void *old_priv, void *now_priv)
{
	(void)ctx, (void)old_priv, (void)now_priv;
	return false;
}

START_TEST(the_table_of_what_may_lie_over_what)
{
	static const struct nf_region_ops strict = { .compatible = never };
	struct nf_region_priv a = { .refs = 1 }, b = { .refs = 1 };
	static const struct {
		enum nf_region_type old, now;
		enum nf_verdict verdict;
	} rows[] = {
		{ NF_REGION_ORDINARY, NF_REGION_ORDINARY, NF_COMPATIBLE },
		{ NF_REGION_ORDINARY, NF_REGION_DSYNC, NF_SUPERSEDE },
		{ NF_REGION_DSYNC, NF_REGION_ORDINARY, NF_INCOMPATIBLE },
		{ NF_REGION_DSYNC, NF_REGION_DSYNC, NF_INCOMPATIBLE },
		{ NF_REGION_DIRECT, NF_REGION_ORDINARY, NF_INCOMPATIBLE },
		{ NF_REGION_ORDINARY, NF_REGION_DIRECT, NF_INCOMPATIBLE },
		{ NF_REGION_FALLOCATE, NF_REGION_ORDINARY, NF_SUPERSEDE },
		{ NF_REGION_ORDINARY, NF_REGION_TRUNCATE, NF_SUPERSEDE },
		{ NF_REGION_DIRECT, NF_REGION_TRUNCATE, NF_SUPERSEDE },
	};

	for (unsigned i = 0; i < NF_ARRAY_LEN(rows); i++) {
		struct nf_region old = writer(rows[i].old, 0, 10), now = writer(rows[i].now, 5, 15);
		old.group = group;
		ck_assert_int_eq(nf_region_verdict(&old, &now, group, &no_ops), rows[i].verdict);
		ck_assert_int_eq(nf_region_verdict(&old, &now, other, &no_ops), NF_INCOMPATIBLE);
	}
	struct nf_region old = writer(NF_REGION_ORDINARY, 0, 10), now = old;
	old.group = group;
	old.priv = &a;
	now.priv = &b;
	ck_assert_int_eq(nf_region_verdict(&old, &now, group, &strict), NF_INCOMPATIBLE);
	now.priv = &a;
	ck_assert_int_eq(nf_region_verdict(&old, &now, group, &strict), NF_COMPATIBLE);
}
END_TEST

/* B.5, G36: what was written meanwhile wins, the rest comes back around it. */
START_TEST(a_tree_that_agrees_has_nothing_incompatible)
{
	static const enum nf_region_type types[] = { NF_REGION_ORDINARY, NF_REGION_DSYNC, NF_REGION_DIRECT,
						     NF_REGION_TRUNCATE, NF_REGION_FALLOCATE };
	unsigned agreed = 0;

	for (unsigned o = 0; o < NF_ARRAY_LEN(types); o++) {
		struct nf_region *old = dirty(types[o], group, 1000, 2000);
		ordinary(1200, 1300); /* over it, and cuts it in two */
		for (unsigned n = 0; n < NF_ARRAY_LEN(types); n++) {
			struct nf_region now = writer(types[n], 1000, 2000);
			bool agree = nf_regions_agree(&rs, &now, true, &no_ops);
			ck_assert(!agree || nf_region_verdict(old, &now, group, &no_ops) != NF_INCOMPATIBLE);
			ck_assert(!nf_regions_agree(&rs, &now, false, &no_ops));
			agreed += agree;
		}
		nf_regions_check(&rs, NF_REGION_DIRTY);
		nf_regions_cut(&rs, 0, UINT64_MAX, "next");
	}
	ck_assert_uint_eq(agreed, 3 * 4); /* over ordinary bytes and zeros everything but direct writes */
}
END_TEST

START_TEST(g36_a_failed_region_comes_back_around_newer_ones)
{
	struct nf_region *failed = nf_region_new(NF_REGION_ORDINARY, NF_REGION_FLUSHING, group, 100, 500);

	failed->seq = 1;
	ordinary(50, 150)->seq = 5;
	dirty(NF_REGION_FALLOCATE, group, 200, 300);
	nf_regions_redirty(&rs, failed, &group->dirty, &no_ops);
	nf_regions_check(&rs, NF_REGION_DIRTY);
	struct nf_region *a = nf_regions_at(&rs, 0), *b = nf_regions_next(a), *c = nf_regions_next(b);
	ck_assert(a->start == 50 && a->end == 200 && a->seq == 1);
	ck_assert(b->start == 200 && b->end == 300 && nf_region_is_zero(b));
	ck_assert(c->start == 300 && c->end == 500 && !nf_regions_next(c));
}
END_TEST

START_TEST(splitting_shares_the_private_state_and_the_last_one_gives_it_up)
{
	struct nf_list dead;
	struct nf_region_priv rp = { .dead = &dead, .refs = 1 };

	nf_list_init(&dead);
	nf_list_init(&rp.link);
	struct nf_region *rg = ordinary(0, 100);
	rg->priv = &rp;
	(void)nf_regions_split(&rs, rg, 50);
	ck_assert_uint_eq(rp.refs, 2);
	nf_regions_cut(&rs, 0, 60, "cut");
	ck_assert_uint_eq(rp.refs, 1);
	ck_assert(nf_list_empty(&dead));
	nf_regions_cut(&rs, 0, 100, "cut");
	ck_assert(!nf_list_empty(&dead));
}
END_TEST

START_TEST(a_range_set_is_a_set_of_bytes)
{
	struct nf_rangeset s;
	struct nf_prng g;
	bool model[200];

	nf_prng_seed(&g, (uint64_t)_i + 1);
	nf_rangeset_init(&s);
	memset(model, 0, sizeof model);
	for (int step = 0; step < 300; step++) {
		uint64_t a = nf_prng_below(&g, 199), b = a + 1 + nf_prng_below(&g, 199 - a);
		bool add = nf_prng_below(&g, 2);
		if (add)
			nf_rangeset_add(&s, a, b);
		else
			nf_rangeset_remove(&s, a, b);
		for (uint64_t i = a; i < b; i++)
			model[i] = add;
		uint64_t pos = 0, start = 0, end = 0, last = 0, nr = 0;
		for (; nf_rangeset_next(&s, pos, &start, &end); pos = end, nr++) {
			ck_assert(nr == 0 || start > last);
			for (uint64_t i = last; i < start; i++)
				ck_assert(!model[i]);
			for (uint64_t i = start; i < end; i++)
				ck_assert(model[i]);
			last = end;
		}
		for (uint64_t i = last; i < 200; i++)
			ck_assert(!model[i]);
		ck_assert_uint_eq(nr, s.nr);
		ck_assert_uint_eq(last, nf_rangeset_end(&s));
	}
	nf_rangeset_deinit(&s);
}
END_TEST

START_TEST(a_group_tells_what_was_written_and_what_was_zeroed_since)
{
	struct nf_group_info info;

	nf_group_wrote(group, 0, 1000);
	ck_assert_uint_eq(group->ranges.nr, 0); /* not before a request has it */
	nf_group_gathered(group, 0, 1000);
	nf_group_zeroed(group, 200, 300);
	nf_group_wrote(group, 250, 260);
	nf_group_gathered(group, 250, 260);
	nf_group_truncated(group, 800);
	group->size_bytes = 800;
	ck_assert_int_eq(nf_group_info_init(&info, group), 0);
	ck_assert_uint_eq(info.nr_ranges, 3);
	ck_assert(info.ranges[1].start == 250 && info.ranges[1].end == 260);
	ck_assert(info.ranges[2].start == 300 && info.ranges[2].end == 800);
	ck_assert_uint_eq(info.nr_holes, 2);
	ck_assert(info.holes[0].start == 200 && info.holes[0].end == 250);
	ck_assert_uint_eq(info.least_size_bytes, 800);
	nf_group_info_deinit(&info);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "region", 20);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, touching_ordinary_regions_become_one);
	tcase_add_test(tc, regions_of_two_groups_or_kinds_stay_apart);
	tcase_add_test(tc, a_cut_inside_a_region_leaves_both_ends);
	tcase_add_loop_test(tc, what_storing_takes_is_counted_by_blocks, 0, 5);
	tcase_add_test(tc, writers_wait_for_overlap_and_exclusive_ones_for_shared_blocks);
	tcase_add_test(tc, the_table_of_what_may_lie_over_what);
	tcase_add_test(tc, a_tree_that_agrees_has_nothing_incompatible);
	tcase_add_test(tc, g36_a_failed_region_comes_back_around_newer_ones);
	tcase_add_test(tc, splitting_shares_the_private_state_and_the_last_one_gives_it_up);
	tcase_add_loop_test(tc, a_range_set_is_a_set_of_bytes, 0, 5);
	tcase_add_test(tc, a_group_tells_what_was_written_and_what_was_zeroed_since);
}

NF_SUITE("pagecache/region")
