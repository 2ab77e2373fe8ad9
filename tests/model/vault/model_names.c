/* Random operations on names, and the machine going away in the middle, against a plain model.
 *
 *   names        files, directories, hard and symbolic links, exchanges, nameless and open files whose name went:
 *                every call's code is compared, and after each stretch the whole tree
 *   kill         the journal and state of one moment, mounted elsewhere: operations are all there up to the last
 *                fsync, what was fsynced reads right
 *   conflicts    machines that change the same files: every version is found somewhere
 *   harm         the same with machines that stop, cuts at any time and heads sent without a look before; the store is
 *                checked again and again
 *   at once      machines with a committer each, on threads of their own
 *
 * NF_SEED replays a seed, NF_STEPS sets the number of steps. */
#include "base/random.h"
#include "vault/commit.h"
#include "squash.h"
#include "vfs.h"

#include <inttypes.h>
#include <pthread.h>

enum { NODES = 400, NAMES = 6, TEXT = 24 };

enum kind { NONE, FILE_, DIR_, LINK_ };

/* An inode of the model; entries of directories are by name number. */
struct node {
	enum kind kind;
	int nlink;
	int up;              /* of a directory */
	int entry[NAMES];    /* of a directory: node, 0 none */
	char text[TEXT];     /* content or target */
	char attr[TEXT];     /* user.a; empty: none */
	uint32_t mode;
	uint64_t ino;
	struct nf_open_file *open;
	bool dirty;          /* not fsynced since it was written */
};

struct world {
	struct vfs_site site;
	struct vfs m;
	struct nf_prng rng;
	uint64_t seed;
	struct node n[NODES];
	int used;
	char name[32];
	unsigned restarts;
};

static uint64_t below(struct world *w, uint64_t n) { return nf_prng_below(&w->rng, n); }

static uint64_t seed_of(int i)
{
	const char *s = getenv("NF_SEED");
	uint64_t x;
	if (s)
		return strtoull(s, NULL, 0);
	nf_random(&x, sizeof x);
	return x % 1000000 * 16 + (uint64_t)i;
}

static unsigned steps_of(unsigned usual)
{
	const char *s = getenv("NF_STEPS");
	return s ? (unsigned)atoi(s) : usual;
}

#define SAME(w, got, want)                                                                                          \
	do {                                                                                                        \
		int got_ = (got), want_ = (want);                                                                   \
		if (got_ != want_)                                                                                  \
			ck_abort_msg("seed %" PRIu64 " line %d: %s, expected %s", (w)->seed, __LINE__,              \
				     nf_error_name(got_), nf_error_name(want_));                                    \
	} while (0)

static int some_dir(struct world *w)
{
	for (int t = 0; t < 20; t++) {
		int i = 1 + (int)below(w, (uint64_t)w->used);
		if (w->n[i].kind == DIR_ && w->n[i].nlink > 0)
			return i;
	}
	return 1;
}

static void name_of(int k, char *out) { sprintf(out, "n%d", k); }

static int new_node(struct world *w, enum kind kind, uint64_t ino)
{
	int i = w->used + 1;
	if (i >= NODES)
		return 0;
	w->used = i;
	w->n[i] = (struct node){ .kind = kind, .nlink = 1, .ino = ino };
	return i;
}

static bool is_above(struct world *w, int a, int b)
{
	for (; b != 1; b = w->n[b].up)
		if (b == a)
			return true;
	return a == 1;
}

static bool is_empty(const struct node *d)
{
	for (int k = 0; k < NAMES; k++)
		if (d->entry[k])
			return false;
	return true;
}

static void close_node(struct world *w, int i)
{
	struct node *f = &w->n[i];
	if (f->open)
		vfs_close(&w->m, f->open, f->ino);
	f->open = NULL;
}

static void do_make(struct world *w)
{
	int d = some_dir(w), k = (int)below(w, NAMES);
	enum kind kind = (enum kind)(1 + below(w, 3));
	struct nf_call c = { .ino = w->n[d].ino, .mode = 0755 };

	if (w->used + 1 >= NODES)
		return;
	c.op = kind == FILE_ ? NF_CALL_MKNOD : kind == DIR_ ? NF_CALL_MKDIR : NF_CALL_SYMLINK;
	if (kind == FILE_)
		c.mode = S_IFREG | 0755;
	if (kind == LINK_)
		sprintf(c.name2, "to %d", (int)below(w, 1000));
	name_of(k, c.name);
	int r = vfs_call(&w->m, &c);
	SAME(w, r, w->n[d].entry[k] ? -EEXIST : 0);
	if (r < 0)
		return;
	int i = new_node(w, kind, c.attr.ino);
	w->n[d].entry[k] = i;
	w->n[i].up = d;
	w->n[i].mode = 0755;
	if (kind == LINK_)
		strcpy(w->n[i].text, c.name2);
}

