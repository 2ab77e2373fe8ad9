/* vault/nfops.c - the vault as a filesystem of the library: how blocks are read and stored.
 *
 * Reading:   window references (undrained groups, layers, tree) -> sealed bytes from the journal, the cache or
 *            the store -> decrypt_block
 * Writing:   encrypt_block seals -> issue_write appends to the journal -> write_stored notes the references with the
 *            file (struct nf_acc) -> group_stored makes one DATA operation of a drained group
 *
 * A file of at most 512 bytes is not sealed as a block: its content goes into the operation. */
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/space.h"
#include "vault/upload.h"

#include <inttypes.h>

/* What a block's cookie holds: its reference, and where the bytes came from. */
struct cookie {
	struct nf_block_ref ref;
	bool from_cache;
	bool is_inline; /* plain bytes, not sealed */
};
_Static_assert(sizeof(struct cookie) <= NF_BLOCK_COOKIE_BYTES, "a reference fits into a cookie");

static struct cookie *cookie_of(struct nf_block *b) { return (struct cookie *)(void *)b->cookie; }
static struct nf_vnode *vnode_of(struct nf_ictx *ic) { return nf_container_of(ic, struct nf_vnode, ic); }

/* --- reading ---------------------------------------------------------------------------- */

enum { MOVED_TRIES = 8 };

/* One subrequest being read. */
struct reading {
	struct nf_work work;
	struct nf_vault *v;
	struct nf_vnode *vn;
	struct nf_subreq *sq;
	struct nf_want want;
	struct nf_fetch_nodes *fetch;
	atomic_uint left; /* fetches under way, and the starter */
	_Atomic int error;
	_Atomic bool moved; /* a local block was not there any more: it is on the server since the look-up */
	unsigned tries;
	unsigned nr_pieces;
	struct piece {
		struct nf_fetch_io io;
		struct reading *rd;
		unsigned first, nr; /* blocks */
		struct kept *kept;
	} *pieces;
	struct nf_block_ref *refs; /* one a block */
	uint32_t behind_bytes;     /* see bytes_behind() */
};

/* Buffers and loans of the fetcher live until the request ends: chained from its private slot. */
struct kept {
	struct kept *next;
	struct nf_fetch_lent lent;
	uint8_t bytes[];
};

static void reading_end(struct reading *rd, int error)
{
	struct nf_subreq *sq = rd->sq;

	nf_want_deinit(&rd->want);
	free(rd->fetch);
	free(rd->pieces);
	free(rd->refs);
	free(rd);
	nf_subreq_terminated(sq, error);
}

static void reading_put(struct reading *rd)
{
	if (atomic_fetch_sub(&rd->left, 1) != 1)
		return;
	if (!atomic_load(&rd->moved) || ++rd->tries == MOVED_TRIES) {
		reading_end(rd, atomic_load(&rd->error));
		return;
	}
	/* From the look-up again. */
	free(rd->pieces);
	rd->pieces = NULL;
	rd->nr_pieces = 0;
	atomic_store(&rd->moved, false);
	atomic_store(&rd->error, 0);
	atomic_store(&rd->left, 1);
	nf_pool_add(rd->v->pool, &rd->work);
}

static void place_blocks(struct reading *rd, unsigned first, unsigned nr, uint8_t *at)
{
	for (unsigned i = first; i < first + nr; i++) {
		rd->sq->blocks[i].sealed = at;
		at += rd->refs[i].sealed_len;
	}
}

static void piece_done(struct nf_fetch_io *io)
{
	struct piece *p = io->ctx;

	if (io->error < 0)
		atomic_store(&p->rd->error, io->error);
	else
		place_blocks(p->rd, p->first, p->nr, io->lent.bytes);
	p->kept->lent = io->lent;
	for (unsigned i = 0; i < p->nr; i++)
		cookie_of(&p->rd->sq->blocks[p->first + i])->from_cache = io->from_cache;
	reading_put(p->rd);
}

