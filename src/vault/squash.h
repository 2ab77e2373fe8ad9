/* vault/squash.h - operations that say the same in less.
 *
 * Of a list of operations, all of one dot that nobody has seen yet:
 *
 *   made and removed in it       CREATE and everything of that inode goes
 *   data of one file             one DATA operation, where the first stood: only blocks that survive are named (unless that
 *                                would be too large for one)
 *   attributes of one inode      one SETATTR, where the last stood: from what the first saw to what the last set
 *   one extended attribute       the last XATTR
 *
 * What an operation was based on (stamps, base values) is what the first of those it stands for was based on, so a conflict
 * met by any of them is met by it, and ends the same way: one conflict copy, with everything in it.  Where an inode that is
 * left out had taken the place of another by a rename, that place is handed on: who replaces or removes it next is said to
 * replace or remove that other one, so a version that others edited meanwhile is kept as before.  Times of directories
 * that only knew what is left out are set by SETATTRs at the end.  Not made shorter: chains of renames, what an
 * exchanging rename touched, files with data cloned as whole windows.
 *
 * A function of its arguments; not thread safe, needs no lock. */
#ifndef NF_VAULT_SQUASH_H
#define NF_VAULT_SQUASH_H

#include "vault/op.h"

struct nf_squash {
	const uint8_t *ops; /* valid, as they took effect one after the other */
	size_t len;
	/* The inode as it is after them: 0, NF_TREE_NONE (not known, or gone), negative. Pointers in *OUT are not used. */
	int (*inode)(void *ctx, uint64_t ino, struct nf_inode_item *out);
	void *ctx;
	size_t windows_max_bytes; /* what one DATA operation may say of blocks; 0: 1 MiB */
	/* Results. */
	uint32_t nr_in, nr_out;
	struct nf_buf out; /* the caller's to free, also after an error */
};
int nf_squash(struct nf_squash *q);
/* Sets the times of the directory INO, which are those of ITEM now, as operations that are left out did. */
struct nf_op nf_squash_times(uint64_t ino, const struct nf_inode_item *item);

#endif
