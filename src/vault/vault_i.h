/* vault/vault_i.h - inside the vault: structs shared by its files.
 *
 *    applications          others' commits
 *         |                      |
 *     call_*.c               look, merge (commit.c)
 *         |  operations          |  new base
 *     +---v----------------------v---+
 *     | current  epoch: layer, ops   |  epoch.c        layers[0]
 *     | frozen   epoch: layer, ops   |  commit.c       layers[1]
 *     | base     head, root          |                 the tree
 *     +-----------------------------+
 *         |  journal                 |  packs, head
 *       disk                       store
 *
 * An epoch is what one dot (writer, seq) will be.  Operations go to the current one.  A cut freezes it: its namespace
 * operations are complete at once, its data when the flush groups closed by the cut have drained.  The committer turns a frozen
 * epoch into packs and a head.  When the head is confirmed the base moves and the frozen epoch is gone.
 *
 * Lock: v->ns (rank NAMESPACE) for everything marked n; never held across I/O. */
#ifndef NF_VAULT_VAULT_I_H
#define NF_VAULT_VAULT_I_H

#include "aio/file.h"
#include "aio/pool.h"
#include "aio/room.h"
#include "base/avl.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/lock.h"
#include "foliofs/netfs.h"
#include "journal/journal.h"
#include "pagecache/rangeset.h"
#include "store/link.h"
#include "vault/apply.h"
#include "vault/fetch.h"
#include "vault/head.h"
#include "vault/look.h"
#include "vault/pack.h"
#include "vault/pack_set.h"
#include "vault/vault.h"

#include <stdatomic.h>

enum {
	NF_DEFAULT_BLOCK_SHIFT = 14, /* docs/internals/figures.md */
	NF_VNODES_CLOSED_MAX = 512,   /* closed, clean files whose memory is kept */
	NF_XATTR_INLINE_MAX = 4096,
	NF_JOURNAL_RECORD_BYTES = 1 << 20,
};

struct nf_epoch {
	uint64_t seq;             /* n  the dot's */
	struct nf_layer *layer;   /* n  until frozen and drained; then immutable */
	struct nf_buf ops;        /* n  encoded, in order */
	uint32_t nr_ops;          /* n */
	size_t squashed_bytes;    /* n  of ops, after they were last made less, or tried */
	size_t journaled_bytes;   /* n  of ops: a prefix is in the journal (not necessarily synced) */
	struct nf_ref base_root;  /* n  what the operations are based on */
	int64_t inodes, bytes;    /* n  sums of differences */
	uint64_t first_segment;   /* n  everything of this epoch was appended there or later */
	uint64_t min_segment;     /* n  lowest journal segment referred to; UINT64_MAX: none */
	uint64_t oldest_ns;       /* n  when the first operation came; 0: none */
	uint64_t undrained;       /* n  frozen: vnodes whose groups have not drained */
	bool reset;               /* n  the journal holds an older form of ops: write them anew */
	bool resetting;           /* n  and has a part of the new form */
	bool new_base;            /* n  the journal holds an older base_root: say so */
	uint32_t split_at;        /* n  the journal holds more of it: from this operation on it is the next dot's; 0: no */
	bool sent;                /* n  a head with this dot may be on the store: the delta is fixed */
	bool aside;               /* n  frozen: the view has it already, it was shelved (shelf.h) */
	struct nf_ref delta;      /* n  once it is on the store */
	uint64_t first_spare;     /* n  of the delta, once encoded */
	struct nf_epoch *next;    /* in v->unreported */
	bool unread;              /* there, made before this mount: `ops` are in the journal only ... */
	uint32_t writer;          /* ... as those of this writer */
	size_t nr_touched;        /* n  of v->touched, written by its commit */
	struct nf_mend *mend;     /* the committer's: goes with its commit (mend.h) */
	bool mended;              /* the committer's: a tree with it may have been sent */
};

/* A dot that lies in the journal (shelf.h). */
struct nf_shelved {
	uint64_t seq;
	uint32_t nr_ops;          /* the first of the journal's operations of this dot; the others are the next one's */
	uint64_t ops_bytes;
	struct nf_ref ops;        /* encoded as a delta; null: they stand in the journal's records, and in the frozen epoch */
	struct nf_ref base;       /* the state it was made on */
	struct nf_ref root;       /* the state after it */
	uint64_t first_segment;   /* what `root` names of the journal is there or later */
	uint64_t next_counter;    /* beyond what is in use by then */
	int64_t inodes, bytes;    /* sums of differences */
	uint64_t oldest_ns;
	bool told;                /* n  the journal has the mark */
};

