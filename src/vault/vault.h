/* vault/vault.h - the vault as a filesystem: what the daemon and the commands use.
 *
 *   nf_vault_open()   header unlocked -> ring; store, cache directory
 *   v->fs             a struct nf_fs for the FUSE front end
 *   nf_vault_close()  everything local is durable in the journal; nothing is uploaded unless asked
 *
 * Threads of a vault: a pool for calls that had to wait, one committer (looks, merges, commits),
 * the store's, the library's.  See docs/internals/locking.md. */
#ifndef NF_VAULT_VAULT_H
#define NF_VAULT_VAULT_H

#include "base/text.h"
#include "codec/codec.h"
#include "foliofs/fs.h"
#include "foliofs/store.h"

struct nf_vault;
struct nf_gc_options;
struct nf_header;
struct nf_file_ops;

/* What meeting the store's header found. */
struct nf_met {
	const struct nf_header *header; /* the vault's now; borrowed until the next meeting */
	bool removed;                   /* what opened this mount opens it no longer */
};

struct nf_vault_options {
	/* Taken: closed with the vault, also when open fails.  If it is a link (store/link.h), the committer rests while
	 * the server is away. */
	struct nf_store *store;
	const struct nf_header *header; /* unlocked; borrowed for the call */
	const char *cache_dir;        /* NULL with read_only: none is kept */
	const char *state_dir;
	const struct nf_file_ops *files; /* that both are on; NULL: the real disk's */
	uint64_t cache_size_bytes;
	uint64_t min_free_bytes;
	size_t memory_bytes;          /* folio memory */
	uint32_t write_back_ms;       /* 0: 5,000 */
	uint32_t poll_ms;             /* 0: 5,000 */
	uint32_t room_wait_ms;        /* how long a writer waits for room on the disk while nothing comes forward; 0: 10,000 */
	uint8_t block_shift;          /* of new files; 0: the default */
	bool read_only;
	bool fsync_remote;            /* fsync returns when the server's head includes it */
	/* A file of which so much was stored since the last commit is sent before the next; 0: 64 MiB, UINT64_MAX: never. */
	uint64_t ahead_bytes;
	/* Without the server operations beyond 1.5 times this are not kept in memory; 0: what one commit may hold, 4 MiB. */
	size_t shelve_bytes;
	bool manual;                  /* no commit, no look but by nf_vault_sync() */
	bool no_threads;              /* commands and tests: no committer; drive it by nf_vault_sync() */
	/* A newest head that the store has lost is put there again; of a damaged journal what is valid before the damage counts, and
	 * the rest is put aside.  nf_vault_check() with `repair` tells of both. */
	bool repair;
	const char *snapshot;         /* with read_only: show this one, NAME or NAME@ID; -NF_E_SNAPSHOT_* */
	const char *expect;           /* fingerprint the first head must have; NULL */
	const struct nf_gc_options *gc; /* what `foliofs gc` keeps, unless told otherwise; NULL: nf_gc_defaults() */
	uint64_t gc_every_ms;         /* how often it runs by itself when nothing else does; 0: never.  Never if `manual` */
	const char *power_dir;        /* what says whether the machine runs on battery: then it does not; NULL: the kernel's */
	/* What are the vault's keys now?  It may block; NULL.  Called by one thread at a time: when a head says that it is sealed
	 * under a newer epoch, after the store was away, every `meet_every_ms` (before something is sent: if it was a minute
	 * ago), and with `unmet` before the first exchange with the store; until it returns 0 nothing is exchanged. */
	int (*meet)(void *ctx, struct nf_store *store, struct nf_met *met);
	void *meet_ctx;
	bool unmet; /* the header is a remembered one, or ought to be written */
	uint32_t meet_every_ms; /* 0: 600,000 */
	const char *host;             /* for conflict names; NULL: gethostname */
};

/* Opens and recovers: replays the journal, looks for news if the store can be reached (a known vault opens
 * without it). Blocks. */
