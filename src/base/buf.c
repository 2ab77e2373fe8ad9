#include "base/buf.h"

#include "base/assert.h"
#include "base/error.h"

#include <stdlib.h>

void nf_buf_deinit(struct nf_buf *b)
{
	free(b->p);
	*b = (struct nf_buf)NF_BUF_INIT;
}

bool nf_buf_reserve(struct nf_buf *b, size_t more)
{
	if (b->failed)
		return false;
	if (b->len + more <= b->cap)
		return true;
	size_t cap = b->cap ? b->cap : 256;
	while (cap < b->len + more)
		cap *= 2;
	uint8_t *p = realloc(b->p, cap);
	if (!p) {
		b->failed = true;
		return false;
	}
	b->p = p;
	b->cap = cap;
	return true;
}

void nf_buf_bytes(struct nf_buf *b, const void *p, size_t len)
{
	if (len == 0 || !nf_buf_reserve(b, len))
		return;
	memcpy(b->p + b->len, p, len);
	b->len += len;
}

void nf_buf_zeros(struct nf_buf *b, size_t len)
{
	if (len == 0 || !nf_buf_reserve(b, len))
		return;
	memset(b->p + b->len, 0, len);
	b->len += len;
}

void nf_buf_u8(struct nf_buf *b, uint8_t v) { nf_buf_bytes(b, &v, 1); }

void nf_buf_u16(struct nf_buf *b, uint16_t v)
{
	uint8_t t[2];
	nf_put_le16(t, v);
	nf_buf_bytes(b, t, sizeof t);
}

void nf_buf_u32(struct nf_buf *b, uint32_t v)
{
	uint8_t t[4];
	nf_put_le32(t, v);
	nf_buf_bytes(b, t, sizeof t);
}

void nf_buf_u64(struct nf_buf *b, uint64_t v)
{
	uint8_t t[8];
	nf_put_le64(t, v);
	nf_buf_bytes(b, t, sizeof t);
}

void nf_buf_str16(struct nf_buf *b, const void *p, size_t len)
{
	NF_ASSERT(len < 65536);
	nf_buf_u16(b, (uint16_t)len);
	nf_buf_bytes(b, p, len);
}

int nf_buf_error(const struct nf_buf *b) { return b->failed ? nf_fail(-ENOMEM) : 0; }

const uint8_t *nf_rd_bytes(struct nf_rd *r, size_t len)
{
	if (r->bad || nf_rd_left(r) < len) {
		r->bad = true;
		return NULL;
	}
	const uint8_t *p = r->p;
	r->p += len;
	return p;
}

void nf_rd_copy(struct nf_rd *r, void *out, size_t len)
{
	const uint8_t *p = nf_rd_bytes(r, len);
	if (!p)
		memset(out, 0, len);
	else if (len)
		memcpy(out, p, len);
}

uint8_t nf_rd_u8(struct nf_rd *r)
{
	const uint8_t *p = nf_rd_bytes(r, 1);
	return p ? *p : 0;
}

uint16_t nf_rd_u16(struct nf_rd *r)
{
	const uint8_t *p = nf_rd_bytes(r, 2);
	return p ? nf_get_le16(p) : 0;
}

uint32_t nf_rd_u32(struct nf_rd *r)
{
	const uint8_t *p = nf_rd_bytes(r, 4);
	return p ? nf_get_le32(p) : 0;
}

uint64_t nf_rd_u64(struct nf_rd *r)
{
	const uint8_t *p = nf_rd_bytes(r, 8);
	return p ? nf_get_le64(p) : 0;
}

const uint8_t *nf_rd_str16(struct nf_rd *r, size_t *len)
{
	size_t n = nf_rd_u16(r);
	const uint8_t *p = nf_rd_bytes(r, n);
	*len = p ? n : 0;
	return p;
}

int nf_rd_error(const struct nf_rd *r, bool whole)
{
	if (r->bad || (whole && r->p != r->end))
		return nf_fail(-NF_E_FORMAT_BAD);
	return 0;
}
