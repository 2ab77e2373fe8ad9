/* Whether it pays to give the kernel what a block has beyond what was asked for (FUSE_NOTIFY_STORE): a mount of one file
 * whose blocks of 256 KiB are in memory, read with and without, in turns.  `notify_store FOLDER` prints milliseconds, medians
 * of ROUNDS, and how often the kernel asked. */
#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 256 << 10, INO = 2, ROUNDS = 7, QUEUE = 8192 };
static const uint64_t file_bytes = UINT64_C(512) << 20;

static struct fuse_session *se;
static char block[BLOCK];
static atomic_bool offers;
static atomic_uint asked;
static atomic_bool offered[(UINT64_C(512) << 20) / BLOCK];
static struct { off_t from, to; } queue[QUEUE];
static atomic_uint in, out;
static sem_t more;

static void attr(fuse_ino_t ino, struct stat *st)
{
	*st = (struct stat){ .st_ino = ino, .st_nlink = 1, .st_mode = ino == INO ? S_IFREG | 0644 : S_IFDIR | 0755,
			     .st_size = ino == INO ? (off_t)file_bytes : 0 };
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { .ino = INO, .attr_timeout = 3600, .entry_timeout = 3600 };

	(void)parent;
	attr(INO, &e.attr);
	(void)(strcmp(name, "f") ? fuse_reply_err(req, ENOENT) : fuse_reply_entry(req, &e));
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	attr(ino, &st);
	(void)fuse_reply_attr(req, &st, 3600);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fuse_reply_open(req, fi);
}

static void offer(off_t from, off_t to)
{
	if (from >= to)
		return;
	queue[atomic_fetch_add(&in, 1) % QUEUE] = (__typeof__(queue[0])){ from, to };
	(void)sem_post(&more);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	off_t start = off / BLOCK * BLOCK, end = off + (off_t)size;

	(void)ino;
	(void)fi;
	atomic_fetch_add(&asked, 1);
	struct iovec v[16] = { 0 };
	int nr = 0;
	for (size_t at = 0; at < size && nr < 16; at += v[nr++].iov_len)
		v[nr] = (struct iovec){ block, size - at < BLOCK ? size - at : BLOCK };
	(void)fuse_reply_iov(req, v, nr);
	/* The block was opened whole; once is enough. */
	if (atomic_load(&offers) && !atomic_exchange(&offered[start / BLOCK], true)) {
		offer(start, off);
		offer(end, start + BLOCK);
	}
}

/* Not on the thread that answers: the kernel holds pages locked meanwhile. */
static void *offering(void *arg)
{
	(void)arg;
	for (;;) {
		(void)sem_wait(&more);
		unsigned i = atomic_fetch_add(&out, 1) % QUEUE;
		size_t len = (size_t)(queue[i].to - queue[i].from);
		struct fuse_bufvec b = FUSE_BUFVEC_INIT(len);
		b.buf[0].mem = block;
		(void)fuse_lowlevel_notify_store(se, INO, queue[i].from, &b, 0);
	}
	return NULL;
}

static void *serving(void *arg)
{
	struct fuse_loop_config *c = fuse_loop_cfg_create();

	(void)arg;
	(void)fuse_session_loop_mt(se, c);
	fuse_loop_cfg_destroy(c);
	return NULL;
}

static double now_ms(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* NR random pages of the first BYTES; 0: all of BYTES in order. */
static double read_file(const char *path, uint64_t bytes, unsigned nr, unsigned *nr_asked)
{
	static char buf[128 << 10];
	int fd = open(path, O_RDONLY);
	unsigned seed = 1;

	(void)fuse_lowlevel_notify_inval_inode(se, INO, 0, 0);
	memset((void *)offered, 0, sizeof offered);
	atomic_store(&asked, 0);
	double start = now_ms();
	for (unsigned i = 0; i < nr; i++)
		if (pread(fd, buf, 4096, (off_t)((uint64_t)rand_r(&seed) % (bytes / 4096) * 4096)) != 4096)
			abort();
	for (uint64_t at = 0; nr == 0 && at < bytes; at += sizeof buf)
		if (pread(fd, buf, sizeof buf, (off_t)at) != sizeof buf)
			abort();
	double ms = now_ms() - start;
	*nr_asked = atomic_load(&asked);
	while (atomic_load(&out) != atomic_load(&in))
		usleep(1000);
	(void)close(fd);
	return ms;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void measure(const char *path, const char *what, uint64_t bytes, unsigned nr)
{
	double ms[2][ROUNDS];
	unsigned n[2];

	for (unsigned i = 0; i < ROUNDS; i++)
		for (unsigned k = 0; k < 2; k++) {
			atomic_store(&offers, k == 1);
			ms[k][i] = read_file(path, bytes, nr, &n[k]);
		}
	qsort(ms[0], ROUNDS, sizeof(double), by_value);
	qsort(ms[1], ROUNDS, sizeof(double), by_value);
	printf("%s: without %.1f ms (%u requests), with %.1f (%u): %.2f times as fast\n", what, ms[0][ROUNDS / 2], n[0],
	       ms[1][ROUNDS / 2], n[1], ms[0][ROUNDS / 2] / ms[1][ROUNDS / 2]);
}

int main(int argc, char **argv)
{
	static const struct fuse_lowlevel_ops ops = { .lookup = do_lookup, .getattr = do_getattr, .open = do_open,
						      .read = do_read };
	char *opts[] = { argv[0] };
	struct fuse_args args = FUSE_ARGS_INIT(1, opts);
	pthread_t th[2];
	char path[4096];

	if (argc != 2)
		return 2;
	se = fuse_session_new(&args, &ops, sizeof ops, NULL);
	if (!se || fuse_session_mount(se, argv[1]))
		return 1;
	(void)sem_init(&more, 0, 0);
	(void)pthread_create(&th[0], NULL, serving, NULL);
	(void)pthread_create(&th[1], NULL, offering, NULL);
	(void)snprintf(path, sizeof path, "%s/f", argv[1]);
	measure(path, "4,096 random pages of 64 MiB, 16 in a block", UINT64_C(64) << 20, 4096);
	measure(path, "4,096 random pages of 512 MiB, 2 in a block", file_bytes, 4096);
	measure(path, "256 random pages of 512 MiB", file_bytes, 256);
	measure(path, "128 MiB in order", UINT64_C(128) << 20, 0);
	fuse_session_unmount(se);
	(void)fflush(stdout);
	_exit(0);
}
