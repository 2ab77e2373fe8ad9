/* Sealed objects: what goes in comes out, and nothing else does. */
#include "base/buf.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "codec/codec.h"
#include "suite.h"

#include <pthread.h>
#include <stdio.h>
#include <zstd.h>

static const uint8_t volume[16] = { 'v', 'o', 'l' };
static const uint8_t hash_key[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

static struct nf_ring *ring_of(const uint8_t vol[16], size_t nr_epochs)
{
	struct nf_ring_epoch e[NF_EPOCHS_MAX];
	struct nf_ring *r;

	for (size_t i = 0; i < nr_epochs; i++) {
		e[i] = (struct nf_ring_epoch){ .epoch = (uint32_t)(3 * i + 1) };
		memset(e[i].master, (int)i + 1, sizeof e[i].master);
	}
	ck_assert_int_eq(nf_ring_new(vol, e, nr_epochs, hash_key, &r), 0);
	return r;
}

static struct nf_ring *ring;
static struct nf_codec *codec;

static void setup(void)
{
	ring = ring_of(volume, 3);
	codec = nf_codec_get(ring);
	ck_assert_ptr_nonnull(codec);
}

static void teardown(void)
{
	nf_codec_put(codec);
	nf_ring_free(ring);
}

struct sealed {
	uint8_t *p;
	struct nf_sealed_info info;
};

static struct sealed seal(const struct nf_seal_id *id, const void *p, size_t len, size_t full)
{
	struct sealed s;
	size_t cap = nf_codec_bound(len);

	s.p = malloc(cap);
	ck_assert_ptr_nonnull(s.p);
	ck_assert_int_eq(nf_codec_seal(codec, id, p, len, full, true, s.p, cap, &s.info, NULL), 0);
	ck_assert_uint_le(s.info.sealed_len, cap);
	ck_assert_mem_eq(s.info.tag, s.p + s.info.sealed_len - 16, 16);
	return s;
}

static void text(struct nf_prng *g, uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)"etaoinshrdlu the of and "[nf_prng_below(g, 24)];
}

static void noise(struct nf_prng *g, uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)nf_prng_next(g);
}

START_TEST(random_objects_of_every_type_come_back)
{
	static const size_t max[] = { [NF_SEAL_BLOCK] = 70000, [NF_SEAL_NODE] = 32768,
				      [NF_SEAL_DELTA] = 200000, [NF_SEAL_XATTR] = 65536 };
	static const enum nf_seal_type types[] = { NF_SEAL_BLOCK, NF_SEAL_NODE, NF_SEAL_DELTA,
						   NF_SEAL_XATTR };
	struct nf_prng g;
	uint64_t seed;
	uint8_t *plain = malloc(200000), *back = malloc(200000);

	nf_random(&seed, sizeof seed);
	printf("# seed %llu\n", (unsigned long long)seed);
	nf_prng_seed(&g, seed);
	for (int i = 0; i < 400; i++) {
		struct nf_seal_id id = { types[i % 4], nf_prng_next(&g), (uint32_t)nf_prng_below(&g, 256) };
		size_t len = nf_prng_below(&g, 4) ? nf_prng_below(&g, max[id.type] + 1) : nf_prng_below(&g, 40);
		(nf_prng_below(&g, 2) ? text : noise)(&g, plain, len);
		struct sealed s = seal(&id, plain, len, nf_prng_below(&g, 2) ? len : 0);
		ck_assert_uint_eq(s.info.epoch, 7);
		ck_assert_int_eq(nf_codec_open(codec, &id, s.info.epoch, s.info.flags, s.info.tag, s.p,
					       s.info.sealed_len, back, len), 0);
		ck_assert(memcmp(plain, back, len) == 0);
		free(s.p);
	}
	free(plain);
	free(back);
}
END_TEST

