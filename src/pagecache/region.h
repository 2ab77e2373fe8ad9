/* pagecache/region.h - regions: exact byte ranges that were, or will be, modified.
 *
 *      bounds      |<------------------------------->|   whole blocks
 *      reserved         |<------------------->|          what the writer may touch (P, R, A)
 *      dirty            |<--------->|                    what it has written (A); all of it (D, F)
 *
 * A region in P, R or A belongs to its writer.  In D it is in the inode's dirty tree, in F in its
 * flushing tree.  Within one tree regions are disjoint; a D region may lie over an F region, whose
 * request owns a stable copy.
 *
 * ZERO regions (made by truncate and fallocate) say that their bytes are zeros.  They need no
 * folio, however long they are.
 *
 * Everything here is protected by the lock of the inode that owns the trees. */
#ifndef NF_PAGECACHE_REGION_H
#define NF_PAGECACHE_REGION_H

#include "base/avl.h"
#include "base/list.h"
#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>

struct nf_group;

#define NF_REGION_TYPES(X)                                                                         \
	X(ORDINARY, "ORD ")                                                                        \
	X(DSYNC, "DSYN")                                                                           \
	X(DIRECT, "DIOW")                                                                          \
	X(TRUNCATE, "TRNC")                                                                        \
	X(FALLOCATE, "FALL")                                                                       \
	X(CACHE_COPY, "C2C ")

enum nf_region_type {
#define X(id, name) NF_REGION_##id,
	NF_REGION_TYPES(X)
#undef X
	NF_REGION_TYPE_NR
};

enum nf_region_state {
	NF_REGION_PENDING,
	NF_REGION_RESERVED,
	NF_REGION_ACTIVE,
	NF_REGION_DIRTY,
	NF_REGION_FLUSHING,
	NF_REGION_COMPLETE,
	NF_REGION_STATE_NR
};

/* What the filesystem keeps with the bytes of a write (credentials...); shared by the regions a
 * region was split into.  The last one puts it on DEAD, to be freed outside the lock. */
struct nf_region_priv {
	struct nf_list link;       /* on *dead once nobody uses it */
	struct nf_list *dead;
	void *fs;
	unsigned refs;
};

struct nf_region {
	/* What a walk looks at first, in 64 bytes: with many regions each is memory that no cache of the processor has. */
	struct nf_avl_node node;   /* P, R, A: the queue of writers; D, F: dirty or flushing tree */
	uint64_t start;            /* dirty range */
	uint64_t end;
	struct nf_group *group;    /* from R on; NULL before */
	uint32_t id;
	uint8_t type;              /* enum nf_region_type */
	uint8_t state;             /* enum nf_region_state */

	struct nf_list link;       /* P, R, A: the inode's list; D: its group's; F: its request's */
	struct nf_region_priv *priv; /* NULL: the filesystem has none */
	uint64_t seq;              /* of the oldest write in it */
	uint64_t since_ns;         /* when that became dirty */
	uint64_t reserved_start;
	uint64_t reserved_end;
	uint64_t greatest_end;     /* P, R, A: the queue's */
	uint64_t arrival;          /* P, R, A: place in line, from 1 */
	void *writer;              /* P, R, A: whose it is */
};

struct nf_regions {
	struct nf_avl tree;
	size_t nr;
	size_t nr_apart;           /* DSYNC and DIRECT ones: nothing may be written over, or merged with, them */
	uint64_t bytes;            /* without ZERO regions */
	uint64_t block_bytes;      /* the owner's to set, before the first is inserted; 0: boxes are not counted */
	uint64_t box_bytes;        /* what storing them takes at most: whole blocks, each once for what is stored at once; of ZERO regions those at the edges */
};

/* What a filesystem has to say about its private parts of regions. */
struct nf_region_ops {
	bool (*compatible)(void *ctx, void *old_priv, void *now_priv); /* NULL: always */
	void *ctx;
};

/* Zeroed memory for a record of a few hundred bytes.  Never NULL: such records are made where data was already accepted and
 * there is no way back.  Without memory the caller sleeps, with its locks, until there is some; for so long that nobody
 * waits any more, then the process ends (what was acknowledged is in the journal). */
void *nf_record_alloc(size_t size);
/* The same for a growing array of such records: realloc of NR elements of SIZE bytes. */
void *nf_record_grow(void *old, size_t nr, size_t size);

