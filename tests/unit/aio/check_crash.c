#include "aio/file_crash.h"

#include "base/error.h"
#include "base/mem.h"
#include "suite.h"

#include <fcntl.h>
#include <stdio.h>

enum { SEEDS = 60 };

static struct nf_file *open_at(struct nf_crash *c, const char *path, int flags)
{
	const struct nf_file_ops *o = nf_crash_ops(c);
	struct nf_file *f;

	ck_assert_int_eq(o->open(o, path, flags, 0600, &f), 0);
	return f;
}

static bool there(struct nf_crash *c, const char *path)
{
	const struct nf_file_ops *o = nf_crash_ops(c);

	return o->stat(o, path, NULL, NULL, NULL) == 0;
}

/* The whole content of a file as text; "-" if it is not there. */
static const char *content(struct nf_crash *c, const char *path)
{
	static char text[8192];
	void *p;
	size_t len;

	if (nf_file_slurp(nf_crash_ops(c), path, sizeof text - 1, &p, &len) < 0)
		return "-";
	memcpy(text, p, len);
	text[len] = '\0';
	free(p);
	return text;
}

static struct nf_crash *image(struct nf_crash *c, uint64_t n, uint64_t seed)
{
	struct nf_crash *out;

	ck_assert_int_eq(nf_crash_image(c, n, seed, &out), 0);
	return out;
}

START_TEST(what_was_synced_survives_every_crash)
{
	struct nf_crash *c;

	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	struct nf_file *f = open_at(c, "f", O_RDWR | O_CREAT);
	ck_assert_int_eq(o->pwrite(f, "abc", 3, 0), 0);
	ck_assert_int_eq(o->fdatasync(f), 0);
	ck_assert_int_eq(o->fsync_dir(o, "/"), 0);
	uint64_t n = nf_crash_nr_ops(c);
	ck_assert_int_eq(o->pwrite(f, "XYZ", 3, 3), 0);
	o->close(f);
	int kept = 0, dropped = 0;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct nf_crash *i = image(c, n, seed);
		const char *s = content(i, "f");
		ck_assert_mem_eq(s, "abc", 3);
		/* The write under way at the cut may be there or not. */
		kept += strcmp(s, "abcXYZ") == 0;
		dropped += strcmp(s, "abc") == 0;
		nf_crash_free(i);
	}
	ck_assert_int_gt(kept, 5);
	ck_assert_int_gt(dropped, 5);
	nf_crash_free(c);
}
END_TEST

START_TEST(data_without_a_synced_name_and_names_without_synced_data_may_go)
{
	struct nf_crash *c, *i;

	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	struct nf_file *f = open_at(c, "f", O_RDWR | O_CREAT);
	ck_assert_int_eq(o->pwrite(f, "abc", 3, 0), 0);
	ck_assert_int_eq(o->fdatasync(f), 0);
	i = image(c, 99, NF_CRASH_DROP_ALL);
	ck_assert(!there(i, "f"));
	nf_crash_free(i);
	ck_assert_int_eq(o->fsync_dir(o, "/"), 0);
	ck_assert_int_eq(o->pwrite(f, "d", 1, 3), 0);
	i = image(c, 99, NF_CRASH_DROP_ALL);
	ck_assert_str_eq(content(i, "f"), "abc");
	nf_crash_free(i);
	i = image(c, 99, NF_CRASH_KEEP_ALL);
	ck_assert_str_eq(content(i, "f"), "abcd");
	nf_crash_free(i);
	ck_assert_int_eq(o->unlink(o, "f"), 0);
	i = image(c, 99, NF_CRASH_DROP_ALL);
	ck_assert(there(i, "f"));
	nf_crash_free(i);
	i = image(c, 99, NF_CRASH_KEEP_NAMES);
	ck_assert(!there(i, "f"));
	nf_crash_free(i);
	o->close(f);
	nf_crash_free(c);
}
END_TEST

