/* Headers on a store, over a store of this file's own: a table of names in memory whose
 * failures are set by hand.  nf_store_run() and nf_store_op_deinit() are defined here so
 * that no thread and no queue stands between. */
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "suite.h"
#include "vault/header_store.h"

#include <stdio.h>
#include <string.h>

enum { OBJECTS_MAX = 64 };

static struct object {
	char name[NF_STORE_NAME_MAX];
	uint8_t *p;
	size_t len;
} objects[OBJECTS_MAX];
static size_t nr_objects;
static int put_errors[4]; /* of the next PUTs, in order */
static bool keep_failed_put;
static bool corrupt_put;
static int get_error;
static int gets;
static struct nf_store store;

static struct object *find(const char *name)
{
	for (size_t i = 0; i < nr_objects; i++)
		if (strcmp(objects[i].name, name) == 0)
			return &objects[i];
	return NULL;
}

static void place(const char *name, const void *p, size_t len)
{
	struct object *o = find(name);

	if (!o) {
		ck_assert_uint_lt(nr_objects, OBJECTS_MAX);
		o = &objects[nr_objects++];
		*o = (struct object){ .name = "" };
		snprintf(o->name, sizeof o->name, "%s", name);
	}
	free(o->p);
	o->p = malloc(len + 1);
	memcpy(o->p, p, len);
	o->len = len;
}

static int run_get(struct nf_store_op *op)
{
	struct object *o = find(op->name);

	gets++;
	if (get_error)
		return get_error;
	if (!o)
		return -NF_E_STORE_NOT_FOUND;
	ck_assert(op->whole && op->offset_bytes == 0);
	op->size_bytes = o->len;
	op->transferred_bytes = NF_MIN(o->len, op->length_bytes);
	memcpy(op->buf, o->p, op->transferred_bytes);
	return 0;
}

static int run_put(struct nf_store_op *op)
{
	int r = put_errors[0];

	memmove(put_errors, put_errors + 1, sizeof put_errors - sizeof put_errors[0]);
	ck_assert_int_eq(op->nr_iov, 1);
	ck_assert_uint_eq(op->iov->iov_len, op->length_bytes);
	if (r && !keep_failed_put)
		return r;
	place(op->name, op->iov->iov_base, op->iov->iov_len);
	if (corrupt_put)
		find(op->name)->p[60] ^= 1;
	return r;
}

static int run_list(struct nf_store_op *op)
{
	size_t dir = strlen(op->name);

	ck_assert(!store.no_list);
	op->entries = calloc(OBJECTS_MAX, sizeof *op->entries);
	for (size_t i = 0; i < nr_objects; i++) {
		const char *name = objects[i].name;
		if (strncmp(name, op->name, dir) != 0 || name[dir] != '/')
			continue;
		size_t len = strcspn(name + dir + 1, "/");
		bool seen = false;
		for (size_t j = 0; j < op->nr_entries; j++)
			seen |= strncmp(op->entries[j].name, name + dir + 1, len) == 0;
		if (!seen)
			op->entries[op->nr_entries++].name = strndup(name + dir + 1, len);
	}
	return op->nr_entries ? 0 : -NF_E_STORE_NOT_FOUND;
}

static int run_delete(struct nf_store_op *op)
{
	struct object *o = find(op->name);

	if (!o)
		return -NF_E_STORE_NOT_FOUND;
	free(o->p);
	*o = objects[--nr_objects];
	return 0;
}

int nf_store_run(struct nf_store *s, struct nf_store_op *op)
{
	ck_assert_ptr_eq(s, &store);
	switch (op->verb) {
	case NF_STORE_GET:
		return run_get(op);
	case NF_STORE_PUT:
		return run_put(op);
	case NF_STORE_LIST:
		return run_list(op);
	case NF_STORE_DELETE:
		return run_delete(op);
	case NF_STORE_STAT:
	case NF_STORE_VERB_NR:
		break;
	}
	ck_abort_msg("no such verb here");
}

void nf_store_op_deinit(struct nf_store_op *op)
{
	for (size_t i = 0; i < op->nr_entries; i++)
		free(op->entries[i].name);
	free(op->entries);
	op->entries = NULL;
	op->nr_entries = 0;
}

static void setup(void)
{
	memset(put_errors, 0, sizeof put_errors);
	keep_failed_put = corrupt_put = false;
	get_error = gets = 0;
	store.no_list = false;
}

static void teardown(void)
{
	for (size_t i = 0; i < nr_objects; i++)
		free(objects[i].p);
	nr_objects = 0;
}

