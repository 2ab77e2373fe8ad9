/* vault/check_repair.c - what is missing or damaged, as far as it can be had elsewhere.
 *
 *   repair    packs of which something is bad are emptied as the collector empties packs (gc_move.c): whatever this machine's
 *             cache or journal holds of them, or the store still has, goes into new packs, and all trees name those
 *   restore   a file of the newest state with blocks that nobody has: the newest whole version of it in a snapshot or a kept
 *             commit is put beside it, under a name that says so.  It costs names and references, no data
 *
 * Nothing is taken away: what was lost still gives an error where it is read. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/check_i.h"

#include <inttypes.h>
#include <stdio.h>

enum { NAMES_TRIED = 100, ROUNDS_MAX = 4 };

static int repair_round(struct nf_check *k, struct nf_pack_set *from, struct nf_gc_moved *moved)
{
	struct nf_gc g = { .v = k->v, .src = k->v->src };

	nf_lock_take(&k->v->ns);
	int r = nf_head_copy(&g.leaf, &k->v->base);
	nf_lock_drop(&k->v->ns);
	if (r == 0)
		r = nf_gc_items(&g);
	nf_gc_sort(&g);
	struct nf_gc_move m = { .v = k->v, .src = &k->v->src, .leaf = &g.leaf.root, .roots = g.roots,
				.nr_roots = g.nr_roots, .deltas = g.deltas, .nr_deltas = g.nr_deltas, .from = from,
				.tolerant = true, .pace = { .stop = k->o.stop } };
	if (r == 0 || nf_is_damage(r))
		r = nf_gc_move(&m, moved);
	if (r == 0 && (moved->ops || moved->nodes))
		r = nf_vault_sync(k->v, k->o.stop);
	nf_gc_items_deinit(&g);
	nf_head_deinit(&g.leaf);
	return r;
}

/* The commit that puts things elsewhere has a parent, with its delta, that still stands where it stood: so again. */
int nf_check_repair(struct nf_check *k)
{
	struct nf_pack_set from = NF_PACK_SET_INIT;
	struct nf_gc_moved sum = { 0 };
	bool more = true;
	int r = 0;

	for (struct nf_pack_entry *e = nf_pack_set_first(&k->packs); r == 0 && e; e = nf_pack_set_next(e))
		if (e->needed && e->condemned && !nf_pack_set_get(&from, &e->id))
			r = nf_fail(-ENOMEM);
	for (int i = 0; r == 0 && from.nr && more && i < ROUNDS_MAX; i++) {
		struct nf_gc_moved moved = { 0 };
		r = repair_round(k, &from, &moved);
		more = moved.ops || moved.nodes;
		sum.blocks += moved.blocks;
		sum.nodes += moved.nodes;
		sum.trees += moved.trees;
		sum.lost = moved.lost;
	}
	if (r == 0 && from.nr)
		nf_check_say(k, "put on the store again: %" PRIu64 " blocks and lists of operations, %" PRIu64 " nodes of the newest tree, %"
			     PRIu64 " trees of commits and snapshots; %" PRIu64 " objects are nowhere to be had", sum.blocks,
			     sum.nodes, sum.trees, sum.lost);
	nf_pack_set_deinit(&from);
	return r;
}

/* --- older versions -------------------------------------------------------------------------- */

struct version {
	struct nf_check *k;
	uint64_t ino;
	struct nf_inode_item item;
	uint8_t inline_data[NF_INLINE_MAX];
	bool found, whole;
	struct nf_buf windows; /* of a DATA operation */
	uint32_t nr_windows;
};

/* Blocks of one window, if all of them can be had. */
static int add_window(struct version *v, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref = { 0 };
	struct nf_buf value = NF_BUF_INIT;
	uint32_t bs = 1u << v->item.block_shift;

	int r = nf_gc_window(&v->k->v->src, val, bs, &ref, refs);
	for (int b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++) {
		known[b] = refs[b].sealed_len != 0;
		if (known[b])
			r = nf_check_range(v->k, &refs[b].pack, refs[b].offset_bytes, refs[b].sealed_len);
	}
	if (r < 0)
		return r;
	nf_extent_encode(&value, refs, known, bs, true);
	nf_buf_u64(&v->windows, key->a);
	nf_buf_str16(&v->windows, value.p, value.len);
	v->nr_windows++;
	r = nf_buf_error(&value);
	nf_buf_deinit(&value);
	return r < 0 ? r : nf_buf_error(&v->windows);
}

static int see_version(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct version *v = ctx;

	if (key->type == NF_ITEM_INODE) {
		int r = nf_inode_decode(val->p, val->len, &v->item);
		if (r < 0 || !S_ISREG(v->item.mode))
			return r;
		if (v->item.inline_len)
			memcpy(v->inline_data, v->item.inline_data, v->item.inline_len);
		v->item.inline_data = v->inline_data;
		v->found = true;
	}
	return key->type == NF_ITEM_EXTENT && v->found ? add_window(v, key, val) : 0;
}

/* The version of V->ino in the tree ROOT: v->whole says that there is one and that all of it can be read. */
static int look_in(struct version *v, const struct nf_ref *root)
{
	const struct nf_key from = nf_key_inode(v->ino), to = { .ino = v->ino, .type = NF_ITEM_EXTENT + 1 };

	v->found = v->whole = false;
	v->windows.len = 0;
	v->nr_windows = 0;
	int r = nf_ref_is_null(root) ? 0 : nf_gc_range(&v->k->v->src, root, &from, &to, see_version, v);
	v->whole = r == 0 && v->found;
	return nf_is_damage(r) ? 0 : r;
}

