/* tests/lib/toyfs.h - a filesystem of one file in memory, under the library.
 *
 * Blocks are sealed by a toy cipher with a length of their own.  Calls end inline, or later on
 * a worker thread in random order, or fail, as `toy.p_*` (per mille) say.  What
 * write_stored() and group_stored() say is kept twice: `now` is what a read finds, `kept` is what
 * a crash would leave (whole groups only).
 *
 * With several destinations, each keeps what it was sent in `at`:
 *   TOY_ONE      none, the library's default stream
 *   TOY_MIRRORED server and mirror, both required, and a cache
 *   TOY_STANDBY  server, a local stand-in, and a cache */
#ifndef NF_TESTS_TOYFS_H
#define NF_TESTS_TOYFS_H

#include "base/random.h"
#include "foliofs/netfs.h"

#undef NDEBUG
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOY_BLOCKS = 1024, TOY_QUEUE = 4096 };
enum toy_mode { TOY_ONE, TOY_MIRRORED, TOY_STANDBY };
enum { TOY_SERVER, TOY_SECOND, TOY_CACHE, TOY_STREAMS };

struct toy_block {
	uint8_t *sealed; /* NULL: hole */
	uint32_t len;
	uint32_t plain_len;
};

struct toy_image {
	struct toy_block blocks[TOY_BLOCKS];
	uint64_t size;
};

struct toy {
	struct nf_ictx ic;
	struct nf_netfs *lib;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	pthread_t worker;
	bool stop;
	bool gone;              /* the context is */
	struct nf_prng prng;
	struct nf_subreq *queue[TOY_QUEUE];
	unsigned nr_queue;
	bool held;              /* the worker does nothing */
	atomic_uint p_later;       /* per mille of calls that end on the worker */
	atomic_uint p_again;       /* ... that end with -EAGAIN */
	atomic_uint p_error;       /* ... that end with -EIO */
	atomic_int fail_writes;        /* every write fails with this */
	atomic_int fail_reads;
	enum toy_mode mode;
	atomic_int fail_stream[TOY_STREAMS];
	atomic_uint p_stream_error; /* ... of stream calls that fail, each in one of several ways */
	struct toy_image at[TOY_STREAMS];
	bool copies;                /* what is read and not in the cache is to be copied there */
	bool changed_by_others;
	unsigned nr_copied;         /* blocks */
	bool unsent[TOY_BLOCKS];    /* only the stand-in has it */
	atomic_uint nr_stream[TOY_STREAMS]; /* calls */
	unsigned fail_nth_write;    /* the call to the server that fails with -ENOSPC, from 1 */
	unsigned most_blocks;       /* of one call to the server, if not 0 */
	struct toy_image now;
	struct toy_image staged;/* blocks stored for the group that has not drained */
	bool is_staged[TOY_BLOCKS];
	struct toy_image kept;
	uint64_t last_group;
	atomic_uint nr_groups;
	atomic_uint nr_reads;
	atomic_uint nr_writes;
	unsigned nr_inits;      /* of requests, less their cleanups */
	struct nf_group_info info; /* of the last group; arrays copied */
	struct nf_range ranges[64];
	struct nf_range holes[64];
	void (*on_group)(struct toy *t, const struct nf_group_info *g);
};

static inline struct toy *toy_of(struct nf_ictx *ic) { return (struct toy *)(void *)ic; }

static inline uint8_t toy_key(uint64_t index, uint32_t i)
{
	return (uint8_t)(index * 31 + i * 7 + 0x5a);
}

static inline bool toy_chance(struct toy *t, unsigned per_mille)
{
	return per_mille && nf_prng_below(&t->prng, 1000) < per_mille;
}

static inline void toy_block_set(struct toy_block *b, const struct toy_block *from)
{
	free(b->sealed);
	*b = *from;
	if (from->sealed) {
		b->sealed = malloc(from->len);
		memcpy(b->sealed, from->sealed, from->len);
	}
}

static inline void toy_block_clear(struct toy_block *b)
{
	free(b->sealed);
	*b = (struct toy_block){ 0 };
}

