/* Helpers that work over any file table.  No threads. */
#include "aio/file.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

void nf_file_list_free(struct nf_file_dirent *list, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		free(list[i].name);
	free(list);
}

int nf_file_pwritev(struct nf_file *f, const struct iovec *iov, int nr, uint64_t offset_bytes)
{
	size_t len = 0, at = 0;

	if (f->ops->pwritev)
		return f->ops->pwritev(f, iov, nr, offset_bytes);
	for (int i = 0; i < nr; i++)
		len += iov[i].iov_len;
	nf_auto_free uint8_t *all = malloc(len ? len : 1);
	if (!all)
		return nf_fail(-ENOMEM);
	for (int i = 0; i < nr; i++) {
		if (iov[i].iov_len)
			memcpy(all + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	return f->ops->pwrite(f, all, len, offset_bytes);
}

static char *parent_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return strdup(".");
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int nf_file_sync_name(const struct nf_file_ops *o, const char *path)
{
	nf_auto_free char *dir = parent_of(path);

	return dir ? nf_fail(o->fsync_dir(o, dir)) : nf_fail(-ENOMEM);
}

int nf_file_mkdirs(const struct nf_file_ops *o, const char *path)
{
	nf_auto_free char *part = strdup(path);

	if (!part)
		return nf_fail(-ENOMEM);
	for (char *p = part; *p;) {
		p += strspn(p, "/");
		p += strcspn(p, "/");
		char cut = *p;
		*p = '\0';
		bool is_dir = false;
		int r = o->stat(o, part, NULL, &is_dir, NULL);
		if (r < 0 || !is_dir) {
			r = o->mkdir(o, part, 0700);
			if (r == 0)
				r = nf_file_sync_name(o, part);
		}
		if (r < 0)
			return nf_fail(r);
		*p = cut;
	}
	return 0;
}

static int write_synced(const struct nf_file_ops *o, const char *path, const void *data, size_t len)
{
	struct nf_file *f;
	int r = o->open(o, path, O_RDWR | O_CREAT | O_TRUNC, 0600, &f);

	if (r < 0)
		return r;
	r = o->pwrite(f, data, len, 0);
	if (r == 0)
		r = o->fdatasync(f);
	o->close(f);
	return r;
}

int nf_file_replace(const struct nf_file_ops *o, const char *path, const void *data, size_t len)
{
	nf_auto(nf_text_deinit) struct nf_text tmp = NF_TEXT_INIT;

	nf_textf(&tmp, "%s.new", path);
	if (tmp.failed)
		return nf_fail(-ENOMEM);
	int r = write_synced(o, nf_text_str(&tmp), data, len);
	if (r == 0)
		r = o->rename(o, nf_text_str(&tmp), path);
	if (r < 0) {
		/* The old file stands; a leftover is overwritten next time. */
		(void)o->unlink(o, nf_text_str(&tmp));
		return nf_fail(r);
	}
	return nf_fail(nf_file_sync_name(o, path));
}

int nf_file_slurp(const struct nf_file_ops *o, const char *path, size_t max, void **out,
		  size_t *len)
{
	struct nf_file *f;
	uint64_t size;
	int r = o->open(o, path, O_RDONLY, 0, &f);

	if (r < 0)
		return nf_fail(r);
	nf_auto_free void *buf = NULL;
	r = o->size(f, &size);
	if (r == 0 && size > max)
		r = -EFBIG;
	if (r == 0) {
		buf = malloc(size ? (size_t)size : 1);
		r = buf ? o->pread(f, buf, (size_t)size, 0, NULL) : -ENOMEM;
	}
	o->close(f);
	if (r < 0)
		return nf_fail(r);
	*out = nf_steal(&buf);
	*len = (size_t)size;
	return 0;
}
