/* One operation through the filter; the caller's struct itself goes below, with `done` exchanged:
 *
 *   submit -> PASSING -> BELOW -- fine, or its own error ----------> done
 *               |           \-- the path failed --> JUDGED (probe) -> ENDING (pool) -> done
 *               |                                     |
 *               |                                     v
 *               +-- refused (DISCONNECTED), reads --> WAITING -- too long, HELD --> ENDING
 *               |                                     \-- CONNECTED --> AGAIN (pool) --> PASSING
 *               +-- refused (DISCONNECTED, HELD) -------------------> ENDING
 *
 * The probe is an operation of the filter's own: at most one at a time. */
#include "store/link.h"

#include "aio/pool.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/trace.h"
#include "store/types.h"

#include <stdio.h>

enum {
	PROBE_TIMEOUT_MS = 10000,
	PROBE_MIN_MS = 1000,
	PROBE_MAX_MS = 30000,
	/* How far back the rate of uploads looks, in time spent sending. */
	RATE_MS = 20000,
	/* Less is no measurement. */
	RATE_MIN_BYTES = 65536,
	/* The clock that counts sleep has gone on by so much more than the one that does not: we were suspended. */
	SUSPEND_MS = 2000,
	/* A read whose connection breaks again and again although the server is there. */
	PASSES_MAX = 20,
};

/* PASSING: being submitted below, where it cannot be cancelled yet. */
enum call_state { CALL_PASSING, CALL_BELOW, CALL_JUDGED, CALL_WAITING, CALL_AGAIN, CALL_ENDING };

/* l lock */
struct call {
	struct nf_list link;      /* l  in calls */
	struct nf_store_op *op;
	struct link *k;
	void (*done)(struct nf_store_op *op);
	void *ctx;
	enum call_state state;    /* l */
	unsigned refs;            /* l  the call itself, and who passes it down */
	unsigned cancelling;      /* l  cancels running in the store below */
	bool cancelled;           /* l  by the caller */
	bool cut;                 /* l  by us */
	unsigned passes;          /* l  how often it was passed down */
	int result;
	struct nf_work work, again;
};

/* I set before publication;  l lock */
struct link {
	struct nf_store base;
	struct nf_store *below;     /* I */
	struct nf_link_options o;   /* I */
	void (*tell)(void *ctx, enum nf_link_state s); /* l */
	void *tell_ctx;             /* l */
	struct nf_timers *timers;   /* I */
	struct nf_pool *pool;       /* I */
	struct nf_lock lock;
	struct nf_cond changed;     /* state, calls, cancelling, probing */
	struct nf_list calls;       /* l */
	enum nf_link_state state;   /* l */
	int last_error;             /* l */
	uint64_t since_ns;          /* l */
	uint64_t wait_until_ns;     /* l  for who waits for the connection that was lost last; 0: none was */
	uint64_t probes;            /* l */
	uint64_t probe_after_ms;    /* l  the next wait */
	uint64_t probed_ns;         /* l  when the last one began */
	uint64_t asleep_ns;         /* l  time spent suspended, at the last operation */
	unsigned puts;              /* l  below */
	uint64_t puts_since_ns;     /* l  when the first of them began, or was last counted */
	uint64_t sent_bytes;        /* l  by those that succeeded ... */
	uint64_t sending_ns;        /* l  ... in this time */
	bool probing;               /* l  `probe` is below */
	bool sending;               /* l  somebody is passing it down */
	uint64_t sent;              /* l  number of the last probe that is surely below and may be cancelled */
	bool ending_probe;          /* l  somebody is cancelling it */
	bool closing;               /* l */
	struct nf_store_op probe;   /* owned by who set `probing` */
	struct nf_timer again;      /* starts the next probe */
	struct nf_timer late;       /* ends this one */
	struct nf_timer waited;     /* ends those that are WAITING */
	struct nf_work notify;
	bool notifying;             /* l  queued */
	bool telling;               /* l  `tell` runs */
};

static struct link *link_of(struct nf_store *s) { return nf_container_of(s, struct link, base); }

const char *nf_link_state_name(enum nf_link_state s)
{
	static const char *const names[] = { "probing", "connected", "disconnected", "held" };
	return names[s];
}

