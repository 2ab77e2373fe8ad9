/* foliofs/conflict.h - what becomes of local modifications when the stored file was changed by others.
 *
 * The modes of the RFC: discard them; reapply them to the new version; overwrite the new version; stash the local version
 * and take the new one.  The library says what was changed (struct nf_changes), moves the bytes and keeps the order;
 * the filesystem knows the versions, and gives its decision by the mode.
 *
 *	nf_conflict()
 *	  flush or discard what is not stored          fsync of the old version, writers go on
 *	  ops->exchange()                              the new version takes the file's place; may say "again"
 *	  reapply, overwrite, or copy to the stash     ordinary reads, writes and truncations, one flush group
 *	  done
 *
 * Nothing is lost on the way: until `done` says success the local version is where exchange() put it. */
#ifndef FOLIOFS_CONFLICT_H
#define FOLIOFS_CONFLICT_H

#include "foliofs/netfs.h"

/* What is declared here is what the shared library shows. */
#pragma GCC visibility push(default)

/* --- what was changed ---------------------------------------------------------------- */

/* The modified ranges, holes and sizes of a file since some version of it.  Not thread safe. */
struct nf_changes;

/* BASE_SIZE_BYTES: the version's size.  *OUT is the caller's.  -ENOMEM. */
int nf_changes_new(uint64_t base_size_bytes, struct nf_changes **out);
void nf_changes_free(struct nf_changes *ch); /* NULL allowed */
/* Adds what a group changed (from group_stored): groups in their order. */
void nf_changes_add(struct nf_changes *ch, const struct nf_group_info *g);
/* Whether both changed a byte, or one cut off what the other changed.  What is beyond the end of the base is not the same
 * place if one of them was appending. */
bool nf_changes_overlap(const struct nf_changes *a, const struct nf_changes *b);
/* False: what came through shared mappings is known by whole pages only, so it cannot be reapplied exactly. */
bool nf_changes_exact(const struct nf_changes *ch);

/* --- deciding it ---------------------------------------------------------------------- */

enum nf_conflict_mode {
	/* The new version. Local modifications are gone; those who wait for them get discard_error. */
	NF_CONFLICT_DISCARD,
	/* The new version with the local ranges, holes (within the version both began with) and truncation on top; the size
	 * is the larger one, or the local one if it was truncated; appended bytes go to the new end.  Where that has no meaning (not exact, or an overlap with
	 * `theirs`) it becomes STASH. */
	NF_CONFLICT_REAPPLY,
	/* The local version, whole, as a modification of the new one. */
	NF_CONFLICT_OVERWRITE,
	/* The new version; the local one goes to a file of its own. */
	NF_CONFLICT_STASH,
};

struct nf_conflict;

struct nf_conflict_ops {
	/* [Required] Puts the new version in the file's place: under a lock of the filesystem's that keeps writers out, look that
	 * !nf_is_dirty(c->ic) (otherwise return -EAGAIN: it is flushed, and you are called, again), let issue_read
	 * find the new version, call nf_invalidate(c->ic, 0, UINT64_MAX, c->size_bytes, ...), and set size_bytes and, unless
	 * the mode is DISCARD, local and changes.  On any other error nothing has happened.  On a thread of the library's, no
	 * lock held; may block on the local disk. */
	int (*exchange)(struct nf_conflict *c);
	/* [Required for REAPPLY and STASH] A new, empty file for the local version; the context stays the filesystem's. */
	int (*stash)(struct nf_conflict *c, struct nf_ictx **out);
};

struct nf_conflict_priv;

struct nf_conflict {
	/* Set by the caller; the struct is the library's until done. */
	struct nf_ictx *ic;
	enum nf_conflict_mode mode;
	int discard_error;
	const struct nf_changes *theirs; /* [Optional] what the others changed since the same version */
	const struct nf_conflict_ops *ops;
	void (*done)(struct nf_conflict *c); /* any thread, no lock held */
	void *ctx;

	/* Set by exchange(). */
	uint64_t size_bytes;              /* of the new version */
	struct nf_ictx *local;            /* reads the local version; nobody else writes to it */
	const struct nf_changes *changes; /* what makes it differ from the version both began with */

	/* Results, set before done. */
	int error;                   /* 0: the file, and the stash, hold what they should, as modifications yet to be stored */
	enum nf_conflict_mode did;   /* STASH where REAPPLY had no meaning */
	uint64_t moved_bytes;        /* written again */

	struct nf_conflict_priv *priv;
};

/* Starts it; one at a time for a file.  Writers may go on; what they write after the exchange is on top of the new version. Never
 * blocks. */
void nf_conflict(struct nf_conflict *c);

#pragma GCC visibility pop

#endif
