/* vault/gc_copy.c - sealed objects into new packs.
 *
 * Births stay, and so do tags and the sealed bytes themselves; what is under keys of before the newest is sealed again, which
 * is a new tag.  Each object is opened once on the way, so that damage is not carried on as if it were whole. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/gc_work.h"

enum {
	MOVE_PACK_BYTES = 8 << 20,
	RUN_BYTES = 1 << 20,      /* read at once where objects stand together */
};

/* --- bytes --------------------------------------------------------------------------- */

static bool is_same(const struct nf_block_ref *x, const struct nf_gc_object *y)
{
	const struct nf_sealed_info *i = &y->from.info;

	return x->birth == y->id.birth && x->index == y->id.index && x->epoch == i->epoch &&
	       x->sealed_len == i->sealed_len && !memcmp(x->tag, i->tag, sizeof x->tag);
}

/* Where an operation of our own left the block in the journal. */
static bool find_local(const struct nf_op *op, const struct nf_gc_object *o, struct nf_journal_pos *pos)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref base;
	const uint8_t *value;
	uint64_t first;
	size_t len, at = 0;

	while (nf_op_window_iter(op, &at, &first, &value, &len) == 0) {
		if (nf_extent_patch_decode(value, len, true, 1u << NF_BLOCK_SHIFT_MAX, &base, refs, known) < 0)
			return false;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			if (!known[b] || !refs[b].sealed_len || !nf_ref_is_local(&refs[b].pack) || !is_same(&refs[b], o))
				continue;
			*pos = (struct nf_journal_pos){ nf_ref_local_segment(&refs[b].pack), refs[b].offset_bytes };
			return true;
		}
	}
	return false;
}

static int read_local(struct nf_gc_work *w, const struct nf_gc_object *o, uint8_t *buf)
{
	for (const struct nf_epoch *e = w->m.own; e && o->id.type == NF_SEAL_BLOCK; e = e->next) {
		struct nf_rd rd = nf_rd_of(e->ops.p, e->ops.len);
		struct nf_journal_pos pos;
		struct nf_op op;
		while (nf_rd_left(&rd) && nf_op_decode(&rd, NULL, &op) == 0)
			if (op.nr_windows && find_local(&op, o, &pos))
				return nf_journal_read(w->m.v->journal, pos, buf, o->from.info.sealed_len);
	}
	return nf_fail(-NF_E_PACK_MISSING);
}

/* Into PLAIN, which has room for o->plain_len. */
static int open_at(struct nf_gc_work *w, const struct nf_gc_object *o, const struct nf_sealed_info *i, const uint8_t *sealed,
		   uint8_t *plain)
{
	return nf_codec_open(w->codec, &o->id, i->epoch, i->flags, i->tag, sealed, i->sealed_len, plain, o->plain_len);
}

/* The object's sealed bytes to BUF, whole, and opened to PLAIN: from our cache or the store, then the store alone, then the
 * journal. */
static int get_object(struct nf_gc_work *w, const struct nf_gc_object *o, uint8_t *buf, uint8_t *plain)
{
	struct nf_fetch *f = w->m.v->fetch;
	const struct nf_gc_place *at = &o->from;
	int r = nf_fetch_bytes(f, &at->pack, at->offset_bytes, at->info.sealed_len, buf);

	if (r == 0 && open_at(w, o, &at->info, buf, plain) == 0)
		return 0;
	if (r == 0)
		r = nf_fetch_from_store(f, &at->pack, at->offset_bytes, at->info.sealed_len, buf);
	if (r == 0)
		r = open_at(w, o, &at->info, buf, plain);
	if (nf_is_damage(r) && w->m.own && read_local(w, o, buf) == 0)
		r = open_at(w, o, &at->info, buf, plain);
	return r;
}

/* --- copying ------------------------------------------------------------------------------- */

struct copy {
	struct nf_gc_work *w;
	struct nf_buf bytes;        /* of the pack under construction */
	struct nf_buf run;          /* as they were read */
	struct nf_buf plain, again; /* an object; its twin */
	struct nf_gc_object *first; /* those from here to the one at hand that are to be copied are in `bytes` */
};

/* The pack is put; what is in it stands there from now on. */
static int put_pack(struct copy *c, const struct nf_gc_object *end)
{
	struct nf_gc_work *w = c->w;
	struct iovec iov = { c->bytes.p, c->bytes.len };
	struct nf_pack_put put = { .store = w->m.v->store, .cache = w->m.v->cache, .iov = &iov, .nr_iov = 1,
				   .stop = w->m.pace.stop };

	if (c->bytes.len) {
		uint64_t began_ns = nf_clock_ns();
		int r = nf_pack_put(&put);
		nf_gc_rest(&w->m.pace, began_ns);
		if (r == 0)
			r = nf_gc_goes_on(&w->m.pace);
		if (r < 0)
			return r;
		w->r.packs++;
		w->r.bytes += c->bytes.len;
	}
	for (; c->first != end; c->first = c->first->next) {
		if (c->first->state != NF_GC_COPY)
			continue;
		c->first->state = NF_GC_PLACED;
		c->first->to.pack = put.id;
	}
	c->bytes.len = 0;
	return 0;
}

/* What the object takes in the new pack at most. */
static uint64_t room_for(const struct nf_gc_work *w, const struct nf_gc_object *o)
{
	return nf_gc_is_old(w, o) ? NF_MAX(nf_codec_bound(o->plain_len), (size_t)o->from.info.sealed_len) : o->from.info.sealed_len;
}

