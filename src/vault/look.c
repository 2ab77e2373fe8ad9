/* A name's way through the table:
 *
 *                  GET opens                      not listed for FORGET_LOOKS looks
 *   (new) --------------------------> READABLE ------------------------------------> gone
 *     |                                  ^
 *     | GET does not open                | GET at a later look opens
 *     `---------------> UNREADABLE ------'
 *
 * Leaves come from what is both listed now and readable.  Of the readable heads a set is kept of which none covers
 * another; covering is transitive, so each head need only be compared with that set.  Two heads that cover each other (equal
 * vectors) are one state: the smaller tag counts.
 *
 * Not thread safe: a look, a poll and a prune of one table do not run side by side. */
#include "vault/look.h"

#include "base/avl.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>

enum {
	GETS_PARALLEL = 16,
	/* Newest first; more than so many unknown heads in one look is no vault of ours. */
	GETS_MAX = 4096,
	/* Listings of some servers lag behind: a head may be missing from one and be back in the next. */
	FORGET_LOOKS = 8,
	RELIST_MAX = 8,
	/* A name that is written for longer than this will not be finished. */
	YOUNG_S = 600,
	UNREADABLE_GRACE_S = 86400,
	HINT_BYTES_MAX = 128,
};

struct entry {
	struct nf_avl_node node; /* of look->names, by seq and rand */
	struct nf_head_id id;    /* tag: once readable */
	struct nf_head head;     /* once readable */
	bool readable;
	bool listed;        /* by the last listing */
	unsigned unlisted;  /* looks since it was */
	int64_t mtime_s;    /* server's clock; 0: unknown */
	uint64_t size_bytes; /* as listed; 0: unknown */
	uint64_t tried_size; /* size and mtime when it was last asked for and did not open */
	int64_t tried_mtime_s;
	uint64_t seen_ns;   /* first seen */
};

/* Heads of which none makes another superfluous. */
struct leaf_set {
	const struct nf_head **v;
	size_t nr, cap;
};

struct nf_look {
	struct nf_store *store;
	struct nf_codec *codec;
	struct nf_avl names;
	struct leaf_set leaves;
	bool lost;      /* a name of this listing was gone when it was asked for */
	int64_t date_s; /* of the last listing */
};

int nf_look_new(struct nf_store *store, struct nf_ring *ring, struct nf_look **out)
{
	struct nf_look *l = calloc(1, sizeof *l);

	if (!l)
		return nf_fail(-ENOMEM);
	l->store = store;
	nf_avl_init(&l->names, NULL);
	l->codec = nf_codec_get(ring);
	if (!l->codec) {
		free(l);
		return nf_fail(-ENOMEM);
	}
	*out = l;
	return 0;
}

/* --- the table ----------------------------------------------------------------- */

static struct entry *entry_of(struct nf_avl_node *n) { return n ? nf_container_of(n, struct entry, node) : NULL; }
static struct entry *first_entry(const struct nf_look *l) { return entry_of(nf_avl_first(&l->names)); }
static struct entry *next_entry(const struct entry *e) { return entry_of(nf_avl_next(&e->node)); }

static int cmp_entry(const void *key, const struct nf_avl_node *n)
{
	const struct nf_head_id *k = key;
	const struct entry *e = nf_container_of(n, const struct entry, node);

	if (k->seq != e->id.seq)
		return k->seq < e->id.seq ? -1 : 1;
	return memcmp(k->rand, e->id.rand, sizeof k->rand);
}

static struct entry *find_entry(const struct nf_look *l, const struct nf_head_id *id)
{
	return entry_of(nf_avl_find(&l->names, id, cmp_entry));
}

static struct entry *get_entry(struct nf_look *l, const struct nf_head_id *id)
{
	struct entry *e = find_entry(l, id);

	if (e)
		return e;
	e = calloc(1, sizeof *e);
	if (!e)
		return NULL;
	e->id = *id;
	e->seen_ns = nf_clock_ns();
	(void)nf_avl_add(&l->names, id, cmp_entry, &e->node);
	return e;
}

