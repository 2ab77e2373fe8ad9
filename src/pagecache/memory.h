/* pagecache/memory.h - the arena that folios live in, and the budget of all buffers.
 *
 *   limit_bytes
 *   |<------------- general ------------->|<- reserve ->|
 *   | folio pages (arena) | buffers ...   | write-back  |
 *
 * Folio pages come from one mapping made at the start, cut by a buddy allocator.
 * Buffers (stable copies, sealed blocks) are malloc'd by their owners and charged
 * here.  What is charged never passes the limit.  The reserve belongs to
 * write-back alone: dirty memory is freed only by storing it, so storing must be
 * possible when everything else is full.
 *
 * Clean folios are on one list, from cold to hot; reclaim takes the cold ones. */
#ifndef NF_PAGECACHE_MEMORY_H
#define NF_PAGECACHE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nf_folio;
struct nf_memory;

enum {
	NF_PC_PAGE_BYTES = 4096,
	NF_PC_ORDER_MAX = 9, /* 2 MiB */
	NF_PC_RESERVE_SHARE = 8, /* the reserve is an eighth of the limit, at least what its owner asks for */
};

/* RESERVE_LEAST_BYTES: the reserve is no smaller, but never more than half. */
int nf_memory_new(size_t limit_bytes, size_t reserve_least_bytes, struct nf_memory **out);
/* Everything must have been given back.  NULL allowed. */
void nf_memory_free(struct nf_memory *mem);

/* FN is called, with locks of this layer possibly held, once after each nf_memory_want()
 * when memory was freed or became reclaimable: it must only queue work. */
void nf_memory_on_free(struct nf_memory *mem, void (*fn)(void *ctx), void *ctx);
void nf_memory_want(struct nf_memory *mem);
/* While ON, what this thread frees wakes nobody: it is trying to get memory, and would only wake
 * itself when it gives back what it got in vain. */
void nf_memory_quiet(bool on);
/* Something became reclaimable. */
void nf_memory_poke(struct nf_memory *mem);

/* 2^ORDER pages for OWNER, aligned to their size in the arena; NULL if there are none. */
void *nf_memory_pages_get(struct nf_memory *mem, unsigned order, struct nf_folio *owner);
void nf_memory_pages_put(struct nf_memory *mem, void *pages, unsigned order);
/* The folio that P lies in, NULL if P is not in the arena. */
struct nf_folio *nf_memory_owner(struct nf_memory *mem, const void *p);

enum nf_charge { NF_CHARGE_NONE, NF_CHARGE_GENERAL, NF_CHARGE_RESERVE };
/* NF_CHARGE_NONE if it does not fit.  RESERVE: may use the reserve. */
enum nf_charge nf_memory_charge(struct nf_memory *mem, size_t bytes, bool reserve);
void nf_memory_uncharge(struct nf_memory *mem, size_t bytes, enum nf_charge from);

/* Gives up clean folios until BYTES are free or none is left; what was freed. Takes mapping locks:
 * the caller holds none. */
size_t nf_memory_reclaim(struct nf_memory *mem, size_t bytes);
/* Returns free memory to the system if nothing was taken since the last call; then true. */
bool nf_memory_trim(struct nf_memory *mem);

size_t nf_memory_limit(const struct nf_memory *mem);
size_t nf_memory_reserve(const struct nf_memory *mem);
size_t nf_memory_used(struct nf_memory *mem);

/* LRU, for folio.c. */
enum nf_lru_end { NF_LRU_COLD, NF_LRU_HOT };
void nf_lru_add(struct nf_memory *mem, struct nf_folio *f, enum nf_lru_end end);
void nf_lru_del(struct nf_memory *mem, struct nf_folio *f);

#endif
