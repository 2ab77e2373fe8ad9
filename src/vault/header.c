/* The header as a whole.
 *
 *	decode --> locked (bytes kept for the MAC) --unlock--> unlocked (root key, ring, labels)
 *	new ---------------------------------------------------^  |
 *	encode: slots, ring sealed afresh under the root key, MAC <'
 */
#include "vault/header.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "codec/keymem.h"
#include "vault/slot.h"

enum {
	FIXED_BYTES = 40,
	MAC_BYTES = 32,
	RING_EPOCH_BYTES = 4 + 8 + NF_KEY_BYTES,
	RING_BYTES_MIN = NF_SEAL_OVERHEAD + 2 + RING_EPOCH_BYTES + 16 + 1,
	RING_PLAIN_MAX = 2 + NF_EPOCHS_MAX * RING_EPOCH_BYTES + 16 + 1 +
			 NF_SLOTS_MAX * (NF_SLOT_ID_BYTES + 1 + 255),
};

static const uint8_t magic[8] = { 'F', 'O', 'L', 'I', 'O', 'F', 'S', 1 };

/* In key memory. */
struct header_keys {
	uint8_t root[NF_KEY_BYTES];
	struct nf_slot_key slot; /* what it was opened by, */
	bool by_slot;            /* if this is set */
	uint8_t name_hash_key[16];
	size_t nr_epochs;
	struct nf_ring_epoch epochs[NF_EPOCHS_MAX];
};

struct nf_header {
	uint8_t volume_id[NF_VOLUME_ID_BYTES];
	uint64_t generation;
	struct nf_slot slots[NF_SLOTS_MAX];
	size_t nr_slots;
	struct header_keys *keys; /* NULL: locked */
	uint8_t *raw;             /* as decoded; NULL of a new header */
	size_t raw_len;
};

static void keys_free_p(struct header_keys **k) { nf_keymem_free(*k, sizeof **k); }
static void header_free_p(struct nf_header **h) { nf_header_free(*h); }

void nf_header_free(struct nf_header *h)
{
	if (!h)
		return;
	nf_keymem_free(h->keys, sizeof *h->keys);
	free(h->raw);
	free(h);
}

static void add_epoch(struct header_keys *k)
{
	struct nf_ring_epoch *e = &k->epochs[k->nr_epochs];

	e->epoch = k->nr_epochs ? e[-1].epoch + 1 : 1;
	e->created_s = (uint64_t)nf_clock_real().tv_sec;
	nf_random(e->master, sizeof e->master);
	k->nr_epochs++;
}

int nf_header_new(struct nf_header **out)
{
	nf_auto(header_free_p) struct nf_header *h = calloc(1, sizeof *h);
	if (!h)
		return nf_fail(-ENOMEM);
	h->keys = nf_keymem_alloc(sizeof *h->keys);
	if (!h->keys)
		return nf_fail(-ENOMEM);
	nf_random(h->volume_id, sizeof h->volume_id);
	h->generation = 1;
	nf_random(h->keys->root, sizeof h->keys->root);
	nf_random(h->keys->name_hash_key, sizeof h->keys->name_hash_key);
	add_epoch(h->keys);
	*out = nf_steal(&h);
	return 0;
}

/* -- slots ------------------------------------------------------------------------ */

/* NR if there is none. */
static size_t slot_index(const struct nf_slot *slots, size_t nr, const uint8_t *id)
{
	size_t i = 0;

	while (i < nr && memcmp(nf_slot_id(&slots[i]), id, NF_SLOT_ID_BYTES) != 0)
		i++;
	return i;
}

static struct nf_slot *find_slot(struct nf_slot *slots, size_t nr, const uint8_t *id)
{
	size_t i = slot_index(slots, nr, id);
	return i < nr ? &slots[i] : NULL;
}

static size_t count_live(const struct nf_slot *slots, size_t nr)
{
	size_t live = 0;

	for (size_t i = 0; i < nr; i++)
		live += nf_slot_is_live(&slots[i]);
	return live;
}

/* Makes room by forgetting the oldest tombstone: it has done its work in every merge
 * that could still happen. */
