/* vault/publish.c - from an epoch (or several leaves) to packs and a head.
 *
 *      blocks of the layer --> data packs --> confirmed
 *      operations          --> delta      \
 *      layer + tree        --> nodes      --> metadata pack --> confirmed
 *      root, delta, vector --> head       --> read back
 *
 * Whatever names a pack is sealed only after that pack is confirmed; inside the metadata pack references say
 * "this pack". */
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/commit.h"
#include "vault/mend.h"
#include "vault/upload.h"

#include <inttypes.h>

enum {
	SPREAD_MAX = 12,            /* packs that the children of one node may lie in */
	SPREAD_BUDGET = 256,        /* nodes rewritten for that in one commit */
	RETAIN_COMMITS = 1000,
	SIZES_MAX = 8,              /* times that a server may refuse the size of one commit's packs */
};

/* --- data -------------------------------------------------------------------------------------- */

/* The block size of the file that EXTENT items of INO belong to. */
static int block_bytes_of(struct nf_vault *v, const struct nf_view *view, uint64_t ino, uint32_t *out)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	int r;

	while ((r = nf_view_lookup(view, &key, &w, &val)) == NF_TREE_WANT) {
		r = v->src.load(v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	if (r == 0) {
		r = nf_inode_decode(val.p, val.len, &item);
		if (r == 0)
			*out = 1u << item.block_shift;
	}
	nf_val_deinit(&val);
	nf_want_deinit(&w);
	return r;
}

/* Brings every local block that the layer names to the server.  LAYER does not change while we read it: it is
 * frozen and drained, or ours. */
static int upload_blocks(struct nf_vault *v, const struct nf_change *c, size_t nr, const struct nf_view *view)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref published;
	uint64_t ino = 0, total = 0;
	uint32_t bs = 0;
	int r = 0;

	nf_upload_begin(v, true);
	for (int pass = 0; r == 0 && pass < 2; pass++) {
		for (size_t i = 0; r == 0 && i < nr; i++) {
			if (c[i].key.type != NF_ITEM_EXTENT || !c[i].value)
				continue;
			if (c[i].key.ino != ino)
				r = block_bytes_of(v, view, c[i].key.ino, &bs);
			if (r == NF_TREE_NONE)
				r = nf_fail(-NF_E_TREE_BAD);
			ino = c[i].key.ino;
			if (r == 0)
				r = nf_extent_patch_decode(c[i].value, c[i].len, false, bs, &published, refs, known);
			for (int b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++) {
				if (!known[b] || !refs[b].sealed_len || !nf_ref_is_local(&refs[b].pack))
					continue;
				if (pass == 0)
					total += refs[b].sealed_len;
				else
					r = nf_upload_add(v, &refs[b], false);
			}
		}
		if (pass == 0) {
			nf_lock_take(&v->ns);
			v->upload_done = 0;
			v->upload_total = total;
			nf_lock_drop(&v->ns);
		}
	}
	return nf_upload_end(v, r);
}

/* --- the delta -------------------------------------------------------------------------------------- */

/* Replaces local references by where the blocks went; blocks that did not go anywhere died within the delta. */
static int translate(struct nf_vault *v, struct nf_block_ref refs[NF_WINDOW_BLOCKS],
		     bool known[NF_WINDOW_BLOCKS], bool must)
{
	struct nf_moved m;
	int r;

	for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
		if (!known[b] || !refs[b].sealed_len || !nf_ref_is_local(&refs[b].pack))
			continue;
		r = nf_moved_name(v, &refs[b], &m);
		if (r < 0)
			return r;
		if (r > 0) {
			refs[b].pack = m.pack;
			refs[b].offset_bytes = m.now_bytes;
		} else if (must) {
			return nf_fail(-NF_E_TREE_BAD);
		} else {
			known[b] = false;
		}
	}
	return 0;
}

/* The block size that the windows of a DATA operation are encoded with: the inode's; it is needed only to tell full
 * blocks from short ones. */
