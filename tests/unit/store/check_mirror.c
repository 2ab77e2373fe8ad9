/* The mirror: a second vault that is whole at every moment, whatever fails. */
#include "store/fault.h"
#include "store/mirror.h"

#include "aio/pool.h"
#include "base/clock.h"
#include "conform.h"
#include "suite.h"

#include <unistd.h>

struct rig {
	struct nf_store *first, *second, *top; /* first and second: faults on memory, freed with top */
	struct nf_store *keep[2];              /* the memory below, as another device sees it */
};

static void rig_init(struct rig *r)
{
	static unsigned nr;
	char name[64];

	for (int i = 0; i < 2; i++) {
		snprintf(name, sizeof name, "mem:mirror%u-%d", nr, i);
		ck_assert_int_eq(nf_store_open(name, NULL, false, &r->keep[i]), 0);
		snprintf(name, sizeof name, "fault+mem:mirror%u-%d?", nr, i);
		ck_assert_int_eq(nf_store_open(name, NULL, false, i ? &r->second : &r->first), 0);
	}
	nr++;
}

static void rig_open(struct rig *r) { ck_assert_int_eq(nf_mirror_new(r->first, r->second, &r->top), 0); }

static void rig_deinit(struct rig *r)
{
	nf_store_free(r->top);
	nf_store_free(r->keep[0]);
	nf_store_free(r->keep[1]);
}

static bool in_step(struct rig *r)
{
	struct nf_mirror_status s;

	nf_mirror_wake(r->top);
	nf_mirror_status(r->top, &s);
	return s.in_step;
}

static void wait_in_step(struct rig *r)
{
	for (uint64_t end = nf_clock_ns() + 10 * NF_NS_PER_S; !in_step(r);) {
		ck_assert_uint_lt(nf_clock_ns(), end);
		usleep(2000);
	}
}

static bool has(struct nf_store *s, const char *name, size_t len)
{
	struct nf_store_op op;
	bool same;

	return conform_get(s, name, 0, len, false, &op, &same) == 0 && same;
}

START_TEST(what_was_there_before_is_copied_and_what_comes_goes_to_both)
{
	struct nf_mirror_status s;
	struct rig r;

	rig_init(&r);
	ck_assert_int_eq(conform_put(r.first, "header/00000001/a", 100), 0);
	ck_assert_int_eq(conform_put(r.first, "packs/ab/abc", 5000), 0);
	ck_assert_int_eq(conform_put(r.first, "heads/1-a", 50), 0);
	rig_open(&r);
	wait_in_step(&r);
	ck_assert(has(r.keep[1], "header/00000001/a", 100) && has(r.keep[1], "packs/ab/abc", 5000));
	ck_assert(has(r.keep[1], "heads/1-a", 50));
	ck_assert_int_eq(conform_put(r.top, "packs/cd/cde", 300), 0);
	ck_assert_int_eq(conform_put(r.top, "heads/2-a", 60), 0);
	ck_assert(has(r.keep[1], "packs/cd/cde", 300) && has(r.keep[1], "heads/2-a", 60));
	struct nf_store_op del = { .verb = NF_STORE_DELETE, .name = "packs/cd/cde" };
	ck_assert_int_eq(nf_store_run(r.top, &del), 0);
	ck_assert(!has(r.keep[0], "packs/cd/cde", 300) && !has(r.keep[1], "packs/cd/cde", 300));
	nf_mirror_status(r.top, &s);
	ck_assert(s.in_step && s.copied_objects == 3 && s.copied_bytes == 5150);
	rig_deinit(&r);
}
END_TEST

START_TEST(a_mirror_that_fails_harms_nobody_is_sent_no_head_and_catches_up)
{
	struct rig r;

	rig_init(&r);
	rig_open(&r);
	wait_in_step(&r);
	nf_store_fault_set_offline(r.second, true);
	ck_assert_int_eq(conform_put(r.top, "packs/ab/one", 1000), 0);
	ck_assert(has(r.keep[0], "packs/ab/one", 1000) && !has(r.keep[1], "packs/ab/one", 1000));
	/* Back, but the pack is not there yet: heads must not be. */
	ck_assert_int_eq(nf_store_fault_set(r.second, "status=503:1&verbs=list"), 0);
	ck_assert_int_eq(conform_put(r.top, "packs/ab/two", 1000), 0);
	ck_assert_int_eq(conform_put(r.top, "heads/1-a", 50), 0);
	ck_assert(has(r.keep[1], "packs/ab/two", 1000) && !has(r.keep[1], "heads/1-a", 50));
	ck_assert(!in_step(&r));
	ck_assert_int_eq(nf_store_fault_set(r.second, ""), 0);
	wait_in_step(&r);
	ck_assert(has(r.keep[1], "packs/ab/one", 1000) && has(r.keep[1], "heads/1-a", 50));
	rig_deinit(&r);
}
END_TEST

