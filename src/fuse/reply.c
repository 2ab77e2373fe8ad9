/* Answers: struct nf_call -> bytes for the kernel.  The only place where a code becomes an errno.
 *
 * The kernel's structs are filled here rather than by libfuse's fuse_reply_*(), which lack fields that
 * newer kernels read (open flags, STATX). */
#include "fuse/session.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/trace.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

/* The kernel takes -511..0 and refuses the whole answer otherwise. */
enum { ERRNO_MAX = 511 };

static int fold(int code)
{
	int e = nf_errno(code);

	return e > 0 && e <= ERRNO_MAX ? e : EIO;
}

int nf_reply_code(fuse_req_t fuse, int error)
{
	return fuse_reply_err(fuse, error ? fold(error) : 0);
}

void nf_reply_raw(struct nf_front *f, uint64_t unique, int error)
{
	struct fuse_out_header h = { .len = sizeof h, .unique = unique, .error = -fold(error) };
	struct iovec iov = { &h, sizeof h };

	(void)nf_transport_send(f, &iov, 1); /* ENOENT: given up; else the session has ended */
}

static int reply_bytes(struct nf_request *rq, const void *p, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)p, len };

	return fuse_reply_iov(rq->fuse, &iov, len ? 1 : 0);
}

/* --- attributes ------------------------------------------------------------------- */

static void split_timeout(double s, uint64_t *sec, uint32_t *nsec)
{
	s = s > 0 ? NF_MIN(s, 1e9) : 0;
	*sec = (uint64_t)s;
	*nsec = (uint32_t)((s - (double)*sec) * 1e9);
}

static void attr_of(const struct nf_attr *a, struct fuse_attr *out)
{
	*out = (struct fuse_attr){
		.ino = a->ino,
		.size = a->size_bytes,
		.blocks = a->blocks,
		.atime = (uint64_t)a->atime.tv_sec,
		.mtime = (uint64_t)a->mtime.tv_sec,
		.ctime = (uint64_t)a->ctime.tv_sec,
		.atimensec = (uint32_t)a->atime.tv_nsec,
		.mtimensec = (uint32_t)a->mtime.tv_nsec,
		.ctimensec = (uint32_t)a->ctime.tv_nsec,
		.mode = a->mode,
		.nlink = a->nlink,
		.uid = a->uid,
		.gid = a->gid,
		.rdev = (uint32_t)a->rdev,
		.blksize = a->blksize,
	};
}

void nf_entry_of(const struct nf_front *f, const struct nf_attr *a, struct fuse_entry_out *out)
{
	*out = (struct fuse_entry_out){ .nodeid = a->ino };
	split_timeout(a->ino ? f->opts.entry_timeout_s : f->opts.negative_timeout_s,
		      &out->entry_valid, &out->entry_valid_nsec);
	if (!a->ino)
		return;
	split_timeout(f->opts.attr_timeout_s, &out->attr_valid, &out->attr_valid_nsec);
	attr_of(a, &out->attr);
}

static struct nf_wire_sx_time sx_time(const struct timespec *t)
{
	return (struct nf_wire_sx_time){ .tv_sec = t->tv_sec, .tv_nsec = (uint32_t)t->tv_nsec };
}

static int reply_statx(struct nf_request *rq)
{
	const struct nf_attr *a = &rq->call.attr;
	struct nf_wire_statx_out out = {
		.mask = STATX_BASIC_STATS,
		.blksize = a->blksize,
		.nlink = a->nlink,
		.uid = a->uid,
		.gid = a->gid,
		.mode = (uint16_t)a->mode,
		.ino = a->ino,
		.size = a->size_bytes,
		.blocks = a->blocks,
		.atime = sx_time(&a->atime),
		.btime = sx_time(&a->btime),
		.ctime = sx_time(&a->ctime),
		.mtime = sx_time(&a->mtime),
		/* As the kernel packs a device into 32 bits. */
		.rdev_major = (uint32_t)(a->rdev >> 8 & 0xfff),
		.rdev_minor = (uint32_t)((a->rdev & 0xff) | (a->rdev >> 12 & 0xfff00)),
	};

	if (a->btime.tv_sec || a->btime.tv_nsec)
		out.mask |= STATX_BTIME;
	split_timeout(rq->f->opts.attr_timeout_s, &out.attr_valid, &out.attr_valid_nsec);
	return reply_bytes(rq, &out, sizeof out);
}