static int translate_op(struct nf_vault *v, const struct nf_view *view, struct nf_op *op,
			struct nf_buf *windows)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref;
	uint64_t first;
	const uint8_t *value;
	size_t len, pos = 0;
	uint32_t nr = 0, bs = 1u << v->block_shift;

	int r = block_bytes_of(v, view, op->ino, &bs);
	if (r < 0)
		return r;
	bool gone = r == NF_TREE_NONE; /* removed later in this delta: its blocks are dead */
	windows->len = 0;
	while (!gone && (r = nf_op_window_iter(op, &pos, &first, &value, &len)) == 0) {
		struct nf_buf b = NF_BUF_INIT;
		r = nf_extent_patch_decode(value, len, true, bs, &ref, refs, known);
		bool any = r == 0 && !nf_ref_is_null(&ref.leaf);
		if (r == 0)
			r = translate(v, refs, known, false);
		if (r < 0)
			return nf_fail(r);
		for (int i = 0; i < NF_WINDOW_BLOCKS; i++)
			any |= known[i];
		if (!any)
			continue;
		nf_extent_patch_encode(&b, &ref, refs, known, bs);
		nf_buf_u64(windows, first);
		nf_buf_str16(windows, b.p, b.len);
		nf_buf_deinit(&b);
		nr++;
	}
	if (r < 0)
		return r;
	op->windows = windows->p;
	op->windows_len = windows->len;
	op->nr_windows = nr;
	return nf_buf_error(windows);
}

static int encode_delta(struct nf_vault *v, struct nf_epoch *e, const struct nf_view *view, struct nf_buf *out)
{
	struct nf_buf ops = NF_BUF_INIT, windows = NF_BUF_INIT;
	struct nf_rd rd = nf_rd_of(e->ops.p, e->ops.len);
	int r = 0;

	while (r == 0 && nf_rd_left(&rd)) {
		struct nf_op op;
		r = nf_op_decode(&rd, NULL, &op);
		/* What was sealed again stands in packs already. */
		if (r == 0 && op.nr_windows && op.kind != NF_OP_RESEAL)
			r = translate_op(v, view, &op, &windows);
		if (r == 0)
			nf_op_encode(&ops, &op);
	}
	if (r == 0)
		r = nf_buf_error(&ops);
	if (r == 0) {
		nf_lock_take(&v->ns);
		e->first_spare = (uint64_t)v->writer << 40 | v->next_counter;
		v->next_counter += e->nr_ops;
		nf_lock_drop(&v->ns);
		struct nf_delta d = { .writer = v->writer, .seq = e->seq, .time = nf_clock_real(),
				      .base_root = e->base_root, .first_spare = e->first_spare,
				      .nr_ops = e->nr_ops, .ops = ops.p, .ops_len = ops.len };
		strncpy(d.host, v->host, sizeof d.host - 1);
		nf_delta_encode(out, &d);
		r = nf_buf_error(out);
	}
	nf_buf_deinit(&ops);
	nf_buf_deinit(&windows);
	return r;
}

/* --- the tree ------------------------------------------------------------------------------------------ */

/* A batch with its own memory for values that were made for it. */
struct batch {
	struct nf_change *c;
	size_t nr;
	struct nf_cutout *cuts;
	size_t nr_cuts;
	void **made;
	size_t nr_made;
};

static void batch_deinit(struct batch *b)
{
	for (size_t i = 0; i < b->nr_made; i++)
		free(b->made[i]);
	free(b->made);
	free(b->c);
	free(b->cuts);
}

static int batch_replace(struct batch *b, size_t i, struct nf_buf *value)
{
	int r = nf_buf_error(value);
	void **made = r == 0 ? realloc(b->made, (b->nr_made + 1) * sizeof *made) : NULL;

	if (!made) {
		nf_buf_deinit(value);
		return nf_fail(-ENOMEM);
	}
	b->made = made;
	b->made[b->nr_made++] = value->p;
	b->c[i].value = value->len ? value->p : NULL;
	b->c[i].len = value->len;
	return 0;
}

