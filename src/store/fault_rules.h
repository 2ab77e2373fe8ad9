/* store/fault_rules.h - the rules of a fault filter, parsed; and what they decide. */
#ifndef NF_STORE_FAULT_RULES_H
#define NF_STORE_FAULT_RULES_H

#include "foliofs/store.h"

#include "base/random.h"

enum {
	NF_FAULT_HOLDS_MAX = 16,
	NF_FAULT_NAMES_MAX = 16,
	NF_FAULT_PATTERN_MAX = 160,
	NF_FAULT_STATUS_MAX = 8,
};

/* Probabilities are in units of 2^-32. */
struct nf_fault_rules {
	uint64_t seed;
	uint32_t delay_ms;
	uint64_t rate_bytes; /* per second; 0: none */
	bool offline;
	char holds[NF_FAULT_HOLDS_MAX][NF_FAULT_PATTERN_MAX];
	unsigned nr_holds;
	struct {
		unsigned code;
		uint64_t prob;
	} status[NF_FAULT_STATUS_MAX];
	unsigned nr_status;
	uint64_t drop, torn, flip, tornput, lostreply, late;
	uint32_t late_ms;
	uint32_t up_ms, down_ms; /* of cut=; 0: none */
	uint32_t verbs; /* bit per verb; 0: all */
	char names[NF_FAULT_NAMES_MAX][NF_STORE_NAME_MAX];
	unsigned nr_names;
};

/* What happens to one operation. */
struct nf_fault_plan {
	bool hold, drop, torn, flip, tornput, lostreply, late;
	unsigned status; /* 0: none */
	uint64_t delay_ms;
	uint64_t dice; /* for the place of the damage */
};

/* -NF_E_OPTION. */
int nf_fault_rules_parse(const char *s, struct nf_fault_rules *out);
int nf_fault_rules_hold(struct nf_fault_rules *r, const char *pattern);
const char *nf_store_verb_name(enum nf_store_verb verb);

/* Draws from P the same number of times for every operation, so that changing
 * one probability does not change what the other rules hit. */
void nf_fault_plan(const struct nf_fault_rules *r, struct nf_prng *p, const struct nf_store_op *op,
		   struct nf_fault_plan *plan);

#endif
