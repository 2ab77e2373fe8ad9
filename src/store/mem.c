/* The store in memory, for tests and the laboratory.
 *
 *   registry -> shared "a" -> sorted array of objects (data) and directories
 *                  ^   ^
 *              open 1  open 2     each with a thread of its own
 *
 * All opens of one name see one store; the last one frees it. */
#include "store/types.h"

#include "base/clock.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/mem.h"

#include <stdio.h>

struct object {
	char *name;
	uint8_t *data;
	size_t size_bytes;
	int64_t mtime_s;
	bool is_dir;
};

/* r registry lock;  l lock;  I set before publication */
struct shared {
	struct nf_list link; /* r */
	char *name;          /* I */
	unsigned refs;       /* r */
	struct nf_lock lock;
	struct object *v; /* l  sorted by name */
	size_t nr;        /* l */
	size_t cap;       /* l */
};

struct mem {
	struct nf_store base;
	struct shared *sh;
	struct nf_local local;
};

static struct nf_lock registry_lock = NF_LOCK_INIT(NF_RANK_FILTER);
static struct nf_list registry = { &registry, &registry };

/* Index of NAME, or where it would be. */
static size_t find_locked(const struct shared *sh, const char *name, bool *found)
	NF_REQUIRES(sh->lock)
{
	size_t lo = 0, hi = sh->nr;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (strcmp(sh->v[mid].name, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	*found = lo < sh->nr && !strcmp(sh->v[lo].name, name);
	return lo;
}

/* Takes NAME and DATA on success. */
static int insert_locked(struct shared *sh, size_t at, struct object o) NF_REQUIRES(sh->lock)
{
	if (sh->nr == sh->cap) {
		size_t cap = sh->cap ? sh->cap * 2 : 64;
		struct object *v = realloc(sh->v, cap * sizeof *v);
		if (!v)
			return nf_fail(-ENOMEM);
		sh->v = v;
		sh->cap = cap;
	}
	memmove(sh->v + at + 1, sh->v + at, (sh->nr - at) * sizeof *sh->v);
	sh->v[at] = o;
	sh->nr++;
	return 0;
}

static int make_dirs_locked(struct shared *sh, const char *name) NF_REQUIRES(sh->lock)
{
	for (const char *p = strchr(name, '/'); p; p = strchr(p + 1, '/')) {
		nf_auto_free char *dir = strndup(name, (size_t)(p - name));
		bool found;
		if (!dir)
			return nf_fail(-ENOMEM);
		size_t at = find_locked(sh, dir, &found);
		if (found && !sh->v[at].is_dir)
			return nf_fail(-ENOTDIR);
		if (found)
			continue;
		int r = insert_locked(sh, at, (struct object){ .name = dir, .is_dir = true,
				      .mtime_s = nf_clock_real().tv_sec });
		if (r)
			return nf_fail(r);
		(void)nf_steal(&dir);
	}
	return 0;
}

static int put_locked(struct shared *sh, const struct nf_store_op *op, uint8_t **data)
	NF_REQUIRES(sh->lock)
{
	bool found;
	int r = make_dirs_locked(sh, op->name);

	if (r)
		return nf_fail(r);
	size_t at = find_locked(sh, op->name, &found);
	if (found && sh->v[at].is_dir)
		return nf_fail(-EISDIR);
	if (!found) {
		nf_auto_free char *name = strdup(op->name);
		if (!name)
			return nf_fail(-ENOMEM);
		r = insert_locked(sh, at, (struct object){ .name = name });
		if (r)
			return nf_fail(r);
		(void)nf_steal(&name);
	}
	free(sh->v[at].data);
	sh->v[at].data = nf_steal(data);
	sh->v[at].size_bytes = op->length_bytes;
	sh->v[at].mtime_s = nf_clock_real().tv_sec;
	return 0;
}

static int mem_put(struct shared *sh, struct nf_store_op *op)
{
	nf_auto_free uint8_t *data = malloc(op->length_bytes + 1);
	size_t at = 0;

	if (!data)
		return nf_fail(-ENOMEM);
	for (int i = 0; i < op->nr_iov; i++) {
		if (op->iov[i].iov_len)
			memcpy(data + at, op->iov[i].iov_base, op->iov[i].iov_len);
		at += op->iov[i].iov_len;
	}
	nf_lock_take(&sh->lock);
	int r = put_locked(sh, op, &data);
	nf_lock_drop(&sh->lock);
	return nf_fail(r);
}

static int get_locked(struct shared *sh, struct nf_store_op *op) NF_REQUIRES(sh->lock)
{
	bool found;
	size_t n = 0;
	size_t at = find_locked(sh, op->name, &found);

	if (!found || sh->v[at].is_dir)
		return nf_fail(-NF_E_STORE_NOT_FOUND);
	if (op->verb == NF_STORE_STAT) {
		op->size_bytes = sh->v[at].size_bytes;
		return 0;
	}
	int r = nf_store_clip(op, sh->v[at].size_bytes, &n);
	if (r)
		return nf_fail(r);
	if (n)
		memcpy(op->buf, sh->v[at].data + op->offset_bytes, n);
	op->transferred_bytes = n;
	return 0;
}

static void delete_locked(struct shared *sh, const char *name) NF_REQUIRES(sh->lock)
{
	bool found;
	size_t at = find_locked(sh, name, &found);

	if (!found || sh->v[at].is_dir)
		return;
	free(sh->v[at].name);
	free(sh->v[at].data);
	memmove(sh->v + at, sh->v + at + 1, (sh->nr - at - 1) * sizeof *sh->v);
	sh->nr--;
}

static int list_locked(struct shared *sh, struct nf_store_op *op) NF_REQUIRES(sh->lock)
{
	struct nf_entries e = { 0 };
	size_t len = strlen(op->name);
	bool found = true;
	size_t at = len ? find_locked(sh, op->name, &found) : 0;

	if (!found || (len && !sh->v[at].is_dir))
		return nf_fail(-NF_E_STORE_NOT_FOUND);
	/* All that begins with "dir" follows; "dir-x" stands before "dir/x". */
	for (; at < sh->nr && !strncmp(sh->v[at].name, op->name, len); at++) {
		const struct object *o = &sh->v[at];
		const char *rest = o->name + len;
		if (len && *rest++ != '/')
			continue;
		if (strchr(rest, '/'))
			continue;
		int r = nf_entries_add(&e, rest, strlen(rest), o->is_dir, o->size_bytes, o->mtime_s);
		if (r) {
			nf_entries_deinit(&e);
			return nf_fail(r);
		}
	}
	nf_entries_give(&e, op);
	return 0;
}

static int mem_run(struct nf_store *s, struct nf_store_op *op)
{
	struct shared *sh = ((struct mem *)s)->sh;
	int r = 0;

	if (op->verb == NF_STORE_PUT)
		return nf_fail(mem_put(sh, op));
	nf_lock_take(&sh->lock);
	if (op->verb == NF_STORE_LIST)
		r = list_locked(sh, op);
	else if (op->verb == NF_STORE_DELETE)
		delete_locked(sh, op->name);
	else
		r = get_locked(sh, op);
	nf_lock_drop(&sh->lock);
	return nf_fail(r);
}

static void mem_submit(struct nf_store *s, struct nf_store_op *op)
{
	nf_local_submit(&((struct mem *)s)->local, op);
}

static void mem_cancel(struct nf_store *s, struct nf_store_op *op)
{
	(void)s;
	nf_local_cancel(op);
}

static void shared_free(struct shared *sh)
{
	for (size_t i = 0; i < sh->nr; i++) {
		free(sh->v[i].name);
		free(sh->v[i].data);
	}
	free(sh->v);
	free(sh->name);
	nf_lock_deinit(&sh->lock);
	free(sh);
}

static void shared_put(struct shared *sh)
{
	nf_lock_take(&registry_lock);
	bool last = --sh->refs == 0;
	if (last)
		nf_list_del(&sh->link);
	nf_lock_drop(&registry_lock);
	if (last)
		shared_free(sh);
}

static struct shared *shared_get_locked(const char *name) NF_REQUIRES(registry_lock)
{
	nf_list_for_each(sh, &registry, struct shared, link) {
		if (!strcmp(sh->name, name)) {
			sh->refs++;
			return sh;
		}
	}
	struct shared *sh = calloc(1, sizeof *sh);
	if (!sh)
		return NULL;
	sh->name = strdup(name);
	if (!sh->name) {
		free(sh);
		return NULL;
	}
	nf_lock_init(&sh->lock, NF_RANK_STORE);
	sh->refs = 1;
	nf_list_add_tail(&registry, &sh->link);
	return sh;
}

static void mem_free(struct nf_store *s)
{
	struct mem *m = (struct mem *)s;

	nf_pool_free(m->local.pool);
	if (m->sh)
		shared_put(m->sh);
	free(m->base.text);
	free(m);
}

static int mem_quota(struct nf_store *s, uint64_t *used_bytes, uint64_t *free_bytes)
{
	struct shared *sh = ((struct mem *)s)->sh;
	uint64_t sum = 0;

	nf_lock_take(&sh->lock);
	for (size_t i = 0; i < sh->nr; i++)
		sum += sh->v[i].size_bytes;
	nf_lock_drop(&sh->lock);
	*used_bytes = sum;
	*free_bytes = INT64_MAX - sum;
	return 0;
}

static const struct nf_store_ops mem_ops = {
	.name = "mem",
	.submit = mem_submit,
	.cancel = mem_cancel,
	.free = mem_free,
	.quota = mem_quota,
};

int nf_store_mem_new(const char *name, struct nf_store **out)
{
	struct mem *m = calloc(1, sizeof *m);
	int r = -ENOMEM;

	if (!m)
		return nf_fail(-ENOMEM);
	m->base.ops = &mem_ops;
	m->base.max_put_bytes = UINT64_MAX;
	m->local.store = &m->base;
	m->local.run = mem_run;
	nf_lock_take(&registry_lock);
	m->sh = shared_get_locked(name);
	nf_lock_drop(&registry_lock);
	if (!m->sh)
		goto fail;
	if (asprintf(&m->base.text, "mem:%s", name) < 0) {
		m->base.text = NULL;
		goto fail;
	}
	r = nf_pool_new("store-mem", 1, 0, &m->local.pool);
	if (r)
		goto fail;
	*out = &m->base;
	return 0;
fail:
	mem_free(&m->base);
	return nf_fail(r);
}
