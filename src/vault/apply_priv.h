/* vault/apply_priv.h - what the files of apply share: one operation under way and its steps.
 *
 * Steps return 0, NF_TREE_WANT, or negative; those that look something up also NF_TREE_NONE. */
#ifndef NF_VAULT_APPLY_PRIV_H
#define NF_VAULT_APPLY_PRIV_H

#include "vault/apply.h"

struct nf_txn {
	struct nf_apply *a;
	struct nf_layer *scratch;
	struct nf_view view;
	struct nf_want *w;
	struct nf_redirect redirect; /* made by this operation; from 0: none */
	int64_t inodes, bytes;
	uint64_t spared;
	struct nf_buf out;
	uint32_t nr_out;
};

/* --- apply_txn.c ------------------------------------------------------------------- */
int nf_txn_inode(struct nf_txn *t, uint64_t ino, struct nf_val *val, struct nf_inode_item *out);
int nf_txn_put_inode(struct nf_txn *t, uint64_t ino, const struct nf_inode_item *i);
/* Puts B, or removes the key if B is empty; takes B's memory. */
int nf_txn_put(struct nf_txn *t, const struct nf_key *key, struct nf_buf *b);
void nf_time_at_least(struct timespec *have, struct timespec now);

int nf_txn_find(struct nf_txn *t, uint64_t dir, const char *name, size_t len, uint64_t *ino, uint8_t *type);
/* Makes NAME in DIR mean INO: entry, back-reference, the directory's times.  The name must be free. */
int nf_txn_link(struct nf_txn *t, uint64_t dir, const char *name, uint8_t len, uint64_t ino, uint32_t mode,
		struct timespec time);
int nf_txn_unlink(struct nf_txn *t, uint64_t dir, const char *name, uint8_t len, uint64_t ino, uint32_t mode,
		  struct timespec time);
/* A name for INO in DIR: NAME itself if it is free (and FORCE is not set), else a conflict name.  The result goes
 * to OUT. */
int nf_txn_free_name(struct nf_txn *t, uint64_t dir, const char *name, uint8_t len, bool force,
		     struct timespec time, char out[NF_NAME_MAX + 1], uint8_t *out_len);
/* Makes sure that DIR is a live directory of the view: brings it back from the delta's base with its parents.
 * *OUT is DIR, or the root if nobody knows it. */
int nf_txn_ensure_dir(struct nf_txn *t, uint64_t dir, const struct nf_op *cause, unsigned depth, uint64_t *out);

/* What the delta's base held. */
/* Did somebody else change the content since the author saw it (SEEN)?  What the author changed before is no conflict. */
bool nf_txn_is_foreign(const struct nf_txn *t, struct nf_stamp now, struct nf_stamp seen);
struct nf_view nf_txn_base_view(const struct nf_txn *t);
int nf_txn_base_inode(struct nf_txn *t, uint64_t ino, struct nf_val *val, struct nf_inode_item *out);
/* Copies the xattrs and extents that INO had there to inode TO. */
int nf_txn_clone_base(struct nf_txn *t, uint64_t ino, uint64_t to, uint32_t block_bytes, const struct nf_op *cause);
/* INO, or the conflict copy that stands for it in this delta. */
uint64_t nf_txn_redirected(const struct nf_apply *a, uint64_t ino);

/* Tells OP as it took effect, to whom it may concern (nf_apply's `out`). */
void nf_txn_emit(struct nf_txn *t, const struct nf_op *op);
int nf_txn_emit_create(struct nf_txn *t, uint64_t ino, uint64_t parent, const char *name, uint8_t len,
		       const struct nf_inode_item *item, const struct nf_op *cause);

/* --- apply_name.c ------------------------------------------------------------------ */
int nf_txn_do_create(struct nf_txn *t, const struct nf_op *op);
int nf_txn_do_link(struct nf_txn *t, const struct nf_op *op);
int nf_txn_do_unlink(struct nf_txn *t, const struct nf_op *op);
int nf_txn_do_rename(struct nf_txn *t, const struct nf_op *op);

/* --- apply_data.c ------------------------------------------------------------------ */
int nf_txn_do_data(struct nf_txn *t, const struct nf_op *op);
int nf_txn_do_move(struct nf_txn *t, const struct nf_op *op);

#endif
