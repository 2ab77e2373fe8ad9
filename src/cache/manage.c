/* What is done to packs as wholes: forget, adopt, drop, look at.  Threads: any caller. */
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "cache/types.h"

#include <inttypes.h>

/* Marks what of [offset, offset + len) is present, and not KEPT, absent.  The blocks stay charged. */
static bool absent_locked(struct nf_pack *p, uint64_t offset_bytes, size_t len_bytes, bool but_kept)
{
	bool any = false;

	if (p->busy || offset_bytes >= p->length_bytes || len_bytes == 0)
		return false;
	uint64_t end = offset_bytes + NF_MIN((uint64_t)len_bytes, p->length_bytes - offset_bytes);
	size_t to = (size_t)nf_round_up(end, NF_CACHE_UNIT) / NF_CACHE_UNIT;
	for (size_t i = (size_t)(offset_bytes / NF_CACHE_UNIT); i < to; i++) {
		if (!nf_pack_bit(p->present, i) || (but_kept && nf_pack_kept_word(p, i / 64) >> i % 64 & 1))
			continue;
		nf_pack_set(p->present, i, i + 1, false);
		any = true;
	}
	p->changed |= any;
	return any;
}

void nf_cache_forget(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes,
		     size_t len_bytes)
{
	nf_lock_take(&c->lock);
	struct nf_pack *p = nf_cache_find_locked(c, pack);
	/* The blocks stay charged: what is fetched again goes there. */
	if (p && absent_locked(p, offset_bytes, len_bytes, false))
		nf_count(NF_C_CACHE_BAD, 1);
	nf_lock_drop(&c->lock);
}

void nf_cache_discard(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes, size_t len_bytes)
{
	nf_lock_take(&c->lock);
	struct nf_pack *p = nf_cache_find_locked(c, pack);
	if (p)
		(void)absent_locked(p, offset_bytes, len_bytes, true);
	nf_lock_drop(&c->lock);
}

/* A new busy pack under this id, an old one that nobody uses removed; *OUT NULL if
 * it is in use. */
static int replace_pack(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t len_bytes,
			struct nf_pack **out)
{
	struct nf_pack *p = nf_pack_new(c, pack);

	*out = NULL;
	if (!p || nf_pack_grow(p, (size_t)nf_round_up(len_bytes, NF_CACHE_UNIT) / NF_CACHE_UNIT) < 0) {
		nf_pack_free(p);
		return nf_fail(-ENOMEM);
	}
	nf_lock_take(&c->lock);
	struct nf_pack *old = nf_cache_find_locked(c, pack);
	while (old && !old->busy && old->pins == 0) {
		if (nf_pack_grow(p, old->nr_units) == 0 && nf_pack_grow(old, p->nr_units) == 0) {
			p->kept = nf_steal(&old->kept);
			p->marked = nf_steal(&old->marked);
		}
		nf_cache_make_busy_locked(c, old);
		nf_lock_drop(&c->lock);
		(void)nf_cache_remove(c, old); /* the rename replaces what could not go */
		nf_lock_take(&c->lock);
		old = nf_cache_find_locked(c, pack);
	}
	if (!old) {
		nf_cache_add_locked(c, p);
		nf_cache_make_busy_locked(c, p);
		*out = nf_steal(&p);
	}
	nf_lock_drop(&c->lock);
	nf_pack_free(p);
	return 0;
}

static int move_in(struct nf_cache *c, struct nf_pack *p, const char *from)
{
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT, dir = NF_TEXT_INIT;

	nf_pack_path(c, &p->id, "", &path);
	nf_pack_path(c, &p->id, NULL, &dir);
	if (path.failed || dir.failed)
		return nf_fail(-ENOMEM);
	int r = c->files->mkdir(c->files, nf_text_str(&dir), 0700);
	return nf_fail(r == 0 ? c->files->rename(c->files, from, nf_text_str(&path)) : r);
}

