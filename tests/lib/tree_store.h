/* tests/lib/tree_store.h - packs of tree nodes in memory, for tests of the tree.
 *
 * One update writes one pack (more when it passes the pack limit and `split` is set).  Nodes are
 * kept plain and found by pack and offset. */
#ifndef NF_TESTS_TREE_STORE_H
#define NF_TESTS_TREE_STORE_H

#undef NDEBUG
#include "base/buf.h"
#include "base/random.h"
#include "vault/node.h"

#include <assert.h>
#include <stdlib.h>

struct store_node {
	uint8_t *plain;
	size_t len;
	struct nf_ref ref;
};

struct store_pack {
	struct store_node *nodes; /* by ascending offset */
	size_t nr, cap;
	uint32_t end;
};

struct store {
	struct store_pack *packs; /* [0] is not used: the zero id */
	size_t nr_packs;
	bool split;
	struct nf_prng rng;
	/* Of the update under way. */
	size_t emitted, emitted_bytes, leaves, leaf_bytes, small_leaves;
	/* Since the start. */
	size_t loads, loaded_nodes;
	struct nf_nodes *nodes;
};

static inline struct nf_pack_id store_pack_id(size_t i)
{
	struct nf_pack_id id = { { 0 } };
	nf_put_le64(id.b + 3, i);
	return id;
}

static inline void store_init(struct store *s, size_t cache_bytes, uint64_t seed)
{
	*s = (struct store){ .nr_packs = 1 };
	s->packs = calloc(1, sizeof *s->packs);
	nf_prng_seed(&s->rng, seed);
	assert(nf_nodes_new(cache_bytes, &s->nodes) == 0);
}

static inline void store_deinit(struct store *s)
{
	nf_nodes_free(s->nodes);
	for (size_t i = 0; i < s->nr_packs; i++) {
		for (size_t j = 0; j < s->packs[i].nr; j++)
			free(s->packs[i].nodes[j].plain);
		free(s->packs[i].nodes);
	}
	free(s->packs);
}

/* Begins a pack; returns its number. */
static inline size_t store_begin(struct store *s)
{
	s->packs = realloc(s->packs, (s->nr_packs + 1) * sizeof *s->packs);
	assert(s->packs);
	s->packs[s->nr_packs] = (struct store_pack){ .nr = 0 };
	s->emitted = s->emitted_bytes = s->leaves = s->leaf_bytes = s->small_leaves = 0;
	return s->nr_packs++;
}

static inline int store_emit(void *ctx, unsigned level, const void *plain, size_t len, struct nf_ref *out)
{
	struct store *s = ctx;
	struct store_pack *p = &s->packs[s->nr_packs - 1];

	assert(len <= NF_NODE_MAX);
	if (s->split && p->end + len + 40 > 16 << 20) {
		size_t sums[] = { s->emitted, s->emitted_bytes, s->leaves, s->leaf_bytes, s->small_leaves };
		store_begin(s);
		s->emitted = sums[0], s->emitted_bytes = sums[1], s->leaves = sums[2];
		s->leaf_bytes = sums[3], s->small_leaves = sums[4];
		p = &s->packs[s->nr_packs - 1];
	}
	struct nf_ref r = { .offset_bytes = p->end, .sealed_len = (uint32_t)len + 40,
			    .plain_len = (uint32_t)len, .epoch = 1, .level = (uint8_t)level };
	nf_put_le64(r.tag, nf_prng_next(&s->rng));
	if (s->split)
		r.pack = store_pack_id(s->nr_packs - 1);
	if (p->nr == p->cap) {
		p->cap = p->cap ? p->cap * 2 : 8;
		p->nodes = realloc(p->nodes, p->cap * sizeof *p->nodes);
		assert(p->nodes);
	}
	uint8_t *copy = malloc(len);
	memcpy(copy, plain, len);
	p->nodes[p->nr] = (struct store_node){ .plain = copy, .len = len, .ref = r };
	p->nodes[p->nr++].ref.pack = store_pack_id(s->nr_packs - 1);
	p->end += r.sealed_len;
	s->emitted++;
	s->emitted_bytes += len;
	if (level == 0) {
		s->leaves++;
		s->leaf_bytes += len;
		s->small_leaves += len < NF_NODE_MAX / 4;
	}
	*out = r;
	return 0;
}

static inline const struct store_node *store_find(struct store *s, const struct nf_ref *ref)
{
	size_t i = nf_get_le64(ref->pack.b + 3), lo = 0;
	assert(i > 0);
	assert(i < s->nr_packs);
	size_t hi = s->packs[i].nr;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (s->packs[i].nodes[mid].ref.offset_bytes < ref->offset_bytes)
			lo = mid + 1;
		else
			hi = mid;
	}
	assert(lo < s->packs[i].nr);
	const struct store_node *n = &s->packs[i].nodes[lo];
	assert(nf_ref_equal(&n->ref, ref));
	return n;
}

static inline void store_load_one(struct store *s, const struct nf_ref *ref)
{
	const struct store_node *n = store_find(s, ref);
	s->loaded_nodes++;
	assert(nf_nodes_insert(s->nodes, ref, n->plain, n->len) == 0);
}

static inline int store_load(void *ctx, struct nf_want *w)
{
	struct store *s = ctx;
	assert(w->nr > 0);
	s->loads++;
	for (size_t i = 0; i < w->nr; i++)
		store_load_one(s, &w->refs[i]);
	return 0;
}

/* A part of what is wanted comes, perhaps nothing. */
static inline void store_load_some(struct store *s, struct nf_want *w)
{
	assert(w->nr > 0);
	s->loads++;
	for (size_t i = 0; i < w->nr; i++)
		if (nf_prng_below(&s->rng, 3))
			store_load_one(s, &w->refs[i]);
}

static inline struct nf_node_source store_source(struct store *s)
{
	return (struct nf_node_source){ .nodes = s->nodes, .load = store_load, .ctx = s };
}

/* Names the pack in what an update gave. */
static inline void store_name(struct nf_ref *root, size_t pack)
{
	if (!nf_ref_is_null(root) && nf_pack_id_is_zero(&root->pack))
		root->pack = store_pack_id(pack);
}

#endif
