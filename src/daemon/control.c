/* The daemon's end.
 *
 *	acceptor thread --accept--> peer thread (at most PEERS_MAX) --sync--> worker, watched by the peer
 *
 * close: `stopping` is set, the acceptor is woken by a pipe, peers by shutdown(2) of their sockets. */
#include "daemon/control_i.h"

#include "aio/thread.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "daemon/check_text.h"
#include "daemon/gc_text.h"
#include "daemon/json.h"
#include "daemon/paths.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { PROGRESS_MS = 200, IDLE_S = 60 };

/* I set before publication, then never changed;  l lock */
struct nf_control {
	struct nf_control_env env; /* I */
	struct sockaddr_un addr;   /* I */
	struct stat bound;         /* I  of the name in addr */
	int listen_fd;             /* I */
	int wake[2];               /* I  written once, at close */
	pthread_t acceptor;        /* I */
	struct nf_lock lock;
	struct nf_cond changed;
	struct nf_list peers;      /* l */
	unsigned nr_peers;         /* l */
	_Atomic bool stopping;
};

/* --- replies ------------------------------------------------------------------------- */

static bool send_all(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

void nf_reply_begin(struct nf_text *t, int error)
{
	nf_textf(t, "{\"error\":%d", error);
	if (error) {
		nf_textf(t, ",\"message\":");
		nf_text_json(t, nf_strerror(error));
	}
}

bool nf_reply_end(struct nf_peer *p, struct nf_text *t)
{
	nf_textf(t, "}\n");
	return !t->failed && send_all(p->fd, t->s, t->len);
}

bool nf_reply_text(struct nf_peer *p, int error, const char *text)
{
	struct nf_text t = NF_TEXT_INIT;

	nf_reply_begin(&t, error);
	if (text) {
		nf_textf(&t, ",\"text\":");
		nf_text_json(&t, text);
	}
	bool ok = nf_reply_end(p, &t);
	nf_text_deinit(&t);
	return ok;
}

/* --- commands ------------------------------------------------------------------------ */

bool nf_wants(const char *line, const char *format)
{
	nf_auto_free char *got = NULL;

	return !nf_json_string(line, "format", &got) && !strcmp(got, format);
}

static bool do_status(struct nf_peer *p, const char *line)
{
	struct nf_text t = NF_TEXT_INIT, s = NF_TEXT_INIT;
	bool json = nf_wants(line, "json");

	if (!json)
		nf_status_to_text(&p->c->env, &s);
	nf_reply_begin(&t, 0);
	nf_textf(&t, json ? ",\"status\":" : ",\"text\":");
	if (json)
		nf_status_to_json(&p->c->env, &t);
	else
		nf_text_json(&t, nf_text_str(&s));
	bool ok = nf_reply_end(p, &t);
	nf_text_deinit(&s);
	nf_text_deinit(&t);
	return ok;
}

static bool do_stats(struct nf_peer *p, const char *line)
{
	struct nf_text t = NF_TEXT_INIT;

	if (nf_wants(line, "prometheus"))
		nf_counters_to_prometheus(&t);
	else
		nf_counters_to_text(&t, 1);
	bool ok = nf_reply_text(p, 0, nf_text_str(&t));
	nf_text_deinit(&t);
	return ok;
}

static bool do_regions(struct nf_peer *p, const char *line)
{
	nf_auto_free char *text = NULL;

	(void)line;
	int r = nf_vault_regions_text(p->c->env.vault, &text);
	return nf_reply_text(p, r, text);
}

static bool do_requests(struct nf_peer *p, const char *line)
{
	struct nf_text t = NF_TEXT_INIT;

	(void)line;
	nf_requests_to_text(&p->c->env, &t);
	bool ok = nf_reply_text(p, t.failed ? nf_fail(-ENOMEM) : 0, nf_text_str(&t));
	nf_text_deinit(&t);
	return ok;
}

static bool do_trace(struct nf_peer *p, const char *line)
{
	nf_auto_free char *spec = NULL;
	struct nf_text t = NF_TEXT_INIT, events = NF_TEXT_INIT;
	int64_t since = 0;
	int r = 0;

	if (!nf_json_string(line, "set", &spec))
		r = nf_trace_set(spec);
	(void)nf_json_int(line, "since", &since); /* absent: from the oldest */
	uint64_t last = (uint64_t)since;
	if (r == 0)
		nf_trace_read(&events, &last);
	nf_reply_begin(&t, r);
	nf_textf(&t, ",\"since\":%" PRIu64 ",\"text\":", last);
	nf_text_json(&t, nf_text_str(&events));
	bool ok = nf_reply_end(p, &t);
	nf_text_deinit(&events);
	nf_text_deinit(&t);
	return ok;
}

static bool do_refresh(struct nf_peer *p, const char *line)
{
	(void)line;
	return nf_reply_text(p, nf_vault_refresh(p->c->env.vault), NULL);
}

static bool do_offline(struct nf_peer *p, const char *line)
{
	(void)line;
	return nf_reply_text(p, nf_vault_hold(p->c->env.vault, true), NULL);
}

static bool do_online(struct nf_peer *p, const char *line)
{
	(void)line;
	return nf_reply_text(p, nf_vault_hold(p->c->env.vault, false), NULL);
}

static bool do_shutdown(struct nf_peer *p, const char *line)
{
	(void)line;
	bool ok = nf_reply_text(p, 0, NULL);
	nf_front_stop(p->c->env.front);
	return ok;
}

static void *job_main(void *arg)
{
	struct nf_job *j = arg;
	int r = j->run(j);

	nf_lock_take(&j->lock);
	j->error = r;
	j->finished = true;
	nf_cond_broadcast(&j->changed);
	nf_lock_drop(&j->lock);
	return NULL;
}

static bool job_progress(struct nf_peer *p, const struct nf_job *j)
{
	struct nf_vault_status s;
	struct nf_text t = NF_TEXT_INIT;
	char c;

	nf_vault_status(p->c->env.vault, &s);
	nf_textf(&t, "{\"progress\":%" PRIu64 ",\"total\":%" PRIu64 ",\"pending\":%" PRIu64 "}\n",
		 j->pins ? s.pinned_present_bytes : s.upload_done_bytes, j->pins ? s.pinned_bytes : s.upload_total_bytes,
		 s.pending_bytes);
	bool ok = !t.failed && send_all(p->fd, t.s, t.len);
	nf_text_deinit(&t);
	/* Who interrupts the command hangs up. */
	return ok && recv(p->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) != 0 && !atomic_load(&p->c->stopping);
}

/* Runs J beside and tells the progress; *R is how it ended.  False: nobody listens any more. */
bool nf_run_beside(struct nf_peer *p, struct nf_job *job, int *out)
{
	pthread_t worker;
	bool ok = true;

	job->v = p->c->env.vault;
	nf_lock_init(&job->lock, NF_RANK_LEAF);
	nf_cond_init(&job->changed);
	int r = nf_thread_start(&worker, "nf-sync", job_main, job);
	if (r == 0) {
		nf_lock_take(&job->lock);
		while (!job->finished) {
			if (nf_cond_wait_until(&job->changed, &job->lock, nf_clock_ns() + PROGRESS_MS * NF_NS_PER_MS))
				continue;
			nf_lock_drop(&job->lock);
			ok = ok && job_progress(p, job);
			if (!ok)
				atomic_store(&job->stop, true);
			nf_lock_take(&job->lock);
		}
		nf_lock_drop(&job->lock);
		(void)pthread_join(worker, NULL);
		r = job->error;
	}
	nf_cond_deinit(&job->changed);
	nf_lock_deinit(&job->lock);
	*out = r;
	return ok;
}

static bool run_job(struct nf_peer *p, struct nf_job *job)
{
	int r;
	bool ok = nf_run_beside(p, job, &r);

	return nf_reply_text(p, r, NULL) && ok;
}

static int run_sync(struct nf_job *j) { return nf_vault_sync(j->v, &j->stop); }
static int run_snapshot_create(struct nf_job *j) { return nf_vault_snapshot_create(j->v, j->name, &j->stop); }

/* A name may have an '@' in it. */
static int run_snapshot_remove(struct nf_job *j)
{
	nf_auto_free char *name = strdup(j->name);
	int r = nf_vault_snapshot_remove(j->v, j->name, NULL, &j->stop);
	char *at = name ? strrchr(name, '@') : NULL;

	if (r != -NF_E_SNAPSHOT_NONE || !at)
		return r;
	*at = '\0';
	return nf_vault_snapshot_remove(j->v, name, at + 1, &j->stop);
}

static int run_gc(struct nf_job *j) { return nf_vault_gc(j->v, &j->gc, &j->stop, &j->collected); }

void nf_number(const char *line, const char *key, uint64_t *out)
{
	int64_t n;

	if (nf_json_int(line, key, &n) == 0 && n >= 0)
		*out = (uint64_t)n;
}

static bool do_gc(struct nf_peer *p, const char *line)
{
	struct nf_job j = { .run = run_gc };
	struct nf_text t = NF_TEXT_INIT, people = NF_TEXT_INIT;
	uint64_t dry = 0;
	int r;

	nf_vault_gc_options(p->env->vault, &j.gc);
	nf_number(line, "dry_run", &dry);
	nf_number(line, "grace", &j.gc.grace_s);
	nf_number(line, "keep_heads", &j.gc.keep_heads);
	nf_number(line, "keep_days", &j.gc.keep_days);
	nf_number(line, "lease_days", &j.gc.lease_days);
	j.gc.dry_run = dry != 0;
	bool ok = nf_run_beside(p, &j, &r);
	nf_reply_begin(&t, r);
	if (r == 0) {
		nf_gc_text(&j.collected, j.gc.dry_run, &people);
		nf_textf(&t, ",\"text\":");
		nf_text_json(&t, nf_text_str(&people));
		nf_textf(&t, ",\"result\":");
		nf_gc_json(&j.collected, &t);
	}
	ok = nf_reply_end(p, &t) && ok;
	nf_text_deinit(&people);
	nf_text_deinit(&t);
	return ok;
}

struct checking {
	struct nf_check_options o;
	struct nf_check_result r;
};

static int run_check(struct nf_job *j)
{
	struct checking *k = j->ctx;
	int r = k->o.repair ? 0 : nf_vault_refresh(j->v);

	k->o.stop = &j->stop;
	return r < 0 ? r : nf_vault_check(j->v, &k->o, &k->r);
}

static bool do_check(struct nf_peer *p, const char *line)
{
	struct nf_text t = NF_TEXT_INIT;
	struct nf_check_lines lines = { 0 };
	struct checking k = { .o = { .report = nf_check_lines_add, .ctx = &lines } };
	struct nf_job j = { .run = run_check, .ctx = &k };
	uint64_t read_data = 0, repair = 0;
	int r;

	nf_number(line, "read_data", &read_data);
	nf_number(line, "repair", &repair);
	k.o.read_data = read_data != 0;
	k.o.repair = repair != 0;
	bool ok = nf_run_beside(p, &j, &r);
	nf_reply_begin(&t, r);
	if (r == 0) {
		nf_check_text(&k.r, k.o.repair, &lines.people);
		nf_textf(&t, ",\"left\":%" PRIu64 ",\"text\":", k.r.problems);
		nf_text_json(&t, nf_text_str(&lines.people));
		nf_textf(&t, ",\"result\":");
		nf_check_json(&k.r, &lines, &t);
	}
	ok = nf_reply_end(p, &t) && ok;
	nf_check_lines_deinit(&lines);
	nf_text_deinit(&t);
	return ok;
}

static bool do_sync(struct nf_peer *p, const char *line)
{
	(void)line;
	return run_job(p, &(struct nf_job){ .run = run_sync });
}

static bool change_snapshot(struct nf_peer *p, const char *line, int (*run)(struct nf_job *j))
{
	nf_auto_free char *name = NULL;

	int r = nf_json_string(line, "name", &name);
	return r < 0 ? nf_reply_text(p, r, NULL) : run_job(p, &(struct nf_job){ .run = run, .name = name });
}

static bool do_snapshot_create(struct nf_peer *p, const char *line) { return change_snapshot(p, line, run_snapshot_create); }
static bool do_snapshot_remove(struct nf_peer *p, const char *line) { return change_snapshot(p, line, run_snapshot_remove); }

struct snapshot_list {
	struct nf_text t;
	bool json;
};

static bool add_snapshot(void *ctx, const struct nf_snapshot *s)
{
	struct snapshot_list *l = ctx;
	time_t time = s->time_s;
	char when[32] = "";
	struct tm tm;

	if (l->json) {
		nf_textf(&l->t, "%s{\"name\":", l->t.len ? "," : "");
		nf_text_json(&l->t, s->name);
		nf_textf(&l->t, ",\"id\":\"%s\",\"commit\":%" PRIu64 ",\"time\":%" PRId64 "}", s->id, s->head_seq, s->time_s);
		return true;
	}
	if (localtime_r(&time, &tm))
		(void)strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
	nf_textf(&l->t, "%s  %s  commit %" PRIu64 "  ", s->id, when, s->head_seq);
	nf_text_name(&l->t, s->name);
	nf_textf(&l->t, "\n");
	return true;
}

static bool do_snapshots(struct nf_peer *p, const char *line)
{
	struct snapshot_list l = { .json = nf_wants(line, "json") };
	struct nf_text t = NF_TEXT_INIT;

	int r = nf_vault_snapshots(p->c->env.vault, add_snapshot, &l);
	nf_reply_begin(&t, r);
	if (r == 0 && l.json)
		nf_textf(&t, ",\"snapshots\":[%s]", nf_text_str(&l.t));
	else if (r == 0)
		nf_textf(&t, ",\"text\":"), nf_text_json(&t, nf_text_str(&l.t));
	bool ok = nf_reply_end(p, &t);
	nf_text_deinit(&l.t);
	nf_text_deinit(&t);
	return ok;
}

static const struct {
	const char *name;
	bool (*run)(struct nf_peer *p, const char *line);
} commands[] = {
	{ "status", do_status }, { "stats", do_stats },     { "regions", do_regions },   { "requests", do_requests },
	{ "trace", do_trace },   { "refresh", do_refresh }, { "shutdown", do_shutdown }, { "sync", do_sync },
	{ "offline", do_offline },
	{ "online", do_online },
	{ "snapshots", do_snapshots },
	{ "gc", do_gc },
	{ "check", do_check },
	{ "snapshot-create", do_snapshot_create },
	{ "snapshot-remove", do_snapshot_remove },
	{ "pin", nf_do_pin },
	{ "pin-wait", nf_do_pin_wait },
	{ "unpin", nf_do_unpin },
	{ "pins", nf_do_pins },
	{ "cache-info", nf_do_cache_info },
	{ "cache-drop", nf_do_cache_drop },
	{ "cache-verify", nf_do_cache_verify },
};

static bool serve_line(struct nf_peer *p, const char *line)
{
	nf_auto_free char *cmd = NULL;

	int r = nf_json_string(line, "cmd", &cmd);
	for (size_t i = 0; r == 0 && i < NF_ARRAY_LEN(commands); i++) {
		if (!strcmp(commands[i].name, cmd))
			return commands[i].run(p, line);
	}
	return nf_reply_text(p, r ? r : nf_fail(-EOPNOTSUPP), NULL);
}

/* --- peers --------------------------------------------------------------------------- */

static bool may_ask(int fd)
{
	struct ucred who;
	socklen_t len = sizeof who;

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) && (who.uid == 0 || who.uid == geteuid());
}

