/* A slot:
 *
 *	 0 id [16] | kind flags kdf log2N | r u32 | p u32 | salt [32] | created u64   68 bytes, bound
 *	68 commitment [32] | sealed root key [72]                                    to the root key
 */
#include "vault/slot.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "codec/keymem.h"

enum {
	OFF_KIND = 16,
	OFF_FLAGS = 17,
	OFF_KDF = 18,
	OFF_LOG2_N = 19,
	OFF_R = 20,
	OFF_P = 24,
	OFF_SALT = 28,
	OFF_CREATED = 60,
	OFF_COMMIT = 68,
	OFF_WRAPPED = 100,
	BOUND_BYTES = OFF_COMMIT,
	FLAG_TOMBSTONE = 1,
	KDF_NONE = 0,
	KDF_SCRYPT = 1,
	SECRET_BYTES_MAX = 64 * 1024,
	KEYFILE_BYTES_MIN = 32,
};

enum nf_slot_kind nf_slot_kind(const struct nf_slot *s) { return s->raw[OFF_KIND]; }
bool nf_slot_is_live(const struct nf_slot *s) { return !(s->raw[OFF_FLAGS] & FLAG_TOMBSTONE); }
uint64_t nf_slot_created_s(const struct nf_slot *s) { return nf_get_le64(s->raw + OFF_CREATED); }

static bool all_zero(const uint8_t *p, size_t from, size_t to)
{
	uint8_t or = 0;

	for (size_t i = from; i < to; i++)
		or |= p[i];
	return or == 0;
}

int nf_slot_check(const uint8_t raw[NF_SLOT_BYTES])
{
	uint8_t kind = raw[OFF_KIND];

	if (kind < NF_SLOT_PASSPHRASE || kind > NF_SLOT_RECOVERY || raw[OFF_FLAGS] & ~FLAG_TOMBSTONE)
		return nf_fail(-NF_E_FORMAT_BAD);
	if (raw[OFF_FLAGS] & FLAG_TOMBSTONE) {
		if (!all_zero(raw, OFF_KDF, OFF_CREATED) || !all_zero(raw, OFF_COMMIT, NF_SLOT_BYTES))
			return nf_fail(-NF_E_FORMAT_BAD);
		return 0;
	}
	if (kind != NF_SLOT_PASSPHRASE)
		return all_zero(raw, OFF_KDF, OFF_SALT) ? 0 : nf_fail(-NF_E_FORMAT_BAD);
	if (raw[OFF_KDF] != KDF_SCRYPT)
		return nf_fail(-NF_E_FORMAT_UNKNOWN);
	return nf_scrypt_check(raw[OFF_LOG2_N], nf_get_le32(raw + OFF_R), nf_get_le32(raw + OFF_P));
}

static bool secret_fits(const struct nf_secret *s)
{
	switch (s->kind) {
	case NF_SLOT_PASSPHRASE:
		return s->len >= 1 && s->len <= SECRET_BYTES_MAX;
	case NF_SLOT_KEYFILE:
		return s->len >= KEYFILE_BYTES_MIN && s->len <= SECRET_BYTES_MAX;
	case NF_SLOT_RECOVERY:
		return s->len == NF_KEY_BYTES;
	}
	return false;
}

/* The keys of one slot while it is made or opened. */
struct slot_keys {
	uint8_t slot_key[NF_KEY_BYTES];
	uint8_t wrap_key[NF_KEY_BYTES];
	uint8_t commitment[32];
};

static void slot_keys_free_p(struct slot_keys **k) { nf_keymem_free(*k, sizeof **k); }

/* From K's slot key. */
static int derive_rest(struct slot_keys *k, const uint8_t volume_id[NF_VOLUME_ID_BYTES])
{
	int r = nf_hkdf(k->slot_key, sizeof k->slot_key, volume_id, NF_VOLUME_ID_BYTES, "foliofs 1 commit",
			k->commitment, sizeof k->commitment);

	if (!r)
		r = nf_hkdf(k->slot_key, sizeof k->slot_key, volume_id, NF_VOLUME_ID_BYTES, "foliofs 1 slot",
			    k->wrap_key, sizeof k->wrap_key);
	return r;
}

