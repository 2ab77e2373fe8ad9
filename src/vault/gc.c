/* vault/gc.c - one run of the collector.
 *
 *    look: one leaf (G1)
 *      what is kept: roots, deltas; what they name; what the store holds
 *      look again: still that leaf ----- no: from the start
 *        delete what was condemned already, is old enough and is not named (G2)
 *        move what is worth it out of packs that are hardly named
 *        commit: condemned, gone, roots and deltas no longer kept
 *
 * The rules G1 to G6 are those of docs/internals/protocol.md.  Everything that a run changes in the tree it does as
 * operations of a commit, so it merges with what others do at the same time. */
#include "vault/gc.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"

#include <inttypes.h>
#include <stdio.h>

enum {
	DAY_S = 86400,
	KEYS_PER_OP = 1000,
	/* A committer that sent its packs less than half of this ago finds them in the list, deleted or not; one that sent
	 * them earlier asks the store (gc_named.c). */
	LISTED_S = 3600,
	TRIES = 5,
	ROUNDS = 6,
	WORTH_ROOTS = 32,          /* likewise of worth_bytes */
};

void nf_gc_defaults(struct nf_gc_options *o)
{
	*o = (struct nf_gc_options){ .grace_s = 3 * DAY_S, .keep_heads = 1000, .keep_days = 30, .lease_days = 90,
				     .repack_percent = 70, .move_bytes = UINT64_C(2) << 30, .worth_bytes = 1 << 20 };
}

void nf_vault_gc_options(struct nf_vault *v, struct nf_gc_options *out) { *out = v->gc; }

/* --- the leaf -------------------------------------------------------------------------- */

/* A look that showed one leaf, and that one taken over: a copy of it and the server's date. */
static int settle(struct nf_gc *g)
{
	struct nf_vault *v = g->v;

	for (int i = 0; i < TRIES; i++) {
		nf_lock_take(&v->ns);
		uint64_t had = v->settled_looks;
		v->want_whole_look = true;
		nf_lock_drop(&v->ns);
		int r = nf_vault_refresh(v);
		if (r < 0)
			return r;
		nf_head_deinit(&g->leaf);
		nf_lock_take(&v->ns);
		bool settled = v->settled_looks != had || v->fixed;
		g->date_s = v->settled_date_s;
		r = nf_head_copy(&g->leaf, &v->base);
		nf_lock_drop(&v->ns);
		if (r < 0 || settled)
			return r;
	}
	return nf_fail(-NF_E_STORE_BUSY);
}

/* --- the verdict ------------------------------------------------------------------------------ */

/* The leaf's own delta and where its nodes stand. */
static int need_leaf(struct nf_gc *g)
{
	if (nf_ref_is_null(&g->leaf.delta))
		return 0;
	struct nf_pack_entry *e = nf_pack_set_get(&g->packs, &g->leaf.delta.pack);
	if (!e)
		return nf_fail(-ENOMEM);
	/* The head names it, and no operation can say otherwise. */
	e->known = e->needed = e->pinned = true;
	for (size_t i = 0; i < g->nr_deltas; i++)
		if (g->deltas[i].kept && nf_ref_equal(&g->deltas[i].delta, &g->leaf.delta))
			return 0; /* counted */
	e->most_old_bytes += g->leaf.delta.epoch < g->epoch ? (int64_t)g->leaf.delta.sealed_len : 0;
	return 0;
}

enum fate { FATE_KEEP, FATE_CONDEMN, FATE_WAIT, FATE_DELETE, FATE_GONE, FATE_YOUNG };

static enum fate fate_of(const struct nf_gc *g, const struct nf_pack_entry *e)
{
	if (!e->listed)
		return e->condemned && !e->needed && g->date_s >= e->condemned_s + LISTED_S ? FATE_GONE : FATE_KEEP;
	if (e->needed)
		return FATE_KEEP;
	if (e->condemned)
		return g->date_s >= e->condemned_s + (int64_t)g->o.grace_s ? FATE_DELETE : FATE_WAIT;
	/* What some root named was published once, so it is dead.  What none does may be on its way into a commit. */
	if (e->known || (e->mtime_s && g->date_s >= e->mtime_s + (int64_t)g->o.grace_s))
		return FATE_CONDEMN;
	return FATE_YOUNG;
}

