/* The library over a toy filesystem against a plain array of bytes.
 *
 * One thread: after each call memory, and after each fsync also what is stored, equals the array;
 * what a crash would leave equals the array as it was when the last drained group was closed.
 * FOLIOFS_MODEL_OPS sets the number of calls, FOLIOFS_MODEL_SEED replays one run. */
#include "suite.h"
#include "toyfs.h"

#include "base/mem.h"
#include "netfs/types.h"

#include <linux/falloc.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 400 << 10, SNAPS = 256 };

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
};

static uint64_t below(struct model *m, uint64_t bound) { return nf_prng_below(&m->prng, bound); }

static void bad(struct model *m, const char *what, uint64_t at)
{
	char *text = NULL;

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
		if (got[i] != want[i])
			bad(m, what, pos + i);
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
	nf_writeback_range(&w.io);
	if (toy_wait_end(&w) < 0 && !m->errors)
		bad(m, "write-back failed", 0);
}

static void do_close_group(struct model *m)
{
	take_snap(m);
	(void)nf_group_close(&m->t->ic);
}

static void do_drop(struct model *m)
{
	struct nf_ictx_priv *p = m->t->ic.priv;
	uint64_t start = below(m, FILE_MAX_BYTES), end = start + below(m, 100000);

	/* A filesystem knows which version it is told of.  Here the size stored could change on the way:
	 * not while a group is about to drain. */
	nf_lock_take(&p->lock);
	struct nf_group *g = nf_group_oldest_locked(p);
	bool may_drain = g && g->closed;
	nf_lock_drop(&p->lock);
	if (!may_drain)
		toy_invalidate(m->t, start, end);
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
	else if (op < 92)
		do_drop(m);
	else if (op < 95)
		do_writeback_range(m);
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
};

static void run(const struct kind *k, uint64_t seed, unsigned steps)
{
	struct model m = { .seed = seed };

	m.t = toy_new(k->memory_bytes, k->block_bytes, seed);
	m.t->p_later = k->p_later;
	m.t->p_again = k->p_again;
	m.t->p_error = k->p_error;
	m.errors = k->p_error || k->p_again;
	m.t->on_group = check_kept;
	watching = &m;
	nf_prng_seed(&m.prng, seed * 3 + 1);
	m.bytes = calloc(1, FILE_MAX_BYTES);
	m.buf = malloc(256 << 10);
	for (m.step = 0; m.step < steps; m.step++)
		step(&m);
	do_fsync(&m);
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
		{ 4096, 8 << 20, 0, 0, 0 },    { 4096, 1 << 20, 500, 0, 0 },
		{ 16384, 8 << 20, 500, 0, 0 }, { 16384, 1 << 20, 300, 30, 0 },
		{ 65536, 8 << 20, 300, 0, 0 }, { 65536, 2 << 20, 500, 30, 30 },
		{ 16384, 1 << 20, 500, 20, 50 },
	};

	run_kind(&kinds[_i], 7);
}
END_TEST

/* --- several threads ------------------------------------------------------------------------ */

enum { THREADS = 3, STRIPE_BYTES = 1500, OWN_BYTES = 120 << 10, SHARED_BYTES = 20000 };

struct party {
	struct toy *t;
	unsigned me;
	unsigned steps;
	uint64_t seed;
	uint8_t *own; /* of OWN_BYTES, only its own stripes count */
	atomic_bool *stop;
};

/* A range within one stripe of this thread: neighbours in pages and blocks are others'. */
static uint64_t pick_stripe(struct nf_prng *g, unsigned me, size_t *len)
{
	uint64_t stripes = OWN_BYTES / STRIPE_BYTES / THREADS;
	uint64_t start = (nf_prng_below(g, stripes) * THREADS + me) * STRIPE_BYTES;
	uint64_t off = nf_prng_below(g, STRIPE_BYTES);

	*len = 1 + (size_t)nf_prng_below(g, STRIPE_BYTES - off);
	return start + off;
}

