/* vault/thin.c - see thin.h.
 *
 *   collect    who is removed in any of the dots: 16 bytes each, one dot's operations in memory at a time
 *   judge      which of them are in neither tree
 *   keep       who took a place; then, until nothing changes, directories of what stays */
#include "vault/thin.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/commit.h"
#include "vault/shelf.h"
#include "vault/squash.h"

#include <inttypes.h>

struct subject {
	uint64_t ino;
	bool kept;
};

struct thin {
	struct nf_vault *v;
	struct subject *all; /* sorted once `judged` */
	size_t nr, cap;
	bool changed;
};

static int cmp_subject(const void *pa, const void *pb)
{
	const struct subject *a = pa, *b = pb;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

static struct subject *subject_of(const struct thin *t, uint64_t ino)
{
	struct subject key = { .ino = ino };

	return ino && t->nr ? bsearch(&key, t->all, t->nr, sizeof key, cmp_subject) : NULL;
}

static int collect(struct thin *t, const struct nf_op *op)
{
	uint64_t ino = op->kind == NF_OP_UNLINK ? op->ino : op->kind == NF_OP_RENAME ? op->replaced : 0;

	/* Only what this device made can be unknown to the server. */
	if (!ino || ino >> 40 != t->v->writer)
		return 0;
	if (t->nr == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : 256;
		struct subject *all = realloc(t->all, cap * sizeof *all);
		if (!all)
			return nf_fail(-ENOMEM);
		t->all = all;
		t->cap = cap;
	}
	t->all[t->nr++] = (struct subject){ .ino = ino };
	return 0;
}

/* What took a place would have to hand it on. */
static int keep_places(struct thin *t, const struct nf_op *op)
{
	struct subject *x = subject_of(t, op->ino), *y = subject_of(t, op->replaced);

	if (op->kind != NF_OP_RENAME)
		return 0;
	if (x && (op->replaced || op->flags & NF_OPF_EXCHANGE))
		x->kept = true;
	if (y && op->flags & NF_OPF_EXCHANGE)
		y->kept = true;
	return 0;
}

static void keep(struct thin *t, uint64_t ino)
{
	struct subject *x = subject_of(t, ino);

	if (x && !x->kept)
		x->kept = t->changed = true;
}

static int keep_dirs(struct thin *t, const struct nf_op *op)
{
	const struct subject *x = subject_of(t, op->ino);

	if (op->kind > NF_OP_RENAME || (x && !x->kept))
		return 0;
	keep(t, op->parent);
	if (op->kind == NF_OP_RENAME)
		keep(t, op->new_parent);
	return 0;
}

static int each_op(struct thin *t, int (*fn)(struct thin *t, const struct nf_op *op))
{
	for (size_t i = 0; i < t->v->nr_shelf; i++) {
		nf_auto_free void *plain = NULL;
		struct nf_delta d;
		struct nf_op op;
		if (nf_ref_is_null(&t->v->shelf[i].ops))
			continue;
		int r = nf_shelf_ops(t->v, &t->v->shelf[i], &plain, &d);
		struct nf_rd rd = nf_rd_of(r == 0 ? d.ops : NULL, r == 0 ? d.ops_len : 0);
		while (r == 0 && nf_rd_left(&rd)) {
			r = nf_op_decode(&rd, NULL, &op);
			if (r == 0)
				r = fn(t, &op);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

/* The inode in the tree ROOT: 0, NF_TREE_NONE, negative. */
static int inode_in(struct nf_vault *v, const struct nf_ref *root, uint64_t ino, struct nf_inode_item *out)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	int r;

	while ((r = nf_tree_lookup(v->nodes, root, &key, &w, &val)) == NF_TREE_WANT) {
		r = v->src.load(v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	if (r == 0)
		r = nf_inode_decode(val.p, val.len, out);
	nf_val_deinit(&val);
	nf_want_deinit(&w);
	return r;
}

static int judge(struct thin *t)
{
	struct nf_vault *v = t->v;
	const struct nf_ref last = v->shelf[v->nr_shelf - 1].root;
	size_t nr = 0; /* never ahead of i: what is behind it was looked at */

	if (t->nr)
		qsort(t->all, t->nr, sizeof *t->all, cmp_subject);
	for (size_t i = 0; i < t->nr; i++) {
		struct nf_inode_item item;
		if (i && t->all[i].ino == t->all[i - 1].ino)
			continue;
		int r = inode_in(v, &last, t->all[i].ino, &item);
		if (r == NF_TREE_NONE)
			r = inode_in(v, &v->base.root, t->all[i].ino, &item);
		if (r < 0)
			return r;
		if (r == NF_TREE_NONE)
			t->all[nr++] = t->all[i];
	}
	t->nr = nr;
	return 0;
}

int nf_thin_find(struct nf_vault *v)
{
	struct thin t = { .v = v };
	size_t nr = 0;

	int r = each_op(&t, collect);
	if (r == 0)
		r = judge(&t);
	if (r == 0 && t.nr)
		r = each_op(&t, keep_places);
	t.changed = t.nr > 0;
	while (r == 0 && t.changed) {
		t.changed = false;
		r = each_op(&t, keep_dirs);
	}
	uint64_t *gone = r == 0 && t.nr ? malloc(t.nr * sizeof *gone) : NULL;
	if (r == 0 && t.nr && !gone)
		r = nf_fail(-ENOMEM);
	for (size_t i = 0; r == 0 && i < t.nr; i++)
		if (!t.all[i].kept)
			gone[nr++] = t.all[i].ino;
	free(t.all);
	if (r < 0)
		return r;
	nf_trace(COMMIT, "thinned inodes=%zu of %zu dots=%zu", nr, t.nr, v->nr_shelf);
	free(v->gone);
	v->gone = gone;
	v->nr_gone = nr;
	v->thinned_seq = v->shelf[v->nr_shelf - 1].seq;
	return 0;
}

/* --- one dot ---------------------------------------------------------------------------------- */

static int cmp_u64(const void *pa, const void *pb)
{
	const uint64_t *a = pa, *b = pb;

	return (*a > *b) - (*a < *b);
}

static bool is_gone(const struct nf_vault *v, uint64_t ino)
{
	return ino && v->nr_gone && bsearch(&ino, v->gone, v->nr_gone, sizeof ino, cmp_u64);
}

static void touch(const struct nf_vault *v, struct nf_buf *dirs, uint64_t dir)
{
	if (dir && !is_gone(v, dir))
		nf_buf_bytes(dirs, &dir, sizeof dir);
}

/* Directories got their times from operations that are left out. */
static int tell_times(struct nf_vault *v, const struct nf_ref *root, struct nf_buf *dirs, struct nf_buf *out, uint32_t *nr)
{
	size_t n = dirs->len / sizeof(uint64_t);
	nf_auto_free uint64_t *inos = malloc(dirs->len + 1);

	if (!inos)
		return nf_fail(-ENOMEM);
	if (n) {
		memcpy(inos, dirs->p, dirs->len);
		qsort(inos, n, sizeof *inos, cmp_u64);
	}
	for (size_t i = 0; i < n; i++) {
		struct nf_inode_item item;
		if (i && inos[i] == inos[i - 1])
			continue;
		int r = inode_in(v, root, inos[i], &item);
		if (r < 0)
			return r;
		if (r == 0) {
			struct nf_op op = nf_squash_times(inos[i], &item);
			nf_op_encode(out, &op);
			++*nr;
		}
	}
	return 0;
}

int nf_thin_ops(struct nf_vault *v, const struct nf_shelved *s, struct nf_delta *d, struct nf_buf *out)
{
	nf_auto(nf_buf_deinit) struct nf_buf dirs = NF_BUF_INIT;
	struct nf_rd rd = nf_rd_of(d->ops, d->ops_len);
	uint32_t nr = 0, left_out = 0;
	int r = 0;

	while (v->nr_gone && r == 0 && nf_rd_left(&rd)) {
		const uint8_t *from = rd.p;
		struct nf_op op;
		r = nf_op_decode(&rd, NULL, &op);
		if (r < 0)
			break;
		if (is_gone(v, op.ino)) {
			left_out++;
			if (op.kind <= NF_OP_RENAME)
				touch(v, &dirs, op.parent);
			if (op.kind == NF_OP_RENAME)
				touch(v, &dirs, op.new_parent);
			continue;
		}
		nr++;
		if (op.kind == NF_OP_RENAME && is_gone(v, op.replaced)) {
			op.replaced = 0;
			op.stamp = (struct nf_stamp){ 0 };
			left_out++;
			nf_op_encode(out, &op);
		} else {
			nf_buf_bytes(out, from, (size_t)(rd.p - from));
		}
	}
	if (r < 0 || !left_out)
		return r;
	/* A dot says something. */
	if (!nr)
		touch(v, &dirs, NF_INO_ROOT);
	r = nf_buf_error(&dirs);
	if (r == 0)
		r = tell_times(v, &s->root, &dirs, out, &nr);
	if (r == 0)
		r = nf_buf_error(out);
	if (r < 0)
		return r;
	nf_trace(COMMIT, "thinned seq=%" PRIu64 " ops=%u to %u bytes=%zu to %zu", s->seq, d->nr_ops, nr, d->ops_len, out->len);
	d->ops = out->p;
	d->ops_len = out->len;
	d->nr_ops = nr;
	return 0;
}