static uint8_t key_bytes[32] = { 1 };
static struct nf_secret secret = { NF_SLOT_RECOVERY, key_bytes, 32 };
static uint8_t other_bytes[32] = { 2 };
static struct nf_secret other = { NF_SLOT_RECOVERY, other_bytes, 32 };

static struct nf_header *vault(void)
{
	struct nf_header *h;

	ck_assert_int_eq(nf_header_new(&h), 0);
	ck_assert_int_eq(nf_header_slot_add(h, &secret, NULL, "first", NULL), 0);
	return h;
}

static void save(struct nf_header *h, uint64_t generation)
{
	int current = -1;

	nf_header_set_generation(h, generation);
	ck_assert_int_eq(nf_header_store_save(&store, h, &current), 0);
	ck_assert_int_eq(current, 0);
}

static int load(const struct nf_secret *s, struct nf_header **out, struct nf_header_found *found)
{
	struct nf_header_key k = { .secret = s };

	*out = NULL;
	return nf_header_store_load(&store, &k, out, found);
}

static void expect(const struct nf_secret *s, uint64_t generation, bool needs_write)
{
	struct nf_header *h;
	struct nf_header_found found = { .needs_write = !needs_write };

	ck_assert_int_eq(load(s, &h, &found), 0);
	ck_assert_uint_eq(nf_header_generation(h), generation);
	ck_assert_int_eq(found.needs_write, needs_write);
	nf_header_free(h);
}

START_TEST(an_empty_store_has_no_header)
{
	struct nf_header *h;
	struct nf_header_found found;

	ck_assert_int_eq(load(&secret, &h, &found), -NF_E_HEADER_MISSING);
	place("header/zz", "x", 1);
	place("header/00000001/short", "x", 1);
	ck_assert_int_eq(load(&secret, &h, &found), -NF_E_HEADER_MISSING);
	place("header/00000001/0123456789abcdef0123456789abcdef", "x", 1);
	ck_assert_int_eq(load(&secret, &h, &found), -NF_E_FORMAT_BAD);
	store.no_list = true;
	ck_assert_int_eq(load(&secret, &h, &found), -NF_E_HEADER_MISSING);
}
END_TEST

START_TEST(the_highest_generation_that_opens_is_taken)
{
	struct nf_header *h = vault(), *foreign;

	ck_assert_int_eq(nf_header_new(&foreign), 0);
	ck_assert_int_eq(nf_header_slot_add(foreign, &other, NULL, "", NULL), 0);
	save(h, 1);
	expect(&secret, 1, false);
	save(h, 2);
	save(h, 0x10);
	expect(&secret, 0x10, false);
	save(foreign, 0x13);
	/* Above it stand: another vault that opens with another key, noise, and an old header
	 * under a newer generation's name. */
	place("header/00000011/0123456789abcdef0123456789abcdef", "noise", 5);
	place("header/00000012/0123456789abcdef0123456789abcdef", objects[0].p, objects[0].len);
	expect(&secret, 0x10, false);
	/* One that opens, but is not of the highest generation listed, says so. */
	struct nf_header_found found;
	struct nf_header *got;
	ck_assert_int_eq(load(&secret, &got, &found), 0);
	ck_assert(!found.newest);
	nf_header_free(got);
	ck_assert_int_eq(load(&other, &got, &found), 0);
	ck_assert(found.newest);
	nf_header_free(got);
	nf_header_free(h);
	nf_header_free(foreign);
}
END_TEST

START_TEST(no_fitting_secret_is_said_so)
{
	struct nf_header *h = vault(), *out;
	struct nf_header_found found;

	save(h, 1);
	ck_assert_int_eq(load(&other, &out, &found), -NF_E_KEY_WRONG);
	nf_header_free(h);
}
END_TEST

START_TEST(the_root_key_of_a_child_opens_too)
{
	struct nf_header *h = vault(), *out;
	uint8_t root[32];
	struct nf_header_found found;

	save(h, 3);
	nf_header_root_key(h, root);
	struct nf_header_key k = { .root_key = root };
	ck_assert_int_eq(nf_header_store_load(&store, &k, &out, &found), 0);
	ck_assert_uint_eq(nf_header_generation(out), 3);
	nf_header_free(out);
	root[0] ^= 1;
	ck_assert_int_eq(nf_header_store_load(&store, &k, &out, &found), -NF_E_KEY_WRONG);
	nf_header_free(h);
}
END_TEST

