/* vault/squash_priv.h - what squash.c and squash_data.c share. */
#ifndef NF_VAULT_SQUASH_PRIV_H
#define NF_VAULT_SQUASH_PRIV_H

#include "vault/squash.h"

#define NF_SQUASH_NONE UINT32_MAX

/* One operation. */
struct rec {
	size_t at; /* in the list */
	uint64_t ino;
	uint32_t next; /* DATA: the next newer of the inode; SETATTR: the next older */
	uint8_t kind;
	bool gone;     /* told by another, or superseded */
	bool no_mtime; /* SETATTR: data behind it sets the time */
	bool no_base;  /* XATTR: the first of its name had no base value */
};

/* One inode that operations are about. */
struct subject {
	uint64_t ino;
	uint64_t place; /* traceless: whom it took the place of; 0: nobody */
	struct nf_stamp place_stamp;
	uint32_t first_data, nr_data;
	uint32_t last_attr, oldest_attr, nr_attrs;
	int32_t names; /* of one made here: how many are left */
	enum nf_conflict_mode mode, attr_mode;
	uint8_t shift; /* of its blocks; 0: not asked for, or not known */
	bool created, linked, pinned, took_place;
	bool traceless;      /* made and removed, and nothing that stays needs it */
	bool whole_windows;  /* its data stays as it is */
	bool mode_attr_same; /* its SETATTRs may be one */
	bool data_behind;
};

struct squash {
	struct nf_squash *q;
	struct rec *recs;
	size_t nr, cap;
	struct subject *subjects; /* by inode number */
	size_t nr_subjects;
	uint64_t *touched; /* directories */
	size_t nr_touched, cap_touched;
};

int nf_squash_decode(const struct squash *s, const struct rec *r, struct nf_op *op);
void nf_squash_put(struct squash *s, const struct nf_op *op);
/* squash_data.c: the DATA operations from FIRST on as one, or as few as its size allows. */
int nf_squash_data(struct squash *s, const struct rec *first, uint8_t shift);

#endif
