/* vault/ref.h - keys and references of the tree, in memory and encoded
 * (docs/format.md sections 4 and 5). */
#ifndef NF_VAULT_REF_H
#define NF_VAULT_REF_H

#include "base/buf.h"
#include "base/text.h"
#include "cache/cache.h" /* struct nf_pack_id */

#include <stdint.h>

enum nf_item_type {
	NF_ITEM_INODE = 1,
	NF_ITEM_PARENT = 2,
	NF_ITEM_XATTR = 3,
	NF_ITEM_EXTENT = 4,
	NF_ITEM_DIRENT = 5,
	NF_ITEM_WRITER = 16,
	NF_ITEM_ROOT = 17,
	NF_ITEM_DELTA = 18,
	NF_ITEM_SNAPSHOT = 19,
	NF_ITEM_COUNTER = 20,
	NF_ITEM_CONDEMNED = 21,
};

enum { NF_KEY_ENCODED = 25, NF_REF_ENCODED = 52 };

struct nf_key {
	uint64_t ino;
	uint8_t type;
	uint64_t a;
	uint64_t b;
};

int nf_key_cmp(const struct nf_key *x, const struct nf_key *y);
void nf_key_encode(const struct nf_key *k, uint8_t out[NF_KEY_ENCODED]);
void nf_key_decode(const uint8_t in[NF_KEY_ENCODED], struct nf_key *k);
void nf_key_to_text(const struct nf_key *k, struct nf_text *t);

/* A node or blob.  An id of all zeros is "this pack" while a pack is built; decoding
 * replaces it by the pack the object was read from. */
struct nf_ref {
	struct nf_pack_id pack;
	uint32_t offset_bytes;
	uint32_t sealed_len;
	uint32_t plain_len;
	uint32_t epoch;
	uint8_t tag[16];
	uint8_t level;
	uint8_t flags;
};

static inline bool nf_ref_is_null(const struct nf_ref *r) { return r->sealed_len == 0; }
bool nf_pack_id_is_zero(const struct nf_pack_id *p);
/* Local references, of blocks and of what is shelved: pack = 8 bytes 0xff, then the journal segment, big-endian; offset in
 * the segment's file.  (A random pack id begins so once in 2^64.) */
bool nf_ref_is_local(const struct nf_pack_id *p);
uint64_t nf_ref_local_segment(const struct nf_pack_id *p);
void nf_ref_make_local(struct nf_pack_id *p, uint64_t segment);
bool nf_ref_equal(const struct nf_ref *x, const struct nf_ref *y);
void nf_ref_encode(struct nf_buf *b, const struct nf_ref *r);
/* Reads a reference of an object that was read from SELF (NULL: zeros stay). Limits of docs/format.md
 * are checked by nf_ref_check(). */
void nf_ref_decode(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_ref *r);
int nf_ref_check(const struct nf_ref *r);
/* Reads and checks a reference that may be all zeros: a null one. */
int nf_ref_decode_or_null(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_ref *r);
void nf_ref_to_text(const struct nf_ref *r, struct nf_text *t);

#endif