static int cmp_change(const void *pa, const void *pb)
{
	const struct nf_change *a = pa, *b = pb;
	return nf_key_cmp(&a->key, &b->key);
}

/* Says that KEY's leaf is to be written even if nothing changes there; the batch is to be sorted again.  Takes VALUE's
 * memory. */
static int batch_touch(struct batch *b, const struct nf_key *key, struct nf_buf *value)
{
	struct nf_change *c = realloc(b->c, (b->nr + 1) * sizeof *c);

	if (!c) {
		nf_buf_deinit(value);
		return nf_fail(-ENOMEM);
	}
	b->c = c;
	c[b->nr] = (struct nf_change){ .key = *key, .rewrite = true };
	return batch_replace(b, b->nr++, value);
}

/* Patches become whole windows: what the patch does not name comes from the tree below.  LOCAL: blocks stay where they are. */
static int fold_extents(struct nf_vault *v, struct batch *b, const struct nf_view *view, bool local)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	uint64_t ino = 0;
	uint32_t bs = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < b->nr; i++) {
		struct nf_key key = b->c[i].key;
		struct nf_want w = NF_WANT_INIT;
		struct nf_buf value = NF_BUF_INIT;
		if (key.type != NF_ITEM_EXTENT || !b->c[i].value)
			continue;
		/* A clone nothing was written to stays one. */
		if (nf_extent_is_ref(b->c[i].value, b->c[i].len))
			continue;
		if (key.ino != ino)
			r = block_bytes_of(v, view, key.ino, &bs);
		if (r == NF_TREE_NONE)
			r = nf_fail(-NF_E_TREE_BAD);
		ino = key.ino;
		while (r == 0 && (r = nf_extent_lookup(view, ino, key.a, bs, &w, refs)) == NF_TREE_WANT) {
			r = v->src.load(v->src.ctx, &w);
			w.nr = 0;
		}
		nf_want_deinit(&w);
		if (r < 0) {
			/* Changed in part, and what the rest was cannot be read: nothing is published that loses it. */
			nf_trace(COMMIT, "window not readable: ino=%" PRIx64 " block=%" PRIu64 " err=%s",
				 ino, key.a, nf_error_name(r));
			break;
		}
		bool any = false;
		for (int k = 0; k < NF_WINDOW_BLOCKS; k++) {
			known[k] = refs[k].sealed_len != 0;
			any |= known[k];
		}
		r = local ? 0 : translate(v, refs, known, true);
		if (r == 0 && any)
			nf_extent_encode(&value, refs, known, bs, false);
		if (r == 0)
			r = batch_replace(b, i, &value);
	}
	return r;
}