/* One request after the other; a line that does not end in LINE_MAX bytes ends the talk. */
static void talk(struct nf_peer *p)
{
	char line[NF_CONTROL_LINE_MAX];
	size_t len = 0;

	for (;;) {
		ssize_t n = recv(p->fd, line + len, sizeof line - 1 - len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		len += (size_t)n;
		char *nl = memchr(line, '\n', len);
		if (!nl && len == sizeof line - 1)
			return;
		while (nl) {
			*nl = '\0';
			if (!serve_line(p, line))
				return;
			len -= (size_t)(nl + 1 - line);
			memmove(line, nl + 1, len);
			nl = memchr(line, '\n', len);
		}
	}
}

static void *peer_main(void *arg)
{
	struct nf_peer *p = arg;
	struct nf_control *c = p->c;

	if (may_ask(p->fd))
		talk(p);
	nf_lock_take(&c->lock);
	nf_list_del(&p->link);
	(void)close(p->fd);
	c->nr_peers--;
	nf_cond_broadcast(&c->changed);
	nf_lock_drop(&c->lock);
	free(p);
	return NULL;
}

static void admit(struct nf_control *c, int fd)
{
	struct timeval idle = { .tv_sec = IDLE_S };
	struct nf_peer *p = calloc(1, sizeof *p);
	pthread_t t;

	if (!p) {
		(void)close(fd);
		return;
	}
	p->c = c;
	p->env = &c->env;
	p->fd = fd;
	/* Who reads nothing for a minute is cut off. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &idle, sizeof idle);
	nf_lock_take(&c->lock);
	while (c->nr_peers >= NF_CONTROL_PEERS_MAX && !atomic_load(&c->stopping))
		nf_cond_wait(&c->changed, &c->lock);
	nf_list_add_tail(&c->peers, &p->link);
	c->nr_peers++;
	nf_lock_drop(&c->lock);
	if (nf_thread_start(&t, "nf-control", peer_main, p) == 0) {
		(void)pthread_detach(t); /* close waits until nr_peers is 0 */
		return;
	}
	nf_lock_take(&c->lock);
	nf_list_del(&p->link);
	c->nr_peers--;
	nf_lock_drop(&c->lock);
	(void)close(fd);
	free(p);
}

