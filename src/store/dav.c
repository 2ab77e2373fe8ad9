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
#include "store/dav_get.h"
#include "store/dav_xml.h"
#include "store/http.h"
#include "store/redirect.h"
#include "store/status.h"
#include "store/types.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/mem.h"
#include "base/random.h"

#include <stdio.h>

enum {
	CONNECTIONS = 8,
	RETRIES = 5,
	HOPS_MAX = 5,
	/* MKCOLs of one operation, up and down. */
	MKCOLS_MAX = 64,
	BACKOFF_MS = 100,
	BACKOFF_MAX_MS = 10000,
};

/* I set before publication;  T the loop's thread only */
struct dav {
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

enum kind { KIND_OP, KIND_PROBE, KIND_QUOTA };
enum step { STEP_MAIN, STEP_MKCOL, STEP_ASK };

struct job {
	struct nf_xfer x;
	struct nf_http http;
	struct dav *d;
	struct nf_store_op *op;
	enum kind kind;
	enum step step;
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
	bool mk_done, mk_first;
};

static const char list_xml[] =
	"<?xml version=\"1.0\" encoding=\"utf-8\"?>"
	"<D:propfind xmlns:D=\"DAV:\"><D:prop><D:resourcetype/><D:getcontentlength/>"
	"<D:getlastmodified/></D:prop></D:propfind>";
static const char quota_xml[] =
	"<?xml version=\"1.0\" encoding=\"utf-8\"?>"
	"<D:propfind xmlns:D=\"DAV:\"><D:prop><D:resourcetype/><D:quota-available-bytes/>"
	"<D:quota-used-bytes/></D:prop></D:propfind>";

static struct job *job_of(struct nf_xfer *x) { return nf_container_of(x, struct job, x); }

static bool changes(const struct job *j)
{
	return j->kind == KIND_OP &&
	       (j->op->verb == NF_STORE_PUT || j->op->verb == NF_STORE_DELETE);
}

/* A GET of nothing asks for the size only. */
static bool asks_size(const struct job *j)
{
	return j->size_only || j->op->verb == NF_STORE_STAT ||
	       (j->op->verb == NF_STORE_GET && j->op->length_bytes == 0);
}

/* -- ends -- */

static void job_free(struct job *j)
{
	nf_http_end(&j->http);
	nf_dav_xml_free(j->xml);
	free(j->url);
	free(j->mk_path);
	free(j);
}

static void end(struct job *j, int error)
{
	struct nf_store_op *op = j->op;

	if (j->kind == KIND_PROBE && error == -NF_E_STORE_PROTOCOL)
		error = -NF_E_STORE_NOT_DAV;
	op->server_date_s = j->http.date_s;
	nf_store_finish(op, error);
	/* Kept until done has returned: until then cancel may look at it. */
	job_free(j);
}

static void go(struct job *j, enum step step)
{
	j->step = step;
	j->redirected = false;
	j->hops = 0;
	nf_curl_loop_again(&j->x, 0);
}

/* Back from making collections to what was wanted. */
static void go_main(struct job *j) { go(j, j->kind == KIND_OP ? STEP_MAIN : STEP_ASK); }

static uint64_t backoff_ns(struct job *j)
{
	uint64_t ms = (uint64_t)BACKOFF_MS << NF_MIN(j->tries, (uint32_t)10);

	ms = NF_MIN(ms, (uint64_t)BACKOFF_MAX_MS);
	return (ms / 2 + nf_prng_below(&j->d->jitter, ms)) * NF_NS_PER_MS;
}

/* Tries a read again if that may help and there is time; else ends with ERROR. */
static void retry(struct job *j, int error)
{
	uint64_t delay_ns = backoff_ns(j);

	if (j->http.retry_after_s >= 0)
		delay_ns = NF_MAX(delay_ns, (uint64_t)j->http.retry_after_s * NF_NS_PER_S);
	if (j->get.got_bytes) /* it did make progress */
		j->began_ns = nf_clock_ns();
	uint64_t until_ns = j->began_ns + (uint64_t)j->x.timeout_ms * NF_NS_PER_MS;
	if (changes(j) || j->x.cancelled || j->tries >= j->d->retries ||
	    nf_clock_ns() + delay_ns > until_ns) {
		end(j, nf_fail(error));
		return;
	}
	j->tries++;
	nf_count(NF_C_STORE_RETRY, 1);
	nf_curl_loop_again(&j->x, delay_ns);
}

/* For an answer that is an error in itself. */
static void end_status(struct job *j)
{
	int error = nf_status_error(j->http.status);

	if (error == -NF_E_STORE_BUSY)
		retry(j, error);
	else
		end(j, nf_fail(error));
}

/* -- starts -- */

static int set_url(struct job *j, const char *name, const char *tail)
{
	struct dav *d = j->d;

	if (j->redirected)
		return 0;
	free(j->url);
	if (asprintf(&j->url, "%s%s%s%s", d->origin, d->path, name, tail) < 0) {
		j->url = NULL;
		return nf_fail(-ENOMEM);
	}
	return 0;
}

static int xml_sink(void *ctx, const void *p, size_t len)
{
	struct job *j = ctx;

	/* Only a 207 is ours to read. */
	return j->http.status == 207 ? nf_dav_xml_feed(j->xml, p, len) : 0;
}

static int start_propfind(struct job *j, const char *depth, const char *body)
{
	struct nf_http *h = &j->http;
	nf_auto_free char *path = NULL;

	nf_dav_xml_free(j->xml);
	j->xml = NULL;
	if (asprintf(&path, "%s%s", j->d->path, j->op->name) < 0) {
		path = NULL;
		return nf_fail(-ENOMEM);
	}
	h->method = "PROPFIND";
	h->depth = depth;
	h->xml = body;
	h->sink = xml_sink;
	h->ctx = j;
	return nf_fail(nf_dav_xml_new(path, &j->xml));
}

static int start_get(struct job *j)
{
	struct nf_store_op *op = j->op;
	struct nf_http *h = &j->http;

	nf_dav_get_init(&j->get, op, h);
	h->method = "GET";
	h->range = true;
	h->range_first = op->offset_bytes;
	if (__builtin_add_overflow(op->offset_bytes, op->length_bytes - 1, &h->range_last))
		return nf_fail(-EINVAL);
	h->sink = nf_dav_get_sink;
	h->ctx = &j->get;
	return nf_fail(set_url(j, op->name, ""));
}

static int start_main(struct job *j)
{
	struct nf_store_op *op = j->op;
	struct nf_http *h = &j->http;

	if (asks_size(j)) {
		h->method = "HEAD";
		h->head = true;
		return nf_fail(set_url(j, op->name, ""));
	}
	switch (op->verb) {
	case NF_STORE_GET:
		return nf_fail(start_get(j));
	case NF_STORE_PUT:
		h->method = "PUT";
		h->put = true;
		h->iov = op->iov;
		h->nr_iov = op->nr_iov;
		h->put_bytes = op->length_bytes;
		return nf_fail(set_url(j, op->name, ""));
	case NF_STORE_LIST: {
		int r = start_propfind(j, "1", list_xml);
		return nf_fail(r ? r : set_url(j, op->name, *op->name ? "/" : ""));
	}
	case NF_STORE_DELETE:
		h->method = "DELETE";
		return nf_fail(set_url(j, op->name, ""));
	case NF_STORE_STAT:
	case NF_STORE_VERB_NR:
		break;
	}
	return nf_fail(-EINVAL);
}

static int start_ask(struct job *j)
{
	if (j->kind == KIND_PROBE && !j->d->is_dav) {
		j->http.method = "HEAD";
		j->http.head = true;
		return nf_fail(set_url(j, "", ""));
	}
	int r = start_propfind(j, "0", j->kind == KIND_QUOTA ? quota_xml : list_xml);
	return nf_fail(r ? r : set_url(j, j->op->name, ""));
}

static int start_mkcol(struct job *j)
{
	j->http.method = "MKCOL";
	free(j->url);
	if (asprintf(&j->url, "%s%.*s", j->d->origin, (int)j->mk_len, j->mk_path) < 0) {
		j->url = NULL;
		return nf_fail(-ENOMEM);
	}
	return 0;
}

/* -- making collections -- */

/* Prepares MKCOL for what lies above NAME's last part; false: nothing does. */
static bool mkcol_prepare(struct job *j, const char *name)
{
	const char *slash = strrchr(name, '/');

	if (!slash)
		return false;
	if (asprintf(&j->mk_path, "%s%.*s", j->d->path, (int)(slash + 1 - name), name) < 0) {
		j->mk_path = NULL;
		return false;
	}
	j->mk_floor = strlen(j->d->path);
	j->mk_len = j->mk_full = strlen(j->mk_path);
	return true;
}

static bool parent_known(const struct job *j)
{
	size_t base = strlen(j->d->path);
	const char *slash = strrchr(j->op->name, '/');
	nf_auto_free char *key = NULL;

	if (!slash)
		return true;
	int n = asprintf(&key, "%s%.*s", j->d->path, (int)(slash + 1 - j->op->name), j->op->name);
	if (n < 0) {
		key = NULL;
		return false;
	}
	NF_ASSERT((size_t)n > base);
	return nf_known_has(&j->d->known, key, (size_t)n);
}

static bool mkcol_up(struct job *j)
{
	size_t len = j->mk_len - 1;

	while (len > j->mk_floor && j->mk_path[len - 1] != '/')
		len--;
	if (len <= j->mk_floor)
		return false;
	j->mk_len = len;
	return true;
}

static void mkcol_down(struct job *j)
{
	const char *slash = strchr(j->mk_path + j->mk_len, '/');

	NF_ASSERT(slash);
	j->mk_len = (size_t)(slash + 1 - j->mk_path);
}

static void answered_mkcol(struct job *j)
{
	long status = j->http.status;
	int error = status == 409 || status == 404 ? -NF_E_STORE_NOT_FOUND : nf_status_error(status);

	/* 405, or a redirect to itself: it is there. */
	if (status / 100 == 2 || status == 405 || status == 301 || status == 302 || status == 308) {
		nf_known_add(&j->d->known, j->mk_path, j->mk_len);
		if (j->mk_len == j->mk_full) {
			j->mk_done = true;
			go_main(j);
			return;
		}
		mkcol_down(j);
		error = 0;
	} else if (error == -NF_E_STORE_NOT_FOUND && mkcol_up(j)) {
		error = 0;
	}
	if (!error && ++j->mk_count > MKCOLS_MAX)
		error = -NF_E_STORE_PROTOCOL;
	if (!error) {
		go(j, STEP_MKCOL);
	} else if (j->mk_first) {
		/* It was only a precaution: let the PUT itself say. */
		j->mk_done = true;
		go_main(j);
	} else {
		end(j, nf_fail(error));
	}
}

/* A PUT into a collection we have not seen begins with making it. */
static void make_parent_first(struct job *j)
{
	if (j->kind != KIND_OP || j->op->verb != NF_STORE_PUT || j->step != STEP_MAIN ||
	    j->mk_done || j->mk_first || parent_known(j) || !mkcol_prepare(j, j->op->name))
		return;
	j->mk_first = true;
	j->step = STEP_MKCOL;
}

static int on_start(struct nf_xfer *x, CURL *easy)
{
	struct job *j = job_of(x);
	int r;

	make_parent_first(j);
	if (!j->began_ns)
		j->began_ns = nf_clock_ns();
	j->http = (struct nf_http){ .conf = &j->d->conf };
	if (j->step == STEP_MKCOL)
		r = start_mkcol(j);
	else
		r = j->step == STEP_ASK ? start_ask(j) : start_main(j);
	j->http.url = j->url;
	return nf_fail(r ? r : nf_http_start(&j->http, x, easy));
}

/* -- answers -- */

static void answered_put(struct job *j)
{
	struct dav *d = j->d;
	const char *name = j->op->name;
	const char *slash = strrchr(name, '/');
	long status = j->http.status;

	if (status == 200 || status == 201 || status == 204) {
		if (!parent_known(j) && (j->mk_path || mkcol_prepare(j, name)))
			nf_known_add(&d->known, j->mk_path, j->mk_full);
		end(j, 0);
		return;
	}
	if (status / 100 == 2) { /* "accepted" is no answer */
		end(j, nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME));
		return;
	}
	if (status == 413)
		nf_store_lower_max_put(&d->base, j->op->length_bytes);
	bool no_parent = status == 404 || status == 409 || (status == 403 && !parent_known(j));
	if (no_parent && slash && (!j->mk_done || j->mk_first)) {
		nf_known_deinit(&d->known);
		j->mk_first = false;
		if (j->mk_path)
			j->mk_len = j->mk_full;
		if (j->mk_path || mkcol_prepare(j, name)) {
			go(j, STEP_MKCOL);
			return;
		}
	}
	if (status >= 500) /* the next PUT looks again */
		nf_known_deinit(&d->known);
	if (status == 409)
		end(j, nf_fail(-NF_E_STORE_NOT_FOUND));
	else
		end_status(j);
}

