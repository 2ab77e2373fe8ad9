/* vault/apply_name.c - operations on names: CREATE, LINK, UNLINK, RENAME. */
#include "vault/apply_priv.h"

#include "base/error.h"

int nf_txn_do_create(struct nf_txn *t, const struct nf_op *op)
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
	int r = nf_txn_ensure_dir(t, op->parent, op, 0, &parent);
	if (r)
		return r;
	if (op->ino == NF_INO_STASH || op->name_len == 0)
		return nf_fail(-NF_E_FORMAT_BAD);
	r = nf_txn_find(t, parent, op->name, op->name_len, &there, NULL);
	if (r < 0 || r == NF_TREE_WANT)
		return r;
	bool taken = r == 0;
	if (taken)
		t->a->conflicts++;
	r = nf_txn_free_name(t, parent, op->name, op->name_len, taken, op->time, name, &len);
	/* Nothing of a new inode is below: what is asked of it later never needs the tree. */
	if (r == 0)
		r = nf_layer_wipe(t->scratch, op->ino);
	if (r == 0)
		r = nf_txn_put_inode(t, op->ino, &item);
	if (r == 0)
		r = nf_txn_link(t, parent, name, len, op->ino, op->mode, op->time);
	if (r)
		return r;
	t->inodes++;
	struct nf_op done = *op;
	done.parent = parent;
	done.name = name;
	done.name_len = len;
	nf_txn_emit(t, &done);
	return 0;
}

int nf_txn_do_link(struct nf_txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1];
	uint8_t len;
	uint64_t parent, there;

	int r = nf_txn_inode(t, op->ino, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
	if (S_ISDIR(item.mode)) {
		nf_val_deinit(&val);
		return nf_fail(-EPERM);
	}
	r = nf_txn_ensure_dir(t, op->parent, op, 0, &parent);
	if (r == 0) {
		r = nf_txn_find(t, parent, op->name, op->name_len, &there, NULL);
		bool same = r == 0 && there == op->ino;
		bool taken = r == 0;
		if (r == NF_TREE_NONE)
			r = 0;
		if (r || same) {
			nf_val_deinit(&val);
			return r;
		}
		r = nf_txn_free_name(t, parent, op->name, op->name_len, taken, op->time, name, &len);
	}
	if (r == 0) {
		item.nlink++;
		nf_time_at_least(&item.ctime, op->time);
		r = nf_txn_put_inode(t, op->ino, &item);
	}
	if (r == 0)
		r = nf_txn_link(t, parent, name, len, op->ino, item.mode, op->time);
	if (r == 0) {
		struct nf_op done = *op;
		done.parent = parent;
		done.name = name;
		done.name_len = len;
		nf_txn_emit(t, &done);
	}
	nf_val_deinit(&val);
	return r;
}

/* One link of INO is gone; at the last one the inode goes. */
static int drop_link(struct nf_txn *t, uint64_t ino, struct nf_inode_item *item, struct timespec time)
{
	if (S_ISDIR(item->mode) || item->nlink <= 1) {
		t->inodes--;
		if (S_ISREG(item->mode))
			t->bytes = nf_counter_sum(t->bytes, -(int64_t)item->size_bytes);
		return nf_layer_wipe(t->scratch, ino);
	}
	item->nlink--;
	nf_time_at_least(&item->ctime, time);
	return nf_txn_put_inode(t, ino, item);
}

/* The author removed what became a conflict copy earlier in this delta: the copy goes, the other side's version stays. */
static int unlink_copy(struct nf_txn *t, uint64_t copy, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1];
	uint8_t len;
	uint64_t dir;

	int r = nf_txn_inode(t, copy, &val, &item);
	if (r == 0)
		r = nf_view_parent(&t->view, copy, t->w, &dir, name, &len);
	if (r == 0)
		r = nf_txn_unlink(t, dir, name, len, copy, item.mode, op->time);
	if (r == 0)
		r = drop_link(t, copy, &item, op->time);
	if (r == 0) {
		struct nf_op done = { .kind = NF_OP_UNLINK, .conflict_mode = op->conflict_mode, .time = op->time,
				      .parent = dir, .ino = copy, .stamp = item.stamp, .name = name,
				      .name_len = len };
		nf_txn_emit(t, &done);
	}
	nf_val_deinit(&val);
	return r == NF_TREE_NONE ? 0 : r;
}

