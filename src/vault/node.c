#include "vault/node.h"

#include "base/assert.h"
#include "base/error.h"

/* One leaf entry at RD. */
static const uint8_t *leaf_entry(struct nf_rd *rd)
{
	const uint8_t *key = nf_rd_bytes(rd, NF_KEY_ENCODED);
	size_t len;

	nf_rd_str16(rd, &len);
	if (len > NF_VALUE_MAX)
		rd->bad = true;
	return key;
}

static const uint8_t *inner_entry(struct nf_rd *rd, unsigned level)
{
	const uint8_t *key = nf_rd_bytes(rd, NF_KEY_ENCODED);
	struct nf_ref child;

	nf_ref_decode(rd, NULL, &child);
	if (rd->bad || nf_ref_check(&child) < 0 || child.level + 1U != level ||
	    child.plain_len < NF_NODE_HEAD || child.plain_len > 2 * NF_NODE_MAX)
		rd->bad = true;
	return key;
}

static int parse_entries(struct nf_rd *rd, unsigned level, unsigned nr, const uint8_t *start,
			 uint16_t *starts)
{
	const uint8_t *before = NULL;

	for (unsigned i = 0; i < nr; i++) {
		if (starts)
			starts[i] = (uint16_t)(rd->p - start);
		const uint8_t *key = level ? inner_entry(rd, level) : leaf_entry(rd);
		if (rd->bad)
			return nf_fail(-NF_E_TREE_BAD);
		if (before && memcmp(before, key, NF_KEY_ENCODED) >= 0)
			return nf_fail(-NF_E_TREE_BAD);
		before = key;
	}
	return rd->p == rd->end ? 0 : nf_fail(-NF_E_TREE_BAD);
}

int nf_node_parse(const struct nf_ref *ref, const void *plain, size_t len, struct nf_node_body *out)
{
	struct nf_rd rd = nf_rd_of(plain, len);
	unsigned level = nf_rd_u8(&rd);
	unsigned zero = nf_rd_u8(&rd);
	uint16_t nr = nf_rd_u16(&rd);

	if (rd.bad || zero || level != ref->level || level >= NF_TREE_LEVELS_MAX || len != ref->plain_len)
		return nf_fail(-NF_E_TREE_BAD);
	/* One entry never passes the limit: a value is at most half a node. */
	if (len > NF_NODE_MAX || (level && nr == 0) || nr > NF_NODE_PAYLOAD / (NF_KEY_ENCODED + 2))
		return nf_fail(-NF_E_TREE_BAD);

	size_t index_bytes = level ? 0 : nr * sizeof(uint16_t);
	uint8_t *block = malloc(index_bytes + len);
	if (!block)
		return nf_fail(-ENOMEM);
	uint16_t *starts = level ? NULL : (uint16_t *)(void *)block;
	uint8_t *copy = block + index_bytes;
	memcpy(copy, plain, len);
	rd = nf_rd_of(copy + NF_NODE_HEAD, len - NF_NODE_HEAD);
	int r = parse_entries(&rd, level, nr, copy, starts);
	if (r < 0) {
		free(block);
		return r;
	}
	*out = (struct nf_node_body){ .plain = copy, .starts = starts, .len = (uint32_t)len, .nr = nr };
	return 0;
}

void nf_node_body_deinit(struct nf_node_body *b)
{
	/* One block: the index first, if there is one. */
	if (b->starts)
		free(b->starts);
	else
		free(b->plain);
	*b = (struct nf_node_body){ 0 };
}

void nf_node_child(const struct nf_node *n, unsigned i, struct nf_ref *out)
{
	NF_ASSERT(n->ref.level && i < n->body.nr);
	struct nf_rd rd = nf_rd_of(nf_node_key(n, i) + NF_KEY_ENCODED, NF_REF_ENCODED);
	nf_ref_decode(&rd, &n->ref.pack, out);
}

unsigned nf_node_lower(const struct nf_node *n, const uint8_t *key)
{
	unsigned lo = 0, hi = n->body.nr;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		if (memcmp(nf_node_key(n, mid), key, NF_KEY_ENCODED) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

unsigned nf_node_child_of(const struct nf_node *n, const uint8_t *key)
{
	unsigned i = nf_node_lower(n, key);

	if (i < n->body.nr && memcmp(nf_node_key(n, i), key, NF_KEY_ENCODED) == 0)
		return i;
	return i ? i - 1 : 0;
}

int nf_node_check_bounds(const struct nf_node *n, const uint8_t *lo, const uint8_t *hi)
{
	if (n->body.nr == 0)
		return 0;
	if (lo && memcmp(nf_node_key(n, 0), lo, NF_KEY_ENCODED) < 0)
		return nf_fail(-NF_E_TREE_BAD);
	if (hi && memcmp(nf_node_key(n, n->body.nr - 1U), hi, NF_KEY_ENCODED) >= 0)
		return nf_fail(-NF_E_TREE_BAD);
	return 0;
}

void nf_node_borrow(struct nf_node *leaf, unsigned i, struct nf_val *out)
{
	*out = (struct nf_val){ .self = leaf->ref.pack };
	out->p = nf_node_value(leaf, i, &out->len);
}

void nf_node_to_text(const struct nf_node *n, struct nf_text *t)
{
	nf_ref_to_text(&n->ref, t);
	nf_textf(t, "\n%u bytes, %u entries\n", n->body.len, n->body.nr);
	for (unsigned i = 0; i < n->body.nr; i++) {
		struct nf_key k;
		struct nf_ref child;
		size_t len;
		nf_key_decode(nf_node_key(n, i), &k);
		nf_key_to_text(&k, t);
		if (n->ref.level) {
			nf_node_child(n, i, &child);
			nf_textf(t, " -> ");
			nf_ref_to_text(&child, t);
		} else {
			nf_node_value(n, i, &len);
			nf_textf(t, " %zu bytes", len);
		}
		nf_textf(t, "\n");
	}
}
