/* toyfs - a small encrypted filesystem on the foliofs library: one directory of files, kept in plain files
 * of another directory.  docs/writing-a-filesystem.md goes through it.
 *
 *	STORE/names              the directory: a line a file
 *	STORE/map-INO            size of a file, and the version of each of its blocks
 *	STORE/INO-INDEX-VERSION  a block
 *
 * All of them are sealed with AES-256-GCM.  A block is never overwritten: a new version is a new file, and it counts
 * from the moment a map names it.  So a map is what a crash leaves: it is written when a flush group has drained.
 *
 *	calls.c   calls of the kernel   -> names.c and the library
 *	blocks.c  calls of the library  -> files of STORE
 *	names.c   the directory, and opening the store
 *	seal.c    encryption, and files written whole */
#ifndef TOY_H
#define TOY_H

#include <foliofs/fs.h>
#include <foliofs/netfs.h>

#include <pthread.h>

enum { TOY_BLOCK_BYTES = 65536, TOY_KEY_BYTES = 32, TOY_SEAL_BYTES = 28, TOY_NAME_MAX = 255 };

/* I never changed;  l t->lock */
struct toy_file {
	struct nf_ictx ic;      /* first: a struct nf_ictx of ours is a struct toy_file */
	struct toy *t;          /* I */
	struct toy_file *next;  /* l */
	uint64_t ino;           /* I */
	char name[TOY_NAME_MAX + 1]; /* l  "": removed */
	uint32_t mode, uid, gid;/* l */
	struct timespec mtime;  /* l */
	unsigned uses;          /* l  open descriptors and calls under way */
	int error;              /* l  a map that could not be written: fsync says so */
	uint64_t *version;      /* l  of each block; 0: a hole */
	size_t nr_blocks;       /* l */
	uint64_t (*garbage)[2]; /* l  index, version: not in the next map */
	size_t nr_garbage;      /* l */
};

struct toy {
	struct nf_fs fs;        /* first: what the front end knows of us */
	struct nf_netfs *lib;   /* I */
	int dir;                /* I  STORE */
	uint8_t key[TOY_KEY_BYTES]; /* I */
	pthread_mutex_t lock;
	struct toy_file *files; /* l */
	uint64_t last_ino;      /* l */
	_Atomic uint64_t last_version;
	/* Reads wait here for a thread: who calls for them must not be kept. */
	pthread_t reader;       /* I */
	pthread_cond_t more;
	struct nf_subreq *reads;/* l  a list by sq->priv */
	bool stop;              /* l */
};

/* --- seal.c: 0 or -errno; -NF_E_XFORM_BAD_TAG for what was sealed otherwise or changed */

/* OUT has room for LEN + TOY_SEAL_BYTES; WHO and WHAT say what it is, so that nothing can stand for another. */
int toy_seal(const struct toy *t, uint64_t who, uint64_t what, const void *plain, size_t len, void *out);
int toy_unseal(const struct toy *t, uint64_t who, uint64_t what, const void *sealed, size_t len, void *out);
/* A file of STORE, synced; *OUT is malloc'd. */
int toy_write_file(const struct toy *t, const char *name, const void *bytes, size_t len);
int toy_read_file(const struct toy *t, const char *name, void **out, size_t *len);
/* The same sealed; what was under NAME before is replaced at once or not at all. */
int toy_put(const struct toy *t, const char *name, uint64_t who, const void *bytes, size_t len);
int toy_get(const struct toy *t, const char *name, uint64_t who, void **out, size_t *len);

/* --- blocks.c */
int toy_file_open(struct toy *t, struct toy_file *f); /* t, ino and name are set */
/* Removed and not used any more: forgets what is not stored and removes what is. */
void toy_file_remove(struct toy_file *f);
/* Stores what is left and frees F. */
int toy_file_close(struct toy_file *f);
void *toy_reader(void *t);

/* --- names.c */
int toy_open(const char *store, const uint8_t key[TOY_KEY_BYTES], struct toy *t);
int toy_close(struct toy *t);
struct toy_file *toy_find_locked(struct toy *t, const char *name);
struct toy_file *toy_by_ino_locked(struct toy *t, uint64_t ino);
int toy_create_locked(struct toy *t, const char *name, uint32_t mode, uint32_t uid, uint32_t gid,
		      struct toy_file **out);
/* Writes the directory. */
int toy_names_save_locked(struct toy *t);

/* --- calls.c */
extern const struct nf_fs_ops toy_fs_ops;

#endif
