/* foliofs map FILE: a picture of one file of a mount. */
#include "base/error.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/file_map.h"

#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

static unsigned terminal_columns(void)
{
	const char *set = getenv("COLUMNS");
	struct winsize w;

	if (set && atoi(set) > 0)
		return (unsigned)atoi(set);
	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_col)
		return w.ws_col;
	return 80;
}

static bool terminal_utf8(void)
{
	return setlocale(LC_CTYPE, "") && !strcmp(nl_langinfo(CODESET), "UTF-8");
}

static enum nf_exit save(const struct nf_text *t, const char *path)
{
	FILE *out = fopen(path, "we");

	if (out && fwrite(t->s, 1, t->len, out) == t->len && !fclose(out))
		return NF_EXIT_OK;
	nf_complain("%s: %s", path, nf_strerror(-errno));
	return NF_EXIT_ERROR;
}

static enum nf_exit load(const char *path, struct nf_file_map *m)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int r = fd < 0 ? nf_fail(-errno) : nf_file_map_load(fd, m);

	if (fd >= 0)
		(void)close(fd);
	if (r == -ENOTTY) {
		nf_complain("%s is no file of a mounted vault", path);
		return NF_EXIT_NOT_MOUNTED;
	}
	if (r < 0) {
		nf_complain("%s: %s", path, nf_strerror(r));
		return nf_exit_of(r);
	}
	return NF_EXIT_OK;
}

enum nf_exit nf_cmd_map(struct nf_args *a)
{
	const char *slash = strrchr(a->arg[0], '/'), *name = slash && slash[1] ? slash + 1 : a->arg[0];
	struct nf_text t = NF_TEXT_INIT;
	struct nf_file_map m;

	enum nf_exit e = load(a->arg[0], &m);
	if (e)
		return e;
	if (a->opt.svg)
		nf_file_map_to_svg(&m, name, &t);
	else if (a->opt.json)
		nf_file_map_to_json(&m, name, &t);
	else
		nf_file_map_to_text(&m, name, terminal_columns(), terminal_utf8(), &t);
	nf_file_map_deinit(&m);
	if (t.failed) {
		nf_complain("%s", nf_strerror(-ENOMEM));
		e = NF_EXIT_ERROR;
	} else if (a->opt.svg) {
		e = save(&t, a->opt.svg);
	} else if (!nf_print(&t)) {
		e = NF_EXIT_ERROR;
	}
	nf_text_deinit(&t);
	return e;
}
