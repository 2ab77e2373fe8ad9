/* foliofs - the command table. */
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "cli/cli.h"
#include "daemon/unlock.h"

#include <curl/curl.h>
#include <fuse_lowlevel.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <zstd.h>

#define KEYS "\nIDs are shown by `list`; their beginning is enough.\n" \
	"rekey   a new root key and a new key epoch: what is written from now on is sealed under keys that nobody has who could\n" \
	"        open the vault before.  Only the secret given stays, and the recovery key is made anew; add the others again.\n" \
	"        Mounts that were opened with this secret take the new keys by themselves; others stop exchanging (status says so,\n" \
	"        exit code 3), keep their changes, and have to be mounted again. --kdf-cost stretches a passphrase anew: then that\n" \
	"        is so for every mount.  What is there already is sealed again by mounts that have nothing else to do, run by run, or\n" \
	"        at once by --now; what that replaces is deleted by the collector, later (`foliofs gc`).\n" \
	"restore puts the header that this machine saw last on a store that has lost its header, or has damaged ones only.\n"

#define CHECK "What is missing or damaged is named by path, behind the snapshot or commit it is in; then the exit code is 10, unless\n" \
	"--repair has put all of it right. --repair puts on the store again what the cache of this device still has; beside files\n" \
	"that stay damaged it puts the newest whole version that a snapshot or kept commit has, as \"NAME (recovered from commit\n" \
	"N)\". Where names and attributes themselves are lost (a node of the tree that neither the store nor this cache has) it\n" \
	"puts what the newest snapshot or kept commit had there: such files are named, \"as of commit N\". Names of which nothing\n" \
	"else is left go, and are named. Of a damaged journal what comes before the damage is sent and the rest is put aside\n" \
	"(state directory, journal/damaged-TIME; nothing of it is deleted). A newest commit that the store has lost altogether\n" \
	"is put there again by a machine that knows it. So run it first where the vault was last used: that machine may have all\n" \
	"of it. What is intact stays as it is, and so does the history. A mounted vault is checked by its daemon.\n"

#define MAP "Strips of one scale, as wide as the terminal: where blocks are (on the server, with a copy here, here only, holes), what\n" \
	"they take sealed, what is in memory, modified regions by state and flush group.\n"

#define PIN "What it takes is said first. What others add or change there is fetched too, behind everything that somebody waits for,\n" \
	"also after the next mount; it can be read offline and is never evicted.  What is pinned must fit into the cache\n" \
	"(cache_size).  `getfattr -n user.foliofs.pin PATH` shows how much of it is here.  Interrupted, it goes on in the\n" \
	"background.\n"

#define CACHE "info    sizes and limits\n" \
	"drop    give up all that is not pinned, or that of PATH; what is not on the server is not in the cache and stays\n" \
	"verify  open each cached block of the newest state; what is damaged is named, dropped, and fetched again when needed\n" \
	"wipe    unmounted: overwrite this device's copy of the keys, remove cache, journal and pins.  What a disk may still\n" \
	"        hold of them opens for nobody without the server's header and the passphrase.  Refused if there may be\n" \
	"        changes that are not on the server.\n"

