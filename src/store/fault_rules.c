#include "store/fault_rules.h"

#include "store/status.h"

#include "base/error.h"
#include "base/mem.h"

#include <fnmatch.h>
#include <stdio.h>

enum { CUT_MAX_MS = 3600000 };

static const char *const verb_names[NF_STORE_VERB_NR] = {
	[NF_STORE_GET] = "get",   [NF_STORE_PUT] = "put",       [NF_STORE_STAT] = "stat",
	[NF_STORE_LIST] = "list", [NF_STORE_DELETE] = "delete",
};

const char *nf_store_verb_name(enum nf_store_verb verb) { return verb_names[verb]; }

/* "0", "1", "0.25", in units of 2^-32. */
static int parse_prob(const char *s, uint64_t *out)
{
	uint64_t v = 0, unit = 1;
	bool point = false;
	int digits = 0;

	for (; *s; s++) {
		if (*s == '.' && !point) {
			point = true;
			continue;
		}
		if (*s < '0' || *s > '9' || ++digits > 9)
			return nf_fail(-NF_E_OPTION);
		v = v * 10 + (uint64_t)(*s - '0');
		unit *= point ? 10 : 1;
	}
	if (!digits || v > unit)
		return nf_fail(-NF_E_OPTION);
	*out = (v << 32) / unit;
	return 0;
}

/* "N:PROB" */
static int parse_pair(const char *s, uint64_t max, uint64_t *n, uint64_t *prob)
{
	char number[24];
	size_t len = strcspn(s, ":");

	if (s[len] != ':' || len >= sizeof number)
		return nf_fail(-NF_E_OPTION);
	memcpy(number, s, len);
	number[len] = '\0';
	if (!nf_decimal(number, n) || *n > max)
		return nf_fail(-NF_E_OPTION);
	return nf_fail(parse_prob(s + len + 1, prob));
}

/* "UP:DOWN" */
static int parse_cut(struct nf_fault_rules *r, const char *value)
{
	nf_auto_free char *up = strdup(value);
	uint64_t up_ms, down_ms;

	if (!up)
		return nf_fail(-ENOMEM);
	char *down = strchr(up, ':');
	if (!down)
		return nf_fail(-NF_E_OPTION);
	*down++ = '\0';
	if (!nf_decimal(up, &up_ms) || !nf_decimal(down, &down_ms) || !up_ms || !down_ms || up_ms > CUT_MAX_MS ||
	    down_ms > CUT_MAX_MS)
		return nf_fail(-NF_E_OPTION);
	r->up_ms = (uint32_t)up_ms;
	r->down_ms = (uint32_t)down_ms;
	return 0;
}

static int parse_verbs(const char *s, uint32_t *out)
{
	while (*s) {
		size_t len = strcspn(s, "+");
		int v = 0;
		while (v < NF_STORE_VERB_NR &&
		       (strlen(verb_names[v]) != len || strncmp(verb_names[v], s, len)))
			v++;
		if (v == NF_STORE_VERB_NR)
			return nf_fail(-NF_E_OPTION);
		*out |= 1u << v;
		s += len;
		s += *s == '+';
	}
	return *out ? 0 : nf_fail(-NF_E_OPTION);
}

static int parse_status(struct nf_fault_rules *r, const char *value)
{
	uint64_t code, prob;
	int e = parse_pair(value, 599, &code, &prob);

	if (e)
		return nf_fail(e);
	if (code < 300 || r->nr_status == NF_FAULT_STATUS_MAX)
		return nf_fail(-NF_E_OPTION);
	r->status[r->nr_status].code = (unsigned)code;
	r->status[r->nr_status++].prob = prob;
	return 0;
}

int nf_fault_rules_hold(struct nf_fault_rules *r, const char *pattern)
{
	size_t len = strlen(pattern);

	if (!len || len >= NF_FAULT_PATTERN_MAX || r->nr_holds == NF_FAULT_HOLDS_MAX)
		return nf_fail(-NF_E_OPTION);
	memcpy(r->holds[r->nr_holds++], pattern, len + 1);
	return 0;
}

static int parse_name(struct nf_fault_rules *r, const char *value)
{
	size_t len = strlen(value);

	if (!len || len >= NF_STORE_NAME_MAX || r->nr_names == NF_FAULT_NAMES_MAX)
		return nf_fail(-NF_E_OPTION);
	memcpy(r->names[r->nr_names++], value, len + 1);
	return 0;
}

