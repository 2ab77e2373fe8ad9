/* Sending packs and heads; building metadata packs.
 *
 *   name drawn -> PUT -> STAT -> length fits: done
 *       ^          |       |
 *       |  back-off|       | missing, another length
 *       `----------+-------'
 *
 * A name that failed is left to the collector: deleting it might overtake a PUT that is still on its way. */
#include "vault/pack.h"

#include "base/clock.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/random.h"
#include "vault/head.h"

#include <stdatomic.h>
#include <stdio.h>

enum {
	BACKOFF_MIN_MS = 100,
	BACKOFF_MAX_MS = 30000,
	/* How long a sleeping sender may overlook that it shall stop. */
	BACKOFF_SLICE_MS = 50,
	/* Answers that make no sense, in a row, before the server is given up. */
	NONSENSE_MAX = 5,
	INSERT_BYTES = 1 << 20,
	SEALED_MAX_BYTES = NF_PACK_MAX_BYTES,
};

void nf_pack_name(const struct nf_pack_id *id, char out[64])
{
	int n = snprintf(out, 64, "packs/%02x/", id->b[0]);

	for (int i = 0; i < 16; i++)
		n += snprintf(out + n, 64 - (size_t)n, "%02x", id->b[i]);
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int nf_pack_name_parse(const char *dir, const char *name, struct nf_pack_id *out)
{
	struct nf_pack_id id;

	if (strlen(name) != 2 * sizeof id.b || strncmp(dir, name, 2) != 0)
		return -NF_E_FORMAT_BAD;
	for (size_t i = 0; i < sizeof id.b; i++) {
		int hi = hex_digit(name[2 * i]), lo = hex_digit(name[2 * i + 1]);
		if (hi < 0 || lo < 0)
			return -NF_E_FORMAT_BAD;
		id.b[i] = (uint8_t)(hi << 4 | lo);
	}
	if (nf_pack_id_is_zero(&id))
		return -NF_E_FORMAT_BAD;
	*out = id;
	return 0;
}

/* --- one attempt --------------------------------------------------------------- */

static size_t iov_len(const struct iovec *iov, int nr)
{
	size_t len = 0;

	for (int i = 0; i < nr; i++)
		len += iov[i].iov_len;
	return len;
}

static int put_once(struct nf_store *store, const char *name, const struct iovec *iov, int nr)
{
	struct nf_store_op op = { .verb = NF_STORE_PUT, .priority = NF_STORE_NORMAL, .iov = iov, .nr_iov = nr,
				  .length_bytes = iov_len(iov, nr) };

	(void)snprintf(op.name, sizeof op.name, "%s", name);
	int r = nf_store_run(store, &op);
	nf_store_op_deinit(&op);
	return r;
}

/* 0 if NAME has LEN bytes; what is missing or of another length is as good as not sent. */
static int confirm(struct nf_store *store, const char *name, size_t len)
{
	struct nf_store_op op = { .verb = NF_STORE_STAT, .priority = NF_STORE_NORMAL };

	(void)snprintf(op.name, sizeof op.name, "%s", name);
	int r = nf_store_run(store, &op);
	nf_store_op_deinit(&op);
	if (r == -NF_E_STORE_NOT_FOUND || (r == 0 && op.size_bytes != len))
		return nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME);
	return nf_fail(r);
}

void nf_pack_id_random(struct nf_pack_id *out)
{
	do
		nf_random(out->b, sizeof out->b);
	while (nf_pack_id_is_zero(out)); /* means "this pack" */
}

static int put_and_confirm(struct nf_pack_put *p, struct nf_pack_id *id)
{
	char name[64];

	if (p->given_id)
		*id = p->id;
	else
		nf_pack_id_random(id);
	nf_pack_name(id, name);
	int r = put_once(p->store, name, p->iov, p->nr_iov);
	if (r < 0)
		return r;
	return confirm(p->store, name, iov_len(p->iov, p->nr_iov));
}

/* --- many attempts ------------------------------------------------------------- */

