/* daemon/control.h - the control socket of a mount, both ends.
 *
 *	RUNTIME/<major>-<minor>.sock    named by the device number of the mount: found from any
 *	                                path in it by way of /proc/self/mountinfo
 *
 * A request is one line of JSON, {"cmd": NAME, ...}; the reply is one line with "error" (0 or a code of
 * foliofs/error.h), preceded by lines with "progress" for `sync`.
 *
 *	status {format: text|json}      text, or status
 *	stats {format: text|prometheus} text
 *	regions, requests               text
 *	trace {set, since}              text, since
 *	sync, refresh, shutdown
 *
 * Only the same user and root are served: the socket is 0600 in a directory of 0700, and the peer's
 * credentials are looked at as well. */
#ifndef NF_DAEMON_CONTROL_H
#define NF_DAEMON_CONTROL_H

#include "daemon/mounts.h"
#include "fuse/front.h"
#include "vault/vault.h"

struct nf_control;

/* What it serves; borrowed until close. */
struct nf_control_env {
	struct nf_vault *vault;
	struct nf_front *front;
	const char *store;       /* without secrets */
	const char *mount_point;
	const char *cache_dir, *state_dir;
	struct nf_store *mirror; /* NULL: none */
};

enum {
	NF_CONTROL_LINE_MAX = 4096, /* of a request */
	NF_CONTROL_PEERS_MAX = 16,  /* more wait in the socket's queue */
	NF_CONTROL_REPLY_MAX = 64 << 20,
};

/* Listens for the mount of DEVICE and serves on threads of its own. */
int nf_control_open(const struct nf_mount *m, const struct nf_control_env *env, struct nf_control **out);
/* Ends what is under way and removes the socket; NULL allowed. */
void nf_control_close(struct nf_control *c);

/* Reaches the daemon of M; *PID is its process.  -ENOENT: none listens. */
int nf_control_connect(const struct nf_mount *m, int *fd, pid_t *pid);
/* Sends REQUEST (one line, no newline) and gives the last line of the answer, malloc'd; the lines before go to
 * PROGRESS (may be NULL).  Gives the answer's "error".  *REPLY is set whenever there was an answer. */
int nf_control_ask(int fd, const char *request, void (*progress)(void *ctx, const char *line), void *ctx,
		   char **reply);

/* status.c */
void nf_status_to_text(const struct nf_control_env *env, struct nf_text *t);
/* Reads and writes of the library and calls of the kernel under way. */
void nf_requests_to_text(const struct nf_control_env *env, struct nf_text *t);
void nf_status_to_json(const struct nf_control_env *env, struct nf_text *t);
/* "1.5 MiB" */
void nf_text_size(struct nf_text *t, uint64_t bytes);

#endif
