/* cache/types.h - the structs; for src/cache only.
 *
 *   unit (4 KiB):   absent ---- charged ---- present
 *                     ^    reserve     write done |
 *                     |        ^----- forget -----+
 *                     +------- the pack is evicted (whole)
 *
 * Charged units count against the limit from before their blocks are allocated
 * until the file is gone, so the limit holds at every moment. */
#ifndef NF_CACHE_TYPES_H
#define NF_CACHE_TYPES_H

#include "base/avl.h"
#include "base/buf.h"
#include "base/lock.h"
#include "cache/cache.h"

enum {
	NF_CACHE_NAME = 32,	    /* hex digits */
	NF_CACHE_MAP_HEADER = 40,
	NF_CACHE_OPEN_MAX = 64,	    /* files kept open that nobody uses at the moment */
};
/* Bounds the bitmaps of one pack: 2 x 32 KiB. */
#define NF_CACHE_PACK_MAX (UINT64_C(1) << 30)
/* So much of packs with nodes stays where less than min_free is free: a mount without the store needs them. */
#define NF_CACHE_NODES_KEPT (UINT64_C(16) << 20)
/* Maps are saved after this much was stored. */
#define NF_CACHE_SAVE_EVERY (UINT64_C(64) << 20)

/* I set before publication, then never changed;  l the cache's lock */
struct nf_pack {
	struct nf_avl_node node;  /* l  by id */
	struct nf_list lru;	  /* l  on no list while `busy` */
	struct nf_list open_link; /* l  on c->open while file is set */
	struct nf_cache *cache;	  /* I */
	struct nf_pack_id id;	  /* I */
	struct nf_file *file;	  /* l  NULL: not open; stays while pinned */
	uint64_t *present;	  /* l  bit i: unit i holds the server's bytes */
	uint64_t *charged;	  /* l  bit i: unit i counts against the limit */
	uint64_t *kept;		  /* l  NULL: none is kept */
	uint64_t *marked;	  /* l  kept, as the round under way says; NULL: none */
	size_t nr_units;	  /* l  bits in each; a multiple of 64 */
	uint64_t length_bytes;	  /* l  how far bytes were given */
	bool ended;		  /* l  length_bytes is the pack's end */
	bool exact;		  /* at open only: what the map said of the file's blocks */
	uint64_t charged_bytes;	  /* l  units and map file */
	uint64_t used_at;	  /* l  c->clock when used last */
	unsigned pins;		  /* l  I/O under way */
	bool busy;		  /* l  being evicted or adopted: absent for everybody else */
	struct nf_list unsynced;  /* l  on c->unsynced: nodes in it are not durable */
	bool lasting;		  /* l  holds nodes that are: its map must never be torn */
	bool nodes;		  /* l  holds nodes of the tree, durable or not: counted in c->node_bytes */
	uint64_t map_bytes;	  /* of the map file; theirs who have c->saving */
	bool punching;		  /* l  blocks of absent units are being freed: no inserts */
	bool solid;		  /* l  nothing is charged but what is kept, as far as is known */
	bool changed;		  /* l  presence on disk is not this one */
	bool touched;		  /* l  used since the map was written */
};

/* I never changed;  l lock */
struct nf_cache {
	struct nf_lock lock;
	struct nf_cond quiet;		/* l  nr_pins or nr_busy went down */
	char *dir;			/* I */
	const struct nf_file_ops *files; /* I */
	struct nf_aio *aio;		/* I */
	uint64_t limit_bytes;		/* I */
	uint64_t min_free_bytes;	/* I */
	struct nf_room *shared;		/* I  NULL: nobody else tells what he is going to write */
	struct nf_avl packs;		/* l */
	struct nf_list lru;		/* l  least recently used first */
	struct nf_list open;		/* l  least recently opened first */
	size_t nr_open;			/* l */
	size_t nr_packs;		/* l */
	uint64_t used_bytes;		/* l  sum of charged_bytes, and what could not be removed */
	uint64_t node_bytes;		/* l  of them, of packs with nodes */
	uint64_t clock;			/* l */
	uint64_t unsaved_bytes;		/* l  stored since the maps were saved */
	unsigned nr_pins;		/* l */
	unsigned nr_busy;		/* l */
	struct nf_list unsynced;	/* l */
	bool saving;			/* l  maps are written: one thread at a time */
	unsigned round;			/* l  0 or 1: what is announced now belongs to it */
	unsigned announced[2];		/* l */
	bool synced_dirs[256];		/* of who has `saving` */
	bool hold;			/* l  nothing is evicted */
	bool marking;			/* l  a round is on */
};

