/* aio/file_crash.h - a disk in memory that can crash, for tests.
 *
 * nf_crash_ops() is a file table over a disk in memory.  Every operation that
 * changes the disk is recorded with a number, from 0, and the disk knows which of
 * them a power cut could no longer undo:
 *
 *   write, truncate, punch     durable after fdatasync of that file
 *   create, mkdir, unlink,     durable after fsync_dir of the directory
 *     rmdir
 *   rename                     durable after fsync_dir of both directories;
 *                              atomic: both names change, or neither
 *
 * nf_crash_image(c, n, seed) is the disk that a machine finds when the power went
 * after operation n-1 had returned, while operation n was under way.  What is
 * durable is there.  Each other operation is, by the seed, kept or dropped; a
 * write may also be torn into its sectors of 512 bytes (any of them kept), or
 * only lengthen the file, with zeros.  As any subset is kept, later operations
 * may be there and earlier ones not.
 *
 *   seed  NF_CRASH_DROP_ALL    nothing that was not durable
 *         NF_CRASH_KEEP_ALL    everything
 *         NF_CRASH_KEEP_NAMES  all names, no data
 *         NF_CRASH_KEEP_DATA   all data, no names
 *         NF_CRASH_RANDOM..    each operation by itself; with odd seeds the names
 *                              as a journaling file system keeps them: a prefix;
 *                              those that leave 2 when divided by 4 keep everything
 *                              but one write, of which the first sector is there
 *                              and the rest zeros (one of more than a sector, if
 *                              any is not durable)
 *
 * Besides, it can be full and it can fail.  A write that fails may have written
 * its first half.  After a failed fdatasync the file's data so far never becomes
 * durable, also when a later fdatasync succeeds (as Linux may behave).
 *
 * Paths are split at '/', absolute and relative ones alike; ".." is refused.
 * Files have fd == -1.  Thread safe.  Not for production: it aborts when memory
 * is out. */
#ifndef NF_AIO_FILE_CRASH_H
#define NF_AIO_FILE_CRASH_H

#include "aio/file.h"
#include "base/text.h"

struct nf_crash;

enum {
	NF_CRASH_DROP_ALL,
	NF_CRASH_KEEP_ALL,
	NF_CRASH_KEEP_NAMES,
	NF_CRASH_KEEP_DATA,
	NF_CRASH_RANDOM, /* this and all above */
	/* SEED % KINDS of random ones. */
	NF_CRASH_KINDS = 4,
	NF_CRASH_SPOILS = 2,
};

enum nf_crash_kind {
	NF_CRASH_CREATE,
	NF_CRASH_MKDIR,
	NF_CRASH_WRITE,
	NF_CRASH_TRUNCATE,
	NF_CRASH_PUNCH,
	NF_CRASH_RENAME,
	NF_CRASH_UNLINK,
	NF_CRASH_RMDIR,
	NF_CRASH_FDATASYNC,
	NF_CRASH_FSYNC_DIR,
	NF_CRASH_SYNC_LOST, /* recorded for an fdatasync that failed */
	NF_CRASH_READ,	    /* never recorded; for nf_crash_fail() */
	NF_CRASH_ANY,	    /* any of those that change the disk, for nf_crash_fail() */
};

int nf_crash_new(struct nf_crash **out);
/* All files must be closed.  NULL allowed. */
void nf_crash_free(struct nf_crash *c);
/* Borrowed for the disk's life. */
const struct nf_file_ops *nf_crash_ops(struct nf_crash *c);

/* Operations recorded so far. */
uint64_t nf_crash_nr_ops(struct nf_crash *c);
/* The disk after a crash at N <= nr_ops; the caller's.  It begins without history
 * (all it holds is durable) and without faults. */
int nf_crash_image(struct nf_crash *c, uint64_t n, uint64_t seed, struct nf_crash **out);

/* Blocks of 4 KiB that hold data, of files with a name or still open, in bytes. */
uint64_t nf_crash_used(struct nf_crash *c);
/* What is done beneath PATH (a directory) from now on is durable once it has returned: the disk of another
 * machine, which does not lose its power. */
void nf_crash_keep(struct nf_crash *c, const char *path);

/* The disk's size; writes that need more get -ENOSPC.  UINT64_MAX: no limit. */
void nf_crash_set_room(struct nf_crash *c, uint64_t total_bytes);
/* The NTH (0: the next) operation of KIND from now fails with ERR (-errno).  Once;
 * a second call replaces the first.  ERR 0: none. */
void nf_crash_fail(struct nf_crash *c, enum nf_crash_kind kind, uint64_t nth, int err);
/* The NTH (0: the next) operation that takes room (a write, a name made) from now, and TIMES - 1 after it, find none: -ENOSPC,
 * whatever `room` says.  A second call replaces the first; TIMES 0: none. */
void nf_crash_fill(struct nf_crash *c, uint64_t nth, uint64_t times);
/* How many have found none so far. */
uint64_t nf_crash_nr_filled(struct nf_crash *c);
/* The operations recorded, one a line. */
void nf_crash_to_text(struct nf_crash *c, struct nf_text *t);

#endif
