#include "vault/pack_set.h"

#include "base/mem.h"

#include <string.h>

static struct nf_pack_entry *entry_of(struct nf_avl_node *n)
{
	return n ? nf_container_of(n, struct nf_pack_entry, node) : NULL;
}

static int cmp(const void *key, const struct nf_avl_node *n)
{
	return memcmp(key, &nf_container_of(n, const struct nf_pack_entry, node)->id, sizeof(struct nf_pack_id));
}

void nf_pack_set_deinit(struct nf_pack_set *s)
{
	struct nf_avl_node *n;

	while ((n = s->all.root)) {
		nf_avl_erase(&s->all, n);
		free(entry_of(n));
	}
	s->nr = 0;
}

struct nf_pack_entry *nf_pack_set_find(const struct nf_pack_set *s, const struct nf_pack_id *id)
{
	return entry_of(nf_avl_find(&s->all, id, cmp));
}

struct nf_pack_entry *nf_pack_set_get(struct nf_pack_set *s, const struct nf_pack_id *id)
{
	struct nf_pack_entry *e = nf_pack_set_find(s, id);

	if (e)
		return e;
	e = calloc(1, sizeof *e);
	if (!e)
		return NULL;
	e->id = *id;
	(void)nf_avl_add(&s->all, id, cmp, &e->node); /* it was not there */
	s->nr++;
	return e;
}

void nf_pack_set_remove(struct nf_pack_set *s, const struct nf_pack_id *id)
{
	struct nf_pack_entry *e = nf_pack_set_find(s, id);

	if (!e)
		return;
	nf_avl_erase(&s->all, &e->node);
	free(e);
	s->nr--;
}

struct nf_pack_entry *nf_pack_set_first(const struct nf_pack_set *s) { return entry_of(nf_avl_first(&s->all)); }
struct nf_pack_entry *nf_pack_set_next(const struct nf_pack_entry *e) { return entry_of(nf_avl_next(&e->node)); }
