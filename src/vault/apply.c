/* vault/apply.c - see apply.h.
 *
 * Each operation runs on a scratch layer laid over the view:
 *
 *      scratch  ->  layer  ->  frozen  ->  base
 *
 * It may read and write freely there; when it succeeds the scratch layer is folded into
 * `layer`, when a node is missing (NF_TREE_WANT) it is thrown away.  So an operation happens
 * whole or not at all, and its code need not look ahead. */
#include "vault/apply_priv.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"

void nf_apply_deinit(struct nf_apply *a)
{
	free(a->redirects);
	a->redirects = NULL;
	a->nr_redirects = 0;
}

int nf_apply_inode(const struct nf_apply *a, uint64_t ino, struct nf_want *w, struct nf_val *val,
		   struct nf_inode_item *out)
{
	struct nf_txn t = { .a = (struct nf_apply *)a, .view = a->view, .w = w };
	return nf_txn_inode(&t, ino, val, out);
}

static bool same_time(struct timespec x, struct timespec y)
{
	return x.tv_sec == y.tv_sec && x.tv_nsec == y.tv_nsec;
}

/* A field is set if it still holds what the author saw.  Times are not in conflict: modification and change times go
 * forward when both sides set them; access times just follow. */
static int op_setattr(struct nf_txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	struct nf_op done = *op;

	int r = nf_txn_inode(t, op->ino, &val, &item);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
#define FIELD(bit, field)                                                                          \
	if (op->mask & (bit)) {                                                                    \
		done.base.field = item.field;                                                      \
		if (item.field == op->base.field)                                                  \
			item.field = op->now.field;                                                \
		else if (item.field != op->now.field)                                              \
			t->a->conflicts++, done.mask &= (uint8_t)~(bit);                           \
	}
	if (op->mask & NF_OPA_MODE && (item.mode & S_IFMT) != (op->now.mode & S_IFMT)) {
		nf_val_deinit(&val);
		return nf_fail(-NF_E_FORMAT_BAD);
	}
	FIELD(NF_OPA_MODE, mode)
	FIELD(NF_OPA_UID, uid)
	FIELD(NF_OPA_GID, gid)
#undef FIELD
#define TIME(bit, field)                                                                           \
	if (op->mask & (bit)) {                                                                    \
		done.base.field = item.field;                                                      \
		if (same_time(item.field, op->base.field))                                         \
			item.field = op->now.field;                                                \
		else                                                                               \
			nf_time_at_least(&item.field, op->now.field);                                      \
		done.now.field = item.field;                                                       \
	}
	TIME(NF_OPA_ATIME, atime)
	TIME(NF_OPA_MTIME, mtime)
	TIME(NF_OPA_CTIME, ctime)
	TIME(NF_OPA_BTIME, btime)
#undef TIME
	r = nf_txn_put_inode(t, op->ino, &item);
	if (r == 0 && done.mask)
		nf_txn_emit(t, &done);
	nf_val_deinit(&val);
	return r;
}

static int op_xattr(struct nf_txn *t, const struct nf_op *op)
{
	struct nf_val val = { 0 }, iv = { 0 };
	struct nf_inode_item item;
	struct nf_xattr_entry e = { .name = op->name, .name_len = op->name_len,
				    .is_blob = op->flags & NF_OPF_BLOB, .value = op->value,
				    .value_len = op->value_len, .blob = op->blob,
				    .birth = op->blob_birth, .index = op->blob_index };
	struct nf_key key = nf_key_xattr(op->ino, nf_ring_name_hash(t->a->ring, op->name, op->name_len));
	struct nf_buf b = NF_BUF_INIT;

	int r = nf_txn_inode(t, op->ino, &iv, &item);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
	r = nf_view_lookup(&t->view, &key, t->w, &val);
	if (r == 0 || r == NF_TREE_NONE) {
		r = nf_xattr_edit(val.p, val.len, &val.self, &e, !(op->flags & NF_OPF_REMOVE), &b);
		if (r == -ENOENT)
			r = 0; /* removed by both */
		else if (r == 0)
			r = nf_txn_put(t, &key, &b);
	}
	nf_buf_deinit(&b);
	if (r == 0) {
		nf_time_at_least(&item.ctime, op->time);
		r = nf_txn_put_inode(t, op->ino, &item);
	}
	if (r == 0)
		nf_txn_emit(t, op);
	nf_val_deinit(&val);
	nf_val_deinit(&iv);
	return r;
}