/* Had INO one name only, for the author as here?  1 yes, 0 no, NF_TREE_WANT, negative. */
static int was_last_name(struct nf_txn *t, uint64_t ino)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;

	int r = nf_txn_base_inode(t, ino, &val, &item);
	bool more = r == 0 && item.nlink > 1;
	nf_val_deinit(&val);
	if (r == 0 || r == NF_TREE_NONE) {
		val = (struct nf_val){ 0 };
		r = nf_txn_inode(t, ino, &val, &item);
		more |= r == 0 && item.nlink > 1;
		nf_val_deinit(&val);
	}
	return r == 0 || r == NF_TREE_NONE ? !more : r;
}

/* Did somebody else change the content since the author saw it?  Changes of the author's own are no conflict,
 * also where an operation was noted before data that the cut put in front of it. */
bool nf_txn_is_foreign(const struct nf_txn *t, struct nf_stamp now, struct nf_stamp seen)
{
	return !nf_stamp_equal(now, seen) && now.writer != t->a->dot.writer;
}

int nf_txn_do_unlink(struct nf_txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	uint64_t ino, copy = nf_txn_redirected(t->a, op->ino);

	if (copy != op->ino) {
		int only = was_last_name(t, op->ino);
		if (only != 0)
			return only == 1 ? unlink_copy(t, copy, op) : only;
	}
	int r = nf_txn_find(t, op->parent, op->name, op->name_len, &ino, NULL);
	if (r == NF_TREE_NONE || (r == 0 && ino != op->ino))
		return 0;
	if (r)
		return r;
	r = nf_txn_inode(t, ino, &val, &item);
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
		keep = nf_txn_is_foreign(t, item.stamp, op->stamp);
	}
	if (r == 0 && keep)
		t->a->conflicts++;
	if (r == 0 && !keep) {
		r = nf_txn_unlink(t, op->parent, op->name, op->name_len, ino, item.mode, op->time);
		if (r == 0)
			r = drop_link(t, ino, &item, op->time);
		if (r == 0) {
			struct nf_op done = *op;
			done.stamp = item.stamp;
			nf_txn_emit(t, &done);
		}
	}
	nf_val_deinit(&val);
	return r;
}

/* Is INO DIR itself or above it?  1 yes, 0 no. */
static int is_above(struct nf_txn *t, uint64_t ino, uint64_t dir)
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

static int rename_exchange(struct nf_txn *t, const struct nf_op *op, uint64_t parent)
{
	uint64_t a, b;
	struct nf_val va = { 0 }, vb = { 0 };
	struct nf_inode_item ia, ib;

	int r = nf_txn_find(t, op->parent, op->name, op->name_len, &a, NULL);
	if (r == 0)
		r = nf_txn_find(t, parent, op->new_name, op->new_name_len, &b, NULL);
	if (r == NF_TREE_NONE || (r == 0 && (a != op->ino || b != op->replaced)))
		return 0;
	if (r == 0)
		r = nf_txn_inode(t, a, &va, &ia);
	if (r == 0)
		r = nf_txn_inode(t, b, &vb, &ib);
	if (r == NF_TREE_NONE)
		r = nf_fail(-NF_E_TREE_BAD);
	if (r == 0 && S_ISDIR(ia.mode))
		r = is_above(t, a, parent);
	if (r == 0 && S_ISDIR(ib.mode))
		r = is_above(t, b, op->parent);
	if (r == 1) {
		t->a->conflicts++;
		r = 0;
		goto out;
	}
	if (r == 0)
		r = nf_txn_unlink(t, op->parent, op->name, op->name_len, a, ia.mode, op->time);
	if (r == 0)
		r = nf_txn_unlink(t, parent, op->new_name, op->new_name_len, b, ib.mode, op->time);
	if (r == 0)
		r = nf_txn_link(t, parent, op->new_name, op->new_name_len, a, ia.mode, op->time);
	if (r == 0)
		r = nf_txn_link(t, op->parent, op->name, op->name_len, b, ib.mode, op->time);
	if (r == 0)
		nf_txn_emit(t, op);
out:
	nf_val_deinit(&va);
	nf_val_deinit(&vb);
	return r;
}

