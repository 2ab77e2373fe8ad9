/* What is kept, by rounds; what is given back. */
#include "cache/cache.h"

#include "aio/file_crash.h"
#include "base/mem.h"
#include "base/random.h"
#include "suite.h"
#include "tempdir.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

enum { U = NF_CACHE_UNIT };

struct rig {
	struct nf_crash *disk;
	struct nf_aio *aio;
	struct nf_cache *cache;
	struct nf_cache_options options;
};

static struct nf_pack_id pack(unsigned i) { return (struct nf_pack_id){ .b = { (uint8_t)i, 1, 2 } }; }

static void open_cache(struct rig *r) { ck_assert_int_eq(nf_cache_open(&r->options, &r->cache), 0); }

static struct rig rig_new(uint64_t limit)
{
	struct rig r = { .options = { .dir = "/c", .size_limit_bytes = limit } };

	ck_assert_int_eq(nf_crash_new(&r.disk), 0);
	ck_assert_int_eq(nf_aio_new_threads(2, &r.aio), 0);
	r.options.files = nf_crash_ops(r.disk);
	r.options.aio = r.aio;
	open_cache(&r);
	return r;
}

static void rig_free(struct rig *r)
{
	nf_cache_close(r->cache);
	nf_aio_free(r->aio);
	nf_crash_free(r->disk);
}

struct call {
	struct nf_cache_io io;
	struct nf_completion done;
};

static void call_done(struct nf_cache_io *io) { nf_completion_set(&nf_container_of(io, struct call, io)->done); }

static int run(struct nf_cache *c, bool read, unsigned i, uint64_t at, void *buf, size_t len, bool at_end)
{
	struct call call = { .io = { .pack = pack(i), .offset_bytes = at, .len_bytes = len, .buf = buf, .at_end = at_end,
				     .done = call_done } };

	ck_assert_int_eq(nf_completion_init(&call.done), 0);
	(read ? nf_cache_read : nf_cache_insert)(c, &call.io);
	nf_completion_wait(&call.done);
	nf_completion_deinit(&call.done);
	return call.io.error;
}

/* NR units of pack I from AT on, each full of the pack's number. */
static void put(struct rig *r, unsigned i, unsigned at, unsigned nr)
{
	static uint8_t buf[64 * U];

	memset(buf, (int)i, nr * (size_t)U);
	ck_assert_int_eq(run(r->cache, false, i, at * (uint64_t)U, buf, nr * (size_t)U, false), 0);
}

static bool has(struct rig *r, unsigned i, unsigned at, unsigned nr)
{
	static uint8_t buf[64 * U];
	struct nf_pack_id id = pack(i);

	if (nf_cache_present(r->cache, &id, at * (uint64_t)U, nr * (size_t)U) < nr * (size_t)U)
		return false;
	ck_assert_int_eq(run(r->cache, true, i, at * (uint64_t)U, buf, nr * (size_t)U, false), 0);
	for (size_t b = 0; b < nr * (size_t)U; b++)
		ck_assert_uint_eq(buf[b], i);
	return true;
}

static struct nf_cache_stats stats(struct rig *r)
{
	struct nf_cache_stats s;

	nf_cache_stats(r->cache, &s);
	return s;
}

static void keep(struct rig *r, unsigned i, unsigned at, unsigned nr)
{
	struct nf_pack_id id = pack(i);

	ck_assert_int_eq(nf_cache_keep(r->cache, &id, at * (uint64_t)U, nr * (size_t)U), 0);
}

START_TEST(what_is_kept_stays_and_the_rest_of_its_pack_goes)
{
	struct rig r = rig_new(40 * U);

	put(&r, 1, 0, 16);
	nf_cache_keep_begin(r.cache);
	keep(&r, 1, 4, 3);
	nf_cache_keep_end(r.cache, true);
	for (unsigned i = 2; i < 12; i++) {
		put(&r, i, 0, 16);
		ck_assert_uint_le(stats(&r).used_bytes, 40 * U);
	}
	ck_assert(has(&r, 1, 4, 3));
	ck_assert(!has(&r, 1, 0, 1) && !has(&r, 1, 7, 1));
	ck_assert_uint_eq(stats(&r).kept_bytes, 3 * U);
	/* The disk has what is counted, no more. */
	ck_assert_uint_le(nf_crash_used(r.disk), stats(&r).used_bytes);
	ck_assert_int_eq(nf_cache_drop(r.cache), 0);
	ck_assert(has(&r, 1, 4, 3));
	ck_assert_uint_eq(stats(&r).used_bytes, 4 * U); /* and its map */
	rig_free(&r);
}
END_TEST

