/* What each answer means, and the step that follows. */
#include "store/dav_job.h"

#include "store/status.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdio.h>

enum {
	/* MKCOLs of one operation, up and down. */
	MKCOLS_MAX = 64,
	/* Of them, after an answer that another's MKCOL at the same moment may explain. */
	MKCOL_AGAIN_MAX = 3,
};

/* -- making collections -- */

static bool mkcol_up(struct nf_dav_job *j)
{
	size_t len = j->mk_len - 1;

	while (len > j->mk_floor && j->mk_path[len - 1] != '/')
		len--;
	if (len <= j->mk_floor)
		return false;
	j->mk_len = len;
	return true;
}

static void mkcol_down(struct nf_dav_job *j)
{
	const char *slash = strchr(j->mk_path + j->mk_len, '/');

	NF_ASSERT(slash);
	j->mk_len = (size_t)(slash + 1 - j->mk_path);
}

/* Two MKCOLs of one collection at a time: one of them is told 403 by Apache, 423 by
 * rclone, although it is there a moment later. */
static bool mkcol_collided(struct nf_dav_job *j, int error)
{
	return (j->http.status == 403 || error == -NF_E_STORE_BUSY) && j->mk_again < MKCOL_AGAIN_MAX;
}

static void answered_mkcol(struct nf_dav_job *j)
{
	long status = j->http.status;
	int error = status == 409 || status == 404 ? -NF_E_STORE_NOT_FOUND : nf_status_error(status);

	/* 405, or a redirect to itself: it is there. */
	if (status / 100 == 2 || status == 405 || status == 301 || status == 302 || status == 308) {
		nf_known_add(&j->d->known, j->mk_path, j->mk_len);
		if (j->mk_len == j->mk_full) {
			j->mk_done = true;
			nf_dav_go_main(j);
			return;
		}
		mkcol_down(j);
		error = 0;
	} else if (error == -NF_E_STORE_NOT_FOUND && mkcol_up(j)) {
		error = 0;
	} else if (mkcol_collided(j, error)) {
		nf_curl_loop_again(&j->x, nf_dav_backoff_ns(j, j->mk_again++));
		return;
	}
	if (!error && ++j->mk_count > MKCOLS_MAX)
		error = -NF_E_STORE_PROTOCOL;
	if (!error) {
		nf_dav_go(j, NF_DAV_STEP_MKCOL);
	} else if (j->mk_first) {
		/* It was only a precaution: let the PUT itself say. */
		j->mk_done = true;
		nf_dav_go_main(j);
	} else {
		nf_dav_end(j, nf_fail(error));
	}
}

/* -- answers -- */

static void answered_put(struct nf_dav_job *j)
{
	struct nf_dav *d = j->d;
	const char *name = j->op->name;
	const char *slash = strrchr(name, '/');
	long status = j->http.status;

	if (status == 200 || status == 201 || status == 204) {
		if (!nf_dav_parent_known(j) && (j->mk_path || nf_dav_mkcol_prepare(j, name)))
			nf_known_add(&d->known, j->mk_path, j->mk_full);
		nf_dav_end(j, 0);
		return;
	}
	if (status / 100 == 2) { /* "accepted" is no answer */
		nf_dav_end(j, nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME));
		return;
	}
	if (status == 413)
		nf_store_lower_max_put(&d->base, j->op->length_bytes);
	bool no_parent = status == 404 || status == 409 || (status == 403 && !nf_dav_parent_known(j));
	if (no_parent && slash && (!j->mk_done || j->mk_first)) {
		nf_known_deinit(&d->known);
		j->mk_first = false;
		if (j->mk_path)
			j->mk_len = j->mk_full;
		if (j->mk_path || nf_dav_mkcol_prepare(j, name)) {
			nf_dav_go(j, NF_DAV_STEP_MKCOL);
			return;
		}
	}
	if (status >= 500) /* the next PUT looks again */
		nf_known_deinit(&d->known);
	if (status == 409)
		nf_dav_end(j, nf_fail(-NF_E_STORE_NOT_FOUND));
	else
		nf_dav_end_status(j);
}

static void answered_delete(struct nf_dav_job *j)
{
	switch (j->http.status) {
	case 200:
	case 204:
	case 404:
	case 410:
		nf_dav_end(j, 0);
		return;
	case 202:
		nf_dav_end(j, nf_fail(-NF_E_STORE_UNKNOWN_OUTCOME));
		return;
	default:
		nf_dav_end_status(j);
	}
}

