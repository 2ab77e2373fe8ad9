/* A store that has lost what it was sent last: who stood on it puts it back when he is told to, and only then. */
#include "vfs.h"

#include <stdlib.h>

enum { LOST_HEADS, LOST_ALL };

static char said[1 << 14];

static void note(void *ctx, const char *line)
{
	(void)ctx;
	strncat(said, line, sizeof said - strlen(said) - 2);
	strcat(said, "\n");
}

static uint64_t repair(struct vfs *m)
{
	struct nf_check_options o = { .repair = true, .report = note };
	struct nf_check_result r;

	said[0] = '\0';
	ck_assert_int_eq(nf_vault_check(m->v, &o, &r), 0);
	return r.problems;
}

/* A vault in a directory, which can be what it was. */
static void site_init(struct vfs_site *s)
{
	memset(s, 0, sizeof *s);
	s->dir = nf_tempdir_new();
	snprintf(s->address, sizeof s->address, "%.180s/store", s->dir.path);
	ck_assert_int_eq(mkdir(s->address, 0700), 0);
	ck_assert_int_eq(nf_header_new(&s->header), 0);
	s->keep = vfs_store(s);
	ck_assert_int_eq(nf_vault_format(s->keep, s->header, "test"), 0);
}

static void shell(const struct vfs_site *s, const char *what)
{
	char cmd[700];

	snprintf(cmd, sizeof cmd, "cd '%s' && %s", s->dir.path, what);
	ck_assert_int_eq(system(cmd), 0);
}

static void remember_store(const struct vfs_site *s) { shell(s, "rm -rf before && cp -a store before"); }

static void lose(const struct vfs_site *s, int what)
{
	shell(s, what == LOST_HEADS ? "rm -rf store/heads && cp -a before/heads store/heads" : "rm -rf store && cp -a before store");
}

static int open_as(const struct vfs_site *s, const char *name, bool put_back, struct vfs *m)
{
	char cache[200], state[200];
	struct nf_vault_options o = vfs_options(s, name, cache, state);

	o.repair = put_back;
	int r = nf_vault_open(&o, &m->v);
	if (r == 0)
		m->fs = nf_vault_fs(m->v);
	return r;
}

/* A fresh machine sees PATH with TEXT, and nothing is wrong. */
static void stranger_sees(const struct vfs_site *s, const char *path, const char *text)
{
	static int nr;
	char name[20];

	snprintf(name, sizeof name, "stranger%d", ++nr);
	struct vfs m = vfs_mount(s, name);
	ck_assert_int_eq(vfs_checks(&m, path, text), 0);
	ck_assert_uint_eq(vfs_problems(&m), 0);
	vfs_unmount(&m);
}

