#include "vault/fetch.h"

#include "aio/file_crash.h"
#include "base/counter.h"
#include "world.h"

#include <pthread.h>

enum { NODES = 40, PACK_BYTES = 10 << 20 };

struct rig {
	struct world w;
	struct nf_crash *disk;
	struct nf_aio *aio;
	struct nf_cache *cache;
	struct nf_pool *pool;
	struct nf_nodes *nodes;
	struct nf_fetch *f;
	uint8_t *bytes; /* of a data pack */
	struct nf_pack_id data, meta;
	struct nf_ref refs[NODES]; /* far apart: 100 KiB of xattr value between some */
	struct nf_ref delta;
	struct nf_buf meta_bytes;
};

static void restart(struct rig *r)
{
	nf_fetch_free(r->f);
	nf_nodes_free(r->nodes);
	ck_assert_int_eq(nf_nodes_new(1 << 20, &r->nodes), 0);
	const struct nf_fetch_options o = { .store = r->w.store, .cache = r->cache, .ring = r->w.ring,
					    .nodes = r->nodes, .pool = r->pool };
	ck_assert_int_eq(nf_fetch_new(&o, &r->f), 0);
}

static void put_pack(struct rig *r, const void *p, size_t len, struct nf_pack_id *id)
{
	const struct iovec iov = { (void *)(uintptr_t)p, len };
	struct nf_pack_put put = { .store = r->w.store, .iov = &iov, .nr_iov = 1 };
	ck_assert_int_eq(nf_pack_put(&put), 0);
	*id = put.id;
}

/* Twenty nodes one after the other, then a delta of a megabyte, then twenty more. */
static void make_meta(struct rig *r)
{
	struct nf_meta_pack m = { .codec = r->w.codec };
	const struct nf_seal_id delta = { .type = NF_SEAL_DELTA, .birth = 3, .index = 5 };
	static uint8_t noise[1 << 20];

	nf_random(noise, sizeof noise);
	for (int i = 0; i < NODES; i++) {
		nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
		uint8_t key[NF_KEY_ENCODED];
		const struct nf_key k = { .ino = 1, .type = NF_ITEM_DIRENT, .a = (uint64_t)i };
		if (i == NODES / 2)
			ck_assert_int_eq(nf_meta_pack_add(&m, &delta, noise, sizeof noise, &r->delta), 0);
		nf_key_encode(&k, key);
		nf_buf_u16(&b, 0);
		nf_buf_u16(&b, 1);
		nf_buf_bytes(&b, key, sizeof key);
		nf_buf_str16(&b, noise + i, 3000);
		ck_assert_int_eq(nf_meta_pack_emit(&m, 0, b.p, b.len, &r->refs[i]), 0);
	}
	put_pack(r, m.bytes.p, m.bytes.len, &r->meta);
	for (int i = 0; i < NODES; i++)
		r->refs[i].pack = r->meta;
	r->delta.pack = r->meta;
	r->meta_bytes = m.bytes;
}

static void rig_init(struct rig *r, bool cache)
{
	*r = (struct rig){ 0 };
	world_init(&r->w);
	ck_assert_int_eq(nf_pool_new("open", 2, 0, &r->pool), 0);
	if (cache) {
		ck_assert_int_eq(nf_crash_new(&r->disk), 0);
		ck_assert_int_eq(nf_aio_new(8, &r->aio), 0);
		const struct nf_cache_options o = { .dir = "/c", .size_limit_bytes = 1 << 30, .aio = r->aio,
						    .files = nf_crash_ops(r->disk) };
		ck_assert_int_eq(nf_cache_open(&o, &r->cache), 0);
	}
	r->bytes = malloc(PACK_BYTES);
	nf_random(r->bytes, PACK_BYTES);
	put_pack(r, r->bytes, PACK_BYTES - 100, &r->data);
	make_meta(r);
	restart(r);
}

static void rig_deinit(struct rig *r)
{
	nf_fetch_free(r->f);
	nf_cache_close(r->cache);
	nf_aio_free(r->aio);
	if (r->disk)
		nf_crash_free(r->disk);
	nf_nodes_free(r->nodes);
	nf_pool_free(r->pool);
	nf_buf_deinit(&r->meta_bytes);
	free(r->bytes);
	world_deinit(&r->w);
}

struct call {
	struct nf_fetch_io io;
	struct nf_completion c;
};

static void call_done(struct nf_fetch_io *io) { nf_completion_set(&nf_container_of(io, struct call, io)->c); }

