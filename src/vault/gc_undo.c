/* vault/gc_undo.c - operations of our collector that name packs which were taken away are taken back.
 *
 * A pack is sent before an operation names it, and an operation may be published long after: this machine was off, or alone.
 * Until then another collector takes the pack for a leftover.  What was copied is in no journal, but where it was copied from
 * is named by the operation, and was needed as long as nobody saw that.
 *
 *      RESEAL  new seals, old seals      -->  RESEAL  old seals, new seals
 *      PLACE   a tree, a delta: old, new -->  PLACE   new, old
 *      MOVE                                   has the same seals: found in other trees (gc_plan.c)
 *
 * As these are operations like any other, what was written since stays. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/gc.h"
#include "vault/node.h"

struct undo {
	const struct nf_gc *g;
	struct nf_vault *v;
	const struct nf_pack_set *bad;
	uint64_t *ops;
};

/* Something in the pack could not be read, not even from our cache. */
static bool is_lost(const struct undo *u, const struct nf_pack_id *pack)
{
	const struct nf_pack_entry *e = nf_pack_set_find(u->bad, pack);

	return e && e->lost;
}

static int do_op(const struct undo *u, const struct nf_op *op)
{
	int r = nf_vault_do_waiting(u->v, op);

	*u->ops += r == 0;
	return r;
}

/* Whoever reports what we say now looks whether it is still there.  1: it is not. */
static int watch(const struct undo *u, const struct nf_pack_id *pack)
{
	int there = nf_gc_pack_exists(u->v, pack);

	if (there <= 0)
		return there < 0 ? there : 1;
	nf_lock_take(&u->v->ns);
	int r = nf_named_add_locked(u->v, pack, 0);
	nf_lock_drop(&u->v->ns);
	return r;
}

/* --- blocks --------------------------------------------------------------------------- */

/* Calls FN for the pack of each block that the windows name, until it returns something. */
static int each_pack(const struct undo *u, const uint8_t *windows, size_t windows_len,
		     int (*fn)(const struct undo *u, const struct nf_pack_id *pack))
{
	const struct nf_op op = { .windows = windows, .windows_len = windows_len };
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	const uint8_t *value;
	uint64_t first;
	size_t len, at = 0;
	int r = 0;

	while (r == 0 && nf_op_window_iter(&op, &at, &first, &value, &len) == 0) {
		r = nf_extent_decode(value, len, NULL, 1u << NF_BLOCK_SHIFT_MAX, refs, NULL);
		for (int b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++)
			if (refs[b].sealed_len)
				r = fn(u, &refs[b].pack);
	}
	return r;
}

static int lost_one(const struct undo *u, const struct nf_pack_id *pack) { return is_lost(u, pack); }

static int undo_reseal(const struct undo *u, const struct nf_op *op)
{
	struct nf_op back = *op;

	int r = each_pack(u, op->windows, op->windows_len, lost_one);
	if (r <= 0)
		return r;
	back.time = nf_clock_real();
	back.windows = op->olds;
	back.windows_len = op->olds_len;
	back.olds = op->windows;
	back.olds_len = op->windows_len;
	r = each_pack(u, back.windows, back.windows_len, watch);
	if (r)
		return NF_MIN(r, 0);
	return do_op(u, &back);
}

/* --- trees and deltas -------------------------------------------------------------------- */

/* Is it P that says where its item's tree, or delta, stands now? */
static bool is_now(const struct nf_gc *g, const struct nf_place *p)
{
	for (size_t i = 0; p->key.type == NF_ITEM_DELTA && i < g->nr_deltas; i++)
		if (!nf_key_cmp(&g->deltas[i].key, &p->key))
			return nf_ref_equal(&g->deltas[i].delta, &p->now);
	for (size_t i = 0; p->key.type != NF_ITEM_DELTA && i < g->nr_roots; i++)
		if (!nf_key_cmp(&g->roots[i].key, &p->key) && nf_ref_equal(&g->roots[i].root, &p->now) &&
		    (p->key.type != NF_ITEM_SNAPSHOT || !memcmp(g->roots[i].rand, p->rand, sizeof p->rand)))
			return true;
	return false;
}

static int pack_lost(void *ctx, const struct nf_pack_id *pack, uint32_t bytes, uint32_t epoch)
{
	(void)bytes, (void)epoch;
	return is_lost(ctx, pack) ? nf_fail(-NF_E_PACK_MISSING) : 0;
}

static int differs(void *ctx, const struct nf_key *key, const struct nf_val *old, const struct nf_val *now)
{
	const struct undo *u = ctx;

	(void)old;
	return now ? nf_item_packs(&u->v->src, key, now, pack_lost, ctx) : 0;
}

static int opened(void *ctx, const struct nf_ref *ref, bool is_old) { return is_old ? 0 : pack_lost(ctx, &ref->pack, 0, 0); }

/* 1: of what stands for P's old tree, or old delta, something cannot be read. */
static int is_broken(struct undo *u, const struct nf_place *p)
{
	if (p->key.type == NF_ITEM_DELTA)
		return is_lost(u, &p->now.pack);
	int r = nf_tree_diff_nodes(&u->v->src, &p->old, &p->now, differs, opened, u);
	return nf_is_damage(r) ? 1 : r;
}

static void turn(const struct nf_place *p, struct nf_buf *out, uint32_t *nr)
{
	struct nf_place back = *p;

	back.old = p->now;
	back.now = p->old;
	nf_place_encode(out, &back);
	++*nr;
}

static int undo_place(struct undo *u, const struct nf_op *op)
{
	nf_auto(nf_buf_deinit) struct nf_buf places = NF_BUF_INIT;
	struct nf_op back = *op;
	int r = 0;

	back.nr_places = 0;
	for (uint32_t i = 0; r == 0 && i < op->nr_places; i++) {
		struct nf_place p;
		nf_op_place(op, i, &p);
		r = is_now(u->g, &p) ? is_broken(u, &p) : 0;
		if (r <= 0)
			continue;
		r = watch(u, &p.old.pack);
		if (r > 0)
			r = 0; /* neither is there */
		else if (r == 0)
			turn(&p, &places, &back.nr_places);
	}
	if (r == 0)
		r = nf_buf_error(&places);
	if (r < 0 || !back.nr_places)
		return r;
	back.time = nf_clock_real();
	back.places = places.p;
	return do_op(u, &back);
}

int nf_gc_undo(const struct nf_gc *g, const struct nf_epoch *own, const struct nf_pack_set *bad, uint64_t *ops)
{
	struct undo u = { g, g->v, bad, ops };
	int r = 0;

	for (; r == 0 && own; own = own->next) {
		struct nf_rd rd = nf_rd_of(own->ops.p, own->ops.len);
		while (r == 0 && nf_rd_left(&rd)) {
			struct nf_op op;
			r = nf_op_decode(&rd, NULL, &op);
			if (r == 0 && op.kind == NF_OP_RESEAL)
				r = undo_reseal(&u, &op);
			if (r == 0 && op.kind == NF_OP_PLACE)
				r = undo_place(&u, &op);
		}
	}
	return r;
}
