/* How fast writes get into the page cache, by how many threads at once, and what a long list of regions costs.
 * Over a filesystem that stores nothing and answers at once. */
#include "base/clock.h"
#include "base/mem.h"
#include "foliofs/netfs.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WRITE_BYTES = 128 << 10, BLOCK = 65536, PLAIN_BYTES = 128 << 20 };

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
	uint64_t span;
	char *plain;          /* without ic: copied to here, for comparison */
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

/* Its bytes, round and round in a part of the file of its own. */
static void *run(void *arg)
{
	struct job *j = arg;
	char *buf = malloc(WRITE_BYTES);

	memset(buf, 1, WRITE_BYTES);
	for (uint64_t at = 0; at < j->bytes; at += WRITE_BYTES)
		if (j->ic)
			write_at(j, j->start + at % j->span, buf, WRITE_BYTES);
		else
			memcpy(j->plain + j->start + at % j->span, buf, WRITE_BYTES);
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

/* Bytes per second with NR threads, each in a part of SPAN bytes of its own of one file; or into PLAIN memory. */
static double throughput(struct nf_netfs *lib, char *plain, unsigned nr, uint64_t span, uint64_t total)
{
	struct nf_ictx ic;
	struct job jobs[4];

	if (nf_ictx_init(&ic, lib, &ops, 1, BLOCK, 0, 0) < 0)
		abort();
	uint64_t start = nf_clock_ns();
	for (unsigned i = 0; i < nr; i++) {
		job_init(&jobs[i], plain ? NULL : &ic);
		jobs[i].plain = plain;
		jobs[i].bytes = total / nr;
		jobs[i].span = NF_MIN(span, jobs[i].bytes);
		jobs[i].start = i * jobs[i].span;
		pthread_create(&jobs[i].thread, NULL, run, &jobs[i]);
	}
	for (unsigned i = 0; i < nr; i++)
		pthread_join(jobs[i].thread, NULL);
	double s = (double)(nf_clock_ns() - start) / 1e9;
	job_init(&jobs[0], &ic);
	finish(&jobs[0], &ic);
	return (double)total / s;
}

/* What 2 and 4 writers of one file reach together, as many times what one does; the best of ROUNDS, in turns, and beside it
 * what the same threads reach that copy to memory and do nothing else: more than that cannot be had here. */
static void parallel(struct nf_netfs *lib, char *plain, uint64_t span, uint64_t total, const char *where)
{
	enum { ROUNDS = 15 };
	double best[3][2] = { { 0 } };

	for (unsigned i = 0; i < ROUNDS; i++)
		for (unsigned n = 0; n < 3; n++)
			for (unsigned p = 0; p < 2; p++) {
				double got = throughput(lib, p ? plain : NULL, 1u << n, span, total);
				best[n][p] = NF_MAX(best[n][p], got);
			}
	printf("write %s, 1 thread: %.0f MB/s (memcpy: %.0f)\n", where, best[0][0] / 1e6, best[0][1] / 1e6);
	for (unsigned n = 1; n < 3; n++)
		printf("write %s, %u threads: %.2f times that (memcpy: %.2f)\n", where, 1u << n, best[n][0] / best[0][0],
		       best[n][1] / best[0][1]);
}

enum { FILE_REGIONS = 100000, SPACING = 1000, BATCH = 20, BATCHES = 101 };

static void fsync_now(struct job *j)
{
	struct nf_io io = { 0 };

	call(j, &io, nf_fsync);
}

/* The whole file in memory and stored, in folios of a page: backwards, so that nobody takes it for a stream. */
static void fill_cache(struct job *j)
{
	uint64_t bytes = (uint64_t)FILE_REGIONS * SPACING;
	char page[4096];

	memset(page, 1, sizeof page);
	for (uint64_t at = (bytes + sizeof page - 1) / sizeof page; at-- > 0;)
		write_at(j, at * sizeof page, page, sizeof page);
	fsync_now(j);
}

/* A file of which all is in memory, with dirty regions here and there. */
struct bed {
	struct nf_ictx ic;
	struct job j;
	uint64_t ns[BATCHES];
};

static struct bed *bed_new(struct nf_netfs *lib, unsigned nr_regions)
{
	struct bed *b = calloc(1, sizeof *b);
	char some[16] = { 1 };

	if (!b || nf_ictx_init(&b->ic, lib, &ops, 1, 4096, 0, 0) < 0)
		abort();
	job_init(&b->j, &b->ic);
	fill_cache(&b->j);
	for (unsigned i = 0; i < nr_regions; i++)
		write_at(&b->j, (uint64_t)i * (FILE_REGIONS / nr_regions) * SPACING, some, sizeof some);
	return b;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double median_ns(struct bed *b)
{
	qsort(b->ns, BATCHES, sizeof b->ns[0], by_size);
	return (double)b->ns[BATCHES / 2] / BATCH;
}

static void bed_free(struct bed *b)
{
	finish(&b->j, &b->ic);
	free(b);
}

static void batch(struct bed *b, unsigned nr, unsigned among)
{
	char some[16] = { 1 };
	uint64_t start = nf_clock_ns();

	for (unsigned i = nr * BATCH; i < (nr + 1) * BATCH; i++) {
		uint64_t place = (FILE_REGIONS - among) / 2 + i * 7919ull % among;
		write_at(&b->j, place * SPACING + 500, some, sizeof some);
	}
	b->ns[nr] = nf_clock_ns() - start;
}

/* What one more write of 16 bytes costs beside 100,000 dirty regions and beside 100 of them, in turns.  The two files are of
 * one size and all of both is in memory; the places are the same, one of AMONG in the middle of the file.  So what differs
 * is what the regions cost, not what it costs to touch memory that no cache of the processor holds. */
static void compare(struct nf_netfs *lib, unsigned among, const char *where)
{
	struct bed *few = bed_new(lib, 100), *many = bed_new(lib, FILE_REGIONS);

	for (unsigned i = 0; i < BATCHES; i++) {
		batch(few, i, among);
		batch(many, i, among);
	}
	double ns = median_ns(few);
	printf("a write %s, beside 100 regions: %.0f ns; beside 100,000: %.2f times that\n", where, ns, median_ns(many) / ns);
	bed_free(few);
	bed_free(many);
}

int main(void)
{
	struct nf_netfs_options o = { .memory_bytes = (size_t)512 << 20, .write_back_ms = 600000 };
	struct nf_netfs *lib;

	if (nf_netfs_new(&o, &lib) < 0)
		return 1;
	char *plain = malloc(PLAIN_BYTES);
	if (!plain)
		return 1;
	memset(plain, 1, PLAIN_BYTES);
	(void)throughput(lib, NULL, 1, PLAIN_BYTES, PLAIN_BYTES); /* the arena's pages are there afterwards */
	parallel(lib, plain, PLAIN_BYTES, PLAIN_BYTES, "through 128 MiB");
	parallel(lib, plain, 512 << 10, (uint64_t)2 << 30, "over 512 KiB each");
	free(plain);
	compare(lib, 100, "at one of 100 places");
	compare(lib, FILE_REGIONS, "anywhere");
	nf_netfs_free(lib);
	return 0;
}
