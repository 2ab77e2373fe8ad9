/* store/http.h - one HTTP exchange: what is asked, what is answered.
 *
 * Never done here: following redirects (the owner looks at `location`), retries,
 * Expect: 100-continue, chunked uploads, compression of bodies, HTTP/2. */
#ifndef NF_STORE_HTTP_H
#define NF_STORE_HTTP_H

#include "store/curl_loop.h"

/* Secrets live in a page of their own: locked, out of core dumps, wiped at the end. */
struct nf_http_secret {
	char user[512];
	char password[2048];
	char bearer[4096];
};

/* I set before publication;  T the loop's thread only */
struct nf_http_conf {
	struct nf_http_secret *secret; /* I */
	char *ca_cert, *client_cert, *client_key, *proxy; /* I  NULL: none */
	uint32_t connect_timeout_ms;   /* I */
	uint32_t timeout_ms;           /* I */
	bool netrc;                    /* I */
	bool loopback;                 /* I  never through the environment's proxy */
	bool digest;                   /* T  the server asked for it */
};

int nf_http_conf_init(struct nf_http_conf *c, const struct nf_store_options *opt, const char *user,
		      const char *password, bool loopback);
void nf_http_conf_deinit(struct nf_http_conf *c);
/* The options of an easy handle that do not change (nf_curl_setup_fn). */
int nf_http_setup(CURL *easy, void *conf);

struct nf_http {
	/* -- asked; set before nf_http_start() -- */
	struct nf_http_conf *conf;
	const char *method;
	const char *url;     /* borrowed until the end */
	const char *depth;   /* Depth header; NULL: none */
	const char *xml;     /* body of a PROPFIND; NULL: none */
	bool put;
	const struct iovec *iov;
	int nr_iov;
	uint64_t put_bytes;
	bool head;
	bool range;
	uint64_t range_first, range_last;
	/* Gets the body of a 2xx answer; nonzero ends the exchange. */
	int (*sink)(void *ctx, const void *p, size_t len);
	void *ctx;

	/* -- answered -- */
	long status;          /* of the last answer; 0: none */
	bool headers_done;    /* of that answer */
	int64_t date_s;       /* 0: none */
	int64_t retry_after_s; /* -1: none */
	int64_t length_bytes; /* Content-Length; -1: none */
	char content_range[96];
	char location[2048];
	bool is_page;         /* says it is HTML: no object of ours */
	bool encoded;         /* a Content-Encoding that was not asked for */
	bool asks_digest, asks_basic;
	bool used_digest;     /* this exchange authenticated so */
	bool sink_failed;

	/* -- its own -- */
	struct nf_xfer *x;
	struct curl_slist *headers;
	size_t header_bytes;
	size_t junk_bytes; /* body of an error answer */
	int iov_at;
	size_t iov_done;
	uint64_t sent_bytes;
	bool read_any; /* body bytes were given to curl */
};

/* Sets the options on EASY; the answer's fields are emptied. */
int nf_http_start(struct nf_http *h, struct nf_xfer *x, CURL *easy);
/* Frees what start made; the answer stays. */
void nf_http_end(struct nf_http *h);
/* Whether a byte of the request may have reached the server. */
bool nf_http_was_sent(const struct nf_http *h, CURL *easy);
/* What curl's CODE means when no answer is there to look at. */
int nf_http_curl_error(CURLcode code);

#endif
