/* Deleting heads that others cover (docs/internals/protocol.md, R13 and R14). */
#include "vault/look_i.h"

#include "base/error.h"

enum {
	UNREADABLE_GRACE_S = 86400,
	/* Of one call: the committer waits for it.  More than appear between two calls. */
	DELETES_MAX = 64,
};

static bool is_superseded(const struct nf_leaf_set *set, const struct nf_head *h)
{
	for (size_t i = 0; i < set->nr; i++) {
		if (nf_head_supersedes(set->v[i], h))
			return true;
	}
	return false;
}

/* H, or one that covers it, is in the set: what H covers is superseded. */
static bool is_contained(const struct nf_leaf_set *set, const struct nf_head *h)
{
	for (size_t i = 0; i < set->nr; i++) {
		if (nf_vector_covers(&set->v[i]->vector, &h->vector))
			return true;
	}
	return false;
}

/* OLD are the leaves among the heads that are old enough themselves: a listing that began before the covering head was
 * there must not find the covered one gone. */
static bool may_prune(const struct nf_look *l, const struct nf_look_entry *e, int64_t age_s, const struct nf_leaf_set *old)
{
	if (!e->listed)
		return false;
	if (e->readable)
		return nf_look_is_older(l, e, age_s) && is_superseded(old, &e->head);
	if (e->by)
		return nf_look_is_older(l, e, age_s) && is_contained(old, &e->by->head);
	/* Asked for just now: what was passed over may be a leaf.  What is under keys we do not have is not ours to judge. */
	return !l->newer_epoch && e->tried == l->pass && nf_look_is_older(l, e, NF_MAX(age_s, (int64_t)UNREADABLE_GRACE_S));
}

static int delete_head(struct nf_look *l, const struct nf_look_entry *e)
{
	struct nf_store_op op = { .verb = NF_STORE_DELETE, .priority = NF_STORE_BACKGROUND };

	nf_head_name(e->id.seq, e->id.rand, op.name);
	int r = nf_store_run(l->store, &op);
	nf_store_op_deinit(&op);
	return r;
}

static int prune(struct nf_look *l, int64_t age_s, const struct nf_leaf_set *old, size_t *nr)
{
	for (struct nf_look_entry *e = nf_look_first(l); e && *nr < DELETES_MAX; e = nf_look_next(e)) {
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

/* The leaves among the heads that are old enough.  Where old names were covered by a young head only, the newest of them is
 * read, and its tree asked for the others. */
static int old_leaves(struct nf_look *l, int64_t age_s, struct nf_leaf_set *old)
{
	struct nf_look_entry *newest = NULL;
	size_t waiting = 0;

	int r = nf_look_leaves(l, age_s, old);
	for (struct nf_look_entry *e = nf_look_first(l); r == 0 && e; e = nf_look_next(e)) {
		if (!e->listed || e->readable || !e->by || !nf_look_is_older(l, e, age_s) ||
		    is_contained(old, &e->by->head))
			continue;
		newest = e;
		waiting++;
	}
	/* The newest one itself stays. */
	if (r < 0 || waiting < 2)
		return r;
	r = nf_look_read_one(l, newest);
	if (r == 0 && newest->readable)
		nf_look_cover(l, newest, true);
	return r == 0 ? nf_look_leaves(l, age_s, old) : r;
}

int nf_look_prune(struct nf_look *l, int64_t age_s, size_t *nr)
{
	struct nf_look_result now;
	struct nf_leaf_set old = { 0 };
	size_t deleted = 0;
	int r = 0;

	if (!l->store->no_list && !l->store->read_only) {
		/* What covers must be there now, not at some earlier look. */
		r = nf_look(l, &now);
		if (r == 0)
			r = old_leaves(l, NF_MAX(age_s, (int64_t)0), &old);
		if (r == 0)
			r = prune(l, age_s, &old, &deleted);
		free(old.v);
	}
	if (r == 0)
		*nr = deleted;
	return r;
}
