/* Random inserts, reads, forgets, adoptions, drops and reopens against a model that
 * knows, for each unit of each pack, what was put there last.
 *
 * The cache may always say "absent".  What it gives must be what was inserted; what
 * was inserted with room to spare must be there; the blocks on its disk never pass
 * the limit, at no step. */
#include "cache/cache.h"

#include "aio/file_crash.h"
#include "base/mem.h"
#include "base/random.h"
#include "suite.h"

#include <errno.h>
#include <stdio.h>

enum { PACKS = 12, UNITS = 10, STEPS = 300, TAIL = 1000, U = NF_CACHE_UNIT };
enum { LENGTH = UNITS * U - (U - TAIL) }; /* of each pack: the last unit is partial */

struct model {
	struct nf_crash *disk;
	struct nf_aio *aio;
	struct nf_cache *cache;
	struct nf_cache_options options;
	uint8_t put[PACKS][UNITS]; /* version inserted last; 0: never, or forgotten since */
	size_t hits;
};

struct call {
	struct nf_cache_io io;
	struct nf_completion done;
};

static void call_done(struct nf_cache_io *io)
{
	nf_completion_set(&nf_container_of(io, struct call, io)->done);
}

typedef void op_fn(struct nf_cache *c, struct nf_cache_io *io);

static int run(struct model *m, op_fn *op, unsigned pack, uint64_t offset, void *buf, size_t len)
{
	struct call c = { .io = { .pack = { .b = { (uint8_t)(pack % 3), (uint8_t)pack } },
				  .offset_bytes = offset,
				  .len_bytes = len,
				  .buf = buf,
				  .at_end = offset + len == LENGTH,
				  .done = call_done } };

	ck_assert_int_eq(nf_completion_init(&c.done), 0);
	op(m->cache, &c.io);
	nf_completion_wait(&c.done);
	nf_completion_deinit(&c.done);
	return c.io.error;
}

static uint8_t byte_at(unsigned pack, uint64_t at, uint8_t version)
{
	return (uint8_t)(pack * 31 + at * 7 + (at >> 12) * 13 + version * 101);
}

static void check_limit(struct model *m)
{
	struct nf_cache_stats s;

	nf_cache_stats(m->cache, &s);
	ck_assert_uint_le(s.used_bytes, m->options.size_limit_bytes);
	ck_assert_uint_le(nf_crash_used(m->disk), s.used_bytes);
}

static void insert(struct model *m, struct nf_prng *rng)
{
	static uint8_t buf[UNITS * U];
	unsigned pack = (unsigned)nf_prng_below(rng, PACKS);
	unsigned from = (unsigned)nf_prng_below(rng, UNITS), to = from + 1;
	uint8_t version = (uint8_t)(1 + nf_prng_below(rng, 200));

	to += (unsigned)nf_prng_below(rng, UNITS - from);
	uint64_t start = (uint64_t)from * U, end = NF_MIN((uint64_t)to * U, (uint64_t)LENGTH);
	for (uint64_t at = start; at < end; at++)
		buf[at - start] = byte_at(pack, at, version);
	int r = run(m, nf_cache_insert, pack, start, buf, (size_t)(end - start));
	ck_assert_msg(r == 0 || r == -EIO, "insert: %d", r);
	const struct nf_pack_id id = { .b = { (uint8_t)(pack % 3), (uint8_t)pack } };
	/* Dropped whole or stored whole; on an error nothing of it counts. */
	size_t there = nf_cache_present(m->cache, &id, start, (size_t)(end - start));
	for (unsigned u = from; u < to; u++)
		if (r < 0)
			m->put[pack][u] = 0;
		else if (there == end - start)
			m->put[pack][u] = version;
}

static void read_some(struct model *m, struct nf_prng *rng)
{
	static uint8_t buf[UNITS * U];
	unsigned pack = (unsigned)nf_prng_below(rng, PACKS);
	uint64_t start = nf_prng_below(rng, LENGTH);
	size_t len = (size_t)(1 + nf_prng_below(rng, NF_MIN(LENGTH + 50 - start, (uint64_t)3 * U)));
	int r = run(m, nf_cache_read, pack, start, buf, len);

	ck_assert_msg(r == 0 || r == NF_CACHE_MISS || r == -EIO, "read: %d", r);
	if (r != 0)
		return;
	ck_assert_uint_le(start + len, LENGTH);
	m->hits++;
	for (uint64_t at = start; at < start + len; at++) {
		uint8_t version = m->put[pack][at / U];
		ck_assert_msg(version != 0, "pack %u gave unit %u, never inserted", pack,
			      (unsigned)(at / U));
		ck_assert_uint_eq(buf[at - start], byte_at(pack, at, version));
	}
}

