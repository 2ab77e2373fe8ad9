/* store/curl_loop.h - one thread that owns a curl multi handle.
 *
 *   submit --> incoming --> queue[priority] --> active (an easy handle each) --> finished()
 *                                ^                                                   |
 *                                +------------- sleeping (retry timer) <--- again() -+
 *
 * At most `connections` transfers are active; BACKGROUND starts only while at
 * least two connections stay free of it.  All callbacks run on the loop's thread
 * with no lock held. */
#ifndef NF_STORE_CURL_LOOP_H
#define NF_STORE_CURL_LOOP_H

#include "foliofs/store.h"

#include "base/list.h"

#include <curl/curl.h>

struct nf_curl_loop;

struct nf_xfer {
	/* Set by the owner before submit. */
	enum nf_store_priority priority;
	uint32_t timeout_ms; /* without progress */
	/* Sets the options of this transfer on EASY, which has those of the last one
	 * that used it.  Negative: finished() is called with it. */
	int (*start)(struct nf_xfer *x, CURL *easy);
	/* The transfer ended.  WHY is 0 (then CODE is curl's word; x->easy may still
	 * be asked), -NF_E_TIMEOUT, -NF_E_CANCELLED or what start returned.  The owner
	 * calls nf_curl_loop_again() or forgets X (and may free it). */
	void (*finished)(struct nf_xfer *x, CURLcode code, int why);

	/* The loop's. */
	struct nf_curl_loop *loop;
	struct nf_list link;
	_Atomic bool cancelled;
	bool started; /* at least once */
	bool sleeping;
	uint64_t wake_ns;
	CURL *easy; /* NULL: not active */
	uint64_t progress_ns;
	curl_off_t moved_bytes;
	bool paused;
	bool again;
};

/* Options of every easy handle that do not change; called once for each. */
typedef int (*nf_curl_setup_fn)(CURL *easy, void *ctx);

int nf_curl_loop_new(unsigned connections, uint64_t up_bytes_per_s, uint64_t down_bytes_per_s,
		     nf_curl_setup_fn setup, void *ctx, struct nf_curl_loop **out);
/* Waits until no transfer is left.  NULL allowed. */
void nf_curl_loop_free(struct nf_curl_loop *l);
void nf_curl_loop_submit(struct nf_curl_loop *l, struct nf_xfer *x);
/* X must be the loop's still (its finished() has not given it up). */
void nf_curl_loop_cancel(struct nf_curl_loop *l, struct nf_xfer *x);

/* From finished(): X runs again after DELAY_NS; 0 puts it first in its queue. */
void nf_curl_loop_again(struct nf_xfer *x, uint64_t delay_ns);
/* From a body callback: how many of WANT bytes the bandwidth limit lets through
 * now.  0: return CURL_*FUNC_PAUSE; the loop goes on with it when it may. */
size_t nf_curl_loop_allow_up(struct nf_xfer *x, size_t want);
/* Whether a received piece of LEN bytes may be taken (all of it) now. */
bool nf_curl_loop_allow_down(struct nf_xfer *x, size_t len);

#endif
