/* The table over the disk in memory: every operation is looked up and checked,
 * counted for the faults, recorded and applied, under the disk's lock.  No thread
 * of its own. */
#include "aio/file_crash.h"

#include "aio/crash_log.h"
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"

#include <fcntl.h>
#include <inttypes.h>

enum { SIZE_MAX_BYTES = 1 << 30 }; /* memory is behind it */

struct crash_file {
	struct nf_file f;
	struct nf_crash *c;
	uint32_t ino;
	bool writable;
};

static struct crash_file *file_of(struct nf_file *f)
{
	return nf_container_of(f, struct crash_file, f);
}

void nf_crash_apply(struct nf_ct *t, const struct nf_crash_op *op)
{
	switch (op->kind) {
	case NF_CRASH_CREATE:
	case NF_CRASH_MKDIR:
		nf_ct_make(t, op->ino, op->kind == NF_CRASH_MKDIR);
		nf_ct_link(t, op->dir, op->name, op->ino);
		t->inodes[op->ino].safe = op->safe;
		break;
	case NF_CRASH_WRITE:
		nf_ct_write(t, op->ino, op->offset, op->data, (size_t)op->len);
		break;
	case NF_CRASH_TRUNCATE:
		nf_ct_truncate(t, op->ino, op->offset);
		break;
	case NF_CRASH_PUNCH:
		nf_ct_punch(t, op->ino, op->offset, op->len);
		break;
	case NF_CRASH_RENAME:
		nf_ct_unlink(t, op->dir, op->name, op->ino);
		nf_ct_link(t, op->dir_to, op->name_to, op->ino);
		break;
	case NF_CRASH_UNLINK:
	case NF_CRASH_RMDIR:
		nf_ct_unlink(t, op->dir, op->name, op->ino);
		break;
	case NF_CRASH_FDATASYNC:
	case NF_CRASH_FSYNC_DIR:
	case NF_CRASH_SYNC_LOST:
	case NF_CRASH_READ:
	case NF_CRASH_ANY:
		break;
	}
}

/* Takes what OP points to. */
static void record_locked(struct nf_crash *c, struct nf_crash_op op)
{
	if (c->nr_ops == c->cap_ops) {
		c->cap_ops = c->cap_ops ? 2 * c->cap_ops : 64;
		c->log = nf_ct_alloc(c->log, c->cap_ops * sizeof *c->log);
	}
	op.safe = c->now.inodes[op.name ? op.dir : op.ino].safe;
	c->log[c->nr_ops++] = op;
	nf_crash_apply(&c->now, &op);
	c->now.inodes[op.ino].changed = c->nr_ops;
	nf_ct_reap(&c->now, op.ino);
}

static bool finds_no_room_locked(struct nf_crash *c, enum nf_crash_kind kind)
{
	if (c->fill_times == 0 || (kind != NF_CRASH_WRITE && kind != NF_CRASH_CREATE && kind != NF_CRASH_MKDIR))
		return false;
	if (c->fill_after > 0) {
		c->fill_after--;
		return false;
	}
	c->fill_times--;
	c->filled++;
	return true;
}

/* The error that was ordered for this operation, or 0. */
static int fault_locked(struct nf_crash *c, enum nf_crash_kind kind)
{
	if (finds_no_room_locked(c, kind))
		return -ENOSPC;
	if (c->fail_err == 0 || (c->fail_kind != kind &&
				 (c->fail_kind != NF_CRASH_ANY || kind == NF_CRASH_READ)))
		return 0;
	if (c->fail_after-- > 0)
		return 0;
	int err = c->fail_err;
	c->fail_err = 0;
	return err;
}

/* Where a path leads: its directory, its last name (the caller's to free), and
 * what stands there. */
struct place {
	uint32_t dir;
	char *name; /* NULL: the root itself */
	bool exists;
	uint32_t ino;
};

static void place_deinit(struct place *p) { free(p->name); }

