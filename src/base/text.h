/* base/text.h - a growing text buffer, what every printer (nf_X_to_text) writes to.
 *
 * Running out of memory truncates the text and sets `failed`; printers never
 * fail.  Not thread safe. */
#ifndef NF_BASE_TEXT_H
#define NF_BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct nf_text {
	char *s; /* NUL-terminated once anything was written; NULL before */
	size_t len;
	size_t cap;
	bool failed;
};

#define NF_TEXT_INIT { 0 }

void nf_text_deinit(struct nf_text *t);
void nf_textf(struct nf_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void nf_textv(struct nf_text *t, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
void nf_text_add(struct nf_text *t, const char *s, size_t len);
void nf_text_hex(struct nf_text *t, const void *p, size_t len);
/* A name from the vault, for a terminal: control characters become '?', so that it cannot move the cursor. */
void nf_text_name(struct nf_text *t, const char *name);
/* Appends S as a quoted JSON string (escapes included). */
void nf_text_json(struct nf_text *t, const char *s);
/* The text so far, "" if empty; borrowed until the next call on T. */
const char *nf_text_str(const struct nf_text *t);

#endif
