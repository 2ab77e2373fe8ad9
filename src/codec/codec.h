/* codec/codec.h - from plain bytes to sealed ones and back: keys, sealing, compression.
 *
 * docs/format.md section 2 is the specification.  A struct nf_ring holds the
 * masters of one vault and hands out the key of each use; a struct nf_codec is a
 * thread's working set (cipher and compression contexts) over a ring.  A ring is
 * shared by threads and only ever gets newer epochs; a codec belongs to one thread
 * at a time (nf_codec_get()/put() keep a small free list).
 *
 * Keys live in OpenSSL's secure heap where the system allows it, are wiped on free,
 * and are never printed. */
#ifndef NF_CODEC_CODEC_H
#define NF_CODEC_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	NF_KEY_BYTES = 32,
	NF_NONCE_BYTES = 24,
	NF_TAG_BYTES = 16,
	NF_SEAL_OVERHEAD = NF_NONCE_BYTES + NF_TAG_BYTES,
	NF_VOLUME_ID_BYTES = 16,
	NF_AAD_COMMON_BYTES = 24,
	NF_AAD_MAX = 160,
	NF_EPOCHS_MAX = 256,
};

/* docs/format.md, "The item table". */
enum nf_seal_type {
	NF_SEAL_BLOCK = 1,
	NF_SEAL_NODE = 2,
	NF_SEAL_DELTA = 3,
	NF_SEAL_HEAD = 4,
	NF_SEAL_XATTR = 5,
	NF_SEAL_RING = 6,
	NF_SEAL_SLOT = 7,
	NF_SEAL_JOURNAL = 8,
	NF_SEAL_STATE = 9,
	NF_SEAL_NR
};

enum { NF_PAYLOAD_ZSTD = 1 };

/* XAES-256-GCM.  OUT has room for len + NF_SEAL_OVERHEAD: nonce, ciphertext, tag. */
int nf_xaes_seal(const uint8_t key[NF_KEY_BYTES], const uint8_t nonce[NF_NONCE_BYTES],
		 const void *aad, size_t aad_len, const void *plain, size_t len, void *out);
/* LEN includes the overhead; OUT has room for len - NF_SEAL_OVERHEAD.
 * -NF_E_XFORM_BAD_TAG, -NF_E_XFORM_TRUNCATED; OUT is zeroed on failure. */
int nf_xaes_open(const uint8_t key[NF_KEY_BYTES], const void *aad, size_t aad_len,
		 const void *sealed, size_t len, void *out);

/* HKDF-SHA-512. */
int nf_hkdf(const void *secret, size_t secret_len, const void *salt, size_t salt_len,
	    const char *label, void *out, size_t out_len);
/* Limits of docs/format.md section 3 are checked first (-NF_E_KDF_LIMIT). */
int nf_scrypt(const void *pass, size_t pass_len, const uint8_t salt[32], unsigned log2_n,
	      uint32_t r, uint32_t p, uint8_t out[NF_KEY_BYTES]);
/* The check alone; p, r and log2_n as in nf_scrypt(). */
int nf_scrypt_check(unsigned log2_n, uint32_t r, uint32_t p);
int nf_hmac_sha256(const uint8_t key[NF_KEY_BYTES], const void *p, size_t len, uint8_t out[32]);
int nf_sha256(const void *p, size_t len, uint8_t out[32]);
/* Compares in a time that depends on LEN only. */
bool nf_equal_ct(const void *a, const void *b, size_t len);
/* The 24 bytes every item's associated data starts with. */
void nf_aad_common(uint8_t out[NF_AAD_COMMON_BYTES], enum nf_seal_type type, uint32_t epoch,
		   const uint8_t volume_id[NF_VOLUME_ID_BYTES]);