/* _i: what is lost.  Everything that was sent since is in the cache of who sent it. */
START_TEST(who_sent_it_puts_it_back_when_told_to)
{
	struct vfs_site s;
	struct vfs a;

	site_init(&s);
	a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_puts(&a, "/f", "one"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	remember_store(&s);
	ck_assert_int_eq(vfs_puts(&a, "/f", "two"), 0);
	ck_assert_int_eq(vfs_puts(&a, "/g", "more"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	lose(&s, _i);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(open_as(&s, "a", false, &a), -NF_E_HEAD_ROLLBACK);
	stranger_sees(&s, "/f", "one");
	ck_assert_int_eq(open_as(&s, "a", true, &a), 0);
	ck_assert_uint_eq(repair(&a), 0);
	ck_assert(strstr(said, "put there again"));
	ck_assert_int_eq(vfs_checks(&a, "/f", "two"), 0);
	vfs_unmount(&a);
	stranger_sees(&s, "/g", "more");
	a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_puts(&a, "/f", "three"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(repair(&a), 0);
	ck_assert(!strstr(said, "put there again"));
	vfs_unmount(&a);
	stranger_sees(&s, "/f", "three");
	vfs_site_deinit(&s);
}
END_TEST

/* The other went on with the head before: both are there. */
START_TEST(what_others_made_of_the_head_before_is_merged)
{
	struct vfs_site s;
	struct vfs a;

	site_init(&s);
	a = vfs_mount(&s, "a");
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_puts(&a, "/f", "one"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	remember_store(&s);
	ck_assert_int_eq(vfs_puts(&a, "/of-a", "a"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	lose(&s, _i);
	ck_assert_int_eq(vfs_puts(&b, "/of-b", "b"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), -NF_E_HEAD_ROLLBACK);
	ck_assert_int_eq(vfs_puts(&a, "/later", "not sent yet"), 0);
	ck_assert_int_lt(vfs_sync(&a), 0);
	ck_assert_uint_eq(repair(&a), 0);
	ck_assert_int_eq(vfs_checks(&a, "/of-b", "b"), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_checks(&b, "/of-a", "a"), 0);
	ck_assert_int_eq(vfs_checks(&b, "/later", "not sent yet"), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	stranger_sees(&s, "/later", "not sent yet");
	vfs_site_deinit(&s);
}
END_TEST

/* Whose commit it was is gone for good; who took it over has it.  Two do the same: that is one state. */
START_TEST(who_took_it_over_puts_it_back_for_who_made_it)
{
	struct vfs_site s;
	struct vfs a, b;

	site_init(&s);
	a = vfs_mount(&s, "a");
	b = vfs_mount(&s, "b");
	struct vfs c = vfs_mount(&s, "c");
	remember_store(&s);
	ck_assert_int_eq(vfs_puts(&c, "/f", "of c"), 0);
	ck_assert_int_eq(vfs_sync(&c), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(vfs_checks(&a, "/f", "of c"), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_checks(&b, "/f", "of c"), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_unmount(&c);
	lose(&s, LOST_HEADS);
	ck_assert_int_eq(open_as(&s, "a", true, &a), 0);
	shell(&s, "mkdir aside && mv store/heads aside/ && cp -a before/heads store/heads");
	ck_assert_int_eq(open_as(&s, "b", true, &b), 0);
	shell(&s, "cp -a aside/heads/. store/heads/");
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	struct nf_vault_status as, bs;
	nf_vault_status(a.v, &as);
	nf_vault_status(b.v, &bs);
	ck_assert_str_eq(as.fingerprint, bs.fingerprint);
	ck_assert_uint_eq(as.forks + bs.forks, 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	c = vfs_mount(&s, "c");
	ck_assert_int_eq(vfs_puts(&c, "/g", "goes on"), 0);
	ck_assert_int_eq(vfs_sync(&c), 0);
	vfs_unmount(&c);
	stranger_sees(&s, "/g", "goes on");
	stranger_sees(&s, "/f", "of c");
	vfs_site_deinit(&s);
}
END_TEST

/* All heads: to others it is no vault any more. */
START_TEST(a_store_without_any_head_gets_the_newest_again)
{
	struct vfs_site s;
	struct vfs a;

	site_init(&s);
	a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_puts(&a, "/f", "one"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	shell(&s, "rm -rf store/heads");
	ck_assert_int_eq(vfs_refresh(&a), -NF_E_HEAD_ROLLBACK);
	ck_assert_uint_eq(repair(&a), 0);
	vfs_unmount(&a);
	stranger_sees(&s, "/f", "one");
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "lost head", 60);

	tcase_add_loop_test(tc, who_sent_it_puts_it_back_when_told_to, LOST_HEADS, LOST_ALL + 1);
	tcase_add_loop_test(tc, what_others_made_of_the_head_before_is_merged, LOST_HEADS, LOST_ALL + 1);
	tcase_add_test(tc, who_took_it_over_puts_it_back_for_who_made_it);
	tcase_add_test(tc, a_store_without_any_head_gets_the_newest_again);
}

NF_SUITE("vault/lost_head")
