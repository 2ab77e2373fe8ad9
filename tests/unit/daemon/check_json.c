/* The scanner of the control socket's lines. */
#include "suite.h"

#include "base/error.h"
#include "base/random.h"
#include "base/text.h"
#include "daemon/json.h"

#include <string.h>

static void check_string(const char *line, const char *key, int code, const char *want)
{
	char *got = NULL;
	int r = nf_json_string(line, key, &got);

	ck_assert_msg(r == code, "%s: %s", line, nf_error_name(r));
	if (code == 0)
		ck_assert_str_eq(got, want);
	free(got);
}

START_TEST(members_are_found_by_name)
{
	int64_t n;

	check_string("{\"cmd\":\"status\"}", "cmd", 0, "status");
	check_string(" { \"a\" : [1,{\"cmd\":\"no\"}] , \"cmd\" : \"x\" }", "cmd", 0, "x");
	check_string("{\"a\":{\"cmd\":\"no\"}}", "cmd", -ENOENT, NULL);
	check_string("{}", "cmd", -ENOENT, NULL);
	check_string("{\"q\":\"a\\\"b\\\\c\\n\\u0001\"}", "q", 0, "a\"b\\c\n\x01");
	ck_assert_int_eq(nf_json_int("{\"error\":-10005,\"x\":1}", "error", &n), 0);
	ck_assert_int_eq(n, -10005);
}
END_TEST

START_TEST(what_is_malformed_is_refused)
{
	static const char *const bad[] = { "", "cmd", "[]", "{", "{\"cmd", "{\"cmd\"", "{\"cmd\":", "{\"cmd\":\"x", "{\"cmd\":5}",
					   "{\"cmd\":\"\\q\"}", "{\"cmd\":\"\\u12\"}", "{\"cmd\":\"\\u0000\"}", "{\"a\":}", "{\"a\":[1",
					   "{\"a\":]}", "{\"a\" 1}", "{\"cmd\":\"x\\" };
	int64_t n;

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		check_string(bad[i], "cmd", -NF_E_FORMAT_BAD, NULL);
	ck_assert_int_eq(nf_json_int("{\"n\":1x}", "n", &n), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(nf_json_int("{\"n\":99999999999999999999}", "n", &n), -NF_E_FORMAT_BAD);
}
END_TEST

START_TEST(what_is_written_is_read_back)
{
	struct nf_prng p;

	nf_prng_seed(&p, 1);
	for (int i = 0; i < 2000; i++) {
		struct nf_text t = NF_TEXT_INIT;
		char s[40];
		size_t len = nf_prng_below(&p, sizeof s);
		for (size_t k = 0; k < len; k++)
			s[k] = (char)(1 + nf_prng_below(&p, 127));
		s[len] = '\0';
		nf_textf(&t, "{\"first\":[{}],\"text\":");
		nf_text_json(&t, s);
		nf_textf(&t, ",\"last\":1}");
		check_string(nf_text_str(&t), "text", 0, s);
		nf_text_deinit(&t);
	}
}
END_TEST

START_TEST(noise_is_never_read_beyond_its_end)
{
	static const char parts[] = "{}[]:,\"\\u0a1 cmd";
	struct nf_prng p;

	nf_prng_seed(&p, 2);
	for (int i = 0; i < 20000; i++) {
		size_t len = nf_prng_below(&p, 24);
		char *line = malloc(len + 2), *got = NULL;
		line[0] = '{';
		for (size_t k = 1; k <= len; k++)
			line[k] = parts[nf_prng_below(&p, sizeof parts - 1)];
		line[len + 1] = '\0';
		if (nf_json_string(line, "c", &got) == 0)
			free(got);
		free(line);
	}
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "json", 10);

	tcase_add_test(tc, members_are_found_by_name);
	tcase_add_test(tc, what_is_malformed_is_refused);
	tcase_add_test(tc, what_is_written_is_read_back);
	tcase_add_test(tc, noise_is_never_read_beyond_its_end);
}

NF_SUITE("daemon/json")
