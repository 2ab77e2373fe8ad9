/* The link: what is a disconnection, what is not, and that nobody waits for a server that is not there. */
#include "store/fault.h"
#include "store/link.h"

#include "aio/pool.h"
#include "base/clock.h"
#include "conform.h"
#include "suite.h"

#include <stdatomic.h>
#include <unistd.h>

enum { PROBE_MS = 300 };
#define WAIT_NS (5 * NF_NS_PER_S)

struct rig {
	struct nf_store *fault, *link;
	_Atomic unsigned changes;
	_Atomic int last;
};

static void on_change(void *ctx, enum nf_link_state s)
{
	struct rig *r = ctx;

	atomic_store(&r->last, (int)s);
	atomic_fetch_add(&r->changes, 1);
}

static void rig_init_waiting(struct rig *r, bool held, bool vault, uint32_t wait_ms)
{
	static unsigned nr;
	char address[64];
	struct nf_link_options o = { .probe_timeout_ms = PROBE_MS, .probe_min_ms = 30, .probe_max_ms = 60,
				     .wait_ms = wait_ms, .held = held };

	snprintf(address, sizeof address, "fault+mem:link%u?", ++nr);
	ck_assert_int_eq(nf_store_open(address, NULL, false, &r->fault), 0);
	if (vault)
		ck_assert_int_eq(conform_put(r->fault, "header/1/x", 10), 0);
	ck_assert_int_eq(conform_put(r->fault, "o/x", 1000), 0);
	atomic_init(&r->changes, 0);
	ck_assert_int_eq(nf_link_new(r->fault, &o, &r->link), 0);
	nf_link_listen(r->link, on_change, r);
}

static void rig_init(struct rig *r, bool held, bool vault) { rig_init_waiting(r, held, vault, 0); }

static enum nf_link_state state_of(struct rig *r)
{
	struct nf_link_status s;

	nf_link_status(r->link, &s);
	return s.state;
}

static bool becomes(struct rig *r, enum nf_link_state s)
{
	for (uint64_t end = nf_clock_ns() + WAIT_NS; nf_clock_ns() < end;) {
		if (state_of(r) == s)
			return true;
		usleep(2000);
	}
	return false;
}

static int get(struct rig *r)
{
	struct nf_store_op op;
	bool same;
	int e = conform_get(r->link, "o/x", 0, 1000, false, &op, &same);

	ck_assert(e || same);
	return e;
}

static void connect(struct rig *r)
{
	ck_assert_int_eq(nf_link_settle(r->link, nf_clock_ns() + WAIT_NS), NF_LINK_CONNECTED);
}

START_TEST(a_server_that_answers_is_connected_and_one_that_does_not_is_not)
{
	struct rig r;

	rig_init(&r, false, true);
	ck_assert_int_eq(state_of(&r), NF_LINK_PROBING);
	connect(&r);
	ck_assert_int_eq(get(&r), 0);
	nf_store_fault_set_offline(r.fault, true);
	ck_assert_int_eq(get(&r), -NF_E_OFFLINE);
	ck_assert_int_eq(state_of(&r), NF_LINK_DISCONNECTED);
	/* Refused at once, and a probe finds it when it is back. */
	ck_assert_int_eq(get(&r), -NF_E_OFFLINE);
	nf_store_fault_set_offline(r.fault, false);
	ck_assert(becomes(&r, NF_LINK_CONNECTED));
	ck_assert_int_eq(get(&r), 0);
	nf_store_free(r.link);
	ck_assert_uint_ge(atomic_load(&r.changes), 2);
}
END_TEST

/* 500 to everything, portals, refused credentials: rules and the reason that is reported. */
static const struct {
	const char *rules;
	int why;
} outages[] = {
	{ "status=500:1", -NF_E_STORE_BUSY },	   { "status=503:1", -NF_E_STORE_BUSY },
	{ "status=302:1", -NF_E_STORE_PROTOCOL },  { "status=401:1", -NF_E_STORE_DENIED },
	{ "status=403:1", -NF_E_STORE_DENIED },	   { "drop=1", -NF_E_OFFLINE },
};

