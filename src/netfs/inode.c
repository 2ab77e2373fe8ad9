/* Inode contexts: birth, references, death; the end of every critical section. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/error.h"

static void priv_free(struct nf_ictx_priv *p)
{
	struct nf_ictx *ic = p->ic;
	void (*done)(struct nf_ictx *) = p->deinit_done;

	NF_ASSERT(nf_list_empty(&p->pending) && nf_list_empty(&p->active) && p->queue.nr == 0);
	NF_ASSERT(p->dirty.nr == 0 && p->flushing.nr == 0 && p->copies.nr == 0);
	NF_ASSERT(nf_list_empty(&p->wreqs) && nf_list_empty(&p->rreqs));
	NF_ASSERT(nf_list_empty(&p->readers) && nf_list_empty(&p->waiters));
	while (!nf_list_empty(&p->groups)) {
		struct nf_group *g = nf_list_first(&p->groups, struct nf_group, link);
		NF_ASSERT(!g->changed);
		nf_list_del(&g->link);
		nf_group_free(g);
	}
	nf_lock_take(&p->lib->lock);
	nf_list_del(&p->all_link);
	nf_list_del(&p->starving_link);
	NF_ASSERT(nf_list_empty(&p->dirty_link));
	nf_lock_drop(&p->lib->lock);
	nf_mapping_deinit(&p->mapping);
	nf_lock_deinit(&p->lock);
	free(p);
	ic->priv = NULL;
	if (done)
		done(ic);
}

void nf_ic_get(struct nf_ictx_priv *p) { atomic_fetch_add(&p->refs, 1); }

bool nf_ic_get_live(struct nf_ictx_priv *p)
{
	unsigned refs = atomic_load(&p->refs);

	while (refs && !atomic_compare_exchange_weak(&p->refs, &refs, refs + 1))
		;
	return refs;
}

void nf_ic_put(struct nf_ictx_priv *p)
{
	unsigned was = atomic_fetch_sub(&p->refs, 1);

	NF_ASSERT(was > 0);
	if (was == 1)
		priv_free(p);
}

static bool ops_compatible(void *ctx, void *old_priv, void *now_priv)
{
	struct nf_ictx *ic = ctx;

	return ic->ops->is_write_compatible(ic, old_priv, now_priv);
}

static void kick_work(struct nf_work *w)
{
	struct nf_ictx_priv *p = nf_container_of(w, struct nf_ictx_priv, kick_work);

	atomic_store(&p->kick_queued, false);
	nf_ic_lock(p);
	nf_ic_unlock(p, NULL);
	nf_ic_put(p);
}

void nf_kick_later(struct nf_ictx_priv *p)
{
	if (atomic_exchange(&p->kick_queued, true))
		return;
	nf_ic_get(p);
	nf_pool_add(p->lib->pool, &p->kick_work);
}

void nf_ic_unlock_later(struct nf_ictx_priv *p)
{
	nf_lock_drop(&p->lock);
	nf_kick_later(p);
}

static void back_off_over(struct nf_timer *t)
{
	struct nf_ictx_priv *p = nf_container_of(t, struct nf_ictx_priv, backoff);

	atomic_store(&p->retry, true);
	nf_kick_later(p);
}

static unsigned order_of(uint32_t bytes)
{
	unsigned order = 0;

	while (((uint32_t)NF_PC_PAGE_BYTES << order) < bytes && order < NF_PC_ORDER_MAX)
		order++;
	return order;
}

int nf_ictx_init(struct nf_ictx *ic, struct nf_netfs *lib, const struct nf_netfs_ops *ops,
		 uint64_t ino, uint32_t block_bytes, uint64_t size_bytes, uint64_t zero_point_bytes)
{
	if (block_bytes < NF_PAGE_BYTES || block_bytes > NF_BLOCK_MAX_BYTES ||
	    (block_bytes & (block_bytes - 1)))
		return nf_fail(-EINVAL);
	/* A block, plain and sealed, must fit into what write-back has for itself. */
	if (2 * (size_t)block_bytes > nf_memory_reserve(lib->mem))
		return nf_fail(-EINVAL);
	struct nf_ictx_priv *p = calloc(1, sizeof *p);
	if (!p)
		return nf_fail(-ENOMEM);
	*ic = (struct nf_ictx){ .ops = ops, .lib = lib, .ino = ino, .block_bytes = block_bytes,
				.priv = p };
	nf_lock_init(&p->lock, NF_RANK_INODE);
	p->ic = ic;
	p->lib = lib;
	atomic_init(&p->refs, 1);
	p->region_ops.ctx = ic;
	p->region_ops.compatible = ops->is_write_compatible ? ops_compatible : NULL;
	nf_list_init(&p->all_link);
	nf_list_init(&p->dirty_link);
	nf_list_init(&p->starving_link);
	nf_list_init(&p->dead_privs);
	nf_list_init(&p->pending);
	nf_list_init(&p->active);
	nf_queue_init(&p->queue);
	nf_list_init(&p->groups);
	nf_list_init(&p->wreqs);
	nf_list_init(&p->rreqs);
	nf_list_init(&p->readers);
	nf_list_init(&p->waiters);
	nf_mapping_init(&p->mapping, lib->mem, order_of(block_bytes));
	atomic_init(&p->i_size, size_bytes);
	p->zero_point = NF_MIN(zero_point_bytes, size_bytes);
	nf_regions_init(&p->dirty);
	nf_regions_init(&p->flushing);
	nf_regions_init(&p->copies);
	p->dirty.block_bytes = p->flushing.block_bytes = block_bytes;
	nf_avl_init(&p->claims, NULL);
	nf_timer_init(&p->backoff, back_off_over);
	nf_work_init(&p->kick_work, kick_work);
	nf_lock_take(&lib->lock);
	nf_list_add_tail(&lib->all, &p->all_link);
	nf_lock_drop(&lib->lock);
	return 0;
}

