#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "suite.h"
#include "vault/header.h"

#include <stdio.h>
#include <string.h>

enum { SLOT = 172, SLOTS_AT = 40 };

static const struct nf_kdf_params cheap = { .log2_n = 15, .r = 1, .p = 1 };

static struct nf_secret passphrase(const char *s)
{
	return (struct nf_secret){ NF_SLOT_PASSPHRASE, s, strlen(s) };
}

static void add(struct nf_header *h, struct nf_secret s, const char *label, uint8_t *id)
{
	ck_assert_int_eq(nf_header_slot_add(h, &s, &cheap, label, id), 0);
}

static struct nf_header *one(const char *pass)
{
	struct nf_header *h;

	ck_assert_int_eq(nf_header_new(&h), 0);
	add(h, passphrase(pass), "first", NULL);
	return h;
}

static struct nf_header *reread(const struct nf_header *h)
{
	void *p;
	size_t len;
	struct nf_header *out;

	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	ck_assert_int_eq(nf_header_decode(p, len, &out), 0);
	free(p);
	return out;
}

/* A second copy that is unlocked too. */
static struct nf_header *copy(const struct nf_header *h)
{
	struct nf_header *c = reread(h);
	uint8_t root[32];

	nf_header_root_key(h, root);
	ck_assert_int_eq(nf_header_unlock_root(c, root), 0);
	return c;
}

static int unlock(struct nf_header *h, struct nf_secret s, uint8_t *id)
{
	return nf_header_unlock(h, &s, id);
}

START_TEST(a_header_opens_with_each_of_its_secrets)
{
	uint8_t keyfile[100], recovery[32], ids[3][16], id[16], root[32], root2[32];
	struct nf_header *h, *c;
	struct nf_slot_info info[4];

	nf_random(keyfile, sizeof keyfile);
	nf_random(recovery, sizeof recovery);
	struct nf_secret s[3] = { passphrase("correct horse"),
				  { NF_SLOT_KEYFILE, keyfile, sizeof keyfile },
				  { NF_SLOT_RECOVERY, recovery, 32 } };
	ck_assert_int_eq(nf_header_new(&h), 0);
	for (int i = 0; i < 3; i++)
		add(h, s[i], i == 1 ? "" : "some label", ids[i]);
	nf_header_root_key(h, root);
	for (int i = 0; i < 3; i++) {
		c = reread(h);
		ck_assert_uint_eq(nf_header_slots(c, info, 4), 3);
		ck_assert_str_eq(info[0].label, "");
		ck_assert_int_eq(unlock(c, s[i], id), 0);
		ck_assert_mem_eq(id, ids[i], 16);
		nf_header_root_key(c, root2);
		ck_assert_mem_eq(root, root2, 32);
		ck_assert_mem_eq(nf_header_volume_id(c), nf_header_volume_id(h), 16);
		ck_assert_uint_eq(nf_header_generation(c), 1);
		ck_assert_uint_eq(nf_header_slots(c, info, 4), 3);
		ck_assert_str_eq(info[0].label, "some label");
		ck_assert_str_eq(info[1].label, "");
		ck_assert_int_eq(info[2].kind, NF_SLOT_RECOVERY);
		ck_assert_uint_eq(info[0].log2_n, 15);
		ck_assert(nf_header_same_slots(c, h));
		ck_assert_int_eq(unlock(c, s[i], id), -EALREADY);
		nf_header_free(c);
	}
	nf_header_free(h);
	nf_header_free(NULL);
}
END_TEST

START_TEST(the_ring_survives_and_seals_for_the_same_volume)
{
	struct nf_header *h = one("p"), *c = copy(h);
	struct nf_ring *r1, *r2;
	uint8_t sealed[60], out[20];
	uint32_t epoch;

	ck_assert_int_eq(nf_header_ring(h, &r1), 0);
	ck_assert_int_eq(nf_header_ring(c, &r2), 0);
	struct nf_codec *c1 = nf_codec_get(r1), *c2 = nf_codec_get(r2);
	ck_assert_int_eq(nf_codec_seal_raw(c1, NF_SEAL_HEAD, "x", 1, "0123456789", 10, sealed, &epoch), 0);
	ck_assert_uint_eq(epoch, 1);
	ck_assert_int_eq(nf_codec_open_raw(c2, NF_SEAL_HEAD, 1, "x", 1, sealed, 50, out), 0);
	ck_assert_uint_eq(nf_ring_name_hash(r1, "name", 4), nf_ring_name_hash(r2, "name", 4));
	nf_codec_put(c1);
	nf_codec_put(c2);
	nf_ring_free(r1);
	nf_ring_free(r2);
	nf_header_free(c);
	nf_header_free(h);
}
END_TEST

