/* The picture for a terminal: a strip a layer, all of one scale.
 *
 *	stored   ████████▒▒▒▒▒▒▒▒········    what blocks are made of; the least safe part of a cell counts
 *	size     ▇▇▇▇▇▇▇▇▂▂▂▂▂▂▂▂            sealed bytes for plain ones
 *	memory   ████
 *	regions     DDFF                     states; the busiest of a cell
 *	group       1122                     its last digit, + for several */
#include "base/mem.h"
#include "cli/file_map.h"
#include "daemon/control.h"

#include <inttypes.h>

enum { LABEL = 9, CELLS_MIN = 16, CELLS_MAX = 400, LEVELS = 8 };

struct cell {
	uint32_t flags;      /* of all extents in it */
	uint64_t data_bytes; /* plain, without holes */
	double sealed_bytes;
	bool memory;
	char state;
	uint64_t group;
	bool several;
};

/* Later ones show over earlier ones. */
static const char state_order[] = "DPRFA";

static void add_state(struct cell *c, const struct foliofs_extent *e)
{
	const char *was = c->state ? strchr(state_order, c->state) : NULL, *now = strchr(state_order, (int)e->state);

	if (now && (!was || now > was))
		c->state = *now;
	c->several = c->several || (c->group && e->group && c->group != e->group);
	c->group = e->group ? e->group : c->group;
}

static void add_to_cell(struct cell *c, enum foliofs_map_what what, const struct foliofs_extent *e, uint64_t part)
{
	uint64_t len = e->end_bytes - e->start_bytes;

	if (what == FOLIOFS_MAP_MEMORY) {
		c->memory = true;
	} else if (what == FOLIOFS_MAP_REGIONS) {
		add_state(c, e);
	} else {
		c->flags |= e->flags;
		if (!(e->flags & FOLIOFS_EXTENT_HOLE))
			c->data_bytes += part;
		c->sealed_bytes += (double)e->sealed_bytes * (double)part / (double)len;
	}
}

static void add_layer(struct cell *cells, unsigned nr, const struct nf_file_map *m, enum foliofs_map_what what)
{
	double scale = (double)nr / (double)m->size_bytes;

	for (size_t i = 0; i < m->layer[what].nr; i++) {
		const struct foliofs_extent *e = &m->layer[what].e[i];
		uint64_t end = NF_MIN((uint64_t)e->end_bytes, m->size_bytes);
		for (unsigned k = (unsigned)((double)e->start_bytes * scale); k < nr && e->start_bytes < end; k++) {
			uint64_t from = (uint64_t)((double)k / scale), to = (uint64_t)((double)(k + 1) / scale);
			if (from >= end)
				break;
			from = NF_MAX(from, (uint64_t)e->start_bytes);
			to = NF_MIN(to, end);
			add_to_cell(&cells[k], what, e, to > from ? to - from : 0);
		}
	}
}

static const char *stored_glyph(const struct cell *c, bool utf8)
{
	if (c->flags & FOLIOFS_EXTENT_LOCAL)
		return utf8 ? "▓" : "L";
	if (c->flags & FOLIOFS_EXTENT_INLINE)
		return utf8 ? "▪" : "i";
	if (c->flags & FOLIOFS_EXTENT_REMOTE)
		return c->flags & FOLIOFS_EXTENT_CACHED ? (utf8 ? "█" : "#") : (utf8 ? "░" : "-");
	return utf8 ? "·" : ".";
}

static void size_strip(struct nf_text *t, const struct cell *c, bool utf8)
{
	static const char *const bars[LEVELS] = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
	double ratio = c->data_bytes ? c->sealed_bytes / (double)c->data_bytes : 0;
	unsigned level = (unsigned)NF_MIN(ratio * LEVELS, (double)LEVELS - 1);

	if (!c->data_bytes || c->sealed_bytes <= 0)
		nf_textf(t, " ");
	else if (utf8)
		nf_textf(t, "%s", bars[level]);
	else
		nf_textf(t, "%u", level + 1);
}

enum strip { STORED, SEALED, MEMORY, REGIONS, GROUP, STRIPS };

static void cell_to_text(struct nf_text *t, enum strip s, const struct cell *c, bool utf8)
{
	switch (s) {
	case STORED:
		nf_textf(t, "%s", stored_glyph(c, utf8));
		break;
	case SEALED:
		size_strip(t, c, utf8);
		break;
	case MEMORY:
		nf_textf(t, "%s", c->memory ? (utf8 ? "▬" : "m") : " ");
		break;
	case REGIONS:
		nf_textf(t, "%c", c->state ? c->state : ' ');
		break;
	case GROUP:
		nf_textf(t, "%c", c->several ? '+' : c->group ? (char)('0' + c->group % 10) : ' ');
		break;
	case STRIPS:
		break;
	}
}

