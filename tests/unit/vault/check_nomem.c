/* Memory runs out at the k-th allocation of a small life of a vault, for each k: nothing crashes or hangs, whoever asked is told,
 * and what an fsync acknowledged is there for the next mount.
 *
 * The linker puts the functions below in the place of malloc() and its like (tests/meson.build); each k has a process of its
 * own.  FOLIOFS_LONG: every k; NF_NOMEM: one only. */
#include "suite.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Check's own need memory. */
#define IN_A_LIFE(what)                                                  \
	do {                                                             \
		if (!(what)) {                                           \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
			_exit(3);                                        \
		}                                                        \
	} while (0)
#undef ck_assert
#undef ck_assert_int_eq
#undef ck_assert_uint_eq
#define ck_assert(what) IN_A_LIFE(what)
#define ck_assert_int_eq(a, b) IN_A_LIFE((a) == (b))
#define ck_assert_uint_eq(a, b) IN_A_LIFE((a) == (b))
#include "vfs.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEP = 97 };
#else
enum { STEP = 13 };
#endif

/* --- memory that runs out --------------------------------------------------------------------- */

static atomic_long left = -1; /* allocations until one fails; negative: none will */
static atomic_long made;      /* while counting */
static atomic_bool counting;

static bool fails(void)
{
	if (atomic_load(&counting))
		atomic_fetch_add(&made, 1);
	if (atomic_load(&left) < 0)
		return false;
	return atomic_fetch_sub(&left, 1) == 0;
}

#define WRAPPED(type, name, args, call)            \
	type __real_##name args;                   \
	type __wrap_##name args;                   \
	type __wrap_##name args                    \
	{                                          \
		if (fails()) {                     \
			errno = ENOMEM;            \
			return NULL;               \
		}                                  \
		return __real_##name call;         \
	}

WRAPPED(void *, malloc, (size_t n), (n))
WRAPPED(void *, calloc, (size_t n, size_t m), (n, m))
WRAPPED(void *, realloc, (void *p, size_t n), (p, n))
WRAPPED(void *, reallocarray, (void *p, size_t n, size_t m), (p, n, m))
WRAPPED(void *, aligned_alloc, (size_t a, size_t n), (a, n))
WRAPPED(char *, strdup, (const char *s), (s))
WRAPPED(char *, strndup, (const char *s, size_t n), (s, n))

int __real_vasprintf(char **out, const char *f, va_list ap);
int __wrap_vasprintf(char **out, const char *f, va_list ap);
int __wrap_asprintf(char **out, const char *f, ...);

int __wrap_vasprintf(char **out, const char *f, va_list ap)
{
	return fails() ? -1 : __real_vasprintf(out, f, ap);
}

int __wrap_asprintf(char **out, const char *f, ...)
{
	va_list ap;

	va_start(ap, f);
	int r = __wrap_vasprintf(out, f, ap);
	va_end(ap);
	return r;
}

/* --- a small life ---------------------------------------------------------------------------------- */

enum { FILES = 4, VERSIONS = 4 };
static const size_t sizes[FILES] = { 300, 5000, 60000, 200000 };
static char buf[200000];

/* Of each file: every byte is one of a version from `acked` to `tried`. */
static struct {
	int acked, tried;
} state[FILES];

static void path_of(int i, char out[16]) { sprintf(out, "/d/f%d", i); }

static void write_version(struct vfs *m, int i, int version)
{
	char path[16];
	struct nf_open_file *f;
	uint64_t ino;

	path_of(i, path);
	if (vfs_open(m, path, O_RDWR | O_CREAT, 0644, &f, &ino) < 0)
		return;
	memset(buf, version, sizes[i]);
	state[i].tried = version;
	int r = vfs_pwrite(m, f, ino, buf, sizes[i], 0);
	if (r == 0)
		r = vfs_fsync(m, f, ino);
	if (r == 0)
		state[i].acked = version;
	vfs_close(m, f, ino);
}

static int open_vault(const struct vfs_site *s, struct vfs *m)
{
	char cache[200], state_dir[200];
	/* The store itself is opened while there is memory: it is the test's. */
	struct nf_vault_options o = vfs_options(s, "a", cache, state_dir);

	int r = nf_vault_open(&o, &m->v);
	if (r == 0)
		m->fs = nf_vault_fs(m->v);
	return r;
}

static void live(const struct vfs_site *s, long fail_at)
{
	struct vfs m;
	char cache[200], state_dir[200];
	struct nf_vault_options o = vfs_options(s, "a", cache, state_dir);
	atomic_store(&counting, true);
	atomic_store(&left, fail_at);
	if (nf_vault_open(&o, &m.v) < 0)
		return;
	m.fs = nf_vault_fs(m.v);
	(void)vfs_mkdir(&m, "/d");
	for (int version = 1; version <= VERSIONS; version++) {
		for (int i = 0; i < FILES; i++)
			write_version(&m, i, version);
		if (version == 2) {
			(void)vfs_puts(&m, "/d/tmp", "x");
			(void)vfs_rename(&m, "/d/tmp", "/d/x");
		}
		if (version != 3)
			(void)vfs_sync(&m);
	}
	(void)vfs_unlink(&m, "/d/x", false);
	vfs_unmount(&m);
}