/* Blocks stored by write requests of groups not yet drained: a window's patch. */
struct nf_acc {
	struct nf_avl_node node;
	uint64_t first_block;
	uint64_t group;
	bool is_inline;          /* window 0: the whole file is inline_data */
	uint16_t inline_len;
	uint8_t inline_data[NF_INLINE_MAX];
	bool known[NF_WINDOW_BLOCKS]; /* only below cap */
	unsigned cap;
	struct nf_block_ref *refs; /* CAP of them: most files are small */
};

/* A file in memory.
 * I never changed;  n namespace lock;  a atomic */
/* What was written past the kernel's pages (past.c). */
struct nf_past {
	unsigned nr_files;        /* n  open so */
	unsigned nr_busy;         /* n  writes being applied */
	struct nf_rangeset over;  /* n */
	struct nf_rangeset busy;  /* n */
	struct nf_rangeset given; /* n */
};

struct nf_vnode {
	struct nf_ictx ic;
	struct nf_vault *v;      /* I */
	uint64_t ino;            /* I */
	uint8_t block_shift;     /* I */
	struct nf_avl_node node; /* n  in v->vnodes */
	struct nf_list lru;      /* n  closed and clean: in v->closed */
	struct nf_list dirty;    /* n  in v->dirty_list: may hold what no operation tells yet */
	unsigned refs;           /* n  open files and calls under way */
	unsigned writers;        /* n  open for writing */
	bool dying;              /* n  deinit under way */
	bool pending_times;      /* n  mtime below is newer than the item's */
	bool orphan;             /* n  no name: orphan_layer is its state */
	bool removed;            /* n  gone in the base being taken over */
	bool nameless;           /* n  an orphan that may still get a name (O_TMPFILE) */
	uint64_t cut_group;      /* n  last group of the frozen epoch; 0: none */
	bool in_cut;             /* n  counted in frozen->undrained */
	struct nf_io cut_io;     /* the flush of the cut */
	bool cut_running;        /* n */
	bool cut_tried;          /* n  in this round */
	int cut_failed;          /* n */
	struct timespec mtime;   /* n */
	struct timespec change_time; /* n  of the last write */
	struct nf_work kill;     /* n */
	struct nf_avl acc;       /* n  of nf_acc, by (first block, group) */
	uint64_t acc_bytes;      /* n  sealed bytes in acc */
	uint64_t acc_refs;       /* n  of v->acc_refs */
	uint64_t stream_bytes;   /* n  sealed bytes stored since the last cut (ahead.c) */
	unsigned storing;        /* n  requests that may have blocks in the journal and none in acc */
	uint64_t storing_segment; /* n  while there are: these blocks are there or later */
	struct nf_buf base_item; /* n  INODE value in the base; empty: not there */
	struct nf_buf next_item; /* n  in the base being taken over */
	struct nf_layer *orphan_layer; /* n  an orphan's own state */
	struct nf_layer *orphan_below; /* n  under it: what the frozen epoch held of it; NULL: nothing */
	struct nf_ref orphan_base;     /* n */
	uint64_t orphan_segment;       /* n  what orphan_base names of the journal is there or later; UINT64_MAX: nothing */
	/* While the kernel is being told of a change made elsewhere: the version it has (mapped.c). */
	struct nf_vnode *old_version;  /* n  owned */
	unsigned invals;               /* n  notifications under way, each with a reference */
	bool untold;                   /* n  the kernel is yet to be asked */
	struct nf_past past;           /* n */
	/* Of an old version itself. */
	bool aside;                    /* I  not in v->vnodes */
	struct nf_rangeset given;      /* n  read again since: the kernel has the new version there */
	struct nf_list waiting;        /* n  calls that wait for `dying` to end */
};

struct nf_open_file {
	struct nf_vnode *vn; /* NULL: a directory */
	uint64_t ino;
	uint32_t flags;
	bool writable;
	bool direct;
	bool past;           /* its writes go past the kernel's pages */
	uint64_t errors_seen; /* n  of failed write-back: each descriptor hears once of each */
};

