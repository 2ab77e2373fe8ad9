/* vault/keeper.c - pins and rounds. */
#include "vault/keeper.h"
#include "vault/space.h"

#include "aio/thread.h"
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/gc.h"

#include <stdio.h>

enum {
	PINS_MAX = 65536,
	PINS_FILE_MAX = 1 << 20,
	DEPTH_MAX = 4096,
	/* How often the base is looked at. */
	LOOK_MS = 1000,
	/* ... and the disk's room, also without pins. */
	TIDY_MS = 5000,
	/* A round is followed by a rest of so many times what it cost the processor. */
	REST_TIMES = 20,
	/* What failed is tried again. */
	RETRY_MS = 30000,
	WAIT_MS = 200,
	FILL_TRIES = 4,
	FILL_REST_MS = 30,
};

/* --- the file ---------------------------------------------------------------------------- *
 *
 *	STATE_DIR/pins, sealed:   version u8 = 1 | number u32 | inode u64 ... ascending
 */

bool nf_pins_exist(const struct nf_file_ops *files, const char *state_dir)
{
	nf_auto_free char *path = NULL;

	return asprintf(&path, "%s/pins", state_dir) >= 0 && files->stat(files, path, NULL, NULL, NULL) == 0;
}

static int decode(struct nf_keeper *k, const void *p, size_t len)
{
	struct nf_rd rd = nf_rd_of(p, len);
	uint8_t version = nf_rd_u8(&rd);
	size_t nr = nf_rd_u32(&rd);

	if (version != 1 || nr > PINS_MAX || nf_rd_left(&rd) != nr * 8)
		return nf_fail(-NF_E_STATE_BAD);
	k->pins = calloc(nr + 1, sizeof *k->pins);
	if (!k->pins)
		return nf_fail(-ENOMEM);
	for (; k->nr < nr; k->nr++) {
		k->pins[k->nr].ino = nf_rd_u64(&rd);
		if (!nf_ino_is_valid(k->pins[k->nr].ino) || (k->nr && k->pins[k->nr].ino <= k->pins[k->nr - 1].ino))
			return nf_fail(-NF_E_STATE_BAD);
	}
	return nf_rd_error(&rd, true) < 0 ? nf_fail(-NF_E_STATE_BAD) : 0;
}

static int load(struct nf_keeper *k)
{
	nf_auto_free void *plain = NULL;
	uint8_t device_id[16];
	size_t len;

	int r = nf_sealed_load(k->v, "pins", PINS_FILE_MAX, device_id, &plain, &len);
	if (r == 0)
		r = memcmp(device_id, k->v->device_id, sizeof device_id) ? nf_fail(-NF_E_STATE_BAD) : decode(k, plain, len);
	if (r == -ENOENT)
		return 0;
	if (r == -NF_E_STATE_BAD) {
		/* No reason not to mount: nothing is lost but the wish. */
		k->nr = 0;
		k->bad_file = true;
		return 0;
	}
	return r;
}

static int save(struct nf_keeper *k, const struct nf_pin *pins, size_t nr)
{
	struct nf_buf plain = NF_BUF_INIT;

	nf_buf_u8(&plain, 1);
	nf_buf_u32(&plain, (uint32_t)nr);
	for (size_t i = 0; i < nr; i++)
		nf_buf_u64(&plain, pins[i].ino);
	int r = nf_sealed_save(k->v, "pins", k->v->device_id, &plain);
	nf_buf_deinit(&plain);
	return r;
}

/* --- the set ------------------------------------------------------------------------------ */

static size_t find(const struct nf_pin *pins, size_t nr, uint64_t ino, bool *there)
{
	size_t i = 0;

	while (i < nr && pins[i].ino < ino)
		i++;
	*there = i < nr && pins[i].ino == ino;
	return i;
}

