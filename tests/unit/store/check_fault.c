#include "store/fault.h"
#include "foliofs/store.h"

#include "aio/pool.h"
#include "base/clock.h"
#include "conform.h"
#include "suite.h"

#include <unistd.h>

static struct nf_store *fault_open(const char *rules)
{
	char address[512];
	struct nf_store *s;

	snprintf(address, sizeof address, "fault+mem:fault?%s", rules);
	ck_assert_int_eq(nf_store_open(address, NULL, false, &s), 0);
	ck_assert(nf_store_is_fault(s));
	return s;
}

static const char *const bad_rules[] = { "x", "drop", "drop=2", "drop=1.1", "drop=.", "drop=-1", "late=5",
					 "late=x:1", "status=200:1", "status=1000:1", "verbs=", "verbs=gut",
					 "delay=x", "hold=", "name=", "offline=1", "seed=", "rate=1k",
					 "cut", "cut=5", "cut=5:", "cut=0:5", "cut=5:0", "cut=5:x", "cut=3600001:5" };

START_TEST(rules_that_are_not_understood_are_refused)
{
	char address[128];
	struct nf_store *s;

	snprintf(address, sizeof address, "fault+mem:bad?%s", bad_rules[_i]);
	ck_assert_int_eq(nf_store_open(address, NULL, false, &s), -NF_E_OPTION);
}
END_TEST

START_TEST(each_rule_has_its_error_and_its_effect)
{
	static const struct {
		const char *rules;
		int put, get; /* errors */
		bool stored;
	} t[] = {
		{ "drop=1", -NF_E_OFFLINE, -NF_E_OFFLINE, false },
		{ "status=503:1", -NF_E_STORE_BUSY, -NF_E_STORE_BUSY, false },
		{ "status=507:1&verbs=put", -NF_E_STORE_FULL, -NF_E_STORE_NOT_FOUND, false },
		{ "lostreply=1", -NF_E_STORE_UNKNOWN_OUTCOME, -NF_E_STORE_SHORT, true },
		{ "torn=1", 0, -NF_E_STORE_SHORT, true },
		{ "offline", -NF_E_OFFLINE, -NF_E_OFFLINE, false },
		{ "drop=1&name=other", 0, 0, true },
		{ "drop=1&name=other&name=o", -NF_E_OFFLINE, -NF_E_OFFLINE, false },
		{ "late=30:1", 0, 0, true },
		{ "drop=0", 0, 0, true },
	};
	const size_t i = (size_t)_i;
	struct nf_store *s = fault_open(t[i].rules), *plain;
	struct nf_store_op op;
	bool same;

	ck_assert_int_eq(nf_store_open("mem:fault", NULL, false, &plain), 0);
	ck_assert_int_eq(conform_put(s, "o/x", 1000), t[i].put);
	ck_assert_int_eq(conform_get(s, "o/x", 0, 1000, false, &op, &same), t[i].get);
	ck_assert(t[i].get || same);
	int r = conform_get(plain, "o/x", 0, 1000, false, &op, &same);
	ck_assert_int_eq(r, t[i].stored ? 0 : -NF_E_STORE_NOT_FOUND);
	nf_store_free(s);
	nf_store_free(plain);
}
END_TEST

START_TEST(a_flipped_bit_is_one_bit_and_a_torn_put_is_half)
{
	struct nf_store *s = fault_open("flip=1&verbs=get");
	struct nf_store_op op;
	uint8_t body[100], want[100];
	int bits = 0;

	ck_assert_int_eq(conform_put(s, "x", 100), 0);
	conform_name(&op, NF_STORE_GET, "x");
	op.buf = body;
	op.length_bytes = 100;
	ck_assert_int_eq(nf_store_run(s, &op), 0);
	conform_fill("x", 0, want, 100);
	for (int i = 0; i < 100; i++)
		bits += __builtin_popcount((unsigned)(body[i] ^ want[i]));
	ck_assert_int_eq(bits, 1);
	ck_assert_int_eq(nf_store_fault_set(s, "tornput=1"), 0);
	ck_assert_int_eq(conform_put(s, "y", 101), -NF_E_STORE_UNKNOWN_OUTCOME);
	conform_name(&op, NF_STORE_STAT, "y");
	ck_assert_int_eq(nf_store_run(s, &op), 0);
	ck_assert_uint_eq(op.size_bytes, 50);
	nf_store_free(s);
}
END_TEST

static uint64_t history(const char *rules)
{
	struct nf_store *s = fault_open(rules);
	uint64_t bits = 0;

	for (int i = 0; i < 60; i++)
		bits = bits << 1 | (conform_put(s, "x", 10) != 0);
	nf_store_free(s);
	return bits;
}

