/* Folios and mappings.
 *
 *            in mapping   refs     on LRU        goes when
 *   clean        y        1 + n    yes           evicted (refs 1), dropped
 *   dirty        y        1 + n    no            becomes clean first
 *   dropped      n        n        no            last pin
 */
#include "pagecache/folio.h"

#include "base/assert.h"
#include "base/trace.h"

#include <inttypes.h>

static struct nf_folio *folio_of(struct nf_avl_node *n)
{
	return n ? nf_container_of(n, struct nf_folio, node) : NULL;
}

void nf_mapping_init(struct nf_mapping *m, struct nf_memory *mem, unsigned order_min)
{
	nf_lock_init(&m->lock, NF_RANK_MAPPING);
	m->mem = mem;
	nf_avl_init(&m->tree, NULL);
	m->order_min = order_min;
	m->isolated = 0;
	m->nr_folios = 0;
}

void nf_mapping_deinit(struct nf_mapping *m)
{
	struct nf_folio *f;

	while ((f = nf_mapping_next(m, 0))) {
		NF_ASSERT(!f->dirty);
		nf_folio_drop(f);
		nf_folio_unpin(f);
	}
	nf_memory_wait_isolated(m->mem, m);
	nf_lock_deinit(&m->lock);
}

void nf_folio_pin(struct nf_folio *f) { atomic_fetch_add(&f->refs, 1); }

void nf_folio_unpin(struct nf_folio *f)
{
	struct nf_memory *mem = f->mapping->mem;
	unsigned was = atomic_fetch_sub(&f->refs, 1);

	NF_ASSERT(was > 0);
	if (was == 1) {
		nf_memory_pages_put(mem, f->mem, f->order);
		free(f);
	} else if (was == 2) {
		nf_memory_poke(mem);
	}
}

void nf_folio_pin_reader(struct nf_folio *f)
{
	atomic_fetch_add(&f->readers, 1);
	nf_folio_pin(f);
}

bool nf_folio_unpin_reader(struct nf_folio *f)
{
	unsigned was = atomic_fetch_sub(&f->readers, 1);
	bool awaited = was == 1 && atomic_load(&f->unsettled);

	NF_ASSERT(was > 0);
	nf_folio_unpin(f);
	return awaited;
}

bool nf_folio_is_unsettled(struct nf_folio *f)
{
	if (!atomic_load(&f->unsettled))
		return false;
	if (atomic_load(&f->readers))
		return true;
	atomic_store(&f->unsettled, false);
	return false;
}

static struct nf_folio *next_locked(struct nf_mapping *m, uint64_t pos) NF_REQUIRES(m->lock)
{
	struct nf_avl_node *n = m->tree.root, *best = NULL;

	while (n) {
		if (nf_folio_end(folio_of(n)) > pos) {
			best = n;
			n = n->child[0];
		} else {
			n = n->child[1];
		}
	}
	return folio_of(best);
}

struct nf_folio *nf_mapping_next(struct nf_mapping *m, uint64_t pos)
{
	nf_lock_take(&m->lock);
	struct nf_folio *f = next_locked(m, pos);
	if (f)
		nf_folio_pin(f);
	nf_lock_drop(&m->lock);
	return f;
}

static int by_pos(const void *key, const struct nf_avl_node *n)
{
	uint64_t pos = *(const uint64_t *)key;
	const struct nf_folio *f = folio_of((struct nf_avl_node *)(uintptr_t)n);

	return pos < f->pos_bytes ? -1 : pos > f->pos_bytes;
}

/* The largest order up to ORDER at which the aligned slot around POS is empty. */
static unsigned fitting_order_locked(struct nf_mapping *m, uint64_t pos, unsigned order)
	NF_REQUIRES(m->lock)
{
	for (; order > m->order_min; order--) {
		uint64_t bytes = (uint64_t)NF_PC_PAGE_BYTES << order;
		uint64_t start = pos / bytes * bytes;
		struct nf_folio *f = next_locked(m, start);
		if (!f || f->pos_bytes >= start + bytes)
			break;
	}
	return order;
}

