/* store/dav_job.h - one operation on a WebDAV or HTTP store, on its way.
 *
 *   dav.c         the store; ends, retries, redirects, broken exchanges
 *   dav_start.c   what a step asks
 *   dav_answer.c  what an answer means, and the step that follows
 *
 * All of a job is touched by the loop's thread only, once it is submitted.  A
 * function that ends a job frees it. */
#ifndef NF_STORE_DAV_JOB_H
#define NF_STORE_DAV_JOB_H

#include "store/dav_get.h"
#include "store/dav_xml.h"
#include "store/http.h"
#include "store/types.h"

#include "base/random.h"

/* I set before publication;  T the loop's thread only */
struct nf_dav {
	struct nf_store base;
	struct nf_curl_loop *loop; /* I */
	struct nf_http_conf conf;
	char *origin;         /* I  scheme://host:port */
	char *path;           /* I  of the collection, with both slashes */
	bool is_dav;          /* I */
	bool create;          /* I */
	uint32_t retries;     /* I */
	struct nf_known known; /* T  collections that exist */
	struct nf_prng jitter; /* T */
};

enum nf_dav_kind { NF_DAV_KIND_OP, NF_DAV_KIND_PROBE, NF_DAV_KIND_QUOTA };
enum nf_dav_step { NF_DAV_STEP_MAIN, NF_DAV_STEP_MKCOL, NF_DAV_STEP_ASK };

struct nf_dav_job {
	struct nf_xfer x;
	struct nf_http http;
	struct nf_dav *d;
	struct nf_store_op *op;
	enum nf_dav_kind kind;
	enum nf_dav_step step;
	char *url;
	bool redirected; /* url is where a redirect led */
	unsigned hops;
	bool auth_tried;
	uint32_t tries;
	uint64_t began_ns; /* of this run of attempts */
	struct nf_dav_get get;
	bool size_only; /* GET: a 416 did not say how long the object is */
	struct nf_dav_xml *xml;
	/* MKCOL of mk_path[0, mk_len), not above mk_floor. */
	char *mk_path;
	size_t mk_floor, mk_len, mk_full;
	unsigned mk_count;
	uint32_t mk_again;
	bool mk_done, mk_first;
};

/* A PUT or DELETE of the caller's. */
static inline bool nf_dav_changes(const struct nf_dav_job *j)
{
	return j->kind == NF_DAV_KIND_OP &&
	       (j->op->verb == NF_STORE_PUT || j->op->verb == NF_STORE_DELETE);
}

/* A GET of nothing asks for the size only. */
static inline bool nf_dav_asks_size(const struct nf_dav_job *j)
{
	return j->size_only || j->op->verb == NF_STORE_STAT ||
	       (j->op->verb == NF_STORE_GET && j->op->length_bytes == 0);
}

/* dav.c */
void nf_dav_end(struct nf_dav_job *j, int error);
/* The next exchange is STEP, at once. */
void nf_dav_go(struct nf_dav_job *j, enum nf_dav_step step);
/* Back from making collections to what was wanted. */
void nf_dav_go_main(struct nf_dav_job *j);
/* Before attempt TRY (0: the second) of an exchange: longer each time, with jitter. */
uint64_t nf_dav_backoff_ns(struct nf_dav_job *j, uint32_t try);
/* Tries a read again if that may help and there is time; else ends with ERROR. */
void nf_dav_retry(struct nf_dav_job *j, int error);
/* For an answer that is an error in itself. */
void nf_dav_end_status(struct nf_dav_job *j);

/* dav_start.c */
int nf_dav_on_start(struct nf_xfer *x, CURL *easy);
bool nf_dav_parent_known(const struct nf_dav_job *j);
/* Prepares MKCOL for what lies above NAME's last part; false: nothing does. */
bool nf_dav_mkcol_prepare(struct nf_dav_job *j, const char *name);

/* dav_answer.c */
void nf_dav_answered(struct nf_dav_job *j);

#endif
