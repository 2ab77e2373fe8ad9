/* vault/check.c - is everything that the newest tree, snapshots and kept commits reach there, whole and consistent?
 *
 *   packs/        listed once: what is missing or too short is known before anything is fetched
 *   trees         the newest, snapshots, kept commits: each node once; what damage there is ends only what lies below it
 *   heads         the newest one; deltas of kept commits
 *   READ_DATA     nodes, blocks and deltas are fetched from the store and opened
 *
 * Lines say where: a path, behind the snapshot or commit if it is not the newest state. */
#include "vault/check_i.h"

#include "base/error.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum { PATH_DEPTH_MAX = 64, MEND_ROUNDS = 6 };

/* --- reports ------------------------------------------------------------------------------------- */

/* An entry of the tree under way that names INO: its directory and name; blocks. */
static int name_of(struct nf_check *k, uint64_t ino, uint64_t *up, char name[NF_NAME_MAX + 1])
{
	struct nf_view view = { .nodes = k->v->nodes, .base = k->root };
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	struct nf_check_seen *s = k->newest ? nf_check_seen(k, ino, false) : NULL;
	uint8_t len;
	int r;

	while ((r = nf_view_parent(&view, ino, &w, up, name, &len)) == NF_TREE_WANT)
		if ((r = k->v->src.load(k->v->src.ctx, &w)) < 0)
			break;
	if (r == 0 || !s || !s->entries)
		return r;
	/* Its own items are lost; the directory's may be there. */
	struct nf_key at = { .ino = s->parent, .type = NF_ITEM_DIRENT }, to = { .ino = s->parent, .type = NF_ITEM_DIRENT + 1 };
	for (struct nf_key key;; at = key, at.b++) {
		struct nf_val val = { 0 };
		struct nf_dirent d;
		size_t pos = 0;
		bool found = false;
		while ((r = nf_tree_next(k->v->nodes, &k->root, &at, &to, &w, &key, &val)) == NF_TREE_WANT)
			if ((r = k->v->src.load(k->v->src.ctx, &w)) < 0)
				break;
		while (r == 0 && !found && nf_dirent_iter(val.p, val.len, &pos, &d) == 0) {
			found = d.ino == ino;
			if (found) {
				memcpy(name, d.name, d.name_len);
				name[d.name_len] = '\0';
				*up = s->parent;
			}
		}
		nf_val_deinit(&val);
		if (r || found)
			return r;
	}
}

void nf_check_path(struct nf_check *k, uint64_t ino, char *out, size_t size)
{
	char name[NF_NAME_MAX + 1], tail[2048] = "";

	for (int depth = 0; ino != NF_INO_ROOT && depth < PATH_DEPTH_MAX; depth++) {
		char now[2048];
		uint64_t up;
		if (name_of(k, ino, &up, name)) {
			(void)snprintf(out, size, "inode %" PRIx64 "%s", ino, tail);
			return;
		}
		(void)snprintf(now, sizeof now, "/%s%s", name, tail);
		memcpy(tail, now, sizeof tail);
		ino = up;
	}
	(void)snprintf(out, size, "%s", tail[0] ? tail : "/");
}

static void say(struct nf_check *k, const char *line)
{
	if (k->o.report)
		k->o.report(k->o.ctx, line);
}

void nf_check_say(struct nf_check *k, const char *fmt, ...)
{
	char line[2800];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	say(k, line);
}