START_TEST(a_round_that_is_given_up_changes_nothing)
{
	struct rig r = rig_new(100 * U);

	put(&r, 1, 0, 8);
	put(&r, 2, 0, 8);
	nf_cache_keep_begin(r.cache);
	keep(&r, 1, 0, 8);
	nf_cache_keep_end(r.cache, true);
	nf_cache_keep_begin(r.cache);
	keep(&r, 2, 0, 8);
	/* Until it ends both are. */
	ck_assert_int_eq(nf_cache_drop(r.cache), 0);
	ck_assert(has(&r, 1, 0, 8) && has(&r, 2, 0, 8));
	nf_cache_keep_end(r.cache, false);
	ck_assert_int_eq(nf_cache_drop(r.cache), 0);
	ck_assert(has(&r, 1, 0, 8) && !has(&r, 2, 0, 1));
	nf_cache_keep_begin(r.cache);
	nf_cache_keep_end(r.cache, true);
	ck_assert_int_eq(nf_cache_drop(r.cache), 0);
	ck_assert(!has(&r, 1, 0, 1));
	ck_assert_uint_eq(stats(&r).used_bytes, 0);
	rig_free(&r);
}
END_TEST

START_TEST(what_is_kept_but_not_there_yet_is_counted_and_stays_once_it_comes)
{
	struct rig r = rig_new(30 * U);
	struct nf_cache_kept k;

	put(&r, 9, 0, 20);
	nf_cache_keep_begin(r.cache);
	keep(&r, 1, 2, 10);
	nf_cache_kept(r.cache, &k);
	ck_assert_uint_eq(k.bytes, 11 * U);
	ck_assert_uint_eq(k.present_bytes, 0);
	ck_assert_uint_eq(nf_cache_keep_room(r.cache, &k), 11 * U);
	keep(&r, 3, 0, 30);
	nf_cache_kept(r.cache, &k);
	ck_assert_uint_lt(nf_cache_keep_room(r.cache, &k), k.bytes);
	nf_cache_keep_end(r.cache, false);
	nf_cache_keep_begin(r.cache);
	keep(&r, 1, 2, 10);
	nf_cache_keep_end(r.cache, true);
	put(&r, 1, 0, 16); /* with what lies around */
	ck_assert(!has(&r, 9, 0, 1));
	put(&r, 8, 0, 18);
	ck_assert(has(&r, 1, 2, 10) && has(&r, 8, 0, 18));
	nf_cache_kept(r.cache, &k);
	ck_assert_uint_eq(k.present_bytes, k.bytes);
	/* Only what is kept is left: what does not fit beside it is not stored. */
	put(&r, 7, 0, 20);
	ck_assert(!has(&r, 7, 0, 1) && has(&r, 1, 2, 10));
	ck_assert_uint_le(stats(&r).used_bytes, 30 * U);
	rig_free(&r);
}
END_TEST

START_TEST(a_cache_opened_with_hold_evicts_nothing_before_the_first_round)
{
	struct rig r = rig_new(100 * U);

	put(&r, 1, 0, 20);
	put(&r, 2, 0, 20);
	nf_cache_close(r.cache);
	r.options.hold = true;
	r.options.size_limit_bytes = 30 * U;
	open_cache(&r);
	ck_assert(has(&r, 1, 0, 20) && has(&r, 2, 0, 20) && stats(&r).held);
	put(&r, 3, 0, 4);
	ck_assert(!has(&r, 3, 0, 1));
	ck_assert_int_eq(nf_cache_drop(r.cache), 0);
	ck_assert(has(&r, 1, 0, 20) && has(&r, 2, 0, 20));
	nf_cache_keep_begin(r.cache);
	keep(&r, 2, 0, 20);
	nf_cache_keep_end(r.cache, true);
	ck_assert(!has(&r, 1, 0, 1) && has(&r, 2, 0, 20) && !stats(&r).held);
	ck_assert_uint_le(stats(&r).used_bytes, 30 * U);
	rig_free(&r);
}
END_TEST

START_TEST(what_is_discarded_gives_its_blocks_back_but_for_what_is_kept)
{
	struct rig r = rig_new(100 * U);
	struct nf_pack_id id = pack(1), none = pack(5);
	uint64_t freed, start, end;

	put(&r, 1, 0, 20);
	put(&r, 2, 0, 4);
	nf_cache_keep_begin(r.cache);
	keep(&r, 1, 3, 2);
	nf_cache_keep_end(r.cache, true);
	nf_cache_discard(r.cache, &id, 0, 10 * U);
	nf_cache_discard(r.cache, &none, 0, 10 * U);
	ck_assert_int_eq(nf_cache_trim(r.cache, &freed), 0);
	ck_assert_uint_eq(freed, 8 * U);
	ck_assert(has(&r, 1, 3, 2) && has(&r, 1, 10, 10) && !has(&r, 1, 0, 1) && !has(&r, 1, 9, 1));
	ck_assert(nf_cache_run(r.cache, &id, 0, &start, &end));
	ck_assert_uint_eq(start, 3 * U);
	ck_assert_uint_eq(end, 5 * U);
	ck_assert(nf_cache_run(r.cache, &id, end, &start, &end));
	ck_assert_uint_eq(start, 10 * U);
	ck_assert_uint_eq(end, 20 * U);
	ck_assert(!nf_cache_run(r.cache, &id, end, &start, &end));
	id = pack(2);
	nf_cache_discard(r.cache, &id, 0, 4 * U);
	ck_assert_int_eq(nf_cache_trim(r.cache, &freed), 0);
	ck_assert_uint_eq(freed, 5 * U); /* with its map */
	ck_assert_int_eq(nf_cache_next(r.cache, NULL, &id), 0);
	ck_assert_uint_eq(id.b[0], 1);
	ck_assert_int_eq(nf_cache_next(r.cache, &id, &id), -ENOENT);
	/* Its map says so after the next open too. */
	nf_cache_close(r.cache);
	open_cache(&r);
	ck_assert(has(&r, 1, 3, 2) && has(&r, 1, 10, 10) && !has(&r, 1, 0, 1));
	ck_assert_uint_eq(stats(&r).used_bytes, 13 * U);
	rig_free(&r);
}
END_TEST

