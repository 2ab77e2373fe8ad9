/* vault/merge.c - one tree of several leaves.
 *
 * The base is the leaf with the highest (seq, tag); the deltas that it lacks are replayed on it in
 * the order of (seq of the head that published them, writer, writer seq), which never puts an effect before its cause, each with the conflict mode it
 * carries.  The deltas are found in the other leaves' trees (DELTA items) and heads.  Nothing of the merging machine enters. */
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/gc.h"

#include <inttypes.h>

enum { MERGE_DELTAS_MAX = 100000 };

struct missing {
	struct nf_vector_entry dot;
	struct nf_ref delta;
	uint64_t head_seq;
};

void nf_merged_deinit(struct nf_merged *m)
{
	nf_layer_free(m->layer);
	nf_vector_deinit(&m->vector);
	*m = (struct nf_merged){ 0 };
}

static int delta_item(struct nf_vault *v, const struct nf_head *leaf, struct missing *m)
{
	struct nf_key key = { .type = NF_ITEM_DELTA, .a = m->dot.writer, .b = m->dot.seq };
	struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	struct nf_delta_item item;
	int r;

	if (leaf->writer == m->dot.writer && leaf->writer_seq == m->dot.seq) {
		m->delta = leaf->delta;
		m->head_seq = leaf->id.seq;
		return 0;
	}
	while ((r = nf_tree_lookup(v->nodes, &leaf->root, &key, &w, &val)) == NF_TREE_WANT) {
		r = v->src.load(v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	if (r == 0) {
		r = nf_delta_item_decode(val.p, val.len, &val.self, &item);
		if (r == 0) {
			m->delta = item.delta;
			m->head_seq = item.head_seq;
		}
	}
	nf_val_deinit(&val);
	nf_want_deinit(&w);
	return r;
}

int nf_merge_parted(struct nf_vault *v, const struct nf_head *leaf, const struct nf_vector *lacks, uint64_t *seq)
{
	uint64_t least = UINT64_MAX;

	for (size_t i = 0; i < leaf->vector.nr; i++) {
		const struct nf_vector_entry *e = &leaf->vector.e[i];
		struct missing m = { .dot = { .writer = e->writer, .seq = nf_vector_seq(lacks, e->writer) + 1 } };
		int r = m.dot.seq <= e->seq ? delta_item(v, leaf, &m) : NF_TREE_NONE;
		if (r < 0)
			return r;
		/* Let go, by a collector on this side. */
		if (r == NF_TREE_NONE)
			continue;
		least = NF_MIN(least, m.head_seq);
	}
	*seq = least;
	return least == UINT64_MAX ? NF_TREE_NONE : 0;
}

static int add_missing(struct missing **list, size_t *nr, const struct missing *m)
{
	for (size_t i = 0; i < *nr; i++)
		if ((*list)[i].dot.writer == m->dot.writer && (*list)[i].dot.seq == m->dot.seq)
			return 0;
	if (*nr >= MERGE_DELTAS_MAX)
		return nf_fail(-NF_E_FORMAT_BAD);
	struct missing *p = realloc(*list, (*nr + 1) * sizeof *p);
	if (!p)
		return nf_fail(-ENOMEM);
	p[(*nr)++] = *m;
	*list = p;
	return 0;
}

/* What LEAF contains and BASE does not. */
static int collect(struct nf_vault *v, const struct nf_head *base, const struct nf_head *leaf,
		   struct missing **list, size_t *nr)
{
	for (size_t i = 0; i < leaf->vector.nr; i++) {
		const struct nf_vector_entry *e = &leaf->vector.e[i];
		uint64_t have = nf_vector_seq(&base->vector, e->writer);
		for (uint64_t s = have + 1; s <= e->seq; s++) {
			struct missing m = { .dot = { .writer = e->writer, .seq = s } };
			int r = delta_item(v, leaf, &m);
			if (r == NF_TREE_NONE)
				return nf_fail(-NF_E_TREE_BAD);
			if (r == 0)
				r = add_missing(list, nr, &m);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int by_dot(const void *pa, const void *pb)
{
	const struct missing *a = pa, *b = pb;
	if (a->head_seq != b->head_seq)
		return a->head_seq < b->head_seq ? -1 : 1;
	if (a->dot.writer != b->dot.writer)
		return a->dot.writer < b->dot.writer ? -1 : 1;
	return a->dot.seq < b->dot.seq ? -1 : a->dot.seq > b->dot.seq;
}

struct seeking {
	const struct nf_ref *was;
	struct nf_ref now;
};

static int seek_root(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct seeking *s = ctx;
	struct nf_root_item item;

	(void)key;
	int r = nf_root_decode(val->p, val->len, &val->self, &item);
	if (r < 0 || !nf_ref_equal(&item.root, s->was))
		return r;
	s->now = *nf_root_now(&item);
	return NF_TREE_STOP;
}

int nf_base_now(struct nf_vault *v, const struct nf_ref *tree, struct nf_ref *base)
{
	const struct nf_key from = { .type = NF_ITEM_ROOT }, to = { .type = NF_ITEM_ROOT + 1 };
	struct seeking s = { .was = base };

	int r = nf_gc_range(&v->src, tree, &from, &to, seek_root, &s);
	if (r < 0)
		return r;
	if (r != NF_TREE_STOP || nf_ref_equal(&s.now, base))
		return NF_TREE_NONE;
	*base = s.now;
	return 0;
}

/* Replays the operations of D on the view A has; blocks for missing nodes. */
int nf_replay(struct nf_vault *v, struct nf_apply *a, const void *ops, size_t len,
	      const struct nf_pack_id *self)
{
	struct nf_rd rd = nf_rd_of(ops, len);
	bool sought = false;

	while (nf_rd_left(&rd)) {
		struct nf_op op;
		struct nf_want w = NF_WANT_INIT;
		int r = nf_op_decode(&rd, self, &op);
		if (r < 0)
			return nf_fail(r);
		while ((r = nf_apply(a, &op, &w)) == NF_TREE_WANT) {
			r = v->src.load(v->src.ctx, &w);
			/* What the author saw may stand elsewhere by now. */
			if (nf_is_damage(r) && !sought) {
				sought = true;
				if (nf_base_now(v, &a->view.base, &a->base_root) == 0 ||
				    (!nf_ref_is_null(&v->newest) && nf_base_now(v, &v->newest, &a->base_root) == 0))
					r = 0;
				nf_want_deinit(&w);
			}
			if (r < 0)
				break;
			w.nr = 0;
		}
		nf_want_deinit(&w);
		if (r < 0)
			return nf_fail(r);
	}
	return 0;
}

static int replay_delta(struct nf_vault *v, struct nf_merged *m, const struct missing *mi)
{
	struct nf_seal_id id = { .type = NF_SEAL_DELTA, .birth = mi->dot.seq, .index = mi->dot.writer };
	nf_auto_free void *plain = NULL;
	struct nf_delta d;
	size_t len;

	int r = nf_fetch_blob(v->fetch, &mi->delta, &id, &plain, &len);
	if (r == 0)
		r = nf_delta_decode(plain, len, &mi->delta.pack, &d);
	if (r == 0 && (d.writer != mi->dot.writer || d.seq != mi->dot.seq))
		r = nf_fail(-NF_E_FORMAT_BAD);
	if (r < 0)
		return nf_fail(r);
	struct nf_apply a = {
		.view = { .nodes = v->nodes, .base = m->base->root, .layers = { m->layer } },
		.layer = m->layer, .ring = v->ring, .dot = { d.writer, d.seq }, .host = d.host,
		.base_root = d.base_root, .first_spare = d.first_spare,
	};
	r = nf_replay(v, &a, d.ops, d.ops_len, &mi->delta.pack);
	m->inodes = nf_counter_sum(m->inodes, a.inodes);
	m->bytes = nf_counter_sum(m->bytes, a.bytes);
	m->conflicts += a.conflicts;
	nf_apply_deinit(&a);
	nf_trace(COMMIT, "merge dot=%u.%" PRIu64 " ops=%u conflicts=%" PRIu64, d.writer, d.seq, d.nr_ops,
		 a.conflicts);
	if (r < 0)
		return r;
	struct nf_key key = { .type = NF_ITEM_DELTA, .a = d.writer, .b = d.seq };
	struct nf_delta_item item = { .delta = mi->delta, .time_s = d.time.tv_sec,
				      .head_seq = mi->head_seq };
	struct nf_buf b = NF_BUF_INIT;
	nf_delta_item_encode(&b, &item);
	r = nf_buf_error(&b);
	if (r == 0)
		r = nf_layer_put(m->layer, &key, b.p, b.len);
	nf_buf_deinit(&b);
	return r;
}

int nf_merge(struct nf_vault *v, const struct nf_head *const *leaves, size_t nr, struct nf_merged *out)
{
	struct nf_merged m = { .base = leaves[nr - 1] };
	nf_auto_free struct missing *list = NULL;
	size_t nr_missing = 0;

	int r = nf_vector_copy(&m.vector, &m.base->vector);
	for (size_t i = 0; r == 0 && i + 1 < nr; i++) {
		r = collect(v, m.base, leaves[i], &list, &nr_missing);
		if (r == 0)
			r = nf_vector_join(&m.vector, &leaves[i]->vector);
	}
	if (r == 0 && nr > 1) {
		qsort(list, nr_missing, sizeof *list, by_dot);
		r = nf_layer_new(&m.layer);
	}
	for (size_t i = 0; r == 0 && i < nr_missing; i++)
		r = replay_delta(v, &m, &list[i]);
	if (r == 0 && nr > 1)
		r = nf_merge_roots(v, &m, leaves, nr, nr_missing ? list[0].head_seq : UINT64_MAX);
	if (r < 0) {
		nf_merged_deinit(&m);
		return nf_fail(r);
	}
	*out = m;
	return 0;
}
