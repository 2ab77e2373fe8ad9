/* daemon/gc_text.h - what a run of the collector did, for people and programs. */
#ifndef NF_DAEMON_GC_TEXT_H
#define NF_DAEMON_GC_TEXT_H

#include "base/text.h"
#include "vault/vault.h"

void nf_gc_text(const struct nf_gc_result *r, bool dry_run, struct nf_text *t);
void nf_gc_json(const struct nf_gc_result *r, struct nf_text *t);

#endif
