/* vault/commit.c - the committer: one thread that looks, takes over, merges and publishes.
 *
 *      +--> look ---- nothing new, nothing to do --------------------------> wait
 *      |      |  one leaf, newer         several leaves        frozen epoch
 *      |      v                          v                     v
 *      |    adopt                      publish a merge       publish
 *      +------+--------------------------+---------------------+
 *
 * docs/internals/protocol.md has the rules (R1..R14). */
#include "vault/commit.h"

#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/trace.h"
#include "vault/calls.h"
#include "vault/header.h"
#include "vault/shelf.h"
#include "vault/upload.h"

#include <inttypes.h>

enum {
	TURNS_MAX = 64,         /* rounds of one turn before it gives others a chance */
	MERGE_WAIT_MAX_MS = 300,
	MEET_TO_SEND_MS = 60000, /* nothing is sealed for the store by keys that were the newest longer ago */
	PRUNE_AGE_S = 600,
	PRUNE_EVERY = 32,       /* looks */
	REACH_MS = 15000,       /* longer than a probe */
	/* A look is good for a commit that begins so soon after it, unless others were seen to write lately. */
	LOOK_GOOD_MS = 10000,
	ALONE_MS = 60000,
	/* An epoch that has grown to this is cut early. */
	CUT_LAYER_BYTES = 16 << 20,
	/* More dirty files than this are not kept in memory for long: each costs several KiB there. */
	DIRTY_FILES = 2048,
	SETTLE_MANY_MS = 200,
	/* Between tries to remove segments that could not be. */
	LET_GO_MS = 500,
};

/* --- waiting ------------------------------------------------------------------------------------ */

/* Our last dot that the base contains, while no look has confirmed it (R9); 0: none.  A snapshot is looked for once, and has
 * nothing to do with what we sent. */
static uint64_t unconfirmed_seq(const struct nf_vault *v)
{
	uint64_t seq = v->writer && !v->fixed ? nf_vector_seq(&v->base.vector, v->writer) : 0;

	return seq > v->confirmed_seq ? seq : 0;
}

uint64_t nf_commit_target(struct nf_vault *v)
{
	/* Files are listed as dirty when they may hold something; the cut finds out. */
	if (v->current && (v->current->nr_ops || !nf_list_empty(&v->dirty_list)))
		return v->current->seq;
	if (v->nr_shelf)
		return v->shelf[v->nr_shelf - 1].seq;
	return v->frozen ? v->frozen->seq : unconfirmed_seq(v);
}

/* Is everything up to dot TARGET on the server, or was there nothing in it? */
static bool is_done(struct nf_vault *v, uint64_t target)
{
	if (target >= v->split_from && target < v->split_to)
		target = v->split_to;
	return v->confirmed_seq >= target || nf_commit_target(v) == 0;
}

/* Was anything done so far left out of dot TARGET, or what it became? */
static int left_out(const struct nf_vault *v, uint64_t target)
{
	return v->left_seq >= target ? v->left_error : 0;
}

/* Ends what waits for dots up to the confirmed one. */
static void wake_synced(struct nf_vault *v)
{
	struct nf_list ready;

	nf_list_init(&ready);
	nf_lock_take(&v->ns);
	nf_list_for_each_safe(run, &v->sync_waiters, struct nf_run, waiting) {
		if (!is_done(v, run->sync_seq))
			continue;
		nf_list_del(&run->waiting);
		nf_list_add_tail(&ready, &run->waiting);
	}
	nf_lock_drop(&v->ns);
	nf_list_for_each_safe(run, &ready, struct nf_run, waiting) {
		nf_list_del(&run->waiting);
		nf_run_end(run, 0);
	}
}

/* The server has gone: who waits for it is told, and does not hang.  What was done stays in the journal. */
static void fail_synced(struct nf_vault *v)
{
	struct nf_list all;

	nf_list_init(&all);
	nf_lock_take(&v->ns);
	nf_list_for_each_safe(run, &v->sync_waiters, struct nf_run, waiting) {
		nf_list_del(&run->waiting);
		nf_list_add_tail(&all, &run->waiting);
	}
	nf_lock_drop(&v->ns);
	nf_list_for_each_safe(run, &all, struct nf_run, waiting) {
		nf_list_del(&run->waiting);
		nf_run_end(run, nf_fail(-NF_E_OFFLINE));
	}
}

