/* Commands about pins and the cache. */
#include "base/error.h"
#include "base/mem.h"
#include "daemon/control_i.h"

#include <inttypes.h>

static void field(struct nf_text *t, const char *name, uint64_t v) { nf_textf(t, ",\"%s\":%" PRIu64, name, v); }

/* --- pins ----------------------------------------------------------------------------------- */

struct pin_job {
	uint64_t ino;
	bool dry_run;
	struct nf_pin_estimate e;
};

static int run_pin(struct nf_job *j)
{
	struct pin_job *pj = j->ctx;

	return nf_vault_pin(j->v, pj->ino, pj->dry_run, &j->stop, &pj->e);
}

static int run_wait(struct nf_job *j) { return nf_vault_pin_wait(j->v, &j->stop); }

bool nf_do_pin(struct nf_peer *p, const char *line)
{
	struct pin_job pj = { 0 };
	struct nf_job j = { .run = run_pin, .ctx = &pj, .pins = true };
	struct nf_text t = NF_TEXT_INIT;
	uint64_t dry = 0;
	int r;

	nf_number(line, "ino", &pj.ino);
	nf_number(line, "dry_run", &dry);
	pj.dry_run = dry != 0;
	bool ok = nf_run_beside(p, &j, &r);
	nf_reply_begin(&t, r);
	if (r == 0 || r == -NF_E_FULL) {
		field(&t, "files", pj.e.pin.files);
		field(&t, "bytes", pj.e.pin.bytes);
		field(&t, "missing_bytes", pj.e.missing_bytes);
		field(&t, "kept_bytes", pj.e.kept_bytes);
		field(&t, "limit_bytes", pj.e.limit_bytes);
		nf_textf(&t, ",\"fits\":%s", pj.e.fits ? "true" : "false");
	}
	ok = nf_reply_end(p, &t) && ok;
	nf_text_deinit(&t);
	return ok;
}

bool nf_do_pin_wait(struct nf_peer *p, const char *line)
{
	struct nf_job j = { .run = run_wait, .pins = true };
	int r;

	(void)line;
	bool ok = nf_run_beside(p, &j, &r);
	return nf_reply_text(p, r, NULL) && ok;
}

bool nf_do_unpin(struct nf_peer *p, const char *line)
{
	uint64_t ino = 0;

	nf_number(line, "ino", &ino);
	return nf_reply_text(p, nf_vault_unpin(p->env->vault, ino), NULL);
}

struct pin_list {
	struct nf_text t;
	bool json;
};

static bool add_pin(void *ctx, const struct nf_pin *pin, const char *path)
{
	struct pin_list *l = ctx;

	if (l->json) {
		nf_textf(&l->t, "%s{\"path\":", l->t.len ? "," : "");
		nf_text_json(&l->t, path ? path : "");
		field(&l->t, "ino", pin->ino);
		field(&l->t, "files", pin->files);
		field(&l->t, "bytes", pin->bytes);
		field(&l->t, "present_bytes", pin->present_bytes);
		nf_textf(&l->t, "}");
		return true;
	}
	uint64_t percent = pin->bytes ? pin->present_bytes * 100 / pin->bytes : 100;
	nf_textf(&l->t, "%3" PRIu64 "%%  %6" PRIu64 " files  ", percent, pin->files);
	nf_text_size(&l->t, pin->bytes);
	nf_textf(&l->t, "  ");
	if (path)
		nf_text_name(&l->t, *path ? path : ".");
	else
		nf_textf(&l->t, "(removed)");
	nf_textf(&l->t, "\n");
	return true;
}

bool nf_do_pins(struct nf_peer *p, const char *line)
{
	struct pin_list l = { .json = nf_wants(line, "json") };
	struct nf_text t = NF_TEXT_INIT;

	int r = nf_vault_pins(p->env->vault, add_pin, &l);
	nf_reply_begin(&t, r);
	if (r == 0 && l.json)
		nf_textf(&t, ",\"pins\":[%s]", nf_text_str(&l.t));
	else if (r == 0)
		nf_textf(&t, ",\"text\":"), nf_text_json(&t, nf_text_str(&l.t));
	bool ok = nf_reply_end(p, &t);
	nf_text_deinit(&l.t);
	nf_text_deinit(&t);
	return ok;
}

/* --- the cache ------------------------------------------------------------------------------- */

static void row(struct nf_text *t, const char *what, uint64_t bytes, const char *behind)
{
	nf_textf(t, "%-20s ", what);
	nf_text_size(t, bytes);
	nf_textf(t, "%s\n", behind);
}

