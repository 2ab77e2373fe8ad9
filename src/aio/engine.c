/* The engine's front: which part takes a job, and waiting for the last one.
 * Threads: submit from any, callbacks included; free from any but the engine's. */
#include "aio/engine.h"

#include "aio/engine_impl.h"
#include "base/error.h"

enum {
	THREADS_MAX = 16,	/* measured: beyond 16 a disk gives no more */
	THREADS_BESIDE_RING = 2 /* for files that only a test table knows */
};

static int engine_new(struct nf_aio_ring *ring, unsigned nr_threads, struct nf_aio **out)
{
	nf_auto_free struct nf_aio *a = calloc(1, sizeof *a);

	if (!a)
		return nf_fail(-ENOMEM);
	int r = nf_pool_new("nf-aio", nr_threads, 0, &a->pool);
	if (r < 0)
		return nf_fail(r);
	nf_lock_init(&a->lock, NF_RANK_POOL);
	nf_cond_init(&a->idle);
	a->ring = ring;
	*out = nf_steal(&a);
	return 0;
}

int nf_aio_new_threads(unsigned depth, struct nf_aio **out)
{
	if (depth == 0)
		return nf_fail(-EINVAL);
	return engine_new(NULL, NF_MIN(depth, (unsigned)THREADS_MAX), out);
}

int nf_aio_new(unsigned depth, struct nf_aio **out)
{
	struct nf_aio_ring *ring;

	if (depth == 0)
		return nf_fail(-EINVAL);
	/* Not built in, forbidden by a seccomp filter or sysctl, or no memory for it:
	 * threads do the same work. */
	if (nf_aio_ring_new(depth, &ring) < 0)
		return nf_aio_new_threads(depth, out);
	int r = engine_new(ring, THREADS_BESIDE_RING, out);
	if (r < 0)
		nf_aio_ring_free(ring);
	return r;
}

void nf_aio_free(struct nf_aio *a)
{
	if (!a)
		return;
	nf_lock_take(&a->lock);
	while (a->unfinished > 0)
		nf_cond_wait(&a->idle, &a->lock);
	nf_lock_drop(&a->lock);
	nf_aio_ring_free(a->ring);
	nf_pool_free(a->pool);
	nf_cond_deinit(&a->idle);
	nf_lock_deinit(&a->lock);
	free(a);
}

void nf_aio_submit(struct nf_aio *a, struct nf_aio_job *job)
{
	job->aio = a;
	job->moved_bytes = 0;
	job->error = 0;
	nf_lock_take(&a->lock);
	a->unfinished++;
	nf_lock_drop(&a->lock);
	if (a->ring && job->file->fd >= 0 && job->len_bytes > 0)
		nf_aio_ring_submit(a->ring, job);
	else
		nf_aio_thread_submit(a, job);
}

void nf_aio_finish(struct nf_aio_job *job, int error)
{
	struct nf_aio *a = job->aio;

	job->error = error;
	job->done(job); /* may free job */
	nf_lock_take(&a->lock);
	if (--a->unfinished == 0)
		nf_cond_broadcast(&a->idle);
	nf_lock_drop(&a->lock);
}

const char *nf_aio_name(const struct nf_aio *a) { return a->ring ? "io_uring" : "threads"; }
