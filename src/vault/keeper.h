/* vault/keeper.h - the keeper: one thread that sees to it that what is pinned is in the cache, and that the cache keeps its
 * limits.
 *
 *	pins, or the base, changed
 *	   |
 *	   v   metadata is read, as far as it is not in the cache
 *	 round: all that the pins need is named to the cache, which evicts none of it      keeper.c
 *	   |  complete                    |  something is missing
 *	   v                              v
 *	 rest                           fill: fetched into the cache, behind all else      keeper_fill.c
 *	                                  |  then another round
 *
 * A round costs by the size of what is pinned, so rounds keep a distance of many times the processor time one took.  While the
 * server is away nothing is tried. */
#ifndef NF_VAULT_KEEPER_H
#define NF_VAULT_KEEPER_H

#include "vault/subtree.h"
#include "vault/vault_i.h"

/* n namespace lock;  I set before publication;  w whoever walks */
struct nf_keeper {
	struct nf_vault *v;      /* I */
	struct nf_cond wake;     /* n  everything below that others wait for */
	struct nf_pin *pins;     /* n  ascending by inode */
	size_t nr;               /* n */
	bool walking;            /* n  a round is on */
	bool fetch;              /* n  also if nothing is to be fetched unasked */
	bool filling;            /* n */
	uint64_t wanted, done;   /* n  rounds asked for, of those served */
	uint8_t base_tag[16];    /* n  of the base that the last round was about */
	uint64_t not_before_ns;  /* n  the next round, unless asked for */
	int error;               /* n  why something is missing */
	bool bad_file;           /* I  what was pinned is not known any more */
	uint64_t missing_bytes;  /* n  at the last round */
	uint64_t room_bytes;     /* w  for what is missing ... */
	bool fits;               /* w  ... and it is enough */
	_Atomic uint64_t filled_bytes; /* since then */
	_Atomic bool stop;
	bool stopping;           /* n */
	pthread_t thread;
	bool runs;
};

/* One round over NR pins, whose sums are filled in.  It is left open: nf_cache_keep_end() ends it.  What of it is damaged is
 * passed over, *DAMAGED says that there was some. */
int nf_keeper_round(struct nf_keeper *k, struct nf_pin *pins, size_t nr, _Atomic bool *stop, int *damaged);
/* Fetches what pins miss, up to the room there is.  The first error; -NF_E_CANCELLED. */
int nf_keeper_fill(struct nf_keeper *k, const struct nf_pin *pins, size_t nr, uint64_t room_bytes);

#endif
