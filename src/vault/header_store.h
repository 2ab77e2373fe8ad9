/* vault/header_store.h - headers on a store: finding the newest, writing the next.
 *
 *	header/<generation, 8 hex digits>/<32 hex digits>   written once
 *	header/current                                      copy for stores without listing
 *
 * docs/format.md sections 1 and 3.  Everything here blocks on the store, and loading with
 * a secret also for the KDF's time and memory: never on a FUSE thread. */
#ifndef NF_VAULT_HEADER_STORE_H
#define NF_VAULT_HEADER_STORE_H

#include "foliofs/store.h"
#include "vault/header.h"

/* What opens a header: a secret, the key of its slot, or the root key a child made of one.  The others are NULL. */
struct nf_header_key {
	const struct nf_secret *secret;
	const struct nf_slot_key *slot_key;
	const uint8_t *root_key; /* NF_KEY_BYTES */
};

/* About a header that was loaded. */
struct nf_header_found {
	bool needs_write; /* a merge of headers that differed: ought to be saved as the next generation */
	bool newest;      /* of the highest generation that the store shows */
	/* A generation above it has a well-formed header of this vault that does not open: the vault has new keys
	 * (`key rekey`), of which the one at hand is none. */
	bool overtaken;
};

/* Reads the header of the highest generation that opens, merged with the others of its
 * generation.  *OUT is unlocked, the caller's.  -NF_E_HEADER_MISSING: there is none;
 * -NF_E_KEY_WRONG: none opens with KEY; what the store says; or, if all that is there is
 * malformed, why. */
int nf_header_store_load(struct nf_store *s, const struct nf_header_key *key,
			 struct nf_header **out, struct nf_header_found *found);

/* Writes H under a new name of its generation, reads it back and compares, and then replaces
 * `header/current`.  *CURRENT_ERROR (may be NULL) says what became of that copy; its
 * failure is not the call's, since stores that list never look at it. */
int nf_header_store_save(struct nf_store *s, const struct nf_header *h, int *current_error);

/* Saves H, a changed header, as its generation; NEW_ROOT: it has a new root key.  -NF_E_STORE_BUSY: somebody else wrote one of
 * that generation under another root key (with NEW_ROOT: any) at the same time; ours was taken away again.  So of a new
 * root key and another change at once at most one stays; changes under one root key are merged. */
int nf_header_store_save_next(struct nf_store *s, const struct nf_header *h, bool new_root);

/* What a store has of a vault beside its header. */
struct nf_vault_traces {
	uint64_t newest_seq; /* of a head, by its name; 0: no head */
	size_t nr_packs;     /* names in packs/ */
};
/* *OUT is zeros where the store lists nothing.  An interrupted `init` leaves a head with seq 1 and a pack. */
int nf_vault_traces(struct nf_store *s, struct nf_vault_traces *out);

/* What a device remembers of its vault. */
struct nf_header_pin {
	uint8_t volume_id[NF_VOLUME_ID_BYTES];
	uint64_t generation;
	uint8_t commitment[32]; /* nf_header_commitment() */
	uint32_t epoch;         /* the newest; 0: not remembered */
	uint8_t epoch_commitment[32];
};
/* The pin that an unlocked header, read back from the store, sets. */
int nf_header_pin_of(const struct nf_header *h, struct nf_header_pin *out);
/* Whether a device that remembers PIN may use H: -NF_E_HEADER_FOREIGN for another volume or root
 * key, -NF_E_HEADER_ROLLBACK for a lower generation.  Another root key of a higher generation is taken if the ring under
 * it has a newer epoch beside the one remembered: only who held that one can have made it (`key rekey`). */
int nf_header_pin_check(const struct nf_header_pin *pin, const struct nf_header *h);

#endif
