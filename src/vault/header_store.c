#include "vault/header_store.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "vault/head.h"

#include <stdio.h>

enum {
	/* What one load looks at; more is a store at play.  The KDF runs for at most
	 * UNLOCKS_MAX headers of at most NF_SLOTS_LIVE_MAX slots. */
	GENERATIONS_MAX = 8,
	SIBLINGS_MAX = 16,
	UNLOCKS_MAX = 8,
	SAVE_TRIES = 3,
	GENERATION_DIGITS = 8,
	RANDOM_DIGITS = 32,
};

/* -- the store -------------------------------------------------------------------- */

static int get_header(struct nf_store *s, const char *name, struct nf_header **out)
{
	nf_auto_free uint8_t *buf = malloc(NF_HEADER_BYTES_MAX);
	struct nf_store_op op = {
		.verb = NF_STORE_GET, .buf = buf, .length_bytes = NF_HEADER_BYTES_MAX, .whole = true,
	};

	if (!buf)
		return nf_fail(-ENOMEM);
	snprintf(op.name, sizeof op.name, "%s", name);
	int r = nf_store_run(s, &op);
	if (!r && op.size_bytes > NF_HEADER_BYTES_MAX)
		r = nf_fail(-NF_E_FORMAT_BAD);
	if (!r)
		r = nf_header_decode(buf, op.transferred_bytes, out);
	nf_store_op_deinit(&op);
	return r;
}

static bool is_hex(const char *s, size_t digits)
{
	return strspn(s, "0123456789abcdef") == digits && s[digits] == 0;
}

static int descending(const void *x, const void *y)
{
	return -strcmp(((const struct nf_store_entry *)x)->name,
		       ((const struct nf_store_entry *)y)->name);
}

/* Lists DIR into OP (deinit is the caller's): its first *NR entries are the names of DIGITS
 * digits, greatest first.  A directory that is not there is empty. */
static int list_hex(struct nf_store *s, struct nf_store_op *op, const char *dir, size_t digits,
		    size_t *nr)
{
	size_t kept = 0;

	*nr = 0;

	*op = (struct nf_store_op){ .verb = NF_STORE_LIST };
	snprintf(op->name, sizeof op->name, "%s", dir);
	int r = nf_store_run(s, op);
	if (r)
		return r == -NF_E_STORE_NOT_FOUND ? 0 : r;
	/* Swapped, not overwritten: deinit frees every name. */
	for (size_t i = 0; i < op->nr_entries; i++) {
		if (!is_hex(op->entries[i].name, digits))
			continue;
		struct nf_store_entry e = op->entries[kept];
		op->entries[kept++] = op->entries[i];
		op->entries[i] = e;
	}
	if (kept)
		qsort(op->entries, kept, sizeof *op->entries, descending);
	*nr = kept;
	return 0;
}

/* -- choosing --------------------------------------------------------------------- */

struct search {
	struct nf_store *s;
	const struct nf_header_key *key;
	int unlocks;   /* headers the secret was tried on */
	int parsed;    /* headers that parse */
	int malformed; /* why one did not; 0 */
	/* Volumes of headers of the generations gone through in vain. */
	uint8_t locked[SIBLINGS_MAX][NF_VOLUME_ID_BYTES];
	size_t nr_locked;
};

/* True if R says something about this one object, not about the store. */
static bool is_about_the_object(int r)
{
	return r == -NF_E_FORMAT_BAD || r == -NF_E_FORMAT_UNKNOWN || r == -NF_E_KDF_LIMIT ||
	       r == -NF_E_STORE_NOT_FOUND || r == -NF_E_XFORM_BAD_TAG || r == -NF_E_KEY_WRONG;
}

static int try_unlock(struct search *q, struct nf_header *h)
{
	if (q->key->root_key)
		return nf_header_unlock_root(h, q->key->root_key);
	if (q->key->slot_key)
		return nf_header_unlock_slot(h, q->key->slot_key);
	if (q->unlocks++ >= UNLOCKS_MAX)
		return nf_fail(-NF_E_KEY_WRONG);
	return nf_header_unlock(h, q->key->secret, NULL);
}

struct siblings {
	struct nf_header *h[SIBLINGS_MAX];
	size_t nr;
};

static void siblings_free(struct siblings *b)
{
	for (size_t i = 0; i < b->nr; i++)
		nf_header_free(b->h[i]);
}