/* Memory of ORDER or, failing that, down to ORDER_MIN, giving up clean folios for it. */
static struct nf_folio *folio_new(struct nf_memory *mem, unsigned order, unsigned order_min)
{
	struct nf_folio *f = calloc(1, sizeof *f);

	if (!f)
		return NULL;
	for (;; order--) {
		size_t bytes = (size_t)NF_PC_PAGE_BYTES << order;
		/* For a large folio a little effort; for the least one, all there is. */
		for (unsigned tries = 0;; tries++) {
			f->mem = nf_memory_pages_get(mem, order, f);
			f->order = order;
			if (f->mem)
				return f;
			if ((order > order_min && tries >= 2) || !nf_memory_reclaim(mem, bytes))
				break;
		}
		if (order == order_min)
			break;
	}
	free(f);
	return NULL;
}

struct nf_folio *nf_mapping_get(struct nf_mapping *m, uint64_t pos, unsigned order_want)
{
	unsigned order = NF_MAX(order_want, m->order_min);

	order = NF_MIN(order, (unsigned)NF_PC_ORDER_MAX);

	nf_lock_take(&m->lock);
	struct nf_folio *f = next_locked(m, pos);
	if (f && f->pos_bytes <= pos) {
		nf_folio_pin(f);
		nf_lock_drop(&m->lock);
		return f;
	}
	order = fitting_order_locked(m, pos, order);
	nf_lock_drop(&m->lock);

	/* Only the inode lock's holder adds folios: the slot stays empty meanwhile. */
	struct nf_folio *n = folio_new(m->mem, order, m->order_min);
	if (!n)
		return NULL;
	n->mapping = m;
	n->pos_bytes = pos / nf_folio_bytes(n) * nf_folio_bytes(n);
	nf_list_init(&n->lru);
	atomic_init(&n->refs, 2); /* the mapping's and the caller's */
	n->mapped = true;
	nf_lock_take(&m->lock);
	struct nf_avl_node *there = nf_avl_add(&m->tree, &n->pos_bytes, by_pos, &n->node);
	NF_ASSERT(!there);
	m->nr_folios++;
	nf_lru_add(m->mem, n, NF_LRU_HOT);
	nf_lock_drop(&m->lock);
	nf_trace(FOLIO, "folio new pos=%" PRIx64 " order=%u", n->pos_bytes, n->order);
	return n;
}

void nf_folio_set_dirty(struct nf_folio *f)
{
	struct nf_mapping *m = f->mapping;

	nf_lock_take(&m->lock);
	NF_ASSERT(f->mapped);
	if (!f->dirty) {
		f->dirty = true;
		atomic_store(&f->cold, false);
		nf_lru_del(m->mem, f);
	}
	nf_lock_drop(&m->lock);
}

void nf_folio_set_clean(struct nf_folio *f)
{
	struct nf_mapping *m = f->mapping;

	nf_lock_take(&m->lock);
	if (f->dirty && f->mapped) {
		f->dirty = false;
		nf_lru_add(m->mem, f, NF_LRU_HOT);
	}
	nf_lock_drop(&m->lock);
}

static void unmap_locked(struct nf_mapping *m, struct nf_folio *f) NF_REQUIRES(m->lock)
{
	nf_avl_erase(&m->tree, &f->node);
	m->nr_folios--;
	f->mapped = false;
	f->dirty = false;
	nf_lru_del(m->mem, f);
}

void nf_folio_drop(struct nf_folio *f)
{
	struct nf_mapping *m = f->mapping;

	nf_lock_take(&m->lock);
	bool was = f->mapped;
	if (was)
		unmap_locked(m, f);
	nf_lock_drop(&m->lock);
	if (was) {
		nf_trace(FOLIO, "folio drop pos=%" PRIx64, f->pos_bytes);
		nf_folio_unpin(f);
	}
}

