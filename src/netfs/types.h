/* netfs/types.h - what the parts of the library share.
 *
 * One lock per inode context (rank INODE) protects its regions, groups, requests and uptodate bits.
 * Work that must not run under it - I/O, copying, codec calls, callbacks - is put on a to-do list
 * (struct nf_todo) while it is held and done by nf_ic_unlock().  Each change of state is followed
 * by one pass of nf_kick_locked(), which starts whatever has become possible: there are no
 * condition variables and nobody waits on a thread.
 *
 * Three things exclude one another over the blocks they touch, each for CPU time only:
 *   writing    a writer in state A copies into folios         (nf_writer.window)
 *   gathering  a write request copies blocks out of folios    (nf_wreq in GATHERING)
 *   applying   a read request puts what came into folios      (nf_rreq in APPLYING)
 */
#ifndef NF_NETFS_TYPES_H
#define NF_NETFS_TYPES_H

#include "aio/pool.h"
#include "base/lock.h"
#include "foliofs/netfs.h"
#include "pagecache/folio.h"
#include "pagecache/group.h"
#include "pagecache/queue.h"
#include "pagecache/region.h"

#include <stdatomic.h>

enum {
	NF_READ_MAX_BYTES = 1 << 20,
	NF_WRITE_MAX_BYTES = 4 << 20,
	NF_READ_REQUEST_BYTES = 1 << 20,
	NF_WREQS_PER_INODE = 8,   /* a window for the network; memory bounds it too */
	NF_ATTEMPTS_MAX = 6,      /* of a subrequest, when the answer is "later" */
	NF_STREAMS_WATCHED = 4,   /* sequential readers told apart per inode */
};

/* I never changed;  w lock;  a atomic */
struct nf_netfs {
	struct nf_memory *mem;      /* I */
	struct nf_pool *pool;       /* I  codec pool */
	struct nf_timers *timers;   /* I */
	uint64_t write_back_ns;     /* I */
	uint64_t retry_ns;          /* I  first wait of an inode that could not be stored */
	size_t read_ahead_bytes;    /* I */
	size_t request_bytes;       /* I */
	size_t chunk_bytes;         /* I  a write is copied in pieces of this size */
	struct nf_lock lock;        /* rank WRITEBACK */
	struct nf_list all;         /* w  nf_ictx_priv.all_link */
	struct nf_list dirty;       /* w  nf_ictx_priv.dirty_link */
	struct nf_list starving;    /* w  nf_ictx_priv.starving_link: wait for memory */
	struct nf_list in_line;     /* w  nf_reader.in_line: memory does not hold them; the first has its turn */
	unsigned nr_dirty;          /* w */
	bool ticking;               /* w  the timer is armed */
	unsigned idle_ticks;        /* the tick's alone */
	bool ending;                /* w */
	struct nf_timer tick;
	struct nf_timer starved;    /* looks again, should a wake-up have been missed */
	atomic_bool pressing;       /* a  dirty inodes were told to store; until memory was freed */
	struct nf_work memory_work;
	atomic_bool memory_queued;  /* a */
	atomic_size_t dirty_bytes;  /* a */
	atomic_size_t dirty_box_bytes; /* a */
	atomic_uint nr_requests;    /* a */
	atomic_uint last_request;   /* a  for ids */
};

struct nf_stream_state { /* of a sequential reader */
	uint64_t next;      /* where it goes on */
	uint64_t ahead_to;  /* read ahead up to here */
	uint64_t window;
	uint64_t used;      /* for choosing the one to forget */
};

/* I never changed;  i lock;  a atomic;  w the library's lock */
struct nf_ictx_priv {
	struct nf_lock lock;          /* rank INODE */
	struct nf_ictx *ic;           /* I */
	struct nf_netfs *lib;         /* I */
	atomic_uint refs;             /* a  one until deinit, one per thing under way */
	void (*deinit_done)(struct nf_ictx *ic); /* set by deinit */
	struct nf_list all_link;      /* w */
	struct nf_list dirty_link;    /* w */
	struct nf_list starving_link; /* w */
	struct nf_mapping mapping;
	struct nf_region_ops region_ops; /* I */
	struct nf_list dead_privs;    /* i  nf_region_priv.link */

	_Atomic uint64_t i_size;      /* a; written under i */
	uint64_t zero_point;          /* i  stored bytes from here on are zeros */
	uint64_t inval_seq;           /* i  invalidations so far */

