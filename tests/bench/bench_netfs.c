/* How fast writes get into the page cache, and what a long list of regions costs.
 * Over a filesystem that stores nothing and answers at once. */
#include "base/clock.h"
#include "foliofs/netfs.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WRITE_BYTES = 128 << 10, BLOCK = 65536 };

static void issue(struct nf_subreq *sq)
{
	for (unsigned i = 0; i < sq->nr_blocks && sq->dir == NF_SUBREQ_READ; i++)
		sq->blocks[i].hole = true;
	nf_subreq_terminated(sq, 0);
}

static const struct nf_netfs_ops ops = { .name = "null", .issue_read = issue, .issue_write = issue };

struct job {
	pthread_t thread;
	struct nf_ictx *ic;
	uint64_t start;
	uint64_t bytes;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int done;
};

static void on_done(struct nf_io *io)
{
	struct job *j = io->ctx;

	if (io->error)
		abort();
	pthread_mutex_lock(&j->lock);
	j->done = 1;
	pthread_cond_signal(&j->cond);
	pthread_mutex_unlock(&j->lock);
}

static void call(struct job *j, struct nf_io *io, void (*fn)(struct nf_io *))
{
	io->ic = j->ic;
	io->ctx = j;
	io->done = on_done;
	j->done = 0;
	fn(io);
	pthread_mutex_lock(&j->lock);
	while (!j->done)
		pthread_cond_wait(&j->cond, &j->lock);
	pthread_mutex_unlock(&j->lock);
}

static void write_at(struct job *j, uint64_t pos, void *buf, size_t len)
{
	struct iovec v = { buf, len };
	struct nf_io io = { .pos_bytes = pos, .len_bytes = len, .iov = &v, .nr_iov = 1 };

	call(j, &io, nf_write);
}

static void job_init(struct job *j, struct nf_ictx *ic)
{
	*j = (struct job){ .ic = ic };
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->cond, NULL);
}

static void *run(void *arg)
{
	struct job *j = arg;
	char *buf = malloc(WRITE_BYTES);

	memset(buf, 1, WRITE_BYTES);
	for (uint64_t at = 0; at < j->bytes; at += WRITE_BYTES)
		write_at(j, j->start + at, buf, WRITE_BYTES);
	free(buf);
	return NULL;
}

static atomic_bool gone;
static void on_gone(struct nf_ictx *ic)
{
	(void)ic;
	atomic_store(&gone, true);
}

static void finish(struct job *j, struct nf_ictx *ic)
{
	struct nf_io io = { 0 };

	call(j, &io, nf_fsync);
	atomic_store(&gone, false);
	nf_ictx_deinit(ic, on_gone);
	while (!atomic_load(&gone))
		usleep(1000);
}

/* Bytes per second with NR threads, each in a part of its own of one file. */
static double throughput(struct nf_netfs *lib, unsigned nr)
{
	struct nf_ictx ic;
	struct job jobs[4];
	uint64_t total = 128 << 20;

	if (nf_ictx_init(&ic, lib, &ops, 1, BLOCK, 0, 0) < 0)
		abort();
	uint64_t start = nf_clock_ns();
	for (unsigned i = 0; i < nr; i++) {
		job_init(&jobs[i], &ic);
		jobs[i].bytes = total / nr;
		jobs[i].start = i * jobs[i].bytes;
		pthread_create(&jobs[i].thread, NULL, run, &jobs[i]);
	}
	for (unsigned i = 0; i < nr; i++)
		pthread_join(jobs[i].thread, NULL);
	double s = (double)(nf_clock_ns() - start) / 1e9;
	finish(&jobs[0], &ic);
	return (double)total / s;
}

/* Nanoseconds of one more write of 16 bytes, in a file of NR dirty regions, at one of AMONG places in its middle.  With
 * few places it is the cost of the structures, with many that of memory no cache holds. */
static double cost(struct nf_netfs *lib, unsigned nr, unsigned among)
{
	struct nf_ictx ic;
	struct job j;
	char b[16] = { 1 };
	enum { SAMPLES = 2000 };

	if (nf_ictx_init(&ic, lib, &ops, 1, 4096, 0, 0) < 0)
		abort();
	job_init(&j, &ic);
	for (unsigned i = 0; i < nr; i++)
		write_at(&j, i * 1000ull, b, sizeof b);
	uint64_t start = nf_clock_ns();
	for (unsigned i = 0; i < SAMPLES; i++)
		write_at(&j, ((nr - among) / 2 + i * 7919ull % among) * 1000 + 500, b, sizeof b);
	double ns = (double)(nf_clock_ns() - start) / SAMPLES;
	finish(&j, &ic);
	return ns;
}

int main(void)
{
	struct nf_netfs_options o = { .memory_bytes = (size_t)512 << 20, .write_back_ms = 600000 };
	struct nf_netfs *lib;

	if (nf_netfs_new(&o, &lib) < 0)
		return 1;
	(void)throughput(lib, 1); /* the arena's pages are there afterwards */
	double one = throughput(lib, 1);
	printf("write, 1 thread: %.0f MB/s\n", one / 1e6);
	for (unsigned n = 2; n <= 4; n *= 2)
		printf("write, %u threads: %.2f times that\n", n, throughput(lib, n) / one);
	double few = cost(lib, 100, 100);
	printf("a write beside 100 regions: %.0f ns\n", few);
	printf("a write beside 100,000, the same places: %.2f times that\n", cost(lib, 100000, 100) / few);
	printf("a write beside 100,000, anywhere: %.2f times that\n", cost(lib, 100000, 100000) / few);
	nf_netfs_free(lib);
	return 0;
}
