/* Telling the kernel what is stale.
 *
 * INVAL_INODE takes page locks and writes dirty pages of mappings back, INVAL_ENTRY takes the directory's
 * lock: both may wait for answers that our readers must give.  So notices are queued and sent by a
 * thread of their own.  Order is kept between notices of one inode; a new one is merged into the last of
 * its inode when they touch and it is among the newest LOOK_BACK.
 *
 * Bound: beyond QUEUE_MAX the queue becomes one notice that everything is stale, and what waited for
 * single ones waits for that.
 *
 * "Everything": INC_EPOCH (kernel 6.16) makes every name be looked up again, which drops inodes that are not
 * open; those that are open are invalidated one by one. Older kernels have no such message: there
 * the root's attributes and open files are refreshed, names last until their time-out. */
#include "fuse/session.h"

#include "aio/thread.h"
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/trace.h"

enum {
	LOOK_BACK = 16,
	QUEUE_MAX = 65536,
};

struct waiter {
	struct waiter *next;
	void (*done)(void *arg);
	void *arg;
};

struct notice {
	struct nf_list link;
	enum { NOTICE_INODE, NOTICE_ENTRY, NOTICE_ALL } kind;
	bool data;             /* NOTICE_INODE: with the pages of [start, end) */
	uint64_t ino;
	int64_t start, end;
	struct waiter *waiters;
	size_t name_len;
	char name[];           /* NOTICE_ENTRY, with NUL */
};

/* --- sending ------------------------------------------------------------------------- */

static int send_notice(struct nf_front *f, int code, struct iovec *iov, int nr_iov)
{
	struct fuse_out_header h = { .error = code };

	iov[0] = (struct iovec){ &h, sizeof h };
	for (int i = 0; i < nr_iov; i++)
		h.len += (uint32_t)iov[i].iov_len;
	nf_count(NF_C_FUSE_NOTIFY, 1);
	int r = nf_transport_send(f, iov, nr_iov);
	/* ENOENT: the kernel has nothing cached of it. */
	return r == -ENOENT ? 0 : r;
}

static int send_inode(struct nf_front *f, uint64_t ino, int64_t offset, int64_t len)
{
	struct fuse_notify_inval_inode_out out = { .ino = ino, .off = offset, .len = len };
	struct iovec iov[2] = { [1] = { &out, sizeof out } };

	return send_notice(f, FUSE_NOTIFY_INVAL_INODE, iov, 2);
}

static int send_entry(struct nf_front *f, const struct notice *n)
{
	struct fuse_notify_inval_entry_out out = {
		.parent = n->ino, .namelen = (uint32_t)n->name_len,
	};
	struct iovec iov[3] = {
		[1] = { &out, sizeof out },
		[2] = { (void *)(uintptr_t)n->name, n->name_len + 1 },
	};

	return send_notice(f, FUSE_NOTIFY_INVAL_ENTRY, iov, 3);
}

static int send_epoch(struct nf_front *f)
{
	struct iovec iov[1];

	if (f->notifier.no_epoch)
		return 0;
	int r = send_notice(f, NF_WIRE_NOTIFY_INC_EPOCH, iov, 1);
	if (r != -EINVAL && r != -ENOSYS)
		return r;
	nf_log(NF_LOG_WARN, "this kernel cannot drop all names at once, they last until their time-out");
	f->notifier.no_epoch = true;
	return 0;
}

static int send_all(struct nf_front *f)
{
	nf_auto_free uint64_t *inos = NULL;
	size_t nr;
	int r = send_epoch(f);

	if (!r)
		r = send_inode(f, FUSE_ROOT_ID, 0, 0);
	if (!r)
		r = nf_handles_inodes(f, &inos, &nr);
	for (size_t i = 0; !r && i < nr; i++)
		r = send_inode(f, inos[i], 0, 0);
	return r;
}