int nf_vault_open(const struct nf_vault_options *o, struct nf_vault **out);
/* The filesystem; no call may be in flight at close. */
struct nf_fs *nf_vault_fs(struct nf_vault *v);
/* In the state directory of a vault that was closed with everything on the server, until it is opened again. */
#define NF_SETTLED_FILE "settled"
/* Stores everything locally (journal, synced), ends the threads, frees.  NULL allowed. */
void nf_vault_close(struct nf_vault *v);

/* Writes the first head of a new vault (empty root directory). */
int nf_vault_format(struct nf_store *store, const struct nf_header *header, const char *host);

/* Commits everything done so far and waits until a look shows it; progress is in the status.  Blocks.  STOP may be NULL. */
int nf_vault_sync(struct nf_vault *v, _Atomic bool *stop);
/* Looks now and takes over what others did.  Blocks. */
int nf_vault_refresh(struct nf_vault *v);

/* Snapshots: retained cuts of the whole vault, known to everyone who has it. */
enum { NF_SNAPSHOT_ID_BYTES = 4 };
struct nf_snapshot {
	char name[256];
	char id[2 * NF_SNAPSHOT_ID_BYTES + 1]; /* hex; tells apart what two machines gave one name */
	uint64_t head_seq;
	int64_t time_s;
};
/* EACH returns false to end. Blocks. */
int nf_vault_snapshots(struct nf_vault *v, bool (*each)(void *ctx, const struct nf_snapshot *s), void *ctx);
/* Commits everything, names that commit, commits the name; blocks until both are on the server.  -EINVAL: no file could
 * be called NAME; -EEXIST; errors of nf_vault_sync(). */
int nf_vault_snapshot_create(struct nf_vault *v, const char *name, _Atomic bool *stop);
/* ID: its beginning, or NULL.  -NF_E_SNAPSHOT_NONE, -NF_E_SNAPSHOT_AMBIGUOUS. */
int nf_vault_snapshot_remove(struct nf_vault *v, const char *name, const char *id, _Atomic bool *stop);

/* Offline by command, and back.  0, or -EOPNOTSUPP without a link. */
int nf_vault_hold(struct nf_vault *v, bool held);

/* --- keeping what is wanted offline ---------------------------------------------------------
 *
 * A pin is an inode whose data, and all beneath it, is kept complete in this device's cache: what others add too.  Pins are
 * remembered in the state directory, sealed.  A thread of the vault fetches what is missing, behind all else. */
struct nf_pin {
	uint64_t ino;
	uint64_t files;         /* as far as they are known */
	uint64_t bytes;         /* sealed, with their metadata */
	uint64_t present_bytes; /* of them */
	bool absent;            /* on the server there is no such inode: not yet, or not any more */
};
struct nf_pin_estimate {
	struct nf_pin pin;
	uint64_t missing_bytes; /* of it */
	uint64_t kept_bytes;    /* what the cache would keep for all pins together */
	uint64_t limit_bytes;   /* of the cache */
	bool fits;
};
/* Blocks: reads metadata, perhaps from the server. -NF_E_FULL: it does not fit (*OUT is set), -EEXIST, -ENOENT. */
int nf_vault_pin(struct nf_vault *v, uint64_t ino, bool dry_run, _Atomic bool *stop, struct nf_pin_estimate *out);
int nf_vault_unpin(struct nf_vault *v, uint64_t ino); /* -ENOENT: not pinned */
/* Waits until everything pinned is in the cache, or nothing more can be done: why. */
int nf_vault_pin_wait(struct nf_vault *v, _Atomic bool *stop);
/* EACH returns false to end.  PATH is relative to the root, "" for itself; NULL if it has no name.  Blocks. */
int nf_vault_pins(struct nf_vault *v, bool (*each)(void *ctx, const struct nf_pin *p, const char *path), void *ctx);

