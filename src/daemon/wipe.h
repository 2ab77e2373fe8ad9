/* daemon/wipe.h - making what this device keeps of a vault unreadable. */
#ifndef NF_DAEMON_WIPE_H
#define NF_DAEMON_WIPE_H

#include <stdbool.h>

/* Everything cached is sealed under keys that only the vault's header has, wrapped by the passphrase.  So the copy of the
 * header on this device goes first, overwritten: from then on what is left here opens for nobody who has not got the header
 * from the server as well.  Then cache, journal and pins are removed.  What stays: which vault is at ADDRESS, the
 * generation of its header, and the newest state this device has seen (sealed), all against being shown an older one.
 *
 * -ENOENT: nothing is known of ADDRESS.  -NF_E_CACHE_LOCKED: it is mounted.  -EBUSY: it was not closed with everything on the
 * server, and not FORCE.  *WHERE (malloc'd) is what could not be removed. */
int nf_wipe_device(const char *address, const char *cache_dir, bool force, char **where);

#endif
