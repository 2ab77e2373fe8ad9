/* Reading heads: no more of them than the leaves depend on.
 *
 *      names not known:  o o o o o ... o o      the newest is read; its parents need no reading
 *                                     `--R      still many: the ROOT items of its tree are asked for the others
 *                        c c c c c . o c R      what is left belongs to forks, or was never built upon: the newest of
 *                        c c c c c . R c R      it is read, and so on; a few are read at once
 */
#include "vault/look_i.h"

#include "base/counter.h"
#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/mem.h"

enum {
	GETS_PARALLEL = 16,
	/* Newest first; more than so many unknown heads in one look is no vault of ours. */
	GETS_MAX = 4096,
	/* So many heads are read sooner than a tree is asked for them. */
	FEW = 2,
};

struct read;

/* What is shared by the reads of one look. */
struct readers {
	struct nf_lock lock;
	struct nf_cond cond;
	struct nf_list done; /* reads that came back */
};

struct read {
	struct nf_store_op op;
	struct nf_list link;
	struct readers *all;
	struct nf_look_entry *e;
	uint8_t *buf;
};

static void read_done(struct nf_store_op *op)
{
	struct read *rd = op->ctx;
	struct readers *all = rd->all;

	nf_lock_take(&all->lock);
	nf_list_add_tail(&all->done, &rd->link);
	nf_cond_signal(&all->cond);
	nf_lock_drop(&all->lock);
}

static int start_read(struct nf_look *l, struct readers *all, struct nf_look_entry *e)
{
	size_t len = e->size_bytes ? e->size_bytes : NF_HEAD_BYTES_MAX;
	struct read *rd = calloc(1, sizeof *rd);

	if (rd)
		rd->buf = malloc(len);
	if (!rd || !rd->buf) {
		free(rd);
		return nf_fail(-ENOMEM);
	}
	rd->all = all;
	rd->e = e;
	rd->op = (struct nf_store_op){ .verb = NF_STORE_GET, .priority = NF_STORE_FOREGROUND, .buf = rd->buf,
				       .length_bytes = len, .whole = true, .done = read_done, .ctx = rd };
	nf_list_init(&rd->link);
	nf_head_name(e->id.seq, e->id.rand, rd->op.name);
	e->tried = l->pass;
	e->tried_size = e->size_bytes;
	e->tried_mtime_s = e->mtime_s;
	nf_store_submit(l->store, &rd->op);
	return 0;
}

/* An error that says something about the one object, not about the way to the store. */
static bool is_of_object(int r)
{
	return r == -NF_E_STORE_NOT_FOUND || r == -NF_E_STORE_SHORT || r == -NF_E_STORE_PROTOCOL;
}

static int end_read(struct nf_look *l, struct read *rd)
{
	struct nf_look_entry *e = rd->e;
	int r = rd->op.error;

	if (r == 0)
		r = nf_head_open(l->codec, e->id.seq, e->id.rand, rd->buf, rd->op.transferred_bytes, &e->head);
	if (r == 0) {
		e->readable = true;
		memcpy(e->id.tag, e->head.id.tag, sizeof e->id.tag);
		nf_look_cover_parents(l, e);
	} else if (rd->op.error == 0 && nf_head_epoch(rd->buf, rd->op.transferred_bytes) > nf_ring_newest(l->ring)) {
		l->newer_epoch = true;
	} else if (r == -NF_E_STORE_NOT_FOUND) {
		e->listed = false; /* pruned since the listing */
		l->lost = true;
	}
	/* What does not open may be one still being written: no error, it is not there yet. */
	int error = rd->op.error == 0 ? (r == -ENOMEM ? r : 0) : is_of_object(rd->op.error) ? 0 : rd->op.error;
	nf_store_op_deinit(&rd->op);
	free(rd->buf);
	free(rd);
	return nf_fail(error);
}

static struct read *wait_read(struct readers *all)
{
	nf_lock_take(&all->lock);
	while (nf_list_empty(&all->done))
		nf_cond_wait(&all->cond, &all->lock);
	struct read *rd = nf_list_first(&all->done, struct read, link);
	nf_list_del(&rd->link);
	nf_lock_drop(&all->lock);
	return rd;
}

/* Never asked for: a name that did not open before is not worth reading a tree for. */
static bool is_fresh(const struct nf_look_entry *e) { return nf_look_is_open(e) && !e->tried; }

static bool is_due(const struct nf_look *l, const struct nf_look_entry *e, bool fresh_only)
{
	return fresh_only ? is_fresh(e) : nf_look_is_open(e) && e->tried != l->pass;
}

/* Up to MAX, newest first, some in parallel.  An error of the way to the store ends it: leaves of half the heads are no
 * answer. */
static int read_batch(struct nf_look *l, struct nf_look_entry *e, unsigned max, bool fresh_only)
{
	struct readers all = { .lock = NF_LOCK_INIT(NF_RANK_LEAF) };
	unsigned running = 0;
	int r = 0;

	nf_cond_init(&all.cond);
	nf_list_init(&all.done);
	while (running || (e && r == 0)) {
		if (e && r == 0 && running < GETS_PARALLEL) {
			if (max && l->gets < GETS_MAX && is_due(l, e, fresh_only)) {
				r = start_read(l, &all, e);
				running += r == 0;
				l->gets++;
				max--;
			}
			e = max ? nf_look_prev(e) : NULL;
			continue;
		}
		int one = end_read(l, wait_read(&all));
		running--;
		if (r == 0)
			r = one;
	}
	nf_cond_deinit(&all.cond);
	nf_lock_deinit(&all.lock);
	return r;
}

/* The newest leaf whose tree may name a fresh one and was not read for it yet; NULL: none. */
static int leaf_to_ask(struct nf_look *l, struct nf_look_entry **out)
{
	struct nf_look_entry *oldest = nf_look_first(l);

	while (oldest && !is_fresh(oldest))
		oldest = nf_look_next(oldest);
	*out = NULL;
	int r = nf_look_leaves(l, -1, &l->leaves);
	for (size_t i = l->leaves.nr; r == 0 && oldest && i-- > 0;) {
		struct nf_look_entry *e = nf_look_find(l, &l->leaves.v[i]->id);
		if (e->consulted != l->pass && e->id.seq > oldest->id.seq) {
			*out = e;
			break;
		}
	}
	return r;
}

static size_t count_fresh(const struct nf_look *l)
{
	size_t nr = 0;

	for (const struct nf_look_entry *e = nf_look_first(l); e; e = nf_look_next(e))
		nr += is_fresh(e);
	return nr;
}

int nf_look_read(struct nf_look *l)
{
	unsigned batch = 1;
	int r = 0;

	l->newer_epoch = false;
	l->pass++;
	nf_look_settle(l);
	while (r == 0 && l->gets < GETS_MAX && count_fresh(l) > FEW) {
		struct nf_look_entry *e = NULL;
		if (l->fetch)
			r = leaf_to_ask(l, &e);
		if (r == 0 && e) {
			nf_look_cover(l, e, false);
		} else if (r == 0) {
			r = read_batch(l, nf_look_last(l), batch, true);
			batch = NF_MIN(2 * batch, (unsigned)GETS_PARALLEL);
		}
	}
	return r == 0 ? read_batch(l, nf_look_last(l), GETS_MAX, false) : r;
}

int nf_look_read_one(struct nf_look *l, struct nf_look_entry *e)
{
	e->by = NULL;
	return read_batch(l, e, 1, false);
}