static void do_tmpfile(struct world *w)
{
	int d = some_dir(w), k = (int)below(w, NAMES);
	struct nf_call t = { .op = NF_CALL_TMPFILE, .ino = w->n[d].ino, .mode = 0755, .flags = O_RDWR };

	if (w->used + 1 >= NODES)
		return;
	SAME(w, vfs_call(&w->m, &t), 0);
	SAME(w, vfs_pwrite(&w->m, t.file, t.attr.ino, "nameless", 8, 0), 0);
	struct nf_call c = { .op = NF_CALL_LINK, .ino = t.attr.ino, .ino2 = w->n[d].ino };
	name_of(k, c.name2);
	int r = vfs_call(&w->m, &c);
	SAME(w, r, w->n[d].entry[k] ? -EEXIST : 0);
	if (r == 0) {
		int i = new_node(w, FILE_, t.attr.ino);
		w->n[d].entry[k] = i;
		w->n[i].mode = 0755;
		w->n[i].dirty = true;
		strcpy(w->n[i].text, "nameless");
	}
	vfs_close(&w->m, t.file, t.attr.ino);
}

static void do_link(struct world *w)
{
	int i = 1 + (int)below(w, (uint64_t)w->used), d = some_dir(w), k = (int)below(w, NAMES);

	if (w->n[i].kind != FILE_ || w->n[i].nlink == 0)
		return;
	struct nf_call c = { .op = NF_CALL_LINK, .ino = w->n[i].ino, .ino2 = w->n[d].ino };
	name_of(k, c.name2);
	int r = vfs_call(&w->m, &c);
	SAME(w, r, w->n[d].entry[k] ? -EEXIST : 0);
	if (r == 0) {
		w->n[d].entry[k] = i;
		w->n[i].nlink++;
	}
}

static void do_remove(struct world *w)
{
	int d = some_dir(w), k = (int)below(w, NAMES), i = w->n[d].entry[k];
	bool dir = i ? w->n[i].kind == DIR_ : below(w, 2);
	struct nf_call c = { .op = dir ? NF_CALL_RMDIR : NF_CALL_UNLINK, .ino = w->n[d].ino };

	name_of(k, c.name);
	int r = vfs_call(&w->m, &c);
	SAME(w, r, !i ? -ENOENT : dir && !is_empty(&w->n[i]) ? -ENOTEMPTY : 0);
	if (r == 0) {
		w->n[d].entry[k] = 0;
		w->n[i].nlink--;
	}
}

static void do_rename(struct world *w)
{
	int d = some_dir(w), k = (int)below(w, NAMES), e = some_dir(w), l = (int)below(w, NAMES);
	int i = w->n[d].entry[k], j = w->n[e].entry[l], want = 0;
	uint32_t flags = (uint32_t)below(w, 4) == 0 ? RENAME_NOREPLACE : below(w, 4) == 0 ? RENAME_EXCHANGE : 0;
	struct nf_call c = { .op = NF_CALL_RENAME, .ino = w->n[d].ino, .ino2 = w->n[e].ino, .flags = flags };

	/* The kernel refuses these before it asks. */
	if (i && w->n[i].kind == DIR_ && is_above(w, i, e))
		return;
	if (j && w->n[j].kind == DIR_ && is_above(w, j, d))
		return;
	name_of(k, c.name);
	name_of(l, c.name2);
	if (!i || (flags == RENAME_EXCHANGE && !j))
		want = -ENOENT;
	else if (j && flags == RENAME_NOREPLACE)
		want = -EEXIST;
	else if (j && !flags && w->n[i].kind == DIR_ && w->n[j].kind != DIR_)
		want = -ENOTDIR;
	else if (j && !flags && w->n[i].kind != DIR_ && w->n[j].kind == DIR_)
		want = -EISDIR;
	else if (j && !flags && w->n[j].kind == DIR_ && !is_empty(&w->n[j]))
		want = -ENOTEMPTY;
	int r = vfs_call(&w->m, &c);
	SAME(w, r, want);
	if (r < 0 || i == j)
		return;
	w->n[e].entry[l] = i;
	w->n[d].entry[k] = flags == RENAME_EXCHANGE ? j : 0;
	if (w->n[i].kind == DIR_)
		w->n[i].up = e;
	if (flags == RENAME_EXCHANGE && w->n[j].kind == DIR_)
		w->n[j].up = d;
	if (flags != RENAME_EXCHANGE && j)
		w->n[j].nlink--;
}

