/* cli/secret.h - passphrases, key files, passwords of servers: where they come from.
 *
 *	--password-file, --password-command, $FOLIOFS_PASSWORD,
 *	$CREDENTIALS_DIRECTORY/foliofs-password, the terminal
 *
 * Never from the command line.  They live in key memory (codec/keymem.h) and are wiped. */
#ifndef NF_CLI_SECRET_H
#define NF_CLI_SECRET_H

#include "cli/options.h"
#include "vault/header.h"

struct nf_secret_buf {
	enum nf_slot_kind kind;
	char *p; /* key memory; NUL-terminated; NULL: none */
	size_t len;
};

enum { NF_SECRET_MAX = 8192 };

void nf_secret_deinit(struct nf_secret_buf *s);
struct nf_secret nf_secret_of(const struct nf_secret_buf *s);

/* What unlocks a vault, by the options; asks for "PROMPT: " on the terminal as the last resort, TWICE if it is
 * new.  Fails with a sentence in ERR. */
int nf_secret_get(const struct nf_options *o, const char *prompt, bool twice, struct nf_secret_buf *out,
		  struct nf_text *err);
/* A new secret for a slot: --new-key-file, --new-password-file, the terminal. */
int nf_secret_get_new(const struct nf_options *o, struct nf_secret_buf *out, struct nf_text *err);
/* A whole file, or its first line; refused if others may read it. */
int nf_secret_file(const char *path, bool first_line, struct nf_secret_buf *out, struct nf_text *err);
/* From the terminal, without echo. -ENOTTY: there is none. */
int nf_secret_prompt(const char *prompt, struct nf_secret_buf *out);

#endif