static void *acceptor_main(void *arg)
{
	struct nf_control *c = arg;
	struct pollfd fds[2] = { { .fd = c->listen_fd, .events = POLLIN }, { .fd = c->wake[0], .events = POLLIN } };

	while (!atomic_load(&c->stopping)) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			break;
		int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			admit(c, fd);
	}
	return NULL;
}

/* --- first and last ------------------------------------------------------------------- */

static int listen_at(struct nf_control *c, const char *dir, const struct nf_mount *m)
{
	c->addr.sun_family = AF_UNIX;
	if ((size_t)snprintf(c->addr.sun_path, sizeof c->addr.sun_path, "%s/%u-%u.sock", dir, m->major, m->minor) >=
	    sizeof c->addr.sun_path)
		return nf_fail(-ENAMETOOLONG);
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->listen_fd < 0)
		return nf_fail(-errno);
	/* Left by one that was killed: the device number was free, so nobody listens. */
	(void)unlink(c->addr.sun_path);
	mode_t old = umask(0177);
	int r = bind(c->listen_fd, (struct sockaddr *)&c->addr, sizeof c->addr) ? -errno : 0;
	(void)umask(old);
	if (r == 0 && lstat(c->addr.sun_path, &c->bound))
		r = -errno;
	if (r == 0 && listen(c->listen_fd, NF_CONTROL_PEERS_MAX))
		r = -errno;
	return nf_fail(r);
}

