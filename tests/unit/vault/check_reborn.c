/* A device whose state was copied or restored from a backup goes on as a writer of its own: what it had not sent arrives once, what
 * others sent stays, and whatever stops it in between it begins again. */
#include "gate.h"
#include "vfs.h"

#include "aio/file_crash.h"
#include "base/clock.h"
#include "base/random.h"
#include "store/fault.h"
#include "store/types.h"
#include "vault/commit.h"

#include <inttypes.h>
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

/* --- what was not sent -------------------------------------------------------------------- */

static void set_attr(struct vfs *m, const char *path, uint32_t mask, uint32_t mode)
{
	uint64_t dir, ino;
	char last[256];
	struct nf_call c = { .op = NF_CALL_SETATTR, .mask = mask, .attr.mode = mode };

	ck_assert_int_eq(vfs_walk(m, path, &dir, last, &ino), 0);
	c.ino = ino;
	ck_assert_int_eq(vfs_call(m, &c), 0);
}

static uint32_t mode_of(struct vfs *m, const char *path)
{
	struct nf_attr a;

	ck_assert_int_eq(nf_vault_resolve(m->v, path + 1, &a), 0);
	return a.mode & 07777;
}

static uint64_t ino_of(struct vfs *m, const char *path)
{
	struct nf_attr a;

	ck_assert_int_eq(nf_vault_resolve(m->v, path + 1, &a), 0);
	return a.ino;
}

static void set_xattr(struct vfs *m, const char *path, const char *value)
{
	struct nf_call c = { .op = NF_CALL_SETXATTR, .ino = ino_of(m, path), .data = value, .size = strlen(value) };

	snprintf(c.name, sizeof c.name, "user.x");
	ck_assert_int_eq(vfs_call(m, &c), 0);
}

static void has_xattr(struct vfs *m, const char *path, const char *value)
{
	struct nf_call c = { .op = NF_CALL_GETXATTR, .ino = ino_of(m, path), .size = 100 };

	snprintf(c.name, sizeof c.name, "user.x");
	ck_assert_int_eq(vfs_call(m, &c), 0);
	ck_assert_uint_eq(c.count, strlen(value));
	ck_assert_mem_eq(c.buf, value, c.count);
	free(c.buf);
}

static uint64_t pending(struct vfs *m)
{
	struct nf_vault_status st;

	nf_vault_status(m->v, &st);
	return st.pending_ops;
}

/* What everybody has. */
static void begin_work(struct vfs *a)
{
	ck_assert_int_eq(put(a, "/f", 1), 0);
	ck_assert_int_eq(put(a, "/g", 2), 0);
	ck_assert_int_eq(vfs_puts(a, "/small", "small"), 0);
	ck_assert_int_eq(vfs_puts(a, "/gone", "to be removed"), 0);
	ck_assert_int_eq(vfs_puts(a, "/over", "to be replaced"), 0);
	ck_assert_int_eq(vfs_sync(a), 0);
}

static struct vfs begin(struct vfs_site *s)
{
	vfs_site_init(s, "", "");
	struct vfs a = vfs_mount(s, "a");
	begin_work(&a);
	return a;
}

/* Something of each kind. */
static void first_work(struct vfs *m)
{
	edit(m, "/f", "first work");
	ck_assert_int_eq(vfs_mkdir(m, "/d"), 0);
	ck_assert_int_eq(put(m, "/d/new", 3), 0);
	ck_assert_int_eq(vfs_unlink(m, "/gone", false), 0);
	ck_assert_int_eq(vfs_puts(m, "/tmp", "replaces"), 0);
	ck_assert_int_eq(vfs_rename(m, "/tmp", "/over"), 0);
	set_attr(m, "/small", NF_SET_MODE, 0600);
	set_xattr(m, "/small", "one");
	ck_assert_int_eq(nf_settle(m->v), 0);
}

static void has_first_names(struct vfs *m)
{
	ck_assert_int_eq(vfs_checks(m, "/gone", ""), -ENOENT);
	ck_assert_int_eq(vfs_checks(m, "/over", "replaces"), 0);
	ck_assert_int_eq(vfs_checks(m, "/tmp", ""), -ENOENT);
}

