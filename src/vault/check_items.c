/* vault/check_items.c - what the nodes of a tree hold.
 *
 *   every value decodes; every block and blob is there (READ_DATA: and opens)
 *   newest tree  per inode: what it says of itself, and what entries and back-references say of it (their names' hashes
 *                must cancel out); afterwards links, subdirectories, directories that hang together, counters */
#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"
#include "vault/check_i.h"

#include <inttypes.h>

static int cmp_seen(const void *key, const struct nf_avl_node *n)
{
	uint64_t a = *(const uint64_t *)key, b = nf_container_of(n, const struct nf_check_seen, node)->ino;
	return a < b ? -1 : a > b;
}

struct nf_check_seen *nf_check_seen(struct nf_check *k, uint64_t ino, bool make)
{
	struct nf_avl_node *n = nf_avl_find(&k->inodes, &ino, cmp_seen);
	if (n || !make)
		return n ? nf_container_of(n, struct nf_check_seen, node) : NULL;
	struct nf_check_seen *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->ino = ino;
	nf_avl_add(&k->inodes, &ino, cmp_seen, &s->node);
	return s;
}

void nf_check_items_deinit(struct nf_check *k)
{
	struct nf_avl_node *n;

	while ((n = k->inodes.root)) {
		nf_avl_erase(&k->inodes, n);
		free(nf_container_of(n, struct nf_check_seen, node));
	}
}

/* --- values ------------------------------------------------------------------------------------------ */

static int see_inode(struct nf_check *k, const struct nf_key *key, const struct nf_val *v)
{
	struct nf_inode_item i;
	struct nf_check_seen *s = k->newest ? nf_check_seen(k, key->ino, true) : &k->file;

	if (!s)
		return nf_fail(-ENOMEM);
	s->ino = key->ino;
	s->item = false;
	int r = nf_inode_decode(v->p, v->len, &i);
	if (r < 0) {
		nf_check_problem(k, key->ino, "inode item: %s", nf_strerror(r));
		return 0;
	}
	s->item = true;
	s->mode = i.mode;
	s->nlink = i.nlink;
	s->size_bytes = i.size_bytes;
	s->block_shift = i.block_shift;
	s->flags = i.flags;
	k->r.inodes += k->newest;
	if (S_ISREG(i.mode)) {
		k->r.bytes += k->newest ? i.size_bytes : 0;
		if (i.flags & NF_INODE_INLINE && i.size_bytes != i.inline_len)
			nf_check_problem(k, key->ino, "size %" PRIu64 " is not that of its inline data", i.size_bytes);
	}
	return 0;
}

static uint64_t name_mark(uint64_t dir, const char *name, size_t len)
{
	static const uint8_t key[16] = { 'c', 'h', 'e', 'c', 'k' };
	return nf_mix64(dir + 1) ^ nf_siphash(key, name, len);
}

static int see_entries(struct nf_check *k, const struct nf_key *key, const struct nf_val *v)
{
	struct nf_check_seen *dir = nf_check_seen(k, key->ino, true);
	struct nf_dirent d;
	size_t pos = 0;
	int r;

	while ((r = nf_dirent_iter(v->p, v->len, &pos, &d)) == 0) {
		struct nf_check_seen *s = nf_check_seen(k, d.ino, true);
		if (!s || !dir)
			return nf_fail(-ENOMEM);
		s->entries++;
		s->parent = key->ino;
		s->names ^= name_mark(key->ino, d.name, d.name_len);
		dir->dir = true;
		s->dir |= d.type == S_IFDIR >> 12;
		if (d.type == S_IFDIR >> 12)
			dir->subdirs++;
		if (nf_ring_name_hash(k->v->ring, d.name, d.name_len) != key->a)
			nf_check_problem(k, key->ino, "entry %.*s stands at a wrong place", d.name_len, d.name);
	}
	if (r < 0)
		nf_check_problem(k, key->ino, "directory entries: %s", nf_strerror(r));
	return 0;
}

