/* vault/split.c - a current epoch that has grown too large for one delta, in two.
 *
 * While a frozen epoch cannot go out (no connection, a slow one) the current one takes everything.  A delta is one object
 * of limited size, so a cut takes only the first of its operations; they are a state that was, like those before any
 * cut.  Files and their groups are not touched: what is still to come belongs to the second part.
 *
 *     current  n     [ a b c d e f ]            journal   O(n: a..f)
 *     frozen   n     [ a b c ]                            M(split n at 3)
 *     current  n + 1 [ d e f ]                            O(n + 1, new form: d..f) */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/commit.h"
#include "vault/split.h"
#include "vault/squash.h"

#include <inttypes.h>

void nf_part_deinit(struct nf_part *p)
{
	nf_epoch_free(p->e);
	nf_apply_deinit(&p->a);
}

int nf_part_init(struct nf_vault *v, struct nf_part *p, const struct nf_epoch *old, uint64_t seq, const struct nf_ref *root,
		 const struct nf_layer *below)
{
	int r = nf_epoch_new(seq, &old->base_root, &p->e);

	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	p->e->first_segment = old->first_segment;
	p->e->min_segment = old->min_segment;
	p->e->oldest_ns = old->oldest_ns;
	nf_lock_drop(&v->ns);
	p->a = (struct nf_apply){
		.view = { .nodes = v->nodes, .base = *root, .layers = { p->e->layer, below } },
		.layer = p->e->layer, .ring = v->ring, .dot = { v->writer, seq }, .host = v->host,
		.base_root = old->base_root, .base_layer = below, .out = &p->e->ops,
	};
	return 0;
}

int nf_part_end(struct nf_part *p)
{
	p->e->nr_ops = p->a.nr_out;
	p->e->inodes = p->a.inodes;
	p->e->bytes = p->a.bytes;
	return p->a.nr_spared ? nf_fail(-NF_E_TREE_BAD) : 0;
}

size_t nf_part_first(const struct nf_epoch *e, size_t max_bytes, uint32_t *nr)
{
	size_t upto = 0;
	struct nf_rd rd = nf_rd_of(e->ops.p, e->ops.len);
	struct nf_op op;

	*nr = 0;
	if (e->reset || e->resetting || e->new_base)
		return 0;
	while (nf_rd_left(&rd) && nf_op_decode(&rd, NULL, &op) == 0) {
		size_t end = (size_t)(rd.p - e->ops.p);
		if (end > e->journaled_bytes || (end > max_bytes && upto))
			break;
		upto = end;
		++*nr;
	}
	return upto;
}

int nf_part_replay(struct nf_vault *v, struct nf_apply *a, size_t from, size_t to)
{
	nf_auto_free uint8_t *copy = malloc(to - from + 1);

	if (!copy)
		return nf_fail(-ENOMEM);
	nf_lock_take(&v->ns);
	memcpy(copy, v->current->ops.p + from, to - from);
	nf_lock_drop(&v->ns);
	return nf_replay(v, a, copy, to - from, NULL);
}

int nf_part_tail(struct nf_vault *v, struct nf_apply *a, size_t *upto)
{
	size_t at = *upto;
	struct nf_want w = NF_WANT_INIT;
	int r = 0;

	while (r == 0 && at < v->current->ops.len) {
		struct nf_rd rd = nf_rd_of(v->current->ops.p + at, v->current->ops.len - at);
		const uint8_t *from = rd.p;
		struct nf_op op;
		w.nr = 0;
		r = nf_op_decode(&rd, NULL, &op);
		if (r == 0)
			r = nf_apply(a, &op, &w);
		if (r == 0) {
			at += (size_t)(rd.p - from);
		} else if (r == NF_TREE_WANT) {
			nf_lock_drop(&v->ns);
			r = v->src.load(v->src.ctx, &w);
			nf_lock_take(&v->ns);
		}
	}
	nf_want_deinit(&w);
	*upto = at;
	return r;
}

void nf_part_follow(struct nf_vault *v, uint64_t from, uint64_t to)
{
	/* Who waits for the old epoch waits for all that came of it. */
	if (v->split_to != from)
		v->split_from = from;
	v->split_to = to;
}

static void exchange(struct nf_vault *v, struct nf_part *lo, struct nf_part *hi, uint32_t nr)
{
	struct nf_epoch *old = v->current;

	/* What came meanwhile may name blocks of older segments. */
	hi->e->min_segment = NF_MIN(hi->e->min_segment, old->min_segment);
	lo->e->journaled_bytes = lo->e->ops.len;
	lo->e->split_at = nr;
	hi->e->reset = true;
	nf_part_follow(v, old->seq, hi->e->seq);
	nf_trace(COMMIT, "split seq=%" PRIu64 " ops=%u and %u", old->seq, lo->e->nr_ops, hi->e->nr_ops);
	v->frozen = nf_steal(&lo->e);
	v->current = nf_steal(&hi->e);
	nf_epoch_free(old);
}

