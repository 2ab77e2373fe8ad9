/* foliofs/fs.h - a filesystem as the FUSE edge sees it: calls on inode numbers.
 *
 * The front end (src/fuse/) turns each request of the kernel into a struct nf_call and
 * submits it; the filesystem (src/vault/, an example, a test) completes it later
 * with nf_call_done(), exactly once, possibly before submit returns, on any thread.  submit never
 * blocks: a call that needs the network or much disk is completed from another thread.
 *
 * An inode is known by its number alone: numbers are never reused, so the front end keeps no
 * table of inodes and FORGET needs no answer.  Errors are codes of foliofs/error.h; they become
 * an errno only in src/fuse/reply.c.
 *
 * Strings and data of a call are owned by the call: names are copied into it; `data` of a
 * WRITE or SETXATTR is borrowed from the transport until submit returns unless the filesystem calls
 * nf_call_keep_data() before that. */
#ifndef FOLIOFS_FS_H
#define FOLIOFS_FS_H

#include "foliofs/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

/* What is declared here is what the shared library shows. */
#pragma GCC visibility push(default)

#define NF_CALLS(X)                                                                                \
	X(LOOKUP)      /* ino, name -> attr (attr.ino 0 with error 0: a negative entry) */         \
	X(GETATTR)     /* ino, [file] -> attr */                                                   \
	X(SETATTR)     /* ino, [file], mask, set -> attr */                                        \
	X(READLINK)    /* ino -> text */                                                           \
	X(MKNOD)       /* ino (parent), name, mode, rdev -> attr */                                \
	X(MKDIR)       /* ino, name, mode -> attr */                                               \
	X(UNLINK)      /* ino, name */                                                             \
	X(RMDIR)       /* ino, name */                                                             \
	X(SYMLINK)     /* ino, name, name2 = target -> attr */                                     \
	X(RENAME)      /* ino, name, ino2, name2, flags (RENAME_NOREPLACE, RENAME_EXCHANGE) */     \
	X(LINK)        /* ino, ino2 = new parent, name2 -> attr */                                 \
	X(CREATE)      /* ino, name, mode, flags -> attr, file */                                  \
	X(TMPFILE)     /* ino (directory), mode, flags -> attr, file */                            \
	X(OPEN)        /* ino, flags -> file */                                                    \
	X(RELEASE)     /* ino, file; cannot fail */                                                \
	X(READ)        /* ino, file, offset, size -> iov */                                        \
	X(WRITE)       /* ino, file, offset, size, data, write_flags -> count */                   \
	X(FLUSH)       /* ino, file: close(2) of one descriptor */                                 \
	X(FSYNC)       /* ino, file, datasync */                                                   \
	X(OPENDIR)     /* ino -> file */                                                           \
	X(READDIR)     /* ino, file, offset = cookie, size, fill -> entries by fill */             \
	X(RELEASEDIR)  /* ino, file */                                                             \
	X(FSYNCDIR)    /* ino, file, datasync */                                                   \
	X(STATFS)      /* -> statfs */                                                             \
	X(SETXATTR)    /* ino, name, data, size, flags (XATTR_CREATE, XATTR_REPLACE) */            \
	X(GETXATTR)    /* ino, name, size -> buf/count (size 0: count only) */                     \
	X(LISTXATTR)   /* ino, size -> buf/count */                                                \
	X(REMOVEXATTR) /* ino, name */                                                             \
	X(FALLOCATE)   /* ino, file, mode, offset, size */                                         \
	X(LSEEK)       /* ino, file, offset, flags = SEEK_DATA or SEEK_HOLE -> offset */           \
	X(COPY_RANGE)  /* ino, file, offset, ino2, file2, offset2, size -> count */                \
	X(IOCTL)       /* ino, file, cmd, data, size, out_size -> buf/count */

enum nf_call_op {
#define X(name) NF_CALL_##name,
	NF_CALLS(X)
#undef X
	NF_CALL_NR
};
/* "LOOKUP" and so on; never NULL. */
const char *nf_call_name(enum nf_call_op op);

struct nf_attr {
	uint64_t ino;
	uint64_t size_bytes;
	uint64_t blocks; /* of 512 bytes */
	struct timespec atime, mtime, ctime, btime;
	uint32_t mode;
	uint32_t nlink;
	uint32_t uid, gid;
	uint64_t rdev;
	uint32_t blksize;
};

enum {
	NF_SET_MODE = 1 << 0,
	NF_SET_UID = 1 << 1,
	NF_SET_GID = 1 << 2,
	NF_SET_SIZE = 1 << 3,
	NF_SET_ATIME = 1 << 4,
	NF_SET_MTIME = 1 << 5,
	NF_SET_ATIME_NOW = 1 << 6,
	NF_SET_MTIME_NOW = 1 << 7,
	NF_SET_CTIME = 1 << 8,
	NF_SET_KILL_SUIDGID = 1 << 9, /* clear S_ISUID and (if group-executable) S_ISGID with the change */
};

/* write_flags */
enum {
	NF_WRITE_CACHE = 1 << 0,        /* from the kernel's page cache (shared mmap): whole pages */
	NF_WRITE_KILL_SUIDGID = 1 << 1,
};

struct nf_statfs {
	uint64_t total_bytes, free_bytes;
	uint64_t files, files_free;
	uint32_t name_max;
};

struct nf_open_file; /* the filesystem's; the front end passes it back */

