/* Calls of the kernel.  Those on names are answered at once; those on data go to the library and are answered when
 * it is done with them. */
#include "toy.h"

#include <dirent.h>
#include <fcntl.h>
#include <foliofs/ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { ROOT = 1 };

static struct toy *toy_of(struct nf_fs *fs) { return (struct toy *)(void *)fs; }
static struct toy_file *open_file(const struct nf_call *c) { return (struct toy_file *)(void *)c->file; }

/* --- attributes, uses ------------------------------------------------------------------------------ */

static void root_attr(struct toy *t, struct nf_attr *a)
{
	struct stat st;

	*a = (struct nf_attr){ .ino = ROOT, .mode = S_IFDIR | 0700, .nlink = 2, .blksize = 4096 };
	if (fstat(t->dir, &st) == 0) {
		a->mode = S_IFDIR | (st.st_mode & 07777);
		a->uid = st.st_uid;
		a->gid = st.st_gid;
		a->atime = a->mtime = a->ctime = st.st_mtim;
	}
}

static void file_attr_locked(const struct toy_file *f, struct nf_attr *a)
{
	uint64_t size = nf_i_size(&f->ic);

	*a = (struct nf_attr){ .ino = f->ino, .size_bytes = size, .blocks = (size + 511) / 512, .atime = f->mtime,
			       .mtime = f->mtime, .ctime = f->mtime, .btime = f->mtime, .mode = f->mode,
			       .nlink = *f->name ? 1 : 0, .uid = f->uid, .gid = f->gid, .blksize = TOY_BLOCK_BYTES };
}

static void touch_locked(struct toy_file *f) { (void)clock_gettime(CLOCK_REALTIME, &f->mtime); }

/* The last use of a removed file ends it. */
static void put_file(struct toy *t, struct toy_file *f)
{
	(void)pthread_mutex_lock(&t->lock);
	bool gone = --f->uses == 0 && !*f->name;
	for (struct toy_file **p = &t->files; gone && *p; p = &(*p)->next)
		if (*p == f) {
			*p = f->next;
			break;
		}
	(void)pthread_mutex_unlock(&t->lock);
	if (gone)
		toy_file_remove(f);
}

/* --- calls that the library answers ------------------------------------------------------------------ */

struct op {
	struct nf_io io;
	struct iovec iov;
	struct nf_call *c;
	struct toy_file *f; /* used until the end */
	int (*then)(struct toy *t, struct nf_call *c);
};

static void op_end(struct op *op, int error)
{
	struct nf_call *c = op->c;
	struct toy *t = op->f->t;

	put_file(t, op->f);
	if (error == 0 && op->then)
		error = op->then(t, c);
	free(op);
	nf_call_done(c, error);
}

static void op_done(struct nf_io *io)
{
	struct op *op = io->ctx;

	op->c->count = io->done_bytes;
	op_end(op, io->error);
}

/* NULL: C was answered. */
static struct op *op_new(struct nf_call *c, struct toy_file *f)
{
	struct op *op = calloc(1, sizeof *op);

	if (!op) {
		nf_call_done(c, -ENOMEM);
		return NULL;
	}
	op->c = c;
	op->f = f;
	op->io = (struct nf_io){ .ic = &f->ic, .pos_bytes = c->offset, .len_bytes = c->size, .done = op_done, .ctx = op,
				 .flags = c->flags & O_DIRECT ? NF_IO_DIRECT : 0 };
	(void)pthread_mutex_lock(&f->t->lock);
	f->uses++;
	(void)pthread_mutex_unlock(&f->t->lock);
	return op;
}

/* The bytes are in the library's memory until the front end has sent them. */
static void read_sent(struct nf_call *c)
{
	struct op *op = c->fs_priv[0];

	nf_read_end(&op->io);
	put_file(op->f->t, op->f);
	free(op);
}

static void read_done(struct nf_io *io)
{
	struct op *op = io->ctx;
	struct nf_call *c = op->c;

	if (io->error) {
		op_end(op, io->error);
		return;
	}
	c->iov = io->out_iov;
	c->nr_iov = io->nr_out_iov;
	c->count = io->done_bytes;
	c->fs_priv[0] = op;
	c->release = read_sent;
	nf_call_done(c, 0);
}

