/* The picture as SVG: a bar a layer, a rectangle an extent, titles for whoever points at one. */
#include "base/mem.h"
#include "cli/file_map.h"
#include "daemon/control.h"

#include <inttypes.h>

enum { WIDTH = 1000, LEFT = 90, BAR = 36, GAP = 16, TOP = 60 };

static void escape(struct nf_text *t, const char *s)
{
	struct nf_text name = NF_TEXT_INIT;

	nf_text_name(&name, s);
	for (const char *p = nf_text_str(&name); *p; p++) {
		if (*p == '&' || *p == '<' || *p == '>' || *p == '"')
			nf_textf(t, "&#%d;", *p);
		else
			nf_text_add(t, p, 1);
	}
	nf_text_deinit(&name);
}

static const struct {
	uint32_t flags;
	const char *colour, *is;
} kinds[] = {
	{ FOLIOFS_EXTENT_LOCAL, "#d95f02", "here only, not sent yet" },
	{ FOLIOFS_EXTENT_REMOTE | FOLIOFS_EXTENT_CACHED, "#1b7837", "on the server, with a copy here" },
	{ FOLIOFS_EXTENT_REMOTE, "#a6dba0", "on the server only" },
	{ FOLIOFS_EXTENT_INLINE, "#7570b3", "kept with the attributes" },
	{ FOLIOFS_EXTENT_HOLE, "#eeeeee", "hole" },
};

static size_t kind_of(uint32_t flags)
{
	size_t i = 0;

	while (i + 1 < NF_ARRAY_LEN(kinds) && (flags & kinds[i].flags) != kinds[i].flags)
		i++;
	return i;
}

static const char *state_colour(uint32_t state)
{
	switch (state) {
	case 'F': return "#2166ac";
	case 'A': return "#b2182b";
	case 'D': return "#ef8a62";
	default: return "#999999";
	}
}

static double x_of(const struct nf_file_map *m, uint64_t at)
{
	return LEFT + (WIDTH - LEFT - 10.0) * (double)NF_MIN(at, m->size_bytes) / (double)m->size_bytes;
}

static void extent_to_svg(struct nf_text *t, const struct nf_file_map *m, enum foliofs_map_what what,
			  const struct foliofs_extent *e)
{
	double x = x_of(m, e->start_bytes), w = x_of(m, e->end_bytes) - x;
	const char *colour = what == FOLIOFS_MAP_STORED ? kinds[kind_of(e->flags)].colour :
			     what == FOLIOFS_MAP_MEMORY ? "#4393c3" : state_colour(e->state);

	nf_textf(t, "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"%s\"><title>%" PRIu64 "-%" PRIu64, x,
		 TOP + (int)what * (BAR + GAP), NF_MAX(w, 0.5), BAR, colour, (uint64_t)e->start_bytes,
		 (uint64_t)e->end_bytes);
	if (what == FOLIOFS_MAP_STORED)
		nf_textf(t, " %s, sealed %" PRIu64, kinds[kind_of(e->flags)].is, (uint64_t)e->sealed_bytes);
	else if (what == FOLIOFS_MAP_REGIONS)
		nf_textf(t, " %c group %" PRIu64, (int)e->state, (uint64_t)e->group);
	nf_textf(t, "</title></rect>\n");
}

static void legend_to_svg(struct nf_text *t, int y)
{
	for (size_t i = 0; i < NF_ARRAY_LEN(kinds); i++) {
		int x = LEFT + (int)i * 180;
		nf_textf(t, "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/>"
			 "<text x=\"%d\" y=\"%d\">%s</text>\n", x, y, kinds[i].colour, x + 16, y + 11, kinds[i].is);
	}
}

void nf_file_map_to_svg(const struct nf_file_map *m, const char *name, struct nf_text *t)
{
	static const char *const labels[NF_MAP_LAYERS] = { "stored", "memory", "regions" };
	int height = TOP + NF_MAP_LAYERS * (BAR + GAP) + 30;

	nf_textf(t, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
		 "font-size=\"12\">\n<text x=\"10\" y=\"30\" font-size=\"16\">", WIDTH, height);
	escape(t, name);
	nf_textf(t, ": ");
	nf_text_size(t, m->size_bytes);
	nf_textf(t, ", blocks of ");
	nf_text_size(t, m->block_bytes);
	nf_textf(t, "</text>\n");
	for (int i = 0; i < NF_MAP_LAYERS; i++) {
		nf_textf(t, "<text x=\"10\" y=\"%d\">%s</text>\n", TOP + i * (BAR + GAP) + BAR / 2 + 4, labels[i]);
		for (size_t k = 0; m->size_bytes && k < m->layer[i].nr; k++)
			extent_to_svg(t, m, (enum foliofs_map_what)i, &m->layer[i].e[k]);
	}
	legend_to_svg(t, height - 24);
	nf_textf(t, "</svg>\n");
}
