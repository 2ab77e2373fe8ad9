/* foliofs check STORE [--read-data] */
#include "base/error.h"
#include "cli/open.h"

#include <inttypes.h>
#include <stdio.h>

struct report {
	struct nf_text json; /* the lines so far, as an array */
	bool as_json;
};

static void on_problem(void *ctx, const char *line)
{
	struct report *r = ctx;

	if (r->as_json) {
		nf_textf(&r->json, "%s", r->json.len ? "," : "");
		nf_text_json(&r->json, line);
	} else {
		(void)printf("%s\n", line);
	}
}

static bool print_result(const struct report *r, const struct nf_check_result *c)
{
	struct nf_text t = NF_TEXT_INIT;

	if (r->as_json)
		nf_textf(&t, "{\"nodes\":%" PRIu64 ",\"inodes\":%" PRIu64 ",\"blocks\":%" PRIu64 ",\"packs\":%" PRIu64
			 ",\"bytes\":%" PRIu64 ",\"problems\":[%s]}\n", c->nodes, c->inodes, c->blocks, c->packs, c->bytes,
			 nf_text_str(&r->json));
	else
		nf_textf(&t, "%" PRIu64 " nodes, %" PRIu64 " inodes, %" PRIu64 " blocks, %" PRIu64 " packs, %" PRIu64
			 " bytes: %" PRIu64 " problems\n", c->nodes, c->inodes, c->blocks, c->packs, c->bytes, c->problems);
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	return ok;
}

enum nf_exit nf_cmd_check(struct nf_args *a)
{
	struct report report = { .as_json = a->opt.json };
	struct nf_check_result result = { 0 };
	struct nf_reader rd;

	enum nf_exit e = nf_reader_open(a->arg[0], &a->opt, &rd);
	if (e == NF_EXIT_OK) {
		int r = nf_vault_check(rd.vault, a->opt.read_data, on_problem, &report, &result);
		if (r < 0)
			e = nf_site_complain(&rd.site, r, NULL);
		else if (!print_result(&report, &result))
			e = NF_EXIT_ERROR;
	}
	if (e == NF_EXIT_OK && result.problems) {
		nf_complain("the vault at %s is damaged; what is listed above cannot be read", rd.site.safe);
		e = NF_EXIT_DAMAGED;
	}
	nf_text_deinit(&report.json);
	nf_reader_close(&rd);
	return e;
}
