/* EXTENT values: a window of 128 blocks as segments (docs/format.md section 6).
 *
 *     kind 0 | first | count - 1 | pack offset birth index epoch | count x (word, tag, [plain length])
 *     kind 1 | first | count - 1           only in deltas: these become holes
 *     kind 2 | leaf [52] | ino | first block     alone: the whole value stands there
 *
 * A segment is a run of blocks that stand one behind the other in one pack, sealed as one birth. */
#include "vault/item.h"

#include "base/assert.h"
#include "base/error.h"

#include <inttypes.h>

enum {
	WORD_LEN = 0xffffff,
	WORD_ZSTD = 1 << 24,
	WORD_PLAIN = 1 << 25,
	WORD_KNOWN = WORD_LEN | WORD_ZSTD | WORD_PLAIN,
	SEALED_MIN_BYTES = 24 + 16,
	SEALED_MAX_BYTES = 8 << 20,
	SEG_BLOCKS = 0,
	SEG_HOLES = 1,
	BY_REF = 2,
	LEAF_PLAIN_MAX_BYTES = 32 << 10,
};

/* --- decoding -------------------------------------------------------------------------- */

/* One segment's blocks to OUT.  A block whose plain length is that of the file's blocks gets
 * BLOCK_BYTES. */
static void read_blocks(struct nf_rd *rd, const struct nf_pack_id *self, unsigned nr, uint32_t block_bytes,
			struct nf_block_ref *out)
{
	struct nf_block_ref b;
	uint64_t offset;

	memset(&b, 0, sizeof b);
	nf_rd_copy(rd, b.pack.b, sizeof b.pack.b);
	offset = nf_rd_u32(rd);
	b.birth = nf_rd_u64(rd);
	b.index = nf_rd_u32(rd);
	b.epoch = nf_rd_u32(rd);
	if (self && nf_pack_id_is_zero(&b.pack))
		b.pack = *self;
	if (b.epoch == 0 || b.birth >> 63 || b.index > UINT32_MAX - (nr - 1))
		rd->bad = true;
	for (unsigned i = 0; i < nr && !rd->bad; i++, b.index++) {
		uint32_t word = nf_rd_u32(rd);
		b.offset_bytes = (uint32_t)offset;
		b.sealed_len = word & WORD_LEN;
		b.flags = word & WORD_ZSTD ? 1 : 0;
		nf_rd_copy(rd, b.tag, sizeof b.tag);
		b.plain_len = word & WORD_PLAIN ? nf_rd_u32(rd) : block_bytes;
		offset += b.sealed_len;
		if ((word & ~(uint32_t)WORD_KNOWN) || b.sealed_len < SEALED_MIN_BYTES ||
		    b.sealed_len > SEALED_MAX_BYTES || offset > UINT32_MAX || b.plain_len == 0 ||
		    b.plain_len > block_bytes || ((word & WORD_PLAIN) && b.plain_len == block_bytes))
			rd->bad = true;
		out[i] = b;
	}
}

int nf_extent_decode(const void *p, size_t len, const struct nf_pack_id *self, uint32_t block_bytes,
		     struct nf_block_ref out[NF_WINDOW_BLOCKS], bool known[NF_WINDOW_BLOCKS])
{
	struct nf_block_ref blocks[NF_WINDOW_BLOCKS];
	bool named[NF_WINDOW_BLOCKS] = { false };
	struct nf_rd rd = nf_rd_of(p, len);
	unsigned next = 0;

	memset(blocks, 0, sizeof blocks);
	while (!rd.bad && nf_rd_left(&rd)) {
		uint8_t kind = nf_rd_u8(&rd);
		unsigned first = nf_rd_u8(&rd), nr = nf_rd_u8(&rd) + 1U;
		if (rd.bad || first < next || first + nr > NF_WINDOW_BLOCKS || kind > SEG_HOLES ||
		    (kind == SEG_HOLES && !known))
			return nf_fail(-NF_E_FORMAT_BAD);
		if (kind == SEG_BLOCKS)
			read_blocks(&rd, self, nr, block_bytes, blocks + first);
		memset(named + first, true, nr);
		next = first + nr;
	}
	int r = nf_rd_error(&rd, true);
	if (r < 0)
		return r;
	memcpy(out, blocks, sizeof blocks);
	if (known)
		memcpy(known, named, sizeof named);
	return 0;
}

