/* Sealing and opening of objects.
 *
 *	plain --(looks compressible)--> zstd, if it saves 1/16 ---.
 *	  |                                                       v
 *	  '--------------------------------> payload: [length |] bytes | zeros
 *	                                                          |
 *	nonce | XAES(key of type and epoch, payload, aad) | tag <-'
 *
 * Opening goes back the same way, and only bytes whose tag was checked reach zstd. */
#include "codec/codec.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "codec/ring.h"

#include <zstd.h>

enum {
	ZSTD_LEVEL = 1,
	FRAME_LENGTH_BYTES = 4,
	IDLE_MAX = 8, /* codecs kept per ring; more threads than that make their own */
	SEALED_MAX = 8 << 20,
};

struct nf_codec {
	struct nf_ring *ring; /* borrowed; outlives the codec */
	struct nf_xaes xaes;
	ZSTD_CCtx *cctx; /* made at first use */
	ZSTD_DCtx *dctx; /* made at first use */
	uint8_t *scratch; /* a payload that is or was compressed */
	size_t scratch_bytes;
	struct nf_codec *next_idle; /* ring's lock */
};

/* -- codecs ----------------------------------------------------------------------- */

static void codec_free(struct nf_codec *c)
{
	if (!c)
		return;
	nf_xaes_deinit(&c->xaes);
	ZSTD_freeCCtx(c->cctx);
	ZSTD_freeDCtx(c->dctx);
	if (c->scratch)
		nf_wipe(c->scratch, c->scratch_bytes);
	free(c->scratch);
	free(c);
}

static struct nf_codec *codec_new(struct nf_ring *r)
{
	struct nf_codec *c = calloc(1, sizeof *c);

	if (!c)
		return NULL;
	c->ring = r;
	if (nf_xaes_init(&c->xaes)) {
		codec_free(c);
		return NULL;
	}
	return c;
}

struct nf_codec *nf_codec_get(struct nf_ring *r)
{
	nf_lock_take(&r->lock);
	struct nf_codec *c = r->idle;
	if (c) {
		r->idle = c->next_idle;
		r->nr_idle--;
	}
	r->nr_out++;
	nf_lock_drop(&r->lock);
	if (c)
		return c;
	c = codec_new(r);
	if (!c) {
		nf_lock_take(&r->lock);
		r->nr_out--;
		nf_lock_drop(&r->lock);
	}
	return c;
}

void nf_codec_put(struct nf_codec *c)
{
	if (!c)
		return;
	struct nf_ring *r = c->ring;

	nf_lock_take(&r->lock);
	NF_ASSERT(r->nr_out > 0);
	bool keep = r->nr_idle < IDLE_MAX;
	if (keep) {
		c->next_idle = r->idle;
		r->idle = c;
		r->nr_idle++;
	}
	r->nr_out--;
	nf_lock_drop(&r->lock);
	if (!keep)
		codec_free(c);
}

void nf_codec_free_idle(struct nf_ring *r)
{
	while (r->idle) {
		struct nf_codec *c = r->idle;
		r->idle = c->next_idle;
		codec_free(c);
	}
	r->nr_idle = 0;
}

static int scratch_reserve(struct nf_codec *c, size_t len)
{
	if (len <= c->scratch_bytes)
		return 0;
	/* Nothing in it is worth copying, and it must be wiped. */
	if (c->scratch)
		nf_wipe(c->scratch, c->scratch_bytes);
	free(c->scratch);
	c->scratch_bytes = 0;
	c->scratch = malloc(len);
	if (!c->scratch)
		return nf_fail(-ENOMEM);
	c->scratch_bytes = len;
	return 0;
}

/* -- associated data -------------------------------------------------------------- */

struct aad {
	uint8_t p[NF_AAD_MAX];
	size_t len;
};

/* What the item table says of a compressible type. */
struct rule {
	size_t plain_max;
	bool padded; /* unless a raw block that is full */
};

static const struct rule rules[NF_SEAL_NR] = {
	[NF_SEAL_BLOCK] = { .plain_max = 4u << 20, .padded = true },
	[NF_SEAL_NODE] = { .plain_max = 32u << 10, .padded = false },
	[NF_SEAL_DELTA] = { .plain_max = 64u << 20, .padded = false },
	[NF_SEAL_XATTR] = { .plain_max = 64u << 10, .padded = true },
};

static const struct rule *rule_of(enum nf_seal_type type)
{
	if ((unsigned)type >= NF_SEAL_NR || rules[type].plain_max == 0)
		return NULL;
	return &rules[type];
}