static void drop_oldest_tombstone(struct nf_slot *slots, size_t *nr)
{
	size_t oldest = SIZE_MAX;

	for (size_t i = 0; i < *nr; i++)
		if (!nf_slot_is_live(&slots[i]) &&
		    (oldest == SIZE_MAX ||
		     nf_slot_created_s(&slots[i]) < nf_slot_created_s(&slots[oldest])))
			oldest = i;
	NF_ASSERT(oldest != SIZE_MAX);
	memmove(&slots[oldest], &slots[oldest + 1], (*nr - oldest - 1) * sizeof *slots);
	(*nr)--;
}

int nf_header_slot_add(struct nf_header *h, const struct nf_secret *secret,
		       const struct nf_kdf_params *kdf, const char *label,
		       uint8_t id_out[NF_SLOT_ID_BYTES])
{
	struct nf_slot s;

	NF_ASSERT(h->keys);
	if (count_live(h->slots, h->nr_slots) >= NF_SLOTS_LIVE_MAX)
		return nf_fail(-ENOSPC);
	int r = nf_slot_make(&s, h->volume_id, secret, kdf, h->keys->root, label ? label : "");
	if (r)
		return r;
	if (h->nr_slots == NF_SLOTS_MAX)
		drop_oldest_tombstone(h->slots, &h->nr_slots);
	h->slots[h->nr_slots++] = s;
	if (id_out)
		memcpy(id_out, nf_slot_id(&s), NF_SLOT_ID_BYTES);
	return 0;
}

int nf_header_slot_remove(struct nf_header *h, const uint8_t id[NF_SLOT_ID_BYTES])
{
	NF_ASSERT(h->keys);
	struct nf_slot *s = find_slot(h->slots, h->nr_slots, id);
	if (!s || !nf_slot_is_live(s))
		return nf_fail(-ENOENT);
	if (count_live(h->slots, h->nr_slots) == 1)
		return nf_fail(-EBUSY);
	nf_slot_bury(s);
	return 0;
}

size_t nf_header_slots(const struct nf_header *h, struct nf_slot_info *out, size_t max)
{
	for (size_t i = 0; i < h->nr_slots && i < max; i++)
		nf_slot_to_info(&h->slots[i], &out[i]);
	return h->nr_slots;
}

int nf_header_rekey(struct nf_header *h, const uint8_t keep[NF_SLOT_ID_BYTES])
{
	struct nf_slot *old = keep ? find_slot(h->slots, h->nr_slots, keep) : NULL, again;
	uint8_t root[NF_KEY_BYTES];

	NF_ASSERT(h->keys);
	if (h->keys->nr_epochs == NF_EPOCHS_MAX)
		return nf_fail(-ENOSPC);
	if (keep && (!old || !nf_slot_is_live(old) || !h->keys->by_slot))
		return nf_fail(-ENOENT);
	nf_random(root, sizeof root);
	int r = keep ? nf_slot_make_again(&again, h->volume_id, old, &h->keys->slot, root) : 0;
	if (r == 0) {
		memcpy(h->keys->root, root, sizeof root);
		add_epoch(h->keys);
		for (size_t i = 0; i < h->nr_slots; i++)
			if (nf_slot_is_live(&h->slots[i]))
				nf_slot_bury(&h->slots[i]);
		if (keep && h->nr_slots == NF_SLOTS_MAX)
			drop_oldest_tombstone(h->slots, &h->nr_slots);
		if (keep)
			h->slots[h->nr_slots++] = again;
	}
	nf_wipe(root, sizeof root);
	return r;
}

/* -- decoding --------------------------------------------------------------------- */

static int decode_slots(struct nf_rd *rd, struct nf_header *h, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		struct nf_slot *s = &h->slots[i];
		nf_rd_copy(rd, s->raw, sizeof s->raw);
		int r = nf_rd_error(rd, false);
		if (!r)
			r = nf_slot_check(s->raw);
		if (r)
			return r;
		if (find_slot(h->slots, i, nf_slot_id(s)))
			return nf_fail(-NF_E_FORMAT_BAD);
	}
	h->nr_slots = nr;
	return count_live(h->slots, nr) <= NF_SLOTS_LIVE_MAX ? 0 : nf_fail(-NF_E_FORMAT_BAD);
}

