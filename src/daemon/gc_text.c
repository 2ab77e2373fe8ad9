#include "daemon/gc_text.h"

#include "daemon/control.h"

#include <inttypes.h>

static void line(struct nf_text *t, const char *what, uint64_t packs, uint64_t bytes)
{
	nf_textf(t, "%-22s %8" PRIu64 " packs  ", what, packs);
	nf_text_size(t, bytes);
	nf_textf(t, "\n");
}

void nf_gc_text(const struct nf_gc_result *r, bool dry_run, struct nf_text *t)
{
	line(t, "on the store:", r->packs, r->bytes);
	line(t, "needed:", r->live_packs, r->live_bytes);
	if (r->old_packs)
		line(t, "  under older keys:", r->old_packs, r->old_bytes);
	line(t, dry_run ? "would be condemned:" : "condemned now:", r->dead_packs, r->dead_bytes);
	if (r->leftover_packs)
		line(t, "  of broken uploads:", r->leftover_packs, r->leftover_bytes);
	line(t, "waiting for the grace:", r->waiting_packs, r->waiting_bytes);
	line(t, dry_run ? "would be deleted:" : "deleted:", r->deleted_packs, r->deleted_bytes);
	if (r->emptied_packs)
		nf_textf(t, "%-22s %8" PRIu64 " packs\n", dry_run ? "would be emptied:" : "emptied:", r->emptied_packs);
	if (r->moved_bytes) {
		nf_textf(t, dry_run ? "would be copied:                       " : "copied from them:                      ");
		nf_text_size(t, r->moved_bytes);
		nf_textf(t, "\n");
	}
	if (r->resealed_bytes) {
		nf_textf(t, "  sealed again:                        ");
		nf_text_size(t, r->resealed_bytes);
		nf_textf(t, "\n");
	}
	nf_textf(t, "%" PRIu64 " commits kept, %" PRIu64 " %s\n", r->roots_kept, r->roots_dropped,
		 dry_run ? "would be dropped" : "dropped");
	if (r->damaged_roots)
		nf_textf(t, "%" PRIu64 " kept commits or snapshots are damaged; see foliofs check\n", r->damaged_roots);
}

void nf_gc_json(const struct nf_gc_result *r, struct nf_text *t)
{
#define N(name) "\"" #name "\":%" PRIu64
	nf_textf(t, "{" N(packs) "," N(bytes) "," N(live_packs) "," N(live_bytes) "," N(old_packs) "," N(old_bytes) ","
		 N(dead_packs) "," N(dead_bytes) ",",
		 r->packs, r->bytes, r->live_packs, r->live_bytes, r->old_packs, r->old_bytes, r->dead_packs, r->dead_bytes);
	nf_textf(t, N(leftover_packs) "," N(leftover_bytes) "," N(waiting_packs) "," N(waiting_bytes) "," N(deleted_packs)
		 "," N(deleted_bytes) "," N(young_packs) ",", r->leftover_packs, r->leftover_bytes, r->waiting_packs,
		 r->waiting_bytes, r->deleted_packs, r->deleted_bytes, r->young_packs);
	nf_textf(t, N(roots_kept) "," N(roots_dropped) "," N(deltas_dropped) "," N(emptied_packs) ","
		 N(moved_packs) "," N(moved_bytes) "," N(resealed_bytes) "," N(moved_trees) "," N(damaged_roots) "," N(nodes) "," N(fetched_nodes) "}", r->roots_kept, r->roots_dropped,
		 r->deltas_dropped, r->emptied_packs, r->moved_packs, r->moved_bytes, r->resealed_bytes, r->moved_trees, r->damaged_roots,
		 r->nodes, r->fetched_nodes);
#undef N
}
