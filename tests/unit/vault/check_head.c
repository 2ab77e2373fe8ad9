#include "vault/head.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "suite.h"

static struct nf_ring *make_ring(uint8_t volume)
{
	struct nf_ring_epoch e = { .epoch = 1, .created_s = 1, .master = { 1 } };
	uint8_t id[16] = { volume }, hash_key[16] = { 2 };
	struct nf_ring *ring;
	ck_assert_int_eq(nf_ring_new(id, &e, 1, hash_key, &ring), 0);
	return ring;
}

static void make_head(struct nf_head *h)
{
	*h = (struct nf_head){ .id = { .seq = 8 }, .writer = 5, .writer_seq = 3, .time = { 100, 5 }, .nr_parents = 2,
			       .meta_pack = { { 4 } }, .meta_offset_bytes = 100, .meta_len_bytes = 1000 };
	memset(h->id.rand, 9, 16);
	h->parents[0] = (struct nf_head_id){ .seq = 7, .rand = { 1 }, .tag = { 2 } };
	h->parents[1] = (struct nf_head_id){ .seq = 3, .rand = { 3 }, .tag = { 4 } };
	h->root = (struct nf_ref){ .pack = { { 4 } }, .sealed_len = 90, .plain_len = 50, .epoch = 1, .level = 2 };
	h->delta = (struct nf_ref){ .pack = { { 4 } }, .sealed_len = 80, .plain_len = 40, .epoch = 1, .tag = { 6 } };
	const struct nf_vector_entry own = { .writer = 5, .seq = 3, .tag = { 6 } }, other = { .writer = 2, .seq = 9 };
	ck_assert_int_eq(nf_vector_set(&h->vector, &own), 0);
	ck_assert_int_eq(nf_vector_set(&h->vector, &other), 0);
}

START_TEST(a_head_opens_only_under_its_own_name_and_key)
{
	struct nf_ring *ring = make_ring(1), *foreign = make_ring(2);
	struct nf_codec *c = nf_codec_get(ring), *cf = nf_codec_get(foreign);
	nf_auto(nf_head_deinit) struct nf_head h, got = { 0 };
	nf_auto(nf_text_deinit) struct nf_text t = NF_TEXT_INIT;
	nf_auto_free uint8_t *file = NULL;
	uint8_t other[16] = { 0 };
	char print[24], print2[24];
	void *p;
	size_t len;

	make_head(&h);
	ck_assert_int_eq(nf_head_seal(c, &h, &p, &len), 0);
	file = p;
	ck_assert_int_eq(nf_head_open(c, 8, h.id.rand, file, len, &got), 0);
	ck_assert_mem_eq(got.id.tag, h.id.tag, 16);
	ck_assert(got.nr_parents == 2 && got.parents[1].seq == 3 && nf_vector_equal(&got.vector, &h.vector));
	ck_assert(nf_ref_equal(&got.root, &h.root) && nf_ref_equal(&got.delta, &h.delta));
	ck_assert(got.meta_len_bytes == 1000 && got.time.tv_sec == 100);
	nf_head_to_text(&got, &t);
	ck_assert_ptr_nonnull(strstr(nf_text_str(&t), "{2:9 5:3}"));
	nf_head_fingerprint(&got, print);
	ck_assert_uint_eq(strlen(print), 23);
	got.vector.e[0].seq++;
	nf_head_fingerprint(&got, print2);
	ck_assert_str_ne(print, print2);

	struct nf_head no;
	ck_assert_int_eq(nf_head_open(c, 9, h.id.rand, file, len, &no), -NF_E_XFORM_BAD_TAG);
	ck_assert_int_eq(nf_head_open(c, 8, other, file, len, &no), -NF_E_XFORM_BAD_TAG);
	ck_assert_int_eq(nf_head_open(cf, 8, h.id.rand, file, len, &no), -NF_E_XFORM_BAD_TAG);
	for (size_t cut = 0; cut < len; cut++)
		ck_assert_int_lt(nf_head_open(c, 8, h.id.rand, file, cut, &no), 0);
	for (size_t at = 0; at < len; at++) {
		file[at] ^= 1;
		ck_assert_int_lt(nf_head_open(c, 8, h.id.rand, file, len, &no), 0);
		file[at] ^= 1;
	}
	nf_codec_put(c);
	nf_codec_put(cf);
	nf_ring_free(ring);
	nf_ring_free(foreign);
}
END_TEST

