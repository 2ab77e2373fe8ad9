/* Snapshots: values, and what machines do with them. */
#include "vfs.h"

#include "store/fault.h"
#include "vault/item.h"

static const struct nf_pack_id self = { { 7 } };

static struct nf_snapshot_entry entry(const char *name, uint8_t rand)
{
	return (struct nf_snapshot_entry){ .name = name, .name_len = (uint8_t)strlen(name), .seq = rand, .rand = { rand },
					   .root = { .pack = self, .sealed_len = 100, .plain_len = 60, .epoch = 1 } };
}

START_TEST(a_value_holds_names_in_order_and_one_name_for_two_heads)
{
	nf_auto(nf_buf_deinit) struct nf_buf a = NF_BUF_INIT, b = NF_BUF_INIT, c = NF_BUF_INIT, d = NF_BUF_INIT;
	struct nf_snapshot_entry two = entry("same", 2), one = entry("same", 1), other = entry("oth", 3), got;
	size_t pos = 0;

	ck_assert_int_eq(nf_snapshot_edit(NULL, 0, &self, &two, true, &a), 0);
	ck_assert_int_eq(nf_snapshot_edit(a.p, a.len, &self, &one, true, &b), 0);
	ck_assert_int_eq(nf_snapshot_edit(b.p, b.len, &self, &other, true, &c), 0);
	ck_assert_int_eq(nf_snapshot_edit(c.p, c.len, &self, &one, true, &d), -EEXIST);
	ck_assert_int_eq(nf_snapshot_iter(c.p, c.len, &self, &pos, &got), 0);
	ck_assert(got.name_len == 3 && got.seq == 3);
	ck_assert_int_eq(nf_snapshot_iter(c.p, c.len, &self, &pos, &got), 0);
	ck_assert(got.name_len == 4 && got.rand[0] == 1 && nf_ref_equal(&got.root, &one.root));
	ck_assert_int_eq(nf_snapshot_iter(c.p, c.len, &self, &pos, &got), 0);
	ck_assert(got.rand[0] == 2);
	ck_assert_int_eq(nf_snapshot_iter(c.p, c.len, &self, &pos, &got), NF_TREE_NONE);
	d.len = 0;
	ck_assert_int_eq(nf_snapshot_edit(c.p, c.len, &self, &two, false, &d), 0);
	ck_assert_int_eq(nf_snapshot_edit(d.p, d.len, &self, &two, false, &a), -ENOENT);
	a.len = 0;
	nf_snapshot_put(&a, &two);
	nf_snapshot_put(&a, &one);
	pos = 0;
	ck_assert_int_eq(nf_snapshot_iter(a.p, a.len, &self, &pos, &got), 0);
	ck_assert_int_eq(nf_snapshot_iter(a.p, a.len, &self, &pos, &got), -NF_E_FORMAT_BAD);
}
END_TEST

struct names {
	unsigned nr;
	struct nf_snapshot s[8];
};

static bool add(void *ctx, const struct nf_snapshot *s)
{
	struct names *n = ctx;

	ck_assert_uint_lt(n->nr, 8);
	n->s[n->nr++] = *s;
	return true;
}

static struct names names_of(struct vfs *m)
{
	struct names n = { 0 };

	ck_assert_int_eq(nf_vault_snapshots(m->v, add, &n), 0);
	return n;
}

static int open_at(const struct vfs_site *s, const char *name, struct vfs *m)
{
	char cache[200], state[200];
	struct nf_vault_options o = vfs_options(s, "reader", cache, state);

	o.read_only = true;
	o.snapshot = name;
	int r = nf_vault_open(&o, &m->v);
	if (r == 0)
		m->fs = nf_vault_fs(m->v);
	return r;
}

