/* foliofs mount STORE DIR | NAME; mount.foliofs STORE DIR -o opts
 *
 *	parent: options, passphrase, key derivation (in a child of its own)
 *	  fork
 *	parent: waits at a pipe          child: setsid, assembles the mount,
 *	        for the report   <-----         reports, lets the terminal go, serves
 */
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "cli/config.h"
#include "cli/open.h"
#include "daemon/daemon.h"
#include "daemon/paths.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK_SHIFT_MIN = 12, BLOCK_SHIFT_MAX = 22 };

enum {
	MEMORY_BYTES_DEFAULT = 128 << 20,
	/* A block, plain and sealed, for write-back, as much for pages; any machine may have made files of the largest
	 * blocks. */
	MEMORY_BYTES_MIN = 4 << BLOCK_SHIFT_MAX,
	MIN_FREE_DEFAULT = 1 << 30,
	KERNEL_TIMEOUT_MS = 3600 * 1000,
	GC_EVERY_MS_DEFAULT = 24 * 3600 * 1000,
	GC_EVERY_MS_MIN = 1000,
};

/* --- options --------------------------------------------------------------------------- */

static int block_shift(uint64_t bytes, uint8_t *out)
{
	for (uint8_t shift = BLOCK_SHIFT_MIN; shift <= BLOCK_SHIFT_MAX; shift++) {
		if (bytes == UINT64_C(1) << shift) {
			*out = shift;
			return 0;
		}
	}
	nf_complain("block_size must be a power of two from 4K to 4M");
	return nf_fail(-NF_E_OPTION);
}

static int memory(uint64_t bytes, size_t *out)
{
	if (bytes && bytes < MEMORY_BYTES_MIN) {
		nf_complain("memory must be at least %dM: four of the largest blocks a file may have", MEMORY_BYTES_MIN >> 20);
		return nf_fail(-NF_E_OPTION);
	}
	*out = bytes ? bytes : MEMORY_BYTES_DEFAULT;
	return 0;
}

static int one_of(const char *name, const char *value, const char *a, const char *b, bool *is_b)
{
	*is_b = value && !strcmp(value, b);
	if (!value || *is_b || (a && !strcmp(value, a)))
		return 0;
	nf_complain("%s must be %s%s%s, not %s", name, a ? a : "", a ? " or " : "", b, value);
	return nf_fail(-NF_E_OPTION);
}

/* V->gc points to GC afterwards. */
static int collecting(const struct nf_options *o, struct nf_gc_options *gc, struct nf_vault_options *v)
{
	uint64_t ms = GC_EVERY_MS_DEFAULT;

	int r = nf_gc_options_of(o, gc);
	if (r == 0 && o->gc && !strcmp(o->gc, "off"))
		ms = 0;
	else if (r == 0 && o->gc && (nf_time_parse(o->gc, &ms) < 0 || ms < GC_EVERY_MS_MIN)) {
		nf_complain("gc must be a time of at least a second, or off, not %s", o->gc);
		r = nf_fail(-NF_E_OPTION);
	}
	v->gc = gc;
	v->gc_every_ms = ms;
	return r;
}

static bool shown_read_only(const struct nf_options *o) { return (o->ro && !o->rw) || o->snapshot; }

static int vault_options(const struct nf_options *o, struct nf_vault_options *v)
{
	*v = (struct nf_vault_options){
		.cache_size_bytes = o->cache_size ? o->cache_size : (uint64_t)NF_CACHE_GIB_DEFAULT << 30,
		.min_free_bytes = o->min_free ? o->min_free : MIN_FREE_DEFAULT,
		.write_back_ms = (uint32_t)NF_MIN(o->write_back_ms, (uint64_t)UINT32_MAX),
		.poll_ms = (uint32_t)NF_MIN(o->poll_ms, (uint64_t)UINT32_MAX),
		.room_wait_ms = (uint32_t)NF_MIN(o->space_wait_ms, (uint64_t)UINT32_MAX),
		.read_only = shown_read_only(o), .snapshot = o->snapshot,
		.expect = o->expect,
		/* Where bytes are counted none is sent that might be in vain. */
		.ahead_bytes = o->bwlimit_up || o->bwlimit ? UINT64_MAX : 0,
	};
	int r = one_of("fsync", o->fsync, "local", "remote", &v->fsync_remote);
	if (r == 0)
		r = one_of("sync", o->sync, NULL, "manual", &v->manual);
	if (r == 0)
		r = memory(o->memory, &v->memory_bytes);
	if (r == 0 && o->block_size)
		r = block_shift(o->block_size, &v->block_shift);
	return r;
}

