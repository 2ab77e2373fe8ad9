/* vault/apply_txn.c - the steps operations are made of: items, names, what the base held, what is told. */
#include "vault/apply_priv.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdio.h>

enum { DEPTH_MAX = 256, CONFLICT_TRIES = 1000 };

/* --- reading ----------------------------------------------------------------------- */

static int layers_get(const struct nf_view *v, const struct nf_key *key, const void **p, size_t *len)
{
	for (int i = 0; i < NF_VIEW_LAYERS; i++) {
		if (!v->layers[i])
			continue;
		int r = nf_layer_get(v->layers[i], key, p, len);
		if (r != NF_TREE_NONE)
			return r;
	}
	return NF_TREE_NONE;
}

/* An item through all layers; the caller's base_inode hook spares the tree. */
static int get(struct nf_txn *t, const struct nf_key *key, struct nf_val *out)
{
	const struct nf_apply *a = t->a;

	if (key->type == NF_ITEM_INODE && a->base_inode) {
		const void *p = NULL;
		size_t len = 0;
		int r = layers_get(&t->view, key, &p, &len);
		if (r == NF_LAYER_GONE)
			return NF_TREE_NONE;
		if (r == NF_TREE_NONE)
			p = a->base_inode(a->base_inode_ctx, key->ino, &len);
		if (r < 0)
			return r;
		if (p) {
			*out = (struct nf_val){ .p = p, .len = len };
			return 0;
		}
	}
	return nf_view_lookup(&t->view, key, t->w, out);
}

int nf_txn_inode(struct nf_txn *t, uint64_t ino, struct nf_val *val, struct nf_inode_item *out)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_val v = { 0 };
	int r = get(t, &key, &v);
	if (r)
		return r;
	r = nf_inode_decode(v.p, v.len, out);
	if (r < 0) {
		nf_val_deinit(&v);
		return nf_fail(r);
	}
	*val = v;
	return 0;
}

/* --- writing to the scratch layer ------------------------------------------------------- */

int nf_layer_put_inode(struct nf_layer *l, uint64_t ino, const struct nf_inode_item *i)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_buf b = NF_BUF_INIT;
	nf_inode_encode(&b, i);
	int r = nf_buf_error(&b);
	if (r == 0)
		r = nf_layer_put(l, &key, b.p, b.len);
	nf_buf_deinit(&b);
	return r;
}

int nf_txn_put_inode(struct nf_txn *t, uint64_t ino, const struct nf_inode_item *i)
{
	return nf_layer_put_inode(t->scratch, ino, i);
}

int nf_txn_put(struct nf_txn *t, const struct nf_key *key, struct nf_buf *b)
{
	int r = nf_buf_error(b);
	if (r == 0)
		r = b->len ? nf_layer_put(t->scratch, key, b->p, b->len)
			   : nf_layer_remove(t->scratch, key);
	nf_buf_deinit(b);
	return r;
}

/* Adds (e->ino != 0) or removes one name of DIR. */
static int edit_dirent(struct nf_txn *t, uint64_t dir, const struct nf_dirent *e)
{
	struct nf_key key = nf_key_dirent(dir, nf_ring_name_hash(t->a->ring, e->name, e->name_len));
	struct nf_val val = { 0 };
	struct nf_buf b = NF_BUF_INIT;
	int r = nf_view_lookup(&t->view, &key, t->w, &val);
	if (r < 0 || r == NF_TREE_WANT)
		return r;
	r = nf_dirent_edit(val.p, val.len, e, &b);
	nf_val_deinit(&val);
	if (r < 0) {
		nf_buf_deinit(&b);
		return r;
	}
	return nf_txn_put(t, &key, &b);
}

