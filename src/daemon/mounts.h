/* daemon/mounts.h - what /proc/self/mountinfo says of a path. */
#ifndef NF_DAEMON_MOUNTS_H
#define NF_DAEMON_MOUNTS_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

struct nf_mount {
	char at[PATH_MAX];
	char source[PATH_MAX]; /* fsname */
	char type[64];
	unsigned major, minor; /* of its device: what control sockets are named by */
	uid_t uid;             /* who mounted it */
};

/* The foliofs mount that PATH is in; EXACT: that is mounted there.  Never looks into the mount, so
 * that a dead one cannot hang it.  -ENOENT. */
int nf_mount_find(const char *path, bool exact, struct nf_mount *out);
/* The only foliofs mount of this user; -ENOENT if there is none, -ENOTUNIQ if more than one. */
int nf_mount_only(struct nf_mount *out);

#endif
