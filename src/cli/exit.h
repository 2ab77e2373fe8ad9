/* cli/exit.h - exit codes, one table; foliofs(1) has the same. */
#ifndef NF_CLI_EXIT_H
#define NF_CLI_EXIT_H

#include "daemon/daemon.h"

#define NF_EXITS(X)                                                                                \
	X(OK, 0, "success")                                                                        \
	X(ERROR, 1, "something else failed; the message says what")                                \
	X(USAGE, 2, "command line or configuration not understood")                                \
	X(KEY, 3, "wrong passphrase or key")                                                       \
	X(DENIED, 4, "the store refuses the credentials")                                          \
	X(OFFLINE, 5, "the store cannot be reached")                                               \
	X(NO_VAULT, 6, "no vault at this address")                                                 \
	X(FOREIGN, 7, "the store shows another vault, or an older state, than this device knows")  \
	X(BUSY, 8, "in use")                                                                       \
	X(FULL, 9, "no space left")                                                                \
	X(DAMAGED, 10, "the vault or what this device remembers of it is damaged")                 \
	X(MOUNT, 11, "mounting failed")                                                            \
	X(NOT_MOUNTED, 12, "nothing of foliofs is mounted there, or its daemon is gone")           \
	X(NOT_DAV, 13, "the server does not speak WebDAV, or not at this address")

enum nf_exit {
#define X(name, code, text) NF_EXIT_##name = code,
	NF_EXITS(X)
#undef X
};

/* What an error code ends a command with. */
enum nf_exit nf_exit_of(int code);
enum nf_exit nf_exit_of_stage(int code, enum nf_daemon_stage stage);

#endif
