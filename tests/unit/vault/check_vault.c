/* The vault whole, by its calls: one machine, two machines, restarts, forks. */
#include "base/random.h"
#include "vault/recover.h"
#include "vault/vault_i.h"
#include "vfs.h"

#include <fcntl.h>
#include <ftw.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static char largest[300];
static off_t largest_bytes;

static void set_max_put(struct vfs *m, uint64_t bytes) { atomic_store(&m->v->store->max_put_bytes, bytes); }

static char *noise(size_t len, uint64_t seed)
{
	struct nf_prng p;
	char *b = malloc(len);
	nf_prng_seed(&p, seed);
	for (size_t i = 0; i < len; i++)
		b[i] = (char)nf_prng_next(&p);
	return b;
}

START_TEST(what_is_written_is_read_back)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	char *big = noise(3 * MIB + 777, 1);

	ck_assert_int_eq(vfs_puts(&a, "/small", "hello"), 0);
	ck_assert_int_eq(vfs_checks(&a, "/small", "hello"), 0);
	ck_assert_int_eq(vfs_mkdir(&a, "/dir"), 0);
	ck_assert_int_eq(vfs_put(&a, "/dir/big", big, 3 * MIB + 777), 0);
	ck_assert_int_eq(vfs_check(&a, "/dir/big", big, 3 * MIB + 777), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_check(&a, "/dir/big", big, 3 * MIB + 777), 0);
	vfs_unmount(&a);
	free(big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(another_machine_reads_what_was_synced)
{
	struct vfs_site s;
	struct vfs_names names;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	char *big = noise(2 * MIB + 5, 2);

	ck_assert_int_eq(vfs_mkdir(&a, "/d"), 0);
	ck_assert_int_eq(vfs_put(&a, "/d/big", big, 2 * MIB + 5), 0);
	ck_assert_int_eq(vfs_puts(&a, "/d/small", "tiny"), 0);
	ck_assert_int_eq(vfs_puts(&a, "/gone", "x"), 0);
	ck_assert_int_eq(vfs_unlink(&a, "/gone", false), 0);
	ck_assert_int_eq(vfs_rename(&a, "/d/small", "/moved"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_check(&b, "/d/big", big, 2 * MIB + 5), 0);
	ck_assert_int_eq(vfs_checks(&b, "/moved", "tiny"), 0);
	ck_assert_uint_eq(vfs_ls(&b, "/", &names), 2);
	ck_assert_uint_eq(vfs_ls(&b, "/d", &names), 1);
	/* And changes it, which the first one sees. */
	ck_assert_int_eq(vfs_puts(&b, "/moved", "changed by b"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(vfs_checks(&a, "/moved", "changed by b"), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(what_was_not_uploaded_survives_a_restart)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	char *big = noise(MIB + 5, 3);

	ck_assert_int_eq(vfs_mkdir(&a, "/d"), 0);
	ck_assert_int_eq(vfs_put(&a, "/d/big", big, MIB + 5), 0);
	ck_assert_int_eq(vfs_puts(&a, "/d/small", "tiny"), 0);
	vfs_unmount(&a);
	a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_check(&a, "/d/big", big, MIB + 5), 0);
	ck_assert_int_eq(vfs_checks(&a, "/d/small", "tiny"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_check(&b, "/d/big", big, MIB + 5), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(independent_changes_of_two_machines_merge)
{
	struct vfs_site s;
	struct vfs_names names;
	char path[64], text[64];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	ck_assert_int_eq(vfs_mkdir(&a, "/d"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	for (int i = 0; i < 20; i++) {
		snprintf(path, sizeof path, "/d/a%d", i);
		snprintf(text, sizeof text, "from a %d", i);
		ck_assert_int_eq(vfs_puts(&a, path, text), 0);
		snprintf(path, sizeof path, "/d/b%d", i);
		ck_assert_int_eq(vfs_puts(&b, path, text), 0);
		if (i % 3 == 0)
			ck_assert_int_eq(vfs_sync(&a), 0);
		if (i % 4 == 0)
			ck_assert_int_eq(vfs_sync(&b), 0);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_uint_eq(vfs_ls(&a, "/d", &names), 40);
	ck_assert_uint_eq(vfs_ls(&b, "/d", &names), 40);
	for (int i = 0; i < 20; i++) {
		snprintf(path, sizeof path, "/d/b%d", i);
		snprintf(text, sizeof text, "from a %d", i);
		ck_assert_int_eq(vfs_checks(&a, path, text), 0);
	}
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_file_changed_by_both_is_kept_twice)
{
	struct vfs_site s;
	struct vfs_names names;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	char *big = noise(200000, 9);

	ck_assert_int_eq(vfs_put(&a, "/f.txt", big, 200000), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	struct nf_open_file *f;
	uint64_t ino;
	ck_assert_int_eq(vfs_open(&a, "/f.txt", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, "AAAA", 4, 100), 0);
	vfs_close(&a, f, ino);
	ck_assert_int_eq(vfs_open(&b, "/f.txt", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&b, f, ino, "BBBB", 4, 150000), 0);
	vfs_close(&b, f, ino);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_uint_eq(vfs_ls(&a, "/", &names), 2);
	ck_assert_uint_eq(vfs_ls(&b, "/", &names), 2);
	memcpy(big + 100, "AAAA", 4);
	ck_assert_int_eq(vfs_check(&b, "/f.txt", big, 200000), 0);
	for (size_t i = 0; i < names.nr; i++) {
		if (!strcmp(names.name[i], "f.txt"))
			continue;
		char path[80];
		snprintf(path, sizeof path, "/%s", names.name[i]);
		ck_assert_ptr_nonnull(strstr(path, "(conflict b "));
		char *mine = noise(200000, 9);
		memcpy(mine + 150000, "BBBB", 4);
		ck_assert_int_eq(vfs_check(&a, path, mine, 200000), 0);
		ck_assert_int_eq(vfs_check(&b, path, mine, 200000), 0);
		free(mine);
	}
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(files_grow_shrink_and_have_holes)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	char *want = calloc(1, 400000);

	ck_assert_int_eq(vfs_puts(&a, "/f", "0123456789"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_truncate(&a, "/f", 300), 0);
	memcpy(want, "0123456789", 10);
	ck_assert_int_eq(vfs_check(&a, "/f", want, 300), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_truncate(&a, "/f", 400000), 0);
	ck_assert_int_eq(vfs_check(&a, "/f", want, 400000), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_check(&a, "/f", want, 400000), 0);
	ck_assert_int_eq(vfs_truncate(&a, "/f", 5), 0);
	ck_assert_int_eq(vfs_truncate(&a, "/f", 20000), 0);
	memset(want + 5, 0, 5);
	ck_assert_int_eq(vfs_check(&a, "/f", want, 20000), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_check(&b, "/f", want, 20000), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_restored_backup_becomes_a_new_writer)
{
	struct vfs_site s;
	char cmd[400];
	struct nf_vault_status st;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_puts(&a, "/before", "1"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	snprintf(cmd, sizeof cmd, "cp -a %s/a-state %s/kept", s.dir.path, s.dir.path);
	ck_assert_int_eq(system(cmd), 0);
	a = vfs_mount(&s, "a");
	nf_vault_status(a.v, &st);
	uint32_t first = st.writer;
	ck_assert_int_eq(vfs_puts(&a, "/after", "2"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	snprintf(cmd, sizeof cmd, "rm -rf %s/a-state && mv %s/kept %s/a-state", s.dir.path, s.dir.path, s.dir.path);
	ck_assert_int_eq(system(cmd), 0);
	a = vfs_mount(&s, "a");
	nf_vault_status(a.v, &st);
	ck_assert_uint_ne(st.writer, first);
	ck_assert_int_eq(vfs_checks(&a, "/after", "2"), 0);
	ck_assert_int_eq(vfs_puts(&a, "/again", "3"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_checks(&b, "/again", "3"), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

/* A store that takes bodies of 480 KiB: the metadata fills several packs, blocks go out in many. */
START_TEST(a_commit_may_fill_many_packs)
{
	struct vfs_site s;
	char path[64], text[600];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	char *big = noise(MIB, 9);
	struct vfs_names names;

	set_max_put(&a, 480 << 10);
	ck_assert_int_eq(vfs_put(&a, "/big", big, MIB), 0);
	for (int i = 0; i < 1000; i++) {
		snprintf(path, sizeof path, "/f%d", i);
		char *words = noise(400, (uint64_t)i);
		ck_assert_int_eq(vfs_put(&a, path, words, 400), 0);
		free(words);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	/* And once more on a tree that lies in many packs. */
	ck_assert_int_eq(vfs_unlink(&a, "/f7", false), 0);
	snprintf(text, sizeof text, "%0500d", 7);
	ck_assert_int_eq(vfs_puts(&a, "/f8", text), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_check(&b, "/big", big, MIB), 0);
	ck_assert_int_eq(vfs_checks(&b, "/f8", text), 0);
	ck_assert_uint_eq(vfs_ls(&b, "/", &names), 1000);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_store_that_goes_back_is_refused)
{
	struct vfs_site s;
	char cache[200], state[200];
	struct vfs_site other;
	struct vfs m;
	vfs_site_init(&s, "", "");
	vfs_site_init(&other, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_puts(&a, "/f", "1"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	/* The same vault as it was in the beginning. */
	struct nf_store *st = vfs_store(&other);
	struct nf_store_op list = { .verb = NF_STORE_LIST, .name = "heads" };
	ck_assert_int_eq(nf_store_run(st, &list), 0);
	for (size_t i = 0; i < list.nr_entries; i++) {
		struct nf_store_op del = { .verb = NF_STORE_DELETE };
		snprintf(del.name, sizeof del.name, "heads/%s", list.entries[i].name);
		ck_assert_int_eq(nf_store_run(st, &del), 0);
	}
	nf_store_op_deinit(&list);
	ck_assert_int_eq(nf_vault_format(st, s.header, "test"), 0);
	nf_store_free(st);
	struct nf_vault_options o = vfs_options(&s, "a", cache, state);
	nf_store_free(o.store);
	o.store = vfs_store(&other);
	ck_assert_int_eq(nf_vault_open(&o, &m.v), -NF_E_HEAD_ROLLBACK);
	a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_checks(&a, "/f", "1"), 0);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
	vfs_site_deinit(&other);
}
END_TEST

/* Another version's record is not damage, which could be put aside. */
START_TEST(a_record_of_another_version_is_refused_as_that)
{
	static const uint8_t old[] = { 1, 7, 0, 0, 0, 9 }, ours[] = { 2, 7, 0, 0, 0, 9 };
	struct nf_rd rd = nf_rd_of(old, sizeof old);
	uint32_t writer;

	ck_assert_int_eq(nf_record_begin(&rd, &writer), -NF_E_FORMAT_UNKNOWN);
	rd = nf_rd_of(ours, sizeof ours);
	ck_assert_int_eq(nf_record_begin(&rd, &writer), 0);
	ck_assert_uint_eq(writer, 7);
	rd = nf_rd_of(ours, 3);
	ck_assert_int_eq(nf_record_begin(&rd, &writer), -NF_E_JOURNAL_BAD);
}
END_TEST

static int find_largest(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)ftw;
	if (kind == FTW_F && strstr(path, ".seg") && st->st_size > largest_bytes) {
		largest_bytes = st->st_size;
		snprintf(largest, sizeof largest, "%s", path);
	}
	return 0;
}

/* A bit of a block that waits on the disk goes.  The mount before had ended well, so this is no torn tail: one file has an error,
 * and nothing else is lost. */
START_TEST(damage_of_what_was_closed_well_is_no_torn_tail)
{
	enum { BYTES = 200 << 10 };
	char path[20], *p = malloc(BYTES), byte;
	struct vfs_site s;
	int bad = 0;

	vfs_site_init(&s, "fault+", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_sync(&a), 0);
	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof path, "/f%d", i);
		nf_random(p, BYTES);
		ck_assert_int_eq(vfs_put(&a, path, p, BYTES), 0);
	}
	vfs_unmount(&a);
	largest_bytes = 0;
	ck_assert_int_eq(nftw(s.dir.path, find_largest, 16, FTW_PHYS), 0);
	int fd = open(largest, O_RDWR);
	ck_assert_int_eq(pread(fd, &byte, 1, largest_bytes / 2), 1);
	byte ^= 1;
	ck_assert_int_eq(pwrite(fd, &byte, 1, largest_bytes / 2), 1);
	close(fd);
	a = vfs_mount(&s, "a");
	for (int i = 0; i < 5; i++) {
		struct nf_open_file *f;
		uint64_t ino;
		size_t len;
		snprintf(path, sizeof path, "/f%d", i);
		ck_assert_int_eq(vfs_open(&a, path, O_RDONLY, 0, &f, &ino), 0);
		bad += vfs_pread(&a, f, ino, p, BYTES, 0, &len) < 0;
		vfs_close(&a, f, ino);
	}
	ck_assert_int_eq(bad, 1);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
	free(p);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "vault", 60);
	tcase_add_test(tc, what_is_written_is_read_back);
	tcase_add_test(tc, a_record_of_another_version_is_refused_as_that);
	tcase_add_test(tc, damage_of_what_was_closed_well_is_no_torn_tail);
	tcase_add_test(tc, another_machine_reads_what_was_synced);
	tcase_add_test(tc, what_was_not_uploaded_survives_a_restart);
	tcase_add_test(tc, independent_changes_of_two_machines_merge);
	tcase_add_test(tc, a_file_changed_by_both_is_kept_twice);
	tcase_add_test(tc, a_restored_backup_becomes_a_new_writer);
	tcase_add_test(tc, a_store_that_goes_back_is_refused);
	tcase_add_test(tc, files_grow_shrink_and_have_holes);
	tcase_add_test(tc, a_commit_may_fill_many_packs);
}

NF_SUITE("vault/vault")