static int op_claim(struct nf_txn *t, const struct nf_op *op)
{
	struct nf_key key = { .type = NF_ITEM_WRITER, .a = op->prefix };
	struct nf_writer_item w = { .seen_s = op->time.tv_sec, .next_counter = 1 };
	struct nf_val val = { 0 };
	struct nf_buf b = NF_BUF_INIT;

	int r = nf_view_lookup(&t->view, &key, t->w, &val);
	if (r == 0) {
		/* Taken: the claimer finds another's id there and takes a new prefix. */
		nf_val_deinit(&val);
		return 0;
	}
	if (r != NF_TREE_NONE)
		return r;
	memcpy(w.id, op->writer_id, sizeof w.id);
	memcpy(w.host, op->host, op->host_len);
	nf_writer_encode(&b, &w);
	r = nf_txn_put(t, &key, &b);
	if (r == 0)
		nf_txn_emit(t, op);
	return r;
}

/* Two machines may have given one name at once: both stay, told apart by their heads. */
static int op_snapshot(struct nf_txn *t, const struct nf_op *op)
{
	const struct nf_snapshot_entry *e = &op->snapshot;
	struct nf_key key = { .type = NF_ITEM_SNAPSHOT, .a = nf_ring_name_hash(t->a->ring, e->name, e->name_len) };
	struct nf_val val = { 0 };
	struct nf_buf b = NF_BUF_INIT;

	int r = nf_view_lookup(&t->view, &key, t->w, &val);
	if (r != 0 && r != NF_TREE_NONE)
		return r;
	r = nf_snapshot_edit(r == 0 ? val.p : NULL, val.len, &val.self, e, !(op->flags & NF_OPF_FORGET), &b);
	nf_val_deinit(&val);
	if (r == 0)
		r = nf_txn_put(t, &key, &b);
	else
		nf_buf_deinit(&b);
	if (r == 0)
		nf_txn_emit(t, op);
	/* There already, or gone already: the same end. */
	return r == -EEXIST || r == -ENOENT ? 0 : r;
}

/* What the collector did.  Adding and removing name their items: replaying either twice, or on a tree where the other
 * collector was first, changes nothing. */
static int op_collect(struct nf_txn *t, const struct nf_op *op)
{
	uint8_t date[8];
	int r = 0;

	nf_put_le64(date, (uint64_t)op->date_s);
	for (uint32_t i = 0; r == 0 && i < op->nr_keys; i++) {
		struct nf_key key = nf_op_key(op, i);
		r = op->flags & NF_OPF_FORGET ? nf_layer_remove(t->scratch, &key)
					      : nf_layer_put(t->scratch, &key, date, sizeof date);
	}
	if (r == 0)
		nf_txn_emit(t, op);
	return r;
}

/* The new value of an item of which P says where it stands now, to B; empty: P does not speak of what it names. */
static int place_value(const struct nf_place *p, const struct nf_val *val, struct nf_buf *b)
{
	struct nf_snapshot_entry e;
	struct nf_delta_item d;
	struct nf_root_item i;
	bool here = false;
	size_t pos = 0;
	int r;

	if (p->key.type == NF_ITEM_ROOT) {
		r = nf_root_decode(val->p, val->len, &val->self, &i);
		if (r < 0 || !nf_ref_equal(nf_root_now(&i), &p->old))
			return r;
		i.now = p->now;
		nf_root_encode(b, &i);
		return 0;
	}
	if (p->key.type == NF_ITEM_DELTA) {
		r = nf_delta_item_decode(val->p, val->len, &val->self, &d);
		if (r < 0 || !nf_ref_equal(&d.delta, &p->old))
			return r;
		d.delta = p->now;
		nf_delta_item_encode(b, &d);
		return 0;
	}
	while ((r = nf_snapshot_iter(val->p, val->len, &val->self, &pos, &e)) == 0) {
		if (!memcmp(e.rand, p->rand, sizeof e.rand) && nf_ref_equal(&e.root, &p->old)) {
			e.root = p->now;
			here = true;
		}
		nf_snapshot_put(b, &e);
	}
	if (!here)
		b->len = 0;
	return r < 0 ? r : 0;
}

