/* tests/lib/squash.h - operations made less must say the same: replayed on what they were made on they give the state
 * that is there. */
#ifndef NF_TESTS_SQUASH_H
#define NF_TESTS_SQUASH_H

#include "vault/apply_priv.h"
#include "vault/commit.h"
#include "vault/shelf.h"
#include "vault/squash.h"
#include "vfs.h"

static inline int squash_inode(void *ctx, uint64_t ino, struct nf_inode_item *out)
{
	struct nf_vault *v = ctx;
	struct nf_key key = nf_key_inode(ino);
	const void *p;
	size_t len;
	int r = nf_layer_get(v->current->layer, &key, &p, &len);
	return r == 0 ? nf_inode_decode(p, len, out) : NF_TREE_NONE;
}

static inline int squash_next(struct nf_vault *v, const struct nf_view *view, const struct nf_key *from, struct nf_key *key,
			      struct nf_val *val)
{
	static const struct nf_key end = { .ino = UINT64_MAX };
	struct nf_want w = NF_WANT_INIT;
	int r;
	while ((r = nf_view_next(view, from, &end, &w, key, val)) == NF_TREE_WANT) {
		ck_assert_int_eq(v->src.load(v->src.ctx, &w), 0);
		w.nr = 0;
	}
	nf_want_deinit(&w);
	return r;
}

static inline void squash_window(struct nf_vault *v, const struct nf_view *view, const struct nf_key *key,
				 struct nf_block_ref out[NF_WINDOW_BLOCKS])
{
	struct nf_key ikey = nf_key_inode(key->ino);
	struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	int r;
	while ((r = nf_view_lookup(view, &ikey, &w, &val)) == NF_TREE_WANT)
		ck_assert_int_eq(v->src.load(v->src.ctx, &w), 0);
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(nf_inode_decode(val.p, val.len, &item), 0);
	nf_val_deinit(&val);
	while ((r = nf_extent_lookup(view, key->ino, key->a, 1u << item.block_shift, &w, out)) == NF_TREE_WANT)
		ck_assert_int_eq(v->src.load(v->src.ctx, &w), 0);
	ck_assert_int_eq(r, 0);
	nf_want_deinit(&w);
}

/* Change times, and modification times of directories, may be later. */
static inline void squash_same_inode(const struct nf_val *x, const struct nf_val *y)
{
	struct nf_inode_item a, b;
	ck_assert_int_eq(nf_inode_decode(x->p, x->len, &a), 0);
	ck_assert_int_eq(nf_inode_decode(y->p, y->len, &b), 0);
	ck_assert_int_ge(b.ctime.tv_sec, a.ctime.tv_sec);
	b.ctime = a.ctime;
	if (S_ISDIR(a.mode)) {
		ck_assert_int_ge(b.mtime.tv_sec, a.mtime.tv_sec);
		b.mtime = a.mtime;
	}
	struct nf_buf p = NF_BUF_INIT, q = NF_BUF_INIT;
	nf_inode_encode(&p, &a);
	nf_inode_encode(&q, &b);
	ck_assert_uint_eq(p.len, q.len);
	ck_assert_mem_eq(p.p, q.p, p.len);
	nf_buf_deinit(&p);
	nf_buf_deinit(&q);
}

/* The first item at or behind FROM that is more than a window of holes. */
static inline int squash_item(struct nf_vault *v, const struct nf_view *view, struct nf_key from, struct nf_key *key,
			      struct nf_val *val, struct nf_block_ref refs[NF_WINDOW_BLOCKS])
{
	for (;;) {
		int r = squash_next(v, view, &from, key, val);
		if (r || key->type != NF_ITEM_EXTENT)
			return r;
		squash_window(v, view, key, refs);
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
			if (refs[b].sealed_len)
				return 0;
		nf_val_deinit(val);
		*val = (struct nf_val){ 0 };
		from = *key;
		from.a++;
	}
}

static inline void squash_same_view(struct nf_vault *v, const struct nf_view *x, const struct nf_view *y)
{
	static struct nf_block_ref rx[NF_WINDOW_BLOCKS], ry[NF_WINDOW_BLOCKS];
	struct nf_key from = { .ino = 0 };
	for (;;) {
		struct nf_key kx, ky;
		struct nf_val vx = { 0 }, vy = { 0 };
		int r = squash_item(v, x, from, &kx, &vx, rx);
		ck_assert_int_eq(squash_item(v, y, from, &ky, &vy, ry), r);
		if (r == NF_TREE_NONE)
			return;
		ck_assert_int_eq(r, 0);
		ck_assert_uint_eq(kx.ino, ky.ino);
		ck_assert_int_eq(nf_key_cmp(&kx, &ky), 0);
		if (kx.type == NF_ITEM_EXTENT) {
			for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
				ck_assert_uint_eq(rx[b].sealed_len, ry[b].sealed_len);
				if (rx[b].sealed_len)
					ck_assert(!memcmp(rx[b].tag, ry[b].tag, sizeof rx[b].tag) && rx[b].plain_len == ry[b].plain_len);
			}
		} else if (kx.type == NF_ITEM_INODE) {
			squash_same_inode(&vx, &vy);
		} else {
			ck_assert_uint_eq(vx.len, vy.len);
			ck_assert_mem_eq(vx.p, vy.p, vx.len);
		}
		nf_val_deinit(&vx);
		nf_val_deinit(&vy);
		from = kx;
		if (++from.b == 0)
			from.a++;
	}
}

/* What M's current epoch becomes if one operation may name blocks in WINDOWS_MAX_BYTES; nothing changes.  Bytes before and after. */
static inline size_t squash_check_max(struct vfs *m, size_t windows_max_bytes, size_t *before)
{
	struct nf_vault *v = m->v;
	ck_assert_int_eq(nf_settle(v), 0);
	struct nf_epoch *e = v->current;
	struct nf_squash q = { .ops = e->ops.p, .len = e->ops.len, .inode = squash_inode, .ctx = v,
			       .windows_max_bytes = windows_max_bytes };
	const struct nf_layer *below = v->frozen && !v->frozen->aside ? v->frozen->layer : NULL;
	struct nf_layer *l;

	ck_assert_int_eq(nf_squash(&q), 0);
	ck_assert_uint_eq(q.nr_in, e->nr_ops);
	ck_assert_int_eq(nf_layer_new(&l), 0);
	struct nf_apply a = {
		.view = { .nodes = v->nodes, .base = nf_shelf_root(v), .layers = { l, below } }, .layer = l, .ring = v->ring,
		.dot = { v->writer, e->seq }, .host = v->host, .base_root = e->base_root, .base_layer = below,
	};
	ck_assert_int_eq(nf_replay(v, &a, q.out.p, q.out.len, NULL), 0);
	ck_assert_uint_eq(a.conflicts, 0);
	ck_assert_int_eq(a.inodes, e->inodes);
	ck_assert_int_eq(a.bytes, e->bytes);
	struct nf_view now = nf_vault_view(v);
	squash_same_view(v, &now, &a.view);
	*before = q.len;
	size_t after = q.out.len;
	nf_apply_deinit(&a);
	nf_layer_free(l);
	nf_buf_deinit(&q.out);
	return after;
}

static inline size_t squash_check(struct vfs *m, size_t *before) { return squash_check_max(m, 0, before); }

#endif
