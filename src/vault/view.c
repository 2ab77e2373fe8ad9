/* Views: the merge of layers and base.  Each source has a place of its own; the smallest key of all is
 * decided by the newest source that says something of it.  A mark moves everything below its layer behind what it
 * removes at once; single removals cost a step each, inside the leaf. */
#include "vault/layer_priv.h"
#include "vault/node.h"

#include "base/error.h"
#include "base/mem.h"

static int copy_value(const void *value, size_t len, struct nf_val *out)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy)
		return nf_fail(-ENOMEM);
	if (len)
		memcpy(copy, value, len);
	*out = (struct nf_val){ .p = copy, .len = len, .owned = copy };
	return 0;
}

int nf_view_lookup(const struct nf_view *v, const struct nf_key *key, struct nf_want *w,
		   struct nf_val *out)
{
	for (unsigned i = 0; i < NF_VIEW_LAYERS; i++) {
		const void *value;
		size_t len;
		int r = v->layers[i] ? nf_layer_get(v->layers[i], key, &value, &len) : NF_TREE_NONE;
		if (r == 0)
			return copy_value(value, len, out);
		if (r == NF_LAYER_GONE)
			return NF_TREE_NONE;
	}
	return nf_tree_lookup(v->nodes, &v->base, key, w, out);
}

struct merge {
	const struct nf_view *v;
	struct nf_want *w;
	const struct nf_key *to;
	const struct nf_layer_entry *at[NF_VIEW_LAYERS]; /* NULL: none left in the range */
	const struct nf_layer_mark *marks[NF_VIEW_LAYERS]; /* of mark_ino */
	uint64_t mark_ino;
	bool marks_known;
	struct nf_node *leaf; /* NULL: the base has none left */
	unsigned index;
	struct nf_key base_key;
};

static void merge_deinit(struct merge *m) { nf_node_put(m->leaf); }

static void layer_seek(struct merge *m, unsigned i, const struct nf_key *from)
{
	const struct nf_layer_entry *e = m->v->layers[i] ? nf_layer_lower(m->v->layers[i], from) : NULL;

	m->at[i] = e && nf_key_cmp(&e->key, m->to) < 0 ? e : NULL;
}

static void layer_step(struct merge *m, unsigned i)
{
	struct nf_avl_node *n = nf_avl_next(&m->at[i]->node);
	const struct nf_layer_entry *e = n ? nf_container_of(n, const struct nf_layer_entry, node) : NULL;

	m->at[i] = e && nf_key_cmp(&e->key, m->to) < 0 ? e : NULL;
}

static int base_seek(struct merge *m, const struct nf_key *from)
{
	uint8_t f[NF_KEY_ENCODED], t[NF_KEY_ENCODED];
	struct nf_node *leaf;

	nf_key_encode(from, f);
	nf_key_encode(m->to, t);
	int r = nf_tree_seek(m->v->nodes, &m->v->base, f, t, m->w, &leaf, &m->index);
	if (r < 0 || r == NF_TREE_WANT)
		return r;
	nf_node_put(m->leaf);
	m->leaf = r == 0 ? leaf : NULL;
	if (m->leaf)
		nf_key_decode(nf_node_key(leaf, m->index), &m->base_key);
	return 0;
}

/* The key right behind K. */
static struct nf_key key_after(const struct nf_key *k)
{
	struct nf_key n = *k;

	if (++n.b == 0 && ++n.a == 0 && ++n.type == 0)
		++n.ino;
	return n;
}

static int base_step(struct merge *m)
{
	if (m->index + 1U < m->leaf->body.nr) {
		struct nf_key k;
		nf_key_decode(nf_node_key(m->leaf, ++m->index), &k);
		m->base_key = k;
		if (nf_key_cmp(&k, m->to) >= 0) {
			nf_node_put(m->leaf);
			m->leaf = NULL;
		}
		return 0;
	}
	struct nf_key from = key_after(&m->base_key);
	return base_seek(m, &from);
}

/* Moves layers from FIRST on and the base behind the removed range that ends at END. */
static int jump(struct merge *m, unsigned first, const struct nf_key *end)
{
	for (unsigned i = first; i < NF_VIEW_LAYERS; i++)
		if (m->at[i] && nf_key_cmp(&m->at[i]->key, end) < 0)
			layer_seek(m, i, end);
	return m->leaf && nf_key_cmp(&m->base_key, end) < 0 ? base_seek(m, end) : 0;
}

static void find_marks(struct merge *m, uint64_t ino)
{
	if (m->marks_known && m->mark_ino == ino)
		return;
	for (unsigned i = 0; i < NF_VIEW_LAYERS; i++)
		m->marks[i] = m->v->layers[i] ? nf_layer_mark_of(m->v->layers[i], ino) : NULL;
	m->mark_ino = ino;
	m->marks_known = true;
}

static bool smallest(const struct merge *m, struct nf_key *key)
{
	bool any = m->leaf != NULL;

	if (any)
		*key = m->base_key;
	for (unsigned i = 0; i < NF_VIEW_LAYERS; i++) {
		if (m->at[i] && (!any || nf_key_cmp(&m->at[i]->key, key) < 0)) {
			*key = m->at[i]->key;
			any = true;
		}
	}
	return any;
}

/* Leaves KEY behind in every source. */
static int pass(struct merge *m, const struct nf_key *key)
{
	for (unsigned i = 0; i < NF_VIEW_LAYERS; i++)
		if (m->at[i] && nf_key_cmp(&m->at[i]->key, key) == 0)
			layer_step(m, i);
	return m->leaf && nf_key_cmp(&m->base_key, key) == 0 ? base_step(m) : 0;
}

/* Decides KEY: 0 with its value, NF_TREE_NONE if it is removed (and passed). */
static int decide(struct merge *m, const struct nf_key *key, struct nf_val *out)
{
	find_marks(m, key->ino);
	for (unsigned i = 0; i < NF_VIEW_LAYERS; i++) {
		int r = 0;
		if (m->at[i] && nf_key_cmp(&m->at[i]->key, key) == 0) {
			if (m->at[i]->value)
				return copy_value(m->at[i]->value, m->at[i]->len, out);
			r = pass(m, key);
		} else if (nf_layer_mark_covers(m->marks[i], key)) {
			struct nf_key end = nf_layer_mark_end(m->marks[i]);
			r = jump(m, i + 1, &end);
		} else {
			continue;
		}
		return r ? r : NF_TREE_NONE;
	}
	nf_node_borrow(m->leaf, m->index, out);
	out->pin = nf_steal(&m->leaf);
	return 0;
}

int nf_view_next(const struct nf_view *v, const struct nf_key *from, const struct nf_key *to,
		 struct nf_want *w, struct nf_key *key_out, struct nf_val *out)
{
	nf_auto(merge_deinit) struct merge m = { .v = v, .w = w, .to = to };
	struct nf_key key;

	for (unsigned i = 0; i < NF_VIEW_LAYERS; i++)
		layer_seek(&m, i, from);
	int r = base_seek(&m, from);
	if (r)
		return r;
	do {
		if (!smallest(&m, &key))
			return NF_TREE_NONE;
		r = decide(&m, &key, out);
	} while (r == NF_TREE_NONE);
	if (r == 0)
		*key_out = key;
	return r;
}
