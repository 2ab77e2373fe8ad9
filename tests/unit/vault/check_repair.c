/* A check of everything: what is missing or damaged is named, wherever it is; what this machine still has is put back. */
#include "vfs.h"

#include "base/random.h"
#include "vault/vault.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <unistd.h>

enum { BIG = 300 << 10, SMALL = 40 << 10, PACKS_MAX = 64 };

static char said[1 << 16];

static void note(void *ctx, const char *line)
{
	(void)ctx;
	strncat(said, line, sizeof said - strlen(said) - 2);
	strcat(said, "\n");
}

static struct nf_check_result check(struct vfs *m, bool read_data, bool repair)
{
	struct nf_check_options o = { .read_data = read_data, .repair = repair, .report = note };
	struct nf_check_result r;

	said[0] = '\0';
	ck_assert_int_eq(nf_vault_check(m->v, &o, &r), 0);
	return r;
}

static void fill(void *p, size_t len, uint64_t seed)
{
	struct nf_prng prng;

	nf_prng_seed(&prng, seed);
	for (size_t i = 0; i < len; i++)
		((uint8_t *)p)[i] = (uint8_t)nf_prng_below(&prng, 256);
}

static void put(struct vfs *m, const char *path, size_t len, uint64_t seed)
{
	char *p = malloc(len);

	fill(p, len, seed);
	ck_assert_int_eq(vfs_put(m, path, p, len), 0);
	free(p);
}

static int same(struct vfs *m, const char *path, size_t len, uint64_t seed)
{
	char *p = malloc(len);

	fill(p, len, seed);
	int r = vfs_check(m, path, p, len);
	free(p);
	return r;
}

/* A vault in a directory, of which files can be harmed. */
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

/* --- objects of the store --------------------------------------------------------------- */

static struct pack {
	char path[300];
	off_t bytes;
	struct timespec at;
} packs[PACKS_MAX];
static unsigned nr_packs;

static int note_pack(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)ftw;
	if (kind == FTW_F && strstr(path, "/packs/") && !strstr(path, "-cache/")) {
		struct pack *p = &packs[nr_packs++];
		ck_assert_uint_le(nr_packs, PACKS_MAX);
		snprintf(p->path, sizeof p->path, "%s", path);
		p->bytes = st->st_size;
		p->at = st->st_mtim;
	}
	return 0;
}

static int by_time(const void *pa, const void *pb)
{
	const struct pack *a = pa, *b = pb;

	if (a->at.tv_sec != b->at.tv_sec)
		return a->at.tv_sec < b->at.tv_sec ? -1 : 1;
	return a->at.tv_nsec < b->at.tv_nsec ? -1 : a->at.tv_nsec > b->at.tv_nsec;
}

/* In the order they were made, which is the same for each vault that is made the same way: names are random. */
static void find_packs(const struct vfs_site *s)
{
	nr_packs = 0;
	ck_assert_int_eq(nftw(s->dir.path, note_pack, 16, FTW_PHYS), 0);
	ck_assert_uint_gt(nr_packs, 0);
	qsort(packs, nr_packs, sizeof *packs, by_time);
}

enum harm { HARM_GONE, HARM_SHORT, HARM_FLIPPED, HARMS };

static void harm(const char *path, off_t bytes, enum harm how)
{
	char x;

	ck_assert_int_eq(chmod(path, 0600), 0);
	if (how == HARM_GONE) {
		ck_assert_int_eq(unlink(path), 0);
	} else if (how == HARM_SHORT) {
		ck_assert_int_eq(truncate(path, bytes / 2), 0);
	} else {
		/* Whatever stands there: every object of it. */
		int fd = open(path, O_RDWR);
		for (off_t at = 20; at < bytes; at += 40) {
			ck_assert_int_eq(pread(fd, &x, 1, at), 1);
			x ^= 4;
			ck_assert_int_eq(pwrite(fd, &x, 1, at), 1);
		}
		close(fd);
	}
}

/* A vault with two files, a snapshot of an older state, a directory, two packs of data, more of metadata. */
static void make(const struct vfs_site *s, struct vfs *a)
{
	*a = vfs_mount(s, "a");
	ck_assert_int_eq(vfs_mkdir(a, "/d"), 0);
	put(a, "/d/old", BIG, 1);
	put(a, "/same", SMALL, 2);
	ck_assert_int_eq(nf_vault_snapshot_create(a->v, "before", NULL), 0);
	put(a, "/d/old", BIG, 3);
	put(a, "/new", SMALL, 4);
	ck_assert_int_eq(vfs_sync(a), 0);
}

static void is_there(struct vfs *m)
{
	ck_assert_int_eq(same(m, "/d/old", BIG, 3), 0);
	ck_assert_int_eq(same(m, "/same", SMALL, 2), 0);
	ck_assert_int_eq(same(m, "/new", SMALL, 4), 0);
}

static void snapshot_is_there(const struct vfs_site *s)
{
	char cache[200], state[200];
	struct nf_vault_options o = vfs_options(s, "reader", cache, state);
	struct vfs r;

	o.snapshot = "before";
	o.read_only = true;
	o.cache_dir = NULL;
	ck_assert_int_eq(nf_vault_open(&o, &r.v), 0);
	r.fs = nf_vault_fs(r.v);
	ck_assert_int_eq(same(&r, "/d/old", BIG, 1), 0);
	ck_assert_int_eq(same(&r, "/same", SMALL, 2), 0);
	ck_assert_uint_eq(check(&r, true, false).problems, 0);
	vfs_unmount(&r);
}

