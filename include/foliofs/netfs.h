/* foliofs/netfs.h - the network filesystem library.
 *
 * What it is: a page cache of multi-page folios with region lists and flush groups,
 * and the requests that move blocks between it and wherever a filesystem keeps them.
 * A filesystem embeds a struct nf_ictx in its inode, gives a table of operations, and
 * points its read, write, truncate, fallocate and fsync at the functions below.
 *
 * What it is not: it knows no names, no attributes but the size, no protocol and no
 * format.  It never touches FUSE.
 *
 * The words are those of David Howells' netfs RFC (docs/rfc.md):
 *   region   an exact byte range that was modified, with a bounding box rounded to
 *            blocks; it is also the lock that keeps overlapping writers apart
 *   group    regions that become visible together; groups of an inode in order
 *   request  one preparation (gather, compress, encrypt) of blocks, or one read of them
 *   stream   one destination of a write request
 *   subrequest  one piece of a request or stream, one call of the filesystem's
 *
 * Calls complete later: the caller embeds a struct nf_io, `done` is called exactly once,
 * possibly before the call returns, on any thread, with no lock of the library's held.
 * No call ever waits for the filesystem's I/O on the calling thread.
 *
 * Errors are codes of foliofs/error.h. */
#ifndef FOLIOFS_NETFS_H
#define FOLIOFS_NETFS_H

#include "foliofs/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <time.h>

/* What is declared here is what the shared library shows. */
#pragma GCC visibility push(default)

enum {
	NF_PAGE_BYTES = 4096,
	NF_FOLIO_MAX_BYTES = 2 << 20,
	NF_BLOCK_MAX_BYTES = 4 << 20,
	NF_STREAMS_MAX = 4,
	NF_BLOCK_COOKIE_BYTES = 96,
	NF_IO_IOV_MAX = 80,
};

struct nf_netfs; /* one instance of the library */
struct nf_ictx;
struct nf_rreq;
struct nf_wreq;
struct nf_subreq;

struct nf_netfs_options {
	size_t memory_bytes;       /* hard limit of folio memory and buffers; 0: 64 MiB */
	unsigned codec_threads;    /* 0: one per core */
	uint32_t write_back_ms;    /* a dirty region older than this is flushed; 0: 5,000 */
	size_t read_ahead_bytes;   /* greatest window of a sequential reader; 0: 64 MiB, and never
				    * more than half of memory_bytes */
	size_t request_bytes;      /* plain bytes of one request at most; 0: 4 MiB */
	uint32_t block_max_bytes;  /* blocks are never larger: memory of four of them is enough then; 0: a sixteenth of
				    * memory_bytes */
	uint32_t retry_ms;         /* first wait before a failed inode is stored again, then doubled up to 300 times
				    * this; a subrequest told "later" waits a twentieth first; 0: 100 */
};
/* Starts an instance with threads of its own; *OUT is the caller's, until nf_netfs_free().  O is read during the call.
 * -ENOMEM, -EAGAIN (no thread). */
int nf_netfs_new(const struct nf_netfs_options *o, struct nf_netfs **out);
/* Ends the threads.  All inode contexts must be gone.  NULL allowed.  Blocks shortly; not from a callback. */
void nf_netfs_free(struct nf_netfs *lib);

/* --- blocks, as filesystem and library exchange them ------------------------------- */

/* One block of a request.  `index` counts blocks of the file.
 *
 * Reading: issue_read fills, for each block of its subrequest, either hole = true, or sealed/sealed_len
 * (memory that stays valid until the request's cleanup; with `owned` the library frees it) with cookie for
 * decrypt_block to use; plain_len says how many bytes the block holds at most (zeros follow).
 * Without a decrypt_block operation sealed is the plaintext itself.
 *
 * Writing: the library fills plain/plain_len (stable until the request ends); compress_block and
 * encrypt_block turn it into sealed/sealed_len/cookie. Without encrypt_block sealed is plain. */
struct nf_block {
	uint64_t index;
	uint32_t plain_len;
	bool hole;
	bool owned;
	bool compressed; /* set by compress_block */
	bool copy_to_cache; /* reading: set by issue_read if the block is worth a place in the cache, see nf_wreq_is_copy() */
	void *plain;
	void *sealed;
	uint32_t sealed_len;
	_Alignas(8) uint8_t cookie[NF_BLOCK_COOKIE_BYTES]; /* the filesystem's */
};

