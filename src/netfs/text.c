/* The lists of /proc/fs/netfs, as text. */
#include "netfs/types.h"

#include "base/error.h"

#include <inttypes.h>

static const char *const wreq_phases[] = {
	[NF_WREQ_FILLING] = "fill", [NF_WREQ_WAITING] = "wait", [NF_WREQ_GATHERING] = "gather",
	[NF_WREQ_STORING] = "store", [NF_WREQ_RESEND] = "resend",
};
static const char *const rreq_phases[] = {
	[NF_RREQ_ISSUED] = "read", [NF_RREQ_APPLY_WAIT] = "wait", [NF_RREQ_APPLYING] = "apply",
};

static void rreq_to_text(struct nf_text *t, const struct nf_rreq *rq)
{
	nf_textf(t, "%08x %s %-6s %5u     - %-16" PRIx64 " @%" PRIx64 "-%" PRIx64 "\n", rq->id,
		 rq->fill ? "RW" : rq->own ? "RO" : rq->ahead ? "RA" : "RP", rreq_phases[rq->phase],
		 rq->sub.sq.attempt, rq->p->ic->ino, rq->start, rq->end);
}

static void wreq_to_text(struct nf_text *t, struct nf_wreq *wq)
{
	uint64_t bb = wq->p->ic->block_bytes;
	uint64_t first = wq->nr_blocks ? wq->blocks[0].index : 0;
	uint64_t last = wq->nr_blocks ? wq->blocks[wq->nr_blocks - 1].index + 1 : 0;

	/* Written with this lock, or with the inode's, which is held. */
	nf_lock_take(&wq->sub_lock);
	int error = wq->error;
	nf_lock_drop(&wq->sub_lock);
	nf_textf(t, "%08x %s %-6s     - %5d %-16" PRIx64 " @%" PRIx64 "-%" PRIx64 " blocks=%u group=%" PRIu64
		 "\n", wq->id, wq->copy ? "2C" : "WB", wreq_phases[wq->phase], error, wq->p->ic->ino, first * bb, last * bb,
		 wq->nr_blocks, wq->group_number);
}

static void regions_of(struct nf_text *t, struct nf_ictx_priv *p)
{
	uint64_t ino = p->ic->ino, bb = p->ic->block_bytes;

	nf_list_for_each(rg, &p->pending, struct nf_region, link)
		nf_region_to_text(t, rg, ino, bb, 0);
	nf_list_for_each(rg, &p->active, struct nf_region, link)
		nf_region_to_text(t, rg, ino, bb, 0);
	for (struct nf_region *rg = nf_regions_at(&p->flushing, 0); rg; rg = nf_regions_next(rg)) {
		const struct nf_claim *cl = nf_claim_at_locked(p, rg->start / bb);
		nf_region_to_text(t, rg, ino, bb, cl ? cl->wreq->id : 0);
	}
	for (struct nf_region *rg = nf_regions_at(&p->dirty, 0); rg; rg = nf_regions_next(rg))
		nf_region_to_text(t, rg, ino, bb, 0);
	for (struct nf_region *rg = nf_regions_at(&p->copies, 0); rg; rg = nf_regions_next(rg))
		nf_region_to_text(t, rg, ino, bb, 0);
}

static void requests_of(struct nf_text *t, struct nf_ictx_priv *p)
{
	nf_list_for_each(rq, &p->rreqs, struct nf_rreq, link)
		rreq_to_text(t, rq);
	nf_list_for_each(wq, &p->wreqs, struct nf_wreq, link)
		wreq_to_text(t, wq);
}

/* Inode locks come before the library's: contexts are held by a reference, one after the other. */
static void for_each_ictx(struct nf_netfs *lib, struct nf_text *t,
			  void (*fn)(struct nf_text *t, struct nf_ictx_priv *p))
{
	struct nf_ictx_priv **all = NULL;
	size_t nr = 0, i = 0;

	nf_lock_take(&lib->lock);
	nf_list_for_each(p, &lib->all, struct nf_ictx_priv, all_link)
		nr++;
	all = calloc(nr ? nr : 1, sizeof(struct nf_ictx_priv *));
	nf_list_for_each(p, &lib->all, struct nf_ictx_priv, all_link) {
		if (all && nf_ic_get_live(p))
			all[i++] = p;
	}
	nf_lock_drop(&lib->lock);
	for (nr = i, i = 0; i < nr; i++) {
		nf_lock_take(&all[i]->lock);
		fn(t, all[i]);
		nf_lock_drop(&all[i]->lock);
		nf_ic_put(all[i]);
	}
	free(all);
}

static int take_text(struct nf_text *t, char **out)
{
	if (t->failed) {
		nf_text_deinit(t);
		return nf_fail(-ENOMEM);
	}
	*out = t->s;
	return 0;
}

int nf_netfs_regions_text(struct nf_netfs *lib, char **out)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, "%s", nf_region_text_header);
	for_each_ictx(lib, &t, regions_of);
	return take_text(&t, out);
}

int nf_netfs_requests_text(struct nf_netfs *lib, char **out)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, "REQUEST  OR PHASE  TRIES   ERR INODE            COVERAGE\n");
	for_each_ictx(lib, &t, requests_of);
	return take_text(&t, out);
}