/* A copy, with INO (not 0) added or removed. */
static int copy_locked(const struct nf_keeper *k, uint64_t ino, struct nf_pin **out, size_t *nr)
{
	struct nf_pin *p = calloc(k->nr + 1, sizeof *p);
	bool there = false;

	if (!p)
		return nf_fail(-ENOMEM);
	if (k->nr == 0) {
		p[0].ino = ino;
		*nr = ino != 0;
		*out = p;
		return 0;
	}
	size_t at = ino ? find(k->pins, k->nr, ino, &there) : k->nr;
	memcpy(p, k->pins, at * sizeof *p);
	*nr = k->nr;
	if (there) {
		memcpy(p + at, k->pins + at + 1, (k->nr - at - 1) * sizeof *p);
		--*nr;
	} else if (ino) {
		p[at] = (struct nf_pin){ .ino = ino };
		memcpy(p + at + 1, k->pins + at, (k->nr - at) * sizeof *p);
		++*nr;
	}
	*out = p;
	return 0;
}

static void set_locked(struct nf_keeper *k, struct nf_pin **pins, size_t nr)
{
	free(k->pins);
	k->pins = nf_steal(pins);
	k->nr = nr;
	k->wanted++;
	nf_cond_broadcast(&k->wake);
}

static int by_ino(const void *pa, const void *pb)
{
	const struct nf_pin *a = pa, *b = pb;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

int nf_pins_renumber(struct nf_vault *v, uint64_t (*now)(void *ctx, uint64_t ino), void *ctx)
{
	struct nf_keeper k = { .v = v };
	bool any = false;

	int r = load(&k);
	for (size_t i = 0; r == 0 && i < k.nr; i++) {
		uint64_t ino = now(ctx, k.pins[i].ino);
		any |= ino != k.pins[i].ino;
		k.pins[i].ino = ino;
	}
	if (r == 0 && any) {
		qsort(k.pins, k.nr, sizeof *k.pins, by_ino);
		r = save(&k, k.pins, k.nr);
	}
	free(k.pins);
	return r;
}

/* --- rounds ------------------------------------------------------------------------------- */

struct round {
	struct nf_keeper *k;
	struct nf_pin *pin;
};

static int keep(struct round *rd, const struct nf_pack_id *pack, uint32_t offset, uint32_t len)
{
	rd->pin->bytes += len;
	rd->pin->present_bytes += nf_cache_present(rd->k->v->cache, pack, offset, len);
	return nf_cache_keep(rd->k->v->cache, pack, offset, len);
}

static int keep_node(void *ctx, uint64_t ino, const struct nf_ref *ref)
{
	(void)ino;
	return keep(ctx, &ref->pack, ref->offset_bytes, ref->sealed_len);
}

static int keep_run(void *ctx, uint64_t ino, uint64_t first, const struct nf_block_ref *refs, unsigned nr)
{
	int r = 0;

	(void)ino;
	(void)first;
	for (unsigned i = 0; r == 0 && i < nr; i++)
		r = keep(ctx, &refs[i].pack, refs[i].offset_bytes, refs[i].sealed_len);
	return r;
}

static int walk_pin(struct nf_keeper *k, struct nf_node_source *src, const struct nf_ref *root, struct nf_pin *pin,
		    _Atomic bool *stop)
{
	struct round rd = { .k = k, .pin = pin };
	struct nf_subtree s = { .src = src, .root = *root, .stop = stop, .node = keep_node, .run = keep_run, .ctx = &rd };

	*pin = (struct nf_pin){ .ino = pin->ino };
	int r = nf_subtree_walk_above(&s, pin->ino);
	if (r == 0)
		r = nf_subtree_walk(&s, pin->ino);
	pin->files = s.files;
	/* New, and not published yet; or removed. */
	pin->absent = r == NF_TREE_NONE;
	return r == NF_TREE_NONE ? 0 : r;
}

int nf_keeper_round(struct nf_keeper *k, struct nf_pin *pins, size_t nr, _Atomic bool *stop, int *damaged)
{
	struct nf_vault *v = k->v;
	struct nf_node_source src = { .nodes = v->nodes, .load = nf_fetch_load_behind, .ctx = v->fetch };
	int r = 0;

	nf_lock_take(&v->ns);
	struct nf_ref root = v->base.root;
	nf_lock_drop(&v->ns);
	*damaged = 0;
	nf_cache_keep_begin(v->cache);
	for (size_t i = 0; r == 0 && i < nr; i++) {
		r = walk_pin(k, &src, &root, &pins[i], stop);
		if (nf_is_damage(r)) {
			*damaged = r;
			r = 0;
		}
	}
	return r;
}

/* Only one walks. */
static int take_turn(struct nf_keeper *k, _Atomic bool *stop)
{
	int r = 0;

	nf_lock_take(&k->v->ns);
	while (k->walking && r == 0) {
		nf_cond_wait_until(&k->wake, &k->v->ns, nf_clock_ns() + WAIT_MS * NF_NS_PER_MS);
		if ((stop && *stop) || k->stopping)
			r = -NF_E_CANCELLED;
	}
	if (r == 0)
		k->walking = true;
	nf_lock_drop(&k->v->ns);
	return r;
}

static void end_turn_locked(struct nf_keeper *k)
{
	k->walking = false;
	nf_cond_broadcast(&k->wake);
}

static void end_turn(struct nf_keeper *k)
{
	nf_lock_take(&k->v->ns);
	end_turn_locked(k);
	nf_lock_drop(&k->v->ns);
}

/* Takes over the sums of PINS; those that were added or removed meanwhile have asked for another round. */
static void learn_locked(struct nf_keeper *k, const struct nf_pin *pins, size_t nr)
{
	k->missing_bytes = 0;
	for (size_t i = 0; i < nr; i++) {
		bool there;
		size_t at = find(k->pins, k->nr, pins[i].ino, &there);
		if (there)
			k->pins[at] = pins[i];
		k->missing_bytes += pins[i].bytes - pins[i].present_bytes;
	}
	atomic_store(&k->filled_bytes, 0);
}

/* Is there INO, published or not?  Blocks. */
static int exists(struct nf_vault *v, uint64_t ino, bool *out)
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	struct nf_attr attr;
	int r;

	do {
		nf_lock_take(&v->ns);
		r = nf_vault_attr(v, ino, &w, &attr);
		nf_lock_drop(&v->ns);
		if (r == NF_TREE_WANT && (r = v->src.load(v->src.ctx, &w)) == 0) {
			w.nr = 0;
			r = NF_TREE_WANT;
		}
	} while (r == NF_TREE_WANT);
	*out = r == 0;
	return r == NF_TREE_NONE || r == -ENOENT ? 0 : r;
}

