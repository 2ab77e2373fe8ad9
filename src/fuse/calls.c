/* Calls under way.
 *
 *   new (refs 1) --submit--> in f->calls (refs 2) --nf_call_done()--> answered --last put--> spare
 *    \--refuse--> answered --put--> spare
 *
 * A call leaves f->calls, and gives its handles back, before its answer is written: with the
 * answer in hand the kernel may at once send the RELEASE. */
#include "fuse/session.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/text.h"
#include "base/trace.h"

#include <fcntl.h>

static void request_done(struct nf_call *c, int error);

static bool opens(enum nf_call_op op)
{
	return op == NF_CALL_OPEN || op == NF_CALL_OPENDIR || op == NF_CALL_CREATE ||
	       op == NF_CALL_TMPFILE;
}

/* Names are 4 KiB of the struct and are not cleared but for their first byte. */
static void call_clear(struct nf_call *c)
{
	memset(c, 0, offsetof(struct nf_call, name));
	c->name[0] = c->name2[0] = '\0';
	memset((char *)c + offsetof(struct nf_call, file), 0,
	       sizeof *c - offsetof(struct nf_call, file));
}

static struct nf_request *request_alloc(struct nf_front *f)
{
	struct nf_request *rq = NULL;

	nf_lock_take(&f->lock);
	if (!nf_list_empty(&f->spare)) {
		rq = nf_list_first(&f->spare, struct nf_request, link);
		nf_list_del(&rq->link);
		f->nr_spare--;
	}
	f->nr_live++;
	nf_lock_drop(&f->lock);
	if (!rq)
		rq = malloc(sizeof *rq);
	if (!rq) {
		nf_lock_take(&f->lock);
		f->nr_live--;
		nf_cond_broadcast(&f->changed);
		nf_lock_drop(&f->lock);
		return NULL;
	}
	call_clear(&rq->call);
	rq->f = f;
	rq->fuse = NULL;
	rq->statx = false;
	rq->fh = rq->fh2 = 0;
	rq->dir_buf = NULL;
	rq->dir_bytes = 0;
	nf_list_init(&rq->link);
	atomic_init(&rq->refs, 1);
	atomic_init(&rq->done, false);
	rq->call.done = request_done;
	rq->call.owner = rq;
	rq->started_ns = nf_clock_ns();
	return rq;
}