/* A failure that may be that of the way to the server, or of the whole server. */
static bool is_path_failure(int error)
{
	switch (-error) {
	case NF_E_OFFLINE:
	case NF_E_TIMEOUT:
	case NF_E_STORE_TLS:
	case NF_E_STORE_DENIED:
	case NF_E_STORE_NOT_DAV:
	case NF_E_STORE_PROTOCOL:
	case NF_E_STORE_SHORT:
	case NF_E_STORE_BUSY:
	case NF_E_STORE_UNKNOWN_OUTCOME:
		return true;
	default:
		return false;
	}
}

static bool changes(const struct nf_store_op *op)
{
	return op->verb == NF_STORE_PUT || op->verb == NF_STORE_DELETE;
}

/* -- the end of a call -- */

static void put_locked(struct link *k, struct call *c) NF_REQUIRES(k->lock)
{
	if (--c->refs)
		return;
	nf_list_del(&c->link);
	nf_cond_broadcast(&k->changed);
	free(c);
}

static void end(struct call *c)
{
	struct link *k = c->k;
	struct nf_store_op *op = c->op;

	op->error = c->result;
	op->done = c->done;
	op->ctx = c->ctx;
	if (c->result)
		nf_store_op_deinit(op);
	op->done(op);
	nf_lock_take(&k->lock);
	put_locked(k, c);
	nf_lock_drop(&k->lock);
}

static void call_end(struct nf_work *w) { end(nf_container_of(w, struct call, work)); }

static void finish_locked(struct link *k, struct call *c, int result) NF_REQUIRES(k->lock)
{
	c->result = result;
	c->state = CALL_ENDING;
	nf_pool_add(k->pool, &c->work);
}

/* -- who waits for the connection -- */

/* True: C, which did not come through, waits for the connection or goes down again.  It changes nothing, so it may. */
static bool waits_locked(struct link *k, struct call *c) NF_REQUIRES(k->lock)
{
	uint64_t now = nf_clock_ns();

	if (!k->o.wait_ms || k->closing || c->cancelled || changes(c->op) || c->op->priority != NF_STORE_FOREGROUND)
		return false;
	if (k->state == NF_LINK_HELD || (k->state == NF_LINK_DISCONNECTED && now >= k->wait_until_ns) ||
	    c->passes == PASSES_MAX)
		return false;
	c->cut = false;
	if (k->state == NF_LINK_DISCONNECTED) {
		c->state = CALL_WAITING;
		nf_timer_arm(k->timers, &k->waited, k->wait_until_ns - now);
	} else {
		c->state = CALL_AGAIN;
		nf_pool_add(k->pool, &c->again);
	}
	return true;
}

static void waited(struct nf_timer *t)
{
	struct link *k = nf_container_of(t, struct link, waited);

	nf_lock_take(&k->lock);
	nf_list_for_each(c, &k->calls, struct call, link) {
		if (c->state == CALL_WAITING && nf_clock_ns() >= k->wait_until_ns)
			finish_locked(k, c, -NF_E_OFFLINE);
	}
	nf_lock_drop(&k->lock);
}

/* What a call that the probe has shown to be cut off is told.  A change that was sent may have happened. */
static int offline_error(const struct call *c)
{
	if (c->cancelled)
		return -NF_E_CANCELLED;
	return changes(c->op) && c->result != -NF_E_OFFLINE ? -NF_E_STORE_UNKNOWN_OUTCOME : -NF_E_OFFLINE;
}

/* -- the rate of uploads -- */

static void count_sending_locked(struct link *k) NF_REQUIRES(k->lock)
{
	uint64_t now = nf_clock_ns();

	if (k->puts)
		k->sending_ns += now - k->puts_since_ns;
	k->puts_since_ns = now;
	if (k->sending_ns > RATE_MS * NF_NS_PER_MS) {
		k->sending_ns /= 2;
		k->sent_bytes /= 2;
	}
}

static void put_begins_locked(struct link *k) NF_REQUIRES(k->lock)
{
	count_sending_locked(k);
	k->puts++;
}

