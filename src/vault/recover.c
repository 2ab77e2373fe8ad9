/* vault/recover.c - the journal's records, and what is made of them at mount.
 *
 * Each begins with version u8 = 2 | writer u32.  What another writer than the device's present one has written is passed
 * over: it belongs to a prefix that was given up (protocol.md R12), whose dots are counted by themselves.
 *
 *   'O'  seq u64 | flags u8 (bit 0: forget what came before of this seq; bit 1: what came before counts
 *        from this base root too; bit 2: of a new form, not its last record: until that came the old form stays) | base root [52] | operations
 *   'M'  kind u8 = 1 (sent) | seq u64 | delta reference [52] | first spare inode u64
 *   'M'  kind u8 = 2 (split) | seq u64 | number u32: of the operations so far the first are dot seq, the
 *        others dot seq + 1
 *   'M'  kind u8 = 3 (shelved) | seq u64 | number u32 | bytes u64 | operations [52] | base root [52] | root [52]
 *        | first segment u64 | next counter u64 | inodes u64 | bytes u64: of the operations so far the first are dot seq
 *        and stand at `operations` (null: they stay where they are, all of them), the others are dot seq + 1 (shelf.h)
 *
 *   'M'  kind u8 = 4 (reported) | seq u64: dots up to this one are on the server, and nobody takes away what they name
 *
 * Records of dots that the remembered base contains are passed over, but for the last of them: the operations of the
 * next dot were made on top of it; those that were not reported are noted (late.c).  What is left belongs to one or two dots: of two
 * the lower is the frozen epoch.  If a head with it may have been sent its delta is fixed, and its operations stay as they are. */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/commit.h"
#include "vault/gc.h"
#include "vault/recover.h"
#include "vault/shelf.h"

#include <inttypes.h>

enum { RECORD_VERSION = 2, MARK_SENT = 1, MARK_SPLIT = 2, MARK_SHELVED = 3, MARK_REPORTED = 4 };

static void encode_begin(struct nf_buf *b, uint32_t writer)
{
	nf_buf_u8(b, RECORD_VERSION);
	nf_buf_u32(b, writer);
}

int nf_record_begin(struct nf_rd *rd, uint32_t *writer)
{
	unsigned version = nf_rd_u8(rd);

	*writer = nf_rd_u32(rd);
	if (nf_rd_error(rd, false) < 0)
		return nf_fail(-NF_E_JOURNAL_BAD);
	/* It authenticates, so it is no damage: nobody may put it aside as that. */
	return version == RECORD_VERSION ? 0 : nf_fail(-NF_E_FORMAT_UNKNOWN);
}

int nf_journal_encode_ops(struct nf_buf *b, uint32_t writer, uint64_t seq, const struct nf_ref *base_root,
			  unsigned flags, const void *ops, size_t len)
{
	encode_begin(b, writer);
	nf_buf_u64(b, seq);
	nf_buf_u8(b, (uint8_t)flags);
	nf_ref_encode(b, base_root);
	nf_buf_bytes(b, ops, len);
	return nf_buf_error(b);
}

int nf_journal_encode_sent(struct nf_buf *b, uint32_t writer, uint64_t seq, const struct nf_ref *delta, uint64_t first_spare)
{
	encode_begin(b, writer);
	nf_buf_u8(b, MARK_SENT);
	nf_buf_u64(b, seq);
	nf_ref_encode(b, delta);
	nf_buf_u64(b, first_spare);
	return nf_buf_error(b);
}

int nf_journal_encode_split(struct nf_buf *b, uint32_t writer, uint64_t seq, uint32_t nr_ops)
{
	encode_begin(b, writer);
	nf_buf_u8(b, MARK_SPLIT);
	nf_buf_u64(b, seq);
	nf_buf_u32(b, nr_ops);
	return nf_buf_error(b);
}

int nf_journal_encode_reported(struct nf_buf *b, uint32_t writer, uint64_t seq)
{
	encode_begin(b, writer);
	nf_buf_u8(b, MARK_REPORTED);
	nf_buf_u64(b, seq);
	return nf_buf_error(b);
}