/* --- encoding --------------------------------------------------------------------------- */

static bool is_hole(const struct nf_block_ref *b) { return b->sealed_len == 0; }

/* B stands right behind A and was sealed right after it. */
static bool continues(const struct nf_block_ref *a, const struct nf_block_ref *b)
{
	return !is_hole(b) && memcmp(&a->pack, &b->pack, sizeof a->pack) == 0 && a->birth == b->birth &&
	       a->epoch == b->epoch && b->index == a->index + 1 &&
	       (uint64_t)a->offset_bytes + a->sealed_len == b->offset_bytes;
}

static void put_head(struct nf_buf *b, unsigned kind, unsigned first, unsigned nr)
{
	nf_buf_u8(b, (uint8_t)kind);
	nf_buf_u8(b, (uint8_t)first);
	nf_buf_u8(b, (uint8_t)(nr - 1));
}

static void put_blocks(struct nf_buf *b, const struct nf_block_ref *in, unsigned first, unsigned nr,
		       uint32_t block_bytes)
{
	put_head(b, SEG_BLOCKS, first, nr);
	nf_buf_bytes(b, in[first].pack.b, sizeof in[first].pack.b);
	nf_buf_u32(b, in[first].offset_bytes);
	nf_buf_u64(b, in[first].birth);
	nf_buf_u32(b, in[first].index);
	nf_buf_u32(b, in[first].epoch);
	for (unsigned i = first; i < first + nr; i++) {
		bool odd = in[i].plain_len != block_bytes;
		NF_ASSERT(in[i].sealed_len <= WORD_LEN);
		nf_buf_u32(b, in[i].sealed_len | (in[i].flags & 1 ? (uint32_t)WORD_ZSTD : 0) |
				      (odd ? (uint32_t)WORD_PLAIN : 0));
		nf_buf_bytes(b, in[i].tag, sizeof in[i].tag);
		if (odd)
			nf_buf_u32(b, in[i].plain_len);
	}
}

void nf_extent_encode(struct nf_buf *b, const struct nf_block_ref in[NF_WINDOW_BLOCKS],
		      const bool known[NF_WINDOW_BLOCKS], uint32_t block_bytes, bool explicit_holes)
{
	unsigned nr;

	NF_ASSERT(known || !explicit_holes);
	for (unsigned i = 0; i < NF_WINDOW_BLOCKS; i += nr) {
		nr = 1;
		if (known && !known[i])
			continue;
		if (!is_hole(&in[i])) {
			while (i + nr < NF_WINDOW_BLOCKS && (!known || known[i + nr]) &&
			       continues(&in[i + nr - 1], &in[i + nr]))
				nr++;
			put_blocks(b, in, i, nr, block_bytes);
		} else if (explicit_holes) {
			while (i + nr < NF_WINDOW_BLOCKS && known[i + nr] && is_hole(&in[i + nr]))
				nr++;
			put_head(b, SEG_HOLES, i, nr);
		}
	}
}

/* --- by reference ------------------------------------------------------------------------ */

void nf_extent_ref_encode(struct nf_buf *b, const struct nf_extent_ref *r)
{
	nf_buf_u8(b, BY_REF);
	nf_ref_encode(b, &r->leaf);
	nf_buf_u64(b, r->ino);
	nf_buf_u64(b, r->first_block);
}

bool nf_extent_is_ref(const void *p, size_t len)
{
	return len == NF_EXTENT_REF_ENCODED && *(const uint8_t *)p == BY_REF;
}

/* A leaf is never in the delta that names it, so there is no "this pack" but in a tree. */
int nf_extent_ref_decode(const void *p, size_t len, const struct nf_pack_id *self, bool whole,
			 struct nf_extent_ref *out)
{
	struct nf_rd rd = nf_rd_of(p, len);
	struct nf_extent_ref e;

