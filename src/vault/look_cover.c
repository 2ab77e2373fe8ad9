/* Names that need no reading: the tree of every commit names the heads it was made on top of, its parents and theirs (items
 * (0, ROOT, seq, rand)).
 *
 * A head holds strictly more than each of its parents, so also than all of these: they are no leaves while it is listed, whatever
 * stands under their names.  Nothing else is taken from the items, and a name that none has is read.  `by` remembers the head
 * that was found on top; it always is a listed one while leaves are looked for, so that they are exactly what they would be
 * if every name were read. */
#include "vault/look_i.h"

#include "base/error.h"
#include "vault/item.h"

enum {
	/* A gap in what is asked for that is not read over: about the items of a node. */
	GAP_SEQS = 128,
	/* More of a head's own metadata than this is not fetched for a few items. */
	WARM_MAX_BYTES = 256 << 10,
};

/* A listed head that holds all that H does. */
static struct nf_look_entry *cover_of(const struct nf_look *l, const struct nf_head *h)
{
	for (struct nf_look_entry *e = nf_look_last(l); e; e = nf_look_prev(e)) {
		if (e->listed && e->readable && nf_vector_covers(&e->head.vector, &h->vector))
			return e;
	}
	return NULL;
}

void nf_look_settle(struct nf_look *l)
{
	struct nf_look_entry *gone = NULL, *instead = NULL;

	for (struct nf_look_entry *e = nf_look_first(l); e; e = nf_look_next(e)) {
		if (!e->by || e->by->listed)
			continue;
		if (e->by != gone) {
			gone = e->by;
			instead = cover_of(l, &gone->head);
		}
		e->by = instead;
	}
}

void nf_look_cover_parents(struct nf_look *l, struct nf_look_entry *e)
{
	for (size_t i = 0; i < e->head.nr_parents; i++) {
		struct nf_look_entry *p = nf_look_find(l, &e->head.parents[i]);
		if (p && p->id.seq < e->id.seq && !p->readable)
			p->by = e;
	}
}

/* --- the tree's items ------------------------------------------------------------ */

static bool is_asked(const struct nf_look_entry *x, bool all)
{
	return nf_look_is_open(x) || (all && x->listed && !x->readable && x->by);
}

static struct nf_key key_of(const struct nf_look_entry *x)
{
	return (struct nf_key){ .type = NF_ITEM_ROOT, .a = x->id.seq, .b = nf_get_be64(x->id.rand) };
}

/* The first one from X on that is asked for and older than E. */
static struct nf_look_entry *next_asked(struct nf_look_entry *x, const struct nf_look_entry *e, bool all)
{
	while (x && x->id.seq < e->id.seq && !is_asked(x, all))
		x = nf_look_next(x);
	return x && x->id.seq < e->id.seq ? x : NULL;
}

/* The end of the range that is worth reading through from X on. */
static uint64_t run_end(struct nf_look_entry *x, const struct nf_look_entry *e, bool all)
{
	uint64_t end = x->id.seq + 1;

	while ((x = next_asked(nf_look_next(x), e, all)) && x->id.seq < end + GAP_SEQS)
		end = x->id.seq + 1;
	return end;
}

/* The first item from X's on, before END; blocks.  0, NF_TREE_NONE or negative. */
static int find_item(struct nf_look *l, const struct nf_head *h, const struct nf_look_entry *x, uint64_t end,
		     struct nf_want *w, struct nf_key *key, struct nf_root_item *item)
{
	struct nf_nodes *nodes = nf_fetch_options(l->fetch)->nodes;
	struct nf_key from = key_of(x), to = { .type = NF_ITEM_ROOT, .a = end };
	struct nf_val val = { 0 };
	int r;

	while ((r = nf_tree_next(nodes, &h->root, &from, &to, w, key, &val)) == NF_TREE_WANT) {
		r = nf_fetch_load(l->fetch, w);
		if (r < 0)
			return r;
		w->nr = 0;
	}
	if (r == 0)
		r = nf_root_decode(val.p, val.len, &val.self, item);
	nf_val_deinit(&val);
	return r;
}

/* X is behind KEY. */
static bool is_behind(const struct nf_look_entry *x, const struct nf_key *key)
{
	return x->id.seq != key->a ? x->id.seq > key->a : nf_get_be64(x->id.rand) > key->b;
}

static int cover(struct nf_look *l, struct nf_look_entry *e, bool all, struct nf_want *w)
{
	struct nf_look_entry *x = next_asked(nf_look_first(l), e, all);
	uint64_t end = 0;

	while (x) {
		struct nf_key key;
		struct nf_root_item item;
		if (x->id.seq >= end)
			end = run_end(x, e, all);
		int r = find_item(l, &e->head, x, end, w, &key, &item);
		if (r < 0)
			return r;
		if (r == NF_TREE_NONE)
			key = (struct nf_key){ .a = end - 1, .b = UINT64_MAX };
		for (; x && !is_behind(x, &key); x = next_asked(nf_look_next(x), e, all)) {
			if (r == 0 && x->id.seq == key.a && !memcmp(x->id.rand, item.rand, sizeof item.rand))
				x->by = e;
		}
		nf_want_deinit(w);
	}
	return 0;
}

void nf_look_cover(struct nf_look *l, struct nf_look_entry *e, bool all)
{
	const struct nf_head *h = &e->head;
	struct nf_want w = NF_WANT_INIT;

	e->consulted = l->pass;
	if (!l->fetch || nf_ref_is_null(&h->root))
		return;
	/* The way to the newest items was written by the head's own commit. */
	if (h->meta_len_bytes && h->meta_len_bytes <= WARM_MAX_BYTES)
		(void)nf_fetch_warm(l->fetch, &h->meta_pack, h->meta_offset_bytes, h->meta_len_bytes);
	(void)cover(l, e, all, &w); /* what it could not say is read */
	nf_want_deinit(&w);
}
