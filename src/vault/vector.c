/* Version vectors: sorted arrays, searched by halving. */
#include "vault/head.h"

#include "base/error.h"
#include "base/mem.h"

#include <inttypes.h>

/* The first entry not before WRITER. */
static size_t lower(const struct nf_vector *v, uint32_t writer)
{
	size_t from = 0, to = v->nr;

	while (from < to) {
		size_t mid = from + (to - from) / 2;
		if (v->e[mid].writer < writer)
			from = mid + 1;
		else
			to = mid;
	}
	return from;
}

void nf_vector_deinit(struct nf_vector *v)
{
	free(v->e);
	*v = (struct nf_vector){ 0 };
}

int nf_vector_copy(struct nf_vector *to, const struct nf_vector *from)
{
	struct nf_vector v = { .nr = from->nr };

	if (v.nr) {
		v.e = malloc(v.nr * sizeof *v.e);
		if (!v.e)
			return nf_fail(-ENOMEM);
		memcpy(v.e, from->e, v.nr * sizeof *v.e);
	}
	*to = v;
	return 0;
}

const struct nf_vector_entry *nf_vector_find(const struct nf_vector *v, uint32_t writer)
{
	size_t i = lower(v, writer);

	return i < v->nr && v->e[i].writer == writer ? &v->e[i] : NULL;
}

uint64_t nf_vector_seq(const struct nf_vector *v, uint32_t writer)
{
	const struct nf_vector_entry *e = nf_vector_find(v, writer);

	return e ? e->seq : 0;
}

int nf_vector_set(struct nf_vector *v, const struct nf_vector_entry *e)
{
	size_t i = lower(v, e->writer);

	if (i < v->nr && v->e[i].writer == e->writer) {
		v->e[i] = *e;
		return 0;
	}
	if (v->nr >= NF_VECTOR_MAX)
		return nf_fail(-ENOSPC);
	struct nf_vector_entry *grown = realloc(v->e, (v->nr + 1) * sizeof *grown);
	if (!grown)
		return nf_fail(-ENOMEM);
	v->e = grown;
	memmove(v->e + i + 1, v->e + i, (v->nr - i) * sizeof *v->e);
	v->e[i] = *e;
	v->nr++;
	return 0;
}

bool nf_vector_covers(const struct nf_vector *a, const struct nf_vector *b)
{
	size_t i = 0;

	for (size_t k = 0; k < b->nr; k++) {
		while (i < a->nr && a->e[i].writer < b->e[k].writer)
			i++;
		if (i == a->nr || a->e[i].writer != b->e[k].writer || a->e[i].seq < b->e[k].seq)
			return false;
	}
	return true;
}

bool nf_vector_equal(const struct nf_vector *a, const struct nf_vector *b)
{
	if (a->nr != b->nr)
		return false;
	for (size_t i = 0; i < a->nr; i++) {
		if (a->e[i].writer != b->e[i].writer || a->e[i].seq != b->e[i].seq ||
		    memcmp(a->e[i].tag, b->e[i].tag, sizeof a->e[i].tag) != 0)
			return false;
	}
	return true;
}

/* Of one writer's two entries the later counts; of a cloned writer's (one seq, two tags) the smaller tag, so that
 * the order of joining does not matter. */
static const struct nf_vector_entry *later(const struct nf_vector_entry *x, const struct nf_vector_entry *y)
{
	if (x->seq != y->seq)
		return x->seq > y->seq ? x : y;
	return memcmp(x->tag, y->tag, sizeof x->tag) <= 0 ? x : y;
}

int nf_vector_join(struct nf_vector *a, const struct nf_vector *b)
{
	size_t i = 0, k = 0, n = 0;

	if (b->nr == 0)
		return 0;
	struct nf_vector_entry *e = malloc((a->nr + b->nr) * sizeof *e);
	if (!e)
		return nf_fail(-ENOMEM);
	while (i < a->nr || k < b->nr) {
		if (k == b->nr || (i < a->nr && a->e[i].writer < b->e[k].writer))
			e[n++] = a->e[i++];
		else if (i == a->nr || b->e[k].writer < a->e[i].writer)
			e[n++] = b->e[k++];
		else
			e[n++] = *later(&a->e[i++], &b->e[k++]);
	}
	if (n > NF_VECTOR_MAX) {
		free(e);
		return nf_fail(-ENOSPC);
	}
	free(a->e);
	a->e = e;
	a->nr = n;
	return 0;
}

void nf_vector_to_text(const struct nf_vector *v, struct nf_text *t)
{
	nf_textf(t, "{");
	for (size_t i = 0; i < v->nr; i++)
		nf_textf(t, "%s%" PRIu32 ":%" PRIu64, i ? " " : "", v->e[i].writer, v->e[i].seq);
	nf_textf(t, "}");
}
