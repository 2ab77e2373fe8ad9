/* Write-back: which blocks go into the next write request.
 *
 *   only the oldest group:    all of it, if it was asked for (fsync, age, a younger group's
 *                             writer, short memory)
 *                             a range of it, if only that was asked for (O_DIRECT, conflicts)
 *   a block is claimed by one request at a time; what is written to it meanwhile waits for
 *   the next.  So requests of one block are stored in order.
 *
 * Blocks of zeros alone are not stored: they become holes when the group drains. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/trace.h"

enum { BACK_OFF_MAX_WAITS = 300 }; /* of retry_ns */

static struct nf_claim *claim_of(const struct nf_avl_node *n)
{
	return n ? nf_container_of((struct nf_avl_node *)(uintptr_t)n, struct nf_claim, node) : NULL;
}

static int by_index(const void *key, const struct nf_avl_node *n)
{
	uint64_t index = *(const uint64_t *)key;

	return index < claim_of(n)->index ? -1 : index > claim_of(n)->index;
}

struct nf_claim *nf_claim_at_locked(struct nf_ictx_priv *p, uint64_t index)
{
	return claim_of(nf_avl_find(&p->claims, &index, by_index));
}

bool nf_gathering_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	uint64_t index = start / p->ic->block_bytes;
	struct nf_avl_node *n = nf_avl_lower(&p->claims, &index, by_index);

	for (; n && claim_of(n)->index * p->ic->block_bytes < end; n = nf_avl_next(n))
		if (claim_of(n)->wreq->phase == NF_WREQ_GATHERING)
			return true;
	return false;
}

/* --- which blocks of a region must be stored ----------------------------------------------- */

/* Whether block INDEX of RG needs a request. */
static bool block_counts(struct nf_ictx_priv *p, const struct nf_region *rg, uint64_t index)
{
	uint64_t bb = p->ic->block_bytes, start = index * bb;
	uint64_t size = rg->group->closed ? rg->group->size_bytes : nf_size(p);

	if (!nf_region_is_zero(rg))
		return true;
	return start < size && (rg->start > start || rg->end < start + bb);
}

/* The block of RG to look at after INDEX: of zeros only the first and the last are of interest. */
static uint64_t next_block(struct nf_ictx_priv *p, const struct nf_region *rg, uint64_t index)
{
	uint64_t last = (rg->end - 1) / p->ic->block_bytes;

	if (!nf_region_is_zero(rg) || index >= last)
		return index + 1;
	return last;
}

/* --- a request is put together ------------------------------------------------------------------ */

struct pick {
	struct nf_ictx_priv *p;
	uint64_t *index;
	unsigned nr;
	unsigned max;
	uint64_t last;  /* the greatest of them */
	uint64_t start; /* only blocks that meet [start, end) */
	uint64_t end;
};

static bool picked(const struct pick *k, uint64_t index)
{
	/* Mostly they come in order. */
	if (k->nr == 0 || index > k->last)
		return false;
	for (unsigned i = k->nr; i-- > 0;)
		if (k->index[i] == index)
			return true;
	return false;
}

static void pick_region(struct pick *k, const struct nf_region *rg)
{
	uint64_t bb = k->p->ic->block_bytes;
	uint64_t start = NF_MAX(rg->start, k->start), end = NF_MIN(rg->end, k->end);

	if (start >= end)
		return;
	for (uint64_t b = start / bb; k->nr < k->max && b * bb < end; b = next_block(k->p, rg, b))
		if (block_counts(k->p, rg, b) && !picked(k, b) && !nf_claim_at_locked(k->p, b)) {
			k->last = k->nr ? NF_MAX(k->last, b) : b;
			k->index[k->nr++] = b;
		}
}

/* From the first region that has something, in file order; then the others of the group. */
static void pick_group(struct pick *k, struct nf_group *g)
{
	nf_list_for_each(rg, &g->dirty, struct nf_region, link) {
		unsigned before = k->nr;
		pick_region(k, rg);
		if (before == 0 && k->nr) {
			const struct nf_region *r = nf_regions_next(rg);
			for (; r && r->group == g && k->nr < k->max; r = nf_regions_next(r))
				pick_region(k, r);
		}
		if (k->nr == k->max)
			return;
	}
}

static void pick_range(struct pick *k, struct nf_group *g)
{
	const struct nf_region *rg = nf_regions_at(&k->p->dirty, k->start);

	for (; rg && rg->start < k->end && k->nr < k->max; rg = nf_regions_next(rg))
		if (rg->group == g)
			pick_region(k, rg);
}

