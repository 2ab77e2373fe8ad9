/* Conflicts: what is changed, and each mode, against arrays of bytes. */
#include "suite.h"
#include "toyfs.h"

#include "base/mem.h"
#include "foliofs/conflict.h"

#include <linux/falloc.h>

enum { BLOCK = 16384, ROOM = 20 * BLOCK, PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };

struct bytes {
	uint8_t b[ROOM];
	uint64_t size;
};

static struct toy *file, *old, *stash;
static struct nf_changes *ours;
static struct bytes base, local, theirs;
static struct nf_prng prng;
static unsigned exchanges, stashes;
static int stash_error;

static void on_group(struct toy *t, const struct nf_group_info *g)
{
	(void)t;
	if (ours)
		nf_changes_add(ours, g);
}

static void setup(void)
{
	file = toy_new(8 << 20, BLOCK, 1);
	old = toy_new(8 << 20, BLOCK, 2);
	stash = toy_new(8 << 20, BLOCK, 3);
	file->on_group = on_group;
	nf_prng_seed(&prng, 7);
	exchanges = stashes = 0;
	stash_error = 0;
}

static void teardown(void)
{
	ck_assert_int_eq(toy_fsync(file), 0);
	ck_assert_int_eq(toy_fsync(stash), 0);
	toy_free(file);
	toy_free(old);
	toy_free(stash);
	nf_changes_free(ours);
	ours = NULL;
}

/* --- files as arrays -------------------------------------------------------------------------- */

static void noise(struct bytes *x, uint64_t size)
{
	memset(x, 0, sizeof *x);
	for (uint64_t i = 0; i < size; i++)
		x->b[i] = (uint8_t)(1 + nf_prng_below(&prng, 255));
	x->size = size;
}

static void set_size(struct bytes *x, uint64_t size)
{
	memset(x->b + size, 0, ROOM - size);
	x->size = size;
}

static void put(struct bytes *x, uint64_t pos, const uint8_t *p, size_t len)
{
	memcpy(x->b + pos, p, len);
	x->size = x->size > pos + len ? x->size : pos + len;
}

static void punch(struct bytes *x, uint64_t pos, uint64_t len)
{
	uint64_t end = pos + len < x->size ? pos + len : x->size;

	if (pos < end)
		memset(x->b + pos, 0, end - pos);
}

/* What is stored in T. */
static void store(struct toy *t, const struct bytes *x)
{
	struct toy *from = toy_new(8 << 20, BLOCK, 9);

	ck_assert_int_eq(toy_write(from, 0, x->b, x->size ? x->size : 1), 0);
	ck_assert_int_eq(toy_truncate(from, x->size), 0);
	ck_assert_int_eq(toy_fsync(from), 0);
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < TOY_BLOCKS; i++)
		toy_block_set(&t->now.blocks[i], &from->kept.blocks[i]);
	t->now.size = from->kept.size;
	pthread_mutex_unlock(&t->lock);
	toy_free(from);
}

static void ck_file(struct toy *t, const struct bytes *want)
{
	static uint8_t got[ROOM + BLOCK];

	ck_assert_uint_eq(nf_i_size(&t->ic), want->size);
	for (uint64_t at = 0; at < want->size; at += BLOCK) {
		size_t n = want->size - at < BLOCK ? want->size - at : BLOCK;
		ck_assert_int_eq(toy_read(t, at, got + at, n), (long)n);
	}
	uint64_t i = 0;
	while (i < want->size && got[i] == want->b[i])
		i++;
	ck_assert_msg(i == want->size, "byte %#lx is %02x, should be %02x", (unsigned long)i, got[i], want->b[i]);
}

/* --- hooks ------------------------------------------------------------------------------------- */

