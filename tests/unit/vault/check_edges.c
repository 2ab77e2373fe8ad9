/* Far sizes, hostile times, births, and edits of what is replaced. */
#include "vfs.h"
#include "vault/commit.h"
#include "vault/run.h"

#include <unistd.h>

static unsigned conflict_paths(struct vfs *m, char out[80])
{
	static struct vfs_names names;
	unsigned found = 0;

	vfs_ls(m, "/", &names);
	for (size_t i = 0; i < names.nr; i++) {
		if (!strstr(names.name[i], "(conflict "))
			continue;
		found++;
		snprintf(out, 80, "/%s", names.name[i]);
	}
	return found;
}

/* Together they have more bytes than 63 bits count. */
START_TEST(files_of_the_greatest_size_are_counted_modulo_2_to_the_64th)
{
	const uint64_t most = INT64_MAX - (1 << 22);
	struct vfs_site s;
	char path[20];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof path, "/far%d", i);
		ck_assert_int_eq(vfs_puts(&a, path, "some"), 0);
		ck_assert_int_eq(vfs_truncate(&a, path, most), 0);
		if (i == 2)
			ck_assert_int_eq(vfs_sync(&a), 0);
	}
	ck_assert_int_eq(vfs_puts(&b, "/of-b", "b"), 0);
	ck_assert_int_eq(vfs_truncate(&b, "/of-b", most), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof path, "/far%d", i);
		ck_assert_int_eq(vfs_unlink(&a, path, false), 0);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(seeking_over_an_exabyte_of_hole_takes_no_time_with_undrained_blocks)
{
	struct vfs_site s;
	struct nf_open_file *f;
	uint64_t ino;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	ck_assert_int_eq(vfs_truncate(&a, "/f", UINT64_C(1) << 62), 0);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, "end", 3, UINT64_C(1) << 61), 0);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	struct nf_acc *acc = nf_acc_new((UINT64_C(1) << 60) >> f->vn->block_shift, 1000);
	ck_assert_int_eq(nf_acc_reserve(acc, 4), 0);
	acc->known[3] = true;
	acc->refs[3].sealed_len = 100;
	nf_lock_take(&a.v->ns);
	nf_acc_add(f->vn, acc);
	nf_lock_drop(&a.v->ns);
	struct nf_call c = { .op = NF_CALL_LSEEK, .ino = ino, .file = f, .flags = SEEK_DATA, .offset = 5000 };
	ck_assert_int_eq(vfs_call(&a, &c), 0);
	ck_assert_uint_eq(c.offset, (UINT64_C(1) << 60) + (UINT64_C(3) << f->vn->block_shift));
	c.offset += UINT64_C(1) << f->vn->block_shift;
	ck_assert_int_eq(vfs_call(&a, &c), 0);
	ck_assert_uint_eq(c.offset, UINT64_C(1) << 61);
	c.offset += UINT64_C(1) << f->vn->block_shift;
	ck_assert_int_eq(vfs_call(&a, &c), -ENXIO);
	nf_lock_take(&a.v->ns);
	nf_acc_drop(f->vn, UINT64_MAX);
	nf_lock_drop(&a.v->ns);
	vfs_close(&a, f, ino);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* _i: 0 the other side edited it where it was, 1 and moved it away. */
