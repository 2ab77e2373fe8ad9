/* vault/apply.c - see apply.h.
 *
 * Each operation runs on a scratch layer laid over the view:
 *
 *      scratch  ->  layer  ->  frozen  ->  base
 *
 * It may read and write freely there; when it succeeds the scratch layer is folded into
 * `layer`, when a node is missing (NF_TREE_WANT) it is thrown away.  So an operation happens
 * whole or not at all, and its code need not look ahead. */
#include "vault/apply.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

enum { DEPTH_MAX = 256, CONFLICT_TRIES = 1000 };

struct txn {
	struct nf_apply *a;
	struct nf_layer *scratch;
	struct nf_view view;
	struct nf_want *w;
	struct nf_redirect redirect; /* made by this operation; from 0: none */
	int64_t inodes, bytes;
	uint64_t spared;
	struct nf_buf out;
	uint32_t nr_out;
};

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

void nf_apply_deinit(struct nf_apply *a)
{
	free(a->redirects);
	a->redirects = NULL;
	a->nr_redirects = 0;
}

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
static int get(struct txn *t, const struct nf_key *key, struct nf_val *out)
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

static int get_inode(struct txn *t, uint64_t ino, struct nf_val *val, struct nf_inode_item *out)
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

int nf_apply_inode(const struct nf_apply *a, uint64_t ino, struct nf_want *w, struct nf_val *val,
		   struct nf_inode_item *out)
{
	struct txn t = { .a = (struct nf_apply *)a, .view = a->view, .w = w };
	return get_inode(&t, ino, val, out);
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

int nf_extent_lookup(const struct nf_view *v, uint64_t ino, uint64_t first_block, uint32_t block_bytes,
		     struct nf_want *w, struct nf_block_ref out[NF_WINDOW_BLOCKS])
{
	struct nf_key key = nf_key_extent(ino, first_block);
	bool known[NF_WINDOW_BLOCKS] = { false }, patch_known[NF_WINDOW_BLOCKS];
	struct nf_block_ref patch[NF_WINDOW_BLOCKS];
	static const struct nf_pack_id none = { { 0 } };

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
			r = nf_extent_decode(p, len, &none, block_bytes, patch, patch_known);
		if (r < 0)
			return nf_fail(r);
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
	struct nf_val val = { 0 };
	int r = nf_tree_lookup(v->nodes, &v->base, &key, w, &val);
	if (r == NF_TREE_NONE)
		return 0;
	if (r)
		return r;
	r = nf_extent_decode(val.p, val.len, &val.self, block_bytes, patch, patch_known);
	nf_val_deinit(&val);
	if (r < 0)
		return nf_fail(r);
	for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
		if (!known[b])
			out[b] = patch[b];
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

static int put_inode(struct txn *t, uint64_t ino, const struct nf_inode_item *i)
{
	return nf_layer_put_inode(t->scratch, ino, i);
}

/* Puts B, or removes the key if B is empty; takes B's memory. */
static int put_or_remove(struct txn *t, const struct nf_key *key, struct nf_buf *b)
{
	int r = nf_buf_error(b);
	if (r == 0)
		r = b->len ? nf_layer_put(t->scratch, key, b->p, b->len)
			   : nf_layer_remove(t->scratch, key);
	nf_buf_deinit(b);
	return r;
}

/* Adds (e->ino != 0) or removes one name of DIR. */
static int edit_dirent(struct txn *t, uint64_t dir, const struct nf_dirent *e)
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
	return put_or_remove(t, &key, &b);
}

static int edit_parent(struct txn *t, uint64_t ino, uint64_t dir, const char *name, uint8_t len, bool add)
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
	return put_or_remove(t, &key, &b);
}

static void at_least(struct timespec *have, struct timespec now)
{
	if (now.tv_sec > have->tv_sec || (now.tv_sec == have->tv_sec && now.tv_nsec > have->tv_nsec))
		*have = now;
}

/* A directory got or lost an entry (SUBDIRS: of a directory). */
static int touch_dir(struct txn *t, uint64_t dir, struct timespec time, int subdirs)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	int r = get_inode(t, dir, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
	at_least(&item.mtime, time);
	at_least(&item.ctime, time);
	item.nlink = (uint32_t)((int64_t)item.nlink + subdirs);
	r = put_inode(t, dir, &item);
	nf_val_deinit(&val);
	return r;
}

