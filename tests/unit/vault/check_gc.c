/* The collector: what it keeps, what goes and when, alone and beside machines that do not notice it. */
#include "gate.h"
#include "vfs_gc.h"

#include "base/clock.h"
#include "vault/commit.h"

#include <unistd.h>

START_TEST(what_no_kept_commit_names_is_condemned_and_then_deleted)
{
	struct nf_gc_options o = at_once();
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	for (uint64_t i = 0; i < 5; i++) {
		ck_assert_int_eq(put(&a, "/f", BIG, i), 0);
		ck_assert_int_eq(put(&a, "/kept", 1000, 9), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	uint64_t before = stored(&s).bytes;
	ck_assert_uint_gt(before, 5 * BIG);
	o.dry_run = true;
	struct nf_gc_result r = gc(&a, &o);
	ck_assert_uint_ge(r.dead_bytes, 4 * BIG);
	ck_assert_uint_eq(r.bytes, before);
	ck_assert_uint_eq(r.deleted_packs, 0);
	ck_assert_uint_eq(stored(&s).bytes, before);
	o.dry_run = false;
	r = gc(&a, &o);
	ck_assert_uint_ge(r.dead_bytes, 4 * BIG);
	ck_assert_uint_eq(r.deleted_packs, 0);
	r = gc(&a, &o);
	ck_assert_uint_ge(r.deleted_bytes, 4 * BIG);
	ck_assert_uint_lt(stored(&s).bytes, BIG + (200 << 10));
	ck_assert_int_eq(check(&a, "/f", BIG, 4), 0);
	is_whole(&a);
	struct vfs b = vfs_mount(&s, "b");
	ck_assert_int_eq(check(&b, "/f", BIG, 4), 0);
	ck_assert_int_eq(check(&b, "/kept", 1000, 9), 0);
	is_whole(&b);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(nothing_goes_before_its_time)
{
	struct nf_gc_options o = at_once();
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	for (uint64_t i = 0; i < 3; i++) {
		ck_assert_int_eq(put(&a, "/f", BIG, i), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	/* Days are kept, then commits. */
	o.keep_days = 1;
	ck_assert_uint_eq(gc(&a, &o).dead_packs, 0);
	o.keep_days = 0;
	o.keep_heads = 10;
	ck_assert_uint_eq(gc(&a, &o).dead_packs, 0);
	/* Condemned, and then the grace. */
	o.keep_heads = 1;
	o.grace_s = 3600;
	struct nf_gc_result r = gc(&a, &o);
	ck_assert_uint_ge(r.dead_bytes, 2 * BIG);
	uint64_t before = stored(&s).bytes;
	r = gc(&a, &o);
	ck_assert_uint_ge(r.waiting_bytes, 2 * BIG);
	ck_assert_uint_eq(r.deleted_packs, 0);
	ck_assert_uint_ge(stored(&s).bytes, before);
	o.grace_s = 0;
	r = gc(&a, &o);
	ck_assert_uint_ge(r.deleted_bytes, 2 * BIG);
	is_whole(&a);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_snapshot_keeps_what_it_shows_until_it_is_removed)
{
	struct nf_gc_options o = at_once();
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(put(&a, "/f", BIG, 1), 0);
	ck_assert_int_eq(nf_vault_snapshot_create(a.v, "one", NULL), 0);
	ck_assert_int_eq(put(&a, "/f", BIG, 2), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(put(&a, "/f", BIG, 3), 0);
	for (int i = 0; i < 4; i++)
		(void)gc(&a, &o);
	ck_assert_uint_lt(stored(&s).bytes, 2 * BIG + (200 << 10));
	char cache[200], state[200];
	struct nf_vault_options vo = vfs_options(&s, "reader", cache, state);
	struct vfs r;
	vo.snapshot = "one";
	vo.read_only = true;
	vo.cache_dir = NULL;
	ck_assert_int_eq(nf_vault_open(&vo, &r.v), 0);
	r.fs = nf_vault_fs(r.v);
	ck_assert_int_eq(check(&r, "/f", BIG, 1), 0);
	is_whole(&r);
	vfs_unmount(&r);
	ck_assert_int_eq(nf_vault_snapshot_remove(a.v, "one", NULL, NULL), 0);
	for (int i = 0; i < 3; i++)
		(void)gc(&a, &o);
	ck_assert_uint_lt(stored(&s).bytes, BIG + (200 << 10));
	ck_assert_int_eq(check(&a, "/f", BIG, 3), 0);
	is_whole(&a);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(leftovers_of_broken_uploads_go_and_foreign_names_stay)
{
	struct nf_gc_options o = at_once();
	char text[] = "leftover";
	struct iovec iov = { text, 8 };
	struct nf_store_op pack = { .verb = NF_STORE_PUT, .iov = &iov, .nr_iov = 1, .length_bytes = 8,
				    .name = "packs/ab/ab000000000000000000000000000001" };
	struct nf_store_op other = { .verb = NF_STORE_PUT, .iov = &iov, .nr_iov = 1, .length_bytes = 8,
				     .name = "packs/ab/readme" };
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	for (int i = 0; i < 4; i++)
		(void)gc(&a, &o);
	ck_assert_int_eq(nf_store_run(s.keep, &pack), 0);
	ck_assert_int_eq(nf_store_run(s.keep, &other), 0);
	o.grace_s = 100;
	struct nf_gc_result r = gc(&a, &o);
	ck_assert_uint_eq(r.leftover_packs, 0);
	ck_assert_uint_ge(r.young_packs, 1);
	o.grace_s = 0;
	r = gc(&a, &o);
	ck_assert_uint_eq(r.leftover_packs, 1);
	ck_assert_uint_eq(r.leftover_bytes, 8);
	(void)gc(&a, &o);
	pack.verb = other.verb = NF_STORE_STAT;
	ck_assert_int_eq(nf_store_run(s.keep, &pack), -NF_E_STORE_NOT_FOUND);
	ck_assert_int_eq(nf_store_run(s.keep, &other), 0);
	is_whole(&a);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_machine_that_was_away_for_longer_than_the_grace_loses_nothing)
{
	struct nf_gc_options o = at_once();
	struct vfs_site s;
	struct vfs b;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	struct gate *g = gate_new(vfs_store(&s));
	ck_assert_int_eq(put(&a, "/f", BIG, 1), 0);
	ck_assert_int_eq(put(&a, "/g", BIG, 2), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_mount_over(&s, "b", &g->base, &b), 0);
	ck_assert_int_eq(check(&b, "/f", BIG, 1), 0);
	atomic_store(&g->shut_at, 1);
	/* Away: it changes one file in the middle, the other machine everything, again and again. */
	struct nf_open_file *f;
	uint64_t ino;
	ck_assert_int_eq(vfs_open(&b, "/f", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&b, f, ino, "of b", 4, 100000), 0);
	ck_assert_int_eq(vfs_fsync(&b, f, ino), 0);
	vfs_close(&b, f, ino);
	ck_assert_int_eq(vfs_puts(&b, "/new", "of b"), 0);
	for (uint64_t i = 0; i < 4; i++) {
		ck_assert_int_eq(put(&a, "/f", BIG, 10 + i), 0);
		ck_assert_int_eq(put(&a, "/g", BIG, 20 + i), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
		o.lease_days = 90;
		(void)gc(&a, &o);
	}
	atomic_store(&g->shut_at, 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(vfs_checks(&a, "/new", "of b"), 0);
	ck_assert_int_eq(check(&a, "/f", BIG, 13), 0);
	/* The version it had, with its change, stands beside. */
	struct vfs_names *n = malloc(sizeof *n);
	char *want = malloc(BIG);
	fill(want, BIG, 1);
	memcpy(want + 100000, "of b", 4);
	unsigned found = 0;
	vfs_ls(&a, "/", n);
	for (size_t i = 0; i < n->nr; i++) {
		char path[80];
		snprintf(path, sizeof path, "/%s", n->name[i]);
		found += vfs_check(&a, path, want, BIG) == 0;
	}
	ck_assert_uint_eq(found, 1);
	is_whole(&a);
	is_whole(&b);
	free(want);
	free(n);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* Packs and their index below a cache directory go; what is not on the server yet stands in the state directory. */
/* Every kept tree stands elsewhere afterwards, whole. */
START_TEST(a_machine_finds_what_it_stands_on_after_it_was_put_elsewhere)
{
	struct nf_gc_options o = at_once();
	struct nf_open_file *f;
	struct vfs_site s;
	uint64_t ino;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	ck_assert_int_eq(put(&a, "/f", BIG, 1), 0);
	ck_assert_int_eq(put(&a, "/g", BIG, 2), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_open(&b, "/f", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&b, f, ino, "of b", 4, 100000), 0);
	ck_assert_int_eq(vfs_fsync(&b, f, ino), 0);
	vfs_close(&b, f, ino);
	vfs_unmount(&b);
	ck_assert_int_eq(put(&a, "/g", BIG, 3), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	o.keep_heads = 20;
	o.repack_percent = 101;
	uint64_t trees = 0;
	for (int i = 0; i < 3; i++)
		trees += gc(&a, &o).moved_trees;
	ck_assert_uint_gt(trees, 2);
	drop_cache(&s, "b");
	b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	char *want = malloc(BIG);
	fill(want, BIG, 1);
	memcpy(want + 100000, "of b", 4);
	ck_assert_int_eq(vfs_check(&a, "/f", want, BIG), 0);
	ck_assert_int_eq(check(&b, "/g", BIG, 3), 0);
	is_whole(&a);
	is_whole(&b);
	free(want);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_dry_run_says_what_the_run_does)
{
	struct nf_gc_options o = at_once();
	struct vfs_site s;
	char path[20];

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	for (uint64_t i = 0; i < 8; i++) {
		snprintf(path, sizeof path, "/f%d", (int)i);
		ck_assert_int_eq(put(&a, path, 60000, i), 0);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof path, "/f%d", i);
		ck_assert_int_eq(vfs_unlink(&a, path, false), 0);
	}
	ck_assert_int_eq(put(&a, "/g", BIG, 9), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(put(&a, "/g", BIG, 10), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	o.repack_percent = 70;
	o.grace_s = 3600;
	for (int i = 0; i < 3; i++) {
		o.dry_run = true;
		struct nf_gc_result dry = gc(&a, &o);
		o.dry_run = false;
		struct nf_gc_result wet = gc(&a, &o);
		ck_assert(i || (dry.dead_bytes >= BIG && dry.moved_bytes >= 180000 && dry.moved_bytes < 250000));
		ck_assert_uint_eq(dry.dead_bytes, wet.dead_bytes);
		ck_assert_uint_eq(dry.emptied_packs, wet.emptied_packs);
		ck_assert_uint_eq(dry.moved_bytes, wet.moved_bytes);
		ck_assert_uint_eq(dry.deleted_bytes, wet.deleted_bytes);
		ck_assert_uint_eq(dry.roots_dropped, wet.roots_dropped);
	}
	is_whole(&a);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

struct rival {
	struct vfs *m;
	uint64_t keep_heads; /* 0: 1 */
	uint64_t deleted;
};

/* Everything that is not named goes, now. */
static void collect_all(void *ctx)
{
	struct rival *r = ctx;
	struct nf_gc_options o = at_once();

	o.keep_heads = r->keep_heads ? r->keep_heads : 1;
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(vfs_puts(r->m, "/tick", i % 2 ? "odd" : "even"), 0);
		r->deleted += gc(r->m, &o).deleted_packs;
	}
}

/* Before its data, before its metadata, before its head: that is where the machine is suspended. */
static void suspended_before(const char *prefix, uint64_t keep_heads, bool deleted)
{
	struct vfs_site s;
	struct vfs b;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	struct rival r = { .m = &a, .keep_heads = keep_heads };
	struct gate *g = gate_new(vfs_store(&s));
	ck_assert_int_eq(vfs_mount_over(&s, "b", &g->base, &b), 0);
	ck_assert_int_eq(put(&b, "/f", BIG, 7), 0);
	ck_assert_int_eq(vfs_mkdir(&b, "/d"), 0);
	ck_assert_int_eq(vfs_puts(&b, "/d/small", "text"), 0);
	g->before = prefix;
	g->ctx = &r;
	g->hook = collect_all;
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert(!g->hook);
	ck_assert(!deleted || r.deleted > 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	/* What was reported is there for everybody, with nothing but the store to read it from. */
	struct vfs c = vfs_mount(&s, "c");
	struct vfs *all[3] = { &a, &b, &c };
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(vfs_refresh(all[i]), 0);
		ck_assert_int_eq(check(all[i], "/f", BIG, 7), 0);
		ck_assert_int_eq(vfs_checks(all[i], "/d/small", "text"), 0);
		ck_assert_int_eq(vfs_checks(all[i], "/tick", "even"), 0);
		is_whole(all[i]);
	}
	ck_assert_int_eq(vfs_puts(&c, "/after", "all"), 0);
	ck_assert_int_eq(vfs_sync(&c), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_checks(&b, "/after", "all"), 0);
	vfs_unmount(&c);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}

struct merger {
	struct rival r; /* first */
	struct gate *g;
	int commits;    /* after the merge */
};

/* Merges what the other one has just published, before that one has judged it, and goes on from there. */
static void merge_it(void *ctx)
{
	struct merger *k = ctx;
	char text[20];

	for (int i = 0; i <= k->commits; i++) {
		ck_assert_int_eq(vfs_refresh(k->r.m), 0);
		if (i == k->commits)
			break;
		snprintf(text, sizeof text, "%d", i);
		ck_assert_int_eq(vfs_puts(k->r.m, "/merged", text), 0);
		ck_assert_int_eq(vfs_sync(k->r.m), 0);
	}
}

static void collect_then_merge(void *ctx)
{
	struct merger *k = ctx;

	collect_all(&k->r);
	k->g->before = "packs/";
	k->g->hook = merge_it;
}

/* _i: commits (0 to 3) that others make on top of their merge with the head that names what is gone; all commits before are
 * kept, or none. */
START_TEST(commits_that_others_made_on_a_head_with_holes_are_not_listed)
{
	struct vfs_site s;
	struct vfs b;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	struct gate *g = gate_new(vfs_store(&s));
	struct merger k = { .r.m = &a, .r.keep_heads = _i < 4 ? 1 : 1000, .g = g, .commits = _i % 4 };
	ck_assert_int_eq(vfs_mount_over(&s, "b", &g->base, &b), 0);
	ck_assert_int_eq(put(&b, "/f", BIG, 7), 0);
	ck_assert_int_eq(vfs_mkdir(&b, "/d"), 0);
	ck_assert_int_eq(vfs_puts(&b, "/d/small", "text"), 0);
	g->before = "heads/";
	g->ctx = &k;
	g->hook = collect_then_merge;
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert(!g->hook);
	ck_assert_uint_gt(k.r.deleted, 0);
	struct vfs c = vfs_mount(&s, "c");
	struct vfs *all[3] = { &a, &b, &c };
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(vfs_refresh(all[i]), 0);
		ck_assert_int_eq(check(all[i], "/f", BIG, 7), 0);
		ck_assert_int_eq(vfs_checks(all[i], "/d/small", "text"), 0);
		is_whole(all[i]);
	}
	vfs_unmount(&c);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* _i: the newest commit alone is kept; all of them are. */
START_TEST(a_machine_suspended_before_its_packs_publishes_no_holes)
{
	suspended_before("packs/", _i ? 1000 : 1, false);
}
END_TEST
START_TEST(a_machine_suspended_between_its_packs_and_its_head_publishes_no_holes)
{
	suspended_before("heads/", _i ? 1000 : 1, true);
}
END_TEST

/* --- a writer that ends ------------------------------------------------------------------ */

struct ending {
	struct rival r; /* first */
	struct gate *g;
	uint64_t after; /* operations that still pass */
};

static void collect_then_shut(void *ctx)
{
	struct ending *e = ctx;

	collect_all(&e->r);
	atomic_store(&e->g->shut_at, atomic_load(&e->g->nr) + e->after);
}

/* The writer is cut off AFTER operations from the head on whose packs are gone, and starts again.  False if it had reported it
 * by then. */
static bool ended_after(uint64_t after, uint64_t keep_heads, bool shelved)
{
	struct vfs_site s;
	struct vfs b;

	vfs_site_init(&s, "", "");
	if (shelved)
		s.shelve_bytes = 400;
	struct vfs a = vfs_mount(&s, "a");
	struct gate *g = gate_new(vfs_store(&s));
	struct ending e = { .r.m = &a, .r.keep_heads = keep_heads, .g = g, .after = after };
	ck_assert_int_eq(vfs_mount_over(&s, "b", &g->base, &b), 0);
	ck_assert_int_eq(put(&b, "/f", 50000, 7), 0);
	ck_assert_int_eq(vfs_mkdir(&b, "/d"), 0);
	ck_assert_int_eq(vfs_puts(&b, "/d/small", "text"), 0);
	if (shelved) {
		ck_assert_int_eq(nf_settle(b.v), 0);
		ck_assert_int_eq(put(&b, "/g", 40000, 8), 0);
		ck_assert_int_eq(nf_settle(b.v), 0);
		ck_assert_uint_ge(b.v->nr_shelf, 2);
	}
	g->before = "heads/";
	g->ctx = &e;
	g->hook = collect_then_shut;
	bool before = vfs_sync(&b) < 0;
	ck_assert(!g->hook);
	ck_assert_uint_gt(e.r.deleted, 0);
	vfs_unmount(&b);
	/* Away from the server the journal goes on, and lets nothing go that may have to be sent again. */
	g = gate_new(vfs_store(&s));
	atomic_store(&g->shut_at, 1);
	ck_assert_int_eq(vfs_mount_over(&s, "b", &g->base, &b), 0);
	ck_assert_int_eq(put(&b, "/later", 30000, 9), 0);
	ck_assert_int_eq(nf_settle(b.v), 0);
	nf_journal_let_go(b.v);
	vfs_unmount(&b);
	b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_sync(&b), 0);
	struct vfs c = vfs_mount(&s, "c");
	struct vfs *all[3] = { &a, &b, &c };
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(vfs_refresh(all[i]), 0);
		ck_assert_int_eq(check(all[i], "/f", 50000, 7), 0);
		ck_assert_int_eq(vfs_checks(all[i], "/d/small", "text"), 0);
		ck_assert_int_eq(check(all[i], "/later", 30000, 9), 0);
		ck_assert_int_eq(shelved ? check(all[i], "/g", 40000, 8) : 0, 0);
		is_whole(all[i]);
	}
	vfs_unmount(&c);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
	return before;
}

/* _i: the newest commit alone is kept; all of them are; what is sent was shelved. */
START_TEST(a_machine_that_ends_before_it_has_reported_its_head_leaves_no_holes)
{
	/* One begins with even numbers of operations, the other with odd ones. */
	uint64_t step = getenv("FOLIOFS_LONG") ? 1 : _i == 2 ? 7 : 2, nr = step == 1 ? 1 : 1 + (uint64_t)_i, cuts = 0;

	for (; ended_after(nr, _i == 1 ? 1000 : 1, _i == 2); nr += step)
		cuts++;
	printf("# cut off at %d numbers of operations of the store\n", (int)cuts);
	ck_assert_uint_ge(cuts, 3);
}
END_TEST

START_TEST(a_clock_that_is_a_year_off_neither_keeps_for_ever_nor_loses)
{
	struct nf_gc_options o = at_once();
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	uint64_t now = (uint64_t)time(NULL) * NF_NS_PER_S, year = 365ull * 86400 * NF_NS_PER_S;
	for (uint64_t i = 0; i < 6; i++) {
		ck_assert_int_eq(put(&a, "/a", BIG, i), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
		nf_clock_fake_set(i % 2 ? now + year : now - year);
		ck_assert_int_eq(put(&b, "/b", BIG, 50 + i), 0);
		ck_assert_int_eq(vfs_sync(&b), 0);
		nf_clock_fake_end();
	}
	/* All of it was written just now, whatever the heads say. */
	o.keep_days = 1;
	ck_assert_int_eq(vfs_refresh(&a), 0);
	struct nf_gc_result r = gc(&a, &o);
	ck_assert_uint_eq(r.deleted_packs, 0);
	is_whole(&a);
	o.keep_days = 0;
	for (int i = 0; i < 3; i++)
		(void)gc(&a, &o);
	ck_assert_uint_lt(stored(&s).bytes, 2 * BIG + (400 << 10));
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(check(&b, "/a", BIG, 5), 0);
	ck_assert_int_eq(check(&a, "/b", BIG, 55), 0);
	is_whole(&a);
	is_whole(&b);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* --- cut anywhere -------------------------------------------------------------------- */

/* A vault with something to condemn, to delete, to move and to keep. */
static void history(const struct vfs_site *s)
{
	struct nf_gc_options o = at_once();
	char path[20];

	struct vfs a = vfs_mount(s, "a");
	for (uint64_t i = 0; i < 6; i++) {
		snprintf(path, sizeof path, "/f%d", (int)i);
		ck_assert_int_eq(put(&a, path, 50000, i), 0);
	}
	ck_assert_int_eq(nf_vault_snapshot_create(a.v, "kept", NULL), 0);
	for (uint64_t i = 6; i < 20; i++) {
		snprintf(path, sizeof path, "/g%d", (int)i);
		ck_assert_int_eq(put(&a, path, 40000, i), 0);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(put(&a, "/f0", 60000, 100), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	(void)gc(&a, &o);
	for (uint64_t i = 8; i < 20; i++) {
		snprintf(path, sizeof path, "/g%d", (int)i);
		ck_assert_int_eq(vfs_unlink(&a, path, false), 0);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
}

static void history_is_there(struct vfs *m)
{
	ck_assert_int_eq(check(m, "/f0", 60000, 100), 0);
	ck_assert_int_eq(check(m, "/f5", 50000, 5), 0);
	ck_assert_int_eq(check(m, "/g6", 40000, 6), 0);
	ck_assert_int_eq(check(m, "/g7", 40000, 7), 0);
	is_whole(m);
}

static void snapshot_is_there(const struct vfs_site *s)
{
	char cache[200], state[200];
	struct nf_vault_options vo = vfs_options(s, "reader", cache, state);
	struct vfs r;

	vo.snapshot = "kept";
	vo.read_only = true;
	vo.cache_dir = NULL;
	ck_assert_int_eq(nf_vault_open(&vo, &r.v), 0);
	r.fs = nf_vault_fs(r.v);
	ck_assert_int_eq(check(&r, "/f0", 50000, 0), 0);
	is_whole(&r);
	vfs_unmount(&r);
}

/* Is every pack on the store named, but for what waits in the list? */
static void nothing_leaks(struct vfs *m)
{
	struct nf_gc_options o = at_once();

	for (int i = 0; i < 2; i++)
		(void)gc(m, &o);
	o.dry_run = true;
	struct nf_gc_result r = gc(m, &o);
	/* Of the last run's own commit, which made the one before it superfluous. */
	ck_assert_uint_le(r.dead_packs, 3);
	ck_assert_uint_eq(r.young_packs, 0);
	ck_assert_uint_eq(r.packs, r.live_packs + r.dead_packs + r.waiting_packs + r.deleted_packs);
	ck_assert_uint_le(r.dead_bytes + r.deleted_bytes, 60000);
}

START_TEST(a_run_cut_at_any_operation_loses_nothing_and_the_next_one_leaves_nothing)
{
	uint64_t step = getenv("FOLIOFS_LONG") ? 1 : 5, cuts = 0;

	for (uint64_t at = 1;; at += step) {
		struct nf_gc_options o = at_once();
		struct nf_gc_result r;
		struct vfs_site s;
		struct vfs a;
		vfs_site_init(&s, "", "");
		history(&s);
		struct gate *g = gate_new(vfs_store(&s));
		ck_assert_int_eq(vfs_mount_over(&s, "a", &g->base, &a), 0);
		o.repack_percent = 60;
		atomic_store(&g->shut_at, atomic_load(&g->nr) + at);
		int e = nf_vault_gc(a.v, &o, NULL, &r);
		bool whole = atomic_load(&g->nr) < atomic_load(&g->shut_at);
		ck_assert(whole ? e == 0 : e < 0 || e == 0);
		cuts += !whole;
		vfs_unmount(&a);
		a = vfs_mount(&s, "a");
		if (whole)
			ck_assert_uint_gt(r.moved_bytes, 0);
		history_is_there(&a);
		nothing_leaks(&a);
		history_is_there(&a);
		snapshot_is_there(&s);
		vfs_unmount(&a);
		vfs_site_deinit(&s);
		if (whole)
			break;
	}
	printf("# cut at %d operations of the store\n", (int)cuts);
	ck_assert_uint_gt(cuts, 10);
}
END_TEST

/* --- what an earlier run found --------------------------------------------------------- */

static void forget_marks(const struct vfs_site *s, const char *name)
{
	char path[300];

	snprintf(path, sizeof path, "%.120s/%.40s-state/gc", s->dir.path, name);
	ck_assert_int_eq(unlink(path), 0);
}

/* A run of machine "b", mounted with an empty cache: what it took, and what it found. */
static struct nf_gc_result run_of_b(const struct vfs_site *s, const struct nf_gc_options *o, uint64_t *requests)
{
	struct vfs b;

	drop_cache(s, "b");
	struct gate *g = gate_new(vfs_store(s));
	ck_assert_int_eq(vfs_mount_over(s, "b", &g->base, &b), 0);
	uint64_t before = atomic_load(&g->nr);
	struct nf_gc_result r = gc(&b, o);
	*requests = atomic_load(&g->nr) - before;
	vfs_unmount(&b);
	return r;
}

static void same_findings(struct nf_gc_result x, struct nf_gc_result y)
{
	x.nodes = y.nodes = x.fetched_nodes = y.fetched_nodes = 0;
	ck_assert_mem_eq(&x, &y, sizeof x);
}

START_TEST(a_second_run_reads_what_changed_since_the_first_and_finds_the_same)
{
	const unsigned nr = getenv("FOLIOFS_LONG") ? 100000 : 2000;
	struct nf_gc_result r[4];
	uint64_t requests[4];
	struct vfs_site s;
	char path[60];

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	for (unsigned i = 0; i < nr; i++) {
		snprintf(path, sizeof path, "/a-file-with-quite-a-name-%u", i);
		ck_assert_int_eq(vfs_puts(&a, path, path), 0);
		if (i % (nr / 16) == 0) {
			ck_assert_int_eq(put(&a, "/f", 100000, i), 0);
			ck_assert_int_eq(vfs_sync(&a), 0);
		}
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct nf_gc_options o;
	nf_gc_defaults(&o);
	o.dry_run = true;
	o.repack_percent = 0;
	o.keep_heads = 8;
	o.keep_days = o.lease_days = 0;
	vfs_unmount(&a);
	a = vfs_mount(&s, "b");
	vfs_unmount(&a);
	a = vfs_mount(&s, "a");
	r[0] = run_of_b(&s, &o, &requests[0]);
	/* A little. */
	ck_assert_int_eq(vfs_puts(&a, "/a-file-with-quite-a-name-77", "changed"), 0);
	ck_assert_int_eq(put(&a, "/f", 100000, nr), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	r[1] = run_of_b(&s, &o, &requests[1]);
	/* Nothing. */
	r[2] = run_of_b(&s, &o, &requests[2]);
	same_findings(r[1], r[2]);
	forget_marks(&s, "b");
	r[3] = run_of_b(&s, &o, &requests[3]);
	same_findings(r[1], r[3]);
	static const char *const what[] = { "first", "after a little", "after nothing", "with the marks lost" };
	for (int i = 0; i < 4; i++)
		printf("# %u files, %s: requests %d, nodes read %d, of these from the store %d\n", nr, what[i], (int)requests[i],
		       (int)r[i].nodes, (int)r[i].fetched_nodes);
	ck_assert_uint_gt(r[1].dead_bytes, r[0].dead_bytes);
	ck_assert_uint_lt(r[1].nodes * 4, r[0].nodes);
	ck_assert_uint_le(r[2].nodes, r[1].nodes);
	ck_assert_uint_gt(r[3].nodes, r[1].nodes * 4);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(marks_that_are_damaged_or_of_another_device_are_not_believed)
{
	struct nf_gc_options o = at_once();
	struct nf_gc_result whole;
	struct vfs_site s;
	char cmd[600];

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a"), b = vfs_mount(&s, "b");
	for (uint64_t i = 0; i < 4; i++) {
		ck_assert_int_eq(put(&a, "/f", BIG, i), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	o.dry_run = true;
	whole = gc(&a, &o);
	for (int i = 0; i < 4; i++) {
		const char *d = s.dir.path;
		static const char *const how[] = { "printf x | dd bs=1 seek=60 conv=notrunc 2>/dev/null of=", "truncate -s 50 ",
						   ": > ", "cp ../b-state/gc " };
		snprintf(cmd, sizeof cmd, "cd '%s/a-state' && %sgc", d, how[i]);
		if (i == 3)
			(void)gc(&b, &o);
		ck_assert_int_eq(system(cmd), 0);
		struct nf_gc_result r = gc(&a, &o);
		same_findings(r, whole);
	}
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "gc", 120);
	tcase_add_test(tc, what_no_kept_commit_names_is_condemned_and_then_deleted);
	tcase_add_test(tc, nothing_goes_before_its_time);
	tcase_add_test(tc, a_snapshot_keeps_what_it_shows_until_it_is_removed);
	tcase_add_test(tc, leftovers_of_broken_uploads_go_and_foreign_names_stay);
	tcase_add_test(tc, a_machine_that_was_away_for_longer_than_the_grace_loses_nothing);
	tcase_add_test(tc, a_machine_finds_what_it_stands_on_after_it_was_put_elsewhere);
	tcase_add_test(tc, a_second_run_reads_what_changed_since_the_first_and_finds_the_same);
	tcase_add_test(tc, marks_that_are_damaged_or_of_another_device_are_not_believed);
	tcase_add_test(tc, a_dry_run_says_what_the_run_does);
	tcase_add_loop_test(tc, a_machine_suspended_before_its_packs_publishes_no_holes, 0, 2);
	tcase_add_loop_test(tc, a_machine_suspended_between_its_packs_and_its_head_publishes_no_holes, 0, 2);
	tcase_add_loop_test(tc, commits_that_others_made_on_a_head_with_holes_are_not_listed, 0, 8);
	tcase_add_test(tc, a_run_cut_at_any_operation_loses_nothing_and_the_next_one_leaves_nothing);
	tcase_add_test(tc, a_clock_that_is_a_year_off_neither_keeps_for_ever_nor_loses);
	tc = nf_case(s, "gc_ended", 120);
	tcase_add_loop_test(tc, a_machine_that_ends_before_it_has_reported_its_head_leaves_no_holes, 0, 3);
}

NF_SUITE("vault/gc")
