/* What outlives a power cut: nodes of the tree.  A mount without the store replays the journal on the remembered base, and
 * cannot if a node on the way is only in a page that never reached the disk.
 *
 *   announced    a node's bytes have come, or are about to, and will be inserted
 *   unsynced     inserted as lasting: the pack is on c->unsynced
 *   sync         file, map and names of each such pack are made durable
 *
 * One thread writes maps or syncs at a time, without the lock; who syncs waits for it, as what is needed may be in what the
 * other has begun. */
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "cache/types.h"

unsigned nf_cache_announce(struct nf_cache *c)
{
	nf_lock_take(&c->lock);
	unsigned round = c->round;
	c->announced[round]++;
	nf_lock_drop(&c->lock);
	return round;
}

void nf_cache_announced(struct nf_cache *c, unsigned round)
{
	nf_lock_take(&c->lock);
	if (--c->announced[round] == 0)
		nf_cond_broadcast(&c->quiet);
	nf_lock_drop(&c->lock);
}

/* The directory of P holds its name, and packs/ that directory's. */
static int sync_names(struct nf_cache *c, const struct nf_pack *p)
{
	nf_auto(nf_text_deinit) struct nf_text dir = NF_TEXT_INIT;
	unsigned xx = p->id.b[0];

	nf_pack_path(c, &p->id, NULL, &dir);
	if (dir.failed)
		return nf_fail(-ENOMEM);
	int r = c->files->fsync_dir(c->files, nf_text_str(&dir));
	if (r == 0 && !c->synced_dirs[xx]) {
		r = nf_file_sync_name(c->files, nf_text_str(&dir));
		c->synced_dirs[xx] = r == 0;
	}
	return nf_fail(r);
}

static int sync_pack(struct nf_cache *c, struct nf_pack *p, struct nf_buf *map)
{
	struct nf_file *f;

	int r = nf_cache_need_file(c, p, &f);
	if (r == 0)
		r = c->files->fdatasync(f);
	if (r == 0)
		r = nf_map_write(p, map, true);
	return r == 0 ? sync_names(c, p) : nf_fail(r);
}

void nf_cache_sync(struct nf_cache *c)
{
	nf_auto(nf_buf_deinit) struct nf_buf map = NF_BUF_INIT;

	nf_lock_take(&c->lock);
	while (c->saving)
		nf_cond_wait(&c->quiet, &c->lock);
	c->saving = true;
	/* Those announced from now on are not waited for, or there might be no end. */
	unsigned round = c->round;
	if (c->announced[round])
		c->round = !round;
	while (c->announced[round])
		nf_cond_wait(&c->quiet, &c->lock);
	while (!nf_list_empty(&c->unsynced)) {
		struct nf_pack *p = nf_list_first(&c->unsynced, struct nf_pack, unsynced);
		nf_list_del(&p->unsynced);
		p->changed = p->touched = false;
		p->lasting = true;
		p->pins++;
		c->nr_pins++;
		nf_map_encode_locked(p, &map);
		nf_lock_drop(&c->lock);
		/* A cache that cannot be written is merely absent. */
		int r = sync_pack(c, p, &map);
		nf_trace(CACHE, "sync pack=%02x.. r=%d", p->id.b[0], r);
		map.len = 0;
		nf_lock_take(&c->lock);
		nf_cache_unpin_locked(c, p);
	}
	c->saving = false;
	nf_cond_broadcast(&c->quiet);
	nf_lock_drop(&c->lock);
}
