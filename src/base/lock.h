/* base/lock.h - mutexes with ranks.
 *
 * Every lock has a rank.  A thread may take a lock only if its rank is higher
 * (further down this list) than that of every lock it holds.  With
 * -Dlock_check=true each taking is checked and a violation aborts, naming both
 * ranks.  docs/internals/locking.md says what each lock protects.
 *
 * No lock is held across I/O or across a callback into another layer.
 */
#ifndef NF_BASE_LOCK_H
#define NF_BASE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Top taken first. */
#define NF_RANKS(X)                                                                                \
	X(DAEMON)    /* daemon: option tables, list of mounts */                                   \
	X(COMMIT)    /* vault: who is committing; never held across I/O */                         \
	X(NAMESPACE) /* vault: layers, operation list, inode table */                              \
	X(INODE)     /* netfs: inode context */                                                    \
	X(WRITEBACK) /* netfs: lists of dirty inodes, request tables */                            \
	X(MAPPING)   /* pagecache: folio tree of one inode */                                      \
	X(FOLIO)     /* pagecache: one folio */                                                    \
	X(RECLAIM)   /* pagecache: LRU lists, memory accounting */                                 \
	X(NODES)     /* vault: cache of decoded tree nodes */                                      \
	X(FETCH)     /* vault: fetches under way */                                                \
	X(JOURNAL)   /* journal: segment tail */                                                   \
	X(CACHE)     /* cache: presence maps, LRU */                                               \
	X(FILTER)    /* store: fault filters */                                                    \
	X(STORE)     /* store: queues */                                                           \
	X(POOL)      /* aio: work queues, timers, completion */                                    \
	X(FUSE)      /* fuse: calls in flight, notification queue */                               \
	X(LEAF)      /* anything that takes no further lock */                                     \
	X(TRACE)     /* base: trace ring, log */

enum nf_rank {
#define X(name) NF_RANK_##name,
	NF_RANKS(X)
#undef X
	NF_RANK_NR
};

#if defined(__clang__)
#define NF_TSA(x) __attribute__((x))
#else
#define NF_TSA(x)
#endif
#define NF_CAPABILITY NF_TSA(capability("mutex"))
#define NF_REQUIRES(...) NF_TSA(requires_capability(__VA_ARGS__))
#define NF_ACQUIRE(...) NF_TSA(acquire_capability(__VA_ARGS__))
#define NF_RELEASE(...) NF_TSA(release_capability(__VA_ARGS__))
#define NF_EXCLUDES(...) NF_TSA(locks_excluded(__VA_ARGS__))
#define NF_NO_TSA NF_TSA(no_thread_safety_analysis)

struct NF_CAPABILITY nf_lock {
	pthread_mutex_t m;
	enum nf_rank rank;
};

#define NF_LOCK_INIT(r) { .m = PTHREAD_MUTEX_INITIALIZER, .rank = (r) }

void nf_lock_init(struct nf_lock *l, enum nf_rank rank);
void nf_lock_deinit(struct nf_lock *l);
void nf_lock_take(struct nf_lock *l) NF_ACQUIRE(*l);
void nf_lock_drop(struct nf_lock *l) NF_RELEASE(*l);

/* True in lock-checking builds if this thread holds L; always true otherwise. */
bool nf_lock_held(const struct nf_lock *l);

/* A condition; waits on CLOCK_MONOTONIC. */
struct nf_cond {
	pthread_cond_t c;
};
void nf_cond_init(struct nf_cond *c);
void nf_cond_deinit(struct nf_cond *c);
void nf_cond_wait(struct nf_cond *c, struct nf_lock *l) NF_REQUIRES(*l);
/* False when DEADLINE_NS (nf_clock_ns()) passed first. */
bool nf_cond_wait_until(struct nf_cond *c, struct nf_lock *l, uint64_t deadline_ns)
	NF_REQUIRES(*l);
void nf_cond_signal(struct nf_cond *c);
void nf_cond_broadcast(struct nf_cond *c);

const char *nf_rank_name(enum nf_rank rank);

#endif
