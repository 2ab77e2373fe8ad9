/* Sealing again what is under older keys: all of it, wherever it is kept, beside machines at work. */
#include "gate.h"
#include "vfs_gc.h"

#include "codec/codec.h"
#include "vault/commit.h"
#include "vault/gc.h"

#include <ftw.h>
#include <unistd.h>

/* New keys, and A mounted again with them. */
static void rekey(struct vfs_site *s, struct vfs *a)
{
	static const uint8_t bytes[32] = { 1 };
	struct nf_secret secret = { NF_SLOT_RECOVERY, bytes, sizeof bytes };

	vfs_unmount(a);
	ck_assert_int_eq(nf_header_rekey(s->header, NULL), 0);
	ck_assert_int_eq(nf_header_slot_add(s->header, &secret, NULL, "", NULL), 0);
	*a = vfs_mount(s, "a");
}

/* What the collector would find, as a machine sees it that knows nothing. */
static struct nf_gc_result stranger_looks(const struct vfs_site *s, const struct nf_gc_options *like)
{
	struct nf_gc_options o = *like;
	static int nr;
	char name[20];

	o.dry_run = true;
	snprintf(name, sizeof name, "stranger%d", nr++);
	struct vfs c = vfs_mount(s, name);
	struct nf_gc_result r = gc(&c, &o);
	vfs_unmount(&c);
	return r;
}

