/* vault/gc_work.h - what a move goes by: the packs that are to be emptied, what stands in them, the trees that name it.
 *
 *    plan     walks the kept trees, each node once; notes each sealed object in one of the packs once, whatever names it
 *    copy     the objects into new packs, in the order of the trees, the newest first; what is under older keys is sealed
 *             again under the newest                                    (gc_copy.c)
 *    tell     newest tree: MOVE and RESEAL operations, nodes to be written anew    (gc_move.c)
 *             older trees: written anew as far as needed, PLACE operations (gc_trees.c)
 *
 * Memory: about 300 bytes for each object in the packs, 100 for each node of the trees. */
#ifndef NF_VAULT_GC_WORK_H
#define NF_VAULT_GC_WORK_H

#include "vault/gc.h"
#include "vault/node.h"

enum nf_gc_state {
	NF_GC_COPY,   /* to be copied */
	NF_GC_PLACED, /* `to` holds it */
	NF_GC_LOST,   /* it cannot be read whole: it stays where it is, and `check` names it */
};

/* Sealed bytes and where they stand. */
struct nf_gc_place {
	struct nf_pack_id pack;
	uint32_t offset_bytes;
	struct nf_sealed_info info;
};

/* A block or a delta.  Births and tags tell objects apart, so what stands in two places is one; what was sealed again under
 * newer keys is another one of the same birth. */
struct nf_gc_object {
	struct nf_avl_node node;
	struct nf_gc_object *next; /* in the order met */
	struct nf_seal_id id;
	uint32_t plain_len;
	uint32_t block_bytes; /* of its file; 0: not a block */
	struct nf_gc_place from, to;
	struct nf_gc_place twin; /* [Optional] perhaps the same under newer keys: sealed_len 0 if there is none */
	enum nf_gc_state state;
};

/* A node of a kept tree. */
struct nf_gc_node {
	struct nf_avl_node node;
	struct nf_pack_id pack;
	uint32_t offset_bytes;
	bool touched; /* it, or something below it, stands in one of the packs */
	bool matched; /* gone through for what stands elsewhere as well */
	bool written;
	unsigned nr;  /* once written: what stands for it; more than one when it grew */
	struct nf_gc_entry {
		uint8_t key[NF_KEY_ENCODED];
		struct nf_ref ref;
	} *now;
};

struct nf_gc_work {
	struct nf_gc_move m;
	struct nf_codec *codec;
	uint32_t epoch; /* what is copied and older is sealed again */
	int64_t since_s; /* the server's date before anything was sent */
	struct nf_avl objects, nodes;
	struct nf_gc_object *first, **last;
	/* The walk under way: whose tree, and the block size of the last file met. */
	const struct nf_ref *tree;
	uint64_t ino;
	uint32_t block_bytes;
	struct nf_gc_moved r;
};

/* --- gc_plan.c ----------------------------------------------------------------------------------- */
int nf_gc_plan(struct nf_gc_work *w);
void nf_gc_work_deinit(struct nf_gc_work *w);
struct nf_gc_node *nf_gc_node_find(const struct nf_gc_work *w, const struct nf_ref *ref);
/* Is it sealed under keys of before the newest? */
static inline bool nf_gc_is_old(const struct nf_gc_work *w, const struct nf_gc_object *o) { return o->from.info.epoch < w->epoch; }
/* Where the block stands now, if it stands in one of the packs and was placed: *REF says so then, and how it is sealed. */
bool nf_gc_placed(const struct nf_gc_work *w, struct nf_block_ref *ref);
/* Likewise of a delta. */
bool nf_gc_delta_placed(const struct nf_gc_work *w, const struct nf_gc_delta *d, struct nf_ref *now);
/* Steps onto item KEY of the tree under way: w->block_bytes is that of its file if it is an EXTENT.  Blocks. */
int nf_gc_step(struct nf_gc_work *w, const struct nf_key *key, const struct nf_val *val);
static inline bool nf_gc_goes(const struct nf_gc_work *w, const struct nf_pack_id *pack)
{
	return nf_pack_set_find(w->m.from, pack) != NULL;
}

/* --- gc_move.c -------------------------------------------------------------------------------------- */
/* PACK is one that operations of this move are going to name: it is looked after until they are reported, also where a dot that was
 * cut before them is reported meanwhile. */
int nf_gc_name(const struct nf_gc_work *w, const struct nf_pack_id *pack);

/* --- gc_copy.c -------------------------------------------------------------------------------------- */
/* Places every object that is to be copied. */
int nf_gc_copy(struct nf_gc_work *w);

/* --- gc_trees.c ------------------------------------------------------------------------------------- */
/* Writes the older trees anew and says where they, and the deltas, stand now. */
int nf_gc_place(struct nf_gc_work *w);

#endif
