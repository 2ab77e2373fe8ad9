/* daemon/unlock.h - from an address and a secret to an unlocked header.
 *
 * The key derivation takes 128 MiB and half a second: it runs in a child process that loads the header,
 * unlocks it and hands the root key back through a pipe.  The caller then loads the header again by
 * that key, so that its own memory stays small.  Call it before any thread is started. */
#ifndef NF_DAEMON_UNLOCK_H
#define NF_DAEMON_UNLOCK_H

#include "foliofs/store.h"
#include "vault/header.h"

/* Runs the child.  ROOT_KEY is the caller's to wipe.  A device that knows the vault uses the copy that the last mount
 * kept if the store does not answer soon, or with OFFLINE at once: *KEPT.  *KEPT and *FRESH: it was read from the
 * store right now. */
int nf_unlock(const char *address, const struct nf_store_options *so, const struct nf_secret *secret, bool offline,
	      uint8_t root_key[NF_KEY_BYTES], bool *kept, bool *fresh);
/* Loads the header by ROOT_KEY from STORE, or the copy (*KEPT in: do not ask the store; out: the copy it is), and checks
 * it against what this device remembers, which is updated; *WHERE as nf_pin_check(). */
int nf_header_open(const char *address, struct nf_store *store, const uint8_t root_key[NF_KEY_BYTES], bool *kept,
		   struct nf_header **out, char **where);
/* Loads the newest header by SECRET, which must open that one and not only an older generation that the
 * store still has: a key that was removed opens nothing here. USED (may be NULL): the slot. Runs the KDF. */
int nf_header_open_by(struct nf_store *store, const struct nf_secret *secret, struct nf_header **out,
		      uint8_t used[NF_SLOT_ID_BYTES]);
/* No core dumps, no ptrace by the same user. Best effort. */
void nf_process_harden(void);

#endif