/* Keeps SIZE bytes with the request. Subrequests of one request run in parallel. */
static struct kept *keep(struct reading *rd, size_t size)
{
	struct kept *k = malloc(sizeof *k + size);
	_Atomic(struct kept *) *head = (_Atomic(struct kept *) *)(void *)nf_rreq_priv(rd->sq->rreq);

	if (!k)
		return NULL;
	k->lent = (struct nf_fetch_lent){ 0 };
	k->next = atomic_load(head);
	while (!atomic_compare_exchange_weak(head, &k->next, k))
		;
	return k;
}

static void cleanup_rreq(struct nf_rreq *rq)
{
	struct kept *k = *nf_rreq_priv(rq);
	struct nf_vault *v = vnode_of(nf_rreq_ictx(rq))->v;

	while (k) {
		struct kept *next = k->next;
		nf_fetch_give_back(v->fetch, &k->lent);
		free(k);
		k = next;
	}
}

static bool follows(const struct nf_block_ref *a, const struct nf_block_ref *b)
{
	return b->sealed_len && !memcmp(&a->pack, &b->pack, sizeof a->pack) &&
	       a->offset_bytes + a->sealed_len == b->offset_bytes;
}

/* Of the blocks that other subrequests read at the same time, those that lie right behind this one's last, in bytes.
 * Only for speed: what is not at hand ends it. */
static uint32_t bytes_behind(struct reading *rd)
{
	const struct nf_subreq *sq = rd->sq;
	const struct nf_block_ref *last = &rd->refs[sq->nr_blocks - 1];
	struct nf_block_ref window[NF_WINDOW_BLOCKS], before = *last;
	uint64_t at = sq->blocks[0].index + sq->nr_blocks, end = at + sq->more_blocks, have = UINT64_MAX;
	uint32_t bytes = 0;

	if (!last->sealed_len || nf_ref_is_local(&last->pack))
		return 0;
	for (; at < end; at++) {
		uint64_t first = at / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
		if (first != have && nf_vnode_window(rd->vn, first, &rd->want, window))
			break;
		have = first;
		if (!follows(&before, &window[at - first]))
			break;
		before = window[at - first];
		bytes += before.sealed_len;
	}
	return bytes;
}

/* Blocks [first, first + nr) stand one after another in one place. */
static int start_piece(struct reading *rd, unsigned first, unsigned nr)
{
	struct nf_block_ref *ref = &rd->refs[first];
	bool local = nf_ref_is_local(&ref->pack);
	uint32_t len = 0;

	for (unsigned i = 0; i < nr; i++)
		len += ref[i].sealed_len;
	struct kept *kept = keep(rd, local ? len : 0);
	if (!kept)
		return nf_fail(-ENOMEM);
	if (local) {
		struct nf_journal_pos pos = { nf_ref_local_segment(&ref->pack), ref->offset_bytes };
		place_blocks(rd, first, nr, kept->bytes);
		int r = nf_journal_read(rd->v->journal, pos, kept->bytes, len);
		if (r == -EINVAL)
			atomic_store(&rd->moved, true);
		return r;
	}
	struct piece *p = &rd->pieces[rd->nr_pieces++];
	p->rd = rd;
	p->first = first;
	p->nr = nr;
	p->kept = kept;
	p->io = (struct nf_fetch_io){
		.pack = ref->pack, .offset_bytes = ref->offset_bytes, .len_bytes = len, .lend = true,
		.more_bytes = first + nr == rd->sq->nr_blocks && !rd->sq->attempt ? rd->behind_bytes : 0,
		.priority = rd->sq->read_ahead ? NF_STORE_NORMAL : NF_STORE_FOREGROUND,
		.bypass_cache = rd->sq->attempt > 0, .done = piece_done, .ctx = p,
	};
	atomic_fetch_add(&rd->left, 1);
	nf_fetch_submit(rd->v->fetch, &p->io);
	return 0;
}

