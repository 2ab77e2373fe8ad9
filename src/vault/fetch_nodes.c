/* Tree nodes and blobs: what is wanted becomes groups of sealed bytes, each fetched by one request and opened.
 *
 *   wanted, by pack and offset    n1 n2 n3 ........ n4        n1 and n3 are in the local cache
 *   groups                        g1    g3                    one for each node the cache has
 *                                    g2------------ g2        the others, joined over gaps up to 64 KiB
 *
 *   group:  fetched -> opened -> done
 *              ^          |
 *              `----------'  a node from the cache that does not authenticate: once more, from the store
 *
 * Groups of nf_fetch_nodes() are opened on the pool.  Those of the blocking nf_fetch_load() are opened by the thread
 * that waits, so it may be one of the pool's own. */
#include "vault/fetch_priv.h"

#include "base/counter.h"
#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"

#include <stdatomic.h>

enum {
	JOIN_GAP_BYTES = 64 << 10,
	JOIN_MAX_BYTES = 4 << 20,
	NODE_PLAIN_MAX_BYTES = 32 << 10,
	/* A sealed node is never much longer than a plain one. */
	NODE_SEALED_MAX_BYTES = 64 << 10,
	DELTA_PLAIN_MAX_BYTES = 64 << 20,
	XATTR_PLAIN_MAX_BYTES = 64 << 10,
};

struct job;

struct group {
	struct nf_fetch_io io;
	struct nf_work work;
	struct nf_list link;
	struct job *job;
	size_t first, nr; /* of job->refs */
};

/* l lock;  a atomic;  I set before publication */
struct job {
	struct nf_fetch *f;        /* I */
	struct nf_fetch_nodes *fn; /* I */
	struct nf_ref refs[NF_WANT_MAX]; /* I  sorted */
	size_t nr;                 /* I */
	struct group *groups;      /* I */
	size_t nr_groups;          /* I */
	atomic_uint pending;       /* a  groups, and one while they are being submitted */
	atomic_int error;          /* a  the first */
	bool blocking;             /* I  a thread waits and opens */
	struct nf_lock lock;
	struct nf_cond cond;
	struct nf_list arrived;    /* l  groups to open, blocking */
	bool ended;                /* l */
};

/* True for an error that means: these bytes are not what was sealed. */
static bool is_bad_bytes(int r)
{
	return r == -NF_E_XFORM_BAD_TAG || r == -NF_E_XFORM_TRUNCATED || r == -NF_E_XFORM_DECOMPRESS;
}

/* What did not authenticate is not kept, and counted to whom it came from. */
static void count_bad(struct nf_fetch *f, const struct nf_ref *ref, bool from_cache)
{
	nf_count(from_cache ? NF_C_CACHE_BAD : NF_C_STORE_BAD, 1);
	nf_fetch_forget(f, &ref->pack, ref->offset_bytes, ref->sealed_len);
}

/* --- opening ------------------------------------------------------------------- */

static int open_node(struct nf_fetch *f, struct nf_codec *c, const struct nf_ref *ref, const void *sealed)
{
	const struct nf_seal_id id = { .type = NF_SEAL_NODE, .index = ref->level };
	nf_auto_free void *plain = malloc(ref->plain_len + 1u);

	if (!plain)
		return nf_fail(-ENOMEM);
	int r = nf_codec_open(c, &id, ref->epoch, ref->flags, ref->tag, sealed, ref->sealed_len, plain,
			      ref->plain_len);
	if (r < 0)
		return r;
	nf_count(NF_C_NODES_READ, 1);
	return nf_nodes_insert(nf_fetch_options(f)->nodes, ref, plain, ref->plain_len);
}

static int open_group(struct group *g)
{
	struct job *j = g->job;
	struct nf_codec *c = nf_codec_get(nf_fetch_options(j->f)->ring);
	int first_error = 0;

	if (!c)
		return nf_fail(-ENOMEM);
	for (size_t i = g->first; i < g->first + g->nr; i++) {
		const struct nf_ref *ref = &j->refs[i];
		const uint8_t *sealed = (const uint8_t *)g->io.buf + (ref->offset_bytes - g->io.offset_bytes);
		int r = open_node(j->f, c, ref, sealed);
		if (is_bad_bytes(r))
			count_bad(j->f, ref, g->io.from_cache);
		if (r < 0 && first_error == 0)
			first_error = r;
	}
	nf_codec_put(c);
	return first_error;
}

