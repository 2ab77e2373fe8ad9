#include "pagecache/group.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"
#include "pagecache/region.h"

struct nf_group *nf_group_new(uint64_t number)
{
	struct nf_group *g = nf_record_alloc(sizeof *g);

	g->number = number;
	g->least_size_bytes = UINT64_MAX;
	nf_list_init(&g->link);
	nf_list_init(&g->dirty);
	nf_rangeset_init(&g->ranges);
	nf_rangeset_init(&g->holes);
	return g;
}

void nf_group_free(struct nf_group *g)
{
	if (!g)
		return;
	NF_ASSERT(nf_list_empty(&g->link));
	NF_ASSERT(nf_list_empty(&g->dirty));
	NF_ASSERT(g->nr_writers == 0);
	NF_ASSERT(g->nr_requests == 0);
	nf_rangeset_deinit(&g->ranges);
	nf_rangeset_deinit(&g->holes);
	free(g);
}

static void changed(struct nf_group *g)
{
	if (!g->changed)
		g->since_ns = nf_clock_ns();
	g->changed = true;
}

void nf_group_grew(struct nf_group *g, uint64_t size_bytes)
{
	changed(g);
	g->grown_bytes = NF_MAX(g->grown_bytes, size_bytes);
}

void nf_group_wrote(struct nf_group *g, uint64_t start, uint64_t end)
{
	changed(g);
	nf_rangeset_remove(&g->holes, start, end);
	g->grown_bytes = NF_MAX(g->grown_bytes, end); /* also when it is zeroed later */
}

void nf_group_gathered(struct nf_group *g, uint64_t start, uint64_t end)
{
	nf_rangeset_add(&g->ranges, start, end);
}

void nf_group_zeroed(struct nf_group *g, uint64_t start, uint64_t end)
{
	changed(g);
	nf_rangeset_remove(&g->ranges, start, end);
	nf_rangeset_add(&g->holes, start, end);
}

void nf_group_truncated(struct nf_group *g, uint64_t size_bytes)
{
	changed(g);
	g->least_size_bytes = NF_MIN(g->least_size_bytes, size_bytes);
	g->grown_bytes = NF_MIN(g->grown_bytes, size_bytes);
	nf_rangeset_remove(&g->ranges, size_bytes, UINT64_MAX);
}

/* An exact array of S, cut at END. */
static int to_array(const struct nf_rangeset *s, uint64_t end, const struct nf_range **out,
		    size_t *nr_out)
{
	struct nf_range *a = calloc(s->nr ? s->nr : 1, sizeof *a);
	uint64_t pos = 0;
	size_t nr = 0;

	if (!a)
		return nf_fail(-ENOMEM);
	while (pos < end && nf_rangeset_next(s, pos, &a[nr].start, &a[nr].end)) {
		if (a[nr].start >= end)
			break;
		pos = a[nr].end;
		nr++;
		if (nr == s->nr)
			break;
	}
	*out = a;
	*nr_out = nr;
	return 0;
}

int nf_group_info_init(struct nf_group_info *info, const struct nf_group *g)
{
	*info = (struct nf_group_info){
		.group = g->number,
		.least_size_bytes = g->least_size_bytes,
		.size_bytes = g->size_bytes,
		.appended = g->appended,
		.page_granular = g->page_granular,
	};
	int r = to_array(&g->ranges, UINT64_MAX, &info->ranges, &info->nr_ranges);
	if (r < 0)
		return r;
	r = to_array(&g->holes, g->size_bytes, &info->holes, &info->nr_holes);
	if (r < 0)
		free((void *)(uintptr_t)info->ranges);
	return r;
}

void nf_group_info_deinit(struct nf_group_info *info)
{
	free((void *)(uintptr_t)info->ranges);
	free((void *)(uintptr_t)info->holes);
}