static int find_locked(struct nf_crash *c, const char *path, struct place *p)
{
	*p = (struct place){ .dir = NF_CT_ROOT, .exists = true, .ino = NF_CT_ROOT };
	for (;;) {
		path += strspn(path, "/");
		size_t len = strcspn(path, "/");
		if (len == 0)
			return 0;
		if (len == 2 && memcmp(path, "..", 2) == 0)
			return -EINVAL;
		if (len == 1 && *path == '.') {
			path++;
			continue;
		}
		if (!p->exists)
			return -ENOENT;
		if (!c->now.inodes[p->ino].is_dir)
			return -ENOTDIR;
		p->dir = p->ino;
		free(p->name);
		p->name = strndup(path, len);
		NF_ASSERT(p->name);
		const struct nf_ct_name *n = nf_ct_find(&c->now, p->dir, p->name);
		p->exists = n;
		if (n)
			p->ino = n->ino;
		path += len;
	}
}

static int must_exist_locked(struct nf_crash *c, const char *path, struct place *p)
{
	int r = find_locked(c, path, p);

	return r < 0 ? r : p->exists ? 0 : -ENOENT;
}

static int open_ino_locked(struct nf_crash *c, const char *path, int flags, uint32_t *ino)
{
	nf_auto(place_deinit) struct place p;
	int r = find_locked(c, path, &p);

	if (r < 0)
		return r;
	if (p.exists && (flags & O_EXCL))
		return -EEXIST;
	if (p.exists && c->now.inodes[p.ino].is_dir)
		return -EISDIR;
	if (!p.exists && !(flags & O_CREAT))
		return -ENOENT;
	if (!p.exists) {
		r = fault_locked(c, NF_CRASH_CREATE);
		if (r < 0)
			return r;
		p.ino = c->now.nr;
		record_locked(c, (struct nf_crash_op){ .kind = NF_CRASH_CREATE,
						       .ino = p.ino,
						       .dir = p.dir,
						       .name = nf_steal(&p.name) });
	} else if ((flags & O_TRUNC) && c->now.inodes[p.ino].size > 0) {
		r = fault_locked(c, NF_CRASH_TRUNCATE);
		if (r < 0)
			return r;
		record_locked(c, (struct nf_crash_op){ .kind = NF_CRASH_TRUNCATE, .ino = p.ino });
	}
	*ino = p.ino;
	return 0;
}

static int crash_open(const struct nf_file_ops *o, const char *path, int flags, mode_t mode,
		      struct nf_file **out)
{
	struct nf_crash *c = o->ctx;
	uint32_t ino;

	(void)mode;
	nf_lock_take(&c->lock);
	int r = open_ino_locked(c, path, flags, &ino);
	if (r == 0) {
		struct crash_file *cf = nf_ct_alloc(NULL, sizeof *cf);
		*cf = (struct crash_file){ .f = { .ops = o, .fd = -1 },
					   .c = c,
					   .ino = ino,
					   .writable = (flags & O_ACCMODE) != O_RDONLY };
		c->now.inodes[ino].opens++;
		c->nr_open++;
		*out = &cf->f;
	}
	nf_lock_drop(&c->lock);
	return r;
}

static void crash_close(struct nf_file *f)
{
	if (!f)
		return;
	struct crash_file *cf = file_of(f);
	nf_lock_take(&cf->c->lock);
	cf->c->now.inodes[cf->ino].opens--;
	cf->c->nr_open--;
	nf_ct_reap(&cf->c->now, cf->ino);
	nf_lock_drop(&cf->c->lock);
	free(cf);
}

