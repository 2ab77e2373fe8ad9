/* base/random.h - random bytes from the kernel, and a seeded generator for tests
 * and jitter that must not be used for keys, nonces or names. */
#ifndef NF_BASE_RANDOM_H
#define NF_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Fills BUF; aborts if the kernel has no randomness to give (it never says so
 * after boot). */
void nf_random(void *buf, size_t len);

struct nf_prng {
	uint64_t s[2];
};
void nf_prng_seed(struct nf_prng *p, uint64_t seed);
uint64_t nf_prng_next(struct nf_prng *p);
/* Uniform in [0, bound); bound > 0. */
uint64_t nf_prng_below(struct nf_prng *p, uint64_t bound);

#endif