	struct nf_regions dirty;      /* i  D */
	struct nf_regions flushing;   /* i  F */
	struct nf_list pending;       /* i  P, FIFO */
	struct nf_list active;        /* i  R and A */
	bool held;                    /* i  nobody leaves `pending` */
	struct nf_regions copies;     /* i  CACHE_COPY, D */
	bool store_copies;            /* i */
	bool is_listed;               /* i  on the library's list of dirty inodes */
	struct nf_region_queue queue; /* i  all of both, by range */
	struct nf_list groups;        /* i  oldest first; the last may be open */
	uint64_t last_group;          /* i */
	uint64_t seq;                 /* i  of writes */
	bool is_dirty;                /* i  as told to the filesystem */
	bool draining;                /* i  group_stored is being called */
	size_t dirty_told;            /* i  bytes counted in lib->dirty_bytes */
	size_t boxes_told;            /* i  and in lib->dirty_box_bytes */

	struct nf_avl claims;         /* i  nf_claim.node: blocks of write requests */
	struct nf_list wreqs;         /* i */
	unsigned nr_wreqs;            /* i */
	uint64_t flush_to;            /* i  store all groups up to this number */
	bool pressure;                /* i  store whatever can be stored */
	uint64_t nr_errors;           /* i  so far: what descriptors count their errors_seen by */
	int last_error;               /* i */
	unsigned failures;            /* i  in a row */
	bool backing_off;             /* i  until the timer rings */
	struct nf_timer backoff;
	struct nf_list waiters;       /* i */

	struct nf_list rreqs;         /* i */
	struct nf_list readers;       /* i  waiting */
	struct nf_stream_state streams[NF_STREAMS_WATCHED]; /* i */
	uint64_t stream_clock;        /* i */
	uint64_t write_end;           /* i  of the last write, to tell sequential ones */
	uint64_t write_run;           /* i  bytes written in sequence */

	struct nf_work kick_work;
	atomic_bool kick_queued;      /* a */
	atomic_bool pressed;          /* a  memory is short: sets pressure at the next kick */
	atomic_bool aged;             /* a  the tick found it old */
	atomic_bool retry;            /* a  the time to back off is over */
};

/* What is to be done after the inode lock is dropped. */
struct nf_todo {
	struct nf_list writers;  /* nf_writer.todo: copy */
	struct nf_list issue;    /* nf_rreq.todo */
	struct nf_list apply;    /* nf_rreq.todo */
	struct nf_list wreqs;    /* nf_wreq.todo: queue on the pool */
	struct nf_list ended;    /* nf_wreq.todo: free */
	struct nf_list waiters;  /* nf_waiter.link: done */
	struct nf_list readers;  /* nf_reader.link: done */
	struct nf_list writers_done; /* nf_writer.todo */
	struct nf_group *drain;
	struct nf_writer *own;   /* runs on this thread */
};

/* Waits until stored.  `group` != 0: groups up to it have drained; otherwise nothing with
 * seq or less is left in [start, end). */
struct nf_waiter {
	struct nf_list link;
	uint64_t group;
	uint64_t start;
	uint64_t end;
	uint64_t seq;
	int error;
	struct nf_io *io;
	void (*done)(struct nf_waiter *w);
};

enum nf_writer_op { NF_OP_WRITE, NF_OP_TRUNCATE, NF_OP_ZERO, NF_OP_EXTEND };

struct nf_writer {
	struct nf_region *rg;      /* on pending or active */
	struct nf_list todo;
	struct nf_work work;
	struct nf_ictx_priv *p;
	struct nf_io *io;
	enum nf_writer_op op;
	bool keep_size;
	bool wants_flush;          /* i  pending: dirty regions in its bounds must go first */
	bool granted;              /* i  chosen to go on, on a to-do list or running */
	bool discarded;            /* i */
	bool pended;               /* i  was counted */
	bool throttled;            /* i  was counted */
	int discard_error;
	uint64_t new_size;
	uint64_t cursor;           /* committed up to here */
	uint64_t window_end;       /* state A: copying [cursor, window_end) */
	struct nf_folio **folios;  /* pinned, of the window */
	unsigned nr_folios;
	const struct iovec *iov;   /* io->iov or &kept */
	int nr_iov;
	int iov_i;                 /* where in iov the cursor is */
	size_t iov_off;
	bool borrowed;             /* what iov points to is there only while nf_write() runs */
	struct iovec kept;         /* the copy of it */
	struct nf_waiter waiter;   /* DSYNC, DIRECT */
};

