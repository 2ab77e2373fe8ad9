/* vault/gc_roots.c - which commits, deltas and snapshots the newest tree names, and which of them are kept. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/gc.h"

enum { DAY_S = 86400 };

static struct nf_gc_root *new_root(struct nf_gc *g)
{
	if (g->nr_roots == g->cap_roots) {
		size_t cap = g->cap_roots ? 2 * g->cap_roots : 64;
		struct nf_gc_root *p = realloc(g->roots, cap * sizeof *p);
		if (!p)
			return NULL;
		g->roots = p;
		g->cap_roots = cap;
	}
	struct nf_gc_root *r = &g->roots[g->nr_roots++];
	*r = (struct nf_gc_root){ 0 };
	return r;
}

static int take_root(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_gc *g = ctx;
	struct nf_root_item item;

	int r = nf_root_decode(val->p, val->len, &val->self, &item);
	if (r < 0)
		return nf_fail(r);
	struct nf_gc_root *root = new_root(g);
	if (!root)
		return nf_fail(-ENOMEM);
	*root = (struct nf_gc_root){ .key = *key, .seq = key->a, .time_s = item.time_s, .root = *nf_root_now(&item), .kept = true };
	return 0;
}

static int take_snapshots(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_gc *g = ctx;
	struct nf_snapshot_entry e;
	size_t pos = 0;
	int r;

	while ((r = nf_snapshot_iter(val->p, val->len, &val->self, &pos, &e)) == 0) {
		struct nf_gc_root *root = new_root(g);
		if (!root)
			return nf_fail(-ENOMEM);
		*root = (struct nf_gc_root){ .key = *key, .seq = e.seq, .root = e.root, .kept = true };
		memcpy(root->rand, e.rand, sizeof root->rand);
	}
	return r < 0 ? nf_fail(r) : 0;
}

static int take_delta(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_gc *g = ctx;
	struct nf_delta_item item;

	int r = nf_delta_item_decode(val->p, val->len, &val->self, &item);
	if (r < 0)
		return nf_fail(r);
	if (g->nr_deltas == g->cap_deltas) {
		size_t cap = g->cap_deltas ? 2 * g->cap_deltas : 64;
		struct nf_gc_delta *p = realloc(g->deltas, cap * sizeof *p);
		if (!p)
			return nf_fail(-ENOMEM);
		g->deltas = p;
		g->cap_deltas = cap;
	}
	g->deltas[g->nr_deltas++] = (struct nf_gc_delta){ .key = *key, .head_seq = item.head_seq,
							  .delta = item.delta, .kept = true };
	return 0;
}

/* Clocks of writers may be years off.  Heads follow one another, so none is older than one before it; what claims to be of
 * the future is as old as the next one that does not. */
static void put_times_right(struct nf_gc *g, size_t nr)
{
	int64_t least = 0, next = g->date_s;

	for (size_t i = nr; i-- > 0;) {
		if (g->roots[i].time_s > g->date_s)
			g->roots[i].time_s = next;
		next = g->roots[i].time_s;
	}
	for (size_t i = 0; i < nr; i++)
		g->roots[i].time_s = least = NF_MAX(least, g->roots[i].time_s);
}

struct leases {
	struct nf_gc *g;
	size_t nr;      /* roots that are commits */
	uint64_t since; /* the lowest seq that somebody may stand on */
};

/* The commit that published this writer's last dot, if it is still known. */
static uint64_t stands_on(const struct nf_gc *g, uint64_t writer, uint64_t seq)
{
	if (g->leaf.writer == writer && g->leaf.writer_seq == seq)
		return g->leaf.id.seq;
	for (size_t i = 0; i < g->nr_deltas; i++)
		if (g->deltas[i].key.a == writer && g->deltas[i].key.b == seq)
			return g->deltas[i].head_seq;
	return UINT64_MAX;
}

