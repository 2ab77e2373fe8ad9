/* vault/squash_data.c - the DATA operations of one file as one.
 *
 *   op 1   hole from 300 on    windows  0      256
 *   op 2                       windows  0  128
 *   op 3   hole from 200 on    windows     128            -> hole from 200 on, windows 0 (1 and 2), 128 (2 cut, and 3)
 *
 * The windows of all of them are gone through side by side, in order: memory does not grow with the file.  What would be too
 * large for one operation stays the operations it was, in their order: told in parts, of which a commit may have some and not
 * the others, a later change of the file could be seen without an earlier one. */
#include "vault/squash_priv.h"

#include "base/error.h"
#include "base/mem.h"
#include "vault/apply_priv.h"

#include <stdlib.h>

enum {
	WINDOWS_MAX_BYTES = 1 << 20, /* of windows in one operation */
	/* Stands for the file's own block size: what is full stays full. */
	FULL = 1u << NF_BLOCK_SHIFT_MAX,
};

struct range {
	uint64_t start, end;
};

/* One operation and where its windows are read. */
struct source {
	struct nf_op op;
	size_t pos;
	uint64_t first; /* of the next window; UINT64_MAX: none left */
	const uint8_t *value;
	size_t len;
};

struct merge {
	struct squash *s;
	struct source *src;
	size_t nr;
	uint8_t shift;
	struct range *ranges;
	size_t nr_ranges;
	struct nf_buf windows, told;
	uint32_t nr_windows;
	struct nf_op op; /* without windows and ranges */
};

static void merge_deinit(struct merge *m)
{
	free(m->src);
	free(m->ranges);
	nf_buf_deinit(&m->windows);
	nf_buf_deinit(&m->told);
}

static int next_window(struct source *x)
{
	int r = nf_op_window_iter(&x->op, &x->pos, &x->first, &x->value, &x->len);

	if (r == NF_TREE_NONE)
		x->first = UINT64_MAX;
	return r < 0 ? r : 0;
}

static int collect(struct merge *m, const struct rec *first)
{
	const struct squash *s = m->s;
	size_t ranges = 0;

	for (const struct rec *r = first;; r = &s->recs[r->next]) {
		m->nr++;
		if (r->next == NF_SQUASH_NONE)
			break;
	}
	m->src = calloc(m->nr, sizeof *m->src);
	if (!m->src)
		return nf_fail(-ENOMEM);
	const struct rec *rec = first;
	for (size_t i = 0; i < m->nr; i++) {
		int r = nf_squash_decode(s, rec, &m->src[i].op);
		if (r == 0)
			r = next_window(&m->src[i]);
		if (r < 0)
			return r;
		ranges += m->src[i].op.nr_ranges;
		if (rec->next != NF_SQUASH_NONE)
			rec = &s->recs[rec->next];
	}
	m->ranges = calloc(ranges + 1, sizeof *m->ranges);
	if (!m->ranges)
		return nf_fail(-ENOMEM);
	for (size_t i = 0; i < m->nr; i++)
		for (uint32_t k = 0; k < m->src[i].op.nr_ranges; k++, m->nr_ranges++)
			nf_op_range(&m->src[i].op, k, &m->ranges[m->nr_ranges].start, &m->ranges[m->nr_ranges].end);
	return 0;
}

static int cmp_range(const void *pa, const void *pb)
{
	const struct range *a = pa, *b = pb;

	return (a->start > b->start) - (a->start < b->start);
}

static void join_ranges(struct merge *m)
{
	size_t n = 0;

	qsort(m->ranges, m->nr_ranges, sizeof *m->ranges, cmp_range);
	for (size_t i = 0; i < m->nr_ranges; i++) {
		if (n && m->ranges[i].start <= m->ranges[n - 1].end)
			m->ranges[n - 1].end = NF_MAX(m->ranges[n - 1].end, m->ranges[i].end);
		else
			m->ranges[n++] = m->ranges[i];
	}
	m->nr_ranges = n;
}

