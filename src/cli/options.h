/* cli/options.h - every option there is, one table (options.c), for three places: the command line
 * (--cache-size), mount -o (cache_size) and the configuration file (cache_size). */
#ifndef NF_CLI_OPTIONS_H
#define NF_CLI_OPTIONS_H

#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>

enum { NF_CACHE_GIB_DEFAULT = 10 };

/* Which commands take an option; bits. */
enum nf_option_group {
	NF_OPT_STORE = 1 << 0,  /* reaching and unlocking a vault */
	NF_OPT_MOUNT = 1 << 1,  /* mounting; also by -o and in the configuration */
	NF_OPT_KERNEL = 1 << 2, /* given to the kernel as it is; -o only */
	NF_OPT_IGNORED = 1 << 3,/* means something to mount(8) or systemd; -o only */
	NF_OPT_INIT = 1 << 4,
	NF_OPT_FRONT = 1 << 5,  /* mount: --foreground, -o */
	NF_OPT_JSON = 1 << 6,
	NF_OPT_WAIT = 1 << 7,
	NF_OPT_STATS = 1 << 8,
	NF_OPT_TRACE = 1 << 9,
	NF_OPT_KEY = 1 << 10,
	NF_OPT_CHECK = 1 << 11,
	NF_OPT_QUIET = 1 << 12,
	NF_OPT_HELP = 1 << 13,
	NF_OPT_MAP = 1 << 14,
	NF_OPT_GC = 1 << 15,
	NF_OPT_PIN = 1 << 16,
	NF_OPT_CACHE = 1 << 17,
};

struct nf_options {
	/* store and secrets */
	char *password_file, *password_command, *key_file;
	char *dav_password_file, *bearer_token_file;
	char *proxy, *ca_cert, *client_cert, *client_key;
	char *expect, *snapshot, *mirror;
	bool recovery, insecure_http;
	uint64_t timeout_ms, retries, connections;
	uint64_t bwlimit, bwlimit_up, bwlimit_down;
	/* mount */
	char *cache_dir, *fsync, *sync, *fsname;
	uint64_t cache_size, min_free, memory, read_ahead, block_size;
	uint64_t write_back_ms, poll_ms, space_wait_ms, attr_timeout_ms, entry_timeout_ms, link_wait_ms;
	bool offline, ro, rw, allow_other, allow_root, default_permissions, debug;
	struct nf_text kernel; /* comma-separated, passed on */
	/* commands */
	bool foreground, json, wait, prometheus, quiet, verbose, help, read_data, repair, no_recovery;
	bool dry_run, list, force, now;
	char *gc, *grace, *keep_heads, *keep_days, *lease_days; /* text: 0 means something */
	char *new_password_file, *new_key_file, *label, *set, *svg;
	uint64_t interval_ms, kdf_cost, wait_ms;
};

struct nf_option {
	const char *name; /* with '-' */
	char letter;      /* 0: none */
	unsigned groups;
	enum nf_option_type {
		NF_OPT_FLAG,
		NF_OPT_TEXT,
		NF_OPT_SIZE,  /* bytes, with suffix */
		NF_OPT_TIME,  /* seconds, or with ms, s, min, h */
		NF_OPT_COUNT,
		NF_OPT_PASS,  /* to the kernel */
		NF_OPT_SKIP,
	} type;
	size_t at;       /* in struct nf_options */
	const char *arg; /* what the value is called */
	const char *help;
};

/* The option NAME ('_' is '-') of one of GROUPS; NULL: unknown. */
const struct nf_option *nf_option_find(const char *name, unsigned groups);
const struct nf_option *nf_option_letter(char letter, unsigned groups);
/* Stores VALUE (NULL for a flag).  -NF_E_OPTION with a sentence in ERR. */
int nf_option_set(struct nf_options *o, const struct nf_option *opt, const char *value, struct nf_text *err);
/* "ro,cache_size=1G,_netdev". */
int nf_options_list(struct nf_options *o, const char *list, struct nf_text *err);
/* Where O has nothing, takes FROM's: the command line goes before the configuration. Moves. */
void nf_options_defaults(struct nf_options *o, struct nf_options *from);
void nf_options_deinit(struct nf_options *o);
/* One line per option of GROUPS. */
void nf_options_help(unsigned groups, struct nf_text *t);

/* "64K", "1.5G", "100MB" (powers of 1024 but for kB, MB, GB, TB). -NF_E_OPTION. */
int nf_size_parse(const char *s, uint64_t *bytes);
/* "5", "0.5", "200ms", "10s", "2min", "1h" in milliseconds. */
int nf_time_parse(const char *s, uint64_t *ms);
int nf_count_parse(const char *s, uint64_t *n);

#endif