static void put_ended_locked(struct link *k, const struct nf_store_op *op) NF_REQUIRES(k->lock)
{
	count_sending_locked(k);
	k->puts--;
	if (op->error == 0)
		k->sent_bytes += op->length_bytes;
}

/* -- states -- */

static void notify(struct nf_work *w)
{
	struct link *k = nf_container_of(w, struct link, notify);

	nf_lock_take(&k->lock);
	k->notifying = false;
	enum nf_link_state s = k->state;
	void (*tell)(void *ctx, enum nf_link_state now) = k->tell;
	void *ctx = k->tell_ctx;
	k->telling = tell != NULL;
	nf_cond_broadcast(&k->changed);
	nf_lock_drop(&k->lock);
	if (!tell)
		return;
	tell(ctx, s);
	nf_lock_take(&k->lock);
	k->telling = false;
	nf_cond_broadcast(&k->changed);
	nf_lock_drop(&k->lock);
}

/* The call's end waits until we are out of the store below. */
static void cancel_below_locked(struct link *k, struct call *c) NF_REQUIRES(k->lock)
{
	c->cancelling++;
	nf_lock_drop(&k->lock);
	nf_store_cancel(k->below, c->op);
	nf_lock_take(&k->lock);
	c->cancelling--;
	nf_cond_broadcast(&k->changed);
}

static struct call *next_to_cut_locked(struct link *k) NF_REQUIRES(k->lock)
{
	nf_list_for_each(c, &k->calls, struct call, link) {
		if ((c->state == CALL_PASSING || c->state == CALL_BELOW) && !c->cut)
			return c;
	}
	return NULL;
}

/* Ends every call there is; who passes one down cancels it when it is there. */
static void cut_locked(struct link *k) NF_REQUIRES(k->lock)
{
	struct call *c;

	nf_list_for_each(j, &k->calls, struct call, link) {
		if (j->state == CALL_WAITING || (j->state == CALL_JUDGED && !waits_locked(k, j)))
			finish_locked(k, j, offline_error(j));
	}
	while ((c = next_to_cut_locked(k))) {
		c->cut = true;
		if (c->state == CALL_BELOW)
			cancel_below_locked(k, c);
	}
}

static void enter_locked(struct link *k, enum nf_link_state s, int error) NF_REQUIRES(k->lock)
{
	k->last_error = error;
	if (k->state == s)
		return;
	if (k->state == NF_LINK_CONNECTED) {
		k->wait_until_ns = nf_clock_ns() + k->o.wait_ms * NF_NS_PER_MS;
		nf_count(NF_C_LINK_LOST, s != NF_LINK_HELD);
	}
	nf_trace(STORE, "link %s -> %s (%s)", nf_link_state_name(k->state), nf_link_state_name(s), nf_error_name(error));
	k->state = s;
	k->since_ns = nf_clock_ns();
	nf_cond_broadcast(&k->changed);
	if (k->tell && !k->notifying && !k->closing) {
		k->notifying = true;
		nf_pool_add(k->pool, &k->notify);
	}
	if (s == NF_LINK_DISCONNECTED || s == NF_LINK_HELD)
		cut_locked(k);
}

/* -- the probe -- */

static void probe_done(struct nf_store_op *op);

/* True: the caller sends it, without the lock. */
static bool probe_wanted_locked(struct link *k) NF_REQUIRES(k->lock)
{
	if (k->probing || k->sending || k->closing || k->state == NF_LINK_HELD)
		return false;
	k->probing = k->sending = true;
	k->probes++;
	k->probed_ns = nf_clock_ns();
	k->probe = (struct nf_store_op){ .verb = k->below->no_list ? NF_STORE_STAT : NF_STORE_LIST,
					 .priority = NF_STORE_FOREGROUND, .timeout_ms = k->o.probe_timeout_ms,
					 .done = probe_done, .ctx = k };
	(void)snprintf(k->probe.name, sizeof k->probe.name, "%s", k->below->no_list ? "header/current" : "header");
	return true;
}

