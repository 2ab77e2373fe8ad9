/* vault/commit.h - the committer's parts.  Rules R1.. are those of docs/internals/protocol.md. */
#ifndef NF_VAULT_COMMIT_H
#define NF_VAULT_COMMIT_H

#include "vault/vault_i.h"

/* commit.c */
/* A look of which the result was accepted (R6; AS_WRITER: and R12). -NF_E_HEAD_ROLLBACK, -NF_E_WRITER_CLONED.  Blocks. */
int nf_commit_look(struct nf_vault *v, bool as_writer, struct nf_look_result *out);

/* cut.c */
/* Freezes the current epoch if it or any file holds something: 1 if there is a frozen epoch afterwards, 0 if not, or
 * negative: there is something, and it could not be frozen. */
int nf_cut(struct nf_vault *v);
/* Stores the data of the frozen epoch's files.  The error of one that failed: such files are left to the next cut, and if
 * there is nothing else there is no frozen epoch afterwards. */
int nf_cut_drain(struct nf_vault *v);

/* Without a cut: what is dirty now becomes operations of the current epoch, these records of the journal (not synced).  The
 * first error of a file, which stays dirty.  The committer's. */
int nf_settle(struct nf_vault *v);

/* What a delta may hold, encoded: it must fit a body that the server takes. */
size_t nf_cut_ops_max_bytes(const struct nf_vault *v);
/* split.c */
/* Of a current epoch with more than MAX_BYTES of operations the first become the frozen epoch. -EAGAIN: it cannot be now. */
int nf_split(struct nf_vault *v, size_t max_bytes);
/* The current epoch's operations say the same in less, if they can (squash.h): 1, 0, or negative, and nothing has changed. */
int nf_squash_current(struct nf_vault *v);

/* gc_named.c */
/* Packs that what we publish names.  Takes ns. */
int nf_named_add(struct nf_vault *v, const struct nf_pack_id *id);
/* The same of one that was begun at SINCE_S of the server's, 0: not known. */
int nf_named_add_locked(struct nf_vault *v, const struct nf_pack_id *id, int64_t since_s) NF_REQUIRES(v->ns);
int nf_named_add_node(struct nf_vault *v, unsigned level, const void *plain, size_t len);
/* G4, of the only leaf of a look.  0: all of them are there and not condemned.  1: some are not, and what they held is
 * on its way into the next dot. */
int nf_named_check(struct nf_vault *v, const struct nf_head *leaf, int64_t date_s);
/* G6, before a head with packs sent long ago: what was taken away meanwhile is sent again. */
int nf_named_recheck(struct nf_vault *v, const struct nf_head *leaf);
/* Dots up to SEQ are reported: what they name is looked after no more. */
void nf_named_reported(struct nf_vault *v, uint64_t seq);

/* publish.c */
/* Puts packs and one head on top of v->base, with the frozen epoch (if there is one), or merging LEAVES (more than
 * one).  0: *OUT was read back as sent (R9). -NF_E_STORE_UNKNOWN_OUTCOME: look whether it is there. */
int nf_publish(struct nf_vault *v, const struct nf_head *const *leaves, size_t nr, struct nf_head *out);

/* The tree that L makes of BASE, with blocks that are here only where they are.  Blocks. */
int nf_publish_tree(struct nf_vault *v, const struct nf_layer *l, const struct nf_ref *base,
		    const struct nf_tree_writer *w, struct nf_ref *out);

/* adopt.c */
/* The INODE items that files in memory have in the tree ROOT, kept with them; 0 or NF_TREE_WANT: call again, nothing is
 * lost. */
int nf_base_items_find(struct nf_vault *v, const struct nf_ref *root, struct nf_want *w) NF_REQUIRES(v->ns);
/* From now on the view stands on that tree. */
void nf_base_items_take(struct nf_vault *v) NF_REQUIRES(v->ns);
/* Makes LEAF the base: replays what is ours and not in it, tells the library and the kernel what
 * changed.  The remembered state is on disk before anybody sees it (R6). */
int nf_adopt(struct nf_vault *v, const struct nf_head *leaf);
/* trim.c */
/* Segments of the journal that only reported dots needed go. */
void nf_journal_let_go(struct nf_vault *v);
/* The lowest segment that is needed; 0: all of them. */
uint64_t nf_journal_bound(struct nf_vault *v) NF_REQUIRES(v->ns);
/* merge.c */
int nf_replay(struct nf_vault *v, struct nf_apply *a, const void *ops, size_t len,
	      const struct nf_pack_id *self);
/* A tree that *BASE, the root of an older head, was put in place of: *BASE becomes that.  As TREE says; NF_TREE_NONE: of none. */
int nf_base_now(struct nf_vault *v, const struct nf_ref *tree, struct nf_ref *base);
/* A copy of a head (vector included). */
int nf_head_copy(struct nf_head *to, const struct nf_head *from);

#endif
