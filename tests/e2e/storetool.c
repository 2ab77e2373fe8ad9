/* storetool - the five verbs of a store, and a conformance run, from the shell.
 *
 *   storetool [options] ADDRESS probe|quota|text
 *   storetool [options] ADDRESS put NAME BYTES [COUNT]   a body made from the name
 *   storetool [options] ADDRESS get NAME OFFSET LENGTH [COUNT]   checks such a body
 *   storetool [options] ADDRESS stat|list|delete NAME
 *   storetool [options] ADDRESS conform                  all of it, in parallel too
 *
 * One line of JSON comes out for each call.  Exit: 0 whatever the store said (it is
 * in "error"), 1 for a conformance failure, 2 for usage. */
#include "foliofs/store.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"
#include "conform.h"

#include <getopt.h>
#include <stdio.h>

static struct nf_store_options opt;
static bool create, whole;
static uint32_t timeout_ms;

static void print_op(const struct nf_store_op *op, uint64_t began_ns, bool same, uint64_t max_put)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, "{\"error\": \"%s\", \"transferred\": %zu, \"size\": %llu, \"date\": %lld, "
		     "\"ms\": %llu, \"same\": %s, \"max_put\": %llu, \"entries\": [",
		 op->error ? nf_error_name(op->error) : "", op->transferred_bytes,
		 (unsigned long long)op->size_bytes, (long long)op->server_date_s,
		 (unsigned long long)((nf_clock_ns() - began_ns) / NF_NS_PER_MS),
		 same ? "true" : "false", (unsigned long long)max_put);
	for (size_t i = 0; i < op->nr_entries; i++) {
		nf_textf(&t, "%s{\"name\": ", i ? ", " : "");
		nf_text_json(&t, op->entries[i].name);
		nf_textf(&t, ", \"size\": %llu, \"mtime\": %lld, \"dir\": %s}",
			 (unsigned long long)op->entries[i].size_bytes,
			 (long long)op->entries[i].mtime_s, op->entries[i].is_dir ? "true" : "false");
	}
	nf_textf(&t, "]}");
	puts(nf_text_str(&t));
	nf_text_deinit(&t);
}

static int usage(void)
{
	fputs("usage: storetool [--user U --password P --bearer T --netrc --insecure --ca F\n"
	      "  --timeout MS --connect-timeout MS --retries N --connections N --up B --down B\n"
	      "  --create --whole --op-timeout MS] ADDRESS VERB [ARGUMENT...]\n", stderr);
	return 2;
}

static int run_verb(struct nf_store *s, char **arg, int nr)
{
	static const char *const verbs[] = { "get", "put", "stat", "list", "delete" };
	struct nf_store_op op = { .timeout_ms = timeout_ms, .whole = whole };
	nf_auto_free uint8_t *body = NULL;
	struct iovec iov;
	unsigned long count = 1;
	int v = 0;

	while (v < NF_STORE_VERB_NR && strcmp(verbs[v], arg[0]))
		v++;
	if (v == NF_STORE_VERB_NR || nr < 2 || strlen(arg[1]) >= sizeof op.name)
		return usage();
	op.verb = (enum nf_store_verb)v;
	memcpy(op.name, arg[1], strlen(arg[1]) + 1);
	if (v == NF_STORE_GET || v == NF_STORE_PUT) {
		int at = v == NF_STORE_GET ? 3 : 2;
		if (nr <= at)
			return usage();
		op.offset_bytes = v == NF_STORE_GET ? strtoull(arg[2], NULL, 10) : 0;
		op.length_bytes = strtoull(arg[at], NULL, 10);
		count = nr > at + 1 ? strtoul(arg[at + 1], NULL, 10) : 1;
		body = malloc(op.length_bytes + 1);
		if (!body)
			return 2;
		iov = (struct iovec){ body, op.length_bytes };
		op.iov = &iov;
		op.nr_iov = 1;
		op.buf = body;
	}
	for (unsigned long i = 0; i < count; i++) {
		bool same = true;
		uint64_t began_ns = nf_clock_ns();
		if (v == NF_STORE_PUT)
			conform_fill(op.name, 0, body, op.length_bytes);
		nf_store_run(s, &op);
		if (v == NF_STORE_GET && !op.error)
			same = conform_same(op.name, op.offset_bytes, body, op.transferred_bytes);
		print_op(&op, began_ns, same, s->max_put_bytes);
		nf_store_op_deinit(&op);
	}
	return 0;
}

