/* The library over a toy filesystem against a plain array of bytes.
 *
 * One thread: after each call memory, and after each fsync also what is stored, equals the array;
 * what a crash would leave equals the array as it was when the last drained group was closed.
 * Several threads: each sees its own bytes, and in the end all of them are stored; see below.
 *
 * FOLIOFS_MODEL_OPS sets the number of calls, FOLIOFS_MODEL_SEED replays one run. */
#include "suite.h"
#include "toyfs.h"

#include "base/mem.h"
#include "base/trace.h"
#include "netfs/types.h"

#include <linux/falloc.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 400 << 10, SNAPS = 256, LOG_LINES = 40 };

struct snap {
	uint64_t group;
	uint64_t size;
	uint8_t *bytes;
};

struct model {
	struct toy *t;
	struct nf_prng prng;
	uint8_t *bytes; /* FILE_MAX_BYTES + one write */
	uint64_t size;
	struct snap snaps[SNAPS];
	uint64_t seed;
	unsigned step;
	bool errors;
	uint8_t *buf;
	char log[LOG_LINES][80]; /* of the last calls, for whoever has to find out */
};

static uint64_t below(struct model *m, uint64_t bound) { return nf_prng_below(&m->prng, bound); }

static void note(struct model *m, const char *what, uint64_t pos, uint64_t len, unsigned flags)
{
	snprintf(m->log[m->step % LOG_LINES], sizeof m->log[0], "%u %s %llx+%llx flags %x", m->step, what,
		 (unsigned long long)pos, (unsigned long long)len, flags);
}

static void bad(struct model *m, const char *what, uint64_t at)
{
	char *text = NULL;

	for (unsigned i = m->step >= LOG_LINES ? m->step - LOG_LINES + 1 : 0; i <= m->step; i++)
		fprintf(stderr, "%s\n", m->log[i % LOG_LINES]);

	if (nf_netfs_regions_text(m->t->lib, &text) == 0)
		fprintf(stderr, "%s", text);
	free(text);
	fprintf(stderr, "FOLIOFS_MODEL_SEED=%llu step %u block %u: %s at %llx size %llx\n",
		(unsigned long long)m->seed, m->step, m->t->ic.block_bytes, what,
		(unsigned long long)at, (unsigned long long)m->size);
	abort();
}

static void compare(struct model *m, const char *what, const uint8_t *got, const uint8_t *want,
		    uint64_t len, uint64_t pos)
{
	for (uint64_t i = 0; i < len; i++)
		if (got[i] != want[i]) {
			fprintf(stderr, "%x, not %x\n", got[i], want[i]);
			bad(m, what, pos + i);
		}
}

/* Called by the filesystem, with its lock: what is kept must be the state at that close. */
static struct model *watching;
static void check_kept(struct toy *t, const struct nf_group_info *g)
{
	struct model *m = watching;

	if (!m || m->t != t)
		return;
	const struct snap *s = &m->snaps[g->group % SNAPS];
	if (!s->bytes || s->group != g->group)
		return;
	if (t->kept.size != s->size)
		bad(m, "size of the kept image", t->kept.size);
	uint8_t *got = toy_image_bytes(&t->kept, t->ic.block_bytes);
	compare(m, "kept image", got, s->bytes, s->size, 0);
	free(got);
}

/* The group that is open now, or the next one. */
static uint64_t group_now(struct model *m)
{
	struct nf_ictx_priv *p = m->t->ic.priv;

	nf_lock_take(&p->lock);
	bool open = !nf_list_empty(&p->groups) &&
		    !nf_list_last(&p->groups, struct nf_group, link)->closed;
	uint64_t number = p->last_group + !open;
	nf_lock_drop(&p->lock);
	return number;
}

/* The group that is about to be closed will leave the model's present state. */
static void take_snap(struct model *m)
{
	uint64_t number = group_now(m);
	struct snap *s = &m->snaps[number % SNAPS];

	pthread_mutex_lock(&m->t->lock);
	free(s->bytes);
	*s = (struct snap){ number, m->size, malloc(m->size + 1) };
	memcpy(s->bytes, m->bytes, m->size);
	pthread_mutex_unlock(&m->t->lock);
}

