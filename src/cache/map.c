/* The presence map beside a pack's file.
 *
 *   offset  size  field
 *        0     4  magic "FCM1"
 *        4     4  flags: 1 length is the pack's end; 2 the file has blocks for no
 *                 unit but those present; 4 nodes in it are durable
 *        8     8  length: how far bytes were given
 *       16     8  used_at: the greater, the later used
 *       24     8  number of units, a multiple of 64
 *       32     8  SipHash-2-4 under the pack's id of all other bytes
 *       40     -  one bit per unit, little-endian words
 *
 * Valid: the exact size, the hash, a length its units hold.  Behind the end of the pack's file nothing is present (that the
 * file grew may be lost).  It is written in place: a torn one is dropped with its pack.  Not so that of a pack with
 * durable nodes: in place only what fits in a sector and does not grow, else a new file takes the old one's place. */
#include "base/buf.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/trace.h"
#include "cache/types.h"

#include <fcntl.h>

enum { HASH_AT = 32, ENDED = 1, EXACT = 2, LASTING = 4, SECTOR = 512 };

static uint64_t hash_of(const struct nf_pack *p, uint8_t *map, size_t len)
{
	uint8_t old[8];

	memcpy(old, map + HASH_AT, sizeof old);
	memset(map + HASH_AT, 0, sizeof old);
	uint64_t h = nf_siphash(p->id.b, map, len);
	memcpy(map + HASH_AT, old, sizeof old);
	return h;
}

void nf_map_encode_locked(const struct nf_pack *p, struct nf_buf *b)
{
	nf_buf_bytes(b, "FCM1", 4);
	bool exact = p->nr_units == 0 || memcmp(p->present, p->charged, p->nr_units / 8) == 0;
	nf_buf_u32(b, (p->ended ? ENDED : 0u) | (exact ? EXACT : 0u) | (p->lasting ? LASTING : 0u));
	nf_buf_u64(b, p->length_bytes);
	nf_buf_u64(b, p->used_at);
	nf_buf_u64(b, p->nr_units);
	nf_buf_u64(b, 0);
	for (size_t i = 0; i < p->nr_units / 64; i++)
		nf_buf_u64(b, p->present[i]);
	if (nf_buf_error(b) == 0)
		nf_put_le64(b->p + HASH_AT, hash_of(p, b->p, b->len));
}

static int write_in_place(const struct nf_file_ops *o, const char *path, const struct nf_buf *b, bool sync)
{
	struct nf_file *f;
	int r = o->open(o, path, O_RDWR | O_CREAT, 0600, &f);

	if (r < 0)
		return nf_fail(r);
	r = o->pwrite(f, b->p, b->len, 0);
	if (r == 0)
		r = o->ftruncate(f, b->len);
	if (r == 0 && sync)
		r = o->fdatasync(f);
	o->close(f);
	return nf_fail(r);
}

int nf_map_write(struct nf_pack *p, const struct nf_buf *b, bool sync)
{
	const struct nf_file_ops *o = p->cache->files;
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT;

	nf_pack_path(p->cache, &p->id, ".map", &path);
	if (path.failed || nf_buf_error(b) < 0)
		return nf_fail(-ENOMEM);
	bool anew = p->lasting && p->map_bytes && (b->len > SECTOR || b->len != p->map_bytes);
	int r = anew ? nf_file_replace(o, nf_text_str(&path), b->p, b->len) :
		       write_in_place(o, nf_text_str(&path), b, sync);
	if (r == 0)
		p->map_bytes = b->len;
	return r;
}

static bool is_due(const struct nf_pack *p, bool all)
{
	return !p->busy && p->length_bytes > 0 && (p->changed || (all && p->touched));
}