static int crash_pread(struct nf_file *f, void *buf, size_t len, uint64_t offset_bytes, size_t *got)
{
	struct crash_file *cf = file_of(f);
	size_t n = 0;

	nf_lock_take(&cf->c->lock);
	const struct nf_ct_inode *in = &cf->c->now.inodes[cf->ino];
	int r = fault_locked(cf->c, NF_CRASH_READ);
	if (r == 0 && offset_bytes < in->size) {
		n = (size_t)NF_MIN((uint64_t)len, in->size - offset_bytes);
		memcpy(buf, in->data + offset_bytes, n);
	}
	nf_lock_drop(&cf->c->lock);
	if (got)
		*got = n;
	return r < 0 ? r : n < len ? -NF_E_XFORM_TRUNCATED : 0;
}

static void write_locked(struct crash_file *cf, const void *buf, size_t len, uint64_t offset_bytes)
{
	if (len == 0)
		return;
	void *copy = nf_ct_alloc(NULL, len);
	memcpy(copy, buf, len);
	record_locked(cf->c, (struct nf_crash_op){ .kind = NF_CRASH_WRITE,
						   .ino = cf->ino,
						   .offset = offset_bytes,
						   .len = len,
						   .data = copy });
}

static int crash_pwrite(struct nf_file *f, const void *buf, size_t len, uint64_t offset_bytes)
{
	struct crash_file *cf = file_of(f);
	struct nf_crash *c = cf->c;

	if (!cf->writable)
		return -EBADF;
	if (offset_bytes > SIZE_MAX_BYTES || len > SIZE_MAX_BYTES)
		return -EFBIG;
	nf_lock_take(&c->lock);
	int r = fault_locked(c, NF_CRASH_WRITE);
	if (r < 0)
		len /= 2;
	uint64_t used = nf_ct_used(&c->now);
	/* A full disk takes the first blocks of a write. */
	while (len > 0 && used + nf_ct_needs(&c->now, cf->ino, offset_bytes, len) > c->room_bytes) {
		r = -ENOSPC;
		len = len > NF_CT_BLOCK ? len - NF_CT_BLOCK : 0;
	}
	write_locked(cf, buf, len, offset_bytes);
	nf_lock_drop(&c->lock);
	return r;
}

/* Operations that only need a number and the file. */
static int simple(struct nf_file *f, enum nf_crash_kind kind, uint64_t offset, uint64_t len)
{
	struct crash_file *cf = file_of(f);

	nf_lock_take(&cf->c->lock);
	int r = fault_locked(cf->c, kind);
	if (r < 0 && kind == NF_CRASH_FDATASYNC)
		kind = NF_CRASH_SYNC_LOST;
	if (r == 0 || kind == NF_CRASH_SYNC_LOST)
		record_locked(cf->c, (struct nf_crash_op){
					     .kind = kind, .ino = cf->ino, .offset = offset, .len = len });
	nf_lock_drop(&cf->c->lock);
	return r;
}

static int crash_fdatasync(struct nf_file *f) { return simple(f, NF_CRASH_FDATASYNC, 0, 0); }

static int crash_ftruncate(struct nf_file *f, uint64_t size_bytes)
{
	if (!file_of(f)->writable || size_bytes > SIZE_MAX_BYTES)
		return -EINVAL;
	return simple(f, NF_CRASH_TRUNCATE, size_bytes, 0);
}

static int crash_punch(struct nf_file *f, uint64_t offset_bytes, uint64_t len_bytes)
{
	if (!file_of(f)->writable)
		return -EBADF;
	return simple(f, NF_CRASH_PUNCH, offset_bytes, len_bytes);
}

static int crash_size(struct nf_file *f, uint64_t *size_bytes)
{
	struct crash_file *cf = file_of(f);

	nf_lock_take(&cf->c->lock);
	*size_bytes = cf->c->now.inodes[cf->ino].size;
	nf_lock_drop(&cf->c->lock);
	return 0;
}

static int may_replace_locked(struct nf_crash *c, const struct place *from, const struct place *to)
{
	const struct nf_ct_inode *a = &c->now.inodes[from->ino], *b = &c->now.inodes[to->ino];

	if (!to->name)
		return -EBUSY;
	if (!to->exists)
		return 0;
	if (a->is_dir != b->is_dir)
		return b->is_dir ? -EISDIR : -ENOTDIR;
	return b->is_dir && b->nr_names > 0 ? -ENOTEMPTY : 0;
}

