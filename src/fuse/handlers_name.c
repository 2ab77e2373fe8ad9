/* Calls on names: look up, make, remove, rename. */
#include "fuse/session.h"

#include "base/error.h"

#include <linux/fs.h>

static struct nf_request *new_named(fuse_req_t req, enum nf_call_op op, fuse_ino_t parent,
				    const char *name)
{
	struct nf_request *rq = nf_request_new(req, op, parent);

	if (rq)
		nf_request_name(rq, name);
	return rq;
}

static void submit_named(fuse_req_t req, enum nf_call_op op, fuse_ino_t parent, const char *name)
{
	struct nf_request *rq = new_named(req, op, parent, name);

	if (rq)
		nf_request_submit(rq);
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	submit_named(req, NF_CALL_LOOKUP, parent, name);
}

static void on_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	submit_named(req, NF_CALL_UNLINK, parent, name);
}

static void on_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	submit_named(req, NF_CALL_RMDIR, parent, name);
}

static void on_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct nf_request *rq = new_named(req, NF_CALL_MKNOD, parent, name);

	if (!rq)
		return;
	rq->call.mode = mode;
	rq->call.rdev = rdev;
	nf_request_submit(rq);
}

static void on_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct nf_request *rq = new_named(req, NF_CALL_MKDIR, parent, name);

	if (!rq)
		return;
	rq->call.mode = mode;
	nf_request_submit(rq);
}

static void on_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct nf_request *rq = new_named(req, NF_CALL_SYMLINK, parent, name);

	if (!rq)
		return;
	nf_request_name2(rq, target);
	nf_request_submit(rq);
}

static void on_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
		      const char *new_name, unsigned flags)
{
	struct nf_request *rq = new_named(req, NF_CALL_RENAME, parent, name);

	if (!rq)
		return;
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) {
		nf_request_refuse(rq, nf_fail(-EINVAL));
		return;
	}
	rq->call.ino2 = new_parent;
	nf_request_name2(rq, new_name);
	rq->call.flags = flags;
	nf_request_submit(rq);
}

static void on_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_LINK, ino);

	if (!rq)
		return;
	rq->call.ino2 = new_parent;
	nf_request_name2(rq, new_name);
	nf_request_submit(rq);
}

/* TMPFILE comes here too: the same arguments, a name that means nothing. */
static void on_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *fi)
{
	const struct nf_raw *raw = nf_raw_current();
	const struct fuse_create_in *in = raw->arg;
	bool tmpfile = raw->opcode == FUSE_TMPFILE;
	struct nf_request *rq = nf_request_new(req, tmpfile ? NF_CALL_TMPFILE : NF_CALL_CREATE, parent);

	if (!rq)
		return;
	if (!tmpfile)
		nf_request_name(rq, name);
	rq->call.mode = mode;
	rq->call.flags = (uint32_t)fi->flags;
	if (in->open_flags & FUSE_OPEN_KILL_SUIDGID)
		rq->call.mask = NF_SET_KILL_SUIDGID;
	nf_request_submit(rq);
}

void nf_handlers_name(struct fuse_lowlevel_ops *ops)
{
	ops->lookup = on_lookup;
	ops->mknod = on_mknod;
	ops->mkdir = on_mkdir;
	ops->unlink = on_unlink;
	ops->rmdir = on_rmdir;
	ops->symlink = on_symlink;
	ops->rename = on_rename;
	ops->link = on_link;
	ops->create = on_create;
}