static void count(struct nf_gc *g)
{
	struct nf_gc_result *r = &g->r;

	for (struct nf_pack_entry *e = nf_pack_set_first(&g->packs); e; e = nf_pack_set_next(e)) {
		enum fate f = fate_of(g, e);
		r->old_packs += e->most_old_bytes > 0;
		r->old_bytes += (uint64_t)NF_MAX(e->most_old_bytes, INT64_C(0));
		r->packs += e->listed;
		r->bytes += e->size_bytes;
		if (e->listed && f == FATE_KEEP) {
			r->live_packs++;
			r->live_bytes += NF_MIN((uint64_t)e->most_bytes, e->size_bytes);
		} else if (f == FATE_CONDEMN) {
			r->dead_packs++;
			r->dead_bytes += e->size_bytes;
			r->leftover_packs += !e->known;
			r->leftover_bytes += e->known ? 0 : e->size_bytes;
		} else if (f == FATE_WAIT) {
			r->waiting_packs++;
			r->waiting_bytes += e->size_bytes;
		}
		r->young_packs += f == FATE_YOUNG;
		if (f == FATE_DELETE && g->o.dry_run) {
			r->deleted_packs++;
			r->deleted_bytes += e->size_bytes;
		}
	}
}

/* --- deleting ------------------------------------------------------------------------------------ */

static int delete_pack(struct nf_gc *g, const struct nf_pack_entry *e)
{
	struct nf_store_op op = { .verb = NF_STORE_DELETE, .priority = NF_STORE_BACKGROUND };

	uint64_t began_ns = nf_clock_ns();
	int r = nf_gc_goes_on(&g->pace);
	if (r < 0)
		return r;
	nf_pack_name(&e->id, op.name);
	r = nf_store_run(g->v->store, &op);
	nf_gc_rest(&g->pace, began_ns);
	nf_store_op_deinit(&op);
	if (r == 0) {
		g->r.deleted_packs++;
		g->r.deleted_bytes += e->size_bytes;
	}
	return r;
}

static int delete_all(struct nf_gc *g)
{
	int r = 0;

	for (struct nf_pack_entry *e = nf_pack_set_first(&g->packs); r == 0 && e; e = nf_pack_set_next(e))
		if (fate_of(g, e) == FATE_DELETE)
			r = delete_pack(g, e);
	return r;
}

static bool any_to_delete(struct nf_gc *g)
{
	for (struct nf_pack_entry *e = nf_pack_set_first(&g->packs); e; e = nf_pack_set_next(e))
		if (fate_of(g, e) == FATE_DELETE)
			return true;
	return false;
}

/* --- the commit -------------------------------------------------------------------------------------- */

/* Keys of one kind on their way into operations. */
struct keys {
	struct nf_gc *g;
	struct nf_buf b;
	uint8_t item;
	bool forget;
	int error;
};

static void keys_flush(struct keys *k)
{
	struct nf_op op = { .kind = NF_OP_COLLECT, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(),
			    .flags = k->forget ? NF_OPF_FORGET : 0, .item = k->item, .date_s = k->g->date_s,
			    .keys = k->b.p, .nr_keys = (uint32_t)(k->b.len / 16) };

	if (k->error == 0)
		k->error = nf_buf_error(&k->b);
	if (k->error == 0 && k->b.len) {
		k->error = nf_vault_do_waiting(k->g->v, &op);
		k->g->ops++;
	}
	k->b.len = 0;
}

static void keys_add(struct keys *k, const struct nf_key *key)
{
	uint8_t raw[16];

	nf_put_be64(raw, key->a);
	nf_put_be64(raw + 8, key->b);
	nf_buf_bytes(&k->b, raw, sizeof raw);
	if (k->b.len >= KEYS_PER_OP * sizeof raw)
		keys_flush(k);
}

static int keys_end(struct keys *k)
{
	keys_flush(k);
	nf_buf_deinit(&k->b);
	return k->error;
}

