#include "store/address.h"
#include "foliofs/store.h"
#include "store/redirect.h"
#include "store/status.h"

#include "base/error.h"
#include "base/mem.h"
#include "suite.h"

#include <string.h>

START_TEST(a_full_address_is_taken_apart)
{
	struct nf_address a;

	ck_assert_int_eq(nf_address_parse("davs://m%65:p%3A%40%2f@Example.org:8443/a%20b//c/", &a), -NF_E_STORE_URL);
	ck_assert_int_eq(nf_address_parse("davs://m%65:p%3A%40%2f@Example.org:8443/a%20b/c", &a), 0);
	ck_assert(a.dav && a.tls);
	ck_assert_str_eq(a.host, "Example.org");
	ck_assert_uint_eq(a.port, 8443);
	ck_assert_str_eq(a.path, "/a%20b/c/");
	ck_assert_str_eq(a.user, "me");
	ck_assert_str_eq(a.password, "p:@/");
	nf_auto_free char *text = nf_address_text(&a);
	ck_assert_str_eq(text, "davs://Example.org:8443/a%20b/c/");
	nf_auto_free char *origin = nf_address_origin(&a);
	ck_assert_str_eq(origin, "https://Example.org:8443");
	nf_address_deinit(&a);
}
END_TEST

START_TEST(what_a_url_cannot_hold_is_encoded)
{
	struct nf_address a;

	ck_assert_int_eq(nf_address_parse("dav://[::1]:81/\xc3\xbc x", &a), 0);
	ck_assert_str_eq(a.host, "[::1]");
	ck_assert_uint_eq(a.port, 81);
	ck_assert_str_eq(a.path, "/%C3%BC%20x/");
	ck_assert(nf_address_loopback(&a));
	nf_address_deinit(&a);
	ck_assert_int_eq(nf_address_parse("http://h", &a), 0);
	ck_assert_str_eq(a.path, "/");
	ck_assert(!nf_address_loopback(&a));
	ck_assert_ptr_null(a.user);
	nf_address_deinit(&a);
}
END_TEST

static const char *const bad_addresses[] = {
	"", "dav:", "dav://", "dav:///x", "ftp://h/", "DAV://h/", "dav://h:0/", "dav://h:65536/",
	"dav://h:/", "dav://h:8a/", "dav://@h/", "dav://u@@h/", "dav://a@b@c/", "dav://u%@h/",
	"dav://u%4@h/", "dav://u%00@h/", "dav://u:%0d%0a@h/", "dav://h/..", "dav://h/a/../b",
	"dav://h/%2e%2e/", "dav://h/./", "dav://h/a%2fb", "dav://h/?q", "dav://h/#f", "dav://[::1/",
	"dav://[]/", "dav://[::1]x/", "dav://h h/", "dav://h%41/", "dav://h/%zz", "mem", "x/y",
};

START_TEST(what_is_not_understood_is_refused)
{
	struct nf_store *s;

	ck_assert_int_eq(nf_store_open(bad_addresses[_i], NULL, false, &s), -NF_E_STORE_URL);
}
END_TEST

START_TEST(a_safe_address_never_shows_a_secret)
{
	static const char *const addresses[][2] = {
		{ "dav://u:secret@h/x?y=secret", "dav://h/x" },
		{ "dav://u:sec/ret@h/x", "dav://h/x" },
		{ "fault+davs://u:secret@h/x?drop=1", "fault+davs://h/x/" },
		{ "davs://u:secret@h", "davs://h/" },
		{ "dav://u:secret@h:99999/", "dav://h:99999/" },
		{ "u:secret@h", "h" },
		{ "/srv/a@b", "/srv/a@b" },
	};
	for (size_t i = 0; i < NF_ARRAY_LEN(addresses); i++) {
		nf_auto_free char *s = nf_store_address_safe(addresses[i][0]);
		ck_assert_str_eq(s, addresses[i][1]);
	}
}
END_TEST

