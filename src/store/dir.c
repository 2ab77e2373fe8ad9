/* A local directory as a store.
 *
 *   PUT packs/ab/x:   packs/ab/.tmp-PID-N   written, fdatasync
 *                     packs/ab/x            renamed to
 *                     packs/ab              fsynced, then acknowledged
 *
 * A directory is used for PUTs only after it and all above it were made durable
 * by this process: another thread, or a process that died, may have made it and
 * not synced its parent yet.  A temporary name has a dot, so it is no store name;
 * those of dead processes go when their directory is first used, after a day. */
#include "store/types.h"

#include "aio/file.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum {
	DIR_THREADS = 4,
	TMP_AGE_S = 86400,
};

#define TMP_PREFIX ".tmp-"

/* I set before publication;  l lock;  a atomic */
struct dir {
	struct nf_store base;
	const struct nf_file_ops *files; /* I */
	char *root;                      /* I  without trailing slash */
	struct nf_local local;           /* I */
	struct nf_lock lock;
	struct nf_known known; /* l  directories that are durable */
	atomic_uint seq; /* a  names of temporary files */
};

/* What a local error means in the words of a store. */
static int map_error(int r)
{
	switch (r) {
	case -ENOENT:
	case -ENOTDIR:
		return -NF_E_STORE_NOT_FOUND;
	case -ENOSPC:
	case -EDQUOT:
		return -NF_E_STORE_FULL;
	case -EROFS:
		return -NF_E_STORE_READONLY;
	case -EACCES:
	case -EPERM:
		return -NF_E_STORE_DENIED;
	case -EFBIG:
		return -NF_E_STORE_TOO_LARGE;
	case -NF_E_XFORM_TRUNCATED:
		return -NF_E_STORE_SHORT;
	default:
		return r;
	}
}

static char *path_of(const struct dir *d, const char *name)
{
	char *p;

	return asprintf(&p, "%s%s%s", d->root, *name ? "/" : "", name) < 0 ? NULL : p;
}

static bool is_known(struct dir *d, const char *path)
{
	nf_lock_take(&d->lock);
	bool found = nf_known_has(&d->known, path, strlen(path));
	nf_lock_drop(&d->lock);
	return found;
}

static void remember(struct dir *d, const char *path)
{
	nf_lock_take(&d->lock);
	nf_known_add(&d->known, path, strlen(path));
	nf_lock_drop(&d->lock);
}

static void forget(struct dir *d)
{
	nf_lock_take(&d->lock);
	nf_known_deinit(&d->known);
	nf_lock_drop(&d->lock);
}

/* Removes temporary files of processes that died; failing to is no harm. */
static void sweep(struct dir *d, const char *path)
{
	struct nf_file_dirent *list;
	size_t nr;
	int64_t now_s = nf_clock_real().tv_sec;

	if (d->files->list(d->files, path, &list, &nr))
		return;
	for (size_t i = 0; i < nr; i++) {
		uint64_t size;
		bool is_dir;
		int64_t mtime_s;
		char *p;
		if (list[i].is_dir || strncmp(list[i].name, TMP_PREFIX, strlen(TMP_PREFIX)))
			continue;
		if (asprintf(&p, "%s/%s", path, list[i].name) < 0)
			break;
		if (!d->files->stat(d->files, p, &size, &is_dir, &mtime_s) &&
		    now_s - mtime_s > TMP_AGE_S)
			(void)d->files->unlink(d->files, p); /* tried again next time */
		free(p);
	}
	nf_file_list_free(list, nr);
}

/* Makes every directory above NAME, durably. */
static int make_dirs(struct dir *d, const char *name)
{
	nf_auto_free char *parent = strdup(d->root);
	int r = parent ? 0 : -ENOMEM;

	for (const char *p = strchr(name, '/'); !r && p; p = strchr(p + 1, '/')) {
		nf_auto_free char *sub = strndup(name, (size_t)(p - name));
		nf_auto_free char *path = sub ? path_of(d, sub) : NULL;
		if (!path)
			return nf_fail(-ENOMEM);
		if (!is_known(d, path)) {
			r = d->files->mkdir(d->files, path, 0700);
			r = r ? r : d->files->fsync_dir(d->files, parent);
			if (!r) {
				sweep(d, path);
				remember(d, path);
			}
		}
		free(parent);
		parent = nf_steal(&path);
	}
	return nf_fail(r);
}

static int write_iov(struct nf_file *f, const struct nf_store_op *op)
{
	uint64_t at = 0;

	for (int i = 0; i < op->nr_iov; i++) {
		if (!op->iov[i].iov_len)
			continue;
		int r = f->ops->pwrite(f, op->iov[i].iov_base, op->iov[i].iov_len, at);
		if (r)
			return nf_fail(r);
		at += op->iov[i].iov_len;
	}
	return nf_fail(f->ops->fdatasync(f));
}

