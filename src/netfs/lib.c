/* One instance of the library: memory, pool, timer, lists of inodes.
 *
 * Memory runs short       nf_starve(): the inode is listed, every dirty inode is told to store
 * some becomes free       on_free -> memory_work -> each listed inode is kicked, in order
 * the tick                dirty inodes old enough are kicked; idle memory is given back */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <unistd.h>

enum {
	DEFAULT_MEMORY_BYTES = 64 << 20,
	DEFAULT_READ_AHEAD_BYTES = 64 << 20,
	DEFAULT_REQUEST_BYTES = 4 << 20,
	DEFAULT_WRITE_BACK_MS = 5000,
	DEFAULT_RETRY_MS = 100,
	TICKS_PER_AGE = 4,
	IDLE_TICKS = 24, /* without a new folio: clean ones are given up, too */
	STARVED_MS = 10,
	CHUNK_SHARE = 16, /* one write holds at most this part of memory */
};

static void memory_freed(void *ctx)
{
	struct nf_netfs *lib = ctx;

	if (!atomic_exchange(&lib->memory_queued, true))
		nf_pool_add(lib->pool, &lib->memory_work);
}

static void memory_work(struct nf_work *w)
{
	struct nf_netfs *lib = nf_container_of(w, struct nf_netfs, memory_work);
	struct nf_list woken;

	nf_list_init(&woken);
	atomic_store(&lib->memory_queued, false);
	atomic_store(&lib->pressing, false);
	nf_lock_take(&lib->lock);
	nf_list_splice(&woken, &lib->starving);
	while (!nf_list_empty(&woken)) {
		struct nf_ictx_priv *p = nf_list_first(&woken, struct nf_ictx_priv, starving_link);
		nf_list_del(&p->starving_link);
		nf_kick_later(p);
	}
	nf_lock_drop(&lib->lock);
}

/* Two that gave back what the other needed would wait for one another: nobody sleeps for long. */
static void starved(struct nf_timer *t)
{
	memory_freed(nf_container_of(t, struct nf_netfs, starved));
}

void nf_starve(struct nf_ictx_priv *p)
{
	struct nf_netfs *lib = p->lib;

	p->pressure = true;
	nf_memory_want(lib->mem);
	nf_lock_take(&lib->lock);
	if (nf_list_empty(&p->starving_link))
		nf_list_add_tail(&lib->starving, &p->starving_link);
	if (!atomic_exchange(&lib->pressing, true)) {
		nf_list_for_each(d, &lib->dirty, struct nf_ictx_priv, dirty_link) {
			atomic_store(&d->pressed, true);
			if (d != p)
				nf_kick_later(d);
		}
		nf_timer_arm(lib->timers, &lib->starved, STARVED_MS * NF_NS_PER_MS);
	}
	nf_lock_drop(&lib->lock);
}

static void arm_tick_locked(struct nf_netfs *lib) NF_REQUIRES(lib->lock)
{
	lib->ticking = true;
	nf_timer_arm(lib->timers, &lib->tick, lib->write_back_ns / TICKS_PER_AGE);
}

static void tick(struct nf_timer *t)
{
	struct nf_netfs *lib = nf_container_of(t, struct nf_netfs, tick);

	nf_lock_take(&lib->lock);
	/* What is dirty or on its way, for a long time perhaps, leaves clean folios and buffers behind. */
	bool busy = !nf_list_empty(&lib->dirty) || atomic_load(&lib->nr_requests);
	nf_lock_drop(&lib->lock);
	lib->idle_ticks = nf_memory_trim(lib->mem) && !busy ? lib->idle_ticks + 1 : 0;
	if (lib->idle_ticks == IDLE_TICKS) {
		(void)nf_memory_reclaim(lib->mem, SIZE_MAX);
		(void)nf_memory_trim(lib->mem);
#ifdef __GLIBC__
		(void)malloc_trim(0); /* buffers of requests, which the heaps of threads keep */
#endif
	}
	nf_lock_take(&lib->lock);
	lib->ticking = false;
	nf_list_for_each(p, &lib->dirty, struct nf_ictx_priv, dirty_link) {
		atomic_store(&p->aged, true);
		nf_kick_later(p);
	}
	/* Until all memory was given back, or what is left is kept for ever. */
	if (!lib->ending && (!nf_list_empty(&lib->dirty) || lib->idle_ticks <= IDLE_TICKS))
		arm_tick_locked(lib);
	nf_lock_drop(&lib->lock);
}