static int parse_rule(struct nf_fault_rules *r, const char *key, const char *value)
{
	const struct {
		const char *key;
		uint64_t *prob;
	} probs[] = {
		{ "drop", &r->drop },       { "torn", &r->torn },           { "flip", &r->flip },
		{ "tornput", &r->tornput }, { "lostreply", &r->lostreply },
	};
	uint64_t n;

	if (!strcmp(key, "offline") && !*value)
		return r->offline = true, 0;
	for (size_t i = 0; i < NF_ARRAY_LEN(probs); i++)
		if (!strcmp(key, probs[i].key))
			return nf_fail(parse_prob(value, probs[i].prob));
	if (!strcmp(key, "hold"))
		return nf_fail(nf_fault_rules_hold(r, value));
	if (!strcmp(key, "name"))
		return nf_fail(parse_name(r, value));
	if (!strcmp(key, "cut"))
		return nf_fail(parse_cut(r, value));
	if (!strcmp(key, "status"))
		return nf_fail(parse_status(r, value));
	if (!strcmp(key, "verbs"))
		return nf_fail(parse_verbs(value, &r->verbs));
	if (!strcmp(key, "late")) {
		int e = parse_pair(value, 3600000, &n, &r->late);
		r->late_ms = e ? 0 : (uint32_t)n;
		return nf_fail(e);
	}
	if (!nf_decimal(value, &n))
		return nf_fail(-NF_E_OPTION);
	if (!strcmp(key, "seed"))
		return r->seed = n, 0;
	if (!strcmp(key, "rate"))
		return r->rate_bytes = n, 0;
	if (!strcmp(key, "delay") && n <= 3600000)
		return r->delay_ms = (uint32_t)n, 0;
	return nf_fail(-NF_E_OPTION);
}

int nf_fault_rules_parse(const char *s, struct nf_fault_rules *out)
{
	nf_auto_free struct nf_fault_rules *r = calloc(1, sizeof *r);
	nf_auto_free char *copy = strdup(s);
	char *next = copy;

	if (!r || !copy)
		return nf_fail(-ENOMEM);
	for (char *rule; (rule = strsep(&next, "&"));) {
		char *value = rule;
		if (!*rule)
			continue;
		char *key = strsep(&value, "=");
		int e = parse_rule(r, key, value ? value : "");
		if (e)
			return nf_fail(e);
	}
	*out = *r;
	return 0;
}

static bool applies(const struct nf_fault_rules *r, const struct nf_store_op *op)
{
	if (r->verbs && !(r->verbs & 1u << op->verb))
		return false;
	for (unsigned i = 0; i < r->nr_names; i++)
		if (!strncmp(op->name, r->names[i], strlen(r->names[i])))
			return true;
	return r->nr_names == 0;
}

static bool held(const struct nf_fault_rules *r, const struct nf_store_op *op)
{
	char text[NF_STORE_NAME_MAX + 16];

	snprintf(text, sizeof text, "%s:%s", verb_names[op->verb], op->name);
	for (unsigned i = 0; i < r->nr_holds; i++)
		if (!fnmatch(r->holds[i], text, 0))
			return true;
	return false;
}

static bool hit(struct nf_prng *p, uint64_t prob) { return nf_prng_next(p) >> 32 < prob; }

void nf_fault_plan(const struct nf_fault_rules *r, struct nf_prng *p, const struct nf_store_op *op,
		   struct nf_fault_plan *plan)
{
	struct nf_fault_plan w = { 0 };
	bool get = op->verb == NF_STORE_GET, put = op->verb == NF_STORE_PUT;

	w.drop = hit(p, r->drop);
	w.torn = hit(p, r->torn) && get;
	w.flip = hit(p, r->flip) && get;
	w.tornput = hit(p, r->tornput) && put;
	w.lostreply = hit(p, r->lostreply);
	w.late = hit(p, r->late);
	for (unsigned i = 0; i < NF_FAULT_STATUS_MAX; i++) {
		bool now = hit(p, i < r->nr_status ? r->status[i].prob : 0);
		if (now && !w.status)
			w.status = r->status[i].code;
	}
	w.dice = nf_prng_next(p);
	w.hold = held(r, op);
	w.delay_ms = r->delay_ms + (w.late ? (uint64_t)r->late_ms : 0);
	*plan = applies(r, op) ? w : (struct nf_fault_plan){ 0 };
}