static const struct nf_command commands[] = {
	{ "init", "STORE", "Create a vault; prints its recovery key, once", NULL,
	  NF_OPT_STORE | NF_OPT_INIT, 1, 1, nf_cmd_init },
	{ "mount", "STORE DIR | NAME", "Mount a vault; returns when it is ready",
	  "NAME is a section of ~/.config/foliofs/config or /etc/foliofs/config.\n",
	  NF_OPT_STORE | NF_OPT_MOUNT | NF_OPT_FRONT, 1, 2, nf_cmd_mount },
	{ "umount", "DIR | NAME", "Unmount; returns when everything is stored, on this machine or (--wait) on the server",
	  "NAME is a section of the configuration.\n", NF_OPT_WAIT | NF_OPT_QUIET, 1, 1, nf_cmd_umount },
	{ "status", "[DIR]", "Show what is not on the server yet, and more", NULL, NF_OPT_JSON, 0, 1, nf_cmd_status },
	{ "sync", "[PATH]", "Send everything to the server now, and wait", NULL, NF_OPT_QUIET, 0, 1, nf_cmd_sync },
	{ "offline", "[DIR]", "Leave the server alone until `foliofs online`; everything goes on with what is here", NULL, 0, 0,
	  1, nf_cmd_offline },
	{ "online", "[DIR]", "End `foliofs offline`: send what was done, take what others did", NULL, 0, 0, 1,
	  nf_cmd_online },
	{ "pin", "PATH | --list [DIR]", "Keep a file, or a directory with all beneath it, complete on this device", PIN,
	  NF_OPT_PIN | NF_OPT_JSON | NF_OPT_QUIET, 0, 1, nf_cmd_pin },
	{ "unpin", "PATH", "End what `foliofs pin` began; what is cached stays until its room is needed", NULL, 0, 1, 1,
	  nf_cmd_unpin },
	{ "cache", "DIR info|drop [PATH]|verify, STORE wipe", "Look at, empty, check or wipe what this device keeps", CACHE,
	  NF_OPT_CACHE | NF_OPT_JSON | NF_OPT_QUIET, 2, 3, nf_cmd_cache },
	{ "key", "STORE list|add|remove ID|change|recovery|rekey|restore", "Show and change what opens a vault", KEYS,
	  NF_OPT_STORE | NF_OPT_KEY | NF_OPT_JSON, 2, 3, nf_cmd_key },
	{ "ls", "STORE [PATH]", "List a directory of a vault without mounting it", NULL, NF_OPT_STORE | NF_OPT_JSON, 1, 2,
	  nf_cmd_ls },
	{ "cat", "STORE PATH", "Print a file of a vault without mounting it", NULL, NF_OPT_STORE, 2, 2, nf_cmd_cat },
	{ "get", "STORE PATH [TARGET]", "Copy a file or directory out of a vault without mounting it", NULL,
	  NF_OPT_STORE, 2, 3, nf_cmd_get },
	{ "check", "STORE | DIR", "Check everything the newest state, snapshots and kept commits of a vault refer to", CHECK,
	  NF_OPT_STORE | NF_OPT_JSON | NF_OPT_QUIET | NF_OPT_CHECK, 0, 1, nf_cmd_check },
	{ "gc", "STORE | DIR", "Free what no kept commit or snapshot needs",
	  "A first run condemns, a later one deletes, at least the grace afterwards; both are safe beside machines at\n"
	  "work.  A mounted vault is collected by its daemon.\n",
	  NF_OPT_STORE | NF_OPT_JSON | NF_OPT_QUIET | NF_OPT_GC, 0, 1, nf_cmd_gc },
	{ "snapshot", "DIR create NAME | list | remove NAME[@ID]", "Keep the whole vault as it is now, under a name",
	  "`foliofs ls|cat|get|mount --snapshot NAME` show it. ID is needed where two machines gave one name.\n",
	  NF_OPT_JSON | NF_OPT_QUIET, 2, 3, nf_cmd_snapshot },
	{ "stats", "[DIR]", "Print the counters of a mount", NULL, NF_OPT_STATS, 0, 1, nf_cmd_stats },
	{ "regions", "[DIR]", "List modified ranges not stored yet", NULL, 0, 0, 1, nf_cmd_regions },
	{ "requests", "[DIR]", "List reads, writes and calls under way", NULL, 0, 0, 1, nf_cmd_requests },
	{ "map", "FILE", "Draw a file of a mount: what is stored where, in memory, modified", MAP, NF_OPT_JSON | NF_OPT_MAP, 1, 1,
	  nf_cmd_map },
	{ "trace", "[DIR]", "Print events as they happen, until interrupted", NULL, NF_OPT_TRACE, 0, 1, nf_cmd_trace },
};

static const struct nf_command *find(const char *name)
{
	for (size_t i = 0; i < NF_ARRAY_LEN(commands); i++) {
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	}
	return NULL;
}

static enum nf_exit print(struct nf_text *t)
{
	bool ok = nf_print(t);

	nf_text_deinit(t);
	return ok ? NF_EXIT_OK : NF_EXIT_ERROR;
}

static enum nf_exit usage(void)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, "Usage: foliofs COMMAND ...\n\n"
		 "An encrypted folder on a server that need not be trusted.\n\nCommands:\n");
	for (size_t i = 0; i < NF_ARRAY_LEN(commands); i++)
		nf_textf(&t, "  %-10s %s\n", commands[i].name, commands[i].summary);
	nf_textf(&t, "\nSTORE is davs://USER@HOST/PATH, file:///PATH, a path, https://HOST/PATH (read-only).\n"
		 "`foliofs COMMAND --help` tells more; `foliofs --version` names the libraries.\n\nExit codes:\n");
#define X(name, code, text) nf_textf(&t, "  %-4d %s\n", code, text);
	NF_EXITS(X)
#undef X
	return print(&t);
}

static enum nf_exit version(void)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, "foliofs %s\n%s\nlibfuse %s\n%s\nzstd %s\n", NF_VERSION, curl_version(), fuse_pkgversion(),
		 OpenSSL_version(OPENSSL_VERSION), ZSTD_versionString());
	return print(&t);
}

static enum nf_exit run(const struct nf_command *cmd, int argc, char **argv)
{
	struct nf_text t = NF_TEXT_INIT;
	struct nf_args a = { 0 };
	enum nf_exit e;

	if (nf_args_parse(cmd, argc, argv, &a, &t) < 0) {
		nf_complain("%s (see: foliofs %s --help)", t.len ? t.s : nf_strerror(-NF_E_OPTION), cmd->name);
		e = NF_EXIT_USAGE;
	} else if (a.opt.help) {
		nf_command_help(cmd, &t);
		e = nf_print(&t) ? NF_EXIT_OK : NF_EXIT_ERROR;
	} else {
		nf_log_set(a.opt.verbose ? NF_LOG_DEBUG : NF_LOG_INFO);
		e = cmd->run(&a);
	}
	nf_text_deinit(&t);
	nf_options_deinit(&a.opt);
	return e;
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];

	nf_process_harden();
	if (!strncmp(name, "mount.", 6)) /* mount(8) runs mount.foliofs STORE DIR -o OPTIONS */
		return (int)run(find("mount"), argc - 1, argv + 1);
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
		return argc < 2 ? ((void)usage(), NF_EXIT_USAGE) : (int)usage();
	if (!strcmp(argv[1], "--version"))
		return (int)version();
	const struct nf_command *cmd = find(argv[1]);
	if (!cmd) {
		nf_complain("no such command: %s (see: foliofs --help)", argv[1]);
		return NF_EXIT_USAGE;
	}
	return (int)run(cmd, argc - 2, argv + 2);
}