static int edit_parent(struct nf_txn *t, uint64_t ino, uint64_t dir, const char *name, uint8_t len, bool add)
{
	struct nf_key key = nf_key_parent(ino, dir, nf_ring_name_hash(t->a->ring, name, len));
	struct nf_val val = { 0 };
	struct nf_buf b = NF_BUF_INIT;
	int r = nf_view_lookup(&t->view, &key, t->w, &val);
	if (r < 0 || r == NF_TREE_WANT)
		return r;
	r = nf_names_edit(val.p, val.len, name, len, add, &b);
	nf_val_deinit(&val);
	if (r < 0) {
		nf_buf_deinit(&b);
		return r;
	}
	return nf_txn_put(t, &key, &b);
}

void nf_time_at_least(struct timespec *have, struct timespec now)
{
	if (now.tv_sec > have->tv_sec || (now.tv_sec == have->tv_sec && now.tv_nsec > have->tv_nsec))
		*have = now;
}

/* A directory got or lost an entry (SUBDIRS: of a directory). */
static int touch_dir(struct nf_txn *t, uint64_t dir, struct timespec time, int subdirs)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	int r = nf_txn_inode(t, dir, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
	nf_time_at_least(&item.mtime, time);
	nf_time_at_least(&item.ctime, time);
	item.nlink = (uint32_t)((int64_t)item.nlink + subdirs);
	r = nf_txn_put_inode(t, dir, &item);
	nf_val_deinit(&val);
	return r;
}

int nf_txn_link(struct nf_txn *t, uint64_t dir, const char *name, uint8_t len, uint64_t ino,
		     uint32_t mode, struct timespec time)
{
	struct nf_dirent e = { .ino = ino, .type = (uint8_t)(mode >> 12), .name = name, .name_len = len };
	int r = edit_dirent(t, dir, &e);
	if (r == 0)
		r = edit_parent(t, ino, dir, name, len, true);
	if (r == 0)
		r = touch_dir(t, dir, time, S_ISDIR(mode) ? 1 : 0);
	return r;
}

int nf_txn_unlink(struct nf_txn *t, uint64_t dir, const char *name, uint8_t len, uint64_t ino,
		       uint32_t mode, struct timespec time)
{
	struct nf_dirent e = { .ino = 0, .name = name, .name_len = len };
	int r = edit_dirent(t, dir, &e);
	if (r == 0)
		r = edit_parent(t, ino, dir, name, len, false);
	if (r == 0)
		r = touch_dir(t, dir, time, S_ISDIR(mode) ? -1 : 0);
	return r;
}

int nf_txn_find(struct nf_txn *t, uint64_t dir, const char *name, size_t len, uint64_t *ino, uint8_t *type)
{
	return nf_view_find(&t->view, t->a->ring, dir, name, len, t->w, ino, type);
}

/* --- conflict names ------------------------------------------------------------------ */

/* "name (conflict HOST DATE).ext", cut so that it fits; N > 1 adds a number. */
static uint8_t conflict_name(const char *name, uint8_t len, const char *host, struct timespec time,
			     unsigned n, char out[NF_NAME_MAX + 1])
{
	char tag[128], when[32], clean[33];
	struct tm tm;
	size_t ext = 0, h = 0;

	for (; host[h] && h < 32; h++)
		clean[h] = host[h] == '/' ? '-' : host[h];
	clean[h] = '\0';
	/* A time of another machine's may be beyond any calendar. */
	if (!gmtime_r(&time.tv_sec, &tm) || strftime(when, sizeof when, "%Y-%m-%d %H.%M.%S", &tm) == 0)
		snprintf(when, sizeof when, "%" PRId64, (int64_t)time.tv_sec);
	int tag_len = n > 1 ? snprintf(tag, sizeof tag, " (conflict %s %s %u)", clean, when, n)
			    : snprintf(tag, sizeof tag, " (conflict %s %s)", clean, when);
	for (size_t i = len; i > 1; i--) {
		if (name[i - 1] != '.')
			continue;
		ext = len - i + 1;
		break;
	}
	if (ext > 16)
		ext = 0;
	size_t stem = len - ext;
	if (stem + (size_t)tag_len + ext > NF_NAME_MAX)
		stem = NF_NAME_MAX - (size_t)tag_len - ext;
	/* Not in the middle of a UTF-8 sequence. */
	while (stem > 0 && stem < len - ext && ((unsigned char)name[stem] & 0xc0) == 0x80)
		stem--;
	memcpy(out, name, stem);
	memcpy(out + stem, tag, (size_t)tag_len);
	memcpy(out + stem + tag_len, name + len - ext, ext);
	size_t total = stem + (size_t)tag_len + ext;
	out[total] = '\0';
	return (uint8_t)total;
}

