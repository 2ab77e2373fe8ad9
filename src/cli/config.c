#include "cli/config.h"

#include "aio/file.h"
#include "base/error.h"
#include "base/mem.h"

#include <ctype.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 20 };

struct reader {
	const char *file, *name, *store, *dir; /* borrowed */
	unsigned line;
	char section[128]; /* "": none yet */
	struct nf_config_mount now, found;
	bool has_found;
	struct nf_text *err;
};

void nf_config_mount_deinit(struct nf_config_mount *m)
{
	free(m->store);
	free(m->dir);
	nf_options_deinit(&m->opt);
	*m = (struct nf_config_mount){ 0 };
}

static int complain(struct reader *r, const char *what, const char *thing)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_textf(&t, "%s:%u: %s%s", r->file, r->line, what, thing);
	nf_textf(r->err, "%s", nf_text_str(&t));
	nf_text_deinit(&t);
	return nf_fail(-NF_E_OPTION);
}

static bool wanted(const struct reader *r)
{
	if (r->name)
		return !strcmp(r->section, r->name);
	return r->now.store && r->now.dir && !strcmp(r->now.store, r->store) && !strcmp(r->now.dir, r->dir);
}

static int end_section(struct reader *r)
{
	if (*r->section && (!r->now.store || !r->now.dir))
		return complain(r, "before here, section needs store= and dir=: ", r->section);
	if (*r->section && !r->has_found && wanted(r)) {
		r->found = r->now;
		r->has_found = true;
		r->now = (struct nf_config_mount){ 0 };
	}
	nf_config_mount_deinit(&r->now);
	*r->section = '\0';
	return 0;
}

static int begin_section(struct reader *r, char *line)
{
	size_t len = strcspn(line + 1, "]");

	if (!line[1 + len] || line[2 + len] || !len || len >= sizeof r->section)
		return complain(r, "malformed section: ", line);
	int e = end_section(r);
	if (e < 0)
		return e;
	memcpy(r->section, line + 1, len);
	r->section[len] = '\0';
	return 0;
}

static int set_path(char **to, const char *value)
{
	free(*to);
	*to = strdup(value);
	return *to ? 0 : nf_fail(-ENOMEM);
}

static bool is_yes(const char *v) { return !strcmp(v, "true") || !strcmp(v, "yes") || !strcmp(v, "1"); }
static bool is_no(const char *v) { return !strcmp(v, "false") || !strcmp(v, "no") || !strcmp(v, "0"); }

static int set_key(struct reader *r, const char *key, const char *value)
{
	struct nf_text err = NF_TEXT_INIT;

	if (!strcmp(key, "store"))
		return set_path(&r->now.store, value);
	if (!strcmp(key, "dir"))
		return set_path(&r->now.dir, value);
	const struct nf_option *opt = nf_option_find(key, NF_OPT_STORE | NF_OPT_MOUNT | NF_OPT_KERNEL);
	if (!opt)
		return complain(r, "unknown key: ", key);
	if (opt->type == NF_OPT_FLAG || opt->type == NF_OPT_PASS) {
		if (is_no(value))
			return 0;
		if (!is_yes(value))
			return complain(r, "true or false is expected, not: ", value);
		value = NULL;
	}
	int e = nf_option_set(&r->now.opt, opt, value, &err);
	if (e < 0)
		e = complain(r, "", nf_text_str(&err));
	nf_text_deinit(&err);
	return e;
}

static char *trim(char *s)
{
	while (isspace((unsigned char)*s))
		s++;
	for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]); n--)
		s[n - 1] = '\0';
	return s;
}

static int read_line(struct reader *r, char *line)
{
	char *s = trim(line), *eq;

	if (!*s || *s == '#' || *s == ';')
		return 0;
	if (*s == '[')
		return begin_section(r, s);
	eq = strchr(s, '=');
	if (!eq)
		return complain(r, "key = value is expected, not: ", s);
	if (!*r->section)
		return complain(r, "no [section] yet for: ", s);
	*eq = '\0';
	return set_key(r, trim(s), trim(eq + 1));
}

int nf_config_parse(const char *file, const char *text, const char *name, const char *store, const char *dir,
		    struct nf_config_mount *out, struct nf_text *err)
{
	struct reader rd = { .file = file, .name = name, .store = store, .dir = dir, .err = err };
	nf_auto_free char *copy = strdup(text);
	char *rest = copy, *line;
	int r = copy ? 0 : nf_fail(-ENOMEM);

	while (r == 0 && (line = strsep(&rest, "\n"))) {
		rd.line++;
		r = read_line(&rd, line);
	}
	if (r == 0)
		r = end_section(&rd);
	nf_config_mount_deinit(&rd.now);
	if (r == 0 && rd.has_found) {
		*out = rd.found;
		return 0;
	}
	nf_config_mount_deinit(&rd.found);
	return r < 0 ? r : -ENOENT;
}

static int find_in(const char *path, const char *name, const char *store, const char *dir,
		   struct nf_config_mount *out, struct nf_text *err)
{
	void *p;
	size_t len;

	int r = nf_file_slurp(&nf_file_real, path, CONFIG_MAX, &p, &len);
	if (r < 0) {
		if (r != -ENOENT && r != -ENOTDIR)
			nf_textf(err, "%s: %s", path, nf_strerror(r));
		return r == -ENOTDIR ? -ENOENT : r;
	}
	nf_auto_free char *text = strndup(p, len);
	free(p);
	return text ? nf_config_parse(path, text, name, store, dir, out, err) : nf_fail(-ENOMEM);
}

int nf_config_find(const char *name, const char *store, const char *dir, struct nf_config_mount *out,
		   struct nf_text *err)
{
	const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	struct nf_text path = NF_TEXT_INIT;
	int r = -ENOENT;

	if (xdg && *xdg == '/')
		nf_textf(&path, "%s/foliofs/config", xdg);
	else if (home)
		nf_textf(&path, "%s/.config/foliofs/config", home);
	if (path.len && !path.failed)
		r = find_in(path.s, name, store, dir, out, err);
	nf_text_deinit(&path);
	return r == -ENOENT ? find_in("/etc/foliofs/config", name, store, dir, out, err) : r;
}
