/* vault/cached.c - what a user does with the cache: look at it, give it up, check it. */
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "vault/subtree.h"
#include "vault/vault_i.h"

#include <inttypes.h>
#include <stdio.h>

/* No sealed block, and no node, is longer. */
enum { BUF_BYTES = 8 << 20 };

int nf_vault_cache_info(struct nf_vault *v, struct nf_cache_info *out)
{
	struct nf_cache_stats s;

	if (!v->cache)
		return nf_fail(-EOPNOTSUPP);
	nf_cache_stats(v->cache, &s);
	*out = (struct nf_cache_info){
		.limit_bytes = s.size_limit_bytes, .min_free_bytes = s.min_free_bytes, .used_bytes = s.used_bytes,
		.kept_bytes = s.kept_bytes, .packs = s.nr_packs, .disk_free_bytes = s.disk_free_bytes,
		.disk_bytes = s.disk_bytes, .journal_bytes = v->journal ? nf_journal_size(v->journal) : 0,
		.hit_bytes = nf_counter_get(NF_C_CACHE_HIT_BYTES), .miss_bytes = nf_counter_get(NF_C_CACHE_MISS_BYTES),
	};
	return 0;
}

static struct nf_ref base_root(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	struct nf_ref root = v->base.root;
	nf_lock_drop(&v->ns);
	return root;
}

/* --- dropping ------------------------------------------------------------------------------- */

static int drop_run(void *ctx, uint64_t ino, uint64_t first, const struct nf_block_ref *refs, unsigned nr)
{
	struct nf_vault *v = ctx;

	(void)ino;
	(void)first;
	for (unsigned i = 0; i < nr; i++)
		nf_cache_discard(v->cache, &refs[i].pack, refs[i].offset_bytes, refs[i].sealed_len);
	return 0;
}

int nf_vault_cache_drop(struct nf_vault *v, uint64_t ino, _Atomic bool *stop, uint64_t *freed_bytes)
{
	struct nf_subtree s = { .src = &v->src, .root = base_root(v), .stop = stop, .run = drop_run, .ctx = v };
	struct nf_cache_stats before, after;

	if (!v->cache)
		return nf_fail(-EOPNOTSUPP);
	nf_cache_stats(v->cache, &before);
	int r = ino ? nf_subtree_walk(&s, ino) : nf_cache_drop(v->cache);
	if (r >= 0)
		r = nf_cache_trim(v->cache, NULL);
	nf_cache_stats(v->cache, &after);
	*freed_bytes = before.used_bytes - NF_MIN(before.used_bytes, after.used_bytes);
	return r;
}

/* --- checking ------------------------------------------------------------------------------- */

struct verify {
	struct nf_vault *v;
	struct nf_codec *codec;
	struct nf_cache_verified *r;
	void (*report)(void *ctx, const char *line);
	void *ctx;
	uint8_t *sealed, *plain;
	uint64_t ino;       /* whose blocks come now */
	uint64_t bad_first; /* the last bad one, not told yet ... */
	uint64_t bad_nr;    /* ... and how many before it in a row */
};

static void set_completion(struct nf_cache_io *io) { nf_completion_set(io->ctx); }

/* What the cache has of a range: 0, NF_CACHE_MISS, or negative. */
static int read_cached(struct verify *k, const struct nf_pack_id *pack, uint32_t offset, uint32_t len)
{
	struct nf_completion c;
	struct nf_cache_io io = { .pack = *pack, .offset_bytes = offset, .len_bytes = len, .buf = k->sealed,
				  .done = set_completion, .ctx = &c };

	if (len > BUF_BYTES || nf_cache_present(k->v->cache, pack, offset, len) < len)
		return NF_CACHE_MISS;
	int r = nf_completion_init(&c);
	if (r < 0)
		return nf_fail(r);
	nf_cache_read(k->v->cache, &io);
	nf_completion_wait(&c);
	nf_completion_deinit(&c);
	k->r->blocks++;
	k->r->bytes += len;
	return io.error;
}

static bool is_bad(struct verify *k, const struct nf_pack_id *pack, uint32_t offset, uint32_t len, int r)
{
	if (r == 0)
		return false;
	nf_cache_forget(k->v->cache, pack, offset, len);
	k->r->bad++;
	return true;
}

