/* cli/config.h - ~/.config/foliofs/config and /etc/foliofs/config.
 *
 *	[work]                          one section per mount; its name stands for it
 *	store = davs://host/path
 *	dir = /home/me/work
 *	cache_size = 20G                every option of `foliofs mount`
 *	allow_other = true
 *
 * Lines that begin with # or ; are comments.  Unknown keys are refused. */
#ifndef NF_CLI_CONFIG_H
#define NF_CLI_CONFIG_H

#include "cli/options.h"

struct nf_config_mount {
	char *store, *dir; /* owned */
	struct nf_options opt;
};

/* Reads TEXT (of FILE, for messages), all of it, and gives the section called NAME or, NAME being NULL, that for STORE
 * and DIR.  -ENOENT: none; -NF_E_OPTION with a sentence in ERR. */
int nf_config_parse(const char *file, const char *text, const char *name, const char *store, const char *dir,
		    struct nf_config_mount *out, struct nf_text *err);
/* The same in the user's file, then in the system's. */
int nf_config_find(const char *name, const char *store, const char *dir, struct nf_config_mount *out,
		   struct nf_text *err);
void nf_config_mount_deinit(struct nf_config_mount *m);

#endif
