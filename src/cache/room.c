/* The limit: what is charged before it is written, and evicting.
 *
 * Threads: any caller; the lock is dropped for the disk.  A pack being removed is
 * `busy` until its files are gone and only then leaves table and charge: meanwhile
 * nobody can begin a new file under its name, and the limit holds. */
#include "aio/room.h"
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "cache/types.h"

static int unlink_one(struct nf_cache *c, const struct nf_pack_id *id, const char *suffix)
{
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT;

	nf_pack_path(c, id, suffix, &path);
	if (path.failed)
		return nf_fail(-ENOMEM);
	int r = c->files->unlink(c->files, nf_text_str(&path));
	return r == -ENOENT ? 0 : nf_fail(r);
}

int nf_cache_remove(struct nf_cache *c, struct nf_pack *p)
{
	c->files->close(p->file);
	p->file = NULL;
	int r = unlink_one(c, &p->id, "");
	int r_map = unlink_one(c, &p->id, ".map");

	nf_lock_take(&c->lock);
	NF_ASSERT(p->busy && p->pins == 0);
	nf_avl_erase(&c->packs, &p->node);
	c->nr_packs--;
	/* What cannot be removed goes on counting until the next open cleans up. */
	if (r == 0) {
		c->used_bytes -= p->charged_bytes;
		c->node_bytes -= p->nodes ? p->charged_bytes : 0;
	}
	c->nr_busy--;
	nf_cond_broadcast(&c->quiet);
	nf_lock_drop(&c->lock);
	nf_trace(CACHE, "evict pack=%02x.. bytes=%zu r=%d", p->id.b[0], (size_t)p->charged_bytes, r);
	nf_count(NF_C_CACHE_EVICT_BYTES, p->charged_bytes);
	nf_pack_free(p);
	return r < 0 ? r : r_map;
}

void nf_cache_make_busy_locked(struct nf_cache *c, struct nf_pack *p)
{
	NF_ASSERT(p->pins == 0 && !p->busy);
	p->busy = true;
	c->nr_busy++;
	nf_list_del(&p->lru);
	nf_list_del(&p->unsynced);
	if (p->file) {
		nf_list_del(&p->open_link);
		c->nr_open--;
	}
}

/* What of P is kept, and whether anything else of it takes room. */
static void look_at_locked(const struct nf_pack *p, bool *kept, bool *spare)
{
	*kept = *spare = false;
	for (size_t i = 0; i < p->nr_units / 64; i++) {
		uint64_t word = nf_pack_kept_word(p, i);
		*kept |= word != 0;
		*spare |= (p->charged[i] & ~word) != 0;
	}
}

void nf_cache_has_nodes_locked(struct nf_cache *c, struct nf_pack *p)
{
	if (!p->nodes)
		c->node_bytes += p->charged_bytes;
	p->nodes = true;
}

/* The least recently used pack that has something to give; *PART: but is kept in part. */
static struct nf_pack *victim_locked(struct nf_cache *c, bool spare_nodes, bool *part) NF_REQUIRES(c->lock)
{
	spare_nodes &= c->node_bytes <= NF_CACHE_NODES_KEPT;
	nf_list_for_each(p, &c->lru, struct nf_pack, lru) {
		bool kept, spare;
		if (p->pins > 0 || p->solid || (spare_nodes && p->nodes))
			continue;
		look_at_locked(p, &kept, &spare);
		*part = kept;
		if (!kept || spare)
			return p;
		p->solid = true;
	}
	return NULL;
}

bool nf_cache_evict_one(struct nf_cache *c, bool spare, int *err)
{
	bool part = false;

	nf_lock_take(&c->lock);
	struct nf_pack *victim = c->hold ? NULL : victim_locked(c, spare, &part);
	if (victim && part) {
		for (size_t i = 0; i < victim->nr_units / 64; i++)
			victim->present[i] &= nf_pack_kept_word(victim, i);
		victim->changed = victim->punching = true;
		victim->pins++;
		c->nr_pins++;
	} else if (victim) {
		nf_cache_make_busy_locked(c, victim);
	}
	nf_lock_drop(&c->lock);
	if (!victim)
		return false;
	uint64_t freed = 0;
	int r = part ? nf_cache_punch(c, victim, &freed) : nf_cache_remove(c, victim);
	if (r < 0)
		*err = r;
	return true;
}

/* Units [from, to) of P have no blocks any more. */
static void uncharge(struct nf_cache *c, struct nf_pack *p, size_t from, size_t to, uint64_t *freed)
{
	uint64_t bytes = (uint64_t)(to - from) * NF_CACHE_UNIT;

	nf_lock_take(&c->lock);
	nf_pack_set(p->charged, from, to, false);
	p->charged_bytes -= bytes;
	c->used_bytes -= bytes;
	c->node_bytes -= p->nodes ? bytes : 0;
	nf_lock_drop(&c->lock);
	nf_count(NF_C_CACHE_EVICT_BYTES, bytes);
	*freed += bytes;
}