struct backoff {
	struct nf_prng prng;
	uint64_t next_ms;
	unsigned nonsense;
};

/* True for an error after which another attempt under a new name may succeed. */
static bool may_retry(struct backoff *b, int r)
{
	switch (-r) {
	case NF_E_STORE_PROTOCOL:
	case NF_E_STORE_SHORT:
		return ++b->nonsense < NONSENSE_MAX;
	case NF_E_STORE_BUSY:
	case NF_E_STORE_UNKNOWN_OUTCOME:
	case NF_E_TIMEOUT:
		b->nonsense = 0;
		return true;
	default:
		return false;
	}
}

static bool stopped(const struct nf_pack_put *p) { return p->stop && atomic_load(p->stop); }

/* Sleeps half to one and a half times the present delay, and doubles it. */
static void sleep_backoff(struct backoff *b, const struct nf_pack_put *p)
{
	uint64_t left_ms = b->next_ms / 2 + nf_prng_below(&b->prng, b->next_ms + 1);

	b->next_ms = NF_MIN(b->next_ms * 2, (uint64_t)BACKOFF_MAX_MS);
	while (left_ms && !stopped(p) && !(p->deadline_ns && nf_clock_ns() >= p->deadline_ns)) {
		uint64_t ms = NF_MIN(left_ms, (uint64_t)BACKOFF_SLICE_MS);
		struct timespec t = { .tv_nsec = (long)(ms * NF_NS_PER_MS) };
		(void)nanosleep(&t, NULL); /* ending early is harmless */
		left_ms -= ms;
	}
}

static int put_until_confirmed(struct nf_pack_put *p, struct nf_pack_id *id)
{
	struct backoff b = { .next_ms = BACKOFF_MIN_MS };
	uint64_t seed;

	nf_random(&seed, sizeof seed);
	nf_prng_seed(&b.prng, seed);
	for (;;) {
		if (stopped(p))
			return nf_fail(-NF_E_CANCELLED);
		int r = put_and_confirm(p, id);
		if (r == 0 || p->given_id || !may_retry(&b, r))
			return r;
		nf_count(NF_C_STORE_RETRY, 1);
		sleep_backoff(&b, p);
		if (p->deadline_ns && nf_clock_ns() >= p->deadline_ns)
			return nf_fail(r);
	}
}

/* --- into the local cache ------------------------------------------------------ */

static void set_completion(struct nf_cache_io *io) { nf_completion_set(io->ctx); }

static void insert_chunk(const struct nf_pack_put *p, uint64_t offset, void *buf, size_t len,
			 bool at_end)
{
	struct nf_completion c;
	struct nf_cache_io io = { .pack = p->id, .offset_bytes = offset, .len_bytes = len, .buf = buf,
				  .at_end = at_end, .lasting = p->lasting, .done = set_completion, .ctx = &c };

	if (nf_completion_init(&c) < 0)
		return;
	nf_cache_insert(p->cache, &io);
	nf_completion_wait(&c);
	nf_completion_deinit(&c);
}

/* Chunks are whole units, whatever the iovecs are.  Failing costs a download later, nothing else. */
static void insert_iov(const struct nf_pack_put *p)
{
	nf_auto_free uint8_t *chunk = malloc(INSERT_BYTES);
	uint64_t offset = 0;
	size_t used = 0;

	if (!chunk)
		return;
	for (int i = 0; i < p->nr_iov; i++) {
		const uint8_t *from = p->iov[i].iov_base;
		size_t left = p->iov[i].iov_len;
		while (left) {
			if (used == INSERT_BYTES) {
				insert_chunk(p, offset, chunk, used, false);
				offset += used;
				used = 0;
			}
			size_t n = NF_MIN(left, (size_t)INSERT_BYTES - used);
			memcpy(chunk + used, from, n);
			used += n;
			from += n;
			left -= n;
		}
	}
	if (used)
		insert_chunk(p, offset, chunk, used, true);
}