START_TEST(sealed_lengths_follow_the_payload_rules)
{
	struct nf_prng g;
	struct nf_seal_id id = { NF_SEAL_BLOCK, 1, 0 };
	static uint8_t p[16384];
	bool compressible;
	struct nf_sealed_info info;
	static uint8_t out[20000];

	nf_prng_seed(&g, 1);
	noise(&g, p, sizeof p);
	struct sealed s = seal(&id, p, 16384, 16384);
	ck_assert_uint_eq(s.info.sealed_len, 16384 + 40);
	ck_assert_uint_eq(s.info.flags, 0);
	free(s.p);
	s = seal(&id, p, 9999, 16384);
	ck_assert_uint_eq(s.info.sealed_len, 10240 + 40);
	free(s.p);
	id.type = NF_SEAL_NODE;
	s = seal(&id, p, 9999, 0);
	ck_assert_uint_eq(s.info.sealed_len, 9999 + 40);
	free(s.p);
	id.type = NF_SEAL_XATTR;
	s = seal(&id, p, 9999, 9999);
	ck_assert_uint_eq(s.info.sealed_len, 10240 + 40);
	free(s.p);

	text(&g, p, sizeof p);
	id.type = NF_SEAL_BLOCK;
	s = seal(&id, p, 16384, 16384);
	ck_assert_uint_eq(s.info.flags, NF_PAYLOAD_ZSTD);
	ck_assert_uint_lt(s.info.sealed_len, 12000);
	ck_assert_uint_eq(nf_padme(s.info.sealed_len - 40), s.info.sealed_len - 40);
	free(s.p);
	ck_assert_int_eq(nf_codec_seal(codec, &id, p, 16384, 16384, true, out, sizeof out, &info,
				       &compressible), 0);
	ck_assert(compressible);
	ck_assert_int_eq(nf_codec_seal(codec, &id, p, 16384, 16384, false, out, sizeof out, &info,
				       &compressible), 0);
	ck_assert(!compressible);
	ck_assert_uint_eq(info.flags, 0);
	ck_assert_uint_eq(info.sealed_len, 16384 + 40);
	ck_assert_int_eq(nf_codec_seal(codec, &id, p, 16384, 16384, false, out, 16384 + 39, &info, NULL),
			 -EINVAL);
}
END_TEST

START_TEST(objects_over_the_limit_of_their_type_are_not_sealed)
{
	uint8_t *p = calloc(1, (4 << 20) + 1), *out = malloc(5 << 20);
	struct nf_sealed_info info;
	struct nf_seal_id id = { NF_SEAL_NODE, 0, 0 };

	ck_assert_int_eq(nf_codec_seal(codec, &id, p, 32769, 0, true, out, 5 << 20, &info, NULL), -E2BIG);
	id.type = NF_SEAL_XATTR;
	ck_assert_int_eq(nf_codec_seal(codec, &id, p, 65537, 0, true, out, 5 << 20, &info, NULL), -E2BIG);
	id.type = NF_SEAL_BLOCK;
	ck_assert_int_eq(nf_codec_seal(codec, &id, p, (4 << 20) + 1, 0, true, out, 5 << 20, &info, NULL), -E2BIG);
	ck_assert_int_eq(nf_codec_seal(codec, &id, p, 4 << 20, 4 << 20, true, out, 5 << 20, &info, NULL), 0);
	id = (struct nf_seal_id){ NF_SEAL_NODE, 0, 256 };
	ck_assert_int_eq(nf_codec_seal(codec, &id, p, 1, 0, true, out, 5 << 20, &info, NULL), -EINVAL);
	for (unsigned t = 0; t < 12; t++) {
		id = (struct nf_seal_id){ t, 0, 0 };
		if (t == 0 || t == NF_SEAL_HEAD || t > NF_SEAL_XATTR)
			ck_assert_int_eq(nf_codec_seal(codec, &id, p, 1, 0, true, out, 5 << 20, &info, NULL), -EINVAL);
	}
	free(p);
	free(out);
}
END_TEST

/* Opens S as something that differs in one thing; must fail and leave only zeros. */
static void refused(struct nf_codec *c, const struct sealed *s, struct nf_seal_id id, uint32_t epoch,
		    uint8_t flags, size_t sealed_len, size_t plain_len)
{
	uint8_t *out = malloc(plain_len + 1);

	memset(out, 0xee, plain_len);
	int r = nf_codec_open(c, &id, epoch, flags, s->info.tag, s->p, sealed_len, out, plain_len);
	ck_assert_int_lt(r, 0);
	for (size_t i = 0; i < plain_len; i++)
		ck_assert_uint_eq(out[i], 0);
	free(out);
}

