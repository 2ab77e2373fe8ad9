/* vault/look_i.h - the table of heads, for the files of the look only. */
#ifndef NF_VAULT_LOOK_I_H
#define NF_VAULT_LOOK_I_H

#include "base/avl.h"
#include "vault/fetch_priv.h"
#include "vault/look.h"

struct nf_look_entry {
	struct nf_avl_node node; /* of look->names, by seq and rand */
	struct nf_head_id id;    /* tag: once readable */
	struct nf_head head;     /* once readable */
	bool readable;
	/* A readable head that was made on top of this one.  Always a listed one while the leaves are looked for. */
	struct nf_look_entry *by;
	bool listed;        /* by the last listing */
	unsigned unlisted;  /* looks since it was */
	int64_t mtime_s;    /* server's clock; 0: unknown */
	uint64_t size_bytes; /* as listed; 0: unknown */
	uint64_t tried;     /* the last pass that asked for it; 0: none */
	uint64_t consulted; /* the last pass that read its tree's ROOT items */
	uint64_t tried_size; /* size and mtime when it was last asked for and did not open */
	int64_t tried_mtime_s;
	uint64_t seen_ns;   /* first seen */
};

/* Heads of which none makes another superfluous. */
struct nf_leaf_set {
	const struct nf_head **v;
	size_t nr, cap;
};

struct nf_look {
	struct nf_store *store;
	struct nf_codec *codec;
	struct nf_ring *ring; /* borrowed */
	struct nf_fetch *fetch; /* NULL: trees are not read */
	struct nf_avl names;
	struct nf_leaf_set leaves;
	uint64_t pass;  /* listings read so far */
	unsigned gets;  /* of this look */
	bool newer_epoch; /* a head read in this look says it is sealed under one */
	bool lost;      /* a name of this listing was gone when it was asked for */
	int64_t date_s; /* of the last listing */
};

/* --- look.c --- */
static inline struct nf_look_entry *nf_look_entry_of(struct nf_avl_node *n)
{
	return n ? nf_container_of(n, struct nf_look_entry, node) : NULL;
}
static inline struct nf_look_entry *nf_look_first(const struct nf_look *l)
{
	return nf_look_entry_of(nf_avl_first(&l->names));
}
static inline struct nf_look_entry *nf_look_next(const struct nf_look_entry *e)
{
	return nf_look_entry_of(nf_avl_next(&e->node));
}
static inline struct nf_look_entry *nf_look_last(const struct nf_look *l)
{
	return nf_look_entry_of(nf_avl_last(&l->names));
}
static inline struct nf_look_entry *nf_look_prev(const struct nf_look_entry *e)
{
	return nf_look_entry_of(nf_avl_prev(&e->node));
}
struct nf_look_entry *nf_look_find(const struct nf_look *l, const struct nf_head_id *id);
/* Older than AGE_S by the server's clock; never if it tells no times. */
bool nf_look_is_older(const struct nf_look *l, const struct nf_look_entry *e, int64_t age_s);
/* The leaves of what is listed, readable and (AGE_S not negative) older than AGE_S. */
int nf_look_leaves(const struct nf_look *l, int64_t age_s, struct nf_leaf_set *set);
/* X makes Y superfluous: it holds more, or the same under a smaller tag. */
bool nf_head_supersedes(const struct nf_head *x, const struct nf_head *y);

/* --- look_read.c --- */
/* Reads of the listed heads what the leaves depend on. */
int nf_look_read(struct nf_look *l);
/* Reads one that is listed and not readable. */
int nf_look_read_one(struct nf_look *l, struct nf_look_entry *e);

/* --- look_cover.c --- */
/* Forgets what BY is said of, where BY is not listed any more and nothing listed covers it either. */
void nf_look_settle(struct nf_look *l);
/* E became readable: its parents need no reading. */
void nf_look_cover_parents(struct nf_look *l, struct nf_look_entry *e);
/* Reads the ROOT items in E's tree of the names in question; those it names need no reading.  ALL: also those that
 * another head was found for.  A tree that cannot be read names nothing. */
void nf_look_cover(struct nf_look *l, struct nf_look_entry *e, bool all);
/* Is it a name whose head is wanted for the leaves? */
static inline bool nf_look_is_open(const struct nf_look_entry *e)
{
	return e->listed && !e->readable && !e->by && e->size_bytes <= NF_HEAD_BYTES_MAX;
}

#endif
