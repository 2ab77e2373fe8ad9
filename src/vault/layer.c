/* Layers: a map of keys to values or removals, and per inode what is removed as a whole.
 *
 *     entries   (ino 7, INODE) value   (ino 7, EXTENT 0) value   (ino 9, INODE) removed
 *     marks     ino 7: cut at block 128      ino 8: wiped
 *
 * An entry always counts more than a mark of its own layer: placing a mark takes away the entries it covers, and a
 * removal that a mark covers is not kept. */
#include "vault/layer_priv.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"

static int entry_cmp(const void *key, const struct nf_avl_node *n)
{
	return nf_key_cmp(key, &nf_container_of(n, const struct nf_layer_entry, node)->key);
}

static int mark_cmp(const void *key, const struct nf_avl_node *n)
{
	const uint64_t *ino = key;
	uint64_t there = nf_container_of(n, const struct nf_layer_mark, node)->ino;

	return (*ino > there) - (*ino < there);
}

static struct nf_layer_entry *entry_of(struct nf_avl_node *n)
{
	return n ? nf_container_of(n, struct nf_layer_entry, node) : NULL;
}

static struct nf_layer_mark *mark_of(struct nf_avl_node *n)
{
	return n ? nf_container_of(n, struct nf_layer_mark, node) : NULL;
}

int nf_layer_new(struct nf_layer **out)
{
	struct nf_layer *l = calloc(1, sizeof *l);

	if (!l)
		return nf_fail(-ENOMEM);
	nf_avl_init(&l->entries, NULL);
	nf_avl_init(&l->marks, NULL);
	*out = l;
	return 0;
}

static void entry_drop(struct nf_layer *l, struct nf_layer_entry *e)
{
	nf_avl_erase(&l->entries, &e->node);
	l->bytes -= sizeof *e + e->len;
	l->nr_entries--;
	free(e->value);
	free(e);
}

void nf_layer_free(struct nf_layer *l)
{
	if (!l)
		return;
	while (l->entries.root)
		entry_drop(l, entry_of(l->entries.root));
	while (l->marks.root) {
		struct nf_layer_mark *m = mark_of(l->marks.root);
		nf_avl_erase(&l->marks, &m->node);
		free(m);
	}
	free(l);
}

const struct nf_layer_entry *nf_layer_lower(const struct nf_layer *l, const struct nf_key *key)
{
	return entry_of(nf_avl_lower(&l->entries, key, entry_cmp));
}

const struct nf_layer_mark *nf_layer_mark_of(const struct nf_layer *l, uint64_t ino)
{
	return mark_of(nf_avl_find(&l->marks, &ino, mark_cmp));
}

bool nf_layer_mark_covers(const struct nf_layer_mark *m, const struct nf_key *key)
{
	if (!m || m->ino != key->ino)
		return false;
	return m->wiped || (key->type == NF_ITEM_EXTENT && key->a >= m->cut_block);
}

struct nf_key nf_layer_mark_end(const struct nf_layer_mark *m)
{
	if (m->wiped)
		return (struct nf_key){ .ino = m->ino + 1 };
	return (struct nf_key){ .ino = m->ino, .type = NF_ITEM_EXTENT + 1 };
}

/* --- changing ------------------------------------------------------------------------ */

/* Takes VALUE (malloc'd; NULL: removed). */
static int set(struct nf_layer *l, const struct nf_key *key, uint8_t *value, size_t len)
{
	struct nf_layer_entry *e = entry_of(nf_avl_find(&l->entries, key, entry_cmp));

	if (!e) {
		e = calloc(1, sizeof *e);
		if (!e) {
			free(value);
			return nf_fail(-ENOMEM);
		}
		e->key = *key;
		nf_avl_add(&l->entries, key, entry_cmp, &e->node);
		l->bytes += sizeof *e;
		l->nr_entries++;
	}
	free(e->value);
	l->bytes += len - e->len;
	e->value = value;
	e->len = len;
	return 0;
}

int nf_layer_put(struct nf_layer *l, const struct nf_key *key, const void *value, size_t len)
{
	if (len > NF_VALUE_MAX)
		return nf_fail(-EINVAL);
	uint8_t *copy = malloc(len ? len : 1);
	if (!copy)
		return nf_fail(-ENOMEM);
	if (len)
		memcpy(copy, value, len);
	return set(l, key, copy, len);
}

int nf_layer_remove(struct nf_layer *l, const struct nf_key *key)
{
	if (!nf_layer_mark_covers(nf_layer_mark_of(l, key->ino), key))
		return set(l, key, NULL, 0);
	struct nf_layer_entry *e = entry_of(nf_avl_find(&l->entries, key, entry_cmp));
	if (e)
		entry_drop(l, e);
	return 0;
}