static void tell(struct verify *k, const char *what)
{
	nf_auto_free char *path = NULL;
	struct nf_text t = NF_TEXT_INIT;

	if (!k->report)
		return;
	if (nf_vault_path(k->v, k->ino, &path) == 0)
		nf_textf(&t, "/"), nf_text_name(&t, path);
	else
		nf_textf(&t, "inode %" PRIx64, k->ino);
	nf_textf(&t, ": %s", what);
	k->report(k->ctx, nf_text_str(&t));
	nf_text_deinit(&t);
}

static void tell_blocks(struct verify *k)
{
	char what[96];

	if (!k->bad_nr)
		return;
	(void)snprintf(what, sizeof what, "blocks %" PRIu64 " to %" PRIu64 " were damaged in the cache", k->bad_first,
		       k->bad_first + k->bad_nr - 1);
	k->bad_nr = 0;
	tell(k, what);
}

static int verify_run(void *ctx, uint64_t ino, uint64_t first, const struct nf_block_ref *refs, unsigned nr)
{
	struct verify *k = ctx;

	for (unsigned i = 0; i < nr; i++) {
		const struct nf_block_ref *b = &refs[i];
		struct nf_seal_id id = { .type = NF_SEAL_BLOCK, .birth = b->birth, .index = b->index };
		int r = read_cached(k, &b->pack, b->offset_bytes, b->sealed_len);
		if (r == NF_CACHE_MISS)
			continue;
		if (r == 0)
			r = nf_codec_open(k->codec, &id, b->epoch, b->flags, b->tag, k->sealed, b->sealed_len, k->plain,
					  b->plain_len);
		if (ino != k->ino || (k->bad_nr && first + i != k->bad_first + k->bad_nr))
			tell_blocks(k);
		k->ino = ino;
		if (!is_bad(k, &b->pack, b->offset_bytes, b->sealed_len, r))
			continue;
		if (!k->bad_nr)
			k->bad_first = first + i;
		k->bad_nr++;
	}
	return 0;
}

static int verify_node(void *ctx, uint64_t ino, const struct nf_ref *ref)
{
	struct verify *k = ctx;
	struct nf_seal_id id = { .type = NF_SEAL_NODE, .index = ref->level };

	int r = nf_ref_check(ref);
	if (r == 0)
		r = read_cached(k, &ref->pack, ref->offset_bytes, ref->sealed_len);
	if (r == NF_CACHE_MISS)
		return 0;
	if (r == 0)
		r = nf_codec_open(k->codec, &id, ref->epoch, ref->flags, ref->tag, k->sealed, ref->sealed_len, k->plain,
				  ref->plain_len);
	if (is_bad(k, &ref->pack, ref->offset_bytes, ref->sealed_len, r)) {
		tell_blocks(k);
		k->ino = ino;
		tell(k, "metadata was damaged in the cache");
	}
	return 0;
}

int nf_vault_cache_verify(struct nf_vault *v, _Atomic bool *stop, void (*report)(void *ctx, const char *line), void *ctx,
			  struct nf_cache_verified *out)
{
	struct nf_cache_verified sum = { 0 };
	nf_auto_free uint8_t *sealed = malloc(BUF_BYTES), *plain = malloc(BUF_BYTES);
	struct verify k = { .v = v, .r = &sum, .report = report, .ctx = ctx, .sealed = sealed, .plain = plain };
	struct nf_subtree s = { .src = &v->src, .root = base_root(v), .stop = stop, .node = verify_node, .run = verify_run,
				.ctx = &k };

	if (!v->cache)
		return nf_fail(-EOPNOTSUPP);
	if (sealed && plain)
		k.codec = nf_codec_get(v->ring);
	if (!k.codec)
		return nf_fail(-ENOMEM);
	int r = nf_subtree_walk(&s, NF_INO_ROOT);
	if (r >= 0)
		r = nf_subtree_walk(&s, NF_INO_STASH);
	tell_blocks(&k);
	nf_codec_put(k.codec);
	if (sum.bad)
		nf_keeper_look(v, true); /* what is pinned is fetched again */
	*out = sum;
	return NF_MIN(r, 0);
}
