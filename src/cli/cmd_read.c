/* foliofs cat|ls|get STORE PATH: reading a vault without mounting it, by the calls the front end makes. */
#include "aio/pool.h"
#include "base/error.h"
#include "base/mem.h"
#include "cli/open.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 20, DIR_BYTES = 1 << 16, DEPTH_MAX = 256 };

/* --- calls -------------------------------------------------------------------------------- */

struct waiter {
	struct nf_completion done;
	int error;
};

static void on_done(struct nf_call *c, int error)
{
	struct waiter *w = c->owner;

	w->error = error;
	nf_completion_set(&w->done);
}

static int do_call(struct nf_vault *v, struct nf_call *c)
{
	struct nf_fs *fs = nf_vault_fs(v);
	struct waiter w;

	int r = nf_completion_init(&w.done);
	if (r < 0)
		return r;
	c->owner = &w;
	c->done = on_done;
	fs->ops->submit(fs, c);
	nf_completion_wait(&w.done);
	nf_completion_deinit(&w.done);
	return w.error;
}

static int open_inode(struct nf_vault *v, uint64_t ino, enum nf_call_op op, struct nf_open_file **out)
{
	nf_auto_free struct nf_call *c = calloc(1, sizeof *c);

	if (!c)
		return nf_fail(-ENOMEM);
	c->op = op;
	c->ino = ino;
	c->flags = O_RDONLY;
	int r = do_call(v, c);
	if (r == 0)
		*out = c->file;
	return r;
}

static void release(struct nf_vault *v, uint64_t ino, enum nf_call_op op, struct nf_open_file *file)
{
	nf_auto_free struct nf_call *c = calloc(1, sizeof *c);

	if (!c)
		return; /* the process ends soon */
	c->op = op;
	c->ino = ino;
	c->file = file;
	(void)do_call(v, c); /* cannot fail */
}

/* --- a file ------------------------------------------------------------------------------- */