struct nf_reader {
	struct nf_list link;
	struct nf_list in_line;    /* w */
	struct nf_io *io;
	int error;
	unsigned asked;            /* i  times something was missing that was not being read */
	struct nf_waiter waiter;   /* DIRECT: dirty data is stored first */
};

/* What a read needs beyond its iovecs; the library's lock does not matter once it is done. */
struct nf_io_priv {
	uint8_t *joined;           /* more pieces than a reply can have, copied together */
	struct iovec *pieces;      /* before that: pinned */
	int nr_pieces;
	uint8_t *own;              /* I  blocks read past memory, see read_own.c; NULL: none */
	uint64_t own_start;        /* I  in bytes of the file */
	bool *own_has;             /* i  per block: it is there, as it is stored now */
	unsigned nr_own;           /* I  blocks */
	unsigned nr_own_reads;     /* i  requests under way that fill it */
};

enum nf_rreq_phase { NF_RREQ_ISSUED, NF_RREQ_APPLY_WAIT, NF_RREQ_APPLYING };

struct nf_plan_op {
	enum { NF_PLAN_COPY, NF_PLAN_ZERO } kind;
	uint8_t *to;
	const uint8_t *from;
	size_t len;
};
struct nf_plan {
	struct nf_plan_op *ops;
	size_t nr;
	size_t cap;
};

struct nf_sub { /* a subrequest */
	struct nf_subreq sq;
	struct nf_timer timer;
	struct nf_work work;
	struct nf_list link;
};

struct nf_rreq {
	struct nf_list link;       /* i  p->rreqs */
	struct nf_list todo;
	struct nf_ictx_priv *p;
	struct nf_work work;
	uint32_t id;
	enum nf_rreq_phase phase;  /* i */
	bool stale;                /* i  what comes is old: read again */
	bool ahead;
	unsigned more_blocks;      /* being read by the requests made behind it */
	bool inited;               /* init_rreq succeeded */
	struct nf_wreq *fill;      /* reads into this request's blocks instead of folios */
	struct nf_reader *own;     /* reads into this reader's buffer instead of folios */
	uint64_t start;            /* I  of its blocks, in bytes */
	uint64_t end;              /* I */
	struct nf_block *blocks;   /* the filesystem's while issued */
	unsigned nr_blocks;
	struct nf_folio **folios;  /* pinned */
	unsigned nr_folios;
	int error;
	void *priv;
	struct nf_sub sub;
	uint8_t *temp;             /* one block, for blocks that are partly in memory */
	struct nf_plan plan;
	uint32_t *plan_end;        /* per block: ops before this index; equal: decode in place */
	uint8_t **in_place;        /* per block: where to decode to, or NULL */
};

enum nf_wreq_phase {
	NF_WREQ_FILLING,   /* reads what is missing of partly written blocks */
	NF_WREQ_WAITING,   /* for writers and readers to leave its blocks */
	NF_WREQ_GATHERING,
	NF_WREQ_STORING,   /* owns sealed copies */
	NF_WREQ_RESEND,    /* failed, must be sent again as it is */
};

struct nf_claim {
	struct nf_avl_node node;
	uint64_t index;
	struct nf_wreq *wreq;
	bool filled;               /* the missing bytes are in its plain buffer */
};

struct nf_wstream {
	const char *name;
	enum nf_stream_kind kind;
	unsigned max_blocks;
	int error;                 /* sub_lock, until all have ended */
	bool stored;               /* sent before, by a request that is sent again */
	struct nf_list subs;
};

struct nf_wreq {
	struct nf_list link;       /* i  p->wreqs */
	struct nf_list todo;
	struct nf_ictx_priv *p;
	struct nf_group *group;    /* i  NULL once discarded, and for copies */
	uint64_t group_number;
	struct nf_work work;
	struct nf_timer timer;
	uint32_t id;
	enum nf_wreq_phase phase;  /* i */
	bool stale;                /* i  invalidated before it was issued */
	bool unsettled;            /* i  a folio did not get what it misses: readers look at it */
	bool cancelled;            /* i  discarded */
	bool copy;                 /* I  of CACHE_COPY regions; no group */
	bool inited;
	bool prepared;             /* sealed, streams named */
	struct nf_block *blocks;
	struct nf_claim *claims;   /* those on the tree are of blocks still in it */
	unsigned nr_blocks;
	uint8_t *plain;            /* buffers of the blocks */
	void **in_place;           /* per block: where in a folio it is sealed from; NULL: from its buffer */
	size_t charged_bytes;
	enum nf_charge charge;
	unsigned nr_fills;         /* i  reads under way */
	struct nf_list regions;    /* i  F */
	struct nf_plan plan;
	struct nf_folio **folios;
	unsigned nr_folios;
	int error;
	void *priv;
	struct nf_wstream streams[NF_STREAMS_MAX];
	unsigned nr_streams;
	atomic_uint pending;       /* subrequests, and one while issuing */
	struct nf_lock sub_lock;   /* rank LEAF: error and streams' errors */
};