static int read_siblings(struct search *q, uint64_t generation, struct siblings *b)
{
	char dir[NF_STORE_NAME_MAX / 2], name[NF_STORE_NAME_MAX];
	struct nf_store_op op;
	size_t nr;

	snprintf(dir, sizeof dir, "header/%08x", (unsigned)generation);
	int r = list_hex(q->s, &op, dir, RANDOM_DIGITS, &nr);
	for (size_t i = 0; i < nr && i < SIBLINGS_MAX && !r; i++) {
		struct nf_header *h = NULL;
		snprintf(name, sizeof name, "%s/%.32s", dir, op.entries[i].name);
		r = get_header(q->s, name, &h);
		/* The name is the store's word, the generation inside is authenticated. */
		if (!r && nf_header_generation(h) != generation) {
			nf_header_free(h);
			r = nf_fail(-NF_E_FORMAT_BAD);
		}
		if (!r) {
			b->h[b->nr++] = h;
			q->parsed++;
		} else if (is_about_the_object(r)) {
			q->malformed = r;
			r = 0;
		}
	}
	nf_store_op_deinit(&op);
	return r;
}

/* Merges into A those of B that its root key opens; the others are not of this vault. */
static int merge_siblings(struct nf_header *a, struct siblings *b, bool *differ)
{
	uint8_t root[NF_KEY_BYTES];
	int r = 0;

	nf_header_root_key(a, root);
	for (size_t i = 0; i < b->nr && !r; i++) {
		if (!b->h[i])
			continue;
		r = nf_header_unlock_root(b->h[i], root);
		if (r == 0 && !nf_header_same_slots(a, b->h[i])) {
			*differ = true;
			r = nf_header_merge(a, b->h[i]);
		}
		if (is_about_the_object(r) || r == -NF_E_HEADER_FOREIGN)
			r = 0;
	}
	nf_wipe(root, sizeof root);
	return r;
}

static void note_locked(struct search *q, const struct siblings *b)
{
	for (size_t i = 0; i < b->nr && q->nr_locked < SIBLINGS_MAX; i++)
		memcpy(q->locked[q->nr_locked++], nf_header_volume_id(b->h[i]), NF_VOLUME_ID_BYTES);
}

static bool is_overtaken(const struct search *q, const struct nf_header *h)
{
	for (size_t i = 0; i < q->nr_locked; i++)
		if (!memcmp(q->locked[i], nf_header_volume_id(h), NF_VOLUME_ID_BYTES))
			return true;
	return false;
}

/* The first of B that opens, merged with those of its root key; NULL if none does. */
static int choose(struct search *q, struct siblings *b, struct nf_header **out, bool *differ)
{
	int r = -NF_E_KEY_WRONG;

	*out = NULL;
	*differ = false;
	for (size_t i = 0; i < b->nr && r; i++) {
		if (!b->h[i] || nf_header_is_unlocked(b->h[i]))
			continue;
		r = try_unlock(q, b->h[i]);
		if (r && !is_about_the_object(r))
			return r;
		if (r == 0)
			*out = nf_steal(&b->h[i]);
	}
	if (r)
		return 0;
	r = merge_siblings(*out, b, differ);
	if (r) {
		nf_header_free(*out);
		*out = NULL;
	}
	return r;
}

/* -NF_E_KEY_WRONG if nothing in this generation opens.  A key change that crossed a rekey is under the root key before it:
 * of what opens the newest epoch counts. */
static int load_generation(struct search *q, uint64_t generation, struct nf_header **out,
			   bool *needs_write)
{
	nf_auto(siblings_free) struct siblings b = { .nr = 0 };
	struct nf_header *best = NULL, *h;
	bool differ;

	int r = read_siblings(q, generation, &b);
	if (r == 0)
		r = choose(q, &b, &h, &differ);
	while (r == 0 && h) {
		if (!best || nf_header_epoch(h) > nf_header_epoch(best)) {
			nf_header_free(best);
			best = h;
			*needs_write = differ;
		} else {
			nf_header_free(h);
		}
		r = choose(q, &b, &h, &differ);
	}
	if (r) {
		nf_header_free(best);
		return r;
	}
	if (!best) {
		note_locked(q, &b);
		return nf_fail(-NF_E_KEY_WRONG);
	}
	*out = best;
	return 0;
}

static int load_current(struct search *q, struct nf_header **out)
{
	struct nf_header *h;

	int r = get_header(q->s, "header/current", &h);
	if (r == -NF_E_STORE_NOT_FOUND)
		return nf_fail(q->malformed ? q->malformed : -NF_E_HEADER_MISSING);
	if (r)
		return r;
	r = try_unlock(q, h);
	if (r) {
		nf_header_free(h);
		return r;
	}
	*out = h;
	return 0;
}