/* A pin whose inode was removed goes too: no other will have its number. */
static void tidy_gone(struct nf_keeper *k, const struct nf_pin *pins, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		bool there = true;
		if (pins[i].absent && exists(k->v, pins[i].ino, &there) == 0 && !there)
			(void)nf_vault_unpin(k->v, pins[i].ino); /* another time, then */
	}
}

/* What this thread has used. */
static uint64_t cpu_ns(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t))
		return 0;
	return (uint64_t)t.tv_sec * NF_NS_PER_S + (uint64_t)t.tv_nsec;
}

/* A round of the keeper's own.  *PINS is a copy of what it was about. */
static int own_round(struct nf_keeper *k, struct nf_pin **pins, size_t *nr)
{
	struct nf_vault *v = k->v;
	struct nf_cache_kept kept;
	uint64_t begun = cpu_ns(), wanted = 0;
	uint8_t tag[16];
	int damaged = 0;

	int r = take_turn(k, NULL);
	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	r = copy_locked(k, 0, pins, nr);
	wanted = k->wanted;
	memcpy(tag, v->base.id.tag, sizeof tag);
	nf_lock_drop(&v->ns);
	if (r == 0) {
		r = nf_keeper_round(k, *pins, *nr, &k->stop, &damaged);
		nf_cache_kept(v->cache, &kept);
		k->room_bytes = nf_cache_keep_room(v->cache, &kept);
		k->fits = k->room_bytes >= kept.bytes - kept.present_bytes;
		nf_cache_keep_end(v->cache, r == 0);
	}
	nf_lock_take(&v->ns);
	if (r == 0) {
		learn_locked(k, *pins, *nr);
		k->error = damaged;
	} else {
		k->error = r;
	}
	k->done = wanted;
	memcpy(k->base_tag, tag, sizeof tag);
	k->not_before_ns = nf_clock_ns() + (cpu_ns() - begun) * REST_TIMES;
	end_turn_locked(k);
	nf_lock_drop(&v->ns);
	nf_trace(CACHE, "pins nr=%zu missing=%zu r=%d", *nr, (size_t)k->missing_bytes, r);
	return r;
}

/* Was the last round about the newest base? */
static bool is_current_locked(const struct nf_keeper *k)
{
	return k->wanted == k->done && !memcmp(k->base_tag, k->v->base.id.tag, sizeof k->base_tag);
}

