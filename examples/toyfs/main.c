/* toyfs KEYFILE STORE MOUNTPOINT - see toy.h.  KEYFILE holds 32 random bytes; STORE is an empty directory at first.
 *
 * Stays in the foreground and says "ready" when the mount is. */
#include "toy.h"

#include <stdio.h>
#include <string.h>

static void on_ready(void *ctx)
{
	(void)ctx;
	(void)printf("ready\n");
	(void)fflush(stdout);
}

static int fail(const char *what, const char *why)
{
	(void)fprintf(stderr, "toyfs: %s: %s\n", what, why);
	return 1;
}

int main(int argc, char **argv)
{
	struct nf_fuse_options o = { .fsname = "toyfs", .subtype = "toyfs", .ready = on_ready, .attr_timeout_s = 60,
				     .entry_timeout_s = 60, .negative_timeout_s = 60 };
	uint8_t key[TOY_KEY_BYTES];
	struct toy t;
	char why[256];

	if (argc != 4) {
		(void)fprintf(stderr, "usage: toyfs KEYFILE STORE MOUNTPOINT\n");
		return 2;
	}
	FILE *in = fopen(argv[1], "re");
	size_t n = in ? fread(key, 1, sizeof key, in) : 0;
	if (in)
		(void)fclose(in);
	if (n != sizeof key)
		return fail(argv[1], "no key of 32 bytes");
	int r = toy_open(argv[2], key, &t);
	if (r < 0)
		return fail(argv[2], nf_strerror(r));
	o.mount_point = argv[3];
	r = nf_fuse_main(&o, &t.fs, why, sizeof why);
	if (r < 0)
		(void)fail(argv[3], why);
	int e = toy_close(&t);
	if (e < 0)
		(void)fail(argv[2], nf_strerror(e));
	return r < 0 || e < 0 ? 1 : 0;
}
