/* vault/call_ioctl.c - what include/foliofs/ioctl.h offers to programs. */
#include "base/error.h"
#include "base/mem.h"
#include "foliofs/ioctl.h"
#include "vault/calls.h"

/* Windows looked at in one call, under the namespace lock. */
enum { WINDOWS_MAX = 64 };

static int barrier(struct nf_vault *v, struct nf_call *c)
{
	struct nf_vnode *vn = c->file->vn;

	if (!c->file->writable)
		return nf_fail(-EBADF);
	int r = nf_may_change(v);
	if (r < 0)
		return r;
	(void)nf_group_close(&vn->ic);
	return 0;
}

/* --- the map ---------------------------------------------------------------------------------- */

/* False: no room. */
static bool add_stored(struct foliofs_map *m, uint64_t start, uint64_t end, uint32_t flags, uint32_t sealed)
{
	struct foliofs_extent *last = m->nr_extents ? &m->extents[m->nr_extents - 1] : NULL;

	if (last && last->end_bytes == start && last->flags == flags) {
		last->end_bytes = end;
		last->sealed_bytes += sealed;
		return true;
	}
	if (m->nr_extents == FOLIOFS_MAP_EXTENTS)
		return false;
	m->extents[m->nr_extents++] = (struct foliofs_extent){
		.start_bytes = start, .end_bytes = end, .sealed_bytes = sealed, .flags = flags,
	};
	return true;
}

static uint32_t flags_of(struct nf_vault *v, const struct nf_block_ref *ref)
{
	if (!ref->sealed_len)
		return FOLIOFS_EXTENT_HOLE;
	if (nf_ref_is_local(&ref->pack))
		return FOLIOFS_EXTENT_LOCAL;
	bool cached = v->cache && nf_cache_present(v->cache, &ref->pack, ref->offset_bytes, ref->sealed_len) ==
				  ref->sealed_len;
	return FOLIOFS_EXTENT_REMOTE | (cached ? FOLIOFS_EXTENT_CACHED : 0);
}

/* As far as windows are known: whatever of a long file is in the map stays there when a node is missing. */
static int map_stored(struct nf_vault *v, struct nf_vnode *vn, struct foliofs_map *m, struct nf_want *w)
{
	struct nf_block_ref window[NF_WINDOW_BLOCKS];
	uint64_t size = m->size_bytes, pos = m->start_bytes >> vn->block_shift;
	uint64_t end = (size + (1u << vn->block_shift) - 1) >> vn->block_shift;

	if (size <= NF_INLINE_MAX) {
		if (m->start_bytes < size)
			(void)add_stored(m, m->start_bytes, size, FOLIOFS_EXTENT_INLINE, 0);
		return 0;
	}
	for (unsigned n = 0; pos < end && n < WINDOWS_MAX; n++) {
		uint64_t first = pos / NF_WINDOW_BLOCKS * NF_WINDOW_BLOCKS;
		int r = nf_vnode_window(vn, first, w, window);
		if (r == NF_TREE_WANT && m->nr_extents)
			break; /* the next call begins there */
		if (r)
			return r;
		for (; pos < end && pos < first + NF_WINDOW_BLOCKS; pos++) {
			const struct nf_block_ref *ref = &window[pos - first];
			uint64_t start = NF_MAX(pos << vn->block_shift, m->start_bytes);
			uint64_t stop = NF_MIN((pos + 1) << vn->block_shift, size);
			if (!add_stored(m, start, stop, flags_of(v, ref), ref->sealed_len)) {
				m->next_bytes = start;
				return 0;
			}
		}
	}
	if (pos < end)
		m->next_bytes = pos << vn->block_shift;
	return 0;
}

static void map_memory(struct nf_vnode *vn, struct foliofs_map *m)
{
	struct nf_map_extent e[FOLIOFS_MAP_EXTENTS];
	uint64_t next;

	size_t nr = nf_ictx_map(&vn->ic, m->what == FOLIOFS_MAP_REGIONS ? NF_MAP_REGIONS : NF_MAP_MEMORY, m->start_bytes,
				e, FOLIOFS_MAP_EXTENTS, &next);
	for (size_t i = 0; i < nr; i++)
		m->extents[m->nr_extents++] = (struct foliofs_extent){
			.start_bytes = e[i].start, .end_bytes = e[i].end, .group = e[i].group,
			.state = (uint32_t)(unsigned char)e[i].state,
		};
	m->next_bytes = next;
}

static int map(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_vnode *vn = c->file->vn;
	const struct foliofs_map *in = c->data;

	if (c->size != sizeof *in || c->out_size != sizeof *in)
		return nf_fail(-EINVAL);
	if (in->what > FOLIOFS_MAP_REGIONS || in->reserved)
		return nf_fail(-EINVAL);
	struct foliofs_map *m = calloc(1, sizeof *m);
	if (!m)
		return nf_fail(-ENOMEM);
	*m = (struct foliofs_map){ .start_bytes = in->start_bytes, .what = in->what, .next_bytes = UINT64_MAX,
				   .size_bytes = nf_i_size(&vn->ic), .block_bytes = 1u << vn->block_shift };
	int r = 0;
	if (m->what == FOLIOFS_MAP_STORED)
		r = map_stored(v, vn, m, w);
	else
		map_memory(vn, m);
	if (r) {
		free(m);
		if (r == NF_TREE_WANT) {
			int k = nf_call_keep_data(c);
			return k < 0 ? k : r;
		}
		return r;
	}
	c->buf = m;
	c->count = sizeof *m;
	return 0;
}

int nf_do_ioctl(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	/* A directory is opened without a vnode. */
	if (!c->file || !c->file->vn)
		return -ENOTTY;
	switch (c->cmd) {
	case FOLIOFS_IOC_BARRIER:
		return barrier(v, c);
	case FOLIOFS_IOC_MAP:
		return map(v, c, w);
	default:
		return -ENOTTY;
	}
}
