#include "base/clock.h"
#include "vault/head.h"
#include "world.h"

static struct nf_pack_put put_of(struct world *w, const struct iovec *iov, int nr)
{
	return (struct nf_pack_put){ .store = w->store, .iov = iov, .nr_iov = nr };
}

static uint8_t bytes[100000];
static const struct iovec two[2] = { { bytes, 70000 }, { bytes + 70000, 30000 } };

static void expect_stored(struct world *w, const struct nf_pack_id *id)
{
	static uint8_t got[sizeof bytes];
	struct nf_store_op op = { .verb = NF_STORE_GET, .buf = got, .length_bytes = sizeof got };
	nf_pack_name(id, op.name);
	ck_assert_int_eq(nf_store_run(w->store, &op), 0);
	ck_assert_uint_eq(op.size_bytes, sizeof bytes);
	ck_assert_mem_eq(got, bytes, sizeof bytes);
}

START_TEST(a_pack_is_put_once_and_its_length_confirmed)
{
	struct world w;
	world_init(&w);
	struct nf_pack_put p = put_of(&w, two, 2);

	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)(i * 7 >> 3);
	ck_assert_int_eq(nf_pack_put(&p), 0);
	ck_assert_uint_eq(world_seen(&w, NF_STORE_PUT), 1);
	ck_assert_uint_eq(world_seen(&w, NF_STORE_STAT), 1);
	expect_stored(&w, &p.id);
	world_deinit(&w);
}
END_TEST

START_TEST(an_unknown_outcome_sends_the_bytes_again_under_a_new_name)
{
	static const char *const rules[] = { "seed=3&lostreply=0.6&verbs=put", "seed=4&tornput=0.6&verbs=put",
					     "seed=5&status=503:0.6&verbs=put" };
	for (size_t i = 0; i < NF_ARRAY_LEN(rules); i++) {
		struct world w;
		world_init(&w);
		uint64_t puts = 0;
		struct nf_pack_put p = put_of(&w, two, 2);
		ck_assert_int_eq(nf_store_fault_set(w.store, rules[i]), 0);
		for (int k = 0; k < 4; k++) {
			ck_assert_int_eq(nf_pack_put(&p), 0);
			expect_stored(&w, &p.id);
		}
		puts = world_seen(&w, NF_STORE_PUT);
		ck_assert_uint_gt(puts, 4);
		world_deinit(&w);
	}
}
END_TEST

START_TEST(a_pack_cut_short_behind_a_success_is_noticed)
{
	struct world w;
	world_init(&w);
	struct nf_pack_put p = put_of(&w, two, 2);

	/* As if the server had said 201 and kept nothing. */
	p.deadline_ns = nf_clock_ns() + 300 * NF_NS_PER_MS;
	ck_assert_int_eq(nf_store_fault_set(w.store, "status=404:1&verbs=stat"), 0);
	ck_assert_int_eq(nf_pack_put(&p), -NF_E_STORE_UNKNOWN_OUTCOME);
	ck_assert_uint_gt(world_seen(&w, NF_STORE_PUT), 1);
	world_deinit(&w);
}
END_TEST

START_TEST(errors_that_waiting_does_not_help_are_told_at_once)
{
	static const struct {
		const char *rules;
		int error;
	} rows[] = { { "status=507:1&verbs=put", -NF_E_STORE_FULL },   { "status=403:1&verbs=put", -NF_E_STORE_DENIED },
		     { "status=413:1&verbs=put", -NF_E_STORE_TOO_LARGE }, { "drop=1&verbs=put", -NF_E_OFFLINE },
		     { "drop=1&verbs=stat", -NF_E_OFFLINE } };
	for (size_t i = 0; i < NF_ARRAY_LEN(rows); i++) {
		struct world w;
		world_init(&w);
		struct nf_pack_put p = put_of(&w, two, 2);
		ck_assert_int_eq(nf_store_fault_set(w.store, rows[i].rules), 0);
		ck_assert_int_eq(nf_pack_put(&p), rows[i].error);
		ck_assert_uint_eq(world_seen(&w, NF_STORE_PUT), 1);
		world_deinit(&w);
	}
}
END_TEST

