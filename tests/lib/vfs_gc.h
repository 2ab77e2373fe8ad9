/* tests/lib/vfs_gc.h - runs of the collector on a vault of vfs.h, and files of which each byte has to be stored. */
#ifndef NF_TESTS_VFS_GC_H
#define NF_TESTS_VFS_GC_H

#include "vfs.h"

#include "base/random.h"

enum { BIG = 600 << 10 };

/* Nothing but the newest commit, at once. */
static inline struct nf_gc_options at_once(void)
{
	struct nf_gc_options o;

	nf_gc_defaults(&o);
	o.grace_s = 0;
	o.keep_heads = 1;
	o.keep_days = o.lease_days = 0;
	o.repack_percent = 0;
	return o;
}

static inline struct nf_gc_result gc(struct vfs *m, const struct nf_gc_options *o)
{
	struct nf_gc_result r;

	ck_assert_int_eq(nf_vault_gc(m->v, o, NULL, &r), 0);
	return r;
}

static inline void fill(void *p, size_t len, uint64_t seed)
{
	struct nf_prng prng;

	nf_prng_seed(&prng, seed);
	for (size_t i = 0; i < len; i++)
		((uint8_t *)p)[i] = (uint8_t)nf_prng_below(&prng, 256);
}

/* LEN bytes that do not compress, another sort for each SEED. */
static inline int put(struct vfs *m, const char *path, size_t len, uint64_t seed)
{
	char *p = malloc(len);

	fill(p, len, seed);
	int r = vfs_put(m, path, p, len);
	free(p);
	return r;
}

static inline int check(struct vfs *m, const char *path, size_t len, uint64_t seed)
{
	char *p = malloc(len);

	fill(p, len, seed);
	int r = vfs_check(m, path, p, len);
	free(p);
	return r;
}

struct stored {
	uint64_t packs, bytes;
};

/* What packs/ holds. */
static inline struct stored stored(const struct vfs_site *s)
{
	struct nf_store_op top = { .verb = NF_STORE_LIST, .name = "packs" };
	struct stored n = { 0 };

	ck_assert_int_eq(nf_store_run(s->keep, &top), 0);
	for (size_t i = 0; i < top.nr_entries; i++) {
		struct nf_store_op op = { .verb = NF_STORE_LIST };
		snprintf(op.name, sizeof op.name, "packs/%.40s", top.entries[i].name);
		ck_assert_int_eq(nf_store_run(s->keep, &op), 0);
		for (size_t k = 0; k < op.nr_entries; k++)
			n.bytes += op.entries[k].size_bytes;
		n.packs += op.nr_entries;
		nf_store_op_deinit(&op);
	}
	nf_store_op_deinit(&top);
	return n;
}

static inline void is_whole(struct vfs *m)
{
	ck_assert_uint_eq(vfs_problems(m), 0);
}

static inline void drop_cache(const struct vfs_site *s, const char *name)
{
	char command[400];

	snprintf(command, sizeof command, "rm -rf '%.120s/%.40s-cache'", s->dir.path, name);
	ck_assert_int_eq(system(command), 0);
}

#endif