int nf_header_decode(const void *p, size_t len, struct nf_header **out)
{
	struct nf_rd rd = nf_rd_of(p, len);

	if (len > NF_HEADER_BYTES_MAX)
		return nf_fail(-NF_E_FORMAT_BAD);
	nf_auto(header_free_p) struct nf_header *h = calloc(1, sizeof *h);
	if (!h)
		return nf_fail(-ENOMEM);
	const uint8_t *m = nf_rd_bytes(&rd, sizeof magic);
	if (!m || memcmp(m, magic, sizeof magic) != 0)
		return nf_fail(-NF_E_FORMAT_BAD);
	uint16_t format = nf_rd_u16(&rd), suite = nf_rd_u16(&rd);
	if (!rd.bad && (format != 1 || suite != 1))
		return nf_fail(-NF_E_FORMAT_UNKNOWN);
	nf_rd_copy(&rd, h->volume_id, sizeof h->volume_id);
	h->generation = nf_rd_u64(&rd);
	size_t nr_slots = nf_rd_u8(&rd);
	uint32_t zero = nf_rd_u8(&rd) | nf_rd_u16(&rd);
	if (rd.bad || zero || nr_slots > NF_SLOTS_MAX || h->generation < 1 ||
	    h->generation > UINT32_MAX)
		return nf_fail(-NF_E_FORMAT_BAD);
	int r = decode_slots(&rd, h, nr_slots);
	if (r)
		return r;
	size_t ring_len = nf_rd_u32(&rd);
	if (rd.bad || ring_len < RING_BYTES_MIN || ring_len > RING_PLAIN_MAX + NF_SEAL_OVERHEAD ||
	    nf_rd_left(&rd) != ring_len + MAC_BYTES)
		return nf_fail(-NF_E_FORMAT_BAD);
	h->raw = malloc(len);
	if (!h->raw)
		return nf_fail(-ENOMEM);
	memcpy(h->raw, p, len);
	h->raw_len = len;
	*out = nf_steal(&h);
	return 0;
}

/* -- unlocking -------------------------------------------------------------------- */

static int root_subkey(const struct nf_header *h, const uint8_t root[NF_KEY_BYTES],
		       const char *label, uint8_t out[NF_KEY_BYTES])
{
	return nf_hkdf(root, NF_KEY_BYTES, h->volume_id, sizeof h->volume_id, label, out,
		       NF_KEY_BYTES);
}

static int compute_mac(const struct nf_header *h, const uint8_t root[NF_KEY_BYTES], const void *p,
		       size_t len, uint8_t mac[MAC_BYTES])
{
	uint8_t key[NF_KEY_BYTES];

	int r = root_subkey(h, root, "foliofs 1 header mac", key);
	if (!r)
		r = nf_hmac_sha256(key, p, len, mac);
	nf_wipe(key, sizeof key);
	return r;
}

static void ring_aad(const struct nf_header *h, uint8_t aad[NF_AAD_COMMON_BYTES + 8])
{
	nf_aad_common(aad, NF_SEAL_RING, 0, h->volume_id);
	nf_put_le64(aad + NF_AAD_COMMON_BYTES, h->generation);
}

static int parse_epochs(struct nf_rd *rd, struct header_keys *k)
{
	size_t nr = nf_rd_u16(rd);

	if (nr < 1 || nr > NF_EPOCHS_MAX)
		return nf_fail(-NF_E_FORMAT_BAD);
	for (size_t i = 0; i < nr; i++) {
		struct nf_ring_epoch *e = &k->epochs[i];
		e->epoch = nf_rd_u32(rd);
		e->created_s = nf_rd_u64(rd);
		nf_rd_copy(rd, e->master, sizeof e->master);
		if (e->epoch <= (i ? e[-1].epoch : 0))
			return nf_fail(-NF_E_FORMAT_BAD);
	}
	k->nr_epochs = nr;
	nf_rd_copy(rd, k->name_hash_key, sizeof k->name_hash_key);
	return nf_rd_error(rd, false);
}

