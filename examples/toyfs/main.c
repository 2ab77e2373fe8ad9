/* toyfs KEYFILE STORE MOUNTPOINT - see toy.h.  KEYFILE holds 32 random bytes; STORE is an empty directory at first.
 * Stays in the foreground and says "ready" when the mount is.
 *
 * Names and attributes, which are ours; calls on data go to nf_file_call(). */
#include "toy.h"

#include <fcntl.h>
#include <sys/stat.h>

enum { ROOT = 1 };

static struct toy_file *of(struct nf_file *f) { return (struct toy_file *)(void *)f; }

static void touch_locked(struct toy_file *f) { (void)clock_gettime(CLOCK_REALTIME, &f->mtime); }

static void file_attr_locked(const struct toy_file *f, struct nf_attr *a)
{
	uint64_t size = nf_i_size(&f->f.ic);

	*a = (struct nf_attr){ .ino = f->ino, .size_bytes = size, .blocks = (size + 511) / 512, .atime = f->mtime,
			       .mtime = f->mtime, .ctime = f->mtime, .btime = f->mtime, .mode = f->mode,
			       .nlink = *f->name ? 1 : 0, .uid = f->uid, .gid = f->gid, .blksize = TOY_BLOCK_BYTES };
}

/* The file with that number, or name, in use. */
static struct toy_file *get_file(struct toy *t, uint64_t ino, const char *name)
{
	(void)pthread_mutex_lock(&t->lock);
	struct toy_file *f = t->files;
	while (f && (name ? strcmp(f->name, name) : f->ino != ino))
		f = f->next;
	if (f)
		nf_file_get(&f->f);
	(void)pthread_mutex_unlock(&t->lock);
	return f;
}

/* The last use of a removed file ends it. */
static void unused(struct nf_file *nf)
{
	struct toy_file *f = of(nf);
	struct toy *t = f->t;

	(void)pthread_mutex_lock(&t->lock);
	bool gone = nf_file_drop(nf) && !*f->name;
	struct toy_file **p = &t->files;
	while (gone && *p != f)
		p = &(*p)->next;
	if (gone)
		*p = f->next;
	(void)pthread_mutex_unlock(&t->lock);
	if (gone)
		toy_file_remove(f);
}

/* --- calls: what is answered when the library is done, or at once -------------------------------- */

static int give_attr(struct nf_file *nf, struct nf_call *c)
{
	(void)pthread_mutex_lock(&of(nf)->t->lock);
	file_attr_locked(of(nf), &c->attr);
	(void)pthread_mutex_unlock(&of(nf)->t->lock);
	return 0;
}

static int give_open(struct nf_file *nf, struct nf_call *c)
{
	nf_file_opened(nf, c);
	return give_attr(nf, c);
}

static int set_attr_locked(struct toy_file *f, const struct nf_call *c)
{
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
	/* Other times are kept with the next change of data. */
	return c->mask & (NF_SET_MODE | NF_SET_UID | NF_SET_GID) ? toy_save_locked(f) : 0;
}

static int do_create(struct toy *t, struct nf_call *c)
{
	struct toy_file *f = get_file(t, 0, c->name);

	if (f || (!S_ISREG(c->mode) && c->mode & S_IFMT) || strlen(c->name) > TOY_NAME_MAX) {
		if (f)
			nf_file_put(&f->f);
		return f ? -EEXIST : -EOPNOTSUPP;
	}
	(void)pthread_mutex_lock(&t->lock);
	int r = toy_file_new(t, t->last_ino + 1, &f);
	if (r == 0) {
		(void)snprintf(f->name, sizeof f->name, "%s", c->name);
		f->f.unused = unused;
		f->mode = S_IFREG | (c->mode & ~c->umask & 07777);
		f->uid = c->uid;
		f->gid = c->gid;
		touch_locked(f);
		t->last_ino++;
		f->next = t->files;
		t->files = f;
		nf_file_get(&f->f);
		r = toy_save_locked(f);
		if (r < 0)
			*f->name = '\0';
	}
	(void)pthread_mutex_unlock(&t->lock);
	if (r == 0)
		(void)(c->op == NF_CALL_CREATE ? give_open : give_attr)(&f->f, c);
	if (f)
		nf_file_put(&f->f);
	return r;
}

/* A map without a name is no file: from here on a crash leaves none. */
static int do_unlink(struct nf_file *nf, struct nf_call *c)
{
	struct toy_file *f = of(nf);

	(void)pthread_mutex_lock(&f->t->lock);
	*f->name = '\0';
	int r = toy_save_locked(f);
	if (r < 0)
		strcpy(f->name, c->name);
	(void)pthread_mutex_unlock(&f->t->lock);
	return r;
}

/* Everything of the renamed file is stored: after a crash the name never leads to half of it. */
static int do_rename(struct nf_file *nf, struct nf_call *c)
{
	struct toy_file *f = of(nf), *old = get_file(f->t, 0, c->name2);
	int r = old && c->flags & RENAME_NOREPLACE ? -EEXIST : strlen(c->name2) > TOY_NAME_MAX ? -ENAMETOOLONG : 0;

	(void)pthread_mutex_lock(&f->t->lock);
	if (r == 0 && old != f) {
		strcpy(f->name, c->name2);
		r = toy_save_locked(f); /* from here on it has the name, also in the store */
		if (r < 0)
			strcpy(f->name, c->name);
		else if (old)
			*old->name = '\0';
	}
	(void)pthread_mutex_unlock(&f->t->lock);
	if (old)
		nf_file_put(&old->f);
	return r;
}