/* Makes room for a rename: removes what stands at the new name, or, where that is not what was meant to be replaced,
 * finds another name. */
static int rename_target(struct nf_txn *t, const struct nf_op *op, uint64_t parent,
			 char name[NF_NAME_MAX + 1], uint8_t *len)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	uint64_t there;

	uint64_t copy = nf_txn_redirected(t->a, op->replaced);

	memcpy(name, op->new_name, op->new_name_len);
	name[op->new_name_len] = '\0';
	*len = op->new_name_len;
	/* What the author edited and then replaced was wanted by nobody; the other side's version stays, see below. */
	int r = op->replaced && copy != op->replaced ? was_last_name(t, op->replaced) : 0;
	if (r == 1)
		r = unlink_copy(t, copy, op);
	if (r)
		return r;
	r = nf_txn_find(t, parent, op->new_name, op->new_name_len, &there, NULL);
	if (r == NF_TREE_NONE)
		return 0;
	if (r)
		return r;
	if (there != op->replaced) {
		t->a->conflicts++;
		return nf_txn_free_name(t, parent, op->new_name, op->new_name_len, true, op->time, name, len);
	}
	r = nf_txn_inode(t, there, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
	bool keep = false;
	if (S_ISDIR(item.mode)) {
		r = nf_view_dir_empty(&t->view, there, t->w);
		keep = r == 1;
		r = r == 1 ? 0 : r;
	} else {
		keep = nf_txn_is_foreign(t, item.stamp, op->stamp);
	}
	if (r == 0)
		r = nf_txn_unlink(t, parent, op->new_name, op->new_name_len, there, item.mode, op->time);
	if (r == 0 && !keep) {
		r = drop_link(t, there, &item, op->time);
	} else if (r == 0) {
		char kept[NF_NAME_MAX + 1];
		uint8_t kept_len;
		t->a->conflicts++;
		r = nf_txn_free_name(t, parent, op->new_name, op->new_name_len, true, op->time, kept, &kept_len);
		if (r == 0)
			r = nf_txn_link(t, parent, kept, kept_len, there, item.mode, op->time);
		if (r == 0) {
			struct nf_op moved = { .kind = NF_OP_RENAME, .conflict_mode = op->conflict_mode,
					       .time = op->time, .ino = there, .parent = parent,
					       .name = op->new_name, .name_len = op->new_name_len,
					       .new_parent = parent, .new_name = kept,
					       .new_name_len = kept_len };
			nf_txn_emit(t, &moved);
		}
	}
	nf_val_deinit(&val);
	return r;
}

int nf_txn_do_rename(struct nf_txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	char name[NF_NAME_MAX + 1];
	uint8_t len;
	uint64_t ino, parent;

	int r = nf_txn_find(t, op->parent, op->name, op->name_len, &ino, NULL);
	if (r == NF_TREE_NONE || (r == 0 && ino != op->ino))
		return 0; /* moved or removed by the other side: theirs stays */
	if (r)
		return r;
	r = nf_txn_ensure_dir(t, op->new_parent, op, 0, &parent);
	if (r)
		return r;
	if (op->flags & NF_OPF_EXCHANGE)
		return rename_exchange(t, op, parent);
	r = nf_txn_inode(t, ino, &val, &item);
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
		r = nf_txn_unlink(t, op->parent, op->name, op->name_len, ino, item.mode, op->time);
	nf_val_deinit(&val);
	/* The moved inode may be a directory that nf_txn_unlink() or rename_target() touched: read it again. */
	if (r == 0)
		r = nf_txn_inode(t, ino, &val, &item);
	if (r == 0) {
		nf_time_at_least(&item.ctime, op->time);
		r = nf_txn_put_inode(t, ino, &item);
	}
	if (r == 0)
		r = nf_txn_link(t, parent, name, len, ino, item.mode, op->time);
	if (r == 0) {
		struct nf_op done = *op;
		done.new_parent = parent;
		done.new_name = name;
		done.new_name_len = len;
		nf_txn_emit(t, &done);
	}
	nf_val_deinit(&val);
	return r == NF_TREE_NONE ? nf_fail(-NF_E_TREE_BAD) : r;
}
