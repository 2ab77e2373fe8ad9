/* The collector and machines that come late: restored from a backup older than the grace, away until nobody keeps what they stand
 * on.  No published history has a hole, nothing of their own is lost.  Suspended machines and clocks: check_gc.c. */
#include "gate.h"
#include "vfs.h"

#include "base/random.h"
#include "vault/gc.h"

#include <unistd.h>

enum { BIG = 300000, OFFSET = 100000 };

static void fill(void *p, size_t len, uint64_t seed)
{
	struct nf_prng prng;

	nf_prng_seed(&prng, seed);
	for (size_t i = 0; i < len; i++)
		((uint8_t *)p)[i] = (uint8_t)nf_prng_next(&prng);
}

static int put(struct vfs *m, const char *path, uint64_t seed)
{
	static char p[BIG];

	fill(p, BIG, seed);
	return vfs_put(m, path, p, BIG);
}

static int check(struct vfs *m, const char *path, uint64_t seed)
{
	static char p[BIG];

	fill(p, BIG, seed);
	return vfs_check(m, path, p, BIG);
}

static void edit(struct vfs *m, const char *path, const char *text)
{
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_open(m, path, O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(m, f, ino, text, strlen(text), OFFSET), 0);
	ck_assert_int_eq(vfs_fsync(m, f, ino), 0);
	vfs_close(m, f, ino);
}

/* Condemned and deleted, with nothing kept but the newest commit: not even what known machines may stand on. */
static void collect_all(struct vfs *m)
{
	struct nf_gc_options o;
	struct nf_gc_result r;

	nf_gc_defaults(&o);
	o.grace_s = o.keep_days = o.lease_days = 0;
	o.keep_heads = 1;
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(nf_vault_gc(m->v, &o, NULL, &r), 0);
}

static void copy_dirs(const struct vfs_site *s, const char *from, const char *to)
{
	char cmd[900];
	const char *t = s->dir.path;

	snprintf(cmd, sizeof cmd, "rm -rf '%s/%s-state' '%s/%s-cache' && cp -a '%s/%s-state' '%s/%s-state' && "
		 "cp -a '%s/%s-cache' '%s/%s-cache'", t, to, t, to, t, from, t, to, t, from, t, to);
	ck_assert_int_eq(system(cmd), 0);
}

/* Everything is written anew and all that was before is deleted. */
static void time_goes_by(struct vfs *m)
{
	for (uint64_t i = 0; i < 3; i++) {
		ck_assert_int_eq(put(m, "/f", 10 + i), 0);
		ck_assert_int_eq(put(m, "/g", 20 + i), 0);
		ck_assert_int_eq(vfs_sync(m), 0);
		collect_all(m);
	}
}

