/* vault/recover.h - what the journal held (recover.c). */
#ifndef NF_VAULT_RECOVER_H
#define NF_VAULT_RECOVER_H

#include "vault/commit.h"

struct nf_recovered_record {
	struct nf_ref base_root;
	void *ops;
	size_t len;
	const struct nf_layer *base_layer; /* [Optional] over base_root: what its author saw there; borrowed */
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
/* A dot that the base contains and that is not known to be reported: what it holds may have to be sent again (G4, G5). */
struct nf_recovered_late {
	uint64_t seq;
	uint64_t first_segment; /* of its records, which may be those of an earlier dot that was split */
	struct nf_ref base_root, delta; /* null: not known */
};
struct nf_recovered {
	struct nf_vault *v;
	uint64_t contained; /* our last dot in the remembered base: passed over */
	struct nf_recovered_dot dot[2];
	struct nf_shelved *shelf; /* after `contained`, ascending */
	size_t nr_shelf;
	struct nf_recovered_dot before; /* `contained` itself, if the journal still has it */
	struct nf_recovered_late *late; /* up to `contained` */
	size_t nr_late;
};
/* What every record begins with: whose it is. -NF_E_JOURNAL_BAD; -NF_E_FORMAT_UNKNOWN: another version of the program wrote it. */
int nf_record_begin(struct nf_rd *rd, uint32_t *writer);
void nf_recovered_deinit(struct nf_recovered *rc);
/* The journal's replay callback; ctx is the struct nf_recovered. */
int nf_recover_record(void *ctx, struct nf_journal *j, uint64_t segment, char kind, const void *plain, size_t len,
		      uint64_t unsynced_from_bytes);
/* Makes the epochs of it, on v->base, and v->unreported.  Blocks. */
int nf_recover_replay(struct nf_vault *v, struct nf_recovered *rc);

/* D as an epoch on what the view stands on, FROZEN or the current one.  BEFORE: the dot that it was made on top of, if it is still
 * known.  Blocks. */
int nf_recover_dot(struct nf_vault *v, const struct nf_recovered_dot *d, const struct nf_recovered_dot *before, bool frozen,
		   struct nf_epoch **out);
void nf_recovered_form_clear(struct nf_recovered_form *f);

/* late.c */
/* SEQ has operations in SEGMENT. */
int nf_late_note(struct nf_recovered *rc, uint64_t seq, uint64_t segment, const struct nf_ref *base_root);
/* Of SEQ's operations the last are the next dot's. */
int nf_late_split(struct nf_recovered *rc, uint64_t seq);
void nf_late_sent(struct nf_recovered *rc, uint64_t seq, const struct nf_ref *delta);
/* The mark, behind its kind. */
int nf_late_reported(struct nf_recovered *rc, struct nf_rd *rd);
/* Those that are left become v->unreported. */
int nf_late_recall(struct nf_vault *v, struct nf_recovered *rc);
/* The operations of dots in v->unreported that were made before this mount, read from the journal. */
int nf_recover_unreported_ops(struct nf_vault *v);

#endif
