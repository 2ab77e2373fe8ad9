/* tests/lib/vfs.h - machines that share one vault, driven by calls that wait.
 *
 *	struct vfs_site s;  vfs_site_init(&s, "");        one store in memory, formatted
 *	struct vfs *m = vfs_mount(&s, "a");               a device with its own state and cache
 *	vfs_write(m, "/dir/file", "text"); ... vfs_sync(m); vfs_unmount(m);
 */
#ifndef NF_TESTS_VFS_H
#define NF_TESTS_VFS_H

#include "aio/pool.h"
#include "base/error.h"
#include "base/mem.h"
#include "foliofs/store.h"
#include "suite.h"
#include "tempdir.h"
#include "vault/header.h"
#include "vault/vault.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

struct vfs_site {
	struct nf_tempdir dir;
	char address[200];
	struct nf_header *header;
	struct nf_store *keep;
	uint8_t block_shift; /* of new files; 0: the default */
	size_t shelve_bytes; /* as in struct nf_vault_options */
};

struct vfs {
	struct nf_vault *v;
	struct nf_fs *fs;
};

static inline struct nf_store *vfs_store(const struct vfs_site *s)
{
	struct nf_store *st;
	ck_assert_int_eq(nf_store_open(s->address, NULL, true, &st), 0);
	return st;
}

static inline void vfs_site_init(struct vfs_site *s, const char *prefix, const char *rules)
{
	static int nr;
	struct nf_store *st;

	s->block_shift = 0;
	s->shelve_bytes = 0;
	s->dir = nf_tempdir_new();
	snprintf(s->address, sizeof s->address, "%smem:site%d-%d%s", prefix, (int)getpid(), ++nr, rules);
	ck_assert_int_eq(nf_header_new(&s->header), 0);
	st = vfs_store(s);
	ck_assert_int_eq(nf_vault_format(st, s->header, "test"), 0);
	/* A store in memory lives as long as somebody has it open. */
	s->keep = st;
}

static inline void vfs_site_deinit(struct vfs_site *s)
{
	nf_store_free(s->keep);
	nf_header_free(s->header);
	nf_tempdir_gone(&s->dir);
}

static inline struct nf_vault_options vfs_options(const struct vfs_site *s, const char *name, char *cache,
						  char *state)
{
	snprintf(cache, 200, "%.120s/%.40s-cache", s->dir.path, name);
	snprintf(state, 200, "%.120s/%.40s-state", s->dir.path, name);
	return (struct nf_vault_options){ .store = vfs_store(s), .header = s->header, .cache_dir = cache,
					  .state_dir = state, .cache_size_bytes = 64 << 20,
					  .memory_bytes = 16 << 20, .block_shift = s->block_shift, .shelve_bytes = s->shelve_bytes,
					  .no_threads = true, .host = name };
}

static inline struct vfs vfs_mount(const struct vfs_site *s, const char *name)
{
	char cache[200], state[200];
	struct nf_vault_options o = vfs_options(s, name, cache, state);
	struct vfs m;

	ck_assert_int_eq(nf_vault_open(&o, &m.v), 0);
	m.fs = nf_vault_fs(m.v);
	return m;
}

/* The same over a store of the caller's, which is taken. */
static inline int vfs_mount_over(const struct vfs_site *s, const char *name, struct nf_store *store, struct vfs *m)
{
	char cache[200], state[200];
	struct nf_vault_options o = vfs_options(s, name, cache, state);

	nf_store_free(o.store);
	o.store = store;
	int r = nf_vault_open(&o, &m->v);
	if (r == 0)
		m->fs = nf_vault_fs(m->v);
	return r;
}

static inline void vfs_unmount(struct vfs *m)
{
	nf_vault_close(m->v);
	m->v = NULL;
}

struct vfs_wait {
	struct nf_completion done;
	int error;
};

static inline void vfs_done(struct nf_call *c, int error)
{
	struct vfs_wait *w = c->owner;
	w->error = error;
	nf_completion_set(&w->done);
}

/* Runs one call to its end; returns its code. */
static inline int vfs_call(struct vfs *m, struct nf_call *c)
{
	struct vfs_wait w;

	/* Twice: a test that lets an allocation fail does not mean this one. */
	ck_assert(nf_completion_init(&w.done) == 0 || nf_completion_init(&w.done) == 0);
	c->owner = &w;
	c->done = vfs_done;
	m->fs->ops->submit(m->fs, c);
	nf_completion_wait(&w.done);
	nf_completion_deinit(&w.done);
	free(c->kept);
	c->kept = NULL;
	return w.error;
}

static inline int vfs_lookup(struct vfs *m, uint64_t dir, const char *name, uint64_t *ino)
{
	struct nf_call c = { .op = NF_CALL_LOOKUP, .ino = dir };
	snprintf(c.name, sizeof c.name, "%s", name);
	int r = vfs_call(m, &c);
	if (r == 0 && c.attr.ino == 0)
		r = -ENOENT;
	if (r == 0)
		*ino = c.attr.ino;
	return r;
}

