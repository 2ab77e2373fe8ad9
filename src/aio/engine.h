/* aio/engine.h - reads and writes of local files that complete later.
 *
 * Two implementations behind one header: io_uring (engine_uring.c, one ring, one
 * reaping thread) and a pool of threads (engine_threads.c) where io_uring is
 * absent or refused by the kernel, or where the file belongs to a test table
 * (fd == -1).  A job is the caller's struct; done is called exactly once on the
 * engine's thread, with no lock held, possibly before submit returns. */
#ifndef NF_AIO_ENGINE_H
#define NF_AIO_ENGINE_H

#include "aio/file.h"
#include "aio/pool.h"

struct nf_aio;

struct nf_aio_job {
	/* Set by the caller. */
	enum { NF_AIO_READ, NF_AIO_WRITE } kind;
	struct nf_file *file; /* borrowed until done */
	void *buf;
	size_t len_bytes;
	uint64_t offset_bytes;
	void (*done)(struct nf_aio_job *job);
	void *ctx;
	/* Set before done: 0, -errno, or -NF_E_XFORM_TRUNCATED for a read past the end. */
	int error;
	/* The engine's. */
	struct nf_aio *aio;
	struct nf_work work;
	size_t moved_bytes;
};

/* DEPTH: jobs the kernel holds at once; more are queued. */
int nf_aio_new(unsigned depth, struct nf_aio **out);
/* Threads also where io_uring would do. */
int nf_aio_new_threads(unsigned depth, struct nf_aio **out);
/* Waits for what is in flight, and what its done callbacks submit.  NULL allowed. */
void nf_aio_free(struct nf_aio *a);
void nf_aio_submit(struct nf_aio *a, struct nf_aio_job *job);
/* "io_uring" or "threads". */
const char *nf_aio_name(const struct nf_aio *a);

#endif
