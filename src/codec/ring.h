/* codec/ring.h - inside of a key ring: the derived keys and the idle codecs.
 *
 *	epochs[i]->keys[type]    for each epoch and each type sealed under a master;
 *	                         derived once, in key memory; masters are not kept
 *
 * Epochs are only ever added, at the end: who has read nr_epochs may use those before it without the lock. */
#ifndef NF_CODEC_RING_H
#define NF_CODEC_RING_H

#include "base/lock.h"
#include "codec/crypto.h"

#include <stdatomic.h>

struct nf_codec;

/* I set before publication, then never changed;  l lock;  a set before nr_epochs says it is there, then never changed */
struct nf_ring {
	uint8_t volume_id[NF_VOLUME_ID_BYTES]; /* I */
	uint8_t name_hash_key[16];             /* I */
	struct nf_ring_keys *epochs[NF_EPOCHS_MAX]; /* a  ascending; key memory, owned */
	_Atomic size_t nr_epochs;              /* grows under the lock */
	struct nf_lock lock;
	struct nf_codec *idle; /* l  linked by next_idle */
	size_t nr_idle;        /* l */
	size_t nr_out;         /* l  handed out and not put back */
};

struct nf_ring_keys {
	uint32_t epoch;
	struct nf_xaes_key keys[NF_SEAL_NR]; /* unused at types without a label */
};

/* The key of TYPE in EPOCH, borrowed; NULL if there is none. */
const struct nf_xaes_key *nf_ring_key(const struct nf_ring *r, enum nf_seal_type type,
				      uint32_t epoch);
/* Frees the idle codecs; codec.c has it. */
void nf_codec_free_idle(struct nf_ring *r);

#endif
