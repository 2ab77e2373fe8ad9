/* Random operations on machines that share one vault, against a plain model of what each file must hold.
 *
 *   one machine      every step compared; syncs, remounts, empty caches, faults of the store in between; copies by
 *                    reference to blocks and to leaves
 *   three machines   each changes files of its own in shared directories; in the end one tree, nothing lost
 *
 * NF_SEED replays a seed, NF_STEPS sets the number of steps. */
#include "base/random.h"
#include "store/fault.h"
#include "squash.h"
#include "vfs.h"

#include <inttypes.h>
#include <linux/falloc.h>

enum { FILES = 14, DIRS = 3, SIZE_MAX_BYTES = 700000 };

struct file {
	bool there;
	size_t size;
	char *bytes; /* SIZE_MAX_BYTES, zeros beyond size */
};

struct world {
	struct vfs_site site;
	struct vfs m;
	struct nf_prng rng;
	struct file files[FILES];
	uint64_t seed;
	char prefix[8];
	unsigned restarts, shelved;
};

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

static uint64_t below(struct world *w, uint64_t n) { return nf_prng_below(&w->rng, n); }

static void path_of(const struct world *w, unsigned i, char *out)
{
	if (i % (DIRS + 1) == DIRS)
		sprintf(out, "/%sf%u", w->prefix, i);
	else
		sprintf(out, "/d%u/%sf%u", i % (DIRS + 1), w->prefix, i);
}

static size_t some_offset(struct world *w, size_t limit)
{
	switch (below(w, 4)) {
	case 0:
		return below(w, 600 < limit ? 600 : limit);
	case 1:
		return below(w, limit / 16384 + 1) * 16384 % limit;
	default:
		return below(w, limit);
	}
}

static void do_write(struct world *w, unsigned i)
{
	struct file *f = &w->files[i];
	struct nf_open_file *h;
	uint64_t ino;
	char path[64], data[70000];
	size_t off = some_offset(w, SIZE_MAX_BYTES - 70000), len = below(w, 4) ? below(w, 3000) + 1 : below(w, 70000) + 1;

	path_of(w, i, path);
	ck_assert_int_eq(vfs_open(&w->m, path, O_RDWR | O_CREAT, 0644, &h, &ino), 0);
	for (size_t k = 0; k < len; k++)
		data[k] = (char)(below(w, 3) ? 'a' + (char)(k % 7) : (char)nf_prng_next(&w->rng));
	ck_assert_int_eq(vfs_pwrite(&w->m, h, ino, data, len, off), 0);
	if (!f->there) {
		f->there = true;
		f->size = 0;
		memset(f->bytes, 0, SIZE_MAX_BYTES);
	}
	memcpy(f->bytes + off, data, len);
	if (off + len > f->size)
		f->size = off + len;
	if (!below(w, 5))
		ck_assert_int_eq(vfs_fsync(&w->m, h, ino), 0);
	vfs_close(&w->m, h, ino);
}

static void do_truncate(struct world *w, unsigned i)
{
	struct file *f = &w->files[i];
	char path[64];
	size_t size = some_offset(w, SIZE_MAX_BYTES);

	if (!f->there)
		return;
	path_of(w, i, path);
	ck_assert_int_eq(vfs_truncate(&w->m, path, size), 0);
	if (size < f->size)
		memset(f->bytes + size, 0, f->size - size);
	f->size = size;
}

