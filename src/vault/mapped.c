/* vault/mapped.c - what came through shared mappings, and the version the kernel had.
 *
 * The kernel sends whole pages, without saying which bytes of them somebody changed:
 *
 *     the page as it was given   a a a a a a a a
 *     what is sent               a a X X a a a X        written: [2,4) and [7,8)
 *
 * In quiet times the page was given what the file holds now, and what is in memory of it is compared.  While a newer
 * version is being taken over (adopt.c) the page may still be the old one:
 *
 *     v->ns                                        notifier                   kernel
 *     exchange; old_version kept, invals = 1
 *     told                                   ->    inval_inode           ->   dirty pages are sent first,
 *                                                                             then all pages dropped
 *     old_version dropped                    <-    done
 *
 * A page read again between the exchange and `done` holds the new version: `given` says which.  Only bytes
 * that differ become regions, laid over the new version; so a page changed by a mapping here and by somebody
 * else elsewhere has both changes.  If the old bytes cannot be read (never cached and no connection) the page
 * is written whole, marked as such.  What was written past the kernel's pages since (past.c) is left out in any case. */
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "vault/calls.h"

#include <string.h>

enum { PAGE = NF_PAGE_BYTES };

/* --- the version the kernel has ------------------------------------------------------------------------ */

static int old_version_new(struct nf_vnode *vn, struct nf_vnode **out)
{
	struct nf_vault *v = vn->v;
	struct nf_vnode *old = calloc(1, sizeof *old);
	struct nf_want w = NF_WANT_INIT;
	uint64_t size = nf_i_size(&vn->ic);

	if (!old)
		return nf_fail(-ENOMEM);
	old->v = v;
	old->ino = vn->ino;
	old->block_shift = vn->block_shift;
	old->refs = 1;
	old->aside = true;
	nf_past_init(&old->past);
	nf_list_init(&old->lru);
	nf_list_init(&old->dirty);
	nf_list_init(&old->waiting);
	nf_avl_init(&old->acc, NULL);
	nf_rangeset_init(&old->given);
	int r = nf_vnode_orphan(old, &w);
	if (r == 0)
		r = nf_ictx_init(&old->ic, v->lib, &nf_vault_netfs_ops, vn->ino, 1u << vn->block_shift, size, size);
	nf_want_deinit(&w);
	if (r < 0) {
		nf_layer_free(old->orphan_layer);
		nf_layer_free(old->orphan_below);
		free(old);
		return r;
	}
	v->asides++;
	*out = old;
	return 0;
}

int nf_old_versions_keep(struct nf_vault *v, const uint64_t *inos, size_t nr)
{
	if (!v->fs.notify)
		return 0;
	for (size_t i = 0; i < nr; i++) {
		struct nf_vnode *vn = nf_vnode_find(v, inos[i]);
		if (!vn || vn->dying || vn->orphan || !vn->writers)
			continue;
		/* One still told of an earlier take-over keeps the oldest: some of its pages may be that. */
		int r = vn->old_version ? 0 : old_version_new(vn, &vn->old_version);
		if (r < 0) {
			nf_old_versions_drop(v, inos, i);
			return r;
		}
		vn->invals++;
		vn->untold = true;
		vn->refs++;
	}
	return 0;
}

static void drop(struct nf_vnode *vn)
{
	struct nf_vnode *old = vn->old_version;

	NF_ASSERT(vn->invals > 0 && old);
	if (--vn->invals == 0) {
		vn->old_version = NULL;
		nf_vnode_put(old);
	}
	nf_vnode_put(vn);
	nf_cond_broadcast(&vn->v->changed);
}

void nf_old_versions_drop(struct nf_vault *v, const uint64_t *inos, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		struct nf_vnode *vn = nf_vnode_find(v, inos[i]);
		if (vn && vn->old_version) {
			vn->untold = false;
			drop(vn);
		}
	}
}

bool nf_old_versions_any(struct nf_vault *v, const uint64_t *inos, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		struct nf_vnode *vn = nf_vnode_find(v, inos[i]);
		if (vn && vn->old_version)
			return true;
	}
	return false;
}

void nf_old_version_told(void *arg)
{
	struct nf_vnode *vn = arg;
	struct nf_vault *v = vn->v;

	nf_lock_take(&v->ns);
	drop(vn);
	nf_lock_drop(&v->ns);
}

void nf_old_version_given(struct nf_vnode *vn, uint64_t pos_bytes, uint64_t len_bytes)
{
	if (vn->old_version)
		nf_rangeset_add(&vn->old_version->given, pos_bytes, pos_bytes + len_bytes);
}

/* --- one WRITE of the kernel's ---------------------------------------------------------------------------- */

