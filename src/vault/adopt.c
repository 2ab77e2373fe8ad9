/* vault/adopt.c - taking over a newer head.
 *
 *   1  files that others changed and that hold data of ours not yet told: told first, against the version
 *      they were made from
 *   2  our epochs replayed on the new tree, aside
 *   3  the new base remembered on disk (R6)
 *   4  under the namespace lock: what came meanwhile replayed too, everything exchanged
 *   5  the library and the kernel told what changed
 *
 * A dot that was sent keeps its operations as they are (R7); operations never sent are written anew as
 * they took effect on the new base. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/gc.h"
#include "vault/shelf.h"

#include <inttypes.h>

enum {
	ROUNDS_MAX = 50,
	/* Files that are written without a pause always hold something: then their writers are held. */
	ROUNDS_UNHELD = 3,
	/* How long a take-over waits for the kernel to drop the pages of the one before.  Its pages wait for our
	 * answers, and those may wait for room that only a commit makes: so not for ever. */
	TOLD_WAIT_MS = 5000,
};

int nf_head_copy(struct nf_head *to, const struct nf_head *from)
{
	struct nf_head h = *from;

	h.vector = (struct nf_vector){ 0 };
	int r = nf_vector_copy(&h.vector, &from->vector);
	if (r == 0)
		*to = h;
	return r;
}

/* --- what changed --------------------------------------------------------------------------------- */


struct changes {
	struct nf_vault *v;
	struct nf_key *keys;
	size_t nr, cap;
	bool unsure; /* parts of the old tree cannot be read: there may have been more */
};

static int note_change(void *ctx, const struct nf_key *key, const struct nf_val *old, const struct nf_val *now)
{
	struct changes *ch = ctx;
	(void)old;
	(void)now;

	if (key->ino == 0)
		return 0;
	if (ch->nr == ch->cap) {
		size_t cap = ch->cap ? 2 * ch->cap : 64;
		struct nf_key *keys = realloc(ch->keys, cap * sizeof *keys);
		if (!keys)
			return nf_fail(-ENOMEM);
		ch->keys = keys;
		ch->cap = cap;
	}
	ch->keys[ch->nr++] = *key;
	return 0;
}

static int cmp_keys(const void *a, const void *b) { return nf_key_cmp(a, b); }