/* pack.c.  Paths are built by the caller with these. */
void nf_pack_path(const struct nf_cache *c, const struct nf_pack_id *id, const char *suffix,
		  struct nf_text *t);
/* A pack that is in no table; freed by nf_pack_free(), its file closed. */
struct nf_pack *nf_pack_new(struct nf_cache *c, const struct nf_pack_id *id);
void nf_pack_free(struct nf_pack *p);
/* Room for units [0, nr) in the bitmaps. */
int nf_pack_grow(struct nf_pack *p, size_t nr_units);
/* The bitmap MAP of P, made if there is none. */
int nf_pack_need_bits(struct nf_pack *p, uint64_t **map);
/* Word I of what is kept, by the last round or the one under way. */
uint64_t nf_pack_kept_word(const struct nf_pack *p, size_t i);
bool nf_pack_bit(const uint64_t *bits, size_t unit);
void nf_pack_set(uint64_t *bits, size_t from, size_t to, bool on);
/* Bytes of a map file for this many units. */
uint64_t nf_pack_map_bytes(size_t nr_units);
/* The charge that holds now: units, and the map file. */
uint64_t nf_pack_charge(const struct nf_pack *p);
struct nf_pack *nf_cache_find_locked(struct nf_cache *c, const struct nf_pack_id *id)
	NF_REQUIRES(c->lock);
/* The first pack with an id above AFTER (NULL: of all); NULL. */
struct nf_pack *nf_cache_next_locked(struct nf_cache *c, const struct nf_pack_id *after)
	NF_REQUIRES(c->lock);
void nf_cache_add_locked(struct nf_cache *c, struct nf_pack *p) NF_REQUIRES(c->lock);
void nf_cache_touch_locked(struct nf_cache *c, struct nf_pack *p) NF_REQUIRES(c->lock);

/* map.c */
/* Fills P from its map file and checks it against a pack file of FILE_BYTES.
 * -NF_E_STATE_BAD if it does not belong to it. */
int nf_map_load(struct nf_pack *p, uint64_t file_bytes);
void nf_map_encode_locked(const struct nf_pack *p, struct nf_buf *b);
/* As nf_cache_save(), but not if somebody is at it: never waits for one who waits for us. */
void nf_cache_save_some(struct nf_cache *c);
/* SYNC: durable when it returns, but for the name. */
int nf_map_write(struct nf_pack *p, const struct nf_buf *b, bool sync);

/* cache.c */
/* Gives P, which is pinned, its file. */
int nf_cache_need_file(struct nf_cache *c, struct nf_pack *p, struct nf_file **out);
void nf_cache_unpin_locked(struct nf_cache *c, struct nf_pack *p) NF_REQUIRES(c->lock);

/* scan.c: what open finds. */
int nf_cache_scan(struct nf_cache *c);
/* After a close that left everything in order. */
void nf_cache_mark_clean(struct nf_cache *c);

/* room.c */
/* Charges units [from, to) of P, which is pinned, evicting others for it; false if
 * there is not enough that may go.  NODES: of the tree. */
bool nf_cache_charge(struct nf_cache *c, struct nf_pack *p, size_t from, size_t to, bool nodes);
/* Evicts the least recently used pack that is not in use; false if there is none.
 * SPARE: none with nodes, as long as these are few.  *ERR is set if its files could not be removed. */
bool nf_cache_evict_one(struct nf_cache *c, bool spare, int *err);
/* P holds nodes. */
void nf_cache_has_nodes_locked(struct nf_cache *c, struct nf_pack *p) NF_REQUIRES(c->lock);
/* P, in use by nobody, becomes busy. */
void nf_cache_make_busy_locked(struct nf_cache *c, struct nf_pack *p) NF_REQUIRES(c->lock);
/* Removes P, which is busy and pinned by nobody, from disk and table. */
int nf_cache_remove(struct nf_cache *c, struct nf_pack *p);
/* Frees the blocks of units of P that are charged but not present. P is pinned and `punching`: both end here. */
int nf_cache_punch(struct nf_cache *c, struct nf_pack *p, uint64_t *freed_bytes);

#endif
