/* vault/space.c - nothing is accepted for which there is no room on the disk.
 *
 *	call -> what may it come to write? -> taken from the account (aio/room.h) -> its handler runs -> given back
 *	             |  there is not so much                                          what it left is owed:
 *	             v                                                                  dirty blocks, until they are in the journal
 *	        in line (off the FUSE thread)                                           operations, until their records are
 *	             |  the line's thread: the cache gives way; then, while something
 *	             |  goes to the server, a commit is wanted and waited for
 *	             +--> room: the handler runs     none, and nothing comes forward any more: ENOSPC
 *
 * So everything that was accepted finds room when it is written back.  Others may fill the disk all the same: then write-back
 * fails, is tried again, and fsync says so.
 *
 * Waiting is bounded by time without progress (room_wait_ms): progress is what reached the server, a commit that was confirmed,
 * a journal that became shorter.  Where none can be expected - no server, `sync=manual`, nothing of ours left to send, or somebody
 * has just waited in vain - a caller is told at once.  The line is served in order, so small writers cannot starve a large one; who
 * gives room back does not queue behind who takes it, and may use half of the spare room.
 *
 * Locks: the line is under ns; the account's lock is a leaf.  No lock is held while the disk is asked. */
#include "vault/space.h"

#include "aio/thread.h"
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/trace.h"
#include "vault/calls.h"
#include "vault/commit.h"

#include <fcntl.h>
#include <linux/falloc.h>

enum {
	/* What the records of one call take at most, names and values included, with the inode's other changes. */
	RECORD_BYTES = 16 << 10,
	FREEING_BYTES = 4 << 10,
	/* A block's reference in an operation, twice: a squashed form is written beside the old one. */
	REF_BYTES = 128,
	/* Of dirty blocks: what sealing, frames and references add, for blocks of 4 KiB and more. */
	DATA_SHARE = 16,
	LOOK_MS = 50,
	NEW_RECORD_BYTES = 256,
};

/* --- what a call may come to write ---------------------------------------------------------- */

static uint64_t block_bytes_of(const struct nf_vault *v, const struct nf_call *c)
{
	return UINT64_C(1) << (c->file && c->file->vn ? c->file->vn->block_shift : v->block_shift);
}

static uint64_t blocks(uint64_t pos, uint64_t len, uint64_t unit)
{
	return (pos % unit + len + unit - 1) / unit * unit;
}

static uint64_t with_share(uint64_t bytes) { return bytes + bytes / DATA_SHARE; }

/* A small file that grows is written again as a block: one more. */
static uint64_t cost_of_write(const struct nf_vault *v, const struct nf_call *c)
{
	uint64_t unit = block_bytes_of(v, c);

	return with_share(blocks(c->offset % unit, c->size, unit) + unit) + RECORD_BYTES;
}

static uint64_t cost_of_fallocate(const struct nf_vault *v, const struct nf_call *c, enum nf_room_use *use)
{
	if (c->mode & FALLOC_FL_PUNCH_HOLE)
		*use = NF_ROOM_FREE;
	/* The blocks at its edges. */
	return with_share(2 * block_bytes_of(v, c)) + RECORD_BYTES;
}

static uint64_t cost_of_copy(const struct nf_vault *v, const struct nf_call *c)
{
	uint64_t most = UINT64_C(1) << 30; /* what one call copies */

	return (NF_MIN(c->size, most) / block_bytes_of(v, c) + 1) * REF_BYTES + RECORD_BYTES;
}

/* 0: nothing.  The block at the new end of a truncated file may be of any size: the spare room is larger. */
static uint64_t cost(const struct nf_vault *v, const struct nf_call *c, enum nf_room_use *use)
{
	*use = NF_ROOM_WRITE;
	switch ((int)c->op) {
	case NF_CALL_WRITE:
		return cost_of_write(v, c);
	case NF_CALL_FALLOCATE:
		return cost_of_fallocate(v, c, use);
	case NF_CALL_COPY_RANGE:
		return cost_of_copy(v, c);
	case NF_CALL_MKNOD:
	case NF_CALL_MKDIR:
	case NF_CALL_SYMLINK:
	case NF_CALL_LINK:
	case NF_CALL_CREATE:
	case NF_CALL_TMPFILE:
		return RECORD_BYTES;
	case NF_CALL_SETXATTR:
		return RECORD_BYTES + 2 * c->size;
	case NF_CALL_SETATTR:
		if (!(c->mask & NF_SET_SIZE))
			return RECORD_BYTES;
		*use = NF_ROOM_FREE;
		return with_share(block_bytes_of(v, c)) + FREEING_BYTES;
	case NF_CALL_OPEN:
		*use = NF_ROOM_FREE;
		return c->flags & O_TRUNC ? FREEING_BYTES : 0;
	case NF_CALL_UNLINK:
	case NF_CALL_RMDIR:
	case NF_CALL_RENAME: /* into the trash, or over what it replaces */
	case NF_CALL_REMOVEXATTR:
		*use = NF_ROOM_FREE;
		return FREEING_BYTES;
	default:
		return 0;
	}
}

