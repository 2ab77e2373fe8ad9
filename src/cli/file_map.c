/* What is known of a file's parts: asking for it, adding it up, as JSON. */
#include "cli/file_map.h"

#include "base/error.h"
#include "base/mem.h"

#include <inttypes.h>
#include <sys/ioctl.h>

int nf_file_map_add(struct nf_file_map *m, enum foliofs_map_what what, const struct foliofs_extent *e)
{
	struct nf_map_layer *l = &m->layer[what];
	struct foliofs_extent *last = l->nr ? &l->e[l->nr - 1] : NULL;

	if (last && what != FOLIOFS_MAP_REGIONS && last->end_bytes == e->start_bytes && last->flags == e->flags) {
		last->end_bytes = e->end_bytes;
		last->sealed_bytes += e->sealed_bytes;
		return 0;
	}
	if (l->nr == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		void *more = realloc(l->e, cap * sizeof *l->e);
		if (!more)
			return nf_fail(-ENOMEM);
		l->e = more;
		l->cap = cap;
	}
	l->e[l->nr++] = *e;
	return 0;
}

static int load_layer(int fd, struct foliofs_map *q, enum foliofs_map_what what, struct nf_file_map *m)
{
	uint64_t at = 0;

	while (at != UINT64_MAX) {
		q->start_bytes = at;
		q->what = what;
		q->reserved = 0;
		if (ioctl(fd, FOLIOFS_IOC_MAP, q))
			return nf_fail(-errno);
		if (q->nr_extents > FOLIOFS_MAP_EXTENTS || q->next_bytes <= at)
			return nf_fail(-EPROTO);
		m->size_bytes = q->size_bytes;
		m->block_bytes = q->block_bytes;
		for (uint32_t i = 0; i < q->nr_extents; i++) {
			int r = nf_file_map_add(m, what, &q->extents[i]);
			if (r < 0)
				return r;
		}
		at = q->next_bytes;
	}
	return 0;
}

int nf_file_map_load(int fd, struct nf_file_map *m)
{
	nf_auto_free struct foliofs_map *q = calloc(1, sizeof *q);
	int r = q ? 0 : nf_fail(-ENOMEM);

	*m = (struct nf_file_map){ 0 };
	for (int i = 0; i < NF_MAP_LAYERS && r == 0; i++)
		r = load_layer(fd, q, (enum foliofs_map_what)i, m);
	if (r < 0)
		nf_file_map_deinit(m);
	return r;
}

void nf_file_map_deinit(struct nf_file_map *m)
{
	for (int i = 0; i < NF_MAP_LAYERS; i++)
		free(m->layer[i].e);
	*m = (struct nf_file_map){ 0 };
}

struct nf_map_sums nf_file_map_sums(const struct nf_file_map *m)
{
	const struct nf_map_layer *stored = &m->layer[FOLIOFS_MAP_STORED], *regions = &m->layer[FOLIOFS_MAP_REGIONS];
	struct nf_map_sums s = { .extents = stored->nr };

	for (size_t i = 0; i < stored->nr; i++) {
		const struct foliofs_extent *e = &stored->e[i];
		uint64_t n = e->end_bytes - e->start_bytes;
		s.hole_bytes += e->flags & FOLIOFS_EXTENT_HOLE ? n : 0;
		s.data_bytes += e->flags & FOLIOFS_EXTENT_HOLE ? 0 : n;
		s.inline_bytes += e->flags & FOLIOFS_EXTENT_INLINE ? n : 0;
		s.local_bytes += e->flags & FOLIOFS_EXTENT_LOCAL ? n : 0;
		s.remote_bytes += e->flags & FOLIOFS_EXTENT_REMOTE ? n : 0;
		s.cached_bytes += e->flags & FOLIOFS_EXTENT_CACHED ? n : 0;
		s.sealed_bytes += e->sealed_bytes;
	}
	for (size_t i = 0; i < regions->nr; i++)
		s.dirty_bytes += regions->e[i].end_bytes - regions->e[i].start_bytes;
	return s;
}

/* --- JSON ------------------------------------------------------------------------------------- */

static void flag_words(struct nf_text *t, uint32_t flags)
{
	static const char *const words[] = { "hole", "inline", "local", "remote", "cached" };
	const char *comma = "";

	nf_textf(t, "[");
	for (size_t i = 0; i < NF_ARRAY_LEN(words); i++) {
		if (flags >> i & 1) {
			nf_textf(t, "%s\"%s\"", comma, words[i]);
			comma = ",";
		}
	}
	nf_textf(t, "]");
}

static void extent_to_json(struct nf_text *t, const struct foliofs_extent *e, enum foliofs_map_what what)
{
	nf_textf(t, "{\"start\":%" PRIu64 ",\"end\":%" PRIu64, (uint64_t)e->start_bytes, (uint64_t)e->end_bytes);
	if (what == FOLIOFS_MAP_STORED) {
		nf_textf(t, ",\"is\":");
		flag_words(t, e->flags);
		nf_textf(t, ",\"sealed_bytes\":%" PRIu64, (uint64_t)e->sealed_bytes);
	} else if (what == FOLIOFS_MAP_REGIONS) {
		nf_textf(t, ",\"state\":\"%c\",\"group\":%" PRIu64, (int)e->state, (uint64_t)e->group);
	}
	nf_textf(t, "}");
}

void nf_file_map_to_json(const struct nf_file_map *m, const char *name, struct nf_text *t)
{
	static const char *const layers[NF_MAP_LAYERS] = { "stored", "memory", "regions" };

	nf_textf(t, "{\"file\":");
	nf_text_json(t, name);
	nf_textf(t, ",\"size_bytes\":%" PRIu64 ",\"block_bytes\":%u", m->size_bytes, m->block_bytes);
	for (int i = 0; i < NF_MAP_LAYERS; i++) {
		nf_textf(t, ",\"%s\":[", layers[i]);
		for (size_t k = 0; k < m->layer[i].nr; k++) {
			if (k)
				nf_textf(t, ",");
			extent_to_json(t, &m->layer[i].e[k], (enum foliofs_map_what)i);
		}
		nf_textf(t, "]");
	}
	nf_textf(t, "}\n");
}