static void answered_delete(struct job *j)
{
	switch (j->http.status) {
	case 200:
	case 204:
	case 404:
	case 410:
		end(j, 0);
		return;
	case 202:
		end(j, nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME));
		return;
	default:
		end_status(j);
	}
}

static void answered_get(struct job *j)
{
	if (j->http.status / 100 != 2 && j->http.status != 416) {
		end_status(j);
		return;
	}
	int r = nf_dav_get_end(&j->get);
	if (r == NF_DAV_GET_ASK_SIZE) {
		j->size_only = true;
		go(j, STEP_MAIN);
		return;
	}
	end(j, nf_fail(r));
}

/* The size came by itself: an end of a GET only if nothing of it was asked for. */
static void end_size(struct job *j, uint64_t size_bytes)
{
	size_t n;
	int r = nf_store_clip(j->op, size_bytes, &n);

	if (!r && j->size_only && n)
		r = -NF_E_STORE_PROTOCOL;
	end(j, nf_fail(r));
}

static void answered_size(struct job *j)
{
	const struct nf_http *h = &j->http;

	if (h->status / 100 == 2 && h->length_bytes >= 0 && !h->encoded) {
		end_size(j, (uint64_t)h->length_bytes);
	} else if (j->d->is_dav &&
		   (h->status / 100 == 2 || h->status == 405 || h->status == 501)) {
		go(j, STEP_ASK);
	} else {
		end_status(j);
	}
}

