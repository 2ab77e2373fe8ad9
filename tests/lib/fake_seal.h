/* tests/lib/fake_seal.h - a journal seal of no secrecy: bytes turned over, and a tag
 * that binds what the real one binds. */
#ifndef NF_TESTS_FAKE_SEAL_H
#define NF_TESTS_FAKE_SEAL_H

#include "base/buf.h"
#include "base/error.h"
#include "base/hash.h"
#include "journal/journal.h"

static inline void fake_tag(const uint8_t prev[16], uint64_t segment, uint64_t number, char kind,
			    const uint8_t *sealed, size_t len, uint8_t tag[16])
{
	struct nf_buf b = NF_BUF_INIT;
	static const uint8_t key[16] = "fake seal";

	nf_buf_bytes(&b, prev, 16);
	nf_buf_u64(&b, segment);
	nf_buf_u64(&b, number);
	nf_buf_u8(&b, (uint8_t)kind);
	nf_buf_bytes(&b, sealed, len);
	nf_put_le64(tag, nf_siphash(key, b.p, b.len));
	nf_put_le64(tag + 8, nf_siphash(key, b.p, b.len - 1) ^ len);
	nf_buf_deinit(&b);
}

static inline int fake_seal(void *ctx, const uint8_t prev[16], uint64_t segment, uint64_t number,
			    char kind, const void *plain, size_t len, void *out, uint8_t tag[16])
{
	uint8_t *o = out;

	(void)ctx;
	for (size_t i = 0; i < len; i++)
		o[i] = (uint8_t)~((const uint8_t *)plain)[i];
	fake_tag(prev, segment, number, kind, o, len, tag);
	memcpy(o + len, tag, 16);
	return 0;
}

static inline int fake_open(void *ctx, const uint8_t prev[16], uint64_t segment, uint64_t number,
			    char kind, const void *sealed, size_t len, void *out, size_t *out_len,
			    uint8_t tag[16])
{
	const uint8_t *s = sealed;
	uint8_t want[16];

	(void)ctx;
	fake_tag(prev, segment, number, kind, s, len - 16, want);
	if (memcmp(want, s + len - 16, 16) != 0)
		return -NF_E_XFORM_BAD_TAG;
	for (size_t i = 0; i < len - 16; i++)
		((uint8_t *)out)[i] = (uint8_t)~s[i];
	memcpy(tag, want, 16);
	*out_len = len - 16;
	return 0;
}

static const struct nf_journal_seal_ops fake_seal_ops = { .overhead = 16,
							  .seal = fake_seal,
							  .open = fake_open };

#endif