/* STATE is PENDING for a writer; ACTIVE for what a writer has written, FLUSHING for what is to become dirty
 * under what was written since. */
struct nf_region *nf_region_new(enum nf_region_type type, enum nf_region_state state,
				struct nf_group *group, uint64_t start, uint64_t end);
void nf_region_free(struct nf_region *rg);
/* Asserts that the state table allows it. */
void nf_region_move(struct nf_region *rg, enum nf_region_state to, const char *why);

static inline bool nf_region_is_zero(const struct nf_region *rg)
{
	return rg->type == NF_REGION_TRUNCATE || rg->type == NF_REGION_FALLOCATE;
}
/* Whether a writer keeps all others out of its bounds, not just out of its reserved range. */
static inline bool nf_region_is_exclusive(const struct nf_region *rg)
{
	return rg->type != NF_REGION_ORDINARY && rg->type != NF_REGION_DSYNC;
}

/* --- may NOW run beside, or over, OLD? ------------------------------------------------- */

enum nf_verdict { NF_COMPATIBLE, NF_SUPERSEDE, NF_INCOMPATIBLE };

/* Two writers, OLD earlier in the queue or already running: true if NOW, which would be of GROUP (NULL: a new
 * one), must wait. */
bool nf_region_must_pend(const struct nf_region *old, const struct nf_region *now,
			 const struct nf_group *group, uint64_t block_bytes,
			 const struct nf_region_ops *ops);
/* A writer NOW of GROUP over a region OLD in the dirty tree, the bounds of which meet. */
enum nf_verdict nf_region_verdict(const struct nf_region *old, const struct nf_region *now,
				  const struct nf_group *group, const struct nf_region_ops *ops);

/* Whether the verdict on every region of DIRTY is known without a look at them: not INCOMPATIBLE.  ONE_GROUP: all are
 * of the group NOW would be of. */
bool nf_regions_agree(const struct nf_regions *dirty, const struct nf_region *now, bool one_group,
		      const struct nf_region_ops *ops);

/* --- trees ------------------------------------------------------------------------------ */

void nf_regions_init(struct nf_regions *rs);
/* The first region that ends after POS, or NULL. */
struct nf_region *nf_regions_at(const struct nf_regions *rs, uint64_t pos);
struct nf_region *nf_regions_next(const struct nf_region *rg);
/* One past the last byte of the last region that is not ZERO; 0: there is none. */
uint64_t nf_regions_data_end(const struct nf_regions *rs);
void nf_regions_insert(struct nf_regions *rs, struct nf_region *rg);
void nf_regions_remove(struct nf_regions *rs, struct nf_region *rg);
/* RG of RS keeps [start, at); returns a new region for the rest, in RS and, if RG was
 * on a list, behind RG there. */
struct nf_region *nf_regions_split(struct nf_regions *rs, struct nf_region *rg, uint64_t at);
/* Puts RG into RS, a dirty tree in which nothing overlaps it, and lets it grow together with touching
 * regions of its kind.  Absorbed ones are complete and freed.  Returns what holds RG's bytes now. */
struct nf_region *nf_regions_merge(struct nf_regions *rs, struct nf_region *rg,
				   const struct nf_region_ops *ops);
/* Takes [start, end) out of the regions of RS: trims, splits and frees. */
void nf_regions_cut(struct nf_regions *rs, uint64_t start, uint64_t end, const char *why);
/* RG, on no tree, could not be stored: what of it was not written since becomes dirty again in RS
 * and on LIST, and RG is gone. */
void nf_regions_redirty(struct nf_regions *rs, struct nf_region *rg, struct nf_list *list,
			const struct nf_region_ops *ops);

/* --- seen from outside -------------------------------------------------------------------- */

const char *nf_region_type_name(enum nf_region_type type);
char nf_region_state_letter(enum nf_region_state state);
/* One line as /proc/fs/netfs/regions has it.  REQUEST: that stores it; 0: none.  FL: 1 zeros, 2 keeps others out of its
 * bounds, 4 has private state of the filesystem's. */
void nf_region_to_text(struct nf_text *t, const struct nf_region *rg, uint64_t ino,
		       uint64_t block_bytes, uint32_t request);
extern const char nf_region_text_header[];
/* Asserts order, disjointness, sums and that all are in STATE. */
void nf_regions_check(const struct nf_regions *rs, enum nf_region_state state);

#endif
