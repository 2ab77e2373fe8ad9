/* vault/call_attr.c - attributes, links' targets, room. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/calls.h"
#include "vault/space.h"

#include <string.h>

int nf_may_change(const struct nf_vault *v) { return v->read_only ? nf_fail(-EROFS) : 0; }

int nf_do_getattr(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	int r = nf_vault_attr(v, c->ino, w, &c->attr);
	return r == NF_TREE_NONE ? -ENOENT : r;
}

int nf_do_readlink(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_inode_item item;
	struct nf_val val = { 0 };

	int r = nf_vault_inode(v, c->ino, w, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	if (!S_ISLNK(item.mode))
		r = nf_fail(-EINVAL);
	if (r == 0)
		c->buf = strndup((const char *)item.inline_data, item.inline_len);
	nf_val_deinit(&val);
	return r == 0 && !c->buf ? nf_fail(-ENOMEM) : r;
}

int nf_vault_do_attr(struct nf_vault *v, const struct nf_op *op, struct nf_want *w)
{
	struct nf_vnode *vn = nf_vnode_find(v, op->ino);

	if (!vn || !vn->orphan)
		return nf_vault_do(v, op, w);
	struct nf_apply a = nf_vault_apply(v, v->current, false);
	a.view = nf_vnode_view(vn);
	a.layer = vn->orphan_layer;
	int r = nf_apply(&a, op, w);
	nf_apply_deinit(&a);
	return r;
}

/* --- SETATTR ------------------------------------------------------------------------------ */

static void truncated(struct nf_io *io)
{
	struct nf_run *run = io->ctx;

	run->error = io->error;
	run->phase = 2;
	nf_run_again(run);
}

static void start_truncate(struct nf_run *run)
{
	run->io.done = truncated;
	run->io.ctx = run;
	nf_truncate(&run->io);
}

static bool sets_attrs(const struct nf_call *c)
{
	return c->mask & ~(uint32_t)(NF_SET_SIZE | NF_SET_CTIME);
}

static uint32_t without_set_ids(uint32_t mode)
{
	mode &= ~(uint32_t)S_ISUID;
	return mode & S_IXGRP ? mode & ~(uint32_t)S_ISGID : mode;
}

/* The operation of everything but the size. */
static struct nf_op attr_op(const struct nf_call *c, const struct nf_inode_item *item, struct timespec now)
{
	struct nf_op op = { .kind = NF_OP_SETATTR, .conflict_mode = NF_MODE_STASH, .time = now,
			    .ino = c->ino, .mask = NF_OPA_CTIME,
			    .base = { item->mode, item->uid, item->gid, item->atime, item->mtime,
				      item->ctime, item->btime } };
	uint32_t mode = item->mode;

	op.now = op.base;
	op.now.ctime = now;
	if (c->mask & NF_SET_MODE)
		mode = (item->mode & S_IFMT) | (c->attr.mode & 07777);
	if (c->mask & NF_SET_KILL_SUIDGID && !S_ISDIR(mode))
		mode = without_set_ids(mode);
	if (mode != item->mode || c->mask & NF_SET_MODE) {
		op.mask |= NF_OPA_MODE;
		op.now.mode = mode;
	}
	if (c->mask & NF_SET_UID) {
		op.mask |= NF_OPA_UID;
		op.now.uid = c->attr.uid;
	}
	if (c->mask & NF_SET_GID) {
		op.mask |= NF_OPA_GID;
		op.now.gid = c->attr.gid;
	}
	if (c->mask & (NF_SET_ATIME | NF_SET_ATIME_NOW)) {
		op.mask |= NF_OPA_ATIME;
		op.now.atime = c->mask & NF_SET_ATIME_NOW ? now : c->attr.atime;
	}
	if (c->mask & (NF_SET_MTIME | NF_SET_MTIME_NOW)) {
		op.mask |= NF_OPA_MTIME;
		op.now.mtime = c->mask & NF_SET_MTIME_NOW ? now : c->attr.mtime;
	}
	return op;
}

int nf_drop_set_ids(struct nf_vault *v, uint64_t ino, struct nf_want *w)
{
	struct nf_attr attr;

	int r = nf_vault_attr(v, ino, w, &attr);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	if (without_set_ids(attr.mode) == attr.mode)
		return 0;
	r = nf_set_mode(v, ino, without_set_ids(attr.mode), nf_clock_real(), w);
	/* It keeps the mode it has seen, and would run the file by it. */
	if (r == 0 && v->fs.notify)
		v->fs.notify->inval_inode(v->fs.notify_ctx, ino, -1, 0, NULL, NULL);
	return r;
}

