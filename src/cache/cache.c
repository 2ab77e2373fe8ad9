/* The cache's public side: reads, inserts, adopting, dropping.
 *
 * Threads: no own.  Callers' threads look up, charge, open files and evict; the aio
 * engine's thread ends reads and inserts.  A pack with I/O under way is pinned: it
 * is not evicted and its file stays open.  The lock is never held across I/O or a
 * callback.
 *
 * Memory: about 250 bytes per pack and 2 bits per unit: 1.2 KiB for a pack of
 * 16 MiB, 8 MiB for 100 GiB of them. */
#include "cache/cache.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "cache/types.h"

#include <fcntl.h>
#include <inttypes.h>

static size_t unit_of(uint64_t offset_bytes) { return (size_t)(offset_bytes / NF_CACHE_UNIT); }
static size_t unit_end(uint64_t offset_bytes)
{
	return (size_t)nf_round_up(offset_bytes, NF_CACHE_UNIT) / NF_CACHE_UNIT;
}

static void cache_free(struct nf_cache *c)
{
	struct nf_avl_node *n;

	while ((n = nf_avl_first(&c->packs))) {
		nf_avl_erase(&c->packs, n);
		nf_pack_free(nf_container_of(n, struct nf_pack, node));
	}
	nf_cond_deinit(&c->quiet);
	nf_lock_deinit(&c->lock);
	free(c->dir);
	free(c);
}

static void wait_quiet(struct nf_cache *c)
{
	nf_lock_take(&c->lock);
	while (c->nr_pins > 0 || c->nr_busy > 0)
		nf_cond_wait(&c->quiet, &c->lock);
	nf_lock_drop(&c->lock);
}

void nf_cache_close(struct nf_cache *c)
{
	if (!c)
		return;
	wait_quiet(c);
	nf_cache_save(c, true);
	nf_cache_mark_clean(c);
	cache_free(c);
}

static int open_dir(struct nf_cache *c)
{
	nf_auto(nf_text_deinit) struct nf_text packs = NF_TEXT_INIT;

	nf_textf(&packs, "%s/packs", c->dir);
	if (packs.failed)
		return nf_fail(-ENOMEM);
	int r = nf_file_mkdirs(c->files, nf_text_str(&packs));
	if (r == 0)
		r = nf_cache_scan(c);
	/* The limit may be lower than last time. */
	if (r == 0)
		(void)nf_cache_tidy(c); /* what could not be removed goes on counting */
	return r;
}

int nf_cache_open(const struct nf_cache_options *o, struct nf_cache **out)
{
	struct nf_cache *c = calloc(1, sizeof *c);

	if (!c)
		return nf_fail(-ENOMEM);
	nf_lock_init(&c->lock, NF_RANK_CACHE);
	nf_cond_init(&c->quiet);
	nf_avl_init(&c->packs, NULL);
	nf_list_init(&c->lru);
	nf_list_init(&c->open);
	nf_list_init(&c->unsynced);
	c->files = o->files;
	c->aio = o->aio;
	c->limit_bytes = o->size_limit_bytes;
	c->min_free_bytes = o->min_free_bytes;
	c->hold = o->hold;
	c->dir = strdup(o->dir);
	int r = c->dir ? open_dir(c) : -ENOMEM;
	if (r < 0) {
		cache_free(c);
		return nf_fail(r);
	}
	*out = c;
	return 0;
}

void nf_cache_share(struct nf_cache *c, struct nf_room *r) { c->shared = r; }

static size_t present_locked(const struct nf_pack *p, uint64_t offset, size_t len)
{
	uint64_t end = NF_MIN(p->length_bytes, offset + len);
	uint64_t at = offset;

	while (at < end && nf_pack_bit(p->present, unit_of(at)))
		at = ((uint64_t)unit_of(at) + 1) * NF_CACHE_UNIT;
	return at > offset ? (size_t)(NF_MIN(at, end) - offset) : 0;
}

size_t nf_cache_present(struct nf_cache *c, const struct nf_pack_id *pack, uint64_t offset_bytes,
			size_t len_bytes)
{
	size_t n = 0;

	if (offset_bytes >= NF_CACHE_PACK_MAX)
		return 0;
	nf_lock_take(&c->lock);
	const struct nf_pack *p = nf_cache_find_locked(c, pack);
	if (p && !p->busy)
		n = present_locked(p, offset_bytes, len_bytes);
	nf_lock_drop(&c->lock);
	return n;
}

