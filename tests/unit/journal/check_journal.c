#include "journal/journal.h"

#include "aio/file_crash.h"
#include "base/counter.h"
#include "base/mem.h"
#include "fake_seal.h"
#include "suite.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

struct seen {
	char text[4096]; /* all records, one after another */
	int nr;
	int result; /* of replay */
};

static int replay(void *ctx, struct nf_journal *j, uint64_t segment, char kind, const void *plain,
		  size_t len, uint64_t unsynced_from_bytes)
{
	struct seen *s = ctx;

	(void)j;
	(void)segment;
	(void)unsynced_from_bytes;
	if (s->result != 0)
		return s->result;
	size_t at = strlen(s->text);
	ck_assert_uint_lt(at + len + 2, sizeof s->text);
	s->text[at] = kind;
	memcpy(s->text + at + 1, plain, len);
	s->nr++;
	return 0;
}

static int open_journal(struct nf_crash *d, struct seen *s, struct nf_journal **j)
{
	struct nf_journal_options o = { .dir = "/j",
					.files = nf_crash_ops(d),
					.seal = &fake_seal_ops,
					.replay = replay,
					.replay_ctx = s };
	int result = s->result;

	*s = (struct seen){ .result = result };
	return nf_journal_open(&o, j);
}

static struct nf_journal *must_open(struct nf_crash *d, struct seen *s)
{
	struct nf_journal *j = NULL;

	ck_assert_int_eq(open_journal(d, s, &j), 0);
	return j;
}

static struct nf_crash *disk(void)
{
	struct nf_crash *d;

	ck_assert_int_eq(nf_crash_new(&d), 0);
	return d;
}

static struct nf_journal_pos put_data(struct nf_journal *j, const void *p, size_t len)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)p, .iov_len = len };
	struct nf_journal_pos pos;

	ck_assert_int_eq(nf_journal_data(j, &iov, 1, &pos), 0);
	return pos;
}

START_TEST(records_come_back_in_order_and_data_at_its_place)
{
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal *j = must_open(d, &s);
	static char big[200000], got[200000];
	uint64_t number;

	memset(big, 'b', sizeof big);
	ck_assert_int_eq(nf_journal_record(j, 'O', "one", 3), 0);
	struct nf_journal_pos small = put_data(j, "small", 5), large = put_data(j, big, sizeof big);
	ck_assert_int_eq(nf_journal_record(j, 'M', "two", 3), 0);
	ck_assert_int_eq(nf_journal_rotate(j, &number), 0);
	ck_assert_uint_eq(number, 2);
	ck_assert_int_eq(nf_journal_record(j, 'O', "", 0), 0);
	ck_assert_int_eq(nf_journal_read(j, large, got, sizeof got), 0);
	ck_assert_mem_eq(got, big, sizeof big);
	uint64_t size = nf_journal_size(j);
	ck_assert_uint_gt(size, sizeof big);
	nf_journal_close(j);
	j = must_open(d, &s);
	ck_assert_str_eq(s.text, "OoneMtwoO");
	ck_assert_int_eq(nf_journal_read(j, small, got, 5), 0);
	ck_assert_mem_eq(got, "small", 5);
	small.offset_bytes = size;
	ck_assert_int_eq(nf_journal_read(j, small, got, 5), -EINVAL);
	ck_assert_int_eq(nf_journal_trim(j, 99), 0); /* the newest stays */
	ck_assert_int_eq(nf_journal_read(j, large, got, 5), -EINVAL);
	ck_assert_int_eq(nf_journal_record(j, 'O', "three", 5), 0);
	nf_auto(nf_text_deinit) struct nf_text t = NF_TEXT_INIT;
	nf_journal_to_text(j, &t);
	ck_assert_ptr_nonnull(strstr(nf_text_str(&t), "error=none"));
	nf_journal_close(j);
	j = must_open(d, &s);
	ck_assert_str_eq(s.text, "Othree");
	nf_journal_close(j);
	nf_journal_close(NULL);
	nf_crash_free(d);
}
END_TEST