/* What the one operation says beside blocks.  An inline content replaced everything before it. */
static void outline(struct merge *m)
{
	const struct nf_op *first = &m->src[0].op, *last = &m->src[m->nr - 1].op;
	uint8_t appended = NF_OPF_APPEND, paged = 0;

	m->op = *first;
	m->op.mtime = last->mtime;
	m->op.size_after = last->size_after;
	m->op.windows_len = m->op.nr_windows = m->op.nr_ranges = 0;
	m->op.inline_len = 0;
	for (size_t i = 0; i < m->nr; i++) {
		const struct nf_op *op = &m->src[i].op;
		nf_time_at_least(&m->op.time, op->time);
		m->op.least_size = NF_MIN(m->op.least_size, op->flags & NF_OPF_INLINE ? 0 : op->least_size);
		appended &= op->flags;
		paged |= op->flags & NF_OPF_PAGE_GRANULAR;
	}
	m->op.flags = appended | paged;
	if (last->flags & NF_OPF_INLINE) {
		m->op.flags |= NF_OPF_INLINE;
		m->op.least_size = UINT64_MAX;
		m->op.inline_data = last->inline_data;
		m->op.inline_len = last->inline_len;
	}
}

static int tell(struct merge *m)
{
	struct nf_op op = m->op;

	for (size_t i = 0; i < m->nr_ranges; i++) {
		nf_buf_u64(&m->told, m->ranges[i].start);
		nf_buf_u64(&m->told, m->ranges[i].end);
	}
	op.nr_ranges = (uint32_t)m->nr_ranges;
	op.ranges = m->told.p;
	op.windows = m->windows.p;
	op.windows_len = m->windows.len;
	op.nr_windows = m->nr_windows;
	int r = nf_buf_error(&m->told);
	if (r == 0)
		r = nf_buf_error(&m->windows);
	if (r == 0)
		nf_squash_put(m->s, &op);
	return r;
}

static void tell_as_it_was(const struct merge *m)
{
	for (size_t i = 0; i < m->nr; i++)
		nf_squash_put(m->s, &m->src[i].op);
}

static void cut(bool known[NF_WINDOW_BLOCKS], uint64_t window, uint64_t first_hole)
{
	for (uint64_t b = 0; b < NF_WINDOW_BLOCKS; b++)
		if (window + b >= first_hole)
			known[b] = false;
}

/* The window that begins at block FIRST, from all operations. */
static int merge_window(struct merge *m, uint64_t first)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS], now[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS] = { false }, named[NF_WINDOW_BLOCKS], any = false;
	struct nf_extent_ref whole;
	nf_auto(nf_buf_deinit) struct nf_buf value = NF_BUF_INIT;

	for (size_t i = 0; i < m->nr; i++) {
		struct source *x = &m->src[i];
		if (x->op.flags & NF_OPF_INLINE)
			cut(known, first, 0);
		else if (x->op.least_size != UINT64_MAX)
			cut(known, first, (x->op.least_size >> m->shift) + !!(x->op.least_size & ((1u << m->shift) - 1)));
		if (x->first != first)
			continue;
		int r = nf_extent_patch_decode(x->value, x->len, true, FULL, &whole, now, named);
		if (r == 0)
			r = next_window(x);
		if (r < 0)
			return r;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			if (!named[b])
				continue;
			refs[b] = now[b];
			known[b] = true;
		}
	}
	for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
		any |= known[b];
	if (!any)
		return 0;
	nf_extent_encode(&value, refs, known, FULL, true);
	nf_buf_u64(&m->windows, first);
	nf_buf_str16(&m->windows, value.p, value.len);
	m->nr_windows++;
	return nf_buf_error(&value);
}

static int merge_all(struct merge *m)
{
	size_t max = m->s->q->windows_max_bytes ? m->s->q->windows_max_bytes : WINDOWS_MAX_BYTES;

	for (;;) {
		uint64_t first = UINT64_MAX;
		for (size_t i = 0; i < m->nr; i++)
			first = NF_MIN(first, m->src[i].first);
		if (first == UINT64_MAX)
			return tell(m);
		if (m->windows.len >= max) {
			tell_as_it_was(m);
			return 0;
		}
		int r = merge_window(m, first);
		if (r < 0)
			return r;
	}
}

int nf_squash_data(struct squash *s, const struct rec *first, uint8_t shift)
{
	nf_auto(merge_deinit) struct merge m = { .s = s, .shift = shift };
	int r = collect(&m, first);

	if (r < 0)
		return r;
	join_ranges(&m);
	outline(&m);
	return m.op.flags & NF_OPF_INLINE ? tell(&m) : merge_all(&m);
}
