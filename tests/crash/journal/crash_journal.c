/* Power cuts at every operation of a random workload on the journal.
 *
 * Each record names a data frame and says how it was filled.  After a cut: the
 * records that are replayed are a row without a gap; all that a returned sync
 * covered are in it, unless a trim that had begun could take them; each record's
 * data reads back; opening once more, or after a second cut during recovery, gives
 * no less. */
#include "journal/journal.h"

#include "aio/file_crash.h"
#include "base/mem.h"
#include "base/random.h"
#include "fake_seal.h"
#include "suite.h"

#include <stdio.h>
#include <sys/uio.h>

enum { STEPS = 60, RECORDS_MAX = 2 * STEPS, WORKLOADS = 4, SEEDS = 9, DATA_MAX = 3000 };

struct record {
	uint64_t serial;
	struct nf_journal_pos pos;
	uint64_t len;
	uint64_t fill;
};

/* From operation `at` on, `first` records may be gone and `last` must be there. */
struct promise {
	uint64_t at;
	uint64_t gone;
	uint64_t kept;
};

struct work {
	struct promise promises[3 * STEPS];
	size_t nr_promises;
	struct record records[RECORDS_MAX];
	uint64_t nr_records;
	uint64_t segment_of[RECORDS_MAX];
};

struct seen {
	struct record records[RECORDS_MAX];
	size_t nr;
	size_t cuts;
};

static void fill(uint8_t *buf, uint64_t len, uint64_t seed)
{
	struct nf_prng rng;

	nf_prng_seed(&rng, seed);
	for (uint64_t i = 0; i < len; i++)
		buf[i] = (uint8_t)nf_prng_next(&rng);
}

static bool data_is_right(struct nf_journal *j, const struct record *rc)
{
	uint8_t want[DATA_MAX], got[DATA_MAX];

	fill(want, rc->len, rc->fill);
	return nf_journal_read(j, rc->pos, got, (size_t)rc->len) == 0 &&
	       memcmp(want, got, (size_t)rc->len) == 0;
}

static int replay(void *ctx, struct nf_journal *j, uint64_t segment, char kind, const void *plain,
		  size_t len, uint64_t unsynced_from_bytes)
{
	struct seen *s = ctx;
	struct record rc;

	(void)segment;
	ck_assert_int_eq(kind, 'O');
	ck_assert_uint_eq(len, sizeof rc);
	memcpy(&rc, plain, sizeof rc);
	ck_assert_uint_lt(s->nr, RECORDS_MAX);
	/* As the owner does: blocks in the part not known durable are tried. */
	if (rc.pos.segment == segment && rc.pos.offset_bytes + rc.len > unsynced_from_bytes &&
	    !data_is_right(j, &rc)) {
		s->cuts++;
		return NF_JOURNAL_CUT;
	}
	s->records[s->nr++] = rc;
	return 0;
}

static struct nf_journal *open_on(struct nf_crash *disk, struct seen *s)
{
	struct nf_journal *j = NULL;
	struct nf_journal_options o = { .dir = "/state/journal",
					.files = nf_crash_ops(disk),
					.seal = &fake_seal_ops,
					.replay = replay,
					.replay_ctx = s };

	*s = (struct seen){ 0 };
	int r = nf_journal_open(&o, &j);
	ck_assert_msg(r == 0, "open: %s", nf_error_name(r));
	return j;
}

static void promise(struct work *w, struct nf_crash *disk, uint64_t gone, uint64_t kept)
{
	ck_assert_uint_lt(w->nr_promises, NF_ARRAY_LEN(w->promises));
	w->promises[w->nr_promises++] =
		(struct promise){ .at = nf_crash_nr_ops(disk), .gone = gone, .kept = kept };
}

static void add_record(struct work *w, struct nf_journal *j, struct nf_prng *rng)
{
	struct record *rc = &w->records[w->nr_records];
	uint8_t data[DATA_MAX];

	*rc = (struct record){ .serial = w->nr_records,
			       .len = nf_prng_below(rng, DATA_MAX),
			       .fill = nf_prng_next(rng) };
	fill(data, rc->len, rc->fill);
	struct iovec iov[2] = { { .iov_base = data, .iov_len = (size_t)rc->len / 3 } };
	iov[1] = (struct iovec){ .iov_base = data + iov[0].iov_len,
				 .iov_len = (size_t)rc->len - iov[0].iov_len };
	ck_assert_int_eq(nf_journal_data(j, iov, 2, &rc->pos), 0);
	ck_assert_int_eq(nf_journal_record(j, 'O', rc, sizeof *rc), 0);
	w->segment_of[w->nr_records++] = rc->pos.segment;
}

static uint64_t first_in(const struct work *w, uint64_t segment)
{
	uint64_t i = 0;

	while (i < w->nr_records && w->segment_of[i] < segment)
		i++;
	return i;
}

