/* aio/crash_tree.h - the state of a disk in memory: inodes, names, data.
 *
 * Changes are by inode number, and hold also where what they refer to is not as
 * it was (after a crash an unlink may be kept whose create was dropped).  Not
 * thread safe.  For src/aio/file_crash*.c only. */
#ifndef NF_AIO_CRASH_TREE_H
#define NF_AIO_CRASH_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NF_CT_ROOT = 0, NF_CT_BLOCK = 4096, NF_CT_SECTOR = 512 };

struct nf_ct_name {
	char *name;
	uint32_t ino;
};

struct nf_ct_inode {
	bool is_dir;
	bool safe; /* and what is made in it: nf_crash_keep() */
	unsigned links;
	unsigned opens;
	uint64_t changed; /* stands for the mtime */
	/* A directory's. */
	struct nf_ct_name *names;
	size_t nr_names;
	/* A file's: data[0..size), blocks[i] true where block i is allocated. */
	uint8_t *data;
	size_t size;
	size_t cap;
	bool *blocks;
	size_t nr_blocks;
	uint64_t used_bytes;
};

struct nf_ct {
	struct nf_ct_inode *inodes;
	uint32_t nr;
};

void nf_ct_init(struct nf_ct *t);
void nf_ct_deinit(struct nf_ct *t);
void nf_ct_copy(struct nf_ct *to, const struct nf_ct *from);
/* malloc or abort. */
void *nf_ct_alloc(void *old, size_t size);

/* Makes inode INO, empty and without a name, if it does not exist. */
void nf_ct_make(struct nf_ct *t, uint32_t ino, bool is_dir);
/* The place of NAME in DIR; NULL. */
struct nf_ct_name *nf_ct_find(const struct nf_ct *t, uint32_t dir, const char *name);
/* NAME becomes INO's, whatever it was before. */
void nf_ct_link(struct nf_ct *t, uint32_t dir, const char *name, uint32_t ino);
/* NAME goes, if it is INO's. */
void nf_ct_unlink(struct nf_ct *t, uint32_t dir, const char *name, uint32_t ino);

/* DATA NULL: only the length. */
void nf_ct_write(struct nf_ct *t, uint32_t ino, uint64_t offset, const void *data, size_t len);
void nf_ct_truncate(struct nf_ct *t, uint32_t ino, uint64_t size);
/* Gives up the data of an inode that no name and no open file leads to. */
void nf_ct_reap(struct nf_ct *t, uint32_t ino);
void nf_ct_punch(struct nf_ct *t, uint32_t ino, uint64_t offset, uint64_t len);
/* What a write would allocate, in bytes. */
uint64_t nf_ct_needs(const struct nf_ct *t, uint32_t ino, uint64_t offset, size_t len);
/* What is allocated to files that have a name or are open. */
uint64_t nf_ct_used(const struct nf_ct *t);

#endif
