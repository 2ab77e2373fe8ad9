/* tests/lib/gate.h - a store with a gate before it: it may be shut after so many operations, and tells a test when a
 * name is about to be written. */
#ifndef NF_TESTS_GATE_H
#define NF_TESTS_GATE_H

#include "foliofs/error.h"
#include "foliofs/store.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct gate {
	struct nf_store base;
	struct nf_store *below;
	_Atomic uint64_t nr;      /* operations so far */
	_Atomic uint64_t shut_at; /* from this one on nothing passes; 0: never */
	const char *before;       /* prefix of the PUT before which HOOK is called, once */
	void (*hook)(void *ctx);
	void *ctx;
};

static inline void gate_submit(struct nf_store *s, struct nf_store_op *op)
{
	struct gate *g = (struct gate *)s;
	uint64_t n = atomic_fetch_add(&g->nr, 1) + 1, shut = atomic_load(&g->shut_at);

	if (shut && n >= shut) {
		op->error = -NF_E_OFFLINE;
		op->done(op);
		return;
	}
	if (g->hook && op->verb == NF_STORE_PUT && !strncmp(op->name, g->before, strlen(g->before))) {
		void (*hook)(void *ctx) = g->hook;
		g->hook = NULL;
		hook(g->ctx);
	}
	nf_store_submit(g->below, op);
}

static inline void gate_cancel(struct nf_store *s, struct nf_store_op *op)
{
	struct gate *g = (struct gate *)s;
	if (!atomic_load(&g->shut_at))
		nf_store_cancel(g->below, op);
}

static inline void gate_free(struct nf_store *s)
{
	struct gate *g = (struct gate *)s;
	nf_store_free(g->below);
	free(g);
}

/* Takes BELOW. */
static inline struct gate *gate_new(struct nf_store *below)
{
	static const struct nf_store_ops ops = { .name = "gate", .submit = gate_submit, .cancel = gate_cancel,
						 .free = gate_free };
	struct gate *g = calloc(1, sizeof *g);

	g->base.ops = &ops;
	atomic_init(&g->base.max_put_bytes, atomic_load(&below->max_put_bytes));
	g->below = below;
	return g;
}

#endif
