/* One operation through the filter:
 *
 *   submit --plan--> HELD --release--+
 *              |                     v
 *              +-----> PASSING --> BELOW (store below) --> WAITING (timer) --> ENDING (pool) --> done
 *              |                                            ^
 *              +-- refused, dropped, offline ---------------+
 *
 * A call is in exactly one state; the lock protects moves between them. */
#include "store/fault.h"

#include "store/fault_rules.h"
#include "foliofs/store.h"
#include "store/status.h"
#include "store/types.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/mem.h"

#include <stdio.h>

/* PASSING: being submitted below, where it cannot be cancelled yet. */
enum call_state { CALL_HELD, CALL_PASSING, CALL_BELOW, CALL_WAITING, CALL_ENDING };

/* I set before publication;  l lock of the filter */
struct call {
	struct nf_store_op inner; /* what the store below works on */
	struct nf_store_op *op;   /* I */
	struct fault *f;          /* I */
	struct nf_list link;      /* l  in calls, oldest first */
	struct nf_fault_plan plan; /* I */
	enum call_state state;    /* l */
	unsigned refs;            /* l  the call itself, and who passes it down */
	unsigned cancelling;      /* l  cancels running in the store below */
	bool cancelled;           /* l */
	int result;               /* written by the owner of the state */
	struct nf_timer timer;
	struct nf_work work;
	struct iovec *iov; /* tornput: the shortened body */
};

struct fault {
	struct nf_store base;
	struct nf_store *below;   /* I */
	struct nf_timers *timers; /* I */
	struct nf_pool *pool;     /* I */
	struct nf_lock lock;
	struct nf_cond idle;          /* calls became empty, or cancelling fell to 0 */
	struct nf_list calls;         /* l */
	struct nf_fault_rules rules;  /* l */
	struct nf_prng prng;          /* l */
	bool offline;                 /* l */
	struct nf_prng cut_prng;      /* l  draws the times of cut=, apart from what the operations draw */
	struct nf_timer cutter;       /* ends the time up or down */
	uint64_t silent_until_ns;     /* l  nobody hears anything before */
	uint64_t link_free_ns;        /* l  when the rate lets the next byte pass */
	struct nf_store_fault_counts counts; /* l */
};

static struct fault *fault_of(struct nf_store *s)
{
	NF_ASSERT(nf_store_is_fault(s));
	return (struct fault *)s;
}

/* -- the end of a call -- */

static void damage(struct call *c)
{
	struct nf_store_op *op = c->op;
	uint64_t n = op->transferred_bytes;

	if (c->plan.flip && n)
		((uint8_t *)op->buf)[(c->plan.dice >> 3) % n] ^= (uint8_t)(1u << (c->plan.dice & 7));
	if (c->plan.torn)
		op->transferred_bytes /= 2;
}

static void put_locked(struct fault *f, struct call *c) NF_REQUIRES(f->lock)
{
	if (--c->refs)
		return;
	nf_list_del(&c->link);
	if (nf_list_empty(&f->calls))
		nf_cond_broadcast(&f->idle);
	free(c->iov);
	free(c);
}

static void call_end(struct nf_work *w)
{
	struct call *c = nf_container_of(w, struct call, work);
	struct fault *f = c->f;
	struct nf_store_op *op = c->op;

	/* A call cancelled while it waited is still on the timer's list. */
	nf_timer_cancel(f->timers, &c->timer);
	if (!c->result && op->verb == NF_STORE_GET)
		damage(c);
	op->error = c->result;
	if (c->result)
		nf_store_op_deinit(op);
	op->done(op);
	nf_lock_take(&f->lock);
	put_locked(f, c);
	nf_lock_drop(&f->lock);
}

static void finish_locked(struct fault *f, struct call *c) NF_REQUIRES(f->lock)
{
	c->state = CALL_ENDING;
	nf_pool_add(f->pool, &c->work);
}

static bool changes(const struct nf_store_op *op)
{
	return op->verb == NF_STORE_PUT || op->verb == NF_STORE_DELETE;
}

static void timer_fired(struct nf_timer *t)
{
	struct call *c = nf_container_of(t, struct call, timer);
	struct fault *f = c->f;

	nf_lock_take(&f->lock);
	if (c->state == CALL_WAITING)
		finish_locked(f, c);
	nf_lock_drop(&f->lock);
}

