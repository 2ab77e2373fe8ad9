/* Calls of the kernel on the data of a file, answered by its inode context.
 *
 *   call -> op (a use of the file) -> the library -> then -> answered
 *                                        READ: -> answered -> sent -> nf_read_end() */
#include "foliofs/file.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/lock.h"
#include "foliofs/ioctl.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>

struct op {
	struct nf_io io;
	struct iovec iov;
	struct nf_call *c;
	struct nf_file *f; /* used until the end */
	nf_file_then_fn *then;
};

int nf_file_init(struct nf_file *f, struct nf_netfs *lib, const struct nf_netfs_ops *ops, uint64_t ino,
		 uint32_t block_bytes, uint64_t size_bytes)
{
	atomic_init(&f->uses, 0);
	return nf_ictx_init(&f->ic, lib, ops, ino, block_bytes, size_bytes, size_bytes);
}

void nf_file_get(struct nf_file *f) { atomic_fetch_add(&f->uses, 1); }

bool nf_file_drop(struct nf_file *f)
{
	return atomic_fetch_sub(&f->uses, 1) == 1;
}

/* The last use is given up by the filesystem, with its lock: somebody may be looking the file up. */
void nf_file_put(struct nf_file *f)
{
	unsigned uses = atomic_load(&f->uses);

	while (uses > 1 && !atomic_compare_exchange_weak(&f->uses, &uses, uses - 1))
		;
	if (uses > 1)
		return;
	if (f->unused)
		f->unused(f);
	else
		(void)nf_file_drop(f);
}

static void answer(struct nf_file *f, struct nf_call *c, nf_file_then_fn *then, int error)
{
	if (error == 0 && then)
		error = then(f, c);
	nf_file_put(f);
	nf_call_done(c, error);
}

static void op_done(struct nf_io *io)
{
	struct op *op = io->ctx;
	struct nf_file *f = op->f;
	struct nf_call *c = op->c;
	nf_file_then_fn *then = op->then;
	int error = io->error;

	if (c->op == NF_CALL_WRITE)
		c->count = io->done_bytes;
	free(op);
	answer(f, c, then, error);
}

/* The bytes are in the library's memory until the front end has sent them. */
static void read_sent(struct nf_call *c)
{
	struct op *op = c->fs_priv[0];

	nf_read_end(&op->io);
	nf_file_put(op->f);
	free(op);
}

static void read_done(struct nf_io *io)
{
	struct op *op = io->ctx;
	struct nf_call *c = op->c;

	if (io->error) {
		op_done(io);
		return;
	}
	c->iov = io->out_iov;
	c->nr_iov = io->nr_out_iov;
	c->count = io->done_bytes;
	c->fs_priv[0] = op;
	c->release = read_sent;
	nf_call_done(c, 0);
}

static int write_op(struct op *op)
{
	struct nf_call *c = op->c;
	int r = nf_call_keep_data(c); /* the library may want it after submit has returned */

	if (r < 0)
		return r;
	if (c->write_flags & NF_WRITE_CACHE) {
		/* Whole pages of a mapping; what is past the end of the file is nobody's. */
		uint64_t size = nf_i_size(op->io.ic);
		op->io.len_bytes = NF_MIN(c->size, c->offset < size ? size - c->offset : 0);
		op->io.flags |= NF_IO_PAGE_GRANULAR;
	}
	if (c->flags & (O_SYNC | O_DSYNC))
		op->io.flags |= NF_IO_DSYNC;
	op->iov = (struct iovec){ (void *)(uintptr_t)c->data, op->io.len_bytes };
	op->io.iov = &op->iov;
	op->io.nr_iov = 1;
	nf_write(&op->io);
	return 0;
}

static void resize_op(struct op *op, uint64_t size_bytes)
{
	op->io.len_bytes = size_bytes;
	op->io.flags = 0;
	nf_truncate(&op->io);
}

