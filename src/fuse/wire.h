/* fuse/wire.h - what the kernel's protocol has and <linux/fuse.h> 7.38 and libfuse 3.14 do not.
 *
 * Numbers and layouts of the kernel's interface, versions 7.39 to 7.45. */
#ifndef NF_FUSE_WIRE_H
#define NF_FUSE_WIRE_H

#include <linux/fuse.h>
#include <stdint.h>

enum {
	NF_WIRE_STATX = 52, /* 7.39 */
	NF_WIRE_OPCODE_NR,

	NF_WIRE_NOTIFY_INC_EPOCH = 8, /* 7.44 */

	/* In init flags2 (bit 36 of all). */
	NF_WIRE_DIRECT_IO_ALLOW_MMAP = 1 << 4, /* 7.39 */
};

struct nf_wire_sx_time {
	int64_t tv_sec;
	uint32_t tv_nsec;
	int32_t reserved;
};

struct nf_wire_statx_in {
	uint32_t getattr_flags;
	uint32_t reserved;
	uint64_t fh;
	uint32_t sx_flags;
	uint32_t sx_mask;
};

struct nf_wire_statx_out {
	uint64_t attr_valid;
	uint32_t attr_valid_nsec;
	uint32_t flags;
	uint64_t spare[2];
	uint32_t mask;
	uint32_t blksize;
	uint64_t attributes;
	uint32_t nlink;
	uint32_t uid;
	uint32_t gid;
	uint16_t mode;
	uint16_t spare0;
	uint64_t ino;
	uint64_t size;
	uint64_t blocks;
	uint64_t attributes_mask;
	struct nf_wire_sx_time atime, btime, ctime, mtime;
	uint32_t rdev_major, rdev_minor;
	uint32_t dev_major, dev_minor;
	uint64_t spare2[14];
};
_Static_assert(sizeof(struct nf_wire_statx_out) == 32 + 256, "layout of STATX's answer");

#endif