START_TEST(hostile_heads_are_refused)
{
	uint8_t rand[16] = { 0 };

	for (int i = 0; i < 22; i++) {
		nf_auto(nf_head_deinit) struct nf_head h;
		nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
		struct nf_head got = { 0 };
		uint64_t seq = 8;
		make_head(&h);
		switch (i) {
		case 0: break; /* accepted */
		case 1: seq = 9; break;
		case 2: h.parents[0].seq = 8; break;
		case 3: h.parents[0].seq = 6; break;
		case 4: h.parents[0].seq = UINT64_MAX; h.id.seq = seq = 0; break;
		case 5: h.nr_parents = 0; break;
		case 6: h.writer = 0; break;
		case 7: h.writer = 0; h.writer_seq = 0; break; /* but a delta */
		case 8: h.writer = 6; break; /* not in the vector */
		case 9: h.writer_seq = 4; break;
		case 10: h.delta.tag[0]++; break;
		case 11: h.root.pack = (struct nf_pack_id){ 0 }; break;
		case 12: h.delta.epoch = 0; break;
		case 13: h.root.flags = 2; break;
		case 14: h.meta_len_bytes = 16 << 20; break;
		case 15: h.meta_pack = (struct nf_pack_id){ 0 }; break;
		case 16: h.vector.e[0].writer = 5; break; /* not ascending */
		case 17: h.vector.e[0].writer = 0; break;
		case 18: h.vector.e[0].seq = 0; break;
		case 19: h.vector.e[1].writer = h.writer = 1 << 23; break;
		case 20: h.time.tv_nsec = 1000000000; break;
		case 21: h.nr_parents = 17; break;
		}
		struct nf_head safe = h;
		safe.nr_parents = NF_MIN(h.nr_parents, (size_t)NF_HEAD_PARENTS_MAX);
		nf_head_encode_plain(&safe, &b);
		b.p[33] = (uint8_t)h.nr_parents;
		int r = nf_head_decode_plain(seq, rand, b.p, b.len, &got);
		ck_assert_msg(r == (i ? -NF_E_FORMAT_BAD : 0), "change %d gives %d", i, r);
		nf_head_deinit(&got);
		for (size_t cut = 0; i == 0 && cut < b.len; cut++)
			ck_assert_int_lt(nf_head_decode_plain(seq, rand, b.p, cut, &got), 0);
	}
}
END_TEST

START_TEST(an_extension_is_ignored_and_a_signature_is_not)
{
	nf_auto(nf_head_deinit) struct nf_head h, got = { 0 };
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	struct nf_head no;

	make_head(&h);
	nf_head_encode_plain(&h, &b);
	b.len -= 2;
	nf_buf_str16(&b, "later", 5);
	ck_assert_int_eq(nf_head_decode_plain(8, h.id.rand, b.p, b.len, &got), 0);
	b.p[b.len - 10] = 1;
	ck_assert_int_eq(nf_head_decode_plain(8, h.id.rand, b.p, b.len, &no), -NF_E_FORMAT_BAD);
}
END_TEST

START_TEST(only_exact_names_of_heads_are_taken)
{
	uint8_t rand[16], got[16];
	char name[64];
	uint64_t seq;

	nf_random(rand, sizeof rand);
	nf_head_name(UINT64_C(0xfedcba9876543210), rand, name);
	ck_assert_int_eq(strncmp(name, "heads/fedcba9876543210-", 23), 0);
	ck_assert_int_eq(nf_head_name_parse(name + 6, &seq, got), 0);
	ck_assert(seq == UINT64_C(0xfedcba9876543210) && memcmp(rand, got, 16) == 0);
	ck_assert_int_lt(nf_head_name_parse(name, &seq, got), 0);
	ck_assert_int_lt(nf_head_name_parse("", &seq, got), 0);
	char bad[64];
	for (size_t i = 6; i < strlen(name); i++) {
		strcpy(bad, name + 6);
		bad[i - 6] = 'G';
		ck_assert_int_lt(nf_head_name_parse(bad, &seq, got), 0);
	}
	strcpy(bad, name + 6);
	strcat(bad, "0");
	ck_assert_int_lt(nf_head_name_parse(bad, &seq, got), 0);
	bad[48] = 0;
	ck_assert_int_lt(nf_head_name_parse(bad, &seq, got), 0);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "head", 30);
	tcase_add_test(tc, a_head_opens_only_under_its_own_name_and_key);
	tcase_add_test(tc, hostile_heads_are_refused);
	tcase_add_test(tc, an_extension_is_ignored_and_a_signature_is_not);
	tcase_add_test(tc, only_exact_names_of_heads_are_taken);
}

NF_SUITE("vault/head")
