/* vault/shelf.c - see shelf.h. */
#include "vault/shelf.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/layer_priv.h"
#include "vault/split.h"
#include "vault/thin.h"

#include <inttypes.h>
#include <malloc.h>
#include <sys/uio.h>

/* Operations and nodes together are hardly more than so many times the operations. */
enum { ROOM_SHARE = 8, AGAIN_MS = 1000, ALL_STEPS = 4 };

/* --- the list ----------------------------------------------------------------------------- */

struct nf_ref nf_shelf_root(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	struct nf_ref root = *nf_vault_root(v);
	nf_lock_drop(&v->ns);
	return root;
}

const struct nf_shelved *nf_shelf_find(const struct nf_vault *v, uint64_t seq)
{
	for (size_t i = 0; i < v->nr_shelf; i++)
		if (v->shelf[i].seq == seq)
			return &v->shelf[i];
	return NULL;
}

int nf_shelf_add(struct nf_vault *v, const struct nf_shelved *s)
{
	struct nf_shelved *all = realloc(v->shelf, (v->nr_shelf + 1) * sizeof *all);

	if (!all)
		return nf_fail(-ENOMEM);
	v->shelf = all;
	v->shelf[v->nr_shelf++] = *s;
	return 0;
}

void nf_shelf_free(struct nf_vault *v)
{
	free(v->shelf);
	free(v->shelf_keys);
	free(v->gone);
	v->gone = NULL;
	v->nr_gone = 0;
	v->thinned_seq = 0;
	v->shelf = NULL;
	v->shelf_keys = NULL;
	v->nr_shelf = v->nr_shelf_keys = v->cap_shelf_keys = 0;
	v->shelf_unsure = false;
}

void nf_shelf_drop(struct nf_vault *v, uint64_t seq)
{
	size_t nr = 0;

	while (nr < v->nr_shelf && v->shelf[nr].seq <= seq)
		nr++;
	if (nr == 0)
		return;
	if (nr == v->nr_shelf) {
		nf_shelf_free(v);
		return;
	}
	v->nr_shelf -= nr;
	memmove(v->shelf, v->shelf + nr, v->nr_shelf * sizeof *v->shelf);
}

int nf_shelf_note_keys(struct nf_vault *v, const struct nf_key *keys, size_t nr)
{
	size_t cap = v->cap_shelf_keys;

	while (cap < v->nr_shelf_keys + nr)
		cap = cap ? 2 * cap : 64;
	if (cap != v->cap_shelf_keys) {
		struct nf_key *all = realloc(v->shelf_keys, cap * sizeof *all);
		if (!all)
			return nf_fail(-ENOMEM);
		v->shelf_keys = all;
		v->cap_shelf_keys = cap;
	}
	if (nr)
		memcpy(v->shelf_keys + v->nr_shelf_keys, keys, nr * sizeof *keys);
	v->nr_shelf_keys += nr;
	return 0;
}

int nf_shelf_note_layer(struct nf_vault *v, const struct nf_layer *l)
{
	struct nf_change *changes;
	struct nf_cutout *cuts;
	size_t nr, nr_cuts;

	int r = nf_layer_batch(l, &changes, &nr, &cuts, &nr_cuts);
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < nr; i++)
		if (changes[i].key.ino)
			r = nf_shelf_note_keys(v, &changes[i].key, 1);
	/* What is cut away was there: whoever had it open is told by the inode. */
	for (size_t i = 0; r == 0 && i < nr_cuts; i++) {
		struct nf_key key = nf_key_inode(cuts[i].from.ino);
		r = nf_shelf_note_keys(v, &key, 1);
	}
	free(changes);
	free(cuts);
	return r;
}

void nf_shelved_to_text(const struct nf_shelved *s, struct nf_text *t)
{
	nf_textf(t, "seq=%" PRIu64 " ops=%u bytes=%" PRIu64 " first_segment=%" PRIx64 " told=%d root=", s->seq, s->nr_ops,
		 s->ops_bytes, s->first_segment, s->told);
	nf_ref_to_text(&s->root, t);
}

/* --- into the journal ----------------------------------------------------------------------- */

static size_t part_bytes(const struct nf_vault *v)
{
	size_t max = nf_cut_ops_max_bytes(v);

	return v->shelve_bytes ? NF_MIN(v->shelve_bytes, max) : max;
}

bool nf_shelf_is_due(const struct nf_vault *v)
{
	return v->journal && v->current && v->current->ops.len > part_bytes(v) / 2 * 3;
}

/* Seals things and appends each to the journal. */
struct shelving {
	struct nf_vault *v;
	struct nf_meta_pack meta; /* what is sealed, one at a time */
};