/* The directory of PATH and the last name; the inode of PATH if it exists (0 if not). */
static inline int vfs_walk(struct vfs *m, const char *path, uint64_t *dir, char last[256], uint64_t *ino)
{
	*dir = 1;
	*ino = 1;
	last[0] = '\0';
	for (;;) {
		path += strspn(path, "/");
		size_t n = strcspn(path, "/");
		if (n == 0)
			return 0;
		*dir = *ino;
		snprintf(last, 256, "%.*s", (int)n, path);
		path += n;
		int r = vfs_lookup(m, *dir, last, ino);
		if (r == -ENOENT && path[strspn(path, "/")] == '\0') {
			*ino = 0;
			return 0;
		}
		if (r < 0)
			return r;
	}
}

static inline int vfs_open(struct vfs *m, const char *path, int flags, uint32_t mode, struct nf_open_file **f,
			   uint64_t *ino_out)
{
	uint64_t dir, ino;
	struct nf_call c = { .mode = mode, .flags = (uint32_t)flags };
	int r = vfs_walk(m, path, &dir, c.name, &ino);
	if (r < 0)
		return r;
	if (!ino && !(flags & O_CREAT))
		return -ENOENT;
	c.op = ino ? NF_CALL_OPEN : NF_CALL_CREATE;
	c.ino = ino ? ino : dir;
	r = vfs_call(m, &c);
	if (r < 0)
		return r;
	*f = c.file;
	if (ino_out)
		*ino_out = ino ? ino : c.attr.ino;
	return 0;
}

static inline void vfs_close(struct vfs *m, struct nf_open_file *f, uint64_t ino)
{
	struct nf_call c = { .op = NF_CALL_RELEASE, .ino = ino, .file = f };
	ck_assert_int_eq(vfs_call(m, &c), 0);
}

static inline int vfs_pwrite(struct vfs *m, struct nf_open_file *f, uint64_t ino, const void *p, size_t len,
			     uint64_t off)
{
	struct nf_call c = { .op = NF_CALL_WRITE, .ino = ino, .file = f, .offset = off, .size = len, .data = p };
	int r = vfs_call(m, &c);
	if (r == 0)
		ck_assert_uint_eq(c.count, len);
	return r;
}

static inline int vfs_pread(struct vfs *m, struct nf_open_file *f, uint64_t ino, void *p, size_t len,
			    uint64_t off, size_t *got)
{
	struct nf_call c = { .op = NF_CALL_READ, .ino = ino, .file = f, .offset = off, .size = len };
	int r = vfs_call(m, &c);
	size_t n = 0;
	if (r < 0)
		return r;
	for (int i = 0; i < c.nr_iov; i++) {
		nf_copy_unordered((char *)p + n, c.iov[i].iov_base, c.iov[i].iov_len);
		n += c.iov[i].iov_len;
	}
	ck_assert_uint_eq(n, c.count);
	if (c.release)
		c.release(&c);
	*got = n;
	return 0;
}

static inline int vfs_fsync(struct vfs *m, struct nf_open_file *f, uint64_t ino)
{
	struct nf_call c = { .op = NF_CALL_FSYNC, .ino = ino, .file = f };
	return vfs_call(m, &c);
}

/* Replaces the file's content. */
static inline int vfs_put(struct vfs *m, const char *path, const void *p, size_t len)
{
	struct nf_open_file *f;
	uint64_t ino;
	int r = vfs_open(m, path, O_RDWR | O_CREAT | O_TRUNC, 0644, &f, &ino);
	if (r < 0)
		return r;
	for (size_t at = 0; r == 0 && at < len; at += 1 << 20)
		r = vfs_pwrite(m, f, ino, (const char *)p + at, len - at < (1 << 20) ? len - at : 1 << 20, at);
	vfs_close(m, f, ino);
	return r;
}

static inline int vfs_puts(struct vfs *m, const char *path, const char *text)
{
	return vfs_put(m, path, text, strlen(text));
}

/* Compares a file's whole content; the code of what failed, or -EILSEQ if it differs. */
static inline int vfs_check(struct vfs *m, const char *path, const void *p, size_t len)
{
	struct nf_open_file *f;
	uint64_t ino;
	size_t got = 0, at = 0;
	char *buf = malloc(len + 4096);
	int r = vfs_open(m, path, O_RDONLY, 0, &f, &ino);
	if (r < 0) {
		free(buf);
		return r;
	}
	while (r == 0 && at < len + 1) {
		size_t want = len + 1 - at < (1 << 20) ? len + 1 - at : 1 << 20;
		r = vfs_pread(m, f, ino, buf + at, want, at, &got);
		at += got;
		if (got == 0)
			break;
	}
	vfs_close(m, f, ino);
	if (r == 0 && (at != len || memcmp(buf, p, len)))
		r = -EILSEQ;
	free(buf);
	return r;
}

