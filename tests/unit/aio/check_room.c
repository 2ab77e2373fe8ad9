/* The account of a disk's room, beside a plain counter. */
#include "aio/room.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "suite.h"

#include <pthread.h>
#include <stdatomic.h>

static struct nf_file_room disk;
static int answer;
static atomic_uint asked;

static int room(const struct nf_file_ops *o, const char *path, struct nf_file_room *out)
{
	(void)o;
	asked++;
	*out = disk;
	out->disk += path[1] == 'b'; /* "/b" is another disk */
	return answer;
}

static const struct nf_file_ops files = { .name = "said", .room = room };

static struct nf_room *account(uint64_t free_bytes, uint64_t total_bytes)
{
	struct nf_room *r;

	disk = (struct nf_file_room){ .free_bytes = free_bytes, .total_bytes = total_bytes, .disk = 7 };
	answer = 0;
	asked = 0;
	ck_assert_int_eq(nf_room_new(&files, "/a", &r), 0);
	return r;
}

START_TEST(what_is_taken_and_owed_is_not_given_twice)
{
	const uint64_t spare = NF_ROOM_SPARE_BYTES;
	struct nf_room *r = account(spare + 1000, UINT64_C(1) << 40);

	ck_assert(!nf_room_take(r, NF_ROOM_WRITE, 1001));
	ck_assert(nf_room_take(r, NF_ROOM_WRITE, 600));
	ck_assert(!nf_room_take(r, NF_ROOM_WRITE, 401));
	nf_room_owe(r, NF_ROOM_DATA, 300);
	ck_assert(!nf_room_take(r, NF_ROOM_WRITE, 101));
	nf_room_give(r, 600);
	ck_assert(!nf_room_take(r, NF_ROOM_WRITE, 701));
	ck_assert(nf_room_take(r, NF_ROOM_WRITE, 700));
	nf_room_owe(r, NF_ROOM_RECORDS, 1);
	ck_assert(!nf_room_take(r, NF_ROOM_WRITE, 1));
	ck_assert_uint_eq(nf_room_claimed(r), 1001);
	/* It was written: the disk says so, and it is owed no more. */
	disk.free_bytes -= 300;
	nf_room_wrote(r, 300);
	nf_room_owe(r, NF_ROOM_DATA, 0);
	nf_room_ask(r);
	ck_assert_uint_eq(nf_room_left(r), 0);
	nf_room_give(r, 700);
	nf_room_ask(r);
	ck_assert_uint_eq(nf_room_left(r), 699);
	nf_room_free(r);
}
END_TEST

START_TEST(who_frees_may_use_half_of_what_is_spared_and_a_small_disk_spares_less)
{
	struct nf_room *r = account(1 << 20, 8 << 20); /* all that is spared of 8 MiB */

	ck_assert(!nf_room_take(r, NF_ROOM_WRITE, 1));
	ck_assert(nf_room_take(r, NF_ROOM_FREE, 512 << 10));
	ck_assert(!nf_room_take(r, NF_ROOM_FREE, 1));
	nf_room_give(r, 512 << 10);
	ck_assert(nf_room_could(r, 7 << 20));
	ck_assert(!nf_room_could(r, (7 << 20) + 1));
	answer = -EIO;
	nf_room_ask(r);
	ck_assert(!nf_room_take(r, NF_ROOM_FREE, 1));
	answer = 0;
	ck_assert(nf_room_same_disk(r, "/also"));
	ck_assert(!nf_room_same_disk(r, "/b"));
	nf_room_free(r);
}
END_TEST

START_TEST(the_disk_is_asked_rarely_far_from_the_end_and_always_near_it)
{
	struct nf_room *r = account(UINT64_C(1) << 40, UINT64_C(1) << 41);
	uint64_t until = nf_clock_ns() + 30 * NF_NS_PER_MS;
	unsigned taken = 0;

	for (; nf_clock_ns() < until; taken++) {
		ck_assert(nf_room_take(r, NF_ROOM_WRITE, 4096));
		nf_room_give(r, 4096);
	}
	ck_assert_uint_lt(asked, 2 + taken / 10);
	disk.free_bytes = NF_ROOM_SPARE_BYTES + 4095;
	nf_room_ask(r);
	unsigned before = asked;
	for (int i = 0; i < 10; i++)
		ck_assert(!nf_room_take(r, NF_ROOM_WRITE, 4096));
	ck_assert_uint_eq(asked, before + 10);
	nf_room_free(r);
}
END_TEST