START_TEST(a_rename_is_atomic_and_durable_after_its_directory)
{
	struct nf_crash *c;

	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	ck_assert_int_eq(nf_file_mkdirs(o, "/a"), 0);
	ck_assert_int_eq(o->fsync_dir(o, "/"), 0);
	ck_assert_int_eq(nf_file_replace(o, "/a/f", "old", 3), 0);
	uint64_t from = nf_crash_nr_ops(c);
	ck_assert_int_eq(nf_file_replace(o, "/a/f", "new", 3), 0);
	uint64_t to = nf_crash_nr_ops(c);
	for (uint64_t n = from; n <= to; n++)
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			struct nf_crash *i = image(c, n, seed);
			const char *s = content(i, "/a/f");
			ck_assert_msg(strcmp(s, "new") == 0 || (n < to && strcmp(s, "old") == 0),
				      "cut %d seed %d: %s", (int)n, (int)seed, s);
			nf_crash_free(i);
		}
	nf_crash_free(c);
}
END_TEST

START_TEST(unsynced_writes_are_torn_at_sectors_and_dropped_out_of_order)
{
	struct nf_crash *c;
	static char a[2048], want[2048];
	int torn = 0, reordered = 0, only_length = 0;

	memset(a, 'a', sizeof a);
	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	struct nf_file *f = open_at(c, "f", O_RDWR | O_CREAT);
	ck_assert_int_eq(o->fsync_dir(o, "/"), 0);
	ck_assert_int_eq(o->pwrite(f, a, sizeof a, 0), 0);
	ck_assert_int_eq(o->pwrite(f, "second", 6, 4096), 0);
	for (uint64_t seed = NF_CRASH_RANDOM; seed < 400; seed++) {
		struct nf_crash *i = image(c, 99, seed);
		void *p;
		size_t len;
		ck_assert_int_eq(nf_file_slurp(nf_crash_ops(i), "f", 9999, &p, &len), 0);
		int sectors = 0;
		for (size_t at = 0; at + 512 <= len && at < sizeof a; at += 512) {
			memset(want, 0, sizeof want);
			if (*((char *)p + at) == 'a')
				sectors++, memset(want, 'a', 512);
			ck_assert_mem_eq((char *)p + at, want, 512);
		}
		torn += sectors > 0 && sectors < 4;
		reordered += sectors == 0 && len == 4102 && memcmp((char *)p + 4096, "second", 6) == 0;
		only_length += len == 2048 && sectors == 0;
		free(p);
		nf_crash_free(i);
	}
	ck_assert_int_gt(torn, 5);
	ck_assert_int_gt(reordered, 5);
	ck_assert_int_gt(only_length, 5);
	o->close(f);
	nf_crash_free(c);
}
END_TEST

START_TEST(some_seeds_spoil_one_write_and_keep_the_others)
{
	enum { SIZE = 1500 };
	struct nf_crash *c;
	static char a[SIZE];
	unsigned spoilt[4] = { 0 };

	memset(a, 'a', sizeof a);
	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	struct nf_file *f = open_at(c, "f", O_RDWR | O_CREAT);
	for (uint64_t i = 0; i < 4; i++)
		ck_assert_int_eq(o->pwrite(f, a, sizeof a, SIZE * i), 0);
	for (uint64_t seed = NF_CRASH_KINDS + NF_CRASH_SPOILS; seed < 400; seed += NF_CRASH_KINDS) {
		struct nf_crash *i = image(c, 99, seed);
		void *p;
		size_t len;
		unsigned found = 0;
		ck_assert_int_eq(nf_file_slurp(nf_crash_ops(i), "f", 9999, &p, &len), 0);
		ck_assert_uint_eq(len, 4 * SIZE);
		for (unsigned k = 0; k < 4; k++) {
			bool whole = !memcmp((char *)p + SIZE * k, a, SIZE);
			ck_assert_int_eq(*((char *)p + SIZE * k), 'a');
			found += !whole;
			spoilt[k] += !whole;
		}
		ck_assert_uint_eq(found, 1);
		free(p);
		nf_crash_free(i);
	}
	for (unsigned k = 0; k < 4; k++)
		ck_assert_uint_gt(spoilt[k], 5);
	o->close(f);
	nf_crash_free(c);
}
END_TEST