static int rename_locked(struct nf_crash *c, const char *from, const char *to)
{
	nf_auto(place_deinit) struct place a = { 0 }, b = { 0 };
	int r = must_exist_locked(c, from, &a);

	if (r == 0)
		r = find_locked(c, to, &b);
	if (r == 0)
		r = may_replace_locked(c, &a, &b);
	if (r == 0)
		r = fault_locked(c, NF_CRASH_RENAME);
	if (r == 0 && !(b.exists && b.ino == a.ino))
		record_locked(c, (struct nf_crash_op){ .kind = NF_CRASH_RENAME,
						       .ino = a.ino,
						       .dir = a.dir,
						       .name = nf_steal(&a.name),
						       .dir_to = b.dir,
						       .name_to = nf_steal(&b.name) });
	return r;
}

static int crash_rename(const struct nf_file_ops *o, const char *from, const char *to)
{
	struct nf_crash *c = o->ctx;

	nf_lock_take(&c->lock);
	int r = rename_locked(c, from, to);
	nf_lock_drop(&c->lock);
	return r;
}

static int remove_locked(struct nf_crash *c, const char *path, enum nf_crash_kind kind)
{
	nf_auto(place_deinit) struct place p = { 0 };
	int r = must_exist_locked(c, path, &p);

	if (r < 0)
		return r;
	const struct nf_ct_inode *in = &c->now.inodes[p.ino];
	if (!p.name)
		return -EBUSY;
	if (kind == NF_CRASH_UNLINK && in->is_dir)
		return -EISDIR;
	if (kind == NF_CRASH_RMDIR && !in->is_dir)
		return -ENOTDIR;
	if (kind == NF_CRASH_RMDIR && in->nr_names > 0)
		return -ENOTEMPTY;
	r = fault_locked(c, kind);
	if (r == 0)
		record_locked(c, (struct nf_crash_op){ .kind = kind,
						       .ino = p.ino,
						       .dir = p.dir,
						       .name = nf_steal(&p.name) });
	return r;
}

static int crash_unlink(const struct nf_file_ops *o, const char *path)
{
	struct nf_crash *c = o->ctx;

	nf_lock_take(&c->lock);
	int r = remove_locked(c, path, NF_CRASH_UNLINK);
	nf_lock_drop(&c->lock);
	return r;
}

static int crash_rmdir(const struct nf_file_ops *o, const char *path)
{
	struct nf_crash *c = o->ctx;

	nf_lock_take(&c->lock);
	int r = remove_locked(c, path, NF_CRASH_RMDIR);
	nf_lock_drop(&c->lock);
	return r;
}

static int mkdir_locked(struct nf_crash *c, const char *path)
{
	nf_auto(place_deinit) struct place p = { 0 };
	int r = find_locked(c, path, &p);

	if (r < 0)
		return r;
	if (p.exists)
		return c->now.inodes[p.ino].is_dir ? 0 : -ENOTDIR;
	r = fault_locked(c, NF_CRASH_MKDIR);
	if (r == 0)
		record_locked(c, (struct nf_crash_op){ .kind = NF_CRASH_MKDIR,
						       .ino = c->now.nr,
						       .dir = p.dir,
						       .name = nf_steal(&p.name) });
	return r;
}

static int crash_mkdir(const struct nf_file_ops *o, const char *path, mode_t mode)
{
	struct nf_crash *c = o->ctx;

	(void)mode;
	nf_lock_take(&c->lock);
	int r = mkdir_locked(c, path);
	nf_lock_drop(&c->lock);
	return r;
}