struct nf_vault {
	struct nf_fs fs;
	/* I */
	struct nf_store *store;
	struct nf_store *link;     /* the same, if it is a link */
	int (*meet)(void *ctx, struct nf_store *store, struct nf_met *met); /* I */
	void *meet_ctx;
	uint64_t meet_every_ns;    /* I */
	bool unmet;                /* to be called before anything else; the committer's */
	uint64_t met_ns;           /* the committer's: when it was */
	bool returned;             /* n  the store was away and is back: to be called */
	enum nf_vault_keys keys;   /* n */
	struct nf_old_keys {
		uint32_t epoch;        /* the newest then; 0: nobody counted */
		uint64_t packs, bytes;
	} old_keys;                /* n  what the collector found last */
	struct nf_cache *cache;
	struct nf_aio *aio;
	struct nf_journal *journal;
	struct nf_ring *ring;
	struct nf_nodes *nodes;
	struct nf_fetch *fetch;
	struct nf_look *look;
	struct nf_netfs *lib;
	struct nf_pool *pool;      /* calls that waited, journal syncs */
	struct nf_pool *node_pool; /* opening fetched nodes */
	struct nf_node_source src;
	char *state_path, *cache_path, *host;
	const struct nf_file_ops *files; /* of state and cache */
	struct nf_file *lock;
	uint8_t device_id[16];
	uint8_t block_shift;
	bool read_only, fsync_remote, manual, no_threads;
	bool fixed; /* shows a snapshot: never looks */
	uint32_t write_back_ms, poll_ms;

