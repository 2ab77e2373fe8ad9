/* A write through the filter is two operations below; the caller's ends when both have, with the result of the first.
 *
 *   catch-up thread, while BEHIND:  header/, packs/ of both listed and compared; what is missing is copied
 *                                   heads/ then, again until none came meanwhile that the mirror was not sent
 *                                   no write failed meanwhile: IN STEP */
#include "store/mirror.h"

#include "aio/thread.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/trace.h"

#include <stdatomic.h>
#include <stdio.h>

enum { RETRY_MIN_MS = 1000, RETRY_MAX_MS = 60000, OBJECT_MAX = 17 << 20, TRIM_AGE_S = 3600 };

struct mirror;

/* One of the two operations of a write.  l lock */
struct half {
	struct nf_store_op op;
	struct pair *p;
	struct nf_store *below;
	unsigned cancelling; /* l  cancels in the store below */
	bool passing;        /* l  being submitted: cannot be cancelled yet */
	bool ended;          /* l */
};

struct pair {
	struct mirror *m;
	struct nf_store_op *op;
	struct half half[2]; /* the store's, the mirror's */
	unsigned refs;       /* l  halves not ended, and who submits */
	bool cancelled;      /* l */
	bool both;           /* the mirror is written too */
	bool skips;          /* counted in m->skipping */
};

/* I set before publication;  l lock;  T the catch-up thread only */
struct mirror {
	struct nf_store base;
	struct nf_store *first, *second; /* I */
	struct nf_lock lock;
	struct nf_cond changed;
	unsigned pairs;          /* l */
	bool in_step;            /* l */
	uint64_t failures;       /* l  writes that the mirror did not take, ever */
	uint64_t skipped;        /* l  writes that it was not sent, ever */
	unsigned skipping;       /* l  of them, under way in the store */
	bool wake, stop;         /* l */
	_Atomic bool stopping;
	int last_error;          /* l */
	uint64_t copied_objects, copied_bytes; /* l */
	pthread_t thread;        /* I */
	bool thread_runs;        /* I */
	uint8_t *buf;            /* T  OBJECT_MAX */
};

static struct mirror *mirror_of(struct nf_store *s) { return nf_container_of(s, struct mirror, base); }

static bool is_head(const char *name) { return !strncmp(name, "heads/", 6); }

/* -- writes -- */

static void pair_end(struct pair *p)
{
	struct mirror *m = p->m;
	struct nf_store_op *op = p->op, *first = &p->half[0].op;

	op->error = first->error;
	op->transferred_bytes = first->transferred_bytes;
	op->size_bytes = first->size_bytes;
	op->server_date_s = first->server_date_s;
	if (m->first->max_put_bytes < m->base.max_put_bytes)
		m->base.max_put_bytes = m->first->max_put_bytes;
	op->done(op);
	nf_lock_take(&m->lock);
	m->skipping -= p->skips;
	free(p);
	m->pairs--;
	nf_cond_broadcast(&m->changed);
	nf_lock_drop(&m->lock);
}

static void behind_locked(struct mirror *m, int error) NF_REQUIRES(m->lock)
{
	if (m->in_step)
		nf_trace(STORE, "mirror %s is behind: %s", m->second->text, nf_error_name(error));
	m->in_step = false;
	m->failures++;
	m->last_error = error;
	nf_cond_broadcast(&m->changed);
}

static void pair_put(struct pair *p)
{
	struct mirror *m = p->m;

	nf_lock_take(&m->lock);
	bool last = --p->refs == 0;
	nf_lock_drop(&m->lock);
	if (last)
		pair_end(p);
}

static void half_done(struct nf_store_op *op)
{
	struct half *h = op->ctx;
	struct pair *p = h->p;
	struct mirror *m = p->m;

	nf_lock_take(&m->lock);
	while (h->cancelling)
		nf_cond_wait(&m->changed, &m->lock);
	h->ended = true;
	if (h == &p->half[1] && op->error)
		behind_locked(m, op->error);
	nf_lock_drop(&m->lock);
	pair_put(p);
}

static void cancel_half_locked(struct mirror *m, struct half *h) NF_REQUIRES(m->lock)
{
	if (h->ended || h->passing)
		return;
	h->cancelling++;
	nf_lock_drop(&m->lock);
	nf_store_cancel(h->below, &h->op);
	nf_lock_take(&m->lock);
	h->cancelling--;
	nf_cond_broadcast(&m->changed);
}

