/* vault/calls.h - what the handlers' files share. */
#ifndef NF_VAULT_CALLS_H
#define NF_VAULT_CALLS_H

#include "vault/run.h"

/* -EROFS on a read-only vault. */
int nf_may_change(const struct nf_vault *v);
/* 1 to 255 bytes, not "." or "..". */
int nf_name_check(const char *name);
/* Puts a file handle for VN (taken) into C. */
int nf_open_file_new(struct nf_vault *v, struct nf_vnode *vn, struct nf_call *c) NF_REQUIRES(v->ns);
/* SETATTR, on an orphan or in the current epoch. */
int nf_vault_do_attr(struct nf_vault *v, const struct nf_op *op, struct nf_want *w) NF_REQUIRES(v->ns);
int nf_set_mode(struct nf_vault *v, uint64_t ino, uint32_t mode, struct timespec time, struct nf_want *w)
	NF_REQUIRES(v->ns);

/* After a change by somebody who may not keep them: set-uid, and set-gid of a program, go. */
int nf_drop_set_ids(struct nf_vault *v, uint64_t ino, struct nf_want *w) NF_REQUIRES(v->ns);

/* ACLs (call_xattr.c). *MODE is cut by the umask or the directory's default ACL; what the new object gets goes to ACCESS and
 * INHERIT. */
int nf_acl_inherit(struct nf_vault *v, uint64_t dir, uint32_t *mode, uint32_t umask, bool is_dir,
		   struct nf_want *w, struct nf_buf *access, struct nf_buf *inherit) NF_REQUIRES(v->ns);
int nf_acl_give(struct nf_vault *v, uint64_t ino, struct timespec time, const struct nf_buf *access,
		const struct nf_buf *inherit, struct nf_want *w) NF_REQUIRES(v->ns);
int nf_acl_follow(struct nf_vault *v, uint64_t ino, uint32_t mode, struct timespec time,
		  struct nf_want *w) NF_REQUIRES(v->ns);

/* The file was written to: times, and the next cut asks it. */
void nf_vnode_touch(struct nf_vnode *vn) NF_REQUIRES(vn->v->ns);
/* After a change that moved no byte (a truncation to the size it has, a hole punched into a hole) no group will tell the
 * times: an operation does.  Nothing to do otherwise. 0, NF_TREE_WANT or an error. */
int nf_vnode_log_times(struct nf_vnode *vn, struct nf_want *w) NF_REQUIRES(vn->v->ns);

/* A file of at most NF_INLINE_MAX bytes has no block, its content is in the inode.  Before it grows beyond that by anything
 * but a write over all of it, its bytes are written again, so that they become a block by the ordinary
 * path. */
struct unline {
	struct nf_io then; /* what goes on afterwards */
	void (*go)(struct nf_run *run);
	uint8_t bytes[NF_INLINE_MAX];
};
bool nf_unline_needed(const struct nf_vnode *vn, uint64_t pos_bytes, uint64_t end_bytes);
/* Sets run->start so that GO runs (with run->io as it is now) when that is done; if it fails DONE gets the error instead.
 * Uses run->buf. NF_CALL_PENDING or -ENOMEM. */
int nf_unline(struct nf_run *run, void (*go)(struct nf_run *run), void (*done)(struct nf_io *io));

/* A WRITE of whole pages from the kernel's cache; a handler's result. */
int nf_mapped_write(struct nf_run *run, struct nf_vnode *vn) NF_REQUIRES(vn->v->ns);

/* Ends RUN when everything done so far is on the server and a look shows it (commit.c). */
void nf_sync_wait(struct nf_run *run);

#endif
