/* New keys, at random: three machines write, cut, clone and remove files of their own, hold what they did, publish beside runs
 * of the collector, and run it themselves, at once or one within the other; snapshots come and go; in the middle, twice,
 * there are new keys.  In the end all machines agree with the model, nothing is damaged or under older keys, the snapshots are
 * what they were, and the store holds no pack that nothing needs.
 *
 * NF_SEED replays a seed, NF_STEPS sets the number of steps between two rekeys. */
#include "gate.h"
#include "vfs_gc.h"

#include "vault/commit.h"

#include <inttypes.h>

enum { MACHINES = 3, FILES = 5, SIZE_MAX_BYTES = 300000, SNAPSHOTS = 4, REKEYS = 2 };

struct file {
	size_t len; /* of bytes */
	bool there;
	uint8_t *bytes;
};

struct machine {
	struct vfs m;
	struct gate *g;
	struct file f[FILES];
	bool holds; /* did something that it has not published */
};

struct shot {
	bool there;
	struct file f[MACHINES][FILES];
};

struct world {
	struct vfs_site s;
	struct machine m[MACHINES];
	struct shot shots[SNAPSHOTS];
	struct nf_prng rng;
	struct machine *collects;
	unsigned depth; /* of runs within each other */
	unsigned runs, within, resealed, published_beside;
};

static uint64_t below(struct world *w, uint64_t n) { return nf_prng_below(&w->rng, n); }

static unsigned number_of(const struct world *w, const struct machine *m) { return (unsigned)(m - w->m); }

static const char *path_of(unsigned machine, unsigned i)
{
	static char path[2][32];
	static int n;

	n = !n;
	snprintf(path[n], sizeof path[n], "/%c%u", 'a' + (char)machine, i);
	return path[n];
}

static void mount(struct world *w, struct machine *m)
{
	char name[2] = { (char)('a' + number_of(w, m)), 0 };

	m->g = gate_new(vfs_store(&w->s));
	ck_assert_int_eq(vfs_mount_over(&w->s, name, &m->g->base, &m->m), 0);
}

/* --- what a machine does to its files ---------------------------------------------------- */

static void write_some(struct world *w, struct machine *m, unsigned i)
{
	struct file *f = &m->f[i];
	size_t at = below(w, f->len + 20000), len = 1 + below(w, below(w, 3) ? 20000 : 200000);
	struct nf_open_file *o;
	uint64_t ino;

	at = NF_MIN(at, (size_t)SIZE_MAX_BYTES - 1);
	len = NF_MIN(len, SIZE_MAX_BYTES - at);
	uint64_t seed = nf_prng_next(&w->rng);
	if (at > f->len || !f->there)
		memset(f->bytes + f->len, 0, SIZE_MAX_BYTES - f->len);
	fill(f->bytes + at, len, seed);
	ck_assert_int_eq(vfs_open(&m->m, path_of(number_of(w, m), i), O_RDWR | O_CREAT, 0644, &o, &ino), 0);
	ck_assert_int_eq(vfs_pwrite(&m->m, o, ino, f->bytes + at, len, at), 0);
	vfs_close(&m->m, o, ino);
	f->len = NF_MAX(f->len, at + len);
	f->there = true;
}

static void cut(struct world *w, struct machine *m, unsigned i)
{
	struct file *f = &m->f[i];
	size_t len = below(w, SIZE_MAX_BYTES);

	if (!f->there)
		return;
	ck_assert_int_eq(vfs_truncate(&m->m, path_of(number_of(w, m), i), len), 0);
	if (len > f->len)
		memset(f->bytes + f->len, 0, len - f->len);
	f->len = len;
}

static void copy(struct world *w, struct machine *m, unsigned i)
{
	unsigned to = (unsigned)below(w, FILES);
	struct file *f = &m->f[i], *t = &m->f[to];

	if (to == i || !f->there || !f->len)
		return;
	if (t->there)
		ck_assert_int_eq(vfs_unlink(&m->m, path_of(number_of(w, m), to), false), 0);
	vfs_copy_range(&m->m, path_of(number_of(w, m), i), path_of(number_of(w, m), to), 0, 0, f->len, f->len);
	memcpy(t->bytes, f->bytes, f->len);
	t->len = f->len;
	t->there = true;
}

static void replace(struct world *w, struct machine *m, unsigned i)
{
	unsigned to = (unsigned)below(w, FILES);
	struct file *f = &m->f[i], *t = &m->f[to], old = *t;

	if (to == i || !f->there)
		return;
	ck_assert_int_eq(vfs_rename(&m->m, path_of(number_of(w, m), i), path_of(number_of(w, m), to)), 0);
	*t = *f;
	*f = (struct file){ .bytes = old.bytes };
}

static void drop(struct world *w, struct machine *m, unsigned i)
{
	if (!m->f[i].there)
		return;
	ck_assert_int_eq(vfs_unlink(&m->m, path_of(number_of(w, m), i), false), 0);
	m->f[i] = (struct file){ .bytes = m->f[i].bytes };
}

