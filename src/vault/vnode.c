/* vault/vnode.c - files in memory.
 *
 *     refs > 0          open, or a call uses it
 *     refs == 0, dirty  on v->dirty_list until its data has become operations
 *     refs == 0, clean  on v->closed, oldest first; given up when there are too many
 *     dying             nf_ictx_deinit() under way; calls for it wait on `waiting`
 *
 * Clean, closed inodes need nothing here: numbers are never reused and attributes are in the tree. */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "vault/run.h"

static int cmp_ino(const void *key, const struct nf_avl_node *n)
{
	uint64_t a = *(const uint64_t *)key, b = nf_container_of(n, const struct nf_vnode, node)->ino;
	return a < b ? -1 : a > b;
}

struct nf_vnode *nf_vnode_find(struct nf_vault *v, uint64_t ino)
{
	struct nf_avl_node *n = nf_avl_find(&v->vnodes, &ino, cmp_ino);
	return n ? nf_container_of(n, struct nf_vnode, node) : NULL;
}

int nf_vnode_new(struct nf_vault *v, uint64_t ino, uint8_t block_shift, uint64_t size_bytes,
		 struct nf_vnode **out)
{
	struct nf_vnode *vn = calloc(1, sizeof *vn);

	if (!vn)
		return nf_fail(-ENOMEM);
	vn->v = v;
	vn->ino = ino;
	vn->block_shift = block_shift;
	vn->refs = 1;
	nf_list_init(&vn->lru);
	nf_list_init(&vn->dirty);
	nf_list_init(&vn->waiting);
	nf_avl_init(&vn->acc, NULL);
	nf_rangeset_init(&vn->given);
	nf_past_init(&vn->past);
	int r = nf_ictx_init(&vn->ic, v->lib, &nf_vault_netfs_ops, ino, 1u << block_shift,
			     size_bytes, size_bytes);
	if (r < 0) {
		free(vn);
		return nf_fail(r);
	}
	struct nf_avl_node *there = nf_avl_add(&v->vnodes, &ino, cmp_ino, &vn->node);
	NF_ASSERT(!there);
	*out = vn;
	return 0;
}

static int remember_base(struct nf_vault *v, struct nf_vnode *vn, struct nf_want *w)
{
	struct nf_key key = nf_key_inode(vn->ino);
	struct nf_val val = { 0 };
	int r = nf_tree_lookup(v->nodes, nf_vault_root(v), &key, w, &val);

	vn->base_item.len = 0;
	if (r == 0) {
		nf_buf_bytes(&vn->base_item, val.p, val.len);
		r = nf_buf_error(&vn->base_item);
		nf_val_deinit(&val);
	}
	return r == NF_TREE_NONE ? 0 : r;
}

int nf_vnode_rebase(struct nf_vnode *vn, struct nf_want *w) { return remember_base(vn->v, vn, w); }

int nf_vnode_get(struct nf_vault *v, uint64_t ino, struct nf_call *c, struct nf_want *w,
		 struct nf_vnode **out)
{
	struct nf_vnode *vn = nf_vnode_find(v, ino);
	struct nf_inode_item item;
	struct nf_val val = { 0 };

	if (vn && vn->dying) {
		nf_list_add_tail(&vn->waiting, &nf_run_of(c)->waiting);
		return NF_CALL_PENDING;
	}
	if (vn) {
		if (!nf_list_empty(&vn->lru)) {
			nf_list_del(&vn->lru);
			v->nr_closed--;
		}
		vn->refs++;
		*out = vn;
		return 0;
	}
	int r = nf_vault_inode(v, ino, w, &val, &item);
	if (r)
		return r;
	uint8_t shift = item.block_shift;
	uint64_t size = item.size_bytes;
	bool regular = S_ISREG(item.mode);
	nf_val_deinit(&val);
	if (!regular)
		return nf_fail(-EINVAL);
	/* The base's item must be at hand before there is anything to flush. */
	struct nf_vnode probe = { .ino = ino };
	r = remember_base(v, &probe, w);
	if (r == 0)
		r = nf_vnode_new(v, ino, shift, size, &vn);
	if (r) {
		nf_buf_deinit(&probe.base_item);
		return r;
	}
	vn->base_item = probe.base_item;
	*out = vn;
	return 0;
}

