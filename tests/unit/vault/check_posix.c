/* What the vault does by itself of POSIX's rules on modes and ACLs; the kernel checks permissions before. */
#include "vfs.h"

#include "vault/vault_i.h"

#include <linux/falloc.h>

static uint64_t make(struct vfs *m, const char *name, uint32_t mode)
{
	struct nf_call c = { .op = NF_CALL_MKNOD, .ino = 1, .mode = S_ISDIR(mode) ? mode & 07777 : mode };

	if (S_ISDIR(mode))
		c.op = NF_CALL_MKDIR;
	snprintf(c.name, sizeof c.name, "%s", name);
	ck_assert_int_eq(vfs_call(m, &c), 0);
	return c.attr.ino;
}

static uint32_t mode_of(struct vfs *m, uint64_t ino)
{
	struct nf_call c = { .op = NF_CALL_GETATTR, .ino = ino };

	ck_assert_int_eq(vfs_call(m, &c), 0);
	return c.attr.mode & 07777;
}

static void chown_by_kernel(struct vfs *m, uint64_t ino)
{
	struct nf_call c = { .op = NF_CALL_SETATTR, .ino = ino, .attr.uid = 5,
			     .mask = NF_SET_UID | NF_SET_KILL_SUIDGID };
	ck_assert_int_eq(vfs_call(m, &c), 0);
}

START_TEST(a_new_owner_clears_set_id_bits_of_everything_but_directories)
{
	static const uint32_t kinds[] = { S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR };
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	char name[2] = "a";

	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++, name[0]++) {
		uint64_t ino = make(&a, name, kinds[i] | 06755);
		chown_by_kernel(&a, ino);
		ck_assert_uint_eq(mode_of(&a, ino), 0755);
	}
	/* Set-gid without execution by the group is not a right. */
	uint64_t locking = make(&a, "locking", S_IFREG | 06745);
	chown_by_kernel(&a, locking);
	ck_assert_uint_eq(mode_of(&a, locking), 02745);
	uint64_t dir = make(&a, "dir", S_IFDIR | 06755);
	chown_by_kernel(&a, dir);
	ck_assert_uint_eq(mode_of(&a, dir), 06755);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* Opens FILE, says what the kernel says of somebody without the right to keep the bits, and closes it. */
static struct nf_open_file *open_as_other(struct vfs *m, uint64_t ino, uint32_t flags, uint32_t mask)
{
	struct nf_call c = { .op = NF_CALL_OPEN, .ino = ino, .flags = flags, .mask = mask, .uid = 5 };

	ck_assert_int_eq(vfs_call(m, &c), 0);
	return c.file;
}

START_TEST(truncation_at_open_clears_set_id_bits_if_the_kernel_asks)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	for (int full = 0; full < 2; full++) {
		uint64_t ino = make(&a, full ? "full" : "empty", S_IFREG | 06755);
		if (full)
			ck_assert_int_eq(vfs_puts(&a, "/full", "text"), 0);
		vfs_close(&a, open_as_other(&a, ino, O_WRONLY | O_TRUNC, 0), ino);
		ck_assert_uint_eq(mode_of(&a, ino), 06755);
		vfs_close(&a, open_as_other(&a, ino, O_WRONLY, NF_SET_KILL_SUIDGID), ino);
		ck_assert_uint_eq(mode_of(&a, ino), 06755);
		vfs_close(&a, open_as_other(&a, ino, O_WRONLY | O_TRUNC, NF_SET_KILL_SUIDGID), ino);
		ck_assert_uint_eq(mode_of(&a, ino), 0755);
	}
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(fallocate_clears_set_id_bits_unless_by_root)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	uint64_t ino = make(&a, "f", S_IFREG | 06755);
	struct nf_open_file *f = open_as_other(&a, ino, O_RDWR, 0);

	for (uint32_t uid = 0; uid < 2; uid++) {
		struct nf_call c = { .op = NF_CALL_FALLOCATE, .ino = ino, .file = f, .size = 9000, .uid = uid };
		ck_assert_int_eq(vfs_call(&a, &c), 0);
		ck_assert_uint_eq(mode_of(&a, ino), uid ? 0755 : 06755);
	}
	vfs_close(&a, f, ino);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

static int set_acl(struct vfs *m, uint64_t ino, const void *acl, size_t len)
{
	struct nf_call c = { .op = NF_CALL_SETXATTR, .ino = ino, .name = "system.posix_acl_access",
			     .data = acl, .size = len };
	return vfs_call(m, &c);
}

static size_t acl_len(struct vfs *m, uint64_t ino)
{
	struct nf_call c = { .op = NF_CALL_GETXATTR, .ino = ino, .name = "system.posix_acl_access" };
	int r = vfs_call(m, &c);

	ck_assert(r == 0 || r == -ENODATA);
	return r ? 0 : c.count;
}

/* What acl(5) calls a minimal and an extended one. */
static const uint8_t minimal[] = { 2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255,
				   0x20, 0, 0, 0, 255, 255, 255, 255 };
static const uint8_t extended[] = { 2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 9, 0, 0, 0,
				    4, 0, 4, 0, 255, 255, 255, 255, 0x10, 0, 6, 0, 255, 255, 255, 255,
				    0x20, 0, 0, 0, 255, 255, 255, 255 };