/* --- inode.c ---------------------------------------------------------------------------- */

void nf_ic_get(struct nf_ictx_priv *p);
void nf_ic_put(struct nf_ictx_priv *p);
/* False: it is going away. */
bool nf_ic_get_live(struct nf_ictx_priv *p);
void nf_ic_lock(struct nf_ictx_priv *p) NF_ACQUIRE(p->lock);
/* Starts what has become possible, drops the lock and does it. */
void nf_ic_unlock(struct nf_ictx_priv *p, struct nf_writer *own) NF_RELEASE(p->lock);
/* The same, with work already found while the lock was held. */
void nf_todo_init(struct nf_todo *todo);
void nf_ic_unlock_todo(struct nf_ictx_priv *p, struct nf_todo *todo) NF_RELEASE(p->lock);
/* Has a pass made on the pool. */
void nf_kick_later(struct nf_ictx_priv *p);
/* For callers that hold locks of the filesystem's: what follows is done, and called back, by the pool. */
void nf_ic_unlock_later(struct nf_ictx_priv *p) NF_RELEASE(p->lock);
/* Memory is short: this inode is told when some is freed, and dirty ones start to store. */
void nf_starve(struct nf_ictx_priv *p);
void nf_set_i_size_locked(struct nf_ictx_priv *p, uint64_t size);
static inline uint64_t nf_size(const struct nf_ictx_priv *p) { return atomic_load(&p->i_size); }
/* Whether bytes of data regions, or a running writer, lie in [start, end). */
bool nf_range_in_use_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end);
/* Folios of [start, end) that hold no dirty bytes any more become clean; with DROP they go. */
void nf_folios_recheck_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end, bool drop);
/* Reads under way in [start, end) are to be made again. */
void nf_reads_stale_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end);

static inline uint64_t nf_block_down(const struct nf_ictx_priv *p, uint64_t v)
{
	return v & ~((uint64_t)p->ic->block_bytes - 1);
}
static inline uint64_t nf_block_up(const struct nf_ictx_priv *p, uint64_t v)
{
	uint64_t b = p->ic->block_bytes;
	return v > UINT64_MAX - b ? UINT64_MAX & ~(b - 1) : (v + b - 1) & ~(b - 1);
}

/* --- lib.c */
/* Folios are being filled: the tick has something to give back one day. */
void nf_lib_memory_used(struct nf_netfs *lib);
void nf_lib_dirty_changed(struct nf_ictx_priv *p, bool dirty);

/* --- kick.c ------------------------------------------------------------------------------ */
void nf_kick_locked(struct nf_ictx_priv *p, struct nf_todo *todo);

/* --- span.c: what is known of each byte --------------------------------------------------- */

enum nf_span_kind {
	NF_SPAN_MEMORY, /* in a folio */
	NF_SPAN_ZERO,   /* known to be zeros; a folio may hold junk there */
	NF_SPAN_STORED, /* has to be read */
};
struct nf_span {
	enum nf_span_kind kind;
	uint64_t start;
	uint64_t end;
	struct nf_folio *f; /* the folio there, NULL: none; borrowed until the next call */
};
struct nf_spans {
	struct nf_ictx_priv *p;
	uint64_t pos;
	uint64_t end;
	struct nf_folio *f;
};
/* Inode lock held from start to end. */
void nf_spans_start(struct nf_spans *it, struct nf_ictx_priv *p, uint64_t start, uint64_t end);
bool nf_spans_next(struct nf_spans *it, struct nf_span *sp);
void nf_spans_end(struct nf_spans *it);
bool nf_range_has_stored_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end);
bool nf_range_all_zero_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end);

