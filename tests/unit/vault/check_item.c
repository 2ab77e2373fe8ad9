/* Keys, references and values: round trips, each limit, truncated and random bytes. */
#include "base/error.h"
#include "base/random.h"
#include "suite.h"
#include "vault/item.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

static const struct nf_pack_id self = { { 9, 9, 9 } };
static const struct nf_pack_id other = { { 5, 1 } };

static struct nf_ref good_ref(void)
{
	return (struct nf_ref){ .pack = other, .offset_bytes = 77, .sealed_len = 140, .plain_len = 100,
				.epoch = 3, .tag = { 1, 2, 3 }, .flags = 1 };
}

START_TEST(keys_sort_as_bytes_as_they_sort_as_numbers)
{
	static const uint64_t v[] = { 0, 1, 255, 256, UINT64_C(1) << 40, UINT64_MAX };
	struct nf_key keys[2000], back;
	struct nf_prng p;
	nf_prng_seed(&p, 1);
	for (int i = 0; i < 2000; i++) {
		uint8_t x[NF_KEY_ENCODED], y[NF_KEY_ENCODED];
		keys[i] = (struct nf_key){ v[nf_prng_below(&p, 6)], (uint8_t)nf_prng_below(&p, 256),
					   v[nf_prng_below(&p, 6)], v[nf_prng_below(&p, 6)] };
		nf_key_encode(&keys[i], x);
		nf_key_decode(x, &back);
		ck_assert_int_eq(nf_key_cmp(&back, &keys[i]), 0);
		int j = (int)nf_prng_below(&p, (uint64_t)i + 1), c = nf_key_cmp(&keys[i], &keys[j]);
		nf_key_encode(&keys[j], y);
		int d = memcmp(x, y, sizeof x);
		ck_assert_int_eq((c > 0) - (c < 0), (d > 0) - (d < 0));
	}
}
END_TEST

static struct nf_ref ref_trip(const struct nf_ref *r, const struct nf_pack_id *from)
{
	struct nf_buf b = NF_BUF_INIT;
	struct nf_ref out;
	nf_ref_encode(&b, r);
	ck_assert_uint_eq(b.len, NF_REF_ENCODED);
	struct nf_rd rd = nf_rd_of(b.p, b.len);
	nf_ref_decode(&rd, from, &out);
	ck_assert_int_eq(nf_rd_error(&rd, true), 0);
	nf_buf_deinit(&b);
	return out;
}

START_TEST(a_reference_comes_back_and_this_pack_gets_its_name)
{
	struct nf_ref r = good_ref(), back = ref_trip(&r, &self);
	ck_assert(nf_ref_equal(&r, &back));
	memset(&r.pack, 0, sizeof r.pack);
	back = ref_trip(&r, NULL);
	ck_assert(nf_pack_id_is_zero(&back.pack));
	back = ref_trip(&r, &self);
	ck_assert_mem_eq(&back.pack, &self, sizeof self);
	struct nf_ref null = { 0 };
	back = ref_trip(&null, &self);
	ck_assert(nf_ref_equal(&null, &back));
}
END_TEST

START_TEST(references_over_the_limits_are_refused)
{
	struct nf_ref r = good_ref();
	ck_assert_int_eq(nf_ref_check(&r), 0);
#define BAD(change)                                                                                \
	do {                                                                                       \
		struct nf_ref x = r;                                                               \
		change;                                                                            \
		ck_assert_int_eq(nf_ref_check(&x), -NF_E_FORMAT_BAD);                              \
	} while (0)
	BAD(x.sealed_len = 0);
	BAD(x.sealed_len = 39);
	BAD(x.sealed_len = (8 << 20) + 1);
	BAD(x.offset_bytes = (16 << 20) - 139);
	BAD(x.offset_bytes = UINT32_MAX);
	BAD(x.plain_len = (64 << 20) + 1);
	BAD((x.level = 1, x.plain_len = (32 << 10) + 1));
	BAD(x.level = 12);
	BAD(x.flags = 2);
	BAD(x.epoch = 0);
#undef BAD
	struct nf_buf b = NF_BUF_INIT;
	nf_ref_encode(&b, &r);
	b.p[NF_REF_ENCODED - 1] = 1;
	struct nf_rd rd = nf_rd_of(b.p, b.len);
	nf_ref_decode(&rd, NULL, &r);
	ck_assert_int_eq(nf_rd_error(&rd, true), -NF_E_FORMAT_BAD);
	nf_buf_deinit(&b);
}
END_TEST

