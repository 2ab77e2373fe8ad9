/* tests/lib/conform.h - what every store must do, run over any of them.
 *
 * Bodies are made from their names, so that a body is checked without keeping it. */
#ifndef NF_TESTS_CONFORM_H
#define NF_TESTS_CONFORM_H

#include "foliofs/store.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/text.h"

#include <pthread.h>
#include <stdio.h>

static inline uint8_t conform_byte(const char *name, uint64_t at)
{
	uint64_t h = 5381;

	for (; *name; name++)
		h = h * 33 + (uint8_t)*name;
	return (uint8_t)(nf_mix64(h + at / 8 + 1) >> (at % 8 * 8));
}

static inline void conform_fill(const char *name, uint64_t offset, uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		p[i] = conform_byte(name, offset + i);
}

static inline bool conform_same(const char *name, uint64_t offset, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != conform_byte(name, offset + i))
			return false;
	return true;
}

#define CONFORM(cond, ...)                                                                         \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			nf_textf(why, "line %d: %s: ", __LINE__, #cond);                           \
			nf_textf(why, __VA_ARGS__);                                                \
			return -1;                                                                 \
		}                                                                                  \
	} while (0)

static inline void conform_name(struct nf_store_op *op, enum nf_store_verb verb, const char *name)
{
	*op = (struct nf_store_op){ .verb = verb };
	snprintf(op->name, sizeof op->name, "%s", name);
}

static inline int conform_put(struct nf_store *s, const char *name, size_t len)
{
	struct nf_store_op op;
	uint8_t *p = malloc(len + 1);
	/* Several pieces, one of them empty. */
	struct iovec iov[3] = { { p, len / 3 }, { NULL, 0 }, { p + len / 3, len - len / 3 } };

	conform_name(&op, NF_STORE_PUT, name);
	conform_fill(name, 0, p, len);
	op.iov = iov;
	op.nr_iov = 3;
	op.length_bytes = len;
	int r = nf_store_run(s, &op);
	free(p);
	return r;
}

static inline int conform_get(struct nf_store *s, const char *name, uint64_t offset, size_t len,
			      bool whole, struct nf_store_op *op, bool *same)
{
	uint8_t *p = malloc(len + 1);

	conform_name(op, NF_STORE_GET, name);
	op->offset_bytes = offset;
	op->length_bytes = len;
	op->whole = whole;
	op->buf = p;
	int r = nf_store_run(s, op);
	*same = !r && conform_same(name, offset, p, op->transferred_bytes);
	free(p);
	return r;
}