static int run(struct nf_store *s, char **arg, int nr)
{
	uint64_t used = 0, room = 0;
	uint64_t began_ns = nf_clock_ns();
	int r;

	if (!strcmp(arg[0], "conform")) {
		struct nf_text why = NF_TEXT_INIT;
		r = conform_run(s, &why);
		printf("{\"conform\": %s, \"why\": \"%s\"}\n", r ? "false" : "true", nf_text_str(&why));
		nf_text_deinit(&why);
		return r ? 1 : 0;
	}
	if (!strcmp(arg[0], "text")) {
		puts(s->text);
		return 0;
	}
	if (!strcmp(arg[0], "probe"))
		r = nf_store_probe(s);
	else if (!strcmp(arg[0], "quota"))
		r = s->ops->quota(s, &used, &room);
	else
		return run_verb(s, arg, nr);
	printf("{\"error\": \"%s\", \"used\": %llu, \"free\": %llu, \"ms\": %llu}\n",
	       r ? nf_error_name(r) : "", (unsigned long long)used, (unsigned long long)room,
	       (unsigned long long)((nf_clock_ns() - began_ns) / NF_NS_PER_MS));
	return 0;
}

static uint32_t number(const char *s) { return (uint32_t)strtoul(s, NULL, 10); }

static bool take_option(int c)
{
	switch (c) {
	case 'u': opt.user = optarg; return true;
	case 'p': opt.password = optarg; return true;
	case 'b': opt.bearer_token = optarg; return true;
	case 'n': opt.netrc = true; return true;
	case 'i': opt.insecure_http = true; return true;
	case 'a': opt.ca_cert = optarg; return true;
	case 't': opt.timeout_ms = number(optarg); return true;
	case 'c': opt.connect_timeout_ms = number(optarg); return true;
	case 'r': opt.retries = number(optarg); return true;
	case 'k': opt.connections = number(optarg); return true;
	case 'U': opt.bwlimit_up_bytes = number(optarg); return true;
	case 'D': opt.bwlimit_down_bytes = number(optarg); return true;
	case 'C': create = true; return true;
	case 'w': whole = true; return true;
	case 'o': timeout_ms = number(optarg); return true;
	default: return false;
	}
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "user", 1, NULL, 'u' },        { "password", 1, NULL, 'p' },
		{ "bearer", 1, NULL, 'b' },      { "netrc", 0, NULL, 'n' },
		{ "insecure", 0, NULL, 'i' },    { "ca", 1, NULL, 'a' },
		{ "timeout", 1, NULL, 't' },     { "connect-timeout", 1, NULL, 'c' },
		{ "retries", 1, NULL, 'r' },     { "connections", 1, NULL, 'k' },
		{ "up", 1, NULL, 'U' },          { "down", 1, NULL, 'D' },
		{ "create", 0, NULL, 'C' },      { "whole", 0, NULL, 'w' },
		{ "op-timeout", 1, NULL, 'o' },  { NULL, 0, NULL, 0 },
	};
	struct nf_store *s;

	for (int c; (c = getopt_long(argc, argv, "+", longs, NULL)) != -1;)
		if (!take_option(c))
			return usage();
	if (argc - optind < 2)
		return usage();
	int r = nf_store_open(argv[optind], &opt, create, &s);
	if (r) {
		printf("{\"error\": \"%s\", \"open\": true}\n", nf_error_name(r));
		return 0;
	}
	r = run(s, argv + optind + 1, argc - optind - 1);
	nf_store_free(s);
	return r;
}