static void start_pieces(struct reading *rd)
{
	struct nf_subreq *sq = rd->sq;
	int r = 0;

	rd->pieces = calloc(sq->nr_blocks, sizeof *rd->pieces);
	if (!rd->pieces)
		r = nf_fail(-ENOMEM);
	for (unsigned i = 0; r == 0 && i < sq->nr_blocks;) {
		if (!rd->refs[i].sealed_len) {
			i++;
			continue;
		}
		unsigned n = 1;
		while (i + n < sq->nr_blocks && follows(&rd->refs[i + n - 1], &rd->refs[i + n]))
			n++;
		r = start_piece(rd, i, n);
		i += n;
	}
	if (r < 0)
		atomic_store(&rd->error, r);
	reading_put(rd);
}

/* Gives the blocks what their references say; the whole file may be inline. */
static int take_inline(struct reading *rd)
{
	struct nf_vnode *vn = rd->vn;
	struct nf_block *b = &rd->sq->blocks[0];
	struct nf_inode_item item;
	struct nf_val val = { 0 };
	const uint8_t *p = NULL;
	size_t len = 0;

	if (b->index != 0)
		return 0;
	const struct nf_acc *acc = nf_vnode_inline(vn);
	if (acc) {
		p = acc->inline_data;
		len = acc->inline_len;
	} else if (rd->refs[0].sealed_len) {
		return 0;
	} else {
		int r = nf_vnode_inode(vn, &rd->want, &val, &item);
		if (r)
			return r == NF_TREE_NONE ? nf_fail(-NF_E_NO_INODE) : r;
		if (item.flags & NF_INODE_INLINE) {
			p = item.inline_data;
			len = item.inline_len;
		}
	}
	if (len) {
		struct kept *kept = keep(rd, len);
		if (!kept) {
			nf_val_deinit(&val);
			return nf_fail(-ENOMEM);
		}
		memcpy(kept->bytes, p, len);
		b->hole = false;
		b->sealed = kept->bytes;
		b->sealed_len = (uint32_t)len;
		b->plain_len = (uint32_t)len;
		cookie_of(b)->is_inline = true;
		rd->refs[0].sealed_len = 0;
	}
	nf_val_deinit(&val);
	return 0;
}

static int look_up(struct reading *rd)
{
	struct nf_subreq *sq = rd->sq;
	struct nf_block_ref window[NF_WINDOW_BLOCKS];
	uint64_t have = UINT64_MAX;

	for (unsigned i = 0; i < sq->nr_blocks; i++) {
		struct nf_block *b = &sq->blocks[i];
		uint64_t first = b->index / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
		if (first != have) {
			int r = nf_vnode_window(rd->vn, first, &rd->want, window);
			if (r)
				return r;
			have = first;
		}
		rd->refs[i] = window[b->index - first];
		b->hole = rd->refs[i].sealed_len == 0;
		b->plain_len = rd->refs[i].plain_len;
		b->sealed_len = rd->refs[i].sealed_len;
		b->owned = false;
		memset(b->cookie, 0, sizeof b->cookie);
		cookie_of(b)->ref = rd->refs[i];
	}
	return take_inline(rd);
}

static void reading_step(struct reading *rd);

static void reading_again(struct nf_work *w)
{
	reading_step(nf_container_of(w, struct reading, work));
}

static void reading_nodes(struct nf_fetch_nodes *fn)
{
	struct reading *rd = fn->ctx;

	if (fn->error < 0)
		reading_end(rd, fn->error);
	else
		nf_pool_add(rd->v->pool, &rd->work);
}

static void reading_step(struct reading *rd)
{
	rd->want.nr = 0;
	nf_lock_take(&rd->v->ns);
	int r = look_up(rd);
	if (r == 0)
		rd->behind_bytes = bytes_behind(rd);
	nf_lock_drop(&rd->v->ns);
	if (r == 0) {
		start_pieces(rd);
		return;
	}
	if (r != NF_TREE_WANT) {
		reading_end(rd, r);
		return;
	}
	if (!rd->fetch)
		rd->fetch = calloc(1, sizeof *rd->fetch);
	if (!rd->fetch) {
		reading_end(rd, nf_fail(-ENOMEM));
		return;
	}
	memcpy(rd->fetch->refs, rd->want.refs, rd->want.nr * sizeof rd->want.refs[0]);
	rd->fetch->nr = rd->want.nr;
	rd->fetch->priority = NF_STORE_FOREGROUND;
	rd->fetch->done = reading_nodes;
	rd->fetch->ctx = rd;
	rd->fetch->error = 0;
	nf_fetch_nodes(rd->v->fetch, rd->fetch);
}

