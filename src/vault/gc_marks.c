#include "vault/gc_marks.h"

#include "base/error.h"
#include "base/mem.h"

/*      version u8 = 2 | newest epoch u32 | number of steps u32 | steps | number of refused u32 | refused
 *      step:    from, to (references) | number u32 | pack [16], live s64, stay s64, old s64
 *      refused: pack [16] | most s64 | runs u32 */
enum {
	VERSION = 2,
	FILE_MAX_BYTES = 64 << 20,
	STEP_BYTES = 2 * NF_REF_ENCODED + 4,
	SUM_BYTES = 40,
	REFUSED_BYTES = 28,
	REFUSED_RUNS = 8,
};

static const struct nf_ref nothing;

/* --- the table ----------------------------------------------------------------------------- */

static int cmp_ref(const struct nf_ref *x, const struct nf_ref *y)
{
	int c = memcmp(&x->pack, &y->pack, sizeof x->pack);

	if (!c)
		c = x->offset_bytes < y->offset_bytes ? -1 : x->offset_bytes > y->offset_bytes;
	return c ? c : memcmp(x->tag, y->tag, sizeof x->tag);
}

struct pair {
	const struct nf_ref *from, *to;
};

static int cmp(const void *key, const struct nf_avl_node *n)
{
	const struct nf_gc_step *s = nf_container_of(n, const struct nf_gc_step, node);
	const struct pair *p = key;
	int c = cmp_ref(p->to, &s->to);

	return c ? c : cmp_ref(p->from, &s->from);
}

static struct nf_gc_step *step_of(struct nf_avl_node *n) { return n ? nf_container_of(n, struct nf_gc_step, node) : NULL; }

struct nf_gc_step *nf_gc_marks_find(struct nf_gc_marks *m, const struct nf_ref *from, const struct nf_ref *to)
{
	const struct pair p = { from ? from : &nothing, to };

	return step_of(nf_avl_find(&m->steps, &p, cmp));
}

static void drop(struct nf_gc_marks *m, struct nf_gc_step *s)
{
	if (m->whole == s)
		m->whole = NULL;
	nf_avl_erase(&m->steps, &s->node);
	free(s->sums);
	free(s);
}

void nf_gc_marks_deinit(struct nf_gc_marks *m)
{
	while (m->steps.root)
		drop(m, step_of(m->steps.root));
	free(m->refused);
	*m = (struct nf_gc_marks){ 0 };
}

/* A step with room for NR sums, in place of the one there is. */
static struct nf_gc_step *new_step(struct nf_gc_marks *m, const struct nf_ref *from, const struct nf_ref *to, size_t nr)
{
	const struct pair p = { from ? from : &nothing, to };
	struct nf_gc_step *old = nf_gc_marks_find(m, from, to), *s = calloc(1, sizeof *s);

	if (!s || !(s->sums = calloc(nr ? nr : 1, sizeof *s->sums))) {
		free(s);
		return NULL;
	}
	if (old)
		drop(m, old);
	s->from = *p.from;
	s->to = *to;
	(void)nf_avl_add(&m->steps, &p, cmp, &s->node); /* it is not there any more */
	if (nf_ref_is_null(&s->from))
		m->whole = s;
	return s;
}

static bool is_some(const struct nf_pack_entry *e) { return e->live_bytes || e->stay_bytes || e->old_bytes; }

int nf_gc_marks_put(struct nf_gc_marks *m, const struct nf_ref *from, const struct nf_ref *to, const struct nf_pack_set *set)
{
	size_t nr = 0;

	for (struct nf_pack_entry *e = nf_pack_set_first(set); e; e = nf_pack_set_next(e))
		nr += is_some(e);
	struct nf_gc_step *s = new_step(m, from, to, nr);
	if (!s)
		return nf_fail(-ENOMEM);
	for (struct nf_pack_entry *e = nf_pack_set_first(set); e; e = nf_pack_set_next(e))
		if (is_some(e))
			s->sums[s->nr++] = (struct nf_gc_sum){ e->id, e->live_bytes, e->stay_bytes, e->old_bytes };
	s->used = true;
	return 0;
}

/* --- packs not worth it ------------------------------------------------------------------------ */

bool nf_gc_marks_refused(const struct nf_gc_marks *m, const struct nf_pack_entry *e)
{
	for (size_t i = 0; i < m->nr_refused; i++) {
		const struct nf_gc_refused *f = &m->refused[i];
		/* Much less is named of it now: it may be. */
		if (!memcmp(&f->pack, &e->id, sizeof f->pack))
			return f->runs && e->most_bytes >= f->most_bytes - f->most_bytes / 8;
	}
	return false;
}

int nf_gc_marks_refuse(struct nf_gc_marks *m, const struct nf_pack_id *pack, int64_t most_bytes)
{
	size_t i = 0;

	while (i < m->nr_refused && memcmp(&m->refused[i].pack, pack, sizeof *pack))
		i++;
	if (i == m->nr_refused) {
		struct nf_gc_refused *p = realloc(m->refused, (i + 1) * sizeof *p);
		if (!p)
			return nf_fail(-ENOMEM);
		m->refused = p;
		m->nr_refused++;
	}
	m->refused[i] = (struct nf_gc_refused){ *pack, most_bytes, REFUSED_RUNS };
	return 0;
}

/* --- the file ------------------------------------------------------------------------------------- */