START_TEST(a_segment_that_is_full_is_followed_by_another)
{
	enum { FULL = 1000, N = 40 };
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal_options o = { .dir = "/j", .files = nf_crash_ops(d), .seal = &fake_seal_ops,
					.replay = replay, .replay_ctx = &s, .segment_bytes = FULL };
	struct nf_journal *j = NULL;
	struct nf_journal_pos pos[N];
	char text[300], got[300];

	memset(&s, 0, sizeof s);
	ck_assert_int_eq(nf_journal_open(&o, &j), 0);
	for (int i = 0; i < N; i++) {
		memset(text, 'a' + i % 26, sizeof text);
		pos[i] = put_data(j, text, sizeof text);
		ck_assert_int_eq(nf_journal_record(j, 'O', text, 20), 0);
		ck_assert_uint_le(pos[i].offset_bytes + sizeof text, FULL);
	}
	ck_assert_uint_gt(pos[N - 1].segment, 10);
	/* Longer than a segment: one of its own. */
	static const char big[5000];
	struct nf_journal_pos alone = put_data(j, big, sizeof big);
	ck_assert_uint_gt(alone.segment, pos[N - 1].segment);
	ck_assert_uint_lt(alone.offset_bytes, FULL);
	nf_journal_close(j);
	memset(&s, 0, sizeof s);
	ck_assert_int_eq(nf_journal_open(&o, &j), 0);
	ck_assert_int_eq(s.nr, N);
	for (int i = 0; i < N; i++) {
		memset(text, 'a' + i % 26, sizeof text);
		ck_assert_int_eq(nf_journal_read(j, pos[i], got, sizeof got), 0);
		ck_assert_mem_eq(got, text, sizeof got);
	}
	nf_journal_close(j);
	nf_crash_free(d);
}
END_TEST

START_TEST(what_is_no_frame_of_ours_is_refused)
{
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal *j = must_open(d, &s);
	static char huge[NF_JOURNAL_FRAME_MAX + 1];
	struct iovec iov = { .iov_base = huge, .iov_len = sizeof huge };
	struct nf_journal_pos pos;

	ck_assert_int_eq(nf_journal_data(j, &iov, 1, &pos), -EINVAL);
	ck_assert_int_eq(nf_journal_record(j, 'O', huge, NF_JOURNAL_FRAME_MAX - 15), -EINVAL);
	ck_assert_int_eq(nf_journal_record(j, 'D', "x", 1), -EINVAL);
	nf_journal_close(j);
	nf_crash_free(d);
}
END_TEST

START_TEST(a_full_disk_leaves_the_journal_as_it_was)
{
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal *j = must_open(d, &s);
	static char block[50000];
	struct iovec iov = { .iov_base = block, .iov_len = sizeof block };
	struct nf_journal_pos pos = { 7, 7 };

	ck_assert_int_eq(nf_journal_record(j, 'O', "a", 1), 0);
	nf_crash_set_room(d, nf_crash_used(d) + 8192);
	ck_assert_int_eq(nf_journal_data(j, &iov, 1, &pos), -ENOSPC);
	ck_assert_uint_eq(pos.segment, 7);
	ck_assert_int_eq(nf_journal_record(j, 'O', "b", 1), 0);
	nf_crash_fail(d, NF_CRASH_WRITE, 0, -EIO);
	ck_assert_int_eq(nf_journal_record(j, 'O', "lost", 4), -EIO);
	ck_assert_int_eq(nf_journal_record(j, 'O', "c", 1), 0);
	ck_assert_int_eq(nf_journal_sync(j), 0);
	nf_crash_set_room(d, 0);
	uint64_t number = 5;
	ck_assert_int_eq(nf_journal_rotate(j, &number), -ENOSPC);
	ck_assert_uint_eq(number, 5);
	nf_crash_set_room(d, UINT64_MAX);
	ck_assert_int_eq(nf_journal_record(j, 'O', "d", 1), 0);
	ck_assert_int_eq(nf_journal_rotate(j, &number), 0);
	ck_assert_int_eq(nf_journal_record(j, 'O', "e", 1), 0);
	nf_journal_close(j);
	j = must_open(d, &s);
	ck_assert_str_eq(s.text, "OaObOcOdOe");
	nf_journal_close(j);
	nf_crash_free(d);
}
END_TEST

/* What a power cut may leave of D: the journal opens, and begins with WHAT. */
static void opens_after_any_cut(struct nf_crash *d, const char *what)
{
	static struct seen s;

	for (uint64_t seed = 0; seed < 60; seed++) {
		struct nf_crash *found;
		struct nf_journal *j = NULL;
		ck_assert_int_eq(nf_crash_image(d, nf_crash_nr_ops(d), seed, &found), 0);
		int r = open_journal(found, &s, &j);
		ck_assert_msg(r == 0 && !strncmp(s.text, what, strlen(what)), "seed %d: %d, %s", (int)seed, r, s.text);
		nf_journal_close(j);
		nf_crash_free(found);
	}
}

