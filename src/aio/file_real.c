/* The table of the real disk.  No thread of its own: each call blocks its caller.
 * Stateless, so any number of threads may use it, and one file, at once. */
#include "aio/file.h"

#include "base/error.h"
#include "base/mem.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

static int real_open(const struct nf_file_ops *o, const char *path, int flags, mode_t mode,
		     struct nf_file **out)
{
	nf_auto_free struct nf_file *f = malloc(sizeof *f);

	if (!f)
		return nf_fail(-ENOMEM);
	do
		f->fd = open(path, flags | O_CLOEXEC, mode);
	while (f->fd < 0 && errno == EINTR);
	if (f->fd < 0)
		return nf_fail(-errno);
	f->ops = o;
	*out = nf_steal(&f);
	return 0;
}

static void real_close(struct nf_file *f)
{
	if (!f)
		return;
	/* What had to be durable was synced; a late error has nobody to tell. */
	(void)close(f->fd);
	free(f);
}

static int real_pread(struct nf_file *f, void *buf, size_t len, uint64_t offset_bytes, size_t *got)
{
	size_t done = 0;
	int r = 0;

	while (done < len && r == 0) {
		ssize_t n = pread(f->fd, (char *)buf + done, len - done,
				  (off_t)(offset_bytes + done));
		if (n > 0)
			done += (size_t)n;
		else if (n == 0)
			r = -NF_E_XFORM_TRUNCATED;
		else if (errno != EINTR)
			r = -errno;
	}
	if (got)
		*got = done;
	/* A short file is an answer here more often than a failure: not traced. */
	return r == -NF_E_XFORM_TRUNCATED ? r : nf_fail(r);
}

static int real_pwrite(struct nf_file *f, const void *buf, size_t len, uint64_t offset_bytes)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(f->fd, (const char *)buf + done, len - done,
				   (off_t)(offset_bytes + done));
		if (n > 0)
			done += (size_t)n;
		else if (n == 0)
			return nf_fail(-EIO);
		else if (errno != EINTR)
			return nf_fail(-errno);
	}
	return 0;
}

static int real_pwritev(struct nf_file *f, const struct iovec *iov, int nr, uint64_t offset_bytes)
{
	while (nr > 0) {
		ssize_t n = pwritev(f->fd, iov, NF_MIN(nr, IOV_MAX), (off_t)offset_bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return nf_fail(-errno);
		if (n == 0 && iov->iov_len)
			return nf_fail(-EIO);
		size_t done = (size_t)n;
		offset_bytes += done;
		for (; nr > 0 && done >= iov->iov_len; iov++, nr--)
			done -= iov->iov_len;
		if (nr == 0 || done == 0)
			continue;
		/* Cut in the middle of a piece. */
		size_t left = iov->iov_len - done;
		int r = real_pwrite(f, (const char *)iov->iov_base + done, left, offset_bytes);
		if (r < 0)
			return r;
		offset_bytes += left;
		iov++;
		nr--;
	}
	return 0;
}

static int real_fdatasync(struct nf_file *f)
{
	/* Not tried again: after an error the kernel may have dropped the pages. */
	return fdatasync(f->fd) < 0 ? nf_fail(-errno) : 0;
}

static int real_ftruncate(struct nf_file *f, uint64_t size_bytes)
{
	while (ftruncate(f->fd, (off_t)size_bytes) < 0)
		if (errno != EINTR)
			return nf_fail(-errno);
	return 0;
}

static int real_punch(struct nf_file *f, uint64_t offset_bytes, uint64_t len_bytes)
{
	while (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset_bytes,
			 (off_t)len_bytes) < 0)
		if (errno != EINTR)
			return nf_fail(-errno);
	return 0;
}

static int real_size(struct nf_file *f, uint64_t *size_bytes)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return nf_fail(-errno);
	*size_bytes = (uint64_t)st.st_size;
	return 0;
}

static int real_rename(const struct nf_file_ops *o, const char *from, const char *to)
{
	(void)o;
	return rename(from, to) < 0 ? nf_fail(-errno) : 0;
}

static int real_unlink(const struct nf_file_ops *o, const char *path)
{
	(void)o;
	return unlink(path) < 0 ? nf_fail(-errno) : 0;
}

static int real_rmdir(const struct nf_file_ops *o, const char *path)
{
	(void)o;
	return rmdir(path) < 0 ? nf_fail(-errno) : 0;
}

