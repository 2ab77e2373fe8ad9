/* tests/lib/fakekernel.h - the kernel's side of FUSE over a socket pair, and a scripted filesystem.
 *
 * fk_start() makes a front end over a socket and runs its loop; fk_send() speaks as the kernel does;
 * fk_recv() takes the next message.  The filesystem notes each call and hands it to s->answer (default: done with 0),
 * or keeps it when s->hold is set, for fk_held(). */
#ifndef NF_TESTS_FAKEKERNEL_H
#define NF_TESTS_FAKEKERNEL_H

#include "aio/thread.h"
#include "base/lock.h"
#include "base/mem.h"
#include "fuse/front.h"
#include "fuse/wire.h"
#include "suite.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { FK_CALLS_MAX = 64, FK_BYTES_MAX = 1 << 17 };

struct fk {
	struct nf_fs fs;
	struct nf_front *front;
	pthread_t loop;
	int loop_result;
	int sock;
	uint64_t unique;
	bool closed;

	struct nf_lock lock;
	struct nf_cond changed;
	struct nf_call seen;           /* l  the last call, as submitted */
	unsigned nr_seen;              /* l */
	unsigned nr_released;          /* l  RELEASE and RELEASEDIR */
	unsigned nr_interrupts;        /* l */
	struct nf_call *held[FK_CALLS_MAX]; /* l */
	unsigned nr_held;              /* l */
	bool hold;                     /* l */
	bool keep;                     /* l  nf_call_keep_data() on what is held */
	int (*answer)(struct nf_call *c);

	struct fuse_out_header head;   /* of the last message */
	_Alignas(8) uint8_t body[FK_BYTES_MAX];
	size_t body_bytes;
};

static int fk_some_file;

static inline void fk_submit(struct nf_fs *fs, struct nf_call *c)
{
	struct fk *k = nf_container_of(fs, struct fk, fs);

	nf_lock_take(&k->lock);
	bool release = c->op == NF_CALL_RELEASE || c->op == NF_CALL_RELEASEDIR;
	if (release)
		ck_assert_ptr_eq(c->file, (void *)&fk_some_file);
	k->nr_released += release;
	memcpy(&k->seen, c, sizeof *c);
	k->nr_seen++;
	bool hold = k->hold && !release;
	if (hold) {
		ck_assert_uint_lt(k->nr_held, FK_CALLS_MAX);
		if (k->keep)
			ck_assert_int_eq(nf_call_keep_data(c), 0);
		k->held[k->nr_held++] = c;
	}
	nf_cond_broadcast(&k->changed);
	int (*answer)(struct nf_call *) = k->answer;
	nf_lock_drop(&k->lock);
	if (hold)
		return;
	bool opens = c->op == NF_CALL_OPEN || c->op == NF_CALL_OPENDIR || c->op == NF_CALL_CREATE ||
		     c->op == NF_CALL_TMPFILE;
	if (opens)
		c->file = (struct nf_open_file *)(void *)&fk_some_file;
	nf_call_done(c, answer && !release ? answer(c) : 0);
}

static inline void fk_interrupt(struct nf_fs *fs, struct nf_call *c)
{
	struct fk *k = nf_container_of(fs, struct fk, fs);
	bool mine = false;

	nf_lock_take(&k->lock);
	k->nr_interrupts++;
	for (unsigned i = 0; i < k->nr_held; i++) {
		if (k->held[i] == c) {
			k->held[i] = NULL;
			mine = true;
		}
	}
	nf_cond_broadcast(&k->changed);
	nf_lock_drop(&k->lock);
	if (mine)
		nf_call_done(c, -EINTR);
}

static inline void *fk_loop(void *arg)
{
	struct fk *k = arg;

	k->loop_result = nf_front_loop(k->front);
	return NULL;
}

static const struct nf_fs_ops fk_ops = { .submit = fk_submit, .interrupt = fk_interrupt };

