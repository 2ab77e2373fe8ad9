/* The arena, folios, mappings, reclaim. */
#include "suite.h"

#include "base/mem.h"
#include "base/random.h"
#include "pagecache/folio.h"

enum { LIMIT = 8 << 20 };

static struct nf_memory *mem;
static struct nf_mapping m;

static void setup(void)
{
	ck_assert_int_eq(nf_memory_new(LIMIT, 0, &mem), 0);
	nf_mapping_init(&m, mem, 2);
}

static void teardown(void)
{
	nf_mapping_deinit(&m);
	ck_assert_uint_eq(nf_memory_used(mem), 0);
	nf_memory_free(mem);
}

START_TEST(folios_are_aligned_and_as_large_as_their_neighbours_allow)
{
	struct nf_folio *a = nf_mapping_get(&m, 5 << 14, 0), *b = nf_mapping_get(&m, 0, 9), *c;

	ck_assert_uint_eq(nf_folio_bytes(a), 16 << 10);
	ck_assert_uint_eq(a->pos_bytes, 5 << 14);
	ck_assert_uint_eq(nf_folio_bytes(b), 64 << 10);
	c = nf_mapping_get(&m, 1 << 20, 9);
	ck_assert_uint_eq(nf_folio_bytes(c), 1 << 20);
	ck_assert_ptr_eq(nf_memory_owner(mem, c->mem + 5000), c);
	nf_mapping_check(&m);
	nf_folio_unpin(a);
	nf_folio_unpin(b);
	nf_folio_unpin(c);
}
END_TEST

/* G4 */
START_TEST(g04_neither_dirty_nor_pinned_folios_are_given_up)
{
	struct nf_folio *dirty = nf_mapping_get(&m, 0, 0), *pinned = nf_mapping_get(&m, 1 << 20, 0);
	struct nf_folio *clean = nf_mapping_get(&m, 2 << 20, 0);

	nf_folio_set_dirty(dirty);
	nf_folio_unpin(dirty);
	nf_folio_unpin(clean);
	ck_assert_uint_eq(nf_memory_reclaim(mem, LIMIT), 16 << 10);
	ck_assert_uint_eq(m.nr_folios, 2);
	nf_folio_set_clean(dirty);
	ck_assert_uint_eq(nf_memory_reclaim(mem, LIMIT), 16 << 10);
	nf_folio_unpin(pinned);
	ck_assert_uint_eq(nf_memory_reclaim(mem, LIMIT), 16 << 10);
	ck_assert_uint_eq(m.nr_folios, 0);
}
END_TEST

START_TEST(the_cold_end_goes_first)
{
	struct nf_folio *f[3];

	for (unsigned i = 0; i < 3; i++) {
		f[i] = nf_mapping_get(&m, i << 20, 0);
		nf_folio_unpin(f[i]);
	}
	nf_folio_set_cold(f[2]);
	ck_assert_uint_eq(nf_memory_reclaim(mem, 1), 16 << 10);
	struct nf_folio *left = nf_mapping_next(&m, 2 << 20);
	ck_assert_ptr_null(left);
}
END_TEST

START_TEST(a_dropped_folio_lives_as_long_as_somebody_reads_it)
{
	struct nf_folio *f = nf_mapping_get(&m, 0, 0);

	memset(f->mem, 0x5a, nf_folio_bytes(f));
	nf_folio_drop(f);
	struct nf_folio *g = nf_mapping_get(&m, 0, 0);
	ck_assert_ptr_ne(f, g);
	ck_assert_int_eq(f->mem[100], 0x5a);
	nf_folio_unpin(f);
	nf_folio_unpin(g);
}
END_TEST

START_TEST(memory_is_bounded_and_the_reserve_is_for_write_back)
{
	unsigned nr = 0;
	struct nf_folio *f;

	for (; (f = nf_mapping_get(&m, (uint64_t)nr << 20, 8)); nr++)
		nf_folio_set_dirty(f);
	ck_assert_uint_ge(nf_memory_used(mem), LIMIT / 8 * 7 - (16 << 10));
	ck_assert_uint_le(nf_memory_used(mem), LIMIT / 8 * 7);
	ck_assert_int_eq(nf_memory_charge(mem, 1 << 18, false), NF_CHARGE_NONE);
	ck_assert_int_eq(nf_memory_charge(mem, 1 << 18, true), NF_CHARGE_RESERVE);
	ck_assert_int_eq(nf_memory_charge(mem, LIMIT / 8, true), NF_CHARGE_NONE);
	ck_assert_uint_le(nf_memory_used(mem), LIMIT);
	nf_memory_uncharge(mem, 1 << 18, NF_CHARGE_RESERVE);
	while (nr--) {
		f = nf_mapping_next(&m, (uint64_t)nr << 20);
		nf_folio_set_clean(f);
		nf_folio_unpin(f);
		nf_folio_unpin(f);
	}
	while ((f = nf_mapping_next(&m, 0))) {
		nf_folio_set_clean(f);
		nf_folio_drop(f);
		while (atomic_load(&f->refs) > 1)
			nf_folio_unpin(f);
		nf_folio_unpin(f);
	}
}
END_TEST