static void issue_read(struct nf_subreq *sq)
{
	struct reading *rd = calloc(1, sizeof *rd);

	if (rd)
		rd->refs = calloc(sq->nr_blocks, sizeof *rd->refs);
	if (!rd || !rd->refs) {
		free(rd);
		nf_subreq_terminated(sq, nf_fail(-ENOMEM));
		return;
	}
	rd->vn = vnode_of(sq->ic);
	rd->v = rd->vn->v;
	rd->sq = sq;
	atomic_init(&rd->left, 1);
	nf_work_init(&rd->work, reading_again);
	/* Local blocks are read from the disk: not on a FUSE thread. */
	nf_pool_add(rd->v->pool, &rd->work);
}

static int decrypt_block(struct nf_rreq *rq, struct nf_block *b, void *out)
{
	struct cookie *c = cookie_of(b);
	struct nf_vnode *vn = vnode_of(nf_rreq_ictx(rq));
	struct nf_vault *v = vn->v;

	if (c->is_inline) {
		memcpy(out, b->sealed, b->plain_len);
		nf_count(NF_C_READ_COPIED_BYTES, b->plain_len);
		return 0;
	}
	struct nf_seal_id id = { .type = NF_SEAL_BLOCK, .birth = c->ref.birth, .index = c->ref.index };
	struct nf_codec *codec = nf_codec_get(v->ring);
	if (!codec)
		return nf_fail(-ENOMEM);
	int r = nf_codec_open(codec, &id, c->ref.epoch, c->ref.flags, c->ref.tag, b->sealed,
			      b->sealed_len, out, b->plain_len);
	nf_codec_put(codec);
	if (r == 0)
		return 0;
	nf_trace(REQ, "bad block ino=%" PRIx64 " block=%" PRIu64 " err=%s", vn->ino, b->index,
		 nf_error_name(r));
	if (c->from_cache) {
		/* The disk's fault, not the server's: read it again from there. */
		nf_count(NF_C_CACHE_BAD, 1);
		nf_cache_forget(v->cache, &c->ref.pack, c->ref.offset_bytes, c->ref.sealed_len);
		return -EAGAIN;
	}
	if (!nf_ref_is_local(&c->ref.pack))
		nf_count(NF_C_STORE_BAD, 1);
	return nf_fail(r);
}

/* --- writing -------------------------------------------------------------------------------- */

/* A write request's private state: the patches its blocks make, ready before they are needed. */
struct writing {
	struct nf_acc **accs;
	unsigned nr;
	bool storing;         /* counted in the file's `storing`; under ns */
	uint32_t first_index; /* of the first block: one behind the other, whichever thread seals which */
};

static int init_wreq(struct nf_wreq *wq, struct nf_ictx *ic)
{
	struct writing *wr = calloc(1, sizeof *wr);
	unsigned nr;

	*nf_wreq_priv(wq) = wr;
	if (!wr)
		return nf_fail(-ENOMEM);
	(void)nf_wreq_blocks(wq, &nr);
	wr->first_index = atomic_fetch_add(&vnode_of(ic)->v->birth_index, nr);
	return 0;
}

/* From here until the blocks are noted with the file their segment must stay. */
static void storing_begin(struct nf_vnode *vn, struct writing *wr)
{
	struct nf_vault *v = vn->v;

	nf_lock_take(&v->ns);
	if (!wr->storing) {
		NF_ASSERT(v->current);
		uint64_t segment = v->current->first_segment;
		vn->storing_segment = vn->storing ? NF_MIN(vn->storing_segment, segment) : segment;
		vn->storing++;
		wr->storing = true;
	}
	nf_lock_drop(&v->ns);
}

