/* vault/upload.h - blocks of the journal on their way to the server, and where they stand then.
 *
 *     journal --> [ pack being filled ] --> UPLOADS_MAX threads --> server, cache
 *                        ^                                            |
 *        publish.c, ahead.c: one at a time                     moved.c: block -> pack, offset
 *
 * There is one way for a block to the server.  A commit goes it with every local block that it names; ahead.c goes it
 * earlier with those of long streams.  What is on its way or there is not sent again.
 * Locks: the map is under ns.  Filling is done by whoever has the turn (v->filling); it is kept over I/O. */
#ifndef NF_VAULT_UPLOAD_H
#define NF_VAULT_UPLOAD_H

#include "vault/vault_i.h"

/* --- moved.c: where a local block is ------------------------------------------------------------ */

/* A block of the journal, by its place there. */
struct nf_moved {
	struct nf_avl_node node;
	uint64_t segment;
	uint32_t offset_bytes;
	uint32_t now_bytes;      /* in the pack */
	struct nf_pack_id pack;  /* zero: on its way */
	uint32_t sealed_len;
	bool ahead;              /* sent before a commit wanted it */
	bool named;              /* a commit wanted it: alive in the tree that it made */
};

enum nf_moved_state { NF_MOVED_NO, NF_MOVED_ON_ITS_WAY, NF_MOVED_THERE };
/* Takes ns.  *OUT (may be NULL) only for THERE. */
enum nf_moved_state nf_moved_find(struct nf_vault *v, const struct nf_block_ref *ref, struct nf_moved *out);
/* The same by a commit, which wants it. */
enum nf_moved_state nf_moved_want(struct nf_vault *v, const struct nf_block_ref *ref);
/* For what goes into a delta or tree of ours: the pack is named from then on (gc.h).  1: it is there; 0: it is not, or no commit
 * wanted it: it died before; or negative. */
int nf_moved_name(struct nf_vault *v, const struct nf_block_ref *ref, struct nf_moved *out);
/* It is on its way. */
int nf_moved_begin(struct nf_vault *v, const struct nf_block_ref *ref, bool ahead);
/* It arrived, in a pack that was begun at DATE_S of the server's; PACK NULL: it did not. */
int nf_moved_end(struct nf_vault *v, const struct nf_block_ref *ref, const struct nf_pack_id *pack, uint32_t offset_bytes,
		 int64_t date_s);
/* Blocks that went into PACKS are to be sent again. */
void nf_moved_forget(struct nf_vault *v, const struct nf_pack_set *packs) NF_REQUIRES(v->ns);
/* Drops what is known of segments below BOUND. */
void nf_moved_trim(struct nf_vault *v, uint64_t bound) NF_REQUIRES(v->ns);

/* --- upload.c --------------------------------------------------------------------------------------- */

struct nf_uploads; /* v->uploads */
int nf_uploads_new(struct nf_vault *v);
/* Nothing runs any more.  NULL allowed. */
void nf_uploads_free(struct nf_uploads *u);
/* The turn to fill packs.  COMMIT: whoever sends ahead leaves it as soon as he can. */
void nf_upload_begin(struct nf_vault *v, bool commit);
/* Sends what is left, waits for all that is under way, gives the memory back and ends the turn.  R, or the first error
 * of what was under way. */
int nf_upload_end(struct nf_vault *v, int r);
/* Ends the turn and leaves what is under way to go on. */
void nf_upload_pause(struct nf_vault *v);
/* Adds a block, unless it is there or on its way; may wait for an earlier pack.  With AHEAD errors of earlier packs are
 * not this caller's: they are told by nf_upload_failed(). */
int nf_upload_add(struct nf_vault *v, const struct nf_block_ref *ref, bool ahead);
/* The last error of a pack since this was called last. Within the turn. */
int nf_upload_failed(struct nf_vault *v);
uint64_t nf_upload_pack_bytes(const struct nf_vault *v);

/* --- ahead.c ------------------------------------------------------------------------------------------ */

/* SEALED_BYTES of the window at FIRST_BLOCK of VN were stored. */
void nf_ahead_stored(struct nf_vnode *vn, uint64_t first_block, uint64_t sealed_bytes) NF_REQUIRES(vn->v->ns);
/* A cut takes VN: what it has stored so far goes, too. */
void nf_ahead_cut(struct nf_vnode *vn) NF_REQUIRES(vn->v->ns);
/* Sends what makes whole packs; blocks.  The thread's work, and that of vaults without threads. */
int nf_ahead_turn(struct nf_vault *v);
/* A commit went through: the server takes what we send. */
void nf_ahead_resume(struct nf_vault *v) NF_REQUIRES(v->ns);
int nf_ahead_start(struct nf_vault *v); /* the thread */
void nf_ahead_stop(struct nf_vault *v);
void nf_ahead_clear(struct nf_vault *v) NF_REQUIRES(v->ns);

#endif
