/* Operations that say the same in less: how much less, and that conflicts end as they would have. */
#include "base/random.h"
#include "squash.h"

enum { SIZE = 1 << 20 };

static char *noise(size_t len, uint64_t seed)
{
	struct nf_prng p;
	char *b = malloc(len);
	nf_prng_seed(&p, seed);
	for (size_t i = 0; i < len; i++)
		b[i] = (char)nf_prng_next(&p);
	return b;
}

static void edit(struct vfs *m, const char *path, const void *p, size_t len, uint64_t at)
{
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_open(m, path, O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(m, f, ino, p, len, at), 0);
	ck_assert_int_eq(vfs_fsync(m, f, ino), 0);
	vfs_close(m, f, ino);
}

/* As editors do it. */
static void save(struct vfs *m, const char *path, const char *text)
{
	char tmp[100];

	snprintf(tmp, sizeof tmp, "%s.tmp", path);
	ck_assert_int_eq(vfs_puts(m, tmp, text), 0);
	ck_assert_int_eq(nf_settle(m->v), 0);
	ck_assert_int_eq(vfs_rename(m, tmp, path), 0);
}

static uint32_t squashed(struct vfs *m)
{
	size_t before;

	(void)squash_check(m, &before);
	ck_assert_int_eq(nf_squash_current(m->v), 1);
	return m->v->current->nr_ops;
}

static bool conflict_of(struct vfs *m, char path[80])
{
	static struct vfs_names names;

	vfs_ls(m, "/", &names);
	for (size_t i = 0; i < names.nr; i++) {
		if (!strstr(names.name[i], "(conflict "))
			continue;
		snprintf(path, 80, "/%s", names.name[i]);
		return true;
	}
	return false;
}

static void agree(struct vfs *a, struct vfs *b)
{
	ck_assert_int_eq(vfs_sync(a), 0);
	ck_assert_int_eq(vfs_sync(b), 0);
	ck_assert_int_eq(vfs_refresh(a), 0);
	ck_assert_uint_eq(vfs_problems(b), 0);
}