static void answered_get(struct nf_dav_job *j)
{
	if (j->http.status / 100 != 2 && j->http.status != 416) {
		nf_dav_end_status(j);
		return;
	}
	int r = nf_dav_get_end(&j->get);
	if (r == NF_DAV_GET_ASK_SIZE) {
		j->size_only = true;
		nf_dav_go(j, NF_DAV_STEP_MAIN);
		return;
	}
	nf_dav_end(j, nf_fail(r));
}

/* The size came by itself: an end of a GET only if nothing of it was asked for. */
static void end_size(struct nf_dav_job *j, uint64_t size_bytes)
{
	size_t n;
	int r = nf_store_clip(j->op, size_bytes, &n);

	if (!r && j->size_only && n)
		r = -NF_E_STORE_PROTOCOL;
	nf_dav_end(j, nf_fail(r));
}

static void answered_size(struct nf_dav_job *j)
{
	const struct nf_http *h = &j->http;

	if (h->status / 100 == 2 && h->length_bytes >= 0 && !h->encoded) {
		end_size(j, (uint64_t)h->length_bytes);
	} else if (j->d->is_dav &&
		   (h->status / 100 == 2 || h->status == 405 || h->status == 501)) {
		nf_dav_go(j, NF_DAV_STEP_ASK);
	} else {
		nf_dav_end_status(j);
	}
}

/* What was listed is there: a PUT into it need not make it first. */
static void know_listed(struct nf_dav_job *j)
{
	nf_auto_free char *path = NULL;

	if (!*j->op->name)
		return;
	int n = asprintf(&path, "%s%s/", j->d->path, j->op->name);
	if (n < 0)
		path = NULL;
	else
		nf_known_add(&j->d->known, path, (size_t)n);
}

static void answered_list(struct nf_dav_job *j)
{
	struct nf_dav_props self;
	struct nf_entries children = { 0 };

	if (j->http.status != 207) {
		if (j->http.status / 100 == 2)
			nf_dav_end(j, nf_fail(-NF_E_STORE_NOT_DAV));
		else
			nf_dav_end_status(j);
		return;
	}
	int r = nf_dav_xml_end(j->xml, &self, &children);
	if (!r && !self.is_dir)
		r = -NF_E_STORE_NOT_FOUND;
	if (!r) {
		know_listed(j);
		nf_entries_give(&children, j->op);
	}
	nf_entries_deinit(&children);
	nf_dav_end(j, nf_fail(r));
}

static void asked_op(struct nf_dav_job *j, const struct nf_dav_props *self)
{
	if (self->is_dir)
		nf_dav_end(j, nf_fail(-NF_E_STORE_NOT_FOUND));
	else if (self->size_bytes == UINT64_MAX)
		nf_dav_end(j, nf_fail(-NF_E_STORE_PROTOCOL));
	else
		end_size(j, self->size_bytes);
}

/* Without DAV an address need not name anything by itself. */
static void answered_http_probe(struct nf_dav_job *j)
{
	long status = j->http.status;

	if (status == 401 || status == 407 || status >= 500)
		nf_dav_end_status(j);
	else
		nf_dav_end(j, 0);
}

static void answered_ask(struct nf_dav_job *j)
{
	struct nf_dav *d = j->d;
	struct nf_dav_props self;
	long status = j->http.status;

	if (j->kind == NF_DAV_KIND_PROBE && !d->is_dav) {
		answered_http_probe(j);
		return;
	}
	if (j->kind == NF_DAV_KIND_PROBE && (status == 404 || status == 409) && d->create && !j->mk_done &&
	    strlen(d->path) > 1) {
		j->mk_path = strdup(d->path);
		if (!j->mk_path) {
			nf_dav_end(j, nf_fail(-ENOMEM));
			return;
		}
		j->mk_floor = 1;
		j->mk_len = j->mk_full = strlen(d->path);
		nf_dav_go(j, NF_DAV_STEP_MKCOL);
		return;
	}
	if (status != 207) {
		if (status / 100 == 2 || status == 400)
			nf_dav_end(j, nf_fail(-NF_E_STORE_NOT_DAV));
		else
			nf_dav_end_status(j);
		return;
	}
	int r = nf_dav_xml_end(j->xml, &self, NULL);
	if (!r && j->kind == NF_DAV_KIND_OP) {
		asked_op(j, &self);
		return;
	}
	if (!r && j->kind == NF_DAV_KIND_PROBE)
		r = self.is_dir ? 0 : -ENOTDIR;
	else if (!r)
		memcpy(j->op->buf, &self, sizeof self);
	nf_dav_end(j, nf_fail(r));
}

void nf_dav_answered(struct nf_dav_job *j)
{
	if (j->step == NF_DAV_STEP_MKCOL)
		answered_mkcol(j);
	else if (j->step == NF_DAV_STEP_ASK)
		answered_ask(j);
	else if (nf_dav_asks_size(j))
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
