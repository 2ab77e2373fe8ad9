#include "aio/file.h"

#include "base/error.h"
#include "suite.h"
#include "tempdir.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

static const struct nf_file_ops *const o = &nf_file_real;

START_TEST(what_is_written_is_read_back_and_the_end_is_told)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_file *f;
	char buf[16] = { 0 };
	size_t got = 99;
	uint64_t size;

	ck_assert_int_eq(o->open(o, nf_tempdir_path(&d, "f"), O_RDWR | O_CREAT, 0600, &f), 0);
	ck_assert_int_eq(o->pwrite(f, "hello", 5, 3), 0);
	ck_assert_int_eq(o->fdatasync(f), 0);
	ck_assert_int_eq(o->pread(f, buf, 5, 3, &got), 0);
	ck_assert_uint_eq(got, 5);
	ck_assert_mem_eq(buf, "hello", 5);
	ck_assert_int_eq(o->pread(f, buf, 5, 6, &got), -NF_E_XFORM_TRUNCATED);
	ck_assert_uint_eq(got, 2);
	ck_assert_int_eq(o->ftruncate(f, 4), 0);
	ck_assert_int_eq(o->size(f, &size), 0);
	ck_assert_uint_eq(size, 4);
	ck_assert_int_eq(fcntl(f->fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	o->close(f);
	o->close(NULL);
}
END_TEST

START_TEST(punching_frees_a_range_and_keeps_the_size)
{
	nf_auto_tempdir d = nf_tempdir_new();
	static char block[65536];
	struct nf_file *f;
	char c = 1;
	uint64_t size;

	memset(block, 'x', sizeof block);
	ck_assert_int_eq(o->open(o, nf_tempdir_path(&d, "f"), O_RDWR | O_CREAT, 0600, &f), 0);
	ck_assert_int_eq(o->pwrite(f, block, sizeof block, 0), 0);
	int r = o->punch(f, 4096, 8192);
	if (r != -EOPNOTSUPP) {
		ck_assert_int_eq(r, 0);
		ck_assert_int_eq(o->pread(f, &c, 1, 5000, NULL), 0);
		ck_assert_int_eq(c, 0);
	}
	ck_assert_int_eq(o->size(f, &size), 0);
	ck_assert_uint_eq(size, sizeof block);
	o->close(f);
}
END_TEST

/* Of a table that has no pwritev they are gathered; of the real one more are given than the system takes at once. */
START_TEST(pieces_are_written_one_behind_the_other)
{
	enum { NR = 3000 };
	nf_auto_tempdir d = nf_tempdir_new();
	static struct iovec iov[NR];
	static char in[NR * 7], out[NR * 7];
	struct nf_file_ops plain = *o;
	size_t len = 0;
	struct nf_file *f;
	uint64_t size;

	plain.pwritev = NULL;
	for (size_t i = 0; i < sizeof in; i++)
		in[i] = (char)(i * 31 + i / 251);
	for (int i = 0; i < NR; i++) {
		iov[i] = (struct iovec){ in + len, (size_t)i % 8 };
		len += iov[i].iov_len;
	}
	for (int real = 0; real < 2; real++) {
		ck_assert_int_eq(o->open(o, nf_tempdir_path(&d, real ? "real" : "plain"), O_RDWR | O_CREAT, 0600, &f), 0);
		if (!real)
			f->ops = &plain;
		ck_assert_int_eq(nf_file_pwritev(f, iov, NR, 5), 0);
		ck_assert_int_eq(o->size(f, &size), 0);
		ck_assert_uint_eq(size, 5 + len);
		memset(out, 0, sizeof out);
		ck_assert_int_eq(o->pread(f, out, len, 5, NULL), 0);
		ck_assert_mem_eq(out, in, len);
		ck_assert_int_eq(nf_file_pwritev(f, iov, 0, 5), 0);
		f->ops = o;
		o->close(f);
	}
}
END_TEST

START_TEST(errors_of_the_system_come_back_negative)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_file *f = NULL;
	struct nf_file_dirent *list;
	size_t nr;

	ck_assert_int_eq(o->open(o, nf_tempdir_path(&d, "no"), O_RDONLY, 0, &f), -ENOENT);
	ck_assert_ptr_null(f);
	ck_assert_int_eq(o->unlink(o, nf_tempdir_path(&d, "no")), -ENOENT);
	ck_assert_int_eq(o->rmdir(o, nf_tempdir_path(&d, "no")), -ENOENT);
	ck_assert_int_eq(o->rename(o, nf_tempdir_path(&d, "no"), nf_tempdir_path(&d, "x")),
			 -ENOENT);
	ck_assert_int_eq(o->stat(o, nf_tempdir_path(&d, "no"), NULL, NULL, NULL), -ENOENT);
	ck_assert_int_eq(o->list(o, nf_tempdir_path(&d, "no"), &list, &nr), -ENOENT);
	ck_assert_int_eq(o->fsync_dir(o, nf_tempdir_path(&d, "no")), -ENOENT);
	ck_assert_int_eq(nf_file_replace(o, nf_tempdir_path(&d, "no/x"), "a", 1), -ENOENT);
}
END_TEST

