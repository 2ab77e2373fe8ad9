/* pagecache/folio.h - folios, and the mapping of one inode that holds them.
 *
 * A folio is 2^order pages of one file, naturally aligned, in one piece of memory.
 * Folios of a mapping never overlap, and none is smaller than the mapping's least
 * order (one block, or 2 MiB for larger blocks).
 *
 * References: one for being in the mapping, one for each user (pin).  A folio is given
 * up when it is clean and only the mapping holds it.  A dropped folio stays valid for
 * those who have it pinned.
 *
 * Readers look at pages without a lock, as they were when they were handed out.  So pages that cease to be uptodate
 * meanwhile make the folio unsettled: what is stored now is not put there before the last of them has left. */
#ifndef NF_PAGECACHE_FOLIO_H
#define NF_PAGECACHE_FOLIO_H

#include "base/avl.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/text.h"
#include "pagecache/memory.h"

#include <stdatomic.h>

enum { NF_FOLIO_WORDS = (1 << NF_PC_ORDER_MAX) / 64 };

/* m mapping lock;  i lock of the inode that owns the mapping;  I never changed;  r RECLAIM lock;
 * a atomic; refs: raised from 1 only under m */
struct nf_folio {
	struct nf_avl_node node;    /* m */
	struct nf_mapping *mapping; /* I */
	struct nf_list lru;         /* r  linked: clean and in the mapping */
	uint64_t pos_bytes;         /* I */
	uint8_t *mem;               /* I */
	unsigned order;             /* I */
	atomic_uint refs;           /* a */
	atomic_uint readers;        /* a  pins of theirs; raised under i */
	atomic_bool unsettled;      /* a  set and cleared under i */
	bool mapped;                /* m  in the tree */
	bool dirty;                 /* m  holds, or is about to hold, bytes of a region */
	atomic_bool cold;           /* a  went to the cold end: delivered to its last byte */
	uint64_t uptodate[NF_FOLIO_WORDS]; /* i  one bit a page */
};

/* I never changed;  m lock;  r RECLAIM lock */
struct nf_mapping {
	struct nf_lock lock;
	struct nf_memory *mem;  /* I */
	struct nf_avl tree;     /* m  nf_folio.node by pos_bytes */
	unsigned order_min;     /* I */
	unsigned isolated;      /* r  folios reclaim is looking at */
	size_t nr_folios;       /* m */
};

void nf_mapping_init(struct nf_mapping *m, struct nf_memory *mem, unsigned order_min);
/* Drops all folios; none may be dirty. */
void nf_mapping_deinit(struct nf_mapping *m);

static inline size_t nf_folio_bytes(const struct nf_folio *f)
{
	return (size_t)NF_PC_PAGE_BYTES << f->order;
}
static inline uint64_t nf_folio_end(const struct nf_folio *f)
{
	return f->pos_bytes + nf_folio_bytes(f);
}

/* The caller has a reference, or the lock that keeps one. */
void nf_folio_pin(struct nf_folio *f);
void nf_folio_unpin(struct nf_folio *f);

/* The same for a reader of pages that are uptodate, or dirty; pins under the inode lock. */
void nf_folio_pin_reader(struct nf_folio *f);
/* True if that was the last reader of an unsettled folio: somebody may wait for it. */
bool nf_folio_unpin_reader(struct nf_folio *f);
/* Inode lock held: true while readers may look at what the pages held before. */
bool nf_folio_is_unsettled(struct nf_folio *f);

/* The first folio that ends after POS, pinned; NULL: none.  *May lie after POS.* */
struct nf_folio *nf_mapping_next(struct nf_mapping *m, uint64_t pos);
/* The folio holding POS, pinned, made if need be: as large as fits into
 * 2^ORDER_WANT pages beside its neighbours.  NULL: no memory. */
struct nf_folio *nf_mapping_get(struct nf_mapping *m, uint64_t pos, unsigned order_want);

/* Inode lock held: F holds, or no longer holds, bytes of regions. */
void nf_folio_set_dirty(struct nf_folio *f);
void nf_folio_set_clean(struct nf_folio *f);
/* Takes F out of its mapping; its memory goes when the last pin does.  The mapping must not need it. */
void nf_folio_drop(struct nf_folio *f);
/* A reader is through with the folio: it is the next to be given up. */
void nf_folio_set_cold(struct nf_folio *f);

/* Inode lock held. */
static inline bool nf_folio_page_uptodate(const struct nf_folio *f, uint64_t pos)
{
	size_t i = (size_t)(pos - f->pos_bytes) / NF_PC_PAGE_BYTES;
	return f->uptodate[i / 64] >> i % 64 & 1;
}
/* Marks the pages that lie wholly in [start, end), clipped to the folio. */
void nf_folio_set_uptodate(struct nf_folio *f, uint64_t start, uint64_t end);
/* Unmarks the pages that [start, end) touches, clipped to the folio. */
void nf_folio_clear_uptodate(struct nf_folio *f, uint64_t start, uint64_t end);

void nf_folio_to_text(struct nf_text *t, const struct nf_folio *f);
/* Invariants of the tree: order, alignment, no overlap. */
void nf_mapping_check(struct nf_mapping *m);

/* For memory.c: gives up F, which the caller took off the LRU and pinned; false, and back on the
 * LRU, if it is in use. */
bool nf_mapping_evict(struct nf_mapping *m, struct nf_folio *f);
void nf_memory_wait_isolated(struct nf_memory *mem, struct nf_mapping *m);

#endif