/* Makes NAME in DIR mean INO: entry, back-reference, the directory's times.  The name must be free. */
static int link_name(struct txn *t, uint64_t dir, const char *name, uint8_t len, uint64_t ino,
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

static int unlink_name(struct txn *t, uint64_t dir, const char *name, uint8_t len, uint64_t ino,
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

static int find(struct txn *t, uint64_t dir, const char *name, size_t len, uint64_t *ino, uint8_t *type)
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
	gmtime_r(&time.tv_sec, &tm);
	strftime(when, sizeof when, "%Y-%m-%d %H.%M.%S", &tm);
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

/* A name for INO in DIR: NAME itself if it is free (and FORCE is not set), else a conflict name.  The result goes
 * to OUT. */
static int free_name(struct txn *t, uint64_t dir, const char *name, uint8_t len, bool force,
		     struct timespec time, char out[NF_NAME_MAX + 1], uint8_t *out_len)
{
	uint64_t other;
	int r;

	if (!force) {
		r = find(t, dir, name, len, &other, NULL);
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
		r = find(t, dir, out, l, &other, NULL);
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

static struct nf_view base_view(const struct txn *t)
{
	return (struct nf_view){ .nodes = t->view.nodes, .base = t->a->base_root,
				 .layers = { t->a->base_layer } };
}

static int base_inode(struct txn *t, uint64_t ino, struct nf_val *val, struct nf_inode_item *out)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_view bv = base_view(t);
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

static void emit(struct txn *t, const struct nf_op *op)
{
	if (!t->a->out)
		return;
	nf_op_encode(&t->out, op);
	t->nr_out++;
}

static int emit_create(struct txn *t, uint64_t ino, uint64_t parent, const char *name, uint8_t len,
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
	emit(t, &op);
	return 0;
}

/* Makes sure that DIR is a live directory of the view: brings it back from the delta's base with its parents.
 * *OUT is DIR, or the root if nobody knows it. */
static int ensure_dir(struct txn *t, uint64_t dir, const struct nf_op *cause, unsigned depth,
		      uint64_t *out)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1], free[NF_NAME_MAX + 1];
	uint8_t len, free_len;
	uint64_t parent;

	int r = get_inode(t, dir, &val, &item);
	if (r == 0) {
		nf_val_deinit(&val);
		*out = S_ISDIR(item.mode) ? dir : NF_INO_ROOT;
		return 0;
	}
	if (r != NF_TREE_NONE)
		return r;
	r = base_inode(t, dir, &val, &item);
	if (r == NF_TREE_NONE || (r == 0 && (!S_ISDIR(item.mode) || depth > DEPTH_MAX))) {
		nf_val_deinit(&val);
		*out = NF_INO_ROOT;
		return 0;
	}
	if (r)
		return r;
	struct nf_view bv = base_view(t);
	r = nf_view_parent(&bv, dir, t->w, &parent, name, &len);
	if (r == NF_TREE_NONE) {
		nf_val_deinit(&val);
		*out = NF_INO_ROOT;
		return 0;
	}
	if (r == 0)
		r = ensure_dir(t, parent, cause, depth + 1, &parent);
	if (r == 0)
		r = free_name(t, parent, name, len, false, cause->time, free, &free_len);
	if (r == 0) {
		item.nlink = 2;
		r = put_inode(t, dir, &item);
	}
	if (r == 0)
		r = link_name(t, parent, free, free_len, dir, item.mode, cause->time);
	if (r == 0) {
		t->inodes++;
		r = emit_create(t, dir, parent, free, free_len, &item, cause);
		*out = dir;
	}
	nf_val_deinit(&val);
	return r;
}

/* Tells the xattrs of one hash, just given to inode TO, as operations of their own. */
static int emit_xattrs(struct txn *t, uint64_t to, const void *value, size_t len, const struct nf_pack_id *self,
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
		emit(t, &op);
	}
	return r < 0 ? r : 0;
}

/* Copies the xattrs and extents that INO had in the delta's base to inode TO. */
static int clone_base_items(struct txn *t, uint64_t ino, uint64_t to, uint32_t block_bytes,
			    const struct nf_op *cause)
{
	struct nf_key at = { .ino = ino, .type = NF_ITEM_XATTR }, end = { .ino = ino, .type = NF_ITEM_EXTENT + 1 };
	bool known[NF_WINDOW_BLOCKS];
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	struct nf_view bv = base_view(t);

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
			/* A layer's value is a patch only. */
			r = nf_extent_lookup(&bv, ino, key.a, block_bytes, t->w, refs);
			if (r == 0) {
				memset(known, 1, sizeof known);
				nf_extent_encode(&b, refs, known, block_bytes, true);
			}
		} else {
			r = nf_item_rebase(key.type, val.p, val.len, &val.self, &b);
			if (r == 0)
				r = emit_xattrs(t, to, val.p, val.len, &val.self, cause);
		}
		if (r == 0)
			r = put_or_remove(t, &now, &b);
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

/* --- operations --------------------------------------------------------------------- */

static int op_create(struct txn *t, const struct nf_op *op)
{
	char name[NF_NAME_MAX + 1];
	uint8_t len;
	uint64_t parent, there;
	struct nf_inode_item item = {
		.mode = op->mode, .uid = op->uid, .gid = op->gid, .rdev = op->rdev,
		.nlink = S_ISDIR(op->mode) ? 2 : 1, .atime = op->time, .mtime = op->time,
		.ctime = op->time, .btime = op->time, .block_shift = op->block_shift,
		.stamp = t->a->dot,
	};

	if (S_ISREG(op->mode))
		item.flags = NF_INODE_INLINE;
	if (S_ISLNK(op->mode)) {
		item.inline_data = (const uint8_t *)op->target;
		item.inline_len = op->target_len;
		item.size_bytes = op->target_len;
	}
	int r = ensure_dir(t, op->parent, op, 0, &parent);
	if (r)
		return r;
	if (op->ino == NF_INO_STASH || op->name_len == 0)
		return nf_fail(-NF_E_FORMAT_BAD);
	r = find(t, parent, op->name, op->name_len, &there, NULL);
	if (r < 0 || r == NF_TREE_WANT)
		return r;
	bool taken = r == 0;
	if (taken)
		t->a->conflicts++;
	r = free_name(t, parent, op->name, op->name_len, taken, op->time, name, &len);
	/* Nothing of a new inode is below: what is asked of it later never needs the tree. */
	if (r == 0)
		r = nf_layer_wipe(t->scratch, op->ino);
	if (r == 0)
		r = put_inode(t, op->ino, &item);
	if (r == 0)
		r = link_name(t, parent, name, len, op->ino, op->mode, op->time);
	if (r)
		return r;
	t->inodes++;
	struct nf_op done = *op;
	done.parent = parent;
	done.name = name;
	done.name_len = len;
	emit(t, &done);
	return 0;
}

static int op_link(struct txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1];
	uint8_t len;
	uint64_t parent, there;

	int r = get_inode(t, op->ino, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
	if (S_ISDIR(item.mode)) {
		nf_val_deinit(&val);
		return nf_fail(-EPERM);
	}
	r = ensure_dir(t, op->parent, op, 0, &parent);
	if (r == 0) {
		r = find(t, parent, op->name, op->name_len, &there, NULL);
		bool same = r == 0 && there == op->ino;
		bool taken = r == 0;
		if (r == NF_TREE_NONE)
			r = 0;
		if (r || same) {
			nf_val_deinit(&val);
			return r;
		}
		r = free_name(t, parent, op->name, op->name_len, taken, op->time, name, &len);
	}
	if (r == 0) {
		item.nlink++;
		at_least(&item.ctime, op->time);
		r = put_inode(t, op->ino, &item);
	}
	if (r == 0)
		r = link_name(t, parent, name, len, op->ino, item.mode, op->time);
	if (r == 0) {
		struct nf_op done = *op;
		done.parent = parent;
		done.name = name;
		done.name_len = len;
		emit(t, &done);
	}
	nf_val_deinit(&val);
	return r;
}

/* One link of INO is gone; at the last one the inode goes. */
static int drop_link(struct txn *t, uint64_t ino, struct nf_inode_item *item, struct timespec time)
{
	if (S_ISDIR(item->mode) || item->nlink <= 1) {
		t->inodes--;
		if (S_ISREG(item->mode))
			t->bytes -= (int64_t)item->size_bytes;
		return nf_layer_wipe(t->scratch, ino);
	}
	item->nlink--;
	at_least(&item->ctime, time);
	return put_inode(t, ino, item);
}

static uint64_t redirected(const struct nf_apply *a, uint64_t ino)
{
	for (size_t i = 0; i < a->nr_redirects; i++)
		if (a->redirects[i].from == ino)
			return a->redirects[i].to;
	return ino;
}

/* The author removed what became a conflict copy earlier in this delta: the copy goes, the other side's version stays. */
static int unlink_copy(struct txn *t, uint64_t copy, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1];
	uint8_t len;
	uint64_t dir;

	int r = get_inode(t, copy, &val, &item);
	if (r == 0)
		r = nf_view_parent(&t->view, copy, t->w, &dir, name, &len);
	if (r == 0)
		r = unlink_name(t, dir, name, len, copy, item.mode, op->time);
	if (r == 0)
		r = drop_link(t, copy, &item, op->time);
	if (r == 0) {
		struct nf_op done = *op;
		done.parent = dir;
		done.ino = copy;
		done.stamp = item.stamp;
		done.name = name;
		done.name_len = len;
		emit(t, &done);
	}
	nf_val_deinit(&val);
	return r == NF_TREE_NONE ? 0 : r;
}

