/* vault/file_state.c - user.foliofs.state: where the newest version of one file stands.
 *
 *	dirty      changed here, and not on the server
 *	uploading  the same, and just being sent
 *	pinned     on the server, and kept here (keeper.c; user.foliofs.pin tells how much of it is here)
 *	cold       on the server, and something of what was looked at is not in the cache
 *	clean      on the server, and here
 *
 * What changes a file changes its INODE item, if only by ctime: so this item alone says whether the server has it.  Nothing is
 * asked of the kernel, and nothing is fetched but nodes of the tree that the cache does not have. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/vault_i.h"

/* Windows of blocks looked at for `cold`: the first that are no holes.  It must cost the same for files of any size. */
enum { WINDOWS_MAX = 8 };

static bool has(const struct nf_epoch *e, const struct nf_key *key)
{
	const void *value;
	size_t len;

	return e && nf_layer_get(e->layer, key, &value, &len) == 0;
}

/* Does the base have another INODE item than ITEM?  1: yes; 0, NF_TREE_WANT or an error. */
static int is_shelved(struct nf_vault *v, const struct nf_key *key, const struct nf_val *item, struct nf_want *w)
{
	struct nf_view base = { .nodes = v->nodes, .base = v->base.root };
	struct nf_val val = { 0 };

	if (!v->nr_shelf)
		return 0;
	int r = nf_view_lookup(&base, key, w, &val);
	if (r == NF_TREE_NONE)
		return 1;
	if (r == 0)
		r = val.len != item->len || memcmp(val.p, item->p, val.len) != 0;
	nf_val_deinit(&val);
	return r;
}

/* Is something of its first windows not in the cache?  1: yes; 0, NF_TREE_WANT or an error. */
static int is_cold(struct nf_vault *v, uint64_t ino, const struct nf_inode_item *item, struct nf_want *w)
{
	struct nf_view view = nf_vault_view(v);
	struct nf_key at = { .ino = ino, .type = NF_ITEM_EXTENT }, end = { .ino = ino, .type = NF_ITEM_EXTENT + 1 };

	for (int i = 0; v->cache && i < WINDOWS_MAX; i++) {
		struct nf_block_ref refs[NF_WINDOW_BLOCKS];
		struct nf_val val = { 0 };
		struct nf_key key;
		int r = nf_view_next(&view, &at, &end, w, &key, &val);
		if (r == NF_TREE_NONE)
			break;
		nf_val_deinit(&val);
		if (r == 0)
			r = nf_extent_lookup(&view, ino, key.a, 1u << item->block_shift, w, refs);
		if (r)
			return r;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			const struct nf_block_ref *ref = &refs[b];
			if (nf_cache_present(v->cache, &ref->pack, ref->offset_bytes, ref->sealed_len) < ref->sealed_len)
				return 1;
		}
		at.a = key.a + NF_WINDOW_BLOCKS;
	}
	return 0;
}

/* Not `pending_times`: they go with data, or with an operation at once, and may stay noted after a group that others followed. */
static bool has_untold_data(struct nf_vnode *vn)
{
	return vn && (nf_is_dirty(&vn->ic) || !nf_avl_empty(&vn->acc));
}

/* 0 with *WORD, or what keeps it from being known. */
static int state_of(struct nf_vault *v, uint64_t ino, const struct nf_val *val, const struct nf_inode_item *item,
		    struct nf_want *w, const char **word)
{
	struct nf_key key = { .ino = ino, .type = NF_ITEM_INODE };
	struct nf_buf pin = NF_BUF_INIT;

	bool changed = has_untold_data(nf_vnode_find(v, ino)) || has(v->current, &key);
	if (changed || has(v->frozen, &key)) {
		*word = changed || v->away ? "dirty" : "uploading";
		return 0;
	}
	int r = is_shelved(v, &key, val, w);
	if (r) {
		*word = "dirty";
		return r == 1 ? 0 : r;
	}
	r = nf_pin_xattr(v, ino, w, &pin);
	nf_buf_deinit(&pin);
	if (r != NF_TREE_NONE) {
		*word = "pinned";
		return r;
	}
	r = is_cold(v, ino, item, w);
	*word = r == 1 ? "cold" : "clean";
	return r == 1 ? 0 : r;
}

int nf_state_xattr(struct nf_vault *v, uint64_t ino, struct nf_want *w, struct nf_buf *b)
{
	struct nf_vnode *vn = nf_vnode_find(v, ino);
	struct nf_inode_item item;
	struct nf_val val = { 0 };
	const char *word = NULL;

	if (vn && vn->orphan)
		return NF_TREE_NONE; /* it goes nowhere */
	int r = nf_vault_inode(v, ino, w, &val, &item);
	if (r)
		return r;
	r = S_ISREG(item.mode) ? state_of(v, ino, &val, &item, w, &word) : NF_TREE_NONE;
	if (r == 0)
		nf_buf_bytes(b, word, strlen(word));
	nf_val_deinit(&val);
	return r ? r : nf_buf_error(b);
}