static void run_work(struct work *w, struct nf_crash *disk, uint64_t seed)
{
	struct nf_prng rng;
	static struct seen s;
	uint64_t number = 1, gone = 0, kept = 0;
	struct nf_journal *j = open_on(disk, &s);

	nf_prng_seed(&rng, seed);
	for (int i = 0; i < STEPS; i++) {
		uint64_t dice = nf_prng_below(&rng, 20);
		if (dice < 11) {
			add_record(w, j, &rng);
		} else if (dice < 16) {
			ck_assert_int_eq(nf_journal_sync(j), 0);
			promise(w, disk, gone, kept = w->nr_records);
		} else if (dice < 18) {
			ck_assert_int_eq(nf_journal_rotate(j, &number), 0);
			promise(w, disk, gone, kept = w->nr_records);
		} else if (dice < 19) {
			uint64_t below = number - nf_prng_below(&rng, 2);
			gone = NF_MAX(gone, first_in(w, below));
			promise(w, disk, gone, kept);
			ck_assert_int_eq(nf_journal_trim(j, below), 0);
		} else {
			/* A daemon that is killed and comes back: all of it is there. */
			nf_journal_close(j);
			j = open_on(disk, &s);
			ck_assert_uint_eq(s.cuts, 0);
			ck_assert(w->nr_records == 0 || s.nr == 0 ||
				  s.records[s.nr - 1].serial == w->nr_records - 1);
			promise(w, disk, gone, kept = w->nr_records);
		}
	}
	ck_assert_int_eq(nf_journal_check(j), 0);
	nf_journal_close(j);
}

static void compare(const struct work *w, const struct seen *s, uint64_t n)
{
	uint64_t gone = 0, kept = 0;

	for (size_t i = 0; i < w->nr_promises; i++) {
		const struct promise *p = &w->promises[i];
		/* A trim may be under way at the cut; a sync must have returned. */
		if (p->at <= n) {
			gone = NF_MAX(gone, p->gone);
			kept = NF_MAX(kept, p->kept);
		}
	}
	if (s->nr == 0) {
		ck_assert_uint_le(kept, gone);
		return;
	}
	uint64_t first = s->records[0].serial;
	ck_assert_uint_le(first, gone);
	ck_assert_uint_ge(first + s->nr, kept);
	for (size_t i = 0; i < s->nr; i++)
		ck_assert_mem_eq(&s->records[i], &w->records[first + i], sizeof s->records[i]);
}

static void open_and_compare(const struct work *w, struct nf_crash *disk, uint64_t n,
			     struct seen *s)
{
	struct nf_journal *j = open_on(disk, s);

	compare(w, s, n);
	for (size_t i = 0; i < s->nr; i++)
		ck_assert(data_is_right(j, &s->records[i]));
	ck_assert_int_eq(nf_journal_check(j), 0);
	nf_journal_close(j);
}

static size_t cut_and_recover(const struct work *w, struct nf_crash *disk, uint64_t n, uint64_t seed)
{
	static struct seen first, second, third;
	struct nf_crash *found, *again;

	ck_assert_int_eq(nf_crash_image(disk, n, seed, &found), 0);
	open_and_compare(w, found, n, &first);
	/* A second cut, during the recovery from the first. */
	uint64_t cut = nf_crash_nr_ops(found) ? (n + seed) % (nf_crash_nr_ops(found) + 1) : 0;
	ck_assert_int_eq(nf_crash_image(found, cut, seed + 1, &again), 0);
	open_and_compare(w, again, n, &third);
	nf_crash_free(again);
	open_and_compare(w, found, n, &second);
	ck_assert_uint_eq(first.nr, second.nr);
	ck_assert_mem_eq(first.records, second.records, first.nr * sizeof first.records[0]);
	nf_crash_free(found);
	return first.cuts;
}

START_TEST(what_a_sync_covered_survives_a_power_cut_at_every_operation)
{
	struct nf_crash *disk;
	static struct work w;
	size_t cuts = 0, images = 0;

	w = (struct work){ 0 };
	ck_assert_int_eq(nf_crash_new(&disk), 0);
	run_work(&w, disk, (uint64_t)_i + 1);
	for (uint64_t n = 0; n <= nf_crash_nr_ops(disk); n++)
		for (uint64_t seed = 0; seed < SEEDS; seed++, images++)
			cuts += cut_and_recover(&w, disk, n, seed * 1000 * (seed > 3) + seed);
	printf("# workload %d: %d records, %d cut points, %d images, %d ended by lost data\n", _i,
	       (int)w.nr_records, (int)nf_crash_nr_ops(disk) + 1, (int)images, (int)cuts);
	/* The test would be idle if no cut ever hit unsynced data. */
	ck_assert_uint_gt(cuts, 0);
	nf_crash_free(disk);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "crash", 300);

	tcase_add_loop_test(tc, what_a_sync_covered_survives_a_power_cut_at_every_operation, 0,
			    WORKLOADS);
}

NF_SUITE("journal/crash")
