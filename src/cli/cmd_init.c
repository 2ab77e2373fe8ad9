/* foliofs init STORE */
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "cli/open.h"
#include "daemon/paths.h"
#include "foliofs/store.h"
#include "vault/header_store.h"

#include <stdio.h>

enum {
	/* So many packs may be left by attempts that were interrupted. */
	PACKS_LEFT_MAX = 16,
};

/* Anything below header/ is a vault, also one that cannot be read; and so is what has more than one commit, without a header: a
 * new vault's collector would take it for litter. */
static int check_empty(struct nf_store *store)
{
	struct nf_store_op op = { .verb = NF_STORE_LIST, .name = "header" };
	int r = nf_store_run(store, &op);

	if (r == 0 && op.nr_entries)
		r = -EEXIST;
	nf_store_op_deinit(&op);
	if (r < 0 && r != -NF_E_STORE_NOT_FOUND)
		return r;
	struct nf_vault_traces t;
	r = nf_vault_traces(store, &t);
	return r == 0 && (t.newest_seq > 1 || t.nr_packs > PACKS_LEFT_MAX) ? -NF_E_HEADER_LOST : r;
}

static int add_recovery(struct nf_header *h, const struct nf_kdf_params *kdf, char text[NF_RECOVERY_TEXT_BYTES])
{
	uint8_t key[32], id[NF_SLOT_ID_BYTES];
	struct nf_secret s = { .kind = NF_SLOT_RECOVERY, .p = key, .len = sizeof key };

	nf_random(key, sizeof key);
	int r = nf_recovery_format(key, text);
	if (r == 0)
		r = nf_header_slot_add(h, &s, kdf, "recovery", id);
	nf_wipe(key, sizeof key);
	return r;
}

static int make_header(const struct nf_options *o, const struct nf_secret *secret, struct nf_header **out,
		       char recovery[NF_RECOVERY_TEXT_BYTES])
{
	struct nf_kdf_params kdf = { .log2_n = o->kdf_cost ? (unsigned)NF_MIN(o->kdf_cost, (uint64_t)63) : 0 };
	uint8_t id[NF_SLOT_ID_BYTES];
	struct nf_header *h;

	int r = nf_header_new(&h);
	if (r < 0)
		return r;
	r = nf_header_slot_add(h, secret, &kdf, o->label ? o->label : "first", id);
	if (r == 0 && !o->no_recovery)
		r = add_recovery(h, &kdf, recovery);
	if (r < 0) {
		nf_header_free(h);
		return r;
	}
	*out = h;
	return 0;
}

static enum nf_exit complain(const struct nf_site *s, int r)
{
	if (r == -EEXIST) {
		nf_complain("there is a vault at %s already; nothing was changed", s->safe);
		return NF_EXIT_BUSY;
	}
	if (r == -NF_E_HEADER_LOST) {
		nf_complain("at %s are the commits of a vault whose header is gone; nothing was changed. A machine that has mounted it puts "
			    "the header back by: foliofs key %s restore", s->safe, s->safe);
		return NF_EXIT_BUSY;
	}
	if (r == -NF_E_KDF_LIMIT) {
		nf_complain("--kdf-cost must be 15 to 20");
		return NF_EXIT_USAGE;
	}
	if (r == -ENOENT || r == -NF_E_STORE_NOT_FOUND) {
		nf_complain("%s cannot be made: the directory above it does not exist", s->safe);
		return NF_EXIT_ERROR;
	}
	return nf_site_complain(s, r, NULL);
}

/* The header comes last: what an interruption leaves is no vault. */
static int create(const struct nf_site *s, const struct nf_options *o, struct nf_store *store,
		  const struct nf_secret *secret, char recovery[NF_RECOVERY_TEXT_BYTES])
{
	struct nf_header *h;

	int r = make_header(o, secret, &h, recovery);
	if (r < 0)
		return r;
	r = nf_vault_format(store, h, NULL);
	if (r == 0)
		r = nf_header_store_save(store, h, NULL);
	if (r == 0)
		r = nf_pin_save(s->address, h);
	nf_header_free(h);
	return r;
}

static void tell(const struct nf_site *s, const char *recovery)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, "Vault created at %s\n", s->safe);
	if (*recovery)
		nf_textf(&t, "\nRecovery key, shown only now.  It opens the vault without the passphrase;\n"
			 "print it and keep it where the passphrase is not:\n\n    %s\n", recovery);
	nf_textf(&t, "\nMount it with:  foliofs mount %s DIR\n", s->safe);
	(void)nf_print(&t);
	if (t.s)
		nf_wipe(t.s, t.len);
	nf_text_deinit(&t);
}

static enum nf_exit init_at(const struct nf_site *s, struct nf_options *o)
{
	char recovery[NF_RECOVERY_TEXT_BYTES] = "";
	struct nf_text err = NF_TEXT_INIT;
	struct nf_secret_buf buf = { 0 };
	struct nf_store *store;

	int r = nf_store_open(s->address, &s->so, true, &store);
	if (r < 0)
		return complain(s, r);
	r = nf_store_probe(store);
	if (r == 0)
		r = check_empty(store);
	if (r < 0) {
		nf_store_free(store);
		return complain(s, r);
	}
	r = nf_secret_get(o, "New passphrase", true, &buf, &err);
	if (r < 0) {
		nf_complain("%s", err.len ? err.s : nf_strerror(r));
	} else {
		struct nf_secret secret = nf_secret_of(&buf);
		r = create(s, o, store, &secret, recovery);
		if (r == 0)
			tell(s, recovery);
		else
			(void)complain(s, r);
	}
	nf_secret_deinit(&buf);
	nf_store_free(store);
	nf_wipe(recovery, sizeof recovery);
	enum nf_exit e = r == -NF_E_KDF_LIMIT || err.len ? NF_EXIT_USAGE : nf_exit_of(r);
	nf_text_deinit(&err);
	return e;
}

enum nf_exit nf_cmd_init(struct nf_args *a)
{
	struct nf_site s;

	if (a->opt.recovery) {
		nf_complain("--recovery: a new vault has no recovery key yet");
		return NF_EXIT_USAGE;
	}
	enum nf_exit e = nf_site_init(a->arg[0], &a->opt, &s);
	if (e == NF_EXIT_OK)
		e = init_at(&s, &a->opt);
	nf_site_deinit(&s);
	return e;
}