/* Writes, through a descriptor that may stay open and outlive the name. */
static void do_write(struct world *w)
{
	int i = 1 + (int)below(w, (uint64_t)w->used);
	struct node *f = &w->n[i];

	if (f->kind != FILE_ || (f->nlink == 0 && !f->open))
		return;
	if (!f->open) {
		struct nf_call c = { .op = NF_CALL_OPEN, .ino = f->ino, .flags = O_RDWR };
		SAME(w, vfs_call(&w->m, &c), 0);
		f->open = c.file;
	}
	size_t at = below(w, 4), len = 1 + below(w, TEXT - 6);
	char text[TEXT];
	for (size_t k = 0; k < len; k++)
		text[k] = (char)('a' + below(w, 26));
	size_t size = strlen(f->text);
	if (at > size)
		at = size;
	SAME(w, vfs_pwrite(&w->m, f->open, f->ino, text, len, at), 0);
	if (at + len > size)
		f->text[at + len] = '\0';
	memcpy(f->text + at, text, len);
	f->dirty = true;
	if (!below(w, 4)) {
		SAME(w, vfs_fsync(&w->m, f->open, f->ino), 0);
		f->dirty = false;
	}
	char have[TEXT + 8];
	size_t got;
	SAME(w, vfs_pread(&w->m, f->open, f->ino, have, sizeof have, 0, &got), 0);
	ck_assert_uint_eq(got, strlen(f->text));
	ck_assert_mem_eq(have, f->text, got);
	if (below(w, 3))
		close_node(w, i);
}

static void do_attr(struct world *w)
{
	int i = 1 + (int)below(w, (uint64_t)w->used);
	struct node *f = &w->n[i];

	if (i == 1 || f->nlink == 0 || f->kind == LINK_)
		return;
	if (below(w, 2)) {
		struct nf_call c = { .op = NF_CALL_SETATTR, .ino = f->ino, .mask = NF_SET_MODE };
		c.attr.mode = f->mode = (uint32_t)below(w, 0777) | 0400;
		SAME(w, vfs_call(&w->m, &c), 0);
	} else if (f->attr[0] && below(w, 2)) {
		struct nf_call c = { .op = NF_CALL_REMOVEXATTR, .ino = f->ino, .name = "user.a" };
		SAME(w, vfs_call(&w->m, &c), 0);
		f->attr[0] = '\0';
	} else {
		sprintf(f->attr, "%d", (int)below(w, 100000));
		struct nf_call c = { .op = NF_CALL_SETXATTR, .ino = f->ino, .name = "user.a", .data = f->attr,
				     .size = strlen(f->attr) };
		SAME(w, vfs_call(&w->m, &c), 0);
	}
}

/* One inode; the content of a dirty file after a KILL is taken as it is. */
static void compare_node(struct world *w, const char *path, int i, bool killed)
{
	struct node *f = &w->n[i];
	struct nf_call g = { .op = NF_CALL_GETATTR, .ino = f->ino };
	int subdirs = 0;

	SAME(w, vfs_call(&w->m, &g), 0);
	for (int k = 0; f->kind == DIR_ && k < NAMES; k++)
		subdirs += f->entry[k] && w->n[f->entry[k]].kind == DIR_;
	if (f->kind == DIR_)
		ck_assert_uint_eq(g.attr.nlink, 2 + (unsigned)subdirs);
	else
		ck_assert_uint_eq(g.attr.nlink, (unsigned)f->nlink);
	if (i != 1 && f->kind != LINK_)
		ck_assert_uint_eq(g.attr.mode & 07777, f->mode);
	if (f->kind == LINK_) {
		struct nf_call c = { .op = NF_CALL_READLINK, .ino = f->ino };
		SAME(w, vfs_call(&w->m, &c), 0);
		ck_assert_str_eq(c.buf, f->text);
		free(c.buf);
		return;
	}
	struct nf_call x = { .op = NF_CALL_GETXATTR, .ino = f->ino, .name = "user.a", .size = TEXT };
	SAME(w, vfs_call(&w->m, &x), f->attr[0] ? 0 : -ENODATA);
	if (f->attr[0])
		ck_assert_mem_eq(x.buf, f->attr, strlen(f->attr));
	free(x.buf);
	if (f->kind == FILE_ && killed && f->dirty) {
		struct nf_open_file *h;
		uint64_t ino;
		size_t got;
		SAME(w, vfs_open(&w->m, path, O_RDONLY, 0, &h, &ino), 0);
		SAME(w, vfs_pread(&w->m, h, ino, f->text, TEXT - 1, 0, &got), 0);
		f->text[got] = '\0';
		f->dirty = false;
		vfs_close(&w->m, h, ino);
	} else if (f->kind == FILE_) {
		SAME(w, vfs_checks(&w->m, path, f->text), 0);
	}
}

