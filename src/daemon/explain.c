#include "daemon/explain.h"

#include "base/error.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

/* %S is the store, %W the file that remembers. */
static const struct {
	int code;
	const char *text;
} rows[] = {
	{ NF_E_KEY_WRONG, "wrong passphrase or key for the vault at %S" },
	{ NF_E_KEY_CHANGED, "the vault at %S has new keys (key rekey), and this one is not among those that were kept" },
	{ NF_E_HEADER_MISSING, "there is no vault at %S; create one with: foliofs init %S" },
	{ NF_E_HEADER_LOST, "the header of the vault at %S is gone; this machine remembers it and puts it back by: "
			    "foliofs key %S restore" },
	{ NF_E_HEADER_FOREIGN, "%S shows another vault than this device knows there; if you put a new vault "
			       "there yourself, remove %W and try again" },
	{ NF_E_HEADER_ROLLBACK, "%S shows an older header than this device has seen (%W): the store was "
				"restored from a backup, or somebody replays old keys; do not give it your "
				"passphrase before you know which" },
	{ NF_E_HEAD_ROLLBACK, "%S shows an older state of the vault than this device has seen or --expect names: "
			      "the store was restored from a backup, has lost what it was sent last, or withholds changes; "
			      "foliofs check %S --repair puts back what this machine knows and has" },
	{ NF_E_STORE_DENIED, "%S refuses the credentials; give them by --dav-password-file, "
			     "--bearer-token-file or ~/.netrc" },
	{ NF_E_STORE_TLS, "the certificate of %S was not accepted; if it is your own server, name its "
			  "certificate by --ca-cert" },
	{ NF_E_STORE_NOT_DAV, "%S does not speak WebDAV; check the path" },
	{ NF_E_STORE_PROTOCOL, "%S does not answer as a WebDAV server does; check the path" },
	{ NF_E_STORE_URL, "store address not understood: %S; expected davs://HOST/PATH, file:///PATH or /PATH" },
	{ NF_E_STORE_READONLY, "%S cannot be written; mount it with -o ro" },
	{ NF_E_STORE_FULL, "no space left at %S" },
	{ NF_E_STORE_NOT_FOUND, "there is nothing at %S; create a vault with: foliofs init %S" },
	{ ENOENT, "there is nothing at %S; create a vault with: foliofs init %S" },
	{ NF_E_OFFLINE, "%S cannot be reached; check the address and the network" },
	{ NF_E_TIMEOUT, "%S does not answer in time; check the network, or raise --timeout" },
	{ EPERM, "%S would send your data unencrypted in transit; use davs://, or --insecure-http if you "
		 "trust the network" },
	{ NF_E_CACHE_LOCKED, "the vault at %S is in use by another daemon of this user; unmount it first" },
	{ NF_E_FORMAT_BAD, "the vault at %S is damaged: its header cannot be read; a machine that has mounted it "
			   "may put it back by: foliofs key %S restore" },
	{ NF_E_FORMAT_UNKNOWN, "the vault at %S, or what this machine keeps of it (%W), is of another version of foliofs" },
	{ NF_E_WRITER_CLONED, "another device writes to the vault at %S as this one, whose state (%W) was copied or restored, and "
			      "this one has more unsent changes than can be taken along under a new name (64 MiB of operations)" },
	{ NF_E_JOURNAL_BAD, "the journal of the vault at %S, with what this machine has not sent yet, is damaged on its disk; keep a copy of it, "
			    "then: foliofs check %S --repair sends what comes before the damage and puts the rest aside" },
	{ NF_E_STATE_BAD, "what this device remembers of the vault at %S is damaged (%W)" },
};

static void expand(struct nf_text *t, const char *s, const char *store, const char *where)
{
	while (*s) {
		size_t len = strcspn(s, "%");
		nf_text_add(t, s, len);
		s += len;
		if (!*s)
			break;
		nf_textf(t, "%s", s[1] == 'S' ? store : where ? where : "its state directory");
		s += 2;
	}
}

char *nf_explain(int code, const char *store, const char *where)
{
	struct nf_text t = NF_TEXT_INIT;

	for (size_t i = 0; i < sizeof rows / sizeof rows[0] && !t.len; i++) {
		if (rows[i].code == -code)
			expand(&t, rows[i].text, store, where);
	}
	if (!t.len)
		nf_textf(&t, "%s: %s", store, nf_strerror(code));
	return t.s;
}
