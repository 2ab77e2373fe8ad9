/* vault/call_copy.c - copy_file_range by reference.
 *
 * Both files' data is stored first; then the whole blocks of the range become one DATA operation of the target that names the
 * source's blocks.  Sealed blocks are bound to where they were born, not to where they are used, so nothing is
 * read or sealed again.  What does not lie on block boundaries is left to the kernel (EOPNOTSUPP makes it copy
 * bytes).
 *
 *   source      |  window  |  window  |  window  |  w.. end
 *                   as the leaf has it,   partly      on the server as a whole, nothing changed since
 *                    |          |           |  |        |
 *   operation       ref        ref       blocks...     ref     (if the target ends there too)
 *
 * A window that goes over whole is named by where it stands in the published tree (69 bytes); others name each block. */
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "vault/calls.h"

enum { COPY_MAX = 1 << 30 };

/* Phases: 0 store the source, 1 store the target, 2 copy. */
static void stored(struct nf_io *io)
{
	struct nf_run *run = io->ctx;

	if (io->error < 0) {
		nf_run_end(run, io->error);
		return;
	}
	run->phase++;
	nf_run_again(run);
}

static void start_store(struct nf_run *run)
{
	struct nf_vnode *vn = run->phase == 0 ? run->vn : run->vn2;
	run->io = (struct nf_io){ .ic = &vn->ic, .done = stored, .ctx = run };
	nf_fsync(&run->io);
}

