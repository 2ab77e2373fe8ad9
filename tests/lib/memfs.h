/* tests/lib/memfs.h - a whole filesystem in memory: what the front end is tried with.
 *
 * Everything of a kernel filesystem but quotas and default ACL inheritance.  One lock over all.  With
 * `defer` every call that deferring suits is completed on another thread, one in DEFER at once. */
#ifndef NF_TESTS_MEMFS_H
#define NF_TESTS_MEMFS_H

#include "foliofs/fs.h"

struct memfs;

/* DEFER 0: every call is completed before submit returns; n: every n-th by a pool of two threads. */
int memfs_new(unsigned defer, struct memfs **out);
/* Open files must have been released. */
void memfs_free(struct memfs *m);
struct nf_fs *memfs_fs(struct memfs *m);
/* Changes behind the kernel's back, as another client makes them: overwrites the first bytes of a file in the root and
 * invalidates, all or just that range; removes NAME. */
int memfs_remote_write(struct memfs *m, const char *name, const char *bytes, bool all);
int memfs_remote_unlink(struct memfs *m, const char *name, bool all);

#endif
