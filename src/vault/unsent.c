/* vault/unsent.c - see unsent.h. */
#include "vault/unsent.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"

#include <stdlib.h>

void nf_unsent_deinit(struct nf_unsent *u)
{
	nf_buf_deinit(&u->ops);
	free(u->all);
	free(u->by_print);
	free(u->subjects);
	*u = (struct nf_unsent){ 0 };
}

/* --- the index ------------------------------------------------------------------------ */

/* What takes effect stays the same however often it is replayed: a new inode may end in another directory under another
 * name. */
static int print_of(const struct nf_op *op, struct nf_buf *b, uint64_t *out)
{
	static const uint8_t key[16];

	b->len = 0;
	nf_buf_u8(b, (uint8_t)op->kind);
	nf_buf_u64(b, op->ino);
	nf_buf_u64(b, (uint64_t)op->time.tv_sec);
	nf_buf_u32(b, (uint32_t)op->time.tv_nsec);
	if (op->kind == NF_OP_LINK || op->kind == NF_OP_UNLINK || op->kind == NF_OP_RENAME)
		nf_buf_u64(b, op->parent);
	if (op->kind != NF_OP_CREATE)
		nf_buf_bytes(b, op->name, op->name_len);
	if (op->kind == NF_OP_SETATTR)
		nf_buf_u8(b, op->mask);
	if (op->kind == NF_OP_SNAPSHOT) {
		nf_buf_u8(b, op->flags);
		nf_buf_bytes(b, op->snapshot.rand, sizeof op->snapshot.rand);
	}
	int r = nf_buf_error(b);
	if (r == 0)
		*out = nf_siphash(key, b->p, b->len);
	return r;
}

static bool is_content(unsigned kind) { return kind == NF_OP_DATA || kind == NF_OP_CREATE; }

/* Somebody's work, and no housekeeping. */
static bool is_work(unsigned kind) { return kind <= NF_OP_XATTR || kind == NF_OP_SNAPSHOT; }

