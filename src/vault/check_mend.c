/* vault/check_mend.c - nodes of the newest tree that neither the store nor this machine has any more.
 *
 *     newest  [ a | lost | c ]        the keys of `lost` as the newest kept commit or snapshot has them that can still
 *     older   [ a | b    | c']        be read there; if none can, nothing.  One older tree for all of them.
 *
 * So whole inodes go back together, but where one stands on both sides of the edge of a lost node:
 *
 *     its INODE item is there       windows come back only if the older tree has the same version of the content (its stamp);
 *                                   others are not told apart from what they were: reading them is an error, as before
 *     its INODE item is lost, the   an older item is taken, long enough for the windows that are there; if their older
 *     last windows are there        form is another, the windows before them are of another version, and lost
 *
 * Nothing is done where nodes with the vault's own records are lost, nor where keys may be missing rather than bytes. */
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "vault/apply.h"
#include "vault/check_i.h"
#include "vault/mend.h"

#include <inttypes.h>
#include <stdio.h>

enum { ITEMS_MAX = 1 << 20 };

struct mending {
	struct nf_check *k;
	struct nf_mend *mend;
	const struct nf_gc_root *root; /* the older tree; NULL: none */
	const struct nf_check_lost *at;
	uint64_t keep_out; /* EXTENT items of this inode are not taken */
	uint64_t ino;      /* the last one whose block size was asked for */
	uint32_t block_bytes;
	size_t nr_items;
	size_t nr_whole;   /* lost nodes that could be read in it */
};

int nf_check_lookup(struct nf_check *k, const struct nf_ref *root, const struct nf_key *key, struct nf_val *out)
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	int r;

	while ((r = nf_tree_lookup(k->v->nodes, root, key, &w, out)) == NF_TREE_WANT) {
		r = k->v->src.load(k->v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	return r;
}

static bool is_within(const struct nf_check_lost *l, const struct nf_key *key)
{
	return nf_key_cmp(&l->from, key) <= 0 && nf_key_cmp(key, &l->to) < 0;
}

bool nf_check_is_mended(const struct nf_check *k, const struct nf_key *key)
{
	for (size_t i = 0; i < k->nr_mended; i++)
		if (is_within(&k->mended[i], key))
			return true;
	return false;
}

static bool is_lost(const struct nf_check *k, const struct nf_key *key)
{
	for (size_t i = 0; i < k->nr_lost; i++)
		if (is_within(&k->lost[i], key))
			return true;
	return false;
}

/* The INODE item of INO in a tree; inline data is not there afterwards.  0, NF_TREE_NONE, or negative. */
static int inode_in(struct nf_check *k, const struct nf_ref *root, uint64_t ino, struct nf_inode_item *out)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_val val = { 0 };

	int r = nf_check_lookup(k, root, &key, &val);
	if (r == 0)
		r = nf_inode_decode(val.p, val.len, out);
	if (r == 0)
		out->inline_data = NULL;
	nf_val_deinit(&val);
	return r;
}

/* --- what an older tree has ------------------------------------------------------------------ */

/* A layer says of every block of a window what it is. */
static int put_window(struct mending *m, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	struct nf_inode_item item;
	struct nf_extent_ref ref;
	int r = 0;

	if (key->ino == m->keep_out)
		return 0;
	if (m->ino != key->ino)
		r = inode_in(m->k, &m->root->root, key->ino, &item);
	/* The file itself stood in a node that is lost on both sides. */
	if (r)
		return r < 0 && !nf_is_damage(r) ? r : 0;
	if (m->ino != key->ino)
		m->block_bytes = 1u << item.block_shift;
	m->ino = key->ino;
	r = nf_extent_ref_decode(val->p, val->len, &val->self, true, &ref);
	if (r == 0) {
		nf_extent_ref_encode(&b, &ref);
	} else if (r == NF_TREE_NONE) {
		r = nf_extent_decode(val->p, val->len, &val->self, m->block_bytes, refs, NULL);
		memset(known, true, sizeof known);
		if (r == 0)
			nf_extent_encode(&b, refs, known, m->block_bytes, true);
	}
	if (r == 0)
		r = nf_buf_error(&b);
	return r < 0 ? r : nf_layer_put(m->mend->layer, key, b.p, b.len);
}

