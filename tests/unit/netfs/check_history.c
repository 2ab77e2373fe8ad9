/* Bugs of the kernel's history (reference, section G), each as a test: gNN_ is row GNN.  docs/internals/netfs.md
 * says which rows have no test here and why. */
#include "toyfile.h"

START_TEST(g01_truncate_inside_a_write_to_a_cold_block_keeps_its_front)
{
	cold_file(5 * BLOCK);
	put(20000, 9000, 0x22);
	cut(23456);
	expect_all();
}
END_TEST

START_TEST(g02_a_hole_over_the_front_of_dirty_bytes_keeps_their_tail)
{
	cold_file(5 * BLOCK);
	put(20000, 9000, 0x22);
	memset(want + 18000, 0, 6000);
	ck_assert_int_eq(toy_fallocate(t, PUNCH, 18000, 6000), 0);
	expect_all();
}
END_TEST

START_TEST(g03_dirty_bytes_that_are_all_cut_off_leave_nothing)
{
	put(0xbbbf, 0xf96c, 0x33);
	cut(0xbbbf);
	ck_assert_uint_eq(nf_dirty_bytes(&t->ic), 0);
	evict(); /* a folio that were still marked would stay */
	ck_assert_uint_eq(nf_memory_used(t->lib->mem), 0);
	expect_all();
	ck_assert(!nf_is_dirty(&t->ic));
}
END_TEST

START_TEST(g05_growing_again_after_a_cut_shows_zeros)
{
	static const uint64_t cuts[] = { 0, 1, 4095, 4096, 5000, BLOCK, BLOCK + 1, 3 * BLOCK - 1 };

	for (unsigned i = 0; i < NF_ARRAY_LEN(cuts); i++) {
		put(0, 3 * BLOCK, 0x44);
		if (i % 2) {
			ck_assert_int_eq(toy_fsync(t), 0);
			toy_drop_cache(t);
		}
		cut(cuts[i]);
		ck_assert_int_eq(toy_truncate(t, 5 * BLOCK), 0);
		if (i % 3 == 0)
			put(4 * BLOCK + 7, 10, 0x45);
		expect_all();
	}
}
END_TEST

START_TEST(g06_small_appends_survive_dropping_the_cache)
{
	for (unsigned i = 0; i < 40; i++) {
		put(i * 700, 700, (uint8_t)(i + 1));
		if (i % 3 == 0) {
			ck_assert_int_eq(toy_fsync(t), 0);
			evict();
			expect();
		}
	}
	expect_all();
}
END_TEST

START_TEST(g08_bytes_behind_an_unsent_extension_are_not_taken_for_zeros)
{
	cold_file(2 * BLOCK);
	ck_assert_int_eq(toy_truncate(t, 6 * BLOCK), 0);
	evict();
	expect();
	put(5 * BLOCK, 100, 0x55);
	evict();
	expect_all();
}
END_TEST

START_TEST(g09_writing_all_over_a_partly_written_block_needs_no_read)
{
	cold_file(4 * BLOCK);
	unsigned reads = t->nr_reads;
	put(BLOCK + 100, 300, 0x66);
	put(BLOCK, BLOCK, 0x67);
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert_uint_eq(t->nr_reads, reads);
	expect_all();
}
END_TEST

START_TEST(g14_a_failed_store_reports_its_error_and_keeps_the_data)
{
	put(0, 3 * BLOCK, 0x77);
	t->fail_writes = -ENOSPC;
	ck_assert_int_eq(toy_fsync(t), -ENOSPC);
	ck_assert(nf_is_dirty(&t->ic));
	ck_assert_uint_eq(nf_dirty_bytes(&t->ic), 3 * BLOCK);
	expect();
	t->fail_writes = 0;
	expect_all();
	ck_assert(!nf_is_dirty(&t->ic));
}
END_TEST