static void answered_list(struct job *j)
{
	struct nf_dav_props self;
	struct nf_entries children = { 0 };

	if (j->http.status != 207) {
		if (j->http.status / 100 == 2)
			end(j, nf_fail(-NF_E_STORE_NOT_DAV));
		else
			end_status(j);
		return;
	}
	int r = nf_dav_xml_end(j->xml, &self, &children);
	if (!r && !self.is_dir)
		r = -NF_E_STORE_NOT_FOUND;
	if (!r)
		nf_entries_give(&children, j->op);
	nf_entries_deinit(&children);
	end(j, nf_fail(r));
}

static void asked_op(struct job *j, const struct nf_dav_props *self)
{
	if (self->is_dir)
		end(j, nf_fail(-NF_E_STORE_NOT_FOUND));
	else if (self->size_bytes == UINT64_MAX)
		end(j, nf_fail(-NF_E_STORE_PROTOCOL));
	else
		end_size(j, self->size_bytes);
}

/* Without DAV an address need not name anything by itself. */
static void answered_http_probe(struct job *j)
{
	long status = j->http.status;

	if (status == 401 || status == 407 || status >= 500)
		end_status(j);
	else
		end(j, 0);
}

static void answered_ask(struct job *j)
{
	struct dav *d = j->d;
	struct nf_dav_props self;
	long status = j->http.status;

	if (j->kind == KIND_PROBE && !d->is_dav) {
		answered_http_probe(j);
		return;
	}
	if (j->kind == KIND_PROBE && (status == 404 || status == 409) && d->create && !j->mk_done &&
	    strlen(d->path) > 1) {
		j->mk_path = strdup(d->path);
		if (!j->mk_path) {
			end(j, nf_fail(-ENOMEM));
			return;
		}
		j->mk_floor = 1;
		j->mk_len = j->mk_full = strlen(d->path);
		go(j, STEP_MKCOL);
		return;
	}
	if (status != 207) {
		if (status / 100 == 2 || status == 400)
			end(j, nf_fail(-NF_E_STORE_NOT_DAV));
		else
			end_status(j);
		return;
	}
	int r = nf_dav_xml_end(j->xml, &self, NULL);
	if (!r && j->kind == KIND_OP) {
		asked_op(j, &self);
		return;
	}
	if (!r && j->kind == KIND_PROBE)
		r = self.is_dir ? 0 : -ENOTDIR;
	else if (!r)
		memcpy(j->op->buf, &self, sizeof self);
	end(j, nf_fail(r));
}

