/* base/trace.h - the ring of recent events, and the log.
 *
 * nf_trace(AREA, fmt, ...) records one line, "key=value", lower case, when the
 * area is switched on, in a ring that is printed when an assertion fails and
 * read by `foliofs trace`.  nf_log() writes for the user, once per thing that
 * happened: only sync/, fuse/, daemon/ and cli/ log; lower layers return errors. */
#ifndef NF_BASE_TRACE_H
#define NF_BASE_TRACE_H

#include "base/text.h"

#include <stdint.h>

#define NF_AREAS(X)                                                                                \
	X(FUSE, "fuse")                                                                            \
	X(REGION, "region")                                                                        \
	X(REQ, "req")                                                                              \
	X(FOLIO, "folio")                                                                          \
	X(CACHE, "cache")                                                                          \
	X(JOURNAL, "journal")                                                                      \
	X(STORE, "store")                                                                          \
	X(TREE, "tree")                                                                            \
	X(COMMIT, "commit")                                                                        \
	X(SYNC, "sync")

enum nf_area {
#define X(id, name) NF_AREA_##id,
	NF_AREAS(X)
#undef X
	NF_AREA_NR
};

extern _Atomic uint32_t nf_trace_mask;

void nf_trace_at(enum nf_area area, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define nf_trace(area, ...)                                                                        \
	do {                                                                                       \
		if (nf_trace_mask & 1u << NF_AREA_##area)                                          \
			nf_trace_at(NF_AREA_##area, __VA_ARGS__);                                  \
	} while (0)

/* "req,journal,-store" or "all"; -NF_E_OPTION for an unknown name. */
int nf_trace_set(const char *spec);
/* Events with a number above *SINCE, oldest first; *SINCE becomes the last one's. */
void nf_trace_read(struct nf_text *t, uint64_t *since);

enum nf_log_level { NF_LOG_ERROR, NF_LOG_WARN, NF_LOG_INFO, NF_LOG_DEBUG };
/* To standard error until nf_log_to(); LEVEL above the set one is dropped. */
void nf_log(enum nf_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void nf_log_set(enum nf_log_level level);
/* FD borrowed until changed; -1: nowhere. */
void nf_log_to(int fd);

#endif
