/* What is kept, said in rounds; runs of units; blocks given back.  Threads: any caller, but one round at a time. */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "cache/types.h"

static struct nf_pack *pack_of(struct nf_avl_node *n) { return n ? nf_container_of(n, struct nf_pack, node) : NULL; }

void nf_cache_keep_begin(struct nf_cache *c)
{
	nf_lock_take(&c->lock);
	NF_ASSERT(!c->marking);
	c->marking = true;
	nf_lock_drop(&c->lock);
}

/* A pack that nothing came of yet takes no room and has no file. */
static int mark_locked(struct nf_cache *c, const struct nf_pack_id *id, size_t from, size_t to) NF_REQUIRES(c->lock)
{
	struct nf_pack *p = nf_cache_find_locked(c, id);

	/* One on its way out is made anew. */
	while (p && p->busy) {
		nf_cond_wait(&c->quiet, &c->lock);
		p = nf_cache_find_locked(c, id);
	}
	if (!p) {
		p = nf_pack_new(c, id);
		if (!p)
			return nf_fail(-ENOMEM);
		nf_cache_add_locked(c, p);
	}
	int r = nf_pack_grow(p, to);
	if (r == 0)
		r = nf_pack_need_bits(p, &p->marked);
	if (r == 0)
		nf_pack_set(p->marked, from, to, true);
	return r;
}

int nf_cache_keep(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes, size_t len_bytes)
{
	if (len_bytes == 0 || offset_bytes >= NF_CACHE_PACK_MAX || len_bytes > NF_CACHE_PACK_MAX - offset_bytes)
		return 0;
	nf_lock_take(&c->lock);
	NF_ASSERT(c->marking);
	int r = mark_locked(c, pack, (size_t)(offset_bytes / NF_CACHE_UNIT),
			    (size_t)nf_round_up(offset_bytes + len_bytes, NF_CACHE_UNIT) / NF_CACHE_UNIT);
	nf_lock_drop(&c->lock);
	return r;
}

void nf_cache_kept(struct nf_cache *c, struct nf_cache_kept *out)
{
	*out = (struct nf_cache_kept){ 0 };
	nf_lock_take(&c->lock);
	for (struct nf_pack *p = pack_of(nf_avl_first(&c->packs)); p; p = pack_of(nf_avl_next(&p->node))) {
		const uint64_t *map = c->marking ? p->marked : p->kept;
		uint64_t nr = 0, there = 0;
		for (size_t i = 0; map && i < p->nr_units / 64; i++) {
			nr += (uint64_t)__builtin_popcountll(map[i]);
			there += (uint64_t)__builtin_popcountll(map[i] & p->present[i]);
		}
		if (nr == 0)
			continue;
		uint64_t map_file = nf_round_up(nf_pack_map_bytes(p->nr_units), NF_CACHE_UNIT);
		out->bytes += nr * NF_CACHE_UNIT + map_file;
		out->present_bytes += there * NF_CACHE_UNIT + (there == nr ? map_file : 0);
	}
	nf_lock_drop(&c->lock);
}

/* P is neither kept nor does anything stand in it: it was in the table for its marks only. */
static bool is_empty_locked(const struct nf_pack *p)
{
	return !p->kept && !p->marked && p->charged_bytes == 0 && p->pins == 0 && !p->busy && !p->file;
}

static void end_locked(struct nf_cache *c, struct nf_pack *p, bool take) NF_REQUIRES(c->lock)
{
	if (take) {
		free(p->kept);
		p->kept = nf_steal(&p->marked);
	} else {
		free(p->marked);
		p->marked = NULL;
	}
	p->solid = false;
	if (!is_empty_locked(p))
		return;
	nf_avl_erase(&c->packs, &p->node);
	nf_list_del(&p->lru);
	c->nr_packs--;
	nf_pack_free(p);
}

void nf_cache_keep_end(struct nf_cache *c, bool take)
{
	nf_lock_take(&c->lock);
	NF_ASSERT(c->marking);
	c->marking = false;
	for (struct nf_pack *p = pack_of(nf_avl_first(&c->packs)), *next; p; p = next) {
		next = pack_of(nf_avl_next(&p->node));
		end_locked(c, p, take);
	}
	if (take)
		c->hold = false;
	nf_lock_drop(&c->lock);
	if (take)
		(void)nf_cache_tidy(c); /* what waited for this */
}

