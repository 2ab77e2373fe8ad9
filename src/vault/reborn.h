/* vault/reborn.h - which writer this device is (claim.c), and how it becomes another (reborn.c).
 *
 *	            claim                     finds itself copied
 *	no writer --------> writer A, dots 1.. -------------------> writer B, dots 1..
 *	                                        what A had not sent
 *
 * All of it at open: nobody uses the vault yet. */
#ifndef NF_VAULT_REBORN_H
#define NF_VAULT_REBORN_H

#include "vault/vault_i.h"

/* Writes the state file, unless v->renewing. */
int nf_remember(struct nf_vault *v);
/* The epoch that comes after what is known of our dots, if there is none. */
int nf_fresh_epoch(struct nf_vault *v);
/* Takes a prefix, by a head with a CLAIM.  It is remembered when it is known to be ours: a device that ends before takes
 * another one.  Blocks. */
int nf_claim(struct nf_vault *v);
/* The device finds that its state was restored or copied (R12): it takes another prefix, and what it had not sent and is not in yet
 * becomes the current epoch of that.  -NF_E_WRITER_CLONED: it has more than can be carried over.  After an error the vault is of no
 * use but to be closed; its disk is as before, as far as the next open is concerned.  Blocks. */
int nf_reborn(struct nf_vault *v);

#endif
