/* vault/fetch_get.h - one pack as the fetcher sees it:
 *
 *   offset   0       4K      8K      12K     16K     20K     24K     28K
 *   gets     |== A: running ========|       |== B: queued ==|        disjoint, on unit boundaries
 *   req 1       [~~~~~~~~~]                                          waits for A
 *   req 2                        [~~~~~~~~~~~~~]                     waits for A, for B, and for a new get between
 *
 *   get:  QUEUED -> RUNNING -> FILLED -> gone          FILLED while the cache stores the bytes (or, without a cache,
 *            |         `-----> FAILED                  while metadata is kept as a window): who comes then is
 *            `-> gone (cancelled)                      served from the buffer
 *
 * A request is first tried on the cache, whole.  What it lacks is cut into pieces along the gets of the pack; each
 * piece is a waiter of one get; the request ends when its last piece has.  A get asks with op->whole, since it may
 * reach over the end of the pack, whose length nobody knows; a piece beyond what came is an error.
 *
 * Memory: at most GET_BYTES_MAX in buffers between the sending of a get and the end of its insert; further gets
 * queue, foreground first, and grow there to NF_GET_MAX_BYTES by what is adjacent.  What is
 * lent out may live longer; who borrows bounds it.  Large buffers are used again while anything is under way: fresh
 * pages cost more than what is written to them. */
#ifndef NF_VAULT_FETCH_GET_H
#define NF_VAULT_FETCH_GET_H

#include "vault/fetch_priv.h"

#include "base/avl.h"
#include "base/list.h"
#include "base/lock.h"

enum {
	NF_GET_MAX_BYTES = 8 << 20,
	NF_FETCH_SPARE_MAX = 8,
	NF_FETCH_PRIORITIES = NF_STORE_BACKGROUND + 1,
};

enum nf_get_state { NF_GET_QUEUED, NF_GET_RUNNING, NF_GET_FILLED, NF_GET_FAILED };

/* l lock;  I set before publication;  o its owner's: whoever runs the get's present step */
struct nf_get {
	struct nf_avl_node node;        /* l  of f->gets, unless failed or cancelled */
	struct nf_list link;            /* l  of f->queue[priority] or f->windows */
	struct nf_list waiters;         /* l */
	struct nf_fetch *f;             /* I */
	struct nf_pack_id pack;         /* I */
	uint64_t start, end;            /* l while queued, then fixed */
	uint64_t filled_end;            /* l */
	uint8_t *buf;                   /* o */
	unsigned refs;                  /* l */
	enum nf_get_state state;        /* l */
	enum nf_store_priority priority; /* l */
	bool meta;                      /* l */
	bool torn;                      /* l  it ends before what somebody knows to be there: not for the cache */
	bool submitting;                /* l  nf_store_submit() has not returned: not to be cancelled */
	bool cancelling;                /* l */
	pthread_t canceller;            /* l */
	struct nf_store_op op;          /* o */
	struct nf_cache_io insert;      /* o */
	bool lasting;                   /* o  announced to the cache: nodes, which it is to keep through a power cut */
	unsigned round;                 /* o  of that */
};

/* A piece of a request, of one get. */
struct nf_get_waiter {
	struct nf_list link;   /* l  of get->waiters, or of a list on its way to nf_fetch_deliver() */
	struct nf_list of_req; /* l  of req->waiters while it can be cancelled */
	struct nf_fetch_req *req;
	struct nf_get *get; /* a reference, while on its way to nf_fetch_deliver() */
	uint64_t start, end;
	int error;
};

struct nf_fetch_req {
	struct nf_list link;    /* l  of f->reqs */
	struct nf_list waiters; /* l */
	struct nf_fetch *f;
	struct nf_fetch_io *io;
	enum nf_fetch_kind kind;
	unsigned pending; /* l  pieces, and one for the step under way */
	int error;        /* l */
	uint32_t more_bytes; /* of the io's, what is not in the cache */
	struct nf_cache_io read;
};

struct nf_fetch {
	struct nf_fetch_options o; /* I */
	struct nf_lock lock;
	struct nf_cond idle;
	struct nf_avl gets;                   /* l  by pack and start */
	struct nf_list reqs;                  /* l */
	struct nf_list queue[NF_FETCH_PRIORITIES];     /* l */
	struct nf_list windows;               /* l  least recently used first */
	size_t window_bytes;                  /* l */
	size_t bytes;                         /* l  in buffers */
	unsigned running;                     /* l */
	unsigned active;                      /* l  requests, gets, loans, and a pump */
	void *spare[NF_FETCH_SPARE_MAX];      /* l  buffers, while anything is active */
	unsigned nr_spare;                    /* l */
	bool pumping;                         /* l */
};

struct nf_get_key {
	const struct nf_pack_id *pack;
	uint64_t start;
};

/* --- fetch_get.c -------------------------------------------------------------------- */
/* The get that holds POS or, if none does, the next one behind; *BEFORE is the one before POS that does not reach it. */
struct nf_get *nf_get_find_locked(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t pos,
				  struct nf_get **before) NF_REQUIRES(f->lock);
int nf_get_cmp(const void *key, const struct nf_avl_node *n);
struct nf_get *nf_get_new(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t start, uint64_t end);
void nf_get_put_locked(struct nf_fetch *f, struct nf_get *g) NF_REQUIRES(f->lock);
void nf_get_unlink_locked(struct nf_fetch *f, struct nf_get *g) NF_REQUIRES(f->lock);
/* Windows: metadata that is kept in memory for a while. */
bool nf_get_is_window_locked(const struct nf_get *g);
void nf_get_drop_window_locked(struct nf_fetch *f, struct nf_get *g) NF_REQUIRES(f->lock);
void nf_fetch_drop_windows_locked(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t start, uint64_t end)
	NF_REQUIRES(f->lock);
/* Sends what may be sent.  One thread at a time does, so that a store that ends its operations at once does not
 * make this recursive: the others leave it to that one, who looks again under the lock before it ends. */
void nf_fetch_pump(struct nf_fetch *f);
void nf_fetch_idle_step_locked(struct nf_fetch *f) NF_REQUIRES(f->lock);
/* Memory for LEN bytes, perhaps used before. */
void *nf_fetch_buf_locked(struct nf_fetch *f, size_t len) NF_REQUIRES(f->lock);
/* NULL allowed. */
void nf_fetch_buf_free_locked(struct nf_fetch *f, void *buf, size_t len) NF_REQUIRES(f->lock);

void nf_req_set_error_locked(struct nf_fetch_req *rq, int error);
/* Takes one off PENDING; a request that has none left goes to DONE, for nf_fetch_finish_reqs(). */
void nf_req_step_locked(struct nf_fetch_req *rq, struct nf_list *done);
/* A request that several gets, or the cache, answer needs memory of its own to lend. */
int nf_fetch_need_own_locked(struct nf_fetch *f, struct nf_fetch_io *io) NF_REQUIRES(f->lock);
void nf_fetch_finish_reqs(struct nf_fetch *f, struct nf_list *done);
/* Gives each piece on the list its bytes (ERROR 0) or ERROR.  The copies are made without the lock: a piece here can
 * no longer be cancelled, its get is held by a reference. */
void nf_fetch_deliver(struct nf_fetch *f, struct nf_list *pieces, int error);

#endif
