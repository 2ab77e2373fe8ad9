/* journal/frame.h - the frame's header in memory and on disk (journal.h has the
 * drawing). */
#ifndef NF_JOURNAL_FRAME_H
#define NF_JOURNAL_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NF_FRAME_HEADER = 40, NF_FRAME_ALIGN = 8 };

struct nf_frame {
	char kind;
	uint32_t len_bytes; /* of the payload */
	uint64_t synced_bytes;
	uint64_t number;
};

/* Bytes a frame with this payload takes. */
uint64_t nf_frame_size(size_t len_bytes);
/* PAYLOAD: what the check covers besides the header; NULL for D frames. */
void nf_frame_encode(const struct nf_frame *f, const void *payload, uint8_t out[NF_FRAME_HEADER]);
/* False if it is no header; the check is not looked at. */
bool nf_frame_decode(const uint8_t in[NF_FRAME_HEADER], struct nf_frame *f);
bool nf_frame_check(const uint8_t in[NF_FRAME_HEADER], const struct nf_frame *f,
		    const void *payload);

#endif
