/* base/hash.h - SipHash-2-4 (keyed) and a plain 64-bit mixer. */
#ifndef NF_BASE_HASH_H
#define NF_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t nf_siphash(const uint8_t key[16], const void *data, size_t len);
static inline uint64_t nf_mix64(uint64_t x)
{
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return x ^ (x >> 32);
}

#endif