static bool may_fetch_locked(const struct nf_keeper *k)
{
	return !k->v->away && !k->stopping && (!k->v->manual || k->fetch) && k->missing_bytes;
}

/* Why something is missing that may be fetched and did not come. */
static int why_missing(const struct nf_keeper *k, int filled)
{
	if (filled < 0)
		return filled;
	return k->v->away ? nf_fail(-NF_E_OFFLINE) : !k->fits ? nf_fail(-NF_E_FULL) : 0;
}

/* After a round: fill again?  BEFORE is what was missing then; the cache may still be storing what came, so once more of
 * the same is no proof. */
static bool fills_on(struct nf_keeper *k, uint64_t *before, unsigned *tries, int filled)
{
	nf_lock_take(&k->v->ns);
	*tries = k->missing_bytes < *before ? 0 : *tries + 1;
	*before = k->missing_bytes;
	bool on = may_fetch_locked(k) && *tries < FILL_TRIES;
	if (k->missing_bytes && !on && !k->error)
		k->error = why_missing(k, filled);
	if (on && *tries)
		nf_cond_wait_until(&k->wake, &k->v->ns, nf_clock_ns() + FILL_REST_MS * NF_NS_PER_MS);
	nf_lock_drop(&k->v->ns);
	return on;
}

static bool ends_fill(int r) { return r == -NF_E_OFFLINE || r == -NF_E_TIMEOUT || r == -NF_E_CANCELLED; }

/* A round, and fills with rounds behind them as long as that brings something. */
static void serve(struct nf_keeper *k)
{
	struct nf_vault *v = k->v;
	uint64_t before = UINT64_MAX;
	unsigned tries = 0;
	bool first = true;
	int filled = 0;

	while (!ends_fill(filled)) {
		nf_auto_free struct nf_pin *pins = NULL;
		size_t nr = 0;
		if (own_round(k, &pins, &nr) < 0)
			break;
		if (first)
			tidy_gone(k, pins, nr);
		first = false;
		if (!fills_on(k, &before, &tries, filled))
			break;
		filled = nf_keeper_fill(k, pins, nr, k->fits ? UINT64_MAX : k->room_bytes);
	}
	nf_lock_take(&v->ns);
	if (ends_fill(filled))
		k->error = filled;
	k->filling = false;
	k->fetch &= k->wanted != k->done;
	nf_cond_broadcast(&k->wake);
	nf_lock_drop(&v->ns);
}

static bool is_due_locked(const struct nf_keeper *k, uint64_t now, uint64_t *retry_at)
{
	if (k->wanted != k->done)
		return true;
	if (k->nr == 0)
		return false;
	if (!is_current_locked(k))
		return now >= k->not_before_ns;
	/* What was away may be back; what was full may have room. */
	if ((k->missing_bytes || k->error) && !k->v->away && (!k->v->manual || k->fetch) && now >= *retry_at) {
		*retry_at = now + (k->error == -NF_E_OFFLINE ? LOOK_MS : RETRY_MS) * NF_NS_PER_MS;
		return now >= k->not_before_ns;
	}
	return false;
}

static void *keeper_main(void *arg)
{
	struct nf_keeper *k = arg;
	struct nf_vault *v = k->v;
	uint64_t tidy_at = 0, retry_at = 0;

	nf_lock_take(&v->ns);
	while (!k->stopping) {
		uint64_t now = nf_clock_ns();
		bool serves = is_due_locked(k, now, &retry_at);
		k->filling |= serves;
		nf_lock_drop(&v->ns);
		if (serves)
			serve(k);
		if (now >= tidy_at) {
			nf_space_tidy(v);
			tidy_at = now + TIDY_MS * NF_NS_PER_MS;
		}
		nf_lock_take(&v->ns);
		if (!k->stopping && k->wanted == k->done)
			nf_cond_wait_until(&k->wake, &v->ns, now + (k->nr ? LOOK_MS : TIDY_MS) * NF_NS_PER_MS);
	}
	nf_lock_drop(&v->ns);
	return NULL;
}

/* --- life ----------------------------------------------------------------------------------- */