/* Had INO one name only, for the author as here?  1 yes, 0 no, NF_TREE_WANT, negative. */
static int was_last_name(struct txn *t, uint64_t ino)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;

	int r = base_inode(t, ino, &val, &item);
	bool more = r == 0 && item.nlink > 1;
	nf_val_deinit(&val);
	if (r == 0 || r == NF_TREE_NONE) {
		val = (struct nf_val){ 0 };
		r = get_inode(t, ino, &val, &item);
		more |= r == 0 && item.nlink > 1;
		nf_val_deinit(&val);
	}
	return r == 0 || r == NF_TREE_NONE ? !more : r;
}

/* Did somebody else change the content since the author saw it?  Changes of the author's own are no conflict,
 * also where an operation was noted before data that the cut put in front of it. */
static bool is_foreign(const struct txn *t, struct nf_stamp now, struct nf_stamp seen)
{
	return !nf_stamp_equal(now, seen) && now.writer != t->a->dot.writer;
}

static int op_unlink(struct txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	uint64_t ino, copy = redirected(t->a, op->ino);

	if (copy != op->ino) {
		int only = was_last_name(t, op->ino);
		if (only != 0)
			return only == 1 ? unlink_copy(t, copy, op) : only;
	}
	int r = find(t, op->parent, op->name, op->name_len, &ino, NULL);
	if (r == NF_TREE_NONE || (r == 0 && ino != op->ino))
		return 0;
	if (r)
		return r;
	r = get_inode(t, ino, &val, &item);
	if (r == NF_TREE_NONE)
		return nf_fail(-NF_E_TREE_BAD);
	if (r)
		return r;
	bool keep = false;
	if (S_ISDIR(item.mode)) {
		r = nf_view_dir_empty(&t->view, ino, t->w);
		keep = r == 1; /* somebody put something in: the directory stays */
		r = r == 1 ? 0 : r;
	} else {
		/* remove/edit: what was edited since is kept */
		keep = is_foreign(t, item.stamp, op->stamp);
	}
	if (r == 0 && keep)
		t->a->conflicts++;
	if (r == 0 && !keep) {
		r = unlink_name(t, op->parent, op->name, op->name_len, ino, item.mode, op->time);
		if (r == 0)
			r = drop_link(t, ino, &item, op->time);
		if (r == 0) {
			struct nf_op done = *op;
			done.stamp = item.stamp;
			emit(t, &done);
		}
	}
	nf_val_deinit(&val);
	return r;
}

