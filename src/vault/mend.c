#include "vault/mend.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/gc.h"

int nf_mend_new(const struct nf_ref *base, struct nf_mend **out)
{
	struct nf_mend *m = calloc(1, sizeof *m);
	int r = m ? nf_layer_new(&m->layer) : nf_fail(-ENOMEM);

	if (r < 0) {
		free(m);
		return r;
	}
	m->base = *base;
	*out = m;
	return 0;
}

void nf_mend_free(struct nf_mend *m)
{
	if (!m)
		return;
	nf_layer_free(m->layer);
	free(m->cuts);
	free(m);
}

int nf_mend_cut(struct nf_mend *m, const struct nf_key *from, const struct nf_key *to)
{
	struct nf_cutout *cuts = realloc(m->cuts, (m->nr_cuts + 1) * sizeof *cuts);

	if (!cuts)
		return nf_fail(-ENOMEM);
	m->cuts = cuts;
	cuts[m->nr_cuts++] = (struct nf_cutout){ .from = *from, .to = *to };
	return 0;
}

static int by_from(const void *pa, const void *pb)
{
	const struct nf_cutout *a = pa, *b = pb;

	return nf_key_cmp(&a->from, &b->from);
}

int nf_mend_add_cuts(const struct nf_mend *m, struct nf_cutout **cuts, size_t *nr)
{
	size_t all = *nr + m->nr_cuts, kept = 0;

	if (!m->nr_cuts)
		return 0;
	struct nf_cutout *c = realloc(*cuts, all * sizeof *c);
	if (!c)
		return nf_fail(-ENOMEM);
	*cuts = c;
	memcpy(c + *nr, m->cuts, m->nr_cuts * sizeof *c);
	qsort(c, all, sizeof *c, by_from);
	for (size_t i = 0; i < all; i++) {
		if (!kept || nf_key_cmp(&c[kept - 1].to, &c[i].from) < 0)
			c[kept++] = c[i];
		else if (nf_key_cmp(&c[kept - 1].to, &c[i].to) < 0)
			c[kept - 1].to = c[i].to;
	}
	*nr = kept;
	return 0;
}

void nf_mend_to_text(const struct nf_mend *m, struct nf_text *t)
{
	nf_textf(t, "of ");
	nf_ref_to_text(&m->base, t);
	for (size_t i = 0; i < m->nr_cuts; i++) {
		nf_textf(t, ", without ");
		nf_key_to_text(&m->cuts[i].from, t);
		nf_textf(t, " to ");
		nf_key_to_text(&m->cuts[i].to, t);
	}
}

int nf_mend_commit(struct nf_vault *v, struct nf_mend *m, _Atomic bool *stop)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_mend_to_text(m, &t);
	nf_trace(COMMIT, "mend %s", nf_text_str(&t));
	nf_text_deinit(&t);
	nf_lock_take(&v->ns);
	struct nf_mend *old = v->mend;
	v->mend = m;
	nf_lock_drop(&v->ns);
	nf_mend_free(old);
	int r = nf_gc_empty_op(v);
	if (r == 0)
		r = nf_vault_sync(v, stop);
	nf_lock_take(&v->ns);
	old = nf_steal(&v->mend);
	nf_lock_drop(&v->ns);
	nf_mend_free(old);
	return r;
}