static int send_one(struct nf_front *f, const struct notice *n)
{
	switch (n->kind) {
	case NOTICE_INODE:
		if (!n->data)
			return send_inode(f, n->ino, -1, 0);
		return send_inode(f, n->ino, n->start, n->end == INT64_MAX ? 0 : n->end - n->start);
	case NOTICE_ENTRY:
		return send_entry(f, n);
	case NOTICE_ALL:
		return send_all(f);
	}
	return 0;
}

static void call_waiters(struct waiter *w)
{
	while (w) {
		struct waiter *next = w->next;
		w->done(w->arg);
		free(w);
		w = next;
	}
}

static void notice_end(struct notice *n)
{
	call_waiters(n->waiters);
	free(n);
}

/* --- the queue ----------------------------------------------------------------------- */

/* Takes the waiters of FROM behind those of TO. */
static void move_waiters(struct notice *to, struct waiter **from)
{
	struct waiter **at = &to->waiters;

	while (*at)
		at = &(*at)->next;
	*at = nf_steal(from);
}

static bool merge_inode(struct notice *old, struct notice *n)
{
	if (n->data && old->data && (n->start > old->end || old->start > n->end))
		return false;
	if (n->data) {
		old->start = old->data ? NF_MIN(old->start, n->start) : n->start;
		old->end = old->data ? NF_MAX(old->end, n->end) : n->end;
		old->data = true;
	}
	return true;
}

static bool merge(struct notice *old, struct notice *n)
{
	if (old->kind != n->kind)
		return false;
	if (n->kind == NOTICE_ENTRY)
		return n->name_len == old->name_len && !memcmp(n->name, old->name, n->name_len);
	return n->kind == NOTICE_ALL || merge_inode(old, n);
}

static bool merge_locked(struct nf_notifier *nt, struct notice *n)
{
	struct nf_list *at = nt->queue.prev;

	for (int i = 0; i < LOOK_BACK && at != &nt->queue; i++, at = at->prev) {
		struct notice *old = nf_list_entry(at, struct notice, link);
		if (old->ino != n->ino && old->kind != NOTICE_ALL)
			continue;
		if (!merge(old, n))
			return false;
		move_waiters(old, &n->waiters);
		return true;
	}
	return false;
}

/* The queue is full: N becomes the one notice that everything is stale. */
static void collapse_locked(struct nf_notifier *nt, struct notice *n)
{
	struct waiter *own = nf_steal(&n->waiters);

	nf_list_for_each_safe(old, &nt->queue, struct notice, link) {
		move_waiters(n, &old->waiters);
		nf_list_del(&old->link);
		free(old);
	}
	move_waiters(n, &own);
	n->kind = NOTICE_ALL;
	n->ino = 0;
	nt->nr = 0;
}

/* Takes N. */
static void add(struct nf_front *f, struct notice *n)
{
	struct nf_notifier *nt = &f->notifier;

	nf_lock_take(&nt->lock);
	bool there = nt->running;
	bool merged = there && merge_locked(nt, n);
	if (there && !merged) {
		if (nt->nr >= QUEUE_MAX)
			collapse_locked(nt, n);
		nf_list_add_tail(&nt->queue, &n->link);
		nt->nr++;
		nf_cond_signal(&nt->more);
	}
	nf_lock_drop(&nt->lock);
	if (merged)
		free(n);
	else if (!there)
		notice_end(n);
}

static void *notifier_main(void *arg)
{
	struct nf_front *f = arg;
	struct nf_notifier *nt = &f->notifier;

	nf_lock_take(&nt->lock);
	for (;;) {
		while (nf_list_empty(&nt->queue) && !nt->ending)
			nf_cond_wait(&nt->more, &nt->lock);
		if (nf_list_empty(&nt->queue))
			break;
		struct notice *n = nf_list_first(&nt->queue, struct notice, link);
		bool tell = !nt->ending;
		nf_list_del(&n->link);
		nt->nr--;
		nf_lock_drop(&nt->lock);
		int r = tell ? send_one(f, n) : 0;
		/* ENODEV and the like: the session ends, nobody is left with old pages. */
		if (r && r != -ENODEV && r != -ENOTCONN && r != -EPIPE && r != -ECONNRESET)
			nf_log(NF_LOG_WARN, "kernel refused a notice: ino=%llu err=%s",
			       (unsigned long long)n->ino, nf_error_name(r));
		notice_end(n);
		nf_lock_take(&nt->lock);
	}
	nt->running = false;
	nf_lock_drop(&nt->lock);
	return NULL;
}

