/* vault/late.c - dots of ours that the base contains, and that nobody reported before the mount before ended.
 *
 *      publish --- taken over --- reported         what they hold is there, and nobody may take it away (G4)
 *                      |  the mount ends
 *                      v
 *      journal:  O(n) sent(n) O(n+1) split(n+1) sent(n+1) ...      no mark "reported": they are judged again, as if they had
 *                                                                  just been published; segments stay until then
 *
 * Where something is gone their operations say where the journal has it.  That is rare, and they may be many: they
 * are read then, by a walk over the journal.  What was shelved has its records there too: its segments stay as long. */
#include "base/error.h"
#include "base/trace.h"
#include "vault/recover.h"

#include <inttypes.h>

static struct nf_recovered_late *late_find(const struct nf_recovered *rc, uint64_t seq)
{
	for (size_t i = 0; i < rc->nr_late; i++)
		if (rc->late[i].seq == seq)
			return &rc->late[i];
	return NULL;
}

int nf_late_note(struct nf_recovered *rc, uint64_t seq, uint64_t segment, const struct nf_ref *base_root)
{
	struct nf_recovered_late *l = late_find(rc, seq);

	if (!l) {
		l = realloc(rc->late, (rc->nr_late + 1) * sizeof *l);
		if (!l)
			return nf_fail(-ENOMEM);
		rc->late = l;
		l += rc->nr_late++;
		*l = (struct nf_recovered_late){ .seq = seq, .first_segment = segment, .base_root = *base_root };
	}
	l->first_segment = NF_MIN(l->first_segment, segment);
	return 0;
}

int nf_late_split(struct nf_recovered *rc, uint64_t seq)
{
	const struct nf_recovered_late *l = late_find(rc, seq);

	if (!l || seq >= rc->contained)
		return 0;
	struct nf_recovered_late first = *l;
	return nf_late_note(rc, seq + 1, first.first_segment, &first.base_root);
}

void nf_late_sent(struct nf_recovered *rc, uint64_t seq, const struct nf_ref *delta)
{
	struct nf_recovered_late *l = late_find(rc, seq);

	if (l)
		l->delta = *delta;
}

int nf_late_reported(struct nf_recovered *rc, struct nf_rd *rd)
{
	uint64_t seq = nf_rd_u64(rd);
	size_t kept = 0;

	if (nf_rd_error(rd, true) < 0)
		return nf_fail(-NF_E_JOURNAL_BAD);
	for (size_t i = 0; i < rc->nr_late; i++)
		if (rc->late[i].seq > seq)
			rc->late[kept++] = rc->late[i];
	rc->nr_late = kept;
	return 0;
}

static int late_by_seq(const void *a, const void *b)
{
	const struct nf_recovered_late *x = a, *y = b;

	return (x->seq > y->seq) - (x->seq < y->seq);
}

/* What all of them changed lies between the base of the first and the newest leaf. */
int nf_late_recall(struct nf_vault *v, struct nf_recovered *rc)
{
	if (rc->nr_late)
		qsort(rc->late, rc->nr_late, sizeof *rc->late, late_by_seq);
	for (size_t i = 0; i < rc->nr_late; i++) {
		const struct nf_recovered_late *l = &rc->late[i];
		struct nf_ref null = { 0 };
		struct nf_epoch *e;
		int r = nf_epoch_new(l->seq, i == 0 ? &l->base_root : &null, &e);
		if (r < 0)
			return r;
		nf_layer_free(e->layer);
		e->layer = NULL;
		e->sent = e->unread = true;
		e->writer = v->writer;
		e->delta = l->delta;
		e->first_segment = l->first_segment;
		e->min_segment = 0; /* their blocks may be in any segment */
		e->next = v->unreported;
		v->unreported = e;
		nf_trace(COMMIT, "not reported seq=%" PRIu64 " segment=%" PRIx64, l->seq, l->first_segment);
	}
	return 0;
}

/* --- what unreported dots did ------------------------------------------------------------ */

struct recall {
	struct nf_epoch *e; /* gets the operations of all of them */
	uint32_t writer;
	uint64_t first_segment, last_seq;
};

static int recall_record(void *ctx, struct nf_journal *j, uint64_t segment, char kind, const void *plain, size_t len,
			 uint64_t unsynced_from_bytes)
{
	struct recall *rl = ctx;
	struct nf_rd rd = nf_rd_of(plain, len);
	struct nf_ref base_root;
	uint32_t writer;
	(void)j;
	(void)unsynced_from_bytes;

	if (kind != 'O')
		return 0;
	int r = nf_record_begin(&rd, &writer);
	if (r < 0 || writer != rl->writer)
		return r;
	uint64_t seq = nf_rd_u64(&rd);
	(void)nf_rd_u8(&rd); /* flags: older forms do no harm */
	nf_ref_decode(&rd, NULL, &base_root);
	size_t n = nf_rd_left(&rd);
	if (nf_rd_error(&rd, false) < 0)
		return nf_fail(-NF_E_JOURNAL_BAD);
	if (seq <= rl->last_seq && segment >= rl->first_segment)
		nf_buf_bytes(&rl->e->ops, nf_rd_bytes(&rd, n), n);
	return nf_buf_error(&rl->e->ops);
}

int nf_recover_unreported_ops(struct nf_vault *v)
{
	struct recall rl = { .first_segment = UINT64_MAX };

	for (struct nf_epoch *e = v->unreported; e; e = e->next) {
		if (!e->unread)
			continue;
		rl.e = rl.e ? rl.e : e;
		rl.writer = e->writer;
		rl.last_seq = NF_MAX(rl.last_seq, e->seq);
		rl.first_segment = NF_MIN(rl.first_segment, e->first_segment);
	}
	if (!rl.e)
		return 0;
	int r = nf_journal_walk(v->journal, recall_record, &rl);
	if (r < 0) {
		nf_buf_deinit(&rl.e->ops);
		return r;
	}
	for (struct nf_epoch *e = v->unreported; e; e = e->next)
		e->unread = false;
	return 0;
}