static void free_job(struct job *j)
{
	for (size_t i = 0; i < j->nr_groups; i++)
		free(j->groups[i].io.buf);
	nf_cond_deinit(&j->cond);
	nf_lock_deinit(&j->lock);
	free(j->groups);
	free(j);
}

/* Ends the job after its last group. */
static void step_job(struct job *j, int error)
{
	int none = 0;

	if (error < 0)
		atomic_compare_exchange_strong(&j->error, &none, error);
	if (atomic_fetch_sub(&j->pending, 1) != 1)
		return;
	if (j->blocking) {
		nf_lock_take(&j->lock);
		j->ended = true;
		nf_cond_signal(&j->cond);
		nf_lock_drop(&j->lock);
		return; /* the waiting thread frees it */
	}
	struct nf_fetch_nodes *fn = j->fn;
	fn->error = atomic_load(&j->error);
	free_job(j);
	fn->done(fn);
}

static void finish_group(struct group *g)
{
	int r = g->io.error ? g->io.error : open_group(g);

	if (is_bad_bytes(r) && g->io.from_cache) {
		g->io.bypass_cache = true;
		nf_fetch_start(g->job->f, &g->io, NF_FETCH_META);
		return;
	}
	step_job(g->job, r);
}

static void group_work(struct nf_work *w) { finish_group(nf_container_of(w, struct group, work)); }

/* Of a group that is on this machine only. */
static void read_local(struct group *g)
{
	const struct nf_fetch_options *o = nf_fetch_options(g->job->f);

	g->io.error = o->read_local ? o->read_local(o->read_local_ctx, &g->io.pack, g->io.offset_bytes, g->io.buf,
						    g->io.len_bytes)
				    : nf_fail(-NF_E_PACK_MISSING);
}

static void local_work(struct nf_work *w)
{
	struct group *g = nf_container_of(w, struct group, work);

	read_local(g);
	finish_group(g);
}

static void group_arrived(struct nf_fetch_io *io)
{
	struct group *g = nf_container_of(io, struct group, io);
	struct job *j = g->job;

	if (!j->blocking) {
		nf_pool_add(nf_fetch_options(j->f)->pool, &g->work);
		return;
	}
	nf_lock_take(&j->lock);
	nf_list_add_tail(&j->arrived, &g->link);
	nf_cond_signal(&j->cond);
	nf_lock_drop(&j->lock);
}

/* --- grouping ------------------------------------------------------------------ */

static int cmp_refs(const void *x, const void *y)
{
	const struct nf_ref *a = x, *b = y;
	int r = memcmp(&a->pack, &b->pack, sizeof a->pack);

	if (r)
		return r;
	return a->offset_bytes < b->offset_bytes ? -1 : a->offset_bytes > b->offset_bytes;
}

static int check_node_ref(const struct nf_ref *ref)
{
	int r = nf_ref_check(ref);

	if (r < 0)
		return r;
	return nf_fail(nf_pack_id_is_zero(&ref->pack) || ref->plain_len > NODE_PLAIN_MAX_BYTES ||
				       ref->sealed_len > NODE_SEALED_MAX_BYTES
			       ? -NF_E_FORMAT_BAD
			       : 0);
}

static bool is_cached(const struct nf_fetch *f, const struct nf_ref *ref)
{
	struct nf_cache *c = nf_fetch_options(f)->cache;

	return c && nf_cache_present(c, &ref->pack, ref->offset_bytes, ref->sealed_len) >= ref->sealed_len;
}

/* True if REF joins the group that ends with LAST. */
static bool joins(const struct nf_ref *first, const struct nf_ref *last, const struct nf_ref *ref)
{
	uint64_t end = (uint64_t)last->offset_bytes + last->sealed_len;

	return memcmp(&ref->pack, &last->pack, sizeof ref->pack) == 0 && ref->offset_bytes <= end + JOIN_GAP_BYTES &&
	       (uint64_t)ref->offset_bytes + ref->sealed_len - first->offset_bytes <= JOIN_MAX_BYTES;
}

static int add_group(struct job *j, size_t first, size_t nr)
{
	struct group *g = &j->groups[j->nr_groups];
	uint64_t start = j->refs[first].offset_bytes, end = start;

	for (size_t i = first; i < first + nr; i++)
		end = NF_MAX(end, (uint64_t)j->refs[i].offset_bytes + j->refs[i].sealed_len);
	*g = (struct group){ .job = j, .first = first, .nr = nr };
	nf_list_init(&g->link);
	nf_work_init(&g->work, group_work);
	g->io = (struct nf_fetch_io){ .pack = j->refs[first].pack, .offset_bytes = (uint32_t)start,
				      .len_bytes = (uint32_t)(end - start), .priority = j->fn->priority,
				      .done = group_arrived };
	g->io.buf = malloc(g->io.len_bytes);
	if (!g->io.buf)
		return nf_fail(-ENOMEM);
	j->nr_groups++;
	return 0;
}