/* --- the cache ------------------------------------------------------------------------------ */
struct nf_cache_info {
	uint64_t limit_bytes, min_free_bytes, used_bytes, kept_bytes, packs;
	uint64_t disk_free_bytes, disk_bytes;
	uint64_t journal_bytes; /* what is here only, beside the cache */
	uint64_t hit_bytes, miss_bytes; /* since the mount */
};
int nf_vault_cache_info(struct nf_vault *v, struct nf_cache_info *out);
/* Gives up what is not kept: INO 0: all of it; otherwise the data of a file or of all beneath a directory. */
int nf_vault_cache_drop(struct nf_vault *v, uint64_t ino, _Atomic bool *stop, uint64_t *freed_bytes);
struct nf_cache_verified {
	uint64_t blocks, bytes;  /* looked at */
	uint64_t bad;            /* of them, dropped */
};
/* Opens each cached block of the newest tree (what older ones alone name is not looked at); REPORT is told of each that was damaged.  Reads metadata. */
int nf_vault_cache_verify(struct nf_vault *v, _Atomic bool *stop, void (*report)(void *ctx, const char *line), void *ctx,
			  struct nf_cache_verified *out);

/* --- collecting what nothing needs any more (docs/internals/protocol.md, "Garbage") ----- */

struct nf_gc_options {
	bool dry_run;            /* look and count only; a read-only vault can do that too */
	bool idle;               /* nobody asked for it: nothing is done that is not worth a commit; it gives way */
	uint64_t every_s;        /* with idle: not if anybody's run was less than this ago */
	uint64_t max_ms;         /* 0: no limit.  -NF_E_GC_TOO_MUCH */
	uint64_t worth_bytes;    /* with idle: a commit is worth it for so many */
	uint64_t grace_s;        /* by the server's clock, between condemning and deleting */
	uint64_t keep_heads;     /* commits, the newest included */
	uint64_t keep_days;
	uint64_t lease_days;     /* since a writer's last commit: what it may stand on is kept */
	unsigned repack_percent; /* packs of which less than this is named are copied together; 0: none */
	uint64_t move_bytes;     /* of such packs that one round empties, at most; one is always taken */
	uint64_t max_nodes;      /* tree nodes that may be fetched from the store; 0: any number. -NF_E_GC_TOO_MUCH */
};
struct nf_gc_result {
	uint64_t packs, bytes;                 /* on the store */
	uint64_t live_packs, live_bytes;       /* needed; bytes of them that are named */
	uint64_t old_packs, old_bytes;         /* of those: sealed under keys of before the newest; the others are not counted in */
	uint64_t resealed_bytes;               /* of these: copied by this run, sealed under the newest */
	uint64_t dead_packs, dead_bytes;       /* condemned by this run (dry run: that would be) */
	uint64_t leftover_packs, leftover_bytes; /* of those: never named, of broken uploads */
	uint64_t waiting_packs, waiting_bytes; /* condemned; grace has not passed */
	uint64_t deleted_packs, deleted_bytes; /* by this run (dry run: that would be) */
	uint64_t young_packs;                  /* not named, but perhaps still being uploaded */
	uint64_t roots_kept, roots_dropped, deltas_dropped;
	uint64_t emptied_packs;                /* hardly needed: what they held of use is elsewhere now (dry run: would be) */
	uint64_t moved_packs, moved_bytes;     /* what was copied for that (dry run: bytes that would be) */
	uint64_t moved_trees;                  /* of kept commits and snapshots, written anew for that */
	uint64_t damaged_roots;                /* kept, and something of them cannot be read */
	uint64_t nodes, fetched_nodes;         /* tree nodes read; of these, not from the cache */
	uint64_t not_due_s;                    /* idle: nothing was done, for so long nothing need be */
};
void nf_gc_defaults(struct nf_gc_options *o);
/* What is kept here, as the vault was opened. */
void nf_vault_gc_options(struct nf_vault *v, struct nf_gc_options *out);
/* One run.  Blocks, perhaps for long.  STOP may be NULL. */
int nf_vault_gc(struct nf_vault *v, const struct nf_gc_options *o, _Atomic bool *stop, struct nf_gc_result *out);

