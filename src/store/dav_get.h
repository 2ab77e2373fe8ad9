/* store/dav_get.h - the body of a ranged GET, checked as it arrives. */
#ifndef NF_STORE_DAV_GET_H
#define NF_STORE_DAV_GET_H

#include "store/http.h"

struct nf_dav_get {
	struct nf_store_op *op; /* whose buf is filled */
	struct nf_http *http;
	bool begun;
	bool enough;         /* ended by us, with all that was asked */
	uint64_t skip_bytes; /* a 200: what comes before the range */
	uint64_t body_bytes; /* arrived */
	uint64_t size_bytes; /* of the object; UINT64_MAX: not said */
	uint64_t want_bytes; /* goes to buf */
	size_t got_bytes;
	int error;
};

void nf_dav_get_init(struct nf_dav_get *g, struct nf_store_op *op, struct nf_http *h);
/* nf_http's sink; CTX is the struct. */
int nf_dav_get_sink(void *g, const void *p, size_t len);
/* The answer (2xx or 416) is complete, or `enough`: fills OP's results.
 * NF_DAV_GET_ASK_SIZE: there was nothing there, and the size is not known. */
enum { NF_DAV_GET_ASK_SIZE = 1 };
int nf_dav_get_end(struct nf_dav_get *g);

#endif