void nf_check_problem(struct nf_check *k, uint64_t ino, const char *fmt, ...)
{
	char path[2048], what[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	k->r.problems++;
	nf_check_path(k, ino, path, sizeof path);
	nf_check_say(k, "%s%s: %s", k->where, path, what);
}

/* --- the store ------------------------------------------------------------------------------------ */

struct place {
	const struct nf_pack_id *pack;
	uint32_t offset_bytes;
};

static int cmp_bad(const void *key, const struct nf_avl_node *n)
{
	const struct place *p = key;
	const struct nf_check_bad *b = nf_container_of(n, const struct nf_check_bad, node);
	int c = memcmp(p->pack, &b->pack, sizeof b->pack);

	return c ? c : p->offset_bytes < b->offset_bytes ? -1 : p->offset_bytes > b->offset_bytes;
}

int nf_check_note_bad(struct nf_check *k, const struct nf_pack_id *pack, uint32_t offset_bytes)
{
	struct place p = { pack, offset_bytes };
	struct nf_pack_entry *e = nf_pack_set_get(&k->packs, pack);
	struct nf_check_bad *b = e ? calloc(1, sizeof *b) : NULL;

	if (!b)
		return nf_fail(-ENOMEM);
	e->condemned = true;
	b->pack = *pack;
	b->offset_bytes = offset_bytes;
	if (nf_avl_add(&k->bad, &p, cmp_bad, &b->node))
		free(b);
	return 0;
}

/* A pack that a listing did not show, or that is asked for one by one. */
static int ask_for(struct nf_check *k, struct nf_pack_entry *e)
{
	struct nf_store_op op = { .verb = NF_STORE_STAT };

	if (e->listed || e->touched)
		return 0;
	nf_pack_name(&e->id, op.name);
	int r = nf_store_run(k->v->store, &op);
	nf_store_op_deinit(&op);
	if (r < 0 && r != -NF_E_STORE_NOT_FOUND)
		return r;
	e->touched = true;
	e->listed = r == 0;
	e->size_bytes = r == 0 ? op.size_bytes : 0;
	return 0;
}

int nf_check_range(struct nf_check *k, const struct nf_pack_id *pack, uint32_t offset_bytes, uint32_t len_bytes)
{
	struct nf_pack_entry *e = nf_pack_set_get(&k->packs, pack);
	struct place p = { pack, offset_bytes };

	if (!e)
		return nf_fail(-ENOMEM);
	k->r.packs += !e->needed;
	e->needed = true;
	int r = ask_for(k, e);
	if (r < 0)
		return r;
	bool there = e->listed && (uint64_t)offset_bytes + len_bytes <= e->size_bytes;
	e->condemned = e->condemned || !there;
	if (!there)
		return e->listed ? -NF_E_STORE_SHORT : -NF_E_PACK_MISSING;
	struct nf_avl_node *n = nf_avl_lower(&k->bad, &p, cmp_bad);
	struct nf_check_bad *b = n ? nf_container_of(n, struct nf_check_bad, node) : NULL;
	return b && !memcmp(&b->pack, pack, sizeof *pack) && b->offset_bytes < offset_bytes + len_bytes ? -NF_E_XFORM_BAD_TAG
													 : 0;
}

/* As the store has them: what the cache holds may be all that is left, and is left alone. */
int nf_check_read(struct nf_check *k, const struct nf_pack_id *pack, uint32_t offset_bytes, uint32_t len_bytes, void *buf)
{
	struct nf_store_op op = { .verb = NF_STORE_GET, .offset_bytes = offset_bytes, .length_bytes = len_bytes, .buf = buf,
				  .priority = NF_STORE_BACKGROUND };

	nf_pack_name(pack, op.name);
	int r = nf_store_run(k->v->store, &op);
	nf_store_op_deinit(&op);
	if (r == -NF_E_STORE_NOT_FOUND)
		return nf_fail(-NF_E_PACK_MISSING);
	return r == 0 && op.transferred_bytes != len_bytes ? nf_fail(-NF_E_STORE_SHORT) : r;
}

int nf_check_damage(struct nf_check *k, uint64_t ino, int error)
{
	if (!nf_is_damage(error))
		return error;
	if (!k->newest || (k->nr_hurt && k->hurt[k->nr_hurt - 1] == ino))
		return 0;
	if (k->nr_hurt == k->cap_hurt) {
		size_t cap = k->cap_hurt ? 2 * k->cap_hurt : 16;
		uint64_t *p = realloc(k->hurt, cap * sizeof *p);
		if (!p)
			return nf_fail(-ENOMEM);
		k->hurt = p;
		k->cap_hurt = cap;
	}
	k->hurt[k->nr_hurt++] = ino;
	return 0;
}

static int list_packs(struct nf_check *k)
{
	struct nf_gc g = { .v = k->v, .src = k->v->src };

	if (k->v->store->no_list)
		return 0;
	int r = nf_gc_list(&g);
	k->packs = g.packs;
	return r;
}

/* --- trees ------------------------------------------------------------------------------------------ */

struct visited {
	struct nf_avl_node node;
	struct nf_pack_id pack;
	uint32_t offset_bytes;
	bool bad; /* something was found wrong with it, or below it */
};

static int cmp_visited(const void *key, const struct nf_avl_node *n)
{
	const struct place *p = key;
	const struct visited *b = nf_container_of(n, const struct visited, node);
	int c = memcmp(p->pack, &b->pack, sizeof b->pack);

	return c ? c : p->offset_bytes < b->offset_bytes ? -1 : p->offset_bytes > b->offset_bytes;
}

static struct visited *find_visited(const struct nf_check *k, const struct nf_ref *ref)
{
	struct place p = { &ref->pack, ref->offset_bytes };
	struct nf_avl_node *n = nf_avl_find(&k->visited, &p, cmp_visited);

	return n ? nf_container_of(n, struct visited, node) : NULL;
}

static void visited_deinit(struct nf_check *k)
{
	struct nf_avl_node *n;

	while ((n = k->visited.root)) {
		nf_avl_erase(&k->visited, n);
		free(nf_container_of(n, struct visited, node));
	}
}

/* The sealed object as the store has it. */
static int open_sealed(struct nf_check *k, const struct nf_ref *ref, const struct nf_seal_id *id)
{
	nf_auto_free uint8_t *sealed = malloc(ref->sealed_len);
	nf_auto_free uint8_t *plain = malloc(ref->plain_len + 1);

	if (!sealed || !plain)
		return nf_fail(-ENOMEM);
	int r = nf_check_read(k, &ref->pack, ref->offset_bytes, ref->sealed_len, sealed);
	struct nf_codec *c = r == 0 ? nf_codec_get(k->v->ring) : NULL;
	if (!c)
		return r < 0 ? r : nf_fail(-ENOMEM);
	r = nf_codec_open(c, id, ref->epoch, ref->flags, ref->tag, sealed, ref->sealed_len, plain, ref->plain_len);
	nf_codec_put(c);
	return r;
}

static int check_sealed(struct nf_check *k, const struct nf_ref *ref, const struct nf_seal_id *id)
{
	int r = nf_check_range(k, &ref->pack, ref->offset_bytes, ref->sealed_len);

	if (r == 0 && k->o.read_data)
		r = open_sealed(k, ref, id);
	if (nf_is_damage(r) && nf_check_note_bad(k, &ref->pack, ref->offset_bytes) < 0)
		return nf_fail(-ENOMEM);
	return r;
}

/* Children are got many at a time; one that cannot be had is met again by itself. */
static void ahead(struct nf_check *k, struct nf_node *node, unsigned from)
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;

	for (unsigned i = from; i < node->body.nr && !nf_want_full(&w); i++) {
		struct nf_ref child;
		nf_node_child(node, i, &child);
		if (!find_visited(k, &child) && !nf_nodes_has(k->v->nodes, &child))
			(void)nf_want_add(k->v->nodes, &w, &child);
	}
	(void)nf_source_load(&k->v->src, &w);
}