/* Objects that stand together from O on: how many, and their bytes. */
static unsigned run_of(const struct nf_gc_work *w, const struct nf_gc_object *o, uint64_t room, uint32_t *len)
{
	const struct nf_gc_object *at = o;
	uint64_t needed = 0;
	unsigned nr = 0;

	for (*len = 0; at && at->state == NF_GC_COPY; at = at->next, nr++) {
		needed += room_for(w, at);
		if (memcmp(&at->from.pack, &o->from.pack, sizeof o->from.pack) || at->from.offset_bytes != o->from.offset_bytes + *len ||
		    (nr && (needed > room || *len + at->from.info.sealed_len > RUN_BYTES)))
			break;
		*len += at->from.info.sealed_len;
	}
	return nr;
}

/* Sealed again already, by whoever: it stands there. */
static bool take_twin(struct copy *c, struct nf_gc_object *o)
{
	const struct nf_gc_place *t = &o->twin;

	if (!t->info.sealed_len || !nf_buf_reserve(&c->bytes, t->info.sealed_len) || !nf_buf_reserve(&c->again, o->plain_len))
		return false;
	uint8_t *sealed = c->bytes.p + c->bytes.len;
	if (nf_fetch_bytes(c->w->m.v->fetch, &t->pack, t->offset_bytes, t->info.sealed_len, sealed) < 0 ||
	    open_at(c->w, o, &t->info, sealed, c->again.p) < 0 || memcmp(c->again.p, c->plain.p, o->plain_len))
		return false;
	o->to = *t;
	o->state = NF_GC_PLACED;
	return true;
}

/* The object, which is opened in `plain`, to the end of the pack under construction. */
static int add_object(struct copy *c, struct nf_gc_object *o, const uint8_t *sealed)
{
	struct nf_gc_work *w = c->w;
	size_t room = room_for(w, o);
	int r = 0;

	if (take_twin(c, o))
		return 0;
	if (!nf_buf_reserve(&c->bytes, room))
		return nf_fail(-ENOMEM);
	uint8_t *to = c->bytes.p + c->bytes.len;
	o->to.info = o->from.info;
	if (nf_gc_is_old(w, o))
		r = nf_codec_seal(w->codec, &o->id, c->plain.p, o->plain_len, o->block_bytes, true, to, room, &o->to.info, NULL);
	else
		memcpy(to, sealed, o->from.info.sealed_len);
	if (r < 0)
		return r;
	w->r.resealed_bytes += nf_gc_is_old(w, o) ? o->to.info.sealed_len : 0;
	o->to.offset_bytes = (uint32_t)c->bytes.len;
	c->bytes.len += o->to.info.sealed_len;
	w->r.blocks++;
	return 0;
}

/* NR objects from O on, which stand together. */
static int copy_run(struct copy *c, struct nf_gc_object *o, unsigned nr, uint32_t len)
{
	struct nf_gc_work *w = c->w;

	if (!nf_buf_reserve(&c->run, len))
		return nf_fail(-ENOMEM);
	uint8_t *at = c->run.p;
	bool whole = nf_fetch_bytes(w->m.v->fetch, &o->from.pack, o->from.offset_bytes, len, at) == 0;
	for (; nr; nr--, at += o->from.info.sealed_len, o = o->next) {
		if (!nf_buf_reserve(&c->plain, o->plain_len))
			return nf_fail(-ENOMEM);
		int r = whole && open_at(w, o, &o->from.info, at, c->plain.p) == 0 ? 0 : get_object(w, o, at, c->plain.p);
		if (nf_is_damage(r)) {
			o->state = NF_GC_LOST;
			nf_pack_set_find(w->m.from, &o->from.pack)->lost = true;
			w->r.lost++;
			continue;
		}
		if (r == 0)
			r = add_object(c, o, at);
		if (r < 0)
			return r;
	}
	return 0;
}

static int copy_all(struct copy *c)
{
	struct nf_gc_work *w = c->w;
	struct nf_gc_object *o = w->first;
	int r = 0;

	while (r == 0 && o) {
		uint64_t max = NF_MIN((uint64_t)MOVE_PACK_BYTES, atomic_load(&w->m.v->store->max_put_bytes));
		uint32_t len;
		if (o->state != NF_GC_COPY) {
			o = o->next;
			continue;
		}
		if (c->bytes.len && c->bytes.len + room_for(w, o) > max)
			r = put_pack(c, o);
		unsigned nr = run_of(w, o, c->bytes.len < max ? max - c->bytes.len : 0, &len);
		if (r == 0)
			r = copy_run(c, o, nr, len);
		for (; nr; nr--)
			o = o->next;
	}
	return r < 0 ? r : put_pack(c, NULL);
}

int nf_gc_copy(struct nf_gc_work *w)
{
	struct copy c = { .w = w, .first = w->first };

	w->r.bytes = 0;
	int r = copy_all(&c);
	nf_buf_deinit(&c.bytes);
	nf_buf_deinit(&c.run);
	nf_buf_deinit(&c.plain);
	nf_buf_deinit(&c.again);
	/* What is said to stand in a pack is looked after until that is reported. */
	for (struct nf_gc_object *o = w->first; r == 0 && o; o = o->next)
		if (o->state == NF_GC_PLACED && nf_gc_goes(w, &o->from.pack))
			r = nf_gc_name(w, &o->to.pack);
	return r;
}
