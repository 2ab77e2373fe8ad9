/* The collector that nobody asked for: when it does nothing, what it gives way to, where it ends. */
#include "gate.h"
#include "vfs.h"

#include "base/random.h"
#include "vault/gc.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BIG = 600 << 10 };

static struct nf_gc_options at_once(bool idle)
{
	struct nf_gc_options o;

	nf_gc_defaults(&o);
	o.grace_s = o.keep_days = o.lease_days = 0;
	o.keep_heads = 1;
	o.idle = idle;
	return o;
}

static struct nf_gc_result gc(struct vfs *m, const struct nf_gc_options *o)
{
	struct nf_gc_result r;

	ck_assert_int_eq(nf_vault_gc(m->v, o, NULL, &r), 0);
	return r;
}

static void put(struct vfs *m, const char *path, size_t len, uint64_t seed)
{
	char *p = malloc(len);
	struct nf_prng prng;

	nf_prng_seed(&prng, seed);
	for (size_t i = 0; i < len; i++)
		p[i] = (char)nf_prng_next(&prng);
	ck_assert_int_eq(vfs_put(m, path, p, len), 0);
	ck_assert_int_eq(vfs_sync(m), 0);
	free(p);
}

static uint64_t head_seq(struct vfs *m)
{
	struct nf_vault_status s;

	ck_assert_int_eq(vfs_refresh(m), 0);
	nf_vault_status(m->v, &s);
	return s.head_seq;
}