static void aad_object(struct aad *a, const struct nf_ring *r, const struct nf_seal_id *id,
		       uint32_t epoch, size_t plain_len, uint8_t flags)
{
	uint8_t *q = a->p + NF_AAD_COMMON_BYTES;

	nf_aad_common(a->p, id->type, epoch, r->volume_id);
	if (id->type == NF_SEAL_NODE) {
		*q++ = (uint8_t)id->index;
	} else if (id->type == NF_SEAL_DELTA) {
		nf_put_le32(q, id->index);
		nf_put_le64(q + 4, id->birth);
		q += 12;
	} else {
		nf_put_le64(q, id->birth);
		nf_put_le32(q + 8, id->index);
		q += 12;
	}
	nf_put_le32(q, (uint32_t)plain_len);
	q[4] = flags;
	a->len = (size_t)(q + 5 - a->p);
}

static int aad_raw(struct aad *a, const struct nf_ring *r, enum nf_seal_type type, uint32_t epoch,
		   const void *extra, size_t extra_len)
{
	if (type != NF_SEAL_HEAD && type != NF_SEAL_JOURNAL && type != NF_SEAL_STATE)
		return nf_fail(-EINVAL);
	if (extra_len > NF_AAD_MAX - NF_AAD_COMMON_BYTES)
		return nf_fail(-EINVAL);
	nf_aad_common(a->p, type, epoch, r->volume_id);
	if (extra_len)
		memcpy(a->p + NF_AAD_COMMON_BYTES, extra, extra_len);
	a->len = NF_AAD_COMMON_BYTES + extra_len;
	return 0;
}

/* -- raw -------------------------------------------------------------------------- */

static const uint8_t zeros[4096];

/* Seals LEN bytes and then PAD zeros. */
static int seal_bytes(struct nf_codec *c, const struct nf_xaes_key *key, const struct aad *a,
		      const void *p, size_t len, size_t pad, uint8_t *out)
{
	uint8_t *q = out + NF_NONCE_BYTES;

	nf_random(out, NF_NONCE_BYTES);
	int r = nf_xaes_begin(&c->xaes, key, out, true, a->p, a->len);
	if (!r)
		r = nf_xaes_update(&c->xaes, p, len, q);
	q += len;
	while (!r && pad > 0) {
		size_t n = NF_MIN(pad, sizeof zeros);
		r = nf_xaes_update(&c->xaes, zeros, n, q);
		q += n;
		pad -= n;
	}
	if (!r)
		r = nf_xaes_seal_end(&c->xaes, q);
	return r;
}

/* Opens LEN bytes to OUT and then PAD more, which must be zeros (*PAD_OK).  OUT is wiped
 * on failure. */
static int open_bytes(struct nf_codec *c, const struct nf_xaes_key *key, const struct aad *a,
		      const uint8_t *sealed, size_t len, size_t pad, uint8_t *out, bool *pad_ok)
{
	const uint8_t *q = sealed + NF_NONCE_BYTES;
	uint8_t chunk[256], or = 0;

	int r = nf_xaes_begin(&c->xaes, key, sealed, false, a->p, a->len);
	if (!r)
		r = nf_xaes_update(&c->xaes, q, len, out);
	q += len;
	while (!r && pad > 0) {
		size_t n = NF_MIN(pad, sizeof chunk);
		r = nf_xaes_update(&c->xaes, q, n, chunk);
		for (size_t i = 0; i < n; i++)
			or |= chunk[i];
		q += n;
		pad -= n;
	}
	if (!r)
		r = nf_xaes_open_end(&c->xaes, q);
	if (r && len)
		nf_wipe(out, len);
	*pad_ok = or == 0;
	return r;
}

int nf_codec_seal_raw(struct nf_codec *c, enum nf_seal_type type, const void *extra,
		      size_t extra_len, const void *plain, size_t len, void *out, uint32_t *epoch)
{
	uint32_t newest = nf_ring_newest(c->ring);
	struct aad a;

	int r = aad_raw(&a, c->ring, type, newest, extra, extra_len);
	if (!r)
		r = seal_bytes(c, nf_ring_key(c->ring, type, newest), &a, plain, len, 0, out);
	if (!r)
		*epoch = newest;
	return r;
}