START_TEST(the_same_seed_gives_the_same_disk_and_an_image_can_crash_again)
{
	struct nf_crash *c;

	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	ck_assert_int_eq(nf_file_replace(o, "f", "one", 3), 0);
	struct nf_file *f = open_at(c, "f", O_RDWR);
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(o->pwrite(f, "x", 1, (uint64_t)i), 0);
	o->close(f);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct nf_crash *i = image(c, 15, seed), *k = image(c, 15, seed);
		char s[64];
		snprintf(s, sizeof s, "%s", content(i, "f"));
		ck_assert_str_eq(content(k, "f"), s);
		ck_assert_int_eq(nf_file_replace(nf_crash_ops(k), "g", "two", 3), 0);
		struct nf_crash *again = image(k, 99, NF_CRASH_DROP_ALL);
		ck_assert_str_eq(content(again, "f"), s);
		ck_assert_str_eq(content(again, "g"), "two");
		nf_crash_free(again);
		nf_crash_free(k);
		nf_crash_free(i);
	}
	nf_crash_free(c);
}
END_TEST

START_TEST(data_of_a_failed_sync_is_not_made_durable_by_the_next)
{
	struct nf_crash *c, *i;

	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	struct nf_file *f = open_at(c, "f", O_RDWR | O_CREAT);
	ck_assert_int_eq(o->fsync_dir(o, "/"), 0);
	ck_assert_int_eq(o->pwrite(f, "ab", 2, 0), 0);
	nf_crash_fail(c, NF_CRASH_FDATASYNC, 0, -EIO);
	ck_assert_int_eq(o->fdatasync(f), -EIO);
	ck_assert_int_eq(o->pwrite(f, "cd", 2, 2), 0);
	ck_assert_int_eq(o->fdatasync(f), 0);
	i = image(c, 99, NF_CRASH_DROP_ALL);
	ck_assert_mem_eq(content(i, "f"), "\0\0cd", 4);
	nf_crash_free(i);
	o->close(f);
	nf_crash_free(c);
}
END_TEST

START_TEST(a_full_disk_takes_what_fits_and_gives_room_back)
{
	struct nf_crash *c;
	static char block[3 * 4096];
	struct nf_file_room room;

	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	nf_crash_set_room(c, 4 * 4096);
	struct nf_file *f = open_at(c, "f", O_RDWR | O_CREAT), *g = open_at(c, "g", O_RDWR | O_CREAT);
	ck_assert_int_eq(o->pwrite(f, block, sizeof block, 0), 0);
	ck_assert_int_eq(o->pwrite(g, block, sizeof block, 0), -ENOSPC);
	ck_assert_uint_eq(nf_crash_used(c), 4 * 4096);
	ck_assert_int_eq(o->punch(f, 100, 2 * 4096), 0);
	ck_assert_uint_eq(nf_crash_used(c), 3 * 4096);
	ck_assert_int_eq(o->unlink(o, "f"), 0);
	ck_assert_uint_eq(nf_crash_used(c), 3 * 4096); /* still open */
	o->close(f);
	ck_assert_uint_eq(nf_crash_used(c), 4096);
	ck_assert_int_eq(o->room(o, "/", &room), 0);
	ck_assert_uint_eq(room.free_bytes, 3 * 4096);
	ck_assert_int_eq(o->ftruncate(g, 0), 0);
	ck_assert_uint_eq(nf_crash_used(c), 0);
	o->close(g);
	nf_crash_free(c);
}
END_TEST

