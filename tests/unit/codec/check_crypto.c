/* Published answers of the primitives. */
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "codec/crypto.h"
#include "codec/keymem.h"
#include "suite.h"

#include <stdio.h>

static size_t unhex(const char *hex, uint8_t *out)
{
	size_t n = 0;

	for (; hex[0]; hex += 2, n++) {
		unsigned v;
		ck_assert_int_eq(sscanf(hex, "%2x", &v), 1);
		out[n] = (uint8_t)v;
	}
	return n;
}

static void xaes_answer(uint8_t key_byte, const char *aad, const char *hex)
{
	const char plain[] = "XAES-256-GCM";
	const uint8_t *nonce = (const uint8_t *)"ABCDEFGHIJKLMNOPQRSTUVWX";
	uint8_t key[32], expected[64], sealed[64 + NF_SEAL_OVERHEAD], back[64];
	size_t n = unhex(hex, expected);

	memset(key, key_byte, sizeof key);
	ck_assert_int_eq(nf_xaes_seal(key, nonce, aad, strlen(aad), plain, 12, sealed), 0);
	ck_assert_uint_eq(n, 12 + 16);
	ck_assert_mem_eq(sealed, nonce, 24);
	ck_assert_mem_eq(sealed + 24, expected, n);
	ck_assert_int_eq(nf_xaes_open(key, aad, strlen(aad), sealed, n + 24, back), 0);
	ck_assert_mem_eq(back, plain, 12);
}

