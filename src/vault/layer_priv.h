/* vault/layer_priv.h - what layer.c and view.c share. */
#ifndef NF_VAULT_LAYER_PRIV_H
#define NF_VAULT_LAYER_PRIV_H

#include "vault/layer.h"

struct nf_layer_entry {
	struct nf_avl_node node;
	struct nf_key key;
	uint8_t *value; /* NULL: removed */
	size_t len;
};

struct nf_layer_mark {
	struct nf_avl_node node;
	uint64_t ino;
	uint64_t cut_block; /* UINT64_MAX: no cut */
	bool wiped;
};

struct nf_layer {
	struct nf_avl entries;
	struct nf_avl marks;
	size_t nr_entries;
	size_t nr_marks;
	size_t bytes;
};

/* The first entry at or behind KEY, or NULL. */
const struct nf_layer_entry *nf_layer_lower(const struct nf_layer *l, const struct nf_key *key);
const struct nf_layer_mark *nf_layer_mark_of(const struct nf_layer *l, uint64_t ino);
/* M may be NULL.  Whether KEY is removed below the layer... */
bool nf_layer_mark_covers(const struct nf_layer_mark *m, const struct nf_key *key);
/* ...and the first key behind what is removed. */
struct nf_key nf_layer_mark_end(const struct nf_layer_mark *m);

#endif
