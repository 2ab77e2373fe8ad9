#include "cache/cache.h"

#include "aio/file_crash.h"
#include "base/counter.h"
#include "base/mem.h"
#include "base/random.h"
#include "suite.h"
#include "tempdir.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

enum { U = NF_CACHE_UNIT };

struct rig {
	struct nf_crash *disk;
	struct nf_aio *aio;
	struct nf_cache *cache;
	struct nf_cache_options options;
};

static const struct nf_pack_id id_a = { .b = { 0xab, 1 } }, id_b = { .b = { 0xcd, 2 } };
static const char path_a[] = "/c/packs/ab/ab010000000000000000000000000000";

static struct rig rig_new(uint64_t limit)
{
	struct rig r = { .options = { .dir = "/c", .size_limit_bytes = limit } };

	ck_assert_int_eq(nf_crash_new(&r.disk), 0);
	ck_assert_int_eq(nf_aio_new_threads(2, &r.aio), 0);
	r.options.files = nf_crash_ops(r.disk);
	r.options.aio = r.aio;
	ck_assert_int_eq(nf_cache_open(&r.options, &r.cache), 0);
	return r;
}

static void rig_free(struct rig *r)
{
	nf_cache_close(r->cache);
	nf_aio_free(r->aio);
	nf_crash_free(r->disk);
}

static void reopen(struct rig *r)
{
	r->options.aio = r->aio;
	ck_assert_int_eq(nf_cache_open(&r->options, &r->cache), 0);
}

struct call {
	struct nf_cache_io io;
	struct nf_completion done;
};

static void call_done(struct nf_cache_io *io)
{
	nf_completion_set(&nf_container_of(io, struct call, io)->done);
}

typedef void op_fn(struct nf_cache *c, struct nf_cache_io *io);

static int run(struct nf_cache *cache, op_fn *op, const struct nf_pack_id *id, uint64_t at, void *buf,
	       size_t len, bool at_end)
{
	struct call c = { .io = { .pack = *id,
				  .offset_bytes = at,
				  .len_bytes = len,
				  .buf = buf,
				  .at_end = at_end,
				  .done = call_done } };

	ck_assert_int_eq(nf_completion_init(&c.done), 0);
	op(cache, &c.io);
	nf_completion_wait(&c.done);
	nf_completion_deinit(&c.done);
	return c.io.error;
}

static uint64_t used(struct nf_cache *c)
{
	struct nf_cache_stats s;

	nf_cache_stats(c, &s);
	return s.used_bytes;
}

START_TEST(ranges_are_present_as_far_as_they_were_inserted)
{
	struct rig r = rig_new(1 << 20);
	static uint8_t buf[3 * U], got[3 * U];

	memset(buf, 7, sizeof buf);
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_a, U, buf, 2 * U + 100, false), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, U), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, U + 5, 4 * U), 2 * U - 5);
	ck_assert_int_eq(run(r.cache, nf_cache_read, &id_a, U + 5, got, 2 * U - 5, false), 0);
	ck_assert_mem_eq(got, buf, 2 * U - 5);
	ck_assert_int_eq(run(r.cache, nf_cache_read, &id_a, U + 5, got, 2 * U, false), NF_CACHE_MISS);
	ck_assert_int_eq(run(r.cache, nf_cache_read, &id_b, 0, got, 1, false), NF_CACHE_MISS);
	/* The end of a pack may be part of a unit. */
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_a, 3 * U, buf, 100, true), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, U, 9 * U), 2 * U + 100);
	/* Nothing is stored behind the end, nor what begins inside a unit. */
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_a, 4 * U, buf, U, false), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 4 * U, U), 0);
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_b, 5, buf, U, false), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_b, 5, 1), 0);
	nf_auto(nf_text_deinit) struct nf_text t = NF_TEXT_INIT;
	nf_cache_to_text(r.cache, &t);
	ck_assert_ptr_nonnull(strstr(nf_text_str(&t), "pack=ab01"));
	rig_free(&r);
}
END_TEST

