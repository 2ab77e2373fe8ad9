/* vault/lookup.c - what stands at a key, a name or a block of a view. */
#include "vault/apply.h"

#include "base/error.h"
#include "base/trace.h"
#include "vault/node.h"

struct nf_key nf_key_inode(uint64_t ino)
{
	return (struct nf_key){ .ino = ino, .type = NF_ITEM_INODE };
}

struct nf_key nf_key_dirent(uint64_t dir, uint64_t hash)
{
	return (struct nf_key){ .ino = dir, .type = NF_ITEM_DIRENT, .a = hash };
}

struct nf_key nf_key_parent(uint64_t ino, uint64_t dir, uint64_t hash)
{
	return (struct nf_key){ .ino = ino, .type = NF_ITEM_PARENT, .a = dir, .b = hash };
}

struct nf_key nf_key_xattr(uint64_t ino, uint64_t hash)
{
	return (struct nf_key){ .ino = ino, .type = NF_ITEM_XATTR, .a = hash };
}

struct nf_key nf_key_extent(uint64_t ino, uint64_t first_block)
{
	return (struct nf_key){ .ino = ino, .type = NF_ITEM_EXTENT, .a = first_block };
}

int nf_view_find(const struct nf_view *v, const struct nf_ring *ring, uint64_t dir, const char *name,
		 size_t name_len, struct nf_want *w, uint64_t *ino, uint8_t *type)
{
	struct nf_key key = nf_key_dirent(dir, nf_ring_name_hash(ring, name, name_len));
	struct nf_val val = { 0 };
	struct nf_dirent e;
	int r = nf_view_lookup(v, &key, w, &val);
	if (r)
		return r;
	r = nf_dirent_find(val.p, val.len, name, name_len, &e);
	if (r == 0) {
		*ino = e.ino;
		if (type)
			*type = e.type;
	}
	nf_val_deinit(&val);
	return r;
}

int nf_view_dir_empty(const struct nf_view *v, uint64_t dir, struct nf_want *w)
{
	struct nf_key from = nf_key_dirent(dir, 0), to = { .ino = dir, .type = NF_ITEM_DIRENT + 1 };
	struct nf_key at;
	struct nf_val val = { 0 };
	int r = nf_view_next(v, &from, &to, w, &at, &val);
	if (r == NF_TREE_NONE)
		return 0;
	if (r)
		return r;
	nf_val_deinit(&val);
	return 1;
}

int nf_view_parent(const struct nf_view *v, uint64_t ino, struct nf_want *w, uint64_t *dir,
		   char name[NF_NAME_MAX + 1], uint8_t *name_len)
{
	struct nf_key from = nf_key_parent(ino, 0, 0), to = { .ino = ino, .type = NF_ITEM_PARENT + 1 };
	struct nf_key at;
	struct nf_val val = { 0 };
	const char *s;
	size_t pos = 0;
	int r = nf_view_next(v, &from, &to, w, &at, &val);
	if (r)
		return r;
	r = nf_names_iter(val.p, val.len, &pos, &s, name_len);
	if (r == 0) {
		*dir = at.a;
		memcpy(name, s, *name_len);
		name[*name_len] = '\0';
	}
	nf_val_deinit(&val);
	return r;
}

/* --- blocks ------------------------------------------------------------------------------ */

int nf_extent_resolve(struct nf_nodes *nodes, const struct nf_extent_ref *ref, uint32_t block_bytes,
		      struct nf_want *w, struct nf_block_ref out[NF_WINDOW_BLOCKS])
{
	struct nf_key key = nf_key_extent(ref->ino, ref->first_block);
	struct nf_val val = { 0 };

	/* A leaf by itself is a tree. */
	int r = nf_tree_lookup(nodes, &ref->leaf, &key, w, &val);
	if (r == NF_TREE_WANT)
		return r;
	if (r == NF_TREE_NONE)
		r = nf_fail(-NF_E_TREE_BAD);
	if (r == 0)
		r = nf_extent_decode(val.p, val.len, &val.self, block_bytes, out, NULL);
	nf_val_deinit(&val);
	if (r < 0) {
		struct nf_text t = NF_TEXT_INIT;
		nf_extent_ref_to_text(ref, &t);
		nf_trace(TREE, "bad reference: %s err=%s", nf_text_str(&t), nf_error_name(r));
		nf_text_deinit(&t);
	}
	return r;
}