START_TEST(an_acl_that_says_no_more_than_the_mode_leaves_nothing_behind_not_even_in_the_journal)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	uint64_t ino = make(&a, "f", S_IFREG | 0644);

	ck_assert_int_eq(set_acl(&a, ino, extended, sizeof extended), 0);
	ck_assert_uint_eq(acl_len(&a, ino), sizeof extended);
	ck_assert_uint_eq(mode_of(&a, ino), 0660);
	ck_assert_int_eq(set_acl(&a, ino, minimal, sizeof minimal), 0);
	ck_assert_uint_eq(acl_len(&a, ino), 0);
	ck_assert_uint_eq(mode_of(&a, ino), 0640);
	/* The journal is read again, and another machine reads what it says. */
	vfs_unmount(&a);
	a = vfs_mount(&s, "a");
	ck_assert_uint_eq(acl_len(&a, ino), 0);
	ck_assert_uint_eq(mode_of(&a, ino), 0640);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_uint_eq(acl_len(&b, ino), 0);
	ck_assert_uint_eq(mode_of(&b, ino), 0640);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

static struct timespec mtime_of(struct vfs *m, uint64_t ino)
{
	struct nf_call c = { .op = NF_CALL_GETATTR, .ino = ino };

	ck_assert_int_eq(vfs_call(m, &c), 0);
	return c.attr.mtime;
}

static bool later(struct timespec a, struct timespec b)
{
	return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

START_TEST(a_change_that_moves_no_byte_changes_the_times_for_good)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	for (int i = 0; i < 3; i++) {
		struct timespec before = mtime_of(&a, ino), now;
		struct nf_call punch = { .op = NF_CALL_FALLOCATE, .ino = ino, .file = f, .size = 4096,
					 .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
		if (i == 0)
			ck_assert_int_eq(vfs_truncate(&a, "/f", 0), 0);
		else if (i == 1)
			ck_assert_int_eq(vfs_call(&a, &punch), 0);
		else
			vfs_close(&a, open_as_other(&a, ino, O_WRONLY | O_TRUNC, 0), ino);
		now = mtime_of(&a, ino);
		ck_assert(later(now, before));
		vfs_close(&a, f, ino);
		vfs_unmount(&a);
		a = vfs_mount(&s, "a");
		struct timespec after = mtime_of(&a, ino);
		ck_assert(!later(now, after) && !later(after, now));
		ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR, 0, &f, &ino), 0);
	}
	vfs_close(&a, f, ino);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(the_count_of_inodes_is_never_less_than_the_free_ones)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	struct nf_call before = { .op = NF_CALL_STATFS, .ino = 1 }, after = before;

	ck_assert_int_eq(vfs_call(&a, &before), 0);
	ck_assert_uint_ge(before.statfs.files, before.statfs.files_free);
	(void)make(&a, "f", S_IFREG | 0644);
	ck_assert_int_eq(vfs_call(&a, &after), 0);
	ck_assert_uint_eq(after.statfs.files - after.statfs.files_free,
			  before.statfs.files - before.statfs.files_free + 1);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

static int quota_error;

static int quota(struct nf_store *s, uint64_t *used_bytes, uint64_t *free_bytes)
{
	(void)s;
	*used_bytes = 1;
	*free_bytes = 5 << 20;
	return quota_error;
}

static uint64_t room_of(struct vfs *m)
{
	struct nf_call c = { .op = NF_CALL_STATFS, .ino = 1 };

	ck_assert_int_eq(vfs_call(m, &c), 0);
	ck_assert_uint_ge(c.statfs.total_bytes, c.statfs.free_bytes);
	return c.statfs.free_bytes;
}

static bool is_due(struct nf_vault *v, uint64_t at_ns)
{
	nf_lock_take(&v->ns);
	bool due = nf_quota_due(v, at_ns);
	nf_lock_drop(&v->ns);
	return due;
}

START_TEST(the_room_is_what_the_server_says_and_it_is_asked_when_somebody_wants_to_know)
{
	const uint64_t unknown = UINT64_C(1) << 50;
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	struct nf_store_ops ops = *a.v->store->ops;
	const struct nf_store_ops *real = a.v->store->ops;
	ops.quota = quota;
	a.v->store->ops = &ops;

	ck_assert(!is_due(a.v, nf_clock_ns()));
	ck_assert_uint_eq(room_of(&a), unknown);
	ck_assert(is_due(a.v, nf_clock_ns()));
	nf_quota_ask(a.v);
	ck_assert(!is_due(a.v, UINT64_MAX)); /* nobody has asked since */
	ck_assert_uint_eq(room_of(&a), 5 << 20);
	ck_assert(!is_due(a.v, nf_clock_ns()));
	ck_assert(is_due(a.v, nf_clock_ns() + 61 * NF_NS_PER_S));
	quota_error = -NF_E_TIMEOUT;
	nf_quota_ask(a.v);
	ck_assert_uint_eq(room_of(&a), 5 << 20);
	quota_error = -NF_E_STORE_PROTOCOL;
	nf_quota_ask(a.v);
	ck_assert_uint_eq(room_of(&a), unknown);
	ck_assert(!is_due(a.v, nf_clock_ns() + 61 * NF_NS_PER_S));
	a.v->manual = true;
	ck_assert(!is_due(a.v, UINT64_MAX));
	a.v->store->ops = real;
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "posix", 60);
	tcase_add_test(tc, a_new_owner_clears_set_id_bits_of_everything_but_directories);
	tcase_add_test(tc, truncation_at_open_clears_set_id_bits_if_the_kernel_asks);
	tcase_add_test(tc, fallocate_clears_set_id_bits_unless_by_root);
	tcase_add_test(tc, an_acl_that_says_no_more_than_the_mode_leaves_nothing_behind_not_even_in_the_journal);
	tcase_add_test(tc, a_change_that_moves_no_byte_changes_the_times_for_good);
	tcase_add_test(tc, the_count_of_inodes_is_never_less_than_the_free_ones);
	tcase_add_test(tc, the_room_is_what_the_server_says_and_it_is_asked_when_somebody_wants_to_know);
}

NF_SUITE("vault/posix")