static bool holds(struct vfs *m, int i)
{
	struct nf_open_file *f;
	uint64_t ino;
	char path[16];
	size_t got = 0;

	path_of(i, path);
	int r = vfs_open(m, path, O_RDONLY, 0, &f, &ino);
	if (r < 0) {
		return r == -ENOENT && state[i].acked == 0 ? true : (fprintf(stderr, "open: %s\n", nf_error_name(r)), false);
	}
	r = vfs_pread(m, f, ino, buf, sizes[i], 0, &got);
	vfs_close(m, f, ino);
	if (r < 0 || got != sizes[i])
		fprintf(stderr, "read: %s, %zu\n", nf_error_name(r), got);
	if (r < 0 || (state[i].acked && got != sizes[i]))
		return false;
	for (size_t k = 0; k < got; k++)
		if (buf[k] < state[i].acked || buf[k] > state[i].tried)
			return false;
	return true;
}

/* In memory, if the system has such a place: thousands of lives sync a lot. */
static char top[] = "/dev/shm/nf-nomem-XXXXXX", top_else[] = "/tmp/nf-nomem-XXXXXX";
static const char *where;

static void remove_all(void)
{
	if (where)
		(void)nftw(where, nf_tempdir_rm, 8, FTW_DEPTH | FTW_PHYS);
	where = NULL;
}

/* In a process of its own. */
static int one_life(long fail_at)
{
	struct vfs_site s;
	struct vfs m;

	alarm(60);
	vfs_site_init(&s, "", "");
	nf_tempdir_gone(&s.dir);
	IN_A_LIFE(snprintf(s.dir.path, sizeof s.dir.path, "%s", where) > 0);
	live(&s, fail_at);
	atomic_store(&left, -1);
	atomic_store(&counting, false);
	int r = open_vault(&s, &m);
	if (r < 0) {
		fprintf(stderr, "k %ld: opened again: %s\n", fail_at, nf_error_name(r));
		return 1;
	}
	for (int i = 0; i < FILES; i++) {
		if (!holds(&m, i)) {
			fprintf(stderr, "k %ld: file %d: %d acknowledged, %d tried\n", fail_at, i, state[i].acked,
				state[i].tried);
			return 1;
		}
	}
	r = vfs_sync(&m);
	if (r < 0 || vfs_problems(&m)) {
		fprintf(stderr, "k %ld: sync: %s, or problems\n", fail_at, nf_error_name(r));
		return 1;
	}
	vfs_unmount(&m);
	return 0;
}

/* 0, or what became of it; *NR: allocations of a life without failure. */
static int in_a_process(long fail_at, long *nr)
{
	int p[2], status;

	ck_assert(pipe(p) == 0);
	remove_all();
	strcpy(top + strlen(top) - 6, "XXXXXX");
	where = mkdtemp(top);
	if (!where)
		where = mkdtemp(top_else);
	ck_assert(where);
	(void)fflush(NULL);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		int r = one_life(fail_at);
		long n = atomic_load(&made);
		if (write(p[1], &n, sizeof n) != (ssize_t)sizeof n)
			r = 2;
		_exit(r);
	}
	close(p[1]);
	if (read(p[0], nr, sizeof *nr) != (ssize_t)sizeof *nr)
		*nr = 0;
	close(p[0]);
	ck_assert(waitpid(pid, &status, 0) == pid);
	remove_all();
	return status;
}

START_TEST(without_memory_nothing_crashes_and_nothing_acknowledged_is_lost)
{
	const char *only = getenv("NF_NOMEM");
	long nr, dummy, step = getenv("FOLIOFS_LONG") ? 1 : STEP, tried = 0, bad = 0;

	ck_assert(in_a_process(only ? atol(only) : -1, &nr) == 0);
	if (only)
		return;
	ck_assert_int_gt(nr, 500);
	for (long k = (long)getpid() % step; k < nr; k += step, tried++) {
		int status = in_a_process(k, &dummy);
		if (status) {
			fprintf(stderr, "k %ld of %ld: %s %d\n", k, nr, WIFSIGNALED(status) ? "signal" : "status",
				WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
			bad++;
		}
	}
	printf("# %ld allocations, %ld of them failed one at a time\n", nr, tried);
	if (bad)
		ck_abort_msg("%ld lives went wrong", bad);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "nomem", 3600);

	tcase_add_test(tc, without_memory_nothing_crashes_and_nothing_acknowledged_is_lost);
}

NF_SUITE("vault/nomem")