static void info_text(const struct nf_control_env *env, const struct nf_cache_info *i, struct nf_text *t)
{
	uint64_t all = i->hit_bytes + i->miss_bytes;

	nf_textf(t, "%-20s %s\n", "directory", env->cache_dir);
	row(t, "limit", i->limit_bytes, " (cache_size)");
	row(t, "used", i->used_bytes, "");
	row(t, "  pinned", i->kept_bytes, ": never evicted");
	row(t, "  clean", i->used_bytes - NF_MIN(i->used_bytes, i->kept_bytes), ": can be fetched again");
	row(t, "journal", i->journal_bytes, ": what may not be on the server yet; not part of the limit");
	row(t, "free on its disk", i->disk_free_bytes, "");
	row(t, "left free", i->min_free_bytes, " at least (min_free)");
	nf_textf(t, "%-20s %" PRIu64 "\n%-20s ", "packs", i->packs, "hit rate");
	if (all)
		nf_textf(t, "%.1f %% of ", (double)i->hit_bytes * 100 / (double)all), nf_text_size(t, all), nf_textf(t, " since the mount\n");
	else
		nf_textf(t, "nothing was read yet\n");
}

static void info_json(const struct nf_control_env *env, const struct nf_cache_info *i, struct nf_text *t)
{
	nf_textf(t, "{\"directory\":");
	nf_text_json(t, env->cache_dir);
	field(t, "limit_bytes", i->limit_bytes);
	field(t, "min_free_bytes", i->min_free_bytes);
	field(t, "used_bytes", i->used_bytes);
	field(t, "pinned_bytes", i->kept_bytes);
	field(t, "clean_bytes", i->used_bytes - NF_MIN(i->used_bytes, i->kept_bytes));
	field(t, "journal_bytes", i->journal_bytes);
	field(t, "disk_free_bytes", i->disk_free_bytes);
	field(t, "disk_bytes", i->disk_bytes);
	field(t, "packs", i->packs);
	field(t, "hit_bytes", i->hit_bytes);
	field(t, "miss_bytes", i->miss_bytes);
	nf_textf(t, "}");
}

bool nf_do_cache_info(struct nf_peer *p, const char *line)
{
	struct nf_text t = NF_TEXT_INIT, people = NF_TEXT_INIT;
	struct nf_cache_info i;

	(void)line;
	int r = nf_vault_cache_info(p->env->vault, &i);
	nf_reply_begin(&t, r);
	if (r == 0) {
		info_text(p->env, &i, &people);
		nf_textf(&t, ",\"text\":");
		nf_text_json(&t, nf_text_str(&people));
		nf_textf(&t, ",\"result\":");
		info_json(p->env, &i, &t);
	}
	bool ok = nf_reply_end(p, &t);
	nf_text_deinit(&people);
	nf_text_deinit(&t);
	return ok;
}

struct drop_job {
	uint64_t ino, freed_bytes;
};

static int run_drop(struct nf_job *j)
{
	struct drop_job *d = j->ctx;

	return nf_vault_cache_drop(j->v, d->ino, &j->stop, &d->freed_bytes);
}

bool nf_do_cache_drop(struct nf_peer *p, const char *line)
{
	struct drop_job d = { 0 };
	struct nf_job j = { .run = run_drop, .ctx = &d, .pins = true };
	struct nf_text t = NF_TEXT_INIT;
	int r;

	nf_number(line, "ino", &d.ino);
	bool ok = nf_run_beside(p, &j, &r);
	nf_reply_begin(&t, r);
	if (r >= 0)
		field(&t, "freed_bytes", d.freed_bytes);
	ok = nf_reply_end(p, &t) && ok;
	nf_text_deinit(&t);
	return ok;
}

struct verify_job {
	struct nf_cache_verified r;
	struct nf_text lines;
};

static void add_line(void *ctx, const char *line)
{
	struct verify_job *v = ctx;

	nf_textf(&v->lines, "%s\n", line);
}

static int run_verify(struct nf_job *j)
{
	struct verify_job *v = j->ctx;

	return nf_vault_cache_verify(j->v, &j->stop, add_line, v, &v->r);
}

bool nf_do_cache_verify(struct nf_peer *p, const char *line)
{
	struct verify_job v = { .lines = NF_TEXT_INIT };
	struct nf_job j = { .run = run_verify, .ctx = &v, .pins = true };
	struct nf_text t = NF_TEXT_INIT;
	int r;

	(void)line;
	bool ok = nf_run_beside(p, &j, &r);
	nf_reply_begin(&t, r);
	nf_textf(&t, ",\"text\":");
	nf_text_json(&t, nf_text_str(&v.lines));
	field(&t, "blocks", v.r.blocks);
	field(&t, "bytes", v.r.bytes);
	field(&t, "bad", v.r.bad);
	ok = nf_reply_end(p, &t) && ok;
	nf_text_deinit(&v.lines);
	nf_text_deinit(&t);
	return ok;
}