START_TEST(a_server_that_fails_everything_counts_as_disconnected)
{
	struct nf_link_status s;
	struct rig r;

	rig_init(&r, false, true);
	connect(&r);
	ck_assert_int_eq(nf_store_fault_set(r.fault, outages[_i].rules), 0);
	ck_assert_int_eq(get(&r), -NF_E_OFFLINE);
	nf_link_status(r.link, &s);
	ck_assert_int_eq(s.state, NF_LINK_DISCONNECTED);
	ck_assert_int_eq(s.last_error, outages[_i].why);
	ck_assert_int_eq(nf_store_fault_set(r.fault, ""), 0);
	ck_assert(becomes(&r, NF_LINK_CONNECTED));
	nf_store_free(r.link);
}
END_TEST

START_TEST(one_object_that_fails_is_no_disconnection)
{
	struct rig r;

	rig_init(&r, false, true);
	connect(&r);
	ck_assert_int_eq(nf_store_fault_set(r.fault, "status=500:1&name=o/"), 0);
	ck_assert_int_eq(get(&r), -NF_E_STORE_BUSY);
	ck_assert_int_eq(state_of(&r), NF_LINK_CONNECTED);
	ck_assert_int_eq(nf_store_fault_set(r.fault, ""), 0);
	ck_assert_int_eq(get(&r), 0);
	nf_store_free(r.link);
}
END_TEST

START_TEST(what_is_missing_or_full_is_an_answer)
{
	struct nf_store_op op;
	struct rig r;
	bool same;

	rig_init(&r, false, true);
	connect(&r);
	ck_assert_int_eq(conform_get(r.link, "o/none", 0, 10, false, &op, &same), -NF_E_STORE_NOT_FOUND);
	ck_assert_int_eq(nf_store_fault_set(r.fault, "status=507:1&verbs=put"), 0);
	ck_assert_int_eq(conform_put(r.link, "o/y", 10), -NF_E_STORE_FULL);
	ck_assert_int_eq(state_of(&r), NF_LINK_CONNECTED);
	nf_store_free(r.link);
}
END_TEST

START_TEST(a_place_without_a_vault_is_not_our_server)
{
	struct nf_link_status s;
	struct rig r;

	rig_init(&r, false, false);
	ck_assert_int_eq(nf_link_settle(r.link, nf_clock_ns() + WAIT_NS), NF_LINK_DISCONNECTED);
	nf_link_status(r.link, &s);
	ck_assert_int_eq(s.last_error, -NF_E_HEADER_MISSING);
	nf_store_free(r.link);
}
END_TEST

struct waiting {
	struct nf_store_op op;
	struct nf_completion done;
	uint8_t body[1000];
};

static void on_done(struct nf_store_op *op) { nf_completion_set(op->ctx); }

static void begin(struct rig *r, struct waiting *w, enum nf_store_verb verb, const char *name, struct iovec *iov)
{
	ck_assert_int_eq(nf_completion_init(&w->done), 0);
	conform_name(&w->op, verb, name);
	w->op.buf = w->body;
	w->op.length_bytes = sizeof w->body;
	w->op.iov = iov;
	w->op.nr_iov = 1;
	w->op.done = on_done;
	w->op.ctx = &w->done;
	nf_store_submit(r->link, &w->op);
}

static int wait_for(struct waiting *w)
{
	nf_completion_wait(&w->done);
	nf_completion_deinit(&w->done);
	nf_store_op_deinit(&w->op);
	return w->op.error;
}

/* Operations that hang are cut off when another failure shows that the server has gone. */
START_TEST(who_hangs_is_cut_off_when_the_server_is_found_gone)
{
	struct waiting hung, change;
	struct rig r;

	rig_init(&r, false, true);
	connect(&r);
	ck_assert_int_eq(nf_store_fault_hold(r.fault, "*:o/*"), 0);
	begin(&r, &hung, NF_STORE_GET, "o/x", NULL);
	begin(&r, &change, NF_STORE_PUT, "o/new", &(struct iovec){ change.body, sizeof change.body });
	while (nf_store_fault_held(r.fault) < 2)
		usleep(1000);
	nf_store_fault_set_offline(r.fault, true);
	struct nf_store_op other;
	bool same;
	ck_assert_int_eq(conform_get(r.link, "q/x", 0, 10, false, &other, &same), -NF_E_OFFLINE);
	ck_assert_int_eq(wait_for(&hung), -NF_E_OFFLINE);
	ck_assert_int_eq(wait_for(&change), -NF_E_STORE_UNKNOWN_OUTCOME);
	nf_store_free(r.link);
}
END_TEST

