/* One pass over an inode: whatever has become possible is started.
 *
 * The order matters: gathering and applying come before new writers, so that a steady stream of
 * writers cannot keep them waiting; flushing comes after admission, because admission finds what
 * must be flushed for writers to go on. */
#include "netfs/types.h"

#include "base/clock.h"

enum { PRESSURE_SHARE = 2 }; /* store early when more than half of memory is dirty */

static void age_locked(struct nf_ictx_priv *p)
{
	struct nf_group *g = nf_group_oldest_locked(p);

	if (atomic_exchange(&p->pressed, false))
		p->pressure = true;
	bool aged = atomic_exchange(&p->aged, false);
	p->store_copies |= aged || p->pressure;
	if (!aged || !g || !g->changed)
		return;
	if (nf_clock_ns() - g->since_ns < p->lib->write_back_ns)
		return;
	uint64_t number = nf_group_close_locked(p);
	p->flush_to = NF_MAX(p->flush_to, number);
}

static void tell_dirty_locked(struct nf_ictx_priv *p)
{
	struct nf_group *g = nf_group_oldest_locked(p);
	bool dirty = p->dirty.nr || p->flushing.nr || (g && (g->changed || g->nr_requests));
	size_t bytes = (size_t)(p->dirty.bytes + p->flushing.bytes);

	size_t boxes = (size_t)(p->dirty.box_bytes + p->flushing.box_bytes);

	atomic_fetch_add(&p->lib->dirty_bytes, bytes - p->dirty_told);
	p->dirty_told = bytes;
	atomic_fetch_add(&p->lib->dirty_box_bytes, boxes - p->boxes_told);
	p->boxes_told = boxes;
	if (dirty && (atomic_load(&p->lib->pressing) ||
		      atomic_load(&p->lib->dirty_bytes) >
			      nf_memory_limit(p->lib->mem) / PRESSURE_SHARE))
		p->pressure = true;
	bool listed = dirty || p->copies.nr;
	if (listed != p->is_listed)
		nf_lib_dirty_changed(p, listed);
	p->is_listed = listed;
	if (dirty == p->is_dirty)
		return;
	p->is_dirty = dirty;
	if (!dirty) {
		p->pressure = false;
		p->failures = 0;
	}
	if (p->ic->ops->dirty_changed)
		p->ic->ops->dirty_changed(p->ic, dirty);
}

void nf_kick_locked(struct nf_ictx_priv *p, struct nf_todo *todo)
{
	if (atomic_load(&p->pressed) || atomic_load(&p->aged))
		age_locked(p);
	if (atomic_load(&p->retry) && atomic_exchange(&p->retry, false))
		p->backing_off = false;
	nf_wreqs_gather_locked(p, todo);
	nf_rreqs_apply_locked(p, todo);
	nf_admit_locked(p, todo);
	tell_dirty_locked(p);
	nf_flush_locked(p, todo);
	nf_readers_locked(p, todo);
	nf_drain_locked(p, todo);
	nf_waiters_check_locked(p, todo);
	tell_dirty_locked(p);
}
