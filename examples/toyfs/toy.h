/* toyfs - a small encrypted filesystem on the foliofs library: one directory of files, kept in plain files
 * of another directory.  docs/writing-a-filesystem.md goes through it.
 *
 *	STORE/map-INO            a file: name, attributes, size, and the version of each of its blocks
 *	STORE/INO-INDEX-VERSION  a block
 *
 * All of them are sealed with AES-256-GCM.  A block is never overwritten: a new version is a new file, and it counts
 * from the moment a map names it.  So a map is what a crash leaves: it is written when a flush group has drained.
 *
 *	main.c   names, and calls of the kernel
 *	store.c  calls of the library, blocks and maps; files of STORE, sealed */
#ifndef TOY_H
#define TOY_H

#include <errno.h>
#include <foliofs/file.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOY_BLOCK_BYTES = 65536, TOY_KEY_BYTES = 32, TOY_NAME_MAX = 255 };

/* I never changed;  l t->lock */
struct toy_file {
	struct nf_file f;       /* first: a struct nf_file, or nf_ictx, of ours is a struct toy_file */
	struct toy *t;          /* I */
	struct toy_file *next;  /* l */
	uint64_t ino;           /* I */
	char name[TOY_NAME_MAX + 1]; /* l  "": removed */
	uint32_t mode, uid, gid;/* l */
	struct timespec mtime;  /* l */
	uint64_t stamp;         /* at load: the map's */
	uint64_t stored_bytes;  /* l  the size that the map has */
	uint64_t nr_blocks;     /* l  of which versions are known */
	uint64_t *now;          /* l  version of each block that reads find; 0: a hole */
	uint64_t *kept;         /* l  the same, as the map has it */
};

struct toy {
	struct nf_fs fs;        /* first: what the front end knows of us */
	struct nf_netfs *lib;   /* I */
	int dir;                /* I  STORE */
	uint8_t key[TOY_KEY_BYTES]; /* I */
	pthread_mutex_t lock;
	struct toy_file *files; /* l */
	uint64_t last_ino;      /* l  not used twice in a mount */
	_Atomic uint64_t last_version; /* of blocks, and stamps */
};

/* A map names its file, so all maps together are the directory. */
struct toy_map {
	uint64_t size_bytes, stamp; /* of two with one name the one with the higher stamp has it */
	int64_t mtime_s, mtime_ns;
	uint32_t mode, uid, gid;
	char name[TOY_NAME_MAX + 1];
	uint64_t nr_blocks, version[];
};

/* store.c; all give 0 or an error of foliofs/error.h: -errno, or -NF_E_... for what is sealed otherwise or was changed. */

/* Reads every map and removes what a crash left. */
int toy_load(struct toy *t);
/* A new file; without a lock. */
int toy_file_new(struct toy *t, uint64_t ino, struct toy_file **out);
int toy_save_locked(struct toy_file *f); /* its map */
void toy_file_remove(struct toy_file *f); /* nobody uses it: its map and its blocks go */
void toy_file_free(struct toy_file *f);

#endif
