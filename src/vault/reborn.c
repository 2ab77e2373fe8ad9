/* vault/reborn.c - a device that was restored or copied becomes a writer of its own (docs/internals/protocol.md, R12).
 *
 *	state file    old writer, old base                                     | new writer, new base
 *	journal       O(old) ...                claim(new) ...   O(new), synced | ...
 *	store                                   head with the claim            |
 *	                                                                       +-- one replaced file: from here on it is done
 *
 * Whatever ends it before, the next mount finds the old writer and what that had not sent, finds itself copied again and takes
 * yet another prefix: records of the one that was given up are passed over.  So until then nothing of the state file is written
 * and no segment goes (v->renewing).
 *
 * What was not sent, in order, is told apart by what the store has under the old name (unsent.h).  The rest is replayed on the newest
 * tree as an epoch whose base moved: each operation beside what its author saw, which is the tree it was made on with what was done
 * before it.  Blocks stay where they are, in old segments, until the epoch is on the server.
 *
 * Dots that the base contains and that nobody reported stay in v->unreported: the claim is reported with them (G4). */
#include "vault/reborn.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/gc.h"
#include "vault/recover.h"
#include "vault/shelf.h"
#include "vault/unsent.h"

#include <inttypes.h>

/* Operations that were made one after the other on one tree. */
struct dot {
	struct nf_ref base_root;
	const struct nf_layer *below; /* the epoch below it, over base_root; NULL: none */
	struct nf_layer *seen;        /* `below` and what of the dot is in; NULL: as `below` */
	size_t from, to;              /* of the operations */
};

struct reborn {
	struct nf_vault *v;
	struct nf_epoch *frozen, *current; /* the old writer's */
	struct nf_unsent unsent;
	struct dot *dots;
	size_t nr;
	uint64_t spare;                    /* an inode number that the old writer has not given */
};

static void reborn_deinit(struct reborn *rb)
{
	for (size_t i = 0; i < rb->nr; i++)
		nf_layer_free(rb->dots[i].seen);
	free(rb->dots);
	nf_unsent_deinit(&rb->unsent);
	nf_epoch_free(rb->frozen);
	nf_epoch_free(rb->current);
}

static uint64_t number(void *vault)
{
	struct nf_vault *v = vault;

	nf_lock_take(&v->ns);
	uint64_t ino = nf_vault_new_ino(v);
	nf_lock_drop(&v->ns);
	return ino;
}

/* --- what was not sent ----------------------------------------------------------------- */

static int add_dot(struct reborn *rb, uint64_t seq, const struct nf_ref *base_root, const struct nf_layer *below,
		   const void *ops, size_t len)
{
	struct nf_unsent *u = &rb->unsent;
	struct dot *all = realloc(rb->dots, (rb->nr + 1) * sizeof *all);

	if (!all)
		return nf_fail(-ENOMEM);
	rb->dots = all;
	rb->dots[rb->nr++] = (struct dot){ .base_root = *base_root, .below = below, .from = u->ops.len, .to = u->ops.len + len };
	u->first_seq = NF_MIN(u->first_seq, seq);
	nf_buf_bytes(&u->ops, ops, len);
	return nf_buf_error(&u->ops);
}

static int add_epoch(struct reborn *rb, const struct nf_epoch *e, const struct nf_layer *below)
{
	return add_dot(rb, e->seq, &e->base_root, below, e->ops.p, e->ops.len);
}

static int add_shelved(struct reborn *rb, const struct nf_shelved *s)
{
	nf_auto_free void *plain = NULL;
	struct nf_delta d;

	if (nf_ref_is_null(&s->ops))
		return rb->frozen ? add_epoch(rb, rb->frozen, NULL) : nf_fail(-NF_E_JOURNAL_BAD);
	int r = nf_shelf_ops(rb->v, s, &plain, &d);
	return r == 0 ? add_dot(rb, s->seq, &s->base, NULL, d.ops, d.ops_len) : r;
}

/* Published by this mount, and the base contained it; oldest first. */
static int add_unreported(struct reborn *rb, const struct nf_epoch *e)
{
	int r = e->next ? add_unreported(rb, e->next) : 0;

	return r == 0 && !e->unread ? add_epoch(rb, e, NULL) : r;
}