/* Sets H's labels; a label stands for a live slot, once. */
static int parse_labels(struct nf_rd *rd, struct nf_header *h)
{
	for (size_t nr = nf_rd_u8(rd); nr > 0; nr--) {
		const uint8_t *id = nf_rd_bytes(rd, NF_SLOT_ID_BYTES);
		size_t len = nf_rd_u8(rd);
		const uint8_t *text = nf_rd_bytes(rd, len);
		if (rd->bad || len == 0 || memchr(text, 0, len))
			return nf_fail(-NF_E_FORMAT_BAD);
		struct nf_slot *s = find_slot(h->slots, h->nr_slots, id);
		if (!s || !nf_slot_is_live(s) || s->label[0])
			return nf_fail(-NF_E_FORMAT_BAD);
		memcpy(s->label, text, len);
	}
	return nf_rd_error(rd, true);
}

static void clear_labels(struct nf_header *h)
{
	for (size_t i = 0; i < h->nr_slots; i++)
		memset(h->slots[i].label, 0, sizeof h->slots[i].label);
}

static int open_ring(struct nf_header *h, struct header_keys *k)
{
	size_t off = FIXED_BYTES + h->nr_slots * NF_SLOT_BYTES;
	size_t sealed_len = nf_get_le32(h->raw + off), plain_len = sealed_len - NF_SEAL_OVERHEAD;
	uint8_t key[NF_KEY_BYTES], aad[NF_AAD_COMMON_BYTES + 8];

	uint8_t *plain = nf_keymem_alloc(plain_len);
	if (!plain)
		return nf_fail(-ENOMEM);
	ring_aad(h, aad);
	int r = root_subkey(h, k->root, "foliofs 1 ring", key);
	if (!r)
		r = nf_xaes_open(key, aad, sizeof aad, h->raw + off + 4, sealed_len, plain);
	if (!r) {
		struct nf_rd rd = nf_rd_of(plain, plain_len);
		r = parse_epochs(&rd, k);
		if (!r)
			r = parse_labels(&rd, h);
		if (r)
			clear_labels(h);
	}
	nf_wipe(key, sizeof key);
	nf_keymem_free(plain, plain_len);
	return r;
}

int nf_header_unlock_root(struct nf_header *h, const uint8_t root_key[NF_KEY_BYTES])
{
	uint8_t mac[MAC_BYTES];

	if (h->keys)
		return nf_fail(-EALREADY);
	nf_auto(keys_free_p) struct header_keys *k = nf_keymem_alloc(sizeof *k);
	if (!k)
		return nf_fail(-ENOMEM);
	memcpy(k->root, root_key, sizeof k->root);
	size_t body_len = h->raw_len - MAC_BYTES;
	int r = compute_mac(h, k->root, h->raw, body_len, mac);
	if (!r && !nf_equal_ct(mac, h->raw + body_len, MAC_BYTES))
		r = nf_fail(-NF_E_XFORM_BAD_TAG);
	if (!r)
		r = open_ring(h, k);
	if (!r)
		h->keys = nf_steal(&k);
	return r;
}

static int unlock_by(struct nf_header *h, const uint8_t root[NF_KEY_BYTES], const struct nf_slot_key *key)
{
	int r = nf_header_unlock_root(h, root);

	if (r == 0) {
		h->keys->slot = *key;
		h->keys->by_slot = true;
	}
	return r;
}

int nf_header_unlock(struct nf_header *h, const struct nf_secret *secret,
		     uint8_t slot_id[NF_SLOT_ID_BYTES])
{
	struct nf_slot_key key = { 0 };
	uint8_t root[NF_KEY_BYTES];
	int r = -NF_E_KEY_WRONG;
	size_t i;

	if (h->keys)
		return nf_fail(-EALREADY);
	for (i = 0; i < h->nr_slots && r == -NF_E_KEY_WRONG; i++)
		if (nf_slot_is_live(&h->slots[i]) && nf_slot_kind(&h->slots[i]) == secret->kind)
			r = nf_slot_open(&h->slots[i], h->volume_id, secret, root, &key);
	if (!r)
		r = unlock_by(h, root, &key);
	nf_wipe(root, sizeof root);
	nf_wipe(&key, sizeof key);
	if (!r && slot_id)
		memcpy(slot_id, nf_slot_id(&h->slots[i - 1]), NF_SLOT_ID_BYTES);
	return nf_fail(r);
}