static void answered(struct job *j)
{
	if (j->step == STEP_MKCOL)
		answered_mkcol(j);
	else if (j->step == STEP_ASK)
		answered_ask(j);
	else if (asks_size(j))
		answered_size(j);
	else if (j->op->verb == NF_STORE_GET)
		answered_get(j);
	else if (j->op->verb == NF_STORE_PUT)
		answered_put(j);
	else if (j->op->verb == NF_STORE_LIST)
		answered_list(j);
	else
		answered_delete(j);
}

/* A 401 that asks for Digest only: so does everything from now on. */
static bool wants_digest(struct job *j)
{
	struct nf_http *h = &j->http;

	if (h->status != 401 || h->used_digest || j->auth_tried || !h->asks_digest ||
	    h->asks_basic || (!*j->d->conf.secret->user && !j->d->conf.netrc))
		return false;
	j->auth_tried = true;
	j->d->conf.digest = true;
	return true;
}

static bool is_redirect(const struct job *j)
{
	long s = j->http.status;

	return (s == 301 || s == 302 || s == 307 || s == 308) && *j->http.location &&
	       j->step != STEP_MKCOL;
}

static void follow(struct job *j)
{
	char *to;
	int r = ++j->hops > HOPS_MAX ? -NF_E_STORE_PROTOCOL
				     : nf_redirect(j->url, j->http.location, &to);

	if (r) {
		end(j, nf_fail(r));
		return;
	}
	free(j->url);
	j->url = to;
	j->redirected = true;
	nf_curl_loop_again(&j->x, 0);
}