START_TEST(a_seed_gives_the_same_faults_again)
{
	uint64_t a = history("seed=7&drop=0.3");

	ck_assert_uint_eq(a, history("seed=7&drop=0.3"));
	ck_assert_uint_ne(a, history("seed=8&drop=0.3"));
	/* Another rule does not move the first one's hits. */
	ck_assert_uint_eq(a, history("seed=7&drop=0.3&flip=0.5&late=0:1"));
	int hits = __builtin_popcountll(a);
	ck_assert(hits > 6 && hits < 36);
}
END_TEST

START_TEST(delays_run_in_parallel_and_the_rate_is_shared)
{
	struct nf_store *s = fault_open("delay=100");
	nf_auto_free struct conform_many *m = calloc(1, sizeof *m);
	uint64_t began_ns = nf_clock_ns();

	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->idle, NULL);
	ck_assert_int_eq(conform_round(s, m, NF_STORE_PUT), 0);
	uint64_t ms = (nf_clock_ns() - began_ns) / NF_NS_PER_MS;
	ck_assert_msg(ms >= 100 && ms < 1500, "%d ms", (int)ms);
	/* 40 bodies of 50,000 bytes at 10 MB/s: 200 ms. */
	ck_assert_int_eq(nf_store_fault_set(s, "rate=10000000"), 0);
	began_ns = nf_clock_ns();
	ck_assert_int_eq(conform_round(s, m, NF_STORE_GET), 0);
	ms = (nf_clock_ns() - began_ns) / NF_NS_PER_MS;
	ck_assert_msg(ms >= 195 && ms < 3000, "%d ms", (int)ms);
	nf_store_free(s);
}
END_TEST

struct async {
	struct nf_store_op op;
	struct nf_completion done;
};

static void async_done(struct nf_store_op *op) { nf_completion_set(&((struct async *)op)->done); }

static void async_start(struct nf_store *s, struct async *a, enum nf_store_verb verb, const char *name)
{
	conform_name(&a->op, verb, name);
	a->op.done = async_done;
	ck_assert_int_eq(nf_completion_init(&a->done), 0);
	nf_store_submit(s, &a->op);
}

static int async_end(struct async *a)
{
	nf_completion_wait(&a->done);
	nf_completion_deinit(&a->done);
	nf_store_op_deinit(&a->op);
	return a->op.error;
}

START_TEST(held_operations_have_no_effect_until_released)
{
	struct nf_store *s = fault_open("hold=put:p/*");
	struct async a, b, c;
	struct nf_store_op op;

	async_start(s, &a, NF_STORE_PUT, "p/a");
	async_start(s, &b, NF_STORE_PUT, "p/b");
	ck_assert_int_eq(conform_put(s, "q", 1), 0);
	ck_assert_uint_eq(nf_store_fault_held(s), 2);
	conform_name(&op, NF_STORE_STAT, "p/a");
	ck_assert_int_eq(nf_store_run(s, &op), -NF_E_STORE_NOT_FOUND);
	ck_assert(nf_store_fault_release_one(s));
	ck_assert_int_eq(async_end(&a), 0);
	ck_assert_int_eq(nf_store_run(s, &op), 0);
	nf_store_cancel(s, &b.op);
	ck_assert_int_eq(async_end(&b), -NF_E_CANCELLED);
	ck_assert(!nf_store_fault_release_one(s));
	ck_assert_int_eq(nf_store_fault_hold(s, "list:*"), 0);
	async_start(s, &a, NF_STORE_LIST, "");
	async_start(s, &b, NF_STORE_PUT, "p/c");
	async_start(s, &c, NF_STORE_PUT, "p/d");
	ck_assert_uint_eq(nf_store_fault_release(s), 3);
	ck_assert_int_eq(async_end(&a), 0);
	ck_assert_int_eq(async_end(&b), 0);
	ck_assert_int_eq(async_end(&c), 0);
	ck_assert_int_eq(conform_put(s, "p/e", 1), 0);
	struct nf_store_fault_counts n;
	nf_store_fault_counts(s, &n);
	ck_assert_uint_eq(n.held, 5);
	ck_assert_uint_eq(n.seen[NF_STORE_PUT], 6);
	ck_assert_uint_eq(n.passed[NF_STORE_PUT], 5);
	nf_store_free(s);
}
END_TEST

