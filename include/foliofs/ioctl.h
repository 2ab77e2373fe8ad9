/* foliofs/ioctl.h - what applications may ask of an open file on a mounted foliofs.
 *
 * Needs nothing but kernel headers; no library.  On other filesystems these fail with ENOTTY. */
#ifndef FOLIOFS_IOCTL_H
#define FOLIOFS_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* ioctl(fd, FOLIOFS_IOC_BARRIER): what was written to the file so far, through any descriptor, becomes visible and
 * durable before anything written to it from now on.  Returns at once, without storing anything: after a crash
 * or a lost connection the file may be without both, with the first or with both, never with the second alone.
 *
 * FD must be open for writing (EBADF otherwise).  Bytes that a program put into a shared mapping count as written when the
 * kernel hands them over: msync(2) first.  Orders one file only.  EROFS on a read-only mount; EIO when earlier
 * writes could not be stored. */
#define FOLIOFS_IOC_BARRIER _IO(0xf1, 1)

/* ioctl(fd, FOLIOFS_IOC_MAP, &m): the file as it is kept, from m.start_bytes on, up to FOLIOFS_MAP_EXTENTS
 * pieces at a time.  Goes on at m.next_bytes, until that is UINT64_MAX.  A picture, not a promise: it may have
 * changed when it is looked at. */
#define FOLIOFS_IOC_MAP _IOWR(0xf1, 2, struct foliofs_map)

enum foliofs_map_what {
	FOLIOFS_MAP_STORED,  /* what blocks are made of; every byte of the file is in one extent */
	FOLIOFS_MAP_MEMORY,  /* bytes in memory, up to date */
	FOLIOFS_MAP_REGIONS, /* bytes modified and not stored yet */
};

/* flags of FOLIOFS_MAP_STORED */
#define FOLIOFS_EXTENT_HOLE 1u    /* zeros, nothing is kept */
#define FOLIOFS_EXTENT_INLINE 2u  /* a few bytes, kept with the attributes */
#define FOLIOFS_EXTENT_LOCAL 4u   /* on this machine, sealed; not on the server yet */
#define FOLIOFS_EXTENT_REMOTE 8u  /* on the server */
#define FOLIOFS_EXTENT_CACHED 16u /* on the server, and a copy is on this machine */

struct foliofs_extent {
	__u64 start_bytes;
	__u64 end_bytes;
	__u64 sealed_bytes; /* STORED: what it takes, compressed and encrypted */
	__u64 group;        /* REGIONS: the flush group, 0: none yet */
	__u32 flags;        /* STORED */
	__u32 state;        /* REGIONS: the letter of /proc: P, R, A, D or F */
};

/* The answer has to fit into an ioctl of 14 bits of size. */
#define FOLIOFS_MAP_EXTENTS 256

struct foliofs_map {
	/* Set by the caller. */
	__u64 start_bytes;
	__u32 what;        /* enum foliofs_map_what */
	__u32 reserved;    /* 0 */
	/* Results. */
	__u64 next_bytes;
	__u64 size_bytes;  /* of the file */
	__u32 block_bytes;
	__u32 nr_extents;
	struct foliofs_extent extents[FOLIOFS_MAP_EXTENTS]; /* ascending */
};

#endif
