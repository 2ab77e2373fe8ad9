/* What happens around a cut: operations made on top of a frozen epoch, heads sent and not yet seen, restarts between, files
 * without a name; and what `check` says of a store that lost something. */
#include "base/random.h"
#include "vfs.h"
#include "vault/commit.h"
#include "vault/run.h"

#include <ftw.h>
#include <unistd.h>

enum { SIZE = 300000 };

static char *noise(size_t len, uint64_t seed)
{
	struct nf_prng p;
	char *b = malloc(len);
	nf_prng_seed(&p, seed);
	for (size_t i = 0; i < len; i++)
		b[i] = (char)nf_prng_next(&p);
	return b;
}

static void edit(struct vfs *m, const char *path, const char *text, uint64_t at)
{
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_open(m, path, O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(m, f, ino, text, strlen(text), at), 0);
	ck_assert_int_eq(vfs_fsync(m, f, ino), 0);
	vfs_close(m, f, ino);
}

static void freeze(struct vfs *m)
{
	ck_assert_int_eq(nf_cut(m->v), 1);
	ck_assert_int_eq(nf_cut_drain(m->v), 0);
}

/* The frozen epoch's head goes to the store; M does not look for it. */
static void send(struct vfs *m, struct nf_head *out)
{
	const struct nf_head *leaf = &m->v->base;
	ck_assert_int_eq(nf_publish(m->v, &leaf, 1, out), 0);
}

static void restart(struct vfs_site *s, struct vfs *m, const char *name)
{
	vfs_unmount(m);
	*m = vfs_mount(s, name);
}

/* The one name in the root that looks like a conflict copy. */
static void conflict_path(struct vfs *m, char out[80])
{
	struct vfs_names names;
	unsigned found = 0;

	vfs_ls(m, "/", &names);
	for (size_t i = 0; i < names.nr; i++) {
		if (!strstr(names.name[i], "(conflict "))
			continue;
		found++;
		snprintf(out, 80, "/%s", names.name[i]);
	}
	ck_assert_uint_eq(found, 1);
}

static void set_xattr(struct vfs *m, uint64_t ino, const char *name, const char *value)
{
	struct nf_call c = { .op = NF_CALL_SETXATTR, .ino = ino, .data = value, .size = strlen(value) };
	snprintf(c.name, sizeof c.name, "%s", name);
	ck_assert_int_eq(vfs_call(m, &c), 0);
}

static void check_xattr(struct vfs *m, const char *path, const char *name, const char *value)
{
	uint64_t dir, ino;
	char last[256];
	ck_assert_int_eq(vfs_walk(m, path, &dir, last, &ino), 0);
	struct nf_call c = { .op = NF_CALL_GETXATTR, .ino = ino, .size = 100 };
	snprintf(c.name, sizeof c.name, "%s", name);
	ck_assert_int_eq(vfs_call(m, &c), 0);
	ck_assert_uint_eq(c.count, strlen(value));
	ck_assert_mem_eq(c.buf, value, c.count);
	free(c.buf);
}