void nf_folio_set_cold(struct nf_folio *f)
{
	struct nf_mapping *m = f->mapping;

	if (atomic_exchange(&f->cold, true))
		return;
	nf_lock_take(&m->lock);
	if (f->mapped && !f->dirty)
		nf_lru_add(m->mem, f, NF_LRU_COLD);
	nf_lock_drop(&m->lock);
}

bool nf_mapping_evict(struct nf_mapping *m, struct nf_folio *f)
{
	bool gone = false;

	nf_lock_take(&m->lock);
	/* Pins are added from the mapping only under its lock: 2 are the mapping's and reclaim's. */
	if (f->mapped && !f->dirty && atomic_load(&f->refs) == 2) {
		unmap_locked(m, f);
		gone = true;
	} else if (f->mapped && !f->dirty) {
		nf_lru_add(m->mem, f, NF_LRU_HOT);
	}
	nf_lock_drop(&m->lock);
	if (gone) {
		nf_trace(FOLIO, "folio evict pos=%" PRIx64, f->pos_bytes);
		nf_folio_unpin(f);
	}
	return gone;
}

void nf_folio_set_uptodate(struct nf_folio *f, uint64_t start, uint64_t end)
{
	start = NF_MAX(start, f->pos_bytes);
	end = NF_MIN(end, nf_folio_end(f));
	if (start >= end)
		return;
	size_t i = (size_t)(start - f->pos_bytes + NF_PC_PAGE_BYTES - 1) / NF_PC_PAGE_BYTES;
	size_t to = (size_t)(end - f->pos_bytes) / NF_PC_PAGE_BYTES;
	for (; i < to; i++)
		f->uptodate[i / 64] |= UINT64_C(1) << i % 64;
}

void nf_folio_clear_uptodate(struct nf_folio *f, uint64_t start, uint64_t end)
{
	start = NF_MAX(start, f->pos_bytes);
	end = NF_MIN(end, nf_folio_end(f));
	if (start >= end)
		return;
	/* Before the readers are counted: the last to leave sees it, or is not counted. */
	atomic_store(&f->unsettled, true);
	(void)nf_folio_is_unsettled(f);
	size_t i = (size_t)(start - f->pos_bytes) / NF_PC_PAGE_BYTES;
	size_t to = (size_t)(end - f->pos_bytes + NF_PC_PAGE_BYTES - 1) / NF_PC_PAGE_BYTES;
	for (; i < to; i++)
		f->uptodate[i / 64] &= ~(UINT64_C(1) << i % 64);
}

void nf_folio_to_text(struct nf_text *t, const struct nf_folio *f)
{
	unsigned pages = 0;

	for (unsigned i = 0; i < NF_FOLIO_WORDS; i++)
		pages += (unsigned)__builtin_popcountll(f->uptodate[i]);
	nf_textf(t, "folio %" PRIx64 "-%" PRIx64 " refs=%u readers=%u%s%s%s uptodate=%u/%u", f->pos_bytes,
		 nf_folio_end(f), atomic_load(&f->refs), atomic_load(&f->readers),
		 f->dirty ? " dirty" : "", atomic_load(&f->unsettled) ? " unsettled" : "", f->mapped ? "" : " dropped", pages, 1u << f->order);
}

void nf_mapping_check(struct nf_mapping *m)
{
	uint64_t end = 0;
	size_t nr = 0;

	nf_lock_take(&m->lock);
	for (struct nf_avl_node *n = nf_avl_first(&m->tree); n; n = nf_avl_next(n)) {
		const struct nf_folio *f = folio_of(n);
		NF_ASSERT(f->mapped);
		NF_ASSERT(f->order >= m->order_min);
		NF_ASSERT(f->pos_bytes % nf_folio_bytes(f) == 0);
		NF_ASSERT(f->pos_bytes >= end);
		NF_ASSERT(atomic_load(&f->refs) >= 1);
		end = nf_folio_end(f);
		nr++;
	}
	NF_ASSERT(nr == m->nr_folios);
	nf_lock_drop(&m->lock);
}