static void begin(struct rig *r, struct call *c, uint32_t offset, uint32_t len)
{
	c->io = (struct nf_fetch_io){ .pack = r->data, .offset_bytes = offset, .len_bytes = len, .buf = malloc(len),
				      .priority = NF_STORE_NORMAL, .done = call_done };
	ck_assert_int_eq(nf_completion_init(&c->c), 0);
	nf_fetch_submit(r->f, &c->io);
}

/* In memory of the fetcher's. */
static void begin_loan(struct rig *r, struct call *c, uint32_t offset, uint32_t len, uint32_t more)
{
	c->io = (struct nf_fetch_io){ .pack = r->data, .offset_bytes = offset, .len_bytes = len, .lend = true,
				      .more_bytes = more, .priority = NF_STORE_NORMAL, .done = call_done };
	ck_assert_int_eq(nf_completion_init(&c->c), 0);
	nf_fetch_submit(r->f, &c->io);
}

static int end(struct rig *r, struct call *c)
{
	nf_completion_wait(&c->c);
	nf_completion_deinit(&c->c);
	if (c->io.error == 0)
		ck_assert_mem_eq(c->io.lend ? c->io.lent.bytes : c->io.buf, r->bytes + c->io.offset_bytes,
				 c->io.len_bytes);
	else
		ck_assert_ptr_null(c->io.lent.bytes);
	nf_fetch_give_back(r->f, &c->io.lent);
	free(c->io.buf);
	return c->io.error;
}

static int get(struct rig *r, uint32_t offset, uint32_t len)
{
	struct call c;
	begin(r, &c, offset, len);
	return end(r, &c);
}

static int load(struct rig *r, size_t first, size_t nr)
{
	struct nf_want w = NF_WANT_INIT;
	memcpy(w.refs, r->refs + first, nr * sizeof *w.refs);
	w.nr = nr;
	int e = nf_fetch_load(r->f, &w);
	for (size_t i = 0; e == 0 && i < nr; i++)
		ck_assert(nf_nodes_has(r->nodes, &w.refs[i]));
	return e;
}

static uint64_t gets(struct rig *r) { return world_seen(&r->w, NF_STORE_GET); }

START_TEST(any_range_comes_as_it_was_put)
{
	for (int cache = 0; cache < 2; cache++) {
		struct rig r;
		struct nf_prng p;
		rig_init(&r, cache);
		nf_prng_seed(&p, 42);
		for (int i = 0; i < 60; i++) {
			uint32_t at = (uint32_t)nf_prng_below(&p, PACK_BYTES - 101);
			uint32_t len = 1 + (uint32_t)nf_prng_below(&p, NF_MIN(200000u, PACK_BYTES - 100u - at));
			ck_assert_int_eq(get(&r, at, len), 0);
		}
		ck_assert_int_eq(get(&r, 0, PACK_BYTES - 100), 0);
		ck_assert_int_eq(get(&r, PACK_BYTES - 200, 200), -NF_E_XFORM_TRUNCATED);
		rig_deinit(&r);
	}
}
END_TEST

START_TEST(what_ends_before_what_is_known_to_be_there_is_not_cached)
{
	struct rig r;
	char name[NF_STORE_NAME_MAX];

	rig_init(&r, true);
	nf_pack_name(&r.data, name);
	ck_assert_int_eq(world_delete(&r.w, name), 0);
	ck_assert_int_eq(world_put(&r.w, name, "Accept the terms to go on", 25), 0);
	ck_assert_int_eq(get(&r, 0, 5000), -NF_E_XFORM_TRUNCATED);
	/* The pack itself again: it is fetched, and is in the cache then. */
	ck_assert_int_eq(world_delete(&r.w, name), 0);
	ck_assert_int_eq(world_put(&r.w, name, r.bytes, PACK_BYTES - 100), 0);
	ck_assert_int_eq(get(&r, 0, 5000), 0);
	restart(&r); /* waits for the cache */
	ck_assert_uint_ge(nf_cache_present(r.cache, &r.data, 0, 5000), 5000);
	rig_deinit(&r);
}
END_TEST

START_TEST(fetches_of_one_range_at_a_time_make_one_get)
{
	struct rig r;
	struct call c[6];
	rig_init(&r, false);
	uint64_t before = gets(&r);

	ck_assert_int_eq(nf_store_fault_hold(r.w.store, "get:*"), 0);
	begin(&r, &c[0], 10000, 50000);
	begin(&r, &c[1], 10000, 50000);
	begin(&r, &c[2], 20000, 100);
	ck_assert_uint_eq(gets(&r), before + 1);
	begin(&r, &c[3], 40000, 40000); /* half of it is new */
	ck_assert_uint_eq(gets(&r), before + 2);
	nf_store_fault_release(r.w.store);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(end(&r, &c[i]), 0);
	ck_assert_uint_eq(gets(&r), before + 2);
	rig_deinit(&r);
}
END_TEST