/* --- the account ------------------------------------------------------------------------------ */

static uint64_t records_of(const struct nf_epoch *e)
{
	if (!e)
		return 0;
	size_t from = e->reset ? 0 : NF_MIN(e->journaled_bytes, e->ops.len);
	return from < e->ops.len ? e->ops.len - from + NEW_RECORD_BYTES : 0;
}

void nf_space_note(struct nf_vault *v)
{
	if (v->room)
		nf_room_owe(v->room, NF_ROOM_RECORDS,
			    records_of(v->current) + records_of(v->frozen) + v->acc_refs * REF_BYTES);
}

static void note_data(struct nf_vault *v)
{
	struct nf_netfs_stats st;

	nf_netfs_stats(v->lib, &st);
	nf_room_owe(v->room, NF_ROOM_DATA, with_share(st.dirty_box_bytes));
}

static bool try(struct nf_run *run)
{
	struct nf_vault *v = run->v;

	note_data(v);
	run->room_taken = nf_room_take(v->room, run->room_use, run->room_bytes);
	return run->room_taken;
}

static bool try_known(struct nf_run *run)
{
	run->room_taken = nf_room_take_known(run->v->room, run->room_use, run->room_bytes);
	return run->room_taken;
}

void nf_space_tidy(struct nf_vault *v)
{
	if (v->room)
		note_data(v);
	if (v->cache)
		(void)nf_cache_tidy(v->cache); /* what could not go goes on counting */
}

void nf_space_leave(struct nf_run *run)
{
	if (run->room_taken)
		nf_room_give(run->v->room, run->room_bytes);
	run->room_taken = false;
}

/* What is written comes out of min_free only where the cache has nothing left to give: it is told to now and then, not
 * by who writes. */
static void tidy_soon(struct nf_vault *v)
{
	uint64_t now = nf_clock_ns(), at = atomic_load(&v->room_tidied_ns);

	if (!v->room_evicts || !v->room_runs || now < at + LOOK_MS * NF_NS_PER_MS || !nf_room_is_short(v->room, v->min_free_bytes) ||
	    !atomic_compare_exchange_strong(&v->room_tidied_ns, &at, now))
		return;
	nf_lock_take(&v->ns);
	v->room_tidy = true;
	nf_cond_broadcast(&v->room_wake);
	nf_lock_drop(&v->ns);
}

/* --- the line ---------------------------------------------------------------------------------- */

static void refuse(struct nf_run *run)
{
	nf_count(NF_C_SPACE_REFUSED, 1);
	nf_run_end(run, nf_fail(-NF_E_FULL));
}

bool nf_space_enter(struct nf_run *run)
{
	struct nf_vault *v = run->v;
	struct nf_call *c = run->call; /* nobody else has RUN yet */

	if (v->room && c->op == NF_CALL_STATFS)
		nf_room_ask(v->room);
	run->room_bytes = v->room ? cost(v, c, &run->room_use) : 0;
	if (run->room_bytes == 0)
		return true;
	bool line = atomic_load(&v->room_line) > 0 && run->room_use == NF_ROOM_WRITE;
	bool had = !line && try(run);
	tidy_soon(v);
	if (had)
		return true;
	if (!v->room_runs) {
		nf_space_tidy(v);
		if (try(run))
			return true;
		refuse(run);
		return false;
	}
	int r = nf_call_keep_data(c);
	if (r < 0) {
		nf_run_end(run, r);
		return false;
	}
	nf_count(NF_C_SPACE_WAITS, 1);
	nf_lock_take(&v->ns);
	bool given_up = run->room_given_up;
	if (!given_up) {
		run->room_since_ns = nf_clock_ns();
		nf_list_add_tail(&v->room_waiters, &run->waiting);
		atomic_fetch_add(&v->room_line, 1);
		nf_cond_broadcast(&v->room_wake);
	}
	nf_lock_drop(&v->ns);
	if (given_up)
		nf_run_end(run, -EINTR);
	return false;
}

static void leave_line(struct nf_run *run) NF_REQUIRES(run->v->ns)
{
	nf_list_del(&run->waiting);
	run->room_since_ns = 0;
	atomic_fetch_sub(&run->v->room_line, 1);
}

void nf_space_interrupt(struct nf_vault *v, struct nf_call *c)
{
	nf_lock_take(&v->ns);
	nf_lock_take(&v->run_lock);
	struct nf_run *run = c->fs_priv[0];
	bool mine = run && run->call == c && run->room_since_ns;
	if (run && run->call == c)
		run->room_given_up = true; /* it may be on its way into the line */
	nf_lock_drop(&v->run_lock);
	if (mine)
		leave_line(run);
	nf_lock_drop(&v->ns);
	if (mine)
		nf_run_end(run, -EINTR);
}

/* Is something on its way to the server, so that its journal can go, or is that going just now? */
static bool drains(struct nf_vault *v) NF_REQUIRES(v->ns)
{
	if (v->letting_go)
		return true;
	if (v->away || v->stopping || !v->committer_runs)
		return false;
	return (!v->manual || v->committing) && nf_commit_target(v) != 0;
}

