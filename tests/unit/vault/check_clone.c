/* Copies by reference to a leaf: the value, what is written over it, and references that lead nowhere. */
#include "vfs.h"

#include "base/counter.h"
#include "base/lock.h"
#include "base/random.h"
#include "vault/apply.h"
#include "vault/node.h"
#include "vault/vault_i.h"

enum { BLOCK = 4096, WINDOW = 128 * BLOCK, SIZE = 3 * WINDOW + 5 * BLOCK + 777 };

/* --- values --------------------------------------------------------------------------- */

static struct nf_extent_ref some_ref(void)
{
	return (struct nf_extent_ref){ .leaf = { .pack = { { 3 } }, .offset_bytes = 50, .sealed_len = 400, .plain_len = 300,
						 .epoch = 1, .tag = { 9 } },
				       .ino = UINT64_C(5) << 40 | 7, .first_block = 256 };
}

static int decode(const struct nf_extent_ref *r, const struct nf_pack_id *self, bool whole)
{
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	struct nf_extent_ref got;

	nf_extent_ref_encode(&b, r);
	ck_assert_uint_eq(b.len, NF_EXTENT_REF_ENCODED);
	return nf_extent_ref_decode(b.p, b.len, self, whole, &got);
}

START_TEST(a_reference_survives_encoding_and_another_pack)
{
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT, c = NF_BUF_INIT;
	struct nf_pack_id self = { { 77 } };
	struct nf_extent_ref r = some_ref(), got;

	memset(&r.leaf.pack, 0, sizeof r.leaf.pack);
	nf_extent_ref_encode(&b, &r);
	ck_assert_int_eq(nf_item_rebase(NF_ITEM_EXTENT, b.p, b.len, &self, &c), 0);
	ck_assert_int_eq(nf_extent_ref_decode(c.p, c.len, NULL, true, &got), 0);
	r.leaf.pack = self;
	ck_assert(nf_ref_equal(&got.leaf, &r.leaf) && got.ino == r.ino && got.first_block == r.first_block);
	ck_assert(nf_extent_is_ref(c.p, c.len));
	for (size_t n = 1; n < c.len; n++)
		ck_assert_int_eq(nf_extent_ref_decode(c.p, n, NULL, true, &got), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(nf_extent_ref_decode(c.p, 0, NULL, true, &got), NF_TREE_NONE);
}
END_TEST

START_TEST(references_outside_the_limits_are_refused)
{
	static const struct nf_pack_id zero = { { 0 } };
	struct nf_extent_ref r = some_ref();

	ck_assert_int_eq(decode(&r, NULL, true), 0);
	r.leaf.level = 1; /* no leaf */
	ck_assert_int_eq(decode(&r, NULL, true), -NF_E_FORMAT_BAD);
	r = some_ref();
	r.leaf.plain_len = (32 << 10) + 1;
	ck_assert_int_eq(decode(&r, NULL, true), -NF_E_FORMAT_BAD);
	r = some_ref();
	r.leaf.pack = zero;
	ck_assert_int_eq(decode(&r, NULL, true), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(decode(&r, &zero, true), -NF_E_FORMAT_BAD);
	r = some_ref();
	r.leaf.sealed_len = 0;
	ck_assert_int_eq(decode(&r, NULL, true), -NF_E_FORMAT_BAD);
	r = some_ref();
	r.first_block = 5;
	ck_assert_int_eq(decode(&r, NULL, true), -NF_E_FORMAT_BAD);
	r = some_ref();
	r.ino = 0;
	ck_assert_int_eq(decode(&r, NULL, true), -NF_E_FORMAT_BAD);
}
END_TEST

START_TEST(segments_behind_a_reference_stand_in_layers_only)
{
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT, c = NF_BUF_INIT;
	struct nf_block_ref refs[NF_WINDOW_BLOCKS] = { 0 }, out[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS] = { [4] = true, [5] = true }, back[NF_WINDOW_BLOCKS];
	struct nf_pack_id self = { { 1 } };
	struct nf_extent_ref r = some_ref(), got;

	nf_extent_patch_encode(&b, &r, refs, known, BLOCK);
	ck_assert_uint_gt(b.len, NF_EXTENT_REF_ENCODED);
	ck_assert_int_eq(nf_extent_patch_decode(b.p, b.len, false, BLOCK, &got, out, back), 0);
	ck_assert(nf_ref_equal(&got.leaf, &r.leaf) && !memcmp(known, back, sizeof known));
	ck_assert_int_eq(nf_extent_patch_decode(b.p, b.len, true, BLOCK, &got, out, back), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(nf_extent_decode(b.p, b.len, &self, BLOCK, out, back), -NF_E_FORMAT_BAD);
	ck_assert_int_eq(nf_item_rebase(NF_ITEM_EXTENT, b.p, b.len, &self, &c), -NF_E_FORMAT_BAD);
	/* What says all 128 blocks needs nothing below. */
	memset(known, 1, sizeof known);
	c.len = 0;
	nf_extent_patch_encode(&c, &r, refs, known, BLOCK);
	ck_assert_int_eq(nf_extent_patch_decode(c.p, c.len, true, BLOCK, &got, out, back), 0);
	ck_assert(nf_ref_is_null(&got.leaf));
}
END_TEST

/* --- files ---------------------------------------------------------------------------- */

static char *bytes_of(uint64_t seed, size_t len)
{
	char *p = malloc(len);
	struct nf_prng rng;

	nf_prng_seed(&rng, seed);
	for (size_t i = 0; i + 8 <= len; i += 8)
		nf_put_le64(p + i, nf_prng_next(&rng));
	return p;
}

static void clone_file(struct vfs *m, const char *from, const char *to)
{
	vfs_copy_range(m, from, to, 0, 0, UINT32_MAX, SIZE);
}

static void write_at(struct vfs *m, const char *path, const void *p, size_t len, uint64_t off)
{
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_open(m, path, O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(m, f, ino, p, len, off), 0);
	vfs_close(m, f, ino);
}

static uint64_t refs_made(void) { return nf_counter_get(NF_C_CLONE_LEAF_REFS); }

struct site {
	struct vfs_site s;
	struct vfs a;
	char *bytes;
};

/* One machine with /f of 3 windows and a bit, on the server. */
static void begin(struct site *k)
{
	vfs_site_init(&k->s, "", "");
	k->s.block_shift = 12;
	k->bytes = bytes_of(1, SIZE);
	k->a = vfs_mount(&k->s, "a");
	ck_assert_int_eq(vfs_put(&k->a, "/f", k->bytes, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&k->a), 0);
}

static void end(struct site *k)
{
	ck_assert_uint_eq(vfs_problems(&k->a), 0);
	vfs_unmount(&k->a);
	vfs_site_deinit(&k->s);
	free(k->bytes);
}

START_TEST(what_is_on_the_server_is_cloned_by_its_leaves)
{
	struct site k;

	begin(&k);
	uint64_t before = refs_made();
	clone_file(&k.a, "/f", "/c");
	ck_assert_uint_eq(refs_made() - before, 4);
	ck_assert_int_eq(vfs_check(&k.a, "/c", k.bytes, SIZE), 0);
	clone_file(&k.a, "/c", "/cc"); /* a clone that is only here */
	ck_assert_uint_eq(refs_made() - before, 8);
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	clone_file(&k.a, "/cc", "/ccc"); /* and one on the server */
	ck_assert_uint_eq(refs_made() - before, 12);
	ck_assert_int_eq(vfs_unlink(&k.a, "/f", false), 0);
	ck_assert_int_eq(vfs_unlink(&k.a, "/c", false), 0);
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	struct vfs b = vfs_mount(&k.s, "b");
	ck_assert_int_eq(vfs_check(&b, "/cc", k.bytes, SIZE), 0);
	ck_assert_int_eq(vfs_check(&b, "/ccc", k.bytes, SIZE), 0);
	ck_assert_uint_eq(vfs_problems(&b), 0);
	vfs_unmount(&b);
	end(&k);
}
END_TEST

START_TEST(what_is_not_on_the_server_is_cloned_block_by_block)
{
	struct site k;

	begin(&k);
	uint64_t before = refs_made();
	memset(k.bytes + WINDOW + 100, 'x', 100);
	write_at(&k.a, "/f", k.bytes + WINDOW + 100, 100, WINDOW + 100);
	clone_file(&k.a, "/f", "/c"); /* all windows but the second */
	ck_assert_uint_eq(refs_made() - before, 3);
	ck_assert_int_eq(vfs_check(&k.a, "/c", k.bytes, SIZE), 0);
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	ck_assert_int_eq(vfs_check(&k.a, "/c", k.bytes, SIZE), 0);
	end(&k);
}
END_TEST

/* Ranges that begin or end within a window, or go to another place. */
START_TEST(only_whole_windows_are_cloned_by_their_leaf)
{
	static const struct {
		uint64_t src, dst, len, refs;
	} cases[] = {
		{ 0, 0, WINDOW, 1 },
		{ WINDOW, 0, 2 * WINDOW, 2 },
		{ 0, WINDOW, 2 * WINDOW, 2 },
		{ BLOCK, BLOCK, 2 * WINDOW, 1 },
		{ BLOCK, 0, 2 * WINDOW, 0 },
		{ 0, 0, WINDOW + 5 * BLOCK, 1 },
		{ WINDOW, 2 * WINDOW, SIZE - WINDOW, 3 },
		{ 3 * WINDOW, 0, SIZE - 3 * WINDOW, 1 },
	};
	struct site k;

	begin(&k);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char path[16], *want = calloc(1, 2 * SIZE);
		uint64_t end_bytes = cases[i].dst + cases[i].len, before = refs_made();
		snprintf(path, sizeof path, "/c%zu", i);
		vfs_copy_range(&k.a, "/f", path, cases[i].src, cases[i].dst, cases[i].len, cases[i].len);
		ck_assert_uint_eq(refs_made() - before, cases[i].refs);
		memcpy(want + cases[i].dst, k.bytes + cases[i].src, cases[i].len);
		ck_assert_int_eq(vfs_check(&k.a, path, want, end_bytes), 0);
		free(want);
	}
	/* The target goes on behind the source's end: the last window is not the source's alone. */
	char *more = bytes_of(2, 4 * WINDOW);
	ck_assert_int_eq(vfs_put(&k.a, "/long", more, 4 * WINDOW), 0);
	uint64_t before = refs_made();
	vfs_copy_range(&k.a, "/f", "/long", 2 * WINDOW, 2 * WINDOW, SIZE, WINDOW + 5 * BLOCK);
	ck_assert_uint_eq(refs_made() - before, 1);
	memcpy(more + 2 * WINDOW, k.bytes + 2 * WINDOW, WINDOW + 5 * BLOCK);
	ck_assert_int_eq(vfs_check(&k.a, "/long", more, 4 * WINDOW), 0);
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	ck_assert_int_eq(vfs_check(&k.a, "/long", more, 4 * WINDOW), 0);
	free(more);
	end(&k);
}
END_TEST

/* _i: bit 0 a sync after the clone, bit 1 a restart before the last sync. */
START_TEST(source_and_clone_go_ways_of_their_own)
{
	struct site k;

	begin(&k);
	char *f = k.bytes, *c = malloc(SIZE), *other = bytes_of(3, SIZE);
	memcpy(c, f, SIZE);
	clone_file(&k.a, "/f", "/c");
	clone_file(&k.a, "/f", "/d");
	clone_file(&k.a, "/f", "/e");
	if (_i & 1)
		ck_assert_int_eq(vfs_sync(&k.a), 0);
	write_at(&k.a, "/c", other, 3 * BLOCK, BLOCK);
	memcpy(c + BLOCK, other, 3 * BLOCK);
	write_at(&k.a, "/c", other, 100, WINDOW + 3000);
	memcpy(c + WINDOW + 3000, other, 100);
	write_at(&k.a, "/f", other, WINDOW + 1, 2 * WINDOW - 50);
	memcpy(f + 2 * WINDOW - 50, other, WINDOW + 1);
	ck_assert_int_eq(vfs_truncate(&k.a, "/d", 2 * WINDOW + 5000), 0);
	ck_assert_int_eq(vfs_truncate(&k.a, "/e", WINDOW + 10 * BLOCK), 0);
	ck_assert_int_eq(vfs_truncate(&k.a, "/e", SIZE), 0);
	char *e = calloc(1, SIZE), *d = malloc(SIZE);
	char *orig = bytes_of(1, SIZE);
	memcpy(e, orig, WINDOW + 10 * BLOCK);
	memcpy(d, orig, SIZE);
	for (int round = 0; round < 3; round++) {
		ck_assert_int_eq(vfs_check(&k.a, "/f", f, SIZE), 0);
		ck_assert_int_eq(vfs_check(&k.a, "/c", c, SIZE), 0);
		ck_assert_int_eq(vfs_check(&k.a, "/d", d, 2 * WINDOW + 5000), 0);
		ck_assert_int_eq(vfs_check(&k.a, "/e", e, SIZE), 0);
		if (round == 0 && _i & 2) {
			vfs_unmount(&k.a);
			k.a = vfs_mount(&k.s, "a");
		}
		if (round == 1)
			ck_assert_int_eq(vfs_sync(&k.a), 0);
	}
	ck_assert_int_eq(vfs_rename(&k.a, "/e", "/f"), 0);
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	struct vfs b = vfs_mount(&k.s, "b");
	ck_assert_int_eq(vfs_check(&b, "/f", e, SIZE), 0);
	ck_assert_int_eq(vfs_check(&b, "/c", c, SIZE), 0);
	ck_assert_int_eq(vfs_check(&b, "/d", d, 2 * WINDOW + 5000), 0);
	vfs_unmount(&b);
	free(c);
	free(d);
	free(e);
	free(orig);
	free(other);
	end(&k);
}
END_TEST

/* Both machines change a clone: the one who comes second keeps its version under a name of its own. */
START_TEST(a_conflict_over_a_clone_keeps_both_versions)
{
	struct vfs_names names;
	struct site k;
	unsigned found = 0;

	begin(&k);
	clone_file(&k.a, "/f", "/c");
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	struct vfs b = vfs_mount(&k.s, "b");
	char *a_has = malloc(SIZE), *b_has = malloc(SIZE);
	memcpy(a_has, k.bytes, SIZE);
	memcpy(b_has, k.bytes, SIZE);
	memset(a_has + 100, 'a', 5000);
	memset(b_has + WINDOW, 'b', 5000);
	write_at(&k.a, "/c", a_has + 100, 5000, 100);
	write_at(&b, "/c", b_has + WINDOW, 5000, WINDOW);
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	/* b has just looked: without this its commit would go beside a's, and which is the second a matter of chance. */
	ck_assert_int_eq(vfs_refresh(&b), 0);
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&k.a), 0);
	ck_assert_int_eq(vfs_check(&k.a, "/c", a_has, SIZE), 0);
	vfs_ls(&k.a, "/", &names);
	for (size_t i = 0; i < names.nr; i++) {
		char path[80];
		if (!strstr(names.name[i], "conflict"))
			continue;
		snprintf(path, sizeof path, "/%s", names.name[i]);
		ck_assert_int_eq(vfs_check(&k.a, path, b_has, SIZE), 0);
		ck_assert_int_eq(vfs_check(&b, path, b_has, SIZE), 0);
		found++;
	}
	ck_assert_uint_eq(found, 1);
	vfs_unmount(&b);
	free(a_has);
	free(b_has);
	end(&k);
}
END_TEST