/* 0, NF_TREE_NONE or negative. */
static int lookup_base(struct nf_vault *v, const struct nf_ref *root, const struct nf_key *key, struct nf_val *out)
{
	struct nf_want w = NF_WANT_INIT;
	int r;

	while ((r = nf_tree_lookup(v->nodes, root, key, &w, out)) == NF_TREE_WANT) {
		r = v->src.load(v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	nf_want_deinit(&w);
	return r;
}

static int put_counter(struct nf_vault *v, struct nf_layer *l, const struct nf_ref *root, uint64_t which,
		       int64_t difference)
{
	struct nf_key key = { .type = NF_ITEM_COUNTER, .a = which };
	struct nf_val val = { 0 };
	int64_t now = 0;
	uint8_t out[8];

	if (!difference)
		return 0;
	int r = lookup_base(v, root, &key, &val);
	if (r == 0 && val.len == 8)
		now = (int64_t)nf_get_le64(val.p);
	nf_val_deinit(&val);
	if (r < 0)
		return r;
	nf_put_le64(out, (uint64_t)nf_counter_sum(now, difference));
	return nf_layer_put(l, &key, out, sizeof out);
}

static int put_writer(struct nf_vault *v, struct nf_layer *l, uint64_t seq)
{
	struct nf_key key = { .type = NF_ITEM_WRITER, .a = v->writer };
	struct nf_writer_item w = { .seq = seq, .seen_s = nf_clock_real().tv_sec };
	struct nf_buf b = NF_BUF_INIT;

	nf_lock_take(&v->ns);
	w.next_counter = v->next_counter;
	memcpy(w.id, v->writer_id, sizeof w.id);
	nf_lock_drop(&v->ns);
	strncpy(w.host, v->host, sizeof w.host - 1);
	nf_writer_encode(&b, &w);
	int r = nf_buf_error(&b);
	if (r == 0)
		r = nf_layer_put(l, &key, b.p, b.len);
	nf_buf_deinit(&b);
	return r;
}

struct publishing {
	struct nf_vault *v;
	struct nf_epoch *e;      /* NULL: a pure merge */
	struct nf_merged merged;
	const struct nf_mend *mend; /* of this base; NULL: none */
	struct nf_layer *all;    /* everything together, over merged.base */
	struct nf_view view;     /* all over the base */
	struct nf_meta_pack meta;
	struct nf_ref root, delta;
};

static int emit_node(void *ctx, unsigned level, const void *plain, size_t len, struct nf_ref *out)
{
	struct publishing *p = ctx;

	int r = nf_named_add_node(p->v, level, plain, len);
	return r < 0 ? r : nf_meta_pack_emit(&p->meta, level, plain, len, out);
}

static int cmp_keys(const void *a, const void *b) { return nf_key_cmp(a, b); }

static int touch_key(struct publishing *p, struct batch *b, const struct nf_key *key)
{
	struct nf_val val = { 0 };
	struct nf_buf value = NF_BUF_INIT;

	int r = lookup_base(p->v, &p->merged.base->root, key, &val);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
	r = nf_item_rebase(key->type, val.p, val.len, &val.self, &value);
	nf_val_deinit(&val);
	if (r == 0)
		return batch_touch(b, key, &value);
	nf_buf_deinit(&value);
	return r;
}

/* The nodes that hold marked keys are written anew with the values they have; what changes anyway stays as it is. */
static int add_touched(struct publishing *p, struct batch *b)
{
	struct nf_vault *v = p->v;
	size_t changes = b->nr;
	int r = 0;

	nf_lock_take(&v->ns);
	size_t nr = v->nr_touched;
	nf_auto_free struct nf_key *keys = nr ? malloc(nr * sizeof *keys) : NULL;
	if (keys)
		memcpy(keys, v->touched, nr * sizeof *keys);
	p->e->nr_touched = keys ? nr : 0;
	nf_lock_drop(&v->ns);
	if (!keys)
		return nr ? nf_fail(-ENOMEM) : 0;
	qsort(keys, nr, sizeof *keys, cmp_keys);
	for (size_t i = 0; r == 0 && i < nr; i++) {
		struct nf_change one = { .key = keys[i] };
		if ((i && !nf_key_cmp(&keys[i - 1], &keys[i])) ||
		    (changes && bsearch(&one, b->c, changes, sizeof one, cmp_change)))
			continue;
		r = touch_key(p, b, &keys[i]);
	}
	if (r == 0)
		qsort(b->c, b->nr, sizeof *b->c, cmp_change);
	return r;
}

static int build_tree(struct publishing *p)
{
	struct nf_vault *v = p->v;
	struct batch b = { 0 };
	struct nf_tree_writer w = { .emit = emit_node, .ctx = p, .spread_max = SPREAD_MAX,
				    .spread_budget_nodes = SPREAD_BUDGET };

	int r = nf_layer_batch(p->all, &b.c, &b.nr, &b.cuts, &b.nr_cuts);
	if (r == 0 && p->mend)
		r = nf_mend_add_cuts(p->mend, &b.cuts, &b.nr_cuts);
	if (r == 0)
		r = upload_blocks(v, b.c, b.nr, &p->view);
	if (r == 0)
		r = fold_extents(v, &b, &p->view, false);
	if (r == 0 && p->e)
		r = add_touched(p, &b);
	if (r == 0 && p->e && nf_ref_is_null(&p->delta)) {
		struct nf_buf plain = NF_BUF_INIT;
		struct nf_seal_id id = { .type = NF_SEAL_DELTA, .birth = p->e->seq, .index = v->writer };
		r = encode_delta(v, p->e, &p->view, &plain);
		if (r == 0)
			r = nf_meta_pack_add(&p->meta, &id, plain.p, plain.len, &p->delta);
		nf_buf_deinit(&plain);
	}
	if (r == 0)
		r = nf_tree_update(&v->src, &p->merged.base->root, b.c, b.nr, b.cuts, b.nr_cuts, &w, &p->root);
	batch_deinit(&b);
	if (p->mend && r == 0) {
		p->e->mended = true;
	} else if (p->mend && nf_is_damage(r)) {
		/* What it stands on cannot be read either: the next try is without it. */
		nf_mend_free(nf_steal(&p->e->mend));
		p->mend = NULL;
	}
	return r;
}

int nf_publish_tree(struct nf_vault *v, const struct nf_layer *l, const struct nf_ref *base,
		    const struct nf_tree_writer *w, struct nf_ref *out)
{
	struct nf_view view = { .nodes = v->nodes, .base = *base, .layers = { l } };
	struct batch b = { 0 };

	int r = nf_layer_batch(l, &b.c, &b.nr, &b.cuts, &b.nr_cuts);
	if (r == 0)
		r = fold_extents(v, &b, &view, true);
	if (r == 0)
		r = nf_tree_update(&v->src, base, b.c, b.nr, b.cuts, b.nr_cuts, w, out);
	batch_deinit(&b);
	return r;
}

/* Sends what the metadata pack holds. */
static int send_meta(struct nf_meta_pack *m, struct nf_pack_put *put)
{
	struct publishing *p = m->ctx;
	struct nf_vault *v = p->v;
	struct iovec iov = { m->bytes.p, m->bytes.len };

	*put = (struct nf_pack_put){ .store = v->store, .cache = v->cache, .lasting = true, .iov = &iov,
				     .nr_iov = 1, .stop = &v->stop, .given_id = m->full != NULL, .id = m->id };
	int r = nf_pack_put(put);
	return r < 0 ? r : nf_named_add(v, &put->id);
}

static int meta_full(struct nf_meta_pack *m)
{
	struct nf_pack_put put;

	int r = send_meta(m, &put);
	if (r < 0)
		return r;
	m->bytes.len = 0;
	nf_pack_id_random(&m->id);
	return 0;
}

static int put_meta(struct publishing *p, struct nf_head *h)
{
	struct nf_pack_put put = { 0 };

	if (p->meta.bytes.len) {
		int r = send_meta(&p->meta, &put);
		if (r < 0)
			return nf_fail(r);
		h->meta_pack = put.id;
		h->meta_len_bytes = (uint32_t)p->meta.bytes.len;
	}
	if (nf_pack_id_is_zero(&p->root.pack))
		p->root.pack = put.id;
	if (!nf_ref_is_null(&p->delta) && nf_pack_id_is_zero(&p->delta.pack))
		p->delta.pack = put.id;
	return 0;
}

/* R7: the dot and its delta are on our disk before the store may see a head with it. */
static int freeze(struct publishing *p)
{
	struct nf_vault *v = p->v;
	struct nf_buf b = NF_BUF_INIT;

	if (p->e->sent)
		return 0;
	/* After a crash the delta is read again, perhaps without the store: the cache must know that it has it. */
	nf_cache_sync(v->cache);
	nf_cache_save(v->cache, false);
	int r = nf_vault_journal(v, false);
	if (r == 0)
		r = nf_journal_encode_sent(&b, v->writer, p->e->seq, &p->delta, p->e->first_spare);
	if (r == 0)
		r = nf_journal_record(v->journal, 'M', b.p, b.len);
	if (r == 0)
		r = nf_journal_sync(v->journal);
	nf_buf_deinit(&b);
	if (r < 0)
		return nf_fail(r);
	nf_lock_take(&v->ns);
	p->e->delta = p->delta;
	p->e->sent = true;
	nf_lock_drop(&v->ns);
	return 0;
}

static int fill_head(struct publishing *p, const struct nf_head *const *leaves, size_t nr, struct nf_head *h)
{
	struct nf_vault *v = p->v;

	h->time = nf_clock_real();
	h->root = p->root;
	for (size_t i = 0; i < nr; i++) {
		h->id.seq = NF_MAX(h->id.seq, leaves[i]->id.seq + 1);
		h->parents[h->nr_parents++] = leaves[i]->id;
	}
	int r = nf_vector_copy(&h->vector, &p->merged.vector);
	if (r == 0 && p->e) {
		struct nf_vector_entry dot = { .writer = v->writer, .seq = p->e->seq };
		memcpy(dot.tag, p->delta.tag, sizeof dot.tag);
		h->writer = v->writer;
		h->writer_seq = p->e->seq;
		h->delta = p->delta;
		r = nf_vector_set(&h->vector, &dot);
	}
	return r;
}

/* R9: the head is known once it was read back and is what we sent. */
static int read_back(struct nf_vault *v, const struct nf_head *h)
{
	nf_auto_free uint8_t *buf = malloc(NF_HEAD_BYTES_MAX);
	struct nf_store_op op = { .verb = NF_STORE_GET, .length_bytes = NF_HEAD_BYTES_MAX, .whole = true,
				  .buf = buf };
	struct nf_head got = { 0 };

	if (!buf)
		return nf_fail(-ENOMEM);
	nf_head_name(h->id.seq, h->id.rand, op.name);
	int r = nf_store_run(v->store, &op);
	nf_store_op_deinit(&op);
	if (r < 0)
		return nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME);
	struct nf_codec *codec = nf_codec_get(v->ring);
	if (!codec)
		return nf_fail(-ENOMEM);
	r = nf_head_open(codec, h->id.seq, h->id.rand, buf, op.transferred_bytes, &got);
	nf_codec_put(codec);
	if (r == 0 && memcmp(got.id.tag, h->id.tag, sizeof got.id.tag))
		r = -NF_E_STORE_PROTOCOL;
	if (r == 0)
		nf_head_deinit(&got);
	return r == 0 ? 0 : nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME);
}

