/* vault/space.h - room on the disk of the journal, before anything is accepted (space.c). */
#ifndef NF_VAULT_SPACE_H
#define NF_VAULT_SPACE_H

#include "vault/run.h"

/* A call comes in: true, and RUN may be stepped; or it waits in line, or was answered, and is not to be touched. */
bool nf_space_enter(struct nf_run *run);
/* The run ends: what it took is given back.  What it left to be written was noted. */
void nf_space_leave(struct nf_run *run);
/* What is accepted and not in the journal has changed. */
void nf_space_note(struct nf_vault *v) NF_REQUIRES(v->ns);
/* Takes C, if it waits for room, out of the line and answers -EINTR. */
void nf_space_interrupt(struct nf_vault *v, struct nf_call *c);
/* The cache gives way to what is going to be written.  Blocks on the disk. */
void nf_space_tidy(struct nf_vault *v);
/* What statfs may promise: UINT64_MAX while what is written goes to the server and room comes back by that. */
uint64_t nf_space_left(struct nf_vault *v) NF_REQUIRES(v->ns);

/* The account, once the state directory is there. */
int nf_space_init(struct nf_vault *v);
/* The thread that serves the line. */
int nf_space_start(struct nf_vault *v);
/* Who waits is told that there is no room.  No call comes in any more. */
void nf_space_stop(struct nf_vault *v);
void nf_space_deinit(struct nf_vault *v);

#endif