int nf_txn_free_name(struct nf_txn *t, uint64_t dir, const char *name, uint8_t len, bool force,
		     struct timespec time, char out[NF_NAME_MAX + 1], uint8_t *out_len)
{
	uint64_t other;
	int r;

	if (!force) {
		r = nf_txn_find(t, dir, name, len, &other, NULL);
		if (r == NF_TREE_NONE) {
			memcpy(out, name, len);
			out[len] = '\0';
			*out_len = len;
			return 0;
		}
		if (r)
			return r;
	}
	for (unsigned n = 1; n < CONFLICT_TRIES; n++) {
		uint8_t l = conflict_name(name, len, t->a->host, time, n, out);
		r = nf_txn_find(t, dir, out, l, &other, NULL);
		if (r == NF_TREE_NONE) {
			*out_len = l;
			return 0;
		}
		if (r)
			return r;
	}
	return nf_fail(-EEXIST);
}

/* --- what the delta's base held ----------------------------------------------------------- */

struct nf_view nf_txn_base_view(const struct nf_txn *t)
{
	return (struct nf_view){ .nodes = t->view.nodes, .base = t->a->base_root,
				 .layers = { t->a->base_layer } };
}

int nf_txn_base_inode(struct nf_txn *t, uint64_t ino, struct nf_val *val, struct nf_inode_item *out)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_view bv = nf_txn_base_view(t);
	struct nf_val v = { 0 };
	int r = nf_view_lookup(&bv, &key, t->w, &v);
	if (r)
		return r;
	r = nf_inode_decode(v.p, v.len, out);
	if (r < 0) {
		nf_val_deinit(&v);
		return r;
	}
	*val = v;
	return 0;
}

void nf_txn_emit(struct nf_txn *t, const struct nf_op *op)
{
	if (!t->a->out)
		return;
	nf_op_encode(&t->out, op);
	t->nr_out++;
}

int nf_txn_emit_create(struct nf_txn *t, uint64_t ino, uint64_t parent, const char *name, uint8_t len,
		       const struct nf_inode_item *item, const struct nf_op *cause)
{
	struct nf_op op = { .kind = NF_OP_CREATE, .conflict_mode = cause->conflict_mode,
			    .time = cause->time, .ino = ino, .parent = parent, .name = name,
			    .name_len = len, .mode = item->mode, .uid = item->uid, .gid = item->gid,
			    .rdev = item->rdev, .block_shift = item->block_shift };
	if (S_ISLNK(item->mode)) {
		op.target = (const char *)item->inline_data;
		op.target_len = item->inline_len;
	}
	nf_txn_emit(t, &op);
	return 0;
}

int nf_txn_ensure_dir(struct nf_txn *t, uint64_t dir, const struct nf_op *cause, unsigned depth,
		      uint64_t *out)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1], free[NF_NAME_MAX + 1];
	uint8_t len, free_len;
	uint64_t parent;

	int r = nf_txn_inode(t, dir, &val, &item);
	if (r == 0) {
		nf_val_deinit(&val);
		*out = S_ISDIR(item.mode) ? dir : NF_INO_ROOT;
		return 0;
	}
	if (r != NF_TREE_NONE)
		return r;
	r = nf_txn_base_inode(t, dir, &val, &item);
	if (r == NF_TREE_NONE || (r == 0 && (!S_ISDIR(item.mode) || depth > DEPTH_MAX))) {
		nf_val_deinit(&val);
		*out = NF_INO_ROOT;
		return 0;
	}
	if (r)
		return r;
	struct nf_view bv = nf_txn_base_view(t);
	r = nf_view_parent(&bv, dir, t->w, &parent, name, &len);
	if (r == NF_TREE_NONE) {
		nf_val_deinit(&val);
		*out = NF_INO_ROOT;
		return 0;
	}
	if (r == 0)
		r = nf_txn_ensure_dir(t, parent, cause, depth + 1, &parent);
	if (r == 0)
		r = nf_txn_free_name(t, parent, name, len, false, cause->time, free, &free_len);
	if (r == 0) {
		item.nlink = 2;
		r = nf_txn_put_inode(t, dir, &item);
	}
	if (r == 0)
		r = nf_txn_link(t, parent, free, free_len, dir, item.mode, cause->time);
	if (r == 0) {
		t->inodes++;
		r = nf_txn_emit_create(t, dir, parent, free, free_len, &item, cause);
		*out = dir;
	}
	nf_val_deinit(&val);
	return r;
}

