/* What is pinned is kept complete in the cache, whoever changes it; and what a user does with the cache. */
#include "base/random.h"
#include "store/fault.h"
#include "store/link.h"
#include "vault/vault_i.h"
#include "vfs.h"

#include <unistd.h>

enum { KIB = 1 << 10, MIB = 1 << 20 };

static char *noise(size_t len, uint64_t seed)
{
	struct nf_prng p;
	char *b = malloc(len);

	nf_prng_seed(&p, seed);
	for (size_t i = 0; i < len; i++)
		b[i] = (char)nf_prng_next(&p);
	return b;
}

/* A machine with its threads, over a store whose faults FAULT sets. */
static struct vfs mount_live(const struct vfs_site *s, const char *name, uint64_t cache_bytes, struct nf_store **fault)
{
	char cache[200], state[200];
	struct nf_vault_options o = vfs_options(s, name, cache, state);
	struct nf_link_options lo = { .probe_min_ms = 50, .probe_max_ms = 200, .probe_timeout_ms = 2000,
				      .any = true };
	struct vfs m;

	*fault = o.store;
	ck_assert_int_eq(nf_link_new(o.store, &lo, &o.store), 0);
	o.no_threads = false;
	o.cache_size_bytes = cache_bytes;
	o.poll_ms = 100;
	o.write_back_ms = 60000;
	ck_assert_int_eq(nf_vault_open(&o, &m.v), 0);
	m.fs = nf_vault_fs(m.v);
	return m;
}

static uint64_t ino_of(struct vfs *m, const char *path)
{
	uint64_t dir, ino;
	char last[256];

	ck_assert_int_eq(vfs_walk(m, path, &dir, last, &ino), 0);
	ck_assert_uint_ne(ino, 0);
	return ino;
}

static struct nf_vault_status status(struct vfs *m)
{
	struct nf_vault_status s;

	nf_vault_status(m->v, &s);
	return s;
}

/* Waits until the pins are as far as WANTED bytes, all here. */
static void wait_pinned(struct vfs *m, uint64_t bytes_min)
{
	for (int i = 0; i < 600; i++) {
		struct nf_vault_status s = status(m);
		if (s.pinned_bytes >= bytes_min && s.pinned_present_bytes == s.pinned_bytes && s.pin_error == 0 &&
		    nf_vault_pin_wait(m->v, NULL) == 0)
			return;
		usleep(20000);
	}
	struct nf_vault_status s = status(m);
	ck_abort_msg("not pinned: %llu of %llu, %s, link %d, last error %s", (unsigned long long)s.pinned_present_bytes,
		     (unsigned long long)s.pinned_bytes, nf_error_name(s.pin_error), s.connected, nf_error_name(s.last_error));
}

