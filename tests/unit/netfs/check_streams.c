/* Several destinations of one write request: every row of the outcome table (reference, C.4), slicing, and that
 * nothing acknowledged is lost whichever fails. */
#include "toyfile.h"

static void streams_setup(void)
{
	setup();
	t->mode = TOY_MIRRORED;
}

static void standby_setup(void)
{
	setup();
	t->mode = TOY_STANDBY;
}

static void heal(void)
{
	for (unsigned s = 0; s < TOY_STREAMS; s++)
		t->fail_stream[s] = 0;
}

static void streams_teardown(void)
{
	heal();
	ck_assert_int_eq(toy_fsync(t), 0);
	toy_check_streams(t);
	teardown();
}

/* Blocks of the file that destination S has. */
static unsigned blocks_at(unsigned s)
{
	unsigned nr = 0;

	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < TOY_BLOCKS; i++)
		nr += t->at[s].blocks[i].sealed != NULL;
	pthread_mutex_unlock(&t->lock);
	return nr;
}

START_TEST(each_stream_is_cut_to_what_its_destination_takes)
{
	t->most_blocks = 4;
	put(0, 12 * BLOCK, 1);
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert_uint_eq(t->nr_stream[TOY_SERVER], 3);
	ck_assert_uint_eq(t->nr_stream[TOY_SECOND], 6);
	ck_assert_uint_eq(t->nr_stream[TOY_CACHE], 4);
	expect_all();
}
END_TEST

/* Rows 2 and 3: the cache fails. It must not keep what it had of the blocks, and is not asked again. */
START_TEST(c4_a_cache_that_fails_loses_the_range_and_nothing_else)
{
	static const int how[] = { -ENOSPC, -EIO, -EAGAIN };

	for (unsigned i = 0; i < NF_ARRAY_LEN(how); i++) {
		put(0, 3 * BLOCK, (uint8_t)(1 + i));
		ck_assert_int_eq(toy_fsync(t), 0);
		ck_assert_uint_eq(blocks_at(TOY_CACHE), 3);
		unsigned calls = t->nr_stream[TOY_CACHE];
		t->fail_stream[TOY_CACHE] = how[i];
		put(100, 10, 0x40);
		ck_assert_int_eq(toy_fsync(t), 0);
		ck_assert(!nf_is_dirty(&t->ic));
		ck_assert_uint_eq(t->nr_stream[TOY_CACHE], calls + 1);
		ck_assert_uint_eq(blocks_at(TOY_CACHE), 2);
		heal();
		expect_all();
	}
}
END_TEST

/* Row 4: only what asked for it is sent again. */
START_TEST(c4_later_is_for_the_stream_that_said_it)
{
	uint64_t before = nf_counter_get(NF_C_WRITE_REQUESTS);
	t->fail_stream[TOY_SECOND] = -EAGAIN;
	put(0, BLOCK, 1);
	ck_assert_int_eq(toy_fsync(t), -EAGAIN);
	/* The whole request may have been made again already, after a while. */
	unsigned server = t->nr_stream[TOY_SERVER], cache = t->nr_stream[TOY_CACHE];
	uint64_t requests = nf_counter_get(NF_C_WRITE_REQUESTS) - before;
	ck_assert_uint_le(server, requests);
	ck_assert_uint_le(cache, requests);
	ck_assert_uint_ge(t->nr_stream[TOY_SECOND], NF_ATTEMPTS_MAX);
	ck_assert(nf_is_dirty(&t->ic));
	heal();
	expect_all();
}
END_TEST

/* Rows 5 to 7 and 10: whatever the server says, the data stays dirty and readable, fsync says so each time, and the
 * other destinations were not held up. */
START_TEST(c4_a_server_that_refuses_leaves_everything_dirty)
{
	static const int how[] = { -EACCES, -EPERM, -NF_E_STORE_DENIED, -ENOSPC, -EDQUOT, -EIO, -ENOENT, -EROFS,
				   -EFBIG, -ENXIO, -EREMOTEIO, -ESTALE };

	cold_file(4 * BLOCK);
	for (unsigned i = 0; i < NF_ARRAY_LEN(how); i++) {
		unsigned second = t->nr_stream[TOY_SECOND];
		t->fail_stream[TOY_SERVER] = how[i];
		put(BLOCK + 10 * i, 1000, (uint8_t)(0x30 + i));
		ck_assert_int_eq(toy_fsync(t), how[i]);
		ck_assert_int_eq(toy_fsync(t), how[i]);
		ck_assert_uint_ge(t->nr_stream[TOY_SECOND], second + 2);
		ck_assert(nf_is_dirty(&t->ic));
		toy_drop_cache(t);
		(void)nf_memory_reclaim(t->lib->mem, SIZE_MAX);
		expect();
		heal();
		expect_all();
		toy_check_streams(t);
	}
}
END_TEST

