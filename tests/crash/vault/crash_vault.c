/* Power cuts beneath a whole vault: cache, journal, state and directory store on one disk, cut at every operation.
 *
 * A workload runs on the real vault over a disk in memory (aio/file_crash.h) that writes down what is done to it.  Then, for
 * each number of operations, with what was not synced dropped, kept, torn or in any order, a vault is opened on what is left.
 *
 *   always   it opens by itself; what was promised is there and the whole state is an allowed one (lib/promises.h)
 *   now and then ("whole" below; FOLIOFS_LONG: always)
 *            without its store it opens too; it publishes what it has; another machine sees the same; snapshots are right;
 *            a check finds nothing; after a collection no pack is left that nothing names; all this, cut at some operation
 *            again, loses nothing
 *
 * NF_SEED moves the seeds; NF_CRASH_WORK names one workload; NF_CRASH_STEP: only each so manyth cut point. */
#include "promises.h"

#include "base/clock.h"
#include "store/link.h"
#include "store/types.h"
#include "vault/commit.h"

#include <unistd.h>

enum { SEEDS = 7, GCS = 4 };

/* Every so manyth cut point, in the short run. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEP = 17 };
#else
enum { STEP = 3 };
#endif

struct cut {
	const char *work;
	uint64_t n, seed;
};
static struct cut now;
static struct nf_header *header;
static uint8_t block_shift;
static size_t shelve_bytes;

#define WANT(what, ...)                                                                                        \
	do {                                                                                                   \
		if (!(what)) {                                                                                 \
			fprintf(stderr, "%s: cut at %" PRIu64 ", seed %" PRIu64 ": ", now.work, now.n, now.seed); \
			fprintf(stderr, __VA_ARGS__);                                                          \
			fprintf(stderr, "\n");                                                                 \
			ck_abort_msg("%s", #what);                                                             \
		}                                                                                              \
	} while (0)

/* --- a machine on a disk ------------------------------------------------------------------ */

/* LINK_OUT: the store is behind a link. */
static struct nf_vault_options options(struct nf_crash *disk, struct nf_store **link_out)
{
	struct nf_store *s;

	ck_assert_int_eq(nf_store_dir_new("/store", nf_crash_ops(disk), NF_DIR_IS_MADE, &s), 0);
	if (link_out) {
		struct nf_link_options lo = { .probe_min_ms = 1, .any = true };
		ck_assert_int_eq(nf_link_new(s, &lo, &s), 0);
		*link_out = s;
	}
	return (struct nf_vault_options){ .store = s, .header = header, .files = nf_crash_ops(disk),
					  .cache_dir = "/pc/cache", .state_dir = "/pc/state",
					  .cache_size_bytes = 64 << 20, .memory_bytes = 4 << 20, .block_shift = block_shift,
					  .shelve_bytes = shelve_bytes,
					  .no_threads = true, .host = "pc" };
}

static int open_on(struct nf_crash *disk, struct vfs *m)
{
	struct nf_vault_options o = options(disk, NULL);

	m->v = NULL;
	int r = nf_vault_open(&o, &m->v);
	if (r == 0)
		m->fs = nf_vault_fs(m->v);
	return r;
}

static int open_reader(struct nf_crash *disk, const char *snapshot, struct vfs *m)
{
	struct nf_vault_options o = options(disk, NULL);

	o.cache_dir = o.state_dir = NULL;
	o.read_only = true;
	o.snapshot = snapshot;
	m->v = NULL;
	int r = nf_vault_open(&o, &m->v);
	if (r == 0)
		m->fs = nf_vault_fs(m->v);
	return r;
}

/* --- workloads ------------------------------------------------------------------------------ */

static uint64_t below(struct pw *w, uint64_t n) { return nf_prng_below(&w->rng, n); }

/* PATTERN with the number in the place of its one '%'. */
static char *fmt(const char *pattern, int i)
{
	static char buf[4][64];
	static int at;

	at = (at + 1) % 4;
	int head = (int)strcspn(pattern, "%");
	snprintf(buf[at], sizeof buf[0], "%.*s%d%s", head, pattern, i, pattern[head] ? pattern + head + 1 : "");
	return buf[at];
}