START_TEST(the_nth_operation_of_a_kind_fails_once)
{
	struct nf_crash *c;
	char b[4];

	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	struct nf_file *f = open_at(c, "f", O_RDWR | O_CREAT);
	nf_crash_fail(c, NF_CRASH_WRITE, 1, -EIO);
	ck_assert_int_eq(o->pwrite(f, "ab", 2, 0), 0);
	ck_assert_int_eq(o->pwrite(f, "cdef", 4, 0), -EIO);
	ck_assert_str_eq(content(c, "f"), "cd"); /* half of it got there */
	ck_assert_int_eq(o->pwrite(f, "cdef", 4, 0), 0);
	nf_crash_fail(c, NF_CRASH_READ, 0, -EIO);
	ck_assert_int_eq(o->pread(f, b, 4, 0, NULL), -EIO);
	ck_assert_int_eq(o->pread(f, b, 4, 0, NULL), 0);
	nf_crash_fail(c, NF_CRASH_ANY, 0, -EROFS);
	ck_assert_int_eq(o->pread(f, b, 4, 0, NULL), 0);
	ck_assert_int_eq(o->mkdir(o, "d", 0700), -EROFS);
	ck_assert_int_eq(o->mkdir(o, "d", 0700), 0);
	o->close(f);
	nf_crash_free(c);
}
END_TEST

START_TEST(the_table_answers_as_a_real_disk_does)
{
	struct nf_crash *c;
	struct nf_file *f;
	nf_auto(nf_text_deinit) struct nf_text t = NF_TEXT_INIT;

	ck_assert_int_eq(nf_crash_new(&c), 0);
	const struct nf_file_ops *o = nf_crash_ops(c);
	ck_assert_int_eq(nf_file_mkdirs(o, "/a/b"), 0);
	ck_assert_int_eq(o->open(o, "/a/x", O_RDONLY, 0, &f), -ENOENT);
	ck_assert_int_eq(o->open(o, "/no/x", O_RDWR | O_CREAT, 0, &f), -ENOENT);
	ck_assert_int_eq(o->open(o, "/a/b", O_RDONLY, 0, &f), -EISDIR);
	ck_assert_int_eq(o->open(o, "/a/../x", O_RDWR | O_CREAT, 0, &f), -EINVAL);
	ck_assert_int_eq(nf_file_replace(o, "/a/f", "1", 1), 0);
	ck_assert_int_eq(o->open(o, "/a/f", O_RDWR | O_CREAT | O_EXCL, 0, &f), -EEXIST);
	ck_assert_int_eq(o->mkdir(o, "/a/f", 0), -ENOTDIR);
	ck_assert_int_eq(o->rename(o, "/a/f", "/a/b"), -EISDIR);
	ck_assert_int_eq(o->rename(o, "/a/b", "/a/f"), -ENOTDIR);
	ck_assert_int_eq(o->rmdir(o, "/a"), -ENOTEMPTY);
	ck_assert_int_eq(o->rename(o, "/a", "/z"), 0);
	ck_assert(there(c, "/z/f") && !there(c, "/a"));
	ck_assert_int_eq(o->unlink(o, "/z"), -EISDIR);
	ck_assert_int_eq(o->unlink(o, "/z/f"), 0);
	ck_assert_int_eq(o->rmdir(o, "/z/b"), 0);
	nf_crash_to_text(c, &t);
	ck_assert_ptr_nonnull(strstr(nf_text_str(&t), "rename"));
	nf_crash_free(c);
	nf_crash_free(NULL);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "crash", 60);
	tcase_add_test(tc, what_was_synced_survives_every_crash);
	tcase_add_test(tc, data_without_a_synced_name_and_names_without_synced_data_may_go);
	tcase_add_test(tc, a_rename_is_atomic_and_durable_after_its_directory);
	tcase_add_test(tc, unsynced_writes_are_torn_at_sectors_and_dropped_out_of_order);
	tcase_add_test(tc, some_seeds_spoil_one_write_and_keep_the_others);
	tcase_add_test(tc, the_same_seed_gives_the_same_disk_and_an_image_can_crash_again);
	tcase_add_test(tc, data_of_a_failed_sync_is_not_made_durable_by_the_next);
	tcase_add_test(tc, a_full_disk_takes_what_fits_and_gives_room_back);
	tcase_add_test(tc, the_nth_operation_of_a_kind_fails_once);
	tcase_add_test(tc, the_table_answers_as_a_real_disk_does);
}

NF_SUITE("aio/crash")
