/* Regions.
 *
 *   state       may become            who has it
 *   P pending   R, C                  its writer, queued
 *   R reserved  A, C                  its writer, on the active list, nothing copied yet
 *   A active    R, D, C               its writer, copying; R again while it waits for memory
 *   D dirty     F, C                  dirty tree
 *   F flushing  D, C                  flushing tree and a request; D when storing failed
 *   C complete                        nobody
 *
 * Every region keeps the private state (credentials...) its bytes were written with.  The
 * filesystem's hook decides which may be one region; without a hook equal pointers may. */
#include "pagecache/region.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/trace.h"
#include "pagecache/group.h"

#include <inttypes.h>
#include <stdatomic.h>

#define TO(s) (1u << NF_REGION_##s)
static const struct {
	char letter;
	unsigned to;
} states[NF_REGION_STATE_NR] = {
	[NF_REGION_PENDING] = { 'P', TO(RESERVED) | TO(COMPLETE) },
	[NF_REGION_RESERVED] = { 'R', TO(PENDING) | TO(ACTIVE) | TO(COMPLETE) },
	[NF_REGION_ACTIVE] = { 'A', TO(RESERVED) | TO(DIRTY) | TO(COMPLETE) },
	[NF_REGION_DIRTY] = { 'D', TO(FLUSHING) | TO(COMPLETE) },
	[NF_REGION_FLUSHING] = { 'F', TO(DIRTY) | TO(COMPLETE) },
	[NF_REGION_COMPLETE] = { 'C', 0 },
};
#undef TO

static const char *const type_names[] = {
#define X(id, name) name,
	NF_REGION_TYPES(X)
#undef X
};

static atomic_uint last_id;

enum { MEMORY_TRIES = 1000, MEMORY_PAUSE_NS = 20000000 };

/* 20 s in all. */
static bool wait_for_memory(unsigned *tries)
{
	struct timespec pause = { .tv_nsec = MEMORY_PAUSE_NS };

	nf_trace(REGION, "no memory");
	(void)nanosleep(&pause, NULL);
	return ++*tries < MEMORY_TRIES;
}

void *nf_record_alloc(size_t size)
{
	unsigned tries = 0;
	void *p;

	while (!(p = calloc(1, size)) && wait_for_memory(&tries))
		;
	NF_ASSERT(p);
	return p;
}

void *nf_record_grow(void *old, size_t nr, size_t size)
{
	unsigned tries = 0;
	void *p;

	while (!(p = reallocarray(old, nr, size)) && wait_for_memory(&tries))
		;
	NF_ASSERT(p);
	return p;
}

struct nf_region *nf_region_new(enum nf_region_type type, enum nf_region_state state,
				struct nf_group *group, uint64_t start, uint64_t end)
{
	struct nf_region *rg = nf_record_alloc(sizeof *rg);

	rg->type = type;
	rg->state = state;
	rg->group = group;
	rg->start = rg->reserved_start = start;
	rg->end = rg->reserved_end = end;
	rg->id = atomic_fetch_add(&last_id, 1) + 1;
	rg->since_ns = nf_clock_ns();
	nf_list_init(&rg->link);
	nf_count(NF_C_REGION_NEW, 1);
	nf_trace(REGION, "D=%08x new %s dt=%" PRIx64 "-%" PRIx64, rg->id, type_names[type], start, end);
	return rg;
}

void nf_region_free(struct nf_region *rg)
{
	if (!rg)
		return;
	NF_ASSERT(!nf_avl_linked(&rg->node));
	NF_ASSERT(nf_list_empty(&rg->link));
	if (rg->priv && --rg->priv->refs == 0)
		nf_list_add_tail(rg->priv->dead, &rg->priv->link);
	free(rg);
}

void nf_region_move(struct nf_region *rg, enum nf_region_state to, const char *why)
{
	nf_trace(REGION, "D=%08x %s %s s=%c>%c dt=%" PRIx64 "-%" PRIx64, rg->id, why,
		 type_names[rg->type], states[rg->state].letter, states[to].letter, rg->start,
		 rg->end);
	NF_ASSERT(states[rg->state].to & 1u << to);
	rg->state = to;
}

static bool overlap(uint64_t a_start, uint64_t a_end, uint64_t b_start, uint64_t b_end)
{
	return a_start < b_end && b_start < a_end;
}

static uint64_t down(uint64_t v, uint64_t unit) { return v & ~(unit - 1); }
static uint64_t up(uint64_t v, uint64_t unit)
{
	return v > UINT64_MAX - unit ? UINT64_MAX : (v + unit - 1) & ~(unit - 1);
}