static void change(struct world *w, struct machine *m)
{
	unsigned i = (unsigned)below(w, FILES);

	m->holds = true;
	switch (below(w, 10)) {
	case 0: cut(w, m, i); break;
	case 1: drop(w, m, i); break;
	case 2: replace(w, m, i); break;
	case 3:
	case 4: copy(w, m, i); break;
	default: write_some(w, m, i); break;
	}
}

static void publish(struct machine *m)
{
	ck_assert_int_eq(vfs_sync(&m->m), 0);
	m->holds = false;
}

/* --- the collector --------------------------------------------------------------------------- */

static void collect(struct world *w, struct machine *m);

/* What others do between what a run decided and its commit. */
static void beside(void *ctx)
{
	struct world *w = ctx;
	struct machine *m = &w->m[below(w, MACHINES)];

	if (m == w->collects)
		m = &w->m[(number_of(w, m) + 1) % MACHINES];
	struct machine *outer = w->collects;
	if (below(w, 3) == 0 && w->depth < 2) {
		collect(w, m);
		w->within++;
	} else {
		ck_assert_int_eq(vfs_refresh(&m->m), 0);
		for (uint64_t n = 1 + below(w, 3); n > 0; n--) {
			for (uint64_t k = 1 + below(w, 4); k > 0; k--)
				change(w, m);
			publish(m);
		}
		w->published_beside++;
	}
	w->collects = outer;
}

static void collect(struct world *w, struct machine *m)
{
	struct nf_gc_options o = at_once();
	struct nf_gc_result r;
	bool waits = false;

	for (int i = 0; i < MACHINES; i++)
		waits |= w->m[i].holds;
	/* Those who hold something stand on what is old, and two runs within one another on what the other one found. */
	o.grace_s = waits || w->depth || below(w, 2) ? 86400 : 0;
	o.keep_heads = 1 + below(w, 12);
	o.repack_percent = 70;
	o.move_bytes = below(w, 2) ? UINT64_C(1) << 30 : 200000;
	w->depth++;
	w->collects = m;
	if (o.grace_s && below(w, 4)) {
		publish(m); /* the next head is the run's */
		m->g->before = "heads/";
		m->g->ctx = w;
		m->g->hook = beside;
	}
	ck_assert_int_eq(nf_vault_gc(m->m.v, &o, NULL, &r), 0);
	m->g->hook = NULL;
	m->holds = false;
	w->depth--;
	w->runs++;
	w->resealed += r.resealed_bytes > 0;
}

/* --- snapshots ---------------------------------------------------------------------------------- */

static void name_of(unsigned n, char out[20]) { snprintf(out, 20, "s%u", n); }

static void snapshot(struct world *w, unsigned n)
{
	char name[20];

	name_of(n, name);
	for (int i = 0; i < MACHINES; i++)
		publish(&w->m[i]);
	ck_assert_int_eq(vfs_refresh(&w->m[0].m), 0);
	if (w->shots[n].there) {
		ck_assert_int_eq(nf_vault_snapshot_remove(w->m[0].m.v, name, NULL, NULL), 0);
		w->shots[n].there = false;
		return;
	}
	ck_assert_int_eq(nf_vault_snapshot_create(w->m[0].m.v, name, NULL), 0);
	w->shots[n].there = true;
	for (int i = 0; i < MACHINES; i++) {
		for (int k = 0; k < FILES; k++) {
			struct file *t = &w->shots[n].f[i][k], *f = &w->m[i].f[k];
			memcpy(t->bytes, f->bytes, f->len);
			t->len = f->len;
			t->there = f->there;
		}
	}
}

/* --- comparing ------------------------------------------------------------------------------------ */

static void compare(struct vfs *m, unsigned machine, const struct file f[FILES])
{
	for (unsigned i = 0; i < FILES; i++) {
		int r = vfs_check(m, path_of(machine, i), f[i].bytes, f[i].len);
		ck_assert_msg(r == (f[i].there ? 0 : -ENOENT), "%s: %s", path_of(machine, i), nf_error_name(r));
	}
}

static void compare_shots(struct world *w)
{
	for (unsigned n = 0; n < SNAPSHOTS; n++) {
		char cache[200], state[200], name[20];
		struct nf_vault_options o = vfs_options(&w->s, "reader", cache, state);
		struct vfs r;
		if (!w->shots[n].there) {
			nf_store_free(o.store);
			continue;
		}
		name_of(n, name);
		o.snapshot = name;
		o.read_only = true;
		o.cache_dir = NULL;
		ck_assert_int_eq(nf_vault_open(&o, &r.v), 0);
		r.fs = nf_vault_fs(r.v);
		for (unsigned i = 0; i < MACHINES; i++)
			compare(&r, i, w->shots[n].f[i]);
		is_whole(&r);
		vfs_unmount(&r);
	}
}

/* --- a run --------------------------------------------------------------------------------------------- */

