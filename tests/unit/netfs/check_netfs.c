/* The library, behaviour by behaviour. */
#include "toyfile.h"

START_TEST(a_closed_group_is_stored_before_what_comes_after_it)
{
	put(0, 100, 1);
	ck_assert_uint_eq(nf_group_close(&t->ic), 1);
	put(50, 100, 2); /* over data of group 1: that is gathered first */
	ck_assert_uint_eq(nf_group_close(&t->ic), 2);
	ck_assert_uint_eq(nf_group_close(&t->ic), 2);
	expect_all();
	ck_assert_uint_eq(t->nr_groups, 2);
	ck_assert_uint_eq(t->last_group, 2);
	ck_assert_uint_eq(t->info.nr_ranges, 1);
	ck_assert(t->ranges[0].start == 50 && t->ranges[0].end == 150);
	ck_assert_uint_eq(nf_group_close(&t->ic), 0);
}
END_TEST

START_TEST(a_truncation_alone_makes_a_group)
{
	cold_file(5 * BLOCK);
	cut(2 * BLOCK);
	unsigned writes = t->nr_writes;
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert_uint_eq(t->nr_writes, writes); /* on a block boundary nothing is stored */
	ck_assert_uint_eq(t->info.least_size_bytes, 2 * BLOCK);
	ck_assert_uint_eq(t->info.nr_ranges, 0);
	expect_all();
}
END_TEST