static bool privs_agree(const struct nf_region_priv *old, const struct nf_region_priv *now,
			const struct nf_region_ops *ops)
{
	if (!ops->compatible || !old || !now || old == now)
		return true;
	return ops->compatible(ops->ctx, old->fs, now->fs);
}

bool nf_region_must_pend(const struct nf_region *old, const struct nf_region *now,
			 const struct nf_group *group, uint64_t block_bytes,
			 const struct nf_region_ops *ops)
{
	if (overlap(old->reserved_start, old->reserved_end, now->reserved_start, now->reserved_end))
		return true;
	if (!overlap(down(old->reserved_start, block_bytes), up(old->reserved_end, block_bytes),
		     down(now->reserved_start, block_bytes), up(now->reserved_end, block_bytes)))
		return false;
	/* Running, in a group that was closed since: its block is to be stored without NOW's bytes. */
	if (old->group && old->group != group)
		return true;
	return nf_region_is_exclusive(old) || nf_region_is_exclusive(now) ||
	       !privs_agree(old->priv, now->priv, ops);
}

enum nf_verdict nf_region_verdict(const struct nf_region *old, const struct nf_region *now,
				  const struct nf_group *group, const struct nf_region_ops *ops)
{
	if (old->group != group)
		return NF_INCOMPATIBLE; /* its group must be gathered as it is */
	if (nf_region_is_zero(now) || nf_region_is_zero(old))
		return NF_SUPERSEDE; /* no content to keep apart */
	if (old->type == NF_REGION_DIRECT || now->type == NF_REGION_DIRECT)
		return NF_INCOMPATIBLE;
	if (old->type == NF_REGION_DSYNC)
		return NF_INCOMPATIBLE;
	if (!privs_agree(old->priv, now->priv, ops))
		return NF_INCOMPATIBLE;
	return now->type == NF_REGION_DSYNC ? NF_SUPERSEDE : NF_COMPATIBLE;
}

static bool is_apart(const struct nf_region *rg)
{
	return rg->type == NF_REGION_DSYNC || rg->type == NF_REGION_DIRECT;
}

bool nf_regions_agree(const struct nf_regions *dirty, const struct nf_region *now, bool one_group,
		      const struct nf_region_ops *ops)
{
	return one_group && !dirty->nr_apart && !ops->compatible && now->type != NF_REGION_DIRECT;
}

static struct nf_region *region_of(const struct nf_avl_node *n)
{
	return n ? nf_container_of((struct nf_avl_node *)(uintptr_t)n, struct nf_region, node)
		 : NULL;
}

static int by_start(const void *key, const struct nf_avl_node *n)
{
	uint64_t start = *(const uint64_t *)key;

	return start < region_of(n)->start ? -1 : start > region_of(n)->start;
}

void nf_regions_init(struct nf_regions *rs)
{
	nf_avl_init(&rs->tree, NULL);
	rs->nr = 0;
	rs->nr_apart = 0;
	rs->bytes = 0;
	rs->block_bytes = rs->box_bytes = 0;
}

/* Regions of a tree are disjoint, so their ends are in the order of their starts. */
struct nf_region *nf_regions_at(const struct nf_regions *rs, uint64_t pos)
{
	struct nf_avl_node *n = rs->tree.root, *best = NULL;

	while (n) {
		bool right = region_of(n)->end <= pos;
		if (!right)
			best = n;
		n = n->child[right];
	}
	return region_of(best);
}

struct nf_region *nf_regions_next(const struct nf_region *rg)
{
	return region_of(nf_avl_next(&rg->node));
}

uint64_t nf_regions_data_end(const struct nf_regions *rs)
{
	const struct nf_region *rg = region_of(nf_avl_last(&rs->tree));

	while (rg && nf_region_is_zero(rg))
		rg = region_of(nf_avl_prev(&rg->node));
	return rg ? rg->end : 0;
}

static uint64_t weight(const struct nf_region *rg)
{
	return nf_region_is_zero(rg) ? 0 : rg->end - rg->start;
}

/* Whole blocks that RG alone would have stored. */
static uint64_t box(const struct nf_regions *rs, const struct nf_region *rg)
{
	uint64_t unit = rs->block_bytes;

	if (unit == 0)
		return 0;
	if (nf_region_is_zero(rg))
		return (rg->start % unit ? unit : 0) + (rg->end % unit ? unit : 0);
	return up(rg->end, unit) - down(rg->start, unit);
}