static int take_item(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct mending *m = ctx;
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;

	if (key->ino == 0)
		return nf_fail(-NF_E_TREE_BAD);
	if (++m->nr_items > ITEMS_MAX)
		return nf_fail(-EFBIG);
	if (key->type == NF_ITEM_EXTENT)
		return put_window(m, key, val);
	int r = nf_item_rebase(key->type, val->p, val->len, &val->self, &b);
	return r < 0 ? r : nf_layer_put(m->mend->layer, key, b.p, b.len);
}

/* --- the edges of a lost node -------------------------------------------------------------------- */

/* A block that is nowhere. */
static void lost_block(struct nf_block_ref *b, uint32_t block_bytes)
{
	*b = (struct nf_block_ref){ .sealed_len = block_bytes + 40, .plain_len = block_bytes, .epoch = 1 };
	nf_random(b->tag, sizeof b->tag);
}

/* Windows of INO from block FROM on that begin before END: each block of them is lost. */
static int put_lost(struct mending *m, uint64_t ino, uint64_t from, uint64_t end, uint32_t block_bytes)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	int r = 0;

	memset(known, true, sizeof known);
	for (uint64_t first = nf_round_up(from, NF_WINDOW_BLOCKS); r == 0 && first < end; first += NF_WINDOW_BLOCKS) {
		nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
		struct nf_key key = nf_key_extent(ino, first);
		struct nf_pack_id pack;
		uint64_t birth;
		if (++m->nr_items > ITEMS_MAX)
			return nf_fail(-EFBIG);
		nf_pack_id_random(&pack);
		nf_random(&birth, sizeof birth);
		for (unsigned i = 0; i < NF_WINDOW_BLOCKS; i++) {
			lost_block(&refs[i], block_bytes);
			refs[i].pack = pack;
			refs[i].birth = birth >> 1;
			refs[i].index = i;
			refs[i].offset_bytes = i * refs[i].sealed_len;
			if (first + i >= end)
				refs[i] = (struct nf_block_ref){ 0 };
		}
		nf_extent_encode(&b, refs, known, block_bytes, true);
		r = nf_buf_error(&b);
		if (r == 0)
			r = nf_layer_put(m->mend->layer, &key, b.p, b.len);
	}
	if (r == 0 && from < end)
		nf_check_say(m->k, "inode %" PRIx64 ": its blocks from %" PRIu64 " to %" PRIu64 " are lost", ino, from, end - 1);
	return r;
}

/* Where the windows of INO in the lost node begin and end. */
static uint64_t first_of(const struct nf_check_lost *l, uint64_t ino)
{
	return l->from.ino == ino && l->from.type == NF_ITEM_EXTENT ? l->from.a : 0;
}

static uint64_t end_of(const struct nf_check_lost *l, uint64_t ino)
{
	return l->to.ino != ino || l->to.type > NF_ITEM_EXTENT ? UINT64_MAX : l->to.type == NF_ITEM_EXTENT ? l->to.a : 0;
}

/* The inode that the lost node begins in, if its item stands before it: is what the older tree has of it of the same version?
 * *END: if not, up to which block it has windows. */