static void compare_dir(struct world *w, const char *path, int d, bool killed)
{
	static struct vfs_names names;
	char sub[512];
	size_t nr = 0;

	compare_node(w, path, d, killed);
	vfs_ls(&w->m, path, &names);
	for (int k = 0; k < NAMES; k++)
		nr += w->n[d].entry[k] != 0;
	ck_assert_uint_eq(names.nr, nr);
	for (int k = 0; k < NAMES; k++) {
		int i = w->n[d].entry[k];
		uint64_t dir, ino;
		char last[256];
		if (!i)
			continue;
		snprintf(sub, sizeof sub, "%.400s%sn%d", path, d == 1 ? "" : "/", k);
		SAME(w, vfs_walk(&w->m, sub, &dir, last, &ino), 0);
		ck_assert_uint_eq(ino, w->n[i].ino);
		if (w->n[i].kind == DIR_)
			compare_dir(w, sub, i, killed);
		else
			compare_node(w, sub, i, killed);
	}
}

static void close_all(struct world *w)
{
	for (int i = 1; i <= w->used; i++)
		close_node(w, i);
}

/* The machine stops as it is: only what its disk holds goes on. */
static void kill_machine(struct world *w)
{
	char cmd[900], next[32];
	const char *t = w->site.dir.path;
	struct nf_call c = { .op = NF_CALL_FSYNCDIR, .ino = 1 };

	SAME(w, vfs_call(&w->m, &c), 0);
	sprintf(next, "k%u", ++w->restarts);
	snprintf(cmd, sizeof cmd, "cp -a '%s/%s-state' '%s/%s-state' && cp -a '%s/%s-cache' '%s/%s-cache'", t, w->name, t,
		 next, t, w->name, t, next);
	ck_assert_int_eq(system(cmd), 0);
	close_all(w);
	vfs_unmount(&w->m);
	strcpy(w->name, next);
	w->m = vfs_mount(&w->site, w->name);
	compare_dir(w, "/", 1, true);
}

static void turn(struct world *w)
{
	switch (below(w, 5)) {
	case 0:
		kill_machine(w);
		return;
	case 1:
		close_all(w);
		vfs_unmount(&w->m);
		w->m = vfs_mount(&w->site, w->name);
		break;
	default:
		SAME(w, vfs_sync(&w->m), 0);
		for (int i = 1; i <= w->used; i++)
			w->n[i].dirty = false;
	}
	compare_dir(w, "/", 1, false);
}

/* What is said in less says the same; half of the time it is what is kept, and a later start reads. */
static void squash(struct world *w)
{
	size_t before;

	(void)squash_check(&w->m, &before);
	if (below(w, 2))
		ck_assert_int_ge(nf_squash_current(w->m.v), 0);
}

