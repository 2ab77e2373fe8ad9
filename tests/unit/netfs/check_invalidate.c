/* Readers beside changes by other hands: what a read was given stays as it was until nf_read_end(), and nobody else waits
 * longer for it than must be. */
#include "toyfile.h"

enum { FILE_BYTES = 4 * BLOCK, OLD = 0x11, NEW = 0x22, MINE = 0x33 };

static struct toy_wait held, next;

/* A read of the whole file that is done, but not ended. */
static void hold(void)
{
	put(0, FILE_BYTES, OLD);
	ck_assert_int_eq(toy_fsync(t), 0);
	toy_drop_cache(t);
	expect();
}

static void read_start(struct toy_wait *w)
{
	toy_wait_init(w, t);
	w->io.len_bytes = FILE_BYTES;
	nf_read(&w->io);
}

/* What W was given is FIRST everywhere, but MINE in [from, to). */
static void holds(const struct toy_wait *w, uint8_t first, uint64_t from, uint64_t to)
{
	uint64_t at = 0, bad = 0;

	for (int i = 0; i < w->io.nr_out_iov; i++)
		for (size_t k = 0; k < w->io.out_iov[i].iov_len; k++, at++)
			bad += ((uint8_t *)w->io.out_iov[i].iov_base)[k] != (at >= from && at < to ? MINE : first);
	ck_assert_uint_eq(at, FILE_BYTES);
	ck_assert_uint_eq(bad, 0);
}

static void others_change_it(void)
{
	toy_remote_change(t, 0, FILE_BYTES, FILE_BYTES, NEW);
}

START_TEST(a_read_keeps_its_version_and_the_next_one_does_not_wait_for_it)
{
	hold();
	read_start(&held);
	ck_assert_int_eq(toy_wait_end(&held), 0);
	others_change_it();
	holds(&held, OLD, 0, 0);
	read_start(&next);
	ck_assert_int_eq(toy_wait_end(&next), 0);
	holds(&next, NEW, 0, 0);
	holds(&held, OLD, 0, 0);
	nf_read_end(&held.io);
	nf_read_end(&next.io);
}
END_TEST

/* The folio cannot be given up: it holds bytes of ours. */
START_TEST(beside_dirty_bytes_the_next_read_waits_for_the_reader_of_the_old_version)
{
	hold();
	put(100, 50, MINE);
	read_start(&held);
	ck_assert_int_eq(toy_wait_end(&held), 0);
	others_change_it();
	read_start(&next);
	usleep(30000);
	ck_assert(!toy_is_done(&next));
	holds(&held, OLD, 100, 150);
	nf_read_end(&held.io);
	ck_assert_int_eq(toy_wait_end(&next), 0);
	holds(&next, NEW, 100, 150);
	nf_read_end(&next.io);
}
END_TEST

START_TEST(writing_back_does_not_wait_for_a_reader_and_leaves_it_what_it_has)
{
	hold();
	put(100, 50, MINE);
	read_start(&held);
	ck_assert_int_eq(toy_wait_end(&held), 0);
	others_change_it();
	t->fail_writes = -EIO;
	ck_assert_int_eq(toy_fsync(t), -EIO);
	/* The block was put together from both, but not here: the rest of it is not known in memory. */
	ck_assert(!nf_peek(&t->ic, 8192, buf, 4096));
	t->fail_writes = 0;
	ck_assert_int_eq(toy_fsync(t), 0);
	holds(&held, OLD, 100, 150);
	/* Nothing is dirty any more: there is a new folio for whoever comes now. */
	read_start(&next);
	ck_assert_int_eq(toy_wait_end(&next), 0);
	holds(&next, NEW, 100, 150);
	holds(&held, OLD, 100, 150);
	nf_read_end(&held.io);
	nf_read_end(&next.io);
	memset(want, NEW, FILE_BYTES);
	memset(want + 100, MINE, 50);
	expect_all();
}
END_TEST

START_TEST(a_new_page_of_zeros_beside_dirty_bytes_leaves_a_reader_what_it_has)
{
	hold();
	put(100, 50, MINE);
	read_start(&held);
	ck_assert_int_eq(toy_wait_end(&held), 0);
	/* Others cut it to nothing: what we write is all there is, the rest of its page is zeros. */
	toy_remote_change(t, 0, 0, 0, NEW);
	put(4096 + 100, 50, MINE);
	uint64_t bad = 0;
	const uint8_t *p = held.io.out_iov[0].iov_base;
	for (unsigned i = 4096; i < 8192; i++)
		bad += p[i] != OLD && (i < 4096 + 100 || i >= 4096 + 150);
	ck_assert_uint_eq(bad, 0);
	nf_read_end(&held.io);
	memset(want, 0, sizeof want);
	memset(want + 100, MINE, 50);
	memset(want + 4096 + 100, MINE, 50);
	expect_all();
}
END_TEST

