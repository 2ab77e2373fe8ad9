/* layer: store */
/* The answer to a PROPFIND: whatever comes, it is refused or gives valid names. */
#include "store/dav_xml.h"

#include "base/assert.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nf_dav_xml *x;
	struct nf_dav_props self;
	struct nf_entries e = { 0 };
	/* The first byte says in what pieces the text arrives. */
	size_t step = size ? (size_t)data[0] + 1 : 1;
	int r = 0;

	if (nf_dav_xml_new("/dav/v%61ult/", &x))
		return 0;
	for (size_t at = 1; at < size && !r; at += step)
		r = nf_dav_xml_feed(x, data + at, NF_MIN(step, size - at));
	if (!nf_dav_xml_end(x, &self, &e)) {
		NF_ASSERT(!r);
		for (size_t i = 0; i < e.nr; i++)
			NF_ASSERT(nf_store_part_ok(e.v[i].name, strlen(e.v[i].name)));
	}
	nf_entries_deinit(&e);
	nf_dav_xml_free(x);
	return 0;
}
