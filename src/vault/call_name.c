/* vault/call_name.c - calls that make, find and move names. */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "vault/calls.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

int nf_name_check(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || !strcmp(name, ".") || !strcmp(name, ".."))
		return nf_fail(-EINVAL);
	if (len > NF_NAME_MAX)
		return nf_fail(-ENAMETOOLONG);
	return 0;
}


static int find(struct nf_vault *v, uint64_t dir, const char *name, struct nf_want *w, uint64_t *ino)
{
	struct nf_view view = nf_vault_view(v);
	return nf_view_find(&view, v->ring, dir, name, strlen(name), w, ino, NULL);
}

/* DIR's inode, which must be a live directory. */
static int directory(struct nf_vault *v, uint64_t dir, struct nf_want *w, struct nf_attr *out)
{
	int r = nf_vault_attr(v, dir, w, out);
	if (r == NF_TREE_NONE)
		return nf_fail(-ENOENT);
	if (r == 0 && !S_ISDIR(out->mode))
		return nf_fail(-ENOTDIR);
	return r;
}

int nf_do_lookup(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	uint64_t ino;

	if (strlen(c->name) > NF_NAME_MAX)
		return nf_fail(-ENAMETOOLONG);
	if (!strcmp(c->name, "..") || !strcmp(c->name, ".")) {
		ino = c->ino;
	} else {
		int r = find(v, c->ino, c->name, w, &ino);
		if (r == NF_TREE_NONE) {
			c->attr = (struct nf_attr){ 0 };
			return 0;
		}
		if (r)
			return r;
	}
	int r = nf_vault_attr(v, ino, w, &c->attr);
	return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
}

static uint32_t wanted_mode(const struct nf_call *c)
{
	switch ((int)c->op) {
	case NF_CALL_MKDIR:
		return S_IFDIR | (c->mode & 07777);
	case NF_CALL_SYMLINK:
		return S_IFLNK | 0777;
	case NF_CALL_CREATE:
		return S_IFREG | (c->mode & 07777);
	default:
		return c->mode & S_IFMT ? c->mode : S_IFREG | c->mode;
	}
}

/* MKNOD, MKDIR, SYMLINK, CREATE. */
int nf_do_create(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_attr dir;
	struct nf_buf access = NF_BUF_INIT, inherit = NF_BUF_INIT;
	uint32_t mode = wanted_mode(c);
	uint64_t there;
	size_t target_len = c->op == NF_CALL_SYMLINK ? strlen(c->name2) : 0;

	int r = nf_may_change(v);
	if (r == 0)
		r = nf_name_check(c->name);
	if (r == 0 && c->op == NF_CALL_SYMLINK && (target_len == 0 || target_len > NF_SYMLINK_MAX))
		r = nf_fail(target_len ? -ENAMETOOLONG : -ENOENT);
	if (r == 0)
		r = directory(v, c->ino, w, &dir);
	if (r)
		return r;
	r = find(v, c->ino, c->name, w, &there);
	if (r == 0)
		return nf_fail(-EEXIST);
	if (r != NF_TREE_NONE)
		return r;
	r = nf_acl_inherit(v, c->ino, &mode, c->umask, S_ISDIR(mode), w, &access, &inherit);
	if (r)
		goto out;
	struct nf_op op = {
		.kind = NF_OP_CREATE, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(),
		.ino = nf_vault_new_ino(v), .parent = c->ino, .name = c->name,
		.name_len = (uint8_t)strlen(c->name), .mode = mode, .uid = c->uid,
		.gid = dir.mode & S_ISGID ? dir.gid : c->gid, .rdev = c->rdev,
		.block_shift = S_ISREG(mode) ? v->block_shift : 0, .target = c->name2,
		.target_len = (uint16_t)target_len,
	};
	if (S_ISDIR(mode) && dir.mode & S_ISGID)
		op.mode |= S_ISGID;
	if (!S_ISCHR(mode) && !S_ISBLK(mode))
		op.rdev = 0;
	r = nf_vault_do(v, &op, w);
	if (r == 0)
		r = nf_acl_give(v, op.ino, op.time, &access, &inherit, w);
	if (r == 0)
		r = nf_vault_attr(v, op.ino, w, &c->attr);
	if (r == 0 && c->op == NF_CALL_CREATE) {
		struct nf_vnode *vn;
		r = nf_vnode_new(v, op.ino, op.block_shift, 0, &vn);
		if (r == 0)
			r = nf_open_file_new(v, vn, c);
	}
	/* What was just made is in the layer: nothing can be missing for it. */
	NF_ASSERT(r <= 0 || r == NF_TREE_WANT);
out:
	nf_buf_deinit(&access);
	nf_buf_deinit(&inherit);
	return r;
}