static void set_options(struct nf_netfs *lib, const struct nf_netfs_options *o, size_t memory_bytes)
{
	uint32_t write_back_ms = o->write_back_ms ? o->write_back_ms : DEFAULT_WRITE_BACK_MS;

	lib->write_back_ns = write_back_ms * NF_NS_PER_MS;
	lib->retry_ns = (o->retry_ms ? o->retry_ms : DEFAULT_RETRY_MS) * NF_NS_PER_MS;
	lib->read_ahead_bytes = o->read_ahead_bytes ? o->read_ahead_bytes : DEFAULT_READ_AHEAD_BYTES;
	lib->read_ahead_bytes = NF_MIN(lib->read_ahead_bytes, memory_bytes / 2);
	lib->request_bytes = o->request_bytes ? o->request_bytes : DEFAULT_REQUEST_BYTES;
	/* Plain and sealed copies of a request fit into the reserve. */
	lib->request_bytes = NF_MIN(lib->request_bytes, memory_bytes / NF_PC_RESERVE_SHARE / 2);
	lib->chunk_bytes = nf_round_down(memory_bytes / CHUNK_SHARE, NF_PC_PAGE_BYTES);
	lib->chunk_bytes = NF_MIN(lib->chunk_bytes, (size_t)NF_WRITE_MAX_BYTES);
	lib->chunk_bytes = NF_MAX(lib->chunk_bytes, (size_t)NF_PC_PAGE_BYTES);
}

static unsigned thread_count(const struct nf_netfs_options *o)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	if (o->codec_threads)
		return o->codec_threads;
	return cores > 0 ? (unsigned)cores : 1;
}

int nf_netfs_new(const struct nf_netfs_options *o, struct nf_netfs **out)
{
	size_t memory_bytes = o->memory_bytes ? o->memory_bytes : DEFAULT_MEMORY_BYTES;
	struct nf_netfs *lib = calloc(1, sizeof *lib);
	int r;

	if (!lib)
		return nf_fail(-ENOMEM);
	set_options(lib, o, memory_bytes);
	nf_lock_init(&lib->lock, NF_RANK_WRITEBACK);
	nf_list_init(&lib->all);
	nf_list_init(&lib->dirty);
	nf_list_init(&lib->starving);
	nf_list_init(&lib->in_line);
	nf_timer_init(&lib->tick, tick);
	nf_timer_init(&lib->starved, starved);
	nf_work_init(&lib->memory_work, memory_work);
	r = nf_memory_new(memory_bytes, 2 * (size_t)o->block_max_bytes, &lib->mem);
	if (r == 0)
		r = nf_timers_new(&lib->timers);
	if (r == 0)
		r = nf_pool_new("nf-codec", thread_count(o), 0, &lib->pool);
	if (r < 0) {
		nf_timers_free(lib->timers);
		nf_memory_free(lib->mem);
		nf_lock_deinit(&lib->lock);
		free(lib);
		return nf_fail(r);
	}
	nf_memory_on_free(lib->mem, memory_freed, lib);
	*out = lib;
	return 0;
}

void nf_netfs_free(struct nf_netfs *lib)
{
	if (!lib)
		return;
	nf_lock_take(&lib->lock);
	NF_ASSERT(nf_list_empty(&lib->all));
	lib->ending = true;
	nf_lock_drop(&lib->lock);
	nf_timer_cancel(lib->timers, &lib->tick);
	nf_timer_cancel(lib->timers, &lib->starved);
	nf_pool_free(lib->pool);
	nf_timers_free(lib->timers);
	nf_memory_free(lib->mem);
	nf_lock_deinit(&lib->lock);
	free(lib);
}

void nf_lib_memory_used(struct nf_netfs *lib)
{
	nf_lock_take(&lib->lock);
	if (!lib->ticking && !lib->ending)
		arm_tick_locked(lib);
	nf_lock_drop(&lib->lock);
}

/* Inode lock held. */
void nf_lib_dirty_changed(struct nf_ictx_priv *p, bool dirty)
{
	struct nf_netfs *lib = p->lib;

	nf_lock_take(&lib->lock);
	if (dirty) {
		nf_list_add_tail(&lib->dirty, &p->dirty_link);
		lib->nr_dirty++;
		if (!lib->ticking && !lib->ending)
			arm_tick_locked(lib);
	} else {
		nf_list_del(&p->dirty_link);
		lib->nr_dirty--;
	}
	nf_lock_drop(&lib->lock);
}

void nf_netfs_stats(struct nf_netfs *lib, struct nf_netfs_stats *out)
{
	nf_lock_take(&lib->lock);
	out->dirty_inodes = lib->nr_dirty;
	nf_lock_drop(&lib->lock);
	out->memory_limit_bytes = nf_memory_limit(lib->mem);
	out->memory_used_bytes = nf_memory_used(lib->mem);
	out->dirty_bytes = atomic_load(&lib->dirty_bytes);
	out->dirty_box_bytes = atomic_load(&lib->dirty_box_bytes);
	out->requests = atomic_load(&lib->nr_requests);
}
