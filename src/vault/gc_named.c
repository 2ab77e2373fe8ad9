/* vault/gc_named.c - the second check: what our dot names is there, and nobody may take it away (G4, G5).
 *
 *   publish   every pack that a delta or node of ours names is noted
 *   report    of a look's only leaf, which contains the dot:
 *               is one of them condemned there?        always asked; costs no request
 *               is one of them gone from the store?    asked if time enough has passed for a collector to come by
 *             none: the dot is reported, its local copies are let go
 *             some: the bytes go into new packs, as the next dot; that one is reported
 *
 * The committer's thread does all of it. */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/gc.h"
#include "vault/node.h"
#include "vault/recover.h"
#include "vault/upload.h"

#include <inttypes.h>

/* A condemned pack stays in the list for twice as long, deleted or not (LISTED_S in gc.c). */
enum { TRUST_S = 1800 };

int nf_named_add_locked(struct nf_vault *v, const struct nf_pack_id *id, int64_t since_s)
{
	NF_ASSERT(nf_lock_held(&v->ns));
	v->named_since_s = v->named.nr ? NF_MIN(v->named_since_s, since_s) : since_s;
	return nf_pack_set_get(&v->named, id) ? 0 : nf_fail(-ENOMEM);
}

int nf_named_add(struct nf_vault *v, const struct nf_pack_id *id)
{
	if (nf_pack_id_is_zero(id) || nf_ref_is_local(id))
		return 0;
	nf_lock_take(&v->ns);
	int r = nf_named_add_locked(v, id, v->named.nr ? v->named_since_s : v->look_date_s);
	nf_lock_drop(&v->ns);
	return r;
}

struct adding {
	struct nf_vault *v;
	struct nf_pack_id last;
};

static int add(void *ctx, const struct nf_pack_id *id, uint32_t bytes, uint32_t epoch)
{
	struct adding *a = ctx;

	(void)bytes, (void)epoch;
	/* Blocks stand in runs. */
	if (!memcmp(id, &a->last, sizeof *id))
		return 0;
	a->last = *id;
	return nf_named_add(a->v, id);
}

/* Of an inner node its children, of a leaf what its values name. */
int nf_named_add_node(struct nf_vault *v, unsigned level, const void *plain, size_t len)
{
	struct nf_rd rd = nf_rd_of(plain, len);
	struct adding a = { .v = v };
	uint8_t raw[NF_KEY_ENCODED];
	struct nf_key key;
	int r = 0;

	(void)nf_rd_u16(&rd); /* level, zero */
	for (unsigned nr = nf_rd_u16(&rd); r == 0 && nr > 0 && !rd.bad; nr--) {
		nf_rd_copy(&rd, raw, sizeof raw);
		nf_key_decode(raw, &key);
		if (level) {
			struct nf_ref ref;
			nf_ref_decode(&rd, NULL, &ref);
			r = add(&a, &ref.pack, 0, 0);
		} else {
			struct nf_val val = { 0 };
			val.p = nf_rd_str16(&rd, &val.len);
			r = rd.bad ? 0 : nf_item_packs(&v->src, &key, &val, add, &a);
			/* A neighbour that is damaged holds up nobody. */
			r = nf_is_damage(r) ? 0 : r;
		}
	}
	return r < 0 ? r : nf_rd_error(&rd, true);
}

/* --- after a restart ------------------------------------------------------------------- */

static int differs(void *ctx, const struct nf_key *key, const struct nf_val *old, const struct nf_val *now)
{
	struct adding *a = ctx;

	(void)old;
	return now ? nf_item_packs(&a->v->src, key, now, add, a) : 0;
}

/* With the packs of what is below it: one that is gone cannot be opened itself. */
static int opened(void *ctx, const struct nf_ref *ref, bool is_old)
{
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;
	struct adding *a = ctx;

	int r = is_old ? 0 : add(a, &ref->pack, 0, 0);
	if (r < 0 || is_old || !ref->level)
		return r;
	r = nf_source_get(&a->v->src, ref, NULL, NULL, &node);
	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		struct nf_ref child;
		nf_node_child(node, i, &child);
		r = add(a, &child.pack, 0, 0);
	}
	return r;
}

/* A tree was put from OLD to NOW. */
static int placed_tree(struct adding *a, const struct nf_ref *old, const struct nf_ref *now)
{
	if (nf_ref_is_null(now) || nf_ref_equal(old, now))
		return 0;
	int r = add(a, &now->pack, 0, 0);
	if (r == 0)
		r = nf_tree_diff_nodes(&a->v->src, old, now, differs, opened, a);
	/* What of it is gone will be found so. */
	return nf_is_damage(r) ? 0 : r;
}