static int put_once(struct dir *d, const struct nf_store_op *op, const char *path, const char *dir)
{
	nf_auto_free char *tmp = NULL;
	struct nf_file *f;
	int r = make_dirs(d, op->name);

	if (r)
		return nf_fail(r);
	if (asprintf(&tmp, "%s/" TMP_PREFIX "%ld-%u", dir, (long)getpid(),
		     atomic_fetch_add(&d->seq, 1)) < 0) {
		tmp = NULL;
		return nf_fail(-ENOMEM);
	}
	r = d->files->open(d->files, tmp, O_RDWR | O_CREAT | O_TRUNC, 0600, &f);
	if (r)
		return nf_fail(r);
	r = write_iov(f, op);
	f->ops->close(f);
	if (!r)
		r = d->files->rename(d->files, tmp, path);
	if (r) {
		(void)d->files->unlink(d->files, tmp); /* swept later if this fails too */
		return nf_fail(r);
	}
	r = d->files->fsync_dir(d->files, dir);
	/* It has its name already: wherever the directory is now, it may be in it. */
	return nf_fail(r == -ENOENT ? -NF_E_STORE_UNKNOWN_OUTCOME : r);
}

static int dir_put(struct dir *d, struct nf_store_op *op)
{
	nf_auto_free char *path = path_of(d, op->name);
	nf_auto_free char *dir = path ? strndup(path, (size_t)(strrchr(path, '/') - path)) : NULL;

	if (!dir)
		return nf_fail(-ENOMEM);
	int r = put_once(d, op, path, dir);
	if (r != -ENOENT)
		return nf_fail(r);
	/* Somebody removed a directory that we knew. */
	forget(d);
	return nf_fail(put_once(d, op, path, dir));
}

static int dir_get(struct dir *d, struct nf_store_op *op, const char *path)
{
	struct nf_file *f;
	uint64_t size;
	size_t n = 0, got = 0;
	int r = d->files->open(d->files, path, O_RDONLY, 0, &f);

	if (r)
		return nf_fail(r);
	r = f->ops->size(f, &size);
	if (!r)
		r = nf_store_clip(op, size, &n);
	if (!r && n)
		r = f->ops->pread(f, op->buf, n, op->offset_bytes, &got);
	f->ops->close(f);
	if (!r)
		op->transferred_bytes = n;
	return nf_fail(r);
}

static int dir_stat(struct dir *d, struct nf_store_op *op, const char *path)
{
	bool is_dir;
	int64_t mtime_s;
	uint64_t size;
	int r = d->files->stat(d->files, path, &size, &is_dir, &mtime_s);

	if (r)
		return nf_fail(r);
	if (is_dir)
		return nf_fail(-NF_E_STORE_NOT_FOUND);
	op->size_bytes = size;
	return 0;
}

/* 1: it has gone since. */
static int list_one(struct dir *d, struct nf_entries *e, const char *path,
		    const struct nf_file_dirent *de)
{
	nf_auto_free char *p = NULL;
	uint64_t size;
	bool is_dir;
	int64_t mtime_s;
	size_t len = strlen(de->name);

	if (!nf_store_part_ok(de->name, len))
		return 0;
	if (asprintf(&p, "%s/%s", path, de->name) < 0) {
		p = NULL;
		return nf_fail(-ENOMEM);
	}
	int r = d->files->stat(d->files, p, &size, &is_dir, &mtime_s);
	if (r == -ENOENT)
		return 1;
	return nf_fail(r ? r : nf_entries_add(e, de->name, len, is_dir, size, mtime_s));
}

static int check_root(struct dir *d)
{
	uint64_t size;
	bool is_dir;
	int64_t mtime_s;
	int r = d->files->stat(d->files, *d->root ? d->root : "/", &size, &is_dir, &mtime_s);

	if (r)
		return nf_fail(r);
	return is_dir ? 0 : nf_fail(-ENOTDIR);
}

static int dir_list(struct dir *d, struct nf_store_op *op, const char *path)
{
	struct nf_entries e = { 0 };
	struct nf_file_dirent *list;
	bool gone = false;
	size_t nr;
	int r = d->files->list(d->files, path, &list, &nr);

	if (r)
		return nf_fail(r);
	for (size_t i = 0; i < nr && r >= 0; i++) {
		r = list_one(d, &e, path, &list[i]);
		gone |= r > 0;
	}
	r = NF_MIN(r, 0);
	nf_file_list_free(list, nr);
	/* All of them, when the disk goes meanwhile. */
	if (!r && gone)
		r = check_root(d);
	if (r)
		nf_entries_deinit(&e);
	else
		nf_entries_give(&e, op);
	return nf_fail(r);
}