int nf_journal_encode_shelved(struct nf_buf *b, uint32_t writer, const struct nf_shelved *s)
{
	encode_begin(b, writer);
	nf_buf_u8(b, MARK_SHELVED);
	nf_buf_u64(b, s->seq);
	nf_buf_u32(b, s->nr_ops);
	nf_buf_u64(b, s->ops_bytes);
	nf_ref_encode(b, &s->ops);
	nf_ref_encode(b, &s->base);
	nf_ref_encode(b, &s->root);
	nf_buf_u64(b, s->first_segment);
	nf_buf_u64(b, s->next_counter);
	nf_buf_u64(b, (uint64_t)s->inodes);
	nf_buf_u64(b, (uint64_t)s->bytes);
	return nf_buf_error(b);
}

/* --- sealing ------------------------------------------------------------------------------- */

static size_t extra_of(const struct nf_vault *v, const uint8_t prev[NF_JOURNAL_TAG], uint64_t segment,
		       uint64_t number, char kind, uint8_t out[64])
{
	memcpy(out, v->device_id, 16);
	nf_put_le64(out + 16, segment);
	nf_put_le64(out + 24, number);
	out[32] = (uint8_t)kind;
	memcpy(out + 33, prev, NF_JOURNAL_TAG);
	return 33 + NF_JOURNAL_TAG;
}

/* Sealed: epoch u32, then type 8. */
static int seal(void *ctx, const uint8_t prev[NF_JOURNAL_TAG], uint64_t segment, uint64_t number, char kind,
		const void *plain, size_t len, void *out, uint8_t tag[NF_JOURNAL_TAG])
{
	struct nf_vault *v = ctx;
	uint8_t extra[64], *o = out;
	uint32_t epoch;

	struct nf_codec *c = nf_codec_get(v->ring);
	if (!c)
		return nf_fail(-ENOMEM);
	int r = nf_codec_seal_raw(c, NF_SEAL_JOURNAL, extra, extra_of(v, prev, segment, number, kind, extra),
				  plain, len, o + 4, &epoch);
	nf_codec_put(c);
	if (r < 0)
		return r;
	nf_put_le32(o, epoch);
	memcpy(tag, o + 4 + len + NF_SEAL_OVERHEAD - NF_JOURNAL_TAG, NF_JOURNAL_TAG);
	return 0;
}

static int open_sealed(void *ctx, const uint8_t prev[NF_JOURNAL_TAG], uint64_t segment, uint64_t number,
		       char kind, const void *sealed, size_t len, void *out, size_t *out_len,
		       uint8_t tag[NF_JOURNAL_TAG])
{
	struct nf_vault *v = ctx;
	const uint8_t *p = sealed;
	uint8_t extra[64];

	if (len < 4 + NF_SEAL_OVERHEAD)
		return nf_fail(-NF_E_XFORM_TRUNCATED);
	struct nf_codec *c = nf_codec_get(v->ring);
	if (!c)
		return nf_fail(-ENOMEM);
	int r = nf_codec_open_raw(c, NF_SEAL_JOURNAL, nf_get_le32(p), extra,
				  extra_of(v, prev, segment, number, kind, extra), p + 4, len - 4, out);
	nf_codec_put(c);
	if (r < 0)
		return r;
	*out_len = len - 4 - NF_SEAL_OVERHEAD;
	memcpy(tag, p + len - NF_JOURNAL_TAG, NF_JOURNAL_TAG);
	return 0;
}

const struct nf_journal_seal_ops nf_vault_journal_seal = {
	.overhead = 4 + NF_SEAL_OVERHEAD,
	.seal = seal,
	.open = open_sealed,
};

/* --- reading ---------------------------------------------------------------------------------- */

void nf_recovered_form_clear(struct nf_recovered_form *f)
{
	for (size_t k = 0; k < f->nr; k++)
		free(f->rec[k].ops);
	free(f->rec);
	*f = (struct nf_recovered_form){ 0 };
}