static int put_packs(struct nf_gc *g, enum fate which, bool forget)
{
	struct keys k = { .g = g, .item = NF_ITEM_CONDEMNED, .forget = forget };

	for (struct nf_pack_entry *e = nf_pack_set_first(&g->packs); e; e = nf_pack_set_next(e)) {
		struct nf_key key = nf_condemned_key(&e->id);
		if (fate_of(g, e) == which)
			keys_add(&k, &key);
	}
	return keys_end(&k);
}

static int drop_history(struct nf_gc *g)
{
	struct keys roots = { .g = g, .item = NF_ITEM_ROOT, .forget = true };
	struct keys deltas = { .g = g, .item = NF_ITEM_DELTA, .forget = true };

	for (size_t i = 0; i < g->nr_roots; i++)
		if (!g->roots[i].kept)
			keys_add(&roots, &g->roots[i].key);
	for (size_t i = 0; i < g->nr_deltas; i++)
		if (!g->deltas[i].kept)
			keys_add(&deltas, &g->deltas[i].key);
	int r = keys_end(&roots), s = keys_end(&deltas);
	return r < 0 ? r : s;
}

/* Others need not look for what there is to do for a while. */
static int put_date(struct nf_gc *g)
{
	const struct nf_key key = { .a = NF_COUNTER_COLLECTED };
	struct keys k = { .g = g, .item = NF_ITEM_COUNTER };

	keys_add(&k, &key);
	return keys_end(&k);
}

/* What is to be sealed again? */
static bool is_old(const struct nf_pack_entry *e) { return e->listed && e->needed && !e->pinned && e->most_old_bytes > 0; }

/* May it be worth copying what is still named of it?  What no commit may name any more is in any case. */
static bool is_hardly_named(const struct nf_gc *g, const struct nf_pack_entry *e)
{
	if (!e->listed || !e->needed || e->pinned)
		return false;
	return e->condemned || (uint64_t)e->most_bytes * 100 < e->size_bytes * g->o.repack_percent;
}

static int choose_packs(struct nf_gc *g, struct nf_pack_set *from)
{
	uint64_t bytes = 0;

	for (struct nf_pack_entry *e = nf_pack_set_first(&g->packs); e; e = nf_pack_set_next(e)) {
		if ((!is_old(e) && !is_hardly_named(g, e)) ||
		    (g->o.idle && !e->condemned && nf_gc_marks_refused(&g->marks, e)) || (from->nr && bytes + e->size_bytes > g->o.move_bytes))
			continue;
		struct nf_pack_entry *f = nf_pack_set_get(from, &e->id);
		if (!f)
			return nf_fail(-ENOMEM);
		f->size_bytes = e->size_bytes;
		f->condemned = e->condemned;
		f->most_old_bytes = is_old(e) ? e->most_old_bytes : 0;
		bytes += e->size_bytes;
	}
	return 0;
}

/* To find out that a pack is not worth it, or that not all of it can be read, takes reading all the trees: not again and again. */
static int note_refused(struct nf_gc *g, const struct nf_pack_set *chosen, const struct nf_pack_set *from)
{
	int r = 0;

	for (struct nf_pack_entry *c = nf_pack_set_first(chosen); r == 0 && c; c = nf_pack_set_next(c)) {
		struct nf_pack_entry *e = nf_pack_set_find(&g->packs, &c->id);
		struct nf_pack_entry *f = nf_pack_set_find(from, &c->id);
		if (e && (!f || f->lost))
			r = nf_gc_marks_refuse(&g->marks, &c->id, e->most_bytes);
	}
	return r;
}

static int move_out(struct nf_gc *g)
{
	struct nf_pack_set from = NF_PACK_SET_INIT, chosen = NF_PACK_SET_INIT;
	struct nf_gc_moved moved = { 0 };

	int r = choose_packs(g, &from);
	if (r == 0)
		r = choose_packs(g, &chosen);
	if (r == 0 && from.nr) {
		struct nf_gc_move m = { .v = g->v, .src = &g->src, .leaf = &g->leaf.root, .roots = g->roots,
					.nr_roots = g->nr_roots, .deltas = g->deltas, .nr_deltas = g->nr_deltas,
					.from = &from, .percent = g->o.repack_percent, .dry_run = g->o.dry_run,
					.pace = g->pace };
		r = nf_gc_move(&m, &moved);
		if (r == 0)
			r = note_refused(g, &chosen, &from);
	}
	g->r.emptied_packs = r == 0 ? from.nr : 0;
	nf_pack_set_deinit(&from);
	nf_pack_set_deinit(&chosen);
	g->r.moved_packs = moved.packs;
	g->r.moved_bytes = moved.bytes;
	g->r.moved_trees = moved.trees;
	g->r.resealed_bytes = moved.resealed_bytes;
	g->moved = moved.ops || moved.nodes;
	return r;
}

