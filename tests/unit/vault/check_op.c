#include "vault/op.h"

#include "base/error.h"
#include "base/mem.h"
#include "suite.h"
#include "vault/tree.h"

#define INO(n) ((UINT64_C(5) << 40) + (n))

static const struct nf_pack_id pack = { { 7, 7, 7 } };

static struct nf_op base_op(enum nf_op_kind kind)
{
	return (struct nf_op){ .kind = kind, .conflict_mode = NF_MODE_STASH, .time = { -5, 999999999 },
			       .ino = INO(9), .parent = NF_INO_ROOT, .name = "a.txt", .name_len = 5,
			       .stamp = { 5, 77 } };
}

static struct nf_op create_op(void)
{
	struct nf_op op = base_op(NF_OP_CREATE);
	op.mode = S_IFREG | 0644;
	op.uid = 1;
	op.gid = 2;
	op.rdev = 3;
	op.block_shift = 15;
	return op;
}

static struct nf_op rename_op(void)
{
	struct nf_op op = base_op(NF_OP_RENAME);
	op.new_parent = INO(3);
	op.replaced = INO(4);
	op.new_name = "b";
	op.new_name_len = 1;
	return op;
}

static struct nf_op setattr_op(void)
{
	struct nf_op op = base_op(NF_OP_SETATTR);
	op.mask = 127;
	op.base = (struct nf_op_attrs){ S_IFREG | 0600, 10, 11, { 1, 2 }, { 3, 4 }, { 5, 6 }, { 7, 8 } };
	op.now = (struct nf_op_attrs){ S_IFREG | 0640, 12, 13, { 11, 2 }, { 13, 4 }, { 15, 6 }, { 17, 8 } };
	return op;
}

static struct nf_op claim_op(void)
{
	struct nf_op op = { .kind = NF_OP_CLAIM, .conflict_mode = NF_MODE_DISCARD, .prefix = 5, .host = "box",
			    .host_len = 3, .writer_id = { 1, 2, 3 } };
	return op;
}

static struct nf_op xattr_op(void)
{
	struct nf_op op = base_op(NF_OP_XATTR);
	op.flags = NF_OPF_HAD_BASE;
	op.value = (const uint8_t *)"v";
	op.value_len = 1;
	return op;
}

static struct nf_op blob_op(void)
{
	struct nf_op op = base_op(NF_OP_XATTR);
	op.flags = NF_OPF_BLOB;
	op.blob = (struct nf_ref){ .pack = pack, .offset_bytes = 4, .sealed_len = 9000, .plain_len = 8000, .epoch = 1 };
	op.blob_birth = INO(6);
	op.blob_index = 2;
	return op;
}

static uint8_t places[3 * NF_PLACE_ENCODED];

/* A root, a delta and a snapshot's root stand elsewhere. */
static struct nf_op place_op(void)
{
	static const uint8_t types[3] = { NF_ITEM_ROOT, NF_ITEM_DELTA, NF_ITEM_SNAPSHOT };
	struct nf_op op = { .kind = NF_OP_PLACE, .conflict_mode = NF_MODE_STASH, .places = places, .nr_places = 3 };
	struct nf_buf b = NF_BUF_INIT;

	for (unsigned i = 0; i < 3; i++) {
		struct nf_place p = { .key = { .type = types[i], .a = i, .b = 7 }, .rand = { (uint8_t)i } };
		p.old = (struct nf_ref){ .pack = pack, .offset_bytes = 4, .sealed_len = 900, .plain_len = 800, .epoch = 1 };
		p.now = p.old;
		p.now.offset_bytes = 5;
		nf_place_encode(&b, &p);
	}
	ck_assert_uint_eq(b.len, sizeof places);
	memcpy(places, b.p, sizeof places);
	nf_buf_deinit(&b);
	return op;
}

static struct nf_op snapshot_op(void)
{
	struct nf_op op = base_op(NF_OP_SNAPSHOT);
	op.snapshot = (struct nf_snapshot_entry){ .name = "before", .name_len = 6, .seq = 9, .rand = { 1 }, .tag = { 2 },
						  .time_s = -5 };
	op.snapshot.root = (struct nf_ref){ .pack = pack, .offset_bytes = 4, .sealed_len = 900, .plain_len = 800,
					    .epoch = 1 };
	op.flags = NF_OPF_FORGET;
	return op;
}