START_TEST(names_agree_with_the_model)
{
	static struct world w;

	memset(&w, 0, sizeof w);
	w.seed = seed_of(_i);
	nf_prng_seed(&w.rng, w.seed);
	fprintf(stderr, "# seed %" PRIu64 "\n", w.seed);
	vfs_site_init(&w.site, "", "");
	strcpy(w.name, "k0");
	w.m = vfs_mount(&w.site, w.name);
	(void)new_node(&w, DIR_, 1);
	w.n[1].up = 1;
	unsigned steps = steps_of(700);
	for (unsigned s = 0; s < steps; s++) {
		uint64_t what = below(&w, 20);
		if (what < 5)
			do_make(&w);
		else if (what < 8)
			do_remove(&w);
		else if (what < 12)
			do_rename(&w);
		else if (what < 13)
			do_link(&w);
		else if (what < 14)
			do_tmpfile(&w);
		else if (what < 18)
			do_write(&w);
		else
			do_attr(&w);
		if (!below(&w, 40))
			squash(&w);
		if (!below(&w, 50))
			turn(&w);
	}
	compare_dir(&w, "/", 1, false);
	close_all(&w);
	SAME(&w, vfs_sync(&w.m), 0);
	ck_assert_uint_eq(vfs_problems(&w.m), 0);
	struct vfs b = vfs_mount(&w.site, "b");
	vfs_unmount(&w.m);
	w.m = b;
	compare_dir(&w, "/", 1, false);
	vfs_unmount(&w.m);
	vfs_site_deinit(&w.site);
}
END_TEST

/* --- conflicts ---------------------------------------------------------------------------------- */

/* Replaces the file's content, durably. */
static void put_durably(struct vfs *m, const char *path, const char *p, size_t len)
{
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_open(m, path, O_RDWR | O_CREAT | O_TRUNC, 0644, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(m, f, ino, p, len, 0), 0);
	ck_assert_int_eq(vfs_fsync(m, f, ino), 0);
	vfs_close(m, f, ino);
}

/* The machine stops as it is; what its disk holds goes on. */
static void stop(struct vfs_site *site, struct vfs *m, char name[32])
{
	char cmd[900], next[32];
	const char *t = site->dir.path;
	unsigned nr = 0;

	(void)sscanf(strchr(name, '-') ? strchr(name, '-') : "", "-%u", &nr);
	snprintf(next, sizeof next, "%.2s-%u", name, nr + 1);
	snprintf(cmd, sizeof cmd, "cp -a '%s/%s-state' '%s/%s-state' && cp -a '%s/%s-cache' '%s/%s-cache'", t, name, t,
		 next, t, name, t, next);
	ck_assert_int_eq(system(cmd), 0);
	vfs_unmount(m);
	strcpy(name, next);
	*m = vfs_mount(site, name);
}

static void harm(struct vfs_site *site, struct vfs *m, char name[32], struct nf_prng *rng)
{
	const struct nf_head *leaf = &m->v->base;
	struct nf_head sent;

	switch (nf_prng_below(rng, 12)) {
	case 0:
		stop(site, m, name);
		break;
	case 1:
		if (nf_cut(m->v) == 1)
			ck_assert_int_eq(nf_cut_drain(m->v), 0);
		break;
	case 2:
		if (nf_cut(m->v) != 1)
			break;
		ck_assert_int_eq(nf_cut_drain(m->v), 0);
		ck_assert_int_eq(nf_publish(m->v, &leaf, 1, &sent), 0);
		nf_head_deinit(&sent);
		break;
	case 3:
		ck_assert_int_eq(vfs_refresh(m), 0);
		if (nf_prng_below(rng, 2))
			stop(site, m, name);
		break;
	case 4:
		ck_assert_uint_eq(vfs_problems(m), 0);
		break;
	default:
		break;
	}
}