void nf_ictx_deinit(struct nf_ictx *ic, void (*done)(struct nf_ictx *ic))
{
	struct nf_ictx_priv *p = ic->priv;

	nf_timer_cancel(p->lib->timers, &p->backoff);
	/* Nothing that is left can wait for memory. */
	nf_lock_take(&p->lib->lock);
	nf_list_del(&p->starving_link);
	nf_lock_drop(&p->lib->lock);
	nf_ic_lock(p);
	NF_ASSERT(!p->is_dirty);
	nf_copy_drop_locked(p, 0, UINT64_MAX, "going away");
	p->deinit_done = done;
	nf_ic_unlock(p, NULL);
	nf_ic_put(p);
}

void nf_ic_lock(struct nf_ictx_priv *p) { nf_lock_take(&p->lock); }

void nf_todo_init(struct nf_todo *t)
{
	nf_list_init(&t->writers);
	nf_list_init(&t->issue);
	nf_list_init(&t->apply);
	nf_list_init(&t->wreqs);
	nf_list_init(&t->ended);
	nf_list_init(&t->waiters);
	nf_list_init(&t->readers);
	nf_list_init(&t->writers_done);
	t->drain = NULL;
	t->own = NULL;
}

static void apply_work(struct nf_work *w)
{
	nf_rreq_apply(nf_container_of(w, struct nf_rreq, work));
}

static void writer_work(struct nf_work *w)
{
	nf_writer_run(nf_container_of(w, struct nf_writer, work));
}

static void wreq_work(struct nf_work *w)
{
	nf_wreq_gather(nf_container_of(w, struct nf_wreq, work));
}

#define NF_TODO_NEXT(list, type)                                                                   \
	__extension__({                                                                            \
		type *nf_x_ = nf_list_first(list, type, todo);                                     \
		nf_list_del(&nf_x_->todo);                                                         \
		nf_x_;                                                                             \
	})

/* Starts what others will do: on the pool, or at the filesystem.  Returns the writer that
 * this thread is to run itself. */
static struct nf_writer *todo_start(struct nf_ictx_priv *p, struct nf_todo *t)
{
	struct nf_writer *mine = NULL;

	while (!nf_list_empty(&t->wreqs)) {
		struct nf_wreq *wq = NF_TODO_NEXT(&t->wreqs, struct nf_wreq);
		nf_work_init(&wq->work, wreq_work);
		nf_pool_add(p->lib->pool, &wq->work);
	}
	while (!nf_list_empty(&t->ended))
		nf_wreq_free(NF_TODO_NEXT(&t->ended, struct nf_wreq));
	while (!nf_list_empty(&t->issue))
		nf_rreq_issue(NF_TODO_NEXT(&t->issue, struct nf_rreq));
	while (!nf_list_empty(&t->apply)) {
		struct nf_rreq *rq = NF_TODO_NEXT(&t->apply, struct nf_rreq);
		nf_work_init(&rq->work, apply_work);
		/* One block is sooner decoded here than by a thread that must be woken. */
		if (rq->nr_blocks == 1 && !rq->ahead)
			nf_rreq_apply(rq);
		else
			nf_pool_add(p->lib->pool, &rq->work);
	}
	while (!nf_list_empty(&t->writers)) {
		struct nf_writer *w = NF_TODO_NEXT(&t->writers, struct nf_writer);
		if (w == t->own) {
			mine = w;
			continue;
		}
		nf_work_init(&w->work, writer_work);
		nf_pool_add(p->lib->pool, &w->work);
	}
	return mine;
}

