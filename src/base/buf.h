/* base/buf.h - encoding into a growing byte buffer, and bounded decoding.
 *
 * All integers are little-endian.  A writer that runs out of memory goes to a
 * failed state, looked at once, at the end (nf_buf_error()).  A reader never
 * reads outside [p, end): a read past the end yields zeros and sets `bad`,
 * looked at once, at the end of the object (nf_rd_error()).  Neither is thread
 * safe. */
#ifndef NF_BASE_BUF_H
#define NF_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct nf_buf {
	uint8_t *p;
	size_t len;
	size_t cap;
	bool failed;
};

#define NF_BUF_INIT { 0 }

void nf_buf_deinit(struct nf_buf *b);
/* Makes the next MORE bytes writable at b->p + b->len; false when out of memory. */
bool nf_buf_reserve(struct nf_buf *b, size_t more);
void nf_buf_bytes(struct nf_buf *b, const void *p, size_t len);
void nf_buf_zeros(struct nf_buf *b, size_t len);
void nf_buf_u8(struct nf_buf *b, uint8_t v);
void nf_buf_u16(struct nf_buf *b, uint16_t v);
void nf_buf_u32(struct nf_buf *b, uint32_t v);
void nf_buf_u64(struct nf_buf *b, uint64_t v);
/* u16 length, then the bytes; LEN must be < 65536. */
void nf_buf_str16(struct nf_buf *b, const void *p, size_t len);
/* 0 or -ENOMEM. */
int nf_buf_error(const struct nf_buf *b);

struct nf_rd {
	const uint8_t *p;
	const uint8_t *end;
	bool bad;
};

static inline struct nf_rd nf_rd_of(const void *p, size_t len)
{
	return (struct nf_rd){ .p = p, .end = (const uint8_t *)p + len };
}
static inline size_t nf_rd_left(const struct nf_rd *r) { return (size_t)(r->end - r->p); }
/* LEN bytes, borrowed from the object; NULL and `bad` when there are fewer. */
const uint8_t *nf_rd_bytes(struct nf_rd *r, size_t len);
/* Copies LEN bytes to OUT, zeros when there are fewer. */
void nf_rd_copy(struct nf_rd *r, void *out, size_t len);
uint8_t nf_rd_u8(struct nf_rd *r);
uint16_t nf_rd_u16(struct nf_rd *r);
uint32_t nf_rd_u32(struct nf_rd *r);
uint64_t nf_rd_u64(struct nf_rd *r);
/* Borrowed bytes of a str16; *LEN is 0 and the result NULL when bad. */
const uint8_t *nf_rd_str16(struct nf_rd *r, size_t *len);
/* 0, or -NF_E_FORMAT_BAD if anything was read past the end.  With WHOLE also if
 * bytes are left over. */
int nf_rd_error(const struct nf_rd *r, bool whole);

static inline void nf_put_le16(void *p, uint16_t v)
{
	uint8_t *b = p;
	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}
static inline void nf_put_le32(void *p, uint32_t v)
{
	nf_put_le16(p, (uint16_t)v);
	nf_put_le16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}
static inline void nf_put_le64(void *p, uint64_t v)
{
	nf_put_le32(p, (uint32_t)v);
	nf_put_le32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}
static inline uint16_t nf_get_le16(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t nf_get_le32(const void *p)
{
	return nf_get_le16(p) | (uint32_t)nf_get_le16((const uint8_t *)p + 2) << 16;
}
static inline uint64_t nf_get_le64(const void *p)
{
	return nf_get_le32(p) | (uint64_t)nf_get_le32((const uint8_t *)p + 4) << 32;
}
/* Big-endian, for keys that are compared as bytes. */
static inline void nf_put_be64(void *p, uint64_t v)
{
	uint8_t *b = p;
	for (int i = 7; i >= 0; i--, v >>= 8)
		b[i] = (uint8_t)v;
}
static inline uint64_t nf_get_be64(const void *p)
{
	const uint8_t *b = p;
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | b[i];
	return v;
}

#endif
