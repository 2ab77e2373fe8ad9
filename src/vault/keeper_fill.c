/* vault/keeper_fill.c - fetching what pins miss: ranges that lie together become one request, a few are under way at a time.
 * The bytes go to the cache only; they are opened when somebody reads them. */
#include "vault/keeper.h"

#include "base/error.h"
#include "vault/fetch_priv.h"
#include "vault/gc.h"

enum {
	SLOTS = 6,
	RANGE_MAX_BYTES = 1 << 20,
	/* Bytes between two ranges that are fetched along rather than asked for apart. */
	GAP_MAX_BYTES = 16 << 10,
	STOP_LOOK_MS = 200,
};

struct slot {
	struct fill *f;
	struct nf_fetch_io io;
	bool busy; /* l */
};

/* l lock;  others: the keeper's thread */
struct fill {
	struct nf_keeper *k;
	struct nf_lock lock;
	struct nf_cond changed;
	struct slot slots[SLOTS];
	unsigned busy;      /* l */
	int error;          /* l  the first that ends it */
	int damaged;        /* l  the first that concerns a range only */
	bool any;           /* there is a range not sent yet: */
	bool meta;          /* of nodes, which outlive a power cut */
	struct nf_pack_id pack;
	uint32_t start, end;
	uint64_t room_bytes;
};

static void fetched(struct nf_fetch_io *io)
{
	struct slot *s = nf_container_of(io, struct slot, io);
	struct fill *f = s->f;

	if (io->error == 0)
		atomic_fetch_add(&f->k->filled_bytes, io->len_bytes);
	nf_lock_take(&f->lock);
	if (nf_is_damage(io->error))
		f->damaged = f->damaged ? f->damaged : io->error;
	else if (io->error < 0 && f->error == 0)
		f->error = io->error;
	s->busy = false;
	f->busy--;
	nf_cond_broadcast(&f->changed);
	nf_lock_drop(&f->lock);
}

/* Waits until at most BUSY are under way. */
static void wait_busy(struct fill *f, unsigned busy)
{
	bool cancelled = false;

	nf_lock_take(&f->lock);
	while (f->busy > busy) {
		nf_cond_wait_until(&f->changed, &f->lock, nf_clock_ns() + STOP_LOOK_MS * NF_NS_PER_MS);
		if (!atomic_load(&f->k->stop) || cancelled)
			continue;
		cancelled = true;
		nf_lock_drop(&f->lock);
		for (int i = 0; i < SLOTS; i++)
			nf_fetch_cancel(f->k->v->fetch, &f->slots[i].io);
		nf_lock_take(&f->lock);
	}
	nf_lock_drop(&f->lock);
}

static int fill_error(struct fill *f)
{
	nf_lock_take(&f->lock);
	int r = atomic_load(&f->k->stop) ? -NF_E_CANCELLED : f->error;
	nf_lock_drop(&f->lock);
	return r;
}

/* Sends the range that was gathered. */
static int send(struct fill *f)
{
	struct slot *s = NULL;
	uint64_t cost = nf_round_up((uint64_t)f->end, NF_CACHE_UNIT) - nf_round_down((uint64_t)f->start, NF_CACHE_UNIT);

	if (!f->any)
		return 0;
	f->any = false;
	if (cost > f->room_bytes)
		return nf_fail(-NF_E_FULL);
	f->room_bytes -= cost;
	wait_busy(f, SLOTS - 1);
	int r = fill_error(f);
	if (r < 0)
		return r;
	nf_lock_take(&f->lock);
	for (int i = 0; i < SLOTS && !s; i++) {
		if (!f->slots[i].busy)
			s = &f->slots[i];
	}
	s->busy = true;
	f->busy++;
	nf_lock_drop(&f->lock);
	s->io = (struct nf_fetch_io){ .pack = f->pack, .offset_bytes = f->start, .len_bytes = f->end - f->start,
				      .priority = NF_STORE_BACKGROUND, .done = fetched };
	nf_fetch_start(f->k->v->fetch, &s->io, f->meta ? NF_FETCH_META : NF_FETCH_DATA);
	return 0;
}

static int want(struct fill *f, bool meta, const struct nf_pack_id *pack, uint32_t offset, uint32_t len)
{
	if (nf_cache_present(f->k->v->cache, pack, offset, len) == len)
		return 0;
	bool joins = f->any && meta == f->meta && !memcmp(pack, &f->pack, sizeof *pack) && offset >= f->start &&
		     offset <= (uint64_t)f->end + GAP_MAX_BYTES && (uint64_t)offset + len - f->start <= RANGE_MAX_BYTES;
	if (joins) {
		f->end = NF_MAX(f->end, offset + len);
		return 0;
	}
	int r = send(f);
	f->any = true;
	f->meta = meta;
	f->pack = *pack;
	f->start = offset;
	f->end = offset + len;
	return r;
}

static int want_node(void *ctx, uint64_t ino, const struct nf_ref *ref)
{
	(void)ino;
	return want(ctx, true, &ref->pack, ref->offset_bytes, ref->sealed_len);
}

static int want_run(void *ctx, uint64_t ino, uint64_t first, const struct nf_block_ref *refs, unsigned nr)
{
	int r = 0;

	(void)ino;
	(void)first;
	for (unsigned i = 0; r == 0 && i < nr; i++)
		r = want(ctx, false, &refs[i].pack, refs[i].offset_bytes, refs[i].sealed_len);
	return r;
}

static int fill_pin(struct fill *f, const struct nf_ref *root, uint64_t ino)
{
	struct nf_vault *v = f->k->v;
	struct nf_node_source src = { .nodes = v->nodes, .load = nf_fetch_load_behind, .ctx = v->fetch };
	struct nf_subtree s = { .src = &src, .root = *root, .stop = &f->k->stop, .node = want_node, .run = want_run, .ctx = f };

	int r = nf_subtree_walk_above(&s, ino);
	if (r == 0)
		r = nf_subtree_walk(&s, ino);
	return r == NF_TREE_NONE ? 0 : r;
}

int nf_keeper_fill(struct nf_keeper *k, const struct nf_pin *pins, size_t nr, uint64_t room_bytes)
{
	struct fill f = { .k = k, .room_bytes = room_bytes };
	int r = 0, damaged = 0;

	nf_lock_init(&f.lock, NF_RANK_LEAF);
	nf_cond_init(&f.changed);
	for (int i = 0; i < SLOTS; i++)
		f.slots[i].f = &f;
	nf_lock_take(&k->v->ns);
	struct nf_ref root = k->v->base.root;
	nf_lock_drop(&k->v->ns);
	for (size_t i = 0; r == 0 && i < nr; i++) {
		if (pins[i].bytes == pins[i].present_bytes)
			continue;
		r = fill_pin(&f, &root, pins[i].ino);
		if (nf_is_damage(r)) {
			damaged = r;
			r = 0;
		}
	}
	if (r == 0)
		r = send(&f);
	wait_busy(&f, 0);
	if (r == 0)
		r = fill_error(&f);
	if (r == 0)
		r = f.damaged ? f.damaged : damaged;
	nf_cond_deinit(&f.changed);
	nf_lock_deinit(&f.lock);
	return r;
}