static void storing_end(struct nf_vnode *vn, struct writing *wr) NF_REQUIRES(vn->v->ns)
{
	vn->storing -= wr->storing;
	wr->storing = false;
}

static void cleanup_wreq(struct nf_wreq *wq)
{
	struct writing *wr = *nf_wreq_priv(wq);
	struct nf_vnode *vn = vnode_of(nf_wreq_ictx(wq));

	if (wr->storing) {
		nf_lock_take(&vn->v->ns);
		storing_end(vn, wr);
		nf_lock_drop(&vn->v->ns);
	}

	for (unsigned i = 0; i < wr->nr; i++)
		nf_acc_free(wr->accs[i]);
	free(wr->accs);
	free(wr);
	unsigned nr;
	struct nf_block *b = nf_wreq_blocks(wq, &nr);
	for (unsigned i = 0; i < nr; i++) {
		if (b[i].sealed != b[i].plain)
			free(b[i].sealed);
		b[i].sealed = NULL;
	}
}

static int encrypt_block(struct nf_wreq *wq, struct nf_block *b)
{
	struct nf_ictx *ic = nf_wreq_ictx(wq);
	struct nf_vault *v = vnode_of(ic)->v;
	struct cookie *c = cookie_of(b);

	memset(c, 0, sizeof *c);
	if (b->index == 0 && b->plain_len <= NF_INLINE_MAX) {
		c->is_inline = true;
		b->sealed = b->plain;
		b->sealed_len = 0;
		return 0;
	}
	const struct writing *wr = *nf_wreq_priv(wq);
	unsigned nr;
	const struct nf_block *first = nf_wreq_blocks(wq, &nr);
	NF_ASSERT(b >= first && b < first + nr);
	struct nf_seal_id id = { .type = NF_SEAL_BLOCK, .birth = v->birth,
				 .index = wr->first_index + (uint32_t)(b - first) };
	struct nf_sealed_info info;
	size_t cap = nf_codec_bound(b->plain_len);
	void *out = malloc(cap);
	struct nf_codec *codec = nf_codec_get(v->ring);
	int r = out && codec ? nf_codec_seal(codec, &id, b->plain, b->plain_len, ic->block_bytes, true,
					     out, cap, &info, NULL)
			     : nf_fail(-ENOMEM);
	if (codec)
		nf_codec_put(codec);
	if (r < 0) {
		free(out);
		return r;
	}
	b->sealed = out;
	b->sealed_len = info.sealed_len;
	c->ref = (struct nf_block_ref){ .sealed_len = info.sealed_len, .plain_len = b->plain_len,
					.birth = id.birth, .index = id.index, .epoch = info.epoch,
					.flags = info.flags };
	memcpy(c->ref.tag, info.tag, sizeof info.tag);
	return 0;
}

static int make_accs(struct nf_wreq *wq, struct nf_block *blocks, unsigned nr)
{
	struct writing *wr = *nf_wreq_priv(wq);

	for (unsigned i = 0; i < nr; i++) {
		struct nf_block *b = &blocks[i];
		struct cookie *c = cookie_of(b);
		uint64_t first = b->index / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
		struct nf_acc *a = wr->nr ? wr->accs[wr->nr - 1] : NULL;
		if (!a || a->first_block != first) {
			struct nf_acc **accs = realloc(wr->accs, (wr->nr + 1) * sizeof *accs);
			if (!accs)
				return nf_fail(-ENOMEM);
			wr->accs = accs;
			a = nf_acc_new(first, nf_wreq_group(wq));
			if (!a)
				return nf_fail(-ENOMEM);
			wr->accs[wr->nr++] = a;
		}
		if (c->is_inline) {
			a->is_inline = true;
			a->inline_len = (uint16_t)b->plain_len;
			memcpy(a->inline_data, b->plain, b->plain_len);
		} else {
			int r = nf_acc_reserve(a, (unsigned)(b->index - first) + 1);
			if (r < 0)
				return r;
			a->known[b->index - first] = true;
			a->refs[b->index - first] = c->ref;
		}
	}
	return 0;
}

