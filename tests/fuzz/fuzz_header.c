/* layer: vault */
/* The header is the first thing read from a stranger's server, before any key. */
#include "vault/header.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t len)
{
	static const uint8_t root[NF_KEY_BYTES];
	struct nf_text t = NF_TEXT_INIT;
	struct nf_header *h;

	if (nf_header_decode(p, len, &h))
		return 0;
	nf_header_to_text(h, &t);
	if (nf_header_unlock_root(h, root) == 0)
		__builtin_trap(); /* nobody knows a header whose root key is zero */
	nf_text_deinit(&t);
	nf_header_free(h);
	return 0;
}
