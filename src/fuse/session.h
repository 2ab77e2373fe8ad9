/* fuse/session.h - inside the FUSE edge: the session, its calls, its handles.
 *
 *   kernel --read--> transport.c --checked--> libfuse's decoder --> handlers_*.c
 *                      |  raw answers, INTERRUPT                       | struct nf_call
 *                      v                                               v
 *   kernel <--writev-- transport.c <-- reply.c <-- calls.c <-- nf_call_done() by the filesystem
 *          <--writev-- notify.c (its own thread)
 *
 * Locks: f->lock (letter l) covers calls in flight, spare requests, handles and readers; the
 * notifier has its own (letter n).  Both have rank FUSE and are never held together, nor across
 * a system call or a call into the filesystem. */
#ifndef NF_FUSE_SESSION_H
#define NF_FUSE_SESSION_H

#include "base/list.h"
#include "base/lock.h"
#include "fuse/front.h"
#include "fuse/wire.h"

#include <fuse_lowlevel.h>
#include <stdatomic.h>

enum {
	/* Requests kept for reuse; more in flight than this are allocated and freed. */
	NF_FUSE_SPARE_MAX = 128,
	NF_FUSE_MAX_WRITE_BYTES = 1 << 20,
	NF_FUSE_MAX_BACKGROUND = 64,
	NF_FUSE_READERS_MAX = 16,
	/* A name in a directory, an extended attribute's name. */
	NF_FUSE_NAME_MAX = 255,
	/* Calls still in flight this long after the end of the session are interrupted. */
	NF_FUSE_DRAIN_MS = 10000,
	/* iovecs of one reply; a longer list is gathered into one piece. */
	NF_FUSE_REPLY_IOV_MAX = 1000,
};

/* --- calls ----------------------------------------------------------------------- */

/* One call under way.  Two references: the filesystem's, dropped when it is done, and the
 * submitter's; an interrupt takes a third.
 * I set before submit, then never changed; l f->lock; a atomic; d the thread that completes */
struct nf_request {
	struct nf_call call;
	struct nf_front *f;       /* I */
	fuse_req_t fuse;          /* I  NULL: nobody waits (a RELEASE of our own) */
	uint64_t started_ns;      /* I */
	bool statx;               /* I  GETATTR: answer as STATX */
	uint64_t fh, fh2;         /* I  handles used, 0: none */
	uint8_t *dir_buf;         /* d  READDIR: packed entries */
	size_t dir_bytes;         /* d */
	struct nf_list link;      /* l  f->calls or f->spare */
	atomic_uint refs;         /* a */
	atomic_bool done;         /* a */
};

/* Makes a request for FUSE, the request libfuse is decoding on this thread.  NULL: answered
 * with an error already. */
struct nf_request *nf_request_new(fuse_req_t fuse, enum nf_call_op op, uint64_t ino);
/* Resolves FH of the call's inode into call.file; an unknown one is answered with EBADF, RQ is freed and the
 * result is false. */
bool nf_request_file(struct nf_request *rq, const struct fuse_file_info *fi);
/* The same for the second file of a copy. */
bool nf_request_file2(struct nf_request *rq, const struct fuse_file_info *fi);
/* Copies a name that transport.c has checked. */
void nf_request_name(struct nf_request *rq, const char *name);
void nf_request_name2(struct nf_request *rq, const char *name);
/* Answers with ERROR without asking the filesystem; takes RQ. */
void nf_request_refuse(struct nf_request *rq, int error);
/* Hands RQ to the filesystem. */
void nf_request_submit(struct nf_request *rq);

/* UNIQUE was interrupted; false: no such call (any more, or yet). */
bool nf_calls_interrupt(struct nf_front *f, uint64_t unique);
void nf_calls_interrupt_all(struct nf_front *f);
/* Waits until no call is in flight; see NF_FUSE_DRAIN_MS. */
void nf_calls_drain(struct nf_front *f);
void nf_calls_free_spare(struct nf_front *f);

/* --- handles --------------------------------------------------------------------- */

/* What the kernel holds open.  A handle's number is generation << 32 | index + 1, so that a
 * number that was never given or is used after its RELEASE is refused. */
struct nf_handle {
	uint64_t ino;
	struct nf_open_file *file;
	uint32_t generation;
	uint32_t users; /* calls in flight */
	uint32_t next_free;
	bool used;
	bool dir;
};

/* All under f->lock. */
struct nf_handles {
	struct nf_handle *h;
	uint32_t nr;
	uint32_t cap;
	uint32_t first_free; /* index + 1, 0: none */
	uint32_t nr_used;
};

int nf_handle_add_locked(struct nf_front *f, uint64_t ino, struct nf_open_file *file, bool dir,
			 uint64_t *fh);