enum nf_vault_keys {
	NF_KEYS_CURRENT,
	NF_KEYS_UNCHECKED, /* the server's header was not seen since the mount */
	NF_KEYS_REMOVED,   /* the key it was mounted with opens the vault no longer; this mount goes on */
	NF_KEYS_CHANGED,   /* `key rekey`, and that key was not kept: nothing is exchanged until it is mounted again */
};
struct nf_vault_status {
	bool connected;          /* the link says so; without one: the last exchange with the store succeeded */
	bool held;               /* offline by command */
	bool probing;            /* it is being found out */
	bool reintegrating;      /* connected, and what was done while away is being sent */
	uint64_t link_ms;        /* since the link changed */
	bool read_only;
	int last_error;          /* of the last exchange */
	enum nf_vault_keys keys;
	uint32_t key_epoch;      /* what is written now is sealed under */
	bool old_keys_known;     /* a run of the collector, since there was no newer epoch, counted what follows: */
	uint64_t old_key_packs, old_key_bytes; /* needed, and sealed under older epochs */
	uint64_t pending_ops;    /* operations not on the server */
	uint64_t pending_files;  /* files with data not on the server */
	uint64_t pending_bytes;  /* dirty and sealed bytes not on the server */
	uint64_t oldest_ms;      /* age of the oldest of them; 0: none */
	uint64_t open_for_write; /* files */
	bool committing;
	uint64_t upload_done_bytes, upload_total_bytes; /* of the commit under way */
	uint64_t commits, merges, forks, conflicts;
	uint64_t head_seq;
	int64_t head_time_s;
	char fingerprint[24];
	uint32_t writer;
	uint64_t writer_seq;
	uint64_t cache_used_bytes, cache_limit_bytes;
	uint64_t journal_bytes;
	uint64_t files, bytes;   /* of the tree, by its counters */
	uint32_t write_back_ms, poll_ms;
	uint64_t upload_bytes_per_s; /* measured; 0: not known */
	int64_t safe_in_ms;      /* until everything is on the server, as things are now; 0: it is; -1: not known */
	uint64_t pins, pinned_bytes, pinned_present_bytes;
	bool manual;             /* sends on command only */
	bool pins_current;       /* those sums are about the newest state; a moment later they are again */
	int pin_error;           /* why something pinned is missing; 0: it is on its way */
	uint64_t gc_every_ms;    /* the collector runs by itself; 0: it does not */
	bool gc_running;
	uint64_t gc_runs, gc_last_ms; /* since the mount; since the last of them */
	uint64_t gc_deleted_bytes;   /* by all of them */
	uint64_t gc_condemned_bytes; /* waiting for the grace, after the last */
	int gc_error;            /* why the last one did nothing */
};
void nf_vault_status(struct nf_vault *v, struct nf_vault_status *out);
int nf_vault_regions_text(struct nf_vault *v, char **out);
int nf_vault_requests_text(struct nf_vault *v, char **out);

/* Path access for commands, without a mount.  Blocks. */
int nf_vault_resolve(struct nf_vault *v, const char *path, struct nf_attr *out);
/* The path of INO by the newest names, relative to the root, "" for itself; -ENOENT: it has none.  Malloc'd.  Blocks. */
int nf_vault_path(struct nf_vault *v, uint64_t ino, char **out);

/* Everything that the newest state, snapshots and kept commits reach: is it there, whole, and does it agree? */
struct nf_check_options {
	bool read_data; /* everything is fetched from the store and opened */
	bool repair;    /* what this machine has of what is missing or damaged is put on the store again; of files that have
			 * lost something older versions are put beside them.  Not of a read-only vault: -EROFS */
	/* Called for each thing found wrong, and with `repair` for each thing done, with the path; NULL. */
	void (*report)(void *ctx, const char *line);
	void *ctx;
	_Atomic bool *stop; /* NULL */
};
struct nf_check_result {
	uint64_t nodes, inodes, blocks, packs, bytes; /* inodes and bytes: of the newest state */
	uint64_t commits, snapshots;                  /* that were gone through */
	uint64_t problems;                            /* there are, after repairing */
	uint64_t repaired;                            /* fewer than before */
	uint64_t restored;                            /* older versions put beside */
};
/* Blocks, perhaps for long. */
int nf_vault_check(struct nf_vault *v, const struct nf_check_options *o, struct nf_check_result *out);

#endif