/* Is INO DIR itself or above it?  1 yes, 0 no. */
static int is_above(struct txn *t, uint64_t ino, uint64_t dir)
{
	char name[NF_NAME_MAX + 1];
	uint8_t len;

	for (unsigned depth = 0; depth < 100000; depth++) {
		if (dir == ino)
			return 1;
		if (dir == NF_INO_ROOT || dir == NF_INO_STASH)
			return 0;
		uint64_t up;
		int r = nf_view_parent(&t->view, dir, t->w, &up, name, &len);
		if (r == NF_TREE_NONE)
			return 0;
		if (r)
			return r;
		dir = up;
	}
	return nf_fail(-NF_E_TREE_BAD);
}

static int rename_exchange(struct txn *t, const struct nf_op *op, uint64_t parent)
{
	uint64_t a, b;
	struct nf_val va = { 0 }, vb = { 0 };
	struct nf_inode_item ia, ib;

	int r = find(t, op->parent, op->name, op->name_len, &a, NULL);
	if (r == 0)
		r = find(t, parent, op->new_name, op->new_name_len, &b, NULL);
	if (r == NF_TREE_NONE || (r == 0 && (a != op->ino || b != op->replaced)))
		return 0;
	if (r == 0)
		r = get_inode(t, a, &va, &ia);
	if (r == 0)
		r = get_inode(t, b, &vb, &ib);
	if (r == NF_TREE_NONE)
		r = nf_fail(-NF_E_TREE_BAD);
	if (r == 0 && S_ISDIR(ia.mode) && is_above(t, a, parent) == 1)
		goto out;
	if (r == 0 && S_ISDIR(ib.mode) && is_above(t, b, op->parent) == 1)
		goto out;
	if (r == 0)
		r = unlink_name(t, op->parent, op->name, op->name_len, a, ia.mode, op->time);
	if (r == 0)
		r = unlink_name(t, parent, op->new_name, op->new_name_len, b, ib.mode, op->time);
	if (r == 0)
		r = link_name(t, parent, op->new_name, op->new_name_len, a, ia.mode, op->time);
	if (r == 0)
		r = link_name(t, op->parent, op->name, op->name_len, b, ib.mode, op->time);
	if (r == 0)
		emit(t, op);
out:
	nf_val_deinit(&va);
	nf_val_deinit(&vb);
	return r;
}