/* Gives the call to the library, which answers it; negative: it was not. */
static int start(struct nf_file *f, struct nf_call *c, nf_file_then_fn *then)
{
	struct op *op = calloc(1, sizeof *op);
	int r = 0;

	if (!op)
		return nf_fail(-ENOMEM);
	op->c = c;
	op->f = f;
	op->then = then;
	op->io = (struct nf_io){ .ic = &f->ic, .pos_bytes = c->offset, .len_bytes = c->size, .done = op_done, .ctx = op };
	switch ((int)c->op) {
	case NF_CALL_READ:
		op->io.done = read_done;
		op->io.flags = c->flags & O_DIRECT ? NF_IO_DIRECT : 0;
		nf_read(&op->io);
		break;
	case NF_CALL_WRITE:
		op->io.flags = c->flags & O_DIRECT ? NF_IO_DIRECT : 0;
		r = write_op(op);
		break;
	case NF_CALL_FALLOCATE: nf_fallocate(&op->io, (int)c->mode); break;
	case NF_CALL_SETATTR: resize_op(op, c->attr.size_bytes); break;
	case NF_CALL_OPEN: resize_op(op, 0); break;
	default: nf_fsync(&op->io); break;
	}
	if (r < 0)
		free(op);
	return r;
}

static bool is_for_library(const struct nf_call *c)
{
	switch ((int)c->op) {
	case NF_CALL_SETATTR: return c->mask & NF_SET_SIZE;
	case NF_CALL_OPEN: return c->flags & O_TRUNC;
	case NF_CALL_READ:
	case NF_CALL_WRITE:
	case NF_CALL_FALLOCATE:
	case NF_CALL_FSYNC:
	case NF_CALL_RENAME: return true;
	default: return false;
	}
}

void nf_file_opened(struct nf_file *f, struct nf_call *c)
{
	nf_file_get(f);
	c->file = (struct nf_open_file *)(void *)f;
	c->keep_cache = true;
	c->direct_io = c->flags & O_DIRECT;
}

void nf_file_call(struct nf_file *f, struct nf_call *c, nf_file_then_fn *then)
{
	int r = 0;

	nf_file_get(f); /* put in answer(), or when a read was sent */
	if (is_for_library(c))
		r = start(f, c, then);
	if (is_for_library(c) && r == 0)
		return;
	if (c->op == NF_CALL_IOCTL && c->cmd != FOLIOFS_IOC_BARRIER)
		r = -ENOTTY;
	else if (c->op == NF_CALL_IOCTL)
		(void)nf_group_close(&f->ic);
	else if (c->op == NF_CALL_RELEASE)
		nf_file_put(f);
	else if (c->op != NF_CALL_FLUSH && c->op != NF_CALL_SETATTR && !then)
		r = -ENOSYS;
	answer(f, c, then, r);
}

/* --- the end ------------------------------------------------------------------------------------ */

struct waiting {
	struct nf_io io;
	struct nf_lock lock;
	struct nf_cond cond;
	bool done; /* lock */
};

static void wake(struct waiting *w)
{
	nf_lock_take(&w->lock);
	w->done = true;
	nf_cond_signal(&w->cond);
	nf_lock_drop(&w->lock);
}

static void wait_for(struct waiting *w)
{
	nf_lock_take(&w->lock);
	while (!w->done)
		nf_cond_wait(&w->cond, &w->lock);
	w->done = false;
	nf_lock_drop(&w->lock);
}

static void on_stored(struct nf_io *io) { wake(io->ctx); }
static void on_ended(struct nf_ictx *ic) { wake(((struct nf_file *)(void *)ic)->closing); }

int nf_file_close(struct nf_file *f)
{
	struct waiting w = { .io = { .ic = &f->ic, .done = on_stored, .ctx = &w } };

	nf_lock_init(&w.lock, NF_RANK_LEAF);
	nf_cond_init(&w.cond);
	nf_fsync(&w.io);
	wait_for(&w);
	if (w.io.error < 0)
		nf_discard(&f->ic, w.io.error);
	f->closing = &w;
	nf_ictx_deinit(&f->ic, on_ended);
	wait_for(&w);
	nf_cond_deinit(&w.cond);
	nf_lock_deinit(&w.lock);
	return w.io.error;
}

void nf_file_discard(struct nf_file *f, void (*done)(struct nf_ictx *ic))
{
	nf_discard(&f->ic, 0);
	nf_ictx_deinit(&f->ic, done);
}
