/* A node of the newest tree that nobody has any more: what an older tree has takes its place, the rest stays as it is. */
#include "vfs.h"

#include "base/random.h"
#include "vault/gc.h"

#include <stdlib.h>
#include <unistd.h>

enum { FILES = 150, CHANGED = 7, NODES_MAX = 200, SAID = 1 << 17, BLOCK = 4096, BLOCKS = 2400 };

static char said[SAID];

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

/* A vault in a directory, of which objects can be harmed. */
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

static void path_of(int i, char path[40]) { snprintf(path, 40, "/d%d/file%03d", i % 5, i); }

/* Text of FILE in its version; large enough that a leaf holds few of them. */
static void text_of(int file, int version, char text[401])
{
	memset(text, 'a' + version, 400);
	snprintf(text, 401, "file %d version %d", file, version);
	text[strlen(text)] = ' ';
	text[400] = '\0';
}

static void put(struct vfs *m, int file, int version)
{
	char path[40], text[401];

	path_of(file, path);
	text_of(file, version, text);
	ck_assert_int_eq(vfs_puts(m, path, text), 0);
}

static bool has(struct vfs *m, int file, int version)
{
	char path[40], text[401];

	path_of(file, path);
	text_of(file, version, text);
	return vfs_checks(m, path, text) == 0;
}

