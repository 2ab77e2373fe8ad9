/* vault/epoch.c - operations on their way: epochs, and their journal. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/mend.h"
#include "vault/shelf.h"
#include "vault/space.h"

#include <inttypes.h>

int nf_epoch_new(uint64_t seq, const struct nf_ref *base_root, struct nf_epoch **out)
{
	struct nf_epoch *e = calloc(1, sizeof *e);

	if (!e)
		return nf_fail(-ENOMEM);
	e->seq = seq;
	e->base_root = *base_root;
	e->min_segment = UINT64_MAX;
	int r = nf_layer_new(&e->layer);
	if (r < 0) {
		free(e);
		return nf_fail(r);
	}
	*out = e;
	return 0;
}

void nf_epoch_free(struct nf_epoch *e)
{
	if (!e)
		return;
	nf_layer_free(e->layer);
	nf_buf_deinit(&e->ops);
	nf_mend_free(e->mend);
	free(e);
}

const struct nf_ref *nf_vault_root(const struct nf_vault *v)
{
	return v->nr_shelf ? &v->shelf[v->nr_shelf - 1].root : &v->base.root;
}

struct nf_epoch *nf_epoch_below(const struct nf_vault *v)
{
	return v->frozen && !v->frozen->aside ? v->frozen : NULL;
}

struct nf_view nf_vault_view(struct nf_vault *v)
{
	struct nf_view view = { .nodes = v->nodes, .base = *nf_vault_root(v) };
	int n = 0;

	if (v->current)
		view.layers[n++] = v->current->layer;
	if (nf_epoch_below(v))
		view.layers[n++] = v->frozen->layer;
	return view;
}

static const void *base_item(void *ctx, uint64_t ino, size_t *len)
{
	struct nf_vault *v = ctx;
	struct nf_vnode *vn = nf_vnode_find(v, ino);

	if (!vn || vn->base_item.len == 0)
		return NULL;
	*len = vn->base_item.len;
	return vn->base_item.p;
}

struct nf_apply nf_vault_apply(struct nf_vault *v, struct nf_epoch *e, bool frozen)
{
	struct nf_apply a = {
		.view = nf_vault_view(v), .ring = v->ring, .host = v->host, .base_inode = base_item,
		.base_inode_ctx = v,
	};
	if (!e)
		return a;
	a.layer = e->layer;
	a.dot = (struct nf_stamp){ v->writer, e->seq };
	a.base_root = e->base_root;
	if (frozen) {
		a.view.layers[0] = e->layer;
		a.view.layers[1] = NULL;
	} else if (nf_epoch_below(v)) {
		a.base_layer = v->frozen->layer;
	}
	return a;
}

uint64_t nf_vault_new_ino(struct nf_vault *v)
{
	return (uint64_t)v->writer << 40 | v->next_counter++;
}

/* Appends OP to the epoch's list. What is noted goes to the journal and to everyone, so what could not be read again
 * is refused here. */
static int note_op(struct nf_epoch *e, const struct nf_op *op)
{
	size_t from = e->ops.len;
	struct nf_op again;

	nf_op_encode(&e->ops, op);
	int r = nf_buf_error(&e->ops);
	if (r < 0) {
		/* Without memory now; what is there already is whole. */
		e->ops.len = from;
		e->ops.failed = false;
		return r;
	}
	struct nf_rd rd = nf_rd_of(e->ops.p + from, e->ops.len - from);
	r = nf_op_decode(&rd, NULL, &again);
	if (r < 0)
		e->ops.len = from;
	return r;
}

/* The lowest journal segment that OP's blocks are in. */
static uint64_t lowest_segment(const struct nf_op *op, uint32_t block_bytes)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref; /* published: in no segment */
	uint64_t first, low = UINT64_MAX;
	const uint8_t *value;
	size_t len, pos = 0;

	while (nf_op_window_iter(op, &pos, &first, &value, &len) == 0) {
		if (nf_extent_patch_decode(value, len, true, block_bytes, &ref, refs, known) < 0)
			break;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
			if (known[b] && refs[b].sealed_len && nf_ref_is_local(&refs[b].pack))
				low = NF_MIN(low, nf_ref_local_segment(&refs[b].pack));
	}
	return low;
}

