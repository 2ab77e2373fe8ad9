#include "store/http.h"

#include "store/status.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"

#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum {
	BUFFER_BYTES = 524288,
	UPLOAD_BUFFER_BYTES = 1048576,
	/* All headers of one answer. */
	HEADERS_MAX = 262144,
	/* Body of an error answer that is read to keep the connection. */
	JUNK_MAX = 262144,
	KEEPALIVE_S = 30,
	/* Blocks of curl's heap up to this size are wiped when freed: they may hold a
	 * copy of the credentials; transfer buffers are larger. */
	WIPE_MAX = 65536,
};

/* -- process-wide -- */

static void wiping_free(void *p)
{
	if (p) {
		size_t n = malloc_usable_size(p);
		if (n <= WIPE_MAX)
			nf_wipe(p, n);
	}
	free(p);
}

static void *wiping_realloc(void *p, size_t len)
{
	if (!p || malloc_usable_size(p) > WIPE_MAX)
		return realloc(p, len);
	void *q = malloc(len ? len : 1);
	if (!q)
		return NULL;
	memcpy(q, p, NF_MIN(len, malloc_usable_size(p)));
	wiping_free(p);
	return q;
}

static pthread_once_t global_once = PTHREAD_ONCE_INIT;
static CURLcode global_code;

static void global_init(void)
{
	global_code = curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, wiping_free, wiping_realloc,
					   strdup, calloc);
}

/* -- configuration -- */

static int secret_new(struct nf_http_secret **out)
{
	struct nf_http_secret *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (s == MAP_FAILED)
		return nf_fail(-ENOMEM);
	/* Without the right to lock memory the secret may be swapped; it still works. */
	(void)mlock(s, sizeof *s);
	(void)madvise(s, sizeof *s, MADV_DONTDUMP);
	*out = s;
	return 0;
}

static int copy_secret(char *to, size_t cap, const char *from)
{
	if (!from)
		return 0;
	size_t len = strlen(from);
	/* A line end would let a password write headers. */
	if (len >= cap || strpbrk(from, "\r\n"))
		return nf_fail(-EINVAL);
	memcpy(to, from, len + 1);
	return 0;
}

static int copy_text(char **to, const char *from)
{
	if (!from)
		return 0;
	*to = strdup(from);
	return *to ? 0 : nf_fail(-ENOMEM);
}

int nf_http_conf_init(struct nf_http_conf *c, const struct nf_store_options *opt, const char *user,
		      const char *password, bool loopback)
{
	*c = (struct nf_http_conf){ 0 };
	pthread_once(&global_once, global_init);
	if (global_code)
		return nf_fail(-ENOMEM);
	c->connect_timeout_ms = opt->connect_timeout_ms ? opt->connect_timeout_ms : 10000;
	c->timeout_ms = opt->timeout_ms ? opt->timeout_ms : 30000;
	c->loopback = loopback;
	c->netrc = opt->netrc && !user && !opt->bearer_token;
	int r = secret_new(&c->secret);
	r = r ? r : copy_secret(c->secret->user, sizeof c->secret->user, user);
	r = r ? r : copy_secret(c->secret->password, sizeof c->secret->password, password);
	r = r ? r : copy_secret(c->secret->bearer, sizeof c->secret->bearer, opt->bearer_token);
	r = r ? r : copy_text(&c->ca_cert, opt->ca_cert);
	r = r ? r : copy_text(&c->client_cert, opt->client_cert);
	r = r ? r : copy_text(&c->client_key, opt->client_key);
	r = r ? r : copy_text(&c->proxy, opt->proxy);
	if (r)
		nf_http_conf_deinit(c);
	return nf_fail(r);
}

void nf_http_conf_deinit(struct nf_http_conf *c)
{
	if (c->secret) {
		nf_wipe(c->secret, sizeof *c->secret);
		munmap(c->secret, sizeof *c->secret);
	}
	free(c->ca_cert);
	free(c->client_cert);
	free(c->client_key);
	free(c->proxy);
	*c = (struct nf_http_conf){ 0 };
}