/* Row 8: the journal has it, the server is yet to get it. */
START_TEST(c4_a_stand_in_is_enough_while_the_server_cannot_be_reached)
{
	static const int how[] = { -NF_E_OFFLINE, -NF_E_TIMEOUT, -ENETUNREACH, -EHOSTUNREACH, -ECONNREFUSED };

	for (unsigned i = 0; i < NF_ARRAY_LEN(how); i++) {
		t->fail_stream[TOY_SERVER] = how[i];
		put(0, 2 * BLOCK + 5, (uint8_t)(1 + i));
		ck_assert_int_eq(toy_fsync(t), 0);
		ck_assert(!nf_is_dirty(&t->ic));
		ck_assert(t->unsent[0] && t->unsent[1] && t->unsent[2]);
		expect_all();
		heal();
		put(BLOCK, BLOCK, 0x20);
		ck_assert_int_eq(toy_fsync(t), 0);
		ck_assert(t->unsent[0] && !t->unsent[1]);
		expect_all();
	}
}
END_TEST

START_TEST(c4_a_stand_in_does_not_hide_a_server_that_refuses)
{
	t->fail_stream[TOY_SERVER] = -EACCES;
	put(0, 100, 1);
	ck_assert_int_eq(toy_fsync(t), -EACCES);
	ck_assert(nf_is_dirty(&t->ic));
	heal();
	expect_all();
}
END_TEST

/* A stand-in that fails does not matter while the server answers. */
START_TEST(c4_a_server_that_answers_needs_no_stand_in)
{
	t->fail_stream[TOY_SECOND] = -ENOSPC;
	put(0, 100, 1);
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert(!t->unsent[0]);
	expect_all();
}
END_TEST

/* Row 9: nothing durable.  Data stays in memory up to its limit, then writers wait. */
START_TEST(c4_with_neither_server_nor_stand_in_writers_are_held_at_the_limit)
{
	struct toy_wait w[4];
	static uint8_t data[4 << 20];
	struct iovec v = { data, sizeof data };
	struct nf_netfs_stats st;
	unsigned waiting = 0;

	t->fail_stream[TOY_SERVER] = -NF_E_OFFLINE;
	t->fail_stream[TOY_SECOND] = -ENOSPC;
	for (unsigned i = 0; i < 4; i++) {
		toy_wait_init(&w[i], t);
		w[i].io.pos_bytes = (uint64_t)i * sizeof data;
		w[i].io.len_bytes = sizeof data;
		w[i].io.iov = &v;
		w[i].io.nr_iov = 1;
		nf_write(&w[i].io);
	}
	ck_assert_int_eq(toy_fsync(t), -NF_E_OFFLINE);
	for (unsigned i = 0; i < 4; i++)
		waiting += !toy_is_done(&w[i]);
	ck_assert_uint_ge(waiting, 2);
	nf_netfs_stats(t->lib, &st);
	ck_assert_uint_le(st.memory_used_bytes, st.memory_limit_bytes);
	heal();
	for (unsigned i = 0; i < 4; i++)
		ck_assert_int_eq(toy_wait_end(&w[i]), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
}
END_TEST

/* What failed alone is sent again alone, when memory has moved on and the sealed copy is all there is. */
START_TEST(a_request_that_is_sent_again_goes_only_where_it_failed)
{
	struct toy_wait w;

	put(0, BLOCK, 1);
	toy_hold(t, true);
	toy_wait_init(&w, t);
	nf_fsync(&w.io);
	until(&t->nr_writes, 3);
	put(10, 10, 2); /* of the next group */
	t->fail_stream[TOY_SECOND] = -EIO;
	toy_hold(t, false);
	ck_assert_int_eq(toy_wait_end(&w), -EIO);
	heal();
	toy_wait_init(&w, t);
	nf_group_flush(&w.io, 1);
	ck_assert_int_eq(toy_wait_end(&w), 0);
	ck_assert_uint_eq(t->nr_stream[TOY_SERVER], 1);
	ck_assert_uint_eq(t->nr_stream[TOY_CACHE], 1);
	ck_assert_uint_ge(t->nr_stream[TOY_SECOND], 2);
	expect_all();
}
END_TEST

/* --- semi-dirty regions --------------------------------------------------------------------- */

static void copies_setup(void)
{
	streams_setup();
	cold_file(6 * BLOCK);
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < TOY_BLOCKS; i++)
		toy_block_clear(&t->at[TOY_CACHE].blocks[i]);
	pthread_mutex_unlock(&t->lock);
	t->copies = true;
}