static int load_listed(struct search *q, struct nf_header **out, struct nf_header_found *found)
{
	struct nf_store_op op;
	size_t nr;

	int r = list_hex(q->s, &op, "header", GENERATION_DIGITS, &nr);
	if (!r)
		r = -NF_E_KEY_WRONG;
	for (size_t i = 0; i < nr && i < GENERATIONS_MAX && r == -NF_E_KEY_WRONG; i++) {
		found->newest = i == 0;
		r = load_generation(q, strtoul(op.entries[i].name, NULL, 16), out, &found->needs_write);
	}
	nf_store_op_deinit(&op);
	found->overtaken = r == 0 && is_overtaken(q, *out);
	return r;
}

int nf_header_store_load(struct nf_store *s, const struct nf_header_key *key,
			 struct nf_header **out, struct nf_header_found *found)
{
	struct search q = { .s = s, .key = key };
	int r = 0;

	if (!s->no_list) {
		r = load_listed(&q, out, found);
		if (r != -NF_E_KEY_WRONG || q.parsed)
			return r;
	}
	/* Nothing listed is a header: the copy, which on other stores is never asked. */
	r = load_current(&q, out);
	if (!r)
		*found = (struct nf_header_found){ .newest = true };
	return r;
}

int nf_vault_traces(struct nf_store *s, struct nf_vault_traces *out)
{
	struct nf_vault_traces t = { 0 };
	struct nf_head_id id;

	*out = t;
	if (s->no_list)
		return 0;
	struct nf_store_op heads = { .verb = NF_STORE_LIST, .name = "heads" };
	struct nf_store_op packs = { .verb = NF_STORE_LIST, .name = "packs" };
	int r = nf_store_run(s, &heads);
	if (r == 0 || r == -NF_E_STORE_NOT_FOUND)
		r = nf_store_run(s, &packs);
	for (size_t i = 0; i < heads.nr_entries; i++)
		if (nf_head_name_parse(heads.entries[i].name, &id.seq, id.rand) == 0)
			t.newest_seq = NF_MAX(t.newest_seq, id.seq);
	t.nr_packs = packs.nr_entries;
	nf_store_op_deinit(&heads);
	nf_store_op_deinit(&packs);
	if (r < 0 && r != -NF_E_STORE_NOT_FOUND)
		return r;
	*out = t;
	return 0;
}

/* -- writing ---------------------------------------------------------------------- */

static int put(struct nf_store *s, const char *name, void *p, size_t len)
{
	struct iovec iov = { p, len };
	struct nf_store_op op = {
		.verb = NF_STORE_PUT, .iov = &iov, .nr_iov = 1, .length_bytes = len,
	};

	snprintf(op.name, sizeof op.name, "%s", name);
	int r = nf_store_run(s, &op);
	nf_store_op_deinit(&op);
	return r;
}

static int read_back(struct nf_store *s, const char *name, const void *p, size_t len)
{
	nf_auto_free uint8_t *buf = malloc(len);
	struct nf_store_op op = {
		.verb = NF_STORE_GET, .buf = buf, .length_bytes = len, .whole = true,
	};

	if (!buf)
		return nf_fail(-ENOMEM);
	snprintf(op.name, sizeof op.name, "%s", name);
	int r = nf_store_run(s, &op);
	if (!r && (op.size_bytes != len || op.transferred_bytes != len || memcmp(buf, p, len) != 0))
		r = nf_fail(-NF_E_STORE_PROTOCOL);
	nf_store_op_deinit(&op);
	return r;
}

/* A name is written by one attempt; these are worth another under a new name. */
static bool worth_another_name(int r)
{
	return r == -NF_E_STORE_UNKNOWN_OUTCOME || r == -NF_E_STORE_BUSY || r == -NF_E_TIMEOUT ||
	       r == -NF_E_STORE_PROTOCOL || r == -NF_E_STORE_SHORT || r == -NF_E_STORE_NOT_FOUND;
}

/* Its name to NAME. */
static int put_new(struct nf_store *s, const struct nf_header *h, void *p, size_t len, char name[NF_STORE_NAME_MAX])
{
	int tries = 0, r;

	do {
		uint64_t random[2];
		nf_random(random, sizeof random);
		snprintf(name, NF_STORE_NAME_MAX, "header/%08llx/%016llx%016llx",
			 (unsigned long long)nf_header_generation(h),
			 (unsigned long long)random[0], (unsigned long long)random[1]);
		r = put(s, name, p, len);
		if (!r)
			r = read_back(s, name, p, len);
	} while (worth_another_name(r) && ++tries < SAVE_TRIES);
	return r;
}

