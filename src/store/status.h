/* store/status.h - what an HTTP status means to us; pure functions. */
#ifndef NF_STORE_STATUS_H
#define NF_STORE_STATUS_H

#include "foliofs/store.h"

/* The error for a final STATUS that is not the verb's success; 2xx that the
 * verb does not know are -NF_E_STORE_PROTOCOL.  Never 0. */
int nf_status_error(long status);

/* "bytes F-L/N" of a 206, "bytes * /N" of a 416.  A value that is not given is
 * UINT64_MAX.  -NF_E_STORE_PROTOCOL if it does not parse. */
struct nf_content_range {
	uint64_t first;
	uint64_t last;
	uint64_t total_bytes;
};
int nf_content_range_parse(const char *s, struct nf_content_range *out);

/* Digits only, to the end of S; false otherwise. */
bool nf_decimal(const char *s, uint64_t *out);

/* Halves the largest body after a refused one of BYTES; never below 64 KiB. */
void nf_store_lower_max_put(struct nf_store *s, uint64_t bytes);

#endif