static void issue_write(struct nf_subreq *sq)
{
	struct nf_vault *v = vnode_of(sq->ic)->v;
	struct iovec *iov = calloc(sq->nr_blocks, sizeof *iov);
	struct nf_journal_pos pos;
	int nr = 0, r = 0;

	if (!iov) {
		nf_subreq_terminated(sq, nf_fail(-ENOMEM));
		return;
	}
	for (unsigned i = 0; i < sq->nr_blocks; i++)
		if (sq->blocks[i].sealed_len)
			iov[nr++] = (struct iovec){ sq->blocks[i].sealed, sq->blocks[i].sealed_len };
	if (nr) {
		storing_begin(vnode_of(sq->ic), *nf_wreq_priv(sq->wreq));
		r = nf_journal_data(v->journal, iov, nr, &pos);
	}
	if (r == 0 && nr) {
		uint64_t at = pos.offset_bytes;
		for (unsigned i = 0; i < sq->nr_blocks; i++) {
			struct nf_block_ref *ref = &cookie_of(&sq->blocks[i])->ref;
			if (!ref->sealed_len)
				continue;
			nf_ref_make_local(&ref->pack, pos.segment);
			ref->offset_bytes = (uint32_t)at;
			at += ref->sealed_len;
		}
	}
	if (r == 0)
		r = make_accs(sq->wreq, sq->blocks, sq->nr_blocks);
	free(iov);
	nf_subreq_terminated(sq, r);
}

/* What NOW says comes over what A says.  No memory is needed: the larger of the two arrays stays. */
static void acc_merge(struct nf_acc *a, struct nf_acc *now)
{
	if (now->cap > a->cap) {
		struct nf_block_ref *refs = now->refs;
		for (unsigned b = 0; b < now->cap; b++)
			if (!now->known[b])
				refs[b] = b < a->cap ? a->refs[b] : (struct nf_block_ref){ 0 };
		now->refs = a->refs;
		a->refs = refs;
		a->cap = now->cap;
	} else {
		for (unsigned b = 0; b < now->cap; b++)
			if (now->known[b])
				a->refs[b] = now->refs[b];
	}
	for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
		a->known[b] |= now->known[b];
	if (now->known[0])
		a->is_inline = false;
	if (now->is_inline) {
		a->is_inline = true;
		a->inline_len = now->inline_len;
		memcpy(a->inline_data, now->inline_data, now->inline_len);
		a->known[0] = false;
	}
}

static void write_stored(struct nf_wreq *wq)
{
	struct writing *wr = *nf_wreq_priv(wq);
	struct nf_vnode *vn = vnode_of(nf_wreq_ictx(wq));

	nf_lock_take(&vn->v->ns);
	for (unsigned i = 0; i < wr->nr; i++) {
		struct nf_acc *now = wr->accs[i];
		uint64_t first = now->first_block, stored = 0;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			stored += now->known[b] ? now->refs[b].sealed_len : 0;
			vn->acc_refs += now->known[b];
			vn->v->acc_refs += now->known[b];
		}
		struct nf_acc *a = nf_acc_find(vn, now->first_block, now->group);
		wr->accs[i] = NULL;
		if (!a) {
			nf_acc_add(vn, now);
			a = now;
		} else {
			acc_merge(a, now);
			nf_acc_free(now);
		}
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
			if (a->known[b])
				vn->acc_bytes += a->refs[b].sealed_len;
		if (stored)
			nf_ahead_stored(vn, first, stored);
	}
	wr->nr = 0;
	storing_end(vn, wr);
	nf_vnode_dirty(vn);
	nf_space_note(vn->v);
	nf_lock_drop(&vn->v->ns);
}

/* --- groups ------------------------------------------------------------------------------------ */

/* Blocks [from, to) of the group become holes: said explicitly below CUT (the blocks from there on are cut off as a whole before the
 * group's own come), merely not mentioned above. */
