/* Worker threads.  Threads: NR workers per pool; nf_pool_add() may be called from
 * any thread, a worker included; nf_pool_free() from any but a worker. */
#include "aio/pool.h"

#include "aio/thread.h"
#include "base/assert.h"
#include "base/error.h"
#include "base/lock.h"

#include <sys/resource.h>
#include <unistd.h>

/* I set before publication, then never changed;  l lock */
struct nf_pool {
	struct nf_lock lock;
	struct nf_cond more;	/* l  work was added, or stop was set */
	struct nf_list queue;	/* l  nf_work.link */
	bool stop;		/* l */
	int nice;		/* I */
	unsigned nr_threads;	/* I */
	pthread_t threads[];	/* I */
};

static _Thread_local const struct nf_pool *mine;

/* The next item, off the queue; NULL when the pool ends. */
static struct nf_work *next_locked(struct nf_pool *p) NF_REQUIRES(p->lock)
{
	while (nf_list_empty(&p->queue)) {
		if (p->stop)
			return NULL;
		nf_cond_wait(&p->more, &p->lock);
	}
	struct nf_work *w = nf_list_first(&p->queue, struct nf_work, link);
	nf_list_del(&w->link);
	return w;
}

static void *worker(void *arg)
{
	struct nf_pool *p = arg;
	struct nf_work *w;

	mine = p;
	/* On Linux niceness is the thread's own.  Refused: it runs at the usual one. */
	if (p->nice != 0)
		(void)setpriority(PRIO_PROCESS, (id_t)gettid(), p->nice);
	nf_lock_take(&p->lock);
	while ((w = next_locked(p))) {
		nf_lock_drop(&p->lock);
		w->fn(w); /* may free or queue w: not touched again */
		nf_lock_take(&p->lock);
	}
	nf_lock_drop(&p->lock);
	return NULL;
}

void nf_pool_free(struct nf_pool *p)
{
	if (!p)
		return;
	NF_ASSERT(!nf_pool_is_mine(p));
	nf_lock_take(&p->lock);
	p->stop = true;
	nf_cond_broadcast(&p->more);
	nf_lock_drop(&p->lock);
	for (unsigned i = 0; i < p->nr_threads; i++)
		pthread_join(p->threads[i], NULL);
	NF_ASSERT(nf_list_empty(&p->queue));
	nf_cond_deinit(&p->more);
	nf_lock_deinit(&p->lock);
	free(p);
}

int nf_pool_new(const char *name, unsigned nr_threads, int nice, struct nf_pool **out)
{
	if (nr_threads == 0)
		return nf_fail(-EINVAL);
	struct nf_pool *p = calloc(1, sizeof *p + nr_threads * sizeof p->threads[0]);
	if (!p)
		return nf_fail(-ENOMEM);
	nf_lock_init(&p->lock, NF_RANK_POOL);
	nf_cond_init(&p->more);
	nf_list_init(&p->queue);
	p->nice = nice;
	for (; p->nr_threads < nr_threads; p->nr_threads++) {
		int r = nf_thread_start(&p->threads[p->nr_threads], name, worker, p);
		if (r < 0) {
			nf_pool_free(p);
			return nf_fail(r);
		}
	}
	*out = p;
	return 0;
}

void nf_work_init(struct nf_work *w, void (*fn)(struct nf_work *w))
{
	nf_list_init(&w->link);
	w->fn = fn;
}

void nf_pool_add(struct nf_pool *p, struct nf_work *w)
{
	nf_lock_take(&p->lock);
	NF_ASSERT(nf_list_empty(&w->link));
	nf_list_add_tail(&p->queue, &w->link);
	nf_cond_signal(&p->more);
	nf_lock_drop(&p->lock);
}

bool nf_pool_is_mine(const struct nf_pool *p) { return mine == p; }
