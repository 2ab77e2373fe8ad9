/* vault/fetch.h - sealed bytes of packs, from the local cache or the store, and tree nodes.
 *
 * Ranges asked for at about the same time that lie close together in a pack become one request; a range
 * already being fetched is waited for, not asked for twice; what comes from the store is rounded out to
 * the cache's units and put into the cache.  Any number of fetches may be under way; the store orders them by
 * priority.  Completions come on the store's, the cache's or a pool's threads with no lock held. */
#ifndef NF_VAULT_FETCH_H
#define NF_VAULT_FETCH_H

#include "aio/pool.h"
#include "cache/cache.h"
#include "codec/codec.h"
#include "foliofs/store.h"
#include "vault/tree.h"

struct nf_fetch;
struct nf_get;

struct nf_fetch_options {
	struct nf_store *store;  /* borrowed, all of them */
	struct nf_cache *cache;  /* NULL: none */
	struct nf_ring *ring;
	struct nf_nodes *nodes;
	struct nf_pool *pool;    /* where nodes are opened */
	/* [Optional] Nodes whose pack is local (ref.h).  Called by the waiting thread, or on the pool. */
	int (*read_local)(void *ctx, const struct nf_pack_id *pack, uint32_t offset_bytes, void *buf, size_t len);
	void *read_local_ctx;
};
int nf_fetch_new(const struct nf_fetch_options *o, struct nf_fetch **out);
/* Waits until nothing is under way.  NULL allowed. */
void nf_fetch_free(struct nf_fetch *f);

struct nf_fetch_io {
	/* Set by the caller. */
	struct nf_pack_id pack;
	uint32_t offset_bytes;
	uint32_t len_bytes;
	void *buf;           /* NULL with `lend`: the fetcher's own memory is lent instead */
	bool lend;
	uint32_t more_bytes; /* right behind, in this pack, will be asked for at once: one range may fetch it all */
	enum nf_store_priority priority;
	bool bypass_cache; /* what the cache holds was bad: ask the store */
	void (*done)(struct nf_fetch_io *io);
	void *ctx;
	/* Set before done. A pack the store does not have: -NF_E_PACK_MISSING. */
	int error;
	bool from_cache;
	struct nf_fetch_lent {
		void *bytes; /* after an io with `lend` and error 0, until given back */
		struct nf_get *get;
		void *own;
		size_t len_bytes;
	} lent;
	void *priv[6];
};
void nf_fetch_submit(struct nf_fetch *f, struct nf_fetch_io *io);
/* Ends a loan; the io itself may be gone.  Everything lent must be back before nf_fetch_free(). */
void nf_fetch_give_back(struct nf_fetch *f, struct nf_fetch_lent *lent);
/* Asks that IO end soon with -NF_E_CANCELLED unless others wait for the same bytes. */
void nf_fetch_cancel(struct nf_fetch *f, struct nf_fetch_io *io);

/* Gets the nodes of REFS into the node cache: fetches with joined ranges (gaps up to 64 KiB) and read-around of metadata,
 * opens and inserts.  DONE once, with 0 or the first error.  A cached node that does not authenticate is
 * forgotten and fetched from the store; one of the store's that does not counts NF_C_STORE_BAD. */
struct nf_fetch_nodes {
	struct nf_ref refs[NF_WANT_MAX];
	size_t nr;
	enum nf_store_priority priority;
	void (*done)(struct nf_fetch_nodes *fn);
	void *ctx;
	int error;
	void *priv[4];
};
void nf_fetch_nodes(struct nf_fetch *f, struct nf_fetch_nodes *fn);
/* The blocking form, for struct nf_node_source (ctx is the nf_fetch).  Never on a FUSE thread. */
int nf_fetch_load(void *fetch, struct nf_want *w);
/* The same for what nobody waits for. */
int nf_fetch_load_behind(void *fetch, struct nf_want *w);
/* Fetches [offset, offset+len) of PACK into the cache and opens the nodes that REFS (sorted by nothing) name later at no
 * further request: the metadata of a new head.  Blocking. */
int nf_fetch_warm(struct nf_fetch *f, const struct nf_pack_id *pack, uint32_t offset_bytes,
		  uint32_t len_bytes);
/* Bytes of a pack, from the cache or the store.  Blocking. */
int nf_fetch_bytes(struct nf_fetch *f, const struct nf_pack_id *pack, uint32_t offset_bytes, uint32_t len_bytes,
		   void *buf);
/* The same as the store has them now, past the cache. */
int nf_fetch_from_store(struct nf_fetch *f, const struct nf_pack_id *pack, uint32_t offset_bytes, uint32_t len_bytes,
			void *buf);
/* Reads and opens a blob (delta, xattr value); *OUT is malloc'd.  Blocking. */
int nf_fetch_blob(struct nf_fetch *f, const struct nf_ref *ref, const struct nf_seal_id *id,
		  void **out, size_t *len);

#endif