/* A name that is free in DIR. */
static int free_name(struct nf_check *k, uint64_t dir, const char *name, uint64_t seq, char out[NF_NAME_MAX + 1])
{
	for (int i = 0; i < NAMES_TRIED; i++) {
		nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
		char tail[80];
		uint64_t ino;
		uint8_t type;
		int r;
		(void)snprintf(tail, sizeof tail, i ? " (recovered from commit %" PRIu64 ", %d)" : " (recovered from commit %" PRIu64 ")",
			       seq, i + 1);
		(void)snprintf(out, NF_NAME_MAX + 1, "%.*s%s", (int)(NF_NAME_MAX - strlen(tail)), name, tail);
		do {
			nf_lock_take(&k->v->ns);
			struct nf_view view = nf_vault_view(k->v);
			r = nf_view_find(&view, k->v->ring, dir, out, strlen(out), &w, &ino, &type);
			nf_lock_drop(&k->v->ns);
			if (r == NF_TREE_WANT) {
				int l = k->v->src.load(k->v->src.ctx, &w);
				if (l < 0)
					return l;
				w.nr = 0;
			}
		} while (r == NF_TREE_WANT);
		if (r < 0 || r == NF_TREE_NONE)
			return r < 0 ? r : 0;
	}
	return nf_fail(-EEXIST);
}

static int put_beside(struct version *v, uint64_t dir, const char *name)
{
	struct nf_vault *vault = v->k->v;
	struct timespec now = nf_clock_real();

	nf_lock_take(&vault->ns);
	uint64_t ino = nf_vault_new_ino(vault);
	nf_lock_drop(&vault->ns);
	struct nf_op create = { .kind = NF_OP_CREATE, .conflict_mode = NF_MODE_STASH, .time = now, .ino = ino, .parent = dir,
				.name = name, .name_len = (uint8_t)strlen(name), .mode = v->item.mode, .uid = v->item.uid,
				.gid = v->item.gid, .block_shift = v->item.block_shift };
	struct nf_op data = { .kind = NF_OP_DATA, .conflict_mode = NF_MODE_STASH, .time = now, .ino = ino,
			      .stamp = { 0, 0 }, .mtime = v->item.mtime, .least_size = UINT64_MAX,
			      .size_after = v->item.size_bytes, .windows = v->windows.p, .windows_len = v->windows.len,
			      .nr_windows = v->nr_windows };
	if (v->item.flags & NF_INODE_INLINE) {
		data.flags = NF_OPF_INLINE;
		data.inline_data = v->inline_data;
		data.inline_len = v->item.inline_len;
	}
	int r = nf_vault_do_waiting(vault, &create);
	return r < 0 || !v->item.size_bytes ? r : nf_vault_do_waiting(vault, &data);
}

/* The newest whole version of INO is put beside it, if there is one. */
static int restore(struct nf_check *k, const struct nf_gc *g, uint64_t ino)
{
	struct nf_view view = { .nodes = k->v->nodes, .base = k->root };
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	char path[2048], name[NF_NAME_MAX + 1], now[NF_NAME_MAX + 1];
	struct version v = { .k = k, .ino = ino };
	const struct nf_gc_root *root = NULL;
	uint64_t dir;
	uint8_t len;
	int r = 0;

	nf_check_path(k, ino, path, sizeof path);
	for (size_t i = g->nr_roots; r == 0 && !v.whole && i-- > 0;) {
		root = &g->roots[i];
		r = look_in(&v, &root->root);
	}
	if (r == 0 && !v.whole) {
		nf_check_say(k, "%s: no kept commit and no snapshot has a whole version of it", path);
		goto out;
	}
	while (r == 0 && (r = nf_view_parent(&view, ino, &w, &dir, name, &len)) == NF_TREE_WANT) {
		r = k->v->src.load(k->v->src.ctx, &w);
		w.nr = 0;
	}
	if (r == 0)
		r = free_name(k, dir, name, root->seq, now);
	if (r == 0)
		r = put_beside(&v, dir, now);
	if (r == 0) {
		nf_check_say(k, "%s: its version of commit %" PRIu64 ", %" PRIu64 " bytes, is beside it as \"%s\"", path, root->seq,
			     v.item.size_bytes, now);
		k->r.restored++;
	}
out:
	nf_buf_deinit(&v.windows);
	return nf_is_damage(r) || r == NF_TREE_NONE ? 0 : r;
}

int nf_check_restore(struct nf_check *k)
{
	struct nf_gc g = { .v = k->v, .src = k->v->src };

	nf_lock_take(&k->v->ns);
	int r = nf_head_copy(&g.leaf, &k->v->base);
	nf_lock_drop(&k->v->ns);
	if (r == 0)
		r = nf_gc_items(&g);
	nf_gc_sort(&g);
	k->newest = true;
	k->root = g.leaf.root;
	for (size_t i = 0; r == 0 && i < k->nr_hurt; i++)
		r = restore(k, &g, k->hurt[i]);
	if (r == 0 && k->r.restored)
		r = nf_vault_sync(k->v, k->o.stop);
	nf_gc_items_deinit(&g);
	nf_head_deinit(&g.leaf);
	return nf_is_damage(r) ? 0 : r;
}