/* Two ranges and two windows, one with a hole said so. */
static struct nf_op data_op(struct nf_buf *ranges, struct nf_buf *windows)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS] = { 0 };
	bool known[NF_WINDOW_BLOCKS] = { true, true, false };
	struct nf_op op = base_op(NF_OP_DATA);

	refs[0] = (struct nf_block_ref){ .pack = pack, .sealed_len = 100, .plain_len = 32768, .birth = INO(8),
					 .epoch = 1 };
	for (uint64_t first = 0; first <= NF_WINDOW_BLOCKS; first += NF_WINDOW_BLOCKS) {
		nf_auto(nf_buf_deinit) struct nf_buf v = NF_BUF_INIT;
		nf_extent_encode(&v, refs, known, 32768, true);
		nf_buf_u64(windows, first);
		nf_buf_str16(windows, v.p, v.len);
	}
	static const uint64_t r[4] = { 0, 100, 100, 5000000 };
	for (int i = 0; i < 4; i++)
		nf_buf_u64(ranges, r[i]);
	op.flags = NF_OPF_APPEND;
	op.mtime = (struct timespec){ 1, 1 };
	op.size_before = 10;
	op.least_size = UINT64_MAX;
	op.size_after = 5000000;
	op.ranges = ranges->p;
	op.nr_ranges = 2;
	op.windows = windows->p;
	op.windows_len = windows->len;
	op.nr_windows = 2;
	return op;
}

/* Two windows, and the same before they were sealed again. */
static struct nf_op reseal_op(struct nf_buf *windows, struct nf_buf *olds)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS] = { 0 };
	bool known[NF_WINDOW_BLOCKS] = { false, true };
	struct nf_op op = { .kind = NF_OP_RESEAL, .conflict_mode = NF_MODE_STASH, .ino = INO(9), .nr_windows = 2 };

	refs[1] = (struct nf_block_ref){ .pack = pack, .sealed_len = 100, .plain_len = 32768, .birth = INO(8), .epoch = 1 };
	for (uint64_t first = 0; first <= NF_WINDOW_BLOCKS; first += NF_WINDOW_BLOCKS) {
		for (refs[1].epoch = 1; refs[1].epoch <= 2; refs[1].epoch++) {
			nf_auto(nf_buf_deinit) struct nf_buf v = NF_BUF_INIT;
			struct nf_buf *to = refs[1].epoch == 1 ? olds : windows;
			nf_extent_encode(&v, refs, known, 32768, false);
			nf_buf_u64(to, first);
			nf_buf_str16(to, v.p, v.len);
		}
	}
	op.windows = windows->p;
	op.windows_len = windows->len;
	op.olds = olds->p;
	op.olds_len = olds->len;
	return op;
}

static int decode(const struct nf_buf *b, struct nf_op *out)
{
	struct nf_rd rd = nf_rd_of(b->p, b->len);
	int r = nf_op_decode(&rd, &pack, out);
	if (r == 0)
		ck_assert_uint_eq(nf_rd_left(&rd), 0);
	return r;
}

static int round_trip(const struct nf_op *op)
{
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT, again = NF_BUF_INIT;
	nf_auto(nf_text_deinit) struct nf_text t = NF_TEXT_INIT;
	struct nf_op got;

	nf_op_encode(&b, op);
	int r = decode(&b, &got);
	if (r < 0)
		return r;
	nf_op_encode(&again, &got);
	ck_assert_uint_eq(again.len, b.len);
	ck_assert_mem_eq(again.p, b.p, b.len);
	nf_op_to_text(&got, &t);
	ck_assert_uint_gt(t.len, 5);
	/* Every shorter encoding is refused, and one byte more is not taken. */
	for (size_t cut = 0; cut < b.len; cut++) {
		struct nf_rd rd = nf_rd_of(b.p, cut);
		ck_assert_int_lt(nf_op_decode(&rd, &pack, &got), 0);
	}
	b.p[14]++; /* the body's length */
	nf_buf_u8(&b, 0);
	ck_assert_int_eq(decode(&b, &got), -NF_E_FORMAT_BAD);
	return 0;
}