/* A session before INIT. */
static inline struct fk *fk_start_raw(unsigned readers)
{
	struct fk *k = calloc(1, sizeof *k);
	int s[2];

	ck_assert_ptr_nonnull(k);
	nf_lock_init(&k->lock, NF_RANK_LEAF);
	nf_cond_init(&k->changed);
	k->fs.ops = &fk_ops;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	k->sock = s[0];
	struct timeval limit = { .tv_sec = 10 };
	ck_assert_int_eq(setsockopt(k->sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
	struct nf_front_options o = {
		.socket_fd = s[1], .default_permissions = true, .readers = readers,
		.attr_timeout_s = 100.5, .entry_timeout_s = 200, .negative_timeout_s = 300,
		.max_write_bytes = 65536,
	};
	ck_assert_int_eq(nf_front_new(&o, &k->fs, &k->front), 0);
	ck_assert_int_eq(nf_front_mount(k->front), 0);
	ck_assert_int_eq(close(s[1]), 0);
	ck_assert_int_eq(nf_thread_start(&k->loop, "loop", fk_loop, k), 0);
	return k;
}

/* UNIQUE of the request sent.  ARG then TAIL. */
static inline uint64_t fk_send2(struct fk *k, uint32_t opcode, uint64_t ino, const void *arg,
				size_t arg_bytes, const void *tail, size_t tail_bytes)
{
	struct fuse_in_header in = {
		.len = (uint32_t)(sizeof in + arg_bytes + tail_bytes), .opcode = opcode,
		.unique = k->unique += 2, .nodeid = ino, .uid = 11, .gid = 22, .pid = 33,
	};
	struct iovec iov[3] = {
		{ &in, sizeof in }, { (void *)(uintptr_t)arg, arg_bytes },
		{ (void *)(uintptr_t)tail, tail_bytes },
	};

	ck_assert_int_eq(writev(k->sock, iov, 3), in.len);
	return in.unique;
}

static inline uint64_t fk_send(struct fk *k, uint32_t opcode, uint64_t ino, const void *arg,
			       size_t arg_bytes)
{
	return fk_send2(k, opcode, ino, arg, arg_bytes, NULL, 0);
}

static inline void fk_recv(struct fk *k)
{
	struct iovec iov[2] = { { &k->head, sizeof k->head }, { k->body, sizeof k->body } };
	ssize_t n = readv(k->sock, iov, 2);

	ck_assert_int_ge(n, sizeof k->head);
	ck_assert_int_eq(n, k->head.len);
	k->body_bytes = (size_t)n - sizeof k->head;
}

/* The answer to UNIQUE, with ERROR as the kernel gets it, and BYTES behind the header. */
static inline void fk_expect(struct fk *k, uint64_t unique, int error, size_t bytes)
{
	fk_recv(k);
	ck_assert_uint_eq(k->head.unique, unique);
	ck_assert_int_eq(k->head.error, error);
	ck_assert_uint_eq(k->body_bytes, bytes);
}

static inline void fk_init(struct fk *k, uint32_t flags, uint32_t flags2)
{
	struct fuse_init_in in = { .major = 7, .minor = 45, .max_readahead = 1 << 20,
				   .flags = flags, .flags2 = flags2 };

	fk_expect(k, fk_send(k, FUSE_INIT, 0, &in, sizeof in), 0, sizeof(struct fuse_init_out));
}

static inline struct fk *fk_start(void)
{
	struct fk *k = fk_start_raw(1);

	fk_init(k, ~UINT32_C(0), ~UINT32_C(0));
	return k;
}

/* Opens INO as the kernel does. */
static inline uint64_t fk_open(struct fk *k, uint64_t ino, uint32_t flags, bool dir)
{
	struct fuse_open_in in = { .flags = flags };
	uint64_t u = fk_send(k, dir ? FUSE_OPENDIR : FUSE_OPEN, ino, &in, sizeof in);

	fk_expect(k, u, 0, sizeof(struct fuse_open_out));
	return ((struct fuse_open_out *)(void *)k->body)->fh;
}

/* Waits for the N-th held call (from 0). */
static inline struct nf_call *fk_held(struct fk *k, unsigned n)
{
	nf_lock_take(&k->lock);
	while (k->nr_held <= n)
		nf_cond_wait(&k->changed, &k->lock);
	struct nf_call *c = k->held[n];
	nf_lock_drop(&k->lock);
	return c;
}

static inline void fk_hold(struct fk *k, bool hold)
{
	nf_lock_take(&k->lock);
	k->hold = hold;
	nf_lock_drop(&k->lock);
}

/* The kernel goes away; the loop ends; its result. */
static inline int fk_join(struct fk *k)
{
	if (!k->closed)
		ck_assert_int_eq(close(k->sock), 0);
	k->closed = true;
	ck_assert_int_eq(pthread_join(k->loop, NULL), 0);
	return k->loop_result;
}

static inline void fk_end(struct fk *k)
{
	nf_front_free(k->front);
	nf_cond_deinit(&k->changed);
	nf_lock_deinit(&k->lock);
	free(k);
}

static inline void fk_stop(struct fk *k)
{
	ck_assert_int_eq(fk_join(k), 0);
	fk_end(k);
}

#endif