START_TEST(a_cache_opens_warm_and_the_least_recently_used_goes_first)
{
	/* Two packs of 8 units and their maps fit, not three. */
	struct rig r = rig_new(19 * U);
	static uint8_t buf[8 * U];
	const struct nf_pack_id id_c = { .b = { 3 } };
	uint64_t evicted = nf_counter_get(NF_C_CACHE_EVICT_BYTES);

	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_a, 0, buf, 8 * U, true), 0);
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_b, 0, buf, 8 * U, true), 0);
	ck_assert_int_eq(run(r.cache, nf_cache_read, &id_a, 0, buf, U, false), 0);
	ck_assert_uint_eq(used(r.cache), 18 * U);
	nf_cache_close(r.cache);
	reopen(&r);
	ck_assert_uint_eq(used(r.cache), 18 * U);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, 9 * U), 8 * U);
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_c, 0, buf, 8 * U, true), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_b, 0, U), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, U), U);
	ck_assert_uint_eq(nf_counter_get(NF_C_CACHE_EVICT_BYTES) - evicted, 9 * U);
	ck_assert_int_eq(nf_cache_drop(r.cache), 0);
	ck_assert_uint_eq(used(r.cache), 0);
	ck_assert_uint_eq(nf_crash_used(r.disk), 0);
	/* More than fits at all is dropped. */
	static uint8_t big[40 * U];
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_a, 0, big, sizeof big, true), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, U), 0);
	rig_free(&r);
}
END_TEST

START_TEST(room_on_the_file_system_is_left_to_others)
{
	struct rig r = rig_new(1 << 20);
	static uint8_t buf[8 * U];

	nf_cache_close(r.cache);
	nf_crash_set_room(r.disk, 30 * U);
	r.options.min_free_bytes = 20 * U;
	reopen(&r);
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_a, 0, buf, 8 * U, true), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, U), U);
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_b, 0, buf, 8 * U, true), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, U), 0); /* had to go */
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_b, 0, U), U);
	rig_free(&r);
}
END_TEST

static int insert_nodes(struct nf_cache *cache, const struct nf_pack_id *id, void *buf, size_t len)
{
	struct call c = { .io = { .pack = *id, .len_bytes = len, .buf = buf, .at_end = true, .lasting = true, .done = call_done } };

	ck_assert_int_eq(nf_completion_init(&c.done), 0);
	nf_cache_insert(cache, &c.io);
	nf_completion_wait(&c.done);
	nf_completion_deinit(&c.done);
	return c.io.error;
}

START_TEST(nodes_stay_where_less_than_min_free_is_free_but_only_so_many)
{
	enum { DISK = 160 << 20, MIB = 1 << 20 };
	struct rig r = rig_new(UINT64_C(1) << 30);
	static uint8_t buf[6 * MIB];
	struct nf_pack_id id[4] = { { .b = { 1 } }, { .b = { 2 } }, { .b = { 3 } }, { .b = { 4 } } };

	nf_cache_close(r.cache);
	nf_crash_set_room(r.disk, DISK);
	r.options.min_free_bytes = DISK - 20 * MIB;
	reopen(&r);
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_a, 0, buf, 6 * MIB, true), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, U), U);
	ck_assert_int_eq(insert_nodes(r.cache, &id[0], buf, 6 * MIB), 0);
	ck_assert_int_eq(insert_nodes(r.cache, &id[1], buf, 6 * MIB), 0);
	/* Others take all but 40 MiB: the data goes, the nodes stay, also over a restart, and more come, 16 MiB in all. */
	nf_crash_set_room(r.disk, nf_crash_used(r.disk) + 40 * MIB);
	ck_assert_int_eq(nf_cache_tidy(r.cache), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, U), 0);
	nf_cache_sync(r.cache);
	nf_cache_close(r.cache);
	reopen(&r);
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(nf_cache_present(r.cache, &id[i], 0, 6 * MIB), 6 * MIB);
	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_b, 0, buf, U, true), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_b, 0, U), 0);
	ck_assert_int_eq(insert_nodes(r.cache, &id[2], buf, 3 * MIB), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id[2], 0, U), U);
	ck_assert_int_eq(insert_nodes(r.cache, &id[3], buf, 6 * MIB), 0);
	struct nf_cache_stats s;
	nf_cache_stats(r.cache, &s);
	ck_assert_uint_le(s.used_bytes, 16 * MIB);
	/* Without even that much: nothing comes any more, and what is there goes on being read. */
	nf_crash_set_room(r.disk, nf_crash_used(r.disk) + MIB);
	ck_assert_int_eq(insert_nodes(r.cache, &id_a, buf, 16 * U), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, U), 0);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id[2], 0, U), U);
	rig_free(&r);
}
END_TEST

