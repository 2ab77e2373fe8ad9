/* The session from first to last.
 *
 *   new -> mount -> loop: [readers] ... the session ends ... [drain, release handles, last notices] -> unmount -> free
 *                          ^ stop: a thread of its own unmounts while the readers still serve
 *
 * Readers block in read(2), which umount or abort of the connection ends.  Where neither can be had, the
 * stopper wakes them by a signal with an empty handler, repeated, as one may come just before the read. */
#include "fuse/session.h"

#include "aio/thread.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/trace.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	WAKE_FIRST_MS = 200, /* time for the end of the mount to reach the readers */
	WAKE_AGAIN_MS = 20,
};

static int wake_signal(void) { return SIGRTMIN + 3; }

const char *nf_front_error(const struct nf_front *f) { return f->error; }

int nf_front_fail(struct nf_front *f, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(f->error, sizeof f->error, fmt, ap); /* a long sentence is cut */
	va_end(ap);
	return nf_fail(code);
}

/* --- libfuse's messages -------------------------------------------------------------- */

/* Where this thread's messages of libfuse go; NULL: to the log. */
static _Thread_local struct nf_text *said;

__attribute__((format(printf, 2, 0)))
static void on_fuse_log(enum fuse_log_level level, const char *fmt, va_list ap)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_textv(said ? said : &t, fmt, ap);
	if (t.len && t.s[t.len - 1] == '\n')
		t.s[t.len - 1] = '\0';
	if (!said)
		nf_log(level <= FUSE_LOG_ERR ? NF_LOG_ERROR : NF_LOG_DEBUG, "%s", nf_text_str(&t));
	nf_text_deinit(&t);
}

/* What was said, as one line: libfuse's sentences come in pieces, with newlines. */
static const char *said_line(struct nf_text *t)
{
	for (char *p = t->s; t->len && *p; p++) {
		if (*p == '\n')
			*p = p[1] ? ' ' : '\0';
	}
	return nf_text_str(t);
}

/* --- making it ----------------------------------------------------------------------- */

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
	const struct nf_front *f = userdata;
	unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_DONT_MASK |
			FUSE_CAP_IOCTL_DIR | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
			FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS |
			FUSE_CAP_EXPLICIT_INVAL_DATA;

	/* POSIX_ACL makes the kernel check permissions itself. */
	if (f->opts.default_permissions)
		want |= FUSE_CAP_POSIX_ACL;
	/* Not taken: WRITEBACK_CACHE destroys byte ranges, order and flags of writes; AUTO_INVAL_DATA drops
	 * whole files on any change of mtime; splice never wins when bytes must be touched; without
	 * the two kinds of locks the kernel keeps them itself; without EXPORT_SUPPORT no inode is looked
	 * up by number alone. */
	conn->want = want & conn->capable;
	conn->max_write = f->max_write_bytes;
	conn->max_readahead = f->opts.read_ahead_bytes ? f->opts.read_ahead_bytes : 1 << 20;
	conn->max_background = NF_FUSE_MAX_BACKGROUND;
	conn->congestion_threshold = NF_FUSE_MAX_BACKGROUND * 3 / 4;
	conn->time_gran = 1;
}

static void mount_options(const struct nf_front *f, struct nf_text *t)
{
	const struct nf_front_options *o = &f->opts;

	nf_textf(t, "subtype=%s", o->subtype);
	if (o->read_only)
		nf_textf(t, ",ro");
	if (o->allow_other)
		nf_textf(t, ",allow_other");
	if (o->default_permissions)
		nf_textf(t, ",default_permissions");
	if (o->debug)
		nf_textf(t, ",debug");
	if (o->kernel_opts && *o->kernel_opts)
		nf_textf(t, ",%s", o->kernel_opts);
}

static int session_new(struct nf_front *f)
{
	struct fuse_lowlevel_ops ops = { .init = on_init };
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct nf_text plain = NF_TEXT_INIT, fsname = NF_TEXT_INIT, messages = NF_TEXT_INIT;
	char *all = NULL;

	nf_handlers_name(&ops);
	nf_handlers_attr(&ops);
	nf_handlers_file(&ops);
	nf_handlers_dir(&ops);
	fuse_set_log_func(on_fuse_log);
	mount_options(f, &plain);
	nf_textf(&fsname, "fsname=%s", f->opts.fsname);
	int r = 0;
	if (plain.failed || fsname.failed || fuse_opt_add_opt(&all, nf_text_str(&plain)) ||
	    fuse_opt_add_opt_escaped(&all, nf_text_str(&fsname)) ||
	    fuse_opt_add_arg(&args, f->opts.subtype) || fuse_opt_add_arg(&args, "-o") ||
	    fuse_opt_add_arg(&args, all))
		r = nf_front_fail(f, -ENOMEM, "out of memory");
	said = &messages;
	if (!r && !(f->se = fuse_session_new(&args, &ops, sizeof ops, f)))
		r = nf_front_fail(f, -NF_E_OPTION, "mount options not accepted: %s",
				  said_line(&messages));
	said = NULL;
	free(all);
	fuse_opt_free_args(&args);
	nf_text_deinit(&plain);
	nf_text_deinit(&fsname);
	nf_text_deinit(&messages);
	return r;
}