START_TEST(xaes_gives_the_published_answers)
{
	/* The second key's L has its top bit set: both ways of doubling. */
	xaes_answer(1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
	xaes_answer(3, "c2sp.org/XAES-256-GCM",
		    "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
}
END_TEST

START_TEST(every_flipped_bit_is_noticed_and_nothing_comes_out)
{
	uint8_t key[32] = { 9 }, nonce[24] = { 7 }, plain[21], sealed[21 + NF_SEAL_OVERHEAD];
	uint8_t out[21], none[21] = { 0 };

	nf_random(plain, sizeof plain);
	ck_assert_int_eq(nf_xaes_seal(key, nonce, "a", 1, plain, sizeof plain, sealed), 0);
	for (size_t bit = 0; bit < 8 * sizeof sealed; bit++) {
		sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
		memset(out, 0xaa, sizeof out);
		ck_assert_int_eq(nf_xaes_open(key, "a", 1, sealed, sizeof sealed, out),
				 -NF_E_XFORM_BAD_TAG);
		ck_assert_mem_eq(out, none, sizeof out);
		sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	ck_assert_int_eq(nf_xaes_open(key, "b", 1, sealed, sizeof sealed, out), -NF_E_XFORM_BAD_TAG);
	ck_assert_int_eq(nf_xaes_open(key, "a", 0, sealed, sizeof sealed, out), -NF_E_XFORM_BAD_TAG);
	key[31] ^= 1;
	ck_assert_int_eq(nf_xaes_open(key, "a", 1, sealed, sizeof sealed, out), -NF_E_XFORM_BAD_TAG);
	key[31] ^= 1;
	for (size_t n = 0; n < sizeof sealed; n++)
		ck_assert_int_eq(nf_xaes_open(key, "a", 1, sealed, n, out),
				 n < NF_SEAL_OVERHEAD ? -NF_E_XFORM_TRUNCATED : -NF_E_XFORM_BAD_TAG);
	ck_assert_int_eq(nf_xaes_open(key, "a", 1, sealed, sizeof sealed, out), 0);
}
END_TEST

START_TEST(nothing_at_all_can_be_sealed)
{
	uint8_t key[32] = { 1 }, nonce[24] = { 2 }, sealed[NF_SEAL_OVERHEAD], out[1];

	ck_assert_int_eq(nf_xaes_seal(key, nonce, NULL, 0, NULL, 0, sealed), 0);
	ck_assert_int_eq(nf_xaes_open(key, NULL, 0, sealed, sizeof sealed, out), 0);
	sealed[3] ^= 1;
	ck_assert_int_eq(nf_xaes_open(key, NULL, 0, sealed, sizeof sealed, out),
			 -NF_E_XFORM_BAD_TAG);
}
END_TEST

START_TEST(one_context_alternates_between_keys_and_directions)
{
	struct nf_xaes x;
	struct nf_xaes_key k[2];
	uint8_t raw[2][32], nonce[24] = { 5 }, one[40], other[40], tag[16], out[40];

	nf_random(raw, sizeof raw);
	ck_assert_int_eq(nf_xaes_init(&x), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(nf_xaes_key_init(&x, &k[i], raw[i]), 0);
	for (int i = 0; i < 6; i++) {
		uint8_t plain[40] = { (uint8_t)i }, reference[40 + NF_SEAL_OVERHEAD];
		ck_assert_int_eq(nf_xaes_begin(&x, &k[i & 1], nonce, true, "x", 1), 0);
		/* In uneven pieces, as padding is added. */
		ck_assert_int_eq(nf_xaes_update(&x, plain, 13, one), 0);
		ck_assert_int_eq(nf_xaes_update(&x, plain + 13, 27, one + 13), 0);
		ck_assert_int_eq(nf_xaes_seal_end(&x, tag), 0);
		ck_assert_int_eq(nf_xaes_seal(raw[i & 1], nonce, "x", 1, plain, 40, reference), 0);
		ck_assert_mem_eq(reference + 24, one, 40);
		ck_assert_mem_eq(reference + 64, tag, 16);
		memcpy(other, one, 40);
		ck_assert_int_eq(nf_xaes_begin(&x, &k[i & 1], nonce, false, "x", 1), 0);
		ck_assert_int_eq(nf_xaes_update(&x, other, 40, out), 0);
		ck_assert_int_eq(nf_xaes_open_end(&x, tag), 0);
		ck_assert_mem_eq(out, plain, 40);
	}
	nf_xaes_deinit(&x);
}
END_TEST

START_TEST(hkdf_sha512_gives_the_answers_of_an_independent_implementation)
{
	/* The inputs of RFC 5869 test case 1 (published for SHA-256 there), and a label,
	 * computed with SHA-512 from HMAC alone. */
	uint8_t ikm[22], salt[13], out[42], expected[42];

	memset(ikm, 0x0b, sizeof ikm);
	for (int i = 0; i < 13; i++)
		salt[i] = (uint8_t)i;
	ck_assert_int_eq(nf_hkdf(ikm, 22, salt, 13, "\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9", out, 42), 0);
	unhex("832390086cda71fb47625bb5ceb168e4c8e26a1a16ed34d9fc7fe92c1481579338da362cb8d9f925d7cb", expected);
	ck_assert_mem_eq(out, expected, 42);
	ck_assert_int_eq(nf_hkdf(ikm, 22, salt, 13, "label", out, 42), 0);
	unhex("deed9ac851f78e0baa1ed8babe6cfe5d05a421b29752f9dce53151c6394ddac0230c48e782179b14803b", expected);
	ck_assert_mem_eq(out, expected, 42);
}
END_TEST

START_TEST(scrypt_gives_the_answers_of_rfc_7914)
{
	uint8_t out[64], expected[64];

	ck_assert_int_eq(nf_scrypt_raw("password", 8, "NaCl", 4, 1024, 8, 16, out, 64), 0);
	unhex("fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff1"
	      "09279d9830dac727afb94a83ee6d8360cbdfa2cc0640", expected);
	ck_assert_mem_eq(out, expected, 64);
	ck_assert_int_eq(nf_scrypt_raw("pleaseletmein", 13, "SodiumChloride", 14, 16384, 8, 1, out, 64), 0);
	unhex("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2d5432955613f0fcf62d4"
	      "9705242a9af9e61e85dc0d651e40dfcf017b45575887", expected);
	ck_assert_mem_eq(out, expected, 64);
}
END_TEST

START_TEST(scrypt_outside_the_limits_is_refused_before_it_runs)
{
	static const struct {
		unsigned log2_n;
		uint32_t r, p;
	} bad[] = { { 14, 8, 1 }, { 21, 8, 1 }, { 0, 8, 1 },  { 255, 8, 1 }, { 15, 0, 1 },
		    { 15, 33, 1 }, { 15, 8, 0 }, { 15, 8, 5 }, { 20, 9, 1 }, { 19, 17, 1 },
		    { 15, UINT32_MAX, 1 }, { 15, 8, UINT32_MAX } };
	uint8_t salt[32] = { 0 }, out[32], again[32];

	for (size_t i = 0; i < NF_ARRAY_LEN(bad); i++)
		ck_assert_int_eq(nf_scrypt("x", 1, salt, bad[i].log2_n, bad[i].r, bad[i].p, out),
				 -NF_E_KDF_LIMIT);
	ck_assert_int_eq(nf_scrypt_check(20, 8, 4), 0);
	ck_assert_int_eq(nf_scrypt_check(18, 32, 1), 0);
	ck_assert_int_eq(nf_scrypt("x", 1, salt, 15, 1, 1, out), 0);
	ck_assert_int_eq(nf_scrypt_raw("x", 1, salt, 32, 32768, 1, 1, again, 32), 0);
	ck_assert_mem_eq(out, again, 32);
}
END_TEST

START_TEST(hmac_and_sha256_give_the_published_answers)
{
	/* RFC 4231's keys are not 32 bytes long, but a key ends in any number of zeros. */
	uint8_t key[32] = { 0 }, out[32], expected[32];

	memset(key, 0x0b, 20);
	ck_assert_int_eq(nf_hmac_sha256(key, "Hi There", 8, out), 0);
	unhex("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7", expected);
	ck_assert_mem_eq(out, expected, 32);
	ck_assert_int_eq(nf_sha256("abc", 3, out), 0);
	unhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", expected);
	ck_assert_mem_eq(out, expected, 32);
	ck_assert(nf_equal_ct(out, expected, 32));
	out[31] ^= 0x80;
	ck_assert(!nf_equal_ct(out, expected, 32));
	ck_assert(nf_equal_ct(out, expected, 31));
}
END_TEST

START_TEST(key_memory_is_zeroed_and_outlasts_the_secure_heap)
{
	/* Four times the secure heap: the plain one takes over. */
	enum { NR = 64, LEN = 16 * 1024 };
	uint8_t *p[NR];

	for (int i = 0; i < NR; i++) {
		p[i] = nf_keymem_alloc(LEN);
		ck_assert_ptr_nonnull(p[i]);
		for (int j = 0; j < LEN; j++)
			ck_assert_uint_eq(p[i][j], 0);
		memset(p[i], 0xff, LEN);
	}
	for (int i = 0; i < NR; i++)
		nf_keymem_free(p[i], LEN);
	nf_keymem_free(NULL, 0);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "crypto", 60);

	tcase_add_test(tc, xaes_gives_the_published_answers);
	tcase_add_test(tc, every_flipped_bit_is_noticed_and_nothing_comes_out);
	tcase_add_test(tc, nothing_at_all_can_be_sealed);
	tcase_add_test(tc, one_context_alternates_between_keys_and_directions);
	tcase_add_test(tc, hkdf_sha512_gives_the_answers_of_an_independent_implementation);
	tcase_add_test(tc, scrypt_gives_the_answers_of_rfc_7914);
	tcase_add_test(tc, scrypt_outside_the_limits_is_refused_before_it_runs);
	tcase_add_test(tc, hmac_and_sha256_give_the_published_answers);
	tcase_add_test(tc, key_memory_is_zeroed_and_outlasts_the_secure_heap);
}

NF_SUITE("codec/crypto")