static size_t pending_bytes(const struct nf_vault *v)
{
	size_t bytes = v->current->ops.len + (v->frozen ? v->frozen->ops.len : 0);

	for (const struct nf_epoch *e = v->unreported; e; e = e->next)
		bytes += e->unread ? 0 : e->ops.len;
	for (size_t i = 0; i < v->nr_shelf; i++)
		bytes += v->shelf[i].ops_bytes;
	return bytes;
}

/* All of it is read while the old writer's name still opens it. */
static int gather(struct reborn *rb)
{
	struct nf_vault *v = rb->v;
	int r = v->unreported ? add_unreported(rb, v->unreported) : 0;

	for (size_t i = 0; r == 0 && i < v->nr_shelf; i++)
		r = add_shelved(rb, &v->shelf[i]);
	if (r == 0 && !v->nr_shelf && rb->frozen)
		r = add_epoch(rb, rb->frozen, NULL);
	if (r == 0)
		r = add_epoch(rb, rb->current, rb->frozen && !rb->frozen->aside ? rb->frozen->layer : NULL);
	return r == 0 ? nf_unsent_index(&rb->unsent) : r;
}

/* --- what is in -------------------------------------------------------------------------- */

static int met_delta(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_seal_id id = { .type = NF_SEAL_DELTA, .birth = key->b, .index = (uint32_t)key->a };
	struct reborn *rb = ctx;
	nf_auto_free void *plain = NULL;
	struct nf_delta_item item;
	struct nf_delta d;
	size_t len;

	int r = nf_delta_item_decode(val->p, val->len, &val->self, &item);
	if (r == 0)
		r = nf_fetch_blob(rb->v->fetch, &item.delta, &id, &plain, &len);
	if (r == 0)
		r = nf_delta_decode(plain, len, &item.delta.pack, &d);
	if (r == 0)
		r = nf_unsent_published(&rb->unsent, key->b, d.ops, d.ops_len);
	/* What cannot be read is not compared. */
	return nf_is_damage(r) ? 0 : r;
}

static int compare(struct reborn *rb)
{
	struct nf_vault *v = rb->v;
	const struct nf_key from = { .type = NF_ITEM_DELTA, .a = rb->unsent.writer, .b = rb->unsent.first_seq };
	const struct nf_key to = { .type = NF_ITEM_DELTA, .a = (uint64_t)rb->unsent.writer + 1 };

	int r = nf_gc_range(&v->src, &v->base.root, &from, &to, met_delta, rb);
	if (r == 0)
		nf_unsent_judge(&rb->unsent);
	return r;
}

/* --- under the new name ------------------------------------------------------------------ */

static uint64_t number_now(void *unsent, uint64_t ino) { return nf_unsent_number(unsent, ino); }

/* What the author of the rest of D saw: what is in of it was there. */
static int make_seen(struct reborn *rb, struct dot *d, const struct nf_buf *in)
{
	struct nf_vault *v = rb->v;

	if (!in->len)
		return 0;
	int r = nf_layer_new(&d->seen);
	if (r == 0 && d->below)
		r = nf_layer_fold(d->seen, d->below);
	if (r < 0)
		return r;
	struct nf_apply a = {
		.view = { .nodes = v->nodes, .base = d->base_root, .layers = { d->seen } },
		.layer = d->seen, .ring = v->ring, .dot = { rb->unsent.writer, rb->unsent.first_seq }, .host = v->host,
		.base_root = d->base_root, .base_layer = d->below, .first_spare = rb->spare,
	};
	r = nf_replay(v, &a, in->p, in->len, NULL);
	nf_apply_deinit(&a);
	return r;
}

static int split_dot(struct reborn *rb, struct dot *d, struct nf_recovered_form *f)
{
	nf_auto(nf_buf_deinit) struct nf_buf in = NF_BUF_INIT;
	nf_auto(nf_buf_deinit) struct nf_buf rest = NF_BUF_INIT;

	int r = nf_unsent_part(&rb->unsent, d->from, d->to, &in, &rest);
	if (r < 0 || !rest.len)
		return r;
	r = make_seen(rb, d, &in);
	if (r < 0)
		return r;
	f->rec[f->nr++] = (struct nf_recovered_record){ .base_root = d->base_root, .ops = nf_steal(&rest.p), .len = rest.len,
							.base_layer = d->seen ? d->seen : d->below };
	return 0;
}