static int exchange(struct nf_conflict *c)
{
	exchanges++;
	if (exchanges == 1 && c->ctx) { /* somebody writes just before */
		toy_write(file, 3, "late", 4);
		put(&local, 3, (const uint8_t *)"late", 4);
	}
	if (nf_is_dirty(c->ic))
		return -EAGAIN;
	if (c->mode != NF_CONFLICT_DISCARD) {
		store(old, &local);
		nf_invalidate(&old->ic, 0, UINT64_MAX, local.size, local.size);
		c->local = &old->ic;
		c->changes = ours;
	}
	store(file, &theirs);
	nf_invalidate(c->ic, 0, UINT64_MAX, theirs.size, theirs.size);
	c->size_bytes = theirs.size;
	file->on_group = NULL; /* what comes now is since the new version */
	return 0;
}

static int stash_open(struct nf_conflict *c, struct nf_ictx **out)
{
	(void)c;
	stashes++;
	*out = &stash->ic;
	return stash_error;
}

static const struct nf_conflict_ops ops = { .exchange = exchange, .stash = stash_open };

struct waited {
	struct nf_conflict c;
	struct toy_wait w;
};

static void on_done(struct nf_conflict *c)
{
	toy_done(&nf_container_of(c, struct waited, c)->w.io);
}

static int resolve(struct waited *x, enum nf_conflict_mode mode, const struct nf_changes *others, bool late)
{
	memset(x, 0, sizeof *x);
	toy_wait_init(&x->w, file);
	x->c = (struct nf_conflict){ .ic = &file->ic, .mode = mode, .theirs = others, .ops = &ops, .done = on_done,
				     .discard_error = -NF_E_STALE_HANDLE, .ctx = late ? x : NULL };
	nf_conflict(&x->c);
	toy_wait_end(&x->w);
	return x->c.error;
}

/* FILE holds BASE, stored. */
static void begin(uint64_t base_size, uint64_t their_size)
{
	nf_changes_free(ours);
	ours = NULL;
	noise(&base, base_size);
	noise(&theirs, their_size);
	local = base;
	file->on_group = on_group;
	store(file, &base);
	nf_invalidate(&file->ic, 0, UINT64_MAX, base.size, base.size);
	ck_assert_uint_eq(nf_i_size(&file->ic), base.size);
	ck_assert_int_eq(nf_changes_new(base.size, &ours), 0);
}

/* --- one change, made to the file, to LOCAL, and to WANT: the new version with it ----------------- */

static struct bytes want;

static void change_write(uint64_t pos, size_t len)
{
	static uint8_t p[ROOM];

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)nf_prng_below(&prng, 256);
	ck_assert_int_eq(toy_write(file, pos, p, len), 0);
	put(&local, pos, p, len);
	put(&want, pos, p, len);
}

static void change_append(size_t len)
{
	static uint8_t p[ROOM];

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)nf_prng_below(&prng, 256);
	ck_assert_int_eq(toy_write_flags(file, 0, p, len, NF_IO_APPEND), 0);
	put(&local, local.size, p, len);
	put(&want, want.size, p, len);
}

static bool cut_before;

static void change_size(uint64_t size)
{
	bool cuts = size < local.size;

	ck_assert_int_eq(toy_truncate(file, size), 0);
	set_size(&local, size);
	/* To grow does not shorten what others have made longer; to cut off does. */
	if (cuts && size < want.size)
		memset(want.b + size, 0, ROOM - size);
	if (cuts || cut_before)
		want.size = size;
	else
		want.size = want.size > size ? want.size : size;
	cut_before = cut_before || cuts;
}

static void change_punch(uint64_t pos, uint64_t len)
{
	uint64_t end = local.size < base.size ? local.size : base.size;

	/* Holes beyond the end of the base are not carried over, and a write that was punched away does not make a
	 * shorter version longer. */
	if (pos >= end || theirs.size < base.size)
		return;
	len = pos + len < end ? len : end - pos;
	ck_assert_int_eq(toy_fallocate(file, PUNCH, pos, len), 0);
	punch(&want, pos, len);
	punch(&local, pos, len);
}

static void changes_begin(uint64_t base_size, uint64_t their_size)
{
	begin(base_size, their_size);
	want = theirs;
	cut_before = false;
}

/* --- tests ------------------------------------------------------------------------------------------ */