/* --- INODE ----------------------------------------------------------------------- */

static struct nf_inode_item good_inode(void)
{
	return (struct nf_inode_item){ .mode = S_IFREG | 04755, .uid = 1, .gid = 2, .nlink = 3,
				       .size_bytes = 5, .rdev = 6, .atime = { -1, 999999999 },
				       .mtime = { 8, 9 }, .ctime = { INT64_MAX, 0 }, .btime = { 11, 12 },
				       .block_shift = 15, .flags = NF_INODE_INLINE, .stamp = { 13, 14 },
				       .inline_len = 5, .inline_data = (const uint8_t *)"hello" };
}

static int inode_trip(const struct nf_inode_item *i)
{
	struct nf_buf b = NF_BUF_INIT;
	struct nf_inode_item out;
	nf_inode_encode(&b, i);
	int r = nf_inode_decode(b.p, b.len, &out);
	if (r == 0) {
		ck_assert_mem_eq(out.inline_data, i->inline_data, i->inline_len);
		ck_assert_int_eq(out.atime.tv_sec, i->atime.tv_sec);
		ck_assert_int_eq(out.btime.tv_nsec, i->btime.tv_nsec);
		ck_assert(nf_stamp_equal(out.stamp, i->stamp));
		ck_assert_uint_eq(out.mode, i->mode);
		ck_assert_uint_eq(out.size_bytes, i->size_bytes);
		ck_assert_uint_eq(out.nlink, i->nlink);
		ck_assert_uint_eq(out.block_shift, i->block_shift);
		for (size_t n = 0; n < b.len; n++)
			ck_assert_int_eq(nf_inode_decode(b.p, n, &out), -NF_E_FORMAT_BAD);
		nf_buf_u8(&b, 0);
		ck_assert_int_eq(nf_inode_decode(b.p, b.len, &out), -NF_E_FORMAT_BAD);
	}
	nf_buf_deinit(&b);
	return r;
}

START_TEST(inodes_come_back_and_what_none_can_be_is_refused)
{
	uint8_t data[NF_SYMLINK_MAX + 1] = { 1 };
	struct nf_inode_item i = good_inode();
	ck_assert_int_eq(inode_trip(&i), 0);
#define TRY(want, change)                                                                          \
	do {                                                                                       \
		struct nf_inode_item x = i;                                                        \
		change;                                                                            \
		ck_assert_int_eq(inode_trip(&x), want);                                            \
	} while (0)
	TRY(-NF_E_FORMAT_BAD, x.mode = 0644);
	TRY(-NF_E_FORMAT_BAD, x.mode |= 1U << 16);
	TRY(-NF_E_FORMAT_BAD, x.nlink = 0);
	TRY(-NF_E_FORMAT_BAD, x.size_bytes = 6);
	TRY(-NF_E_FORMAT_BAD, x.atime.tv_nsec = 1000000000);
	TRY(-NF_E_FORMAT_BAD, x.block_shift = 11);
	TRY(-NF_E_FORMAT_BAD, x.block_shift = 23);
	TRY(-NF_E_FORMAT_BAD, x.flags = 2);
	TRY(-NF_E_FORMAT_BAD, x.flags = 0);
	TRY(0, (x.flags = 0, x.inline_len = 0, x.size_bytes = INT64_MAX));
	TRY(-NF_E_FORMAT_BAD, (x.flags = 0, x.inline_len = 0, x.size_bytes = UINT64_C(1) << 63));
	TRY(0, (x.inline_data = data, x.inline_len = 512, x.size_bytes = 512));
	TRY(-NF_E_FORMAT_BAD, (x.inline_data = data, x.inline_len = 513, x.size_bytes = 513));
	i.mode = S_IFDIR | 0755;
	i.inline_len = i.flags = i.block_shift = 0;
	i.size_bytes = 0;
	TRY(0, (void)x);
	TRY(-NF_E_FORMAT_BAD, x.size_bytes = 1);
	TRY(-NF_E_FORMAT_BAD, x.block_shift = 12);
	TRY(-NF_E_FORMAT_BAD, x.flags = NF_INODE_INLINE);
	i.mode = S_IFLNK | 0777;
	i.inline_data = data;
	TRY(-NF_E_FORMAT_BAD, (void)x);
	TRY(0, x.inline_len = NF_SYMLINK_MAX);
	TRY(-NF_E_FORMAT_BAD, x.inline_len = NF_SYMLINK_MAX + 1);
#undef TRY
}
END_TEST