static int walk(struct nf_check *k, const struct nf_ref *ref, const uint8_t *lo, const uint8_t *hi, bool *bad);

static int walk_below(struct nf_check *k, struct nf_node *node, const uint8_t *hi, bool *bad)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < node->body.nr; i++) {
		struct nf_ref child;
		struct nf_key key;
		struct nf_val val;
		if (node->ref.level) {
			if (i % NF_WANT_MAX == 0)
				ahead(k, node, i);
			nf_node_child(node, i, &child);
			if (child.level + 1 != node->ref.level)
				return nf_fail(-NF_E_TREE_BAD);
			r = walk(k, &child, nf_node_key(node, i), i + 1U < node->body.nr ? nf_node_key(node, i + 1) : hi, bad);
			continue;
		}
		nf_key_decode(nf_node_key(node, i), &key);
		nf_node_borrow(node, i, &val);
		r = nf_check_item(k, &key, &val);
	}
	return r;
}

/* A node that is gone: what it held, as far as its place tells. */
static void tell_lost(struct nf_check *k, const struct nf_ref *ref, const uint8_t *lo, const uint8_t *hi, int error)
{
	struct nf_key from = { .ino = NF_INO_ROOT }, to = { .ino = UINT64_MAX };
	char name[64], upto[40] = "the last";

	if (lo)
		nf_key_decode(lo, &from);
	if (hi) {
		nf_key_decode(hi, &to);
		(void)snprintf(upto, sizeof upto, "%" PRIx64, to.ino);
	}
	nf_pack_name(&ref->pack, name);
	nf_check_problem(k, NF_MAX(from.ino, (uint64_t)NF_INO_ROOT), "a node of the tree, for inodes %" PRIx64 " to %s, in %s, is lost: %s",
			 from.ino, upto, name, nf_strerror(error));
	k->lost_nodes += k->newest;
}

