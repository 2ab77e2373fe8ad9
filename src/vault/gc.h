/* vault/gc.h - the collector's parts (docs/internals/protocol.md, "Garbage").
 *
 *    leaf's ROOT and SNAPSHOT items --> roots, kept or not          gc_roots.c retention
 *    roots, newest first            --> what each pack is named for gc_mark.c  first a walk, then differences; gc_marks.c
 *    packs/ on the store            --> what there is               gc_mark.c
 *    the three together             --> condemned, moved, deleted   gc.c; gc_plan.c, gc_move.c, gc_trees.c
 *
 * Memory goes by packs, roots and deltas. */
#ifndef NF_VAULT_GC_H
#define NF_VAULT_GC_H

#include "vault/commit.h"
#include "vault/gc_marks.h"
#include "vault/pack_set.h"

/* What ends a run, and how much of the line it takes. */
struct nf_gc_pace {
	_Atomic bool *stop; /* [Optional] */
	uint64_t until_ns;  /* 0: no end */
	bool rests;         /* as long as each exchange took */
};

struct nf_gc_root {
	struct nf_key key;   /* of the ROOT item; type SNAPSHOT for a snapshot, 0 for the leaf */
	uint64_t seq;
	int64_t time_s;      /* its writer's clock, put right by what lies around it */
	struct nf_ref root;  /* where its tree stands now */
	uint8_t rand[16];    /* of a snapshot's head */
	bool kept;
	bool broken;         /* something of it cannot be read */
};

struct nf_gc_delta {
	struct nf_key key;
	uint64_t head_seq;
	struct nf_ref delta;
	bool kept;
};

struct nf_gc {
	struct nf_vault *v;
	struct nf_gc_options o;
	struct nf_gc_pace pace;
	struct nf_head leaf;
	int64_t date_s;          /* the server's, at the look that showed the leaf */
	uint32_t epoch;          /* what is sealed under an older one is old */
	struct nf_pack_set packs;
	struct nf_gc_marks marks;
	struct nf_gc_root *roots; /* ascending by seq; the leaf is the last */
	size_t nr_roots, cap_roots, nr_snapshots;
	struct nf_gc_delta *deltas;
	size_t nr_deltas, cap_deltas;
	struct nf_node_source src; /* counts what it loads */
	bool surveying;            /* nothing was done yet */
	uint64_t ops;              /* done so far */
	bool moved;                /* something was said to stand elsewhere */
	struct nf_gc_result r;
};

/* --- gc_idle.c ----------------------------------------------------------------------- */
/* 0, -NF_E_CANCELLED, -NF_E_GC_TOO_MUCH. */
int nf_gc_goes_on(const struct nf_gc_pace *p);
/* After an exchange that began at SINCE_NS. */
void nf_gc_rest(const struct nf_gc_pace *p, uint64_t since_ns);
/* One run at a time in a vault: an idle one gives way to any other.  -NF_E_CANCELLED. */
int nf_gc_take_turn(struct nf_vault *v, bool idle, _Atomic bool *stop);
void nf_gc_end_turn(struct nf_vault *v);
/* After an idle run that found R, or ended with ERROR: how long until the next one at least?  *RESEALS: it goes on sealing again
 * what is under older keys, and does not ask whose turn it is. */
uint64_t nf_gc_next_ms(const struct nf_gc_result *r, int error, uint64_t every_ms, uint64_t rest_ms, bool *reseals);
/* Nothing is on its way to the server, and the server is there. */
bool nf_gc_may_idle_locked(const struct nf_vault *v) NF_REQUIRES(v->ns);

/* --- gc_mark.c ---------------------------------------------------------------------- */
/* What stands in packs/, into the set. */
int nf_gc_list(struct nf_gc *g);
/* Fills known, needed and the sums of the set from roots and deltas. */
int nf_gc_mark(struct nf_gc *g);
/* Calls FN for each item of [FROM, TO) of the tree ROOT; blocks.  What it returns but 0 ends it, and is returned. */
int nf_gc_range(struct nf_node_source *src, const struct nf_ref *root, const struct nf_key *from, const struct nf_key *to,
		int (*fn)(void *ctx, const struct nf_key *key, const struct nf_val *val), void *ctx);