static void request_put(struct nf_request *rq)
{
	struct nf_front *f = rq->f;

	/* Pairs with the other holders' decrements: all they did is seen before the reuse. */
	if (atomic_fetch_sub_explicit(&rq->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(rq->call.kept);
	free(rq->call.buf);
	free(rq->dir_buf);
	nf_lock_take(&f->lock);
	if (f->nr_spare < NF_FUSE_SPARE_MAX) {
		nf_list_add_head(&f->spare, &rq->link);
		f->nr_spare++;
		rq = NULL;
	}
	NF_ASSERT(f->nr_live > 0);
	if (--f->nr_live == 0)
		nf_cond_broadcast(&f->changed);
	nf_lock_drop(&f->lock);
	free(rq);
}

struct nf_request *nf_request_new(fuse_req_t fuse, enum nf_call_op op, uint64_t ino)
{
	struct nf_front *f = fuse_req_userdata(fuse);
	struct nf_request *rq = request_alloc(f);

	if (!rq) {
		(void)nf_reply_code(fuse, -ENOMEM); /* nothing better to do if that fails too */
		return NULL;
	}
	const struct fuse_ctx *ctx = fuse_req_ctx(fuse);
	rq->fuse = fuse;
	rq->call.op = op;
	rq->call.ino = ino;
	rq->call.uid = ctx->uid;
	rq->call.gid = ctx->gid;
	rq->call.pid = (uint32_t)ctx->pid;
	rq->call.umask = ctx->umask;
	rq->call.drops_pages = atomic_load_explicit(&f->drops_pages, memory_order_relaxed);
	rq->call.unique = nf_raw_current()->in->unique;
	return rq;
}

static void handles_put_locked(struct nf_request *rq)
{
	if (rq->fh)
		nf_handle_put_locked(rq->f, rq->fh);
	if (rq->fh2)
		nf_handle_put_locked(rq->f, rq->fh2);
	rq->fh = rq->fh2 = 0;
}

static bool take_file(struct nf_request *rq, uint64_t fh, uint64_t ino, uint64_t *fh_slot,
		      struct nf_open_file **file)
{
	nf_lock_take(&rq->f->lock);
	int r = nf_handle_get_locked(rq->f, fh, ino, file);
	if (!r)
		*fh_slot = fh;
	nf_lock_drop(&rq->f->lock);
	if (r)
		nf_request_refuse(rq, r);
	return !r;
}

bool nf_request_file(struct nf_request *rq, const struct fuse_file_info *fi)
{
	rq->call.flags = (uint32_t)fi->flags;
	rq->call.lock_owner = fi->lock_owner;
	return take_file(rq, fi->fh, rq->call.ino, &rq->fh, &rq->call.file);
}

bool nf_request_file2(struct nf_request *rq, const struct fuse_file_info *fi)
{
	return take_file(rq, fi->fh, rq->call.ino2, &rq->fh2, &rq->call.file2);
}

static void name_copy(char *to, size_t room, const char *name)
{
	size_t len = strlen(name);

	NF_ASSERT(len < room); /* transport.c refuses longer ones */
	memcpy(to, name, len + 1);
}

void nf_request_name(struct nf_request *rq, const char *name)
{
	name_copy(rq->call.name, sizeof rq->call.name, name);
}

void nf_request_name2(struct nf_request *rq, const char *name)
{
	name_copy(rq->call.name2, sizeof rq->call.name2, name);
}

void nf_request_refuse(struct nf_request *rq, int error)
{
	nf_lock_take(&rq->f->lock);
	handles_put_locked(rq);
	nf_lock_drop(&rq->f->lock);
	(void)nf_reply_code(rq->fuse, error); /* fails only when the kernel is gone */
	request_put(rq);
}

void nf_request_submit(struct nf_request *rq)
{
	struct nf_front *f = rq->f;

	nf_trace(FUSE, "call op=%s unique=%llu ino=%llu name=%s offset=%llu size=%llu",
		 nf_call_name(rq->call.op), (unsigned long long)rq->call.unique,
		 (unsigned long long)rq->call.ino, rq->call.name,
		 (unsigned long long)rq->call.offset, (unsigned long long)rq->call.size);
	nf_count(NF_C_FUSE_CALLS, 1);
	atomic_fetch_add_explicit(&rq->refs, 1, memory_order_relaxed);
	nf_lock_take(&f->lock);
	nf_list_add_tail(&f->calls, &rq->link);
	nf_lock_drop(&f->lock);
	f->fs->ops->submit(f->fs, &rq->call);
	if (!atomic_load_explicit(&rq->done, memory_order_relaxed))
		nf_count(NF_C_FUSE_DEFERRED, 1);
	request_put(rq);
}

static void count_bytes(const struct nf_request *rq)
{
	if (rq->call.op == NF_CALL_WRITE) {
		nf_count(NF_C_FUSE_WRITE_BYTES, rq->call.count);
	} else if (rq->call.op == NF_CALL_READ) {
		uint64_t n = 0;
		for (int i = 0; i < rq->call.nr_iov; i++)
			n += rq->call.iov[i].iov_len;
		nf_count(NF_C_FUSE_READ_BYTES, n);
	}
}

/* A file that was opened and whose number the kernel will never get. */
static void release_unwanted(struct nf_request *rq, struct nf_open_file *file)
{
	bool dir = rq->call.op == NF_CALL_OPENDIR;
	struct nf_request *rel = request_alloc(rq->f);

	if (!rel) {
		nf_log(NF_LOG_ERROR, "out of memory, an open file stays open: ino=%llu",
		       (unsigned long long)rq->call.ino);
		return;
	}
	rel->call.op = dir ? NF_CALL_RELEASEDIR : NF_CALL_RELEASE;
	rel->call.ino = rq->call.attr.ino ? rq->call.attr.ino : rq->call.ino;
	rel->call.file = file;
	nf_request_submit(rel);
}

static void request_done(struct nf_call *c, int error)
{
	struct nf_request *rq = c->owner;
	struct nf_front *f = rq->f;
	uint64_t fh = 0;
	uint64_t ino = opens(c->op) && c->attr.ino ? c->attr.ino : c->ino;
	bool opened = !error && opens(c->op);

	NF_ASSERT(!atomic_exchange(&rq->done, true));
	nf_trace(FUSE, "done op=%s unique=%llu error=%s", nf_call_name(c->op),
		 (unsigned long long)c->unique, error ? nf_error_name(error) : "0");
	nf_lock_take(&f->lock);
	nf_list_del(&rq->link);
	handles_put_locked(rq);
	if (opened)
		error = nf_handle_add_locked(f, ino, c->file, c->op == NF_CALL_OPENDIR, &fh);
	nf_lock_drop(&f->lock);

	if (opened && error)
		release_unwanted(rq, c->file);
	if (!error)
		count_bytes(rq);
	if (rq->fuse) {
		int r = nf_reply(rq, error, fh);
		struct nf_open_file *file;
		/* ENOENT: interrupted before our answer, nobody will close it. */
		if (r && fh && !nf_handle_take(f, fh, ino, &file))
			release_unwanted(rq, file);
	}
	if (c->release)
		c->release(c);
	request_put(rq);
}

void nf_handle_release(struct nf_front *f, uint64_t fh, uint64_t ino, bool dir)
{
	struct nf_open_file *file;
	struct nf_request *rq = request_alloc(f);

	if (!rq)
		return; /* at the end of the session: the filesystem ends with it */
	if (nf_handle_take(f, fh, ino, &file)) {
		request_put(rq);
		return;
	}
	rq->call.op = dir ? NF_CALL_RELEASEDIR : NF_CALL_RELEASE;
	rq->call.ino = ino;
	rq->call.file = file;
	nf_request_submit(rq);
}

/* --- interrupting ------------------------------------------------------------------ */

static void interrupt_one(struct nf_request *rq)
{
	struct nf_fs *fs = rq->f->fs;

	if (!atomic_exchange(&rq->call.interrupted, true) && fs->ops->interrupt)
		fs->ops->interrupt(fs, &rq->call);
	request_put(rq);
}

static struct nf_request *find_get_locked(struct nf_front *f, bool any, uint64_t unique)
{
	nf_list_for_each (rq, &f->calls, struct nf_request, link) {
		if (any ? !atomic_load(&rq->call.interrupted) :
			  rq->fuse && rq->call.unique == unique) {
			atomic_fetch_add_explicit(&rq->refs, 1, memory_order_relaxed);
			return rq;
		}
	}
	return NULL;
}

bool nf_calls_interrupt(struct nf_front *f, uint64_t unique)
{
	nf_lock_take(&f->lock);
	struct nf_request *rq = find_get_locked(f, false, unique);
	nf_lock_drop(&f->lock);
	if (rq)
		interrupt_one(rq);
	return rq != NULL;
}

void nf_calls_interrupt_all(struct nf_front *f)
{
	for (;;) {
		nf_lock_take(&f->lock);
		struct nf_request *rq = find_get_locked(f, true, 0);
		nf_lock_drop(&f->lock);
		if (!rq)
			return;
		interrupt_one(rq);
	}
}

void nf_calls_drain(struct nf_front *f)
{
	uint64_t deadline_ns = nf_clock_ns() + NF_FUSE_DRAIN_MS * NF_NS_PER_MS;

	nf_lock_take(&f->lock);
	while (f->nr_live && nf_cond_wait_until(&f->changed, &f->lock, deadline_ns))
		;
	unsigned left = f->nr_live;
	nf_lock_drop(&f->lock);
	if (!left)
		return;
	nf_log(NF_LOG_WARN, "calls still under way after umount, interrupting: calls=%u", left);
	nf_calls_interrupt_all(f);
	nf_lock_take(&f->lock);
	while (f->nr_live)
		nf_cond_wait(&f->changed, &f->lock);
	nf_lock_drop(&f->lock);
}

void nf_calls_free_spare(struct nf_front *f)
{
	NF_ASSERT(nf_list_empty(&f->calls));
	nf_list_for_each_safe(rq, &f->spare, struct nf_request, link)
		free(rq);
	nf_list_init(&f->spare);
}

void nf_front_to_text(struct nf_front *f, struct nf_text *t)
{
	uint64_t now_ns = nf_clock_ns();

	nf_lock_take(&f->lock);
	nf_list_for_each (rq, &f->calls, struct nf_request, link)
		nf_textf(t, "%s ino=%llu unique=%llu pid=%u age_ms=%llu%s\n",
			 nf_call_name(rq->call.op), (unsigned long long)rq->call.ino,
			 (unsigned long long)rq->call.unique, rq->call.pid,
			 (unsigned long long)((now_ns - rq->started_ns) / NF_NS_PER_MS),
			 atomic_load(&rq->call.interrupted) ? " interrupted" : "");
	nf_lock_drop(&f->lock);
}