static void do_punch(struct world *w, unsigned i)
{
	struct file *f = &w->files[i];
	struct nf_open_file *h;
	uint64_t ino;
	char path[64];
	size_t off = some_offset(w, SIZE_MAX_BYTES - 1), len = below(w, 100000) + 1;

	if (!f->there)
		return;
	path_of(w, i, path);
	ck_assert_int_eq(vfs_open(&w->m, path, O_RDWR, 0, &h, &ino), 0);
	struct nf_call c = { .op = NF_CALL_FALLOCATE, .ino = ino, .file = h, .offset = off, .size = len,
			     .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
	ck_assert_int_eq(vfs_call(&w->m, &c), 0);
	vfs_close(&w->m, h, ino);
	if (off < f->size)
		memset(f->bytes + off, 0, off + len < f->size ? len : f->size - off);
}

static void do_unlink(struct world *w, unsigned i)
{
	struct file *f = &w->files[i];
	char path[64];

	path_of(w, i, path);
	ck_assert_int_eq(vfs_unlink(&w->m, path, false), f->there ? 0 : -ENOENT);
	f->there = false;
}

static void compare(struct world *w, unsigned i)
{
	struct file *f = &w->files[i];
	char path[64];

	path_of(w, i, path);
	int r = f->there ? vfs_check(&w->m, path, f->bytes, f->size) : vfs_checks(&w->m, path, "");
	if (r != (f->there ? 0 : -ENOENT))
		ck_abort_msg("seed %" PRIu64 ": %s: %s", w->seed, path, nf_error_name(r));
}

/* Some blocks of one file to some place of another, whole windows often.  What cannot be shared is not copied. */
static void do_copy_some(struct world *w, unsigned i, unsigned k)
{
	struct file *f = &w->files[i], *t = &w->files[k];
	size_t bs = (size_t)1 << (w->site.block_shift ? w->site.block_shift : 14), unit = below(w, 2) ? bs : 128 * bs;
	struct nf_open_file *h, *ht;
	uint64_t ino, ino_t;
	char path[64], path_t[64];

	if (!f->there || !t->there || i == k)
		return;
	size_t src = below(w, SIZE_MAX_BYTES / unit + 1) * unit, dst = below(w, SIZE_MAX_BYTES / unit + 1) * unit;
	size_t len = below(w, 2) ? SIZE_MAX_BYTES : below(w, SIZE_MAX_BYTES / bs) * bs;
	if (src >= f->size || dst >= SIZE_MAX_BYTES)
		return;
	if (len > SIZE_MAX_BYTES - dst)
		len = SIZE_MAX_BYTES - dst;
	path_of(w, i, path);
	path_of(w, k, path_t);
	ck_assert_int_eq(vfs_open(&w->m, path, O_RDONLY, 0, &h, &ino), 0);
	ck_assert_int_eq(vfs_open(&w->m, path_t, O_RDWR, 0, &ht, &ino_t), 0);
	struct nf_call c = { .op = NF_CALL_COPY_RANGE, .ino = ino, .file = h, .ino2 = ino_t, .file2 = ht,
			     .offset = src, .offset2 = dst, .size = len };
	int r = vfs_call(&w->m, &c);
	vfs_close(&w->m, h, ino);
	vfs_close(&w->m, ht, ino_t);
	if (r == -EOPNOTSUPP)
		return;
	ck_assert_int_eq(r, 0);
	ck_assert_uint_le(c.count, len);
	memcpy(t->bytes + dst, f->bytes + src, c.count);
	if (c.count && dst + c.count > t->size)
		t->size = dst + c.count;
	compare(w, k);
}

/* A copy by reference of whole blocks, as cp --reflink=auto asks for it. */
static void do_copy(struct world *w, unsigned i, unsigned k)
{
	struct file *f = &w->files[i], *t = &w->files[k];
	struct nf_open_file *h, *ht;
	uint64_t ino, ino_t;
	char path[64], path_t[64];

	if (!f->there || i == k || f->size <= 512)
		return;
	path_of(w, i, path);
	path_of(w, k, path_t);
	ck_assert_int_eq(vfs_open(&w->m, path, O_RDONLY, 0, &h, &ino), 0);
	ck_assert_int_eq(vfs_open(&w->m, path_t, O_RDWR | O_CREAT | O_TRUNC, 0644, &ht, &ino_t), 0);
	struct nf_call c = { .op = NF_CALL_COPY_RANGE, .ino = ino, .file = h, .ino2 = ino_t, .file2 = ht,
			     .size = f->size };
	ck_assert_int_eq(vfs_call(&w->m, &c), 0);
	ck_assert_uint_eq(c.count, f->size);
	vfs_close(&w->m, h, ino);
	vfs_close(&w->m, ht, ino_t);
	t->there = true;
	t->size = f->size;
	memcpy(t->bytes, f->bytes, SIZE_MAX_BYTES);
}

static void do_rename(struct world *w, unsigned i, unsigned k)
{
	struct file *a = &w->files[i], *b = &w->files[k];
	char from[64], to[64];

	if (i == k)
		return;
	path_of(w, i, from);
	path_of(w, k, to);
	ck_assert_int_eq(vfs_rename(&w->m, from, to), a->there ? 0 : -ENOENT);
	if (!a->there)
		return;
	struct file t = *b;
	*b = *a;
	*a = t;
	a->there = false;
}

static void compare_all(struct world *w)
{
	for (unsigned i = 0; i < FILES; i++)
		compare(w, i);
}

/* Transient faults: tried again until they pass. */
static void sync_all(struct world *w)
{
	int r = -1;
	for (int i = 0; i < 50 && r < 0; i++)
		r = vfs_sync(&w->m);
	if (r < 0)
		ck_abort_msg("seed %" PRIu64 ": sync: %s", w->seed, nf_error_name(r));
}

/* What is said in less says the same; half of the time it is what is kept, and a later start reads. */
static void squash(struct world *w)
{
	size_t before;

	(void)squash_check(&w->m, &before);
	if (below(w, 2))
		ck_assert_int_ge(nf_squash_current(w->m.v), 0);
}

/* As when nothing can be sent: what is dirty is told, and what is too much for memory is shelved. */
static void settle(struct world *w)
{
	ck_assert_int_eq(nf_settle(w->m.v), 0);
	if (w->site.shelve_bytes && w->m.v->nr_shelf)
		w->shelved++;
}

static void step(struct world *w)
{
	unsigned i = (unsigned)below(w, FILES), k = (unsigned)below(w, FILES);

	uint64_t what = below(w, 28);
	if (what < 9)
		do_write(w, i);
	else if (what < 11)
		do_truncate(w, i);
	else if (what < 12)
		do_punch(w, i);
	else if (what < 14)
		do_unlink(w, i);
	else if (what < 16)
		do_rename(w, i, k);
	else if (what < 18)
		do_copy(w, i, k);
	else if (what < 20)
		do_copy_some(w, i, k);
	else if (what < 21)
		sync_all(w);
	else if (what < 22 && w->m.v->no_threads)
		squash(w);
	else if (what < 24 && w->m.v->no_threads)
		settle(w);
	compare(w, i);
}

static void world_init(struct world *w, const char *prefix, const char *rules, int i)
{
	memset(w, 0, sizeof *w);
	w->seed = seed_of(i);
	nf_prng_seed(&w->rng, w->seed);
	fprintf(stderr, "# seed %" PRIu64 "\n", w->seed);
	vfs_site_init(&w->site, prefix, rules);
	/* Windows of 512 KiB in half of the runs: files have more than one then. */
	w->site.block_shift = i & 1 ? 12 : 0;
	/* In two of three very little is kept in memory of what was not sent. */
	w->site.shelve_bytes = i % 3 ? 200 + below(w, 2000) : 0;
	for (unsigned k = 0; k < FILES; k++)
		w->files[k].bytes = calloc(1, SIZE_MAX_BYTES);
}

static void world_deinit(struct world *w)
{
	for (unsigned k = 0; k < FILES; k++)
		free(w->files[k].bytes);
	vfs_site_deinit(&w->site);
}

static void make_dirs(struct vfs *m)
{
	char path[16];
	for (int d = 0; d < DIRS; d++) {
		sprintf(path, "/d%d", d);
		ck_assert_int_eq(vfs_mkdir(m, path), 0);
	}
}

START_TEST(one_machine_agrees_with_the_model)
{
	struct world w;
	char name[16] = "a0", cmd[300];

	world_init(&w, "", "", _i);
	w.m = vfs_mount(&w.site, name);
	make_dirs(&w.m);
	unsigned steps = steps_of(250);
	for (unsigned s = 0; s < steps; s++) {
		step(&w);
		if (below(&w, 40))
			continue;
		/* Away and back: with what is in the journal, with an empty cache, or as another machine. */
		uint64_t how = below(&w, 3);
		if (how == 2)
			sync_all(&w);
		vfs_unmount(&w.m);
		if (how == 1) {
			snprintf(cmd, sizeof cmd, "rm -rf '%s/%s-cache'", w.site.dir.path, name);
			ck_assert_int_eq(system(cmd), 0);
		}
		if (how == 2)
			sprintf(name, "a%u", ++w.restarts);
		w.m = vfs_mount(&w.site, name);
		compare_all(&w);
	}
	sync_all(&w);
	compare_all(&w);
	ck_assert_uint_eq(vfs_problems(&w.m), 0);
	vfs_unmount(&w.m);
	world_deinit(&w);
}
END_TEST

START_TEST(a_store_with_faults_changes_nothing)
{
	struct world w;

	world_init(&w, "fault+", "?seed=1", _i);
	w.m = vfs_mount(&w.site, "a");
	make_dirs(&w.m);
	sync_all(&w);
	vfs_unmount(&w.m);
	size_t n = strlen(w.site.address);
	snprintf(w.site.address + n, sizeof w.site.address - n, "&lostreply=0.2&drop=0.1&torn=0.05");
	unsigned tries = 0;
	char cache[200], state[200];
	struct nf_vault_options o;
	do
		o = vfs_options(&w.site, "a", cache, state);
	while (nf_vault_open(&o, &w.m.v) < 0 && ++tries < 50);
	ck_assert_uint_lt(tries, 50);
	w.m.fs = nf_vault_fs(w.m.v);
	unsigned steps = steps_of(80);
	for (unsigned s = 0; s < steps; s++) {
		/* Reads may meet a dropped request: the library and the store try again. */
		do_write(&w, (unsigned)below(&w, FILES));
		do_rename(&w, (unsigned)below(&w, FILES), (unsigned)below(&w, FILES));
		if (!below(&w, 6))
			sync_all(&w);
	}
	sync_all(&w);
	vfs_unmount(&w.m);
	*strchr(w.site.address, '?') = '\0';
	memmove(w.site.address, w.site.address + 6, strlen(w.site.address + 6) + 1);
	w.m = vfs_mount(&w.site, "b");
	compare_all(&w);
	ck_assert_uint_eq(vfs_problems(&w.m), 0);
	vfs_unmount(&w.m);
	world_deinit(&w);
}
END_TEST

START_TEST(machines_in_shared_directories_lose_nothing)
{
	enum { MACHINES = 3 };
	struct world w[MACHINES];

	for (int k = 0; k < MACHINES; k++) {
		if (k == 0) {
			world_init(&w[k], "", "", _i);
		} else {
			w[k] = w[0];
			nf_prng_seed(&w[k].rng, w[0].seed + (uint64_t)k);
			for (unsigned i = 0; i < FILES; i++)
				w[k].files[i].bytes = calloc(1, SIZE_MAX_BYTES);
		}
		sprintf(w[k].prefix, "m%d-", k);
		char name[8];
		sprintf(name, "m%d", k);
		w[k].m = vfs_mount(&w[k].site, name);
		if (k == 0) {
			make_dirs(&w[0].m);
			sync_all(&w[0]);
		}
	}
	unsigned steps = steps_of(120);
	for (unsigned s = 0; s < steps; s++)
		step(&w[s % MACHINES]);
	for (int round = 0; round < 2; round++)
		for (int k = 0; k < MACHINES; k++)
			sync_all(&w[k]);
	for (int k = 0; k < MACHINES; k++)
		ck_assert_int_eq(vfs_refresh(&w[k].m), 0);
	for (int k = 0; k < MACHINES; k++)
		for (int j = 0; j < MACHINES; j++) {
			struct world see = w[j];
			see.m = w[k].m;
			compare_all(&see);
		}
	ck_assert_uint_eq(vfs_problems(&w[0].m), 0);
	for (int k = MACHINES - 1; k >= 0; k--) {
		vfs_unmount(&w[k].m);
		for (unsigned i = 0; k && i < FILES; i++)
			free(w[k].files[i].bytes);
	}
	world_deinit(&w[0]);
}
END_TEST

START_TEST(commits_beside_the_work_change_nothing)
{
	struct world w;
	char cache[200], state[200];

	world_init(&w, "", "", _i);
	struct nf_vault_options o = vfs_options(&w.site, "a", cache, state);
	o.no_threads = false;
	o.write_back_ms = 30;
	o.poll_ms = 50;
	ck_assert_int_eq(nf_vault_open(&o, &w.m.v), 0);
	w.m.fs = nf_vault_fs(w.m.v);
	make_dirs(&w.m);
	unsigned steps = steps_of(300);
	for (unsigned s = 0; s < steps; s++)
		step(&w);
	sync_all(&w);
	compare_all(&w);
	vfs_unmount(&w.m);
	w.m = vfs_mount(&w.site, "b");
	compare_all(&w);
	ck_assert_uint_eq(vfs_problems(&w.m), 0);
	vfs_unmount(&w.m);
	world_deinit(&w);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "model", 300);
	tcase_add_loop_test(tc, one_machine_agrees_with_the_model, 0, 3);
	tcase_add_loop_test(tc, a_store_with_faults_changes_nothing, 0, 2);
	tcase_add_loop_test(tc, machines_in_shared_directories_lose_nothing, 0, 3);
	tcase_add_loop_test(tc, commits_beside_the_work_change_nothing, 0, 3);
}

NF_SUITE("vault/model")
