#include "cli/open.h"

#include "aio/file.h"
#include "base/error.h"
#include "base/mem.h"
#include "daemon/explain.h"
#include "daemon/paths.h"
#include "daemon/unlock.h"
#include "foliofs/store.h"

#include <stdio.h>
#include <unistd.h>

enum { STATE_MAX = 64 << 20, READER_MEMORY_BYTES = 32 << 20 };

/* --- addresses ----------------------------------------------------------------------- */

/* A path as a bare word is one too; the daemon leaves the current directory. */
static int absolute(const char *a, char **out)
{
	if (!strncmp(a, "fault+", 6)) {
		nf_auto_free char *below = NULL;
		int r = absolute(a + 6, &below);
		if (r == 0 && asprintf(out, "fault+%s", below) < 0)
			r = nf_fail(-ENOMEM);
		return r;
	}
	if (strstr(a, "://") || !strncmp(a, "mem:", 4) || *a == '/') {
		*out = strdup(a);
		return *out ? 0 : nf_fail(-ENOMEM);
	}
	nf_auto_free char *cwd = getcwd(NULL, 0);
	if (!cwd)
		return nf_fail(-errno);
	return asprintf(out, "%s/%s", cwd, a) < 0 ? nf_fail(-ENOMEM) : 0;
}

/* Everybody can read the arguments of a process. */
static bool has_password(const char *a)
{
	const char *host = strstr(a, "://");
	const char *at = host ? memchr(host + 3, '@', strcspn(host + 3, "/?")) : NULL;

	return at && memchr(host + 3, ':', (size_t)(at - host - 3));
}

static bool has_user(const char *a)
{
	const char *host = strstr(a, "://");

	return host && strncmp(a, "file:", 5) && memchr(host + 3, '@', strcspn(host + 3, "/?"));
}

/* --- credentials of the server --------------------------------------------------------- */

static enum nf_exit server_secret(const char *path, struct nf_secret_buf *out)
{
	struct nf_text err = NF_TEXT_INIT;

	int r = nf_secret_file(path, true, out, &err);
	if (r < 0)
		nf_complain("%s", nf_text_str(&err));
	nf_text_deinit(&err);
	return r == 0 ? NF_EXIT_OK : NF_EXIT_USAGE;
}

/* A user without a password anywhere is asked for one, where there is somebody to ask. */
static void prompt_server(struct nf_site *s)
{
	nf_auto_free char *prompt = NULL;
	const char *home = getenv("HOME");
	nf_auto_free char *netrc = NULL;

	if (!has_user(s->address) || (home && asprintf(&netrc, "%s/.netrc", home) > 0 && !access(netrc, R_OK)))
		return;
	if (asprintf(&prompt, "Password of the server at %s", s->safe) < 0)
		return;
	if (!nf_secret_prompt(prompt, &s->dav_password))
		s->so.password = s->dav_password.p;
}

static enum nf_exit credentials(const struct nf_options *o, struct nf_site *s)
{
	enum nf_exit e = NF_EXIT_OK;

	if (o->dav_password_file) {
		e = server_secret(o->dav_password_file, &s->dav_password);
		s->so.password = s->dav_password.p;
	} else if (o->bearer_token_file) {
		e = server_secret(o->bearer_token_file, &s->token);
		s->so.bearer_token = s->token.p;
	} else {
		prompt_server(s);
	}
	return e;
}

enum nf_exit nf_site_init(const char *address, const struct nf_options *o, struct nf_site *s)
{
	*s = (struct nf_site){ 0 };
	if (has_password(address)) {
		nf_complain("a password in the address can be read by everybody on this machine; use "
			    "--dav-password-file or ~/.netrc");
		return NF_EXIT_USAGE;
	}
	int r = absolute(address, &s->address);
	if (r == 0 && !(s->safe = nf_store_address_safe(s->address)))
		r = nf_fail(-ENOMEM);
	if (r < 0) {
		nf_complain("%s: %s", address, nf_strerror(r));
		return NF_EXIT_ERROR;
	}
	s->so = (struct nf_store_options){
		.netrc = true, .insecure_http = o->insecure_http, .ca_cert = o->ca_cert,
		.client_cert = o->client_cert, .client_key = o->client_key, .proxy = o->proxy,
		.timeout_ms = (uint32_t)NF_MIN(o->timeout_ms, (uint64_t)UINT32_MAX),
		.connections = (uint32_t)NF_MIN(o->connections, (uint64_t)64),
		.retries = (uint32_t)NF_MIN(o->retries, (uint64_t)1000),
		.bwlimit_up_bytes = o->bwlimit_up ? o->bwlimit_up : o->bwlimit,
		.bwlimit_down_bytes = o->bwlimit_down ? o->bwlimit_down : o->bwlimit,
		.may_be_away = o->offline,
	};
	return credentials(o, s);
}