static void small_files(struct pw *w)
{
	pw_mkdir(w, "/d");
	for (int i = 0; i < 10; i++) {
		pw_write(w, fmt("/d/f%", i), 0, 1 + below(w, i % 3 ? 400 : 6000));
		if (i % 3 == 1)
			pw_fsync(w, fmt("/d/f%", i));
		if (i == 4)
			pw_sync(w);
	}
	pw_chmod(w, "/d/f2", 0600);
	pw_fsync_dir(w, "/d");
	for (int i = 0; i < 10; i += 2)
		pw_unlink(w, fmt("/d/f%", i));
	pw_fsync(w, "/d/f3");
	pw_mkdir(w, "/d/e");
	pw_rename(w, "/d/f3", "/d/e/f3");
	pw_write(w, "/d/e/f3", 100, 900);
	pw_sync(w);
	pw_rename(w, "/d/e/f3", "/g");
	pw_rmdir(w, "/d/e");
	pw_fsync_dir(w, "/");
}

/* The pages of a transaction are saved to the journal first, which is synced, with its name. */
static void sqlite(struct pw *w)
{
	for (int i = 0; i < 6; i++) {
		pw_write(w, "/db", 4096 * (uint64_t)i, 4096);
	}
	pw_fsync(w, "/db");
	for (int t = 0; t < 7; t++) {
		pw_write(w, "/db-journal", 0, 512);
		for (int p = 0; p < 3; p++)
			pw_write(w, "/db-journal", 512 + 4104 * (uint64_t)p, 4104);
		pw_fsync(w, "/db-journal");
		pw_write(w, "/db-journal", 0, 28);
		pw_fsync(w, "/db-journal");
		pw_fsync_dir(w, "/");
		for (int p = 0; p < 3; p++)
			pw_write(w, "/db", 4096 * below(w, 8), 4096);
		pw_fsync(w, "/db");
		pw_unlink(w, "/db-journal");
		pw_fsync_dir(w, "/");
		if (t % 3 == 1)
			pw_sync(w);
	}
}

static void editors(struct pw *w)
{
	pw_write(w, "/text", 0, 3000);
	pw_fsync(w, "/text");
	for (int i = 0; i < 8; i++) {
		size_t len = 1 + below(w, 9000);
		switch (i % 4) {
		case 0: /* write beside, sync, rename over */
			pw_write(w, "/text.tmp", 0, len);
			pw_fsync(w, "/text.tmp");
			pw_rename(w, "/text.tmp", "/text");
			pw_fsync_dir(w, "/");
			break;
		case 1: /* the same without any sync */
			pw_write(w, "/.#text", 0, len);
			pw_rename(w, "/.#text", "/text");
			break;
		case 2: /* the old one becomes the backup */
			pw_rename(w, "/text", "/text~");
			pw_write(w, "/text", 0, len);
			pw_fsync(w, "/text");
			pw_unlink(w, "/text~");
			break;
		default: /* a backup by link, then in place */
			pw_link(w, "/text", "/text.orig");
			pw_truncate(w, "/text", 0);
			pw_write(w, "/text", 0, len);
			pw_fsync(w, "/text");
			pw_unlink(w, "/text.orig");
			pw_chmod(w, "/text", i > 4 ? 0600 : 0640);
			break;
		}
		if (i % 3 == 2)
			pw_sync(w);
	}
}

static void git(struct pw *w)
{
	pw_mkdir(w, "/.git");
	pw_mkdir(w, "/.git/objects");
	pw_write(w, "/.git/index", 0, 200);
	for (int c = 0; c < 4; c++) {
		for (int i = 0; i < 3; i++) {
			const char *tmp = fmt("/.git/objects/tmp_obj_%", i);
			pw_write(w, tmp, 0, 40 + below(w, 5000));
			if (c & 1)
				pw_fsync(w, tmp);
			if (i == 1)
				pw_rename(w, tmp, fmt("/.git/objects/%", 10 * c + i));
			else {
				pw_link(w, tmp, fmt("/.git/objects/%", 10 * c + i));
				pw_unlink(w, tmp);
			}
		}
		pw_write(w, "/.git/index.lock", 0, 100 + below(w, 1000));
		pw_rename(w, "/.git/index.lock", "/.git/index");
		pw_write(w, "/.git/main.lock", 0, 41);
		pw_fsync(w, "/.git/main.lock");
		pw_rename(w, "/.git/main.lock", "/.git/main");
		pw_fsync_dir(w, "/.git");
		if (c == 2)
			pw_sync(w);
	}
}

