/* layer: vault */
/* Decoding of a tree node and of every value in it.  The first byte of the input is the level that its
 * reference claims. */
#include "vault/item.h"
#include "vault/node.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct nf_pack_id pack = { { 1 } };

static void names(const uint8_t *p, size_t len)
{
	struct nf_xattr_entry x;
	struct nf_dirent d;
	const char *name;
	uint8_t name_len;
	size_t pos = 0;

	while (nf_dirent_iter(p, len, &pos, &d) == 0)
		;
	pos = 0;
	while (nf_names_iter(p, len, &pos, &name, &name_len) == 0)
		;
	pos = 0;
	while (nf_xattr_iter(p, len, &pack, &pos, &x) == 0)
		;
}

static void value(uint8_t type, const uint8_t *p, size_t len)
{
	struct nf_block_ref blocks[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref;
	struct nf_buf moved = NF_BUF_INIT;
	struct nf_writer_item writer;
	struct nf_inode_item inode;
	int64_t counter;

	(void)!nf_inode_decode(p, len, &inode);
	(void)!nf_writer_decode(p, len, &writer);
	(void)!nf_counter_decode(p, len, &counter);
	(void)!nf_extent_decode(p, len, &pack, 32768, blocks, known);
	(void)!nf_extent_decode(p, len, &pack, 4096, blocks, NULL);
	if (nf_extent_ref_decode(p, len, &pack, true, &ref) == 0) {
		struct nf_text t = NF_TEXT_INIT;
		nf_extent_ref_to_text(&ref, &t);
		nf_text_deinit(&t);
	}
	/* A layer's value, as it would be written again, says the same. */
	if (nf_extent_patch_decode(p, len, false, 4096, &ref, blocks, known) == 0) {
		struct nf_buf again = NF_BUF_INIT;
		nf_extent_patch_encode(&again, &ref, blocks, known, 4096);
		if (nf_extent_patch_decode(again.p, again.len, false, 4096, &ref, blocks, known) < 0)
			abort();
		nf_buf_deinit(&again);
	}
	names(p, len);
	/* What could be written into another pack can be so again, and stays the same. */
	if (nf_item_rebase(type, p, len, &pack, &moved) == 0) {
		struct nf_buf again = NF_BUF_INIT;
		int r = nf_item_rebase(type, moved.p, moved.len, &pack, &again);
		if (r < 0 || again.len != moved.len || (moved.len && memcmp(again.p, moved.p, moved.len) != 0))
			abort();
		nf_buf_deinit(&again);
	}
	nf_buf_deinit(&moved);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nf_node n = { .cache = NULL };
	struct nf_text t = NF_TEXT_INIT;

	if (size == 0)
		return 0;
	n.ref = (struct nf_ref){ .pack = pack, .sealed_len = (uint32_t)size + 39,
				 .plain_len = (uint32_t)size - 1, .epoch = 1, .level = data[0] };
	if (nf_node_parse(&n.ref, data + 1, size - 1, &n.body) < 0)
		return 0;
	for (unsigned i = 0; i < n.body.nr && n.ref.level == 0; i++) {
		size_t len;
		const uint8_t *p = nf_node_value(&n, i, &len);
		value(nf_node_key(&n, i)[8], p, len);
	}
	nf_node_to_text(&n, &t);
	nf_text_deinit(&t);
	nf_node_body_deinit(&n.body);
	return 0;
}