/* Five directories with files, a commit; some files changed, one removed, one renamed, one new: another. */
static void make(struct vfs_site *s)
{
	struct vfs a = vfs_mount(s, "a");

	for (int d = 0; d < 5; d++) {
		char path[40];
		snprintf(path, sizeof path, "/d%d", d);
		ck_assert_int_eq(vfs_mkdir(&a, path), 0);
	}
	for (int i = 0; i < FILES; i++)
		put(&a, i, 0);
	ck_assert_int_eq(vfs_mkdir(&a, "/late"), 0);
	ck_assert_int_eq(vfs_rename(&a, "/d3/file003", "/late/moved"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_rename(&a, "/late/moved", "/d4/again"), 0);
	for (int i = 0; i < FILES; i += CHANGED)
		put(&a, i, 1);
	put(&a, FILES, 0);
	ck_assert_int_eq(vfs_unlink(&a, "/d1/file001", false), 0);
	ck_assert_int_eq(vfs_rename(&a, "/d2/file002", "/d3/renamed"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
}

/* --- nodes ----------------------------------------------------------------------------------- */

static struct nf_ref nodes[NODES_MAX];
static struct nf_key firsts[NODES_MAX];
static unsigned nr_nodes;

static int note_node(void *ctx, const struct nf_ref *ref)
{
	(void)ctx;
	ck_assert_uint_lt(nr_nodes, NODES_MAX);
	firsts[nr_nodes] = (struct nf_key){ .ino = UINT64_MAX };
	nodes[nr_nodes++] = *ref;
	return 0;
}

static int note_item(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	(void)ctx;
	(void)val;
	if (firsts[nr_nodes - 1].ino == UINT64_MAX)
		firsts[nr_nodes - 1] = *key;
	return 0;
}

/* Those below the root, in the order of a walk. */
static void find_nodes(struct vfs *m)
{
	nr_nodes = 0;
	ck_assert_int_eq(nf_tree_walk(&m->v->src, &m->v->base.root, note_item, note_node, NULL), 0);
}

static void harm(const struct vfs_site *s, const struct nf_ref *ref)
{
	char name[64], path[400];
	uint8_t x = 0;

	nf_pack_name(&ref->pack, name);
	snprintf(path, sizeof path, "%s/%s", s->address, name);
	ck_assert_int_eq(chmod(path, 0600), 0);
	int fd = open(path, O_RDWR);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &x, 1, ref->offset_bytes + 30), 1);
	x ^= 1;
	ck_assert_int_eq(pwrite(fd, &x, 1, ref->offset_bytes + 30), 1);
	close(fd);
}

/* The same vault once more, at another place. */
static struct vfs_site copy_of(const struct vfs_site *from, int nr)
{
	struct vfs_site s = *from;
	char cmd[500];

	snprintf(s.address, sizeof s.address, "%.170s/store%d", from->dir.path, nr);
	snprintf(cmd, sizeof cmd, "cp -a %s %s", from->address, s.address);
	ck_assert_int_eq(system(cmd), 0);
	return s;
}

static struct vfs mount_as(const struct vfs_site *s, const char *name, int nr)
{
	char full[40];

	snprintf(full, sizeof full, "%s%d", name, nr);
	return vfs_mount(s, full);
}

/* Every file is there as it is or as it was, or named. */
static unsigned judge(struct vfs *m, bool named)
{
	unsigned now = 0;

	for (int i = 0; i <= FILES; i++) {
		bool changed = i < FILES && i % CHANGED == 0;
		char path[40];
		path_of(i, path);
		/* Removed, renamed. */
		if (i >= 1 && i <= 3)
			continue;
		if (has(m, i, changed)) {
			now++;
			continue;
		}
		ck_assert_msg(has(m, i, 0) || vfs_checks(m, path, "") == -ENOENT, "%s is something else\n%s", path, said);
		/* A file of the lost node is told of by its path. */
		ck_assert_msg(!named || strstr(said, path) || strstr(said, "no kept commit"), "%s is not named\n%s", path, said);
	}
	/* A name of the older tree does not come back beside the one that took its place, nor what was removed. */
	char text[401];
	text_of(2, 0, text);
	ck_assert_int_eq((vfs_checks(m, "/d2/file002", text) == 0) + (vfs_checks(m, "/d3/renamed", text) == 0), 1);
	text_of(3, 0, text);
	ck_assert_int_eq((vfs_checks(m, "/late/moved", text) == 0) + (vfs_checks(m, "/d4/again", text) == 0), 1);
	ck_assert_int_eq(vfs_checks(m, "/d1/file001", ""), -ENOENT);
	return now;
}

static void is_whole(struct vfs *m)
{
	struct nf_gc_options o;
	struct nf_gc_result g;

	(void)check(m, true, false);
	/* What is left is of older commits. */
	for (const char *p = said; *p; p = strchr(p, '\n') + 1)
		ck_assert_msg(!strncmp(p, "commit ", 7), "%s", said);
	nf_gc_defaults(&o);
	ck_assert_int_eq(nf_vault_gc(m->v, &o, NULL, &g), 0);
}

START_TEST(an_older_tree_stands_in_for_each_node_and_nothing_else_is_lost)
{
	struct vfs_site s;
	unsigned mended = 0, refused = 0, least = FILES, nr = 1;

	site_init(&s);
	make(&s);
	for (unsigned i = 0; i < nr; i++) {
		struct vfs_site c = copy_of(&s, (int)i);
		struct vfs b = mount_as(&c, "b", (int)i);
		find_nodes(&b);
		nr = nr_nodes;
		vfs_unmount(&b);
		if (nodes[i].level || firsts[i].ino == 0) {
			refused++;
			continue;
		}
		/* Another machine stands on the tree, without what is lost. */
		harm(&c, &nodes[i]);
		struct vfs o = mount_as(&c, "other", (int)i);
		b = mount_as(&c, "c", (int)i);
		(void)check(&b, true, true);
		ck_assert_msg(strstr(said, "take its place"), "%s", said);
		unsigned now = judge(&b, true);
		least = NF_MIN(least, now);
		is_whole(&b);
		ck_assert_int_eq(vfs_puts(&b, "/d0/after", "text"), 0);
		ck_assert_int_eq(vfs_sync(&b), 0);
		/* Once more: nothing is to be done. */
		uint64_t seq = b.v->base.id.seq;
		(void)check(&b, false, true);
		ck_assert_uint_eq(b.v->base.id.seq, seq);
		/* The other one follows. */
		ck_assert_int_eq(nf_vault_refresh(o.v), 0);
		ck_assert_int_eq(vfs_checks(&o, "/d0/after", "text"), 0);
		ck_assert_int_eq(vfs_puts(&o, "/d1/theirs", "text"), 0);
		ck_assert_int_eq(vfs_sync(&o), 0);
		vfs_unmount(&o);
		vfs_unmount(&b);
		b = mount_as(&c, "d", (int)i);
		ck_assert_uint_eq(judge(&b, false), now);
		ck_assert_int_eq(vfs_checks(&b, "/d1/theirs", "text"), 0);
		vfs_unmount(&b);
		mended++;
	}
	printf("# nodes %u, mended %u, others %u; files as they are at least %u of %u\n", nr, mended, refused, least, FILES - 1);
	ck_assert_uint_gt(mended, 4);
	ck_assert_uint_gt(least, FILES / 2);
	vfs_site_deinit(&s);
}
END_TEST

/* No older tree has any of it: what was in the node is named, everything else is there. */
START_TEST(what_no_tree_has_is_left_out_and_named_by_path)
{
	struct vfs_site s;
	unsigned nr = 1, mended = 0;

	site_init(&s);
	struct vfs a = vfs_mount(&s, "a");
	for (int d = 0; d < 5; d++) {
		char path[40];
		snprintf(path, sizeof path, "/d%d", d);
		ck_assert_int_eq(vfs_mkdir(&a, path), 0);
	}
	ck_assert_int_eq(vfs_mkdir(&a, "/d0/sub"), 0);
	for (int i = 0; i < FILES; i++)
		put(&a, i, 0);
	for (int i = 0; i < 20; i++) {
		char path[40];
		snprintf(path, sizeof path, "/d0/sub/%d", i);
		ck_assert_int_eq(vfs_puts(&a, path, path), 0);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	for (unsigned i = 0; i < nr; i++) {
		struct vfs_site c = copy_of(&s, (int)i);
		struct vfs b = mount_as(&c, "b", (int)i);
		find_nodes(&b);
		nr = nr_nodes;
		vfs_unmount(&b);
		if (nodes[i].level || firsts[i].ino == 0)
			continue;
		harm(&c, &nodes[i]);
		b = mount_as(&c, "c", (int)i);
		(void)check(&b, true, true);
		ck_assert_msg(strstr(said, "it is left out"), "%s", said);
		unsigned there = 0;
		for (int f = 0; f < FILES; f++) {
			char path[40];
			path_of(f, path);
			if (has(&b, f, 0)) {
				there++;
				continue;
			}
			ck_assert_int_eq(vfs_checks(&b, path, ""), -ENOENT);
			ck_assert_msg(strstr(said, path) || strstr(said, "recovered-"), "%s is not named\n%s", path, said);
		}
		for (int f = 0; f < 20; f++) {
			char path[40];
			snprintf(path, sizeof path, "/d0/sub/%d", f);
			there += vfs_checks(&b, path, path) == 0;
		}
		printf("# node %u: %u of %u files are there\n", i, there, FILES + 20);
		ck_assert_uint_gt(there, 0);
		is_whole(&b);
		ck_assert_int_eq(vfs_puts(&b, "/after", "text"), 0);
		ck_assert_int_eq(vfs_sync(&b), 0);
		vfs_unmount(&b);
		mended++;
	}
	ck_assert_uint_gt(mended, 0);
	vfs_site_deinit(&s);
}
END_TEST

static void block_of(int version, int block, uint8_t out[BLOCK])
{
	struct nf_prng prng;

	nf_prng_seed(&prng, (uint64_t)(version * BLOCKS + block + 1));
	for (size_t i = 0; i < BLOCK; i += 8) {
		uint64_t x = nf_prng_next(&prng);
		memcpy(out + i, &x, 8);
	}
}

static void put_big(struct vfs *m, int version)
{
	uint8_t *p = malloc((size_t)BLOCKS * BLOCK);

	for (int i = 0; i < BLOCKS; i++)
		block_of(version, i, p + (size_t)i * BLOCK);
	ck_assert_int_eq(vfs_put(m, "/big", p, (size_t)BLOCKS * BLOCK), 0);
	ck_assert_int_eq(vfs_sync(m), 0);
	free(p);
}

/* Which blocks of a file are of each version; those that cannot be read are in neither. */
static void count_blocks(struct vfs *m, const char *path, unsigned of[2])
{
	struct nf_open_file *f;
	uint64_t ino;
	uint8_t got[BLOCK], want[BLOCK];
	size_t len;

	of[0] = of[1] = 0;
	ck_assert_int_eq(vfs_open(m, path, O_RDONLY, 0, &f, &ino), 0);
	for (int i = 0; i < BLOCKS; i++) {
		if (vfs_pread(m, f, ino, got, BLOCK, (uint64_t)i * BLOCK, &len) < 0)
			continue;
		ck_assert_uint_eq(len, BLOCK);
		block_of(0, i, want);
		bool old = !memcmp(got, want, BLOCK);
		block_of(1, i, want);
		bool now = !memcmp(got, want, BLOCK);
		ck_assert_msg(old || now, "block %d of %s is of no version", i, path);
		of[now]++;
	}
	vfs_close(m, f, ino);
}

START_TEST(a_file_that_stands_in_several_nodes_is_never_a_mixture_of_versions)
{
	struct vfs_site s;
	unsigned nr = 1, beside = 0, holed = 0;

	site_init(&s);
	s.block_shift = 12;
	struct vfs a = vfs_mount(&s, "a");
	put_big(&a, 0);
	put_big(&a, 1);
	vfs_unmount(&a);
	for (unsigned i = 0; i < nr; i++) {
		struct vfs_site c = copy_of(&s, (int)i);
		struct vfs b = mount_as(&c, "b", (int)i);
		unsigned of[2];
		find_nodes(&b);
		nr = nr_nodes;
		vfs_unmount(&b);
		if (nodes[i].level || firsts[i].ino == 0)
			continue;
		harm(&c, &nodes[i]);
		b = mount_as(&c, "c", (int)i);
		struct nf_check_result r = check(&b, false, true);
		count_blocks(&b, "/big", of);
		printf("# node %u: %u blocks as they are, %u as they were, of %u\n", i, of[1], of[0], BLOCKS);
		ck_assert_msg(!of[0] || !of[1], "%s", said);
		holed += of[0] + of[1] < BLOCKS;
		if (r.restored) {
			const char *name = strstr(said, "\"big (recovered from commit ");
			char path[100];
			ck_assert_ptr_nonnull(name);
			snprintf(path, sizeof path, "/%.*s", (int)strcspn(name + 1, "\""), name + 1);
			count_blocks(&b, path, of);
			ck_assert_uint_eq(of[0], BLOCKS);
			beside++;
		}
		struct nf_gc_options o;
		struct nf_gc_result g;
		nf_gc_defaults(&o);
		ck_assert_int_eq(nf_vault_gc(b.v, &o, NULL, &g), 0);
		vfs_unmount(&b);
	}
	ck_assert_uint_gt(holed, 0);
	ck_assert_uint_gt(beside, 0);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "mend", 120);
	tcase_add_test(tc, what_no_tree_has_is_left_out_and_named_by_path);
	tcase_add_test(tc, a_file_that_stands_in_several_nodes_is_never_a_mixture_of_versions);
	tcase_add_test(tc, an_older_tree_stands_in_for_each_node_and_nothing_else_is_lost);
}

NF_SUITE("vault/mend")