/* The root key, of the live slot that KEY opens. */
static int open_slot(const struct nf_header *h, const struct nf_slot_key *key, uint8_t root[NF_KEY_BYTES])
{
	int r = -NF_E_KEY_WRONG;

	for (size_t i = 0; i < h->nr_slots && r == -NF_E_KEY_WRONG; i++)
		if (nf_slot_is_live(&h->slots[i]))
			r = nf_slot_open_by_key(&h->slots[i], h->volume_id, key, root);
	return r;
}

int nf_header_unlock_slot(struct nf_header *h, const struct nf_slot_key *key)
{
	uint8_t root[NF_KEY_BYTES];

	if (h->keys)
		return nf_fail(-EALREADY);
	int r = open_slot(h, key, root);
	if (!r)
		r = unlock_by(h, root, key);
	nf_wipe(root, sizeof root);
	return nf_fail(r);
}

bool nf_header_slot_key(const struct nf_header *h, struct nf_slot_key *out)
{
	NF_ASSERT(h->keys);
	if (h->keys->by_slot)
		*out = h->keys->slot;
	return h->keys->by_slot;
}

void nf_header_hand_on_slot(struct nf_header *h, const struct nf_header *from)
{
	NF_ASSERT(h->keys && from->keys);
	h->keys->slot = from->keys->slot;
	h->keys->by_slot = from->keys->by_slot;
}

bool nf_header_has_slot(const struct nf_header *h, const struct nf_slot_key *key)
{
	uint8_t root[NF_KEY_BYTES];

	int r = open_slot(h, key, root);
	nf_wipe(root, sizeof root);
	return r == 0;
}

bool nf_header_is_unlocked(const struct nf_header *h) { return h->keys != NULL; }

void nf_header_root_key(const struct nf_header *h, uint8_t out[NF_KEY_BYTES])
{
	NF_ASSERT(h->keys);
	memcpy(out, h->keys->root, NF_KEY_BYTES);
}

int nf_header_commitment(const struct nf_header *h, uint8_t out[32])
{
	NF_ASSERT(h->keys);
	return nf_sha256(h->keys->root, NF_KEY_BYTES, out);
}

uint32_t nf_header_epoch(const struct nf_header *h)
{
	NF_ASSERT(h->keys);
	return h->keys->epochs[h->keys->nr_epochs - 1].epoch;
}

size_t nf_header_nr_epochs(const struct nf_header *h)
{
	NF_ASSERT(h->keys);
	return h->keys->nr_epochs;
}

int nf_header_epoch_commitment(const struct nf_header *h, uint32_t epoch, uint8_t out[32])
{
	NF_ASSERT(h->keys);
	for (size_t i = 0; i < h->keys->nr_epochs; i++)
		if (h->keys->epochs[i].epoch == epoch)
			return root_subkey(h, h->keys->epochs[i].master, "foliofs 1 epoch", out);
	return nf_fail(-NF_E_KEY_EPOCH_UNKNOWN);
}

int nf_header_ring(const struct nf_header *h, struct nf_ring **out)
{
	NF_ASSERT(h->keys);
	return nf_ring_new(h->volume_id, h->keys->epochs, h->keys->nr_epochs,
			   h->keys->name_hash_key, out);
}

int nf_header_extend_ring(const struct nf_header *h, struct nf_ring *ring)
{
	NF_ASSERT(h->keys);
	return nf_ring_extend(ring, h->volume_id, h->keys->epochs, h->keys->nr_epochs, h->keys->name_hash_key);
}

/* -- encoding --------------------------------------------------------------------- */

static size_t write_ring(const struct nf_header *h, uint8_t *out)
{
	uint8_t *q = out, *nr_labels;

	nf_put_le16(q, (uint16_t)h->keys->nr_epochs);
	q += 2;
	for (size_t i = 0; i < h->keys->nr_epochs; i++, q += RING_EPOCH_BYTES) {
		const struct nf_ring_epoch *e = &h->keys->epochs[i];
		nf_put_le32(q, e->epoch);
		nf_put_le64(q + 4, e->created_s);
		memcpy(q + 12, e->master, NF_KEY_BYTES);
	}
	memcpy(q, h->keys->name_hash_key, 16);
	nr_labels = q + 16;
	*nr_labels = 0;
	q += 17;
	for (size_t i = 0; i < h->nr_slots; i++) {
		size_t len = strlen(h->slots[i].label);
		if (len == 0)
			continue;
		memcpy(q, nf_slot_id(&h->slots[i]), NF_SLOT_ID_BYTES);
		q[16] = (uint8_t)len;
		memcpy(q + 17, h->slots[i].label, len);
		q += 17 + len;
		(*nr_labels)++;
	}
	return (size_t)(q - out);
}