/* By whom probe_wanted_locked() chose: nobody else changes `probes` meanwhile. */
static void probe_send(struct link *k)
{
	uint64_t number = k->probes;

	nf_timer_arm(k->timers, &k->late, k->o.probe_timeout_ms * NF_NS_PER_MS);
	nf_store_submit(k->below, &k->probe);
	nf_lock_take(&k->lock);
	k->sent = number;
	k->sending = false;
	nf_cond_broadcast(&k->changed);
	nf_lock_drop(&k->lock);
}

static void end_probe_locked(struct link *k) NF_REQUIRES(k->lock)
{
	if (!k->probing || k->ending_probe || k->sent != k->probes)
		return;
	k->ending_probe = true;
	nf_lock_drop(&k->lock);
	nf_store_cancel(k->below, &k->probe);
	nf_lock_take(&k->lock);
	k->ending_probe = false;
	nf_cond_broadcast(&k->changed);
}

static void probe_again(struct nf_timer *t)
{
	struct link *k = nf_container_of(t, struct link, again);

	nf_lock_take(&k->lock);
	bool send = k->state == NF_LINK_DISCONNECTED && probe_wanted_locked(k);
	nf_lock_drop(&k->lock);
	if (send)
		probe_send(k);
}

/* A connection that hangs is not waited for. */
static void probe_late(struct nf_timer *t)
{
	struct link *k = nf_container_of(t, struct link, late);

	nf_lock_take(&k->lock);
	if (nf_clock_ns() - k->probed_ns >= k->o.probe_timeout_ms * NF_NS_PER_MS)
		end_probe_locked(k);
	nf_lock_drop(&k->lock);
}

static void connected_locked(struct link *k) NF_REQUIRES(k->lock)
{
	k->probe_after_ms = k->o.probe_min_ms;
	enter_locked(k, NF_LINK_CONNECTED, 0);
	/* Failures were their own, but for a connection that broke. */
	nf_list_for_each(c, &k->calls, struct call, link) {
		if (c->state != CALL_WAITING && c->state != CALL_JUDGED)
			continue;
		if (c->state == CALL_WAITING || c->result == -NF_E_OFFLINE) {
			if (waits_locked(k, c))
				continue;
		}
		finish_locked(k, c, c->cancelled ? -NF_E_CANCELLED : c->result);
	}
}

static void probe_done(struct nf_store_op *op)
{
	struct link *k = op->ctx;
	int r = op->error;

	/* A server without a vault is not the one we know. */
	bool none = r == -NF_E_STORE_NOT_FOUND || (r == 0 && op->verb == NF_STORE_LIST && op->nr_entries == 0);
	if (none)
		r = k->o.any ? 0 : -NF_E_HEADER_MISSING;
	nf_store_op_deinit(op);
	nf_lock_take(&k->lock);
	while (k->ending_probe)
		nf_cond_wait(&k->changed, &k->lock);
	k->probing = false;
	if (k->state != NF_LINK_HELD && r == 0) {
		connected_locked(k);
	} else if (k->state != NF_LINK_HELD) {
		if (!k->closing)
			nf_timer_arm(k->timers, &k->again, k->probe_after_ms * NF_NS_PER_MS);
		/* As long as somebody may wait for it, it is not left alone for long. */
		if (nf_clock_ns() >= k->wait_until_ns)
			k->probe_after_ms = NF_MIN(2 * k->probe_after_ms, (uint64_t)k->o.probe_max_ms);
		enter_locked(k, NF_LINK_DISCONNECTED, r == -NF_E_CANCELLED ? -NF_E_TIMEOUT : r);
	}
	nf_cond_broadcast(&k->changed);
	nf_lock_drop(&k->lock);
}

/* -- the way down and back -- */

/* True: send a probe. */
static bool judge_locked(struct link *k, struct call *c) NF_REQUIRES(k->lock)
{
	int r = c->result;

	if (k->state == NF_LINK_PROBING && r == 0 && c->op->verb == NF_STORE_LIST && c->op->nr_entries)
		connected_locked(k);
	if (!is_path_failure(r) && r != -NF_E_CANCELLED)
		return false;
	if (k->state == NF_LINK_DISCONNECTED || k->state == NF_LINK_HELD || (c->cut && !c->cancelled)) {
		c->result = offline_error(c);
		(void)waits_locked(k, c);
		return false;
	}
	if (r == -NF_E_CANCELLED || c->cancelled)
		return false;
	enter_locked(k, NF_LINK_PROBING, r);
	c->state = CALL_JUDGED;
	return probe_wanted_locked(k);
}

