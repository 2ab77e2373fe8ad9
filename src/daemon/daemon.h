/* daemon/daemon.h - a mount: store -> header -> vault -> front, and what ends it.
 *
 * Assembled in one function; taken down in the reverse order.  SIGTERM, SIGINT and SIGHUP unmount
 * and leave (everything not on the server is in the journal); a third signal leaves at once. */
#ifndef NF_DAEMON_DAEMON_H
#define NF_DAEMON_DAEMON_H

#include "daemon/unlock.h"
#include "fuse/front.h"
#include "vault/vault.h"

enum nf_daemon_stage { NF_STAGE_START, NF_STAGE_STORE, NF_STAGE_HEADER, NF_STAGE_VAULT, NF_STAGE_MOUNT, NF_STAGE_READY };

/* How far it came, and why not further; also what goes through the pipe to the waiting parent. */
struct nf_daemon_report {
	int code;
	enum nf_daemon_stage stage;
	char text[2048];
};

struct nf_daemon_config {
	const char *address;
	struct nf_store_options store;
	struct nf_unlocked unlocked;    /* wiped once used */
	const char *cache_dir;          /* the user's choice; NULL */
	const char *mirror;             /* address of a second store that gets all that is written; NULL */
	uint32_t link_wait_ms;          /* reads and fsync=remote wait so long for a connection that was lost */
	bool offline;                   /* begin without the server, until told otherwise */
	struct nf_vault_options vault;  /* store, header and directories are filled in */
	struct nf_front_options front;  /* fsname NULL: the address */
	/* Called when the mount is ready: the parent may go. */
	void (*ready)(void *ctx, const struct nf_daemon_report *r);
	void *ctx;
};

/* Mounts, serves until unmounted, and stores everything locally.  0 or *REPORT says what failed. */
int nf_daemon_run(struct nf_daemon_config *c, struct nf_daemon_report *report);

#endif