/* Roots and deltas go first: the packs are dead for those who no longer find them. */
static int commit_changes(struct nf_gc *g)
{
	int r = drop_history(g);

	if (r == 0)
		r = put_packs(g, FATE_CONDEMN, false);
	if (r == 0)
		r = put_packs(g, FATE_GONE, true);
	if (r == 0)
		r = move_out(g);
	if (r == 0 && (g->ops || g->moved || (g->o.idle && g->r.deleted_packs)))
		r = put_date(g);
	return r < 0 ? r : nf_vault_sync(g->v, g->pace.stop);
}

/* --- a run ------------------------------------------------------------------------------------------------ */

static void gc_deinit(struct nf_gc *g)
{
	nf_head_deinit(&g->leaf);
	nf_pack_set_deinit(&g->packs);
	nf_gc_marks_deinit(&g->marks);
	nf_gc_items_deinit(g);
}

static int take_date(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	(void)key;
	return nf_fail(nf_counter_decode(val->p, val->len, ctx));
}

/* How long is it until the last run, whoever's it was, is old enough?  A date of the future counts as today's. */
static int find_due(struct nf_gc *g)
{
	const struct nf_key from = { .type = NF_ITEM_COUNTER, .a = NF_COUNTER_COLLECTED },
			    to = { .type = NF_ITEM_COUNTER, .a = NF_COUNTER_COLLECTED + 1 };
	int64_t last = INT64_MIN / 2;

	int r = nf_gc_range(&g->src, &g->leaf.root, &from, &to, take_date, &last);
	int64_t due = NF_MIN(last, g->date_s) + (int64_t)g->o.every_s;
	g->r.not_due_s = r == 0 && due > g->date_s ? (uint64_t)(due - g->date_s) : 0;
	return r;
}

static int survey(struct nf_gc *g)
{
	int r = settle(g);

	if (r == 0 && g->o.idle && g->o.every_s)
		r = find_due(g);
	if (r < 0 || g->r.not_due_s)
		return r;
	if (r == 0 && (g->v->store->no_list || g->date_s == 0))
		r = nf_fail(-NF_E_STORE_READONLY);
	if (r == 0)
		r = nf_gc_items(g);
	if (r == 0)
		r = nf_gc_retain(g);
	if (r == 0)
		r = nf_gc_condemned(&g->src, &g->leaf.root, &g->packs);
	if (r == 0)
		r = nf_gc_list(g);
	if (r == 0)
		r = nf_gc_mark(g);
	if (r == 0)
		r = need_leaf(g);
	if (r == 0)
		count(g);
	return r;
}

static bool is_worth_it(const struct nf_gc *g)
{
	return g->r.dead_bytes >= g->o.worth_bytes || g->r.deleted_packs || g->r.old_packs || g->r.leftover_packs || g->r.roots_dropped >= WORTH_ROOTS;
}

/* What the survey calls for; *CHANGED: the leaf has changed meanwhile, and it does not hold any more. */
static int act(struct nf_gc *g, bool *changed)
{
	uint8_t tag[16];
	int r = 0;

	if (any_to_delete(g)) {
		memcpy(tag, g->leaf.id.tag, sizeof tag);
		r = settle(g);
		if (r < 0)
			return r;
		*changed = memcmp(tag, g->leaf.id.tag, sizeof tag) != 0;
		if (*changed)
			return 0;
		r = delete_all(g);
	}
	if (r == 0 && (!g->o.idle || is_worth_it(g)))
		r = commit_changes(g);
	return r;
}