enum nf_subreq_dir { NF_SUBREQ_READ, NF_SUBREQ_WRITE };

struct nf_subreq {
	enum nf_subreq_dir dir;
	struct nf_ictx *ic;
	struct nf_rreq *rreq;  /* READ */
	struct nf_wreq *wreq;  /* WRITE */
	unsigned stream;       /* WRITE: which destination */
	struct nf_block *blocks;
	unsigned nr_blocks;
	bool read_ahead;       /* nobody waits for it yet */
	unsigned more_blocks;  /* READ: so many right behind are being read, too, by subrequests of their own */
	unsigned attempt;      /* 0 first */
	void *priv;            /* the filesystem's */
};
/* Ends SQ, exactly once, from any thread.  0 or negative; -NF_E_STORE_BUSY and -EAGAIN: the library
 * tries again later, with back-off.  SQ is the library's again on the call. */
void nf_subreq_terminated(struct nf_subreq *sq, int error);

/* The filesystem's slot in a request, NULL at first; valid from init_*req to the end of cleanup_*req. */
void **nf_rreq_priv(struct nf_rreq *rq);
void **nf_wreq_priv(struct nf_wreq *wq);
/* The inode a request is of. */
struct nf_ictx *nf_rreq_ictx(const struct nf_rreq *rq);
struct nf_ictx *nf_wreq_ictx(const struct nf_wreq *wq);
/* All blocks of the request, sealed; for write_stored. */
struct nf_block *nf_wreq_blocks(struct nf_wreq *wq, unsigned *nr);
/* The number of the group that the request stores a part of. */
uint64_t nf_wreq_group(const struct nf_wreq *wq);
/* A request of blocks that were only read (the RFC's semi-dirty regions): prepared as any other, but sent to optional
 * streams alone, once, without write_stored and group_stored.  It is made some time after the read, and not at all if
 * the block was changed meanwhile, or memory is short. */
bool nf_wreq_is_copy(const struct nf_wreq *wq);

/* --- groups --------------------------------------------------------------------- */

struct nf_range {
	uint64_t start;
	uint64_t end;
};

/* What a drained group changed, for group_stored. */
struct nf_group_info {
	uint64_t group;            /* number, ascending per inode from 1 */
	uint64_t least_size_bytes; /* smallest size the file had by truncation; UINT64_MAX: none */
	uint64_t size_bytes;       /* i_size when the group was closed */
	const struct nf_range *ranges; /* exact, ascending, disjoint; borrowed for the call */
	size_t nr_ranges;
	/* Made zeros (punched, or cut off by a truncation) and not written since, up to size_bytes.  Whole blocks
	 * in it are holes and were not stored; blocks of it in part were.  To apply a group: its blocks, then its
	 * holes, then its size. */
	const struct nf_range *holes;
	size_t nr_holes;
	bool appended;             /* some write was O_APPEND */
	bool page_granular;        /* some write came from a shared mapping */
};

/* --- operations of a filesystem ---------------------------------------------------- */

struct nf_netfs_ops {
	const char *name;

	/* [Optional] A request begins: make its private state.  No lock held; may fail. */
	int (*init_rreq)(struct nf_rreq *rq, struct nf_ictx *ic);
	int (*init_wreq)(struct nf_wreq *wq, struct nf_ictx *ic);
	/* [Optional] The request ends; blocks are no longer used.  Exactly once for each
	 * successful init. */
	void (*cleanup_rreq)(struct nf_rreq *rq);
	void (*cleanup_wreq)(struct nf_wreq *wq);

	/* [Required, or read_block] Starts reading the blocks of SQ as they are stored (including what was stored by
	 * write requests that completed before the call).  Called on any thread, sometimes that of a
	 * nf_read() call: must not block.  Calls may run in parallel. */
	void (*issue_read)(struct nf_subreq *sq);
	/* [Instead of issue_read] Reads one block: what issue_read does for each of its blocks.  On a codec thread; may block on
	 * the local disk, not on the network. */
	int (*read_block)(struct nf_ictx *ic, struct nf_block *b);

	/* [Optional] SEALED to plain: fills OUT with exactly b->plain_len bytes.  On a codec thread or the
	 * reading thread; may run in parallel.  -EAGAIN: the bytes were bad but better ones may be had: the
	 * request is read again, with its subrequests' `attempt` raised. */
	int (*decrypt_block)(struct nf_rreq *rq, struct nf_block *b, void *out);