static void step(struct world *w)
{
	struct machine *m = &w->m[below(w, MACHINES)];

	switch (below(w, 12)) {
	case 0:
	case 1:
		for (int i = 0; i < MACHINES; i++)
			ck_assert_int_eq(vfs_refresh(&w->m[i].m), 0);
		collect(w, m);
		break;
	case 2:
		snapshot(w, (unsigned)below(w, SNAPSHOTS));
		break;
	case 3:
		vfs_unmount(&m->m);
		mount(w, m);
		break;
	default:
		ck_assert_int_eq(vfs_refresh(&m->m), 0);
		for (uint64_t n = 1 + below(w, 5); n > 0; n--)
			change(w, m);
		if (below(w, 4))
			publish(m);
		compare(&m->m, number_of(w, m), m->f);
		break;
	}
}

/* What is not sent yet arrives under the old keys, later. */
static void rekey(struct world *w)
{
	static const uint8_t bytes[32] = { 1 };
	struct nf_secret secret = { NF_SLOT_RECOVERY, bytes, sizeof bytes };

	for (int i = 0; i < MACHINES; i++) {
		ck_assert_int_eq(nf_settle(w->m[i].m.v), 0);
		ck_assert_int_eq(nf_vault_journal(w->m[i].m.v, true), 0);
		vfs_unmount(&w->m[i].m);
	}
	ck_assert_int_eq(nf_header_rekey(w->s.header, NULL), 0);
	ck_assert_int_eq(nf_header_slot_add(w->s.header, &secret, NULL, "", NULL), 0);
	for (int i = 0; i < MACHINES; i++)
		mount(w, &w->m[i]);
}

static void end(struct world *w)
{
	struct nf_gc_options o = at_once(), look = at_once();

	for (int i = 0; i < MACHINES; i++)
		publish(&w->m[i]);
	for (int i = 0; i < MACHINES; i++)
		ck_assert_int_eq(vfs_refresh(&w->m[i].m), 0);
	o.repack_percent = 70;
	for (int i = 0; i < 3; i++)
		(void)gc(&w->m[i % MACHINES].m, &o);
	for (int i = 0; i < MACHINES; i++) {
		ck_assert_int_eq(vfs_refresh(&w->m[i].m), 0);
		for (unsigned k = 0; k < MACHINES; k++)
			compare(&w->m[i].m, k, w->m[k].f);
		is_whole(&w->m[i].m);
	}
	compare_shots(w);
	struct vfs fresh = vfs_mount(&w->s, "fresh");
	for (unsigned k = 0; k < MACHINES; k++)
		compare(&fresh, k, w->m[k].f);
	is_whole(&fresh);
	look.dry_run = true;
	struct nf_gc_result r = gc(&fresh, &look);
	ck_assert_uint_eq(r.old_packs, 0);
	ck_assert_uint_eq(r.damaged_roots, 0);
	/* The packs of the last run's own commits are the next one's. */
	ck_assert_uint_le(r.packs, r.live_packs + 4);
	vfs_unmount(&fresh);
}

static void play(uint64_t seed, unsigned steps)
{
	struct world *w = calloc(1, sizeof *w);

	printf("# seed %" PRIu64 "\n", seed);
	fflush(stdout);
	nf_prng_seed(&w->rng, seed);
	vfs_site_init(&w->s, "", "");
	for (int i = 0; i < MACHINES; i++) {
		for (int k = 0; k < FILES; k++) {
			w->m[i].f[k].bytes = calloc(1, SIZE_MAX_BYTES);
			for (int n = 0; n < SNAPSHOTS; n++)
				w->shots[n].f[i][k].bytes = calloc(1, SIZE_MAX_BYTES);
		}
		mount(w, &w->m[i]);
	}
	for (unsigned epoch = 0; epoch <= REKEYS; epoch++) {
		for (unsigned i = 0; i < steps; i++)
			step(w);
		if (epoch == REKEYS)
			break;
		rekey(w);
		collect(w, &w->m[below(w, MACHINES)]);
	}
	end(w);
	printf("# runs %u, of these sealing again %u, within another %u; published beside a run %u\n", w->runs, w->resealed, w->within,
	       w->published_beside);
	for (int i = 0; i < MACHINES; i++) {
		for (int k = 0; k < FILES; k++) {
			free(w->m[i].f[k].bytes);
			for (int n = 0; n < SNAPSHOTS; n++)
				free(w->shots[n].f[i][k].bytes);
		}
		vfs_unmount(&w->m[i].m);
	}
	vfs_site_deinit(&w->s);
	free(w);
}

START_TEST(machines_agree_after_new_keys_and_runs_beside_writers_and_nothing_is_under_older_ones)
{
	const char *env = getenv("NF_SEED"), *steps = getenv("NF_STEPS");
	unsigned nr = env ? 1 : getenv("FOLIOFS_LONG") ? 60 : 2;
	uint64_t seed;

	nf_random(&seed, sizeof seed);
	seed = env ? strtoull(env, NULL, 0) : seed % 1000000;
	for (unsigned i = 0; i < nr; i++)
		play(seed + i, steps ? (unsigned)atoi(steps) : getenv("FOLIOFS_LONG") ? 60 : 15);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "reseal", getenv("FOLIOFS_LONG") ? 3600 : 120);
	tcase_add_test(tc, machines_agree_after_new_keys_and_runs_beside_writers_and_nothing_is_under_older_ones);
}

NF_SUITE("vault/model_reseal")
