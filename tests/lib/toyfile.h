/* tests/lib/toyfile.h - one toy file and the bytes it should hold, for tests that do both at once.
 * setup() and teardown() are the fixture; tests use t, put(), cut(), expect(). */
#ifndef NF_TESTS_TOYFILE_H
#define NF_TESTS_TOYFILE_H

#include "suite.h"
#include "toyfs.h"

#include "base/counter.h"
#include "base/mem.h"
#include "netfs/types.h"

#include <linux/falloc.h>
#include <unistd.h>

enum { BLOCK = 16384, PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };

static struct toy *t;
static uint8_t buf[1 << 20], want[1 << 20];

static inline void setup(void)
{
	t = toy_new(8 << 20, BLOCK, 1);
	memset(want, 0, sizeof want);
}

static inline void teardown(void)
{
	t->fail_writes = 0;
	toy_hold(t, false);
	ck_assert_int_eq(toy_fsync(t), 0);
	toy_free(t);
}

/* Both the file and the array. */
static inline void put(uint64_t pos, size_t len, uint8_t v)
{
	memset(want + pos, v, len);
	ck_assert_int_eq(toy_write(t, pos, want + pos, len), 0);
}

static inline void cut(uint64_t size)
{
	memset(want + size, 0, sizeof want - size);
	ck_assert_int_eq(toy_truncate(t, size), 0);
}

static inline void expect(void)
{
	uint64_t size = nf_i_size(&t->ic);

	ck_assert_int_eq(toy_read(t, 0, buf, sizeof buf), (long)size);
	/* Each assertion costs a system call: one for all bytes. */
	uint64_t i = 0;
	while (i < size && buf[i] == want[i])
		i++;
	ck_assert_msg(i == size, "byte %llx is %x, not %x", (unsigned long long)i, buf[i % sizeof buf],
		      want[i % sizeof want]);
}

/* Clean memory goes, as when it is short; what the library knows of the file stays (toy_drop_cache() tells it again). */
static inline void evict(void)
{
	(void)nf_memory_reclaim(t->lib->mem, SIZE_MAX);
}

/* In memory, and as it is stored. */
static inline void expect_all(void)
{
	expect();
	ck_assert_int_eq(toy_fsync(t), 0);
	expect();
	evict();
	expect();
	toy_drop_cache(t);
	expect();
	uint8_t *kept = toy_image_bytes(&t->kept, BLOCK);
	ck_assert_uint_eq(t->kept.size, nf_i_size(&t->ic));
	ck_assert_mem_eq(kept, want, t->kept.size);
	free(kept);
}

static inline void cold_file(size_t len)
{
	put(0, len, 0x11);
	ck_assert_int_eq(toy_fsync(t), 0);
	toy_drop_cache(t);
}

static inline void punch(uint64_t start, uint64_t len)
{
	memset(want + start, 0, len);
	ck_assert_int_eq(toy_fallocate(t, PUNCH, start, len), 0);
}

static inline void until(const atomic_uint *n, unsigned least)
{
	while (atomic_load(n) < least)
		usleep(1000);
}

#endif
