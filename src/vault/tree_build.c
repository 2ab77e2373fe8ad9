#include "vault/tree_build.h"

#include "base/assert.h"
#include "base/error.h"
#include "vault/item.h"

/* A quarter of a node, less what the largest item may cost when more than a node is halved. */
enum { SMALL_BYTES = NF_NODE_MAX / 4 - 64, INNER_ENTRIES_MAX = NF_NODE_PAYLOAD / NF_NODE_INNER_ENTRY };

static int emit_first(struct nf_builder *b, unsigned level, unsigned nr);
static int spread(struct nf_builder *b, uint8_t *plain, const struct nf_start *starts, unsigned nr);

void nf_builder_init(struct nf_builder *b, struct nf_node_source *src, const struct nf_tree_writer *w)
{
	*b = (struct nf_builder){ .src = src, .w = w };
	b->spread_left = w->spread_max ? w->spread_budget_nodes : 0;
}

void nf_builder_deinit(struct nf_builder *b)
{
	for (unsigned i = 0; i < NF_TREE_LEVELS_MAX; i++) {
		nf_buf_deinit(&b->levels[i].bytes);
		free(b->levels[i].starts);
	}
}

/* Bytes of the first NR entries. */
static size_t bytes_of(const struct nf_level *l, unsigned nr)
{
	return nr == l->nr ? l->bytes.len : l->starts[nr].at;
}

/* --- adding entries ---------------------------------------------------------------- */

/* Begins an entry; the caller appends to bytes what follows the key, then calls add_end(). */
static int add_begin(struct nf_builder *b, unsigned level, const uint8_t *key, struct nf_level **out)
{
	if (level >= NF_TREE_LEVELS_MAX)
		return nf_fail(-EFBIG);
	struct nf_level *l = &b->levels[level];
	if (l->nr == l->cap) {
		unsigned cap = l->cap ? l->cap * 2 : 256;
		struct nf_start *starts = realloc(l->starts, cap * sizeof *starts);
		if (!starts)
			return nf_fail(-ENOMEM);
		l->starts = starts;
		l->cap = cap;
	}
	l->starts[l->nr++] = (struct nf_start){ .at = (uint32_t)l->bytes.len };
	nf_buf_bytes(&l->bytes, key, NF_KEY_ENCODED);
	*out = l;
	return 0;
}

/* The most entries that fit a node. */
static unsigned fitting(const struct nf_level *l)
{
	unsigned nr = l->nr;

	if (l->bytes.len <= NF_NODE_PAYLOAD)
		return nr;
	unsigned lo = 1;
	while (lo + 1 < nr) {
		unsigned mid = (lo + nr) / 2;
		if (bytes_of(l, mid) <= NF_NODE_PAYLOAD)
			lo = mid;
		else
			nr = mid;
	}
	return lo;
}

static int add_end(struct nf_builder *b, struct nf_level *l, bool is_new)
{
	int r = nf_buf_error(&l->bytes);

	l->starts[l->nr - 1].is_new = is_new;
	/* What stays is more than a node: closing the level can always share it out well. */
	if (r == 0 && l->bytes.len > 2 * NF_NODE_PAYLOAD)
		r = emit_first(b, (unsigned)(l - b->levels), fitting(l));
	return r;
}

int nf_builder_put(struct nf_builder *b, const struct nf_key *key, const void *value, size_t len)
{
	uint8_t k[NF_KEY_ENCODED];
	struct nf_level *l = NULL;

	NF_ASSERT(len <= NF_VALUE_MAX);
	nf_key_encode(key, k);
	int r = add_begin(b, 0, k, &l);
	if (r < 0)
		return r;
	nf_buf_str16(&l->bytes, value, len);
	return add_end(b, l, true);
}

/* Appends item I of LEAF as it has to stand in another pack. */
static int copy_item(struct nf_buf *out, const struct nf_node *leaf, unsigned i)
{
	const uint8_t *key = nf_node_key(leaf, i);
	size_t len;
	const uint8_t *value = nf_node_value(leaf, i, &len);

	nf_buf_u16(out, (uint16_t)len);
	return nf_item_rebase(key[8], value, len, &leaf->ref.pack, out);
}

int nf_builder_keep(struct nf_builder *b, const struct nf_node *leaf, unsigned i)
{
	struct nf_level *l = NULL;
	int r = add_begin(b, 0, nf_node_key(leaf, i), &l);

	if (r == 0)
		r = copy_item(&l->bytes, leaf, i);
	return r < 0 ? r : add_end(b, l, false);
}

static int add_ref(struct nf_builder *b, unsigned level, const uint8_t *key, const struct nf_ref *ref,
		   bool is_new)
{
	struct nf_level *l = NULL;
	int r = add_begin(b, level, key, &l);

	if (r < 0)
		return r;
	nf_ref_encode(&l->bytes, ref);
	return add_end(b, l, is_new);
}

/* --- making nodes ------------------------------------------------------------------ */

static void head_of(uint8_t head[NF_NODE_HEAD], unsigned level, unsigned nr)
{
	head[0] = (uint8_t)level;
	head[1] = 0;
	nf_put_le16(head + 2, (uint16_t)nr);
}