static void large_file(struct pw *w)
{
	for (int i = 0; i < 10; i++) {
		pw_write(w, "/big", (uint64_t)i << 16, 1 << 16);
		if (i % 4 == 2)
			pw_fsync(w, "/big");
	}
	pw_sync(w);
	for (int i = 0; i < 4; i++)
		pw_write(w, "/big", below(w, 600000), 1 + below(w, 9000));
	pw_fsync(w, "/big");
	pw_write(w, "/big", 400001, 200000);
	pw_sync(w);
	pw_write(w, "/big", 5, 70000);
	pw_fsync(w, "/big");
}

static void truncates(struct pw *w)
{
	for (int i = 0; i < 14; i++) {
		const char *f = i % 3 ? "/t" : "/u";
		pw_write(w, f, below(w, 20000), 1 + below(w, 12000));
		if (i % 4 == 1)
			pw_fsync(w, f);
		pw_truncate(w, f, below(w, i % 5 ? 30000 : 300));
		if (i % 4 == 2)
			pw_fsync(w, f);
		if (i % 5 == 3)
			pw_punch(w, f, below(w, 9000), 1 + below(w, 9000));
		if (i % 6 == 5)
			pw_sync(w);
		if (i % 7 == 4)
			pw_write(w, f, 0, 30);
	}
	pw_truncate(w, "/t", 0);
	pw_write(w, "/t", 0, 100);
	pw_fsync(w, "/t");
}

/* Hours without the server, and what is sent when it is back. */
static void offline_hours(struct pw *w)
{
	pw_mkdir(w, "/d");
	for (int i = 0; i < 4; i++)
		pw_write(w, fmt("/d/f%", i), 0, 5000);
	pw_sync(w);
	ck_assert_int_eq(nf_vault_hold(w->m.v, true), 0);
	for (int i = 0; i < 10; i++) {
		pw_write(w, fmt("/d/f%", i % 5), below(w, 9000), 1 + below(w, 9000));
		pw_write(w, fmt("/n%", i), 0, 1 + below(w, 2000));
		if (i % 3 == 0)
			pw_fsync(w, fmt("/n%", i));
		if (i % 4 == 3)
			pw_unlink(w, fmt("/n%", i - 1));
	}
	pw_rename(w, "/d/f1", "/d/f2");
	pw_fsync_dir(w, "/d");
	ck_assert_int_eq(nf_vault_hold(w->m.v, false), 0);
	pw_sync(w);
	pw_write(w, "/d/f4", 0, 100);
	pw_fsync(w, "/d/f4");
	pw_sync(w);
}