/* The next run of units from *AT on that are charged and not present. */
static bool absent_run(struct nf_cache *c, const struct nf_pack *p, size_t *at, size_t *end)
{
	nf_lock_take(&c->lock);
	while (*at < p->nr_units && !(nf_pack_bit(p->charged, *at) && !nf_pack_bit(p->present, *at)))
		++*at;
	for (*end = *at; *end < p->nr_units; ++*end) {
		if (!nf_pack_bit(p->charged, *end) || nf_pack_bit(p->present, *end))
			break;
	}
	nf_lock_drop(&c->lock);
	return *at < *end;
}

int nf_cache_punch(struct nf_cache *c, struct nf_pack *p, uint64_t *freed_bytes)
{
	struct nf_file *f;
	size_t at = 0, end;

	int r = nf_cache_need_file(c, p, &f);
	while (r == 0 && absent_run(c, p, &at, &end)) {
		r = c->files->punch(f, (uint64_t)at * NF_CACHE_UNIT, (uint64_t)(end - at) * NF_CACHE_UNIT);
		if (r == 0)
			uncharge(c, p, at, end, freed_bytes);
		at = end;
	}
	nf_lock_take(&c->lock);
	p->punching = false;
	p->solid |= r < 0; /* a disk that cannot punch is not asked again and again */
	nf_cache_unpin_locked(c, p);
	nf_lock_drop(&c->lock);
	nf_trace(CACHE, "punch pack=%02x.. bytes=%zu r=%d", p->id.b[0], (size_t)*freed_bytes, r);
	return nf_fail(r);
}

/* NODES: what of the tree is few goes where anything at all is free beyond what others and the journal live from. */
static bool disk_has(struct nf_cache *c, uint64_t more_bytes, bool nodes)
{
	struct nf_file_room now;

	if (c->min_free_bytes == 0)
		return true;
	/* A disk that does not answer is treated as full. */
	if (c->files->room(c->files, c->dir, &now) < 0)
		return false;
	/* Also what was accepted and is not written yet takes it. */
	uint64_t claimed = c->shared ? nf_room_claimed(c->shared) : 0;
	uint64_t rest = now.free_bytes - NF_MIN(now.free_bytes, claimed);
	uint64_t leave = nodes ? NF_MIN(c->min_free_bytes, nf_room_spare(&now)) : c->min_free_bytes;
	return rest >= more_bytes && rest - more_bytes >= leave;
}

/* The lock held. */
static uint64_t needs_locked(const struct nf_pack *p, size_t from, size_t to)
{
	uint64_t nr = 0;

	for (size_t i = from; i < to; i++)
		nr += !nf_pack_bit(p->charged, i);
	return nr * NF_CACHE_UNIT +
	       (nf_pack_charge(p) - p->charged_bytes); /* the map file, when new or longer */
}

bool nf_cache_charge(struct nf_cache *c, struct nf_pack *p, size_t from, size_t to, bool nodes)
{
	for (;;) {
		nf_lock_take(&c->lock);
		uint64_t more = needs_locked(p, from, to);
		bool few = nodes && c->node_bytes + more <= NF_CACHE_NODES_KEPT;
		nf_lock_drop(&c->lock);
		bool has = disk_has(c, more, few);
		nf_lock_take(&c->lock);
		/* Another insert may have charged some of it meanwhile: never more. */
		more = needs_locked(p, from, to);
		bool limit = more <= c->limit_bytes && c->used_bytes <= c->limit_bytes - more, fits = has && limit;
		if (fits) {
			nf_pack_set(p->charged, from, to, true);
			p->solid = false;
			p->charged_bytes += more;
			c->used_bytes += more;
			c->node_bytes += p->nodes ? more : 0;
			if (nodes)
				nf_cache_has_nodes_locked(c, p);
		}
		nf_lock_drop(&c->lock);
		if (fits)
			return true;
		int err = 0; /* what could not be removed goes on counting */
		/* Nodes beyond the few take the place of older ones. */
		if (!nf_cache_evict_one(c, limit && few == nodes, &err))
			return false;
	}
}

int nf_cache_tidy(struct nf_cache *c)
{
	int err = 0;

	for (;;) {
		bool room = disk_has(c, 0, false);
		nf_lock_take(&c->lock);
		bool limit = c->used_bytes <= c->limit_bytes;
		nf_lock_drop(&c->lock);
		if ((room && limit) || !nf_cache_evict_one(c, limit, &err))
			return nf_fail(err);
	}
}