static void send_half(struct pair *p, int i)
{
	struct half *h = &p->half[i];
	struct mirror *m = p->m;

	h->op = *p->op;
	h->op.done = half_done;
	h->op.ctx = h;
	h->p = p;
	h->below = i ? m->second : m->first;
	nf_store_submit(h->below, &h->op);
	nf_lock_take(&m->lock);
	h->passing = false;
	if (p->cancelled)
		cancel_half_locked(m, h);
	nf_lock_drop(&m->lock);
}

static void mirror_submit(struct nf_store *s, struct nf_store_op *op)
{
	struct mirror *m = mirror_of(s);

	if (op->verb != NF_STORE_PUT && op->verb != NF_STORE_DELETE) {
		m->first->ops->submit(m->first, op);
		return;
	}
	struct pair *p = calloc(1, sizeof *p);
	if (!p) {
		op->error = nf_fail(-ENOMEM);
		op->done(op);
		return;
	}
	p->m = m;
	p->op = op;
	p->refs = 2;
	p->half[0].passing = p->half[1].passing = true;
	op->priv[0] = p;
	nf_lock_take(&m->lock);
	m->pairs++;
	/* A head names packs that may not be there yet. */
	p->both = m->in_step || (op->verb == NF_STORE_PUT && !is_head(op->name));
	p->skips = !p->both;
	p->refs += p->both;
	m->skipped += p->skips;
	m->skipping += p->skips;
	nf_lock_drop(&m->lock);
	if (p->both)
		send_half(p, 1);
	send_half(p, 0);
	pair_put(p);
}

static void mirror_cancel(struct nf_store *s, struct nf_store_op *op)
{
	struct mirror *m = mirror_of(s);

	if (op->verb != NF_STORE_PUT && op->verb != NF_STORE_DELETE) {
		nf_store_cancel(m->first, op);
		return;
	}
	struct pair *p = op->priv[0];
	nf_lock_take(&m->lock);
	bool ending = p->refs == 0;
	if (!ending) {
		p->cancelled = true;
		/* It must not go away while the lock is dropped. */
		p->refs++;
		cancel_half_locked(m, &p->half[0]);
		if (p->both)
			cancel_half_locked(m, &p->half[1]);
	}
	nf_lock_drop(&m->lock);
	if (!ending)
		pair_put(p);
}

/* -- catching up -- */

static int list(struct nf_store *s, const char *dir, struct nf_store_op *op)
{
	*op = (struct nf_store_op){ .verb = NF_STORE_LIST, .priority = NF_STORE_BACKGROUND };
	(void)snprintf(op->name, sizeof op->name, "%s", dir);
	int r = nf_store_run(s, op);
	/* What nobody has made is empty. */
	return r == -NF_E_STORE_NOT_FOUND ? 0 : r;
}

/* Whole and of the same length: a torn copy on the mirror is written again, under its own name; nobody reads it before
 * a head names it. */
static int copy(struct mirror *m, const char *name, uint64_t size_bytes)
{
	struct nf_store_op get = { .verb = NF_STORE_GET, .priority = NF_STORE_BACKGROUND, .buf = m->buf,
				   .length_bytes = (size_t)NF_MIN(size_bytes + 1, (uint64_t)OBJECT_MAX), .whole = true };

	(void)snprintf(get.name, sizeof get.name, "%s", name);
	int r = nf_store_run(m->first, &get);
	if (r == -NF_E_STORE_NOT_FOUND)
		return 0; /* deleted meanwhile */
	if (r == 0 && get.transferred_bytes != get.size_bytes)
		r = nf_fail(-NF_E_STORE_SHORT);
	if (r < 0)
		return r;
	struct iovec iov = { m->buf, get.transferred_bytes };
	struct nf_store_op put = { .verb = NF_STORE_PUT, .priority = NF_STORE_BACKGROUND, .iov = &iov, .nr_iov = 1,
				   .length_bytes = get.transferred_bytes };
	(void)snprintf(put.name, sizeof put.name, "%s", name);
	r = nf_store_run(m->second, &put);
	if (r < 0)
		return r;
	struct nf_store_op stat = { .verb = NF_STORE_STAT, .priority = NF_STORE_BACKGROUND };
	(void)snprintf(stat.name, sizeof stat.name, "%s", name);
	r = nf_store_run(m->second, &stat);
	if (r == 0 && stat.size_bytes != get.transferred_bytes)
		r = nf_fail(-NF_E_STORE_SHORT);
	nf_lock_take(&m->lock);
	m->copied_objects += r == 0;
	m->copied_bytes += r == 0 ? get.transferred_bytes : 0;
	nf_lock_drop(&m->lock);
	return r;
}

