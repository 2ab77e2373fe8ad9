/* Commands that talk to the daemon of a mount: umount, status, sync, stats, regions, requests, trace. */
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "daemon/control.h"
#include "daemon/json.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { UMOUNT_WAIT_MS = 600 * 1000, TRACE_EVERY_MS = 250, BAR_CELLS = 30 };

/* --- finding the daemon ------------------------------------------------------------------ */

struct live {
	struct nf_mount m;
	int fd; /* -1: nobody answers */
	pid_t pid;
};

static enum nf_exit find(const char *path, bool exact, struct live *l)
{
	int r = path ? nf_mount_find(path, exact, &l->m) : nf_mount_only(&l->m);

	l->fd = -1;
	if (r == 0)
		return NF_EXIT_OK;
	if (path)
		nf_complain("nothing of foliofs is mounted at %s", path);
	else if (r == -ENOTUNIQ)
		nf_complain("more than one vault is mounted; say which by its directory");
	else
		nf_complain("no vault is mounted");
	return NF_EXIT_NOT_MOUNTED;
}

static enum nf_exit no_daemon(const struct live *l, int r)
{
	if (r == -EACCES || r == -EPERM)
		nf_complain("the mount at %s belongs to another user", l->m.at);
	else
		nf_complain("the daemon of %s has died; remove the mount with: foliofs umount %s", l->m.at, l->m.at);
	return NF_EXIT_NOT_MOUNTED;
}

static enum nf_exit reach(const char *path, struct live *l)
{
	enum nf_exit e = find(path, false, l);

	if (e)
		return e;
	int r = nf_control_connect(&l->m, &l->fd, &l->pid);
	return r < 0 ? no_daemon(l, r) : NF_EXIT_OK;
}

static void leave(struct live *l)
{
	if (l->fd >= 0)
		(void)close(l->fd);
}

static enum nf_exit failed(const struct live *l, const char *what, int r)
{
	if (r == -ECONNRESET)
		nf_complain("%s: the daemon of %s went away", what, l->m.at);
	else
		nf_complain("%s: %s: %s", what, l->m.at, nf_strerror(r));
	return r == -ECONNRESET ? NF_EXIT_NOT_MOUNTED : nf_exit_of(r);
}

/* Asks and gives the member "text" of the answer. */
static enum nf_exit ask_text(struct live *l, const char *request, char **text, char **reply)
{
	int r = nf_control_ask(l->fd, request, NULL, NULL, reply);

	if (r == 0)
		r = nf_json_string(*reply, "text", text);
	return r < 0 ? failed(l, "foliofs", r) : NF_EXIT_OK;
}

static enum nf_exit print_text(const char *path, const char *request)
{
	nf_auto_free char *text = NULL, *reply = NULL;
	struct live l;

	enum nf_exit e = reach(path, &l);
	if (e == NF_EXIT_OK)
		e = ask_text(&l, request, &text, &reply);
	leave(&l);
	if (e == NF_EXIT_OK && (fputs(text, stdout) < 0 || fflush(stdout)))
		e = NF_EXIT_ERROR;
	return e;
}

/* --- status ------------------------------------------------------------------------------- */

static enum nf_exit status_json(const char *path)
{
	nf_auto_free char *reply = NULL;
	const char *p;
	struct live l;
	size_t len;

	enum nf_exit e = reach(path, &l);
	if (e)
		return e;
	int r = nf_control_ask(l.fd, "{\"cmd\":\"status\",\"format\":\"json\"}", NULL, NULL, &reply);
	if (r == 0)
		r = nf_json_raw(reply, "status", &p, &len);
	leave(&l);
	if (r < 0)
		return failed(&l, "status", r);
	return printf("%.*s\n", (int)len, p) < 0 || fflush(stdout) ? NF_EXIT_ERROR : NF_EXIT_OK;
}

enum nf_exit nf_cmd_status(struct nf_args *a)
{
	return a->opt.json ? status_json(a->arg[0]) : print_text(a->arg[0], "{\"cmd\":\"status\"}");
}

enum nf_exit nf_cmd_regions(struct nf_args *a) { return print_text(a->arg[0], "{\"cmd\":\"regions\"}"); }
enum nf_exit nf_cmd_requests(struct nf_args *a) { return print_text(a->arg[0], "{\"cmd\":\"requests\"}"); }

/* --- sync --------------------------------------------------------------------------------- */

struct bar {
	bool tty, quiet, shown;
	uint64_t begun_ns, said_ns;
	int64_t last;
};