static void front_options(const struct nf_options *o, const char *dir, struct nf_text *kernel,
			  struct nf_front_options *f)
{
	uint64_t attr_ms = o->attr_timeout_ms ? o->attr_timeout_ms : KERNEL_TIMEOUT_MS;
	uint64_t entry_ms = o->entry_timeout_ms ? o->entry_timeout_ms : KERNEL_TIMEOUT_MS;

	nf_textf(kernel, "%s%s", nf_text_str(&o->kernel), o->allow_root ? (o->kernel.len ? ",allow_root" : "allow_root") : "");
	*f = (struct nf_front_options){
		.mount_point = dir, .fsname = o->fsname, .subtype = "foliofs", .kernel_opts = nf_text_str(kernel),
		.read_only = shown_read_only(o), .allow_other = o->allow_other, .default_permissions = true,
		.attr_timeout_s = (double)attr_ms / 1000, .entry_timeout_s = (double)entry_ms / 1000,
		.negative_timeout_s = (double)entry_ms / 1000,
		.read_ahead_bytes = (uint32_t)NF_MIN(o->read_ahead, (uint64_t)UINT32_MAX),
		.socket_fd = -1, .debug = o->debug,
	};
}

/* --- background ------------------------------------------------------------------------ */

struct waiter {
	int fd; /* to the parent; -1: in the foreground */
	bool foreground;
};

static void send_report(int fd, const struct nf_daemon_report *r)
{
	/* Less than PIPE_BUF, so whole or not at all; a parent that has gone needs no report. */
	(void)signal(SIGPIPE, SIG_IGN);
	(void)!write(fd, r, sizeof *r);
}

/* The log of a daemon: in the runtime directory, readable by its user only, gone with the next boot. */
static char *log_path;

static void log_to_file(void)
{
	nf_auto_free char *dir = NULL, *path = NULL;

	if (nf_runtime_dir(&dir) < 0 || asprintf(&path, "%s/%d.log", dir, (int)getpid()) < 0)
		return;
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	(void)dup2(fd, STDERR_FILENO);
	(void)close(fd);
	log_path = nf_steal(&path);
}

/* A log that says nothing is not kept. */
static void log_end(void)
{
	struct stat st;

	if (log_path && !fstat(STDERR_FILENO, &st) && S_ISREG(st.st_mode) && !st.st_size)
		(void)unlink(log_path);
	free(log_path);
	log_path = NULL;
}

static void on_ready(void *ctx, const struct nf_daemon_report *r)
{
	struct waiter *w = ctx;

	if (w->foreground)
		return;
	(void)prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		(void)dup2(null, fd);
	if (null > 2)
		(void)close(null);
	log_to_file();
	send_report(w->fd, r);
	(void)close(w->fd);
	w->fd = -1;
}

static int run_daemon(struct nf_daemon_config *c, struct waiter *w)
{
	struct nf_daemon_report report = { 0 };

	c->ready = on_ready;
	c->ctx = w;
	int r = nf_daemon_run(c, &report);
	log_end();
	if (r < 0 && w->fd >= 0)
		send_report(w->fd, &report);
	else if (r < 0)
		nf_complain("%s", report.text);
	return nf_exit_of_stage(r, report.stage);
}

static enum nf_exit await_report(int fd, pid_t pid)
{
	struct nf_daemon_report r;
	ssize_t n;

