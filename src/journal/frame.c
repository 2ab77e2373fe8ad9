#include "journal/frame.h"

#include "base/buf.h"
#include "base/hash.h"
#include "base/mem.h"
#include "journal/journal.h"

#include <string.h>

enum { CHECKED = 24 }; /* bytes of the header before the check */

/* Fixed: the check tells torn writes, not forgeries. */
static const uint8_t keys[2][16] = { "foliofs journal", "frame check two" };

uint64_t nf_frame_size(size_t len_bytes)
{
	return NF_FRAME_HEADER + nf_round_up(len_bytes, NF_FRAME_ALIGN);
}

/* The header's hash goes into the payload's, so that both are bound. */
static void check_of(const uint8_t *head, const void *payload, size_t len, uint8_t out[16])
{
	for (int i = 0; i < 2; i++) {
		uint64_t h = nf_siphash(keys[i], head, CHECKED);
		if (payload) {
			uint8_t key[16];
			memcpy(key, keys[i], sizeof key);
			nf_put_le64(key, h);
			h = nf_siphash(key, payload, len);
		}
		nf_put_le64(out + 8 * i, h);
	}
}

void nf_frame_encode(const struct nf_frame *f, const void *payload, uint8_t out[NF_FRAME_HEADER])
{
	memcpy(out, "FJ1", 3);
	out[3] = (uint8_t)f->kind;
	nf_put_le32(out + 4, f->len_bytes);
	nf_put_le64(out + 8, f->synced_bytes);
	nf_put_le64(out + 16, f->number);
	check_of(out, payload, f->len_bytes, out + CHECKED);
}

bool nf_frame_decode(const uint8_t in[NF_FRAME_HEADER], struct nf_frame *f)
{
	if (memcmp(in, "FJ1", 3) != 0 || in[3] == '\0' || !strchr("SDOM", in[3]))
		return false;
	f->kind = (char)in[3];
	f->len_bytes = nf_get_le32(in + 4);
	f->synced_bytes = nf_get_le64(in + 8);
	f->number = nf_get_le64(in + 16);
	return f->len_bytes <= NF_JOURNAL_FRAME_MAX;
}

bool nf_frame_check(const uint8_t in[NF_FRAME_HEADER], const struct nf_frame *f,
		    const void *payload)
{
	uint8_t want[16];

	check_of(in, payload, f->len_bytes, want);
	return memcmp(want, in + CHECKED, sizeof want) == 0;
}