START_TEST(the_buddy_allocator_gives_each_page_once_and_gets_all_back)
{
	struct { void *p; unsigned order; } got[200];
	struct nf_prng g;
	unsigned nr = 0;

	nf_prng_seed(&g, (uint64_t)_i + 1);
	for (unsigned step = 0; step < 3000; step++) {
		if (nr < 200 && nf_prng_below(&g, 2)) {
			unsigned order = (unsigned)nf_prng_below(&g, 8);
			void *p = nf_memory_pages_get(mem, order, NULL);
			if (!p)
				continue;
			memset(p, (int)nr + 1, 4096u << order);
			got[nr].p = p;
			got[nr++].order = order;
		} else if (nr) {
			unsigned i = (unsigned)nf_prng_below(&g, nr);
			uint8_t *b = got[i].p;
			size_t bytes = 4096u << got[i].order;
			for (size_t k = 1; k < bytes; k += 4095)
				ck_assert_int_eq(b[k], b[0]);
			nf_memory_pages_put(mem, b, got[i].order);
			got[i] = got[--nr];
		}
	}
	while (nr)
		nr--, nf_memory_pages_put(mem, got[nr].p, got[nr].order);
	/* Everything has grown together again. */
	void *big[3];
	for (unsigned i = 0; i < 3; i++)
		ck_assert_ptr_nonnull(big[i] = nf_memory_pages_get(mem, 9, NULL));
	for (unsigned i = 0; i < 3; i++)
		nf_memory_pages_put(mem, big[i], 9);
}
END_TEST

START_TEST(only_whole_pages_become_uptodate)
{
	struct nf_folio *f = nf_mapping_get(&m, 0, 2);

	nf_folio_set_uptodate(f, 1, 3 * 4096 + 1);
	ck_assert(!nf_folio_page_uptodate(f, 0));
	ck_assert(nf_folio_page_uptodate(f, 4096) && nf_folio_page_uptodate(f, 2 * 4096));
	ck_assert(!nf_folio_page_uptodate(f, 3 * 4096));
	nf_folio_clear_uptodate(f, 2 * 4096 - 1, 2 * 4096);
	ck_assert(!nf_folio_page_uptodate(f, 4096) && nf_folio_page_uptodate(f, 2 * 4096));
	nf_folio_unpin(f);
}
END_TEST

START_TEST(the_reserve_is_what_its_owner_asks_for_but_at_most_half)
{
	static const struct { size_t limit, least, reserve; } rows[] = {
		{ 16 << 20, 0, 2 << 20 }, { 16 << 20, 1 << 20, 2 << 20 }, { 16 << 20, 4 << 20, 4 << 20 },
		{ 16 << 20, 16 << 20, 8 << 20 },
	};

	for (unsigned i = 0; i < NF_ARRAY_LEN(rows); i++) {
		struct nf_memory *one;
		ck_assert_int_eq(nf_memory_new(rows[i].limit, rows[i].least, &one), 0);
		ck_assert_uint_eq(nf_memory_reserve(one), rows[i].reserve);
		nf_memory_free(one);
	}
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "folio", 20);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, folios_are_aligned_and_as_large_as_their_neighbours_allow);
	tcase_add_test(tc, g04_neither_dirty_nor_pinned_folios_are_given_up);
	tcase_add_test(tc, the_cold_end_goes_first);
	tcase_add_test(tc, a_dropped_folio_lives_as_long_as_somebody_reads_it);
	tcase_add_test(tc, memory_is_bounded_and_the_reserve_is_for_write_back);
	tcase_add_loop_test(tc, the_buddy_allocator_gives_each_page_once_and_gets_all_back, 0, 3);
	tcase_add_test(tc, only_whole_pages_become_uptodate);
	tcase_add_test(tc, the_reserve_is_what_its_owner_asks_for_but_at_most_half);
}

NF_SUITE("pagecache/folio")