static int mark_get(struct nf_layer *l, uint64_t ino, struct nf_layer_mark **out)
{
	struct nf_layer_mark *m = mark_of(nf_avl_find(&l->marks, &ino, mark_cmp));

	if (!m) {
		m = calloc(1, sizeof *m);
		if (!m)
			return nf_fail(-ENOMEM);
		m->ino = ino;
		m->cut_block = UINT64_MAX;
		nf_avl_add(&l->marks, &ino, mark_cmp, &m->node);
		l->bytes += sizeof *m;
		l->nr_marks++;
	}
	*out = m;
	return 0;
}

static void drop_range(struct nf_layer *l, const struct nf_key *from, const struct nf_key *to)
{
	struct nf_layer_entry *e = entry_of(nf_avl_lower(&l->entries, from, entry_cmp));

	while (e && nf_key_cmp(&e->key, to) < 0) {
		struct nf_layer_entry *next = entry_of(nf_avl_next(&e->node));
		entry_drop(l, e);
		e = next;
	}
}

int nf_layer_wipe(struct nf_layer *l, uint64_t ino)
{
	struct nf_layer_mark *m;
	int r = mark_get(l, ino, &m);

	if (r < 0)
		return r;
	m->wiped = true;
	struct nf_key from = { .ino = ino }, to = nf_layer_mark_end(m);
	drop_range(l, &from, &to);
	return 0;
}

int nf_layer_cut(struct nf_layer *l, uint64_t ino, uint64_t first_block)
{
	struct nf_key from = { .ino = ino, .type = NF_ITEM_EXTENT, .a = first_block };
	struct nf_key to = { .ino = ino, .type = NF_ITEM_EXTENT + 1 };
	struct nf_layer_mark *m;
	int r = mark_get(l, ino, &m);

	if (r < 0)
		return r;
	m->cut_block = NF_MIN(m->cut_block, first_block);
	drop_range(l, &from, &to);
	return 0;
}

/* --- asking --------------------------------------------------------------------------- */

int nf_layer_get(const struct nf_layer *l, const struct nf_key *key, const void **value, size_t *len)
{
	struct nf_layer_entry *e = entry_of(nf_avl_find(&l->entries, key, entry_cmp));

	if (!e)
		return nf_layer_mark_covers(nf_layer_mark_of(l, key->ino), key) ? NF_LAYER_GONE : NF_TREE_NONE;
	if (!e->value)
		return NF_LAYER_GONE;
	*value = e->value;
	*len = e->len;
	return 0;
}

bool nf_layer_empty(const struct nf_layer *l)
{
	return nf_avl_empty(&l->entries) && nf_avl_empty(&l->marks);
}

size_t nf_layer_bytes(const struct nf_layer *l) { return l->bytes; }

int nf_layer_batch(const struct nf_layer *l, struct nf_change **changes, size_t *nr,
		   struct nf_cutout **cuts, size_t *nr_cuts)
{
	nf_auto_free struct nf_change *c = calloc(l->nr_entries + 1, sizeof *c);
	struct nf_cutout *k = calloc(l->nr_marks + 1, sizeof *k);
	size_t i = 0, j = 0;

	if (!c || !k) {
		free(k);
		return nf_fail(-ENOMEM);
	}
	for (struct nf_avl_node *n = nf_avl_first(&l->entries); n; n = nf_avl_next(n), i++) {
		struct nf_layer_entry *e = entry_of(n);
		c[i] = (struct nf_change){ .key = e->key, .value = e->value, .len = e->len };
	}
	for (struct nf_avl_node *n = nf_avl_first(&l->marks); n; n = nf_avl_next(n), j++) {
		struct nf_layer_mark *m = mark_of(n);
		k[j].from = (struct nf_key){ .ino = m->ino };
		if (!m->wiped) {
			k[j].from.type = NF_ITEM_EXTENT;
			k[j].from.a = m->cut_block;
		}
		k[j].to = nf_layer_mark_end(m);
	}
	NF_ASSERT(i == l->nr_entries && j == l->nr_marks);
	*changes = nf_steal(&c);
	*nr = i;
	*cuts = k;
	*nr_cuts = j;
	return 0;
}

int nf_layer_rewrite(struct nf_layer *l, uint8_t type,
		     int (*fn)(void *ctx, const struct nf_key *key, const void *value, size_t len,
			       void **now, size_t *now_len),
		     void *ctx)
{
	for (struct nf_avl_node *n = nf_avl_first(&l->entries); n; n = nf_avl_next(n)) {
		struct nf_layer_entry *e = entry_of(n);
		void *now;
		size_t now_len;
		if (e->key.type != type || !e->value)
			continue;
		int r = fn(ctx, &e->key, e->value, e->len, &now, &now_len);
		if (r < 0)
			return r;
		if (r == 1) {
			l->bytes += now_len - e->len;
			free(e->value);
			e->value = now;
			e->len = now_len;
		}
	}
	return 0;
}