struct nf_ring_epoch {
	uint32_t epoch;
	uint64_t created_s;
	uint8_t master[NF_KEY_BYTES];
};
struct nf_ring;
/* Copies what it is given; the newest (last) epoch seals.  *OUT is the caller's. */
int nf_ring_new(const uint8_t volume_id[NF_VOLUME_ID_BYTES], const struct nf_ring_epoch *epochs,
		size_t nr, const uint8_t name_hash_key[16], struct nf_ring **out);
/* Takes over the epochs that are newer than the ring's; from then on the last of them seals.  At any time, beside codecs at
 * work.  -NF_E_HEADER_FOREIGN: of another vault. */
int nf_ring_extend(struct nf_ring *r, const uint8_t volume_id[NF_VOLUME_ID_BYTES], const struct nf_ring_epoch *epochs,
		   size_t nr, const uint8_t name_hash_key[16]);
void nf_ring_free(struct nf_ring *r); /* wipes; NULL allowed; no codec may be left */
uint32_t nf_ring_newest(const struct nf_ring *r);
const uint8_t *nf_ring_volume_id(const struct nf_ring *r);
/* Name hash of docs/format.md section 5 (6 bits' worth in small_hash builds). */
uint64_t nf_ring_name_hash(const struct nf_ring *r, const char *name, size_t len);

struct nf_codec;
/* Never NULL but when out of memory. */
struct nf_codec *nf_codec_get(struct nf_ring *r);
void nf_codec_put(struct nf_codec *c);

/* Seals LEN bytes as TYPE under the newest epoch (given back in *EPOCH), as they are (no
 * payload rules): heads, journal, state.  OUT: len + NF_SEAL_OVERHEAD.  EXTRA is the
 * associated data after the common part. */
int nf_codec_seal_raw(struct nf_codec *c, enum nf_seal_type type, const void *extra,
		      size_t extra_len, const void *plain, size_t len, void *out, uint32_t *epoch);
/* -NF_E_KEY_EPOCH_UNKNOWN, -NF_E_XFORM_*.  OUT: len - NF_SEAL_OVERHEAD. */
int nf_codec_open_raw(struct nf_codec *c, enum nf_seal_type type, uint32_t epoch,
		      const void *extra, size_t extra_len, const void *sealed, size_t len,
		      void *out);

/* What the associated data of a compressible object says besides plain length and flags. */
struct nf_seal_id {
	enum nf_seal_type type; /* BLOCK, NODE, DELTA or XATTR */
	uint64_t birth;         /* BLOCK, XATTR; DELTA: writer seq */
	uint32_t index;         /* BLOCK, XATTR; DELTA: writer; NODE: level */
};

/* Bytes the sealed form of LEN plain bytes can take at most. */
size_t nf_codec_bound(size_t len);

struct nf_sealed_info {
	uint32_t sealed_len;
	uint32_t epoch;
	uint8_t flags;
	uint8_t tag[NF_TAG_BYTES];
};

/* Compresses where it pays, pads, seals.  FULL_LEN: the file's block size for blocks (no padding
 * of a raw full block), 0 otherwise.  COMPRESS false: not even tried.  *COMPRESSIBLE
 * (may be NULL) receives the verdict of the entropy test. */
int nf_codec_seal(struct nf_codec *c, const struct nf_seal_id *id, const void *plain, size_t len,
		  size_t full_len, bool compress, void *out, size_t out_cap,
		  struct nf_sealed_info *info, bool *compressible);
/* Opens into exactly PLAIN_LEN bytes; the tag at the end must also equal TAG (from the
 * reference).  OUT is zeroed on failure. */
int nf_codec_open(struct nf_codec *c, const struct nf_seal_id *id, uint32_t epoch, uint8_t flags,
		  const uint8_t tag[NF_TAG_BYTES], const void *sealed, size_t sealed_len,
		  void *out, size_t plain_len);

/* Padmé of docs/format.md. */
size_t nf_padme(size_t n);
/* True if a cheap sample of P says that compressing it is worth trying. */
bool nf_looks_compressible(const void *p, size_t len);

#endif