/* --- lists of names ---------------------------------------------------------------- */

static struct nf_dirent entry(const char *name, uint64_t ino)
{
	return (struct nf_dirent){ .ino = ino, .type = DT_REG, .name = name, .name_len = (uint8_t)strlen(name) };
}

/* Replaces *V by V edited. */
static int edit(struct nf_buf *v, struct nf_dirent d)
{
	struct nf_buf now = NF_BUF_INIT;
	int r = nf_dirent_edit(v->len ? v->p : NULL, v->len, &d, &now);
	if (r == 0) {
		nf_buf_deinit(v);
		*v = now;
	} else {
		nf_buf_deinit(&now);
	}
	return r;
}

START_TEST(names_are_added_found_removed_and_kept_sorted)
{
	static const uint64_t ino = UINT64_C(1) << 40 | 7;
	struct nf_buf v = NF_BUF_INIT;
	struct nf_dirent d;
	size_t pos = 0;
	ck_assert_int_eq(edit(&v, entry("b", ino)), 0);
	ck_assert_int_eq(edit(&v, entry("bb", ino + 2)), 0);
	ck_assert_int_eq(edit(&v, entry("a", ino + 1)), 0);
	ck_assert_int_eq(edit(&v, entry("b", ino)), -EEXIST);
	ck_assert_int_eq(edit(&v, entry("c", 0)), -ENOENT);
	ck_assert_int_eq(nf_dirent_find(v.p, v.len, "bb", 2, &d), 0);
	ck_assert_uint_eq(d.ino, ino + 2);
	ck_assert_int_eq(nf_dirent_find(v.p, v.len, "c", 1, &d), NF_TREE_NONE);
	for (const char *want = "ab"; *want; want++) {
		ck_assert_int_eq(nf_dirent_iter(v.p, v.len, &pos, &d), 0);
		ck_assert_int_eq(d.name[0], *want);
	}
	ck_assert_int_eq(nf_dirent_iter(v.p, v.len, &pos, &d), 0);
	ck_assert_int_eq(nf_dirent_iter(v.p, v.len, &pos, &d), NF_TREE_NONE);
	for (size_t n = 0; n < v.len; n++) {
		/* A whole list of fewer names is the only other thing that parses. */
		pos = 0;
		int r = nf_dirent_iter(v.p, n, &pos, &d);
		ck_assert_int_eq(r, n == 11 || n == 22 ? 0 : -NF_E_FORMAT_BAD);
	}
	ck_assert_int_eq(edit(&v, entry("b", 0)), 0);
	ck_assert_int_eq(edit(&v, entry("a", 0)), 0);
	ck_assert_int_eq(edit(&v, entry("bb", 0)), 0);
	ck_assert_uint_eq(v.len, 0);
	nf_buf_deinit(&v);
}
END_TEST

