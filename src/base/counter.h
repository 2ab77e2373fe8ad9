/* base/counter.h - process-wide counters, from one table (include/foliofs/events.h).
 * Adding is a relaxed atomic add; reading is a snapshot without order. */
#ifndef NF_BASE_COUNTER_H
#define NF_BASE_COUNTER_H

#include "base/text.h"
#include "foliofs/events.h"

#include <stdint.h>

void nf_count(enum nf_counter c, uint64_t n);
uint64_t nf_counter_get(enum nf_counter c);
const char *nf_counter_name(enum nf_counter c);
/* One "area.name value unit" line per counter that is not zero (all: with ALL). */
void nf_counters_to_text(struct nf_text *t, int all);
/* Prometheus text format. */
void nf_counters_to_prometheus(struct nf_text *t);

#endif