static void check_size(struct model *m)
{
	if (nf_i_size(&m->t->ic) != m->size)
		bad(m, "i_size", nf_i_size(&m->t->ic));
}

static void do_read(struct model *m)
{
	static const unsigned flags[] = { 0, 0, 0, NF_IO_NOWAIT_AHEAD, NF_IO_DIRECT };
	uint64_t pos = below(m, FILE_MAX_BYTES);
	size_t len = 1 + (size_t)below(m, below(m, 3) ? 9000 : 200000);
	long n = toy_read_flags(m->t, pos, m->buf, len, flags[below(m, 5)]);
	uint64_t want = pos >= m->size ? 0 : NF_MIN((uint64_t)len, m->size - pos);

	if (n < 0 && m->errors)
		return;
	if (n < 0 || (uint64_t)n != want)
		bad(m, "length read", pos);
	compare(m, "read", m->buf, m->bytes + pos, want, pos);
}

static void do_write(struct model *m)
{
	unsigned flags = 0;
	uint64_t pos = below(m, FILE_MAX_BYTES - 1);
	size_t len = 1 + (size_t)below(m, below(m, 8) ? 6000 : 150000);

	if (below(m, 12) == 0)
		flags |= NF_IO_DSYNC;
	if (below(m, 12) == 0)
		flags |= NF_IO_DIRECT;
	if (below(m, 8) == 0)
		flags |= NF_IO_APPEND;
	if (below(m, 8) == 0)
		pos &= ~UINT64_C(4095);
	if (flags & NF_IO_APPEND)
		pos = m->size;
	if (pos >= FILE_MAX_BYTES)
		return;
	len = NF_MIN(len, (size_t)(FILE_MAX_BYTES - pos));
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = nf_prng_next(&m->prng) | 1;
		memcpy(m->buf + i, &v, NF_MIN((size_t)8, len - i));
	}
	if (pos > m->size)
		memset(m->bytes + m->size, 0, pos - m->size);
	memcpy(m->bytes + pos, m->buf, len);
	m->size = NF_MAX(m->size, pos + len);
	note(m, "write", pos, len, flags);
	if (flags & NF_IO_DSYNC)
		take_snap(m);
	int r = toy_write_flags(m->t, flags & NF_IO_APPEND ? 0 : pos, m->buf, len, flags);
	if (r < 0 && !(m->errors && flags & (NF_IO_DSYNC | NF_IO_DIRECT)))
		bad(m, "write failed", pos);
}

static void do_truncate(struct model *m)
{
	uint64_t size = below(m, 3) ? below(m, m->size + 1) : below(m, FILE_MAX_BYTES);

	if (below(m, 6) == 0)
		size = 0;
	if (below(m, 4) == 0)
		size &= ~(uint64_t)(m->t->ic.block_bytes - 1);
	if (size > m->size)
		memset(m->bytes + m->size, 0, size - m->size);
	m->size = size;
	note(m, "truncate", size, 0, 0);
	if (toy_truncate(m->t, size) < 0)
		bad(m, "truncate failed", size);
}

static void do_zero(struct model *m)
{
	static const int modes[] = { FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_ZERO_RANGE,
				     FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0,
				     FALLOC_FL_KEEP_SIZE };
	int mode = modes[below(m, 5)];
	uint64_t pos = below(m, FILE_MAX_BYTES - 1);
	uint64_t len = 1 + below(m, FILE_MAX_BYTES - pos);
	uint64_t end;

	if (below(m, 2))
		len = 1 + len % 9000;
	len = NF_MIN(len, FILE_MAX_BYTES - pos);
	end = pos + len;
	if (mode & ~FALLOC_FL_KEEP_SIZE && pos < m->size)
		memset(m->bytes + pos, 0, NF_MIN(end, m->size) - pos);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && end > m->size) {
		memset(m->bytes + m->size, 0, end - m->size);
		m->size = end;
	}
	note(m, "fallocate", pos, len, (unsigned)mode);
	if (toy_fallocate(m->t, mode, pos, len) < 0)
		bad(m, "fallocate failed", pos);
}

