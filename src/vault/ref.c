#include "vault/ref.h"

#include "base/error.h"

static const struct nf_pack_id zero_id;

/* Limits of docs/format.md sections 1 and 4. */
enum {
	PACK_MAX_BYTES = 16 << 20,
	SEALED_MIN_BYTES = 24 + 16,
	SEALED_MAX_BYTES = 8 << 20,
	BLOB_PLAIN_MAX_BYTES = 64 << 20,
	NODE_PLAIN_MAX_BYTES = 32 << 10,
	LEVELS_MAX = 12,
	FLAGS_KNOWN = 1,
};

int nf_key_cmp(const struct nf_key *x, const struct nf_key *y)
{
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	if (x->type != y->type)
		return x->type < y->type ? -1 : 1;
	if (x->a != y->a)
		return x->a < y->a ? -1 : 1;
	if (x->b != y->b)
		return x->b < y->b ? -1 : 1;
	return 0;
}

void nf_key_encode(const struct nf_key *k, uint8_t out[NF_KEY_ENCODED])
{
	nf_put_be64(out, k->ino);
	out[8] = k->type;
	nf_put_be64(out + 9, k->a);
	nf_put_be64(out + 17, k->b);
}

void nf_key_decode(const uint8_t in[NF_KEY_ENCODED], struct nf_key *k)
{
	k->ino = nf_get_be64(in);
	k->type = in[8];
	k->a = nf_get_be64(in + 9);
	k->b = nf_get_be64(in + 17);
}

static const char *type_name(uint8_t type)
{
	static const char *const names[] = {
		[NF_ITEM_INODE] = "INODE",   [NF_ITEM_PARENT] = "PARENT",
		[NF_ITEM_XATTR] = "XATTR",   [NF_ITEM_EXTENT] = "EXTENT",
		[NF_ITEM_DIRENT] = "DIRENT", [NF_ITEM_WRITER] = "WRITER",
		[NF_ITEM_ROOT] = "ROOT",     [NF_ITEM_DELTA] = "DELTA",
		[NF_ITEM_SNAPSHOT] = "SNAPSHOT", [NF_ITEM_COUNTER] = "COUNTER",
		[NF_ITEM_CONDEMNED] = "CONDEMNED",
	};
	return type < sizeof names / sizeof names[0] && names[type] ? names[type] : "?";
}

void nf_key_to_text(const struct nf_key *k, struct nf_text *t)
{
	nf_textf(t, "(%llx %s.%u %llx %llx)", (unsigned long long)k->ino, type_name(k->type), k->type,
		 (unsigned long long)k->a, (unsigned long long)k->b);
}

bool nf_pack_id_is_zero(const struct nf_pack_id *p)
{
	return memcmp(p, &zero_id, sizeof zero_id) == 0;
}

bool nf_ref_is_local(const struct nf_pack_id *p)
{
	static const uint8_t mark[8] = { 255, 255, 255, 255, 255, 255, 255, 255 };
	return memcmp(p->b, mark, sizeof mark) == 0;
}

uint64_t nf_ref_local_segment(const struct nf_pack_id *p) { return nf_get_be64(p->b + 8); }

void nf_ref_make_local(struct nf_pack_id *p, uint64_t segment)
{
	memset(p->b, 255, 8);
	nf_put_be64(p->b + 8, segment);
}

bool nf_ref_equal(const struct nf_ref *x, const struct nf_ref *y)
{
	return x->offset_bytes == y->offset_bytes && x->sealed_len == y->sealed_len &&
	       x->plain_len == y->plain_len && x->epoch == y->epoch && x->level == y->level &&
	       x->flags == y->flags && memcmp(x->tag, y->tag, sizeof x->tag) == 0 &&
	       memcmp(&x->pack, &y->pack, sizeof x->pack) == 0;
}

void nf_ref_encode(struct nf_buf *b, const struct nf_ref *r)
{
	nf_buf_bytes(b, r->pack.b, sizeof r->pack.b);
	nf_buf_u32(b, r->offset_bytes);
	nf_buf_u32(b, r->sealed_len);
	nf_buf_u32(b, r->plain_len);
	nf_buf_u32(b, r->epoch);
	nf_buf_bytes(b, r->tag, sizeof r->tag);
	nf_buf_u8(b, r->level);
	nf_buf_u8(b, r->flags);
	nf_buf_u16(b, 0);
}

void nf_ref_decode(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_ref *r)
{
	nf_rd_copy(rd, r->pack.b, sizeof r->pack.b);
	r->offset_bytes = nf_rd_u32(rd);
	r->sealed_len = nf_rd_u32(rd);
	r->plain_len = nf_rd_u32(rd);
	r->epoch = nf_rd_u32(rd);
	nf_rd_copy(rd, r->tag, sizeof r->tag);
	r->level = nf_rd_u8(rd);
	r->flags = nf_rd_u8(rd);
	if (nf_rd_u16(rd) != 0)
		rd->bad = true;
	if (self && !nf_ref_is_null(r) && nf_pack_id_is_zero(&r->pack))
		r->pack = *self;
}

int nf_ref_check(const struct nf_ref *r)
{
	uint32_t plain_max = r->level ? NODE_PLAIN_MAX_BYTES : BLOB_PLAIN_MAX_BYTES;

	if (r->sealed_len < SEALED_MIN_BYTES || r->sealed_len > SEALED_MAX_BYTES)
		return nf_fail(-NF_E_FORMAT_BAD);
	/* Segments are longer than packs. */
	if (!nf_ref_is_local(&r->pack) && r->offset_bytes > PACK_MAX_BYTES - r->sealed_len)
		return nf_fail(-NF_E_FORMAT_BAD);
	if (r->plain_len > plain_max || r->level >= LEVELS_MAX || (r->flags & ~FLAGS_KNOWN))
		return nf_fail(-NF_E_FORMAT_BAD);
	if (r->epoch == 0)
		return nf_fail(-NF_E_FORMAT_BAD);
	return 0;
}

void nf_ref_to_text(const struct nf_ref *r, struct nf_text *t)
{
	if (nf_ref_is_null(r)) {
		nf_textf(t, "null");
		return;
	}
	nf_text_hex(t, r->pack.b, sizeof r->pack.b);
	nf_textf(t, "+%u:%u plain=%u epoch=%u level=%u flags=%u tag=", r->offset_bytes, r->sealed_len,
		 r->plain_len, r->epoch, r->level, r->flags);
	nf_text_hex(t, r->tag, sizeof r->tag);
}
