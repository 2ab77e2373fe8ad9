/* The cache of decoded nodes: a hash by reference, an LRU list of those nobody has pinned.
 *
 *                 want               bytes               unpin
 *     (absent) ---------> waiting ---------> pinned  <------------> on the LRU list -> evicted
 *                            |  unpin                    pin
 *                            +-------> (absent)
 */
#include "vault/node.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/lock.h"

/* l lock;  I set when created */
struct nf_nodes {
	struct nf_lock lock;
	struct nf_node **buckets; /* l  a power of two of them */
	size_t nr_buckets;        /* l */
	size_t nr;                /* l  nodes, waiting ones too */
	size_t limit_bytes;       /* I */
	size_t idle_bytes;        /* l  of nodes on the list */
	size_t pinned_bytes;      /* l  of pinned nodes */
	struct nf_list lru;       /* l  coldest first */
};

enum { BUCKETS_FIRST = 256 };

int nf_nodes_new(size_t limit_bytes, struct nf_nodes **out)
{
	nf_auto_free struct nf_nodes *n = calloc(1, sizeof *n);
	if (!n)
		return nf_fail(-ENOMEM);
	n->nr_buckets = BUCKETS_FIRST;
	n->buckets = calloc(n->nr_buckets, sizeof(struct nf_node *));
	if (!n->buckets)
		return nf_fail(-ENOMEM);
	n->limit_bytes = limit_bytes;
	nf_list_init(&n->lru);
	nf_lock_init(&n->lock, NF_RANK_NODES);
	*out = nf_steal(&n);
	return 0;
}

static uint64_t hash_of(const struct nf_ref *ref)
{
	return nf_mix64(nf_get_le64(ref->pack.b) ^ nf_mix64(ref->offset_bytes) ^ nf_get_le64(ref->tag));
}

static struct nf_node **slot_of(struct nf_nodes *n, const struct nf_ref *ref) NF_REQUIRES(n->lock)
{
	struct nf_node **p = &n->buckets[hash_of(ref) & (n->nr_buckets - 1)];

	while (*p && !nf_ref_equal(&(*p)->ref, ref))
		p = &(*p)->next;
	return p;
}

/* Longer chains are no error: without memory the table stays as it is. */
static void grow(struct nf_nodes *n) NF_REQUIRES(n->lock)
{
	size_t nr = n->nr_buckets * 2;
	struct nf_node **now = calloc(nr, sizeof(struct nf_node *));

	if (!now)
		return;
	for (size_t i = 0; i < n->nr_buckets; i++) {
		for (struct nf_node *node = n->buckets[i], *next; node; node = next) {
			struct nf_node **at = &now[hash_of(&node->ref) & (nr - 1)];
			next = node->next;
			node->next = *at;
			*at = node;
		}
	}
	free(n->buckets);
	n->buckets = now;
	n->nr_buckets = nr;
}

static void drop(struct nf_nodes *n, struct nf_node *node) NF_REQUIRES(n->lock)
{
	struct nf_node **at = slot_of(n, &node->ref);

	NF_ASSERT(*at == node && node->pins == 0);
	*at = node->next;
	n->nr--;
	nf_node_body_deinit(&node->body);
	free(node);
}

static void shrink(struct nf_nodes *n) NF_REQUIRES(n->lock)
{
	while (n->idle_bytes > n->limit_bytes) {
		struct nf_node *cold = nf_list_first(&n->lru, struct nf_node, lru);
		nf_list_del(&cold->lru);
		n->idle_bytes -= cold->body.len;
		drop(n, cold);
	}
}

static void pin(struct nf_nodes *n, struct nf_node *node) NF_REQUIRES(n->lock)
{
	if (node->pins++ == 0 && node->body.plain) {
		nf_list_del(&node->lru);
		n->idle_bytes -= node->body.len;
		n->pinned_bytes += node->body.len;
	}
}

static void idle(struct nf_nodes *n, struct nf_node *node) NF_REQUIRES(n->lock)
{
	nf_list_add_tail(&n->lru, &node->lru);
	n->idle_bytes += node->body.len;
	shrink(n);
}

static void unpin(struct nf_nodes *n, struct nf_node *node) NF_REQUIRES(n->lock)
{
	NF_ASSERT(node->pins > 0);
	if (--node->pins > 0)
		return;
	if (!node->body.plain) {
		drop(n, node);
		return;
	}
	n->pinned_bytes -= node->body.len;
	idle(n, node);
}

/* The node of REF, made without bytes if there is none; NULL without memory. */
static struct nf_node *place(struct nf_nodes *n, const struct nf_ref *ref) NF_REQUIRES(n->lock)
{
	struct nf_node **at = slot_of(n, ref);

	if (*at)
		return *at;
	struct nf_node *node = calloc(1, sizeof *node);
	if (!node)
		return NULL;
	node->cache = n;
	node->ref = *ref;
	nf_list_init(&node->lru);
	*at = node;
	if (++n->nr > n->nr_buckets)
		grow(n);
	return node;
}