START_TEST(the_text_of_a_store_holds_no_secret)
{
	struct nf_store *s;

	ck_assert_int_eq(nf_store_open("fault+davs://me:secret@127.0.0.1:1/x?drop=1", NULL, false, &s), 0);
	ck_assert_str_eq(s->text, "fault+davs://127.0.0.1:1/x/");
	nf_store_free(s);
	ck_assert_int_eq(nf_store_open("dav://example.org/", NULL, false, &s), -EPERM);
	struct nf_store_options opt = { .insecure_http = true };
	ck_assert_int_eq(nf_store_open("dav://example.org/", &opt, false, &s), 0);
	nf_store_free(s);
	opt = (struct nf_store_options){ .user = "u", .password = "a\r\nX-Evil: 1" };
	ck_assert_int_eq(nf_store_open("davs://example.org/", &opt, false, &s), -EINVAL);
}
END_TEST

START_TEST(a_redirect_stays_where_it_was)
{
	static const struct {
		const char *from, *location, *to;
	} t[] = {
		{ "http://h:80/a/b", "/c", "http://h/c" },
		{ "http://h/a/b", "c", "http://h/a/c" },
		{ "http://h/a", "http://h:80/x", "http://h/x" },
		{ "http://h/a", "https://h/a", "https://h/a" },
		{ "http://h:8080/a", "https://h:8080/a", "https://h:8080/a" },
		{ "https://h/a", "http://h/a", NULL },
		{ "http://h/a", "http://h:81/a", NULL },
		{ "http://h/a", "http://g/a", NULL },
		{ "http://h/a", "//g/a", NULL },
		{ "http://h/a", "http://u:p@h/a", NULL },
		{ "http://h/a", "file:///etc/passwd", NULL },
	};
	for (size_t i = 0; i < NF_ARRAY_LEN(t); i++) {
		nf_auto_free char *out = NULL;
		int r = nf_redirect(t[i].from, t[i].location, &out);
		ck_assert_msg(r == (t[i].to ? 0 : -NF_E_STORE_PROTOCOL), "row %zu: %d", i, r);
		if (t[i].to)
			ck_assert_msg(strstr(out, strrchr(t[i].to, '/')) && !strncmp(out, t[i].to, 6),
				      "row %zu: %s", i, out);
	}
}
END_TEST

START_TEST(content_ranges_are_strict)
{
	struct nf_content_range c;

	ck_assert_int_eq(nf_content_range_parse("bytes 5-9/10", &c), 0);
	ck_assert(c.first == 5 && c.last == 9 && c.total_bytes == 10);
	ck_assert_int_eq(nf_content_range_parse("bytes */7", &c), 0);
	ck_assert(c.first == UINT64_MAX && c.total_bytes == 7);
	ck_assert_int_eq(nf_content_range_parse("bytes 0-0/*", &c), 0);
	ck_assert(c.total_bytes == UINT64_MAX);
	static const char *const bad[] = { "", "bytes", "bytes 9-5/10", "bytes 5-10/10", "bytes -5/10",
					   "bytes 5-/10", "bytes 5-9", "bytes 5-9/", "bytes 5-9/1x",
					   "bytes 1-99999999999999999999/9", "items 0-1/2", "bytes 0-1/2 " };
	for (size_t i = 0; i < NF_ARRAY_LEN(bad); i++)
		ck_assert_msg(nf_content_range_parse(bad[i], &c) == -NF_E_STORE_PROTOCOL, "%s", bad[i]);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *t = nf_case(s, "address", 20);

	tcase_add_test(t, a_full_address_is_taken_apart);
	tcase_add_test(t, what_a_url_cannot_hold_is_encoded);
	tcase_add_loop_test(t, what_is_not_understood_is_refused, 0, NF_ARRAY_LEN(bad_addresses));
	tcase_add_test(t, a_safe_address_never_shows_a_secret);
	tcase_add_test(t, the_text_of_a_store_holds_no_secret);
	tcase_add_test(t, a_redirect_stays_where_it_was);
	tcase_add_test(t, content_ranges_are_strict);
}

NF_SUITE("store/address")
