/* foliofs key STORE list | add | remove ID | change | recovery | rekey [--now] | restore */
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "cli/open.h"
#include "daemon/control.h"
#include "daemon/paths.h"
#include "daemon/unlock.h"
#include "foliofs/store.h"
#include "vault/header_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

struct change {
	struct nf_site *s;
	struct nf_options *o;
	struct nf_store *store;
	struct nf_header *h;
	const char *id;                        /* of a slot, hex or the beginning of it; NULL */
	uint8_t used[NF_SLOT_ID_BYTES];        /* the slot that change replaces and rekey keeps */
	struct nf_secret_buf secret;           /* what opened the vault */
	unsigned let_go;                       /* keys that rekey did not keep */
	char recovery[NF_RECOVERY_TEXT_BYTES]; /* to be shown once stored */
};

static const char *kind_name(enum nf_slot_kind k)
{
	switch (k) {
	case NF_SLOT_PASSPHRASE: return "passphrase";
	case NF_SLOT_KEYFILE: return "key file";
	case NF_SLOT_RECOVERY: return "recovery";
	}
	return "unknown";
}

/* --- list ------------------------------------------------------------------------------- */

static void slot_json(struct nf_text *t, const struct nf_slot_info *s)
{
	nf_textf(t, "{\"id\":\"");
	nf_text_hex(t, s->id, sizeof s->id);
	nf_textf(t, "\",\"kind\":\"%s\",\"created_s\":%" PRIu64 ",\"log2_n\":%u,\"label\":", kind_name(s->kind),
		 s->created_s, s->log2_n);
	nf_text_json(t, s->label);
	nf_textf(t, "}");
}

static void slot_line(struct nf_text *t, const struct nf_slot_info *s)
{
	time_t at = (time_t)s->created_s;
	char when[32] = "";
	struct tm tm;

	if (localtime_r(&at, &tm))
		(void)strftime(when, sizeof when, "%Y-%m-%d", &tm);
	nf_text_hex(t, s->id, 4);
	nf_textf(t, "  %-10s  %s  2^%u  %s\n", kind_name(s->kind), when, s->log2_n, s->label);
}

static enum nf_exit list(struct change *c)
{
	struct nf_slot_info slots[NF_SLOTS_MAX];
	struct nf_text t = NF_TEXT_INIT;
	size_t nr = nf_header_slots(c->h, slots, NF_SLOTS_MAX);
	bool first = true;

	nf_textf(&t, c->o->json ? "[" : "");
	for (size_t i = 0; i < nr; i++) {
		if (slots[i].tombstone)
			continue;
		if (c->o->json) {
			nf_textf(&t, first ? "" : ",");
			slot_json(&t, &slots[i]);
		} else {
			slot_line(&t, &slots[i]);
		}
		first = false;
	}
	if (c->o->json)
		nf_textf(&t, "]\n");
	else
		nf_textf(&t, "key epoch %" PRIu32 "\n", nf_header_epoch(c->h));
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	return ok ? NF_EXIT_OK : NF_EXIT_ERROR;
}

/* --- changes ---------------------------------------------------------------------------- */

/* Written as the next generation; the others learn of it when they next unlock. */
static enum nf_exit save(struct change *c, bool new_root)
{
	nf_header_set_generation(c->h, nf_header_generation(c->h) + 1);
	int r = nf_header_store_save_next(c->store, c->h, new_root);
	if (r == -NF_E_STORE_BUSY) {
		nf_complain("the keys were changed from somewhere else at the same time; nothing was done, try again");
		return NF_EXIT_ERROR;
	}
	if (r == 0)
		r = nf_pin_save(c->s->address, c->h);
	return r < 0 ? nf_site_complain(c->s, r, NULL) : NF_EXIT_OK;
}

static enum nf_exit complain(int r)
{
	if (r == -ENOSPC)
		nf_complain("the vault has %d keys already; remove one first", NF_SLOTS_LIVE_MAX);
	else if (r == -EBUSY)
		nf_complain("this is the only key of the vault; without it nobody could open it");
	else if (r == -NF_E_KDF_LIMIT)
		nf_complain("--kdf-cost must be 15 to 20");
	else
		nf_complain("%s", nf_strerror(r));
	return r == -NF_E_KDF_LIMIT ? NF_EXIT_USAGE : nf_exit_of(r);
}

static struct nf_kdf_params kdf_of(const struct nf_options *o)
{
	return (struct nf_kdf_params){ .log2_n = (unsigned)NF_MIN(o->kdf_cost, (uint64_t)63) };
}

