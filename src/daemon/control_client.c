/* The commands' end of the control socket. */
#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"
#include "daemon/control.h"
#include "daemon/json.h"
#include "daemon/paths.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int connect_in(const char *dir, const struct nf_mount *m, int *out)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if ((size_t)snprintf(a.sun_path, sizeof a.sun_path, "%s/%u-%u.sock", dir, m->major, m->minor) >=
	    sizeof a.sun_path)
		return -ENAMETOOLONG;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return nf_fail(-errno);
	if (connect(fd, (struct sockaddr *)&a, sizeof a)) {
		int r = -errno;
		(void)close(fd);
		return r;
	}
	*out = fd;
	return 0;
}

/* A socket that somebody else prepared in a shared directory is not believed. */
static int check_server(int fd, const struct nf_mount *m, pid_t *pid)
{
	struct ucred who;
	socklen_t len = sizeof who;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len))
		return nf_fail(-errno);
	if (who.uid != m->uid && who.uid != 0)
		return nf_fail(-EPERM);
	*pid = who.pid;
	return 0;
}

int nf_control_connect(const struct nf_mount *m, int *fd, pid_t *pid)
{
	int r = -ENOENT;

	for (unsigned i = 0; i < 3; i++) {
		nf_auto_free char *dir = nf_runtime_candidate(m->uid, i);
		int got = -1;
		if (!dir)
			return nf_fail(-ENOMEM);
		int now = connect_in(dir, m, &got);
		if (now == 0) {
			now = check_server(got, m, pid);
			if (now == 0) {
				*fd = got;
				return 0;
			}
			(void)close(got);
		}
		if (now == -EACCES || now == -EPERM)
			r = now;
	}
	return r;
}

static int send_line(int fd, const char *request)
{
	nf_auto_free char *line = NULL;
	size_t sent = 0;
	int len = asprintf(&line, "%s\n", request);

	if (len < 0)
		return nf_fail(-ENOMEM);
	while (sent < (size_t)len) {
		ssize_t n = send(fd, line + sent, (size_t)len - sent, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return nf_fail(-errno);
		sent += (size_t)n;
	}
	return 0;
}

int nf_control_ask(int fd, const char *request, void (*progress)(void *ctx, const char *line), void *ctx,
		   char **reply)
{
	struct nf_text t = NF_TEXT_INIT;
	char buf[65536];
	int r = send_line(fd, request);

	while (r == 0) {
		ssize_t n = recv(fd, buf, sizeof buf, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || t.len > NF_CONTROL_REPLY_MAX) {
			r = nf_fail(-ECONNRESET);
			break;
		}
		nf_text_add(&t, buf, (size_t)n);
		char *nl;
		int64_t error;
		while (!t.failed && (nl = memchr(t.s, '\n', t.len))) {
			*nl = '\0';
			if (!nf_json_int(t.s, "error", &error)) {
				*reply = nf_steal(&t.s);
				return (int)error;
			}
			if (progress)
				progress(ctx, t.s);
			t.len -= (size_t)(nl + 1 - t.s);
			memmove(t.s, nl + 1, t.len + 1);
		}
		if (t.failed)
			r = nf_fail(-ENOMEM);
	}
	nf_text_deinit(&t);
	return r;
}