/* Tells the xattrs of one hash, just given to inode TO, as operations of their own. */
static int emit_xattrs(struct nf_txn *t, uint64_t to, const void *value, size_t len, const struct nf_pack_id *self,
		       const struct nf_op *cause)
{
	struct nf_xattr_entry e;
	size_t pos = 0;
	int r;

	while ((r = nf_xattr_iter(value, len, self, &pos, &e)) == 0) {
		struct nf_op op = { .kind = NF_OP_XATTR, .conflict_mode = cause->conflict_mode,
				    .time = cause->time, .ino = to, .flags = e.is_blob ? NF_OPF_BLOB : 0,
				    .name = e.name, .name_len = e.name_len, .value = e.value,
				    .value_len = e.value_len, .blob = e.blob, .blob_birth = e.birth,
				    .blob_index = e.index };
		nf_txn_emit(t, &op);
	}
	return r < 0 ? r : 0;
}

int nf_txn_clone_base(struct nf_txn *t, uint64_t ino, uint64_t to, uint32_t block_bytes,
			    const struct nf_op *cause)
{
	struct nf_key at = { .ino = ino, .type = NF_ITEM_XATTR }, end = { .ino = ino, .type = NF_ITEM_EXTENT + 1 };
	bool known[NF_WINDOW_BLOCKS];
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	struct nf_view bv = nf_txn_base_view(t);

	for (;;) {
		struct nf_key key;
		struct nf_val val = { 0 };
		struct nf_buf b = NF_BUF_INIT;
		int r = nf_view_next(&bv, &at, &end, t->w, &key, &val);
		if (r == NF_TREE_NONE)
			return 0;
		if (r)
			return r;
		struct nf_key now = key;
		now.ino = to;
		if (key.type == NF_ITEM_EXTENT) {
			struct nf_extent_ref ref;
			r = nf_extent_locate(&bv, ino, key.a, t->w, &ref);
			if (r == 0)
				nf_extent_ref_encode(&b, &ref);
			else if (r == NF_TREE_NONE) /* a layer's value is a patch only */
				r = nf_extent_lookup(&bv, ino, key.a, block_bytes, t->w, refs);
			if (r == 0 && !b.len) {
				memset(known, 1, sizeof known);
				nf_extent_encode(&b, refs, known, block_bytes, true);
			}
		} else {
			r = nf_item_rebase(key.type, val.p, val.len, &val.self, &b);
			if (r == 0)
				r = emit_xattrs(t, to, val.p, val.len, &val.self, cause);
		}
		if (r == 0)
			r = nf_txn_put(t, &now, &b);
		else
			nf_buf_deinit(&b);
		nf_val_deinit(&val);
		if (r == NF_TREE_WANT)
			return r;
		if (r < 0)
			return nf_fail(r);
		at = key;
		if (++at.b == 0)
			at.a++;
	}
}

uint64_t nf_txn_redirected(const struct nf_apply *a, uint64_t ino)
{
	for (size_t i = 0; i < a->nr_redirects; i++)
		if (a->redirects[i].from == ino)
			return a->redirects[i].to;
	return ino;
}
