/* vault/header.h - the vault's header: slots and the ring (docs/format.md section 3).
 *
 * In-memory form, encoding, decoding, unlocking and changing.  No I/O here:
 * vault/header_store.h reads and writes generations on a store. */
#ifndef NF_VAULT_HEADER_H
#define NF_VAULT_HEADER_H

#include "base/text.h"
#include "codec/codec.h"

enum {
	NF_SLOTS_MAX = 32,
	NF_SLOTS_LIVE_MAX = 8,
	NF_SLOT_ID_BYTES = 16,
	NF_HEADER_BYTES_MAX = 32 * 1024, /* more than the greatest one takes */
};
enum nf_slot_kind { NF_SLOT_PASSPHRASE = 1, NF_SLOT_KEYFILE = 2, NF_SLOT_RECOVERY = 3 };

/* What the user gives to open a vault.  Borrowed bytes. */
struct nf_secret {
	enum nf_slot_kind kind;
	const void *p;
	size_t len;
};

/* What the KDF makes of a secret for its slot: opens that slot, and what a rekey makes of it, without the secret. */
struct nf_slot_key {
	uint8_t key[NF_KEY_BYTES];
};

struct nf_kdf_params {
	unsigned log2_n; /* 0: the default, 17 */
	uint32_t r;
	uint32_t p;
};

struct nf_slot_info {
	uint8_t id[NF_SLOT_ID_BYTES];
	enum nf_slot_kind kind;
	bool tombstone;
	uint64_t created_s;
	unsigned log2_n;
	char label[256]; /* "" while locked */
};

struct nf_header;

/* A new vault: volume id, root key, first epoch, name hash key. Unlocked. */
int nf_header_new(struct nf_header **out);
void nf_header_free(struct nf_header *h); /* wipes; NULL allowed */
/* Parses without any key; everything but the MAC is checked.  -NF_E_FORMAT_BAD,
 * -NF_E_FORMAT_UNKNOWN (format, suite or KDF), -NF_E_KDF_LIMIT. */
int nf_header_decode(const void *p, size_t len, struct nf_header **out);
/* Unlocks a decoded header: runs the KDF for each live slot of the secret's kind, checks the
 * commitment, unwraps, checks the MAC, opens the ring.  -NF_E_KEY_WRONG if no slot fits,
 * -NF_E_XFORM_BAD_TAG if one does and the rest was tampered with.
 * SLOT_ID (may be NULL) receives which.  Blocks for the KDF's time and memory. */
int nf_header_unlock(struct nf_header *h, const struct nf_secret *secret,
		     uint8_t slot_id[NF_SLOT_ID_BYTES]);
/* Unlocks by the root key itself, as handed over by the child that ran the KDF. */
int nf_header_unlock_root(struct nf_header *h, const uint8_t root_key[NF_KEY_BYTES]);
/* Unlocks by a slot's key, kept from an earlier unlocking; no KDF.  -NF_E_KEY_WRONG if it is of none of the live slots. */
int nf_header_unlock_slot(struct nf_header *h, const struct nf_slot_key *key);
/* The key of the slot that unlocked H, or was handed on to it: false if it was unlocked by its root key.  The caller wipes it. */
bool nf_header_slot_key(const struct nf_header *h, struct nf_slot_key *out);
/* Hands the slot's key of FROM on to H, another header of the same vault; both unlocked. */
void nf_header_hand_on_slot(struct nf_header *h, const struct nf_header *from);
/* Does a live slot of H have that key? */
bool nf_header_has_slot(const struct nf_header *h, const struct nf_slot_key *key);
bool nf_header_is_unlocked(const struct nf_header *h);
/* Copies the root key out of an unlocked header; the caller wipes it. */
void nf_header_root_key(const struct nf_header *h, uint8_t out[NF_KEY_BYTES]);
/* Encodes an unlocked header (MAC and ring fresh); *OUT is malloc'd, the caller's. */
int nf_header_encode(const struct nf_header *h, void **out, size_t *len);

const uint8_t *nf_header_volume_id(const struct nf_header *h);
uint64_t nf_header_generation(const struct nf_header *h);
void nf_header_set_generation(struct nf_header *h, uint64_t generation);
size_t nf_header_slots(const struct nf_header *h, struct nf_slot_info *out, size_t max);
/* The ring of an unlocked header; *OUT is the caller's. */
int nf_header_ring(const struct nf_header *h, struct nf_ring **out);
/* Gives RING, made of an older header of this vault, the epochs that it lacks: nf_ring_extend(). */
int nf_header_extend_ring(const struct nf_header *h, struct nf_ring *ring);
/* Adds a slot to an unlocked header; -ENOSPC if 8 are live. */
int nf_header_slot_add(struct nf_header *h, const struct nf_secret *secret,
		       const struct nf_kdf_params *kdf, const char *label,
		       uint8_t id_out[NF_SLOT_ID_BYTES]);
/* Turns a slot into a tombstone; -EBUSY if it is the last live one, -ENOENT. */
int nf_header_slot_remove(struct nf_header *h, const uint8_t id[NF_SLOT_ID_BYTES]);
/* Begins `key rekey`: a new root key and a new epoch; every slot becomes a tombstone, and the
 * caller adds one for each secret at hand before encoding.  KEEP (NULL: none) is the id of the slot whose key H has: a new slot
 * takes its place that opens by the same slot key, so that mounts which have that one go on.  -ENOSPC after 256 epochs. */
int nf_header_rekey(struct nf_header *h, const uint8_t keep[NF_SLOT_ID_BYTES]);
/* The newest epoch of an unlocked header, and what a device remembers of its master: who shows it again held the ring. */
uint32_t nf_header_epoch(const struct nf_header *h);
size_t nf_header_nr_epochs(const struct nf_header *h);
/* -NF_E_KEY_EPOCH_UNKNOWN: it holds no such epoch. */
int nf_header_epoch_commitment(const struct nf_header *h, uint32_t epoch, uint8_t out[32]);
/* Merges B's slots and labels into A (same volume, both unlocked by one root key; otherwise
 * -NF_E_HEADER_FOREIGN). */
int nf_header_merge(struct nf_header *a, const struct nf_header *b);
/* True if both have the same slots and labels, in whatever order. */
bool nf_header_same_slots(const struct nf_header *a, const struct nf_header *b);
/* Never shows a key. */
void nf_header_to_text(const struct nf_header *h, struct nf_text *t);
/* SHA-256 of the root key: what a device remembers. */
int nf_header_commitment(const struct nf_header *h, uint8_t out[32]);

/* Recovery key: 32 random bytes as printed text (8 groups of 7 characters) and back;
 * -NF_E_KEY_WRONG if the checksum does not fit. */
enum { NF_RECOVERY_TEXT_BYTES = 56 + 7 + 1 };
int nf_recovery_format(const uint8_t key[32], char text[NF_RECOVERY_TEXT_BYTES]);
int nf_recovery_parse(const char *text, uint8_t key[32]);

#endif