static void check_stored(struct model *m)
{
	pthread_mutex_lock(&m->t->lock);
	if (m->t->now.size != m->size)
		bad(m, "size stored", m->t->now.size);
	uint8_t *got = toy_image_bytes(&m->t->now, m->t->ic.block_bytes);
	compare(m, "stored", got, m->bytes, m->size, 0);
	free(got);
	pthread_mutex_unlock(&m->t->lock);
}

static void do_fsync(struct model *m)
{
	int r;

	note(m, "fsync", 0, 0, 0);
	take_snap(m);
	while ((r = toy_fsync(m->t)) < 0)
		if (!m->errors)
			bad(m, "fsync failed", 0);
	check_stored(m);
}

static void do_writeback_range(struct model *m)
{
	struct toy_wait w;

	toy_wait_init(&w, m->t);
	w.io.pos_bytes = below(m, FILE_MAX_BYTES);
	w.io.len_bytes = below(m, 50000);
	note(m, "write-back", w.io.pos_bytes, w.io.len_bytes, 0);
	nf_writeback_range(&w.io);
	if (toy_wait_end(&w) < 0 && !m->errors)
		bad(m, "write-back failed", 0);
}

static void do_close_group(struct model *m)
{
	note(m, "close group", 0, 0, 0);
	take_snap(m);
	(void)nf_group_close(&m->t->ic);
}

static void do_drop(struct model *m)
{
	uint64_t start = below(m, FILE_MAX_BYTES);

	note(m, "invalidate", start, 0, 0);
	toy_invalidate(m->t, start, start + below(m, 100000));
}

/* Others changed the file: some blocks, and perhaps the size.  Only while nothing here is dirty: the toy
 * filesystem does not merge. */
static void do_remote_change(struct model *m)
{
	uint64_t bb = m->t->ic.block_bytes;
	uint64_t start = below(m, FILE_MAX_BYTES) / bb * bb, end = start + bb * (1 + below(m, 4));
	uint64_t size = below(m, 3) ? m->size : below(m, FILE_MAX_BYTES);

	if (nf_is_dirty(&m->t->ic))
		return;
	note(m, "remote change", start, end - start, (unsigned)size);
	if (size > m->size)
		memset(m->bytes + m->size, 0, size - m->size);
	m->size = size;
	end = NF_MIN(end, (size + bb - 1) / bb * bb);
	for (uint64_t i = start; i < NF_MIN(end, size); i++)
		m->bytes[i] = (uint8_t)(m->seed + m->step);
	toy_remote_change(m->t, start, end, size, (uint8_t)(m->seed + m->step));
}

/* Memory is wanted elsewhere, or the tick comes. */
static void do_evict(struct model *m)
{
	if (below(m, 2)) {
		atomic_store(&m->t->ic.priv->aged, true);
		nf_kick_later(m->t->ic.priv);
		return;
	}
	(void)nf_memory_reclaim(m->t->lib->mem, below(m, 2) ? SIZE_MAX : below(m, 1 << 18));
}

static void do_peek(struct model *m)
{
	uint64_t pos = below(m, FILE_MAX_BYTES);
	size_t len = 1 + (size_t)below(m, 5000);

	if (pos + len > m->size || !nf_peek(&m->t->ic, pos, m->buf, len))
		return;
	compare(m, "peek", m->buf, m->bytes + pos, len, pos);
}

static void step(struct model *m)
{
	unsigned op = (unsigned)below(m, 100);

	note(m, "-", op, 0, 0);
	if (op < 40)
		do_write(m);
	else if (op < 70)
		do_read(m);
	else if (op < 75)
		do_truncate(m);
	else if (op < 82)
		do_zero(m);
	else if (op < 85)
		do_fsync(m);
	else if (op < 89)
		do_close_group(m);
	else if (op < 91)
		do_drop(m);
	else if (op < 92)
		do_remote_change(m);
	else if (op < 94)
		do_writeback_range(m);
	else if (op < 96)
		do_evict(m);
	else if (op < 98)
		do_peek(m);
	else
		nf_prefetch(&m->t->ic, below(m, FILE_MAX_BYTES), FILE_MAX_BYTES);
	check_size(m);
	nf_ictx_check(&m->t->ic);
}