static void do_read(struct nf_call *c)
{
	struct op *op = op_new(c, open_file(c));

	if (!op)
		return;
	op->io.done = read_done;
	nf_read(&op->io);
}

static void do_write(struct nf_call *c)
{
	struct toy_file *f = open_file(c);
	int r = nf_call_keep_data(c); /* the library may want it after submit has returned */

	if (r < 0) {
		nf_call_done(c, r);
		return;
	}
	struct op *op = op_new(c, f);
	if (!op)
		return;
	if (c->write_flags & NF_WRITE_CACHE) {
		/* Whole pages of a mapping; what is past the end of the file is nobody's. */
		uint64_t size = nf_i_size(&f->ic);
		op->io.len_bytes = c->offset < size ? size - c->offset : 0;
		if (op->io.len_bytes > c->size)
			op->io.len_bytes = c->size;
		op->io.flags |= NF_IO_PAGE_GRANULAR;
	}
	if (c->flags & (O_SYNC | O_DSYNC))
		op->io.flags |= NF_IO_DSYNC;
	op->iov = (struct iovec){ (void *)(uintptr_t)c->data, op->io.len_bytes };
	op->io.iov = &op->iov;
	op->io.nr_iov = 1;
	(void)pthread_mutex_lock(&f->t->lock);
	touch_locked(f);
	(void)pthread_mutex_unlock(&f->t->lock);
	nf_write(&op->io);
}

static int after_fsync(struct toy *t, struct nf_call *c)
{
	(void)pthread_mutex_lock(&t->lock);
	int r = open_file(c)->error;
	(void)pthread_mutex_unlock(&t->lock);
	return r;
}

static void do_fsync(struct nf_call *c)
{
	struct op *op = op_new(c, open_file(c));

	if (!op)
		return;
	op->then = after_fsync;
	nf_fsync(&op->io);
}

static void do_fallocate(struct nf_call *c)
{
	struct op *op = op_new(c, open_file(c));

	if (op)
		nf_fallocate(&op->io, (int)c->mode);
}

static int answer_attr(struct toy *t, struct nf_call *c)
{
	(void)pthread_mutex_lock(&t->lock);
	struct toy_file *f = toy_by_ino_locked(t, c->ino);
	if (f)
		file_attr_locked(f, &c->attr);
	else if (c->ino == ROOT)
		root_attr(t, &c->attr);
	(void)pthread_mutex_unlock(&t->lock);
	return f || c->ino == ROOT ? 0 : -ENOENT;
}

static int answer_open(struct toy *t, struct nf_call *c)
{
	(void)pthread_mutex_lock(&t->lock);
	struct toy_file *f = toy_by_ino_locked(t, c->ino);
	if (f) {
		f->uses++;
		c->file = (struct nf_open_file *)(void *)f;
		c->keep_cache = true;
		c->direct_io = c->flags & O_DIRECT;
		file_attr_locked(f, &c->attr);
	}
	(void)pthread_mutex_unlock(&t->lock);
	return f ? 0 : -ENOENT;
}

static void truncate_then(struct nf_call *c, struct toy_file *f, uint64_t size,
			  int (*then)(struct toy *t, struct nf_call *c))
{
	struct op *op = op_new(c, f);

	if (!op)
		return;
	op->io.flags = 0;
	op->io.len_bytes = size;
	op->then = then;
	(void)pthread_mutex_lock(&f->t->lock);
	touch_locked(f);
	(void)pthread_mutex_unlock(&f->t->lock);
	nf_truncate(&op->io);
}

/* --- calls on names ------------------------------------------------------------------------------------ */

static int do_lookup(struct toy *t, struct nf_call *c)
{
	(void)pthread_mutex_lock(&t->lock);
	struct toy_file *f = c->ino == ROOT ? toy_find_locked(t, c->name) : NULL;
	if (f)
		file_attr_locked(f, &c->attr);
	(void)pthread_mutex_unlock(&t->lock);
	return f ? 0 : -ENOENT;
}

