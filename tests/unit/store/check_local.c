/* The stores on this machine: memory and directory, and what all stores share. */
#include "foliofs/store.h"
#include "store/types.h"

#include "aio/file.h"
#include "base/counter.h"
#include "conform.h"
#include "suite.h"
#include "tempdir.h"

#include <fcntl.h>
#include <sys/stat.h>

static void conform(struct nf_store *s)
{
	struct nf_text why = NF_TEXT_INIT;
	int r = conform_run(s, &why);

	ck_assert_msg(r == 0, "%s", nf_text_str(&why));
	nf_text_deinit(&why);
}

START_TEST(memory_conforms)
{
	struct nf_store *s;

	ck_assert_int_eq(nf_store_open("mem:conform", NULL, false, &s), 0);
	conform(s);
	nf_store_free(s);
}
END_TEST

START_TEST(a_directory_conforms)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_store *s;

	ck_assert_int_eq(nf_store_open(d.path, NULL, false, &s), 0);
	conform(s);
	nf_store_free(s);
}
END_TEST

START_TEST(opens_of_one_name_share_a_memory_store_until_the_last_closes)
{
	struct nf_store *a, *b, *other;
	struct nf_store_op op;
	bool same;

	ck_assert_int_eq(nf_store_open("mem:one", NULL, false, &a), 0);
	ck_assert_int_eq(nf_store_open("mem:one", NULL, false, &b), 0);
	ck_assert_int_eq(nf_store_open("mem:two", NULL, false, &other), 0);
	ck_assert_int_eq(conform_put(a, "x", 100), 0);
	nf_store_free(a);
	ck_assert_int_eq(conform_get(b, "x", 0, 100, false, &op, &same), 0);
	ck_assert(same);
	ck_assert_int_eq(conform_get(other, "x", 0, 100, false, &op, &same), -NF_E_STORE_NOT_FOUND);
	nf_store_free(b);
	ck_assert_int_eq(nf_store_open("mem:one", NULL, false, &a), 0);
	ck_assert_int_eq(conform_get(a, "x", 0, 100, false, &op, &same), -NF_E_STORE_NOT_FOUND);
	nf_store_free(a);
	nf_store_free(other);
}
END_TEST

static const char *const bad_names[] = { "", "/", "/a", "a/", "a//b", "A", "a.b", "..", "a b", "a/../b",
					 "\xc3\xbc" };

START_TEST(a_bad_name_never_reaches_a_store)
{
	struct nf_store *s;

	ck_assert_int_eq(nf_store_open("mem:names", NULL, false, &s), 0);
	ck_assert_int_eq(conform_put(s, bad_names[_i], 1), -EINVAL);
	struct nf_store_op op = { .verb = NF_STORE_STAT };
	memset(op.name, 'a', sizeof op.name); /* no end */
	ck_assert_int_eq(nf_store_run(s, &op), -EINVAL);
	nf_store_free(s);
}
END_TEST

START_TEST(a_body_that_is_not_its_length_or_too_large_is_refused)
{
	struct nf_store *s;
	struct nf_store_op op;
	struct iovec iov = { (void *)(uintptr_t) "abc", 3 };

	ck_assert_int_eq(nf_store_open("mem:len", NULL, false, &s), 0);
	conform_name(&op, NF_STORE_PUT, "x");
	op.iov = &iov;
	op.nr_iov = 1;
	op.length_bytes = 4;
	ck_assert_int_eq(nf_store_run(s, &op), -EINVAL);
	s->max_put_bytes = 10;
	ck_assert_int_eq(conform_put(s, "x", 11), -NF_E_STORE_TOO_LARGE);
	ck_assert_int_eq(conform_put(s, "x", 10), 0);
	s->read_only = true;
	ck_assert_int_eq(conform_put(s, "x", 10), -NF_E_STORE_READONLY);
	nf_store_free(s);
}
END_TEST

