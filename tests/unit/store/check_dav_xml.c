#include "store/dav_xml.h"

#include "base/mem.h"
#include "base/text.h"
#include "suite.h"

#include <string.h>

#define HEAD "<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\">"
#define DIR(href) "<D:response><D:href>" href "</D:href><D:propstat><D:prop><D:resourcetype>" \
	"<D:collection/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status>" \
	"</D:propstat></D:response>"
#define OBJ(href, size) "<D:response><D:href>" href "</D:href><D:propstat><D:prop>" \
	"<D:resourcetype/><D:getcontentlength>" size "</D:getcontentlength><D:getlastmodified>" \
	"Sun, 06 Nov 1994 08:49:37 GMT</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK" \
	"</D:status></D:propstat></D:response>"
#define TAIL "</D:multistatus>"

/* Feeds TEXT in pieces of STEP bytes as the answer for "/v/". */
static int parse(const char *text, size_t step, struct nf_dav_props *self, struct nf_entries *e)
{
	struct nf_dav_xml *x;
	size_t len = strlen(text);
	int r = 0;

	*e = (struct nf_entries){ 0 };
	ck_assert_int_eq(nf_dav_xml_new("/v%31/", &x), 0);
	for (size_t at = 0; at < len && !r; at += step)
		r = nf_dav_xml_feed(x, text + at, NF_MIN(step, len - at));
	if (!r)
		r = nf_dav_xml_end(x, self, e);
	nf_dav_xml_free(x);
	return r;
}

START_TEST(a_listing_is_read_in_pieces_of_any_size)
{
	static const size_t steps[] = { 1, 2, 7, 100, 100000 };
	struct nf_dav_props self;
	struct nf_entries e;
	int r = parse(HEAD DIR("/v1/") OBJ("/v1/ab", "12") DIR("/v1/sub/") TAIL, steps[_i], &self, &e);

	ck_assert_int_eq(r, 0);
	ck_assert(self.is_dir);
	ck_assert_uint_eq(e.nr, 2);
	ck_assert_str_eq(e.v[0].name, "ab");
	ck_assert_uint_eq(e.v[0].size_bytes, 12);
	ck_assert_int_eq(e.v[0].mtime_s, 784111777);
	ck_assert(!e.v[0].is_dir && e.v[1].is_dir);
	nf_entries_deinit(&e);
}
END_TEST

START_TEST(absolute_encoded_and_prefixless_answers_are_the_same)
{
	struct nf_dav_props self;
	struct nf_entries e;
	const char *text = "<multistatus xmlns='DAV:' xmlns:x='other'>"
			   "<response><href>https://inner.example:81/%76%31</href>"
			   "<propstat><prop><resourcetype><collection/></resourcetype></prop></propstat>"
			   "</response><response><href> http://h/v1/%61b </href><propstat><prop>"
			   "<getcontentlength>3</getcontentlength><x:getcontentlength>9</x:getcontentlength>"
			   "</prop><status>HTTP/1.1 200 OK</status></propstat><propstat><prop>"
			   "<getcontentlength>77</getcontentlength></prop>"
			   "<status>HTTP/1.1 404 Not Found</status></propstat></response></multistatus>";

	ck_assert_int_eq(parse(text, 5, &self, &e), 0);
	ck_assert_uint_eq(e.nr, 1);
	ck_assert_str_eq(e.v[0].name, "ab");
	ck_assert_uint_eq(e.v[0].size_bytes, 3);
	nf_entries_deinit(&e);
}
END_TEST

