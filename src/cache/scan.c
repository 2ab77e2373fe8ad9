/* What open finds in the directory.
 *
 *   <xx>/<name>      with a map that fits: a pack; anything else is removed
 *   <xx>/<name>.map  without a pack's file: removed
 *   <xx>/<name>.map.new  removed: one that was not finished
 *   clean            the maps were all saved by a close; without it what they do not
 *                    name is punched out of the files
 *
 * Directories and names that are not ours are left alone.  One thread. */
#include "base/error.h"
#include "base/mem.h"
#include "cache/types.h"

#include <fcntl.h>

static bool hex_id(const char *name, struct nf_pack_id *id)
{
	static const char digits[] = "0123456789abcdef";

	memset(id, 0, sizeof *id);
	for (int i = 0; i < NF_CACHE_NAME; i++) {
		const char *d = name[i] ? strchr(digits, name[i]) : NULL;
		if (!d)
			return false;
		id->b[i / 2] = (uint8_t)(id->b[i / 2] << 4 | (d - digits));
	}
	return true;
}

/* Frees what is allocated but not present, so that the charge is true. */
static int punch_absent(struct nf_pack *p, struct nf_file *f)
{
	size_t nr = (size_t)nf_round_up(p->length_bytes, NF_CACHE_UNIT) / NF_CACHE_UNIT;
	int r = f->ops->ftruncate(f, p->length_bytes);

	for (size_t i = 0; i < nr && r == 0;) {
		size_t from = i;
		while (i < nr && !nf_pack_bit(p->present, i))
			i++;
		if (i > from)
			r = f->ops->punch(f, (uint64_t)from * NF_CACHE_UNIT,
					  (uint64_t)(i - from) * NF_CACHE_UNIT);
		while (i < nr && nf_pack_bit(p->present, i))
			i++;
	}
	return r;
}

static int check_file(struct nf_pack *p, const char *path, bool clean)
{
	const struct nf_file_ops *o = p->cache->files;
	struct nf_file *f;
	uint64_t size;
	int r = o->open(o, path, O_RDWR, 0600, &f);

	if (r < 0)
		return r;
	r = o->size(f, &size);
	if (r == 0)
		r = nf_map_load(p, size);
	if (r == 0 && (!clean || !p->exact || size != p->length_bytes))
		r = punch_absent(p, f);
	o->close(f);
	return r;
}

/* The pack of this name, or what is left of it removed. */
static int scan_pack(struct nf_cache *c, const struct nf_pack_id *id, bool clean)
{
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT, map = NF_TEXT_INIT;
	struct nf_pack *p = nf_pack_new(c, id);

	nf_pack_path(c, id, "", &path);
	nf_pack_path(c, id, ".map", &map);
	if (!p || path.failed || map.failed) {
		nf_pack_free(p);
		return nf_fail(-ENOMEM);
	}
	if (check_file(p, nf_text_str(&path), clean) < 0) {
		nf_pack_free(p);
		/* What stays (a directory in their place) is no pack either. */
		(void)c->files->unlink(c->files, nf_text_str(&path));
		(void)c->files->unlink(c->files, nf_text_str(&map));
		return 0;
	}
	memcpy(p->charged, p->present, p->nr_units / 8);
	p->charged_bytes = nf_pack_charge(p);
	nf_lock_take(&c->lock);
	c->used_bytes += p->charged_bytes;
	c->clock = NF_MAX(c->clock, p->used_at);
	nf_cache_add_locked(c, p);
	if (p->lasting)
		nf_cache_has_nodes_locked(c, p);
	nf_lock_drop(&c->lock);
	return 0;
}

static int scan_names(struct nf_cache *c, const char *dir, unsigned xx,
		      const struct nf_file_dirent *list, size_t nr, bool clean)
{
	int r = 0;

	for (size_t i = 0; i < nr && r == 0; i++) {
		nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT;
		const char *name = list[i].name;
		struct nf_pack_id id;
		if (!hex_id(name, &id) || id.b[0] != xx)
			continue;
		if (name[NF_CACHE_NAME] == '\0') {
			r = scan_pack(c, &id, clean);
		} else if (strcmp(name + NF_CACHE_NAME, ".map") == 0) {
			nf_textf(&path, "%s/%.*s", dir, NF_CACHE_NAME, name);
			if (!path.failed && c->files->stat(c->files, nf_text_str(&path), NULL, NULL,
							   NULL) == -ENOENT) {
				nf_textf(&path, ".map");
				(void)c->files->unlink(c->files, nf_text_str(&path));
			}
		} else if (strcmp(name + NF_CACHE_NAME, ".map.new") == 0) {
			nf_textf(&path, "%s/%s", dir, name);
			if (!path.failed)
				(void)c->files->unlink(c->files, nf_text_str(&path));
		}
	}
	return r;
}

static int scan_dir(struct nf_cache *c, unsigned xx, bool clean)
{
	nf_auto(nf_text_deinit) struct nf_text dir = NF_TEXT_INIT;
	struct nf_pack_id id = { .b = { (uint8_t)xx } };
	struct nf_file_dirent *list;
	size_t nr;

	nf_pack_path(c, &id, NULL, &dir);
	if (dir.failed)
		return nf_fail(-ENOMEM);
	/* Absent, or not a directory: there are no packs in it. */
	if (c->files->list(c->files, nf_text_str(&dir), &list, &nr) < 0)
		return 0;
	int r = scan_names(c, nf_text_str(&dir), xx, list, nr, clean);
	nf_file_list_free(list, nr);
	return r;
}

static int older(const void *a, const void *b)
{
	const struct nf_pack *const *x = a, *const *y = b;

	return ((*x)->used_at > (*y)->used_at) - ((*x)->used_at < (*y)->used_at);
}

static int sort_lru(struct nf_cache *c)
{
	nf_auto_free struct nf_pack **all = calloc(c->nr_packs + 1, sizeof(struct nf_pack *));
	size_t nr = 0;

	if (!all)
		return nf_fail(-ENOMEM);
	nf_list_for_each_safe(p, &c->lru, struct nf_pack, lru) {
		nf_list_del(&p->lru);
		all[nr++] = p;
	}
	qsort(all, nr, sizeof all[0], older);
	for (size_t i = 0; i < nr; i++)
		nf_list_add_tail(&c->lru, &all[i]->lru);
	return 0;
}

static void clean_path(const struct nf_cache *c, struct nf_text *t)
{
	nf_textf(t, "%s/clean", c->dir);
}

/* *CLEAN, and the mark is durably gone before anything changes. */
static int take_clean(struct nf_cache *c, bool *clean)
{
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT;

	clean_path(c, &path);
	if (path.failed)
		return nf_fail(-ENOMEM);
	*clean = c->files->unlink(c->files, nf_text_str(&path)) == 0;
	return *clean ? nf_fail(c->files->fsync_dir(c->files, c->dir)) : 0;
}

void nf_cache_mark_clean(struct nf_cache *c)
{
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT;
	struct nf_file *f;

	clean_path(c, &path);
	/* Not made: the next open takes longer. */
	if (!path.failed && c->files->open(c->files, nf_text_str(&path), O_RDWR | O_CREAT, 0600,
					   &f) == 0)
		c->files->close(f);
}

int nf_cache_scan(struct nf_cache *c)
{
	bool clean;
	int r = take_clean(c, &clean);

	for (unsigned xx = 0; xx < 256 && r == 0; xx++)
		r = scan_dir(c, xx, clean);
	return r < 0 ? nf_fail(r) : sort_lru(c);
}