/* --- references that lead nowhere --------------------------------------------------------- */

/* Gives the file at PATH, of one window, the value REF. */
static void plant(struct vfs *m, const char *path, const struct nf_extent_ref *ref)
{
	nf_auto(nf_buf_deinit) struct nf_buf value = NF_BUF_INIT, windows = NF_BUF_INIT;
	struct nf_inode_item item;
	struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	struct nf_open_file *f;
	uint8_t range[16];
	uint64_t ino;

	ck_assert_int_eq(vfs_open(m, path, O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	nf_extent_ref_encode(&value, ref);
	nf_buf_u64(&windows, 0);
	nf_buf_str16(&windows, value.p, value.len);
	nf_put_le64(range, 0);
	nf_put_le64(range + 8, WINDOW);
	nf_lock_take(&m->v->ns);
	ck_assert_int_eq(nf_vault_inode(m->v, ino, &w, &val, &item), 0);
	struct nf_op op = { .kind = NF_OP_DATA, .conflict_mode = NF_MODE_STASH, .ino = ino, .stamp = item.stamp,
			    .least_size = UINT64_MAX, .size_after = WINDOW, .ranges = range, .nr_ranges = 1,
			    .windows = windows.p, .windows_len = windows.len, .nr_windows = 1 };
	nf_val_deinit(&val);
	ck_assert_int_eq(nf_vault_do_data(m->v, f->vn, &op, false), 0);
	nf_invalidate(&f->vn->ic, 0, WINDOW, WINDOW, WINDOW);
	nf_lock_drop(&m->v->ns);
	nf_want_deinit(&w);
	vfs_close(m, f, ino);
}

static struct nf_extent_ref ref_of(struct vfs *m, const char *path)
{
	struct nf_want w = NF_WANT_INIT;
	struct nf_extent_ref ref;
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_check(m, path, "", 0), -EILSEQ); /* its nodes are here now */
	ck_assert_int_eq(vfs_open(m, path, O_RDONLY, 0, &f, &ino), 0);
	nf_lock_take(&m->v->ns);
	ck_assert_int_eq(nf_vnode_locate(f->vn, 0, &w, &ref), 0);
	nf_lock_drop(&m->v->ns);
	nf_want_deinit(&w);
	vfs_close(m, f, ino);
	return ref;
}

static int read_error(struct vfs *m, const char *path)
{
	char *none = calloc(1, WINDOW);
	int r = vfs_check(m, path, none, WINDOW);

	free(none);
	return r;
}

/* The good reference; no such key; another tag; another plain length; an inner node said to be a leaf (the root here is
 * one); a leaf whose value is a reference itself. */
START_TEST(a_reference_that_leads_nowhere_is_an_error_of_that_file_only)
{
	struct site k;
	char path[16];

	begin(&k);
	/* So many files that the root is no leaf. */
	for (int i = 0; i < 200; i++) {
		char name[160];
		snprintf(name, sizeof name, "/%d-%0120d", i, i);
		ck_assert_int_eq(vfs_puts(&k.a, name, "x"), 0);
	}
	clone_file(&k.a, "/f", "/c");
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	struct nf_extent_ref good = ref_of(&k.a, "/f"), bad[6];
	for (int i = 0; i < 6; i++)
		bad[i] = good;
	bad[1].first_block = 128 * 1000;
	bad[2].leaf.tag[3] ^= 1;
	bad[3].leaf.plain_len--;
	nf_lock_take(&k.a.v->ns);
	bad[4].leaf = k.a.v->base.root;
	nf_lock_drop(&k.a.v->ns);
	ck_assert_uint_gt(bad[4].leaf.level, 0);
	bad[4].leaf.level = 0;
	/* The leaf that /c's own reference stands in. */
	struct nf_open_file *f;
	struct nf_want w = NF_WANT_INIT;
	struct nf_val val = { 0 };
	uint64_t ino;
	ck_assert_int_eq(vfs_open(&k.a, "/c", O_RDONLY, 0, &f, &ino), 0);
	struct nf_key key = nf_key_extent(ino, 0);
	nf_lock_take(&k.a.v->ns);
	ck_assert_int_eq(nf_tree_lookup(k.a.v->nodes, &k.a.v->base.root, &key, &w, &val), 0);
	bad[5].leaf = val.pin->ref;
	bad[5].ino = ino;
	nf_lock_drop(&k.a.v->ns);
	nf_val_deinit(&val);
	nf_want_deinit(&w);
	vfs_close(&k.a, f, ino);
	for (int i = 0; i < 6; i++) {
		snprintf(path, sizeof path, "/bad%d", i);
		plant(&k.a, path, &bad[i]);
	}
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	struct vfs b = vfs_mount(&k.s, "b"), *both[2] = { &k.a, &b };
	for (int m = 0; m < 2; m++) {
		ck_assert_int_eq(vfs_check(both[m], "/bad0", k.bytes, WINDOW), 0);
		for (int i = 1; i < 6; i++) {
			snprintf(path, sizeof path, "/bad%d", i);
			ck_assert_int_eq(nf_errno(read_error(both[m], path)), EIO);
		}
		ck_assert_int_eq(vfs_check(both[m], "/f", k.bytes, SIZE), 0);
		ck_assert_int_eq(vfs_check(both[m], "/c", k.bytes, SIZE), 0);
	}
	ck_assert_uint_eq(vfs_problems(&b), 6); /* five files, and the commit before, which has them too */
	vfs_unmount(&b);
	/* Gone with the files. */
	for (int i = 1; i < 6; i++) {
		snprintf(path, sizeof path, "/bad%d", i);
		ck_assert_int_eq(vfs_unlink(&k.a, path, false), 0);
	}
	ck_assert_int_eq(vfs_sync(&k.a), 0);
	/* And with the commits that had them. */
	struct nf_gc_options o;
	struct nf_gc_result r;
	nf_gc_defaults(&o);
	o.keep_heads = 1;
	o.keep_days = o.lease_days = o.repack_percent = 0;
	ck_assert_int_eq(nf_vault_gc(k.a.v, &o, NULL, &r), 0);
	end(&k);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "values", 20);
	tcase_add_test(tc, a_reference_survives_encoding_and_another_pack);
	tcase_add_test(tc, references_outside_the_limits_are_refused);
	tcase_add_test(tc, segments_behind_a_reference_stand_in_layers_only);
	tc = nf_case(s, "files", 60);
	tcase_add_test(tc, what_is_on_the_server_is_cloned_by_its_leaves);
	tcase_add_test(tc, what_is_not_on_the_server_is_cloned_block_by_block);
	tcase_add_test(tc, only_whole_windows_are_cloned_by_their_leaf);
	tcase_add_loop_test(tc, source_and_clone_go_ways_of_their_own, 0, 4);
	tcase_add_test(tc, a_conflict_over_a_clone_keeps_both_versions);
	tcase_add_test(tc, a_reference_that_leads_nowhere_is_an_error_of_that_file_only);
}

NF_SUITE("vault/clone")
