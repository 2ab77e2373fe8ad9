/* vault/look.h - looking: what heads the store shows (docs/internals/protocol.md).
 *
 * Keeps a table of the heads seen and authenticated.  One look is one listing of heads/ and a GET of each name not
 * known yet that no newer head's tree names as one it was made on top of.  A name that does not authenticate is not there
 * yet: asked for again at later looks, never remembered as bad.  Not thread safe. */
#ifndef NF_VAULT_LOOK_H
#define NF_VAULT_LOOK_H

#include "foliofs/store.h"
#include "vault/head.h"

struct nf_fetch;
struct nf_look;
/* FETCH (borrowed, may be NULL): how trees are read; without it every head is. */
int nf_look_new(struct nf_store *store, struct nf_ring *ring, struct nf_fetch *fetch, struct nf_look **out);
void nf_look_free(struct nf_look *l); /* NULL allowed */

struct nf_look_result {
	const struct nf_head **leaves; /* borrowed until the next look; ascending by (seq, tag) */
	size_t nr_leaves;
	int64_t server_date_s;
	size_t nr_listed;
	size_t nr_unreadable; /* of those that had to be read */
	bool newer_epoch;     /* one of them says it is sealed under a newer epoch than the ring holds */
};
/* Blocks.  -NF_E_STORE_BUSY if heads vanish under it again and again.  On a store without listing: `hint`, then the heads it leads to.  0 leaves is a vault without heads. */
int nf_look(struct nf_look *l, struct nf_look_result *out);
/* Takes a head of our own into the table without asking the store (it was confirmed). */
int nf_look_add(struct nf_look *l, const struct nf_head *h);
/* Is there any name on the store that is not in the table?  One listing, no GET: a poll.  1 yes, 0 no. */
int nf_look_poll(struct nf_look *l);
/* Looks, then deletes heads that a listed head read whole covers, both older than AGE_S by the server's Date, and names
 * that do not open, when they are older than a day as well; leaves always stay, and no more than 64 go in one call.  Ends
 * earlier results' borrowing.  On a store that tells no times, cannot be listed or is read-only nothing is deleted.
 * Returns how many through NR. Blocks. */
int nf_look_prune(struct nf_look *l, int64_t age_s, size_t *nr);

#endif