/* Calls come, are accepted, leave some of what they took as dirty data, which is written some time; others use the disk. */
START_TEST(at_random_all_that_was_accepted_finds_room)
{
	enum { CALLS = 16, STEPS = 20000 };
	struct { uint64_t bytes, leaves; } call[CALLS];
	struct nf_prng p;
	struct nf_room *r = account(NF_ROOM_SPARE_BYTES + (1 << 20), 1 << 30);
	uint64_t dirty = 0, taken = 0, refused = 0, accepted = 0, seed = getenv("NF_SEED") ? strtoull(getenv("NF_SEED"), NULL, 0) : 1;
	int nr = 0;

	nf_prng_seed(&p, seed);
	for (int i = 0; i < STEPS; i++) {
		uint64_t n = nf_prng_below(&p, 100000);
		switch (nf_prng_below(&p, 4)) {
		case 0:
			if (nr == CALLS)
				break;
			nf_room_owe(r, NF_ROOM_DATA, dirty);
			if (!nf_room_take(r, NF_ROOM_WRITE, n)) {
				/* It was right to refuse: not all of it fits. */
				ck_assert_uint_gt(taken + dirty + n + NF_ROOM_SPARE_BYTES, disk.free_bytes);
				refused++;
				break;
			}
			accepted++;
			call[nr].bytes = n;
			call[nr++].leaves = nf_prng_below(&p, n + 1);
			taken += n;
			break;
		case 1:
			if (nr == 0)
				break;
			dirty += call[--nr].leaves;
			taken -= call[nr].bytes;
			nf_room_owe(r, NF_ROOM_DATA, dirty);
			nf_room_give(r, call[nr].bytes);
			break;
		case 2: /* write-back */
			n = NF_MIN(n, dirty);
			ck_assert_msg(n + NF_ROOM_SPARE_BYTES <= disk.free_bytes, "seed %d: accepted, and no room", (int)seed);
			disk.free_bytes -= n;
			nf_room_wrote(r, n);
			dirty -= n;
			break;
		default: /* sent, and the journal trimmed */
			if (nf_prng_below(&p, 40) == 0)
				disk.free_bytes = NF_ROOM_SPARE_BYTES + (1 << 20) + taken + dirty;
			break;
		}
		ck_assert_uint_ge(disk.free_bytes, NF_ROOM_SPARE_BYTES + taken + dirty);
	}
	ck_assert_uint_gt(refused, 100);
	ck_assert_uint_gt(accepted, 100);
	while (nr)
		nf_room_give(r, call[--nr].bytes);
	nf_room_free(r);
}
END_TEST

static struct nf_room *shared;
static atomic_uint_fast64_t in_hand;

static void *taker(void *arg)
{
	struct nf_prng p;

	nf_prng_seed(&p, (uint64_t)(uintptr_t)arg);
	for (int i = 0; i < 3000; i++) {
		uint64_t n = nf_prng_below(&p, 4000);
		if (!nf_room_take(shared, NF_ROOM_WRITE, n))
			continue;
		ck_assert_uint_le(atomic_fetch_add(&in_hand, n) + n, 10000);
		atomic_fetch_sub(&in_hand, n);
		nf_room_give(shared, n);
	}
	return NULL;
}

START_TEST(threads_together_are_never_given_more_than_there_is)
{
	pthread_t t[4];

	shared = account(NF_ROOM_SPARE_BYTES + 10000, UINT64_C(1) << 40);
	for (uintptr_t i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, taker, (void *)(i + 1)), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	ck_assert_uint_eq(nf_room_claimed(shared), 0);
	nf_room_free(shared);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "room", 60);

	tcase_add_test(tc, what_is_taken_and_owed_is_not_given_twice);
	tcase_add_test(tc, who_frees_may_use_half_of_what_is_spared_and_a_small_disk_spares_less);
	tcase_add_test(tc, the_disk_is_asked_rarely_far_from_the_end_and_always_near_it);
	tcase_add_test(tc, at_random_all_that_was_accepted_finds_room);
	tcase_add_test(tc, threads_together_are_never_given_more_than_there_is);
}

NF_SUITE("aio/room")
