/* vault/apply_data.c - the DATA operation: a file's content. */
#include "vault/apply_priv.h"

#include "base/error.h"
#include "base/trace.h"

#include <inttypes.h>
#include <stdio.h>

/* The patch of one window: what was written, over what it was cloned from as a whole, if it was. */
struct patch {
	struct nf_extent_ref base; /* leaf null: none */
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
};

static int patch_decode(const void *value, size_t len, bool whole, uint32_t block_bytes, struct patch *p)
{
	return nf_extent_patch_decode(value, len, whole, block_bytes, &p->base, p->refs, p->known);
}

/* As the scratch and the target layer have it, for adding to. */
static int patch_get(struct nf_txn *t, const struct nf_key *key, uint32_t block_bytes, struct patch *out)
{
	const struct nf_layer *from[2] = { t->scratch, t->a->layer };
	const void *p;
	size_t len;

	memset(out, 0, sizeof *out);
	for (int i = 0; i < 2; i++) {
		int r = nf_layer_get(from[i], key, &p, &len);
		if (r == NF_LAYER_GONE) {
			memset(out->known, 1, sizeof out->known);
			return 0;
		}
		if (r == 0)
			return patch_decode(p, len, false, block_bytes, out);
		if (r < 0)
			return r;
	}
	return 0;
}

static int patch_put(struct nf_txn *t, const struct nf_key *key, uint32_t block_bytes, const struct patch *p)
{
	struct nf_buf b = NF_BUF_INIT;

	nf_extent_patch_encode(&b, &p->base, p->refs, p->known, block_bytes);
	int r = nf_buf_error(&b);
	if (r == 0)
		r = nf_layer_put(t->scratch, key, b.p, b.len);
	nf_buf_deinit(&b);
	return r;
}

/* Everything from FIRST_HOLE on becomes a hole. */
static int cut_blocks(struct nf_txn *t, uint64_t ino, uint64_t first_hole, uint32_t block_bytes)
{
	struct patch p;
	uint64_t window = first_hole / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
	uint64_t in = first_hole - window;

	if (in) {
		struct nf_key key = nf_key_extent(ino, window);
		int r = patch_get(t, &key, block_bytes, &p);
		if (r < 0)
			return nf_fail(r);
		for (uint64_t b = in; b < NF_WINDOW_BLOCKS; b++) {
			p.refs[b] = (struct nf_block_ref){ 0 };
			p.known[b] = true;
		}
		r = patch_put(t, &key, block_bytes, &p);
		if (r < 0)
			return r;
		window += NF_WINDOW_BLOCKS;
	}
	return nf_layer_cut(t->scratch, ino, window);
}

static int data_windows(struct nf_txn *t, uint64_t ino, const struct nf_op *op, uint32_t block_bytes)
{
	struct patch p, now;
	uint64_t first;
	const uint8_t *value;
	size_t len, pos = 0;
	int r;

	while ((r = nf_op_window_iter(op, &pos, &first, &value, &len)) == 0) {
		struct nf_key key = nf_key_extent(ino, first);
		r = patch_decode(value, len, true, block_bytes, &now);
		if (r == 0 && !nf_ref_is_null(&now.base.leaf))
			p = now;
		else if (r == 0)
			r = patch_get(t, &key, block_bytes, &p);
		if (r < 0)
			return nf_fail(r);
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			if (!now.known[b])
				continue;
			p.refs[b] = now.refs[b];
			p.known[b] = true;
		}
		r = patch_put(t, &key, block_bytes, &p);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : 0;
}

/* The change of one DATA operation, on an inode that stands at the version it was made from. */
static int data_in_place(struct nf_txn *t, uint64_t ino, const struct nf_op *op, struct nf_inode_item *item)
{
	uint32_t block_bytes = 1u << item->block_shift;
	bool inline_now = op->flags & NF_OPF_INLINE;
	int r = 0;

	if (inline_now) {
		if (!(item->flags & NF_INODE_INLINE))
			r = nf_layer_cut(t->scratch, ino, 0);
		item->flags |= NF_INODE_INLINE;
		item->inline_data = op->inline_data;
		item->inline_len = op->inline_len;
	} else {
		if (op->least_size != UINT64_MAX && op->least_size < item->size_bytes)
			r = cut_blocks(t, ino, (op->least_size + block_bytes - 1) >> item->block_shift,
				       block_bytes);
		item->flags &= (uint8_t)~NF_INODE_INLINE;
		item->inline_data = NULL;
		item->inline_len = 0;
		if (r == 0)
			r = data_windows(t, ino, op, block_bytes);
	}
	if (r < 0)
		return nf_fail(r);
	t->bytes = nf_counter_sum(t->bytes, (int64_t)op->size_after - (int64_t)item->size_bytes);
	item->size_bytes = op->size_after;
	item->mtime = op->mtime;
	nf_time_at_least(&item->ctime, op->time);
	item->stamp = t->a->dot;
	return nf_txn_put_inode(t, ino, item);
}