	/* [Optional] On a codec thread, in parallel for different blocks.  Before they return nobody changes
	 * what b->plain points to; afterwards it may be somewhere else. */
	int (*compress_block)(struct nf_wreq *wq, struct nf_block *b);
	int (*encrypt_block)(struct nf_wreq *wq, struct nf_block *b);

	/* [Optional] Names the destinations: calls nf_wreq_add_stream() for each. Default: one stream. */
	int (*add_write_streams)(struct nf_wreq *wq);
	/* [Required to write, or write_block] Starts storing the blocks of SQ at its stream's destination. On a codec
	 * thread; may block on the local disk, not on the network. */
	void (*issue_write)(struct nf_subreq *sq);
	/* [Instead of issue_write, with one stream] Stores one block. */
	int (*write_block)(struct nf_ictx *ic, struct nf_block *b);
	/* [Optional] The request is stored at all streams that count; called before any reader can get the
	 * regions' memory dropped, so that a later issue_read must find the new blocks.  Requests of overlapping
	 * blocks call in the order they were made. Must not fail: what can fail belongs in issue_write.  A stream of
	 * which nf_wreq_stream_error() is negative may hold an older version of the blocks, which nobody may be given
	 * any more: a cache forgets them here, and what only a stand-in has is noted as yet to be sent. */
	void (*write_stored)(struct nf_wreq *wq);
	/* [Optional] A closed group has drained: called for each group that changed anything, in order, after the
	 * write_stored calls of its requests, with no lock held.  Negative: nothing was noted of it; fsync reports that, the
	 * group stays the oldest and is offered again. */
	int (*group_stored)(struct nf_ictx *ic, const struct nf_group_info *g);

	/* [Optional] May this write begin (space reserved, size limits)?  On the writer's thread; must not block. */
	int (*check_write_begin)(struct nf_ictx *ic, uint64_t pos_bytes, uint64_t len_bytes);
	/* [Optional] i_size has grown or shrunk to SIZE by a local operation.  Under the inode lock: short. */
	void (*update_i_size)(struct nf_ictx *ic, uint64_t size_bytes);
	/* [Optional] The inode got its first dirty region, or lost its last: for lists of dirty inodes.
	 * Under the inode lock: short, must not call back. */
	void (*dirty_changed)(struct nf_ictx *ic, bool dirty);
	/* [Optional] Private state of a region (credentials...). */
	int (*init_dirty_region)(struct nf_ictx *ic, void **priv);
	void (*free_dirty_region)(struct nf_ictx *ic, void *priv);
	/* [Optional] May writes with these private states share a region?  Under the inode lock: short,
	 * must not call back. */
	bool (*is_write_compatible)(struct nf_ictx *ic, void *old_priv, void *now_priv);
};

/* What a stream's failure means. */
enum nf_stream_kind {
	NF_STREAM_REQUIRED, /* the request is not stored without it: its regions become dirty again */
	NF_STREAM_OPTIONAL, /* a cache: a failure is counted, never retried */
	NF_STREAM_STANDBY,  /* durable and local: enough by itself while the required ones cannot be reached */
};
/* Streams are numbered from 0 in the order they are added.  Each is cut into subrequests of MAX_BLOCKS (0: one), tried
 * again and failing for itself: a request fails only when all its streams have come to an end.  Then
 *
 *   required          standby    the request
 *   all stored        any        is stored
 *   cannot be reached stored     is stored, and nf_wreq_stream_error() of the required one says it is not there
 *   cannot be reached failed     failed
 *   failed otherwise  any        failed
 *
 * "Cannot be reached" is -NF_E_OFFLINE, -NF_E_TIMEOUT, -ENETUNREACH, -EHOSTUNREACH or -ECONNREFUSED. What failed stays
 * dirty, is reported to fsync and tried again; only nf_discard() gives it up. */
int nf_wreq_add_stream(struct nf_wreq *wq, const char *name, enum nf_stream_kind kind,
		       unsigned max_blocks);
/* How STREAM ended; for write_stored. */
int nf_wreq_stream_error(const struct nf_wreq *wq, unsigned stream);

/* --- inode contexts --------------------------------------------------------------- */

struct nf_ictx_priv;