static inline int vfs_checks(struct vfs *m, const char *path, const char *text)
{
	return vfs_check(m, path, text, strlen(text));
}

/* By reference where that can be. */
static inline void vfs_copy_range(struct vfs *m, const char *from, const char *to, uint64_t src, uint64_t dst,
				  uint64_t len, uint64_t expected)
{
	struct nf_open_file *f, *t;
	uint64_t ino, ino_t;

	ck_assert_int_eq(vfs_open(m, from, O_RDONLY, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_open(m, to, O_RDWR | O_CREAT, 0644, &t, &ino_t), 0);
	struct nf_call c = { .op = NF_CALL_COPY_RANGE, .ino = ino, .file = f, .ino2 = ino_t, .file2 = t, .offset = src,
			     .offset2 = dst, .size = len };
	ck_assert_int_eq(vfs_call(m, &c), 0);
	ck_assert_uint_eq(c.count, expected);
	vfs_close(m, f, ino);
	vfs_close(m, t, ino_t);
}

static inline int vfs_mkdir(struct vfs *m, const char *path)
{
	uint64_t dir, ino;
	struct nf_call c = { .op = NF_CALL_MKDIR, .mode = 0755 };
	int r = vfs_walk(m, path, &dir, c.name, &ino);
	c.ino = dir;
	return r < 0 ? r : vfs_call(m, &c);
}

static inline int vfs_unlink(struct vfs *m, const char *path, bool is_dir)
{
	uint64_t dir, ino;
	struct nf_call c = { .op = is_dir ? NF_CALL_RMDIR : NF_CALL_UNLINK };
	int r = vfs_walk(m, path, &dir, c.name, &ino);
	c.ino = dir;
	return r < 0 ? r : vfs_call(m, &c);
}

static inline int vfs_rename(struct vfs *m, const char *from, const char *to)
{
	uint64_t ino;
	struct nf_call c = { .op = NF_CALL_RENAME };
	int r = vfs_walk(m, from, &c.ino, c.name, &ino);
	if (r == 0)
		r = vfs_walk(m, to, &c.ino2, c.name2, &ino);
	return r < 0 ? r : vfs_call(m, &c);
}

static inline int vfs_truncate(struct vfs *m, const char *path, uint64_t size)
{
	uint64_t dir, ino;
	char last[256];
	struct nf_call c = { .op = NF_CALL_SETATTR, .mask = NF_SET_SIZE, .attr.size_bytes = size };
	int r = vfs_walk(m, path, &dir, last, &ino);
	c.ino = ino;
	return r < 0 ? r : vfs_call(m, &c);
}

struct vfs_names {
	char name[4096][64];
	size_t nr;
};

static inline bool vfs_fill(struct nf_call *c, const char *name, size_t len, uint64_t ino, uint32_t mode,
			    const struct nf_attr *attr, uint64_t cookie)
{
	struct vfs_names *n = (void *)(uintptr_t)c->lock_owner;
	(void)ino;
	(void)mode;
	(void)attr;
	(void)cookie;
	if (n->nr < 4096)
		snprintf(n->name[n->nr++], 64, "%.*s", (int)len, name);
	return true;
}

/* Names of a directory, "." and ".." left out. */
static inline size_t vfs_ls(struct vfs *m, const char *path, struct vfs_names *out)
{
	uint64_t dir, ino;
	char last[256];
	ck_assert_int_eq(vfs_walk(m, path, &dir, last, &ino), 0);
	struct nf_call o = { .op = NF_CALL_OPENDIR, .ino = ino };
	ck_assert_int_eq(vfs_call(m, &o), 0);
	out->nr = 0;
	struct nf_call c = { .op = NF_CALL_READDIR, .ino = ino, .file = o.file, .fill = vfs_fill, .want_attrs = true,
			     .size = 1 << 20, .lock_owner = (uint64_t)(uintptr_t)out };
	ck_assert_int_eq(vfs_call(m, &c), 0);
	struct nf_call e = { .op = NF_CALL_RELEASEDIR, .ino = ino, .file = o.file };
	ck_assert_int_eq(vfs_call(m, &e), 0);
	size_t k = 0;
	for (size_t i = 0; i < out->nr; i++)
		if (strcmp(out->name[i], ".") && strcmp(out->name[i], ".."))
			memmove(out->name[k++], out->name[i], 64);
	return out->nr = k;
}

static inline void vfs_report(void *ctx, const char *line)
{
	(void)ctx;
	fprintf(stderr, "check: %s\n", line);
}

/* Problems that nf_vault_check() finds, blocks included. */
static inline uint64_t vfs_problems(struct vfs *m)
{
	struct nf_check_options o = { .read_data = true, .report = vfs_report };
	struct nf_check_result r;
	ck_assert_int_eq(nf_vault_check(m->v, &o, &r), 0);
	return r.problems;
}

static inline int vfs_sync(struct vfs *m) { return nf_vault_sync(m->v, NULL); }
static inline int vfs_refresh(struct vfs *m) { return nf_vault_refresh(m->v); }

#endif