START_TEST(headers_of_one_generation_are_merged)
{
	struct nf_header *h = vault(), *a, *b, *m;
	struct nf_slot_info info[8];
	struct nf_header_found found;

	save(h, 1);
	ck_assert_int_eq(load(&secret, &a, &found), 0);
	ck_assert_int_eq(load(&secret, &b, &found), 0);
	ck_assert_int_eq(nf_header_slot_add(a, &other, NULL, "of a", NULL), 0);
	ck_assert_int_eq(nf_header_slot_add(b, &other, NULL, "of b", NULL), 0);
	save(a, 2);
	save(b, 2);
	ck_assert_int_eq(load(&secret, &m, &found), 0);
	ck_assert(found.needs_write);
	ck_assert_uint_eq(nf_header_generation(m), 2);
	ck_assert_uint_eq(nf_header_slots(m, info, 8), 3);
	save(m, 3);
	expect(&secret, 3, false);
	expect(&other, 3, false);
	/* The same once more under another name: nothing to write. */
	save(m, 3);
	expect(&secret, 3, false);
	/* A header of another vault in this generation is left alone. */
	struct nf_header *foreign = vault();
	save(foreign, 4);
	save(m, 4);
	struct nf_header *got;
	ck_assert_int_eq(load(&other, &got, &found), 0);
	ck_assert_mem_eq(nf_header_volume_id(got), nf_header_volume_id(m), 16);
	ck_assert(!found.needs_write);
	nf_header_free(got);
	nf_header_free(foreign);
	nf_header_free(m);
	nf_header_free(a);
	nf_header_free(b);
	nf_header_free(h);
}
END_TEST

START_TEST(a_store_that_cannot_be_read_is_no_reason_for_an_older_header)
{
	struct nf_header *h = vault(), *out;
	struct nf_header_found found;

	save(h, 1);
	get_error = -NF_E_OFFLINE;
	ck_assert_int_eq(load(&secret, &out, &found), -NF_E_OFFLINE);
	get_error = -NF_E_TIMEOUT;
	ck_assert_int_eq(load(&secret, &out, &found), -NF_E_TIMEOUT);
	nf_header_free(h);
}
END_TEST

START_TEST(a_store_without_listing_gives_the_copy)
{
	struct nf_header *h = vault(), *out;
	struct nf_header_found found;

	save(h, 1);
	save(h, 2);
	store.no_list = true;
	expect(&secret, 2, false);
	ck_assert_int_eq(load(&other, &out, &found), -NF_E_KEY_WRONG);
	store.no_list = false;
	/* Never trusted over a listed one. */
	save(h, 5);
	struct object newest = *find("header/current");
	uint8_t copy[2000];
	memcpy(copy, newest.p, newest.len);
	save(h, 3);
	nr_objects--; /* the last one placed is generation 3's listed name */
	free(objects[nr_objects].p);
	place("header/current", copy, newest.len);
	expect(&secret, 5, false);
	nf_header_free(h);
}
END_TEST

START_TEST(a_put_of_unknown_outcome_takes_a_new_name)
{
	struct nf_header *h = vault();

	put_errors[0] = -NF_E_STORE_UNKNOWN_OUTCOME;
	keep_failed_put = true;
	save(h, 1);
	/* The one that seemed lost, its successor, and the copy. */
	ck_assert_uint_eq(nr_objects, 3);
	expect(&secret, 1, false);
	nf_header_free(h);
}
END_TEST

START_TEST(what_cannot_be_read_back_was_not_saved)
{
	struct nf_header *h = vault();
	int current = 7;

	corrupt_put = true;
	ck_assert_int_eq(nf_header_store_save(&store, h, &current), -NF_E_STORE_PROTOCOL);
	ck_assert_ptr_null(find("header/current"));
	corrupt_put = false;
	put_errors[0] = -NF_E_STORE_DENIED;
	ck_assert_int_eq(nf_header_store_save(&store, h, &current), -NF_E_STORE_DENIED);
	ck_assert_int_eq(put_errors[0], 0);
	for (int i = 0; i < 4; i++)
		put_errors[i] = -NF_E_TIMEOUT;
	ck_assert_int_eq(nf_header_store_save(&store, h, &current), -NF_E_TIMEOUT);
	ck_assert_int_eq(put_errors[0], -NF_E_TIMEOUT); /* three attempts, no more */
	ck_assert_int_eq(current, 7);
	memset(put_errors, 0, sizeof put_errors);
	put_errors[1] = -NF_E_STORE_FULL;
	ck_assert_int_eq(nf_header_store_save(&store, h, &current), 0);
	ck_assert_int_eq(current, -NF_E_STORE_FULL);
	nf_header_free(h);
}
END_TEST