/* Makes room for a rename: removes what stands at the new name, or, where that is not what was meant to be replaced,
 * finds another name. */
static int rename_target(struct txn *t, const struct nf_op *op, uint64_t parent,
			 char name[NF_NAME_MAX + 1], uint8_t *len)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	uint64_t there;

	memcpy(name, op->new_name, op->new_name_len);
	name[op->new_name_len] = '\0';
	*len = op->new_name_len;
	int r = find(t, parent, op->new_name, op->new_name_len, &there, NULL);
	if (r == NF_TREE_NONE)
		return 0;
	if (r)
		return r;
	if (there != op->replaced) {
		t->a->conflicts++;
		return free_name(t, parent, op->new_name, op->new_name_len, true, op->time, name, len);
	}
	r = get_inode(t, there, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
	bool keep = false;
	if (S_ISDIR(item.mode)) {
		r = nf_view_dir_empty(&t->view, there, t->w);
		keep = r == 1;
		r = r == 1 ? 0 : r;
	} else {
		keep = is_foreign(t, item.stamp, op->stamp);
	}
	if (r == 0)
		r = unlink_name(t, parent, op->new_name, op->new_name_len, there, item.mode, op->time);
	if (r == 0 && !keep) {
		r = drop_link(t, there, &item, op->time);
	} else if (r == 0) {
		char kept[NF_NAME_MAX + 1];
		uint8_t kept_len;
		t->a->conflicts++;
		r = free_name(t, parent, op->new_name, op->new_name_len, true, op->time, kept, &kept_len);
		if (r == 0)
			r = link_name(t, parent, kept, kept_len, there, item.mode, op->time);
		if (r == 0) {
			struct nf_op moved = { .kind = NF_OP_RENAME, .conflict_mode = op->conflict_mode,
					       .time = op->time, .ino = there, .parent = parent,
					       .name = op->new_name, .name_len = op->new_name_len,
					       .new_parent = parent, .new_name = kept,
					       .new_name_len = kept_len };
			emit(t, &moved);
		}
	}
	nf_val_deinit(&val);
	return r;
}

static int op_rename(struct txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1];
	uint8_t len;
	uint64_t ino, parent;

	int r = find(t, op->parent, op->name, op->name_len, &ino, NULL);
	if (r == NF_TREE_NONE || (r == 0 && ino != op->ino))
		return 0; /* moved or removed by the other side: theirs stays */
	if (r)
		return r;
	r = ensure_dir(t, op->new_parent, op, 0, &parent);
	if (r)
		return r;
	if (op->flags & NF_OPF_EXCHANGE)
		return rename_exchange(t, op, parent);
	r = get_inode(t, ino, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
	if (S_ISDIR(item.mode)) {
		r = is_above(t, ino, parent);
		if (r) {
			nf_val_deinit(&val);
			if (r == 1)
				t->a->conflicts++;
			return r == 1 ? 0 : r;
		}
	}
	r = rename_target(t, op, parent, name, &len);
	if (r == 0)
		r = unlink_name(t, op->parent, op->name, op->name_len, ino, item.mode, op->time);
	nf_val_deinit(&val);
	/* The moved inode may be a directory that unlink_name() or rename_target() touched: read it again. */
	if (r == 0)
		r = get_inode(t, ino, &val, &item);
	if (r == 0) {
		at_least(&item.ctime, op->time);
		r = put_inode(t, ino, &item);
	}
	if (r == 0)
		r = link_name(t, parent, name, len, ino, item.mode, op->time);
	if (r == 0) {
		struct nf_op done = *op;
		done.new_parent = parent;
		done.new_name = name;
		done.new_name_len = len;
		emit(t, &done);
	}
	nf_val_deinit(&val);
	return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
}

static bool same_time(struct timespec x, struct timespec y)
{
	return x.tv_sec == y.tv_sec && x.tv_nsec == y.tv_nsec;
}

/* A field is set if it still holds what the author saw.  Times are not in conflict: modification and change times go
 * forward when both sides set them; access times just follow. */
