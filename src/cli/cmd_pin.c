/* foliofs pin PATH | pin --list [DIR], foliofs unpin PATH, foliofs cache DIR info|drop|verify, foliofs cache STORE wipe */
#include "base/error.h"
#include "base/mem.h"
#include "cli/live.h"
#include "cli/open.h"
#include "daemon/json.h"
#include "daemon/wipe.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* The inode of PATH, which must be on the mount of L, not beneath something mounted in it. */
static enum nf_exit inode_of(const char *path, const struct nf_live *l, uint64_t *ino)
{
	struct stat st;

	if (lstat(path, &st)) {
		nf_complain("%s: %s", path, nf_strerror(-errno));
		return NF_EXIT_ERROR;
	}
	if (major(st.st_dev) != l->m.major || minor(st.st_dev) != l->m.minor) {
		nf_complain("%s is not in the vault mounted at %s", path, l->m.at);
		return NF_EXIT_NOT_MOUNTED;
	}
	*ino = st.st_ino;
	return NF_EXIT_OK;
}

static enum nf_exit reach_path(const char *path, struct nf_live *l, uint64_t *ino)
{
	enum nf_exit e = nf_live_reach(path, l);

	if (e)
		return e;
	e = inode_of(path, l, ino);
	if (e)
		nf_live_leave(l);
	return e;
}

/* --- pin ------------------------------------------------------------------------------------- */

struct estimate {
	int64_t files, bytes, missing, kept, limit;
};

static void estimate_of(const char *reply, struct estimate *e)
{
	*e = (struct estimate){ 0 };
	/* Members that are not there stay 0. */
	(void)nf_json_int(reply, "files", &e->files);
	(void)nf_json_int(reply, "bytes", &e->bytes);
	(void)nf_json_int(reply, "missing_bytes", &e->missing);
	(void)nf_json_int(reply, "kept_bytes", &e->kept);
	(void)nf_json_int(reply, "limit_bytes", &e->limit);
}

static enum nf_exit say_estimate(const char *path, const struct estimate *e, const struct nf_options *o)
{
	struct nf_text t = NF_TEXT_INIT;

	if (o->json) {
		nf_textf(&t, "{\"files\":%" PRId64 ",\"bytes\":%" PRId64 ",\"missing_bytes\":%" PRId64 ",\"kept_bytes\":%" PRId64
			 ",\"limit_bytes\":%" PRId64 "}\n", e->files, e->bytes, e->missing, e->kept, e->limit);
	} else if (!o->quiet) {
		nf_textf(&t, "%s: %" PRId64 " files, ", path, e->files);
		nf_text_size(&t, (uint64_t)e->bytes);
		nf_textf(&t, ", of which ");
		nf_text_size(&t, (uint64_t)e->missing);
		nf_textf(&t, " to fetch; everything pinned would take ");
		nf_text_size(&t, (uint64_t)e->kept);
		nf_textf(&t, " of ");
		nf_text_size(&t, (uint64_t)e->limit);
		nf_textf(&t, " (cache_size)\n");
	}
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	return ok ? NF_EXIT_OK : NF_EXIT_ERROR;
}

static enum nf_exit no_room(const char *path, const struct estimate *e)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_text_size(&t, (uint64_t)e->kept);
	nf_textf(&t, " of cache, more than there is (cache_size is ");
	nf_text_size(&t, (uint64_t)e->limit);
	nf_complain("%s is not pinned: with it everything pinned would need %s, or its disk is too full): mount with a "
		    "larger cache_size, or unpin something", path, nf_text_str(&t));
	nf_text_deinit(&t);
	return NF_EXIT_FULL;
}

/* What is pinned is fetched in the background; this shows how far it is. */
static enum nf_exit wait_fetched(struct nf_live *l, const char *path, const struct nf_options *o)
{
	nf_auto_free char *reply = NULL;

	l->doing = "fetching";
	int r = nf_live_ask_long(l, "{\"cmd\":\"pin-wait\"}", o->quiet || o->json, &reply);
	if (r == 0)
		return NF_EXIT_OK;
	if (r == -ECONNRESET)
		return nf_live_failed(l, "pin", r);
	nf_complain("%s is pinned, but not complete yet: %s; the rest is fetched when that is over", path, nf_strerror(r));
	return nf_exit_of(r);
}

static enum nf_exit pin(struct nf_live *l, const char *path, uint64_t ino, const struct nf_options *o)
{
	nf_auto_free char *reply = NULL;
	nf_auto_free char *q = NULL;
	struct estimate e;