struct nf_ictx {
	const struct nf_netfs_ops *ops;
	struct nf_netfs *lib;
	uint64_t ino;         /* for traces */
	uint32_t block_bytes; /* a power of two, NF_PAGE_BYTES to NF_BLOCK_MAX_BYTES */
	struct nf_ictx_priv *priv;
};

/* SIZE is both the local size and what is stored; bytes at or above ZERO_POINT are known to be zeros
 * wherever they are stored (usually SIZE; 0 for a new file). */
int nf_ictx_init(struct nf_ictx *ic, struct nf_netfs *lib, const struct nf_netfs_ops *ops,
		 uint64_t ino, uint32_t block_bytes, uint64_t size_bytes, uint64_t zero_point_bytes);
/* All calls must have completed and nothing be dirty (nf_fsync or nf_discard first); waits for
 * read-ahead under way by cancelling its effect, not by blocking: DONE is called when the context is free. */
void nf_ictx_deinit(struct nf_ictx *ic, void (*done)(struct nf_ictx *ic));

/* The size in bytes with all local changes.  Any thread, takes no lock. */
uint64_t nf_i_size(const struct nf_ictx *ic);
/* Whether anything is not stored yet, and how many bytes (zeroed ranges count nothing).  As of some moment during the call; may
 * be called with the filesystem's locks held, but not from an operation that is called under the inode lock. */
bool nf_is_dirty(const struct nf_ictx *ic);
/* Writes, truncations and fallocate that come from now on wait for nf_writers_release().  True if none is at work and nothing
 * is dirty: then it stays so.  For the exchange of the version a file is made of: between looking for what was made from
 * the old one and nf_invalidate() nothing more of that may come.  Any lock of the filesystem's may be held. */
bool nf_writers_hold(struct nf_ictx *ic);
void nf_writers_release(struct nf_ictx *ic);
uint64_t nf_dirty_bytes(const struct nf_ictx *ic);

/* --- calls ------------------------------------------------------------------------ */

enum {
	NF_IO_DIRECT = 1 << 0,        /* O_DIRECT: not kept in memory; a write is stored before done */
	NF_IO_DSYNC = 1 << 1,         /* done when the data is stored and its group has drained */
	NF_IO_APPEND = 1 << 2,        /* position is taken from i_size, given back in pos_bytes */
	NF_IO_PAGE_GRANULAR = 1 << 3, /* whole pages from a mapping; exact ranges unknown */
	NF_IO_NOWAIT_AHEAD = 1 << 4,  /* read: do not read ahead */
	NF_IO_ERRORS_SEEN = 1 << 5,   /* fsync: of a descriptor that keeps errors_seen, see there */
	NF_IO_BORROWED = 1 << 6,      /* write: what iov points to is there only until nf_write() returns, which
				       * copies what it cannot take at once */
};

struct nf_io {
	/* Set by the caller. */
	struct nf_ictx *ic;
	uint64_t pos_bytes;
	uint64_t len_bytes;
	unsigned flags;
	const struct iovec *iov; /* write: borrowed until done, but see NF_IO_BORROWED */
	int nr_iov;
	void (*done)(struct nf_io *io);
	void *ctx;

	/* NF_IO_ERRORS_SEEN, set by the caller and then by the library: what the descriptor has heard of, from
	 * nf_errors_seen() at open and from fsync to fsync.  An fsync that finds everything stored still reports the
	 * last error the descriptor has not heard of. */
	uint64_t errors_seen;

	/* Results, set before done. */
	int error;
	uint64_t done_bytes;                    /* read: short only at end of file */
	struct iovec out_iov[NF_IO_IOV_MAX];    /* read: the bytes, in pinned folios or zeros */
	int nr_out_iov;

	/* The library's. */
	struct nf_io_priv *priv;
};

/* Reads up to 1 MiB; after done the caller uses out_iov and then calls nf_read_end(). Regions still being
 * written are seen as far as they have come. */
void nf_read(struct nf_io *io);
/* Lets the memory of out_iov go; once for each read that was done without an error, from any thread. */
void nf_read_end(struct nf_io *io);
/* Writes up to 4 MiB.  Every byte enters through a region.  Done when the data is in the page
 * cache (and, by flags, stored); waits (never on the calling thread) for overlapping writers, for groups that must
 * go first and for memory. */
