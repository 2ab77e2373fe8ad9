/* vault/upload.c - packs of data blocks.
 *
 *   fill -> upload 0: read, put, moved      the next pack is filled while up to UPLOADS_MAX are on their way, each by a
 *   fill -> upload 1: read, put, moved      thread of its own, which reads the blocks from the journal; memory:
 *   fill -> upload 2: read, put, moved      (UPLOADS_MAX + 1) DATA_PACK_BYTES */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/commit.h"
#include "vault/upload.h"

enum {
	UPLOADS_MAX = 3,
	DATA_PACK_BYTES = 8 << 20,
};

/* One pack's worth of blocks, in order. */
struct upload {
	struct nf_vault *v;
	struct nf_buf bytes;
	struct nf_block_ref *refs;
	size_t nr, cap;
	size_t len_bytes;  /* of all of them */
	int64_t date_s;    /* the server's, when it was begun */
	pthread_t thread;
	bool running;
	int error;
};

/* All but `v` is of whoever has the turn; an upload that runs is its thread's. */
struct nf_uploads {
	struct nf_vault *v;
	struct upload up[UPLOADS_MAX + 1];
	unsigned at;       /* the one being filled; the one after it is the oldest under way */
	int failed;        /* the last error since it was asked for */
};

uint64_t nf_upload_pack_bytes(const struct nf_vault *v)
{
	return NF_MIN((uint64_t)DATA_PACK_BYTES, atomic_load(&v->store->max_put_bytes));
}

/* --- one pack ----------------------------------------------------------------------------------- */

/* The blocks from FIRST on that stand one behind the other in the journal. */
static size_t run_of(const struct upload *u, size_t first, size_t *len)
{
	const struct nf_block_ref *refs = u->refs;
	size_t nr = 1;

	*len = refs[first].sealed_len;
	for (; first + nr < u->nr; nr++) {
		const struct nf_block_ref *a = &refs[first + nr - 1], *b = &refs[first + nr];
		if (memcmp(&a->pack, &b->pack, sizeof a->pack) || a->offset_bytes + a->sealed_len != b->offset_bytes)
			break;
		*len += b->sealed_len;
	}
	return nr;
}

static int read_blocks(struct upload *u)
{
	struct nf_vault *v = u->v;
	size_t len = 0, nr;

	if (!nf_buf_reserve(&u->bytes, u->len_bytes))
		return nf_fail(-ENOMEM);
	for (size_t i = 0; i < u->nr; i += nr) {
		nr = run_of(u, i, &len);
		struct nf_journal_pos pos = { nf_ref_local_segment(&u->refs[i].pack), u->refs[i].offset_bytes };
		int r = nf_journal_read(v->journal, pos, u->bytes.p + u->bytes.len, len);
		if (r == -EINVAL) {
			/* Died, and its segment went: what goes in its place is read by nobody. */
			memset(u->bytes.p + u->bytes.len, 0, len);
			for (size_t k = i; k < i + nr; k++)
				(void)nf_moved_end(v, &u->refs[k], NULL, 0, 0);
		} else if (r < 0) {
			return nf_fail(r);
		}
		u->bytes.len += len;
	}
	return 0;
}

/* Puts blocks [first, first + nr), which lie at AT. */
static int put_run(struct upload *u, size_t first, size_t nr, size_t at, size_t len)
{
	struct nf_vault *v = u->v;
	struct iovec iov = { u->bytes.p + at, len };
	struct nf_pack_put put = { .store = v->store, .cache = v->cache, .iov = &iov, .nr_iov = 1,
				   .stop = &v->stop };
	uint32_t offset = 0;

	int r = nf_pack_put(&put);
	for (size_t i = first; r == 0 && i < first + nr; i++) {
		r = nf_moved_end(v, &u->refs[i], &put.id, offset, u->date_s);
		offset += u->refs[i].sealed_len;
	}
	if (r == 0) {
		nf_lock_take(&v->ns);
		v->sent_bytes += len;
		v->upload_done = NF_MIN(v->upload_done + len, v->upload_total);
		nf_lock_drop(&v->ns);
	}
	return r;
}

/* A server that refuses the size is given smaller packs, down to single blocks. */
static int put_all(struct upload *u)
{
	uint64_t max = UINT64_MAX;
	size_t first = 0, at = 0;
	int r = 0;

	while (r == 0 && first < u->nr) {
		size_t nr = 1, len = u->refs[first].sealed_len;
		max = NF_MIN(max, nf_upload_pack_bytes(u->v));
		while (first + nr < u->nr && len + u->refs[first + nr].sealed_len <= max)
			len += u->refs[first + nr++].sealed_len;
		r = put_run(u, first, nr, at, len);
		if (r == -NF_E_STORE_TOO_LARGE && nr > 1) {
			max = len / 2;
			r = 0;
			continue;
		}
		if (r == 0) {
			first += nr;
			at += len;
		}
	}
	for (; first < u->nr; first++) {
		/* Of a run that was noted in part those stay noted. */
		if (nf_moved_find(u->v, &u->refs[first], NULL) == NF_MOVED_ON_ITS_WAY)
			(void)nf_moved_end(u->v, &u->refs[first], NULL, 0, 0);
	}
	return r;
}

