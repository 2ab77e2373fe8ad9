/* vault/moved.c - where blocks of the journal stand on the server.
 *
 *     (segment, offset) -> on its way            nf_moved_begin()
 *                       -> (pack, offset there)  nf_moved_end()
 *
 * Not kept over a restart: what was sent and not published is sent again then, and a collector takes the first copy.
 * v->sent has the packs, each with its blocks counted and the server's date when it was begun: a pack that nothing names yet
 * may be taken away once it is older than the grace. */
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "vault/commit.h"
#include "vault/upload.h"

static int cmp_moved(const void *key, const struct nf_avl_node *n)
{
	const struct nf_moved *k = key, *m = nf_container_of(n, const struct nf_moved, node);
	if (k->segment != m->segment)
		return k->segment < m->segment ? -1 : 1;
	return k->offset_bytes < m->offset_bytes ? -1 : k->offset_bytes > m->offset_bytes;
}

static struct nf_moved *find(struct nf_vault *v, const struct nf_block_ref *ref) NF_REQUIRES(v->ns)
{
	struct nf_moved key = { .segment = nf_ref_local_segment(&ref->pack), .offset_bytes = ref->offset_bytes };
	struct nf_avl_node *n = nf_avl_find(&v->moved, &key, cmp_moved);

	return n ? nf_container_of(n, struct nf_moved, node) : NULL;
}

enum nf_moved_state nf_moved_find(struct nf_vault *v, const struct nf_block_ref *ref, struct nf_moved *out)
{
	enum nf_moved_state s = NF_MOVED_NO;

	nf_lock_take(&v->ns);
	const struct nf_moved *m = find(v, ref);
	if (m)
		s = nf_pack_id_is_zero(&m->pack) ? NF_MOVED_ON_ITS_WAY : NF_MOVED_THERE;
	if (s == NF_MOVED_THERE && out)
		*out = *m;
	nf_lock_drop(&v->ns);
	return s;
}

enum nf_moved_state nf_moved_want(struct nf_vault *v, const struct nf_block_ref *ref)
{
	nf_lock_take(&v->ns);
	struct nf_moved *m = find(v, ref);
	if (m)
		m->named = true;
	nf_lock_drop(&v->ns);
	return nf_moved_find(v, ref, NULL);
}

int nf_moved_name(struct nf_vault *v, const struct nf_block_ref *ref, struct nf_moved *out)
{
	int r = 0;

	nf_lock_take(&v->ns);
	struct nf_moved *m = find(v, ref);
	bool there = m && m->named && !nf_pack_id_is_zero(&m->pack);
	if (there) {
		const struct nf_pack_entry *e = nf_pack_set_find(&v->sent, &m->pack);
		*out = *m;
		r = nf_named_add_locked(v, &m->pack, e ? e->mtime_s : 0);
	}
	nf_lock_drop(&v->ns);
	return r < 0 ? r : there;
}

int nf_moved_begin(struct nf_vault *v, const struct nf_block_ref *ref, bool ahead)
{
	struct nf_moved *m = calloc(1, sizeof *m);

	if (!m)
		return nf_fail(-ENOMEM);
	m->segment = nf_ref_local_segment(&ref->pack);
	m->offset_bytes = ref->offset_bytes;
	m->sealed_len = ref->sealed_len;
	m->ahead = ahead;
	m->named = !ahead;
	nf_lock_take(&v->ns);
	struct nf_avl_node *there = nf_avl_add(&v->moved, m, cmp_moved, &m->node);
	nf_lock_drop(&v->ns);
	if (there)
		free(m);
	return 0;
}

/* M goes: what was sent in vain is counted. */
static void drop(struct nf_vault *v, struct nf_moved *m) NF_REQUIRES(v->ns)
{
	struct nf_pack_entry *e = nf_pack_id_is_zero(&m->pack) ? NULL : nf_pack_set_find(&v->sent, &m->pack);

	if (e && m->ahead && !m->named) {
		v->ahead_wasted_bytes += m->sealed_len;
		nf_count(NF_C_EARLY_WASTED_BYTES, m->sealed_len);
	}
	if (e && --e->live_bytes == 0)
		nf_pack_set_remove(&v->sent, &m->pack);
	nf_avl_erase(&v->moved, &m->node);
	free(m);
}

int nf_moved_end(struct nf_vault *v, const struct nf_block_ref *ref, const struct nf_pack_id *pack, uint32_t offset_bytes,
		 int64_t date_s)
{
	int r = 0;

	nf_lock_take(&v->ns);
	struct nf_moved *m = find(v, ref);
	struct nf_pack_entry *e = m && pack ? nf_pack_set_get(&v->sent, pack) : NULL;
	if (m && !e) {
		drop(v, m);
		r = pack ? nf_fail(-ENOMEM) : 0;
	} else if (m) {
		m->pack = *pack;
		m->now_bytes = offset_bytes;
		e->mtime_s = date_s;
		e->live_bytes++; /* blocks, here */
		if (m->ahead) {
			v->ahead_sent_bytes += m->sealed_len;
			nf_count(NF_C_EARLY_BYTES, m->sealed_len);
		}
	}
	/* None: it died and its segment went. */
	nf_lock_drop(&v->ns);
	return r;
}

void nf_moved_forget(struct nf_vault *v, const struct nf_pack_set *packs)
{
	struct nf_avl_node *n = nf_avl_first(&v->moved), *next;

	for (; n; n = next) {
		struct nf_moved *m = nf_container_of(n, struct nf_moved, node);
		next = nf_avl_next(n);
		if (nf_pack_set_find(packs, &m->pack))
			drop(v, m);
	}
}

void nf_moved_trim(struct nf_vault *v, uint64_t bound)
{
	struct nf_avl_node *n;

	while ((n = nf_avl_first(&v->moved))) {
		struct nf_moved *m = nf_container_of(n, struct nf_moved, node);
		if (m->segment >= bound)
			return;
		drop(v, m);
	}
}
