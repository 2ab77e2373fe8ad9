/* The WebDAV and HTTP store: operations as sequences of exchanges.
 *
 *   GET     GET with Range; HEAD after a 416 that does not give the size
 *   STAT    HEAD, and ASK if that gives no length
 *   LIST    PROPFIND Depth 1
 *   DELETE  DELETE
 *   PUT     MKCOL of the parent if it is not known, up while 409, down again; then
 *           PUT; and both once more after 403, 404, 409 for want of a collection
 *           (nginx says 500 there, after which the name may not be used again:
 *           that is why MKCOL goes first)
 *   probe   ASK (PROPFIND Depth 0) [MKCOL ... ASK]; plain HTTP: HEAD
 *   quota   ASK
 *
 *            +-- again: 401 with Digest, redirect, retry (reads only) --+
 *            v                                                          |
 *   queued -> active -> answered? --no--> broken: SHORT, OFFLINE, UNKNOWN_OUTCOME
 *                           |yes
 *                           +--> next step, or the end
 *
 * A PUT is sent again only after an answer that says it was refused.  All of a
 * job is touched by the loop's thread only, once it is submitted. */
#include "store/address.h"
#include "store/dav_job.h"
#include "store/redirect.h"
#include "store/status.h"

#include "base/clock.h"
#include "base/counter.h"
#include "base/mem.h"

#include <stdio.h>

enum {
	CONNECTIONS = 8,
	RETRIES = 5,
	HOPS_MAX = 5,
	BACKOFF_MS = 100,
	BACKOFF_MAX_MS = 10000,
	QUOTA_TIMEOUT_MS = 5000, /* only for information */
};

static struct nf_dav_job *job_of(struct nf_xfer *x) { return nf_container_of(x, struct nf_dav_job, x); }

/* -- ends -- */

static void job_free(struct nf_dav_job *j)
{
	nf_http_end(&j->http);
	nf_dav_xml_free(j->xml);
	free(j->url);
	free(j->mk_path);
	free(j);
}

void nf_dav_end(struct nf_dav_job *j, int error)
{
	struct nf_store_op *op = j->op;

	if (j->kind == NF_DAV_KIND_PROBE && error == -NF_E_STORE_PROTOCOL)
		error = -NF_E_STORE_NOT_DAV;
	op->server_date_s = j->http.date_s;
	nf_store_finish(op, error);
	/* Kept until done has returned: until then cancel may look at it. */
	job_free(j);
}

void nf_dav_go(struct nf_dav_job *j, enum nf_dav_step step)
{
	j->step = step;
	j->redirected = false;
	j->hops = 0;
	nf_curl_loop_again(&j->x, 0);
}

/* Back from making collections to what was wanted. */
void nf_dav_go_main(struct nf_dav_job *j) { nf_dav_go(j, j->kind == NF_DAV_KIND_OP ? NF_DAV_STEP_MAIN : NF_DAV_STEP_ASK); }

uint64_t nf_dav_backoff_ns(struct nf_dav_job *j, uint32_t try)
{
	uint64_t ms = (uint64_t)BACKOFF_MS << NF_MIN(try, (uint32_t)10);

	ms = NF_MIN(ms, (uint64_t)BACKOFF_MAX_MS);
	return (ms / 2 + nf_prng_below(&j->d->jitter, ms)) * NF_NS_PER_MS;
}

/* Tries a read again if that may help and there is time; else ends with ERROR. */
void nf_dav_retry(struct nf_dav_job *j, int error)
{
	uint64_t delay_ns = nf_dav_backoff_ns(j, j->tries);

	if (j->http.retry_after_s >= 0)
		delay_ns = NF_MAX(delay_ns, (uint64_t)j->http.retry_after_s * NF_NS_PER_S);
	if (j->get.got_bytes) /* it did make progress */
		j->began_ns = nf_clock_ns();
	uint64_t until_ns = j->began_ns + (uint64_t)j->x.timeout_ms * NF_NS_PER_MS;
	if (nf_dav_changes(j) || j->x.cancelled || j->tries >= j->d->retries ||
	    nf_clock_ns() + delay_ns > until_ns) {
		nf_dav_end(j, nf_fail(error));
		return;
	}
	j->tries++;
	nf_count(NF_C_STORE_RETRY, 1);
	nf_curl_loop_again(&j->x, delay_ns);
}

