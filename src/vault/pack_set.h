/* vault/pack_set.h - a set of packs, each with what its user keeps of it.
 *
 * Memory goes by packs, never by blocks: about 120 bytes each.  Not thread safe. */
#ifndef NF_VAULT_PACK_SET_H
#define NF_VAULT_PACK_SET_H

#include "base/avl.h"
#include "cache/cache.h" /* struct nf_pack_id */

#include <stdint.h>

struct nf_pack_entry {
	struct nf_avl_node node;
	struct nf_pack_id id;
	int64_t live_bytes;   /* sealed bytes named, as often as they are named */
	int64_t stay_bytes;   /* of these: by what cannot be told to name another */
	int64_t most_bytes;   /* the most that any one root names */
	int64_t old_bytes;    /* of live_bytes: sealed under keys of before the newest */
	int64_t most_old_bytes; /* the most of these that any one kept root names, and what kept deltas are */
	uint64_t size_bytes;  /* on the store; 0: not listed */
	int64_t mtime_s;      /* by the server's clock */
	int64_t condemned_s;  /* when, by the server's clock */
	uint64_t awaited_seq; /* of v->named: see nf_gc_name() */
	bool awaited;
	bool lost;            /* of what it holds something could not be read whole */
	bool listed, condemned;
	bool touched;         /* live_bytes changed since the last root that was judged */
	bool known;           /* some root names it, kept or not */
	bool needed;          /* something that is kept names it */
	bool pinned;          /* something names it that cannot be told to name another */
};

struct nf_pack_set {
	struct nf_avl all;
	size_t nr;
};
#define NF_PACK_SET_INIT { .nr = 0 }
void nf_pack_set_deinit(struct nf_pack_set *s);
/* NULL: not there. */
struct nf_pack_entry *nf_pack_set_find(const struct nf_pack_set *s, const struct nf_pack_id *id);
void nf_pack_set_remove(struct nf_pack_set *s, const struct nf_pack_id *id);
/* NULL: no memory. */
struct nf_pack_entry *nf_pack_set_get(struct nf_pack_set *s, const struct nf_pack_id *id);
struct nf_pack_entry *nf_pack_set_first(const struct nf_pack_set *s);
struct nf_pack_entry *nf_pack_set_next(const struct nf_pack_entry *e);

#endif