START_TEST(a_snapshot_shows_what_was_there_whatever_happens_after)
{
	struct vfs_site s;
	struct vfs r;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_puts(&a, "/f", "old"), 0);
	ck_assert_int_eq(nf_vault_snapshot_create(a.v, "monday", NULL), 0);
	ck_assert_int_eq(nf_vault_snapshot_create(a.v, "monday", NULL), -EEXIST);
	ck_assert_int_eq(nf_vault_snapshot_create(a.v, "a/b", NULL), -EINVAL);
	ck_assert_int_eq(vfs_puts(&a, "/f", "new"), 0);
	ck_assert_int_eq(vfs_puts(&a, "/g", "more"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_unlink(&b, "/f", false), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_uint_eq(names_of(&b).nr, 1);
	ck_assert_int_eq(open_at(&s, "tuesday", &r), -NF_E_SNAPSHOT_NONE);
	ck_assert_int_eq(open_at(&s, "monday", &r), 0);
	ck_assert_int_eq(vfs_checks(&r, "/f", "old"), 0);
	ck_assert_int_lt(vfs_checks(&r, "/g", "more"), 0);
	ck_assert_int_eq(vfs_refresh(&r), 0);
	ck_assert_int_eq(vfs_checks(&r, "/f", "old"), 0);
	ck_assert_int_eq(nf_vault_snapshot_create(r.v, "x", NULL), -EROFS);
	vfs_unmount(&r);
	ck_assert_int_eq(nf_vault_snapshot_remove(b.v, "monday", NULL, NULL), 0);
	ck_assert_int_eq(nf_vault_snapshot_remove(b.v, "monday", NULL, NULL), -NF_E_SNAPSHOT_NONE);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_uint_eq(names_of(&a).nr, 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

/* Nobody could tell the mount of it that what this machine sent is there: it has no committer. */
START_TEST(a_snapshot_has_nothing_to_send_whatever_its_machine_sent)
{
	char cache[200], state[200];
	struct vfs_site s;
	struct nf_vault *v;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_puts(&a, "/f", "old"), 0);
	ck_assert_int_eq(nf_vault_snapshot_create(a.v, "monday", NULL), 0);
	vfs_unmount(&a);
	struct nf_vault_options o = vfs_options(&s, "a", cache, state);
	struct nf_store *below = o.store;
	ck_assert_int_eq(nf_store_fault_new(below, "drop=1&verbs=list", &o.store), 0);
	o.read_only = true;
	o.snapshot = "monday";
	ck_assert_int_eq(nf_vault_open(&o, &v), 0);
	ck_assert_int_eq(nf_vault_sync(v, NULL), 0);
	nf_vault_close(v);
	vfs_site_deinit(&s);
}
END_TEST

/* Both make it before either sees the other's. */
START_TEST(one_name_given_by_two_machines_stands_for_both)
{
	struct vfs_site s;
	struct vfs r;
	char full[300];

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_puts(&a, "/f", "of a"), 0);
	ck_assert_int_eq(vfs_puts(&b, "/g", "of b"), 0);
	ck_assert_int_eq(nf_vault_snapshot_create(b.v, "day", NULL), 0);
	ck_assert_int_eq(nf_vault_snapshot_create(a.v, "day", NULL), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	struct names n = names_of(&b);
	ck_assert_uint_eq(n.nr, 2);
	ck_assert_int_eq(open_at(&s, "day", &r), -NF_E_SNAPSHOT_AMBIGUOUS);
	unsigned with_f = 0;
	for (unsigned i = 0; i < 2; i++) {
		snprintf(full, sizeof full, "%s@%s", n.s[i].name, n.s[i].id);
		ck_assert_int_eq(open_at(&s, full, &r), 0);
		with_f += vfs_checks(&r, "/f", "of a") == 0;
		ck_assert_int_eq(vfs_checks(&r, "/g", "of b"), 0);
		vfs_unmount(&r);
	}
	ck_assert_uint_eq(with_f, 1);
	ck_assert_int_eq(nf_vault_snapshot_remove(a.v, "day", NULL, NULL), -NF_E_SNAPSHOT_AMBIGUOUS);
	ck_assert_int_eq(nf_vault_snapshot_remove(a.v, "day", n.s[0].id, NULL), 0);
	ck_assert_uint_eq(names_of(&a).nr, 1);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "snapshot", 60);
	tcase_add_test(tc, a_value_holds_names_in_order_and_one_name_for_two_heads);
	tcase_add_test(tc, a_snapshot_shows_what_was_there_whatever_happens_after);
	tcase_add_test(tc, a_snapshot_has_nothing_to_send_whatever_its_machine_sent);
	tcase_add_test(tc, one_name_given_by_two_machines_stands_for_both);
}

NF_SUITE("vault/snapshot")