void nf_sync_wait(struct nf_run *run)
{
	struct nf_vault *v = run->v;

	nf_lock_take(&v->ns);
	run->sync_seq = nf_commit_target(v);
	bool wait = run->sync_seq != 0, away = v->away && nf_clock_ns() >= v->patient_until_ns;
	if (wait && !away) {
		nf_list_add_tail(&v->sync_waiters, &run->waiting);
		v->want_commit = true;
		nf_cond_broadcast(&v->changed);
	}
	nf_lock_drop(&v->ns);
	if (!wait || away)
		nf_run_end(run, wait ? nf_fail(-NF_E_OFFLINE) : 0);
}

/* --- one turn ------------------------------------------------------------------------------------ */

static bool is_base(const struct nf_vault *v, const struct nf_head *h)
{
	return !memcmp(h->id.tag, v->base.id.tag, sizeof h->id.tag);
}

/* R6: together the leaves must contain what this device has seen. */
static int check_rollback(struct nf_vault *v, const struct nf_look_result *look)
{
	struct nf_vector all = { 0 };
	int r = 0;

	for (size_t i = 0; r == 0 && i < look->nr_leaves; i++)
		r = nf_vector_join(&all, &look->leaves[i]->vector);
	if (r == 0 && !nf_vector_covers(&all, &v->base.vector))
		r = nf_fail(-NF_E_HEAD_ROLLBACK);
	nf_vector_deinit(&all);
	return r;
}

/* R12: nobody but us publishes dots of ours.  An entry that is ahead of what we sent, or of our dot with another delta, means
 * that a copy of this device's state is in use elsewhere, or that ours is a restored one. */
static int check_cloned(struct nf_vault *v, const struct nf_look_result *look)
{
	const struct nf_epoch *f = v->frozen;

	if (!v->writer || v->read_only || !v->current)
		return 0;
	for (size_t i = 0; i < look->nr_leaves; i++) {
		const struct nf_vector_entry *e = nf_vector_find(&look->leaves[i]->vector, v->writer);
		const struct nf_vector_entry *mine = nf_vector_find(&v->base.vector, v->writer);
		if (!e || (mine && (e->seq < mine->seq ||
				    (e->seq == mine->seq && !memcmp(e->tag, mine->tag, sizeof e->tag)))))
			continue;
		if (f && f->sent && e->seq == f->seq && !memcmp(e->tag, f->delta.tag, sizeof e->tag))
			continue;
		return nf_fail(-NF_E_WRITER_CLONED);
	}
	return 0;
}

/* Takes the keys that the vault has now. */
static int meet(struct nf_vault *v)
{
	struct nf_met met = { 0 };

	int r = v->meet ? v->meet(v->meet_ctx, v->store, &met) : nf_fail(-NF_E_KEY_EPOCH_UNKNOWN);
	if (r == 0)
		r = nf_header_extend_ring(met.header, v->ring);
	v->unmet = r < 0;
	if (r == 0)
		v->met_ns = nf_clock_ns();
	nf_lock_take(&v->ns);
	if (r == 0)
		v->keys = met.removed ? NF_KEYS_REMOVED : NF_KEYS_CURRENT;
	else if (r == -NF_E_KEY_CHANGED)
		v->keys = NF_KEYS_CHANGED;
	nf_lock_drop(&v->ns);
	return r;
}

/* Is the header to be asked for, before anything else? */
static bool meeting_is_due(struct nf_vault *v)
{
	if (!v->meet)
		return false;
	nf_lock_take(&v->ns);
	if (v->returned)
		v->unmet = true;
	v->returned = false;
	nf_lock_drop(&v->ns);
	uint64_t every_ns = v->frozen ? NF_MIN(v->meet_every_ns, MEET_TO_SEND_MS * NF_NS_PER_MS) : v->meet_every_ns;
	return v->unmet || nf_clock_ns() - v->met_ns > every_ns;
}