/* Tells callers. */
static void todo_finish(struct nf_todo *t)
{
	while (!nf_list_empty(&t->readers)) {
		struct nf_reader *r = nf_list_first(&t->readers, struct nf_reader, link);
		nf_list_del(&r->link);
		nf_reader_done(r);
	}
	while (!nf_list_empty(&t->writers_done))
		nf_writer_finish(NF_TODO_NEXT(&t->writers_done, struct nf_writer));
	while (!nf_list_empty(&t->waiters)) {
		struct nf_waiter *w = nf_list_first(&t->waiters, struct nf_waiter, link);
		nf_list_del(&w->link);
		w->done(w);
	}
}

static void free_privs(struct nf_ictx *ic, struct nf_list *dead)
{
	nf_list_for_each_safe(rp, dead, struct nf_region_priv, link) {
		nf_list_del(&rp->link);
		if (ic->ops->free_dirty_region)
			ic->ops->free_dirty_region(ic, rp->fs);
		free(rp);
	}
}

void nf_ic_unlock(struct nf_ictx_priv *p, struct nf_writer *own)
{
	struct nf_todo todo;

	nf_todo_init(&todo);
	todo.own = own;
	nf_ic_unlock_todo(p, &todo);
}

void nf_ic_unlock_todo(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	struct nf_list dead;

	nf_list_init(&dead);
	nf_kick_locked(p, todo);
	if (todo->own && todo->own->borrowed && !todo->own->granted)
		nf_writer_keep_locked(todo->own);
	nf_list_splice(&dead, &p->dead_privs);
#ifdef NF_PARANOID
	nf_ictx_check_locked(p);
#endif
	nf_ic_get(p);
	nf_lock_drop(&p->lock);
	free_privs(p->ic, &dead);
	struct nf_writer *mine = todo_start(p, todo);
	todo_finish(todo);
	if (todo->drain)
		nf_group_finish(p, todo->drain);
	if (mine)
		nf_writer_run(mine);
	nf_ic_put(p);
}

void nf_set_i_size_locked(struct nf_ictx_priv *p, uint64_t size)
{
	if (size == nf_size(p))
		return;
	nf_copy_drop_locked(p, NF_MIN(size, nf_size(p)), UINT64_MAX, "size");
	atomic_store(&p->i_size, size);
	if (p->ic->ops->update_i_size)
		p->ic->ops->update_i_size(p->ic, size);
}

uint64_t nf_i_size(const struct nf_ictx *ic) { return nf_size(ic->priv); }

bool nf_is_dirty(const struct nf_ictx *ic)
{
	struct nf_ictx_priv *p = ic->priv;

	nf_lock_take(&p->lock);
	bool dirty = p->is_dirty;
	nf_lock_drop(&p->lock);
	return dirty;
}

uint64_t nf_dirty_bytes(const struct nf_ictx *ic)
{
	struct nf_ictx_priv *p = ic->priv;

	nf_lock_take(&p->lock);
	uint64_t bytes = p->dirty.bytes + p->flushing.bytes;
	nf_lock_drop(&p->lock);
	return bytes;
}

static bool data_region_in(const struct nf_regions *rs, uint64_t start, uint64_t end)
{
	const struct nf_region *rg = nf_regions_at(rs, start);

	while (rg && rg->start < end && nf_region_is_zero(rg))
		rg = nf_regions_next(rg);
	return rg && rg->start < end;
}

bool nf_range_in_use_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	return data_region_in(&p->dirty, start, end) || data_region_in(&p->flushing, start, end) ||
	       data_region_in(&p->copies, start, end) ||
	       nf_writing_locked(p, start, end);
}

static bool nothing_uptodate(const struct nf_folio *f)
{
	for (unsigned i = 0; i < NF_FOLIO_WORDS; i++)
		if (f->uptodate[i])
			return false;
	return true;
}

void nf_folios_recheck_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end, bool drop)
{
	struct nf_folio *f;

	while (start < end && (f = nf_mapping_next(&p->mapping, start))) {
		if (f->pos_bytes < end && !nf_range_in_use_locked(p, f->pos_bytes, nf_folio_end(f))) {
			/* 2: the mapping's and ours; a read under way will fill it otherwise.  Readers keep what they
			 * were given, whoever comes now gets another folio. */
			if (drop || nf_folio_is_unsettled(f) ||
			    (nothing_uptodate(f) && atomic_load(&f->refs) == 2))
				nf_folio_drop(f);
			else
				nf_folio_set_clean(f);
		}
		start = nf_folio_end(f);
		nf_folio_unpin(f);
	}
}

void nf_reads_stale_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	nf_list_for_each(rq, &p->rreqs, struct nf_rreq, link)
		if (rq->start < end && start < rq->end)
			rq->stale = true;
	nf_own_stale_locked(p, start, end);
}