/* G16 */
static void *append_some(void *arg)
{
	uint8_t b[300];

	memset(b, *(uint8_t *)arg, sizeof b);
	for (unsigned i = 0; i < 50; i++)
		ck_assert_int_eq(toy_write_flags(t, 0, b, sizeof b, NF_IO_APPEND), 0);
	return NULL;
}

START_TEST(g16_parallel_appends_neither_overlap_nor_leave_gaps)
{
	pthread_t th[3];
	uint8_t v[3] = { 1, 2, 3 };
	unsigned seen[4] = { 0 };

	for (unsigned i = 0; i < 3; i++)
		pthread_create(&th[i], NULL, append_some, &v[i]);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(th[i], NULL);
	ck_assert_uint_eq(nf_i_size(&t->ic), 3 * 50 * 300);
	ck_assert_int_eq(toy_read(t, 0, buf, sizeof buf), 3 * 50 * 300);
	for (unsigned i = 0; i < 3 * 50 * 300; i++) {
		assert(buf[i] == buf[i / 300 * 300]);
		seen[buf[i] & 3]++;
	}
	ck_assert_uint_eq(seen[1], 15000);
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert(t->info.appended);
}
END_TEST

START_TEST(g19_behind_the_end_of_the_file_there_are_zeros)
{
	cold_file(24998);
	ck_assert_int_eq(toy_read(t, 24000, buf, 2000), 998); /* its page is in memory, with what is behind the end */
	ck_assert_int_eq(toy_truncate(t, 30000), 0);
	expect_all();
}
END_TEST

START_TEST(g22_g35_one_dirty_byte_in_a_cold_block_is_read_around)
{
	for (unsigned at = 0; at < BLOCK; at += 1023) {
		cold_file(3 * BLOCK);
		put(BLOCK + at, 1, 0x88);
		if (at % 2)
			expect();
		expect_all();
	}
}
END_TEST

START_TEST(g27_zero_range_past_the_end_moves_it)
{
	cold_file(2 * BLOCK);
	memset(want + 10000, 0, 60000);
	ck_assert_int_eq(toy_fallocate(t, FALLOC_FL_ZERO_RANGE, 10000, 60000), 0);
	ck_assert_uint_eq(nf_i_size(&t->ic), 70000);
	expect_all();
	ck_assert_int_eq(toy_fallocate(t, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), -EOPNOTSUPP);
}
END_TEST

START_TEST(g28_writing_past_the_end_in_the_last_page_keeps_its_head)
{
	cold_file(100);
	put(200, 10, 0x99);
	expect_all();
}
END_TEST

/* G31, I8: what the older group says must not change once a younger one writes there. */
START_TEST(g31_an_older_group_that_fails_is_stored_as_it_was)
{
	uint8_t *kept;

	put(0, BLOCK, 0x01);
	toy_hold(t, true);
	struct toy_wait w;
	toy_wait_init(&w, t);
	nf_fsync(&w.io); /* group 1 is gathered and under way */
	while (t->nr_writes == 0)
		usleep(1000);
	put(100, 50, 0x02); /* group 2 in the same block */
	t->fail_writes = -EIO;
	toy_hold(t, false);
	ck_assert_int_eq(toy_wait_end(&w), -EIO);
	t->fail_writes = 0;
	toy_wait_init(&w, t);
	nf_group_flush(&w.io, 1);
	ck_assert_int_eq(toy_wait_end(&w), 0);
	kept = toy_image_bytes(&t->kept, BLOCK);
	for (unsigned i = 0; i < BLOCK; i++)
		assert(kept[i] == 0x01);
	free(kept);
	expect_all();
}
END_TEST