static void free_entry(struct nf_look *l, struct entry *e)
{
	nf_avl_erase(&l->names, &e->node);
	nf_head_deinit(&e->head);
	free(e);
}

void nf_look_free(struct nf_look *l)
{
	if (!l)
		return;
	while (!nf_avl_empty(&l->names))
		free_entry(l, first_entry(l));
	nf_codec_put(l->codec);
	free(l->leaves.v);
	free(l);
}

/* --- listing ------------------------------------------------------------------- */

static int list_heads(struct nf_look *l, struct nf_store_op *op)
{
	*op = (struct nf_store_op){ .verb = NF_STORE_LIST, .priority = NF_STORE_FOREGROUND, .name = "heads" };
	nf_count(NF_C_LOOKS, 1);
	int r = nf_store_run(l->store, op);
	/* The directory is made by the first head. */
	return nf_fail(r == -NF_E_STORE_NOT_FOUND ? 0 : r);
}

static int take_listing(struct nf_look *l, const struct nf_store_op *op, size_t *nr_listed)
{
	struct nf_head_id id = { 0 };

	*nr_listed = 0;
	for (size_t i = 0; i < op->nr_entries; i++) {
		const struct nf_store_entry *from = &op->entries[i];
		if (from->is_dir || nf_head_name_parse(from->name, &id.seq, id.rand) < 0)
			continue;
		struct entry *e = get_entry(l, &id);
		if (!e)
			return nf_fail(-ENOMEM);
		e->listed = true;
		e->mtime_s = from->mtime_s;
		e->size_bytes = from->size_bytes;
		++*nr_listed;
	}
	l->date_s = op->server_date_s;
	return 0;
}

static int read_hint(struct nf_look *l, struct nf_head_id *id)
{
	char text[HINT_BYTES_MAX + 1];
	struct nf_store_op op = { .verb = NF_STORE_GET, .priority = NF_STORE_FOREGROUND, .name = "hint",
				  .buf = text, .length_bytes = HINT_BYTES_MAX, .whole = true };
	static const char prefix[] = "heads/";

	nf_count(NF_C_LOOKS, 1);
	int r = nf_store_run(l->store, &op);
	nf_store_op_deinit(&op);
	if (r < 0)
		return nf_fail(r);
	l->date_s = op.server_date_s;
	text[op.transferred_bytes] = 0;
	text[strcspn(text, "\r\n")] = 0;
	if (strncmp(text, prefix, sizeof prefix - 1) != 0)
		return nf_fail(-NF_E_FORMAT_BAD);
	return nf_head_name_parse(text + sizeof prefix - 1, &id->seq, id->rand);
}

/* Without listing: what the hint names, and what is known and still the newest by its vector. */
static int take_hint(struct nf_look *l, size_t *nr_listed)
{
	struct nf_head_id id = { 0 };
	int r = read_hint(l, &id);

	*nr_listed = 0;
	for (struct entry *e = first_entry(l); e; e = next_entry(e))
		e->listed = e->readable;
	if (r == -NF_E_STORE_NOT_FOUND)
		return 0;
	if (r < 0)
		return r;
	struct entry *e = get_entry(l, &id);
	if (!e)
		return nf_fail(-ENOMEM);
	e->listed = true;
	*nr_listed = 1;
	return 0;
}

static void forget_unlisted(struct nf_look *l)
{
	for (struct entry *e = first_entry(l), *next; e; e = next) {
		next = next_entry(e);
		e->unlisted = e->listed ? 0 : e->unlisted + 1;
		if (e->unlisted >= FORGET_LOOKS)
			free_entry(l, e);
	}
}

/* --- reading heads ------------------------------------------------------------- */

struct read;

/* What is shared by the reads of one look. */
struct readers {
	struct nf_lock lock;
	struct nf_cond cond;
	struct nf_list done; /* reads that came back */
};

struct read {
	struct nf_store_op op;
	struct nf_list link;
	struct readers *all;
	struct entry *e;
	uint8_t *buf;
};