static int append_ring(const struct nf_header *h, struct nf_buf *b)
{
	uint8_t key[NF_KEY_BYTES], nonce[NF_NONCE_BYTES], aad[NF_AAD_COMMON_BYTES + 8];

	uint8_t *plain = nf_keymem_alloc(RING_PLAIN_MAX);
	if (!plain)
		return nf_fail(-ENOMEM);
	size_t len = write_ring(h, plain);
	nf_buf_u32(b, (uint32_t)(len + NF_SEAL_OVERHEAD));
	ring_aad(h, aad);
	nf_random(nonce, sizeof nonce);
	int r = nf_buf_reserve(b, len + NF_SEAL_OVERHEAD) ? 0 : nf_fail(-ENOMEM);
	if (!r)
		r = root_subkey(h, h->keys->root, "foliofs 1 ring", key);
	if (!r)
		r = nf_xaes_seal(key, nonce, aad, sizeof aad, plain, len, b->p + b->len);
	if (!r)
		b->len += len + NF_SEAL_OVERHEAD;
	nf_wipe(key, sizeof key);
	nf_keymem_free(plain, RING_PLAIN_MAX);
	return r;
}

int nf_header_encode(const struct nf_header *h, void **out, size_t *len)
{
	nf_auto(nf_buf_deinit) struct nf_buf b = NF_BUF_INIT;
	uint8_t mac[MAC_BYTES];

	NF_ASSERT(h->keys);
	/* Nobody could ever open it. */
	if (count_live(h->slots, h->nr_slots) == 0)
		return nf_fail(-EINVAL);
	nf_buf_bytes(&b, magic, sizeof magic);
	nf_buf_u16(&b, 1); /* format */
	nf_buf_u16(&b, 1); /* suite */
	nf_buf_bytes(&b, h->volume_id, sizeof h->volume_id);
	nf_buf_u64(&b, h->generation);
	nf_buf_u8(&b, (uint8_t)h->nr_slots);
	nf_buf_zeros(&b, 3);
	for (size_t i = 0; i < h->nr_slots; i++)
		nf_buf_bytes(&b, h->slots[i].raw, NF_SLOT_BYTES);
	int r = append_ring(h, &b);
	if (!r)
		r = nf_buf_error(&b);
	if (!r)
		r = compute_mac(h, h->keys->root, b.p, b.len, mac);
	if (r)
		return r;
	nf_buf_bytes(&b, mac, sizeof mac);
	r = nf_buf_error(&b);
	if (r)
		return r;
	*len = b.len;
	*out = nf_steal(&b.p);
	return 0;
}

const uint8_t *nf_header_volume_id(const struct nf_header *h) { return h->volume_id; }

uint64_t nf_header_generation(const struct nf_header *h) { return h->generation; }

void nf_header_set_generation(struct nf_header *h, uint64_t generation)
{
	/* Only encoding looks at it from here on: the bytes as decoded were checked. */
	NF_ASSERT(h->keys && generation >= 1 && generation <= UINT32_MAX);
	h->generation = generation;
}

/* -- merging ---------------------------------------------------------------------- */

static bool one_vault(const struct nf_header *a, const struct nf_header *b)
{
	return memcmp(a->volume_id, b->volume_id, sizeof a->volume_id) == 0 &&
	       nf_equal_ct(a->keys->root, b->keys->root, NF_KEY_BYTES);
}

