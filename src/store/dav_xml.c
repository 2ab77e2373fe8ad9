/*   multistatus
 *     response                       one resource
 *       href
 *       propstat                     counted only if its status is 2xx
 *         status
 *         prop
 *           resourcetype/collection, getcontentlength, getlastmodified, quota-...
 *       status                       instead of propstat: the resource has a problem
 */
#include "store/dav_xml.h"

#include "store/address.h"
#include "store/status.h"

#include "base/mem.h"

#include <curl/curl.h>
#include <expat.h>
#include <stdio.h>

enum {
	DEPTH_MAX = 32,
	TEXT_MAX = 4096,           /* an href: three bytes for each of a long path */
	FEED_BYTES = 16384,        /* limits are looked at this often */
	RESPONSE_BYTES_MAX = 262144, /* between two ends of a response */
};
/* 1 KiB for each of the longest listing. */
#define TOTAL_BYTES_MAX (UINT64_C(1024) * NF_STORE_LIST_MAX)

#define DAV(name) "DAV:|" name

struct nf_dav_xml {
	XML_Parser parser;
	char *path; /* decoded, without trailing slash */
	size_t path_len;
	int error;
	uint64_t fed_bytes;
	uint64_t since_response_bytes;
	unsigned nr_responses;
	unsigned depth;
	bool multistatus; /* the root was one */
	bool self_seen;
	struct nf_dav_props self;
	struct nf_entries children;

	/* The response being read. */
	bool in_response, in_propstat, has_href;
	long status;          /* of the response; 0: none */
	long propstat_status; /* 0: none */
	char href[TEXT_MAX];
	struct nf_dav_props props;   /* accepted */
	struct nf_dav_props pending; /* of this propstat */

	/* The element whose text is wanted; NULL: none. */
	const char *wanted;
	size_t text_len;
	char text[TEXT_MAX];
};

static const struct nf_dav_props no_props = { UINT64_MAX, UINT64_MAX, UINT64_MAX, 0, false };

static void stop(struct nf_dav_xml *x, int error)
{
	if (!x->error)
		x->error = nf_fail(error);
	XML_StopParser(x->parser, XML_FALSE);
}

/* The path of an href, decoded, without trailing slash; whether it had one. */
static int href_path(const char *href, char **out, bool *slash)
{
	const char *p = href;

	if (!strncasecmp(p, "http://", 7) || !strncasecmp(p, "https://", 8)) {
		/* Behind a proxy a server may call itself something else: only the
		 * path counts, and only its last component is used. */
		p = strchr(p, ':') + 3;
		p += strcspn(p, "/?#");
	}
	if (*p != '/')
		return nf_fail(-NF_E_STORE_PROTOCOL);
	size_t len = strcspn(p, "?#");
	*slash = false;
	while (len && p[len - 1] == '/') {
		*slash = true;
		len--;
	}
	return nf_fail(nf_percent_decode(p, len, out));
}

static int add_child(struct nf_dav_xml *x, const char *path, bool slash)
{
	size_t len = strlen(path);

	if (len <= x->path_len + 1 || strncmp(path, x->path, x->path_len) ||
	    path[x->path_len] != '/')
		return 0;
	const char *name = path + x->path_len + 1;
	len -= x->path_len + 1;
	/* "..", a deeper path and names that are not ours fail here. */
	if (!nf_store_part_ok(name, len))
		return 0;
	uint64_t size = x->props.size_bytes == UINT64_MAX ? 0 : x->props.size_bytes;
	return nf_fail(nf_entries_add(&x->children, name, len, x->props.is_dir || slash, size,
				      x->props.mtime_s));
}

static int end_response(struct nf_dav_xml *x)
{
	nf_auto_free char *path = NULL;
	bool slash = false;

	x->in_response = false;
	x->since_response_bytes = 0;
	if (++x->nr_responses > NF_STORE_LIST_MAX)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	if (!x->has_href || (x->status && x->status / 100 != 2))
		return 0;
	int r = href_path(x->href, &path, &slash);
	if (r == -ENOMEM)
		return nf_fail(r);
	if (r) /* not an address we could ask for: not ours */
		return 0;
	if (!strcmp(path, x->path)) {
		x->self_seen = true;
		x->self = x->props;
		return 0;
	}
	return nf_fail(add_child(x, path, slash));
}

