/* vault/tree_build.h - building a tree from left to right: entries in key order, new ones and whole old
 * subtrees, become nodes of proper size.
 *
 *     level 1   | ref  ref  ref  R .            each level gathers entries; full nodes leave it
 *     level 0   | item item .                   as soon as two nodes' worth is there
 *
 * An old subtree R of level l can be linked in only when the levels up to l are closed.  Where one of them holds too
 * little for a node, R is opened instead and its first entries join what is there: so only the last node
 * of a level may be small. */
#ifndef NF_VAULT_TREE_BUILD_H
#define NF_VAULT_TREE_BUILD_H

#include "vault/node.h"

struct nf_builder {
	struct nf_node_source *src;
	const struct nf_tree_writer *w;
	unsigned spread_left; /* nodes that may still be rewritten for their place only */
	struct nf_level {
		struct nf_buf bytes; /* encoded entries */
		struct nf_start {
			uint32_t at; /* in bytes */
			bool is_new; /* not in the tree before; a node: emitted by this update */
		} *starts;
		unsigned nr, cap;
	} levels[NF_TREE_LEVELS_MAX];
};

void nf_builder_init(struct nf_builder *b, struct nf_node_source *src, const struct nf_tree_writer *w);
void nf_builder_deinit(struct nf_builder *b);
/* An item that is new. */
int nf_builder_put(struct nf_builder *b, const struct nf_key *key, const void *value, size_t len);
/* Item I of an old leaf. */
int nf_builder_keep(struct nf_builder *b, const struct nf_node *leaf, unsigned i);
/* A whole old subtree. */
int nf_builder_link(struct nf_builder *b, const uint8_t key[NF_KEY_ENCODED], const struct nf_ref *ref);
/* Closes all levels. *OUT is the root, null if nothing was added. */
int nf_builder_finish(struct nf_builder *b, struct nf_ref *out);

#endif
