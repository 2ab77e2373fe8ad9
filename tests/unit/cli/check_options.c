/* Options, sizes, times, lists of mount options, configuration files. */
#include "suite.h"

#include "base/error.h"
#include "cli/cli.h"
#include "cli/config.h"

#include <string.h>

static uint64_t size_of(const char *s)
{
	uint64_t v = 0;

	ck_assert_msg(nf_size_parse(s, &v) == 0, "%s", s);
	return v;
}

START_TEST(sizes_have_suffixes)
{
	ck_assert_uint_eq(size_of("0"), 0);
	ck_assert_uint_eq(size_of("17"), 17);
	ck_assert_uint_eq(size_of("64K"), 65536);
	ck_assert_uint_eq(size_of("1.5G"), 1610612736);
	ck_assert_uint_eq(size_of("10GiB"), UINT64_C(10) << 30);
	ck_assert_uint_eq(size_of("100MB"), 100000000);
	ck_assert_uint_eq(size_of("2T"), UINT64_C(2) << 40);
}
END_TEST

START_TEST(what_is_no_size_is_refused)
{
	static const char *const bad[] = { "", "K", "-1", "+1", " 1", "1 K", "1KK", "0x10", "1e9", "inf", "nan", ".5",
					   "1.2.3", "99999999999999P", "1,5G" };
	uint64_t v = 77;

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		ck_assert_msg(nf_size_parse(bad[i], &v) == -NF_E_OPTION, "%s", bad[i]);
	ck_assert_uint_eq(v, 77);
}
END_TEST

START_TEST(times_are_seconds_unless_they_say_otherwise)
{
	uint64_t ms;

	ck_assert_int_eq(nf_time_parse("5", &ms), 0);
	ck_assert_uint_eq(ms, 5000);
	ck_assert_int_eq(nf_time_parse("0.5", &ms), 0);
	ck_assert_uint_eq(ms, 500);
	ck_assert_int_eq(nf_time_parse("200ms", &ms), 0);
	ck_assert_uint_eq(ms, 200);
	ck_assert_int_eq(nf_time_parse("2min", &ms), 0);
	ck_assert_uint_eq(ms, 120000);
	ck_assert_int_eq(nf_time_parse("1h", &ms), 0);
	ck_assert_uint_eq(ms, 3600000);
	ck_assert_int_eq(nf_time_parse("1d", &ms), -NF_E_OPTION);
	ck_assert_int_eq(nf_count_parse("12x", &ms), -NF_E_OPTION);
	ck_assert_int_eq(nf_count_parse("-3", &ms), -NF_E_OPTION);
}
END_TEST

static int list(struct nf_options *o, const char *s, const char *complaint)
{
	struct nf_text err = NF_TEXT_INIT;
	int r = nf_options_list(o, s, &err);

	ck_assert_msg(strstr(nf_text_str(&err), complaint) != NULL, "%s: %s", s, nf_text_str(&err));
	nf_text_deinit(&err);
	return r;
}

START_TEST(a_line_of_fstab_is_understood)
{
	struct nf_options o = { 0 };

	ck_assert_int_eq(list(&o, "ro,noauto,_netdev,nofail,x-systemd.automount,x-systemd.idle-timeout=60,uid=1000,"
				  "cache_size=2G,write-back=250ms,noatime,nosuid,fsync=remote,,defaults", ""), 0);
	ck_assert(o.ro);
	ck_assert_uint_eq(o.cache_size, UINT64_C(2) << 30);
	ck_assert_uint_eq(o.write_back_ms, 250);
	ck_assert_str_eq(nf_text_str(&o.kernel), "noatime,nosuid");
	ck_assert_str_eq(o.fsync, "remote");
	nf_options_deinit(&o);
}
END_TEST

START_TEST(mount_options_not_known_are_refused_by_name)
{
	struct nf_options o = { 0 };

	ck_assert_int_eq(list(&o, "ro,colour=red", "unknown option: colour"), -NF_E_OPTION);
	ck_assert_int_eq(list(&o, "json", "unknown option: json"), -NF_E_OPTION);
	ck_assert_int_eq(list(&o, "ro=1", "ro takes no value"), -NF_E_OPTION);
	ck_assert_int_eq(list(&o, "cache_size", "cache-size needs a value"), -NF_E_OPTION);
	ck_assert_int_eq(list(&o, "cache_size=much", "\"much\" is not a size"), -NF_E_OPTION);
	nf_options_deinit(&o);
}
END_TEST

