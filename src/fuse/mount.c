/* Mounting and unmounting, with a sentence for everything that stands in the way. */
#include "fuse/session.h"

#include "base/error.h"
#include "base/text.h"
#include "base/trace.h"

#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* --- /proc/self/mountinfo ------------------------------------------------------------ */

/* Undoes the kernel's \040 for blanks in paths. */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		unsigned c;
		if (s[0] == '\\' && sscanf(s + 1, "%3o", &c) == 1) {
			*to++ = (char)c;
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

struct mount_at {
	char type[64];  /* "" : nothing is mounted there */
	unsigned minor; /* of its device: the number of a FUSE connection */
};

/* "36 35 0:98 / /mnt rw,noatime shared:1 - fuse.foliofs source rw": what is on top at PATH. */
static void mount_on_top(const char *path, struct mount_at *out)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t cap = 0;

	*out = (struct mount_at){ 0 };
	while (file && getline(&line, &cap, file) > 0) {
		char at[PATH_MAX];
		unsigned dev_minor;
		struct mount_at m = { 0 };
		const char *dash = strstr(line, " - ");
		if (!dash || sscanf(line, "%*u %*u %*u:%u %*s %4095s", &dev_minor, at) != 2 ||
		    sscanf(dash, " - %63s", m.type) != 1)
			continue;
		unescape(at);
		m.minor = dev_minor;
		if (!strcmp(at, path))
			*out = m; /* later lines lie over earlier ones */
	}
	free(line);
	if (file)
		(void)fclose(file);
}

static bool is_ours(const struct nf_front *f, const struct mount_at *m)
{
	return !strncmp(m->type, "fuse.", 5) && !strcmp(m->type + 5, f->opts.subtype);
}

/* --- before -------------------------------------------------------------------------- */

/* Root needs no permission of /etc/fuse.conf. */
static bool may_allow_other(void)
{
	FILE *file = geteuid() ? fopen("/etc/fuse.conf", "re") : NULL;
	char line[256];
	bool found = geteuid() == 0;

	while (file && !found && fgets(line, sizeof line, file)) {
		line[strcspn(line, " \t\r\n#")] = '\0';
		found = !strcmp(line, "user_allow_other");
	}
	if (file)
		(void)fclose(file);
	return found;
}

static int fail_dead(struct nf_front *f, const char *path)
{
	return nf_front_fail(f, -ENOTCONN, "a mount whose daemon has died is left at %s; "
			     "remove it with: fusermount3 -u %s", path, path);
}

static int check_mount_point(struct nf_front *f)
{
	const char *path = f->opts.mount_point;
	struct stat st;
	struct mount_at m;

	if (stat(path, &st)) {
		int e = errno;
		if (e == ENOENT)
			return nf_front_fail(f, -e, "mount point %s does not exist", path);
		if (e == ENOTCONN)
			return fail_dead(f, path);
		return nf_front_fail(f, -e, "mount point %s: %s", path, nf_strerror(-e));
	}
	if (!S_ISDIR(st.st_mode))
		return nf_front_fail(f, -ENOTDIR, "mount point %s is not a directory", path);
	f->mount_point = realpath(path, NULL);
	if (!f->mount_point)
		return nf_front_fail(f, -errno, "mount point %s: %s", path, nf_strerror(-errno));
	mount_on_top(f->mount_point, &m);
	if (!is_ours(f, &m))
		return 0;
	struct statvfs room; /* asks the daemon, where stat(2) is content with what is cached */
	if (statvfs(f->mount_point, &room) && errno == ENOTCONN)
		return fail_dead(f, f->mount_point);
	return nf_front_fail(f, -EBUSY, "%s is already mounted at %s", f->opts.subtype,
			     f->mount_point);
}

int nf_mount_check(struct nf_front *f)
{
	free(f->mount_point);
	f->mount_point = NULL;
	int r = check_mount_point(f);
	if (r)
		return r;
	if (access("/dev/fuse", F_OK))
		return nf_front_fail(f, -ENODEV, "there is no /dev/fuse: the kernel's fuse module is not "
				     "loaded, or this container has no access to it");
	if (f->opts.allow_other && !may_allow_other())
		return nf_front_fail(f, -EPERM, "allow_other is only for root unless /etc/fuse.conf "
				     "has a line user_allow_other");
	if (access("/dev/fuse", R_OK | W_OK))
		return nf_front_fail(f, -errno, "no permission to use /dev/fuse");
	return 0;
}

int nf_mount_do(struct nf_front *f)
{
	errno = 0;
	if (!fuse_session_mount(f->se, f->mount_point))
		return 0;
	/* libfuse keeps the errno of mount(2) only by luck; its message is what counts. */
	return nf_fail(errno > 0 ? -errno : -EIO);
}

/* --- after --------------------------------------------------------------------------- */

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

/* Cuts the connection: every waiting application gets an error, our reads end. */
static void abort_connection(unsigned minor)
{
	char path[64];

	(void)snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/abort", minor);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return; /* fusectl is not mounted: the readers are woken by signal */
	if (write(fd, "1", 1) != 1)
		nf_log(NF_LOG_DEBUG, "connection not aborted: err=%s", nf_error_name(-errno));
	(void)close(fd);
}

/* Dirty pages of shared mappings are known to the kernel only. */
static void flush_kernel(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return; /* nothing more can be got out of it */
	(void)syncfs(fd); /* errors of files were or will be told to their fsync */
	(void)close(fd);
}

static bool unmount_clean(const char *path)
{
	if (!geteuid())
		return !umount2(path, UMOUNT_NOFOLLOW);
	return run((const char *const[]){ "fusermount3", "-u", "-q", "--", path, NULL });
}

static void unmount_busy(const char *path, unsigned minor)
{
	if (!geteuid()) {
		(void)umount2(path, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW);
		return;
	}
	(void)run((const char *const[]){ "fusermount3", "-u", "-q", "-z", "--", path, NULL });
	abort_connection(minor);
}

void nf_mount_end(struct nf_front *f)
{
	struct mount_at m;

	mount_on_top(f->mount_point, &m);
	if (!is_ours(f, &m))
		return; /* gone already, or something lies over it: the readers are woken by signal */
	if (unmount_clean(f->mount_point))
		return;
	nf_log(NF_LOG_WARN, "mount is in use, cutting it off: at=%s", f->mount_point);
	flush_kernel(f->mount_point);
	unmount_busy(f->mount_point, m.minor);
}