/* For an answer that is an error in itself. */
void nf_dav_end_status(struct nf_dav_job *j)
{
	int error = nf_status_error(j->http.status);

	if (error == -NF_E_STORE_BUSY)
		nf_dav_retry(j, error);
	else
		nf_dav_end(j, nf_fail(error));
}

/* A 401 that asks for Digest only: so does everything from now on. */
static bool wants_digest(struct nf_dav_job *j)
{
	struct nf_http *h = &j->http;

	if (h->status != 401 || h->used_digest || j->auth_tried || !h->asks_digest ||
	    h->asks_basic || (!*j->d->conf.secret->user && !j->d->conf.netrc))
		return false;
	j->auth_tried = true;
	j->d->conf.digest = true;
	return true;
}

static bool is_redirect(const struct nf_dav_job *j)
{
	long s = j->http.status;

	return (s == 301 || s == 302 || s == 307 || s == 308) && *j->http.location &&
	       j->step != NF_DAV_STEP_MKCOL;
}

static void follow(struct nf_dav_job *j)
{
	char *to;
	int r = ++j->hops > HOPS_MAX ? -NF_E_STORE_PROTOCOL
				     : nf_redirect(j->url, j->http.location, &to);

	if (r) {
		nf_dav_end(j, nf_fail(r));
		return;
	}
	free(j->url);
	j->url = to;
	j->redirected = true;
	nf_curl_loop_again(&j->x, 0);
}

/* No whole answer came.  */
static void broken(struct nf_dav_job *j, CURLcode code)
{
	bool sent = nf_http_was_sent(&j->http, j->x.easy);
	int error = nf_http_curl_error(code);

	if (j->http.sink_failed && j->get.enough) {
		nf_dav_end(j, nf_fail(nf_dav_get_end(&j->get)));
	} else if (j->http.sink_failed) {
		bool get = j->op->verb == NF_STORE_GET && j->step == NF_DAV_STEP_MAIN;
		nf_dav_end(j, get ? j->get.error : nf_dav_xml_feed(j->xml, "", 0));
	} else if (nf_dav_changes(j) && j->step == NF_DAV_STEP_MAIN && sent) {
		nf_dav_end(j, nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME));
	} else if (sent && (error == -NF_E_OFFLINE || error == -NF_E_STORE_SHORT)) {
		/* It answered once: a broken connection is worth another try. */
		nf_dav_retry(j, j->http.headers_done ? -NF_E_STORE_SHORT : error);
	} else {
		nf_dav_end(j, nf_fail(error));
	}
}

static void on_finished(struct nf_xfer *x, CURLcode code, int why)
{
	struct nf_dav_job *j = job_of(x);
	const struct nf_http *h = &j->http;

	nf_http_end(&j->http);
	if (why) {
		bool lost = why == -NF_E_TIMEOUT && nf_dav_changes(j) && j->step == NF_DAV_STEP_MAIN &&
			    nf_http_was_sent(h, x->easy);
		nf_dav_end(j, nf_fail(lost ? -NF_E_STORE_UNKNOWN_OUTCOME : why));
		return;
	}
	/* A read needs its body; the rest is told by the status. */
	if (!h->headers_done || (code && h->status / 100 == 2 && !nf_dav_changes(j))) {
		broken(j, code);
		return;
	}
	if (wants_digest(j))
		nf_curl_loop_again(x, 0);
	else if (is_redirect(j))
		follow(j);
	else
		nf_dav_answered(j);
}

/* -- the table -- */

static struct nf_dav *dav_of(struct nf_store *s) { return (struct nf_dav *)s; }

static void submit_kind(struct nf_store *s, struct nf_store_op *op, enum nf_dav_kind kind)
{
	struct nf_dav *d = dav_of(s);
	struct nf_dav_job *j = calloc(1, sizeof *j);

	if (!j) {
		nf_store_finish(op, nf_fail(-ENOMEM));
		return;
	}
	j->d = d;
	j->op = op;
	j->kind = kind;
	j->step = kind == NF_DAV_KIND_OP ? NF_DAV_STEP_MAIN : NF_DAV_STEP_ASK;
	j->x.priority = op->priority;
	j->x.timeout_ms = op->timeout_ms ? op->timeout_ms : d->conf.timeout_ms;
	j->x.start = nf_dav_on_start;
	j->x.finished = on_finished;
	op->priv[0] = j;
	nf_curl_loop_submit(d->loop, &j->x);
}