static int toy_encrypt(struct nf_wreq *wq, struct nf_block *b)
{
	(void)wq;
	uint32_t pad = (uint32_t)(b->index % 7);
	uint8_t *out = malloc(b->plain_len + 8 + pad);
	memset(out, 0xee, 8);
	for (uint32_t i = 0; i < b->plain_len; i++)
		out[8 + i] = ((uint8_t *)b->plain)[i] ^ toy_key(b->index, i);
	memset(out + 8 + b->plain_len, 0xdd, pad);
	b->sealed = out;
	b->sealed_len = b->plain_len + 8 + pad;
	b->owned = true;
	memcpy(b->cookie, &b->plain_len, 4);
	return 0;
}

static void toy_open(const struct toy_block *b, uint64_t index, uint8_t *out)
{
	for (uint32_t i = 0; i < b->plain_len; i++)
		out[i] = b->sealed[8 + i] ^ toy_key(index, i);
}

static int toy_decrypt(struct nf_rreq *rq, struct nf_block *b, void *out)
{
	(void)rq;
	const uint8_t *in = b->sealed;
	assert(b->sealed_len == b->plain_len + 8 + b->index % 7);
	assert(in[0] == 0xee);
	for (uint32_t i = 0; i < b->plain_len; i++)
		((uint8_t *)out)[i] = in[8 + i] ^ toy_key(b->index, i);
	return 0;
}

/* Lock held. */
static void toy_fill_read(struct toy *t, struct nf_subreq *sq)
{
	for (unsigned i = 0; i < sq->nr_blocks; i++) {
		struct nf_block *b = &sq->blocks[i];
		assert(b->index < TOY_BLOCKS);
		const struct toy_block *from = &t->now.blocks[b->index];
		if (b->sealed || b->hole)
			continue;
		b->hole = !from->sealed;
		if (b->hole)
			continue;
		b->sealed = malloc(from->len);
		memcpy(b->sealed, from->sealed, from->len);
		b->sealed_len = from->len;
		b->plain_len = from->plain_len;
		b->owned = true;
		b->copy_to_cache = t->copies && !t->at[TOY_CACHE].blocks[b->index].sealed;
	}
}

static inline bool toy_same(const struct toy_block *a, const struct nf_block *b)
{
	return a->sealed && a->len == b->sealed_len && memcmp(a->sealed, b->sealed, a->len) == 0;
}

static int toy_stream_error(struct toy *t, unsigned stream)
{
	static const int how[] = { -EIO, -ENOSPC, -EACCES, -NF_E_OFFLINE, -NF_E_OFFLINE, -EAGAIN };

	if (stream == TOY_SERVER && t->fail_nth_write && t->nr_stream[stream] == t->fail_nth_write)
		return -ENOSPC;
	if (t->fail_stream[stream])
		return t->fail_stream[stream];
	return toy_chance(t, t->p_stream_error) ? how[nf_prng_below(&t->prng, 6)] : 0;
}

/* Lock held: the destination has taken it. */
static void toy_stream_take(struct toy *t, struct nf_subreq *sq)
{
	for (unsigned i = 0; i < sq->nr_blocks; i++) {
		const struct nf_block *b = &sq->blocks[i];
		struct toy_block tb = { b->sealed, b->sealed_len, b->plain_len };
		if (nf_wreq_is_copy(sq->wreq)) {
			/* Of another version by now: a filesystem knows by the version it was read from. */
			bool same = toy_same(&t->now.blocks[b->index], b);
			assert(sq->stream == TOY_CACHE);
			assert(same || t->changed_by_others);
			if (!same)
				continue;
			t->nr_copied++;
		}
		toy_block_set(&t->at[sq->stream].blocks[b->index], &tb);
	}
}

/* Lock held; drops it. */
static void toy_end(struct toy *t, struct nf_subreq *sq)
{
	int r = 0;

	if (toy_chance(t, t->p_error))
		r = -EIO;
	else if (toy_chance(t, t->p_again))
		r = -EAGAIN;
	if (sq->dir == NF_SUBREQ_READ && t->fail_reads)
		r = t->fail_reads;
	if (sq->dir == NF_SUBREQ_WRITE && t->fail_writes)
		r = t->fail_writes;
	if (sq->dir == NF_SUBREQ_READ && r == 0)
		toy_fill_read(t, sq);
	if (sq->dir == NF_SUBREQ_WRITE && r == 0 && t->mode)
		r = toy_stream_error(t, sq->stream);
	if (sq->dir == NF_SUBREQ_WRITE && r == 0 && t->mode)
		toy_stream_take(t, sq);
	pthread_mutex_unlock(&t->lock);
	nf_subreq_terminated(sq, r);
}