/* The collector has written trees and deltas anew elsewhere.  Items that are gone, or were placed by another meanwhile, stay
 * as they are. */
static int op_place(struct nf_txn *t, const struct nf_op *op)
{
	for (uint32_t i = 0; i < op->nr_places; i++) {
		struct nf_place p;
		struct nf_val val = { 0 };
		struct nf_buf b = NF_BUF_INIT;
		nf_op_place(op, i, &p);
		int r = nf_view_lookup(&t->view, &p.key, t->w, &val);
		if (r == NF_TREE_NONE)
			continue;
		if (r)
			return r;
		r = place_value(&p, &val, &b);
		nf_val_deinit(&val);
		if (r == 0 && b.len)
			r = nf_txn_put(t, &p.key, &b);
		else
			nf_buf_deinit(&b);
		if (r < 0)
			return r;
	}
	nf_txn_emit(t, op);
	return 0;
}

static int dispatch(struct nf_txn *t, const struct nf_op *op)
{
	switch (op->kind) {
	case NF_OP_CREATE:
		return nf_txn_do_create(t, op);
	case NF_OP_LINK:
		return nf_txn_do_link(t, op);
	case NF_OP_UNLINK:
		return nf_txn_do_unlink(t, op);
	case NF_OP_RENAME:
		return nf_txn_do_rename(t, op);
	case NF_OP_SETATTR:
		return op_setattr(t, op);
	case NF_OP_DATA:
		return nf_txn_do_data(t, op);
	case NF_OP_XATTR:
		return op_xattr(t, op);
	case NF_OP_CLAIM:
		return op_claim(t, op);
	case NF_OP_SNAPSHOT:
		return op_snapshot(t, op);
	case NF_OP_COLLECT:
		return op_collect(t, op);
	case NF_OP_MOVE:
	case NF_OP_RESEAL:
		return t->a->stays ? 0 : nf_txn_do_move(t, op);
	case NF_OP_PLACE:
		return t->a->stays ? 0 : op_place(t, op);
	case NF_OP_KIND_NR:
		break;
	}
	return nf_fail(-NF_E_FORMAT_BAD);
}

static int commit(struct nf_txn *t)
{
	struct nf_apply *a = t->a;

	if (t->redirect.from) {
		struct nf_redirect *p =
			realloc(a->redirects, (a->nr_redirects + 1) * sizeof *a->redirects);
		if (!p)
			return nf_fail(-ENOMEM);
		a->redirects = p;
	}
	if (a->out && t->out.len) {
		nf_buf_bytes(a->out, t->out.p, t->out.len);
		int r = nf_buf_error(a->out);
		if (r < 0)
			return r;
	}
	nf_layer_take(a->layer, t->scratch);
	if (t->redirect.from)
		a->redirects[a->nr_redirects++] = t->redirect;
	a->nr_out += t->nr_out;
	a->nr_spared += t->spared;
	a->inodes = nf_counter_sum(a->inodes, t->inodes);
	a->bytes = nf_counter_sum(a->bytes, t->bytes);
	return 0;
}

static int apply(struct nf_apply *a, const struct nf_op *op, struct nf_want *w, bool keep)
{
	struct nf_txn t = { .a = a, .w = w };
	uint64_t conflicts = a->conflicts;

	NF_ASSERT(a->view.layers[0] == a->layer && !a->view.layers[NF_VIEW_LAYERS - 1]);
	int r = nf_layer_new(&t.scratch);
	if (r < 0)
		return r;
	t.view = a->view;
	for (int i = NF_VIEW_LAYERS - 1; i > 0; i--)
		t.view.layers[i] = t.view.layers[i - 1];
	t.view.layers[0] = t.scratch;
	r = dispatch(&t, op);
	if (r == 0)
		r = nf_buf_error(&t.out);
	if (r == 0 && keep)
		r = commit(&t);
	if (r == 0 && keep)
		nf_count(NF_C_CONFLICTS, a->conflicts - conflicts);
	else
		a->conflicts = conflicts;
	nf_layer_free(t.scratch);
	nf_buf_deinit(&t.out);
	return r;
}

int nf_apply(struct nf_apply *a, const struct nf_op *op, struct nf_want *w)
{
	return apply(a, op, w, true);
}

int nf_apply_probe(struct nf_apply *a, const struct nf_op *op, struct nf_want *w)
{
	return apply(a, op, w, false);
}