static void read_all(struct model *m)
{
	uint64_t pos = 0;

	while (pos < m->size) {
		long n = toy_read(m->t, pos, m->buf, 128 << 10);
		if (n < 0 && m->errors)
			continue;
		if (n <= 0)
			bad(m, "final read", pos);
		compare(m, "final read", m->buf, m->bytes + pos, (uint64_t)n, pos);
		pos += (uint64_t)n;
	}
}

struct kind {
	uint32_t block_bytes;
	size_t memory_bytes;
	unsigned p_later, p_again, p_error;
	enum toy_mode mode;
	unsigned p_stream_error;
	bool copies;
};

static void run(const struct kind *k, uint64_t seed, unsigned steps)
{
	struct model m = { .seed = seed };

	m.t = toy_new(k->memory_bytes, k->block_bytes, seed);
	m.t->p_later = k->p_later;
	m.t->p_again = k->p_again;
	m.t->p_error = k->p_error;
	m.t->mode = k->mode;
	m.t->copies = k->copies;
	m.t->p_stream_error = k->p_stream_error;
	m.errors = k->p_error || k->p_again || k->p_stream_error;
	m.t->on_group = check_kept;
	watching = &m;
	nf_prng_seed(&m.prng, seed * 3 + 1);
	m.bytes = calloc(1, FILE_MAX_BYTES);
	m.buf = malloc(256 << 10);
	for (m.step = 0; m.step < steps; m.step++)
		step(&m);
	do_fsync(&m);
	toy_check_streams(m.t);
	toy_drop_cache(m.t);
	read_all(&m);
	toy_free(m.t);
	watching = NULL;
	for (unsigned i = 0; i < SNAPS; i++)
		free(m.snaps[i].bytes);
	free(m.bytes);
	free(m.buf);
}

static unsigned ops(void)
{
	const char *s = getenv("FOLIOFS_MODEL_OPS");

	return s ? (unsigned)atoi(s) : 20000;
}

static void run_kind(const struct kind *k, unsigned share)
{
	const char *s = getenv("FOLIOFS_MODEL_SEED");
	unsigned left = ops() / share;
	uint64_t seed = 1;

	if (!s)
		nf_random(&seed, sizeof seed);
	else
		seed = strtoull(s, NULL, 10);
	seed &= 0xffffffff;
	fprintf(stderr, "# seed %llu\n", (unsigned long long)seed);
	while (left) {
		unsigned n = NF_MIN(left, 1000u);
		run(k, s ? seed : seed++, n);
		left -= n;
		if (s)
			break;
	}
}

START_TEST(one_thread_sees_what_an_array_would_hold)
{
	static const struct kind kinds[] = {
		{ .block_bytes = 4096, .memory_bytes = 8 << 20 },
		{ .block_bytes = 4096, .memory_bytes = 1 << 20, .p_later = 500 },
		{ .block_bytes = 16384, .memory_bytes = 8 << 20, .p_later = 500 },
		{ .block_bytes = 16384, .memory_bytes = 1 << 20, .p_later = 300, .p_again = 30 },
		{ .block_bytes = 65536, .memory_bytes = 8 << 20, .p_later = 300 },
		{ .block_bytes = 65536, .memory_bytes = 2 << 20, .p_later = 500, .p_again = 30, .p_error = 30 },
		{ .block_bytes = 16384, .memory_bytes = 1 << 20, .p_later = 500, .p_again = 20, .p_error = 50 },
		{ .block_bytes = 16384, .memory_bytes = 2 << 20, .p_later = 300, .mode = TOY_MIRRORED,
		  .p_stream_error = 60 },
		{ .block_bytes = 4096, .memory_bytes = 1 << 20, .p_later = 300, .mode = TOY_STANDBY,
		  .p_stream_error = 60, .copies = true },
		{ .block_bytes = 16384, .memory_bytes = 2 << 20, .p_later = 300, .mode = TOY_MIRRORED,
		  .copies = true },
		/* Less than one read takes. */
		{ .block_bytes = 4096, .memory_bytes = 128 << 10, .p_later = 300, .p_again = 20 },
		{ .block_bytes = 16384, .memory_bytes = 256 << 10, .p_later = 300 },
	};

	run_kind(&kinds[_i], 2 * NF_ARRAY_LEN(kinds));
}
END_TEST