START_TEST(names_and_numbers_that_cannot_be_are_refused)
{
	static const char *const bad[] = { "", ".", "..", "a/b" };
	static const char *const good[] = { "...", ".a", "..a", "a" };
	char name[256];
	struct nf_buf v = NF_BUF_INIT;
	size_t pos = 0;
	struct nf_dirent d;
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(edit(&v, entry(bad[i], 1)), -EINVAL);
		ck_assert_int_eq(edit(&v, entry(good[i], 1)), 0);
	}
	ck_assert(!nf_name_is_valid("a\0b", 3));
	memset(name, 'x', sizeof name);
	ck_assert(nf_name_is_valid(name, 255));
	ck_assert(!nf_name_is_valid(name, 256));
	ck_assert(nf_ino_is_valid(1) && nf_ino_is_valid(2) && nf_ino_is_valid(UINT64_MAX >> 1));
	ck_assert(!nf_ino_is_valid(0) && !nf_ino_is_valid(3) && !nf_ino_is_valid(UINT64_C(1) << 63));
	ck_assert(!nf_ino_is_valid((UINT64_C(1) << 40) - 1) && nf_ino_is_valid(UINT64_C(1) << 40));
	/* The wrong order, a name twice, a type that is none. */
	static const uint8_t twice[] = { 1, 0, 0, 0, 0, 0, 0, 0, DT_REG, 1, 'a', 1, 0, 0, 0, 0, 0, 0, 0, DT_REG, 1, 'a' };
	uint8_t changed[sizeof twice];
	ck_assert_int_eq(nf_dirent_iter(twice, sizeof twice, &pos, &d), -NF_E_FORMAT_BAD);
	memcpy(changed, twice, sizeof twice);
	changed[21] = 'b';
	ck_assert_int_eq(nf_dirent_iter(changed, sizeof changed, &pos, &d), 0);
	pos = 0;
	changed[8] = 3;
	ck_assert_int_eq(nf_dirent_iter(changed, sizeof changed, &pos, &d), -NF_E_FORMAT_BAD);
	nf_buf_deinit(&v);
}
END_TEST

START_TEST(a_list_of_names_does_not_outgrow_a_value)
{
	struct nf_buf v = NF_BUF_INIT;
	char name[40];
	int i = 0, r;
	do
		snprintf(name, sizeof name, "a name of some length %d", i++);
	while ((r = edit(&v, entry(name, 1))) == 0);
	ck_assert_int_eq(r, -ENOSPC);
	ck_assert_uint_le(v.len, NF_VALUE_MAX);
	ck_assert_uint_gt(v.len, NF_VALUE_MAX - 40);
	nf_buf_deinit(&v);
}
END_TEST

START_TEST(back_references_are_sets_of_names)
{
	struct nf_buf a = NF_BUF_INIT, b = NF_BUF_INIT, c = NF_BUF_INIT;
	const char *name;
	uint8_t len;
	size_t pos = 0;
	ck_assert_int_eq(nf_names_edit(NULL, 0, "b", 1, true, &a), 0);
	ck_assert_int_eq(nf_names_edit(a.p, a.len, "a", 1, true, &b), 0);
	ck_assert_int_eq(nf_names_edit(b.p, b.len, "a", 1, true, &c), -EEXIST);
	ck_assert_int_eq(nf_names_iter(b.p, b.len, &pos, &name, &len), 0);
	ck_assert(len == 1 && name[0] == 'a');
	ck_assert_int_eq(nf_names_edit(b.p, b.len, "b", 1, false, &c), 0);
	pos = 0;
	ck_assert_int_eq(nf_names_iter(c.p, c.len, &pos, &name, &len), 0);
	ck_assert_int_eq(nf_names_iter(c.p, c.len, &pos, &name, &len), NF_TREE_NONE);
	pos = 0;
	ck_assert_int_eq(nf_names_iter("", 0, &pos, &name, &len), -NF_E_FORMAT_BAD);
	nf_buf_deinit(&a);
	nf_buf_deinit(&b);
	nf_buf_deinit(&c);
}
END_TEST