static void has_first_work(struct vfs *m)
{
	ck_assert_int_eq(check(m, "/f", 1, "first work"), 0);
	ck_assert_int_eq(check(m, "/d/new", 3, NULL), 0);
	ck_assert_int_eq(check(m, "/g", 2, NULL), 0);
	ck_assert_uint_eq(mode_of(m, "/small"), 0600);
	has_xattr(m, "/small", "one");
	has_first_names(m);
}

/* On top of that, in what was there, what was new, and in something newer. */
static void more_work(struct vfs *m)
{
	edit(m, "/f", "more");
	edit(m, "/d/new", "more in new");
	edit(m, "/g", "more in g");
	ck_assert_int_eq(vfs_puts(m, "/d/newer", "newer"), 0);
	set_attr(m, "/small", NF_SET_MODE, 0640);
	set_xattr(m, "/small", "two");
	ck_assert_int_eq(nf_settle(m->v), 0);
}

static void has_more_work(struct vfs *m)
{
	ck_assert_int_eq(check(m, "/f", 1, "moret work"), 0);
	ck_assert_int_eq(check(m, "/d/new", 3, "more in new"), 0);
	ck_assert_int_eq(check(m, "/g", 2, "more in g"), 0);
	ck_assert_int_eq(vfs_checks(m, "/d/newer", "newer"), 0);
	ck_assert_uint_eq(mode_of(m, "/small"), 0640);
	has_xattr(m, "/small", "two");
	has_first_names(m);
}

/* A machine that knows nothing sees what M has sent: whole, with so many conflict copies. */
static struct vfs stranger(const struct vfs_site *s, size_t copies)
{
	static int nr;
	char name[30];

	snprintf(name, sizeof name, "stranger%d", ++nr);
	struct vfs b = vfs_mount(s, name);
	ck_assert_uint_eq(conflict_copies(&b), copies);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	return b;
}

/* Everything the backup had not sent was sent later, and perhaps more was done.  _i: as it was; with more in the same dot; in the
 * next; with the backup cut, or sent, but for its head. */
