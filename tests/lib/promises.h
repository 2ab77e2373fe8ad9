/* tests/lib/promises.h - what a program did to a vault, what it was promised, and whether a vault found later keeps that.
 *
 *	pw_write(w, "/d/f", 0, 5000); pw_fsync(w, "/d/f"); pw_rename(w, "/d/f", "/g"); ...
 *	pw_check(w, &m, n)       M is what was left when the disk was cut at its operation N
 *
 * Every operation is done on the vault and noted, with the number of disk operations at its beginning; a promise is an fsync or a
 * sync that returned, with the number at its return.  After a cut (docs/architecture.md, "The life of a write"):
 *
 *   operations on names and attributes          a prefix of all there were: K of them
 *   a file's writes, truncations and holes      a prefix, none later than K
 *   what took the place of another name by      has all it had at that moment
 *   rename, or got a further name by link
 *   what an fsync or sync covered               is there
 */
#ifndef NF_TESTS_PROMISES_H
#define NF_TESTS_PROMISES_H

#include "aio/file_crash.h"
#include "base/random.h"
#include "vfs.h"

#include <inttypes.h>
#include <linux/falloc.h>

enum { PW_PATHS = 160, PW_OPS = 1500, PW_PROMISES = 1500, PW_FILE_MAX = 4 << 20, PW_ALL = -1 };

enum pw_kind { PW_CREATE, PW_MKDIR, PW_LINK, PW_UNLINK, PW_RMDIR, PW_RENAME, PW_CHMOD, PW_WRITE, PW_TRUNCATE, PW_PUNCH };

struct pw_op {
	enum pw_kind kind;
	int path, path2;     /* numbers of names; -1 */
	int ino;             /* the model's; of data operations, and of what is made */
	uint64_t offset, len;
	uint32_t mode;
	char *data;
	uint64_t at;         /* disk operations before it began */
};

struct pw_promise {
	uint64_t at;         /* disk operations when it was made */
	int upto;            /* operations it covers */
	int ino;             /* whose data; PW_ALL */
};

struct pw {
	struct vfs m;
	struct nf_crash *disk;
	struct nf_prng rng;
	char paths[PW_PATHS][64];
	int nr_paths;
	int now[PW_PATHS];       /* inode by name; -1 */
	bool is_dir[PW_PATHS];
	struct pw_op ops[PW_OPS];
	int nr_ops, nr_inos;
	struct pw_promise promises[PW_PROMISES];
	int nr_promises;
	struct {
		uint64_t at;     /* 0: never made */
		int upto;
	} snapshot;
	uint64_t formatted_at;   /* the vault was there */
	bool may_fail;           /* the disk may be full: what stores may fail, and then promises nothing */
	int nr_failed;
};

/* --- doing and noting ------------------------------------------------------------------ */

static inline int pw_path(struct pw *w, const char *path)
{
	for (int i = 0; i < w->nr_paths; i++)
		if (!strcmp(w->paths[i], path))
			return i;
	ck_assert_int_lt(w->nr_paths, PW_PATHS);
	snprintf(w->paths[w->nr_paths], sizeof w->paths[0], "%.60s", path);
	w->now[w->nr_paths] = -1;
	return w->nr_paths++;
}

static inline struct pw_op *pw_note(struct pw *w, enum pw_kind kind, const char *path, const char *path2)
{
	ck_assert_int_lt(w->nr_ops, PW_OPS);
	struct pw_op *op = &w->ops[w->nr_ops++];
	*op = (struct pw_op){ .kind = kind, .path = path ? pw_path(w, path) : -1, .path2 = path2 ? pw_path(w, path2) : -1,
			      .ino = path ? w->now[pw_path(w, path)] : -1, .at = nf_crash_nr_ops(w->disk) };
	return op;
}

static inline void pw_promise(struct pw *w, int ino)
{
	ck_assert_int_lt(w->nr_promises, PW_PROMISES);
	w->promises[w->nr_promises++] =
		(struct pw_promise){ .at = nf_crash_nr_ops(w->disk), .upto = w->nr_ops, .ino = ino };
}

