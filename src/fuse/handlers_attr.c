/* Calls on what is known about an inode: attributes, link targets, extended attributes, room. */
#include "fuse/session.h"

#include "base/error.h"

#include <sys/stat.h>

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct nf_raw *raw = nf_raw_current();
	const struct fuse_getattr_in *in = raw->arg; /* STATX begins with the same fields */
	struct nf_request *rq = nf_request_new(req, NF_CALL_GETATTR, ino);

	if (!rq)
		return;
	rq->statx = raw->opcode == NF_WIRE_STATX;
	if (in->getattr_flags & FUSE_GETATTR_FH && !nf_request_file(rq, fi))
		return;
	nf_request_submit(rq);
}

static uint32_t set_mask(uint32_t valid)
{
	static const struct {
		uint32_t fattr, set;
	} rows[] = {
		{ FATTR_MODE, NF_SET_MODE },
		{ FATTR_UID, NF_SET_UID },
		{ FATTR_GID, NF_SET_GID },
		{ FATTR_SIZE, NF_SET_SIZE },
		{ FATTR_ATIME, NF_SET_ATIME },
		{ FATTR_MTIME, NF_SET_MTIME },
		{ FATTR_ATIME_NOW, NF_SET_ATIME_NOW },
		{ FATTR_MTIME_NOW, NF_SET_MTIME_NOW },
		{ FATTR_CTIME, NF_SET_CTIME },
		{ FATTR_KILL_SUIDGID, NF_SET_KILL_SUIDGID },
	};
	uint32_t mask = 0;

	for (size_t i = 0; i < NF_ARRAY_LEN(rows); i++) {
		if (valid & rows[i].fattr)
			mask |= rows[i].set;
	}
	/* The kernel sets ATIME with ATIME_NOW; the filesystem sees one or the other. */
	if (mask & NF_SET_ATIME_NOW)
		mask &= ~(uint32_t)NF_SET_ATIME;
	if (mask & NF_SET_MTIME_NOW)
		mask &= ~(uint32_t)NF_SET_MTIME;
	return mask;
}

static void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set,
		       struct fuse_file_info *fi)
{
	const struct fuse_setattr_in *in = nf_raw_current()->arg;
	struct nf_request *rq = nf_request_new(req, NF_CALL_SETATTR, ino);

	(void)to_set; /* lacks KILL_SUIDGID */
	if (!rq)
		return;
	if (in->valid & FATTR_FH && !nf_request_file(rq, fi))
		return;
	if (in->valid & FATTR_SIZE && in->size > INT64_MAX) {
		nf_request_refuse(rq, nf_fail(-EFBIG));
		return;
	}
	rq->call.lock_owner = in->valid & FATTR_LOCKOWNER ? in->lock_owner : 0;
	rq->call.mask = set_mask(in->valid);
	rq->call.attr = (struct nf_attr){
		.ino = ino,
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.size_bytes = (uint64_t)st->st_size,
		.atime = st->st_atim,
		.mtime = st->st_mtim,
		.ctime = { .tv_sec = (time_t)in->ctime, .tv_nsec = in->ctimensec },
	};
	nf_request_submit(rq);
}

static void on_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_READLINK, ino);

	if (rq)
		nf_request_submit(rq);
}

static void on_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_STATFS, ino);

	if (rq)
		nf_request_submit(rq);
}

static void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
			size_t size, int flags)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_SETXATTR, ino);

	if (!rq)
		return;
	nf_request_name(rq, name);
	rq->call.data = value;
	rq->call.size = size;
	rq->call.flags = (uint32_t)flags;
	nf_request_submit(rq);
}

static void on_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_GETXATTR, ino);

	if (!rq)
		return;
	nf_request_name(rq, name);
	rq->call.size = size;
	nf_request_submit(rq);
}

static void on_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_LISTXATTR, ino);

	if (!rq)
		return;
	rq->call.size = size;
	nf_request_submit(rq);
}

static void on_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_REMOVEXATTR, ino);

	if (!rq)
		return;
	nf_request_name(rq, name);
	nf_request_submit(rq);
}

void nf_handlers_attr(struct fuse_lowlevel_ops *ops)
{
	ops->getattr = on_getattr;
	ops->setattr = on_setattr;
	ops->readlink = on_readlink;
	ops->statfs = on_statfs;
	ops->setxattr = on_setxattr;
	ops->getxattr = on_getxattr;
	ops->listxattr = on_listxattr;
	ops->removexattr = on_removexattr;
}