/* _i: with its cache; with an empty one. */
START_TEST(a_machine_restored_from_a_backup_of_before_the_collection_makes_no_hole)
{
	struct vfs_site s;
	char cmd[300];

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(put(&a, "/f", 1), 0);
	ck_assert_int_eq(put(&a, "/g", 2), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	copy_dirs(&s, "a", "backup");
	a = vfs_mount(&s, "a");
	time_goes_by(&a);
	vfs_unmount(&a);
	copy_dirs(&s, "backup", "a");
	if (_i) {
		snprintf(cmd, sizeof cmd, "rm -rf '%s/a-cache'", s.dir.path);
		ck_assert_int_eq(system(cmd), 0);
	}
	a = vfs_mount(&s, "a");
	ck_assert_int_eq(check(&a, "/f", 12), 0);
	ck_assert_int_eq(check(&a, "/g", 22), 0);
	edit(&a, "/f", "after the backup");
	ck_assert_int_eq(vfs_puts(&a, "/new", "new"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	collect_all(&a);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_checks(&b, "/new", "new"), 0);
	ck_assert_int_eq(check(&b, "/g", 22), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* Bytes of TEXT at OFFSET in some file but /f. */
static bool is_kept_somewhere(struct vfs *m, const char *text)
{
	struct vfs_names *n = malloc(sizeof *n);
	bool found = false;

	vfs_ls(m, "/", n);
	for (size_t i = 0; i < n->nr; i++) {
		char path[80], got[64] = "";
		struct nf_open_file *f;
		uint64_t ino;
		size_t len = 0;
		snprintf(path, sizeof path, "/%s", n->name[i]);
		if (!strcmp(path, "/f") || vfs_open(m, path, O_RDONLY, 0, &f, &ino) < 0)
			continue;
		int r = vfs_pread(m, f, ino, got, strlen(text), OFFSET, &len);
		found |= r == 0 && len == strlen(text) && !memcmp(got, text, len);
		vfs_close(m, f, ino);
	}
	free(n);
	return found;
}

/* What the backup had not sent was sent by the machine it was made of, and by now nobody keeps what that was: it is sent once more, by
 * another writer, beside what came since. */
START_TEST(a_backup_with_unsent_changes_keeps_them_beside_what_came_since)
{
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(put(&a, "/f", 1), 0);
	ck_assert_int_eq(put(&a, "/g", 2), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	edit(&a, "/f", "not sent");
	vfs_unmount(&a);
	copy_dirs(&s, "a", "backup");
	a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_sync(&a), 0);
	time_goes_by(&a);
	vfs_unmount(&a);
	copy_dirs(&s, "backup", "a");
	for (int i = 0; i < 2; i++) {
		a = vfs_mount(&s, "a");
		ck_assert_int_eq(check(&a, "/f", 12), 0);
		ck_assert(is_kept_somewhere(&a, "not sent"));
		ck_assert_int_eq(vfs_sync(&a), 0);
		vfs_unmount(&a);
	}
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(check(&b, "/f", 12), 0);
	ck_assert_int_eq(check(&b, "/g", 22), 0);
	ck_assert(is_kept_somewhere(&b, "not sent"));
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

/* Without the nodes of its base a journal cannot be replayed: that is said, and nothing is touched. */
static void refused_without_its_cache(const struct vfs_site *s)
{
	char cmd[500], cache[200], state[200];
	struct vfs m;

	snprintf(cmd, sizeof cmd, "mv '%s/b-cache' '%s/b-kept'", s->dir.path, s->dir.path);
	ck_assert_int_eq(system(cmd), 0);
	struct nf_vault_options o = vfs_options(s, "b", cache, state);
	ck_assert_int_eq(nf_vault_open(&o, &m.v), -NF_E_PACK_MISSING);
	snprintf(cmd, sizeof cmd, "rm -rf '%s/b-cache' && mv '%s/b-kept' '%s/b-cache'", s->dir.path, s->dir.path, s->dir.path);
	ck_assert_int_eq(system(cmd), 0);
}

/* Away for longer than anybody keeps what it stands on.  _i: as it is; mounted again in between; and once with its cache
 * mislaid. */
START_TEST(a_machine_whose_base_is_gone_keeps_its_own_changes_and_makes_no_hole)
{
	struct vfs_site s;
	struct vfs b;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(put(&a, "/f", 1), 0);
	ck_assert_int_eq(put(&a, "/g", 2), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct gate *g = gate_new(vfs_store(&s));
	ck_assert_int_eq(vfs_mount_over(&s, "b", &g->base, &b), 0);
	ck_assert_int_eq(check(&b, "/f", 1), 0);
	atomic_store(&g->shut_at, 1);
	edit(&b, "/f", "of b");
	ck_assert_int_eq(vfs_puts(&b, "/new", "of b"), 0);
	ck_assert_int_eq(put(&b, "/large", 3), 0);
	time_goes_by(&a);
	if (_i) {
		vfs_unmount(&b);
		if (_i == 2)
			refused_without_its_cache(&s);
		b = vfs_mount(&s, "b");
	} else {
		atomic_store(&g->shut_at, 0);
	}
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(vfs_checks(&a, "/new", "of b"), 0);
	ck_assert_int_eq(check(&a, "/large", 3), 0);
	ck_assert_int_eq(check(&a, "/f", 12), 0);
	ck_assert_int_eq(check(&a, "/g", 22), 0);
	ck_assert(is_kept_somewhere(&a, "of b"));
	ck_assert_uint_eq(vfs_problems(&a), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "gc_time", 120);

	tcase_add_loop_test(tc, a_machine_restored_from_a_backup_of_before_the_collection_makes_no_hole, 0, 2);
	tcase_add_test(tc, a_backup_with_unsent_changes_keeps_them_beside_what_came_since);
	tcase_add_loop_test(tc, a_machine_whose_base_is_gone_keeps_its_own_changes_and_makes_no_hole, 0, 3);
}

NF_SUITE("vault/gc_time")