/* So much that little of it is kept in memory; files are told and shelved as when nothing can be sent. */
static void shelved(struct pw *w)
{
	pw_mkdir(w, "/d");
	for (int i = 0; i < 4; i++)
		pw_write(w, fmt("/d/f%", i), 0, 5000);
	pw_sync(w);
	ck_assert_int_eq(nf_vault_hold(w->m.v, true), 0);
	for (int i = 0; i < 12; i++) {
		pw_write(w, fmt("/d/f%", i % 5), below(w, 9000), 1 + below(w, 9000));
		pw_write(w, fmt("/n%", i), 0, 1 + below(w, 700));
		if (i % 3 == 0)
			pw_fsync(w, fmt("/n%", i));
		if (i % 4 == 3) {
			pw_unlink(w, fmt("/n%", i - 2));
			pw_rename(w, fmt("/n%", i - 1), fmt("/n%", i));
		}
		if (i % 2)
			(void)pw_did(w, nf_settle(w->m.v));
	}
	ck_assert(w->may_fail || w->m.v->nr_shelf > 2);
	pw_fsync_dir(w, "/d");
	/* Some of it is published; what comes then is shelved beside. */
	ck_assert_int_eq(nf_vault_hold(w->m.v, false), 0);
	(void)pw_did(w, nf_commit_turn(w->m.v, true));
	/* Some of it came and went on the shelf. */
	ck_assert(w->may_fail || w->m.v->nr_gone);
	for (int i = 0; i < 5; i++)
		pw_write(w, fmt("/d/g%", i), 0, 300);
	(void)pw_did(w, nf_settle(w->m.v));
	ck_assert(w->may_fail || w->m.v->nr_shelf > 2);
	pw_fsync(w, "/d/g4");
	pw_sync(w);
	ck_assert(w->may_fail || w->m.v->nr_shelf == 0);
	pw_write(w, "/d/f4", 0, 100);
	pw_fsync(w, "/d/f4");
	pw_sync(w);
}

static void gc(struct vfs *m, bool dry_run, struct nf_gc_result *r)
{
	struct nf_gc_options o;

	nf_gc_defaults(&o);
	o.grace_s = o.keep_days = o.lease_days = 0;
	o.keep_heads = 1;
	o.repack_percent = 60;
	o.dry_run = dry_run;
	int e = nf_vault_gc(m->v, &o, NULL, r);
	WANT(e == 0, "gc: %s", nf_error_name(e));
}

/* Something to condemn, to delete, to move and to keep. */
static void snapshots_and_gc(struct pw *w)
{
	struct nf_gc_result r;

	for (int i = 0; i < 6; i++)
		pw_write(w, fmt("/f%", i), 0, 6000);
	pw_snapshot(w, "kept");
	for (int i = 0; i < 12; i++)
		pw_write(w, fmt("/g%", i), 0, 5000);
	pw_sync(w);
	pw_write(w, "/f0", 0, 9000);
	pw_sync(w);
	gc(&w->m, false, &r);
	for (int i = 2; i < 12; i++)
		pw_unlink(w, fmt("/g%", i));
	pw_write(w, "/f1", 3000, 2000);
	pw_fsync(w, "/f1");
	for (int i = 0; i < GCS; i++) {
		gc(&w->m, false, &r);
		if (i == 0)
			ck_assert_uint_gt(r.dead_packs + r.moved_packs, 0);
		/* A write that was not synced, beside a collection. */
		pw_write(w, "/late", 0, 100 + 500 * (size_t)i);
	}
	pw_fsync(w, "/late");
}

/* Commits by the vault's own thread, beside the work. */
static void beside(struct pw *w)
{
	for (int i = 0; i < 24; i++) {
		const char *f = fmt("/b%", (int)below(w, 5));
		pw_write(w, f, below(w, 7000), 1 + below(w, 7000));
		if (i % 4 == 1)
			pw_fsync(w, f);
		if (i % 5 == 4) {
			pw_write(w, "/tmp", 0, 700);
			pw_rename(w, "/tmp", f);
		}
		usleep(3000);
	}
	pw_sync(w);
}

/* Unmounted and mounted again, and killed. */
static void comes_and_goes(struct pw *w)
{
	for (int i = 0; i < 3; i++) {
		pw_write(w, "/a", below(w, 5000), 3000);
		pw_fsync(w, "/a");
		pw_write(w, fmt("/c%", i), 0, 300 + 5000 * (size_t)i);
		/* Whoever unmounts has everything on the disk. */
		vfs_unmount(&w->m);
		pw_promise(w, PW_ALL);
		ck_assert_int_eq(open_on(w->disk, &w->m), 0);
		pw_truncate(w, "/a", below(w, 4000));
		if (i == 1)
			pw_sync(w);
	}
}