/* Ends C with RESULT after its delays; BYTES of body pass the rate. */
static void wait_locked(struct fault *f, struct call *c, int result, uint64_t bytes) NF_REQUIRES(f->lock)
{
	uint64_t now_ns = nf_clock_ns(), at_ns = now_ns;

	c->result = result;
	if (f->rules.rate_bytes && bytes) {
		uint64_t cost_ns = (uint64_t)((__uint128_t)bytes * NF_NS_PER_S / f->rules.rate_bytes);
		f->link_free_ns = NF_MAX(f->link_free_ns, now_ns) + cost_ns;
		at_ns = f->link_free_ns;
	}
	at_ns += c->plan.delay_ms * NF_NS_PER_MS;
	at_ns = NF_MAX(at_ns, f->silent_until_ns);
	if (at_ns == now_ns || c->cancelled) {
		finish_locked(f, c);
		return;
	}
	c->state = CALL_WAITING;
	nf_timer_arm(f->timers, &c->timer, at_ns - now_ns);
}

/* -- the way down and back -- */

/* -- cut= -- */

/* From a tenth of MAX_MS to all of it. */
static uint64_t draw_ns_locked(struct fault *f, uint32_t max_ms) NF_REQUIRES(f->lock)
{
	uint64_t max_ns = max_ms * NF_NS_PER_MS, least_ns = max_ns / 10;

	return least_ns + nf_prng_next(&f->cut_prng) % (max_ns - least_ns + 1);
}

/* Begins the next time up, or down. */
static void turn_locked(struct fault *f, bool down) NF_REQUIRES(f->lock)
{
	uint64_t ns = draw_ns_locked(f, down ? f->rules.down_ms : f->rules.up_ms);
	bool silent = down && nf_prng_next(&f->cut_prng) % 3 == 0;

	f->offline = down;
	f->counts.cuts += down;
	f->silent_until_ns = silent ? nf_clock_ns() + ns : 0;
	nf_timer_arm(f->timers, &f->cutter, ns);
}

static void turn(struct nf_timer *t)
{
	struct fault *f = nf_container_of(t, struct fault, cutter);

	nf_lock_take(&f->lock);
	if (f->rules.up_ms)
		turn_locked(f, !f->offline);
	nf_lock_drop(&f->lock);
}

/* What the caller is told, given what the store below said. */
static int verdict_locked(struct fault *f, struct call *c) NF_REQUIRES(f->lock)
{
	struct nf_store_fault_counts *n = &f->counts;
	int r = c->inner.error;

	if (f->offline && !c->cancelled) {
		n->lost++;
		return changes(c->op) ? -NF_E_STORE_UNKNOWN_OUTCOME : -NF_E_OFFLINE;
	}
	if (r)
		return r;
	if (c->plan.late)
		n->late++;
	if (c->plan.tornput) {
		n->torn++;
		return -NF_E_STORE_UNKNOWN_OUTCOME;
	}
	if (c->plan.lostreply) {
		n->lost++;
		return changes(c->op) ? -NF_E_STORE_UNKNOWN_OUTCOME : -NF_E_STORE_SHORT;
	}
	if (c->plan.torn) {
		n->torn++;
		return -NF_E_STORE_SHORT;
	}
	if (c->plan.flip && c->op->transferred_bytes)
		n->flipped++;
	return 0;
}

static void below_done(struct nf_store_op *inner)
{
	struct call *c = nf_container_of(inner, struct call, inner);
	struct fault *f = c->f;
	struct nf_store_op *op = c->op;

	op->transferred_bytes = inner->transferred_bytes;
	op->size_bytes = inner->size_bytes;
	op->server_date_s = inner->server_date_s;
	op->entries = nf_steal(&inner->entries);
	op->nr_entries = inner->nr_entries;
	if (f->below->max_put_bytes < f->base.max_put_bytes)
		f->base.max_put_bytes = f->below->max_put_bytes;
	nf_lock_take(&f->lock);
	/* A cancel that is in the store below may use `inner` until this returns. */
	while (c->cancelling)
		nf_cond_wait(&f->idle, &f->lock);
	wait_locked(f, c, verdict_locked(f, c), inner->transferred_bytes);
	nf_lock_drop(&f->lock);
}

/* tornput: the first half of the body. */
static int shorten(struct call *c)
{
	size_t left = c->op->length_bytes / 2;

	c->iov = calloc((size_t)c->op->nr_iov + 1, sizeof *c->iov);
	if (!c->iov)
		return nf_fail(-ENOMEM);
	c->inner.length_bytes = left;
	for (int i = 0; i < c->op->nr_iov; i++) {
		c->iov[i] = c->op->iov[i];
		c->iov[i].iov_len = NF_MIN(left, c->iov[i].iov_len);
		left -= c->iov[i].iov_len;
	}
	c->inner.iov = c->iov;
	return 0;
}