START_TEST(xattrs_are_replaced_and_their_blobs_get_their_pack_named)
{
	struct nf_xattr_entry x = { .name = "user.b", .name_len = 6, .value = (const uint8_t *)"v", .value_len = 1 };
	struct nf_xattr_entry blob = { .name = "user.a", .name_len = 6, .is_blob = true, .blob = good_ref(),
				       .birth = 5, .index = 6 };
	struct nf_buf a = NF_BUF_INIT, b = NF_BUF_INIT, c = NF_BUF_INIT;
	struct nf_xattr_entry e;
	size_t pos = 0;
	memset(&blob.blob.pack, 0, sizeof blob.blob.pack);
	ck_assert_int_eq(nf_xattr_edit(NULL, 0, NULL, &blob, true, &a), 0);
	ck_assert_int_eq(nf_xattr_edit(a.p, a.len, &self, &x, true, &b), 0);
	ck_assert_int_eq(nf_xattr_iter(b.p, b.len, NULL, &pos, &e), 0);
	ck_assert(e.is_blob && e.birth == 5 && e.index == 6);
	ck_assert_mem_eq(&e.blob.pack, &self, sizeof self);
	x.value = NULL;
	x.value_len = 0;
	ck_assert_int_eq(nf_xattr_edit(b.p, b.len, NULL, &x, true, &c), 0);
	ck_assert_int_eq(nf_xattr_iter(c.p, c.len, NULL, &pos, &e), 0);
	ck_assert(!e.is_blob && e.value_len == 0);
	ck_assert_int_eq(nf_xattr_iter(c.p, c.len, NULL, &pos, &e), NF_TREE_NONE);
	x.name = "user.c";
	ck_assert_int_eq(nf_xattr_edit(b.p, b.len, NULL, &x, false, &c), -ENOENT);
	b.p[7] = 2; /* the kind */
	pos = 0;
	ck_assert_int_eq(nf_xattr_iter(b.p, b.len, NULL, &pos, &e), -NF_E_FORMAT_BAD);
	nf_buf_deinit(&a);
	nf_buf_deinit(&b);
	nf_buf_deinit(&c);
}
END_TEST

/* --- EXTENT ------------------------------------------------------------------------ */

static void random_window(struct nf_prng *p, struct nf_block_ref b[NF_WINDOW_BLOCKS], bool known[NF_WINDOW_BLOCKS])
{
	memset(b, 0, NF_WINDOW_BLOCKS * sizeof *b);
	uint64_t runs = 1 + nf_prng_below(p, 20);
	for (unsigned i = 0; i < NF_WINDOW_BLOCKS; i++) {
		known[i] = nf_prng_below(p, 10) != 0;
		if (!known[i] || nf_prng_below(p, 6) == 0)
			continue;
		if (i && b[i - 1].sealed_len && nf_prng_below(p, runs)) {
			b[i] = b[i - 1];
			b[i].offset_bytes += b[i].sealed_len;
			b[i].index++;
		} else {
			b[i].pack.b[nf_prng_below(p, 16)] = 1;
			b[i].offset_bytes = (uint32_t)nf_prng_below(p, 1 << 23);
			b[i].birth = nf_prng_next(p) >> 1;
			b[i].index = (uint32_t)nf_prng_below(p, 1000);
			b[i].epoch = 1 + (uint32_t)nf_prng_below(p, 3);
		}
		b[i].sealed_len = 40 + (uint32_t)nf_prng_below(p, 33000);
		b[i].plain_len = nf_prng_below(p, 4) ? 32768 : 1 + (uint32_t)nf_prng_below(p, 32767);
		b[i].flags = (uint8_t)nf_prng_below(p, 2);
		nf_put_le64(b[i].tag, nf_prng_next(p));
	}
}

