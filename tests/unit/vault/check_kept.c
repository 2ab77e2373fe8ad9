/* What was acknowledged is kept: take-overs, restarts and full disks in unlucky order. */
#include "base/random.h"
#include "vfs.h"
#include "vault/commit.h"
#include "vault/run.h"

#include <linux/falloc.h>
#include <unistd.h>

enum { SIZE = 300000 };

static char *noise(size_t len, uint64_t seed)
{
	struct nf_prng p;
	char *b = malloc(len);
	nf_prng_seed(&p, seed);
	for (size_t i = 0; i < len; i++)
		b[i] = (char)nf_prng_next(&p);
	return b;
}

static void edit(struct vfs *m, const char *path, const char *text, uint64_t at)
{
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_open(m, path, O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(m, f, ino, text, strlen(text), at), 0);
	ck_assert_int_eq(vfs_fsync(m, f, ino), 0);
	vfs_close(m, f, ino);
}

static void freeze(struct vfs *m)
{
	ck_assert_int_eq(nf_cut(m->v), 1);
	ck_assert_int_eq(nf_cut_drain(m->v), 0);
}

/* The frozen epoch's head goes to the store; M does not look for it. */
static void send(struct vfs *m)
{
	const struct nf_head *leaf = &m->v->base;
	struct nf_head sent;
	ck_assert_int_eq(nf_publish(m->v, &leaf, 1, &sent), 0);
	nf_head_deinit(&sent);
}

static void copy_disk(struct vfs_site *s, const char *from, const char *to)
{
	char cmd[900];
	const char *t = s->dir.path;

	snprintf(cmd, sizeof cmd, "rm -rf '%s/%s-state' '%s/%s-cache' && cp -a '%s/%s-state' '%s/%s-state' && "
		 "cp -a '%s/%s-cache' '%s/%s-cache'", t, to, t, to, t, from, t, to, t, from, t, to);
	ck_assert_int_eq(system(cmd), 0);
}

/* The machine NAME stops as it is; what its disk holds goes on as NEXT. */
static void crash(struct vfs_site *s, struct vfs *m, const char *name, const char *next)
{
	copy_disk(s, name, next);
	vfs_unmount(m);
	*m = vfs_mount(s, next);
}

/* The conflict copies in the root; the last one's path goes to OUT. */
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