int nf_header_store_save(struct nf_store *s, const struct nf_header *h, int *current_error)
{
	char name[NF_STORE_NAME_MAX];
	nf_auto_free void *p = NULL;
	size_t len;

	int r = nf_header_encode(h, &p, &len);
	if (r == 0)
		r = put_new(s, h, p, len, name);
	if (r)
		return r;
	r = put(s, "header/current", p, len);
	if (current_error)
		*current_error = r;
	return 0;
}

/* Does H, just stored, stand beside no other of its generation, or (SHARED) only beside some that its root key opens? */
static int is_clear(struct nf_store *s, const struct nf_header *h, bool shared, bool *clear)
{
	uint8_t root[NF_KEY_BYTES];
	struct nf_header_key key = { .root_key = root };
	struct search q = { .s = s, .key = &key };
	nf_auto(siblings_free) struct siblings b = { .nr = 0 };

	int r = read_siblings(&q, nf_header_generation(h), &b);
	if (r < 0)
		return r;
	nf_header_root_key(h, root);
	*clear = shared || b.nr <= 1;
	for (size_t i = 0; i < b.nr && shared; i++)
		*clear = *clear && (memcmp(nf_header_volume_id(b.h[i]), nf_header_volume_id(h), NF_VOLUME_ID_BYTES) != 0 ||
				    try_unlock(&q, b.h[i]) == 0);
	nf_wipe(root, sizeof root);
	return 0;
}

static void take_back(struct nf_store *s, const char *name)
{
	struct nf_store_op op = { .verb = NF_STORE_DELETE };

	snprintf(op.name, sizeof op.name, "%s", name);
	(void)nf_store_run(s, &op); /* where it stays, a key that opens both takes the newer epoch */
	nf_store_op_deinit(&op);
}

int nf_header_store_save_next(struct nf_store *s, const struct nf_header *h, bool new_root)
{
	char name[NF_STORE_NAME_MAX];
	nf_auto_free void *p = NULL;
	bool clear = true;
	size_t len;

	int r = nf_header_encode(h, &p, &len);
	if (r == 0)
		r = put_new(s, h, p, len, name);
	if (r)
		return r;
	if (!s->no_list)
		r = is_clear(s, h, !new_root, &clear);
	if (r || !clear) {
		take_back(s, name);
		return r ? r : nf_fail(-NF_E_STORE_BUSY);
	}
	(void)put(s, "header/current", p, len); /* where it can be listed, nobody looks at it */
	return 0;
}

/* -- pins ------------------------------------------------------------------------- */

int nf_header_pin_of(const struct nf_header *h, struct nf_header_pin *out)
{
	struct nf_header_pin pin;

	int r = nf_header_commitment(h, pin.commitment);
	if (r)
		return r;
	memcpy(pin.volume_id, nf_header_volume_id(h), sizeof pin.volume_id);
	pin.generation = nf_header_generation(h);
	pin.epoch = nf_header_epoch(h);
	r = nf_header_epoch_commitment(h, pin.epoch, pin.epoch_commitment);
	if (r)
		return r;
	*out = pin;
	return 0;
}

/* H has another root key than was remembered: was it made by one who held the ring? */
static bool is_successor(const struct nf_header_pin *pin, const struct nf_header *h)
{
	uint8_t shown[32];

	return pin->epoch && nf_header_epoch(h) > pin->epoch && nf_header_generation(h) > pin->generation &&
	       nf_header_epoch_commitment(h, pin->epoch, shown) == 0 &&
	       nf_equal_ct(pin->epoch_commitment, shown, sizeof shown);
}

int nf_header_pin_check(const struct nf_header_pin *pin, const struct nf_header *h)
{
	struct nf_header_pin now;

	int r = nf_header_pin_of(h, &now);
	if (r)
		return r;
	if (memcmp(pin->volume_id, now.volume_id, sizeof now.volume_id) != 0 ||
	    (!nf_equal_ct(pin->commitment, now.commitment, sizeof now.commitment) && !is_successor(pin, h)))
		return nf_fail(-NF_E_HEADER_FOREIGN);
	if (now.generation < pin->generation)
		return nf_fail(-NF_E_HEADER_ROLLBACK);
	return 0;
}
