/* Mounts memfs: memfs_main [-d N] [-r READERS] [-o OPTIONS] [-a] [-s SUBTYPE] MOUNTPOINT
 *
 * Stays in the foreground.  Commands on standard input, one a line, each answered by "ok" or an error name:
 *   write NAME BYTES | write-all NAME BYTES | unlink NAME | unlink-all NAME | stats | stop */
#include "memfs.h"

#include "base/counter.h"
#include "base/error.h"
#include "fuse/front.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct nf_front *front;
static struct memfs *mem;

static void on_signal(int sig)
{
	(void)sig;
	nf_front_stop(front);
}

static int command(char *line)
{
	char *save, *verb = strtok_r(line, " \n", &save);
	char *name = strtok_r(NULL, " \n", &save), *bytes = strtok_r(NULL, "\n", &save);

	if (!verb)
		return -NF_E_OPTION;
	bool all = strstr(verb, "-all") != NULL;
	if (!strncmp(verb, "write", 5) && name && bytes)
		return memfs_remote_write(mem, name, bytes, all);
	if (!strncmp(verb, "unlink", 6) && name)
		return memfs_remote_unlink(mem, name, all);
	if (!strcmp(verb, "stats")) {
		struct nf_text t = NF_TEXT_INIT;
		nf_counters_to_text(&t, 0);
		(void)fputs(nf_text_str(&t), stdout);
		nf_text_deinit(&t);
		return 0;
	}
	if (!strcmp(verb, "stop")) {
		nf_front_stop(front);
		return 0;
	}
	return -NF_E_OPTION;
}

static void *commands(void *arg)
{
	char line[512];

	(void)arg;
	while (fgets(line, sizeof line, stdin)) {
		int r = command(line);
		(void)printf("%s\n", r ? nf_error_name(r) : "ok");
		(void)fflush(stdout);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct nf_front_options o = {
		.fsname = "memfs", .subtype = "memfs", .default_permissions = true, .socket_fd = -1,
		.attr_timeout_s = 3600, .entry_timeout_s = 3600, .negative_timeout_s = 3600,
	};
	unsigned defer = 0;
	pthread_t t;
	int c;

	while ((c = getopt(argc, argv, "ad:o:r:s:D")) != -1) {
		switch (c) {
		case 'a': o.allow_other = true; break;
		case 'd': defer = (unsigned)atoi(optarg); break;
		case 'o': o.kernel_opts = optarg; break;
		case 'r': o.readers = (unsigned)atoi(optarg); break;
		case 's': o.subtype = optarg; break;
		case 'D': o.debug = true; break;
		default: return 2;
		}
	}
	o.mount_point = argv[optind];
	if (memfs_new(defer, &mem))
		return 1;
	int r = nf_front_new(&o, memfs_fs(mem), &front);
	if (r) {
		(void)fprintf(stderr, "memfs: %s\n", nf_strerror(r));
		return 1;
	}
	r = nf_front_mount(front);
	if (r) {
		(void)fprintf(stderr, "memfs: %s\n", nf_front_error(front));
		nf_front_free(front);
		memfs_free(mem);
		return 1;
	}
	(void)signal(SIGTERM, on_signal);
	(void)signal(SIGINT, on_signal);
	(void)printf("ready\n");
	(void)fflush(stdout);
	if (pthread_create(&t, NULL, commands, NULL))
		return 1;
	r = nf_front_loop(front);
	(void)pthread_cancel(t); /* it may wait in fgets */
	(void)pthread_join(t, NULL);
	nf_front_free(front);
	memfs_free(mem);
	return r ? 1 : 0;
}