static int placed_snapshots(struct adding *a, const struct nf_val *old, const struct nf_val *now)
{
	struct nf_snapshot_entry x, y;
	size_t pos = 0;
	int r;

	while ((r = nf_snapshot_iter(now->p, now->len, &now->self, &pos, &x)) == 0) {
		size_t old_pos = 0;
		while (r == 0 && (r = nf_snapshot_iter(old->p, old->len, &old->self, &old_pos, &y)) == 0)
			if (!memcmp(x.rand, y.rand, sizeof x.rand))
				r = placed_tree(a, &y.root, &x.root);
		if (r < 0)
			break;
	}
	return NF_MIN(r, 0);
}

/* Of the newest tree: trees and deltas that were put elsewhere, too. */
static int newest_differs(void *ctx, const struct nf_key *key, const struct nf_val *old, const struct nf_val *now)
{
	struct adding *a = ctx;
	struct nf_delta_item d;
	struct nf_root_item i;
	int r;

	if (now && key->type == NF_ITEM_DELTA) {
		r = nf_delta_item_decode(now->p, now->len, &now->self, &d);
		return r < 0 ? r : add(a, &d.delta.pack, 0, 0);
	}
	if (now && key->type == NF_ITEM_ROOT) {
		r = nf_root_decode(now->p, now->len, &now->self, &i);
		return r < 0 ? r : placed_tree(a, &i.root, nf_root_now(&i));
	}
	if (old && now && key->type == NF_ITEM_SNAPSHOT)
		return placed_snapshots(a, old, now);
	return differs(ctx, key, old, now);
}

static int walked_item(void *ctx, const struct nf_key *key, const struct nf_val *val) { return newest_differs(ctx, key, NULL, val); }

static int walked_node(void *ctx, const struct nf_ref *ref) { return opened(ctx, ref, false); }

/* E was sent before this mount began, so what its head names, and since when, is not known any more: its delta, and whatever
 * the leaf has that its base has not, are asked for. */
static int add_sent_before(struct nf_vault *v, const struct nf_head *leaf, const struct nf_epoch *e)
{
	struct adding a = { .v = v };

	nf_lock_take(&v->ns);
	bool known = nf_ref_is_null(&e->delta) || nf_pack_set_find(&v->named, &e->delta.pack);
	int r = known ? 0 : nf_named_add_locked(v, &e->delta.pack, 0);
	nf_lock_drop(&v->ns);
	if (known || r < 0 || nf_ref_is_null(&e->base_root))
		return r;
	r = nf_tree_diff_nodes(&v->src, &e->base_root, &leaf->root, newest_differs, opened, &a);
	if (nf_is_damage(r))
		r = nf_tree_walk(&v->src, &leaf->root, walked_item, walked_node, &a);
	/* What cannot be read now is no reason to hold up what can: `check` names it. */
	return nf_is_damage(r) ? 0 : r;
}

/* --- the check ------------------------------------------------------------------------- */

int nf_gc_pack_exists(struct nf_vault *v, const struct nf_pack_id *id)
{
	struct nf_store_op op = { .verb = NF_STORE_STAT };

	nf_pack_name(id, op.name);
	int r = nf_store_run(v->store, &op);
	nf_store_op_deinit(&op);
	return r == -NF_E_STORE_NOT_FOUND ? 0 : r < 0 ? r : 1;
}

static int note_bad(struct nf_pack_set *bad, const struct nf_pack_id *id)
{
	return nf_pack_set_get(bad, id) ? 0 : nf_fail(-ENOMEM);
}

/* Only this thread takes packs out of the set, and packs that come meanwhile belong to a later dot. */
static int find_bad(struct nf_vault *v, const struct nf_head *leaf, int64_t date_s, struct nf_pack_set *bad)
{
	struct nf_pack_set condemned = NF_PACK_SET_INIT;
	bool ask = v->named_since_s == 0 || date_s == 0 || date_s - v->named_since_s > TRUST_S;

	int r = nf_gc_condemned(&v->src, &leaf->root, &condemned);
	nf_lock_take(&v->ns);
	struct nf_pack_entry *e = nf_pack_set_first(&v->named);
	while (r == 0 && e) {
		nf_lock_drop(&v->ns);
		if (nf_pack_set_find(&condemned, &e->id))
			r = note_bad(bad, &e->id);
		else if (ask && (r = nf_gc_pack_exists(v, &e->id)) == 0)
			r = note_bad(bad, &e->id);
		r = NF_MIN(r, 0);
		nf_lock_take(&v->ns);
		e = nf_pack_set_next(e);
	}
	nf_lock_drop(&v->ns);
	nf_pack_set_deinit(&condemned);
	return r;
}

/* What was seen to be bad need not be asked for again. */
static void forget_bad(struct nf_vault *v, const struct nf_pack_set *bad)
{
	nf_lock_take(&v->ns);
	for (struct nf_pack_entry *b = nf_pack_set_first(bad); b; b = nf_pack_set_next(b))
		nf_pack_set_remove(&v->named, &b->id);
	nf_lock_drop(&v->ns);
}

