/* daemon/check_text.h - what a check found and did, for people and programs. */
#ifndef NF_DAEMON_CHECK_TEXT_H
#define NF_DAEMON_CHECK_TEXT_H

#include "base/text.h"
#include "vault/vault.h"

/* The lines of a check as they come. */
struct nf_check_lines {
	struct nf_text json;   /* elements of an array */
	struct nf_text people; /* one below the other */
};
void nf_check_lines_add(void *lines, const char *line);
void nf_check_lines_deinit(struct nf_check_lines *l);
void nf_check_text(const struct nf_check_result *c, bool repair, struct nf_text *t);
void nf_check_json(const struct nf_check_result *c, const struct nf_check_lines *l, struct nf_text *t);

#endif
