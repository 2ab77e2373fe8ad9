/* vault/call_dir.c - reading directories.
 *
 * The cookie of an entry is where to go on after it:
 *
 *      1: after "."    2: after ".."    (hash << NF_COOKIE_SHIFT) + n: at the n-th name of that hash
 *
 * Hashes are 62 bits, so the shift is 1 and two names of one hash (the most that will ever be seen) have a
 * cookie each; small-hash test builds shift by 32. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/calls.h"

#include <dirent.h>

#ifdef NF_SMALL_HASH
enum { COOKIE_SHIFT = 32 };
#else
enum { COOKIE_SHIFT = 1 };
#endif
enum { BATCH = 64 };

struct found {
	uint64_t ino;
	uint64_t cookie; /* to go on after it */
	uint8_t type;
	uint8_t len;
	char name[NF_NAME_MAX];
	struct nf_attr attr;
};

/* A batch of entries with their attributes, kept over runs. */
struct listing {
	unsigned nr;
	bool end;
	struct found e[BATCH];
};

int nf_do_opendir(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_attr attr;

	int r = nf_vault_attr(v, c->ino, w, &attr);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	if (!S_ISDIR(attr.mode))
		return nf_fail(-ENOTDIR);
	struct nf_open_file *f = calloc(1, sizeof *f);
	if (!f)
		return nf_fail(-ENOMEM);
	f->ino = c->ino;
	c->file = f;
	c->keep_cache = true;
	return 0;
}

int nf_do_releasedir(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	(void)v;
	(void)w;
	free(c->file);
	c->file = NULL;
	return 0;
}

/* Names of one hash, from the n-th on. */
static int take_names(struct listing *l, uint64_t hash, uint64_t n, const struct nf_val *val)
{
	struct nf_dirent d;
	size_t pos = 0;
	uint64_t at = 0;
	int r;

	while ((r = nf_dirent_iter(val->p, val->len, &pos, &d)) == 0) {
		if (at++ < n)
			continue;
		if (l->nr == BATCH)
			return 1;
		struct found *f = &l->e[l->nr++];
		f->ino = d.ino;
		f->type = d.type;
		f->len = d.name_len;
		memcpy(f->name, d.name, d.name_len);
		f->cookie = pos < val->len ? (hash << COOKIE_SHIFT) + at : (hash + 1) << COOKIE_SHIFT;
	}
	return r < 0 ? r : 0;
}

static int gather(struct nf_vault *v, uint64_t dir, uint64_t cookie, struct nf_want *w, struct listing *l)
{
	struct nf_view view = nf_vault_view(v);
	uint64_t hash = cookie >> COOKIE_SHIFT, n = cookie & ((UINT64_C(1) << COOKIE_SHIFT) - 1);
	struct nf_key end = { .ino = dir, .type = NF_ITEM_DIRENT + 1 };

	if (cookie < 3)
		hash = n = 0;
	l->nr = 0;
	l->end = false;
	for (;;) {
		struct nf_key from = nf_key_dirent(dir, hash), key;
		struct nf_val val = { 0 };
		int r = nf_view_next(&view, &from, &end, w, &key, &val);
		if (r == NF_TREE_NONE) {
			l->end = true;
			return 0;
		}
		if (r)
			return r;
		r = take_names(l, key.a, key.a == hash ? n : 0, &val);
		nf_val_deinit(&val);
		if (r)
			return r < 0 ? nf_fail(r) : 0;
		hash = key.a + 1;
		n = 0;
	}
}

/* Asks for all missing inodes of the batch at once. */
static int attributes(struct nf_vault *v, struct nf_want *w, struct listing *l)
{
	int missing = 0;

	for (unsigned i = 0; i < l->nr; i++) {
		struct found *f = &l->e[i];
		int r = nf_vault_attr(v, f->ino, w, &f->attr);
		if (r == NF_TREE_WANT)
			missing++;
		else if (r == NF_TREE_NONE)
			return nf_fail(-NF_E_TREE_BAD);
		else if (r < 0)
			return r;
		if (w->nr == NF_WANT_MAX)
			break;
	}
	return missing ? NF_TREE_WANT : 0;
}

/* "." and "..". True: the buffer is full. */
static bool dots(struct nf_vault *v, struct nf_call *c)
{
	uint64_t up = c->ino;
	char name[NF_NAME_MAX + 1];
	uint8_t len;
	struct nf_want w = NF_WANT_INIT;
	struct nf_view view = nf_vault_view(v);

	if (c->offset == 0 && !c->fill(c, ".", 1, c->ino, S_IFDIR, NULL, 1))
		return true;
	/* ".." is for show: the kernel knows the parent itself. */
	if (c->ino != NF_INO_ROOT && nf_view_parent(&view, c->ino, &w, &up, name, &len) != 0)
		up = c->ino;
	nf_want_deinit(&w);
	if (c->offset <= 1 && !c->fill(c, "..", 2, up, S_IFDIR, NULL, 2))
		return true;
	return false;
}

int nf_do_readdir(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct listing *l = nf_call_state(c, sizeof *l);
	struct nf_run *run = nf_run_of(c);

	if (!l)
		return nf_fail(-ENOMEM);
	if (!run->phase) {
		run->phase = 1;
		if (c->offset < 2 && dots(v, c))
			return 0;
	}
	for (;;) {
		int r = gather(v, c->ino, c->offset, w, l);
		if (r == 0 && c->want_attrs)
			r = attributes(v, w, l);
		if (r)
			return r;
		for (unsigned i = 0; i < l->nr; i++) {
			struct found *f = &l->e[i];
			if (!c->fill(c, f->name, f->len, f->ino, (uint32_t)f->type << 12,
				     c->want_attrs ? &f->attr : NULL, f->cookie))
				return 0;
			c->offset = f->cookie;
		}
		if (l->end)
			return 0;
	}
}