/* A value of a view, blocking; NULL and 0 where there is none. */
static int value_of(struct nf_vault *v, const struct nf_view *view, const struct nf_key *key, struct nf_val *out)
{
	struct nf_want w = NF_WANT_INIT;
	int r;

	while ((r = nf_view_lookup(view, key, &w, out)) == NF_TREE_WANT) {
		r = v->src.load(v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	nf_want_deinit(&w);
	if (r == NF_TREE_NONE) {
		*out = (struct nf_val){ 0 };
		return 0;
	}
	return r;
}

/* --- replaying ------------------------------------------------------------------------------------------ */

/* The new form of one epoch. */
struct rebased {
	struct nf_epoch *old; /* NULL: there is none */
	struct nf_layer *layer;
	struct nf_buf ops;
	uint32_t nr_ops;
	size_t done_bytes; /* of old->ops */
	int64_t inodes, bytes;
	uint64_t conflicts;
	uint64_t spares; /* inode numbers reserved for `a` in all */
	struct nf_apply a;
};

static void rebased_deinit(struct rebased *rb)
{
	nf_layer_free(rb->layer);
	nf_buf_deinit(&rb->ops);
	nf_apply_deinit(&rb->a);
}

static int rebased_init(struct nf_vault *v, struct rebased *rb, struct nf_epoch *old,
			const struct nf_head *leaf, const struct nf_layer *below)
{
	rb->old = old;
	if (!old)
		return 0;
	int r = nf_layer_new(&rb->layer);
	if (r < 0)
		return r;
	rb->a = (struct nf_apply){
		.view = { .nodes = v->nodes, .base = leaf->root, .layers = { rb->layer, below } },
		.layer = rb->layer, .ring = v->ring, .dot = { v->writer, old->seq }, .host = v->host,
		.base_root = old->base_root,
		.base_layer = old == v->current && v->frozen && !v->frozen->aside ? v->frozen->layer : NULL,
		.out = old->sent ? NULL : &rb->ops,
		.first_spare = old->sent ? old->first_spare : 0, /* else: reserve() */
	};
	return 0;
}

/* Inode numbers for as many conflict copies as NR more operations may make: what is created meanwhile gets others. */
static void reserve(struct nf_vault *v, struct rebased *rb, uint64_t nr)
{
	NF_ASSERT(nf_lock_held(&v->ns));
	if (rb->old->sent || rb->a.nr_spared + nr <= rb->spares)
		return;
	rb->a.first_spare = ((uint64_t)v->writer << 40 | v->next_counter) - rb->a.nr_spared;
	rb->spares = rb->a.nr_spared + nr;
	v->next_counter += nr;
}

/* Replays operations [done, upto).  The bytes are copied: the epoch's buffer may move. */
static int rebased_run(struct nf_vault *v, struct rebased *rb)
{
	if (!rb->old)
		return 0;
	nf_lock_take(&v->ns);
	size_t len = rb->old->ops.len - rb->done_bytes;
	uint8_t *copy = len ? malloc(len) : NULL;
	if (copy)
		memcpy(copy, rb->old->ops.p + rb->done_bytes, len);
	reserve(v, rb, rb->old->nr_ops);
	nf_lock_drop(&v->ns);
	if (!copy)
		return len ? nf_fail(-ENOMEM) : 0;
	int r = nf_replay(v, &rb->a, copy, len, NULL);
	free(copy);
	if (r == 0)
		rb->done_bytes += len;
	return r;
}

/* The rest, under the lock: NF_TREE_WANT when a node is missing. */
static int rebased_tail(struct nf_vault *v, struct rebased *rb, struct nf_want *w)
{
	while (rb->old && rb->done_bytes < rb->old->ops.len) {
		struct nf_rd rd = nf_rd_of(rb->old->ops.p + rb->done_bytes, rb->old->ops.len - rb->done_bytes);
		const uint8_t *from = rd.p;
		struct nf_op op;
		int r = nf_op_decode(&rd, NULL, &op);
		reserve(v, rb, 1);
		if (r == 0)
			r = nf_apply(&rb->a, &op, w);
		if (r)
			return r;
		rb->done_bytes += (size_t)(rd.p - from);
	}
	return 0;
}

/* Gives the epoch its new form. */
static void rebased_take(struct nf_vault *v, struct rebased *rb, const struct nf_head *leaf)
{
	struct nf_epoch *e = rb->old;

	if (!e)
		return;
	NF_ASSERT(nf_lock_held(&v->ns));
	nf_layer_free(e->layer);
	e->layer = nf_steal(&rb->layer);
	e->inodes = rb->a.inodes;
	e->bytes = rb->a.bytes;
	v->conflicts += rb->a.conflicts;
	/* A conflict copy is made of what its author saw: blocks of the epoch below may be in it. */
	if (rb->a.conflicts && rb->a.base_layer && v->frozen)
		e->min_segment = NF_MIN(e->min_segment, v->frozen->min_segment);
	if (rb->a.conflicts && v->nr_shelf)
		e->min_segment = NF_MIN(e->min_segment, v->shelf[0].first_segment);
	if (e->sent)
		return;
	nf_buf_deinit(&e->ops);
	e->ops = rb->ops;
	rb->ops = (struct nf_buf)NF_BUF_INIT;
	e->nr_ops = rb->a.nr_out;
	e->base_root = leaf->root;
	e->journaled_bytes = 0;
	e->reset = true;
}

/* --- files in memory ------------------------------------------------------------------------------------ */

/* Which inodes have another content now than what we show.  Our own frozen epoch, drained and so immutable, counts as shown:
 * data of ours that comes after it need not be told before. */
static int changed_content(struct nf_vault *v, const struct changes *ch, const struct nf_head *leaf,
			   uint64_t **inos, size_t *nr)
{
	struct nf_view now = { .nodes = v->nodes, .base = leaf->root };
	struct nf_view before = { .nodes = v->nodes, .base = nf_shelf_root(v),
				  .layers = { v->frozen && !v->frozen->aside ? v->frozen->layer : NULL } };
	uint64_t *list = calloc(ch->nr + 1, sizeof *list);
	size_t n = 0;

	if (!list)
		return nf_fail(-ENOMEM);
	for (size_t i = 0; i < ch->nr; i++) {
		struct nf_inode_item a, b;
		struct nf_val va = { 0 }, vb = { 0 };
		if (ch->keys[i].type != NF_ITEM_INODE)
			continue;
		int r = value_of(v, &before, &ch->keys[i], &va);
		if (r == 0 || nf_is_damage(r))
			r = value_of(v, &now, &ch->keys[i], &vb);
		bool differ = r < 0 || !va.p || !vb.p || nf_inode_decode(va.p, va.len, &a) < 0 ||
			      nf_inode_decode(vb.p, vb.len, &b) < 0 ||
			      !nf_stamp_equal(a.stamp, b.stamp) || a.size_bytes != b.size_bytes;
		nf_val_deinit(&va);
		nf_val_deinit(&vb);
		if (r < 0) {
			free(list);
			return r;
		}
		if (differ)
			list[n++] = ch->keys[i].ino;
	}
	*inos = list;
	*nr = n;
	return 0;
}

static void told(struct nf_io *io)
{
	struct nf_vault *v = io->ctx;

	nf_lock_take(&v->ns);
	v->telling--;
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
}

static bool in_memory(const struct nf_vnode *vn) { return vn && !vn->dying && !vn->orphan; }

/* Files of the list that hold data of ours are flushed, so that it is told as made from the old version.  1: some
 * were; 0: none had any.  ALL: also those of which it is not known, because somebody may be writing. */
static int tell_first(struct nf_vault *v, const uint64_t *inos, size_t nr, bool all)
{
	int some = 0;

	for (size_t i = 0; i < nr; i++) {
		struct nf_io io = { .done = told, .ctx = v };
		nf_lock_take(&v->ns);
		struct nf_vnode *vn = nf_vnode_find(v, inos[i]);
		bool holds = in_memory(vn) && (all || nf_is_dirty(&vn->ic) || !nf_avl_empty(&vn->acc));
		if (holds) {
			if (!nf_list_empty(&vn->lru)) {
				nf_list_del(&vn->lru);
				v->nr_closed--;
			}
			vn->refs++;
			v->telling++;
		}
		nf_lock_drop(&v->ns);
		if (!holds)
			continue;
		some = 1;
		io.ic = &vn->ic;
		nf_fsync(&io);
		nf_lock_take(&v->ns);
		while (v->telling)
			nf_cond_wait(&v->changed, &v->ns);
		nf_vnode_put(vn);
		nf_lock_drop(&v->ns);
		if (io.error < 0)
			return io.error;
	}
	return some;
}

/* Writers of these files wait from now on.  True if none is at work and nothing of ours is there: so it stays. */
static bool hold_writers(struct nf_vault *v, const uint64_t *inos, size_t nr)
{
	bool quiet = true;

	for (size_t i = 0; i < nr; i++) {
		struct nf_vnode *vn = nf_vnode_find(v, inos[i]);
		if (in_memory(vn) && (!nf_writers_hold(&vn->ic) || !nf_avl_empty(&vn->acc)))
			quiet = false;
	}
	return quiet;
}

static void release_writers(struct nf_vault *v, const uint64_t *inos, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		struct nf_vnode *vn = nf_vnode_find(v, inos[i]);
		if (vn && !vn->dying) /* one that the new version has no longer is an orphan by now */
			nf_writers_release(&vn->ic);
	}
}

int nf_base_items_find(struct nf_vault *v, const struct nf_ref *root, struct nf_want *w)
{
	for (struct nf_avl_node *n = nf_avl_first(&v->vnodes); n; n = nf_avl_next(n)) {
		struct nf_vnode *vn = nf_container_of(n, struct nf_vnode, node);
		struct nf_key key = nf_key_inode(vn->ino);
		struct nf_val val = { 0 };
		if (vn->orphan || vn->dying)
			continue;
		int r = nf_tree_lookup(v->nodes, root, &key, w, &val);
		if (r < 0 || r == NF_TREE_WANT)
			return r;
		nf_buf_deinit(&vn->next_item);
		if (r == 0)
			nf_buf_bytes(&vn->next_item, val.p, val.len);
		nf_val_deinit(&val);
		if (vn->next_item.failed)
			return nf_fail(-ENOMEM);
	}
	return 0;
}

void nf_base_items_take(struct nf_vault *v)
{
	for (struct nf_avl_node *n = nf_avl_first(&v->vnodes); n; n = nf_avl_next(n)) {
		struct nf_vnode *vn = nf_container_of(n, struct nf_vnode, node);
		if (vn->orphan || vn->dying)
			continue;
		nf_buf_deinit(&vn->base_item);
		vn->base_item = vn->next_item;
		vn->next_item = (struct nf_buf)NF_BUF_INIT;
	}
}

/* Which files are gone in the new state. NF_TREE_WANT possible: nothing is lost by calling again. */
static int find_removed(struct nf_vault *v, const struct nf_view *now, struct nf_want *w)
{
	for (struct nf_avl_node *n = nf_avl_first(&v->vnodes); n; n = nf_avl_next(n)) {
		struct nf_vnode *vn = nf_container_of(n, struct nf_vnode, node);
		struct nf_key key = nf_key_inode(vn->ino);
		struct nf_val val = { 0 };
		vn->removed = false;
		if (vn->orphan || vn->dying)
			continue;
		int r = nf_view_lookup(now, &key, w, &val);
		nf_val_deinit(&val);
		if (r < 0 || r == NF_TREE_WANT)
			return r;
		vn->removed = r == NF_TREE_NONE;
	}
	return 0;
}

/* They live on by the old state while they are open.  Before the exchange, when nothing else can fail but memory. */
static int keep_removed(struct nf_vault *v)
{
	for (struct nf_avl_node *n = nf_avl_first(&v->vnodes); n; n = nf_avl_next(n)) {
		struct nf_vnode *vn = nf_container_of(n, struct nf_vnode, node);
		struct nf_want w = NF_WANT_INIT;
		int r = vn->removed && !vn->orphan && !vn->dying ? nf_vnode_orphan(vn, &w) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- telling ------------------------------------------------------------------------------------------------ */

static void tell_library(struct nf_vault *v, const uint64_t *inos, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		struct nf_want w = NF_WANT_INIT;
		struct nf_val val = { 0 };
		struct nf_inode_item item;
		nf_lock_take(&v->ns);
		struct nf_vnode *vn = nf_vnode_find(v, inos[i]);
		if (vn && !vn->dying && !vn->orphan) {
			/* The item is in a layer or with the file: the tree, which may want a node, is not asked. */
			struct nf_apply a = nf_vault_apply(v, v->current, false);
			if (nf_apply_inode(&a, inos[i], &w, &val, &item) == 0)
				nf_invalidate(&vn->ic, 0, UINT64_MAX, item.size_bytes, item.size_bytes);
		}
		nf_lock_drop(&v->ns);
		nf_val_deinit(&val);
		nf_want_deinit(&w);
	}
}

static void tell_names(struct nf_vault *v, const struct nf_key *key, const struct nf_val *old,
		       const struct nf_val *now)
{
	const struct nf_val *both[2] = { old, now };

	for (int i = 0; i < 2; i++) {
		struct nf_dirent d, other;
		size_t pos = 0;
		while (both[i]->p && nf_dirent_iter(both[i]->p, both[i]->len, &pos, &d) == 0) {
			const struct nf_val *o = both[!i];
			if (o->p && nf_dirent_find(o->p, o->len, d.name, d.name_len, &other) == 0 &&
			    other.ino == d.ino)
				continue;
			v->fs.notify->inval_entry(v->fs.notify_ctx, key->ino, d.name, d.name_len);
		}
	}
	v->fs.notify->inval_inode(v->fs.notify_ctx, key->ino, 0, 0, NULL, NULL);
}

static bool same_value(const struct nf_val *a, const struct nf_val *b)
{
	return !a->p == !b->p && a->len == b->len && (!a->p || !memcmp(a->p, b->p, a->len));
}

/* Tells the kernel of every key whose value was another before. */
static void tell_kernel(struct nf_vault *v, const struct changes *ch, const struct nf_ref *old_root,
			const struct nf_ref *new_root)
{
	struct nf_view before = { .nodes = v->nodes, .base = *old_root };
	struct nf_view now = { .nodes = v->nodes, .base = *new_root };

	if (!v->fs.notify)
		return;
	for (size_t i = 0; i < ch->nr; i++) {
		const struct nf_key *key = &ch->keys[i];
		struct nf_val a = { 0 }, b = { 0 };
		if (key->type != NF_ITEM_DIRENT && key->type != NF_ITEM_INODE && key->type != NF_ITEM_XATTR)
			continue;
		if (value_of(v, &before, key, &a) < 0 || value_of(v, &now, key, &b) < 0) {
			nf_val_deinit(&a);
			nf_val_deinit(&b);
			v->fs.notify->inval_all(v->fs.notify_ctx);
			return;
		}
		if (!same_value(&a, &b)) {
			if (key->type == NF_ITEM_DIRENT)
				tell_names(v, key, &a, &b);
			else
				v->fs.notify->inval_inode(v->fs.notify_ctx, key->ino, -1, 0, NULL, NULL);
		}
		nf_val_deinit(&a);
		nf_val_deinit(&b);
	}
}

/* The kernel drops its pages of INOS; those that keep an old version do so until then. */
static void tell_pages(struct nf_vault *v, const uint64_t *inos, size_t nr)
{
	for (size_t i = 0; v->fs.notify && i < nr; i++) {
		nf_lock_take(&v->ns);
		struct nf_vnode *vn = nf_vnode_find(v, inos[i]);
		bool kept = vn && vn->untold;
		if (kept)
			vn->untold = false;
		nf_lock_drop(&v->ns);
		v->fs.notify->inval_inode(v->fs.notify_ctx, inos[i], 0, 0, kept ? nf_old_version_told : NULL,
					  kept ? vn : NULL);
	}
}

/* --- the exchange -------------------------------------------------------------------------------------------- */

static int remember(struct nf_vault *v, const struct nf_head *leaf)
{
	struct nf_state s = { .base = *leaf };

	if (!v->state_path || v->renewing)
		return 0;
	nf_lock_take(&v->ns);
	memcpy(s.device_id, v->device_id, sizeof s.device_id);
	memcpy(s.writer_id, v->writer_id, sizeof s.writer_id);
	s.writer = v->claiming ? 0 : v->writer;
	s.next_counter = v->next_counter;
	nf_lock_drop(&v->ns);
	/* A mount without the store, after a crash, starts from this base: its nodes must be found in the cache. */
	if (v->cache) {
		nf_cache_sync(v->cache);
		nf_cache_save(v->cache, false);
	}
	return nf_state_save(v, &s);
}

static bool contained(const struct nf_vault *v, const struct nf_epoch *e, const struct nf_head *h)
{
	return e && e->sent && nf_vector_seq(&h->vector, v->writer) >= e->seq;
}

/* The collector may have put what we show elsewhere: from now on it is read there.  0 if so. */
static int move_base(struct nf_vault *v, const struct nf_head *leaf)
{
	struct nf_ref now = v->base.root;

	int r = nf_base_now(v, &leaf->root, &now);
	if (r)
		return r;
	nf_lock_take(&v->ns);
	v->base.root = now;
	nf_lock_drop(&v->ns);
	return 0;
}

/* The frozen epoch's head is in the base now. */
static void frozen_is_published(struct nf_vault *v)
{
	NF_ASSERT(nf_lock_held(&v->ns));
	nf_shelf_drop(v, v->frozen->seq);
	/* Until it is reported what it holds may have to be sent again (G5). */
	nf_layer_free(v->frozen->layer);
	v->frozen->layer = NULL;
	v->frozen->next = v->unreported;
	v->unreported = v->frozen;
	/* Marked since then is what the next commit writes. */
	v->nr_touched -= v->frozen->nr_touched;
	if (v->nr_touched)
		memmove(v->touched, v->touched + v->frozen->nr_touched, v->nr_touched * sizeof *v->touched);
	v->frozen = NULL;
	v->commits++;
	nf_count(NF_C_COMMITS, 1);
}

/* The keys that CH is about, each once. */
static void unique(struct changes *ch)
{
	size_t nr = 0;

	if (ch->nr)
		qsort(ch->keys, ch->nr, sizeof *ch->keys, cmp_keys);
	for (size_t i = 0; i < ch->nr; i++)
		if (nr == 0 || nf_key_cmp(&ch->keys[nr - 1], &ch->keys[i]))
			ch->keys[nr++] = ch->keys[i];
	ch->nr = nr;
}

/* Takes over LEAF while some of what the view has is still shelved: the base for what is to be published follows, the view
 * does not.  What others changed is noted for the time when it does. */
static int adopt_aside(struct nf_vault *v, const struct nf_head *leaf, bool ours, bool same_line)
{
	struct changes ch = { .v = v };
	struct rebased f = { 0 };
	struct nf_head base = { 0 }, old = { 0 };

	int r = nf_head_copy(&base, leaf);
	if (r == 0 && !same_line)
		r = nf_tree_diff(&v->src, &v->base.root, &leaf->root, note_change, &ch);
	if (nf_is_damage(r)) {
		/* A collector has put it elsewhere; which keys it was about is found out in the end. */
		v->shelf_unsure = true;
		r = 0;
	}
	if (r == 0)
		r = nf_shelf_note_keys(v, ch.keys, ch.nr);
	if (r == 0 && !ours)
		r = rebased_init(v, &f, v->frozen, leaf, NULL);
	if (r == 0)
		r = rebased_run(v, &f);
	if (r == 0 && f.layer)
		r = nf_shelf_note_layer(v, f.layer);
	if (r == 0)
		r = remember(v, leaf);
	if (r == 0) {
		nf_lock_take(&v->ns);
		while (v->journaling)
			nf_cond_wait(&v->changed, &v->ns);
		rebased_take(v, &f, leaf);
		old = v->base;
		v->base = base;
		base = (struct nf_head){ 0 };
		if (ours)
			frozen_is_published(v);
		nf_cond_broadcast(&v->changed);
		nf_lock_drop(&v->ns);
	}
	nf_trace(COMMIT, "adopt aside seq=%" PRIu64 " ours=%d changed=%zu err=%s", leaf->id.seq, ours, ch.nr,
		 nf_error_name(r));
	rebased_deinit(&f);
	nf_head_deinit(&base);
	nf_head_deinit(&old);
	free(ch.keys);
	return r;
}

/* Keys whose value is, or may be, another in LEAF's tree than in the view. */
static int find_changes(struct nf_vault *v, const struct nf_head *leaf, struct changes *ch)
{
	struct nf_ref root = nf_shelf_root(v);

	if (v->nr_shelf && !v->shelf_unsure) {
		for (size_t i = 0; i < v->nr_shelf_keys; i++) {
			int r = note_change(ch, &v->shelf_keys[i], NULL, NULL);
			if (r < 0)
				return r;
		}
		root = v->base.root;
	}
	size_t noted = ch->nr;
	int r = nf_tree_diff(&v->src, &root, &leaf->root, note_change, ch);
	if (nf_is_damage(r) && !v->nr_shelf && move_base(v, leaf) == 0) {
		ch->nr = noted;
		root = v->base.root;
		r = nf_tree_diff(&v->src, &root, &leaf->root, note_change, ch);
	}
	/* Nodes were lost, and somebody has mended the tree. */
	if (nf_is_damage(r)) {
		ch->nr = noted;
		ch->unsure = true;
		r = nf_tree_diff_lossy(&v->src, &root, &leaf->root, note_change, ch);
	}
	unique(ch);
	return r;
}

int nf_adopt(struct nf_vault *v, const struct nf_head *leaf)
{
	struct changes ch = { .v = v };
	struct rebased f = { 0 }, c = { 0 };
	struct nf_head base = { 0 }, old = { 0 };
	struct nf_want w = NF_WANT_INIT;
	uint64_t *inos = NULL;
	size_t nr = 0;
	bool ours = contained(v, v->frozen, leaf);
	/* Our own head, nobody else's with it: what the view shows does not change. */
	bool same_view = ours && leaf->nr_parents == 1 && leaf->writer == v->writer &&
			 leaf->writer_seq == v->frozen->seq && !v->frozen->mended &&
			 !memcmp(leaf->parents[0].tag, v->base.id.tag, sizeof v->base.id.tag);

	if (v->nr_shelf && v->shelf[v->nr_shelf - 1].seq > (ours ? v->frozen->seq : 0))
		return adopt_aside(v, leaf, ours, same_view);
	struct nf_ref root = nf_shelf_root(v);
	same_view = same_view && !v->nr_shelf_keys && !v->shelf_unsure;
	int r = nf_head_copy(&base, leaf);
	if (r == 0 && !same_view) {
		if (leaf->meta_len_bytes)
			(void)nf_fetch_warm(v->fetch, &leaf->meta_pack, leaf->meta_offset_bytes,
					    leaf->meta_len_bytes); /* nodes are fetched singly then */
		r = find_changes(v, leaf, &ch);
		if (r == 0)
			r = changed_content(v, &ch, leaf, &inos, &nr);
	}
	for (int round = 0; r == 0 && nr && v->current && round < ROUNDS_UNHELD; round++) {
		r = tell_first(v, inos, nr, false);
		if (r == 0)
			break;
		r = r < 0 ? r : 0;
	}
	if (r == 0 && !same_view && !ours)
		r = rebased_init(v, &f, v->frozen, leaf, NULL);
	if (r == 0)
		r = rebased_run(v, &f);
	if (r == 0 && !same_view)
		r = rebased_init(v, &c, v->current, leaf, f.layer);
	if (r == 0)
		r = rebased_run(v, &c);
	if (r == 0)
		r = remember(v, leaf);
	if (r < 0)
		goto out;
	/* Nobody appends to the journal while operations change their form. */
	nf_lock_take(&v->ns);
	while (v->journaling)
		nf_cond_wait(&v->changed, &v->ns);
	v->journaling = true;
	uint64_t told_until = nf_clock_ns() + TOLD_WAIT_MS * 1000000ull;
	for (int round = 0;;) {
		struct nf_view now = { .nodes = v->nodes, .base = leaf->root, .layers = { c.layer, f.layer } };
		if (same_view)
			now.layers[0] = v->current ? v->current->layer : NULL;
		w.nr = 0;
		r = rebased_tail(v, &c, &w);
		if (r == 0)
			r = nf_base_items_find(v, &leaf->root, &w);
		if (r == 0 && !same_view)
			r = find_removed(v, &now, &w);
		/* Neither the kernel, whose pages may be behind a writer that is held, nor the store is waited for with
		 * writers held: only for our own journal. */
		if (r == 0 && nf_old_versions_any(v, inos, nr)) {
			release_writers(v, inos, nr);
			if (nf_cond_wait_until(&v->changed, &v->ns, told_until))
				continue;
		}
		bool again = r == 0 && !hold_writers(v, inos, nr) && round < ROUNDS_MAX;
		if (r == 0 && !again) {
			r = same_view ? 0 : keep_removed(v);
			if (r == 0)
				r = nf_old_versions_keep(v, inos, nr);
			break;
		}
		if (r == NF_TREE_WANT)
			release_writers(v, inos, nr);
		nf_lock_drop(&v->ns);
		if (r == NF_TREE_WANT)
			r = v->src.load(v->src.ctx, &w);
		else if (again && ++round)
			r = tell_first(v, inos, nr, true);
		nf_lock_take(&v->ns);
		if (r < 0)
			break;
	}
	if (r == 0) {
		rebased_take(v, &f, leaf);
		rebased_take(v, &c, leaf);
		nf_base_items_take(v);
		old = v->base;
		v->base = base;
		base = (struct nf_head){ 0 };
		if (ours) {
			for (struct nf_avl_node *n = nf_avl_first(&v->vnodes); n; n = nf_avl_next(n))
				nf_container_of(n, struct nf_vnode, node)->cut_group = 0;
			frozen_is_published(v);
			if (v->current && same_view) {
				v->current->base_root = leaf->root;
				v->current->new_base = v->current->journaled_bytes > 0;
			}
		}
		v->have_news++;
	}
	v->journaling = false;
	nf_cond_broadcast(&v->changed);
	if (r < 0)
		release_writers(v, inos, nr);
	nf_lock_drop(&v->ns);
	if (r == 0 && !same_view) {
		tell_library(v, inos, nr);
		nf_lock_take(&v->ns);
		release_writers(v, inos, nr);
		nf_lock_drop(&v->ns);
		tell_kernel(v, &ch, &root, &leaf->root);
		tell_pages(v, inos, nr);
		/* Names that moved out of the way, removals undone: no difference of trees tells of them. */
		if (v->fs.notify && (ch.unsure || f.a.conflicts + c.a.conflicts > 0))
			v->fs.notify->inval_all(v->fs.notify_ctx);
	}
	nf_trace(COMMIT, "adopt seq=%" PRIu64 " ours=%d changed=%zu err=%s", leaf->id.seq, ours, ch.nr,
		 nf_error_name(r));
out:
	nf_want_deinit(&w);
	rebased_deinit(&f);
	rebased_deinit(&c);
	nf_head_deinit(&base);
	nf_head_deinit(&old);
	free(inos);
	free(ch.keys);
	return r;
}