/* To go on without what others write under keys we do not have would be a history of our own.  The epoch stands in
 * clear, so the store's headers are asked whether it is true; where it is, our key may open the new ones. */
static int look_again(struct nf_vault *v, struct nf_look_result *out)
{
	uint32_t before = nf_ring_newest(v->ring);
	int r = meet(v);

	return r < 0 || nf_ring_newest(v->ring) == before ? r : nf_look(v->look, out);
}

/* The store has lost the head that we stand on.  The same again, under a new name: as when the outcome of a PUT is not known
 * (R7), it may stand beside itself, and beside what others made of the heads before it. */
static int put_back(struct nf_vault *v)
{
	struct nf_codec *c = nf_codec_get(v->ring);
	struct nf_head h = { 0 };

	int r = c ? nf_head_copy(&h, &v->base) : nf_fail(-ENOMEM);
	if (r == 0)
		r = nf_head_put(v->store, c, &h);
	if (c)
		nf_codec_put(c);
	nf_head_deinit(&h);
	if (r < 0 && r != -NF_E_STORE_UNKNOWN_OUTCOME)
		return r;
	nf_trace(COMMIT, "head seq=%" PRIu64 " put back", v->base.id.seq);
	nf_lock_take(&v->ns);
	v->nr_put_back++;
	nf_lock_drop(&v->ns);
	return 0;
}

static int look_for_base(struct nf_vault *v, struct nf_look_result *out)
{
	int r = nf_look(v->look, out);

	if (r == 0 && out->nr_leaves == 0)
		return -NF_E_HEAD_ROLLBACK;
	return r == 0 ? check_rollback(v, out) : r;
}

int nf_commit_look(struct nf_vault *v, bool as_writer, struct nf_look_result *out)
{
	int r = meeting_is_due(v) ? meet(v) : 0;

	if (r == 0)
		r = nf_look(v->look, out);
	if (r == 0 && out->newer_epoch)
		r = look_again(v, out);
	nf_count(NF_C_LOOKS, 1);
	if (r == 0 && out->nr_leaves == 0)
		r = nf_fail(-NF_E_HEAD_ROLLBACK);
	if (r == 0)
		r = check_rollback(v, out);
	/* A listing that ran while names came and went may lie: once more before saying so. */
	if (r == -NF_E_HEAD_ROLLBACK)
		r = look_for_base(v, out);
	if (r == -NF_E_HEAD_ROLLBACK && v->put_back && !v->read_only) {
		r = put_back(v);
		if (r == 0)
			r = look_for_base(v, out);
	}
	if (r == 0)
		v->put_back = false;
	if (r == 0 && as_writer)
		r = check_cloned(v, out);
	nf_lock_take(&v->ns);
	v->connected = r == 0 || r == -NF_E_HEAD_ROLLBACK;
	v->last_error = r;
	v->looks_done++;
	if (r == 0)
		v->look_date_s = out->server_date_s;
	if (r == 0 && out->nr_leaves > 1) {
		v->forks++;
		nf_count(NF_C_FORKS_SEEN, 1);
	}
	nf_lock_drop(&v->ns);
	return r;
}

/* A short wait that differs from writer to writer: often another has merged by then. */
static void merge_wait(struct nf_vault *v, unsigned round)
{
	uint8_t x;

	nf_random(&x, sizeof x);
	uint64_t ms = x % (MERGE_WAIT_MAX_MS >> (round > 4 ? 4 : round)) + 1;
	nf_lock_take(&v->ns);
	uint64_t until = nf_clock_ns() + ms * NF_NS_PER_MS;
	while (!v->stopping && nf_cond_wait_until(&v->changed, &v->ns, until))
		;
	nf_lock_drop(&v->ns);
}

/* Copies of the leaves' heads, so that they outlive the next look. */
struct leaves {
	struct nf_head *h;
	const struct nf_head **p;
	size_t nr;
	size_t nr_left; /* of p */
};

