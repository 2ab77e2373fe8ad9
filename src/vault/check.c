/* vault/check.c - is everything that the newest head reaches there, whole and consistent?
 *
 *   tree walk    every node authenticates; every value decodes; per inode: what it says of itself, and what
 *                entries and back-references say of it (their names' hashes must cancel out)
 *   afterwards   links, subdirectories, directories that hang together, counters, packs' lengths
 *   READ_DATA    every block is fetched and opened
 *
 * Memory: about 100 bytes an inode, 60 a pack. */
#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"
#include "vault/run.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

/* What is known of one inode. */
struct seen {
	struct nf_avl_node node;
	uint64_t ino;
	uint64_t parent;    /* a directory that names it */
	uint64_t names;     /* xor over entries and back-references: 0 when they agree */
	uint64_t size_bytes;
	uint32_t mode;
	uint32_t nlink;
	uint32_t entries;   /* directory entries that name it */
	uint32_t backs;     /* back-references */
	uint32_t subdirs;
	uint8_t block_shift;
	uint8_t flags;
	bool item;          /* it has an INODE item */
	uint8_t reach;      /* 0 not looked at, 1 being looked at, 2 leads to the root */
};

struct pack {
	struct nf_avl_node node;
	struct nf_pack_id id;
	uint64_t end_bytes;
	uint64_t ino; /* somebody who needs it */
};

struct check {
	struct nf_vault *v;
	struct nf_ref root;
	bool read_data;
	void (*report)(void *ctx, const char *line);
	void *ctx;
	struct nf_avl inodes, packs;
	struct nf_check_result r;
	int64_t counters[3];
};

/* --- tables ------------------------------------------------------------------------------------ */

static int cmp_seen(const void *key, const struct nf_avl_node *n)
{
	uint64_t a = *(const uint64_t *)key, b = nf_container_of(n, const struct seen, node)->ino;
	return a < b ? -1 : a > b;
}

static int cmp_pack(const void *key, const struct nf_avl_node *n)
{
	return memcmp(key, &nf_container_of(n, const struct pack, node)->id, sizeof(struct nf_pack_id));
}

static struct seen *seen_get(struct check *k, uint64_t ino)
{
	struct nf_avl_node *n = nf_avl_find(&k->inodes, &ino, cmp_seen);
	if (n)
		return nf_container_of(n, struct seen, node);
	struct seen *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->ino = ino;
	nf_avl_add(&k->inodes, &ino, cmp_seen, &s->node);
	return s;
}

static int need_pack(struct check *k, const struct nf_pack_id *id, uint64_t end, uint64_t ino)
{
	struct nf_avl_node *n = nf_avl_find(&k->packs, id, cmp_pack);
	struct pack *p = n ? nf_container_of(n, struct pack, node) : calloc(1, sizeof *p);

	if (!p)
		return nf_fail(-ENOMEM);
	if (!n) {
		p->id = *id;
		nf_avl_add(&k->packs, id, cmp_pack, &p->node);
		k->r.packs++;
	}
	if (end > p->end_bytes) {
		p->end_bytes = end;
		p->ino = ino;
	}
	return 0;
}

/* --- reports ------------------------------------------------------------------------------------- */

/* The path of INO as far as it can be found. */
static void path_of(struct check *k, uint64_t ino, char *out, size_t size)
{
	struct nf_view view = { .nodes = k->v->nodes, .base = k->root };
	char name[NF_NAME_MAX + 1], tail[2048] = "";
	uint8_t len;

	for (int depth = 0; ino != NF_INO_ROOT && depth < 64; depth++) {
		struct nf_want w = NF_WANT_INIT;
		char now[2048];
		uint64_t up;
		int r;
		while ((r = nf_view_parent(&view, ino, &w, &up, name, &len)) == NF_TREE_WANT)
			if ((r = k->v->src.load(k->v->src.ctx, &w)) < 0)
				break;
		nf_want_deinit(&w);
		if (r) {
			snprintf(out, size, "inode %" PRIx64 "%s", ino, tail);
			return;
		}
		snprintf(now, sizeof now, "/%s%s", name, tail);
		memcpy(tail, now, sizeof tail);
		ino = up;
	}
	snprintf(out, size, "%s", tail[0] ? tail : "/");
}

