/* daemon/hidden.h - the directory .foliofs in the root of a mount: the state of the mount as files to read.
 *
 *	kernel -> front end -> hidden -> vault
 *
 * It is not listed, so that nobody copies it by accident; whoever knows the name can go there.  A file is as it was when it was
 * opened.  Inode numbers are of prefix 0, which no vault gives out (docs/format.md).  Nothing of it can be changed. */
#ifndef NF_DAEMON_HIDDEN_H
#define NF_DAEMON_HIDDEN_H

#include "daemon/control.h"

#define NF_HIDDEN_NAME ".foliofs"

struct nf_hidden;

/* Puts the directory over INNER; both, and ENV, are borrowed.  env->front may be set later, before the first call. */
int nf_hidden_new(struct nf_fs *inner, const struct nf_control_env *env, struct nf_hidden **out);
/* What the front end is given instead of INNER. */
struct nf_fs *nf_hidden_fs(struct nf_hidden *h);
/* The front end exists (or is about to go): INNER tells it of changes from now on (or nobody any more). */
void nf_hidden_notify(struct nf_hidden *h, bool on);
void nf_hidden_free(struct nf_hidden *h); /* NULL allowed; no call is in flight */

#endif