struct nf_acc *nf_acc_new(uint64_t first_block, uint64_t group)
{
	struct nf_acc *a = calloc(1, sizeof *a);

	if (!a)
		return NULL;
	a->first_block = first_block;
	a->group = group;
	return a;
}

void nf_acc_free(struct nf_acc *a)
{
	if (a)
		free(a->refs);
	free(a);
}

int nf_acc_reserve(struct nf_acc *a, unsigned nr)
{
	unsigned cap = a->cap ? a->cap : 1;

	NF_ASSERT(nr <= NF_WINDOW_BLOCKS);
	if (nr <= a->cap)
		return 0;
	while (cap < nr)
		cap *= 2;
	struct nf_block_ref *refs = realloc(a->refs, cap * sizeof *refs);
	if (!refs)
		return nf_fail(-ENOMEM);
	memset(refs + a->cap, 0, (cap - a->cap) * sizeof *refs);
	a->refs = refs;
	a->cap = cap;
	return 0;
}

void nf_acc_drop(struct nf_vnode *vn, uint64_t upto_group)
{
	struct nf_avl_node *n = nf_avl_first(&vn->acc);

	while (n) {
		struct nf_acc *a = nf_container_of(n, struct nf_acc, node);
		n = nf_avl_next(n);
		if (a->group > upto_group)
			continue;
		nf_avl_erase(&vn->acc, &a->node);
		nf_acc_free(a);
	}
	if (!nf_avl_empty(&vn->acc))
		return;
	vn->v->acc_refs -= vn->acc_refs;
	vn->acc_bytes = vn->acc_refs = 0;
}

static void free_vnode(struct nf_ictx *ic)
{
	struct nf_vnode *vn = nf_container_of(ic, struct nf_vnode, ic);
	struct nf_vault *v = vn->v;
	struct nf_list runs;

	nf_list_init(&runs);
	nf_lock_take(&v->ns);
	if (vn->aside)
		v->asides--;
	else
		nf_avl_erase(&v->vnodes, &vn->node);
	nf_list_splice(&runs, &vn->waiting);
	nf_acc_drop(vn, UINT64_MAX);
	nf_cond_broadcast(&v->changed);
	nf_lock_drop(&v->ns);
	nf_buf_deinit(&vn->base_item);
	nf_layer_free(vn->orphan_layer);
	nf_layer_free(vn->orphan_below);
	nf_rangeset_deinit(&vn->given);
	nf_past_deinit(&vn->past);
	free(vn);
	nf_list_for_each_safe(run, &runs, struct nf_run, waiting) {
		nf_list_del(&run->waiting);
		nf_run_again(run);
	}
}

static void kill_work(struct nf_work *work)
{
	struct nf_vnode *vn = nf_container_of(work, struct nf_vnode, kill);

	/* Nobody will ask for an orphan's data again. */
	if (vn->orphan)
		nf_discard(&vn->ic, 0);
	nf_ictx_deinit(&vn->ic, free_vnode);
}

void nf_vnode_clean(struct nf_vnode *vn)
{
	if (nf_list_empty(&vn->dirty))
		return;
	nf_list_del(&vn->dirty);
	vn->v->nr_dirty--;
}

static void kill(struct nf_vnode *vn)
{
	NF_ASSERT(!vn->refs && !vn->dying);
	vn->dying = true;
	if (!nf_list_empty(&vn->lru)) {
		nf_list_del(&vn->lru);
		vn->v->nr_closed--;
	}
	nf_vnode_clean(vn);
	nf_work_init(&vn->kill, kill_work);
	/* Its end calls back; not under our lock. */
	nf_pool_add(vn->v->pool, &vn->kill);
}

void nf_vnode_trim(struct nf_vault *v, unsigned keep)
{
	while (v->nr_closed > keep)
		kill(nf_list_first(&v->closed, struct nf_vnode, lru));
}

void nf_vnode_put(struct nf_vnode *vn)
{
	struct nf_vault *v = vn->v;

	NF_ASSERT(vn->refs > 0 && !vn->dying);
	if (--vn->refs)
		return;
	if (vn->orphan) {
		kill(vn);
		return;
	}
	if (!nf_list_empty(&vn->dirty) || vn->in_cut)
		return;
	nf_list_add_tail(&v->closed, &vn->lru);
	v->nr_closed++;
	nf_vnode_trim(v, v->stopping ? 0 : NF_VNODES_CLOSED_MAX);
}