static void pin_locked(struct nf_cache *c, struct nf_pack *p) NF_REQUIRES(c->lock)
{
	p->pins++;
	c->nr_pins++;
	nf_cache_touch_locked(c, p);
}

void nf_cache_unpin_locked(struct nf_cache *c, struct nf_pack *p)
{
	NF_ASSERT(p->pins > 0);
	p->pins--;
	c->nr_pins--;
	nf_cond_broadcast(&c->quiet);
}

/* A pack opened longest ago that nobody uses gives up its file, if too many have
 * one; the caller closes it. */
static struct nf_file *spare_file_locked(struct nf_cache *c) NF_REQUIRES(c->lock)
{
	if (c->nr_open <= NF_CACHE_OPEN_MAX)
		return NULL;
	nf_list_for_each(p, &c->open, struct nf_pack, open_link) {
		if (p->pins > 0)
			continue;
		nf_list_del(&p->open_link);
		c->nr_open--;
		return nf_steal(&p->file);
	}
	return NULL;
}

static int open_file(struct nf_pack *p, struct nf_file **out)
{
	const struct nf_file_ops *o = p->cache->files;
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT, dir = NF_TEXT_INIT;

	nf_pack_path(p->cache, &p->id, "", &path);
	nf_pack_path(p->cache, &p->id, NULL, &dir);
	if (path.failed || dir.failed)
		return nf_fail(-ENOMEM);
	int r = o->open(o, nf_text_str(&path), O_RDWR | O_CREAT, 0600, out);
	if (r != -ENOENT)
		return nf_fail(r);
	r = o->mkdir(o, nf_text_str(&dir), 0700);
	return r == 0 ? nf_fail(o->open(o, nf_text_str(&path), O_RDWR | O_CREAT, 0600, out)) :
			nf_fail(r);
}

int nf_cache_need_file(struct nf_cache *c, struct nf_pack *p, struct nf_file **out)
{
	struct nf_file *mine = NULL;

	nf_lock_take(&c->lock);
	*out = p->file;
	nf_lock_drop(&c->lock);
	if (*out)
		return 0;
	int r = open_file(p, &mine);
	if (r < 0)
		return r;
	nf_lock_take(&c->lock);
	if (!p->file) {
		p->file = nf_steal(&mine);
		nf_list_add_tail(&c->open, &p->open_link);
		c->nr_open++;
	}
	*out = p->file;
	struct nf_file *spare = spare_file_locked(c);
	nf_lock_drop(&c->lock);
	c->files->close(mine); /* another thread was first */
	c->files->close(spare);
	return 0;
}

static void submit(struct nf_cache *c, struct nf_cache_io *io, struct nf_pack *p, bool read,
		   void (*done)(struct nf_aio_job *job))
{
	struct nf_file *file = NULL;
	int r = nf_cache_need_file(c, p, &file);

	io->priv = p;
	io->job = (struct nf_aio_job){ .kind = read ? NF_AIO_READ : NF_AIO_WRITE,
				       .file = file,
				       .buf = io->buf,
				       .len_bytes = io->len_bytes,
				       .offset_bytes = io->offset_bytes,
				       .done = done,
				       .ctx = io };
	if (r == 0) {
		nf_aio_submit(c->aio, &io->job);
		return;
	}
	io->job.error = r;
	done(&io->job);
}

static void read_done(struct nf_aio_job *job)
{
	struct nf_cache_io *io = job->ctx;
	struct nf_pack *p = io->priv;
	struct nf_cache *c = p->cache;

	nf_lock_take(&c->lock);
	/* Somebody shortened the file or the disk failed: not there any more. */
	if (job->error != 0)
		nf_pack_set(p->present, unit_of(io->offset_bytes),
			    unit_end(io->offset_bytes + io->len_bytes), false);
	p->changed |= job->error != 0;
	io->error = job->error;
	nf_count(job->error ? NF_C_CACHE_MISS_BYTES : NF_C_CACHE_HIT_BYTES, io->len_bytes);
	nf_cache_unpin_locked(c, p);
	nf_lock_drop(&c->lock);
	io->done(io);
}