/* Whatever the leaf, or an older tree that it names, has in packs that are not to be used is put elsewhere. */
static int move_bad(struct nf_vault *v, const struct nf_head *leaf, struct nf_pack_set *bad, struct nf_gc_moved *moved)
{
	struct nf_gc g = { .v = v, .leaf = *leaf, .src = v->src };
	struct nf_gc_move m = { .v = v, .src = &v->src, .leaf = &leaf->root, .from = bad, .own = v->unreported,
				.pace = { .stop = &v->stop } };

	int r = nf_gc_items(&g);
	m.roots = g.roots;
	m.nr_roots = g.nr_roots;
	m.deltas = g.deltas;
	m.nr_deltas = g.nr_deltas;
	if (r == 0)
		r = nf_gc_move(&m, moved);
	if (r == 0)
		r = nf_gc_undo(&g, v->unreported, bad, &moved->ops);
	nf_gc_items_deinit(&g);
	return r;
}

int nf_named_check(struct nf_vault *v, const struct nf_head *leaf, int64_t date_s)
{
	struct nf_pack_set bad = NF_PACK_SET_INIT;
	struct nf_gc_moved moved = { 0 };

	int r = 0;

	for (const struct nf_epoch *e = v->unreported; r == 0 && e; e = e->next)
		r = add_sent_before(v, leaf, e);
	if (r == 0)
		r = find_bad(v, leaf, date_s, &bad);
	if (r == 0 && bad.nr)
		r = nf_recover_unreported_ops(v);
	if (r == 0 && bad.nr) {
		r = move_bad(v, leaf, &bad, &moved);
		nf_trace(COMMIT, "packs condemned or gone=%zu moved blocks=%" PRIu64 " nodes=%" PRIu64 " lost=%" PRIu64
			 " err=%s", bad.nr, moved.blocks, moved.nodes, moved.lost, nf_error_name(r));
		if (r == 0)
			forget_bad(v, &bad);
	}
	nf_pack_set_deinit(&bad);
	if (r < 0 || (!moved.ops && !moved.nodes))
		return r;
	/* Nothing up to that dot is reported before it is. */
	nf_lock_take(&v->ns);
	v->holed = leaf->id;
	v->repair_seq = v->current->seq;
	v->want_commit = true;
	nf_lock_drop(&v->ns);
	return 1;
}

/* Packs that went out long ago and that nothing names yet: they are asked for, too. */
static int add_old(struct nf_vault *v) NF_REQUIRES(v->ns)
{
	int r = 0;

	NF_ASSERT(nf_lock_held(&v->ns));
	for (struct nf_pack_entry *e = nf_pack_set_first(&v->sent); r == 0 && e; e = nf_pack_set_next(e))
		if (v->look_date_s - e->mtime_s > TRUST_S)
			r = nf_named_add_locked(v, &e->id, e->mtime_s);
	return r;
}

int nf_named_recheck(struct nf_vault *v, const struct nf_head *leaf)
{
	struct nf_pack_set bad = NF_PACK_SET_INIT;

	nf_lock_take(&v->ns);
	int r = add_old(v);
	bool old = v->named.nr && v->look_date_s - v->named_since_s > TRUST_S;
	int64_t date_s = v->look_date_s;
	nf_lock_drop(&v->ns);
	if (r < 0 || !old)
		return r;
	r = find_bad(v, leaf, date_s, &bad);
	if (r == 0) {
		nf_lock_take(&v->ns);
		/* What the collector copied is named by its operations already: it is put right once they are published. */
		for (struct nf_pack_entry *e = nf_pack_set_first(&bad), *next; e; e = next) {
			next = nf_pack_set_next(e);
			if (!nf_pack_set_find(&v->sent, &e->id))
				nf_pack_set_remove(&bad, &e->id);
		}
		nf_moved_forget(v, &bad);
		nf_lock_drop(&v->ns);
		forget_bad(v, &bad);
	}
	nf_pack_set_deinit(&bad);
	return r;
}

void nf_named_reported(struct nf_vault *v, uint64_t seq)
{
	struct nf_epoch *e;

	nf_lock_take(&v->ns);
	for (struct nf_pack_entry *p = nf_pack_set_first(&v->named), *next; p; p = next) {
		next = nf_pack_set_next(p);
		if (!p->awaited || seq > p->awaited_seq)
			nf_pack_set_remove(&v->named, &p->id);
	}
	if (!v->named.nr)
		v->named_since_s = 0;
	e = v->unreported;
	v->unreported = NULL;
	nf_lock_drop(&v->ns);
	while (e) {
		struct nf_epoch *next = e->next;
		nf_epoch_free(e);
		e = next;
	}
}
