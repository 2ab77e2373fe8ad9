#include "store/redirect.h"

#include "base/error.h"
#include "base/mem.h"

#include <curl/curl.h>

struct origin {
	char *scheme, *host, *port;
};

static void origin_deinit(struct origin *o)
{
	curl_free(o->scheme);
	curl_free(o->host);
	curl_free(o->port);
}

static void url_free(CURLU **u) { curl_url_cleanup(*u); }

static int origin_get(CURLU *u, struct origin *o)
{
	if (curl_url_get(u, CURLUPART_SCHEME, &o->scheme, 0) ||
	    curl_url_get(u, CURLUPART_HOST, &o->host, 0) ||
	    curl_url_get(u, CURLUPART_PORT, &o->port, CURLU_DEFAULT_PORT))
		return nf_fail(-NF_E_STORE_PROTOCOL);
	return 0;
}

static bool allowed(const struct origin *from, const struct origin *to)
{
	if (strcasecmp(from->host, to->host))
		return false;
	if (!strcmp(from->scheme, to->scheme))
		return !strcmp(from->port, to->port);
	return !strcmp(from->scheme, "http") && !strcmp(to->scheme, "https") &&
	       (!strcmp(to->port, "443") || !strcmp(to->port, from->port));
}

int nf_redirect(const char *url, const char *location, char **out)
{
	nf_auto(url_free) CURLU *u = curl_url();
	nf_auto(origin_deinit) struct origin from = { 0 };
	nf_auto(origin_deinit) struct origin to = { 0 };
	char *user = NULL, *text;

	if (!u)
		return nf_fail(-ENOMEM);
	if (curl_url_set(u, CURLUPART_URL, url, 0))
		return nf_fail(-NF_E_STORE_PROTOCOL);
	int r = origin_get(u, &from);
	if (r)
		return nf_fail(r);
	if (curl_url_set(u, CURLUPART_URL, location, 0))
		return nf_fail(-NF_E_STORE_PROTOCOL);
	r = origin_get(u, &to);
	if (r)
		return nf_fail(r);
	bool has_user = !curl_url_get(u, CURLUPART_USER, &user, 0);
	curl_free(user);
	if (has_user || !allowed(&from, &to))
		return nf_fail(-NF_E_STORE_PROTOCOL);
	curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0);
	if (curl_url_get(u, CURLUPART_URL, &text, 0))
		return nf_fail(-ENOMEM);
	*out = strdup(text);
	curl_free(text);
	return *out ? 0 : nf_fail(-ENOMEM);
}
