/* vault/slot.h - one key slot of the header (docs/format.md section 3).
 *
 * A slot is kept as its 172 bytes: they are what is authenticated, compared and
 * merged. */
#ifndef NF_VAULT_SLOT_H
#define NF_VAULT_SLOT_H

#include "vault/header.h"

enum { NF_SLOT_BYTES = 172 };

struct nf_slot {
	uint8_t raw[NF_SLOT_BYTES];
	char label[256]; /* "" while locked */
};

/* Whether RAW is well formed, its KDF parameters within the limits. */
int nf_slot_check(const uint8_t raw[NF_SLOT_BYTES]);
static inline const uint8_t *nf_slot_id(const struct nf_slot *s) { return s->raw; }
enum nf_slot_kind nf_slot_kind(const struct nf_slot *s);
bool nf_slot_is_live(const struct nf_slot *s);
uint64_t nf_slot_created_s(const struct nf_slot *s);

/* Fills S: wraps ROOT_KEY for SECRET.  Runs the KDF.  -EINVAL for a secret or label that
 * is too short or too long, -NF_E_KDF_LIMIT. */
int nf_slot_make(struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES],
		 const struct nf_secret *secret, const struct nf_kdf_params *kdf,
		 const uint8_t root_key[NF_KEY_BYTES], const char *label);
/* Unwraps the root key of a live slot; the slot's key goes to *KEY.  Runs the KDF.  -NF_E_KEY_WRONG. */
int nf_slot_open(const struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES],
		 const struct nf_secret *secret, uint8_t root_key[NF_KEY_BYTES], struct nf_slot_key *key);
/* The same by the slot's key; no KDF. */
int nf_slot_open_by_key(const struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES],
			const struct nf_slot_key *key, uint8_t root_key[NF_KEY_BYTES]);
/* Fills S with a new slot for the secret of the live slot OLD, whose key is KEY: the same salt, KDF parameters and label,
 * another root key. */
int nf_slot_make_again(struct nf_slot *s, const uint8_t volume_id[NF_VOLUME_ID_BYTES], const struct nf_slot *old,
		       const struct nf_slot_key *key, const uint8_t root_key[NF_KEY_BYTES]);
void nf_slot_bury(struct nf_slot *s); /* makes a tombstone */
void nf_slot_to_info(const struct nf_slot *s, struct nf_slot_info *out);

#endif
