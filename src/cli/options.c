#include "cli/options.h"

#include "base/error.h"
#include "base/mem.h"

#include <stddef.h>
#include <stdio.h>

#define AT(field) offsetof(struct nf_options, field)
#define S NF_OPT_STORE
#define M NF_OPT_MOUNT

static const struct nf_option table[] = {
	/* reaching and unlocking */
	{ "password-file", 0, S, NF_OPT_TEXT, AT(password_file), "FILE", "passphrase: first line of FILE (mode 0600)" },
	{ "password-command", 0, S, NF_OPT_TEXT, AT(password_command), "CMD", "passphrase: first line CMD prints" },
	{ "key-file", 0, S, NF_OPT_TEXT, AT(key_file), "FILE", "unlock by a key file" },
	{ "recovery", 0, S, NF_OPT_FLAG, AT(recovery), NULL, "unlock by the recovery key (asked for)" },
	{ "dav-password-file", 0, S, NF_OPT_TEXT, AT(dav_password_file), "FILE", "password for the server (mode 0600)" },
	{ "bearer-token-file", 0, S, NF_OPT_TEXT, AT(bearer_token_file), "FILE", "token for the server (mode 0600)" },
	{ "insecure-http", 0, S, NF_OPT_FLAG, AT(insecure_http), NULL, "allow dav:// and http:// beyond loopback" },
	{ "timeout", 0, S, NF_OPT_TIME, AT(timeout_ms), "TIME", "give up on a request without progress (30s)" },
	{ "retries", 0, S, NF_OPT_COUNT, AT(retries), "N", "how often a read request is tried again (5)" },
	{ "connections", 0, S, NF_OPT_COUNT, AT(connections), "N", "connections to the server (8)" },
	{ "bwlimit", 0, S, NF_OPT_SIZE, AT(bwlimit), "SIZE", "bytes a second in each direction" },
	{ "bwlimit-up", 0, S, NF_OPT_SIZE, AT(bwlimit_up), "SIZE", "bytes a second to the server" },
	{ "bwlimit-down", 0, S, NF_OPT_SIZE, AT(bwlimit_down), "SIZE", "bytes a second from the server" },
	{ "proxy", 0, S, NF_OPT_TEXT, AT(proxy), "URL", "HTTP proxy" },
	{ "ca-cert", 0, S, NF_OPT_TEXT, AT(ca_cert), "FILE", "certificates to trust instead of the system's" },
	{ "client-cert", 0, S, NF_OPT_TEXT, AT(client_cert), "FILE", "TLS client certificate" },
	{ "client-key", 0, S, NF_OPT_TEXT, AT(client_key), "FILE", "its key" },
	{ "expect", 0, S, NF_OPT_TEXT, AT(expect), "FINGERPRINT", "what the newest commit must be at first use" },
	{ "snapshot", 0, S, NF_OPT_TEXT, AT(snapshot), "NAME", "show this snapshot, read-only" },
	/* mounting */
	{ "ro", 0, M, NF_OPT_FLAG, AT(ro), NULL, "read-only" },
	{ "rw", 0, M, NF_OPT_FLAG, AT(rw), NULL, "read and write (default)" },
	{ "allow-other", 0, M, NF_OPT_FLAG, AT(allow_other), NULL, "other users may use the mount" },
	{ "allow-root", 0, M, NF_OPT_FLAG, AT(allow_root), NULL, "root may use the mount" },
	{ "default-permissions", 0, M, NF_OPT_FLAG, AT(default_permissions), NULL, "the kernel checks permissions (always on)" },
	{ "cache-dir", 0, M | NF_OPT_CACHE, NF_OPT_TEXT, AT(cache_dir), "DIR", "where sealed data is cached" },
	{ "cache-size", 0, M, NF_OPT_SIZE, AT(cache_size), "SIZE", "limit of the cache (10G)" },
	{ "min-free", 0, M, NF_OPT_SIZE, AT(min_free), "SIZE", "what the cache leaves free on its disk (1G)" },
	{ "space-wait", 0, M, NF_OPT_TIME, AT(space_wait_ms), "TIME",
	  "on a full disk a writer waits while changes go to the server, and so long without progress (10s)" },
	{ "memory", 0, M, NF_OPT_SIZE, AT(memory), "SIZE", "memory for file data, at least 16M (128M)" },
	{ "write-back", 0, M, NF_OPT_TIME, AT(write_back_ms), "TIME", "send changes after this time (5s)" },
	{ "poll", 0, M, NF_OPT_TIME, AT(poll_ms), "TIME", "look for changes of others (5s)" },
	{ "offline", 0, M, NF_OPT_FLAG, AT(offline), NULL, "begin offline, until `foliofs online`" },
	{ "link-wait", 0, M, NF_OPT_TIME, AT(link_wait_ms), "TIME", "reads wait so long for a connection that was lost (0s)" },
	{ "mirror", 0, M, NF_OPT_TEXT, AT(mirror), "STORE", "a second store that gets all that is written" },
	{ "fsync", 0, M, NF_OPT_TEXT, AT(fsync), "local|remote", "where data is when fsync returns (local)" },
	{ "sync", 0, M, NF_OPT_TEXT, AT(sync), "manual", "send and look only by `foliofs sync`" },
	{ "gc", 0, M, NF_OPT_TEXT, AT(gc), "TIME|off", "how often it collects by itself when idle and not on battery (24h)" },
	{ "block-size", 0, M, NF_OPT_SIZE, AT(block_size), "SIZE", "of new files: 4K to 4M, a power of two (16K)" },
	{ "attr-timeout", 0, M, NF_OPT_TIME, AT(attr_timeout_ms), "TIME", "kernel caches attributes (1h; changes invalidate)" },
	{ "entry-timeout", 0, M, NF_OPT_TIME, AT(entry_timeout_ms), "TIME", "kernel caches names (1h; changes invalidate)" },
	{ "read-ahead", 0, M, NF_OPT_SIZE, AT(read_ahead), "SIZE", "kernel's read-ahead (1M)" },
	{ "fsname", 0, M, NF_OPT_TEXT, AT(fsname), "NAME", "source shown in /proc/mounts" },
	/* collecting */
	{ "dry-run", 0, NF_OPT_GC, NF_OPT_FLAG, AT(dry_run), NULL, "only say what would be freed" },
	/* keeping */
	{ "dry-run", 0, NF_OPT_PIN, NF_OPT_FLAG, AT(dry_run), NULL, "only say what it would take" },
	{ "list", 0, NF_OPT_PIN, NF_OPT_FLAG, AT(list), NULL, "show what is pinned" },
	{ "force", 0, NF_OPT_CACHE, NF_OPT_FLAG, AT(force), NULL, "wipe: also what may not be on the server" },
	{ "grace", 0, M | NF_OPT_GC, NF_OPT_TEXT, AT(grace), "TIME", "between condemning and deleting (72h)" },
	{ "keep-heads", 0, M | NF_OPT_GC, NF_OPT_TEXT, AT(keep_heads), "N", "commits kept, whatever their age (1000)" },
	{ "keep-days", 0, M | NF_OPT_GC, NF_OPT_TEXT, AT(keep_days), "N", "days for which all commits are kept (30)" },
	{ "lease-days", 0, M | NF_OPT_GC, NF_OPT_TEXT, AT(lease_days), "N",
	  "what a machine stands on is kept so long after its last commit (90)" },
	{ "subtype", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, "NAME", "always foliofs" },
	{ "uid", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, "N", "accepted; owners are those in the vault" },
	{ "gid", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, "N", "accepted; owners are those in the vault" },
	{ "umask", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, "MODE", "accepted; modes are those in the vault" },
	{ "noatime", 0, NF_OPT_KERNEL, NF_OPT_PASS, 0, NULL, NULL },
	{ "nodiratime", 0, NF_OPT_KERNEL, NF_OPT_PASS, 0, NULL, NULL },
	{ "nosuid", 0, NF_OPT_KERNEL, NF_OPT_PASS, 0, NULL, NULL },
	{ "suid", 0, NF_OPT_KERNEL, NF_OPT_PASS, 0, NULL, NULL },
	{ "nodev", 0, NF_OPT_KERNEL, NF_OPT_PASS, 0, NULL, NULL },
	{ "dev", 0, NF_OPT_KERNEL, NF_OPT_PASS, 0, NULL, NULL },
	{ "noexec", 0, NF_OPT_KERNEL, NF_OPT_PASS, 0, NULL, NULL },
	{ "exec", 0, NF_OPT_KERNEL, NF_OPT_PASS, 0, NULL, NULL },
	{ "relatime", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "async", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "defaults", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "-netdev", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "nofail", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "auto", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "noauto", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "user", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "nouser", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "users", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "group", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	{ "owner", 0, NF_OPT_IGNORED, NF_OPT_SKIP, 0, NULL, NULL },
	/* commands */
	{ "foreground", 'f', NF_OPT_FRONT, NF_OPT_FLAG, AT(foreground), NULL, "stay in the foreground" },
	{ "debug", 0, NF_OPT_FRONT, NF_OPT_FLAG, AT(debug), NULL, "print every request of the kernel (with -f)" },
	{ "json", 0, NF_OPT_JSON, NF_OPT_FLAG, AT(json), NULL, "print JSON" },
	{ "wait", 0, NF_OPT_WAIT, NF_OPT_FLAG, AT(wait), NULL, "first send everything to the server" },
	{ "timeout", 0, NF_OPT_WAIT, NF_OPT_TIME, AT(wait_ms), "TIME", "with --wait: give up after this time, and stay mounted" },
	{ "interval", 'i', NF_OPT_STATS, NF_OPT_TIME, AT(interval_ms), "TIME", "again and again: what changed since" },
	{ "prometheus", 0, NF_OPT_STATS, NF_OPT_FLAG, AT(prometheus), NULL, "Prometheus text format" },
	{ "set", 0, NF_OPT_TRACE, NF_OPT_TEXT, AT(set), "AREAS", "areas to trace: req,journal,-store, or all (default)" },
	{ "svg", 0, NF_OPT_MAP, NF_OPT_TEXT, AT(svg), "OUT", "write an SVG picture to the file OUT" },
	{ "no-recovery", 0, NF_OPT_INIT, NF_OPT_FLAG, AT(no_recovery), NULL, "make no recovery key" },
	{ "kdf-cost", 0, NF_OPT_INIT | NF_OPT_KEY, NF_OPT_COUNT, AT(kdf_cost), "N", "scrypt cost, 2^N: 15 to 20 (17)" },
	{ "new-password-file", 0, NF_OPT_KEY, NF_OPT_TEXT, AT(new_password_file), "FILE", "the new passphrase (mode 0600)" },
	{ "new-key-file", 0, NF_OPT_KEY, NF_OPT_TEXT, AT(new_key_file), "FILE", "add a key file instead of a passphrase" },
	{ "now", 0, NF_OPT_KEY, NF_OPT_FLAG, AT(now), NULL, "with rekey: seal again what is there, and wait for it" },
	{ "label", 0, NF_OPT_KEY | NF_OPT_INIT, NF_OPT_TEXT, AT(label), "TEXT", "name of the new key, shown by `key list`" },
	{ "read-data", 0, NF_OPT_CHECK, NF_OPT_FLAG, AT(read_data), NULL, "fetch and open everything" },
	{ "repair", 0, NF_OPT_CHECK, NF_OPT_FLAG, AT(repair), NULL, "put back what this device still has" },
	{ "quiet", 'q', NF_OPT_QUIET, NF_OPT_FLAG, AT(quiet), NULL, "no progress" },
	{ "verbose", 'v', NF_OPT_HELP, NF_OPT_FLAG, AT(verbose), NULL, "say more" },
	{ "help", 'h', NF_OPT_HELP, NF_OPT_FLAG, AT(help), NULL, "print this" },
};

static bool same_name(const char *a, const char *b)
{
	for (; *a && *b; a++, b++) {
		if (*a != *b && !(*a == '_' && *b == '-'))
			return false;
	}
	return *a == *b;
}

const struct nf_option *nf_option_find(const char *name, unsigned groups)
{
	for (size_t i = 0; i < NF_ARRAY_LEN(table); i++) {
		if (table[i].groups & groups && same_name(name, table[i].name))
			return &table[i];
	}
	return NULL;
}

const struct nf_option *nf_option_letter(char letter, unsigned groups)
{
	for (size_t i = 0; i < NF_ARRAY_LEN(table); i++) {
		if (table[i].groups & groups && table[i].letter == letter)
			return &table[i];
	}
	return NULL;
}

static int set_number(uint64_t *to, const struct nf_option *opt, const char *value, struct nf_text *err)
{
	int r = opt->type == NF_OPT_SIZE ? nf_size_parse(value, to) :
		opt->type == NF_OPT_TIME ? nf_time_parse(value, to) : nf_count_parse(value, to);

	if (r < 0)
		nf_textf(err, "%s: \"%s\" is not a %s", opt->name, value,
			 opt->type == NF_OPT_SIZE ? "size (such as 512K, 10G)" :
			 opt->type == NF_OPT_TIME ? "time (such as 5, 200ms, 2min)" : "number");
	return r;
}

int nf_option_set(struct nf_options *o, const struct nf_option *opt, const char *value, struct nf_text *err)
{
	void *at = (char *)o + opt->at;

	if (opt->type == NF_OPT_SKIP)
		return 0;
	if ((opt->type == NF_OPT_FLAG || opt->type == NF_OPT_PASS) && value) {
		nf_textf(err, "%s takes no value", opt->name);
		return nf_fail(-NF_E_OPTION);
	}
	if (opt->type != NF_OPT_FLAG && opt->type != NF_OPT_PASS && !value) {
		nf_textf(err, "%s needs a value: %s", opt->name, opt->arg);
		return nf_fail(-NF_E_OPTION);
	}
	switch (opt->type) {
	case NF_OPT_FLAG:
		*(bool *)at = true;
		break;
	case NF_OPT_TEXT:
		free(*(char **)at);
		*(char **)at = strdup(value);
		return *(char **)at ? 0 : nf_fail(-ENOMEM);
	case NF_OPT_SIZE:
	case NF_OPT_TIME:
	case NF_OPT_COUNT:
		return set_number(at, opt, value, err);
	case NF_OPT_PASS:
		nf_textf(&o->kernel, "%s%s", o->kernel.len ? "," : "", opt->name);
		break;
	case NF_OPT_SKIP:
		break;
	}
	return 0;
}

static int set_pair(struct nf_options *o, char *pair, struct nf_text *err)
{
	char *value = strchr(pair, '=');

	if (value)
		*value++ = '\0';
	/* What systemd and others keep for themselves in fstab. */
	if (!*pair || !strncmp(pair, "x-", 2) || !strncmp(pair, "comment", 7))
		return 0;
	const struct nf_option *opt = nf_option_find(pair, S | M | NF_OPT_KERNEL | NF_OPT_IGNORED);
	if (!opt) {
		nf_textf(err, "unknown option: %s", pair);
		return nf_fail(-NF_E_OPTION);
	}
	return nf_option_set(o, opt, value, err);
}

int nf_options_list(struct nf_options *o, const char *list, struct nf_text *err)
{
	nf_auto_free char *copy = strdup(list);
	char *save = NULL;
	int r = copy ? 0 : nf_fail(-ENOMEM);

	for (char *p = copy ? strtok_r(copy, ",", &save) : NULL; p && r == 0; p = strtok_r(NULL, ",", &save))
		r = set_pair(o, p, err);
	return r;
}

void nf_options_defaults(struct nf_options *o, struct nf_options *from)
{
	for (size_t i = 0; i < NF_ARRAY_LEN(table); i++) {
		void *to = (char *)o + table[i].at, *src = (char *)from + table[i].at;
		switch (table[i].type) {
		case NF_OPT_FLAG:
			*(bool *)to |= *(bool *)src;
			break;
		case NF_OPT_TEXT:
			if (!*(char **)to)
				*(char **)to = nf_steal((char **)src);
			break;
		case NF_OPT_SIZE:
		case NF_OPT_TIME:
		case NF_OPT_COUNT:
			if (!*(uint64_t *)to)
				*(uint64_t *)to = *(uint64_t *)src;
			break;
		case NF_OPT_PASS:
		case NF_OPT_SKIP:
			break;
		}
	}
	if (!o->kernel.len && from->kernel.len) {
		nf_text_deinit(&o->kernel);
		o->kernel = from->kernel;
		from->kernel = (struct nf_text)NF_TEXT_INIT;
	}
}

void nf_options_deinit(struct nf_options *o)
{
	for (size_t i = 0; i < NF_ARRAY_LEN(table); i++) {
		if (table[i].type == NF_OPT_TEXT)
			free(*(char **)(void *)((char *)o + table[i].at));
	}
	nf_text_deinit(&o->kernel);
	*o = (struct nf_options){ 0 };
}

void nf_options_help(unsigned groups, struct nf_text *t)
{
	for (size_t i = 0; i < NF_ARRAY_LEN(table); i++) {
		const struct nf_option *p = &table[i];
		char left[64], letter[8] = "    ";
		if (!(p->groups & groups) || !p->help)
			continue;
		if (p->letter)
			(void)snprintf(letter, sizeof letter, "-%c, ", p->letter);
		(void)snprintf(left, sizeof left, "%s--%s%s%s", letter, p->name, p->arg ? " " : "", p->arg ? p->arg : "");
		nf_textf(t, "  %-34s %s\n", left, p->help);
	}
}