START_TEST(discard_gives_the_new_version_and_an_error_to_who_waits)
{
	struct waited x;
	struct toy_wait w;

	changes_begin(5 * BLOCK, 3 * BLOCK + 5);
	change_write(100, 9000);
	toy_hold(file, true);
	file->p_later = 1000;
	toy_wait_init(&w, file);
	nf_fsync(&w.io);
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_DISCARD, NULL, false), 0);
	toy_hold(file, false);
	ck_assert_int_eq(toy_wait_end(&w), -NF_E_STALE_HANDLE);
	file->p_later = 0;
	ck_assert_uint_eq(x.c.moved_bytes, 0);
	ck_file(file, &theirs);
	ck_assert(!nf_is_dirty(&file->ic));
}
END_TEST

START_TEST(reapply_puts_exact_ranges_over_the_new_version)
{
	struct waited x;

	changes_begin(5 * BLOCK, 6 * BLOCK + 100);
	change_write(10, 1);
	change_write(BLOCK - 1, 2);
	change_write(3 * BLOCK + 7, BLOCK);
	ck_assert_int_eq(toy_fsync(file), 0);
	change_punch(2 * BLOCK - 3, 1000);
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_REAPPLY, NULL, false), 0);
	ck_assert_int_eq(x.c.did, NF_CONFLICT_REAPPLY);
	ck_assert_uint_eq(x.c.moved_bytes, 1 + 2 + BLOCK);
	ck_file(file, &want);
	ck_assert_int_eq(toy_fsync(file), 0);
	toy_drop_cache(file);
	ck_file(file, &want);
	/* All of it became visible at once. */
	ck_assert_uint_eq(file->info.nr_ranges, 3);
}
END_TEST

START_TEST(reapply_keeps_a_longer_new_version_but_cuts_what_was_cut)
{
	struct waited x;

	changes_begin(2 * BLOCK, 8 * BLOCK);
	change_write(3 * BLOCK, 100); /* grows by a write: theirs stays longer */
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_REAPPLY, NULL, false), 0);
	ck_assert_uint_eq(want.size, 8 * BLOCK);
	ck_file(file, &want);

	ck_assert_int_eq(toy_fsync(file), 0);
	changes_begin(2 * BLOCK, 8 * BLOCK);
	change_size(1000);
	change_size(4 * BLOCK);
	change_write(3 * BLOCK, 5);
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_REAPPLY, NULL, false), 0);
	ck_assert_uint_eq(want.size, 4 * BLOCK);
	ck_file(file, &want);
}
END_TEST

START_TEST(reapply_puts_appended_bytes_at_the_new_end)
{
	static const uint64_t sizes[] = { 7 * BLOCK + 11, 2 * BLOCK + 100, 100, 0 };
	struct waited x;

	for (size_t i = 0; i < NF_ARRAY_LEN(sizes); i++) {
		changes_begin(2 * BLOCK + 100, sizes[i]);
		change_append(3000);
		ck_assert_int_eq(toy_fsync(file), 0);
		change_append(BLOCK);
		if (sizes[i] > 60)
			change_write(50, 10); /* stays where it is */
		ck_assert_int_eq(resolve(&x, NF_CONFLICT_REAPPLY, NULL, false), 0);
		ck_file(file, &want);
		ck_assert_int_eq(toy_fsync(file), 0);
	}
}
END_TEST

