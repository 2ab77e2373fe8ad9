/* vault/cut.c - the cut: what one commit holds.
 *
 * Under the namespace lock, at one instant: the current epoch becomes the frozen one, a new one takes its place,
 * and every file that may hold data has its flush group closed.  Operations of names are complete with that; data
 * follows as the groups drain (group_stored, nfops.c).  A file that cannot be flushed holds up nothing but itself: its
 * data is left to the next cut, and whoever asks for it hears of the error.
 *
 * Where nothing can be sent there is no cut.  Files settle all the same: what is dirty becomes operations of the current
 * epoch, so that memory holds no more of it than when everything is sent every few seconds. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/commit.h"
#include "vault/shelf.h"
#include "vault/upload.h"

#include <inttypes.h>

enum {
	CUT_OPS_BYTES = 4 << 20,
	/* Below that there is little to gain, in memory and for one who sends. */
	SQUASH_BYTES = 1 << 20,
	SQUASH_CUT_BYTES = 64 << 10,
};

static void drained(struct nf_io *io)
{
	struct nf_vnode *vn = io->ctx;
	struct nf_vault *v = vn->v;

	nf_lock_take(&v->ns);
	/* Of a file whose last name went meanwhile the cut wants nothing any more. */
	bool done = io->error == 0 || vn->orphan;
	vn->cut_failed = done ? 0 : io->error;
	vn->cut_running = false;
	v->flushing--;
	if (done) {
		NF_ASSERT(v->frozen && v->frozen->undrained > 0);
		vn->in_cut = false;
		v->frozen->undrained--;
		if (!nf_is_dirty(&vn->ic) && nf_avl_empty(&vn->acc))
			nf_vnode_clean(vn);
		nf_vnode_put(vn);
	}
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
}

enum { FLUSH_BATCH = 256 };

/* The next files of the cut that have no flush running, marked as having one.  Their references are the cut's. */
static unsigned next_to_flush(struct nf_vault *v, struct nf_vnode *next[FLUSH_BATCH])
{
	unsigned nr = 0;

	NF_ASSERT(nf_lock_held(&v->ns));
	nf_list_for_each(vn, &v->dirty_list, struct nf_vnode, dirty) {
		if (!vn->in_cut || vn->cut_running || vn->cut_tried)
			continue;
		vn->cut_running = vn->cut_tried = true;
		vn->cut_io = (struct nf_io){ .ic = &vn->ic, .done = drained, .ctx = vn };
		next[nr++] = vn;
		if (nr == FLUSH_BATCH)
			break;
	}
	v->flushing += nr;
	return nr;
}

/* Starts the flush of each file of the cut that has none running.  Takes and drops ns. */
static void flush_all(struct nf_vault *v)
{
	struct nf_vnode *next[FLUSH_BATCH];
	unsigned nr;

	do {
		nf_lock_take(&v->ns);
		nr = next_to_flush(v, next);
		nf_lock_drop(&v->ns);
		for (unsigned i = 0; i < nr; i++)
			nf_group_flush(&next[i]->cut_io, next[i]->cut_group);
	} while (nr);
}

size_t nf_cut_ops_max_bytes(const struct nf_vault *v)
{
	return (size_t)NF_MIN((uint64_t)CUT_OPS_BYTES, atomic_load(&v->store->max_put_bytes) / 2);
}

/* There is nothing in the cut, nor has anything come since. */
static void undo(struct nf_vault *v)
{
	NF_ASSERT(nf_lock_held(&v->ns) && v->frozen->nr_ops == 0 && v->current->nr_ops == 0);
	nf_epoch_free(v->current);
	v->current = nf_steal(&v->frozen);
}

/* Where the next epoch's frames go: into a segment of their own, so that the frozen one's can be trimmed; without room for
 * one they share the newest, which stays then. */
static uint64_t segment_of_next(struct nf_vault *v)
{
	uint64_t segment;

	return nf_journal_rotate(v->journal, &segment) == 0 ? segment : nf_journal_newest(v->journal);
}

/* What is stored can go while the rest is. */
static void send_stored(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	nf_list_for_each(vn, &v->dirty_list, struct nf_vnode, dirty)
		nf_ahead_cut(vn);
	nf_lock_drop(&v->ns);
}

/* Worth trying where there are at least MIN_BYTES of operations, and TIMES as many as the last time left. */
static int squash(struct nf_vault *v, unsigned times, size_t min_bytes)
{
	nf_lock_take(&v->ns);
	const struct nf_epoch *e = v->current;
	bool much = e && e->ops.len >= min_bytes && e->ops.len > times * e->squashed_bytes;
	nf_lock_drop(&v->ns);
	return much ? nf_squash_current(v) : 0;
}

