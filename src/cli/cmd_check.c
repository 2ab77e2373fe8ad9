/* foliofs check STORE|DIR [--read-data] [--repair] */
#include "base/error.h"
#include "base/mem.h"
#include "cli/live.h"
#include "cli/open.h"
#include "daemon/check_text.h"
#include "daemon/json.h"

#include <inttypes.h>
#include <stdio.h>

static void on_line(void *ctx, const char *line)
{
	(void)ctx;
	(void)printf("%s\n", line);
}

static enum nf_exit verdict(uint64_t left, const char *what)
{
	if (!left)
		return NF_EXIT_OK;
	nf_complain("the vault at %s is damaged; what is listed above cannot be read", what);
	return NF_EXIT_DAMAGED;
}

/* --- by the daemon that has it mounted ------------------------------------------------- */

static enum nf_exit live(const char *path, const struct nf_options *opt)
{
	nf_auto_free char *reply = NULL, *text = NULL;
	struct nf_text q = NF_TEXT_INIT;
	struct nf_live l;
	int64_t left = 0;
	const char *p;
	size_t len;

	enum nf_exit e = nf_live_reach(path, &l);
	if (e)
		return e;
	nf_textf(&q, "{\"cmd\":\"check\",\"read_data\":%d,\"repair\":%d}", opt->read_data, opt->repair);
	int r = nf_live_ask_long(&l, nf_text_str(&q), opt->quiet || opt->json, &reply);
	nf_text_deinit(&q);
	if (r == 0 && opt->json && (r = nf_json_raw(reply, "result", &p, &len)) == 0)
		(void)printf("%.*s\n", (int)len, p);
	else if (r == 0 && !opt->json && (r = nf_json_string(reply, "text", &text)) == 0)
		(void)fputs(text, stdout);
	if (r == 0)
		r = nf_json_int(reply, "left", &left);
	if (r < 0)
		e = nf_live_failed(&l, "check", r);
	nf_live_leave(&l);
	if (e == NF_EXIT_OK && fflush(stdout))
		e = NF_EXIT_ERROR;
	return e ? e : verdict((uint64_t)left, path ? path : "the mount");
}

/* --- without a mount ------------------------------------------------------------------------ */

static bool print_result(const struct nf_check_lines *lines, const struct nf_check_result *c, const struct nf_options *opt)
{
	struct nf_text t = NF_TEXT_INIT;

	if (opt->json)
		nf_check_json(c, lines, &t), nf_textf(&t, "\n");
	else
		nf_check_text(c, opt->repair, &t);
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	return ok;
}

enum nf_exit nf_cmd_check(struct nf_args *a)
{
	const struct nf_options *opt = &a->opt;
	struct nf_check_lines lines = { 0 };
	struct nf_check_options o = { .read_data = opt->read_data, .repair = opt->repair,
				      .report = opt->json ? nf_check_lines_add : on_line, .ctx = &lines };
	struct nf_check_result result = { 0 };
	struct nf_reader rd;

	if (!a->arg[0] || nf_live_is_mount(a->arg[0]))
		return live(a->arg[0], opt);
	/* Reading needs nothing of this device; repairing takes what its cache has, and commits. */
	enum nf_exit e = opt->repair ? nf_writer_open(a->arg[0], opt, NULL, &rd) : nf_reader_open(a->arg[0], opt, &rd);
	if (e == NF_EXIT_OK) {
		int r = nf_vault_check(rd.vault, &o, &result);
		if (r < 0)
			e = nf_site_complain(&rd.site, r, NULL);
		else if (!print_result(&lines, &result, opt))
			e = NF_EXIT_ERROR;
	}
	if (e == NF_EXIT_OK)
		e = verdict(result.problems, rd.site.safe);
	nf_check_lines_deinit(&lines);
	nf_reader_close(&rd);
	return e;
}