void nf_plan_add(struct nf_plan *plan, struct nf_plan_op op);
void nf_plan_run(const struct nf_plan *plan, size_t from, size_t to);
void nf_plan_deinit(struct nf_plan *plan);

/* --- group.c ------------------------------------------------------------------------------ */
/* The group that takes modifications now; NULL: the next one begins a new group. */
struct nf_group *nf_group_open_locked(struct nf_ictx_priv *p);
/* The same, made if need be. */
struct nf_group *nf_group_current_locked(struct nf_ictx_priv *p);
struct nf_group *nf_group_oldest_locked(struct nf_ictx_priv *p);
uint64_t nf_group_close_locked(struct nf_ictx_priv *p);
/* Something of G made the file SIZE bytes at least, or cut it to SIZE. What was admitted before its group was
 * closed belongs to it, and tells the groups closed since. */
void nf_group_reaches_locked(struct nf_ictx_priv *p, struct nf_group *g, uint64_t size);
void nf_group_cuts_locked(struct nf_ictx_priv *p, struct nf_group *g, uint64_t size);
void nf_drain_locked(struct nf_ictx_priv *p, struct nf_todo *todo);
void nf_group_finish(struct nf_ictx_priv *p, struct nf_group *g);
void nf_waiter_add_locked(struct nf_ictx_priv *p, struct nf_waiter *w);
void nf_waiters_check_locked(struct nf_ictx_priv *p, struct nf_todo *todo);
/* A flush of GROUP, or of [start, end), failed. */
void nf_waiters_fail_locked(struct nf_ictx_priv *p, uint64_t group, uint64_t start, uint64_t end,
			    int error);

/* --- write.c, admit.c, resize.c ------------------------------------------------------------ */
void nf_admit_locked(struct nf_ictx_priv *p, struct nf_todo *todo);
void nf_writer_submit(struct nf_writer *w);
void nf_writer_run(struct nf_writer *w);
void nf_writer_finish(struct nf_writer *w);
bool nf_writer_grab_locked(struct nf_writer *w);
/* W goes on without its caller: copies what is left of a borrowed iov. */
void nf_writer_keep_locked(struct nf_writer *w);
struct nf_writer *nf_writer_new(struct nf_io *io, enum nf_region_type type, enum nf_writer_op op,
				uint64_t start, uint64_t end);
void nf_writer_free(struct nf_writer *w);
void nf_resize_locked(struct nf_writer *w);
/* True if a running writer's window meets [start, end). */
bool nf_writing_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end);
static inline struct nf_writer *nf_writer_of(const struct nf_region *rg) { return rg->writer; }

/* --- read.c, read_issue.c, read_apply.c, read_own.c ------------------------------------------ */
void nf_readers_locked(struct nf_ictx_priv *p, struct nf_todo *todo);
void nf_reader_done(struct nf_reader *r);
/* Makes read requests for blocks of [start, end) that have to be read and are not being read.
 * How many; -ENOMEM: no memory for some of it now. */
int nf_read_missing_locked(struct nf_ictx_priv *p, struct nf_todo *todo, uint64_t start,
			   uint64_t end, bool ahead);
bool nf_being_read_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end);
/* A request that reads blocks of WQ into its buffers. */
struct nf_rreq *nf_rreq_new_fill_locked(struct nf_wreq *wq, unsigned first, unsigned nr,
					struct nf_todo *todo);
/* One that reads NR blocks from FIRST into R's buffer. */
struct nf_rreq *nf_rreq_new_own_locked(struct nf_reader *r, uint64_t first, unsigned nr, struct nf_todo *todo);
/* What comes does not go to folios. */
static inline bool nf_rreq_is_private(const struct nf_rreq *rq) { return rq->fill || rq->own; }
void nf_rreq_issue(struct nf_rreq *rq);
/* For filesystems with read_block and write_block: all of SQ, on this thread. */
void nf_subreq_blocks(struct nf_subreq *sq, int (*fn)(struct nf_ictx *ic, struct nf_block *b));
void nf_rreq_apply(struct nf_rreq *rq);
bool nf_rreq_read_again(struct nf_rreq *rq);
/* An error of [start, end) is an error of those who wait for it. */
void nf_readers_fail_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end, int error);
/* Takes RQ off the lists and tells those who wait; no lock held.  RQ is gone. */
void nf_rreq_end(struct nf_rreq *rq);
void nf_rreqs_apply_locked(struct nf_ictx_priv *p, struct nf_todo *todo);
bool nf_applying_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end);
void nf_rreq_terminated(struct nf_rreq *rq, int error);
void nf_rreq_free(struct nf_rreq *rq);
/* Whether R found memory too short so often that it asks no more until its turn has come to read past it. */
bool nf_own_is_in_line_locked(const struct nf_reader *r);
bool nf_own_turn_locked(struct nf_reader *r);
/* R is done, or fails: the next one's turn. */
void nf_own_leave_locked(struct nf_reader *r);
/* Asks for what R's buffer and memory do not have. */
void nf_own_read_locked(struct nf_reader *r, struct nf_todo *todo);
void nf_own_came_locked(struct nf_rreq *rq);
/* The end of what IO's own buffer has from POS on; POS: nothing. */
uint64_t nf_own_has_locked(const struct nf_io *io, uint64_t pos, uint64_t end);
/* What was read of [start, end) is old. */
void nf_own_stale_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end);
void nf_io_priv_free(struct nf_io *io);

