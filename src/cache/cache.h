/* cache/cache.h - the local cache of packs: the server's sealed bytes at the
 * server's offsets, in one sparse file per pack, and nothing else.
 *
 * The cache never vouches for what it holds: every block authenticates itself
 * when it is opened, and a block that does not is reported back with
 * nf_cache_forget() and counts as a miss.
 *
 * Presence is a bitmap of 4 KiB units per pack, kept in memory and written beside
 * the pack's file.  It is wrong only towards "absent": a unit is marked after its
 * write has completed, maps are saved at close and now and then, and a map that
 * does not match its file (size, length, checksum) is dropped.  After a crash the
 * pages of a file may be lost although the map was saved: such a unit fails to
 * authenticate and is fetched again.  What was inserted as lasting is not lost (nf_cache_sync()).
 *
 * Pack names are 32 hex digits; the directory is DIR/packs/<xx>/<name>{,.map}.  A
 * pack's total length is not known here; units at its end are stored as far as
 * bytes were given (the last unit of an insert may be partial only if `at_end`).
 *
 * The size limit holds at all times: an insert first evicts least recently used
 * packs, and is dropped (0, nothing stored) if there is not enough that may go.
 * Where less than `min_free` is free there is nothing but what is kept and nodes of the tree (inserted as lasting): 16 MiB of packs
 * that hold some, while the disk has 8 MiB (or an eighth, if that is less) beside them.
 *
 * Units may be *kept*: they are not evicted and not dropped.  What is kept is said anew as a
 * whole, in rounds (nf_cache_keep_begin); it is not written to the disk.  A cache
 * opened with `hold` evicts nothing until the first round has ended.
 *
 * Thread safe.  Reads and inserts go through the aio engine and complete later. */
#ifndef NF_CACHE_CACHE_H
#define NF_CACHE_CACHE_H

#include "aio/engine.h"
#include "base/text.h"

enum { NF_CACHE_UNIT = 4096 };

struct nf_pack_id {
	uint8_t b[16];
};

struct nf_cache;

struct nf_cache_options {
	const char *dir;
	uint64_t size_limit_bytes;
	uint64_t min_free_bytes; /* of the file system */
	bool hold;		 /* something is kept, and what it is will be said later */
	const struct nf_file_ops *files;
	struct nf_aio *aio; /* borrowed for the cache's life */
};

/* Opens and scans DIR (made if missing).  The caller holds the directory's lock. */
int nf_cache_open(const struct nf_cache_options *o, struct nf_cache **out);
/* R is the account of the disk that the cache is on: what is going to be written by others is left free as if it were written.
 * Before anything is inserted by a second thread; borrowed until close. */
struct nf_room;
void nf_cache_share(struct nf_cache *c, struct nf_room *r);
/* Waits for I/O under way, saves the maps, closes.  NULL allowed. */
void nf_cache_close(struct nf_cache *c);

/* How much of [offset, offset+len) of PACK is present from its start on, in bytes:
 * 0 for a miss at once. */
size_t nf_cache_present(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes,
			size_t len_bytes);

struct nf_cache_io {
	/* Set by the caller. */
	struct nf_pack_id pack;
	uint64_t offset_bytes;
	size_t len_bytes;
	void *buf; /* read: filled; insert: borrowed until done */
	bool at_end; /* insert: the pack ends at offset + len */
	bool lasting; /* insert: nf_cache_sync() makes it durable */
	void (*done)(struct nf_cache_io *io);
	void *ctx;
	/* Set before done: 0; read: 1 (NF_CACHE_MISS) if not all of it is there. */
	int error;
	struct nf_aio_job job;
	void *priv;
};
enum { NF_CACHE_MISS = 1 };

/* Reads a range; done with 0, NF_CACHE_MISS, or a negative disk error (the caller
 * treats it as a miss). */
void nf_cache_read(struct nf_cache *c, struct nf_cache_io *io);
/* Stores a range that starts on a unit boundary.  Errors are for the counters: a
 * cache that cannot be written is merely absent. */
void nf_cache_insert(struct nf_cache *c, struct nf_cache_io *io);
/* The bytes of this range did not authenticate: marks them absent. */
void nf_cache_forget(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes,
		     size_t len_bytes);
/* Takes a finished local file of LEN bytes as the pack's whole content by renaming it. */
int nf_cache_adopt(struct nf_cache *c, const struct nf_pack_id *pack, const char *path,
		   uint64_t len_bytes);
/* Writes the maps of packs whose presence changed (ALL: or that were used), so that a process that comes after
 * this one was killed finds what they hold.  Errors cost presence only. Blocks on the disk, without syncing. */
void nf_cache_save(struct nf_cache *c, bool all);
/* What was inserted as lasting (nodes of the tree) is durable, and will be found, when it returns.  Quick if that is
 * nothing new; blocks on the disk. */
void nf_cache_sync(struct nf_cache *c);
/* Bytes are about to be known to somebody that will be inserted as lasting: nf_cache_sync() waits for that, until
 * nf_cache_announced() is called with the result. */
unsigned nf_cache_announce(struct nf_cache *c);
void nf_cache_announced(struct nf_cache *c, unsigned round);
/* Drops everything that is neither in use nor kept. */
int nf_cache_drop(struct nf_cache *c);
/* Marks a range absent unless it is kept; its room comes back with nf_cache_trim(). */
void nf_cache_discard(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes, size_t len_bytes);
/* Gives back the blocks of units that are not present.  *FREED_BYTES (may be NULL) is what came back. */
int nf_cache_trim(struct nf_cache *c, uint64_t *freed_bytes);
/* Evicts until the limits hold.  They may be passed when others fill the disk. */
int nf_cache_tidy(struct nf_cache *c);
/* The first pack with an id above AFTER (NULL: of all) that has units; -ENOENT. */
int nf_cache_next(struct nf_cache *c, const struct nf_pack_id *after, struct nf_pack_id *out);
/* The first run of units present in PACK from OFFSET on: false if there is none. */
bool nf_cache_run(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes, uint64_t *start_bytes,
		  uint64_t *end_bytes);

/* --- what is kept ----------------------------------------------------------------
 *
 *	begin -> keep, keep, keep ... -> end(true): that and nothing else is kept from now on
 *	                              -> end(false): as if it had not begun
 *
 * During a round both what was kept and what is said to be are.  One round at a time. */
void nf_cache_keep_begin(struct nf_cache *c);
/* Whether it is there or not.  -ENOMEM. */
int nf_cache_keep(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes, size_t len_bytes);
struct nf_cache_kept {
	uint64_t bytes;		/* units, there or not, with the maps of their packs */
	uint64_t present_bytes; /* of them */
};
/* Of the round that is on, or of what is kept. */
void nf_cache_kept(struct nf_cache *c, struct nf_cache_kept *out);
void nf_cache_keep_end(struct nf_cache *c, bool take);
/* How much of what K misses has room, if all that is not kept goes. */
uint64_t nf_cache_keep_room(struct nf_cache *c, const struct nf_cache_kept *k);

struct nf_cache_stats {
	uint64_t size_limit_bytes;
	uint64_t min_free_bytes;
	uint64_t used_bytes;
	uint64_t nr_packs;
	uint64_t kept_bytes; /* of used_bytes: present and kept */
	uint64_t disk_free_bytes, disk_bytes; /* 0: the disk does not say */
	bool held;	     /* nothing is evicted until the first round has ended */
};
void nf_cache_stats(struct nf_cache *c, struct nf_cache_stats *out);
void nf_cache_to_text(struct nf_cache *c, struct nf_text *t);

#endif
