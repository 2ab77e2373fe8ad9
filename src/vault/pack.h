/* vault/pack.h - building packs and getting them onto the store.
 *
 *   data packs    | block | block | block ...                       sealed earlier, copied as they are
 *   metadata pack | xattr values | delta | nodes, children first |  sealed while it is built
 *
 * A name is random and written by one attempt: when a PUT fails or its outcome is unknown the bytes go out again
 * under a new name.  A pack counts only after its length was confirmed. */
#ifndef NF_VAULT_PACK_H
#define NF_VAULT_PACK_H

#include "base/buf.h"
#include "vault/fetch.h"

enum { NF_PACK_MAX_BYTES = 16 << 20 };

/* "packs/xx/<32 hex>" */
void nf_pack_name(const struct nf_pack_id *id, char out[64]);
/* The other way, from "xx" and the last component; -NF_E_FORMAT_BAD. */
int nf_pack_name_parse(const char *dir, const char *name, struct nf_pack_id *out);

struct nf_pack_put {
	/* Set by the caller. */
	struct nf_store *store;
	struct nf_cache *cache; /* the bytes are put there too once confirmed; NULL: not */
	bool lasting;           /* and nf_cache_sync() makes them durable there */
	const struct iovec *iov;
	int nr_iov;
	uint64_t deadline_ns; /* give up after this time; 0: never while the store is reachable */
	_Atomic bool *stop;   /* give up when set (-NF_E_CANCELLED); NULL */
	/* `id` was given by the caller, who has sealed it into references: one attempt only.  After any failure what
	 * refers to it is made again, with a new id. */
	bool given_id;
	/* Result, unless given. */
	struct nf_pack_id id;
};
void nf_pack_id_random(struct nf_pack_id *out);
/* Puts one pack, with retries under new names and back-off; blocks.  -NF_E_STORE_TOO_LARGE: make it
 * smaller (store->max_put_bytes says how small). -NF_E_STORE_FULL, _DENIED: told at once; _OFFLINE after the
 * store's own time-outs. */
int nf_pack_put(struct nf_pack_put *p);
/* Same rules for a head: NAME is made anew from h->id.seq and fresh random bytes for each attempt by SEAL. Reports the outcome of
 * ONE attempt: 0 (confirmed by the server's answer), -NF_E_STORE_UNKNOWN_OUTCOME, others: not stored. */
struct nf_head;
int nf_head_put(struct nf_store *store, struct nf_codec *c, struct nf_head *h);

/* Builds a metadata pack in memory: seals and appends; offsets in *OUT, with `id` as the pack's.
 *
 *   one pack is enough   id zero ("this pack"), full NULL: what does not fit is -NF_E_STORE_TOO_LARGE
 *   several are needed   id given; FULL sends the bytes, empties the buffer and gives the next id */
struct nf_meta_pack {
	struct nf_buf bytes;
	struct nf_codec *codec; /* borrowed */
	uint64_t nr_nodes;
	struct nf_pack_id id;
	uint64_t max_bytes; /* 0: NF_PACK_MAX_BYTES */
	int (*full)(struct nf_meta_pack *m);
	void *ctx;
};
int nf_meta_pack_add(struct nf_meta_pack *m, const struct nf_seal_id *id, const void *plain, size_t len,
		     struct nf_ref *out);
/* For struct nf_tree_writer. ctx is the nf_meta_pack. */
int nf_meta_pack_emit(void *ctx, unsigned level, const void *plain, size_t len, struct nf_ref *out);

#endif