static void below_done(struct nf_store_op *op)
{
	struct call *c = op->ctx;
	struct link *k = c->k;

	nf_lock_take(&k->lock);
	while (c->cancelling)
		nf_cond_wait(&k->changed, &k->lock);
	if (k->below->max_put_bytes < k->base.max_put_bytes)
		k->base.max_put_bytes = k->below->max_put_bytes;
	c->result = op->error;
	c->state = CALL_ENDING;
	if (op->verb == NF_STORE_PUT)
		put_ended_locked(k, op);
	bool send = judge_locked(k, c), wait = c->state != CALL_ENDING;
	/* Judged at once, on another thread, from here on. */
	nf_lock_drop(&k->lock);
	if (!wait)
		end(c);
	if (send)
		probe_send(k);
}

/* Connections from before a suspend may be dead: what hangs on one is cut off if a probe finds nothing.
 * True: the caller sends it. */
static bool look_at_clocks_locked(struct link *k) NF_REQUIRES(k->lock)
{
	uint64_t asleep_ns = nf_clock_asleep_ns();
	bool was = asleep_ns > k->asleep_ns + SUSPEND_MS * NF_NS_PER_MS;

	k->asleep_ns = asleep_ns;
	if (!was || k->state != NF_LINK_CONNECTED)
		return false;
	enter_locked(k, NF_LINK_PROBING, 0);
	return probe_wanted_locked(k);
}

/* Somebody waits who could be served if the server were back. */
static bool sooner_locked(struct link *k, const struct nf_store_op *op) NF_REQUIRES(k->lock)
{
	return k->state == NF_LINK_DISCONNECTED && op->priority == NF_STORE_FOREGROUND &&
	       nf_clock_ns() - k->probed_ns >= k->o.probe_min_ms * NF_NS_PER_MS && probe_wanted_locked(k);
}

/* Once for each of C's passes, whose number was counted with the reference. */
static void pass_down(struct link *k, struct call *c, unsigned pass)
{
	/* The table, not nf_store_submit(): the operation was checked and counted. */
	k->below->ops->submit(k->below, c->op);
	nf_lock_take(&k->lock);
	/* It may have come back, and gone down again, already. */
	if (c->state == CALL_PASSING && c->passes == pass) {
		c->state = CALL_BELOW;
		if (c->cancelled || c->cut)
			cancel_below_locked(k, c);
	}
	put_locked(k, c);
	nf_lock_drop(&k->lock);
}

static void call_again(struct nf_work *w)
{
	struct call *c = nf_container_of(w, struct call, again);
	struct link *k = c->k;

	nf_lock_take(&k->lock);
	bool gone = k->state == NF_LINK_DISCONNECTED || k->state == NF_LINK_HELD;
	if (c->cancelled || k->closing || gone) {
		c->result = c->cancelled ? -NF_E_CANCELLED : -NF_E_OFFLINE;
		if (!waits_locked(k, c))
			finish_locked(k, c, c->result);
		nf_lock_drop(&k->lock);
		return;
	}
	c->state = CALL_PASSING;
	c->refs++;
	unsigned pass = ++c->passes;
	nf_lock_drop(&k->lock);
	nf_store_op_deinit(c->op);
	c->op->error = 0;
	c->op->transferred_bytes = 0;
	pass_down(k, c, pass);
}