static void dot_clear(struct nf_recovered_dot *d)
{
	nf_recovered_form_clear(&d->form);
	nf_recovered_form_clear(&d->whole);
	*d = (struct nf_recovered_dot){ 0 };
}

void nf_recovered_deinit(struct nf_recovered *rc)
{
	dot_clear(&rc->dot[0]);
	dot_clear(&rc->dot[1]);
	dot_clear(&rc->before);
	free(rc->shelf);
	free(rc->late);
	*rc = (struct nf_recovered){ 0 };
}

static bool dot_known(const struct nf_recovered *rc, uint64_t seq)
{
	return rc->dot[0].seq == seq || rc->dot[1].seq == seq || rc->before.seq == seq;
}

static struct nf_recovered_dot *dot_of(struct nf_recovered *rc, uint64_t seq)
{
	if (seq == rc->contained) {
		rc->before.seq = seq;
		return &rc->before;
	}
	for (int i = 0; i < 2; i++)
		if (rc->dot[i].seq == seq)
			return &rc->dot[i];
	for (int i = 0; i < 2; i++) {
		if (rc->dot[i].seq == 0) {
			rc->dot[i].seq = seq;
			rc->dot[i].first_segment = UINT64_MAX;
			return &rc->dot[i];
		}
	}
	return NULL;
}

/* Does this block of the journal authenticate?  A full block's plain length is its file's block size, which the
 * record alone does not say: the usual one is tried first. */
static bool block_whole(struct nf_vault *v, struct nf_journal *j, const struct nf_block_ref *ref, bool full)
{
	struct nf_journal_pos pos = { nf_ref_local_segment(&ref->pack), ref->offset_bytes };
	struct nf_seal_id id = { .type = NF_SEAL_BLOCK, .birth = ref->birth, .index = ref->index };
	nf_auto_free uint8_t *sealed = malloc(ref->sealed_len);
	nf_auto_free uint8_t *plain = malloc(UINT32_C(1) << NF_BLOCK_SHIFT_MAX);
	struct nf_codec *c = nf_codec_get(v->ring);
	bool ok = false;

	if (sealed && plain && c && nf_journal_read(j, pos, sealed, ref->sealed_len) == 0) {
		uint32_t len = full ? 1u << v->block_shift : ref->plain_len;
		ok = nf_codec_open(c, &id, ref->epoch, ref->flags, ref->tag, sealed, ref->sealed_len, plain,
				   len) == 0;
		for (unsigned s = NF_BLOCK_SHIFT_MIN; full && !ok && s <= NF_BLOCK_SHIFT_MAX; s++)
			ok = nf_codec_open(c, &id, ref->epoch, ref->flags, ref->tag, sealed,
					   ref->sealed_len, plain, (size_t)1 << s) == 0;
	}
	if (c)
		nf_codec_put(c);
	return ok;
}

/* Blocks that an operation names in the part of SEGMENT that was not known durable: are they whole? */
static bool op_whole(struct nf_recovered *rc, struct nf_journal *j, const struct nf_op *op, uint64_t segment,
		     uint64_t from_bytes)
{
	enum { ODD = 1u << NF_BLOCK_SHIFT_MAX }; /* stands for "a full block" */
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref published;
	uint64_t first;
	const uint8_t *value;
	size_t len, pos = 0;

	while (nf_op_window_iter(op, &pos, &first, &value, &len) == 0) {
		if (nf_extent_patch_decode(value, len, true, ODD, &published, refs, known) < 0)
			return false;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++) {
			const struct nf_block_ref *ref = &refs[b];
			if (!known[b] || !ref->sealed_len || !nf_ref_is_local(&ref->pack) ||
			    nf_ref_local_segment(&ref->pack) != segment || ref->offset_bytes < from_bytes)
				continue;
			if (!block_whole(rc->v, j, ref, ref->plain_len == ODD))
				return false;
		}
	}
	return true;
}