/* Without it a dead peer is noticed only by keepalive or our own clock. */
static int on_socket(void *ctx, curl_socket_t fd, curlsocktype purpose)
{
	const struct nf_http_conf *c = ctx;
	unsigned ms = c->timeout_ms;

	(void)purpose;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
	return CURL_SOCKOPT_OK;
}

static size_t on_header(char *p, size_t size, size_t n, void *ctx);
static size_t on_body(char *p, size_t size, size_t n, void *ctx);
static size_t on_read(char *p, size_t size, size_t n, void *ctx);
static int on_seek(void *ctx, curl_off_t offset, int origin);

static void setup_tls(CURL *e, const struct nf_http_conf *c)
{
	curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (c->ca_cert)
		curl_easy_setopt(e, CURLOPT_CAINFO, c->ca_cert);
	if (c->client_cert)
		curl_easy_setopt(e, CURLOPT_SSLCERT, c->client_cert);
	if (c->client_key)
		curl_easy_setopt(e, CURLOPT_SSLKEY, c->client_key);
}

int nf_http_setup(CURL *e, void *conf)
{
	struct nf_http_conf *c = conf;

	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(e, CURLOPT_USERAGENT, "foliofs/" NF_VERSION);
	/* Who cancels does not wait for a resolver that does not answer: its thread ends by itself. */
	curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)c->connect_timeout_ms);
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, (long)BUFFER_BYTES);
	curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, (long)UPLOAD_BUFFER_BYTES);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPIDLE, (long)KEEPALIVE_S);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPINTVL, (long)KEEPALIVE_S);
	curl_easy_setopt(e, CURLOPT_SOCKOPTFUNCTION, on_socket);
	curl_easy_setopt(e, CURLOPT_SOCKOPTDATA, c);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_READFUNCTION, on_read);
	curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, on_seek);
	setup_tls(e, c);
	if (c->proxy)
		curl_easy_setopt(e, CURLOPT_PROXY, c->proxy);
	else if (c->loopback)
		curl_easy_setopt(e, CURLOPT_PROXY, "");
	if (c->netrc)
		curl_easy_setopt(e, CURLOPT_NETRC, (long)CURL_NETRC_OPTIONAL);
	if (*c->secret->user) {
		curl_easy_setopt(e, CURLOPT_USERNAME, c->secret->user);
		curl_easy_setopt(e, CURLOPT_PASSWORD, c->secret->password);
	}
	if (*c->secret->bearer)
		curl_easy_setopt(e, CURLOPT_XOAUTH2_BEARER, c->secret->bearer);
	return 0;
}

/* -- the answer -- */

static void answer_clear(struct nf_http *h)
{
	h->status = 0;
	h->headers_done = false;
	h->date_s = 0;
	h->retry_after_s = -1;
	h->length_bytes = -1;
	h->content_range[0] = h->location[0] = '\0';
	h->is_page = h->encoded = h->asks_digest = h->asks_basic = false;
}

/* The value of header NAME in LINE without blanks around it; false: another header,
 * or longer than CAP. */
static bool header_is(const char *line, size_t len, const char *name, char *value, size_t cap)
{
	size_t n = strlen(name);

	if (len <= n || strncasecmp(line, name, n) || line[n] != ':')
		return false;
	line += n + 1;
	len -= n + 1;
	while (len && (*line == ' ' || *line == '\t'))
		line++, len--;
	while (len && strchr(" \t\r\n", line[len - 1]))
		len--;
	if (len >= cap)
		return false;
	memcpy(value, line, len);
	value[len] = '\0';
	return true;
}

static int64_t retry_after(const char *value)
{
	uint64_t n;

	if (nf_decimal(value, &n))
		return (int64_t)NF_MIN(n, UINT64_C(86400));
	time_t at = curl_getdate(value, NULL);
	int64_t now_s = nf_clock_real().tv_sec;
	return at > now_s ? NF_MIN((int64_t)at - now_s, INT64_C(86400)) : 0;
}