/* The wanted nodes the cache has come first in job->refs, then the others; each part sorted. */
static int collect_refs(struct job *j)
{
	struct nf_ref missing[NF_WANT_MAX];
	const struct nf_fetch_nodes *fn = j->fn;
	size_t nr_missing = 0;

	for (size_t i = 0; i < fn->nr; i++) {
		const struct nf_ref *ref = &fn->refs[i];
		int r = check_node_ref(ref);
		if (r < 0)
			return r;
		if (nf_nodes_has(nf_fetch_options(j->f)->nodes, ref))
			continue;
		if (is_cached(j->f, ref))
			j->refs[j->nr++] = *ref;
		else
			missing[nr_missing++] = *ref;
	}
	size_t nr_cached = j->nr;
	qsort(missing, nr_missing, sizeof *missing, cmp_refs);
	memcpy(j->refs + nr_cached, missing, nr_missing * sizeof *missing);
	j->nr += nr_missing;
	j->groups = calloc(j->nr + 1, sizeof *j->groups);
	if (!j->groups)
		return nf_fail(-ENOMEM);
	for (size_t i = 0, n; i < j->nr; i += n) {
		for (n = 1; i >= nr_cached && i + n < j->nr; n++) {
			if (!joins(&j->refs[i], &j->refs[i + n - 1], &j->refs[i + n]))
				break;
		}
		int r = add_group(j, i, n);
		if (r < 0)
			return r;
	}
	return 0;
}

static struct job *new_job(struct nf_fetch *f, struct nf_fetch_nodes *fn, bool blocking)
{
	struct job *j = calloc(1, sizeof *j);

	if (!j)
		return NULL;
	j->f = f;
	j->fn = fn;
	j->blocking = blocking;
	nf_lock_init(&j->lock, NF_RANK_LEAF);
	nf_cond_init(&j->cond);
	nf_list_init(&j->arrived);
	return j;
}

static void start_job(struct job *j)
{
	int r = j->fn->nr <= NF_WANT_MAX ? collect_refs(j) : -EINVAL;
	size_t nr = r < 0 ? 0 : j->nr_groups;

	atomic_store(&j->pending, (unsigned)nr + 1);
	for (size_t i = 0; i < nr; i++) {
		struct group *g = &j->groups[i];
		if (!nf_ref_is_local(&g->io.pack)) {
			nf_fetch_start(j->f, &g->io, NF_FETCH_META);
		} else if (j->blocking) {
			read_local(g);
			group_arrived(&g->io);
		} else {
			nf_work_init(&g->work, local_work);
			nf_pool_add(nf_fetch_options(j->f)->pool, &g->work);
		}
	}
	step_job(j, r);
}

void nf_fetch_nodes(struct nf_fetch *f, struct nf_fetch_nodes *fn)
{
	struct job *j = new_job(f, fn, false);

	if (j) {
		start_job(j);
	} else {
		fn->error = nf_fail(-ENOMEM);
		fn->done(fn);
	}
}

/* --- blocking forms ------------------------------------------------------------ */

static int wait_job(struct job *j)
{
	nf_lock_take(&j->lock);
	while (!j->ended || !nf_list_empty(&j->arrived)) {
		if (nf_list_empty(&j->arrived)) {
			nf_cond_wait(&j->cond, &j->lock);
			continue;
		}
		struct group *g = nf_list_first(&j->arrived, struct group, link);
		nf_list_del(&g->link);
		nf_lock_drop(&j->lock);
		finish_group(g);
		nf_lock_take(&j->lock);
	}
	nf_lock_drop(&j->lock);
	return nf_fail(atomic_load(&j->error));
}

static int load(struct nf_fetch *fetch, struct nf_want *w, enum nf_store_priority priority)
{
	struct nf_fetch_nodes fn = { .nr = w->nr, .priority = priority };

	memcpy(fn.refs, w->refs, w->nr * sizeof *w->refs);
	struct job *j = new_job(fetch, &fn, true);
	if (!j)
		return nf_fail(-ENOMEM);
	start_job(j);
	int r = wait_job(j);
	free_job(j);
	return r;
}

