/* vault/gc_move.c - taking what is still named out of packs that are to go.
 *
 *   blocks   sealed bytes copied into new packs; a MOVE operation says where they are now, and does nothing to
 *            blocks that were written since
 *   nodes    a leaf below them is marked: the next commit writes it anew, and so all that lead to it
 *
 * Births and tags stay, so nothing is sealed again; each block is opened once on the way, so that damage is not carried on
 * as if it were whole. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/gc.h"

enum { MOVE_PACK_BYTES = 8 << 20, MOVE_BLOCKS_MAX = 1 << 16, TOUCH_MAX = 1 << 20 };

struct moving {
	uint64_t ino;
	uint64_t block; /* of the file */
	uint32_t block_bytes;
	struct nf_block_ref ref; /* offset: in the new pack */
	bool stays;              /* only said anew: the leaf it was named by goes */
};

struct mover {
	struct nf_vault *v;
	struct nf_node_source *src;
	const struct nf_pack_set *from;
	const struct nf_epoch *own; /* whose journaled blocks stand in for what the store lost; NULL */
	_Atomic bool *stop;
	struct nf_codec *codec;
	struct nf_buf bytes;
	struct moving *m;
	size_t nr, cap;
	uint8_t *plain;
	uint64_t ino; /* of the last INODE item */
	uint32_t block_bytes;
	unsigned touch; /* nodes passed that want a key below them marked */
	struct nf_gc_moved r;
};

/* --- bytes --------------------------------------------------------------------------- */

static bool is_same(const struct nf_block_ref *x, const struct nf_block_ref *y)
{
	return x->birth == y->birth && x->index == y->index && x->epoch == y->epoch && x->sealed_len == y->sealed_len &&
	       !memcmp(x->tag, y->tag, sizeof x->tag);
}

/* Where an operation of our own left the block in the journal. */
static bool find_local(const struct nf_op *op, const struct nf_block_ref *ref, struct nf_journal_pos *pos)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref base;
	const uint8_t *value;
	uint64_t first;
	size_t len, at = 0;

	while (nf_op_window_iter(op, &at, &first, &value, &len) == 0) {
		if (nf_extent_patch_decode(value, len, true, 1u << NF_BLOCK_SHIFT_MAX, &base, refs, known) < 0)
			return false;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			if (!known[b] || !refs[b].sealed_len || !nf_ref_is_local(&refs[b].pack) || !is_same(&refs[b], ref))
				continue;
			*pos = (struct nf_journal_pos){ nf_ref_local_segment(&refs[b].pack), refs[b].offset_bytes };
			return true;
		}
	}
	return false;
}

static int read_local(struct mover *m, const struct nf_block_ref *ref, uint8_t *buf)
{
	for (const struct nf_epoch *e = m->own; e; e = e->next) {
		struct nf_rd rd = nf_rd_of(e->ops.p, e->ops.len);
		struct nf_journal_pos pos;
		struct nf_op op;
		while (nf_rd_left(&rd) && nf_op_decode(&rd, NULL, &op) == 0)
			if (op.nr_windows && find_local(&op, ref, &pos))
				return nf_journal_read(m->v->journal, pos, buf, ref->sealed_len);
	}
	return nf_fail(-NF_E_PACK_MISSING);
}

static int try_open(struct mover *m, const struct nf_block_ref *ref, const uint8_t *sealed)
{
	struct nf_seal_id id = { .type = NF_SEAL_BLOCK, .birth = ref->birth, .index = ref->index };

	return nf_codec_open(m->codec, &id, ref->epoch, ref->flags, ref->tag, sealed, ref->sealed_len, m->plain,
			     ref->plain_len);
}

/* The block's sealed bytes to BUF, whole: from our cache or the store, then the store alone, then the journal. */
static int get_block(struct mover *m, const struct nf_block_ref *ref, uint8_t *buf)
{
	int r = nf_fetch_bytes(m->v->fetch, &ref->pack, ref->offset_bytes, ref->sealed_len, buf);

	if (r == 0 && try_open(m, ref, buf) == 0)
		return 0;
	if (r == 0)
		r = nf_fetch_from_store(m->v->fetch, &ref->pack, ref->offset_bytes, ref->sealed_len, buf);
	if (r == 0)
		r = try_open(m, ref, buf);
	if (nf_is_damage(r) && m->own && read_local(m, ref, buf) == 0)
		r = try_open(m, ref, buf);
	return r;
}

