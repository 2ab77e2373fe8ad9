/* The recovery key as text: base32 of 32 bytes and 3 of their SHA-256, which is 56
 * characters without a rest, in groups of 7. */
#include "base/error.h"
#include "base/mem.h"
#include "vault/header.h"

enum { KEY_BYTES = 32, SUM_BYTES = 3, RAW_BYTES = KEY_BYTES + SUM_BYTES, CHARS = 56, GROUP = 7 };

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

int nf_recovery_format(const uint8_t key[32], char text[NF_RECOVERY_TEXT_BYTES])
{
	uint8_t raw[RAW_BYTES], digest[32];
	unsigned bits = 0, have = 0;
	char *t = text;

	int r = nf_sha256(key, KEY_BYTES, digest);
	if (r)
		return r;
	memcpy(raw, key, KEY_BYTES);
	memcpy(raw + KEY_BYTES, digest, SUM_BYTES);
	for (int i = 0, n = 0; n < CHARS; n++) {
		if (have < 5) {
			bits = (bits << 8 | raw[i++]) & 0xfff;
			have += 8;
		}
		if (n && n % GROUP == 0)
			*t++ = '-';
		have -= 5;
		*t++ = alphabet[bits >> have & 31];
	}
	*t = 0;
	nf_wipe(raw, sizeof raw);
	return 0;
}

static int digit(char c)
{
	if (c >= 'a' && c <= 'z')
		return c - 'a';
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	return c >= '2' && c <= '7' ? c - '2' + 26 : -1;
}

static int decode(const char *text, uint8_t raw[RAW_BYTES])
{
	unsigned bits = 0, have = 0;
	int chars = 0, len = 0;

	for (; *text; text++) {
		if (*text == '-' || *text == ' ' || *text == '\t' || *text == '\n' || *text == '\r')
			continue;
		int d = digit(*text);
		if (d < 0 || ++chars > CHARS)
			return nf_fail(-NF_E_KEY_WRONG);
		bits = (bits << 5 | (unsigned)d) & 0xfff;
		have += 5;
		if (have >= 8) {
			have -= 8;
			raw[len++] = (uint8_t)(bits >> have);
		}
	}
	return chars == CHARS ? 0 : nf_fail(-NF_E_KEY_WRONG);
}

int nf_recovery_parse(const char *text, uint8_t key[32])
{
	uint8_t raw[RAW_BYTES] = { 0 }, digest[32];

	int r = decode(text, raw);
	if (!r)
		r = nf_sha256(raw, KEY_BYTES, digest);
	if (!r && !nf_equal_ct(digest, raw + KEY_BYTES, SUM_BYTES))
		r = nf_fail(-NF_E_KEY_WRONG);
	if (!r)
		memcpy(key, raw, KEY_BYTES);
	nf_wipe(raw, sizeof raw);
	return r;
}