START_TEST(reapply_of_random_changes_is_what_doing_them_again_gives)
{
	const char *seed = getenv("NF_SEED");
	struct waited x;

	nf_prng_seed(&prng, seed ? strtoull(seed, NULL, 0) : 11);
	for (unsigned turn = 0; turn < 60; turn++) {
		changes_begin(nf_prng_below(&prng, 8 * BLOCK), nf_prng_below(&prng, 10 * BLOCK));
		for (unsigned i = 0, n = 1 + (unsigned)nf_prng_below(&prng, 8); i < n; i++) {
			uint64_t pos = nf_prng_below(&prng, 9 * BLOCK);
			size_t len = 1 + nf_prng_below(&prng, 3 * BLOCK);
			switch (nf_prng_below(&prng, 6)) {
			case 0: change_size(pos); break;
			case 1: change_punch(pos, len); break;
			case 2: ck_assert_int_eq(toy_fsync(file), 0); break;
			default: change_write(pos, len); break;
			}
		}
		ck_assert_int_eq(resolve(&x, NF_CONFLICT_REAPPLY, NULL, turn % 3 == 0), 0);
		if (turn % 3 == 0) {
			ck_assert_uint_ge(exchanges, 2);
			put(&want, 3, (const uint8_t *)"late", 4);
		}
		exchanges = 0;
		ck_assert_int_eq(x.c.did, NF_CONFLICT_REAPPLY);
		ck_file(file, &want);
		ck_assert_int_eq(toy_fsync(file), 0);
		toy_drop_cache(file);
		ck_file(file, &want);
	}
}
END_TEST

START_TEST(reapply_becomes_stash_where_it_has_no_meaning)
{
	struct waited x;
	struct nf_changes *others;
	struct nf_range r = { 4000, 5000 };
	struct nf_group_info g = { .group = 1, .least_size_bytes = UINT64_MAX, .size_bytes = 5 * BLOCK, .ranges = &r,
				   .nr_ranges = 1 };

	/* They changed a byte of ours. */
	changes_begin(5 * BLOCK, 5 * BLOCK);
	ck_assert_int_eq(nf_changes_new(5 * BLOCK, &others), 0);
	nf_changes_add(others, &g);
	change_write(4999, 10);
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_REAPPLY, others, false), 0);
	ck_assert_int_eq(x.c.did, NF_CONFLICT_STASH);
	ck_file(file, &theirs);
	ck_file(stash, &local);

	/* One byte further they did not. */
	changes_begin(5 * BLOCK, 5 * BLOCK);
	change_write(5000, 10);
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_REAPPLY, others, false), 0);
	ck_assert_int_eq(x.c.did, NF_CONFLICT_REAPPLY);
	ck_file(file, &want);
	nf_changes_free(others);

	/* Whole pages of a mapping. */
	ck_assert_int_eq(toy_fsync(file), 0);
	changes_begin(5 * BLOCK, 5 * BLOCK);
	ck_assert_int_eq(toy_write_flags(file, 0, base.b, 4096, NF_IO_PAGE_GRANULAR), 0);
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_REAPPLY, NULL, false), 0);
	ck_assert_int_eq(x.c.did, NF_CONFLICT_STASH);
	ck_file(file, &theirs);
	ck_file(stash, &local);
	ck_assert_uint_eq(stashes, 2);
}
END_TEST

START_TEST(overwrite_makes_the_local_version_the_new_one)
{
	static const uint64_t sizes[][2] = { { 5 * BLOCK, 9 * BLOCK + 1 }, { 5 * BLOCK + 77, BLOCK }, { 0, 100 }, { 100, 0 } };
	struct waited x;

	for (size_t i = 0; i < NF_ARRAY_LEN(sizes); i++) {
		changes_begin(sizes[i][0], sizes[i][1]);
		if (i == 0)
			change_punch(BLOCK, 3 * BLOCK);
		if (local.size)
			change_write(local.size / 2, 50);
		ck_assert_int_eq(resolve(&x, NF_CONFLICT_OVERWRITE, NULL, i == 1), 0);
		ck_file(file, &local);
		ck_assert_int_eq(toy_fsync(file), 0);
		toy_drop_cache(file);
		ck_file(file, &local);
	}
}
END_TEST

START_TEST(stash_keeps_both_and_skips_holes)
{
	struct waited x;

	changes_begin(6 * BLOCK, 2 * BLOCK);
	change_punch(0, 6 * BLOCK - 10);
	change_size(16 * BLOCK);
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_STASH, NULL, false), 0);
	ck_file(file, &theirs);
	ck_file(stash, &local);
	ck_assert(!nf_is_dirty(&file->ic));
	ck_assert_int_eq(toy_fsync(stash), 0);
	toy_drop_cache(stash);
	ck_file(stash, &local);
	/* One piece of 256 KiB at most was written for ten bytes. */
	ck_assert_uint_le(x.c.moved_bytes, 256 << 10);
}
END_TEST

