/* layer: vault */
/* Makes vaults of any size and age, by the library, without a mount.
 *
 *	mkvault STORE WORK files N PER_DIR     N empty files in N / PER_DIR directories below /tree
 *	mkvault STORE WORK wide N              one directory /wide of N files
 *	mkvault STORE WORK age FILES COMMITS   COMMITS commits, each of a few small changes to /tree's files
 *
 * STORE is made with the passphrase of the tests if it holds no vault.  WORK is a folder for cache and state. */
#include "base/random.h"
#include "vault/header_store.h"
#include "vault/item.h"
#include "vfs.h"

#include <inttypes.h>
#include <string.h>

enum { PER_COMMIT = 20000, CHANGES = 3, AGE_PER_DIR = 100 };

static const char pass[] = "correct horse";

static struct vfs open_vault(const char *address, const char *work)
{
	const struct nf_secret secret = { NF_SLOT_PASSPHRASE, pass, sizeof pass - 1 };
	const struct nf_header_key key = { .secret = &secret };
	const struct nf_kdf_params kdf = { 15, 8, 1 };
	char cache[300], state[300];
	struct nf_header *h;
	struct nf_store *st;
	struct vfs m;
	uint8_t id[16];
	struct nf_header_found found;

	ck_assert_int_eq(nf_store_open(address, NULL, true, &st), 0);
	int r = nf_header_store_load(st, &key, &h, &found);
	if (r == -NF_E_HEADER_MISSING) {
		ck_assert_int_eq(nf_header_new(&h), 0);
		ck_assert_int_eq(nf_header_slot_add(h, &secret, &kdf, "", id), 0);
		nf_header_set_generation(h, 1);
		ck_assert_int_eq(nf_header_store_save(st, h, NULL), 0);
		r = nf_vault_format(st, h, "mkvault");
	}
	ck_assert_int_eq(r, 0);
	snprintf(cache, sizeof cache, "%.280s/cache", work);
	snprintf(state, sizeof state, "%.280s/state", work);
	struct nf_vault_options o = { .store = st, .header = h, .cache_dir = cache, .state_dir = state,
				      .cache_size_bytes = 1 << 30, .memory_bytes = 16 << 20,
				      .no_threads = true, .host = "mkvault" };
	ck_assert_int_eq(nf_vault_open(&o, &m.v), 0);
	m.fs = nf_vault_fs(m.v);
	nf_header_free(h);
	return m;
}

static uint64_t make(struct vfs *m, enum nf_call_op op, uint64_t dir, const char *name, uint32_t mode)
{
	struct nf_call c = { .op = op, .ino = dir, .mode = mode };

	snprintf(c.name, sizeof c.name, "%s", name);
	ck_assert_int_eq(vfs_call(m, &c), 0);
	return c.attr.ino;
}

static void make_files(struct vfs *m, uint64_t dir, uint64_t first, uint64_t nr)
{
	char name[32];

	for (uint64_t i = first; i < first + nr; i++) {
		snprintf(name, sizeof name, "file-%" PRIu64, i);
		(void)make(m, NF_CALL_MKNOD, dir, name, S_IFREG | 0644);
		if (i % PER_COMMIT == PER_COMMIT - 1)
			ck_assert_int_eq(vfs_sync(m), 0);
	}
}

static void files(struct vfs *m, uint64_t nr, uint64_t per_dir)
{
	uint64_t tree = make(m, NF_CALL_MKDIR, NF_INO_ROOT, "tree", 0755);
	char name[32];

	for (uint64_t i = 0; i < nr; i += per_dir) {
		snprintf(name, sizeof name, "dir-%" PRIu64, i / per_dir);
		make_files(m, make(m, NF_CALL_MKDIR, tree, name, 0755), i, NF_MIN(per_dir, nr - i));
	}
}

static void age(struct vfs *m, uint64_t nr, uint64_t commits)
{
	struct nf_prng p;
	char path[64], noise[200];

	nf_prng_seed(&p, 1);
	for (size_t i = 0; i < sizeof noise; i++)
		noise[i] = (char)nf_prng_next(&p);
	for (uint64_t i = 0; i < commits; i++) {
		for (int k = 0; k < CHANGES; k++) {
			uint64_t f = nf_prng_below(&p, nr);
			snprintf(path, sizeof path, "/tree/dir-%" PRIu64 "/file-%" PRIu64, f / AGE_PER_DIR, f);
			ck_assert_int_eq(vfs_put(m, path, noise + nf_prng_below(&p, 100), 100), 0);
		}
		ck_assert_int_eq(vfs_sync(m), 0);
	}
}

static char **args;
static int nr_args;

static uint64_t number(int i) { return i < nr_args ? strtoull(args[i], NULL, 10) : 0; }

START_TEST(makes_it)
{
	struct vfs m = open_vault(args[1], args[2]);

	if (!strcmp(args[3], "files"))
		files(&m, number(4), number(5));
	else if (!strcmp(args[3], "wide"))
		make_files(&m, make(&m, NF_CALL_MKDIR, NF_INO_ROOT, "wide", 0755), 0, number(4));
	else
		age(&m, number(4), number(5));
	ck_assert_int_eq(vfs_sync(&m), 0);
	vfs_unmount(&m);
}
END_TEST

/* The helpers of vfs.h report by the check library: so this is a suite of one. */
int main(int argc, char **argv)
{
	args = argv;
	nr_args = argc;
	if (argc < 5 || (strcmp(argv[3], "wide") != 0 && number(5) == 0)) {
		fprintf(stderr, "mkvault STORE WORK files N PER_DIR | wide N | age FILES COMMITS\n");
		return 2;
	}
	Suite *s = suite_create("mkvault");
	TCase *tc = tcase_create("mkvault");
	tcase_set_timeout(tc, 0);
	tcase_add_test(tc, makes_it);
	suite_add_tcase(s, tc);
	SRunner *run = srunner_create(s);
	srunner_set_fork_status(run, CK_NOFORK);
	srunner_run_all(run, CK_ENV);
	int failed = srunner_ntests_failed(run);
	srunner_free(run);
	return failed ? 1 : 0;
}