/* --- what the filesystem calls -------------------------------------------------------- */

static struct notice *notice_new(int kind, uint64_t ino, size_t name_len)
{
	struct notice *n = calloc(1, sizeof *n + name_len + 1);

	if (n) {
		n->kind = kind;
		n->ino = ino;
		n->name_len = name_len;
		nf_list_init(&n->link);
	}
	return n;
}

static bool add_waiter(struct notice *n, void (*done)(void *arg), void *arg)
{
	struct waiter *w = malloc(sizeof *w);

	if (!w)
		return false;
	*w = (struct waiter){ .next = n->waiters, .done = done, .arg = arg };
	n->waiters = w;
	return true;
}

/* Staleness that cannot be told is worse than a short wait for memory. */
static void out_of_memory(uint64_t ino)
{
	nf_log(NF_LOG_ERROR, "out of memory, the kernel keeps stale data until its time-out: ino=%llu",
	       (unsigned long long)ino);
}

static void inval_inode(void *ctx, uint64_t ino, int64_t offset, int64_t len,
			void (*done)(void *arg), void *arg)
{
	struct notice *n = notice_new(NOTICE_INODE, ino, 0);

	if (!n || (done && !add_waiter(n, done, arg))) {
		free(n);
		out_of_memory(ino);
		if (done)
			done(arg);
		return;
	}
	n->data = offset >= 0;
	if (n->data) {
		n->start = offset;
		n->end = len <= 0 || len > INT64_MAX - offset ? INT64_MAX : offset + len;
	}
	add(ctx, n);
}

static void inval_entry(void *ctx, uint64_t ino, const char *name, size_t name_len)
{
	struct notice *n = notice_new(NOTICE_ENTRY, ino, name_len);

	if (!n) {
		out_of_memory(ino);
		return;
	}
	memcpy(n->name, name, name_len);
	add(ctx, n);
}

static void inval_all(void *ctx)
{
	struct notice *n = notice_new(NOTICE_ALL, 0, 0);

	if (!n) {
		out_of_memory(0);
		return;
	}
	add(ctx, n);
}

const struct nf_notify_ops nf_front_notify_ops = {
	.inval_inode = inval_inode,
	.inval_entry = inval_entry,
	.inval_all = inval_all,
};

/* --- life ---------------------------------------------------------------------------- */

void nf_notifier_init(struct nf_front *f)
{
	nf_lock_init(&f->notifier.lock, NF_RANK_FUSE);
	nf_cond_init(&f->notifier.more);
	nf_list_init(&f->notifier.queue);
}

int nf_notifier_start(struct nf_front *f)
{
	struct nf_notifier *nt = &f->notifier;

	nf_lock_take(&nt->lock);
	NF_ASSERT(!nt->running);
	nt->running = true;
	nt->ending = false;
	nf_lock_drop(&nt->lock);
	int r = nf_thread_start(&nt->thread, "nf-fuse-notify", notifier_main, f);
	if (r) {
		nf_lock_take(&nt->lock);
		nt->running = false;
		nf_lock_drop(&nt->lock);
	}
	return r;
}

void nf_notifier_stop(struct nf_front *f)
{
	struct nf_notifier *nt = &f->notifier;

	nf_lock_take(&nt->lock);
	nt->ending = true;
	nf_cond_signal(&nt->more);
	nf_lock_drop(&nt->lock);
	(void)pthread_join(nt->thread, NULL);
}

void nf_notifier_deinit(struct nf_front *f)
{
	struct nf_notifier *nt = &f->notifier;

	NF_ASSERT(nf_list_empty(&nt->queue));
	nf_cond_deinit(&nt->more);
	nf_lock_deinit(&nt->lock);
}