/* No whole answer came.  */
static void broken(struct job *j, CURLcode code)
{
	bool sent = nf_http_was_sent(&j->http, j->x.easy);
	int error = nf_http_curl_error(code);

	if (j->http.sink_failed && j->get.enough) {
		end(j, nf_fail(nf_dav_get_end(&j->get)));
	} else if (j->http.sink_failed) {
		bool get = j->op->verb == NF_STORE_GET && j->step == STEP_MAIN;
		end(j, get ? j->get.error : nf_dav_xml_feed(j->xml, "", 0));
	} else if (changes(j) && j->step == STEP_MAIN && sent) {
		end(j, nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME));
	} else if (sent && (error == -NF_E_OFFLINE || error == -NF_E_STORE_SHORT)) {
		/* It answered once: a broken connection is worth another try. */
		retry(j, j->http.headers_done ? -NF_E_STORE_SHORT : error);
	} else {
		end(j, nf_fail(error));
	}
}

static void on_finished(struct nf_xfer *x, CURLcode code, int why)
{
	struct job *j = job_of(x);
	const struct nf_http *h = &j->http;

	nf_http_end(&j->http);
	if (why) {
		bool lost = why == -NF_E_TIMEOUT && changes(j) && j->step == STEP_MAIN &&
			    nf_http_was_sent(h, x->easy);
		end(j, nf_fail(lost ? -NF_E_STORE_UNKNOWN_OUTCOME : why));
		return;
	}
	/* A read needs its body; the rest is told by the status. */
	if (!h->headers_done || (code && h->status / 100 == 2 && !changes(j))) {
		broken(j, code);
		return;
	}
	if (wants_digest(j))
		nf_curl_loop_again(x, 0);
	else if (is_redirect(j))
		follow(j);
	else
		answered(j);
}

/* -- the table -- */

static struct dav *dav_of(struct nf_store *s) { return (struct dav *)s; }

static void submit_kind(struct nf_store *s, struct nf_store_op *op, enum kind kind)
{
	struct dav *d = dav_of(s);
	struct job *j = calloc(1, sizeof *j);

	if (!j) {
		nf_store_finish(op, nf_fail(-ENOMEM));
		return;
	}
	j->d = d;
	j->op = op;
	j->kind = kind;
	j->step = kind == KIND_OP ? STEP_MAIN : STEP_ASK;
	j->x.priority = op->priority;
	j->x.timeout_ms = op->timeout_ms ? op->timeout_ms : d->conf.timeout_ms;
	j->x.start = on_start;
	j->x.finished = on_finished;
	op->priv[0] = j;
	nf_curl_loop_submit(d->loop, &j->x);
}

static void dav_submit(struct nf_store *s, struct nf_store_op *op)
{
	submit_kind(s, op, KIND_OP);
}

static void submit_probe(struct nf_store *s, struct nf_store_op *op)
{
	submit_kind(s, op, KIND_PROBE);
}

static void submit_quota(struct nf_store *s, struct nf_store_op *op)
{
	submit_kind(s, op, KIND_QUOTA);
}

static void dav_cancel(struct nf_store *s, struct nf_store_op *op)
{
	struct job *j = op->priv[0];

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
	struct nf_store_op op = { .verb = NF_STORE_STAT, .buf = &props };

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
	struct dav *d = dav_of(s);

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
	struct dav *d = calloc(1, sizeof *d);
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