static int derive(struct slot_keys *k, const uint8_t raw[NF_SLOT_BYTES],
		  const uint8_t volume_id[NF_VOLUME_ID_BYTES], const struct nf_secret *secret)
{
	int r;

	if (secret->kind == NF_SLOT_PASSPHRASE)
		r = nf_scrypt(secret->p, secret->len, raw + OFF_SALT, raw[OFF_LOG2_N],
			      nf_get_le32(raw + OFF_R), nf_get_le32(raw + OFF_P), k->slot_key);
	else
		r = nf_hkdf(secret->p, secret->len, raw + OFF_SALT, 32, "foliofs 1 keyfile",
			    k->slot_key, sizeof k->slot_key);
	return r ? r : derive_rest(k, volume_id);
}

static void slot_aad(uint8_t aad[NF_AAD_COMMON_BYTES + BOUND_BYTES], const uint8_t *raw,
		     const uint8_t volume_id[NF_VOLUME_ID_BYTES])
{
	nf_aad_common(aad, NF_SEAL_SLOT, 0, volume_id);
	memcpy(aad + NF_AAD_COMMON_BYTES, raw, BOUND_BYTES);
}

static int set_kdf(uint8_t *raw, const struct nf_kdf_params *kdf)
{
	unsigned log2_n = kdf && kdf->log2_n ? kdf->log2_n : 17;
	uint32_t r = kdf && kdf->r ? kdf->r : 8;
	uint32_t p = kdf && kdf->p ? kdf->p : 1;

	int err = nf_scrypt_check(log2_n, r, p);
	if (err)
		return err;
	raw[OFF_KDF] = KDF_SCRYPT;
	raw[OFF_LOG2_N] = (uint8_t)log2_n;
	nf_put_le32(raw + OFF_R, r);
	nf_put_le32(raw + OFF_P, p);
	return 0;
}

/* S is complete but for what K says. */
static int wrap(struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES], const struct slot_keys *k,
		const uint8_t root_key[NF_KEY_BYTES])
{
	uint8_t aad[NF_AAD_COMMON_BYTES + BOUND_BYTES], nonce[NF_NONCE_BYTES];

	memcpy(s->raw + OFF_COMMIT, k->commitment, sizeof k->commitment);
	slot_aad(aad, s->raw, volume_id);
	nf_random(nonce, sizeof nonce);
	return nf_xaes_seal(k->wrap_key, nonce, aad, sizeof aad, root_key, NF_KEY_BYTES, s->raw + OFF_WRAPPED);
}

int nf_slot_make(struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES],
		 const struct nf_secret *secret, const struct nf_kdf_params *kdf,
		 const uint8_t root_key[NF_KEY_BYTES], const char *label)
{
	struct nf_slot made = { 0 };

	if (!secret_fits(secret) || strlen(label) >= sizeof made.label)
		return nf_fail(-EINVAL);
	nf_auto(slot_keys_free_p) struct slot_keys *k = nf_keymem_alloc(sizeof *k);
	if (!k)
		return nf_fail(-ENOMEM);
	nf_random(made.raw, NF_SLOT_ID_BYTES);
	made.raw[OFF_KIND] = (uint8_t)secret->kind;
	nf_random(made.raw + OFF_SALT, 32);
	nf_put_le64(made.raw + OFF_CREATED, (uint64_t)nf_clock_real().tv_sec);
	int r = secret->kind == NF_SLOT_PASSPHRASE ? set_kdf(made.raw, kdf) : 0;
	if (!r)
		r = derive(k, made.raw, volume_id, secret);
	if (!r)
		r = wrap(&made, volume_id, k, root_key);
	if (r)
		return r;
	strcpy(made.label, label);
	*s = made;
	return 0;
}

