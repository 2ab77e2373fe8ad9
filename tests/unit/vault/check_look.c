#include "vault/look.h"

#include "base/clock.h"
#include "world.h"

/* Seals a head of one writer's dot on top of what PARENT (may be NULL) contains. */
static void make_head(struct nf_head *h, const struct nf_head *parent, uint32_t writer, uint64_t seq)
{
	const struct nf_vector_entry e = { .writer = writer, .seq = seq };

	*h = (struct nf_head){ .id = { .seq = parent ? parent->id.seq + 1 : 1 }, .writer = writer, .writer_seq = seq };
	if (parent) {
		h->nr_parents = 1;
		h->parents[0] = parent->id;
		ck_assert_int_eq(nf_vector_copy(&h->vector, &parent->vector), 0);
	}
	ck_assert_int_eq(nf_vector_set(&h->vector, &e), 0);
}

static void put_head(struct world *w, struct nf_head *h, const struct nf_head *parent, uint32_t writer, uint64_t seq)
{
	make_head(h, parent, writer, seq);
	ck_assert_int_eq(nf_head_put(w->store, w->codec, h), 0);
}

static struct nf_look *new_look(struct world *w)
{
	struct nf_look *l;
	ck_assert_int_eq(nf_look_new(w->store, w->ring, NULL, &l), 0);
	return l;
}

static void expect_leaves(struct nf_look *l, size_t nr, const struct nf_head *a, const struct nf_head *b)
{
	const struct nf_head *want[2] = { a, b };
	struct nf_look_result r;

	ck_assert_int_eq(nf_look(l, &r), 0);
	ck_assert_uint_eq(r.nr_leaves, nr);
	for (size_t i = 0; i < nr; i++) {
		bool found = false;
		for (size_t k = 0; k < nr; k++)
			found |= !memcmp(r.leaves[i]->id.tag, want[k]->id.tag, 16);
		ck_assert(found);
		ck_assert(i == 0 || r.leaves[i - 1]->id.seq <= r.leaves[i]->id.seq);
	}
}

START_TEST(an_empty_vault_has_no_leaves)
{
	struct world w;
	world_init(&w);
	struct nf_look *l = new_look(&w);
	expect_leaves(l, 0, NULL, NULL);
	ck_assert_int_eq(nf_look_poll(l), 0);
	nf_look_free(l);
	nf_look_free(NULL);
	world_deinit(&w);
}
END_TEST

START_TEST(leaves_are_what_no_other_head_covers)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a, b, c, m;
	world_init(&w);
	struct nf_look *l = new_look(&w);

	put_head(&w, &a, NULL, 1, 1);
	expect_leaves(l, 1, &a, NULL);
	put_head(&w, &b, &a, 1, 2);
	put_head(&w, &c, &a, 2, 1);
	ck_assert_int_eq(nf_look_poll(l), 1);
	expect_leaves(l, 2, &b, &c);
	ck_assert_int_eq(nf_look_poll(l), 0);
	make_head(&m, &b, 2, 1); /* both */
	ck_assert_int_eq(nf_head_put(w.store, w.codec, &m), 0);
	expect_leaves(l, 1, &m, NULL);
	uint64_t gets = world_seen(&w, NF_STORE_GET);
	ck_assert_uint_eq(gets, 4);
	expect_leaves(l, 1, &m, NULL);
	ck_assert_uint_eq(world_seen(&w, NF_STORE_GET), gets); /* known heads are not asked for */
	nf_look_free(l);
	world_deinit(&w);
}
END_TEST

START_TEST(of_equal_vectors_the_smaller_tag_is_the_leaf)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a, b;
	world_init(&w);
	struct nf_look *l = new_look(&w);

	put_head(&w, &a, NULL, 1, 1);
	put_head(&w, &b, NULL, 1, 1);
	expect_leaves(l, 1, memcmp(a.id.tag, b.id.tag, 16) < 0 ? &a : &b, NULL);
	nf_look_free(l);
	world_deinit(&w);
}
END_TEST

START_TEST(a_torn_head_is_not_there_yet_and_is_seen_when_whole)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a, b;
	struct nf_look_result r;
	char name[64];
	void *file;
	size_t len;
	world_init(&w);
	struct nf_look *l = new_look(&w);

	put_head(&w, &a, NULL, 1, 1);
	make_head(&b, &a, 1, 2);
	nf_random(b.id.rand, 16);
	ck_assert_int_eq(nf_head_seal(w.codec, &b, &file, &len), 0);
	nf_head_name(b.id.seq, b.id.rand, name);
	ck_assert_int_eq(world_put(&w, name, file, len / 2), 0);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(nf_look(l, &r), 0);
		ck_assert(r.nr_leaves == 1 && r.nr_listed == 2 && r.nr_unreadable == 1);
		ck_assert_int_eq(nf_look_poll(l), 1); /* it may become whole any moment */
	}
	ck_assert_int_eq(world_put(&w, name, file, len), 0);
	expect_leaves(l, 1, &b, NULL);
	ck_assert_int_eq(nf_look_poll(l), 0);
	free(file);
	nf_look_free(l);
	world_deinit(&w);
}
END_TEST

