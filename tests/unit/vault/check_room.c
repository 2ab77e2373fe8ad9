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

/* No file of this process can be written to. */
static void disk_full(bool full)
{
	struct rlimit l;

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &l), 0);
	l.rlim_cur = full ? 1 : l.rlim_max;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &l), 0);
}

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

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "room", 60);
	tcase_add_loop_test(tc, a_file_whose_data_cannot_be_stored_gets_no_other_name, 0, 4);
	tcase_add_loop_test(tc, an_open_file_without_a_name_keeps_only_the_segments_it_needs, 0, 2);
	tcase_add_test(tc, reads_go_on_while_blocks_move_from_the_journal_to_the_server);
}

NF_SUITE("vault/room")