static int low_edge(struct mending *m, uint32_t *block_bytes, uint64_t *end)
{
	struct nf_check *k = m->k;
	struct nf_key key = nf_key_inode(m->at->from.ino);
	struct nf_inode_item now, old;

	*end = 0;
	if (nf_key_cmp(&key, &m->at->from) >= 0 || is_lost(k, &key))
		return 0;
	int r = inode_in(k, &k->root, key.ino, &now);
	if (r || !S_ISREG(now.mode) || now.flags & NF_INODE_INLINE)
		return NF_MIN(r, 0);
	if (m->root && inode_in(k, &m->root->root, key.ino, &old) == 0 && nf_stamp_equal(now.stamp, old.stamp) &&
	    now.block_shift == old.block_shift)
		return 0;
	m->keep_out = key.ino;
	*block_bytes = 1u << now.block_shift;
	uint64_t blocks = (now.size_bytes >> now.block_shift) + ((now.size_bytes & (*block_bytes - 1)) != 0);
	*end = NF_MIN(blocks, end_of(m->at, key.ino));
	return 0;
}

struct image {
	struct nf_buf b;
	uint32_t block_bytes;
	uint64_t end_bytes;
	struct nf_check *k;
};

static int see_image(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct image *i = ctx;
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref = { 0 };

	int r = nf_extent_rebase(val->p, val->len, &val->self, &i->b);
	if (r == 0)
		r = nf_gc_window(&i->k->v->src, val, i->block_bytes, &ref, refs);
	nf_buf_u64(&i->b, key->a);
	for (unsigned b = 0; r == 0 && b < NF_WINDOW_BLOCKS; b++)
		if (refs[b].sealed_len)
			i->end_bytes = (key->a + b) * i->block_bytes + refs[b].plain_len;
	return r < 0 ? r : nf_buf_error(&i->b);
}

static int image_of(struct mending *m, const struct nf_ref *root, uint64_t ino, struct image *i)
{
	struct nf_key from = nf_key_extent(ino, 0), to = { .ino = ino, .type = NF_ITEM_EXTENT + 1 };

	if (nf_key_cmp(&from, &m->at->to) < 0)
		from = m->at->to;
	i->k = m->k;
	return nf_gc_range(&m->k->v->src, root, &from, &to, see_image, i);
}

static int put_inode(struct mending *m, uint64_t ino, const struct nf_inode_item *item)
{
	return nf_layer_put_inode(m->mend->layer, ino, item);
}

/* The inode that the lost node ends in, if its item was in it: some of its windows are there. */
static int high_edge(struct mending *m)
{
	struct nf_check *k = m->k;
	uint64_t ino = m->at->to.ino;
	struct nf_key key = nf_key_inode(ino);
	struct nf_inode_item old, top;

	if (!is_within(m->at, &key) || m->at->to.type > NF_ITEM_EXTENT)
		return 0;
	int r = m->root ? inode_in(k, &m->root->root, ino, &old) : NF_TREE_NONE;
	bool has_old = r == 0 && S_ISREG(old.mode);
	struct image now = { .block_bytes = has_old ? 1u << old.block_shift : 1u << k->v->block_shift };
	struct image was = { .block_bytes = now.block_bytes };
	r = image_of(m, &k->root, ino, &now);
	/* The next node is lost, too: what it held comes from the same older tree. */
	if (nf_is_damage(r) || (r == 0 && !now.b.len)) {
		r = 0;
		goto out;
	}
	if (r == 0 && has_old)
		r = image_of(m, &m->root->root, ino, &was);
	if (r < 0 || (has_old && now.b.len == was.b.len && !memcmp(now.b.p, was.b.p, now.b.len)))
		goto out;
	r = inode_in(k, &k->root, NF_INO_ROOT, &top);
	if (r)
		goto out;
	if (!has_old) {
		old = (struct nf_inode_item){ .mode = S_IFREG | 0600, .uid = top.uid, .gid = top.gid, .nlink = 1, .atime = top.mtime,
					      .mtime = top.mtime, .ctime = top.mtime, .btime = top.btime,
					      .block_shift = (uint8_t)k->v->block_shift };
	}
	old.flags = 0;
	old.inline_len = 0;
	old.inline_data = NULL;
	old.size_bytes = NF_MAX(has_old ? old.size_bytes : 0, now.end_bytes);
	r = put_inode(m, ino, &old);
	if (r == 0)
		r = put_lost(m, ino, first_of(m->at, ino), end_of(m->at, ino), now.block_bytes);
out:
	nf_buf_deinit(&now.b);
	nf_buf_deinit(&was.b);
	return NF_MIN(r, 0);
}