START_TEST(a_frame_that_found_no_room_leaves_nothing_between_two_segments)
{
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal *j = must_open(d, &s);
	static char block[50000];
	struct iovec iov = { .iov_base = block, .iov_len = sizeof block };
	struct nf_journal_pos pos;
	uint64_t number;

	ck_assert_int_eq(nf_journal_record(j, 'O', "a", 1), 0);
	ck_assert_int_eq(nf_journal_sync(j), 0);
	nf_crash_fill(d, 0, 1);
	ck_assert_int_eq(nf_journal_data(j, &iov, 1, &pos), -ENOSPC);
	ck_assert_int_eq(nf_journal_rotate(j, &number), 0);
	ck_assert_int_eq(nf_journal_record(j, 'O', "b", 1), 0);
	opens_after_any_cut(d, "Oa");
	nf_journal_close(j);
	nf_crash_free(d);
}
END_TEST

/* _i: the file of the new segment cannot be made, or its first frame not be written. */
START_TEST(a_segment_that_found_no_room_is_none_and_the_one_before_goes_on)
{
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal *j = must_open(d, &s);
	uint64_t number;

	ck_assert_int_eq(nf_journal_record(j, 'O', "a", 1), 0);
	ck_assert_int_eq(nf_journal_sync(j), 0);
	nf_crash_fill(d, (uint64_t)_i, 1);
	ck_assert_int_eq(nf_journal_rotate(j, &number), -ENOSPC);
	ck_assert_int_eq(nf_journal_record(j, 'O', "b", 1), 0);
	ck_assert_int_eq(nf_journal_record(j, 'O', "c", 1), 0);
	opens_after_any_cut(d, "Oa");
	ck_assert_int_eq(nf_journal_sync(j), 0);
	opens_after_any_cut(d, "OaObOc");
	nf_journal_close(j);
	nf_crash_free(d);
}
END_TEST

START_TEST(after_a_failed_sync_every_call_says_so)
{
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal *j = must_open(d, &s);
	char x[] = "x";
	struct iovec iov = { .iov_base = x, .iov_len = 1 };
	struct nf_journal_pos pos;
	uint64_t number;

	ck_assert_int_eq(nf_journal_record(j, 'O', "a", 1), 0);
	nf_crash_fail(d, NF_CRASH_FDATASYNC, 0, -EIO);
	ck_assert_int_eq(nf_journal_sync(j), -EIO);
	ck_assert_int_eq(nf_journal_sync(j), -EIO);
	ck_assert_int_eq(nf_journal_record(j, 'O', "b", 1), -EIO);
	ck_assert_int_eq(nf_journal_data(j, &iov, 1, &pos), -EIO);
	ck_assert_int_eq(nf_journal_rotate(j, &number), -EIO);
	ck_assert_int_eq(nf_journal_trim(j, 1), -EIO);
	nf_journal_close(j);
	nf_crash_free(d);
}
END_TEST

/* Turns one byte over in a segment's file, counted from the end if AT < 0. */
static void damage(struct nf_crash *d, const char *path, int64_t at)
{
	const struct nf_file_ops *o = nf_crash_ops(d);
	struct nf_file *f;
	uint64_t size;
	uint8_t b;

	ck_assert_int_eq(o->open(o, path, O_RDWR, 0, &f), 0);
	ck_assert_int_eq(o->size(f, &size), 0);
	uint64_t where = at < 0 ? size - (uint64_t)-at : (uint64_t)at;
	ck_assert_int_eq(o->pread(f, &b, 1, where, NULL), 0);
	b ^= 0x10;
	ck_assert_int_eq(o->pwrite(f, &b, 1, where), 0);
	o->close(f);
}