/* Has anything come forward since the last time? */
static bool progress(struct nf_vault *v) NF_REQUIRES(v->ns)
{
	uint64_t journal = nf_journal_size(v->journal);
	bool any = v->confirmed_seq != v->room_seen.confirmed_seq || v->sent_bytes != v->room_seen.sent_bytes ||
		   journal < v->room_seen.journal_bytes;

	v->room_seen.confirmed_seq = v->confirmed_seq;
	v->room_seen.sent_bytes = v->sent_bytes;
	v->room_seen.journal_bytes = journal;
	return any;
}

/* Who has waited long enough, or for nothing; *IN_VAIN: though there was hope. */
static bool is_over(const struct nf_vault *v, const struct nf_run *run, bool hope, bool *in_vain)
{
	uint64_t since = NF_MAX(run->room_since_ns, v->room_progress_ns);

	if (!hope || v->room_in_vain || !nf_room_could(v->room, run->room_bytes))
		return true;
	if (nf_clock_ns() < since + v->room_wait_ms * NF_NS_PER_MS)
		return false;
	*in_vain = true;
	return true;
}

/* The disk was asked; HOPED: before that, it was on its way.  Takes those that found room to GO, those that will not to END. */
static void serve_locked(struct nf_vault *v, bool hoped, struct nf_list *go, struct nf_list *end) NF_REQUIRES(v->ns)
{
	bool blocked = false, in_vain = false;

	if (progress(v)) {
		v->room_progress_ns = nf_clock_ns();
		v->room_in_vain = false;
	}
	bool hope = (hoped || drains(v)) && !v->room_stopping;
	nf_list_for_each_safe(run, &v->room_waiters, struct nf_run, waiting) {
		bool had = !(blocked && run->room_use == NF_ROOM_WRITE) && try_known(run);
		if (!had && !is_over(v, run, hope, &in_vain)) {
			blocked = true;
			continue;
		}
		leave_line(run);
		nf_list_add_tail(had ? go : end, &run->waiting);
	}
	v->room_in_vain |= in_vain;
	if (!nf_list_empty(&v->room_waiters) && !v->manual) {
		v->want_commit = true;
		nf_cond_broadcast(&v->changed);
	}
}

static void *line_main(void *arg)
{
	struct nf_vault *v = arg;
	struct nf_list go, end;

	nf_lock_take(&v->ns);
	while (!v->room_stopping || !nf_list_empty(&v->room_waiters)) {
		if (nf_list_empty(&v->room_waiters) && !v->room_tidy) {
			nf_cond_wait(&v->room_wake, &v->ns);
			continue;
		}
		v->room_tidy = false;
		bool hoped = drains(v);
		nf_lock_drop(&v->ns);
		if (v->room_evicts)
			nf_space_tidy(v);
		else
			note_data(v);
		nf_room_ask(v->room);
		nf_list_init(&go);
		nf_list_init(&end);
		nf_lock_take(&v->ns);
		serve_locked(v, hoped, &go, &end);
		nf_lock_drop(&v->ns);
		nf_list_for_each_safe(run, &go, struct nf_run, waiting) {
			nf_list_del(&run->waiting);
			nf_run_again(run);
		}
		nf_list_for_each_safe(run, &end, struct nf_run, waiting) {
			nf_list_del(&run->waiting);
			refuse(run);
		}
		nf_lock_take(&v->ns);
		if (!nf_list_empty(&v->room_waiters) && !v->room_stopping)
			nf_cond_wait_until(&v->room_wake, &v->ns, nf_clock_ns() + LOOK_MS * NF_NS_PER_MS);
	}
	nf_lock_drop(&v->ns);
	return NULL;
}

uint64_t nf_space_left(struct nf_vault *v)
{
	if (!v->room || (!v->away && !v->manual))
		return UINT64_MAX;
	return nf_room_left(v->room);
}

/* --- life ------------------------------------------------------------------------------------------ */

int nf_space_init(struct nf_vault *v)
{
	int r = nf_room_new(v->files, v->state_path, &v->room);

	if (r < 0 || !v->cache)
		return r;
	v->room_evicts = nf_room_same_disk(v->room, v->cache_path);
	if (v->room_evicts)
		nf_cache_share(v->cache, v->room);
	return 0;
}

int nf_space_start(struct nf_vault *v)
{
	int r = v->room ? nf_thread_start(&v->room_thread, "nf-room", line_main, v) : 0;

	v->room_runs = v->room && r == 0;
	return r;
}

void nf_space_stop(struct nf_vault *v)
{
	if (!v->room_runs)
		return;
	nf_lock_take(&v->ns);
	v->room_stopping = true;
	nf_cond_broadcast(&v->room_wake);
	nf_lock_drop(&v->ns);
	pthread_join(v->room_thread, NULL);
	v->room_runs = false;
}

void nf_space_deinit(struct nf_vault *v)
{
	nf_room_free(v->room);
	v->room = NULL;
}