/* --- one older tree -------------------------------------------------------------------------- */

static int mend_one(struct mending *m, bool whole)
{
	uint64_t end = 0;
	uint32_t block_bytes = 0;

	m->keep_out = 0;
	m->ino = 0;
	int r = nf_mend_cut(m->mend, &m->at->from, &m->at->to);
	if (r == 0)
		r = low_edge(m, &block_bytes, &end);
	if (r == 0 && whole)
		r = nf_gc_range(&m->k->v->src, &m->root->root, &m->at->from, &m->at->to, take_item, m);
	if (r == 0 && end)
		r = put_lost(m, m->at->from.ino, first_of(m->at, m->at->from.ino), end, block_bytes);
	return r == 0 ? high_edge(m) : r;
}

static int see_nothing(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	(void)ctx;
	(void)key;
	(void)val;
	return 0;
}

/* Can the older tree be read in place of the lost node? */
static int is_whole(struct nf_check *k, const struct nf_gc_root *root, const struct nf_check_lost *l, bool *whole)
{
	int r = nf_gc_range(&k->v->src, &root->root, &l->from, &l->to, see_nothing, NULL);

	*whole = r == 0;
	return nf_is_damage(r) ? 0 : r;
}

/* The newest older tree that has most of what is lost; NULL: none has any of it. */
static int choose(struct nf_check *k, const struct nf_gc *g, const struct nf_gc_root **out)
{
	size_t best = 0;
	int r = 0;

	*out = NULL;
	for (size_t i = g->nr_roots; r == 0 && best < k->nr_lost && i-- > 0;) {
		const struct nf_gc_root *root = &g->roots[i];
		size_t nr = 0;
		for (size_t l = 0; r == 0 && root->key.type && l < k->nr_lost; l++) {
			bool whole = false;
			if (k->o.stop && atomic_load(k->o.stop))
				return nf_fail(-NF_E_CANCELLED);
			r = is_whole(k, root, &k->lost[l], &whole);
			nr += whole;
		}
		if (nr > best) {
			best = nr;
			*out = root;
		}
	}
	return r;
}

static int build(struct nf_check *k, const struct nf_gc_root *root, struct nf_mend **out)
{
	struct mending m = { .k = k, .root = root };
	nf_auto(nf_mend_free_p) struct nf_mend *mend = NULL;

	int r = nf_mend_new(&k->root, &mend);
	m.mend = mend;
	for (size_t i = 0; r == 0 && i < k->nr_lost; i++) {
		bool whole = false;
		size_t before = m.nr_items;
		char name[64];
		m.at = &k->lost[i];
		nf_pack_name(&m.at->ref.pack, name);
		if (root)
			r = is_whole(k, root, m.at, &whole);
		if (r == 0)
			r = mend_one(&m, whole);
		if (r == 0 && m.nr_items > before && whole)
			nf_check_say(k, "the node in %s: %zu items as of commit %" PRIu64 " take its place", name, m.nr_items - before,
				     root->seq);
		else if (r == 0)
			nf_check_say(k, "the node in %s: no kept commit and no snapshot has what it held; it is left out", name);
	}
	if (r == 0)
		*out = nf_steal(&mend);
	return r;
}

/* --- doing it --------------------------------------------------------------------------------- */