static void read_done(struct nf_store_op *op)
{
	struct read *rd = op->ctx;
	struct readers *all = rd->all;

	nf_lock_take(&all->lock);
	nf_list_add_tail(&all->done, &rd->link);
	nf_cond_signal(&all->cond);
	nf_lock_drop(&all->lock);
}

static int start_read(struct nf_look *l, struct readers *all, struct entry *e)
{
	size_t len = e->size_bytes ? e->size_bytes : NF_HEAD_BYTES_MAX;
	struct read *rd = calloc(1, sizeof *rd);

	if (rd)
		rd->buf = malloc(len);
	if (!rd || !rd->buf) {
		free(rd);
		return nf_fail(-ENOMEM);
	}
	rd->all = all;
	rd->e = e;
	rd->op = (struct nf_store_op){ .verb = NF_STORE_GET, .priority = NF_STORE_FOREGROUND, .buf = rd->buf,
				       .length_bytes = len, .whole = true, .done = read_done, .ctx = rd };
	nf_list_init(&rd->link);
	nf_head_name(e->id.seq, e->id.rand, rd->op.name);
	e->tried_size = e->size_bytes;
	e->tried_mtime_s = e->mtime_s;
	nf_store_submit(l->store, &rd->op);
	return 0;
}

/* An error that says something about the one object, not about the way to the store. */
static bool is_of_object(int r)
{
	return r == -NF_E_STORE_NOT_FOUND || r == -NF_E_STORE_SHORT || r == -NF_E_STORE_PROTOCOL;
}

static int end_read(struct nf_look *l, struct read *rd)
{
	struct entry *e = rd->e;
	int r = rd->op.error;

	if (r == 0)
		r = nf_head_open(l->codec, e->id.seq, e->id.rand, rd->buf, rd->op.transferred_bytes, &e->head);
	if (r == 0) {
		e->readable = true;
		memcpy(e->id.tag, e->head.id.tag, sizeof e->id.tag);
	} else if (r == -NF_E_STORE_NOT_FOUND) {
		e->listed = false; /* pruned since the listing */
		l->lost = true;
	}
	/* What does not open may be one still being written: no error, it is not there yet. */
	int error = rd->op.error == 0 ? (r == -ENOMEM ? r : 0) : is_of_object(rd->op.error) ? 0 : rd->op.error;
	nf_store_op_deinit(&rd->op);
	free(rd->buf);
	free(rd);
	return nf_fail(error);
}

static struct read *wait_read(struct readers *all)
{
	nf_lock_take(&all->lock);
	while (nf_list_empty(&all->done))
		nf_cond_wait(&all->cond, &all->lock);
	struct read *rd = nf_list_first(&all->done, struct read, link);
	nf_list_del(&rd->link);
	nf_lock_drop(&all->lock);
	return rd;
}

static bool wants_read(const struct entry *e)
{
	return e->listed && !e->readable && e->size_bytes <= NF_HEAD_BYTES_MAX;
}

/* Newest first, some in parallel.  An error of the way to the store ends it: leaves of half the heads are no answer. */
static int read_heads(struct nf_look *l)
{
	struct readers all = { .lock = NF_LOCK_INIT(NF_RANK_LEAF) };
	struct entry *e = entry_of(nf_avl_last(&l->names));
	unsigned running = 0, started = 0;
	int r = 0;

	nf_cond_init(&all.cond);
	nf_list_init(&all.done);
	while (running || (e && r == 0)) {
		if (e && r == 0 && running < GETS_PARALLEL) {
			if (wants_read(e) && started < GETS_MAX) {
				r = start_read(l, &all, e);
				running += r == 0;
				started++;
			}
			e = entry_of(nf_avl_prev(&e->node));
			continue;
		}
		int one = end_read(l, wait_read(&all));
		running--;
		if (r == 0)
			r = one;
	}
	nf_cond_deinit(&all.cond);
	nf_lock_deinit(&all.lock);
	return r;
}

/* --- leaves -------------------------------------------------------------------- */