static int emit(struct nf_builder *b, unsigned level, const struct nf_buf *plain, struct nf_ref *out)
{
	int r = nf_buf_error(plain);

	if (r == 0)
		r = b->w->emit(b->w->ctx, level, plain->p, plain->len, out);
	return r;
}

static int emit_first(struct nf_builder *b, unsigned level, unsigned nr)
{
	nf_auto(nf_buf_deinit) struct nf_buf plain = NF_BUF_INIT;
	struct nf_level *l = &b->levels[level];
	size_t len = bytes_of(l, nr);
	uint8_t head[NF_NODE_HEAD];
	struct nf_ref ref;
	int r = 0;

	NF_ASSERT(nr > 0 && len <= NF_NODE_PAYLOAD);
	head_of(head, level, nr);
	nf_buf_bytes(&plain, head, sizeof head);
	nf_buf_bytes(&plain, l->bytes.p, len);
	if (level && !plain.failed)
		r = spread(b, plain.p, l->starts, nr);
	if (r == 0)
		r = emit(b, level, &plain, &ref);
	if (r < 0)
		return r;

	memmove(l->bytes.p, l->bytes.p + len, l->bytes.len - len);
	l->bytes.len -= len;
	l->nr -= nr;
	for (unsigned i = 0; i < l->nr; i++) {
		l->starts[i] = l->starts[i + nr];
		l->starts[i].at -= (uint32_t)len;
	}
	return add_ref(b, level + 1, plain.p + NF_NODE_HEAD, &ref, true);
}

/* How many entries the next node gets when the level is closed and more than one node's worth is there. */
static unsigned share(const struct nf_level *l, bool append, bool last)
{
	unsigned fit = fitting(l), best = 1;
	size_t total = l->bytes.len, target;

	if (append && last)
		return fit;
	if (append) {
		/* More will come at this end: fill the left one, but leave the rest a decent node. */
		while (best < fit && bytes_of(l, best + 1) + SMALL_BYTES <= total)
			best++;
		return best;
	}
	target = total / ((total + NF_NODE_PAYLOAD - 1) / NF_NODE_PAYLOAD);
	while (best < fit && bytes_of(l, best) < target)
		best++;
	/* Of the two around the target, the nearer. */
	if (best > 1 && bytes_of(l, best) - NF_MIN(target, bytes_of(l, best)) > target - bytes_of(l, best - 1))
		best--;
	return best;
}

/* Makes nodes of all that the level holds.  LAST: nothing follows on this level. */
static int close_level(struct nf_builder *b, unsigned level, bool last)
{
	struct nf_level *l = &b->levels[level];
	bool append = l->nr && (level ? last : l->starts[l->nr - 1].is_new);
	int r = 0;

	while (r == 0 && l->nr)
		r = emit_first(b, level,
			       l->bytes.len <= NF_NODE_PAYLOAD ? l->nr : share(l, append, last));
	return r;
}

/* --- old subtrees ------------------------------------------------------------------ */

static int join_subtree(struct nf_builder *b, struct nf_node *node)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		if (node->ref.level) {
			struct nf_ref child;
			nf_node_child(node, i, &child);
			r = nf_builder_link(b, nf_node_key(node, i), &child);
		} else {
			r = nf_builder_keep(b, node, i);
		}
	}
	return r;
}

int nf_builder_link(struct nf_builder *b, const uint8_t key[NF_KEY_ENCODED], const struct nf_ref *ref)
{
	bool lost = false;

	for (unsigned i = 0; i <= ref->level; i++) {
		nf_auto(nf_node_put_p) struct nf_node *node = NULL;
		int r = 0;
		if (b->levels[i].nr == 0)
			continue;
		if (b->levels[i].bytes.len < SMALL_BYTES && !lost) {
			r = nf_source_get(b->src, ref, key, NULL, &node);
			if (r == 0)
				return join_subtree(b, node);
			/* A neighbour that cannot be read is no reason not to write: a node is small then. */
			lost = nf_is_damage(r);
			if (!lost)
				return r;
		}
		r = close_level(b, i, false);
		if (r < 0)
			return r;
	}
	return add_ref(b, ref->level + 1U, key, ref, false);
}

/* --- gathering what lies scattered ---------------------------------------------------- */

static void entry_child(const uint8_t *plain, unsigned i, struct nf_ref *out)
{
	struct nf_rd rd = nf_rd_of(plain + NF_NODE_HEAD + i * (size_t)NF_NODE_INNER_ENTRY + NF_KEY_ENCODED,
				   NF_REF_ENCODED);
	nf_ref_decode(&rd, NULL, out);
}

static bool is_scattered(const uint8_t *plain, unsigned nr, unsigned packs_max)
{
	const uint8_t *packs[INNER_ENTRIES_MAX];
	unsigned found = 0;

	for (unsigned i = 0; i < nr && found <= packs_max; i++) {
		const uint8_t *pack = plain + NF_NODE_HEAD + i * (size_t)NF_NODE_INNER_ENTRY + NF_KEY_ENCODED;
		unsigned j = 0;
		while (j < found && memcmp(packs[j], pack, sizeof(struct nf_pack_id)) != 0)
			j++;
		if (j == found)
			packs[found++] = pack;
	}
	return found > packs_max;
}