START_TEST(windows_of_extents_come_back_however_they_are_cut)
{
	struct nf_block_ref in[NF_WINDOW_BLOCKS], out[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS], back[NF_WINDOW_BLOCKS];
	struct nf_prng p;
	nf_prng_seed(&p, 2);
	for (int n = 0; n < 300; n++) {
		struct nf_buf b = NF_BUF_INIT;
		bool deltas = n & 1;
		random_window(&p, in, known);
		nf_extent_encode(&b, in, known, 32768, deltas);
		ck_assert_uint_le(b.len, NF_VALUE_MAX);
		ck_assert_int_eq(nf_extent_decode(b.p, b.len, NULL, 32768, out, deltas ? back : NULL), 0);
		for (unsigned i = 0; i < NF_WINDOW_BLOCKS; i++) {
			ck_assert_mem_eq(&in[i], &out[i], sizeof in[i]);
			ck_assert(!deltas || known[i] == back[i]);
		}
		nf_buf_deinit(&b);
	}
}
END_TEST

START_TEST(a_window_of_single_blocks_fits_a_value_and_a_run_is_small)
{
	struct nf_block_ref in[NF_WINDOW_BLOCKS];
	struct nf_buf b = NF_BUF_INIT;
	memset(in, 0, sizeof in);
	for (unsigned i = 0; i < NF_WINDOW_BLOCKS; i++)
		in[i] = (struct nf_block_ref){ .pack = other, .offset_bytes = i * 5000, .sealed_len = 4136,
					       .plain_len = 4095, .epoch = 1 };
	nf_extent_encode(&b, in, NULL, 4096, false);
	ck_assert_uint_eq(b.len, 128 * (39 + 24));
	ck_assert_uint_le(b.len, NF_VALUE_MAX);
	b.len = 0;
	for (unsigned i = 0; i < NF_WINDOW_BLOCKS; i++) {
		in[i].offset_bytes = i * 4136;
		in[i].index = i;
		in[i].plain_len = 4096;
	}
	nf_extent_encode(&b, in, NULL, 4096, false);
	ck_assert_uint_eq(b.len, 39 + 128 * 20);
	nf_buf_deinit(&b);
}
END_TEST