START_TEST(what_is_still_under_older_keys_is_counted)
{
	struct nf_gc_options o = at_once(), look = at_once();
	struct nf_vault_status st;
	struct vfs_site s;

	look.dry_run = true;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(put(&a, "/one", BIG, 1), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(put(&a, "/two", BIG, 2), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	/* Its marks know of one epoch. */
	struct nf_gc_result r = gc(&a, &o);
	ck_assert_uint_eq(r.old_packs, 0);
	ck_assert_uint_eq(r.old_bytes, 0);
	nf_vault_status(a.v, &st);
	ck_assert(st.old_keys_known && st.old_key_packs == 0);
	rekey(&s, &a);
	nf_vault_status(a.v, &st);
	ck_assert(!st.old_keys_known);
	r = gc(&a, &look);
	/* Nothing is under the new keys yet. */
	ck_assert_uint_eq(r.old_packs, r.live_packs);
	ck_assert_uint_ge(r.old_bytes, 2 * BIG);
	ck_assert_uint_le(r.old_bytes, r.live_bytes + (64 << 10));
	nf_vault_status(a.v, &st);
	ck_assert(st.old_keys_known && st.old_key_packs == r.old_packs && st.old_key_bytes == r.old_bytes);
	/* The same found by differences, and by another device that reads everything. */
	ck_assert_int_eq(put(&a, "/three", BIG, 3), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct nf_gc_result mine = gc(&a, &look);
	ck_assert_uint_ge(mine.old_bytes, 2 * BIG);
	ck_assert_uint_lt(mine.old_packs, mine.live_packs);
	struct vfs b = vfs_mount(&s, "b");
	r = gc(&b, &look);
	ck_assert_uint_eq(r.old_bytes, mine.old_bytes);
	ck_assert_uint_eq(r.old_packs, mine.old_packs);
	/* A look counts, and no more. */
	ck_assert_uint_eq(mine.resealed_bytes, 0);
	/* Written anew it is under the new keys. */
	ck_assert_int_eq(put(&a, "/one", BIG, 4), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	look.keep_heads = 1;
	mine = gc(&a, &look);
	ck_assert_uint_ge(mine.old_bytes, BIG);
	ck_assert_uint_lt(mine.old_bytes, 2 * BIG);
	ck_assert_uint_eq(vfs_problems(&a), 0);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_site_deinit(&s);
}
END_TEST


/* A history of files, all kinds of them, of which a snapshot and older commits keep what the newest has no more. */
static void history(struct vfs *a)
{
	char text[60];

	ck_assert_int_eq(put(a, "/one", BIG, 1), 0);
	ck_assert_int_eq(put(a, "/two", BIG, 2), 0);
	ck_assert_int_eq(vfs_puts(a, "/inline", "a few bytes"), 0);
	ck_assert_int_eq(put(a, "/short", 70000, 3), 0);
	ck_assert_int_eq(put(a, "/holes", 5000, 4), 0);
	ck_assert_int_eq(vfs_truncate(a, "/holes", 9 << 20), 0);
	ck_assert_int_eq(vfs_sync(a), 0);
	vfs_copy_range(a, "/one", "/clone", 0, 0, UINT32_MAX, BIG);
	ck_assert_int_eq(nf_vault_snapshot_create(a->v, "kept", NULL), 0);
	for (int i = 0; i < 5; i++) {
		snprintf(text, sizeof text, "version %d", i);
		ck_assert_int_eq(vfs_puts(a, "/changing", text), 0);
		ck_assert_int_eq(put(a, "/short", 70000, 10 + (uint64_t)i), 0);
		ck_assert_int_eq(vfs_sync(a), 0);
	}
	ck_assert_int_eq(vfs_unlink(a, "/two", false), 0);
	ck_assert_int_eq(vfs_sync(a), 0);
}

static void history_is_there(struct vfs *m)
{
	ck_assert_int_eq(check(m, "/one", BIG, 1), 0);
	ck_assert_int_eq(check(m, "/clone", BIG, 1), 0);
	ck_assert_int_eq(check(m, "/short", 70000, 14), 0);
	ck_assert_int_eq(vfs_checks(m, "/inline", "a few bytes"), 0);
	ck_assert_int_eq(vfs_checks(m, "/changing", "version 4"), 0);
	is_whole(m);
}

static void snapshot_is_there(const struct vfs_site *s)
{
	char cache[200], state[200];
	struct nf_vault_options vo = vfs_options(s, "reader", cache, state);
	struct vfs r;

	vo.snapshot = "kept";
	vo.read_only = true;
	vo.cache_dir = NULL;
	ck_assert_int_eq(nf_vault_open(&vo, &r.v), 0);
	r.fs = nf_vault_fs(r.v);
	ck_assert_int_eq(check(&r, "/two", BIG, 2), 0);
	ck_assert_int_eq(check(&r, "/short", 70000, 3), 0);
	is_whole(&r);
	vfs_unmount(&r);
}

/* _i: 0 all commits are kept, 1 the newest and the snapshot. */
START_TEST(what_is_under_older_keys_is_sealed_again_once_wherever_it_is_kept)
{
	struct nf_gc_options o = at_once();
	struct vfs_site s;

	o.keep_heads = _i == 0 ? 1000 : 1;
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	history(&a);
	(void)gc(&a, &o);
	uint64_t before = stored(&s).bytes;
	rekey(&s, &a);
	ck_assert_int_eq(vfs_puts(&a, "/new", "under two"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	struct nf_gc_result old = stranger_looks(&s, &o);
	ck_assert_uint_gt(old.old_bytes, 2 * BIG);
	struct nf_gc_result r = gc(&a, &o);
	/* Each once: what the clone, the snapshot and older commits share is one. */
	ck_assert_uint_ge(r.resealed_bytes, 2 * BIG);
	ck_assert_uint_le(r.resealed_bytes, old.old_bytes);
	struct nf_gc_result again = gc(&a, &o);
	ck_assert_uint_eq(again.resealed_bytes, 0);
	ck_assert_uint_eq(stranger_looks(&s, &o).old_bytes, 0);
	history_is_there(&a);
	snapshot_is_there(&s);
	/* The old ones went: there is no more than there was. */
	(void)gc(&a, &o);
	ck_assert_uint_le(stored(&s).bytes, before + before / 4);
	vfs_unmount(&a);
	a = vfs_mount(&s, "fresh");
	history_is_there(&a);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

static void write_some(void *ctx)
{
	struct vfs *c = ctx;
	struct nf_open_file *f;
	uint64_t ino;

	ck_assert_int_eq(vfs_open(c, "/one", O_RDWR, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(c, f, ino, "CHANGED", 7, 100), 0);
	vfs_close(c, f, ino);
	ck_assert_int_eq(vfs_sync(c), 0);
	/* The longer side is what the other one is replayed on. */
	ck_assert_int_eq(vfs_puts(c, "/more", "c"), 0);
	ck_assert_int_eq(vfs_sync(c), 0);
}

START_TEST(what_others_write_meanwhile_and_what_they_hold_unsent_stays)
{
	struct nf_gc_options o = at_once();
	struct nf_open_file *f;
	struct vfs_site s;
	char changed[9];
	size_t len;
	uint64_t ino;

	o.keep_heads = 1000;
	o.grace_s = 86400; /* others stand on what is old for a while */
	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	history(&a);
	/* Done under the old keys, and not sent when the new ones come. */
	struct vfs b = vfs_mount(&s, "b");
	vfs_copy_range(&b, "/one", "/late clone", 0, 0, UINT32_MAX, BIG);
	ck_assert_int_eq(put(&b, "/late", BIG, 5), 0);
	ck_assert_int_eq(nf_settle(b.v), 0);
	ck_assert_int_eq(nf_vault_journal(b.v, true), 0);
	rekey(&s, &a);
	/* Stands on the old view, with the new keys. */
	struct vfs c = vfs_mount(&s, "c");
	/* One block is written while the commit that says how all of them are sealed now is on its way. */
	vfs_unmount(&a);
	struct gate *g = gate_new(vfs_store(&s));
	ck_assert_int_eq(vfs_mount_over(&s, "a", &g->base, &a), 0);
	g->before = "heads/";
	g->ctx = &c;
	g->hook = write_some;
	ck_assert_uint_gt(gc(&a, &o).resealed_bytes, 2 * BIG);
	ck_assert(!g->hook);
	vfs_unmount(&b);
	b = vfs_mount(&s, "b");
	ck_assert_int_eq(vfs_sync(&b), 0);
	ck_assert_int_eq(vfs_refresh(&a), 0);
	ck_assert_int_eq(check(&a, "/late", BIG, 5), 0);
	ck_assert_int_eq(check(&a, "/late clone", BIG, 1), 0);
	ck_assert_int_eq(check(&a, "/clone", BIG, 1), 0);
	ck_assert_int_eq(vfs_open(&a, "/one", O_RDONLY, 0, &f, &ino), 0);
	ck_assert_int_eq(vfs_pread(&a, f, ino, changed, 7, 100, &len), 0);
	ck_assert_uint_eq(len, 7);
	ck_assert_mem_eq(changed, "CHANGED", 7);
	vfs_close(&a, f, ino);
	is_whole(&a);
	/* What came late is sealed again as well. */
	ck_assert_uint_gt(stranger_looks(&s, &o).old_bytes, BIG);
	ck_assert_uint_gt(gc(&a, &o).resealed_bytes, BIG);
	ck_assert_uint_eq(stranger_looks(&s, &o).old_bytes, 0);
	is_whole(&a);
	vfs_unmount(&a);
	vfs_unmount(&b);
	vfs_unmount(&c);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(a_run_cut_at_any_operation_loses_nothing_and_the_next_one_ends_it)
{
	uint64_t step = getenv("FOLIOFS_LONG") ? 1 : 11, cuts = 0;

	for (uint64_t at = 1;; at += step) {
		struct nf_gc_options o = at_once();
		struct nf_gc_result r;
		struct vfs_site s;
		vfs_site_init(&s, "", "");
		struct vfs a = vfs_mount(&s, "a");
		history(&a);
		rekey(&s, &a);
		vfs_unmount(&a);
		struct gate *g = gate_new(vfs_store(&s));
		ck_assert_int_eq(vfs_mount_over(&s, "a", &g->base, &a), 0);
		atomic_store(&g->shut_at, atomic_load(&g->nr) + at);
		int e = nf_vault_gc(a.v, &o, NULL, &r);
		bool whole = atomic_load(&g->nr) < atomic_load(&g->shut_at);
		ck_assert(!whole || e == 0);
		cuts += !whole;
		vfs_unmount(&a);
		a = vfs_mount(&s, "a");
		history_is_there(&a);
		(void)gc(&a, &o);
		ck_assert_uint_eq(stranger_looks(&s, &o).old_bytes, 0);
		history_is_there(&a);
		snapshot_is_there(&s);
		vfs_unmount(&a);
		vfs_site_deinit(&s);
		if (whole)
			break;
	}
	printf("# cut at %d operations of the store\n", (int)cuts);
	ck_assert_uint_gt(cuts, 5);
}
END_TEST

/* --- taken away ----------------------------------------------------------------------- */

enum { NAMES_MAX = 300 };

struct names {
	char name[NAMES_MAX][NF_STORE_NAME_MAX];
	size_t nr;
};

static void list(const struct vfs_site *s, const char *dir, struct names *out)
{
	struct nf_store_op op = { .verb = NF_STORE_LIST };

	snprintf(op.name, sizeof op.name, "%.60s", dir);
	ck_assert_int_eq(nf_store_run(s->keep, &op), 0);
	for (size_t i = 0; i < op.nr_entries; i++) {
		char path[NF_STORE_NAME_MAX];
		snprintf(path, sizeof path, "%.60s/%.60s", dir, op.entries[i].name);
		if (op.entries[i].is_dir) {
			list(s, path, out);
		} else {
			ck_assert_uint_lt(out->nr, NAMES_MAX);
			memcpy(out->name[out->nr++], path, sizeof path);
		}
	}
	nf_store_op_deinit(&op);
}

static bool is_among(const struct names *n, const char *name)
{
	for (size_t i = 0; i < n->nr; i++)
		if (!strcmp(n->name[i], name))
			return true;
	return false;
}

/* As a collector that finds them named by nothing, and older than its grace. */
static size_t take_away(const struct vfs_site *s, const struct names *but)
{
	struct names now = { .nr = 0 };
	size_t nr = 0;

	list(s, "packs", &now);
	for (size_t i = 0; i < now.nr; i++) {
		struct nf_store_op op = { .verb = NF_STORE_DELETE };
		if (is_among(but, now.name[i]))
			continue;
		snprintf(op.name, sizeof op.name, "%s", now.name[i]);
		ck_assert_int_eq(nf_store_run(s->keep, &op), 0);
		nf_store_op_deinit(&op);
		nr++;
	}
	return nr;
}

/* A delta that went with its head is lost, and those who might lack it can only take the head for one that is not there. */
static void not_a_delta(void *ctx, const char *line)
{
	size_t *nr = ctx;

	if (strstr(line, "its list of operations"))
		return;
	fprintf(stderr, "check: %s\n", line);
	++*nr;
}

static size_t lost(struct vfs *m)
{
	size_t nr = 0;
	struct nf_check_options o = { .read_data = true, .report = not_a_delta, .ctx = &nr };
	struct nf_check_result r;

	ck_assert_int_eq(nf_vault_check(m->v, &o, &r), 0);
	return nr;
}

/* Shuts the gate once so many packs went through, and the question whether the last of them is there. */
struct nth_pack {
	struct gate *g;
	uint64_t left;
};

static void shut_behind(void *ctx)
{
	struct nth_pack *n = ctx;

	if (--n->left)
		n->g->hook = shut_behind;
	else
		atomic_store(&n->g->shut_at, atomic_load(&n->g->nr) + 2);
}

/* The machine goes away with its first commit unsent, and with all that it had copied for it; comes back without its cache; and
 * publishes what it had done.  _i & 1: 0 blocks and trees were copied as they are, 1 sealed again.  & 2: it stayed mounted. */
START_TEST(what_a_run_copied_and_others_took_away_meanwhile_is_said_to_be_where_it_was)
{
	bool everywhere = getenv("FOLIOFS_LONG");
	size_t taken = 0;

	for (uint64_t at = 1;; at++) {
		struct names heads = { .nr = 0 }, packs = { .nr = 0 }, after = { .nr = 0 };
		struct nf_gc_options o = at_once();
		struct nf_gc_result r;
		struct vfs_site s;
		vfs_site_init(&s, "", "");
		struct vfs a = vfs_mount(&s, "a");
		history(&a);
		if (_i & 1)
			rekey(&s, &a);
		o.repack_percent = 101; /* of this size there is no pack that is not worth it */
		o.keep_heads = 10;
		vfs_unmount(&a);
		list(&s, "heads", &heads);
		list(&s, "packs", &packs);
		struct gate *g = gate_new(vfs_store(&s));
		ck_assert_int_eq(vfs_mount_over(&s, "a", &g->base, &a), 0);
		struct nth_pack n = { g, at };
		if (everywhere) {
			atomic_store(&g->shut_at, atomic_load(&g->nr) + at);
		} else {
			g->before = "packs/";
			g->ctx = &n;
			g->hook = shut_behind;
		}
		int e = nf_vault_gc(a.v, &o, NULL, &r);
		g->hook = NULL;
		list(&s, "heads", &after);
		ck_assert(e < 0 || after.nr > heads.nr);
		ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
		if (!(_i & 2))
			vfs_unmount(&a);
		if (after.nr > heads.nr) {
			if (a.v)
				vfs_unmount(&a);
			vfs_site_deinit(&s);
			break;
		}
		taken += take_away(&s, &packs);
		if (_i & 2) {
			ck_assert_int_eq(nf_cache_drop(a.v->cache), 0);
			nf_lock_take(&a.v->ns);
			a.v->named_since_s -= 7200; /* as long as it was away */
			nf_lock_drop(&a.v->ns);
			atomic_store(&g->shut_at, 0);
		} else {
			drop_cache(&s, "a");
			a = vfs_mount(&s, "a");
		}
		ck_assert_int_eq(vfs_puts(&a, "/later", "more"), 0);
		ck_assert_int_eq(vfs_sync(&a), 0);
		ck_assert_int_eq(check(&a, "/one", BIG, 1), 0);
		ck_assert_int_eq(check(&a, "/short", 70000, 14), 0);
		ck_assert_uint_eq(lost(&a), 0);
		vfs_unmount(&a);
		a = vfs_mount(&s, "fresh");
		ck_assert_int_eq(check(&a, "/clone", BIG, 1), 0);
		ck_assert_uint_eq(lost(&a), 0);
		vfs_unmount(&a);
		vfs_site_deinit(&s);
	}
	printf("# packs taken away: %d\n", (int)taken);
	ck_assert_uint_gt(taken, 0);
}
END_TEST

/* --- what such an operation may do ------------------------------------------------------ */

/* The operation that says of block 0 of file INO that it was WAS, and is TO. */
static void say(struct vfs *m, uint64_t ino, const struct nf_block_ref *was, const struct nf_block_ref *to)
{
	struct nf_buf windows = NF_BUF_INIT, olds = NF_BUF_INIT, value = NF_BUF_INIT;
	const bool known[NF_WINDOW_BLOCKS] = { true };
	const struct nf_block_ref *both[2] = { to, was };

	for (int i = 0; i < 2; i++) {
		struct nf_block_ref refs[NF_WINDOW_BLOCKS] = { *both[i] };
		value.len = 0;
		nf_extent_encode(&value, refs, known, 1u << m->v->block_shift, false);
		nf_buf_u64(i ? &olds : &windows, 0);
		nf_buf_str16(i ? &olds : &windows, value.p, value.len);
	}
	struct nf_op op = { .kind = NF_OP_RESEAL, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(), .ino = ino,
			    .windows = windows.p, .windows_len = windows.len, .nr_windows = 1, .olds = olds.p, .olds_len = olds.len };
	ck_assert_int_eq(nf_vault_do_waiting(m->v, &op), 0);
	nf_buf_deinit(&windows);
	nf_buf_deinit(&olds);
	nf_buf_deinit(&value);
}

static uint64_t first_window(struct vfs *m, const char *path, struct nf_block_ref refs[NF_WINDOW_BLOCKS])
{
	struct nf_want w = NF_WANT_INIT;
	char last[256];
	uint64_t dir, ino;

	ck_assert_int_eq(vfs_walk(m, path, &dir, last, &ino), 0);
	nf_lock_take(&m->v->ns);
	struct nf_view view = nf_vault_view(m->v);
	ck_assert_int_eq(nf_extent_lookup(&view, ino, 0, 1u << m->v->block_shift, &w, refs), 0);
	nf_lock_drop(&m->v->ns);
	nf_want_deinit(&w);
	return ino;
}

START_TEST(a_block_is_replaced_by_none_but_itself_sealed_again)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS], to;
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(put(&a, "/one", BIG, 1), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	uint64_t ino = first_window(&a, "/one", refs);
	for (int i = 0; i < 3; i++) {
		/* 0: another block; 1: another birth, the same seal; 2: itself, as one elsewhere. */
		to = i == 0 ? refs[1] : refs[0];
		to.birth += i == 1;
		say(&a, ino, &refs[0], &to);
		ck_assert_int_eq(vfs_sync(&a), 0);
	}
	vfs_unmount(&a);
	a = vfs_mount(&s, "fresh");
	ck_assert_int_eq(check(&a, "/one", BIG, 1), 0);
	is_whole(&a);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* The copy has gone by then.  _i: 1 the operation was shelved. */
START_TEST(what_a_run_said_and_could_not_publish_before_the_mount_ended_is_not_said)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS], to;
	struct vfs_site s;

	vfs_site_init(&s, "", "");
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(put(&a, "/one", BIG, 1), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	vfs_unmount(&a);
	s.shelve_bytes = _i ? 1 : 0;
	a = vfs_mount(&s, "a");
	uint64_t ino = first_window(&a, "/one", refs);
	to = refs[0];
	nf_pack_id_random(&to.pack);
	to.tag[3] ^= 1;
	say(&a, ino, &refs[0], &to);
	ck_assert_int_eq(vfs_puts(&a, "/two", "done beside it"), 0);
	ck_assert_int_eq(nf_settle(a.v), 0);
	ck_assert_int_eq(nf_vault_journal(a.v, true), 0);
	ck_assert_uint_eq(a.v->nr_shelf > 0, _i);
	vfs_unmount(&a);
	a = vfs_mount(&s, "a");
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(check(&a, "/one", BIG, 1), 0);
	vfs_unmount(&a);
	a = vfs_mount(&s, "fresh");
	ck_assert_int_eq(check(&a, "/one", BIG, 1), 0);
	ck_assert_int_eq(vfs_checks(&a, "/two", "done beside it"), 0);
	is_whole(&a);
	vfs_unmount(&a);
	vfs_site_deinit(&s);
}
END_TEST

/* --- damage ---------------------------------------------------------------------------- */

static char *victim; /* the path of a pack */
static off_t victim_bytes;

static int largest(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)ftw;
	if (kind == FTW_F && st->st_size > victim_bytes) {
		free(victim);
		victim = strdup(path);
		victim_bytes = st->st_size;
	}
	return 0;
}

static void flip_a_bit(const char *path, off_t at)
{
	char x;

	ck_assert_int_eq(chmod(path, 0600), 0);
	int fd = open(path, O_RDWR);
	ck_assert_int_eq(pread(fd, &x, 1, at), 1);
	x ^= 4;
	ck_assert_int_eq(pwrite(fd, &x, 1, at), 1);
	close(fd);
}

static void site_in_files(struct vfs_site *s, char dir[300])
{
	s->dir = nf_tempdir_new();
	snprintf(dir, 300, "%s/store", s->dir.path);
	snprintf(s->address, sizeof s->address, "%.190s", dir);
	ck_assert_int_eq(mkdir(dir, 0700), 0);
	ck_assert_int_eq(nf_header_new(&s->header), 0);
	s->keep = vfs_store(s);
	ck_assert_int_eq(nf_vault_format(s->keep, s->header, "test"), 0);
}

START_TEST(a_block_that_cannot_be_read_stays_as_it_is_and_idle_runs_do_not_come_back_to_it)
{
	struct nf_gc_options o = at_once();
	struct vfs_site s = { 0 };
	char dir[300];

	site_in_files(&s, dir);
	struct vfs a = vfs_mount(&s, "a");
	ck_assert_int_eq(put(&a, "/one", BIG, 1), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(put(&a, "/two", BIG / 2, 2), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	victim_bytes = 0;
	ck_assert_int_eq(nftw(dir, largest, 8, FTW_PHYS), 0);
	flip_a_bit(victim, 100000);
	vfs_unmount(&a);
	drop_cache(&s, "a");
	a = vfs_mount(&s, "a");
	rekey(&s, &a);
	o.idle = true;
	o.move_bytes = 64 << 20;
	struct nf_gc_result r = gc(&a, &o);
	ck_assert_uint_gt(r.resealed_bytes, BIG);
	/* All but the one block of 16 KiB, and what names it. */
	for (int i = 0; i < 4; i++)
		r = gc(&a, &o);
	ck_assert_uint_gt(r.old_bytes, 16 << 10);
	ck_assert_uint_lt(r.old_bytes, 64 << 10);
	ck_assert_uint_eq(r.resealed_bytes + r.moved_bytes + r.moved_trees, 0);
	ck_assert_int_eq(check(&a, "/two", BIG / 2, 2), 0);
	ck_assert_uint_ge(vfs_problems(&a), 1);
	vfs_unmount(&a);
	free(victim);
	victim = NULL;
	vfs_site_deinit(&s);
}
END_TEST

static int last_leaf(void *ctx, const struct nf_ref *ref)
{
	if (!ref->level)
		memcpy(ctx, ref, sizeof *ref);
	return 0;
}

static int no_item(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	(void)ctx, (void)key, (void)val;
	return 0;
}

static int of_snapshot(void *ctx, const struct nf_key *key, const struct nf_val *val)
{
	struct nf_snapshot_entry e;
	struct nf_vault *v = ctx;
	struct nf_ref leaf = { 0 };
	char path[NF_STORE_NAME_MAX];
	size_t pos = 0;

	(void)key;
	ck_assert_int_eq(nf_snapshot_iter(val->p, val->len, &val->self, &pos, &e), 0);
	ck_assert_int_eq(nf_tree_walk(&v->src, &e.root, no_item, last_leaf, &leaf), 0);
	ck_assert_uint_gt(e.root.level, 0);
	nf_pack_name(&leaf.pack, path);
	victim_bytes = leaf.offset_bytes + leaf.sealed_len / 2;
	victim = strdup(path);
	return 0;
}

START_TEST(nothing_is_sealed_again_and_again_for_a_snapshot_of_which_a_node_is_lost_later)
{
	const struct nf_key from = { .type = NF_ITEM_SNAPSHOT }, to = { .type = NF_ITEM_SNAPSHOT + 1 };
	struct nf_gc_options o = at_once(), look;
	struct vfs_site s = { 0 };
	struct nf_gc_result r = { 0 };
	char dir[300], path[500];

	site_in_files(&s, dir);
	struct vfs a = vfs_mount(&s, "a");
	for (int i = 0; i < 300; i++) {
		snprintf(path, sizeof path, "/f%d", i);
		ck_assert_int_eq(put(&a, path, 2000, (uint64_t)i), 0);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	ck_assert_int_eq(nf_vault_snapshot_create(a.v, "kept", NULL), 0);
	for (int i = 0; i < 300; i++) {
		snprintf(path, sizeof path, "/f%d", i);
		ck_assert_int_eq(vfs_unlink(&a, path, false), 0);
	}
	ck_assert_int_eq(vfs_sync(&a), 0);
	o.grace_s = 86400;
	o.keep_heads = 1000;
	(void)gc(&a, &o);
	rekey(&s, &a);
	ck_assert_int_eq(vfs_puts(&a, "/new", "under two"), 0);
	ck_assert_int_eq(vfs_sync(&a), 0);
	/* From now on it is remembered what the snapshot names, and it is not gone through again to find out. */
	look = o;
	look.dry_run = true;
	ck_assert_uint_gt(gc(&a, &look).old_bytes, 600000);
	ck_assert_int_eq(nf_gc_range(&a.v->src, &a.v->base.root, &from, &to, of_snapshot, a.v), 0);
	vfs_unmount(&a);
	drop_cache(&s, "a");
	snprintf(path, sizeof path, "%.300s/%s", dir, victim);
	flip_a_bit(path, victim_bytes);
	a = vfs_mount(&s, "a");
	o.idle = true;
	o.move_bytes = 64 << 20;
	for (int i = 0; i < 4; i++)
		r = gc(&a, &o);
	ck_assert_uint_gt(r.old_bytes, 0);
	ck_assert_uint_eq(r.resealed_bytes + r.moved_bytes + r.moved_trees, 0);
	ck_assert_int_eq(vfs_checks(&a, "/new", "under two"), 0);
	vfs_unmount(&a);
	free(victim);
	victim = NULL;
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "reseal", getenv("FOLIOFS_LONG") ? 1200 : 120);

	tcase_add_test(tc, what_is_still_under_older_keys_is_counted);
	tcase_add_loop_test(tc, what_is_under_older_keys_is_sealed_again_once_wherever_it_is_kept, 0, 2);
	tcase_add_test(tc, what_others_write_meanwhile_and_what_they_hold_unsent_stays);
	tcase_add_test(tc, a_run_cut_at_any_operation_loses_nothing_and_the_next_one_ends_it);
	tcase_add_loop_test(tc, what_a_run_copied_and_others_took_away_meanwhile_is_said_to_be_where_it_was, 0, 4);
	tcase_add_test(tc, a_block_is_replaced_by_none_but_itself_sealed_again);
	tcase_add_loop_test(tc, what_a_run_said_and_could_not_publish_before_the_mount_ended_is_not_said, 0, 2);
	tcase_add_test(tc, a_block_that_cannot_be_read_stays_as_it_is_and_idle_runs_do_not_come_back_to_it);
	tcase_add_test(tc, nothing_is_sealed_again_and_again_for_a_snapshot_of_which_a_node_is_lost_later);
}

NF_SUITE("vault/reseal")