int nf_codec_open_raw(struct nf_codec *c, enum nf_seal_type type, uint32_t epoch,
		      const void *extra, size_t extra_len, const void *sealed, size_t len,
		      void *out)
{
	struct aad a;
	bool pad_ok;

	if (len < NF_SEAL_OVERHEAD)
		return nf_fail(-NF_E_XFORM_TRUNCATED);
	size_t plain_len = len - NF_SEAL_OVERHEAD;
	const struct nf_xaes_key *key = nf_ring_key(c->ring, type, epoch);
	int r = aad_raw(&a, c->ring, type, epoch, extra, extra_len);
	if (!r && !key)
		r = nf_fail(-NF_E_KEY_EPOCH_UNKNOWN);
	if (!r)
		return open_bytes(c, key, &a, sealed, plain_len, 0, out, &pad_ok);
	if (plain_len)
		memset(out, 0, plain_len);
	return r;
}

/* -- compressible objects --------------------------------------------------------- */

size_t nf_codec_bound(size_t len)
{
	/* A compressed payload is shorter than the plain bytes, so its padded form is not
	 * longer than theirs. */
	return NF_SEAL_OVERHEAD + nf_padme(len);
}

/* *PAYLOAD_LEN: length field and frame in scratch; 0 if compression does not pay. */
static int compress_to_scratch(struct nf_codec *c, const void *plain, size_t len,
			       size_t *payload_len)
{
	size_t limit = len - NF_MAX(len / 16, (size_t)1);

	*payload_len = 0;
	if (len <= 2 * FRAME_LENGTH_BYTES)
		return 0;
	int r = scratch_reserve(c, limit);
	if (r)
		return r;
	if (!c->cctx)
		c->cctx = ZSTD_createCCtx();
	if (!c->cctx)
		return nf_fail(-ENOMEM);
	/* Too little room makes zstd give up early on what does not shrink. */
	size_t n = ZSTD_compressCCtx(c->cctx, c->scratch + FRAME_LENGTH_BYTES,
				     limit - FRAME_LENGTH_BYTES, plain, len, ZSTD_LEVEL);
	if (ZSTD_isError(n))
		return 0;
	nf_put_le32(c->scratch, (uint32_t)n);
	*payload_len = FRAME_LENGTH_BYTES + n;
	return 0;
}

int nf_codec_seal(struct nf_codec *c, const struct nf_seal_id *id, const void *plain, size_t len,
		  size_t full_len, bool compress, void *out, size_t out_cap,
		  struct nf_sealed_info *info, bool *compressible)
{
	const struct rule *rule = rule_of(id->type);
	uint32_t epoch = nf_ring_newest(c->ring);
	size_t n = 0;

	if (!rule || (id->type == NF_SEAL_NODE && id->index > UINT8_MAX))
		return nf_fail(-EINVAL);
	if (len > rule->plain_max)
		return nf_fail(-E2BIG);
	bool verdict = compress && nf_looks_compressible(plain, len);
	int r = verdict ? compress_to_scratch(c, plain, len, &n) : 0;
	if (r)
		return r;
	uint8_t flags = n ? NF_PAYLOAD_ZSTD : 0;
	const void *body = n ? c->scratch : plain;
	size_t body_len = n ? n : len;
	bool pad = rule->padded && (n || id->type != NF_SEAL_BLOCK || len != full_len);
	size_t payload_len = pad ? nf_padme(body_len) : body_len;
	size_t sealed_len = payload_len + NF_SEAL_OVERHEAD;
	if (sealed_len > SEALED_MAX)
		return nf_fail(-E2BIG);
	if (sealed_len > out_cap)
		return nf_fail(-EINVAL);

	struct aad a;
	aad_object(&a, c->ring, id, epoch, len, flags);
	r = seal_bytes(c, nf_ring_key(c->ring, id->type, epoch), &a, body, body_len,
		       payload_len - body_len, out);
	if (r)
		return r;
	info->sealed_len = (uint32_t)sealed_len;
	info->epoch = epoch;
	info->flags = flags;
	memcpy(info->tag, (uint8_t *)out + sealed_len - NF_TAG_BYTES, NF_TAG_BYTES);
	if (compressible)
		*compressible = verdict;
	nf_count(NF_C_BLOCKS_SEALED, 1);
	nf_count(NF_C_BYTES_SEALED_IN, len);
	nf_count(NF_C_BYTES_SEALED_OUT, sealed_len);
	return 0;
}