/* -EBADF if FH is not a handle of INO. */
int nf_handle_get_locked(struct nf_front *f, uint64_t fh, uint64_t ino, struct nf_open_file **file);
void nf_handle_put_locked(struct nf_front *f, uint64_t fh);
/* Forgets FH and yields its file; -EBADF, -EBUSY while a call uses it. */
int nf_handle_take(struct nf_front *f, uint64_t fh, uint64_t ino, struct nf_open_file **file);
/* Submits a RELEASE for FH on our own account. */
void nf_handle_release(struct nf_front *f, uint64_t fh, uint64_t ino, bool dir);
/* After the last call: releases what the kernel never did. */
void nf_handles_release_all(struct nf_front *f);
/* The inodes that are open, each once or more; malloc'd. */
int nf_handles_inodes(struct nf_front *f, uint64_t **inos, size_t *nr);

/* --- notifications --------------------------------------------------------------- */

/* n under its lock; I set once */
struct nf_notifier {
	struct nf_lock lock;
	struct nf_cond more;
	struct nf_list queue; /* n  of struct notice, oldest first */
	unsigned nr;          /* n */
	bool running;         /* n  the kernel is there to be told */
	bool ending;          /* n */
	bool no_epoch;        /* the thread's: the kernel refused INC_EPOCH */
	pthread_t thread;     /* I */
};

extern const struct nf_notify_ops nf_front_notify_ops;
void nf_notifier_init(struct nf_front *f);
int nf_notifier_start(struct nf_front *f);
/* Calls every done that is left; later ones are called at once. */
void nf_notifier_stop(struct nf_front *f);
void nf_notifier_deinit(struct nf_front *f);

/* --- the session ----------------------------------------------------------------- */

struct nf_reader {
	struct nf_front *f;
	pthread_t thread; /* the loop's: to join; none for the first */
	pthread_t self;   /* l  valid while running */
	bool running;     /* l */
};

/* I set by new or mount; l lock; a atomic */
struct nf_front {
	struct nf_fs *fs;              /* I */
	struct nf_front_options opts;  /* I  strings are ours */
	char *mount_point;             /* I  absolute */
	struct fuse_session *se;       /* I */
	bool over_socket;              /* I */
	bool mounted;                  /* the owner's thread */
	uint32_t max_write_bytes;      /* I */
	int stop_fd;                   /* I  eventfd: written by nf_front_stop() */
	atomic_bool stopping;          /* a  readers leave before the next read */
	atomic_bool stop_asked;        /* a */
	atomic_bool drops_pages;       /* a  see struct nf_call; told at INIT */

	struct nf_lock lock;
	struct nf_cond changed;        /* a call or a reader has gone */
	struct nf_list calls;          /* l  submitted, not done */
	struct nf_list spare;          /* l */
	unsigned nr_spare;             /* l */
	unsigned nr_live;              /* l  requests that exist and are not spare */
	struct nf_handles handles;     /* l */
	struct nf_reader readers[NF_FUSE_READERS_MAX];
	unsigned nr_readers;           /* l */
	unsigned nr_reading;           /* l */
	int loop_error;                /* l */

	struct nf_notifier notifier;
	char error[512];               /* the owner's thread */
};

/* Writes the sentence nf_front_error() gives; returns CODE. */
int nf_front_fail(struct nf_front *f, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* mount.c */
int nf_mount_check(struct nf_front *f);
int nf_mount_do(struct nf_front *f);
/* Ends the mount while requests are still served, so that the kernel can hand over dirty pages:
 * a clean umount if nobody uses it, else the connection is cut and the mount detached. */
void nf_mount_end(struct nf_front *f);

/* transport.c */

/* The request being decoded on this thread: what libfuse's decoder does not pass on. */
struct nf_raw {
	const struct fuse_in_header *in;
	const void *arg;
	uint32_t opcode; /* as the kernel sent it */
};
const struct nf_raw *nf_raw_current(void);
/* Installs our I/O below libfuse on FD. */
int nf_transport_attach(struct nf_front *f, int fd);
/* Serves one reader until the session ends; 0 or -errno. */
int nf_transport_serve(struct nf_front *f);
/* A whole message; 0 or -errno. */
int nf_transport_send(struct nf_front *f, struct iovec *iov, int nr_iov);

/* handlers_*.c */
void nf_handlers_name(struct fuse_lowlevel_ops *ops);
void nf_handlers_attr(struct fuse_lowlevel_ops *ops);
void nf_handlers_file(struct fuse_lowlevel_ops *ops);
void nf_handlers_dir(struct fuse_lowlevel_ops *ops);

/* reply.c: the only place where a code becomes an errno. */

/* Sends RQ's answer; FH for what opens.  -ENOENT: the kernel gave the request up. */
int nf_reply(struct nf_request *rq, int error, uint64_t fh);
int nf_reply_code(fuse_req_t fuse, int error);
/* Answers a request that libfuse never saw. */
void nf_reply_raw(struct nf_front *f, uint64_t unique, int error);
/* handlers_dir.c fills the buffer with entries made here. */
void nf_entry_of(const struct nf_front *f, const struct nf_attr *a, struct fuse_entry_out *out);

#endif
