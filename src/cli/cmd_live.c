/* Commands that talk to the daemon of a mount: umount, status, sync, stats, regions, requests, trace. */
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "cli/config.h"
#include "cli/live.h"
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

enum { UMOUNT_WAIT_MS = 600 * 1000, TRACE_EVERY_MS = 250 };

/* Asks and gives the member "text" of the answer. */
static enum nf_exit ask_text(struct nf_live *l, const char *request, char **text, char **reply)
{
	int r = nf_control_ask(l->fd, request, NULL, NULL, reply);

	if (r == 0)
		r = nf_json_string(*reply, "text", text);
	return r < 0 ? nf_live_failed(l, "foliofs", r) : NF_EXIT_OK;
}

static enum nf_exit print_text(const char *path, const char *request)
{
	nf_auto_free char *text = NULL, *reply = NULL;
	struct nf_live l;

	enum nf_exit e = nf_live_reach(path, &l);
	if (e == NF_EXIT_OK)
		e = ask_text(&l, request, &text, &reply);
	nf_live_leave(&l);
	if (e == NF_EXIT_OK && (fputs(text, stdout) < 0 || fflush(stdout)))
		e = NF_EXIT_ERROR;
	return e;
}

/* --- status ------------------------------------------------------------------------------- */

static enum nf_exit status_json(const char *path)
{
	nf_auto_free char *reply = NULL;
	const char *p;
	struct nf_live l;
	size_t len;

	enum nf_exit e = nf_live_reach(path, &l);
	if (e)
		return e;
	int r = nf_control_ask(l.fd, "{\"cmd\":\"status\",\"format\":\"json\"}", NULL, NULL, &reply);
	if (r == 0)
		r = nf_json_raw(reply, "status", &p, &len);
	nf_live_leave(&l);
	if (r < 0)
		return nf_live_failed(&l, "status", r);
	return printf("%.*s\n", (int)len, p) < 0 || fflush(stdout) ? NF_EXIT_ERROR : NF_EXIT_OK;
}

enum nf_exit nf_cmd_status(struct nf_args *a)
{
	return a->opt.json ? status_json(a->arg[0]) : print_text(a->arg[0], "{\"cmd\":\"status\"}");
}

enum nf_exit nf_cmd_regions(struct nf_args *a) { return print_text(a->arg[0], "{\"cmd\":\"regions\"}"); }
enum nf_exit nf_cmd_requests(struct nf_args *a) { return print_text(a->arg[0], "{\"cmd\":\"requests\"}"); }

/* --- sync --------------------------------------------------------------------------------- */

static enum nf_exit sync_live(struct nf_live *l, bool quiet)
{
	nf_auto_free char *reply = NULL;

	enum nf_exit e = nf_live_flush_kernel(l);
	if (e)
		return e;
	int r = nf_live_ask_long(l, "{\"cmd\":\"sync\"}", quiet, &reply);
	if (r == 0)
		return NF_EXIT_OK;
	nf_complain("not everything is on the server: %s; what is missing stays in the journal of this "
		    "machine and is sent later", nf_strerror(r));
	return nf_exit_of(r);
}

enum nf_exit nf_cmd_sync(struct nf_args *a)
{
	struct nf_live l;

	enum nf_exit e = nf_live_reach(a->arg[0], &l);
	if (e == NF_EXIT_OK)
		e = sync_live(&l, a->opt.quiet);
	nf_live_leave(&l);
	return e;
}

/* --- offline, online ----------------------------------------------------------------------- */

static enum nf_exit hold(const char *path, bool offline)
{
	nf_auto_free char *reply = NULL;
	struct nf_live l;

	enum nf_exit e = nf_live_reach(path, &l);
	if (e == NF_EXIT_OK && offline)
		e = nf_live_flush_kernel(&l);
	if (e == NF_EXIT_OK) {
		int r = nf_control_ask(l.fd, offline ? "{\"cmd\":\"offline\"}" : "{\"cmd\":\"online\"}", NULL, NULL, &reply);
		e = r < 0 ? nf_live_failed(&l, offline ? "offline" : "online", r) : NF_EXIT_OK;
	}
	nf_live_leave(&l);
	return e;
}

enum nf_exit nf_cmd_offline(struct nf_args *a) { return hold(a->arg[0], true); }
enum nf_exit nf_cmd_online(struct nf_args *a) { return hold(a->arg[0], false); }

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

/* The directory of the mount called ARG in the configuration, if nothing is mounted at a directory ARG. */
static const char *named_dir(const char *arg, struct nf_config_mount *m)
{
	struct nf_text err = NF_TEXT_INIT;
	struct nf_mount there;

	if (strchr(arg, '/') || nf_mount_find(arg, true, &there) == 0)
		return arg;
	int r = nf_config_find(arg, arg, NULL, m, &err);
	nf_text_deinit(&err);
	return r == 0 && m->dir ? m->dir : arg;
}

enum nf_exit nf_cmd_umount(struct nf_args *a)
{
	struct nf_config_mount named = { 0 };
	struct nf_live l;
	int pidfd = -1;

	enum nf_exit e = nf_live_find(named_dir(a->arg[0], &named), true, &l);
	nf_config_mount_deinit(&named);
	if (e)
		return e;
	l.deadline_ns = a->opt.wait_ms ? nf_clock_ns() + a->opt.wait_ms * NF_NS_PER_MS : 0;
	int r = nf_live_connect(&l);
	if (r == 0)
		pidfd = (int)syscall(SYS_pidfd_open, l.pid, 0);
	else if (r == -EPERM || r == -EACCES || a->opt.wait)
		return nf_live_no_daemon(&l, r);
	if (a->opt.wait)
		e = sync_live(&l, a->opt.quiet);
	if (e == NF_EXIT_OK)
		e = detach(l.m.at, l.fd < 0);
	nf_live_leave(&l);
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
	struct nf_live l;

	enum nf_exit e = nf_live_reach(path, &l);
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
	nf_live_leave(&l);
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

static enum nf_exit trace_once(struct nf_live *l, const char *set, int64_t *since)
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
		return r == -NF_E_OPTION ? NF_EXIT_USAGE : nf_live_failed(l, "trace", r);
	return fputs(text, stdout) < 0 || fflush(stdout) ? NF_EXIT_ERROR : NF_EXIT_OK;
}

enum nf_exit nf_cmd_trace(struct nf_args *a)
{
	struct sigaction sa = { .sa_handler = on_interrupt };
	const char *set = a->opt.set ? a->opt.set : "all";
	int64_t since = 0;
	struct nf_live l;

	enum nf_exit e = nf_live_reach(a->arg[0], &l);
	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGTERM, &sa, NULL);
	while (e == NF_EXIT_OK && !interrupted) {
		e = trace_once(&l, set, &since);
		set = NULL;
		pause_ms(TRACE_EVERY_MS);
	}
	if (e == NF_EXIT_OK)
		e = trace_once(&l, "-all", &since);
	nf_live_leave(&l);
	return e;
}