int nf_pack_put(struct nf_pack_put *p)
{
	struct nf_pack_id id;
	size_t len = iov_len(p->iov, p->nr_iov);

	if (len == 0)
		return nf_fail(-EINVAL);
	if (len > NF_PACK_MAX_BYTES || len > atomic_load(&p->store->max_put_bytes))
		return nf_fail(-NF_E_STORE_TOO_LARGE);
	int r = put_until_confirmed(p, &id);
	if (r < 0)
		return r;
	p->id = id;
	if (p->cache)
		insert_iov(p);
	return 0;
}

/* --- heads --------------------------------------------------------------------- */

/* Only what proves that nothing was stored says so: behind a 503 or a time-out of a proxy the head may well have
 * arrived, and its dot is frozen then. */
static int head_outcome(int r)
{
	switch (-r) {
	case 0:
	case ENOMEM:
	case EINVAL:
	case NF_E_OFFLINE:
	case NF_E_STORE_DENIED:
	case NF_E_STORE_FULL:
	case NF_E_STORE_TOO_LARGE:
	case NF_E_STORE_READONLY:
	case NF_E_STORE_TLS:
	case NF_E_STORE_NOT_DAV:
	case NF_E_STORE_NOT_FOUND:
	case NF_E_STORE_URL:
		return nf_fail(r);
	default:
		return nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME);
	}
}

int nf_head_put(struct nf_store *store, struct nf_codec *c, struct nf_head *h)
{
	nf_auto_free void *file = NULL;
	char name[64];
	size_t len;

	nf_random(h->id.rand, sizeof h->id.rand);
	int r = nf_head_seal(c, h, &file, &len);
	if (r < 0)
		return r;
	nf_head_name(h->id.seq, h->id.rand, name);
	struct iovec iov = { .iov_base = file, .iov_len = len };
	return head_outcome(put_once(store, name, &iov, 1));
}

/* --- metadata packs ------------------------------------------------------------ */

int nf_meta_pack_add(struct nf_meta_pack *m, const struct nf_seal_id *id, const void *plain, size_t len,
		     struct nf_ref *out)
{
	struct nf_sealed_info info;
	size_t bound = nf_codec_bound(len);

	uint64_t max = m->max_bytes ? m->max_bytes : NF_PACK_MAX_BYTES;
	if (len > UINT32_MAX)
		return nf_fail(-NF_E_STORE_TOO_LARGE);
	if (m->full && m->bytes.len && m->bytes.len + bound > max) {
		int full = m->full(m);
		if (full < 0)
			return full;
	}
	if (!nf_buf_reserve(&m->bytes, bound))
		return nf_fail(-ENOMEM);
	int r = nf_codec_seal(m->codec, id, plain, len, 0, true, m->bytes.p + m->bytes.len, bound, &info, NULL);
	if (r < 0)
		return r;
	if (info.sealed_len > SEALED_MAX_BYTES || m->bytes.len + info.sealed_len > max)
		return nf_fail(-NF_E_STORE_TOO_LARGE);
	struct nf_ref ref = { .pack = m->id, .offset_bytes = (uint32_t)m->bytes.len, .sealed_len = info.sealed_len,
			      .plain_len = (uint32_t)len, .epoch = info.epoch, .flags = info.flags,
			      .level = id->type == NF_SEAL_NODE ? (uint8_t)id->index : 0 };
	memcpy(ref.tag, info.tag, sizeof ref.tag);
	m->bytes.len += info.sealed_len;
	*out = ref;
	return 0;
}

int nf_meta_pack_emit(void *ctx, unsigned level, const void *plain, size_t len, struct nf_ref *out)
{
	struct nf_meta_pack *m = ctx;
	const struct nf_seal_id id = { .type = NF_SEAL_NODE, .index = level };
	int r = nf_meta_pack_add(m, &id, plain, len, out);

	if (r < 0)
		return r;
	m->nr_nodes++;
	nf_count(NF_C_NODES_WRITTEN, 1);
	return 0;
}