static const struct work {
	const char *name;
	void (*run)(struct pw *w);
	bool linked, threads, fills;
	uint8_t block_shift;
	uint8_t spoilt; /* cut_everywhere() */
	size_t shelve_bytes;
} works[] = {
	{ .name = "small files", .fills = true, .run = small_files },
	{ .name = "sqlite", .fills = true, .run = sqlite },
	{ .name = "editors", .fills = true, .run = editors },
	{ .name = "git", .fills = true, .run = git },
	{ .name = "large file", .fills = true, .run = large_file, .block_shift = 16 },
	{ .name = "truncate", .fills = true, .run = truncates },
	{ .name = "offline hours", .fills = true, .run = offline_hours, .linked = true },
	{ .name = "shelved", .fills = true, .run = shelved, .linked = true, .spoilt = 3, .shelve_bytes = 900 },
	{ .name = "snapshots and gc", .run = snapshots_and_gc },
	{ .name = "commits beside", .run = beside, .threads = true },
	{ .name = "comes and goes", .run = comes_and_goes },
};

/* --- cutting ----------------------------------------------------------------------------------- */

struct sums {
	uint64_t points, images, whole, away, again;
};

static struct nf_crash *image(struct nf_crash *disk, uint64_t n, uint64_t seed)
{
	struct nf_crash *i;

	ck_assert_int_eq(nf_crash_image(disk, n, seed, &i), 0);
	return i;
}

/* M holds what it may and must; what was seen goes to *OUT (the caller's) if asked for. */
static void look(struct pw *w, struct vfs *m, const char *when, struct pw_seen **out)
{
	struct pw_seen *s = pw_look(w, m);
	char why[300];

	WANT(!s->unread || *s->wrong, "%s: %d files cannot be read", when, s->unread);
	pw_check(w, s, now.n, why);
	WANT(!*why, "%s: %s", when, why);
	if (out) {
		*out = s;
	} else {
		pw_seen_deinit(s);
		free(s);
	}
}

static void same(struct pw *w, struct vfs *m, const char *when, const struct pw_seen *as)
{
	struct pw_seen *s = pw_look(w, m);

	WANT(!*s->wrong && !s->unread, "%s: %s", when, s->wrong);
	WANT(pw_same(w, s, as), "%s: not what was there before", when);
	pw_seen_deinit(s);
	free(s);
}

/* Without its store it opens if it ever did, and shows nothing wrong. */
static void open_away(struct pw *w, struct nf_crash *disk, bool known)
{
	struct nf_store *link;
	struct nf_vault_options o = options(disk, &link);
	struct vfs m = { 0 };

	nf_link_hold(link, true);
	int r = nf_vault_open(&o, &m.v);
	WANT(r == 0 || !known, "without the store: %s", nf_error_name(r));
	if (r < 0)
		return;
	m.fs = nf_vault_fs(m.v);
	struct pw_seen *s = pw_look(w, &m);
	char why[300];
	WANT(!*s->wrong, "without the store: %s", s->wrong);
	if (!s->unread) {
		pw_check(w, s, now.n, why);
		WANT(!*why, "without the store: %s", why);
	}
	pw_seen_deinit(s);
	free(s);
	vfs_unmount(&m);
}

static void snapshot_is_right(struct pw *w, struct nf_crash *disk)
{
	struct vfs m;
	char why[300];

	int r = open_reader(disk, "kept", &m);
	WANT(r == 0, "snapshot: %s", nf_error_name(r));
	struct pw_seen *s = pw_look(w, &m);
	WANT(!s->unread, "snapshot: %s", s->wrong);
	pw_check_exactly(w, s, w->snapshot.upto, why);
	WANT(!*why, "snapshot: %s", why);
	pw_seen_deinit(s);
	free(s);
	vfs_unmount(&m);
}

/* Is each pack on the store named, but for what waits? */
static void nothing_leaks(struct vfs *m)
{
	struct nf_gc_result r;

	for (int i = 0; i < 3; i++)
		gc(m, false, &r);
	gc(m, true, &r);
	/* Of the last run's own commit, which made the one before it superfluous. */
	WANT(r.dead_packs <= 3 && r.leftover_packs == 0 && r.young_packs == 0,
	     "gc leaves dead %" PRIu64 ", leftovers %" PRIu64 ", young %" PRIu64, r.dead_packs, r.leftover_packs, r.young_packs);
	WANT(r.packs == r.live_packs + r.dead_packs + r.waiting_packs + r.deleted_packs, "gc: sums");
	WANT(r.damaged_roots == 0, "gc: damaged roots");
}