static int do_create(struct toy *t, struct nf_call *c)
{
	struct toy_file *f = NULL;

	if (!S_ISREG(c->mode) && c->mode & S_IFMT)
		return -EOPNOTSUPP;
	(void)pthread_mutex_lock(&t->lock);
	int r = toy_find_locked(t, c->name) ? -EEXIST : 0;
	if (r == 0)
		r = toy_create_locked(t, c->name, S_IFREG | (c->mode & ~c->umask & 07777), c->uid, c->gid, &f);
	if (r == 0)
		r = toy_names_save_locked(t);
	if (r == 0) {
		file_attr_locked(f, &c->attr);
		f->uses += c->op == NF_CALL_CREATE;
		c->file = (struct nf_open_file *)(void *)f;
		c->direct_io = c->flags & O_DIRECT;
	} else if (f) {
		*f->name = '\0'; /* it goes at the end of the mount */
	}
	(void)pthread_mutex_unlock(&t->lock);
	return r;
}

static int do_unlink(struct toy *t, struct nf_call *c)
{
	(void)pthread_mutex_lock(&t->lock);
	struct toy_file *f = toy_find_locked(t, c->name);
	int r = f ? 0 : -ENOENT;
	if (f) {
		*f->name = '\0';
		r = toy_names_save_locked(t);
		if (r < 0)
			strcpy(f->name, c->name);
		f->uses++;
	}
	(void)pthread_mutex_unlock(&t->lock);
	if (f)
		put_file(t, f);
	return r;
}

/* Called when everything of the renamed file is stored: after a crash the name never leads to half of it. */
static int rename_now(struct toy *t, struct nf_call *c)
{
	(void)pthread_mutex_lock(&t->lock);
	struct toy_file *f = toy_find_locked(t, c->name), *old = toy_find_locked(t, c->name2);
	int r = !f ? -ENOENT : f == old || !old || !(c->flags & RENAME_NOREPLACE) ? 0 : -EEXIST;
	if (r == 0 && f != old) {
		if (old) {
			*old->name = '\0';
			old->uses++;
		}
		strcpy(f->name, c->name2);
		r = toy_names_save_locked(t);
		if (r < 0) {
			strcpy(f->name, c->name);
			if (old)
				strcpy(old->name, c->name2);
		}
	} else {
		old = NULL;
	}
	(void)pthread_mutex_unlock(&t->lock);
	if (old)
		put_file(t, old);
	return r;
}

static void do_rename(struct toy *t, struct nf_call *c)
{
	if (c->flags & ~(unsigned)RENAME_NOREPLACE || strlen(c->name2) > TOY_NAME_MAX) {
		nf_call_done(c, -EINVAL);
		return;
	}
	(void)pthread_mutex_lock(&t->lock);
	struct toy_file *f = toy_find_locked(t, c->name);
	if (f)
		f->uses++; /* until op_new has a use of its own */
	(void)pthread_mutex_unlock(&t->lock);
	struct op *op = f ? op_new(c, f) : NULL;
	if (!f)
		nf_call_done(c, -ENOENT);
	if (op) {
		op->io.flags = 0;
		op->then = rename_now;
		nf_fsync(&op->io);
	}
	if (f)
		put_file(t, f);
}

static void do_setattr(struct toy *t, struct nf_call *c)
{
	const uint32_t kept = NF_SET_MODE | NF_SET_UID | NF_SET_GID;
	int r = 0;

	(void)pthread_mutex_lock(&t->lock);
	struct toy_file *f = toy_by_ino_locked(t, c->ino);
	if (f) {
		f->uses++;
		if (c->mask & NF_SET_MODE)
			f->mode = S_IFREG | (c->attr.mode & 07777);
		if (c->mask & NF_SET_UID)
			f->uid = c->attr.uid;
		if (c->mask & NF_SET_GID)
			f->gid = c->attr.gid;
		if (c->mask & NF_SET_MTIME)
			f->mtime = c->attr.mtime;
		if (c->mask & NF_SET_MTIME_NOW)
			touch_locked(f);
		if (c->mask & kept)
			r = toy_names_save_locked(t);
	}
	(void)pthread_mutex_unlock(&t->lock);
	if (!f || r < 0)
		nf_call_done(c, f ? r : c->ino == ROOT ? -EPERM : -ENOENT);
	else if (c->mask & NF_SET_SIZE)
		truncate_then(c, f, c->attr.size_bytes, answer_attr);
	else
		nf_call_done(c, answer_attr(t, c));
	if (f)
		put_file(t, f);
}