/* G34 */
START_TEST(g34_storing_one_of_two_regions_of_a_folio_keeps_the_other)
{
	struct toy_wait w;

	put(0, 8 * BLOCK, 0x11);
	ck_assert_int_eq(toy_fsync(t), 0);
	struct nf_folio *f = nf_mapping_next(&t->ic.priv->mapping, 7 * BLOCK);
	ck_assert_uint_eq(f->pos_bytes, 0); /* one for all of it */
	nf_folio_unpin(f);
	put(10, 10, 0xaa);
	put(7 * BLOCK, 10, 0xab);
	toy_wait_init(&w, t);
	w.io.pos_bytes = 0;
	w.io.len_bytes = 100;
	nf_writeback_range(&w.io);
	ck_assert_int_eq(toy_wait_end(&w), 0);
	ck_assert_uint_eq(nf_dirty_bytes(&t->ic), 10);
	evict();
	expect_all();
}
END_TEST

START_TEST(g04_dirty_memory_is_never_given_up)
{
	cold_file(16 * BLOCK);
	put(3 * BLOCK + 7, 100, 0x21);
	put(9 * BLOCK, 2 * BLOCK, 0x22);
	for (unsigned i = 0; i < 5; i++)
		evict();
	ck_assert_uint_eq(nf_dirty_bytes(&t->ic), 100 + 2 * BLOCK);
	expect_all();
}
END_TEST

/* G10 is about descriptors, which the library does not know: here it does not matter who reads. */
START_TEST(g10_another_reader_sees_a_partly_written_block_filled)
{
	cold_file(3 * BLOCK);
	put(BLOCK + 100, 50, 0x23);
	ck_assert_int_eq(toy_read_flags(t, BLOCK, buf, BLOCK, NF_IO_DIRECT), BLOCK);
	ck_assert_mem_eq(buf, want + BLOCK, BLOCK);
	put(BLOCK + 1000, 50, 0x24);
	expect();
	put(2 * BLOCK - 1, 2, 0x25);
	expect_all();
}
END_TEST

START_TEST(g11_a_write_to_the_tail_of_a_folio_and_the_next_one)
{
	cold_file(4 * BLOCK);
	put(2 * BLOCK - 33, 33, 0x26);
	put(2 * BLOCK, 77, 0x27);
	expect();
	put(BLOCK, 10, 0x28);
	expect_all();
}
END_TEST

/* Whole pages of a mapping, beside a cut and beside another group. */
START_TEST(g12_pages_of_a_mapping_beside_a_cut_and_another_group)
{
	cold_file(4 * BLOCK);
	memset(want + BLOCK, 0x29, 4096);
	ck_assert_int_eq(toy_write_flags(t, BLOCK, want + BLOCK, 4096, NF_IO_PAGE_GRANULAR), 0);
	(void)nf_group_close(&t->ic);
	memset(want + BLOCK + 4096, 0x2a, 4096);
	ck_assert_int_eq(toy_write_flags(t, BLOCK + 4096, want + BLOCK + 4096, 4096, NF_IO_PAGE_GRANULAR), 0);
	cut(BLOCK + 5000);
	expect_all();
	ck_assert(t->info.page_granular);
}
END_TEST

START_TEST(g13_synchronous_writes_of_parts_of_pages)
{
	cold_file(2 * BLOCK);
	for (unsigned i = 0; i < 30; i++) {
		uint64_t at = i * 997 % (2 * BLOCK - 300);
		memset(want + at, (int)(i + 1), 300);
		ck_assert_int_eq(toy_write_flags(t, at, want + at, 300, NF_IO_DSYNC), 0);
		ck_assert_uint_eq(t->last_group, t->nr_groups);
		expect();
	}
	expect_all();
}
END_TEST

/* One request, cut in four: what one of them loses, all of them have not done. */
START_TEST(g15_a_direct_write_that_fails_in_the_middle_leaves_no_hole)
{
	t->mode = TOY_MIRRORED;
	t->most_blocks = 1;
	cold_file(8 * BLOCK);
	memset(buf, 0x2b, 4 * BLOCK);
	t->fail_nth_write = t->nr_stream[TOY_SERVER] + 2;
	ck_assert_int_eq(toy_write_flags(t, 8 * BLOCK, buf, 4 * BLOCK, NF_IO_DIRECT), -ENOSPC);
	t->fail_nth_write = 0;
	memset(want + 8 * BLOCK, 0x2b, 4 * BLOCK);
	ck_assert_uint_eq(t->kept.size, 8 * BLOCK);
	for (unsigned i = 8; i < 12; i++)
		ck_assert(!t->now.blocks[i].sealed);
	expect_all();
}
END_TEST