static void leaves_deinit(struct leaves *l)
{
	for (size_t i = 0; i < l->nr; i++)
		nf_head_deinit(&l->h[i]);
	free(l->h);
	free(l->p);
}

static int leaves_copy(struct leaves *l, const struct nf_look_result *look)
{
	size_t n = NF_MIN(look->nr_leaves, (size_t)NF_HEAD_PARENTS_MAX);

	*l = (struct leaves){ .h = calloc(n, sizeof *l->h), .p = calloc(n, sizeof *l->p) };
	if (!l->h || !l->p)
		return nf_fail(-ENOMEM);
	/* The last ones: among them is the base of the merge. */
	for (size_t i = look->nr_leaves - n; i < look->nr_leaves; i++) {
		int r = nf_head_copy(&l->h[l->nr], look->leaves[i]);
		if (r < 0)
			return r;
		l->p[l->nr] = &l->h[l->nr];
		l->nr_left = ++l->nr;
	}
	return 0;
}

/* Our head was read back: what it holds is known to be contained. */
static int know(struct nf_vault *v, const struct nf_head *head)
{
	v->known_seq = NF_MAX(v->known_seq, nf_vector_seq(&head->vector, v->writer));
	return nf_look_add(v->look, head);
}

/* May a head be made from the look that was the last?  R10 asks for no newer one: what was published meanwhile makes a
 * fork.  So only where that is unlikely. */
static bool look_is_good(struct nf_vault *v)
{
	uint64_t now = nf_clock_ns();

	return v->base_seen_ns && !meeting_is_due(v) && now - v->base_seen_ns < LOOK_GOOD_MS * NF_NS_PER_MS &&
	       (!v->others_seen_ns || now - v->others_seen_ns > ALONE_MS * NF_NS_PER_MS);
}

/* Copies of the leaves into L: of a new look, or (AGAIN) the base as it was seen by the last one. */
static int take_leaves(struct nf_vault *v, bool again, struct leaves *l)
{
	const struct nf_head *base = &v->base;
	struct nf_look_result seen = { .leaves = &base, .nr_leaves = 1 };

	if (!again) {
		v->base_seen_ns = 0;
		int r = nf_commit_look(v, true, &seen);
		if (r < 0)
			return r;
		if (seen.nr_leaves > 1)
			v->others_seen_ns = nf_clock_ns();
		else if (is_base(v, seen.leaves[0]) || seen.leaves[0]->writer == v->writer)
			v->base_seen_ns = nf_clock_ns();
		else
			v->others_seen_ns = nf_clock_ns();
	}
	return leaves_copy(l, &seen);
}

static int publish(struct nf_vault *v, const struct leaves *l)
{
	struct nf_head head = { 0 };

	v->base_seen_ns = 0;
	int r = nf_publish(v, l->p, l->nr_left, &head);
	if (r == 0) {
		nf_lock_take(&v->ns);
		nf_ahead_resume(v);
		nf_lock_drop(&v->ns);
	}
	if (r == 0)
		r = know(v, &head);
	nf_head_deinit(&head);
	return r == -NF_E_STORE_UNKNOWN_OUTCOME || r == 0 ? 1 : r;
}

/* A head whose delta is gone from the store is not there yet: it came later than a collector, and its writer, who has not
 * reported it, publishes again.  How many were left out. */
static int leave_out_broken(struct nf_vault *v, struct leaves *l)
{
	size_t kept = 0;
	int left_out = 0, r = 0;

	for (size_t i = 0; i < l->nr; i++) {
		const struct nf_head *h = l->p[i];
		struct nf_seal_id id = { .type = NF_SEAL_DELTA, .birth = h->writer_seq, .index = h->writer };
		nf_auto_free void *plain = NULL;
		size_t len;
		int one = nf_ref_is_null(&h->delta) ? 0 : nf_fetch_blob(v->fetch, &h->delta, &id, &plain, &len);
		if (one == -NF_E_PACK_MISSING) {
			left_out++;
			continue;
		}
		if (one < 0 && r == 0)
			r = one;
		l->p[kept++] = h;
	}
	l->nr_left = kept;
	return r < 0 ? r : left_out;
}

