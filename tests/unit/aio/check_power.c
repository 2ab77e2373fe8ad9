/* What says whether the machine runs on battery: real ones, odd ones and hostile ones. */
#include "aio/power.h"
#include "suite.h"
#include "tempdir.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct nf_tempdir dir;

static void setup(void) { dir = nf_tempdir_new(); }

static void teardown(void) { nf_tempdir_gone(&dir); }

static void say(const char *supply, const char *name, const char *text)
{
	char path[500];

	snprintf(path, sizeof path, "%s/%s", dir.path, supply);
	(void)mkdir(path, 0700);
	snprintf(path, sizeof path, "%s/%s/%s", dir.path, supply, name);
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

START_TEST(a_machine_without_supplies_or_without_the_folder_is_not_on_battery)
{
	ck_assert(!nf_on_battery(dir.path));
	ck_assert(!nf_on_battery("/nowhere/at/all"));
}
END_TEST

START_TEST(a_battery_in_use_counts_unless_something_feeds_the_machine)
{
	say("BAT0", "type", "Battery\n");
	say("BAT0", "status", "Full\n");
	ck_assert(!nf_on_battery(dir.path));
	say("BAT0", "status", "Discharging\n");
	ck_assert(nf_on_battery(dir.path));
	say("AC", "type", "Mains\n");
	say("AC", "online", "0\n");
	ck_assert(nf_on_battery(dir.path));
	say("AC", "online", "1\n");
	ck_assert(!nf_on_battery(dir.path));
	say("AC", "online", "0\n");
	say("ucsi", "type", "USB\n");
	say("ucsi", "online", "2\n");
	ck_assert(!nf_on_battery(dir.path));
}
END_TEST

START_TEST(the_battery_of_a_mouse_is_not_the_machines)
{
	say("hid", "type", "Battery\n");
	say("hid", "scope", "Device\n");
	say("hid", "status", "Discharging\n");
	ck_assert(!nf_on_battery(dir.path));
	say("BAT0", "type", "Battery\n");
	say("BAT0", "scope", "System\n");
	say("BAT0", "status", "Discharging\n");
	ck_assert(nf_on_battery(dir.path));
}
END_TEST

START_TEST(what_is_not_understood_says_nothing_and_holds_up_nobody)
{
	static char large[1 << 20];
	char path[500], other[500];

	memset(large, 'B', sizeof large - 1);
	say("BAT0", "type", large);
	say("BAT0", "status", "Discharging\n");
	ck_assert(!nf_on_battery(dir.path));
	say("BAT0", "type", "Battery and more than any type that is known\n");
	ck_assert(!nf_on_battery(dir.path));
	say("BAT0", "type", "");
	ck_assert(!nf_on_battery(dir.path));
	/* Pipes, folders and links where files are expected; a file where a supply is. */
	say("BAT0", "type", "Battery\n");
	say("AC", "type", "Mains\n");
	snprintf(path, sizeof path, "%s/AC/online", dir.path);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert(nf_on_battery(dir.path));
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert(nf_on_battery(dir.path));
	ck_assert_int_eq(rmdir(path), 0);
	say("elsewhere", "online", "1\n");
	snprintf(other, sizeof other, "%s/elsewhere/online", dir.path);
	ck_assert_int_eq(symlink(other, path), 0);
	ck_assert(nf_on_battery(dir.path));
	snprintf(path, sizeof path, "%s/file", dir.path);
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fclose(f), 0);
	ck_assert(nf_on_battery(dir.path));
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "power", 20);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_machine_without_supplies_or_without_the_folder_is_not_on_battery);
	tcase_add_test(tc, a_battery_in_use_counts_unless_something_feeds_the_machine);
	tcase_add_test(tc, the_battery_of_a_mouse_is_not_the_machines);
	tcase_add_test(tc, what_is_not_understood_says_nothing_and_holds_up_nobody);
}

NF_SUITE("aio/power")
