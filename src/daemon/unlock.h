/* daemon/unlock.h - from an address and a secret to an unlocked header.
 *
 * The key derivation takes 128 MiB and half a second: it runs in a child process that loads the header,
 * unlocks it and hands the root key back through a pipe.  The caller then loads the header again by
 * that key, so that its own memory stays small.  Call it before any thread is started. */
#ifndef NF_DAEMON_UNLOCK_H
#define NF_DAEMON_UNLOCK_H

#include "foliofs/store.h"
#include "vault/header.h"

/* What opens a vault from now on, without its secret.  The owner's to wipe. */
struct nf_unlocked {
	uint8_t root_key[NF_KEY_BYTES];
	struct nf_slot_key slot_key; /* opens what a rekey elsewhere makes of the slot */
	bool kept;  /* the header to open by is the copy that this device keeps */
	bool fresh; /* ... and it was read from the store right now, which needs nothing to be written */
};

/* Runs the child.  A device that knows the vault uses the copy that the last mount
 * kept if the store does not answer soon, or with OFFLINE at once. */
int nf_unlock(const char *address, const struct nf_store_options *so, const struct nf_secret *secret, bool offline,
	      struct nf_unlocked *out);
/* Loads the header by ROOT_KEY from STORE, or the copy (*KEPT in: do not ask the store; out: the copy it is), and checks
 * it against what this device remembers, which is updated; *WHERE as nf_pin_check(). */
int nf_header_open(const char *address, struct nf_store *store, const uint8_t root_key[NF_KEY_BYTES], bool *kept,
		   struct nf_header **out, char **where);
/* Loads the newest header by SECRET, which must open that one and not only an older generation that the
 * store still has: a key that was removed opens nothing here. USED (may be NULL): the slot. Runs the KDF. */
int nf_header_open_by(const char *address, struct nf_store *store, const struct nf_secret *secret, struct nf_header **out,
		      uint8_t used[NF_SLOT_ID_BYTES]);
/* Puts the header that this device remembers of ADDRESS back on STORE, which shows none that can be read, or only older ones of
 * the same root key; SECRET must open it.  *OUT: it, unlocked.  -NF_E_KEY_WRONG; -EEXIST: the store has a header; -ENOENT: no
 * copy here; -NF_E_HEADER_MISSING: nor has the store anything else of a vault.  Runs the KDF. */
int nf_header_restore(const char *address, struct nf_store *store, const struct nf_secret *secret, struct nf_header **out);
/* For a mount that has NOW and may know its slot's key (SLOT_KEY, or NULL): the vault's header as the store has it,
 * opened by NOW's root key or, after a rekey, by the slot's key; checked against what this device remembers, which is
 * updated.  Headers that differ are merged and, with WRITES, written as one (a failure is left to the next time).
 * -NF_E_KEY_CHANGED: there are new keys, and ours opens none. */
int nf_header_meet(const char *address, struct nf_store *store, const struct nf_header *now,
		   const struct nf_slot_key *slot_key, bool writes, struct nf_header **out, char **where);
/* No core dumps, no ptrace by the same user. Best effort. */
void nf_process_harden(void);

#endif
