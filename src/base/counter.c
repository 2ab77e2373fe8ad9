#include "base/counter.h"

#include <stdatomic.h>

struct row {
	const char *area;
	const char *name;
	const char *unit;
	const char *text;
};

static const struct row rows[NF_COUNTER_NR] = {
#define X(id, area, name, unit, text) { area, name, unit, text },
	NF_COUNTERS(X)
#undef X
};

static _Atomic uint64_t values[NF_COUNTER_NR];

void nf_count(enum nf_counter c, uint64_t n)
{
	atomic_fetch_add_explicit(&values[c], n, memory_order_relaxed);
}

uint64_t nf_counter_get(enum nf_counter c)
{
	return atomic_load_explicit(&values[c], memory_order_relaxed);
}

const char *nf_counter_name(enum nf_counter c) { return rows[c].name; }

void nf_counters_to_text(struct nf_text *t, int all)
{
	for (int i = 0; i < NF_COUNTER_NR; i++) {
		uint64_t v = nf_counter_get((enum nf_counter)i);
		if (v || all)
			nf_textf(t, "%s.%s %llu %s\n", rows[i].area, rows[i].name,
				 (unsigned long long)v, rows[i].unit);
	}
}

void nf_counters_to_prometheus(struct nf_text *t)
{
	for (int i = 0; i < NF_COUNTER_NR; i++) {
		const struct row *r = &rows[i];
		nf_textf(t, "# HELP foliofs_%s_%s_total %s (%s)\n", r->area, r->name, r->text,
			 r->unit);
		nf_textf(t, "# TYPE foliofs_%s_%s_total counter\n", r->area, r->name);
		nf_textf(t, "foliofs_%s_%s_total %llu\n", r->area, r->name,
			 (unsigned long long)nf_counter_get((enum nf_counter)i));
	}
}