START_TEST(a_torn_tail_is_cut_but_damage_is_told_and_changes_nothing)
{
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal *j = must_open(d, &s), *none = NULL;
	uint64_t number, ops;

	ck_assert_int_eq(nf_journal_record(j, 'O', "one", 3), 0);
	ck_assert_int_eq(nf_journal_record(j, 'O', "two", 3), 0);
	nf_journal_close(j);
	/* The last frame, never synced: torn. */
	damage(d, "/j/0000000000000001.seg", -8);
	j = must_open(d, &s);
	ck_assert_str_eq(s.text, "Oone");
	ck_assert_int_eq(nf_journal_record(j, 'O', "three", 5), 0);
	ck_assert_int_eq(nf_journal_sync(j), 0);
	ck_assert_int_eq(nf_journal_record(j, 'O', "four", 4), 0);
	ck_assert_int_eq(nf_journal_check(j), 0);
	/* "three" was durable when "four" was written: this is no torn write. */
	damage(d, "/j/0000000000000002.seg", 64 + 45);
	ck_assert_int_eq(nf_journal_check(j), -NF_E_JOURNAL_BAD);
	nf_journal_close(j);
	ops = nf_crash_nr_ops(d);
	ck_assert_int_eq(open_journal(d, &s, &none), -NF_E_JOURNAL_BAD);
	damage(d, "/j/0000000000000002.seg", 64 + 45);
	ck_assert_uint_eq(nf_crash_nr_ops(d), ops + 2); /* open's fsync_dir, and this write */
	j = must_open(d, &s);
	ck_assert_str_eq(s.text, "OoneOthreeOfour");
	ck_assert_int_eq(nf_journal_rotate(j, &number), 0);
	nf_journal_close(j);
	/* Any damage before the last segment. */
	damage(d, "/j/0000000000000001.seg", -8);
	ck_assert_int_eq(open_journal(d, &s, &none), -NF_E_JOURNAL_BAD);
	damage(d, "/j/0000000000000001.seg", -8);
	/* A segment taken out of the middle. */
	const struct nf_file_ops *o = nf_crash_ops(d);
	ck_assert_int_eq(o->rename(o, "/j/0000000000000002.seg", "/kept"), 0);
	ck_assert_int_eq(open_journal(d, &s, &none), -NF_E_JOURNAL_BAD);
	/* One emptied: the chain does not meet. */
	ck_assert_int_eq(nf_file_replace(o, "/j/0000000000000002.seg", "", 0), 0);
	ck_assert_int_eq(open_journal(d, &s, &none), -NF_E_JOURNAL_BAD);
	ck_assert_ptr_null(none);
	ck_assert_int_eq(o->rename(o, "/kept", "/j/0000000000000002.seg"), 0);
	/* What is not ours is left alone. */
	ck_assert_int_eq(nf_file_replace(o, "/j/notes.txt", "hi", 2), 0);
	j = must_open(d, &s);
	ck_assert_str_eq(s.text, "OoneOthreeOfour");
	nf_journal_close(j);
	nf_crash_free(d);
}
END_TEST

START_TEST(a_replay_that_fails_or_a_seal_that_does_not_open_destroys_nothing)
{
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal *j = must_open(d, &s);

	ck_assert_int_eq(nf_journal_record(j, 'O', "one", 3), 0);
	nf_journal_close(j);
	s.result = -ENOMEM;
	ck_assert_int_eq(open_journal(d, &s, &j), -ENOMEM);
	struct nf_journal_seal_ops wrong = fake_seal_ops;
	struct nf_journal_options o = { .dir = "/j",
					.files = nf_crash_ops(d),
					.seal = &wrong,
					.replay = replay,
					.replay_ctx = &s };
	wrong.overhead = 1000; /* shorter than any seal of this kind */
	ck_assert_int_eq(nf_journal_open(&o, &j), -NF_E_JOURNAL_BAD);
	s.result = 0;
	j = must_open(d, &s);
	ck_assert_str_eq(s.text, "Oone");
	nf_journal_close(j);
	s.result = NF_JOURNAL_CUT; /* only in the last segment, and that has no records */
	ck_assert_int_eq(open_journal(d, &s, &j), -NF_E_JOURNAL_BAD);
	nf_crash_free(d);
}
END_TEST

struct writer {
	pthread_t t;
	struct nf_journal *j;
	int id;
	atomic_int *bad;
};

static void *write_and_sync(void *arg)
{
	struct writer *w = arg;
	uint64_t number;

	for (int i = 0; i < 40; i++) {
		char data[64], got[64];
		struct iovec iov = { .iov_base = data, .iov_len = sizeof data };
		struct nf_journal_pos pos;
		memset(data, w->id * 40 + i, sizeof data);
		if (nf_journal_data(w->j, &iov, 1, &pos) || nf_journal_record(w->j, 'O', "r", 1) ||
		    nf_journal_sync(w->j) || nf_journal_read(w->j, pos, got, sizeof got) ||
		    memcmp(got, data, sizeof data) != 0)
			atomic_fetch_add(w->bad, 1);
		if (w->id == 0 && i % 8 == 0 && nf_journal_rotate(w->j, &number))
			atomic_fetch_add(w->bad, 1);
		(void)nf_journal_size(w->j);
	}
	return NULL;
}

