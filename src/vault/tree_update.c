/* Batch updates: the old tree is gone through from left to right as far as the batch touches it and
 * copied into a builder.  A node is opened (its children handed to the builder one by one) only when something
 * below it really changes: until then its children so far are merely counted.
 *
 *     node      [ a   b   c   d   e ]
 *                 |   |   |   |   |
 *                same same ^ changes: now a and b are linked, then c's items go to the builder
 *                              d, e: linked when their turn comes
 */
#include "vault/tree_build.h"

#include "base/assert.h"
#include "base/error.h"
#include "vault/item.h"

struct update {
	struct nf_node_source *src;
	struct nf_builder b;
	const struct nf_change *changes;
	const struct nf_cutout *cuts;
	size_t nr, nr_cuts;
	bool changed;
};

/* An inner node on the way down. */
struct frame {
	struct frame *parent;
	struct nf_node *node;
	unsigned at; /* the child looked at */
	bool opened;
};

static int open_frame(struct update *u, struct frame *f)
{
	if (!f) {
		u->changed = true;
		return 0;
	}
	if (f->opened)
		return 0;
	int r = open_frame(u, f->parent);
	f->opened = true;
	for (unsigned i = 0; r == 0 && i < f->at; i++) {
		struct nf_ref child;
		nf_node_child(f->node, i, &child);
		r = nf_builder_link(&u->b, nf_node_key(f->node, i), &child);
	}
	return r;
}

/* The first of changes [c, end) with a key at or behind the encoded KEY (NULL: behind all). */
static size_t changes_before(const struct update *u, size_t c, size_t end, const uint8_t *key)
{
	struct nf_key k;

	if (!key)
		return end;
	nf_key_decode(key, &k);
	while (c < end) {
		size_t mid = c + (end - c) / 2;
		if (nf_key_cmp(&u->changes[mid].key, &k) < 0)
			c = mid + 1;
		else
			end = mid;
	}
	return c;
}

