#include "store/status.h"

#include "base/error.h"
#include "base/mem.h"

#include <stdatomic.h>

#define MIN_MAX_PUT_BYTES UINT64_C(65536)

int nf_status_error(long status)
{
	switch (status) {
	case 401:
	case 402:
	case 403:
	case 407:
	case 451:
		return -NF_E_STORE_DENIED;
	case 404:
	case 410:
		return -NF_E_STORE_NOT_FOUND;
	case 405:
	case 501:
		return -NF_E_STORE_NOT_DAV;
	case 413:
		return -NF_E_STORE_TOO_LARGE;
	case 416:
		return -NF_E_STORE_SHORT;
	case 507:
	case 509:
		return -NF_E_STORE_FULL;
	case 408:
	case 423:
	case 425:
	case 429:
	case 500:
	case 502:
	case 503:
	case 504:
		return -NF_E_STORE_BUSY;
	default:
		return -NF_E_STORE_PROTOCOL;
	}
}

bool nf_decimal(const char *s, uint64_t *out)
{
	uint64_t v = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || __builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return false;
	}
	*out = v;
	return true;
}

/* The number before the character END, "*" being none; NULL if it is no number. */
static const char *number(const char *s, char end, bool star, uint64_t *out)
{
	char digits[24];
	const char *e = strchrnul(s, end);
	size_t len = (size_t)(e - s);

	if (len == 0 || len >= sizeof digits || *e != end)
		return NULL;
	memcpy(digits, s, len);
	digits[len] = '\0';
	if (star && !strcmp(digits, "*"))
		*out = UINT64_MAX;
	else if (!nf_decimal(digits, out))
		return NULL;
	return end ? e + 1 : e;
}

int nf_content_range_parse(const char *s, struct nf_content_range *out)
{
	struct nf_content_range cr = { UINT64_MAX, UINT64_MAX, UINT64_MAX };

	if (strncasecmp(s, "bytes ", 6))
		return nf_fail(-NF_E_STORE_PROTOCOL);
	s += 6;
	if (!strncmp(s, "*/", 2)) {
		s += 2;
	} else {
		s = number(s, '-', false, &cr.first);
		s = s ? number(s, '/', false, &cr.last) : NULL;
	}
	if (!s || !number(s, '\0', true, &cr.total_bytes))
		return nf_fail(-NF_E_STORE_PROTOCOL);
	if (cr.first != UINT64_MAX && (cr.first > cr.last || cr.last >= cr.total_bytes))
		return nf_fail(-NF_E_STORE_PROTOCOL);
	*out = cr;
	return 0;
}

void nf_store_lower_max_put(struct nf_store *s, uint64_t bytes)
{
	uint64_t want = NF_MAX(bytes / 2, MIN_MAX_PUT_BYTES);
	uint64_t now = s->max_put_bytes;

	while (want < now && !atomic_compare_exchange_weak(&s->max_put_bytes, &now, want))
		;
}