START_TEST(names_and_files_that_are_no_heads_do_not_disturb)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a;
	static uint8_t big[NF_HEAD_BYTES_MAX + 1];
	struct nf_look_result r;
	char name[64];
	world_init(&w);
	struct nf_look *l = new_look(&w);

	put_head(&w, &a, NULL, 1, 1);
	ck_assert_int_eq(world_put(&w, "heads/x", "y", 1), 0);
	nf_head_name(99, a.id.rand, name);
	ck_assert_int_eq(world_put(&w, name, big, sizeof big), 0);
	uint64_t gets = world_seen(&w, NF_STORE_GET);
	ck_assert_int_eq(nf_look(l, &r), 0);
	ck_assert(r.nr_leaves == 1 && r.nr_listed == 2 && r.nr_unreadable == 1);
	ck_assert_uint_eq(world_seen(&w, NF_STORE_GET), gets + 1); /* a megabyte and more is not fetched */
	nf_look_free(l);
	world_deinit(&w);
}
END_TEST

START_TEST(a_store_that_cannot_be_reached_fails_the_look_and_is_no_empty_vault)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a;
	struct nf_look_result r;
	world_init(&w);
	struct nf_look *l = new_look(&w);

	put_head(&w, &a, NULL, 1, 1);
	ck_assert_int_eq(nf_store_fault_set(w.store, "drop=1&verbs=get"), 0);
	ck_assert_int_eq(nf_look(l, &r), -NF_E_OFFLINE);
	ck_assert_int_eq(nf_store_fault_set(w.store, "drop=1&verbs=list"), 0);
	ck_assert_int_eq(nf_look(l, &r), -NF_E_OFFLINE);
	ck_assert_int_eq(nf_look_poll(l), -NF_E_OFFLINE);
	ck_assert_int_eq(nf_store_fault_set(w.store, ""), 0);
	expect_leaves(l, 1, &a, NULL);
	nf_look_free(l);
	world_deinit(&w);
}
END_TEST

START_TEST(a_confirmed_head_of_our_own_is_not_fetched)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a;
	world_init(&w);
	struct nf_look *l = new_look(&w);

	put_head(&w, &a, NULL, 1, 1);
	ck_assert_int_eq(nf_look_add(l, &a), 0);
	ck_assert_int_eq(nf_look_add(l, &a), 0);
	expect_leaves(l, 1, &a, NULL);
	ck_assert_uint_eq(world_seen(&w, NF_STORE_GET), 0);
	nf_look_free(l);
	world_deinit(&w);
}
END_TEST

START_TEST(a_head_of_lost_reply_is_reported_unknown_and_found)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a;
	world_init(&w);
	struct nf_look *l = new_look(&w);

	make_head(&a, NULL, 1, 1);
	ck_assert_int_eq(nf_store_fault_set(w.store, "lostreply=1&verbs=put"), 0);
	ck_assert_int_eq(nf_head_put(w.store, w.codec, &a), -NF_E_STORE_UNKNOWN_OUTCOME);
	ck_assert_int_eq(nf_store_fault_set(w.store, "status=503:1&verbs=put"), 0);
	struct nf_head again = a;
	ck_assert_int_eq(nf_head_put(w.store, w.codec, &again), -NF_E_STORE_UNKNOWN_OUTCOME);
	ck_assert_int_eq(nf_store_fault_set(w.store, "status=507:1&verbs=put"), 0);
	ck_assert_int_eq(nf_head_put(w.store, w.codec, &again), -NF_E_STORE_FULL);
	ck_assert_int_eq(nf_store_fault_set(w.store, ""), 0);
	expect_leaves(l, 1, &a, NULL);
	nf_look_free(l);
	world_deinit(&w);
}
END_TEST

START_TEST(only_old_covered_heads_and_old_leftovers_are_pruned)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a, b, c;
	char torn[64];
	uint8_t rand[16] = { 3 };
	size_t nr = 99;
	uint64_t now_ns = UINT64_C(1000000) * NF_NS_PER_S;
	world_init(&w);
	struct nf_look *l = new_look(&w);

	nf_clock_fake_set(now_ns);
	put_head(&w, &a, NULL, 1, 1);
	nf_head_name(1, rand, torn);
	ck_assert_int_eq(world_put(&w, torn, "half", 4), 0);
	nf_clock_fake_set(now_ns + 1000 * NF_NS_PER_S);
	put_head(&w, &b, &a, 1, 2);
	put_head(&w, &c, &a, 2, 1);
	/* What covers is still young: a listing that began before it may be under way. */
	ck_assert_int_eq(nf_look_prune(l, 300, &nr), 0);
	ck_assert_uint_eq(nr, 0);
	nf_clock_fake_set(now_ns + 1301 * NF_NS_PER_S);
	ck_assert_int_eq(nf_look_prune(l, 300, &nr), 0);
	ck_assert_uint_eq(nr, 1);
	expect_leaves(l, 2, &b, &c);
	ck_assert_uint_eq(world_list(&w, "heads"), 3);
	nf_clock_fake_set(now_ns + 90000 * NF_NS_PER_S);
	ck_assert_int_eq(nf_look_prune(l, 300, &nr), 0);
	ck_assert_uint_eq(nr, 1);
	ck_assert_uint_eq(world_list(&w, "heads"), 2);
	expect_leaves(l, 2, &b, &c);
	nf_clock_fake_end();
	nf_look_free(l);
	world_deinit(&w);
}
END_TEST