	struct nf_lock run_lock;    /* calls and their runs (run.h) */
	struct nf_lock ns;
	struct nf_cond changed;     /* n  committer and waiters */
	struct nf_head base;        /* n  vector, root, ids of the newest head taken over */
	struct nf_ref newest;       /* the root of the newest head, where recovery had to ask for it; null otherwise */
	struct nf_epoch *current;   /* n  never NULL when writable */
	struct nf_epoch *frozen;    /* n  NULL: none */
	struct nf_shelved *shelf;   /* n  dots not in the base, oldest first; of the first the frozen epoch may be made */
	size_t nr_shelf;            /* n  0: the view stands on the base */
	struct nf_key *shelf_keys;  /* the committer's: others, or conflicts, may have changed them since */
	size_t nr_shelf_keys, cap_shelf_keys; /* the committer's */
	bool shelf_unsure;          /* the committer's: and others may have, of which nothing is noted */
	uint64_t *gone;             /* the committer's: inodes made and removed on the shelf (thin.h), ascending */
	size_t nr_gone;             /* the committer's */
	uint64_t thinned_seq;       /* the committer's: the last dot that was looked at for that; 0: none */
	size_t shelve_bytes;        /* I  of operations, at most, in one of them; 0: what a delta may hold */
	uint64_t shelve_after_ns;   /* n  it was tried in vain: not again before */
	struct nf_avl vnodes;       /* n */
	unsigned asides;            /* n  old versions there are */
	struct nf_list closed;      /* n  LRU, oldest first */
	unsigned nr_closed;         /* n */
	struct nf_list dirty_list;  /* n */
	unsigned nr_dirty;          /* n  of them */
	uint64_t dirty_since_ns;    /* n  when the list got its first since the last cut; 0 */
	struct nf_avl moved;        /* n  of nf_moved */
	struct nf_pack_set sent;    /* n  packs that blocks in `moved` are in; mtime_s: the server's date when begun */
	struct nf_uploads *uploads; /* of whoever is `filling` */
	bool filling;               /* n */
	bool want_filling;          /* n  a commit is, or wants to be */
	struct nf_list ahead;       /* n  windows that may be sent before their commit */
	size_t nr_ahead;            /* n */
	uint64_t ahead_bytes;       /* n  of these windows */
	uint64_t ahead_sent_bytes, ahead_wasted_bytes; /* n */
	bool ahead_failed;          /* n  nothing is sent ahead until a commit went through */
	uint64_t stream_bytes;      /* I  a file that stores so much is a stream */
	struct nf_cond ahead_wake;  /* n */
	pthread_t ahead_thread;
	bool ahead_runs;
	struct nf_pack_set named;   /* n  packs that what we published names, until it is reported */
	int64_t named_since_s;      /* n  the server's date before the first of them was sent; 0: unknown */
	struct nf_head_id holed;    /* the committer's: the head whose packs were found taken away; repair_seq mends it */
	uint64_t repair_seq;        /* the committer's: the dot that sends again what others took away */
	struct nf_epoch *unreported; /* the committer's: dots contained in the base, newest first */
	struct nf_key *touched;     /* n  keys whose leaves the next commit writes anew */
	size_t nr_touched;          /* n */
	struct nf_mend *mend;       /* n  the next commit takes it (mend.h) */
	int64_t look_date_s;        /* n  the server's, at the last look */
	uint32_t writer;            /* n  prefix; 0: none yet */
	bool claiming;              /* the prefix is not known to be ours yet */
	bool renewing;              /* and another one is remembered (reborn.c): state file and journal stay as they are for it */
	uint8_t writer_id[16];      /* n */
	uint64_t next_counter;      /* n  of inode numbers and births */
	uint64_t birth;             /* n  of blocks sealed now */
	_Atomic uint32_t birth_index;
	/* The journal's segment that data goes to, and how much of it is used. */
	uint64_t segment;           /* n */
	struct nf_list sync_waiters;/* n  fsync=remote and sync calls: wait for an epoch */
	struct nf_list fsync_waiters; /* n  runs that wait for the journal's next flush */
	struct nf_work fsync_work;
	bool fsync_runs;            /* n  that is queued or at work */
	uint64_t confirmed_seq;     /* n  our last dot on the server, shown by a look */
	uint64_t split_from, split_to; /* n  what was to be dot split_from has become this and the next ones */
	uint64_t left_seq;          /* n  the last dot that files were left out of (nf_cut_drain()); 0: none */
	int left_error;             /* n  why */
	int cut_error;              /* of the last turn's cut; the committer's */
	uint64_t known_seq;         /* our last dot read back; the committer's */
	uint64_t base_seen_ns;      /* when a look last showed the base as the only leaf, 0: that is not known; the committer's */
	uint64_t others_seen_ns;    /* when a look last showed news of others; the committer's */
	uint64_t pruned_looks;      /* looks_done at the last pruning; the committer's */
	bool want_commit;           /* n  commit now */
	unsigned syncing;           /* n  who waits in nf_vault_sync() */
	bool want_look;             /* n */
	bool want_whole_look;       /* n  also if a listing shows nothing new */
	uint64_t settled_looks;     /* n  looks that showed one leaf, the base */
	int64_t settled_date_s;     /* n  the server's, at the last of them */
	bool stopping;              /* n */
	unsigned telling;           /* n  flushes before a take-over */
	uint64_t have_news;         /* n  take-overs so far */
	unsigned flushing;          /* n  flushes of the cut under way */
	bool committing;            /* n */
	_Atomic bool put_back;      /* a base that the store has lost is put there again; until a look went through */
	uint64_t nr_put_back;       /* n  heads */
	bool repair;                /* I */
	char *aside;                /* I  where the rest of a damaged journal is; NULL: it was whole */
	struct nf_journal_salvaged salvaged; /* I */
	bool letting_go;            /* n  the journal of what was confirmed is being removed, or could not be yet */
	bool connected;             /* n  without a link */
	bool away;                  /* n  the link is disconnected or held: nothing is tried */
	uint64_t patient_until_ns;  /* n  when `away`: who waits for the server is told then */
	bool back;                  /* n  it was found connected: no back-off any more */
	bool reintegrating;         /* n  until our dot of reintegrate_seq is on the server */
	uint64_t reintegrate_seq;   /* n */
	int last_error;             /* n */
	uint64_t looks_done;        /* n */
	uint64_t turns_done;        /* n */
	_Atomic bool stop;          /* ends blocking store work */
	uint64_t upload_done, upload_total; /* n */
	uint64_t forks, merges, conflicts, commits; /* n */
	uint64_t quota_free_bytes;  /* n  what the server said last (quota.c) */
	bool have_quota;            /* n  it said something */
	bool quota_wanted;          /* n  since it was asked */
	uint64_t quota_next_ns;     /* n  not asked before */
	struct nf_room *room;       /* I  of the journal's disk; NULL: nothing is written */
	bool room_evicts;           /* I  the cache is on it, too */
	bool room_runs;             /* I  who finds none may wait */
	uint32_t room_wait_ms;      /* I  without progress */
	pthread_t room_thread;
	struct nf_cond room_wake;   /* n */
	struct nf_list room_waiters; /* n  runs that wait for room, in order */
	_Atomic unsigned room_line; /* of them */
	uint64_t min_free_bytes;    /* I  of the cache */
	bool room_tidy;             /* n  the cache is to give way */
	_Atomic uint64_t room_tidied_ns; /* when it was told to */
	bool room_stopping;         /* n */
	bool room_in_vain;          /* n  somebody waited as long as one may, and nothing has come forward since */
	uint64_t room_progress_ns;  /* n  when something did */
	struct {
		uint64_t confirmed_seq, sent_bytes, journal_bytes;
	} room_seen;                /* n */
	uint64_t acc_refs;          /* n  references noted with files and in no operation yet, at most */
	uint64_t sent_bytes;        /* n  of blocks that reached the server */
	_Atomic unsigned calls;     /* runs under way */
	bool journaling;            /* n  somebody appends records: order */
	pthread_t committer;
	bool committer_runs;
	struct nf_keeper *keeper;   /* I  NULL: no cache, or a snapshot */
	struct nf_gc_options gc;    /* I  what is kept, unless a run is told otherwise */
	struct nf_idle_gc *idle_gc; /* I  NULL: it does not run by itself */
	bool collecting;            /* n  somebody is */
};