/* A block that is counted for A, and need not be for B behind it: both are stored at once.  What differs from what a mapped page
 * had may be a dozen regions in each page. */
static uint64_t shared(const struct nf_regions *rs, const struct nf_region *a, const struct nf_region *b)
{
	uint64_t unit = rs->block_bytes;
	bool at_once = unit && a && b && a->group == b->group && !is_apart(a) && !is_apart(b);

	return at_once && a->end % unit && down(a->end, unit) == down(b->start, unit) ? unit : 0;
}

/* What RG, which is in the tree, makes box_bytes more: modulo 2^64, for it may be a little less where groups meet. */
static uint64_t share_of(const struct nf_regions *rs, const struct nf_region *rg)
{
	const struct nf_region *before, *behind;

	if (rs->block_bytes == 0)
		return 0;
	before = region_of(nf_avl_prev(&rg->node));
	behind = region_of(nf_avl_next(&rg->node));
	return box(rs, rg) - shared(rs, before, rg) - shared(rs, rg, behind) + shared(rs, before, behind);
}

void nf_regions_insert(struct nf_regions *rs, struct nf_region *rg)
{
	NF_ASSERT(rg->start < rg->end);
	struct nf_avl_node *there = nf_avl_add(&rs->tree, &rg->start, by_start, &rg->node);
	NF_ASSERT(!there);
	rs->nr++;
	rs->nr_apart += is_apart(rg);
	rs->bytes += weight(rg);
	rs->box_bytes += share_of(rs, rg);
}

void nf_regions_remove(struct nf_regions *rs, struct nf_region *rg)
{
	rs->box_bytes -= share_of(rs, rg);
	nf_avl_erase(&rs->tree, &rg->node);
	rs->nr--;
	rs->nr_apart -= is_apart(rg);
	rs->bytes -= weight(rg);
}

/* Moves an edge; the order in the tree does not change. */
static void resize(struct nf_regions *rs, struct nf_region *rg, uint64_t start, uint64_t end)
{
	NF_ASSERT(start < end);
	rs->bytes -= weight(rg);
	rs->box_bytes -= share_of(rs, rg);
	rg->start = rg->reserved_start = start;
	rg->end = rg->reserved_end = end;
	rs->bytes += weight(rg);
	rs->box_bytes += share_of(rs, rg);
}

static struct nf_region *piece_of(const struct nf_region *rg, uint64_t start, uint64_t end)
{
	struct nf_region *piece = nf_region_new(rg->type, rg->state, rg->group, start, end);

	piece->seq = rg->seq;
	piece->since_ns = rg->since_ns;
	piece->priv = rg->priv;
	if (piece->priv)
		piece->priv->refs++;
	return piece;
}

struct nf_region *nf_regions_split(struct nf_regions *rs, struct nf_region *rg, uint64_t at)
{
	NF_ASSERT(rg->start < at && at < rg->end);
	struct nf_region *tail = piece_of(rg, at, rg->end);

	resize(rs, rg, rg->start, at);
	nf_regions_insert(rs, tail);
	if (!nf_list_empty(&rg->link))
		nf_list_add_head(&rg->link, &tail->link);
	nf_count(NF_C_REGION_SPLIT, 1);
	nf_trace(REGION, "D=%08x split XD=%08x at=%" PRIx64, rg->id, tail->id, at);
	return tail;
}

static void discard(struct nf_regions *rs, struct nf_region *rg, const char *why)
{
	nf_regions_remove(rs, rg);
	nf_list_del(&rg->link);
	nf_region_move(rg, NF_REGION_COMPLETE, why);
	nf_region_free(rg);
}

static bool may_merge(const struct nf_region *a, const struct nf_region *b,
		      const struct nf_region_ops *ops)
{
	if (a->group != b->group || a->type != b->type)
		return false;
	if (is_apart(a))
		return false;
	return privs_agree(a->priv, b->priv, ops);
}

/* B touches the end of A. */
static void absorb(struct nf_regions *rs, struct nf_region *a, struct nf_region *b, const char *why)
{
	uint64_t end = b->end;

	a->seq = NF_MIN(a->seq, b->seq);
	a->since_ns = NF_MIN(a->since_ns, b->since_ns);
	discard(rs, b, why);
	resize(rs, a, a->start, end);
	nf_count(NF_C_REGION_MERGE, 1);
}