START_TEST(what_was_edited_and_then_replaced_leaves_no_copy_of_its_own)
{
	struct vfs_site s;
	char path[80];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_puts(&a, "/f", "first"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, "edited", 6, 0), 0);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	vfs_close(&a, f, ino);
	ck_assert_int_eq(vfs_puts(&a, "/new", "the new one"), 0);
	ck_assert_int_eq(vfs_rename(&a, "/new", "/f"), 0);
	ck_assert_int_eq(vfs_puts(&b, "/f", "from b"), 0);
	if (_i)
		ck_assert_int_eq(vfs_rename(&b, "/f", "/away"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	/* A commit so soon after a look would go beside b's. */
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	for (int i = 0; i < 2; i++) {
		struct vfs *m = i ? &b : &a;
		ck_assert_uint_eq(conflict_paths(m, path), !_i);
		ck_assert_int_eq(vfs_checks(m, "/f", "the new one"), 0);
		ck_assert_int_eq(vfs_checks(m, _i ? "/away" : path, "from b"), 0);
		ck_assert_uint_eq(vfs_problems(m), 0);
	}
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_time_beyond_any_calendar_makes_a_conflict_name_all_the_same)
{
	struct vfs_site s;
	char path[80];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	struct nf_want w = NF_WANT_INIT;

	ck_assert_int_eq(vfs_refresh(&b), 0);
	nf_lock_take(&a.v->ns);
	struct nf_op op = { .kind = NF_OP_CREATE, .conflict_mode = NF_MODE_STASH, .time = { INT64_MAX, 0 },
			    .ino = nf_vault_new_ino(a.v), .parent = 1, .name = "d", .name_len = 1,
			    .mode = S_IFDIR | 0755 };
	ck_assert_int_eq(nf_vault_do(a.v, &op, &w), 0);
	nf_lock_drop(&a.v->ns);
	nf_want_deinit(&w);
	ck_assert_int_eq(vfs_mkdir(&b, "/d"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(conflict_paths(&a, path), 1);
	ck_assert_str_eq(path, "/d (conflict a 9223372036854775807)");
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_uint_eq(conflict_paths(&b, path), 1);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(no_two_mounts_seal_blocks_with_one_birth)
{
	enum { MOUNTS = 4 };
	uint64_t births[MOUNTS];
	struct vfs_site s;
	char cmd[600];
	const char *t;
	vfs_site_init(&s, "", "");
	t = s.dir.path;

	for (int i = 0; i < MOUNTS; i++) {
		struct vfs a = vfs_mount(&s, "a");
		births[i] = a.v->birth;
		for (int k = 0; k < i; k++)
			ck_assert_uint_ne(births[i], births[k]);
		/* The machine stops here: nothing that unmounting does counts. */
		snprintf(cmd, sizeof cmd, "rm -rf '%s/kept' && cp -a '%s/a-state' '%s/kept'", t, t, t);
		ck_assert_int_eq(system(cmd), 0);
		vfs_unmount(&a);
		snprintf(cmd, sizeof cmd, "rm -rf '%s/a-state' && mv '%s/kept' '%s/a-state'", t, t, t);
		ck_assert_int_eq(system(cmd), 0);
	}
	vfs_site_deinit(&s);
}
END_TEST

/* More pieces than a reply holds, and behind them something that is not in memory. */
START_TEST(a_read_of_many_pieces_waits_for_what_is_behind_them)
{
	enum { BLOCK = 4096, NR = 200, LEN = NR * BLOCK };
	struct vfs_site s;
	struct nf_open_file *f;
	uint64_t ino;
	size_t got;
	char *want = malloc(LEN), *back = malloc(LEN);
	vfs_site_init(&s, "", "");
	s.block_shift = 12;
	struct vfs a = vfs_mount(&s, "a");

	for (int i = 0; i < LEN; i++)
		want[i] = (char)(i / 1000);
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	for (int i = NR - 1; i >= 0; i--)
		ck_assert_int_eq(vfs_pwrite(&a, f, ino, want + i * BLOCK, BLOCK, (uint64_t)i * BLOCK), 0);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	nf_invalidate(&f->vn->ic, LEN - BLOCK, LEN, LEN, LEN);
	ck_assert_int_eq(vfs_pread(&a, f, ino, back, LEN, 0, &got), 0);
	ck_assert_uint_eq(got, LEN);
	ck_assert_mem_eq(back, want, LEN);
	vfs_close(&a, f, ino);
	vfs_unmount(&a);
	free(want);
	free(back);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "edges", 60);
	tcase_add_test(tc, files_of_the_greatest_size_are_counted_modulo_2_to_the_64th);
		tcase_add_test(tc, seeking_over_an_exabyte_of_hole_takes_no_time_with_undrained_blocks);
	tcase_add_loop_test(tc, what_was_edited_and_then_replaced_leaves_no_copy_of_its_own, 0, 2);
	tcase_add_test(tc, a_read_of_many_pieces_waits_for_what_is_behind_them);
	tcase_add_test(tc, a_time_beyond_any_calendar_makes_a_conflict_name_all_the_same);
	tcase_add_test(tc, no_two_mounts_seal_blocks_with_one_birth);
}

NF_SUITE("vault/edges")