/* Did what returned R succeed, as it must where the disk is not full? */
static inline bool pw_did(struct pw *w, int r)
{
	if (r < 0 && w->may_fail) {
		w->nr_failed++;
		return false;
	}
	ck_assert_int_eq(r, 0);
	return true;
}

static inline struct nf_open_file *pw_open(struct pw *w, const char *path, uint64_t *ino)
{
	struct nf_open_file *f;

	int p = pw_path(w, path);
	if (w->now[p] < 0) {
		struct pw_op *op = pw_note(w, PW_CREATE, path, NULL);
		op->ino = w->now[p] = w->nr_inos++;
	}
	ck_assert_int_eq(vfs_open(&w->m, path, O_RDWR | O_CREAT, 0644, &f, ino), 0);
	return f;
}

/* LEN bytes at OFFSET, made if it is not there. */
static inline void pw_write(struct pw *w, const char *path, uint64_t offset, size_t len)
{
	uint64_t ino;
	struct nf_open_file *f = pw_open(w, path, &ino);
	struct pw_op *op = pw_note(w, PW_WRITE, path, NULL);

	op->offset = offset;
	op->len = len;
	op->data = malloc(len);
	bool packs = nf_prng_below(&w->rng, 3) == 0;
	for (size_t i = 0; i < len; i++)
		op->data[i] = packs ? (char)('a' + (i + (size_t)w->nr_ops) % 11) : (char)nf_prng_next(&w->rng);
	for (size_t at = 0; at < len; at += 1 << 17)
		ck_assert_int_eq(vfs_pwrite(&w->m, f, ino, op->data + at, NF_MIN(len - at, (size_t)1 << 17), offset + at), 0);
	vfs_close(&w->m, f, ino);
}

static inline void pw_fsync(struct pw *w, const char *path)
{
	uint64_t ino;
	struct nf_open_file *f;

	ck_assert_int_eq(vfs_open(&w->m, path, O_RDWR, 0, &f, &ino), 0);
	if (pw_did(w, vfs_fsync(&w->m, f, ino)))
		pw_promise(w, w->now[pw_path(w, path)]);
	vfs_close(&w->m, f, ino);
}

static inline void pw_fsync_dir(struct pw *w, const char *path)
{
	uint64_t dir, ino;
	char last[256];

	ck_assert_int_eq(vfs_walk(&w->m, path, &dir, last, &ino), 0);
	struct nf_call o = { .op = NF_CALL_OPENDIR, .ino = ino };
	ck_assert_int_eq(vfs_call(&w->m, &o), 0);
	struct nf_call c = { .op = NF_CALL_FSYNCDIR, .ino = ino, .file = o.file };
	int r = vfs_call(&w->m, &c);
	struct nf_call e = { .op = NF_CALL_RELEASEDIR, .ino = ino, .file = o.file };
	ck_assert_int_eq(vfs_call(&w->m, &e), 0);
	/* Names and attributes only: no file's data. */
	if (pw_did(w, r))
		pw_promise(w, -2);
}

static inline void pw_sync(struct pw *w)
{
	if (pw_did(w, vfs_sync(&w->m)))
		pw_promise(w, PW_ALL);
}

static inline void pw_mkdir(struct pw *w, const char *path)
{
	struct pw_op *op = pw_note(w, PW_MKDIR, path, NULL);

	op->ino = w->now[op->path] = w->nr_inos++;
	w->is_dir[op->path] = true;
	ck_assert_int_eq(vfs_mkdir(&w->m, path), 0);
}

static inline void pw_unlink(struct pw *w, const char *path)
{
	if (w->may_fail && w->now[pw_path(w, path)] < 0)
		return;
	struct pw_op *op = pw_note(w, PW_UNLINK, path, NULL);

	w->now[op->path] = -1;
	ck_assert_int_eq(vfs_unlink(&w->m, path, false), 0);
}

static inline void pw_rmdir(struct pw *w, const char *path)
{
	struct pw_op *op = pw_note(w, PW_RMDIR, path, NULL);

	w->now[op->path] = -1;
	ck_assert_int_eq(vfs_unlink(&w->m, path, true), 0);
}