void nf_write(struct nf_io *io); /* -ENOSPC and others from check_write_begin; -ENOMEM; with a flag also what storing says */
/* Sets the size: a region of type truncate. io->len_bytes is the new size. */
void nf_truncate(struct nf_io *io);
/* MODE as fallocate(2): 0 / KEEP_SIZE (allocation itself is a promise we cannot make: size only), PUNCH_HOLE|KEEP_SIZE,
 * ZERO_RANGE [|KEEP_SIZE]. Others -EOPNOTSUPP. */
void nf_fallocate(struct nf_io *io, int mode);
/* Closes the current group and completes when it and all before it have drained.  A group that cannot be stored
 * stays, is tried again, and fails every fsync until it is. */
void nf_fsync(struct nf_io *io);
/* Where a descriptor opened now begins: it hears of no error that came before. */
uint64_t nf_errors_seen(const struct nf_ictx *ic);
/* The last error that a descriptor has not heard of, or 0; now it has.  For a close, which waits for nothing.  Takes the inode's
 * lock as nf_is_dirty() does. */
int nf_errors_hear(const struct nf_ictx *ic, uint64_t *errors_seen);
/* Stores dirty data of [pos, pos+len) (len 0: all), without waiting for group order beyond what is needed. */
void nf_writeback_range(struct nf_io *io);

/* The barrier (the RFC's RWF_BARRIER): closes the current group. What was written so far is stored before what is
 * written from now on; nobody waits, and nothing is flushed sooner than it would be. Writes that were admitted but have
 * not completed count as written so far.  Returns the group's number, 0 if nothing is in it (and none before it is
 * undrained).  Never blocks. */
uint64_t nf_group_close(struct nf_ictx *ic);
/* Starts flushing everything up to and including group G (0: all so far) and completes when drained. */
void nf_group_flush(struct nf_io *io, uint64_t group);

/* --- invalidation ------------------------------------------------------------------ */

/* The stored content changed by other hands: clean memory in [start, end) is dropped, sizes are set, reads
 * under way are read again.  Dirty ranges stay and are laid over the new content (flush or discard first
 * for any other meaning).  Never blocks. */
void nf_invalidate(struct nf_ictx *ic, uint64_t start, uint64_t end, uint64_t size_bytes,
		   uint64_t zero_point_bytes);
/* Forgets all local modifications not yet stored (the file is removed, or the local version is given up); waiting
 * writers and fsyncs complete with ERROR (0: success). */
void nf_discard(struct nf_ictx *ic, int error);
/* Makes the folios of [start, end) uptodate in memory ahead of use; best effort. */
void nf_prefetch(struct nf_ictx *ic, uint64_t start, uint64_t end);

/* Copies what is dirty or kept of a range without I/O: true if all of [pos, pos+len) was in memory. */
bool nf_peek(struct nf_ictx *ic, uint64_t pos_bytes, void *buf, size_t len);

/* --- seen from outside --------------------------------------------------------------- */

struct nf_netfs_stats {
	size_t memory_limit_bytes;
	size_t memory_used_bytes;
	size_t dirty_bytes;
	size_t dirty_box_bytes; /* what storing it takes at most, before sealing: whole blocks */
	unsigned dirty_inodes;
	unsigned requests;
};
/* Numbers of one moment each, not all of the same.  Any thread. */
void nf_netfs_stats(struct nf_netfs *lib, struct nf_netfs_stats *out);

enum nf_map_what {
	NF_MAP_MEMORY,  /* bytes in memory, up to date; clipped to what is asked for */
	NF_MAP_REGIONS, /* regions that begin in what is asked for */
};
struct nf_map_extent {
	uint64_t start; /* bytes */
	uint64_t end;
	uint64_t group; /* REGIONS: 0: none yet */
	char state;     /* REGIONS: P, R, A, D or F */
};
/* Fills OUT with up to NR pieces of the file from FROM on, ascending by start, and says where to go on: *NEXT, UINT64_MAX at
 * the end.  Returns how many.  Of one moment; takes the inode's lock for a time that grows with NR and with what is in memory. */
size_t nf_ictx_map(struct nf_ictx *ic, enum nf_map_what what, uint64_t from, struct nf_map_extent *out,
		   size_t nr, uint64_t *next);

/* Columns of the RFC's /proc/fs/netfs/regions and /requests.  *OUT is malloc'd, the caller's. */
int nf_netfs_regions_text(struct nf_netfs *lib, char **out);
int nf_netfs_requests_text(struct nf_netfs *lib, char **out);

#pragma GCC visibility pop

#endif
