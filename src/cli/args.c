/* Options and arguments in any order; "--" ends the options. */
#include "base/error.h"
#include "base/mem.h"
#include "cli/cli.h"

#include <stdio.h>

struct words {
	int argc;
	char **argv;
	int at;
};

static const char *next_word(struct words *w) { return w->at < w->argc ? w->argv[w->at++] : NULL; }

static bool takes_value(const struct nf_option *opt) { return opt->type != NF_OPT_FLAG; }

static int long_option(const struct nf_command *cmd, struct words *w, char *word, struct nf_options *o,
		       struct nf_text *err)
{
	char *value = strchr(word, '=');

	if (value)
		*value++ = '\0';
	const struct nf_option *opt = nf_option_find(word, cmd->groups | NF_OPT_HELP);
	if (!opt) {
		nf_textf(err, "unknown option: --%s", word);
		return nf_fail(-NF_E_OPTION);
	}
	return nf_option_set(o, opt, value || !takes_value(opt) ? value : next_word(w), err);
}

static int short_options(const struct nf_command *cmd, struct words *w, const char *letters, struct nf_options *o,
			 struct nf_text *err)
{
	for (; *letters; letters++) {
		const char *rest = letters[1] ? letters + 1 : NULL;
		if (*letters == 'o' && cmd->groups & NF_OPT_FRONT) {
			const char *list = rest ? rest : next_word(w);
			return nf_options_list(o, list ? list : "", err);
		}
		const struct nf_option *opt = nf_option_letter(*letters, cmd->groups | NF_OPT_HELP);
		if (!opt) {
			nf_textf(err, "unknown option: -%c", *letters);
			return nf_fail(-NF_E_OPTION);
		}
		if (takes_value(opt))
			return nf_option_set(o, opt, rest ? rest : next_word(w), err);
		int r = nf_option_set(o, opt, NULL, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int nf_args_parse(const struct nf_command *cmd, int argc, char **argv, struct nf_args *a, struct nf_text *err)
{
	struct words w = { .argc = argc, .argv = argv };
	bool options = true;
	const char *word;
	int r = 0;

	while (r == 0 && (word = next_word(&w))) {
		if (options && !strcmp(word, "--")) {
			options = false;
		} else if (options && !strncmp(word, "--", 2)) {
			nf_auto_free char *copy = strdup(word + 2);
			r = copy ? long_option(cmd, &w, copy, &a->opt, err) : nf_fail(-ENOMEM);
		} else if (options && word[0] == '-' && word[1]) {
			r = short_options(cmd, &w, word + 1, &a->opt, err);
		} else if (a->nr == cmd->max_args) {
			nf_textf(err, "one argument too many: %s", word);
			r = nf_fail(-NF_E_OPTION);
		} else {
			a->arg[a->nr++] = word;
		}
	}
	if (r == 0 && !a->opt.help && a->nr < cmd->min_args) {
		nf_textf(err, "an argument is missing: foliofs %s %s", cmd->name, cmd->synopsis);
		r = nf_fail(-NF_E_OPTION);
	}
	return r;
}

void nf_command_help(const struct nf_command *cmd, struct nf_text *t)
{
	nf_textf(t, "Usage: foliofs %s %s\n\n%s.\n", cmd->name, cmd->synopsis, cmd->summary);
	if (cmd->more)
		nf_textf(t, "%s", cmd->more);
	nf_textf(t, "\nOptions:\n");
	nf_options_help(cmd->groups | NF_OPT_HELP, t);
	if (cmd->groups & NF_OPT_FRONT)
		nf_textf(t, "  -o OPTION[,OPTION...]              the options above and those of mount(8), as in fstab\n");
}

void nf_complain(const char *fmt, ...)
{
	struct nf_text t = NF_TEXT_INIT;
	va_list ap;

	va_start(ap, fmt);
	nf_textv(&t, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, "foliofs: %s\n", nf_text_str(&t));
	nf_text_deinit(&t);
}

bool nf_print(const struct nf_text *t)
{
	if (!t->failed && fputs(nf_text_str(t), stdout) >= 0 && !fflush(stdout))
		return true;
	nf_complain("cannot print: %s", t->failed ? nf_strerror(-ENOMEM) : nf_strerror(-errno));
	return false;
}
