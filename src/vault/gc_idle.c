/* vault/gc_idle.c - the collector of a mount that has nothing else to do, and whose turn it is.
 *
 *   asleep ---- the last run is long enough ago ----> waiting
 *   waiting --- nothing to send, nothing sent or fetched for a while, connected, not on battery ---> a run
 *   a run       says when somebody else's was (gc.c): it is put off until that one is old enough, and a random while, so
 *               that machines do not all begin at once.  One that sealed again what is under older keys is followed by
 *               another as soon as it is quiet
 *
 * Bounds of a run: its time, the nodes it fetches, the bytes it copies; it rests as long as each exchange with the store took.
 * Nodes that were fetched stay in the cache, so a run that came to a bound goes on there the next time. */
#include "vault/gc.h"

#include "aio/power.h"
#include "aio/thread.h"
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/trace.h"

#include <inttypes.h>

enum {
	REST_MS = 2 * 60 * 1000,     /* nothing else may have happened for so long */
	RUN_MS = 10 * 60 * 1000,
	LOOK_MS_MIN = 50,
	NODES = 10000,
	MOVE_BYTES = 64 << 20,
	SLICE_MS = 20,
	REST_MAX_MS = 1000,
};

struct nf_idle_gc {
	struct nf_vault *v;          /* I */
	struct nf_gc_options o;      /* I */
	uint64_t every_ms, rest_ms;  /* I */
	char *power_dir;             /* I */
	_Atomic bool stop;           /* ends a run under way */
	struct nf_cond wake;
	pthread_t thread;
	bool runs;
	bool stopping;               /* n */
	bool running;                /* n */
	bool reseals;                /* n  the last run put elsewhere what is under older keys, and its turn lasts until one does not */
	uint64_t not_before_ns;      /* n  nf_clock_ns() */
	uint64_t nr_runs;            /* n  that went to their end */
	uint64_t last_ns;            /* n  the end of the last of them */
	uint64_t deleted_bytes;      /* n  by all of them */
	struct nf_gc_result last;    /* n  of the last that ended well */
	int error;                   /* n  why the last one did not; 0: it did */
};

/* --- how a run goes along -------------------------------------------------------------- */

int nf_gc_goes_on(const struct nf_gc_pace *p)
{
	if (p->stop && atomic_load(p->stop))
		return nf_fail(-NF_E_CANCELLED);
	return p->until_ns && nf_clock_ns() >= p->until_ns ? nf_fail(-NF_E_GC_TOO_MUCH) : 0;
}

void nf_gc_rest(const struct nf_gc_pace *p, uint64_t since_ns)
{
	uint64_t now = nf_clock_ns(), until = now + NF_MIN(now - since_ns, REST_MAX_MS * NF_NS_PER_MS);

	while (p->rests && nf_gc_goes_on(p) == 0 && (now = nf_clock_ns()) < until) {
		uint64_t ns = NF_MIN(until - now, SLICE_MS * NF_NS_PER_MS);
		struct timespec t = { .tv_nsec = (long)ns };
		(void)nanosleep(&t, NULL);
	}
}

/* --- one at a time ------------------------------------------------------------------------ */

int nf_gc_take_turn(struct nf_vault *v, bool idle, _Atomic bool *stop)
{
	int r = 0;

	nf_lock_take(&v->ns);
	/* Who was asked for it goes first. */
	if (!idle && v->idle_gc && v->idle_gc->running)
		atomic_store(&v->idle_gc->stop, true);
	while (r == 0 && v->collecting) {
		r = idle || v->stopping || (stop && atomic_load(stop)) ? nf_fail(-NF_E_CANCELLED) : 0;
		if (r == 0)
			nf_cond_wait_until(&v->changed, &v->ns, nf_clock_ns() + SLICE_MS * NF_NS_PER_MS);
	}
	v->collecting = r == 0 || v->collecting;
	nf_lock_drop(&v->ns);
	return r;
}

void nf_gc_end_turn(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	v->collecting = false;
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
}

/* --- the thread ------------------------------------------------------------------------------ */

/* Changes with whatever is written here or fetched for somebody. */
static uint64_t traffic(void)
{
	return nf_counter_get(NF_C_CACHE_MISS_BYTES) + nf_counter_get(NF_C_FUSE_WRITE_BYTES) + nf_counter_get(NF_C_COMMITS);
}

bool nf_gc_may_idle_locked(const struct nf_vault *v)
{
	return !v->away && !v->stopping && !v->committing && !v->reintegrating && !v->frozen && !v->current->nr_ops &&
	       nf_list_empty(&v->dirty_list);
}

/* Between one and one and a quarter times MS. */
static uint64_t spread(uint64_t ms)
{
	uint32_t x;

	nf_random(&x, sizeof x);
	return ms + ms / 4 * (x % 1024) / 1024;
}

uint64_t nf_gc_next_ms(const struct nf_gc_result *r, int error, uint64_t every_ms, uint64_t rest_ms, bool *reseals)
{
	/* Something else came; as soon as it is quiet again. */
	if (error == -NF_E_CANCELLED || error == -NF_E_OFFLINE || error == -NF_E_TIMEOUT)
		return rest_ms;
	if (error < 0)
		return every_ms / 4;
	if (r->not_due_s)
		return NF_MIN(r->not_due_s * 1000, every_ms);
	/* What old keys sealed is sealed again run by run. */
	*reseals = r->old_packs && (r->moved_bytes || r->moved_trees);
	return *reseals ? rest_ms : every_ms;
}