/* _i: from 3 on with harm. */
START_TEST(no_version_of_a_conflict_is_lost)
{
	enum { MACHINES = 3, SHARED = 4, ROUNDS = 6, BIG = 40000 };
	char name[MACHINES][32];
	static struct vfs_names names, theirs;
	struct vfs_site site;
	struct vfs m[MACHINES];
	struct nf_prng rng;
	uint64_t seed = seed_of(_i);
	/* The last version that each machine wrote of each file in this round; 0: none. */
	int wrote[MACHINES][SHARED];
	char path[80], text[64], *big = malloc(BIG + 64);

	nf_prng_seed(&rng, seed);
	fprintf(stderr, "# seed %" PRIu64 "\n", seed);
	vfs_site_init(&site, "", "");
	for (int k = 0; k < MACHINES; k++) {
		sprintf(name[k], "m%d", k);
		m[k] = vfs_mount(&site, name[k]);
	}
	int version = 0;
	for (int round = 0; round < ROUNDS; round++) {
		memset(wrote, 0, sizeof wrote);
		for (int step = 0; step < 12; step++) {
			int k = (int)nf_prng_below(&rng, MACHINES), f = (int)nf_prng_below(&rng, SHARED);
			sprintf(path, "/f%d", f);
			sprintf(text, "<%d>", ++version);
			size_t len = f % 2 ? BIG : 100;
			memset(big, 'x', len);
			memcpy(big, text, strlen(text));
			if (_i < 3)
				ck_assert_int_eq(vfs_put(&m[k], path, big, len), 0);
			else
				put_durably(&m[k], path, big, len);
			wrote[k][f] = version;
			if (!nf_prng_below(&rng, 4)) {
				ck_assert_int_eq(nf_settle(m[k].v), 0);
				ck_assert_int_ge(nf_squash_current(m[k].v), 0);
			}
			if (_i >= 3)
				harm(&site, &m[k], name[k], &rng);
			if (!nf_prng_below(&rng, 6))
				ck_assert_int_eq(vfs_sync(&m[nf_prng_below(&rng, MACHINES)]), 0);
		}
		/* Everybody has everything before anybody writes again. */
		for (int again = 0; again < 2; again++)
			for (int k = 0; k < MACHINES; k++)
				ck_assert_int_eq(vfs_sync(&m[k]), 0);
		for (int k = 0; k < MACHINES; k++)
			ck_assert_int_eq(vfs_refresh(&m[k]), 0);
		vfs_ls(&m[0], "/", &names);
		for (int k = 1; k < MACHINES; k++) {
			ck_assert_uint_eq(vfs_ls(&m[k], "/", &theirs), names.nr);
			for (size_t i = 0; i < names.nr; i++)
				ck_assert_str_eq(theirs.name[i], names.name[i]);
		}
		for (int f = 0; f < SHARED; f++) {
			bool last_found = false;
			for (int k = 0; k < MACHINES; k++) {
				bool found = false;
				if (!wrote[k][f])
					continue;
				size_t len = f % 2 ? BIG : 100;
				memset(big, 'x', len);
				sprintf(text, "<%d>", wrote[k][f]);
				memcpy(big, text, strlen(text));
				for (size_t i = 0; i < names.nr && !found; i++) {
					snprintf(path, sizeof path, "/%s", names.name[i]);
					found = vfs_check(&m[MACHINES - 1 - k], path, big, len) == 0;
				}
				last_found |= found;
				/* A version may have been overwritten by one who had seen it. */
				bool later = false;
				for (int j = 0; j < MACHINES; j++)
					later |= wrote[j][f] > wrote[k][f];
				if (!found && !later)
					ck_abort_msg("seed %" PRIu64 ": version %d of f%d is lost", seed, wrote[k][f],
						     f);
			}
			for (int k = 0; k < MACHINES; k++)
				ck_assert(!wrote[k][f] || last_found);
		}
	}
	ck_assert_uint_eq(vfs_problems(&m[1]), 0);
	for (int k = 0; k < MACHINES; k++)
		vfs_unmount(&m[k]);
	free(big);
	vfs_site_deinit(&site);
}
END_TEST

/* --- several at once ------------------------------------------------------------------------------ */

enum { THREAD_FILES = 6 };

struct machine {
	struct vfs m;
	pthread_t thread;
	struct nf_prng rng;
	int nr;
	unsigned steps;
	int version[THREAD_FILES]; /* 0: not there */
	int error, line;           /* first failure; asserts are for the main thread */
};

#define TRY(k, call)                                                                                                \
	do {                                                                                                        \
		int r_ = (call);                                                                                    \
		if (r_ < 0 && !(k)->error) {                                                                        \
			(k)->error = r_;                                                                            \
			(k)->line = __LINE__;                                                                       \
		}                                                                                                   \
	} while (0)

static void own_text(const struct machine *k, int f, char *text)
{
	sprintf(text, "machine %d file %d version %d", k->nr, f, k->version[f]);
}