static enum nf_exit nothing(struct nf_args *a)
{
	(void)a;
	return NF_EXIT_OK;
}

static const struct nf_command mount_like = { "mount", "STORE DIR", "Mount", NULL,
					      NF_OPT_STORE | NF_OPT_MOUNT | NF_OPT_FRONT, 2, 2, nothing };

static int parse(struct nf_args *a, const char *complaint, int argc, const char *const *argv)
{
	struct nf_text err = NF_TEXT_INIT;
	int r = nf_args_parse(&mount_like, argc, (char **)(uintptr_t)argv, a, &err);

	ck_assert_msg(strstr(nf_text_str(&err), complaint) != NULL, "%s", nf_text_str(&err));
	nf_text_deinit(&err);
	return r;
}
#define PARSE(a, complaint, ...) \
	parse(a, complaint, sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *), (const char *[]){ __VA_ARGS__ })

START_TEST(options_and_arguments_come_in_any_order)
{
	struct nf_args a = { 0 };

	ck_assert_int_eq(PARSE(&a, "", "s", "-fo", "ro", "--poll=2s", "--cache-size", "1G", "--", "-d"), 0);
	ck_assert_int_eq(a.nr, 2);
	ck_assert_str_eq(a.arg[0], "s");
	ck_assert_str_eq(a.arg[1], "-d");
	ck_assert(a.opt.foreground && a.opt.ro);
	ck_assert_uint_eq(a.opt.poll_ms, 2000);
	ck_assert_uint_eq(a.opt.cache_size, 1 << 30);
	nf_options_deinit(&a.opt);
}
END_TEST

START_TEST(too_much_and_too_little_is_said)
{
	struct nf_args a = { 0 };

	ck_assert_int_eq(PARSE(&a, "one argument too many: c", "a", "b", "c"), -NF_E_OPTION);
	a.nr = 0;
	ck_assert_int_eq(PARSE(&a, "an argument is missing", "a"), -NF_E_OPTION);
	a.nr = 0;
	ck_assert_int_eq(PARSE(&a, "unknown option: --json", "--json", "a", "b"), -NF_E_OPTION);
	a.nr = 0;
	ck_assert_int_eq(PARSE(&a, "unknown option: -z", "-z", "a", "b"), -NF_E_OPTION);
	a.nr = 0;
	ck_assert_int_eq(PARSE(&a, "poll needs a value", "a", "b", "--poll"), -NF_E_OPTION);
	nf_options_deinit(&a.opt);
}
END_TEST

/* --- configuration ----------------------------------------------------------------------- */

static int config(const char *text, const char *name, struct nf_config_mount *m, const char *complaint)
{
	struct nf_text err = NF_TEXT_INIT;
	int r = nf_config_parse("f", text, name, "s2", "d2", m, &err);

	ck_assert_msg(strstr(nf_text_str(&err), complaint) != NULL, "%s", nf_text_str(&err));
	nf_text_deinit(&err);
	return r;
}

static const char two[] = "# comment\n; another\n\n [a] \nstore=s1\ndir = d1\n  cache_size = 3K\nallow_other = yes\n"
			  "[b]\r\nstore = s2\ndir = d2\nro = false\nnoatime = true\n";

START_TEST(a_section_is_found_by_its_name_or_by_what_it_mounts)
{
	struct nf_config_mount m = { 0 };

	ck_assert_int_eq(config(two, "a", &m, ""), 0);
	ck_assert_str_eq(m.store, "s1");
	ck_assert_uint_eq(m.opt.cache_size, 3072);
	ck_assert(m.opt.allow_other);
	nf_config_mount_deinit(&m);
	ck_assert_int_eq(config(two, NULL, &m, ""), 0);
	ck_assert_str_eq(m.dir, "d2");
	ck_assert(!m.opt.ro);
	ck_assert_str_eq(nf_text_str(&m.opt.kernel), "noatime");
	nf_config_mount_deinit(&m);
	ck_assert_int_eq(config(two, "c", &m, ""), -ENOENT);
}
END_TEST

