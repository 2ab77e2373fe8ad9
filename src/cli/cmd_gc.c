/* foliofs gc STORE|DIR */
#include "base/error.h"
#include "base/mem.h"
#include "cli/live.h"
#include "cli/open.h"
#include "daemon/gc_text.h"
#include "daemon/json.h"

#include <inttypes.h>
#include <stdio.h>

/* Text options, because 0 means something. */
static int number(const char *name, const char *value, bool time, uint64_t *out)
{
	uint64_t n;

	if (!value)
		return 0;
	int r = time ? nf_time_parse(value, &n) : nf_count_parse(value, &n);
	if (r < 0 || n > UINT32_MAX * UINT64_C(1000)) {
		nf_complain("--%s: \"%s\" is not %s", name, value, time ? "a time" : "a number");
		return nf_fail(-NF_E_OPTION);
	}
	*out = time ? n / 1000 : n;
	return 0;
}

int nf_gc_options_of(const struct nf_options *o, struct nf_gc_options *out)
{
	nf_gc_defaults(out);
	out->dry_run = o->dry_run;
	int r = number("grace", o->grace, true, &out->grace_s);
	if (r == 0)
		r = number("keep-heads", o->keep_heads, false, &out->keep_heads);
	if (r == 0)
		r = number("keep-days", o->keep_days, false, &out->keep_days);
	if (r == 0)
		r = number("lease-days", o->lease_days, false, &out->lease_days);
	return r;
}

/* --- by the daemon that has it mounted ------------------------------------------------- */

/* What is not said is as the mount has it. */
static void given(struct nf_text *q, const char *name, const char *text, uint64_t n)
{
	if (text)
		nf_textf(q, ",\"%s\":%" PRIu64, name, n);
}

static enum nf_exit live(const char *path, const struct nf_gc_options *o, const struct nf_options *opt)
{
	nf_auto_free char *reply = NULL, *text = NULL;
	struct nf_text q = NF_TEXT_INIT;
	struct nf_live l;
	const char *p;
	size_t len;

	enum nf_exit e = nf_live_reach(path, &l);
	if (e)
		return e;
	nf_textf(&q, "{\"cmd\":\"gc\",\"dry_run\":%d", o->dry_run);
	given(&q, "grace", opt->grace, o->grace_s);
	given(&q, "keep_heads", opt->keep_heads, o->keep_heads);
	given(&q, "keep_days", opt->keep_days, o->keep_days);
	given(&q, "lease_days", opt->lease_days, o->lease_days);
	nf_textf(&q, "}");
	int r = nf_live_ask_long(&l, nf_text_str(&q), opt->quiet, &reply);
	nf_text_deinit(&q);
	if (r == 0 && opt->json && (r = nf_json_raw(reply, "result", &p, &len)) == 0)
		(void)printf("%.*s\n", (int)len, p);
	else if (r == 0 && !opt->json && (r = nf_json_string(reply, "text", &text)) == 0)
		(void)fputs(text, stdout);
	if (r < 0)
		e = nf_live_failed(&l, "gc", r);
	nf_live_leave(&l);
	if (e == NF_EXIT_OK && fflush(stdout))
		e = NF_EXIT_ERROR;
	return e;
}

/* --- without a mount ------------------------------------------------------------------------ */

static enum nf_exit print(const struct nf_gc_options *o, const struct nf_gc_result *r, bool json)
{
	struct nf_text t = NF_TEXT_INIT;

	if (json)
		nf_gc_json(r, &t), nf_textf(&t, "\n");
	else
		nf_gc_text(r, o->dry_run, &t);
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	return ok ? NF_EXIT_OK : NF_EXIT_ERROR;
}

static enum nf_exit offline(const char *address, const struct nf_gc_options *o, const struct nf_options *opt)
{
	struct nf_gc_result result;
	struct nf_reader w;

	enum nf_exit e = nf_writer_open(address, opt, NULL, &w);
	if (e == NF_EXIT_OK) {
		int r = nf_vault_gc(w.vault, o, NULL, &result);
		e = r < 0 ? nf_site_complain(&w.site, r, NULL) : print(o, &result, opt->json);
	}
	nf_reader_close(&w);
	return e;
}

enum nf_exit nf_cmd_gc(struct nf_args *a)
{
	struct nf_gc_options o;

	if (nf_gc_options_of(&a->opt, &o) < 0)
		return NF_EXIT_USAGE;
	if (!a->arg[0] || nf_live_is_mount(a->arg[0]))
		return live(a->arg[0], &o, &a->opt);
	return offline(a->arg[0], &o, &a->opt);
}