START_TEST(operations_and_bytes_are_counted)
{
	struct nf_store *s;
	struct nf_store_op op;
	bool same;
	uint64_t puts = nf_counter_get(NF_C_STORE_PUT), gets = nf_counter_get(NF_C_STORE_GET);
	uint64_t in = nf_counter_get(NF_C_STORE_BYTES_IN), out = nf_counter_get(NF_C_STORE_BYTES_OUT);

	ck_assert_int_eq(nf_store_open("fault+mem:count", NULL, false, &s), 0);
	ck_assert_int_eq(conform_put(s, "x", 100), 0);
	ck_assert_int_eq(conform_get(s, "x", 0, 30, false, &op, &same), 0);
	nf_store_free(s);
	ck_assert_uint_eq(nf_counter_get(NF_C_STORE_PUT) - puts, 1);
	ck_assert_uint_eq(nf_counter_get(NF_C_STORE_GET) - gets, 1);
	ck_assert_uint_eq(nf_counter_get(NF_C_STORE_BYTES_IN) - in, 30);
	ck_assert_uint_eq(nf_counter_get(NF_C_STORE_BYTES_OUT) - out, 100);
}
END_TEST

START_TEST(a_missing_directory_is_made_only_when_asked)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_store *s;
	char path[128];

	snprintf(path, sizeof path, "file://%s/a%%20b/c", d.path);
	ck_assert_int_eq(nf_store_open(path, NULL, false, &s), -ENOENT);
	ck_assert_int_eq(nf_store_open(path, NULL, true, &s), 0);
	ck_assert_int_eq(nf_store_probe(s), 0);
	ck_assert_int_eq(conform_put(s, "x", 1), 0);
	uint64_t used, room;
	ck_assert_int_eq(s->ops->quota(s, &used, &room), 0);
	ck_assert_uint_gt(room, 0);
	nf_store_free(s);
	snprintf(path, sizeof path, "%s/a b/c/x", d.path);
	ck_assert_int_eq(access(path, F_OK), 0);
	ck_assert_int_eq(nf_store_open(path, NULL, false, &s), -ENOTDIR);
}
END_TEST

START_TEST(a_directory_that_is_away_is_like_a_server_that_is)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_store_options opt = { .may_be_away = true };
	char path[128], moved[128];
	struct nf_store_op op;
	struct nf_store *s;
	bool same;

	snprintf(path, sizeof path, "%s/disk", d.path);
	snprintf(moved, sizeof moved, "%s/elsewhere", d.path);
	ck_assert_int_eq(nf_store_open(path, &opt, false, &s), 0);
	for (int round = 0; round < 2; round++) {
		ck_assert_int_eq(conform_get(s, "x", 0, 1, false, &op, &same), -NF_E_OFFLINE);
		ck_assert_int_eq(conform_put(s, "p/y", 1), -NF_E_OFFLINE);
		for (int verb = NF_STORE_STAT; verb <= NF_STORE_DELETE; verb++) {
			op = (struct nf_store_op){ .verb = (enum nf_store_verb)verb, .name = "x" };
			if (verb == NF_STORE_LIST)
				op.name[0] = '\0';
			ck_assert_int_eq(nf_store_run(s, &op), -NF_E_OFFLINE);
		}
		ck_assert_int_eq(access(path, F_OK), -1); /* nothing was made in its place */
		if (round == 1)
			break;
		ck_assert_int_eq(mkdir(path, 0700), 0);
		ck_assert_int_eq(conform_put(s, "x", 1), 0);
		ck_assert_int_eq(conform_put(s, "p/y", 1), 0);
		op = (struct nf_store_op){ .verb = NF_STORE_DELETE, .name = "none" };
		ck_assert_int_eq(nf_store_run(s, &op), 0);
		ck_assert_int_eq(conform_get(s, "none", 0, 1, false, &op, &same), -NF_E_STORE_NOT_FOUND);
		ck_assert_int_eq(rename(path, moved), 0);
	}
	nf_store_free(s);
}
END_TEST