static bool one_ring(const struct header_keys *a, const struct header_keys *b)
{
	if (a->nr_epochs != b->nr_epochs || !nf_equal_ct(a->name_hash_key, b->name_hash_key, 16))
		return false;
	for (size_t i = 0; i < a->nr_epochs; i++)
		if (a->epochs[i].epoch != b->epochs[i].epoch ||
		    !nf_equal_ct(a->epochs[i].master, b->epochs[i].master, NF_KEY_BYTES))
			return false;
	return true;
}

/* Which of two slots with one id stays: a tombstone, then the smaller bytes, then the
 * smaller label.  The same whichever side asks. */
static bool wins(const struct nf_slot *a, const struct nf_slot *b)
{
	if (nf_slot_is_live(a) != nf_slot_is_live(b))
		return !nf_slot_is_live(a);
	int c = memcmp(a->raw, b->raw, sizeof a->raw);
	return c ? c < 0 : strcmp(a->label, b->label) < 0;
}

static int by_age(const void *x, const void *y)
{
	const struct nf_slot *a = x, *b = y;

	if (nf_slot_created_s(a) != nf_slot_created_s(b))
		return nf_slot_created_s(a) < nf_slot_created_s(b) ? -1 : 1;
	return memcmp(nf_slot_id(a), nf_slot_id(b), NF_SLOT_ID_BYTES);
}

int nf_header_merge(struct nf_header *a, const struct nf_header *b)
{
	NF_ASSERT(a->keys && b->keys);
	if (!one_vault(a, b))
		return nf_fail(-NF_E_HEADER_FOREIGN);
	if (!one_ring(a->keys, b->keys))
		return nf_fail(-NF_E_FORMAT_BAD);
	nf_auto_free struct nf_slot *all = calloc(NF_SLOTS_MAX * 2, sizeof *all);
	if (!all)
		return nf_fail(-ENOMEM);
	size_t nr = a->nr_slots, live = 0;
	memcpy(all, a->slots, nr * sizeof *all);
	for (size_t i = 0; i < b->nr_slots; i++) {
		struct nf_slot *s = find_slot(all, nr, nf_slot_id(&b->slots[i]));
		if (!s)
			all[nr++] = b->slots[i];
		else if (wins(&b->slots[i], s))
			*s = b->slots[i];
	}
	qsort(all, nr, sizeof *all, by_age);
	/* Two devices may each have filled the last free places: the older slots stay. */
	for (size_t i = 0; i < nr; i++)
		if (nf_slot_is_live(&all[i]) && ++live > NF_SLOTS_LIVE_MAX)
			nf_slot_bury(&all[i]);
	while (nr > NF_SLOTS_MAX)
		drop_oldest_tombstone(all, &nr);
	memcpy(a->slots, all, nr * sizeof *all);
	a->nr_slots = nr;
	return 0;
}

bool nf_header_same_slots(const struct nf_header *a, const struct nf_header *b)
{
	if (a->nr_slots != b->nr_slots)
		return false;
	for (size_t i = 0; i < a->nr_slots; i++) {
		const struct nf_slot *s = &a->slots[i];
		size_t at = slot_index(b->slots, b->nr_slots, nf_slot_id(s));
		if (at == b->nr_slots || memcmp(s->raw, b->slots[at].raw, sizeof s->raw) != 0 ||
		    strcmp(s->label, b->slots[at].label) != 0)
			return false;
	}
	return true;
}

void nf_header_to_text(const struct nf_header *h, struct nf_text *t)
{
	static const char *const kinds[] = { "?", "passphrase", "keyfile", "recovery" };

	nf_textf(t, "header volume=");
	nf_text_hex(t, h->volume_id, sizeof h->volume_id);
	nf_textf(t, " generation=%llu %s", (unsigned long long)h->generation,
		 h->keys ? "unlocked" : "locked");
	if (h->keys)
		nf_textf(t, " epochs=%zu", h->keys->nr_epochs);
	for (size_t i = 0; i < h->nr_slots; i++) {
		nf_textf(t, "\n slot id=");
		nf_text_hex(t, nf_slot_id(&h->slots[i]), NF_SLOT_ID_BYTES);
		nf_textf(t, " kind=%s%s label=%s", kinds[nf_slot_kind(&h->slots[i])],
			 nf_slot_is_live(&h->slots[i]) ? "" : " tombstone", h->slots[i].label);
	}
	nf_textf(t, "\n");
}