int nf_do_tmpfile(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_attr dir;
	struct nf_vnode *vn;
	struct timespec now = nf_clock_real();

	int r = nf_may_change(v);
	if (r == 0)
		r = directory(v, c->ino, w, &dir);
	if (r)
		return r;
	uint64_t ino = nf_vault_new_ino(v);
	struct nf_inode_item item = {
		.mode = S_IFREG | (c->mode & 07777 & ~c->umask), .uid = c->uid,
		.gid = dir.mode & S_ISGID ? dir.gid : c->gid, .nlink = 1, .atime = now, .mtime = now,
		.ctime = now, .btime = now, .block_shift = v->block_shift, .flags = NF_INODE_INLINE,
		.stamp = { v->writer, v->current->seq },
	};
	r = nf_vnode_new(v, ino, v->block_shift, 0, &vn);
	if (r < 0)
		return r;
	r = nf_vnode_orphan(vn, w);
	if (r == 0)
		r = nf_layer_put_inode(vn->orphan_layer, ino, &item);
	if (r == 0) {
		vn->nameless = true;
		r = nf_vault_attr(v, ino, w, &c->attr);
	}
	if (r == 0)
		r = nf_open_file_new(v, vn, c);
	else
		nf_vnode_put(vn);
	return r;
}

/* --- unlink ------------------------------------------------------------------------------ */

/* Before the last name of INO goes: an open file lives on by itself. */
static int before_last_name(struct nf_vault *v, uint64_t ino, const struct nf_inode_item *item,
			    struct nf_want *w)
{
	struct nf_vnode *vn = nf_vnode_find(v, ino);

	if (!vn || vn->dying || S_ISDIR(item->mode) || item->nlink > 1)
		return 0;
	return nf_vnode_orphan(vn, w);
}