static void dav_submit(struct nf_store *s, struct nf_store_op *op)
{
	submit_kind(s, op, NF_DAV_KIND_OP);
}

static void submit_probe(struct nf_store *s, struct nf_store_op *op)
{
	submit_kind(s, op, NF_DAV_KIND_PROBE);
}

static void submit_quota(struct nf_store *s, struct nf_store_op *op)
{
	submit_kind(s, op, NF_DAV_KIND_QUOTA);
}

static void dav_cancel(struct nf_store *s, struct nf_store_op *op)
{
	struct nf_dav_job *j = op->priv[0];

	nf_curl_loop_cancel(dav_of(s)->loop, &j->x);
}

static int dav_probe(struct nf_store *s)
{
	struct nf_store_op op = { .verb = NF_STORE_STAT };

	return nf_fail(nf_store_wait(s, &op, submit_probe));
}

static int dav_quota(struct nf_store *s, uint64_t *used_bytes, uint64_t *free_bytes)
{
	struct nf_dav_props props;
	struct nf_store_op op = { .verb = NF_STORE_STAT, .timeout_ms = QUOTA_TIMEOUT_MS, .buf = &props };

	if (!dav_of(s)->is_dav)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	int r = nf_store_wait(s, &op, submit_quota);
	if (r)
		return nf_fail(r);
	/* Both or nothing: some servers answer only with what is used. */
	if (props.quota_free_bytes == UINT64_MAX || props.quota_used_bytes == UINT64_MAX)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	*used_bytes = props.quota_used_bytes;
	*free_bytes = props.quota_free_bytes;
	return 0;
}

static void dav_free(struct nf_store *s)
{
	struct nf_dav *d = dav_of(s);

	nf_curl_loop_free(d->loop);
	nf_http_conf_deinit(&d->conf);
	nf_known_deinit(&d->known);
	free(d->origin);
	free(d->path);
	free(d->base.text);
	free(d);
}

static const struct nf_store_ops dav_ops = {
	.name = "dav",
	.submit = dav_submit,
	.cancel = dav_cancel,
	.free = dav_free,
	.quota = dav_quota,
	.probe = dav_probe,
};

static const struct nf_store_ops http_ops = {
	.name = "http",
	.submit = dav_submit,
	.cancel = dav_cancel,
	.free = dav_free,
	.quota = dav_quota,
	.probe = dav_probe,
};

int nf_store_dav_new(const struct nf_address *a, const struct nf_store_options *opt, bool create,
		     struct nf_store **out)
{
	struct nf_dav *d = calloc(1, sizeof *d);
	uint64_t seed;
	int r = -ENOMEM;

	if (!d)
		return nf_fail(-ENOMEM);
	d->base.ops = a->dav ? &dav_ops : &http_ops;
	d->base.max_put_bytes = INT64_MAX;
	d->base.read_only = d->base.no_list = !a->dav;
	d->is_dav = a->dav;
	d->create = create;
	d->retries = opt->retries ? opt->retries : RETRIES;
	nf_random(&seed, sizeof seed);
	nf_prng_seed(&d->jitter, seed);
	d->origin = nf_address_origin(a);
	d->path = strdup(a->path);
	d->base.text = nf_address_text(a);
	if (!d->origin || !d->path || !d->base.text)
		goto fail;
	r = nf_http_conf_init(&d->conf, opt, opt->user ? opt->user : a->user,
			      opt->password ? opt->password : a->password, nf_address_loopback(a));
	r = r ? r
	      : nf_curl_loop_new(opt->connections ? opt->connections : CONNECTIONS,
				 opt->bwlimit_up_bytes, opt->bwlimit_down_bytes, nf_http_setup,
				 &d->conf, &d->loop);
	if (r)
		goto fail;
	*out = &d->base;
	return 0;
fail:
	dav_free(&d->base);
	return nf_fail(r);
}