static int send_head(struct publishing *p, const struct nf_head *const *leaves, size_t nr, struct nf_head *out)
{
	struct nf_vault *v = p->v;
	struct nf_head h = { 0 };

	int r = put_meta(p, &h);
	if (r == 0 && p->e)
		r = freeze(p);
	if (r == 0)
		r = fill_head(p, leaves, nr, &h);
	if (r == 0) {
		struct nf_codec *codec = nf_codec_get(v->ring);
		r = codec ? nf_head_put(v->store, codec, &h) : nf_fail(-ENOMEM);
		if (codec)
			nf_codec_put(codec);
	}
	nf_trace(COMMIT, "head seq=%" PRIu64 " writer=%u.%" PRIu64 " nodes=%" PRIu64 " meta=%zu err=%s",
		 h.id.seq, h.writer, h.writer_seq, p->meta.nr_nodes, p->meta.bytes.len, nf_error_name(r));
	if (r == 0)
		r = read_back(v, &h);
	if (r < 0)
		nf_head_deinit(&h);
	else
		*out = h;
	return r;
}

/* What was made to mend the newest tree goes with this commit, if it is made on that tree. */
static int add_mend(struct publishing *p)
{
	struct nf_vault *v = p->v;
	struct nf_epoch *e = p->e;

	nf_lock_take(&v->ns);
	struct nf_mend *old = v->mend ? e->mend : NULL;
	if (v->mend)
		e->mend = nf_steal(&v->mend);
	nf_lock_drop(&v->ns);
	nf_mend_free(old);
	if (!e->mend || !nf_ref_equal(&e->mend->base, &p->merged.base->root))
		return 0;
	p->mend = e->mend;
	return nf_layer_fold(p->all, p->mend->layer);
}

