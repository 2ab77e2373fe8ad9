/* Groups of an inode: closing, draining, and those who wait for it.
 *
 *   open -> closed -> nothing left to store -> group_stored() -> gone, the next is the oldest
 *
 * What is left of a group when nothing is left to store are zeroed whole blocks: they need no
 * request, they become holes in group_stored(). */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/trace.h"

#include <inttypes.h>

struct nf_group *nf_group_oldest_locked(struct nf_ictx_priv *p)
{
	return nf_list_empty(&p->groups) ? NULL : nf_list_first(&p->groups, struct nf_group, link);
}

struct nf_group *nf_group_open_locked(struct nf_ictx_priv *p)
{
	if (nf_list_empty(&p->groups))
		return NULL;
	struct nf_group *g = nf_list_last(&p->groups, struct nf_group, link);
	return g->closed ? NULL : g;
}

struct nf_group *nf_group_current_locked(struct nf_ictx_priv *p)
{
	struct nf_group *g = nf_group_open_locked(p);

	if (!g) {
		g = nf_group_new(++p->last_group);
		nf_list_add_tail(&p->groups, &g->link);
	}
	return g;
}

uint64_t nf_group_close_locked(struct nf_ictx_priv *p)
{
	if (nf_list_empty(&p->groups))
		return 0;
	struct nf_group *g = nf_list_last(&p->groups, struct nf_group, link);
	if (!g->closed && (g->changed || g->nr_writers)) {
		g->closed = true;
		g->size_bytes = nf_size(p);
		nf_trace(REGION, "group=%" PRIu64 " closed size=%" PRIx64, g->number, g->size_bytes);
	}
	if (g->closed)
		return g->number;
	/* The open one is empty: what is before it counts. */
	if (g->link.prev == &p->groups)
		return 0;
	return nf_list_entry(g->link.prev, struct nf_group, link)->number;
}

void nf_group_reaches_locked(struct nf_ictx_priv *p, struct nf_group *g, uint64_t size)
{
	for (struct nf_list *l = &g->link; l != &p->groups; l = l->next) {
		struct nf_group *later = nf_list_entry(l, struct nf_group, link);
		if (later->closed)
			later->size_bytes = NF_MAX(later->size_bytes, size);
	}
}

/* Nobody else could reach beyond SIZE while this waited: all of them had at least that. */
void nf_group_cuts_locked(struct nf_ictx_priv *p, struct nf_group *g, uint64_t size)
{
	for (struct nf_list *l = &g->link; l != &p->groups; l = l->next) {
		struct nf_group *later = nf_list_entry(l, struct nf_group, link);
		if (later->closed)
			later->size_bytes = NF_MIN(later->size_bytes, size);
	}
}

uint64_t nf_group_close(struct nf_ictx *ic)
{
	struct nf_ictx_priv *p = ic->priv;

	nf_ic_lock(p);
	uint64_t number = nf_group_close_locked(p);
	nf_ic_unlock_later(p);
	return number;
}

void nf_drain_locked(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	struct nf_group *g = nf_group_oldest_locked(p);

	if (!g || p->draining || !g->closed || g->number > p->flush_to)
		return;
	if (g->nr_writers || g->nr_requests || nf_group_has_work_locked(p, g))
		return;
	/* A copy on its way to the cache must not come after the hole that replaces its block. */
	nf_list_for_each(wq, &p->wreqs, struct nf_wreq, link)
		if (wq->copy)
			return;
	p->draining = true;
	todo->drain = g;
}

/* The zeroed blocks of G are holes where they are stored now.  Also those zeroed piece by piece, with a store in between: what
 * was read of them since is no copy of what is stored. */
static void forget_holes_locked(struct nf_ictx_priv *p, struct nf_group *g)
{
	uint64_t start, end;

	for (uint64_t pos = 0; nf_rangeset_next(&g->holes, pos, &start, &end); pos = end) {
		nf_reads_stale_locked(p, start, end);
		nf_copy_drop_locked(p, start, end, "hole");
	}
	while (!nf_list_empty(&g->dirty)) {
		struct nf_region *rg = nf_list_first(&g->dirty, struct nf_region, link);
		NF_ASSERT(nf_region_is_zero(rg));
		nf_reads_stale_locked(p, rg->start, rg->end);
		nf_list_del(&rg->link);
		nf_regions_remove(&p->dirty, rg);
		nf_region_move(rg, NF_REGION_FLUSHING, "hole");
		nf_region_move(rg, NF_REGION_COMPLETE, "hole stored");
		nf_region_free(rg);
	}
}

