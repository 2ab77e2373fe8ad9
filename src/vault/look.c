/* A name's way through the table:
 *
 *                  GET opens                      not listed for FORGET_LOOKS looks
 *   (new) --------------------------> READABLE ------------------------------------> gone
 *    | |                                 ^
 *    | | GET does not open               | GET at a later look opens
 *    | `--------------> UNREADABLE ------'
 *    |                      |
 *    `----------------------+--> COVERED: a readable head was made on top of it, and says so (look_cover.c)
 *
 * Leaves come from what is both listed now and readable.  Of the readable heads a set is kept of which none covers
 * another; covering is transitive, so each head need only be compared with that set.  Two heads that cover each other (equal
 * vectors) are one state: the smaller tag counts.
 *
 * Not thread safe: a look, a poll and a prune of one table do not run side by side. */
#include "vault/look_i.h"

#include "base/clock.h"
#include "base/counter.h"
#include "base/error.h"

enum {
	/* Listings of some servers lag behind: a head may be missing from one and be back in the next. */
	FORGET_LOOKS = 8,
	RELIST_MAX = 8,
	/* A name that is written for longer than this will not be finished. */
	YOUNG_S = 600,
	HINT_BYTES_MAX = 128,
};

int nf_look_new(struct nf_store *store, struct nf_ring *ring, struct nf_fetch *fetch, struct nf_look **out)
{
	struct nf_look *l = calloc(1, sizeof *l);

	if (!l)
		return nf_fail(-ENOMEM);
	l->store = store;
	l->fetch = fetch;
	l->ring = ring;
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

static int cmp_entry(const void *key, const struct nf_avl_node *n)
{
	const struct nf_head_id *k = key;
	const struct nf_look_entry *e = nf_container_of(n, const struct nf_look_entry, node);

	if (k->seq != e->id.seq)
		return k->seq < e->id.seq ? -1 : 1;
	return memcmp(k->rand, e->id.rand, sizeof k->rand);
}

struct nf_look_entry *nf_look_find(const struct nf_look *l, const struct nf_head_id *id)
{
	return nf_look_entry_of(nf_avl_find(&l->names, id, cmp_entry));
}

static struct nf_look_entry *get_entry(struct nf_look *l, const struct nf_head_id *id)
{
	struct nf_look_entry *e = nf_look_find(l, id);

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

static void free_entry(struct nf_look *l, struct nf_look_entry *e)
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
		free_entry(l, nf_look_first(l));
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
		struct nf_look_entry *e = get_entry(l, &id);
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
	for (struct nf_look_entry *e = nf_look_first(l); e; e = nf_look_next(e))
		e->listed = e->readable;
	if (r == -NF_E_STORE_NOT_FOUND)
		return 0;
	if (r < 0)
		return r;
	struct nf_look_entry *e = get_entry(l, &id);
	if (!e)
		return nf_fail(-ENOMEM);
	e->listed = true;
	*nr_listed = 1;
	return 0;
}

static void forget_unlisted(struct nf_look *l)
{
	for (struct nf_look_entry *e = nf_look_first(l), *next; e; e = next) {
		next = nf_look_next(e);
		e->unlisted = e->listed ? 0 : e->unlisted + 1;
		if (e->unlisted >= FORGET_LOOKS)
			free_entry(l, e);
	}
}

/* --- leaves -------------------------------------------------------------------- */

/* X makes Y superfluous: it holds more, or the same under a smaller tag. */
bool nf_head_supersedes(const struct nf_head *x, const struct nf_head *y)
{
	if (!nf_vector_covers(&x->vector, &y->vector))
		return false;
	return !nf_vector_covers(&y->vector, &x->vector) ||
	       memcmp(x->id.tag, y->id.tag, sizeof x->id.tag) < 0;
}

static int add_leaf(struct nf_leaf_set *set, const struct nf_head *h)
{
	size_t kept = 0;

	for (size_t i = 0; i < set->nr; i++) {
		if (nf_head_supersedes(set->v[i], h))
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
		if (!nf_head_supersedes(h, set->v[i]))
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
bool nf_look_is_older(const struct nf_look *l, const struct nf_look_entry *e, int64_t age_s)
{
	return e->mtime_s > 0 && l->date_s > 0 && l->date_s - e->mtime_s > age_s;
}

/* The leaves of what is listed, readable and (AGE_S not negative) older than AGE_S.  Newest first: most of the others are
 * covered by the first leaf. */
int nf_look_leaves(const struct nf_look *l, int64_t age_s, struct nf_leaf_set *set)
{
	set->nr = 0;
	for (struct nf_look_entry *e = nf_look_entry_of(nf_avl_last(&l->names)); e; e = nf_look_entry_of(nf_avl_prev(&e->node))) {
		if (!e->listed || !e->readable || (age_s >= 0 && !nf_look_is_older(l, e, age_s)))
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
		for (struct nf_look_entry *e = nf_look_first(l); e; e = nf_look_next(e))
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
			r = nf_look_read(l);
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
	l->gets = 0;
	int r = list_and_read(l, &res.nr_listed);
	if (r < 0)
		return r;
	forget_unlisted(l);
	r = nf_look_leaves(l, -1, &l->leaves);
	if (r < 0)
		return r;
	for (struct nf_look_entry *e = nf_look_first(l); e; e = nf_look_next(e))
		res.nr_unreadable += e->listed && !e->readable && !e->by;
	res.newer_epoch = l->newer_epoch;
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
	struct nf_look_entry *e = get_entry(l, &h->id);

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
	nf_look_cover_parents(l, e);
	return 0;
}

/* --- polling ------------------------------------------------------------------- */

/* A name that did not open is news while it may still be being written, and whenever it has changed since. */
static bool is_news(const struct nf_look_entry *e, const struct nf_store_entry *now)
{
	if (!e)
		return true;
	if (e->readable || e->by)
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
	const struct nf_look_entry *e = nf_look_find(l, &id);
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
			news = is_news(nf_look_find(l, &id), now);
	}
	nf_store_op_deinit(&op);
	return r < 0 ? r : news;
}