START_TEST(queued_gets_grow_by_what_is_adjacent)
{
	enum { GETS = 16, PIECES = 100 };
	struct rig r;
	static struct call first[GETS], c[PIECES];
	rig_init(&r, false);
	uint64_t before = gets(&r);

	ck_assert_int_eq(nf_store_fault_hold(r.w.store, "get:*"), 0);
	for (uint32_t i = 0; i < GETS; i++)
		begin(&r, &first[i], (6u << 20) + i * 65536, 4096);
	for (uint32_t i = 0; i < PIECES; i++) /* forwards, then backwards */
		begin(&r, &c[i], (i < 50 ? i : 149 - i) * 4096, 4096);
	nf_store_fault_release(r.w.store);
	for (int i = 0; i < GETS; i++)
		ck_assert_int_eq(end(&r, &first[i]), 0);
	for (int i = 0; i < PIECES; i++)
		ck_assert_int_eq(end(&r, &c[i]), 0);
	ck_assert_uint_le(gets(&r), before + GETS + 2);
	rig_deinit(&r);
}
END_TEST

START_TEST(what_is_asked_for_at_once_comes_by_one_get_and_without_a_copy)
{
	enum { LEN = 100000, NR = 8 };

	for (int cache = 0; cache < 2; cache++) {
		struct rig r;
		struct call c[NR], across, late;
		rig_init(&r, cache);
		uint64_t before = gets(&r);
		ck_assert_int_eq(nf_store_fault_hold(r.w.store, "get:*"), 0);
		for (uint32_t i = 0; i < NR; i++)
			begin_loan(&r, &c[i], 5000 + i * LEN, LEN, (NR - 1 - i) * LEN);
		ck_assert_uint_eq(gets(&r), before + 1);
		begin_loan(&r, &across, 5000 + NR * LEN - 10, LEN, 0); /* of two gets: put together */
		ck_assert_uint_eq(gets(&r), before + 2);
		nf_store_fault_release(r.w.store);
		for (int i = 0; i < NR; i++)
			nf_completion_wait(&c[i].c);
		for (int i = 1; i < NR; i++)
			ck_assert_ptr_eq((uint8_t *)c[i].io.lent.bytes, (uint8_t *)c[0].io.lent.bytes + i * LEN);
		/* A loan outlives everything that was fetched meanwhile. */
		ck_assert_int_eq(get(&r, 3 << 20, 5 << 20), 0);
		ck_assert_int_eq(end(&r, &across), 0);
		for (int i = 0; i < NR; i++)
			ck_assert_int_eq(end(&r, &c[i]), 0);
		restart(&r);
		/* What is behind is in the cache: it is not fetched again. */
		before = nf_counter_get(NF_C_CACHE_STORE_BYTES);
		begin_loan(&r, &late, 0, 4096, 2 * LEN);
		ck_assert_int_eq(end(&r, &late), 0);
		restart(&r);
		ck_assert_uint_eq(nf_counter_get(NF_C_CACHE_STORE_BYTES) - before, cache ? 4096 : 0);
		rig_deinit(&r);
	}
}
END_TEST

START_TEST(what_was_fetched_is_in_the_cache_and_a_missing_pack_is_told)
{
	struct rig r;
	struct call c;
	char name[64];
	rig_init(&r, true);

	ck_assert_int_eq(get(&r, 5000, 5000), 0);
	restart(&r); /* waits for the insert */
	uint64_t before = gets(&r);
	begin(&r, &c, 4096, 8192 - 4096);
	ck_assert_int_eq(end(&r, &c), 0);
	ck_assert(c.io.from_cache);
	ck_assert_uint_eq(gets(&r), before);
	nf_pack_name(&r.data, name);
	ck_assert_int_eq(world_delete(&r.w, name), 0);
	ck_assert_int_eq(get(&r, 5000, 3000), 0);
	ck_assert_int_eq(get(&r, 500000, 3000), -NF_E_PACK_MISSING);
	rig_deinit(&r);
}
END_TEST

