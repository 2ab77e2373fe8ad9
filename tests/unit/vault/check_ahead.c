/* What is sent before the commit that names it: it is not sent twice, and whatever happens between costs bytes and nothing
 * else. */
#include "base/counter.h"
#include "base/random.h"
#include "store/fault.h"
#include "vfs.h"
#include "vault/commit.h"
#include "vault/run.h"
#include "vault/upload.h"

#include <pthread.h>
#include <unistd.h>

enum { MIB = 1 << 20, SIZE = 6 * MIB };

static char *noise(size_t len, uint64_t seed)
{
	struct nf_prng p;
	char *b = malloc(len);

	nf_prng_seed(&p, seed);
	for (size_t i = 0; i + 8 <= len; i += 8)
		nf_put_le64((uint8_t *)b + i, nf_prng_next(&p));
	return b;
}

struct stored {
	uint64_t packs, bytes;
};

static struct stored stored(const struct vfs_site *s)
{
	struct nf_store_op top = { .verb = NF_STORE_LIST, .name = "packs" };
	struct stored n = { 0 };

	ck_assert_int_eq(nf_store_run(s->keep, &top), 0);
	for (size_t i = 0; i < top.nr_entries; i++) {
		struct nf_store_op op = { .verb = NF_STORE_LIST };
		snprintf(op.name, sizeof op.name, "packs/%.40s", top.entries[i].name);
		ck_assert_int_eq(nf_store_run(s->keep, &op), 0);
		for (size_t k = 0; k < op.nr_entries; k++)
			n.bytes += op.entries[k].size_bytes;
		n.packs += op.nr_entries;
		nf_store_op_deinit(&op);
	}
	nf_store_op_deinit(&top);
	return n;
}

static struct vfs mount_with(const struct vfs_site *s, const char *name, bool threads, struct nf_store *store)
{
	char cache[200], state[200];
	struct nf_vault_options o = vfs_options(s, name, cache, state);
	struct vfs m;

	if (store) {
		nf_store_free(o.store);
		o.store = store;
	}
	o.ahead_bytes = MIB;
	o.no_threads = !threads;
	ck_assert_int_eq(nf_vault_open(&o, &m.v), 0);
	atomic_store(&m.v->store->max_put_bytes, MIB);
	m.fs = nf_vault_fs(m.v);
	return m;
}

static struct vfs mount(const struct vfs_site *s, const char *name) { return mount_with(s, name, false, NULL); }

/* In the journal, and in no operation or in one of the current epoch. */
static void write_stored(struct vfs *m, const char *path, const void *p, size_t len)
{
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_put(m, path, p, len), 0);
	ck_assert_int_eq(vfs_open(m, path, O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_fsync(m, f, ino), 0);
	vfs_close(m, f, ino);
}

/* All of it that makes whole packs. */
static void send_ahead(struct vfs *m)
{

	ck_assert_int_eq(nf_ahead_turn(m->v), 0);
	/* What is under way arrives. */
	nf_upload_begin(m->v, true);
	ck_assert_int_eq(nf_upload_end(m->v, 0), 0);
}

static void seen_by_another(const struct vfs_site *s, const char *path, const void *p, size_t len)
{
	struct vfs b = vfs_mount(s, "another");

	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_check(&b, path, p, len), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&b);
}

static struct nf_gc_result collect(struct vfs *m)
{
	struct nf_gc_options o;
	struct nf_gc_result r;

	nf_gc_defaults(&o);
	o.grace_s = 0;
	o.keep_heads = 1;
	o.keep_days = o.lease_days = 0;
	o.repack_percent = 0;
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(nf_vault_gc(m->v, &o, NULL, &r), 0);
	return r;
}

