/* Admission: when a writer may start, and when it may touch memory.
 *
 *   P --- nothing earlier in its way, nothing dirty in its bounds that must be stored
 *         as it is ---> R --- nobody gathers or applies in its window, folios are
 *         there ---> A
 *   R --- its group was closed, and there is no memory ---> P
 *
 * The last of these is because groups are stored in order: what younger groups wrote meanwhile can only leave memory when
 * the older one has been stored, which waits for its writers.  So a writer that finds no memory does not hold up its group: what it
 * has not copied yet belongs to the group that is open when it is admitted again.
 *
 * Each pass looks at all waiting writers again, in the order they came: nothing is handed
 * from one to the next, so nothing can be forgotten. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/trace.h"

struct box {
	uint64_t start;
	uint64_t end;
};

static bool is_writing(const struct nf_region *rg, const void *ctx)
{
	const struct nf_writer *w = nf_writer_of(rg);
	const struct box *b = ctx;

	return rg->state == NF_REGION_ACTIVE && w->cursor < b->end && b->start < w->window_end;
}

bool nf_writing_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	return nf_queue_find(&p->queue, start, end, is_writing, &(struct box){ start, end });
}

struct candidate {
	const struct nf_ictx_priv *p;
	const struct nf_region *rg;
	const struct nf_group *group;
};

static bool is_in_the_way(const struct nf_region *old, const void *ctx)
{
	const struct candidate *c = ctx;

	return old != c->rg && (old->state != NF_REGION_PENDING || old->arrival < c->rg->arrival) &&
	       nf_region_must_pend(old, c->rg, c->group, c->p->ic->block_bytes, &c->p->region_ops);
}

/* Whoever runs, or came earlier, goes first: overlapping writers are served in the order they came. */
static bool behind_others_locked(struct nf_ictx_priv *p, const struct nf_region *rg)
{
	struct candidate c = { p, rg, nf_group_open_locked(p) };

	return nf_queue_find(&p->queue, nf_block_down(p, rg->reserved_start),
			     nf_block_up(p, rg->reserved_end), is_in_the_way, &c);
}

/* An append takes its place when nobody before it can move the end of the file. */
static bool place_append_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	struct nf_region *rg = w->rg;
	uint64_t size = nf_size(p);

	if (p->pending.next != &rg->link)
		return false;
	nf_list_for_each(a, &p->active, struct nf_region, link)
		if (a->reserved_end > size)
			return false;
	if (size > (uint64_t)INT64_MAX - w->io->len_bytes) {
		w->discarded = true;
		w->discard_error = -EFBIG;
		return true;
	}
	w->io->pos_bytes = w->cursor = w->window_end = size;
	nf_queue_move(&p->queue, rg, size, size + w->io->len_bytes);
	return true;
}

/* Whether dirty data in W's bounds must be gathered first; has it flushed. */
static bool over_others_data_locked(struct nf_ictx_priv *p, struct nf_writer *w,
				    const struct nf_group *current)
{
	bool wait = false;

	if (nf_regions_agree(&p->dirty, w->rg, nf_group_oldest_locked(p) == current, &p->region_ops))
		return false;
	uint64_t end = nf_block_up(p, w->rg->reserved_end);
	struct nf_region *d = nf_regions_at(&p->dirty, nf_block_down(p, w->rg->reserved_start));

	for (; d && d->start < end; d = nf_regions_next(d)) {
		if (nf_region_verdict(d, w->rg, current, &p->region_ops) != NF_INCOMPATIBLE)
			continue;
		wait = true;
		if (d->group == current)
			w->wants_flush = true;
		else
			p->flush_to = NF_MAX(p->flush_to, d->group->number);
	}
	return wait;
}

static bool must_wait(struct nf_writer *w)
{
	nf_count(NF_C_REGION_PEND, !w->pended);
	if (!w->pended)
		nf_trace(REGION, "D=%08x wait ino=%llx", w->rg->id, (unsigned long long)w->p->ic->ino);
	w->pended = true;
	return false;
}

/* Some of it is dirty, or stored: it was sent back. */
static bool has_begun(const struct nf_writer *w) { return w->cursor > w->rg->reserved_start; }

static bool admit_one_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	struct nf_group *g;

	if (w->discarded)
		return true;
	if (p->held && !has_begun(w))
		return must_wait(w);
	if ((w->io->flags & NF_IO_APPEND) && w->rg->reserved_end == UINT64_MAX &&
	    w->op == NF_OP_WRITE && !place_append_locked(p, w))
		return false;
	if (w->discarded)
		return true;
	if (behind_others_locked(p, w->rg))
		return must_wait(w);
	g = nf_group_current_locked(p);
	w->wants_flush = false;
	if (over_others_data_locked(p, w, g))
		return must_wait(w);
	w->rg->group = g;
	g->nr_writers++;
	nf_list_del(&w->rg->link);
	nf_list_add_tail(&p->active, &w->rg->link);
	nf_region_move(w->rg, NF_REGION_RESERVED, "reserved");
	return true;
}

bool nf_writers_hold(struct nf_ictx *ic)
{
	struct nf_ictx_priv *p = ic->priv;

	nf_lock_take(&p->lock);
	p->held = true;
	bool quiet = nf_list_empty(&p->active) && !p->is_dirty;
	nf_list_for_each(rg, &p->pending, struct nf_region, link)
		quiet = quiet && !has_begun(nf_writer_of(rg));
	nf_lock_drop(&p->lock);
	return quiet;
}

void nf_writers_release(struct nf_ictx *ic)
{
	struct nf_ictx_priv *p = ic->priv;

	nf_ic_lock(p);
	bool was = p->held;
	p->held = false;
	if (was)
		nf_ic_unlock_later(p);
	else
		nf_lock_drop(&p->lock);
}

