/* What was done without the server and is shelved (vault/shelf.h): looked at, restarted with, published dot by dot beside what
 * others do.  _i: 1 with a restart wherever that may matter. */
#include "base/random.h"
#include "vault/commit.h"
#include "vault/shelf.h"
#include "vfs.h"

enum { FILES = 40, PART_BYTES = 1500 };

static void restart(struct vfs_site *s, struct vfs *m, const char *name)
{
	vfs_unmount(m);
	*m = vfs_mount(s, name);
}

static struct vfs begin(struct vfs_site *s)
{
	vfs_site_init(s, "", "");
	s->shelve_bytes = PART_BYTES;
	return vfs_mount(s, "a");
}

static void put_files(struct vfs *m, const char *dir, int round)
{
	char path[80], text[80];

	for (int i = 0; i < FILES; i++) {
		snprintf(path, sizeof path, "%s/f%d", dir, i);
		snprintf(text, sizeof text, "file %d of round %d", i, round);
		ck_assert_int_eq(vfs_puts(m, path, text), 0);
	}
}

static void check_files(struct vfs *m, const char *dir, int round)
{
	char path[80], text[80];

	for (int i = 0; i < FILES; i++) {
		snprintf(path, sizeof path, "%s/f%d", dir, i);
		snprintf(text, sizeof text, "file %d of round %d", i, round);
		ck_assert_int_eq(vfs_checks(m, path, text), 0);
	}
}

/* Everything done is shelved but for what is little. */
static size_t shelve(struct vfs *m)
{
	ck_assert_int_eq(nf_settle(m->v), 0);
	ck_assert_uint_le(m->v->current->ops.len, PART_BYTES / 2 * 3);
	return m->v->nr_shelf;
}

static unsigned conflicts(struct vfs *m, char path[80])
{
	struct vfs_names names;
	unsigned found = 0;

	vfs_ls(m, "/", &names);
	for (size_t i = 0; i < names.nr; i++) {
		if (!strstr(names.name[i], "(conflict "))
			continue;
		found++;
		snprintf(path, 80, "/%.70s", names.name[i]);
	}
	return found;
}

static void end(struct vfs_site *s, struct vfs *a, struct vfs *b)
{
	ck_assert_uint_eq(a->v->nr_shelf, 0);
	ck_assert_uint_eq(vfs_problems(a), 0);
	if (b)
		vfs_unmount(b);
	vfs_unmount(a);
	vfs_site_deinit(s);
}