static inline void pw_rename(struct pw *w, const char *from, const char *to)
{
	struct pw_op *op = pw_note(w, PW_RENAME, from, to);

	if (!pw_did(w, vfs_rename(&w->m, from, to))) {
		w->nr_ops--;
		return;
	}
	w->now[op->path2] = w->now[op->path];
	w->now[op->path] = -1;
}

static inline void pw_link(struct pw *w, const char *from, const char *to)
{
	struct pw_op *op = pw_note(w, PW_LINK, from, to);
	uint64_t dir, ino, old;
	char last[256];

	ck_assert_int_eq(vfs_walk(&w->m, from, &dir, last, &old), 0);
	struct nf_call c = { .op = NF_CALL_LINK, .ino = old };
	ck_assert_int_eq(vfs_walk(&w->m, to, &dir, last, &ino), 0);
	c.ino2 = dir;
	snprintf(c.name2, sizeof c.name2, "%s", last);
	if (pw_did(w, vfs_call(&w->m, &c)))
		w->now[op->path2] = w->now[op->path];
	else
		w->nr_ops--;
}

static inline void pw_chmod(struct pw *w, const char *path, uint32_t mode)
{
	struct pw_op *op = pw_note(w, PW_CHMOD, path, NULL);
	uint64_t dir, ino;
	char last[256];

	op->mode = mode;
	ck_assert_int_eq(vfs_walk(&w->m, path, &dir, last, &ino), 0);
	struct nf_call c = { .op = NF_CALL_SETATTR, .ino = ino, .mask = NF_SET_MODE, .attr.mode = mode };
	ck_assert_int_eq(vfs_call(&w->m, &c), 0);
}

static inline void pw_truncate(struct pw *w, const char *path, uint64_t size)
{
	struct pw_op *op = pw_note(w, PW_TRUNCATE, path, NULL);

	op->offset = size;
	ck_assert_int_eq(vfs_truncate(&w->m, path, size), 0);
}