static int note_lost(struct nf_check *k, const struct nf_ref *ref, const uint8_t *lo, const uint8_t *hi, int error)
{
	struct nf_check_lost l = { .to = { UINT64_MAX, UINT8_MAX, UINT64_MAX, UINT64_MAX }, .ref = *ref, .error = error };

	if (k->nr_lost == k->cap_lost) {
		size_t cap = k->cap_lost ? 2 * k->cap_lost : 16;
		struct nf_check_lost *p = realloc(k->lost, cap * sizeof *p);
		if (!p)
			return nf_fail(-ENOMEM);
		k->lost = p;
		k->cap_lost = cap;
	}
	if (lo)
		nf_key_decode(lo, &l.from);
	if (hi)
		nf_key_decode(hi, &l.to);
	k->lost[k->nr_lost++] = l;
	return 0;
}

static int walk(struct nf_check *k, const struct nf_ref *ref, const uint8_t *lo, const uint8_t *hi, bool *bad)
{
	const struct nf_seal_id id = { .type = NF_SEAL_NODE, .index = ref->level };
	struct place place = { &ref->pack, ref->offset_bytes };
	nf_auto(nf_node_put_p) struct nf_node *node = NULL;
	struct visited *seen = find_visited(k, ref);
	uint64_t before = k->r.problems;
	char name[64];

	if (seen) {
		*bad |= seen->bad;
		return 0;
	}
	if (k->o.stop && atomic_load(k->o.stop))
		return nf_fail(-NF_E_CANCELLED);
	k->r.nodes++;
	int on_store = check_sealed(k, ref, &id);
	if (on_store < 0 && !nf_is_damage(on_store))
		return on_store;
	int r = nf_source_get(&k->v->src, ref, lo, hi, &node);
	if (r < 0 && !nf_is_damage(r))
		return r;
	if (r < 0) {
		tell_lost(k, ref, lo, hi, on_store < 0 ? on_store : r);
		if (k->newest && note_lost(k, ref, lo, hi, r) < 0)
			return nf_fail(-ENOMEM);
	} else {
		struct nf_key first = { .ino = NF_INO_ROOT };
		if (on_store < 0) {
			if (node->body.nr)
				nf_key_decode(nf_node_key(node, 0), &first);
			nf_pack_name(&ref->pack, name);
			nf_check_problem(k, NF_MAX(first.ino, (uint64_t)NF_INO_ROOT), "a node of the tree in %s: %s (this machine has it)", name,
					 nf_strerror(on_store));
		}
		bool below = false;
		r = walk_below(k, node, hi, &below);
		*bad |= below;
		if (nf_is_damage(r)) {
			tell_lost(k, ref, lo, hi, r);
			r = 0;
		}
		if (r < 0)
			return r;
	}
	struct visited *v = calloc(1, sizeof *v);
	if (!v)
		return nf_fail(-ENOMEM);
	v->pack = ref->pack;
	v->offset_bytes = ref->offset_bytes;
	v->bad = *bad || k->r.problems != before;
	(void)nf_avl_add(&k->visited, &place, cmp_visited, &v->node); /* no tree holds a node below itself */
	*bad |= v->bad;
	return 0;
}

/* --- what there is to look at ------------------------------------------------------------------------------ */

static int check_tree(struct nf_check *k, const struct nf_ref *root, const char *where, bool newest)
{
	uint64_t before = k->r.problems;
	bool bad = false;
	int r = 0;

	k->where = where;
	k->newest = newest;
	k->root = *root;
	k->file = (struct nf_check_seen){ 0 };
	if (!nf_ref_is_null(root))
		r = walk(k, root, NULL, NULL, &bad);
	/* What it shares with one gone through before was told there. */
	if (r == 0 && bad && k->r.problems == before) {
		k->r.problems++;
		nf_check_say(k, "%shas some of the damage listed above", where);
	}
	if (r == 0 && newest)
		nf_check_agree(k);
	return r;
}