START_TEST(what_a_backup_had_not_sent_and_the_machine_sent_later_is_not_sent_again)
{
	struct vfs_site s;
	struct vfs a = begin(&s);
	uint32_t old = a.v->writer;

	first_work(&a);
	if (_i >= 3)
		freeze(&a);
	ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
	copy_disk(&s, "a", "backup");
	if (_i == 1)
		more_work(&a);
	ck_assert_int_eq(vfs_sync(&a), 0);
	if (_i == 2 || _i == 4) {
		more_work(&a);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	vfs_unmount(&a);
	struct vfs r = vfs_mount(&s, "backup");
	ck_assert_uint_ne(r.v->writer, old);
	ck_assert_uint_eq(pending(&r), 0);
	ck_assert_int_eq(vfs_sync(&r), 0);
	/* It goes on under its new name, also when it is mounted again. */
	uint32_t now = r.v->writer;
	ck_assert_int_eq(vfs_puts(&r, "/after", "after"), 0);
	vfs_unmount(&r);
	r = vfs_mount(&s, "backup");
	ck_assert_uint_eq(r.v->writer, now);
	ck_assert_int_eq(vfs_sync(&r), 0);
	struct vfs b = stranger(&s, 0);
	ck_assert_int_eq(vfs_checks(&b, "/after", "after"), 0);
	if (_i == 0 || _i == 3)
		has_first_work(&b);
	else
		has_more_work(&b);
	vfs_unmount(&b);
	vfs_unmount(&r);
	vfs_site_deinit(&s);
}
END_TEST

/* One of two dots was sent before the machine was lost.  _i: bit 0 its work went on while that was under way, bit 1 somebody else
 * changed meanwhile what the second goes on with. */
START_TEST(what_a_backup_had_not_sent_and_nobody_else_has_is_sent_once)
{
	struct vfs_site s;
	struct vfs a = begin(&s);
	struct vfs r, b;

	first_work(&a);
	if (_i & 1)
		freeze(&a);
	else
		ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
	copy_disk(&s, "a", "sender");
	more_work(&a);
	vfs_unmount(&a);
	a = vfs_mount(&s, "sender");
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	if (_i & 2) {
		b = vfs_mount(&s, "b");
		edit(&b, "/d/new", "of another");
		ck_assert_int_eq(vfs_sync(&b), 0);
		vfs_unmount(&b);
	}
	r = vfs_mount(&s, "a");
	ck_assert_uint_gt(pending(&r), 0);
	ck_assert_int_eq(vfs_sync(&r), 0);
	b = stranger(&s, 0);
	if (_i & 2) {
		struct vfs_names n;
		ck_assert_int_eq(check(&b, "/d/new", 3, "of another"), 0);
		ck_assert_uint_eq(vfs_ls(&b, "/d", &n), 3);
		for (size_t i = 0; i < n.nr; i++) {
			char path[80];
			snprintf(path, sizeof path, "/d/%.60s", n.name[i]);
			if (strstr(path, "(conflict "))
				ck_assert_int_eq(check(&b, path, 3, "more in new"), 0);
		}
	} else {
		has_more_work(&b);
	}
	ck_assert_int_eq(vfs_checks(&b, "/d/newer", "newer"), 0);
	vfs_unmount(&b);
	vfs_unmount(&r);
	vfs_site_deinit(&s);
}
END_TEST

/* The one conflict copy of /NAME. */
static void copy_of(struct vfs *m, const char *name, char out[80])
{
	struct vfs_names *n = malloc(sizeof *n);
	unsigned found = 0;

	vfs_ls(m, "/", n);
	for (size_t i = 0; i < n->nr; i++) {
		if (strncmp(n->name[i], name, strlen(name)) || !strstr(n->name[i], " (conflict "))
			continue;
		found++;
		snprintf(out, 80, "/%.60s", n->name[i]);
	}
	free(n);
	ck_assert_uint_eq(found, 1);
}

/* What each of two that share a name does by itself. */
static void work_of(struct vfs *m, const char *who)
{
	char path[40];

	edit(m, "/f", who);
	edit(m, "/d/new", who);
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "/%s%d", who, i);
		ck_assert_int_eq(vfs_puts(m, path, path), 0);
	}
	ck_assert_int_eq(vfs_puts(m, "/both", who), 0);
	snprintf(path, sizeof path, "/dir of %s", who);
	ck_assert_int_eq(vfs_mkdir(m, path), 0);
	snprintf(path, sizeof path, "/dir of %s/file", who);
	ck_assert_int_eq(vfs_puts(m, path, who), 0);
	ck_assert_int_eq(nf_settle(m->v), 0);
	/* Made, changed, and put in another place. */
	snprintf(path, sizeof path, "/dir of %s/moved", who);
	ck_assert_int_eq(vfs_puts(m, "/here", who), 0);
	ck_assert_int_eq(vfs_rename(m, "/here", path), 0);
	ck_assert_int_eq(nf_vault_journal(m->v, true), 0);
}

static void has_work_of(struct vfs *m, const char *who)
{
	char path[40];

	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "/%s%d", who, i);
		ck_assert_int_eq(vfs_checks(m, path, path), 0);
	}
	snprintf(path, sizeof path, "/dir of %s/file", who);
	ck_assert_int_eq(vfs_checks(m, path, who), 0);
	snprintf(path, sizeof path, "/dir of %s/moved", who);
	ck_assert_int_eq(vfs_checks(m, path, who), 0);
}

static bool note_pin(void *ctx, const struct nf_pin *p, const char *path)
{
	(void)path;
	*(uint64_t *)ctx = p->ino;
	return true;
}