static void problem(struct check *k, uint64_t ino, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void problem(struct check *k, uint64_t ino, const char *fmt, ...)
{
	char path[2048], what[512], line[2600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	path_of(k, ino, path, sizeof path);
	snprintf(line, sizeof line, "%s: %s", path, what);
	k->r.problems++;
	if (k->report)
		k->report(k->ctx, line);
}

/* What is on the store is not what was put there, rather than the store not to be reached. */
static bool is_damage(int r)
{
	return r == -NF_E_PACK_MISSING || r == -NF_E_XFORM_BAD_TAG || r == -NF_E_TREE_BAD || r == -NF_E_FORMAT_BAD ||
	       r == -NF_E_XFORM_TRUNCATED || r == -NF_E_XFORM_DECOMPRESS;
}

/* --- values ------------------------------------------------------------------------------------------ */

static int see_inode(struct check *k, const struct nf_key *key, const struct nf_val *v)
{
	struct nf_inode_item i;
	struct seen *s = seen_get(k, key->ino);

	if (!s)
		return nf_fail(-ENOMEM);
	int r = nf_inode_decode(v->p, v->len, &i);
	if (r < 0) {
		problem(k, key->ino, "inode item: %s", nf_strerror(r));
		return 0;
	}
	s->item = true;
	s->mode = i.mode;
	s->nlink = i.nlink;
	s->size_bytes = i.size_bytes;
	s->block_shift = i.block_shift;
	s->flags = i.flags;
	k->r.inodes++;
	if (S_ISREG(i.mode)) {
		k->r.bytes += i.size_bytes;
		if (i.flags & NF_INODE_INLINE && i.size_bytes != i.inline_len)
			problem(k, key->ino, "size %" PRIu64 " is not that of its inline data", i.size_bytes);
	}
	return 0;
}

static uint64_t name_mark(uint64_t dir, const char *name, size_t len)
{
	static const uint8_t key[16] = { 'c', 'h', 'e', 'c', 'k' };
	return nf_mix64(dir + 1) ^ nf_siphash(key, name, len);
}

static int see_entries(struct check *k, const struct nf_key *key, const struct nf_val *v)
{
	struct seen *dir = seen_get(k, key->ino);
	struct nf_dirent d;
	size_t pos = 0;
	int r;

	while ((r = nf_dirent_iter(v->p, v->len, &pos, &d)) == 0) {
		struct seen *s = seen_get(k, d.ino);
		if (!s || !dir)
			return nf_fail(-ENOMEM);
		s->entries++;
		s->parent = key->ino;
		s->names ^= name_mark(key->ino, d.name, d.name_len);
		if (d.type == S_IFDIR >> 12)
			dir->subdirs++;
		if (nf_ring_name_hash(k->v->ring, d.name, d.name_len) != key->a)
			problem(k, key->ino, "entry %.*s stands at a wrong place", d.name_len, d.name);
	}
	if (r < 0)
		problem(k, key->ino, "directory entries: %s", nf_strerror(r));
	return 0;
}

static int see_backs(struct check *k, const struct nf_key *key, const struct nf_val *v)
{
	struct seen *s = seen_get(k, key->ino);
	const char *name;
	uint8_t len;
	size_t pos = 0;
	int r;

	if (!s)
		return nf_fail(-ENOMEM);
	while ((r = nf_names_iter(v->p, v->len, &pos, &name, &len)) == 0) {
		s->backs++;
		s->names ^= name_mark(key->a, name, len);
	}
	if (r < 0)
		problem(k, key->ino, "back-reference: %s", nf_strerror(r));
	return 0;
}

/* One run of blocks that stand together: fetched at once, opened one by one. */
static int read_blocks(struct check *k, uint64_t ino, uint64_t first, const struct nf_block_ref *refs, unsigned nr)
{
	uint32_t len = 0, at = 0;

	for (unsigned i = 0; i < nr; i++)
		len += refs[i].sealed_len;
	nf_auto_free uint8_t *sealed = malloc(len);
	nf_auto_free uint8_t *plain = malloc((size_t)1 << NF_BLOCK_SHIFT_MAX);
	if (!sealed || !plain)
		return nf_fail(-ENOMEM);
	int r = nf_fetch_from_store(k->v->fetch, &refs[0].pack, refs[0].offset_bytes, len, sealed);
	if (r < 0) {
		problem(k, ino, "blocks %" PRIu64 " to %" PRIu64 ": %s", first, first + nr - 1, nf_strerror(r));
		return 0;
	}
	struct nf_codec *c = nf_codec_get(k->v->ring);
	if (!c)
		return nf_fail(-ENOMEM);
	for (unsigned i = 0; i < nr; i++) {
		struct nf_seal_id id = { .type = NF_SEAL_BLOCK, .birth = refs[i].birth, .index = refs[i].index };
		r = nf_codec_open(c, &id, refs[i].epoch, refs[i].flags, refs[i].tag, sealed + at,
				  refs[i].sealed_len, plain, refs[i].plain_len);
		if (r < 0)
			problem(k, ino, "block %" PRIu64 ": %s", first + i, nf_strerror(r));
		at += refs[i].sealed_len;
	}
	nf_codec_put(c);
	return 0;
}

/* The segments of one EXTENT value, wherever they stand.  What is wrong with them is told; NF_TREE_NONE then. */
static int segments(struct check *k, const struct seen *s, const struct nf_key *key, const struct nf_val *v,
		    struct nf_block_ref refs[NF_WINDOW_BLOCKS])
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	struct nf_extent_ref ref;
	uint32_t bs = 1u << s->block_shift;

	int r = nf_extent_ref_decode(v->p, v->len, &v->self, true, &ref);
	if (r < 0 || r == NF_TREE_NONE) {
		r = r < 0 ? r : nf_extent_decode(v->p, v->len, &v->self, bs, refs, NULL);
		if (r < 0)
			problem(k, key->ino, "block references at %" PRIu64 ": %s", key->a, nf_strerror(r));
		return r < 0 ? NF_TREE_NONE : 0;
	}
	r = need_pack(k, &ref.leaf.pack, (uint64_t)ref.leaf.offset_bytes + ref.leaf.sealed_len, key->ino);
	while (r == 0 && (r = nf_extent_resolve(k->v->nodes, &ref, bs, &w, refs)) == NF_TREE_WANT) {
		r = k->v->src.load(k->v->src.ctx, &w);
		w.nr = 0;
	}
	if (is_damage(r)) {
		struct nf_text t = NF_TEXT_INIT;
		nf_extent_ref_to_text(&ref, &t);
		problem(k, key->ino, "block references at %" PRIu64 ", %s: %s", key->a, nf_text_str(&t),
			nf_strerror(r));
		nf_text_deinit(&t);
		return NF_TREE_NONE;
	}
	return r;
}

static int see_extent(struct check *k, const struct nf_key *key, const struct nf_val *v)
{
	struct seen *s = seen_get(k, key->ino);
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];

	if (!s)
		return nf_fail(-ENOMEM);
	/* INODE items sort before EXTENT items. */
	if (!s->item || !S_ISREG(s->mode) || s->flags & NF_INODE_INLINE) {
		problem(k, key->ino, "blocks of what has none");
		return 0;
	}
	int r = segments(k, s, key, v, refs);
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
		const struct nf_block_ref *last = &refs[b + n - 1];
		k->r.blocks += n;
		r = need_pack(k, &refs[b].pack, (uint64_t)last->offset_bytes + last->sealed_len, key->ino);
		if (r == 0 && k->read_data)
			r = read_blocks(k, key->ino, key->a + b, &refs[b], n);
		b += n;
	}
	return r;
}