/* The layers that make the new tree, over the leaf with the highest (seq, tag). */
static int stack(struct publishing *p, const struct nf_head *const *leaves, size_t nr)
{
	struct nf_vault *v = p->v;
	int64_t inodes = p->merged.inodes, bytes = p->merged.bytes;

	int r = nf_layer_new(&p->all);
	if (r == 0 && p->merged.layer)
		r = nf_layer_fold(p->all, p->merged.layer);
	if (r == 0 && p->e)
		r = add_mend(p);
	if (r == 0 && p->e) {
		r = nf_layer_fold(p->all, p->e->layer);
		inodes = nf_counter_sum(inodes, p->e->inodes);
		bytes = nf_counter_sum(bytes, p->e->bytes);
	}
	for (size_t i = 0; i < nr; i++)
		if (leaves[i]->id.seq == v->holed.seq && !memcmp(leaves[i]->id.tag, v->holed.tag, sizeof v->holed.tag))
			p->merged.unlisted[i] = true;
	if (r == 0)
		r = nf_merge_parents(p->all, leaves, nr, p->merged.unlisted);
	if (r == 0)
		r = put_counter(v, p->all, &p->merged.base->root, NF_COUNTER_INODES, inodes);
	if (r == 0)
		r = put_counter(v, p->all, &p->merged.base->root, NF_COUNTER_BYTES, bytes);
	if (r == 0 && p->e)
		r = put_writer(v, p->all, p->e->seq);
	p->view = (struct nf_view){ .nodes = v->nodes, .base = p->merged.base->root, .layers = { p->all } };
	return r;
}