static int fold_marks(struct nf_layer *to, const struct nf_layer_mark *m)
{
	int r = m->wiped ? nf_layer_wipe(to, m->ino) : 0;

	if (r == 0 && m->cut_block != UINT64_MAX)
		r = nf_layer_cut(to, m->ino, m->cut_block);
	return r;
}

static int fold_entry(struct nf_layer *to, const struct nf_layer_entry *e)
{
	return e->value ? nf_layer_put(to, &e->key, e->value, e->len) : nf_layer_remove(to, &e->key);
}

int nf_layer_fold(struct nf_layer *to, const struct nf_layer *from)
{
	int r = 0;

	for (struct nf_avl_node *n = nf_avl_first(&from->marks); r == 0 && n; n = nf_avl_next(n))
		r = fold_marks(to, mark_of(n));
	for (struct nf_avl_node *n = nf_avl_first(&from->entries); r == 0 && n; n = nf_avl_next(n))
		r = fold_entry(to, entry_of(n));
	return r;
}

/* M is on no layer, and TO's from now on. */
static void take_mark(struct nf_layer *to, struct nf_layer_mark *m)
{
	struct nf_layer_mark *there = mark_of(nf_avl_find(&to->marks, &m->ino, mark_cmp));
	struct nf_key from = { .ino = m->ino };
	struct nf_key end = nf_layer_mark_end(m);

	if (!m->wiped)
		from = (struct nf_key){ .ino = m->ino, .type = NF_ITEM_EXTENT, .a = m->cut_block };
	if (m->wiped || m->cut_block != UINT64_MAX)
		drop_range(to, &from, &end);
	if (there) {
		there->wiped |= m->wiped;
		there->cut_block = NF_MIN(there->cut_block, m->cut_block);
		free(m);
		return;
	}
	nf_avl_add(&to->marks, &m->ino, mark_cmp, &m->node);
	to->bytes += sizeof *m;
	to->nr_marks++;
}

static void take_entry(struct nf_layer *to, struct nf_layer_entry *e)
{
	struct nf_layer_entry *there = entry_of(nf_avl_find(&to->entries, &e->key, entry_cmp));

	if (there)
		entry_drop(to, there);
	/* A removal that a mark covers is not kept. */
	if (!e->value && nf_layer_mark_covers(nf_layer_mark_of(to, e->key.ino), &e->key)) {
		free(e);
		return;
	}
	nf_avl_add(&to->entries, &e->key, entry_cmp, &e->node);
	to->bytes += sizeof *e + e->len;
	to->nr_entries++;
}

void nf_layer_take(struct nf_layer *to, struct nf_layer *from)
{
	while (from->marks.root) {
		struct nf_layer_mark *m = mark_of(from->marks.root);
		nf_avl_erase(&from->marks, &m->node);
		take_mark(to, m);
	}
	while (from->entries.root) {
		struct nf_layer_entry *e = entry_of(from->entries.root);
		nf_avl_erase(&from->entries, &e->node);
		take_entry(to, e);
	}
	from->bytes = from->nr_entries = from->nr_marks = 0;
}

int nf_layer_copy_inode(struct nf_layer *to, const struct nf_layer *from, uint64_t ino)
{
	const struct nf_layer_mark *m = nf_layer_mark_of(from, ino);
	struct nf_key first = { .ino = ino };
	int r = m ? fold_marks(to, m) : 0;

	for (const struct nf_layer_entry *e = nf_layer_lower(from, &first);
	     r == 0 && e && e->key.ino == ino; e = entry_of(nf_avl_next(&e->node)))
		r = fold_entry(to, e);
	return r;
}

void nf_layer_to_text(const struct nf_layer *l, struct nf_text *t)
{
	nf_textf(t, "%zu entries, %zu marks, %zu bytes\n", l->nr_entries, l->nr_marks, l->bytes);
	for (struct nf_avl_node *n = nf_avl_first(&l->marks); n; n = nf_avl_next(n)) {
		struct nf_layer_mark *m = mark_of(n);
		if (m->wiped)
			nf_textf(t, "%llx wiped\n", (unsigned long long)m->ino);
		else
			nf_textf(t, "%llx cut at block %llu\n", (unsigned long long)m->ino,
				 (unsigned long long)m->cut_block);
	}
	for (struct nf_avl_node *n = nf_avl_first(&l->entries); n; n = nf_avl_next(n)) {
		struct nf_layer_entry *e = entry_of(n);
		nf_key_to_text(&e->key, t);
		if (e->value)
			nf_textf(t, " %zu bytes\n", e->len);
		else
			nf_textf(t, " removed\n");
	}
}