static int reply_attr(struct nf_request *rq)
{
	struct fuse_attr_out out = { 0 };

	if (rq->statx)
		return reply_statx(rq);
	split_timeout(rq->f->opts.attr_timeout_s, &out.attr_valid, &out.attr_valid_nsec);
	attr_of(&rq->call.attr, &out.attr);
	return reply_bytes(rq, &out, sizeof out);
}

static int reply_entry(struct nf_request *rq)
{
	struct fuse_entry_out out;

	nf_entry_of(rq->f, &rq->call.attr, &out);
	return reply_bytes(rq, &out, sizeof out);
}

static int reply_statfs(struct nf_request *rq)
{
	enum { BLOCK_BYTES = 4096 };
	const struct nf_statfs *s = &rq->call.statfs;
	struct fuse_statfs_out out = { .st = {
		.blocks = s->total_bytes / BLOCK_BYTES,
		.bfree = s->free_bytes / BLOCK_BYTES,
		.bavail = s->free_bytes / BLOCK_BYTES,
		.files = s->files,
		.ffree = s->files_free,
		.bsize = BLOCK_BYTES,
		.frsize = BLOCK_BYTES,
		.namelen = s->name_max ? s->name_max : NF_FUSE_NAME_MAX,
	} };

	return reply_bytes(rq, &out, sizeof out);
}

/* --- opening ---------------------------------------------------------------------- */

static uint32_t open_flags(const struct nf_call *c)
{
	uint32_t flags = c->keep_cache ? FOPEN_KEEP_CACHE : 0;

	if (c->op == NF_CALL_OPENDIR)
		return c->keep_cache ? FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR : 0;
	if (c->direct_io || c->flags & O_DIRECT)
		flags |= FOPEN_DIRECT_IO;
	/* The others' writes come one after another. */
	if (c->flags & O_DIRECT)
		flags |= FOPEN_PARALLEL_DIRECT_WRITES;
	return flags;
}

static int reply_open(struct nf_request *rq, uint64_t fh)
{
	struct fuse_open_out out = { .fh = fh, .open_flags = open_flags(&rq->call) };

	return reply_bytes(rq, &out, sizeof out);
}

static int reply_create(struct nf_request *rq, uint64_t fh)
{
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = { .open = { .fh = fh, .open_flags = open_flags(&rq->call) } };

	nf_entry_of(rq->f, &rq->call.attr, &out.entry);
	return reply_bytes(rq, &out, sizeof out);
}

/* --- data ------------------------------------------------------------------------- */

