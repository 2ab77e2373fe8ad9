/* What a writer had not sent, beside what came to the server under its name (vault/unsent.h). */
#include "suite.h"
#include "vault/unsent.h"

enum { OLD = 7, FIRST = 5 };

static uint64_t inode(uint64_t n) { return (uint64_t)OLD << 40 | n; }

static uint64_t number(void *ctx)
{
	uint64_t *next = ctx;

	return (uint64_t)9 << 40 | (*next)++;
}

/* An operation of each kind is told by its inode and when it was done. */
static struct nf_op op(enum nf_op_kind kind, uint64_t ino, int64_t at)
{
	struct nf_op o = { .kind = kind, .conflict_mode = NF_MODE_STASH, .time = { at, 123 }, .ino = ino };

	if (kind == NF_OP_CREATE || kind == NF_OP_UNLINK || kind == NF_OP_RENAME || kind == NF_OP_LINK) {
		o.parent = NF_INO_ROOT;
		o.name = "name";
		o.name_len = 4;
	}
	if (kind == NF_OP_CREATE) {
		o.mode = S_IFREG | 0644;
		o.block_shift = 14;
	}
	if (kind == NF_OP_RENAME) {
		o.new_parent = NF_INO_ROOT;
		o.new_name = "other";
		o.new_name_len = 5;
	}
	if (kind == NF_OP_DATA) {
		o.flags = NF_OPF_INLINE;
		o.least_size = UINT64_MAX;
		o.stamp = (struct nf_stamp){ OLD, FIRST };
	}
	if (kind == NF_OP_SETATTR) {
		o.mask = NF_OPA_MODE;
		o.base.mode = S_IFREG | 0600;
		o.now.mode = S_IFREG | 0644;
	}
	return o;
}

struct rig {
	struct nf_unsent u;
	uint64_t next;
	struct nf_buf in, rest;
};

static void add(struct rig *r, struct nf_op o) { nf_op_encode(&r->u.ops, &o); }

static void indexed(struct rig *r)
{
	r->u.writer = OLD;
	r->u.first_seq = FIRST;
	r->u.number = number;
	r->u.ctx = &r->next;
	r->next = 1;
	ck_assert_int_eq(nf_unsent_index(&r->u), 0);
}

static void published(struct rig *r, uint64_t seq, const struct nf_op *ops, size_t nr)
{
	struct nf_buf b = NF_BUF_INIT;

	for (size_t i = 0; i < nr; i++)
		nf_op_encode(&b, &ops[i]);
	ck_assert_int_eq(nf_unsent_published(&r->u, seq, b.p, b.len), 0);
	nf_buf_deinit(&b);
}

/* WANT: a character for each, 1 if it is in. */
static void judged(struct rig *r, const char *want)
{
	uint32_t rest = 0;

	nf_unsent_judge(&r->u);
	ck_assert_uint_eq(strlen(want), r->u.nr);
	for (uint32_t i = 0; i < r->u.nr; i++) {
		ck_assert_msg(r->u.all[i].in == (want[i] == '1'), "operation %u, wanted %s", i, want);
		rest += want[i] == '0';
	}
	ck_assert_uint_eq(r->u.nr_rest, rest);
	ck_assert_int_eq(nf_unsent_part(&r->u, 0, r->u.ops.len, &r->in, &r->rest), 0);
}

static struct nf_op next_of(struct nf_rd *rd)
{
	struct nf_op o;

	ck_assert_int_eq(nf_op_decode(rd, NULL, &o), 0);
	return o;
}

static void deinit(struct rig *r)
{
	nf_unsent_deinit(&r->u);
	nf_buf_deinit(&r->in);
	nf_buf_deinit(&r->rest);
}

#define NR(a) (sizeof(a) / sizeof *(a))

START_TEST(what_was_found_tells_of_all_before_it)
{
	struct rig r = { 0 };
	const struct nf_op sent[] = { op(NF_OP_CREATE, inode(1), 1), op(NF_OP_RENAME, inode(1), 3) };

	add(&r, op(NF_OP_CREATE, inode(1), 1));
	add(&r, op(NF_OP_UNLINK, inode(50), 2)); /* without effect there, so not told */
	add(&r, op(NF_OP_RENAME, inode(1), 3));
	add(&r, op(NF_OP_CREATE, inode(2), 4));
	indexed(&r);
	published(&r, FIRST, sent, NR(sent));
	judged(&r, "1110");
	deinit(&r);
}
END_TEST

/* The same inode number, given by both: not the same file. */
START_TEST(what_the_other_did_since_is_not_taken_for_ours)
{
	struct rig r = { 0 };
	const struct nf_op sent[] = { op(NF_OP_CREATE, inode(1), 1), op(NF_OP_CREATE, inode(2), 5), op(NF_OP_DATA, inode(2), 6) };

	add(&r, op(NF_OP_CREATE, inode(1), 1));
	add(&r, op(NF_OP_CREATE, inode(2), 4));
	add(&r, op(NF_OP_DATA, inode(2), 5));
	indexed(&r);
	published(&r, FIRST, sent, NR(sent));
	judged(&r, "100");
	struct nf_rd rd = nf_rd_of(r.rest.p, r.rest.len);
	ck_assert_uint_eq(next_of(&rd).ino, (uint64_t)9 << 40 | 1);
	struct nf_op data = next_of(&rd);
	ck_assert_uint_eq(data.ino, (uint64_t)9 << 40 | 1);
	ck_assert_uint_eq(nf_unsent_number(&r.u, inode(2)), data.ino);
	ck_assert_uint_eq(nf_unsent_number(&r.u, inode(1)), inode(1));
	deinit(&r);
}
END_TEST

