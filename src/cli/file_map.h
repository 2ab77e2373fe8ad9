/* cli/file_map.h - what `foliofs map` shows: a file as it is kept, in three layers. */
#ifndef NF_CLI_FILE_MAP_H
#define NF_CLI_FILE_MAP_H

#include "base/text.h"
#include "foliofs/ioctl.h"

#include <stdint.h>

enum { NF_MAP_LAYERS = FOLIOFS_MAP_REGIONS + 1 };

struct nf_file_map {
	uint64_t size_bytes;
	uint32_t block_bytes;
	struct nf_map_layer {
		struct foliofs_extent *e; /* ascending by start; owned */
		size_t nr, cap;
	} layer[NF_MAP_LAYERS]; /* by enum foliofs_map_what */
};

/* Asks the open file FD.  -ENOTTY: not on foliofs. */
int nf_file_map_load(int fd, struct nf_file_map *m);
void nf_file_map_deinit(struct nf_file_map *m);
/* For tests and the loader: appends a piece. */
int nf_file_map_add(struct nf_file_map *m, enum foliofs_map_what what, const struct foliofs_extent *e);

void nf_file_map_to_json(const struct nf_file_map *m, const char *name, struct nf_text *t);
/* COLUMNS wide; UTF8: with block characters. */
void nf_file_map_to_text(const struct nf_file_map *m, const char *name, unsigned columns, bool utf8, struct nf_text *t);
void nf_file_map_to_svg(const struct nf_file_map *m, const char *name, struct nf_text *t);

/* Sums over the layer STORED. */
struct nf_map_sums {
	uint64_t data_bytes, hole_bytes, inline_bytes, local_bytes, remote_bytes, cached_bytes, sealed_bytes;
	uint64_t dirty_bytes; /* of the layer REGIONS */
	size_t extents;
};
struct nf_map_sums nf_file_map_sums(const struct nf_file_map *m);

#endif