static void shown_is(struct vfs *m, const char *name, const char *path, const char *want)
{
	struct nf_call c = { .op = NF_CALL_GETXATTR, .ino = ino_of(m, path), .size = 100 };

	snprintf(c.name, sizeof c.name, "%s", name);
	int r = vfs_call(m, &c);
	if (!want) {
		ck_assert_int_eq(r, -ENODATA);
		return;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(c.count, strlen(want));
	ck_assert_mem_eq(c.buf, want, c.count);
	free(c.buf);
}

static void xattr_is(struct vfs *m, const char *path, const char *want) { shown_is(m, NF_XATTR_PIN, path, want); }
static void state_is(struct vfs *m, const char *path, const char *want) { shown_is(m, NF_XATTR_STATE, path, want); }

struct tree {
	char *big;
};

static void make_tree(struct vfs *a, struct tree *t)
{
	char path[64], text[64];

	t->big = noise(3 * MIB, 5);
	ck_assert_int_eq(vfs_mkdir(a, "/d"), 0);
	ck_assert_int_eq(vfs_mkdir(a, "/d/sub"), 0);
	ck_assert_int_eq(vfs_put(a, "/d/big", t->big, 3 * MIB), 0);
	ck_assert_int_eq(vfs_put(a, "/other", t->big, 2 * MIB), 0);
	for (int i = 0; i < 40; i++) {
		snprintf(path, sizeof path, "/d/sub/%d", i);
		snprintf(text, sizeof text, "file %d", i);
		ck_assert_int_eq(vfs_puts(a, path, text), 0);
	}
	ck_assert_int_eq(vfs_sync(a), 0);
}

static void check_tree(struct vfs *m, const struct tree *t)
{
	char path[64], text[64];

	ck_assert_int_eq(vfs_check(m, "/d/big", t->big, 3 * MIB), 0);
	for (int i = 0; i < 40; i++) {
		snprintf(path, sizeof path, "/d/sub/%d", i);
		snprintf(text, sizeof text, "file %d", i);
		ck_assert_int_eq(vfs_checks(m, path, text), 0);
	}
}

START_TEST(what_is_pinned_is_read_without_the_server_also_after_a_restart)
{
	struct vfs_site s;
	struct tree t;
	struct nf_store *fault;
	struct nf_pin_estimate e;
	vfs_site_init(&s, "fault+", "");
	struct vfs a = vfs_mount(&s, "a");

	make_tree(&a, &t);
	struct vfs b = mount_live(&s, "b", 64 * MIB, &fault);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d"), true, NULL, &e), 0);
	ck_assert(e.fits && e.pin.files == 41 && e.missing_bytes >= 3 * MIB);
	ck_assert_uint_eq(status(&b).pins, 0);
	xattr_is(&b, "/d", NULL);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d"), false, NULL, &e), 0);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d"), false, NULL, &e), -EEXIST);
	ck_assert_int_eq(nf_vault_pin(b.v, 12345, false, NULL, &e), -ENOENT);
	ck_assert_int_eq(nf_vault_pin_wait(b.v, NULL), 0);
	xattr_is(&b, "/d", "100%");
	xattr_is(&b, "/d/sub/7", "100% inherited");
	xattr_is(&b, "/other", NULL);
	/* A clean mount later, with no server at all. */
	vfs_unmount(&b);
	b = mount_live(&s, "b", 64 * MIB, &fault);
	nf_store_fault_set_offline(fault, true);
	check_tree(&b, &t);
	ck_assert_int_eq(vfs_check(&b, "/other", t.big, 2 * MIB), -NF_E_OFFLINE);
	ck_assert_uint_eq(status(&b).pins, 1);
	vfs_unmount(&b);
	vfs_unmount(&a);
	free(t.big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_file_tells_whether_the_server_has_it_and_whether_it_is_here)
{
	struct vfs_site s;
	struct tree t;
	struct nf_store *fault;
	struct nf_pin_estimate e;
	uint64_t freed;
	vfs_site_init(&s, "fault+", "");
	struct vfs a = vfs_mount(&s, "a");

	make_tree(&a, &t);
	struct vfs b = mount_live(&s, "b", 64 * MIB, &fault);
	state_is(&b, "/d/big", "cold");
	ck_assert_int_eq(vfs_check(&b, "/d/big", t.big, 3 * MIB), 0);
	state_is(&b, "/d/big", "clean");
	state_is(&b, "/other", "cold");
	state_is(&b, "/d/sub/7", "clean"); /* its bytes are in its inode */
	state_is(&b, "/d", NULL);
	ck_assert_int_eq(nf_vault_cache_drop(b.v, 0, NULL, &freed), 0);
	state_is(&b, "/d/big", "cold");
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d"), false, NULL, &e), 0);
	wait_pinned(&b, 3 * MIB);
	state_is(&b, "/d/big", "pinned");
	/* Changed, be it by an attribute only: the server does not have it, pinned or not. */
	ck_assert_int_eq(vfs_puts(&b, "/d/sub/7", "changed"), 0);
	ck_assert_int_eq(vfs_truncate(&b, "/other", MIB), 0);
	struct nf_call c = { .op = NF_CALL_SETXATTR, .ino = ino_of(&b, "/d/big"), .data = "x", .size = 1 };
	snprintf(c.name, sizeof c.name, "user.note");
	ck_assert_int_eq(vfs_call(&b, &c), 0);
	state_is(&b, "/d/sub/7", "dirty");
	state_is(&b, "/other", "dirty");
	state_is(&b, "/d/big", "dirty");
	state_is(&b, "/d/sub/8", "pinned");
	ck_assert_int_eq(vfs_sync(&b), 0);
	state_is(&b, "/d/sub/7", "pinned");
	state_is(&b, "/d/big", "pinned");
	/* Nobody sets it, removes it, or is told of it by a list. */
	snprintf(c.name, sizeof c.name, NF_XATTR_STATE);
	ck_assert_int_eq(vfs_call(&b, &c), -EPERM);
	c.op = NF_CALL_REMOVEXATTR;
	ck_assert_int_eq(vfs_call(&b, &c), -EPERM);
	c = (struct nf_call){ .op = NF_CALL_LISTXATTR, .ino = c.ino, .size = 100 };
	ck_assert_int_eq(vfs_call(&b, &c), 0);
	ck_assert_uint_eq(c.count, sizeof "user.note");
	ck_assert_mem_eq(c.buf, "user.note", c.count);
	free(c.buf);
	vfs_unmount(&b);
	vfs_unmount(&a);
	free(t.big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(what_others_add_to_a_pinned_directory_comes_by_itself)
{
	struct vfs_site s;
	struct tree t;
	struct nf_store *fault;
	struct nf_pin_estimate e;
	vfs_site_init(&s, "fault+", "");
	struct vfs a = vfs_mount(&s, "a");

	make_tree(&a, &t);
	struct vfs b = mount_live(&s, "b", 64 * MIB, &fault);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d"), false, NULL, &e), 0);
	wait_pinned(&b, 3 * MIB);
	ck_assert_int_eq(vfs_put(&a, "/d/sub/more", t.big, MIB), 0);
	ck_assert_int_eq(vfs_unlink(&a, "/d/sub/39", false), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	wait_pinned(&b, 4 * MIB);
	nf_store_fault_set_offline(fault, true);
	ck_assert_int_eq(vfs_check(&b, "/d/sub/more", t.big, MIB), 0);
	/* And while it is away nothing is lost of what it was to do. */
	ck_assert_int_eq(vfs_put(&a, "/d/late", t.big, MIB), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	nf_store_fault_set_offline(fault, false);
	wait_pinned(&b, 5 * MIB);
	nf_store_fault_set_offline(fault, true);
	ck_assert_int_eq(vfs_check(&b, "/d/late", t.big, MIB), 0);
	vfs_unmount(&b);
	vfs_unmount(&a);
	free(t.big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(pins_that_do_not_fit_are_refused_and_break_nothing)
{
	struct vfs_site s;
	struct tree t;
	struct nf_store *fault;
	struct nf_pin_estimate e;
	vfs_site_init(&s, "fault+", "");
	struct vfs a = vfs_mount(&s, "a");

	make_tree(&a, &t);
	struct vfs b = mount_live(&s, "b", 4 * MIB, &fault);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d"), false, NULL, &e), 0);
	wait_pinned(&b, 3 * MIB);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/other"), true, NULL, &e), 0);
	ck_assert(!e.fits);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/other"), false, NULL, &e), -NF_E_FULL);
	ck_assert_uint_gt(e.kept_bytes, e.limit_bytes);
	ck_assert_uint_eq(status(&b).pins, 1);
	/* Everything else is still read, past a cache that has hardly any room for it. */
	ck_assert_int_eq(vfs_check(&b, "/other", t.big, 2 * MIB), 0);
	ck_assert_uint_le(status(&b).cache_used_bytes, 4 * MIB);
	/* What was pinned grows over the limit by others: said, and what fits stays. */
	ck_assert_int_eq(vfs_put(&a, "/d/more", t.big, 2 * MIB), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	for (int i = 0; i < 600 && status(&b).pin_error != -NF_E_FULL; i++)
		usleep(20000);
	ck_assert_int_eq(status(&b).pin_error, -NF_E_FULL);
	ck_assert_int_eq(nf_vault_pin_wait(b.v, NULL), -NF_E_FULL);
	ck_assert_uint_le(status(&b).cache_used_bytes, 4 * MIB);
	ck_assert_int_eq(vfs_check(&b, "/d/more", t.big, 2 * MIB), 0);
	ck_assert_int_eq(vfs_check(&b, "/other", t.big, 2 * MIB), 0);
	nf_store_fault_set_offline(fault, true);
	check_tree(&b, &t);
	nf_store_fault_set_offline(fault, false);
	/* Room comes back. */
	ck_assert_int_eq(vfs_unlink(&a, "/d/more", false), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	wait_pinned(&b, 3 * MIB);
	vfs_unmount(&b);
	vfs_unmount(&a);
	free(t.big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(unpinned_and_removed_things_are_not_kept)
{
	struct vfs_site s;
	struct tree t;
	struct nf_store *fault;
	struct nf_pin_estimate e;
	uint64_t freed;
	vfs_site_init(&s, "fault+", "");
	struct vfs a = vfs_mount(&s, "a");

	make_tree(&a, &t);
	struct vfs b = mount_live(&s, "b", 64 * MIB, &fault);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d/big"), false, NULL, &e), 0);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/other"), false, NULL, &e), 0);
	wait_pinned(&b, 5 * MIB);
	ck_assert_int_eq(nf_vault_cache_drop(b.v, 0, NULL, &freed), 0);
	ck_assert_uint_ge(status(&b).cache_used_bytes, 5 * MIB);
	ck_assert_int_eq(nf_vault_cache_drop(b.v, ino_of(&b, "/other"), NULL, &freed), 0);
	ck_assert_uint_eq(freed, 0);
	ck_assert_int_eq(nf_vault_unpin(b.v, ino_of(&b, "/d/sub")), -ENOENT);
	ck_assert_int_eq(nf_vault_unpin(b.v, ino_of(&b, "/other")), 0);
	ck_assert_int_eq(nf_vault_pin_wait(b.v, NULL), 0);
	ck_assert_int_eq(nf_vault_cache_drop(b.v, ino_of(&b, "/other"), NULL, &freed), 0);
	ck_assert_uint_ge(freed, 2 * MIB - 64 * KIB);
	/* A pinned file that is removed: its pin goes. */
	ck_assert_int_eq(vfs_unlink(&a, "/d/big", false), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	for (int i = 0; i < 600 && status(&b).pins; i++)
		usleep(20000);
	ck_assert_uint_eq(status(&b).pins, 0);
	ck_assert_int_eq(nf_vault_pin_wait(b.v, NULL), 0);
	ck_assert_int_eq(nf_vault_cache_drop(b.v, 0, NULL, &freed), 0);
	ck_assert_uint_lt(status(&b).cache_used_bytes, MIB);
	vfs_unmount(&b);
	vfs_unmount(&a);
	free(t.big);
	vfs_site_deinit(&s);
}
END_TEST

/* Turns over bytes of every cached pack. */
static void damage_cache(const struct vfs_site *s, const char *name)
{
	char cmd[400];

	snprintf(cmd, sizeof cmd,
		 "find '%s/%s-cache/packs' -type f ! -name '*.map' -size +64k -exec sh -c "
		 "'printf damaged | dd of=\"$1\" bs=1 seek=70000 conv=notrunc status=none' x {} \\;", s->dir.path, name);
	ck_assert_int_eq(system(cmd), 0);
}

static void count_line(void *ctx, const char *line)
{
	if (!strncmp(line, "/d/big: blocks ", 15))
		++*(unsigned *)ctx;
}

START_TEST(damaged_blocks_are_named_and_what_is_pinned_of_them_is_fetched_again)
{
	struct vfs_site s;
	struct tree t;
	struct nf_store *fault;
	struct nf_pin_estimate e;
	struct nf_cache_verified r;
	unsigned lines = 0;
	vfs_site_init(&s, "fault+", "");
	struct vfs a = vfs_mount(&s, "a");

	make_tree(&a, &t);
	struct vfs b = mount_live(&s, "b", 64 * MIB, &fault);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d"), false, NULL, &e), 0);
	wait_pinned(&b, 3 * MIB);
	ck_assert_int_eq(nf_vault_cache_verify(b.v, NULL, count_line, &lines, &r), 0);
	ck_assert(r.bad == 0 && lines == 0 && r.bytes > 3 * MIB);
	damage_cache(&s, "b");
	ck_assert_int_eq(nf_vault_cache_verify(b.v, NULL, count_line, &lines, &r), 0);
	ck_assert(r.bad > 0 && lines > 0);
	wait_pinned(&b, 3 * MIB);
	nf_store_fault_set_offline(fault, true);
	ck_assert_int_eq(nf_vault_cache_verify(b.v, NULL, count_line, &lines, &r), 0);
	ck_assert_uint_eq(r.bad, 0);
	check_tree(&b, &t);
	vfs_unmount(&b);
	vfs_unmount(&a);
	free(t.big);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_damaged_list_of_pins_is_said_and_does_not_stop_the_mount)
{
	struct vfs_site s;
	struct tree t;
	struct nf_store *fault;
	struct nf_pin_estimate e;
	char cmd[300];
	vfs_site_init(&s, "fault+", "");
	struct vfs a = vfs_mount(&s, "a");

	make_tree(&a, &t);
	struct vfs b = mount_live(&s, "b", 64 * MIB, &fault);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d"), false, NULL, &e), 0);
	vfs_unmount(&b);
	/* No name of a pinned thing is on the disk; another device's list is not ours. */
	snprintf(cmd, sizeof cmd, "printf x | dd of='%s/b-state/pins' bs=1 seek=40 conv=notrunc status=none", s.dir.path);
	ck_assert_int_eq(system(cmd), 0);
	b = mount_live(&s, "b", 64 * MIB, &fault);
	ck_assert_int_eq(status(&b).pin_error, -NF_E_STATE_BAD);
	ck_assert_uint_eq(status(&b).pins, 0);
	check_tree(&b, &t);
	ck_assert_int_eq(nf_vault_pin(b.v, ino_of(&b, "/d"), false, NULL, &e), 0);
	vfs_unmount(&b);
	b = mount_live(&s, "b", 64 * MIB, &fault);
	ck_assert_uint_eq(status(&b).pins, 1);
	vfs_unmount(&b);
	vfs_unmount(&a);
	free(t.big);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "pin", 60);
	tcase_add_test(tc, what_is_pinned_is_read_without_the_server_also_after_a_restart);
	tcase_add_test(tc, a_file_tells_whether_the_server_has_it_and_whether_it_is_here);
	tcase_add_test(tc, what_others_add_to_a_pinned_directory_comes_by_itself);
	tcase_add_test(tc, pins_that_do_not_fit_are_refused_and_break_nothing);
	tcase_add_test(tc, unpinned_and_removed_things_are_not_kept);
	tcase_add_test(tc, damaged_blocks_are_named_and_what_is_pinned_of_them_is_fetched_again);
	tcase_add_test(tc, a_damaged_list_of_pins_is_said_and_does_not_stop_the_mount);
}

NF_SUITE("vault/pin")