/* Everything ends within the call that began it. */
START_TEST(g17_a_store_without_latency_never_hangs)
{
	for (unsigned i = 0; i < 300; i++) {
		put(i % 40 * 3000, 4000, (uint8_t)i);
		if (i % 3 == 0)
			toy_drop_cache(t);
		ck_assert_int_eq(toy_read(t, i % 40 * 3000, buf, 4000), 4000);
		if (i % 7 == 0)
			ck_assert_int_eq(toy_fsync(t), 0);
	}
	expect_all();
}
END_TEST

START_TEST(g18_answers_in_any_order_and_later_again_land_where_they_belong)
{
	for (unsigned i = 0; i < 40; i++)
		put(i * BLOCK, BLOCK, (uint8_t)(i + 1));
	ck_assert_int_eq(toy_fsync(t), 0);
	t->p_later = 1000;
	t->p_again = 200;
	for (unsigned pass = 0; pass < 5; pass++) {
		struct toy_wait w[10];
		toy_drop_cache(t);
		for (unsigned i = 0; i < 10; i++) {
			toy_wait_init(&w[i], t);
			w[i].io.pos_bytes = i * 4 * BLOCK + i;
			w[i].io.len_bytes = 3 * BLOCK;
			nf_read(&w[i].io);
		}
		for (unsigned i = 0; i < 10; i++) {
			int r = toy_wait_end(&w[i]);
			ck_assert(r == 0 || r == -EAGAIN);
			const uint8_t *p = want + w[i].io.pos_bytes;
			for (int k = 0; k < w[i].io.nr_out_iov && r == 0; k++) {
				ck_assert_mem_eq(w[i].io.out_iov[k].iov_base, p, w[i].io.out_iov[k].iov_len);
				p += w[i].io.out_iov[k].iov_len;
			}
			nf_read_end(&w[i].io);
		}
	}
	t->p_again = 0;
	expect_all();
}
END_TEST

/* A block that ends early where it is stored, at every length: the rest is zeros. */
START_TEST(g20_blocks_stored_short_are_zeros_behind)
{
	for (unsigned len = 1; len < 2 * BLOCK; len += 1531) {
		cut(0);
		put(0, len, 0x2c);
		ck_assert_int_eq(toy_fsync(t), 0);
		ck_assert_int_eq(toy_truncate(t, 3 * BLOCK), 0);
		toy_drop_cache(t);
		expect_all();
	}
}
END_TEST

START_TEST(g21_direct_reads_across_the_end_are_short)
{
	cold_file(BLOCK + 1000);
	ck_assert_int_eq(toy_read_flags(t, BLOCK, buf, BLOCK, NF_IO_DIRECT), 1000);
	ck_assert_int_eq(toy_read_flags(t, BLOCK + 999, buf, BLOCK, NF_IO_DIRECT), 1);
	ck_assert_int_eq(toy_read_flags(t, BLOCK + 1000, buf, BLOCK, NF_IO_DIRECT), 0);
	ck_assert_int_eq(toy_read_flags(t, 5 * BLOCK, buf, BLOCK, NF_IO_DIRECT), 0);
	expect_all();
}
END_TEST