struct nf_region *nf_regions_merge(struct nf_regions *rs, struct nf_region *rg,
				   const struct nf_region_ops *ops)
{
	nf_regions_insert(rs, rg);
	struct nf_region *prev = region_of(nf_avl_prev(&rg->node));
	struct nf_region *next = nf_regions_next(rg);

	if (next && next->start == rg->end && may_merge(rg, next, ops))
		absorb(rs, rg, next, "merge forw");
	if (prev && prev->end == rg->start && may_merge(prev, rg, ops)) {
		absorb(rs, prev, rg, "merge back");
		rg = prev;
	}
	return rg;
}

void nf_regions_cut(struct nf_regions *rs, uint64_t start, uint64_t end, const char *why)
{
	struct nf_region *rg, *next;

	for (rg = nf_regions_at(rs, start); rg && rg->start < end; rg = next) {
		if (rg->start < start)
			rg = nf_regions_split(rs, rg, start);
		if (rg->end > end)
			(void)nf_regions_split(rs, rg, end);
		next = nf_regions_next(rg);
		discard(rs, rg, why);
	}
}

void nf_regions_redirty(struct nf_regions *rs, struct nf_region *rg, struct nf_list *list,
			const struct nf_region_ops *ops)
{
	uint64_t pos = rg->start;

	while (pos < rg->end) {
		const struct nf_region *newer = nf_regions_at(rs, pos);
		uint64_t end = newer && newer->start < rg->end ? newer->start : rg->end;
		uint64_t skip_to = newer ? newer->end : rg->end;
		if (pos < end) {
			struct nf_region *piece = piece_of(rg, pos, end);
			nf_region_move(piece, NF_REGION_DIRTY, "redirty");
			nf_list_add_tail(list, &piece->link);
			(void)nf_regions_merge(rs, piece, ops);
		}
		pos = end < rg->end ? skip_to : rg->end;
	}
	nf_count(NF_C_REGION_REDIRTY, 1);
	nf_region_move(rg, NF_REGION_COMPLETE, "redirtied");
	nf_region_free(rg);
}

const char *nf_region_type_name(enum nf_region_type type) { return type_names[type]; }
char nf_region_state_letter(enum nf_region_state state) { return states[state].letter; }

const char nf_region_text_header[] =
	"REGION   GROUP  TYPE S FL SEQ      AGE_MS   REQUEST  INODE            DIRTY, BOUNDS, RESV\n";

void nf_region_to_text(struct nf_text *t, const struct nf_region *rg, uint64_t ino,
		       uint64_t block_bytes, uint32_t request)
{
	unsigned flags = (nf_region_is_zero(rg) ? 1 : 0) | (nf_region_is_exclusive(rg) ? 2 : 0) | (rg->priv ? 4 : 0);

	nf_textf(t,
		 "%08x %-6" PRIu64 " %s %c %02x %-8" PRIu64 " %-8" PRIu64 " %08x %-16" PRIx64 " %" PRIx64 "-%" PRIx64
		 " %" PRIx64 "-%" PRIx64 " %" PRIx64 "-%" PRIx64 "\n",
		 rg->id, rg->group ? rg->group->number : 0, type_names[rg->type],
		 states[rg->state].letter, flags, rg->seq, (nf_clock_ns() - rg->since_ns) / NF_NS_PER_MS, request, ino,
		 rg->start, rg->end, down(rg->start, block_bytes), up(rg->end, block_bytes), rg->reserved_start,
		 rg->reserved_end);
}

void nf_regions_check(const struct nf_regions *rs, enum nf_region_state state)
{
	uint64_t end = 0, bytes = 0, boxes = 0;
	size_t nr = 0, nr_apart = 0;

	for (struct nf_avl_node *n = nf_avl_first(&rs->tree); n; n = nf_avl_next(n)) {
		const struct nf_region *rg = region_of(n);
		NF_ASSERT(rg->state == state);
		NF_ASSERT(rg->start < rg->end);
		NF_ASSERT(rg->start >= end);
		NF_ASSERT(rg->reserved_start <= rg->start);
		NF_ASSERT(rg->reserved_end >= rg->end);
		NF_ASSERT(nf_list_empty(&rg->link) == (rg->type == NF_REGION_CACHE_COPY));
		NF_ASSERT(!rg->group == (rg->type == NF_REGION_CACHE_COPY));
		end = rg->end;
		bytes += weight(rg);
		boxes += box(rs, rg) - shared(rs, region_of(nf_avl_prev(n)), rg);
		nr_apart += is_apart(rg);
		nr++;
	}
	NF_ASSERT(nr == rs->nr);
	NF_ASSERT(nr_apart == rs->nr_apart);
	NF_ASSERT(bytes == rs->bytes && boxes == rs->box_bytes);
}