static const char *copy_or(const char *s, const char *otherwise)
{
	return strdup(s ? s : otherwise);
}

static int copy_options(struct nf_front *f, const struct nf_front_options *o)
{
	f->opts = *o;
	f->opts.mount_point = copy_or(o->mount_point, "");
	f->opts.fsname = copy_or(o->fsname, "foliofs");
	f->opts.subtype = copy_or(o->subtype, "foliofs");
	f->opts.kernel_opts = copy_or(o->kernel_opts, "");
	if (!f->opts.mount_point || !f->opts.fsname || !f->opts.subtype || !f->opts.kernel_opts)
		return nf_fail(-ENOMEM);
	return 0;
}

static void free_options(struct nf_front_options *o)
{
	free((void *)(uintptr_t)o->mount_point);
	free((void *)(uintptr_t)o->fsname);
	free((void *)(uintptr_t)o->subtype);
	free((void *)(uintptr_t)o->kernel_opts);
}

static void front_free_p(struct nf_front **f) { nf_front_free(*f); }

int nf_front_new(const struct nf_front_options *o, struct nf_fs *fs, struct nf_front **out)
{
	nf_auto(front_free_p) struct nf_front *f = calloc(1, sizeof *f);

	if (!f)
		return nf_fail(-ENOMEM);
	f->fs = fs;
	f->over_socket = o->socket_fd >= 0;
	nf_lock_init(&f->lock, NF_RANK_FUSE);
	nf_cond_init(&f->changed);
	nf_list_init(&f->calls);
	nf_list_init(&f->spare);
	nf_notifier_init(f);
	f->max_write_bytes = o->max_write_bytes ? NF_MIN(o->max_write_bytes, (uint32_t)NF_FUSE_MAX_WRITE_BYTES) :
						  NF_FUSE_MAX_WRITE_BYTES;
	f->max_write_bytes = (uint32_t)nf_round_up(f->max_write_bytes, 4096);
	f->nr_readers = o->readers ? NF_MIN(o->readers, (unsigned)NF_FUSE_READERS_MAX) : 1;
	f->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (f->stop_fd < 0)
		return nf_fail(-errno);
	int r = copy_options(f, o);
	if (!r)
		r = session_new(f);
	if (r) {
		if (*f->error) /* goes with F */
			nf_log(NF_LOG_ERROR, "%s", f->error);
		return nf_fail(r);
	}
	fs->notify = &nf_front_notify_ops;
	fs->notify_ctx = f;
	*out = nf_steal(&f);
	return 0;
}

void nf_front_free(struct nf_front *f)
{
	if (!f)
		return;
	if (f->fs->notify_ctx == f) {
		f->fs->notify = NULL;
		f->fs->notify_ctx = NULL;
	}
	nf_front_unmount(f);
	if (f->se)
		fuse_session_destroy(f->se);
	nf_calls_free_spare(f);
	NF_ASSERT(!f->handles.nr_used);
	free(f->handles.h);
	nf_notifier_deinit(f);
	if (f->stop_fd >= 0)
		(void)close(f->stop_fd);
	free_options(&f->opts);
	free(f->mount_point);
	nf_cond_deinit(&f->changed);
	nf_lock_deinit(&f->lock);
	free(f);
}

/* --- mounting ------------------------------------------------------------------------ */

static int attach_socket(struct nf_front *f)
{
	/* libfuse closes its descriptor; the caller keeps his. */
	int fd = dup(f->opts.socket_fd);
	int r = fd < 0 ? -errno : nf_transport_attach(f, fd);

	return r ? nf_front_fail(f, r, "socket not usable: %s", nf_strerror(r)) : 0;
}

int nf_front_mount(struct nf_front *f)
{
	struct nf_text messages = NF_TEXT_INIT;

	if (f->over_socket)
		return attach_socket(f);
	int r = nf_mount_check(f);
	if (r)
		return r;
	said = &messages;
	r = nf_mount_do(f);
	said = NULL;
	if (r)
		r = nf_front_fail(f, r, "cannot mount on %s: %s", f->mount_point,
				  messages.len ? said_line(&messages) : nf_strerror(r));
	nf_text_deinit(&messages);
	if (r)
		return r;
	f->mounted = true;
	r = nf_transport_attach(f, fuse_session_fd(f->se));
	return r ? nf_front_fail(f, r, "session not usable: %s", nf_strerror(r)) : 0;
}