/* --- epoch.c ----------------------------------------------------------------------- */
int nf_epoch_new(uint64_t seq, const struct nf_ref *base_root, struct nf_epoch **out);
void nf_epoch_free(struct nf_epoch *e);
/* The lowest journal segment that its operations name; UINT64_MAX: none. */
uint64_t nf_epoch_lowest_segment(const struct nf_epoch *e);
/* The tree that the view stands on: the base's, or the last shelved one. */
const struct nf_ref *nf_vault_root(const struct nf_vault *v) NF_REQUIRES(v->ns);
/* The frozen epoch, if the view has its layer; NULL. */
struct nf_epoch *nf_epoch_below(const struct nf_vault *v) NF_REQUIRES(v->ns);
/* The view of the newest state. */
struct nf_view nf_vault_view(struct nf_vault *v) NF_REQUIRES(v->ns);
/* Applies and records an operation in the current epoch. NF_TREE_WANT: nothing was done. */
int nf_vault_do(struct nf_vault *v, const struct nf_op *op, struct nf_want *w) NF_REQUIRES(v->ns);
/* A drained group of VN: into the epoch it belongs to. */
int nf_vault_do_data(struct nf_vault *v, struct nf_vnode *vn, const struct nf_op *op, bool frozen)
	NF_REQUIRES(v->ns);
/* The same from a thread that may wait; what is still to be drained into the frozen epoch goes first. */
int nf_vault_do_waiting(struct nf_vault *v, const struct nf_op *op);
/* A fresh inode number. */
uint64_t nf_vault_new_ino(struct nf_vault *v) NF_REQUIRES(v->ns);
/* E NULL (a read-only vault): for nf_apply_inode() only. */
struct nf_apply nf_vault_apply(struct nf_vault *v, struct nf_epoch *e, bool frozen) NF_REQUIRES(v->ns);
/* Appends to the journal what is not there yet, of both epochs. Takes and drops ns. Blocks on the disk. */
int nf_vault_journal(struct nf_vault *v, bool sync);

/* --- vnode.c ----------------------------------------------------------------------- */
/* A reference to the file in memory; made if it is not.  0, NF_TREE_NONE, NF_TREE_WANT, or -EAGAIN: it is just going
 * away, the call was put on its `waiting` list and runs again. */
int nf_vnode_get(struct nf_vault *v, uint64_t ino, struct nf_call *c, struct nf_want *w,
		 struct nf_vnode **out) NF_REQUIRES(v->ns);
struct nf_vnode *nf_vnode_find(struct nf_vault *v, uint64_t ino) NF_REQUIRES(v->ns);
void nf_vnode_put(struct nf_vnode *vn) NF_REQUIRES(vn->v->ns);
/* A new, empty file just created (or a nameless one). */
int nf_vnode_new(struct nf_vault *v, uint64_t ino, uint8_t block_shift, uint64_t size_bytes,
		 struct nf_vnode **out) NF_REQUIRES(v->ns);
/* Gives up what may be given up of the closed files. */
void nf_vnode_trim(struct nf_vault *v, unsigned keep) NF_REQUIRES(v->ns);
/* The last name of an open file goes: it lives on by itself. */
int nf_vnode_orphan(struct nf_vnode *vn, struct nf_want *w) NF_REQUIRES(vn->v->ns);
/* Attributes as applications see them. */
int nf_vault_attr(struct nf_vault *v, uint64_t ino, struct nf_want *w, struct nf_attr *out)
	NF_REQUIRES(v->ns);
void nf_attr_fill(uint64_t ino, const struct nf_inode_item *i, struct nf_attr *out);
/* The INODE item, orphans included. */
int nf_vault_inode(struct nf_vault *v, uint64_t ino, struct nf_want *w, struct nf_val *val,
		   struct nf_inode_item *out) NF_REQUIRES(v->ns);