void nf_site_deinit(struct nf_site *s)
{
	nf_secret_deinit(&s->dav_password);
	nf_secret_deinit(&s->token);
	free(s->address);
	free(s->safe);
	*s = (struct nf_site){ 0 };
}

enum nf_exit nf_site_complain(const struct nf_site *s, int code, const char *where)
{
	nf_auto_free char *text = nf_explain(code, s->safe, where);
	uint8_t id[NF_VOLUME_ID_BYTES];

	/* To make a vault where the disk of one is to be mounted would be the wrong advice. */
	if ((code == -ENOENT || code == -NF_E_STORE_NOT_FOUND) && nf_known_volume(s->address, id) == 0)
		nf_complain("there is nothing at %s now, where this machine knows a vault; if its disk is away, bring it back, or work "
			    "without it: foliofs mount --offline %s DIR", s->safe, s->safe);
	else
		nf_complain("%s", text ? text : nf_strerror(code));
	return nf_exit_of_stage(code, NF_STAGE_HEADER);
}

/* --- unlocking ------------------------------------------------------------------------- */

static enum nf_exit unlock_by(const struct nf_site *s, const struct nf_options *o, const struct nf_secret_buf *buf,
			      struct nf_unlocked *out)
{
	struct nf_secret secret = nf_secret_of(buf);
	int r = nf_unlock(s->address, &s->so, &secret, o->offline, out);

	return r < 0 ? nf_site_complain(s, r, NULL) : NF_EXIT_OK;
}

enum nf_exit nf_site_unlock(const struct nf_site *s, const struct nf_options *o, struct nf_unlocked *out)
{
	nf_auto_free char *prompt = NULL;
	struct nf_text err = NF_TEXT_INIT;
	struct nf_secret_buf buf;

	if (asprintf(&prompt, "Passphrase for %s", s->safe) < 0)
		return NF_EXIT_ERROR;
	int r = nf_secret_get(o, prompt, false, &buf, &err);
	if (r < 0) {
		nf_complain("%s", err.len ? err.s : nf_strerror(r));
		nf_text_deinit(&err);
		return r == -NF_E_KEY_WRONG ? NF_EXIT_KEY : NF_EXIT_USAGE;
	}
	nf_text_deinit(&err);
	enum nf_exit e = unlock_by(s, o, &buf, out);
	nf_secret_deinit(&buf);
	return e;
}

/* GIVEN: NULL, it is asked for. */
static enum nf_exit open_header(const struct nf_site *s, const struct nf_options *o, const struct nf_secret_buf *given,
				struct nf_store **store, struct nf_header **h)
{
	nf_auto_free char *where = NULL;
	struct nf_unlocked u;

	enum nf_exit e = given ? unlock_by(s, o, given, &u) : nf_site_unlock(s, o, &u);
	if (e)
		return e;
	int r = nf_store_open(s->address, &s->so, false, store);
	if (r == 0) {
		r = nf_header_open(s->address, *store, u.root_key, &u.kept, h, &where);
		if (r < 0)
			nf_store_free(*store);
	}
	nf_wipe(&u, sizeof u);
	return r < 0 ? nf_site_complain(s, r, where) : NF_EXIT_OK;
}

/* --- reading without a mount -------------------------------------------------------------- */

/* The daemon that may run owns the state directory; a reader looks at a copy, so that an old state shown by the store is
 * refused here too. */