/* The inode of PATH, which must be a directory. */
static int dir_locked(struct nf_crash *c, const char *path, uint32_t *ino)
{
	nf_auto(place_deinit) struct place p = { 0 };
	int r = must_exist_locked(c, path, &p);

	if (r == 0 && !c->now.inodes[p.ino].is_dir)
		r = -ENOTDIR;
	if (r == 0)
		*ino = p.ino;
	return r;
}

static int crash_fsync_dir(const struct nf_file_ops *o, const char *path)
{
	struct nf_crash *c = o->ctx;
	uint32_t ino;

	nf_lock_take(&c->lock);
	int r = dir_locked(c, path, &ino);
	if (r == 0)
		r = fault_locked(c, NF_CRASH_FSYNC_DIR);
	if (r == 0)
		record_locked(c, (struct nf_crash_op){ .kind = NF_CRASH_FSYNC_DIR, .ino = ino });
	nf_lock_drop(&c->lock);
	return r;
}

static int crash_list(const struct nf_file_ops *o, const char *path, struct nf_file_dirent **out,
		      size_t *nr)
{
	struct nf_crash *c = o->ctx;
	uint32_t ino;

	nf_lock_take(&c->lock);
	int r = dir_locked(c, path, &ino);
	if (r == 0) {
		const struct nf_ct_inode *d = &c->now.inodes[ino];
		*out = nf_ct_alloc(NULL, d->nr_names * sizeof **out);
		*nr = d->nr_names;
		for (size_t i = 0; i < d->nr_names; i++) {
			(*out)[i].name = strdup(d->names[i].name);
			(*out)[i].is_dir = c->now.inodes[d->names[i].ino].is_dir;
			NF_ASSERT((*out)[i].name);
		}
	}
	nf_lock_drop(&c->lock);
	return r;
}

static int crash_stat(const struct nf_file_ops *o, const char *path, uint64_t *size_bytes,
		      bool *is_dir, int64_t *mtime_s)
{
	struct nf_crash *c = o->ctx;
	nf_auto(place_deinit) struct place p = { 0 };

	nf_lock_take(&c->lock);
	int r = must_exist_locked(c, path, &p);
	if (r == 0) {
		const struct nf_ct_inode *in = &c->now.inodes[p.ino];
		if (size_bytes)
			*size_bytes = in->size;
		if (is_dir)
			*is_dir = in->is_dir;
		if (mtime_s)
			*mtime_s = (int64_t)in->changed;
	}
	nf_lock_drop(&c->lock);
	return r;
}

/* Who else could have it?  Another process has another disk in memory. */
static int crash_lock(const struct nf_file_ops *o, const char *path, struct nf_file **out)
{
	return crash_open(o, path, O_RDWR | O_CREAT, 0600, out);
}

static int crash_room(const struct nf_file_ops *o, const char *path, struct nf_file_room *out)
{
	struct nf_crash *c = o->ctx;

	(void)path;
	nf_lock_take(&c->lock);
	uint64_t used = nf_ct_used(&c->now);
	*out = (struct nf_file_room){ .free_bytes = used < c->room_bytes ? c->room_bytes - used : 0,
				      .total_bytes = c->room_bytes };
	nf_lock_drop(&c->lock);
	return 0;
}

static const struct nf_file_ops crash_ops = {
	.name = "crash",
	.open = crash_open,
	.close = crash_close,
	.pread = crash_pread,
	.pwrite = crash_pwrite,
	.fdatasync = crash_fdatasync,
	.ftruncate = crash_ftruncate,
	.punch = crash_punch,
	.size = crash_size,
	.rename = crash_rename,
	.unlink = crash_unlink,
	.rmdir = crash_rmdir,
	.mkdir = crash_mkdir,
	.fsync_dir = crash_fsync_dir,
	.list = crash_list,
	.stat = crash_stat,
	.lock = crash_lock,
	.room = crash_room,
};

struct nf_crash *nf_crash_of_tree(struct nf_ct *tree)
{
	struct nf_crash *c = nf_ct_alloc(NULL, sizeof *c);