static int see_item(void *ctx, const struct nf_key *key, const struct nf_val *v)
{
	struct check *k = ctx;
	int64_t value;

	if (key->ino == 0) {
		if (key->type == NF_ITEM_COUNTER && key->a < 3 && nf_counter_decode(v->p, v->len, &value) == 0)
			k->counters[key->a] = value;
		return 0;
	}
	switch (key->type) {
	case NF_ITEM_INODE:
		return see_inode(k, key, v);
	case NF_ITEM_PARENT:
		return see_backs(k, key, v);
	case NF_ITEM_EXTENT:
		return see_extent(k, key, v);
	case NF_ITEM_DIRENT:
		return see_entries(k, key, v);
	default:
		return 0;
	}
}

static int see_node(void *ctx, const struct nf_ref *ref)
{
	struct check *k = ctx;

	k->r.nodes++;
	return need_pack(k, &ref->pack, (uint64_t)ref->offset_bytes + ref->sealed_len, NF_INO_ROOT);
}

/* --- afterwards ---------------------------------------------------------------------------------------- */

/* Does the directory lead to the root? */
static bool reaches_root(struct check *k, struct seen *s)
{
	struct seen *at = s;

	while (at && at->reach == 0 && at->ino != NF_INO_ROOT && at->ino != NF_INO_STASH) {
		at->reach = 1;
		struct nf_avl_node *n = nf_avl_find(&k->inodes, &at->parent, cmp_seen);
		at = n ? nf_container_of(n, struct seen, node) : NULL;
	}
	bool ok = at && (at->ino == NF_INO_ROOT || at->ino == NF_INO_STASH || at->reach == 2);
	for (at = s; ok && at && at->reach == 1;) {
		at->reach = 2;
		struct nf_avl_node *n = nf_avl_find(&k->inodes, &at->parent, cmp_seen);
		at = n ? nf_container_of(n, struct seen, node) : NULL;
	}
	return ok;
}

