#include "codec/ring.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"
#include "codec/keymem.h"

/* The types whose keys come from an epoch's master. */
static const char *const labels[NF_SEAL_NR] = {
	[NF_SEAL_BLOCK] = "foliofs 1 block",     [NF_SEAL_NODE] = "foliofs 1 node",
	[NF_SEAL_DELTA] = "foliofs 1 delta",     [NF_SEAL_HEAD] = "foliofs 1 head",
	[NF_SEAL_XATTR] = "foliofs 1 xattr",     [NF_SEAL_JOURNAL] = "foliofs 1 journal",
	[NF_SEAL_STATE] = "foliofs 1 state",
};

void nf_aad_common(uint8_t out[NF_AAD_COMMON_BYTES], enum nf_seal_type type, uint32_t epoch,
		   const uint8_t volume_id[NF_VOLUME_ID_BYTES])
{
	out[0] = (uint8_t)type;
	out[1] = 1; /* format */
	nf_put_le16(out + 2, 1); /* suite */
	nf_put_le32(out + 4, epoch);
	memcpy(out + 8, volume_id, NF_VOLUME_ID_BYTES);
}

static bool epochs_ascend(const struct nf_ring_epoch *epochs, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (epochs[i].epoch <= (i ? epochs[i - 1].epoch : 0))
			return false;
	return nr >= 1 && nr <= NF_EPOCHS_MAX;
}

static int derive_epoch(struct nf_xaes *x, const uint8_t volume_id[NF_VOLUME_ID_BYTES],
			const struct nf_ring_epoch *e, struct nf_ring_keys *out)
{
	uint8_t key[NF_KEY_BYTES];
	int r = 0;

	out->epoch = e->epoch;
	for (unsigned t = 0; t < NF_SEAL_NR && !r; t++) {
		if (!labels[t])
			continue;
		r = nf_hkdf(e->master, sizeof e->master, volume_id, NF_VOLUME_ID_BYTES, labels[t],
			    key, sizeof key);
		if (!r)
			r = nf_xaes_key_init(x, &out->keys[t], key);
	}
	nf_wipe(key, sizeof key);
	return r;
}

/* Adds those that are newer than what is there.  Deriving takes time: not under the lock. */
static int add_epochs(struct nf_ring *ring, const struct nf_ring_epoch *epochs, size_t nr)
{
	nf_auto(nf_xaes_deinit) struct nf_xaes x = { 0 };
	int r = nf_xaes_init(&x);

	for (size_t i = 0; i < nr && !r; i++) {
		size_t have = atomic_load(&ring->nr_epochs);
		if (have && epochs[i].epoch <= ring->epochs[have - 1]->epoch)
			continue;
		struct nf_ring_keys *keys = nf_keymem_alloc(sizeof *keys);
		r = keys ? derive_epoch(&x, ring->volume_id, &epochs[i], keys) : -ENOMEM;
		nf_lock_take(&ring->lock);
		/* Somebody else may have been faster. */
		if (!r && have == ring->nr_epochs && have < NF_EPOCHS_MAX) {
			ring->epochs[have] = nf_steal(&keys);
			atomic_store(&ring->nr_epochs, have + 1);
		}
		nf_lock_drop(&ring->lock);
		nf_keymem_free(keys, sizeof *keys);
	}
	return nf_fail(r);
}

static void ring_free_p(struct nf_ring **r) { nf_ring_free(*r); }

int nf_ring_new(const uint8_t volume_id[NF_VOLUME_ID_BYTES], const struct nf_ring_epoch *epochs,
		size_t nr, const uint8_t name_hash_key[16], struct nf_ring **out)
{
	if (!epochs_ascend(epochs, nr))
		return nf_fail(-NF_E_FORMAT_BAD);
	nf_auto(ring_free_p) struct nf_ring *ring = calloc(1, sizeof *ring);
	if (!ring)
		return nf_fail(-ENOMEM);
	nf_lock_init(&ring->lock, NF_RANK_LEAF);
	memcpy(ring->volume_id, volume_id, sizeof ring->volume_id);
	memcpy(ring->name_hash_key, name_hash_key, sizeof ring->name_hash_key);
	int r = add_epochs(ring, epochs, nr);
	if (r < 0)
		return r;
	*out = nf_steal(&ring);
	return 0;
}

int nf_ring_extend(struct nf_ring *ring, const uint8_t volume_id[NF_VOLUME_ID_BYTES], const struct nf_ring_epoch *epochs,
		   size_t nr, const uint8_t name_hash_key[16])
{
	if (!epochs_ascend(epochs, nr))
		return nf_fail(-NF_E_FORMAT_BAD);
	if (memcmp(volume_id, ring->volume_id, sizeof ring->volume_id) != 0 ||
	    !nf_equal_ct(name_hash_key, ring->name_hash_key, sizeof ring->name_hash_key))
		return nf_fail(-NF_E_HEADER_FOREIGN);
	return add_epochs(ring, epochs, nr);
}

const struct nf_xaes_key *nf_ring_key(const struct nf_ring *r, enum nf_seal_type type,
				      uint32_t epoch)
{
	if ((unsigned)type >= NF_SEAL_NR || !labels[type])
		return NULL;
	/* From the newest: nearly everything is sealed under it. */
	for (size_t i = atomic_load(&r->nr_epochs); i-- > 0;)
		if (r->epochs[i]->epoch == epoch)
			return &r->epochs[i]->keys[type];
	return NULL;
}

uint32_t nf_ring_newest(const struct nf_ring *r) { return r->epochs[atomic_load(&r->nr_epochs) - 1]->epoch; }

const uint8_t *nf_ring_volume_id(const struct nf_ring *r) { return r->volume_id; }

uint64_t nf_ring_name_hash(const struct nf_ring *r, const char *name, size_t len)
{
	uint64_t h = nf_siphash(r->name_hash_key, name, len) >> 2;
#ifdef NF_SMALL_HASH
	h &= 63;
#endif
	/* 0 is no cookie, 1 and 2 are "." and "..". */
	return h < 3 ? 3 : h;
}

void nf_ring_free(struct nf_ring *r)
{
	if (!r)
		return;
	NF_ASSERT(r->nr_out == 0);
	nf_codec_free_idle(r);
	nf_lock_deinit(&r->lock);
	for (size_t i = 0; i < r->nr_epochs; i++)
		nf_keymem_free(r->epochs[i], sizeof *r->epochs[i]);
	nf_wipe(r, sizeof *r);
	free(r);
}