START_TEST(of_two_equal_old_heads_one_stays)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a, b;
	size_t nr = 99;
	world_init(&w);
	struct nf_look *l = new_look(&w), *l2 = new_look(&w);

	nf_clock_fake_set(1000 * NF_NS_PER_S);
	put_head(&w, &a, NULL, 1, 1);
	put_head(&w, &b, NULL, 1, 1);
	nf_clock_fake_set(5000 * NF_NS_PER_S);
	ck_assert_int_eq(nf_look_prune(l, 300, &nr), 0);
	ck_assert_uint_eq(nr, 1);
	ck_assert_int_eq(nf_look_prune(l2, 300, &nr), 0);
	ck_assert_uint_eq(nr, 0);
	expect_leaves(l2, 1, memcmp(a.id.tag, b.id.tag, 16) < 0 ? &a : &b, NULL);
	nf_clock_fake_end();
	nf_look_free(l);
	nf_look_free(l2);
	world_deinit(&w);
}
END_TEST

START_TEST(a_head_pruned_between_listing_and_reading_makes_the_look_list_again)
{
	struct world w;
	nf_auto(nf_head_deinit) struct nf_head a;
	struct nf_look_result r;
	world_init(&w);
	struct nf_look *l = new_look(&w);

	put_head(&w, &a, NULL, 1, 1);
	ck_assert_int_eq(nf_store_fault_set(w.store, "status=404:1&verbs=get"), 0);
	uint64_t lists = world_seen(&w, NF_STORE_LIST);
	ck_assert_int_eq(nf_look(l, &r), -NF_E_STORE_BUSY);
	ck_assert_uint_gt(world_seen(&w, NF_STORE_LIST), lists + 1);
	ck_assert_int_eq(nf_store_fault_set(w.store, ""), 0);
	expect_leaves(l, 1, &a, NULL);
	nf_look_free(l);
	world_deinit(&w);
}
END_TEST

START_TEST(many_heads_are_read_and_without_listing_the_hint_leads)
{
	enum { NR = 60 };
	struct world w;
	struct nf_head h[NR];
	struct nf_look_result r;
	char hint[80];
	world_init(&w);
	struct nf_look *l = new_look(&w), *l2 = new_look(&w);

	for (int i = 0; i < NR; i++)
		put_head(&w, &h[i], i ? &h[i - 1] : NULL, 1, (uint64_t)i + 1);
	expect_leaves(l, 1, &h[NR - 1], NULL);
	w.store->no_list = true;
	ck_assert_int_eq(nf_look(l2, &r), 0);
	ck_assert_uint_eq(r.nr_leaves, 0);
	nf_head_name(h[NR - 1].id.seq, h[NR - 1].id.rand, hint);
	strcat(hint, "\n");
	ck_assert_int_eq(world_put(&w, "hint", hint, strlen(hint)), 0);
	ck_assert_int_eq(nf_look_poll(l2), 1);
	expect_leaves(l2, 1, &h[NR - 1], NULL);
	ck_assert_int_eq(nf_look_poll(l2), 0);
	/* An older hint does not lead back. */
	nf_head_name(h[3].id.seq, h[3].id.rand, hint);
	ck_assert_int_eq(world_put(&w, "hint", hint, strlen(hint)), 0);
	expect_leaves(l2, 1, &h[NR - 1], NULL);
	w.store->no_list = false;
	for (int i = 0; i < NR; i++)
		nf_head_deinit(&h[i]);
	nf_look_free(l);
	nf_look_free(l2);
	world_deinit(&w);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "look", 60);
	tcase_add_test(tc, an_empty_vault_has_no_leaves);
	tcase_add_test(tc, leaves_are_what_no_other_head_covers);
	tcase_add_test(tc, of_equal_vectors_the_smaller_tag_is_the_leaf);
	tcase_add_test(tc, a_torn_head_is_not_there_yet_and_is_seen_when_whole);
	tcase_add_test(tc, names_and_files_that_are_no_heads_do_not_disturb);
	tcase_add_test(tc, a_store_that_cannot_be_reached_fails_the_look_and_is_no_empty_vault);
	tcase_add_test(tc, a_confirmed_head_of_our_own_is_not_fetched);
	tcase_add_test(tc, a_head_of_lost_reply_is_reported_unknown_and_found);
	tcase_add_test(tc, only_old_covered_heads_and_old_leftovers_are_pruned);
	tcase_add_test(tc, of_two_equal_old_heads_one_stays);
	tcase_add_test(tc, a_head_pruned_between_listing_and_reading_makes_the_look_list_again);
	tcase_add_test(tc, many_heads_are_read_and_without_listing_the_hint_leads);
}

NF_SUITE("vault/look")