START_TEST(the_commit_sends_only_what_was_not_sent_ahead)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = mount(&s, "a");
	char *want = noise(SIZE, 1);
	uint64_t early = nf_counter_get(NF_C_EARLY_BYTES), wasted = nf_counter_get(NF_C_EARLY_WASTED_BYTES);
	struct stored before = stored(&s);

	write_stored(&a, "/f", want, SIZE);
	send_ahead(&a);
	struct stored ahead = stored(&s);
	ck_assert_uint_ge(ahead.bytes - before.bytes, SIZE - MIB);
	ck_assert_uint_ge(nf_counter_get(NF_C_EARLY_BYTES) - early, SIZE - MIB);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct stored after = stored(&s);
	ck_assert_uint_lt(after.bytes - before.bytes, SIZE + SIZE / 32);
	ck_assert_uint_le(after.packs - ahead.packs, 2);
	seen_by_another(&s, "/f", want, SIZE);
	/* The next commit finds nothing left of it. */
	ck_assert_int_eq(vfs_puts(&a, "/small", "small"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_lt(stored(&s).bytes - after.bytes, SIZE / 32);
	vfs_unmount(&a);
	ck_assert_uint_eq(nf_counter_get(NF_C_EARLY_WASTED_BYTES), wasted);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(small_files_and_short_ones_are_not_sent_ahead)
{
	struct vfs_site s;
	char path[40];
	vfs_site_init(&s, "", "");
	struct vfs a = mount(&s, "a");
	char *want = noise(SIZE, 1);
	struct stored before = stored(&s);

	for (int i = 0; i < 12; i++) {
		snprintf(path, sizeof path, "/f%d", i);
		write_stored(&a, path, want + i * 100000, 500000);
	}
	send_ahead(&a);
	ck_assert_uint_eq(stored(&s).packs, before.packs);
	/* With sync=manual nothing goes unasked. */
	a.v->manual = true;
	write_stored(&a, "/stream", want, SIZE);
	send_ahead(&a);
	ck_assert_uint_eq(stored(&s).packs, before.packs);
	/* In the cut all of it counts. */
	ck_assert_int_eq(nf_cut(a.v), 1);
	send_ahead(&a);
	ck_assert_int_eq(nf_cut_drain(a.v), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	seen_by_another(&s, "/stream", want, SIZE);
	vfs_unmount(&a);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* The machine stops as it is; what its disk holds goes on under another name. */
static void crash(struct vfs_site *s, struct vfs *m, const char *name, const char *next)
{
	char cmd[900];
	const char *t = s->dir.path;

	snprintf(cmd, sizeof cmd, "cp -a '%s/%s-state' '%s/%s-state' && cp -a '%s/%s-cache' '%s/%s-cache'", t, name, t, next,
		 t, name, t, next);
	ck_assert_int_eq(system(cmd), 0);
	vfs_unmount(m);
	*m = mount(s, next);
}

START_TEST(after_a_crash_it_is_sent_again_and_the_first_copy_is_litter)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = mount(&s, "a");
	char *want = noise(SIZE, 2);

	write_stored(&a, "/f", want, SIZE);
	send_ahead(&a);
	crash(&s, &a, "a", "a1");
	ck_assert_int_eq(vfs_sync(&a), 0);
	seen_by_another(&s, "/f", want, SIZE);
	struct stored both = stored(&s);
	ck_assert_uint_ge(both.bytes, 2 * SIZE - 2 * MIB);
	(void)collect(&a);
	ck_assert_uint_lt(stored(&s).bytes, SIZE + MIB);
	seen_by_another(&s, "/f", want, SIZE);
	vfs_unmount(&a);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

/* _i: 0 overwritten, 1 removed. */
START_TEST(what_dies_before_the_commit_is_counted_and_collected)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = mount(&s, "a");
	char *first = noise(SIZE, 3), *want = noise(SIZE, 4);
	uint64_t wasted = nf_counter_get(NF_C_EARLY_WASTED_BYTES);

	write_stored(&a, "/f", first, SIZE);
	send_ahead(&a);
	if (_i) {
		ck_assert_int_eq(vfs_unlink(&a, "/f", false), 0);
		ck_assert_int_eq(vfs_puts(&a, "/g", "g"), 0);
	} else {
		write_stored(&a, "/f", want, SIZE);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	/* Another commit: what it was in the journal goes with that. */
	ck_assert_int_eq(vfs_puts(&a, "/h", "h"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_uint_ge(nf_counter_get(NF_C_EARLY_WASTED_BYTES) - wasted, SIZE - MIB);
	(void)collect(&a);
	ck_assert_uint_lt(stored(&s).bytes, (_i ? 0 : SIZE) + MIB);
	if (_i)
		seen_by_another(&s, "/g", "g", 1);
	else
		seen_by_another(&s, "/f", want, SIZE);
	vfs_unmount(&a);
	free(first);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(whoever_sends_much_in_vain_sends_nothing_ahead_any_more)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = mount(&s, "a");
	char *want = noise(SIZE, 5);
	struct stored before = stored(&s);

	a.v->ahead_sent_bytes = UINT64_C(200) << 20;
	a.v->ahead_wasted_bytes = UINT64_C(100) << 20;
	write_stored(&a, "/f", want, SIZE);
	send_ahead(&a);
	ck_assert_uint_eq(stored(&s).packs, before.packs);
	ck_assert_int_eq(vfs_sync(&a), 0);
	seen_by_another(&s, "/f", want, SIZE);
	vfs_unmount(&a);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_server_that_goes_away_in_between_loses_nothing)
{
	struct vfs_site s;
	struct nf_store *fault;
	vfs_site_init(&s, "", "");
	ck_assert_int_eq(nf_store_fault_new(vfs_store(&s), "", &fault), 0);
	struct vfs a = mount_with(&s, "a", false, fault);
	char *want = noise(SIZE, 6), *more = noise(SIZE, 7);

	write_stored(&a, "/f", want, SIZE);
	nf_store_fault_set_offline(fault, true);
	(void)nf_ahead_turn(a.v); /* what goes wrong in the background may be seen later */
	nf_upload_begin(a.v, true);
	(void)nf_upload_end(a.v, 0);
	struct stored none = stored(&s);
	write_stored(&a, "/g", more, SIZE);
	(void)nf_ahead_turn(a.v);
	nf_upload_begin(a.v, true);
	(void)nf_upload_end(a.v, 0);
	ck_assert_uint_eq(stored(&s).packs, none.packs);
	ck_assert_int_lt(vfs_sync(&a), 0);
	nf_store_fault_set_offline(fault, false);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert(!a.v->ahead_failed);
	seen_by_another(&s, "/f", want, SIZE);
	seen_by_another(&s, "/g", more, SIZE);
	vfs_unmount(&a);
	free(want);
	free(more);
	vfs_site_deinit(&s);
}
END_TEST

/* _i: 0 as it is, 1 long after: then they are asked for before the head. */
START_TEST(packs_that_a_collector_takes_before_the_commit_are_sent_again)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = mount(&s, "a"), b = vfs_mount(&s, "b");
	char *want = noise(SIZE, 8);

	ck_assert_int_eq(vfs_puts(&a, "/first", "first"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	struct stored before = stored(&s);
	write_stored(&a, "/f", want, SIZE);
	send_ahead(&a);
	ck_assert_uint_gt(stored(&s).packs, before.packs + 3);
	(void)collect(&b);
	ck_assert_uint_lt(stored(&s).bytes, MIB);
	if (_i) {
		nf_lock_take(&a.v->ns);
		for (struct nf_pack_entry *e = nf_pack_set_first(&a.v->sent); e; e = nf_pack_set_next(e))
			e->mtime_s -= 10000;
		nf_lock_drop(&a.v->ns);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(a.v->repair_seq != 0, !_i); /* by the second check, or by the first (G5, G6) */
	seen_by_another(&s, "/f", want, SIZE);
	(void)collect(&b);
	seen_by_another(&s, "/f", want, SIZE);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(two_who_sent_ahead_make_a_fork_and_both_are_kept)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = mount(&s, "a"), b = mount(&s, "b");
	char *mine = noise(SIZE, 9), *yours = noise(SIZE, 10);
	struct nf_head sent;

	write_stored(&a, "/mine", mine, SIZE);
	write_stored(&b, "/yours", yours, SIZE);
	send_ahead(&a);
	send_ahead(&b);
	/* Both publish on the same base. */
	ck_assert_int_eq(nf_cut(a.v), 1);
	ck_assert_int_eq(nf_cut_drain(a.v), 0);
	ck_assert_int_eq(nf_cut(b.v), 1);
	ck_assert_int_eq(nf_cut_drain(b.v), 0);
	const struct nf_head *leaf = &a.v->base;
	ck_assert_int_eq(nf_publish(a.v, &leaf, 1, &sent), 0);
	nf_head_deinit(&sent);
	leaf = &b.v->base;
	ck_assert_int_eq(nf_publish(b.v, &leaf, 1, &sent), 0);
	nf_head_deinit(&sent);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(vfs_check(&a, "/yours", yours, SIZE), 0);
	ck_assert_int_eq(vfs_check(&b, "/mine", mine, SIZE), 0);
	seen_by_another(&s, "/mine", mine, SIZE);
	ck_assert_uint_lt(stored(&s).bytes, 2 * (SIZE + SIZE / 16));
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(mine);
	free(yours);
	vfs_site_deinit(&s);
}
END_TEST

/* Sent while the dot before is still on its way: that dot's report does not make it forgotten (G4). */
START_TEST(what_is_for_the_next_dot_is_watched_until_that_is_reported)
{
	struct vfs_site s;
	vfs_site_init(&s, "", "");
	struct vfs a = mount(&s, "a"), b = vfs_mount(&s, "b");
	char *want = noise(SIZE, 11);

	ck_assert_int_eq(vfs_puts(&a, "/first", "first"), 0);
	ck_assert_int_eq(nf_cut(a.v), 1);
	ck_assert_int_eq(nf_cut_drain(a.v), 0);
	write_stored(&a, "/f", want, SIZE);
	send_ahead(&a);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(nf_commit_turn(a.v, false), 0);
	ck_assert_ptr_null(a.v->frozen);
	ck_assert_uint_eq(a.v->named.nr, 0);
	ck_assert_uint_gt(a.v->sent.nr, 3);
	ck_assert_int_eq(vfs_refresh(&b), 0);
	(void)collect(&b);
	ck_assert_int_eq(vfs_sync(&a), 0);
	seen_by_another(&s, "/f", want, SIZE);
	(void)collect(&b);
	seen_by_another(&s, "/f", want, SIZE);
	vfs_unmount(&a);
	vfs_unmount(&b);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

struct copier {
	struct vfs *m;
	int nr;
	const char *data;
};

static void *copy_in(void *arg)
{
	struct copier *c = arg;
	char path[40];

	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof path, "/f%d.%d", c->nr, i % 3);
		ck_assert_int_eq(vfs_put(c->m, path, c->data + c->nr * 4096 + i * 8192, 4 * MIB), 0);
	}
	return NULL;
}

/* With the threads of a mount: writers, who send ahead, commits, all at once; one file is written twice. */
START_TEST(sending_ahead_and_committing_side_by_side)
{
	struct vfs_site s;
	char path[40];
	vfs_site_init(&s, "", "");
	struct vfs a = mount_with(&s, "a", true, NULL);
	char *data = noise(SIZE, 12);
	struct copier c[2] = { { &a, 0, data }, { &a, 1, data } };
	pthread_t t[2];

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, copy_in, &c[i]), 0);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(vfs_sync(&a), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct vfs b = vfs_mount(&s, "b");
	for (int n = 0; n < 2; n++) {
		for (int i = 1; i < 4; i++) {
			snprintf(path, sizeof path, "/f%d.%d", n, i % 3);
			ck_assert_int_eq(vfs_check(&b, path, data + n * 4096 + i * 8192, 4 * MIB), 0);
		}
	}
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&b);
	vfs_unmount(&a);
	free(data);
	vfs_site_deinit(&s);
}
END_TEST

/* They read the journal and fill the cache. */
START_TEST(an_unmount_waits_for_packs_that_are_under_way)
{
	struct vfs_site s;
	struct nf_store *slow;
	vfs_site_init(&s, "", "");
	char *want = noise(SIZE, 13);

	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(nf_store_fault_new(vfs_store(&s), "delay=150&verbs=put", &slow), 0);
		struct vfs a = mount_with(&s, "a", true, slow);
		want[i] ^= 1;
		write_stored(&a, i % 2 ? "/f" : "/g", want, SIZE);
		if (i < 2)
			usleep(20000);
		vfs_unmount(&a);
	}
	struct vfs a = mount(&s, "a");
	ck_assert_int_eq(vfs_sync(&a), 0);
	seen_by_another(&s, "/f", want, SIZE);
	vfs_unmount(&a);
	free(want);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "ahead", 60);
	tcase_add_test(tc, the_commit_sends_only_what_was_not_sent_ahead);
	tcase_add_test(tc, small_files_and_short_ones_are_not_sent_ahead);
	tcase_add_test(tc, after_a_crash_it_is_sent_again_and_the_first_copy_is_litter);
	tcase_add_loop_test(tc, what_dies_before_the_commit_is_counted_and_collected, 0, 2);
	tcase_add_test(tc, whoever_sends_much_in_vain_sends_nothing_ahead_any_more);
	tcase_add_test(tc, a_server_that_goes_away_in_between_loses_nothing);
	tcase_add_loop_test(tc, packs_that_a_collector_takes_before_the_commit_are_sent_again, 0, 2);
	tcase_add_test(tc, two_who_sent_ahead_make_a_fork_and_both_are_kept);
	tcase_add_test(tc, what_is_for_the_next_dot_is_watched_until_that_is_reported);
	tcase_add_test(tc, sending_ahead_and_committing_side_by_side);
	tcase_add_test(tc, an_unmount_waits_for_packs_that_are_under_way);
}

NF_SUITE("vault/ahead")