static int write_all(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return nf_fail(-errno);
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

/* One READ; *GOT is 0 at the end of the file. */
static int read_some(struct nf_vault *v, uint64_t ino, struct nf_open_file *file, uint64_t at, int fd, uint64_t *got)
{
	nf_auto_free struct nf_call *c = calloc(1, sizeof *c);

	if (!c)
		return nf_fail(-ENOMEM);
	c->op = NF_CALL_READ;
	c->ino = ino;
	c->file = file;
	c->offset = at;
	c->size = READ_BYTES;
	*got = 0;
	int r = do_call(v, c);
	for (int i = 0; i < c->nr_iov && r == 0; i++) {
		r = write_all(fd, c->iov[i].iov_base, c->iov[i].iov_len);
		*got += c->iov[i].iov_len;
	}
	if (c->release)
		c->release(c);
	return r;
}

static int copy_out(struct nf_vault *v, uint64_t ino, int fd)
{
	struct nf_open_file *file = NULL;
	uint64_t at = 0, got = 0;

	int r = open_inode(v, ino, NF_CALL_OPEN, &file);
	if (r < 0)
		return r;
	do {
		r = read_some(v, ino, file, at, fd, &got);
		at += got;
	} while (r == 0 && got);
	release(v, ino, NF_CALL_RELEASE, file);
	return r;
}

/* --- a directory -------------------------------------------------------------------------- */

struct entry {
	char *name;
	struct nf_attr attr;
};

struct listing {
	struct entry *e; /* owned, with its names */
	size_t nr, cap;
	uint64_t cookie;
	bool any, failed;
};

static bool on_entry(struct nf_call *c, const char *name, size_t len, uint64_t ino, uint32_t mode,
		     const struct nf_attr *attr, uint64_t cookie)
{
	struct listing *l = (struct listing *)(uintptr_t)c->lock_owner;

	l->any = true;
	l->cookie = cookie;
	if ((len == 1 && *name == '.') || (len == 2 && !memcmp(name, "..", 2)))
		return true;
	if (l->nr == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 64;
		struct entry *e = realloc(l->e, cap * sizeof *e);
		l->failed = l->failed || !e;
		if (!e)
			return false;
		l->e = e;
		l->cap = cap;
	}
	struct entry *e = &l->e[l->nr];
	e->name = strndup(name, len);
	e->attr = attr ? *attr : (struct nf_attr){ .ino = ino, .mode = mode };
	l->failed = l->failed || !e->name;
	l->nr += e->name != NULL;
	return e->name != NULL;
}

static void listing_deinit(struct listing *l)
{
	for (size_t i = 0; i < l->nr; i++)
		free(l->e[i].name);
	free(l->e);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static int list(struct nf_vault *v, uint64_t ino, struct listing *l)
{
	struct nf_open_file *file = NULL;

	int r = open_inode(v, ino, NF_CALL_OPENDIR, &file);
	if (r < 0)
		return r;
	do {
		nf_auto_free struct nf_call *c = calloc(1, sizeof *c);
		if (!c) {
			r = nf_fail(-ENOMEM);
			break;
		}
		c->op = NF_CALL_READDIR;
		c->ino = ino;
		c->file = file;
		c->offset = l->cookie;
		c->size = DIR_BYTES;
		c->fill = on_entry;
		c->want_attrs = true;
		c->lock_owner = (uint64_t)(uintptr_t)l;
		l->any = false;
		r = do_call(v, c);
		if (r == 0 && l->failed)
			r = nf_fail(-ENOMEM);
	} while (r == 0 && l->any);
	release(v, ino, NF_CALL_RELEASEDIR, file);
	if (r == 0 && l->nr)
		qsort(l->e, l->nr, sizeof *l->e, by_name);
	return r;
}

/* --- commands ----------------------------------------------------------------------------- */

static enum nf_exit failed(const char *path, int r)
{
	nf_complain("%s: %s", path, nf_strerror(r));
	return nf_exit_of(r);
}

static enum nf_exit resolve(struct nf_args *a, struct nf_reader *rd, struct nf_attr *attr)
{
	const char *path = a->arg[1] ? a->arg[1] : "/";

	enum nf_exit e = nf_reader_open(a->arg[0], &a->opt, rd);
	if (e)
		return e;
	int r = nf_vault_resolve(rd->vault, path, attr);
	return r < 0 ? failed(path, r) : NF_EXIT_OK;
}

enum nf_exit nf_cmd_cat(struct nf_args *a)
{
	struct nf_reader rd;
	struct nf_attr attr;

	enum nf_exit e = resolve(a, &rd, &attr);
	if (e == NF_EXIT_OK) {
		int r = S_ISREG(attr.mode) ? copy_out(rd.vault, attr.ino, STDOUT_FILENO) :
					     S_ISDIR(attr.mode) ? -EISDIR : -EINVAL;
		e = r < 0 ? failed(a->arg[1], r) : NF_EXIT_OK;
	}
	nf_reader_close(&rd);
	return e;
}

static char kind_letter(uint32_t mode)
{
	return S_ISDIR(mode) ? 'd' : S_ISLNK(mode) ? 'l' : S_ISREG(mode) ? '-' : S_ISFIFO(mode) ? 'p' :
	       S_ISSOCK(mode) ? 's' : S_ISBLK(mode) ? 'b' : 'c';
}

static void line(struct nf_text *t, const char *name, const struct nf_attr *a)
{
	char when[32] = "", bits[10] = "rwxrwxrwx";
	struct tm tm;

	for (int i = 0; i < 9; i++) {
		if (!(a->mode & 0400u >> i))
			bits[i] = '-';
	}
	if (localtime_r(&a->mtime.tv_sec, &tm))
		(void)strftime(when, sizeof when, "%Y-%m-%d %H:%M", &tm);
	nf_textf(t, "%c%s %12llu %s ", kind_letter(a->mode), bits, (unsigned long long)a->size_bytes, when);
	nf_text_name(t, name);
	nf_textf(t, "\n");
}

static void json(struct nf_text *t, const char *name, const struct nf_attr *a, bool first)
{
	nf_textf(t, "%s{\"name\":", first ? "" : ",");
	nf_text_json(t, name);
	nf_textf(t, ",\"ino\":%llu,\"mode\":%u,\"size\":%llu,\"uid\":%u,\"gid\":%u,\"mtime\":%lld.%09ld}",
		 (unsigned long long)a->ino, a->mode, (unsigned long long)a->size_bytes, a->uid, a->gid,
		 (long long)a->mtime.tv_sec, a->mtime.tv_nsec);
}

static enum nf_exit print_listing(const struct listing *l, bool as_json)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, as_json ? "[" : "");
	for (size_t i = 0; i < l->nr; i++) {
		if (as_json)
			json(&t, l->e[i].name, &l->e[i].attr, i == 0);
		else
			line(&t, l->e[i].name, &l->e[i].attr);
	}
	nf_textf(&t, as_json ? "]\n" : "");
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	return ok ? NF_EXIT_OK : NF_EXIT_ERROR;
}