	if (asprintf(&q, "{\"cmd\":\"pin\",\"ino\":%" PRIu64 ",\"dry_run\":%d}", ino, o->dry_run) < 0)
		return NF_EXIT_ERROR;
	int r = nf_control_ask(l->fd, q, NULL, NULL, &reply);
	if (r == -EEXIST) {
		nf_complain("%s is pinned already", path);
		return NF_EXIT_ERROR;
	}
	if (r < 0 && r != -NF_E_FULL)
		return nf_live_failed(l, "pin", r);
	estimate_of(reply, &e);
	if (r == -NF_E_FULL)
		return no_room(path, &e);
	enum nf_exit x = say_estimate(path, &e, o);
	return x || o->dry_run ? x : wait_fetched(l, path, o);
}

static enum nf_exit list(const char *dir, bool json)
{
	nf_auto_free char *reply = NULL, *text = NULL;
	struct nf_live l;
	const char *p;
	size_t len;

	enum nf_exit e = nf_live_reach(dir, &l);
	if (e)
		return e;
	int r = nf_control_ask(l.fd, json ? "{\"cmd\":\"pins\",\"format\":\"json\"}" : "{\"cmd\":\"pins\"}", NULL, NULL, &reply);
	if (r == 0 && json && (r = nf_json_raw(reply, "pins", &p, &len)) == 0)
		(void)printf("%.*s\n", (int)len, p);
	else if (r == 0 && !json && (r = nf_json_string(reply, "text", &text)) == 0)
		(void)fputs(text, stdout);
	if (r < 0)
		e = nf_live_failed(&l, "pin", r);
	nf_live_leave(&l);
	return e == NF_EXIT_OK && fflush(stdout) ? NF_EXIT_ERROR : e;
}

enum nf_exit nf_cmd_pin(struct nf_args *a)
{
	struct nf_live l;
	uint64_t ino;

	if (a->opt.list)
		return list(a->arg[0], a->opt.json);
	if (!a->arg[0]) {
		nf_complain("which file or directory? (foliofs pin --list shows what is pinned)");
		return NF_EXIT_USAGE;
	}
	enum nf_exit e = reach_path(a->arg[0], &l, &ino);
	if (e)
		return e;
	e = pin(&l, a->arg[0], ino, &a->opt);
	nf_live_leave(&l);
	return e;
}

enum nf_exit nf_cmd_unpin(struct nf_args *a)
{
	nf_auto_free char *reply = NULL, *q = NULL;
	struct nf_live l;
	uint64_t ino;

	enum nf_exit e = reach_path(a->arg[0], &l, &ino);
	if (e)
		return e;
	int r = asprintf(&q, "{\"cmd\":\"unpin\",\"ino\":%" PRIu64 "}", ino) < 0 ? -ENOMEM :
		nf_control_ask(l.fd, q, NULL, NULL, &reply);
	if (r == -ENOENT)
		nf_complain("%s is not pinned itself (foliofs pin --list shows what is)", a->arg[0]);
	e = r == 0 ? NF_EXIT_OK : r == -ENOENT ? NF_EXIT_ERROR : nf_live_failed(&l, "unpin", r);
	nf_live_leave(&l);
	return e;
}

/* --- cache ------------------------------------------------------------------------------------ */

static enum nf_exit info(struct nf_live *l, const struct nf_options *o)
{
	nf_auto_free char *reply = NULL, *text = NULL;
	const char *p;
	size_t len;

	int r = nf_control_ask(l->fd, "{\"cmd\":\"cache-info\"}", NULL, NULL, &reply);
	if (r == 0 && o->json && (r = nf_json_raw(reply, "result", &p, &len)) == 0)
		(void)printf("%.*s\n", (int)len, p);
	else if (r == 0 && !o->json && (r = nf_json_string(reply, "text", &text)) == 0)
		(void)fputs(text, stdout);
	return r < 0 ? nf_live_failed(l, "cache info", r) : NF_EXIT_OK;
}

static enum nf_exit drop(struct nf_live *l, const char *path, const struct nf_options *o)
{
	nf_auto_free char *reply = NULL, *q = NULL;
	struct nf_text t = NF_TEXT_INIT;
	uint64_t ino = 0;
	int64_t freed = 0;

