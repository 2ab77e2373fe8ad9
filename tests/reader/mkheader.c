/* Makes what the independent reader is tested on:
 *
 *	mkheader DIR PASSPHRASE
 *
 * writes DIR/header/00000007/<rand> and sealed objects DIR/object.<name>, and prints what
 * the reader must find: "key value" lines. */
#include "base/random.h"
#include "base/text.h"
#include "vault/header.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *dir;

#define OK(e)                                                                                      \
	do {                                                                                       \
		if ((e) != 0) {                                                                    \
			fprintf(stderr, "failed: %s\n", #e);                                       \
			exit(EXIT_FAILURE);                                                        \
		}                                                                                  \
	} while (0)

static void write_file(const char *name, const void *p, size_t len)
{
	char path[4096];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "wb");
	OK(!f);
	OK(fwrite(p, 1, len, f) != len);
	OK(fclose(f));
}

static void say_hex(const char *key, const void *p, size_t len)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_text_hex(&t, p, len);
	printf("%s %s\n", key, nf_text_str(&t));
	nf_text_deinit(&t);
}

static void write_header(struct nf_header *h, const char *pass)
{
	struct nf_kdf_params cheap = { .log2_n = 15, .r = 8, .p = 2 };
	uint8_t recovery[32], keyfile[40], root[32], id[16];
	char text[NF_RECOVERY_TEXT_BYTES], path[4096];
	void *p;
	size_t len;

	nf_random(recovery, sizeof recovery);
	nf_random(keyfile, sizeof keyfile);
	struct nf_secret s[] = { { NF_SLOT_PASSPHRASE, pass, strlen(pass) },
				 { NF_SLOT_RECOVERY, recovery, 32 },
				 { NF_SLOT_KEYFILE, keyfile, sizeof keyfile } };
	for (int i = 0; i < 3; i++)
		OK(nf_header_slot_add(h, &s[i], &cheap, i ? "a label" : "", id));
	OK(nf_header_rekey(h, NULL));
	for (int i = 0; i < 3; i++)
		OK(nf_header_slot_add(h, &s[i], &cheap, i ? "a label" : "", id));
	nf_header_set_generation(h, 7);
	OK(nf_header_encode(h, &p, &len));
	snprintf(path, sizeof path, "%s/header", dir);
	OK(mkdir(path, 0700));
	snprintf(path, sizeof path, "%s/header/00000007", dir);
	OK(mkdir(path, 0700));
	write_file("header/00000007/00112233445566778899aabbccddeeff", p, len);
	free(p);
	write_file("keyfile", keyfile, sizeof keyfile);
	OK(nf_recovery_format(recovery, text));
	printf("recovery %s\n", text);
	say_hex("volume", nf_header_volume_id(h), 16);
	nf_header_root_key(h, root);
	say_hex("root", root, 32);
}

static void write_object(struct nf_codec *c, const char *name, enum nf_seal_type type, size_t len,
			 size_t full, int noise)
{
	struct nf_seal_id id = { type, 0x1122334455667788, 0x21 };
	struct nf_sealed_info info;
	uint8_t *plain = malloc(len), *out = malloc(nf_codec_bound(len));
	char file[64];

	memset(plain, 'x', len);
	if (noise)
		nf_random(plain, len);
	OK(nf_codec_seal(c, &id, plain, len, full, true, out, nf_codec_bound(len), &info, NULL));
	snprintf(file, sizeof file, "object.%s", name);
	write_file(file, out, info.sealed_len);
	snprintf(file, sizeof file, "plain.%s", name);
	write_file(file, plain, len);
	printf("object.%s %d %zu %u %u %zu\n", name, (int)type, len, info.flags, info.epoch, full);
	free(plain);
	free(out);
}

int main(int argc, char **argv)
{
	struct nf_header *h;
	struct nf_ring *ring;
	uint8_t sealed[100];
	uint32_t epoch;

	if (argc != 3)
		return EXIT_FAILURE;
	dir = argv[1];
	OK(nf_header_new(&h));
	write_header(h, argv[2]);
	OK(nf_header_ring(h, &ring));
	struct nf_codec *c = nf_codec_get(ring);
	OK(!c);
	write_object(c, "block", NF_SEAL_BLOCK, 16384, 16384, 0);
	write_object(c, "rawblock", NF_SEAL_BLOCK, 16384, 16384, 1);
	write_object(c, "part", NF_SEAL_BLOCK, 9999, 16384, 1);
	write_object(c, "node", NF_SEAL_NODE, 3000, 0, 0);
	write_object(c, "rawnode", NF_SEAL_NODE, 3001, 0, 1);
	write_object(c, "delta", NF_SEAL_DELTA, 5001, 0, 1);
	write_object(c, "xattr", NF_SEAL_XATTR, 5001, 0, 1);
	OK(nf_codec_seal_raw(c, NF_SEAL_HEAD, "extra", 5, "the head", 8, sealed, &epoch));
	write_file("object.head", sealed, 8 + NF_SEAL_OVERHEAD);
#ifndef NF_SMALL_HASH
	printf("hash %llu\n", (unsigned long long)nf_ring_name_hash(ring, "a name", 6));
#endif
	nf_codec_put(c);
	nf_ring_free(ring);
	nf_header_free(h);
	return EXIT_SUCCESS;
}
