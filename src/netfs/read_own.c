/* Reads that memory cannot hold.
 *
 * A reader is answered when all its bytes are there at one time. Several whose folios together need more than there is may
 * push out one another's again and again, and one that is larger than the arena is never all there.  So whoever had to
 * ask for something ASKED_MAX times stands in line, and the first in line has its turn:
 *
 *   asking ... asking -> in line -> its turn: STORED blocks are read into a buffer of its own -> answered
 *
 * Who waits in line asks for nothing, or it would only push out what others wait for; it is answered sooner if all of it is
 * there by chance.  A turn needs no folio, so it comes to an end whatever others do, be memory full of what cannot be
 * stored.  One reader of an instance at a time has it: it costs the bytes of its blocks beyond the limit.  What the buffer
 * has counts only while it is what is stored (nf_own_stale_locked()), and the answer is put together at one moment from
 * memory, zeros and the buffer: also such a read is of one version. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/error.h"

enum { ASKED_MAX = 4 };

void nf_io_priv_free(struct nf_io *io)
{
	struct nf_io_priv *priv = io->priv;

	if (!priv)
		return;
	free(priv->joined);
	free(priv->pieces);
	free(priv->own);
	free(priv->own_has);
	free(priv);
	io->priv = NULL;
}

bool nf_own_is_in_line_locked(const struct nf_reader *r) { return r->asked >= ASKED_MAX; }

bool nf_own_turn_locked(struct nf_reader *r)
{
	struct nf_netfs *lib = r->io->ic->lib;

	nf_lock_take(&lib->lock);
	if (nf_list_empty(&r->in_line))
		nf_list_add_tail(&lib->in_line, &r->in_line);
	bool first = nf_list_first(&lib->in_line, struct nf_reader, in_line) == r;
	nf_lock_drop(&lib->lock);
	return first;
}

void nf_own_leave_locked(struct nf_reader *r)
{
	struct nf_netfs *lib = r->io->ic->lib;

	if (!nf_own_is_in_line_locked(r))
		return;
	nf_lock_take(&lib->lock);
	nf_list_del(&r->in_line);
	/* Who is in line has not been answered, so its inode is there. */
	if (!nf_list_empty(&lib->in_line))
		nf_kick_later(nf_list_first(&lib->in_line, struct nf_reader, in_line)->io->ic->priv);
	nf_lock_drop(&lib->lock);
}

static int buffer_new(struct nf_io *io)
{
	struct nf_ictx_priv *p = io->ic->priv;
	uint64_t start = nf_block_down(p, io->pos_bytes), end = nf_block_up(p, io->pos_bytes + io->len_bytes);

	if (!io->priv)
		io->priv = calloc(1, sizeof *io->priv);
	if (!io->priv)
		return nf_fail(-ENOMEM);
	struct nf_io_priv *priv = io->priv;
	priv->nr_own = (unsigned)((end - start) / p->ic->block_bytes);
	priv->own_start = start;
	priv->own_has = calloc(priv->nr_own, sizeof *priv->own_has);
	priv->own = priv->own_has ? malloc((size_t)(end - start)) : NULL;
	if (!priv->own) {
		free(priv->own_has);
		priv->own_has = NULL;
		return nf_fail(-ENOMEM);
	}
	return 0;
}

/* Whether bytes of block I of the buffer that the read wants are neither in memory nor in the buffer. */
static bool misses_locked(const struct nf_io *io, unsigned i)
{
	struct nf_ictx_priv *p = io->ic->priv;
	const struct nf_io_priv *priv = io->priv;
	uint64_t start = priv->own_start + (uint64_t)i * p->ic->block_bytes, end = start + p->ic->block_bytes;

	return !priv->own_has[i] && nf_range_has_stored_locked(p, NF_MAX(start, io->pos_bytes),
							       NF_MIN(end, io->pos_bytes + io->len_bytes));
}

void nf_own_read_locked(struct nf_reader *r, struct nf_todo *todo)
{
	struct nf_io *io = r->io;
	uint64_t bb = io->ic->block_bytes;
	unsigned most = NF_MAX(NF_READ_REQUEST_BYTES / io->ic->block_bytes, 1u);

	if (!io->priv || !io->priv->own)
		r->error = buffer_new(io);
	struct nf_io_priv *priv = io->priv;
	for (unsigned i = 0; r->error == 0 && i < priv->nr_own; i++) {
		unsigned nr = 0;
		while (nr < most && i + nr < priv->nr_own && misses_locked(io, i + nr))
			nr++;
		if (nr == 0)
			continue;
		if (!nf_rreq_new_own_locked(r, priv->own_start / bb + i, nr, todo))
			r->error = nf_fail(-ENOMEM);
		else
			priv->nr_own_reads++;
		i += nr - 1;
	}
}

void nf_own_came_locked(struct nf_rreq *rq)
{
	struct nf_reader *r = rq->own;
	struct nf_io_priv *priv = r->io->priv;
	size_t first = (size_t)((rq->start - priv->own_start) / rq->p->ic->block_bytes);

	NF_ASSERT(priv->nr_own_reads);
	priv->nr_own_reads--;
	if (rq->error)
		r->error = rq->error;
	for (unsigned i = 0; i < rq->nr_blocks && !rq->stale && !rq->error; i++)
		priv->own_has[first + i] = true;
}

uint64_t nf_own_has_locked(const struct nf_io *io, uint64_t pos, uint64_t end)
{
	const struct nf_io_priv *priv = io->priv;
	uint64_t bb = io->ic->block_bytes;

	for (size_t i = (size_t)((pos - priv->own_start) / bb); pos < end; i++) {
		if (!priv->own_has[i])
			return pos;
		pos = priv->own_start + (i + 1) * bb;
	}
	return end;
}

void nf_own_stale_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end)
{
	nf_list_for_each(r, &p->readers, struct nf_reader, link) {
		struct nf_io_priv *priv = r->io->priv;
		for (unsigned i = 0; priv && priv->own && i < priv->nr_own; i++) {
			uint64_t at = priv->own_start + (uint64_t)i * p->ic->block_bytes;
			if (at < end && start < at + p->ic->block_bytes)
				priv->own_has[i] = false;
		}
	}
}