/* Several leaves.  2: but one of them is broken, one is left. */
static int join(struct nf_vault *v, struct leaves *l, unsigned round)
{
	if (v->read_only) {
		/* Somebody who may write merges; until then the greatest leaf is shown. */
		return is_base(v, l->p[l->nr - 1]) ? 0 : nf_adopt(v, l->p[l->nr - 1]);
	}
	if (round < 2) {
		merge_wait(v, round);
		return 1;
	}
	int r = publish(v, l);
	if (r != -NF_E_PACK_MISSING)
		return r;
	r = leave_out_broken(v, l);
	if (r < 0)
		return r;
	if (r == 0 || l->nr_left == 0)
		return nf_fail(-NF_E_PACK_MISSING);
	return l->nr_left > 1 ? publish(v, l) : 2;
}

/* Who starts again need not ask once more.  Without the mark it does: a full disk is no reason to hold up anything. */
static void mark_reported(struct nf_vault *v, uint64_t seq)
{
	struct nf_buf b = NF_BUF_INIT;

	if (v->journal && nf_journal_encode_reported(&b, v->writer, seq) == 0)
		(void)nf_journal_record(v->journal, 'M', b.p, b.len);
	nf_buf_deinit(&b);
}

/* R9: one leaf that covers what was known to be contained before this look's listing began; and G4. */
static int confirm(struct nf_vault *v, const struct nf_head *leaf, uint64_t known)
{
	uint64_t seq = NF_MIN(known, nf_vector_seq(&leaf->vector, v->writer));

	if (seq <= v->confirmed_seq || seq < v->repair_seq)
		return 0;
	int r = v->read_only ? 0 : nf_named_check(v, leaf, v->look_date_s);
	if (r)
		return NF_MIN(r, 0);
	nf_lock_take(&v->ns);
	v->confirmed_seq = seq;
	v->letting_go = true; /* a sync may be answered from now on */
	nf_lock_drop(&v->ns);
	nf_named_reported(v, seq);
	mark_reported(v, seq);
	nf_journal_let_go(v);
	return 0;
}

/* One round: 0 nothing is left to do, 1 look again, negative. */
static int round_of(struct nf_vault *v, unsigned round)
{
	struct leaves l = { 0 };
	uint64_t known = NF_MAX(v->known_seq, nf_vector_seq(&v->base.vector, v->writer));
	bool again = round == 0 && v->frozen && look_is_good(v);

	int r = take_leaves(v, again, &l);
	if (r == 0 && l.nr > 1) {
		r = join(v, &l, round);
		if (r != 2)
			goto out;
		r = 0;
	}
	if (r == 0 && !is_base(v, l.p[0]))
		r = nf_adopt(v, l.p[0]);
	if (r < 0)
		goto out;
	if (!again) {
		r = confirm(v, l.p[0], known);
		if (r < 0)
			goto out;
		nf_lock_take(&v->ns);
		v->settled_looks++;
		v->settled_date_s = v->look_date_s;
		nf_lock_drop(&v->ns);
	}
	/* What repairs a dot waits for the next cut. */
	bool repairs = v->repair_seq > nf_vector_seq(&v->base.vector, v->writer);
	r = v->frozen ? publish(v, &l) : unconfirmed_seq(v) != 0 && !repairs;
out:
	leaves_deinit(&l);
	return r;
}

static void prune(struct nf_vault *v)
{
	size_t nr = 0;

	if (v->read_only || v->looks_done - v->pruned_looks < PRUNE_EVERY)
		return;
	v->pruned_looks = v->looks_done;
	(void)nf_look_prune(v->look, PRUNE_AGE_S, &nr); /* what stays is pruned another time */
}