START_TEST(a_probe_that_hangs_is_a_disconnection)
{
	struct rig r;

	rig_init(&r, false, true);
	ck_assert_int_eq(nf_store_fault_hold(r.fault, "*:header*"), 0);
	uint64_t begun = nf_clock_ns();
	ck_assert_int_eq(nf_link_settle(r.link, begun + WAIT_NS), NF_LINK_DISCONNECTED);
	ck_assert_uint_ge(nf_clock_ns() - begun, PROBE_MS * NF_NS_PER_MS / 2);
	(void)nf_store_fault_release(r.fault);
	ck_assert(becomes(&r, NF_LINK_CONNECTED));
	nf_store_free(r.link);
}
END_TEST

START_TEST(after_a_suspend_the_way_is_tried_before_it_is_trusted)
{
	struct nf_link_status before, after;
	struct rig r;

	nf_clock_fake_asleep(0);
	rig_init(&r, false, true);
	connect(&r);
	ck_assert_int_eq(get(&r), 0);
	nf_link_status(r.link, &before);
	nf_clock_fake_asleep(NF_NS_PER_S);
	ck_assert_int_eq(get(&r), 0);
	nf_link_status(r.link, &after);
	ck_assert_uint_eq(after.probes, before.probes);
	nf_clock_fake_asleep(3600 * NF_NS_PER_S);
	ck_assert_int_eq(get(&r), 0);
	nf_link_status(r.link, &after);
	ck_assert_uint_eq(after.probes, before.probes + 1);
	ck_assert(becomes(&r, NF_LINK_CONNECTED));
	/* Awake in a place without a network: what was asked before and what is asked now hangs, and so does the probe. */
	struct waiting hung, asked;
	ck_assert_int_eq(nf_store_fault_hold(r.fault, "*:*"), 0);
	begin(&r, &hung, NF_STORE_GET, "o/x", NULL);
	nf_clock_fake_asleep(7200 * NF_NS_PER_S);
	begin(&r, &asked, NF_STORE_GET, "o/x", NULL);
	ck_assert_int_eq(wait_for(&hung), -NF_E_OFFLINE);
	ck_assert_int_eq(wait_for(&asked), -NF_E_OFFLINE);
	ck_assert_int_eq(state_of(&r), NF_LINK_DISCONNECTED);
	nf_clock_fake_asleep(0);
	nf_store_free(r.link);
}
END_TEST

START_TEST(held_by_command_nothing_reaches_the_server_until_it_is_released)
{
	struct nf_store_fault_counts n;
	struct rig r;

	rig_init(&r, true, true);
	nf_store_fault_counts(r.fault, &n);
	uint64_t before = n.seen[NF_STORE_GET] + n.seen[NF_STORE_LIST];
	ck_assert_int_eq(get(&r), -NF_E_OFFLINE);
	nf_link_wake(r.link);
	usleep(100000);
	nf_store_fault_counts(r.fault, &n);
	ck_assert_uint_eq(n.seen[NF_STORE_GET] + n.seen[NF_STORE_LIST], before);
	nf_link_hold(r.link, false);
	ck_assert(becomes(&r, NF_LINK_CONNECTED));
	ck_assert_int_eq(get(&r), 0);
	nf_link_hold(r.link, true);
	ck_assert_int_eq(get(&r), -NF_E_OFFLINE);
	ck_assert_int_eq(state_of(&r), NF_LINK_HELD);
	nf_store_free(r.link);
}
END_TEST