/* The first answer is "later", the second an error. */
START_TEST(g23_a_failure_while_trying_again_ends_everything_once)
{
	struct toy_wait w[3];

	cold_file(6 * BLOCK);
	t->fail_reads = -EAGAIN;
	for (unsigned i = 0; i < 3; i++) {
		toy_wait_init(&w[i], t);
		w[i].io.pos_bytes = i * 2 * BLOCK;
		w[i].io.len_bytes = BLOCK;
		nf_read(&w[i].io);
	}
	unsigned reads = t->nr_reads;
	until(&t->nr_reads, reads + 1);
	t->fail_reads = -EIO;
	for (unsigned i = 0; i < 3; i++) {
		int r = toy_wait_end(&w[i]);
		ck_assert(r == -EIO || r == -EAGAIN);
		nf_read_end(&w[i].io);
	}
	t->fail_reads = 0;
	expect_all();
}
END_TEST

START_TEST(g24_nothing_more_is_sent_to_a_destination_that_failed)
{
	t->mode = TOY_MIRRORED;
	t->most_blocks = 1;
	t->fail_stream[TOY_SERVER] = -EIO;
	uint64_t before = nf_counter_get(NF_C_WRITE_REQUESTS);
	put(0, 12 * BLOCK, 0x2d);
	ck_assert_int_eq(toy_fsync(t), -EIO);
	unsigned calls = t->nr_stream[TOY_SERVER]; /* one of each request, however often it was made again */
	ck_assert_uint_le(calls, nf_counter_get(NF_C_WRITE_REQUESTS) - before);
	t->fail_stream[TOY_SERVER] = 0;
	expect_all();
}
END_TEST

/* For the thread sanitizer: sizes are read while they change. */
static void *read_sizes(void *arg)
{
	atomic_bool *stop = arg;
	uint64_t last = 0;

	while (!atomic_load(stop)) {
		uint64_t size = nf_i_size(&t->ic);
		assert(size >= last && size <= 200 * 700);
		last = size;
	}
	return NULL;
}

START_TEST(g25_the_size_can_be_read_at_any_time)
{
	pthread_t th;
	atomic_bool stop = false;

	pthread_create(&th, NULL, read_sizes, &stop);
	for (unsigned i = 0; i < 200; i++) {
		put(i * 700, 700, (uint8_t)i);
		if (i % 20 == 0)
			toy_drop_cache(t);
	}
	atomic_store(&stop, true);
	pthread_join(th, NULL);
	expect_all();
}
END_TEST

START_TEST(g26_a_new_group_every_few_writes)
{
	cold_file(6 * BLOCK);
	for (unsigned i = 0; i < 60; i++) {
		put(i * 1511 % (5 * BLOCK), 900, (uint8_t)(i + 3));
		if (i % 4 == 3)
			(void)nf_group_close(&t->ic);
	}
	expect_all();
}
END_TEST

