/* Address parsing is strict: what is not understood is refused, so that a typing
 * mistake never sends credentials to another host.
 *
 *   davs :// user : pass @ host : port /path/
 *            '------ authority -------'        no query, no fragment
 */
#include "store/address.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"

#include <ctype.h>
#include <stdio.h>

static int hex_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int nf_percent_decode(const char *s, size_t len, char **out)
{
	nf_auto_free char *d = malloc(len + 1);
	size_t n = 0;

	if (!d)
		return nf_fail(-ENOMEM);
	for (size_t i = 0; i < len; i++) {
		if (s[i] != '%') {
			d[n++] = s[i];
			continue;
		}
		int hi = len - i > 2 ? hex_of(s[i + 1]) : -1;
		int lo = hi >= 0 ? hex_of(s[i + 2]) : -1;
		if (lo < 0 || (hi == 0 && lo == 0)) {
			nf_wipe(d, len);
			return nf_fail(-NF_E_STORE_URL);
		}
		d[n++] = (char)(hi << 4 | lo);
		i += 2;
	}
	d[n] = '\0';
	*out = nf_steal(&d);
	return 0;
}

static void free_secret(char *s)
{
	if (s)
		nf_wipe(s, strlen(s));
	free(s);
}

void nf_address_deinit(struct nf_address *a)
{
	free(a->host);
	free(a->path);
	free_secret(a->user);
	free_secret(a->password);
	*a = (struct nf_address){ 0 };
}

static const struct {
	const char *prefix;
	bool dav, tls;
	unsigned port;
} schemes[] = {
	{ "dav://", true, false, 80 },
	{ "davs://", true, true, 443 },
	{ "http://", false, false, 80 },
	{ "https://", false, true, 443 },
};

static const char *scheme_of(const struct nf_address *a)
{
	return a->dav ? (a->tls ? "davs" : "dav") : (a->tls ? "https" : "http");
}

static bool decoded_ok(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

static int parse_userinfo(const char *s, size_t len, struct nf_address *a)
{
	const char *colon = memchr(s, ':', len);
	size_t user_len = colon ? (size_t)(colon - s) : len;
	int r = nf_percent_decode(s, user_len, &a->user);

	if (r)
		return nf_fail(r);
	if (!*a->user || !decoded_ok(a->user) || strchr(a->user, ':'))
		return nf_fail(-NF_E_STORE_URL);
	if (!colon)
		return 0;
	r = nf_percent_decode(colon + 1, len - user_len - 1, &a->password);
	if (r)
		return nf_fail(r);
	return decoded_ok(a->password) ? 0 : nf_fail(-NF_E_STORE_URL);
}

static bool host_char(char c, bool v6)
{
	if (v6)
		return isxdigit((unsigned char)c) || c == ':' || c == '.';
	return isalnum((unsigned char)c) || c == '-' || c == '.' || c == '_';
}

static int parse_port(const char *s, size_t len, unsigned *port)
{
	unsigned v = 0;

	if (len == 0 || len > 5)
		return nf_fail(-NF_E_STORE_URL);
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return nf_fail(-NF_E_STORE_URL);
		v = v * 10 + (unsigned)(s[i] - '0');
	}
	if (v == 0 || v > 65535)
		return nf_fail(-NF_E_STORE_URL);
	*port = v;
	return 0;
}

static int parse_hostport(const char *s, size_t len, struct nf_address *a)
{
	bool v6 = len && s[0] == '[';
	const char *close = v6 ? memchr(s, ']', len) : memchr(s, ':', len);

	if (v6 && !close)
		return nf_fail(-NF_E_STORE_URL);
	size_t host_len = !close ? len : (size_t)(close - s) + (v6 ? 1 : 0);
	size_t from = v6 ? 1 : 0, to = v6 ? host_len - 1 : host_len;
	if (from == to || host_len > 255)
		return nf_fail(-NF_E_STORE_URL);
	for (size_t i = from; i < to; i++)
		if (!host_char(s[i], v6))
			return nf_fail(-NF_E_STORE_URL);
	a->host = strndup(s, host_len);
	if (!a->host)
		return nf_fail(-ENOMEM);
	if (host_len == len)
		return 0;
	if (s[host_len] != ':')
		return nf_fail(-NF_E_STORE_URL);
	return nf_fail(parse_port(s + host_len + 1, len - host_len - 1, &a->port));
}