/* Writes an old node again, as it is, into the pack under construction. */
static int rewrite(struct nf_builder *b, const struct nf_ref *ref, struct nf_ref *out)
{
	nf_auto(nf_buf_deinit) struct nf_buf plain = NF_BUF_INIT;
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;
	uint8_t head[NF_NODE_HEAD];
	int r = nf_source_get(b->src, ref, NULL, NULL, &node);

	if (r < 0)
		return r;
	head_of(head, ref->level, node->body.nr);
	nf_buf_bytes(&plain, head, sizeof head);
	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		nf_buf_bytes(&plain, nf_node_key(node, i), NF_KEY_ENCODED);
		if (ref->level) {
			struct nf_ref child;
			nf_node_child(node, i, &child);
			nf_ref_encode(&plain, &child);
		} else {
			r = copy_item(&plain, node, i);
		}
	}
	if (r == 0 && ref->level && !plain.failed)
		r = spread(b, plain.p, NULL, node->body.nr);
	if (r == 0)
		r = emit(b, ref->level, &plain, out);
	return r;
}

/* STARTS is NULL where all entries are old. */
static bool is_new(const struct nf_start *starts, unsigned i) { return starts && starts[i].is_new; }

/* Asks for those of the children that are going to be rewritten and are missing. */
static int spread_ahead(struct nf_builder *b, const uint8_t *plain, const struct nf_start *starts,
			unsigned nr, struct nf_want *w)
{
	unsigned left = b->spread_left;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < nr && left && !nf_want_full(w); i++) {
		struct nf_ref child;
		if (is_new(starts, i))
			continue;
		entry_child(plain, i, &child);
		left--;
		if (!nf_nodes_has(b->src->nodes, &child))
			r = nf_want_add(b->src->nodes, w, &child);
	}
	return r < 0 ? r : nf_source_load(b->src, w);
}

/* PLAIN is an inner node of NR entries about to be written.  If its children lie in too many packs they are
 * written beside it, in key order, as far as the budget goes. */
static int spread(struct nf_builder *b, uint8_t *plain, const struct nf_start *starts, unsigned nr)
{
	nf_auto(nf_want_deinit) struct nf_want ahead = NF_WANT_INIT;

	if (b->spread_left == 0 || !is_scattered(plain, nr, b->w->spread_max))
		return 0;
	int r = spread_ahead(b, plain, starts, nr, &ahead);
	/* What cannot be read stays where it is. */
	r = nf_is_damage(r) ? 0 : r;
	for (unsigned i = 0; r == 0 && i < nr && b->spread_left; i++) {
		nf_auto(nf_buf_deinit) struct nf_buf enc = NF_BUF_INIT;
		struct nf_ref child, now;
		if (is_new(starts, i))
			continue;
		entry_child(plain, i, &child);
		b->spread_left--;
		r = rewrite(b, &child, &now);
		if (nf_is_damage(r)) {
			r = 0;
			continue;
		}
		if (r < 0)
			return r;
		nf_ref_encode(&enc, &now);
		r = nf_buf_error(&enc);
		if (r == 0)
			memcpy(plain + NF_NODE_HEAD + i * (size_t)NF_NODE_INNER_ENTRY + NF_KEY_ENCODED,
			       enc.p, NF_REF_ENCODED);
	}
	return r;
}

/* --- the top -------------------------------------------------------------------------- */

static bool is_top(const struct nf_builder *b, unsigned level)
{
	for (unsigned i = level + 1; i < NF_TREE_LEVELS_MAX; i++)
		if (b->levels[i].nr)
			return false;
	return true;
}

/* An old root with a single child is not needed.  New ones are never such. */
static int collapse(struct nf_builder *b, struct nf_ref *root)
{
	while (root->level) {
		nf_auto(nf_node_put_p) struct nf_node *node = NULL;
		int r = nf_source_get(b->src, root, NULL, NULL, &node);
		if (r < 0)
			return r;
		if (node->body.nr != 1)
			break;
		nf_node_child(node, 0, root);
	}
	return 0;
}

int nf_builder_finish(struct nf_builder *b, struct nf_ref *out)
{
	for (unsigned level = 0; level < NF_TREE_LEVELS_MAX; level++) {
		struct nf_level *l = &b->levels[level];
		if (level && l->nr == 1 && is_top(b, level)) {
			struct nf_rd rd = nf_rd_of(l->bytes.p + NF_KEY_ENCODED, NF_REF_ENCODED);
			struct nf_ref root;
			nf_ref_decode(&rd, NULL, &root);
			int r = l->starts[0].is_new ? 0 : collapse(b, &root);
			if (r == 0)
				*out = root;
			return r;
		}
		int r = close_level(b, level, true);
		if (r < 0)
			return r;
	}
	*out = (struct nf_ref){ 0 };
	return 0;
}
