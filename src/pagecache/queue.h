/* pagecache/queue.h - the writers of an inode by where they write: regions in P, R and A.
 *
 *   reserved   |--1--|  |-----2-----|      an interval tree by (reserved start, arrival), with the greatest
 *                 |---3---|     |-4-|      reserved end of each subtree
 *
 * Who came earlier has the smaller `arrival`.  Protected by the lock of the inode. */
#ifndef NF_PAGECACHE_QUEUE_H
#define NF_PAGECACHE_QUEUE_H

#include "pagecache/region.h"

struct nf_region_queue {
	struct nf_avl tree;
	uint64_t arrivals;
	size_t nr;
};

void nf_queue_init(struct nf_region_queue *q);
/* Gives RG its place in line. */
void nf_queue_add(struct nf_region_queue *q, struct nf_region *rg);
void nf_queue_remove(struct nf_region_queue *q, struct nf_region *rg);
/* RG, in the queue, reserves another range; its place in line stays. */
void nf_queue_move(struct nf_region_queue *q, struct nf_region *rg, uint64_t start, uint64_t end);

/* The first, by start, of those whose reserved range meets [start, end) for which MATCH says true; NULL: none. */
struct nf_region *nf_queue_find(const struct nf_region_queue *q, uint64_t start, uint64_t end,
				bool (*match)(const struct nf_region *rg, const void *ctx),
				const void *ctx);
/* Asserts the order and what is cached. */
void nf_queue_check(const struct nf_region_queue *q);

#endif