	while ((n = read(fd, &r, sizeof r)) < 0 && errno == EINTR)
		;
	if (n != sizeof r) {
		int status = 0;
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		nf_complain("the daemon died before the mount was ready (%s %d)",
			    WIFSIGNALED(status) ? "signal" : "status",
			    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		return NF_EXIT_MOUNT;
	}
	if (r.code) {
		nf_complain("%.*s", (int)sizeof r.text, r.text);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	return nf_exit_of_stage(r.code, r.stage);
}

static enum nf_exit in_background(struct nf_daemon_config *c)
{
	struct waiter w = { .fd = -1 };
	int fd[2];

	if (pipe2(fd, O_CLOEXEC)) {
		nf_complain("%s", nf_strerror(-errno));
		return NF_EXIT_ERROR;
	}
	(void)fflush(NULL);
	pid_t pid = fork();
	if (pid < 0) {
		nf_complain("%s", nf_strerror(-errno));
		return NF_EXIT_ERROR;
	}
	if (pid == 0) {
		(void)close(fd[0]);
		(void)setsid();
		/* Interrupting the command ends the attempt. */
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
		(void)chdir("/");
		(void)umask(077);
		w.fd = fd[1];
		_exit(run_daemon(c, &w));
	}
	(void)close(fd[1]);
	enum nf_exit e = await_report(fd[0], pid);
	(void)close(fd[0]);
	return e;
}

/* --- the command ------------------------------------------------------------------------ */

/* Seen before a passphrase is asked for; the front end looks again. */
static enum nf_exit check_dir(const char *dir, char **out)
{
	struct stat st;

	if (stat(dir, &st)) {
		if (errno == ENOTCONN)
			nf_complain("a mount whose daemon has died is left at %s; remove it with: foliofs umount %s",
				    dir, dir);
		else
			nf_complain("mount point %s: %s", dir, errno == ENOENT ? "does not exist" : nf_strerror(-errno));
		return NF_EXIT_MOUNT;
	}
	if (!S_ISDIR(st.st_mode)) {
		nf_complain("mount point %s is not a directory", dir);
		return NF_EXIT_MOUNT;
	}
	*out = realpath(dir, NULL);
	return *out ? NF_EXIT_OK : NF_EXIT_ERROR;
}

static enum nf_exit mount_at(const char *store, const char *dir, const struct nf_options *o)
{
	struct nf_daemon_config c = { 0 };
	struct nf_text kernel = NF_TEXT_INIT;
	struct nf_site s = { 0 }, second = { 0 };
	nf_auto_free char *at = NULL;
	struct nf_gc_options gc;

	c.offline = o->offline;
	c.link_wait_ms = (uint32_t)NF_MIN(o->link_wait_ms, (uint64_t)UINT32_MAX);
	if (vault_options(o, &c.vault) < 0 || collecting(o, &gc, &c.vault) < 0)
		return NF_EXIT_USAGE;
	enum nf_exit e = check_dir(dir, &at);
	if (e == NF_EXIT_OK)
		e = nf_site_init(store, o, &s);
	if (e == NF_EXIT_OK)
		e = nf_site_unlock(&s, o, &c.unlocked);
	if (e == NF_EXIT_OK && o->mirror)
		e = nf_site_init(o->mirror, o, &second);
	if (e == NF_EXIT_OK) {
		front_options(o, at, &kernel, &c.front);
		c.address = s.address;
		c.store = s.so;
		c.mirror = second.address;
		c.cache_dir = o->cache_dir;
		if (o->foreground) {
			struct waiter w = { .fd = -1, .foreground = true };
			e = run_daemon(&c, &w);
		} else {
			e = in_background(&c);
		}
	}
	nf_wipe(&c.unlocked, sizeof c.unlocked);
	nf_text_deinit(&kernel);
	nf_site_deinit(&second);
	nf_site_deinit(&s);
	return e;
}

/* A section of the configuration is the default for what the command line does not say. */
static enum nf_exit configured(struct nf_args *a, struct nf_config_mount *m)
{
	struct nf_text err = NF_TEXT_INIT;
	const char *name = a->nr == 1 ? a->arg[0] : NULL;

	int r = nf_config_find(name, a->arg[0], a->arg[1], m, &err);
	if (r == 0)
		nf_options_defaults(&a->opt, &m->opt);
	else if (r == -ENOENT && name)
		nf_complain("no mount called %s in ~/.config/foliofs/config or /etc/foliofs/config; "
			    "or give a store and a directory", name);
	else if (r != -ENOENT)
		nf_complain("%s", err.len ? err.s : nf_strerror(r));
	nf_text_deinit(&err);
	return r == 0 || (r == -ENOENT && !name) ? NF_EXIT_OK : NF_EXIT_USAGE;
}

enum nf_exit nf_cmd_mount(struct nf_args *a)
{
	struct nf_config_mount m = { 0 };

	enum nf_exit e = configured(a, &m);
	if (e == NF_EXIT_OK && a->opt.cache_dir && *a->opt.cache_dir != '/') {
		nf_complain("cache_dir must be an absolute path, not %s", a->opt.cache_dir);
		e = NF_EXIT_USAGE;
	}
	if (e == NF_EXIT_OK)
		e = mount_at(m.store ? m.store : a->arg[0], m.dir ? m.dir : a->arg[1], &a->opt);
	nf_config_mount_deinit(&m);
	return e;
}