/* --- several threads ------------------------------------------------------------------------ */

/* Threads write, zero and read stripes of their own, side by side in pages and blocks; all of them write one shared
 * range; one more has the end of the file for itself, to append to, cut and grow; one disturbs them all.
 *
 *   |0000|1111|2222|0000|1111| ... |2222| shared | tail ... */
enum {
	THREADS = 3,
	STRIPE_BYTES = 1500,
	OWN_BYTES = 120 << 10,
	SHARED_BYTES = 20000,
	TAIL_START = OWN_BYTES + SHARED_BYTES,
	TAIL_BYTES = 100000,
};

struct party {
	struct toy *t;
	unsigned me;
	unsigned steps;
	uint64_t seed;
	uint8_t *bytes;   /* of the whole file; of each part its owner's alone */
	uint64_t size;    /* the tail thread's */
	bool errors;
	atomic_bool *stop;
	struct nf_prng prng;
};

static uint64_t chance(struct party *y, uint64_t bound) { return nf_prng_below(&y->prng, bound); }

static void party_bad(struct party *y, unsigned step, const char *what, uint64_t at)
{
	struct nf_text text = NF_TEXT_INIT;
	uint64_t since = 0;
	nf_trace_read(&text, &since); /* of the last events, if NF_TRACE says which */
	fprintf(stderr, "%sseed %llu block %u thread %u step %u: %s at %llx\n", text.s ? text.s : "", (unsigned long long)y->seed,
		y->t->ic.block_bytes, y->me, step, what, (unsigned long long)at);
	abort();
}

static unsigned some_flags(struct party *y)
{
	static const unsigned flags[] = { 0, 0, 0, 0, 0, NF_IO_PAGE_GRANULAR, NF_IO_DSYNC, NF_IO_DIRECT,
					  NF_IO_DIRECT | NF_IO_DSYNC };

	return flags[chance(y, NF_ARRAY_LEN(flags))];
}

static void party_write(struct party *y, unsigned step, uint64_t pos, size_t len, unsigned flags)
{
	memset(y->bytes + pos, (int)(1 + chance(y, 255)), len);
	int r = toy_write_flags(y->t, flags & NF_IO_APPEND ? 0 : pos, y->bytes + pos, len, flags);
	if (r < 0 && !(y->errors && flags & (NF_IO_DSYNC | NF_IO_DIRECT)))
		party_bad(y, step, "write", pos);
}

static void party_read(struct party *y, unsigned step, uint64_t pos, size_t len, uint64_t size)
{
	uint8_t buf[STRIPE_BYTES * 4];
	size_t want = pos >= size ? 0 : NF_MIN((size_t)(size - pos), len);
	bool buffered = chance(y, 8);
	long n = toy_read_flags(y->t, pos, buf, len, buffered ? 0 : NF_IO_DIRECT);

	if (n < 0 && y->errors)
		return;
	if (n != (long)want)
		party_bad(y, step, "length read", pos);
	for (size_t k = 0; k < want; k++)
		if (buf[k] != y->bytes[pos + k]) {
			fprintf(stderr, "%x, not %x; read %llx+%zx direct %d\n", buf[k], y->bytes[pos + k],
				(unsigned long long)pos, len, !buffered);
			party_bad(y, step, "read", pos + k);
		}
}

static void party_zero(struct party *y, unsigned step, uint64_t pos, size_t len)
{
	int mode = FALLOC_FL_KEEP_SIZE | (chance(y, 2) ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);

	memset(y->bytes + pos, 0, len);
	if (toy_fallocate(y->t, mode, pos, len) < 0)
		party_bad(y, step, "zeroing", pos);
}

static void party_fsync(struct party *y, unsigned step)
{
	if (toy_fsync(y->t) < 0 && !y->errors)
		party_bad(y, step, "fsync", 0);
}