static int set_attrs(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_inode_item item;
	struct nf_val val = { 0 };
	struct timespec now = nf_clock_real();

	int r = nf_vault_inode(v, c->ino, w, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	struct nf_op op = attr_op(c, &item, now);
	nf_val_deinit(&val);
	if (c->mask & NF_SET_MODE)
		r = nf_acl_follow(v, c->ino, op.now.mode, now, w);
	if (r == 0)
		r = nf_vault_do_attr(v, &op, w);
	struct nf_vnode *vn = nf_vnode_find(v, c->ino);
	if (r == 0 && vn && op.mask & NF_OPA_MTIME && vn->pending_times)
		vn->mtime = op.now.mtime;
	return r;
}

static int set_size(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_run *run = nf_run_of(c);
	struct nf_attr attr;

	int r = nf_vault_attr(v, c->ino, w, &attr);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	if (S_ISDIR(attr.mode))
		return nf_fail(-EISDIR);
	if (!S_ISREG(attr.mode))
		return nf_fail(-EINVAL);
	if (c->attr.size_bytes > INT64_MAX - (1 << 22))
		return nf_fail(-EFBIG);
	if (!run->vn) {
		r = nf_vnode_get(v, c->ino, c, w, &run->vn);
		if (r)
			return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	}
	nf_vnode_touch(run->vn);
	run->io = (struct nf_io){ .ic = &run->vn->ic, .len_bytes = c->attr.size_bytes };
	run->start = start_truncate;
	if (c->attr.size_bytes > NF_INLINE_MAX && nf_unline_needed(run->vn, 0, 0))
		return nf_unline(run, start_truncate, truncated);
	return NF_CALL_PENDING;
}

int nf_do_setattr(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_run *run = nf_run_of(c);
	int r = nf_may_change(v);

	if (r < 0)
		return r;
	if (c->mask & NF_SET_SIZE && run->phase < 2)
		return set_size(v, c, w);
	if (run->error < 0)
		return run->error;
	if (run->phase == 2) {
		nf_vnode_dirty(run->vn);
		run->phase = 3;
	}
	if (run->vn) {
		r = nf_vnode_log_times(run->vn, w);
		if (r)
			return r;
	}
	if (sets_attrs(c) || !(c->mask & NF_SET_SIZE)) {
		r = set_attrs(v, c, w);
		if (r)
			return r;
	}
	r = nf_vault_attr(v, c->ino, w, &c->attr);
	return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
}

/* Numbers are 64 bits wide: there is always room for more. */
static const uint64_t inodes_free = UINT64_C(1) << 40;

int nf_do_statfs(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	int64_t counters[2] = { 0, 0 };
	struct nf_view view = { .nodes = v->nodes, .base = v->base.root };

	for (int i = 0; i < 2; i++) {
		struct nf_key key = { .type = NF_ITEM_COUNTER, .a = (uint64_t)i + 1 };
		struct nf_val val = { 0 };
		int r = nf_view_lookup(&view, &key, w, &val);
		if (r < 0 || r == NF_TREE_WANT)
			return r;
		if (r == 0 && val.len == 8)
			counters[i] = (int64_t)nf_get_le64(val.p);
		nf_val_deinit(&val);
	}
	const struct nf_epoch *e[2] = { nf_epoch_below(v), v->current };
	for (size_t i = 0; i < v->nr_shelf; i++) {
		counters[0] = nf_counter_sum(counters[0], v->shelf[i].inodes);
		counters[1] = nf_counter_sum(counters[1], v->shelf[i].bytes);
	}
	for (int i = 0; i < 2; i++) {
		if (!e[i])
			continue;
		counters[0] += e[i]->inodes;
		counters[1] += e[i]->bytes;
	}
	uint64_t used = (uint64_t)NF_MAX(counters[1], (int64_t)0);
	uint64_t room = NF_MIN(nf_quota_room(v), nf_space_left(v));
	c->statfs = (struct nf_statfs){ .total_bytes = used + room, .free_bytes = room,
					.files = (uint64_t)NF_MAX(counters[0], (int64_t)0) + inodes_free,
					.files_free = inodes_free, .name_max = NF_NAME_MAX };
	return 0;
}
