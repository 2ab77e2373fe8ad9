/* daemon/paths.h - where things are kept, and what a device remembers of a vault.
 *
 *	$XDG_CACHE_HOME/foliofs/<volume id>/      sealed packs, the lock; may be deleted when unmounted and clean
 *	$XDG_STATE_HOME/foliofs/<volume id>/      journal, writer state, pin, copy of the header
 *	$XDG_STATE_HOME/foliofs/stores/<hash>     the volume id last seen at an address
 *	runtime directory                         control sockets; 0700, ours, checked
 *
 * The pin is checked each time a header was unlocked (docs/format.md section 3): another volume at a
 * known address, another root key or an older generation is refused. */
#ifndef NF_DAEMON_PATHS_H
#define NF_DAEMON_PATHS_H

#include "vault/header.h"

#include <sys/types.h>

struct nf_vault_paths {
	char *cache; /* owned */
	char *state; /* owned */
};

/* CACHE_DIR: the user's own choice of a cache directory, NULL: by the table above. */
int nf_vault_paths_of(const uint8_t volume_id[NF_VOLUME_ID_BYTES], const char *cache_dir,
		      struct nf_vault_paths *out);
void nf_vault_paths_deinit(struct nf_vault_paths *p);

/* The runtime directory, made when missing; *OUT is the caller's.  -EPERM if one is there that others
 * could have prepared. */
int nf_runtime_dir(char **out);
/* The I-th place where a daemon of user UID may have its runtime directory; NULL: no more. Malloc'd. */
char *nf_runtime_candidate(uid_t uid, unsigned i);

/* Whether this device may use H, just unlocked, for ADDRESS: -NF_E_HEADER_FOREIGN,
 * -NF_E_HEADER_ROLLBACK.  *WHERE (malloc'd, set on failure) is the file that remembers otherwise. */
int nf_pin_check(const char *address, const struct nf_header *h, char **where);
/* Remembers H for ADDRESS, with a copy of it for mounting without the store. */
int nf_pin_save(const char *address, const struct nf_header *h);
/* Which vault was last seen at ADDRESS; -ENOENT. */
int nf_known_volume(const char *address, uint8_t volume_id[NF_VOLUME_ID_BYTES]);
/* The copy of the header of what was last seen at ADDRESS, locked; -ENOENT. */
int nf_pin_header(const char *address, struct nf_header **out);

#endif
