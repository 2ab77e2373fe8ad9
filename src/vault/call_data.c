/* vault/call_data.c - open files: reading, writing, making durable. */
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "vault/calls.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

/* --- open, release ----------------------------------------------------------------------------- */

int nf_open_file_new(struct nf_vault *v, struct nf_vnode *vn, struct nf_call *c)
{
	struct nf_open_file *f = calloc(1, sizeof *f);

	(void)v;
	if (!f) {
		nf_vnode_put(vn);
		return nf_fail(-ENOMEM);
	}
	f->vn = vn;
	f->ino = vn->ino;
	f->flags = c->flags;
	f->writable = (c->flags & O_ACCMODE) != O_RDONLY;
	f->direct = c->flags & O_DIRECT;
	f->errors_seen = nf_errors_seen(&vn->ic);
	vn->writers += f->writable;
	c->file = f;
	c->keep_cache = true;
	f->past = nf_past_wanted(c);
	if (f->past)
		nf_past_open(vn);
	c->direct_io = f->direct || f->past;
	return 0;
}

static void truncated_at_open(struct nf_io *io)
{
	struct nf_run *run = io->ctx;

	run->error = io->error;
	run->phase = 1;
	nf_run_again(run);
}

static void start_open_truncate(struct nf_run *run)
{
	run->io = (struct nf_io){ .ic = &run->vn->ic, .done = truncated_at_open, .ctx = run };
	nf_truncate(&run->io);
}

int nf_do_open(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_run *run = nf_run_of(c);
	bool writable = (c->flags & O_ACCMODE) != O_RDONLY;
	int r = writable || c->flags & O_TRUNC ? nf_may_change(v) : 0;

	if (r < 0)
		return r;
	if (!run->vn) {
		r = nf_vnode_get(v, c->ino, c, w, &run->vn);
		if (r)
			return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	}
	if (c->flags & O_TRUNC && !run->phase && nf_i_size(&run->vn->ic) > 0) {
		nf_vnode_touch(run->vn);
		run->start = start_open_truncate;
		return NF_CALL_PENDING;
	}
	if (run->error < 0)
		return run->error;
	if (run->phase)
		nf_vnode_dirty(run->vn);
	if (c->flags & O_TRUNC) {
		if (!run->phase)
			nf_vnode_touch(run->vn);
		r = nf_vnode_log_times(run->vn, w);
		if (r)
			return r;
	}
	if (c->flags & O_TRUNC && c->mask & NF_SET_KILL_SUIDGID) {
		r = nf_drop_set_ids(v, c->ino, w);
		if (r)
			return r;
	}
	struct nf_vnode *vn = run->vn;
	run->vn = NULL;
	return nf_open_file_new(v, vn, c);
}

int nf_do_release(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_open_file *f = c->file;

	(void)v;
	(void)w;
	if (!f)
		return 0;
	f->vn->writers -= f->writable;
	if (f->past)
		nf_past_close(f->vn);
	nf_vnode_put(f->vn);
	free(f);
	c->file = NULL;
	return 0;
}

/* --- reading -------------------------------------------------------------------------------------- */

static void read_release(struct nf_call *c)
{
	struct nf_run *run = c->fs_priv[1];

	nf_read_end(&run->io);
	c->fs_priv[1] = NULL;
	nf_run_end(run, 0);
}

static void read_done(struct nf_io *io)
{
	struct nf_run *run = io->ctx;

	if (io->error < 0) {
		nf_run_end(run, io->error);
		return;
	}
	/* The run stays until the reply is sent: it holds the pages. */
	struct nf_call *c = nf_run_claim(run);
	if (!c) {
		nf_read_end(io);
		nf_run_end(run, 0);
		return;
	}
	c->iov = io->out_iov;
	c->nr_iov = io->nr_out_iov;
	c->count = io->done_bytes;
	c->fs_priv[0] = NULL;
	c->fs_priv[1] = run;
	c->release = read_release;
	nf_call_done(c, 0);
}

static void start_read(struct nf_run *run) { nf_read(&run->io); }