/* The rest becomes the current epoch, of which the journal has nothing yet. */
static int replay_rest(struct reborn *rb)
{
	struct nf_vault *v = rb->v;
	struct nf_recovered_dot d = { .seq = v->current->seq, .unfinished = true };
	struct nf_epoch *e = NULL;
	int r = 0;

	d.form.rec = calloc(rb->nr + 1, sizeof *d.form.rec);
	if (!d.form.rec)
		return nf_fail(-ENOMEM);
	for (size_t i = 0; r == 0 && i < rb->nr; i++)
		r = split_dot(rb, &rb->dots[i], &d.form);
	if (r == 0 && d.form.nr)
		r = nf_recover_dot(v, &d, NULL, false, &e);
	nf_recovered_form_clear(&d.form);
	if (r < 0 || !e)
		return r;
	nf_lock_take(&v->ns);
	struct nf_epoch *empty = v->current;
	v->current = e;
	nf_lock_drop(&v->ns);
	nf_epoch_free(empty);
	return 0;
}

/* From here on the old writer's dots are this struct's, and the view stands on the newest head alone. */
static int leave(struct reborn *rb, const struct nf_look_result *seen)
{
	struct nf_vault *v = rb->v;
	struct nf_head leaf;

	int r = seen->nr_leaves ? nf_head_copy(&leaf, seen->leaves[seen->nr_leaves - 1]) : nf_fail(-NF_E_HEADER_MISSING);
	if (r < 0)
		return r;
	v->renewing = true;
	nf_lock_take(&v->ns);
	nf_head_deinit(&v->base);
	v->base = leaf;
	v->frozen = NULL;
	v->current = NULL;
	nf_shelf_free(v);
	v->confirmed_seq = v->known_seq = v->repair_seq = 0;
	v->base_seen_ns = 0;
	/* Found anew by the check that the claim waits for. */
	nf_pack_set_deinit(&v->named);
	v->named_since_s = 0;
	nf_lock_drop(&v->ns);
	return 0;
}

static int begin_anew(struct reborn *rb)
{
	struct nf_vault *v = rb->v;

	int r = nf_claim(v);
	/* What was taken away of the old dots is sent again with the claim, if need be: something of it is left. */
	if (r == 0 && (v->frozen || v->current->nr_ops))
		r = nf_fail(-NF_E_STORE_BUSY);
	if (r == 0 && rb->unsent.nr)
		r = compare(rb);
	if (r == 0 && rb->unsent.nr_rest)
		r = replay_rest(rb);
	if (r < 0)
		return r;
	v->birth = (uint64_t)v->writer << 40 | v->next_counter++;
	r = nf_vault_journal(v, true);
	if (r < 0)
		return r;
	v->renewing = false;
	r = nf_remember(v);
	v->renewing = r < 0;
	if (r == 0 && v->state_path && rb->unsent.nr_rest)
		(void)nf_pins_renumber(v, number_now, &rb->unsent); /* a wish: no reason not to mount */
	return r;
}

int nf_reborn(struct nf_vault *v)
{
	struct reborn rb = { .v = v, .unsent = { .writer = v->writer, .first_seq = UINT64_MAX, .number = number, .ctx = v },
			     .spare = (uint64_t)v->writer << 40 | v->next_counter };
	struct nf_look_result seen;

	NF_ASSERT(v->writer && v->current && !v->renewing);
	if (pending_bytes(v) > NF_UNSENT_OPS_MAX_BYTES)
		return nf_fail(-NF_E_WRITER_CLONED);
	int r = nf_commit_look(v, false, &seen);
	rb.frozen = v->frozen;
	rb.current = v->current;
	if (r == 0)
		r = gather(&rb);
	if (r == 0)
		r = leave(&rb, &seen);
	if (r < 0) {
		/* They are the vault's still. */
		rb.frozen = rb.current = NULL;
	} else {
		r = begin_anew(&rb);
	}
	nf_trace(COMMIT, "reborn writer=%u before=%u ops=%u rest=%u err=%s", v->writer, rb.unsent.writer, rb.unsent.nr,
		 rb.unsent.nr_rest, nf_error_name(r));
	reborn_deinit(&rb);
	return r;
}