/* 0, NF_JOURNAL_CUT or negative. */
static int check_ops(struct nf_recovered *rc, struct nf_journal *j, const uint8_t *ops, size_t len,
		     uint64_t segment, uint64_t from_bytes)
{
	struct nf_rd rd = nf_rd_of(ops, len);

	while (nf_rd_left(&rd)) {
		struct nf_op op;
		int r = nf_op_decode(&rd, NULL, &op);
		if (r < 0)
			return r;
		if ((op.kind == NF_OP_DATA || op.kind == NF_OP_MOVE) && !op_whole(rc, j, &op, segment, from_bytes))
			return NF_JOURNAL_CUT;
	}
	return 0;
}

static int add_record(struct nf_recovered_dot *d, const struct nf_ref *base_root, const uint8_t *ops, size_t len)
{
	struct nf_recovered_record *all = realloc(d->form.rec, (d->form.nr + 1) * sizeof *all);

	if (!all)
		return nf_fail(-ENOMEM);
	d->form.rec = all;
	struct nf_recovered_record rec = { .base_root = *base_root, .ops = malloc(len), .len = len };
	if (!rec.ops)
		return nf_fail(-ENOMEM);
	memcpy(rec.ops, ops, len);
	d->form.rec[d->form.nr++] = rec;
	return 0;
}

static int take_ops(struct nf_recovered *rc, struct nf_journal *j, uint64_t segment, struct nf_rd *rd,
		    uint64_t unsynced_from_bytes)
{
	uint64_t seq = nf_rd_u64(rd);
	uint8_t flags = nf_rd_u8(rd);
	struct nf_recovered_record rec = { 0 };

	nf_ref_decode(rd, NULL, &rec.base_root);
	if (nf_rd_error(rd, false) < 0)
		return nf_fail(-NF_E_JOURNAL_BAD);
	size_t len = nf_rd_left(rd);
	const uint8_t *p = nf_rd_bytes(rd, len);
	if (seq && seq <= rc->contained && len && nf_late_note(rc, seq, segment, &rec.base_root) < 0)
		return -ENOMEM;
	if (seq < rc->contained || seq == 0)
		return 0;
	/* What is on the server already need not be whole here. */
	int r = seq == rc->contained ? 0 : check_ops(rc, j, p, len, segment, unsynced_from_bytes);
	if (r)
		return r;
	if (len == 0 && !dot_known(rc, seq))
		return 0;
	struct nf_recovered_dot *d = dot_of(rc, seq);
	if (!d)
		return nf_fail(-NF_E_JOURNAL_BAD);
	if (flags & NF_JOURNAL_RESET) {
		/* Of two new forms one of which was not finished the old one stays until the second is. */
		if (!d->unfinished)
			d->whole = d->form;
		else
			nf_recovered_form_clear(&d->form);
		d->form = (struct nf_recovered_form){ 0 };
		d->unfinished = true;
	}
	for (size_t k = 0; flags & NF_JOURNAL_NEW_BASE && k < d->form.nr; k++)
		d->form.rec[k].base_root = rec.base_root;
	if (d->unfinished && !(flags & NF_JOURNAL_UNFINISHED)) {
		d->unfinished = false;
		nf_recovered_form_clear(&d->whole);
	}
	if (len == 0)
		return 0;
	d->first_segment = NF_MIN(d->first_segment, segment);
	return add_record(d, &rec.base_root, p, len);
}

/* Operations of FROM beyond the first NR become TO's. */
static int move_ops(struct nf_recovered_dot *from, uint32_t nr, struct nf_recovered_dot *to)
{
	size_t kept = 0;
	uint32_t seen = 0;

	for (size_t i = 0; i < from->form.nr; i++) {
		struct nf_recovered_record *rec = &from->form.rec[i];
		struct nf_rd rd = nf_rd_of(rec->ops, rec->len);
		struct nf_op op;
		int r = 0;
		while (r == 0 && seen < nr && nf_rd_left(&rd)) {
			r = nf_op_decode(&rd, NULL, &op);
			seen++;
		}
		size_t at = (size_t)(rd.p - (const uint8_t *)rec->ops);
		if (r == 0 && at < rec->len)
			r = add_record(to, &rec->base_root, rd.p, rec->len - at);
		if (r < 0)
			return nf_fail(r);
		rec->len = at;
		kept += at > 0;
	}
	for (size_t i = kept; i < from->form.nr; i++)
		free(from->form.rec[i].ops);
	from->form.nr = kept;
	to->first_segment = NF_MIN(to->first_segment, from->first_segment);
	return seen == nr ? 0 : nf_fail(-NF_E_JOURNAL_BAD);
}