/* What is left of a thousand operations on ten files, after a restart too. */
START_TEST(what_is_overwritten_again_and_again_is_told_once)
{
	struct vfs_site s;
	char path[40], *want = noise(SIZE, 1);
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 10; i++) {
			snprintf(path, sizeof path, "/f%d", i);
			ck_assert_int_eq(round ? 0 : vfs_puts(&a, path, ""), 0);
			edit(&a, path, want + round, SIZE / 2, (uint64_t)i * 1000);
			edit(&a, path, want, 100, (uint64_t)round * 5000);
		}
		snprintf(path, sizeof path, "/dead%d", round);
		ck_assert_int_eq(vfs_mkdir(&a, path), 0);
		snprintf(path, sizeof path, "/dead%d/x", round);
		ck_assert_int_eq(vfs_put(&a, path, want, 50000), 0);
		ck_assert_int_eq(nf_settle(a.v), 0);
		ck_assert_int_eq(vfs_unlink(&a, path, false), 0);
		*strrchr(path, '/') = '\0';
		ck_assert_int_eq(vfs_unlink(&a, path, true), 0);
	}
	uint32_t before = a.v->current->nr_ops, after = squashed(&a);
	printf("# %u operations became %u\n", before, after);
	/* A claim, ten files, their data, the times of the root. */
	ck_assert_uint_le(after, 22);
	/* The journal lets go of what holds nothing but what died. */
	nf_journal_let_go(a.v);
	ck_assert_uint_eq(squash_check(&a, &(size_t){ 0 }), a.v->current->ops.len);
	if (_i) {
		vfs_unmount(&a);
		a = vfs_mount(&s, "a");
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	char *have = malloc(SIZE);
	for (int i = 0; i < 10; i++) {
		memset(have, 0, SIZE);
		for (int round = 0; round < 20; round++) {
			memcpy(have + i * 1000, want + round, SIZE / 2);
			memcpy(have + round * 5000, want, 100);
		}
		snprintf(path, sizeof path, "/f%d", i);
		ck_assert_int_eq(vfs_check(&b, path, have, SIZE / 2 + (size_t)i * 1000), 0);
	}
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(have);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* Told in parts, a commit might have a later change of the file and not an earlier one. */
START_TEST(what_is_too_large_for_one_operation_stays_as_it_was)
{
	struct vfs_site s;
	char *bytes = noise(SIZE, 2);
	size_t before;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_puts(&a, "/f", ""), 0);
	for (int round = 0; round < 3; round++)
		for (int window = 0; window < 4; window++)
			edit(&a, "/f", bytes + round, 50000, (uint64_t)window * NF_WINDOW_BLOCKS * 16384);
	size_t small = squash_check(&a, &before);
	ck_assert_uint_lt(small, before / 2);
	/* The claim, the file, what opening it set, and its data in the order it was written. */
	ck_assert_uint_gt(squash_check_max(&a, 50, &before), before / 4 * 3);
	vfs_unmount(&a);
	free(bytes);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(many_edits_that_meet_another_become_one_conflict_copy_with_all_of_them)
{
	struct vfs_site s;
	char path[80], *want = noise(SIZE, 2);
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	ck_assert_int_eq(vfs_put(&a, "/f", want, SIZE), 0);
	agree(&a, &b);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	for (int i = 0; i < 20; i++) {
		edit(&a, "/f", "from a", 6, 100000);
		edit(&a, "/f", want + i, 1000, (uint64_t)(i % 3) * 200000);
	}
	edit(&b, "/f", "from b", 6, 500000);
	ck_assert_uint_le(squashed(&a), 2);
	ck_assert_int_eq(vfs_sync(&b), 0);
	agree(&a, &b);
	ck_assert(conflict_of(&b, path));
	memcpy(want + 500000, "from b", 6);
	ck_assert_int_eq(vfs_check(&a, "/f", want, SIZE), 0);
	free(want);
	want = noise(SIZE, 2);
	char *now = noise(SIZE, 2);
	memcpy(now + 100000, "from a", 6);
	for (int i = 0; i < 20; i++)
		memcpy(now + i % 3 * 200000, want + i, 1000);
	ck_assert_int_eq(vfs_check(&b, path, now, SIZE), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(now);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* _i: 0 nobody else, 1 another edits the version that all of them replaced, 2 and it is removed in the end. */
START_TEST(of_versions_saved_by_rename_the_last_replaces_the_first)
{
	struct vfs_site s;
	char path[80], text[40];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	ck_assert_int_eq(vfs_puts(&a, "/f", "version 0"), 0);
	agree(&a, &b);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	for (int i = 1; i < 30; i++) {
		snprintf(text, sizeof text, "version %d", i);
		save(&a, "/f", text);
	}
	if (_i == 2)
		ck_assert_int_eq(vfs_unlink(&a, "/f", false), 0);
	ck_assert_uint_le(squashed(&a), 5);
	if (_i) {
		edit(&b, "/f", "from b!!!", 9, 0);
		ck_assert_int_eq(vfs_sync(&b), 0);
	}
	agree(&a, &b);
	bool copy = conflict_of(&b, path);
	ck_assert(copy == (_i == 1));
	ck_assert_int_eq(vfs_check(&b, "/f", _i == 2 ? "from b!!!" : "version 29", _i == 2 ? 9 : 10), 0);
	if (copy)
		ck_assert_int_eq(vfs_check(&b, path, "from b!!!", 9), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

/* A directory that came and went holds up nothing, one that something stays in stays. */
START_TEST(what_came_out_of_a_directory_that_is_gone_is_whole)
{
	struct vfs_site s;
	char path[80], to[80];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	for (int i = 0; i < 30; i++) {
		snprintf(path, sizeof path, "/d%d", i);
		ck_assert_int_eq(vfs_mkdir(&a, path), 0);
		snprintf(path, sizeof path, "/d%d/x", i);
		ck_assert_int_eq(vfs_puts(&a, path, "kept"), 0);
		snprintf(to, sizeof to, "/x%d", i % 3);
		ck_assert_int_eq(nf_settle(a.v), 0);
		ck_assert_int_eq(vfs_rename(&a, path, to), 0);
		*strrchr(path, '/') = '\0';
		ck_assert_int_eq(vfs_unlink(&a, path, true), 0);
	}
	(void)squashed(&a);
	agree(&a, &b);
	for (int i = 0; i < 3; i++) {
		snprintf(to, sizeof to, "/x%d", i);
		ck_assert_int_eq(vfs_check(&b, to, "kept", 4), 0);
	}
	static struct vfs_names names;
	ck_assert_uint_eq(vfs_ls(&b, "/", &names), 3);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "squash", 60);
	tcase_add_loop_test(tc, what_is_overwritten_again_and_again_is_told_once, 0, 2);
	tcase_add_test(tc, what_is_too_large_for_one_operation_stays_as_it_was);
	tcase_add_test(tc, many_edits_that_meet_another_become_one_conflict_copy_with_all_of_them);
	tcase_add_loop_test(tc, of_versions_saved_by_rename_the_last_replaces_the_first, 0, 3);
	tcase_add_test(tc, what_came_out_of_a_directory_that_is_gone_is_whole);
}

NF_SUITE("vault/squash")