int nf_fetch_load(void *fetch, struct nf_want *w) { return load(fetch, w, NF_STORE_FOREGROUND); }
int nf_fetch_load_behind(void *fetch, struct nf_want *w) { return load(fetch, w, NF_STORE_BACKGROUND); }

static void set_completion(struct nf_fetch_io *io) { nf_completion_set(io->ctx); }

static int run_io(struct nf_fetch *f, struct nf_fetch_io *io, enum nf_fetch_kind kind)
{
	struct nf_completion c;
	int r = nf_completion_init(&c);

	if (r < 0)
		return nf_fail(r);
	io->done = set_completion;
	io->ctx = &c;
	nf_fetch_start(f, io, kind);
	nf_completion_wait(&c);
	nf_completion_deinit(&c);
	return io->error;
}

int nf_fetch_warm(struct nf_fetch *f, const struct nf_pack_id *pack, uint32_t offset_bytes, uint32_t len_bytes)
{
	struct nf_cache *cache = nf_fetch_options(f)->cache;
	size_t there = cache ? nf_cache_present(cache, pack, offset_bytes, len_bytes) : 0;

	if (there >= len_bytes)
		return 0;
	struct nf_fetch_io io = { .pack = *pack, .offset_bytes = offset_bytes + (uint32_t)there,
				  .len_bytes = len_bytes - (uint32_t)there, .priority = NF_STORE_NORMAL };
	return run_io(f, &io, NF_FETCH_META);
}

static int check_blob_ref(const struct nf_ref *ref, const struct nf_seal_id *id)
{
	int r = nf_ref_check(ref);
	uint32_t max = id->type == NF_SEAL_DELTA ? DELTA_PLAIN_MAX_BYTES : XATTR_PLAIN_MAX_BYTES;

	if (r < 0)
		return r;
	if (id->type != NF_SEAL_DELTA && id->type != NF_SEAL_XATTR)
		return nf_fail(-EINVAL);
	return nf_fail(nf_pack_id_is_zero(&ref->pack) || ref->level != 0 || ref->plain_len > max
			       ? -NF_E_FORMAT_BAD
			       : 0);
}

static int open_blob(struct nf_fetch *f, const struct nf_ref *ref, const struct nf_seal_id *id, const void *sealed,
		     void *plain)
{
	struct nf_codec *c = nf_codec_get(nf_fetch_options(f)->ring);

	if (!c)
		return nf_fail(-ENOMEM);
	int r = nf_codec_open(c, id, ref->epoch, ref->flags, ref->tag, sealed, ref->sealed_len, plain,
			      ref->plain_len);
	nf_codec_put(c);
	return r;
}

int nf_fetch_bytes(struct nf_fetch *f, const struct nf_pack_id *pack, uint32_t offset_bytes, uint32_t len_bytes,
		   void *buf)
{
	struct nf_fetch_io io = { .pack = *pack, .offset_bytes = offset_bytes, .len_bytes = len_bytes, .buf = buf,
				  .priority = NF_STORE_NORMAL };

	return run_io(f, &io, 0);
}

int nf_fetch_from_store(struct nf_fetch *f, const struct nf_pack_id *pack, uint32_t offset_bytes, uint32_t len_bytes,
			void *buf)
{
	struct nf_fetch_io io = { .pack = *pack, .offset_bytes = offset_bytes, .len_bytes = len_bytes,
				  .buf = buf, .priority = NF_STORE_NORMAL, .bypass_cache = true };

	return run_io(f, &io, 0);
}

int nf_fetch_blob(struct nf_fetch *f, const struct nf_ref *ref, const struct nf_seal_id *id, void **out,
		  size_t *len)
{
	int r = check_blob_ref(ref, id);

	if (r < 0)
		return r;
	nf_auto_free void *sealed = malloc(ref->sealed_len);
	nf_auto_free void *plain = malloc((size_t)ref->plain_len + 1);
	if (!sealed || !plain)
		return nf_fail(-ENOMEM);
	struct nf_fetch_io io = { .pack = ref->pack, .offset_bytes = ref->offset_bytes,
				  .len_bytes = ref->sealed_len, .buf = sealed, .priority = NF_STORE_NORMAL };
	do {
		r = run_io(f, &io, NF_FETCH_META);
		if (r < 0)
			return r;
		r = open_blob(f, ref, id, sealed, plain);
		if (!is_bad_bytes(r))
			break;
		count_bad(f, ref, io.from_cache);
		io.bypass_cache = true;
	} while (io.from_cache);
	if (r < 0)
		return r;
	*len = ref->plain_len;
	*out = nf_steal(&plain);
	return 0;
}
