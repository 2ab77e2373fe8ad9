#include "aio/pool.h"

#include "base/clock.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

struct item {
	struct nf_work work;
	struct nf_pool *pool;
	atomic_int *count;
	int again;
	struct nf_completion *done;
};

static void run_item(struct nf_work *w)
{
	struct item *i = nf_container_of(w, struct item, work);

	ck_assert(nf_pool_is_mine(i->pool));
	atomic_fetch_add(i->count, 1);
	if (i->again-- > 0)
		nf_pool_add(i->pool, w);
	else if (i->done)
		nf_completion_set(i->done);
}

START_TEST(every_item_runs_once_for_each_time_it_is_added)
{
	enum { NR = 500, AGAIN = 4 };
	static struct item items[NR];
	atomic_int count = 0;
	struct nf_pool *p;

	ck_assert_int_eq(nf_pool_new("test", 4, 1, &p), 0);
	ck_assert(!nf_pool_is_mine(p));
	for (int i = 0; i < NR; i++) {
		items[i] = (struct item){ .pool = p, .count = &count, .again = AGAIN };
		nf_work_init(&items[i].work, run_item);
		nf_pool_add(p, &items[i].work);
	}
	nf_pool_free(p); /* runs what is queued */
	ck_assert_int_eq(count, NR * (AGAIN + 1));
	nf_pool_free(NULL);
}
END_TEST

START_TEST(a_completion_can_be_waited_for_and_freed_at_once)
{
	struct nf_pool *p;
	atomic_int count = 0;

	ck_assert_int_eq(nf_pool_new("a-name-that-is-much-too-long", 2, 0, &p), 0);
	for (int i = 0; i < 300; i++) {
		struct nf_completion c;
		ck_assert_int_eq(nf_completion_init(&c), 0);
		struct item it = { .pool = p, .count = &count, .done = &c };
		nf_work_init(&it.work, run_item);
		nf_pool_add(p, &it.work);
		nf_completion_wait(&c);
		nf_completion_wait(&c); /* set already */
		nf_completion_deinit(&c);
	}
	nf_pool_free(p);
	ck_assert_int_eq(count, 300);
}
END_TEST

START_TEST(a_pool_of_no_threads_is_refused)
{
	struct nf_pool *p;

	ck_assert_int_eq(nf_pool_new("none", 0, 0, &p), -EINVAL);
}
END_TEST

struct tick {
	struct nf_timer timer;
	struct nf_timers *ts;
	struct nf_completion done;
	int left;
	atomic_int ran;
	uint64_t delay_ns;
	atomic_int *order;
	int seen;
};

static void run_tick(struct nf_timer *t)
{
	struct tick *k = nf_container_of(t, struct tick, timer);

	atomic_fetch_add(&k->ran, 1);
	if (k->order)
		k->seen = atomic_fetch_add(k->order, 1);
	if (--k->left > 0)
		nf_timer_arm(k->ts, t, k->delay_ns);
	else if (k->left == 0)
		nf_completion_set(&k->done);
}

START_TEST(timers_run_in_order_of_time_and_not_early)
{
	struct nf_timers *ts;
	struct tick k[3];
	static const unsigned ms[3] = { 30, 10, 20 };
	atomic_int order = 0;
	uint64_t start = nf_clock_ns();

	ck_assert_int_eq(nf_timers_new(&ts), 0);
	for (int i = 0; i < 3; i++) {
		k[i] = (struct tick){ .ts = ts, .left = 1, .order = &order };
		ck_assert_int_eq(nf_completion_init(&k[i].done), 0);
		nf_timer_init(&k[i].timer, run_tick);
		nf_timer_arm(ts, &k[i].timer, 5 * NF_NS_PER_S);
		nf_timer_arm(ts, &k[i].timer, ms[i] * NF_NS_PER_MS); /* moved */
	}
	for (int i = 0; i < 3; i++)
		nf_completion_wait(&k[i].done);
	ck_assert_uint_ge(nf_clock_ns() - start, 30 * NF_NS_PER_MS);
	ck_assert_uint_lt(nf_clock_ns() - start, 5 * NF_NS_PER_S);
	ck_assert_int_eq(k[1].seen, 0);
	ck_assert_int_eq(k[2].seen, 1);
	ck_assert_int_eq(k[0].seen, 2);
	nf_timers_free(ts);
	for (int i = 0; i < 3; i++)
		nf_completion_deinit(&k[i].done);
}
END_TEST

START_TEST(a_timer_may_arm_itself_and_a_cancelled_one_never_runs_again)
{
	struct nf_timers *ts;
	struct tick k = { .left = 50 }, endless = { .left = 1 << 30 };

	ck_assert_int_eq(nf_timers_new(&ts), 0);
	ck_assert_int_eq(nf_completion_init(&k.done), 0);
	k.ts = endless.ts = ts;
	nf_timer_init(&k.timer, run_tick);
	nf_timer_init(&endless.timer, run_tick);
	nf_timer_cancel(ts, &k.timer); /* not armed: harmless */
	nf_timer_arm(ts, &endless.timer, 0);
	nf_timer_arm(ts, &k.timer, 0);
	nf_completion_wait(&k.done);
	nf_timer_cancel(ts, &endless.timer);
	int ran = endless.ran;
	ck_assert_int_gt(ran, 0);
	nf_timer_arm(ts, &k.timer, NF_NS_PER_MS);
	nf_timer_cancel(ts, &k.timer);
	nf_timer_arm(ts, &k.timer, UINT64_MAX);
	struct timespec pause = { .tv_nsec = 3000000 };
	nanosleep(&pause, NULL);
	ck_assert_int_eq(endless.ran, ran);
	ck_assert_int_eq(k.ran, 50);
	nf_timers_free(ts); /* drops what is pending */
	nf_timers_free(NULL);
	nf_completion_deinit(&k.done);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "pool", 30);
	tcase_add_test(tc, every_item_runs_once_for_each_time_it_is_added);
	tcase_add_test(tc, a_completion_can_be_waited_for_and_freed_at_once);
	tcase_add_test(tc, a_pool_of_no_threads_is_refused);
	tcase_add_test(tc, timers_run_in_order_of_time_and_not_early);
	tcase_add_test(tc, a_timer_may_arm_itself_and_a_cancelled_one_never_runs_again);
}

NF_SUITE("aio/pool")
