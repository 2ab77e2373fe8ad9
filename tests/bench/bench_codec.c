/* How fast the codec seals and opens, and what block size does to the ratio.
 *
 *	bench_codec [FILE...]
 *
 * Made-up text and random bytes; with FILEs also what they hold.  One thread. */
#include "base/clock.h"
#include "base/random.h"
#include "codec/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DATA_BYTES = 8 << 20 };

/* Words with a skewed frequency and numbers in between: about what logs and prose are. */
static void make_text(uint8_t *p, size_t len)
{
	static char words[4096][12];
	struct nf_prng g;
	size_t n = 0;

	nf_prng_seed(&g, 1);
	for (size_t i = 0; i < 4096; i++) {
		size_t letters = 2 + nf_prng_below(&g, 9);
		for (size_t j = 0; j < letters; j++)
			words[i][j] = (char)('a' + nf_prng_below(&g, 1 + nf_prng_below(&g, 26)));
	}
	while (n < len) {
		char w[16];
		uint64_t k = nf_prng_below(&g, 1 + nf_prng_below(&g, 1 + nf_prng_below(&g, 4096)));
		int l = nf_prng_below(&g, 20) ? snprintf(w, sizeof w, "%s ", words[k])
					      : snprintf(w, sizeof w, "%u\n", (unsigned)nf_prng_below(&g, 99999));
		size_t c = (size_t)l < len - n ? (size_t)l : len - n;
		memcpy(p + n, w, c);
		n += c;
	}
}

static double mb_per_s(size_t bytes, uint64_t ns) { return (double)bytes * 1e3 / (double)(ns ? ns : 1); }

static void measure(struct nf_codec *c, const char *name, const uint8_t *data, size_t len, size_t block)
{
	size_t nr = len / block, cap = nf_codec_bound(block), total = 0;
	uint8_t *out = malloc(nr * cap), *back = malloc(block);
	struct nf_sealed_info *info = calloc(nr, sizeof *info);
	uint64_t seal_ns = UINT64_MAX, open_ns = UINT64_MAX;

	for (int round = 0; round < 3 && nr; round++) {
		uint64_t t0 = nf_clock_ns();
		for (size_t i = 0; i < nr; i++) {
			struct nf_seal_id id = { NF_SEAL_BLOCK, 1, (uint32_t)i };
			if (nf_codec_seal(c, &id, data + i * block, block, block, true, out + i * cap, cap,
					  &info[i], NULL))
				abort();
		}
		uint64_t t1 = nf_clock_ns();
		for (size_t i = 0; i < nr; i++) {
			struct nf_seal_id id = { NF_SEAL_BLOCK, 1, (uint32_t)i };
			if (nf_codec_open(c, &id, info[i].epoch, info[i].flags, info[i].tag, out + i * cap,
					  info[i].sealed_len, back, block))
				abort();
		}
		uint64_t t2 = nf_clock_ns();
		seal_ns = t1 - t0 < seal_ns ? t1 - t0 : seal_ns;
		open_ns = t2 - t1 < open_ns ? t2 - t1 : open_ns;
	}
	for (size_t i = 0; i < nr; i++)
		total += info[i].sealed_len;
	if (nr)
		printf("%-14.14s %6zuK  seal %7.0f MB/s  open %7.0f MB/s  %7.1f us/block opened  ratio %.3f\n", name,
		       block >> 10, mb_per_s(nr * block, seal_ns), mb_per_s(nr * block, open_ns),
		       (double)open_ns / 1e3 / (double)nr, (double)(nr * block) / (double)total);
	free(info);
	free(back);
	free(out);
}

static void measure_sizes(struct nf_codec *c, const char *name, const uint8_t *p, size_t len)
{
	for (size_t block = 4096; block <= 1 << 20; block *= 2)
		measure(c, name, p, len, block);
}

int main(int argc, char **argv)
{
	static const uint8_t volume[16], hash_key[16];
	struct nf_ring_epoch e = { .epoch = 1 };
	struct nf_ring *ring;
	uint8_t *data = malloc(DATA_BYTES);

	if (!data || nf_ring_new(volume, &e, 1, hash_key, &ring))
		return EXIT_FAILURE;
	struct nf_codec *c = nf_codec_get(ring);
	if (!c)
		return EXIT_FAILURE;
	nf_random(data, DATA_BYTES);
	measure_sizes(c, "random", data, DATA_BYTES);
	make_text(data, DATA_BYTES);
	measure_sizes(c, "text", data, DATA_BYTES);
	for (int i = 1; i < argc; i++) {
		FILE *f = fopen(argv[i], "rb");
		const char *base = strrchr(argv[i], '/');
		if (!f) {
			perror(argv[i]);
			return EXIT_FAILURE;
		}
		size_t len = fread(data, 1, DATA_BYTES, f);
		fclose(f);
		measure_sizes(c, base ? base + 1 : argv[i], data, len);
	}
	nf_codec_put(c);
	nf_ring_free(ring);
	free(data);
	return EXIT_SUCCESS;
}
