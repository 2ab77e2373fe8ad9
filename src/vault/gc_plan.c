/* vault/gc_plan.c - what stands in the packs that are to be emptied, and is it worth it?
 *
 *   collect   each kept tree, newest first, shared nodes once: objects in the packs; nodes that lead to them
 *   match     the same nodes again: what stands in another pack as well need not be copied, nor, perhaps, what was sealed again
 *   choose    a pack of which too much would have to be copied stays as it is, unless what it holds is under older keys
 */
#include "base/error.h"
#include "base/mem.h"
#include "vault/gc_work.h"

/* --- tables ------------------------------------------------------------------------------ */

static int cmp_birth(const void *key, const struct nf_avl_node *n)
{
	const struct nf_gc_object *a = key, *b = nf_container_of(n, const struct nf_gc_object, node);

	if (a->id.type != b->id.type)
		return a->id.type < b->id.type ? -1 : 1;
	if (a->id.birth != b->id.birth)
		return a->id.birth < b->id.birth ? -1 : 1;
	return a->id.index < b->id.index ? -1 : a->id.index > b->id.index;
}

static int cmp_object(const void *key, const struct nf_avl_node *n)
{
	const struct nf_gc_object *a = key, *b = nf_container_of(n, const struct nf_gc_object, node);
	const struct nf_sealed_info *x = &a->from.info, *y = &b->from.info;
	int c = cmp_birth(key, n);

	if (c == 0)
		c = memcmp(x->tag, y->tag, sizeof x->tag);
	if (c)
		return c;
	if (x->epoch != y->epoch)
		return x->epoch < y->epoch ? -1 : 1;
	return x->sealed_len < y->sealed_len ? -1 : x->sealed_len > y->sealed_len;
}

static int cmp_node(const void *key, const struct nf_avl_node *n)
{
	const struct nf_ref *ref = key;
	const struct nf_gc_node *b = nf_container_of(n, const struct nf_gc_node, node);
	int c = memcmp(&ref->pack, &b->pack, sizeof b->pack);

	return c ? c : ref->offset_bytes < b->offset_bytes ? -1 : ref->offset_bytes > b->offset_bytes;
}

struct nf_gc_node *nf_gc_node_find(const struct nf_gc_work *w, const struct nf_ref *ref)
{
	struct nf_avl_node *n = nf_avl_find(&w->nodes, ref, cmp_node);

	return n ? nf_container_of(n, struct nf_gc_node, node) : NULL;
}

static struct nf_gc_object *find_object(const struct nf_gc_work *w, const struct nf_gc_object *key)
{
	struct nf_avl_node *n = nf_avl_find(&w->objects, key, cmp_object);

	return n ? nf_container_of(n, struct nf_gc_object, node) : NULL;
}

static struct nf_gc_object of_block(const struct nf_block_ref *b, uint32_t block_bytes)
{
	struct nf_gc_object o = { .id = { .type = NF_SEAL_BLOCK, .birth = b->birth, .index = b->index },
				  .plain_len = b->plain_len, .block_bytes = block_bytes,
				  .from = { b->pack, b->offset_bytes, { b->sealed_len, b->epoch, b->flags, { 0 } } } };

	memcpy(o.from.info.tag, b->tag, sizeof b->tag);
	return o;
}

static struct nf_gc_object of_delta(const struct nf_gc_delta *d)
{
	const struct nf_ref *ref = &d->delta;
	struct nf_gc_object o = { .id = { .type = NF_SEAL_DELTA, .birth = d->key.b, .index = (uint32_t)d->key.a },
				  .plain_len = ref->plain_len,
				  .from = { ref->pack, ref->offset_bytes, { ref->sealed_len, ref->epoch, ref->flags, { 0 } } } };

	memcpy(o.from.info.tag, ref->tag, sizeof ref->tag);
	return o;
}

static int add_object(struct nf_gc_work *w, const struct nf_gc_object *key)
{
	if (!nf_gc_goes(w, &key->from.pack) || find_object(w, key))
		return 0;
	struct nf_gc_object *o = malloc(sizeof *o);
	if (!o)
		return nf_fail(-ENOMEM);
	*o = *key;
	(void)nf_avl_add(&w->objects, o, cmp_object, &o->node); /* it was not there */
	*w->last = o;
	w->last = &o->next;
	return 0;
}

bool nf_gc_placed(const struct nf_gc_work *w, struct nf_block_ref *ref)
{
	struct nf_gc_object key = of_block(ref, 0);
	struct nf_gc_object *o = nf_gc_goes(w, &ref->pack) ? find_object(w, &key) : NULL;

	if (!o || o->state != NF_GC_PLACED)
		return false;
	ref->pack = o->to.pack;
	ref->offset_bytes = o->to.offset_bytes;
	ref->sealed_len = o->to.info.sealed_len;
	ref->epoch = o->to.info.epoch;
	ref->flags = o->to.info.flags;
	memcpy(ref->tag, o->to.info.tag, sizeof ref->tag);
	return true;
}

