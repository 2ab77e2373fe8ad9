/* Jobs on threads of a pool, each by one blocking call.  Threads: the pool's run
 * jobs and their done callbacks. */
#include "aio/engine_impl.h"

static void run_job(struct nf_work *w)
{
	struct nf_aio_job *job = nf_container_of(w, struct nf_aio_job, work);
	struct nf_file *f = job->file;
	int r;

	if (job->kind == NF_AIO_READ)
		r = f->ops->pread(f, job->buf, job->len_bytes, job->offset_bytes,
				  &job->moved_bytes);
	else
		r = f->ops->pwrite(f, job->buf, job->len_bytes, job->offset_bytes);
	nf_aio_finish(job, r);
}

void nf_aio_thread_submit(struct nf_aio *a, struct nf_aio_job *job)
{
	nf_work_init(&job->work, run_job);
	nf_pool_add(a->pool, &job->work);
}