static void header_line(struct nf_http *h, const char *line, size_t len)
{
	char v[2048];
	uint64_t n;

	if (header_is(line, len, "content-length", v, sizeof v)) {
		h->length_bytes = nf_decimal(v, &n) && n <= INT64_MAX ? (int64_t)n : -1;
	} else if (header_is(line, len, "content-range", v, sizeof h->content_range)) {
		memcpy(h->content_range, v, strlen(v) + 1);
	} else if (header_is(line, len, "location", v, sizeof v)) {
		memcpy(h->location, v, strlen(v) + 1);
	} else if (header_is(line, len, "date", v, sizeof v)) {
		time_t t = curl_getdate(v, NULL);
		h->date_s = t > 0 ? (int64_t)t : 0;
	} else if (header_is(line, len, "retry-after", v, sizeof v)) {
		h->retry_after_s = retry_after(v);
	} else if (header_is(line, len, "content-type", v, sizeof v)) {
		h->is_page = !strncasecmp(v, "text/html", 9);
	} else if (header_is(line, len, "content-encoding", v, sizeof v)) {
		h->encoded = strcasecmp(v, "identity") != 0;
	} else if (header_is(line, len, "www-authenticate", v, sizeof v)) {
		h->asks_digest |= !strncasecmp(v, "digest", 6);
		h->asks_basic |= !strncasecmp(v, "basic", 5);
	}
}

static size_t on_header(char *p, size_t size, size_t n, void *ctx)
{
	struct nf_http *h = ctx;
	size_t len = size * n;

	h->x->progress_ns = nf_clock_ns();
	h->header_bytes += len;
	if (h->header_bytes > HEADERS_MAX)
		return 0;
	if (len > 5 && !strncasecmp(p, "HTTP/", 5)) {
		/* The next of several answers: 100, or a 401 that curl answers itself. */
		const char *space = memchr(p, ' ', len);
		answer_clear(h);
		h->status = space && space - p + 4 <= (ptrdiff_t)len ? strtol(space, NULL, 10) : 0;
	} else if (len <= 2 && h->status >= 200) {
		h->headers_done = true;
	} else {
		header_line(h, p, len);
	}
	return len;
}

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
	struct nf_http *h = ctx;
	size_t len = size * n;

	if (h->status / 100 != 2 || !h->sink) {
		h->junk_bytes += len;
		return h->junk_bytes > JUNK_MAX ? 0 : len;
	}
	if (!nf_curl_loop_allow_down(h->x, len))
		return CURL_WRITEFUNC_PAUSE;
	h->x->progress_ns = nf_clock_ns();
	if (h->sink(h->ctx, p, len)) {
		h->sink_failed = true;
		return 0;
	}
	return len;
}

/* -- the request -- */

static size_t on_read(char *p, size_t size, size_t n, void *ctx)
{
	struct nf_http *h = ctx;
	size_t room = (size_t)NF_MIN((uint64_t)(size * n), h->put_bytes - h->sent_bytes);
	size_t got = 0;

	if (!room)
		return 0;
	room = nf_curl_loop_allow_up(h->x, room);
	if (!room)
		return CURL_READFUNC_PAUSE;
	h->read_any = true;
	while (got < room && h->iov_at < h->nr_iov) {
		const struct iovec *v = &h->iov[h->iov_at];
		size_t part = NF_MIN(room - got, v->iov_len - h->iov_done);
		if (part)
			memcpy(p + got, (const char *)v->iov_base + h->iov_done, part);
		got += part;
		h->iov_done += part;
		if (h->iov_done == v->iov_len) {
			h->iov_at++;
			h->iov_done = 0;
		}
	}
	h->sent_bytes += got;
	return got;
}

/* curl wants to send the body again: on its own when a kept connection turned out
 * dead, which we never allow (a name is written by one attempt), or because the
 * server refused the first with 401, which is a definite answer. */
static int on_seek(void *ctx, curl_off_t offset, int origin)
{
	struct nf_http *h = ctx;

	if (offset || origin != SEEK_SET || h->status != 401)
		return CURL_SEEKFUNC_FAIL;
	h->iov_at = 0;
	h->iov_done = 0;
	h->sent_bytes = 0;
	return CURL_SEEKFUNC_OK;
}