int nf_slot_make_again(struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES], const struct nf_slot *old,
		       const struct nf_slot_key *key, const uint8_t root_key[NF_KEY_BYTES])
{
	struct nf_slot made = *old;

	nf_auto(slot_keys_free_p) struct slot_keys *k = nf_keymem_alloc(sizeof *k);
	if (!k)
		return nf_fail(-ENOMEM);
	/* Another id: the old slot becomes a tombstone, and a tombstone wins in a merge. */
	nf_random(made.raw, NF_SLOT_ID_BYTES);
	nf_put_le64(made.raw + OFF_CREATED, (uint64_t)nf_clock_real().tv_sec);
	memcpy(k->slot_key, key->key, sizeof k->slot_key);
	int r = derive_rest(k, volume_id);
	if (!r && !nf_equal_ct(k->commitment, old->raw + OFF_COMMIT, sizeof k->commitment))
		r = nf_fail(-NF_E_KEY_WRONG);
	if (!r)
		r = wrap(&made, volume_id, k, root_key);
	if (!r)
		*s = made;
	return r;
}

/* By the keys derived for S. */
static int unwrap(const struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES], const struct slot_keys *k,
		  uint8_t root_key[NF_KEY_BYTES])
{
	uint8_t aad[NF_AAD_COMMON_BYTES + BOUND_BYTES];

	if (!nf_equal_ct(k->commitment, s->raw + OFF_COMMIT, sizeof k->commitment))
		return nf_fail(-NF_E_KEY_WRONG);
	slot_aad(aad, s->raw, volume_id);
	return nf_xaes_open(k->wrap_key, aad, sizeof aad, s->raw + OFF_WRAPPED,
			    NF_SLOT_BYTES - OFF_WRAPPED, root_key);
}

int nf_slot_open(const struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES],
		 const struct nf_secret *secret, uint8_t root_key[NF_KEY_BYTES], struct nf_slot_key *key)
{
	if (!nf_slot_is_live(s) || nf_slot_kind(s) != secret->kind || !secret_fits(secret))
		return nf_fail(-NF_E_KEY_WRONG);
	nf_auto(slot_keys_free_p) struct slot_keys *k = nf_keymem_alloc(sizeof *k);
	if (!k)
		return nf_fail(-ENOMEM);
	int r = derive(k, s->raw, volume_id, secret);
	if (!r)
		r = unwrap(s, volume_id, k, root_key);
	if (!r)
		memcpy(key->key, k->slot_key, sizeof key->key);
	return r;
}

int nf_slot_open_by_key(const struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES],
			const struct nf_slot_key *key, uint8_t root_key[NF_KEY_BYTES])
{
	if (!nf_slot_is_live(s))
		return nf_fail(-NF_E_KEY_WRONG);
	nf_auto(slot_keys_free_p) struct slot_keys *k = nf_keymem_alloc(sizeof *k);
	if (!k)
		return nf_fail(-ENOMEM);
	memcpy(k->slot_key, key->key, sizeof k->slot_key);
	int r = derive_rest(k, volume_id);
	return r ? r : unwrap(s, volume_id, k, root_key);
}

void nf_slot_bury(struct nf_slot *s)
{
	memset(s->raw + OFF_KDF, 0, OFF_CREATED - OFF_KDF);
	memset(s->raw + OFF_COMMIT, 0, NF_SLOT_BYTES - OFF_COMMIT);
	s->raw[OFF_FLAGS] = FLAG_TOMBSTONE;
	memset(s->label, 0, sizeof s->label);
}

void nf_slot_to_info(const struct nf_slot *s, struct nf_slot_info *out)
{
	*out = (struct nf_slot_info){
		.kind = nf_slot_kind(s),
		.tombstone = !nf_slot_is_live(s),
		.created_s = nf_slot_created_s(s),
		.log2_n = s->raw[OFF_LOG2_N],
	};
	memcpy(out->id, s->raw, NF_SLOT_ID_BYTES);
	memcpy(out->label, s->label, sizeof out->label);
}