START_TEST(foreign_and_temporary_files_are_not_listed)
{
	nf_auto_tempdir d = nf_tempdir_new();
	static const char *const files[] = { ".tmp-1-1", "README", "a.b", "ok" };
	struct nf_store *s;
	struct nf_store_op op;

	for (size_t i = 0; i < NF_ARRAY_LEN(files); i++)
		close(open(nf_tempdir_path(&d, files[i]), O_CREAT | O_WRONLY, 0600));
	ck_assert_int_eq(nf_store_open(d.path, NULL, false, &s), 0);
	conform_name(&op, NF_STORE_LIST, "");
	ck_assert_int_eq(nf_store_run(s, &op), 0);
	ck_assert_uint_eq(op.nr_entries, 1);
	ck_assert_str_eq(op.entries[0].name, "ok");
	nf_store_op_deinit(&op);
	nf_store_free(s);
}
END_TEST

START_TEST(old_temporary_files_go_and_young_ones_stay)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct timespec old[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };
	struct nf_store *s;

	ck_assert_int_eq(mkdir(nf_tempdir_path(&d, "p"), 0700), 0);
	close(open(nf_tempdir_path(&d, "p/.tmp-1-1"), O_CREAT | O_WRONLY, 0600));
	close(open(nf_tempdir_path(&d, "p/.tmp-2-2"), O_CREAT | O_WRONLY, 0600));
	ck_assert_int_eq(utimensat(AT_FDCWD, nf_tempdir_path(&d, "p/.tmp-1-1"), old, 0), 0);
	ck_assert_int_eq(nf_store_open(d.path, NULL, false, &s), 0);
	ck_assert_int_eq(conform_put(s, "p/x", 5), 0);
	nf_store_free(s);
	ck_assert_int_ne(access(nf_tempdir_path(&d, "p/.tmp-1-1"), F_OK), 0);
	ck_assert_int_eq(access(nf_tempdir_path(&d, "p/.tmp-2-2"), F_OK), 0);
}
END_TEST

START_TEST(a_directory_that_vanished_is_made_again)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_store *s;

	ck_assert_int_eq(nf_store_open(d.path, NULL, false, &s), 0);
	ck_assert_int_eq(conform_put(s, "p/q/x", 5), 0);
	ck_assert_int_eq(unlink(nf_tempdir_path(&d, "p/q/x")), 0);
	ck_assert_int_eq(rmdir(nf_tempdir_path(&d, "p/q")), 0);
	ck_assert_int_eq(conform_put(s, "p/q/y", 5), 0);
	nf_store_free(s);
}
END_TEST

/* -- a table that writes down what is done to the disk -- */

static struct nf_file_ops recorder;
static char record[4096];

static int rec_rename(const struct nf_file_ops *o, const char *from, const char *to)
{
	strcat(record, "rename ");
	(void)o;
	return nf_file_real.rename(&nf_file_real, from, to);
}

static int rec_fsync_dir(const struct nf_file_ops *o, const char *path)
{
	const char *last = strrchr(path, '/');

	(void)o;
	snprintf(record + strlen(record), 64, "fsync:%s ", last[1] == 'n' ? "root" : last + 1);
	return nf_file_real.fsync_dir(&nf_file_real, path);
}

static int rec_mkdir(const struct nf_file_ops *o, const char *path, mode_t mode)
{
	(void)o;
	snprintf(record + strlen(record), 64, "mkdir:%s ", strrchr(path, '/') + 1);
	return nf_file_real.mkdir(&nf_file_real, path, mode);
}