START_TEST(a_pack_is_adopted_whole_and_a_bad_block_is_forgotten)
{
	struct rig r = rig_new(1 << 20);
	static uint8_t buf[3 * U], got[3 * U];
	const struct nf_file_ops *o = r.options.files;
	uint64_t bad = nf_counter_get(NF_C_CACHE_BAD);

	memset(buf, 9, sizeof buf);
	ck_assert_int_eq(nf_file_replace(o, "/local", buf, 2 * U + 50), 0);
	ck_assert_int_eq(nf_cache_adopt(r.cache, &id_a, "/local", 2 * U + 50), 0);
	ck_assert_int_eq(o->stat(o, "/local", NULL, NULL, NULL), -ENOENT);
	ck_assert_int_eq(run(r.cache, nf_cache_read, &id_a, 0, got, 2 * U + 50, false), 0);
	ck_assert_mem_eq(got, buf, 2 * U + 50);
	nf_cache_forget(r.cache, &id_a, U + 1, 1);
	ck_assert_uint_eq(nf_counter_get(NF_C_CACHE_BAD) - bad, 1);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, 3 * U), U);
	ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 2 * U, U), 50);
	ck_assert_int_eq(nf_cache_adopt(r.cache, &id_a, "/none", 100), -ENOENT);
	ck_assert_int_eq(nf_cache_adopt(r.cache, &id_a, "/none", 0), -EINVAL);
	rig_free(&r);
}
END_TEST

enum harm {
	MAP_FLIPPED, /* each byte of the map in turn, by the loop */
	MAP_SHORT,
	MAP_LONG,
	MAP_EMPTY,
	MAP_GONE,
	MAP_OF_ANOTHER,
	MAP_A_DIRECTORY,
	PACK_SHORT,
	PACK_EMPTY,
	PACK_GONE,
	PACK_A_DIRECTORY,
	HARM_NR
};

static void write_file(const struct nf_file_ops *o, const char *path, const void *p, size_t len)
{
	ck_assert_int_eq(nf_file_replace(o, path, p, len), 0);
}

static void do_harm(const struct nf_file_ops *o, enum harm h, unsigned nth)
{
	char map_path[80];
	void *map;
	size_t len;

	snprintf(map_path, sizeof map_path, "%s.map", path_a);
	ck_assert_int_eq(nf_file_slurp(o, map_path, 9999, &map, &len), 0);
	uint8_t *copy = calloc(1, len + 8);
	memcpy(copy, map, len);
	free(map);
	const char *path = h < PACK_SHORT ? map_path : path_a;
	switch (h) {
	case MAP_FLIPPED:
		copy[nth % len] ^= (uint8_t)(1 + nth % 255);
		write_file(o, map_path, copy, len);
		break;
	case MAP_SHORT:
	case PACK_SHORT:
		write_file(o, path, copy, len - 1);
		break;
	case MAP_LONG:
		write_file(o, path, copy, len + 8);
		break;
	case MAP_EMPTY:
	case PACK_EMPTY:
		write_file(o, path, copy, 0);
		break;
	case MAP_OF_ANOTHER:
		ck_assert_int_eq(o->rename(o, "/c/packs/cd/cd020000000000000000000000000000.map",
					   path), 0);
		break;
	case MAP_GONE:
	case PACK_GONE:
	case MAP_A_DIRECTORY:
	case PACK_A_DIRECTORY:
		ck_assert_int_eq(o->unlink(o, path), 0);
		if (h == MAP_A_DIRECTORY || h == PACK_A_DIRECTORY)
			ck_assert_int_eq(o->mkdir(o, path, 0700), 0);
		break;
	case HARM_NR:
		break;
	}
	free(copy);
}

START_TEST(damaged_files_only_lose_presence)
{
	static uint8_t buf[8 * U];
	unsigned times = _i == MAP_FLIPPED ? 48 : 1;

	for (unsigned nth = 0; nth < times; nth++) {
		struct rig r = rig_new(1 << 20);
		ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_a, 0, buf, 8 * U, true), 0);
		ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_b, 0, buf, 4 * U, true), 0);
		nf_cache_close(r.cache);
		do_harm(r.options.files, (enum harm)_i, nth);
		reopen(&r);
		ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, 8 * U), 0);
		if (_i != MAP_OF_ANOTHER)
			ck_assert_uint_eq(nf_cache_present(r.cache, &id_b, 0, 8 * U), 4 * U);
		ck_assert_uint_le(nf_crash_used(r.disk), used(r.cache));
		/* It can be used, or is merely absent where the disk refuses. */
		int e = run(r.cache, nf_cache_insert, &id_a, 0, buf, U, false);
		ck_assert_int_eq(e, _i == PACK_A_DIRECTORY ? -EISDIR : 0);
		ck_assert_uint_eq(nf_cache_present(r.cache, &id_a, 0, U), e ? 0 : U);
		rig_free(&r);
	}
}
END_TEST