/* Each pack in turn: this machine made all of it, so all of it comes back, for a machine that never saw it too. */
START_TEST(every_pack_that_this_machine_has_is_named_and_comes_back)
{
	enum harm how = (enum harm)_i;
	unsigned nr = 1;

	for (unsigned i = 0; i < nr; i++) {
		struct vfs_site s;
		struct vfs a;
		site_init(&s);
		make(&s, &a);
		ck_assert_uint_eq(check(&a, true, false).problems, 0);
		find_packs(&s);
		nr = nr_packs;
		harm(packs[i].path, packs[i].bytes, how);
		vfs_unmount(&a);
		a = vfs_mount(&s, "a");
		struct nf_check_result r = check(&a, how == HARM_FLIPPED, false);
		/* What nothing names any more may go. */
		bool named = r.problems > 0;
		ck_assert(named == (said[0] != '\0'));
		r = check(&a, how == HARM_FLIPPED, true);
		ck_assert_msg(r.problems == 0, "%s", said);
		ck_assert(named == (r.repaired > 0));
		vfs_unmount(&a);
		struct vfs b = vfs_mount(&s, "b");
		is_there(&b);
		r = check(&b, true, false);
		ck_assert_msg(r.problems == 0, "%s", said);
		ck_assert_int_eq(vfs_puts(&b, "/after", "text"), 0);
		ck_assert_int_eq(vfs_sync(&b), 0);
		vfs_unmount(&b);
		snapshot_is_there(&s);
		vfs_site_deinit(&s);
	}
	printf("# packs %u\n", nr);
	ck_assert_uint_gt(nr, 4);
}
END_TEST

/* The same seen by a machine that has nothing: it names what is lost, and the rest is readable and writeable. */
START_TEST(what_nobody_has_is_listed_and_the_rest_goes_on)
{
	enum harm how = (enum harm)_i;
	unsigned nr = 1, shut = 0, lost = 0, beside = 0;

	for (unsigned i = 0; i < nr; i++) {
		struct vfs_site s;
		struct vfs a, b;
		site_init(&s);
		make(&s, &a);
		find_packs(&s);
		nr = nr_packs;
		vfs_unmount(&a);
		harm(packs[i].path, packs[i].bytes, how);
		char cache[200], state[200];
		struct nf_vault_options o = vfs_options(&s, "b", cache, state);
		if (nf_vault_open(&o, &b.v) < 0) {
			/* The newest tree's root is in it. */
			vfs_site_deinit(&s);
			shut++;
			continue;
		}
		b.fs = nf_vault_fs(b.v);
		struct nf_check_result before = check(&b, true, false);
		struct nf_check_result r = check(&b, true, true);
		ck_assert(before.problems == 0 || r.problems > 0);
		ck_assert(r.problems == 0 || said[0]);
		lost += r.problems > 0;
		beside += (unsigned)r.restored;
		if (r.restored) {
			ck_assert_ptr_nonnull(strstr(said, "/d/old: its version of commit "));
			char path[100];
			const char *name = strstr(said, "\"old (recovered from commit ");
			ck_assert_ptr_nonnull(name);
			snprintf(path, sizeof path, "/d/%.*s", (int)strcspn(name + 1, "\""), name + 1);
			ck_assert_int_eq(same(&b, path, BIG, 1), 0);
		}
		ck_assert_int_eq(vfs_puts(&b, "/after", "text"), 0);
		ck_assert_int_eq(vfs_sync(&b), 0);
		ck_assert_int_eq(vfs_checks(&b, "/after", "text"), 0);
		vfs_unmount(&b);
		vfs_site_deinit(&s);
	}
	printf("# packs %u, not even opened with %u of them, something lost with %u, versions put beside %u\n", nr, shut, lost, beside);
	ck_assert_uint_gt(lost, 2);
	ck_assert_uint_gt(beside, 0);
	ck_assert_uint_le(shut, 3);
}
END_TEST

START_TEST(a_snapshot_and_an_older_commit_are_named_where_they_alone_are_hurt)
{
	struct vfs_site s;
	struct vfs a;

	site_init(&s);
	a = vfs_mount(&s, "a");
	put(&a, "/f", BIG, 1);
	ck_assert_int_eq(vfs_sync(&a), 0);
	find_packs(&s);
	unsigned most = 0;
	for (unsigned i = 0; i < nr_packs; i++)
		most = packs[i].bytes > packs[most].bytes ? i : most;
	ck_assert_int_eq(nf_vault_snapshot_create(a.v, "before", NULL), 0);
	put(&a, "/f", BIG, 2);
	ck_assert_int_eq(vfs_sync(&a), 0);
	harm(packs[most].path, packs[most].bytes, HARM_GONE);
	struct nf_check_result r = check(&a, false, false);
	ck_assert_uint_gt(r.problems, 0);
	ck_assert_uint_eq(r.snapshots, 1);
	ck_assert_ptr_nonnull(strstr(said, "commit "));
	ck_assert(strstr(said, "snapshot before: /f: blocks ") || strstr(said, "snapshot before: has some of the damage"));
	ck_assert(strncmp(said, "/f", 2) != 0);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "repair", 120);
	tcase_add_loop_test(tc, every_pack_that_this_machine_has_is_named_and_comes_back, 0, HARMS);
	tcase_add_loop_test(tc, what_nobody_has_is_listed_and_the_rest_goes_on, 0, HARMS);
	tcase_add_test(tc, a_snapshot_and_an_older_commit_are_named_where_they_alone_are_hurt);
}

NF_SUITE("vault/repair")