/* Both go on from one state, with work that neither had sent.  _i: bit 0 that was cut already, bit 1 both are mounted meanwhile. */
START_TEST(two_that_go_on_from_one_state_lose_nothing_of_either)
{
	struct vfs_site s;
	struct vfs a = begin(&s), c;
	char path[80];

	first_work(&a);
	if (_i & 1)
		freeze(&a);
	ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
	vfs_unmount(&a);
	copy_disk(&s, "a", "c");
	a = vfs_mount(&s, "a");
	c = vfs_mount(&s, "c");
	work_of(&a, "one");
	work_of(&c, "two");
	ck_assert_uint_eq(ino_of(&a, "/one0"), ino_of(&c, "/two0"));
	struct nf_pin_estimate e;
	ck_assert_int_eq(nf_vault_pin(c.v, ino_of(&c, "/two0"), false, NULL, &e), 0);
	if (_i & 2) {
		ck_assert_int_eq(vfs_sync(&a), 0);
		/* Mounted it goes on by itself and, as soon as it looks, sends nothing. */
		ck_assert_int_eq(vfs_refresh(&c), -NF_E_WRITER_CLONED);
		ck_assert_int_eq(vfs_sync(&c), -NF_E_WRITER_CLONED);
		vfs_unmount(&c);
	} else {
		vfs_unmount(&c);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	c = vfs_mount(&s, "c");
	ck_assert_uint_ne(a.v->writer, c.v->writer);
	has_work_of(&c, "one");
	has_work_of(&c, "two");
	uint64_t pinned = 0;
	ck_assert_int_eq(nf_vault_pins(c.v, note_pin, &pinned), 0);
	ck_assert_uint_eq(pinned, ino_of(&c, "/two0"));
	ck_assert_uint_ne(pinned, ino_of(&c, "/one0"));
	ck_assert_int_eq(vfs_sync(&c), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	struct vfs b = stranger(&s, 2);
	has_first_names(&b);
	has_work_of(&b, "one");
	has_work_of(&b, "two");
	ck_assert_int_eq(check(&b, "/f", 1, "onest work"), 0);
	copy_of(&b, "f ", path);
	ck_assert_int_eq(check(&b, path, 1, "twost work"), 0);
	ck_assert_int_eq(check(&b, "/d/new", 3, "one"), 0);
	ck_assert_int_eq(vfs_checks(&b, "/both", "one"), 0);
	copy_of(&b, "both ", path);
	ck_assert_int_eq(vfs_checks(&b, path, "two"), 0);
	/* Each goes on, neither minds the other. */
	edit(&a, "/g", "A");
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_sync(&c), 0);
	ck_assert_int_eq(vfs_puts(&c, "/more", "more"), 0);
	ck_assert_int_eq(vfs_sync(&c), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(vfs_checks(&a, "/more", "more"), 0);
	ck_assert_int_eq(check(&c, "/g", 2, "A"), 0);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	ck_assert_uint_eq(vfs_problems(&c), 0);
	vfs_unmount(&b);
	vfs_unmount(&c);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* Copied when a head was sent and it was not known whether it is there.  _i: 0 it is; 1 it is not, and is sent again by the other; 2
 * the other was copied before the cut, and sends the same under the same number as another delta. */
START_TEST(a_dot_that_may_have_been_sent_is_there_once)
{
	struct nf_store *faulty;
	struct vfs_site s;
	struct vfs a = begin(&s);
	struct nf_head sent;

	vfs_unmount(&a);
	ck_assert_int_eq(nf_store_fault_new(vfs_store(&s), "seed=1", &faulty), 0);
	ck_assert_int_eq(vfs_mount_over(&s, "a", faulty, &a), 0);
	first_work(&a);
	ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
	copy_disk(&s, "a", "other");
	freeze(&a);
	ck_assert_int_eq(nf_store_fault_set(faulty, _i ? "tornput=1&name=heads/" : "lostreply=1&verbs=put&name=heads/"), 0);
	const struct nf_head *leaf = &a.v->base;
	ck_assert_int_eq(nf_publish(a.v, &leaf, 1, &sent), -NF_E_STORE_UNKNOWN_OUTCOME);
	ck_assert(a.v->frozen->sent);
	copy_disk(&s, "a", "backup");
	ck_assert_int_eq(nf_store_fault_set(faulty, "seed=1"), 0);
	if (_i == 2) {
		vfs_unmount(&a);
		a = vfs_mount(&s, "other");
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	if (_i < 2) {
		more_work(&a);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	vfs_unmount(&a);
	struct vfs r = vfs_mount(&s, "backup");
	ck_assert_uint_eq(pending(&r), 0);
	ck_assert_int_eq(vfs_puts(&r, "/after", "after"), 0);
	ck_assert_int_eq(vfs_sync(&r), 0);
	struct vfs b = stranger(&s, 0);
	ck_assert_int_eq(vfs_checks(&b, "/after", "after"), 0);
	if (_i < 2)
		has_more_work(&b);
	else
		has_first_work(&b);
	vfs_unmount(&b);
	vfs_unmount(&r);
	vfs_site_deinit(&s);
}
END_TEST

enum { FILES = 30 };

static void put_files(struct vfs *m, int round)
{
	char path[40], text[80];

	for (int i = 0; i < FILES; i++) {
		snprintf(path, sizeof path, "/file%d", i);
		snprintf(text, sizeof text, "file %d of round %d", i, round);
		ck_assert_int_eq(vfs_puts(m, path, text), 0);
	}
	ck_assert_int_eq(nf_settle(m->v), 0);
}

static void has_files(struct vfs *m, int round)
{
	char path[40], text[80];

	for (int i = 0; i < FILES; i++) {
		snprintf(path, sizeof path, "/file%d", i);
		snprintf(text, sizeof text, "file %d of round %d", i, round);
		ck_assert_int_eq(vfs_checks(m, path, text), 0);
	}
}

/* Too much to be kept in memory.  TURNS: how many, each a dot, the machine was able to send of it; 99: all. */
START_TEST(what_lies_on_the_shelf_is_sent_once)
{
	const int turns = (int[]){ 0, 1, 2, 4, 6, 99 }[_i];
	struct vfs_site s;
	struct vfs a = begin(&s);

	vfs_unmount(&a);
	s.shelve_bytes = 1500;
	a = vfs_mount(&s, "a");
	first_work(&a);
	put_files(&a, 1);
	put_files(&a, 2);
	more_work(&a);
	ck_assert_uint_gt(a.v->nr_shelf, 4);
	copy_disk(&s, "a", "backup");
	if (turns == 99)
		ck_assert_int_eq(vfs_sync(&a), 0);
	for (int i = 0; i < turns && turns != 99; i++)
		ck_assert_int_eq(nf_commit_turn(a.v, true), 0);
	bool left = a.v->nr_shelf > 0;
	vfs_unmount(&a);
	struct vfs r = vfs_mount(&s, "backup");
	if (turns == 0) {
		/* Nobody uses its name. */
		ck_assert_uint_gt(r.v->nr_shelf, 4);
		ck_assert_uint_gt(pending(&r), 0);
		ck_assert_int_eq(vfs_sync(&r), 0);
	}
	ck_assert(turns == 0 || (pending(&r) > 0) == left);
	ck_assert_uint_eq(r.v->nr_shelf, 0);
	has_files(&r, 2);
	has_more_work(&r);
	vfs_unmount(&r);
	r = vfs_mount(&s, "backup");
	has_files(&r, 2);
	has_more_work(&r);
	ck_assert_int_eq(vfs_sync(&r), 0);
	struct vfs b = stranger(&s, 0);
	has_files(&b, 2);
	has_more_work(&b);
	vfs_unmount(&b);
	vfs_unmount(&r);
	vfs_site_deinit(&s);
}
END_TEST

/* Copied again while what it had taken along was not sent. */
START_TEST(a_device_may_be_copied_again_and_again)
{
	struct vfs_site s;
	struct vfs a = begin(&s), c[3];
	const char name[3][8] = { "zero", "one", "two" };

	first_work(&a);
	ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
	copy_disk(&s, "a", "zero");
	ck_assert_int_eq(vfs_sync(&a), 0);
	for (int i = 0; i < 3; i++) {
		c[i] = vfs_mount(&s, name[i]);
		for (int k = 0; k < i; k++)
			ck_assert_uint_ne(c[i].v->writer, c[k].v->writer);
		work_of(&c[i], name[i]);
		ck_assert_int_eq(nf_vault_journal(c[i].v, true), 0);
		if (i < 2)
			copy_disk(&s, name[i], name[i + 1]);
		ck_assert_int_eq(vfs_sync(&c[i]), 0);
	}
	struct vfs b = vfs_mount(&s, "b");
	has_first_names(&b);
	for (int i = 0; i < 3; i++) {
		has_work_of(&b, name[i]);
		vfs_unmount(&c[i]);
	}
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* --- anything at all -------------------------------------------------------------------------- */

enum { NAMES = 10, TEXT_MAX = 20000 };

struct tree {
	char *text[NAMES]; /* NULL: no such file */
	size_t len[NAMES];
	uint32_t mode[NAMES];
};

static void name_of(uint64_t i, char out[20]) { snprintf(out, 20, "/r%d", (int)i); }

static void tree_of(struct vfs *m, struct tree *t)
{
	for (uint64_t i = 0; i < NAMES; i++) {
		struct nf_open_file *f;
		char path[20];
		uint64_t ino;
		name_of(i, path);
		t->text[i] = NULL;
		if (vfs_open(m, path, O_RDONLY, 0, &f, &ino) < 0)
			continue;
		t->text[i] = calloc(1, 2 * TEXT_MAX);
		ck_assert_int_eq(vfs_pread(m, f, ino, t->text[i], 2 * TEXT_MAX, 0, &t->len[i]), 0);
		vfs_close(m, f, ino);
		t->mode[i] = mode_of(m, path);
	}
}

static void tree_deinit(struct tree *t)
{
	for (int i = 0; i < NAMES; i++)
		free(t->text[i]);
}

static bool same_trees(const struct tree *x, const struct tree *y)
{
	for (int i = 0; i < NAMES; i++)
		if (!x->text[i] != !y->text[i] || (x->text[i] && (x->len[i] != y->len[i] || x->mode[i] != y->mode[i] ||
								  memcmp(x->text[i], y->text[i], x->len[i]))))
			return false;
	return true;
}

static void do_anything(struct vfs *m, struct nf_prng *rng, unsigned nr)
{
	static char text[TEXT_MAX];
	char path[20], to[20];

	while (nr-- > 0) {
		struct nf_open_file *f;
		uint64_t ino, what = nf_prng_below(rng, 20);
		size_t len = 1 + nf_prng_below(rng, nf_prng_below(rng, 4) ? 200 : TEXT_MAX);
		name_of(nf_prng_below(rng, NAMES), path);
		name_of(nf_prng_below(rng, NAMES), to);
		if (vfs_open(m, path, O_RDWR | O_CREAT, 0644, &f, &ino) < 0)
			ck_abort_msg("open %s", path);
		if (what < 10) {
			fill(text, len, nf_prng_next(rng));
			ck_assert_int_eq(vfs_pwrite(m, f, ino, text, len, nf_prng_below(rng, TEXT_MAX)), 0);
		}
		if (what % 3 == 0)
			ck_assert_int_eq(vfs_fsync(m, f, ino), 0);
		vfs_close(m, f, ino);
		if (what == 10 || what == 11)
			ck_assert_int_eq(vfs_unlink(m, path, false), 0);
		if (what == 12 || what == 13)
			ck_assert_int_eq(vfs_rename(m, path, to), 0);
		if (what == 14)
			set_attr(m, path, NF_SET_MODE, 0600 + (uint32_t)nf_prng_below(rng, 64));
		if (what == 15)
			ck_assert_int_eq(vfs_truncate(m, path, nf_prng_below(rng, TEXT_MAX)), 0);
		if (what == 16)
			ck_assert_int_eq(nf_settle(m->v), 0);
	}
}

/* Whatever was done, wherever it was copied, however much of it the other has sent: in the end all of it is there, once. */
START_TEST(whatever_was_not_sent_is_there_once)
{
	const char *env = getenv("NF_SEED");
	uint64_t seed = env ? strtoull(env, NULL, 0) : nf_clock_ns();
	struct tree want, got;
	struct nf_prng rng;
	struct vfs_site s;

	printf("# seed %" PRIu64 " (loop %d)\n", seed, _i);
	nf_prng_seed(&rng, seed * 100 + (uint64_t)_i);
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	do_anything(&a, &rng, 30);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	s.shelve_bytes = _i % 3 == 1 ? 1000 + nf_prng_below(&rng, 4000) : 0;
	a = vfs_mount(&s, "a");
	do_anything(&a, &rng, _i % 3 == 2 ? 900 : 5 + (unsigned)nf_prng_below(&rng, 80));
	if (nf_prng_below(&rng, 3) == 0)
		freeze(&a);
	ck_assert_int_eq(nf_settle(a.v), 0);
	ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
	copy_disk(&s, "a", "sender");
	do_anything(&a, &rng, (unsigned)nf_prng_below(&rng, 80));
	tree_of(&a, &want);
	vfs_unmount(&a);
	a = vfs_mount(&s, "sender");
	for (uint64_t k = nf_prng_below(&rng, 8); k > 0; k--)
		ck_assert_int_eq(nf_commit_turn(a.v, true), 0);
	vfs_unmount(&a);
	a = vfs_mount(&s, "a");
	tree_of(&a, &got);
	ck_assert(same_trees(&want, &got));
	tree_deinit(&got);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = stranger(&s, 0);
	tree_of(&b, &got);
	ck_assert(same_trees(&want, &got));
	tree_deinit(&got);
	tree_deinit(&want);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* --- whatever stops it ----------------------------------------------------------------------- */

/* The store goes away at each of the exchanges in turn, and is back for the next mount. */
START_TEST(a_store_that_goes_away_meanwhile_costs_nothing)
{
	int failed = 0, nr = 0;

	for (uint64_t k = 1 + (uint64_t)_i; k < 200; k += 4, nr++) {
		struct vfs_site s;
		struct vfs a = begin(&s), r;
		first_work(&a);
		ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
		copy_disk(&s, "a", "sender");
		more_work(&a);
		vfs_unmount(&a);
		a = vfs_mount(&s, "sender");
		ck_assert_int_eq(vfs_sync(&a), 0);
		vfs_unmount(&a);
		struct gate *g = gate_new(vfs_store(&s));
		atomic_store(&g->shut_at, k);
		int e = vfs_mount_over(&s, "a", &g->base, &r);
		bool all = e == 0 && atomic_load(&g->nr) < k;
		failed += e < 0;
		if (e == 0)
			vfs_unmount(&r);
		r = vfs_mount(&s, "a");
		ck_assert_int_eq(vfs_sync(&r), 0);
		struct vfs b = stranger(&s, 0);
		has_more_work(&b);
		vfs_unmount(&b);
		vfs_unmount(&r);
		vfs_site_deinit(&s);
		if (all)
			break;
	}
	printf("# the store went away at %d exchanges, %d mounts failed\n", nr, failed);
	ck_assert_int_gt(failed, 0);
}
END_TEST

static struct nf_vault_options disk_options(struct nf_crash *disk, const struct nf_header *header, const char *name)
{
	static char cache[2][40], state[2][40];
	static int at;
	struct nf_store *st;

	at = !at;
	snprintf(cache[at], sizeof cache[at], "/%s/cache", name);
	snprintf(state[at], sizeof state[at], "/%s/state", name);
	ck_assert_int_eq(nf_store_dir_new("/store", nf_crash_ops(disk), NF_DIR_IS_MADE, &st), 0);
	return (struct nf_vault_options){ .store = st, .header = header, .files = nf_crash_ops(disk), .cache_dir = cache[at],
					  .state_dir = state[at], .cache_size_bytes = 64 << 20, .memory_bytes = 4 << 20,
					  .no_threads = true, .host = "pc" };
}

static struct vfs disk_mount(struct nf_crash *disk, const struct nf_header *header, const char *name)
{
	struct nf_vault_options o = disk_options(disk, header, name);
	struct vfs m;

	ck_assert_int_eq(nf_vault_open(&o, &m.v), 0);
	m.fs = nf_vault_fs(m.v);
	return m;
}

static void copy_tree(const struct nf_file_ops *f, const char *from, const char *to)
{
	struct nf_file_dirent *list;
	size_t nr;

	ck_assert_int_eq(nf_file_mkdirs(f, to), 0);
	ck_assert_int_eq(f->list(f, from, &list, &nr), 0);
	for (size_t i = 0; i < nr; i++) {
		char a[200], b[200];
		void *p;
		size_t len;
		snprintf(a, sizeof a, "%.90s/%.90s", from, list[i].name);
		snprintf(b, sizeof b, "%.90s/%.90s", to, list[i].name);
		if (list[i].is_dir) {
			copy_tree(f, a, b);
			continue;
		}
		ck_assert_int_eq(nf_file_slurp(f, a, 64 << 20, &p, &len), 0);
		ck_assert_int_eq(nf_file_replace(f, b, p, len), 0);
		free(p);
	}
	nf_file_list_free(list, nr);
}

/* Everything is there, once, after a mount on what the power left; and that device goes on. */
static void goes_on(struct nf_crash *disk, const struct nf_header *header)
{
	struct vfs m = disk_mount(disk, header, "a");

	has_more_work(&m);
	ck_assert_int_eq(vfs_sync(&m), 0);
	vfs_unmount(&m);
	struct nf_vault_options o = disk_options(disk, header, "reader");
	o.cache_dir = o.state_dir = NULL;
	o.read_only = true;
	ck_assert_int_eq(nf_vault_open(&o, &m.v), 0);
	m.fs = nf_vault_fs(m.v);
	has_more_work(&m);
	ck_assert_uint_eq(conflict_copies(&m), 0);
	ck_assert_uint_eq(vfs_problems(&m), 0);
	vfs_unmount(&m);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEP = 13 };
#else
enum { STEP = 1 };
#endif

/* The power goes at each operation of the disk, until the device has sent what it took along. */
START_TEST(a_power_cut_at_any_operation_costs_nothing)
{
	struct nf_crash *disk, *left;
	struct nf_header *header;
	struct nf_store *st;

	ck_assert_int_eq(nf_header_new(&header), 0);
	ck_assert_int_eq(nf_crash_new(&disk), 0);
	const struct nf_file_ops *f = nf_crash_ops(disk);
	ck_assert_int_eq(f->mkdir(f, "/store", 0700), 0);
	ck_assert_int_eq(f->fsync_dir(f, "/"), 0);
	nf_crash_keep(disk, "/store");
	ck_assert_int_eq(nf_store_dir_new("/store", f, NF_DIR_IS_MADE, &st), 0);
	ck_assert_int_eq(nf_vault_format(st, header, "pc"), 0);
	nf_store_free(st);
	struct vfs a = disk_mount(disk, header, "a");
	begin_work(&a);
	first_work(&a);
	ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
	copy_tree(f, "/a", "/sender");
	more_work(&a);
	vfs_unmount(&a);
	a = disk_mount(disk, header, "sender");
	ck_assert_int_eq(vfs_sync(&a), 0);
	uint32_t old = a.v->writer;
	vfs_unmount(&a);
	uint64_t from = nf_crash_nr_ops(disk), nr = 0;
	a = disk_mount(disk, header, "a");
	ck_assert_uint_ne(a.v->writer, old);
	uint64_t born = nf_crash_nr_ops(disk);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	uint64_t end = nf_crash_nr_ops(disk);
	for (uint64_t n = from + (uint64_t)_i % STEP; n <= end; n += STEP, nr++) {
		uint64_t seed = n % 3 ? NF_CRASH_RANDOM + n * 10 + (uint64_t)_i : _i ? NF_CRASH_DROP_ALL : NF_CRASH_KEEP_ALL;
		ck_assert_int_eq(nf_crash_image(disk, n, seed, &left), 0);
		goes_on(left, header);
		nf_crash_free(left);
	}
	printf("# cut at %d operations, the mount took %d\n", (int)nr, (int)(born - from));
	nf_crash_free(disk);
	nf_header_free(header);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "reborn", 120);

	tcase_add_test(tc, records_of_the_writer_before_are_no_dots_of_the_new_one);
	tcase_add_loop_test(tc, what_a_backup_had_not_sent_and_the_machine_sent_later_is_not_sent_again, 0, 5);
	tcase_add_loop_test(tc, what_a_backup_had_not_sent_and_nobody_else_has_is_sent_once, 0, 4);
	tcase_add_loop_test(tc, two_that_go_on_from_one_state_lose_nothing_of_either, 0, 4);
	tcase_add_loop_test(tc, a_dot_that_may_have_been_sent_is_there_once, 0, 3);
	tcase_add_loop_test(tc, what_lies_on_the_shelf_is_sent_once, 0, 6);
	tcase_add_test(tc, a_device_may_be_copied_again_and_again);
	tcase_add_loop_test(tc, whatever_was_not_sent_is_there_once, 0, 9);
	tcase_add_loop_test(tc, a_store_that_goes_away_meanwhile_costs_nothing, 0, 4);
	tcase_add_loop_test(tc, a_power_cut_at_any_operation_costs_nothing, 0, 2);
}

NF_SUITE("vault/reborn")
