/* The journal's room: full disks, and what keeps old segments. */
#include "base/random.h"
#include "vfs.h"
#include "vault/commit.h"
#include "vault/run.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
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

/* No file of this process can grow beyond BYTES. */
static void disk_limit(rlim_t bytes)
{
	struct rlimit l;

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &l), 0);
	l.rlim_cur = NF_MIN(bytes, l.rlim_max);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static void disk_full(bool full) { disk_limit(full ? 1 : RLIM_INFINITY); }

static int exchange(struct vfs *m, const char *a, const char *b)
{
	struct nf_call c = { .op = NF_CALL_RENAME, .ino = 1, .ino2 = 1, .flags = 2 };
	snprintf(c.name, sizeof c.name, "%s", a);
	snprintf(c.name2, sizeof c.name2, "%s", b);
	return vfs_call(m, &c);
}

static int hard_link(struct vfs *m, uint64_t ino, const char *name)
{
	struct nf_call c = { .op = NF_CALL_LINK, .ino = ino, .ino2 = 1 };
	snprintf(c.name2, sizeof c.name2, "%s", name);
	return vfs_call(m, &c);
}

/* _i: 0 a rename over a file, 1 an exchange, 2 an exchange the other way round, 3 a link. */
START_TEST(a_file_whose_data_cannot_be_stored_gets_no_other_name)
{
	struct vfs_site s;
	struct nf_open_file *f;
	uint64_t ino;
	char *want = noise(SIZE, 1);
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_puts(&a, "/old", "the old content"), 0);
	ck_assert_int_eq(vfs_puts(&a, "/new", ""), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_open(&a, "/new", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, want, SIZE, 0), 0);
	disk_full(true);
	int r = _i == 0 ? vfs_rename(&a, "/new", "/old") : _i == 1 ? exchange(&a, "new", "old") :
		_i == 2 ? exchange(&a, "old", "new") : hard_link(&a, ino, "third");
	disk_full(false);
	ck_assert_int_lt(r, 0);
	ck_assert_int_eq(vfs_checks(&a, "/old", "the old content"), 0);
	/* Once there is room again it goes. */
	r = _i == 0 ? vfs_rename(&a, "/new", "/old") : _i < 3 ? exchange(&a, "new", "old") : hard_link(&a, ino, "third");
	ck_assert_int_eq(r, 0);
	vfs_close(&a, f, ino);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_check(&a, _i == 3 ? "/third" : "/old", want, SIZE), 0);
	vfs_unmount(&a);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

static int flush(struct vfs *m, struct nf_open_file *f, uint64_t ino)
{
	struct nf_call c = { .op = NF_CALL_FLUSH, .ino = ino, .file = f };
	return vfs_call(m, &c);
}

START_TEST(each_descriptor_hears_once_of_a_failed_write_back)
{
	enum { DESCRIPTORS = 4 };
	struct vfs_site s;
	struct nf_open_file *f[DESCRIPTORS], *later, *reader;
	uint64_t ino;
	char *want = noise(4096, 1);
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	for (unsigned i = 0; i < DESCRIPTORS; i++)
		ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR | O_CREAT, 0644, &f[i], &ino), 0);
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDONLY, 0, &reader, &ino), 0);
	ck_assert_int_eq(vfs_fsync(&a, f[0], ino), 0);
	ck_assert_int_eq(vfs_pwrite(&a, f[0], ino, want, 4096, 0), 0);
	disk_full(true);
	/* As long as it cannot be stored, whoever asks is told. */
	int first = vfs_fsync(&a, f[0], ino);
	ck_assert_int_lt(first, 0);
	ck_assert_int_lt(vfs_fsync(&a, f[0], ino), 0);
	disk_full(false);
	ck_assert_int_eq(vfs_sync(&a), 0);
	/* It is stored now; who has not heard hears of it, once. */
	ck_assert_int_eq(vfs_fsync(&a, f[0], ino), 0);
	ck_assert_int_eq(vfs_fsync(&a, f[1], ino), first);
	ck_assert_int_eq(vfs_fsync(&a, f[1], ino), 0);
	ck_assert_int_eq(flush(&a, f[1], ino), 0);
	ck_assert_int_eq(flush(&a, f[2], ino), first);
	ck_assert_int_eq(flush(&a, f[2], ino), 0);
	ck_assert_int_eq(vfs_fsync(&a, f[2], ino), 0);
	ck_assert_int_eq(flush(&a, reader, ino), 0);
	/* Opened since: nothing has failed. */
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR, 0, &later, &ino), 0);
	ck_assert_int_eq(vfs_fsync(&a, later, ino), 0);
	ck_assert_int_eq(vfs_check(&a, "/f", want, 4096), 0);
	for (unsigned i = 0; i < DESCRIPTORS; i++)
		vfs_close(&a, f[i], ino);
	vfs_close(&a, reader, ino);
	vfs_close(&a, later, ino);
	vfs_unmount(&a);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* _i: 0 the file is on the server, 1 its blocks are in the journal, from its lowest segment on. */
