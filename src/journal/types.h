/* journal/types.h - the structs; for src/journal only. */
#ifndef NF_JOURNAL_TYPES_H
#define NF_JOURNAL_TYPES_H

#include "base/buf.h"
#include "base/list.h"
#include "base/lock.h"
#include "journal/journal.h"

/* I set before publication, then never changed;  l the journal's lock;  t the turn's holder's */
struct nf_segment {
	struct nf_list link;	/* l */
	uint64_t number;	/* I */
	struct nf_file *file;	/* I */
	uint64_t written_bytes; /* l  whole frames in the file, from its start on */
	uint64_t durable_bytes; /* l  known to survive a power cut; <= written */
	uint64_t next_frame;	/* l  written by the turn's holder */
	bool torn;		/* t  bytes of a frame that failed may lie behind, now or after a power cut */
	unsigned readers;	/* l */
	bool trimmed;		/* l  off the list; the last reader frees it */
};

/* I never changed;  l lock;  t the turn's holder's */
struct nf_journal {
	struct nf_lock lock;
	struct nf_cond changed;		   /* l  turn given up, sync ended */
	char *dir;			   /* I */
	const struct nf_file_ops *files;   /* I */
	const struct nf_journal_seal_ops *seal; /* I */
	void *seal_ctx;			   /* I */
	uint64_t segment_bytes;		   /* I */
	struct nf_room *room;		   /* I  NULL: none */
	struct nf_list segments;	   /* l  oldest first; the last is written to */
	bool turn;			   /* l  a thread appends, rotates or trims */
	bool syncing;			   /* l  a thread is in fdatasync */
	int error;			   /* l  of the first sync that failed */
	uint8_t chain[NF_JOURNAL_TAG];	   /* t  tag of the last O or M frame */
	struct nf_buf sealed;		   /* t */
};

/* journal.c: without a segment. */
int nf_journal_new(const struct nf_journal_options *o, struct nf_journal **out);

/* segment.c */
int nf_segment_open(struct nf_journal *j, uint64_t number, int flags, struct nf_segment **out);
void nf_segment_free(struct nf_segment *s, const struct nf_file_ops *files);
/* A new, empty segment on disk with a durable name and its S frame. */
int nf_segment_make(struct nf_journal *j, uint64_t number, struct nf_segment **out);
int nf_segment_unlink(struct nf_journal *j, uint64_t number);
/* Writes a frame behind the written part of S; the payload is the pieces.  The
 * turn's holder; no lock held.  On failure S is as it was. */
int nf_segment_append(struct nf_journal *j, struct nf_segment *s, char kind,
		      const struct iovec *iov, int nr, uint64_t synced_bytes);

/* S ends with its last frame, durably: only then another may follow it.  The turn's holder; no lock held. */
int nf_segment_end(struct nf_journal *j, struct nf_segment *s);

/* journal.c: the oldest segment with at least this number, kept open until put; what is written of it.  NULL: none. */
struct nf_segment *nf_segment_from(struct nf_journal *j, uint64_t number, uint64_t *written_bytes);
void nf_segment_put(struct nf_journal *j, struct nf_segment *s);

/* scan.c: fills j->segments from the directory, replays them and cuts the tail. */
int nf_journal_scan(struct nf_journal *j, const struct nf_journal_options *o);
/* The first damage: *FIRST is valid up to written_bytes only, and those behind it do not count; NULL: none.  *GAP: segments behind
 * those in the list are there, but not the next. */
int nf_journal_find_damage(struct nf_journal *j, const struct nf_journal_options *o, struct nf_segment **first, bool *gap);
/* "0123456789abcdef.seg"; anything else in the directory is not ours. */
bool nf_segment_number(const char *name, uint64_t *number);
/* 0 if the first WRITTEN bytes are valid frames to the end. */
int nf_segment_check(struct nf_file *file, uint64_t written_bytes);

#endif
