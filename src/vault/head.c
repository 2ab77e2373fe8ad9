/* A head's file:
 *
 *   | format 1 | type 4 | suite u16 | epoch u32 | nonce 24 | ciphertext | tag 16 |
 *     FILE_HEAD_BYTES                           `----------- sealed ----------'
 *
 * Its seq and random name are bound by the associated data, so a head copied to another name does not open. */
#include "vault/head.h"

#include "base/error.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>

enum {
	FILE_HEAD_BYTES = 8,
	FORMAT = 1,
	SUITE = 1,
	AAD_EXTRA_BYTES = 24,
	PREFIX_MAX = (1 << 23) - 1,
	PACK_MAX_BYTES = 16 << 20,
	VECTOR_ENTRY_BYTES = 28,
	NAME_BYTES = 16 + 1 + 32,
};

void nf_head_deinit(struct nf_head *h) { nf_vector_deinit(&h->vector); }

/* --- names --------------------------------------------------------------------- */

void nf_head_name(uint64_t seq, const uint8_t rand[16], char out[64])
{
	int n = snprintf(out, 64, "heads/%016" PRIx64 "-", seq);

	for (int i = 0; i < 16; i++)
		n += snprintf(out + n, 64 - (size_t)n, "%02x", rand[i]);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int nf_head_name_parse(const char *name, uint64_t *seq, uint8_t rand[16])
{
	uint8_t digit[48];
	uint64_t s = 0;

	if (strnlen(name, NAME_BYTES + 1) != NAME_BYTES || name[16] != '-')
		return nf_fail(-NF_E_FORMAT_BAD);
	for (int i = 0; i < 48; i++) {
		int d = hex_digit(name[i < 16 ? i : i + 1]);
		if (d < 0)
			return nf_fail(-NF_E_FORMAT_BAD);
		digit[i] = (uint8_t)d;
	}
	for (int i = 0; i < 16; i++)
		s = s << 4 | digit[i];
	for (int i = 0; i < 16; i++)
		rand[i] = (uint8_t)(digit[16 + 2 * i] << 4 | digit[17 + 2 * i]);
	*seq = s;
	return 0;
}

/* --- plain form ---------------------------------------------------------------- */

static void put_ref_or_null(struct nf_buf *b, const struct nf_ref *r)
{
	if (nf_ref_is_null(r))
		nf_buf_zeros(b, NF_REF_ENCODED);
	else
		nf_ref_encode(b, r);
}

void nf_head_encode_plain(const struct nf_head *h, struct nf_buf *b)
{
	nf_buf_u8(b, 1);
	nf_buf_u64(b, h->id.seq);
	nf_buf_u32(b, h->writer);
	nf_buf_u64(b, h->writer_seq);
	nf_buf_u64(b, (uint64_t)h->time.tv_sec);
	nf_buf_u32(b, (uint32_t)h->time.tv_nsec);
	nf_buf_u8(b, (uint8_t)h->nr_parents);
	for (size_t i = 0; i < h->nr_parents; i++) {
		nf_buf_u64(b, h->parents[i].seq);
		nf_buf_bytes(b, h->parents[i].rand, 16);
		nf_buf_bytes(b, h->parents[i].tag, 16);
	}
	put_ref_or_null(b, &h->root);
	put_ref_or_null(b, &h->delta);
	nf_buf_bytes(b, h->meta_pack.b, 16);
	nf_buf_u32(b, h->meta_offset_bytes);
	nf_buf_u32(b, h->meta_len_bytes);
	nf_buf_u16(b, (uint16_t)h->vector.nr);
	for (size_t i = 0; i < h->vector.nr; i++) {
		nf_buf_u32(b, h->vector.e[i].writer);
		nf_buf_u64(b, h->vector.e[i].seq);
		nf_buf_bytes(b, h->vector.e[i].tag, 16);
	}
	nf_buf_u8(b, 0);
	nf_buf_u16(b, 0);
	nf_buf_u16(b, 0);
}

static int read_parents(struct nf_rd *rd, struct nf_head *h)
{
	uint64_t newest = 0;

	h->nr_parents = nf_rd_u8(rd);
	if (h->nr_parents > NF_HEAD_PARENTS_MAX)
		return nf_fail(-NF_E_FORMAT_BAD);
	for (size_t i = 0; i < h->nr_parents; i++) {
		struct nf_head_id *p = &h->parents[i];
		p->seq = nf_rd_u64(rd);
		nf_rd_copy(rd, p->rand, 16);
		nf_rd_copy(rd, p->tag, 16);
		newest = NF_MAX(newest, p->seq);
	}
	/* Seq 0 is refused by this too; the greatest possible one has no successor. */
	if (rd->bad || newest == UINT64_MAX || h->id.seq != newest + 1)
		return nf_fail(-NF_E_FORMAT_BAD);
	return 0;
}

/* A reference in a head has no "this pack" to mean. */
static int read_ref(struct nf_rd *rd, struct nf_ref *ref)
{
	int r = nf_ref_decode_or_null(rd, NULL, ref);

	if (r == 0 && !nf_ref_is_null(ref) && nf_pack_id_is_zero(&ref->pack))
		r = -NF_E_FORMAT_BAD;
	return nf_fail(r);
}

static int read_vector(struct nf_rd *rd, struct nf_vector *v)
{
	uint32_t last = 0;
	size_t nr = nf_rd_u16(rd);

	if (rd->bad || nr > NF_VECTOR_MAX || nr > nf_rd_left(rd) / VECTOR_ENTRY_BYTES)
		return nf_fail(-NF_E_FORMAT_BAD);
	if (nr == 0)
		return 0;
	v->e = calloc(nr, sizeof *v->e);
	if (!v->e)
		return nf_fail(-ENOMEM);
	v->nr = nr;
	for (size_t i = 0; i < nr; i++) {
		struct nf_vector_entry *e = &v->e[i];
		e->writer = nf_rd_u32(rd);
		e->seq = nf_rd_u64(rd);
		nf_rd_copy(rd, e->tag, 16);
		if (e->writer <= last || e->writer > PREFIX_MAX || e->seq == 0)
			return nf_fail(-NF_E_FORMAT_BAD);
		last = e->writer;
	}
	return 0;
}

/* A writer's head holds its own delta; a pure merge has neither. */
static int check_writer(const struct nf_head *h)
{
	if (h->writer == 0)
		return nf_fail(h->writer_seq || !nf_ref_is_null(&h->delta) ? -NF_E_FORMAT_BAD : 0);
	const struct nf_vector_entry *own = nf_vector_find(&h->vector, h->writer);
	if (!own || own->seq != h->writer_seq)
		return nf_fail(-NF_E_FORMAT_BAD);
	if (!nf_ref_is_null(&h->delta) && memcmp(own->tag, h->delta.tag, sizeof own->tag) != 0)
		return nf_fail(-NF_E_FORMAT_BAD);
	return 0;
}

static int check_meta(const struct nf_head *h)
{
	if (nf_pack_id_is_zero(&h->meta_pack))
		return nf_fail(h->meta_offset_bytes || h->meta_len_bytes ? -NF_E_FORMAT_BAD : 0);
	if (h->meta_offset_bytes > PACK_MAX_BYTES || h->meta_len_bytes > PACK_MAX_BYTES - h->meta_offset_bytes)
		return nf_fail(-NF_E_FORMAT_BAD);
	return 0;
}

static int read_plain(struct nf_rd *rd, struct nf_head *h)
{
	size_t len;
	int r;

	if (nf_rd_u8(rd) != 1)
		return nf_fail(rd->bad ? -NF_E_FORMAT_BAD : -NF_E_FORMAT_UNKNOWN);
	if (nf_rd_u64(rd) != h->id.seq)
		return nf_fail(-NF_E_FORMAT_BAD);
	h->writer = nf_rd_u32(rd);
	h->writer_seq = nf_rd_u64(rd);
	h->time.tv_sec = (int64_t)nf_rd_u64(rd);
	h->time.tv_nsec = nf_rd_u32(rd);
	if (h->time.tv_nsec > 999999999)
		return nf_fail(-NF_E_FORMAT_BAD);
	if ((r = read_parents(rd, h)) < 0 || (r = read_ref(rd, &h->root)) < 0 || (r = read_ref(rd, &h->delta)) < 0)
		return r;
	nf_rd_copy(rd, h->meta_pack.b, 16);
	h->meta_offset_bytes = nf_rd_u32(rd);
	h->meta_len_bytes = nf_rd_u32(rd);
	if ((r = read_vector(rd, &h->vector)) < 0)
		return r;
	unsigned signature_kind = nf_rd_u8(rd);
	(void)nf_rd_str16(rd, &len);
	if (signature_kind != 0 || len != 0)
		return nf_fail(-NF_E_FORMAT_BAD);
	(void)nf_rd_str16(rd, &len); /* the extension, for later versions */
	if ((r = nf_rd_error(rd, true)) < 0 || (r = check_meta(h)) < 0)
		return nf_fail(r);
	return check_writer(h);
}

int nf_head_decode_plain(uint64_t seq, const uint8_t rand[16], const void *p, size_t len,
			 struct nf_head *out)
{
	struct nf_head h = { .id.seq = seq };
	struct nf_rd rd = nf_rd_of(p, len);

	memcpy(h.id.rand, rand, 16);
	int r = read_plain(&rd, &h);
	if (r < 0) {
		nf_head_deinit(&h);
		return r;
	}
	*out = h;
	return 0;
}

/* --- sealed form --------------------------------------------------------------- */

static void aad_extra(uint64_t seq, const uint8_t rand[16], uint8_t out[AAD_EXTRA_BYTES])
{
	nf_put_le64(out, seq);
	memcpy(out + 8, rand, 16);
}

int nf_head_seal(struct nf_codec *c, struct nf_head *h, void **out, size_t *len)
{
	nf_auto(nf_buf_deinit) struct nf_buf plain = NF_BUF_INIT;
	uint8_t extra[AAD_EXTRA_BYTES];
	uint32_t epoch;

	nf_head_encode_plain(h, &plain);
	int r = nf_buf_error(&plain);
	if (r < 0)
		return nf_fail(r);
	size_t size = FILE_HEAD_BYTES + plain.len + NF_SEAL_OVERHEAD;
	if (size > NF_HEAD_BYTES_MAX)
		return nf_fail(-NF_E_FORMAT_BAD);
	nf_auto_free uint8_t *file = malloc(size);
	if (!file)
		return nf_fail(-ENOMEM);
	aad_extra(h->id.seq, h->id.rand, extra);
	r = nf_codec_seal_raw(c, NF_SEAL_HEAD, extra, sizeof extra, plain.p, plain.len, file + FILE_HEAD_BYTES,
			      &epoch);
	if (r < 0)
		return r;
	file[0] = FORMAT;
	file[1] = NF_SEAL_HEAD;
	nf_put_le16(file + 2, SUITE);
	nf_put_le32(file + 4, epoch);
	memcpy(h->id.tag, file + size - 16, 16);
	*len = size;
	*out = nf_steal(&file);
	return 0;
}

uint32_t nf_head_epoch(const void *p, size_t len)
{
	const uint8_t *file = p;

	if (len < FILE_HEAD_BYTES + NF_SEAL_OVERHEAD || file[0] != FORMAT || file[1] != NF_SEAL_HEAD ||
	    nf_get_le16(file + 2) != SUITE)
		return 0;
	return nf_get_le32(file + 4);
}

int nf_head_open(struct nf_codec *c, uint64_t seq, const uint8_t rand[16], const void *p, size_t len,
		 struct nf_head *out)
{
	const uint8_t *file = p;
	uint8_t extra[AAD_EXTRA_BYTES];

	if (len < FILE_HEAD_BYTES + NF_SEAL_OVERHEAD || len > NF_HEAD_BYTES_MAX)
		return nf_fail(-NF_E_FORMAT_BAD);
	if (file[0] != FORMAT || file[1] != NF_SEAL_HEAD || nf_get_le16(file + 2) != SUITE)
		return nf_fail(-NF_E_FORMAT_UNKNOWN);
	size_t plain_len = len - FILE_HEAD_BYTES - NF_SEAL_OVERHEAD;
	nf_auto_free uint8_t *plain = malloc(plain_len + 1);
	if (!plain)
		return nf_fail(-ENOMEM);
	aad_extra(seq, rand, extra);
	int r = nf_codec_open_raw(c, NF_SEAL_HEAD, nf_get_le32(file + 4), extra, sizeof extra,
				  file + FILE_HEAD_BYTES, len - FILE_HEAD_BYTES, plain);
	if (r < 0)
		return r;
	r = nf_head_decode_plain(seq, rand, plain, plain_len, out);
	if (r < 0)
		return r;
	memcpy(out->id.tag, file + len - 16, 16);
	return 0;
}

/* --- for people ---------------------------------------------------------------- */

void nf_head_to_text(const struct nf_head *h, struct nf_text *t)
{
	nf_textf(t, "head %" PRIx64 "-", h->id.seq);
	nf_text_hex(t, h->id.rand, 4);
	nf_textf(t, " tag=");
	nf_text_hex(t, h->id.tag, 4);
	nf_textf(t, " by=%" PRIu32 ".%" PRIu64 " parents=%zu vector=", h->writer, h->writer_seq, h->nr_parents);
	nf_vector_to_text(&h->vector, t);
	nf_textf(t, " root=");
	nf_ref_to_text(&h->root, t);
}

/* 20 characters of base32: the first 100 bits of the SHA-256 of the encoded vector.  No letters that look like digits
 * to a person who reads them aloud. */
void nf_head_fingerprint(const struct nf_head *h, char out[24])
{
	static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	uint8_t sum[32] = { 0 };
	char *to = out;

	for (size_t i = 0; i < h->vector.nr; i++) {
		nf_buf_u32(&b, h->vector.e[i].writer);
		nf_buf_u64(&b, h->vector.e[i].seq);
		nf_buf_bytes(&b, h->vector.e[i].tag, 16);
	}
	if (nf_buf_error(&b) < 0 || nf_sha256(b.p ? b.p : sum, b.len, sum) < 0) {
		(void)snprintf(out, 24, "?");
		return;
	}
	for (unsigned i = 0; i < 20; i++) {
		unsigned bit = i * 5;
		unsigned two = (unsigned)sum[bit / 8] << 8 | sum[bit / 8 + 1];
		if (i && i % 5 == 0)
			*to++ = '-';
		*to++ = digits[two >> (11 - bit % 8) & 31];
	}
	*to = 0;
}
