/* Pages of shared mappings as the kernel sends them, and writes past the kernel's pages beside them. */
#include "vfs.h"

#include "base/counter.h"
#include "vault/vault_i.h"

enum { PAGE = 4096 };

/* Instead of a kernel: what it is told, and done at once. */
static struct {
	unsigned nr;
	uint64_t ino;
	int64_t offset, len;
	void (*before)(void); /* called first: the write is applied and not answered */
} told;

static void inval_inode(void *ctx, uint64_t ino, int64_t offset, int64_t len, void (*done)(void *arg), void *arg)
{
	(void)ctx;
	told.nr++;
	told.ino = ino;
	told.offset = offset;
	told.len = len;
	if (told.before)
		told.before();
	if (done)
		done(arg);
}

static void inval_entry(void *ctx, uint64_t ino, const char *name, size_t name_len)
{
	(void)ctx;
	(void)ino;
	(void)name;
	(void)name_len;
}

static void inval_all(void *ctx) { (void)ctx; }

static const struct nf_notify_ops notify = { inval_inode, inval_entry, inval_all };

/* A file of two pages of 'a', made by a descriptor for writing alone (W), with one for a mapping (F). */
struct site {
	struct vfs_site s;
	struct vfs m;
	struct nf_open_file *w, *f;
	uint64_t ino;
	char page[PAGE];
};

static void site_init(struct site *t, int flags, bool drops_pages)
{
	char all[2 * PAGE];

	memset(&told, 0, sizeof told);
	memset(all, 'a', sizeof all);
	vfs_site_init(&t->s, "", "");
	t->m = vfs_mount(&t->s, "a");
	t->m.fs->notify = &notify;
	struct nf_call c = { .op = NF_CALL_CREATE, .ino = 1, .mode = 0644, .flags = (uint32_t)(flags | O_CREAT),
			     .drops_pages = drops_pages };
	snprintf(c.name, sizeof c.name, "f");
	ck_assert_int_eq(vfs_call(&t->m, &c), 0);
	ck_assert_int_eq(c.direct_io, drops_pages && flags == O_WRONLY);
	t->w = c.file;
	t->ino = c.attr.ino;
	ck_assert_int_eq(vfs_pwrite(&t->m, t->w, t->ino, all, sizeof all, 0), 0);
	ck_assert_int_eq(vfs_open(&t->m, "/f", O_RDWR, 0, &t->f, NULL), 0);
}

static void site_deinit(struct site *t)
{
	vfs_close(&t->m, t->w, t->ino);
	vfs_close(&t->m, t->f, t->ino);
	t->m.fs->notify = NULL;
	vfs_unmount(&t->m);
	vfs_site_deinit(&t->s);
}

/* The kernel reads the first page for a mapping. */
static void give_page(struct site *t)
{
	size_t got;

	ck_assert_int_eq(vfs_pread(&t->m, t->f, t->ino, t->page, PAGE, 0, &got), 0);
	ck_assert_uint_eq(got, PAGE);
}

static void send_page(struct vfs *m, struct nf_open_file *f, uint64_t ino, const char *page)
{
	struct nf_call c = { .op = NF_CALL_WRITE, .ino = ino, .file = f, .size = PAGE, .data = page,
			     .write_flags = NF_WRITE_CACHE };

	ck_assert_int_eq(vfs_call(m, &c), 0);
	ck_assert_uint_eq(c.count, PAGE);
}

static void past(struct site *t, char what, uint64_t start, uint64_t end)
{
	char bytes[PAGE];

	memset(bytes, what, sizeof bytes);
	ck_assert_int_eq(vfs_pwrite(&t->m, t->w, t->ino, bytes, end - start, start), 0);
}

/* The file is 'a' but for these. */
struct piece {
	char what;
	unsigned start, end;
};

static void check(struct site *t, const struct piece *p, size_t nr)
{
	char want[2 * PAGE];

	memset(want, 'a', sizeof want);
	for (size_t i = 0; i < nr; i++)
		memset(want + p[i].start, p[i].what, p[i].end - p[i].start);
	ck_assert_int_eq(vfs_check(&t->m, "/f", want, sizeof want), 0);
}