static void *toy_worker(void *arg)
{
	struct toy *t = arg;

	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		if (t->nr_queue == 0 || t->held) {
			pthread_cond_wait(&t->cond, &t->lock);
			continue;
		}
		unsigned i = (unsigned)nf_prng_below(&t->prng, t->nr_queue);
		struct nf_subreq *sq = t->queue[i];
		t->queue[i] = t->queue[--t->nr_queue];
		toy_end(t, sq);
		pthread_mutex_lock(&t->lock);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void toy_issue(struct nf_subreq *sq)
{
	struct toy *t = toy_of(sq->ic);

	pthread_mutex_lock(&t->lock);
	if (sq->dir == NF_SUBREQ_READ)
		t->nr_reads++;
	else
		t->nr_writes++;
	if (sq->dir == NF_SUBREQ_WRITE)
		t->nr_stream[sq->stream]++;
	if (t->held || toy_chance(t, t->p_later)) {
		/* What is read may be of now or of when it ends. */
		if (sq->dir == NF_SUBREQ_READ && toy_chance(t, 500))
			toy_fill_read(t, sq);
		assert(t->nr_queue < TOY_QUEUE);
		t->queue[t->nr_queue++] = sq;
		pthread_cond_broadcast(&t->cond);
		pthread_mutex_unlock(&t->lock);
		return;
	}
	toy_end(t, sq);
}

static int toy_add_streams(struct nf_wreq *wq)
{
	struct toy *t = toy_of(nf_wreq_ictx(wq));
	int r = nf_wreq_add_stream(wq, "server", NF_STREAM_REQUIRED, t->most_blocks);

	if (t->mode == TOY_ONE)
		return r;
	if (r == 0)
		r = nf_wreq_add_stream(wq, "second", t->mode == TOY_MIRRORED ? NF_STREAM_REQUIRED
									      : NF_STREAM_STANDBY, 2);
	if (r == 0)
		r = nf_wreq_add_stream(wq, "cache", NF_STREAM_OPTIONAL, 3);
	return r;
}

/* Lock held: what each destination must have now. */
static void toy_stored_at(struct toy *t, struct nf_wreq *wq, const struct nf_block *b)
{
	for (unsigned s = 0; s < TOY_STREAMS; s++) {
		int error = nf_wreq_stream_error(wq, s);
		assert(error || toy_same(&t->at[s].blocks[b->index], b));
		assert(!error || s == TOY_CACHE || t->mode == TOY_STANDBY);
		if (error && s == TOY_CACHE)
			toy_block_clear(&t->at[s].blocks[b->index]);
		if (s == TOY_SERVER)
			t->unsent[b->index] = error;
		assert(!(error && s == TOY_SECOND && t->unsent[b->index]));
	}
}

static void toy_write_stored(struct nf_wreq *wq)
{
	struct toy *t = toy_of(nf_wreq_ictx(wq));
	unsigned nr;
	struct nf_block *b = nf_wreq_blocks(wq, &nr);

	pthread_mutex_lock(&t->lock);
	assert(nf_wreq_group(wq) > t->last_group);
	for (unsigned i = 0; i < nr; i++) {
		assert(b[i].index < TOY_BLOCKS);
		struct toy_block tb = { b[i].sealed, b[i].sealed_len, b[i].plain_len };
		assert(b[i].plain_len && b[i].plain_len <= t->ic.block_bytes);
		if (t->mode)
			toy_stored_at(t, wq, &b[i]);
		toy_block_set(&t->now.blocks[b[i].index], &tb);
		toy_block_set(&t->staged.blocks[b[i].index], &tb);
		t->is_staged[b[i].index] = true;
	}
	pthread_mutex_unlock(&t->lock);
}

static void toy_punch(struct toy_image *im, uint64_t bb, const struct nf_range *r)
{
	for (uint64_t i = (r->start + bb - 1) / bb; (i + 1) * bb <= r->end && i < TOY_BLOCKS; i++)
		toy_block_clear(&im->blocks[i]);
	/* The last block counts as whole when the range reaches the end of the file. */
	if (r->end >= im->size && r->end / bb * bb >= r->start && r->end / bb < TOY_BLOCKS && r->end % bb)
		toy_block_clear(&im->blocks[r->end / bb]);
}

static void toy_apply_group(struct toy_image *im, uint64_t bb, const struct nf_group_info *g)
{
	im->size = g->size_bytes;
	for (size_t i = 0; i < g->nr_holes; i++)
		toy_punch(im, bb, &g->holes[i]);
	for (uint64_t i = (g->size_bytes + bb - 1) / bb; i < TOY_BLOCKS; i++)
		toy_block_clear(&im->blocks[i]);
}

static int toy_group_stored(struct nf_ictx *ic, const struct nf_group_info *g)
{
	struct toy *t = toy_of(ic);
	uint64_t end = 0;

	pthread_mutex_lock(&t->lock);
	assert(g->group > t->last_group);
	for (size_t i = 0; i < g->nr_ranges; i++) {
		assert(g->ranges[i].start < g->ranges[i].end);
		assert(i == 0 || g->ranges[i].start > end);
		end = g->ranges[i].end;
		assert(end <= g->size_bytes);
	}
	t->last_group = g->group;
	t->nr_groups++;
	t->info = *g;
	t->info.nr_ranges = g->nr_ranges < 64 ? g->nr_ranges : 64;
	t->info.nr_holes = g->nr_holes < 64 ? g->nr_holes : 64;
	memcpy(t->ranges, g->ranges, t->info.nr_ranges * sizeof *t->ranges);
	memcpy(t->holes, g->holes, t->info.nr_holes * sizeof *t->holes);
	t->info.ranges = t->ranges;
	t->info.holes = t->holes;
	for (unsigned i = 0; i < TOY_BLOCKS; i++) {
		if (t->is_staged[i])
			toy_block_set(&t->kept.blocks[i], &t->staged.blocks[i]);
		t->is_staged[i] = false;
		toy_block_clear(&t->staged.blocks[i]);
	}
	toy_apply_group(&t->now, ic->block_bytes, g);
	toy_apply_group(&t->kept, ic->block_bytes, g);
	for (unsigned s = 0; s < TOY_STREAMS; s++)
		toy_apply_group(&t->at[s], ic->block_bytes, g);
	if (t->on_group)
		t->on_group(t, g);
	pthread_mutex_unlock(&t->lock);
	return 0;
}

static void toy_init(struct toy *t)
{
	pthread_mutex_lock(&t->lock);
	t->nr_inits++;
	pthread_mutex_unlock(&t->lock);
}

static int toy_init_rreq(struct nf_rreq *rq, struct nf_ictx *ic)
{
	*nf_rreq_priv(rq) = toy_of(ic);
	toy_init(toy_of(ic));
	return 0;
}

static void toy_cleanup(struct toy *t)
{
	pthread_mutex_lock(&t->lock);
	t->nr_inits--;
	pthread_mutex_unlock(&t->lock);
}

static void toy_cleanup_rreq(struct nf_rreq *rq) { toy_cleanup(*nf_rreq_priv(rq)); }

static int toy_init_wreq(struct nf_wreq *wq, struct nf_ictx *ic)
{
	*nf_wreq_priv(wq) = toy_of(ic);
	toy_init(toy_of(ic));
	return 0;
}

static void toy_cleanup_wreq(struct nf_wreq *wq) { toy_cleanup(*nf_wreq_priv(wq)); }

/* The bytes of an image, IM->size of them; the caller frees. */
static inline uint8_t *toy_image_bytes(const struct toy_image *im, uint64_t bb)
{
	uint8_t *out = calloc(1, im->size + bb);

	for (uint64_t i = 0; i * bb < im->size; i++)
		if (im->blocks[i].sealed)
			toy_open(&im->blocks[i], i, out + i * bb);
	memset(out + im->size, 0, bb);
	return out;
}

/* Others made it SIZE bytes long: what is behind is gone, in the last block too. */
static inline void toy_cut_to(struct toy_image *im, uint64_t bb, uint64_t size)
{
	for (uint64_t i = size / bb; i < TOY_BLOCKS; i++) {
		struct toy_block *b = &im->blocks[i];
		if (i * bb >= size)
			toy_block_clear(b);
		if (!b->sealed || i * bb + b->plain_len <= size)
			continue;
		b->plain_len = (uint32_t)(size - i * bb);
		b->len = b->plain_len + 8 + (uint32_t)(i % 7);
	}
	im->size = size;
}

static const struct nf_netfs_ops toy_ops = {
	.name = "toy",
	.init_rreq = toy_init_rreq,
	.init_wreq = toy_init_wreq,
	.cleanup_rreq = toy_cleanup_rreq,
	.cleanup_wreq = toy_cleanup_wreq,
	.issue_read = toy_issue,
	.decrypt_block = toy_decrypt,
	.encrypt_block = toy_encrypt,
	.add_write_streams = toy_add_streams,
	.issue_write = toy_issue,
	.write_stored = toy_write_stored,
	.group_stored = toy_group_stored,
};

struct toy_wait {
	struct nf_io io;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
};

static inline void toy_done(struct nf_io *io)
{
	struct toy_wait *w = (struct toy_wait *)(void *)io;

	pthread_mutex_lock(&w->lock);
	assert(!w->done);
	w->done = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static inline void toy_wait_init(struct toy_wait *w, struct toy *t)
{
	memset(w, 0, sizeof *w);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	w->io.ic = &t->ic;
	w->io.done = toy_done;
}

static inline int toy_wait_end(struct toy_wait *w)
{
	pthread_mutex_lock(&w->lock);
	while (!w->done)
		pthread_cond_wait(&w->cond, &w->lock);
	pthread_mutex_unlock(&w->lock);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->cond);
	return w->io.error;
}

static inline bool toy_is_done(struct toy_wait *w)
{
	pthread_mutex_lock(&w->lock);
	bool done = w->done;
	pthread_mutex_unlock(&w->lock);
	return done;
}

static inline struct toy *toy_new(size_t memory_bytes, uint32_t block_bytes, uint64_t seed)
{
	struct toy *t = calloc(1, sizeof *t);
	struct nf_netfs_options o = { .memory_bytes = memory_bytes, .codec_threads = 2,
				       .write_back_ms = 3600 * 1000, .retry_ms = 5 };

	nf_prng_seed(&t->prng, seed);
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->cond, NULL);
	int r = nf_netfs_new(&o, &t->lib);
	assert(r == 0);
	r = nf_ictx_init(&t->ic, t->lib, &toy_ops, 7, block_bytes, 0, 0);
	assert(r == 0);
	pthread_create(&t->worker, NULL, toy_worker, t);
	return t;
}