/* One window of a layer as an operation says it: by reference if it is nothing else, else by its segments. */
static int emit_window(struct nf_txn *t, const struct nf_key *key, const struct nf_val *val, uint32_t block_bytes,
		       struct nf_buf *windows)
{
	struct nf_buf value = NF_BUF_INIT;
	struct patch p;

	int r = patch_decode(val->p, val->len, false, block_bytes, &p);
	if (r == 0 && !nf_ref_is_null(&p.base.leaf) && !nf_extent_is_ref(val->p, val->len))
		r = nf_extent_of_layer(t->view.nodes, val->p, val->len, block_bytes, t->w, p.refs, p.known);
	if (r == 0) {
		nf_extent_patch_encode(&value, &p.base, p.refs, p.known, block_bytes);
		nf_buf_u64(windows, key->a);
		nf_buf_str16(windows, value.p, value.len);
		r = nf_buf_error(&value);
	}
	nf_buf_deinit(&value);
	return r;
}

/* The whole content of INO in the scratch layer as one DATA operation, for a delta that is replayed elsewhere. */
static int emit_whole(struct nf_txn *t, uint64_t ino, const struct nf_inode_item *item,
		      const struct nf_op *cause)
{
	struct nf_buf windows = NF_BUF_INIT;
	struct nf_key at = nf_key_extent(ino, 0), end = { .ino = ino, .type = NF_ITEM_EXTENT + 1 };
	struct nf_view only = { .nodes = t->view.nodes, .layers = { t->scratch, t->a->layer } };
	uint8_t range[16];
	uint32_t nr = 0;
	int r;

	if (!t->a->out)
		return 0;
	for (;;) {
		struct nf_key key;
		struct nf_val val = { 0 };
		r = nf_view_next(&only, &at, &end, t->w, &key, &val);
		if (r)
			break;
		r = emit_window(t, &key, &val, 1u << item->block_shift, &windows);
		nf_val_deinit(&val);
		if (r)
			break;
		nr++;
		at = key;
		at.a++;
	}
	if (r == NF_TREE_NONE)
		r = nf_buf_error(&windows);
	if (r == 0) {
		struct nf_op op = { .kind = NF_OP_DATA, .conflict_mode = cause->conflict_mode,
				    .time = cause->time, .ino = ino, .stamp = t->a->dot,
				    .flags = item->flags & NF_INODE_INLINE ? NF_OPF_INLINE : 0,
				    .mtime = item->mtime, .least_size = UINT64_MAX,
				    .size_after = item->size_bytes, .inline_data = item->inline_data,
				    .inline_len = item->inline_len, .windows = windows.p,
				    .windows_len = windows.len, .nr_windows = nr };
		nf_put_le64(range, 0);
		nf_put_le64(range + 8, item->size_bytes);
		if (item->size_bytes) {
			op.ranges = range;
			op.nr_ranges = 1;
		}
		nf_txn_emit(t, &op);
	}
	nf_buf_deinit(&windows);
	return r;
}

/* Both sides changed the content, or the other side removed the file: the version the author had, with the change, under
 * a name of its own.  An inode that is gone comes back as itself. */
static int data_conflict(struct nf_txn *t, const struct nf_op *op, bool gone)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1], free[NF_NAME_MAX + 1];
	uint8_t len, free_len;
	uint64_t dir, copy = op->ino;
	struct nf_view bv = nf_txn_base_view(t);

	int r = nf_txn_base_inode(t, op->ino, &val, &item);
	if (r == NF_TREE_NONE)
		return 0; /* made and removed on the author's own side */
	if (r)
		return r;
	r = nf_view_parent(gone ? &bv : &t->view, op->ino, t->w, &dir, name, &len);
	if (r == NF_TREE_NONE) {
		len = (uint8_t)snprintf(name, sizeof name, "inode-%" PRIx64, op->ino);
		dir = NF_INO_ROOT;
		r = 0;
	}
	if (r == 0)
		r = nf_txn_ensure_dir(t, dir, op, 0, &dir);
	if (r == 0)
		r = nf_txn_free_name(t, dir, name, len, !gone, op->time, free, &free_len);
	if (r)
		goto out;
	t->a->conflicts++;
	if (!gone)
		copy = t->a->first_spare + t->a->nr_spared + t->spared++;
	item.nlink = 1;
	t->inodes++;
	t->bytes = nf_counter_sum(t->bytes, (int64_t)item.size_bytes);
	r = nf_txn_emit_create(t, copy, dir, free, free_len, &item, op);
	if (r == 0)
		r = nf_txn_clone_base(t, op->ino, copy, 1u << item.block_shift, op);
	if (r == 0)
		r = data_in_place(t, copy, op, &item);
	if (r == 0)
		r = nf_txn_link(t, dir, free, free_len, copy, item.mode, op->time);
	if (r == 0)
		r = emit_whole(t, copy, &item, op);
	if (r == 0 && !gone)
		t->redirect = (struct nf_redirect){ op->ino, copy };
	nf_trace(COMMIT, "conflict ino=%" PRIx64 " copy=%" PRIx64 " name=%s", op->ino, copy, free);