/* Cookies are inode numbers: they stay what they are while files come and go. */
static int do_readdir(struct toy *t, struct nf_call *c)
{
	uint64_t last = c->offset;
	bool room = last || c->fill(c, ".", 1, ROOT, S_IFDIR, NULL, 1);

	(void)pthread_mutex_lock(&t->lock);
	while (room) {
		struct toy_file *next = NULL;
		struct nf_attr a;
		for (struct toy_file *f = t->files; f; f = f->next)
			if (*f->name && f->ino > last && (!next || f->ino < next->ino))
				next = f;
		if (!next)
			break;
		file_attr_locked(next, &a);
		last = next->ino;
		room = c->fill(c, next->name, strlen(next->name), last, next->mode, c->want_attrs ? &a : NULL, last);
	}
	(void)pthread_mutex_unlock(&t->lock);
	return 0;
}

static void submit(struct nf_fs *fs, struct nf_call *c)
{
	struct toy *t = (struct toy *)(void *)fs;
	bool by_name = c->op == NF_CALL_LOOKUP || c->op == NF_CALL_UNLINK || c->op == NF_CALL_RENAME;
	struct toy_file *f = get_file(t, c->ino, by_name ? c->name : NULL);
	nf_file_then_fn *then = NULL;
	int r = f || c->ino != ROOT || by_name ? -ENOENT : -ENOSYS;

	switch ((int)c->op) {
	case NF_CALL_LOOKUP:
	case NF_CALL_GETATTR: then = give_attr; break;
	case NF_CALL_OPEN: then = give_open; break;
	case NF_CALL_UNLINK: then = do_unlink; break;
	case NF_CALL_RENAME: then = do_rename; break;
	case NF_CALL_SETATTR:
		then = give_attr;
		(void)pthread_mutex_lock(&t->lock);
		r = f ? set_attr_locked(f, c) : -EPERM;
		(void)pthread_mutex_unlock(&t->lock);
		break;
	case NF_CALL_WRITE:
		(void)pthread_mutex_lock(&t->lock);
		touch_locked(f);
		(void)pthread_mutex_unlock(&t->lock);
		break;
	case NF_CALL_MKNOD:
	case NF_CALL_CREATE: r = do_create(t, c); break;
	case NF_CALL_READDIR: r = do_readdir(t, c); break;
	case NF_CALL_OPENDIR:
	case NF_CALL_RELEASEDIR:
	case NF_CALL_FSYNCDIR: r = 0; break; /* names are on the disk when a call has changed them */
	default: break;
	}
	if (c->op == NF_CALL_GETATTR && c->ino == ROOT) {
		c->attr = (struct nf_attr){ .ino = ROOT, .mode = S_IFDIR | 0700, .nlink = 2, .uid = getuid(),
					    .gid = getgid(), .blksize = 4096 };
		r = 0;
	}
	if (f && (r == 0 || r == -ENOENT))
		nf_file_call(&f->f, c, then);
	else
		nf_call_done(c, r);
	if (f)
		nf_file_put(&f->f);
}

static const struct nf_fs_ops fs_ops = { .submit = submit };

/* --- the mount ------------------------------------------------------------------------------------- */

static int toy_open(const char *store, struct toy *t)
{
	struct nf_netfs_options o = { .memory_bytes = 32 << 20, .write_back_ms = 2000 };

	t->fs.ops = &fs_ops;
	t->last_ino = ROOT;
	(void)pthread_mutex_init(&t->lock, NULL);
	t->dir = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = t->dir < 0 ? -errno : nf_netfs_new(&o, &t->lib);
	if (r == 0)
		r = toy_load(t);
	for (struct toy_file *f = t->files; f; f = f->next)
		f->f.unused = unused;
	return r;
}

static int toy_close(struct toy *t)
{
	int r = 0;

	for (struct toy_file *f; (f = t->files);) {
		t->files = f->next;
		int e = nf_file_close(&f->f);
		r = r ? r : e;
		toy_file_free(f);
	}
	nf_netfs_free(t->lib);
	return r;
}

static void on_ready(void *ctx)
{
	(void)ctx;
	(void)puts("ready");
	(void)fflush(stdout);
}

int main(int argc, char **argv)
{
	struct nf_fuse_options o = { .fsname = "toyfs", .subtype = "toyfs", .ready = on_ready, .attr_timeout_s = 60,
				     .entry_timeout_s = 60, .negative_timeout_s = 60 };
	struct toy t = { 0 };
	char why[256];
	int key = argc == 4 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;

	if (key < 0 || read(key, t.key, sizeof t.key) != sizeof t.key) {
		(void)fprintf(stderr, "usage: toyfs KEYFILE STORE MOUNTPOINT, with a key of 32 bytes\n");
		return 2;
	}
	int r = toy_open(argv[2], &t);
	if (r < 0)
		(void)fprintf(stderr, "toyfs: %s: %s\n", argv[2], nf_strerror(r));
	o.mount_point = argv[3];
	if (r == 0 && (r = nf_fuse_main(&o, &t.fs, why, sizeof why)) < 0)
		(void)fprintf(stderr, "toyfs: %s: %s\n", argv[3], why);
	int e = toy_close(&t);
	if (e < 0)
		(void)fprintf(stderr, "toyfs: %s: %s\n", argv[2], nf_strerror(e));
	return r < 0 || e < 0 ? 1 : 0;
}
