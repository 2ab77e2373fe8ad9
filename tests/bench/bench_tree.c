/* layer: vault */
/* What the tree costs: bulk load of a million inodes (INODE, PARENT, DIRENT), look-ups, the update of one
 * file.  Usage: bench_tree [inodes] */
#include "base/clock.h"
#include "base/hash.h"
#include "tree_store.h"
#include "vault/item.h"

#include <inttypes.h>
#include <stdio.h>

enum { FILES_PER_DIR = 1000, ITEMS = 3 };

static const uint64_t first_ino = UINT64_C(1) << 40;

static uint64_t dir_of(uint64_t i) { return i < FILES_PER_DIR ? NF_INO_ROOT : first_ino + i / FILES_PER_DIR; }

static void inode_of(uint64_t i, uint64_t size, struct nf_buf *b)
{
	struct nf_inode_item in = { .mode = S_IFREG | 0644, .uid = 1000, .gid = 1000, .nlink = 1,
				    .size_bytes = size, .mtime = { (time_t)i, 5 }, .block_shift = 15 };
	nf_inode_encode(b, &in);
}

struct place {
	struct nf_key key;
	size_t at, len;
};

static int place_cmp(const void *x, const void *y)
{
	return nf_key_cmp(&((const struct place *)x)->key, &((const struct place *)y)->key);
}

static struct nf_change *make_batch(uint64_t inodes, struct nf_buf *values)
{
	struct place *p = calloc(inodes * ITEMS, sizeof *p);
	struct nf_change *c = calloc(inodes * ITEMS, sizeof *c);
	assert(p && c);
	for (uint64_t i = 0; i < inodes; i++) {
		uint64_t ino = first_ino + i, hash = nf_mix64(i) >> 2;
		char name[32];
		struct nf_dirent d = { .ino = ino, .type = 8, .name = name };
		struct place *at = &p[i * ITEMS];
		d.name_len = (uint8_t)snprintf(name, sizeof name, "file-%08" PRIu64 ".txt", i);
		at[0] = (struct place){ { ino, NF_ITEM_INODE, 0, 0 }, values->len, 0 };
		inode_of(i, 12345, values);
		at[0].len = values->len - at[0].at;
		at[1] = (struct place){ { ino, NF_ITEM_PARENT, dir_of(i), hash }, values->len, 0 };
		assert(nf_names_edit(NULL, 0, name, d.name_len, true, values) == 0);
		at[1].len = values->len - at[1].at;
		at[2] = (struct place){ { dir_of(i), NF_ITEM_DIRENT, hash, 0 }, values->len, 0 };
		assert(nf_dirent_edit(NULL, 0, &d, values) == 0);
		at[2].len = values->len - at[2].at;
	}
	qsort(p, inodes * ITEMS, sizeof *p, place_cmp);
	for (uint64_t i = 0; i < inodes * ITEMS; i++)
		c[i] = (struct nf_change){ .key = p[i].key, .value = values->p + p[i].at, .len = p[i].len };
	free(p);
	return c;
}

static double seconds_since(uint64_t start_ns) { return (double)(nf_clock_ns() - start_ns) / 1e9; }

static void update(struct store *s, struct nf_ref *root, const struct nf_change *c, size_t nr)
{
	struct nf_node_source src = store_source(s);
	struct nf_tree_writer w = { .emit = store_emit, .ctx = s, .spread_max = 32, .spread_budget_nodes = 16 };
	size_t pack = store_begin(s);
	assert(nf_tree_update(&src, root, c, nr, NULL, 0, &w, root) == 0);
	store_name(root, pack);
}

static void lookups(struct store *s, const struct nf_ref *root, uint64_t inodes, unsigned nr)
{
	struct nf_want w = NF_WANT_INIT;
	for (unsigned n = 0; n < nr; n++) {
		struct nf_key key = { first_ino + nf_prng_below(&s->rng, inodes), NF_ITEM_INODE, 0, 0 };
		struct nf_val v;
		int r;
		while ((r = nf_tree_lookup(s->nodes, root, &key, &w, &v)) == NF_TREE_WANT)
			store_load(s, &w);
		assert(r == 0);
		nf_val_deinit(&v);
		nf_want_deinit(&w);
	}
}

int main(int argc, char **argv)
{
	uint64_t inodes = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
	struct nf_buf values = NF_BUF_INIT;
	struct nf_ref root = { 0 };
	struct store s;

	if (inodes == 0)
		return EXIT_FAILURE;
	store_init(&s, (size_t)1 << 30, 1);
	s.split = true;
	struct nf_change *c = make_batch(inodes, &values);
	uint64_t start = nf_clock_ns();
	update(&s, &root, c, inodes * ITEMS);
	double took = seconds_since(start);
	printf("bulk load      %" PRIu64 " inodes, %.2f s, %.0f items/s, %u levels\n", inodes, took,
	       (double)(inodes * ITEMS) / took, root.level + 1U);
	printf("size           %.1f plain bytes per file, leaves %.1f %% full\n",
	       (double)s.emitted_bytes / (double)inodes,
	       100.0 * (double)s.leaf_bytes / (double)(s.leaves * (size_t)NF_NODE_MAX));
	free(c);
	nf_buf_deinit(&values);

	lookups(&s, &root, inodes, 200000); /* warms the cache */
	start = nf_clock_ns();
	lookups(&s, &root, inodes, 500000);
	printf("look-ups       %.0f /s in a warm cache\n", 500000 / seconds_since(start));

	size_t nodes = 0, bytes = 0;
	start = nf_clock_ns();
	for (unsigned n = 0; n < 1000; n++) {
		uint64_t i = nf_prng_below(&s.rng, inodes);
		inode_of(i, n, &values);
		struct nf_change one = { .key = { first_ino + i, NF_ITEM_INODE, 0, 0 }, .value = values.p,
					 .len = values.len };
		update(&s, &root, &one, 1);
		nodes += s.emitted;
		bytes += s.emitted_bytes;
		values.len = 0;
	}
	printf("one file       %.1f nodes, %.0f plain bytes, %.0f us per update\n", (double)nodes / 1000,
	       (double)bytes / 1000, seconds_since(start) * 1e6 / 1000);
	nf_buf_deinit(&values);
	store_deinit(&s);
	return EXIT_SUCCESS;
}
