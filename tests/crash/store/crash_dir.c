/* Power cuts at every operation of a workload on the directory store.
 *
 * Four threads of the store work at once.  After a cut: every object whose PUT was
 * acknowledged before it is there, whole; any other is absent or whole; a listing
 * shows nothing else; and the store can be written again. */
#include "store/types.h"

#include "aio/file_crash.h"
#include "aio/pool.h"
#include "conform.h"
#include "suite.h"

enum { OBJECTS = 12, OBJECT_BYTES = 5000, SEEDS = 8 };

struct put {
	struct nf_store_op op;
	struct iovec iov;
	struct nf_completion done;
	struct nf_crash *disk;
	uint64_t acked_at; /* operations recorded when done was called */
	uint8_t body[OBJECT_BYTES];
};

static void on_done(struct nf_store_op *op)
{
	struct put *p = op->ctx;

	p->acked_at = nf_crash_nr_ops(p->disk);
	nf_completion_set(&p->done);
}

static struct nf_store *open_on(struct nf_crash *disk)
{
	struct nf_store *s;

	ck_assert_int_eq(nf_store_dir_new("/s", nf_crash_ops(disk), NF_DIR_IS_MADE, &s), 0);
	return s;
}

static void work(struct nf_crash *disk, struct put *puts, uint64_t *first)
{
	struct nf_store *s = open_on(disk);

	/* The root itself is durable once the store is open. */
	*first = nf_crash_nr_ops(disk);
	for (int i = 0; i < OBJECTS; i++) {
		struct put *p = &puts[i];
		char name[64];
		snprintf(name, sizeof name, "packs/d%d/o%d", i % 3, i);
		conform_name(&p->op, NF_STORE_PUT, name);
		conform_fill(name, 0, p->body, OBJECT_BYTES);
		p->iov = (struct iovec){ p->body, OBJECT_BYTES };
		p->op.iov = &p->iov;
		p->op.nr_iov = 1;
		p->op.length_bytes = OBJECT_BYTES;
		p->op.done = on_done;
		p->op.ctx = p;
		p->disk = disk;
		ck_assert_int_eq(nf_completion_init(&p->done), 0);
		nf_store_submit(s, &p->op);
	}
	for (int i = 0; i < OBJECTS; i++) {
		nf_completion_wait(&puts[i].done);
		nf_completion_deinit(&puts[i].done);
		ck_assert_int_eq(puts[i].op.error, 0);
	}
	nf_store_free(s);
}

static void check_image(struct nf_crash *image, const struct put *puts, uint64_t n, uint64_t seed)
{
	struct nf_store *s = open_on(image);
	struct nf_store_op op;
	bool same;

	for (int i = 0; i < OBJECTS; i++) {
		int r = conform_get(s, puts[i].op.name, 0, OBJECT_BYTES, false, &op, &same);
		if (puts[i].acked_at <= n)
			ck_assert_msg(r == 0, "%s lost: cut %d seed %d: %s", puts[i].op.name, (int)n,
				      (int)seed, nf_error_name(r));
		else
			ck_assert_msg(r == 0 || r == -NF_E_STORE_NOT_FOUND, "%s: cut %d seed %d: %s",
				      puts[i].op.name, (int)n, (int)seed, nf_error_name(r));
		ck_assert_msg(r || same, "%s damaged: cut %d seed %d", puts[i].op.name, (int)n, (int)seed);
	}
	ck_assert_int_eq(conform_put(s, "packs/d0/again", 10), 0);
	conform_name(&op, NF_STORE_LIST, "packs/d0");
	ck_assert_int_eq(nf_store_run(s, &op), 0);
	for (size_t i = 0; i < op.nr_entries; i++)
		ck_assert(op.entries[i].name[0] == 'o' || !strcmp(op.entries[i].name, "again"));
	nf_store_op_deinit(&op);
	nf_store_free(s);
}

START_TEST(an_acknowledged_object_survives_every_power_cut)
{
	nf_auto_free struct put *puts = calloc(OBJECTS, sizeof *puts);
	struct nf_crash *disk, *image;
	uint64_t first;

	ck_assert_int_eq(nf_crash_new(&disk), 0);
	work(disk, puts, &first);
	uint64_t nr = nf_crash_nr_ops(disk);
	ck_assert_uint_gt(nr, OBJECTS * 4);
	for (uint64_t n = first; n <= nr; n++) {
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			ck_assert_int_eq(nf_crash_image(disk, n, seed, &image), 0);
			check_image(image, puts, n, seed);
			nf_crash_free(image);
		}
	}
	nf_crash_free(disk);
}
END_TEST

START_TEST(a_full_or_failing_disk_is_told_and_leaves_no_object)
{
	static const struct {
		enum nf_crash_kind kind;
		int error, told;
	} t[] = {
		{ NF_CRASH_WRITE, -ENOSPC, -NF_E_STORE_FULL },
		{ NF_CRASH_FDATASYNC, -EIO, -EIO },
		{ NF_CRASH_CREATE, -EROFS, -NF_E_STORE_READONLY },
		{ NF_CRASH_RENAME, -EACCES, -NF_E_STORE_DENIED },
	};
	struct nf_crash *disk;
	struct nf_store_op op;
	bool same;

	ck_assert_int_eq(nf_crash_new(&disk), 0);
	struct nf_store *s = open_on(disk);
	ck_assert_int_eq(conform_put(s, "p/first", 10), 0);
	for (size_t i = 0; i < NF_ARRAY_LEN(t); i++) {
		nf_crash_fail(disk, t[i].kind, 0, t[i].error);
		ck_assert_int_eq(conform_put(s, "p/x", 100), t[i].told);
		ck_assert_int_eq(conform_get(s, "p/x", 0, 1, false, &op, &same), -NF_E_STORE_NOT_FOUND);
	}
	ck_assert_int_eq(conform_put(s, "p/x", 100), 0);
	conform_name(&op, NF_STORE_LIST, "p");
	ck_assert_int_eq(nf_store_run(s, &op), 0);
	ck_assert_uint_eq(op.nr_entries, 2);
	nf_store_op_deinit(&op);
	nf_store_free(s);
	nf_crash_free(disk);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *t = nf_case(s, "dir", 120);

	tcase_add_test(t, an_acknowledged_object_survives_every_power_cut);
	tcase_add_test(t, a_full_or_failing_disk_is_told_and_leaves_no_object);
}

NF_SUITE("store/crash_dir")