uint64_t nf_epoch_lowest_segment(const struct nf_epoch *e)
{
	struct nf_rd rd = nf_rd_of(e->ops.p, e->ops.len);
	uint64_t low = UINT64_MAX;
	struct nf_op op;

	/* Which blocks are full ones does not matter for where they are. */
	while (nf_rd_left(&rd) && nf_op_decode(&rd, NULL, &op) == 0)
		if (op.nr_windows)
			low = NF_MIN(low, lowest_segment(&op, 1u << NF_BLOCK_SHIFT_MAX));
	return low;
}

static int do_op(struct nf_vault *v, struct nf_epoch *e, const struct nf_op *op, struct nf_want *w,
		 bool frozen)
{
	size_t from = e->ops.len;
	bool was_due = nf_shelf_is_due(v);

	int r = note_op(e, op);
	if (r < 0)
		return r;
	struct nf_apply a = nf_vault_apply(v, e, frozen);
	r = nf_apply(&a, op, w);
	if (r == 0) {
		e->inodes = nf_counter_sum(e->inodes, a.inodes);
		e->bytes = nf_counter_sum(e->bytes, a.bytes);
		/* What we make ourselves was checked against this very view. */
		NF_ASSERT(a.nr_redirects == 0);
		e->nr_ops++;
		if (!e->oldest_ns) {
			e->oldest_ns = nf_clock_ns();
			nf_cond_broadcast(&v->changed);
		}
		if (!was_due && nf_shelf_is_due(v))
			nf_cond_broadcast(&v->changed);
	} else {
		e->ops.len = from;
	}
	nf_apply_deinit(&a);
	return r;
}

int nf_vault_do(struct nf_vault *v, const struct nf_op *op, struct nf_want *w)
{
	NF_ASSERT(v->current);
	return do_op(v, v->current, op, w, false);
}