/* Each fsync makes a journal record of its own; a conflict met in one concerns the next ones. */
START_TEST(edits_of_several_fsyncs_are_in_one_conflict_copy_after_a_crash)
{
	struct vfs_site s;
	char path[80];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	char *want = noise(SIZE, 1);

	ck_assert_int_eq(vfs_put(&a, "/f", want, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	edit(&a, "/f", "first", 50000);
	edit(&a, "/f", "second", 150000);
	edit(&b, "/f", "from b", 250000);
	ck_assert_int_eq(vfs_sync(&b), 0);
	/* The new base is remembered, the operations are not yet journaled in their new form. */
	ck_assert_int_eq(vfs_refresh(&a), 0);
	crash(&s, &a, "a", "a1");
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(conflict_paths(&a, path), 1);
	memcpy(want + 50000, "first", 5);
	memcpy(want + 150000, "second", 6);
	ck_assert_int_eq(vfs_check(&a, path, want, SIZE), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_check(&b, path, want, SIZE), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* The copy names blocks of the frozen epoch, which are in its journal segments and nowhere else under these references. */
START_TEST(a_conflict_copy_of_what_was_frozen_outlives_the_frozen_epochs_journal)
{
	struct vfs_site s;
	char path[80];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	char *want = noise(SIZE, 1), *first = noise(SIZE, 1);

	ck_assert_int_eq(vfs_put(&a, "/f", want, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	edit(&a, "/f", "frozen", 50000);
	freeze(&a);
	send(&a);
	edit(&a, "/f", "current", 150000);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	edit(&b, "/f", "from b", 250000);
	ck_assert_int_eq(vfs_sync(&b), 0);
	/* One leaf that holds the frozen epoch and b's change. */
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_ptr_null(a.v->frozen);
	if (_i)
		crash(&s, &a, "a", "a1");
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(conflict_paths(&a, path), 1);
	memcpy(want + 50000, "frozen", 6);
	memcpy(want + 150000, "current", 7);
	ck_assert_int_eq(vfs_check(&a, path, want, SIZE), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_check(&b, path, want, SIZE), 0);
	memcpy(first + 50000, "frozen", 6);
	memcpy(first + 250000, "from b", 6);
	ck_assert_int_eq(vfs_check(&b, "/f", first, SIZE), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	free(first);
	vfs_site_deinit(&s);
}
END_TEST

static atomic_bool full;

static int no_room(const struct nf_file_ops *o, const char *path, struct nf_file_room *out)
{
	int r = nf_file_real.room(o, path, out);

	if (full)
		out->free_bytes = 0;
	return r;
}

/* _i: how the file is made longer than what fits into its inode. */
START_TEST(a_small_file_that_cannot_grow_keeps_its_content)
{
	struct nf_file_ops files = nf_file_real;
	struct vfs_site s;
	struct nf_open_file *f;
	uint64_t ino;
	char cache[200], state[200];
	struct vfs a;
	vfs_site_init(&s, "", "");
	struct nf_vault_options o = vfs_options(&s, "a", cache, state);
	files.room = no_room;
	o.files = &files;
	ck_assert_int_eq(nf_vault_open(&o, &a.v), 0);
	a.fs = nf_vault_fs(a.v);

	ck_assert_int_eq(vfs_puts(&a, "/f", "small"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR, 0, &f, &ino), 0);
	full = true;
	nf_room_ask(a.v->room);
	int r;
	if (_i == 0) {
		r = vfs_truncate(&a, "/f", 1000);
	} else if (_i == 1) {
		struct nf_call c = { .op = NF_CALL_FALLOCATE, .ino = ino, .file = f, .size = 1000 };
		r = vfs_call(&a, &c);
	} else {
		r = vfs_pwrite(&a, f, ino, "far", 3, 2000);
	}
	ck_assert_int_eq(r, -NF_E_FULL);
	full = false;
	vfs_close(&a, f, ino);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_checks(&a, "/f", "small"), 0);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* Directories far apart in the tree, so that the way up has to be fetched. */
START_TEST(an_exchange_that_would_make_a_circle_is_not_done_by_a_machine_that_lacks_nodes)
{
	struct vfs_site s;
	char path[80];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	static const char *const dirs[] = { "/x", "/mid", "/p", "/p/q" };

	for (int d = 0; d < 4; d++) {
		ck_assert_int_eq(vfs_mkdir(&a, dirs[d]), 0);
		sprintf(path, "/fill%d", d);
		ck_assert_int_eq(vfs_mkdir(&a, path), 0);
		for (int i = 0; i < 300; i++) {
			sprintf(path, "/fill%d/a-file-with-a-name-%d", d, i);
			ck_assert_int_eq(vfs_puts(&a, path, "some content"), 0);
		}
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_rename(&b, "/mid", "/x/mid"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_rename(&b, "/p", "/x/mid/p"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	struct nf_call c = { .op = NF_CALL_RENAME, .ino = 1, .flags = 2, .name = "x", .name2 = "q" };
	char last[256];
	uint64_t ino, dir;
	ck_assert_int_eq(vfs_walk(&a, "/p/q", &c.ino2, last, &ino), 0);
	ck_assert_int_eq(vfs_call(&a, &c), 0);
	freeze(&a);
	send(&a);
	struct vfs m = vfs_mount(&s, "m");
	ck_assert_int_eq(vfs_refresh(&m), 0);
	ck_assert_uint_eq(vfs_problems(&m), 0);
	ck_assert_int_eq(vfs_walk(&m, "/x/mid/p/q", &dir, last, &ino), 0);
	ck_assert_uint_ne(ino, 0);
	vfs_unmount(&m);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

/* Where the frames of the newest segment end, from FROM on. */
static size_t frame_ends(const char *path, size_t from, size_t *ends, size_t max)
{
	uint8_t head[40];
	size_t at = 0, nr = 0;
	FILE *f = fopen(path, "rb");

	ck_assert_ptr_nonnull(f);
	while (fseek(f, (long)at, SEEK_SET) == 0 && fread(head, 1, sizeof head, f) == sizeof head && nr < max) {
		at += (sizeof head + nf_get_le32(head + 4) + 7) / 8 * 8;
		if (at >= from)
			ends[nr++] = at;
	}
	fclose(f);
	return nr;
}

/* After a take-over the operations are journaled in a new form; the power may go between any two of its records. */
START_TEST(operations_outlive_a_crash_while_their_new_form_is_journaled)
{
	enum { N = 900, LEN = 4000, ENDS = 64 };
	struct vfs_site s;
	struct nf_open_file *f;
	uint64_t ino;
	char *value = noise(LEN, 5), newest[200], cmd[900];
	size_t ends[ENDS], nr;
	struct stat st;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	for (int i = 0; i < N; i++) {
		struct nf_call c = { .op = NF_CALL_SETXATTR, .ino = ino, .data = value, .size = LEN };
		snprintf(c.name, sizeof c.name, "user.%d", i);
		ck_assert_int_eq(vfs_call(&a, &c), 0);
	}
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	ck_assert_int_eq(vfs_puts(&b, "/other", "b"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	snprintf(cmd, sizeof cmd, "ls '%s/a-state/journal' | tail -1", s.dir.path);
	FILE *p = popen(cmd, "r");
	char name[64] = "";
	ck_assert_int_eq(fscanf(p, "%63s", name), 1);
	pclose(p);
	snprintf(newest, sizeof newest, "%.120s/a-state/journal/%.40s", s.dir.path, name);
	ck_assert_int_eq(stat(newest, &st), 0);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	nr = frame_ends(newest, (size_t)st.st_size, ends, ENDS);
	ck_assert_uint_gt(nr, 3);
	vfs_close(&a, f, ino);
	for (size_t k = 0; k < nr; k++) {
		copy_disk(&s, "a", "cut");
		snprintf(newest, sizeof newest, "%.120s/cut-state/journal/%.40s", s.dir.path, name);
		ck_assert_int_eq(truncate(newest, (off_t)ends[k]), 0);
		struct vfs m = vfs_mount(&s, "cut");
		for (int i = 0; i < N; i += N / 10) {
			struct nf_call c = { .op = NF_CALL_GETXATTR, .ino = ino, .size = 8192 };
			snprintf(c.name, sizeof c.name, "user.%d", i);
			ck_assert_int_eq(vfs_call(&m, &c), 0);
			ck_assert_uint_eq(c.count, LEN);
			free(c.buf);
		}
		/* Once more, from what that mount left. */
		ck_assert_int_eq(vfs_puts(&m, "/more", "after"), 0);
		vfs_unmount(&m);
		m = vfs_mount(&s, "cut");
		struct nf_call c = { .op = NF_CALL_GETXATTR, .ino = ino, .size = 8192 };
		snprintf(c.name, sizeof c.name, "user.%d", N - 1);
		ck_assert_int_eq(vfs_call(&m, &c), 0);
		free(c.buf);
		ck_assert_int_eq(vfs_checks(&m, "/more", "after"), 0);
		vfs_unmount(&m);
	}
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(value);
	vfs_site_deinit(&s);
}
END_TEST

enum { ATTR_BYTES = 4000 };

static void has_attr(struct vfs *m, uint64_t ino, int i)
{
	nf_auto_free char *value = noise(ATTR_BYTES, (uint64_t)i);
	struct nf_call c = { .op = NF_CALL_GETXATTR, .ino = ino, .size = 8192 };

	snprintf(c.name, sizeof c.name, "user.%d", i);
	ck_assert_int_eq(vfs_call(m, &c), 0);
	ck_assert_uint_eq(c.count, ATTR_BYTES);
	ck_assert_mem_eq(c.buf, value, ATTR_BYTES);
	free(c.buf);
}

/* What was done while nothing could be sent is more than one delta may hold. _i: 1 stopped once in the middle. */
START_TEST(more_than_one_delta_holds_goes_out_in_several)
{
	enum { N = 2600 };
	struct vfs_site s;
	struct nf_open_file *f, *g;
	uint64_t ino, ino_g;
	char *want = noise(SIZE, 6);
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	ck_assert_int_eq(vfs_open(&a, "/g", O_RDWR | O_CREAT, 0644, &g, &ino_g), 0);
	ck_assert_int_eq(vfs_pwrite(&a, g, ino_g, want, SIZE, 0), 0);
	for (int i = 0; i < N; i++) {
		nf_auto_free char *value = noise(ATTR_BYTES, (uint64_t)i);
		struct nf_call c = { .op = NF_CALL_SETXATTR, .ino = ino, .data = value, .size = ATTR_BYTES };
		snprintf(c.name, sizeof c.name, "user.%d", i);
		ck_assert_int_eq(vfs_call(&a, &c), 0);
		/* Content of one file, version after version, on both sides of every split. */
		if (i % 400 == 0) {
			want[i * 100] = (char)i;
			ck_assert_int_eq(vfs_pwrite(&a, g, ino_g, want + i * 100, 1, (uint64_t)i * 100), 0);
			ck_assert_int_eq(vfs_fsync(&a, g, ino_g), 0);
		}
	}
	ck_assert_uint_gt(a.v->current->ops.len, 10 << 20);
	want[1] = 'x';
	ck_assert_int_eq(vfs_pwrite(&a, g, ino_g, want + 1, 1, 1), 0);
	if (_i) {
		ck_assert_int_eq(vfs_fsync(&a, g, ino_g), 0);
		freeze(&a);
		ck_assert_uint_lt(a.v->frozen->ops.len, 5 << 20);
		/* Once with the mark alone in the journal, once with all. */
		if (_i == 1) {
			ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
		} else {
			struct nf_buf b = NF_BUF_INIT;
			ck_assert_int_eq(nf_journal_encode_split(&b, a.v->writer, a.v->frozen->seq, a.v->frozen->split_at), 0);
			ck_assert_int_eq(nf_journal_record(a.v->journal, 'M', b.p, b.len), 0);
			nf_buf_deinit(&b);
		}
		copy_disk(&s, "a", "a1");
	}
	vfs_close(&a, f, ino);
	vfs_close(&a, g, ino_g);
	if (_i) {
		vfs_unmount(&a);
		a = vfs_mount(&s, "a1");
		has_attr(&a, ino, 0);
		has_attr(&a, ino, N - 1);
		ck_assert_int_eq(vfs_check(&a, "/g", want, SIZE), 0);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(a.v->current->nr_ops, 0);
	struct vfs b = vfs_mount(&s, "b");
	for (int i = 0; i < N; i += 13)
		has_attr(&b, ino, i);
	ck_assert_int_eq(vfs_check(&b, "/g", want, SIZE), 0);
	char path[80];
	ck_assert_uint_eq(conflict_paths(&b, path), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "kept", 100);
	tcase_add_test(tc, edits_of_several_fsyncs_are_in_one_conflict_copy_after_a_crash);
	tcase_add_loop_test(tc, a_conflict_copy_of_what_was_frozen_outlives_the_frozen_epochs_journal, 0, 2);
	tcase_add_loop_test(tc, a_small_file_that_cannot_grow_keeps_its_content, 0, 3);
	tcase_add_test(tc, operations_outlive_a_crash_while_their_new_form_is_journaled);
	tcase_add_loop_test(tc, more_than_one_delta_holds_goes_out_in_several, 0, 3);
	tcase_add_test(tc, an_exchange_that_would_make_a_circle_is_not_done_by_a_machine_that_lacks_nodes);
}

NF_SUITE("vault/kept")