START_TEST(a_cancelled_fetch_ends_unless_others_wait_for_its_bytes)
{
	struct rig r;
	struct call a, b;
	rig_init(&r, false);

	ck_assert_int_eq(nf_store_fault_hold(r.w.store, "get:*"), 0);
	begin(&r, &a, 0, 4096);
	nf_fetch_cancel(r.f, &a.io);
	ck_assert_int_eq(end(&r, &a), -NF_E_CANCELLED);
	begin(&r, &a, 8192, 4096);
	begin(&r, &b, 8192, 4096);
	nf_fetch_cancel(r.f, &a.io);
	ck_assert_int_eq(end(&r, &a), -NF_E_CANCELLED);
	nf_store_fault_release(r.w.store);
	ck_assert_int_eq(end(&r, &b), 0);
	ck_assert_int_eq(get(&r, 0, 4096), 0);
	rig_deinit(&r);
}
END_TEST

START_TEST(nodes_near_one_another_come_by_one_get_and_their_neighbours_by_none)
{
	for (int cache = 0; cache < 2; cache++) {
		struct rig r;
		rig_init(&r, cache);
		uint64_t before = gets(&r);
		ck_assert_int_eq(load(&r, 0, 5), 0);
		ck_assert_uint_eq(gets(&r), before + 1);
		ck_assert_int_eq(load(&r, 5, 10), 0); /* read around */
		ck_assert_uint_eq(gets(&r), before + 1);
		ck_assert_int_eq(load(&r, 0, NODES), 0); /* the second half is a megabyte away */
		ck_assert_uint_le(gets(&r), before + 3);
		rig_deinit(&r);
	}
}
END_TEST

static void nodes_done(struct nf_fetch_nodes *fn) { nf_completion_set(fn->ctx); }

START_TEST(nodes_come_without_blocking_and_a_warmed_range_needs_no_request)
{
	for (int cache = 0; cache < 2; cache++) {
		struct rig r;
		struct nf_completion c;
		rig_init(&r, cache);
		ck_assert_int_eq(nf_fetch_warm(r.f, &r.meta, 0, (uint32_t)r.meta_bytes.len), 0);
		uint64_t before = gets(&r);
		struct nf_fetch_nodes fn = { .nr = NODES, .done = nodes_done, .ctx = &c };
		memcpy(fn.refs, r.refs, sizeof r.refs);
		ck_assert_int_eq(nf_completion_init(&c), 0);
		nf_fetch_nodes(r.f, &fn);
		nf_completion_wait(&c);
		nf_completion_deinit(&c);
		ck_assert_int_eq(fn.error, 0);
		ck_assert_uint_eq(gets(&r), before);
		rig_deinit(&r);
	}
}
END_TEST

static void flip_store(struct rig *r, const struct nf_ref *ref)
{
	char name[64];
	nf_pack_name(&r->meta, name);
	r->meta_bytes.p[ref->offset_bytes + 30] ^= 4;
	ck_assert_int_eq(world_put(&r->w, name, r->meta_bytes.p, r->meta_bytes.len), 0);
}

START_TEST(a_bad_node_in_the_cache_is_healed_from_the_store_and_one_of_the_store_is_an_error)
{
	struct rig r;
	rig_init(&r, true);
	uint64_t cache_bad = nf_counter_get(NF_C_CACHE_BAD), store_bad = nf_counter_get(NF_C_STORE_BAD);

	flip_store(&r, &r.refs[3]);
	ck_assert_int_eq(load(&r, 3, 1), -NF_E_XFORM_BAD_TAG);
	ck_assert_uint_eq(nf_counter_get(NF_C_STORE_BAD), store_bad + 1);
	restart(&r);
	ck_assert_int_eq(load(&r, 0, 3), 0); /* its neighbours are not harmed */
	/* The bad bytes may have got into the cache: put good ones on the store. */
	flip_store(&r, &r.refs[3]);
	ck_assert_int_eq(load(&r, 3, 1), 0);
	/* Now bad bytes in the cache on purpose. */
	restart(&r);
	flip_store(&r, &r.refs[NODES - 1]);
	ck_assert_int_eq(nf_fetch_warm(r.f, &r.meta, 0, (uint32_t)r.meta_bytes.len), 0);
	restart(&r);
	flip_store(&r, &r.refs[NODES - 1]);
	ck_assert_int_eq(load(&r, NODES - 1, 1), 0);
	ck_assert_uint_gt(nf_counter_get(NF_C_CACHE_BAD), cache_bad);
	rig_deinit(&r);
}
END_TEST