static void bar_end(struct bar *b)
{
	if (b->shown && b->tty)
		(void)fprintf(stderr, "\r\033[K");
}

static void bar_text(const struct bar *b, int64_t done, int64_t total, struct nf_text *t)
{
	double seconds = (double)(nf_clock_ns() - b->begun_ns) / 1e9;
	double rate = seconds > 0 ? (double)done / seconds : 0;

	nf_text_size(t, (uint64_t)done);
	nf_textf(t, " of ");
	nf_text_size(t, (uint64_t)total);
	nf_textf(t, ", ");
	nf_text_size(t, (uint64_t)rate);
	nf_textf(t, "/s");
	if (rate > 0 && total > done)
		nf_textf(t, ", %.0f s left", (double)(total - done) / rate);
}

static void bar_draw(struct bar *b, int64_t done, int64_t total)
{
	struct nf_text t = NF_TEXT_INIT;
	int cells = total > 0 ? (int)(done * BAR_CELLS / total) : 0;

	bar_text(b, done, total, &t);
	if (b->tty)
		(void)fprintf(stderr, "\r\033[K[%.*s%*s] %s", cells, "##############################", BAR_CELLS - cells, "",
			      nf_text_str(&t));
	else
		(void)fprintf(stderr, "sending: %s\n", nf_text_str(&t));
	nf_text_deinit(&t);
	b->shown = true;
}

static void on_progress(void *ctx, const char *line)
{
	struct bar *b = ctx;
	int64_t done, total;

	if (b->quiet || nf_json_int(line, "progress", &done) || nf_json_int(line, "total", &total) || done < 0 ||
	    total <= 0 || done > total)
		return;
	/* Plain lines every two seconds; they end up in logs. */
	if (!b->tty && nf_clock_ns() - b->said_ns < 2 * NF_NS_PER_S)
		return;
	b->said_ns = nf_clock_ns();
	bar_draw(b, done, total);
}

static enum nf_exit sync_live(struct live *l, bool quiet)
{
	struct bar b = { .tty = isatty(STDERR_FILENO), .quiet = quiet, .begun_ns = nf_clock_ns(),
			 .said_ns = nf_clock_ns() };
	nf_auto_free char *reply = NULL;

	int r = nf_control_ask(l->fd, "{\"cmd\":\"sync\"}", on_progress, &b, &reply);
	bar_end(&b);
	if (r == 0)
		return NF_EXIT_OK;
	nf_complain("not everything is on the server: %s; what is missing stays in the journal of this "
		    "machine and is sent later", nf_strerror(r));
	return nf_exit_of(r);
}

enum nf_exit nf_cmd_sync(struct nf_args *a)
{
	struct live l;

	enum nf_exit e = reach(a->arg[0], &l);
	if (e == NF_EXIT_OK)
		e = sync_live(&l, a->opt.quiet);
	leave(&l);
	return e;
}

/* --- umount ------------------------------------------------------------------------------- */

static bool run(const char *const *argv)
{
	pid_t pid;
	int status;

	if (posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ))
		return false;
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return false;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* DEAD: whoever still has files open in it gets errors anyway. */
static enum nf_exit detach(const char *at, bool dead)
{
	if (!geteuid()) {
		if (!umount2(at, UMOUNT_NOFOLLOW | (dead ? MNT_DETACH : 0)))
			return NF_EXIT_OK;
		if (errno != EBUSY) {
			nf_complain("cannot unmount %s: %s", at, nf_strerror(-errno));
			return NF_EXIT_ERROR;
		}
	} else if (run((const char *const[]){ "fusermount3", "-u", "-q", dead ? "-z" : "-q", "--", at, NULL })) {
		return NF_EXIT_OK;
	}
	nf_complain("%s is in use; close the files and leave the directories in it (fuser -m %s shows who) and "
		    "try again", at, at);
	return NF_EXIT_BUSY;
}

/* The daemon stores what it has in memory before it ends. */
static enum nf_exit await_end(int pidfd, const char *at)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	int r;

	while ((r = poll(&p, 1, UMOUNT_WAIT_MS)) < 0 && errno == EINTR)
		;
	if (r > 0)
		return NF_EXIT_OK;
	nf_complain("%s is unmounted, but its daemon is still storing data after ten minutes", at);
	return NF_EXIT_BUSY;
}

enum nf_exit nf_cmd_umount(struct nf_args *a)
{
	struct live l;
	int pidfd = -1;