/* X makes Y superfluous: it holds more, or the same under a smaller tag. */
static bool supersedes(const struct nf_head *x, const struct nf_head *y)
{
	if (!nf_vector_covers(&x->vector, &y->vector))
		return false;
	return !nf_vector_covers(&y->vector, &x->vector) ||
	       memcmp(x->id.tag, y->id.tag, sizeof x->id.tag) < 0;
}

static int add_leaf(struct leaf_set *set, const struct nf_head *h)
{
	size_t kept = 0;

	for (size_t i = 0; i < set->nr; i++) {
		if (supersedes(set->v[i], h))
			return 0;
	}
	if (set->nr == set->cap) {
		size_t cap = set->cap ? set->cap * 2 : 8;
		const struct nf_head **v = realloc(set->v, cap * sizeof *v);
		if (!v)
			return nf_fail(-ENOMEM);
		set->v = v;
		set->cap = cap;
	}
	for (size_t i = 0; i < set->nr; i++) {
		if (!supersedes(h, set->v[i]))
			set->v[kept++] = set->v[i];
	}
	set->v[kept] = h;
	set->nr = kept + 1;
	return 0;
}

static int cmp_leaves(const void *x, const void *y)
{
	const struct nf_head *a = *(const struct nf_head *const *)x, *b = *(const struct nf_head *const *)y;

	if (a->id.seq != b->id.seq)
		return a->id.seq < b->id.seq ? -1 : 1;
	return memcmp(a->id.tag, b->id.tag, sizeof a->id.tag);
}

/* Older than AGE_S by the server's clock; never if it tells no times. */
static bool is_older(const struct nf_look *l, const struct entry *e, int64_t age_s)
{
	return e->mtime_s > 0 && l->date_s > 0 && l->date_s - e->mtime_s > age_s;
}

/* The leaves of what is listed, readable and (AGE_S not negative) older than AGE_S.  Newest first: most of the others are
 * covered by the first leaf. */
static int find_leaves(const struct nf_look *l, int64_t age_s, struct leaf_set *set)
{
	set->nr = 0;
	for (struct entry *e = entry_of(nf_avl_last(&l->names)); e; e = entry_of(nf_avl_prev(&e->node))) {
		if (!e->listed || !e->readable || (age_s >= 0 && !is_older(l, e, age_s)))
			continue;
		int r = add_leaf(set, &e->head);
		if (r < 0)
			return r;
	}
	if (set->nr)
		qsort(set->v, set->nr, sizeof *set->v, cmp_leaves);
	return 0;
}

static int list_or_hint(struct nf_look *l, size_t *nr_listed)
{
	struct nf_store_op op;

	if (l->store->no_list)
		return take_hint(l, nr_listed);
	int r = list_heads(l, &op);
	if (r == 0) {
		for (struct entry *e = first_entry(l); e; e = next_entry(e))
			e->listed = false;
		r = take_listing(l, &op, nr_listed);
	}
	nf_store_op_deinit(&op);
	return r;
}

/* A head that was gone when it was asked for was pruned, and what covers it need not be in this listing: only a new one
 * shows the leaves (docs/internals/protocol.md). */
static int list_and_read(struct nf_look *l, size_t *nr_listed)
{
	for (int i = 0; i < RELIST_MAX; i++) {
		l->lost = false;
		int r = list_or_hint(l, nr_listed);
		if (r == 0)
			r = read_heads(l);
		if (r < 0)
			return r;
		if (!l->lost)
			return 0;
	}
	return nf_fail(-NF_E_STORE_BUSY);
}

int nf_look(struct nf_look *l, struct nf_look_result *out)
{
	struct nf_look_result res = { 0 };

	l->leaves.nr = 0;
	int r = list_and_read(l, &res.nr_listed);
	if (r < 0)
		return r;
	forget_unlisted(l);
	r = find_leaves(l, -1, &l->leaves);
	if (r < 0)
		return r;
	for (struct entry *e = first_entry(l); e; e = next_entry(e))
		res.nr_unreadable += e->listed && !e->readable;
	res.leaves = l->leaves.v;
	res.nr_leaves = l->leaves.nr;
	res.server_date_s = l->date_s;
	if (res.nr_leaves > 1)
		nf_count(NF_C_FORKS_SEEN, 1);
	*out = res;
	return 0;
}