bool nf_gc_delta_placed(const struct nf_gc_work *w, const struct nf_gc_delta *d, struct nf_ref *now)
{
	struct nf_gc_object key = of_delta(d);
	struct nf_gc_object *o = nf_gc_goes(w, &d->delta.pack) ? find_object(w, &key) : NULL;

	if (!o || o->state != NF_GC_PLACED)
		return false;
	*now = d->delta;
	now->pack = o->to.pack;
	now->offset_bytes = o->to.offset_bytes;
	now->sealed_len = o->to.info.sealed_len;
	now->epoch = o->to.info.epoch;
	now->flags = o->to.info.flags;
	memcpy(now->tag, o->to.info.tag, sizeof now->tag);
	return true;
}

void nf_gc_work_deinit(struct nf_gc_work *w)
{
	struct nf_avl_node *n;

	while ((n = w->objects.root)) {
		nf_avl_erase(&w->objects, n);
		free(nf_container_of(n, struct nf_gc_object, node));
	}
	while ((n = w->nodes.root)) {
		struct nf_gc_node *g = nf_container_of(n, struct nf_gc_node, node);
		nf_avl_erase(&w->nodes, n);
		free(g->now);
		free(g);
	}
	if (w->codec)
		nf_codec_put(w->codec);
}

/* --- collecting ---------------------------------------------------------------------------- */

static int block_bytes_of(struct nf_gc_work *w, uint64_t ino)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_want want = NF_WANT_INIT;
	struct nf_val val = { 0 };
	struct nf_inode_item item;
	int r;

	while ((r = nf_tree_lookup(w->m.src->nodes, w->tree, &key, &want, &val)) == NF_TREE_WANT) {
		r = w->m.src->load(w->m.src->ctx, &want);
		if (r < 0)
			break;
		want.nr = 0;
	}
	nf_want_deinit(&want);
	if (r == 0)
		r = nf_inode_decode(val.p, val.len, &item);
	nf_val_deinit(&val);
	if (r)
		return r < 0 ? r : nf_fail(-NF_E_TREE_BAD);
	w->ino = ino;
	w->block_bytes = 1u << item.block_shift;
	return 0;
}

int nf_gc_step(struct nf_gc_work *w, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_inode_item item;

	if (key->type == NF_ITEM_INODE) {
		int r = nf_inode_decode(val->p, val->len, &item);
		if (r < 0)
			return r;
		w->ino = key->ino;
		w->block_bytes = 1u << item.block_shift;
	}
	return key->type == NF_ITEM_EXTENT && key->ino != w->ino ? block_bytes_of(w, key->ino) : 0;
}

static int collect_item(struct nf_gc_work *w, const struct nf_key *key, const struct nf_val *val, bool *touched)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref = { 0 };

	int r = nf_gc_step(w, key, val);
	if (r < 0 || key->type != NF_ITEM_EXTENT)
		return r;
	r = nf_gc_window(w->m.src, val, w->block_bytes, &ref, refs);
	if (r == 0 && !nf_ref_is_null(&ref.leaf) && nf_gc_goes(w, &ref.leaf.pack))
		*touched = true;
	for (int b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++) {
		if (!refs[b].sealed_len || !nf_gc_goes(w, &refs[b].pack))
			continue;
		struct nf_gc_object o = of_block(&refs[b], w->block_bytes);
		r = add_object(w, &o);
		*touched = true;
	}
	return r;
}

static int collect(struct nf_gc_work *w, const struct nf_ref *ref, bool *touched);

static int collect_below(struct nf_gc_work *w, struct nf_node *node, bool *touched)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		if (node->ref.level) {
			struct nf_ref child;
			nf_node_child(node, i, &child);
			r = child.level + 1 == node->ref.level ? collect(w, &child, touched) : nf_fail(-NF_E_TREE_BAD);
		} else {
			struct nf_key key;
			struct nf_val val;
			nf_key_decode(nf_node_key(node, i), &key);
			nf_node_borrow(node, i, &val);
			r = collect_item(w, &key, &val, touched);
		}
	}
	return r;
}

/* A node is noted once everything below it was seen. */
static int collect(struct nf_gc_work *w, const struct nf_ref *ref, bool *touched)
{
	struct nf_gc_node *known = nf_gc_node_find(w, ref);
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;
	bool mine = nf_gc_goes(w, &ref->pack);

	if (known) {
		*touched |= known->touched;
		return 0;
	}
	int r = nf_gc_goes_on(&w->m.pace);
	if (r < 0)
		return r;
	r = nf_source_get(w->m.src, ref, NULL, NULL, &node);
	if (nf_is_damage(r) && w->m.tolerant)
		return 0;
	if (r == 0)
		r = collect_below(w, node, &mine);
	struct nf_gc_node *g = r == 0 ? calloc(1, sizeof *g) : NULL;
	if (!g)
		return r < 0 ? r : nf_fail(-ENOMEM);
	g->pack = ref->pack;
	g->offset_bytes = ref->offset_bytes;
	g->touched = mine;
	(void)nf_avl_add(&w->nodes, ref, cmp_node, &g->node); /* no tree holds a node below itself */
	*touched |= mine;
	struct nf_pack_entry *e = nf_pack_set_find(w->m.from, &ref->pack);
	if (e)
		e->most_bytes += ref->sealed_len;
	return 0;
}