bool nf_group_has_work_locked(struct nf_ictx_priv *p, struct nf_group *g)
{
	uint64_t bb = p->ic->block_bytes;

	nf_list_for_each(rg, &g->dirty, struct nf_region, link) {
		if (!nf_region_is_zero(rg))
			return true;
		if (block_counts(p, rg, rg->start / bb) || block_counts(p, rg, (rg->end - 1) / bb))
			return true;
	}
	return false;
}

/* As many blocks as memory can be had for; the last resort is the reserve. */
static unsigned charge_locked(struct nf_ictx_priv *p, unsigned nr, enum nf_charge *charge)
{
	size_t two = 2 * (size_t)p->ic->block_bytes; /* plain and sealed */

	for (unsigned n = nr; n; n /= 2) {
		*charge = nf_memory_charge(p->lib->mem, n * two, false);
		if (*charge != NF_CHARGE_NONE)
			return n;
	}
	for (unsigned n = nr; n; n /= 2) {
		*charge = nf_memory_charge(p->lib->mem, n * two, true);
		if (*charge != NF_CHARGE_NONE)
			return n;
	}
	return 0;
}

static int cmp_index(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static struct nf_wreq *wreq_new(struct nf_ictx_priv *p, unsigned nr)
{
	struct nf_wreq *wq = calloc(1, sizeof *wq);

	if (!wq)
		return NULL;
	wq->blocks = calloc(nr, sizeof *wq->blocks);
	wq->claims = calloc(nr, sizeof *wq->claims);
	wq->plain = malloc((size_t)nr * p->ic->block_bytes);
	wq->folios = calloc((size_t)nr * p->ic->block_bytes / NF_PC_PAGE_BYTES,
			    sizeof(struct nf_folio *));
	wq->in_place = calloc(nr, sizeof *wq->in_place);
	if (!wq->blocks || !wq->claims || !wq->plain || !wq->folios || !wq->in_place) {
		free(wq->blocks);
		free(wq->claims);
		free(wq->plain);
		free(wq->in_place);
		free(wq->folios);
		free(wq);
		return NULL;
	}
	wq->p = p;
	nf_list_init(&wq->link);
	nf_list_init(&wq->todo);
	nf_list_init(&wq->regions);
	nf_lock_init(&wq->sub_lock, NF_RANK_LEAF);
	wq->id = atomic_fetch_add(&p->lib->last_request, 1) + 1;
	return wq;
}

static void claim_blocks_locked(struct nf_wreq *wq, const uint64_t *index, unsigned nr)
{
	struct nf_ictx_priv *p = wq->p;

	wq->nr_blocks = nr;
	for (unsigned i = 0; i < nr; i++) {
		wq->blocks[i].index = index[i];
		wq->blocks[i].plain = wq->plain + (size_t)i * p->ic->block_bytes;
		wq->claims[i].index = index[i];
		wq->claims[i].wreq = wq;
		(void)nf_avl_add(&p->claims, &index[i], by_index, &wq->claims[i].node);
	}
}

/* False: no memory. */
static bool start_request_locked(struct pick *k, struct nf_group *g, struct nf_todo *todo)
{
	/* Without G: of copies. */
	struct nf_ictx_priv *p = k->p;
	enum nf_charge charge;
	unsigned nr = charge_locked(p, k->nr, &charge);
	struct nf_wreq *wq = nr ? wreq_new(p, nr) : NULL;

	if (!wq) {
		nf_memory_uncharge(p->lib->mem, nr * 2 * (size_t)p->ic->block_bytes, charge);
		return false;
	}
	qsort(k->index, k->nr, sizeof *k->index, cmp_index);
	wq->charge = charge;
	wq->charged_bytes = nr * 2 * (size_t)p->ic->block_bytes;
	wq->copy = !g;
	wq->group = g;
	wq->group_number = g ? g->number : 0;
	if (g)
		g->nr_requests++;
	nf_ic_get(p);
	nf_list_add_tail(&p->wreqs, &wq->link);
	p->nr_wreqs++;
	atomic_fetch_add(&p->lib->nr_requests, 1);
	nf_count(NF_C_WRITE_REQUESTS, 1);
	claim_blocks_locked(wq, k->index, nr);
	nf_trace(REQ, "R=%08x new write blocks=%u first=%llu", wq->id, nr,
		 (unsigned long long)k->index[0]);
	nf_wreq_fill_locked(wq, todo);
	return true;
}

/* Requests for what K allows, as many as may be under way; false: no memory. */
static bool flush_picked_locked(struct pick *k, struct nf_group *g, bool range, struct nf_todo *todo)
{
	while (k->p->nr_wreqs < NF_WREQS_PER_INODE) {
		k->nr = 0;
		if (range)
			pick_range(k, g);
		else
			pick_group(k, g);
		if (k->nr == 0)
			return true;
		if (!start_request_locked(k, g, todo))
			return false;
	}
	return true;
}

/* Ranges that somebody waits for.  Groups before theirs have to go first. */
static bool flush_ranges_locked(struct pick *k, struct nf_group *oldest, struct nf_todo *todo)
{
	struct nf_ictx_priv *p = k->p;

	nf_list_for_each(w, &p->waiters, struct nf_waiter, link) {
		if (w->group)
			continue;
		const struct nf_region *rg = nf_regions_at(&p->dirty, w->start);
		for (; rg && rg->start < w->end; rg = nf_regions_next(rg))
			if (rg->group != oldest && rg->seq <= w->seq)
				p->flush_to = NF_MAX(p->flush_to, rg->group->number - 1);
		k->start = w->start;
		k->end = w->end;
		if (!flush_picked_locked(k, oldest, true, todo))
			return false;
	}
	nf_list_for_each(rg, &p->pending, struct nf_region, link) {
		if (!nf_writer_of(rg)->wants_flush)
			continue;
		/* What is in its way is of the current group: all before that must go. */
		if (oldest->closed)
			p->flush_to = NF_MAX(p->flush_to, p->last_group - 1);
		k->start = nf_block_down(p, rg->reserved_start);
		k->end = nf_block_up(p, rg->reserved_end);
		if (!flush_picked_locked(k, oldest, true, todo))
			return false;
	}
	return true;
}

/* Only what is left over of the window: copies never hold up what must be stored. */
static void flush_copies_locked(struct nf_ictx_priv *p, struct pick *k, struct nf_todo *todo)
{
	bool ok = true;

	while (ok && p->nr_wreqs < NF_WREQS_PER_INODE / 2) {
		k->nr = nf_copy_pick_locked(p, k->index, k->max);
		if (k->nr == 0)
			break;
		ok = start_request_locked(k, NULL, todo);
	}
	if (!ok)
		nf_copy_drop_locked(p, 0, UINT64_MAX, "no memory");
	p->store_copies = p->copies.nr && p->nr_wreqs >= NF_WREQS_PER_INODE / 2;
}

static bool pick_init(struct pick *k, struct nf_ictx_priv *p)
{
	size_t max = p->lib->request_bytes / p->ic->block_bytes;

	*k = (struct pick){ .p = p, .max = max ? (unsigned)max : 1, .end = UINT64_MAX };
	k->index = calloc(k->max, sizeof *k->index);
	return k->index;
}

static void store_copies_locked(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	struct pick k;

	if (pick_init(&k, p))
		flush_copies_locked(p, &k, todo);
	free(k.index);
	nf_wreqs_gather_locked(p, todo);
}

void nf_flush_locked(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	struct nf_group *g = nf_group_oldest_locked(p);
	struct pick k;

	/* Not while a group waits to drain: it would wait for them. */
	if (g && g->closed && p->pressure)
		nf_copy_drop_locked(p, 0, UINT64_MAX, "memory");
	else if (p->store_copies && !(g && g->closed) && p->nr_wreqs < NF_WREQS_PER_INODE / 2)
		store_copies_locked(p, todo);
	if (!g || p->backing_off || (p->dirty.nr == 0 && !g->closed) || p->draining)
		return;
	if (p->pressure && g->closed)
		p->flush_to = NF_MAX(p->flush_to, g->number);
	bool whole = g->number <= p->flush_to || p->pressure;
	bool ranges = !nf_list_empty(&p->waiters) || !nf_list_empty(&p->pending);
	if ((!whole && !ranges) || p->nr_wreqs >= NF_WREQS_PER_INODE || p->dirty.nr == 0)
		return;
	bool ok = pick_init(&k, p) && (!ranges || flush_ranges_locked(&k, g, todo));
	if (ok) {
		k.start = 0;
		k.end = UINT64_MAX;
		whole = g->number <= p->flush_to || p->pressure;
		ok = !whole || flush_picked_locked(&k, g, false, todo);
	}
	if (!ok)
		nf_starve(p);
	else if (k.nr == 0 && !g->closed)
		p->pressure = false; /* nothing left that may go */
	free(k.index);
	nf_wreqs_gather_locked(p, todo);
}

void nf_back_off_locked(struct nf_ictx_priv *p)
{
	uint64_t waits = 1;

	for (unsigned i = 0; i < p->failures && waits < BACK_OFF_MAX_WAITS; i++)
		waits *= 2;
	p->failures++;
	p->backing_off = true;
	waits = NF_MIN(waits, (uint64_t)BACK_OFF_MAX_WAITS);
	nf_timer_arm(p->lib->timers, &p->backoff, waits * p->lib->retry_ns);
}