START_TEST(an_open_file_without_a_name_keeps_only_the_segments_it_needs)
{
	struct vfs_site s;
	struct nf_open_file *f;
	uint64_t ino;
	size_t got;
	char *want = noise(SIZE, 2), *other = noise(SIZE, 3), *back = malloc(SIZE);
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_put(&a, "/f", want, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(vfs_put(&a, "/other", other, SIZE), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR, 0, &f, &ino), 0);
	if (_i) {
		memcpy(want + 100000, "changed", 7);
		ck_assert_int_eq(vfs_pwrite(&a, f, ino, "changed", 7, 100000), 0);
		ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	}
	ck_assert_int_eq(vfs_unlink(&a, "/f", false), 0);
	nf_lock_take(&a.v->ns);
	uint64_t before = a.v->current->first_segment;
	nf_lock_drop(&a.v->ns);
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(vfs_put(&a, "/other", other, SIZE), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	nf_lock_take(&a.v->ns);
	uint64_t bound = nf_journal_bound(a.v), current = a.v->current->first_segment;
	nf_lock_drop(&a.v->ns);
	ck_assert_uint_gt(current, before);
	ck_assert_uint_eq(bound, _i ? before : current);
	if (_i)
		ck_assert_uint_gt(nf_journal_size(a.v->journal), 4 * SIZE);
	else
		ck_assert_uint_lt(nf_journal_size(a.v->journal), 2 * SIZE); /* the last one's */
	nf_invalidate(&f->vn->ic, 0, UINT64_MAX, SIZE, SIZE);
	ck_assert_int_eq(vfs_pread(&a, f, ino, back, SIZE, 0, &got), 0);
	ck_assert_uint_eq(got, SIZE);
	ck_assert_mem_eq(back, want, SIZE);
	/* Written to while it has no name, it needs the segment of that, and still nothing older. */
	memcpy(want + 200000, "nameless", 8);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, "nameless", 8, 200000), 0);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(vfs_put(&a, "/other", other, SIZE), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	nf_invalidate(&f->vn->ic, 0, UINT64_MAX, SIZE, SIZE);
	ck_assert_int_eq(vfs_pread(&a, f, ino, back, SIZE, 0, &got), 0);
	ck_assert_uint_eq(got, SIZE);
	ck_assert_mem_eq(back, want, SIZE);
	vfs_close(&a, f, ino);
	ck_assert_int_eq(vfs_put(&a, "/other", other, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_lt(nf_journal_size(a.v->journal), 2 * SIZE); /* the last one's */
	vfs_unmount(&a);
	free(want);
	free(other);
	free(back);
	vfs_site_deinit(&s);
}
END_TEST

struct reader {
	struct vfs *m;
	struct nf_open_file *f;
	uint64_t ino;
	size_t size;
	_Atomic bool stop;
	_Atomic int failed;
	_Atomic unsigned reads;
};

static void *read_on(void *arg)
{
	struct reader *rd = arg;
	char *back = malloc(rd->size);
	size_t got;

	while (!rd->stop && !rd->failed) {
		int r = vfs_pread(rd->m, rd->f, rd->ino, back, rd->size, 0, &got);
		if (r < 0)
			rd->failed = r;
		for (size_t i = 0; r == 0 && i < got; i++)
			if (back[i] != back[i % 512])
				rd->failed = -EILSEQ;
		rd->reads++;
	}
	free(back);
	return NULL;
}

/* Many blocks that do not stand together: a read of all of them takes its time, and the segment goes meanwhile. */
START_TEST(reads_go_on_while_blocks_move_from_the_journal_to_the_server)
{
	enum { BLOCK = 4096, NR = 200, ROUNDS = 12 };
	struct vfs_site s;
	struct nf_open_file *w;
	uint64_t ino;
	pthread_t thread;
	char *line = noise(512, 4), block[BLOCK];
	vfs_site_init(&s, "", "");
	s.block_shift = 12;
	struct vfs a = vfs_mount(&s, "a");
	struct reader rd = { .m = &a, .size = NR * BLOCK };

	for (size_t i = 0; i < sizeof block; i++)
		block[i] = line[i % 512];
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR | O_CREAT, 0644, &w, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&a, w, ino, block, sizeof block, (NR - 1) * BLOCK), 0);
	for (int i = 0; i < NR; i++)
		ck_assert_int_eq(vfs_pwrite(&a, w, ino, block, sizeof block, (uint64_t)i * BLOCK), 0);
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDONLY | O_DIRECT, 0, &rd.f, &rd.ino), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, read_on, &rd), 0);
	for (int round = 0; round < ROUNDS; round++) {
		/* The last first: no two of them are one piece. */
		for (int i = NR - 1 - round % 2; i >= 0; i -= 2) {
			ck_assert_int_eq(vfs_pwrite(&a, w, ino, block, sizeof block, (uint64_t)i * BLOCK), 0);
			if (i % 20 < 2)
				ck_assert_int_eq(vfs_fsync(&a, w, ino), 0);
		}
		ck_assert_int_eq(vfs_sync(&a), 0);
		ck_assert_int_eq(vfs_puts(&a, "/other", "x"), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	rd.stop = true;
	pthread_join(thread, NULL);
	ck_assert_int_eq(rd.failed, 0);
	ck_assert_uint_gt(rd.reads, 0);
	vfs_close(&a, w, ino);
	vfs_close(&a, rd.f, ino);
	vfs_unmount(&a);
	free(line);
	vfs_site_deinit(&s);
}
END_TEST

/* What a segment that begins now has room for: all but a block of the greatest. */
enum { ROOM = 150000, BIG = 1 << 18 };

START_TEST(a_file_that_cannot_be_stored_holds_up_only_itself)
{
	struct vfs_site s;
	struct nf_open_file *f, *g;
	uint64_t ino, ino_g;
	char *want = noise(BIG, 5);
	vfs_site_init(&s, "", "");
	s.block_shift = 18;
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	ck_assert_int_eq(vfs_open(&a, "/big", O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, want, BIG, 0), 0);
	ck_assert_int_eq(vfs_open(&a, "/small", O_RDWR | O_CREAT, 0644, &g, &ino_g), 0);
	ck_assert_int_eq(vfs_pwrite(&a, g, ino_g, "of a", 4, 0), 0);
	ck_assert_int_eq(vfs_puts(&b, "/of-b", "b"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	disk_limit(ROOM);
	int synced = vfs_sync(&a), refreshed = vfs_refresh(&a), seen = vfs_refresh(&b);
	int small = vfs_fsync(&a, g, ino_g), big = vfs_fsync(&a, f, ino);
	disk_full(false);
	ck_assert_int_lt(synced, 0);
	ck_assert_int_lt(big, 0);
	ck_assert_int_eq(small, 0);
	ck_assert_int_eq(refreshed, 0);
	ck_assert_int_eq(seen, 0);
	ck_assert_int_eq(vfs_checks(&a, "/of-b", "b"), 0);
	ck_assert_int_eq(vfs_checks(&b, "/small", "of a"), 0);
	ck_assert_int_eq(vfs_check(&a, "/big", want, BIG), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_check(&b, "/big", want, BIG), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_close(&a, f, ino);
	vfs_close(&a, g, ino_g);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* With the thread.  Nothing but the file is there to be sent: no commit is made of it either. */
START_TEST(a_sync_that_cannot_store_ends_with_the_error)
{
	struct vfs_site s;
	struct nf_open_file *f;
	struct vfs a;
	uint64_t ino;
	char *want = noise(BIG, 6), cache[200], state[200];
	vfs_site_init(&s, "", "");
	s.block_shift = 18;
	struct nf_vault_options o = vfs_options(&s, "a", cache, state);
	struct nf_vault_status before, after;

	o.no_threads = false;
	o.poll_ms = 100;
	ck_assert_int_eq(nf_vault_open(&o, &a.v), 0);
	a.fs = nf_vault_fs(a.v);
	ck_assert_int_eq(vfs_puts(&a, "/big", "x"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	nf_vault_status(a.v, &before);
	disk_limit(ROOM);
	ck_assert_int_eq(vfs_open(&a, "/big", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, want, BIG, 0), 0);
	int r = vfs_sync(&a);
	disk_full(false);
	nf_vault_status(a.v, &after);
	ck_assert_int_lt(r, 0);
	ck_assert_uint_eq(before.commits, after.commits);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_close(&a, f, ino);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_check(&b, "/big", want, BIG), 0);
	vfs_unmount(&b);
	vfs_unmount(&a);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* Both epochs are in one segment then. */
START_TEST(a_cut_without_room_for_a_segment_is_made_all_the_same)
{
	struct vfs_site s;
	char *want = noise(SIZE, 7);
	struct nf_open_file *f;
	uint64_t ino;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, want, SIZE, 0), 0);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	disk_full(true);
	int cut = nf_cut(a.v);
	disk_full(false);
	ck_assert_int_eq(cut, 1);
	ck_assert_int_eq(nf_cut_drain(a.v), 0);
	memcpy(want + 5000, "more", 4);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, "more", 4, 5000), 0);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	vfs_close(&a, f, ino);
	vfs_unmount(&a);
	a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_check(&a, "/f", want, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_check(&b, "/f", want, SIZE), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "room", 60);
	tcase_add_test(tc, each_descriptor_hears_once_of_a_failed_write_back);
	tcase_add_loop_test(tc, a_file_whose_data_cannot_be_stored_gets_no_other_name, 0, 4);
	tcase_add_loop_test(tc, an_open_file_without_a_name_keeps_only_the_segments_it_needs, 0, 2);
	tcase_add_test(tc, a_file_that_cannot_be_stored_holds_up_only_itself);
	tcase_add_test(tc, a_sync_that_cannot_store_ends_with_the_error);
	tcase_add_test(tc, a_cut_without_room_for_a_segment_is_made_all_the_same);
	tcase_add_test(tc, reads_go_on_while_blocks_move_from_the_journal_to_the_server);
}

NF_SUITE("vault/room")
