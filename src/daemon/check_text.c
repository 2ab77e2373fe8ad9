#include "daemon/check_text.h"

#include <inttypes.h>

void nf_check_lines_add(void *lines, const char *line)
{
	struct nf_check_lines *l = lines;

	nf_textf(&l->json, "%s", l->json.len ? "," : "");
	nf_text_json(&l->json, line);
	nf_textf(&l->people, "%s\n", line);
}

void nf_check_lines_deinit(struct nf_check_lines *l)
{
	nf_text_deinit(&l->json);
	nf_text_deinit(&l->people);
}

void nf_check_text(const struct nf_check_result *c, bool repair, struct nf_text *t)
{
	nf_textf(t, "%" PRIu64 " nodes, %" PRIu64 " inodes, %" PRIu64 " blocks, %" PRIu64 " packs, %" PRIu64 " bytes, %" PRIu64
		 " commits, %" PRIu64 " snapshots: %" PRIu64 " problems\n", c->nodes, c->inodes, c->blocks, c->packs, c->bytes,
		 c->commits, c->snapshots, c->problems);
	if (repair && (c->repaired || c->restored))
		nf_textf(t, "%" PRIu64 " problems repaired, %" PRIu64 " older versions put beside what is lost\n", c->repaired,
			 c->restored);
}

void nf_check_json(const struct nf_check_result *c, const struct nf_check_lines *l, struct nf_text *t)
{
#define N(name) "\"" #name "\":%" PRIu64 ","
	nf_textf(t, "{" N(nodes) N(inodes) N(blocks) N(packs) N(bytes), c->nodes, c->inodes, c->blocks, c->packs, c->bytes);
	nf_textf(t, N(commits) N(snapshots) N(repaired) N(restored) "\"left\":%" PRIu64 ",\"problems\":[%s]}", c->commits,
		 c->snapshots, c->repaired, c->restored, c->problems, nf_text_str(&l->json));
#undef N
}
