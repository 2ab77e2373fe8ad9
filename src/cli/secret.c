#include "cli/secret.h"

#include "base/error.h"
#include "base/mem.h"
#include "codec/keymem.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int secret_new(struct nf_secret_buf *s, enum nf_slot_kind kind)
{
	*s = (struct nf_secret_buf){ .kind = kind, .p = nf_keymem_alloc(NF_SECRET_MAX + 1) };
	return s->p ? 0 : nf_fail(-ENOMEM);
}

void nf_secret_deinit(struct nf_secret_buf *s)
{
	nf_keymem_free(s->p, NF_SECRET_MAX + 1);
	*s = (struct nf_secret_buf){ 0 };
}

struct nf_secret nf_secret_of(const struct nf_secret_buf *s)
{
	return (struct nf_secret){ .kind = s->kind, .p = s->p, .len = s->len };
}

static int failed(struct nf_text *err, int code, const char *what, const char *thing)
{
	nf_textf(err, "%s: %s", thing, what);
	return nf_fail(code);
}

/* Reads to the end; -EFBIG if there is more than fits. */
static int read_all(int fd, struct nf_secret_buf *s)
{
	while (s->len <= NF_SECRET_MAX) {
		ssize_t n = read(fd, s->p + s->len, NF_SECRET_MAX + 1 - s->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return nf_fail(-errno);
		if (n == 0)
			return 0;
		s->len += (size_t)n;
	}
	return nf_fail(-EFBIG);
}

static void cut_line(struct nf_secret_buf *s)
{
	size_t len = 0;

	while (len < s->len && s->p[len] != '\n' && s->p[len] != '\r')
		len++;
	nf_wipe(s->p + len, NF_SECRET_MAX + 1 - len);
	s->len = len;
}

static int check_file(int fd, const char *path, struct nf_text *err)
{
	struct stat st;

	if (fstat(fd, &st))
		return failed(err, -errno, nf_strerror(-errno), path);
	if (S_ISREG(st.st_mode) && st.st_mode & 077) {
		nf_textf(err, "%s may be read by others (mode %04o); do: chmod 600 %s", path, st.st_mode & 07777, path);
		return nf_fail(-EPERM);
	}
	return 0;
}

int nf_secret_file(const char *path, bool first_line, struct nf_secret_buf *out, struct nf_text *err)
{
	struct nf_secret_buf s;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return failed(err, -errno, nf_strerror(-errno), path);
	int r = check_file(fd, path, err);
	if (r < 0) {
		(void)close(fd);
		return r;
	}
	r = secret_new(&s, first_line ? NF_SLOT_PASSPHRASE : NF_SLOT_KEYFILE);
	if (r == 0)
		r = read_all(fd, &s);
	(void)close(fd);
	if (r == 0 && first_line)
		cut_line(&s);
	if (r < 0 || !s.len) {
		nf_secret_deinit(&s);
		return r < 0 ? failed(err, r, nf_strerror(r), path) : failed(err, -NF_E_OPTION, "is empty", path);
	}
	*out = s;
	return 0;
}

/* --- a command ----------------------------------------------------------------------- */

static int from_command(const char *command, struct nf_secret_buf *out, struct nf_text *err)
{
	struct nf_secret_buf s = { 0 };
	int fd[2], status = -1;

	if (pipe2(fd, O_CLOEXEC))
		return nf_fail(-errno);
	pid_t pid = fork();
	if (pid == 0) {
		(void)dup2(fd[1], STDOUT_FILENO);
		(void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	(void)close(fd[1]);
	int r = pid < 0 ? nf_fail(-errno) : secret_new(&s, NF_SLOT_PASSPHRASE);
	if (r == 0)
		r = read_all(fd[0], &s);
	(void)close(fd[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (r < 0) {
		nf_secret_deinit(&s);
		return failed(err, r, nf_strerror(r), "--password-command");
	}
	cut_line(&s);
	if (!s.len || !WIFEXITED(status) || WEXITSTATUS(status)) {
		nf_secret_deinit(&s);
		return failed(err, -NF_E_OPTION, "failed or printed nothing",
			      "--password-command");
	}
	*out = s;
	return 0;
}

/* --- the terminal -------------------------------------------------------------------- */

enum { KEY_INTERRUPT = 3, KEY_END = 4, KEY_BACKSPACE = 8, KEY_KILL = 21, KEY_DELETE = 127 };

/* The terminal is in raw mode, so that no signal can leave it without echo: ^C is a byte. */
static int read_keys(int fd, struct nf_secret_buf *s)
{
	for (;;) {
		char c;
		ssize_t n = read(fd, &c, 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || c == KEY_INTERRUPT || (c == KEY_END && !s->len))
			return nf_fail(-NF_E_CANCELLED);
		if (c == '\r' || c == '\n' || c == KEY_END)
			return 0;
		if (c == KEY_BACKSPACE || c == KEY_DELETE) {
			/* A whole UTF-8 character. */
			while (s->len && (s->p[--s->len] & 0xc0) == 0x80)
				;
		} else if (c == KEY_KILL) {
			s->len = 0;
		} else if (s->len < NF_SECRET_MAX) {
			s->p[s->len++] = c;
		}
	}
}

int nf_secret_prompt(const char *prompt, struct nf_secret_buf *out)
{
	struct nf_secret_buf s;
	struct termios old, raw;
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return nf_fail(-ENOTTY);
	if (tcgetattr(fd, &old)) {
		(void)close(fd);
		return nf_fail(-ENOTTY);
	}
	int r = secret_new(&s, NF_SLOT_PASSPHRASE);
	raw = old;
	raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | ISIG);
	if (r == 0 && tcsetattr(fd, TCSAFLUSH, &raw))
		r = nf_fail(-errno);
	if (r == 0) {
		(void)dprintf(fd, "%s: ", prompt);
		r = read_keys(fd, &s);
		(void)tcsetattr(fd, TCSAFLUSH, &old);
		(void)dprintf(fd, "\n");
	}
	(void)close(fd);
	if (r < 0) {
		nf_secret_deinit(&s);
		return r;
	}
	s.p[s.len] = '\0';
	*out = s;
	return 0;
}

static int ask(const char *prompt, bool twice, struct nf_secret_buf *out, struct nf_text *err)
{
	struct nf_secret_buf a, b = { 0 };

	int r = nf_secret_prompt(prompt, &a);
	if (r == -ENOTTY) {
		nf_textf(err, "no passphrase: there is no terminal to ask on; give --password-file, "
			 "--password-command or FOLIOFS_PASSWORD");
		return nf_fail(-NF_E_OPTION);
	}
	if (r == 0 && twice) {
		r = nf_secret_prompt("Once more", &b);
		if (r == 0 && (a.len != b.len || memcmp(a.p, b.p, a.len))) {
			nf_textf(err, "the two passphrases differ");
			r = nf_fail(-NF_E_OPTION);
		}
		nf_secret_deinit(&b);
		if (r < 0)
			nf_secret_deinit(&a);
	}
	if (r == 0)
		*out = a;
	else if (!err->len)
		nf_textf(err, "no passphrase was given: %s", nf_strerror(r));
	return r;
}

/* --- choosing ------------------------------------------------------------------------- */

static int from_env(struct nf_secret_buf *out)
{
	char *v = getenv("FOLIOFS_PASSWORD");

	int r = secret_new(out, NF_SLOT_PASSPHRASE);
	if (r < 0)
		return r;
	out->len = NF_MIN(strlen(v), (size_t)NF_SECRET_MAX);
	memcpy(out->p, v, out->len);
	/* Children and /proc/PID/environ need not see it. */
	nf_wipe(v, strlen(v));
	(void)unsetenv("FOLIOFS_PASSWORD");
	return 0;
}

static int credential(struct nf_secret_buf *out, struct nf_text *err)
{
	const char *dir = getenv("CREDENTIALS_DIRECTORY");
	struct nf_text path = NF_TEXT_INIT;
	int r = -ENOENT;

	if (!dir)
		return r;
	nf_textf(&path, "%s/foliofs-password", dir);
	if (!path.failed && !access(path.s, F_OK))
		r = nf_secret_file(path.s, true, out, err);
	nf_text_deinit(&path);
	return r;
}

/* The text of a recovery key becomes its 32 bytes. */
static int to_recovery(struct nf_secret_buf *s, struct nf_text *err)
{
	uint8_t key[32];

	s->p[s->len] = '\0';
	int r = nf_recovery_parse(s->p, key);
	if (r < 0) {
		nf_textf(err, "this is not a recovery key: a character is missing or wrong");
		nf_secret_deinit(s);
		return r;
	}
	nf_wipe(s->p, NF_SECRET_MAX + 1);
	memcpy(s->p, key, sizeof key);
	nf_wipe(key, sizeof key);
	s->len = sizeof key;
	s->kind = NF_SLOT_RECOVERY;
	return 0;
}

int nf_secret_get(const struct nf_options *o, const char *prompt, bool twice, struct nf_secret_buf *out,
		  struct nf_text *err)
{
	int r = -ENOENT;

	if (o->key_file)
		return nf_secret_file(o->key_file, false, out, err);
	if (o->password_file)
		r = nf_secret_file(o->password_file, true, out, err);
	else if (o->password_command)
		r = from_command(o->password_command, out, err);
	else if (getenv("FOLIOFS_PASSWORD"))
		r = from_env(out);
	else
		r = credential(out, err);
	if (r == -ENOENT && !err->len)
		r = ask(o->recovery ? "Recovery key" : prompt, twice, out, err);
	return r == 0 && o->recovery ? to_recovery(out, err) : r;
}

int nf_secret_get_new(const struct nf_options *o, struct nf_secret_buf *out, struct nf_text *err)
{
	if (o->new_key_file)
		return nf_secret_file(o->new_key_file, false, out, err);
	if (o->new_password_file)
		return nf_secret_file(o->new_password_file, true, out, err);
	return ask("New passphrase", true, out, err);
}