/* OP found nothing: is it the object that is not there, or the whole store, as a disk that was taken away? */
static int found_nothing(struct dir *d, const struct nf_store_op *op, int r)
{
	if (check_root(d) == -ENOENT)
		return -NF_E_OFFLINE;
	return op->verb == NF_STORE_DELETE ? 0 : r;
}

static int dir_run(struct nf_store *s, struct nf_store_op *op)
{
	struct dir *d = (struct dir *)s;
	nf_auto_free char *path = path_of(d, op->name);
	int r = -ENOMEM;

	if (!path)
		return nf_fail(r);
	switch (op->verb) {
	case NF_STORE_GET:
		r = dir_get(d, op, path);
		break;
	case NF_STORE_PUT:
		r = dir_put(d, op);
		break;
	case NF_STORE_STAT:
		r = dir_stat(d, op, path);
		break;
	case NF_STORE_LIST:
		r = dir_list(d, op, path);
		break;
	case NF_STORE_DELETE:
		r = d->files->unlink(d->files, path);
		break;
	case NF_STORE_VERB_NR:
		break;
	}
	if (r == -ENOENT || r == -ENOTDIR || r == -NF_E_STORE_NOT_FOUND)
		r = found_nothing(d, op, r);
	return nf_fail(map_error(r));
}

static void dir_submit(struct nf_store *s, struct nf_store_op *op)
{
	nf_local_submit(&((struct dir *)s)->local, op);
}

static void dir_cancel(struct nf_store *s, struct nf_store_op *op)
{
	(void)s;
	nf_local_cancel(op);
}

static void dir_free(struct nf_store *s)
{
	struct dir *d = (struct dir *)s;

	nf_pool_free(d->local.pool);
	forget(d);
	free(d->root);
	free(d->base.text);
	nf_lock_deinit(&d->lock);
	free(d);
}

static int dir_quota(struct nf_store *s, uint64_t *used_bytes, uint64_t *free_bytes)
{
	struct dir *d = (struct dir *)s;
	struct nf_file_room now;
	int r = d->files->room(d->files, d->root, &now);

	if (r)
		return nf_fail(map_error(r));
	*free_bytes = now.free_bytes;
	*used_bytes = now.total_bytes - NF_MIN(now.total_bytes, now.free_bytes);
	return 0;
}

static int dir_probe(struct nf_store *s)
{
	int r = check_root((struct dir *)s);

	return nf_fail(r == -ENOTDIR ? r : map_error(r));
}

static const struct nf_store_ops dir_ops = {
	.name = "dir",
	.submit = dir_submit,
	.cancel = dir_cancel,
	.free = dir_free,
	.quota = dir_quota,
	.probe = dir_probe,
};

/* mkdir -p and a sync of the parent, so that the root itself survives. */
static int make_root(struct dir *d)
{
	int r = nf_file_mkdirs(d->files, d->root);

	if (r)
		return nf_fail(r);
	nf_auto_free char *parent = strdup(d->root);
	if (!parent)
		return nf_fail(-ENOMEM);
	char *slash = strrchr(parent, '/');
	if (!slash || slash == parent)
		return 0;
	*slash = '\0';
	return nf_fail(d->files->fsync_dir(d->files, parent));
}

int nf_store_dir_new(const char *path, const struct nf_file_ops *files, enum nf_dir_root root,
		     struct nf_store **out)
{
	struct dir *d = calloc(1, sizeof *d);
	size_t len = strlen(path);
	int r = -ENOMEM;

	if (!d)
		return nf_fail(-ENOMEM);
	nf_lock_init(&d->lock, NF_RANK_STORE);
	d->base.ops = &dir_ops;
	d->base.max_put_bytes = UINT64_MAX;
	d->files = files;
	d->local.store = &d->base;
	d->local.run = dir_run;
	while (len && path[len - 1] == '/')
		len--;
	d->root = strndup(path, len);
	d->base.text = strdup(path);
	if (!d->root || !d->base.text)
		goto fail;
	r = root == NF_DIR_IS_MADE && len ? make_root(d) : 0;
	r = r ? r : check_root(d);
	if (r == -ENOENT && root == NF_DIR_MAY_BE_AWAY)
		r = 0;
	r = r ? r : nf_pool_new("store-dir", DIR_THREADS, 0, &d->local.pool);
	if (r)
		goto fail;
	*out = &d->base;
	return 0;
fail:
	dir_free(&d->base);
	return nf_fail(r);
}
