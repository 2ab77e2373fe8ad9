#include "daemon/wipe.h"

#include "aio/file.h"
#include "base/error.h"
#include "base/mem.h"
#include "daemon/paths.h"
#include "vault/vault.h"

#include <fcntl.h>
#include <stdio.h>

enum { DEPTH_MAX = 8 };

static const struct nf_file_ops *const ops = &nf_file_real;

/* Over what stands there, for disks that write in place; then away. */
static int shred(const char *path)
{
	static const uint8_t zeros[4096];
	struct nf_file *f;
	uint64_t size;

	int r = ops->open(ops, path, O_RDWR, 0600, &f);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	r = ops->size(f, &size);
	for (uint64_t at = 0; r == 0 && at < size; at += sizeof zeros)
		r = ops->pwrite(f, zeros, (size_t)NF_MIN(size - at, (uint64_t)sizeof zeros), at);
	if (r == 0)
		r = ops->fdatasync(f);
	ops->close(f);
	if (r == 0)
		r = ops->unlink(ops, path);
	return r == 0 ? nf_file_sync_name(ops, path) : r;
}

/* PATH and all beneath it; absent is fine. */
static int remove_tree(const char *path, int depth, char **where)
{
	struct nf_file_dirent *list;
	size_t nr;

	int r = depth < DEPTH_MAX ? ops->list(ops, path, &list, &nr) : nf_fail(-ELOOP);
	if (r == -ENOENT)
		return 0;
	for (size_t i = 0; r == 0 && i < nr; i++) {
		nf_auto_free char *sub = NULL;
		if (asprintf(&sub, "%s/%s", path, list[i].name) < 0)
			r = nf_fail(-ENOMEM);
		else if (list[i].is_dir)
			r = remove_tree(sub, depth + 1, where);
		else
			r = ops->unlink(ops, sub);
		if (r < 0 && !*where)
			*where = nf_steal(&sub);
	}
	if (r == 0)
		nf_file_list_free(list, nr);
	return r == 0 ? ops->rmdir(ops, path) : r;
}

static int in(const char *dir, const char *name, char **out)
{
	return asprintf(out, "%s/%s", dir, name) < 0 ? nf_fail(-ENOMEM) : 0;
}

/* What was put aside of a damaged journal is nowhere else. */
static bool has_aside(const char *state)
{
	nf_auto_free char *journal = NULL;
	struct nf_file_dirent *list;
	bool has = false;
	size_t nr;

	if (in(state, "journal", &journal) < 0 || ops->list(ops, journal, &list, &nr) < 0)
		return false;
	for (size_t i = 0; i < nr; i++)
		has |= list[i].is_dir;
	nf_file_list_free(list, nr);
	return has;
}

static int wipe_locked(const struct nf_vault_paths *p, bool force, char **where)
{
	static const char *const trees[] = { "journal" };
	static const char *const files[] = { "pins", "pins.new", NF_SETTLED_FILE };
	nf_auto_free char *header = NULL, *packs = NULL, *settled = NULL;

	int r = in(p->state, "header", &header);
	if (r == 0)
		r = in(p->cache, "packs", &packs);
	if (r == 0)
		r = in(p->state, NF_SETTLED_FILE, &settled);
	if (r == 0 && !force && (has_aside(p->state) || ops->stat(ops, settled, NULL, NULL, NULL) < 0))
		r = nf_fail(-EBUSY);
	if (r == 0 && (r = shred(header)) < 0)
		*where = nf_steal(&header);
	if (r == 0)
		r = remove_tree(packs, 0, where);
	for (size_t i = 0; r == 0 && i < NF_ARRAY_LEN(trees); i++) {
		nf_auto_free char *path = NULL;
		r = in(p->state, trees[i], &path);
		if (r == 0)
			r = remove_tree(path, 0, where);
	}
	for (size_t i = 0; r == 0 && i < NF_ARRAY_LEN(files); i++) {
		nf_auto_free char *path = NULL;
		r = in(p->state, files[i], &path);
		if (r == 0)
			r = ops->unlink(ops, path);
		if (r == -ENOENT)
			r = 0;
	}
	if (r == 0)
		r = ops->fsync_dir(ops, p->state);
	return r;
}

int nf_wipe_device(const char *address, const char *cache_dir, bool force, char **where)
{
	uint8_t volume_id[NF_VOLUME_ID_BYTES];
	struct nf_vault_paths p = { 0 };
	nf_auto_free char *lock = NULL;
	struct nf_file *held = NULL;

	*where = NULL;
	int r = nf_known_volume(address, volume_id);
	if (r == 0)
		r = nf_vault_paths_of(volume_id, cache_dir, &p);
	if (r == 0)
		r = nf_file_mkdirs(ops, p.cache); /* the lock is there, whether or not anything was ever cached */
	if (r == 0)
		r = in(p.cache, "lock", &lock);
	if (r == 0)
		r = ops->lock(ops, lock, &held);
	if (r == 0)
		r = wipe_locked(&p, force, where);
	ops->close(held);
	nf_vault_paths_deinit(&p);
	return r;
}