/* The condemned packs of a tree, into SET. */
int nf_gc_condemned(struct nf_node_source *src, const struct nf_ref *root, struct nf_pack_set *set);
/* Each pack that an item's value names, with the sealed bytes it is named for and their key epoch.  Not those of ROOT, SNAPSHOT and DELTA
 * items: what is kept of them is decided for the newest tree alone.  A window by reference names the leaf and what
 * stands there; SRC gets that leaf. */
int nf_item_packs(struct nf_node_source *src, const struct nf_key *key, const struct nf_val *val,
		  int (*fn)(void *ctx, const struct nf_pack_id *pack, uint32_t bytes, uint32_t epoch), void *ctx);
/* What an EXTENT value names; *REF is set if it does so by reference (leaf null otherwise).  Blocks. */
int nf_gc_window(struct nf_node_source *src, const struct nf_val *val, uint32_t block_bytes, struct nf_extent_ref *ref,
		 struct nf_block_ref out[NF_WINDOW_BLOCKS]);
/* How a run loads nodes: counted, at its pace. */
struct nf_node_source nf_gc_source(struct nf_gc *g);

/* --- gc_roots.c ------------------------------------------------------------------------ */
/* Roots and deltas that the leaf names, all of them kept; blocks. */
int nf_gc_items(struct nf_gc *g);
/* Marks what is kept of them, and sorts. */
int nf_gc_retain(struct nf_gc *g);
/* Oldest first; the leaf is the last. */
void nf_gc_sort(struct nf_gc *g);
void nf_gc_items_deinit(struct nf_gc *g);

/* --- gc_move.c --------------------------------------------------------------------------- */
struct nf_gc_move {
	struct nf_vault *v;
	struct nf_node_source *src;
	const struct nf_ref *leaf;  /* the newest tree */
	struct nf_gc_root *roots;   /* older ones; the leaf may be among them */
	size_t nr_roots;
	const struct nf_gc_delta *deltas;
	size_t nr_deltas;
	struct nf_pack_set *from;   /* packs to be emptied; those that are not worth it are taken off */
	unsigned percent;           /* worth it: less than this is to be copied; 0: all are */
	const struct nf_epoch *own; /* [Optional] epochs whose blocks are in the journal still */
	bool dry_run;
	bool tolerant;              /* nodes that cannot be read are left as they are, and so is what lies below them */
	struct nf_gc_pace pace;
};
struct nf_gc_moved {
	uint64_t packs, blocks, bytes; /* copied; dry run: bytes that would be */
	uint64_t resealed_bytes;       /* of those: sealed again, under the newest keys */
	uint64_t nodes;                /* of the newest tree, to be written anew by the next commit */
	uint64_t trees;                /* older ones, written anew */
	uint64_t ops;                  /* that tell of it */
	uint64_t lost;                 /* blocks that could not be read whole */
};
/* Whatever the kept trees name in packs of FROM is copied elsewhere and said to stand there, as operations of the current
 * epoch; nodes of the newest tree that stand there are marked for the next commit.  Blocks. */
int nf_gc_move(const struct nf_gc_move *m, struct nf_gc_moved *out);
/* --- gc_undo.c --------------------------------------------------------------------------- */
/* What the collector's operations in OWN say to stand in packs of BAD, where it cannot be read any more, is said to stand where it
 * was, if that is there.  G: items of the newest tree.  *OPS: counts on. */
int nf_gc_undo(const struct nf_gc *g, const struct nf_epoch *own, const struct nf_pack_set *bad, uint64_t *ops);
/* --- gc_named.c -------------------------------------------------------------------------- */
/* 1, 0, negative. */
int nf_gc_pack_exists(struct nf_vault *v, const struct nf_pack_id *id);
/* A tree that was only to be written anew needs an operation to be committed with. */
int nf_gc_empty_op(struct nf_vault *v);

#endif
