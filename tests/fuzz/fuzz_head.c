/* layer: vault */
/* The plain part of a head, as somebody with the keys may have written it. */
#include "vault/head.h"

#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t len)
{
	static const uint8_t rand[16];
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	nf_auto(nf_text_deinit) struct nf_text t = NF_TEXT_INIT;
	nf_auto(nf_head_deinit) struct nf_head h = { 0 };

	/* The name's seq is the one inside, so that more is reached. */
	uint64_t seq = len >= 9 ? nf_get_le64(p + 1) : 0;
	if (nf_head_decode_plain(seq, rand, p, len, &h) < 0)
		return 0;
	nf_head_to_text(&h, &t);
	nf_head_encode_plain(&h, &b);
	/* All but the ignored extension comes back. */
	if (b.len > len || memcmp(b.p, p, b.len - 2) != 0)
		__builtin_trap();
	return 0;
}