static void do_open(struct toy *t, struct nf_call *c)
{
	(void)pthread_mutex_lock(&t->lock);
	struct toy_file *f = toy_by_ino_locked(t, c->ino);
	if (f)
		f->uses++;
	(void)pthread_mutex_unlock(&t->lock);
	if (f && c->flags & O_TRUNC)
		truncate_then(c, f, 0, answer_open);
	else
		nf_call_done(c, f ? answer_open(t, c) : -ENOENT);
	if (f)
		put_file(t, f);
}

static int do_release(struct toy *t, struct nf_call *c)
{
	put_file(t, open_file(c));
	return 0;
}

/* Cookies are inode numbers: they stay what they are while files come and go. */
static int do_readdir(struct toy *t, struct nf_call *c)
{
	uint64_t last = c->offset;

	if (last < 1 && !c->fill(c, ".", 1, ROOT, S_IFDIR, NULL, 1))
		return 0;
	(void)pthread_mutex_lock(&t->lock);
	for (bool room = true; room;) {
		struct toy_file *next = NULL;
		for (struct toy_file *f = t->files; f; f = f->next)
			if (*f->name && f->ino > last && f->ino > ROOT && (!next || f->ino < next->ino))
				next = f;
		if (!next)
			break;
		struct nf_attr a;
		file_attr_locked(next, &a);
		room = c->fill(c, next->name, strlen(next->name), next->ino, next->mode, c->want_attrs ? &a : NULL,
			       next->ino);
		last = next->ino;
	}
	(void)pthread_mutex_unlock(&t->lock);
	return 0;
}

static int do_statfs(struct toy *t, struct nf_call *c)
{
	struct statvfs s;

	if (fstatvfs(t->dir, &s))
		return -errno;
	c->statfs = (struct nf_statfs){ .total_bytes = s.f_blocks * s.f_frsize, .free_bytes = s.f_bavail * s.f_frsize,
					.files = s.f_files, .files_free = s.f_favail, .name_max = TOY_NAME_MAX };
	return 0;
}

static int do_ioctl(struct nf_call *c)
{
	if (c->cmd != FOLIOFS_IOC_BARRIER)
		return -ENOTTY;
	(void)nf_group_close(&open_file(c)->ic);
	return 0;
}

static void submit(struct nf_fs *fs, struct nf_call *c)
{
	struct toy *t = toy_of(fs);

	switch ((int)c->op) {
	case NF_CALL_READ: do_read(c); return;
	case NF_CALL_WRITE: do_write(c); return;
	case NF_CALL_FSYNC: do_fsync(c); return;
	case NF_CALL_FALLOCATE: do_fallocate(c); return;
	case NF_CALL_SETATTR: do_setattr(t, c); return;
	case NF_CALL_OPEN: do_open(t, c); return;
	case NF_CALL_RENAME: do_rename(t, c); return;
	case NF_CALL_LOOKUP: nf_call_done(c, do_lookup(t, c)); return;
	case NF_CALL_GETATTR: nf_call_done(c, answer_attr(t, c)); return;
	case NF_CALL_MKNOD:
	case NF_CALL_CREATE: nf_call_done(c, do_create(t, c)); return;
	case NF_CALL_UNLINK: nf_call_done(c, do_unlink(t, c)); return;
	case NF_CALL_RELEASE: nf_call_done(c, do_release(t, c)); return;
	case NF_CALL_READDIR: nf_call_done(c, do_readdir(t, c)); return;
	case NF_CALL_STATFS: nf_call_done(c, do_statfs(t, c)); return;
	case NF_CALL_IOCTL: nf_call_done(c, do_ioctl(c)); return;
	case NF_CALL_FLUSH:
	case NF_CALL_OPENDIR:
	case NF_CALL_RELEASEDIR:
	case NF_CALL_FSYNCDIR: nf_call_done(c, 0); return; /* names are on the disk when a call has changed them */
	default: nf_call_done(c, -ENOSYS); return;
	}
}

const struct nf_fs_ops toy_fs_ops = { .submit = submit };
