/* aio/pool.h - a pool of worker threads, with a queue of work items.
 *
 * A work item is embedded in its owner; it runs once per nf_pool_add(), on any
 * worker, with no lock held, and may add itself again.  Items run in order of
 * adding as far as workers are free.  The queue is unbounded in itself: what is
 * queued is bounded by its owners (calls in flight, requests in flight). */
#ifndef NF_AIO_POOL_H
#define NF_AIO_POOL_H

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>

struct nf_work {
	struct nf_list link;
	void (*fn)(struct nf_work *w);
};

struct nf_pool;

/* NICE: added to the threads' niceness (0: none).  NAME: at most 15 bytes. */
int nf_pool_new(const char *name, unsigned nr_threads, int nice, struct nf_pool **out);
/* Runs what is queued, then ends the threads.  NULL allowed. */
void nf_pool_free(struct nf_pool *p);
void nf_work_init(struct nf_work *w, void (*fn)(struct nf_work *w));
/* W must not be queued.  Never blocks. */
void nf_pool_add(struct nf_pool *p, struct nf_work *w);
/* True on one of P's own threads. */
bool nf_pool_is_mine(const struct nf_pool *p);

/* A timer thread: FN runs on the timer thread itself, so it must be short (put
 * longer work on a pool).  Arming an armed timer moves it. */
struct nf_timer {
	struct nf_list link;
	uint64_t at_ns;
	void (*fn)(struct nf_timer *t);
};
struct nf_timers;
int nf_timers_new(struct nf_timers **out);
/* Pending timers are dropped.  NULL allowed. */
void nf_timers_free(struct nf_timers *ts);
void nf_timer_init(struct nf_timer *t, void (*fn)(struct nf_timer *t));
void nf_timer_arm(struct nf_timers *ts, struct nf_timer *t, uint64_t delay_ns);
/* After it returns FN is not running and will not run. Not from FN itself. */
void nf_timer_cancel(struct nf_timers *ts, struct nf_timer *t);

/* Waits for one event between two threads: the blocking end of an async call. */
struct nf_completion {
	struct nf_completion_priv *priv; /* lazily made by init */
};
int nf_completion_init(struct nf_completion *c);
void nf_completion_deinit(struct nf_completion *c);
void nf_completion_set(struct nf_completion *c);
/* Returns at once if set already. */
void nf_completion_wait(struct nf_completion *c);

#endif