static int hole_blocks(struct nf_vnode *vn, uint64_t group, uint64_t from, uint64_t to, uint64_t cut)
{
	for (uint64_t b = from; b < NF_MIN(to, cut);) {
		uint64_t first = b / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
		struct nf_acc *a = nf_acc_find(vn, first, group);
		if (!a) {
			a = nf_acc_new(first, group);
			if (!a)
				return nf_fail(-ENOMEM);
			nf_acc_add(vn, a);
		}
		uint64_t end = NF_MIN(to, cut);
		int r = nf_acc_reserve(a, (unsigned)(NF_MIN(end, first + NF_WINDOW_BLOCKS) - first));
		if (r < 0)
			return r;
		for (; b < NF_MIN(to, cut) && b < first + NF_WINDOW_BLOCKS; b++) {
			a->known[b - first] = true;
			memset(&a->refs[b - first], 0, sizeof a->refs[0]);
		}
	}
	for (struct nf_avl_node *n = nf_avl_first(&vn->acc); n; n = nf_avl_next(n)) {
		struct nf_acc *a = nf_container_of(n, struct nf_acc, node);
		if (a->group != group)
			continue;
		for (uint64_t k = 0; k < NF_WINDOW_BLOCKS; k++) {
			uint64_t b = a->first_block + k;
			if (b >= cut && b >= from && b < to)
				a->known[k] = false;
		}
	}
	return 0;
}

/* What was punched or cut off and not written again.  A hole up to the end of the file is a truncation by another
 * name, whatever its size. */
static int add_holes(struct nf_vnode *vn, const struct nf_group_info *g, uint64_t *least_size_bytes)
{
	uint32_t bs = 1u << vn->block_shift;

	for (size_t i = 0; i < g->nr_holes; i++)
		if (g->holes[i].end >= g->size_bytes)
			*least_size_bytes = NF_MIN(*least_size_bytes, g->holes[i].start);
	uint64_t cut = *least_size_bytes == UINT64_MAX ? UINT64_MAX
						       : *least_size_bytes / bs + (*least_size_bytes % bs != 0);
	for (size_t i = 0; i < g->nr_holes; i++) {
		uint64_t from = g->holes[i].start / bs + (g->holes[i].start % bs != 0);
		uint64_t to = g->holes[i].end >= g->size_bytes ? UINT64_MAX : g->holes[i].end / bs;
		int r = hole_blocks(vn, g->group, from, to, cut);
		if (r < 0)
			return r;
	}
	return 0;
}

static uint32_t encode_windows(struct nf_vnode *vn, const struct nf_group_info *g, struct nf_buf *b)
{
	uint32_t nr = 0;
	uint64_t blocks = (g->size_bytes + (1u << vn->block_shift) - 1) >> vn->block_shift;

	for (struct nf_avl_node *n = nf_avl_first(&vn->acc); n; n = nf_avl_next(n)) {
		struct nf_acc *a = nf_container_of(n, struct nf_acc, node);
		struct nf_buf value = NF_BUF_INIT;
		bool any = false;
		if (a->group != g->group || a->first_block >= blocks)
			continue;
		for (uint64_t i = 0; i < NF_WINDOW_BLOCKS; i++) {
			if (a->first_block + i >= blocks)
				a->known[i] = false;
			any |= a->known[i];
		}
		if (!any)
			continue;
		nf_extent_encode(&value, a->refs, a->known, 1u << vn->block_shift, true);
		nf_buf_u64(b, a->first_block);
		nf_buf_str16(b, value.p, value.len);
		if (value.failed)
			b->failed = true;
		nf_buf_deinit(&value);
		nr++;
	}
	return nr;
}

