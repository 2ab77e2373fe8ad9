/* vault/squash.c - see squash.h.
 *
 *   scan       one struct rec for each operation, one struct subject for each inode they are about
 *   judge      which subjects leave no trace; what still needs them as a directory takes that back
 *   chain      operations of one inode and kind, newest first: what is superseded
 *   write      what is left, in order (DATA: squash_data.c) */
#include "vault/squash_priv.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"

#include <stdlib.h>

enum { XATTR_NAMES = 64 };

int nf_squash_decode(const struct squash *s, const struct rec *r, struct nf_op *op)
{
	struct nf_rd rd = nf_rd_of(s->q->ops + r->at, s->q->len - r->at);

	return nf_op_decode(&rd, NULL, op);
}

/* --- scan ---------------------------------------------------------------------------- */

static int cmp_subject(const void *pa, const void *pb)
{
	const struct subject *a = pa, *b = pb;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

static struct subject *subject_of(const struct squash *s, uint64_t ino)
{
	struct subject key = { .ino = ino };

	return ino ? bsearch(&key, s->subjects, s->nr_subjects, sizeof key, cmp_subject) : NULL;
}

static int add_rec(struct squash *s, const struct nf_op *op, size_t at)
{
	if (s->nr == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 256;
		struct rec *recs = realloc(s->recs, cap * sizeof *recs);
		if (!recs)
			return nf_fail(-ENOMEM);
		s->recs = recs;
		s->cap = cap;
	}
	s->recs[s->nr++] = (struct rec){ .at = at, .ino = op->ino, .kind = (uint8_t)op->kind, .next = NF_SQUASH_NONE };
	return 0;
}

static int scan(struct squash *s)
{
	struct nf_rd rd = nf_rd_of(s->q->ops, s->q->len);
	struct nf_op op;
	int r = 0;

	while (r == 0 && nf_rd_left(&rd)) {
		size_t at = (size_t)(rd.p - s->q->ops);
		r = nf_op_decode(&rd, NULL, &op);
		if (r == 0)
			r = add_rec(s, &op, at);
	}
	if (r < 0)
		return r;
	s->subjects = calloc(s->nr + 1, sizeof *s->subjects);
	if (!s->subjects)
		return nf_fail(-ENOMEM);
	for (size_t i = 0; i < s->nr; i++)
		s->subjects[i].ino = s->recs[i].ino;
	qsort(s->subjects, s->nr, sizeof *s->subjects, cmp_subject);
	for (size_t i = 0; i < s->nr; i++)
		if (s->subjects[i].ino && (!s->nr_subjects || s->subjects[s->nr_subjects - 1].ino != s->subjects[i].ino))
			s->subjects[s->nr_subjects++] = s->subjects[i];
	for (size_t i = 0; i < s->nr_subjects; i++)
		s->subjects[i].first_data = s->subjects[i].last_attr = NF_SQUASH_NONE;
	return 0;
}

/* --- judge --------------------------------------------------------------------------- */

static void note_rename(struct squash *s, struct subject *x, const struct nf_op *op)
{
	struct subject *y = subject_of(s, op->replaced);

	if (op->flags & NF_OPF_EXCHANGE) {
		x->pinned = true;
		if (y)
			y->pinned = true;
		return;
	}
	/* The place it took is handed on only while it stays there. */
	if (x->took_place)
		x->pinned = true;
	if (op->replaced)
		x->took_place = true;
	if (y)
		y->names--;
}

static void note_data(struct subject *x, const struct nf_op *op)
{
	uint64_t first;
	const uint8_t *value;
	size_t len, pos = 0;

	if (x->nr_data++ == 0)
		x->mode = op->conflict_mode;
	if (x->mode != op->conflict_mode)
		x->whole_windows = true; /* these are not put together either */
	while (nf_op_window_iter(op, &pos, &first, &value, &len) == 0)
		if (nf_extent_is_ref(value, len))
			x->whole_windows = true;
}

static int note_all(struct squash *s)
{
	for (size_t i = 0; i < s->nr; i++) {
		struct subject *x = subject_of(s, s->recs[i].ino);
		struct nf_op op;
		if (!x)
			continue;
		int r = nf_squash_decode(s, &s->recs[i], &op);
		if (r < 0)
			return r;
		if (op.kind == NF_OP_CREATE) {
			x->created = true;
			x->names = 1;
		} else if (op.kind == NF_OP_LINK) {
			x->linked = true;
			x->names++;
		} else if (op.kind == NF_OP_UNLINK) {
			x->names--;
		} else if (op.kind == NF_OP_RENAME) {
			note_rename(s, x, &op);
		} else if (op.kind == NF_OP_DATA) {
			note_data(x, &op);
		}
	}
	for (size_t i = 0; i < s->nr_subjects; i++) {
		struct subject *x = &s->subjects[i];
		x->traceless = x->created && x->names == 0 && !x->pinned && !(x->took_place && x->linked);
	}
	return 0;
}

static void keep_dir(struct squash *s, uint64_t dir, bool *changed)
{
	struct subject *d = subject_of(s, dir);

	if (d && d->traceless) {
		d->traceless = false;
		*changed = true;
	}
}

/* A directory that is named by anything that stays must stay. */
static int keep_dirs(struct squash *s)
{
	bool changed = true;

	while (changed) {
		changed = false;
		for (size_t i = 0; i < s->nr; i++) {
			const struct rec *rec = &s->recs[i];
			const struct subject *x = subject_of(s, rec->ino);
			struct nf_op op;
			if (!x || rec->kind > NF_OP_RENAME || (x->traceless && !x->took_place))
				continue;
			int r = nf_squash_decode(s, rec, &op);
			if (r < 0)
				return r;
			/* Of one that took a place the removal may stay, told of another. */
			if (!x->traceless || op.kind == NF_OP_UNLINK)
				keep_dir(s, op.parent, &changed);
			if (op.kind == NF_OP_RENAME)
				keep_dir(s, op.new_parent, &changed);
		}
	}
	return 0;
}

/* --- chains ---------------------------------------------------------------------------- */

static void chain_data(struct squash *s, struct subject *x, size_t i)
{
	s->recs[i].next = x->first_data;
	if (x->first_data != NF_SQUASH_NONE)
		s->recs[x->first_data].gone = true; /* told by the one before it */
	x->first_data = (uint32_t)i;
}

/* Newest first: what an earlier operation says of a field that the later one says too counts only as its base. */
static void chain_attrs(struct squash *s, struct subject *x, size_t i)
{
	if (x->last_attr == NF_SQUASH_NONE) {
		x->last_attr = (uint32_t)i;
		x->oldest_attr = (uint32_t)i;
		return;
	}
	s->recs[x->oldest_attr].next = (uint32_t)i;
	s->recs[i].gone = true;
	x->oldest_attr = (uint32_t)i;
}

/* The names met of one inode, going backwards. */
struct xattr_names {
	uint64_t ino;
	unsigned nr;
	struct {
		const char *name;
		uint8_t len;
		size_t rec;
	} e[XATTR_NAMES];
};

static void chain_xattr(struct squash *s, struct xattr_names *seen, size_t i, const struct nf_op *op)
{
	if (seen->ino != op->ino)
		*seen = (struct xattr_names){ .ino = op->ino };
	for (unsigned k = 0; k < seen->nr; k++) {
		if (seen->e[k].len != op->name_len || memcmp(seen->e[k].name, op->name, op->name_len))
			continue;
		s->recs[i].gone = true;
		s->recs[seen->e[k].rec].no_base = !(op->flags & NF_OPF_HAD_BASE);
		return;
	}
	if (seen->nr == XATTR_NAMES)
		return; /* the others stay as they are */
	seen->e[seen->nr].name = op->name;
	seen->e[seen->nr].len = op->name_len;
	seen->e[seen->nr++].rec = i;
}

static bool mergeable(const struct subject *x) { return x->nr_data > 1 && !x->whole_windows && x->shift; }

static int find_shifts(struct squash *s)
{
	for (size_t i = 0; i < s->nr_subjects; i++) {
		struct subject *x = &s->subjects[i];
		struct nf_inode_item item;
		if (x->nr_data < 2 || x->traceless)
			continue;
		int r = s->q->inode(s->q->ctx, x->ino, &item);
		if (r < 0)
			return r;
		x->shift = r == 0 ? item.block_shift : 0;
	}
	return 0;
}

static int chain_all(struct squash *s)
{
	struct xattr_names seen = { 0 };
	int r = find_shifts(s);

	for (size_t i = s->nr; r == 0 && i-- > 0;) {
		struct rec *rec = &s->recs[i];
		struct subject *x = subject_of(s, rec->ino);
		struct nf_op op;
		if (!x || x->traceless)
			continue;
		if (rec->kind == NF_OP_DATA && mergeable(x))
			chain_data(s, x, i);
		else if (rec->kind == NF_OP_SETATTR && x->mode_attr_same)
			chain_attrs(s, x, i);
		if (rec->kind == NF_OP_XATTR) {
			r = nf_squash_decode(s, rec, &op);
			if (r == 0)
				chain_xattr(s, &seen, i, &op);
		}
	}
	return r;
}

/* Which SETATTRs may be one: all of one conflict mode; and what of them a later DATA operation sets anyway. */
static int look_at_attrs(struct squash *s)
{
	for (size_t i = s->nr; i-- > 0;) {
		struct rec *rec = &s->recs[i];
		struct subject *x = subject_of(s, rec->ino);
		struct nf_op op;
		if (!x || x->traceless)
			continue;
		if (rec->kind == NF_OP_DATA)
			x->data_behind = true;
		if (rec->kind != NF_OP_SETATTR)
			continue;
		int r = nf_squash_decode(s, rec, &op);
		if (r < 0)
			return r;
		rec->no_mtime = x->data_behind;
		if (!x->nr_attrs++) {
			x->attr_mode = op.conflict_mode;
			x->mode_attr_same = true;
		}
		x->mode_attr_same &= x->attr_mode == op.conflict_mode;
	}
	return 0;
}

/* --- write ------------------------------------------------------------------------------ */

static void put(struct squash *s, const struct nf_op *op)
{
	nf_op_encode(&s->q->out, op);
	s->q->nr_out++;
}

void nf_squash_put(struct squash *s, const struct nf_op *op) { put(s, op); }

static int touch(struct squash *s, uint64_t dir)
{
	const struct subject *d = subject_of(s, dir);

	if (!dir || (d && d->traceless) || (s->nr_touched && s->touched[s->nr_touched - 1] == dir))
		return 0;
	if (s->nr_touched == s->cap_touched) {
		size_t cap = s->cap_touched ? 2 * s->cap_touched : 64;
		uint64_t *t = realloc(s->touched, cap * sizeof *t);
		if (!t)
			return nf_fail(-ENOMEM);
		s->touched = t;
		s->cap_touched = cap;
	}
	s->touched[s->nr_touched++] = dir;
	return 0;
}

/* An operation on an inode that leaves no trace. */
static int write_traceless(struct squash *s, struct subject *x, const struct nf_op *op)
{
	const struct subject *y = subject_of(s, op->replaced);
	int r = 0;

	if (op->kind == NF_OP_RENAME && op->replaced) {
		bool handed = y && y->traceless;
		x->place = handed ? y->place : op->replaced;
		x->place_stamp = handed ? y->place_stamp : op->stamp;
	}
	if (op->kind == NF_OP_UNLINK && x->place) {
		struct nf_op done = *op;
		done.ino = x->place;
		done.stamp = x->place_stamp;
		put(s, &done);
	}
	if (op->kind <= NF_OP_RENAME)
		r = touch(s, op->parent);
	if (r == 0 && op->kind == NF_OP_RENAME)
		r = touch(s, op->new_parent);
	return r;
}

static void write_rename(struct squash *s, struct nf_op *op)
{
	const struct subject *y = subject_of(s, op->replaced);

	if (y && y->traceless) {
		op->replaced = y->place;
		op->stamp = y->place_stamp;
	}
	put(s, op);
}

static void take_field(struct nf_op *to, const struct nf_op *from, uint8_t bit)
{
	struct nf_op_attrs *now = &to->now, *base = &to->base;

#define FIELD(b, f)                                 \
	case b:                                     \
		if (!(to->mask & (b)))              \
			now->f = from->now.f;       \
		base->f = from->base.f;             \
		break;
	switch (bit) {
		FIELD(NF_OPA_MODE, mode)
		FIELD(NF_OPA_UID, uid)
		FIELD(NF_OPA_GID, gid)
		FIELD(NF_OPA_ATIME, atime)
		FIELD(NF_OPA_MTIME, mtime)
		FIELD(NF_OPA_CTIME, ctime)
		FIELD(NF_OPA_BTIME, btime)
	}
#undef FIELD
	to->mask |= bit;
}

static int write_attrs(struct squash *s, const struct rec *rec, struct nf_op *op)
{
	if (rec->no_mtime)
		op->mask &= (uint8_t)~NF_OPA_MTIME;
	for (uint32_t i = rec->next; i != NF_SQUASH_NONE; i = s->recs[i].next) {
		struct nf_op older;
		int r = nf_squash_decode(s, &s->recs[i], &older);
		if (r < 0)
			return r;
		for (unsigned bit = 1; bit <= NF_OPA_BTIME; bit <<= 1)
			if (older.mask & bit && !(bit == NF_OPA_MTIME && s->recs[i].no_mtime))
				take_field(op, &older, (uint8_t)bit);
	}
	if (op->mask)
		put(s, op);
	return 0;
}

static int write_one(struct squash *s, const struct rec *rec)
{
	struct subject *x = subject_of(s, rec->ino);
	struct nf_op op;
	int r = nf_squash_decode(s, rec, &op);

	if (r < 0)
		return r;
	if (x && x->traceless)
		return write_traceless(s, x, &op);
	if (op.kind == NF_OP_DATA && rec->next != NF_SQUASH_NONE)
		return nf_squash_data(s, rec, x->shift);
	if (op.kind == NF_OP_SETATTR)
		return write_attrs(s, rec, &op);
	if (op.kind == NF_OP_XATTR && rec->no_base)
		op.flags &= (uint8_t)~NF_OPF_HAD_BASE;
	if (op.kind == NF_OP_RENAME)
		write_rename(s, &op);
	else
		put(s, &op);
	return 0;
}

static int cmp_u64(const void *pa, const void *pb)
{
	const uint64_t *a = pa, *b = pb;

	return (*a > *b) - (*a < *b);
}

struct nf_op nf_squash_times(uint64_t ino, const struct nf_inode_item *item)
{
	struct nf_op op = { .kind = NF_OP_SETATTR, .conflict_mode = NF_MODE_STASH, .ino = ino, .time = item->ctime,
			    .mask = NF_OPA_MTIME | NF_OPA_CTIME };

	op.base.mtime = op.now.mtime = item->mtime;
	op.base.ctime = op.now.ctime = item->ctime;
	return op;
}

/* Directories got their times from operations that are gone. */
static int write_times(struct squash *s)
{
	if (s->nr_touched)
		qsort(s->touched, s->nr_touched, sizeof *s->touched, cmp_u64);
	for (size_t i = 0; i < s->nr_touched; i++) {
		struct nf_inode_item item;
		if (i && s->touched[i] == s->touched[i - 1])
			continue;
		int r = s->q->inode(s->q->ctx, s->touched[i], &item);
		if (r < 0)
			return r;
		if (r)
			continue;
		struct nf_op op = nf_squash_times(s->touched[i], &item);
		put(s, &op);
	}
	return 0;
}

int nf_squash(struct nf_squash *q)
{
	struct squash s = { .q = q };
	int r = scan(&s);

	if (r == 0)
		r = note_all(&s);
	if (r == 0)
		r = keep_dirs(&s);
	if (r == 0)
		r = look_at_attrs(&s);
	if (r == 0)
		r = chain_all(&s);
	for (size_t i = 0; r == 0 && i < s.nr; i++)
		if (!s.recs[i].gone)
			r = write_one(&s, &s.recs[i]);
	if (r == 0)
		r = write_times(&s);
	if (r == 0)
		r = nf_buf_error(&q->out);
	q->nr_in = (uint32_t)s.nr;
	free(s.recs);
	free(s.subjects);
	free(s.touched);
	return r;
}
