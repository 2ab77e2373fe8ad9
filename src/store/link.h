/* store/link.h - is the other side there?  A filter on a store, and the one place that answers.
 *
 *                  the path failed                  the probe answers
 *    CONNECTED ----------------------> PROBING ---------------------------> CONNECTED
 *        ^                                |  the probe fails
 *        |        the probe answers       v
 *        +------------------------- DISCONNECTED    probes after 1, 2, 4 ... 30 s, or sooner when asked
 *
 *    HELD   by command, from any state; released to PROBING
 *
 * CONNECTED, PROBING: operations pass.  DISCONNECTED, HELD: they fail at once with -NF_E_OFFLINE, and those under way are
 * cut off: nobody waits for a server that is not there.  With `wait_ms` reads in the foreground do, for so long after a
 * connection was lost: they are passed down (again) when it is back.  Not where there was none before, nor when HELD.
 *
 * "The path failed": no connection, no progress, certificates, answers that make no sense, 5xx, refused credentials.  One
 * such failure may be that of one object, so it is not believed: a probe (the listing of header/, small and always there)
 * decides.  So a captive portal, a half-open connection and a server that answers 500 to everything are a disconnection,
 * and one file the server cannot read is not.
 *
 * Thread safety: all functions, any thread. */
#ifndef NF_STORE_LINK_H
#define NF_STORE_LINK_H

#include "foliofs/store.h"

enum nf_link_state { NF_LINK_PROBING, NF_LINK_CONNECTED, NF_LINK_DISCONNECTED, NF_LINK_HELD };

struct nf_link_options {
	uint32_t probe_timeout_ms; /* 0: 10,000 */
	uint32_t probe_min_ms;     /* 0: 1,000 */
	uint32_t probe_max_ms;     /* 0: 30,000 */
	uint32_t wait_ms;          /* 0: nobody waits for a connection that was lost */
	bool held;                 /* begin so */
	bool any;                  /* that there is no vault yet is no failure */
};

/* A filter on BELOW, which it takes (freed with it, also when this fails).  Begins PROBING, but makes no request by itself:
 * the first operation or nf_link_wake() starts the probe if it is needed. */
int nf_link_new(struct nf_store *below, const struct nf_link_options *o, struct nf_store **out);

bool nf_store_is_link(const struct nf_store *s);
/* CHANGED is told of every state from now on, on one thread, no lock held; it must not block.  One listener; NULL: none, and
 * the one before is not being told any more. */
void nf_link_listen(struct nf_store *link, void (*changed)(void *ctx, enum nf_link_state s), void *ctx);

struct nf_link_status {
	enum nf_link_state state;
	int last_error;     /* why DISCONNECTED; 0 when connected */
	uint64_t since_ns;  /* of this state, nf_clock_ns() */
	uint64_t probes;
	uint64_t wait_until_ns; /* who waits for the connection that was lost is told then; 0: nobody waits */
	uint64_t upload_bytes_per_s; /* of late, while anything was being sent; 0: not known yet */
};
void nf_link_status(struct nf_store *link, struct nf_link_status *out);
const char *nf_link_state_name(enum nf_link_state s);

/* `foliofs offline|online`.  When it returns from holding, the listener has been told: no lock that he takes may be held. */
void nf_link_hold(struct nf_store *link, bool held);
/* Something suggests that the path is different now: probe (unless HELD). */
void nf_link_wake(struct nf_store *link);
/* Unless CONNECTED or HELD, probes and waits for the result, at most until DEADLINE_NS.  The state then. */
enum nf_link_state nf_link_settle(struct nf_store *link, uint64_t deadline_ns);

#endif