/* A path without empty, "." and ".." parts; bytes a URL cannot hold are encoded. */
static int parse_path(const char *s, char **out)
{
	nf_auto(nf_text_deinit) struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, "/");
	while (*s == '/')
		s++;
	while (*s) {
		size_t len = strcspn(s, "/");
		nf_auto_free char *plain = NULL;
		int r = nf_percent_decode(s, len, &plain);
		if (r)
			return nf_fail(r);
		if (!len || !strcmp(plain, ".") || !strcmp(plain, "..") || !decoded_ok(plain) ||
		    strchr(plain, '/'))
			return nf_fail(-NF_E_STORE_URL);
		for (const char *p = plain; *p; p++) {
			if (isalnum((unsigned char)*p) || strchr("-._~!$'()*,;:@", *p))
				nf_text_add(&t, p, 1);
			else
				nf_textf(&t, "%%%02X", (unsigned char)*p);
		}
		nf_textf(&t, "/");
		s += len;
		s += *s == '/';
	}
	if (t.failed)
		return nf_fail(-ENOMEM);
	*out = t.s;
	t.s = NULL;
	return 0;
}

static int parse(const char *s, struct nf_address *a)
{
	const char *rest = NULL;

	for (size_t i = 0; i < NF_ARRAY_LEN(schemes); i++) {
		size_t len = strlen(schemes[i].prefix);
		if (strncmp(s, schemes[i].prefix, len))
			continue;
		rest = s + len;
		a->dav = schemes[i].dav;
		a->tls = schemes[i].tls;
		a->port = schemes[i].port;
	}
	if (!rest || strpbrk(rest, "?#"))
		return nf_fail(-NF_E_STORE_URL);
	size_t len = strcspn(rest, "/");
	const char *at = memchr(rest, '@', len);
	if (at) {
		int r = parse_userinfo(rest, (size_t)(at - rest), a);
		if (r)
			return nf_fail(r);
		len -= (size_t)(at - rest) + 1;
		rest = at + 1;
	}
	int r = parse_hostport(rest, len, a);
	if (r)
		return nf_fail(r);
	return nf_fail(parse_path(rest + len, &a->path));
}

int nf_address_parse(const char *s, struct nf_address *out)
{
	struct nf_address a = { 0 };
	int r = parse(s, &a);

	if (r) {
		nf_address_deinit(&a);
		return nf_fail(r);
	}
	*out = a;
	return 0;
}

char *nf_address_text(const struct nf_address *a)
{
	char *s;
	bool usual = a->port == (a->tls ? 443 : 80);
	int n = usual ? asprintf(&s, "%s://%s%s", scheme_of(a), a->host, a->path)
		      : asprintf(&s, "%s://%s:%u%s", scheme_of(a), a->host, a->port, a->path);

	return n < 0 ? NULL : s;
}

char *nf_address_origin(const struct nf_address *a)
{
	char *s;

	if (asprintf(&s, "%s://%s:%u", a->tls ? "https" : "http", a->host, a->port) < 0)
		return NULL;
	return s;
}

bool nf_address_loopback(const struct nf_address *a)
{
	unsigned b[4];
	char end;

	if (!strcmp(a->host, "localhost") || !strcmp(a->host, "[::1]"))
		return true;
	return sscanf(a->host, "%3u.%3u.%3u.%3u%c", &b[0], &b[1], &b[2], &b[3], &end) == 4 &&
	       b[0] == 127;
}
