/* What a payload's length and bytes say: padding and the test for entropy. */
#include "base/mem.h"
#include "codec/codec.h"

static unsigned floor_log2(size_t n)
{
	return (unsigned)(sizeof(unsigned long long) * 8 - 1) -
	       (unsigned)__builtin_clzll((unsigned long long)n);
}

size_t nf_padme(size_t n)
{
	if (n < 2)
		return n;
	unsigned e = floor_log2(n);
	unsigned s = floor_log2(e ? e : 1) + 1;
	size_t mask = e > s ? ((size_t)1 << (e - s)) - 1 : 0;
	return (n + mask) & ~mask;
}

/* Enough for a verdict, few enough for a third of a microsecond: of 1024 random bytes the pairs that are equal are more
 * than a seventh too many once in 10^9 times, and such a block is merely tried. */
enum { SAMPLE_STRETCHES = 16, SAMPLE_STRETCH = 64, SAMPLE_MIN = 1024 };

bool nf_looks_compressible(const void *p, size_t len)
{
	const uint8_t *b = p;
	uint32_t seen[256] = { 0 };
	uint64_t sum = 0, n;

	/* Too few bytes to tell from random ones, and little to lose by trying. */
	if (len < SAMPLE_MIN)
		return true;
	if (len <= SAMPLE_STRETCHES * SAMPLE_STRETCH) {
		n = len;
		for (size_t i = 0; i < len; i++)
			seen[b[i]]++;
	} else {
		n = SAMPLE_STRETCHES * SAMPLE_STRETCH;
		size_t step = (len - SAMPLE_STRETCH) / (SAMPLE_STRETCHES - 1);
		/* All are under way before the first is needed. */
		for (size_t s = 0; s < SAMPLE_STRETCHES; s++) {
			__builtin_prefetch(b + s * step);
			__builtin_prefetch(b + s * step + SAMPLE_STRETCH - 1);
		}
		for (size_t s = 0; s < SAMPLE_STRETCHES; s++)
			for (size_t i = 0; i < SAMPLE_STRETCH; i++)
				seen[b[s * step + i]]++;
	}
	for (size_t i = 0; i < NF_ARRAY_LEN(seen); i++)
		sum += (uint64_t)seen[i] * seen[i];
	/* Chance that two bytes are equal, against a seventh more than 1/256 (a collision
	 * entropy of 7.8 bits).  255 n of 256 sum is what random bytes give beyond n * n. */
	uint64_t excess = 256 * sum - 255 * n;
	return excess > n * n + n * n / 7;
}
