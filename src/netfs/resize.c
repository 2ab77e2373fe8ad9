/* Truncate and fallocate: writers that write zeros.
 *
 *   before   |#######|#######|###....|            # stored or dirty data, . zeros
 *   truncate |####ZZZ|ZZZZZZZ|ZZZZZZZ|            Z region of zeros, to the block after zero_point
 *                 ^new size
 *
 * What is stored beyond the new size is still stored.  Until the group has drained and the filesystem
 * has forgotten it, the region of zeros stands before it: a file that grows again, or a group
 * that is stored in pieces, never shows old bytes.  The block in which the region begins is
 * stored again, with zeros; whole blocks of zeros become holes of the group.
 *
 * No user data is copied, so all of it happens under the inode lock when the writer is admitted,
 * and nobody else is in its blocks. */
#include "netfs/types.h"

#include "base/counter.h"
#include "base/error.h"

#include <fcntl.h>
#include <linux/falloc.h>

static uint64_t page_up(uint64_t v)
{
	return (v + NF_PC_PAGE_BYTES - 1) & ~(uint64_t)(NF_PC_PAGE_BYTES - 1);
}

/* Zeroes [start, end) in one page of F, if the page counts. */
static void zero_in_page(struct nf_folio *f, uint64_t start, uint64_t end)
{
	if (start < end && nf_folio_page_uptodate(f, start))
		memset(f->mem + (start - f->pos_bytes), 0, (size_t)(end - start));
}

/* Memory forgets [start, end): whole pages are no longer uptodate, edges are zeroed. */
static void forget_in_folio(struct nf_folio *f, uint64_t start, uint64_t end)
{
	start = NF_MAX(start, f->pos_bytes);
	end = NF_MIN(end, nf_folio_end(f));
	uint64_t first = page_up(start), last = end & ~(uint64_t)(NF_PC_PAGE_BYTES - 1);
	if (first > last) { /* within one page */
		zero_in_page(f, start, end);
		return;
	}
	zero_in_page(f, start, first);
	zero_in_page(f, last, end);
	nf_folio_clear_uptodate(f, first, last);
}

static void forget_memory_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	struct nf_folio *f;
	uint64_t pos = start;

	while (pos < end && (f = nf_mapping_next(&p->mapping, pos))) {
		pos = nf_folio_end(f);
		if (f->pos_bytes >= start && pos <= end)
			nf_folio_drop(f);
		else if (f->pos_bytes < end)
			forget_in_folio(f, start, end);
		nf_folio_unpin(f);
	}
}

static void add_zeros_locked(struct nf_ictx_priv *p, struct nf_writer *w, uint64_t start,
			     uint64_t end)
{
	if (start >= end)
		return;
	struct nf_region *d = nf_region_new(w->rg->type, NF_REGION_ACTIVE, w->rg->group, start, end);
	d->seq = ++p->seq;
	nf_region_move(d, NF_REGION_DIRTY, "zeros");
	nf_list_add_tail(&d->group->dirty, &d->link);
	(void)nf_regions_merge(&p->dirty, d, &p->region_ops);
	nf_count(NF_C_REGION_ZERO_BYTES, end - start);
}

/* Everything in [start, end) is zeros from now on. */
static void zero_range_locked(struct nf_ictx_priv *p, struct nf_writer *w, uint64_t start,
			      uint64_t end)
{
	uint64_t stored_end = nf_block_up(p, p->zero_point);

	nf_copy_drop_locked(p, start, end, "zeroed");
	nf_regions_cut(&p->dirty, start, end, "zeroed");
	forget_memory_locked(p, start, end);
	add_zeros_locked(p, w, start, NF_MIN(end, stored_end));
	/* Folios at the edges may have lost their last dirty bytes. */
	nf_folios_recheck_locked(p, start, start + 1, false);
	if (end < UINT64_MAX)
		nf_folios_recheck_locked(p, end - 1, end, false);
}