static int op_setattr(struct txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	struct nf_op done = *op;

	int r = get_inode(t, op->ino, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
#define FIELD(bit, field)                                                                          \
	if (op->mask & (bit)) {                                                                    \
		done.base.field = item.field;                                                      \
		if (item.field == op->base.field)                                                  \
			item.field = op->now.field;                                                \
		else if (item.field != op->now.field)                                              \
			t->a->conflicts++, done.mask &= (uint8_t)~(bit);                           \
	}
	if (op->mask & NF_OPA_MODE && (item.mode & S_IFMT) != (op->now.mode & S_IFMT)) {
		nf_val_deinit(&val);
		return nf_fail(-NF_E_FORMAT_BAD);
	}
	FIELD(NF_OPA_MODE, mode)
	FIELD(NF_OPA_UID, uid)
	FIELD(NF_OPA_GID, gid)
#undef FIELD
#define TIME(bit, field)                                                                           \
	if (op->mask & (bit)) {                                                                    \
		done.base.field = item.field;                                                      \
		if (same_time(item.field, op->base.field))                                         \
			item.field = op->now.field;                                                \
		else                                                                               \
			at_least(&item.field, op->now.field);                                      \
		done.now.field = item.field;                                                       \
	}
	TIME(NF_OPA_ATIME, atime)
	TIME(NF_OPA_MTIME, mtime)
	TIME(NF_OPA_CTIME, ctime)
	TIME(NF_OPA_BTIME, btime)
#undef TIME
	r = put_inode(t, op->ino, &item);
	if (r == 0 && done.mask)
		emit(t, &done);
	nf_val_deinit(&val);
	return r;
}

static int op_xattr(struct txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 }, iv = { 0 };
	struct nf_inode_item item;
	struct nf_xattr_entry e = { .name = op->name, .name_len = op->name_len,
				    .is_blob = op->flags & NF_OPF_BLOB, .value = op->value,
				    .value_len = op->value_len, .blob = op->blob,
				    .birth = op->blob_birth, .index = op->blob_index };
	struct nf_key key = nf_key_xattr(op->ino, nf_ring_name_hash(t->a->ring, op->name, op->name_len));
	struct nf_buf b = NF_BUF_INIT;

	int r = get_inode(t, op->ino, &iv, &item);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
	r = nf_view_lookup(&t->view, &key, t->w, &val);
	if (r == 0 || r == NF_TREE_NONE) {
		r = nf_xattr_edit(val.p, val.len, &val.self, &e, !(op->flags & NF_OPF_REMOVE), &b);
		if (r == -ENOENT)
			r = 0; /* removed by both */
		else if (r == 0)
			r = put_or_remove(t, &key, &b);
	}
	nf_buf_deinit(&b);
	if (r == 0) {
		at_least(&item.ctime, op->time);
		r = put_inode(t, op->ino, &item);
	}
	if (r == 0)
		emit(t, op);
	nf_val_deinit(&val);
	nf_val_deinit(&iv);
	return r;
}

/* The patch of one window as the scratch and the target layer have it, for adding to. */
static int patch_get(struct txn *t, const struct nf_key *key, uint32_t block_bytes,
		     struct nf_block_ref refs[NF_WINDOW_BLOCKS], bool known[NF_WINDOW_BLOCKS])
{
	static const struct nf_pack_id none = { { 0 } };
	const struct nf_layer *from[2] = { t->scratch, t->a->layer };
	const void *p;
	size_t len;

	memset(refs, 0, sizeof(struct nf_block_ref) * NF_WINDOW_BLOCKS);
	memset(known, 0, NF_WINDOW_BLOCKS);
	for (int i = 0; i < 2; i++) {
		int r = nf_layer_get(from[i], key, &p, &len);
		if (r == NF_LAYER_GONE) {
			memset(known, 1, NF_WINDOW_BLOCKS);
			return 0;
		}
		if (r == 0)
			return nf_extent_decode(p, len, &none, block_bytes, refs, known);
		if (r < 0)
			return r;
	}
	return 0;
}

static int patch_put(struct txn *t, const struct nf_key *key, uint32_t block_bytes,
		     const struct nf_block_ref refs[NF_WINDOW_BLOCKS],
		     const bool known[NF_WINDOW_BLOCKS])
{
	struct nf_buf b = NF_BUF_INIT;
	nf_extent_encode(&b, refs, known, block_bytes, true);
	int r = nf_buf_error(&b);
	if (r == 0)
		r = nf_layer_put(t->scratch, key, b.p, b.len);
	nf_buf_deinit(&b);
	return r;
}

/* Everything from FIRST_HOLE on becomes a hole. */
static int cut_blocks(struct txn *t, uint64_t ino, uint64_t first_hole, uint32_t block_bytes)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	uint64_t window = first_hole / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
	uint64_t in = first_hole - window;

	if (in) {
		struct nf_key key = nf_key_extent(ino, window);
		int r = patch_get(t, &key, block_bytes, refs, known);
		if (r < 0)
			return nf_fail(r);
		for (uint64_t b = in; b < NF_WINDOW_BLOCKS; b++) {
			refs[b] = (struct nf_block_ref){ 0 };
			known[b] = true;
		}
		r = patch_put(t, &key, block_bytes, refs, known);
		if (r < 0)
			return r;
		window += NF_WINDOW_BLOCKS;
	}
	return nf_layer_cut(t->scratch, ino, window);
}