START_TEST(room_that_others_take_is_given_back_and_comes_back)
{
	struct rig r = rig_new(1000 * U);

	nf_cache_close(r.cache);
	nf_crash_set_room(r.disk, 100 * U);
	r.options.min_free_bytes = 20 * U;
	open_cache(&r);
	put(&r, 1, 0, 30);
	put(&r, 2, 0, 30);
	nf_cache_keep_begin(r.cache);
	keep(&r, 2, 0, 10);
	nf_cache_keep_end(r.cache, true);
	ck_assert_int_eq(nf_cache_tidy(r.cache), 0);
	ck_assert(has(&r, 1, 0, 30) && has(&r, 2, 0, 30));
	nf_crash_set_room(r.disk, 35 * U); /* as if others had filled the rest */
	ck_assert_int_eq(nf_cache_tidy(r.cache), 0);
	ck_assert(!has(&r, 1, 0, 1) && has(&r, 2, 0, 10) && !has(&r, 2, 10, 1));
	nf_crash_set_room(r.disk, 100 * U);
	put(&r, 3, 0, 30);
	ck_assert(has(&r, 3, 0, 30) && has(&r, 2, 0, 10));
	rig_free(&r);
}
END_TEST

struct user {
	pthread_t t;
	struct rig *r;
	unsigned seed;
	_Atomic bool *end;
	_Atomic unsigned *missed;
};

/* Fills and reads; units of pack 1 that are always kept must always be there. */
static void *use(void *arg)
{
	struct user *u = arg;
	struct nf_prng p;
	uint8_t buf[8 * U];

	nf_prng_seed(&p, u->seed);
	for (int i = 0; i < 150; i++) {
		unsigned n = (unsigned)nf_prng_next(&p) % 6 + 2;
		memset(buf, (int)n, sizeof buf);
		(void)run(u->r->cache, false, n, nf_prng_next(&p) % 4 * 8 * U, buf, sizeof buf, false);
		if (run(u->r->cache, true, 1, 0, buf, 4 * U, false) != 0)
			atomic_fetch_add(u->missed, 1);
	}
	return NULL;
}

static void *rounds(void *arg)
{
	struct user *u = arg;
	struct nf_prng p;

	nf_prng_seed(&p, 77);
	while (!*u->end) {
		nf_cache_keep_begin(u->r->cache);
		keep(u->r, 1, 0, 4);
		keep(u->r, (unsigned)nf_prng_next(&p) % 6 + 2, (unsigned)nf_prng_next(&p) % 8, 3);
		nf_cache_keep_end(u->r->cache, nf_prng_next(&p) % 4 != 0);
		(void)nf_cache_trim(u->r->cache, NULL);
		(void)nf_cache_tidy(u->r->cache);
	}
	return NULL;
}

START_TEST(rounds_beside_inserts_and_reads_lose_nothing_that_is_kept)
{
	struct rig r = rig_new(50 * U);
	struct user u[4];
	_Atomic bool end = false;
	_Atomic unsigned missed = 0;

	put(&r, 1, 0, 8);
	nf_cache_keep_begin(r.cache);
	keep(&r, 1, 0, 4);
	nf_cache_keep_end(r.cache, true);
	for (unsigned i = 0; i < 4; i++) {
		u[i] = (struct user){ .r = &r, .seed = i, .end = &end, .missed = &missed };
		ck_assert_int_eq(pthread_create(&u[i].t, NULL, i ? use : rounds, &u[i]), 0);
	}
	for (unsigned i = 1; i < 4; i++)
		pthread_join(u[i].t, NULL);
	end = true;
	pthread_join(u[0].t, NULL);
	ck_assert_uint_eq(missed, 0);
	ck_assert_uint_le(stats(&r).used_bytes, 50 * U);
	rig_free(&r);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "keep", 60);
	tcase_add_test(tc, what_is_kept_stays_and_the_rest_of_its_pack_goes);
	tcase_add_test(tc, a_round_that_is_given_up_changes_nothing);
	tcase_add_test(tc, what_is_kept_but_not_there_yet_is_counted_and_stays_once_it_comes);
	tcase_add_test(tc, a_cache_opened_with_hold_evicts_nothing_before_the_first_round);
	tcase_add_test(tc, what_is_discarded_gives_its_blocks_back_but_for_what_is_kept);
	tcase_add_test(tc, room_that_others_take_is_given_back_and_comes_back);
	tcase_add_test(tc, rounds_beside_inserts_and_reads_lose_nothing_that_is_kept);
}

NF_SUITE("cache/keep")