/* --- writers held ------------------------------------------------------------------------------------------------ */

static void write_start(struct toy_wait *w, const struct iovec *v, uint64_t pos)
{
	toy_wait_init(w, t);
	w->io.pos_bytes = pos;
	w->io.len_bytes = v->iov_len;
	w->io.iov = v;
	w->io.nr_iov = 1;
	nf_write(&w->io);
}

START_TEST(writers_that_are_held_come_after_the_exchange_in_the_order_they_came)
{
	uint8_t mine[10];
	struct iovec v = { mine, sizeof mine };
	struct toy_wait first, second;

	hold();
	ck_assert(nf_writers_hold(&t->ic));
	memset(mine, MINE, sizeof mine);
	write_start(&first, &v, 100);
	toy_wait_init(&second, t);
	second.io.len_bytes = FILE_BYTES;
	nf_truncate(&second.io);
	usleep(20000);
	ck_assert(!toy_is_done(&first) && !toy_is_done(&second));
	ck_assert(nf_writers_hold(&t->ic)); /* nobody is at work */
	expect(); /* readers go on */
	others_change_it();
	nf_writers_release(&t->ic);
	ck_assert_int_eq(toy_wait_end(&first), 0);
	ck_assert_int_eq(toy_wait_end(&second), 0);
	memset(want, NEW, FILE_BYTES);
	memset(want + 100, MINE, 10);
	expect_all();
}
END_TEST

START_TEST(a_file_with_a_writer_at_work_or_dirty_bytes_is_not_quiet)
{
	uint8_t mine[10];
	struct iovec v = { mine, sizeof mine };
	struct toy_wait direct;

	hold();
	put(100, 10, MINE);
	ck_assert(!nf_writers_hold(&t->ic));
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert(nf_writers_hold(&t->ic));
	nf_writers_release(&t->ic);
	/* One that waits until it is stored. */
	toy_hold(t, true);
	memset(mine, MINE, sizeof mine);
	toy_wait_init(&direct, t);
	direct.io = (struct nf_io){ .ic = &t->ic, .done = toy_done, .pos_bytes = 200, .len_bytes = 10, .iov = &v, .nr_iov = 1,
				    .flags = NF_IO_DSYNC };
	nf_write(&direct.io);
	ck_assert(!nf_writers_hold(&t->ic));
	toy_hold(t, false);
	ck_assert_int_eq(toy_wait_end(&direct), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert(nf_writers_hold(&t->ic));
	nf_writers_release(&t->ic);
	memset(want + 200, MINE, 10);
	expect_all();
}
END_TEST

/* --- all at once ------------------------------------------------------------------------------------------------- */

static atomic_bool stop;
static atomic_uint nr_read;

static void *read_for_ever(void *arg)
{
	uint8_t *got = malloc(FILE_BYTES);
	(void)arg;

	while (!atomic_load(&stop)) {
		long n = toy_read(t, 0, got, FILE_BYTES);
		assert(n == FILE_BYTES);
		for (long i = 1; i < n; i++)
			assert(got[i] == got[0]);
		atomic_fetch_add(&nr_read, 1);
	}
	free(got);
	return NULL;
}

START_TEST(every_read_is_of_one_version_however_often_others_change_it)
{
	enum { READERS = 3, CHANGES = 300 };
	pthread_t th[READERS];

	put(0, FILE_BYTES, OLD);
	ck_assert_int_eq(toy_fsync(t), 0);
	t->p_later = 300;
	atomic_store(&stop, false);
	for (unsigned i = 0; i < READERS; i++)
		pthread_create(&th[i], NULL, read_for_ever, NULL);
	for (unsigned i = 0; i < CHANGES; i++) {
		toy_remote_change(t, 0, FILE_BYTES, FILE_BYTES, (uint8_t)i);
		usleep(200);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(th[i], NULL);
	ck_assert_uint_gt(atomic_load(&nr_read), 0);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "readers", 60);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_read_keeps_its_version_and_the_next_one_does_not_wait_for_it);
	tcase_add_test(tc, beside_dirty_bytes_the_next_read_waits_for_the_reader_of_the_old_version);
	tcase_add_test(tc, writing_back_does_not_wait_for_a_reader_and_leaves_it_what_it_has);
	tcase_add_test(tc, a_new_page_of_zeros_beside_dirty_bytes_leaves_a_reader_what_it_has);
	tcase_add_test(tc, writers_that_are_held_come_after_the_exchange_in_the_order_they_came);
	tcase_add_test(tc, a_file_with_a_writer_at_work_or_dirty_bytes_is_not_quiet);
	tcase_add_test(tc, every_read_is_of_one_version_however_often_others_change_it);
}

NF_SUITE("netfs/invalidate")