out:
	nf_val_deinit(&val);
	return r;
}

int nf_txn_do_data(struct nf_txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	uint64_t ino = nf_txn_redirected(t->a, op->ino);

	int r = nf_txn_inode(t, ino, &val, &item);
	if (r == NF_TREE_NONE)
		return data_conflict(t, op, true);
	if (r)
		return r;
	if (!S_ISREG(item.mode)) {
		nf_val_deinit(&val);
		return nf_fail(-NF_E_FORMAT_BAD);
	}
	if (ino == op->ino && nf_txn_is_foreign(t, item.stamp, op->stamp)) {
		nf_val_deinit(&val);
		return data_conflict(t, op, false);
	}
	struct nf_op done = *op;
	done.ino = ino;
	done.stamp = item.stamp;
	done.size_before = item.size_bytes;
	r = data_in_place(t, ino, op, &item);
	if (r == 0)
		nf_txn_emit(t, &done);
	nf_val_deinit(&val);
	return r;
}

/* --- MOVE, RESEAL ----------------------------------------------------------------------------- */

/* The same sealed bytes, wherever they stand. */
static bool same_block(const struct nf_block_ref *x, const struct nf_block_ref *y)
{
	return x->sealed_len == y->sealed_len && x->birth == y->birth && x->index == y->index && x->epoch == y->epoch &&
	       !memcmp(x->tag, y->tag, sizeof x->tag);
}

struct bytes {
	const uint8_t *p;
	size_t len;
};

/* One window: what is still what was copied (WAS; the same sealed bytes as TO if that has none) is read from the copy; what was
 * written since stays. */
static int move_window(struct nf_txn *t, const struct nf_key *key, uint32_t block_bytes, const struct bytes *value,
		       const struct bytes *old, bool *moved)
{
	static const struct nf_pack_id none = { { 0 } };
	struct nf_block_ref now[NF_WINDOW_BLOCKS], to[NF_WINDOW_BLOCKS], was[NF_WINDOW_BLOCKS];
	bool named[NF_WINDOW_BLOCKS], known[NF_WINDOW_BLOCKS], any = false;
	struct patch p;

	int r = nf_extent_decode(value->p, value->len, &none, block_bytes, to, named);
	if (r == 0)
		r = nf_extent_decode(old->p, old->len, &none, block_bytes, was, known);
	if (r == 0)
		r = nf_extent_lookup(&t->view, key->ino, key->a, block_bytes, t->w, now);
	if (r == 0)
		r = patch_get(t, key, block_bytes, &p);
	if (r)
		return r;
	for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
		if (!named[b] || !known[b] || !to[b].sealed_len || !was[b].sealed_len || !same_block(&now[b], &was[b]) ||
		    was[b].birth != to[b].birth || was[b].index != to[b].index || was[b].plain_len != to[b].plain_len)
			continue;
		p.refs[b] = to[b];
		p.known[b] = any = true;
	}
	*moved = *moved || any;
	return any ? patch_put(t, key, block_bytes, &p) : 0;
}

int nf_txn_do_move(struct nf_txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	struct nf_op olds = { .windows = op->olds, .windows_len = op->olds_len };
	struct bytes value, old;
	bool moved = false;
	uint64_t first, old_first;
	size_t pos = 0, old_pos = 0;

	int r = nf_txn_inode(t, op->ino, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
	bool blocks = S_ISREG(item.mode) && !(item.flags & NF_INODE_INLINE);
	nf_val_deinit(&val);
	while (blocks && (r = nf_op_window_iter(op, &pos, &first, &value.p, &value.len)) == 0) {
		struct nf_key key = nf_key_extent(op->ino, first);
		old = value;
		if (op->kind == NF_OP_RESEAL)
			r = nf_op_window_iter(&olds, &old_pos, &old_first, &old.p, &old.len);
		if (r == 0)
			r = move_window(t, &key, 1u << item.block_shift, &value, &old, &moved);
		if (r)
			return r;
	}
	if (r >= 0 && moved)
		nf_txn_emit(t, op);
	return r < 0 ? r : 0;
}