enum { CALLING, RETURNED, DONE };

struct range {
	size_t start, end;
};

struct mapped {
	struct nf_vnode *old; /* a reference while its bytes are read; NULL: compared with what is in memory */
	uint64_t pos_bytes;
	size_t len_bytes;
	size_t have_bytes;    /* of the old version, read so far */
	size_t cursor;        /* compared and written so far */
	size_t written_bytes; /* of them */
	bool whole;           /* nothing to compare with */
	bool wrote;
	atomic_int turn;      /* who goes on: the caller of nf_write() or its completion */
	uint8_t *mine;        /* what is sent */
	uint8_t *theirs;      /* what the page was given */
	bool *given;          /* per page of the request: `theirs` is the new version already */
	size_t nr_older;      /* what was written past the page since it was read: it has no say there */
	struct range older[];
};

static void mapped_end(struct nf_run *run, int error)
{
	struct mapped *m = run->state;
	struct nf_vault *v = run->v;

	if (m->wrote) {
		nf_lock_take(&v->ns);
		nf_vnode_dirty(run->vn);
		nf_lock_drop(&v->ns);
	}
	if (error == 0)
		nf_count(NF_C_MAPPED_SAME_BYTES, m->len_bytes - m->written_bytes);
	if (run->call)
		run->call->count = error < 0 ? 0 : m->len_bytes;
	nf_run_end(run, error);
}

/* The first bytes of [at, len) that differ: [*start, *end). */
static bool run_in(const struct mapped *m, size_t at, size_t len, size_t *start, size_t *end)
{
	if (m->whole) {
		*start = at;
		*end = len;
		return true;
	}
	/* Most of a page is as it was. */
	while (at + 64 <= len && !memcmp(m->mine + at, m->theirs + at, 64))
		at += 64;
	while (at < len && m->mine[at] == m->theirs[at])
		at++;
	*start = at;
	while (at < len && m->mine[at] != m->theirs[at])
		at++;
	*end = at;
	return *start < *end;
}

/* The next bytes to write. */
static bool next_run(const struct mapped *m, size_t *start, size_t *end)
{
	size_t at = m->cursor;

	for (size_t i = 0; i <= m->nr_older; i++) {
		size_t upto = i < m->nr_older ? m->older[i].start : m->len_bytes;
		if (at < upto && run_in(m, at, upto, start, end))
			return true;
		if (i < m->nr_older)
			at = NF_MAX(at, m->older[i].end);
	}
	return false;
}

static void go_on(struct nf_run *run);

static void run_written(struct nf_io *io)
{
	struct nf_run *run = io->ctx;
	struct mapped *m = run->state;

	if (atomic_exchange(&m->turn, DONE) == RETURNED)
		go_on(run);
}

static void write_run(struct nf_run *run)
{
	struct mapped *m = run->state;

	atomic_store(&m->turn, CALLING);
	nf_write(&run->io);
	if (atomic_exchange(&m->turn, RETURNED) == DONE)
		go_on(run);
}

/* Writes run after run; each goes on in write_run() or run_written(), whichever comes last. The depth of calls is bounded
 * because a run that was done at once is followed by the next from this loop. */
static bool start_run(struct nf_run *run)
{
	struct mapped *m = run->state;
	struct nf_vnode *vn = run->vn;
	size_t start, end;

	if (!next_run(m, &start, &end))
		return false;
	m->cursor = end;
	m->written_bytes += end - start;
	if (!m->wrote) {
		nf_lock_take(&vn->v->ns);
		nf_vnode_touch(vn);
		nf_lock_drop(&vn->v->ns);
		m->wrote = true;
	}
	run->iov[0] = (struct iovec){ m->mine + start, end - start };
	run->io = (struct nf_io){ .ic = &vn->ic, .pos_bytes = m->pos_bytes + start, .len_bytes = end - start,
				  .flags = m->whole ? NF_IO_PAGE_GRANULAR : 0, .iov = run->iov, .nr_iov = 1,
				  .done = run_written, .ctx = run };
	atomic_store(&m->turn, CALLING);
	return true;
}

static void go_on(struct nf_run *run)
{
	struct mapped *m = run->state;
	int error = m->wrote ? run->io.error : 0;

	while (error == 0 && start_run(run)) {
		uint64_t pos = run->io.pos_bytes, upto = pos + run->io.len_bytes;
		if (upto > NF_INLINE_MAX && nf_unline_needed(run->vn, pos, upto)) {
			/* Somebody else made it that short.  It may end without write_run(). */
			atomic_store(&m->turn, RETURNED);
			error = nf_unline(run, write_run, run_written);
			if (error < 0)
				break;
			void (*start)(struct nf_run *) = run->start;
			run->start = NULL;
			start(run);
			return;
		}
		nf_write(&run->io);
		if (atomic_exchange(&m->turn, RETURNED) != DONE)
			return;
		error = run->io.error;
	}
	mapped_end(run, error);
}

