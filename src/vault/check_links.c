/* vault/check_links.c - items of the newest tree that do not agree, after lost nodes were replaced by older ones.
 *
 *     entry (directory, name) -> inode        both say the same, so one of them is enough; where one of them comes from an
 *     back-reference inode -> (directory, name)   older tree and the other does not, the other is right
 *
 *     name without an inode     a directory is made again, empty but for what names it; of anything else the name goes
 *     inode without a name      one that came back from the older tree was removed since and goes again; others get a
 *                               name in the root directory
 *     links, counters           as counted
 *
 * What is met is in k->inodes; the tree is gone through once more for the names of what does not agree. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/apply.h"
#include "vault/check_i.h"
#include "vault/mend.h"

#include <inttypes.h>
#include <stdio.h>

struct link {
	uint64_t ino, dir;
	bool entry, back;
	uint8_t type, len;
	char name[NF_NAME_MAX + 1];
};

struct joining {
	struct nf_check *k;
	struct nf_mend *mend;
	struct nf_view view;
	struct link *links;
	size_t nr, cap;
};

static bool is_top(const struct nf_check_seen *s) { return s->ino == NF_INO_ROOT || s->ino == NF_INO_STASH; }

bool nf_check_agrees(const struct nf_check_seen *s)
{
	if (!s->item || s->names || s->entries != s->backs)
		return false;
	return S_ISDIR(s->mode) ? is_top(s) || s->entries == 1 : s->entries > 0 && s->nlink == s->entries;
}

/* --- what names there are ----------------------------------------------------------------------- */

static int add_link(struct joining *j, uint64_t ino, uint64_t dir, const char *name, uint8_t len, uint8_t type, bool entry)
{
	if (j->nr == j->cap) {
		size_t cap = j->cap ? 2 * j->cap : 64;
		struct link *p = realloc(j->links, cap * sizeof *p);
		if (!p)
			return nf_fail(-ENOMEM);
		j->links = p;
		j->cap = cap;
	}
	struct link *l = &j->links[j->nr++];
	*l = (struct link){ .ino = ino, .dir = dir, .entry = entry, .back = !entry, .type = type, .len = len };
	memcpy(l->name, name, len);
	return 0;
}

static bool is_wanted(struct joining *j, uint64_t ino)
{
	struct nf_check_seen *s = nf_check_seen(j->k, ino, false);

	return s && !nf_check_agrees(s);
}

static int see_item(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct joining *j = ctx;
	struct nf_dirent d;
	const char *name;
	uint8_t len;
	size_t pos = 0;
	int r = 0;

	if (key->type == NF_ITEM_DIRENT) {
		while (r == 0 && nf_dirent_iter(val->p, val->len, &pos, &d) == 0)
			if (is_wanted(j, d.ino))
				r = add_link(j, d.ino, key->ino, d.name, d.name_len, d.type, true);
	} else if (key->type == NF_ITEM_PARENT && is_wanted(j, key->ino)) {
		while (r == 0 && nf_names_iter(val->p, val->len, &pos, &name, &len) == 0)
			r = add_link(j, key->ino, key->a, name, len, 0, false);
	}
	return r;
}

static int by_name(const void *pa, const void *pb)
{
	const struct link *a = pa, *b = pb;

	if (a->ino != b->ino)
		return a->ino < b->ino ? -1 : 1;
	if (a->dir != b->dir)
		return a->dir < b->dir ? -1 : 1;
	int c = strcmp(a->name, b->name);
	return c ? c : b->entry - a->entry;
}

/* An entry and the back-reference to it become one. */
static void join(struct joining *j)
{
	size_t kept = 0;

	if (j->nr)
		qsort(j->links, j->nr, sizeof *j->links, by_name);
	for (size_t i = 0; i < j->nr; i++) {
		struct link *l = &j->links[i], *last = kept ? &j->links[kept - 1] : NULL;
		if (last && last->ino == l->ino && last->dir == l->dir && !strcmp(last->name, l->name))
			last->back |= l->back;
		else
			j->links[kept++] = *l;
	}
	j->nr = kept;
}

