/* foliofs/file.h - a file whose data is the library's: an inode context that answers calls of the kernel itself.
 *
 * What every filesystem on both halves of the library (netfs.h, fs.h) needs: reads and writes handed on with their flags,
 * the memory of a read kept until it was sent, uses counted, so that a removed file goes with the last of them.  Names,
 * attributes and what is stored where stay the filesystem's. */
#ifndef FOLIOFS_FILE_H
#define FOLIOFS_FILE_H

#include "foliofs/fs.h"
#include "foliofs/netfs.h"

#pragma GCC visibility push(default)

struct nf_file {
	struct nf_ictx ic;  /* first: a struct nf_ictx of these is a struct nf_file */
	/* [Optional] The last use is about to end; on any thread, without a lock of the library's.  Must call nf_file_drop(),
	 * under the lock that guards looking files up: if that says so, nobody has it, and it may be removed. */
	void (*unused)(struct nf_file *f);
	/* The library's. */
	_Atomic unsigned uses;
	void *closing;
};

/* F is embedded in the filesystem's inode, and zeroed. As nf_ictx_init(), with stored bytes ending at the size. */
int nf_file_init(struct nf_file *f, struct nf_netfs *lib, const struct nf_netfs_ops *ops, uint64_t ino,
		 uint32_t block_bytes, uint64_t size_bytes);
/* A use: an open descriptor or a call has one.  For a call that looks a file up by name and then goes on with it: take the
 * use under the lock that guards the names. */
void nf_file_get(struct nf_file *f);
void nf_file_put(struct nf_file *f);
bool nf_file_drop(struct nf_file *f);

/* Answers C, a call on F, from any thread:
 *   READ, WRITE, FALLOCATE                     data; c->flags has O_DIRECT, O_SYNC, O_DSYNC
 *   SETATTR and OPEN                           the size, if one is to be set; OPEN makes F the open file
 *   IOCTL                                      the barrier, FOLIOFS_IOC_BARRIER
 *   FSYNC, RENAME                              everything of F is stored first
 *   RELEASE, FLUSH                             the use of OPEN ends; nothing
 *   any other                                  THEN answers; without it -ENOSYS
 * THEN [may be NULL] is called before the answer, without a lock, if all went well; its result is the answer. */
typedef int nf_file_then_fn(struct nf_file *f, struct nf_call *c);
void nf_file_call(struct nf_file *f, struct nf_call *c, nf_file_then_fn *then);
/* For CREATE, which the filesystem answers: F, in use, is C's open file. */
void nf_file_opened(struct nf_file *f, struct nf_call *c);

/* Nobody uses F any more.  Stores what is left, and ends the context: 0, or why something was given up.  Blocks; not from a
 * callback. */
int nf_file_close(struct nf_file *f);
/* The same without storing anything: the file is removed. DONE is called when the context has ended. */
void nf_file_discard(struct nf_file *f, void (*done)(struct nf_ictx *ic));

#pragma GCC visibility pop

#endif