static int reply_gathered(struct nf_request *rq, const struct iovec *iov, int nr_iov, size_t len)
{
	nf_auto_free char *all = malloc(len ? len : 1);
	size_t at = 0;

	if (!all)
		return nf_reply_code(rq->fuse, -ENOMEM);
	for (int i = 0; i < nr_iov; i++) {
		memcpy(all + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	nf_count(NF_C_READ_COPIED_BYTES, at);
	return reply_bytes(rq, all, len);
}

static int reply_read(struct nf_request *rq)
{
	const struct nf_call *c = &rq->call;
	size_t len = 0;

	for (int i = 0; i < c->nr_iov; i++)
		len += c->iov[i].iov_len;
	NF_ASSERT(len <= c->size); /* the kernel would refuse the answer and the reader hang */
	if (c->nr_iov > NF_FUSE_REPLY_IOV_MAX)
		return reply_gathered(rq, c->iov, c->nr_iov, len);
	return fuse_reply_iov(rq->fuse, c->iov, c->nr_iov);
}

static int reply_write(struct nf_request *rq)
{
	struct fuse_write_out out = { .size = (uint32_t)rq->call.count };

	NF_ASSERT(rq->call.count <= rq->call.size);
	return reply_bytes(rq, &out, sizeof out);
}

static int reply_readlink(struct nf_request *rq)
{
	const char *target = rq->call.buf;

	if (!target)
		return nf_reply_code(rq->fuse, nf_fail(-EIO));
	/* The kernel's page also holds its NUL. */
	return reply_bytes(rq, target, strnlen(target, PATH_MAX - 1));
}

static int reply_xattr(struct nf_request *rq)
{
	const struct nf_call *c = &rq->call;

	if (!c->size) {
		struct fuse_getxattr_out out = { .size = (uint32_t)c->count };
		return reply_bytes(rq, &out, sizeof out);
	}
	if (c->count > c->size)
		return nf_reply_code(rq->fuse, nf_fail(-ERANGE));
	return reply_bytes(rq, c->buf, c->count);
}

static int reply_ioctl(struct nf_request *rq)
{
	struct fuse_ioctl_out out = { 0 };
	struct iovec iov[2] = { { &out, sizeof out }, { rq->call.buf, rq->call.count } };

	if (rq->call.count > rq->call.out_size)
		return nf_reply_code(rq->fuse, nf_fail(-EIO));
	return fuse_reply_iov(rq->fuse, iov, rq->call.count ? 2 : 1);
}

static int reply_lseek(struct nf_request *rq)
{
	struct fuse_lseek_out out = { .offset = rq->call.offset };

	return reply_bytes(rq, &out, sizeof out);
}

int nf_reply(struct nf_request *rq, int error, uint64_t fh)
{
	if (error)
		return nf_reply_code(rq->fuse, error);
	switch (rq->call.op) {
	case NF_CALL_LOOKUP:
	case NF_CALL_MKNOD:
	case NF_CALL_MKDIR:
	case NF_CALL_SYMLINK:
	case NF_CALL_LINK:
		return reply_entry(rq);
	case NF_CALL_GETATTR:
	case NF_CALL_SETATTR:
		return reply_attr(rq);
	case NF_CALL_OPEN:
	case NF_CALL_OPENDIR:
		return reply_open(rq, fh);
	case NF_CALL_CREATE:
	case NF_CALL_TMPFILE:
		return reply_create(rq, fh);
	case NF_CALL_READ:
		return reply_read(rq);
	case NF_CALL_WRITE:
	case NF_CALL_COPY_RANGE:
		return reply_write(rq);
	case NF_CALL_READDIR:
		return reply_bytes(rq, rq->dir_buf, rq->dir_bytes);
	case NF_CALL_READLINK:
		return reply_readlink(rq);
	case NF_CALL_STATFS:
		return reply_statfs(rq);
	case NF_CALL_GETXATTR:
	case NF_CALL_LISTXATTR:
		return reply_xattr(rq);
	case NF_CALL_LSEEK:
		return reply_lseek(rq);
	case NF_CALL_IOCTL:
		return reply_ioctl(rq);
	case NF_CALL_UNLINK:
	case NF_CALL_RMDIR:
	case NF_CALL_RENAME:
	case NF_CALL_RELEASE:
	case NF_CALL_RELEASEDIR:
	case NF_CALL_FLUSH:
	case NF_CALL_FSYNC:
	case NF_CALL_FSYNCDIR:
	case NF_CALL_SETXATTR:
	case NF_CALL_REMOVEXATTR:
	case NF_CALL_FALLOCATE:
		return nf_reply_code(rq->fuse, 0);
	case NF_CALL_NR:
		break;
	}
	return nf_reply_code(rq->fuse, nf_fail(-EIO));
}