static void end_propstat(struct nf_dav_xml *x)
{
	const struct nf_dav_props *p = &x->pending;

	x->in_propstat = false;
	if (x->propstat_status && x->propstat_status / 100 != 2)
		return;
	if (p->size_bytes != UINT64_MAX)
		x->props.size_bytes = p->size_bytes;
	if (p->quota_used_bytes != UINT64_MAX)
		x->props.quota_used_bytes = p->quota_used_bytes;
	if (p->quota_free_bytes != UINT64_MAX)
		x->props.quota_free_bytes = p->quota_free_bytes;
	if (p->mtime_s)
		x->props.mtime_s = p->mtime_s;
	x->props.is_dir |= p->is_dir;
}

static char *trim(char *s)
{
	size_t len;

	s += strspn(s, " \t\r\n");
	len = strlen(s);
	while (len && strchr(" \t\r\n", s[len - 1]))
		s[--len] = '\0';
	return s;
}

static void take_text(struct nf_dav_xml *x)
{
	const char *name = x->wanted;
	char *s;
	uint64_t n;

	x->text[x->text_len] = '\0';
	s = trim(x->text);
	if (!strcmp(name, DAV("href"))) {
		if (!x->has_href)
			memcpy(x->href, s, strlen(s) + 1);
		x->has_href = true;
	} else if (!strcmp(name, DAV("status"))) {
		long status = 0;
		if (sscanf(s, "HTTP/%*9[0-9.] %3ld", &status) != 1)
			status = 999;
		*(x->in_propstat ? &x->propstat_status : &x->status) = status;
	} else if (!strcmp(name, DAV("getlastmodified"))) {
		time_t t = curl_getdate(s, NULL);
		x->pending.mtime_s = t > 0 ? (int64_t)t : 0;
	} else if (nf_decimal(s, &n)) {
		if (!strcmp(name, DAV("getcontentlength")))
			x->pending.size_bytes = n;
		else if (!strcmp(name, DAV("quota-used-bytes")))
			x->pending.quota_used_bytes = n;
		else
			x->pending.quota_free_bytes = n;
	}
}

/* The static name if the text of this element is wanted here. */
static const char *want(const struct nf_dav_xml *x, const char *name)
{
	static const char *const in_props[] = { DAV("getcontentlength"), DAV("getlastmodified"),
						DAV("quota-used-bytes"),
						DAV("quota-available-bytes"), DAV("status") };

	if (!x->in_response)
		return NULL;
	if (!x->in_propstat) {
		if (x->depth == 3 && !strcmp(name, DAV("href")))
			return DAV("href");
		return x->depth == 3 && !strcmp(name, DAV("status")) ? DAV("status") : NULL;
	}
	for (size_t i = 0; i < NF_ARRAY_LEN(in_props); i++)
		if (!strcmp(name, in_props[i]))
			return in_props[i];
	return NULL;
}

static void XMLCALL on_start(void *arg, const XML_Char *name, const XML_Char **attrs)
{
	struct nf_dav_xml *x = arg;

	(void)attrs;
	if (x->error)
		return;
	if (++x->depth > DEPTH_MAX) {
		stop(x, -NF_E_STORE_PROTOCOL);
		return;
	}
	if (x->depth == 1) {
		x->multistatus = !strcmp(name, DAV("multistatus"));
		if (!x->multistatus)
			stop(x, -NF_E_STORE_PROTOCOL);
	} else if (x->depth == 2 && !strcmp(name, DAV("response"))) {
		x->in_response = true;
		x->in_propstat = x->has_href = false;
		x->status = 0;
		x->props = no_props;
	} else if (x->depth == 3 && x->in_response && !strcmp(name, DAV("propstat"))) {
		x->in_propstat = true;
		x->propstat_status = 0;
		x->pending = no_props;
	} else if (x->in_propstat && !strcmp(name, DAV("collection"))) {
		x->pending.is_dir = true;
	}
	x->wanted = want(x, name);
	x->text_len = 0;
}