int nf_keeper_new(struct nf_vault *v, struct nf_keeper **out)
{
	struct nf_keeper *k = calloc(1, sizeof *k);

	if (!k)
		return nf_fail(-ENOMEM);
	k->v = v;
	nf_cond_init(&k->wake);
	int r = load(k);
	if (r < 0) {
		nf_keeper_free(k);
		return r;
	}
	k->wanted = nf_pins_exist(v->files, v->state_path) ? 1 : 0;
	*out = k;
	return 0;
}

int nf_keeper_start(struct nf_keeper *k)
{
	int r = nf_thread_start(&k->thread, "nf-keep", keeper_main, k);

	k->runs = r == 0;
	return r;
}

void nf_keeper_stop(struct nf_keeper *k)
{
	if (!k)
		return;
	atomic_store(&k->stop, true);
	nf_lock_take(&k->v->ns);
	k->stopping = true;
	nf_cond_broadcast(&k->wake);
	nf_lock_drop(&k->v->ns);
	if (k->runs)
		(void)pthread_join(k->thread, NULL);
	k->runs = false;
}

void nf_keeper_free(struct nf_keeper *k)
{
	if (!k)
		return;
	NF_ASSERT(!k->runs);
	nf_cond_deinit(&k->wake);
	free(k->pins);
	free(k);
}

/* --- from outside ------------------------------------------------------------------------------ */

void nf_keeper_look(struct nf_vault *v, bool fetch)
{
	if (!v->keeper)
		return;
	nf_lock_take(&v->ns);
	v->keeper->wanted++;
	v->keeper->fetch |= fetch;
	nf_cond_broadcast(&v->keeper->wake);
	nf_lock_drop(&v->ns);
}

void nf_keeper_status(struct nf_vault *v, struct nf_vault_status *out)
{
	const struct nf_keeper *k = v->keeper;

	if (!k)
		return;
	out->pins = k->nr;
	out->pins_current = is_current_locked(k);
	out->pin_error = k->error || !k->bad_file ? k->error : -NF_E_STATE_BAD;
	for (size_t i = 0; i < k->nr; i++) {
		out->pinned_bytes += k->pins[i].bytes;
		out->pinned_present_bytes += k->pins[i].present_bytes;
	}
	out->pinned_present_bytes = NF_MIN(out->pinned_bytes, out->pinned_present_bytes + atomic_load(&k->filled_bytes));
}

static void estimate(struct nf_keeper *k, const struct nf_pin *pin, struct nf_pin_estimate *out)
{
	struct nf_cache_stats s;
	struct nf_cache_kept kept;

	nf_cache_stats(k->v->cache, &s);
	nf_cache_kept(k->v->cache, &kept);
	*out = (struct nf_pin_estimate){ .pin = *pin, .missing_bytes = pin->bytes - pin->present_bytes,
					 .kept_bytes = kept.bytes, .limit_bytes = s.size_limit_bytes };
	out->fits = nf_cache_keep_room(k->v->cache, &kept) >= kept.bytes - kept.present_bytes;
}

static int add(struct nf_keeper *k, uint64_t ino, bool dry_run, _Atomic bool *stop, struct nf_pin_estimate *out)
{
	struct nf_vault *v = k->v;
	nf_auto_free struct nf_pin *pins = NULL;
	bool there;
	size_t nr;
	int damaged;

	nf_lock_take(&v->ns);
	size_t at = find(k->pins, k->nr, ino, &there);
	int r = there ? nf_fail(-EEXIST) : k->nr >= PINS_MAX ? nf_fail(-ENOSPC) : copy_locked(k, ino, &pins, &nr);
	nf_lock_drop(&v->ns);
	if (r < 0)
		return r;
	r = nf_keeper_round(k, pins, nr, stop, &damaged);
	if (r == 0) {
		estimate(k, &pins[at], out);
		r = damaged;
	}
	if (r == 0 && !dry_run)
		r = out->fits ? save(k, pins, nr) : nf_fail(-NF_E_FULL);
	bool take = r == 0 && !dry_run;
	nf_cache_keep_end(v->cache, take);
	if (take) {
		nf_lock_take(&v->ns);
		set_locked(k, &pins, nr);
		k->fetch = true;
		learn_locked(k, k->pins, k->nr);
		nf_lock_drop(&v->ns);
	}
	return r;
}