static void *upload_thread(void *arg)
{
	struct upload *u = arg;

	int r = read_blocks(u);
	if (r < 0) {
		for (size_t i = 0; i < u->nr; i++)
			(void)nf_moved_end(u->v, &u->refs[i], NULL, 0, 0);
	} else {
		r = put_all(u);
	}
	u->error = r;
	return NULL;
}

static void empty(struct upload *u)
{
	u->bytes.len = 0;
	u->nr = 0;
	u->len_bytes = 0;
}

/* Waits for U's thread, if it has one; U is empty then. */
static int join(struct nf_uploads *all, struct upload *u)
{
	if (!u->running)
		return 0;
	pthread_join(u->thread, NULL);
	u->running = false;
	empty(u);
	if (u->error < 0)
		all->failed = u->error;
	return u->error;
}

static int flush(struct nf_uploads *all)
{
	struct upload *u = &all->up[all->at];

	if (u->nr == 0)
		return 0;
	nf_lock_take(&u->v->ns);
	u->date_s = u->v->look_date_s;
	nf_lock_drop(&u->v->ns);
	nf_trace(COMMIT, "pack of blocks=%zu bytes=%zu", u->nr, u->len_bytes);
	int r = pthread_create(&u->thread, NULL, upload_thread, u);
	if (r)
		return nf_fail(-r);
	u->running = true;
	all->at = (all->at + 1) % (UPLOADS_MAX + 1);
	return join(all, &all->up[all->at]);
}

/* --- the turn -------------------------------------------------------------------------------------- */

int nf_uploads_new(struct nf_vault *v)
{
	v->uploads = calloc(1, sizeof *v->uploads);
	if (!v->uploads)
		return nf_fail(-ENOMEM);
	v->uploads->v = v;
	for (unsigned i = 0; i < UPLOADS_MAX + 1; i++)
		v->uploads->up[i].v = v;
	return 0;
}

static void give_back(struct nf_uploads *all)
{
	for (unsigned i = 0; i < UPLOADS_MAX + 1; i++) {
		struct upload *u = &all->up[i];
		/* Filled and never sent, after an error. */
		for (size_t k = 0; k < u->nr; k++)
			(void)nf_moved_end(all->v, &u->refs[k], NULL, 0, 0);
		empty(u);
		nf_buf_deinit(&u->bytes);
		free(u->refs);
		u->refs = NULL;
		u->cap = 0;
	}
}

void nf_uploads_free(struct nf_uploads *all)
{
	if (!all)
		return;
	for (unsigned i = 0; i < UPLOADS_MAX + 1; i++)
		(void)join(all, &all->up[i]); /* what did not arrive is sent by the next mount */
	give_back(all);
	free(all);
}

void nf_upload_begin(struct nf_vault *v, bool commit)
{
	nf_lock_take(&v->ns);
	v->want_filling |= commit;
	while (v->filling)
		nf_cond_wait(&v->changed, &v->ns);
	v->filling = true;
	nf_lock_drop(&v->ns);
}

void nf_upload_pause(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	NF_ASSERT(v->filling);
	v->filling = false;
	nf_cond_broadcast(&v->changed);
	nf_cond_broadcast(&v->ahead_wake);
	nf_lock_drop(&v->ns);
}

int nf_upload_end(struct nf_vault *v, int r)
{
	struct nf_uploads *all = v->uploads;

	if (r == 0)
		r = flush(all);
	for (unsigned i = 0; i < UPLOADS_MAX + 1; i++) {
		int one = join(all, &all->up[i]);
		if (r == 0)
			r = one;
	}
	give_back(all);
	all->failed = 0; /* told here */
	nf_lock_take(&v->ns);
	v->want_filling = false;
	nf_lock_drop(&v->ns);
	nf_upload_pause(v);
	return r;
}

int nf_upload_failed(struct nf_vault *v)
{
	int r = v->uploads->failed;

	v->uploads->failed = 0;
	return r;
}

static bool has_room(struct upload *u)
{
	if (u->nr < u->cap)
		return true;
	size_t cap = u->cap ? 2 * u->cap : 512;
	struct nf_block_ref *refs = realloc(u->refs, cap * sizeof *refs);
	if (!refs)
		return false;
	u->refs = refs;
	u->cap = cap;
	return true;
}

int nf_upload_add(struct nf_vault *v, const struct nf_block_ref *ref, bool ahead)
{
	struct nf_uploads *all = v->uploads;
	struct upload *u = &all->up[all->at];

	if ((ahead ? nf_moved_find(v, ref, NULL) : nf_moved_want(v, ref)) != NF_MOVED_NO)
		return 0;
	if (u->nr && u->len_bytes + ref->sealed_len > nf_upload_pack_bytes(v)) {
		int r = flush(all);
		if (r < 0 && !ahead)
			return r;
		u = &all->up[all->at];
		/* The thread of the full one could not be made. */
		if (u->nr)
			return r;
	}
	if (!has_room(u))
		return nf_fail(-ENOMEM);
	int r = nf_moved_begin(v, ref, ahead);
	if (r < 0)
		return r;
	u->refs[u->nr++] = *ref;
	u->len_bytes += ref->sealed_len;
	return 0;
}