int nf_vault_do_waiting(struct nf_vault *v, const struct nf_op *op)
{
	struct nf_want w = NF_WANT_INIT;
	int r;

	for (;;) {
		nf_lock_take(&v->ns);
		while (v->frozen && v->frozen->undrained && !v->stopping)
			nf_cond_wait(&v->changed, &v->ns);
		r = v->stopping ? nf_fail(-NF_E_CANCELLED) : nf_vault_do(v, op, &w);
		nf_lock_drop(&v->ns);
		if (r != NF_TREE_WANT)
			break;
		r = v->src.load(v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	nf_want_deinit(&w);
	return r;
}

/* The current layer's copy of an inode was made before the cut's data came: the content fields follow. */
static int patch_current(struct nf_vault *v, uint64_t ino)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_inode_item above, below;
	const void *p, *q;
	size_t len, qlen;

	if (nf_layer_get(v->current->layer, &key, &p, &len) != 0 ||
	    nf_layer_get(v->frozen->layer, &key, &q, &qlen) != 0)
		return 0;
	int r = nf_inode_decode(p, len, &above);
	if (r == 0)
		r = nf_inode_decode(q, qlen, &below);
	if (r < 0)
		return nf_fail(r);
	above.flags = below.flags;
	above.size_bytes = below.size_bytes;
	above.stamp = below.stamp;
	above.mtime = below.mtime;
	above.inline_data = below.inline_data;
	above.inline_len = below.inline_len;
	return nf_layer_put_inode(v->current->layer, ino, &above);
}

int nf_vault_do_data(struct nf_vault *v, struct nf_vnode *vn, const struct nf_op *op, bool frozen)
{
	struct nf_epoch *e = frozen ? v->frozen : v->current;
	struct nf_want w = NF_WANT_INIT;
	int r;

	if (vn->orphan) {
		struct nf_apply a = nf_vault_apply(v, v->current, false);
		a.view = nf_vnode_view(vn);
		a.layer = vn->orphan_layer;
		r = nf_apply(&a, op, &w);
		nf_apply_deinit(&a);
	} else {
		r = do_op(v, e, op, &w, frozen);
		if (r == 0)
			e->min_segment = NF_MIN(e->min_segment,
						lowest_segment(op, 1u << vn->block_shift));
		if (r == 0 && frozen && v->current)
			r = patch_current(v, op->ino);
	}
	nf_want_deinit(&w);
	return r;
}

/* --- journal ------------------------------------------------------------------------ */

static bool has_news(const struct nf_epoch *e)
{
	return e && (e->journaled_bytes < e->ops.len || e->reset || e->new_base || e->split_at);
}

/* Takes what E has that the journal does not, or the first part of it: an encoded record in *B. */
static int record_of(uint32_t writer, struct nf_epoch *e, struct nf_buf *b, size_t *upto)
{
	size_t from = e->reset ? 0 : e->journaled_bytes;
	if (e->split_at) {
		*upto = from;
		return nf_journal_encode_split(b, writer, e->seq, e->split_at);
	}
	struct nf_rd rd = nf_rd_of(e->ops.p + from, e->ops.len - from);
	struct nf_op op;
	int r = 0;

	*upto = from;
	while (r == 0 && nf_rd_left(&rd) && *upto - from < NF_JOURNAL_RECORD_BYTES) {
		r = nf_op_decode(&rd, NULL, &op);
		*upto = (size_t)(rd.p - e->ops.p);
	}
	if (r < 0)
		return nf_fail(r);
	unsigned flags = (e->reset ? NF_JOURNAL_RESET : 0) | (e->new_base ? NF_JOURNAL_NEW_BASE : 0);
	if ((e->reset || e->resetting) && *upto < e->ops.len)
		flags |= NF_JOURNAL_UNFINISHED;
	return nf_journal_encode_ops(b, writer, e->seq, &e->base_root, flags, e->ops.p + from, *upto - from);
}

/* The mark of the first shelved dot that the journal does not know of: before any record that comes after it. 1, 0. */
static int journal_shelved(struct nf_vault *v)
{
	struct nf_buf b = NF_BUF_INIT;
	uint64_t seq = 0;
	int r = 0;

	nf_lock_take(&v->ns);
	for (size_t i = 0; i < v->nr_shelf && !seq; i++) {
		if (v->shelf[i].told)
			continue;
		seq = v->shelf[i].seq;
		r = nf_journal_encode_shelved(&b, v->writer, &v->shelf[i]);
	}
	nf_lock_drop(&v->ns);
	if (r == 0 && seq)
		r = nf_journal_record(v->journal, 'M', b.p, b.len);
	nf_buf_deinit(&b);
	if (r < 0 || !seq)
		return r;
	nf_lock_take(&v->ns);
	for (size_t i = 0; i < v->nr_shelf; i++)
		v->shelf[i].told |= v->shelf[i].seq == seq;
	nf_lock_drop(&v->ns);
	return 1;
}

/* One record. 1: there may be more.  What the frozen epoch has goes first, whenever it came: an operation of the
 * current one may rest on it, as a rename rests on the data of the file. */
static int journal_some(struct nf_vault *v)
{
	struct nf_buf b = NF_BUF_INIT;
	size_t upto = 0;

	int marked = journal_shelved(v);
	if (marked)
		return marked;
	nf_lock_take(&v->ns);
	struct nf_epoch *e = has_news(v->frozen) ? v->frozen : has_news(v->current) ? v->current : NULL;
	uint64_t seq = e ? e->seq : 0;
	bool split = e && e->split_at;
	int r = e ? record_of(v->writer, e, &b, &upto) : 0;
	nf_lock_drop(&v->ns);
	if (r == 0 && b.len)
		r = nf_journal_record(v->journal, split ? 'M' : 'O', b.p, b.len);
	if (r == 0 && b.len) {
		nf_lock_take(&v->ns);
		/* The cut may have moved it meanwhile. */
		e = v->frozen && v->frozen->seq == seq ? v->frozen : v->current;
		if (e && e->seq == seq && split) {
			e->split_at = 0;
		} else if (e && e->seq == seq) {
			e->resetting = (e->reset || e->resetting) && upto < e->ops.len;
			e->journaled_bytes = upto;
			e->reset = e->new_base = false;
		}
		nf_space_note(v);
		nf_lock_drop(&v->ns);
		r = 1;
	}
	nf_buf_deinit(&b);
	return r;
}

int nf_vault_journal(struct nf_vault *v, bool sync)
{
	if (!v->journal)
		return 0;
	nf_lock_take(&v->ns);
	while (v->journaling)
		nf_cond_wait(&v->changed, &v->ns);
	v->journaling = true;
	nf_lock_drop(&v->ns);
	int r;
	while ((r = journal_some(v)) == 1)
		;
	nf_lock_take(&v->ns);
	v->journaling = false;
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
	/* Without the server they are replayed on nodes that the cache must still have then. */
	if (r == 0 && sync && v->cache)
		nf_cache_sync(v->cache);
	if (r == 0 && sync)
		r = nf_journal_sync(v->journal);
	return r;
}
