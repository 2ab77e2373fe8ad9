/*   HTML: a captive portal's, not the store's.
 *   206: Content-Range must begin where we asked and not go beyond; the body has
 *        exactly those bytes.
 *   200: the whole file: the range is cut out of it, if what comes before it is not
 *        too much; what comes after it is read only to keep the connection.
 *   416: nothing there; an empty object if `whole`. */
#include "store/dav_get.h"

#include "store/status.h"
#include "store/types.h"

#include "base/mem.h"

enum {
	/* Of a 200: more than this before the range is not worth reading. */
	SKIP_MAX = 4194304,
	/* ... and behind it a new connection is cheaper. */
	TAIL_MAX = 262144,
};

void nf_dav_get_init(struct nf_dav_get *g, struct nf_store_op *op, struct nf_http *h)
{
	*g = (struct nf_dav_get){ .op = op, .http = h, .size_bytes = UINT64_MAX };
}

static int begin_part(struct nf_dav_get *g)
{
	struct nf_content_range cr;
	int r = nf_content_range_parse(g->http->content_range, &cr);

	if (r)
		return nf_fail(r);
	if (cr.first != g->op->offset_bytes || cr.total_bytes == UINT64_MAX)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	g->want_bytes = cr.last - cr.first + 1;
	g->size_bytes = cr.total_bytes;
	if (g->want_bytes > g->op->length_bytes)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	if (g->want_bytes == g->op->length_bytes)
		return 0;
	/* Shorter is right only at the end of the object. */
	if (cr.last + 1 != cr.total_bytes)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	return g->op->whole ? 0 : nf_fail(-NF_E_STORE_SHORT);
}

static int begin(struct nf_dav_get *g)
{
	const struct nf_http *h = g->http;

	g->begun = true;
	/* Somebody on the way, who wants us to log in, says 200 to everything. */
	if (h->encoded || h->is_page)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	if (h->status == 206)
		return nf_fail(begin_part(g));
	if (h->status != 200 || g->op->offset_bytes > SKIP_MAX)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	g->skip_bytes = g->op->offset_bytes;
	g->want_bytes = g->op->length_bytes;
	if (h->length_bytes >= 0)
		g->size_bytes = (uint64_t)h->length_bytes;
	return 0;
}

int nf_dav_get_sink(void *ctx, const void *data, size_t len)
{
	struct nf_dav_get *g = ctx;
	const uint8_t *p = data;

	if (!g->begun)
		g->error = begin(g);
	if (g->error)
		return g->error;
	g->body_bytes += len;
	size_t skip = (size_t)NF_MIN(g->skip_bytes, (uint64_t)len);
	g->skip_bytes -= skip;
	p += skip;
	len -= skip;
	size_t n = (size_t)NF_MIN(g->want_bytes - g->got_bytes, (uint64_t)len);
	if (n)
		memcpy((uint8_t *)g->op->buf + g->got_bytes, p, n);
	g->got_bytes += n;
	if (n == len)
		return 0;
	if (g->http->status == 206)
		return g->error = nf_fail(-NF_E_STORE_PROTOCOL);
	/* Without a length the size is known only at the end. */
	g->enough = g->size_bytes != UINT64_MAX && g->size_bytes - g->body_bytes > TAIL_MAX;
	return g->enough;
}

static int end_nothing(struct nf_dav_get *g)
{
	struct nf_content_range cr;
	uint64_t size = 0;

	if (!nf_content_range_parse(g->http->content_range, &cr) && cr.total_bytes != UINT64_MAX)
		size = cr.total_bytes;
	else if (g->op->offset_bytes && g->op->whole)
		return NF_DAV_GET_ASK_SIZE;
	if (size > g->op->offset_bytes)
		return nf_fail(-NF_E_STORE_PROTOCOL);
	g->op->size_bytes = size;
	return g->op->whole ? 0 : nf_fail(-NF_E_STORE_SHORT);
}

int nf_dav_get_end(struct nf_dav_get *g)
{
	struct nf_store_op *op = g->op;

	if (g->http->status == 416)
		return end_nothing(g);
	if (!g->begun)
		g->error = begin(g);
	if (g->error)
		return g->error;
	if (g->http->status == 206) {
		if (g->got_bytes != g->want_bytes)
			return nf_fail(-NF_E_STORE_SHORT);
	} else if (!g->enough) {
		if (g->size_bytes != UINT64_MAX && g->body_bytes != g->size_bytes)
			return nf_fail(-NF_E_STORE_SHORT);
		g->size_bytes = g->body_bytes;
	}
	size_t n;
	int r = nf_store_clip(op, g->size_bytes, &n);
	if (r)
		return nf_fail(r);
	if (n != g->got_bytes)
		return nf_fail(-NF_E_STORE_SHORT);
	op->transferred_bytes = n;
	return 0;
}
