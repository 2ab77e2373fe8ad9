/* Version vectors against a plain array indexed by writer. */
#include "vault/head.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "suite.h"

#include <stdio.h>

enum { WRITERS = 6, ROUNDS = 20000 };

struct model {
	struct nf_vector_entry e[WRITERS]; /* seq 0: absent */
};

static void check(const struct nf_vector *v, const struct model *m)
{
	size_t nr = 0;

	for (uint32_t w = 0; w < WRITERS; w++) {
		nr += m->e[w].seq != 0;
		ck_assert_uint_eq(nf_vector_seq(v, w + 1), m->e[w].seq);
		const struct nf_vector_entry *e = nf_vector_find(v, w + 1);
		ck_assert_int_eq(e != NULL, m->e[w].seq != 0);
		if (e)
			ck_assert_mem_eq(e->tag, m->e[w].tag, 16);
	}
	ck_assert_uint_eq(v->nr, nr);
	for (size_t i = 1; i < v->nr; i++)
		ck_assert_uint_lt(v->e[i - 1].writer, v->e[i].writer);
}

static void random_pair(struct nf_prng *p, struct nf_vector *v, struct model *m)
{
	*m = (struct model){ 0 };
	for (uint64_t n = nf_prng_below(p, 8); n; n--) {
		uint32_t w = (uint32_t)nf_prng_below(p, WRITERS);
		struct nf_vector_entry e = { .writer = w + 1, .seq = 1 + nf_prng_below(p, 3),
					     .tag = { (uint8_t)nf_prng_below(p, 2) } };
		ck_assert_int_eq(nf_vector_set(v, &e), 0);
		m->e[w] = e;
	}
}

static bool model_covers(const struct model *a, const struct model *b)
{
	for (int w = 0; w < WRITERS; w++) {
		if (a->e[w].seq < b->e[w].seq)
			return false;
	}
	return true;
}

static void model_join(struct model *a, const struct model *b)
{
	for (int w = 0; w < WRITERS; w++) {
		if (b->e[w].seq > a->e[w].seq ||
		    (b->e[w].seq == a->e[w].seq && b->e[w].tag[0] < a->e[w].tag[0]))
			a->e[w] = b->e[w];
	}
}

START_TEST(vectors_behave_as_arrays_do)
{
	struct nf_prng p;
	uint64_t seed;

	nf_random(&seed, sizeof seed);
	if (getenv("SEED"))
		seed = strtoull(getenv("SEED"), NULL, 0);
	printf("# SEED=%llu\n", (unsigned long long)seed);
	nf_prng_seed(&p, seed);
	for (int i = 0; i < ROUNDS; i++) {
		nf_auto(nf_vector_deinit) struct nf_vector a = { 0 }, b = { 0 }, ab = { 0 }, ba = { 0 };
		struct model ma, mb;
		random_pair(&p, &a, &ma);
		random_pair(&p, &b, &mb);
		check(&a, &ma);
		ck_assert_int_eq(nf_vector_covers(&a, &b), model_covers(&ma, &mb));
		ck_assert_int_eq(nf_vector_equal(&a, &b), memcmp(&ma, &mb, sizeof ma) == 0);
		ck_assert_int_eq(nf_vector_copy(&ab, &a), 0);
		ck_assert_int_eq(nf_vector_copy(&ba, &b), 0);
		ck_assert_int_eq(nf_vector_join(&ab, &b), 0);
		ck_assert_int_eq(nf_vector_join(&ba, &a), 0);
		model_join(&ma, &mb);
		check(&ab, &ma);
		ck_assert(nf_vector_equal(&ab, &ba));
		ck_assert(nf_vector_covers(&ab, &a) && nf_vector_covers(&ab, &b));
	}
}
END_TEST

START_TEST(a_vector_has_a_greatest_length)
{
	nf_auto(nf_vector_deinit) struct nf_vector v = { 0 }, w = { 0 };

	for (uint32_t i = 1; i <= NF_VECTOR_MAX; i++) {
		struct nf_vector_entry e = { .writer = i, .seq = 1 };
		ck_assert_int_eq(nf_vector_set(&v, &e), 0);
	}
	struct nf_vector_entry e = { .writer = NF_VECTOR_MAX + 1, .seq = 1 };
	ck_assert_int_eq(nf_vector_set(&v, &e), -ENOSPC);
	ck_assert_int_eq(nf_vector_set(&w, &e), 0);
	ck_assert_int_eq(nf_vector_join(&v, &w), -ENOSPC);
	ck_assert_uint_eq(v.nr, NF_VECTOR_MAX);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "vector", 60);
	tcase_add_test(tc, vectors_behave_as_arrays_do);
	tcase_add_test(tc, a_vector_has_a_greatest_length);
}

NF_SUITE("vault/vector")