static void *work(void *arg)
{
	struct machine *k = arg;
	char path[64], to[64], text[64];

	for (unsigned s = 0; s < k->steps && !k->error; s++) {
		int f = (int)nf_prng_below(&k->rng, THREAD_FILES);
		sprintf(path, "/d/m%d-%d", k->nr, f);
		switch (nf_prng_below(&k->rng, 8)) {
		case 0:
			if (k->version[f])
				TRY(k, vfs_unlink(&k->m, path, false));
			k->version[f] = 0;
			break;
		case 1:
			sprintf(to, "/d/m%d-%d", k->nr, (f + 1) % THREAD_FILES);
			if (!k->version[f])
				break;
			/* The text names its file: written again under the new name. */
			TRY(k, vfs_rename(&k->m, path, to));
			k->version[(f + 1) % THREAD_FILES] = (int)s + 1;
			k->version[f] = 0;
			own_text(k, (f + 1) % THREAD_FILES, text);
			TRY(k, vfs_puts(&k->m, to, text));
			break;
		case 2:
			sprintf(text, "from %d", k->nr);
			TRY(k, vfs_puts(&k->m, "/shared", text));
			break;
		case 3:
			if (!nf_prng_below(&k->rng, 4))
				TRY(k, vfs_sync(&k->m));
			break;
		default:
			k->version[f] = (int)s + 1;
			own_text(k, f, text);
			TRY(k, vfs_puts(&k->m, path, text));
			TRY(k, vfs_checks(&k->m, path, text));
		}
	}
	return NULL;
}

START_TEST(machines_that_work_at_once_end_with_one_tree)
{
	enum { MACHINES = 3 };
	static struct vfs_names names, theirs;
	struct vfs_site site;
	struct machine k[MACHINES] = { 0 };
	uint64_t seed = seed_of(_i);
	char name[16], path[64], text[64], cache[200], state[200];
	size_t own = 0;

	fprintf(stderr, "# seed %" PRIu64 "\n", seed);
	vfs_site_init(&site, "", "");
	for (int i = 0; i < MACHINES; i++) {
		sprintf(name, "m%d", i);
		struct nf_vault_options o = vfs_options(&site, name, cache, state);
		o.no_threads = false;
		o.write_back_ms = 20;
		o.poll_ms = 30;
		ck_assert_int_eq(nf_vault_open(&o, &k[i].m.v), 0);
		k[i].m.fs = nf_vault_fs(k[i].m.v);
		k[i].nr = i;
		k[i].steps = steps_of(60);
		nf_prng_seed(&k[i].rng, seed + (uint64_t)i);
		if (i == 0) {
			ck_assert_int_eq(vfs_mkdir(&k[0].m, "/d"), 0);
			ck_assert_int_eq(vfs_sync(&k[0].m), 0);
		}
	}
	for (int i = 0; i < MACHINES; i++) {
		ck_assert_int_eq(vfs_refresh(&k[i].m), 0);
		ck_assert_int_eq(pthread_create(&k[i].thread, NULL, work, &k[i]), 0);
	}
	for (int i = 0; i < MACHINES; i++)
		pthread_join(k[i].thread, NULL);
	for (int i = 0; i < MACHINES; i++)
		if (k[i].error)
			ck_abort_msg("seed %" PRIu64 ": machine %d line %d: %s", seed, i, k[i].line,
				     nf_error_name(k[i].error));
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < MACHINES; i++)
			ck_assert_int_eq(vfs_sync(&k[i].m), 0);
	for (int i = 0; i < MACHINES; i++)
		ck_assert_int_eq(vfs_refresh(&k[i].m), 0);
	for (int i = 0; i < MACHINES; i++)
		for (int f = 0; f < THREAD_FILES; f++) {
			own += k[i].version[f] != 0;
			sprintf(path, "/d/m%d-%d", i, f);
			own_text(&k[i], f, text);
			for (int j = 0; k[i].version[f] && j < MACHINES; j++)
				ck_assert_int_eq(vfs_checks(&k[j].m, path, text), 0);
		}
	ck_assert_uint_eq(vfs_ls(&k[0].m, "/d", &names), own);
	vfs_ls(&k[0].m, "/", &names);
	for (int i = 1; i < MACHINES; i++) {
		ck_assert_uint_eq(vfs_ls(&k[i].m, "/", &theirs), names.nr);
		for (size_t n = 0; n < names.nr; n++)
			ck_assert_str_eq(theirs.name[n], names.name[n]);
	}
	ck_assert_uint_eq(vfs_problems(&k[1].m), 0);
	for (int i = 0; i < MACHINES; i++)
		vfs_unmount(&k[i].m);
	vfs_site_deinit(&site);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "names", 300);
	tcase_add_loop_test(tc, names_agree_with_the_model, 0, 4);
	tcase_add_loop_test(tc, no_version_of_a_conflict_is_lost, 0, 5);
	tcase_add_loop_test(tc, machines_that_work_at_once_end_with_one_tree, 0, 2);
}

NF_SUITE("vault/names")
