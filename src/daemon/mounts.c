#include "daemon/mounts.h"

#include "base/error.h"
#include "base/mem.h"

#include <stdio.h>
#include <unistd.h>

/* Undoes the kernel's \040 for blanks in paths. */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		unsigned c;
		if (s[0] == '\\' && sscanf(s + 1, "%3o", &c) == 1) {
			*to++ = (char)c;
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

/* "36 35 0:98 / /mnt rw,noatime shared:1 - fuse.foliofs source rw,user_id=0,..." */
static bool parse(const char *line, struct nf_mount *m)
{
	const char *dash = strstr(line, " - ");

	if (!dash || sscanf(line, "%*s %*s %u:%u %*s %4095s", &m->major, &m->minor, m->at) != 3 ||
	    sscanf(dash + 3, "%63s %4095s", m->type, m->source) != 2)
		return false;
	const char *user = strstr(dash, "user_id=");
	m->uid = user ? (uid_t)strtoul(user + 8, NULL, 10) : 0;
	unescape(m->at);
	unescape(m->source);
	return !strcmp(m->type, "fuse.foliofs");
}

typedef bool match_fn(const struct nf_mount *m, void *ctx);

/* The last one that matches is on top; *NR counts them. */
static int scan(match_fn *match, void *ctx, struct nf_mount *out, unsigned *nr)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	nf_auto_free struct nf_mount *m = calloc(1, sizeof *m);
	char *line = NULL;
	size_t cap = 0;

	*nr = 0;
	while (file && m && getline(&line, &cap, file) > 0) {
		if (parse(line, m) && match(m, ctx)) {
			*out = *m;
			++*nr;
		}
	}
	free(line);
	if (file)
		(void)fclose(file);
	return file && m ? 0 : nf_fail(-ENOMEM);
}

/* realpath(3) of all but the last component, which may be a dead mount. */
static char *real(const char *path)
{
	char *whole = realpath(path, NULL);
	if (whole)
		return whole;
	nf_auto_free char *copy = strdup(path);
	if (!copy)
		return NULL;
	for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--)
		copy[n - 1] = '\0';
	char *slash = strrchr(copy, '/');
	const char *last = slash ? slash + 1 : copy;
	if (slash)
		*slash = '\0';
	nf_auto_free char *dir = realpath(slash ? (slash == copy ? "/" : copy) : ".", NULL);
	if (!dir || asprintf(&whole, "%s/%s", strcmp(dir, "/") ? dir : "", last) < 0)
		return NULL;
	return whole;
}

struct in_path {
	const char *path;
	bool exact;
	size_t best;
};

static bool holds(const struct nf_mount *m, void *ctx)
{
	struct in_path *p = ctx;
	size_t len = strlen(m->at);

	if (strncmp(p->path, m->at, len) || len < p->best ||
	    (p->path[len] && (p->exact || (p->path[len] != '/' && len > 1))))
		return false;
	p->best = len;
	return true;
}

int nf_mount_find(const char *path, bool exact, struct nf_mount *out)
{
	nf_auto_free char *full = real(path);
	struct in_path p = { .path = full, .exact = exact };
	unsigned nr;

	if (!full)
		return nf_fail(-ENOENT);
	int r = scan(holds, &p, out, &nr);
	return r < 0 ? r : nr ? 0 : nf_fail(-ENOENT);
}

static bool mine(const struct nf_mount *m, void *ctx)
{
	(void)ctx;
	return m->uid == geteuid();
}

int nf_mount_only(struct nf_mount *out)
{
	unsigned nr;
	int r = scan(mine, NULL, out, &nr);

	return r < 0 ? r : nr == 1 ? 0 : nf_fail(nr ? -ENOTUNIQ : -ENOENT);
}