void nf_vnode_dirty(struct nf_vnode *vn)
{
	if (!nf_list_empty(&vn->dirty) || vn->orphan)
		return;
	nf_list_add_tail(&vn->v->dirty_list, &vn->dirty);
	vn->v->nr_dirty++;
	if (!vn->v->dirty_since_ns)
		vn->v->dirty_since_ns = nf_clock_ns();
	nf_cond_broadcast(&vn->v->changed);
}

struct nf_view nf_vnode_view(struct nf_vnode *vn)
{
	if (vn->orphan)
		return (struct nf_view){ .nodes = vn->v->nodes, .base = vn->orphan_base,
					 .layers = { vn->orphan_layer, vn->orphan_below } };
	return nf_vault_view(vn->v);
}

int nf_vnode_orphan(struct nf_vnode *vn, struct nf_want *w)
{
	struct nf_vault *v = vn->v;
	struct nf_layer *l = NULL, *below = NULL;
	(void)w;

	int r = nf_layer_new(&l);
	/* Two layers: extents in them are patches, one over the other. */
	if (r == 0 && nf_epoch_below(v))
		r = nf_layer_new(&below);
	if (r == 0 && nf_epoch_below(v))
		r = nf_layer_copy_inode(below, v->frozen->layer, vn->ino);
	if (r == 0 && v->current)
		r = nf_layer_copy_inode(l, v->current->layer, vn->ino);
	if (r < 0) {
		nf_layer_free(l);
		nf_layer_free(below);
		return nf_fail(r);
	}
	vn->orphan_layer = l;
	vn->orphan_below = below;
	vn->orphan_base = *nf_vault_root(v);
	vn->orphan_segment = v->nr_shelf ? v->shelf[0].first_segment : UINT64_MAX;
	vn->orphan = true;
	nf_vnode_clean(vn);
	if (!nf_list_empty(&vn->lru)) {
		nf_list_del(&vn->lru);
		v->nr_closed--;
	}
	/* Closed but kept in memory: nobody holds it, what is dirty in it dies with it. */
	vn->refs++;
	/* The cut need not wait for it, unless its flush runs already. */
	if (vn->in_cut && !vn->cut_running) {
		vn->in_cut = false;
		v->frozen->undrained--;
		nf_cond_broadcast(&v->changed);
		nf_vnode_put(vn);
	}
	nf_vnode_put(vn);
	return 0;
}

/* First entry of the window's row: entries of one window stand together, by group. */
static int cmp_acc(const void *key, const struct nf_avl_node *n)
{
	const struct nf_acc *k = key, *a = nf_container_of(n, const struct nf_acc, node);
	if (k->first_block != a->first_block)
		return k->first_block < a->first_block ? -1 : 1;
	return k->group < a->group ? -1 : k->group > a->group;
}

struct nf_acc *nf_acc_find(struct nf_vnode *vn, uint64_t first_block, uint64_t group)
{
	struct nf_acc key = { .first_block = first_block, .group = group };
	struct nf_avl_node *n = nf_avl_find(&vn->acc, &key, cmp_acc);
	return n ? nf_container_of(n, struct nf_acc, node) : NULL;
}

struct nf_acc *nf_acc_from(struct nf_vnode *vn, uint64_t first_block)
{
	struct nf_acc key = { .first_block = first_block, .group = 0 };
	struct nf_avl_node *n = nf_avl_lower(&vn->acc, &key, cmp_acc);
	return n ? nf_container_of(n, struct nf_acc, node) : NULL;
}

void nf_acc_add(struct nf_vnode *vn, struct nf_acc *a)
{
	struct nf_avl_node *there = nf_avl_add(&vn->acc, a, cmp_acc, &a->node);
	NF_ASSERT(!there);
}

int nf_vnode_window(struct nf_vnode *vn, uint64_t first_block, struct nf_want *w,
		    struct nf_block_ref out[NF_WINDOW_BLOCKS])
{
	struct nf_view view = nf_vnode_view(vn);
	struct nf_acc key = { .first_block = first_block, .group = 0 };

