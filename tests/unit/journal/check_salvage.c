/* A damaged journal: what comes before the damage counts, and nothing of the rest is deleted. */
#include "journal/journal.h"

#include "aio/file_crash.h"
#include "base/mem.h"
#include "fake_seal.h"
#include "suite.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>

enum { SEGMENTS = 3, ALL = 12, FILE_MAX = 4096, IMAGES = 8 };

static const char *const segment_name[SEGMENTS] = { "0000000000000001.seg", "0000000000000002.seg", "0000000000000003.seg" };

struct seen {
	char text[100];
	int result; /* of the record that says 'k' */
};

static int replay(void *ctx, struct nf_journal *j, uint64_t segment, char kind, const void *plain, size_t len,
		  uint64_t unsynced_from_bytes)
{
	struct seen *s = ctx;
	(void)j;
	(void)segment;
	(void)kind;
	(void)unsynced_from_bytes;

	ck_assert_uint_lt(strlen(s->text) + len + 1, sizeof s->text);
	if (s->result && *(const char *)plain == 'k')
		return s->result;
	strncat(s->text, plain, len);
	return 0;
}

static struct nf_journal_options options(struct nf_crash *d, struct seen *s)
{
	*s = (struct seen){ .result = s->result };
	return (struct nf_journal_options){ .dir = "/j", .files = nf_crash_ops(d), .seal = &fake_seal_ops, .replay = replay,
					    .replay_ctx = s };
}

static int open_journal(struct nf_crash *d, struct seen *s, struct nf_journal **j)
{
	struct nf_journal_options o = options(d, s);

	return nf_journal_open(&o, j);
}

static int salvage(struct nf_crash *d, struct seen *s, const char *aside, struct nf_journal_salvaged *out)
{
	struct nf_journal_options o = options(d, s);

	return nf_journal_salvage(&o, aside, out);
}

/* Records a to l, four in each of three segments, data between them; all of it durable. */
static struct nf_crash *made(void)
{
	struct nf_journal *j = NULL;
	struct nf_journal_pos pos;
	struct nf_crash *d;
	struct seen s = { 0 };
	uint64_t number;

	ck_assert_int_eq(nf_crash_new(&d), 0);
	ck_assert_int_eq(open_journal(d, &s, &j), 0);
	for (int i = 0; i < ALL; i++) {
		char c = (char)('a' + i), data[50];
		struct iovec iov = { data, sizeof data };
		memset(data, c, sizeof data);
		ck_assert_int_eq(nf_journal_data(j, &iov, 1, &pos), 0);
		ck_assert_int_eq(nf_journal_record(j, 'O', &c, 1), 0);
		ck_assert_int_eq(nf_journal_sync(j), 0);
		if (i % 4 == 3 && i + 1 < ALL)
			ck_assert_int_eq(nf_journal_rotate(j, &number), 0);
	}
	nf_journal_close(j);
	return d;
}

static size_t slurp(struct nf_crash *d, const char *dir, const char *name, uint8_t out[FILE_MAX])
{
	const struct nf_file_ops *o = nf_crash_ops(d);
	struct nf_file *f;
	uint64_t size;
	char path[80];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	if (o->open(o, path, O_RDONLY, 0, &f) < 0)
		return 0;
	ck_assert_int_eq(o->size(f, &size), 0);
	ck_assert_uint_le(size, FILE_MAX);
	ck_assert_int_eq(o->pread(f, out, size, 0, NULL), 0);
	o->close(f);
	return size;
}

static void turn(struct nf_crash *d, int segment, size_t at, uint8_t bit)
{
	const struct nf_file_ops *o = nf_crash_ops(d);
	struct nf_file *f;
	char path[80];
	uint8_t b;

	snprintf(path, sizeof path, "/j/%s", segment_name[segment]);
	ck_assert_int_eq(o->open(o, path, O_RDWR, 0, &f), 0);
	ck_assert_int_eq(o->pread(f, &b, 1, at, NULL), 0);
	b ^= bit;
	ck_assert_int_eq(o->pwrite(f, &b, 1, at), 0);
	ck_assert_int_eq(o->fdatasync(f), 0);
	o->close(f);
}