static int cmp_subject(const void *pa, const void *pb)
{
	const struct nf_unsent_subject *a = pa, *b = pb;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

static struct nf_unsent_subject *subject_of(const struct nf_unsent *u, uint64_t ino)
{
	struct nf_unsent_subject key = { .ino = ino };

	return ino && u->nr_subjects ? bsearch(&key, u->subjects, u->nr_subjects, sizeof key, cmp_subject) : NULL;
}

static int cmp_print(const void *pa, const void *pb, void *ctx)
{
	const struct nf_unsent_op *all = ctx;
	uint32_t a = *(const uint32_t *)pa, b = *(const uint32_t *)pb;

	if (all[a].print != all[b].print)
		return all[a].print < all[b].print ? -1 : 1;
	return (a > b) - (a < b);
}

static int scan(struct nf_unsent *u, struct nf_buf *scratch)
{
	struct nf_rd rd = nf_rd_of(u->ops.p, u->ops.len);
	size_t cap = 0;

	while (nf_rd_left(&rd)) {
		struct nf_unsent_op one = { .at = (uint32_t)(rd.p - u->ops.p) };
		struct nf_op op;
		int r = nf_op_decode(&rd, NULL, &op);
		if (r == 0)
			r = print_of(&op, scratch, &one.print);
		if (r < 0)
			return r;
		one.kind = (uint8_t)op.kind;
		one.ino = op.ino;
		if (u->nr == cap) {
			cap = cap ? 2 * cap : 256;
			struct nf_unsent_op *all = realloc(u->all, cap * sizeof *all);
			if (!all)
				return nf_fail(-ENOMEM);
			u->all = all;
		}
		u->all[u->nr++] = one;
	}
	return 0;
}

int nf_unsent_index(struct nf_unsent *u)
{
	nf_auto(nf_buf_deinit) struct nf_buf scratch = NF_BUF_INIT;

	if (u->ops.len > NF_UNSENT_OPS_MAX_BYTES)
		return nf_fail(-EFBIG);
	int r = scan(u, &scratch);
	if (r < 0)
		return r;
	u->by_print = calloc(u->nr + 1, sizeof *u->by_print);
	u->subjects = calloc(u->nr + 1, sizeof *u->subjects);
	if (!u->by_print || !u->subjects)
		return nf_fail(-ENOMEM);
	for (uint32_t i = 0; i < u->nr; i++) {
		u->by_print[i] = i;
		u->subjects[i].ino = u->all[i].ino;
	}
	qsort_r(u->by_print, u->nr, sizeof *u->by_print, cmp_print, u->all);
	qsort(u->subjects, u->nr, sizeof *u->subjects, cmp_subject);
	for (uint32_t i = 0; i < u->nr; i++)
		if (u->subjects[i].ino && (!u->nr_subjects || u->subjects[u->nr_subjects - 1].ino != u->subjects[i].ino))
			u->subjects[u->nr_subjects++] = u->subjects[i];
	for (uint32_t i = 0; i < u->nr; i++) {
		struct nf_unsent_subject *x = subject_of(u, u->all[i].ino);
		if (x && u->all[i].kind == NF_OP_CREATE)
			x->created = i + 1;
	}
	return 0;
}

/* --- what was published ------------------------------------------------------------------ */

/* The first of this print that was not found yet; u->nr: none. */
static uint32_t find(const struct nf_unsent *u, uint64_t ino, uint64_t print)
{
	uint32_t from = 0, to = u->nr;

	while (from < to) {
		uint32_t mid = from + (to - from) / 2;
		if (u->all[u->by_print[mid]].print < print)
			from = mid + 1;
		else
			to = mid;
	}
	for (; from < u->nr && u->all[u->by_print[from]].print == print; from++) {
		uint32_t i = u->by_print[from];
		if (!u->all[i].found && u->all[i].ino == ino)
			return i;
	}
	return u->nr;
}

int nf_unsent_published(struct nf_unsent *u, uint64_t seq, const void *ops, size_t len)
{
	nf_auto(nf_buf_deinit) struct nf_buf scratch = NF_BUF_INIT;
	struct nf_rd rd = nf_rd_of(ops, len);

	while (nf_rd_left(&rd)) {
		uint64_t print;
		struct nf_op op;
		int r = nf_op_decode(&rd, NULL, &op);
		if (r == 0)
			r = print_of(&op, &scratch, &print);
		if (r < 0)
			return r;
		uint32_t i = find(u, op.ino, print);
		if (i < u->nr)
			u->all[i].found = true;
		struct nf_unsent_subject *x = is_content(op.kind) ? subject_of(u, op.ino) : NULL;
		if (!x)
			continue;
		/* Only the last version that a dot has of a file can be seen. */
		if (x->published && u->all[x->published - 1].version == seq)
			u->all[x->published - 1].version = 0;
		if (i < u->nr) {
			u->all[i].version = seq;
			x->published = i + 1;
		}
	}
	return 0;
}

void nf_unsent_judge(struct nf_unsent *u)
{
	uint32_t upto = 0; /* operations before this one are in, unless a later one speaks for them */

	for (uint32_t i = 0; i < u->nr; i++) {
		const struct nf_unsent_subject *x = subject_of(u, u->all[i].ino);
		if (!u->all[i].found)
			continue;
		if (u->all[i].kind != NF_OP_DATA)
			upto = i + 1;
		else if (x && x->created)
			upto = NF_MAX(upto, x->created);
	}
	u->nr_rest = 0;
	for (uint32_t i = u->nr; i-- > 0;) {
		struct nf_unsent_op *one = &u->all[i];
		struct nf_unsent_subject *x = subject_of(u, one->ino);
		if (x && one->found && one->kind == NF_OP_DATA)
			x->data_in = true;
		if (x && one->found && one->kind == NF_OP_SETATTR)
			x->attr_in = true;
		if (one->kind == NF_OP_SETATTR)
			one->in = x && x->attr_in;
		else
			one->in = i < upto || (one->kind == NF_OP_DATA && x && x->data_in);
		u->nr_rest += !one->in && is_work(one->kind);
	}
}

/* --- the rest ------------------------------------------------------------------------------ */

uint64_t nf_unsent_number(const struct nf_unsent *u, uint64_t ino)
{
	const struct nf_unsent_subject *x = subject_of(u, ino);

	return x && x->now ? x->now : ino;
}

/* STAMP names a version of INO.  What both made since they parted has the same name on either side: only where the content is known to
 * be the same does it stay one that the server has. */
static void name_version(const struct nf_unsent *u, uint64_t ino, struct nf_stamp *stamp)
{
	const struct nf_unsent_subject *x = subject_of(u, ino);
	const struct nf_unsent_op *made = x && x->content ? &u->all[x->content - 1] : NULL;

	if (stamp->writer == u->writer && stamp->seq >= u->first_seq)
		stamp->seq = made && made->in && made->version ? made->version : UINT64_MAX;
}

static void rewrite(struct nf_unsent *u, struct nf_op *op)
{
	struct nf_unsent_subject *x = subject_of(u, op->ino);

	if (op->kind == NF_OP_CREATE && x)
		x->now = u->number(u->ctx);
	if (op->kind == NF_OP_DATA || op->kind == NF_OP_UNLINK)
		name_version(u, op->ino, &op->stamp);
	if (op->kind == NF_OP_RENAME)
		name_version(u, op->replaced, &op->stamp);
	op->ino = nf_unsent_number(u, op->ino);
	op->parent = nf_unsent_number(u, op->parent);
	op->new_parent = nf_unsent_number(u, op->new_parent);
	op->replaced = nf_unsent_number(u, op->replaced);
}

static uint32_t first_from(const struct nf_unsent *u, size_t at)
{
	uint32_t from = 0, to = u->nr;

	while (from < to) {
		uint32_t mid = from + (to - from) / 2;
		if (u->all[mid].at < at)
			from = mid + 1;
		else
			to = mid;
	}
	return from;
}

int nf_unsent_part(struct nf_unsent *u, size_t from, size_t to, struct nf_buf *in, struct nf_buf *rest)
{
	struct nf_rd rd = nf_rd_of(u->ops.p + from, to - from);

	for (uint32_t i = first_from(u, from); nf_rd_left(&rd); i++) {
		struct nf_unsent_subject *x = subject_of(u, u->all[i].ino);
		const uint8_t *p = rd.p;
		struct nf_op op;
		int r = nf_op_decode(&rd, NULL, &op);
		if (r < 0)
			return r;
		if (is_work(op.kind) && u->all[i].in) {
			nf_buf_bytes(in, p, (size_t)(rd.p - p));
		} else if (is_work(op.kind)) {
			rewrite(u, &op);
			nf_op_encode(rest, &op);
		}
		if (x && is_content(op.kind))
			x->content = i + 1;
	}
	int r = nf_buf_error(in);
	return r < 0 ? r : nf_buf_error(rest);
}
