/* What a machine finds after the power went.
 *
 *   log:    w1  w2  sync  w3  rename  w4 | w5        cut n = 6, w5 under way
 *           [ durable ]   [ each by the seed ]
 *
 * A pass over the whole log backwards says from which cut on each operation is durable.  Then every operation up to the
 * cut in order: durable ones whole, the others as the seed has it. */
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

/* What comes next for an inode, seen from the end of the log: the number of the operation + 1; 0: nothing. */
struct next {
	uint64_t sync;     /* fdatasync that returned */
	uint64_t lost;     /* ... that failed: what came before it never becomes durable */
	uint64_t sync_dir; /* fsync_dir */
};

static uint64_t first_cut(const struct nf_crash_op *op, uint64_t at, const struct next *next)
{
	const struct next *n = &next[is_name(op) ? op->dir : op->ino];

	if (op->safe)
		return at + 1;
	if (is_data(op))
		return n->sync && (!n->lost || n->sync < n->lost) ? n->sync : UINT64_MAX;
	uint64_t to = op->kind == NF_CRASH_RENAME ? next[op->dir_to].sync_dir : n->sync_dir;
	return n->sync_dir && to ? NF_MAX(n->sync_dir, to) : UINT64_MAX;
}

/* For each operation the first cut that finds it durable. */
static void look_ahead_locked(struct nf_crash *c)
{
	if (c->nr_durable == c->nr_ops)
		return;
	struct next *next = nf_ct_alloc(NULL, c->now.nr * sizeof *next);
	memset(next, 0, c->now.nr * sizeof *next);
	c->durable_at = nf_ct_alloc(c->durable_at, c->nr_ops * sizeof *c->durable_at);
	for (size_t i = c->nr_ops; i-- > 0;) {
		const struct nf_crash_op *op = &c->log[i];
		if (op->kind == NF_CRASH_FDATASYNC)
			next[op->ino].sync = i + 1;
		else if (op->kind == NF_CRASH_SYNC_LOST)
			next[op->ino].lost = i + 1;
		else if (op->kind == NF_CRASH_FSYNC_DIR)
			next[op->ino].sync_dir = i + 1;
		c->durable_at[i] = first_cut(op, i, next);
	}
	c->nr_durable = c->nr_ops;
	free(next);
}

static uint64_t first_sector_bytes(const struct nf_crash_op *op)
{
	return NF_MIN((uint64_t)op->len, NF_CT_SECTOR - op->offset % NF_CT_SECTOR);
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

/* The first of its sectors, and no more. */
static void apply_first_sector(struct nf_ct *t, const struct nf_crash_op *op)
{
	nf_ct_write(t, op->ino, op->offset, op->data, (size_t)first_sector_bytes(op));
	nf_ct_write(t, op->ino, op->offset + first_sector_bytes(op), NULL, (size_t)(op->len - first_sector_bytes(op)));
}

struct choice {
	uint64_t seed;
	struct nf_prng rng;
	size_t names_until; /* names before this number are kept */
	size_t spoilt;      /* this write in part, all else as it was; SIZE_MAX: not so */
};

/* One of the writes that are not durable, of more than a sector: what comes after it in the same file looks as if it were
 * there. */
static size_t choose_spoilt_locked(struct nf_crash *c, size_t seen, size_t nr, struct nf_prng *rng)
{
	size_t found = SIZE_MAX;
	uint64_t so_far = 0;

	for (size_t i = 0; i < seen; i++) {
		const struct nf_crash_op *op = &c->log[i];
		if (op->kind == NF_CRASH_WRITE && c->durable_at[i] > nr && op->len > first_sector_bytes(op) &&
		    nf_prng_below(rng, ++so_far) == 0)
			found = i;
	}
	return found;
}

static void apply_one(struct nf_ct *t, const struct nf_crash_op *op, size_t i, bool durable,
		      struct choice *ch)
{
	bool data = is_data(op);

	if (!data && !is_name(op))
		return;
	/* An inode is there also when no name leads to it. */
	if (op->kind == NF_CRASH_CREATE || op->kind == NF_CRASH_MKDIR)
		nf_ct_make(t, op->ino, op->kind == NF_CRASH_MKDIR);
	if (!durable && i == ch->spoilt)
		apply_first_sector(t, op);
	else if (durable || ch->spoilt != SIZE_MAX || ch->seed == NF_CRASH_KEEP_ALL ||
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
	struct choice ch = { .seed = seed, .spoilt = SIZE_MAX };

	nf_lock_take(&c->lock);
	size_t nr = (size_t)NF_MIN(n, (uint64_t)c->nr_ops);
	/* The operation under way when the power went. */
	size_t seen = NF_MIN(nr + 1, c->nr_ops);
	look_ahead_locked(c);
	nf_prng_seed(&ch.rng, nf_mix64(seed) + n);
	ch.names_until = nf_prng_below(&ch.rng, seen + 1);
	if (seed >= NF_CRASH_RANDOM && seed % NF_CRASH_KINDS == NF_CRASH_SPOILS)
		ch.spoilt = choose_spoilt_locked(c, seen, nr, &ch.rng);
	/* A prefix that is kept holds all that is durable. */
	for (size_t i = 0; i < seen; i++)
		if (is_name(&c->log[i]) && c->durable_at[i] <= nr)
			ch.names_until = NF_MAX(ch.names_until, i);
	nf_ct_copy(&t, &c->base);
	for (size_t i = 0; i < seen; i++) {
		apply_one(&t, &c->log[i], i, c->durable_at[i] <= nr, &ch);
		if (c->log[i].ino < t.nr)
			t.inodes[c->log[i].ino].changed = i + 1;
	}
	nf_lock_drop(&c->lock);
	*out = nf_crash_of_tree(&t);
	return 0;
}
