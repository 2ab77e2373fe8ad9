/* layer: vault */
/* Deltas come from every writer of the vault; each operation that is accepted encodes to what it was read from. */
#include "vault/op.h"

#include "base/mem.h"
#include "vault/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t len)
{
	struct nf_delta d;

	if (nf_delta_decode(p, len, NULL, &d) < 0)
		return 0;
	struct nf_rd rd = nf_rd_of(d.ops, d.ops_len);
	for (uint32_t i = 0; i < d.nr_ops; i++) {
		nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
		nf_auto(nf_text_deinit) struct nf_text t = NF_TEXT_INIT;
		const uint8_t *from = rd.p;
		struct nf_op op;
		if (nf_op_decode(&rd, NULL, &op) < 0)
			__builtin_trap();
		nf_op_encode(&b, &op);
		if (b.len != (size_t)(rd.p - from) || memcmp(b.p, from, b.len) != 0)
			__builtin_trap();
		nf_op_to_text(&op, &t);
	}
	return 0;
}