static void *party_run(void *arg)
{
	struct party *y = arg;
	uint64_t stripes = OWN_BYTES / STRIPE_BYTES / THREADS;
	uint8_t shared[SHARED_BYTES];

	for (unsigned i = 0; i < y->steps; i++) {
		uint64_t start = (chance(y, stripes) * THREADS + y->me) * STRIPE_BYTES;
		uint64_t off = chance(y, STRIPE_BYTES);
		size_t len = 1 + (size_t)chance(y, STRIPE_BYTES - off);
		unsigned op = (unsigned)chance(y, 100);
		if (op < 40) {
			party_write(y, i, start + off, len, some_flags(y));
		} else if (op < 82) {
			party_read(y, i, start + off, len, UINT64_MAX);
		} else if (op < 90) {
			party_zero(y, i, start + off, len);
		} else if (op < 92) {
			party_fsync(y, i);
		} else if (op < 94) {
			(void)nf_group_close(&y->t->ic);
		} else {
			memset(shared, (int)(1 + chance(y, 255)), sizeof shared);
			if (toy_write(y->t, OWN_BYTES, shared, sizeof shared) < 0)
				party_bad(y, i, "shared write", OWN_BYTES);
		}
	}
	return NULL;
}

static void tail_resize(struct party *y, unsigned step)
{
	uint64_t size = TAIL_START + chance(y, TAIL_BYTES);

	if (size > y->size)
		memset(y->bytes + y->size, 0, size - y->size);
	y->size = size;
	if (toy_truncate(y->t, size) < 0)
		party_bad(y, step, "truncate", size);
}

static void tail_write(struct party *y, unsigned step, bool append)
{
	uint64_t pos = append ? y->size : TAIL_START + chance(y, TAIL_BYTES);
	size_t len = 1 + (size_t)chance(y, 9000);

	if (pos + len > TAIL_START + TAIL_BYTES)
		return;
	if (pos > y->size)
		memset(y->bytes + y->size, 0, pos - y->size);
	y->size = NF_MAX(y->size, pos + len);
	party_write(y, step, pos, len, some_flags(y) | (append ? NF_IO_APPEND : 0));
}

static void *tail_run(void *arg)
{
	struct party *y = arg;

	for (unsigned i = 0; i < y->steps; i++) {
		unsigned op = (unsigned)chance(y, 100);
		if (op < 20)
			tail_write(y, i, true);
		else if (op < 40)
			tail_write(y, i, false);
		else if (op < 55)
			tail_resize(y, i);
		else
			party_read(y, i, TAIL_START + chance(y, TAIL_BYTES), 1 + (size_t)chance(y, 5000), y->size);
		if (nf_i_size(&y->t->ic) != y->size)
			party_bad(y, i, "size", y->size);
	}
	return NULL;
}

/* What disturbs the others. */
static void *party_disturb(void *arg)
{
	struct party *y = arg;

	while (!atomic_load(y->stop)) {
		uint64_t pos = chance(y, TAIL_START);
		switch (chance(y, 5)) {
		case 0:
			(void)toy_fsync(y->t);
			break;
		case 1:
			(void)nf_group_close(&y->t->ic);
			break;
		case 2:
			toy_invalidate(y->t, pos, pos + 20000);
			break;
		case 3:
			(void)nf_memory_reclaim(y->t->lib->mem, chance(y, 1 << 20));
			atomic_store(&y->t->ic.priv->aged, true);
			nf_kick_later(y->t->ic.priv);
			break;
		default:
			nf_prefetch(&y->t->ic, pos, pos + 50000);
		}
		usleep(500);
	}
	return NULL;
}