void nf_nodes_free(struct nf_nodes *n)
{
	if (!n)
		return;
	nf_lock_take(&n->lock);
	n->limit_bytes = 0;
	shrink(n);
	/* Whatever is left is pinned: a want or a value outlived the cache. */
	NF_ASSERT(n->nr == 0);
	nf_lock_drop(&n->lock);
	nf_lock_deinit(&n->lock);
	free(n->buckets);
	free(n);
}

int nf_nodes_insert(struct nf_nodes *n, const struct nf_ref *ref, const void *plain, size_t len)
{
	struct nf_node_body body;
	int r = nf_node_parse(ref, plain, len, &body);

	if (r < 0)
		return r;
	nf_lock_take(&n->lock);
	struct nf_node *node = place(n, ref);
	if (!node) {
		r = nf_fail(-ENOMEM);
	} else if (!node->body.plain) {
		node->body = body;
		body = (struct nf_node_body){ 0 };
		if (node->pins)
			n->pinned_bytes += node->body.len;
		else
			idle(n, node);
	}
	nf_lock_drop(&n->lock);
	nf_node_body_deinit(&body);
	return r;
}

bool nf_nodes_has(struct nf_nodes *n, const struct nf_ref *ref)
{
	nf_lock_take(&n->lock);
	struct nf_node *node = *slot_of(n, ref);
	bool has = node && node->body.plain;
	nf_lock_drop(&n->lock);
	return has;
}

size_t nf_nodes_bytes(struct nf_nodes *n)
{
	nf_lock_take(&n->lock);
	size_t bytes = n->idle_bytes + n->pinned_bytes;
	nf_lock_drop(&n->lock);
	return bytes;
}

struct nf_node *nf_nodes_get(struct nf_nodes *n, const struct nf_ref *ref)
{
	nf_lock_take(&n->lock);
	struct nf_node *node = *slot_of(n, ref);
	if (node && !node->body.plain)
		node = NULL;
	if (node)
		pin(n, node);
	nf_lock_drop(&n->lock);
	return node;
}

void nf_node_put(struct nf_node *node)
{
	if (!node)
		return;
	struct nf_nodes *n = node->cache;
	nf_lock_take(&n->lock);
	unpin(n, node);
	nf_lock_drop(&n->lock);
}

void nf_val_deinit(struct nf_val *v)
{
	nf_node_put(v->pin);
	free(v->owned);
	*v = (struct nf_val){ 0 };
}

/* --- wants ----------------------------------------------------------------------- */

static int pins_reserve(struct nf_want *w)
{
	if (w->nr_pins < w->cap_pins)
		return 0;
	size_t cap = w->cap_pins ? w->cap_pins * 2 : 16;
	struct nf_node **pins = realloc(w->pins, cap * sizeof(struct nf_node *));
	if (!pins)
		return nf_fail(-ENOMEM);
	w->pins = pins;
	w->cap_pins = cap;
	return 0;
}

static bool holds(const struct nf_want *w, const struct nf_node *node)
{
	for (size_t i = 0; i < w->nr_pins; i++)
		if (w->pins[i] == node)
			return true;
	return false;
}

int nf_want_keep(struct nf_want *w, struct nf_node *node)
{
	if (holds(w, node))
		return 0;
	int r = pins_reserve(w);
	if (r < 0)
		return r;
	struct nf_nodes *n = node->cache;
	nf_lock_take(&n->lock);
	pin(n, node);
	nf_lock_drop(&n->lock);
	w->pins[w->nr_pins++] = node;
	return 0;
}

int nf_want_add(struct nf_nodes *n, struct nf_want *w, const struct nf_ref *ref)
{
	if (nf_want_full(w))
		return 0;
	for (size_t i = 0; i < w->nr; i++)
		if (nf_ref_equal(&w->refs[i], ref))
			return 0;
	int r = pins_reserve(w);
	if (r < 0)
		return r;
	nf_lock_take(&n->lock);
	struct nf_node *node = place(n, ref);
	if (node && !holds(w, node)) {
		pin(n, node);
		w->pins[w->nr_pins++] = node;
	}
	nf_lock_drop(&n->lock);
	if (!node)
		return nf_fail(-ENOMEM);
	w->refs[w->nr++] = *ref;
	return 0;
}

void nf_want_begin(struct nf_nodes *n, struct nf_want *w)
{
	size_t kept = 0;

	for (size_t i = 0; i < w->nr; i++)
		if (!nf_nodes_has(n, &w->refs[i]))
			w->refs[kept++] = w->refs[i];
	w->nr = kept;
}

void nf_want_deinit(struct nf_want *w)
{
	for (size_t i = 0; i < w->nr_pins; i++)
		nf_node_put(w->pins[i]);
	free(w->pins);
	*w = (struct nf_want)NF_WANT_INIT;
}