static int see_backs(struct nf_check *k, const struct nf_key *key, const struct nf_val *v)
{
	struct nf_check_seen *s = nf_check_seen(k, key->ino, true);
	const char *name;
	uint8_t len;
	size_t pos = 0;
	int r;

	if (!s)
		return nf_fail(-ENOMEM);
	struct nf_check_seen *dir = nf_check_seen(k, key->a, true);
	if (!dir)
		return nf_fail(-ENOMEM);
	dir->dir = true;
	while ((r = nf_names_iter(v->p, v->len, &pos, &name, &len)) == 0) {
		s->backs++;
		s->names ^= name_mark(key->a, name, len);
	}
	if (r < 0)
		nf_check_problem(k, key->ino, "back-reference: %s", nf_strerror(r));
	return 0;
}

/* One run of blocks that stand together: fetched at once, opened one by one. */
static int open_blocks(struct nf_check *k, const struct nf_block_ref *refs, unsigned nr)
{
	uint32_t len = 0, at = 0;
	int bad = 0;

	for (unsigned i = 0; i < nr; i++)
		len += refs[i].sealed_len;
	nf_auto_free uint8_t *sealed = malloc(len);
	nf_auto_free uint8_t *plain = malloc((size_t)1 << NF_BLOCK_SHIFT_MAX);
	if (!sealed || !plain)
		return nf_fail(-ENOMEM);
	int r = nf_check_read(k, &refs[0].pack, refs[0].offset_bytes, len, sealed);
	struct nf_codec *c = r == 0 ? nf_codec_get(k->v->ring) : NULL;
	if (!c)
		return r < 0 ? r : nf_fail(-ENOMEM);
	for (unsigned i = 0; r == 0 && i < nr; i++) {
		struct nf_seal_id id = { .type = NF_SEAL_BLOCK, .birth = refs[i].birth, .index = refs[i].index };
		int one = nf_codec_open(c, &id, refs[i].epoch, refs[i].flags, refs[i].tag, sealed + at, refs[i].sealed_len,
					plain, refs[i].plain_len);
		if (one < 0) {
			r = nf_check_note_bad(k, &refs[i].pack, refs[i].offset_bytes);
			bad = one;
		}
		at += refs[i].sealed_len;
	}
	nf_codec_put(c);
	return r < 0 ? r : bad;
}

/* Tells of each block of a run that was found bad. */
static void tell_blocks(struct nf_check *k, uint64_t ino, uint64_t first, const struct nf_block_ref *refs, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		int r = nf_check_range(k, &refs[i].pack, refs[i].offset_bytes, refs[i].sealed_len);
		if (r < 0)
			nf_check_problem(k, ino, "block %" PRIu64 ": %s", first + i, nf_strerror(r));
	}
}

static int check_run(struct nf_check *k, uint64_t ino, uint64_t first, const struct nf_block_ref *refs, unsigned nr)
{
	const struct nf_block_ref *last = &refs[nr - 1];
	char name[64];

	k->r.blocks += nr;
	int r = nf_check_range(k, &refs[0].pack, refs[0].offset_bytes,
			       last->offset_bytes + last->sealed_len - refs[0].offset_bytes);
	if (r == 0 && k->o.read_data)
		r = open_blocks(k, refs, nr);
	if (r == 0 || nf_check_damage(k, ino, r) < 0)
		return r;
	nf_pack_name(&refs[0].pack, name);
	if (r == -NF_E_PACK_MISSING || r == -NF_E_STORE_SHORT)
		nf_check_problem(k, ino, "blocks %" PRIu64 " to %" PRIu64 ": %s is %s on the store", first, first + nr - 1, name,
				 r == -NF_E_STORE_SHORT ? "too short" : "missing");
	else
		tell_blocks(k, ino, first, refs, nr);
	return 0;
}