static int data_windows(struct txn *t, uint64_t ino, const struct nf_op *op, uint32_t block_bytes)
{
	static const struct nf_pack_id none = { { 0 } };
	struct nf_block_ref refs[NF_WINDOW_BLOCKS], now[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS], named[NF_WINDOW_BLOCKS];
	uint64_t first;
	const uint8_t *value;
	size_t len, pos = 0;
	int r;

	while ((r = nf_op_window_iter(op, &pos, &first, &value, &len)) == 0) {
		struct nf_key key = nf_key_extent(ino, first);
		r = nf_extent_decode(value, len, &none, block_bytes, now, named);
		if (r == 0)
			r = patch_get(t, &key, block_bytes, refs, known);
		if (r < 0)
			return nf_fail(r);
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			if (!named[b])
				continue;
			refs[b] = now[b];
			known[b] = true;
		}
		r = patch_put(t, &key, block_bytes, refs, known);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : 0;
}

/* The change of one DATA operation, on an inode that stands at the version it was made from. */
static int data_in_place(struct txn *t, uint64_t ino, const struct nf_op *op, struct nf_inode_item *item)
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
	t->bytes += (int64_t)op->size_after - (int64_t)item->size_bytes;
	item->size_bytes = op->size_after;
	item->mtime = op->mtime;
	at_least(&item->ctime, op->time);
	item->stamp = t->a->dot;
	return put_inode(t, ino, item);
}

/* The whole content of INO in the scratch layer as one DATA operation, for a delta that is replayed elsewhere. */
static int emit_whole(struct txn *t, uint64_t ino, const struct nf_inode_item *item,
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
		nf_buf_u64(&windows, key.a);
		nf_buf_str16(&windows, val.p, val.len);
		nf_val_deinit(&val);
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
		emit(t, &op);
	}
	nf_buf_deinit(&windows);
	return r;
}

/* Both sides changed the content, or the other side removed the file: the version the author had, with the change, under
 * a name of its own.  An inode that is gone comes back as itself. */
static int data_conflict(struct txn *t, const struct nf_op *op, bool gone)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1], free[NF_NAME_MAX + 1];
	uint8_t len, free_len;
	uint64_t dir, copy = op->ino;
	struct nf_view bv = base_view(t);

	int r = base_inode(t, op->ino, &val, &item);
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
		r = ensure_dir(t, dir, op, 0, &dir);
	if (r == 0)
		r = free_name(t, dir, name, len, !gone, op->time, free, &free_len);
	if (r)
		goto out;
	t->a->conflicts++;
	if (!gone)
		copy = t->a->first_spare + t->a->nr_spared + t->spared++;
	item.nlink = 1;
	t->inodes++;
	t->bytes += (int64_t)item.size_bytes;
	r = emit_create(t, copy, dir, free, free_len, &item, op);
	if (r == 0)
		r = clone_base_items(t, op->ino, copy, 1u << item.block_shift, op);
	if (r == 0)
		r = data_in_place(t, copy, op, &item);
	if (r == 0)
		r = link_name(t, dir, free, free_len, copy, item.mode, op->time);
	if (r == 0)
		r = emit_whole(t, copy, &item, op);
	if (r == 0 && !gone)
		t->redirect = (struct nf_redirect){ op->ino, copy };
	nf_trace(COMMIT, "conflict ino=%" PRIx64 " copy=%" PRIx64 " name=%s", op->ino, copy, free);
out:
	nf_val_deinit(&val);
	return r;
}

static int op_data(struct txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	uint64_t ino = redirected(t->a, op->ino);

	int r = get_inode(t, ino, &val, &item);
	if (r == NF_TREE_NONE)
		return data_conflict(t, op, true);
	if (r)
		return r;
	if (!S_ISREG(item.mode)) {
		nf_val_deinit(&val);
		return nf_fail(-NF_E_FORMAT_BAD);
	}
	if (ino == op->ino && !nf_stamp_equal(item.stamp, op->stamp)) {
		nf_val_deinit(&val);
		return data_conflict(t, op, false);
	}
	struct nf_op done = *op;
	done.ino = ino;
	done.stamp = item.stamp;
	done.size_before = item.size_bytes;
	r = data_in_place(t, ino, op, &item);
	if (r == 0)
		emit(t, &done);
	nf_val_deinit(&val);
	return r;
}