	*c = (struct nf_crash){ .base = *tree, .room_bytes = UINT64_MAX, .ops = crash_ops };
	c->ops.ctx = c;
	nf_lock_init(&c->lock, NF_RANK_LEAF);
	for (uint32_t i = 0; i < c->base.nr; i++)
		nf_ct_reap(&c->base, i);
	nf_ct_copy(&c->now, &c->base);
	return c;
}

int nf_crash_new(struct nf_crash **out)
{
	struct nf_ct t;

	nf_ct_init(&t);
	*out = nf_crash_of_tree(&t);
	return 0;
}

void nf_crash_free(struct nf_crash *c)
{
	if (!c)
		return;
	NF_ASSERT(c->nr_open == 0);
	for (size_t i = 0; i < c->nr_ops; i++) {
		free(c->log[i].name);
		free(c->log[i].name_to);
		free(c->log[i].data);
	}
	free(c->log);
	free(c->durable_at);
	nf_ct_deinit(&c->base);
	nf_ct_deinit(&c->now);
	nf_lock_deinit(&c->lock);
	free(c);
}

const struct nf_file_ops *nf_crash_ops(struct nf_crash *c) { return &c->ops; }

uint64_t nf_crash_nr_ops(struct nf_crash *c)
{
	nf_lock_take(&c->lock);
	uint64_t nr = c->nr_ops;
	nf_lock_drop(&c->lock);
	return nr;
}

uint64_t nf_crash_used(struct nf_crash *c)
{
	nf_lock_take(&c->lock);
	uint64_t used = nf_ct_used(&c->now);
	nf_lock_drop(&c->lock);
	return used;
}

void nf_crash_keep(struct nf_crash *c, const char *path)
{
	nf_auto(place_deinit) struct place p = { 0 };

	nf_lock_take(&c->lock);
	int r = must_exist_locked(c, path, &p);
	NF_ASSERT(r == 0 && c->now.inodes[p.ino].is_dir && c->now.inodes[p.ino].nr_names == 0);
	c->now.inodes[p.ino].safe = true;
	nf_lock_drop(&c->lock);
}

void nf_crash_set_room(struct nf_crash *c, uint64_t total_bytes)
{
	nf_lock_take(&c->lock);
	c->room_bytes = total_bytes;
	nf_lock_drop(&c->lock);
}

void nf_crash_fail(struct nf_crash *c, enum nf_crash_kind kind, uint64_t nth, int err)
{
	nf_lock_take(&c->lock);
	c->fail_kind = kind;
	c->fail_after = nth;
	c->fail_err = err;
	nf_lock_drop(&c->lock);
}

void nf_crash_fill(struct nf_crash *c, uint64_t nth, uint64_t times)
{
	nf_lock_take(&c->lock);
	c->fill_after = nth;
	c->fill_times = times;
	nf_lock_drop(&c->lock);
}

uint64_t nf_crash_nr_filled(struct nf_crash *c)
{
	nf_lock_take(&c->lock);
	uint64_t nr = c->filled;
	nf_lock_drop(&c->lock);
	return nr;
}

void nf_crash_to_text(struct nf_crash *c, struct nf_text *t)
{
	static const char *const names[] = { "create", "mkdir",	 "write", "truncate",  "punch",
					     "rename", "unlink", "rmdir", "fdatasync", "fsync_dir",
					     "sync_lost" };

	nf_lock_take(&c->lock);
	for (size_t i = 0; i < c->nr_ops; i++) {
		const struct nf_crash_op *op = &c->log[i];
		nf_textf(t, "%zu %s ino=%" PRIu32 " dir=%" PRIu32 " name=%s to=%s offset=%" PRIu64
			    " len=%" PRIu64 "\n",
			 i, names[op->kind], op->ino, op->dir, op->name ? op->name : "-",
			 op->name_to ? op->name_to : "-", op->offset, op->len);
	}
	nf_lock_drop(&c->lock);
}
