/* journal/journal.h - the log of the local delta, and home of blocks not yet on
 * the server.
 *
 * The journal is a row of segments, DIR/<16 hex digits>.seg, numbered upward.
 * Only the newest is written to.  A segment is a row of frames:
 *
 *   offset  size  field
 *        0     4  magic "FJ1" + kind ('S' start, 'D' data, 'O' operations, 'M' mark)
 *        4     4  payload length in bytes (<= NF_JOURNAL_FRAME_MAX)
 *        8     8  synced: the segment's length known durable when this was written
 *       16     8  sequence number of the frame in its segment, from 0
 *       24    16  check: two SipHash-2-4 (fixed keys) over the header (0..24)
 *                 and, except for D frames, the payload - torn-write detection only
 *       40     -  payload, then zeros up to a multiple of 8
 *
 * D payloads are sealed blocks, as they will go to the server; they authenticate
 * themselves.  O and M payloads are sealed by the owner through the table below
 * and chained: the associated data of each holds the tag of the one before, so a
 * frame cannot be removed, exchanged or carried over from another journal.  The
 * chain goes on from segment to segment: frame 0 of each is an S frame, whose
 * payload is the tag of the last O or M frame before it (zeros for none).
 *
 * Valid: the longest prefix of frames whose headers check and whose numbers follow
 * one another.  What follows is a torn tail and is cut off at open - unless a frame
 * in it shows that bytes at the cut were durable once: then the segment is damaged.
 * So are a segment before the last (that has a frame) that is not valid to its end, an O or M payload
 * that checks but does not open (no torn write looks like that), a number left out,
 * and a chain that does not meet.  A segment of no bytes is valid.  A D frame in the part that was not known durable (beyond the
 * greatest `synced` of the valid frames) may be lost while later frames are not:
 * nf_journal_open() tells the caller where that part begins, and the caller
 * authenticates blocks it meets there; at the first that fails, it cuts there.
 *
 * Thread safe.  One thread appends at a time, the others wait for their turn; reads
 * and syncs run beside it.  No thread of its own. */
#ifndef NF_JOURNAL_JOURNAL_H
#define NF_JOURNAL_JOURNAL_H

#include "aio/file.h"
#include "aio/room.h"
#include "base/text.h"

enum {
	NF_JOURNAL_FRAME_MAX = 16 << 20,
	NF_JOURNAL_TAG = 16,
	/* A segment is ended when a frame would make it longer (a single frame may be): positions fit in 32 bits. */
	NF_JOURNAL_SEGMENT_BYTES = 512 << 20,
	NF_JOURNAL_CUT = 1, /* what replay may return */
};

struct nf_journal;

/* Where bytes of a D frame's payload are. */
struct nf_journal_pos {
	uint64_t segment;
	uint64_t offset_bytes; /* in the segment's file */
};

/* [Required] all.  CTX is the owner's.  `seal` is called by one thread at a time, in its turn to
 * append, `open` at open and by nf_journal_walk(), beside it; must not call back. */
struct nf_journal_seal_ops {
	/* Bytes sealing adds. */
	size_t overhead;
	/* OUT has room for len + overhead; TAG is the frame's own, for the chain. */
	int (*seal)(void *ctx, const uint8_t prev_tag[NF_JOURNAL_TAG], uint64_t segment,
		    uint64_t number, char kind, const void *plain, size_t len, void *out,
		    uint8_t tag[NF_JOURNAL_TAG]);
	int (*open)(void *ctx, const uint8_t prev_tag[NF_JOURNAL_TAG], uint64_t segment,
		    uint64_t number, char kind, const void *sealed, size_t len, void *out,
		    size_t *out_len, uint8_t tag[NF_JOURNAL_TAG]);
};

/* D frames of SEGMENT from UNSYNCED_FROM_BYTES on may be incomplete on disk; nf_journal_read(), and
 * nothing else, may be called on J to look.  At open NF_JOURNAL_CUT ends
 * the valid part before this frame (it is cut off); in a segment before the
 * last that is damage.  A negative return makes open fail with it and changes
 * nothing. */
typedef int nf_journal_replay_fn(void *ctx, struct nf_journal *j, uint64_t segment, char kind, const void *plain,
				 size_t len, uint64_t unsynced_from_bytes);

struct nf_journal_options {
	const char *dir;
	const struct nf_file_ops *files;
	const struct nf_journal_seal_ops *seal;
	void *seal_ctx;
	nf_journal_replay_fn *replay; /* called at open for each valid O and M frame, in order */
	void *replay_ctx;
	uint64_t segment_bytes; /* [Optional] instead of NF_JOURNAL_SEGMENT_BYTES */
	struct nf_room *room;   /* [Optional] told of what is appended; borrowed */
};

/* Opens DIR (made if missing), replays, cuts the torn tail, and starts a new
 * segment.  -NF_E_JOURNAL_BAD if a segment is damaged: nothing is changed then. */
int nf_journal_open(const struct nf_journal_options *o, struct nf_journal **out);
/* Where the first damage is, all that is valid before it stays; the damaged segment as it was, and those behind it, are in the
 * directory ASIDE then (made).  o->replay is asked whether records are valid, as at open.  Nothing is deleted: an error, or
 * a crash, leaves everything in one directory or the other.  Without damage nothing is done. */
struct nf_journal_salvaged {
	uint64_t kept_bytes;  /* of the journal */
	uint64_t aside_bytes; /* behind the damage */
};
int nf_journal_salvage(const struct nf_journal_options *o, const char *aside, struct nf_journal_salvaged *out);
/* Closes without syncing.  NULL allowed. */
void nf_journal_close(struct nf_journal *j);

/* Appends a D frame holding the N pieces one after another; *POS is where the first
 * byte stands. -ENOSPC and other disk errors leave the journal as it was. */
struct iovec;
int nf_journal_data(struct nf_journal *j, const struct iovec *iov, int nr, struct nf_journal_pos *pos);
/* Appends an O ('O') or M ('M') frame. */
int nf_journal_record(struct nf_journal *j, char kind, const void *plain, size_t len);
/* Everything appended before the call is durable when it returns 0.  Callers that
 * arrive while one sync runs share the next (group commit).  After a failed sync
 * the journal is in error: every later call returns the first error, since the
 * kernel may have dropped the pages. */
int nf_journal_sync(struct nf_journal *j);
/* Reads back bytes of a D frame; -EINVAL for a place that is not in the journal. */
int nf_journal_read(struct nf_journal *j, struct nf_journal_pos pos, void *buf, size_t len);

/* Starts a new segment; *NUMBER is its number: what is appended from now on is in it
 * or later ones. */
int nf_journal_rotate(struct nf_journal *j, uint64_t *number);
/* The number of the segment that is appended to now. */
uint64_t nf_journal_newest(struct nf_journal *j);
/* Deletes all segments below NUMBER, oldest first; the newest always stays. */
int nf_journal_trim(struct nf_journal *j, uint64_t number);
/* Reads all segments again: -NF_E_JOURNAL_BAD if a frame is not as it was written (D
 * payloads and tags are the owner's to check). */
int nf_journal_check(struct nf_journal *j);
/* All O and M frames once more, in order, as far as they are written now; the first other than 0 that REPLAY returns ends it.
 * Beside anything else but trimming. */
int nf_journal_walk(struct nf_journal *j, nf_journal_replay_fn *replay, void *ctx);
/* Bytes of all segments on disk. */
uint64_t nf_journal_size(struct nf_journal *j);
void nf_journal_to_text(struct nf_journal *j, struct nf_text *t);

#endif
