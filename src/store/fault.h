/* store/fault.h - a filter that makes a good store a bad one.
 *
 * RULES is a list joined by '&'; PROB is a decimal from 0 to 1:
 *
 *   seed=N            of the generator; the same operations in the same order
 *                     meet the same faults
 *   delay=MS          each answer comes that much later (in parallel)
 *   rate=BYTES        per second, shared by all bodies
 *   offline           from the start; see nf_store_fault_set_offline()
 *   cut=UP:DOWN       from now on the link is up for at most UP ms and down for at most DOWN ms, by turns, for times
 *                     drawn by the seed.  Of three cuts two break off what is under way and refuse what comes; the
 *                     third is silent: whoever waits hears nothing before it is over, then that nothing came through
 *   hold=PATTERN      operations whose "verb:name" matches (fnmatch) wait, without
 *                     effect, for nf_store_fault_release(); may be repeated
 *   status=CODE:PROB  refused with what this HTTP status means; no effect
 *   drop=PROB         -NF_E_OFFLINE, no effect
 *   torn=PROB         GET: -NF_E_STORE_SHORT, half of the bytes moved
 *   flip=PROB         GET: one bit is wrong, success
 *   tornput=PROB      PUT: half of the body is stored, -NF_E_STORE_UNKNOWN_OUTCOME
 *   lostreply=PROB    PUT, DELETE: takes effect, -NF_E_STORE_UNKNOWN_OUTCOME;
 *                     others: -NF_E_STORE_SHORT
 *   late=MS:PROB      the answer comes MS later
 *   verbs=get+put     all rules but offline and rate are for these verbs only
 *   name=PREFIX       ... and for names that begin so; may be repeated
 *
 * A store that goes offline loses the answers under way: reads end with
 * -NF_E_OFFLINE, PUT and DELETE that were passed on with _UNKNOWN_OUTCOME.
 *
 * Operations are passed to the store below at once; only their ends are
 * delayed, so nothing is serialised.  `done` is called on the filter's thread.
 * All calls may be made at any time from any thread. */
#ifndef NF_STORE_FAULT_H
#define NF_STORE_FAULT_H

#include "foliofs/store.h"

struct nf_store_fault_counts {
	uint64_t seen[NF_STORE_VERB_NR];
	uint64_t passed[NF_STORE_VERB_NR]; /* reached the store below */
	uint64_t refused;                  /* by status= */
	uint64_t dropped;                  /* by drop= and offline */
	uint64_t torn;                     /* torn=, tornput= */
	uint64_t flipped;
	uint64_t lost; /* lostreply=, and answers lost by going offline */
	uint64_t late;
	uint64_t held;
	uint64_t cuts;
};

/* Takes BELOW on success: freeing the filter frees it.  -NF_E_OPTION for rules
 * that are not understood. */
int nf_store_fault_new(struct nf_store *below, const char *rules, struct nf_store **out);
bool nf_store_is_fault(const struct nf_store *s);

/* The calls below are for a store for which nf_store_is_fault() holds. */

/* Replaces all rules; what is held stays held.  The generator starts again. */
int nf_store_fault_set(struct nf_store *s, const char *rules);
void nf_store_fault_set_offline(struct nf_store *s, bool offline);
bool nf_store_fault_offline(struct nf_store *s);
/* Adds a hold rule. */
int nf_store_fault_hold(struct nf_store *s, const char *pattern);
/* Drops the hold rules and lets what is held go on, oldest first; how many. */
size_t nf_store_fault_release(struct nf_store *s);
/* Lets the oldest held operation go on; the rules stay.  False: none is held. */
bool nf_store_fault_release_one(struct nf_store *s);
/* How many are held now. */
size_t nf_store_fault_held(struct nf_store *s);
void nf_store_fault_counts(struct nf_store *s, struct nf_store_fault_counts *out);

#endif