/* All that a machine does with what it finds.  Operations of the disk until everything was on the store to *SYNCED. */
static void everything(struct pw *w, struct nf_crash *disk, struct pw_seen **out, uint64_t *synced)
{
	struct vfs m, other;
	struct pw_seen *s;

	int r = open_on(disk, &m);
	WANT(r == 0, "open: %s", nf_error_name(r));
	look(w, &m, "opened", &s);
	r = vfs_sync(&m);
	WANT(r == 0, "sync: %s", nf_error_name(r));
	*synced = nf_crash_nr_ops(disk);
	same(w, &m, "synced", s);
	uint64_t problems = vfs_problems(&m);
	WANT(problems == 0, "check: %" PRIu64 " problems", problems);
	r = open_reader(disk, NULL, &other);
	WANT(r == 0, "another machine: %s", nf_error_name(r));
	same(w, &other, "another machine", s);
	vfs_unmount(&other);
	nothing_leaks(&m);
	problems = vfs_problems(&m);
	WANT(problems == 0, "check after gc: %" PRIu64 " problems", problems);
	same(w, &m, "after gc", s);
	vfs_unmount(&m);
	if (w->snapshot.at && w->snapshot.at <= now.n)
		snapshot_is_right(w, disk);
	*out = s;
}

/* Cut once more, while the machine did what everything() does. */
static void cut_again(struct pw *w, struct nf_crash *disk, uint64_t n, const struct pw_seen *as, bool exact)
{
	struct nf_crash *again = image(disk, n, now.seed + 1);
	struct pw_seen *s;
	struct vfs m;

	int r = open_on(again, &m);
	WANT(r == 0, "open after a second cut at %" PRIu64 ": %s", n, nf_error_name(r));
	look(w, &m, "second cut", &s);
	if (exact)
		WANT(pw_same(w, s, as), "second cut at %" PRIu64 ": not what had been synced", n);
	r = vfs_sync(&m);
	WANT(r == 0, "sync after a second cut at %" PRIu64 ": %s", n, nf_error_name(r));
	same(w, &m, "second cut, synced", s);
	vfs_unmount(&m);
	pw_seen_deinit(s);
	free(s);
	nf_crash_free(again);
}

static void cut_here(struct pw *w, bool whole, struct sums *sum)
{
	struct nf_crash *found = image(w->disk, now.n, now.seed);
	bool known = w->nr_promises && w->promises[0].at <= now.n;
	struct vfs m;

	sum->images++;
	if (whole && now.seed % 2) {
		open_away(w, found, known);
		sum->away++;
	}
	if (whole) {
		struct pw_seen *s;
		uint64_t synced, was = nf_crash_nr_ops(found);
		struct nf_prng rng;
		everything(w, found, &s, &synced);
		sum->whole++;
		nf_prng_seed(&rng, now.n * 31 + now.seed);
		uint64_t at = was + nf_prng_below(&rng, nf_crash_nr_ops(found) - was + 1);
		cut_again(w, found, at, s, at >= synced);
		sum->again++;
		pw_seen_deinit(s);
		free(s);
	} else {
		int r = open_on(found, &m);
		WANT(r == 0, "open: %s", nf_error_name(r));
		look(w, &m, "opened", NULL);
		vfs_unmount(&m);
	}
	nf_crash_free(found);
}

