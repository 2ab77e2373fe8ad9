/* The arena: a buddy allocator over 4 KiB pages.
 *
 *   order 9 |                2 MiB                  |
 *   order 8 |        1 MiB      |                   |   free blocks of an order are on free[order];
 *   ...                                                 a block's buddy is its index ^ (1 << order)
 *   order 0 |4K|4K|...
 *
 * Threads: everything under one lock of rank RECLAIM, held for a few pointer moves. */
#include "pagecache/memory.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"
#include "foliofs/events.h"
#include "base/counter.h"
#include "pagecache/folio.h"

#include <stdatomic.h>
#include <sys/mman.h>

/* l the memory's lock */
struct page {
	struct nf_list link; /* l  on free[order] when it heads a free block */
	uint8_t order;       /* l  of the block it heads */
	bool free;           /* l  heads a free block */
	bool touched;        /* l  head of a 2 MiB part: was given out since it was last trimmed */
	struct nf_folio *_Atomic owner;
};

/* I set before publication, then never changed;  l lock;  a atomic */
struct nf_memory {
	struct nf_lock lock;
	size_t limit_bytes;    /* I */
	size_t reserve_bytes;  /* I */
	size_t nr_pages;       /* I */
	uint8_t *arena;        /* I */
	struct page *pages;    /* I */
	struct nf_list free[NF_PC_ORDER_MAX + 1]; /* l */
	size_t used_bytes;     /* l  pages given out and general charges */
	size_t reserve_used;   /* l */
	struct nf_list lru;    /* l  nf_folio.lru, cold first */
	struct nf_cond isolated_cond; /* l  some mapping's isolated count fell to 0 */
	uint64_t gets;         /* l  pages_get calls, for trim */
	uint64_t trimmed_at;   /* l  gets at the last trim */
	atomic_bool wanted;    /* a */
	void (*on_free)(void *ctx); /* I */
	void *on_free_ctx;     /* I */
};

static size_t order_bytes(unsigned order) { return (size_t)NF_PC_PAGE_BYTES << order; }

static void free_block_locked(struct nf_memory *mem, size_t i, unsigned order)
	NF_REQUIRES(mem->lock)
{
	while (order < NF_PC_ORDER_MAX) {
		size_t buddy = i ^ ((size_t)1 << order);
		if (buddy + ((size_t)1 << order) > mem->nr_pages || !mem->pages[buddy].free ||
		    mem->pages[buddy].order != order)
			break;
		nf_list_del(&mem->pages[buddy].link);
		mem->pages[buddy].free = false;
		i &= ~((size_t)1 << order);
		order++;
	}
	mem->pages[i].free = true;
	mem->pages[i].order = (uint8_t)order;
	nf_list_add_head(&mem->free[order], &mem->pages[i].link);
}