void nf_cache_read(struct nf_cache *c, struct nf_cache_io *io)
{
	struct nf_pack *p = NULL;

	nf_lock_take(&c->lock);
	if (io->len_bytes > 0 && io->offset_bytes < NF_CACHE_PACK_MAX)
		p = nf_cache_find_locked(c, &io->pack);
	if (p && (p->busy || present_locked(p, io->offset_bytes, io->len_bytes) < io->len_bytes))
		p = NULL;
	if (p)
		pin_locked(c, p);
	nf_lock_drop(&c->lock);
	if (p) {
		submit(c, io, p, true, read_done);
		return;
	}
	nf_count(NF_C_CACHE_MISS_BYTES, io->len_bytes);
	io->error = NF_CACHE_MISS;
	io->done(io);
}

static void insert_done(struct nf_aio_job *job)
{
	struct nf_cache_io *io = job->ctx;
	struct nf_pack *p = io->priv;
	struct nf_cache *c = p->cache;
	uint64_t end = io->offset_bytes + io->len_bytes;

	nf_lock_take(&c->lock);
	nf_pack_set(p->present, unit_of(io->offset_bytes), unit_end(end), job->error == 0);
	p->changed = true;
	if (job->error == 0) {
		p->length_bytes = NF_MAX(p->length_bytes, end);
		p->ended |= io->at_end;
		if (io->lasting && nf_list_empty(&p->unsynced))
			nf_list_add_tail(&c->unsynced, &p->unsynced);
		c->unsaved_bytes += io->len_bytes;
	}
	/* On failure its units stay charged: some may have got blocks. */
	nf_cache_unpin_locked(c, p);
	nf_lock_drop(&c->lock);
	if (job->error == 0)
		nf_count(NF_C_CACHE_STORE_BYTES, io->len_bytes);
	io->error = job->error;
	io->done(io);
}

/* Whether the range agrees with what is known of the pack's end. */
static bool agrees_on_end(const struct nf_pack *p, const struct nf_cache_io *io)
{
	uint64_t end = io->offset_bytes + io->len_bytes;

	if (p->ended)
		return io->at_end ? end == p->length_bytes : end <= p->length_bytes;
	return !io->at_end || end >= p->length_bytes;
}

/* The pack to insert into, made if missing, pinned; NULL: dropped. */
static struct nf_pack *insert_into(struct nf_cache *c, struct nf_cache_io *io)
{
	nf_lock_take(&c->lock);
	struct nf_pack *p = nf_cache_find_locked(c, &io->pack);
	if (!p && (p = nf_pack_new(c, &io->pack)))
		nf_cache_add_locked(c, p);
	if (p && (p->busy || p->punching || !agrees_on_end(p, io) ||
		  nf_pack_grow(p, unit_end(io->offset_bytes + io->len_bytes)) < 0))
		p = NULL;
	if (p)
		pin_locked(c, p);
	nf_lock_drop(&c->lock);
	return p;
}

static void save_now_and_then(struct nf_cache *c)
{
	nf_lock_take(&c->lock);
	bool due = c->unsaved_bytes >= NF_CACHE_SAVE_EVERY;
	if (due)
		c->unsaved_bytes = 0;
	nf_lock_drop(&c->lock);
	if (due)
		nf_cache_save_some(c);
}

/* Cuts the range to what may be stored; false if that is nothing. */
static bool cut_range(struct nf_cache_io *io)
{
	if (io->offset_bytes % NF_CACHE_UNIT != 0 || io->offset_bytes >= NF_CACHE_PACK_MAX ||
	    io->len_bytes > NF_CACHE_PACK_MAX - io->offset_bytes)
		return false;
	if (!io->at_end)
		io->len_bytes = nf_round_down(io->len_bytes, NF_CACHE_UNIT);
	return io->len_bytes > 0;
}

void nf_cache_insert(struct nf_cache *c, struct nf_cache_io *io)
{
	struct nf_pack *p = NULL;

	save_now_and_then(c);
	if (cut_range(io))
		p = insert_into(c, io);
	if (p && nf_cache_charge(c, p, unit_of(io->offset_bytes),
				 unit_end(io->offset_bytes + io->len_bytes), io->lasting)) {
		submit(c, io, p, false, insert_done);
		return;
	}
	if (p) {
		nf_lock_take(&c->lock);
		nf_cache_unpin_locked(c, p);
		nf_lock_drop(&c->lock);
	}
	io->error = 0;
	io->done(io);
}
