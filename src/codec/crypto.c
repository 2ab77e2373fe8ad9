#include "codec/crypto.h"

#include "base/error.h"
#include "base/mem.h"

#include <limits.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <pthread.h>

enum { SCRYPT_LOG2_N_MIN = 15, SCRYPT_LOG2_N_MAX = 20, SCRYPT_R_MAX = 32, SCRYPT_P_MAX = 4 };
#define SCRYPT_MEMORY_MAX (UINT64_C(1) << 30)
#define UPDATE_MAX ((size_t)1 << 30)

/* Fetched once: looking an algorithm up by name costs more than sealing a small block.
 * Never freed; they live as long as the process.  NULL: the library has not got it. */
static struct {
	EVP_CIPHER *ecb;
	EVP_CIPHER *gcm;
	EVP_KDF *hkdf;
	EVP_KDF *scrypt;
	EVP_MAC *hmac;
	EVP_MD *sha256;
} alg;
static pthread_once_t alg_once = PTHREAD_ONCE_INIT;

static void fetch_all(void)
{
	alg.ecb = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
	alg.gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	alg.hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	alg.scrypt = EVP_KDF_fetch(NULL, "SCRYPT", NULL);
	alg.hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	alg.sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

static int have_algorithms(void)
{
	(void)pthread_once(&alg_once, fetch_all);
	if (!alg.ecb || !alg.gcm || !alg.hkdf || !alg.scrypt || !alg.hmac || !alg.sha256)
		return nf_fail(-NF_E_XFORM_CRYPTO);
	return 0;
}

/* -- XAES ------------------------------------------------------------------------- */

int nf_xaes_init(struct nf_xaes *x)
{
	*x = (struct nf_xaes){ 0 };
	int r = have_algorithms();
	if (r)
		return r;
	x->ecb = EVP_CIPHER_CTX_new();
	x->gcm = EVP_CIPHER_CTX_new();
	if (!x->ecb || !x->gcm)
		return nf_fail(-ENOMEM);
	if (!EVP_EncryptInit_ex2(x->ecb, alg.ecb, NULL, NULL, NULL) ||
	    !EVP_CIPHER_CTX_set_padding(x->ecb, 0) ||
	    !EVP_EncryptInit_ex2(x->gcm, alg.gcm, NULL, NULL, NULL))
		return nf_fail(-NF_E_XFORM_CRYPTO);
	return 0;
}

void nf_xaes_deinit(struct nf_xaes *x)
{
	EVP_CIPHER_CTX_free(x->ecb);
	EVP_CIPHER_CTX_free(x->gcm);
	*x = (struct nf_xaes){ 0 };
}

static int ecb_key(struct nf_xaes *x, const struct nf_xaes_key *k)
{
	x->keyed = NULL;
	if (!EVP_EncryptInit_ex2(x->ecb, NULL, k->key, NULL, NULL))
		return nf_fail(-NF_E_XFORM_CRYPTO);
	x->keyed = k;
	return 0;
}

static int ecb_blocks(struct nf_xaes *x, const uint8_t *in, int len, uint8_t *out)
{
	int n;

	if (!EVP_EncryptUpdate(x->ecb, out, &n, in, len) || n != len)
		return nf_fail(-NF_E_XFORM_CRYPTO);
	return 0;
}

int nf_xaes_key_init(struct nf_xaes *x, struct nf_xaes_key *k, const uint8_t key[NF_KEY_BYTES])
{
	uint8_t l[16] = { 0 };

	memcpy(k->key, key, NF_KEY_BYTES);
	int r = ecb_key(x, k);
	if (!r)
		r = ecb_blocks(x, l, sizeof l, l);
	if (!r) {
		/* K1 is L doubled in GF(2^128), as in CMAC; no branch on its secret top bit. */
		for (int i = 0; i < 15; i++)
			k->k1[i] = (uint8_t)(l[i] << 1 | l[i + 1] >> 7);
		k->k1[15] = (uint8_t)(l[15] << 1 ^ (0x87 & -(l[0] >> 7)));
	}
	nf_wipe(l, sizeof l);
	return r;
}

static int derive_subkey(struct nf_xaes *x, const struct nf_xaes_key *k,
			 const uint8_t nonce[NF_NONCE_BYTES], uint8_t subkey[NF_KEY_BYTES])
{
	uint8_t m[NF_KEY_BYTES] = { 0, 1, 'X', 0 };

	m[17] = 2;
	m[18] = 'X';
	memcpy(m + 4, nonce, 12);
	memcpy(m + 20, nonce, 12);
	for (int i = 0; i < NF_KEY_BYTES; i++)
		m[i] ^= k->k1[i % 16];
	int r = x->keyed == k ? 0 : ecb_key(x, k);
	if (!r)
		r = ecb_blocks(x, m, sizeof m, subkey);
	nf_wipe(m, sizeof m);
	return r;
}

int nf_xaes_begin(struct nf_xaes *x, const struct nf_xaes_key *k,
		  const uint8_t nonce[NF_NONCE_BYTES], bool seal, const void *aad, size_t aad_len)
{
	uint8_t subkey[NF_KEY_BYTES];
	int n;

	if (aad_len > INT_MAX)
		return nf_fail(-EINVAL);
	int r = derive_subkey(x, k, nonce, subkey);
	if (!r && !EVP_CipherInit_ex2(x->gcm, NULL, subkey, nonce + 12, seal, NULL))
		r = nf_fail(-NF_E_XFORM_CRYPTO);
	if (!r && aad_len && !EVP_CipherUpdate(x->gcm, NULL, &n, aad, (int)aad_len))
		r = nf_fail(-NF_E_XFORM_CRYPTO);
	nf_wipe(subkey, sizeof subkey);
	return r;
}

int nf_xaes_update(struct nf_xaes *x, const void *p, size_t len, void *out)
{
	int n;

	if (len == 0)
		return 0;
	if (len > UPDATE_MAX)
		return nf_fail(-EINVAL);
	if (!EVP_CipherUpdate(x->gcm, out, &n, p, (int)len) || (size_t)n != len)
		return nf_fail(-NF_E_XFORM_CRYPTO);
	return 0;
}

int nf_xaes_seal_end(struct nf_xaes *x, uint8_t tag[NF_TAG_BYTES])
{
	uint8_t none[16];
	int n;

	if (!EVP_CipherFinal_ex(x->gcm, none, &n) ||
	    !EVP_CIPHER_CTX_ctrl(x->gcm, EVP_CTRL_AEAD_GET_TAG, NF_TAG_BYTES, tag))
		return nf_fail(-NF_E_XFORM_CRYPTO);
	return 0;
}

int nf_xaes_open_end(struct nf_xaes *x, const uint8_t tag[NF_TAG_BYTES])
{
	uint8_t expected[NF_TAG_BYTES], none[16];
	int n;

	memcpy(expected, tag, sizeof expected); /* the interface is not const */
	if (!EVP_CIPHER_CTX_ctrl(x->gcm, EVP_CTRL_AEAD_SET_TAG, NF_TAG_BYTES, expected))
		return nf_fail(-NF_E_XFORM_CRYPTO);
	if (EVP_CipherFinal_ex(x->gcm, none, &n) <= 0)
		return nf_fail(-NF_E_XFORM_BAD_TAG);
	return 0;
}

/* A key of one use, with its own contexts. */
struct once {
	struct nf_xaes x;
	struct nf_xaes_key k;
};

static int once_init(struct once *o, const uint8_t key[NF_KEY_BYTES])
{
	int r = nf_xaes_init(&o->x);
	return r ? r : nf_xaes_key_init(&o->x, &o->k, key);
}

static void once_deinit(struct once *o)
{
	nf_xaes_deinit(&o->x);
	nf_wipe(&o->k, sizeof o->k);
}

int nf_xaes_seal(const uint8_t key[NF_KEY_BYTES], const uint8_t nonce[NF_NONCE_BYTES],
		 const void *aad, size_t aad_len, const void *plain, size_t len, void *out)
{
	nf_auto(once_deinit) struct once o = { 0 };
	uint8_t *b = out;

	int r = once_init(&o, key);
	if (!r)
		r = nf_xaes_begin(&o.x, &o.k, nonce, true, aad, aad_len);
	if (!r)
		r = nf_xaes_update(&o.x, plain, len, b + NF_NONCE_BYTES);
	if (!r)
		r = nf_xaes_seal_end(&o.x, b + NF_NONCE_BYTES + len);
	if (!r)
		memcpy(b, nonce, NF_NONCE_BYTES);
	return r;
}

int nf_xaes_open(const uint8_t key[NF_KEY_BYTES], const void *aad, size_t aad_len,
		 const void *sealed, size_t len, void *out)
{
	nf_auto(once_deinit) struct once o = { 0 };
	const uint8_t *b = sealed;

	if (len < NF_SEAL_OVERHEAD)
		return nf_fail(-NF_E_XFORM_TRUNCATED);
	size_t plain_len = len - NF_SEAL_OVERHEAD;
	int r = once_init(&o, key);
	if (!r)
		r = nf_xaes_begin(&o.x, &o.k, b, false, aad, aad_len);
	if (!r)
		r = nf_xaes_update(&o.x, b + NF_NONCE_BYTES, plain_len, out);
	if (!r)
		r = nf_xaes_open_end(&o.x, b + len - NF_TAG_BYTES);
	if (r)
		nf_wipe(out, plain_len);
	return r;
}

/* -- key derivation, MAC, digest --------------------------------------------------- */

static int kdf_run(EVP_KDF *kdf, const OSSL_PARAM *params, void *out, size_t out_len)
{
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
	if (!ctx)
		return nf_fail(-ENOMEM);
	int ok = EVP_KDF_derive(ctx, out, out_len, params);
	EVP_KDF_CTX_free(ctx);
	if (ok > 0)
		return 0;
	nf_wipe(out, out_len);
	return nf_fail(-NF_E_XFORM_CRYPTO);
}

/* The parameter interface takes pointers to what it only reads. */
static OSSL_PARAM octets(const char *key, const void *p, size_t len)
{
	union {
		const void *in;
		void *out;
	} u = { .in = p };
	return OSSL_PARAM_construct_octet_string(key, u.out, len);
}

int nf_hkdf(const void *secret, size_t secret_len, const void *salt, size_t salt_len,
	    const char *label, void *out, size_t out_len)
{
	char digest[] = "SHA512";
	OSSL_PARAM params[5], *p = params;

	int r = have_algorithms();
	if (r)
		return r;
	*p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
	*p++ = octets(OSSL_KDF_PARAM_KEY, secret, secret_len);
	*p++ = octets(OSSL_KDF_PARAM_SALT, salt, salt_len);
	*p++ = octets(OSSL_KDF_PARAM_INFO, label, strlen(label));
	*p = OSSL_PARAM_construct_end();
	return kdf_run(alg.hkdf, params, out, out_len);
}

int nf_scrypt_raw(const void *pass, size_t pass_len, const void *salt, size_t salt_len, uint64_t n,
		  uint32_t r, uint32_t p, void *out, size_t out_len)
{
	/* What the library counts: V, B and two blocks of work. */
	uint64_t max = 128 * (uint64_t)r * (n + p + 2);
	OSSL_PARAM params[7], *q = params;

	int err = have_algorithms();
	if (err)
		return err;
	*q++ = octets(OSSL_KDF_PARAM_PASSWORD, pass, pass_len);
	*q++ = octets(OSSL_KDF_PARAM_SALT, salt, salt_len);
	*q++ = OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_N, &n);
	*q++ = OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_R, &r);
	*q++ = OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_P, &p);
	*q++ = OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_MAXMEM, &max);
	*q = OSSL_PARAM_construct_end();
	return kdf_run(alg.scrypt, params, out, out_len);
}