START_TEST(a_cancelled_call_says_so_in_every_state)
{
	struct waiting w;
	struct rig r;

	rig_init(&r, false, true);
	connect(&r);
	ck_assert_int_eq(nf_store_fault_hold(r.fault, "*:o/*"), 0);
	begin(&r, &w, NF_STORE_GET, "o/x", NULL);
	nf_store_cancel(r.link, &w.op);
	ck_assert_int_eq(wait_for(&w), -NF_E_CANCELLED);
	/* Judged: its own failure is known, the probe hangs. */
	(void)nf_store_fault_release(r.fault);
	ck_assert_int_eq(nf_store_fault_set(r.fault, "status=500:1&hold=*:header*"), 0);
	begin(&r, &w, NF_STORE_GET, "o/x", NULL);
	ck_assert(becomes(&r, NF_LINK_PROBING));
	nf_store_cancel(r.link, &w.op);
	ck_assert_int_eq(wait_for(&w), -NF_E_CANCELLED);
	nf_store_free(r.link);
}
END_TEST

START_TEST(who_reads_waits_for_a_connection_that_was_lost)
{
	struct waiting early, late, change, behind;
	struct rig r;

	rig_init_waiting(&r, false, true, 60000);
	connect(&r);
	/* One is under way when the server goes, one comes later. */
	ck_assert_int_eq(nf_store_fault_hold(r.fault, "get:o/x"), 0);
	begin(&r, &early, NF_STORE_GET, "o/x", NULL);
	nf_store_fault_set_offline(r.fault, true);
	begin(&r, &change, NF_STORE_PUT, "o/y", &(struct iovec){ change.body, sizeof change.body });
	ck_assert_int_eq(wait_for(&change), -NF_E_OFFLINE);
	ck_assert_int_eq(state_of(&r), NF_LINK_DISCONNECTED);
	(void)nf_store_fault_release(r.fault);
	begin(&r, &late, NF_STORE_GET, "o/x", NULL);
	/* Who is not waited for does not wait. */
	ck_assert_int_eq(nf_completion_init(&behind.done), 0);
	conform_name(&behind.op, NF_STORE_STAT, "o/x");
	behind.op.priority = NF_STORE_BACKGROUND;
	behind.op.done = on_done;
	behind.op.ctx = &behind.done;
	nf_store_submit(r.link, &behind.op);
	ck_assert_int_eq(wait_for(&behind), -NF_E_OFFLINE);
	usleep(100000);
	nf_store_fault_set_offline(r.fault, false);
	ck_assert_int_eq(wait_for(&early), 0);
	ck_assert(conform_same("o/x", 0, early.body, sizeof early.body));
	ck_assert_int_eq(wait_for(&late), 0);
	ck_assert(conform_same("o/x", 0, late.body, sizeof late.body));
	ck_assert_int_eq(state_of(&r), NF_LINK_CONNECTED);
	nf_store_free(r.link);
}
END_TEST

START_TEST(a_connection_that_breaks_though_the_server_is_there_is_tried_again_but_not_for_ever)
{
	struct nf_store_fault_counts n;
	struct rig r;

	rig_init_waiting(&r, false, true, 60000);
	connect(&r);
	ck_assert_int_eq(nf_store_fault_set(r.fault, "drop=1&name=o/"), 0);
	ck_assert_int_eq(get(&r), -NF_E_OFFLINE);
	ck_assert(becomes(&r, NF_LINK_CONNECTED));
	nf_store_fault_counts(r.fault, &n);
	ck_assert_uint_ge(n.seen[NF_STORE_GET], 10);
	ck_assert_int_eq(nf_store_fault_set(r.fault, "seed=3&drop=0.5&name=o/"), 0);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(get(&r), 0);
	nf_store_free(r.link);
}
END_TEST