/* --- changes ---------------------------------------------------------------------------------------- */

static int look_up(struct joining *j, const struct nf_key *key, struct nf_val *out)
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	int r;

	while ((r = nf_view_lookup(&j->view, key, &w, out)) == NF_TREE_WANT) {
		r = j->k->v->src.load(j->k->v->src.ctx, &w);
		if (r < 0)
			break;
		w.nr = 0;
	}
	return r;
}

static int put(struct joining *j, const struct nf_key *key, struct nf_buf *b)
{
	int r = nf_buf_error(b);

	if (r == 0)
		r = b->len ? nf_layer_put(j->mend->layer, key, b->p, b->len) : nf_layer_remove(j->mend->layer, key);
	return r;
}

static uint64_t hash_of(struct joining *j, const struct link *l)
{
	return nf_ring_name_hash(j->k->v->ring, l->name, l->len);
}

static int edit_entry(struct joining *j, struct link *l, bool add)
{
	struct nf_key key = nf_key_dirent(l->dir, hash_of(j, l));
	struct nf_dirent d = { .ino = add ? l->ino : 0, .type = l->type, .name = l->name, .name_len = l->len };
	struct nf_check_seen *dir = nf_check_seen(j->k, l->dir, false);
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	struct nf_val val = { 0 };

	int r = look_up(j, &key, &val);
	if (r >= 0)
		r = nf_dirent_edit(r == 0 ? val.p : NULL, r == 0 ? val.len : 0, &d, &b);
	nf_val_deinit(&val);
	if (r == 0)
		r = put(j, &key, &b);
	if (r == 0 && dir && l->type == S_IFDIR >> 12)
		dir->subdirs += add ? 1 : -1U;
	if (r == 0)
		l->entry = add;
	return r;
}

static int edit_back(struct joining *j, struct link *l, bool add)
{
	struct nf_key key = nf_key_parent(l->ino, l->dir, hash_of(j, l));
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	struct nf_val val = { 0 };

	int r = look_up(j, &key, &val);
	if (r >= 0)
		r = nf_names_edit(r == 0 ? val.p : NULL, r == 0 ? val.len : 0, l->name, l->len, add, &b);
	nf_val_deinit(&val);
	if (r == 0)
		r = put(j, &key, &b);
	if (r == 0)
		l->back = add;
	return r;
}

static int forget(struct joining *j, struct link *l)
{
	int r = l->entry ? edit_entry(j, l, false) : 0;

	return r == 0 && l->back ? edit_back(j, l, false) : r;
}

/* --- one inode ---------------------------------------------------------------------------------------- */

/* A directory of which nothing but its name, or names in it, is left. */
static int make_dir(struct joining *j, struct nf_check_seen *s)
{
	struct nf_key key = nf_key_inode(NF_INO_ROOT);
	struct nf_inode_item i;
	struct nf_val val = { 0 };

	int r = look_up(j, &key, &val);
	if (r == 0)
		r = nf_inode_decode(val.p, val.len, &i);
	nf_val_deinit(&val);
	if (r)
		return r < 0 ? r : nf_fail(-NF_E_TREE_BAD);
	i.mode = S_IFDIR | 0700;
	i.nlink = 2 + s->subdirs;
	r = nf_layer_put_inode(j->mend->layer, s->ino, &i);
	if (r < 0)
		return r;
	nf_check_problem(j->k, s->ino, "a directory of which the inode is lost; it is made again, for its owner alone");
	s->item = true;
	s->mode = i.mode;
	s->nlink = i.nlink;
	return 0;
}