START_TEST(what_is_shelved_is_there_and_reaches_the_store)
{
	struct vfs_site s;
	struct vfs a = begin(&s);

	ck_assert_int_eq(vfs_mkdir(&a, "/d"), 0);
	put_files(&a, "/d", 1);
	size_t nr = shelve(&a);
	ck_assert_uint_ge(nr, 4);
	check_files(&a, "/d", 1);
	if (_i)
		restart(&s, &a, "a");
	/* A start reads what was not shelved, no more. */
	ck_assert_uint_ge(a.v->nr_shelf, nr);
	ck_assert_uint_le(a.v->current->ops.len, PART_BYTES / 2 * 3);
	check_files(&a, "/d", 1);
	put_files(&a, "/d", 2);
	for (int i = 0; i < FILES; i += 2) {
		char path[80];
		snprintf(path, sizeof path, "/d/f%d", i);
		ck_assert_int_eq(vfs_rename(&a, path, "/moved"), 0);
		ck_assert_int_eq(vfs_rename(&a, "/moved", path), 0);
	}
	ck_assert_uint_gt(shelve(&a), nr);
	struct nf_vault_status status;
	nf_vault_status(a.v, &status);
	ck_assert_uint_ge(status.pending_ops, 2 * FILES);
	if (_i)
		restart(&s, &a, "a");
	check_files(&a, "/d", 2);
	ck_assert_int_eq(vfs_sync(&a), 0);
	nf_vault_status(a.v, &status);
	ck_assert_uint_eq(status.pending_ops, 0);
	struct vfs b = vfs_mount(&s, "b");
	check_files(&b, "/d", 2);
	/* Nothing of the journal is needed any more. */
	ck_assert_int_eq(vfs_unlink(&a, "/d/f1", false), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	nf_lock_take(&a.v->ns);
	ck_assert_uint_ge(nf_journal_bound(a.v) + 1, nf_journal_newest(a.v->journal));
	nf_lock_drop(&a.v->ns);
	end(&s, &a, &b);
}
END_TEST

START_TEST(what_others_did_meanwhile_appears_with_the_last_of_it)
{
	struct vfs_site s;
	struct vfs a = begin(&s);
	char path[80];

	put_files(&a, "", 0);
	ck_assert_int_eq(vfs_puts(&a, "/both", "base"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_puts(&a, "/both", "by a"), 0);
	put_files(&a, "", 1);
	ck_assert_int_eq(vfs_mkdir(&a, "/x"), 0);
	put_files(&a, "/x", 1);
	ck_assert_uint_ge(shelve(&a), 4);
	ck_assert_int_eq(vfs_puts(&b, "/both", "by b"), 0);
	ck_assert_int_eq(vfs_puts(&b, "/new", "of b"), 0);
	ck_assert_int_eq(vfs_mkdir(&b, "/dir"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	/* One dot, on what b did: the view stays what a made of it. */
	ck_assert_int_eq(nf_commit_turn(a.v, true), 0);
	ck_assert_uint_ge(a.v->nr_shelf, 3);
	ck_assert_int_eq(vfs_checks(&a, "/both", "by a"), 0);
	if (_i)
		restart(&s, &a, "a");
	/* Open over the change; and something that is told on top of what is shelved. */
	struct nf_open_file *f;
	uint64_t ino;
	ck_assert_int_eq(vfs_open(&a, "/both", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_puts(&b, "/later", "of b"), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_puts(&a, "/late", "of a"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_close(&a, f, ino);
	for (int i = 0; i < 2; i++) {
		struct vfs *m = i ? &b : &a;
		ck_assert_int_eq(vfs_refresh(m), 0);
		check_files(m, "", 1);
		check_files(m, "/x", 1);
		ck_assert_int_eq(vfs_checks(m, "/both", "by b"), 0);
		ck_assert_int_eq(vfs_checks(m, "/new", "of b"), 0);
		ck_assert_int_eq(vfs_checks(m, "/later", "of b"), 0);
		ck_assert_int_eq(vfs_checks(m, "/late", "of a"), 0);
		ck_assert_uint_eq(conflicts(m, path), 1);
		ck_assert_int_eq(vfs_checks(m, path, "by a"), 0);
	}
	end(&s, &a, &b);
}
END_TEST

/* A frozen epoch that was cut, and perhaps sent, before the server went: it stays what it is. */
START_TEST(a_frozen_epoch_is_put_aside)
{
	struct vfs_site s;
	struct vfs a = begin(&s);
	bool sent = _i & 2;

	ck_assert_int_eq(vfs_mkdir(&a, "/d"), 0);
	put_files(&a, "/d", 1);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_puts(&a, "/d/f3", "frozen"), 0);
	ck_assert_int_eq(vfs_unlink(&a, "/d/f4", false), 0);
	ck_assert_int_eq(nf_cut(a.v), 1);
	ck_assert_int_eq(nf_cut_drain(a.v), 0);
	if (sent) {
		struct nf_head h = { 0 };
		const struct nf_head *leaf = &a.v->base;
		ck_assert_int_eq(nf_publish(a.v, &leaf, 1, &h), 0);
		nf_head_deinit(&h);
	}
	uint64_t seq = a.v->frozen->seq;
	ck_assert_int_eq(vfs_mkdir(&a, "/e"), 0);
	put_files(&a, "/e", 2);
	ck_assert_uint_ge(shelve(&a), 4);
	ck_assert(a.v->frozen && a.v->frozen->aside);
	ck_assert_uint_eq(a.v->frozen->seq, seq);
	for (int round = 0; round < 2; round++) {
		check_files(&a, "/e", 2);
		ck_assert_int_eq(vfs_checks(&a, "/d/f3", "frozen"), 0);
		ck_assert_int_eq(vfs_checks(&a, "/d/f4", ""), -ENOENT);
		if (round == 0 && _i & 1)
			restart(&s, &a, "a");
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	check_files(&b, "/e", 2);
	ck_assert_int_eq(vfs_checks(&b, "/d/f3", "frozen"), 0);
	end(&s, &a, &b);
}
END_TEST

START_TEST(a_file_without_a_name_outlives_the_tree_it_was_in)
{
	struct vfs_site s;
	struct vfs a = begin(&s);
	struct nf_open_file *f;
	uint64_t ino;
	size_t got;
	char *want = malloc(60000), *have = malloc(60000);

	memset(want, 'x', 60000);
	ck_assert_int_eq(vfs_put(&a, "/open", want, 60000), 0);
	put_files(&a, "", 1);
	ck_assert_uint_ge(shelve(&a), 4);
	ck_assert_int_eq(vfs_open(&a, "/open", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_unlink(&a, "/open", false), 0);
	put_files(&a, "", 2);
	shelve(&a);
	ck_assert_int_eq(vfs_sync(&a), 0);
	put_files(&a, "", 3);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_pread(&a, f, ino, have, 60000, 0, &got), 0);
	ck_assert_uint_eq(got, 60000);
	ck_assert_mem_eq(have, want, 60000);
	vfs_close(&a, f, ino);
	check_files(&a, "", 3);
	free(want);
	free(have);
	end(&s, &a, NULL);
}
END_TEST

/* What was squashed away is not shelved: memory follows what survives. */
START_TEST(what_is_done_over_and_over_is_not_shelved)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");

	for (int round = 0; round < 30; round++) {
		put_files(&a, "", round);
		ck_assert_int_eq(nf_settle(a.v), 0);
	}
	ck_assert_uint_eq(a.v->nr_shelf, 0);
	check_files(&a, "", 29);
	ck_assert_int_eq(vfs_sync(&a), 0);
	end(&s, &a, NULL);
}
END_TEST

enum { PIECE = 20000, PIECES = 24 };

static void put_piece(struct vfs *m, const char *path, int i, int round)
{
	static uint8_t piece[PIECE];
	struct nf_prng rng;

	nf_prng_seed(&rng, (uint64_t)i * 100 + (uint64_t)round + 7);
	for (int k = 0; k < PIECE; k++)
		piece[k] = (uint8_t)nf_prng_next(&rng);
	ck_assert_int_eq(vfs_put(m, path, piece, sizeof piece), 0);
}

static struct timespec mtime_of(struct vfs *m, const char *path)
{
	struct nf_call c = { .op = NF_CALL_GETATTR };
	uint64_t dir;
	char last[256];

	ck_assert_int_eq(vfs_walk(m, path, &dir, last, &c.ino), 0);
	ck_assert_int_eq(vfs_call(m, &c), 0);
	return c.attr.mtime;
}

/* Made in one dot, removed in a later one or in what was not shelved yet: not a byte of it is sent.  _i: 1 with a restart before any
 * is sent, 2 after the first dot, 3 with what is bound up with something of before. */
START_TEST(what_was_made_and_removed_on_the_shelf_is_not_sent)
{
	struct vfs_site s;
	struct vfs a = begin(&s);
	char path[80], to[80];

	ck_assert_int_eq(vfs_mkdir(&a, "/kept"), 0);
	ck_assert_int_eq(vfs_puts(&a, "/kept/old", "of before"), 0);
	ck_assert_int_eq(vfs_puts(&a, "/kept/moved", "of before"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	uint64_t before = a.v->sent_bytes;
	ck_assert_int_eq(vfs_mkdir(&a, "/gone"), 0);
	for (int i = 0; i < PIECES; i++) {
		snprintf(path, sizeof path, "%s/p%d", i % 2 ? "/gone" : "/kept", i);
		put_piece(&a, path, i, 0);
	}
	/* A folder that something of before goes through is made all the same, and removed. */
	ck_assert_int_eq(vfs_mkdir(&a, "/gone/through"), 0);
	if (_i == 3)
		ck_assert_int_eq(vfs_rename(&a, "/kept/moved", "/gone/through/moved"), 0);
	put_files(&a, "/kept", 1);
	ck_assert_uint_ge(shelve(&a), 4);
	/* Replaced by what is made beside it; removed; with all of its folder. */
	for (int i = 0; i < PIECES; i++) {
		snprintf(path, sizeof path, "%s/p%d", i % 2 ? "/gone" : "/kept", i);
		if (i % 4 == 0) {
			snprintf(to, sizeof to, "/kept/tmp%d", i);
			ck_assert_int_eq(vfs_puts(&a, to, "what is left"), 0);
			ck_assert_int_eq(vfs_rename(&a, to, path), 0);
		} else {
			ck_assert_int_eq(vfs_unlink(&a, path, false), 0);
		}
		if (i == PIECES / 2)
			ck_assert_uint_ge(shelve(&a), 5);
	}
	if (_i == 3)
		ck_assert_int_eq(vfs_rename(&a, "/gone/through/moved", "/kept/moved"), 0);
	ck_assert_int_eq(vfs_unlink(&a, "/gone/through", true), 0);
	ck_assert_int_eq(vfs_unlink(&a, "/gone", true), 0);
	if (_i == 3) {
		/* What took the place of something that others have is told as it was. */
		put_piece(&a, "/new", 99, 0);
		ck_assert_int_eq(vfs_rename(&a, "/new", "/kept/old"), 0);
		put_files(&a, "/kept", 2);
		shelve(&a);
		ck_assert_int_eq(vfs_unlink(&a, "/kept/old", false), 0);
	}
	put_files(&a, "/kept", 3);
	struct timespec kept = mtime_of(&a, "/kept"), root = mtime_of(&a, "/");
	if (_i == 1)
		restart(&s, &a, "a");
	before = _i == 1 ? 0 : before;
	uint64_t sent = 0;
	if (_i == 2) {
		ck_assert_int_eq(nf_commit_turn(a.v, true), 0);
		ck_assert_uint_gt(a.v->nr_gone, PIECES - 3);
		sent = a.v->sent_bytes;
		ck_assert_uint_ge(a.v->nr_shelf, 4);
		restart(&s, &a, "a");
		sent -= before;
		before = 0;
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	sent += a.v->sent_bytes - before;
	ck_assert_uint_lt(sent, _i == 3 ? 2 * PIECE : PIECE);
	struct vfs b = vfs_mount(&s, "b");
	for (int k = 0; k < 2; k++) {
		struct vfs *m = k ? &b : &a;
		check_files(m, "/kept", 3);
		for (int i = 0; i < PIECES; i++) {
			snprintf(path, sizeof path, "/kept/p%d", i);
			ck_assert_int_eq(vfs_checks(m, path, i % 4 ? "" : "what is left"), i % 4 ? -ENOENT : 0);
		}
		ck_assert_int_eq(vfs_checks(m, "/kept/old", _i == 3 ? "" : "of before"), _i == 3 ? -ENOENT : 0);
		ck_assert_int_eq(vfs_checks(m, "/gone", ""), -ENOENT);
		ck_assert_int_eq(vfs_checks(m, "/kept/moved", "of before"), 0);
		struct timespec now[2] = { mtime_of(m, "/kept"), mtime_of(m, "/") };
		ck_assert(now[0].tv_sec == kept.tv_sec && now[0].tv_nsec == kept.tv_nsec);
		ck_assert(now[1].tv_sec == root.tv_sec && now[1].tv_nsec == root.tv_nsec);
	}
	end(&s, &a, &b);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "shelf", 120);
	tcase_add_loop_test(tc, what_is_shelved_is_there_and_reaches_the_store, 0, 2);
	tcase_add_loop_test(tc, what_others_did_meanwhile_appears_with_the_last_of_it, 0, 2);
	tcase_add_loop_test(tc, a_frozen_epoch_is_put_aside, 0, 4);
	tcase_add_test(tc, a_file_without_a_name_outlives_the_tree_it_was_in);
	tcase_add_loop_test(tc, what_was_made_and_removed_on_the_shelf_is_not_sent, 0, 4);
	tcase_add_test(tc, what_is_done_over_and_over_is_not_shelved);
}

NF_SUITE("vault/shelf")