START_TEST(wrong_secrets_do_not_open)
{
	struct nf_header *h = one("right"), *c;
	uint8_t bytes[32] = { 'r' };
	struct nf_secret wrong[] = { passphrase("wrong"), passphrase("right "), passphrase(""),
				     { NF_SLOT_KEYFILE, bytes, 32 }, { NF_SLOT_KEYFILE, "right", 5 },
				     { NF_SLOT_RECOVERY, bytes, 32 }, { 0, "right", 5 } };

	add(h, (struct nf_secret){ NF_SLOT_KEYFILE, "another file of at least 32 bytes", 33 }, "", NULL);
	c = reread(h);
	for (size_t i = 0; i < NF_ARRAY_LEN(wrong); i++)
		ck_assert_int_eq(unlock(c, wrong[i], NULL), -NF_E_KEY_WRONG);
	ck_assert_int_eq(nf_header_unlock_root(c, bytes), -NF_E_XFORM_BAD_TAG);
	/* A key file's bytes given as a passphrase are another secret. */
	ck_assert_int_eq(unlock(c, passphrase("another file of at least 32 bytes"), NULL), -NF_E_KEY_WRONG);
	ck_assert_int_eq(unlock(c, passphrase("right"), NULL), 0);
	nf_header_free(c);
	nf_header_free(h);
}
END_TEST

START_TEST(secrets_and_labels_out_of_bounds_are_not_added)
{
	static char big[65537];
	struct nf_header *h = one("p");
	char label[300];
	struct nf_secret s[] = { { NF_SLOT_PASSPHRASE, "", 0 },    { NF_SLOT_PASSPHRASE, big, 65537 },
				 { NF_SLOT_KEYFILE, big, 31 },     { NF_SLOT_KEYFILE, big, 65537 },
				 { NF_SLOT_RECOVERY, big, 31 },    { NF_SLOT_RECOVERY, big, 33 },
				 { 4, big, 32 } };
	struct nf_kdf_params dear = { .log2_n = 20, .r = 9 };

	for (size_t i = 0; i < NF_ARRAY_LEN(s); i++)
		ck_assert_int_eq(nf_header_slot_add(h, &s[i], &cheap, "", NULL), -EINVAL);
	memset(label, 'l', sizeof label);
	label[256] = 0;
	s[0] = passphrase("q");
	ck_assert_int_eq(nf_header_slot_add(h, &s[0], &cheap, label, NULL), -EINVAL);
	ck_assert_int_eq(nf_header_slot_add(h, &s[0], &dear, "", NULL), -NF_E_KDF_LIMIT);
	label[255] = 0;
	add(h, s[0], label, NULL);
	struct nf_header *c = copy(h);
	struct nf_slot_info info[2];
	ck_assert_uint_eq(nf_header_slots(c, info, 2), 2);
	ck_assert_str_eq(info[1].label, label);
	nf_header_free(c);
	nf_header_free(h);
}
END_TEST