static int append(struct shelving *sh, const struct nf_seal_id *id, const void *plain, size_t len, struct nf_ref *out)
{
	struct nf_journal_pos pos;
	struct nf_ref ref;

	sh->meta.bytes.len = 0;
	int r = nf_meta_pack_add(&sh->meta, id, plain, len, &ref);
	struct iovec iov = { sh->meta.bytes.p, sh->meta.bytes.len };
	if (r == 0)
		r = nf_journal_data(sh->v->journal, &iov, 1, &pos);
	if (r < 0)
		return r;
	if (sh->v->room)
		nf_room_wrote(sh->v->room, iov.iov_len);
	nf_ref_make_local(&ref.pack, pos.segment);
	ref.offset_bytes = (uint32_t)pos.offset_bytes;
	*out = ref;
	return 0;
}

static int emit_node(void *ctx, unsigned level, const void *plain, size_t len, struct nf_ref *out)
{
	struct nf_seal_id id = { .type = NF_SEAL_NODE, .index = level };

	return append(ctx, &id, plain, len, out);
}

/* The tree that E makes of s->base and, unless E stays in memory, its operations: durable. */
static int seal_epoch(struct nf_vault *v, const struct nf_epoch *e, bool with_ops, struct nf_shelved *s)
{
	struct shelving sh = { .v = v, .meta.codec = nf_codec_get(v->ring) };
	struct nf_tree_writer w = { .emit = emit_node, .ctx = &sh };
	struct nf_buf plain = NF_BUF_INIT;
	int r = sh.meta.codec ? 0 : nf_fail(-ENOMEM);

	s->first_segment = NF_MIN(e->first_segment, e->min_segment);
	s->first_segment = NF_MIN(s->first_segment, nf_journal_newest(v->journal));
	if (v->nr_shelf)
		s->first_segment = NF_MIN(s->first_segment, v->shelf[0].first_segment);
	if (r == 0)
		r = nf_publish_tree(v, e->layer, &s->base, &w, &s->root);
	if (r == 0 && with_ops) {
		struct nf_seal_id id = { .type = NF_SEAL_DELTA, .birth = s->seq, .index = v->writer };
		struct nf_delta d = { .writer = v->writer, .seq = s->seq, .time = nf_clock_real(), .base_root = s->base,
				      .first_spare = (uint64_t)v->writer << 40, .nr_ops = e->nr_ops, .ops = e->ops.p,
				      .ops_len = e->ops.len };
		strncpy(d.host, v->host, sizeof d.host - 1);
		nf_delta_encode(&plain, &d);
		r = nf_buf_error(&plain);
		if (r == 0)
			r = append(&sh, &id, plain.p, plain.len, &s->ops);
	}
	if (r == 0)
		r = nf_journal_sync(v->journal);
	if (sh.meta.codec)
		nf_codec_put(sh.meta.codec);
	nf_buf_deinit(&sh.meta.bytes);
	nf_buf_deinit(&plain);
	return r;
}

/* What files in memory must know of ROOT, and (A not NULL) what came of the current epoch after *AT.  Ends with the lock
 * held where it was. */
static int catch_up(struct nf_vault *v, const struct nf_ref *root, struct nf_apply *a, size_t *at)
{
	struct nf_want w = NF_WANT_INIT;
	int r;

	NF_ASSERT(nf_lock_held(&v->ns));
	for (;;) {
		r = nf_base_items_find(v, root, &w);
		if (r == NF_TREE_WANT) {
			nf_lock_drop(&v->ns);
			r = v->src.load(v->src.ctx, &w);
			nf_lock_take(&v->ns);
			w.nr = 0;
			if (r == 0)
				continue;
		}
		if (r == 0 && a && *at < v->current->ops.len) {
			r = nf_part_tail(v, a, at);
			if (r == 0)
				continue; /* the lock may have been dropped */
		}
		break;
	}
	nf_want_deinit(&w);
	return r;
}

/* Nothing fails from here on: the journal is told before it gets another record. */
static void shelved(struct nf_vault *v, const struct nf_shelved *s)
{
	nf_trace(COMMIT, "shelved seq=%" PRIu64 " ops=%u bytes=%" PRIu64, s->seq, s->nr_ops, s->ops_bytes);
	nf_base_items_take(v);
}