#define CHECK(t, ...) check(t, (struct piece[]){ __VA_ARGS__ }, sizeof (struct piece[]){ __VA_ARGS__ } / sizeof(struct piece))

START_TEST(of_a_page_only_the_bytes_that_were_changed_are_written)
{
	struct site t;
	site_init(&t, O_RDWR, false);
	uint64_t before = nf_counter_get(NF_C_REGION_BYTES);

	give_page(&t);
	memset(t.page + 10, 'm', 10);
	t.page[PAGE - 1] = 'm';
	send_page(&t.m, t.f, t.ino, t.page);
	ck_assert_uint_eq(nf_counter_get(NF_C_REGION_BYTES) - before, 11);
	send_page(&t.m, t.f, t.ino, t.page);
	ck_assert_uint_eq(nf_counter_get(NF_C_REGION_BYTES) - before, 11);
	CHECK(&t, { 'm', 10, 20 }, { 'm', PAGE - 1, PAGE });
	site_deinit(&t);
}
END_TEST

START_TEST(a_page_of_which_nothing_is_in_memory_is_written_whole)
{
	struct site t;
	site_init(&t, O_RDWR, false);
	char page[PAGE];

	ck_assert_int_eq(vfs_sync(&t.m), 0);
	vfs_close(&t.m, t.w, t.ino);
	vfs_close(&t.m, t.f, t.ino);
	t.m.fs->notify = NULL;
	vfs_unmount(&t.m);
	t.m = vfs_mount(&t.s, "a");
	ck_assert_int_eq(vfs_open(&t.m, "/f", O_RDWR, 0, &t.w, NULL), 0);
	ck_assert_int_eq(vfs_open(&t.m, "/f", O_RDWR, 0, &t.f, NULL), 0);
	uint64_t before = nf_counter_get(NF_C_REGION_BYTES);
	memset(page, 'a', sizeof page);
	page[5] = 'm';
	send_page(&t.m, t.f, t.ino, page);
	ck_assert_uint_eq(nf_counter_get(NF_C_REGION_BYTES) - before, PAGE);
	CHECK(&t, { 'm', 5, 6 });
	site_deinit(&t);
}
END_TEST

START_TEST(only_a_file_made_or_emptied_for_writing_alone_is_written_past_the_pages)
{
	static const int never[] = { O_WRONLY | O_APPEND, O_WRONLY | O_SYNC, O_WRONLY | O_DSYNC, O_RDWR };
	struct site t;

	for (size_t i = 0; i < sizeof never / sizeof never[0]; i++) {
		site_init(&t, never[i], true);
		site_deinit(&t);
	}
	site_init(&t, O_WRONLY, true);
	for (int empties = 0; empties < 2; empties++) {
		struct nf_call c = { .op = NF_CALL_OPEN, .ino = t.ino, .drops_pages = true,
				     .flags = O_WRONLY | (empties ? O_TRUNC : 0) };
		ck_assert_int_eq(vfs_call(&t.m, &c), 0);
		ck_assert_int_eq(c.direct_io, empties);
		vfs_close(&t.m, c.file, t.ino);
	}
	site_deinit(&t);
}
END_TEST

START_TEST(a_page_has_no_say_where_was_written_past_it)
{
	struct site t;
	site_init(&t, O_WRONLY, true);

	give_page(&t);
	past(&t, 'p', 100, 200);
	memset(t.page + 10, 'm', 10);
	memset(t.page + 190, 'm', 30);
	send_page(&t.m, t.f, t.ino, t.page);
	CHECK(&t, { 'm', 10, 20 }, { 'p', 100, 200 }, { 'm', 200, 220 });
	site_deinit(&t);
}
END_TEST