/* The same of VN itself, which may be an old version. */
int nf_vnode_inode(struct nf_vnode *vn, struct nf_want *w, struct nf_val *val, struct nf_inode_item *out)
	NF_REQUIRES(vn->v->ns);
struct nf_view nf_vnode_view(struct nf_vnode *vn) NF_REQUIRES(vn->v->ns);
/* One window of the file's blocks: undrained groups, then the view. 0 or NF_TREE_WANT. */
int nf_vnode_window(struct nf_vnode *vn, uint64_t first_block, struct nf_want *w,
		    struct nf_block_ref out[NF_WINDOW_BLOCKS]) NF_REQUIRES(vn->v->ns);
/* Where the window stands as a whole, on the server: as nf_extent_locate(). */
int nf_vnode_locate(struct nf_vnode *vn, uint64_t first_block, struct nf_want *w, struct nf_extent_ref *out)
	NF_REQUIRES(vn->v->ns);
/* VN may hold data that no operation tells yet: the next cut asks it. */
void nf_vnode_dirty(struct nf_vnode *vn) NF_REQUIRES(vn->v->ns);
/* It does not. */
void nf_vnode_clean(struct nf_vnode *vn) NF_REQUIRES(vn->v->ns);
/* After the base moved. 0 or NF_TREE_WANT. */
int nf_vnode_rebase(struct nf_vnode *vn, struct nf_want *w) NF_REQUIRES(vn->v->ns);
/* NULL without memory. */
struct nf_acc *nf_acc_new(uint64_t first_block, uint64_t group);
void nf_acc_free(struct nf_acc *a); /* NULL allowed */
/* Makes room for the first NR blocks of the window. */
int nf_acc_reserve(struct nf_acc *a, unsigned nr);
struct nf_acc *nf_acc_find(struct nf_vnode *vn, uint64_t first_block, uint64_t group);
/* The first whose window begins at FIRST_BLOCK or later, or NULL. */
struct nf_acc *nf_acc_from(struct nf_vnode *vn, uint64_t first_block);
void nf_acc_add(struct nf_vnode *vn, struct nf_acc *a);
void nf_acc_drop(struct nf_vnode *vn, uint64_t upto_group);
const struct nf_acc *nf_vnode_inline(struct nf_vnode *vn);
extern const struct nf_netfs_ops nf_vault_netfs_ops; /* nfops.c */

/* --- mapped.c ---------------------------------------------------------------------- */
/* Files of INOS that are open for writing keep the version that is current now until nf_old_version_told() was called
 * for each; nothing of them may be dirty.  On failure none is kept. */
int nf_old_versions_keep(struct nf_vault *v, const uint64_t *inos, size_t nr) NF_REQUIRES(v->ns);
void nf_old_versions_drop(struct nf_vault *v, const uint64_t *inos, size_t nr) NF_REQUIRES(v->ns);
bool nf_old_versions_any(struct nf_vault *v, const uint64_t *inos, size_t nr) NF_REQUIRES(v->ns);
/* The kernel has dropped its pages of the vnode ARG. */
void nf_old_version_told(void *arg);
/* The kernel reads [pos, pos+len): it gets the newest version. */
void nf_old_version_given(struct nf_vnode *vn, uint64_t pos_bytes, uint64_t len_bytes) NF_REQUIRES(vn->v->ns);

/* --- past.c ------------------------------------------------------------------------ */
/* Whether the descriptor that C opens is to write past the kernel's pages. */
bool nf_past_wanted(const struct nf_call *c);
void nf_past_open(struct nf_vnode *vn) NF_REQUIRES(vn->v->ns);
void nf_past_close(struct nf_vnode *vn) NF_REQUIRES(vn->v->ns);
void nf_past_init(struct nf_past *p);
/* Leaves it empty. */
void nf_past_deinit(struct nf_past *p);
/* A write of [start, end) by such a descriptor, before it is applied and after; true: the kernel must drop its pages before
 * it is answered. */
void nf_past_begin(struct nf_vnode *vn, uint64_t start, uint64_t end) NF_REQUIRES(vn->v->ns);
bool nf_past_applied(struct nf_vnode *vn, uint64_t start, uint64_t end) NF_REQUIRES(vn->v->ns);
/* The kernel reads [start, end) for its cache, or has sent it a write through its cache. */
void nf_past_read(struct nf_vnode *vn, uint64_t start, uint64_t end) NF_REQUIRES(vn->v->ns);
void nf_past_cached(struct nf_vnode *vn, uint64_t start, uint64_t end) NF_REQUIRES(vn->v->ns);

