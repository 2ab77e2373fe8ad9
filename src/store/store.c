#include "foliofs/store.h"
#include "store/types.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/trace.h"

static const enum nf_counter verb_counter[NF_STORE_VERB_NR] = {
	[NF_STORE_GET] = NF_C_STORE_GET,       [NF_STORE_PUT] = NF_C_STORE_PUT,
	[NF_STORE_STAT] = NF_C_STORE_STAT,     [NF_STORE_LIST] = NF_C_STORE_LIST,
	[NF_STORE_DELETE] = NF_C_STORE_DELETE,
};

bool nf_store_part_ok(const char *part, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		char c = part[i];
		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'))
			return false;
	}
	return len > 0;
}

bool nf_store_name_ok(const char *name, bool empty_ok)
{
	size_t len = strnlen(name, NF_STORE_NAME_MAX);

	if (len == NF_STORE_NAME_MAX)
		return false;
	if (len == 0)
		return empty_ok;
	for (const char *p = name;; p++) {
		size_t part = strcspn(p, "/");
		if (!nf_store_part_ok(p, part))
			return false;
		p += part;
		if (*p == '\0')
			return true;
	}
}

bool nf_store_iov_ok(const struct nf_store_op *op)
{
	size_t sum = 0;

	for (int i = 0; i < op->nr_iov; i++)
		if (__builtin_add_overflow(sum, op->iov[i].iov_len, &sum))
			return false;
	return sum == op->length_bytes;
}

/* What is wrong with OP for S before any store sees it. */
static int check(const struct nf_store *s, const struct nf_store_op *op)
{
	if (!nf_store_name_ok(op->name, op->verb == NF_STORE_LIST))
		return nf_fail(-EINVAL);
	if (s->read_only && (op->verb == NF_STORE_PUT || op->verb == NF_STORE_DELETE))
		return nf_fail(-NF_E_STORE_READONLY);
	if (s->no_list && op->verb == NF_STORE_LIST)
		return nf_fail(-EOPNOTSUPP);
	if (op->verb != NF_STORE_PUT)
		return 0;
	if (!nf_store_iov_ok(op))
		return nf_fail(-EINVAL);
	if (op->length_bytes > s->max_put_bytes)
		return nf_fail(-NF_E_STORE_TOO_LARGE);
	return 0;
}

void nf_store_submit(struct nf_store *s, struct nf_store_op *op)
{
	NF_ASSERT(op->verb >= 0 && op->verb < NF_STORE_VERB_NR);
	NF_ASSERT(op->done);
	op->error = 0;
	op->transferred_bytes = 0;
	op->size_bytes = 0;
	op->server_date_s = 0;
	op->entries = NULL;
	op->nr_entries = 0;
	nf_count(verb_counter[op->verb], 1);
	int r = check(s, op);
	if (r) {
		op->error = r;
		op->done(op);
		return;
	}
	s->ops->submit(s, op);
}

void nf_store_cancel(struct nf_store *s, struct nf_store_op *op) { s->ops->cancel(s, op); }

int nf_store_probe(struct nf_store *s) { return s->ops->probe ? s->ops->probe(s) : 0; }

void nf_store_op_deinit(struct nf_store_op *op)
{
	for (size_t i = 0; i < op->nr_entries; i++)
		free(op->entries[i].name);
	free(op->entries);
	op->entries = NULL;
	op->nr_entries = 0;
}

void nf_store_free(struct nf_store *s)
{
	if (s)
		s->ops->free(s);
}

void nf_store_finish(struct nf_store_op *op, int error)
{
	op->error = error;
	if (!error && op->verb == NF_STORE_PUT)
		op->transferred_bytes = op->length_bytes;
	if (op->verb == NF_STORE_PUT)
		nf_count(NF_C_STORE_BYTES_OUT, op->transferred_bytes);
	else
		nf_count(NF_C_STORE_BYTES_IN, op->transferred_bytes);
	nf_trace(STORE, "verb=%d name=%s error=%s bytes=%zu", (int)op->verb, op->name,
		 error ? nf_error_name(error) : "0", op->transferred_bytes);
	op->done(op);
}

int nf_store_clip(struct nf_store_op *op, uint64_t size_bytes, size_t *n)
{
	uint64_t left = op->offset_bytes < size_bytes ? size_bytes - op->offset_bytes : 0;

	op->size_bytes = size_bytes;
	if (left < op->length_bytes && !op->whole)
		return nf_fail(-NF_E_STORE_SHORT);
	*n = (size_t)NF_MIN(left, (uint64_t)op->length_bytes);
	return 0;
}

/* -- the blocking call -- */

struct waiter {
	struct nf_lock lock;
	struct nf_cond cond;
	bool done;
};