/* Decides C without the store below, or returns true when it must be asked. */
static bool passes_locked(struct fault *f, struct call *c) NF_REQUIRES(f->lock)
{
	if (c->cancelled) {
		wait_locked(f, c, -NF_E_CANCELLED, 0);
		return false;
	}
	if (f->offline || c->plan.drop) {
		f->counts.dropped++;
		wait_locked(f, c, -NF_E_OFFLINE, 0);
		return false;
	}
	if (c->plan.status) {
		f->counts.refused++;
		if (c->plan.status == 413 && c->op->verb == NF_STORE_PUT)
			nf_store_lower_max_put(&f->base, c->op->length_bytes);
		wait_locked(f, c, nf_status_error((long)c->plan.status), 0);
		return false;
	}
	c->state = CALL_PASSING;
	c->refs++;
	f->counts.passed[c->op->verb]++;
	return true;
}

static void cancel_below_locked(struct fault *f, struct call *c) NF_REQUIRES(f->lock)
{
	c->cancelling++;
	nf_lock_drop(&f->lock);
	nf_store_cancel(f->below, &c->inner);
	nf_lock_take(&f->lock);
	c->cancelling--;
	nf_cond_broadcast(&f->idle);
}

static void pass(struct call *c)
{
	struct fault *f = c->f;
	int r = c->plan.tornput ? shorten(c) : 0;

	if (r) {
		c->inner.error = r;
		below_done(&c->inner);
	} else {
		/* The table, not nf_store_submit(): the operation was checked and counted. */
		f->below->ops->submit(f->below, &c->inner);
	}
	nf_lock_take(&f->lock);
	if (c->state == CALL_PASSING) {
		c->state = CALL_BELOW;
		if (c->cancelled)
			cancel_below_locked(f, c);
	}
	put_locked(f, c);
	nf_lock_drop(&f->lock);
}

static void go(struct call *c)
{
	struct fault *f = c->f;

	nf_lock_take(&f->lock);
	bool down = passes_locked(f, c);
	nf_lock_drop(&f->lock);
	if (down)
		pass(c);
}

static void fault_submit(struct nf_store *s, struct nf_store_op *op)
{
	struct fault *f = fault_of(s);
	struct call *c = calloc(1, sizeof *c);

	if (!c) {
		op->error = nf_fail(-ENOMEM);
		op->done(op);
		return;
	}
	c->inner = *op;
	c->inner.done = below_done;
	c->op = op;
	c->f = f;
	nf_timer_init(&c->timer, timer_fired);
	nf_work_init(&c->work, call_end);
	c->refs = 1;
	op->priv[0] = c;
	nf_lock_take(&f->lock);
	f->counts.seen[op->verb]++;
	nf_fault_plan(&f->rules, &f->prng, op, &c->plan);
	nf_list_add_tail(&f->calls, &c->link);
	c->state = CALL_HELD;
	bool down = false;
	if (c->plan.hold)
		f->counts.held++;
	else
		down = passes_locked(f, c);
	nf_lock_drop(&f->lock);
	if (down)
		pass(c);
}

static void fault_cancel(struct nf_store *s, struct nf_store_op *op)
{
	struct fault *f = fault_of(s);
	struct call *c = op->priv[0];

	nf_lock_take(&f->lock);
	c->cancelled = true;
	if (c->state == CALL_HELD) {
		c->result = -NF_E_CANCELLED;
		finish_locked(f, c);
	} else if (c->state == CALL_WAITING) {
		/* Its outcome is known and only late: the truth is told now. */
		finish_locked(f, c);
	} else if (c->state == CALL_BELOW) {
		cancel_below_locked(f, c);
	}
	nf_lock_drop(&f->lock);
}

/* -- life -- */

static void fault_free(struct nf_store *s)
{
	struct fault *f = fault_of(s);

	nf_lock_take(&f->lock);
	nf_list_for_each(c, &f->calls, struct call, link) {
		if (c->state == CALL_HELD) {
			c->result = -NF_E_CANCELLED;
			finish_locked(f, c);
		}
	}
	while (!nf_list_empty(&f->calls))
		nf_cond_wait(&f->idle, &f->lock);
	nf_lock_drop(&f->lock);
	/* Timers first: their functions add to the pool. */
	nf_timers_free(f->timers);
	nf_pool_free(f->pool);
	nf_store_free(f->below);
	nf_cond_deinit(&f->idle);
	nf_lock_deinit(&f->lock);
	free(f->base.text);
	free(f);
}

static int fault_quota(struct nf_store *s, uint64_t *used_bytes, uint64_t *free_bytes)
{
	struct fault *f = fault_of(s);

	if (nf_store_fault_offline(s))
		return nf_fail(-NF_E_OFFLINE);
	if (!f->below->ops->quota)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	return nf_fail(f->below->ops->quota(f->below, used_bytes, free_bytes));
}