START_TEST(nobody_waits_longer_than_was_said_nor_when_it_is_said_otherwise)
{
	enum { SAID_MS = 150 };
	struct waiting w;
	struct rig r;

	/* There was no connection yet. */
	rig_init_waiting(&r, false, true, 60000);
	nf_store_fault_set_offline(r.fault, true);
	ck_assert_int_eq(get(&r), -NF_E_OFFLINE);
	nf_store_fault_set_offline(r.fault, false);
	ck_assert(becomes(&r, NF_LINK_CONNECTED));
	nf_store_fault_set_offline(r.fault, true);
	/* Cancelled, held by command, the store closed. */
	begin(&r, &w, NF_STORE_GET, "o/x", NULL);
	ck_assert(becomes(&r, NF_LINK_DISCONNECTED));
	nf_store_cancel(r.link, &w.op);
	ck_assert_int_eq(wait_for(&w), -NF_E_CANCELLED);
	begin(&r, &w, NF_STORE_GET, "o/x", NULL);
	nf_link_hold(r.link, true);
	ck_assert_int_eq(wait_for(&w), -NF_E_OFFLINE);
	nf_link_hold(r.link, false);
	nf_store_fault_set_offline(r.fault, false);
	ck_assert(becomes(&r, NF_LINK_CONNECTED));
	nf_store_fault_set_offline(r.fault, true);
	begin(&r, &w, NF_STORE_GET, "o/x", NULL);
	ck_assert(becomes(&r, NF_LINK_DISCONNECTED));
	nf_store_free(r.link);
	ck_assert_int_eq(wait_for(&w), -NF_E_OFFLINE);

	rig_init_waiting(&r, false, true, SAID_MS);
	connect(&r);
	nf_store_fault_set_offline(r.fault, true);
	uint64_t begun = nf_clock_ns();
	ck_assert_int_eq(get(&r), -NF_E_OFFLINE);
	ck_assert_uint_ge(nf_clock_ns() - begun, SAID_MS * NF_NS_PER_MS);
	ck_assert_int_eq(get(&r), -NF_E_OFFLINE);
	nf_store_free(r.link);
}
END_TEST

/* Many threads, a server that comes and goes, cancels: every call ends once. */
enum { THREADS = 4, ROUNDS = 150 };

static void *worker(void *arg)
{
	struct rig *r = arg;

	for (int i = 0; i < ROUNDS; i++) {
		struct waiting w;
		begin(r, &w, NF_STORE_GET, "o/x", NULL);
		if (i % 3 == 0)
			nf_store_cancel(r->link, &w.op);
		int e = wait_for(&w);
		ck_assert(e == 0 || e == -NF_E_OFFLINE || e == -NF_E_CANCELLED);
	}
	return NULL;
}

START_TEST(calls_end_once_while_the_link_comes_and_goes)
{
	pthread_t t[THREADS];
	struct rig r;

	rig_init_waiting(&r, false, true, _i ? 40 : 0);
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, worker, &r), 0);
	for (int i = 0; i < 40; i++) {
		nf_store_fault_set_offline(r.fault, i & 1);
		if (i % 7 == 0)
			nf_link_hold(r.link, i % 2);
		if (i % 3 == 0)
			nf_link_wake(r.link);
		usleep(3000);
	}
	nf_link_hold(r.link, false);
	nf_store_fault_set_offline(r.fault, false);
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
	nf_link_wake(r.link);
	ck_assert(becomes(&r, NF_LINK_CONNECTED));
	nf_store_free(r.link);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "link", 60);
	tcase_add_test(tc, a_server_that_answers_is_connected_and_one_that_does_not_is_not);
	tcase_add_loop_test(tc, a_server_that_fails_everything_counts_as_disconnected, 0, NF_ARRAY_LEN(outages));
	tcase_add_test(tc, one_object_that_fails_is_no_disconnection);
	tcase_add_test(tc, what_is_missing_or_full_is_an_answer);
	tcase_add_test(tc, a_place_without_a_vault_is_not_our_server);
	tcase_add_test(tc, who_hangs_is_cut_off_when_the_server_is_found_gone);
	tcase_add_test(tc, a_probe_that_hangs_is_a_disconnection);
	tcase_add_test(tc, after_a_suspend_the_way_is_tried_before_it_is_trusted);
	tcase_add_test(tc, held_by_command_nothing_reaches_the_server_until_it_is_released);
	tcase_add_test(tc, a_cancelled_call_says_so_in_every_state);
	tcase_add_test(tc, who_reads_waits_for_a_connection_that_was_lost);
	tcase_add_test(tc, a_connection_that_breaks_though_the_server_is_there_is_tried_again_but_not_for_ever);
	tcase_add_test(tc, nobody_waits_longer_than_was_said_nor_when_it_is_said_otherwise);
	tcase_add_loop_test(tc, calls_end_once_while_the_link_comes_and_goes, 0, 2);
}

NF_SUITE("store/link")