static void link_submit(struct nf_store *s, struct nf_store_op *op)
{
	struct link *k = link_of(s);
	struct call *c = calloc(1, sizeof *c);

	if (!c) {
		op->error = nf_fail(-ENOMEM);
		op->done(op);
		return;
	}
	*c = (struct call){ .op = op, .k = k, .done = op->done, .ctx = op->ctx, .refs = 1 };
	nf_work_init(&c->work, call_end);
	nf_work_init(&c->again, call_again);
	nf_lock_take(&k->lock);
	nf_list_add_tail(&k->calls, &c->link);
	bool send = look_at_clocks_locked(k);
	op->ctx = c;
	op->done = below_done;
	bool pass = k->state == NF_LINK_CONNECTED || k->state == NF_LINK_PROBING;
	send = send || sooner_locked(k, op);
	if (pass && op->verb == NF_STORE_PUT)
		put_begins_locked(k);
	c->result = pass ? 0 : -NF_E_OFFLINE;
	if (pass) {
		c->refs++;
		c->passes++;
	} else if (!waits_locked(k, c)) {
		finish_locked(k, c, c->result);
	}
	nf_lock_drop(&k->lock);
	if (send)
		probe_send(k);
	if (pass)
		pass_down(k, c, 1);
}

static void link_cancel(struct nf_store *s, struct nf_store_op *op)
{
	struct link *k = link_of(s);

	nf_lock_take(&k->lock);
	/* Not by op->ctx, which is the caller's again while `done` runs. */
	nf_list_for_each(c, &k->calls, struct call, link) {
		if (c->op != op)
			continue;
		c->cancelled = true;
		if (c->state == CALL_BELOW)
			cancel_below_locked(k, c);
		else if (c->state == CALL_JUDGED || c->state == CALL_WAITING)
			finish_locked(k, c, changes(op) ? c->result : -NF_E_CANCELLED);
		break;
	}
	nf_lock_drop(&k->lock);
}

/* -- life -- */

static void link_free(struct nf_store *s)
{
	struct link *k = link_of(s);

	nf_lock_take(&k->lock);
	k->closing = true;
	nf_list_for_each(c, &k->calls, struct call, link) {
		if (c->state == CALL_JUDGED || c->state == CALL_WAITING)
			finish_locked(k, c, offline_error(c));
	}
	while (k->sending)
		nf_cond_wait(&k->changed, &k->lock);
	end_probe_locked(k);
	while (!nf_list_empty(&k->calls) || k->probing)
		nf_cond_wait(&k->changed, &k->lock);
	nf_lock_drop(&k->lock);
	/* Timers first: their functions add to the pool, which runs what is queued. */
	nf_timers_free(k->timers);
	nf_pool_free(k->pool);
	nf_store_free(k->below);
	nf_cond_deinit(&k->changed);
	nf_lock_deinit(&k->lock);
	free(k->base.text);
	free(k);
}

static bool passes(struct link *k)
{
	nf_lock_take(&k->lock);
	bool pass = k->state == NF_LINK_CONNECTED || k->state == NF_LINK_PROBING;
	nf_lock_drop(&k->lock);
	return pass;
}

static int link_quota(struct nf_store *s, uint64_t *used_bytes, uint64_t *free_bytes)
{
	struct link *k = link_of(s);

	if (!passes(k))
		return nf_fail(-NF_E_OFFLINE);
	if (!k->below->ops->quota)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	return nf_fail(k->below->ops->quota(k->below, used_bytes, free_bytes));
}

static int link_probe(struct nf_store *s)
{
	struct link *k = link_of(s);

	return passes(k) ? nf_fail(nf_store_probe(k->below)) : nf_fail(-NF_E_OFFLINE);
}

static const struct nf_store_ops link_ops = {
	.name = "link", .submit = link_submit, .cancel = link_cancel, .free = link_free, .quota = link_quota,
	.probe = link_probe,
};

bool nf_store_is_link(const struct nf_store *s) { return s->ops == &link_ops; }