enum nf_exit nf_cmd_ls(struct nf_args *a)
{
	struct listing l = { 0 };
	struct nf_reader rd;
	struct nf_attr attr;

	enum nf_exit e = resolve(a, &rd, &attr);
	if (e == NF_EXIT_OK && S_ISDIR(attr.mode)) {
		int r = list(rd.vault, attr.ino, &l);
		e = r < 0 ? failed(a->arg[1] ? a->arg[1] : "/", r) : print_listing(&l, a->opt.json);
		listing_deinit(&l);
	} else if (e == NF_EXIT_OK) {
		struct entry one = { .name = (char *)(uintptr_t)a->arg[1], .attr = attr };
		e = print_listing(&(struct listing){ .e = &one, .nr = 1 }, a->opt.json);
	}
	nf_reader_close(&rd);
	return e;
}

/* --- get ------------------------------------------------------------------------------------ */

static int get_at(struct nf_vault *v, const struct nf_attr *a, int dir, const char *name, unsigned depth);

static int get_file(struct nf_vault *v, const struct nf_attr *a, int dir, const char *name)
{
	struct timespec times[2] = { a->atime, a->mtime };
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return nf_fail(-errno);
	int r = copy_out(v, a->ino, fd);
	if (r == 0 && (fchmod(fd, a->mode & 0777) || futimens(fd, times)))
		r = nf_fail(-errno);
	if (close(fd) && r == 0)
		r = nf_fail(-errno);
	return r;
}

static int get_link(struct nf_vault *v, const struct nf_attr *a, int dir, const char *name)
{
	nf_auto_free struct nf_call *c = calloc(1, sizeof *c);

	if (!c)
		return nf_fail(-ENOMEM);
	c->op = NF_CALL_READLINK;
	c->ino = a->ino;
	int r = do_call(v, c);
	if (r == 0 && symlinkat(c->buf, dir, name))
		r = nf_fail(-errno);
	free(c->buf);
	return r;
}

static int get_dir(struct nf_vault *v, const struct nf_attr *a, int dir, const char *name, unsigned depth)
{
	struct listing l = { 0 };

	if (depth == DEPTH_MAX)
		return nf_fail(-ELOOP);
	if (mkdirat(dir, name, 0700))
		return nf_fail(-errno);
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	int r = fd < 0 ? nf_fail(-errno) : list(v, a->ino, &l);
	for (size_t i = 0; i < l.nr && r == 0; i++)
		r = get_at(v, &l.e[i].attr, fd, l.e[i].name, depth + 1);
	if (r == 0 && fchmod(fd, a->mode & 0777))
		r = nf_fail(-errno);
	if (fd >= 0)
		(void)close(fd);
	listing_deinit(&l);
	return r;
}

/* Nothing that exists is touched; names from the vault are single components. */
static int get_at(struct nf_vault *v, const struct nf_attr *a, int dir, const char *name, unsigned depth)
{
	int r;

	if (S_ISREG(a->mode)) {
		r = get_file(v, a, dir, name);
	} else if (S_ISDIR(a->mode)) {
		return get_dir(v, a, dir, name, depth); /* complains of what is in it */
	} else if (S_ISLNK(a->mode)) {
		r = get_link(v, a, dir, name);
	} else {
		nf_complain("%s: left out: a special file", name);
		return 0;
	}
	if (r < 0)
		nf_complain("%s: %s", name, nf_strerror(r));
	return r;
}

enum nf_exit nf_cmd_get(struct nf_args *a)
{
	const char *last = a->arg[1] + strlen(a->arg[1]);
	struct nf_reader rd;
	struct nf_attr attr;

	while (last > a->arg[1] && last[-1] != '/')
		last--;
	const char *to = a->arg[2] ? a->arg[2] : last;
	if (!*to) {
		nf_complain("say where to: foliofs get STORE PATH TARGET");
		return NF_EXIT_USAGE;
	}
	enum nf_exit e = resolve(a, &rd, &attr);
	if (e == NF_EXIT_OK) {
		int r = get_at(rd.vault, &attr, AT_FDCWD, to, 0);
		if (r == -EEXIST)
			nf_complain("%s exists; nothing is overwritten", to);
		e = nf_exit_of(r);
	}
	nf_reader_close(&rd);
	return e;
}