static void forget(struct model *m, struct nf_prng *rng)
{
	unsigned pack = (unsigned)nf_prng_below(rng, PACKS);
	uint64_t start = nf_prng_below(rng, LENGTH);
	size_t len = (size_t)nf_prng_below(rng, 2 * U);
	const struct nf_pack_id id = { .b = { (uint8_t)(pack % 3), (uint8_t)pack } };

	nf_cache_forget(m->cache, &id, start, len);
	ck_assert(len == 0 || nf_cache_present(m->cache, &id, start, len) == 0);
	for (uint64_t u = start / U; len > 0 && u <= (start + len - 1) / U && u < UNITS; u++)
		m->put[pack][u] = 0;
}

static void adopt(struct model *m, struct nf_prng *rng)
{
	static uint8_t buf[LENGTH];
	unsigned pack = (unsigned)nf_prng_below(rng, PACKS);
	uint8_t version = (uint8_t)(1 + nf_prng_below(rng, 200));
	const struct nf_pack_id id = { .b = { (uint8_t)(pack % 3), (uint8_t)pack } };

	for (uint64_t at = 0; at < LENGTH; at++)
		buf[at] = byte_at(pack, at, version);
	ck_assert_int_eq(nf_file_replace(m->options.files, "/outside", buf, LENGTH), 0);
	int r = nf_cache_adopt(m->cache, &id, "/outside", LENGTH);
	ck_assert_msg(r == 0 || r == -EIO, "adopt: %d", r);
	if (r < 0)
		(void)m->options.files->unlink(m->options.files, "/outside");
	memset(m->put[pack], r == 0 ? version : 0, UNITS);
}

/* Once closed and opened, presence may be lost but not made up. */
static void reopen(struct model *m)
{
	nf_cache_close(m->cache);
	ck_assert_int_eq(nf_cache_open(&m->options, &m->cache), 0);
}

/* A crash that keeps what was written, without a close: kill -9. */
static void killed(struct model *m)
{
	struct nf_crash *found;

	ck_assert_int_eq(nf_crash_image(m->disk, UINT64_MAX, NF_CRASH_KEEP_ALL, &found), 0);
	nf_cache_close(m->cache);
	nf_crash_free(m->disk);
	m->disk = found;
	m->options.files = nf_crash_ops(found);
	ck_assert_int_eq(nf_cache_open(&m->options, &m->cache), 0);
	/* Forgotten units may be back: their bytes are still the ones inserted, which
	 * the model no longer knows. */
	ck_assert_int_eq(nf_cache_drop(m->cache), 0);
	memset(m->put, 0, sizeof m->put);
}

static void step(struct model *m, struct nf_prng *rng, bool faults)
{
	uint64_t dice = nf_prng_below(rng, 1000);

	if (faults && nf_prng_below(rng, 10) == 0)
		nf_crash_fail(m->disk, nf_prng_below(rng, 2) ? NF_CRASH_WRITE : NF_CRASH_READ, 0, -EIO);
	if (dice < 400)
		insert(m, rng);
	else if (dice < 900)
		read_some(m, rng);
	else if (dice < 960)
		forget(m, rng);
	else if (dice < 985 && !faults)
		adopt(m, rng);
	else if (dice < 992)
		reopen(m);
	else if (dice < 995)
		killed(m);
	else if (dice < 997)
		ck_assert_int_eq(nf_cache_drop(m->cache), 0);
	check_limit(m);
}

START_TEST(the_cache_gives_what_was_inserted_or_nothing_and_keeps_its_limit)
{
	struct model m = { .options = { .dir = "/c" } };
	struct nf_prng rng;

	nf_prng_seed(&rng, (uint64_t)_i + 1);
	ck_assert_int_eq(nf_crash_new(&m.disk), 0);
	ck_assert_int_eq(nf_aio_new_threads(2, &m.aio), 0);
	m.options.files = nf_crash_ops(m.disk);
	m.options.aio = m.aio;
	/* From hardly one pack to more than all of them. */
	m.options.size_limit_bytes = (uint64_t)U * (UNITS + 2 + 20 * (uint64_t)_i);
	ck_assert_int_eq(nf_cache_open(&m.options, &m.cache), 0);
	for (int i = 0; i < STEPS; i++)
		step(&m, &rng, _i % 2);
	printf("# seed %d: %d hits\n", _i + 1, (int)m.hits);
	ck_assert_uint_gt(m.hits, 5);
	nf_cache_close(m.cache);
	nf_aio_free(m.aio);
	nf_crash_free(m.disk);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "model", 120);

	tcase_add_loop_test(tc, the_cache_gives_what_was_inserted_or_nothing_and_keeps_its_limit, 0, 6);
}

NF_SUITE("cache/model")