START_TEST(at_most_eight_slots_live_and_one_always_does)
{
	struct nf_header *h = one("p0"), *c;
	uint8_t ids[64][16], key[32] = { 0 };
	struct nf_slot_info info[NF_SLOTS_MAX];
	struct nf_secret s = { NF_SLOT_RECOVERY, key, 32 };

	ck_assert_uint_eq(nf_header_slots(h, info, 1), 1);
	for (int i = 0; i < 7; i++)
		add(h, s, "x", ids[i]);
	ck_assert_int_eq(nf_header_slot_add(h, &s, NULL, "", NULL), -ENOSPC);
	/* Tombstones fill the table, the oldest are forgotten, the live ones stay. */
	for (int i = 0; i < 40; i++) {
		nf_clock_fake_set((uint64_t)(2000 + i) * NF_NS_PER_S);
		ck_assert_int_eq(nf_header_slot_remove(h, ids[i]), 0);
		ck_assert_int_eq(nf_header_slot_remove(h, ids[i]), -ENOENT);
		add(h, s, "x", ids[7 + i]);
	}
	nf_clock_fake_end();
	ck_assert_uint_eq(nf_header_slots(h, info, 0), NF_SLOTS_MAX);
	c = copy(h);
	ck_assert_uint_eq(nf_header_slots(c, info, NF_SLOTS_MAX), NF_SLOTS_MAX);
	size_t live = 0;
	for (int i = 0; i < NF_SLOTS_MAX; i++)
		live += !info[i].tombstone;
	ck_assert_uint_eq(live, 8);
	nf_header_free(c);
	for (int i = 40; i < 47; i++)
		ck_assert_int_eq(nf_header_slot_remove(h, ids[i]), 0);
	ck_assert_uint_eq(nf_header_slots(h, info, NF_SLOTS_MAX), NF_SLOTS_MAX);
	for (int i = 0; i < NF_SLOTS_MAX; i++)
		if (!info[i].tombstone)
			ck_assert_int_eq(nf_header_slot_remove(h, info[i].id), -EBUSY);
	c = reread(h);
	ck_assert_int_eq(unlock(c, s, NULL), -NF_E_KEY_WRONG);
	ck_assert_int_eq(unlock(c, passphrase("p0"), NULL), 0);
	nf_header_free(c);
	nf_header_free(h);
}
END_TEST