int nf_do_unlink(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_inode_item item;
	struct nf_val val = { 0 };
	uint64_t ino;

	int r = nf_may_change(v);
	if (r == 0)
		r = find(v, c->ino, c->name, w, &ino);
	if (r == NF_TREE_NONE)
		return nf_fail(-ENOENT);
	if (r == 0)
		r = nf_vault_inode(v, ino, w, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
	struct nf_view view = nf_vault_view(v);
	if (c->op == NF_CALL_RMDIR && !S_ISDIR(item.mode))
		r = nf_fail(-ENOTDIR);
	else if (c->op == NF_CALL_UNLINK && S_ISDIR(item.mode))
		r = nf_fail(-EISDIR);
	else if (S_ISDIR(item.mode))
		r = nf_view_dir_empty(&view, ino, w);
	if (r == 1)
		r = nf_fail(-ENOTEMPTY);
	struct nf_op op = { .kind = NF_OP_UNLINK, .conflict_mode = NF_MODE_STASH,
			    .time = nf_clock_real(), .parent = c->ino, .ino = ino, .stamp = item.stamp,
			    .name = c->name, .name_len = (uint8_t)strlen(c->name) };
	if (r == 0) {
		/* The view must not change between the orphan's copy and the removal: first see that nothing is missing. */
		struct nf_apply a = nf_vault_apply(v, v->current, false);
		r = nf_apply_probe(&a, &op, w);
		nf_apply_deinit(&a);
	}
	if (r == 0)
		r = before_last_name(v, ino, &item, w);
	if (r == 0)
		r = nf_vault_do(v, &op, w);
	nf_val_deinit(&val);
	return r;
}

/* --- rename, link -------------------------------------------------------------------------- */

/* What a name refers to: 0, NF_TREE_NONE, ... */
static int named(struct nf_vault *v, uint64_t dir, const char *name, struct nf_want *w, uint64_t *ino,
		 struct nf_val *val, struct nf_inode_item *item)
{
	int r = find(v, dir, name, w, ino);
	if (r)
		return r;
	r = nf_vault_inode(v, *ino, w, val, item);
	return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
}

static void data_first_done(struct nf_io *io)
{
	struct nf_run *run = io->ctx;

	run->error = io->error;
	run->phase++;
	nf_run_again(run);
}

static void data_first(struct nf_run *run)
{
	run->io = (struct nf_io){ .ic = &run->vn->ic, .done = data_first_done, .ctx = run };
	nf_group_flush(&run->io, nf_group_close(&run->vn->ic));
}

/* What came of the flush before this run of the handler: without its data the file gets no name. */
static int data_first_error(const struct nf_run *run)
{
	if (!run->vn)
		return 0;
	return run->error;
}

/* A file that gets a (new) name has its data stored first, so that after a crash the name never shows an empty file.
 * INO is the call's NTH such file, from 0.  NF_CALL_PENDING while that is under way. */
static int store_data_first(struct nf_vault *v, struct nf_call *c, uint64_t ino, unsigned nth)
{
	struct nf_run *run = nf_run_of(c);
	struct nf_vnode *vn = nf_vnode_find(v, ino);

	if (run->phase > nth)
		return data_first_error(run);
	if (!vn || vn->dying || (nf_list_empty(&vn->dirty) && !nf_is_dirty(&vn->ic)))
		return 0;
	if (!nf_list_empty(&vn->lru)) {
		nf_list_del(&vn->lru);
		v->nr_closed--;
	}
	vn->refs++;
	if (run->vn)
		nf_vnode_put(run->vn);
	run->vn = vn;
	run->phase = nth;
	run->start = data_first;
	return NF_CALL_PENDING;
}

static int check_rename(struct nf_vault *v, struct nf_call *c, const struct nf_inode_item *from,
			const struct nf_inode_item *to, uint64_t to_ino, bool exists, struct nf_want *w)
{
	if (c->flags & RENAME_EXCHANGE)
		return exists ? 0 : nf_fail(-ENOENT);
	if (!exists)
		return 0;
	if (c->flags & RENAME_NOREPLACE)
		return nf_fail(-EEXIST);
	if (S_ISDIR(from->mode) && !S_ISDIR(to->mode))
		return nf_fail(-ENOTDIR);
	if (!S_ISDIR(from->mode) && S_ISDIR(to->mode))
		return nf_fail(-EISDIR);
	if (!S_ISDIR(to->mode))
		return 0;
	struct nf_view view = nf_vault_view(v);
	int r = nf_view_dir_empty(&view, to_ino, w);
	return r == 1 ? nf_fail(-ENOTEMPTY) : r;
}

int nf_do_rename(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_val fv = { 0 }, tv = { 0 };
	struct nf_inode_item from, to = { 0 };
	struct nf_attr dir;
	uint64_t ino, to_ino = 0;

	int r = nf_may_change(v);
	if (r == 0 && c->flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		r = nf_fail(-EINVAL);
	if (r == 0)
		r = nf_name_check(c->name2);
	if (r == 0)
		r = directory(v, c->ino2, w, &dir);
	if (r)
		return r;
	r = named(v, c->ino, c->name, w, &ino, &fv, &from);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	r = named(v, c->ino2, c->name2, w, &to_ino, &tv, &to);
	bool exists = r == 0;
	if (r == NF_TREE_NONE)
		r = 0;
	if (r == 0)
		r = check_rename(v, c, &from, &to, to_ino, exists, w);
	bool same = r == 0 && exists && to_ino == ino; /* two links of one file: nothing happens */
	if (r == 0 && !same && exists && S_ISREG(from.mode))
		r = store_data_first(v, c, ino, 0);
	if (r == 0 && !same && c->flags & RENAME_EXCHANGE && S_ISREG(to.mode))
		r = store_data_first(v, c, to_ino, 1);
	struct nf_op op = {
		.kind = NF_OP_RENAME, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(), .ino = ino,
		.parent = c->ino, .new_parent = c->ino2, .replaced = exists ? to_ino : 0,
		.stamp = to.stamp, .flags = c->flags & RENAME_EXCHANGE ? NF_OPF_EXCHANGE : 0,
		.name = c->name, .name_len = (uint8_t)strlen(c->name), .new_name = c->name2,
		.new_name_len = (uint8_t)strlen(c->name2),
	};
	if (r == 0 && !same) {
		struct nf_apply a = nf_vault_apply(v, v->current, false);
		r = nf_apply_probe(&a, &op, w);
		nf_apply_deinit(&a);
	}
	if (r == 0 && !same && exists && !(c->flags & RENAME_EXCHANGE))
		r = before_last_name(v, to_ino, &to, w);
	if (r == 0 && !same)
		r = nf_vault_do(v, &op, w);
	nf_val_deinit(&fv);
	nf_val_deinit(&tv);
	return r;
}

/* The xattrs of a nameless file, in the tree. */
static int link_xattrs(struct nf_vault *v, const struct nf_view *view, uint64_t ino, struct timespec time,
		       struct nf_want *w)
{
	struct nf_key at = nf_key_xattr(ino, 0), end = { .ino = ino, .type = NF_ITEM_XATTR + 1 };

	for (;;) {
		struct nf_key key;
		struct nf_val val = { 0 };
		struct nf_xattr_entry e;
		size_t pos = 0;
		int r = nf_view_next(view, &at, &end, w, &key, &val);
		if (r)
			return r == NF_TREE_NONE ? 0 : r;
		while (r == 0 && (r = nf_xattr_iter(val.p, val.len, &val.self, &pos, &e)) == 0) {
			struct nf_op op = { .kind = NF_OP_XATTR, .conflict_mode = NF_MODE_STASH, .time = time,
					    .ino = ino, .name = e.name, .name_len = e.name_len,
					    .value = e.value, .value_len = e.value_len };
			r = nf_vault_do(v, &op, w);
		}
		nf_val_deinit(&val);
		if (r < 0)
			return r;
		at = key;
		at.a++;
	}
}

/* A nameless file gets a name: it is made in the tree with all it holds. */
static int link_nameless(struct nf_vault *v, struct nf_vnode *vn, struct nf_call *c, struct nf_want *w)
{
	struct nf_inode_item item;
	struct nf_val val = { 0 };
	struct nf_buf windows = NF_BUF_INIT;
	struct nf_key at = nf_key_extent(vn->ino, 0), end = { .ino = vn->ino, .type = NF_ITEM_EXTENT + 1 };
	struct nf_view view = nf_vnode_view(vn);
	uint32_t nr = 0;
	uint8_t range[16];

	int r = nf_vault_inode(v, vn->ino, w, &val, &item);
	if (r)
		return r;
	struct nf_op create = {
		.kind = NF_OP_CREATE, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(),
		.ino = vn->ino, .parent = c->ino2, .name = c->name2, .name_len = (uint8_t)strlen(c->name2),
		.mode = item.mode, .uid = item.uid, .gid = item.gid, .block_shift = item.block_shift,
	};
	for (;;) {
		struct nf_key key;
		struct nf_val ev = { 0 };
		r = nf_view_next(&view, &at, &end, w, &key, &ev);
		if (r)
			break;
		nf_buf_u64(&windows, key.a);
		nf_buf_str16(&windows, ev.p, ev.len);
		nf_val_deinit(&ev);
		nr++;
		at = key;
		at.a++;
	}
	if (r == NF_TREE_NONE)
		r = nf_buf_error(&windows);
	if (r == 0)
		r = nf_vault_do(v, &create, w);
	if (r == 0 && item.size_bytes) {
		struct nf_op data = {
			.kind = NF_OP_DATA, .conflict_mode = NF_MODE_STASH, .time = create.time,
			.ino = vn->ino, .stamp = { v->writer, v->current->seq }, .mtime = item.mtime,
			.least_size = UINT64_MAX, .size_after = item.size_bytes, .ranges = range,
			.nr_ranges = 1, .windows = windows.p, .windows_len = windows.len,
			.nr_windows = nr,
		};
		if (item.flags & NF_INODE_INLINE) {
			data.flags = NF_OPF_INLINE;
			data.inline_data = item.inline_data;
			data.inline_len = item.inline_len;
			data.nr_windows = 0;
			data.windows_len = 0;
		}
		nf_put_le64(range, 0);
		nf_put_le64(range + 8, item.size_bytes);
		vn->orphan = false;
		r = nf_vault_do_data(v, vn, &data, false);
	}
	if (r == 0)
		r = link_xattrs(v, &view, vn->ino, create.time, w);
	nf_val_deinit(&val);
	nf_buf_deinit(&windows);
	if (r == 0) {
		vn->orphan = vn->nameless = false;
		nf_layer_free(vn->orphan_layer);
		nf_layer_free(vn->orphan_below);
		vn->orphan_layer = vn->orphan_below = NULL;
		nf_vnode_dirty(vn);
	}
	return r;
}

int nf_do_link(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_inode_item item;
	struct nf_val val = { 0 };
	struct nf_attr dir;
	uint64_t there;

	int r = nf_may_change(v);
	if (r == 0)
		r = nf_name_check(c->name2);
	if (r == 0)
		r = directory(v, c->ino2, w, &dir);
	if (r)
		return r;
	r = find(v, c->ino2, c->name2, w, &there);
	if (r == 0)
		return nf_fail(-EEXIST);
	if (r != NF_TREE_NONE)
		return r;
	r = nf_vault_inode(v, c->ino, w, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	struct nf_vnode *vn = nf_vnode_find(v, c->ino);
	bool regular = S_ISREG(item.mode);
	if (S_ISDIR(item.mode))
		r = nf_fail(-EPERM);
	else if (item.nlink >= 65000)
		r = nf_fail(-EMLINK);
	nf_val_deinit(&val);
	if (r == 0 && vn && vn->orphan && !vn->nameless)
		r = nf_fail(-ENOENT);
	if (r == 0 && vn && vn->nameless) {
		struct nf_run *run = nf_run_of(c);
		if (!run->phase) {
			vn->refs++;
			run->vn = vn;
			run->start = data_first;
			return NF_CALL_PENDING;
		}
		r = data_first_error(run);
		if (r == 0)
			r = link_nameless(v, vn, c, w);
	} else if (r == 0) {
		if (regular)
			r = store_data_first(v, c, c->ino, 0);
		struct nf_op op = { .kind = NF_OP_LINK, .conflict_mode = NF_MODE_STASH,
				    .time = nf_clock_real(), .ino = c->ino, .parent = c->ino2,
				    .name = c->name2, .name_len = (uint8_t)strlen(c->name2) };
		if (r == 0)
			r = nf_vault_do(v, &op, w);
	}
	if (r == 0)
		r = nf_vault_attr(v, c->ino, w, &c->attr);
	return r;
}