START_TEST(extents_that_cannot_be_are_refused)
{
	struct nf_block_ref in[NF_WINDOW_BLOCKS], out[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_buf b = NF_BUF_INIT;
	memset(in, 0, sizeof in);
	for (unsigned i = 0; i < 4; i += 2)
		in[i] = (struct nf_block_ref){ .pack = other, .offset_bytes = 9, .sealed_len = 100, .plain_len = 60,
					       .epoch = 1 };
	nf_extent_encode(&b, in, NULL, 4096, false);
	ck_assert_uint_eq(b.len, 2 * 63);
	ck_assert_int_eq(nf_extent_decode(b.p, b.len, &self, 4096, out, NULL), 0);
	for (size_t n = 0; n < b.len; n++)
		ck_assert_int_eq(nf_extent_decode(b.p, n, &self, 4096, out, NULL),
				 n == 0 || n == 63 ? 0 : -NF_E_FORMAT_BAD);
	/* at, value: what goes wrong there */
	static const struct { uint8_t at, value; const char *what; } bad[] = {
		{ 0, 2, "kind" }, { 0, 1, "a hole outside a delta" }, { 1, 128, "first" }, { 2, 127, "count" },
		{ 64, 0, "order" }, { 30, 0x80, "birth" }, { 35, 0, "epoch" }, { 39, 39, "sealed length" },
		{ 41, 0xff, "sealed length over 8 MiB" }, { 42, 6, "flags" }, { 59, 0, "no plain length" },
		{ 60, 0x10, "plain length of a whole block or more" }, { 22, 0xff, NULL },
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		uint8_t v[2 * 63];
		memcpy(v, b.p, sizeof v);
		v[bad[i].at] = bad[i].value;
		int r = nf_extent_decode(v, sizeof v, &self, 4096, out, NULL);
		ck_assert_msg(r == (bad[i].what ? -NF_E_FORMAT_BAD : 0), "%s", bad[i].what);
	}
	static const uint8_t hole[] = { 1, 5, 2 };
	ck_assert_int_eq(nf_extent_decode(hole, sizeof hole, NULL, 4096, out, known), 0);
	ck_assert(!known[4] && known[5] && known[7] && !known[8]);
	nf_buf_deinit(&b);
}
END_TEST

START_TEST(this_pack_is_written_out_when_a_value_moves)
{
	struct nf_block_ref in[NF_WINDOW_BLOCKS], out[NF_WINDOW_BLOCKS];
	struct nf_buf a = NF_BUF_INIT, b = NF_BUF_INIT;
	memset(in, 0, sizeof in);
	in[3] = (struct nf_block_ref){ .sealed_len = 100, .plain_len = 60, .epoch = 1 };
	in[4] = (struct nf_block_ref){ .pack = other, .sealed_len = 100, .plain_len = 4096, .epoch = 1 };
	nf_extent_encode(&a, in, NULL, 4096, false);
	ck_assert_int_eq(nf_item_rebase(NF_ITEM_EXTENT, a.p, a.len, &self, &b), 0);
	ck_assert_int_eq(nf_extent_decode(b.p, b.len, NULL, 4096, out, NULL), 0);
	ck_assert_mem_eq(&out[3].pack, &self, sizeof self);
	ck_assert_mem_eq(&out[4].pack, &other, sizeof other);
	ck_assert_int_eq(nf_item_rebase(NF_ITEM_EXTENT, a.p, a.len - 1, &self, &b), -NF_E_FORMAT_BAD);
	a.len = b.len = 0;
	struct nf_root_item root = { .time_s = -4 }, root_back;
	nf_root_encode(&a, &root);
	ck_assert_int_eq(nf_item_rebase(NF_ITEM_ROOT, a.p, a.len, &self, &b), 0);
	ck_assert_int_eq(nf_root_decode(b.p, b.len, &self, &root_back), 0);
	ck_assert(nf_ref_is_null(&root_back.root) && nf_pack_id_is_zero(&root_back.root.pack));
	/* A root that stands elsewhere now. */
	a.len = b.len = 0;
	root.root = root.now = good_ref();
	root.now.offset_bytes++;
	root.root.plain_len = root.now.plain_len = 100;
	memset(&root.now.pack, 0, sizeof root.now.pack);
	nf_root_encode(&a, &root);
	ck_assert_int_eq(nf_item_rebase(NF_ITEM_ROOT, a.p, a.len, &self, &b), 0);
	ck_assert_int_eq(nf_root_decode(b.p, b.len, NULL, &root_back), 0);
	ck_assert_mem_eq(&nf_root_now(&root_back)->pack, &self, sizeof self);
	ck_assert_uint_eq(nf_root_now(&root_back)->offset_bytes, root.root.offset_bytes + 1);
	ck_assert_int_eq(nf_root_decode(b.p, b.len - 1, NULL, &root_back), -NF_E_FORMAT_BAD);
	memset(b.p + b.len - NF_REF_ENCODED, 0, NF_REF_ENCODED);
	ck_assert_int_eq(nf_root_decode(b.p, b.len, NULL, &root_back), -NF_E_FORMAT_BAD);
	a.len = b.len = 0;
	struct nf_delta_item d = { .delta = good_ref(), .time_s = 1 }, back;
	memset(&d.delta.pack, 0, sizeof d.delta.pack);
	nf_delta_item_encode(&a, &d);
	ck_assert_int_eq(nf_item_rebase(NF_ITEM_DELTA, a.p, a.len, &self, &b), 0);
	ck_assert_int_eq(nf_delta_item_decode(b.p, b.len, NULL, &back), 0);
	ck_assert_mem_eq(&back.delta.pack, &self, sizeof self);
	nf_buf_deinit(&a);
	nf_buf_deinit(&b);
}
END_TEST

START_TEST(the_vaults_own_records_come_back)
{
	struct nf_writer_item w = { .id = { 1 }, .seq = 2, .seen_s = -3, .next_counter = UINT64_C(1) << 40,
				    .host = "a host" }, w_back;
	struct nf_buf b = NF_BUF_INIT;
	int64_t n;
	nf_writer_encode(&b, &w);
	ck_assert_int_eq(nf_writer_decode(b.p, b.len, &w_back), 0);
	ck_assert_str_eq(w_back.host, w.host);
	ck_assert_int_eq(w_back.seen_s, -3);
	ck_assert_int_eq(nf_writer_decode(b.p, b.len - 1, &w_back), -NF_E_FORMAT_BAD);
	b.p[b.len - 1] = 0;
	ck_assert_int_eq(nf_writer_decode(b.p, b.len, &w_back), -NF_E_FORMAT_BAD);
	b.len = 0;
	w.next_counter++;
	nf_writer_encode(&b, &w);
	ck_assert_int_eq(nf_writer_decode(b.p, b.len, &w_back), -NF_E_FORMAT_BAD);
	b.len = 0;
	nf_counter_encode(&b, -7);
	ck_assert_int_eq(nf_counter_decode(b.p, b.len, &n), 0);
	ck_assert_int_eq(n, -7);
	ck_assert_int_eq(nf_counter_decode(b.p, 7, &n), -NF_E_FORMAT_BAD);
	nf_buf_deinit(&b);
}
END_TEST

START_TEST(random_bytes_are_refused_or_read_within_their_bounds)
{
	struct nf_block_ref blocks[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_inode_item inode;
	struct nf_writer_item writer;
	struct nf_xattr_entry x;
	struct nf_snapshot_entry snap;
	size_t at = 0;
	struct nf_root_item root;
	struct nf_dirent d;
	struct nf_prng p;
	nf_prng_seed(&p, 4);
	for (int n = 0; n < 20000; n++) {
		size_t len = nf_prng_below(&p, 200), pos = 0;
		uint8_t *v = malloc(len ? len : 1); /* of its own, so that the sanitizer sees the end */
		for (size_t i = 0; i < len; i++)
			v[i] = (uint8_t)(nf_prng_below(&p, 3) ? nf_prng_below(&p, 4) : nf_prng_next(&p));
		(void)!nf_inode_decode(v, len, &inode);
		(void)!nf_writer_decode(v, len, &writer);
		(void)!nf_root_decode(v, len, &self, &root);
		while (nf_snapshot_iter(v, len, &self, &at, &snap) == 0)
			;
		at = 0;
		(void)!nf_extent_decode(v, len, &self, 4096, blocks, known);
		while (nf_dirent_iter(v, len, &pos, &d) == 0)
			;
		pos = 0;
		while (nf_xattr_iter(v, len, &self, &pos, &x) == 0)
			;
		for (uint8_t type = 0; type < 22; type++) {
			struct nf_buf b = NF_BUF_INIT;
			(void)!nf_item_rebase(type, v, len, &self, &b);
			nf_buf_deinit(&b);
		}
		free(v);
	}
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "items", 20);
	tcase_add_test(tc, keys_sort_as_bytes_as_they_sort_as_numbers);
	tcase_add_test(tc, a_reference_comes_back_and_this_pack_gets_its_name);
	tcase_add_test(tc, references_over_the_limits_are_refused);
	tcase_add_test(tc, inodes_come_back_and_what_none_can_be_is_refused);
	tcase_add_test(tc, names_are_added_found_removed_and_kept_sorted);
	tcase_add_test(tc, names_and_numbers_that_cannot_be_are_refused);
	tcase_add_test(tc, a_list_of_names_does_not_outgrow_a_value);
	tcase_add_test(tc, back_references_are_sets_of_names);
	tcase_add_test(tc, xattrs_are_replaced_and_their_blobs_get_their_pack_named);
	tcase_add_test(tc, windows_of_extents_come_back_however_they_are_cut);
	tcase_add_test(tc, a_window_of_single_blocks_fits_a_value_and_a_run_is_small);
	tcase_add_test(tc, extents_that_cannot_be_are_refused);
	tcase_add_test(tc, this_pack_is_written_out_when_a_value_moves);
	tcase_add_test(tc, the_vaults_own_records_come_back);
	tcase_add_test(tc, random_bytes_are_refused_or_read_within_their_bounds);
}

NF_SUITE("vault/item")