/* _i: 0 as it is, 1 with a restart between. */
START_TEST(files_settle_where_nothing_is_sent)
{
	struct vfs_site s;
	char path[80];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	char *want = noise(SIZE, 7);

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 20; i++) {
			snprintf(path, sizeof path, "/f%d", i);
			ck_assert_int_eq(vfs_put(&a, path, want + round, i % 2 ? SIZE - 4 : 100), 0);
		}
		ck_assert_uint_eq(a.v->nr_dirty, 20);
		uint32_t ops = a.v->current->nr_ops;
		ck_assert_int_eq(nf_settle(a.v), 0);
		ck_assert_uint_eq(a.v->nr_dirty, 0);
		ck_assert(nf_list_empty(&a.v->dirty_list) && a.v->dirty_since_ns == 0 && !a.v->frozen);
		ck_assert_uint_ge(a.v->current->nr_ops, ops + 20);
	}
	if (_i)
		restart(&s, &a, "a");
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	for (int i = 0; i < 20; i++) {
		snprintf(path, sizeof path, "/f%d", i);
		ck_assert_int_eq(vfs_check(&b, path, want + 2, i % 2 ? SIZE - 4 : 100), 0);
	}
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* _i: 0 as it is, 1 with a restart between. */
START_TEST(an_edit_on_a_frozen_version_is_kept_when_others_edit_that_version)
{
	struct vfs_site s;
	char path[80];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	struct nf_head sent;
	char *want = noise(SIZE, 1);

	/* Made in the frozen epoch: the base knows nothing of it. */
	ck_assert_int_eq(vfs_put(&a, "/f", want, SIZE), 0);
	freeze(&a);
	edit(&a, "/f", "from a", 50000);
	send(&a, &sent);
	nf_head_deinit(&sent);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	edit(&b, "/f", "from b", 200000);
	ck_assert_int_eq(vfs_sync(&b), 0);
	if (_i)
		restart(&s, &a, "a");
	ck_assert_int_eq(vfs_sync(&a), 0);
	conflict_path(&a, path);
	memcpy(want + 50000, "from a", 6);
	ck_assert_int_eq(vfs_check(&a, path, want, SIZE), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_check(&b, path, want, SIZE), 0);
	free(want);
	want = noise(SIZE, 1);
	memcpy(want + 200000, "from b", 6);
	ck_assert_int_eq(vfs_check(&a, "/f", want, SIZE), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* The base moved, was remembered, and the device stopped before its operations were journaled in their new form. */
START_TEST(a_crash_between_base_and_operations_loses_nothing)
{
	struct vfs_site s;
	char path[80], cmd[600];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	struct nf_head sent;
	char *want = noise(SIZE, 1);

	ck_assert_int_eq(vfs_put(&a, "/f", want, SIZE), 0);
	freeze(&a);
	edit(&a, "/f", "from a", 50000);
	send(&a, &sent);
	nf_head_deinit(&sent);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	edit(&b, "/f", "from b", 200000);
	ck_assert_int_eq(vfs_sync(&b), 0);
	/* The journal as it is now, the state as it is after the take-over. */
	snprintf(cmd, sizeof cmd, "cp -a %s/a-state %s/c-state", s.dir.path, s.dir.path);
	ck_assert_int_eq(system(cmd), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	snprintf(cmd, sizeof cmd, "cp %s/a-state/state %s/c-state/state", s.dir.path, s.dir.path);
	ck_assert_int_eq(system(cmd), 0);
	vfs_unmount(&a);
	struct vfs c = vfs_mount(&s, "c");
	ck_assert_int_eq(vfs_sync(&c), 0);
	conflict_path(&c, path);
	memcpy(want + 50000, "from a", 6);
	ck_assert_int_eq(vfs_check(&c, path, want, SIZE), 0);
	ck_assert_uint_eq(vfs_problems(&c), 0);
	vfs_unmount(&c);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_sent_dot_keeps_its_spare_numbers_over_a_restart)
{
	struct vfs_site s;
	char path[80];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	struct nf_head sent;
	struct nf_store_op gone = { .verb = NF_STORE_DELETE };
	char *want = noise(SIZE, 2);

	ck_assert_int_eq(vfs_put(&a, "/f", want, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	edit(&a, "/f", "from a", 50000);
	freeze(&a);
	send(&a, &sent);
	/* It never came to be. */
	nf_head_name(sent.id.seq, sent.id.rand, gone.name);
	ck_assert_int_eq(nf_store_run(s.keep, &gone), 0);
	nf_store_op_deinit(&gone);
	nf_head_deinit(&sent);
	edit(&b, "/f", "from b", 200000);
	ck_assert_int_eq(vfs_sync(&b), 0);
	uint64_t spare = a.v->frozen->first_spare;
	ck_assert_uint_eq(spare >> 40, a.v->writer);
	restart(&s, &a, "a");
	ck_assert_int_eq(vfs_sync(&a), 0);
	conflict_path(&a, path);
	uint64_t dir, ino;
	char last[256];
	ck_assert_int_eq(vfs_walk(&a, path, &dir, last, &ino), 0);
	ck_assert_uint_eq(ino, spare);
	memcpy(want + 50000, "from a", 6);
	ck_assert_int_eq(vfs_check(&a, path, want, SIZE), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_conflict_copy_keeps_its_attributes_over_a_restart)
{
	struct vfs_site s;
	char path[80], last[256];
	uint64_t dir, ino;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	ck_assert_int_eq(vfs_puts(&a, "/f", "first"), 0);
	ck_assert_int_eq(vfs_walk(&a, "/f", &dir, last, &ino), 0);
	set_xattr(&a, ino, "user.x", "value");
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	edit(&a, "/f", "A", 0);
	edit(&b, "/f", "B", 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	/* Taken over, not published. */
	ck_assert_int_eq(vfs_refresh(&a), 0);
	restart(&s, &a, "a");
	conflict_path(&a, path);
	ck_assert_int_eq(vfs_checks(&a, path, "Airst"), 0);
	check_xattr(&a, path, "user.x", "value");
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(what_its_author_removed_leaves_no_conflict_copy)
{
	struct vfs_site s;
	struct vfs_names names;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	char *want = noise(SIZE, 3);

	ck_assert_int_eq(vfs_put(&a, "/f", want, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	edit(&a, "/f", "from a", 50000);
	ck_assert_int_eq(vfs_unlink(&a, "/f", false), 0);
	edit(&b, "/f", "from b", 200000);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(vfs_ls(&a, "/", &names), 1);
	memcpy(want + 200000, "from b", 6);
	ck_assert_int_eq(vfs_check(&a, "/f", want, SIZE), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_link_removed_while_a_cut_drains_stays_removed)
{
	struct vfs_site s;
	struct vfs_names names;
	struct nf_open_file *f;
	uint64_t ino;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	ck_assert_int_eq(vfs_puts(&a, "/f", "one"), 0);
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR, 0, &f, &ino), 0);
	struct nf_call c = { .op = NF_CALL_LINK, .ino = ino, .ino2 = 1, .name2 = "g" };
	ck_assert_int_eq(vfs_call(&a, &c), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, "two", 3, 0), 0);
	ck_assert_int_eq(nf_cut(a.v), 1);
	ck_assert_int_eq(vfs_unlink(&a, "/g", false), 0);
	ck_assert_int_eq(nf_cut_drain(a.v), 0);
	vfs_close(&a, f, ino);
	/* Another's commit makes A do it all again on a new base. */
	ck_assert_int_eq(vfs_puts(&b, "/other", "x"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(vfs_ls(&a, "/", &names), 2);
	ck_assert_int_eq(vfs_checks(&a, "/f", "two"), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_file_without_a_name_holds_what_both_epochs_wrote)
{
	struct vfs_site s;
	struct nf_open_file *f;
	uint64_t ino;
	size_t got;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	char *want = noise(SIZE, 4), *have = malloc(SIZE);

	ck_assert_int_eq(vfs_put(&a, "/f", want, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	edit(&a, "/f", "in the frozen epoch", 10);
	freeze(&a);
	edit(&a, "/f", "in the current one", 150000);
	memcpy(want + 10, "in the frozen epoch", 19);
	memcpy(want + 150000, "in the current one", 18);
	/* Nothing of it in memory: closed files are given up. */
	nf_lock_take(&a.v->ns);
	nf_vnode_trim(a.v, 0);
	nf_lock_drop(&a.v->ns);
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDONLY, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_unlink(&a, "/f", false), 0);
	struct nf_vnode *vn = f->vn;
	nf_invalidate(&vn->ic, 0, UINT64_MAX, SIZE, SIZE);
	ck_assert_int_eq(vfs_pread(&a, f, ino, have, SIZE, 0, &got), 0);
	ck_assert_uint_eq(got, SIZE);
	ck_assert_mem_eq(have, want, SIZE);
	vfs_close(&a, f, ino);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	free(want);
	free(have);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_nameless_file_that_gets_a_name_brings_its_attributes)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	struct nf_call t = { .op = NF_CALL_TMPFILE, .ino = 1, .mode = 0600, .flags = O_RDWR };
	ck_assert_int_eq(vfs_call(&a, &t), 0);
	ck_assert_int_eq(vfs_pwrite(&a, t.file, t.attr.ino, "text", 4, 0), 0);
	set_xattr(&a, t.attr.ino, "user.one", "1");
	set_xattr(&a, t.attr.ino, "user.two", "2");
	struct nf_call c = { .op = NF_CALL_LINK, .ino = t.attr.ino, .ino2 = 1, .name2 = "g" };
	ck_assert_int_eq(vfs_call(&a, &c), 0);
	vfs_close(&a, t.file, t.attr.ino);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_checks(&b, "/g", "text"), 0);
	check_xattr(&b, "/g", "user.one", "1");
	check_xattr(&b, "/g", "user.two", "2");
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST

/* The next operation that is noted finds no memory. */
static void starve(struct vfs *m)
{
	nf_lock_take(&m->v->ns);
	m->v->current->ops.failed = true;
	nf_lock_drop(&m->v->ns);
}

/* _i: the group without memory 0 wrote a block, 1 wrote a few bytes, 2 made the file shorter. */
START_TEST(a_group_that_finds_no_memory_is_told_later)
{
	struct vfs_site s;
	struct nf_open_file *f;
	uint64_t ino;
	char *want = noise(SIZE, 3);
	size_t len = _i == 1 ? 400 : SIZE;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_put(&a, "/f", want, len), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR, 0, &f, &ino), 0);
	if (_i == 2) {
		len = 100000;
		ck_assert_int_eq(vfs_truncate(&a, "/f", len), 0);
	} else {
		ck_assert_int_eq(vfs_pwrite(&a, f, ino, "one", 3, 100), 0);
		memcpy(want + 100, "one", 3);
	}
	starve(&a);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), -ENOMEM);
	ck_assert_int_eq(vfs_check(&a, "/f", want, len), 0);
	/* Another group of the same file, told well: the first is not lost by it. */
	ck_assert_int_eq(vfs_pwrite(&a, f, ino, "two", 3, len - 50), 0);
	memcpy(want + len - 50, "two", 3);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	ck_assert_int_eq(vfs_check(&a, "/f", want, len), 0);
	ck_assert_uint_eq(f->vn->refs, 1);
	ck_assert(nf_avl_empty(&f->vn->acc));
	vfs_close(&a, f, ino);
	restart(&s, &a, "a");
	ck_assert_int_eq(vfs_check(&a, "/f", want, len), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_vault_closes_in_the_middle_of_a_cut)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_puts(&a, "/f", "text"), 0);
	ck_assert_int_eq(nf_cut(a.v), 1);
	ck_assert_uint_eq(a.v->frozen->undrained, 1);
	restart(&s, &a, "a");
	ck_assert_int_eq(vfs_checks(&a, "/f", "text"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(more_operations_than_a_journal_record_holds_are_durable)
{
	struct vfs_site s;
	struct nf_open_file *f;
	uint64_t ino;
	char *value = noise(4096, 5), name[32];
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	ck_assert_int_eq(vfs_open(&a, "/f", O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	for (int i = 0; i < 4500; i++) {
		struct nf_call c = { .op = NF_CALL_SETXATTR, .ino = ino, .data = value, .size = 4096 };
		snprintf(name, sizeof name, "user.many");
		snprintf(c.name, sizeof c.name, "%s", name);
		ck_assert_int_eq(vfs_call(&a, &c), 0);
	}
	set_xattr(&a, ino, "user.last", "here");
	ck_assert_uint_gt(a.v->current->ops.len, 17 << 20);
	ck_assert_int_eq(vfs_fsync(&a, f, ino), 0);
	vfs_close(&a, f, ino);
	restart(&s, &a, "a");
	check_xattr(&a, "/f", "user.last", "here");
	vfs_unmount(&a);
	free(value);
	vfs_site_deinit(&s);
}
END_TEST

/* --- check -------------------------------------------------------------------------------------- */

static char said[4096];
static const char *victim; /* the path of the pack to harm: the largest */
static off_t victim_bytes;

static void note(void *ctx, const char *line)
{
	(void)ctx;
	strncat(said, line, sizeof said - strlen(said) - 2);
	strcat(said, "\n");
}

static int largest(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)ftw;
	if (kind == FTW_F && st->st_size > victim_bytes) {
		free((void *)(uintptr_t)victim);
		victim = strdup(path);
		victim_bytes = st->st_size;
	}
	return 0;
}

/* _i: 0 a bit of a block is flipped, 1 the pack is cut off, 2 it is missing. */
START_TEST(harm_to_a_pack_is_reported_by_path)
{
	struct vfs_site s = { 0 };
	struct nf_check_result r;
	char dir[300];

	s.dir = nf_tempdir_new();
	snprintf(dir, sizeof dir, "%s/store", s.dir.path);
	snprintf(s.address, sizeof s.address, "%.190s", dir);
	ck_assert_int_eq(mkdir(dir, 0700), 0);
	ck_assert_int_eq(nf_header_new(&s.header), 0);
	s.keep = vfs_store(&s);
	ck_assert_int_eq(nf_vault_format(s.keep, s.header, "test"), 0);
	struct vfs a = vfs_mount(&s, "a");
	char *bytes = noise(SIZE, 6);
	ck_assert_int_eq(vfs_mkdir(&a, "/d"), 0);
	ck_assert_int_eq(vfs_put(&a, "/d/harmed", bytes, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	victim_bytes = 0;
	ck_assert_int_eq(nftw(dir, largest, 8, FTW_PHYS), 0);
	ck_assert_int_gt(victim_bytes, SIZE);
	ck_assert_int_eq(chmod(victim, 0600), 0);
	if (_i == 0) {
		char x;
		int fd = open(victim, O_RDWR);
		ck_assert_int_eq(pread(fd, &x, 1, 100000), 1);
		x ^= 4;
		ck_assert_int_eq(pwrite(fd, &x, 1, 100000), 1);
		close(fd);
	} else if (_i == 1) {
		ck_assert_int_eq(truncate(victim, victim_bytes - 1), 0);
	} else {
		ck_assert_int_eq(unlink(victim), 0);
	}
	/* Nothing that was just read is at hand. */
	restart(&s, &a, "a");
	said[0] = '\0';
	struct nf_check_options o = { .read_data = _i == 0, .report = note };
	ck_assert_int_eq(nf_vault_check(a.v, &o, &r), 0);
	ck_assert_uint_ge(r.problems, 1);
	ck_assert_ptr_nonnull(strstr(said, "/d/harmed: "));
	ck_assert_ptr_nonnull(strstr(said, _i == 0 ? "block " : _i == 1 ? "is too short" : "is missing on the store"));
	vfs_unmount(&a);
	free((void *)(uintptr_t)victim);
	victim = NULL;
	free(bytes);
	vfs_site_deinit(&s);
}
END_TEST

/* NR commits of M that nobody else has seen when they are made. */
static void commit_aside(struct vfs *m, const char *name, int nr)
{
	nf_auto(nf_head_deinit) struct nf_head own = { 0 };
	char path[40];

	for (int i = 0; i < nr; i++) {
		snprintf(path, sizeof path, "/%s%d", name, i);
		ck_assert_int_eq(vfs_put(m, path, name, strlen(name)), 0);
		freeze(m);
		nf_head_deinit(&own);
		send(m, &own);
		ck_assert_int_eq(nf_adopt(m->v, &own), 0);
	}
}

static void names_head(struct vfs *m, const struct nf_head *leaf, const char *listed)
{
	struct nf_head_id id = { 0 };
	struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	struct nf_root_item item;
	int r;

	ck_assert_int_eq(nf_head_name_parse(listed, &id.seq, id.rand), 0);
	if (id.seq >= leaf->id.seq)
		return;
	struct nf_key key = { .type = NF_ITEM_ROOT, .a = id.seq, .b = nf_get_be64(id.rand) };
	while ((r = nf_tree_lookup(m->v->nodes, &leaf->root, &key, &w, &val)) == NF_TREE_WANT)
		ck_assert_int_eq(nf_fetch_load(m->v->fetch, &w), 0);
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(nf_root_decode(val.p, val.len, &val.self, &item), 0);
	ck_assert(!memcmp(item.rand, id.rand, sizeof id.rand));
	nf_val_deinit(&val);
	nf_want_deinit(&w);
}

static void same_batch(const struct nf_merged *x, const struct nf_merged *y)
{
	struct nf_change *a, *b;
	struct nf_cutout *cuts_a, *cuts_b;
	size_t nr_a, nr_b, nr_cuts_a, nr_cuts_b;

	ck_assert_int_eq(nf_layer_batch(x->layer, &a, &nr_a, &cuts_a, &nr_cuts_a), 0);
	ck_assert_int_eq(nf_layer_batch(y->layer, &b, &nr_b, &cuts_b, &nr_cuts_b), 0);
	ck_assert_uint_eq(nr_a, nr_b);
	ck_assert_uint_eq(nr_cuts_a, nr_cuts_b);
	for (size_t i = 0; i < nr_a; i++) {
		ck_assert(!memcmp(&a[i].key, &b[i].key, sizeof a[i].key));
		ck_assert_uint_eq(a[i].len, b[i].len);
		ck_assert(!a[i].value == !b[i].value && (!a[i].value || !memcmp(a[i].value, b[i].value, a[i].len)));
	}
	free(a);
	free(b);
	free(cuts_a);
	free(cuts_b);
}

/* The header of a vault, and how often it was asked for. */
struct meeting {
	struct nf_header *now;
	int error, asked;
	bool removed;
};

static int meet(void *ctx, struct nf_store *store, struct nf_met *met)
{
	struct meeting *m = ctx;

	(void)store;
	m->asked++;
	*met = (struct nf_met){ .header = m->now, .removed = m->removed };
	return m->error;
}

static enum nf_vault_keys keys_of(struct vfs *m, uint32_t epoch)
{
	struct nf_vault_status s;

	nf_vault_status(m->v, &s);
	ck_assert_uint_eq(s.key_epoch, epoch);
	return s.keys;
}

static struct nf_header *read_again(const struct nf_header *h)
{
	uint8_t root[NF_KEY_BYTES];
	struct nf_header *c;
	size_t len;
	void *p;

	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	ck_assert_int_eq(nf_header_decode(p, len, &c), 0);
	free(p);
	nf_header_root_key(h, root);
	ck_assert_int_eq(nf_header_unlock_root(c, root), 0);
	return c;
}

/* _i: 0 the new keys can be had, 1 at first they cannot, 2 with a restart while there is something unsent under both epochs. */
START_TEST(a_running_vault_takes_newer_epochs_and_loses_nothing)
{
	static const uint8_t bytes[32] = { 1 };
	struct nf_secret secret = { NF_SLOT_RECOVERY, bytes, sizeof bytes };
	char cache[200], state[200];
	struct vfs_site s;
	struct vfs a;

	vfs_site_init(&s, "", "");
	ck_assert_int_eq(nf_header_slot_add(s.header, &secret, NULL, "", NULL), 0);
	struct meeting old = { .now = read_again(s.header) };
	struct nf_vault_options o = vfs_options(&s, "a", cache, state);
	o.meet = meet;
	o.meet_ctx = &old;
	ck_assert_int_eq(nf_vault_open(&o, &a.v), 0);
	a.fs = nf_vault_fs(a.v);
	ck_assert_int_eq(vfs_puts(&a, "/first", "under one"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(old.asked, 0);
	ck_assert_int_eq(vfs_puts(&a, "/mine", "not sent yet"), 0);
	ck_assert_int_eq(nf_settle(a.v), 0);
	ck_assert_int_eq(nf_vault_journal(a.v, true), 0);

	ck_assert_int_eq(nf_header_rekey(s.header, NULL), 0);
	ck_assert_int_eq(nf_header_slot_add(s.header, &secret, NULL, "", NULL), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_puts(&b, "/others", "under two"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	if (_i == 1) {
		old.error = -NF_E_KEY_CHANGED;
		ck_assert_int_eq(vfs_refresh(&a), -NF_E_KEY_CHANGED);
		ck_assert_int_eq(keys_of(&a, 1), NF_KEYS_CHANGED);
		ck_assert_int_eq(vfs_checks(&a, "/others", ""), -ENOENT);
		ck_assert_int_eq(vfs_sync(&a), -NF_E_KEY_CHANGED);
		ck_assert_int_eq(vfs_puts(&a, "/more", "meanwhile"), 0);
		old.error = 0;
	}
	nf_header_free(old.now);
	old.now = read_again(s.header);
	old.removed = _i == 1;
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_ge(old.asked, 1);
	ck_assert_int_eq(keys_of(&a, 2), _i == 1 ? NF_KEYS_REMOVED : NF_KEYS_CURRENT);
	ck_assert_int_eq(vfs_checks(&a, "/others", "under two"), 0);
	ck_assert_int_eq(vfs_puts(&a, "/later", "sealed under two"), 0);
	if (_i == 2) {
		ck_assert_int_eq(nf_settle(a.v), 0);
		ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
		restart(&s, &a, "a");
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_checks(&b, "/first", "under one"), 0);
	ck_assert_int_eq(vfs_checks(&b, "/mine", "not sent yet"), 0);
	ck_assert_int_eq(vfs_checks(&b, "/later", "sealed under two"), 0);
	ck_assert_int_eq(vfs_checks(&b, "/more", "meanwhile"), _i == 1 ? 0 : -ENOENT);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	nf_header_free(old.now);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(what_is_sent_is_sealed_under_keys_asked_for_before)
{
	static const uint8_t bytes[32] = { 1 };
	struct nf_secret secret = { NF_SLOT_RECOVERY, bytes, sizeof bytes };
	char cache[200], state[200];
	struct vfs_site s;
	struct vfs a;

	vfs_site_init(&s, "", "");
	ck_assert_int_eq(nf_header_slot_add(s.header, &secret, NULL, "", NULL), 0);
	struct meeting now = { .now = read_again(s.header) };
	struct nf_vault_options o = vfs_options(&s, "a", cache, state);
	o.meet = meet;
	o.meet_ctx = &now;
	o.meet_every_ms = 1;
	ck_assert_int_eq(nf_vault_open(&o, &a.v), 0);
	a.fs = nf_vault_fs(a.v);
	ck_assert_int_eq(vfs_puts(&a, "/first", "under one"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(a.v->base.root.epoch, 1);
	ck_assert_int_eq(vfs_puts(&a, "/second", "begun under one"), 0);
	ck_assert_int_eq(nf_header_rekey(s.header, NULL), 0);
	ck_assert_int_eq(nf_header_slot_add(s.header, &secret, NULL, "", NULL), 0);
	nf_header_free(now.now);
	now.now = read_again(s.header);
	usleep(2000);
	/* Nobody has written anything under the new keys. */
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_eq(a.v->base.root.epoch, 2);
	ck_assert_uint_eq(a.v->base.delta.epoch, 2);
	ck_assert_int_eq(keys_of(&a, 2), NF_KEYS_CURRENT);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_checks(&b, "/second", "begun under one"), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	nf_header_free(now.now);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_merged_tree_names_the_heads_of_both_sides_whoever_merges)
{
	struct vfs_site s;
	struct nf_look_result seen;
	struct nf_merged by_a, by_b;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");

	ck_assert_int_eq(vfs_refresh(&a), 0);
	commit_aside(&a, "from-a", 6);
	commit_aside(&b, "from-b", 4);
	ck_assert_int_eq(nf_look(a.v->look, &seen), 0);
	ck_assert_uint_eq(seen.nr_leaves, 2);
	ck_assert_int_eq(nf_merge(a.v, seen.leaves, 2, &by_a), 0);
	ck_assert_int_eq(nf_merge(b.v, seen.leaves, 2, &by_b), 0);
	same_batch(&by_a, &by_b);
	nf_merged_deinit(&by_a);
	nf_merged_deinit(&by_b);

	struct vfs c = vfs_mount(&s, "c"); /* merges */
	ck_assert_int_eq(vfs_checks(&c, "/from-a5", "from-a"), 0);
	ck_assert_int_eq(vfs_checks(&c, "/from-b3", "from-b"), 0);
	struct nf_store_op op = { .verb = NF_STORE_LIST, .name = "heads" };
	ck_assert_int_eq(nf_store_run(s.keep, &op), 0);
	ck_assert_uint_ge(op.nr_entries, 14);
	for (size_t i = 0; i < op.nr_entries; i++)
		names_head(&c, &c.v->base, op.entries[i].name);
	nf_store_op_deinit(&op);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_unmount(&c);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "epochs", 60);
	tcase_add_loop_test(tc, files_settle_where_nothing_is_sent, 0, 2);
	tcase_add_loop_test(tc, an_edit_on_a_frozen_version_is_kept_when_others_edit_that_version, 0, 2);
	tcase_add_test(tc, a_crash_between_base_and_operations_loses_nothing);
	tcase_add_test(tc, a_sent_dot_keeps_its_spare_numbers_over_a_restart);
	tcase_add_test(tc, a_conflict_copy_keeps_its_attributes_over_a_restart);
	tcase_add_test(tc, what_its_author_removed_leaves_no_conflict_copy);
	tcase_add_test(tc, a_link_removed_while_a_cut_drains_stays_removed);
	tcase_add_test(tc, a_file_without_a_name_holds_what_both_epochs_wrote);
	tcase_add_test(tc, a_nameless_file_that_gets_a_name_brings_its_attributes);
	tcase_add_loop_test(tc, a_group_that_finds_no_memory_is_told_later, 0, 3);
	tcase_add_test(tc, a_vault_closes_in_the_middle_of_a_cut);
	tcase_add_test(tc, more_operations_than_a_journal_record_holds_are_durable);
	tcase_add_loop_test(tc, harm_to_a_pack_is_reported_by_path, 0, 3);
	tcase_add_loop_test(tc, a_running_vault_takes_newer_epochs_and_loses_nothing, 0, 3);
	tcase_add_test(tc, what_is_sent_is_sealed_under_keys_asked_for_before);
	tcase_add_test(tc, a_merged_tree_names_the_heads_of_both_sides_whoever_merges);
}

NF_SUITE("vault/epochs")