/* The frozen epoch, which could not go out, stays in memory as what is to be published first; the view no longer needs it. */
static int shelve_frozen(struct nf_vault *v)
{
	struct nf_epoch *e = v->frozen;
	struct nf_shelved s = { .seq = e->seq, .nr_ops = e->nr_ops, .ops_bytes = e->ops.len, .base = v->base.root,
				.inodes = e->inodes, .bytes = e->bytes, .oldest_ns = e->oldest_ns };

	int r = seal_epoch(v, e, false, &s);
	nf_lock_take(&v->ns);
	if (r == 0)
		r = catch_up(v, &s.root, NULL, NULL);
	s.next_counter = v->next_counter;
	if (r == 0)
		r = nf_shelf_add(v, &s);
	if (r == 0) {
		e->aside = true;
		v->current->base_root = s.root;
		v->current->new_base = v->current->journaled_bytes > 0;
		shelved(v, &s);
	}
	nf_lock_drop(&v->ns);
	return r;
}

/* ALL: also where nothing is left then. */
static int shelve_part(struct nf_vault *v, bool all)
{
	struct nf_part lo = { 0 }, hi = { 0 };
	struct nf_shelved s = { 0 };

	nf_lock_take(&v->ns);
	struct nf_epoch *e = v->current;
	size_t upto = nf_part_first(e, part_bytes(v), &s.nr_ops), len = e->ops.len;
	s.seq = e->seq;
	s.base = *nf_vault_root(v);
	s.oldest_ns = e->oldest_ns ? e->oldest_ns : nf_clock_ns();
	nf_lock_drop(&v->ns);
	if (!upto || (upto == len && !all))
		return nf_fail(-EAGAIN);
	int r = nf_part_init(v, &lo, e, s.seq, &s.base, NULL);
	if (r == 0)
		r = nf_part_replay(v, &lo.a, 0, upto);
	if (r == 0)
		r = nf_part_end(&lo);
	if (r == 0) {
		s.ops_bytes = lo.e->ops.len;
		s.inodes = lo.e->inodes;
		s.bytes = lo.e->bytes;
		r = seal_epoch(v, lo.e, true, &s);
	}
	if (r == 0)
		r = nf_part_init(v, &hi, e, s.seq + 1, &s.root, NULL);
	if (r == 0)
		r = nf_part_replay(v, &hi.a, upto, len);
	nf_lock_take(&v->ns);
	if (r == 0)
		r = catch_up(v, &s.root, &hi.a, &len);
	if (r == 0)
		r = nf_part_end(&hi);
	s.next_counter = v->next_counter;
	if (r == 0)
		r = nf_shelf_add(v, &s);
	if (r == 0) {
		/* What came meanwhile may name blocks of older segments. */
		hi.e->min_segment = NF_MIN(hi.e->min_segment, v->current->min_segment);
		hi.e->base_root = s.root;
		hi.e->reset = true;
		if (!hi.e->ops.len)
			hi.e->oldest_ns = 0;
		nf_part_follow(v, s.seq, s.seq + 1);
		nf_epoch_free(v->current);
		v->current = nf_steal(&hi.e);
		shelved(v, &s);
	}
	nf_lock_drop(&v->ns);
	nf_part_deinit(&lo);
	nf_part_deinit(&hi);
	return r;
}

/* One step. 1: there may be more.  ALL: of whatever there is. */
static int shelve_some(struct nf_vault *v, bool all)
{
	int r = nf_vault_journal(v, false);

	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	while (v->journaling)
		nf_cond_wait(&v->changed, &v->ns);
	const struct nf_epoch *below = nf_epoch_below(v);
	bool due = (all ? v->current->ops.len > 0 : nf_shelf_is_due(v)) && !(below && below->undrained);
	v->journaling = due;
	nf_lock_drop(&v->ns);
	if (!due)
		return 0;
	/* What cannot be finished would be left in the journal for nothing. */
	uint64_t room_bytes = part_bytes(v) * ROOM_SHARE;
	if (v->room && !nf_room_take(v->room, NF_ROOM_WRITE, room_bytes)) {
		r = nf_fail(-ENOSPC);
	} else {
		r = below ? shelve_frozen(v) : shelve_part(v, all);
		if (v->room)
			nf_room_give(v->room, room_bytes);
	}
	nf_lock_take(&v->ns);
	v->journaling = false;
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
	return r == 0 ? 1 : r;
}

void nf_shelve(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	bool due = nf_shelf_is_due(v) && nf_clock_ns() >= v->shelve_after_ns;
	nf_lock_drop(&v->ns);
	int r = due;

	while (r == 1)
		r = shelve_some(v, false);
	if (due)
		(void)malloc_trim(0); /* layers are many small pieces */
	/* -EAGAIN: all of it is one operation, a dot by itself when it is cut. */
	nf_lock_take(&v->ns);
	if (due && nf_shelf_is_due(v)) {
		nf_trace(COMMIT, "not shelved err=%s", nf_error_name(r));
		v->shelve_after_ns = nf_clock_ns() + AGAIN_MS * NF_NS_PER_MS;
	}
	nf_lock_drop(&v->ns);
}