static enum nf_exit add_slot(struct change *c, const char *label)
{
	struct nf_kdf_params kdf = kdf_of(c->o);
	struct nf_text err = NF_TEXT_INIT;
	uint8_t id[NF_SLOT_ID_BYTES];
	struct nf_secret_buf buf;

	int r = nf_secret_get_new(c->o, &buf, &err);
	if (r < 0) {
		nf_complain("%s", err.len ? err.s : nf_strerror(r));
		nf_text_deinit(&err);
		return NF_EXIT_USAGE;
	}
	nf_text_deinit(&err);
	struct nf_secret s = nf_secret_of(&buf);
	r = nf_header_slot_add(c->h, &s, &kdf, label, id);
	nf_secret_deinit(&buf);
	return r < 0 ? complain(r) : NF_EXIT_OK;
}

static enum nf_exit add(struct change *c) { return add_slot(c, c->o->label ? c->o->label : ""); }

/* The only live slot whose id begins with HEX. */
static int find_slot(const struct change *c, const char *hex, uint8_t id[NF_SLOT_ID_BYTES])
{
	struct nf_slot_info slots[NF_SLOTS_MAX];
	size_t nr = nf_header_slots(c->h, slots, NF_SLOTS_MAX);
	unsigned found = 0;

	for (size_t i = 0; i < nr; i++) {
		struct nf_text t = NF_TEXT_INIT;
		nf_text_hex(&t, slots[i].id, sizeof slots[i].id);
		if (!slots[i].tombstone && *hex && !strncmp(nf_text_str(&t), hex, strlen(hex))) {
			memcpy(id, slots[i].id, NF_SLOT_ID_BYTES);
			found++;
		}
		nf_text_deinit(&t);
	}
	return found == 1 ? 0 : found ? -ENOTUNIQ : -ENOENT;
}

static enum nf_exit take_away(struct change *c)
{
	uint8_t id[NF_SLOT_ID_BYTES];

	int r = find_slot(c, c->id ? c->id : "", id);
	if (r < 0) {
		nf_complain("%s key with the id %s; see: foliofs key %s list", r == -ENOENT ? "there is no" : "more than one",
			    c->id ? c->id : "(none given)", c->s->safe);
		return NF_EXIT_USAGE;
	}
	r = nf_header_slot_remove(c->h, id);
	return r < 0 ? complain(r) : NF_EXIT_OK;
}

/* The new one first: an interruption leaves both, never none. */
static enum nf_exit change(struct change *c)
{
	struct nf_slot_info slots[NF_SLOTS_MAX];
	size_t nr = nf_header_slots(c->h, slots, NF_SLOTS_MAX);
	const char *label = c->o->label ? c->o->label : "";

	for (size_t i = 0; i < nr && !c->o->label; i++) {
		if (!memcmp(slots[i].id, c->used, sizeof c->used))
			label = slots[i].label;
	}
	enum nf_exit e = add_slot(c, label);
	if (e)
		return e;
	int r = nf_header_slot_remove(c->h, c->used);
	return r < 0 ? complain(r) : NF_EXIT_OK;
}

static enum nf_exit recovery(struct change *c)
{
	struct nf_slot_info slots[NF_SLOTS_MAX];
	struct nf_kdf_params kdf = kdf_of(c->o);
	size_t nr = nf_header_slots(c->h, slots, NF_SLOTS_MAX);
	uint8_t key[32], id[NF_SLOT_ID_BYTES];
	struct nf_secret s = { .kind = NF_SLOT_RECOVERY, .p = key, .len = sizeof key };
	int r = 0;

	nf_random(key, sizeof key);
	r = nf_recovery_format(key, c->recovery);
	if (r == 0)
		r = nf_header_slot_add(c->h, &s, &kdf, "recovery", id);
	nf_wipe(key, sizeof key);
	for (size_t i = 0; i < nr && r == 0; i++) {
		if (slots[i].kind == NF_SLOT_RECOVERY && !slots[i].tombstone)
			r = nf_header_slot_remove(c->h, slots[i].id);
	}
	return r < 0 ? complain(r) : NF_EXIT_OK;
}

/* The slot of SECRET's own kind again; the bytes of the recovery key stay as they were printed. */
static int keep_slot(struct change *c, const char *label)
{
	struct nf_secret secret = nf_secret_of(&c->secret);
	struct nf_kdf_params kdf = kdf_of(c->o);
	uint8_t id[NF_SLOT_ID_BYTES];

	return nf_header_slot_add(c->h, &secret, &kdf, label, id);
}