START_TEST(an_object_opens_only_as_what_it_was_sealed_as)
{
	static const enum nf_seal_type types[] = { NF_SEAL_BLOCK, NF_SEAL_NODE, NF_SEAL_DELTA,
						   NF_SEAL_XATTR };
	struct nf_prng g;
	uint8_t plain[512], out[512];
	static const uint8_t other_volume[16] = { 'v', 'o', 'm' };
	struct nf_ring *other_ring = ring_of(other_volume, 3);
	struct nf_codec *other = nf_codec_get(other_ring);

	nf_prng_seed(&g, 2);
	for (int kind = 0; kind < 2; kind++)
		for (size_t t = 0; t < 4; t++) {
			struct nf_seal_id id = { types[t], 77, 3 };
			(kind ? text : noise)(&g, plain, sizeof plain);
			struct sealed s = seal(&id, plain, sizeof plain, 0);
			uint32_t len = s.info.sealed_len, epoch = s.info.epoch;
			uint8_t flags = s.info.flags;
			ck_assert_uint_eq(flags, kind ? NF_PAYLOAD_ZSTD : 0);
			ck_assert_int_eq(nf_codec_open(codec, &id, epoch, flags, s.info.tag, s.p, len, out, 512), 0);
			for (unsigned as = 0; as < NF_SEAL_NR + 2; as++)
				if (as != id.type)
					refused(codec, &s, (struct nf_seal_id){ as, 77, 3 }, epoch, flags, len, 512);
			if (id.type != NF_SEAL_NODE)
				refused(codec, &s, (struct nf_seal_id){ id.type, 78, 3 }, epoch, flags, len, 512);
			refused(codec, &s, (struct nf_seal_id){ id.type, 77, 2 }, epoch, flags, len, 512);
			refused(codec, &s, (struct nf_seal_id){ id.type, 77, 256 + 3 }, epoch, flags, len, 512);
			refused(codec, &s, id, 4, flags, len, 512);
			refused(codec, &s, id, 5, flags, len, 512);
			refused(codec, &s, id, epoch, flags ^ 1, len, 512);
			refused(codec, &s, id, epoch, flags | 2, len, 512);
			refused(codec, &s, id, epoch, flags, len, 511);
			refused(codec, &s, id, epoch, flags, len, 513);
			refused(other, &s, id, epoch, flags, len, 512);
			s.info.tag[5] ^= 1;
			refused(codec, &s, id, epoch, flags, len, 512);
			free(s.p);
		}
	nf_codec_put(other);
	nf_ring_free(other_ring);
}
END_TEST