START_TEST(a_mistake_in_the_file_is_named_by_line)
{
	struct nf_config_mount m = { 0 };

	ck_assert_int_eq(config("[a]\nstore=s\ndir=d\ncolour=red\n", "b", &m, "f:4: unknown key: colour"), -NF_E_OPTION);
	ck_assert_int_eq(config("store=s\n", "b", &m, "f:1: no [section] yet"), -NF_E_OPTION);
	ck_assert_int_eq(config("[a\n", "b", &m, "f:1: malformed section"), -NF_E_OPTION);
	ck_assert_int_eq(config("[a]\njust words\n", "b", &m, "f:2: key = value is expected"), -NF_E_OPTION);
	ck_assert_int_eq(config("[a]\nstore=s\n", "a", &m, "needs store= and dir="), -NF_E_OPTION);
	ck_assert_int_eq(config("[a]\nstore=s\ndir=d\nro=perhaps\n", "a", &m, "true or false"), -NF_E_OPTION);
	ck_assert_int_eq(config("[a]\nstore=s\ndir=d\npoll=soon\n", "a", &m, "f:4: poll: \"soon\""), -NF_E_OPTION);
}
END_TEST

START_TEST(the_command_line_goes_before_the_configuration)
{
	struct nf_options o = { 0 }, conf = { 0 };

	ck_assert_int_eq(list(&o, "cache_size=1K,fsync=local", ""), 0);
	ck_assert_int_eq(list(&conf, "cache_size=2K,fsync=remote,poll=3,ro,noexec", ""), 0);
	nf_options_defaults(&o, &conf);
	nf_options_deinit(&conf);
	ck_assert_uint_eq(o.cache_size, 1024);
	ck_assert_str_eq(o.fsync, "local");
	ck_assert_uint_eq(o.poll_ms, 3000);
	ck_assert(o.ro);
	ck_assert_str_eq(nf_text_str(&o.kernel), "noexec");
	nf_options_deinit(&o);
}
END_TEST

START_TEST(failures_have_the_exit_codes_of_the_table)
{
	ck_assert_int_eq(nf_exit_of(0), 0);
	ck_assert_int_eq(nf_exit_of(-NF_E_KEY_WRONG), 3);
	ck_assert_int_eq(nf_exit_of(-NF_E_STORE_DENIED), 4);
	ck_assert_int_eq(nf_exit_of(-NF_E_OFFLINE), 5);
	ck_assert_int_eq(nf_exit_of(-NF_E_HEADER_MISSING), 6);
	ck_assert_int_eq(nf_exit_of(-NF_E_HEADER_LOST), 6);
	ck_assert_int_eq(nf_exit_of(-NF_E_HEAD_ROLLBACK), 7);
	ck_assert_int_eq(nf_exit_of(-NF_E_CACHE_LOCKED), 8);
	ck_assert_int_eq(nf_exit_of(-NF_E_STORE_FULL), 9);
	ck_assert_int_eq(nf_exit_of(-NF_E_TREE_BAD), 10);
	ck_assert_int_eq(nf_exit_of(-NF_E_STORE_NOT_DAV), 13);
	ck_assert_int_eq(nf_exit_of(-NF_E_STORE_PROTOCOL), 13);
	ck_assert_int_eq(nf_exit_of_stage(-EPERM, NF_STAGE_MOUNT), 11);
	ck_assert_int_eq(nf_exit_of_stage(-EBUSY, NF_STAGE_MOUNT), 8);
	ck_assert_int_eq(nf_exit_of_stage(-ENOENT, NF_STAGE_STORE), 6);
	ck_assert_int_eq(nf_exit_of_stage(-ENOENT, NF_STAGE_VAULT), 1);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "options", 10);

	tcase_add_test(tc, sizes_have_suffixes);
	tcase_add_test(tc, what_is_no_size_is_refused);
	tcase_add_test(tc, times_are_seconds_unless_they_say_otherwise);
	tcase_add_test(tc, a_line_of_fstab_is_understood);
	tcase_add_test(tc, mount_options_not_known_are_refused_by_name);
	tcase_add_test(tc, options_and_arguments_come_in_any_order);
	tcase_add_test(tc, too_much_and_too_little_is_said);
	tcase_add_test(tc, a_section_is_found_by_its_name_or_by_what_it_mounts);
	tcase_add_test(tc, a_mistake_in_the_file_is_named_by_line);
	tcase_add_test(tc, the_command_line_goes_before_the_configuration);
	tcase_add_test(tc, failures_have_the_exit_codes_of_the_table);
}

NF_SUITE("cli/options")
