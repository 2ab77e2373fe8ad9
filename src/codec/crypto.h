/* codec/crypto.h - XAES-256-GCM in steps, over contexts that are kept.
 *
 *	N = nonce[0:12] | nonce[12:24]
 *	       |               '-------------------.
 *	subkey = AES(K, M1 ^ K1) | AES(K, M2 ^ K1) |     K1 depends on K alone and
 *	       |                                   |     is computed once per key
 *	AES-256-GCM(subkey, iv ------------------- ', aad, plain)
 *
 * A step sequence is begin, update any number of times, then seal_end or open_end.
 * What update() gives out while opening is not authenticated before open_end() said
 * 0: the caller wipes it otherwise.  One thread at a time. */
#ifndef NF_CODEC_CRYPTO_H
#define NF_CODEC_CRYPTO_H

#include "codec/codec.h"

#include <openssl/types.h>

struct nf_xaes_key {
	uint8_t key[NF_KEY_BYTES];
	uint8_t k1[16];
};

struct nf_xaes {
	EVP_CIPHER_CTX *ecb;
	EVP_CIPHER_CTX *gcm;
	const struct nf_xaes_key *keyed; /* the key that ecb has; compared only, borrowed */
};

/* 0, -ENOMEM or -NF_E_XFORM_CRYPTO.  X may be given to deinit either way. */
int nf_xaes_init(struct nf_xaes *x);
void nf_xaes_deinit(struct nf_xaes *x);
/* Makes K from the 32 bytes KEY.  K must stay in place while X is used with it. */
int nf_xaes_key_init(struct nf_xaes *x, struct nf_xaes_key *k, const uint8_t key[NF_KEY_BYTES]);

int nf_xaes_begin(struct nf_xaes *x, const struct nf_xaes_key *k,
		  const uint8_t nonce[NF_NONCE_BYTES], bool seal, const void *aad, size_t aad_len);
/* LEN at most 1 GiB; OUT has room for as much.  May be P itself. */
int nf_xaes_update(struct nf_xaes *x, const void *p, size_t len, void *out);
int nf_xaes_seal_end(struct nf_xaes *x, uint8_t tag[NF_TAG_BYTES]);
/* -NF_E_XFORM_BAD_TAG. */
int nf_xaes_open_end(struct nf_xaes *x, const uint8_t tag[NF_TAG_BYTES]);

/* scrypt without the limits of the format: nf_scrypt() and the tests call it. */
int nf_scrypt_raw(const void *pass, size_t pass_len, const void *salt, size_t salt_len, uint64_t n,
		  uint32_t r, uint32_t p, void *out, size_t out_len);

#endif
