/* One pack in memory: bitmaps, table, names.  No I/O but closing its file. */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "cache/types.h"

void nf_pack_path(const struct nf_cache *c, const struct nf_pack_id *id, const char *suffix,
		  struct nf_text *t)
{
	nf_textf(t, "%s/packs/%02x", c->dir, id->b[0]);
	if (!suffix)
		return;
	nf_textf(t, "/");
	nf_text_hex(t, id->b, sizeof id->b);
	nf_textf(t, "%s", suffix);
}

struct nf_pack *nf_pack_new(struct nf_cache *c, const struct nf_pack_id *id)
{
	struct nf_pack *p = calloc(1, sizeof *p);

	if (!p)
		return NULL;
	nf_list_init(&p->lru);
	nf_list_init(&p->open_link);
	nf_list_init(&p->unsynced);
	p->cache = c;
	p->id = *id;
	return p;
}

void nf_pack_free(struct nf_pack *p)
{
	if (!p)
		return;
	NF_ASSERT(p->pins == 0 && !nf_avl_linked(&p->node));
	p->cache->files->close(p->file);
	free(p->present);
	free(p->charged);
	free(p->kept);
	free(p->marked);
	free(p);
}

static int grow_bits(uint64_t **bits, size_t from, size_t to)
{
	uint64_t *b = reallocarray(*bits, to / 64, sizeof *b);

	if (!b)
		return nf_fail(-ENOMEM);
	memset(b + from / 64, 0, (to - from) / 8);
	*bits = b;
	return 0;
}

int nf_pack_grow(struct nf_pack *p, size_t nr_units)
{
	size_t nr = nf_round_up(nr_units, 64);

	if (nr <= p->nr_units)
		return 0;
	int r = grow_bits(&p->present, p->nr_units, nr);
	if (r == 0)
		r = grow_bits(&p->charged, p->nr_units, nr);
	if (r == 0 && p->kept)
		r = grow_bits(&p->kept, p->nr_units, nr);
	if (r == 0 && p->marked)
		r = grow_bits(&p->marked, p->nr_units, nr);
	if (r == 0)
		p->nr_units = nr;
	return r;
}

int nf_pack_need_bits(struct nf_pack *p, uint64_t **map)
{
	if (*map || p->nr_units == 0)
		return 0;
	*map = calloc(p->nr_units / 64, sizeof **map);
	return *map ? 0 : nf_fail(-ENOMEM);
}

uint64_t nf_pack_kept_word(const struct nf_pack *p, size_t i)
{
	return (p->kept ? p->kept[i] : 0) | (p->marked ? p->marked[i] : 0);
}

bool nf_pack_bit(const uint64_t *bits, size_t unit) { return bits[unit / 64] >> unit % 64 & 1; }

void nf_pack_set(uint64_t *bits, size_t from, size_t to, bool on)
{
	for (size_t i = from; i < to; i++) {
		uint64_t bit = UINT64_C(1) << i % 64;
		bits[i / 64] = on ? bits[i / 64] | bit : bits[i / 64] & ~bit;
	}
}

uint64_t nf_pack_map_bytes(size_t nr_units) { return NF_CACHE_MAP_HEADER + nr_units / 8; }

uint64_t nf_pack_charge(const struct nf_pack *p)
{
	uint64_t nr = 0;

	for (size_t i = 0; i < p->nr_units / 64; i++)
		nr += (uint64_t)__builtin_popcountll(p->charged[i]);
	return nr * NF_CACHE_UNIT + nf_round_up(nf_pack_map_bytes(p->nr_units), NF_CACHE_UNIT);
}

static int compare_ids(const void *key, const struct nf_avl_node *n)
{
	const struct nf_pack *p = nf_container_of(n, const struct nf_pack, node);

	return memcmp(key, p->id.b, sizeof p->id.b);
}

struct nf_pack *nf_cache_find_locked(struct nf_cache *c, const struct nf_pack_id *id)
{
	struct nf_avl_node *n = nf_avl_find(&c->packs, id->b, compare_ids);

	return n ? nf_container_of(n, struct nf_pack, node) : NULL;
}

struct nf_pack *nf_cache_next_locked(struct nf_cache *c, const struct nf_pack_id *after)
{
	struct nf_avl_node *n = after ? nf_avl_lower(&c->packs, after->b, compare_ids) :
					nf_avl_first(&c->packs);

	if (n && after && compare_ids(after->b, n) == 0)
		n = nf_avl_next(n);
	return n ? nf_container_of(n, struct nf_pack, node) : NULL;
}

void nf_cache_add_locked(struct nf_cache *c, struct nf_pack *p)
{
	struct nf_avl_node *there = nf_avl_add(&c->packs, p->id.b, compare_ids, &p->node);

	NF_ASSERT(!there);
	nf_list_add_tail(&c->lru, &p->lru);
	c->nr_packs++;
}

void nf_cache_touch_locked(struct nf_cache *c, struct nf_pack *p)
{
	p->used_at = ++c->clock;
	p->touched = true;
	nf_list_del(&p->lru);
	nf_list_add_tail(&c->lru, &p->lru);
}
