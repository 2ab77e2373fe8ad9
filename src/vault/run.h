/* vault/run.h - one call of the FUSE edge on its way through the vault (call.c). */
#ifndef NF_VAULT_RUN_H
#define NF_VAULT_RUN_H

#include "vault/vault_i.h"

/* l v->run_lock (so that an interrupt may look at a call whose run is ending);  s only the step or the completion under way touches it (they never overlap) */
struct nf_run {
	struct nf_vault *v;
	struct nf_call *call;   /* l  NULL once answered or abandoned */
	enum nf_call_op op;
	bool stepping;          /* l  a handler runs: no abandoning now */
	struct nf_work work;
	struct nf_list waiting; /* on a vnode's list, or the vault's; under ns */
	struct nf_want want;    /* s */
	struct nf_fetch_nodes *fetch; /* s */
	void *state;            /* s  the handler's, freed with the run */
	void *buf;              /* s  likewise */
	struct nf_vnode *vn, *vn2; /* s  references, dropped with the run */
	struct nf_io io;        /* s */
	struct iovec iov[2];    /* s */
	unsigned phase;         /* s  where a handler that runs in steps stands */
	int error;              /* s  of the last step */
	bool past;              /* s  a write past the kernel's pages (past.c) */
	uint64_t sync_seq;      /* the dot it waits for; under ns */
	enum nf_room_use room_use; /* space.c */
	uint64_t room_bytes;    /* what it may come to write; 0: nothing */
	bool room_taken;        /* and that is taken from the account */
	uint64_t room_since_ns; /* since when it waits for room, 0: it does not; under ns */
	bool room_given_up;     /* its caller wants no answer any more; under ns */
	/* Set by a handler that returns NF_CALL_PENDING: called once the lock is dropped. */
	void (*start)(struct nf_run *run);
};

static inline struct nf_run *nf_run_of(struct nf_call *c) { return c->fs_priv[0]; }
/* Takes the call off the run: NULL if it was abandoned. */
struct nf_call *nf_run_claim(struct nf_run *run);
/* Answers (unless abandoned) and frees the run. Not under any lock. */
void nf_run_end(struct nf_run *run, int error);
/* Runs the handler again on the pool. Any context. */
void nf_run_again(struct nf_run *run);
void nf_run_step(struct nf_run *run);

extern const struct nf_fs_ops nf_vault_fs_ops;

#endif