START_TEST(hostile_listings_cost_a_bounded_number_of_reads)
{
	struct nf_header *h = vault(), *out;
	char name[NF_STORE_NAME_MAX];
	struct nf_header_found found;

	save(h, 1);
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof name, "header/00000009/%032x", i);
		place(name, "x", 1);
	}
	gets = 0;
	expect(&secret, 1, false);
	ck_assert_int_le(gets, 17);
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof name, "header/000000a%x/%032x", i, i);
		place(name, "x", 1);
	}
	/* The true one is below the eight that are looked at; the copy is not. */
	gets = 0;
	ck_assert_int_eq(load(&secret, &out, &found), 0);
	ck_assert_int_le(gets, 9);
	nf_header_free(out);
	nf_header_free(h);
}
END_TEST

START_TEST(a_pin_refuses_other_vaults_root_keys_and_older_generations)
{
	struct nf_header *h = vault(), *foreign = vault();
	struct nf_header_pin pin;

	nf_header_set_generation(h, 5);
	ck_assert_int_eq(nf_header_pin_of(h, &pin), 0);
	ck_assert_uint_eq(pin.generation, 5);
	ck_assert_int_eq(nf_header_pin_check(&pin, h), 0);
	nf_header_set_generation(h, 6);
	ck_assert_int_eq(nf_header_pin_check(&pin, h), 0);
	nf_header_set_generation(h, 4);
	ck_assert_int_eq(nf_header_pin_check(&pin, h), -NF_E_HEADER_ROLLBACK);
	nf_header_set_generation(foreign, 9);
	ck_assert_int_eq(nf_header_pin_check(&pin, foreign), -NF_E_HEADER_FOREIGN);
	nf_header_set_generation(h, 9);
	nf_header_free(h);
	nf_header_free(foreign);
}
END_TEST

START_TEST(a_new_root_key_is_taken_from_who_held_the_ring_and_only_so)
{
	struct nf_header *h = vault(), *stranger = vault();
	struct nf_header_pin pin, of_stranger;

	ck_assert_int_eq(nf_header_pin_of(h, &pin), 0);
	ck_assert_int_eq(nf_header_pin_of(stranger, &of_stranger), 0);
	ck_assert_int_eq(nf_header_rekey(h, NULL), 0);
	/* Not of the generation that is remembered. */
	ck_assert_int_eq(nf_header_pin_check(&pin, h), -NF_E_HEADER_FOREIGN);
	nf_header_set_generation(h, pin.generation + 1);
	ck_assert_int_eq(nf_header_pin_check(&pin, h), 0);
	/* A ring made by somebody else, and a pin from before epochs were remembered. */
	memcpy(of_stranger.volume_id, pin.volume_id, sizeof pin.volume_id);
	ck_assert_int_eq(nf_header_pin_check(&of_stranger, h), -NF_E_HEADER_FOREIGN);
	pin.epoch = 0;
	ck_assert_int_eq(nf_header_pin_check(&pin, h), -NF_E_HEADER_FOREIGN);
	nf_header_free(h);
	nf_header_free(stranger);
}
END_TEST

static struct nf_header *copy_of(const struct nf_header *h)
{
	uint8_t root[NF_KEY_BYTES];
	struct nf_header *c;
	size_t len;
	void *p;

	ck_assert_int_eq(nf_header_encode(h, &p, &len), 0);
	ck_assert_int_eq(nf_header_decode(p, len, &c), 0);
	free(p);
	nf_header_root_key(h, root);
	ck_assert_int_eq(nf_header_unlock_root(c, root), 0);
	return c;
}