static inline void pw_punch(struct pw *w, const char *path, uint64_t offset, uint64_t len)
{
	uint64_t ino;
	struct nf_open_file *f = pw_open(w, path, &ino);
	struct pw_op *op = pw_note(w, PW_PUNCH, path, NULL);

	op->offset = offset;
	op->len = len;
	struct nf_call c = { .op = NF_CALL_FALLOCATE, .ino = ino, .file = f, .offset = offset, .size = len,
			     .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
	ck_assert_int_eq(vfs_call(&w->m, &c), 0);
	vfs_close(&w->m, f, ino);
}

static inline void pw_snapshot(struct pw *w, const char *name)
{
	w->snapshot.upto = w->nr_ops;
	ck_assert_int_eq(nf_vault_snapshot_create(w->m.v, name, NULL), 0);
	pw_promise(w, PW_ALL);
	w->snapshot.at = nf_crash_nr_ops(w->disk);
}

static inline void pw_deinit(struct pw *w)
{
	for (int i = 0; i < w->nr_ops; i++)
		free(w->ops[i].data);
}

/* --- looking ------------------------------------------------------------------------------ */

struct pw_seen {
	bool there[PW_PATHS];
	uint64_t ino[PW_PATHS];
	uint32_t mode[PW_PATHS], nlink[PW_PATHS];
	uint64_t size[PW_PATHS];
	char *data[PW_PATHS];  /* NULL: a directory, or it could not be read */
	int unread;            /* files that could not be read: the store is away */
	char wrong[200];       /* not empty: what is wrong by itself */
	int k;                 /* found by pw_check() */
};

static inline void pw_seen_deinit(struct pw_seen *s)
{
	for (int i = 0; i < PW_PATHS; i++)
		free(s->data[i]);
}

static inline bool pw_is_away(int r) { return r == -NF_E_OFFLINE || r == -NF_E_TIMEOUT; }

static inline void pw_look_file(struct pw_seen *s, struct vfs *m, int p, const char *path)
{
	struct nf_open_file *f;
	uint64_t ino;
	size_t got = 0;

	int r = vfs_open(m, path, O_RDONLY, 0, &f, &ino);
	if (r < 0) {
		if (!pw_is_away(r))
			snprintf(s->wrong, sizeof s->wrong, "open %.60s: %s", path, nf_error_name(r));
		s->unread += pw_is_away(r);
		return;
	}
	s->data[p] = malloc(s->size[p] + 1);
	for (size_t at = 0; r == 0 && at <= s->size[p]; at += got) {
		r = vfs_pread(m, f, ino, s->data[p] + at, NF_MIN(s->size[p] + 1 - at, (size_t)1 << 20), at, &got);
		if (r == 0 && got == 0 && at < s->size[p])
			snprintf(s->wrong, sizeof s->wrong, "%.60s ends at %zu, not at %" PRIu64, path, at, s->size[p]);
		if (got == 0)
			break;
	}
	vfs_close(m, f, ino);
	if (r < 0) {
		free(s->data[p]);
		s->data[p] = NULL;
		s->unread++;
		if (!pw_is_away(r))
			snprintf(s->wrong, sizeof s->wrong, "read %.60s: %s", path, nf_error_name(r));
	}
}

/* As vfs_ls(), of a vault that may be without its store. */
static inline int pw_list(struct vfs *m, const char *path, struct vfs_names *out)
{
	uint64_t dir, ino;
	char last[256];

	int r = vfs_walk(m, path, &dir, last, &ino);
	struct nf_call o = { .op = NF_CALL_OPENDIR, .ino = ino };
	out->nr = 0;
	if (r == 0)
		r = vfs_call(m, &o);
	if (r < 0)
		return r;
	struct nf_call c = { .op = NF_CALL_READDIR, .ino = ino, .file = o.file, .fill = vfs_fill, .size = 1 << 20,
			     .lock_owner = (uint64_t)(uintptr_t)out };
	r = vfs_call(m, &c);
	struct nf_call e = { .op = NF_CALL_RELEASEDIR, .ino = ino, .file = o.file };
	ck_assert_int_eq(vfs_call(m, &e), 0);
	size_t k = 0;
	for (size_t i = 0; i < out->nr; i++)
		if (strcmp(out->name[i], ".") && strcmp(out->name[i], ".."))
			memmove(out->name[k++], out->name[i], 64);
	out->nr = k;
	return r;
}

static inline void pw_look_dir(struct pw *w, struct pw_seen *s, struct vfs *m, const char *dir)
{
	struct vfs_names *names = malloc(sizeof *names);
	char path[400];

	int e = pw_list(m, dir, names);
	if (e < 0) {
		s->unread += pw_is_away(e);
		if (!pw_is_away(e))
			snprintf(s->wrong, sizeof s->wrong, "%.60s: %s", dir, nf_error_name(e));
		names->nr = 0;
	}
	for (size_t i = 0; i < names->nr && !*s->wrong; i++) {
		snprintf(path, sizeof path, "%s/%s", strcmp(dir, "/") ? dir : "", names->name[i]);
		int p = pw_path(w, path);
		uint64_t up, ino;
		char last[256];
		struct nf_call c = { .op = NF_CALL_GETATTR };
		int r = vfs_walk(m, path, &up, last, &ino);
		c.ino = ino;
		if (r == 0)
			r = vfs_call(m, &c);
		if (r < 0 && pw_is_away(r)) {
			s->unread++;
			continue;
		}
		if (r < 0) {
			snprintf(s->wrong, sizeof s->wrong, "%.60s: %s", path, nf_error_name(r));
			break;
		}
		s->there[p] = true;
		s->ino[p] = c.attr.ino;
		s->mode[p] = c.attr.mode;
		s->nlink[p] = c.attr.nlink;
		s->size[p] = c.attr.size_bytes;
		if (S_ISDIR(c.attr.mode))
			pw_look_dir(w, s, m, path);
		else
			pw_look_file(s, m, p, path);
	}
	free(names);
}

static inline struct pw_seen *pw_look(struct pw *w, struct vfs *m)
{
	struct pw_seen *s = calloc(1, sizeof *s);

	/* The first access may find that the store is away. */
	struct nf_call c = { .op = NF_CALL_GETATTR, .ino = 1 };
	int r = vfs_call(m, &c);
	if (r < 0) {
		s->unread += pw_is_away(r);
		if (!pw_is_away(r))
			snprintf(s->wrong, sizeof s->wrong, "/: %s", nf_error_name(r));
	} else {
		pw_look_dir(w, s, m, "/");
	}
	return s;
}

static inline bool pw_same(const struct pw *w, const struct pw_seen *a, const struct pw_seen *b)
{
	for (int p = 0; p < w->nr_paths; p++) {
		if (a->there[p] != b->there[p])
			return false;
		if (!a->there[p])
			continue;
		if (a->ino[p] != b->ino[p] || a->mode[p] != b->mode[p] || a->nlink[p] != b->nlink[p])
			return false;
		if (S_ISDIR(a->mode[p]))
			continue;
		if (a->size[p] != b->size[p] || !a->data[p] || !b->data[p] || memcmp(a->data[p], b->data[p], a->size[p]))
			return false;
	}
	return true;
}

/* --- comparing ---------------------------------------------------------------------------- */

struct pw_names {
	int ino[PW_PATHS];            /* -1 */
	bool is_dir[PW_PATHS];        /* by inode number below */
	uint32_t mode[PW_OPS];        /* by inode */
	int links[PW_OPS];
	int needs[PW_OPS];            /* by inode: writes before this one are in its content */
};

static inline void pw_names_apply(struct pw_names *n, const struct pw_op *op, int at)
{
	switch (op->kind) {
	case PW_CREATE:
	case PW_MKDIR:
		n->ino[op->path] = op->ino;
		n->is_dir[op->path] = op->kind == PW_MKDIR;
		n->mode[op->ino] = op->kind == PW_MKDIR ? 0755 : 0644;
		n->links[op->ino] = 1;
		break;
	case PW_LINK:
		n->ino[op->path2] = n->ino[op->path];
		n->is_dir[op->path2] = false;
		n->links[n->ino[op->path]]++;
		n->needs[n->ino[op->path]] = at;
		break;
	case PW_UNLINK:
	case PW_RMDIR:
		n->links[n->ino[op->path]]--;
		n->ino[op->path] = -1;
		break;
	case PW_RENAME:
		if (n->ino[op->path2] >= 0) {
			n->links[n->ino[op->path2]]--;
			n->needs[n->ino[op->path]] = at;
		}
		n->ino[op->path2] = n->ino[op->path];
		n->is_dir[op->path2] = n->is_dir[op->path];
		n->ino[op->path] = -1;
		break;
	case PW_CHMOD:
		n->mode[n->ino[op->path]] = op->mode;
		break;
	case PW_WRITE:
	case PW_TRUNCATE:
	case PW_PUNCH:
		break;
	}
}

static inline const char *pw_names_differ(const struct pw *w, const struct pw_names *n, const struct pw_seen *s)
{
	uint64_t is[PW_OPS] = { 0 };

	for (int p = 0; p < w->nr_paths; p++) {
		if ((n->ino[p] >= 0) != s->there[p])
			return w->paths[p];
		if (!s->there[p])
			continue;
		int ino = n->ino[p];
		if (n->is_dir[p] != S_ISDIR(s->mode[p]) || (s->mode[p] & 07777) != n->mode[ino])
			return w->paths[p];
		if (!n->is_dir[p] && s->nlink[p] != (uint32_t)n->links[ino])
			return w->paths[p];
		if (is[ino] && is[ino] != s->ino[p])
			return w->paths[p];
		is[ino] = s->ino[p];
	}
	return NULL;
}

/* The content of INO after what was done to it before J.  The caller's buffer of PW_FILE_MAX; returns the size. */
static inline uint64_t pw_content(const struct pw *w, int ino, int j, char *buf)
{
	uint64_t size = 0;

	for (int i = 0; i < j; i++) {
		const struct pw_op *op = &w->ops[i];
		if (op->ino != ino)
			continue;
		if (op->kind == PW_WRITE) {
			if (op->offset > size)
				memset(buf + size, 0, op->offset - size);
			memcpy(buf + op->offset, op->data, op->len);
			size = NF_MAX(size, op->offset + op->len);
		} else if (op->kind == PW_TRUNCATE) {
			if (op->offset > size)
				memset(buf + size, 0, op->offset - size);
			size = op->offset;
		} else if (op->kind == PW_PUNCH && op->offset < size) {
			memset(buf + op->offset, 0, NF_MIN(op->len, size - op->offset));
		}
	}
	return size;
}

static inline bool pw_content_is(const struct pw *w, const struct pw_seen *s, int p, int ino, int jmin, int k)
{
	static char *buf;

	if (!buf)
		buf = malloc(PW_FILE_MAX);
	for (int j = jmin; j <= k; j++) {
		bool new = j == jmin || (w->ops[j - 1].ino == ino && w->ops[j - 1].kind >= PW_WRITE);
		if (new && pw_content(w, ino, j, buf) == s->size[p] && !memcmp(buf, s->data[p], s->size[p]))
			return true;
	}
	return false;
}

static inline const char *pw_contents_differ(const struct pw *w, const struct pw_names *n, const struct pw_seen *s,
					     const int *jmin, int k)
{
	for (int p = 0; p < w->nr_paths; p++) {
		if (n->ino[p] < 0 || n->is_dir[p] || !s->data[p])
			continue;
		int ino = n->ino[p], from = NF_MAX(jmin[ino], n->needs[ino]);
		if (!pw_content_is(w, s, p, ino, NF_MIN(k, from), k))
			return w->paths[p];
	}
	return NULL;
}

/* Is S the state after operations [.., k) for a k of [kmin, kmax], with each file's writes before jmin[inode]?  "" or what is not. */
static inline void pw_compare(const struct pw *w, struct pw_seen *s, const int *jmin, int kmin, int kmax, char out[300])
{
	struct pw_names *n = calloc(1, sizeof *n);

	out[0] = '\0';
	for (int p = 0; p < PW_PATHS; p++)
		n->ino[p] = -1;
	for (int k = 0; k <= kmax; k++) {
		if (k)
			pw_names_apply(n, &w->ops[k - 1], k - 1);
		if (k < kmin)
			continue;
		const char *what = pw_names_differ(w, n, s), *how = "name";
		if (!what) {
			what = pw_contents_differ(w, n, s, jmin, k);
			how = "content";
		}
		if (!what) {
			s->k = k;
			out[0] = '\0';
			break;
		}
		size_t len = strlen(out);
		if (len < 240)
			snprintf(out + len, 300 - len, " [%d: %s %.40s]", k, how, what);
	}
	free(n);
}

/* What the promises made before disk operation N demand of S. */
static inline void pw_check(struct pw *w, struct pw_seen *s, uint64_t n, char out[300])
{
	int jmin[PW_OPS] = { 0 }, kmin = 0, kmax = 0;

	if (*s->wrong) {
		snprintf(out, 300, "%s", s->wrong);
		return;
	}
	for (int i = 0; i < w->nr_promises; i++) {
		const struct pw_promise *p = &w->promises[i];
		if (p->at > n)
			break;
		kmin = NF_MAX(kmin, p->upto);
		for (int ino = 0; ino < w->nr_inos; ino++)
			if (p->ino == PW_ALL || p->ino == ino)
				jmin[ino] = p->upto;
	}
	while (kmax < w->nr_ops && w->ops[kmax].at <= n)
		kmax++;
	pw_compare(w, s, jmin, kmin, kmax, out);
}

/* Exactly the state after the first K operations. */
static inline void pw_check_exactly(struct pw *w, struct pw_seen *s, int k, char out[300])
{
	int jmin[PW_OPS];

	if (*s->wrong) {
		snprintf(out, 300, "%s", s->wrong);
		return;
	}
	for (int i = 0; i < PW_OPS; i++)
		jmin[i] = k;
	pw_compare(w, s, jmin, k, k, out);
}

#endif
