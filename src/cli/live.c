/* Finding the daemon of a mount, and asking it what takes a while. */
#include "cli/live.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "daemon/json.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { BAR_CELLS = 30, LISTENS_MS = 5000 };

/* --- finding the daemon ------------------------------------------------------------------ */

bool nf_live_is_mount(const char *path)
{
	struct nf_mount m;

	return nf_mount_find(path, false, &m) == 0;
}

enum nf_exit nf_live_find(const char *path, bool exact, struct nf_live *l)
{
	int r = path ? nf_mount_find(path, exact, &l->m) : nf_mount_only(&l->m);

	l->fd = -1;
	l->doing = NULL;
	l->deadline_ns = 0;
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

/* Of a mount without a daemon the kernel answers by itself. */
static bool is_served(const char *at)
{
	struct statvfs st;

	return statvfs(at, &st) == 0 || (errno != ENOTCONN && errno != ECONNABORTED);
}

int nf_live_connect(struct nf_live *l)
{
	struct timespec nap = { .tv_nsec = 20 * NF_NS_PER_MS };
	uint64_t until = nf_clock_ns() + LISTENS_MS * NF_NS_PER_MS;
	int r;

	/* A daemon listens a moment after the mount is there. */
	while ((r = nf_control_connect(&l->m, &l->fd, &l->pid)) == -ENOENT && nf_clock_ns() < until && is_served(l->m.at))
		(void)nanosleep(&nap, NULL);
	return r;
}

enum nf_exit nf_live_no_daemon(const struct nf_live *l, int r)
{
	if (r == -EACCES || r == -EPERM)
		nf_complain("the mount at %s belongs to another user", l->m.at);
	else if (is_served(l->m.at))
		nf_complain("the daemon of %s runs, and listens to no command here: is its runtime directory another one?", l->m.at);
	else
		nf_complain("the daemon of %s has died; remove the mount with: foliofs umount %s", l->m.at, l->m.at);
	return NF_EXIT_NOT_MOUNTED;
}

enum nf_exit nf_live_reach(const char *path, struct nf_live *l)
{
	enum nf_exit e = nf_live_find(path, false, l);

	if (e)
		return e;
	int r = nf_live_connect(l);
	return r < 0 ? nf_live_no_daemon(l, r) : NF_EXIT_OK;
}

void nf_live_leave(struct nf_live *l)
{
	if (l->fd >= 0)
		(void)close(l->fd);
}

enum nf_exit nf_live_failed(const struct nf_live *l, const char *what, int r)
{
	if (r == -ECONNRESET)
		nf_complain("%s: the daemon of %s went away", what, l->m.at);
	else
		nf_complain("%s: %s: %s", what, l->m.at, nf_strerror(r));
	return r == -ECONNRESET ? NF_EXIT_NOT_MOUNTED : nf_exit_of(r);
}

/* --- progress ----------------------------------------------------------------------------- */

struct bar {
	bool tty, quiet, shown;
	const char *doing;
	struct nf_live *live;
	bool late;
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
		(void)fprintf(stderr, "%s: %s\n", b->doing, nf_text_str(&t));
	nf_text_deinit(&t);
	b->shown = true;
}

static void on_progress(void *ctx, const char *line)
{
	struct bar *b = ctx;
	int64_t done, total;

	/* The daemon says how far it is several times a second, whatever happens; hanging up ends what it does for us. */
	if (b->live->deadline_ns && nf_clock_ns() >= b->live->deadline_ns) {
		b->late = true;
		(void)shutdown(b->live->fd, SHUT_RDWR);
	}
	if (b->quiet || nf_json_int(line, "progress", &done) || nf_json_int(line, "total", &total) || done < 0 ||
	    total <= 0 || done > total)
		return;
	/* Plain lines every two seconds; they end up in logs. */
	if (!b->tty && nf_clock_ns() - b->said_ns < 2 * NF_NS_PER_S)
		return;
	b->said_ns = nf_clock_ns();
	bar_draw(b, done, total);
}

int nf_live_ask_long(struct nf_live *l, const char *request, bool quiet, char **reply)
{
	struct bar b = { .tty = isatty(STDERR_FILENO), .quiet = quiet, .doing = l->doing ? l->doing : "sending", .live = l, .begun_ns = nf_clock_ns(),
			 .said_ns = nf_clock_ns() };

	int r = nf_control_ask(l->fd, request, on_progress, &b, reply);
	bar_end(&b);
	return b.late ? nf_fail(-NF_E_TIMEOUT) : r;
}

enum nf_exit nf_live_flush_kernel(struct nf_live *l)
{
	int fd = open(l->m.at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : 0;

	if (r == 0 && syncfs(fd))
		r = -errno;
	if (fd >= 0)
		(void)close(fd);
	if (r == 0)
		return NF_EXIT_OK;
	nf_complain("%s: what programs changed in mapped files could not be taken over: %s", l->m.at, nf_strerror(r));
	return nf_exit_of(r);
}