/* The DATA operation of a drained group. */
static int log_group(struct nf_vnode *vn, const struct nf_group_info *g)
{
	struct nf_vault *v = vn->v;
	bool frozen = v->frozen && vn->in_cut && g->group <= vn->cut_group;
	struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	struct nf_buf windows = NF_BUF_INIT, ranges = NF_BUF_INIT;
	uint8_t small[NF_INLINE_MAX] = { 0 };

	struct nf_apply a = nf_vault_apply(v, frozen ? v->frozen : v->current, frozen);
	if (vn->orphan) {
		a.view = nf_vnode_view(vn);
		a.layer = vn->orphan_layer;
	}
	int r = nf_apply_inode(&a, vn->ino, &w, &val, &item);
	nf_want_deinit(&w);
	if (r == NF_TREE_NONE)
		return 0; /* removed meanwhile: nobody will ask for it */
	if (r)
		return r < 0 ? r : nf_fail(-NF_E_TREE_BAD);
	uint64_t least = g->least_size_bytes;
	r = add_holes(vn, g, &least);
	struct nf_op op = {
		.kind = NF_OP_DATA, .conflict_mode = NF_MODE_STASH, .ino = vn->ino, .stamp = item.stamp,
		.time = vn->pending_times ? vn->change_time : nf_clock_real(),
		.mtime = vn->pending_times ? vn->mtime : item.mtime,
		.size_before = item.size_bytes, .least_size = least,
		.size_after = g->size_bytes,
		.flags = (uint8_t)((g->appended ? NF_OPF_APPEND : 0) |
				   (g->page_granular ? NF_OPF_PAGE_GRANULAR : 0)),
	};
	const struct nf_acc *first = nf_acc_find(vn, 0, g->group);
	if (g->size_bytes <= NF_INLINE_MAX && first && first->is_inline) {
		memcpy(small, first->inline_data, NF_MIN((size_t)first->inline_len, (size_t)g->size_bytes));
		op.flags |= NF_OPF_INLINE;
	} else if (g->size_bytes <= NF_INLINE_MAX && item.flags & NF_INODE_INLINE &&
		   !(first && first->known[0] && first->refs[0].sealed_len)) {
		uint64_t keep_len = NF_MIN(g->size_bytes, least);
		keep_len = NF_MIN(keep_len, (uint64_t)item.inline_len);
		if (item.inline_len && !(first && first->known[0]))
			memcpy(small, item.inline_data, keep_len);
		op.flags |= NF_OPF_INLINE;
	} else {
		op.nr_windows = encode_windows(vn, g, &windows);
		op.windows = windows.p;
		op.windows_len = windows.len;
	}
	if (op.flags & NF_OPF_INLINE) {
		op.inline_data = small;
		op.inline_len = (uint16_t)g->size_bytes;
	}
	for (size_t i = 0; i < g->nr_ranges; i++) {
		nf_buf_u64(&ranges, g->ranges[i].start);
		nf_buf_u64(&ranges, g->ranges[i].end);
	}
	op.ranges = ranges.p;
	op.nr_ranges = (uint32_t)g->nr_ranges;
	if (r == 0)
		r = nf_buf_error(&windows);
	if (r == 0)
		r = nf_buf_error(&ranges);
	if (r == 0)
		r = nf_vault_do_data(v, vn, &op, frozen);
	nf_val_deinit(&val);
	nf_buf_deinit(&windows);
	nf_buf_deinit(&ranges);
	return r;
}

static int group_stored(struct nf_ictx *ic, const struct nf_group_info *g)
{
	struct nf_vnode *vn = vnode_of(ic);
	struct nf_vault *v = vn->v;

	nf_lock_take(&v->ns);
	int r = log_group(vn, g);
	if (r < 0) {
		/* Out of memory, or a tree we checked no longer decodes: the blocks stay noted with the file, so
		 * it reads right; fsync says so, and the group is offered again. */
		nf_trace(REQ, "group not told ino=%" PRIx64 " err=%s", vn->ino, nf_error_name(r));
		v->last_error = r;
	} else {
		nf_acc_drop(vn, g->group);
		nf_space_note(v);
		if (!nf_is_dirty(ic))
			vn->pending_times = false;
	}
	nf_lock_drop(&v->ns);
	return r;
}

const struct nf_netfs_ops nf_vault_netfs_ops = {
	.name = "vault",
	.cleanup_rreq = cleanup_rreq,
	.init_wreq = init_wreq,
	.cleanup_wreq = cleanup_wreq,
	.issue_read = issue_read,
	.decrypt_block = decrypt_block,
	.encrypt_block = encrypt_block,
	.issue_write = issue_write,
	.write_stored = write_stored,
	.group_stored = group_stored,
};
