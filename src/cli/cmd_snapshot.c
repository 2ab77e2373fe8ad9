/* foliofs snapshot DIR create NAME | list | remove NAME[@ID] */
#include "base/error.h"
#include "base/mem.h"
#include "cli/live.h"
#include "daemon/json.h"

#include <stdio.h>
#include <time.h>

static enum nf_exit list(struct nf_live *l, bool json)
{
	nf_auto_free char *reply = NULL, *text = NULL;
	const char *p;
	size_t len;

	int r = nf_control_ask(l->fd, json ? "{\"cmd\":\"snapshots\",\"format\":\"json\"}" : "{\"cmd\":\"snapshots\"}", NULL,
			       NULL, &reply);
	if (r == 0 && json && (r = nf_json_raw(reply, "snapshots", &p, &len)) == 0)
		(void)printf("%.*s\n", (int)len, p);
	else if (r == 0 && !json && (r = nf_json_string(reply, "text", &text)) == 0)
		(void)fputs(text, stdout);
	if (r < 0)
		return nf_live_failed(l, "snapshot", r);
	return fflush(stdout) ? NF_EXIT_ERROR : NF_EXIT_OK;
}

static enum nf_exit complain(const struct nf_live *l, const char *name, int r)
{
	if (r == -EEXIST)
		nf_complain("there is a snapshot called %s", name);
	else if (r == -EINVAL)
		nf_complain("a snapshot cannot be called \"%s\"", name);
	else
		return nf_live_failed(l, "snapshot", r);
	return NF_EXIT_ERROR;
}

/* WHAT: snapshot-create or snapshot-remove. */
static enum nf_exit change(struct nf_live *l, const char *what, const char *name, bool quiet)
{
	nf_auto_free char *reply = NULL;
	struct nf_text q = NF_TEXT_INIT;

	nf_textf(&q, "{\"cmd\":\"%s\",\"name\":", what);
	nf_text_json(&q, name);
	nf_textf(&q, "}");
	int r = nf_live_ask_long(l, nf_text_str(&q), quiet, &reply);
	nf_text_deinit(&q);
	return r < 0 ? complain(l, name, r) : NF_EXIT_OK;
}

enum nf_exit nf_cmd_snapshot(struct nf_args *a)
{
	const char *what = a->arg[1], *name = a->arg[2];
	bool create = !strcmp(what, "create"), remove = !strcmp(what, "remove");
	struct nf_live l;

	if (!(create || remove ? name != NULL : !strcmp(what, "list") && !name)) {
		nf_complain("say: foliofs snapshot DIR create NAME | list | remove NAME");
		return NF_EXIT_USAGE;
	}
	enum nf_exit e = nf_live_reach(a->arg[0], &l);
	if (e == NF_EXIT_OK && create)
		e = nf_live_flush_kernel(&l);
	if (e == NF_EXIT_OK)
		e = create ? change(&l, "snapshot-create", name, a->opt.quiet) :
		    remove ? change(&l, "snapshot-remove", name, a->opt.quiet) : list(&l, a->opt.json);
	nf_live_leave(&l);
	return e;
}
