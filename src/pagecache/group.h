/* pagecache/group.h - flush groups: modifications that become visible together.
 *
 *   oldest                                     newest
 *   [closed, being stored] [closed] [closed] [open: takes all new modifications]
 *
 * Numbers ascend from 1.  Only the newest takes modifications, only the oldest is stored. Protected
 * by the lock of the inode. */
#ifndef NF_PAGECACHE_GROUP_H
#define NF_PAGECACHE_GROUP_H

#include "base/list.h"
#include "foliofs/netfs.h"
#include "pagecache/rangeset.h"

struct nf_group {
	struct nf_list link;        /* the inode's groups, oldest first */
	struct nf_list dirty;       /* nf_region.link in D */
	uint64_t number;
	uint64_t least_size_bytes;  /* UINT64_MAX: never truncated */
	uint64_t size_bytes;        /* at closing, and what its last writers made of it */
	uint64_t grown_bytes;       /* what it made the size at least; 0: nothing */
	uint64_t since_ns;          /* first change */
	unsigned nr_writers;        /* admitted, not yet done */
	unsigned nr_requests;       /* that have blocks of it */
	bool closed;
	bool changed;               /* anything at all happened in it */
	bool appended;
	bool page_granular;
	struct nf_rangeset ranges;  /* written and gathered; what is still dirty comes here with its request */
	struct nf_rangeset holes;   /* made zeros and not written since */
};

struct nf_group *nf_group_new(uint64_t number);
/* No region, writer or request may refer to it. */
void nf_group_free(struct nf_group *g);

/* The size grew without data. */
void nf_group_grew(struct nf_group *g, uint64_t size_bytes);
void nf_group_wrote(struct nf_group *g, uint64_t start, uint64_t end);
/* A request has taken what was written there. */
void nf_group_gathered(struct nf_group *g, uint64_t start, uint64_t end);
void nf_group_zeroed(struct nf_group *g, uint64_t start, uint64_t end);
void nf_group_truncated(struct nf_group *g, uint64_t size_bytes);

/* Fills INFO; its arrays are malloc'd and freed by nf_group_info_deinit(). */
int nf_group_info_init(struct nf_group_info *info, const struct nf_group *g);
void nf_group_info_deinit(struct nf_group_info *info);

#endif