int nf_split(struct nf_vault *v, size_t max_bytes)
{
	struct nf_part lo = { 0 }, hi = { 0 };
	uint32_t nr = 0;

	NF_ASSERT(!v->frozen);
	int r = nf_vault_journal(v, false);
	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	while (v->journaling)
		nf_cond_wait(&v->changed, &v->ns);
	v->journaling = true;
	size_t upto = nf_part_first(v->current, max_bytes, &nr), len = v->current->ops.len;
	if (!upto || upto == len)
		r = nf_fail(-EAGAIN);
	nf_lock_drop(&v->ns);
	if (r == 0)
		r = nf_part_init(v, &lo, v->current, v->current->seq, &v->base.root, NULL);
	if (r == 0)
		r = nf_part_init(v, &hi, v->current, v->current->seq + 1, &v->base.root, lo.e->layer);
	if (r == 0)
		r = nf_part_replay(v, &lo.a, 0, upto);
	if (r == 0)
		r = nf_part_replay(v, &hi.a, upto, len);
	nf_lock_take(&v->ns);
	if (r == 0)
		r = nf_part_tail(v, &hi.a, &len);
	if (r == 0)
		r = nf_part_end(&lo);
	if (r == 0)
		r = nf_part_end(&hi);
	if (r == 0)
		exchange(v, &lo, &hi, nr);
	v->journaling = false;
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
	nf_part_deinit(&lo);
	nf_part_deinit(&hi);
	return r;
}

/* --- the same in less --------------------------------------------------------------- */

static int inode_now(void *ctx, uint64_t ino, struct nf_inode_item *out)
{
	struct nf_vault *v = ctx;
	struct nf_key key = nf_key_inode(ino);
	const void *p;
	size_t len;

	nf_lock_take(&v->ns);
	int r = nf_layer_get(v->current->layer, &key, &p, &len);
	if (r == 0)
		r = nf_inode_decode(p, len, out);
	nf_lock_drop(&v->ns);
	return r > 0 ? NF_TREE_NONE : r;
}

/* The first LEN bytes of the current epoch's operations are told by Q instead; what came meanwhile stays behind them. */
static int take_squashed(struct nf_vault *v, struct nf_squash *q, size_t len, uint64_t first_segment)
{
	struct nf_epoch *e = v->current;

	NF_ASSERT(nf_lock_held(&v->ns));
	nf_buf_bytes(&q->out, e->ops.p + len, e->ops.len - len);
	int r = nf_buf_error(&q->out);
	if (r < 0)
		return r;
	nf_trace(COMMIT, "squash seq=%" PRIu64 " ops=%u to %u bytes=%zu to %zu", e->seq, q->nr_in, q->nr_out, e->ops.len,
		 q->out.len);
	nf_buf_deinit(&e->ops);
	e->ops = q->out;
	q->out = (struct nf_buf)NF_BUF_INIT;
	e->nr_ops = e->nr_ops - q->nr_in + q->nr_out;
	e->journaled_bytes = 0;
	e->reset = true;
	e->squashed_bytes = e->ops.len;
	uint64_t lowest = nf_epoch_lowest_segment(e);
	/* Nothing was left of what held the older ones; the new form is written from this segment on. */
	e->min_segment = lowest;
	e->first_segment = first_segment;
	return 0;
}

int nf_squash_current(struct nf_vault *v)
{
	struct nf_squash q = { .inode = inode_now, .ctx = v };
	uint64_t segment;

	int r = nf_vault_journal(v, false);
	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	while (v->journaling)
		nf_cond_wait(&v->changed, &v->ns);
	struct nf_epoch *e = v->current;
	if (e->reset || e->resetting || e->new_base || e->split_at || !e->ops.len) {
		nf_lock_drop(&v->ns);
		return 0;
	}
	v->journaling = true;
	nf_auto_free uint8_t *copy = malloc(e->ops.len);
	q.ops = copy;
	q.len = e->ops.len;
	if (copy)
		memcpy(copy, e->ops.p, e->ops.len);
	e->squashed_bytes = e->ops.len;
	nf_lock_drop(&v->ns);
	r = copy ? nf_squash(&q) : nf_fail(-ENOMEM);
	/* Writing it anew costs as much again: only where that is little beside what goes. */
	bool less = r == 0 && q.out.len < q.len / 4 * 3;
	if (less)
		r = nf_journal_rotate(v->journal, &segment);
	nf_lock_take(&v->ns);
	if (r == 0 && less)
		r = take_squashed(v, &q, q.len, segment);
	v->journaling = false;
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
	nf_buf_deinit(&q.out);
	return r < 0 ? r : less;
}