/* --- matching -------------------------------------------------------------------------------- */

static void match_block(struct nf_gc_work *w, const struct nf_block_ref *ref)
{
	struct nf_gc_object key = of_block(ref, 0);

	if (nf_gc_goes(w, &ref->pack))
		return;
	struct nf_gc_object *o = find_object(w, &key);
	if (o && o->state == NF_GC_COPY) {
		o->state = NF_GC_PLACED;
		o->to = key.from;
	}
	if (o)
		return;
	/* Of the same birth, and newer: whether it is the same is seen when it is opened. */
	struct nf_avl_node *n = nf_avl_find(&w->objects, &key, cmp_birth);
	o = n ? nf_container_of(n, struct nf_gc_object, node) : NULL;
	if (o && o->from.info.epoch < ref->epoch && o->twin.info.epoch < ref->epoch)
		o->twin = key.from;
}

static int match(struct nf_gc_work *w, const struct nf_ref *ref)
{
	struct nf_gc_node *known = nf_gc_node_find(w, ref);
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];

	if (!known || known->matched)
		return 0;
	known->matched = true;
	int r = nf_source_get(w->m.src, ref, NULL, NULL, &node);
	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		struct nf_extent_ref whole = { 0 };
		struct nf_key key;
		struct nf_val val;
		if (ref->level) {
			struct nf_ref child;
			nf_node_child(node, i, &child);
			r = match(w, &child);
			continue;
		}
		nf_key_decode(nf_node_key(node, i), &key);
		if (key.type != NF_ITEM_EXTENT)
			continue;
		nf_node_borrow(node, i, &val);
		r = nf_gc_window(w->m.src, &val, 1u << NF_BLOCK_SHIFT_MAX, &whole, refs);
		for (int b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++)
			if (refs[b].sealed_len)
				match_block(w, &refs[b]);
	}
	return r;
}

/* --- choosing -------------------------------------------------------------------------------------- */

/* What would have to be copied of each pack, or written anew. */
static void choose(struct nf_gc_work *w)
{
	for (struct nf_gc_object *o = w->first; o; o = o->next) {
		struct nf_pack_entry *e = nf_pack_set_find(w->m.from, &o->from.pack);
		if (o->state == NF_GC_COPY)
			e->most_bytes += o->from.info.sealed_len;
	}
	for (struct nf_pack_entry *e = nf_pack_set_first(w->m.from), *next; e; e = next) {
		next = nf_pack_set_next(e);
		if (!e->condemned && e->most_old_bytes <= 0 && w->m.percent &&
		    (uint64_t)e->most_bytes * 100 >= e->size_bytes * w->m.percent)
			nf_pack_set_remove(w->m.from, &e->id);
	}
	for (struct nf_gc_object *o = w->first; o; o = o->next) {
		if (o->state == NF_GC_COPY && !nf_gc_goes(w, &o->from.pack)) {
			o->state = NF_GC_PLACED;
			o->to = o->from;
		}
		if (o->state == NF_GC_COPY && !o->twin.info.sealed_len)
			w->r.bytes += o->from.info.sealed_len;
	}
}

static int each_tree(struct nf_gc_work *w, int (*fn)(struct nf_gc_work *w, const struct nf_ref *root))
{
	int r = fn(w, w->m.leaf);

	for (size_t i = w->m.nr_roots; r == 0 && i-- > 0;) {
		struct nf_gc_root *root = &w->m.roots[i];
		if (!root->kept || root->broken || !root->key.type || nf_ref_is_null(&root->root))
			continue;
		r = fn(w, &root->root);
		/* Its packs stay as they are, so it is not there for us. */
		if (nf_is_damage(r)) {
			root->broken = true;
			r = 0;
		}
	}
	return r;
}

static int collect_tree(struct nf_gc_work *w, const struct nf_ref *root)
{
	bool touched = false;

	w->tree = root;
	w->ino = 0;
	return nf_ref_is_null(root) ? 0 : collect(w, root, &touched);
}

static int match_tree(struct nf_gc_work *w, const struct nf_ref *root)
{
	return nf_ref_is_null(root) ? 0 : match(w, root);
}

int nf_gc_plan(struct nf_gc_work *w)
{
	w->last = &w->first;
	for (struct nf_pack_entry *e = nf_pack_set_first(w->m.from); e; e = nf_pack_set_next(e))
		e->most_bytes = 0;
	int r = each_tree(w, collect_tree);
	for (size_t i = 0; r == 0 && i < w->m.nr_deltas; i++) {
		struct nf_gc_object o = of_delta(&w->m.deltas[i]);
		if (w->m.deltas[i].kept)
			r = add_object(w, &o);
	}
	if (r == 0 && w->first)
		r = each_tree(w, match_tree);
	if (r == 0)
		choose(w);
	return r;
}