static void tick(void)
{
	atomic_store(&t->ic.priv->aged, true);
	nf_kick_later(t->ic.priv);
}

static void until_copied(unsigned nr)
{
	unsigned now = 0;

	while (now < nr) {
		usleep(1000);
		pthread_mutex_lock(&t->lock);
		now = t->nr_copied;
		pthread_mutex_unlock(&t->lock);
	}
}

START_TEST(a_download_is_put_into_the_cache_later_and_only_there)
{
	char *text;
	unsigned server = t->nr_stream[TOY_SERVER];

	ck_assert_int_eq(toy_read_flags(t, 0, buf, 3 * BLOCK, NF_IO_NOWAIT_AHEAD), 3 * BLOCK);
	ck_assert_uint_eq(blocks_at(TOY_CACHE), 0); /* not at once */
	ck_assert(!nf_is_dirty(&t->ic));
	ck_assert_int_eq(nf_netfs_regions_text(t->lib, &text), 0);
	ck_assert_ptr_nonnull(strstr(text, "C2C  D"));
	free(text);
	(void)nf_memory_reclaim(t->lib->mem, SIZE_MAX); /* held until then */
	tick();
	until_copied(3);
	ck_assert_uint_eq(blocks_at(TOY_CACHE), 3);
	ck_assert_uint_eq(t->nr_stream[TOY_SERVER], server);
	expect();
}
END_TEST

START_TEST(a_local_write_supersedes_a_download)
{
	ck_assert_int_eq(toy_read_flags(t, 0, buf, 4 * BLOCK, NF_IO_NOWAIT_AHEAD), 4 * BLOCK);
	put(BLOCK + 5, 10, 0x77);
	punch(2 * BLOCK, 100);
	tick();
	until_copied(2);
	usleep(20000);
	ck_assert_uint_eq(blocks_at(TOY_CACHE), 2); /* 0 and 3 */
	ck_assert_int_eq(toy_fsync(t), 0);
	ck_assert_uint_eq(blocks_at(TOY_CACHE), 4);
	expect_all();
}
END_TEST

static bool requests_under_way(void)
{
	struct nf_ictx_priv *p = t->ic.priv;

	nf_lock_take(&p->lock);
	bool any = p->nr_wreqs || p->dirty.nr;
	nf_lock_drop(&p->lock);
	return any;
}

/* Zeroed in two steps, with a store in between, the block is stored as bytes, and then it is a hole all the same. */
START_TEST(a_download_of_a_block_that_becomes_a_hole_is_dropped)
{
	struct toy_wait w;

	t->fail_stream[TOY_CACHE] = -ENOSPC;
	punch(BLOCK, BLOCK / 2);
	for (int step = 0; step < 2; step++) {
		toy_wait_init(&w, t);
		w.io.len_bytes = 6 * BLOCK;
		nf_writeback_range(&w.io);
		ck_assert_int_eq(toy_wait_end(&w), 0);
		while (requests_under_way())
			usleep(1000); /* nobody waits for zeros */
		if (step == 0)
			punch(BLOCK + BLOCK / 2, BLOCK / 2);
	}
	t->fail_stream[TOY_CACHE] = 0;
	toy_drop_cache(t);
	ck_assert_int_eq(toy_read_flags(t, BLOCK, buf, BLOCK, NF_IO_NOWAIT_AHEAD), BLOCK);
	ck_assert_int_eq(toy_fsync(t), 0);
	tick();
	usleep(20000);
	ck_assert_uint_eq(blocks_at(TOY_CACHE), 0);
	expect_all();
}
END_TEST

START_TEST(a_download_never_covers_local_bytes)
{
	put(BLOCK + 5, 10, 0x77);
	ck_assert_int_eq(toy_read_flags(t, 0, buf, 3 * BLOCK, NF_IO_NOWAIT_AHEAD), 3 * BLOCK);
	tick();
	until_copied(2);
	usleep(20000);
	ck_assert_uint_eq(blocks_at(TOY_CACHE), 2);
	expect_all();
}
END_TEST

