/* A file that is written without a pause while newer versions of it are taken over. */
#include "vfs.h"

#include <pthread.h>
#include <stdatomic.h>

enum { FILE_BYTES = 40000, MINE_AT = 100, THEIRS_AT = 9000, OTHERS = 100, ROUNDS = 8 };

struct writing {
	struct vfs *m;
	struct nf_open_file *f;
	uint64_t ino;
	atomic_bool stop;
	atomic_uint nr;
	atomic_int error;
};

static void *write_for_ever(void *arg)
{
	struct writing *w = arg;

	while (!atomic_load(&w->stop)) {
		uint64_t v = atomic_fetch_add(&w->nr, 1);
		int r = vfs_pwrite(w->m, w->f, w->ino, &v, sizeof v, MINE_AT);
		if (r == 0)
			r = vfs_fsync(w->m, w->f, w->ino);
		if (r < 0)
			atomic_store(&w->error, r);
	}
	return NULL;
}

static uint64_t value_at(struct vfs *m, struct nf_open_file *f, uint64_t ino, uint64_t at)
{
	uint64_t v = 0;
	size_t got;

	ck_assert_int_eq(vfs_pread(m, f, ino, &v, sizeof v, at, &got), 0);
	ck_assert_uint_eq(got, sizeof v);
	return v;
}

/* They change it, and many others before it: those are told to the library first, so there is time between the exchange
 * and its own turn. */
static void change(struct vfs *b, uint64_t v)
{
	struct nf_open_file *f;
	uint64_t ino;
	char path[32];

	for (unsigned i = 0; i < OTHERS; i++) {
		snprintf(path, sizeof path, "/o%u", i);
		ck_assert_int_eq(vfs_put(b, path, &v, sizeof v), 0);
	}
	ck_assert_int_eq(vfs_open(b, "/z", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(b, f, ino, &v, sizeof v, THEIRS_AT), 0);
	vfs_close(b, f, ino);
	ck_assert_int_eq(vfs_sync(b), 0);
}

START_TEST(nothing_of_the_version_before_is_stored_over_the_new_one)
{
	struct vfs_site s;
	struct writing w = { 0 };
	pthread_t th;
	char path[32], *text = calloc(1, FILE_BYTES);
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	for (unsigned i = 0; i < OTHERS; i++) {
		snprintf(path, sizeof path, "/o%u", i);
		ck_assert_int_eq(vfs_puts(&a, path, "before"), 0);
	}
	ck_assert_int_eq(vfs_put(&a, "/z", text, FILE_BYTES), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	w.m = &a;
	ck_assert_int_eq(vfs_open(&a, "/z", O_RDWR, 0, &w.f, &w.ino), 0);
	ck_assert_uint_eq(value_at(&a, w.f, w.ino, THEIRS_AT), 0);
	pthread_create(&th, NULL, write_for_ever, &w);
	for (uint64_t round = 1; round <= ROUNDS; round++) {
		change(&b, round);
		ck_assert_int_eq(vfs_refresh(&a), 0);
		unsigned before = atomic_load(&w.nr);
		ck_assert_uint_eq(value_at(&a, w.f, w.ino, THEIRS_AT), round);
		while (atomic_load(&w.nr) < before + 3)
			usleep(1000); /* those who were held go on */
		ck_assert_uint_eq(value_at(&a, w.f, w.ino, THEIRS_AT), round);
	}
	atomic_store(&w.stop, true);
	pthread_join(th, NULL);
	ck_assert_int_eq(atomic_load(&w.error), 0);
	uint64_t mine = atomic_load(&w.nr) - 1;
	vfs_close(&a, w.f, w.ino);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_open(&b, "/z", O_RDWR, 0, &w.f, &w.ino), 0);
	ck_assert_uint_eq(value_at(&b, w.f, w.ino, MINE_AT), mine);
	ck_assert_uint_eq(value_at(&b, w.f, w.ino, THEIRS_AT), ROUNDS);
	vfs_close(&b, w.f, w.ino);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(text);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "held", 60);

	tcase_add_test(tc, nothing_of_the_version_before_is_stored_over_the_new_one);
}

NF_SUITE("vault/held")
