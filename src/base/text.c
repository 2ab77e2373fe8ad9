#include "base/text.h"

#include "base/mem.h"

#include <stdio.h>

void nf_text_deinit(struct nf_text *t)
{
	free(t->s);
	*t = (struct nf_text)NF_TEXT_INIT;
}

static bool grow(struct nf_text *t, size_t more)
{
	if (t->failed)
		return false;
	if (t->len + more + 1 <= t->cap)
		return true;
	size_t cap = t->cap ? t->cap : 128;
	while (cap < t->len + more + 1)
		cap *= 2;
	char *s = realloc(t->s, cap);
	if (!s) {
		t->failed = true;
		return false;
	}
	t->s = s;
	t->cap = cap;
	return true;
}

void nf_text_add(struct nf_text *t, const char *s, size_t len)
{
	if (!grow(t, len))
		return;
	memcpy(t->s + t->len, s, len);
	t->len += len;
	t->s[t->len] = '\0';
}

void nf_textv(struct nf_text *t, const char *fmt, va_list ap)
{
	va_list again;
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (n < 0 || !grow(t, (size_t)n))
		return;
	vsnprintf(t->s + t->len, (size_t)n + 1, fmt, ap);
	t->len += (size_t)n;
}

void nf_textf(struct nf_text *t, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	nf_textv(t, fmt, ap);
	va_end(ap);
}

void nf_text_hex(struct nf_text *t, const void *p, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *b = p;

	if (!grow(t, 2 * len))
		return;
	for (size_t i = 0; i < len; i++) {
		t->s[t->len++] = digits[b[i] >> 4];
		t->s[t->len++] = digits[b[i] & 15];
	}
	t->s[t->len] = '\0';
}

void nf_text_name(struct nf_text *t, const char *name)
{
	for (const char *p = name; *p; p++) {
		char c = (unsigned char)*p < ' ' || *p == 127 ? '?' : *p;
		nf_text_add(t, &c, 1);
	}
}

void nf_text_json(struct nf_text *t, const char *s)
{
	nf_text_add(t, "\"", 1);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\')
			nf_textf(t, "\\%c", c);
		else if (c < 0x20)
			nf_textf(t, "\\u%04x", c);
		else
			nf_text_add(t, s, 1);
	}
	nf_text_add(t, "\"", 1);
}

const char *nf_text_str(const struct nf_text *t) { return t->s ? t->s : ""; }