struct copying {
	struct nf_buf windows;
	uint32_t nr, nr_refs;
	struct nf_block_ref refs[NF_WINDOW_BLOCKS], from[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
};

/* The range of a copy, in blocks. */
struct blocks {
	uint64_t src, dst, nr;
	bool to_end; /* nothing of either file lies behind it */
};

/* The window of the source that as a whole becomes the target's at block I of the range, if it is one and stands on the
 * server: 0, NF_TREE_NONE, NF_TREE_WANT or negative. */
static int whole_window(struct nf_vnode *a, const struct blocks *bl, uint64_t i, struct nf_want *w,
			struct nf_extent_ref *out)
{
	if ((bl->src + i) % NF_WINDOW_BLOCKS || (bl->dst + i) % NF_WINDOW_BLOCKS ||
	    (i + NF_WINDOW_BLOCKS > bl->nr && !bl->to_end))
		return NF_TREE_NONE;
	return nf_vnode_locate(a, bl->src + i, w, out);
}

static void add_window(struct copying *cp, uint64_t first, struct nf_buf *value)
{
	nf_buf_u64(&cp->windows, first);
	nf_buf_str16(&cp->windows, value->p, value->len);
	if (value->failed)
		cp->windows.failed = true;
	nf_buf_deinit(value);
	cp->nr++;
}

/* The range of A as windows of B. */
static int gather(struct copying *cp, struct nf_vnode *a, const struct blocks *bl, struct nf_want *w)
{
	uint64_t src = bl->src, dst = bl->dst, nr = bl->nr, have = UINT64_MAX;
	struct nf_extent_ref ref;

	cp->windows.len = 0;
	cp->nr = cp->nr_refs = 0;
	for (uint64_t i = 0; i < nr;) {
		uint64_t first = (dst + i) / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
		struct nf_buf value = NF_BUF_INIT;
		int whole = whole_window(a, bl, i, w, &ref);
		if (whole == 0) {
			nf_extent_ref_encode(&value, &ref);
			add_window(cp, first, &value);
			cp->nr_refs++;
			i += NF_WINDOW_BLOCKS;
			continue;
		}
		if (whole != NF_TREE_NONE)
			return whole;
		memset(cp->refs, 0, sizeof cp->refs);
		memset(cp->known, 0, sizeof cp->known);
		for (; i < nr && dst + i < first + NF_WINDOW_BLOCKS; i++) {
			uint64_t sfirst = (src + i) / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
			if (sfirst != have) {
				int r = nf_vnode_window(a, sfirst, w, cp->from);
				if (r)
					return r;
				have = sfirst;
			}
			cp->refs[dst + i - first] = cp->from[src + i - sfirst];
			cp->known[dst + i - first] = true;
		}
		nf_extent_encode(&value, cp->refs, cp->known, 1u << a->block_shift, true);
		add_window(cp, first, &value);
	}
	return nf_buf_error(&cp->windows);
}

static void tell_kernel(struct nf_vault *v, uint64_t ino, uint64_t from, uint64_t len)
{
	if (v->fs.notify)
		v->fs.notify->inval_inode(v->fs.notify_ctx, ino, (int64_t)from, (int64_t)len, NULL, NULL);
}

static int copy(struct nf_vault *v, struct nf_call *c, struct nf_want *w, uint64_t len)
{
	struct nf_vnode *a = c->file->vn, *b = c->file2->vn;
	uint64_t bs = UINT64_C(1) << a->block_shift, size = nf_i_size(&b->ic);
	struct nf_inode_item item;
	struct nf_val val = { 0 };
	uint8_t range[16];
	struct copying *cp = nf_call_state(c, sizeof *cp);

	if (!cp)
		return nf_fail(-ENOMEM);
	int r = nf_vault_inode(v, b->ino, w, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	struct nf_stamp stamp = item.stamp;
	bool was_inline = item.flags & NF_INODE_INLINE && item.inline_len;
	nf_val_deinit(&val);
	if (was_inline && c->offset2 > 0)
		return -EOPNOTSUPP;
	struct blocks bl = { .src = c->offset / bs, .dst = c->offset2 / bs, .nr = (len + bs - 1) / bs,
			     .to_end = c->offset + len >= nf_i_size(&a->ic) && c->offset2 + len >= size };
	r = gather(cp, a, &bl, w);
	if (r)
		return r;
	nf_vnode_touch(b);
	struct nf_op op = {
		.kind = NF_OP_DATA, .conflict_mode = NF_MODE_STASH, .time = b->change_time, .ino = b->ino,
		.stamp = stamp, .mtime = b->mtime, .size_before = size, .least_size = UINT64_MAX,
		.size_after = NF_MAX(size, c->offset2 + len), .ranges = range, .nr_ranges = 1,
		.windows = cp->windows.p, .windows_len = cp->windows.len, .nr_windows = cp->nr,
	};
	nf_put_le64(range, c->offset2);
	nf_put_le64(range + 8, c->offset2 + len);
	r = nf_vault_do_data(v, b, &op, false);
	nf_buf_deinit(&cp->windows);
	if (r)
		return r;
	nf_invalidate(&b->ic, c->offset2, c->offset2 + len, op.size_after, op.size_after);
	b->pending_times = false;
	tell_kernel(v, b->ino, c->offset2, len);
	nf_count(NF_C_CLONE_BYTES, len);
	nf_count(NF_C_CLONE_LEAF_REFS, cp->nr_refs);
	c->count = len;
	return 0;
}

int nf_do_copy_range(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_run *run = nf_run_of(c);
	struct nf_vnode *a = c->file->vn, *b = c->file2->vn;
	uint64_t bs = UINT64_C(1) << a->block_shift, size = nf_i_size(&a->ic);
	uint64_t len = NF_MIN(c->size, (uint64_t)COPY_MAX);

	int r = nf_may_change(v);
	if (r < 0)
		return r;
	if (a == b || a->block_shift != b->block_shift || c->offset % bs || c->offset2 % bs ||
	    a->orphan || b->orphan)
		return -EOPNOTSUPP;
	if (c->offset >= size)
		return 0;
	len = NF_MIN(len, size - c->offset);
	/* The last, short block may be shared only where it ends the target too. */
	if (c->offset + len < size || c->offset2 + len < nf_i_size(&b->ic))
		len -= len % bs;
	if (len == 0 || size <= NF_INLINE_MAX)
		return -EOPNOTSUPP;
	if (run->phase < 2) {
		if (!run->vn) {
			a->refs++;
			b->refs++;
			run->vn = a;
			run->vn2 = b;
		}
		run->start = start_store;
		return NF_CALL_PENDING;
	}
	/* Data that a cut took in between must be told before this is. */
	if (b->in_cut && (nf_is_dirty(&b->ic) || !nf_avl_empty(&b->acc))) {
		run->phase = 1;
		run->start = start_store;
		return NF_CALL_PENDING;
	}
	if (c->uid != 0)
		r = nf_drop_set_ids(v, b->ino, w);
	return r ? r : copy(v, c, w, len);
}