static void check_seen(struct check *k, struct seen *s)
{
	bool top = s->ino == NF_INO_ROOT || s->ino == NF_INO_STASH;

	if (!s->item) {
		problem(k, s->ino, "named in a directory, but there is no such inode");
		return;
	}
	if (s->names || s->entries != s->backs)
		problem(k, s->ino, "%u entries, %u back-references, and they do not agree", s->entries, s->backs);
	if (S_ISDIR(s->mode)) {
		if (s->nlink != 2 + s->subdirs)
			problem(k, s->ino, "link count %u of a directory with %u subdirectories", s->nlink,
				s->subdirs);
		if (!top && s->entries != 1)
			problem(k, s->ino, "a directory with %u names", s->entries);
		else if (!reaches_root(k, s))
			problem(k, s->ino, "a directory that does not lead to the root");
	} else if (s->nlink != s->entries || s->entries == 0) {
		problem(k, s->ino, "link count %u, but %u names", s->nlink, s->entries);
	}
}

static int check_pack(struct check *k, const struct pack *p)
{
	struct nf_store_op op = { .verb = NF_STORE_STAT };
	char name[64];

	nf_pack_name(&p->id, name);
	snprintf(op.name, sizeof op.name, "%s", name);
	int r = nf_store_run(k->v->store, &op);
	nf_store_op_deinit(&op);
	if (r == -NF_E_STORE_NOT_FOUND)
		problem(k, p->ino, "%s is missing on the store", name);
	else if (r < 0)
		return r;
	else if (op.size_bytes < p->end_bytes)
		problem(k, p->ino, "%s has %" PRIu64 " bytes, at least %" PRIu64 " are needed", name,
			op.size_bytes, p->end_bytes);
	return 0;
}

static void check_counter(struct check *k, unsigned which, const char *what, uint64_t now)
{
	if (k->counters[which] != (int64_t)now)
		problem(k, NF_INO_ROOT, "counter of %s says %" PRId64 ", there are %" PRIu64, what,
			k->counters[which], now);
}

static void free_tables(struct check *k)
{
	struct nf_avl_node *n;

	while ((n = k->inodes.root)) {
		nf_avl_erase(&k->inodes, n);
		free(nf_container_of(n, struct seen, node));
	}
	while ((n = k->packs.root)) {
		nf_avl_erase(&k->packs, n);
		free(nf_container_of(n, struct pack, node));
	}
}

int nf_vault_check(struct nf_vault *v, bool read_data, void (*report)(void *ctx, const char *line), void *ctx,
		   struct nf_check_result *out)
{
	struct check k = { .v = v, .read_data = read_data, .report = report, .ctx = ctx };
	uint64_t files = 0;

	nf_avl_init(&k.inodes, NULL);
	nf_avl_init(&k.packs, NULL);
	nf_lock_take(&v->ns);
	k.root = v->base.root;
	nf_lock_drop(&v->ns);
	int r = nf_tree_walk(&v->src, &k.root, see_item, see_node, &k);
	for (struct nf_avl_node *n = nf_avl_first(&k.inodes); r == 0 && n; n = nf_avl_next(n)) {
		struct seen *s = nf_container_of(n, struct seen, node);
		check_seen(&k, s);
		files += s->item && s->ino != NF_INO_ROOT && s->ino != NF_INO_STASH;
	}
	if (r == 0) {
		check_counter(&k, NF_COUNTER_INODES, "inodes", files);
		check_counter(&k, NF_COUNTER_BYTES, "bytes", k.r.bytes);
	}
	for (struct nf_avl_node *n = nf_avl_first(&k.packs); r == 0 && n; n = nf_avl_next(n))
		r = check_pack(&k, nf_container_of(n, struct pack, node));
	free_tables(&k);
	*out = k.r;
	/* A node that is missing or does not authenticate ends the walk: that is what was found. */
	if (is_damage(r)) {
		problem(&k, NF_INO_ROOT, "the tree cannot be read: %s", nf_strerror(r));
		*out = k.r;
		r = 0;
	}
	return r;
}