START_TEST(every_flipped_bit_is_noticed)
{
	struct nf_header *h = one("p"), *c;
	uint8_t root[32], key[32] = { 1 }, id[16];
	void *p;
	size_t len;

	add(h, (struct nf_secret){ NF_SLOT_RECOVERY, key, 32 }, "r", id);
	add(h, (struct nf_secret){ NF_SLOT_RECOVERY, key, 32 }, "", NULL);
	ck_assert_int_eq(nf_header_slot_remove(h, id), 0);
	nf_header_root_key(h, root);
	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	uint8_t *b = p;
	for (size_t bit = 0; bit < len * 8; bit++) {
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
		c = NULL;
		int r = nf_header_decode(b, len, &c);
		if (!r)
			r = nf_header_unlock_root(c, root);
		ck_assert_int_lt(r, 0);
		nf_header_free(c);
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t n = 0; n < len; n++)
		ck_assert_int_eq(nf_header_decode(b, n, &c), -NF_E_FORMAT_BAD);
	b = realloc(p, len + 1);
	b[len] = 0;
	ck_assert_int_eq(nf_header_decode(b, len + 1, &c), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(nf_header_decode(b, len, &c), 0);
	ck_assert_int_eq(nf_header_unlock_root(c, root), 0);
	nf_header_free(c);
	free(b);
	nf_header_free(h);
}
END_TEST

START_TEST(a_slot_is_bound_to_its_fields_and_its_volume)
{
	/* The commitment does not cover id and created; the wrapping does. */
	struct nf_header *h = one("p"), *c;
	void *p;
	size_t len;
	static const size_t at[] = { SLOTS_AT + 3, SLOTS_AT + 60, SLOTS_AT + 101, SLOTS_AT + 171 };

	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	uint8_t *b = p;
	for (size_t i = 0; i < NF_ARRAY_LEN(at); i++) {
		b[at[i]] ^= 1;
		ck_assert_int_eq(nf_header_decode(b, len, &c), 0);
		ck_assert_int_eq(unlock(c, passphrase("p"), NULL), -NF_E_XFORM_BAD_TAG);
		nf_header_free(c);
		b[at[i]] ^= 1;
	}
	/* Salt, cost, volume id, commitment: the slot no longer fits. */
	static const size_t miss[] = { SLOTS_AT + 28, SLOTS_AT + 24, 12, SLOTS_AT + 68 };
	for (size_t i = 0; i < NF_ARRAY_LEN(miss); i++) {
		b[miss[i]] ^= 2;
		ck_assert_int_eq(nf_header_decode(b, len, &c), 0);
		ck_assert_int_eq(unlock(c, passphrase("p"), NULL), -NF_E_KEY_WRONG);
		nf_header_free(c);
		b[miss[i]] ^= 2;
	}
	free(p);
	nf_header_free(h);
}
END_TEST

START_TEST(hostile_kdf_costs_are_refused_before_they_run)
{
	struct nf_header *h = one("p"), *c;
	void *p;
	size_t len;
	static const struct {
		uint8_t log2_n;
		uint32_t r, p;
	} bad[] = { { 14, 8, 1 },  { 21, 8, 1 }, { 64, 8, 1 }, { 20, 16, 1 }, { 15, 0, 1 }, { 15, 33, 1 },
		    { 15, 8, 0 },  { 15, 8, 5 }, { 15, UINT32_MAX, 1 }, { 20, 8, UINT32_MAX } };

	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	uint8_t *s = (uint8_t *)p + SLOTS_AT;
	for (size_t i = 0; i < NF_ARRAY_LEN(bad); i++) {
		s[19] = bad[i].log2_n;
		nf_put_le32(s + 20, bad[i].r);
		nf_put_le32(s + 24, bad[i].p);
		ck_assert_int_eq(nf_header_decode(p, len, &c), -NF_E_KDF_LIMIT);
	}
	s[19] = 15;
	nf_put_le32(s + 20, 1);
	nf_put_le32(s + 24, 1);
	s[18] = 2;
	ck_assert_int_eq(nf_header_decode(p, len, &c), -NF_E_FORMAT_UNKNOWN);
	s[18] = 0;
	ck_assert_int_eq(nf_header_decode(p, len, &c), -NF_E_FORMAT_UNKNOWN);
	s[18] = 1;
	s[16] = 2; /* a key file that wants scrypt */
	ck_assert_int_eq(nf_header_decode(p, len, &c), -NF_E_FORMAT_BAD);
	s[16] = 4;
	ck_assert_int_eq(nf_header_decode(p, len, &c), -NF_E_FORMAT_BAD);
	s[16] = 1;
	s[17] = 2;
	ck_assert_int_eq(nf_header_decode(p, len, &c), -NF_E_FORMAT_BAD);
	s[17] = 1; /* a tombstone that is not empty */
	ck_assert_int_eq(nf_header_decode(p, len, &c), -NF_E_FORMAT_BAD);
	s[17] = 0;
	ck_assert_int_eq(nf_header_decode(p, len, &c), 0);
	nf_header_free(c);
	free(p);
	nf_header_free(h);
}
END_TEST

START_TEST(counts_lengths_and_versions_that_lie_are_refused)
{
	struct nf_header *h = one("p"), *c;
	void *p;
	size_t len;
	static const struct {
		size_t at;
		uint8_t value;
		int error;
	} bad[] = { { 0, 'f', -NF_E_FORMAT_BAD },      { 7, 2, -NF_E_FORMAT_BAD },  { 8, 2, -NF_E_FORMAT_UNKNOWN },
		    { 10, 2, -NF_E_FORMAT_UNKNOWN },   { 28, 0, -NF_E_FORMAT_BAD }, { 32, 1, -NF_E_FORMAT_BAD },
		    { 36, 33, -NF_E_FORMAT_BAD },      { 36, 255, -NF_E_FORMAT_BAD }, { 36, 0, -NF_E_FORMAT_BAD },
		    { 37, 1, -NF_E_FORMAT_BAD },       { 38, 1, -NF_E_FORMAT_BAD }, { 39, 1, -NF_E_FORMAT_BAD },
		    { SLOTS_AT + SLOT, 0, -NF_E_FORMAT_BAD },
		    { SLOTS_AT + SLOT + 3, 0xff, -NF_E_FORMAT_BAD } };

	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	uint8_t *b = p;
	for (size_t i = 0; i < NF_ARRAY_LEN(bad); i++) {
		uint8_t was = b[bad[i].at];
		b[bad[i].at] = bad[i].value;
		ck_assert_int_eq(nf_header_decode(b, len, &c), bad[i].error);
		b[bad[i].at] = was;
	}
	free(p);
	/* Two slots with one id. */
	add(h, passphrase("q"), "", NULL);
	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	memcpy((uint8_t *)p + SLOTS_AT + SLOT, (uint8_t *)p + SLOTS_AT, 16);
	ck_assert_int_eq(nf_header_decode(p, len, &c), -NF_E_FORMAT_BAD);
	free(p);
	nf_header_free(h);
}
END_TEST

START_TEST(nine_live_slots_are_refused)
{
	struct nf_header *h = one("p"), *c;
	uint8_t key[32] = { 0 }, grown[40 + 9 * SLOT + 300];
	void *p;
	size_t len;

	for (int i = 0; i < 7; i++)
		add(h, (struct nf_secret){ NF_SLOT_RECOVERY, key, 32 }, "", NULL);
	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	ck_assert_int_eq(nf_header_decode(p, len, &c), 0);
	nf_header_free(c);
	memcpy(grown, p, SLOTS_AT + SLOT);
	memcpy(grown + SLOTS_AT + SLOT, (uint8_t *)p + SLOTS_AT, len - SLOTS_AT);
	grown[SLOTS_AT] ^= 1;
	grown[36] = 9;
	ck_assert_int_eq(nf_header_decode(grown, len + SLOT, &c), -NF_E_FORMAT_BAD);
	free(p);
	nf_header_free(h);
}
END_TEST

START_TEST(a_header_nobody_could_open_is_not_encoded)
{
	struct nf_header *h;
	void *p;
	size_t len;

	ck_assert_int_eq(nf_header_new(&h), 0);
	ck_assert_int_eq(nf_header_encode(h, &p, &len), -EINVAL);
	nf_header_free(h);
}
END_TEST

START_TEST(an_old_generation_cannot_be_passed_off_as_a_new_one)
{
	struct nf_header *h = one("p"), *c;
	uint8_t root[32];
	void *p;
	size_t len;

	nf_header_root_key(h, root);
	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	((uint8_t *)p)[28] = 2;
	ck_assert_int_eq(nf_header_decode(p, len, &c), 0);
	ck_assert_uint_eq(nf_header_generation(c), 2);
	ck_assert_int_eq(nf_header_unlock_root(c, root), -NF_E_XFORM_BAD_TAG);
	nf_header_free(c);
	free(p);
	nf_header_set_generation(h, 7);
	c = copy(h);
	ck_assert_uint_eq(nf_header_generation(c), 7);
	nf_header_free(c);
	nf_header_free(h);
}
END_TEST

START_TEST(merging_is_the_same_from_both_sides)
{
	struct nf_header *base = one("p"), *a, *b, *ab, *ba;
	uint8_t key[32] = { 5 }, gone[16], extra[16];
	struct nf_secret s = { NF_SLOT_RECOVERY, key, 32 };
	struct nf_slot_info info[NF_SLOTS_MAX];

	add(base, s, "to go", gone);
	a = copy(base);
	b = copy(base);
	ck_assert_int_eq(nf_header_slot_remove(a, gone), 0);
	add(a, s, "of a", NULL);
	add(b, s, "of b", extra);
	ab = copy(a);
	ba = copy(b);
	ck_assert(!nf_header_same_slots(a, b));
	ck_assert_int_eq(nf_header_merge(ab, b), 0);
	ck_assert_int_eq(nf_header_merge(ba, a), 0);
	ck_assert(nf_header_same_slots(ab, ba));
	ck_assert_uint_eq(nf_header_slots(ab, info, NF_SLOTS_MAX), 4);
	size_t live = 0;
	for (int i = 0; i < 4; i++) {
		live += !info[i].tombstone;
		if (memcmp(info[i].id, gone, 16) == 0)
			ck_assert(info[i].tombstone && !info[i].label[0]);
		if (memcmp(info[i].id, extra, 16) == 0)
			ck_assert_str_eq(info[i].label, "of b");
	}
	ck_assert_uint_eq(live, 3);
	/* Merging again changes nothing. */
	ck_assert_int_eq(nf_header_merge(ab, ba), 0);
	ck_assert(nf_header_same_slots(ab, ba));
	nf_header_free(ba);
	nf_header_free(ab);
	nf_header_free(a);
	nf_header_free(b);
	nf_header_free(base);
}
END_TEST

START_TEST(a_merge_of_full_headers_keeps_the_eight_oldest)
{
	struct nf_header *base, *a, *b, *ab, *ba;
	uint8_t key[32] = { 5 };
	struct nf_secret s = { NF_SLOT_RECOVERY, key, 32 };
	struct nf_slot_info info[NF_SLOTS_MAX];

	nf_clock_fake_set(1000 * NF_NS_PER_S);
	base = one("p");
	for (int i = 0; i < 6; i++)
		add(base, s, "", NULL);
	a = copy(base);
	b = copy(base);
	nf_clock_fake_set(3000 * NF_NS_PER_S);
	add(a, s, "late", NULL);
	nf_clock_fake_set(2000 * NF_NS_PER_S);
	add(b, s, "early", NULL);
	nf_clock_fake_end();
	ab = copy(a);
	ba = copy(b);
	ck_assert_int_eq(nf_header_merge(ab, b), 0);
	ck_assert_int_eq(nf_header_merge(ba, a), 0);
	ck_assert(nf_header_same_slots(ab, ba));
	ck_assert_uint_eq(nf_header_slots(ab, info, NF_SLOTS_MAX), 9);
	ck_assert_str_eq(info[7].label, "early");
	ck_assert(info[8].tombstone && info[8].created_s == 3000);
	nf_header_free(reread(ab));
	nf_header_free(ba);
	nf_header_free(ab);
	nf_header_free(a);
	nf_header_free(b);
	nf_header_free(base);
}
END_TEST

START_TEST(headers_of_other_vaults_are_not_merged)
{
	struct nf_header *a = one("p"), *b = one("p"), *c = copy(a);

	ck_assert_int_eq(nf_header_merge(a, b), -NF_E_HEADER_FOREIGN);
	ck_assert_int_eq(nf_header_rekey(c, NULL), 0);
	ck_assert_int_eq(nf_header_merge(a, c), -NF_E_HEADER_FOREIGN);
	nf_header_free(a);
	nf_header_free(b);
	nf_header_free(c);
}
END_TEST

START_TEST(rekey_makes_a_root_key_an_epoch_and_lets_old_secrets_go)
{
	struct nf_header *h = one("old"), *c;
	uint8_t before[32], after[32];
	struct nf_ring *r;

	ck_assert_int_eq(nf_header_commitment(h, before), 0);
	ck_assert_int_eq(nf_header_rekey(h, NULL), 0);
	add(h, passphrase("new"), "n", NULL);
	ck_assert_int_eq(nf_header_commitment(h, after), 0);
	ck_assert(memcmp(before, after, 32) != 0);
	c = reread(h);
	ck_assert_int_eq(unlock(c, passphrase("old"), NULL), -NF_E_KEY_WRONG);
	ck_assert_int_eq(unlock(c, passphrase("new"), NULL), 0);
	ck_assert_int_eq(nf_header_ring(c, &r), 0);
	ck_assert_uint_eq(nf_ring_newest(r), 2);
	nf_ring_free(r);
	for (int i = 2; i < NF_EPOCHS_MAX; i++)
		ck_assert_int_eq(nf_header_rekey(c, NULL), 0);
	ck_assert_int_eq(nf_header_rekey(c, NULL), -ENOSPC);
	nf_header_free(h);
	add(c, passphrase("last"), "", NULL);
	h = copy(c);
	ck_assert_int_eq(nf_header_ring(h, &r), 0);
	ck_assert_uint_eq(nf_ring_newest(r), NF_EPOCHS_MAX);
	nf_ring_free(r);
	nf_header_free(c);
	nf_header_free(h);
}
END_TEST

START_TEST(a_slot_that_rekey_keeps_opens_by_the_key_it_had_and_by_its_secret)
{
	struct nf_header *h = one("old"), *c, *d;
	struct nf_slot_key key, none = { { 1 } };
	uint8_t id[16], old_root[32], new_root[32], other[16];
	struct nf_slot_info s[NF_SLOTS_MAX];

	add(h, passphrase("other"), "o", other);
	c = reread(h);
	/* By its root key it has no slot's. */
	nf_header_root_key(h, old_root);
	ck_assert_int_eq(nf_header_unlock_root(c, old_root), 0);
	ck_assert(!nf_header_slot_key(c, &key));
	ck_assert_int_eq(nf_header_rekey(c, other), -ENOENT);
	nf_header_free(c);
	c = reread(h);
	ck_assert_int_eq(unlock(c, passphrase("old"), id), 0);
	ck_assert(nf_header_slot_key(c, &key));
	ck_assert(nf_header_has_slot(c, &key) && !nf_header_has_slot(c, &none));
	/* Not that of another slot, and then nothing is changed. */
	ck_assert_int_eq(nf_header_rekey(c, other), -NF_E_KEY_WRONG);
	nf_header_root_key(c, new_root);
	ck_assert_mem_eq(new_root, old_root, 32);
	ck_assert_uint_eq(nf_header_epoch(c), 1);
	ck_assert_int_eq(nf_header_rekey(c, id), 0);
	nf_header_root_key(c, new_root);
	ck_assert_mem_ne(new_root, old_root, 32);
	ck_assert_uint_eq(nf_header_slots(c, s, NF_SLOTS_MAX), 3);
	ck_assert(s[0].tombstone && s[1].tombstone && !s[2].tombstone);
	ck_assert_mem_ne(s[2].id, id, 16);
	d = reread(c);
	ck_assert_int_eq(nf_header_unlock_slot(d, &none), -NF_E_KEY_WRONG);
	ck_assert_int_eq(nf_header_unlock_slot(d, &key), 0);
	ck_assert_uint_eq(nf_header_epoch(d), 2);
	ck_assert_int_eq(nf_header_unlock_slot(d, &key), -EALREADY);
	nf_header_free(d);
	d = reread(c);
	ck_assert_int_eq(unlock(d, passphrase("other"), NULL), -NF_E_KEY_WRONG);
	ck_assert_int_eq(unlock(d, passphrase("old"), NULL), 0);
	nf_header_free(d);
	/* A slot made anew has another key, for the same secret too. */
	ck_assert_int_eq(nf_header_rekey(c, NULL), 0);
	add(c, passphrase("old"), "", NULL);
	d = reread(c);
	ck_assert_int_eq(nf_header_unlock_slot(d, &key), -NF_E_KEY_WRONG);
	nf_header_free(d);
	nf_header_free(c);
	nf_header_free(h);
}
END_TEST

START_TEST(the_greatest_header_fits_the_limit)
{
	struct nf_header *h = one("p"), *c;
	uint8_t key[32] = { 0 }, id[16];
	struct nf_secret s = { NF_SLOT_RECOVERY, key, 32 };
	char label[256];
	void *p;
	size_t len;

	memset(label, 'x', 255);
	label[255] = 0;
	for (int i = 1; i < NF_EPOCHS_MAX; i++)
		ck_assert_int_eq(nf_header_rekey(h, NULL), 0);
	add(h, s, label, NULL);
	for (int i = 0; i < 40; i++) {
		add(h, s, label, id);
		ck_assert_int_eq(nf_header_slot_remove(h, id), 0);
	}
	for (int i = 0; i < 7; i++)
		add(h, s, label, NULL);
	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	ck_assert_uint_le(len, NF_HEADER_BYTES_MAX);
	free(p);
	c = copy(h);
	nf_header_free(c);
	nf_header_free(h);
}
END_TEST

START_TEST(the_text_shows_slots_and_no_key)
{
	nf_auto(nf_text_deinit) struct nf_text t = NF_TEXT_INIT, hex = NF_TEXT_INIT;
	struct nf_header *h = one("p");
	uint8_t root[32];

	nf_header_root_key(h, root);
	nf_text_hex(&hex, root, 32);
	nf_header_to_text(h, &t);
	ck_assert_ptr_nonnull(strstr(nf_text_str(&t), "generation=1 unlocked epochs=1"));
	ck_assert_ptr_nonnull(strstr(nf_text_str(&t), "kind=passphrase label=first"));
	ck_assert_ptr_null(strstr(nf_text_str(&t), nf_text_str(&hex)));
	nf_header_free(h);
}
END_TEST

START_TEST(a_recovery_key_survives_being_written_down)
{
	uint8_t key[32], back[32];
	char text[NF_RECOVERY_TEXT_BYTES], typed[200];

	for (int i = 0; i < 32; i++)
		key[i] = (uint8_t)i;
	ck_assert_int_eq(nf_recovery_format(key, text), 0);
	/* Made with another base32 and SHA-256. */
	ck_assert_str_eq(text, "AAAQEAY-EAUDAOC-AJBIFQY-DIOB4IB-CEQTCQK-RMFYYDE-NBWHA5D-YPWGDON");
	ck_assert_int_eq(nf_recovery_parse(text, back), 0);
	ck_assert_mem_eq(key, back, 32);
	size_t n = 0;
	for (size_t i = 0; text[i]; i++) {
		if (text[i] == '-')
			continue;
		typed[n++] = (char)(i & 1 || text[i] < 'A' ? text[i] : text[i] | 32);
		if (i % 5 == 0)
			typed[n++] = ' ';
	}
	typed[n] = 0;
	ck_assert_int_eq(nf_recovery_parse(typed, back), 0);
	/* One wrong character, one swapped pair, one too many or too few. */
	for (size_t i = 0; text[i]; i++) {
		if (text[i] == '-')
			continue;
		char was = text[i];
		text[i] = was == 'Q' ? 'R' : 'Q';
		ck_assert_int_eq(nf_recovery_parse(text, back), -NF_E_KEY_WRONG);
		text[i] = '1';
		ck_assert_int_eq(nf_recovery_parse(text, back), -NF_E_KEY_WRONG);
		text[i] = was;
	}
	snprintf(typed, sizeof typed, "%sA", text);
	ck_assert_int_eq(nf_recovery_parse(typed, back), -NF_E_KEY_WRONG);
	typed[strlen(text) - 1] = 0;
	ck_assert_int_eq(nf_recovery_parse(typed, back), -NF_E_KEY_WRONG);
	ck_assert_int_eq(nf_recovery_parse("", back), -NF_E_KEY_WRONG);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "header", 60);

	tcase_add_test(tc, a_header_opens_with_each_of_its_secrets);
	tcase_add_test(tc, the_ring_survives_and_seals_for_the_same_volume);
	tcase_add_test(tc, wrong_secrets_do_not_open);
	tcase_add_test(tc, secrets_and_labels_out_of_bounds_are_not_added);
	tcase_add_test(tc, at_most_eight_slots_live_and_one_always_does);
	tcase_add_test(tc, every_flipped_bit_is_noticed);
	tcase_add_test(tc, a_slot_is_bound_to_its_fields_and_its_volume);
	tcase_add_test(tc, hostile_kdf_costs_are_refused_before_they_run);
	tcase_add_test(tc, counts_lengths_and_versions_that_lie_are_refused);
	tcase_add_test(tc, nine_live_slots_are_refused);
	tcase_add_test(tc, a_header_nobody_could_open_is_not_encoded);
	tcase_add_test(tc, an_old_generation_cannot_be_passed_off_as_a_new_one);
	tcase_add_test(tc, merging_is_the_same_from_both_sides);
	tcase_add_test(tc, a_merge_of_full_headers_keeps_the_eight_oldest);
	tcase_add_test(tc, headers_of_other_vaults_are_not_merged);
	tcase_add_test(tc, rekey_makes_a_root_key_an_epoch_and_lets_old_secrets_go);
	tcase_add_test(tc, a_slot_that_rekey_keeps_opens_by_the_key_it_had_and_by_its_secret);
	tcase_add_test(tc, the_greatest_header_fits_the_limit);
	tcase_add_test(tc, the_text_shows_slots_and_no_key);
	tcase_add_test(tc, a_recovery_key_survives_being_written_down);
}

NF_SUITE("vault/header")