static int get_step(struct nf_gc_marks *m, struct nf_rd *rd)
{
	struct nf_ref from, to;

	int r = nf_ref_decode_or_null(rd, NULL, &from);
	nf_ref_decode(rd, NULL, &to);
	uint32_t nr = nf_rd_u32(rd);
	if (r < 0 || rd->bad || nr > nf_rd_left(rd) / SUM_BYTES)
		return nf_fail(-NF_E_STATE_BAD);
	struct nf_gc_step *s = new_step(m, &from, &to, nr);
	if (!s)
		return nf_fail(-ENOMEM);
	for (uint32_t i = 0; i < nr; i++) {
		struct nf_gc_sum *x = &s->sums[s->nr++];
		nf_rd_copy(rd, x->pack.b, sizeof x->pack.b);
		x->live_bytes = (int64_t)nf_rd_u64(rd);
		x->stay_bytes = (int64_t)nf_rd_u64(rd);
		x->old_bytes = (int64_t)nf_rd_u64(rd);
	}
	return 0;
}

static int get_refused(struct nf_gc_marks *m, struct nf_rd *rd)
{
	struct nf_pack_id pack;

	nf_rd_copy(rd, pack.b, sizeof pack.b);
	int64_t most = (int64_t)nf_rd_u64(rd);
	uint32_t runs = nf_rd_u32(rd);
	if (rd->bad || runs == 0 || runs > REFUSED_RUNS)
		return rd->bad ? nf_fail(-NF_E_STATE_BAD) : 0;
	int r = nf_gc_marks_refuse(m, &pack, most);
	if (r == 0)
		m->refused[m->nr_refused - 1].runs = runs - 1;
	return r;
}

static int decode(struct nf_gc_marks *m, const void *p, size_t len)
{
	struct nf_rd rd = nf_rd_of(p, len);
	int r = nf_rd_u8(&rd) == VERSION && nf_rd_u32(&rd) == m->epoch ? 0 : nf_fail(-NF_E_STATE_BAD);

	for (uint32_t nr = nf_rd_u32(&rd); r == 0 && nr > 0; nr--)
		r = get_step(m, &rd);
	for (uint32_t nr = r == 0 ? nf_rd_u32(&rd) : 0; r == 0 && nr > 0; nr--)
		r = get_refused(m, &rd);
	return r < 0 ? r : nf_rd_error(&rd, true);
}

int nf_gc_marks_load(struct nf_vault *v, uint32_t epoch, struct nf_gc_marks *m)
{
	nf_auto_free void *plain = NULL;
	uint8_t device_id[16];
	size_t len;

	*m = (struct nf_gc_marks){ .epoch = epoch };
	if (!v->state_path)
		return 0;
	int r = nf_sealed_load(v, "gc", FILE_MAX_BYTES, device_id, &plain, &len);
	if (r == 0)
		r = memcmp(device_id, v->device_id, sizeof device_id) ? nf_fail(-NF_E_STATE_BAD) : decode(m, plain, len);
	if (r == 0)
		return 0;
	nf_gc_marks_deinit(m);
	m->epoch = epoch;
	return r == -ENOMEM ? r : 0;
}

static void put_step(struct nf_buf *b, const struct nf_gc_step *s)
{
	nf_ref_encode(b, &s->from);
	nf_ref_encode(b, &s->to);
	nf_buf_u32(b, (uint32_t)s->nr);
	for (size_t i = 0; i < s->nr; i++) {
		nf_buf_bytes(b, s->sums[i].pack.b, sizeof s->sums[i].pack.b);
		nf_buf_u64(b, (uint64_t)s->sums[i].live_bytes);
		nf_buf_u64(b, (uint64_t)s->sums[i].stay_bytes);
		nf_buf_u64(b, (uint64_t)s->sums[i].old_bytes);
	}
}

int nf_gc_marks_save(struct nf_vault *v, const struct nf_gc_marks *m)
{
	size_t len = 13 + m->nr_refused * REFUSED_BYTES;
	struct nf_buf b = NF_BUF_INIT;
	uint32_t nr = 0;

	if (!v->state_path)
		return 0;
	for (struct nf_avl_node *n = nf_avl_first(&m->steps); n; n = nf_avl_next(n)) {
		nr += step_of(n)->used;
		len += step_of(n)->used ? STEP_BYTES + step_of(n)->nr * SUM_BYTES : 0;
	}
	if (len > FILE_MAX_BYTES / 2)
		return nf_fail(-NF_E_FULL); /* what is there stays, and tells less and less */
	nf_buf_u8(&b, VERSION);
	nf_buf_u32(&b, m->epoch);
	nf_buf_u32(&b, nr);
	for (struct nf_avl_node *n = nf_avl_first(&m->steps); n; n = nf_avl_next(n))
		if (step_of(n)->used)
			put_step(&b, step_of(n));
	nf_buf_u32(&b, (uint32_t)m->nr_refused);
	for (size_t i = 0; i < m->nr_refused; i++) {
		nf_buf_bytes(&b, m->refused[i].pack.b, sizeof m->refused[i].pack.b);
		nf_buf_u64(&b, (uint64_t)m->refused[i].most_bytes);
		nf_buf_u32(&b, m->refused[i].runs);
	}
	int r = nf_sealed_save(v, "gc", v->device_id, &b);
	nf_buf_deinit(&b);
	return r;
}
