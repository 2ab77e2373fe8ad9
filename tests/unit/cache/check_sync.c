/* What was inserted as lasting and synced is found after a power cut at any later operation, whatever comes after it. */
#include "cache/cache.h"

#include "aio/file_crash.h"
#include "aio/pool.h"
#include "base/mem.h"
#include "suite.h"

#include <inttypes.h>
#include <stdio.h>

enum { U = NF_CACHE_UNIT, NODES = 3, SEEDS = 6 };

static const struct nf_pack_id id_a = { .b = { 0xab, 1 } }, id_b = { .b = { 0xab, 2 } };

struct call {
	struct nf_cache_io io;
	struct nf_completion done;
};

static void call_done(struct nf_cache_io *io) { nf_completion_set(&nf_container_of(io, struct call, io)->done); }

static int run(struct nf_cache *cache, void (*op)(struct nf_cache *c, struct nf_cache_io *io), struct nf_cache_io io)
{
	struct call c = { .io = io };

	c.io.done = call_done;
	ck_assert_int_eq(nf_completion_init(&c.done), 0);
	op(cache, &c.io);
	nf_completion_wait(&c.done);
	nf_completion_deinit(&c.done);
	return c.io.error;
}

static struct nf_cache *open_on(struct nf_crash *disk, struct nf_aio *aio)
{
	struct nf_cache_options o = { .dir = "/c", .size_limit_bytes = 64 << 20, .files = nf_crash_ops(disk), .aio = aio };
	struct nf_cache *c;

	ck_assert_int_eq(nf_cache_open(&o, &c), 0);
	return c;
}

static void insert(struct nf_cache *c, const struct nf_pack_id *id, uint64_t at, size_t len, bool lasting, uint8_t *buf)
{
	struct nf_cache_io io = { .pack = *id, .offset_bytes = at, .len_bytes = len, .buf = buf, .lasting = lasting };

	memset(buf, (int)(1 + at / U), len);
	ck_assert_int_eq(run(c, nf_cache_insert, io), 0);
}

static bool holds(struct nf_cache *c, const struct nf_pack_id *id, uint64_t at, uint8_t *buf)
{
	struct nf_cache_io io = { .pack = *id, .offset_bytes = at, .len_bytes = U, .buf = buf };

	return run(c, nf_cache_read, io) == 0 && buf[0] == (uint8_t)(1 + at / U) && buf[U - 1] == buf[0];
}

/* Beside the nodes data comes to the same packs, so that their maps grow past 64 units, and past a sector. */
START_TEST(nodes_that_were_synced_are_there_after_every_power_cut)
{
	static uint8_t buf[70 * U];
	struct nf_crash *disk;
	struct nf_aio *aio;
	uint64_t cuts = 0;

	ck_assert_int_eq(nf_crash_new(&disk), 0);
	ck_assert_int_eq(nf_aio_new_threads(1, &aio), 0);
	struct nf_cache *c = open_on(disk, aio);
	insert(c, &id_b, 0, U, false, buf);
	for (uint64_t i = 0; i < NODES; i++)
		insert(c, i % 2 ? &id_b : &id_a, (2 + i) * U, U, true, buf);
	nf_cache_sync(c);
	uint64_t from = nf_crash_nr_ops(disk);
	insert(c, &id_a, 8 * U, 70 * U, false, buf);
	nf_cache_save(c, false);
	insert(c, &id_a, UINT64_C(4000) * U, U, false, buf);
	insert(c, &id_b, 8 * U, 2 * U, false, buf);
	nf_cache_save(c, false);
	insert(c, &id_a, UINT64_C(4100) * U, U, true, buf);
	nf_cache_sync(c);
	/* Nothing new: nothing is done. */
	uint64_t nr = nf_crash_nr_ops(disk);
	nf_cache_sync(c);
	ck_assert_uint_eq(nf_crash_nr_ops(disk), nr);
	insert(c, &id_a, 300 * U, 3 * U, false, buf);
	nf_cache_close(c);
	for (uint64_t n = from; n <= nf_crash_nr_ops(disk); n++) {
		for (uint64_t seed = 0; seed < SEEDS; seed++, cuts++) {
			struct nf_crash *found;
			ck_assert_int_eq(nf_crash_image(disk, n, seed, &found), 0);
			c = open_on(found, aio);
			for (uint64_t i = 0; i < NODES; i++)
				ck_assert_msg(holds(c, i % 2 ? &id_b : &id_a, (2 + i) * U, buf),
					      "cut at %" PRIu64 ", seed %" PRIu64 ": node %" PRIu64, n, seed, i);
			ck_assert(n < nr || holds(c, &id_a, UINT64_C(4100) * U, buf));
			nf_cache_close(c);
			nf_crash_free(found);
		}
	}
	printf("# %d cuts\n", (int)cuts);
	nf_aio_free(aio);
	nf_crash_free(disk);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "sync", 60);

	tcase_add_test(tc, nodes_that_were_synced_are_there_after_every_power_cut);
}

NF_SUITE("cache/sync")