/* A new root key cannot be wrapped for secrets that are not at hand: theirs are let go, but for the recovery key's, which is
 * made anew. */
static enum nf_exit rekey(struct change *c)
{
	struct nf_slot_info slots[NF_SLOTS_MAX];
	size_t nr = nf_header_slots(c->h, slots, NF_SLOTS_MAX);
	bool recoverable = false;
	const char *label = "";

	for (size_t i = 0; i < nr; i++) {
		if (slots[i].tombstone)
			continue;
		if (!memcmp(slots[i].id, c->used, sizeof c->used))
			label = slots[i].label;
		else if (slots[i].kind == NF_SLOT_RECOVERY)
			recoverable = true;
		else
			c->let_go++;
	}
	/* The same slot key: running mounts that have it take the new keys.  Stretched anew they cannot. */
	int r = nf_header_rekey(c->h, c->o->kdf_cost ? NULL : c->used);
	if (r == -ENOSPC) {
		nf_complain("the vault has had %d key epochs, the most there can be; make a new vault and copy", NF_EPOCHS_MAX);
		return NF_EXIT_ERROR;
	}
	if (r == 0 && c->o->kdf_cost)
		r = keep_slot(c, label);
	if (r < 0)
		return complain(r);
	return recoverable ? recovery(c) : NF_EXIT_OK;
}

static enum nf_exit say_rekeyed(const struct change *c)
{
	struct nf_text t = NF_TEXT_INIT;

	if (c->o->json) {
		nf_textf(&t, "{\"epoch\":%" PRIu32 ",\"generation\":%" PRIu64 ",\"keys_let_go\":%u,\"recovery\":",
			 nf_header_epoch(c->h), nf_header_generation(c->h), c->let_go);
		nf_text_json(&t, c->recovery);
		nf_textf(&t, "}\n");
	} else {
		nf_textf(&t, "What is written from now on is sealed under key epoch %" PRIu32 ".\n", nf_header_epoch(c->h));
		if (c->let_go)
			nf_textf(&t, "%u other keys open nothing any more; add those that shall: foliofs key %s add\n", c->let_go,
				 c->s->safe);
		nf_textf(&t, c->o->kdf_cost ? "Mounts of this vault, here and elsewhere, have to be unmounted and mounted again.\n" :
			 "Mounts that were opened with this key take the new keys by themselves; others have to be mounted again.\n");
	}
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	return ok ? NF_EXIT_OK : NF_EXIT_ERROR;
}

/* --- sealing again ------------------------------------------------------------------------ */

static enum nf_exit say_resealed(const struct change *c, uint64_t bytes, uint64_t left_bytes)
{
	struct nf_text t = NF_TEXT_INIT;

	if (c->o->json) {
		nf_textf(&t, "{\"resealed_bytes\":%" PRIu64 ",\"left_bytes\":%" PRIu64 "}\n", bytes, left_bytes);
	} else {
		nf_textf(&t, "Sealed again: ");
		nf_text_size(&t, bytes);
		nf_textf(&t, ". What it replaces is deleted once the collector's grace has passed (foliofs gc).\n");
	}
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	if (left_bytes)
		nf_complain("%" PRIu64 " bytes are still under older keys: foliofs check %s tells what cannot be read", left_bytes,
			    c->s->safe);
	return ok && !left_bytes ? NF_EXIT_OK : NF_EXIT_ERROR;
}

/* Until a run finds nothing under older keys, or can do nothing about it. */
static enum nf_exit reseal(struct change *c)
{
	struct nf_gc_result r = { 0 };
	uint64_t bytes = 0;
	struct nf_gc_options o;
	struct nf_reader w;

	nf_gc_defaults(&o);
	enum nf_exit e = nf_writer_open(c->s->address, c->o, &c->secret, &w);
	while (e == NF_EXIT_OK) {
		int error = nf_vault_gc(w.vault, &o, NULL, &r);
		if (error < 0)
			e = nf_site_complain(&w.site, error, NULL);
		bytes += error < 0 ? 0 : r.resealed_bytes;
		if (!r.old_packs || (!r.moved_bytes && !r.moved_trees))
			break;
	}
	nf_reader_close(&w);
	if (e)
		nf_complain("the keys are new, but what is there was not sealed again; foliofs gc does that too");
	return e == NF_EXIT_OK ? say_resealed(c, bytes, r.old_bytes) : e;
}

/* --- a header that is gone ------------------------------------------------------------------ */