static int add_header(struct nf_http *h, const char *line)
{
	struct curl_slist *l = curl_slist_append(h->headers, line);

	if (!l)
		return nf_fail(-ENOMEM);
	h->headers = l;
	return 0;
}

static int set_headers(struct nf_http *h, CURL *e)
{
	char line[128];
	int r = 0;

	/* Emptied headers are left out: no waiting for a 100, no form type. */
	r = add_header(h, "Expect:");
	if (!r && h->put)
		r = add_header(h, "Content-Type: application/octet-stream");
	if (!r && h->xml)
		r = add_header(h, "Content-Type: application/xml; charset=utf-8");
	if (!r && h->depth) {
		snprintf(line, sizeof line, "Depth: %s", h->depth);
		r = add_header(h, line);
	}
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, h->headers);
	return r;
}

static void set_auth(struct nf_http *h, CURL *e)
{
	const struct nf_http_conf *c = h->conf;

	h->used_digest = c->digest;
	if (*c->secret->bearer)
		curl_easy_setopt(e, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
	else
		curl_easy_setopt(e, CURLOPT_HTTPAUTH,
				 (long)(c->digest ? CURLAUTH_DIGEST : CURLAUTH_BASIC));
}

int nf_http_start(struct nf_http *h, struct nf_xfer *x, CURL *e)
{
	char range[64];

	answer_clear(h);
	h->x = x;
	h->header_bytes = h->junk_bytes = 0;
	h->iov_at = 0;
	h->iov_done = 0;
	h->sent_bytes = 0;
	h->read_any = h->sink_failed = false;
	/* Takes back what another method left on the handle; GET after POSTFIELDS, which
	 * sets the method too. */
	curl_easy_setopt(e, CURLOPT_POSTFIELDS, NULL);
	curl_easy_setopt(e, CURLOPT_HTTPGET, 1L);
	curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, NULL);
	curl_easy_setopt(e, CURLOPT_RANGE, NULL);
	curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)-1);
	curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 0L);
	curl_easy_setopt(e, CURLOPT_URL, h->url);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, h);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, h);
	curl_easy_setopt(e, CURLOPT_READDATA, h);
	curl_easy_setopt(e, CURLOPT_SEEKDATA, h);
	if (h->put) {
		curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)h->put_bytes);
		/* With no body nothing is rewound, and on_seek could not refuse curl's own
		 * second attempt: it makes none on a new connection. */
		curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, h->put_bytes ? 0L : 1L);
	} else if (h->xml) {
		curl_easy_setopt(e, CURLOPT_POSTFIELDS, h->xml);
		curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, (long)strlen(h->xml));
		curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, h->method);
	} else if (h->head) {
		curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
	} else {
		curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, h->method);
	}
	if (h->range) {
		snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)h->range_first,
			 (unsigned long long)h->range_last);
		curl_easy_setopt(e, CURLOPT_RANGE, range);
	}
	set_auth(h, e);
	return nf_fail(set_headers(h, e));
}

void nf_http_end(struct nf_http *h)
{
	curl_slist_free_all(h->headers);
	h->headers = NULL;
}

bool nf_http_was_sent(const struct nf_http *h, CURL *easy)
{
	long bytes = 0;

	if (!easy)
		return false;
	curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &bytes);
	return bytes > 0 || h->read_any || h->status;
}

int nf_http_curl_error(CURLcode code)
{
	switch ((int)code) {
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_CONNECT:
	case CURLE_OPERATION_TIMEDOUT: /* only connecting has a time-out of curl's */
	case CURLE_GOT_NOTHING:
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_SEND_FAIL_REWIND:
	case CURLE_PROXY:
		return -NF_E_OFFLINE;
	case CURLE_PARTIAL_FILE:
		return -NF_E_STORE_SHORT;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CRL_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
	case CURLE_SSL_INVALIDCERTSTATUS:
		return -NF_E_STORE_TLS;
	case CURLE_OUT_OF_MEMORY:
		return -ENOMEM;
	default:
		return -NF_E_STORE_PROTOCOL;
	}
}