static int fault_probe(struct nf_store *s)
{
	if (nf_store_fault_offline(s))
		return nf_fail(-NF_E_OFFLINE);
	return nf_fail(nf_store_probe(fault_of(s)->below));
}

static const struct nf_store_ops fault_ops = {
	.name = "fault",
	.submit = fault_submit,
	.cancel = fault_cancel,
	.free = fault_free,
	.quota = fault_quota,
	.probe = fault_probe,
};

bool nf_store_is_fault(const struct nf_store *s) { return s->ops == &fault_ops; }

int nf_store_fault_new(struct nf_store *below, const char *rules, struct nf_store **out)
{
	struct fault *f = calloc(1, sizeof *f);

	if (!f)
		return nf_fail(-ENOMEM);
	f->base.ops = &fault_ops;
	f->base.max_put_bytes = below->max_put_bytes;
	f->base.read_only = below->read_only;
	f->base.no_list = below->no_list;
	nf_lock_init(&f->lock, NF_RANK_FILTER);
	nf_cond_init(&f->idle);
	nf_list_init(&f->calls);
	nf_timer_init(&f->cutter, turn);
	int r = nf_timers_new(&f->timers);
	r = r ? r : nf_pool_new("store-fault", 1, 0, &f->pool);
	r = r ? r : nf_store_fault_set(&f->base, rules);
	if (!r && asprintf(&f->base.text, "fault+%s", below->text) < 0) {
		f->base.text = NULL;
		r = -ENOMEM;
	}
	if (r) {
		fault_free(&f->base); /* BELOW is not ours yet: not set */
		return nf_fail(r);
	}
	f->below = below;
	*out = &f->base;
	return 0;
}

/* -- control -- */

int nf_store_fault_set(struct nf_store *s, const char *rules)
{
	struct fault *f = fault_of(s);
	nf_auto_free struct nf_fault_rules *parsed = calloc(1, sizeof *parsed);

	if (!parsed)
		return nf_fail(-ENOMEM);
	int r = nf_fault_rules_parse(rules, parsed);
	if (r)
		return nf_fail(r);
	nf_lock_take(&f->lock);
	f->rules = *parsed;
	f->offline = parsed->offline;
	f->silent_until_ns = 0;
	nf_prng_seed(&f->prng, parsed->seed);
	nf_prng_seed(&f->cut_prng, parsed->seed);
	if (parsed->up_ms)
		turn_locked(f, false);
	nf_lock_drop(&f->lock);
	return 0;
}

void nf_store_fault_set_offline(struct nf_store *s, bool offline)
{
	struct fault *f = fault_of(s);

	nf_lock_take(&f->lock);
	f->offline = offline;
	nf_lock_drop(&f->lock);
}

bool nf_store_fault_offline(struct nf_store *s)
{
	struct fault *f = fault_of(s);

	nf_lock_take(&f->lock);
	bool offline = f->offline;
	nf_lock_drop(&f->lock);
	return offline;
}

int nf_store_fault_hold(struct nf_store *s, const char *pattern)
{
	struct fault *f = fault_of(s);

	nf_lock_take(&f->lock);
	int r = nf_fault_rules_hold(&f->rules, pattern);
	nf_lock_drop(&f->lock);
	return nf_fail(r);
}

bool nf_store_fault_release_one(struct nf_store *s)
{
	struct fault *f = fault_of(s);
	struct call *oldest = NULL;

	nf_lock_take(&f->lock);
	nf_list_for_each(c, &f->calls, struct call, link) {
		if (c->state == CALL_HELD) {
			oldest = c;
			/* Ours now: a cancel that comes here waits for the end. */
			c->state = CALL_ENDING;
			break;
		}
	}
	nf_lock_drop(&f->lock);
	if (oldest)
		go(oldest);
	return oldest;
}

size_t nf_store_fault_release(struct nf_store *s)
{
	struct fault *f = fault_of(s);
	size_t n = 0;

	nf_lock_take(&f->lock);
	f->rules.nr_holds = 0;
	nf_lock_drop(&f->lock);
	while (nf_store_fault_release_one(s))
		n++;
	return n;
}

size_t nf_store_fault_held(struct nf_store *s)
{
	struct fault *f = fault_of(s);
	size_t n = 0;

	nf_lock_take(&f->lock);
	nf_list_for_each(c, &f->calls, struct call, link)
		n += c->state == CALL_HELD;
	nf_lock_drop(&f->lock);
	return n;
}

void nf_store_fault_counts(struct nf_store *s, struct nf_store_fault_counts *out)
{
	struct fault *f = fault_of(s);

	nf_lock_take(&f->lock);
	*out = f->counts;
	nf_lock_drop(&f->lock);
}
