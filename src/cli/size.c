/* Numbers with units. */
#include "base/error.h"
#include "base/mem.h"
#include "cli/options.h"

#include <string.h>

struct unit {
	const char *suffix;
	double factor;
};

static const struct unit sizes[] = {
	{ "", 1 }, { "B", 1 }, { "K", 0x1p10 }, { "M", 0x1p20 }, { "G", 0x1p30 }, { "T", 0x1p40 }, { "P", 0x1p50 },
	{ "k", 0x1p10 }, { "KiB", 0x1p10 }, { "MiB", 0x1p20 }, { "GiB", 0x1p30 }, { "TiB", 0x1p40 },
	{ "kB", 1e3 }, { "KB", 1e3 }, { "MB", 1e6 }, { "GB", 1e9 }, { "TB", 1e12 },
};
static const struct unit times[] = {
	{ "", 1e3 }, { "ms", 1 }, { "s", 1e3 }, { "sec", 1e3 }, { "min", 6e4 }, { "m", 6e4 }, { "h", 3.6e6 },
};

/* Digits, an optional fraction, a suffix: nothing else strtod(3) would take. */
static int parse(const char *s, const struct unit *units, size_t nr, uint64_t *out)
{
	size_t digits = strspn(s, "0123456789."), i;
	char *end;

	if (!digits || *s == '.')
		return nf_fail(-NF_E_OPTION);
	double v = strtod(s, &end);
	if (end > s + digits)
		end = (char *)(uintptr_t)s + digits;
	for (i = 0; i < nr && strcmp(units[i].suffix, end); i++)
		;
	if (i == nr)
		return nf_fail(-NF_E_OPTION);
	v *= units[i].factor;
	if (!(v < 0x1p62))
		return nf_fail(-NF_E_OPTION);
	*out = (uint64_t)v;
	return 0;
}

int nf_size_parse(const char *s, uint64_t *bytes) { return parse(s, sizes, NF_ARRAY_LEN(sizes), bytes); }
int nf_time_parse(const char *s, uint64_t *ms) { return parse(s, times, NF_ARRAY_LEN(times), ms); }

int nf_count_parse(const char *s, uint64_t *n)
{
	size_t len = strlen(s);

	if (!len || len > 18 || strspn(s, "0123456789") != len)
		return nf_fail(-NF_E_OPTION);
	*n = strtoull(s, NULL, 10);
	return 0;
}