int nf_cut(struct nf_vault *v)
{
	struct nf_epoch *now;
	size_t max = nf_cut_ops_max_bytes(v);

	nf_lock_take(&v->ns);
	bool have = v->frozen != NULL;
	bool shelved = v->nr_shelf > 0;
	bool nothing = !v->current || (nf_list_empty(&v->dirty_list) && v->current->nr_ops == 0);
	nf_lock_drop(&v->ns);
	bool large;
	if (!have && shelved) {
		int r = nf_unshelve(v);
		return r < 0 ? r : 1;
	}
	if (have || nothing)
		return have;
	(void)squash(v, 1, SQUASH_CUT_BYTES); /* only for less to send */
	nf_lock_take(&v->ns);
	large = v->current->ops.len > max;
	nf_lock_drop(&v->ns);
	if (large) {
		int r = nf_split(v, max);
		if (r != -EAGAIN)
			return r < 0 ? r : 1;
	}
	send_stored(v);
	/* What the next epoch appends comes after this. */
	uint64_t segment = segment_of_next(v);
	nf_lock_take(&v->ns);
	/* Its base becomes the frozen epoch's own head; see nf_adopt(). */
	int made = nf_epoch_new(v->current->seq + 1, &v->current->base_root, &now);
	if (made < 0) {
		nf_lock_drop(&v->ns);
		return made;
	}
	now->first_segment = segment;
	v->frozen = v->current;
	v->current = now;
	v->dirty_since_ns = 0;
	v->want_commit = false; /* whatever was wanted until now is in it */
	unsigned files = 0;
	nf_list_for_each_safe(vn, &v->dirty_list, struct nf_vnode, dirty) {
		uint64_t g = nf_group_close(&vn->ic);
		if (g == 0 && nf_avl_empty(&vn->acc)) {
			nf_vnode_clean(vn);
			if (!vn->refs) {
				vn->refs++;
				nf_vnode_put(vn);
			}
			continue;
		}
		vn->cut_group = g;
		vn->in_cut = true;
		vn->cut_tried = false;
		vn->refs++;
		v->frozen->undrained++;
		files++;
	}
	bool empty = v->frozen->nr_ops == 0 && files == 0;
	if (empty) {
		undo(v);
	} else {
		nf_trace(COMMIT, "cut seq=%" PRIu64 " ops=%u files=%u", v->frozen->seq, v->frozen->nr_ops,
			 files);
	}
	nf_lock_drop(&v->ns);
	return !empty;
}

/* What could not be stored of VN now is left to the next cut; its names are in this one, and everything of other files. */
static void leave_out(struct nf_vnode *vn)
{
	struct nf_vault *v = vn->v;

	NF_ASSERT(nf_lock_held(&v->ns));
	nf_trace(COMMIT, "left out of the cut ino=%" PRIx64 " err=%s", vn->ino, nf_error_name(vn->cut_failed));
	v->left_seq = v->frozen->seq;
	v->left_error = vn->cut_failed;
	if (!v->dirty_since_ns)
		v->dirty_since_ns = nf_clock_ns();
	v->frozen->undrained--;
	vn->in_cut = false;
	vn->cut_group = 0;
	vn->cut_failed = 0;
	nf_vnode_put(vn);
}

int nf_cut_drain(struct nf_vault *v)
{
	int r = 0;

	nf_lock_take(&v->ns);
	nf_list_for_each(vn, &v->dirty_list, struct nf_vnode, dirty)
		vn->cut_tried = false;
	nf_lock_drop(&v->ns);
	flush_all(v);
	nf_lock_take(&v->ns);
	while (v->flushing > 0)
		nf_cond_wait(&v->changed, &v->ns);
	uint64_t left_before = v->left_seq;
	nf_list_for_each_safe(vn, &v->dirty_list, struct nf_vnode, dirty) {
		if (!vn->in_cut || !vn->cut_failed)
			continue;
		r = vn->cut_failed;
		leave_out(vn);
	}
	NF_ASSERT(v->frozen && v->frozen->undrained == 0);
	if (r < 0 && v->frozen->nr_ops == 0 && v->current->nr_ops == 0) {
		/* The dot is not made of it: whoever waits for it goes on waiting. */
		undo(v);
		v->left_seq = left_before;
	}
	nf_lock_drop(&v->ns);
	return r;
}

/* --- without a cut ------------------------------------------------------------------- */

static void stored(struct nf_io *io) { nf_completion_set(io->ctx); }

/* Flushes VN, to which the caller has a reference, and waits. */
static int store_file(struct nf_vnode *vn)
{
	struct nf_completion done;
	struct nf_io io = { .ic = &vn->ic, .done = stored, .ctx = &done };
	int r = nf_completion_init(&done);

	if (r < 0)
		return r;
	nf_fsync(&io);
	nf_completion_wait(&done);
	nf_completion_deinit(&done);
	return io.error;
}

/* The first file of the list that may hold something, now its last, with a reference.  It stays on the list: whoever asks
 * meanwhile whether everything was sent must see it. */
static struct nf_vnode *first_dirty(struct nf_vault *v)
{
	struct nf_vnode *vn;

	NF_ASSERT(nf_lock_held(&v->ns));
	if (nf_list_empty(&v->dirty_list))
		return NULL;
	vn = nf_list_first(&v->dirty_list, struct nf_vnode, dirty);
	nf_list_del(&vn->dirty);
	nf_list_add_tail(&v->dirty_list, &vn->dirty);
	vn->refs++;
	return vn;
}

int nf_settle(struct nf_vault *v)
{
	size_t nr = 0;
	int first = 0;

	nf_lock_take(&v->ns);
	nf_list_for_each(vn, &v->dirty_list, struct nf_vnode, dirty)
		nr++;
	for (; nr > 0; nr--) {
		struct nf_vnode *vn = first_dirty(v);
		if (!vn)
			break;
		nf_lock_drop(&v->ns);
		int r = store_file(vn);
		if (r < 0 && first == 0)
			first = r;
		nf_lock_take(&v->ns);
		if (!nf_is_dirty(&vn->ic) && nf_avl_empty(&vn->acc))
			nf_vnode_clean(vn);
		nf_vnode_put(vn);
	}
	v->dirty_since_ns = nf_list_empty(&v->dirty_list) ? 0 : nf_clock_ns();
	nf_lock_drop(&v->ns);
	int r = nf_vault_journal(v, false);
	/* However much is done: what is kept of it is twice what survives. */
	if (r == 0 && squash(v, 2, SQUASH_BYTES) == 1)
		nf_journal_let_go(v);
	if (r == 0)
		nf_shelve(v);
	return first < 0 ? first : r;
}
