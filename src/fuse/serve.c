/* The whole front end in one call, for filesystems outside of this tree. */
#include "fuse/front.h"

#include "base/error.h"
#include "base/mem.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

static const int ends[] = { SIGTERM, SIGINT, SIGHUP };

static struct nf_front *_Atomic served; /* what a signal stops */

static void on_signal(int sig)
{
	struct nf_front *f = atomic_load(&served);

	(void)sig;
	if (f)
		nf_front_stop(f);
}

static int serve(struct nf_front *f, const struct nf_fuse_options *o)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, old[NF_ARRAY_LEN(ends)];

	atomic_store(&served, f);
	for (size_t i = 0; i < NF_ARRAY_LEN(ends); i++)
		(void)sigaction(ends[i], &sa, &old[i]);
	if (o->ready)
		o->ready(o->ctx);
	int r = nf_front_loop(f);
	for (size_t i = 0; i < NF_ARRAY_LEN(ends); i++)
		(void)sigaction(ends[i], &old[i], NULL);
	atomic_store(&served, NULL);
	return r;
}

int nf_fuse_main(const struct nf_fuse_options *o, struct nf_fs *fs, char *why, size_t why_bytes)
{
	struct nf_front_options front = {
		.mount_point = o->mount_point, .fsname = o->fsname, .subtype = o->subtype,
		.kernel_opts = o->mount_options, .read_only = fs->read_only, .allow_other = o->allow_other,
		.default_permissions = true, .socket_fd = -1, .attr_timeout_s = o->attr_timeout_s,
		.entry_timeout_s = o->entry_timeout_s, .negative_timeout_s = o->negative_timeout_s,
	};
	struct nf_front *f = NULL;

	int r = nf_front_new(&front, fs, &f);
	const char *said = nf_strerror(r);
	if (r == 0) {
		r = nf_front_mount(f);
		said = nf_front_error(f);
	}
	if (r == 0) {
		r = serve(f, o);
		said = r < 0 ? nf_strerror(r) : "";
	}
	if (why && why_bytes)
		(void)snprintf(why, why_bytes, "%s", r < 0 ? said : "");
	if (f)
		nf_front_free(f);
	return r;
}