START_TEST(many_threads_append_sync_read_and_rotate_at_once)
{
	struct nf_crash *d = disk();
	static struct seen s;
	struct nf_journal *j = must_open(d, &s);
	struct writer w[5];
	atomic_int bad = 0;

	for (int i = 0; i < 5; i++) {
		w[i] = (struct writer){ .j = j, .id = i, .bad = &bad };
		ck_assert_int_eq(pthread_create(&w[i].t, NULL, write_and_sync, &w[i]), 0);
	}
	for (int i = 0; i < 5; i++)
		pthread_join(w[i].t, NULL);
	ck_assert_int_eq(bad, 0);
	ck_assert_int_eq(nf_journal_check(j), 0);
	nf_journal_close(j);
	j = must_open(d, &s);
	ck_assert_int_eq(s.nr, 200);
	nf_journal_close(j);
	nf_crash_free(d);
}
END_TEST

/* A table whose fdatasync waits until it is let go. */
static struct nf_file_ops gated;
static atomic_int in_sync, let_go;
static int (*real_fdatasync)(struct nf_file *f);

static int gated_fdatasync(struct nf_file *f)
{
	struct timespec t = { .tv_nsec = 1000000 };

	atomic_fetch_add(&in_sync, 1);
	while (!let_go)
		nanosleep(&t, NULL);
	return real_fdatasync(f);
}

static void *sync_only(void *arg)
{
	return (void *)(intptr_t)nf_journal_sync(arg);
}

START_TEST(callers_that_come_during_a_sync_share_the_next)
{
	struct nf_crash *d = disk();
	static struct seen s;
	pthread_t first, rest[6];
	struct nf_journal *j;
	struct timespec t = { .tv_nsec = 20000000 };

	gated = *nf_crash_ops(d);
	real_fdatasync = gated.fdatasync;
	gated.fdatasync = gated_fdatasync;
	atomic_store(&let_go, 0);
	atomic_store(&in_sync, 0);
	struct nf_journal_options o = { .dir = "/j",
					.files = &gated,
					.seal = &fake_seal_ops,
					.replay = replay,
					.replay_ctx = &s };
	ck_assert_int_eq(nf_journal_open(&o, &j), 0);
	ck_assert_int_eq(nf_journal_record(j, 'O', "a", 1), 0);
	ck_assert_int_eq(pthread_create(&first, NULL, sync_only, j), 0);
	while (!in_sync)
		nanosleep(&t, NULL);
	/* Appending goes on beside it. */
	ck_assert_int_eq(nf_journal_record(j, 'O', "b", 1), 0);
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq(pthread_create(&rest[i], NULL, sync_only, j), 0);
	nanosleep(&t, NULL);
	ck_assert_int_eq(in_sync, 1);
	atomic_store(&let_go, 1);
	pthread_join(first, NULL);
	for (int i = 0; i < 6; i++)
		pthread_join(rest[i], NULL);
	ck_assert_int_eq(in_sync, 2);
	ck_assert_int_eq(nf_journal_sync(j), 0); /* nothing new: no fdatasync */
	ck_assert_int_eq(in_sync, 2);
	nf_journal_close(j);
	nf_crash_free(d);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "journal", 60);
	tcase_add_test(tc, records_come_back_in_order_and_data_at_its_place);
	tcase_add_test(tc, a_segment_that_is_full_is_followed_by_another);
	tcase_add_test(tc, what_is_no_frame_of_ours_is_refused);
	tcase_add_test(tc, a_full_disk_leaves_the_journal_as_it_was);
	tcase_add_test(tc, a_frame_that_found_no_room_leaves_nothing_between_two_segments);
	tcase_add_loop_test(tc, a_segment_that_found_no_room_is_none_and_the_one_before_goes_on, 0, 2);
	tcase_add_test(tc, after_a_failed_sync_every_call_says_so);
	tcase_add_test(tc, a_torn_tail_is_cut_but_damage_is_told_and_changes_nothing);
	tcase_add_test(tc, a_replay_that_fails_or_a_seal_that_does_not_open_destroys_nothing);
	tcase_add_test(tc, many_threads_append_sync_read_and_rotate_at_once);
	tcase_add_test(tc, callers_that_come_during_a_sync_share_the_next);
}

NF_SUITE("journal/journal")