START_TEST(every_kind_of_operation_survives_a_round_trip)
{
	nf_auto(nf_buf_deinit) struct nf_buf ranges = NF_BUF_INIT, windows = NF_BUF_INIT, now = NF_BUF_INIT, olds = NF_BUF_INIT;
	struct nf_op link = base_op(NF_OP_LINK), un = base_op(NF_OP_UNLINK), symlink = create_op();
	symlink.mode = S_IFLNK | 0777;
	symlink.block_shift = 0;
	symlink.target = "x/y";
	symlink.target_len = 3;
	struct nf_op inl = base_op(NF_OP_DATA);
	inl.flags = NF_OPF_INLINE;
	inl.inline_data = (const uint8_t *)"hello";
	inl.inline_len = 5;
	inl.size_after = 5;
	const struct nf_op all[] = { create_op(), symlink, link, un, rename_op(), setattr_op(), claim_op(),
				     xattr_op(), blob_op(), inl, data_op(&ranges, &windows), place_op(),
				     reseal_op(&now, &olds) };
	for (size_t i = 0; i < NF_ARRAY_LEN(all); i++)
		ck_assert_msg(round_trip(&all[i]) == 0, "operation %zu", i);
}
END_TEST

START_TEST(fields_come_back_where_they_were)
{
	nf_auto(nf_buf_deinit) struct nf_buf ranges = NF_BUF_INIT, windows = NF_BUF_INIT, b = NF_BUF_INIT;
	struct nf_op op = data_op(&ranges, &windows), got;
	uint64_t start, end, first;
	const uint8_t *value;
	size_t pos = 0, len;

	nf_op_encode(&b, &op);
	ck_assert_int_eq(decode(&b, &got), 0);
	ck_assert(got.conflict_mode == NF_MODE_STASH && got.time.tv_sec == -5 && got.stamp.seq == 77);
	nf_op_range(&got, 1, &start, &end);
	ck_assert(start == 100 && end == 5000000);
	ck_assert_int_eq(nf_op_window_iter(&got, &pos, &first, &value, &len), 0);
	ck_assert_uint_eq(first, 0);
	ck_assert_int_eq(nf_op_window_iter(&got, &pos, &first, &value, &len), 0);
	ck_assert_uint_eq(first, NF_WINDOW_BLOCKS);
	ck_assert_int_eq(nf_op_window_iter(&got, &pos, &first, &value, &len), NF_TREE_NONE);
	struct nf_op set = setattr_op();
	b.len = 0;
	nf_op_encode(&b, &set);
	ck_assert_int_eq(decode(&b, &got), 0);
	ck_assert(got.base.gid == 11 && got.now.gid == 13 && got.now.btime.tv_sec == 17 && got.base.mode == set.base.mode);
}
END_TEST