/* --- and out of it -------------------------------------------------------------------------- */

int nf_shelf_ops(struct nf_vault *v, const struct nf_shelved *s, void **out, struct nf_delta *d)
{
	struct nf_journal_pos pos = { nf_ref_local_segment(&s->ops.pack), s->ops.offset_bytes };
	struct nf_seal_id id = { .type = NF_SEAL_DELTA, .birth = s->seq, .index = v->writer };
	nf_auto_free void *sealed = malloc(s->ops.sealed_len);
	nf_auto_free void *plain = malloc((size_t)s->ops.plain_len + 1);
	struct nf_codec *c = nf_codec_get(v->ring);
	int r = sealed && plain && c ? 0 : nf_fail(-ENOMEM);

	if (r == 0)
		r = nf_journal_read(v->journal, pos, sealed, s->ops.sealed_len);
	if (r == 0)
		r = nf_codec_open(c, &id, s->ops.epoch, s->ops.flags, s->ops.tag, sealed, s->ops.sealed_len, plain,
				  s->ops.plain_len);
	if (c)
		nf_codec_put(c);
	if (r == 0)
		r = nf_delta_decode(plain, s->ops.plain_len, NULL, d);
	if (r == 0 && (d->seq != s->seq || d->writer != v->writer))
		r = -NF_E_JOURNAL_BAD;
	if (r < 0)
		return nf_fail(r);
	*out = nf_steal(&plain);
	return 0;
}

/* What of the shelf is not to be sent is known.  Before the first dot all there is shelved, so that removals since count. */
static int thin(struct nf_vault *v)
{
	/* What cannot be, and what comes meanwhile, is sent by itself, later. */
	for (int i = 0; !v->thinned_seq && i < ALL_STEPS; i++)
		if (shelve_some(v, true) != 1)
			break;
	/* All dots are read for it: not again until half of them are new. */
	uint64_t newer = v->shelf[v->nr_shelf - 1].seq - v->thinned_seq;
	return !v->thinned_seq || 2 * newer >= v->nr_shelf + 1 ? nf_thin_find(v) : 0;
}

int nf_unshelve(struct nf_vault *v)
{
	nf_auto_free void *plain = NULL;
	nf_auto(nf_buf_deinit) struct nf_buf thinned = NF_BUF_INIT;
	struct nf_epoch *e = NULL;
	struct nf_delta d;

	NF_ASSERT(!v->frozen && v->nr_shelf);
	int r = thin(v);
	nf_lock_take(&v->ns);
	const struct nf_shelved s = v->shelf[0];
	nf_lock_drop(&v->ns);
	if (r == 0)
		r = nf_shelf_ops(v, &s, &plain, &d);
	if (r == 0)
		r = nf_thin_ops(v, &s, &d, &thinned);
	if (r == 0)
		r = nf_epoch_new(s.seq, &v->base.root, &e);
	if (r < 0)
		return r;
	struct nf_apply a = {
		.view = { .nodes = v->nodes, .base = v->base.root, .layers = { e->layer } },
		.layer = e->layer, .ring = v->ring, .dot = { v->writer, s.seq }, .host = v->host,
		.base_root = d.base_root, .out = &e->ops,
		.stays = true, /* it waited for long, as in a mount's replay */
	};
	nf_lock_take(&v->ns);
	/* For as many conflict copies as there may be. */
	a.first_spare = (uint64_t)v->writer << 40 | v->next_counter;
	v->next_counter += d.nr_ops;
	nf_lock_drop(&v->ns);
	r = nf_replay(v, &a, d.ops, d.ops_len, NULL);
	if (r == 0 && (e->ops.len != d.ops_len || memcmp(e->ops.p, d.ops, d.ops_len)))
		r = nf_shelf_note_layer(v, e->layer);
	nf_lock_take(&v->ns);
	if (r == 0) {
		e->nr_ops = a.nr_out;
		e->inodes = a.inodes;
		e->bytes = a.bytes;
		e->first_segment = e->min_segment = s.first_segment;
		e->oldest_ns = s.oldest_ns;
		e->reset = e->aside = true;
		v->conflicts += a.conflicts;
		v->frozen = nf_steal(&e);
	}
	nf_lock_drop(&v->ns);
	nf_trace(COMMIT, "unshelved seq=%" PRIu64 " ops=%u conflicts=%" PRIu64 " err=%s", s.seq, d.nr_ops, a.conflicts,
		 nf_error_name(r));
	nf_apply_deinit(&a);
	nf_epoch_free(e);
	return r;
}
