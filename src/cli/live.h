/* cli/live.h - talking to the daemon of a mount. */
#ifndef NF_CLI_LIVE_H
#define NF_CLI_LIVE_H

#include "cli/cli.h"
#include "daemon/control.h"

struct nf_live {
	struct nf_mount m;
	int fd; /* -1: nobody answers */
	pid_t pid;
	uint64_t deadline_ns; /* when nf_live_ask_long() gives up with -NF_E_TIMEOUT; 0: never */
	const char *doing; /* what the progress says beside a terminal; NULL: sending */
};

bool nf_live_is_mount(const char *path);
/* Finds the mount that PATH is in (EXACT: is the top of; NULL: the only one).  Complains. */
enum nf_exit nf_live_find(const char *path, bool exact, struct nf_live *l);
/* The same, and connects. */
enum nf_exit nf_live_reach(const char *path, struct nf_live *l);
/* Connects to what was found; a daemon that does not listen yet is waited for, a little.  0 or negative. */
int nf_live_connect(struct nf_live *l);
void nf_live_leave(struct nf_live *l);
/* Complains that nobody answers at L, for reason R. */
enum nf_exit nf_live_no_daemon(const struct nf_live *l, int r);
/* Complains that WHAT failed with R. */
enum nf_exit nf_live_failed(const struct nf_live *l, const char *what, int r);
/* Asks something that sends; shows its progress. */
int nf_live_ask_long(struct nf_live *l, const char *request, bool quiet, char **reply);
/* Pages that programs changed through mmap are the kernel's until it is asked to write them. */
enum nf_exit nf_live_flush_kernel(struct nf_live *l);

#endif
