/* cli/cli.h - what the commands share: their table's row, their arguments, how they complain. */
#ifndef NF_CLI_CLI_H
#define NF_CLI_CLI_H

#include "cli/exit.h"
#include "cli/options.h"

enum { NF_ARGS_MAX = 4 };

/* The arguments of one command. */
struct nf_args {
	struct nf_options opt;
	const char *arg[NF_ARGS_MAX]; /* borrowed from argv; NULL from nr */
	int nr;
};

struct nf_command {
	const char *name;
	const char *synopsis; /* after "foliofs NAME" */
	const char *summary;
	const char *more;     /* further lines of --help; NULL */
	unsigned groups;      /* of options */
	int min_args, max_args;
	enum nf_exit (*run)(struct nf_args *a);
};

/* Fills A from the words after the command's name.  -NF_E_OPTION with a sentence in ERR. */
int nf_args_parse(const struct nf_command *cmd, int argc, char **argv, struct nf_args *a, struct nf_text *err);
void nf_command_help(const struct nf_command *cmd, struct nf_text *t);

/* "foliofs: ..." on standard error. */
void nf_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints a buffer; false if standard output is closed or full, which was complained of. */
bool nf_print(const struct nf_text *t);

enum nf_exit nf_cmd_init(struct nf_args *a);
enum nf_exit nf_cmd_mount(struct nf_args *a);
enum nf_exit nf_cmd_umount(struct nf_args *a);
enum nf_exit nf_cmd_status(struct nf_args *a);
enum nf_exit nf_cmd_sync(struct nf_args *a);
enum nf_exit nf_cmd_offline(struct nf_args *a);
enum nf_exit nf_cmd_online(struct nf_args *a);
enum nf_exit nf_cmd_pin(struct nf_args *a);
enum nf_exit nf_cmd_unpin(struct nf_args *a);
enum nf_exit nf_cmd_cache(struct nf_args *a);
enum nf_exit nf_cmd_gc(struct nf_args *a);
enum nf_exit nf_cmd_snapshot(struct nf_args *a);
enum nf_exit nf_cmd_stats(struct nf_args *a);
enum nf_exit nf_cmd_regions(struct nf_args *a);
enum nf_exit nf_cmd_requests(struct nf_args *a);
enum nf_exit nf_cmd_trace(struct nf_args *a);
enum nf_exit nf_cmd_map(struct nf_args *a);
enum nf_exit nf_cmd_key(struct nf_args *a);
enum nf_exit nf_cmd_cat(struct nf_args *a);
enum nf_exit nf_cmd_ls(struct nf_args *a);
enum nf_exit nf_cmd_get(struct nf_args *a);
enum nf_exit nf_cmd_check(struct nf_args *a);

#endif
