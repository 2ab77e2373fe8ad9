/* vault/thin.h - what was made and removed again while it lay on the shelf (shelf.h) is not sent.
 *
 *      dot n        create a, b; data of a, b        create b; data of b
 *      dot n + 1    create c; unlink a          ->   create c
 *
 * An inode leaves no trace if it is ours, is gone in the last shelved tree, is not in the base, and took nobody's place by a rename or
 * an exchange.  That can be said anew at any time, also after a start in between: of an inode that was left out of a dot
 * the base never knows, and what is gone does not come back.  A directory that something else needs stays.
 *
 * All of it is the committer's. */
#ifndef NF_VAULT_THIN_H
#define NF_VAULT_THIN_H

#include "vault/vault_i.h"

/* Finds what leaves no trace in v->shelf: v->gone.  Blocks. */
int nf_thin_find(struct nf_vault *v);
/* The operations of dot S, D->ops, without it: *OUT, and D tells these (unless there is nothing to leave out).  Blocks. */
int nf_thin_ops(struct nf_vault *v, const struct nf_shelved *s, struct nf_delta *d, struct nf_buf *out);

#endif