START_TEST(a_file_that_shrinks_under_the_cache_is_a_miss)
{
	struct rig r = rig_new(1 << 20);
	static uint8_t buf[4 * U];

	ck_assert_int_eq(run(r.cache, nf_cache_insert, &id_a, 0, buf, 4 * U, true), 0);
	nf_cache_close(r.cache);
	reopen(&r);
	write_file(r.options.files, path_a, buf, U);
	ck_assert_int_lt(run(r.cache, nf_cache_read, &id_a, 2 * U, buf, U, false), 0);
	ck_assert_int_eq(run(r.cache, nf_cache_read, &id_a, 2 * U, buf, U, false), NF_CACHE_MISS);
	nf_crash_fail(r.disk, NF_CRASH_READ, 0, -EIO);
	ck_assert_int_eq(run(r.cache, nf_cache_read, &id_a, 0, buf, U, false), -EIO);
	rig_free(&r);
}
END_TEST

struct user {
	pthread_t t;
	struct nf_cache *cache;
	unsigned seed;
	atomic_int *bad;
	atomic_int *hits;
};

static void use_once(struct user *u, struct nf_prng *rng, uint8_t *buf)
{
	struct nf_pack_id id = { .b = { (uint8_t)nf_prng_below(rng, 6) } };
	uint64_t unit = nf_prng_below(rng, 12);
	uint8_t want = (uint8_t)(id.b[0] * 16 + unit);

	if (nf_prng_below(rng, 2)) {
		memset(buf, want, U);
		*u->bad += run(u->cache, nf_cache_insert, &id, unit * U, buf, U, false) != 0;
	} else if (run(u->cache, nf_cache_read, &id, unit * U, buf, U, false) == 0) {
		*u->bad += buf[0] != want || buf[U - 1] != want;
		atomic_fetch_add(u->hits, 1);
	}
	if (nf_prng_below(rng, 40) == 0)
		*u->bad += nf_cache_drop(u->cache) != 0;
	if (nf_prng_below(rng, 10) == 0)
		nf_cache_forget(u->cache, &id, unit * U, U);
	*u->bad += used(u->cache) > 30 * U;
}

static void *use(void *arg)
{
	struct user *u = arg;
	struct nf_prng rng;
	uint8_t buf[U];

	nf_prng_seed(&rng, u->seed);
	for (int i = 0; i < 250; i++)
		use_once(u, &rng, buf);
	return NULL;
}

START_TEST(one_pack_may_be_read_filled_and_evicted_by_many_threads)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_aio *aio;
	struct nf_cache *cache;
	struct user u[5];
	atomic_int bad = 0, hits = 0;

	ck_assert_int_eq(_i ? nf_aio_new_threads(4, &aio) : nf_aio_new(4, &aio), 0);
	struct nf_cache_options o = { .dir = d.path,
				      .size_limit_bytes = 30 * U,
				      .files = &nf_file_real,
				      .aio = aio };
	ck_assert_int_eq(nf_cache_open(&o, &cache), 0);
	for (unsigned i = 0; i < 5; i++) {
		u[i] = (struct user){ .cache = cache, .seed = i, .bad = &bad, .hits = &hits };
		ck_assert_int_eq(pthread_create(&u[i].t, NULL, use, &u[i]), 0);
	}
	for (unsigned i = 0; i < 5; i++)
		pthread_join(u[i].t, NULL);
	ck_assert_int_eq(bad, 0);
	ck_assert_int_gt(hits, 20);
	nf_cache_close(cache);
	nf_cache_close(NULL);
	nf_aio_free(aio);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "cache", 60);
	tcase_add_test(tc, ranges_are_present_as_far_as_they_were_inserted);
	tcase_add_test(tc, a_cache_opens_warm_and_the_least_recently_used_goes_first);
	tcase_add_test(tc, room_on_the_file_system_is_left_to_others);
	tcase_add_test(tc, nodes_stay_where_less_than_min_free_is_free_but_only_so_many);
	tcase_add_test(tc, a_pack_is_adopted_whole_and_a_bad_block_is_forgotten);
	tcase_add_loop_test(tc, damaged_files_only_lose_presence, 0, HARM_NR);
	tcase_add_test(tc, a_file_that_shrinks_under_the_cache_is_a_miss);
	tcase_add_loop_test(tc, one_pack_may_be_read_filled_and_evicted_by_many_threads, 0, 2);
}

NF_SUITE("cache/cache")