static inline int conform_objects(struct nf_store *s, struct nf_text *why)
{
	struct nf_store_op op;
	bool same;
	const char *big = "packs/ab/big-object-1";
	int r = conform_put(s, big, 1500000);

	CONFORM(r == 0, "%s", nf_error_name(r));
	r = conform_put(s, "packs/ab/empty", 0);
	CONFORM(r == 0, "%s", nf_error_name(r));
	r = conform_put(s, "hint", 70);
	CONFORM(r == 0, "%s", nf_error_name(r));
	r = conform_put(s, "hint", 50);
	CONFORM(r == 0, "%s", nf_error_name(r));
	conform_name(&op, NF_STORE_STAT, "hint");
	r = nf_store_run(s, &op);
	CONFORM(r == 0 && op.size_bytes == 50, "%s %llu", nf_error_name(r),
		(unsigned long long)op.size_bytes);
	CONFORM(op.server_date_s > 1600000000, "%lld", (long long)op.server_date_s);
	static const struct {
		uint64_t offset;
		size_t len;
		bool whole;
		int error;
		size_t got;
	} gets[] = {
		{ 0, 1500000, false, 0, 1500000 },      { 0, 1, false, 0, 1 },
		{ 1499999, 1, false, 0, 1 },            { 700001, 65536, false, 0, 65536 },
		{ 0, 2000000, true, 0, 1500000 },       { 0, 4096, true, 0, 4096 },
		{ 1499990, 4096, true, 0, 10 },         { 1500000, 4096, true, 0, 0 },
		{ 1499990, 11, false, -NF_E_STORE_SHORT, 0 },
		{ 1500000, 1, false, -NF_E_STORE_SHORT, 0 },
		{ 9000000, 1, false, -NF_E_STORE_SHORT, 0 },
		{ 0, 0, false, 0, 0 },
	};
	for (size_t i = 0; i < NF_ARRAY_LEN(gets); i++) {
		r = conform_get(s, big, gets[i].offset, gets[i].len, gets[i].whole, &op, &same);
		CONFORM(r == gets[i].error, "get %zu: %s", i, nf_error_name(r));
		if (r)
			continue;
		CONFORM(op.transferred_bytes == gets[i].got, "get %zu: %zu", i, op.transferred_bytes);
		CONFORM(op.size_bytes == 1500000, "get %zu", i);
		CONFORM(same, "get %zu", i);
	}
	r = conform_get(s, "packs/ab/empty", 0, 100, true, &op, &same);
	CONFORM(r == 0 && op.transferred_bytes == 0 && op.size_bytes == 0, "%s", nf_error_name(r));
	r = conform_get(s, "packs/ab/empty", 0, 100, false, &op, &same);
	CONFORM(r == -NF_E_STORE_SHORT, "%s", nf_error_name(r));
	r = conform_get(s, "packs/ab/none", 0, 1, false, &op, &same);
	CONFORM(r == -NF_E_STORE_NOT_FOUND, "%s", nf_error_name(r));
	r = conform_get(s, "nowhere/at/all", 0, 1, false, &op, &same);
	CONFORM(r == -NF_E_STORE_NOT_FOUND, "%s", nf_error_name(r));
	conform_name(&op, NF_STORE_STAT, "packs/ab/none");
	r = nf_store_run(s, &op);
	CONFORM(r == -NF_E_STORE_NOT_FOUND, "%s", nf_error_name(r));
	return 0;
}

static inline int conform_lists(struct nf_store *s, struct nf_text *why)
{
	struct nf_store_op op;

	conform_name(&op, NF_STORE_LIST, "packs/ab");
	int r = nf_store_run(s, &op);
	CONFORM(r == 0, "%s", nf_error_name(r));
	CONFORM(op.nr_entries == 2, "%zu", op.nr_entries);
	CONFORM(!strcmp(op.entries[0].name, "big-object-1"), "%s", op.entries[0].name);
	CONFORM(op.entries[0].size_bytes == 1500000 && !op.entries[0].is_dir, "%llu",
		(unsigned long long)op.entries[0].size_bytes);
	CONFORM(op.entries[0].mtime_s > 1600000000, "%lld", (long long)op.entries[0].mtime_s);
	CONFORM(!strcmp(op.entries[1].name, "empty") && !op.entries[1].size_bytes, "%s",
		op.entries[1].name);
	nf_store_op_deinit(&op);
	conform_name(&op, NF_STORE_LIST, "");
	r = nf_store_run(s, &op);
	CONFORM(r == 0, "%s", nf_error_name(r));
	CONFORM(op.nr_entries == 2, "%zu", op.nr_entries);
	CONFORM(!strcmp(op.entries[0].name, "hint") && !op.entries[0].is_dir, "%s",
		op.entries[0].name);
	CONFORM(!strcmp(op.entries[1].name, "packs") && op.entries[1].is_dir, "%s",
		op.entries[1].name);
	nf_store_op_deinit(&op);
	conform_name(&op, NF_STORE_LIST, "nowhere");
	r = nf_store_run(s, &op);
	CONFORM(r == -NF_E_STORE_NOT_FOUND, "%s", nf_error_name(r));
	return 0;
}