START_TEST(a_download_that_the_cache_refuses_is_dropped)
{
	t->fail_stream[TOY_CACHE] = -ENOSPC;
	ck_assert_int_eq(toy_read_flags(t, 0, buf, 3 * BLOCK, NF_IO_NOWAIT_AHEAD), 3 * BLOCK);
	unsigned calls = t->nr_stream[TOY_CACHE];
	tick();
	until(&t->nr_stream[TOY_CACHE], calls + 1);
	usleep(20000);
	ck_assert_uint_eq(t->nr_stream[TOY_CACHE], calls + 1);
	ck_assert(!nf_is_dirty(&t->ic));
	uint64_t seen = 0;
	ck_assert_uint_eq(nf_errors_seen(&t->ic), seen);
	expect_all();
}
END_TEST

/* Also G7: the inode goes while its copy is on its way, or waits. */
START_TEST(g07_an_inode_can_go_while_a_download_is_being_copied)
{
	toy_hold(t, false);
	ck_assert_int_eq(toy_read_flags(t, 0, buf, 2 * BLOCK, NF_IO_NOWAIT_AHEAD), 2 * BLOCK);
	tick();
	ck_assert_int_eq(toy_read_flags(t, 2 * BLOCK, buf, 3 * BLOCK, NF_IO_NOWAIT_AHEAD), 3 * BLOCK);
	/* teardown frees the context at once */
}
END_TEST

/* Downloads never take more than their part of memory, and give it back when it is wanted. */
START_TEST(downloads_kept_for_the_cache_do_not_keep_memory_from_others)
{
	static uint8_t big[6 << 20];

	t->copies = false;
	memset(big, 3, sizeof big);
	for (unsigned at = 0; at < sizeof big; at += 1 << 20)
		ck_assert_int_eq(toy_write(t, at, big + at, 1 << 20), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	toy_drop_cache(t);
	t->copies = true;
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < TOY_BLOCKS; i++)
		toy_block_clear(&t->at[TOY_CACHE].blocks[i]);
	pthread_mutex_unlock(&t->lock);
	for (unsigned at = 0; at < sizeof big; at += 1 << 18)
		ck_assert_int_eq(toy_read(t, at, buf, 1 << 18), 1 << 18);
	ck_assert_int_eq(toy_write(t, sizeof big, big, 1 << 20), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "streams", 60);

	tcase_add_checked_fixture(tc, streams_setup, streams_teardown);
	tcase_add_test(tc, each_stream_is_cut_to_what_its_destination_takes);
	tcase_add_test(tc, c4_a_cache_that_fails_loses_the_range_and_nothing_else);
	tcase_add_test(tc, c4_later_is_for_the_stream_that_said_it);
	tcase_add_test(tc, c4_a_server_that_refuses_leaves_everything_dirty);
	tcase_add_test(tc, a_request_that_is_sent_again_goes_only_where_it_failed);
	tc = nf_case(s, "copies", 60);
	tcase_add_checked_fixture(tc, copies_setup, streams_teardown);
	tcase_add_test(tc, a_download_is_put_into_the_cache_later_and_only_there);
	tcase_add_test(tc, a_local_write_supersedes_a_download);
	tcase_add_test(tc, a_download_of_a_block_that_becomes_a_hole_is_dropped);
	tcase_add_test(tc, a_download_never_covers_local_bytes);
	tcase_add_test(tc, a_download_that_the_cache_refuses_is_dropped);
	tcase_add_test(tc, g07_an_inode_can_go_while_a_download_is_being_copied);
	tcase_add_test(tc, downloads_kept_for_the_cache_do_not_keep_memory_from_others);
	tc = nf_case(s, "standby", 60);
	tcase_add_checked_fixture(tc, standby_setup, streams_teardown);
	tcase_add_test(tc, c4_a_stand_in_is_enough_while_the_server_cannot_be_reached);
	tcase_add_test(tc, c4_a_stand_in_does_not_hide_a_server_that_refuses);
	tcase_add_test(tc, c4_a_server_that_answers_needs_no_stand_in);
	tcase_add_test(tc, c4_with_neither_server_nor_stand_in_writers_are_held_at_the_limit);
}

NF_SUITE("netfs/streams")