/* SEVERAL: the metadata may fill more than one pack. */
static int publish(struct nf_vault *v, const struct nf_head *const *leaves, size_t nr, bool several,
		   struct nf_head *out)
{
	struct publishing p = { .v = v };
	bool own = nr == 1;

	NF_ASSERT(!own || v->frozen);
	p.meta.codec = nf_codec_get(v->ring);
	if (!p.meta.codec)
		return nf_fail(-ENOMEM);
	p.meta.ctx = &p;
	p.meta.max_bytes = NF_MIN((uint64_t)NF_PACK_MAX_BYTES, atomic_load(&v->store->max_put_bytes));
	if (several) {
		p.meta.full = meta_full;
		nf_pack_id_random(&p.meta.id);
	}
	int r = nf_merge(v, leaves, nr, &p.merged);
	if (r == 0 && own && !v->frozen->sent)
		r = nf_named_recheck(v, leaves[0]);
	if (r == 0 && own) {
		p.e = v->frozen; /* only this thread takes it away */
		p.delta = p.e->delta;
	}
	if (r == 0)
		r = stack(&p, leaves, nr);
	if (r == 0)
		r = build_tree(&p);
	if (r == 0)
		r = send_head(&p, leaves, nr, out);
	if (r == 0 && nr > 1) {
		nf_count(NF_C_MERGES, 1);
		nf_lock_take(&v->ns);
		v->merges++;
		v->conflicts += p.merged.conflicts;
		nf_lock_drop(&v->ns);
	}
	nf_codec_put(p.meta.codec);
	nf_buf_deinit(&p.meta.bytes);
	nf_layer_free(p.all);
	nf_merged_deinit(&p.merged);
	return r;
}

int nf_publish(struct nf_vault *v, const struct nf_head *const *leaves, size_t nr, struct nf_head *out)
{
	int r = publish(v, leaves, nr, false, out);

	/* Blocks that were uploaded stay so; the rest is made anew, for packs of the size the server takes. */
	for (int i = 0; r == -NF_E_STORE_TOO_LARGE && i < SIZES_MAX; i++)
		r = publish(v, leaves, nr, true, out);
	return r;
}