/* Aligned to the largest block, so that a huge page is one: new ones cost a quarter of what their small pages do. */
static uint8_t *map_arena(size_t bytes)
{
	size_t align = order_bytes(NF_PC_ORDER_MAX);
	uint8_t *all = mmap(NULL, bytes + align, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (all == MAP_FAILED)
		return NULL;
	size_t before = nf_round_up((uintptr_t)all, align) - (uintptr_t)all;
	if (before)
		munmap(all, before);
	if (before < align)
		munmap(all + before + bytes, align - before);
	/* Advice only: a kernel without huge pages does without. */
	(void)madvise(all + before, bytes, MADV_HUGEPAGE);
	return all + before;
}

int nf_memory_new(size_t limit_bytes, size_t reserve_least_bytes, struct nf_memory **out)
{
	struct nf_memory *mem = calloc(1, sizeof *mem);

	if (!mem)
		return nf_fail(-ENOMEM);
	mem->limit_bytes = nf_round_down(limit_bytes, NF_PC_PAGE_BYTES);
	size_t reserve = NF_MIN(reserve_least_bytes, limit_bytes / 2);
	reserve = NF_MAX(reserve, limit_bytes / NF_PC_RESERVE_SHARE);
	mem->reserve_bytes = nf_round_down(reserve, NF_PC_PAGE_BYTES);
	mem->nr_pages = (mem->limit_bytes - mem->reserve_bytes) / NF_PC_PAGE_BYTES;
	mem->pages = calloc(mem->nr_pages ? mem->nr_pages : 1, sizeof *mem->pages);
	mem->arena = mem->nr_pages ? map_arena(mem->nr_pages * NF_PC_PAGE_BYTES) : NULL;
	if (!mem->pages || !mem->arena) {
		free(mem->pages);
		free(mem);
		return nf_fail(-ENOMEM);
	}
	/* Plaintext has no business in a core file; older kernels may refuse. */
	(void)madvise(mem->arena, mem->nr_pages * NF_PC_PAGE_BYTES, MADV_DONTDUMP);
	nf_lock_init(&mem->lock, NF_RANK_RECLAIM);
	nf_cond_init(&mem->isolated_cond);
	nf_list_init(&mem->lru);
	for (unsigned o = 0; o <= NF_PC_ORDER_MAX; o++)
		nf_list_init(&mem->free[o]);
	nf_lock_take(&mem->lock);
	for (size_t i = mem->nr_pages; i-- > 0;) {
		nf_list_init(&mem->pages[i].link);
		free_block_locked(mem, i, 0);
	}
	nf_lock_drop(&mem->lock);
	*out = mem;
	return 0;
}

void nf_memory_free(struct nf_memory *mem)
{
	if (!mem)
		return;
	NF_ASSERT(mem->used_bytes == 0);
	NF_ASSERT(mem->reserve_used == 0);
	NF_ASSERT(nf_list_empty(&mem->lru));
	munmap(mem->arena, mem->nr_pages * NF_PC_PAGE_BYTES);
	nf_cond_deinit(&mem->isolated_cond);
	nf_lock_deinit(&mem->lock);
	free(mem->pages);
	free(mem);
}

void nf_memory_on_free(struct nf_memory *mem, void (*fn)(void *ctx), void *ctx)
{
	mem->on_free = fn;
	mem->on_free_ctx = ctx;
}

void nf_memory_want(struct nf_memory *mem) { atomic_store(&mem->wanted, true); }

static _Thread_local bool quiet;
void nf_memory_quiet(bool on) { quiet = on; }

void nf_memory_poke(struct nf_memory *mem)
{
	if (!quiet && mem->on_free && atomic_load(&mem->wanted) && atomic_exchange(&mem->wanted, false))
		mem->on_free(mem->on_free_ctx);
}

/* Splits the smallest free block that is large enough; the index of its first page. */
static bool take_block_locked(struct nf_memory *mem, unsigned order, size_t *out)
	NF_REQUIRES(mem->lock)
{
	unsigned o = order;

	while (o <= NF_PC_ORDER_MAX && nf_list_empty(&mem->free[o]))
		o++;
	if (o > NF_PC_ORDER_MAX)
		return false;
	struct page *pg = nf_list_first(&mem->free[o], struct page, link);
	size_t i = (size_t)(pg - mem->pages);
	nf_list_del(&pg->link);
	pg->free = false;
	while (o > order) {
		o--;
		size_t half = i + ((size_t)1 << o);
		mem->pages[half].free = true;
		mem->pages[half].order = (uint8_t)o;
		nf_list_add_head(&mem->free[o], &mem->pages[half].link);
	}
	*out = i;
	return true;
}

void *nf_memory_pages_get(struct nf_memory *mem, unsigned order, struct nf_folio *owner)
{
	size_t bytes = order_bytes(order), i;

	nf_lock_take(&mem->lock);
	bool ok = mem->used_bytes + bytes <= mem->limit_bytes - mem->reserve_bytes &&
		  take_block_locked(mem, order, &i);
	if (ok) {
		mem->used_bytes += bytes;
		mem->gets++;
		mem->pages[i & ~(((size_t)1 << NF_PC_ORDER_MAX) - 1)].touched = true;
	}
	nf_lock_drop(&mem->lock);
	if (!ok)
		return NULL;
	for (size_t p = i; p < i + ((size_t)1 << order); p++)
		atomic_store_explicit(&mem->pages[p].owner, owner, memory_order_relaxed);
	return mem->arena + i * NF_PC_PAGE_BYTES;
}

void nf_memory_pages_put(struct nf_memory *mem, void *pages, unsigned order)
{
	size_t i = (size_t)((uint8_t *)pages - mem->arena) / NF_PC_PAGE_BYTES;

	nf_lock_take(&mem->lock);
	free_block_locked(mem, i, order);
	NF_ASSERT(mem->used_bytes >= order_bytes(order));
	mem->used_bytes -= order_bytes(order);
	nf_lock_drop(&mem->lock);
	nf_memory_poke(mem);
}

struct nf_folio *nf_memory_owner(struct nf_memory *mem, const void *p)
{
	const uint8_t *b = p;

	if (b < mem->arena || b >= mem->arena + mem->nr_pages * NF_PC_PAGE_BYTES)
		return NULL;
	return atomic_load_explicit(&mem->pages[(size_t)(b - mem->arena) / NF_PC_PAGE_BYTES].owner,
				    memory_order_relaxed);
}

enum nf_charge nf_memory_charge(struct nf_memory *mem, size_t bytes, bool reserve)
{
	enum nf_charge c = NF_CHARGE_NONE;

	nf_lock_take(&mem->lock);
	if (mem->used_bytes + bytes <= mem->limit_bytes - mem->reserve_bytes) {
		mem->used_bytes += bytes;
		c = NF_CHARGE_GENERAL;
	} else if (reserve && mem->reserve_used + bytes <= mem->reserve_bytes) {
		mem->reserve_used += bytes;
		c = NF_CHARGE_RESERVE;
	}
	nf_lock_drop(&mem->lock);
	return c;
}

void nf_memory_uncharge(struct nf_memory *mem, size_t bytes, enum nf_charge from)
{
	if (from == NF_CHARGE_NONE)
		return;
	nf_lock_take(&mem->lock);
	size_t *used = from == NF_CHARGE_GENERAL ? &mem->used_bytes : &mem->reserve_used;
	NF_ASSERT(*used >= bytes);
	*used -= bytes;
	nf_lock_drop(&mem->lock);
	nf_memory_poke(mem);
}

/* The coldest folio, off the list, its mapping kept from going away. */
static struct nf_folio *isolate(struct nf_memory *mem)
{
	struct nf_folio *f = NULL;

	nf_lock_take(&mem->lock);
	if (!nf_list_empty(&mem->lru)) {
		f = nf_list_first(&mem->lru, struct nf_folio, lru);
		nf_list_del(&f->lru);
		nf_folio_pin(f);
		f->mapping->isolated++;
	}
	nf_lock_drop(&mem->lock);
	return f;
}

static void isolate_end(struct nf_memory *mem, struct nf_mapping *m)
{
	nf_lock_take(&mem->lock);
	if (--m->isolated == 0)
		nf_cond_broadcast(&mem->isolated_cond);
	nf_lock_drop(&mem->lock);
}

void nf_memory_wait_isolated(struct nf_memory *mem, struct nf_mapping *m)
{
	nf_lock_take(&mem->lock);
	while (m->isolated)
		nf_cond_wait(&mem->isolated_cond, &mem->lock);
	nf_lock_drop(&mem->lock);
}

size_t nf_memory_reclaim(struct nf_memory *mem, size_t bytes)
{
	size_t freed = 0;
	unsigned kept = 0;

	/* Folios in use go back to the hot end; a run of them ends the search. */
	while (freed < bytes && kept < 64) {
		struct nf_folio *f = isolate(mem);
		if (!f)
			break;
		struct nf_mapping *m = f->mapping;
		size_t size = order_bytes(f->order);
		if (nf_mapping_evict(m, f)) {
			freed += size;
			nf_count(NF_C_RECLAIM_FOLIOS, 1);
		} else {
			kept++;
		}
		isolate_end(mem, m);
		nf_folio_unpin(f);
	}
	return freed;
}

bool nf_memory_trim(struct nf_memory *mem)
{
	nf_lock_take(&mem->lock);
	bool idle = mem->gets == mem->trimmed_at;
	mem->trimmed_at = mem->gets;
	if (idle) {
		nf_list_for_each(pg, &mem->free[NF_PC_ORDER_MAX], struct page, link) {
			if (!pg->touched)
				continue;
			/* Under the lock: the block could be handed out otherwise. */
			(void)madvise(mem->arena + (size_t)(pg - mem->pages) * NF_PC_PAGE_BYTES,
				      order_bytes(NF_PC_ORDER_MAX), MADV_DONTNEED);
			pg->touched = false;
		}
	}
	nf_lock_drop(&mem->lock);
	return idle;
}

size_t nf_memory_limit(const struct nf_memory *mem) { return mem->limit_bytes; }
size_t nf_memory_reserve(const struct nf_memory *mem) { return mem->reserve_bytes; }

size_t nf_memory_used(struct nf_memory *mem)
{
	nf_lock_take(&mem->lock);
	size_t used = mem->used_bytes + mem->reserve_used;
	nf_lock_drop(&mem->lock);
	return used;
}

void nf_lru_add(struct nf_memory *mem, struct nf_folio *f, enum nf_lru_end end)
{
	nf_lock_take(&mem->lock);
	nf_list_del(&f->lru);
	if (end == NF_LRU_COLD)
		nf_list_add_head(&mem->lru, &f->lru);
	else
		nf_list_add_tail(&mem->lru, &f->lru);
	nf_lock_drop(&mem->lock);
	nf_memory_poke(mem);
}

void nf_lru_del(struct nf_memory *mem, struct nf_folio *f)
{
	nf_lock_take(&mem->lock);
	nf_list_del(&f->lru);
	nf_lock_drop(&mem->lock);
}
