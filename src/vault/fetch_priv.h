/* vault/fetch_priv.h - what fetch.c offers fetch_nodes.c. */
#ifndef NF_VAULT_FETCH_PRIV_H
#define NF_VAULT_FETCH_PRIV_H

#include "vault/fetch.h"

/* How wide a request to the store is cut. */
enum nf_fetch_kind {
	NF_FETCH_DATA, /* rounded out to the cache's units */
	NF_FETCH_META, /* rounded out to 64 KiB: what lies around is wanted next.  Kept in memory for a while where
	                * there is no cache.  io->buf may be NULL: only get it there. */
};
void nf_fetch_start(struct nf_fetch *f, struct nf_fetch_io *io, enum nf_fetch_kind kind);
/* Bytes that did not authenticate are not kept: neither in the cache nor in memory. */
void nf_fetch_forget(struct nf_fetch *f, const struct nf_pack_id *pack, uint64_t offset_bytes, size_t len_bytes);
const struct nf_fetch_options *nf_fetch_options(const struct nf_fetch *f);

#endif
