/* foliofs/events.h - the counters, one table.
 *
 * Rows: identifier, area, name, unit, one sentence.  `foliofs stats` and the
 * Prometheus output are generated from it. */
#ifndef FOLIOFS_EVENTS_H
#define FOLIOFS_EVENTS_H

#define NF_COUNTERS(X)                                                                             \
	/* fuse */                                                                                 \
	X(FUSE_CALLS, "fuse", "calls", "calls", "requests received from the kernel")               \
	X(FUSE_DEFERRED, "fuse", "deferred", "calls", "requests that could not be answered at once") \
	X(FUSE_READ_BYTES, "fuse", "read_bytes", "bytes", "bytes given to applications")           \
	X(FUSE_WRITE_BYTES, "fuse", "write_bytes", "bytes", "bytes taken from applications")       \
	X(FUSE_NOTIFY, "fuse", "notifications", "calls", "invalidations sent to the kernel")       \
	/* netfs */                                                                                \
	X(REGION_NEW, "region", "new", "regions", "regions created")                               \
	X(REGION_MERGE, "region", "merge", "regions", "regions merged into a neighbour")           \
	X(REGION_SUPERSEDE, "region", "supersede", "regions", "regions superseded by a later write") \
	X(REGION_SPLIT, "region", "split", "regions", "regions split")                             \
	X(REGION_PEND, "region", "pend", "regions", "writes that had to wait for another region")  \
	X(REGION_REDIRTY, "region", "redirty", "regions", "regions dirtied again by a failed flush") \
	X(REGION_COPY, "region", "copy", "blocks", "downloaded blocks kept for the cache")          \
	X(REGION_BYTES, "region", "bytes", "bytes", "bytes that entered through a region")         \
	X(REGION_ZERO_BYTES, "region", "zero_bytes", "bytes", "bytes that a region made zeros")    \
	X(READ_REQUESTS, "netfs", "read_requests", "requests", "read requests made")               \
	X(READ_HIT_BYTES, "netfs", "read_hit_bytes", "bytes", "bytes read that were in memory")    \
	X(READ_AHEAD_BYTES, "netfs", "read_ahead_bytes", "bytes", "bytes read before asked for")   \
	X(READ_COPIED_BYTES, "netfs", "read_copied_bytes", "bytes", "plaintext copied on its way to the reader, once opened") \
	X(READ_OWN, "netfs", "read_own", "blocks", "blocks read past memory, which was too short for the read") \
	X(READ_FILL, "netfs", "read_fill", "blocks", "blocks read because part of them was written") \
	X(WRITE_REQUESTS, "netfs", "write_requests", "requests", "write requests made")            \
	X(WRITE_RETRY, "netfs", "write_retry", "requests", "write subrequests sent again")         \
	X(WRITE_COPIED_BYTES, "netfs", "write_copied_bytes", "bytes", "plaintext copied on its way to the codec") \
	X(WRITE_STREAM_FAILED, "netfs", "write_stream_failed", "streams", "destinations that did not take a write request") \
	X(BLOCKS_SEALED, "codec", "blocks_sealed", "blocks", "blocks compressed and encrypted")    \
	X(BLOCKS_OPENED, "codec", "blocks_opened", "blocks", "blocks decrypted")                   \
	X(BYTES_SEALED_IN, "codec", "bytes_sealed_in", "bytes", "plaintext bytes sealed")          \
	X(BYTES_SEALED_OUT, "codec", "bytes_sealed_out", "bytes", "sealed bytes produced")         \
	X(BLOCKS_BAD, "codec", "blocks_bad", "blocks", "blocks that did not authenticate")         \
	X(RECLAIM_FOLIOS, "pagecache", "reclaim", "folios", "folios given up for memory")          \
	X(WRITER_THROTTLED, "pagecache", "throttled", "writes", "writes that waited for memory")   \
	/* cache and journal */                                                                    \
	X(CACHE_HIT_BYTES, "cache", "hit_bytes", "bytes", "bytes read from the local cache")       \
	X(CACHE_MISS_BYTES, "cache", "miss_bytes", "bytes", "bytes the local cache did not have")  \
	X(CACHE_STORE_BYTES, "cache", "store_bytes", "bytes", "bytes written to the local cache")  \
	X(CACHE_EVICT_BYTES, "cache", "evict_bytes", "bytes", "bytes evicted from the local cache") \
	X(CACHE_BAD, "cache", "bad", "blocks", "cached blocks that did not authenticate")          \
	X(JOURNAL_RECORDS, "journal", "records", "records", "journal records appended")            \
	X(JOURNAL_BYTES, "journal", "bytes", "bytes", "bytes appended to the journal")             \
	X(JOURNAL_SYNCS, "journal", "syncs", "calls", "fdatasync calls on the journal")            \
	X(SPACE_WAITS, "journal", "space_waits", "calls", "calls that waited for room on the disk") \
	X(SPACE_REFUSED, "journal", "space_refused", "calls", "calls refused for want of room on the disk") \
	/* store */                                                                                \
	X(STORE_GET, "store", "get", "requests", "GET requests")                                   \
	X(STORE_PUT, "store", "put", "requests", "PUT requests")                                   \
	X(STORE_STAT, "store", "stat", "requests", "HEAD requests")                                \
	X(STORE_LIST, "store", "list", "requests", "listings")                                     \
	X(STORE_DELETE, "store", "delete", "requests", "DELETE requests")                          \
	X(STORE_RETRY, "store", "retry", "requests", "requests tried again")                       \
	X(STORE_BYTES_IN, "store", "bytes_in", "bytes", "body bytes received")                     \
	X(STORE_BYTES_OUT, "store", "bytes_out", "bytes", "body bytes sent")                       \
	X(STORE_BAD, "store", "bad", "objects", "objects of the server that did not authenticate") \
	X(LINK_LOST, "store", "link_lost", "times", "the connection to the server was lost or in doubt") \
	/* vault */                                                                                \
	X(COMMITS, "vault", "commits", "commits", "heads written and confirmed")                   \
	X(EARLY_BYTES, "vault", "early_bytes", "bytes", "sealed bytes sent before the commit that wanted them") \
	X(EARLY_WASTED_BYTES, "vault", "early_wasted_bytes", "bytes", "of these, what no commit named") \
	X(LOOKS, "vault", "looks", "looks", "listings of heads")                                   \
	X(FORKS_SEEN, "vault", "forks_seen", "forks", "looks that found more than one leaf")       \
	X(MERGES, "vault", "merges", "merges", "merges made")                                      \
	X(CONFLICTS, "vault", "conflicts", "objects", "objects both sides had changed")            \
	X(MAPPED_SAME_BYTES, "vault", "mapped_same_bytes", "bytes", "bytes of mapped pages nobody had changed") \
	X(UNLINE_BYTES, "vault", "unline_bytes", "bytes", "bytes written again as a small file grew") \
	X(CLONE_BYTES, "vault", "clone_bytes", "bytes", "bytes copied by reference")               \
	X(CLONE_LEAF_REFS, "vault", "clone_leaf_refs", "windows", "windows copied by naming the leaf that has them") \
	X(NODES_READ, "vault", "nodes_read", "nodes", "tree nodes decoded")                        \
	X(NODES_WRITTEN, "vault", "nodes_written", "nodes", "tree nodes sealed")                   \
	X(RESTARTS, "vault", "restarts", "calls", "calls started again after a missing node came")

enum nf_counter {
#define X(id, area, name, unit, text) NF_C_##id,
	NF_COUNTERS(X)
#undef X
	NF_COUNTER_NR
};

#endif