static int take_split(struct nf_recovered *rc, struct nf_rd *rd)
{
	uint64_t seq = nf_rd_u64(rd);
	uint32_t nr = nf_rd_u32(rd);

	if (nf_rd_error(rd, true) < 0)
		return nf_fail(-NF_E_JOURNAL_BAD);
	if (nf_late_split(rc, seq) < 0)
		return -ENOMEM;
	if (seq < rc->contained || seq == 0)
		return 0;
	struct nf_recovered_dot *from = dot_of(rc, seq), *to = dot_of(rc, seq + 1);
	if (!from || !to || to->form.nr)
		return nf_fail(-NF_E_JOURNAL_BAD);
	return move_ops(from, nr, to);
}

static int note_shelved(struct nf_recovered *rc, const struct nf_shelved *s)
{
	struct nf_shelved *all = realloc(rc->shelf, (rc->nr_shelf + 1) * sizeof *all);

	if (!all)
		return nf_fail(-ENOMEM);
	rc->shelf = all;
	rc->shelf[rc->nr_shelf++] = *s;
	return 0;
}

/* The first of dot SEQ's operations are read from where they lie; the others take its place as dot SEQ + 1. */
static int shelve_dot(struct nf_recovered *rc, uint64_t seq, uint32_t nr)
{
	struct nf_recovered_dot *d = dot_of(rc, seq), next = { .seq = seq + 1, .first_segment = UINT64_MAX };

	if (!d || d->unfinished || d->sent)
		return nf_fail(-NF_E_JOURNAL_BAD);
	int r = move_ops(d, nr, &next);
	if (r == 0)
		dot_clear(d);
	if (r == 0 && next.form.nr)
		*d = next;
	else
		dot_clear(&next);
	return r;
}

static int take_shelved(struct nf_recovered *rc, struct nf_rd *rd)
{
	struct nf_shelved s = { .seq = nf_rd_u64(rd), .told = true };

	s.nr_ops = nf_rd_u32(rd);
	s.ops_bytes = nf_rd_u64(rd);
	nf_ref_decode(rd, NULL, &s.ops);
	nf_ref_decode(rd, NULL, &s.base);
	nf_ref_decode(rd, NULL, &s.root);
	s.first_segment = nf_rd_u64(rd);
	s.next_counter = nf_rd_u64(rd);
	s.inodes = (int64_t)nf_rd_u64(rd);
	s.bytes = (int64_t)nf_rd_u64(rd);
	s.oldest_ns = nf_clock_ns();
	bool ordered = !rc->nr_shelf || rc->shelf[rc->nr_shelf - 1].seq < s.seq;
	if (nf_rd_error(rd, true) < 0 || !s.seq || !ordered || nf_ref_check(&s.root) < 0 ||
	    (!nf_ref_is_null(&s.ops) && (nf_ref_check(&s.ops) < 0 || !nf_ref_is_local(&s.ops.pack))))
		return nf_fail(-NF_E_JOURNAL_BAD);
	if (nf_late_split(rc, s.seq) < 0)
		return -ENOMEM;
	/* A dot that was published is not needed, and may be there in part only.  What came after it in its records was written
	 * anew as the next one's before it was sent; and that one was made on `root`. */
	if (s.seq == rc->contained && !nf_ref_is_null(&s.ops))
		nf_recovered_form_clear(&rc->before.form);
	if (s.seq <= rc->contained)
		return 0;
	int r = nf_ref_is_null(&s.ops) ? 0 : shelve_dot(rc, s.seq, s.nr_ops);
	return r == 0 ? note_shelved(rc, &s) : r;
}