int nf_scrypt_check(unsigned log2_n, uint32_t r, uint32_t p)
{
	if (log2_n < SCRYPT_LOG2_N_MIN || log2_n > SCRYPT_LOG2_N_MAX || r < 1 || r > SCRYPT_R_MAX ||
	    p < 1 || p > SCRYPT_P_MAX || (UINT64_C(128) << log2_n) * r > SCRYPT_MEMORY_MAX)
		return nf_fail(-NF_E_KDF_LIMIT);
	return 0;
}

int nf_scrypt(const void *pass, size_t pass_len, const uint8_t salt[32], unsigned log2_n,
	      uint32_t r, uint32_t p, uint8_t out[NF_KEY_BYTES])
{
	int err = nf_scrypt_check(log2_n, r, p);
	if (err)
		return err;
	return nf_scrypt_raw(pass, pass_len, salt, 32, UINT64_C(1) << log2_n, r, p, out,
			     NF_KEY_BYTES);
}

int nf_hmac_sha256(const uint8_t key[NF_KEY_BYTES], const void *p, size_t len, uint8_t out[32])
{
	char digest[] = "SHA256";
	const OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_end(),
	};
	size_t n;

	int r = have_algorithms();
	if (r)
		return r;
	EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(alg.hmac);
	if (!ctx)
		return nf_fail(-ENOMEM);
	if (!EVP_MAC_init(ctx, key, NF_KEY_BYTES, params) || !EVP_MAC_update(ctx, p, len) ||
	    !EVP_MAC_final(ctx, out, &n, 32) || n != 32)
		r = nf_fail(-NF_E_XFORM_CRYPTO);
	EVP_MAC_CTX_free(ctx);
	return r;
}

int nf_sha256(const void *p, size_t len, uint8_t out[32])
{
	int r = have_algorithms();
	if (r)
		return r;
	if (!EVP_Digest(p, len, out, NULL, alg.sha256, NULL))
		return nf_fail(-NF_E_XFORM_CRYPTO);
	return 0;
}

bool nf_equal_ct(const void *a, const void *b, size_t len) { return CRYPTO_memcmp(a, b, len) == 0; }