uint64_t nf_cache_keep_room(struct nf_cache *c, const struct nf_cache_kept *k)
{
	struct nf_file_room now;
	uint64_t spare;

	/* A disk that does not answer is treated as full. */
	if (c->files->room(c->files, c->dir, &now) < 0 || k->present_bytes >= c->limit_bytes)
		return 0;
	nf_lock_take(&c->lock);
	spare = c->used_bytes - NF_MIN(c->used_bytes, k->present_bytes);
	nf_lock_drop(&c->lock);
	uint64_t of_disk = now.free_bytes > UINT64_MAX - spare ? UINT64_MAX : now.free_bytes + spare;
	of_disk -= NF_MIN(of_disk, c->min_free_bytes);
	uint64_t room = NF_MIN(c->limit_bytes - k->present_bytes, of_disk);
	return NF_MIN(room, k->bytes - k->present_bytes);
}

/* --- looking through -------------------------------------------------------------- */

int nf_cache_next(struct nf_cache *c, const struct nf_pack_id *after, struct nf_pack_id *out)
{
	nf_lock_take(&c->lock);
	struct nf_pack *p = nf_cache_next_locked(c, after);
	while (p && (p->busy || p->length_bytes == 0))
		p = nf_cache_next_locked(c, &p->id);
	if (p)
		*out = p->id;
	nf_lock_drop(&c->lock);
	return p ? 0 : -ENOENT;
}

bool nf_cache_run(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes, uint64_t *start_bytes,
		  uint64_t *end_bytes)
{
	size_t i = (size_t)(offset_bytes / NF_CACHE_UNIT), end = 0;

	nf_lock_take(&c->lock);
	const struct nf_pack *p = nf_cache_find_locked(c, pack);
	if (p && !p->busy) {
		while (i < p->nr_units && !nf_pack_bit(p->present, i))
			i++;
		for (end = i; end < p->nr_units && nf_pack_bit(p->present, end); end++)
			;
		*start_bytes = (uint64_t)i * NF_CACHE_UNIT;
		*end_bytes = NF_MIN((uint64_t)end * NF_CACHE_UNIT, p->length_bytes);
	}
	nf_lock_drop(&c->lock);
	return end > i;
}

/* --- giving blocks back ------------------------------------------------------------ */

/* The next pack that has blocks for nothing, pinned and `punching`; *NONE: and nothing else, so it is made busy. */
static struct nf_pack *next_to_trim(struct nf_cache *c, const struct nf_pack_id *after, bool *none)
{
	nf_lock_take(&c->lock);
	struct nf_pack *p = nf_cache_next_locked(c, after);
	for (; p; p = nf_cache_next_locked(c, &p->id)) {
		bool spare = false, any = p->kept || p->marked;
		for (size_t i = 0; i < p->nr_units / 64; i++) {
			spare |= (p->charged[i] & ~p->present[i]) != 0;
			any |= p->present[i] != 0;
		}
		if (!spare || p->busy || p->punching || p->pins)
			continue;
		*none = !any;
		if (!any) {
			nf_cache_make_busy_locked(c, p);
			break;
		}
		p->punching = true;
		p->pins++;
		c->nr_pins++;
		break;
	}
	nf_lock_drop(&c->lock);
	return p;
}

int nf_cache_trim(struct nf_cache *c, uint64_t *freed_bytes)
{
	struct nf_pack_id at;
	struct nf_pack *p;
	uint64_t freed = 0;
	bool none;
	int first = 0;

	for (bool begun = false; (p = next_to_trim(c, begun ? &at : NULL, &none)); begun = true) {
		at = p->id;
		if (none)
			freed += p->charged_bytes;
		int r = none ? nf_cache_remove(c, p) : nf_cache_punch(c, p, &freed);
		if (r < 0 && first == 0)
			first = r;
	}
	if (freed_bytes)
		*freed_bytes = freed;
	return nf_fail(first);
}
