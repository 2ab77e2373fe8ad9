/* Writing: nf_write().
 *
 *   caller  -> submit -> [P ... R] -> copy into folios (A, no lock) -> commit (D) -> done
 *
 * A large write is copied and committed in chunks, so that it need not fit into memory: what is
 * committed is dirty and may be stored while the rest waits.  The region keeps its whole range
 * reserved all the time. */
#include "netfs/types.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"

struct nf_writer *nf_writer_new(struct nf_io *io, enum nf_region_type type, enum nf_writer_op op,
				uint64_t start, uint64_t end)
{
	struct nf_ictx_priv *p = io->ic->priv;
	struct nf_writer *w = calloc(1, sizeof *w);

	if (!w)
		return NULL;
	if (op == NF_OP_WRITE) {
		size_t most = NF_MIN(p->lib->chunk_bytes, (size_t)io->len_bytes);
		w->folios = calloc(most / NF_PC_PAGE_BYTES + 2, sizeof(struct nf_folio *));
		if (!w->folios) {
			free(w);
			return NULL;
		}
	}
	w->rg = nf_region_new(type, NF_REGION_PENDING, NULL, start, end);
	w->rg->writer = w;
	w->op = op;
	w->p = p;
	w->io = io;
	w->cursor = w->window_end = start;
	w->iov = io->iov;
	w->nr_iov = io->nr_iov;
	w->borrowed = op == NF_OP_WRITE && io->flags & NF_IO_BORROWED;
	nf_list_init(&w->todo);
	return w;
}

/* RG is free of lists; the inode lock is held, or RG was never submitted. */
void nf_writer_free(struct nf_writer *w)
{
	free(w->folios);
	free(w->kept.iov_base);
	free(w);
}

void nf_writer_submit(struct nf_writer *w)
{
	struct nf_ictx_priv *p = w->p;

	nf_ic_get(p); /* put when it finishes */
	nf_ic_lock(p);
	nf_list_add_tail(&p->pending, &w->rg->link);
	nf_queue_add(&p->queue, w->rg);
	nf_ic_unlock(p, w);
}

static int make_priv(struct nf_ictx_priv *p, struct nf_region *rg)
{
	const struct nf_netfs_ops *ops = p->ic->ops;

	if (!ops->init_dirty_region)
		return 0;
	struct nf_region_priv *rp = calloc(1, sizeof *rp);
	if (!rp)
		return nf_fail(-ENOMEM);
	int r = ops->init_dirty_region(p->ic, &rp->fs);
	if (r < 0) {
		free(rp);
		return nf_fail(r);
	}
	nf_list_init(&rp->link);
	rp->dead = &p->dead_privs;
	rp->refs = 1;
	rg->priv = rp;
	return 0;
}

static int check_write(struct nf_io *io)
{
	const struct nf_netfs_ops *ops = io->ic->ops;
	uint64_t pos = io->flags & NF_IO_APPEND ? nf_i_size(io->ic) : io->pos_bytes;

	if (io->len_bytes > NF_WRITE_MAX_BYTES)
		return nf_fail(-EINVAL);
	if (pos > (uint64_t)INT64_MAX - io->len_bytes)
		return nf_fail(-EFBIG);
	if (io->len_bytes && ops->check_write_begin)
		return ops->check_write_begin(io->ic, pos, io->len_bytes);
	return 0;
}

static enum nf_region_type type_of(unsigned flags)
{
	if (flags & NF_IO_DIRECT)
		return NF_REGION_DIRECT; /* with DSYNC as well: it waits for its group, too */
	return flags & NF_IO_DSYNC ? NF_REGION_DSYNC : NF_REGION_ORDINARY;
}

void nf_write(struct nf_io *io)
{
	struct nf_writer *w = NULL;
	bool append = io->flags & NF_IO_APPEND;

	io->done_bytes = 0;
	io->error = check_write(io);
	if (io->error == 0 && io->len_bytes) {
		w = nf_writer_new(io, type_of(io->flags), NF_OP_WRITE, append ? 0 : io->pos_bytes,
				  append ? UINT64_MAX : io->pos_bytes + io->len_bytes);
		io->error = w ? make_priv(w->p, w->rg) : nf_fail(-ENOMEM);
	}
	if (io->error < 0 || io->len_bytes == 0) {
		if (w) {
			nf_region_free(w->rg);
			nf_writer_free(w);
		}
		io->done(io);
		return;
	}
	nf_writer_submit(w);
}

/* Copies LEN bytes from where the writer is in its iovec. */
static void copy_from_iov(struct nf_writer *w, uint8_t *to, size_t len)
{
	while (len) {
		const struct iovec *v = &w->iov[w->iov_i];
		size_t n = NF_MIN(len, v->iov_len - w->iov_off);
		if (n)
			memcpy(to, (const uint8_t *)v->iov_base + w->iov_off, n);
		to += n;
		len -= n;
		w->iov_off += n;
		if (w->iov_off == v->iov_len) {
			w->iov_i++;
			w->iov_off = 0;
		}
	}
}

void nf_writer_keep_locked(struct nf_writer *w)
{
	size_t left = 0;

	for (int i = w->iov_i; i < w->nr_iov; i++)
		left += w->iov[i].iov_len;
	left -= w->iov_off;
	struct iovec kept = { .iov_base = malloc(left), .iov_len = left };
	w->borrowed = false;
	if (!kept.iov_base) {
		w->discarded = true;
		w->discard_error = nf_fail(-ENOMEM);
		nf_kick_later(w->p);
		return;
	}
	copy_from_iov(w, kept.iov_base, left);
	nf_count(NF_C_WRITE_COPIED_BYTES, left);
	w->kept = kept;
	w->iov = &w->kept;
	w->nr_iov = 1;
	w->iov_i = 0;
	w->iov_off = 0;
}