int nf_vault_pin(struct nf_vault *v, uint64_t ino, bool dry_run, _Atomic bool *stop, struct nf_pin_estimate *out)
{
	struct nf_pin_estimate e = { 0 };
	bool there = false;

	if (!v->keeper)
		return nf_fail(-EOPNOTSUPP);
	int r = exists(v, ino, &there);
	if (r == 0 && !there)
		r = nf_fail(-ENOENT);
	if (r == 0)
		r = take_turn(v->keeper, stop);
	if (r < 0)
		return r;
	r = add(v->keeper, ino, dry_run, stop, &e);
	end_turn(v->keeper);
	if (r == 0 || r == -NF_E_FULL)
		*out = e;
	return r;
}

int nf_vault_unpin(struct nf_vault *v, uint64_t ino)
{
	struct nf_keeper *k = v->keeper;
	nf_auto_free struct nf_pin *pins = NULL;
	bool there;
	size_t nr = 0;

	if (!k)
		return nf_fail(-EOPNOTSUPP);
	int r = take_turn(k, NULL);
	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	(void)find(k->pins, k->nr, ino, &there);
	r = there ? copy_locked(k, ino, &pins, &nr) : -ENOENT;
	nf_lock_drop(&v->ns);
	if (r == 0)
		r = save(k, pins, nr);
	if (r == 0) {
		nf_lock_take(&v->ns);
		set_locked(k, &pins, nr);
		nf_lock_drop(&v->ns);
	}
	end_turn(k);
	return r;
}

int nf_vault_pin_wait(struct nf_vault *v, _Atomic bool *stop)
{
	struct nf_keeper *k = v->keeper;
	int r = 0;

	if (!k || !k->runs)
		return nf_fail(-EOPNOTSUPP);
	nf_lock_take(&v->ns);
	k->wanted += k->nr && !is_current_locked(k);
	nf_cond_broadcast(&k->wake);
	while (r == 0 && (k->done != k->wanted || k->filling)) {
		nf_cond_wait_until(&k->wake, &v->ns, nf_clock_ns() + WAIT_MS * NF_NS_PER_MS);
		if ((stop && *stop) || k->stopping)
			r = -NF_E_CANCELLED;
	}
	if (r == 0)
		r = k->error || !k->missing_bytes ? k->error : nf_fail(-NF_E_FULL);
	nf_lock_drop(&v->ns);
	return r;
}

/* --- names ----------------------------------------------------------------------------------- */

int nf_vault_pins(struct nf_vault *v, bool (*each)(void *ctx, const struct nf_pin *p, const char *path), void *ctx)
{
	nf_auto_free struct nf_pin *pins = NULL;
	size_t nr = 0;

	if (!v->keeper)
		return nf_fail(-EOPNOTSUPP);
	nf_lock_take(&v->ns);
	int r = copy_locked(v->keeper, 0, &pins, &nr);
	nf_lock_drop(&v->ns);
	for (size_t i = 0; r == 0 && i < nr; i++) {
		nf_auto_free char *path = NULL;
		(void)nf_vault_path(v, pins[i].ino, &path); /* listed without */
		if (!each(ctx, &pins[i], path))
			break;
	}
	return r;
}

static void put_percent(struct nf_buf *b, const struct nf_pin *p, bool inherited)
{
	char text[32];
	uint64_t n = p->bytes ? p->present_bytes * 100 / p->bytes : 100;
	int len = snprintf(text, sizeof text, "%u%%%s", (unsigned)n, inherited ? " inherited" : "");

	nf_buf_bytes(b, text, (size_t)len);
}

int nf_pin_xattr(struct nf_vault *v, uint64_t ino, struct nf_want *w, struct nf_buf *b)
{
	const struct nf_keeper *k = v->keeper;
	struct nf_view view = nf_vault_view(v);
	uint64_t at = ino;

	for (int depth = 0; k && k->nr && depth < DEPTH_MAX; depth++) {
		char name[NF_NAME_MAX + 1];
		bool there;
		uint8_t len;
		size_t i = find(k->pins, k->nr, at, &there);
		if (there) {
			put_percent(b, &k->pins[i], at != ino);
			return nf_buf_error(b);
		}
		if (at == NF_INO_ROOT)
			break;
		int r = nf_view_parent(&view, at, w, &at, name, &len);
		if (r)
			return r;
	}
	return NF_TREE_NONE;
}