	enum nf_exit e = path ? inode_of(path, l, &ino) : NF_EXIT_OK;
	if (e)
		return e;
	int r = asprintf(&q, "{\"cmd\":\"cache-drop\",\"ino\":%" PRIu64 "}", ino) < 0 ? -ENOMEM :
		nf_control_ask(l->fd, q, NULL, NULL, &reply);
	if (r == 0)
		r = nf_json_int(reply, "freed_bytes", &freed);
	if (r < 0)
		return nf_live_failed(l, "cache drop", r);
	if (o->json)
		nf_textf(&t, "{\"freed_bytes\":%" PRId64 "}\n", freed);
	else if (!o->quiet)
		nf_text_size(&t, (uint64_t)freed), nf_textf(&t, " freed; what is pinned stays\n");
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	return ok ? NF_EXIT_OK : NF_EXIT_ERROR;
}

static enum nf_exit verify(struct nf_live *l, const struct nf_options *o)
{
	nf_auto_free char *reply = NULL, *text = NULL;
	int64_t blocks = 0, bytes = 0, bad = 0;
	struct nf_text t = NF_TEXT_INIT;

	int r = nf_control_ask(l->fd, "{\"cmd\":\"cache-verify\"}", NULL, NULL, &reply);
	if (r == 0)
		r = nf_json_string(reply, "text", &text);
	if (r == 0)
		r = nf_json_int(reply, "blocks", &blocks);
	if (r == 0)
		r = nf_json_int(reply, "bytes", &bytes);
	if (r == 0)
		r = nf_json_int(reply, "bad", &bad);
	if (r < 0)
		return nf_live_failed(l, "cache verify", r);
	if (o->json) {
		nf_textf(&t, "{\"blocks\":%" PRId64 ",\"bytes\":%" PRId64 ",\"bad\":%" PRId64 ",\"lines\":", blocks, bytes, bad);
		nf_text_json(&t, text);
		nf_textf(&t, "}\n");
	} else {
		nf_textf(&t, "%s%" PRId64 " blocks, ", text, blocks);
		nf_text_size(&t, (uint64_t)bytes);
		nf_textf(&t, bad ? ": %" PRId64 " were damaged and are fetched again when they are needed\n" : ": all good\n", bad);
	}
	bool ok = nf_print(&t);
	nf_text_deinit(&t);
	return ok ? bad ? NF_EXIT_DAMAGED : NF_EXIT_OK : NF_EXIT_ERROR;
}

static enum nf_exit wipe(const char *store, const struct nf_options *o)
{
	nf_auto_free char *where = NULL;
	struct nf_mount m;

	if (nf_mount_find(store, false, &m) == 0) {
		nf_complain("%s is mounted; unmount it and say: foliofs cache STORE wipe", m.at);
		return NF_EXIT_BUSY;
	}
	struct nf_site site;
	enum nf_exit e = nf_site_init(store, o, &site);
	if (e)
		return e;
	int r = nf_wipe_device(site.address, o->cache_dir, o->force, &where);
	if (r == -NF_E_CACHE_LOCKED)
		nf_complain("the vault is mounted here; unmount it first");
	else if (r == -EBUSY)
		nf_complain("this device may hold changes that are not on the server: mount, `foliofs sync`, unmount; or "
			    "--force, and they are lost");
	else if (r == -ENOENT)
		nf_complain("this device remembers nothing of %s", site.safe);
	else if (r < 0)
		nf_complain("%s: %s", where ? where : site.safe, nf_strerror(r));
	nf_site_deinit(&site);
	return r == 0 ? NF_EXIT_OK : r == -NF_E_CACHE_LOCKED || r == -EBUSY ? NF_EXIT_BUSY : NF_EXIT_ERROR;
}

enum nf_exit nf_cmd_cache(struct nf_args *a)
{
	const char *what = a->arg[1];
	struct nf_live l;

	if (!strcmp(what, "wipe") && !a->arg[2])
		return wipe(a->arg[0], &a->opt);
	bool is_drop = !strcmp(what, "drop");
	if ((!is_drop && strcmp(what, "info") != 0 && strcmp(what, "verify") != 0) || (a->arg[2] && !is_drop)) {
		nf_complain("cache DIR info | drop [PATH] | verify, or cache STORE wipe");
		return NF_EXIT_USAGE;
	}
	enum nf_exit e = nf_live_reach(a->arg[0], &l);
	if (e)
		return e;
	e = is_drop ? drop(&l, a->arg[2], &a->opt) : !strcmp(what, "info") ? info(&l, &a->opt) : verify(&l, &a->opt);
	nf_live_leave(&l);
	return e == NF_EXIT_OK && fflush(stdout) ? NF_EXIT_ERROR : e;
}