START_TEST(a_torn_copy_is_written_again)
{
	struct rig r;

	rig_init(&r);
	ck_assert_int_eq(nf_store_fault_set(r.second, "tornput=1&name=packs/"), 0);
	ck_assert_int_eq(conform_put(r.first, "packs/ab/one", 1000), 0);
	ck_assert_int_eq(conform_put(r.first, "heads/1-a", 50), 0);
	rig_open(&r);
	usleep(50000);
	ck_assert(!in_step(&r) && !has(r.keep[1], "heads/1-a", 50));
	ck_assert_int_eq(nf_store_fault_set(r.second, ""), 0);
	wait_in_step(&r);
	ck_assert(has(r.keep[1], "packs/ab/one", 1000) && has(r.keep[1], "heads/1-a", 50));
	rig_deinit(&r);
}
END_TEST

START_TEST(the_store_failing_is_what_the_caller_hears)
{
	struct rig r;

	rig_init(&r);
	rig_open(&r);
	wait_in_step(&r);
	ck_assert_int_eq(nf_store_fault_set(r.first, "status=507:1&verbs=put"), 0);
	ck_assert_int_eq(conform_put(r.top, "packs/ab/one", 1000), -NF_E_STORE_FULL);
	rig_deinit(&r);
}
END_TEST

static void on_done(struct nf_store_op *op) { nf_completion_set(op->ctx); }

START_TEST(a_write_can_be_cancelled_and_ends_once)
{
	struct nf_completion done;
	struct rig r;
	uint8_t body[64] = { 0 };

	rig_init(&r);
	rig_open(&r);
	wait_in_step(&r);
	ck_assert_int_eq(nf_store_fault_hold(r.first, "put:*"), 0);
	ck_assert_int_eq(nf_store_fault_hold(r.second, "put:*"), 0);
	ck_assert_int_eq(nf_completion_init(&done), 0);
	struct nf_store_op op = { .verb = NF_STORE_PUT, .name = "packs/ab/x", .iov = &(struct iovec){ body, sizeof body },
				  .nr_iov = 1, .length_bytes = sizeof body, .done = on_done, .ctx = &done };
	nf_store_submit(r.top, &op);
	nf_store_cancel(r.top, &op);
	nf_completion_wait(&done);
	nf_completion_deinit(&done);
	ck_assert_int_eq(op.error, -NF_E_CANCELLED);
	(void)nf_store_fault_release(r.first);
	(void)nf_store_fault_release(r.second);
	wait_in_step(&r);
	rig_deinit(&r);
}
END_TEST

/* Commits go on while the mirror comes and goes: heads on the mirror never name a pack it has not. */
START_TEST(at_every_moment_every_head_on_the_mirror_has_its_pack)
{
	struct rig r;
	char name[64];

	rig_init(&r);
	rig_open(&r);
	for (int i = 0; i < 120; i++) {
		if (i % 10 == 3)
			nf_store_fault_set_offline(r.second, true);
		if (i % 10 == 7)
			nf_store_fault_set_offline(r.second, false);
		snprintf(name, sizeof name, "packs/%02x/p%d", i % 4, i);
		ck_assert_int_eq(conform_put(r.top, name, 400), 0);
		snprintf(name, sizeof name, "heads/%d-x", i);
		ck_assert_int_eq(conform_put(r.top, name, 40), 0);
		nf_mirror_wake(r.top);
		struct nf_store_op l = { .verb = NF_STORE_LIST, .name = "heads" };
		int e = nf_store_run(r.keep[1], &l);
		ck_assert(e == 0 || e == -NF_E_STORE_NOT_FOUND);
		for (size_t k = 0; e == 0 && k < l.nr_entries; k++) {
			int n = atoi(l.entries[k].name);
			snprintf(name, sizeof name, "packs/%02x/p%d", n % 4, n);
			ck_assert(has(r.keep[1], name, 400));
		}
		nf_store_op_deinit(&l);
	}
	nf_store_fault_set_offline(r.second, false);
	wait_in_step(&r);
	for (int i = 0; i < 120; i++) {
		snprintf(name, sizeof name, "heads/%d-x", i);
		ck_assert(has(r.keep[1], name, 40));
	}
	rig_deinit(&r);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "mirror", 60);
	tcase_add_test(tc, what_was_there_before_is_copied_and_what_comes_goes_to_both);
	tcase_add_test(tc, a_mirror_that_fails_harms_nobody_is_sent_no_head_and_catches_up);
	tcase_add_test(tc, a_torn_copy_is_written_again);
	tcase_add_test(tc, the_store_failing_is_what_the_caller_hears);
	tcase_add_test(tc, a_write_can_be_cancelled_and_ends_once);
	tcase_add_test(tc, at_every_moment_every_head_on_the_mirror_has_its_pack);
}

NF_SUITE("store/mirror")