static void *party_run(void *arg)
{
	struct party *y = arg;
	struct nf_prng g;
	uint8_t buf[SHARED_BYTES];

	nf_prng_seed(&g, y->seed + y->me);
	for (unsigned i = 0; i < y->steps; i++) {
		static const unsigned flags[] = { 0, 0, 0, 0, NF_IO_DSYNC, NF_IO_DIRECT };
		size_t len;
		uint64_t pos = pick_stripe(&g, y->me, &len);
		unsigned op = (unsigned)nf_prng_below(&g, 10);
		if (op < 4) {
			memset(y->own + pos, (int)(1 + nf_prng_below(&g, 255)), len);
			int r = toy_write_flags(y->t, pos, y->own + pos, len,
						flags[nf_prng_below(&g, 6)]);
			ck_assert(r == 0 || y->t->p_error);
		} else if (op < 9) {
			long n = toy_read(y->t, pos, buf, len);
			ck_assert(n == (long)len || y->t->p_error);
			for (long k = 0; k < n; k++)
				if (buf[k] != y->own[pos + (uint64_t)k]) {
					fprintf(stderr, "seed %llu thread %u step %u at %llx\n",
						(unsigned long long)y->seed, y->me, i,
						(unsigned long long)pos + (uint64_t)k);
					abort();
				}
		} else {
			memset(buf, (int)(1 + nf_prng_below(&g, 255)), sizeof buf);
			ck_assert_int_eq(toy_write(y->t, OWN_BYTES, buf, sizeof buf), 0);
		}
	}
	return NULL;
}

/* What disturbs the others. */
static void *party_disturb(void *arg)
{
	struct party *y = arg;
	struct nf_prng g;

	nf_prng_seed(&g, y->seed * 7);
	while (!atomic_load(y->stop)) {
		uint64_t pos = nf_prng_below(&g, OWN_BYTES);
		switch (nf_prng_below(&g, 4)) {
		case 0:
			(void)toy_fsync(y->t);
			break;
		case 1:
			(void)nf_group_close(&y->t->ic);
			break;
		case 2:
			toy_invalidate(y->t, pos, pos + 20000);
			break;
		default:
			nf_prefetch(&y->t->ic, pos, pos + 50000);
		}
		usleep(500);
	}
	return NULL;
}

static void run_parties(const struct kind *k, uint64_t seed, unsigned steps)
{
	struct toy *t = toy_new(k->memory_bytes, k->block_bytes, seed);
	struct party y[THREADS + 1];
	pthread_t th[THREADS + 1];
	atomic_bool stop = false;
	uint8_t *all = malloc(OWN_BYTES + SHARED_BYTES);
	uint8_t *own = calloc(1, OWN_BYTES);

	t->p_later = k->p_later;
	t->p_again = k->p_again;
	ck_assert_int_eq(toy_truncate(t, OWN_BYTES + SHARED_BYTES), 0);
	ck_assert_int_eq(toy_fsync(t), 0);
	for (unsigned i = 0; i <= THREADS; i++) {
		y[i] = (struct party){ t, i, steps, seed, own, &stop };
		pthread_create(&th[i], NULL, i < THREADS ? party_run : party_disturb, &y[i]);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
	atomic_store(&stop, true);
	pthread_join(th[THREADS], NULL);
	t->p_again = 0;
	ck_assert_int_eq(toy_fsync(t), 0);
	for (int pass = 0; pass < 2; pass++) {
		ck_assert_int_eq(toy_read(t, 0, all, OWN_BYTES + SHARED_BYTES),
				 OWN_BYTES + SHARED_BYTES);
		ck_assert_mem_eq(all, own, OWN_BYTES);
		/* Writers of one range came one after the other. */
		for (unsigned i = 0; i < SHARED_BYTES; i++)
			ck_assert_uint_eq(all[OWN_BYTES + i], all[OWN_BYTES]);
		toy_drop_cache(t);
	}
	uint8_t *stored = toy_image_bytes(&t->kept, k->block_bytes);
	ck_assert_mem_eq(stored, all, OWN_BYTES + SHARED_BYTES);
	free(stored);
	toy_free(t);
	free(all);
	free(own);
}

START_TEST(several_threads_see_their_own_bytes)
{
	static const struct kind kinds[] = {
		{ 4096, 8 << 20, 300, 0, 0 },
		{ 16384, 1 << 20, 600, 20, 0 },
		{ 65536, 2 << 20, 600, 0, 0 },
	};
	uint64_t seed;

	nf_random(&seed, sizeof seed);
	seed &= 0xffffffff;
	fprintf(stderr, "# seed %llu\n", (unsigned long long)seed);
	run_parties(&kinds[_i], seed, ops() / 60);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "model", 600);

	tcase_add_loop_test(tc, one_thread_sees_what_an_array_would_hold, 0, 7);
	tcase_add_loop_test(tc, several_threads_see_their_own_bytes, 0, 3);
}

NF_SUITE("netfs/model")
