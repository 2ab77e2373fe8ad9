/* Reads that memory cannot hold: larger than the arena, several at a time, and beside dirty data that cannot go. Each must
 * come to an end, with the right bytes, all of one version. */
#include "toyfile.h"

enum { MIB = 1 << 20, MEMORY = 512 << 10, BIG_FILE = 3 * MIB };

static uint8_t content[BIG_FILE]; /* each byte by its place */

static void short_setup(void)
{
	t = toy_new(MEMORY, BLOCK, 1);
	for (size_t i = 0; i < BIG_FILE; i += 4096)
		memset(content + i, (int)(i / 4096 * 7 % 251), 4096);
	for (size_t i = 0; i < BIG_FILE; i += 99)
		content[i] = (uint8_t)i;
}

/* None of it in memory. */
static void fill(void)
{
	for (uint64_t pos = 0; pos < BIG_FILE; pos += MIB)
		ck_assert_int_eq(toy_write(t, pos, content + pos, MIB), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	toy_drop_cache(t);
}

static void check_bytes(const uint8_t *got, uint64_t pos, size_t len)
{
	ck_assert(memcmp(got, content + pos, len) == 0);
}

START_TEST(one_read_larger_than_the_arena_ends)
{
	uint64_t before = nf_counter_get(NF_C_READ_OWN);

	fill();
	for (uint64_t pos = 0; pos + MIB <= BIG_FILE; pos += MIB - 5000) {
		ck_assert_int_eq(toy_read(t, pos, buf, MIB), MIB);
		check_bytes(buf, pos, MIB);
	}
	ck_assert_int_eq(toy_read_flags(t, 777, buf, MIB, NF_IO_DIRECT), MIB);
	check_bytes(buf, 777, MIB);
	ck_assert_uint_gt(nf_counter_get(NF_C_READ_OWN), before);
}
END_TEST

enum { READERS = 5, READS = 6 };

static void *read_some(void *arg)
{
	uint8_t *got = malloc(MIB);
	struct nf_prng prng;

	nf_prng_seed(&prng, *(unsigned *)arg);
	for (unsigned i = 0; i < READS; i++) {
		uint64_t pos = nf_prng_below(&prng, BIG_FILE - MIB);
		size_t len = 1 + (size_t)nf_prng_below(&prng, i % 3 ? 300 << 10 : MIB);
		assert(toy_read(t, pos, got, len) == (long)len);
		assert(memcmp(got, content + pos, len) == 0);
	}
	free(got);
	return NULL;
}

START_TEST(readers_that_together_need_more_than_there_is_all_end)
{
	pthread_t th[READERS];
	unsigned me[READERS];

	fill();
	t->p_later = 700;
	t->p_again = 20;
	for (unsigned i = 0; i < READERS; i++) {
		me[i] = i;
		pthread_create(&th[i], NULL, read_some, &me[i]);
	}
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(th[i], NULL);
	t->p_again = 0;
}
END_TEST

static void write_start(struct toy_wait *w, struct iovec *v, uint64_t pos)
{
	toy_wait_init(w, t);
	w->io.pos_bytes = pos;
	w->io.len_bytes = v->iov_len;
	w->io.iov = v;
	w->io.nr_iov = 1;
	nf_write(&w->io);
}

START_TEST(a_read_ends_while_memory_is_full_of_what_cannot_be_stored)
{
	static uint8_t mine[MIB];
	struct iovec v = { mine, sizeof mine };
	struct toy_wait w;

	fill();
	memset(mine, 0x77, sizeof mine);
	t->fail_writes = -EIO;
	write_start(&w, &v, MIB + 100);
	while (nf_dirty_bytes(&t->ic) < MEMORY / 2)
		usleep(1000);
	ck_assert_int_eq(toy_read(t, 5000, buf, MIB - 5000), MIB - 5000);
	check_bytes(buf, 5000, MIB - 5000);
	/* Bytes that are dirty and bytes that must be read, in one. */
	ck_assert_int_eq(toy_read(t, MIB - 50000, buf, 50200), 50200);
	check_bytes(buf, MIB - 50000, 50100);
	for (unsigned i = 50100; i < 50200; i++)
		ck_assert_uint_eq(buf[i], 0x77);
	ck_assert(!toy_is_done(&w));
	t->fail_writes = 0;
	ck_assert_int_eq(toy_wait_end(&w), 0);
	while (toy_fsync(t) < 0)
		; /* what failed before is reported until it is stored */
	ck_assert_int_eq(toy_read(t, MIB + 100, buf, MIB), MIB);
	ck_assert_mem_eq(buf, mine, MIB);
}
END_TEST

START_TEST(what_cannot_be_read_past_memory_is_an_error)
{
	fill();
	t->fail_reads = -EIO;
	ck_assert_int_eq(toy_read(t, 0, buf, MIB), -EIO);
	t->fail_reads = 0;
	ck_assert_int_eq(toy_read(t, 0, buf, MIB), MIB);
	check_bytes(buf, 0, MIB);
}
END_TEST

/* Groups are stored in order: what younger ones wrote stays in memory until the older one is, and that waits for its writers.  So
 * none of those may wait for memory that only younger ones have. */
START_TEST(a_writer_without_memory_does_not_hold_up_its_group)
{
	enum { PAGE = 4096, SMALL = 64 << 10, AT = 100 * PAGE - 100 };
	static uint8_t mine[300];
	static struct nf_folio *taken[SMALL / PAGE];
	struct nf_mapping others;
	struct toy_wait w;
	struct iovec v = { mine, sizeof mine };
	uint64_t nr = 0;

	toy_free(t);
	t = toy_new(SMALL, PAGE, 1);
	memset(mine, 0x33, sizeof mine);
	memset(buf, 0x44, PAGE);
	ck_assert_int_eq(toy_truncate(t, 200 * PAGE), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	nf_mapping_init(&others, t->lib->mem, 0);
	while (nr < NF_ARRAY_LEN(taken) && (taken[nr] = nf_mapping_get(&others, nr * PAGE, 0)))
		nr++;
	ck_assert_uint_gt(nr, 8);
	/* Of the first group: two pages at once, while there is none, and then never more than one. */
	write_start(&w, &v, AT);
	ck_assert_uint_ne(nf_group_close(&t->ic), 0);
	for (uint64_t i = 0; i < nr; i++) {
		nf_folio_drop(taken[i]);
		nf_folio_unpin(taken[i]);
		ck_assert_int_eq(toy_write(t, i * PAGE, buf, PAGE), 0);
	}
	ck_assert_int_eq(toy_wait_end(&w), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	toy_drop_cache(t);
	ck_assert_int_eq(toy_read(t, AT, buf, sizeof mine), sizeof mine);
	ck_assert_mem_eq(buf, mine, sizeof mine);
	nf_mapping_deinit(&others);
}
END_TEST

static atomic_bool stop;

static void *read_versions(void *arg)
{
	uint8_t *got = malloc(MIB);

	for (unsigned n = 0; !atomic_load(&stop); n++) {
		assert(toy_read(t, 0, got, MIB) == MIB);
		assert(memcmp(got, got + 1, MIB - 1) == 0);
		atomic_fetch_add((atomic_uint *)arg, 1);
	}
	free(got);
	return NULL;
}

START_TEST(a_read_larger_than_the_arena_is_of_one_version)
{
	enum { ALL = 3, LEAST = 10 };
	pthread_t th[ALL];
	atomic_uint nr_read = 0;
	uint8_t v = 0;

	memset(buf, 1, sizeof buf);
	ck_assert_int_eq(toy_write(t, 0, buf, MIB), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	t->p_later = 300;
	atomic_store(&stop, false);
	for (unsigned i = 0; i < ALL; i++)
		pthread_create(&th[i], NULL, read_versions, &nr_read);
	/* A read that a change meets begins anew, so one must be able to end between two changes. */
	for (unsigned n = 0; n < LEAST; n = atomic_load(&nr_read)) {
		toy_remote_change(t, 0, MIB, MIB, ++v);
		usleep(v % 8 * 1000);
		toy_remote_change(t, 0, MIB, MIB, ++v);
		until(&nr_read, n + 1);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < ALL; i++)
		pthread_join(th[i], NULL);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "short memory", 60);

	tcase_add_checked_fixture(tc, short_setup, teardown);
	tcase_add_test(tc, one_read_larger_than_the_arena_ends);
	tcase_add_test(tc, readers_that_together_need_more_than_there_is_all_end);
	tcase_add_test(tc, a_read_ends_while_memory_is_full_of_what_cannot_be_stored);
	tcase_add_test(tc, what_cannot_be_read_past_memory_is_an_error);
	tcase_add_test(tc, a_read_larger_than_the_arena_is_of_one_version);
	tcase_add_test(tc, a_writer_without_memory_does_not_hold_up_its_group);
}

NF_SUITE("netfs/short_memory")
