/* aio/engine_impl.h - what the parts of the engine share; for src/aio/engine*.c only.
 *
 *   nf_aio_submit --+-- the ring, if there is one and the file has a descriptor
 *                   +-- the pool otherwise
 *   both end in nf_aio_finish(), which calls done and counts down. */
#ifndef NF_AIO_ENGINE_IMPL_H
#define NF_AIO_ENGINE_IMPL_H

#include "aio/engine.h"
#include "base/lock.h"

struct nf_aio_ring;

/* I set before publication, then never changed;  l lock */
struct nf_aio {
	struct nf_lock lock;
	struct nf_cond idle;	  /* l  unfinished became 0 */
	size_t unfinished;	  /* l  jobs submitted whose done has not returned */
	struct nf_pool *pool;	  /* I */
	struct nf_aio_ring *ring; /* I  NULL: threads only */
};

/* Calls done, after which JOB is its owner's again.  No lock held. */
void nf_aio_finish(struct nf_aio_job *job, int error);

/* engine_threads.c: runs JOB on A's pool. */
void nf_aio_thread_submit(struct nf_aio *a, struct nf_aio_job *job);

/* engine_uring.c or engine_uring_none.c; the latter refuses with -ENOSYS. */
int nf_aio_ring_new(unsigned depth, struct nf_aio_ring **out);
/* Nothing may be in flight.  NULL allowed. */
void nf_aio_ring_free(struct nf_aio_ring *r);
void nf_aio_ring_submit(struct nf_aio_ring *r, struct nf_aio_job *job);

#endif