static void control_free(struct nf_control *c)
{
	for (int i = 0; i < 2; i++) {
		if (c->wake[i] >= 0)
			(void)close(c->wake[i]);
	}
	if (c->listen_fd >= 0)
		(void)close(c->listen_fd);
	nf_cond_deinit(&c->changed);
	nf_lock_deinit(&c->lock);
	free(c);
}

int nf_control_open(const struct nf_mount *m, const struct nf_control_env *env, struct nf_control **out)
{
	nf_auto_free char *dir = NULL;
	struct nf_control *c = calloc(1, sizeof *c);

	if (!c)
		return nf_fail(-ENOMEM);
	c->env = *env;
	c->listen_fd = c->wake[0] = c->wake[1] = -1;
	nf_lock_init(&c->lock, NF_RANK_DAEMON);
	nf_cond_init(&c->changed);
	nf_list_init(&c->peers);
	int r = nf_runtime_dir(&dir);
	if (r == 0 && pipe2(c->wake, O_CLOEXEC))
		r = nf_fail(-errno);
	if (r == 0)
		r = listen_at(c, dir, m);
	if (r == 0)
		r = nf_thread_start(&c->acceptor, "nf-accept", acceptor_main, c);
	if (r < 0) {
		control_free(c);
		return r;
	}
	*out = c;
	return 0;
}