static int take_sent(struct nf_recovered *rc, struct nf_rd *rd)
{
	uint64_t seq = nf_rd_u64(rd);
	struct nf_ref delta;

	nf_ref_decode(rd, NULL, &delta);
	uint64_t first_spare = nf_rd_u64(rd);
	if (nf_rd_error(rd, true) < 0)
		return nf_fail(-NF_E_JOURNAL_BAD);
	if (seq <= rc->contained) {
		nf_late_sent(rc, seq, &delta);
		return 0;
	}
	struct nf_recovered_dot *d = dot_of(rc, seq);
	if (!d)
		return nf_fail(-NF_E_JOURNAL_BAD);
	d->sent = true;
	d->delta = delta;
	d->first_spare = first_spare;
	return 0;
}

int nf_recover_record(void *ctx, struct nf_journal *j, uint64_t segment, char kind, const void *plain, size_t len,
		      uint64_t unsynced_from_bytes)
{
	struct nf_recovered *rc = ctx;
	struct nf_rd rd = nf_rd_of(plain, len);
	uint32_t writer;

	int r = nf_record_begin(&rd, &writer);
	if (r < 0 || writer != rc->v->writer)
		return r;
	if (kind == 'O')
		return take_ops(rc, j, segment, &rd, unsynced_from_bytes);
	unsigned mark = kind == 'M' ? nf_rd_u8(&rd) : 0;
	if (mark == MARK_SPLIT)
		return take_split(rc, &rd);
	if (mark == MARK_SHELVED)
		return take_shelved(rc, &rd);
	if (mark == MARK_REPORTED)
		return nf_late_reported(rc, &rd);
	return mark == MARK_SENT ? take_sent(rc, &rd) : nf_fail(-NF_E_JOURNAL_BAD);
}

/* --- replaying -------------------------------------------------------------------------------------- */

/* The counter is beyond what D uses: conflict copies made while it is replayed need numbers of their own. */
static int note_counters(struct nf_vault *v, const struct nf_recovered_dot *d)
{
	const uint64_t mask = (UINT64_C(1) << 40) - 1;
	uint64_t nr_ops = 0;

	for (size_t i = 0; i < d->form.nr; i++) {
		struct nf_rd rd = nf_rd_of(d->form.rec[i].ops, d->form.rec[i].len);
		while (nf_rd_left(&rd)) {
			struct nf_op op;
			int r = nf_op_decode(&rd, NULL, &op);
			if (r < 0)
				return nf_fail(r);
			nr_ops++;
			if (op.kind == NF_OP_CREATE && op.ino >> 40 == v->writer)
				v->next_counter = NF_MAX(v->next_counter, (op.ino & mask) + 1);
		}
	}
	if (d->sent)
		v->next_counter = NF_MAX(v->next_counter, (d->first_spare & mask) + nr_ops);
	return 0;
}

/* The layer of D on the base it was made on, for the dot after it. */
static int layer_before(struct nf_vault *v, const struct nf_recovered_dot *d, struct nf_layer **out)
{
	struct nf_layer *l;
	int r = nf_layer_new(&l);

	for (size_t i = 0; r == 0 && i < d->form.nr; i++) {
		struct nf_apply a = {
			.view = { .nodes = v->nodes, .base = d->form.rec[i].base_root, .layers = { l } },
			.layer = l, .ring = v->ring, .dot = { v->writer, d->seq }, .host = v->host,
			.base_root = d->form.rec[i].base_root, .first_spare = (uint64_t)v->writer << 40 | v->next_counter,
		};
		r = nf_replay(v, &a, d->form.rec[i].ops, d->form.rec[i].len, NULL);
		nf_apply_deinit(&a);
	}
	if (r < 0) {
		nf_layer_free(l);
		return nf_fail(r);
	}
	*out = l;
	return 0;
}

