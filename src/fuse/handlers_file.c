/* Calls on open files. */
#include "fuse/session.h"

#include "base/error.h"

#include <unistd.h>

/* A request for the open file FI of INO; NULL: answered already. */
static struct nf_request *new_on_file(fuse_req_t req, enum nf_call_op op, fuse_ino_t ino,
				      const struct fuse_file_info *fi)
{
	struct nf_request *rq = nf_request_new(req, op, ino);

	return rq && nf_request_file(rq, fi) ? rq : NULL;
}

/* [OFFSET, OFFSET + SIZE) is a range of a file. */
static bool is_range(off_t offset, uint64_t size)
{
	return offset >= 0 && size <= (uint64_t)INT64_MAX - (uint64_t)offset;
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct fuse_open_in *in = nf_raw_current()->arg;
	struct nf_request *rq = nf_request_new(req, NF_CALL_OPEN, ino);

	if (!rq)
		return;
	rq->call.flags = (uint32_t)fi->flags;
	if (in->open_flags & FUSE_OPEN_KILL_SUIDGID)
		rq->call.mask = NF_SET_KILL_SUIDGID;
	nf_request_submit(rq);
}

static void on_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_RELEASE, ino);

	if (!rq)
		return;
	rq->call.flags = (uint32_t)fi->flags;
	rq->call.lock_owner = fi->lock_owner;
	int r = nf_handle_take(rq->f, fi->fh, ino, &rq->call.file);
	if (r)
		nf_request_refuse(rq, r);
	else
		nf_request_submit(rq);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		    struct fuse_file_info *fi)
{
	struct nf_request *rq = new_on_file(req, NF_CALL_READ, ino, fi);

	if (!rq)
		return;
	/* A short answer would mean the end of the file, so what is too much is refused. */
	if (!is_range(offset, size) || size > rq->f->max_write_bytes) {
		nf_request_refuse(rq, nf_fail(-EINVAL));
		return;
	}
	rq->call.offset = (uint64_t)offset;
	rq->call.size = size;
	nf_request_submit(rq);
}

static void on_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
		     struct fuse_file_info *fi)
{
	const struct fuse_write_in *in = nf_raw_current()->arg;
	struct nf_request *rq = new_on_file(req, NF_CALL_WRITE, ino, fi);

	if (!rq)
		return;
	if (!is_range(offset, size)) {
		nf_request_refuse(rq, nf_fail(-EFBIG));
		return;
	}
	rq->call.offset = (uint64_t)offset;
	rq->call.size = size;
	rq->call.data = buf;
	if (in->write_flags & FUSE_WRITE_CACHE)
		rq->call.write_flags |= NF_WRITE_CACHE;
	if (in->write_flags & FUSE_WRITE_KILL_SUIDGID)
		rq->call.write_flags |= NF_WRITE_KILL_SUIDGID;
	nf_request_submit(rq);
}

static void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct nf_request *rq = new_on_file(req, NF_CALL_FLUSH, ino, fi);

	if (rq)
		nf_request_submit(rq);
}

static void on_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct nf_request *rq = new_on_file(req, NF_CALL_FSYNC, ino, fi);

	if (!rq)
		return;
	rq->call.datasync = datasync;
	nf_request_submit(rq);
}

static void on_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			 struct fuse_file_info *fi)
{
	struct nf_request *rq = new_on_file(req, NF_CALL_FALLOCATE, ino, fi);

	if (!rq)
		return;
	if (length <= 0 || !is_range(offset, (uint64_t)length)) {
		nf_request_refuse(rq, nf_fail(length <= 0 || offset < 0 ? -EINVAL : -EFBIG));
		return;
	}
	rq->call.mode = (uint32_t)mode;
	rq->call.offset = (uint64_t)offset;
	rq->call.size = (uint64_t)length;
	nf_request_submit(rq);
}

static void on_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
		     struct fuse_file_info *fi)
{
	struct nf_request *rq = new_on_file(req, NF_CALL_LSEEK, ino, fi);

	if (!rq)
		return;
	if (whence != SEEK_DATA && whence != SEEK_HOLE) {
		nf_request_refuse(rq, nf_fail(-EINVAL));
		return;
	}
	if (offset < 0) {
		nf_request_refuse(rq, nf_fail(-ENXIO));
		return;
	}
	rq->call.offset = (uint64_t)offset;
	rq->call.flags = (uint32_t)whence;
	nf_request_submit(rq);
}

static void on_copy(fuse_req_t req, fuse_ino_t ino, off_t offset, struct fuse_file_info *fi,
		    fuse_ino_t ino2, off_t offset2, struct fuse_file_info *fi2, size_t len, int flags)
{
	struct nf_request *rq = new_on_file(req, NF_CALL_COPY_RANGE, ino, fi);

	if (!rq)
		return;
	rq->call.ino2 = ino2;
	if (!nf_request_file2(rq, fi2))
		return;
	/* The answer's count has 32 bits; a shorter copy is allowed. */
	len = NF_MIN(len, (size_t)(UINT32_MAX & ~UINT32_C(0xfff)));
	if (flags || !is_range(offset, len) || !is_range(offset2, len)) {
		nf_request_refuse(rq, nf_fail(-EINVAL));
		return;
	}
	rq->call.flags = 0;
	rq->call.offset = (uint64_t)offset;
	rq->call.offset2 = (uint64_t)offset2;
	rq->call.size = len;
	nf_request_submit(rq);
}

static void on_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg,
		     struct fuse_file_info *fi, unsigned flags, const void *in_buf,
		     size_t in_size, size_t out_size)
{
	struct nf_request *rq = new_on_file(req, NF_CALL_IOCTL, ino, fi);

	(void)arg; /* the caller's address: only for unrestricted ioctls */
	if (!rq)
		return;
	if (flags & FUSE_IOCTL_UNRESTRICTED) {
		nf_request_refuse(rq, nf_fail(-EINVAL));
		return;
	}
	rq->call.cmd = cmd;
	rq->call.data = in_buf;
	rq->call.size = in_size;
	rq->call.out_size = (uint32_t)out_size;
	nf_request_submit(rq);
}

void nf_handlers_file(struct fuse_lowlevel_ops *ops)
{
	ops->open = on_open;
	ops->release = on_release;
	ops->read = on_read;
	ops->write = on_write;
	ops->flush = on_flush;
	ops->fsync = on_fsync;
	ops->fallocate = on_fallocate;
	ops->lseek = on_lseek;
	ops->copy_file_range = on_copy;
	ops->ioctl = on_ioctl;
}
