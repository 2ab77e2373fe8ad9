/* A store in memory behind a fault filter, a ring, and what the tests of fetching, packs and heads do with them. */
#ifndef NF_TESTS_VAULT_WORLD_H
#define NF_TESTS_VAULT_WORLD_H

#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "codec/codec.h"
#include "store/fault.h"
#include "foliofs/store.h"
#include "suite.h"
#include "vault/pack.h"

#include <stdio.h>
#include <unistd.h>

struct world {
	struct nf_store *store; /* fault filter on mem: */
	struct nf_ring *ring;
	struct nf_codec *codec;
};

static inline void world_init(struct world *w)
{
	static int nr;
	struct nf_ring_epoch e = { .epoch = 1, .created_s = 1, .master = { 1 } };
	uint8_t id[16] = { 7 }, hash_key[16] = { 2 };
	char address[64];

	snprintf(address, sizeof address, "fault+mem:w%d-%d", (int)getpid(), ++nr);
	ck_assert_int_eq(nf_store_open(address, NULL, true, &w->store), 0);
	ck_assert_int_eq(nf_ring_new(id, &e, 1, hash_key, &w->ring), 0);
	w->codec = nf_codec_get(w->ring);
}

static inline void world_deinit(struct world *w)
{
	nf_codec_put(w->codec);
	nf_ring_free(w->ring);
	nf_store_free(w->store);
}

static inline uint64_t world_seen(struct world *w, enum nf_store_verb verb)
{
	struct nf_store_fault_counts c;
	nf_store_fault_counts(w->store, &c);
	return c.seen[verb];
}

static inline int world_put(struct world *w, const char *name, const void *p, size_t len)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)p, .iov_len = len };
	struct nf_store_op op = { .verb = NF_STORE_PUT, .iov = &iov, .nr_iov = 1, .length_bytes = len };
	snprintf(op.name, sizeof op.name, "%s", name);
	return nf_store_run(w->store, &op);
}

static inline int world_delete(struct world *w, const char *name)
{
	struct nf_store_op op = { .verb = NF_STORE_DELETE };
	snprintf(op.name, sizeof op.name, "%s", name);
	return nf_store_run(w->store, &op);
}

static inline size_t world_list(struct world *w, const char *dir)
{
	struct nf_store_op op = { .verb = NF_STORE_LIST };
	snprintf(op.name, sizeof op.name, "%s", dir);
	(void)nf_store_run(w->store, &op);
	size_t nr = op.nr_entries;
	nf_store_op_deinit(&op);
	return nr;
}

#endif