static inline void toy_gone(struct nf_ictx *ic)
{
	struct toy *t = toy_of(ic);
	pthread_mutex_lock(&t->lock);
	t->gone = true;
	pthread_cond_broadcast(&t->cond);
	pthread_mutex_unlock(&t->lock);
}

static inline void toy_hold(struct toy *t, bool held)
{
	pthread_mutex_lock(&t->lock);
	t->held = held;
	pthread_cond_broadcast(&t->cond);
	pthread_mutex_unlock(&t->lock);
}

static inline int toy_fsync(struct toy *t)
{
	struct toy_wait w;

	toy_wait_init(&w, t);
	nf_fsync(&w.io);
	return toy_wait_end(&w);
}

/* With everything stored and nothing under way: what the destinations have. */
static inline void toy_check_streams(struct toy *t)
{
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < TOY_BLOCKS && t->mode; i++) {
		const struct toy_block *now = &t->now.blocks[i];
		for (unsigned s = 0; s < TOY_STREAMS; s++) {
			const struct toy_block *b = &t->at[s].blocks[i];
			if (s == TOY_SERVER && t->unsent[i])
				continue;
			if (s == TOY_SECOND && t->mode == TOY_STANDBY && !t->unsent[i])
				continue;
			if (s == TOY_CACHE && !b->sealed)
				continue;
			assert(!b->sealed == !now->sealed);
			if (!b->sealed)
				continue;
			assert(b->len == now->len && memcmp(b->sealed, now->sealed, b->len) == 0);
		}
	}
	pthread_mutex_unlock(&t->lock);
}