/* Listings are sorted by name (store/types.h). */
static const struct nf_store_entry *find(const struct nf_store_op *l, const char *name)
{
	size_t lo = 0, hi = l->nr_entries;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		int c = strcmp(l->entries[mid].name, name);
		if (c == 0)
			return &l->entries[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static int full_name(char *out, size_t size, const char *dir, const char *name)
{
	return (size_t)snprintf(out, size, "%s/%s", dir, name) < size ? 0 : nf_fail(-NF_E_STORE_PROTOCOL);
}

/* Copies what DIR of the store has and the mirror has not, or not whole. */
static int copy_dir(struct mirror *m, const char *dir)
{
	struct nf_store_op a, b = { 0 };
	char name[NF_STORE_NAME_MAX];

	int r = list(m->first, dir, &a);
	if (r == 0)
		r = list(m->second, dir, &b);
	for (size_t i = 0; r == 0 && i < a.nr_entries && !atomic_load(&m->stopping); i++) {
		const struct nf_store_entry *e = &a.entries[i], *there = find(&b, e->name);
		r = full_name(name, sizeof name, dir, e->name);
		if (r == 0 && e->is_dir)
			r = copy_dir(m, name);
		else if (r == 0 && (!there || there->size_bytes != e->size_bytes))
			r = copy(m, name, e->size_bytes);
	}
	nf_store_op_deinit(&a);
	nf_store_op_deinit(&b);
	return r;
}

/* Removes what only the mirror has in DIR: deleted by a device that has no mirror, or while it was away. */
static int trim_dir(struct mirror *m, const char *dir)
{
	struct nf_store_op a = { 0 }, b;

	int r = list(m->second, dir, &b);
	if (r == 0)
		r = list(m->first, dir, &a);
	for (size_t i = 0; r == 0 && i < b.nr_entries && !atomic_load(&m->stopping); i++) {
		const struct nf_store_entry *e = &b.entries[i];
		struct nf_store_op del = { .verb = NF_STORE_DELETE, .priority = NF_STORE_BACKGROUND };
		/* A write under way may have reached the mirror first. */
		if (e->is_dir || !e->mtime_s || b.server_date_s - e->mtime_s < TRIM_AGE_S || find(&a, e->name))
			continue;
		r = full_name(del.name, sizeof del.name, dir, e->name);
		if (r == 0)
			r = nf_store_run(m->second, &del);
	}
	nf_store_op_deinit(&a);
	nf_store_op_deinit(&b);
	return r;
}

static int trim(struct mirror *m)
{
	struct nf_store_op l;
	char dir[NF_STORE_NAME_MAX];

	int r = trim_dir(m, "heads");
	if (r == 0)
		r = list(m->second, "packs", &l);
	else
		return r;
	for (size_t i = 0; r == 0 && i < l.nr_entries && !atomic_load(&m->stopping); i++) {
		if (l.entries[i].is_dir && full_name(dir, sizeof dir, "packs", l.entries[i].name) == 0)
			r = trim_dir(m, dir);
	}
	nf_store_op_deinit(&l);
	return r;
}

/* True: everything the store has is on the mirror, and what comes is sent to both. */
static bool settle_locked(struct mirror *m, uint64_t failures, uint64_t skipped) NF_REQUIRES(m->lock)
{
	if (m->failures != failures || m->skipped != skipped || m->skipping || m->stop)
		return false;
	m->in_step = true;
	m->last_error = 0;
	nf_trace(STORE, "mirror %s is in step", m->second->text);
	nf_cond_broadcast(&m->changed);
	return true;
}

/* Packs that come from the beginning of this on are sent to both, so a head that is listed after the packs were compared
 * names nothing that is missing, unless a write failed meanwhile. */
static int compare(struct mirror *m)
{
	nf_lock_take(&m->lock);
	uint64_t failures = m->failures;
	nf_lock_drop(&m->lock);
	int r = copy_dir(m, "header");
	if (r == 0)
		r = copy_dir(m, "packs");
	for (bool done = false; r == 0 && !done && !atomic_load(&m->stopping);) {
		nf_lock_take(&m->lock);
		while (m->skipping && !m->stop)
			nf_cond_wait(&m->changed, &m->lock);
		uint64_t skipped = m->skipped;
		bool failed = m->failures != failures;
		nf_lock_drop(&m->lock);
		r = failed ? nf_fail(-NF_E_STORE_BUSY) : copy_dir(m, "heads");
		if (r == 0)
			r = trim(m);
		nf_lock_take(&m->lock);
		done = r == 0 && settle_locked(m, failures, skipped);
		nf_lock_drop(&m->lock);
	}
	return r;
}

static void *catch_up(void *arg)
{
	struct mirror *m = arg;
	uint64_t wait_ms = RETRY_MIN_MS;

	nf_lock_take(&m->lock);
	while (!m->stop) {
		if (m->in_step) {
			wait_ms = RETRY_MIN_MS;
			nf_cond_wait(&m->changed, &m->lock);
			continue;
		}
		m->wake = false;
		nf_lock_drop(&m->lock);
		int r = compare(m);
		nf_lock_take(&m->lock);
		if (r == 0)
			continue;
		m->last_error = r;
		uint64_t until = nf_clock_ns() + wait_ms * NF_NS_PER_MS;
		wait_ms = NF_MIN(2 * wait_ms, (uint64_t)RETRY_MAX_MS);
		while (!m->stop && !m->wake && nf_cond_wait_until(&m->changed, &m->lock, until))
			;
	}
	nf_lock_drop(&m->lock);
	return NULL;
}

/* -- life -- */

static void mirror_free(struct nf_store *s)
{
	struct mirror *m = mirror_of(s);

	atomic_store(&m->stopping, true);
	nf_lock_take(&m->lock);
	m->stop = true;
	nf_cond_broadcast(&m->changed);
	while (m->pairs)
		nf_cond_wait(&m->changed, &m->lock);
	nf_lock_drop(&m->lock);
	/* It may be in a copy: that ends with the object, or by the store's time-out. */
	if (m->thread_runs)
		(void)pthread_join(m->thread, NULL);
	nf_store_free(m->first);
	nf_store_free(m->second);
	nf_cond_deinit(&m->changed);
	nf_lock_deinit(&m->lock);
	free(m->buf);
	free(m->base.text);
	free(m);
}

static int mirror_quota(struct nf_store *s, uint64_t *used_bytes, uint64_t *free_bytes)
{
	struct nf_store *first = mirror_of(s)->first;

	return nf_fail(first->ops->quota ? first->ops->quota(first, used_bytes, free_bytes) : -NF_E_STORE_PROTOCOL);
}

static int mirror_probe(struct nf_store *s) { return nf_fail(nf_store_probe(mirror_of(s)->first)); }

static const struct nf_store_ops mirror_ops = {
	.name = "mirror", .submit = mirror_submit, .cancel = mirror_cancel, .free = mirror_free, .quota = mirror_quota,
	.probe = mirror_probe,
};

bool nf_store_is_mirror(const struct nf_store *s) { return s->ops == &mirror_ops; }

int nf_mirror_new(struct nf_store *first, struct nf_store *second, struct nf_store **out)
{
	struct mirror *m = calloc(1, sizeof *m);

	if (!m) {
		nf_store_free(first);
		nf_store_free(second);
		return nf_fail(-ENOMEM);
	}
	m->base.ops = &mirror_ops;
	m->base.max_put_bytes = NF_MIN(atomic_load(&first->max_put_bytes), atomic_load(&second->max_put_bytes));
	m->base.no_list = first->no_list;
	m->first = first;
	m->second = second;
	nf_lock_init(&m->lock, NF_RANK_FILTER);
	nf_cond_init(&m->changed);
	m->base.text = strdup(first->text);
	m->buf = malloc(OBJECT_MAX);
	int r = m->base.text && m->buf ? 0 : nf_fail(-ENOMEM);
	/* A mirror is found by listing. */
	if (r == 0 && (first->no_list || second->no_list || first->read_only || second->read_only))
		r = nf_fail(-NF_E_STORE_READONLY);
	if (r == 0)
		r = nf_thread_start(&m->thread, "nf-mirror", catch_up, m);
	m->thread_runs = r == 0;
	if (r < 0) {
		mirror_free(&m->base);
		return r;
	}
	*out = &m->base;
	return 0;
}

void nf_mirror_status(struct nf_store *s, struct nf_mirror_status *out)
{
	struct mirror *m = mirror_of(s);

	nf_lock_take(&m->lock);
	*out = (struct nf_mirror_status){ .in_step = m->in_step, .last_error = m->last_error,
					  .copied_objects = m->copied_objects, .copied_bytes = m->copied_bytes };
	nf_lock_drop(&m->lock);
}

void nf_mirror_wake(struct nf_store *s)
{
	struct mirror *m = mirror_of(s);

	nf_lock_take(&m->lock);
	m->wake = true;
	nf_cond_broadcast(&m->changed);
	nf_lock_drop(&m->lock);
}