int nf_commit_turn(struct nf_vault *v, bool force)
{
	/* While what is shelved goes out, dot by dot, as much may come. */
	if (!v->read_only && v->nr_shelf)
		nf_shelve(v);
	int r = 0, cut = force && !v->read_only ? NF_MIN(nf_cut(v), 0) : 0;

	if (v->frozen) {
		int drained = nf_cut_drain(v);
		cut = cut < 0 ? cut : drained;
	}
	v->cut_error = cut;
	/* What could not be cut or stored stops neither what was, nor what others did. */
	nf_lock_take(&v->ns);
	v->committing = true;
	nf_lock_drop(&v->ns);
	for (unsigned round = 0; r >= 0 && round < TURNS_MAX; round++) {
		r = round_of(v, round);
		if (r <= 0 || v->stop)
			break;
	}
	if (r >= 0 && cut < 0)
		r = cut;
	nf_lock_take(&v->ns);
	v->committing = false;
	v->turns_done++;
	v->last_error = NF_MIN(r, 0);
	if (r < 0 && r != -NF_E_HEAD_ROLLBACK)
		v->connected = r != -NF_E_OFFLINE && r != -NF_E_TIMEOUT;
	nf_cond_broadcast(&v->changed);
	if (nf_commit_target(v) == 0 || v->confirmed_seq >= v->reintegrate_seq)
		v->reintegrating = false;
	nf_lock_drop(&v->ns);
	wake_synced(v);
	prune(v);
	return NF_MIN(r, 0);
}

void nf_commit_link(void *vault, enum nf_link_state s)
{
	struct nf_vault *v = vault;
	bool away = s == NF_LINK_DISCONNECTED || s == NF_LINK_HELD;
	struct nf_link_status now;

	nf_link_status(v->link, &now);
	nf_lock_take(&v->ns);
	v->returned |= v->away && !away;
	if (v->away && !away) {
		v->reintegrate_seq = nf_commit_target(v);
		v->reintegrating = v->reintegrate_seq != 0;
	}
	v->away = away;
	v->patient_until_ns = now.wait_until_ns;
	/* Back: what others did meanwhile, and what we did, at once. */
	v->want_look = v->want_look || (s == NF_LINK_CONNECTED && !v->manual);
	v->back = v->back || s == NF_LINK_CONNECTED;
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
	if (away && now.wait_until_ns <= nf_clock_ns())
		fail_synced(v);
}

/* --- the thread ------------------------------------------------------------------------------------- */

/* Sent only by command: what was asked for, and what an earlier commit left, as long as somebody waits for it. */
static bool asked_for(struct nf_vault *v)
{
	bool waits = v->syncing || !nf_list_empty(&v->sync_waiters);

	return nf_commit_target(v) && (v->want_commit || (waits && (v->frozen || unconfirmed_seq(v))));
}

static bool something_due(struct nf_vault *v, uint64_t now, uint64_t *at)
{
	uint64_t oldest = UINT64_MAX;

	if (v->frozen || v->nr_shelf || unconfirmed_seq(v))
		return true;
	/* Who wanted it may have got it by the commit that was under way. */
	if (v->want_commit && nf_commit_target(v))
		return true;
	if (v->current && v->current->oldest_ns)
		oldest = v->current->oldest_ns;
	if (v->dirty_since_ns)
		oldest = NF_MIN(oldest, v->dirty_since_ns);
	if (oldest == UINT64_MAX)
		return false;
	uint64_t due = oldest + v->write_back_ms * NF_NS_PER_MS;
	if (due <= now || nf_layer_bytes(v->current->layer) > CUT_LAYER_BYTES || v->current->ops.len > nf_cut_ops_max_bytes(v))
		return true;
	*at = NF_MIN(*at, due);
	return false;
}

bool nf_commit_is_settled(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	bool settled = v->current && nf_commit_target(v) == 0;
	nf_lock_drop(&v->ns);
	return settled;
}

/* Is dirty data to become operations now, though nothing is sent, or not yet? */
static bool to_settle(struct nf_vault *v, uint64_t now, bool due, uint64_t *at)
{
	bool many = v->nr_dirty > DIRTY_FILES;

	if (!v->read_only && !due && now >= v->shelve_after_ns && nf_shelf_is_due(v))
		return true;
	if (v->read_only || !v->dirty_since_ns || (due && !many))
		return false;
	uint64_t settle_at = v->dirty_since_ns + (many ? SETTLE_MANY_MS : v->write_back_ms) * NF_NS_PER_MS;
	*at = NF_MIN(*at, settle_at);
	return settle_at <= now;
}

