/* Stands for engine_uring.c where liburing is absent: there is never a ring. */
#include "aio/engine_impl.h"
#include "base/assert.h"
#include "base/error.h"

int nf_aio_ring_new(unsigned depth, struct nf_aio_ring **out)
{
	(void)depth;
	(void)out;
	return -ENOSYS;
}

void nf_aio_ring_free(struct nf_aio_ring *r) { NF_ASSERT(!r); }

void nf_aio_ring_submit(struct nf_aio_ring *r, struct nf_aio_job *job)
{
	(void)r;
	(void)job;
	NF_ASSERT(!"there is no ring to submit to");
}