static void parties_check(struct toy *t, const uint8_t *bytes, uint64_t size)
{
	uint8_t *all = malloc(TAIL_START + TAIL_BYTES);

	for (int pass = 0; pass < 2; pass++) {
		ck_assert_int_eq(toy_read(t, 0, all, TAIL_START + TAIL_BYTES), (long)size);
		ck_assert_mem_eq(all, bytes, OWN_BYTES);
		ck_assert_mem_eq(all + TAIL_START, bytes + TAIL_START, size - TAIL_START);
		/* Writers of one range came one after the other. */
		for (unsigned i = 0; i < SHARED_BYTES; i++)
			assert(all[OWN_BYTES + i] == all[OWN_BYTES]);
		toy_drop_cache(t);
	}
	uint8_t *stored = toy_image_bytes(&t->kept, t->ic.block_bytes);
	ck_assert_uint_eq(t->kept.size, size);
	ck_assert_mem_eq(stored, all, size);
	free(stored);
	free(all);
}

static void run_parties(const struct kind *k, uint64_t seed, unsigned steps)
{
	struct toy *t = toy_new(k->memory_bytes, k->block_bytes, seed);
	struct party y[THREADS + 2];
	pthread_t th[THREADS + 2];
	atomic_bool stop = false;
	uint8_t *bytes = calloc(1, TAIL_START + TAIL_BYTES);

	ck_assert_int_eq(toy_truncate(t, TAIL_START), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	t->p_later = k->p_later;
	t->p_again = k->p_again;
	t->mode = k->mode;
	t->copies = k->copies;
	t->p_stream_error = k->p_stream_error;
	for (unsigned i = 0; i < THREADS + 2; i++) {
		y[i] = (struct party){ .t = t, .me = i, .steps = steps, .seed = seed, .bytes = bytes,
				       .size = TAIL_START, .stop = &stop,
				       .errors = k->p_again || k->p_stream_error };
		nf_prng_seed(&y[i].prng, seed * 7 + i);
		pthread_create(&th[i], NULL, i < THREADS ? party_run : i == THREADS ? tail_run : party_disturb,
			       &y[i]);
	}
	for (unsigned i = 0; i <= THREADS; i++)
		pthread_join(th[i], NULL);
	atomic_store(&stop, true);
	pthread_join(th[THREADS + 1], NULL);
	t->p_again = 0;
	t->p_stream_error = 0;
	int r;
	while ((r = toy_fsync(t)) < 0) /* a request of an older group may be on its way to be sent again */
		ck_assert(y[0].errors);
	toy_check_streams(t);
	parties_check(t, bytes, y[THREADS].size);
	toy_free(t);
	free(bytes);
}

START_TEST(several_threads_see_their_own_bytes)
{
	static const struct kind kinds[] = {
		{ .block_bytes = 4096, .memory_bytes = 8 << 20, .p_later = 300 },
		{ .block_bytes = 16384, .memory_bytes = 1 << 20, .p_later = 600, .p_again = 20 },
		{ .block_bytes = 65536, .memory_bytes = 2 << 20, .p_later = 600 },
		{ .block_bytes = 16384, .memory_bytes = 2 << 20, .p_later = 300, .mode = TOY_MIRRORED,
		  .p_stream_error = 40, .copies = true },
		{ .block_bytes = 4096, .memory_bytes = 1 << 20, .p_later = 300, .mode = TOY_STANDBY,
		  .p_stream_error = 40 },
		{ .block_bytes = 4096, .memory_bytes = 64 << 10, .p_later = 300 },
	};
	const char *s = getenv("FOLIOFS_MODEL_SEED");
	unsigned left = ops() / 2 / NF_ARRAY_LEN(kinds) / (THREADS + 1);
	uint64_t seed;

	nf_random(&seed, sizeof seed);
	seed = s ? strtoull(s, NULL, 10) : seed & 0xffffffff;
	fprintf(stderr, "# seed %llu\n", (unsigned long long)seed);
	for (; left; seed++) {
		unsigned n = NF_MIN(left, 1000u);
		run_parties(&kinds[_i], seed, n);
		left -= n;
		if (s)
			break;
	}
}
END_TEST

static void suite_add(Suite *s)
{
	if (getenv("NF_TRACE"))
		(void)nf_trace_set(getenv("NF_TRACE"));
	TCase *tc = nf_case(s, "model", 600);

	tcase_add_loop_test(tc, one_thread_sees_what_an_array_would_hold, 0, 12);
	tcase_add_loop_test(tc, several_threads_see_their_own_bytes, 0, 6);
}

NF_SUITE("netfs/model")