static int real_mkdir(const struct nf_file_ops *o, const char *path, mode_t mode)
{
	struct stat st;

	(void)o;
	if (mkdir(path, mode) == 0)
		return 0;
	if (errno != EEXIST)
		return nf_fail(-errno);
	if (stat(path, &st) < 0)
		return nf_fail(-errno);
	return S_ISDIR(st.st_mode) ? 0 : nf_fail(-ENOTDIR);
}

static int real_fsync_dir(const struct nf_file_ops *o, const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)o;
	if (fd < 0)
		return nf_fail(-errno);
	int r = fsync(fd) < 0 ? -errno : 0;
	(void)close(fd); /* only read */
	return nf_fail(r);
}

static bool entry_is_dir(DIR *d, const struct dirent *e)
{
	struct stat st;

	if (e->d_type != DT_UNKNOWN)
		return e->d_type == DT_DIR;
	return fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

struct listing {
	struct nf_file_dirent *e;
	size_t nr;
	size_t cap;
};

static int listing_add(struct listing *l, const char *name, bool is_dir)
{
	if (l->nr == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 16;
		struct nf_file_dirent *e = reallocarray(l->e, cap, sizeof *e);
		if (!e)
			return -ENOMEM;
		l->e = e;
		l->cap = cap;
	}
	char *copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	l->e[l->nr++] = (struct nf_file_dirent){ .name = copy, .is_dir = is_dir };
	return 0;
}

static int listing_read(struct listing *l, DIR *d)
{
	int r = 0;

	while (r == 0) {
		errno = 0;
		const struct dirent *e = readdir(d);
		if (!e)
			return -errno;
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = listing_add(l, e->d_name, entry_is_dir(d, e));
	}
	return r;
}

static int real_list(const struct nf_file_ops *o, const char *path, struct nf_file_dirent **out,
		     size_t *nr)
{
	struct listing l = { 0 };
	DIR *d = opendir(path); /* sets O_CLOEXEC */

	(void)o;
	if (!d)
		return nf_fail(-errno);
	int r = listing_read(&l, d);
	(void)closedir(d);
	if (r < 0) {
		nf_file_list_free(l.e, l.nr);
		return nf_fail(r);
	}
	*out = l.e;
	*nr = l.nr;
	return 0;
}

static int real_stat(const struct nf_file_ops *o, const char *path, uint64_t *size_bytes,
		     bool *is_dir, int64_t *mtime_s)
{
	struct stat st;

	(void)o;
	if (stat(path, &st) < 0)
		return errno == ENOENT ? -ENOENT : nf_fail(-errno);
	if (size_bytes)
		*size_bytes = (uint64_t)st.st_size;
	if (is_dir)
		*is_dir = S_ISDIR(st.st_mode);
	if (mtime_s)
		*mtime_s = (int64_t)st.st_mtime;
	return 0;
}

static int real_lock(const struct nf_file_ops *o, const char *path, struct nf_file **out)
{
	struct nf_file *f;
	int r = real_open(o, path, O_RDWR | O_CREAT, 0600, &f);

	if (r < 0)
		return r;
	if (flock(f->fd, LOCK_EX | LOCK_NB) < 0) {
		r = errno == EWOULDBLOCK ? -NF_E_CACHE_LOCKED : -errno;
		real_close(f);
		return nf_fail(r);
	}
	*out = f;
	return 0;
}

static int real_room(const struct nf_file_ops *o, const char *path, struct nf_file_room *out)
{
	struct statvfs sv;

	(void)o;
	if (statvfs(path, &sv) < 0)
		return nf_fail(-errno);
	*out = (struct nf_file_room){ .free_bytes = (uint64_t)sv.f_bavail * sv.f_frsize,
				      .total_bytes = (uint64_t)sv.f_blocks * sv.f_frsize, .disk = sv.f_fsid };
	return 0;
}

const struct nf_file_ops nf_file_real = {
	.name = "real",
	.open = real_open,
	.close = real_close,
	.pread = real_pread,
	.pwrite = real_pwrite,
	.pwritev = real_pwritev,
	.fdatasync = real_fdatasync,
	.ftruncate = real_ftruncate,
	.punch = real_punch,
	.size = real_size,
	.rename = real_rename,
	.unlink = real_unlink,
	.rmdir = real_rmdir,
	.mkdir = real_mkdir,
	.fsync_dir = real_fsync_dir,
	.list = real_list,
	.stat = real_stat,
	.lock = real_lock,
	.room = real_room,
};