static void learn_locked(struct nf_idle_gc *k, int error, const struct nf_gc_result *r)
{
	uint64_t now = nf_clock_ns(), next_ms = nf_gc_next_ms(r, error, k->every_ms, k->rest_ms, &k->reseals);

	k->error = error;
	if (error == 0 && !r->not_due_s) {
		k->nr_runs++;
		k->last_ns = now;
		k->last = *r;
		k->deleted_bytes += r->deleted_bytes;
	}
	k->not_before_ns = now + spread(next_ms) * NF_NS_PER_MS;
}

static void run(struct nf_idle_gc *k, bool reseals)
{
	struct nf_vault *v = k->v;
	struct nf_gc_options o = k->o;
	struct nf_gc_result r = { 0 };

	atomic_store(&k->stop, false);
	o.every_s = reseals ? 0 : k->o.every_s;
	nf_trace(COMMIT, "gc begins: nothing else to do");
	int error = nf_vault_gc(v, &o, &k->stop, &r);
	nf_trace(COMMIT, "gc ends: deleted=%" PRIu64 " condemned=%" PRIu64 " moved=%" PRIu64 " nodes=%" PRIu64
		 " not_due_s=%" PRIu64 " err=%s", r.deleted_bytes, r.dead_bytes, r.moved_bytes, r.nodes, r.not_due_s,
		 nf_error_name(error));
	nf_lock_take(&v->ns);
	k->running = false;
	learn_locked(k, error, &r);
	nf_lock_drop(&v->ns);
}

static void *idle_main(void *arg)
{
	struct nf_idle_gc *k = arg;
	struct nf_vault *v = k->v;
	uint64_t seen = traffic(), quiet_since = nf_clock_ns();

	nf_lock_take(&v->ns);
	while (!k->stopping) {
		uint64_t now = nf_clock_ns(), had = seen;
		seen = traffic();
		if (seen != had || !nf_gc_may_idle_locked(v))
			quiet_since = now;
		uint64_t at = NF_MAX(quiet_since + k->rest_ms * NF_NS_PER_MS, k->not_before_ns);
		if (now < at) {
			/* Often enough to see whether it is quiet. */
			uint64_t look = NF_MAX(k->rest_ms / 4, (uint64_t)LOOK_MS_MIN) * NF_NS_PER_MS;
			nf_cond_wait_until(&k->wake, &v->ns, NF_MIN(at, now + look));
			continue;
		}
		nf_lock_drop(&v->ns);
		bool battery = nf_on_battery(k->power_dir);
		nf_lock_take(&v->ns);
		/* Not now: as if something had been done. */
		if (battery) {
			quiet_since = nf_clock_ns();
			continue;
		}
		if (k->stopping)
			break;
		k->running = true;
		bool reseals = k->reseals;
		nf_lock_drop(&v->ns);
		run(k, reseals);
		nf_lock_take(&v->ns);
		seen = traffic(); /* its own */
		quiet_since = nf_clock_ns();
	}
	nf_lock_drop(&v->ns);
	return NULL;
}

/* --- life ------------------------------------------------------------------------------------ */

int nf_idle_gc_start(struct nf_vault *v, const struct nf_gc_options *o, uint64_t every_ms, const char *power_dir)
{
	struct nf_idle_gc *k = calloc(1, sizeof *k);

	if (k)
		k->power_dir = strdup(power_dir ? power_dir : NF_POWER_DIR);
	if (!k || !k->power_dir) {
		free(k);
		return nf_fail(-ENOMEM);
	}
	k->v = v;
	k->o = *o;
	k->every_ms = every_ms;
	k->rest_ms = NF_MIN((uint64_t)REST_MS, every_ms / 4);
	k->o.idle = true;
	k->o.dry_run = false;
	k->o.every_s = every_ms / 1000;
	k->o.max_ms = RUN_MS;
	k->o.max_nodes = NODES;
	k->o.move_bytes = MOVE_BYTES;
	/* Machines that were started together do not begin together. */
	k->not_before_ns = nf_clock_ns() + (spread(k->rest_ms) - k->rest_ms) * NF_NS_PER_MS;
	nf_cond_init(&k->wake);
	v->idle_gc = k;
	int r = nf_thread_start(&k->thread, "nf-gc", idle_main, k);
	k->runs = r == 0;
	return r;
}

void nf_idle_gc_stop(struct nf_vault *v)
{
	struct nf_idle_gc *k = v->idle_gc;

	if (!k)
		return;
	nf_lock_take(&v->ns);
	k->stopping = true;
	atomic_store(&k->stop, true);
	nf_cond_broadcast(&k->wake);
	nf_lock_drop(&v->ns);
	if (k->runs)
		(void)pthread_join(k->thread, NULL);
	k->runs = false;
}

void nf_idle_gc_free(struct nf_vault *v)
{
	struct nf_idle_gc *k = v->idle_gc;

	if (!k)
		return;
	NF_ASSERT(!k->runs);
	v->idle_gc = NULL;
	nf_cond_deinit(&k->wake);
	free(k->power_dir);
	free(k);
}

void nf_idle_gc_status(const struct nf_vault *v, struct nf_vault_status *out)
{
	const struct nf_idle_gc *k = v->idle_gc;

	if (!k)
		return;
	out->gc_every_ms = k->every_ms;
	out->gc_running = k->running;
	out->gc_runs = k->nr_runs;
	out->gc_last_ms = k->nr_runs ? (nf_clock_ns() - k->last_ns) / NF_NS_PER_MS : 0;
	out->gc_deleted_bytes = k->deleted_bytes;
	out->gc_condemned_bytes = k->last.dead_bytes + k->last.waiting_bytes;
	out->gc_error = k->error;
}
