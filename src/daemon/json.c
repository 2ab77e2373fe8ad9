#include "daemon/json.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"

#include <stdio.h>

static const char *blanks(const char *s) { return s + strspn(s, " \t\r\n"); }

/* One past the closing quote of the string that begins at S; NULL: it does not end. */
static const char *string_end(const char *s)
{
	for (s++; *s && *s != '"'; s++) {
		if (*s == '\\' && !*++s)
			return NULL;
	}
	return *s == '"' ? s + 1 : NULL;
}

/* One past a value; nested ones are skipped by counting brackets outside strings. */
static const char *value_end(const char *s)
{
	unsigned depth = 0;

	do {
		if (*s == '"') {
			s = string_end(s);
			if (!s)
				return NULL;
			continue;
		}
		if (*s == '{' || *s == '[') {
			depth++;
			s++;
		} else if (*s == '}' || *s == ']') {
			if (!depth--)
				return NULL;
			s++;
		} else if (depth) {
			if (!*s)
				return NULL;
			s++;
		} else {
			size_t len = strcspn(s, ",}] \t\r\n\"{[:");
			return len ? s + len : NULL;
		}
	} while (depth);
	return s;
}

int nf_json_raw(const char *line, const char *key, const char **p, size_t *len)
{
	const char *s = blanks(line);

	if (*s != '{')
		return nf_fail(-NF_E_FORMAT_BAD);
	s = blanks(s + 1);
	while (*s == '"') {
		const char *name = s + 1, *end = string_end(s);
		if (!end)
			return nf_fail(-NF_E_FORMAT_BAD);
		size_t name_len = (size_t)(end - 1 - name);
		s = blanks(end);
		if (*s != ':')
			return nf_fail(-NF_E_FORMAT_BAD);
		s = blanks(s + 1);
		end = value_end(s);
		if (!end)
			return nf_fail(-NF_E_FORMAT_BAD);
		if (name_len == strlen(key) && !memcmp(name, key, name_len)) {
			*p = s;
			*len = (size_t)(end - s);
			return 0;
		}
		s = blanks(end);
		if (*s != ',')
			break;
		s = blanks(s + 1);
	}
	return *s == '}' ? -ENOENT : nf_fail(-NF_E_FORMAT_BAD);
}

static int put_escape(struct nf_text *t, const char **s)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at = strchr(from, **s);
	unsigned code;

	if (at && **s) {
		nf_text_add(t, &to[at - from], 1);
		++*s;
		return 0;
	}
	/* We write \u only for control characters. */
	if (**s != 'u' || strspn(*s + 1, "0123456789abcdefABCDEF") < 4 || sscanf(*s + 1, "%4x", &code) != 1 ||
	    code == 0 || code > 0x7f)
		return nf_fail(-NF_E_FORMAT_BAD);
	char c = (char)code;
	nf_text_add(t, &c, 1);
	*s += 5;
	return 0;
}

int nf_json_string(const char *line, const char *key, char **out)
{
	struct nf_text t = NF_TEXT_INIT;
	const char *s;
	size_t len;
	int r = nf_json_raw(line, key, &s, &len);

	if (r == 0 && *s != '"')
		r = nf_fail(-NF_E_FORMAT_BAD);
	const char *end = r == 0 ? s++ + len - 1 : NULL;
	while (r == 0 && s < end) {
		if (*s == '\\') {
			s++;
			r = put_escape(&t, &s);
		} else {
			nf_text_add(&t, s++, 1);
		}
	}
	if (r == 0 && !(*out = strdup(nf_text_str(&t))))
		r = nf_fail(-ENOMEM);
	nf_text_deinit(&t);
	return r;
}

int nf_json_int(const char *line, const char *key, int64_t *out)
{
	const char *s;
	char *end;
	size_t len;
	int r = nf_json_raw(line, key, &s, &len);

	if (r < 0)
		return r;
	errno = 0;
	long long v = strtoll(s, &end, 10);
	if (errno || end != s + len)
		return nf_fail(-NF_E_FORMAT_BAD);
	*out = v;
	return 0;
}
