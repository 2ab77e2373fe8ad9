/* daemon/control_i.h - between the files of the daemon's end of the control socket. */
#ifndef NF_DAEMON_CONTROL_I_H
#define NF_DAEMON_CONTROL_I_H

#include "base/list.h"
#include "base/lock.h"
#include "daemon/control.h"

#include <stdatomic.h>

struct nf_peer {
	struct nf_control *c;
	const struct nf_control_env *env;
	struct nf_list link; /* c->lock */
	int fd;
};

/* What takes a while. l lock */
struct nf_job {
	struct nf_vault *v;
	int (*run)(struct nf_job *j);
	const char *name, *id; /* of a snapshot */
	struct nf_gc_options gc;
	struct nf_gc_result collected;
	void *ctx;             /* what else RUN needs */
	bool pins;             /* the progress is that of what is pinned */
	_Atomic bool stop;
	struct nf_lock lock;
	struct nf_cond changed;
	bool finished; /* l */
	int error;     /* l */
};

/* {"error":R,"message":... without the end. */
void nf_reply_begin(struct nf_text *t, int error);
/* Ends and sends it; false: nobody listens any more. */
bool nf_reply_end(struct nf_peer *p, struct nf_text *t);
bool nf_reply_text(struct nf_peer *p, int error, const char *text);
/* Runs J beside and tells the progress; *OUT is how it ended.  False: nobody listens any more. */
bool nf_run_beside(struct nf_peer *p, struct nf_job *job, int *out);
/* Is the member "format" FORMAT? */
bool nf_wants(const char *line, const char *format);
/* The member KEY, if it is there and not negative. */
void nf_number(const char *line, const char *key, uint64_t *out);

/* control_keep.c: pins and the cache */
bool nf_do_pin(struct nf_peer *p, const char *line);
bool nf_do_pin_wait(struct nf_peer *p, const char *line);
bool nf_do_unpin(struct nf_peer *p, const char *line);
bool nf_do_pins(struct nf_peer *p, const char *line);
bool nf_do_cache_info(struct nf_peer *p, const char *line);
bool nf_do_cache_drop(struct nf_peer *p, const char *line);
bool nf_do_cache_verify(struct nf_peer *p, const char *line);

#endif