	if (len == 0 || *(const uint8_t *)p != BY_REF)
		return NF_TREE_NONE;
	(void)nf_rd_u8(&rd);
	nf_ref_decode(&rd, self, &e.leaf);
	e.ino = nf_rd_u64(&rd);
	e.first_block = nf_rd_u64(&rd);
	int r = nf_rd_error(&rd, whole);
	if (r == 0)
		r = nf_ref_check(&e.leaf);
	if (r < 0)
		return r;
	if (e.leaf.level != 0 || e.leaf.plain_len > LEAF_PLAIN_MAX_BYTES || nf_pack_id_is_zero(&e.leaf.pack) ||
	    !nf_ino_is_valid(e.ino) || e.first_block % NF_WINDOW_BLOCKS)
		return nf_fail(-NF_E_FORMAT_BAD);
	*out = e;
	return 0;
}

int nf_extent_patch_decode(const void *p, size_t len, bool whole, uint32_t block_bytes, struct nf_extent_ref *ref,
			   struct nf_block_ref out[NF_WINDOW_BLOCKS], bool known[NF_WINDOW_BLOCKS])
{
	static const struct nf_pack_id none = { { 0 } };
	struct nf_extent_ref base = { .ino = 0 };
	size_t skip = 0;

	int r = nf_extent_ref_decode(p, len, &none, whole, &base);
	if (r < 0)
		return r;
	if (r == 0)
		skip = NF_EXTENT_REF_ENCODED;
	r = nf_extent_decode((const uint8_t *)p + skip, len - skip, &none, block_bytes, out, known);
	if (r == 0)
		*ref = base;
	return r;
}

void nf_extent_patch_encode(struct nf_buf *b, const struct nf_extent_ref *ref,
			    const struct nf_block_ref in[NF_WINDOW_BLOCKS], const bool known[NF_WINDOW_BLOCKS],
			    uint32_t block_bytes)
{
	bool all = true;

	for (int i = 0; i < NF_WINDOW_BLOCKS; i++)
		all &= known[i];
	if (!nf_ref_is_null(&ref->leaf) && !all)
		nf_extent_ref_encode(b, ref);
	nf_extent_encode(b, in, known, block_bytes, true);
}

void nf_extent_ref_to_text(const struct nf_extent_ref *r, struct nf_text *t)
{
	nf_textf(t, "blocks of %" PRIx64 " at %" PRIu64 " in leaf ", r->ino, r->first_block);
	nf_ref_to_text(&r->leaf, t);
}

static int rebase_ref(const void *value, size_t len, const struct nf_pack_id *self, struct nf_buf *out)
{
	struct nf_extent_ref e;
	int r = nf_extent_ref_decode(value, len, self, true, &e);

	if (r == 0)
		nf_extent_ref_encode(out, &e);
	return r == 0 ? nf_buf_error(out) : r;
}

/* The block size is not known here: only the packs are written out, everything else stays as it is. */
int nf_extent_rebase(const void *value, size_t len, const struct nf_pack_id *self, struct nf_buf *out)
{
	struct nf_rd rd = nf_rd_of(value, len);
	int r = rebase_ref(value, len, self, out);

	if (r != NF_TREE_NONE)
		return r;
	while (!rd.bad && nf_rd_left(&rd)) {
		const uint8_t *start = rd.p;
		uint8_t kind = nf_rd_u8(&rd);
		nf_rd_u8(&rd);
		unsigned nr = nf_rd_u8(&rd) + 1U;
		struct nf_pack_id pack;
		if (rd.bad || kind != SEG_BLOCKS)
			return nf_fail(-NF_E_FORMAT_BAD);
		nf_buf_bytes(out, start, 3);
		nf_rd_copy(&rd, pack.b, sizeof pack.b);
		nf_buf_bytes(out, nf_pack_id_is_zero(&pack) ? self->b : pack.b, sizeof pack.b);
		start = rd.p;
		nf_rd_bytes(&rd, 4 + 8 + 4 + 4);
		for (unsigned i = 0; i < nr && !rd.bad; i++) {
			uint32_t word = nf_rd_u32(&rd);
			nf_rd_bytes(&rd, word & WORD_PLAIN ? 16 + 4 : 16);
		}
		if (!rd.bad)
			nf_buf_bytes(out, start, (size_t)(rd.p - start));
	}
	r = nf_rd_error(&rd, true);
	return r < 0 ? r : nf_buf_error(out);
}