static void old_read(struct nf_io *io);

static void read_old(struct nf_run *run)
{
	struct mapped *m = run->state;

	run->io = (struct nf_io){ .ic = &m->old->ic, .pos_bytes = m->pos_bytes + m->have_bytes,
				  .len_bytes = NF_MIN(m->len_bytes - m->have_bytes, (size_t)1 << 20),
				  .flags = NF_IO_NOWAIT_AHEAD, .done = old_read, .ctx = run };
	nf_read(&run->io);
}

static void take_byte_range(struct mapped *m, const uint8_t *from, size_t len)
{
	size_t at = m->have_bytes, end = at + len;

	m->have_bytes = end;
	while (at < end) {
		size_t page = (m->pos_bytes + at) / PAGE - m->pos_bytes / PAGE;
		size_t upto = NF_MIN((size_t)((page + 1) * PAGE - m->pos_bytes % PAGE), end);
		if (!m->given[page])
			memcpy(m->theirs + at, from, upto - at);
		from += upto - at;
		at = upto;
	}
}

static void old_read(struct nf_io *io)
{
	struct nf_run *run = io->ctx;
	struct mapped *m = run->state;
	bool more = false;

	if (io->error < 0) {
		m->whole = true;
	} else {
		for (int i = 0; i < io->nr_out_iov; i++)
			take_byte_range(m, io->out_iov[i].iov_base, io->out_iov[i].iov_len);
		/* Behind its end the old version was zeros, as `theirs` is. */
		more = io->done_bytes == io->len_bytes && m->have_bytes < m->len_bytes;
		nf_read_end(io);
	}
	if (more) {
		read_old(run);
		return;
	}
	nf_lock_take(&run->v->ns);
	nf_vnode_put(m->old);
	nf_lock_drop(&run->v->ns);
	m->old = NULL;
	go_on(run);
}

/* Fills `theirs` where the page holds what the file holds now. */
static void peek(struct mapped *m, struct nf_vnode *vn)
{
	struct nf_vnode *old = vn->old_version;
	uint64_t start, end;

	if (!old) {
		m->whole = !nf_peek(&vn->ic, m->pos_bytes, m->theirs, m->len_bytes);
		return;
	}
	for (size_t at = 0; at < m->len_bytes;) {
		uint64_t pos = m->pos_bytes + at;
		size_t len = NF_MIN((size_t)(PAGE - pos % PAGE), m->len_bytes - at);
		bool again = nf_rangeset_next(&old->given, pos, &start, &end) && start <= pos && end >= pos + len;
		m->given[pos / PAGE - m->pos_bytes / PAGE] = again && nf_peek(&vn->ic, pos, m->theirs + at, len);
		at += len;
	}
}

/* The ranges of [start, end) that were written past the kernel's pages since it read them, to OUT if that is not NULL. */
static size_t older_ranges(struct nf_vnode *vn, uint64_t start, uint64_t end, struct range *out)
{
	uint64_t s, e;
	size_t nr = 0;

	for (uint64_t at = start; nf_rangeset_next(&vn->past.over, at, &s, &e) && s < end; at = e, nr++)
		if (out)
			out[nr] = (struct range){ NF_MAX(s, start) - start, NF_MIN(e, end) - start };
	return nr;
}

int nf_mapped_write(struct nf_run *run, struct nf_vnode *vn)
{
	struct nf_call *c = run->call;
	size_t len = c->size, pages = len / PAGE + 2;
	size_t nr = older_ranges(vn, c->offset, c->offset + len, NULL);
	struct mapped *m = calloc(1, sizeof *m + nr * sizeof m->older[0] + 2 * len + pages);

	if (!m)
		return nf_fail(-ENOMEM);
	m->nr_older = older_ranges(vn, c->offset, c->offset + len, m->older);
	m->pos_bytes = c->offset;
	m->len_bytes = len;
	m->mine = (uint8_t *)&m->older[nr];
	m->theirs = m->mine + len;
	m->given = (bool *)(m->theirs + len);
	atomic_init(&m->turn, CALLING);
	memcpy(m->mine, c->data, len);
	run->state = m;
	vn->refs++;
	run->vn = vn;
	peek(m, vn);
	m->old = vn->old_version;
	if (m->old)
		m->old->refs++;
	run->start = m->old ? read_old : go_on;
	return NF_CALL_PENDING;
}