static inline void toy_free(struct toy *t)
{
	nf_ictx_deinit(&t->ic, toy_gone);
	pthread_mutex_lock(&t->lock);
	while (!t->gone)
		pthread_cond_wait(&t->cond, &t->lock);
	t->stop = true;
	pthread_cond_broadcast(&t->cond);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->worker, NULL);
	nf_netfs_free(t->lib);
	assert(t->nr_inits == 0);
	for (unsigned i = 0; i < TOY_BLOCKS; i++) {
		toy_block_clear(&t->now.blocks[i]);
		toy_block_clear(&t->staged.blocks[i]);
		toy_block_clear(&t->kept.blocks[i]);
		for (unsigned s = 0; s < TOY_STREAMS; s++)
			toy_block_clear(&t->at[s].blocks[i]);
	}
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->cond);
	free(t);
}

static inline int toy_write_flags(struct toy *t, uint64_t pos, const void *buf, size_t len, unsigned flags)
{
	struct toy_wait w;
	struct iovec v = { (void *)(uintptr_t)buf, len };

	toy_wait_init(&w, t);
	w.io.pos_bytes = pos;
	w.io.len_bytes = len;
	w.io.flags = flags;
	w.io.iov = &v;
	w.io.nr_iov = 1;
	nf_write(&w.io);
	return toy_wait_end(&w);
}