/* Squashed, and sent in part: data of a file stands where the first of it stood, with the time of the last. */
START_TEST(data_that_was_squashed_speaks_only_for_its_own_file)
{
	struct rig r = { 0 };
	const struct nf_op sent[] = { op(NF_OP_CREATE, inode(1), 1), op(NF_OP_DATA, inode(1), 5) };

	add(&r, op(NF_OP_CREATE, inode(1), 1));
	add(&r, op(NF_OP_DATA, inode(1), 2));
	add(&r, op(NF_OP_CREATE, inode(2), 3));
	add(&r, op(NF_OP_DATA, inode(2), 4));
	add(&r, op(NF_OP_DATA, inode(1), 5));
	add(&r, op(NF_OP_DATA, inode(1), 6));
	indexed(&r);
	published(&r, FIRST, sent, NR(sent));
	judged(&r, "110010");
	deinit(&r);
}
END_TEST

/* The delta that made the file is not kept any more: data of it tells that it is there. */
START_TEST(data_tells_that_its_file_was_made)
{
	const struct nf_op sent = op(NF_OP_DATA, inode(1), 4);
	struct rig r = { 0 };

	add(&r, op(NF_OP_UNLINK, inode(9), 1));
	add(&r, op(NF_OP_CREATE, inode(1), 2));
	add(&r, op(NF_OP_CREATE, inode(2), 3));
	add(&r, op(NF_OP_DATA, inode(1), 4));
	indexed(&r);
	published(&r, FIRST + 1, &sent, 1);
	judged(&r, "1101");
	deinit(&r);
}
END_TEST

/* Attributes that were squashed stand where the last stood. */
START_TEST(attributes_that_were_squashed_are_in_with_a_later_one_only)
{
	struct rig r = { 0 };
	const struct nf_op sent[] = { op(NF_OP_CREATE, inode(2), 2), op(NF_OP_SETATTR, inode(3), 5) };

	add(&r, op(NF_OP_SETATTR, inode(1), 1));
	add(&r, op(NF_OP_CREATE, inode(2), 2));
	add(&r, op(NF_OP_SETATTR, inode(3), 3));
	add(&r, op(NF_OP_SETATTR, inode(3), 5));
	add(&r, op(NF_OP_SETATTR, inode(1), 6));
	indexed(&r);
	published(&r, FIRST, sent, NR(sent));
	judged(&r, "01110");
	deinit(&r);
}
END_TEST

/* _i: 0 the file is as its author saw it; 1 the same dot has more of it; 2 nobody knows what is there. */
START_TEST(a_version_is_named_only_where_it_is_known_to_be_the_same)
{
	struct rig r = { 0 };
	const struct nf_op sent[] = { op(NF_OP_DATA, inode(1), 1), op(NF_OP_CREATE, inode(2), 2), op(NF_OP_DATA, inode(1), 9) };

	add(&r, op(NF_OP_DATA, inode(1), 1));
	add(&r, op(NF_OP_CREATE, inode(2), 2));
	add(&r, op(NF_OP_DATA, inode(1), 3));
	indexed(&r);
	published(&r, FIRST + 2, sent + (_i == 2), _i == 1 ? 3 : _i == 2 ? 1 : 2);
	judged(&r, "110");
	struct nf_rd rd = nf_rd_of(r.rest.p, r.rest.len);
	struct nf_op o = next_of(&rd);
	ck_assert_uint_eq(o.stamp.writer, OLD);
	ck_assert_uint_eq(o.stamp.seq, _i == 0 ? FIRST + 2 : UINT64_MAX);
	deinit(&r);
}
END_TEST

START_TEST(the_housekeeping_of_a_collector_is_no_part_of_the_rest)
{
	struct nf_op claim = { .kind = NF_OP_CLAIM, .conflict_mode = NF_MODE_STASH, .prefix = OLD };
	struct rig r = { 0 };

	add(&r, claim);
	add(&r, op(NF_OP_MOVE, inode(1), 1));
	add(&r, op(NF_OP_CREATE, inode(2), 2));
	indexed(&r);
	nf_unsent_judge(&r.u);
	ck_assert_uint_eq(r.u.nr_rest, 1);
	ck_assert_int_eq(nf_unsent_part(&r.u, 0, r.u.ops.len, &r.in, &r.rest), 0);
	ck_assert_uint_eq(r.in.len, 0);
	struct nf_rd rd = nf_rd_of(r.rest.p, r.rest.len);
	ck_assert_int_eq(next_of(&rd).kind, NF_OP_CREATE);
	ck_assert_uint_eq(nf_rd_left(&rd), 0);
	deinit(&r);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "unsent", 20);

	tcase_add_test(tc, what_was_found_tells_of_all_before_it);
	tcase_add_test(tc, what_the_other_did_since_is_not_taken_for_ours);
	tcase_add_test(tc, data_that_was_squashed_speaks_only_for_its_own_file);
	tcase_add_test(tc, data_tells_that_its_file_was_made);
	tcase_add_test(tc, attributes_that_were_squashed_are_in_with_a_later_one_only);
	tcase_add_loop_test(tc, a_version_is_named_only_where_it_is_known_to_be_the_same, 0, 3);
	tcase_add_test(tc, the_housekeeping_of_a_collector_is_no_part_of_the_rest);
}

NF_SUITE("vault/unsent")