START_TEST(freeing_ends_what_is_held_and_what_waits)
{
	struct nf_store *s = fault_open("hold=get:*&delay=50");
	struct async a, b;

	async_start(s, &a, NF_STORE_GET, "x");
	async_start(s, &b, NF_STORE_PUT, "y");
	nf_store_free(s);
	ck_assert_int_eq(async_end(&a), -NF_E_CANCELLED);
	ck_assert_int_eq(async_end(&b), 0);
}
END_TEST

START_TEST(going_offline_loses_the_answers_under_way)
{
	/* The inner filter's delay is the network. */
	struct nf_store *s;
	struct async put, stat;

	ck_assert_int_eq(nf_store_open("fault+fault+mem:off?delay=100?seed=1", NULL, false, &s), 0);
	ck_assert_int_eq(conform_put(s, "x", 3), 0);
	async_start(s, &put, NF_STORE_PUT, "y");
	async_start(s, &stat, NF_STORE_STAT, "x");
	nf_store_fault_set_offline(s, true);
	ck_assert_int_eq(async_end(&put), -NF_E_STORE_UNKNOWN_OUTCOME);
	ck_assert_int_eq(async_end(&stat), -NF_E_OFFLINE);
	ck_assert_int_eq(nf_store_probe(s), -NF_E_OFFLINE);
	nf_store_fault_set_offline(s, false);
	struct nf_store_op op;
	conform_name(&op, NF_STORE_STAT, "y");
	ck_assert_int_eq(nf_store_run(s, &op), 0);
	nf_store_free(s);
}
END_TEST

START_TEST(a_link_is_cut_and_joined_by_turns)
{
	enum { CUTS = 6 };
	struct nf_store *s = fault_open("");
	struct nf_store_fault_counts n = { 0 };
	unsigned good = 0, refused = 0;
	struct nf_store_op op;
	bool same;

	ck_assert_int_eq(conform_put(s, "o/x", 1000), 0);
	ck_assert_int_eq(nf_store_fault_set(s, "seed=5&cut=40:20"), 0);
	for (uint64_t end = nf_clock_ns() + 30 * NF_NS_PER_S; n.cuts < CUTS && nf_clock_ns() < end; usleep(500)) {
		int r = conform_get(s, "o/x", 0, 1000, false, &op, &same);
		ck_assert(r == -NF_E_OFFLINE || (r == 0 && same));
		good += r == 0;
		refused += r != 0;
		nf_store_fault_counts(s, &n);
	}
	ck_assert_uint_ge(n.cuts, CUTS);
	ck_assert_uint_gt(good, CUTS);
	ck_assert_uint_ge(refused, CUTS / 2);
	/* Other rules end it. */
	ck_assert_int_eq(nf_store_fault_set(s, ""), 0);
	ck_assert_int_eq(conform_get(s, "o/x", 0, 1000, false, &op, &same), 0);
	nf_store_free(s);
}
END_TEST

START_TEST(cancelling_reaches_the_store_below)
{
	struct nf_store *s;
	struct async a;

	ck_assert_int_eq(nf_store_open("fault+fault+mem:cancel?hold=*:*?seed=1", NULL, false, &s), 0);
	async_start(s, &a, NF_STORE_STAT, "x");
	nf_store_cancel(s, &a.op);
	ck_assert_int_eq(async_end(&a), -NF_E_CANCELLED);
	nf_store_free(s);
}
END_TEST

START_TEST(a_filter_without_rules_conforms)
{
	struct nf_store *s = fault_open("late=3:0.5&seed=4");
	struct nf_text why = NF_TEXT_INIT;

	ck_assert_msg(conform_run(s, &why) == 0, "%s", nf_text_str(&why));
	nf_text_deinit(&why);
	nf_store_free(s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *t = nf_case(s, "fault", 60);

	tcase_add_loop_test(t, rules_that_are_not_understood_are_refused, 0, NF_ARRAY_LEN(bad_rules));
	tcase_add_loop_test(t, each_rule_has_its_error_and_its_effect, 0, 10);
	tcase_add_test(t, a_flipped_bit_is_one_bit_and_a_torn_put_is_half);
	tcase_add_test(t, a_seed_gives_the_same_faults_again);
	tcase_add_test(t, delays_run_in_parallel_and_the_rate_is_shared);
	tcase_add_test(t, held_operations_have_no_effect_until_released);
	tcase_add_test(t, freeing_ends_what_is_held_and_what_waits);
	tcase_add_test(t, going_offline_loses_the_answers_under_way);
	tcase_add_test(t, a_link_is_cut_and_joined_by_turns);
	tcase_add_test(t, cancelling_reaches_the_store_below);
	tcase_add_test(t, a_filter_without_rules_conforms);
}

NF_SUITE("store/fault")