/* Its name says something that is not true any more, as far as can be told. */
static bool is_stale(struct joining *j, const struct link *l)
{
	struct nf_key entry = nf_key_dirent(l->dir, hash_of(j, l)), back = nf_key_parent(l->ino, l->dir, hash_of(j, l));

	if (l->entry == l->back)
		return false;
	return l->entry ? nf_check_is_mended(j->k, &entry) && !nf_check_is_mended(j->k, &back)
			: nf_check_is_mended(j->k, &back) && !nf_check_is_mended(j->k, &entry);
}

/* Makes both sides of a name say the same; *NAMES counts those that stay. */
static int settle(struct joining *j, struct nf_check_seen *s, struct link *l, uint32_t *names)
{
	struct nf_check_seen *dir = nf_check_seen(j->k, l->dir, false);
	bool second = S_ISDIR(s->mode) && (*names || is_top(s));
	int r = 0;

	l->type = (uint8_t)((s->mode & S_IFMT) >> 12);
	if (!dir || !dir->item || !S_ISDIR(dir->mode) || second || is_stale(j, l))
		return forget(j, l);
	if (!l->entry) {
		r = edit_entry(j, l, true);
		/* Another has the name. */
		if (r == -EEXIST || r == -ENOSPC)
			return forget(j, l);
	}
	if (r == 0 && !l->back)
		r = edit_back(j, l, true);
	*names += r == 0;
	return r;
}

/* Nothing names it. */
static int place(struct joining *j, struct nf_check_seen *s, uint32_t *names)
{
	struct nf_key key = nf_key_inode(s->ino);
	struct link l = { .ino = s->ino, .dir = NF_INO_ROOT, .type = (uint8_t)((s->mode & S_IFMT) >> 12) };

	if (!S_ISDIR(s->mode) && nf_check_is_mended(j->k, &key) && s->backs) {
		int r = nf_layer_wipe(j->mend->layer, s->ino);
		s->item = false;
		return r;
	}
	l.len = (uint8_t)snprintf(l.name, sizeof l.name, "recovered-%" PRIx64, s->ino);
	int r = edit_entry(j, &l, true);
	if (r == 0)
		r = edit_back(j, &l, true);
	if (r == 0) {
		nf_check_say(j->k, "inode %" PRIx64 ", whose names are lost, is in the root directory as \"%s\"", s->ino, l.name);
		*names = 1;
	}
	return r == -EEXIST ? 0 : r;
}

/* There is no such inode: its names go, each of them told. */
static int drop_names(struct joining *j, struct link *l, size_t nr)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < nr; i++) {
		char path[2048];
		nf_check_path(j->k, l[i].dir, path, sizeof path);
		if (l[i].entry)
			nf_check_say(j->k, "%s/%s: nothing is left of it but its name, which goes", strcmp(path, "/") ? path : "",
				     l[i].name);
		r = forget(j, &l[i]);
	}
	return r;
}

static int mend_inode(struct joining *j, struct nf_check_seen *s, struct link *l, size_t nr)
{
	struct nf_key key = nf_key_inode(s->ino);
	uint32_t names = 0;
	int r = 0;

	if (!s->item) {
		struct nf_val val = { 0 };
		r = look_up(j, &key, &val);
		nf_val_deinit(&val);
		/* One that does not decode is left as it is, and so are blocks that nothing tells the file of. */
		if (r <= 0 || s->blocks)
			return NF_MIN(r, 0);
		if (!s->dir)
			return drop_names(j, l, nr);
		r = make_dir(j, s);
	}
	/* Names that both sides have come first: of a directory one stays. */
	for (size_t i = 0; r == 0 && i < nr; i++)
		if (l[i].entry && l[i].back)
			r = settle(j, s, &l[i], &names);
	for (size_t i = 0; r == 0 && i < nr; i++)
		if (l[i].entry != l[i].back)
			r = settle(j, s, &l[i], &names);
	if (r == 0 && !names && !is_top(s))
		r = place(j, s, &names);
	s->entries = s->backs = names;
	return r;
}

/* --- counts --------------------------------------------------------------------------------------------- */

