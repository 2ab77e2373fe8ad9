#include "base/random.h"

#include "base/assert.h"

#include <errno.h>
#include <sys/random.h>

void nf_random(void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = getrandom(p, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		NF_ASSERT(n > 0);
		p += n;
		len -= (size_t)n;
	}
}

/* xoroshiro128+ with splitmix64 seeding. */
static uint64_t splitmix(uint64_t *x)
{
	uint64_t z = (*x += UINT64_C(0x9e3779b97f4a7c15));
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

void nf_prng_seed(struct nf_prng *p, uint64_t seed)
{
	p->s[0] = splitmix(&seed);
	p->s[1] = splitmix(&seed);
}

static uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

uint64_t nf_prng_next(struct nf_prng *p)
{
	uint64_t a = p->s[0], b = p->s[1], sum = a + b;
	b ^= a;
	p->s[0] = rotl(a, 24) ^ b ^ (b << 16);
	p->s[1] = rotl(b, 37);
	return sum;
}

uint64_t nf_prng_below(struct nf_prng *p, uint64_t bound)
{
	NF_ASSERT(bound > 0);
	return nf_prng_next(p) % bound;
}