static int copy_state(const struct nf_header *h, struct nf_reader *rd)
{
	struct nf_vault_paths paths;
	nf_auto_free char *from = NULL, *to = NULL, *runtime = NULL;
	nf_auto_free void *p = NULL;
	size_t len;

	int r = nf_runtime_dir(&runtime);
	if (r == 0 && asprintf(&rd->scratch, "%s/read-XXXXXX", runtime) < 0)
		r = nf_fail(-ENOMEM);
	if (r == 0 && !mkdtemp(rd->scratch))
		r = nf_fail(-errno);
	if (r == 0)
		r = nf_vault_paths_of(nf_header_volume_id(h), NULL, &paths);
	if (r < 0)
		return r;
	if (asprintf(&from, "%s/state", paths.state) < 0 || asprintf(&to, "%s/state", rd->scratch) < 0)
		r = nf_fail(-ENOMEM);
	nf_vault_paths_deinit(&paths);
	if (r == 0)
		r = nf_file_slurp(&nf_file_real, from, STATE_MAX, &p, &len);
	if (r == 0)
		r = nf_file_replace(&nf_file_real, to, p, len);
	return r == -ENOENT ? 0 : r;
}

enum nf_exit nf_reader_open(const char *address, const struct nf_options *o, struct nf_reader *rd)
{
	struct nf_store *store;
	struct nf_header *h;

	*rd = (struct nf_reader){ 0 };
	enum nf_exit e = nf_site_init(address, o, &rd->site);
	if (e == NF_EXIT_OK)
		e = open_header(&rd->site, o, NULL, &store, &h);
	if (e)
		return e;
	int r = copy_state(h, rd);
	if (r < 0)
		nf_store_free(store);
	struct nf_vault_options v = { .store = store, .header = h, .state_dir = rd->scratch,
				      .memory_bytes = READER_MEMORY_BYTES, .read_only = true, .no_threads = true,
				      .expect = o->expect, .snapshot = o->snapshot };
	if (r == 0)
		r = nf_vault_open(&v, &rd->vault);
	nf_header_free(h);
	return r < 0 ? nf_site_complain(&rd->site, r, NULL) : NF_EXIT_OK;
}

enum nf_exit nf_writer_open(const char *address, const struct nf_options *o, const struct nf_secret_buf *given,
			    struct nf_reader *rd)
{
	struct nf_vault_paths paths = { 0 };
	struct nf_store *store;
	struct nf_header *h;

	*rd = (struct nf_reader){ 0 };
	enum nf_exit e = nf_site_init(address, o, &rd->site);
	if (e == NF_EXIT_OK)
		e = open_header(&rd->site, o, given, &store, &h);
	if (e)
		return e;
	int r = nf_vault_paths_of(nf_header_volume_id(h), o->cache_dir, &paths);
	if (r < 0)
		nf_store_free(store);
	struct nf_vault_options v = { .store = store, .header = h, .cache_dir = paths.cache, .state_dir = paths.state,
				      .cache_size_bytes = o->cache_size ? o->cache_size : (uint64_t)NF_CACHE_GIB_DEFAULT << 30, .memory_bytes = READER_MEMORY_BYTES,
				      .no_threads = true, .expect = o->expect, .repair = o->repair };
	if (r == 0) {
		r = nf_vault_open(&v, &rd->vault);
		nf_vault_paths_deinit(&paths);
	}
	nf_header_free(h);
	if (r == -NF_E_CACHE_LOCKED) {
		nf_complain("the vault is mounted here: name the directory instead");
		return NF_EXIT_ERROR;
	}
	return r < 0 ? nf_site_complain(&rd->site, r, NULL) : NF_EXIT_OK;
}

void nf_reader_close(struct nf_reader *rd)
{
	struct nf_file_dirent *list = NULL;
	size_t nr = 0;

	nf_vault_close(rd->vault);
	if (rd->scratch && !nf_file_real.list(&nf_file_real, rd->scratch, &list, &nr)) {
		for (size_t i = 0; i < nr; i++) {
			nf_auto_free char *path = NULL;
			if (asprintf(&path, "%s/%s", rd->scratch, list[i].name) > 0)
				(void)unlink(path); /* a sealed copy in a directory that a reboot clears */
		}
		nf_file_list_free(list, nr);
		(void)rmdir(rd->scratch);
	}
	free(rd->scratch);
	nf_site_deinit(&rd->site);
}