static int put_links(struct joining *j, struct nf_check_seen *s)
{
	uint32_t now = S_ISDIR(s->mode) ? 2 + s->subdirs : s->entries;
	struct nf_key key = nf_key_inode(s->ino);
	struct nf_inode_item i;
	struct nf_val val = { 0 };

	if (!s->item || s->nlink == now || !now)
		return 0;
	int r = look_up(j, &key, &val);
	if (r == 0)
		r = nf_inode_decode(val.p, val.len, &i);
	if (r == 0) {
		i.nlink = now;
		r = nf_layer_put_inode(j->mend->layer, s->ino, &i);
	}
	nf_val_deinit(&val);
	return NF_MIN(r, 0);
}

static int put_counter(struct joining *j, unsigned which, uint64_t now)
{
	struct nf_key key = { .type = NF_ITEM_COUNTER, .a = which };
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;

	if (j->k->counters[which] == (int64_t)now)
		return 0;
	nf_counter_encode(&b, (int64_t)now);
	return put(j, &key, &b);
}

static int count(struct joining *j)
{
	uint64_t files = 0, bytes = 0;
	int r = 0;

	for (struct nf_avl_node *n = nf_avl_first(&j->k->inodes); r == 0 && n; n = nf_avl_next(n)) {
		struct nf_check_seen *s = nf_container_of(n, struct nf_check_seen, node);
		r = put_links(j, s);
		files += s->item && !is_top(s);
		bytes += s->item && S_ISREG(s->mode) ? s->size_bytes : 0;
	}
	if (r == 0)
		r = put_counter(j, NF_COUNTER_INODES, files);
	return r < 0 ? r : put_counter(j, NF_COUNTER_BYTES, bytes);
}

/* --- all of them ---------------------------------------------------------------------------------------------- */

static int mend_all(struct joining *j)
{
	struct nf_check *k = j->k;
	size_t i = 0;

	int r = nf_tree_walk(&k->v->src, &k->root, see_item, NULL, j);
	join(j);
	/* Directories that are to be made again stand for others' names: first. */
	for (struct nf_avl_node *n = nf_avl_first(&k->inodes); r == 0 && n; n = nf_avl_next(n)) {
		struct nf_check_seen *s = nf_container_of(n, struct nf_check_seen, node);
		struct nf_key key = nf_key_inode(s->ino);
		struct nf_val val = { 0 };
		if (s->item || !s->dir || s->blocks)
			continue;
		r = look_up(j, &key, &val);
		nf_val_deinit(&val);
		r = r == NF_TREE_NONE ? make_dir(j, s) : NF_MIN(r, 0);
	}
	for (struct nf_avl_node *n = nf_avl_first(&k->inodes); r == 0 && n; n = nf_avl_next(n)) {
		struct nf_check_seen *s = nf_container_of(n, struct nf_check_seen, node);
		size_t nr = 0;
		while (i < j->nr && j->links[i].ino < s->ino)
			i++;
		while (i + nr < j->nr && j->links[i + nr].ino == s->ino)
			nr++;
		/* One that was made now has its names in the list as well. */
		if (nr || (!nf_check_agrees(s) && !(S_ISDIR(s->mode) && is_top(s))))
			r = mend_inode(j, s, j->links + i, nr);
	}
	return r == 0 ? count(j) : r;
}

int nf_check_mend_links(struct nf_check *k, bool *done)
{
	struct joining j = { .k = k };

	*done = false;
	k->newest = true;
	k->root = k->newest_root;
	int r = nf_mend_new(&k->root, &j.mend);
	if (r < 0)
		return r;
	j.view = (struct nf_view){ .nodes = k->v->nodes, .base = k->root, .layers = { j.mend->layer } };
	r = mend_all(&j);
	if (r == 0 && !nf_layer_empty(j.mend->layer)) {
		r = nf_mend_commit(k->v, nf_steal(&j.mend), k->o.stop);
		*done = r == 0;
	}
	nf_mend_free(j.mend);
	free(j.links);
	return r;
}
