/* What a machine finds after the power went.
 *
 *   log:    w1  w2  sync  w3  rename  w4 | w5        cut n = 6, w5 under way
 *           [ durable ]   [ each by the seed ]
 *
 * Two passes over the log up to the cut: which operations are durable, then every
 * operation in order, durable ones whole, the others as the seed has it. */
#include "aio/crash_log.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/random.h"

static bool is_data(const struct nf_crash_op *op)
{
	return op->kind == NF_CRASH_WRITE || op->kind == NF_CRASH_TRUNCATE ||
	       op->kind == NF_CRASH_PUNCH;
}

static bool is_name(const struct nf_crash_op *op)
{
	return op->kind == NF_CRASH_CREATE || op->kind == NF_CRASH_MKDIR ||
	       op->kind == NF_CRASH_RENAME || op->kind == NF_CRASH_UNLINK ||
	       op->kind == NF_CRASH_RMDIR;
}

/* Bits of how[i]. */
enum {
	IN_FROM = 1,  /* synced in its directory (data: in its file) */
	IN_TO = 2,    /* rename: synced in the directory it went to */
	LOST = 4,     /* a sync of it failed: it never becomes durable */
};

static void note_sync(const struct nf_crash_op *log, uint8_t *how, size_t at)
{
	const struct nf_crash_op *sync = &log[at];

	for (size_t i = 0; i < at; i++) {
		const struct nf_crash_op *op = &log[i];
		if (is_data(op) && op->ino == sync->ino) {
			if (sync->kind == NF_CRASH_SYNC_LOST && !(how[i] & IN_FROM))
				how[i] |= LOST;
			if (sync->kind == NF_CRASH_FDATASYNC && !(how[i] & LOST))
				how[i] |= IN_FROM;
		}
		if (!is_name(op) || sync->kind != NF_CRASH_FSYNC_DIR)
			continue;
		if (op->dir == sync->ino)
			how[i] |= IN_FROM;
		if (op->kind == NF_CRASH_RENAME && op->dir_to == sync->ino)
			how[i] |= IN_TO;
	}
}

static bool is_durable(const struct nf_crash_op *op, uint8_t how)
{
	if (op->kind == NF_CRASH_RENAME)
		return (how & IN_FROM) && (how & IN_TO);
	return how & IN_FROM;
}

/* Some of the sectors of a write, each by itself. */
static void apply_torn(struct nf_ct *t, const struct nf_crash_op *op, struct nf_prng *rng)
{
	uint64_t at = op->offset, end = op->offset + op->len;

	while (at < end) {
		uint64_t next = NF_MIN(end, (at / NF_CT_SECTOR + 1) * NF_CT_SECTOR);
		if (nf_prng_below(rng, 2))
			nf_ct_write(t, op->ino, at, (char *)op->data + (at - op->offset),
				    (size_t)(next - at));
		at = next;
	}
}

static void apply_maybe(struct nf_ct *t, const struct nf_crash_op *op, struct nf_prng *rng)
{
	uint64_t dice = nf_prng_below(rng, 8);

	if (dice < 3)
		return;
	if (op->kind != NF_CRASH_WRITE || dice < 6)
		nf_crash_apply(t, op);
	else if (dice == 6)
		apply_torn(t, op, rng);
	else
		nf_ct_write(t, op->ino, op->offset, NULL, (size_t)op->len);
}

struct choice {
	uint64_t seed;
	struct nf_prng rng;
	size_t names_until; /* names before this number are kept */
};

static void apply_one(struct nf_ct *t, const struct nf_crash_op *op, size_t i, bool durable,
		      struct choice *ch)
{
	bool data = is_data(op);

	if (!data && !is_name(op))
		return;
	/* An inode is there also when no name leads to it. */
	if (op->kind == NF_CRASH_CREATE || op->kind == NF_CRASH_MKDIR)
		nf_ct_make(t, op->ino, op->kind == NF_CRASH_MKDIR);
	if (durable || ch->seed == NF_CRASH_KEEP_ALL ||
	    ch->seed == (data ? NF_CRASH_KEEP_DATA : NF_CRASH_KEEP_NAMES))
		nf_crash_apply(t, op);
	else if (ch->seed < NF_CRASH_RANDOM)
		return;
	else if (data || ch->seed % 2 == 0)
		apply_maybe(t, op, &ch->rng);
	else if (i < ch->names_until)
		nf_crash_apply(t, op);
}

int nf_crash_image(struct nf_crash *c, uint64_t n, uint64_t seed, struct nf_crash **out)
{
	struct nf_ct t;
	struct choice ch = { .seed = seed };

	nf_lock_take(&c->lock);
	size_t nr = (size_t)NF_MIN(n, (uint64_t)c->nr_ops);
	/* The operation under way when the power went. */
	size_t seen = NF_MIN(nr + 1, c->nr_ops);
	uint8_t *how = nf_ct_alloc(NULL, seen);
	memset(how, 0, seen);
	for (size_t i = 0; i < nr; i++)
		if (c->log[i].kind == NF_CRASH_FDATASYNC || c->log[i].kind == NF_CRASH_FSYNC_DIR ||
		    c->log[i].kind == NF_CRASH_SYNC_LOST)
			note_sync(c->log, how, i);
	nf_prng_seed(&ch.rng, nf_mix64(seed) + n);
	ch.names_until = nf_prng_below(&ch.rng, seen + 1);
	/* A prefix that is kept holds all that is durable. */
	for (size_t i = 0; i < seen; i++)
		if (is_name(&c->log[i]) && is_durable(&c->log[i], how[i]))
			ch.names_until = NF_MAX(ch.names_until, i);
	nf_ct_copy(&t, &c->base);
	for (size_t i = 0; i < seen; i++)
		apply_one(&t, &c->log[i], i, is_durable(&c->log[i], how[i]), &ch);
	nf_lock_drop(&c->lock);
	free(how);
	*out = nf_crash_of_tree(&t);
	return 0;
}