/* Each segment as it was is in ASIDE, or is the beginning of it in /j and whole there if nothing is in ASIDE. */
static void nothing_is_lost(struct nf_crash *d, uint8_t was[SEGMENTS][FILE_MAX], const size_t size[SEGMENTS], const char *const *aside,
			    size_t nr)
{
	static uint8_t now[FILE_MAX];

	for (int i = 0; i < SEGMENTS; i++) {
		bool whole = slurp(d, "/j", segment_name[i], now) >= size[i] && !memcmp(now, was[i], size[i]);
		for (size_t k = 0; !whole && k < nr; k++)
			whole = slurp(d, aside[k], segment_name[i], now) == size[i] && !memcmp(now, was[i], size[i]);
		ck_assert_msg(whole, "segment %d", i + 1);
	}
}

static void keep(struct nf_crash *d, uint8_t was[SEGMENTS][FILE_MAX], size_t size[SEGMENTS])
{
	for (int i = 0; i < SEGMENTS; i++)
		size[i] = slurp(d, "/j", segment_name[i], was[i]);
}

static void is_beginning(const char *text)
{
	ck_assert_msg(!strncmp(text, "abcdefghijkl", strlen(text)), "%s", text);
}

/* _i: the segment.  Each of its bytes in turn. */
START_TEST(what_comes_before_the_damage_counts_and_the_rest_is_kept)
{
	static const char *const aside[] = { "/j/aside" };
	static uint8_t was[SEGMENTS][FILE_MAX];
	size_t size[SEGMENTS], nr_bad = 0, at = 0;

	do {
		struct nf_crash *d = made();
		struct nf_journal *j = NULL;
		struct nf_journal_salvaged got;
		struct seen s = { 0 };
		turn(d, _i, at, (uint8_t)(1u << at % 8));
		keep(d, was, size);
		int r = open_journal(d, &s, &j);
		if (r == 0) {
			nf_journal_close(j);
		} else {
			ck_assert_int_eq(r, -NF_E_JOURNAL_BAD);
			nr_bad++;
			ck_assert_int_eq(salvage(d, &s, aside[0], &got), 0);
			ck_assert_uint_gt(got.aside_bytes, 0);
			nothing_is_lost(d, was, size, aside, 1);
			ck_assert_int_eq(open_journal(d, &s, &j), 0);
			is_beginning(s.text);
			ck_assert_uint_ge(strlen(s.text), 4 * (size_t)_i);
			ck_assert_int_eq(nf_journal_record(j, 'O', "z", 1), 0);
			nf_journal_close(j);
			ck_assert_int_eq(open_journal(d, &s, &j), 0);
			ck_assert_int_eq(s.text[strlen(s.text) - 1], 'z');
			nf_journal_close(j);
		}
		nf_crash_free(d);
	} while (++at < size[_i]);
	/* All but data, and in the last segment what nothing behind it shows to have been durable. */
	ck_assert_uint_gt(nr_bad, size[_i] / 3);
}
END_TEST