/* Memory is full while a partly written block has to be filled: the request waits, or uses the reserve. */
START_TEST(g29_filling_a_block_works_when_memory_is_full)
{
	static uint8_t big[5 << 20];

	cold_file(4 * BLOCK);
	memset(big, 0x2e, sizeof big);
	ck_assert_int_eq(toy_write(t, 1 << 20, big, 4 << 20), 0);
	put(BLOCK + 3, 5, 0x2f);
	ck_assert_int_eq(toy_write(t, 5 << 20, big, 2 << 20), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	toy_drop_cache(t);
	ck_assert_int_eq(toy_read(t, 0, buf, 4 * BLOCK), 4 * BLOCK);
	ck_assert_mem_eq(buf, want, 4 * BLOCK);
}
END_TEST

/* The cache is full at random: what it has of a block is never older than what the server has. */
START_TEST(g30_a_cache_that_fills_up_at_random_is_never_stale)
{
	t->mode = TOY_MIRRORED;
	for (unsigned i = 0; i < 80; i++) {
		t->fail_stream[TOY_CACHE] = i % 3 == 1 ? -ENOSPC : 0;
		put(i * 4001 % (6 * BLOCK), 3000, (uint8_t)(i + 1));
		if (i % 2)
			ck_assert_int_eq(toy_fsync(t), 0);
		if (i % 2)
			toy_check_streams(t);
	}
	t->fail_stream[TOY_CACHE] = 0;
	expect_all();
	toy_check_streams(t);
}
END_TEST

START_TEST(g36_what_was_written_while_a_store_failed_is_kept_around_it)
{
	struct toy_wait w;

	put(0, 3 * BLOCK, 0x31);
	toy_hold(t, true);
	toy_wait_init(&w, t);
	w.io.len_bytes = 3 * BLOCK;
	nf_writeback_range(&w.io); /* the group stays open */
	until(&t->nr_writes, 1);
	put(BLOCK - 50, 100, 0x32);
	punch(2 * BLOCK, 500);
	put(3 * BLOCK, 10, 0x33);
	t->fail_writes = -EIO;
	toy_hold(t, false);
	ck_assert_int_eq(toy_wait_end(&w), -EIO);
	ck_assert_uint_eq(nf_dirty_bytes(&t->ic), 3 * BLOCK - 500 + 10);
	t->fail_writes = 0;
	expect_all();
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "history", 60);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, g01_truncate_inside_a_write_to_a_cold_block_keeps_its_front);
	tcase_add_test(tc, g02_a_hole_over_the_front_of_dirty_bytes_keeps_their_tail);
	tcase_add_test(tc, g03_dirty_bytes_that_are_all_cut_off_leave_nothing);
	tcase_add_test(tc, g05_growing_again_after_a_cut_shows_zeros);
	tcase_add_test(tc, g06_small_appends_survive_dropping_the_cache);
	tcase_add_test(tc, g08_bytes_behind_an_unsent_extension_are_not_taken_for_zeros);
	tcase_add_test(tc, g09_writing_all_over_a_partly_written_block_needs_no_read);
	tcase_add_test(tc, g14_a_failed_store_reports_its_error_and_keeps_the_data);
	tcase_add_test(tc, g16_parallel_appends_neither_overlap_nor_leave_gaps);
	tcase_add_test(tc, g19_behind_the_end_of_the_file_there_are_zeros);
	tcase_add_test(tc, g22_g35_one_dirty_byte_in_a_cold_block_is_read_around);
	tcase_add_test(tc, g27_zero_range_past_the_end_moves_it);
	tcase_add_test(tc, g28_writing_past_the_end_in_the_last_page_keeps_its_head);
	tcase_add_test(tc, g31_an_older_group_that_fails_is_stored_as_it_was);
	tcase_add_test(tc, g34_storing_one_of_two_regions_of_a_folio_keeps_the_other);
	tcase_add_test(tc, g04_dirty_memory_is_never_given_up);
	tcase_add_test(tc, g10_another_reader_sees_a_partly_written_block_filled);
	tcase_add_test(tc, g11_a_write_to_the_tail_of_a_folio_and_the_next_one);
	tcase_add_test(tc, g12_pages_of_a_mapping_beside_a_cut_and_another_group);
	tcase_add_test(tc, g13_synchronous_writes_of_parts_of_pages);
	tcase_add_test(tc, g15_a_direct_write_that_fails_in_the_middle_leaves_no_hole);
	tcase_add_test(tc, g17_a_store_without_latency_never_hangs);
	tcase_add_test(tc, g18_answers_in_any_order_and_later_again_land_where_they_belong);
	tcase_add_test(tc, g20_blocks_stored_short_are_zeros_behind);
	tcase_add_test(tc, g21_direct_reads_across_the_end_are_short);
	tcase_add_test(tc, g23_a_failure_while_trying_again_ends_everything_once);
	tcase_add_test(tc, g24_nothing_more_is_sent_to_a_destination_that_failed);
	tcase_add_test(tc, g25_the_size_can_be_read_at_any_time);
	tcase_add_test(tc, g26_a_new_group_every_few_writes);
	tcase_add_test(tc, g29_filling_a_block_works_when_memory_is_full);
	tcase_add_test(tc, g30_a_cache_that_fills_up_at_random_is_never_stale);
	tcase_add_test(tc, g36_what_was_written_while_a_store_failed_is_kept_around_it);
}

NF_SUITE("netfs/history")
