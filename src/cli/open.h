/* cli/open.h - STORE on the command line: address, credentials, secret, header, vault. */
#ifndef NF_CLI_OPEN_H
#define NF_CLI_OPEN_H

#include "cli/cli.h"
#include "cli/secret.h"
#include "daemon/unlock.h"
#include "foliofs/store.h"
#include "vault/header.h"
#include "vault/vault.h"

/* A store as the user named it.  Functions complain by themselves and give the exit code. */
struct nf_site {
	char *address; /* paths made absolute */
	char *safe;    /* without secrets */
	struct nf_store_options so; /* points into this struct and the options */
	struct nf_secret_buf dav_password, token;
};

enum nf_exit nf_site_init(const char *address, const struct nf_options *o, struct nf_site *s);
void nf_site_deinit(struct nf_site *s);
/* Says what went wrong with the store or the vault there. */
enum nf_exit nf_site_complain(const struct nf_site *s, int code, const char *where);

/* Gets the passphrase and derives the keys, in a child: nf_unlock().  No thread may run yet. */
enum nf_exit nf_site_unlock(const struct nf_site *s, const struct nf_options *o, struct nf_unlocked *out);

/* Options of gc and of mount; complains. */
int nf_gc_options_of(const struct nf_options *o, struct nf_gc_options *out);

/* A vault opened read-only, without a cache, beside a daemon that may have it mounted. */
struct nf_reader {
	struct nf_site site;
	struct nf_vault *vault;
	char *scratch; /* directory with a copy of what this device remembers; removed at the end */
};
enum nf_exit nf_reader_open(const char *address, const struct nf_options *o, struct nf_reader *rd);
/* As this device, with its own state and cache: it may commit.  Not while the vault is mounted here.  GIVEN opens it; NULL:
 * it is asked for. */
enum nf_exit nf_writer_open(const char *address, const struct nf_options *o, const struct nf_secret_buf *given,
			    struct nf_reader *rd);
void nf_reader_close(struct nf_reader *rd);

#endif
