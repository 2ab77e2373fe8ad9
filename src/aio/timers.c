/* Timers, on one thread.
 *
 *   armed list:  soonest ... latest        (searched from the late end, where
 *                                           time-outs of one length all belong)
 *
 * Threads: the timer thread runs the functions, one at a time, with no lock held;
 * arm and cancel may be called from any thread, arm also from a function. */
#include "aio/pool.h"
#include "aio/thread.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lock.h"

/* l lock;  I never changed.  The fields of an armed nf_timer are under l too. */
struct nf_timers {
	struct nf_lock lock;
	struct nf_cond changed;		/* l  the soonest changed, or stop */
	struct nf_cond ran;		/* l  running became NULL */
	struct nf_list armed;		/* l  by at_ns */
	const struct nf_timer *running; /* l  compared only: it may be freed already */
	bool stop;			/* l */
	pthread_t thread;		/* I */
};

/* Waits are real, so deadlines are too, also while a test has set a fake clock. */
static uint64_t real_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NF_NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void run_first_locked(struct nf_timers *ts, struct nf_timer *t) NF_REQUIRES(ts->lock)
{
	nf_list_del(&t->link);
	ts->running = t;
	nf_lock_drop(&ts->lock);
	t->fn(t); /* may free or arm t: not touched again */
	nf_lock_take(&ts->lock);
	ts->running = NULL;
	nf_cond_broadcast(&ts->ran);
}

static void *timer_thread(void *arg)
{
	struct nf_timers *ts = arg;

	nf_lock_take(&ts->lock);
	while (!ts->stop) {
		if (nf_list_empty(&ts->armed)) {
			nf_cond_wait(&ts->changed, &ts->lock);
			continue;
		}
		struct nf_timer *t = nf_list_first(&ts->armed, struct nf_timer, link);
		if (t->at_ns > real_ns())
			(void)nf_cond_wait_until(&ts->changed, &ts->lock, t->at_ns);
		else
			run_first_locked(ts, t);
	}
	nf_lock_drop(&ts->lock);
	return NULL;
}

int nf_timers_new(struct nf_timers **out)
{
	nf_auto_free struct nf_timers *ts = calloc(1, sizeof *ts);

	if (!ts)
		return nf_fail(-ENOMEM);
	nf_lock_init(&ts->lock, NF_RANK_POOL);
	nf_cond_init(&ts->changed);
	nf_cond_init(&ts->ran);
	nf_list_init(&ts->armed);
	int r = nf_thread_start(&ts->thread, "nf-timer", timer_thread, ts);
	if (r < 0)
		return nf_fail(r);
	*out = nf_steal(&ts);
	return 0;
}

void nf_timers_free(struct nf_timers *ts)
{
	if (!ts)
		return;
	nf_lock_take(&ts->lock);
	ts->stop = true;
	nf_cond_signal(&ts->changed);
	nf_lock_drop(&ts->lock);
	pthread_join(ts->thread, NULL);
	nf_list_for_each_safe(t, &ts->armed, struct nf_timer, link)
		nf_list_del(&t->link);
	nf_cond_deinit(&ts->ran);
	nf_cond_deinit(&ts->changed);
	nf_lock_deinit(&ts->lock);
	free(ts);
}

void nf_timer_init(struct nf_timer *t, void (*fn)(struct nf_timer *t))
{
	nf_list_init(&t->link);
	t->at_ns = 0;
	t->fn = fn;
}

static void insert_locked(struct nf_timers *ts, struct nf_timer *t) NF_REQUIRES(ts->lock)
{
	struct nf_list *after = ts->armed.prev;

	while (after != &ts->armed &&
	       nf_list_entry(after, struct nf_timer, link)->at_ns > t->at_ns)
		after = after->prev;
	nf_list_add_head(after, &t->link);
	if (ts->armed.next == &t->link)
		nf_cond_signal(&ts->changed);
}

void nf_timer_arm(struct nf_timers *ts, struct nf_timer *t, uint64_t delay_ns)
{
	uint64_t now_ns = real_ns();

	nf_lock_take(&ts->lock);
	nf_list_del(&t->link);
	t->at_ns = delay_ns < INT64_MAX - now_ns ? now_ns + delay_ns : INT64_MAX;
	insert_locked(ts, t);
	nf_lock_drop(&ts->lock);
}

void nf_timer_cancel(struct nf_timers *ts, struct nf_timer *t)
{
	nf_lock_take(&ts->lock);
	/* A running function may arm its timer again: look once more after it. */
	while (nf_list_del(&t->link), ts->running == t) {
		NF_ASSERT(!pthread_equal(pthread_self(), ts->thread));
		nf_cond_wait(&ts->ran, &ts->lock);
	}
	nf_lock_drop(&ts->lock);
}
