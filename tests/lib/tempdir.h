/* tests/lib/tempdir.h - a temporary directory that goes when its scope does. */
#ifndef NF_TESTS_TEMPDIR_H
#define NF_TESTS_TEMPDIR_H

#include <check.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct nf_tempdir {
	char path[64];
};

static inline int nf_tempdir_rm(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

static inline void nf_tempdir_gone(struct nf_tempdir *d)
{
	(void)nftw(d->path, nf_tempdir_rm, 8, FTW_DEPTH | FTW_PHYS);
}

static char nf_tempdir_last[64];
static inline void nf_tempdir_last_gone(void)
{
	if (nf_tempdir_last[0])
		(void)nftw(nf_tempdir_last, nf_tempdir_rm, 8, FTW_DEPTH | FTW_PHYS);
}

static inline struct nf_tempdir nf_tempdir_new(void)
{
	struct nf_tempdir d = { .path = "/tmp/nf-test-XXXXXX" };
	static int registered;

	ck_assert_ptr_nonnull(mkdtemp(d.path));
	/* A failed assertion jumps over the cleanup; without forking the program
	 * ends normally then. */
	nf_tempdir_last_gone();
	strcpy(nf_tempdir_last, d.path);
	if (!registered++)
		atexit(nf_tempdir_last_gone);
	return d;
}
#define nf_auto_tempdir __attribute__((cleanup(nf_tempdir_gone))) struct nf_tempdir

static inline const char *nf_tempdir_path(const struct nf_tempdir *d, const char *name)
{
	static char path[4][256];
	static unsigned i;
	char *p = path[i++ % 4];

	(void)snprintf(p, sizeof path[0], "%s/%s", d->path, name);
	return p;
}

#endif
