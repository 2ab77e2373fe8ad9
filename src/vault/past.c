/* vault/past.c - writes past the kernel's cache.
 *
 * A file that is made or emptied by an open for writing alone (cp, tar, a download) is written without its bytes going through the
 * kernel's pages: they would be allocated, filled and dropped again for nobody.  The kernel drops the pages of a write before
 * it sends it, and lets one such write at a time go on for an inode:
 *
 *     pages dropped      WRITE arrives     applied          answered
 *     ------|------------------|---------------|----------------|------
 *            a page read here, or while the write is applied, is older than the write: when it has been applied the
 *            kernel is told to drop pages that were read since the file was opened so, and only then the write is answered
 *
 * Such a page may be changed through a mapping meanwhile and come back as a whole, with bytes from before the write beside
 * the changed ones.  So what was written past the pages and not read by the kernel since is not taken from pages
 * (mapped.c): whoever changed these bytes in a page did so while the write was under way, and it may as well have come
 * after him.
 *
 *     over     written past the pages, not read since
 *     busy     being applied: a read that comes now may still find what was there before
 *     given    read by the kernel since the first such open, not written past since: may lie in a page that is older
 *
 * Only where the kernel drops pages before such a write (6.6): the front end says (call->drops_pages). */
#include "base/assert.h"
#include "vault/calls.h"

#include <fcntl.h>

bool nf_past_wanted(const struct nf_call *c)
{
	bool empty = c->op != NF_CALL_OPEN || c->flags & O_TRUNC;

	/* Synchronous writes are told apart by an FSYNC that comes only after those that go through the cache. */
	return c->drops_pages && empty && (c->flags & O_ACCMODE) == O_WRONLY &&
	       !(c->flags & (O_APPEND | O_SYNC | O_DSYNC | O_DIRECT));
}

void nf_past_open(struct nf_vnode *vn)
{
	vn->past.nr_files++;
}

void nf_past_close(struct nf_vnode *vn)
{
	struct nf_past *p = &vn->past;

	NF_ASSERT(p->nr_files > 0);
	if (--p->nr_files)
		return;
	/* Closed after its last write was answered. */
	NF_ASSERT(!p->nr_busy);
	nf_past_deinit(p);
}

void nf_past_init(struct nf_past *p)
{
	nf_rangeset_init(&p->over);
	nf_rangeset_init(&p->busy);
	nf_rangeset_init(&p->given);
}

void nf_past_deinit(struct nf_past *p)
{
	nf_rangeset_deinit(&p->over);
	nf_rangeset_deinit(&p->busy);
	nf_rangeset_deinit(&p->given);
}

void nf_past_begin(struct nf_vnode *vn, uint64_t start, uint64_t end)
{
	struct nf_past *p = &vn->past;

	p->nr_busy++;
	nf_rangeset_add(&p->over, start, end);
	nf_rangeset_add(&p->busy, start, end);
}

bool nf_past_applied(struct nf_vnode *vn, uint64_t start, uint64_t end)
{
	struct nf_past *p = &vn->past;
	uint64_t s, e;

	NF_ASSERT(p->nr_busy > 0);
	if (--p->nr_busy == 0)
		nf_rangeset_deinit(&p->busy);
	/* Pages reach further than bytes. */
	start = nf_round_down(start, NF_PAGE_BYTES);
	end = nf_round_up(end, NF_PAGE_BYTES);
	bool stale = nf_rangeset_next(&p->given, start, &s, &e) && s < end;
	nf_rangeset_remove(&p->given, start, end);
	return stale;
}

void nf_past_read(struct nf_vnode *vn, uint64_t start, uint64_t end)
{
	struct nf_past *p = &vn->past;
	uint64_t s, e;

	if (!p->nr_files)
		return;
	nf_rangeset_add(&p->given, start, end);
	nf_rangeset_remove(&p->over, start, end);
	for (uint64_t at = start; nf_rangeset_next(&p->busy, at, &s, &e) && s < end; at = e)
		nf_rangeset_add(&p->over, NF_MAX(s, start), NF_MIN(e, end));
}

void nf_past_cached(struct nf_vnode *vn, uint64_t start, uint64_t end)
{
	if (vn->past.nr_files)
		nf_rangeset_remove(&vn->past.over, start, end);
}