START_TEST(whole_zeroed_blocks_become_holes_without_being_stored)
{
	cold_file(10 * BLOCK);
	unsigned writes = t->nr_writes;
	memset(want + 2 * BLOCK, 0, 4 * BLOCK);
	ck_assert_int_eq(toy_fallocate(t, PUNCH, 2 * BLOCK, 4 * BLOCK), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert_uint_eq(t->nr_writes, writes);
	ck_assert(!t->kept.blocks[3].sealed);
	expect_all();
}
END_TEST

START_TEST(dsync_returns_when_its_group_is_stored)
{
	put(0, 5000, 1);
	memset(want + 100, 2, 100);
	ck_assert_int_eq(toy_write_flags(t, 100, want + 100, 100, NF_IO_DSYNC), 0);
	ck_assert_uint_eq(t->nr_groups, 1);
	expect_all();
}
END_TEST

START_TEST(direct_io_leaves_nothing_in_memory)
{
	cold_file(4 * BLOCK);
	memset(want, 3, 2 * BLOCK);
	ck_assert_int_eq(toy_write_flags(t, 0, want, 2 * BLOCK, NF_IO_DIRECT), 0);
	ck_assert(t->now.blocks[0].sealed && t->now.blocks[1].sealed);
	ck_assert(!nf_peek(&t->ic, 0, buf, 10));
	ck_assert_int_eq(toy_read_flags(t, 2 * BLOCK, buf, 100, NF_IO_DIRECT), 100);
	ck_assert(!nf_peek(&t->ic, 2 * BLOCK, buf, 10));
	expect_all();
}
END_TEST

START_TEST(every_byte_enters_through_a_region)
{
	uint64_t before = nf_counter_get(NF_C_REGION_BYTES);

	put(0, 1234, 1);
	ck_assert_int_eq(toy_write_flags(t, 0, want, 1000, NF_IO_APPEND), 0);
	memcpy(want + 1234, want, 1000);
	ck_assert_int_eq(toy_write_flags(t, 0, want, 10, NF_IO_DIRECT), 0);
	ck_assert_uint_eq(nf_counter_get(NF_C_REGION_BYTES) - before, 1234 + 1000 + 10);
}
END_TEST

START_TEST(a_written_byte_is_copied_once_on_its_way_to_the_codec)
{
	uint64_t before = nf_counter_get(NF_C_WRITE_COPIED_BYTES);

	put(0, 8 * BLOCK, 7);
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert_uint_eq(nf_counter_get(NF_C_WRITE_COPIED_BYTES) - before, 8 * BLOCK);
	expect_all();
}
END_TEST

START_TEST(borrowed_data_is_kept_when_the_write_must_wait)
{
	static uint8_t borrowed[2 * BLOCK];
	struct toy_wait a;

	put(0, 3 * BLOCK, 1);
	memset(borrowed, 2, sizeof borrowed);
	memset(want + 100, 2, sizeof borrowed);
	struct iovec iov = { borrowed, sizeof borrowed };
	toy_wait_init(&a, t);
	a.io.pos_bytes = 100;
	a.io.len_bytes = sizeof borrowed;
	a.io.iov = &iov;
	a.io.nr_iov = 1;
	a.io.flags = NF_IO_DIRECT | NF_IO_BORROWED; /* what is dirty there must be stored first */
	uint64_t before = nf_counter_get(NF_C_WRITE_COPIED_BYTES);
	nf_write(&a.io);
	memset(borrowed, 3, sizeof borrowed);
	ck_assert_uint_ge(nf_counter_get(NF_C_WRITE_COPIED_BYTES) - before, sizeof borrowed);
	ck_assert_int_eq(toy_wait_end(&a), 0);
	expect_all();
}
END_TEST

START_TEST(two_readers_of_one_missing_block_share_a_request)
{
	struct toy_wait a, b;

	cold_file(8 * BLOCK);
	toy_hold(t, true);
	unsigned reads = t->nr_reads;
	toy_wait_init(&a, t);
	a.io.pos_bytes = 5 * BLOCK;
	a.io.len_bytes = 100;
	toy_wait_init(&b, t);
	b.io.pos_bytes = 5 * BLOCK + 200;
	b.io.len_bytes = 100;
	nf_read(&a.io);
	nf_read(&b.io);
	ck_assert_uint_eq(t->nr_reads, reads + 1);
	toy_hold(t, false);
	ck_assert_int_eq(toy_wait_end(&a), 0);
	ck_assert_int_eq(toy_wait_end(&b), 0);
	nf_read_end(&a.io);
	nf_read_end(&b.io);
}
END_TEST

START_TEST(a_read_under_way_is_made_again_when_the_block_changed)
{
	struct toy_wait a;

	cold_file(4 * BLOCK);
	toy_hold(t, true);
	toy_wait_init(&a, t);
	a.io.pos_bytes = BLOCK;
	a.io.len_bytes = 100;
	a.io.flags = NF_IO_NOWAIT_AHEAD;
	nf_read(&a.io);
	unsigned reads = t->nr_reads;
	toy_invalidate(t, BLOCK, 2 * BLOCK);
	toy_hold(t, false);
	ck_assert_int_eq(toy_wait_end(&a), 0);
	ck_assert_uint_eq(t->nr_reads, reads + 1);
	nf_read_end(&a.io);
}
END_TEST

START_TEST(a_reader_gets_the_error_and_the_next_one_tries_again)
{
	cold_file(4 * BLOCK);
	t->fail_reads = -EIO;
	ck_assert_int_eq(toy_read(t, 0, buf, 10), -EIO);
	t->fail_reads = 0;
	expect_all();
}
END_TEST

START_TEST(later_is_tried_again)
{
	uint64_t before = nf_counter_get(NF_C_WRITE_RETRY);

	put(0, 100, 1);
	t->p_again = 500;
	while (toy_fsync(t) < 0)
		;
	t->p_again = 0;
	put(0, 100, 2);
	t->fail_writes = -EAGAIN;
	ck_assert_int_eq(toy_fsync(t), -EAGAIN); /* but not for ever */
	t->fail_writes = 0;
	ck_assert(nf_counter_get(NF_C_WRITE_RETRY) > before);
	expect_all();
}
END_TEST

START_TEST(a_writer_waits_while_memory_is_full_of_dirty_data_that_cannot_be_stored)
{
	struct toy_wait w[3];
	static uint8_t data[4 << 20];
	struct iovec v = { data, sizeof data };
	struct nf_netfs_stats st;

	memset(data, 5, sizeof data);
	toy_hold(t, true);
	for (unsigned i = 0; i < 3; i++) {
		toy_wait_init(&w[i], t);
		w[i].io.pos_bytes = (uint64_t)i * sizeof data;
		w[i].io.len_bytes = sizeof data;
		w[i].io.iov = &v;
		w[i].io.nr_iov = 1;
		nf_write(&w[i].io);
	}
	usleep(50000);
	ck_assert(!toy_is_done(&w[2]));
	nf_netfs_stats(t->lib, &st);
	ck_assert_uint_le(st.memory_used_bytes, st.memory_limit_bytes);
	toy_hold(t, false);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(toy_wait_end(&w[i]), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	toy_drop_cache(t);
	ck_assert_int_eq(toy_read(t, sizeof data * 2 + 5, buf, 1000), 1000);
	for (unsigned i = 0; i < 1000; i++)
		ck_assert_uint_eq(buf[i], 5);
}
END_TEST

/* Three regions in the middle page of a file, which nobody asks to store: short memory does, all that covers the page,
 * and then the page can go.  Nothing is closed by it. */
START_TEST(short_memory_stores_what_covers_a_page_in_the_middle)
{
	enum { PAGE = 10 * BLOCK + 4096, MIB = 1 << 20 };
	static uint8_t more[MIB];
	unsigned reads;

	cold_file(20 * BLOCK);
	put(PAGE - 100, 300, 0x21);
	put(PAGE + 1000, 50, 0x22);
	put(PAGE + 4000, 200, 0x23);
	ck_assert_uint_eq(nf_dirty_bytes(&t->ic), 550);
	for (unsigned i = 1; i <= 5; i++) /* more than half of memory */
		ck_assert_int_eq(toy_write(t, (uint64_t)i * MIB, more, MIB), 0);
	do {
		usleep(1000);
		evict();
	} while (nf_dirty_bytes(&t->ic) || nf_memory_used(t->lib->mem));
	reads = t->nr_reads;
	ck_assert_int_eq(toy_read(t, 0, buf, 20 * BLOCK), 20 * BLOCK);
	ck_assert_mem_eq(buf, want, 20 * BLOCK);
	ck_assert_uint_gt(t->nr_reads, reads);
}
END_TEST

static int fsync_of(uint64_t *seen)
{
	struct toy_wait w;

	toy_wait_init(&w, t);
	w.io.flags = NF_IO_ERRORS_SEEN;
	w.io.errors_seen = *seen;
	nf_fsync(&w.io);
	int r = toy_wait_end(&w);
	*seen = w.io.errors_seen;
	return r;
}

/* Two descriptors, one opened later.  Stored after all, the error is still told once to each. */
START_TEST(a_group_that_fails_is_reported_at_every_fsync_of_every_descriptor)
{
	uint64_t a = nf_errors_seen(&t->ic), b = a;

	put(0, BLOCK, 1);
	t->fail_writes = -ENOSPC;
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(fsync_of(&a), -ENOSPC);
	t->fail_writes = 0;
	uint64_t c = nf_errors_seen(&t->ic);
	ck_assert_int_eq(fsync_of(&a), 0);
	ck_assert_int_eq(fsync_of(&b), -ENOSPC);
	ck_assert_int_eq(fsync_of(&b), 0);
	ck_assert_int_eq(fsync_of(&c), 0);
	expect_all();
}
END_TEST

/* Nobody waits when write-back fails: everybody hears of it later. */
START_TEST(an_error_of_write_back_and_a_loss_are_told_once_to_each_descriptor)
{
	uint64_t a = nf_errors_seen(&t->ic), b = a;
	struct toy_wait w;

	put(0, BLOCK, 1);
	t->fail_writes = -EIO;
	toy_wait_init(&w, t);
	nf_writeback_range(&w.io);
	ck_assert_int_eq(toy_wait_end(&w), -EIO);
	t->fail_writes = 0;
	ck_assert_int_eq(fsync_of(&a), -EIO);
	ck_assert_int_eq(fsync_of(&a), 0);
	ck_assert_int_eq(fsync_of(&b), -EIO);
	memset(buf, 2, 100);
	ck_assert_int_eq(toy_write(t, 0, buf, 100), 0);
	nf_discard(&t->ic, -ESTALE);
	ck_assert_int_eq(fsync_of(&a), -ESTALE);
	ck_assert_int_eq(fsync_of(&b), -ESTALE);
	ck_assert_int_eq(fsync_of(&b), 0);
	expect_all();
}
END_TEST

/* What came before the barrier is stored first, and nobody waited. */
START_TEST(a_barrier_orders_without_flushing)
{
	put(0, 100, 1);
	put(3 * BLOCK, 100, 1);
	ck_assert_uint_eq(nf_group_close(&t->ic), 1);
	put(5 * BLOCK, 100, 2);
	usleep(20000);
	ck_assert_uint_eq(t->nr_writes, 0);
	t->fail_writes = -EIO;
	ck_assert_int_eq(toy_fsync(t), -EIO);
	ck_assert(!t->now.blocks[5].sealed);
	ck_assert_uint_eq(t->last_group, 0);
	t->fail_writes = 0;
	expect_all();
	ck_assert_uint_eq(t->last_group, 2);
}
END_TEST

START_TEST(discarded_data_is_gone_and_waiters_are_told)
{
	struct toy_wait w;

	cold_file(4 * BLOCK);
	toy_hold(t, true);
	memset(buf, 9, 100);
	ck_assert_int_eq(toy_write(t, 0, buf, 100), 0);
	toy_wait_init(&w, t);
	nf_fsync(&w.io);
	nf_discard(&t->ic, -ESTALE);
	ck_assert_int_eq(toy_wait_end(&w), -ESTALE);
	toy_hold(t, false);
	while (nf_is_dirty(&t->ic))
		usleep(1000);
	expect_all();
}
END_TEST

START_TEST(sequential_reads_are_read_ahead_of)
{
	cold_file(40 * BLOCK);
	uint64_t before = nf_counter_get(NF_C_READ_AHEAD_BYTES);
	for (unsigned i = 0; i < 10; i++)
		ck_assert_int_eq(toy_read(t, i * BLOCK, buf, BLOCK), BLOCK);
	ck_assert(nf_counter_get(NF_C_READ_AHEAD_BYTES) > before);
}
END_TEST

START_TEST(the_lists_of_regions_and_requests_are_readable)
{
	char *text;

	put(100, 50, 1);
	ck_assert_int_eq(nf_netfs_regions_text(t->lib, &text), 0);
	ck_assert_ptr_nonnull(strstr(text, "ORD  D"));
	ck_assert_ptr_nonnull(strstr(text, "64-96"));
	free(text);
	toy_hold(t, true);
	struct toy_wait w;
	toy_wait_init(&w, t);
	nf_fsync(&w.io);
	while (t->nr_writes == 0)
		usleep(1000);
	ck_assert_int_eq(nf_netfs_requests_text(t->lib, &text), 0);
	ck_assert_ptr_nonnull(strstr(text, "REQUEST  OR PHASE  TRIES   ERR INODE"));
	ck_assert_ptr_nonnull(strstr(text, "WB store      -     0 "));
	free(text);
	toy_hold(t, false);
	ck_assert_int_eq(toy_wait_end(&w), 0);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "netfs", 60);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_closed_group_is_stored_before_what_comes_after_it);
	tcase_add_test(tc, a_truncation_alone_makes_a_group);
	tcase_add_test(tc, whole_zeroed_blocks_become_holes_without_being_stored);
	tcase_add_test(tc, dsync_returns_when_its_group_is_stored);
	tcase_add_test(tc, direct_io_leaves_nothing_in_memory);
	tcase_add_test(tc, every_byte_enters_through_a_region);
	tcase_add_test(tc, a_written_byte_is_copied_once_on_its_way_to_the_codec);
	tcase_add_test(tc, borrowed_data_is_kept_when_the_write_must_wait);
	tcase_add_test(tc, two_readers_of_one_missing_block_share_a_request);
	tcase_add_test(tc, a_read_under_way_is_made_again_when_the_block_changed);
	tcase_add_test(tc, a_reader_gets_the_error_and_the_next_one_tries_again);
	tcase_add_test(tc, later_is_tried_again);
	tcase_add_test(tc, a_writer_waits_while_memory_is_full_of_dirty_data_that_cannot_be_stored);
	tcase_add_test(tc, short_memory_stores_what_covers_a_page_in_the_middle);
	tcase_add_test(tc, a_group_that_fails_is_reported_at_every_fsync_of_every_descriptor);
	tcase_add_test(tc, an_error_of_write_back_and_a_loss_are_told_once_to_each_descriptor);
	tcase_add_test(tc, a_barrier_orders_without_flushing);
	tcase_add_test(tc, discarded_data_is_gone_and_waiters_are_told);
	tcase_add_test(tc, sequential_reads_are_read_ahead_of);
	tcase_add_test(tc, the_lists_of_regions_and_requests_are_readable);
}

NF_SUITE("netfs/netfs")