void nf_front_unmount(struct nf_front *f)
{
	if (!f->mounted)
		return;
	f->mounted = false;
	fuse_session_unmount(f->se);
}

/* --- the loop ------------------------------------------------------------------------ */

static void on_wake(int sig) { (void)sig; }

static int allow_wake(void)
{
	struct sigaction sa = { .sa_handler = on_wake }; /* no SA_RESTART: read(2) must end */
	sigset_t set;

	(void)sigemptyset(&sa.sa_mask);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, wake_signal());
	if (sigaction(wake_signal(), &sa, NULL))
		return nf_fail(-errno);
	return -pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* Without readers the session cannot go on: the first that fails ends it for all. */
static void serve(struct nf_reader *rd)
{
	struct nf_front *f = rd->f;
	int r = allow_wake();

	nf_lock_take(&f->lock);
	rd->self = pthread_self();
	rd->running = true;
	nf_lock_drop(&f->lock);
	if (!r)
		r = nf_transport_serve(f);
	nf_lock_take(&f->lock);
	if (r && !f->loop_error)
		f->loop_error = r;
	rd->running = false;
	f->nr_reading--;
	nf_cond_broadcast(&f->changed);
	nf_lock_drop(&f->lock);
	if (r) {
		nf_log(NF_LOG_ERROR, "reading requests failed, the mount ends: err=%s", nf_error_name(r));
		nf_front_stop(f);
	}
}

static void *reader_main(void *arg)
{
	serve(arg);
	return NULL;
}

static void wake_readers(struct nf_front *f)
{
	uint64_t wait_ms = WAKE_FIRST_MS;

	nf_lock_take(&f->lock);
	while (f->nr_reading) {
		if (nf_cond_wait_until(&f->changed, &f->lock, nf_clock_ns() + wait_ms * NF_NS_PER_MS))
			continue;
		wait_ms = WAKE_AGAIN_MS;
		/* Under the lock, so that a thread that is `running` has not ended. */
		for (unsigned i = 0; i < f->nr_readers; i++) {
			if (f->readers[i].running)
				(void)pthread_kill(f->readers[i].self, wake_signal());
		}
	}
	nf_lock_drop(&f->lock);
}

static void *stopper_main(void *arg)
{
	struct nf_front *f = arg;
	uint64_t n;

	while (read(f->stop_fd, &n, sizeof n) != sizeof n)
		;
	if (!atomic_load(&f->stop_asked))
		return NULL; /* the loop has ended by itself */
	if (f->over_socket)
		(void)shutdown(fuse_session_fd(f->se), SHUT_RD);
	else
		nf_mount_end(f);
	atomic_store(&f->stopping, true);
	wake_readers(f);
	return NULL;
}

static void poke_stopper(struct nf_front *f)
{
	uint64_t one = 1;

	/* Fails only when the counter is full: it has been poked. */
	ssize_t n = write(f->stop_fd, &one, sizeof one);
	(void)n;
}

void nf_front_stop(struct nf_front *f)
{
	int saved = errno;

	atomic_store(&f->stop_asked, true);
	poke_stopper(f);
	errno = saved;
}

/* Reader 0 is the caller's thread. */
static void start_readers(struct nf_front *f)
{
	unsigned nr = 1;
	int r = 0;

	nf_lock_take(&f->lock);
	f->nr_reading = f->nr_readers;
	nf_lock_drop(&f->lock);
	for (; !r && nr < f->nr_readers; nr += !r) {
		f->readers[nr].f = f;
		r = nf_thread_start(&f->readers[nr].thread, "nf-fuse-read", reader_main,
				    &f->readers[nr]);
	}
	f->readers[0].f = f;
	if (!r)
		return;
	nf_log(NF_LOG_WARN, "fewer readers than asked for: readers=%u err=%s", nr, nf_error_name(r));
	nf_lock_take(&f->lock);
	f->nr_reading -= f->nr_readers - nr;
	f->nr_readers = nr;
	nf_lock_drop(&f->lock);
}

int nf_front_loop(struct nf_front *f)
{
	pthread_t stopper;
	int r = nf_notifier_start(f);

	if (r)
		return nf_fail(r);
	r = nf_thread_start(&stopper, "nf-fuse-stop", stopper_main, f);
	if (r) {
		nf_notifier_stop(f);
		return nf_fail(r);
	}
	start_readers(f);
	serve(&f->readers[0]);
	for (unsigned i = 1; i < f->nr_readers; i++)
		(void)pthread_join(f->readers[i].thread, NULL);
	nf_calls_drain(f);
	nf_handles_release_all(f);
	nf_calls_drain(f);
	poke_stopper(f);
	(void)pthread_join(stopper, NULL);
	nf_notifier_stop(f);
	return f->loop_error;
}