START_TEST(of_a_new_root_key_and_another_change_at_once_at_most_one_stays)
{
	struct nf_header *h = vault(), *rekeyed = copy_of(h), *changed = copy_of(h), *out;
	uint8_t old_root[NF_KEY_BYTES], new_root[NF_KEY_BYTES];
	struct nf_header_found found;

	nf_header_root_key(h, old_root);
	ck_assert_int_eq(nf_header_rekey(rekeyed, NULL), 0);
	ck_assert_int_eq(nf_header_slot_add(rekeyed, &other, NULL, "new", NULL), 0);
	nf_header_root_key(rekeyed, new_root);
	nf_header_set_generation(rekeyed, 2);
	nf_header_set_generation(changed, 2);
	ck_assert_int_eq(nf_header_store_save(&store, h, NULL), 0);
	ck_assert_int_eq(nf_header_store_save_next(&store, rekeyed, true), 0);
	ck_assert_int_eq(nf_header_store_save_next(&store, changed, false), -NF_E_STORE_BUSY);
	ck_assert_int_eq(nf_header_store_save_next(&store, rekeyed, true), -NF_E_STORE_BUSY);
	struct nf_header_key by_new = { .root_key = new_root }, by_old = { .root_key = old_root };
	ck_assert_int_eq(nf_header_store_load(&store, &by_new, &out, &found), 0);
	ck_assert(found.newest && !found.overtaken);
	ck_assert_uint_eq(nf_header_generation(out), 2);
	ck_assert_uint_eq(nf_header_epoch(out), 2);
	nf_header_free(out);
	/* The key of before opens only what was before, and is told. */
	ck_assert_int_eq(nf_header_store_load(&store, &by_old, &out, &found), 0);
	ck_assert(found.overtaken);
	ck_assert_uint_eq(nf_header_epoch(out), 1);
	nf_header_free(out);
	/* Under one root key both stay. */
	nf_header_set_generation(rekeyed, 3);
	ck_assert_int_eq(nf_header_store_save_next(&store, rekeyed, false), 0);
	ck_assert_int_eq(nf_header_store_save_next(&store, rekeyed, false), 0);
	nf_header_free(h);
	nf_header_free(rekeyed);
	nf_header_free(changed);
}
END_TEST

START_TEST(the_key_of_a_slot_opens_what_a_rekey_kept_of_it)
{
	struct nf_header *h, *out;
	struct nf_header_found found;
	struct nf_slot_key key;
	uint8_t id[NF_SLOT_ID_BYTES];

	out = vault();
	ck_assert_int_eq(nf_header_slot_add(out, &other, NULL, "other", NULL), 0);
	save(out, 1);
	nf_header_free(out);
	ck_assert_int_eq(load(&secret, &h, &found), 0);
	ck_assert(nf_header_slot_key(h, &key));
	struct nf_header_key by_slot = { .slot_key = &key };
	ck_assert_int_eq(nf_header_store_load(&store, &by_slot, &out, &found), 0);
	ck_assert(found.newest && !found.overtaken);
	nf_header_free(out);
	struct nf_slot_info slots[NF_SLOTS_MAX];
	nf_header_slots(h, slots, NF_SLOTS_MAX);
	memcpy(id, slots[0].id, sizeof id);
	ck_assert_int_eq(nf_header_rekey(h, id), 0);
	nf_header_set_generation(h, 2);
	ck_assert_int_eq(nf_header_store_save_next(&store, h, true), 0);
	ck_assert_int_eq(nf_header_store_load(&store, &by_slot, &out, &found), 0);
	ck_assert(found.newest && !found.overtaken && !found.needs_write);
	ck_assert_uint_eq(nf_header_generation(out), 2);
	ck_assert_uint_eq(nf_header_epoch(out), 2);
	nf_header_free(out);
	/* Who was not kept is told, by the slot as by the root key. */
	ck_assert_int_eq(nf_header_rekey(h, NULL), 0);
	ck_assert_int_eq(nf_header_slot_add(h, &other, NULL, "", NULL), 0);
	nf_header_set_generation(h, 3);
	ck_assert_int_eq(nf_header_store_save_next(&store, h, true), 0);
	ck_assert_int_eq(nf_header_store_load(&store, &by_slot, &out, &found), 0);
	ck_assert(found.overtaken);
	ck_assert_uint_eq(nf_header_epoch(out), 2);
	nf_header_free(out);
	nf_header_free(h);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "header_store", 60);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, an_empty_store_has_no_header);
	tcase_add_test(tc, the_highest_generation_that_opens_is_taken);
	tcase_add_test(tc, no_fitting_secret_is_said_so);
	tcase_add_test(tc, the_root_key_of_a_child_opens_too);
	tcase_add_test(tc, headers_of_one_generation_are_merged);
	tcase_add_test(tc, a_store_that_cannot_be_read_is_no_reason_for_an_older_header);
	tcase_add_test(tc, a_store_without_listing_gives_the_copy);
	tcase_add_test(tc, a_put_of_unknown_outcome_takes_a_new_name);
	tcase_add_test(tc, what_cannot_be_read_back_was_not_saved);
	tcase_add_test(tc, hostile_listings_cost_a_bounded_number_of_reads);
	tcase_add_test(tc, a_pin_refuses_other_vaults_root_keys_and_older_generations);
	tcase_add_test(tc, a_new_root_key_is_taken_from_who_held_the_ring_and_only_so);
	tcase_add_test(tc, of_a_new_root_key_and_another_change_at_once_at_most_one_stays);
	tcase_add_test(tc, the_key_of_a_slot_opens_what_a_rekey_kept_of_it);
}

NF_SUITE("vault/header_store")