	int r = nf_extent_lookup(&view, vn->ino, first_block, 1u << vn->block_shift, w, out);
	if (r)
		return r;
	struct nf_avl_node *n = nf_avl_lower(&vn->acc, &key, cmp_acc);
	for (; n; n = nf_avl_next(n)) {
		const struct nf_acc *a = nf_container_of(n, const struct nf_acc, node);
		if (a->first_block != first_block)
			break;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
			if (a->known[b])
				out[b] = a->refs[b];
	}
	return 0;
}

int nf_vnode_locate(struct nf_vnode *vn, uint64_t first_block, struct nf_want *w, struct nf_extent_ref *out)
{
	struct nf_view view = nf_vnode_view(vn);
	struct nf_acc key = { .first_block = first_block, .group = 0 };
	struct nf_avl_node *n = nf_avl_lower(&vn->acc, &key, cmp_acc);

	if (n && nf_container_of(n, const struct nf_acc, node)->first_block == first_block)
		return NF_TREE_NONE;
	return nf_extent_locate(&view, vn->ino, first_block, w, out);
}

/* The newest inline content that no operation tells yet, or NULL. */
const struct nf_acc *nf_vnode_inline(struct nf_vnode *vn)
{
	struct nf_acc key = { .first_block = 0, .group = 0 };
	const struct nf_acc *found = NULL;
	struct nf_avl_node *n = nf_avl_lower(&vn->acc, &key, cmp_acc);

	for (; n; n = nf_avl_next(n)) {
		const struct nf_acc *a = nf_container_of(n, const struct nf_acc, node);
		if (a->first_block != 0)
			break;
		if (a->is_inline)
			found = a;
		else if (a->known[0])
			found = NULL;
	}
	return found;
}

/* --- attributes ----------------------------------------------------------------------- */

static int inode_of(const struct nf_view *view, uint64_t ino, struct nf_want *w, struct nf_val *val,
		    struct nf_inode_item *out)
{
	struct nf_key key = nf_key_inode(ino);
	struct nf_val found = { 0 };

	int r = nf_view_lookup(view, &key, w, &found);
	if (r)
		return r;
	r = nf_inode_decode(found.p, found.len, out);
	if (r < 0) {
		nf_val_deinit(&found);
		return nf_fail(r);
	}
	*val = found;
	return 0;
}

int nf_vnode_inode(struct nf_vnode *vn, struct nf_want *w, struct nf_val *val, struct nf_inode_item *out)
{
	struct nf_view view = nf_vnode_view(vn);

	return inode_of(&view, vn->ino, w, val, out);
}

int nf_vault_inode(struct nf_vault *v, uint64_t ino, struct nf_want *w, struct nf_val *val,
		   struct nf_inode_item *out)
{
	struct nf_vnode *vn = nf_vnode_find(v, ino);
	struct nf_view view = vn ? nf_vnode_view(vn) : nf_vault_view(v);

	return inode_of(&view, ino, w, val, out);
}

void nf_attr_fill(uint64_t ino, const struct nf_inode_item *i, struct nf_attr *out)
{
	*out = (struct nf_attr){
		.ino = ino, .size_bytes = i->size_bytes, .blocks = (i->size_bytes + 511) / 512,
		.atime = i->atime, .mtime = i->mtime, .ctime = i->ctime, .btime = i->btime,
		.mode = i->mode, .nlink = i->nlink, .uid = i->uid, .gid = i->gid, .rdev = i->rdev,
		.blksize = i->block_shift ? 1u << i->block_shift : 4096,
	};
}

int nf_vault_attr(struct nf_vault *v, uint64_t ino, struct nf_want *w, struct nf_attr *out)
{
	struct nf_vnode *vn = nf_vnode_find(v, ino);
	struct nf_inode_item item;
	struct nf_val val = { 0 };

	int r = nf_vault_inode(v, ino, w, &val, &item);
	if (r)
		return r;
	nf_attr_fill(ino, &item, out);
	nf_val_deinit(&val);
	if (vn && !vn->dying) {
		out->size_bytes = nf_i_size(&vn->ic);
		out->blocks = (out->size_bytes + 511) / 512;
		if (vn->pending_times) {
			out->mtime = vn->mtime;
			if (vn->mtime.tv_sec > out->ctime.tv_sec ||
			    (vn->mtime.tv_sec == out->ctime.tv_sec &&
			     vn->mtime.tv_nsec > out->ctime.tv_nsec))
				out->ctime = vn->change_time;
		}
		if (vn->orphan)
			out->nlink = 0;
	}
	return 0;
}
