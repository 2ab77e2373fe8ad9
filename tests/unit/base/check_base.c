#include "base/avl.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/random.h"
#include "base/text.h"
#include "suite.h"

#include <string.h>

START_TEST(errors_fold_to_their_errno)
{
	ck_assert_int_eq(nf_errno(0), 0);
	ck_assert_int_eq(nf_errno(-ENOENT), ENOENT);
	ck_assert_int_eq(nf_errno(-NF_E_OFFLINE), ENETDOWN);
	ck_assert_str_eq(nf_error_name(-NF_E_XFORM_BAD_TAG), "XFORM_BAD_TAG");
	ck_assert_str_eq(nf_error_name(-EIO), "EIO");
	ck_assert_int_eq(nf_errno(-NF_E_NR), EIO);
}
END_TEST

START_TEST(reading_past_the_end_is_bad_and_yields_zeros)
{
	uint8_t raw[] = { 1, 2, 3 };
	struct nf_rd r = nf_rd_of(raw, sizeof raw);

	ck_assert_uint_eq(nf_rd_u16(&r), 0x0201);
	ck_assert_int_eq(nf_rd_error(&r, false), 0);
	ck_assert_int_eq(nf_rd_error(&r, true), -NF_E_FORMAT_BAD);
	ck_assert_uint_eq(nf_rd_u32(&r), 0);
	ck_assert_int_eq(nf_rd_error(&r, false), -NF_E_FORMAT_BAD);
	ck_assert_uint_eq(nf_rd_u8(&r), 0);
}
END_TEST

START_TEST(what_is_written_is_read_back)
{
	struct nf_buf b = NF_BUF_INIT;
	size_t len;

	nf_buf_u8(&b, 7);
	nf_buf_u16(&b, 0x1234);
	nf_buf_u32(&b, 0x89abcdef);
	nf_buf_u64(&b, UINT64_C(0xfedcba9876543210));
	nf_buf_str16(&b, "name", 4);
	ck_assert_int_eq(nf_buf_error(&b), 0);
	struct nf_rd r = nf_rd_of(b.p, b.len);
	ck_assert_uint_eq(nf_rd_u8(&r), 7);
	ck_assert_uint_eq(nf_rd_u16(&r), 0x1234);
	ck_assert_uint_eq(nf_rd_u32(&r), 0x89abcdef);
	ck_assert_uint_eq(nf_rd_u64(&r), UINT64_C(0xfedcba9876543210));
	ck_assert_mem_eq(nf_rd_str16(&r, &len), "name", 4);
	ck_assert_uint_eq(len, 4);
	ck_assert_int_eq(nf_rd_error(&r, true), 0);
	nf_buf_deinit(&b);
}
END_TEST

START_TEST(siphash_gives_the_published_answer)
{
	uint8_t key[16], in[15];

	for (uint8_t i = 0; i < 16; i++)
		key[i] = i;
	for (uint8_t i = 0; i < 15; i++)
		in[i] = i;
	ck_assert_uint_eq(nf_siphash(key, in, 15), UINT64_C(0xa129ca6149be45e5));
}
END_TEST

struct item {
	struct nf_avl_node node;
	uint32_t key;
	uint32_t sum; /* augmentation: sum of keys below and here */
};

static uint32_t sum_of(const struct nf_avl_node *n)
{
	return n ? nf_container_of(n, const struct item, node)->sum : 0;
}

static void update_sum(struct nf_avl_node *n)
{
	struct item *i = nf_container_of(n, struct item, node);
	i->sum = i->key + sum_of(n->child[0]) + sum_of(n->child[1]);
}

static int cmp_key(const void *key, const struct nf_avl_node *n)
{
	uint32_t a = *(const uint32_t *)key, b = nf_container_of(n, const struct item, node)->key;
	return a < b ? -1 : a > b;
}

static int checked_height(const struct nf_avl_node *n)
{
	if (!n)
		return 0;
	int l = checked_height(n->child[0]), r = checked_height(n->child[1]);
	ck_assert_int_le(abs(l - r), 1);
	ck_assert_int_eq(n->height, 1 + (l > r ? l : r));
	for (int s = 0; s < 2; s++)
		ck_assert(!n->child[s] || n->child[s]->parent == n);
	return n->height;
}

START_TEST(tree_agrees_with_an_array)
{
	enum { KEYS = 100, STEPS = 1000 };
	static struct item items[KEYS];
	bool present[KEYS] = { false };
	uint32_t total = 0;
	struct nf_prng rng;
	struct nf_avl t;

	nf_prng_seed(&rng, (uint64_t)_i + 1);
	/* With nothing cached the tree looks no further up than it must. */
	bool sums = _i % 2;
	nf_avl_init(&t, sums ? update_sum : NULL);
	memset(items, 0, sizeof items);
	for (int step = 0; step < STEPS; step++) {
		uint32_t k = (uint32_t)nf_prng_below(&rng, KEYS);
		items[k].key = k;
		if (present[k]) {
			nf_avl_erase(&t, &items[k].node);
			ck_assert(!nf_avl_linked(&items[k].node));
			total -= k;
		} else {
			ck_assert_ptr_null(nf_avl_add(&t, &k, cmp_key, &items[k].node));
			total += k;
		}
		present[k] = !present[k];
		checked_height(t.root);
		ck_assert(!sums || sum_of(t.root) == total);
		uint32_t probe = (uint32_t)nf_prng_below(&rng, KEYS), want = probe;
		while (want < KEYS && !present[want])
			want++;
		struct nf_avl_node *n = nf_avl_lower(&t, &probe, cmp_key);
		ck_assert(want < KEYS ? n == &items[want].node : n == NULL);
		ck_assert((nf_avl_find(&t, &probe, cmp_key) != NULL) == present[probe]);
	}
	uint32_t k = 0;
	for (struct nf_avl_node *n = nf_avl_first(&t); n; n = nf_avl_next(n), k++) {
		while (!present[k])
			k++;
		ck_assert_ptr_eq(n, &items[k].node);
	}
}
END_TEST

START_TEST(json_strings_are_escaped)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_text_json(&t, "a\"b\\c\n");
	ck_assert_str_eq(nf_text_str(&t), "\"a\\\"b\\\\c\\u000a\"");
	nf_text_deinit(&t);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "base", 60);
	tcase_add_test(tc, errors_fold_to_their_errno);
	tcase_add_test(tc, reading_past_the_end_is_bad_and_yields_zeros);
	tcase_add_test(tc, what_is_written_is_read_back);
	tcase_add_test(tc, siphash_gives_the_published_answer);
	tcase_add_loop_test(tc, tree_agrees_with_an_array, 0, 4);
	tcase_add_test(tc, json_strings_are_escaped);
}

NF_SUITE("base")