static inline int conform_deletes(struct nf_store *s, struct nf_text *why)
{
	static const char *const names[] = { "packs/ab/big-object-1", "packs/ab/empty", "hint" };
	struct nf_store_op op;

	/* Twice: what is gone is gone. */
	for (int i = 0; i < 6; i++) {
		conform_name(&op, NF_STORE_DELETE, names[i % 3]);
		int r = nf_store_run(s, &op);
		CONFORM(r == 0, "delete %d: %s", i, nf_error_name(r));
	}
	conform_name(&op, NF_STORE_LIST, "packs/ab");
	int r = nf_store_run(s, &op);
	CONFORM(r == 0 && op.nr_entries == 0, "%s %zu", nf_error_name(r), op.nr_entries);
	nf_store_op_deinit(&op);
	return 0;
}

/* -- many at once -- */

enum { CONFORM_MANY = 40, CONFORM_MANY_BYTES = 50000 };

struct conform_many {
	pthread_mutex_t lock;
	pthread_cond_t idle;
	int left;
	int errors;
	struct nf_store_op ops[CONFORM_MANY];
	struct iovec iov[CONFORM_MANY];
	uint8_t body[CONFORM_MANY][CONFORM_MANY_BYTES];
};

static inline void conform_many_done(struct nf_store_op *op)
{
	struct conform_many *m = op->ctx;

	pthread_mutex_lock(&m->lock);
	m->errors += op->error != 0;
	m->left--;
	pthread_cond_signal(&m->idle);
	pthread_mutex_unlock(&m->lock);
}

static inline int conform_round(struct nf_store *s, struct conform_many *m, enum nf_store_verb verb)
{
	m->left = CONFORM_MANY;
	m->errors = 0;
	for (int i = 0; i < CONFORM_MANY; i++) {
		struct nf_store_op *op = &m->ops[i];
		char name[64];
		snprintf(name, sizeof name, "many/d%d/o%d", i % 5, i);
		conform_name(op, verb, name);
		op->priority = (enum nf_store_priority)(i % 3);
		if (verb == NF_STORE_PUT)
			conform_fill(name, 0, m->body[i], CONFORM_MANY_BYTES);
		else
			memset(m->body[i], 0, CONFORM_MANY_BYTES);
		m->iov[i] = (struct iovec){ m->body[i], CONFORM_MANY_BYTES };
		op->iov = &m->iov[i];
		op->nr_iov = 1;
		op->buf = m->body[i];
		op->length_bytes = CONFORM_MANY_BYTES;
		op->done = conform_many_done;
		op->ctx = m;
		nf_store_submit(s, op);
	}
	pthread_mutex_lock(&m->lock);
	while (m->left)
		pthread_cond_wait(&m->idle, &m->lock);
	pthread_mutex_unlock(&m->lock);
	return m->errors;
}

static inline int conform_parallel(struct nf_store *s, struct nf_text *why)
{
	nf_auto_free struct conform_many *m = calloc(1, sizeof *m);

	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->idle, NULL);
	int bad = conform_round(s, m, NF_STORE_PUT);
	CONFORM(bad == 0, "%d PUTs: first %s", bad, nf_error_name(m->ops[0].error));
	bad = conform_round(s, m, NF_STORE_GET);
	CONFORM(bad == 0, "%d GETs", bad);
	for (int i = 0; i < CONFORM_MANY; i++)
		CONFORM(conform_same(m->ops[i].name, 0, m->body[i], CONFORM_MANY_BYTES), "object %d", i);
	bad = conform_round(s, m, NF_STORE_DELETE);
	CONFORM(bad == 0, "%d DELETEs", bad);
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->idle);
	return 0;
}

/* 0, or -1 and WHY says what differed.  The store must be empty. */
static inline int conform_run(struct nf_store *s, struct nf_text *why)
{
	int r = conform_objects(s, why);

	r = r ? r : conform_lists(s, why);
	r = r ? r : conform_deletes(s, why);
	return r ? r : conform_parallel(s, why);
}

#endif