static int open_plain(struct nf_codec *c, const struct nf_xaes_key *key, const struct aad *a,
		      const struct nf_seal_id *id, const uint8_t *sealed, size_t payload_len,
		      uint8_t *out, size_t plain_len)
{
	bool padded = rules[id->type].padded && payload_len == nf_padme(plain_len);
	/* A full block stands without zeros; which size is full only the caller knows. */
	bool bare = payload_len == plain_len &&
		    (id->type == NF_SEAL_BLOCK || !rules[id->type].padded);
	bool zero_pad;

	if (!padded && !bare)
		return nf_fail(-NF_E_FORMAT_BAD);
	int r = open_bytes(c, key, a, sealed, plain_len, payload_len - plain_len, out, &zero_pad);
	return r || zero_pad ? r : nf_fail(-NF_E_FORMAT_BAD);
}

/* PAYLOAD was authenticated.  Fills exactly PLAIN_LEN bytes. */
static int expand(struct nf_codec *c, bool padded, const uint8_t *payload, size_t payload_len,
		  uint8_t *out, size_t plain_len)
{
	if (payload_len < FRAME_LENGTH_BYTES)
		return nf_fail(-NF_E_FORMAT_BAD);
	const uint8_t *frame = payload + FRAME_LENGTH_BYTES;
	size_t frame_len = nf_get_le32(payload);
	if (frame_len > payload_len - FRAME_LENGTH_BYTES)
		return nf_fail(-NF_E_FORMAT_BAD);
	size_t used = FRAME_LENGTH_BYTES + frame_len;
	if (payload_len != (padded ? nf_padme(used) : used))
		return nf_fail(-NF_E_FORMAT_BAD);
	for (size_t i = used; i < payload_len; i++)
		if (payload[i])
			return nf_fail(-NF_E_FORMAT_BAD);
	/* One frame: zstd itself would take a row of them. */
	if (ZSTD_findFrameCompressedSize(frame, frame_len) != frame_len)
		return nf_fail(-NF_E_XFORM_DECOMPRESS);
	if (!c->dctx)
		c->dctx = ZSTD_createDCtx();
	if (!c->dctx)
		return nf_fail(-ENOMEM);
	if (ZSTD_decompressDCtx(c->dctx, out, plain_len, frame, frame_len) != plain_len)
		return nf_fail(-NF_E_XFORM_DECOMPRESS);
	return 0;
}

static int open_zstd(struct nf_codec *c, const struct nf_xaes_key *key, const struct aad *a,
		     const struct nf_seal_id *id, const uint8_t *sealed, size_t payload_len,
		     uint8_t *out, size_t plain_len)
{
	bool pad_ok;

	int r = scratch_reserve(c, payload_len);
	if (!r)
		r = open_bytes(c, key, a, sealed, payload_len, 0, c->scratch, &pad_ok);
	return r ? r : expand(c, rules[id->type].padded, c->scratch, payload_len, out, plain_len);
}

int nf_codec_open(struct nf_codec *c, const struct nf_seal_id *id, uint32_t epoch, uint8_t flags,
		  const uint8_t tag[NF_TAG_BYTES], const void *sealed, size_t sealed_len,
		  void *out, size_t plain_len)
{
	const struct rule *rule = rule_of(id->type);
	const struct nf_xaes_key *key = nf_ring_key(c->ring, id->type, epoch);
	int r = 0;

	if (!rule || (id->type == NF_SEAL_NODE && id->index > UINT8_MAX))
		r = nf_fail(-EINVAL);
	else if (!key)
		r = nf_fail(-NF_E_KEY_EPOCH_UNKNOWN);
	else if (sealed_len < NF_SEAL_OVERHEAD)
		r = nf_fail(-NF_E_XFORM_TRUNCATED);
	else if (sealed_len > SEALED_MAX || plain_len > rule->plain_max || flags & ~NF_PAYLOAD_ZSTD)
		r = nf_fail(-NF_E_FORMAT_BAD);
	else if (!nf_equal_ct((const uint8_t *)sealed + sealed_len - NF_TAG_BYTES, tag,
			      NF_TAG_BYTES))
		r = nf_fail(-NF_E_XFORM_BAD_TAG);
	if (!r) {
		size_t payload_len = sealed_len - NF_SEAL_OVERHEAD;
		struct aad a;
		aad_object(&a, c->ring, id, epoch, plain_len, flags);
		r = flags & NF_PAYLOAD_ZSTD
			    ? open_zstd(c, key, &a, id, sealed, payload_len, out, plain_len)
			    : open_plain(c, key, &a, id, sealed, payload_len, out, plain_len);
	}
	if (r) {
		if (plain_len)
			memset(out, 0, plain_len);
		if (r == -NF_E_XFORM_BAD_TAG)
			nf_count(NF_C_BLOCKS_BAD, 1);
		return r;
	}
	nf_count(NF_C_BLOCKS_OPENED, 1);
	return 0;
}
