/* vault/claim.c - the device's writer prefix: taking one, and remembering it. */
#include "base/error.h"
#include "base/random.h"
#include "vault/commit.h"
#include "vault/reborn.h"
#include "vault/shelf.h"

#include <stdio.h>

enum { CLAIM_TRIES = 8 };

int nf_remember(struct nf_vault *v)
{
	struct nf_state s = { .writer = v->claiming ? 0 : v->writer, .next_counter = v->next_counter, .base = v->base };

	if (!v->state_path || v->renewing)
		return 0;
	memcpy(s.device_id, v->device_id, sizeof s.device_id);
	memcpy(s.writer_id, v->writer_id, sizeof s.writer_id);
	if (v->cache)
		nf_cache_sync(v->cache);
	return nf_state_save(v, &s);
}

int nf_fresh_epoch(struct nf_vault *v)
{
	uint64_t seq = v->frozen ? v->frozen->seq : nf_vector_seq(&v->base.vector, v->writer);

	if (v->current)
		return 0;
	if (v->nr_shelf)
		seq = v->shelf[v->nr_shelf - 1].seq;
	struct nf_ref root = nf_shelf_root(v);
	int r = nf_epoch_new(seq + 1, &root, &v->current);
	if (r == 0 && v->journal)
		r = nf_journal_rotate(v->journal, &v->current->first_segment);
	return r;
}

/* A device that has no writer prefix takes one: it is in use once a head with the claim is on the store. */
static int claim_one(struct nf_vault *v)
{
	for (int i = 0; i < CLAIM_TRIES; i++) {
		struct nf_want w = NF_WANT_INIT;
		struct nf_writer_item item;
		struct nf_val val = { 0 };
		uint32_t prefix;

		nf_random(&prefix, sizeof prefix);
		prefix = prefix % ((1u << 23) - 1) + 1;
		nf_random(v->writer_id, sizeof v->writer_id);
		v->writer = prefix;
		v->next_counter = 1;
		v->birth = (uint64_t)prefix << 40;
		nf_epoch_free(v->current);
		v->current = NULL;
		int r = nf_remember(v);
		if (r == 0)
			r = nf_fresh_epoch(v);
		if (r < 0)
			return r;
		struct nf_op op = { .kind = NF_OP_CLAIM, .conflict_mode = NF_MODE_STASH,
				    .time = nf_clock_real(), .prefix = prefix, .host = v->host,
				    .host_len = (uint8_t)strlen(v->host) };
		memcpy(op.writer_id, v->writer_id, sizeof op.writer_id);
		nf_lock_take(&v->ns);
		while ((r = nf_vault_do(v, &op, &w)) == NF_TREE_WANT) {
			nf_lock_drop(&v->ns);
			r = v->src.load(v->src.ctx, &w);
			nf_lock_take(&v->ns);
			if (r < 0)
				break;
		}
		nf_lock_drop(&v->ns);
		nf_want_deinit(&w);
		for (int turn = 0; r == 0 && turn < 16 && v->confirmed_seq == 0; turn++)
			r = nf_commit_turn(v, true);
		if (r < 0)
			return r;
		/* Is it ours, or did somebody come first? */
		struct nf_key key = { .type = NF_ITEM_WRITER, .a = prefix };
		struct nf_want w2 = NF_WANT_INIT;
		while ((r = nf_tree_lookup(v->nodes, &v->base.root, &key, &w2, &val)) == NF_TREE_WANT)
			if ((r = v->src.load(v->src.ctx, &w2)) < 0)
				break;
		if (r == 0)
			r = nf_writer_decode(val.p, val.len, &item);
		nf_val_deinit(&val);
		nf_want_deinit(&w2);
		if (r < 0)
			return r;
		if (r == 0 && !memcmp(item.id, v->writer_id, sizeof item.id))
			return 0;
		v->confirmed_seq = v->known_seq = 0;
	}
	return nf_fail(-NF_E_STORE_BUSY);
}

int nf_claim(struct nf_vault *v)
{
	v->claiming = true;
	int r = claim_one(v);
	v->claiming = false;
	return r == 0 ? nf_remember(v) : r;
}