/* No lock: the state ACTIVE is the lock. */
static void copy_window(struct nf_writer *w)
{
	uint64_t pos = w->cursor;

	for (unsigned i = 0; i < w->nr_folios; i++) {
		struct nf_folio *f = w->folios[i];
		uint64_t end = nf_folio_end(f);
		end = NF_MIN(end, w->window_end);
		copy_from_iov(w, f->mem + (pos - f->pos_bytes), (size_t)(end - pos));
		nf_count(NF_C_WRITE_COPIED_BYTES, end - pos);
		pos = end;
	}
}

static void make_dirty_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	struct nf_region *d = nf_region_new(w->rg->type, NF_REGION_ACTIVE, w->rg->group, w->cursor,
					    w->window_end);

	d->seq = ++p->seq;
	d->priv = w->rg->priv;
	if (d->priv)
		d->priv->refs++;
	if (d->type == NF_REGION_DSYNC && nf_regions_at(&p->dirty, d->start))
		nf_count(NF_C_REGION_SUPERSEDE, 1);
	nf_copy_drop_locked(p, d->start, d->end, "superseded");
	nf_regions_cut(&p->dirty, d->start, d->end, "superseded");
	nf_region_move(d, NF_REGION_DIRTY, "commit");
	nf_list_add_tail(&d->group->dirty, &d->link);
	(void)nf_regions_merge(&p->dirty, d, &p->region_ops);
}

static void commit_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	struct nf_group *g = w->rg->group;

	for (unsigned i = 0; i < w->nr_folios; i++)
		nf_folio_set_uptodate(w->folios[i], w->cursor, w->window_end);
	make_dirty_locked(p, w);
	nf_group_wrote(g, w->cursor, w->window_end);
	if (w->io->flags & NF_IO_APPEND)
		g->appended = true;
	if (w->io->flags & NF_IO_PAGE_GRANULAR)
		g->page_granular = true;
	nf_group_reaches_locked(p, g, w->window_end);
	if (w->window_end > nf_size(p))
		nf_set_i_size_locked(p, w->window_end);
	nf_count(NF_C_REGION_BYTES, w->window_end - w->cursor);
	p->write_run = w->cursor == p->write_end ? p->write_run : 0;
	p->write_run += w->window_end - w->cursor;
	p->write_end = w->window_end;
}

static void leave_window_locked(struct nf_ictx_priv *p, struct nf_writer *w)
{
	uint64_t start = w->cursor;

	for (unsigned i = 0; i < w->nr_folios; i++)
		nf_folio_unpin(w->folios[i]);
	w->nr_folios = 0;
	w->cursor = w->window_end;
	w->granted = false;
	if (w->discarded)
		nf_folios_recheck_locked(p, start, w->window_end, false);
}

/* All is dirty: the writer leaves, or waits until it is stored. */
static void written_locked(struct nf_ictx_priv *p, struct nf_writer *w, bool *wait)
{
	unsigned flags = w->io->flags;
	struct nf_group *g = w->rg->group;

	nf_list_del(&w->rg->link);
	nf_queue_remove(&p->queue, w->rg);
	g->nr_writers--;
	nf_region_move(w->rg, NF_REGION_COMPLETE, "written");
	*wait = !w->discarded && (flags & (NF_IO_DSYNC | NF_IO_DIRECT));
	if (!*wait)
		return;
	w->waiter.start = w->rg->reserved_start;
	w->waiter.end = w->rg->reserved_end;
	w->waiter.seq = p->seq;
	if (flags & NF_IO_DSYNC) {
		if (!g->closed)
			(void)nf_group_close_locked(p);
		w->waiter.group = g->number;
	}
	nf_waiter_add_locked(p, &w->waiter);
}

static void stored(struct nf_waiter *waiter)
{
	struct nf_writer *w = nf_container_of(waiter, struct nf_writer, waiter);
	struct nf_ictx_priv *p = w->p;

	w->io->error = waiter->error;
	if (w->io->flags & NF_IO_DIRECT) {
		nf_ic_lock(p);
		nf_folios_recheck_locked(p, w->rg->reserved_start, w->rg->reserved_end, true);
		nf_ic_unlock(p, NULL);
	}
	nf_writer_finish(w);
}

void nf_writer_run(struct nf_writer *w)
{
	struct nf_ictx_priv *p = w->p;
	bool more = true, wait = false;

	w->waiter.done = stored;
	while (more) {
		copy_window(w);
		nf_ic_lock(p);
		if (!w->discarded)
			commit_locked(p, w);
		leave_window_locked(p, w);
		bool all = w->discarded || w->cursor == w->rg->reserved_end;
		if (all) {
			written_locked(p, w, &wait);
			more = false;
		} else {
			nf_region_move(w->rg, NF_REGION_RESERVED, "next part");
			more = nf_writer_grab_locked(w);
			if (!more && w->borrowed)
				nf_writer_keep_locked(w);
		}
		/* Another thread may take W on from here unless it is still ours. */
		nf_ic_unlock(p, NULL);
		if (all && !wait)
			nf_writer_finish(w);
	}
}

/* No lock held; W is on no list.  W is gone. */
void nf_writer_finish(struct nf_writer *w)
{
	struct nf_ictx_priv *p = w->p;
	struct nf_io *io = w->io;

	if (w->discarded)
		io->error = w->discard_error;
	else
		io->done_bytes = w->cursor - w->rg->reserved_start;
	NF_ASSERT(io->done_bytes <= io->len_bytes);
	nf_ic_lock(p);
	nf_region_free(w->rg);
	nf_ic_unlock(p, NULL);
	nf_writer_free(w);
	io->done(io);
	nf_ic_put(p);
}
