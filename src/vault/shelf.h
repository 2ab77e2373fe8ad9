/* vault/shelf.h - what was done without the server and is too much to be kept in memory.
 *
 *      published     B ------------------------------------- head of n ---- ...
 *                    |                                          ^  one dot after the other, when the link is back
 *      in the        |  n          n + 1        n + 2           |
 *      journal       +-- ops,R(n) --- ops,R(n+1) --- ops,R(n+2) +
 *                                                    |
 *      in memory                                     +-- layer and operations of n + 3, the current epoch
 *
 * The first of the current epoch's operations, as many as a delta may hold, become a dot of their own that lies in the
 * journal: its operations as one sealed object and, as ordinary nodes, what they change of the tree; both in D frames.
 * R(n) is a tree like any other, whose new nodes name a segment of the journal instead of a pack.  The view stands on the last
 * of them; neither layer nor operations are left in memory.
 *
 * To be published a dot's operations are read back and replayed on the newest head: that is the frozen epoch then,
 * `aside`, because the view has had it for long.  Heads that are taken over meanwhile are the base for what is to be published;
 * the view goes over to them when the last dot is on the server.
 *
 * Crashes: nodes and operations are durable before the mark that names them is written; until then the journal's
 * records of these operations count.  Segments stay until the last dot is published.
 *
 * All but what asks: the committer's. */
#ifndef NF_VAULT_SHELF_H
#define NF_VAULT_SHELF_H

#include "vault/vault_i.h"

/* Of the current epoch so much is shelved that what is left is small.  Where that is impossible, for want of room on the disk,
 * it stays in memory, and is tried again a second later at the earliest. */
void nf_shelve(struct nf_vault *v);
/* Is there enough in memory for it? */
bool nf_shelf_is_due(const struct nf_vault *v) NF_REQUIRES(v->ns);
/* The oldest dot becomes the frozen epoch, on v->base, without what the others removed again (thin.h); before the first one goes
 * the current epoch's operations are shelved too, as what they remove counts. */
int nf_unshelve(struct nf_vault *v);
/* nf_vault_root(), of who has not the lock. */
struct nf_ref nf_shelf_root(struct nf_vault *v);
/* Keys that may have another value on the server than in the view, beside what is shelved. */
int nf_shelf_note_keys(struct nf_vault *v, const struct nf_key *keys, size_t nr);
int nf_shelf_note_layer(struct nf_vault *v, const struct nf_layer *l);
/* Dots up to SEQ are in the base.  With the last one the view stands on the base again. */
void nf_shelf_drop(struct nf_vault *v, uint64_t seq) NF_REQUIRES(v->ns);
/* Reads the operations of a dot: into D, which borrows from *OUT (the caller's). */
int nf_shelf_ops(struct nf_vault *v, const struct nf_shelved *s, void **out, struct nf_delta *d);
/* NULL: no such dot. */
const struct nf_shelved *nf_shelf_find(const struct nf_vault *v, uint64_t seq);
int nf_shelf_add(struct nf_vault *v, const struct nf_shelved *s);
void nf_shelf_free(struct nf_vault *v);
void nf_shelved_to_text(const struct nf_shelved *s, struct nf_text *t);

#endif