/* The segments of one EXTENT value, wherever they stand.  What is wrong with them is told; NF_TREE_NONE then. */
static int segments(struct nf_check *k, const struct nf_check_seen *s, const struct nf_key *key, const struct nf_val *v,
		    struct nf_block_ref refs[NF_WINDOW_BLOCKS])
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	struct nf_extent_ref ref;
	uint32_t bs = 1u << s->block_shift;

	int r = nf_extent_ref_decode(v->p, v->len, &v->self, true, &ref);
	if (r < 0 || r == NF_TREE_NONE) {
		r = r < 0 ? r : nf_extent_decode(v->p, v->len, &v->self, bs, refs, NULL);
		if (r < 0)
			nf_check_problem(k, key->ino, "block references at %" PRIu64 ": %s", key->a, nf_strerror(r));
		return r < 0 ? NF_TREE_NONE : 0;
	}
	r = nf_check_range(k, &ref.leaf.pack, ref.leaf.offset_bytes, ref.leaf.sealed_len);
	/* What we have of it may still be read, and put on the store again. */
	if (nf_is_damage(r)) {
		char name[64];
		nf_pack_name(&ref.leaf.pack, name);
		nf_check_problem(k, key->ino, "block references at %" PRIu64 " in %s: %s", key->a, name, nf_strerror(r));
		(void)nf_check_damage(k, key->ino, r);
		r = 0;
	}
	while (r == 0 && (r = nf_extent_resolve(k->v->nodes, &ref, bs, &w, refs)) == NF_TREE_WANT) {
		r = k->v->src.load(k->v->src.ctx, &w);
		w.nr = 0;
	}
	if (nf_is_damage(r)) {
		(void)nf_check_damage(k, key->ino, r);
		struct nf_text t = NF_TEXT_INIT;
		nf_extent_ref_to_text(&ref, &t);
		nf_check_problem(k, key->ino, "block references at %" PRIu64 ", %s: %s", key->a, nf_text_str(&t),
			nf_strerror(r));
		nf_text_deinit(&t);
		return NF_TREE_NONE;
	}
	return r;
}

/* The file that an item belongs to.  INODE items sort before EXTENT items, but of trees that share nodes with one seen
 * before only what differs is passed. */