static void publish(struct nf_cache *c, struct nf_pack *p, uint64_t len_bytes)
{
	nf_lock_take(&c->lock);
	nf_pack_set(p->present, 0, (size_t)nf_round_up(len_bytes, NF_CACHE_UNIT) / NF_CACHE_UNIT, true);
	p->length_bytes = len_bytes;
	p->ended = p->changed = true;
	p->busy = false;
	c->nr_busy--;
	nf_cache_touch_locked(c, p);
	c->unsaved_bytes += len_bytes;
	nf_cond_broadcast(&c->quiet);
	nf_lock_drop(&c->lock);
	nf_count(NF_C_CACHE_STORE_BYTES, len_bytes);
}

int nf_cache_adopt(struct nf_cache *c, const struct nf_pack_id *pack, const char *path,
		   uint64_t len_bytes)
{
	struct nf_pack *p;

	if (len_bytes == 0 || len_bytes > NF_CACHE_PACK_MAX)
		return nf_fail(-EINVAL);
	int r = replace_pack(c, pack, len_bytes, &p);
	if (r < 0)
		return r;
	if (p && nf_cache_charge(c, p, 0, (size_t)nf_round_up(len_bytes, NF_CACHE_UNIT) / NF_CACHE_UNIT, false)) {
		r = move_in(c, p, path);
		if (r == 0)
			publish(c, p, len_bytes);
		else
			(void)nf_cache_remove(c, p); /* nothing came: r says so */
		return r;
	}
	/* In use, so it is being filled anyway; or there is no room for it. */
	if (p)
		(void)nf_cache_remove(c, p);
	return nf_fail(c->files->unlink(c->files, path));
}

int nf_cache_drop(struct nf_cache *c)
{
	int r = 0;

	while (nf_cache_evict_one(c, false, &r))
		;
	return nf_fail(r);
}

void nf_cache_stats(struct nf_cache *c, struct nf_cache_stats *out)
{
	struct nf_cache_stats s = { .size_limit_bytes = c->limit_bytes, .min_free_bytes = c->min_free_bytes };

	struct nf_file_room now;

	if (c->files->room(c->files, c->dir, &now) == 0) {
		s.disk_free_bytes = now.free_bytes;
		s.disk_bytes = now.total_bytes;
	}
	nf_lock_take(&c->lock);
	s.used_bytes = c->used_bytes;
	s.nr_packs = c->nr_packs;
	s.held = c->hold;
	for (struct nf_avl_node *n = nf_avl_first(&c->packs); n; n = nf_avl_next(n)) {
		const struct nf_pack *p = nf_container_of(n, const struct nf_pack, node);
		for (size_t i = 0; p->kept && i < p->nr_units / 64; i++)
			s.kept_bytes += (uint64_t)__builtin_popcountll(p->kept[i] & p->present[i]) * NF_CACHE_UNIT;
	}
	nf_lock_drop(&c->lock);
	*out = s;
}

void nf_cache_to_text(struct nf_cache *c, struct nf_text *t)
{
	nf_lock_take(&c->lock);
	nf_textf(t, "cache used=%" PRIu64 " limit=%" PRIu64 " packs=%zu open=%zu pins=%u busy=%u\n",
		 c->used_bytes, c->limit_bytes, c->nr_packs, c->nr_open, c->nr_pins, c->nr_busy);
	nf_list_for_each(p, &c->lru, struct nf_pack, lru) {
		size_t nr = 0;
		for (size_t i = 0; i < p->nr_units; i++)
			nr += nf_pack_bit(p->present, i);
		nf_textf(t, "pack=");
		nf_text_hex(t, p->id.b, sizeof p->id.b);
		nf_textf(t, " present=%zu length=%" PRIu64 " ended=%d charged=%" PRIu64 " pins=%u\n",
			 nr * NF_CACHE_UNIT, p->length_bytes, p->ended, p->charged_bytes, p->pins);
	}
	nf_lock_drop(&c->lock);
}