static int take_writer(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct leases *l = ctx;
	struct nf_gc *g = l->g;
	struct nf_writer_item w;

	int r = nf_writer_decode(val->p, val->len, &w);
	/* Ourselves: we stand on the leaf. */
	if (r < 0 || key->a == g->v->writer)
		return nf_fail(r);
	uint64_t at = stands_on(g, key->a, w.seq);
	int64_t oldest = g->date_s - (int64_t)(g->o.lease_days * DAY_S);
	for (size_t i = 0; i < l->nr && at != UINT64_MAX; i++)
		if (g->roots[i].seq == at && g->roots[i].time_s >= oldest && g->o.lease_days)
			l->since = NF_MIN(l->since, at);
	return 0;
}

static int by_seq(const void *pa, const void *pb)
{
	const struct nf_gc_root *a = pa, *b = pb;
	bool la = a->key.type == 0, lb = b->key.type == 0;

	if (la != lb)
		return la ? 1 : -1;
	return a->seq != b->seq ? (a->seq < b->seq ? -1 : 1) : nf_key_cmp(&a->key, &b->key);
}

void nf_gc_sort(struct nf_gc *g)
{
	if (g->nr_roots)
		qsort(g->roots, g->nr_roots, sizeof *g->roots, by_seq);
}

int nf_gc_retain(struct nf_gc *g)
{
	/* The commits, the leaf the last of them, stand before the snapshots. */
	size_t nr = g->nr_roots - g->nr_snapshots;
	const struct nf_key from = { .type = NF_ITEM_WRITER }, to = { .type = NF_ITEM_WRITER + 1 };
	struct leases l = { .g = g, .nr = nr, .since = UINT64_MAX };
	int64_t oldest = g->date_s - (int64_t)(g->o.keep_days * DAY_S);
	uint64_t first = g->leaf.id.seq;

	put_times_right(g, nr);
	int r = nf_gc_range(&g->src, &g->leaf.root, &from, &to, take_writer, &l);
	for (size_t i = 0; i < nr; i++) {
		struct nf_gc_root *root = &g->roots[i];
		root->kept = i + NF_MAX(g->o.keep_heads, UINT64_C(1)) >= nr || root->seq >= l.since ||
			     (g->o.keep_days && root->time_s >= oldest);
		if (root->kept)
			first = NF_MIN(first, root->seq);
		g->r.roots_kept += root->kept;
		g->r.roots_dropped += !root->kept;
	}
	/* The first of them too: it says where its writer stands. */
	for (size_t i = 0; i < g->nr_deltas; i++) {
		g->deltas[i].kept = g->deltas[i].head_seq >= first;
		g->r.deltas_dropped += !g->deltas[i].kept;
	}
	nf_gc_sort(g);
	return r;
}

int nf_gc_items(struct nf_gc *g)
{
	const struct nf_key root = { .type = NF_ITEM_ROOT }, delta = { .type = NF_ITEM_DELTA },
			    snapshot = { .type = NF_ITEM_SNAPSHOT }, end = { .type = NF_ITEM_SNAPSHOT + 1 };

	int r = nf_gc_range(&g->src, &g->leaf.root, &root, &delta, take_root, g);
	if (r == 0)
		r = nf_gc_range(&g->src, &g->leaf.root, &delta, &snapshot, take_delta, g);
	struct nf_gc_root *leaf = r == 0 ? new_root(g) : NULL;
	if (!leaf)
		return r < 0 ? r : nf_fail(-ENOMEM);
	*leaf = (struct nf_gc_root){ .seq = g->leaf.id.seq, .time_s = g->leaf.time.tv_sec, .root = g->leaf.root,
				     .kept = true };
	size_t nr = g->nr_roots;
	r = nf_gc_range(&g->src, &g->leaf.root, &snapshot, &end, take_snapshots, g);
	g->nr_snapshots = g->nr_roots - nr;
	return r;
}

void nf_gc_items_deinit(struct nf_gc *g)
{
	free(g->roots);
	free(g->deltas);
}