/* 1: the leaf has changed meanwhile. */
static int run_once(struct nf_gc *g)
{
	bool changed = false;

	g->surveying = true;
	int r = survey(g);
	g->surveying = false;
	if (r < 0 || g->r.not_due_s)
		return r;
	r = g->o.dry_run ? move_out(g) : act(g, &changed);
	/* Without them the next run takes longer, nothing else. */
	if (r == 0 && !g->v->read_only)
		(void)nf_gc_marks_save(g->v, &g->marks);
	return r < 0 ? r : changed;
}

/* What was found is what the first round found; what was done by the others as well counts too. */
static void add_result(struct nf_gc_result *sum, const struct nf_gc_result *r, bool first)
{
	if (first) {
		*sum = *r;
		return;
	}
	sum->deleted_packs += r->deleted_packs;
	sum->deleted_bytes += r->deleted_bytes;
	sum->moved_packs += r->moved_packs;
	sum->moved_bytes += r->moved_bytes;
	sum->moved_trees += r->moved_trees;
	sum->resealed_bytes += r->resealed_bytes;
	sum->nodes += r->nodes;
	sum->fetched_nodes += r->fetched_nodes;
}

static void note_old(struct nf_vault *v, const struct nf_gc *g)
{
	nf_lock_take(&v->ns);
	v->old_keys = (struct nf_old_keys){ .epoch = g->epoch, .packs = g->r.old_packs, .bytes = g->r.old_bytes };
	nf_lock_drop(&v->ns);
}

/* One round, from a look to a commit.  *MORE: there is more to do now. */
static int round_of(struct nf_vault *v, const struct nf_gc_options *o, const struct nf_gc_pace *pace, bool first,
		    bool *more, struct nf_gc_result *sum)
{
	int r = 0;

	for (int i = 0; i < TRIES; i++) {
		struct nf_gc g = { .v = v, .o = *o, .pace = *pace, .epoch = nf_ring_newest(v->ring) };
		g.src = nf_gc_source(&g);
		r = run_once(&g);
		nf_trace(COMMIT, "gc packs=%" PRIu64 " live=%" PRIu64 " dead=%" PRIu64 " deleted=%" PRIu64 " roots=%" PRIu64
			 "-%" PRIu64 " emptied=%" PRIu64 " moved=%" PRIu64 " trees=%" PRIu64 " err=%s", g.r.packs,
			 g.r.live_packs, g.r.dead_packs, g.r.deleted_packs, g.r.roots_kept, g.r.roots_dropped,
			 g.r.emptied_packs, g.r.moved_bytes, g.r.moved_trees, nf_error_name(NF_MIN(r, 0)));
		if (r <= 0)
			add_result(sum, &g.r, first);
		if (r == 0 && !g.r.not_due_s)
			note_old(v, &g);
		/* Without a grace what was condemned because something moved goes at once as well. */
		*more = g.moved || (!first && !o->grace_s && g.r.dead_packs);
		gc_deinit(&g);
		if (r <= 0)
			return r;
	}
	return nf_fail(-NF_E_STORE_BUSY);
}

/* The commit that moves has a parent that still names the old places, and nothing is condemned that the leaf names: both are
 * work for the next round. */
int nf_vault_gc(struct nf_vault *v, const struct nf_gc_options *o, _Atomic bool *stop, struct nf_gc_result *out)
{
	struct nf_gc_pace pace = { .stop = stop, .rests = o->idle };
	struct nf_gc_result sum = { 0 };
	bool more = true;

	if ((v->read_only || v->fixed || v->store->read_only) && !o->dry_run)
		return nf_fail(-EROFS);
	if (o->max_ms)
		pace.until_ns = nf_clock_ns() + o->max_ms * NF_NS_PER_MS;
	int r = nf_gc_take_turn(v, o->idle, stop);
	if (r < 0)
		return r;
	if (!v->read_only && !v->fixed)
		r = nf_vault_sync(v, stop);
	for (int i = 0; r == 0 && more && i < ROUNDS; i++) {
		r = round_of(v, o, &pace, i == 0, &more, &sum);
		more = more && !o->dry_run && !o->idle;
	}
	nf_gc_end_turn(v);
	if (r == 0)
		*out = sum;
	return r;
}
