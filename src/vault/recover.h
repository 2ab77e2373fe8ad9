/* vault/recover.h - what the journal held (recover.c). */
#ifndef NF_VAULT_RECOVER_H
#define NF_VAULT_RECOVER_H

#include "vault/commit.h"

struct nf_recovered_record {
	struct nf_ref base_root;
	void *ops;
	size_t len;
};
/* All records of a dot, in one form. */
struct nf_recovered_form {
	struct nf_recovered_record *rec;
	size_t nr;
};
struct nf_recovered_dot {
	uint64_t seq; /* 0: none */
	uint64_t first_segment;
	bool sent;
	struct nf_ref delta;
	uint64_t first_spare;
	struct nf_recovered_form form;
	struct nf_recovered_form whole; /* the form before, while `form` is unfinished */
	bool unfinished;
};
struct nf_recovered {
	struct nf_vault *v;
	uint64_t contained; /* our last dot in the remembered base: passed over */
	struct nf_recovered_dot dot[2];
	struct nf_shelved *shelf; /* after `contained`, ascending */
	size_t nr_shelf;
	struct nf_recovered_dot before; /* `contained` itself, if the journal still has it */
};
void nf_recovered_deinit(struct nf_recovered *rc);
/* The journal's replay callback; ctx is the struct nf_recovered. */
int nf_recover_record(void *ctx, struct nf_journal *j, uint64_t segment, char kind, const void *plain, size_t len,
		      uint64_t unsynced_from_bytes);
/* Makes the epochs of it, on v->base.  Blocks. */
int nf_recover_replay(struct nf_vault *v, struct nf_recovered *rc);

#endif