static void *committer(void *arg)
{
	struct nf_vault *v = arg;
	uint64_t next_poll = nf_clock_ns() + v->poll_ms * NF_NS_PER_MS, retry_at = 0, let_go_at = 0;
	uint64_t back_off_ms = 200;

	nf_lock_take(&v->ns);
	while (!v->stopping) {
		uint64_t now = nf_clock_ns(), at = v->manual ? now + NF_NS_PER_S : next_poll;
		bool due = v->manual ? asked_for(v) : something_due(v, now, &at);
		bool poll = v->want_look || (!v->manual && now >= next_poll);
		if (v->back) {
			v->back = false;
			retry_at = 0;
			back_off_ms = 200;
		}
		if (now < retry_at && !v->want_look) {
			due = poll = false;
			at = retry_at;
		}
		if (v->away) {
			due = poll = false;
			at = now + 60 * NF_NS_PER_S; /* the link tells when it is back */
			if (v->patient_until_ns > now) {
				at = NF_MIN(at, v->patient_until_ns);
			} else if (!nf_list_empty(&v->sync_waiters)) {
				nf_lock_drop(&v->ns);
				fail_synced(v);
				nf_lock_take(&v->ns);
				continue;
			}
		}
		/* Seen here it is what failed: this thread is who does it. */
		if (v->letting_go && now >= let_go_at) {
			let_go_at = now + LET_GO_MS * NF_NS_PER_MS;
			nf_lock_drop(&v->ns);
			nf_journal_let_go(v);
			nf_lock_take(&v->ns);
			continue;
		}
		if (v->letting_go)
			at = NF_MIN(at, let_go_at);
		if (to_settle(v, now, due, &at)) {
			nf_lock_drop(&v->ns);
			(void)nf_settle(v); /* who wrote it hears of an error when he asks; the next time is near */
			nf_lock_take(&v->ns);
			continue;
		}
		if (!due && !poll && now >= retry_at && nf_quota_due(v, now)) {
			nf_lock_drop(&v->ns);
			nf_quota_ask(v);
			nf_lock_take(&v->ns);
			continue;
		}
		if (!due && !poll) {
			nf_cond_wait_until(&v->changed, &v->ns, at);
			continue;
		}
		bool whole = v->want_whole_look;
		v->want_commit = v->want_look = v->want_whole_look = false;
		nf_lock_drop(&v->ns);
		int r = 0;
		/* A poll is one listing; only news makes more of it. */
		bool quiet = !due && !whole && !meeting_is_due(v) && nf_look_poll(v->look) == 0;
		if (!quiet)
			r = nf_commit_turn(v, due);
		else if (v->base_seen_ns)
			v->base_seen_ns = nf_clock_ns();
		nf_lock_take(&v->ns);
		if (quiet) {
			v->looks_done++; /* somebody may wait for a look, with or without news */
			nf_cond_broadcast(&v->changed);
		}
		now = nf_clock_ns();
		next_poll = now + v->poll_ms * NF_NS_PER_MS;
		if (r < 0) {
			retry_at = now + back_off_ms * NF_NS_PER_MS;
			/* What is wrong on this machine is no reason to hear less of others. */
			back_off_ms = NF_MIN(back_off_ms * 2, r == v->cut_error ? v->poll_ms : UINT64_C(30000));
		} else {
			retry_at = 0;
			back_off_ms = 200;
		}
	}
	nf_lock_drop(&v->ns);
	return NULL;
}

int nf_commit_start(struct nf_vault *v)
{
	int r = pthread_create(&v->committer, NULL, committer, v);
	if (r)
		return nf_fail(-r);
	v->committer_runs = true;
	return v->read_only ? 0 : nf_ahead_start(v);
}