/* The next pack to save after *AT, pinned so that it stays; NULL when there is none. */
static struct nf_pack *next_due(struct nf_cache *c, const struct nf_pack_id *at, bool all,
				struct nf_buf *b)
{
	nf_lock_take(&c->lock);
	struct nf_pack *p = nf_cache_next_locked(c, at);
	while (p && !is_due(p, all))
		p = nf_cache_next_locked(c, &p->id);
	if (p) {
		p->changed = p->touched = false;
		p->pins++;
		c->nr_pins++;
		nf_map_encode_locked(p, b);
	}
	nf_lock_drop(&c->lock);
	return p;
}

static void save(struct nf_cache *c, bool all, bool wait)
{
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	struct nf_pack_id at;
	struct nf_pack *p;

	nf_lock_take(&c->lock);
	while (c->saving && wait)
		nf_cond_wait(&c->quiet, &c->lock);
	bool busy = c->saving;
	c->saving = true;
	nf_lock_drop(&c->lock);
	if (busy)
		return;
	for (bool first = true; (p = next_due(c, first ? NULL : &at, all, &b)); first = false) {
		at = p->id;
		int r = nf_map_write(p, &b, false);
		nf_trace(CACHE, "map pack=%02x.. bytes=%zu r=%d", p->id.b[0], b.len, r);
		b.len = 0;
		nf_lock_take(&c->lock);
		nf_cache_unpin_locked(c, p);
		nf_lock_drop(&c->lock);
	}
	nf_lock_take(&c->lock);
	c->saving = false;
	nf_cond_broadcast(&c->quiet);
	nf_lock_drop(&c->lock);
}

void nf_cache_save(struct nf_cache *c, bool all) { save(c, all, true); }
void nf_cache_save_some(struct nf_cache *c) { save(c, false, false); }

static int decode(struct nf_pack *p, uint8_t *map, size_t len, uint64_t file_bytes)
{
	struct nf_rd rd = nf_rd_of(map, len);
	const uint8_t *magic = nf_rd_bytes(&rd, 4);
	uint32_t flags = nf_rd_u32(&rd);
	uint64_t length = nf_rd_u64(&rd), used_at = nf_rd_u64(&rd), units = nf_rd_u64(&rd);
	uint64_t hash = nf_rd_u64(&rd);

	if (nf_rd_error(&rd, false) < 0 || memcmp(magic, "FCM1", 4) != 0 || flags > (ENDED | EXACT | LASTING))
		return nf_fail(-NF_E_STATE_BAD);
	if (units % 64 != 0 || nf_rd_left(&rd) != units / 8 || hash != hash_of(p, map, len))
		return nf_fail(-NF_E_STATE_BAD);
	if (length > NF_CACHE_PACK_MAX || length > units * NF_CACHE_UNIT)
		return nf_fail(-NF_E_STATE_BAD);
	int r = nf_pack_grow(p, (size_t)units);
	if (r < 0)
		return r;
	for (size_t i = 0; i < p->nr_units / 64; i++)
		p->present[i] = nf_rd_u64(&rd);
	bool grew = length > file_bytes;
	if (grew)
		length = nf_round_down(file_bytes, NF_CACHE_UNIT);
	/* No unit may be said to be there behind the length. */
	nf_pack_set(p->present, nf_round_up(length, NF_CACHE_UNIT) / NF_CACHE_UNIT, p->nr_units,
		    false);
	p->ended = flags & ENDED && !grew;
	p->exact = flags & EXACT;
	p->lasting = flags & LASTING;
	p->map_bytes = len;
	p->length_bytes = length;
	p->used_at = used_at;
	return 0;
}

int nf_map_load(struct nf_pack *p, uint64_t file_bytes)
{
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT;
	void *map;
	size_t len;

	nf_pack_path(p->cache, &p->id, ".map", &path);
	if (path.failed)
		return nf_fail(-ENOMEM);
	int r = nf_file_slurp(p->cache->files, nf_text_str(&path),
			      nf_pack_map_bytes(NF_CACHE_PACK_MAX / NF_CACHE_UNIT), &map, &len);
	if (r < 0)
		return r;
	r = decode(p, map, len, file_bytes);
	free(map);
	return r;
}