static void XMLCALL on_end(void *arg, const XML_Char *name)
{
	struct nf_dav_xml *x = arg;
	int r = 0;

	if (x->error)
		return;
	if (x->wanted && !strcmp(x->wanted, name))
		take_text(x);
	x->wanted = NULL;
	if (x->depth == 3 && x->in_propstat)
		end_propstat(x);
	else if (x->depth == 2 && x->in_response)
		r = end_response(x);
	x->depth--;
	if (r)
		stop(x, r);
}

static void XMLCALL on_text(void *arg, const XML_Char *s, int len)
{
	struct nf_dav_xml *x = arg;

	if (x->error || !x->wanted)
		return;
	if (x->text_len + (size_t)len >= TEXT_MAX) {
		stop(x, -NF_E_STORE_PROTOCOL);
		return;
	}
	memcpy(x->text + x->text_len, s, (size_t)len);
	x->text_len += (size_t)len;
}

static void XMLCALL on_doctype(void *arg, const XML_Char *name, const XML_Char *sysid,
			       const XML_Char *pubid, int internal)
{
	(void)name;
	(void)sysid;
	(void)pubid;
	(void)internal;
	stop(arg, -NF_E_STORE_PROTOCOL);
}

int nf_dav_xml_new(const char *path, struct nf_dav_xml **out)
{
	struct nf_dav_xml *x = calloc(1, sizeof *x);
	size_t len = strlen(path);
	int r = -ENOMEM;

	if (!x)
		return nf_fail(-ENOMEM);
	while (len && path[len - 1] == '/')
		len--;
	r = nf_percent_decode(path, len, &x->path);
	if (r)
		goto fail;
	x->path_len = strlen(x->path);
	x->parser = XML_ParserCreateNS(NULL, '|');
	if (!x->parser) {
		r = -ENOMEM;
		goto fail;
	}
	XML_SetUserData(x->parser, x);
	XML_SetElementHandler(x->parser, on_start, on_end);
	XML_SetCharacterDataHandler(x->parser, on_text);
	XML_SetStartDoctypeDeclHandler(x->parser, on_doctype);
	*out = x;
	return 0;
fail:
	nf_dav_xml_free(x);
	return nf_fail(r);
}

void nf_dav_xml_free(struct nf_dav_xml *x)
{
	if (!x)
		return;
	if (x->parser)
		XML_ParserFree(x->parser);
	nf_entries_deinit(&x->children);
	free(x->path);
	free(x);
}

static int parse(struct nf_dav_xml *x, const char *p, size_t len, bool last)
{
	enum XML_Status status = XML_Parse(x->parser, p, (int)len, last);

	if (!x->error && status != XML_STATUS_OK)
		x->error = XML_GetErrorCode(x->parser) == XML_ERROR_NO_MEMORY
				   ? -ENOMEM
				   : -NF_E_STORE_PROTOCOL;
	return nf_fail(x->error);
}

int nf_dav_xml_feed(struct nf_dav_xml *x, const void *p, size_t len)
{
	const char *s = p;

	while (len && !x->error) {
		size_t n = NF_MIN(len, (size_t)FEED_BYTES);
		x->fed_bytes += n;
		x->since_response_bytes += n;
		if (x->fed_bytes > TOTAL_BYTES_MAX || x->since_response_bytes > RESPONSE_BYTES_MAX) {
			x->error = nf_fail(-NF_E_STORE_PROTOCOL);
			break;
		}
		parse(x, s, n, false);
		s += n;
		len -= n;
	}
	return x->error;
}

int nf_dav_xml_end(struct nf_dav_xml *x, struct nf_dav_props *self, struct nf_entries *children)
{
	if (x->error)
		return x->error;
	int r = parse(x, "", 0, true);
	if (r)
		return r;
	if (!x->self_seen)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	*self = x->self;
	if (children) {
		*children = x->children;
		x->children = (struct nf_entries){ 0 };
	}
	return 0;
}