START_TEST(a_put_is_acknowledged_after_file_and_names_are_durable)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_store *s;

	recorder = nf_file_real;
	recorder.rename = rec_rename;
	recorder.fsync_dir = rec_fsync_dir;
	recorder.mkdir = rec_mkdir;
	ck_assert_int_eq(nf_store_dir_new(d.path, &recorder, NF_DIR_IS_THERE, &s), 0);
	ck_assert_int_eq(conform_put(s, "p/q/x", 5), 0);
	ck_assert_str_eq(record, "mkdir:p fsync:root mkdir:q fsync:p rename fsync:q ");
	record[0] = '\0';
	ck_assert_int_eq(conform_put(s, "p/q/y", 5), 0);
	ck_assert_str_eq(record, "rename fsync:q ");
	nf_store_free(s);
}
END_TEST

/* -- a disk that goes in the midst of an operation -- */

static char going[128], gone_to[160];

static void take_away(void) { ck_assert_int_eq(rename(going, gone_to), 0); }

static int gone_after_list(const struct nf_file_ops *o, const char *path, struct nf_file_dirent **list, size_t *nr)
{
	int r = nf_file_real.list(&nf_file_real, path, list, nr);

	(void)o;
	take_away();
	return r;
}

static int gone_after_rename(const struct nf_file_ops *o, const char *from, const char *to)
{
	int r = nf_file_real.rename(&nf_file_real, from, to);

	(void)o;
	take_away();
	return r;
}

START_TEST(a_directory_that_goes_during_a_listing_is_not_an_empty_one)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_file_ops files = nf_file_real;
	struct nf_store_op op;
	struct nf_store *s;

	snprintf(going, sizeof going, "%s/disk", d.path);
	snprintf(gone_to, sizeof gone_to, "%s/elsewhere", d.path);
	ck_assert_int_eq(nf_store_dir_new(going, &files, NF_DIR_IS_MADE, &s), 0);
	ck_assert_int_eq(conform_put(s, "x", 1), 0);
	files.list = gone_after_list;
	conform_name(&op, NF_STORE_LIST, "");
	ck_assert_int_eq(nf_store_run(s, &op), -NF_E_OFFLINE);
	ck_assert_uint_eq(op.nr_entries, 0);
	nf_store_free(s);
}
END_TEST

START_TEST(a_put_whose_directory_goes_after_it_has_its_name_has_an_unknown_outcome)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_file_ops files = nf_file_real;
	struct nf_store *s;

	snprintf(going, sizeof going, "%s/disk", d.path);
	snprintf(gone_to, sizeof gone_to, "%s/elsewhere", d.path);
	ck_assert_int_eq(nf_store_dir_new(going, &files, NF_DIR_IS_MADE, &s), 0);
	files.rename = gone_after_rename;
	ck_assert_int_eq(conform_put(s, "x", 1), -NF_E_STORE_UNKNOWN_OUTCOME);
	nf_store_free(s);
	ck_assert_int_eq(access(nf_tempdir_path(&d, "elsewhere/x"), F_OK), 0);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *t = nf_case(s, "local", 60);

	tcase_add_test(t, memory_conforms);
	tcase_add_test(t, a_directory_conforms);
	tcase_add_test(t, opens_of_one_name_share_a_memory_store_until_the_last_closes);
	tcase_add_loop_test(t, a_bad_name_never_reaches_a_store, 0, NF_ARRAY_LEN(bad_names));
	tcase_add_test(t, a_body_that_is_not_its_length_or_too_large_is_refused);
	tcase_add_test(t, operations_and_bytes_are_counted);
	tcase_add_test(t, a_missing_directory_is_made_only_when_asked);
	tcase_add_test(t, a_directory_that_is_away_is_like_a_server_that_is);
	tcase_add_test(t, a_directory_that_goes_during_a_listing_is_not_an_empty_one);
	tcase_add_test(t, a_put_whose_directory_goes_after_it_has_its_name_has_an_unknown_outcome);
	tcase_add_test(t, foreign_and_temporary_files_are_not_listed);
	tcase_add_test(t, old_temporary_files_go_and_young_ones_stay);
	tcase_add_test(t, a_directory_that_vanished_is_made_again);
	tcase_add_test(t, a_put_is_acknowledged_after_file_and_names_are_durable);
}

NF_SUITE("store/local")