/* --- one pack's worth ------------------------------------------------------------------- */

/* Blocks [FIRST, END) are of one window: its value. */
static int add_window(struct mover *m, size_t first, size_t end, const struct nf_pack_id *pack, struct nf_buf *windows)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS] = { 0 };
	bool known[NF_WINDOW_BLOCKS] = { false };
	struct nf_buf value = NF_BUF_INIT;
	uint64_t window = m->m[first].block / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;

	for (size_t i = first; i < end; i++) {
		uint64_t b = m->m[i].block - window;
		refs[b] = m->m[i].ref;
		if (!m->m[i].stays)
			refs[b].pack = *pack;
		known[b] = true;
	}
	nf_extent_encode(&value, refs, known, m->m[first].block_bytes, false);
	nf_buf_u64(windows, window);
	nf_buf_str16(windows, value.p, value.len);
	int r = nf_buf_error(&value);
	nf_buf_deinit(&value);
	return r < 0 ? r : nf_buf_error(windows);
}

static int move_ino(struct mover *m, size_t first, size_t end, const struct nf_pack_id *pack)
{
	struct nf_op op = { .kind = NF_OP_MOVE, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(),
			    .ino = m->m[first].ino };
	struct nf_buf windows = NF_BUF_INIT;
	int r = 0;

	for (size_t i = first, n; r == 0 && i < end; i = n) {
		for (n = i + 1; n < end && m->m[n].block / NF_WINDOW_BLOCKS == m->m[i].block / NF_WINDOW_BLOCKS; n++)
			;
		r = add_window(m, i, n, pack, &windows);
		op.nr_windows++;
	}
	op.windows = windows.p;
	op.windows_len = windows.len;
	if (r == 0)
		r = nf_vault_do_waiting(m->v, &op);
	nf_buf_deinit(&windows);
	return r;
}

static int flush(struct mover *m)
{
	struct iovec iov = { m->bytes.p, m->bytes.len };
	struct nf_pack_put put = { .store = m->v->store, .cache = m->v->cache, .iov = &iov, .nr_iov = 1, .stop = m->stop };

	if (!m->nr)
		return 0;
	int r = m->bytes.len ? nf_pack_put(&put) : 0;
	if (r == 0)
		r = nf_named_add(m->v, &put.id);
	for (size_t i = 0, n; r == 0 && i < m->nr; i = n) {
		for (n = i + 1; n < m->nr && m->m[n].ino == m->m[i].ino; n++)
			;
		r = move_ino(m, i, n, &put.id);
	}
	if (r == 0) {
		m->r.packs += m->bytes.len > 0;
		m->r.bytes += m->bytes.len;
		m->r.blocks += m->nr;
	}
	m->bytes.len = 0;
	m->nr = 0;
	return r;
}

static int add_block(struct mover *m, uint64_t block, const struct nf_block_ref *ref, bool stays)
{
	uint64_t max = NF_MIN((uint64_t)MOVE_PACK_BYTES, atomic_load(&m->v->store->max_put_bytes));

	if (m->nr && (m->bytes.len + ref->sealed_len > max || m->nr == MOVE_BLOCKS_MAX)) {
		int r = flush(m);
		if (r < 0)
			return r;
	}
	if (m->nr == m->cap) {
		size_t cap = m->cap ? 2 * m->cap : 256;
		struct moving *p = realloc(m->m, cap * sizeof *p);
		if (!p)
			return nf_fail(-ENOMEM);
		m->m = p;
		m->cap = cap;
	}
	if (stays) {
		m->m[m->nr++] = (struct moving){ .ino = m->ino, .block = block, .block_bytes = m->block_bytes, .ref = *ref,
						 .stays = true };
		return 0;
	}
	if (!nf_buf_reserve(&m->bytes, ref->sealed_len))
		return nf_fail(-ENOMEM);
	int r = get_block(m, ref, m->bytes.p + m->bytes.len);
	if (nf_is_damage(r)) {
		m->r.lost++; /* it stays where it is; `check` names it */
		return 0;
	}
	if (r < 0)
		return r;
	m->m[m->nr] = (struct moving){ .ino = m->ino, .block = block, .block_bytes = m->block_bytes, .ref = *ref };
	m->m[m->nr++].ref.offset_bytes = (uint32_t)m->bytes.len;
	m->bytes.len += ref->sealed_len;
	return 0;
}

