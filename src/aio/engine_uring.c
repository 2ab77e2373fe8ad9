/* Jobs through one io_uring.
 *
 *        submit                   pump                  reaper
 *   ---> queued (any number) ---> in the kernel -----> done callbacks
 *             ^                   (at most depth)  |
 *             +------ the rest of a short one -----+
 *
 * Threads: any thread submits; whoever finds `pumping` false becomes the one that
 * owns the submission side and moves jobs from the queue to the kernel (the lock
 * is dropped for the system call, which may copy pages); the reaper thread owns
 * the completion side, calls done with no lock held, and pumps too. */
#include "aio/engine_impl.h"
#include "aio/thread.h"
#include "base/assert.h"
#include "base/error.h"

#include <liburing.h>
#include <time.h>

enum {
	REAP_MAX = 32,		   /* completions taken at once */
	PIECE_MAX_BYTES = 1 << 30, /* the kernel's length field has 32 bits */
	DEPTH_MAX = 4096
};

/* I never changed;  l lock;  p owned by whoever set pumping;  r the reaper's */
struct nf_aio_ring {
	struct nf_lock lock;
	struct nf_list queued;	/* l  nf_aio_job.work.link */
	unsigned in_kernel;	/* l */
	bool pumping;		/* l */
	unsigned depth;		/* I */
	struct io_uring uring;	/* p submission side; r completion side */
	pthread_t reaper;	/* I */
};

/* The kernel is out of some resource for a moment. */
static void pause_briefly(void)
{
	struct timespec t = { .tv_nsec = 1000000 };

	(void)nanosleep(&t, NULL);
}

/* Hands everything prepared to the kernel.  An error here concerns the ring, not a
 * job (those fail in their completion), and what was prepared cannot be taken
 * back: try until it goes. */
static void enter_kernel(struct nf_aio_ring *r)
{
	while (io_uring_sq_ready(&r->uring) > 0) {
		int n = io_uring_submit(&r->uring);
		if (n < 0 && n != -EINTR)
			pause_briefly();
	}
}

static void prepare(struct io_uring_sqe *sqe, struct nf_aio_job *job)
{
	size_t left = job->len_bytes - job->moved_bytes;
	unsigned len = (unsigned)NF_MIN(left, (size_t)PIECE_MAX_BYTES);
	char *buf = (char *)job->buf + job->moved_bytes;
	uint64_t at = job->offset_bytes + job->moved_bytes;

	if (job->kind == NF_AIO_READ)
		io_uring_prep_read(sqe, job->file->fd, buf, len, at);
	else
		io_uring_prep_write(sqe, job->file->fd, buf, len, at);
	io_uring_sqe_set_data(sqe, job);
}

static void pump_locked(struct nf_aio_ring *r) NF_REQUIRES(r->lock)
{
	if (r->pumping)
		return;
	r->pumping = true;
	while (!nf_list_empty(&r->queued) && r->in_kernel < r->depth) {
		while (!nf_list_empty(&r->queued) && r->in_kernel < r->depth) {
			struct nf_aio_job *job =
				nf_list_first(&r->queued, struct nf_aio_job, work.link);
			struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
			/* The ring has depth entries and enter_kernel() empties it. */
			NF_ASSERT(sqe);
			nf_list_del(&job->work.link);
			prepare(sqe, job);
			r->in_kernel++;
		}
		nf_lock_drop(&r->lock);
		enter_kernel(r);
		nf_lock_take(&r->lock);
	}
	r->pumping = false;
}

/* True when JOB is finished, with *ERROR set; false when some of it is left. */
static bool take_result(struct nf_aio_job *job, int res, int *error)
{
	/* CANCELED: the thread that submitted it has ended meanwhile. */
	if (res == -EINTR || res == -EAGAIN || res == -ECANCELED)
		return false;
	*error = res < 0 ? nf_fail(res) : 0;
	if (res < 0)
		return true;
	if (res == 0) {
		*error = job->kind == NF_AIO_READ ? -NF_E_XFORM_TRUNCATED : nf_fail(-EIO);
		return true;
	}
	job->moved_bytes += (size_t)res;
	return job->moved_bytes >= job->len_bytes;
}

/* Takes finished jobs to DONE (their result in job->error).  True if the ring is to
 * end. */
static bool reap_locked(struct nf_aio_ring *r, struct nf_list *done) NF_REQUIRES(r->lock)
{
	struct io_uring_cqe *cqes[REAP_MAX];
	unsigned nr = io_uring_peek_batch_cqe(&r->uring, cqes, REAP_MAX);
	bool end = false;

	for (unsigned i = 0; i < nr; i++) {
		struct nf_aio_job *job = io_uring_cqe_get_data(cqes[i]);
		if (!job) {
			end = true;
			continue;
		}
		r->in_kernel--;
		if (take_result(job, cqes[i]->res, &job->error))
			nf_list_add_tail(done, &job->work.link);
		else
			nf_list_add_head(&r->queued, &job->work.link);
	}
	io_uring_cq_advance(&r->uring, nr);
	return end;
}

static void *reaper_thread(void *arg)
{
	struct nf_aio_ring *r = arg;
	struct io_uring_cqe *cqe;
	bool end = false;

	while (!end) {
		struct nf_list done;
		int e = io_uring_wait_cqe(&r->uring, &cqe);
		if (e < 0 && e != -EINTR)
			pause_briefly();
		nf_list_init(&done);
		nf_lock_take(&r->lock);
		end = reap_locked(r, &done);
		pump_locked(r);
		nf_lock_drop(&r->lock);
		nf_list_for_each_safe(job, &done, struct nf_aio_job, work.link) {
			nf_list_del(&job->work.link);
			nf_aio_finish(job, job->error);
		}
	}
	return NULL;
}

int nf_aio_ring_new(unsigned depth, struct nf_aio_ring **out)
{
	nf_auto_free struct nf_aio_ring *r = calloc(1, sizeof *r);

	if (!r)
		return nf_fail(-ENOMEM);
	r->depth = NF_MIN(depth, (unsigned)DEPTH_MAX);
	nf_list_init(&r->queued);
	int e = io_uring_queue_init(r->depth, &r->uring, 0);
	if (e < 0)
		return nf_fail(e);
	nf_lock_init(&r->lock, NF_RANK_POOL);
	e = nf_thread_start(&r->reaper, "nf-uring", reaper_thread, r);
	if (e < 0) {
		io_uring_queue_exit(&r->uring);
		return nf_fail(e);
	}
	*out = nf_steal(&r);
	return 0;
}

void nf_aio_ring_free(struct nf_aio_ring *r)
{
	if (!r)
		return;
	nf_lock_take(&r->lock);
	/* The last job may be reported while the reaper is still pumping nothing. */
	while (r->pumping) {
		nf_lock_drop(&r->lock);
		pause_briefly();
		nf_lock_take(&r->lock);
	}
	NF_ASSERT(nf_list_empty(&r->queued) && r->in_kernel == 0);
	r->pumping = true;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
	NF_ASSERT(sqe);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL); /* ends the reaper */
	nf_lock_drop(&r->lock);
	enter_kernel(r);
	pthread_join(r->reaper, NULL);
	io_uring_queue_exit(&r->uring);
	nf_lock_deinit(&r->lock);
	free(r);
}

void nf_aio_ring_submit(struct nf_aio_ring *r, struct nf_aio_job *job)
{
	nf_list_init(&job->work.link);
	nf_lock_take(&r->lock);
	nf_list_add_tail(&r->queued, &job->work.link);
	pump_locked(r);
	nf_lock_drop(&r->lock);
}