int nf_link_new(struct nf_store *below, const struct nf_link_options *o, struct nf_store **out)
{
	struct link *k = calloc(1, sizeof *k);

	if (!k) {
		nf_store_free(below);
		return nf_fail(-ENOMEM);
	}
	k->base.ops = &link_ops;
	k->base.max_put_bytes = below->max_put_bytes;
	k->base.read_only = below->read_only;
	k->base.no_list = below->no_list;
	k->below = below;
	k->o = *o;
	k->o.probe_timeout_ms = o->probe_timeout_ms ? o->probe_timeout_ms : PROBE_TIMEOUT_MS;
	k->o.probe_min_ms = o->probe_min_ms ? o->probe_min_ms : PROBE_MIN_MS;
	k->o.probe_max_ms = o->probe_max_ms ? o->probe_max_ms : PROBE_MAX_MS;
	k->probe_after_ms = k->o.probe_min_ms;
	k->state = o->held ? NF_LINK_HELD : NF_LINK_PROBING;
	k->since_ns = nf_clock_ns();
	k->asleep_ns = nf_clock_asleep_ns();
	nf_lock_init(&k->lock, NF_RANK_FILTER);
	nf_cond_init(&k->changed);
	nf_list_init(&k->calls);
	nf_timer_init(&k->again, probe_again);
	nf_timer_init(&k->late, probe_late);
	nf_timer_init(&k->waited, waited);
	nf_work_init(&k->notify, notify);
	k->base.text = strdup(below->text);
	int r = k->base.text ? 0 : nf_fail(-ENOMEM);
	if (r == 0)
		r = nf_timers_new(&k->timers);
	if (r == 0)
		r = nf_pool_new("store-link", 1, 0, &k->pool);
	if (r < 0) {
		link_free(&k->base);
		return r;
	}
	*out = &k->base;
	return 0;
}

/* -- control -- */

void nf_link_status(struct nf_store *s, struct nf_link_status *out)
{
	struct link *k = link_of(s);

	nf_lock_take(&k->lock);
	*out = (struct nf_link_status){ .state = k->state, .last_error = k->last_error, .since_ns = k->since_ns,
					.probes = k->probes };
	if (k->o.wait_ms && k->state == NF_LINK_DISCONNECTED)
		out->wait_until_ns = k->wait_until_ns;
	if (k->sent_bytes >= RATE_MIN_BYTES && k->sending_ns)
		out->upload_bytes_per_s = (uint64_t)((__uint128_t)k->sent_bytes * NF_NS_PER_S / k->sending_ns);
	nf_lock_drop(&k->lock);
}

/* No message is on its way to the listener any more; on the thread that brings it there is nothing to wait for. */
static void wait_told_locked(struct link *k) NF_REQUIRES(k->lock)
{
	while (k->telling && !nf_pool_is_mine(k->pool))
		nf_cond_wait(&k->changed, &k->lock);
}

void nf_link_listen(struct nf_store *s, void (*changed)(void *ctx, enum nf_link_state s), void *ctx)
{
	struct link *k = link_of(s);

	nf_lock_take(&k->lock);
	k->tell = changed;
	k->tell_ctx = ctx;
	wait_told_locked(k);
	nf_lock_drop(&k->lock);
}

void nf_link_hold(struct nf_store *s, bool held)
{
	struct link *k = link_of(s);
	bool send = false;

	nf_lock_take(&k->lock);
	if (held) {
		enter_locked(k, NF_LINK_HELD, 0);
	} else if (k->state == NF_LINK_HELD) {
		enter_locked(k, NF_LINK_PROBING, 0);
		send = probe_wanted_locked(k);
	}
	while (held && k->notifying && !nf_pool_is_mine(k->pool))
		nf_cond_wait(&k->changed, &k->lock);
	if (held)
		wait_told_locked(k);
	nf_lock_drop(&k->lock);
	if (send)
		probe_send(k);
}

void nf_link_wake(struct nf_store *s)
{
	struct link *k = link_of(s);

	nf_lock_take(&k->lock);
	k->probe_after_ms = k->o.probe_min_ms;
	bool send = probe_wanted_locked(k);
	nf_lock_drop(&k->lock);
	if (send)
		probe_send(k);
}

enum nf_link_state nf_link_settle(struct nf_store *s, uint64_t deadline_ns)
{
	struct link *k = link_of(s);

	nf_lock_take(&k->lock);
	bool send = k->state != NF_LINK_CONNECTED && probe_wanted_locked(k);
	nf_lock_drop(&k->lock);
	if (send)
		probe_send(k);
	nf_lock_take(&k->lock);
	while (k->probing && k->state != NF_LINK_CONNECTED && k->state != NF_LINK_HELD &&
	       nf_cond_wait_until(&k->changed, &k->lock, deadline_ns))
		;
	enum nf_link_state state = k->state;
	nf_lock_drop(&k->lock);
	return state;
}