static void begin_work(struct pw *w, const struct work *k, uint64_t seed, bool keep_store)
{
	struct nf_store *s, *link = NULL;

	ck_assert_int_eq(nf_crash_new(&w->disk), 0);
	const struct nf_file_ops *f = nf_crash_ops(w->disk);
	ck_assert_int_eq(f->mkdir(f, "/store", 0700), 0);
	ck_assert_int_eq(f->mkdir(f, "/pc", 0700), 0);
	ck_assert_int_eq(f->fsync_dir(f, "/"), 0);
	if (keep_store)
		nf_crash_keep(w->disk, "/store");
	nf_prng_seed(&w->rng, seed);
	ck_assert_int_eq(nf_store_dir_new("/store", f, NF_DIR_IS_MADE, &s), 0);
	ck_assert_int_eq(nf_vault_format(s, header, "pc"), 0);
	w->formatted_at = nf_crash_nr_ops(w->disk);
	nf_store_free(s);
	struct nf_vault_options o = options(w->disk, k->linked ? &link : NULL);
	if (k->threads) {
		o.no_threads = false;
		o.write_back_ms = 4;
		o.poll_ms = 5;
	}
	ck_assert_int_eq(nf_vault_open(&o, &w->m.v), 0);
	w->m.fs = nf_vault_fs(w->m.v);
	pw_promise(w, PW_ALL);
}

static void run_work(struct pw *w, const struct work *k, uint64_t seed, bool keep_store)
{
	begin_work(w, k, seed, keep_store);
	k->run(w);
	vfs_unmount(&w->m);
	pw_promise(w, PW_ALL);
}

static uint64_t number(const char *name, uint64_t usual)
{
	const char *s = getenv(name);

	return s && *s ? strtoull(s, NULL, 0) : usual;
}

/* Which of the seeds at this cut: three in turn of the four extreme ones and of the random ones; and SPOILT times all but one write,
 * for what marks of the journal that were not synced rest on. */
static void cut_everywhere(struct pw *w, uint64_t step, uint64_t base, bool all, uint64_t spoilt, struct sums *sum)
{
	uint64_t nr = nf_crash_nr_ops(w->disk);

	for (uint64_t n = w->formatted_at; n <= nr; n += step) {
		uint64_t seeds = all ? SEEDS : 2;
		for (uint64_t k = 0; k < seeds; k++) {
			uint64_t seed = all ? k : (n / step + k * 4) % (SEEDS + 1);
			now.n = n;
			now.seed = seed < NF_CRASH_RANDOM ? seed : base + n * 100 + seed;
			cut_here(w, all || (n / step + k) % 8 == 0, sum);
		}
		for (uint64_t k = 0; k < spoilt; k++) {
			now.seed = NF_CRASH_KINDS * (base + n * 100 + k) + NF_CRASH_SPOILS;
			cut_here(w, false, sum);
		}
		sum->points++;
	}
}

START_TEST(what_was_promised_survives_a_power_cut_at_every_operation)
{
	const struct work *k = &works[_i];
	bool everywhere = getenv("FOLIOFS_LONG");
	uint64_t base = 1000000 * (number("NF_SEED", 0) + 1), began = nf_clock_ns();
	const char *only = getenv("NF_CRASH_WORK");
	struct sums sum = { 0 };

	if (only && !strstr(k->name, only))
		return;
	ck_assert_int_eq(nf_header_new(&header), 0);
	block_shift = k->block_shift ? k->block_shift : 12;
	shelve_bytes = k->shelve_bytes;
	/* The server on the same machine, and (keeping all) on another. */
	for (int keep = 0; keep < 2; keep++) {
		struct pw *w = calloc(1, sizeof *w);
		now = (struct cut){ .work = k->name };
		run_work(w, k, base + (uint64_t)_i, keep);
		cut_everywhere(w, number("NF_CRASH_STEP", everywhere ? 1 : STEP), base, everywhere, k->spoilt, &sum);
		pw_deinit(w);
		nf_crash_free(w->disk);
		free(w);
	}
	nf_header_free(header);
	printf("# %s: %d cut points, %d images, %d of them whole, %d without the store, %d cut again; %d ms\n", k->name,
	       (int)sum.points, (int)sum.images, (int)sum.whole, (int)sum.away, (int)sum.again,
	       (int)((nf_clock_ns() - began) / NF_NS_PER_MS));
}
END_TEST

/* The disk of cache, journal, state and store is full from its NTH allocation on, TIMES times; then there is room again.  False: it
 * never came to that. */