struct named {
	struct nf_check *k;
	const struct nf_gc_root *root;
	char *out;
	size_t size;
};

static int name_snapshot(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct named *n = ctx;
	struct nf_snapshot_entry e;
	size_t pos = 0;

	(void)key;
	while (nf_snapshot_iter(val->p, val->len, &val->self, &pos, &e) == 0)
		if (!memcmp(e.rand, n->root->rand, sizeof e.rand))
			(void)snprintf(n->out, n->size, "snapshot %.*s: ", e.name_len, e.name);
	return 0;
}

static int check_older(struct nf_check *k, const struct nf_ref *newest, const struct nf_gc_root *root)
{
	char where[300];
	struct named n = { .k = k, .root = root, .out = where, .size = sizeof where };
	struct nf_key to = root->key;

	(void)snprintf(where, sizeof where, "commit %" PRIu64 ": ", root->seq);
	to.b++;
	int r = root->key.type == NF_ITEM_SNAPSHOT ? nf_gc_range(&k->v->src, newest, &root->key, &to, name_snapshot, &n) : 0;
	return r < 0 && !nf_is_damage(r) ? r : check_tree(k, &root->root, where, false);
}

static int check_delta(struct nf_check *k, const struct nf_gc_delta *d)
{
	struct nf_seal_id id = { .type = NF_SEAL_DELTA, .birth = d->key.b, .index = (uint32_t)d->key.a };
	char name[64];

	int r = check_sealed(k, &d->delta, &id);
	if (!nf_is_damage(r))
		return r;
	nf_pack_name(&d->delta.pack, name);
	k->r.problems++;
	nf_check_say(k, "commit %" PRIu64 ": its list of operations, in %s: %s", d->head_seq, name, nf_strerror(r));
	return 0;
}

/* The head that all hangs on, as the store has it. */
static int check_head(struct nf_check *k, const struct nf_head *h)
{
	nf_auto_free uint8_t *buf = malloc(NF_HEAD_BYTES_MAX);
	struct nf_store_op op = { .verb = NF_STORE_GET, .length_bytes = NF_HEAD_BYTES_MAX, .whole = true, .buf = buf };
	struct nf_codec *c = nf_codec_get(k->v->ring);
	struct nf_head got = { 0 };

	if (!buf || !c) {
		if (c)
			nf_codec_put(c);
		return nf_fail(-ENOMEM);
	}
	nf_head_name(h->id.seq, h->id.rand, op.name);
	int r = nf_store_run(k->v->store, &op);
	nf_store_op_deinit(&op);
	bool lost = r == -NF_E_STORE_NOT_FOUND;
	if (r == 0)
		lost = nf_head_open(c, h->id.seq, h->id.rand, buf, op.transferred_bytes, &got) < 0;
	nf_codec_put(c);
	nf_head_deinit(&got);
	if (lost) {
		k->r.problems++;
		nf_check_say(k, "%s, the newest head, is %s on the store", op.name, r < 0 ? "missing" : "damaged");
	}
	struct nf_gc_delta d = { .key = { .a = h->writer, .b = h->writer_seq }, .head_seq = h->id.seq, .delta = h->delta };
	if ((r < 0 && !lost) || nf_ref_is_null(&h->delta))
		return lost ? 0 : r;
	return check_delta(k, &d);
}

static int check_all(struct nf_check *k)
{
	struct nf_gc g = { .v = k->v, .src = k->v->src };

	nf_lock_take(&k->v->ns);
	int r = nf_head_copy(&g.leaf, &k->v->base);
	nf_lock_drop(&k->v->ns);
	nf_check_items_deinit(k);
	k->lost_nodes = k->at_odds = 0;
	k->nr_hurt = k->nr_lost = 0;
	k->r = (struct nf_check_result){ 0 };
	k->newest_root = g.leaf.root;
	if (r == 0)
		r = check_tree(k, &g.leaf.root, "", true);
	/* A mounted snapshot has no more to it. */
	if (r == 0 && !k->v->fixed) {
		r = check_head(k, &g.leaf);
		if (r == 0)
			r = nf_gc_items(&g);
		if (nf_is_damage(r)) {
			k->r.problems++;
			nf_check_say(k, "the list of commits and snapshots: %s", nf_strerror(r));
			r = 0;
		}
		for (size_t i = g.nr_roots; r == 0 && i-- > 0;)
			if (g.roots[i].key.type)
				r = check_older(k, &g.leaf.root, &g.roots[i]);
		for (size_t i = 0; r == 0 && i < g.nr_deltas; i++)
			r = check_delta(k, &g.deltas[i]);
		k->where = "";
		k->r.snapshots = g.nr_snapshots;
		k->r.commits = g.nr_roots - NF_MIN(g.nr_roots, g.nr_snapshots);
	}
	nf_gc_items_deinit(&g);
	nf_head_deinit(&g.leaf);
	visited_deinit(k);
	return r;
}

