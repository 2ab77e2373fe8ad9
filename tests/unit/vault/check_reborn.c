/* A device whose state was copied or restored from a backup goes on as a writer of its own: what it had not sent arrives once, what
 * others sent stays, and whatever stops it in between it begins again. */
#include "gate.h"
#include "vfs.h"

#include "base/random.h"
#include "vault/commit.h"

#include <unistd.h>

enum { BIG = 300000, OFFSET = 100000 };

/* --- helpers --------------------------------------------------------------------------- */

static void fill(void *p, size_t len, uint64_t seed)
{
	struct nf_prng prng;

	nf_prng_seed(&prng, seed);
	for (size_t i = 0; i < len; i++)
		((uint8_t *)p)[i] = (uint8_t)nf_prng_next(&prng);
}

static int put(struct vfs *m, const char *path, uint64_t seed)
{
	static char p[BIG];

	fill(p, BIG, seed);
	return vfs_put(m, path, p, BIG);
}

/* TEXT at OFFSET, in what put() wrote; NULL: nothing. */
static int check(struct vfs *m, const char *path, uint64_t seed, const char *text)
{
	static char p[BIG];

	fill(p, BIG, seed);
	if (text)
		memcpy(p + OFFSET, text, strlen(text));
	return vfs_check(m, path, p, BIG);
}

static void edit(struct vfs *m, const char *path, const char *text)
{
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_open(m, path, O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(m, f, ino, text, strlen(text), OFFSET), 0);
	ck_assert_int_eq(vfs_fsync(m, f, ino), 0);
	vfs_close(m, f, ino);
}

__attribute__((format(printf, 2, 3))) static void shell(const struct vfs_site *s, const char *format, ...)
{
	char cmd[1500], all[1700];
	va_list ap;

	va_start(ap, format);
	vsnprintf(cmd, sizeof cmd, format, ap);
	va_end(ap);
	snprintf(all, sizeof all, "cd '%s' && { %s; }", s->dir.path, cmd);
	ck_assert_int_eq(system(all), 0);
}

static void copy_disk(const struct vfs_site *s, const char *from, const char *to)
{
	shell(s, "rm -rf '%s-state' '%s-cache' && cp -a '%s-state' '%s-state' && cp -a '%s-cache' '%s-cache'", to, to, from, to,
	      from, to);
}

static size_t conflict_copies(struct vfs *m)
{
	struct vfs_names *n = malloc(sizeof *n);
	size_t found = 0;

	vfs_ls(m, "/", n);
	for (size_t i = 0; i < n->nr; i++)
		found += strstr(n->name[i], "(conflict ") != NULL;
	free(n);
	return found;
}

static void freeze(struct vfs *m)
{
	ck_assert_int_eq(nf_cut(m->v), 1);
	ck_assert_int_eq(nf_cut_drain(m->v), 0);
}

/* --- records of a writer that was given up --------------------------------------------- */

static int keep_segments(const struct nf_file_ops *f, const char *path)
{
	return strstr(path, ".seg") ? -EIO : nf_file_real.unlink(f, path);
}

/* As vfs_mount(), but no segment of the journal is removed: as if the power went before that was durable. */
static struct vfs mount_keeping(const struct vfs_site *s, const char *name)
{
	static struct nf_file_ops files;
	char cache[200], state[200];
	struct nf_vault_options o = vfs_options(s, name, cache, state);
	struct vfs m;

	files = nf_file_real;
	files.unlink = keep_segments;
	o.files = &files;
	ck_assert_int_eq(nf_vault_open(&o, &m.v), 0);
	m.fs = nf_vault_fs(m.v);
	return m;
}

/* Segments stay, and hold a dot of the old writer that nobody had reported, with a number that the new one has not come to. */
START_TEST(records_of_the_writer_before_are_no_dots_of_the_new_one)
{
	const struct nf_head *leaf;
	struct nf_vault_status st;
	struct nf_head sent;
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(put(&a, "/f", 1), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	edit(&a, "/f", "first");
	freeze(&a);
	leaf = &a.v->base;
	ck_assert_int_eq(nf_publish(a.v, &leaf, 1, &sent), 0);
	ck_assert_int_eq(nf_adopt(a.v, &sent), 0);
	nf_head_deinit(&sent);
	ck_assert_ptr_nonnull(a.v->unreported);
	copy_disk(&s, "a", "copy");
	ck_assert_int_eq(vfs_sync(&a), 0);
	edit(&a, "/f", "later");
	ck_assert_int_eq(vfs_sync(&a), 0);
	uint32_t old = a.v->writer;
	vfs_unmount(&a);
	struct vfs c = mount_keeping(&s, "copy");
	ck_assert_uint_ne(c.v->writer, old);
	vfs_unmount(&c);
	c = vfs_mount(&s, "copy");
	nf_vault_status(c.v, &st);
	ck_assert_uint_eq(st.pending_ops, 0);
	ck_assert_ptr_null(c.v->frozen);
	ck_assert_int_eq(check(&c, "/f", 1, "later"), 0);
	ck_assert_int_eq(vfs_sync(&c), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(check(&b, "/f", 1, "later"), 0);
	ck_assert_uint_eq(conflict_copies(&b), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&b);
	vfs_unmount(&c);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "reborn", 120);

	tcase_add_test(tc, records_of_the_writer_before_are_no_dots_of_the_new_one);
}

NF_SUITE("vault/reborn")