/* Operations of a dot that was sent: as they are, with the conflict copies that the delta provides for. */
static int keep_ops(struct nf_epoch *e, const struct nf_recovered_record *rec)
{
	struct nf_rd rd = nf_rd_of(rec->ops, rec->len);

	while (nf_rd_left(&rd)) {
		struct nf_op op;
		int r = nf_op_decode(&rd, NULL, &op);
		if (r < 0)
			return nf_fail(r);
		e->nr_ops++;
	}
	nf_buf_bytes(&e->ops, rec->ops, rec->len);
	return nf_buf_error(&e->ops);
}

/* All records of D with one struct nf_apply: a conflict met in one concerns the operations of the next ones. */
static int replay_records(struct nf_vault *v, struct nf_epoch *e, const struct nf_recovered_dot *d,
			  const struct nf_ref *root, bool below_frozen, const struct nf_layer *before)
{
	struct nf_apply a = {
		.view = { .nodes = v->nodes, .base = *root, .layers = { e->layer } },
		.layer = e->layer, .ring = v->ring, .dot = { v->writer, e->seq }, .host = v->host,
		.out = e->sent ? NULL : &e->ops,
		/* Nothing named what a collector had copied, so another may have taken it away since: the next run copies again. */
		.stays = !e->sent,
		.first_spare = e->sent ? e->first_spare : (uint64_t)v->writer << 40 | v->next_counter,
	};
	int r = 0;

	if (below_frozen)
		a.view.layers[1] = v->frozen->layer;
	for (size_t i = 0; r == 0 && i < d->form.nr; i++) {
		a.base_root = d->form.rec[i].base_root;
		a.base_layer = d->form.rec[i].base_layer ? d->form.rec[i].base_layer : before;
		if (e->sent)
			r = keep_ops(e, &d->form.rec[i]);
		if (r == 0)
			r = nf_replay(v, &a, d->form.rec[i].ops, d->form.rec[i].len, NULL);
	}
	if (!e->sent)
		v->next_counter += a.nr_spared;
	e->nr_ops += a.nr_out;
	e->inodes = a.inodes;
	e->bytes = a.bytes;
	v->conflicts += a.conflicts;
	nf_apply_deinit(&a);
	return r;
}

int nf_recover_dot(struct nf_vault *v, const struct nf_recovered_dot *d, const struct nf_recovered_dot *before, bool frozen,
		   struct nf_epoch **out)
{
	struct nf_layer *below = NULL;
	struct nf_epoch *e;
	const struct nf_ref now = nf_shelf_root(v), *root = frozen ? &v->base.root : &now;
	int r = nf_epoch_new(d->seq, root, &e);

	if (r < 0)
		return r;
	e->sent = d->sent;
	e->delta = d->delta;
	e->first_spare = d->first_spare;
	/* A sent dot says itself what it was made on. */
	if (d->sent && d->form.nr)
		e->base_root = d->form.rec[0].base_root;
	/* Only where the base moved meanwhile does it matter what the author saw; and not where that is the dot's base root. */
	if (before && before->form.nr && d->form.nr && memcmp(&d->form.rec[0].base_root, root, sizeof *root) &&
	    !memcmp(&d->form.rec[0].base_root, &before->form.rec[0].base_root, sizeof v->base.root))
		r = layer_before(v, before, &below);
	if (r == 0)
		r = replay_records(v, e, d, root, !frozen && v->frozen && !v->frozen->aside, below);
	nf_layer_free(below);
	if (r < 0) {
		nf_epoch_free(e);
		return nf_fail(r);
	}
	e->oldest_ns = nf_clock_ns();
	e->journaled_bytes = e->ops.len;
	/* What took another form is to be written in it. */
	size_t journaled = 0;
	for (size_t i = 0; i < d->form.nr; i++)
		journaled += d->form.rec[i].len;
	if (!e->sent && d->form.nr &&
	    (d->unfinished || journaled != e->ops.len || memcmp(&d->form.rec[0].base_root, root, sizeof *root)))
		e->reset = true;
	e->first_segment = d->first_segment;
	e->min_segment = 0; /* its blocks are in old segments: they stay until it is on the server */
	*out = e;
	return 0;
}