/* --- writeback.c, gather.c, store.c ---------------------------------------------------------- */
void nf_flush_locked(struct nf_ictx_priv *p, struct nf_todo *todo);
/* Whether anything of G must go through a write request. */
bool nf_group_has_work_locked(struct nf_ictx_priv *p, struct nf_group *g);
struct nf_claim *nf_claim_at_locked(struct nf_ictx_priv *p, uint64_t index);
/* True if a request gathering meets [start, end). */
bool nf_gathering_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end);
/* Has what is missing read; with nothing to read, or then, WQ is in WAITING. */
void nf_wreq_fill_locked(struct nf_wreq *wq, struct nf_todo *todo);
void nf_wreq_filled_locked(struct nf_wreq *wq, const struct nf_rreq *rq);
void nf_wreqs_gather_locked(struct nf_ictx_priv *p, struct nf_todo *todo);
/* Runs on the pool, with WQ in GATHERING. */
void nf_wreq_gather(struct nf_wreq *wq);
/* Seals the blocks, from where b->plain says. */
int nf_wreq_prepare(struct nf_wreq *wq);
/* ERROR: of nf_wreq_prepare(). */
void nf_wreq_issue(struct nf_wreq *wq, int error);
void nf_wreq_sub_terminated(struct nf_wreq *wq, struct nf_sub *sub, int error);
/* WQ has no claims and regions any more and ends. */
void nf_wreq_end_locked(struct nf_wreq *wq, struct nf_todo *todo);
/* Takes block I out of WQ. */
void nf_wreq_drop_block_locked(struct nf_wreq *wq, unsigned i);
/* Regions of WQ are dirty again, its blocks free. */
void nf_wreq_redirty_locked(struct nf_wreq *wq);
void nf_wreq_failed_locked(struct nf_wreq *wq, int error);
/* No lock held. */
void nf_wreq_free(struct nf_wreq *wq);
/* An error that every open descriptor is to hear of at its next fsync. */
void nf_error_note_locked(struct nf_ictx_priv *p, int error);
/* How long a subrequest waits that was told "later" for the ATTEMPT'th time. */
static inline uint64_t nf_later_ns(const struct nf_netfs *lib, unsigned attempt)
{
	return lib->retry_ns / 20 << attempt;
}
/* The flush of an inode failed: waits longer each time before the next attempt. */
void nf_back_off_locked(struct nf_ictx_priv *p);

/* --- copy.c ------------------------------------------------------------------------------------ */
/* B was read and is in memory. */
void nf_copy_add_locked(struct nf_ictx_priv *p, const struct nf_block *b);
/* The blocks of [start, end) are not to be copied any more. */
void nf_copy_drop_locked(struct nf_ictx_priv *p, uint64_t start, uint64_t end, const char *why);
bool nf_copy_has_locked(struct nf_ictx_priv *p, uint64_t index);
/* Block INDEX has bytes, or zeros, that were changed here. */
bool nf_copy_must_not_locked(struct nf_ictx_priv *p, uint64_t index);
void nf_copy_taken_locked(struct nf_ictx_priv *p, uint64_t index);
unsigned nf_copy_pick_locked(struct nf_ictx_priv *p, uint64_t *index, unsigned max);

/* --- check.c ----------------------------------------------------------------------------------- */
/* Asserts the invariants I1-I15 of the reference as far as they are about our structures. */
void nf_ictx_check_locked(struct nf_ictx_priv *p);
void nf_ictx_check(struct nf_ictx *ic);

#endif