START_TEST(directories_are_made_listed_and_removed)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_file_dirent *list;
	size_t nr;
	bool is_dir;
	struct nf_file_room room, below;
	uint64_t size;
	int64_t mtime;

	ck_assert_int_eq(nf_file_mkdirs(o, nf_tempdir_path(&d, "a//b/c/")), 0);
	ck_assert_int_eq(nf_file_mkdirs(o, nf_tempdir_path(&d, "a/b/c")), 0);
	ck_assert_int_eq(o->mkdir(o, nf_tempdir_path(&d, "a"), 0700), 0);
	ck_assert_int_eq(nf_file_replace(o, nf_tempdir_path(&d, "a/f"), "xyz", 3), 0);
	ck_assert_int_eq(o->mkdir(o, nf_tempdir_path(&d, "a/f"), 0700), -ENOTDIR);
	ck_assert_int_eq(nf_file_mkdirs(o, nf_tempdir_path(&d, "a/f/g")), -ENOTDIR);
	ck_assert_int_eq(o->list(o, nf_tempdir_path(&d, "a"), &list, &nr), 0);
	ck_assert_uint_eq(nr, 2);
	for (size_t i = 0; i < nr; i++)
		ck_assert_int_eq(list[i].is_dir, strcmp(list[i].name, "b") == 0);
	nf_file_list_free(list, nr);
	ck_assert_int_eq(o->stat(o, nf_tempdir_path(&d, "a/f"), &size, &is_dir, &mtime), 0);
	ck_assert_uint_eq(size, 3);
	ck_assert(!is_dir && mtime > 0);
	ck_assert_int_eq(o->room(o, d.path, &room), 0);
	ck_assert_uint_gt(room.total_bytes, 0);
	ck_assert_uint_le(room.free_bytes, room.total_bytes);
	ck_assert_int_eq(o->room(o, nf_tempdir_path(&d, "a/b"), &below), 0);
	ck_assert_uint_eq(room.disk, below.disk);
	ck_assert_int_eq(o->rmdir(o, nf_tempdir_path(&d, "a/b")), -ENOTEMPTY);
	ck_assert_int_eq(o->rmdir(o, nf_tempdir_path(&d, "a/b/c")), 0);
	ck_assert_int_eq(o->fsync_dir(o, nf_tempdir_path(&d, "a/b")), 0);
}
END_TEST

START_TEST(a_small_file_is_replaced_and_read_whole)
{
	nf_auto_tempdir d = nf_tempdir_new();
	const char *path = nf_tempdir_path(&d, "state");
	void *p = NULL;
	size_t len = 77;

	ck_assert_int_eq(nf_file_replace(o, path, "one", 3), 0);
	ck_assert_int_eq(nf_file_replace(o, path, "second", 6), 0);
	ck_assert_int_eq(nf_file_slurp(o, path, 5, &p, &len), -EFBIG);
	ck_assert_ptr_null(p);
	ck_assert_int_eq(nf_file_slurp(o, path, 6, &p, &len), 0);
	ck_assert_uint_eq(len, 6);
	ck_assert_mem_eq(p, "second", 6);
	free(p);
	ck_assert_int_eq(nf_file_replace(o, path, "", 0), 0);
	ck_assert_int_eq(nf_file_slurp(o, path, 6, &p, &len), 0);
	ck_assert_uint_eq(len, 0);
	free(p);
	ck_assert_int_eq(o->stat(o, nf_tempdir_path(&d, "state.new"), NULL, NULL, NULL), -ENOENT);
}
END_TEST

START_TEST(a_lock_has_one_holder)
{
	nf_auto_tempdir d = nf_tempdir_new();
	const char *path = nf_tempdir_path(&d, "lock");
	struct nf_file *a, *b = NULL;

	ck_assert_int_eq(o->lock(o, path, &a), 0);
	/* flock belongs to the open file: a second open stands for a second process. */
	ck_assert_int_eq(o->lock(o, path, &b), -NF_E_CACHE_LOCKED);
	ck_assert_ptr_null(b);
	o->close(a);
	ck_assert_int_eq(o->lock(o, path, &b), 0);
	o->close(b);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "file", 20);
	tcase_add_test(tc, what_is_written_is_read_back_and_the_end_is_told);
	tcase_add_test(tc, punching_frees_a_range_and_keeps_the_size);
	tcase_add_test(tc, pieces_are_written_one_behind_the_other);
	tcase_add_test(tc, errors_of_the_system_come_back_negative);
	tcase_add_test(tc, directories_are_made_listed_and_removed);
	tcase_add_test(tc, a_small_file_is_replaced_and_read_whole);
	tcase_add_test(tc, a_lock_has_one_holder);
}

NF_SUITE("aio/file")