	enum nf_exit e = find(a->arg[0], true, &l);
	if (e)
		return e;
	int r = nf_control_connect(&l.m, &l.fd, &l.pid);
	if (r == 0)
		pidfd = (int)syscall(SYS_pidfd_open, l.pid, 0);
	else if (r == -EPERM || r == -EACCES || a->opt.wait)
		return no_daemon(&l, r);
	if (a->opt.wait)
		e = sync_live(&l, a->opt.quiet);
	if (e == NF_EXIT_OK)
		e = detach(l.m.at, l.fd < 0);
	leave(&l);
	if (e == NF_EXIT_OK && pidfd >= 0)
		e = await_end(pidfd, l.m.at);
	if (pidfd >= 0)
		(void)close(pidfd);
	return e;
}

/* --- stats -------------------------------------------------------------------------------- */

static void pause_ms(uint64_t ms)
{
	struct timespec t = { .tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000 };

	(void)nanosleep(&t, NULL);
}

static uint64_t value_of(const char *text, const char *name, size_t len)
{
	for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		if (!strncmp(p, name, len) && p[len] == ' ')
			return strtoull(p + len, NULL, 10);
	}
	return 0;
}

/* Lines "area.name value unit": those whose value moved. */
static void print_changes(const char *was, char *now)
{
	char *rest = now, *line;

	while ((line = strsep(&rest, "\n")) && *line) {
		size_t len = strcspn(line, " ");
		uint64_t before = value_of(was, line, len), after = strtoull(line + len, NULL, 10);
		const char *unit = strrchr(line, ' ');
		if (after != before)
			(void)printf("%-28.*s %12" PRIu64 "%s\n", (int)len, line, after - before, unit);
	}
	(void)printf("\n");
}

static enum nf_exit stats_again(const char *path, uint64_t interval_ms)
{
	nf_auto_free char *was = NULL;
	struct live l;

	enum nf_exit e = reach(path, &l);
	while (e == NF_EXIT_OK) {
		nf_auto_free char *now = NULL, *reply = NULL;
		e = ask_text(&l, "{\"cmd\":\"stats\"}", &now, &reply);
		if (e)
			break;
		nf_auto_free char *keep = strdup(now);
		if (!keep)
			return NF_EXIT_ERROR;
		if (was)
			print_changes(was, now);
		if (fflush(stdout))
			e = NF_EXIT_ERROR;
		free(was);
		was = nf_steal(&keep);
		pause_ms(interval_ms);
	}
	leave(&l);
	return e;
}

enum nf_exit nf_cmd_stats(struct nf_args *a)
{
	if (a->opt.interval_ms)
		return stats_again(a->arg[0], a->opt.interval_ms);
	return print_text(a->arg[0], a->opt.prometheus ? "{\"cmd\":\"stats\",\"format\":\"prometheus\"}" :
							 "{\"cmd\":\"stats\"}");
}

/* --- trace -------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

static enum nf_exit trace_once(struct live *l, const char *set, int64_t *since)
{
	nf_auto_free char *reply = NULL, *text = NULL;
	struct nf_text q = NF_TEXT_INIT;

	nf_textf(&q, "{\"cmd\":\"trace\",\"since\":%" PRId64, *since);
	if (set) {
		nf_textf(&q, ",\"set\":");
		nf_text_json(&q, set);
	}
	nf_textf(&q, "}");
	int r = nf_control_ask(l->fd, nf_text_str(&q), NULL, NULL, &reply);
	nf_text_deinit(&q);
	if (r == 0)
		r = nf_json_int(reply, "since", since);
	if (r == 0)
		r = nf_json_string(reply, "text", &text);
	if (r == -NF_E_OPTION)
		nf_complain("--set: unknown area in \"%s\"", set);
	if (r < 0)
		return r == -NF_E_OPTION ? NF_EXIT_USAGE : failed(l, "trace", r);
	return fputs(text, stdout) < 0 || fflush(stdout) ? NF_EXIT_ERROR : NF_EXIT_OK;
}

enum nf_exit nf_cmd_trace(struct nf_args *a)
{
	struct sigaction sa = { .sa_handler = on_interrupt };
	const char *set = a->opt.set ? a->opt.set : "all";
	int64_t since = 0;
	struct live l;

	enum nf_exit e = reach(a->arg[0], &l);
	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGTERM, &sa, NULL);
	while (e == NF_EXIT_OK && !interrupted) {
		e = trace_once(&l, set, &since);
		set = NULL;
		pause_ms(TRACE_EVERY_MS);
	}
	if (e == NF_EXIT_OK)
		e = trace_once(&l, "-all", &since);
	leave(&l);
	return e;
}