START_TEST(a_stop_or_a_deadline_ends_the_retries)
{
	struct world w;
	world_init(&w);
	struct nf_pack_put p = put_of(&w, two, 2);
	_Atomic bool stop = true;

	ck_assert_int_eq(nf_store_fault_set(w.store, "status=503:1&verbs=put"), 0);
	p.stop = &stop;
	ck_assert_int_eq(nf_pack_put(&p), -NF_E_CANCELLED);
	ck_assert_uint_eq(world_seen(&w, NF_STORE_PUT), 0);
	stop = false;
	uint64_t start = nf_clock_ns();
	p.deadline_ns = start + 200 * NF_NS_PER_MS;
	ck_assert_int_eq(nf_pack_put(&p), -NF_E_STORE_BUSY);
	ck_assert_uint_lt(nf_clock_ns() - start, 5 * NF_NS_PER_S);
	world_deinit(&w);
}
END_TEST

START_TEST(a_server_that_talks_nonsense_is_given_up)
{
	struct world w;
	world_init(&w);
	struct nf_pack_put p = put_of(&w, two, 2);

	ck_assert_int_eq(nf_store_fault_set(w.store, "status=418:1&verbs=put"), 0);
	ck_assert_int_eq(nf_pack_put(&p), -NF_E_STORE_PROTOCOL);
	ck_assert_uint_eq(world_seen(&w, NF_STORE_PUT), 5);
	world_deinit(&w);
}
END_TEST

START_TEST(a_pack_over_the_limits_is_not_sent)
{
	struct world w;
	world_init(&w);
	struct nf_pack_put p = put_of(&w, two, 2);

	w.store->max_put_bytes = 99999;
	ck_assert_int_eq(nf_pack_put(&p), -NF_E_STORE_TOO_LARGE);
	w.store->max_put_bytes = 100000;
	ck_assert_int_eq(nf_pack_put(&p), 0);
	p.nr_iov = 0;
	ck_assert_int_eq(nf_pack_put(&p), -EINVAL);
	world_deinit(&w);
}
END_TEST

START_TEST(a_metadata_pack_grows_to_its_limit_and_no_further)
{
	struct world w;
	world_init(&w);
	struct nf_meta_pack m = { .codec = w.codec };
	const struct nf_seal_id delta = { .type = NF_SEAL_DELTA, .birth = 1, .index = 1 };
	nf_auto_free uint8_t *big = malloc(6 << 20);
	struct nf_ref a, b;

	nf_random(big, 6 << 20);
	ck_assert_int_eq(nf_meta_pack_add(&m, &delta, big, 6 << 20, &a), 0);
	ck_assert_int_eq(nf_meta_pack_emit(&m, 3, big, 1000, &b), 0);
	ck_assert(a.offset_bytes == 0 && b.offset_bytes == a.sealed_len && b.level == 3 && a.level == 0);
	ck_assert(nf_pack_id_is_zero(&b.pack) && b.plain_len == 1000 && m.nr_nodes == 1);
	ck_assert_int_eq(nf_meta_pack_add(&m, &delta, big, 6 << 20, &a), 0);
	ck_assert_int_eq(nf_meta_pack_add(&m, &delta, big, 6 << 20, &b), -NF_E_STORE_TOO_LARGE);
	nf_buf_deinit(&m.bytes);
	world_deinit(&w);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "pack", 60);
	tcase_add_test(tc, a_pack_is_put_once_and_its_length_confirmed);
	tcase_add_test(tc, an_unknown_outcome_sends_the_bytes_again_under_a_new_name);
	tcase_add_test(tc, a_pack_cut_short_behind_a_success_is_noticed);
	tcase_add_test(tc, errors_that_waiting_does_not_help_are_told_at_once);
	tcase_add_test(tc, a_stop_or_a_deadline_ends_the_retries);
	tcase_add_test(tc, a_server_that_talks_nonsense_is_given_up);
	tcase_add_test(tc, a_pack_over_the_limits_is_not_sent);
	tcase_add_test(tc, a_metadata_pack_grows_to_its_limit_and_no_further);
}

NF_SUITE("vault/pack")