int nf_extent_of_layer(struct nf_nodes *nodes, const void *value, size_t len, uint32_t block_bytes,
		       struct nf_want *w, struct nf_block_ref out[NF_WINDOW_BLOCKS], bool known[NF_WINDOW_BLOCKS])
{
	struct nf_block_ref whole[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref;
	bool named[NF_WINDOW_BLOCKS];

	int r = nf_extent_patch_decode(value, len, false, block_bytes, &ref, out, named);
	if (r == 0 && !nf_ref_is_null(&ref.leaf)) {
		r = nf_extent_resolve(nodes, &ref, block_bytes, w, whole);
		for (int b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++) {
			if (!named[b])
				out[b] = whole[b];
			named[b] = true;
		}
	}
	if (r == 0)
		memcpy(known, named, sizeof named);
	return r;
}

static int extent_of_tree(const struct nf_view *v, const struct nf_key *key, uint32_t block_bytes, struct nf_want *w,
			  struct nf_block_ref out[NF_WINDOW_BLOCKS])
{
	struct nf_extent_ref ref;
	struct nf_val val = { 0 };

	int r = nf_tree_lookup(v->nodes, &v->base, key, w, &val);
	if (r)
		return r;
	r = nf_extent_ref_decode(val.p, val.len, &val.self, true, &ref);
	if (r == 0)
		r = nf_extent_resolve(v->nodes, &ref, block_bytes, w, out);
	else if (r == NF_TREE_NONE)
		r = nf_extent_decode(val.p, val.len, &val.self, block_bytes, out, NULL);
	nf_val_deinit(&val);
	return r;
}

int nf_extent_lookup(const struct nf_view *v, uint64_t ino, uint64_t first_block, uint32_t block_bytes,
		     struct nf_want *w, struct nf_block_ref out[NF_WINDOW_BLOCKS])
{
	struct nf_key key = nf_key_extent(ino, first_block);
	bool known[NF_WINDOW_BLOCKS] = { false }, patch_known[NF_WINDOW_BLOCKS];
	struct nf_block_ref patch[NF_WINDOW_BLOCKS];

	memset(out, 0, sizeof(struct nf_block_ref) * NF_WINDOW_BLOCKS);
	for (int i = 0; i < NF_VIEW_LAYERS; i++) {
		const void *p;
		size_t len;
		if (!v->layers[i])
			continue;
		int r = nf_layer_get(v->layers[i], &key, &p, &len);
		if (r == NF_LAYER_GONE)
			return 0;
		if (r == NF_TREE_NONE)
			continue;
		if (r == 0)
			r = nf_extent_of_layer(v->nodes, p, len, block_bytes, w, patch, patch_known);
		if (r)
			return r;
		unsigned left = 0;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			if (!known[b] && patch_known[b]) {
				out[b] = patch[b];
				known[b] = true;
			}
			left += !known[b];
		}
		if (!left)
			return 0;
	}
	int r = extent_of_tree(v, &key, block_bytes, w, patch);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
	for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
		if (!known[b])
			out[b] = patch[b];
	return 0;
}

int nf_extent_locate(const struct nf_view *v, uint64_t ino, uint64_t first_block, struct nf_want *w,
		     struct nf_extent_ref *out)
{
	static const struct nf_pack_id none = { { 0 } };
	struct nf_key key = nf_key_extent(ino, first_block);
	struct nf_val val = { 0 };

	for (int i = 0; i < NF_VIEW_LAYERS; i++) {
		const void *p;
		size_t len;
		int r = v->layers[i] ? nf_layer_get(v->layers[i], &key, &p, &len) : NF_TREE_NONE;
		if (r == NF_LAYER_GONE)
			return NF_TREE_NONE;
		/* A clone's clone: only as long as nothing was written to it. */
		if (r == 0 && nf_extent_is_ref(p, len))
			return nf_extent_ref_decode(p, len, &none, true, out);
		if (r != NF_TREE_NONE)
			return r < 0 ? r : NF_TREE_NONE;
	}
	int r = nf_tree_lookup(v->nodes, &v->base, &key, w, &val);
	if (r)
		return r;
	r = nf_extent_ref_decode(val.p, val.len, &val.self, true, out);
	/* Nobody else has the leaves of what is shelved (shelf.h). */
	if (r == NF_TREE_NONE && !nf_ref_is_local(&val.pin->ref.pack)) {
		*out = (struct nf_extent_ref){ .leaf = val.pin->ref, .ino = ino, .first_block = first_block };
		r = 0;
	}
	nf_val_deinit(&val);
	return r;
}