/* --- call.c --------------------------------------------------------------------------- */
/* What a handler returns beside errors: run->start goes on once the lock is dropped. */
enum { NF_CALL_PENDING = 16 };
/* A handler's own state across runs (calloc'd by first use; freed at the end). */
void *nf_call_state(struct nf_call *c, size_t size);
typedef int nf_handler(struct nf_vault *v, struct nf_call *c, struct nf_want *w);
extern nf_handler *const nf_handlers[NF_CALL_NR];
nf_handler nf_do_lookup, nf_do_getattr, nf_do_setattr, nf_do_readlink, nf_do_create, nf_do_unlink,
	nf_do_rename, nf_do_link, nf_do_tmpfile, nf_do_open, nf_do_release, nf_do_read, nf_do_write,
	nf_do_flush, nf_do_fsync, nf_do_opendir, nf_do_readdir, nf_do_releasedir, nf_do_fsyncdir,
	nf_do_statfs, nf_do_setxattr, nf_do_getxattr, nf_do_listxattr, nf_do_removexattr,
	nf_do_fallocate, nf_do_lseek, nf_do_copy_range, nf_do_ioctl;

/* --- quota.c ----------------------------------------------------------------------------- */
/* Room on the server, as far as is known; 1 PiB otherwise. */
uint64_t nf_quota_room(struct nf_vault *v) NF_REQUIRES(v->ns);
/* Is the server to be asked? */
bool nf_quota_due(const struct nf_vault *v, uint64_t now_ns) NF_REQUIRES(v->ns);
/* Asks it; blocks.  Not on a FUSE thread. */
void nf_quota_ask(struct nf_vault *v);

/* --- commit.c ---------------------------------------------------------------------------- */
int nf_commit_start(struct nf_vault *v);  /* the thread */
void nf_commit_stop(struct nf_vault *v);
/* The dot that everything done so far will be in; 0: everything is confirmed. */
uint64_t nf_commit_target(struct nf_vault *v) NF_REQUIRES(v->ns);
/* One turn: look, take over, and if there is something (or FORCE) commit. Blocks. */
int nf_commit_turn(struct nf_vault *v, bool force);
/* Is there nothing that the server is not known to have?  After nf_commit_stop(). */
bool nf_commit_is_settled(struct nf_vault *v);
/* The link is in state S: the committer rests or begins. */
void nf_commit_link(void *vault, enum nf_link_state s);

/* --- merge.c --------------------------------------------------------------------------------- */
/* The tree of all LEAVES together (ascending by (seq, tag); the last is the base), as a layer over that base; deltas that
 * the base lacks are replayed on it.  Pure: depends on the store's content only.  *LAYER NULL: one leaf, nothing to do. */
struct nf_merged {
	const struct nf_head *base;
	struct nf_layer *layer;
	struct nf_vector vector;
	int64_t inodes, bytes;
	uint64_t conflicts;
	bool unlisted[NF_HEAD_PARENTS_MAX]; /* leaves whose trees nobody shall look at */
};
void nf_merged_deinit(struct nf_merged *m);
int nf_merge(struct nf_vault *v, const struct nf_head *const *leaves, size_t nr, struct nf_merged *out);
/* merge_roots.c */
/* ROOT items of the merged tree: also those of the heads that the others were made on, from SINCE (a head's seq) on.  Heads
 * whose trees are not whole, because a collector let go what they were made on, are left out and marked. */
int nf_merge_roots(struct nf_vault *v, struct nf_merged *m, const struct nf_head *const *leaves, size_t nr, uint64_t since);
/* The lowest seq of a head that published what LEAF has and LACKS has not; NF_TREE_NONE: that is not known any more. */
int nf_merge_parted(struct nf_vault *v, const struct nf_head *leaf, const struct nf_vector *lacks, uint64_t *seq);
/* Items that every new head's tree must have for its parents: DELTA of each parent's own delta, ROOT of each parent that is
 * not UNLISTED. */
int nf_merge_parents(struct nf_layer *l, const struct nf_head *const *parents, size_t nr, const bool *unlisted);