START_TEST(a_reference_to_an_object_of_another_type_or_another_version_is_refused)
{
	for (int cache = 0; cache < 2; cache++) {
		struct rig r;
		void *out;
		size_t len;
		rig_init(&r, cache);
		const struct nf_seal_id good = { .type = NF_SEAL_DELTA, .birth = 3, .index = 5 };
		ck_assert_int_eq(nf_fetch_blob(r.f, &r.delta, &good, &out, &len), 0);
		ck_assert_uint_eq(len, 1 << 20);
		free(out);
		struct nf_seal_id bad = good;
		bad.birth = 4;
		ck_assert_int_eq(nf_fetch_blob(r.f, &r.delta, &bad, &out, &len), -NF_E_XFORM_BAD_TAG);
		bad = good;
		bad.type = NF_SEAL_XATTR;
		ck_assert_int_lt(nf_fetch_blob(r.f, &r.refs[0], &bad, &out, &len), 0);
		bad.type = NF_SEAL_NODE;
		ck_assert_int_eq(nf_fetch_blob(r.f, &r.refs[0], &bad, &out, &len), -EINVAL);
		struct nf_ref keep = r.refs[0];
		r.refs[0].level = 1;
		ck_assert_int_eq(load(&r, 0, 1), -NF_E_XFORM_BAD_TAG);
		r.refs[0] = keep;
		r.refs[0].tag[0] ^= 1;
		ck_assert_int_eq(load(&r, 0, 1), -NF_E_XFORM_BAD_TAG);
		r.refs[0] = r.delta; /* too long for a node, refused unread */
		ck_assert_int_eq(load(&r, 0, 1), -NF_E_FORMAT_BAD);
		r.refs[0] = keep;
		ck_assert_int_eq(load(&r, 0, 1), 0);
		rig_deinit(&r);
	}
}
END_TEST

struct reader {
	pthread_t t;
	struct rig *r;
	uint64_t seed;
};

static void *reader_run(void *arg)
{
	struct reader *rd = arg;
	struct nf_prng p;

	nf_prng_seed(&p, rd->seed);
	for (int i = 0; i < 60; i++) {
		struct call c;
		uint32_t at = (uint32_t)nf_prng_below(&p, 40) * 5000, len = 1 + (uint32_t)nf_prng_below(&p, 100000);
		if (nf_prng_below(&p, 2))
			begin(rd->r, &c, at, len);
		else
			begin_loan(rd->r, &c, at, len, (uint32_t)nf_prng_below(&p, 300000));
		if (nf_prng_below(&p, 4) == 0)
			nf_fetch_cancel(rd->r->f, &c.io);
		int e = end(rd->r, &c);
		ck_assert(e == 0 || e == -NF_E_CANCELLED);
		ck_assert_int_eq(load(rd->r, nf_prng_below(&p, NODES - 4), 4), 0);
	}
	return NULL;
}

START_TEST(many_threads_fetch_and_cancel_side_by_side)
{
	for (int cache = 0; cache < 2; cache++) {
		struct rig r;
		struct reader rd[4];
		rig_init(&r, cache);
		for (int i = 0; i < 4; i++) {
			rd[i] = (struct reader){ .r = &r, .seed = (uint64_t)i };
			ck_assert_int_eq(pthread_create(&rd[i].t, NULL, reader_run, &rd[i]), 0);
		}
		for (int i = 0; i < 4; i++)
			pthread_join(rd[i].t, NULL);
		rig_deinit(&r);
	}
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "fetch", 60);
	tcase_add_test(tc, any_range_comes_as_it_was_put);
	tcase_add_test(tc, what_ends_before_what_is_known_to_be_there_is_not_cached);
	tcase_add_test(tc, fetches_of_one_range_at_a_time_make_one_get);
	tcase_add_test(tc, queued_gets_grow_by_what_is_adjacent);
	tcase_add_test(tc, what_is_asked_for_at_once_comes_by_one_get_and_without_a_copy);
	tcase_add_test(tc, what_was_fetched_is_in_the_cache_and_a_missing_pack_is_told);
	tcase_add_test(tc, a_cancelled_fetch_ends_unless_others_wait_for_its_bytes);
	tcase_add_test(tc, nodes_near_one_another_come_by_one_get_and_their_neighbours_by_none);
	tcase_add_test(tc, nodes_come_without_blocking_and_a_warmed_range_needs_no_request);
	tcase_add_test(tc, a_bad_node_in_the_cache_is_healed_from_the_store_and_one_of_the_store_is_an_error);
	tcase_add_test(tc, a_reference_to_an_object_of_another_type_or_another_version_is_refused);
	tcase_add_test(tc, many_threads_fetch_and_cancel_side_by_side);
}

NF_SUITE("vault/fetch")