START_TEST(a_page_read_after_the_write_is_believed)
{
	struct site t;
	site_init(&t, O_WRONLY, true);

	past(&t, 'p', 100, 200);
	give_page(&t);
	memset(t.page + 150, 'm', 10);
	send_page(&t.m, t.f, t.ino, t.page);
	CHECK(&t, { 'p', 100, 150 }, { 'm', 150, 160 }, { 'p', 160, 200 });
	site_deinit(&t);
}
END_TEST

START_TEST(a_write_through_the_pages_makes_them_new)
{
	struct site t;
	site_init(&t, O_WRONLY, true);
	char whole[PAGE];

	memset(whole, 'c', sizeof whole);
	past(&t, 'p', 100, 200);
	ck_assert_int_eq(vfs_pwrite(&t.m, t.f, t.ino, whole, sizeof whole, 0), 0);
	memset(whole + 150, 'm', 10);
	send_page(&t.m, t.f, t.ino, whole);
	CHECK(&t, { 'c', 0, PAGE }, { 'm', 150, 160 });
	site_deinit(&t);
}
END_TEST

static struct site *mine;

static void send_mine(void)
{
	told.before = NULL;
	send_page(&mine->m, mine->f, mine->ino, mine->page);
}

START_TEST(pages_that_may_be_older_are_dropped_before_the_write_is_answered)
{
	struct site t;
	site_init(&t, O_WRONLY, true);
	uint64_t ino;

	past(&t, 'p', 0, 50);
	ck_assert_uint_eq(told.nr, 0); /* nobody has read */
	give_page(&t);
	memset(t.page + 60, 'm', 10);
	mine = &t;
	told.before = send_mine;
	past(&t, 'q', 20, 80);
	ck_assert_uint_eq(told.nr, 1);
	ck_assert_int_eq(vfs_lookup(&t.m, 1, "f", &ino), 0);
	ck_assert_uint_eq(told.ino, ino);
	ck_assert_int_eq(told.offset, 20);
	ck_assert_int_eq(told.len, 60);
	CHECK(&t, { 'p', 0, 20 }, { 'q', 20, 80 });
	told.nr = 0;
	past(&t, 'r', PAGE, PAGE + 10); /* the check above has read it */
	ck_assert_uint_eq(told.nr, 1);
	past(&t, 'r', PAGE + 10, PAGE + 20);
	ck_assert_uint_eq(told.nr, 1);
	site_deinit(&t);
}
END_TEST

START_TEST(a_read_while_a_write_is_applied_may_find_what_was_before)
{
	struct nf_vnode vn = { 0 };
	uint64_t s, e;

	nf_past_init(&vn.past);
	nf_past_open(&vn);
	nf_past_begin(&vn, 100, 200);
	nf_past_read(&vn, 0, 150);
	ck_assert(nf_rangeset_next(&vn.past.over, 0, &s, &e));
	ck_assert_uint_eq(s, 100);
	ck_assert_uint_eq(e, 200);
	ck_assert(nf_past_applied(&vn, 100, 200));
	nf_past_read(&vn, 0, 150);
	ck_assert(nf_rangeset_next(&vn.past.over, 0, &s, &e));
	ck_assert_uint_eq(s, 150);
	nf_past_close(&vn);
	ck_assert(!nf_rangeset_next(&vn.past.over, 0, &s, &e));
	ck_assert(!nf_rangeset_next(&vn.past.given, 0, &s, &e));
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "mapped", 60);
	tcase_add_test(tc, of_a_page_only_the_bytes_that_were_changed_are_written);
	tcase_add_test(tc, a_page_of_which_nothing_is_in_memory_is_written_whole);
	tcase_add_test(tc, only_a_file_made_or_emptied_for_writing_alone_is_written_past_the_pages);
	tcase_add_test(tc, a_page_has_no_say_where_was_written_past_it);
	tcase_add_test(tc, a_page_read_after_the_write_is_believed);
	tcase_add_test(tc, a_write_through_the_pages_makes_them_new);
	tcase_add_test(tc, pages_that_may_be_older_are_dropped_before_the_write_is_answered);
	tcase_add_test(tc, a_read_while_a_write_is_applied_may_find_what_was_before);
}

NF_SUITE("vault/mapped")