/* The device number was free as soon as the mount had gone: a new mount may have it, and its socket this name. */
static void unlink_ours(const struct nf_control *c)
{
	struct stat now;

	if (lstat(c->addr.sun_path, &now) == 0 && now.st_dev == c->bound.st_dev && now.st_ino == c->bound.st_ino &&
	    now.st_ctim.tv_sec == c->bound.st_ctim.tv_sec && now.st_ctim.tv_nsec == c->bound.st_ctim.tv_nsec)
		(void)unlink(c->addr.sun_path); /* whoever comes now finds nobody */
}

void nf_control_close(struct nf_control *c)
{
	if (!c)
		return;
	atomic_store(&c->stopping, true);
	unlink_ours(c);
	(void)!write(c->wake[1], "", 1);
	nf_lock_take(&c->lock);
	nf_cond_broadcast(&c->changed);
	nf_lock_drop(&c->lock);
	(void)pthread_join(c->acceptor, NULL);
	nf_lock_take(&c->lock);
	nf_list_for_each(p, &c->peers, struct nf_peer, link)
		(void)shutdown(p->fd, SHUT_RDWR);
	while (c->nr_peers)
		nf_cond_wait(&c->changed, &c->lock);
	nf_lock_drop(&c->lock);
	control_free(c);
}