START_TEST(failures_are_told_and_lose_nothing)
{
	struct waited x;

	/* The local version cannot be stored: nothing has happened. */
	changes_begin(3 * BLOCK, BLOCK);
	change_write(0, 10);
	file->fail_writes = -EIO;
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_STASH, NULL, false), -EIO);
	ck_assert_uint_eq(exchanges, 0);
	file->fail_writes = 0;
	ck_file(file, &local);

	/* No room for the stash. */
	stash_error = -ENOSPC;
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_STASH, NULL, false), -ENOSPC);
	ck_file(old, &local);

	/* The local version cannot be read back. */
	stash_error = 0;
	changes_begin(3 * BLOCK, BLOCK);
	change_write(0, 10);
	old->fail_reads = -EIO;
	ck_assert_int_eq(resolve(&x, NF_CONFLICT_REAPPLY, NULL, false), -EIO);
	old->fail_reads = 0;
	ck_file(old, &local);
	ck_file(file, &theirs);
}
END_TEST

START_TEST(changes_of_several_groups_add_up)
{
	struct nf_changes *a, *b;
	struct nf_range r1[] = { { 0, 100 }, { 500, 600 } }, h1[] = { { 200, 300 } }, r2[] = { { 250, 260 } };
	struct nf_group_info g1 = { .least_size_bytes = UINT64_MAX, .size_bytes = 1000, .ranges = r1, .nr_ranges = 2,
				    .holes = h1, .nr_holes = 1 };
	struct nf_group_info g2 = { .least_size_bytes = 400, .size_bytes = 1000, .ranges = r2, .nr_ranges = 1 };
	struct nf_range probe = { 100, 200 };
	struct nf_group_info g3 = { .least_size_bytes = UINT64_MAX, .size_bytes = 1000, .ranges = &probe, .nr_ranges = 1 };
	static const struct { uint64_t start, end; bool meets; } cases[] = {
		{ 0, 1, true }, { 99, 100, true }, { 100, 200, false }, { 200, 201, true }, { 255, 256, true },
		{ 300, 400, false }, { 300, 401, true }, { 550, 560, true }, { 900, 901, true },
	};

	ck_assert_int_eq(nf_changes_new(1000, &a), 0);
	nf_changes_add(a, &g1);
	nf_changes_add(a, &g2);
	ck_assert(nf_changes_exact(a));
	for (size_t i = 0; i < NF_ARRAY_LEN(cases); i++) {
		probe = (struct nf_range){ cases[i].start, cases[i].end };
		ck_assert_int_eq(nf_changes_new(1000, &b), 0);
		nf_changes_add(b, &g3);
		ck_assert_msg(nf_changes_overlap(a, b) == cases[i].meets, "case %zu", i);
		ck_assert_msg(nf_changes_overlap(b, a) == cases[i].meets, "case %zu, other way", i);
		nf_changes_free(b);
	}
	nf_changes_free(a);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "conflict", 60);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, discard_gives_the_new_version_and_an_error_to_who_waits);
	tcase_add_test(tc, reapply_puts_exact_ranges_over_the_new_version);
	tcase_add_test(tc, reapply_keeps_a_longer_new_version_but_cuts_what_was_cut);
	tcase_add_test(tc, reapply_puts_appended_bytes_at_the_new_end);
	tcase_add_test(tc, reapply_of_random_changes_is_what_doing_them_again_gives);
	tcase_add_test(tc, reapply_becomes_stash_where_it_has_no_meaning);
	tcase_add_test(tc, overwrite_makes_the_local_version_the_new_one);
	tcase_add_test(tc, stash_keeps_both_and_skips_holes);
	tcase_add_test(tc, failures_are_told_and_lose_nothing);
	tcase_add_test(tc, changes_of_several_groups_add_up);
}

NF_SUITE("netfs/conflict")
