/* fuse/front.h - the FUSE edge: a struct nf_fs as a mounted directory.
 *
 * Requests -> struct nf_call -> replies; notifications; mount and unmount.  It knows nothing
 * of what the filesystem is. */
#ifndef NF_FUSE_FRONT_H
#define NF_FUSE_FRONT_H

#include "foliofs/fs.h"

struct nf_front;

struct nf_front_options {
	const char *mount_point;
	const char *fsname;       /* shown in /proc/mounts */
	const char *subtype;      /* "foliofs" */
	const char *kernel_opts;  /* more mount options, comma-separated, checked by the caller; NULL */
	bool read_only;
	bool allow_other;
	bool default_permissions;
	double attr_timeout_s;    /* kernel caching; the filesystem invalidates */
	double entry_timeout_s;
	double negative_timeout_s;
	unsigned readers;         /* threads that read requests; 0: 1 */
	uint32_t max_write_bytes; /* 0: 1 MiB */
	uint32_t read_ahead_bytes;/* kernel's; 0: 1 MiB */
	int socket_fd;            /* >= 0: no mount; requests come over this socket (tests) */
	bool debug;
};

/* Makes the session over FS (borrowed; fs->notify is set).  No mount yet.  -NF_E_OPTION for a mount option that is not
 * known, which is logged by name. */
int nf_front_new(const struct nf_front_options *o, struct nf_fs *fs, struct nf_front **out);
/* Mounts. -errno with a sentence in nf_front_error(). */
int nf_front_mount(struct nf_front *f);
/* Serves until unmounted or nf_front_stop(); returns when no call is in flight and every file is released. */
int nf_front_loop(struct nf_front *f);
/* From any thread or a signal handler: unmounts (the kernel first hands over dirty pages of mappings), or, if the mount
 * is in use, flushes and cuts it off; the loop ends by that. */
void nf_front_stop(struct nf_front *f);
void nf_front_unmount(struct nf_front *f);
void nf_front_free(struct nf_front *f); /* NULL allowed */
const char *nf_front_error(const struct nf_front *f);
/* Calls under way, one line each: op, inode, age. */
struct nf_text;
void nf_front_to_text(struct nf_front *f, struct nf_text *t);

#endif