#define REFUSED(make, change)                                                                      \
	do {                                                                                       \
		struct nf_op op = make;                                                            \
		change;                                                                            \
		ck_assert_msg(round_trip(&op) == -NF_E_FORMAT_BAD, "%s", #change);                 \
	} while (0)

START_TEST(values_outside_their_limits_are_refused)
{
	nf_auto(nf_buf_deinit) struct nf_buf ranges = NF_BUF_INIT, windows = NF_BUF_INIT, now = NF_BUF_INIT, olds = NF_BUF_INIT;
	struct nf_op data = data_op(&ranges, &windows), reseal = reseal_op(&now, &olds);
	size_t one = olds.len / 2;

	REFUSED(create_op(), op.ino = 0);
	REFUSED(create_op(), op.ino = NF_INO_ROOT);
	REFUSED(create_op(), op.ino = 3);
	REFUSED(create_op(), op.ino |= UINT64_C(1) << 63);
	REFUSED(create_op(), op.parent = 7);
	REFUSED(create_op(), op.name_len = 0);
	REFUSED(create_op(), op.name = "a/b"; op.name_len = 3);
	REFUSED(create_op(), op.name = "a\0b"; op.name_len = 3);
	REFUSED(create_op(), op.name = "."; op.name_len = 1);
	REFUSED(create_op(), op.name = ".."; op.name_len = 2);
	REFUSED(create_op(), op.mode = 0644);
	REFUSED(create_op(), op.mode |= 1u << 20);
	REFUSED(create_op(), op.block_shift = 11);
	REFUSED(create_op(), op.block_shift = 23);
	REFUSED(create_op(), op.mode = S_IFDIR | 0755);
	REFUSED(create_op(), op.target = "x"; op.target_len = 1);
	REFUSED(create_op(), op.mode = S_IFLNK | 0777; op.block_shift = 0);
	REFUSED(create_op(), op.conflict_mode = (enum nf_conflict_mode)0);
	REFUSED(create_op(), op.conflict_mode = (enum nf_conflict_mode)6);
	REFUSED(create_op(), op.kind = (enum nf_op_kind)0);
	REFUSED(create_op(), op.kind = NF_OP_KIND_NR);
	REFUSED(create_op(), op.time.tv_nsec = 1000000000);
	REFUSED(snapshot_op(), op.flags = 2);
	REFUSED(snapshot_op(), op.snapshot.name_len = 0);
	REFUSED(snapshot_op(), op.snapshot.name = "a/bcde");
	REFUSED(snapshot_op(), op.snapshot.seq = 0);
	REFUSED(snapshot_op(), op.snapshot.root = (struct nf_ref){ 0 });
	/* A delta's tag stays within an epoch, no tree is nowhere, and nothing else has a place. */
	REFUSED(place_op(), places[2 * NF_PLACE_ENCODED - 10]++);
	REFUSED(place_op(), memset(places + 33, 0, NF_REF_ENCODED));
	REFUSED(place_op(), places[0] = NF_ITEM_CONDEMNED);
	REFUSED(rename_op(), op.flags = 2);
	REFUSED(rename_op(), op.replaced = 5);
	REFUSED(rename_op(), op.new_name = ".."; op.new_name_len = 2);
	REFUSED(setattr_op(), op.mask = 0x80);
	REFUSED(setattr_op(), op.now.mode = S_IFDIR | 0755);
	REFUSED(setattr_op(), op.now.btime.tv_nsec = -1);
	REFUSED(claim_op(), op.prefix = 0);
	REFUSED(claim_op(), op.prefix = 1 << 23);
	REFUSED(xattr_op(), op.flags = 8);
	REFUSED(xattr_op(), op.flags = NF_OPF_REMOVE);
	REFUSED(xattr_op(), op.name_len = 0);
	REFUSED(blob_op(), op.flags |= NF_OPF_REMOVE);
	REFUSED(blob_op(), op.blob.plain_len = 65537);
	REFUSED(blob_op(), op.blob.level = 1);
	REFUSED(blob_op(), op.blob.sealed_len = 0);
	REFUSED(data, op.flags = 8);
	REFUSED(data, op.flags |= NF_OPF_INLINE);
	REFUSED(data, op.inline_data = op.ranges; op.inline_len = 1);
	REFUSED(data, op.size_after = UINT64_MAX);
	REFUSED(data, op.least_size = UINT64_MAX - 1);
	REFUSED(data, op.nr_windows = 3);
	REFUSED(data, op.nr_windows = 1);
	REFUSED(data, op.windows_len--);
	/* Both lists say something of the same windows. */
	REFUSED(reseal, op.nr_windows = 1);
	REFUSED(reseal, op.olds_len = one);
	REFUSED(reseal, op.olds = op.windows; op.olds_len = one);
	nf_put_le64(olds.p + one, 2 * NF_WINDOW_BLOCKS);
	REFUSED(reseal, (void)0);
	nf_put_le64(olds.p + one, NF_WINDOW_BLOCKS);
	ck_assert_int_eq(round_trip(&reseal), 0);
}
END_TEST

START_TEST(ranges_and_windows_out_of_order_are_refused)
{
	nf_auto(nf_buf_deinit) struct nf_buf ranges = NF_BUF_INIT, windows = NF_BUF_INIT;
	struct nf_op op = data_op(&ranges, &windows);

	nf_put_le64(ranges.p + 16, 99); /* overlaps the first */
	ck_assert_int_eq(round_trip(&op), -NF_E_FORMAT_BAD);
	nf_put_le64(ranges.p + 16, 5000000); /* empty */
	ck_assert_int_eq(round_trip(&op), -NF_E_FORMAT_BAD);
	nf_put_le64(ranges.p + 16, 200); /* a gap is fine */
	ck_assert_int_eq(round_trip(&op), 0);
	nf_put_le64(ranges.p + 24, UINT64_C(1) << 63);
	ck_assert_int_eq(round_trip(&op), -NF_E_FORMAT_BAD);
	nf_put_le64(ranges.p + 24, 300);
	nf_put_le64(windows.p, 1); /* no multiple */
	ck_assert_int_eq(round_trip(&op), -NF_E_FORMAT_BAD);
	nf_put_le64(windows.p, NF_WINDOW_BLOCKS); /* the same twice */
	ck_assert_int_eq(round_trip(&op), -NF_E_FORMAT_BAD);
	nf_put_le64(windows.p, 0);
	ck_assert_int_eq(round_trip(&op), 0);
	windows.p[10] = 9; /* kind of the first segment */
	ck_assert_int_eq(round_trip(&op), -NF_E_FORMAT_BAD);
}
END_TEST

static void make_delta(struct nf_delta *d, struct nf_buf *ops)
{
	const struct nf_op all[] = { claim_op(), create_op(), rename_op(), setattr_op(), blob_op(), snapshot_op(), place_op() };
	for (size_t i = 0; i < NF_ARRAY_LEN(all); i++)
		nf_op_encode(ops, &all[i]);
	*d = (struct nf_delta){ .writer = 5, .seq = 12, .time = { 9, 9 }, .host = "box", .first_spare = INO(100),
				.nr_ops = NF_ARRAY_LEN(all), .ops = ops->p, .ops_len = ops->len,
				.base_root = { .offset_bytes = 8, .sealed_len = 200, .plain_len = 150, .epoch = 1 } };
}

START_TEST(a_delta_survives_a_round_trip_and_this_pack_is_resolved)
{
	nf_auto(nf_buf_deinit) struct nf_buf ops = NF_BUF_INIT, b = NF_BUF_INIT;
	struct nf_delta d, got;

	make_delta(&d, &ops);
	nf_delta_encode(&b, &d);
	ck_assert_int_eq(nf_delta_decode(b.p, b.len, &pack, &got), 0);
	ck_assert(got.writer == 5 && got.seq == 12 && got.nr_ops == 7 && got.ops_len == ops.len);
	ck_assert_str_eq(got.host, "box");
	ck_assert_mem_eq(&got.base_root.pack, &pack, sizeof pack);
	for (size_t cut = 0; cut < b.len; cut++)
		ck_assert_int_lt(nf_delta_decode(b.p, cut, &pack, &got), 0);
	nf_buf_u8(&b, 0);
	ck_assert_int_eq(nf_delta_decode(b.p, b.len, &pack, &got), -NF_E_FORMAT_BAD);
}
END_TEST

START_TEST(bad_deltas_are_refused)
{
	nf_auto(nf_buf_deinit) struct nf_buf ops = NF_BUF_INIT;
	struct nf_delta d, got;

	make_delta(&d, &ops);
	for (int i = 0; i < 8; i++) {
		nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
		struct nf_delta x = d;
		switch (i) {
		case 0: x.writer = 0; break;
		case 1: x.writer = 1 << 23; break;
		case 2: x.seq = 0; break;
		case 3: x.first_spare = 0; break;
		case 4: x.first_spare = (UINT64_C(6) << 40) - 2; break; /* runs over */
		case 5: x.nr_ops++; break;
		case 6: x.nr_ops = UINT32_MAX; break;
		case 7: x.base_root.epoch = 0; break;
		}
		nf_delta_encode(&b, &x);
		ck_assert_msg(nf_delta_decode(b.p, b.len, &pack, &got) == -NF_E_FORMAT_BAD, "change %d", i);
	}
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	nf_delta_encode(&b, &d);
	b.p[0] = 2;
	ck_assert_int_eq(nf_delta_decode(b.p, b.len, &pack, &got), -NF_E_FORMAT_UNKNOWN);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "op", 30);
	tcase_add_test(tc, every_kind_of_operation_survives_a_round_trip);
	tcase_add_test(tc, fields_come_back_where_they_were);
	tcase_add_test(tc, values_outside_their_limits_are_refused);
	tcase_add_test(tc, ranges_and_windows_out_of_order_are_refused);
	tcase_add_test(tc, a_delta_survives_a_round_trip_and_this_pack_is_resolved);
	tcase_add_test(tc, bad_deltas_are_refused);
}

NF_SUITE("vault/op")
