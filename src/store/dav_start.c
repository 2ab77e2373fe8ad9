/* What each step of a job asks. */
#include "store/dav_job.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>

static const char list_xml[] =
	"<?xml version=\"1.0\" encoding=\"utf-8\"?>"
	"<D:propfind xmlns:D=\"DAV:\"><D:prop><D:resourcetype/><D:getcontentlength/>"
	"<D:getlastmodified/></D:prop></D:propfind>";
static const char quota_xml[] =
	"<?xml version=\"1.0\" encoding=\"utf-8\"?>"
	"<D:propfind xmlns:D=\"DAV:\"><D:prop><D:resourcetype/><D:quota-available-bytes/>"
	"<D:quota-used-bytes/></D:prop></D:propfind>";

static struct nf_dav_job *job_of(struct nf_xfer *x) { return nf_container_of(x, struct nf_dav_job, x); }

static int set_url(struct nf_dav_job *j, const char *name, const char *tail)
{
	struct nf_dav *d = j->d;

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
	struct nf_dav_job *j = ctx;

	/* Only a 207 is ours to read. */
	return j->http.status == 207 ? nf_dav_xml_feed(j->xml, p, len) : 0;
}

static int start_propfind(struct nf_dav_job *j, const char *depth, const char *body)
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

static int start_get(struct nf_dav_job *j)
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

static int start_main(struct nf_dav_job *j)
{
	struct nf_store_op *op = j->op;
	struct nf_http *h = &j->http;

	if (nf_dav_asks_size(j)) {
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

static int start_ask(struct nf_dav_job *j)
{
	if (j->kind == NF_DAV_KIND_PROBE && !j->d->is_dav) {
		j->http.method = "HEAD";
		j->http.head = true;
		return nf_fail(set_url(j, "", ""));
	}
	int r = start_propfind(j, "0", j->kind == NF_DAV_KIND_QUOTA ? quota_xml : list_xml);
	return nf_fail(r ? r : set_url(j, j->op->name, ""));
}

static int start_mkcol(struct nf_dav_job *j)
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
bool nf_dav_mkcol_prepare(struct nf_dav_job *j, const char *name)
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

bool nf_dav_parent_known(const struct nf_dav_job *j)
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

/* A PUT into a collection we have not seen begins with making it. */
static void make_parent_first(struct nf_dav_job *j)
{
	if (j->kind != NF_DAV_KIND_OP || j->op->verb != NF_STORE_PUT || j->step != NF_DAV_STEP_MAIN ||
	    j->mk_done || j->mk_first || nf_dav_parent_known(j) || !nf_dav_mkcol_prepare(j, j->op->name))
		return;
	j->mk_first = true;
	j->step = NF_DAV_STEP_MKCOL;
}

int nf_dav_on_start(struct nf_xfer *x, CURL *easy)
{
	struct nf_dav_job *j = job_of(x);
	int r;

	make_parent_first(j);
	if (!j->began_ns)
		j->began_ns = nf_clock_ns();
	j->http = (struct nf_http){ .conf = &j->d->conf };
	if (j->step == NF_DAV_STEP_MKCOL)
		r = start_mkcol(j);
	else
		r = j->step == NF_DAV_STEP_ASK ? start_ask(j) : start_main(j);
	j->http.url = j->url;
	return nf_fail(r ? r : nf_http_start(&j->http, x, easy));
}