static void wake(struct nf_store_op *op)
{
	struct waiter *w = op->ctx;

	/* Signalled under the lock: the waiter's frame may go once it is dropped. */
	nf_lock_take(&w->lock);
	w->done = true;
	nf_cond_signal(&w->cond);
	nf_lock_drop(&w->lock);
}

int nf_store_wait(struct nf_store *s, struct nf_store_op *op,
		  void (*submit)(struct nf_store *s, struct nf_store_op *op))
{
	struct waiter w = { 0 };

	nf_lock_init(&w.lock, NF_RANK_LEAF);
	nf_cond_init(&w.cond);
	op->done = wake;
	op->ctx = &w;
	submit(s, op);
	nf_lock_take(&w.lock);
	while (!w.done)
		nf_cond_wait(&w.cond, &w.lock);
	nf_lock_drop(&w.lock);
	nf_cond_deinit(&w.cond);
	nf_lock_deinit(&w.lock);
	return op->error;
}

int nf_store_run(struct nf_store *s, struct nf_store_op *op)
{
	return nf_store_wait(s, op, nf_store_submit);
}

/* -- known directories -- */

void nf_known_deinit(struct nf_known *k)
{
	for (size_t i = 0; i < k->nr; i++)
		free(k->v[i]);
	free(k->v);
	*k = (struct nf_known){ 0 };
}

bool nf_known_has(const struct nf_known *k, const char *path, size_t len)
{
	for (size_t i = 0; i < k->nr; i++)
		if (strlen(k->v[i]) == len && !memcmp(k->v[i], path, len))
			return true;
	return false;
}

void nf_known_add(struct nf_known *k, const char *path, size_t len)
{
	if (nf_known_has(k, path, len))
		return;
	if (k->nr == NF_KNOWN_MAX)
		nf_known_deinit(k);
	if (!k->v)
		k->v = calloc(NF_KNOWN_MAX, sizeof *k->v);
	char *copy = k->v ? strndup(path, len) : NULL;
	if (copy)
		k->v[k->nr++] = copy;
}

/* -- listings -- */

void nf_entries_deinit(struct nf_entries *e)
{
	for (size_t i = 0; i < e->nr; i++)
		free(e->v[i].name);
	free(e->v);
	*e = (struct nf_entries){ 0 };
}

int nf_entries_add(struct nf_entries *e, const char *name, size_t name_len, bool is_dir,
		   uint64_t size_bytes, int64_t mtime_s)
{
	if (e->nr == NF_STORE_LIST_MAX)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	if (e->nr == e->cap) {
		size_t cap = e->cap ? e->cap * 2 : 64;
		struct nf_store_entry *v = realloc(e->v, cap * sizeof *v);
		if (!v)
			return nf_fail(-ENOMEM);
		e->v = v;
		e->cap = cap;
	}
	char *copy = strndup(name, name_len);
	if (!copy)
		return nf_fail(-ENOMEM);
	e->v[e->nr++] = (struct nf_store_entry){ .name = copy,
						 .size_bytes = is_dir ? 0 : size_bytes,
						 .mtime_s = mtime_s,
						 .is_dir = is_dir };
	return 0;
}

static int by_name(const void *a, const void *b)
{
	const struct nf_store_entry *x = a, *y = b;

	return strcmp(x->name, y->name);
}

void nf_entries_give(struct nf_entries *e, struct nf_store_op *op)
{
	size_t kept = 0;

	if (e->nr)
		qsort(e->v, e->nr, sizeof *e->v, by_name);
	for (size_t i = 0; i < e->nr; i++) {
		if (kept && !strcmp(e->v[kept - 1].name, e->v[i].name))
			free(e->v[i].name);
		else
			e->v[kept++] = e->v[i];
	}
	op->entries = e->v;
	op->nr_entries = kept;
	*e = (struct nf_entries){ 0 };
}

/* -- local stores -- */

struct local_work {
	struct nf_work work;
	struct nf_local *local;
	struct nf_store_op *op;
	_Atomic bool cancelled;
};

static void local_run(struct nf_work *work)
{
	struct local_work *w = nf_container_of(work, struct local_work, work);
	int r = w->cancelled ? nf_fail(-NF_E_CANCELLED) : w->local->run(w->local->store, w->op);

	w->op->server_date_s = nf_clock_real().tv_sec;
	nf_store_finish(w->op, r);
	/* Kept until done has returned: until then cancel may look at it. */
	free(w);
}

void nf_local_submit(struct nf_local *l, struct nf_store_op *op)
{
	struct local_work *w = calloc(1, sizeof *w);

	if (!w) {
		nf_store_finish(op, nf_fail(-ENOMEM));
		return;
	}
	nf_work_init(&w->work, local_run);
	w->local = l;
	w->op = op;
	op->priv[0] = w;
	nf_pool_add(l->pool, &w->work);
}

void nf_local_cancel(struct nf_store_op *op)
{
	struct local_work *w = op->priv[0];

	w->cancelled = true;
}
