#include "vault/ref.h"

#include "base/error.h"

int nf_ref_decode_or_null(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_ref *r)
{
	static const uint8_t zeros[NF_REF_ENCODED];
	struct nf_ref ref = { 0 };

	const uint8_t *p = nf_rd_bytes(rd, NF_REF_ENCODED);
	if (!p)
		return nf_fail(-NF_E_FORMAT_BAD);
	if (memcmp(p, zeros, sizeof zeros) != 0) {
		struct nf_rd in = nf_rd_of(p, NF_REF_ENCODED);
		nf_ref_decode(&in, self, &ref);
		int res = nf_rd_error(&in, true);
		if (res == 0)
			res = nf_ref_check(&ref);
		if (res < 0)
			return nf_fail(res);
	}
	*r = ref;
	return 0;
}