/* --- keeper.c: what is pinned, and the cache's limits --------------------------------------- */
/* Whether STATE_DIR names pins: the cache must not evict before it knows which. */
bool nf_pins_exist(const struct nf_file_ops *files, const char *state_dir);
/* Pins of files that got another inode number, before there is a keeper.  Failing leaves them as they were. */
int nf_pins_renumber(struct nf_vault *v, uint64_t (*now)(void *ctx, uint64_t ino), void *ctx);
int nf_keeper_new(struct nf_vault *v, struct nf_keeper **out);
int nf_keeper_start(struct nf_keeper *k); /* the thread */
void nf_keeper_stop(struct nf_keeper *k); /* NULL allowed */
void nf_keeper_free(struct nf_keeper *k);
/* Look at what is pinned again; FETCH: and get what is missing even if nothing is to be sent or fetched unasked. */
void nf_keeper_look(struct nf_vault *v, bool fetch);
void nf_keeper_status(struct nf_vault *v, struct nf_vault_status *out) NF_REQUIRES(v->ns);
/* The value of user.foliofs.pin on INO. 0, NF_TREE_NONE, NF_TREE_WANT. */
#define NF_XATTR_PIN "user.foliofs.pin"
int nf_pin_xattr(struct nf_vault *v, uint64_t ino, struct nf_want *w, struct nf_buf *b) NF_REQUIRES(v->ns);

/* --- file_state.c ------------------------------------------------------------------------------ */
/* The value of user.foliofs.state on INO. 0, NF_TREE_NONE (no file, or one without a name), NF_TREE_WANT. */
#define NF_XATTR_STATE "user.foliofs.state"
int nf_state_xattr(struct nf_vault *v, uint64_t ino, struct nf_want *w, struct nf_buf *b) NF_REQUIRES(v->ns);

/* --- gc_idle.c: the collector of a mount that has nothing else to do ----------------------------- */
/* POWER_DIR: aio/power.h; NULL: the machine's. */
int nf_idle_gc_start(struct nf_vault *v, const struct nf_gc_options *o, uint64_t every_ms, const char *power_dir);
void nf_idle_gc_stop(struct nf_vault *v); /* the thread; not started allowed */
void nf_idle_gc_free(struct nf_vault *v); /* likewise */
void nf_idle_gc_status(const struct nf_vault *v, struct nf_vault_status *out) NF_REQUIRES(v->ns);

/* --- snapshot.c --------------------------------------------------------------------------- */
/* From now on V shows the snapshot NAME or NAME@ID.  Before anything of it is in use. */
int nf_snapshot_take_root(struct nf_vault *v, const char *name);

/* --- state.c ------------------------------------------------------------------------------ */
struct nf_state {
	uint8_t device_id[16];
	uint8_t writer_id[16];
	uint32_t writer;
	uint64_t next_counter;
	struct nf_head base; /* newest head taken over; id.seq 0: none */
};
int nf_state_load(struct nf_vault *v, struct nf_state *out); /* -ENOENT: a new device */
int nf_state_save(struct nf_vault *v, const struct nf_state *s);
void nf_state_deinit(struct nf_state *s);
/* A small file NAME of the state directory, sealed as belonging to it and a device.  -ENOENT, -NF_E_STATE_BAD. */
int nf_sealed_load(struct nf_vault *v, const char *name, size_t max, uint8_t device_id[16], void **out, size_t *out_len);
int nf_sealed_save(struct nf_vault *v, const char *name, const uint8_t device_id[16], const struct nf_buf *plain);

/* --- recover.c ---------------------------------------------------------------------------------- */
/* The journal's records; WRITER is whose they are. */
enum {
	NF_JOURNAL_RESET = 1,      /* what came before of this dot is superseded */
	NF_JOURNAL_NEW_BASE = 2,   /* what came before of this dot counts from this base root too */
	NF_JOURNAL_UNFINISHED = 4, /* of a new form: it counts once a record without this flag is there */
};
int nf_journal_encode_ops(struct nf_buf *b, uint32_t writer, uint64_t seq, const struct nf_ref *base_root, unsigned flags,
			  const void *ops, size_t len);
int nf_journal_encode_split(struct nf_buf *b, uint32_t writer, uint64_t seq, uint32_t nr_ops);
int nf_journal_encode_shelved(struct nf_buf *b, uint32_t writer, const struct nf_shelved *s);
int nf_journal_encode_reported(struct nf_buf *b, uint32_t writer, uint64_t seq);
int nf_journal_encode_sent(struct nf_buf *b, uint32_t writer, uint64_t seq, const struct nf_ref *delta, uint64_t first_spare);
extern const struct nf_journal_seal_ops nf_vault_journal_seal;

#endif