static void grow_locked(struct nf_ictx_priv *p, struct nf_writer *w, uint64_t size)
{
	if (size <= nf_size(p))
		return;
	nf_group_grew(w->rg->group, size);
	nf_group_reaches_locked(p, w->rg->group, size);
	nf_set_i_size_locked(p, size);
}

static void truncate_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	struct nf_group *g = w->rg->group;
	uint64_t size = w->new_size;

	if (size >= nf_size(p)) {
		grow_locked(p, w, size);
		return;
	}
	nf_group_truncated(g, size);
	nf_group_cuts_locked(p, g, size);
	zero_range_locked(p, w, size, UINT64_MAX);
	/* As far as the region of zeros goes: what was written behind zero_point and is cut off again is a part of it. */
	uint64_t stored_end = nf_block_up(p, p->zero_point);
	if (size < stored_end)
		nf_group_zeroed(g, size, stored_end);
	nf_set_i_size_locked(p, size);
}

static void zero_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	uint64_t start = w->rg->reserved_start, end = w->rg->reserved_end;
	uint64_t size = nf_size(p);

	if (!w->keep_size && end > size)
		size = end;
	if (start < size) {
		/* Past the end there are zeros anyhow; with them the last block is whole. */
		if (end >= size)
			end = nf_block_up(p, end);
		zero_range_locked(p, w, start, end);
		nf_group_zeroed(w->rg->group, start, end);
	}
	grow_locked(p, w, size);
}

void nf_resize_locked(struct nf_writer *w)
{
	struct nf_ictx_priv *p = w->p;

	if (w->op == NF_OP_TRUNCATE)
		truncate_locked(p, w);
	else if (w->op == NF_OP_ZERO)
		zero_locked(p, w);
	else
		grow_locked(p, w, w->keep_size ? 0 : w->rg->reserved_end);
}

static void submit(struct nf_io *io, enum nf_region_type type, enum nf_writer_op op, uint64_t start,
		   uint64_t end, bool keep_size)
{
	struct nf_writer *w = nf_writer_new(io, type, op, start, end);

	if (!w) {
		io->error = nf_fail(-ENOMEM);
		io->done(io);
		return;
	}
	w->keep_size = keep_size;
	w->new_size = io->len_bytes;
	nf_writer_submit(w);
}

void nf_truncate(struct nf_io *io)
{
	io->error = 0;
	io->done_bytes = 0;
	if (io->len_bytes > INT64_MAX) {
		io->error = nf_fail(-EFBIG);
		io->done(io);
		return;
	}
	submit(io, NF_REGION_TRUNCATE, NF_OP_TRUNCATE, io->len_bytes, UINT64_MAX, false);
}

static int op_of(int mode, enum nf_writer_op *op)
{
	switch (mode & ~FALLOC_FL_KEEP_SIZE) {
	case 0:
		*op = NF_OP_EXTEND;
		return 0;
	case FALLOC_FL_PUNCH_HOLE:
		*op = NF_OP_ZERO;
		return mode & FALLOC_FL_KEEP_SIZE ? 0 : -EOPNOTSUPP;
	case FALLOC_FL_ZERO_RANGE:
		*op = NF_OP_ZERO;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

void nf_fallocate(struct nf_io *io, int mode)
{
	enum nf_writer_op op = NF_OP_EXTEND;

	io->done_bytes = 0;
	io->error = op_of(mode, &op);
	if (io->error == 0 && io->len_bytes == 0)
		io->error = -EINVAL;
	if (io->error == 0 &&
	    (io->pos_bytes > INT64_MAX || io->len_bytes > INT64_MAX - io->pos_bytes))
		io->error = -EFBIG;
	if (io->error < 0) {
		io->error = nf_fail(io->error);
		io->done(io);
		return;
	}
	submit(io, NF_REGION_FALLOCATE, op, io->pos_bytes, io->pos_bytes + io->len_bytes,
	       mode & FALLOC_FL_KEEP_SIZE);
}