struct nf_call;
/* READDIR: adds an entry; false when the buffer is full (the entry was not taken). COOKIE is the offset to go
 * on after it.  ATTR NULL: plain readdir (then INO and TYPE count). */
typedef bool nf_dir_fill_fn(struct nf_call *c, const char *name, size_t name_len, uint64_t ino,
			    uint32_t mode, const struct nf_attr *attr, uint64_t cookie);

struct nf_call {
	/* Set by the front end. */
	enum nf_call_op op;
	uint32_t uid, gid, pid, umask;
	uint64_t unique; /* for traces */
	uint64_t ino, ino2;
	char name[256], name2[4096];
	struct nf_open_file *file, *file2;
	uint64_t offset, offset2;
	uint64_t size;
	uint32_t mode;
	uint32_t flags;       /* open flags and others by op */
	uint32_t write_flags;
	uint32_t mask;        /* SETATTR; OPEN and CREATE with O_TRUNC: 0 or NF_SET_KILL_SUIDGID */
	bool datasync;
	bool want_attrs;      /* READDIR: readdirplus */
	bool drops_pages;     /* OPEN, CREATE, TMPFILE: with direct_io the kernel drops the pages a write covers before it sends it */
	uint64_t rdev;
	uint32_t cmd;
	uint32_t out_size;    /* IOCTL: most bytes the answer may have */
	uint64_t lock_owner;
	const void *data;
	nf_dir_fill_fn *fill;

	/* In and out. */
	struct nf_attr attr;  /* SETATTR: what to set */

	/* Results. */
	uint64_t count;
	struct iovec *iov;    /* READ: the bytes, valid until `release` */
	int nr_iov;
	void *buf;            /* READLINK (NUL-terminated), GETXATTR, LISTXATTR, IOCTL: malloc'd; the front end frees */
	struct nf_statfs statfs;
	bool keep_cache;      /* OPEN, OPENDIR: the kernel may keep what it has cached of the file or listing */
	bool direct_io;       /* OPEN: this descriptor bypasses the kernel's cache */
	/* [Optional] Called by the front end when the reply's bytes (iov) are no longer used. */
	void (*release)(struct nf_call *c);

	/* The filesystem's while it has the call. */
	void *fs_priv[6];
	/* Set by the front end when the kernel interrupts the call: the filesystem should end it soon with -EINTR. */
	_Atomic bool interrupted;

	/* The front end's. */
	void (*done)(struct nf_call *c, int error);
	void *owner;
	void *kept; /* the copy made by nf_call_keep_data() */
};

/* Completes C.  Afterwards the call is the front end's (but for `release`). */
void nf_call_done(struct nf_call *c, int error);
/* Copies `data` into the call, once; -ENOMEM. */
int nf_call_keep_data(struct nf_call *c);

struct nf_fs;

struct nf_fs_ops {
	/* [Required] Starts C; must not block on the network. */
	void (*submit)(struct nf_fs *fs, struct nf_call *c);
	/* [Optional] C was submitted and is now interrupted (c->interrupted is set).  May race with its
	 * completion on another thread: C stays readable until this returns, and a C that is
	 * already done must be left alone. */
	void (*interrupt)(struct nf_fs *fs, struct nf_call *c);
};

/* What the filesystem asks of the front end: changes the kernel must be told of. Thread safe; queued, sent by a thread of
 * its own; DONE (may be NULL) is called when the kernel has been told (or is gone: then possibly before the call
 * returns). */
struct nf_notify_ops {
	/* Cached pages of [offset, offset+len) (len 0: to the end) and the attributes of INO are stale. offset < 0:
	 * attributes only. */
	void (*inval_inode)(void *ctx, uint64_t ino, int64_t offset, int64_t len,
			    void (*done)(void *arg), void *arg);
	/* The entry NAME of directory INO is stale (added, removed or pointing elsewhere). */
	void (*inval_entry)(void *ctx, uint64_t ino, const char *name, size_t name_len);
	/* Everything is stale. */
	void (*inval_all)(void *ctx);
};

/* Embedded first in a filesystem. */
struct nf_fs {
	const struct nf_fs_ops *ops;
	const struct nf_notify_ops *notify; /* NULL: nobody to tell */
	void *notify_ctx;
	bool read_only;
};

/* --- serving it ------------------------------------------------------------------- */

struct nf_fuse_options {
	const char *mount_point;
	const char *fsname;        /* the source shown in /proc/mounts */
	const char *subtype;       /* the type shown is fuse.SUBTYPE */
	const char *mount_options; /* more, comma-separated, as mount.fuse3(8) has them; NULL */
	bool allow_other;          /* not only to the user who mounts */
	/* How long the kernel may keep attributes and names without asking again.  A filesystem that tells every change
	 * made behind the kernel's back (fs->notify) may say an hour. */
	double attr_timeout_s;
	double entry_timeout_s;
	double negative_timeout_s;
	/* [Optional] Mounted, requests are being served from now on.  On the caller's thread. */
	void (*ready)(void *ctx);
	void *ctx;
};

/* Mounts FS and serves it until it is unmounted, or SIGTERM, SIGINT or SIGHUP arrives, which unmounts it.  The kernel
 * checks permissions by the attributes FS gives.  Returns when no call is under way and every open file was released: 0, or
 * what went wrong with a sentence in WHY (may be NULL).  FS is borrowed; fs->notify is valid during the call.
 * One mount a process: signals are the process's. */
int nf_fuse_main(const struct nf_fuse_options *o, struct nf_fs *fs, char *why, size_t why_bytes);

#pragma GCC visibility pop

#endif
