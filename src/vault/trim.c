/* vault/trim.c - which segments of the journal may go.
 *
 * Once our dot is on the server its blocks are read from there.  What still needs a segment:
 *
 *     the epochs                   their records, and the blocks that their operations name; the current one's were
 *                                  appended after the rotation that came before its cut
 *     a file's undrained groups    blocks that no operation names yet
 *     requests being stored        blocks that are in the journal and not noted with the file yet
 *     a file without a name        the blocks of its own layers: they go nowhere else; and the tree it stands on
 *     dots that are not reported   the blocks their operations name: they may have to be sent again (gc_named.c)
 *     what is shelved              its operations, and the nodes of the tree that the view stands on
 *
 * Each pins from its own lowest segment on, and one without blocks here pins nothing. */
#include "base/assert.h"
#include "vault/commit.h"
#include "vault/upload.h"

#include <inttypes.h>

static void lower(uint64_t *low, const struct nf_block_ref *refs, const bool known[NF_WINDOW_BLOCKS])
{
	for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
		if (known[b] && refs[b].sealed_len && nf_ref_is_local(&refs[b].pack))
			*low = NF_MIN(*low, nf_ref_local_segment(&refs[b].pack));
}

struct lowest {
	uint32_t block_bytes;
	uint64_t segment;
};

static int lower_by_value(void *ctx, const struct nf_key *key, const void *value, size_t len, void **now, size_t *now_len)
{
	struct lowest *l = ctx;
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref published; /* in no segment */
	(void)key;
	(void)now;
	(void)now_len;

	int r = nf_extent_patch_decode(value, len, false, l->block_bytes, &published, refs, known);
	if (r == 0)
		lower(&l->segment, refs, known);
	return r;
}

/* 0 if it cannot be said. */
static uint64_t lowest_of_file(struct nf_vnode *vn)
{
	struct lowest l = { 1u << vn->block_shift, vn->storing ? vn->storing_segment : UINT64_MAX };
	struct nf_layer *layers[2] = { vn->orphan_layer, vn->orphan_below };

	for (struct nf_avl_node *n = nf_avl_first(&vn->acc); n; n = nf_avl_next(n)) {
		const struct nf_acc *a = nf_container_of(n, const struct nf_acc, node);
		lower(&l.segment, a->refs, a->known);
	}
	for (int i = 0; i < 2; i++)
		if (layers[i] && nf_layer_rewrite(layers[i], NF_ITEM_EXTENT, lower_by_value, &l) < 0)
			return 0;
	if (vn->orphan)
		l.segment = NF_MIN(l.segment, vn->orphan_segment);
	return vn->old_version ? NF_MIN(l.segment, lowest_of_file(vn->old_version)) : l.segment;
}

uint64_t nf_journal_bound(struct nf_vault *v)
{
	uint64_t bound = NF_MIN(v->current->min_segment, v->current->first_segment);

	NF_ASSERT(nf_lock_held(&v->ns));
	if (v->frozen) {
		bound = NF_MIN(bound, v->frozen->min_segment);
		bound = NF_MIN(bound, v->frozen->first_segment);
	}
	for (const struct nf_epoch *e = v->unreported; e; e = e->next) {
		bound = NF_MIN(bound, e->min_segment);
		bound = NF_MIN(bound, e->first_segment);
	}
	if (v->nr_shelf)
		bound = NF_MIN(bound, v->shelf[0].first_segment);
	for (struct nf_avl_node *n = nf_avl_first(&v->vnodes); n; n = nf_avl_next(n))
		bound = NF_MIN(bound, lowest_of_file(nf_container_of(n, struct nf_vnode, node)));
	return bound;
}

static int let_go(struct nf_vault *v)
{
	if (!v->journal || !v->current || v->renewing)
		return 0;
	/* What is left must not need what goes. */
	int r = nf_vault_journal(v, true);
	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	uint64_t bound = nf_journal_bound(v);
	nf_moved_trim(v, bound);
	nf_lock_drop(&v->ns);
	return bound ? nf_journal_trim(v->journal, bound) : 0;
}

void nf_journal_let_go(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	v->letting_go = true;
	nf_lock_drop(&v->ns);
	int r = let_go(v);
	/* On a full disk nothing may come that makes another commit: the committer tries again what stays now. */
	nf_lock_take(&v->ns);
	v->letting_go = r < 0;
	nf_lock_drop(&v->ns);
}