START_TEST(what_is_outside_the_collection_is_left_out)
{
	static const char *const hrefs[] = {
		"/other/x", "/v1/../x", "/v1/..", "/v1/%2e%2e", "/v1/%2e%2e/x", "/v1/a/b", "/v1/a%2fb",
		"/v1x", "/v1/A", "/v1/.tmp-1", "x", "", "http://h", "/v1/%00", "/v1/a%0a", "//v1/a", "/v1/%",
		"/v1/a%20b", "file:///v1/a", "/v1//a",
	};
	struct nf_dav_props self;
	struct nf_entries e;
	struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, HEAD DIR("/v1/") "<D:response><D:href>%s</D:href></D:response>" OBJ("/v1/ok", "1") TAIL,
		 hrefs[_i]);
	int r = parse(nf_text_str(&t), 1000, &self, &e);
	ck_assert_msg(r == 0, "%s: %d", hrefs[_i], r);
	ck_assert_msg(e.nr == 1, "%s: %zu", hrefs[_i], e.nr);
	nf_entries_deinit(&e);
	nf_text_deinit(&t);
}
END_TEST

static const char *const refused[] = {
	"", "x", "<a/>", HEAD, HEAD DIR("/v1/"), HEAD OBJ("/v1/a", "1") TAIL,
	HEAD "<D:response><D:href>/v1/</D:href><D:status>HTTP/1.1 403 no</D:status></D:response>" TAIL,
	"<!DOCTYPE a><D:multistatus xmlns:D='DAV:'>" DIR("/v1/") TAIL,
	"<!DOCTYPE a [<!ENTITY b 'c'>]><D:multistatus xmlns:D='DAV:'>&b;" DIR("/v1/") TAIL,
	"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><D:multistatus xmlns:D='DAV:'>" DIR("/v1/") TAIL,
	HEAD "&unknown;" DIR("/v1/") TAIL,
	"<multistatus>" "<response><href>/v1/</href></response></multistatus>",
	HEAD DIR("/v1/") TAIL "trailing",
};

START_TEST(hostile_and_broken_answers_are_refused)
{
	struct nf_dav_props self;
	struct nf_entries e;

	ck_assert_int_eq(parse(refused[_i], 3, &self, &e), -NF_E_STORE_PROTOCOL);
}
END_TEST

static int feed_forever(const char *head, const char *piece, size_t limit_bytes)
{
	struct nf_dav_xml *x;
	size_t fed = 0;

	ck_assert_int_eq(nf_dav_xml_new("/v1/", &x), 0);
	int r = nf_dav_xml_feed(x, head, strlen(head));
	while (!r && fed < limit_bytes) {
		r = nf_dav_xml_feed(x, piece, strlen(piece));
		fed += strlen(piece);
	}
	nf_dav_xml_free(x);
	return r;
}

START_TEST(everything_endless_ends)
{
	ck_assert_int_eq(feed_forever(HEAD, "<a>", 1 << 20), -NF_E_STORE_PROTOCOL);
	ck_assert_int_eq(feed_forever(HEAD, "<a/>", 1 << 20), -NF_E_STORE_PROTOCOL);
	ck_assert_int_eq(feed_forever(HEAD "<a ", "b", 1 << 20), -NF_E_STORE_PROTOCOL);
	ck_assert_int_eq(feed_forever(HEAD "<D:response><D:href>", "b", 1 << 20), -NF_E_STORE_PROTOCOL);
	ck_assert_int_eq(feed_forever("<!-- ", "b", 1 << 20), -NF_E_STORE_PROTOCOL);
	ck_assert_int_eq(feed_forever(HEAD, "<D:response/>", (size_t)1 << 24), -NF_E_STORE_PROTOCOL);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *t = nf_case(s, "dav_xml", 60);

	tcase_add_loop_test(t, a_listing_is_read_in_pieces_of_any_size, 0, 5);
	tcase_add_test(t, absolute_encoded_and_prefixless_answers_are_the_same);
	tcase_add_loop_test(t, what_is_outside_the_collection_is_left_out, 0, 20);
	tcase_add_loop_test(t, hostile_and_broken_answers_are_refused, 0, NF_ARRAY_LEN(refused));
	tcase_add_test(t, everything_endless_ends);
}

NF_SUITE("store/dav_xml")