static int op_claim(struct txn *t, const struct nf_op *op)
{
	struct nf_key key = { .type = NF_ITEM_WRITER, .a = op->prefix };
	struct nf_writer_item w = { .seen_s = op->time.tv_sec, .next_counter = 1 };
	struct nf_val val = { 0 };
	struct nf_buf b = NF_BUF_INIT;

	int r = nf_view_lookup(&t->view, &key, t->w, &val);
	if (r == 0) {
		/* Taken: the claimer finds another's id there and takes a new prefix. */
		nf_val_deinit(&val);
		return 0;
	}
	if (r != NF_TREE_NONE)
		return r;
	memcpy(w.id, op->writer_id, sizeof w.id);
	memcpy(w.host, op->host, op->host_len);
	nf_writer_encode(&b, &w);
	r = put_or_remove(t, &key, &b);
	if (r == 0)
		emit(t, op);
	return r;
}

/* Two machines may have given one name at once: both stay, told apart by their heads. */
static int op_snapshot(struct txn *t, const struct nf_op *op)
{
	const struct nf_snapshot_entry *e = &op->snapshot;
	struct nf_key key = { .type = NF_ITEM_SNAPSHOT, .a = nf_ring_name_hash(t->a->ring, e->name, e->name_len) };
	struct nf_val val = { 0 };
	struct nf_buf b = NF_BUF_INIT;

	int r = nf_view_lookup(&t->view, &key, t->w, &val);
	if (r != 0 && r != NF_TREE_NONE)
		return r;
	r = nf_snapshot_edit(r == 0 ? val.p : NULL, val.len, &val.self, e, !(op->flags & NF_OPF_FORGET), &b);
	nf_val_deinit(&val);
	if (r == 0)
		r = put_or_remove(t, &key, &b);
	else
		nf_buf_deinit(&b);
	if (r == 0)
		emit(t, op);
	/* There already, or gone already: the same end. */
	return r == -EEXIST || r == -ENOENT ? 0 : r;
}

static int dispatch(struct txn *t, const struct nf_op *op)
{
	switch (op->kind) {
	case NF_OP_CREATE:
		return op_create(t, op);
	case NF_OP_LINK:
		return op_link(t, op);
	case NF_OP_UNLINK:
		return op_unlink(t, op);
	case NF_OP_RENAME:
		return op_rename(t, op);
	case NF_OP_SETATTR:
		return op_setattr(t, op);
	case NF_OP_DATA:
		return op_data(t, op);
	case NF_OP_XATTR:
		return op_xattr(t, op);
	case NF_OP_CLAIM:
		return op_claim(t, op);
	case NF_OP_SNAPSHOT:
		return op_snapshot(t, op);
	case NF_OP_KIND_NR:
		break;
	}
	return nf_fail(-NF_E_FORMAT_BAD);
}

static int commit(struct txn *t)
{
	struct nf_apply *a = t->a;

	if (t->redirect.from) {
		struct nf_redirect *p =
			realloc(a->redirects, (a->nr_redirects + 1) * sizeof *a->redirects);
		if (!p)
			return nf_fail(-ENOMEM);
		a->redirects = p;
	}
	if (a->out && t->out.len) {
		nf_buf_bytes(a->out, t->out.p, t->out.len);
		int r = nf_buf_error(a->out);
		if (r < 0)
			return r;
	}
	int r = nf_layer_fold(a->layer, t->scratch);
	if (r < 0)
		return nf_fail(r);
	if (t->redirect.from)
		a->redirects[a->nr_redirects++] = t->redirect;
	a->nr_out += t->nr_out;
	a->nr_spared += t->spared;
	a->inodes += t->inodes;
	a->bytes += t->bytes;
	return 0;
}

static int apply(struct nf_apply *a, const struct nf_op *op, struct nf_want *w, bool keep)
{
	struct txn t = { .a = a, .w = w };
	uint64_t conflicts = a->conflicts;

	NF_ASSERT(a->view.layers[0] == a->layer && !a->view.layers[NF_VIEW_LAYERS - 1]);
	int r = nf_layer_new(&t.scratch);
	if (r < 0)
		return r;
	t.view = a->view;
	for (int i = NF_VIEW_LAYERS - 1; i > 0; i--)
		t.view.layers[i] = t.view.layers[i - 1];
	t.view.layers[0] = t.scratch;
	r = dispatch(&t, op);
	if (r == 0)
		r = nf_buf_error(&t.out);
	if (r == 0 && keep)
		r = commit(&t);
	if (r == 0 && keep)
		nf_count(NF_C_CONFLICTS, a->conflicts - conflicts);
	else
		a->conflicts = conflicts;
	nf_layer_free(t.scratch);
	nf_buf_deinit(&t.out);
	return r;
}

int nf_apply(struct nf_apply *a, const struct nf_op *op, struct nf_want *w)
{
	return apply(a, op, w, true);
}

int nf_apply_probe(struct nf_apply *a, const struct nf_op *op, struct nf_want *w)
{
	return apply(a, op, w, false);
}