/* No lock held; draining keeps others away from G. */
void nf_group_finish(struct nf_ictx_priv *p, struct nf_group *g)
{
	struct nf_group_info info;
	int r = 0;

	if (g->changed && p->ic->ops->group_stored) {
		r = nf_group_info_init(&info, g);
		if (r == 0) {
			r = p->ic->ops->group_stored(p->ic, &info);
			nf_group_info_deinit(&info);
		}
	}
	nf_ic_lock(p);
	p->draining = false;
	if (r < 0) { /* no memory for the list, or not taken: later */
		nf_waiters_fail_locked(p, g->number, 0, UINT64_MAX, r);
		nf_error_note_locked(p, r);
		nf_back_off_locked(p);
	} else {
		nf_trace(REGION, "group=%" PRIu64 " drained", g->number);
		forget_holes_locked(p, g);
		if (g->least_size_bytes != UINT64_MAX)
			p->zero_point = NF_MIN(p->zero_point, g->size_bytes);
		nf_list_del(&g->link);
		nf_group_free(g);
		p->failures = 0;
	}
	nf_ic_unlock(p, NULL);
}

/* --- waiting ------------------------------------------------------------------------------ */

void nf_waiter_add_locked(struct nf_ictx_priv *p, struct nf_waiter *w)
{
	w->error = 0;
	nf_list_add_tail(&p->waiters, &w->link);
	if (w->group)
		p->flush_to = NF_MAX(p->flush_to, w->group);
	p->backing_off = false; /* somebody asks: try at once */
}

static bool older_than(const struct nf_regions *rs, const struct nf_waiter *w)
{
	const struct nf_region *rg = nf_regions_at(rs, w->start);

	for (; rg && rg->start < w->end; rg = nf_regions_next(rg))
		if (rg->seq <= w->seq && !nf_region_is_zero(rg))
			return true;
	return false;
}

static bool is_stored(struct nf_ictx_priv *p, const struct nf_waiter *w)
{
	struct nf_group *g = nf_group_oldest_locked(p);

	if (w->group)
		return !g || g->number > w->group;
	return !older_than(&p->dirty, w) && !older_than(&p->flushing, w);
}

void nf_waiters_check_locked(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	nf_list_for_each_safe(w, &p->waiters, struct nf_waiter, link) {
		if (w->error == 0 && !is_stored(p, w))
			continue;
		nf_list_del(&w->link);
		nf_list_add_tail(&todo->waiters, &w->link);
	}
}

void nf_waiters_fail_locked(struct nf_ictx_priv *p, uint64_t group, uint64_t start, uint64_t end,
			    int error)
{
	nf_list_for_each(w, &p->waiters, struct nf_waiter, link) {
		bool mine = w->group ? w->group >= group : w->start < end && start < w->end;
		if (mine)
			w->error = error;
	}
}

void nf_error_note_locked(struct nf_ictx_priv *p, int error)
{
	p->nr_errors++;
	p->last_error = error;
}

uint64_t nf_errors_seen(const struct nf_ictx *ic)
{
	struct nf_ictx_priv *p = ic->priv;

	nf_lock_take(&p->lock);
	uint64_t seen = p->nr_errors;
	nf_lock_drop(&p->lock);
	return seen;
}

int nf_errors_hear(const struct nf_ictx *ic, uint64_t *errors_seen)
{
	struct nf_ictx_priv *p = ic->priv;

	nf_lock_take(&p->lock);
	int error = *errors_seen != p->nr_errors ? p->last_error : 0;
	*errors_seen = p->nr_errors;
	nf_lock_drop(&p->lock);
	return error;
}

static void io_waiter_done(struct nf_waiter *w)
{
	struct nf_io *io = w->io;

	io->error = w->error;
	if (io->flags & NF_IO_ERRORS_SEEN) {
		int heard = nf_errors_hear(io->ic, &io->errors_seen);
		io->error = io->error < 0 ? io->error : heard;
	}
	free(w);
	io->done(io);
}

static struct nf_waiter *io_waiter_new(struct nf_io *io)
{
	struct nf_waiter *w = calloc(1, sizeof *w);

	io->error = 0;
	io->done_bytes = 0;
	if (!w) {
		io->error = nf_fail(-ENOMEM);
		io->done(io);
		return NULL;
	}
	w->io = io;
	w->done = io_waiter_done;
	return w;
}

void nf_fsync(struct nf_io *io) { nf_group_flush(io, 0); }

void nf_group_flush(struct nf_io *io, uint64_t group)
{
	struct nf_ictx_priv *p = io->ic->priv;
	struct nf_waiter *w = io_waiter_new(io);

	if (!w)
		return;
	nf_ic_lock(p);
	/* With no group left to wait for, the waiter's empty range is stored at once. */
	w->group = group == 0 || group >= p->last_group ? nf_group_close_locked(p) : group;
	nf_waiter_add_locked(p, w);
	nf_ic_unlock(p, NULL);
}

void nf_writeback_range(struct nf_io *io)
{
	struct nf_ictx_priv *p = io->ic->priv;
	struct nf_waiter *w = io_waiter_new(io);

	if (!w)
		return;
	nf_ic_lock(p);
	w->start = io->pos_bytes;
	w->end = io->len_bytes && io->len_bytes < UINT64_MAX - io->pos_bytes
			 ? io->pos_bytes + io->len_bytes
			 : UINT64_MAX;
	w->seq = p->seq;
	nf_waiter_add_locked(p, w);
	nf_ic_unlock(p, NULL);
}
