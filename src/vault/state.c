/* vault/state.c - what this device remembers of a vault: files in STATE_DIR, sealed (docs/format.md, type 9).
 *
 *      epoch u32 | device id [16] | sealed
 *
 * and STATE_DIR/state:
 *
 *      version u8 = 1 | writer u32 | writer id [16] | next counter u64
 *      | head: seq u64, rand [16], tag [16], length u32, the head sealed anew
 *
 * It outlives the cache: against an old state shown by the store, and against two machines being one writer. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/vault_i.h"

#include <stdio.h>

enum { STATE_MAX = NF_HEAD_BYTES_MAX + 4096, CLEAR = 20 };

void nf_state_deinit(struct nf_state *s) { nf_head_deinit(&s->base); }

static size_t extra_of(const uint8_t device_id[16], const char *name, uint8_t out[64])
{
	size_t len = strlen(name);

	memcpy(out, device_id, 16);
	out[16] = (uint8_t)len;
	memcpy(out + 17, name, len);
	return 17 + len;
}

int nf_sealed_load(struct nf_vault *v, const char *name, size_t max, uint8_t device_id[16], void **out, size_t *out_len)
{
	nf_auto_free char *path = NULL;
	nf_auto_free void *file = NULL;
	uint8_t extra[64];
	size_t len;

	if (asprintf(&path, "%s/%s", v->state_path, name) < 0)
		return nf_fail(-ENOMEM);
	int r = nf_file_slurp(v->files, path, max, &file, &len);
	if (r < 0)
		return r;
	if (len < CLEAR + NF_SEAL_OVERHEAD)
		return nf_fail(-NF_E_STATE_BAD);
	const uint8_t *p = file;
	nf_auto_free uint8_t *plain = malloc(len);
	struct nf_codec *codec = nf_codec_get(v->ring);
	if (!plain || !codec)
		return nf_fail(-ENOMEM);
	r = nf_codec_open_raw(codec, NF_SEAL_STATE, nf_get_le32(p), extra, extra_of(p + 4, name, extra), p + CLEAR,
			      len - CLEAR, plain);
	nf_codec_put(codec);
	if (r < 0)
		return nf_fail(-NF_E_STATE_BAD);
	memcpy(device_id, p + 4, 16);
	*out = nf_steal(&plain);
	*out_len = len - CLEAR - NF_SEAL_OVERHEAD;
	return 0;
}

int nf_sealed_save(struct nf_vault *v, const char *name, const uint8_t device_id[16], const struct nf_buf *plain)
{
	struct nf_buf file = NF_BUF_INIT;
	nf_auto_free char *path = NULL;
	uint8_t extra[64];
	uint32_t epoch;

	int r = nf_buf_error(plain);
	if (r < 0)
		return r;
	struct nf_codec *codec = nf_codec_get(v->ring);
	if (!codec || asprintf(&path, "%s/%s", v->state_path, name) < 0 ||
	    !nf_buf_reserve(&file, CLEAR + plain->len + NF_SEAL_OVERHEAD))
		r = nf_fail(-ENOMEM);
	if (r == 0)
		r = nf_codec_seal_raw(codec, NF_SEAL_STATE, extra, extra_of(device_id, name, extra), plain->p, plain->len,
				      file.p + CLEAR, &epoch);
	if (r == 0) {
		nf_put_le32(file.p, epoch);
		memcpy(file.p + 4, device_id, 16);
		r = nf_file_replace(v->files, path, file.p, CLEAR + plain->len + NF_SEAL_OVERHEAD);
	}
	if (codec)
		nf_codec_put(codec);
	nf_buf_deinit(&file);
	return r;
}

static int decode(struct nf_codec *codec, const void *p, size_t len, struct nf_state *out)
{
	struct nf_rd rd = nf_rd_of(p, len);
	struct nf_state s = { 0 };
	uint8_t rand[16], tag[16];

	if (nf_rd_u8(&rd) != 1)
		return nf_fail(-NF_E_STATE_BAD);
	s.writer = nf_rd_u32(&rd);
	nf_rd_copy(&rd, s.writer_id, sizeof s.writer_id);
	s.next_counter = nf_rd_u64(&rd);
	uint64_t seq = nf_rd_u64(&rd);
	nf_rd_copy(&rd, rand, sizeof rand);
	nf_rd_copy(&rd, tag, sizeof tag);
	size_t head_len = nf_rd_u32(&rd);
	const uint8_t *head = nf_rd_bytes(&rd, head_len);
	if (nf_rd_error(&rd, true) < 0)
		return nf_fail(-NF_E_STATE_BAD);
	int r = nf_head_open(codec, seq, rand, head, head_len, &s.base);
	if (r < 0)
		return nf_fail(r);
	memcpy(s.base.id.tag, tag, sizeof tag);
	*out = s;
	return 0;
}

int nf_state_load(struct nf_vault *v, struct nf_state *out)
{
	nf_auto_free void *plain = NULL;
	uint8_t device_id[16];
	size_t len;

	int r = nf_sealed_load(v, "state", STATE_MAX, device_id, &plain, &len);
	if (r < 0)
		return r;
	struct nf_codec *codec = nf_codec_get(v->ring);
	if (!codec)
		return nf_fail(-ENOMEM);
	r = decode(codec, plain, len, out);
	if (r == 0)
		memcpy(out->device_id, device_id, sizeof out->device_id);
	nf_codec_put(codec);
	return r < 0 ? nf_fail(-NF_E_STATE_BAD) : 0;
}

int nf_state_save(struct nf_vault *v, const struct nf_state *s)
{
	struct nf_buf plain = NF_BUF_INIT;
	nf_auto_free void *head = NULL;
	struct nf_head h = s->base;
	uint8_t rand[16];
	size_t head_len;

	struct nf_codec *codec = nf_codec_get(v->ring);
	if (!codec)
		return nf_fail(-ENOMEM);
	/* Sealed anew it gets another tag, so the one it is known by stands beside. */
	memcpy(rand, h.id.rand, sizeof rand);
	int r = nf_head_seal(codec, &h, &head, &head_len);
	nf_codec_put(codec);
	if (r == 0) {
		nf_buf_u8(&plain, 1);
		nf_buf_u32(&plain, s->writer);
		nf_buf_bytes(&plain, s->writer_id, sizeof s->writer_id);
		nf_buf_u64(&plain, s->next_counter);
		nf_buf_u64(&plain, s->base.id.seq);
		nf_buf_bytes(&plain, rand, sizeof rand);
		nf_buf_bytes(&plain, s->base.id.tag, sizeof s->base.id.tag);
		nf_buf_u32(&plain, (uint32_t)head_len);
		nf_buf_bytes(&plain, head, head_len);
		r = nf_sealed_save(v, "state", s->device_id, &plain);
	}
	nf_buf_deinit(&plain);
	return r;
}