void nf_commit_stop(struct nf_vault *v)
{
	if (!v->committer_runs)
		return;
	nf_lock_take(&v->ns);
	v->stopping = true;
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
	atomic_store(&v->stop, true);
	nf_ahead_stop(v);
	pthread_join(v->committer, NULL);
	v->committer_runs = false;
}

/* --- from outside --------------------------------------------------------------------------------------- */

/* Somebody asks for the server: is it there?  Waits for one probe at most. */
static int reach(struct nf_vault *v)
{
	if (!v->link)
		return 0;
	if (nf_link_settle(v->link, nf_clock_ns() + REACH_MS * NF_NS_PER_MS) != NF_LINK_CONNECTED)
		return nf_fail(-NF_E_OFFLINE);
	/* The link's own message may come later than this. */
	nf_lock_take(&v->ns);
	v->returned |= v->away;
	v->away = false;
	nf_lock_drop(&v->ns);
	return 0;
}

int nf_vault_hold(struct nf_vault *v, bool held)
{
	if (!v->link)
		return nf_fail(-EOPNOTSUPP);
	nf_link_hold(v->link, held);
	return 0;
}

int nf_vault_refresh(struct nf_vault *v)
{
	if (v->fixed)
		return 0;
	if (v->no_threads)
		return nf_commit_turn(v, false);
	int r = reach(v);
	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	uint64_t had = v->looks_done;
	v->want_look = true;
	nf_cond_broadcast(&v->changed);
	while (v->looks_done == had && !v->stopping && !v->away)
		nf_cond_wait(&v->changed, &v->ns);
	while (v->committing && !v->stopping)
		nf_cond_wait(&v->changed, &v->ns);
	r = v->looks_done == had && v->away ? nf_fail(-NF_E_OFFLINE) : v->last_error;
	nf_lock_drop(&v->ns);
	return r;
}

static int sync_all(struct nf_vault *v, _Atomic bool *stop)
{
	int r = 0;

	nf_lock_take(&v->ns);
	uint64_t target = nf_commit_target(v);
	nf_lock_drop(&v->ns);
	if (target == 0) {
		/* Nothing to send; what others sent is wanted all the same.  Without the store there is none. */
		(void)nf_vault_refresh(v);
		return 0;
	}
	r = reach(v);
	if (r < 0)
		return r;
	if (v->no_threads) {
		size_t turns = TURNS_MAX + v->nr_shelf;
		for (size_t i = 0; i < turns && r == 0 && !is_done(v, target); i++)
			r = nf_commit_turn(v, true);
		if (r == 0 && is_done(v, target))
			r = left_out(v, target);
		return r == 0 && !is_done(v, target) ? nf_fail(-NF_E_STORE_BUSY) : r;
	}
	nf_lock_take(&v->ns);
	uint64_t failures = 0, seen = v->turns_done;
	v->syncing++;
	nf_cond_broadcast(&v->changed);
	while (!is_done(v, target) && !v->stopping && !(stop && *stop)) {
		/* Once it is cut it goes by itself; wanting more would cut what comes behind it. */
		if (v->current && v->current->seq <= target) {
			v->want_commit = true;
			nf_cond_broadcast(&v->changed);
		}
		nf_cond_wait_until(&v->changed, &v->ns, nf_clock_ns() + NF_NS_PER_S / 2);
		if (v->turns_done != seen && v->last_error < 0)
			failures++;
		seen = v->turns_done;
		if (failures >= 5 || v->away) {
			r = v->away ? nf_fail(-NF_E_OFFLINE) : v->last_error;
			break;
		}
	}
	v->syncing--;
	if (r == 0)
		r = is_done(v, target) ? left_out(v, target) : nf_fail(-NF_E_CANCELLED);
	nf_lock_drop(&v->ns);
	return r;
}

int nf_vault_sync(struct nf_vault *v, _Atomic bool *stop)
{
	int r = sync_all(v, stop);

	/* Where nothing is fetched unasked, this is what asks. */
	if (v->manual)
		nf_keeper_look(v, true);
	return r;
}