START_TEST(every_flipped_bit_and_every_truncation_is_refused)
{
	struct nf_seal_id id = { NF_SEAL_BLOCK, 5, 6 };
	uint8_t plain[120];

	for (int kind = 0; kind < 2; kind++) {
		memset(plain, 'x', sizeof plain);
		if (!kind)
			nf_random(plain, sizeof plain);
		struct sealed s = seal(&id, plain, sizeof plain, 0);
		ck_assert_uint_eq(s.info.flags, kind);
		for (size_t bit = 0; bit < 8 * s.info.sealed_len; bit++) {
			s.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
			/* Also when the reference tells the changed tag. */
			memcpy(s.info.tag, s.p + s.info.sealed_len - 16, 16);
			refused(codec, &s, id, s.info.epoch, s.info.flags, s.info.sealed_len, 120);
			s.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		for (uint32_t n = 0; n < s.info.sealed_len; n++) {
			if (n >= 16)
				memcpy(s.info.tag, s.p + n - 16, 16);
			refused(codec, &s, id, s.info.epoch, s.info.flags, n, 120);
		}
		free(s.p);
	}
}
END_TEST

/* An authentic object with a payload of our choice, made without the codec. */
static struct sealed forge(struct nf_seal_id id, const void *payload, size_t len, uint32_t plain_len,
			   uint8_t flags)
{
	uint8_t master[32], key[32], aad[24 + 17], nonce[24] = { 1 };
	struct sealed s = { .p = malloc(len + 40) };
	static const char *const label[] = { [NF_SEAL_BLOCK] = "foliofs 1 block",
					     [NF_SEAL_NODE] = "foliofs 1 node" };

	memset(master, 3, sizeof master);
	ck_assert_int_eq(nf_hkdf(master, 32, volume, 16, label[id.type], key, 32), 0);
	nf_aad_common(aad, id.type, 7, volume);
	uint8_t *q = aad + 24;
	if (id.type == NF_SEAL_NODE) {
		*q++ = (uint8_t)id.index;
	} else {
		nf_put_le64(q, id.birth);
		nf_put_le32(q + 8, id.index);
		q += 12;
	}
	nf_put_le32(q, plain_len);
	q[4] = flags;
	ck_assert_int_eq(nf_xaes_seal(key, nonce, aad, (size_t)(q + 5 - aad), payload, len, s.p), 0);
	s.info.sealed_len = (uint32_t)len + 40;
	memcpy(s.info.tag, s.p + len + 24, 16);
	return s;
}

static int open_forged(struct nf_seal_id id, const void *payload, size_t len, uint32_t plain_len,
		       uint8_t flags)
{
	struct sealed s = forge(id, payload, len, plain_len, flags);
	uint8_t *out = malloc(plain_len + 1);

	int r = nf_codec_open(codec, &id, 7, flags, s.info.tag, s.p, s.info.sealed_len, out, plain_len);
	free(out);
	free(s.p);
	return r;
}

START_TEST(authentic_payloads_that_break_the_rules_are_refused)
{
	struct nf_seal_id block = { NF_SEAL_BLOCK, 9, 1 }, node = { NF_SEAL_NODE, 0, 1 };
	uint8_t p[4096] = { 0 };
	static const uint8_t big[1 << 20];

	/* The forging itself is right. */
	ck_assert_int_eq(open_forged(block, p, 900, 900, 0), 0);
	ck_assert_int_eq(open_forged(block, p, 928, 900, 0), 0);
	ck_assert_int_eq(open_forged(block, p, 927, 900, 0), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(open_forged(block, p, 960, 900, 0), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(open_forged(block, p, 899, 900, 0), -NF_E_FORMAT_BAD);
	ck_assert_uint_eq(nf_padme(1001), 1024);
	ck_assert_int_eq(open_forged(block, p, 1024, 1001, 0), 0);
	p[1010] = 1;
	ck_assert_int_eq(open_forged(block, p, 1024, 1001, 0), -NF_E_FORMAT_BAD);
	p[1010] = 0;
	ck_assert_int_eq(open_forged(node, p, 1024, 1001, 0), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(open_forged(node, p, 1001, 1001, 0), 0);

	/* A frame that would fill a megabyte. */
	size_t n = ZSTD_compress(p + 4, sizeof p - 4, big, sizeof big, 1);
	ck_assert(!ZSTD_isError(n));
	nf_put_le32(p, (uint32_t)n);
	ck_assert_int_eq(open_forged(node, p, n + 4, 1000, 1), -NF_E_XFORM_DECOMPRESS);
	ck_assert_int_eq(open_forged(node, p, n + 4, 0, 1), -NF_E_XFORM_DECOMPRESS);
	ck_assert_int_eq(open_forged(block, p, nf_padme(n + 4), 1 << 20, 1), 0);
	ck_assert_int_eq(open_forged(block, p, nf_padme(n + 4), (1 << 20) - 1, 1), -NF_E_XFORM_DECOMPRESS);
	ck_assert_int_eq(open_forged(block, p, nf_padme(n + 4), (1 << 20) + 1, 1), -NF_E_XFORM_DECOMPRESS);
	memset(p + 4 + n, 0, 100);
	for (size_t i = n + 4; i < nf_padme(n + 4); i++) {
		p[i] = 1;
		ck_assert_int_eq(open_forged(block, p, nf_padme(n + 4), 1 << 20, 1), -NF_E_FORMAT_BAD);
		p[i] = 0;
	}
	ck_assert_uint_gt(nf_padme(n + 4), n + 4);
	/* One that fills less, lengths that lie, a second frame, no frame. */
	n = ZSTD_compress(p + 4, sizeof p - 4, big, 1000, 1);
	nf_put_le32(p, (uint32_t)n);
	ck_assert_int_eq(open_forged(node, p, n + 4, 1000, 1), 0);
	ck_assert_int_eq(open_forged(node, p, n + 4, 1001, 1), -NF_E_XFORM_DECOMPRESS);
	ck_assert_int_eq(open_forged(node, p, n + 5, 1000, 1), -NF_E_FORMAT_BAD);
	for (uint32_t len = 0; len < 4; len++)
		ck_assert_int_eq(open_forged(node, p, len, 0, 1), -NF_E_FORMAT_BAD);
	nf_put_le32(p, (uint32_t)n + 1);
	ck_assert_int_eq(open_forged(node, p, n + 4, 1000, 1), -NF_E_FORMAT_BAD);
	nf_put_le32(p, UINT32_MAX);
	ck_assert_int_eq(open_forged(node, p, n + 4, 1000, 1), -NF_E_FORMAT_BAD);
	nf_put_le32(p, (uint32_t)n - 1);
	ck_assert_int_eq(open_forged(node, p, n + 3, 1000, 1), -NF_E_XFORM_DECOMPRESS);
	memcpy(p + 4 + n, p + 4, n);
	nf_put_le32(p, (uint32_t)n * 2);
	ck_assert_int_eq(open_forged(node, p, 2 * n + 4, 2000, 1), -NF_E_XFORM_DECOMPRESS);
	nf_put_le32(p, 0);
	ck_assert_int_eq(open_forged(node, p, 4, 0, 1), -NF_E_XFORM_DECOMPRESS);
	/* Too large to be looked at. */
	ck_assert_int_eq(open_forged(node, big, 32769, 32769, 0), -NF_E_FORMAT_BAD);
}
END_TEST

START_TEST(the_associated_data_alone_separates_the_types)
{
	/* Even if two types had one key. */
	struct nf_seal_id id = { NF_SEAL_BLOCK, 9, 1 };
	uint8_t master[32], key[32], aad[24 + 17] = { 0 }, payload[8] = { 1 }, out[8];
	struct sealed s = forge(id, payload, 8, 8, 0);

	memset(master, 3, sizeof master);
	ck_assert_int_eq(nf_hkdf(master, 32, volume, 16, "foliofs 1 block", key, 32), 0);
	nf_put_le64(aad + 24, 9);
	nf_put_le32(aad + 32, 1);
	nf_put_le32(aad + 36, 8);
	for (unsigned t = 0; t < 256; t++) {
		nf_aad_common(aad, t, 7, volume);
		ck_assert_int_eq(nf_xaes_open(key, aad, sizeof aad, s.p, 48, out),
				 t == NF_SEAL_BLOCK ? 0 : -NF_E_XFORM_BAD_TAG);
	}
	free(s.p);
}
END_TEST

START_TEST(raw_objects_are_bound_to_type_epoch_volume_and_the_extra_bytes)
{
	uint8_t plain[50], sealed[90], out[50];
	uint32_t epoch;
	static const uint8_t other_volume[16] = { 0 };
	struct nf_ring *other_ring = ring_of(other_volume, 3);
	struct nf_codec *other = nf_codec_get(other_ring);

	nf_random(plain, sizeof plain);
	for (unsigned t = 0; t < NF_SEAL_NR + 1; t++) {
		int r = nf_codec_seal_raw(codec, t, "extra", 5, plain, 50, sealed, &epoch);
		if (t != NF_SEAL_HEAD && t != NF_SEAL_JOURNAL && t != NF_SEAL_STATE) {
			ck_assert_int_eq(r, -EINVAL);
			continue;
		}
		ck_assert_int_eq(r, 0);
		ck_assert_uint_eq(epoch, 7);
		for (unsigned as = 0; as < NF_SEAL_NR + 1; as++)
			ck_assert((nf_codec_open_raw(codec, as, 7, "extra", 5, sealed, 90, out) == 0) ==
				  (as == t));
		ck_assert_int_eq(nf_codec_open_raw(codec, t, 7, "extra", 5, sealed, 90, out), 0);
		ck_assert_mem_eq(out, plain, 50);
		ck_assert_int_eq(nf_codec_open_raw(codec, t, 7, "extrb", 5, sealed, 90, out), -NF_E_XFORM_BAD_TAG);
		ck_assert_int_eq(nf_codec_open_raw(codec, t, 7, "extra", 4, sealed, 90, out), -NF_E_XFORM_BAD_TAG);
		ck_assert_int_eq(nf_codec_open_raw(codec, t, 4, "extra", 5, sealed, 90, out), -NF_E_XFORM_BAD_TAG);
		ck_assert_int_eq(nf_codec_open_raw(codec, t, 8, "extra", 5, sealed, 90, out), -NF_E_KEY_EPOCH_UNKNOWN);
		ck_assert_int_eq(nf_codec_open_raw(codec, t, 7, "extra", 5, sealed, 89, out), -NF_E_XFORM_BAD_TAG);
		ck_assert_int_eq(nf_codec_open_raw(codec, t, 7, "extra", 5, sealed, 39, out), -NF_E_XFORM_TRUNCATED);
		ck_assert_int_eq(nf_codec_open_raw(other, t, 7, "extra", 5, sealed, 90, out), -NF_E_XFORM_BAD_TAG);
	}
	static const uint8_t long_extra[NF_AAD_MAX];
	ck_assert_int_eq(nf_codec_seal_raw(codec, NF_SEAL_HEAD, long_extra, NF_AAD_MAX - 23, plain, 50, sealed, &epoch), -EINVAL);
	ck_assert_int_eq(nf_codec_seal_raw(codec, NF_SEAL_HEAD, long_extra, NF_AAD_MAX - 24, plain, 50, sealed, &epoch), 0);
	nf_codec_put(other);
	nf_ring_free(other_ring);
}
END_TEST

START_TEST(every_label_is_the_one_of_the_item_table)
{
	static const struct {
		enum nf_seal_type type;
		const char *label;
	} rows[] = { { NF_SEAL_BLOCK, "foliofs 1 block" },   { NF_SEAL_NODE, "foliofs 1 node" },
		     { NF_SEAL_DELTA, "foliofs 1 delta" },   { NF_SEAL_HEAD, "foliofs 1 head" },
		     { NF_SEAL_XATTR, "foliofs 1 xattr" },   { NF_SEAL_JOURNAL, "foliofs 1 journal" },
		     { NF_SEAL_STATE, "foliofs 1 state" } };

	for (size_t i = 0; i < NF_ARRAY_LEN(rows); i++) {
		struct nf_seal_id id = { rows[i].type, UINT64_C(0x0102030405060708), 0x11 };
		uint8_t master[32], key[32], sealed[60], out[20];
		uint32_t epoch = 7;
		/* Associated data, written out after the table. */
		uint8_t aad[60] = { (uint8_t)rows[i].type, 1, 1, 0, 7, 0, 0, 0, 'v', 'o', 'l' };
		static const uint8_t rest[][17] = {
			[NF_SEAL_BLOCK] = { 8, 7, 6, 5, 4, 3, 2, 1, 0x11, 0, 0, 0, 4 },
			[NF_SEAL_NODE] = { 0x11, 4 },
			[NF_SEAL_DELTA] = { 0x11, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 4 },
			[NF_SEAL_XATTR] = { 8, 7, 6, 5, 4, 3, 2, 1, 0x11, 0, 0, 0, 4 },
		};
		size_t aad_len = 24 + (rows[i].type == NF_SEAL_NODE ? 6 : 17);
		struct nf_sealed_info info = { .sealed_len = 44 };
		memset(master, 3, sizeof master);
		ck_assert_int_eq(nf_hkdf(master, 32, volume, 16, rows[i].label, key, 32), 0);
		if (rows[i].type < NF_ARRAY_LEN(rest) && rest[rows[i].type][0]) {
			memcpy(aad + 24, rest[rows[i].type], 17);
			ck_assert_int_eq(nf_codec_seal(codec, &id, "abcd", 4, 4, true, sealed, 60, &info, NULL), 0);
		} else {
			aad_len = 24;
			ck_assert_int_eq(nf_codec_seal_raw(codec, rows[i].type, NULL, 0, "abcd", 4, sealed, &epoch), 0);
		}
		ck_assert_int_eq(nf_xaes_open(key, aad, aad_len, sealed, info.sealed_len, out), 0);
		ck_assert_mem_eq(out, "abcd", 4);
	}
}
END_TEST

START_TEST(padme_gives_the_values_of_its_definition)
{
	static const size_t table[][2] = { { 0, 0 }, { 1, 1 }, { 2, 2 }, { 3, 3 }, { 7, 7 }, { 8, 8 }, { 9, 10 },
		{ 15, 16 }, { 16, 16 }, { 17, 18 }, { 100, 104 }, { 255, 256 }, { 256, 256 }, { 257, 272 },
		{ 900, 928 }, { 1000, 1024 }, { 9999, 10240 }, { 65535, 65536 }, { 65537, 67584 }, { 1000000, 1015808 } };

	for (size_t i = 0; i < NF_ARRAY_LEN(table); i++)
		ck_assert_uint_eq(nf_padme(table[i][0]), table[i][1]);
	for (size_t n = 1; n < 300000; n++) {
		size_t v = nf_padme(n);
		ck_assert(v >= n && (v - n) * 100 <= 12 * n && nf_padme(v) == v && v >= nf_padme(n - 1));
	}
}
END_TEST

START_TEST(the_sample_tells_text_from_noise)
{
	struct nf_prng g;
	uint8_t *p = malloc(1 << 18);

	nf_prng_seed(&g, 3);
	for (size_t len = 1024; len <= 1 << 18; len *= 2) {
		for (int i = 0; i < 20; i++) {
			noise(&g, p, len);
			ck_assert(!nf_looks_compressible(p, len));
		}
		text(&g, p, len);
		ck_assert(nf_looks_compressible(p, len));
		memset(p, 0, len);
		ck_assert(nf_looks_compressible(p, len));
		/* Seven bits of eight used. */
		noise(&g, p, len);
		for (size_t i = 0; i < len; i++)
			p[i] &= 0x7f;
		ck_assert(nf_looks_compressible(p, len));
	}
	free(p);
}
END_TEST

START_TEST(a_ring_seals_under_its_newest_epoch_and_opens_all)
{
	static const uint8_t v[16] = { 1 };
	struct nf_seal_id id = { NF_SEAL_BLOCK, 1, 2 };
	struct nf_ring *r1 = ring_of(v, 1), *all = ring_of(v, NF_EPOCHS_MAX);
	struct nf_codec *c1 = nf_codec_get(r1), *call = nf_codec_get(all);
	uint8_t sealed[200], out[10];
	struct nf_sealed_info info;

	ck_assert_uint_eq(nf_ring_newest(r1), 1);
	ck_assert_uint_eq(nf_ring_newest(all), 3 * 255 + 1);
	ck_assert_mem_eq(nf_ring_volume_id(all), v, 16);
	ck_assert_int_eq(nf_codec_seal(c1, &id, "0123456789", 10, 0, true, sealed, 200, &info, NULL), 0);
	ck_assert_uint_eq(info.epoch, 1);
	ck_assert_int_eq(nf_codec_open(call, &id, 1, info.flags, info.tag, sealed, info.sealed_len, out, 10), 0);
	ck_assert_mem_eq(out, "0123456789", 10);
	ck_assert_int_eq(nf_codec_seal(call, &id, "0123456789", 10, 0, true, sealed, 200, &info, NULL), 0);
	ck_assert_int_eq(nf_codec_open(c1, &id, info.epoch, info.flags, info.tag, sealed, info.sealed_len, out, 10),
			 -NF_E_KEY_EPOCH_UNKNOWN);
	nf_codec_put(c1);
	nf_codec_put(call);
	nf_ring_free(r1);
	nf_ring_free(all);
}
END_TEST

START_TEST(a_ring_takes_newer_epochs_beside_codecs_at_work)
{
	static const uint8_t v[16] = { 1 }, other[16] = { 2 };
	struct nf_ring_epoch e[3] = { { .epoch = 1, .master = { 1 } }, { .epoch = 2, .master = { 2 } }, { .epoch = 7, .master = { 7 } } };
	struct nf_seal_id id = { NF_SEAL_BLOCK, 1, 2 };
	struct nf_sealed_info before, after;
	uint8_t sealed[200], again[200], out[10];
	struct nf_ring *r, *whole;

	ck_assert_int_eq(nf_ring_new(v, e, 1, hash_key, &r), 0);
	ck_assert_int_eq(nf_ring_new(v, e, 3, hash_key, &whole), 0);
	struct nf_codec *c = nf_codec_get(r), *w = nf_codec_get(whole);
	ck_assert_int_eq(nf_codec_seal(c, &id, "0123456789", 10, 0, true, sealed, 200, &before, NULL), 0);
	ck_assert_int_eq(nf_ring_extend(r, other, e, 3, hash_key), -NF_E_HEADER_FOREIGN);
	ck_assert_int_eq(nf_ring_extend(r, v, e, 3, other), -NF_E_HEADER_FOREIGN);
	ck_assert_int_eq(nf_ring_extend(r, v, e, 0, hash_key), -NF_E_FORMAT_BAD);
	ck_assert_uint_eq(nf_ring_newest(r), 1);
	ck_assert_int_eq(nf_ring_extend(r, v, e, 3, hash_key), 0);
	/* What it has already changes nothing. */
	ck_assert_int_eq(nf_ring_extend(r, v, e, 2, hash_key), 0);
	ck_assert_uint_eq(nf_ring_newest(r), 7);
	ck_assert_int_eq(nf_codec_open(c, &id, 1, before.flags, before.tag, sealed, before.sealed_len, out, 10), 0);
	ck_assert_int_eq(nf_codec_seal(c, &id, "0123456789", 10, 0, true, again, 200, &after, NULL), 0);
	ck_assert_uint_eq(after.epoch, 7);
	memset(out, 0, sizeof out);
	ck_assert_int_eq(nf_codec_open(w, &id, 7, after.flags, after.tag, again, after.sealed_len, out, 10), 0);
	ck_assert_mem_eq(out, "0123456789", 10);
	nf_codec_put(c);
	nf_codec_put(w);
	nf_ring_free(r);
	nf_ring_free(whole);
}
END_TEST

START_TEST(a_ring_that_does_not_ascend_is_refused)
{
	struct nf_ring_epoch e[3] = { { .epoch = 1 }, { .epoch = 2 }, { .epoch = 2 } };
	struct nf_ring *r = NULL;

	ck_assert_int_eq(nf_ring_new(volume, e, 0, hash_key, &r), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(nf_ring_new(volume, e, 3, hash_key, &r), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(nf_ring_new(volume, e, NF_EPOCHS_MAX + 1, hash_key, &r), -NF_E_FORMAT_BAD);
	e[0].epoch = 0;
	ck_assert_int_eq(nf_ring_new(volume, e, 2, hash_key, &r), -NF_E_FORMAT_BAD);
	ck_assert_ptr_null(r);
	nf_ring_free(NULL);
}
END_TEST

START_TEST(name_hashes_are_62_bits_and_never_a_reserved_cookie)
{
	char name[16];

#ifndef NF_SMALL_HASH
	/* SipHash's published answer for 15 bytes 00..0e under this key. */
	ck_assert_uint_eq(nf_ring_name_hash(ring, "\0\1\2\3\4\5\6\7\10\11\12\13\14\15\16", 15),
			  UINT64_C(0xa129ca6149be45e5) >> 2);
#endif
	for (int i = 0; i < 2000; i++) {
		int n = snprintf(name, sizeof name, "file %d", i);
		uint64_t h = nf_ring_name_hash(ring, name, (size_t)n);
		ck_assert(h >= 3 && h < UINT64_C(1) << 62);
#ifdef NF_SMALL_HASH
		ck_assert_uint_lt(h, 64);
#endif
	}
}
END_TEST

static void *seal_and_open(void *arg)
{
	struct nf_ring *r = arg;
	uint8_t plain[3000], sealed[4000], out[3000];
	struct nf_sealed_info info;

	for (int i = 0; i < 200; i++) {
		struct nf_seal_id id = { NF_SEAL_BLOCK, (uint64_t)i, 1 };
		struct nf_codec *c = nf_codec_get(r), *d = nf_codec_get(r);
		memset(plain, i, sizeof plain);
		ck_assert_int_eq(nf_codec_seal(c, &id, plain, 3000, 0, i & 1, sealed, 4000, &info, NULL), 0);
		ck_assert_int_eq(nf_codec_open(d, &id, info.epoch, info.flags, info.tag, sealed,
					       info.sealed_len, out, 3000), 0);
		ck_assert(memcmp(plain, out, 3000) == 0);
		nf_codec_put(d);
		nf_codec_put(c);
	}
	return NULL;
}

START_TEST(threads_share_a_ring)
{
	pthread_t t[6];

	for (size_t i = 0; i < NF_ARRAY_LEN(t); i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, seal_and_open, ring), 0);
	for (size_t i = 0; i < NF_ARRAY_LEN(t); i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "codec", 60);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, random_objects_of_every_type_come_back);
	tcase_add_test(tc, sealed_lengths_follow_the_payload_rules);
	tcase_add_test(tc, objects_over_the_limit_of_their_type_are_not_sealed);
	tcase_add_test(tc, an_object_opens_only_as_what_it_was_sealed_as);
	tcase_add_test(tc, every_flipped_bit_and_every_truncation_is_refused);
	tcase_add_test(tc, authentic_payloads_that_break_the_rules_are_refused);
	tcase_add_test(tc, the_associated_data_alone_separates_the_types);
	tcase_add_test(tc, raw_objects_are_bound_to_type_epoch_volume_and_the_extra_bytes);
	tcase_add_test(tc, every_label_is_the_one_of_the_item_table);
	tcase_add_test(tc, padme_gives_the_values_of_its_definition);
	tcase_add_test(tc, the_sample_tells_text_from_noise);
	tcase_add_test(tc, a_ring_seals_under_its_newest_epoch_and_opens_all);
	tcase_add_test(tc, a_ring_takes_newer_epochs_beside_codecs_at_work);
	tcase_add_test(tc, a_ring_that_does_not_ascend_is_refused);
	tcase_add_test(tc, name_hashes_are_62_bits_and_never_a_reserved_cookie);
	tcase_add_test(tc, threads_share_a_ring);
}

NF_SUITE("codec/codec")
