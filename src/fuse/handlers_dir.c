/* Calls on open directories.
 *
 *   READDIR:     | dirent name pad | dirent name pad | ...
 *   READDIRPLUS: | entry_out dirent name pad | ...
 *
 * An entry's `off` is the filesystem's cookie: where to go on after it.  READDIRPLUS looks each entry
 * up for the kernel; as inodes are known by number alone nothing needs to be counted for it. */
#include "fuse/session.h"

#include "base/assert.h"
#include "base/error.h"

static void on_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_OPENDIR, ino);

	if (!rq)
		return;
	rq->call.flags = (uint32_t)fi->flags;
	nf_request_submit(rq);
}

static void on_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_RELEASEDIR, ino);

	if (!rq)
		return;
	int r = nf_handle_take(rq->f, fi->fh, ino, &rq->call.file);
	if (r)
		nf_request_refuse(rq, r);
	else
		nf_request_submit(rq);
}

static void on_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_FSYNCDIR, ino);

	if (!rq || !nf_request_file(rq, fi))
		return;
	rq->call.datasync = datasync;
	nf_request_submit(rq);
}

/* The attributes belong to entries other than "." and ".."; without them the kernel takes the name only. */
static void put_entry(struct nf_request *rq, const struct nf_attr *attr, uint8_t *at)
{
	struct fuse_entry_out entry = { 0 };

	if (attr && attr->ino)
		nf_entry_of(rq->f, attr, &entry);
	memcpy(at, &entry, sizeof entry);
}

static bool fill(struct nf_call *c, const char *name, size_t name_len, uint64_t ino, uint32_t mode,
		 const struct nf_attr *attr, uint64_t cookie)
{
	struct nf_request *rq = c->owner;
	size_t head = (c->want_attrs ? sizeof(struct fuse_entry_out) : 0);
	size_t bytes = FUSE_DIRENT_ALIGN(head + offsetof(struct fuse_dirent, name) + name_len);

	NF_ASSERT(name_len > 0 && name_len <= NF_FUSE_NAME_MAX);
	if (bytes > c->size - rq->dir_bytes)
		return false;
	uint8_t *at = rq->dir_buf + rq->dir_bytes;
	struct fuse_dirent d = {
		.ino = ino,
		.off = cookie,
		.namelen = (uint32_t)name_len,
		.type = (attr ? attr->mode : mode) >> 12 & 15, /* S_IFMT -> DT_ */
	};
	bool dots = name[0] == '.' && (name_len == 1 || (name_len == 2 && name[1] == '.'));
	memset(at, 0, bytes);
	if (c->want_attrs)
		put_entry(rq, dots ? NULL : attr, at);
	memcpy(at + head, &d, offsetof(struct fuse_dirent, name));
	memcpy(at + head + offsetof(struct fuse_dirent, name), name, name_len);
	rq->dir_bytes += bytes;
	return true;
}

static void start_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			  const struct fuse_file_info *fi, bool plus)
{
	struct nf_request *rq = nf_request_new(req, NF_CALL_READDIR, ino);

	if (!rq || !nf_request_file(rq, fi))
		return;
	size = NF_MIN(size, (size_t)rq->f->max_write_bytes);
	rq->dir_buf = malloc(size ? size : 1);
	if (!rq->dir_buf) {
		nf_request_refuse(rq, nf_fail(-ENOMEM));
		return;
	}
	rq->call.offset = (uint64_t)offset;
	rq->call.size = size;
	rq->call.want_attrs = plus;
	rq->call.fill = fill;
	nf_request_submit(rq);
}

static void on_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		       struct fuse_file_info *fi)
{
	start_readdir(req, ino, size, offset, fi, false);
}

static void on_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			   struct fuse_file_info *fi)
{
	start_readdir(req, ino, size, offset, fi, true);
}

void nf_handlers_dir(struct fuse_lowlevel_ops *ops)
{
	ops->opendir = on_opendir;
	ops->releasedir = on_releasedir;
	ops->fsyncdir = on_fsyncdir;
	ops->readdir = on_readdir;
	ops->readdirplus = on_readdirplus;
}