START_TEST(a_segment_that_is_gone_or_cut_off_or_a_record_that_is_refused_ends_it_too)
{
	static const char *const aside[] = { "/j/aside" };
	static uint8_t was[SEGMENTS][FILE_MAX];
	struct nf_journal_salvaged got;
	struct nf_journal *j = NULL;
	size_t size[SEGMENTS];
	struct seen s = { 0 };
	struct nf_file *f;

	struct nf_crash *d = made();
	const struct nf_file_ops *o = nf_crash_ops(d);
	ck_assert_int_eq(salvage(d, &s, aside[0], &got), 0); /* nothing is wrong */
	ck_assert_uint_eq(got.aside_bytes, 0);
	ck_assert_int_eq(o->rename(o, "/j/0000000000000002.seg", "/kept"), 0);
	ck_assert_int_eq(open_journal(d, &s, &j), -NF_E_JOURNAL_BAD);
	ck_assert_int_eq(salvage(d, &s, aside[0], &got), 0);
	ck_assert_int_eq(open_journal(d, &s, &j), 0);
	ck_assert_str_eq(s.text, "abcd");
	nf_journal_close(j);
	nf_crash_free(d);

	d = made();
	o = nf_crash_ops(d);
	ck_assert_int_eq(o->open(o, "/j/0000000000000002.seg", O_RDWR, 0, &f), 0);
	ck_assert_int_eq(o->ftruncate(f, 300), 0);
	o->close(f);
	keep(d, was, size);
	ck_assert_int_eq(open_journal(d, &s, &j), -NF_E_JOURNAL_BAD);
	ck_assert_int_eq(salvage(d, &s, aside[0], &got), 0);
	nothing_is_lost(d, was, size, aside, 1);
	ck_assert_int_eq(open_journal(d, &s, &j), 0);
	is_beginning(s.text);
	ck_assert_uint_ge(strlen(s.text), 4);
	nf_journal_close(j);
	nf_crash_free(d);

	d = made();
	keep(d, was, size);
	s.result = -NF_E_JOURNAL_BAD;
	ck_assert_int_eq(open_journal(d, &s, &j), -NF_E_JOURNAL_BAD);
	ck_assert_int_eq(salvage(d, &s, aside[0], &got), 0);
	nothing_is_lost(d, was, size, aside, 1);
	ck_assert_int_eq(open_journal(d, &s, &j), 0);
	ck_assert_str_eq(s.text, "abcdefghij");
	nf_journal_close(j);
	s.result = -ENOMEM; /* is no damage */
	nf_crash_free(d);
	d = made();
	ck_assert_int_eq(salvage(d, &s, aside[0], &got), -ENOMEM);
	nf_crash_free(d);
}
END_TEST

/* The power goes at each operation of it: what is left can be salvaged again, to the same, and nothing is lost. */
START_TEST(a_crash_on_the_way_loses_nothing)
{
	static const char *const aside[] = { "/j/aside", "/j/again" };
	static uint8_t was[SEGMENTS][FILE_MAX];
	struct nf_journal_salvaged got;
	size_t size[SEGMENTS];
	struct seen s = { 0 };

	struct nf_crash *d = made();
	turn(d, 1, 200, 1); /* in the first record */
	keep(d, was, size);
	uint64_t from = nf_crash_nr_ops(d);
	ck_assert_int_eq(salvage(d, &s, aside[0], &got), 0);
	uint64_t to = nf_crash_nr_ops(d);
	ck_assert_uint_ge(to - from, 8);
	for (uint64_t n = from; n <= to; n++) {
		for (uint64_t seed = 0; seed < IMAGES; seed++) {
			struct nf_crash *found;
			struct nf_journal *j = NULL;
			ck_assert_int_eq(nf_crash_image(d, n, seed, &found), 0);
			int r = open_journal(found, &s, &j);
			if (r == -NF_E_JOURNAL_BAD) {
				ck_assert_int_eq(salvage(found, &s, aside[1], &got), 0);
				r = open_journal(found, &s, &j);
			}
			ck_assert_int_eq(r, 0);
			ck_assert_str_eq(s.text, "abcd");
			nothing_is_lost(found, was, size, aside, 2);
			nf_journal_close(j);
			nf_crash_free(found);
		}
	}
	nf_crash_free(d);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "salvage", 60);

	tcase_add_loop_test(tc, what_comes_before_the_damage_counts_and_the_rest_is_kept, 0, SEGMENTS);
	tcase_add_test(tc, a_segment_that_is_gone_or_cut_off_or_a_record_that_is_refused_ends_it_too);
	tcase_add_test(tc, a_crash_on_the_way_loses_nothing);
}

NF_SUITE("journal/salvage")