static int file_of(struct nf_check *k, uint64_t ino, struct nf_check_seen **out)
{
	struct nf_view view = { .nodes = k->v->nodes, .base = k->root };
	struct nf_key key = nf_key_inode(ino);
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	int r;

	*out = k->newest ? nf_check_seen(k, ino, true) : &k->file;
	if (!*out)
		return nf_fail(-ENOMEM);
	if (k->newest || k->file.ino == ino)
		return 0;
	k->file = (struct nf_check_seen){ .ino = ino };
	while ((r = nf_view_lookup(&view, &key, &w, &val)) == NF_TREE_WANT) {
		r = k->v->src.load(k->v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	if (r == 0)
		r = see_inode(k, &key, &val);
	nf_val_deinit(&val);
	return r == NF_TREE_NONE || nf_is_damage(r) ? 0 : r;
}

static int see_extent(struct nf_check *k, const struct nf_key *key, const struct nf_val *v)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	struct nf_check_seen *s;

	int r = file_of(k, key->ino, &s);
	if (r < 0)
		return r;
	s->blocks = true;
	/* A lost node has told of itself. */
	if (!s->item && (k->lost_nodes || !k->newest))
		return 0;
	if (!s->item || !S_ISREG(s->mode) || s->flags & NF_INODE_INLINE) {
		nf_check_problem(k, key->ino, "blocks of what has none");
		return 0;
	}
	r = segments(k, s, key, v, refs);
	if (r)
		return r == NF_TREE_NONE ? 0 : r;
	for (unsigned b = 0; r == 0 && b < NF_WINDOW_BLOCKS;) {
		unsigned n = 1;
		if (!refs[b].sealed_len) {
			b++;
			continue;
		}
		while (b + n < NF_WINDOW_BLOCKS && refs[b + n].sealed_len &&
		       !memcmp(&refs[b + n].pack, &refs[b].pack, sizeof refs[b].pack) &&
		       refs[b + n].offset_bytes == refs[b + n - 1].offset_bytes + refs[b + n - 1].sealed_len)
			n++;
		r = check_run(k, key->ino, key->a + b, &refs[b], n);
		b += n;
	}
	return r;
}

static int see_xattrs(struct nf_check *k, const struct nf_key *key, const struct nf_val *v)
{
	struct nf_xattr_entry e;
	size_t pos = 0;
	int r;

	while ((r = nf_xattr_iter(v->p, v->len, &v->self, &pos, &e)) == 0) {
		r = e.is_blob ? nf_check_range(k, &e.blob.pack, e.blob.offset_bytes, e.blob.sealed_len) : 0;
		if (nf_is_damage(r))
			nf_check_problem(k, key->ino, "attribute %.*s: %s", e.name_len, e.name, nf_strerror(r));
		else if (r < 0)
			return r;
	}
	if (r < 0)
		nf_check_problem(k, key->ino, "attributes: %s", nf_strerror(r));
	return 0;
}

int nf_check_item(struct nf_check *k, const struct nf_key *key, const struct nf_val *v)
{
	int64_t value;

	if (key->ino == 0) {
		if (k->newest && key->type == NF_ITEM_COUNTER && key->a < 3 && nf_counter_decode(v->p, v->len, &value) == 0)
			k->counters[key->a] = value;
		return 0;
	}
	switch (key->type) {
	case NF_ITEM_INODE:
		return see_inode(k, key, v);
	case NF_ITEM_PARENT:
		return k->newest ? see_backs(k, key, v) : 0;
	case NF_ITEM_EXTENT:
		return see_extent(k, key, v);
	case NF_ITEM_DIRENT:
		return k->newest ? see_entries(k, key, v) : 0;
	case NF_ITEM_XATTR:
		return see_xattrs(k, key, v);
	default:
		return 0;
	}
}

/* --- do they agree? ----------------------------------------------------------------------- */

/* Does the directory lead to the root? */
static bool reaches_root(struct nf_check *k, struct nf_check_seen *s)
{
	struct nf_check_seen *at = s;

	while (at && at->reach == 0 && at->ino != NF_INO_ROOT && at->ino != NF_INO_STASH) {
		at->reach = 1;
		at = nf_check_seen(k, at->parent, false);
	}
	bool ok = at && (at->ino == NF_INO_ROOT || at->ino == NF_INO_STASH || at->reach == 2);
	for (at = s; ok && at && at->reach == 1;) {
		at->reach = 2;
		at = nf_check_seen(k, at->parent, false);
	}
	return ok;
}

static void check_seen(struct nf_check *k, struct nf_check_seen *s)
{
	bool top = s->ino == NF_INO_ROOT || s->ino == NF_INO_STASH;

	if (!s->item) {
		nf_check_problem(k, s->ino, k->lost_nodes ? "its inode is lost" : "named in a directory, but there is no such inode");
		return;
	}
	if (s->names || s->entries != s->backs)
		nf_check_problem(k, s->ino, "%u entries, %u back-references, and they do not agree", s->entries, s->backs);
	if (S_ISDIR(s->mode)) {
		if (s->nlink != 2 + s->subdirs)
			nf_check_problem(k, s->ino, "link count %u of a directory with %u subdirectories", s->nlink,
				s->subdirs);
		if (!top && s->entries != 1)
			nf_check_problem(k, s->ino, "a directory with %u names", s->entries);
		else if (!reaches_root(k, s))
			nf_check_problem(k, s->ino, "a directory that does not lead to the root");
	} else if (s->nlink != s->entries || s->entries == 0) {
		nf_check_problem(k, s->ino, "link count %u, but %u names", s->nlink, s->entries);
	}
}

static void check_counter(struct nf_check *k, unsigned which, const char *what, uint64_t now)
{
	if (k->counters[which] != (int64_t)now)
		nf_check_problem(k, NF_INO_ROOT, "counter of %s says %" PRId64 ", there are %" PRIu64, what,
			k->counters[which], now);
}

void nf_check_agree(struct nf_check *k)
{
	uint64_t files = 0, before = k->r.problems;

	for (struct nf_avl_node *n = nf_avl_first(&k->inodes); n; n = nf_avl_next(n)) {
		struct nf_check_seen *s = nf_container_of(n, struct nf_check_seen, node);
		/* What a lost node held leaves gaps everywhere: only what cannot be reached is told. */
		if (!k->lost_nodes || !s->item)
			check_seen(k, s);
		files += s->item && s->ino != NF_INO_ROOT && s->ino != NF_INO_STASH;
	}
	if (k->lost_nodes)
		return;
	check_counter(k, NF_COUNTER_INODES, "inodes", files);
	check_counter(k, NF_COUNTER_BYTES, "bytes", k->r.bytes);
	k->at_odds = k->r.problems - before;
}