START_TEST(what_is_not_worth_a_commit_waits_for_more)
{
	struct nf_gc_options o = at_once(true);
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	for (uint64_t i = 0; i < 2; i++)
		put(&a, "/f", BIG, i);
	uint64_t seq = head_seq(&a);
	struct nf_gc_result r = gc(&a, &o);
	ck_assert_uint_ge(r.dead_bytes, BIG);
	ck_assert_uint_eq(head_seq(&a), seq);
	for (uint64_t i = 2; i < 4; i++)
		put(&a, "/f", BIG, i);
	seq = head_seq(&a);
	r = gc(&a, &o);
	ck_assert_uint_ge(r.dead_bytes, 3 * BIG);
	ck_assert_uint_eq(r.deleted_packs, 0);
	ck_assert_uint_eq(head_seq(&a), seq + 1);
	r = gc(&a, &o);
	ck_assert_uint_ge(r.deleted_bytes, 3 * BIG);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* Requests of an idle run of M, whose gate is G. */
static uint64_t cost(struct vfs *m, struct gate *g, const struct nf_gc_options *o, struct nf_gc_result *r)
{
	uint64_t before = atomic_load(&g->nr);

	*r = gc(m, o);
	return atomic_load(&g->nr) - before;
}

START_TEST(after_a_run_of_one_machine_the_others_wait_their_time)
{
	struct nf_gc_options asked = at_once(false), o = at_once(true);
	struct nf_gc_result r;
	struct vfs_site s;
	struct vfs b;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	struct gate *g = gate_new(vfs_store(&s));
	ck_assert_int_eq(vfs_mount_over(&s, "b", &g->base, &b), 0);
	for (uint64_t i = 0; i < 6; i++)
		put(&a, "/f", BIG, i);
	/* Nobody has collected yet: the time does not matter. */
	o.every_s = 3600;
	o.dry_run = true;
	uint64_t whole = cost(&b, g, &o, &r);
	ck_assert_uint_eq(r.not_due_s, 0);
	ck_assert_uint_ge(r.dead_bytes, 5 * BIG);
	o.dry_run = false;
	ck_assert_uint_ge(gc(&a, &asked).dead_bytes, 5 * BIG);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	uint64_t little = cost(&b, g, &o, &r);
	printf("# requests: a run %d, one that finds that another was lately %d\n", (int)whole, (int)little);
	ck_assert_uint_gt(r.not_due_s, 3500);
	ck_assert_uint_le(r.not_due_s, 3600);
	ck_assert_uint_le(little, 8);
	ck_assert_uint_gt(whole, little);
	ck_assert_uint_eq(r.deleted_packs, 0);
	/* Who was asked does not wait. */
	ck_assert_uint_ge(gc(&b, &asked).deleted_bytes, 5 * BIG);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_run_ends_at_its_bounds_and_the_next_one_goes_on_there)
{
	struct nf_gc_options o = at_once(true);
	struct nf_gc_result r;
	struct vfs_site s;
	char path[40];
	int tries = 0, e;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	for (unsigned i = 0; i < 3000; i++) {
		snprintf(path, sizeof path, "/name-of-a-file-%u", i);
		ck_assert_int_eq(vfs_puts(&a, path, "text"), 0);
	}
	for (uint64_t i = 0; i < 4; i++)
		put(&a, "/f", BIG, i);
	struct vfs b = vfs_mount(&s, "b");
	o.max_nodes = 1;
	while ((e = nf_vault_gc(b.v, &o, NULL, &r)) == -NF_E_GC_TOO_MUCH)
		ck_assert_int_lt(++tries, 100);
	ck_assert_int_eq(e, 0);
	ck_assert_int_ge(tries, 2);
	ck_assert_uint_ge(r.dead_bytes, 3 * BIG);
	o.max_nodes = 0;
	o.max_ms = 1;
	nf_clock_fake_set(nf_clock_ns());
	e = nf_vault_gc(b.v, &o, NULL, &r); /* time stands still */
	nf_clock_fake_end();
	ck_assert_int_eq(e, 0);
	vfs_unmount(&b);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(one_run_at_a_time_and_the_one_that_was_asked_for_goes_first)
{
	struct nf_gc_options o = at_once(true);
	_Atomic bool stop = true;
	struct nf_gc_result r;
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(nf_gc_take_turn(a.v, false, NULL), 0);
	ck_assert_int_eq(nf_vault_gc(a.v, &o, NULL, &r), -NF_E_CANCELLED);
	o.idle = false;
	ck_assert_int_eq(nf_vault_gc(a.v, &o, &stop, &r), -NF_E_CANCELLED);
	nf_gc_end_turn(a.v);
	ck_assert_int_eq(nf_vault_gc(a.v, &o, NULL, &r), 0);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(runs_follow_one_another_while_they_seal_again_what_is_under_older_keys)
{
	static const struct {
		struct nf_gc_result r;
		int error;
		bool before;
		uint64_t ms;
		bool reseals;
	} cases[] = {
		{ { 0 }, 0, false, 100000, false },
		{ { .old_packs = 5, .moved_bytes = 1 }, 0, false, 1000, true },
		{ { .old_packs = 5, .moved_trees = 1 }, 0, true, 1000, true },
		{ { .old_packs = 5 }, 0, true, 100000, false }, /* that cannot be read, or may not be moved */
		{ { .moved_bytes = 1 }, 0, true, 100000, false },
		{ { .not_due_s = 3 }, 0, false, 3000, false },
		{ { .not_due_s = 3000 }, 0, false, 100000, false },
		{ { 0 }, -NF_E_OFFLINE, true, 1000, true },
		{ { 0 }, -NF_E_CANCELLED, false, 1000, false },
		{ { 0 }, -NF_E_STORE_BUSY, true, 25000, true },
	};

	for (size_t i = 0; i < NF_ARRAY_LEN(cases); i++) {
		bool reseals = cases[i].before;
		uint64_t ms = nf_gc_next_ms(&cases[i].r, cases[i].error, 100000, 1000, &reseals);
		ck_assert_msg(ms == cases[i].ms && reseals == cases[i].reseals, "case %zu: %d ms, %d", i, (int)ms, reseals);
	}
}
END_TEST

static void say(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static uint64_t runs(struct vfs *m)
{
	struct nf_vault_status s;

	nf_vault_status(m->v, &s);
	return s.gc_runs;
}

START_TEST(on_battery_no_run_begins_and_off_it_one_does)
{
	enum { EVERY_MS = 400, QUIET_MS = 1500, WAIT_MS = 60000 };
	struct vfs_site s;
	char cache[200], state[200], path[300], status[300], power[200];
	struct vfs a;

	vfs_site_init(&s, "", "");
	snprintf(power, sizeof power, "%.120s/power", s.dir.path);
	ck_assert_int_eq(mkdir(power, 0700), 0);
	snprintf(path, sizeof path, "%s/BAT0", power);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	snprintf(status, sizeof status, "%s/BAT0/status", power);
	say(status, "Discharging\n");
	snprintf(path, sizeof path, "%s/BAT0/type", power);
	say(path, "Battery\n");
	struct nf_vault_options o = vfs_options(&s, "a", cache, state);
	o.no_threads = false;
	o.gc_every_ms = EVERY_MS;
	o.power_dir = power;
	ck_assert_int_eq(nf_vault_open(&o, &a.v), 0);
	a.fs = nf_vault_fs(a.v);
	for (int ms = 0; ms < QUIET_MS; ms += 100) {
		ck_assert_uint_eq(runs(&a), 0);
		(void)usleep(100 * 1000);
	}
	say(status, "Charging\n");
	int ms = 0;
	for (; runs(&a) == 0 && ms < WAIT_MS; ms += 20)
		(void)usleep(20 * 1000);
	ck_assert_uint_gt(runs(&a), 0);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "gc_idle", 120);

	tcase_add_test(tc, what_is_not_worth_a_commit_waits_for_more);
	tcase_add_test(tc, after_a_run_of_one_machine_the_others_wait_their_time);
	tcase_add_test(tc, a_run_ends_at_its_bounds_and_the_next_one_goes_on_there);
	tcase_add_test(tc, runs_follow_one_another_while_they_seal_again_what_is_under_older_keys);
	tcase_add_test(tc, on_battery_no_run_begins_and_off_it_one_does);
	tcase_add_test(tc, one_run_at_a_time_and_the_one_that_was_asked_for_goes_first);
}

NF_SUITE("vault/gc_idle")