/* A new form of which the end is missing is none; `unfinished` stays, so that another is written. */
static void settle(struct nf_recovered_dot *d)
{
	if (!d->unfinished)
		return;
	nf_recovered_form_clear(&d->form);
	d->form = d->whole;
	d->whole = (struct nf_recovered_form){ 0 };
}

/* The view stands on what is shelved.  Of a dot of that there is more than a copy that can be made again only if it was never
 * sealed as one object, or a head with it may have been sent. */
static int replay_on_shelf(struct nf_vault *v, struct nf_recovered *rc)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < rc->nr_shelf; i++) {
		r = nf_shelf_add(v, &rc->shelf[i]);
		v->next_counter = NF_MAX(v->next_counter, rc->shelf[i].next_counter);
	}
	/* What was taken over since it was shelved is not known any more. */
	v->shelf_unsure = r == 0 && !nf_ref_equal(&v->shelf[0].base, &v->base.root);
	for (int i = 0; r == 0 && i < 2; i++) {
		const struct nf_recovered_dot *d = &rc->dot[i];
		const struct nf_shelved *s = nf_shelf_find(v, d->seq);
		if (!d->seq || (s && !d->sent && !nf_ref_is_null(&s->ops)))
			continue;
		r = note_counters(v, d);
		if (r == 0 && (s ? v->frozen : v->current))
			r = nf_fail(-NF_E_JOURNAL_BAD);
		if (r == 0)
			r = nf_recover_dot(v, d, s ? &rc->before : NULL, s != NULL, s ? &v->frozen : &v->current);
		if (r == 0 && s)
			v->frozen->aside = true;
	}
	return r;
}

/* LO is the earlier one of the two, if there are two. */
static int replay_dots(struct nf_vault *v, struct nf_recovered *rc, const struct nf_recovered_dot *lo,
		       const struct nf_recovered_dot *hi)
{
	if (rc->nr_shelf)
		return replay_on_shelf(v, rc);
	int r = note_counters(v, lo);

	if (r == 0)
		r = note_counters(v, hi);
	if (r == 0 && lo->seq && !hi->seq && !lo->sent)
		return nf_recover_dot(v, lo, &rc->before, false, &v->current);
	if (r == 0 && lo->seq)
		r = nf_recover_dot(v, lo, &rc->before, true, &v->frozen);
	if (r == 0 && hi->seq)
		r = nf_recover_dot(v, hi, lo, false, &v->current);
	return r;
}

/* What we stand on is gone from where it was: the newest head says where the collector has put it. */
static int find_base(struct nf_vault *v)
{
	struct nf_look_result seen;

	int r = nf_look(v->look, &seen);
	if (r == 0 && !seen.nr_leaves)
		r = nf_fail(-NF_E_HEADER_MISSING);
	if (r < 0)
		return r;
	v->newest = seen.leaves[seen.nr_leaves - 1]->root;
	return NF_MIN(nf_base_now(v, &v->newest, &v->base.root), 0);
}

int nf_recover_replay(struct nf_vault *v, struct nf_recovered *rc)
{
	struct nf_recovered_dot *lo = &rc->dot[0], *hi = &rc->dot[1];

	settle(lo);
	settle(hi);
	settle(&rc->before);
	if (lo->seq && hi->seq && lo->seq > hi->seq) {
		struct nf_recovered_dot t = *lo;
		*lo = *hi;
		*hi = t;
	}
	int r = replay_dots(v, rc, lo, hi);
	if (nf_is_damage(r) && find_base(v) == 0) {
		nf_epoch_free(v->frozen);
		nf_epoch_free(v->current);
		v->frozen = v->current = NULL;
		nf_shelf_free(v);
		r = replay_dots(v, rc, lo, hi);
	}
	return r == 0 ? nf_late_recall(v, rc) : r;
}