static enum nf_exit say_restored(struct change *c)
{
	(void)printf("The header that this machine saw last (generation %" PRIu64 ") is at %s again. Keys that were added, changed or removed "
		     "elsewhere since then are what they were before: foliofs key %s list\n",
		     nf_header_generation(c->h), c->s->safe, c->s->safe);
	return NF_EXIT_OK;
}

static enum nf_exit complain_restore(const struct change *c, int r)
{
	if (r == -EEXIST)
		nf_complain("%s has a header already; nothing was changed", c->s->safe);
	else if (r == -ENOENT)
		nf_complain("this machine remembers no header of %s; nothing was changed", c->s->safe);
	else if (r == -NF_E_HEADER_MISSING)
		nf_complain("at %s is nothing of a vault; nothing was changed", c->s->safe);
	else
		return nf_site_complain(c->s, r, NULL);
	return r == -EEXIST ? NF_EXIT_BUSY : NF_EXIT_NO_VAULT;
}

static const struct {
	const char *name;
	enum nf_exit (*run)(struct change *c);
	bool saves, needs_id;
} verbs[] = {
	{ "list", list, false, false },     { "add", add, true, false },           { "remove", take_away, true, true },
	{ "change", change, true, false },  { "recovery", recovery, true, false },
	{ "rekey", rekey, true, false },   { "restore", say_restored, false, false },
};

/* The key is derived here, not in a child: this process ends soon. */
static enum nf_exit open_header(struct change *c, bool by_slot, bool restores)
{
	struct nf_text err = NF_TEXT_INIT;
	nf_auto_free char *where = NULL, *prompt = NULL;

	if (asprintf(&prompt, "Passphrase for %s", c->s->safe) < 0)
		return NF_EXIT_ERROR;
	int r = nf_secret_get(c->o, prompt, false, &c->secret, &err);
	if (r < 0) {
		nf_complain("%s", err.len ? err.s : nf_strerror(r));
		nf_text_deinit(&err);
		return NF_EXIT_USAGE;
	}
	nf_text_deinit(&err);
	struct nf_secret secret = nf_secret_of(&c->secret);
	r = nf_store_open(c->s->address, &c->s->so, false, &c->store);
	if (r == 0)
		r = restores ? nf_header_restore(c->s->address, c->store, &secret, &c->h) :
			       nf_header_open_by(c->s->address, c->store, &secret, &c->h, by_slot ? c->used : NULL);
	if (r < 0 && restores)
		return complain_restore(c, r);
	if (r == 0)
		r = nf_pin_check(c->s->address, c->h, &where);
	return r < 0 ? nf_site_complain(c->s, r, where) : NF_EXIT_OK;
}

static enum nf_exit run_verb(struct change *c, size_t verb)
{
	bool rekeys = verbs[verb].run == rekey;
	enum nf_exit e = open_header(c, rekeys || verbs[verb].run == change, verbs[verb].run == say_restored);

	if (e == NF_EXIT_OK)
		e = verbs[verb].run(c);
	if (e == NF_EXIT_OK && verbs[verb].saves)
		e = save(c, rekeys);
	if (e == NF_EXIT_OK && rekeys)
		e = say_rekeyed(c);
	if (e == NF_EXIT_OK && *c->recovery && !(rekeys && c->o->json))
		(void)printf("New recovery key, shown only now; the one before opens nothing any more:\n\n    %s\n",
			     c->recovery);
	nf_wipe(c->recovery, sizeof c->recovery);
	nf_header_free(c->h);
	nf_store_free(c->store);
	if (e == NF_EXIT_OK && rekeys && c->o->now) {
		(void)fflush(stdout); /* a recovery key is shown before what may take hours */
		e = reseal(c);
	}
	nf_secret_deinit(&c->secret);
	return e;
}

enum nf_exit nf_cmd_key(struct nf_args *a)
{
	struct nf_site s;
	struct change c = { .s = &s, .o = &a->opt, .id = a->arg[2] };
	size_t verb = 0;

	while (verb < NF_ARRAY_LEN(verbs) && strcmp(verbs[verb].name, a->arg[1]))
		verb++;
	if (verb == NF_ARRAY_LEN(verbs) || verbs[verb].needs_id != !!a->arg[2] || (a->opt.now && verbs[verb].run != rekey)) {
		nf_complain("expected: foliofs key STORE list|add|remove ID|change|recovery|rekey|restore");
		return NF_EXIT_USAGE;
	}
	enum nf_exit e = nf_site_init(a->arg[0], &a->opt, &s);
	if (e == NF_EXIT_OK)
		e = run_verb(&c, verb);
	nf_site_deinit(&s);
	return e;
}
