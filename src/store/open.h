/* store/open.h - from an address to a stack of filters on a store.
 *
 *   /path, ./path, file:///path            a local directory
 *   mem:NAME                               in memory, shared by NAME in this process
 *   davs://[USER[:PASS]@]HOST[:PORT]/PATH  WebDAV over TLS
 *   dav://...                              WebDAV in the clear: loopback only, unless insecure_http
 *   https://..., http://...                read-only by GET and ranges, no listing
 *   fault+ADDRESS?RULES                    a fault filter on ADDRESS (src/store/fault.h)
 */
#ifndef NF_STORE_OPEN_H
#define NF_STORE_OPEN_H

#include "foliofs/store.h"

/* Opens ADDRESS; makes no request yet.  OPT may be NULL.  On success *OUT is the
 * caller's (nf_store_free).  -NF_E_STORE_URL for an address that is not
 * understood, -ENOENT if a local directory does not exist (CREATE: it is made),
 * -EPERM for dav:// or http:// beyond loopback without opt->insecure_http. */
int nf_store_open(const char *address, const struct nf_store_options *opt, bool create,
		  struct nf_store **out);

/* Asks the server whether the address answers, speaks what its scheme says and
 * the collection exists (opened with CREATE: it is made).  0, or
 * -NF_E_STORE_NOT_DAV, _DENIED, _NOT_FOUND, _TLS, -NF_E_OFFLINE, ...; -ENOTDIR if
 * the address is a file.  Blocks; not from a store's done. */
int nf_store_probe(struct nf_store *s);

/* The address without credentials and query, in a malloc'd string; NULL: no memory. */
char *nf_store_address_safe(const char *address);

#endif