/* --- the walk ------------------------------------------------------------------------------ */

static int touch(struct mover *m, const struct nf_key *key)
{
	struct nf_vault *v = m->v;
	int r = 0;

	nf_lock_take(&v->ns);
	struct nf_key *p = v->nr_touched < TOUCH_MAX ? realloc(v->touched, (v->nr_touched + 1) * sizeof *p) : NULL;
	if (p) {
		v->touched = p;
		p[v->nr_touched++] = *key;
		m->r.nodes++;
	} else {
		r = nf_fail(-ENOMEM);
	}
	nf_lock_drop(&v->ns);
	return r;
}

static int see_node(void *ctx, const struct nf_ref *ref)
{
	struct mover *m = ctx;

	if (m->stop && atomic_load(m->stop))
		return nf_fail(-NF_E_CANCELLED);
	m->touch += nf_pack_set_find(m->from, &ref->pack) != NULL;
	return 0;
}

static int see_item(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct mover *m = ctx;
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref = { 0 };
	struct nf_inode_item item;
	int r = 0;

	if (m->touch) {
		m->touch = 0;
		r = touch(m, key);
	}
	if (r == 0 && key->type == NF_ITEM_INODE) {
		r = nf_inode_decode(val->p, val->len, &item);
		m->ino = key->ino;
		m->block_bytes = 1u << item.block_shift;
	}
	if (r < 0 || key->type != NF_ITEM_EXTENT || key->ino != m->ino)
		return r;
	r = nf_gc_window(m->src, val, m->block_bytes, &ref, refs);
	/* A leaf that a whole window is named by goes: from now on the window names its blocks itself. */
	bool all = r == 0 && !nf_ref_is_null(&ref.leaf) && nf_pack_set_find(m->from, &ref.leaf.pack);
	for (int b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++) {
		bool goes = refs[b].sealed_len && nf_pack_set_find(m->from, &refs[b].pack);
		if (goes || (all && refs[b].sealed_len))
			r = add_block(m, key->a + (unsigned)b, &refs[b], !goes);
	}
	return r;
}

/* A tree that was only to be written anew needs an operation to be committed with. */
static int empty_op(struct nf_vault *v)
{
	struct nf_op op = { .kind = NF_OP_COLLECT, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(),
			    .item = NF_ITEM_CONDEMNED };

	return nf_vault_do_waiting(v, &op);
}

int nf_gc_move(struct nf_vault *v, struct nf_node_source *src, const struct nf_ref *root, const struct nf_pack_set *from,
	       const struct nf_epoch *own, _Atomic bool *stop, struct nf_gc_moved *out)
{
	struct mover m = { .v = v, .src = src, .from = from, .own = own, .stop = stop };

	m.plain = malloc((size_t)1 << NF_BLOCK_SHIFT_MAX);
	m.codec = nf_codec_get(v->ring);
	int r = m.plain && m.codec ? 0 : nf_fail(-ENOMEM);
	if (r == 0)
		r = nf_tree_walk(src, root, see_item, see_node, &m);
	if (r == 0)
		r = flush(&m);
	if (r == 0 && m.r.nodes && !m.r.blocks)
		r = empty_op(v);
	if (m.codec)
		nf_codec_put(m.codec);
	nf_buf_deinit(&m.bytes);
	free(m.m);
	free(m.plain);
	if (r == 0)
		*out = m.r;
	return r;
}