static bool fill_here(const struct work *k, uint64_t nth, uint64_t times, uint64_t seed, struct sums *sum)
{
	struct pw *w = calloc(1, sizeof *w);
	struct pw_seen *s;
	char why[300];

	now = (struct cut){ .work = k->name, .n = nth, .seed = times };
	begin_work(w, k, seed, false);
	w->may_fail = true;
	nf_crash_fill(w->disk, nth, times);
	k->run(w);
	bool full = nf_crash_nr_filled(w->disk) > 0;
	/* Cut while it is, or was, so; whatever fsync said yes to is there. */
	for (uint64_t c = 0; c < 3; c++) {
		uint64_t nr = nf_crash_nr_ops(w->disk);
		now.n = c == 2 ? w->formatted_at + nf_prng_below(&w->rng, nr - w->formatted_at + 1) : nr;
		now.seed = c == 0 ? NF_CRASH_DROP_ALL : NF_CRASH_RANDOM + seed + nth;
		cut_here(w, false, sum);
	}
	now.n = nth;
	now.seed = times;
	/* With room again nothing at all is missing. */
	nf_crash_fill(w->disk, 0, 0);
	int r = vfs_sync(&w->m);
	for (int i = 0; r < 0 && i < 5; i++)
		r = vfs_sync(&w->m);
	WANT(r == 0, "sync with room again: %s", nf_error_name(r));
	s = pw_look(w, &w->m);
	WANT(!s->unread && !*s->wrong, "with room again: %s", s->wrong);
	pw_check_exactly(w, s, w->nr_ops, why);
	WANT(!*why, "with room again: %s", why);
	vfs_unmount(&w->m);
	struct vfs other;
	r = open_reader(w->disk, NULL, &other);
	WANT(r == 0, "another machine: %s", nf_error_name(r));
	same(w, &other, "another machine", s);
	vfs_unmount(&other);
	pw_seen_deinit(s);
	free(s);
	pw_deinit(w);
	nf_crash_free(w->disk);
	sum->again += (uint64_t)w->nr_failed;
	free(w);
	sum->points += full;
	return full;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { FILL_STEP = 23 };
#else
enum { FILL_STEP = 7 };
#endif

START_TEST(what_was_promised_survives_a_full_disk_at_every_allocation)
{
	/* A file that could not be stored is tried again after a wait that doubles: more takes its time. */
	const uint64_t times[] = { 1, 2, getenv("FOLIOFS_LONG") ? 8 : 4 };
	const struct work *k = &works[_i];
	const char *only = getenv("NF_CRASH_WORK");
	uint64_t seed = 1000000 * (number("NF_SEED", 0) + 1), began = nf_clock_ns();
	uint64_t step = number("NF_CRASH_STEP", getenv("FOLIOFS_LONG") ? 1 : FILL_STEP);
	struct sums sum = { 0 };

	/* What opens or collects in between says so when it cannot; that is not what is looked at here. */
	if ((only && !strstr(k->name, only)) || !k->fills)
		return;
	ck_assert_int_eq(nf_header_new(&header), 0);
	block_shift = k->block_shift ? k->block_shift : 12;
	shelve_bytes = k->shelve_bytes;
	for (size_t t = 0; t < NF_ARRAY_LEN(times); t++)
		for (uint64_t nth = seed % step + t; fill_here(k, nth, times[t], seed + (uint64_t)_i, &sum); nth += step)
			;
	nf_header_free(header);
	printf("# %s: full at %d allocations, %d calls told so, %d images; %d ms\n", k->name, (int)sum.points, (int)sum.again,
	       (int)sum.images, (int)((nf_clock_ns() - began) / NF_NS_PER_MS));
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "crash", 7200);

	tcase_add_loop_test(tc, what_was_promised_survives_a_full_disk_at_every_allocation, 0, NF_ARRAY_LEN(works));
	tcase_add_loop_test(tc, what_was_promised_survives_a_power_cut_at_every_operation, 0, NF_ARRAY_LEN(works));
}

NF_SUITE("vault/crash")
