/* pagecache/rangeset.h - a set of bytes as disjoint, non-touching ranges in order.
 * Not thread safe. */
#ifndef NF_PAGECACHE_RANGESET_H
#define NF_PAGECACHE_RANGESET_H

#include "base/avl.h"

#include <stdint.h>

struct nf_rangeset {
	struct nf_avl tree;
	size_t nr;
};

void nf_rangeset_init(struct nf_rangeset *s);
void nf_rangeset_deinit(struct nf_rangeset *s);
void nf_rangeset_add(struct nf_rangeset *s, uint64_t start, uint64_t end);
void nf_rangeset_remove(struct nf_rangeset *s, uint64_t start, uint64_t end);
/* The first range that ends after POS; false: none. */
bool nf_rangeset_next(const struct nf_rangeset *s, uint64_t pos, uint64_t *start, uint64_t *end);
/* One past the last byte; 0 for an empty set. */
uint64_t nf_rangeset_end(const struct nf_rangeset *s);

#endif