/* --- a check -------------------------------------------------------------------------------------------------- */

static void check_deinit(struct nf_check *k)
{
	struct nf_avl_node *n;

	while ((n = k->bad.root)) {
		nf_avl_erase(&k->bad, n);
		free(nf_container_of(n, struct nf_check_bad, node));
	}
	for (struct nf_pack_entry *e = nf_pack_set_first(&k->packs); e; e = nf_pack_set_next(e))
		e->needed = false;
	nf_pack_set_deinit(&k->packs);
	nf_check_items_deinit(k);
	free(k->hurt);
	free(k->lost);
	free(k->mended);
	free(k->asof);
}

/* After something was put on the store again: packs are counted anew, and those that came are asked for one by one. */
static int check_again(struct nf_check *k)
{
	for (struct nf_pack_entry *e = nf_pack_set_first(&k->packs); e; e = nf_pack_set_next(e))
		e->needed = false;
	k->o.read_data = false; /* what does not open is known */
	return check_all(k);
}

/* Nodes first, so that all can be read; then what does not agree.  Another commit in between leaves things as they are: again. */
static int mend(struct nf_check *k)
{
	bool done = true;
	int r = 0;

	for (int i = 0; r == 0 && done && i < MEND_ROUNDS && (k->lost_nodes || k->at_odds); i++) {
		r = k->lost_nodes ? nf_check_mend_nodes(k, &done) : nf_check_mend_links(k, &done);
		if (r == 0 && done)
			r = check_again(k);
	}
	if (r == 0)
		nf_check_tell_asof(k);
	return r;
}

/* What this machine has and nobody else comes first. */
static int begin_repair(struct nf_check *k)
{
	struct nf_vault *v = k->v;

	v->put_back = true;
	int r = nf_vault_refresh(v);
	if (r == 0)
		r = nf_vault_sync(v, k->o.stop);
	nf_lock_take(&v->ns);
	uint64_t put_back = v->nr_put_back;
	nf_lock_drop(&v->ns);
	if (put_back)
		nf_check_say(k, "the newest commit was gone from the store: put there again as this machine knows it");
	if (v->aside)
		nf_check_say(k, "the journal of this machine was damaged: what it had not sent yet is in the vault up to the damage (%" PRIu64
			     " bytes); what was done after that (%" PRIu64 " bytes, sealed) is in %s", v->salvaged.kept_bytes,
			     v->salvaged.aside_bytes, v->aside);
	return r;
}

int nf_vault_check(struct nf_vault *v, const struct nf_check_options *o, struct nf_check_result *out)
{
	struct nf_check k = { .v = v, .o = *o, .where = "" };

	if (o->repair && (v->read_only || v->fixed || v->store->read_only))
		return nf_fail(-EROFS);
	int r = o->repair ? begin_repair(&k) : 0;
	if (r == 0)
		r = list_packs(&k);
	if (r == 0)
		r = check_all(&k);
	uint64_t found = k.r.problems, repaired = 0;
	if (r == 0 && found && o->repair) {
		nf_check_say(&k, "-- repairing --");
		r = nf_check_repair(&k);
		if (r == 0)
			r = check_again(&k);
		if (r == 0)
			r = mend(&k);
		if (r == 0 && k.nr_hurt)
			r = nf_check_restore(&k);
		repaired = found > k.r.problems ? found - k.r.problems : 0;
	}
	check_deinit(&k);
	k.r.repaired = repaired;
	if (r == 0)
		*out = k.r;
	return r;
}