int nf_do_read(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_run *run = nf_run_of(c);

	(void)v;
	(void)w;
	run->vn = c->file->vn;
	run->vn->refs++;
	if (!c->file->direct) {
		nf_old_version_given(run->vn, c->offset, c->size);
		nf_past_read(run->vn, c->offset, c->offset + c->size);
	}
	run->io = (struct nf_io){ .ic = &run->vn->ic, .pos_bytes = c->offset, .len_bytes = c->size,
				  .flags = c->file->direct ? NF_IO_DIRECT : 0, .done = read_done,
				  .ctx = run };
	run->start = start_read;
	return NF_CALL_PENDING;
}

/* --- writing ---------------------------------------------------------------------------------------- */

void nf_vnode_touch(struct nf_vnode *vn)
{
	vn->mtime = vn->change_time = nf_clock_real();
	vn->pending_times = true;
	nf_vnode_dirty(vn);
}

int nf_vnode_log_times(struct nf_vnode *vn, struct nf_want *w)
{
	struct nf_vault *v = vn->v;
	struct nf_inode_item item;
	struct nf_val val = { 0 };

	if (!vn->pending_times || vn->orphan || nf_is_dirty(&vn->ic) || !nf_avl_empty(&vn->acc))
		return 0;
	struct nf_apply a = nf_vault_apply(v, v->current, false);
	int r = nf_apply_inode(&a, vn->ino, w, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
	struct nf_op op = { .kind = NF_OP_SETATTR, .conflict_mode = NF_MODE_STASH, .time = vn->change_time,
			    .ino = vn->ino, .mask = NF_OPA_MTIME | NF_OPA_CTIME,
			    .base = { .mtime = item.mtime, .ctime = item.ctime },
			    .now = { .mtime = vn->mtime, .ctime = vn->change_time } };
	nf_val_deinit(&val);
	r = nf_vault_do(v, &op, w);
	if (r == 0)
		vn->pending_times = false;
	return r;
}

static void pages_dropped(void *arg)
{
	struct nf_run *run = arg;

	nf_run_end(run, run->io.error);
}

static void written(struct nf_io *io)
{
	struct nf_run *run = io->ctx;
	struct nf_vnode *vn = run->vn;
	struct nf_want w = NF_WANT_INIT;
	const struct nf_notify_ops *notify = vn->v->fs.notify;

	nf_lock_take(&vn->v->ns);
	bool stale = run->past && nf_past_applied(vn, io->pos_bytes, io->pos_bytes + io->len_bytes);
	nf_vnode_dirty(vn);
	/* The base's item is at hand while a file is open; if it were not, the times would wait for the next change. */
	(void)nf_vnode_log_times(vn, &w);
	nf_lock_drop(&vn->v->ns);
	nf_want_deinit(&w);
	if (run->call)
		run->call->count = io->error < 0 ? 0 : io->done_bytes;
	if (io->error == 0 && run->v->fsync_remote && io->flags & NF_IO_DSYNC) {
		nf_sync_wait(run);
		return;
	}
	if (stale && notify)
		notify->inval_inode(vn->v->fs.notify_ctx, vn->ino, (int64_t)io->pos_bytes, (int64_t)io->len_bytes,
				    pages_dropped, run);
	else
		nf_run_end(run, io->error);
}

static void start_write(struct nf_run *run)
{
	run->io.done = written;
	run->io.ctx = run;
	nf_write(&run->io);
}

/* A direct write or one with O_SYNC is durable when it returns. */
static void journal_written(struct nf_work *w)
{
	struct nf_run *run = nf_container_of(w, struct nf_run, work);
	int r = nf_vault_journal(run->v, true);

	nf_run_end(run, r);
}

static void written_sync(struct nf_io *io)
{
	struct nf_run *run = io->ctx;

	if (io->error < 0 || run->v->fsync_remote) {
		written(io);
		return;
	}
	if (run->call)
		run->call->count = io->done_bytes;
	nf_work_init(&run->work, journal_written);
	nf_pool_add(run->v->pool, &run->work);
}

static void start_write_sync(struct nf_run *run)
{
	run->io.done = written_sync;
	run->io.ctx = run;
	nf_write(&run->io);
}

static void unlined(struct nf_io *io)
{
	struct nf_run *run = io->ctx;
	struct unline *u = run->buf;

	int error = io->error;
	*io = u->then;
	if (error < 0) {
		/* Going on would lose the bytes: what follows stands beside them as blocks. */
		io->error = error;
		io->done(io);
		return;
	}
	u->go(run);
}

static void unline_read(struct nf_io *io)
{
	struct nf_run *run = io->ctx;
	struct unline *u = run->buf;
	size_t len = 0;

	for (int i = 0; io->error == 0 && i < io->nr_out_iov; i++) {
		size_t n = NF_MIN(io->out_iov[i].iov_len, sizeof u->bytes - len);
		memcpy(u->bytes + len, io->out_iov[i].iov_base, n);
		len += n;
	}
	int error = io->error;
	if (error == 0)
		nf_read_end(io);
	run->iov[1] = (struct iovec){ u->bytes, len };
	*io = (struct nf_io){ .ic = &run->vn->ic, .iov = &run->iov[1], .nr_iov = 1, .len_bytes = len,
			      .error = error, .done = unlined, .ctx = run };
	nf_count(NF_C_UNLINE_BYTES, len);
	if (error < 0 || len == 0)
		unlined(io);
	else
		nf_write(io);
}

static void start_unline(struct nf_run *run)
{
	struct unline *u = run->buf;

	u->then = run->io;
	run->io = (struct nf_io){ .ic = &run->vn->ic, .len_bytes = NF_INLINE_MAX,
				  .flags = NF_IO_NOWAIT_AHEAD, .done = unline_read, .ctx = run };
	nf_read(&run->io);
}

bool nf_unline_needed(const struct nf_vnode *vn, uint64_t pos_bytes, uint64_t end_bytes)
{
	uint64_t size = nf_i_size(&vn->ic);
	return size > 0 && size <= NF_INLINE_MAX && !(pos_bytes == 0 && end_bytes >= size);
}

int nf_unline(struct nf_run *run, void (*go)(struct nf_run *run), void (*done)(struct nf_io *io))
{
	struct unline *u = calloc(1, sizeof *u);

	if (!u)
		return nf_fail(-ENOMEM);
	u->go = go;
	free(run->buf);
	run->buf = u;
	run->io.done = done;
	run->io.ctx = run;
	run->start = start_unline;
	return NF_CALL_PENDING;
}

int nf_do_write(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_run *run = nf_run_of(c);
	struct nf_vnode *vn = c->file->vn;

	int r = nf_may_change(v);
	if (r == 0 && c->write_flags & NF_WRITE_KILL_SUIDGID)
		r = nf_drop_set_ids(v, c->ino, w);
	if (r == NF_TREE_WANT) {
		int k = nf_call_keep_data(c);
		return k < 0 ? k : r;
	}
	if (r)
		return r;
	if (c->offset + c->size > INT64_MAX - (1 << 22))
		return nf_fail(-EFBIG);
	if (c->write_flags & NF_WRITE_CACHE)
		return nf_mapped_write(run, vn);
	bool unline = c->offset + c->size > NF_INLINE_MAX && nf_unline_needed(vn, c->offset, c->offset + c->size);
	r = unline ? nf_call_keep_data(c) : 0;
	if (r < 0)
		return r;
	vn->refs++;
	run->vn = vn;
	nf_vnode_touch(vn);
	unsigned flags = c->file->direct ? NF_IO_DIRECT : 0;
	/* Kept data belongs to the run from here: the call may be gone before the library is done.  Without it this
	 * runs in submit, and the library has taken the data when that returns. */
	if (!c->kept)
		flags |= NF_IO_BORROWED;
	run->iov[0] = (struct iovec){ (void *)(uintptr_t)c->data, c->size };
	run->state = c->kept;
	c->kept = NULL;
	/* For buffered descriptors the kernel sends FSYNC after a synchronous write. */
	if (c->flags & (O_DSYNC | O_SYNC) && c->file->direct)
		flags |= NF_IO_DSYNC;
	run->io = (struct nf_io){ .ic = &vn->ic, .pos_bytes = c->offset, .len_bytes = c->size,
				  .flags = flags, .iov = run->iov, .nr_iov = 1 };
	run->start = flags & NF_IO_DSYNC ? start_write_sync : start_write;
	r = unline ? nf_unline(run, run->start, flags & NF_IO_DSYNC ? written_sync : written) : NF_CALL_PENDING;
	if (r == NF_CALL_PENDING && c->file->past) {
		run->past = true;
		nf_past_begin(vn, c->offset, c->offset + c->size);
	} else if (!c->file->direct) {
		nf_past_cached(vn, c->offset, c->offset + c->size);
	}
	return r;
}

int nf_do_flush(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_open_file *f = c->file;

	(void)v;
	(void)w;
	/* Nothing is waited for; but whoever closes without fsync is told what has failed so far. */
	return f->vn && f->writable ? nf_errors_hear(&f->vn->ic, &f->errors_seen) : 0;
}

/* --- fsync ---------------------------------------------------------------------------------------------- */

/* Whoever waits for the journal when a flush begins shares it, on one thread however many they are: the others are for those who
 * need no disk. */
static void sync_journal(struct nf_work *w)
{
	struct nf_vault *v = nf_container_of(w, struct nf_vault, fsync_work);
	struct nf_list now;

	nf_list_init(&now);
	for (;;) {
		nf_lock_take(&v->ns);
		nf_list_for_each_safe(run, &v->fsync_waiters, struct nf_run, waiting) {
			nf_list_del(&run->waiting);
			nf_list_add_tail(&now, &run->waiting);
		}
		v->fsync_runs = !nf_list_empty(&now);
		bool more = v->fsync_runs;
		nf_lock_drop(&v->ns);
		if (!more)
			return;
		int r = nf_vault_journal(v, true);
		nf_list_for_each_safe(run, &now, struct nf_run, waiting) {
			nf_list_del(&run->waiting);
			if (r == 0 && v->fsync_remote)
				nf_sync_wait(run);
			else
				nf_run_end(run, r);
		}
	}
}

static void want_journal(struct nf_run *run)
{
	struct nf_vault *v = run->v;

	nf_lock_take(&v->ns);
	nf_list_add_tail(&v->fsync_waiters, &run->waiting);
	if (!v->fsync_runs) {
		v->fsync_runs = true;
		nf_work_init(&v->fsync_work, sync_journal);
		nf_pool_add(v->pool, &v->fsync_work);
	}
	nf_lock_drop(&v->ns);
}

static void synced(struct nf_io *io)
{
	struct nf_run *run = io->ctx;

	nf_lock_take(&run->v->ns);
	nf_lock_take(&run->v->run_lock);
	if (run->call) /* its descriptor is open until it is answered; one that gave up has not heard */
		run->call->file->errors_seen = io->errors_seen;
	nf_lock_drop(&run->v->run_lock);
	nf_lock_drop(&run->v->ns);
	if (io->error < 0) {
		nf_run_end(run, io->error);
		return;
	}
	want_journal(run);
}

static void start_fsync(struct nf_run *run)
{
	if (run->vn)
		nf_fsync(&run->io);
	else
		want_journal(run);
}

int nf_do_fsync(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_run *run = nf_run_of(c);

	(void)w;
	if (v->read_only)
		return 0;
	run->vn = c->file->vn;
	run->vn->refs++;
	run->io = (struct nf_io){ .ic = &run->vn->ic, .done = synced, .ctx = run, .flags = NF_IO_ERRORS_SEEN,
				  .errors_seen = c->file->errors_seen };
	run->start = start_fsync;
	return NF_CALL_PENDING;
}

int nf_do_fsyncdir(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	(void)w;
	if (v->read_only)
		return 0;
	nf_run_of(c)->start = start_fsync;
	return NF_CALL_PENDING;
}

/* --- fallocate, lseek -------------------------------------------------------------------------------------- */

static void start_fallocate(struct nf_run *run)
{
	run->io.done = written;
	run->io.ctx = run;
	nf_fallocate(&run->io, (int)run->phase);
}

int nf_do_fallocate(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_run *run = nf_run_of(c);
	struct nf_vnode *vn = c->file->vn;
	uint32_t known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;

	int r = nf_may_change(v);
	if (r < 0)
		return r;
	if (c->mode & ~known)
		return nf_fail(-EOPNOTSUPP);
	if (c->size == 0)
		return nf_fail(-EINVAL);
	if (c->offset + c->size > INT64_MAX - (1 << 22))
		return nf_fail(-EFBIG);
	/* The kernel leaves this to us and has no flag for it. */
	if (c->uid != 0)
		r = nf_drop_set_ids(v, c->ino, w);
	if (r)
		return r;
	vn->refs++;
	run->vn = vn;
	nf_vnode_touch(vn);
	run->io = (struct nf_io){ .ic = &vn->ic, .pos_bytes = c->offset, .len_bytes = c->size };
	run->phase = c->mode;
	run->start = start_fallocate;
	if (!(c->mode & FALLOC_FL_KEEP_SIZE) && c->offset + c->size > NF_INLINE_MAX &&
	    nf_unline_needed(vn, 1, 0))
		return nf_unline(run, start_fallocate, written);
	return NF_CALL_PENDING;
}

static void stored_for_seek(struct nf_io *io)
{
	struct nf_run *run = io->ctx;

	run->error = io->error;
	run->phase = 1;
	nf_run_again(run);
}

static void start_seek(struct nf_run *run)
{
	run->io = (struct nf_io){ .ic = &run->vn->ic, .done = stored_for_seek, .ctx = run };
	nf_group_flush(&run->io, 0);
}

/* The first block, from BLOCK on, of a window with something in it: of undrained groups, or of the view. 0, NF_TREE_NONE, ... */
static int next_window(struct nf_vnode *vn, uint64_t block, struct nf_want *w, uint64_t *out)
{
	struct nf_view view = nf_vnode_view(vn);
	const struct nf_acc *acc = nf_acc_from(vn, block);
	struct nf_key from = nf_key_extent(vn->ino, block), key;
	struct nf_key to = { .ino = vn->ino, .type = NF_ITEM_EXTENT + 1 };
	struct nf_val val = { 0 };

	int r = nf_view_next(&view, &from, &to, w, &key, &val);
	nf_val_deinit(&val);
	if (r && r != NF_TREE_NONE)
		return r;
	if (r == 0 && (!acc || key.a < acc->first_block))
		*out = key.a;
	else if (acc)
		*out = acc->first_block;
	else
		return NF_TREE_NONE;
	return 0;
}

/* Finds the first block at or after BLOCK that is data (or is not). 0 with *OUT, NF_TREE_NONE past the end. */
static int seek_block(struct nf_vnode *vn, uint64_t block, uint64_t end, bool data, struct nf_want *w,
		      uint64_t *out)
{
	struct nf_block_ref window[NF_WINDOW_BLOCKS];

	while (block < end) {
		uint64_t first = block / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
		int r = nf_vnode_window(vn, first, w, window);
		if (r)
			return r;
		for (; block < end && block < first + NF_WINDOW_BLOCKS; block++) {
			if ((window[block - first].sealed_len != 0) == data) {
				*out = block;
				return 0;
			}
		}
		if (!data || block >= end)
			continue;
		/* Over long holes at one step. */
		r = next_window(vn, block, w, &first);
		if (r)
			return r;
		block = NF_MAX(block, first);
	}
	return NF_TREE_NONE;
}

int nf_do_lseek(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_run *run = nf_run_of(c);
	struct nf_vnode *vn = c->file->vn;
	uint64_t size = nf_i_size(&vn->ic), block;
	bool data = c->flags == SEEK_DATA;

	if (c->offset >= size)
		return nf_fail(-ENXIO);
	if (!run->phase && nf_is_dirty(&vn->ic) && !v->read_only) {
		vn->refs++;
		run->vn = vn;
		run->start = start_seek;
		return NF_CALL_PENDING;
	}
	if (run->error < 0)
		return run->error;
	if (size <= NF_INLINE_MAX) {
		c->offset = data ? c->offset : size;
		return 0;
	}
	uint64_t end = (size + (1u << vn->block_shift) - 1) >> vn->block_shift;
	int r = seek_block(vn, c->offset >> vn->block_shift, end, data, w, &block);
	if (r == NF_TREE_NONE) {
		if (data)
			return nf_fail(-ENXIO);
		c->offset = size;
		return 0;
	}
	if (r)
		return r;
	c->offset = NF_MAX(c->offset, block << vn->block_shift);
	c->offset = NF_MIN(c->offset, size);
	return 0;
}