int nf_look_add(struct nf_look *l, const struct nf_head *h)
{
	struct nf_head copy = *h;
	struct entry *e = get_entry(l, &h->id);

	if (!e)
		return nf_fail(-ENOMEM);
	if (e->readable)
		return 0;
	int r = nf_vector_copy(&copy.vector, &h->vector);
	if (r < 0)
		return r;
	e->head = copy;
	e->id = h->id;
	e->readable = true;
	return 0;
}

/* --- polling ------------------------------------------------------------------- */

/* A name that did not open is news while it may still be being written, and whenever it has changed since. */
static bool is_news(const struct entry *e, const struct nf_store_entry *now)
{
	if (!e)
		return true;
	if (e->readable)
		return false;
	return nf_clock_ns() - e->seen_ns < YOUNG_S * NF_NS_PER_S || now->size_bytes != e->tried_size ||
	       now->mtime_s != e->tried_mtime_s;
}

static int poll_hint(struct nf_look *l)
{
	struct nf_head_id id = { 0 };
	int r = read_hint(l, &id);

	if (r < 0)
		return r == -NF_E_STORE_NOT_FOUND ? 0 : r;
	const struct entry *e = find_entry(l, &id);
	return !e || !e->readable;
}

int nf_look_poll(struct nf_look *l)
{
	struct nf_head_id id = { 0 };
	struct nf_store_op op;
	int news = 0;

	if (l->store->no_list)
		return poll_hint(l);
	int r = list_heads(l, &op);
	for (size_t i = 0; r == 0 && !news && i < op.nr_entries; i++) {
		const struct nf_store_entry *now = &op.entries[i];
		if (!now->is_dir && nf_head_name_parse(now->name, &id.seq, id.rand) == 0)
			news = is_news(find_entry(l, &id), now);
	}
	nf_store_op_deinit(&op);
	return r < 0 ? r : news;
}

/* --- pruning ------------------------------------------------------------------- */

static bool is_superseded(const struct leaf_set *set, const struct nf_head *h)
{
	for (size_t i = 0; i < set->nr; i++) {
		if (supersedes(set->v[i], h))
			return true;
	}
	return false;
}

/* OLD are the leaves among the heads that are old enough themselves: a listing that began before the covering head was
 * there must not find the covered one gone. */
static bool may_prune(const struct nf_look *l, const struct entry *e, int64_t age_s, const struct leaf_set *old)
{
	if (!e->listed)
		return false;
	if (!e->readable)
		return is_older(l, e, NF_MAX(age_s, (int64_t)UNREADABLE_GRACE_S));
	return is_older(l, e, age_s) && is_superseded(old, &e->head);
}

static int delete_head(struct nf_look *l, const struct entry *e)
{
	struct nf_store_op op = { .verb = NF_STORE_DELETE, .priority = NF_STORE_BACKGROUND };

	nf_head_name(e->id.seq, e->id.rand, op.name);
	int r = nf_store_run(l->store, &op);
	nf_store_op_deinit(&op);
	return r;
}

static int prune(struct nf_look *l, int64_t age_s, const struct leaf_set *old, size_t *nr)
{
	for (struct entry *e = first_entry(l); e; e = next_entry(e)) {
		if (!may_prune(l, e, age_s, old))
			continue;
		int r = delete_head(l, e);
		if (r < 0)
			return r;
		e->listed = false;
		++*nr;
	}
	return 0;
}

int nf_look_prune(struct nf_look *l, int64_t age_s, size_t *nr)
{
	struct nf_look_result now;
	struct leaf_set old = { 0 };
	size_t deleted = 0;
	int r = 0;

	if (!l->store->no_list && !l->store->read_only) {
		/* What covers must be there now, not at some earlier look. */
		r = nf_look(l, &now);
		if (r == 0)
			r = find_leaves(l, NF_MAX(age_s, (int64_t)0), &old);
		if (r == 0)
			r = prune(l, age_s, &old, &deleted);
		free(old.v);
	}
	if (r == 0)
		*nr = deleted;
	return r;
}