/* The first cut that ends behind KEY. */
static size_t cut_at(const struct update *u, const struct nf_key *key)
{
	size_t lo = 0, hi = u->nr_cuts;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (nf_key_cmp(&u->cuts[mid].to, key) <= 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

enum cover { COVER_NONE, COVER_PART, COVER_WHOLE };

/* How much of [lo, hi) the cuts take; HI may be NULL: unbounded. */
static enum cover cover_of(const struct update *u, const uint8_t *lo, const uint8_t *hi)
{
	struct nf_key l, h;

	nf_key_decode(lo, &l);
	size_t i = cut_at(u, &l);
	if (i == u->nr_cuts)
		return COVER_NONE;
	const struct nf_cutout *c = &u->cuts[i];
	/* No key is of the last inode number: a cut that ends there takes all that is left. */
	if (!hi)
		return nf_key_cmp(&c->from, &l) <= 0 && c->to.ino == UINT64_MAX ? COVER_WHOLE : COVER_PART;
	nf_key_decode(hi, &h);
	if (nf_key_cmp(&c->from, &h) >= 0)
		return COVER_NONE;
	return nf_key_cmp(&c->from, &l) <= 0 && nf_key_cmp(&h, &c->to) <= 0 ? COVER_WHOLE : COVER_PART;
}

static int put_changes(struct update *u, size_t c, size_t end)
{
	int r = 0;

	for (; r == 0 && c < end; c++)
		if (u->changes[c].value)
			r = nf_builder_put(&u->b, &u->changes[c].key, u->changes[c].value, u->changes[c].len);
	return r;
}

/* --- leaves ------------------------------------------------------------------------- */

/* True if item I of LEAF already has the change's value (as it would be written into another pack). */
static int same_value(const struct nf_node *leaf, unsigned i, const struct nf_change *c, bool *same)
{
	nf_auto(nf_buf_deinit) struct nf_buf now = NF_BUF_INIT;
	size_t len;
	const uint8_t *value = nf_node_value(leaf, i, &len);

	*same = false;
	if (len != c->len)
		return 0;
	int r = nf_item_rebase(c->key.type, value, len, &leaf->ref.pack, &now);
	if (r == 0)
		*same = len == 0 || memcmp(now.p, c->value, len) == 0;
	return r;
}

/* Merges the leaf's items with changes [c, end).  Without PUT only says whether something changes. */
static int merge_leaf(struct update *u, const struct nf_node *leaf, size_t c, size_t end, bool put,
		      bool *changes)
{
	unsigned i = 0;
	int r = 0;

	while (r == 0 && (i < leaf->body.nr || c < end)) {
		const struct nf_change *ch = c < end ? &u->changes[c] : NULL;
		bool kept = false, same = false, has_old = i < leaf->body.nr;
		int cmp = has_old ? -1 : 1;

		if (has_old) {
			struct nf_key key;
			nf_key_decode(nf_node_key(leaf, i), &key);
			if (ch)
				cmp = nf_key_cmp(&key, &ch->key);
			size_t cut = cut_at(u, &key);
			kept = cut == u->nr_cuts || nf_key_cmp(&u->cuts[cut].from, &key) > 0;
		}
		if (cmp == 0 && ch->value && !ch->rewrite)
			r = same_value(leaf, i, ch, &same);
		if (r < 0)
			break;
		/* One of three: the old item stays, the change's value takes its place, nothing does. */
		bool stays = cmp < 0 ? kept : same;
		bool news = cmp >= 0 && ch->value && !same;
		if (!put) {
			*changes = news || (cmp <= 0 && !stays);
			if (*changes)
				break;
		} else if (stays) {
			r = nf_builder_keep(&u->b, leaf, i);
		} else if (news) {
			r = nf_builder_put(&u->b, &ch->key, ch->value, ch->len);
		}
		i += cmp <= 0;
		c += cmp >= 0;
	}
	return r;
}

static int update_leaf(struct update *u, struct frame *parent, struct nf_node *leaf, size_t c, size_t end,
		       bool *changed)
{
	int r = merge_leaf(u, leaf, c, end, false, changed);

	if (r < 0 || !*changed)
		return r;
	r = open_frame(u, parent);
	if (r == 0)
		r = merge_leaf(u, leaf, c, end, true, changed);
	return r;
}

/* --- inner nodes --------------------------------------------------------------------- */

static const uint8_t *child_end(const struct nf_node *node, unsigned i, const uint8_t *hi)
{
	return i + 1U < node->body.nr ? nf_node_key(node, i + 1) : hi;
}

/* Loads child I, and with it those behind it that this batch will need too. */
static int load_ahead(struct update *u, struct nf_node *node, unsigned i, const uint8_t *hi, size_t c,
		      size_t end, struct nf_want *w)
{
	struct nf_ref child;
	int r = 0;

	nf_node_child(node, i, &child);
	if (nf_nodes_has(u->src->nodes, &child))
		return 0;
	nf_want_deinit(w);
	for (; r == 0 && i < node->body.nr && !nf_want_full(w); i++) {
		const uint8_t *child_hi = child_end(node, i, hi);
		size_t ce = changes_before(u, c, end, child_hi);
		enum cover cover = cover_of(u, nf_node_key(node, i), child_hi);
		nf_node_child(node, i, &child);
		if ((ce > c || cover == COVER_PART) && cover != COVER_WHOLE &&
		    !nf_nodes_has(u->src->nodes, &child))
			r = nf_want_add(u->src->nodes, w, &child);
		c = ce;
	}
	return r < 0 ? r : nf_source_load(u->src, w);
}

static int update_node(struct update *u, struct frame *parent, const struct nf_ref *ref, const uint8_t *lo,
		       const uint8_t *hi, size_t c, size_t end, bool *changed);

static int update_inner(struct update *u, struct frame *f, const uint8_t *hi, size_t c, size_t end)
{
	nf_auto(nf_want_deinit) struct nf_want ahead = NF_WANT_INIT;
	struct nf_node *node = f->node;
	int r = 0;

	for (f->at = 0; r == 0 && f->at < node->body.nr; f->at++) {
		unsigned i = f->at;
		const uint8_t *key = nf_node_key(node, i), *child_hi = child_end(node, i, hi);
		size_t ce = changes_before(u, c, end, child_hi);
		enum cover cover = cover_of(u, key, child_hi);
		struct nf_ref child;
		bool changed = false;

		nf_node_child(node, i, &child);
		if (cover == COVER_WHOLE) {
			changed = true;
			r = open_frame(u, f);
			if (r == 0)
				r = put_changes(u, c, ce);
		} else if (ce > c || cover == COVER_PART) {
			r = load_ahead(u, node, i, hi, c, end, &ahead);
			if (r == 0)
				r = update_node(u, f, &child, key, child_hi, c, ce, &changed);
		}
		if (r == 0 && !changed && f->opened)
			r = nf_builder_link(&u->b, key, &child);
		c = ce;
	}
	return r;
}

static int update_node(struct update *u, struct frame *parent, const struct nf_ref *ref, const uint8_t *lo,
		       const uint8_t *hi, size_t c, size_t end, bool *changed)
{
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;
	int r = nf_source_get(u->src, ref, lo, hi, &node);

	if (r < 0)
		return r;
	if (ref->level == 0)
		return update_leaf(u, parent, node, c, end, changed);
	struct frame f = { .parent = parent, .node = node };
	r = update_inner(u, &f, hi, c, end);
	*changed = f.opened;
	return r;
}

/* --- whole batch ----------------------------------------------------------------------- */

static int check_batch(const struct update *u)
{
	for (size_t i = 0; i < u->nr; i++) {
		if (u->changes[i].value && u->changes[i].len > NF_VALUE_MAX)
			return nf_fail(-EINVAL);
		if (i && nf_key_cmp(&u->changes[i - 1].key, &u->changes[i].key) >= 0)
			return nf_fail(-EINVAL);
	}
	for (size_t i = 0; i < u->nr_cuts; i++) {
		if (nf_key_cmp(&u->cuts[i].from, &u->cuts[i].to) > 0)
			return nf_fail(-EINVAL);
		if (i && nf_key_cmp(&u->cuts[i - 1].to, &u->cuts[i].from) > 0)
			return nf_fail(-EINVAL);
	}
	return 0;
}

int nf_tree_update(struct nf_node_source *src, const struct nf_ref *root,
		   const struct nf_change *changes, size_t nr, const struct nf_cutout *cuts,
		   size_t nr_cuts, const struct nf_tree_writer *w, struct nf_ref *out)
{
	struct update u = {
		.src = src, .changes = changes, .nr = nr, .cuts = cuts, .nr_cuts = nr_cuts,
	};
	bool changed = false;
	struct nf_ref now;
	int r = check_batch(&u);

	if (r < 0)
		return r;
	if (root->level >= NF_TREE_LEVELS_MAX)
		return nf_fail(-NF_E_TREE_BAD);
	nf_builder_init(&u.b, src, w);
	if (nf_ref_is_null(root)) {
		u.changed = true;
		r = put_changes(&u, 0, nr);
	} else if (nr || nr_cuts) {
		r = update_node(&u, NULL, root, NULL, NULL, 0, nr, &changed);
	}
	if (r == 0 && u.changed)
		r = nf_builder_finish(&u.b, &now);
	else
		now = *root;
	nf_builder_deinit(&u.b);
	if (r == 0)
		*out = now;
	return r;
}