static inline int toy_write(struct toy *t, uint64_t pos, const void *buf, size_t len)
{
	return toy_write_flags(t, pos, buf, len, 0);
}

/* Bytes read, or negative. */
static inline long toy_read_flags(struct toy *t, uint64_t pos, void *buf, size_t len, unsigned flags)
{
	struct toy_wait w;
	size_t at = 0;

	toy_wait_init(&w, t);
	w.io.pos_bytes = pos;
	w.io.len_bytes = len;
	w.io.flags = flags;
	nf_read(&w.io);
	int r = toy_wait_end(&w);
	for (int i = 0; i < w.io.nr_out_iov && r == 0; i++) {
		memcpy((uint8_t *)buf + at, w.io.out_iov[i].iov_base, w.io.out_iov[i].iov_len);
		at += w.io.out_iov[i].iov_len;
	}
	assert(r < 0 || at == w.io.done_bytes);
	nf_read_end(&w.io);
	return r < 0 ? r : (long)at;
}

static inline long toy_read(struct toy *t, uint64_t pos, void *buf, size_t len)
{
	return toy_read_flags(t, pos, buf, len, 0);
}

static inline int toy_truncate(struct toy *t, uint64_t size)
{
	struct toy_wait w;

	toy_wait_init(&w, t);
	w.io.len_bytes = size;
	nf_truncate(&w.io);
	return toy_wait_end(&w);
}

static inline int toy_fallocate(struct toy *t, int mode, uint64_t pos, uint64_t len)
{
	struct toy_wait w;

	toy_wait_init(&w, t);
	w.io.pos_bytes = pos;
	w.io.len_bytes = len;
	nf_fallocate(&w.io, mode);
	return toy_wait_end(&w);
}

/* As if others had changed the range, to what it was.  The lock keeps groups from being applied meanwhile: the
 * library is told of a version that is the present one. */
static inline void toy_invalidate(struct toy *t, uint64_t start, uint64_t end)
{
	pthread_mutex_lock(&t->lock);
	nf_invalidate(&t->ic, start, end, t->now.size, t->now.size);
	pthread_mutex_unlock(&t->lock);
}

/* Others have given the file blocks [start, end), all V, and a size. */
static inline void toy_remote_change(struct toy *t, uint64_t start, uint64_t end, uint64_t size, uint8_t v)
{
	uint64_t bb = t->ic.block_bytes, from = start;
	struct toy_image *all[2 + TOY_STREAMS] = { &t->now, &t->kept };

	pthread_mutex_lock(&t->lock);
	t->changed_by_others = true;
	from = from < size ? from : size;
	from = from < t->now.size ? from : t->now.size;
	for (unsigned k = 0; k < 2 + TOY_STREAMS; k++) {
		struct toy_image *im = k < 2 ? all[k] : &t->at[k - 2];
		for (uint64_t i = start / bb; i * bb < end; i++) {
			struct nf_block b = { .index = i, .plain_len = (uint32_t)bb };
			if (size - i * bb < bb)
				b.plain_len = (uint32_t)(size - i * bb);
			b.plain = malloc(bb);
			memset(b.plain, v, bb);
			(void)toy_encrypt(NULL, &b);
			free(b.plain);
			toy_block_set(&im->blocks[i], &(struct toy_block){ b.sealed, b.sealed_len, b.plain_len });
			free(b.sealed);
			t->unsent[i] = false;
		}
		toy_cut_to(im, bb, size);
	}
	nf_invalidate(&t->ic, from, UINT64_C(1) << 40, size, size);
	pthread_mutex_unlock(&t->lock);
}

/* Drops what is clean. */
static inline void toy_drop_cache(struct toy *t) { toy_invalidate(t, 0, UINT64_C(1) << 40); }

#endif