static void unpin_all(struct nf_writer *w)
{
	for (unsigned i = 0; i < w->nr_folios; i++)
		nf_folio_unpin(w->folios[i]);
	w->nr_folios = 0;
}

/* Sequential writers get folios as large as what they have written. */
static unsigned order_wanted(struct nf_ictx_priv *p, const struct nf_writer *w)
{
	uint64_t bytes = w->window_end - w->cursor;
	unsigned order = 0;

	if (w->cursor == p->write_end)
		bytes = NF_MAX(bytes, p->write_run);
	while (order < NF_PC_ORDER_MAX && ((uint64_t)NF_PC_PAGE_BYTES << (order + 1)) <= bytes)
		order++;
	return order;
}

/* All folios of the window or none. */
static bool get_folios_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	unsigned order = order_wanted(p, w);

	for (uint64_t pos = w->cursor; pos < w->window_end;) {
		struct nf_folio *f = nf_mapping_get(&p->mapping, pos, order);
		if (!f) {
			unpin_all(w);
			return false;
		}
		w->folios[w->nr_folios++] = f;
		pos = nf_folio_end(f);
	}
	return true;
}

/* A page of which the writer changes a part becomes whole at once if the rest is zeros.  Not while
 * another writer is in it: its bytes are not known yet. */
static void zero_edge_page_locked(struct nf_ictx_priv *p, struct nf_folio *f, uint64_t pos)
{
	uint64_t page = pos & ~(uint64_t)(NF_PC_PAGE_BYTES - 1);

	if (nf_folio_page_uptodate(f, page) || nf_folio_is_unsettled(f) ||
	    nf_writing_locked(p, page, page + NF_PC_PAGE_BYTES) ||
	    !nf_range_all_zero_locked(p, page, page + NF_PC_PAGE_BYTES))
		return;
	memset(f->mem + (page - f->pos_bytes), 0, NF_PC_PAGE_BYTES);
	nf_folio_set_uptodate(f, page, page + NF_PC_PAGE_BYTES);
}

/* Its place among those that wait is that of its arrival. */
static void send_back_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	struct nf_region *rg = w->rg;
	struct nf_list *at = &p->pending;

	w->window_end = w->cursor;
	rg->group->nr_writers--;
	rg->group = NULL;
	nf_list_del(&rg->link);
	nf_list_for_each(other, &p->pending, struct nf_region, link) {
		if (other->arrival > rg->arrival) {
			at = &other->link;
			break;
		}
	}
	nf_list_add_tail(at, &rg->link);
	nf_region_move(rg, NF_REGION_PENDING, "sent back");
}

bool nf_writer_grab_locked(struct nf_writer *w)
{
	struct nf_ictx_priv *p = w->p;
	struct nf_region *rg = w->rg;
	uint64_t end = NF_MIN(rg->reserved_end, w->cursor + p->lib->chunk_bytes);

	if (end < rg->reserved_end)
		end &= ~(uint64_t)(NF_PC_PAGE_BYTES - 1);
	uint64_t box_start = nf_block_down(p, w->cursor), box_end = nf_block_up(p, end);
	if (nf_gathering_locked(p, box_start, box_end) || nf_applying_locked(p, box_start, box_end))
		return false;
	w->window_end = end;
	nf_memory_quiet(true);
	bool got = get_folios_locked(p, w);
	nf_memory_quiet(false);
	if (!got) {
		nf_starve(p);
		nf_count(NF_C_WRITER_THROTTLED, !w->throttled);
		w->throttled = true;
		if (rg->group->closed)
			send_back_locked(p, w);
		return false;
	}
	for (unsigned i = 0; i < w->nr_folios; i++)
		nf_folio_set_dirty(w->folios[i]);
	if (w->cursor % NF_PC_PAGE_BYTES)
		zero_edge_page_locked(p, w->folios[0], w->cursor);
	if (end % NF_PC_PAGE_BYTES)
		zero_edge_page_locked(p, w->folios[w->nr_folios - 1], end);
	nf_region_move(rg, NF_REGION_ACTIVE, "active");
	w->granted = true;
	return true;
}

/* Truncation and zeroing touch no user data: they happen here. */
static bool resize_one_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	uint64_t start = nf_block_down(p, w->rg->reserved_start);
	uint64_t end = nf_block_up(p, w->rg->reserved_end);

	if (nf_gathering_locked(p, start, end) || nf_applying_locked(p, start, end))
		return false;
	nf_resize_locked(w);
	return true;
}

static void end_writer_locked(struct nf_ictx_priv *p, struct nf_writer *w, struct nf_todo *todo)
{
	nf_list_del(&w->rg->link);
	nf_queue_remove(&p->queue, w->rg);
	if (w->rg->group)
		w->rg->group->nr_writers--;
	nf_region_move(w->rg, NF_REGION_COMPLETE, w->discarded ? "discarded" : "done");
	nf_list_add_tail(&todo->writers_done, &w->todo);
}

void nf_admit_locked(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	nf_list_for_each_safe(rg, &p->pending, struct nf_region, link) {
		struct nf_writer *w = nf_writer_of(rg);
		if (admit_one_locked(p, w) && w->discarded)
			end_writer_locked(p, w, todo);
	}
	nf_list_for_each_safe(rg, &p->active, struct nf_region, link) {
		struct nf_writer *w = nf_writer_of(rg);
		if (w->granted)
			continue;
		if (w->discarded) {
			end_writer_locked(p, w, todo);
		} else if (w->op == NF_OP_WRITE) {
			if (nf_writer_grab_locked(w))
				nf_list_add_tail(&todo->writers, &w->todo);
		} else if (resize_one_locked(p, w)) {
			end_writer_locked(p, w, todo);
		}
	}
}