static void strips_to_text(struct nf_text *t, const struct cell *cells, unsigned nr, bool utf8)
{
	static const char *const labels[STRIPS] = { "stored", "size", "memory", "regions", "group" };

	for (enum strip s = STORED; s < STRIPS; s++) {
		nf_textf(t, "%-*s", LABEL, labels[s]);
		for (unsigned i = 0; i < nr; i++)
			cell_to_text(t, s, &cells[i], utf8);
		/* Nothing hangs over the edge of a line. */
		while (t->len && t->s[t->len - 1] == ' ')
			t->s[--t->len] = '\0';
		nf_textf(t, "\n");
	}
}

/* 0, a quarter, half... under the strips. */
static void ruler_to_text(struct nf_text *t, uint64_t size, unsigned nr)
{
	unsigned at = 0, marks = nr >= 60 ? 4 : 2;

	nf_textf(t, "%-*s", LABEL, "");
	for (unsigned i = 0; i <= marks; i++) {
		struct nf_text n = NF_TEXT_INIT;
		unsigned want = nr * i / marks;
		nf_text_size(&n, size / marks * i + (i == marks ? size % marks : 0));
		unsigned len = (unsigned)n.len + 1;
		want = i == marks ? nr - NF_MIN(nr, len) : want;
		if (want >= at) {
			nf_textf(t, "%*s|%s", (int)(want - at), "", nf_text_str(&n));
			at = want + len;
		}
		nf_text_deinit(&n);
	}
	nf_textf(t, "\n");
}

static void sum(struct nf_text *t, const char *before, uint64_t bytes, const char *after)
{
	nf_textf(t, "%s", before);
	nf_text_size(t, bytes);
	nf_textf(t, "%s", after);
}

static void legend_to_text(struct nf_text *t, const struct nf_file_map *m, bool utf8)
{
	struct nf_map_sums s = nf_file_map_sums(m);
	const struct nf_map_layer *rg = &m->layer[FOLIOFS_MAP_REGIONS];

	if (s.cached_bytes)
		sum(t, utf8 ? "  █ " : "  # ", s.cached_bytes, " on the server, with a copy here\n");
	if (s.remote_bytes > s.cached_bytes)
		sum(t, utf8 ? "  ░ " : "  - ", s.remote_bytes - s.cached_bytes, " on the server only\n");
	if (s.local_bytes)
		sum(t, utf8 ? "  ▓ " : "  L ", s.local_bytes, " here only, not sent yet\n");
	if (s.inline_bytes)
		sum(t, utf8 ? "  ▪ " : "  i ", s.inline_bytes, " kept with the attributes\n");
	if (s.hole_bytes)
		sum(t, utf8 ? "  · " : "  . ", s.hole_bytes, " of holes\n");
	if (s.sealed_bytes)
		nf_textf(t, "  sealed to %.0f %%\n", 100.0 * (double)s.sealed_bytes / (double)NF_MAX(s.data_bytes, UINT64_C(1)));
	if (rg->nr) {
		nf_textf(t, "  %zu region%s, ", rg->nr, rg->nr == 1 ? "" : "s");
		sum(t, "", s.dirty_bytes, " modified and not stored (P R waiting, A being written, D dirty, F flushing)\n");
	}
}

void nf_file_map_to_text(const struct nf_file_map *m, const char *name, unsigned columns, bool utf8, struct nf_text *t)
{
	unsigned nr = columns > LABEL + CELLS_MIN ? columns - LABEL : CELLS_MIN;
	struct cell *cells;

	nr = NF_MIN(nr, (unsigned)CELLS_MAX);
	nf_text_name(t, name);
	sum(t, ": ", m->size_bytes, "");
	nf_textf(t, " (%" PRIu64 " bytes), ", m->size_bytes);
	sum(t, "blocks of ", m->block_bytes, "\n");
	if (!m->size_bytes)
		return;
	cells = calloc(nr, sizeof *cells);
	if (!cells) {
		t->failed = true;
		return;
	}
	for (int i = 0; i < NF_MAP_LAYERS; i++)
		add_layer(cells, nr, m, (enum foliofs_map_what)i);
	strips_to_text(t, cells, nr, utf8);
	ruler_to_text(t, m->size_bytes, nr);
	legend_to_text(t, m, utf8);
	free(cells);
}