/* May all that is lost be replaced?  What can be read now, after all, is not lost. */
static int may_mend(struct nf_check *k, bool *may)
{
	*may = false;
	for (size_t i = 0; i < k->nr_lost; i++) {
		struct nf_check_lost *l = &k->lost[i];
		nf_auto(nf_node_put_p) struct nf_node *node = NULL;
		if (l->from.ino == 0 || l->error == -NF_E_KEY_EPOCH_UNKNOWN) {
			nf_check_say(k, l->from.ino ? "a lost node is sealed under keys that this device does not have: nothing is replaced"
						    : "a lost node holds the vault's own records: it comes back only from a machine that has it");
			return 0;
		}
		int r = nf_source_get(&k->v->src, &l->ref, NULL, NULL, &node);
		if (r == 0)
			nf_check_say(k, "a node that could not be read can be read now: nothing is replaced, check again");
		if (r == 0 || !nf_is_damage(r))
			return r;
	}
	*may = k->nr_lost && k->nr_lost == k->lost_nodes;
	return 0;
}

static int note_asof(struct nf_check *k, const struct nf_mend *m)
{
	nf_auto_free struct nf_change *c = NULL;
	nf_auto_free struct nf_cutout *cuts = NULL;
	size_t nr = 0, nr_cuts = 0;

	int r = nf_layer_batch(m->layer, &c, &nr, &cuts, &nr_cuts);
	for (size_t i = 0; r == 0 && i < nr; i++) {
		if (c[i].key.type != NF_ITEM_INODE)
			continue;
		uint64_t *p = realloc(k->asof, (k->nr_asof + 1) * sizeof *p);
		if (!p)
			return nf_fail(-ENOMEM);
		k->asof = p;
		p[k->nr_asof++] = c[i].key.ino;
	}
	return r;
}

static int note_mended(struct nf_check *k)
{
	struct nf_check_lost *p = realloc(k->mended, (k->nr_mended + k->nr_lost) * sizeof *p);

	if (!p)
		return nf_fail(-ENOMEM);
	k->mended = p;
	memcpy(p + k->nr_mended, k->lost, k->nr_lost * sizeof *p);
	k->nr_mended += k->nr_lost;
	return 0;
}

int nf_check_mend_nodes(struct nf_check *k, bool *done)
{
	struct nf_gc g = { .v = k->v, .src = k->v->src };
	const struct nf_gc_root *root = NULL;
	struct nf_mend *mend = NULL;
	bool may;

	*done = false;
	/* Lost still: what was made for it was not taken. */
	k->nr_mended = k->nr_asof = 0;
	int r = may_mend(k, &may);
	if (r < 0 || !may)
		return r;
	nf_lock_take(&k->v->ns);
	r = nf_head_copy(&g.leaf, &k->v->base);
	nf_lock_drop(&k->v->ns);
	if (r == 0)
		r = nf_gc_items(&g);
	nf_gc_sort(&g);
	k->newest = true;
	/* What was lost was lost of the tree that was gone through. */
	bool same = r == 0 && nf_ref_equal(&k->newest_root, &g.leaf.root);
	k->root = k->newest_root;
	if (same)
		r = choose(k, &g, &root);
	if (same && r == 0)
		r = build(k, root, &mend);
	if (same && r == 0)
		r = note_asof(k, mend);
	if (same && r == 0)
		r = note_mended(k);
	if (same && r == 0) {
		k->asof_seq = root ? root->seq : 0;
		r = nf_mend_commit(k->v, nf_steal(&mend), k->o.stop);
	}
	*done = r == 0;
	nf_mend_free(mend);
	nf_gc_items_deinit(&g);
	nf_head_deinit(&g.leaf);
	return r;
}

void nf_check_tell_asof(struct nf_check *k)
{
	k->newest = true;
	k->root = k->newest_root;
	for (size_t i = 0; i < k->nr_asof; i++) {
		struct nf_check_seen *s = nf_check_seen(k, k->asof[i], false);
		char path[2048];
		if (!s || !s->item)
			continue;
		nf_check_path(k, s->ino, path, sizeof path);
		if (k->asof_seq)
			nf_check_say(k, "%s: as of commit %" PRIu64, path, k->asof_seq);
	}
}
