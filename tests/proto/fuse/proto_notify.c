#include "fakekernel.h"

#include <stdatomic.h>
#include <string.h>

/* The notifier's thread is held in a `done` so that what is queued meanwhile stays queued. */
struct gate {
	struct nf_lock lock;
	struct nf_cond changed;
	bool inside, open;
};

static void gate_wait(void *arg)
{
	struct gate *g = arg;

	nf_lock_take(&g->lock);
	g->inside = true;
	nf_cond_broadcast(&g->changed);
	while (!g->open)
		nf_cond_wait(&g->changed, &g->lock);
	nf_lock_drop(&g->lock);
}

static void gate_open(struct gate *g)
{
	nf_lock_take(&g->lock);
	g->open = true;
	nf_cond_broadcast(&g->changed);
	nf_lock_drop(&g->lock);
}

static const struct fuse_notify_inval_inode_out *next_inode(struct fk *k)
{
	fk_recv(k);
	ck_assert_uint_eq(k->head.unique, 0);
	ck_assert_int_eq(k->head.error, FUSE_NOTIFY_INVAL_INODE);
	ck_assert_uint_eq(k->body_bytes, sizeof(struct fuse_notify_inval_inode_out));
	return (void *)k->body;
}

static void expect_inode(struct fk *k, uint64_t ino, int64_t off, int64_t len)
{
	const struct fuse_notify_inval_inode_out *n = next_inode(k);

	ck_assert_uint_eq(n->ino, ino);
	ck_assert_int_eq(n->off, off);
	ck_assert_int_eq(n->len, len);
}

static void expect_entry(struct fk *k, uint64_t ino, const char *name)
{
	const struct fuse_notify_inval_entry_out *n = (void *)k->body;

	fk_recv(k);
	ck_assert_uint_eq(k->head.unique, 0);
	ck_assert_int_eq(k->head.error, FUSE_NOTIFY_INVAL_ENTRY);
	ck_assert_uint_eq(n->parent, ino);
	ck_assert_uint_eq(n->namelen, strlen(name));
	ck_assert_uint_eq(k->body_bytes, sizeof *n + strlen(name) + 1);
	ck_assert_str_eq((const char *)(n + 1), name);
}

static void expect_epoch(struct fk *k)
{
	fk_recv(k);
	ck_assert_uint_eq(k->head.unique, 0);
	ck_assert_int_eq(k->head.error, NF_WIRE_NOTIFY_INC_EPOCH);
	ck_assert_uint_eq(k->body_bytes, 0);
}

static void gate_init(struct gate *g)
{
	*g = (struct gate){ 0 };
	nf_lock_init(&g->lock, NF_RANK_LEAF);
	nf_cond_init(&g->changed);
}

/* After this the notifier stands in the gate. */
static void gate_close(struct fk *k, struct gate *g)
{
	gate_init(g);
	k->fs.notify->inval_inode(k->fs.notify_ctx, 99, -1, 0, gate_wait, g);
	expect_inode(k, 99, -1, 0);
	nf_lock_take(&g->lock);
	while (!g->inside)
		nf_cond_wait(&g->changed, &g->lock);
	nf_lock_drop(&g->lock);
}

static void gate_deinit(struct gate *g)
{
	nf_cond_deinit(&g->changed);
	nf_lock_deinit(&g->lock);
}

static void count(void *arg) { atomic_fetch_add((atomic_int *)arg, 1); }

static void inval(struct fk *k, uint64_t ino, int64_t off, int64_t len, atomic_int *n)
{
	k->fs.notify->inval_inode(k->fs.notify_ctx, ino, off, len, n ? count : NULL, n);
}

static void inval_entry(struct fk *k, uint64_t ino, const char *name)
{
	k->fs.notify->inval_entry(k->fs.notify_ctx, ino, name, strlen(name));
}

START_TEST(notices_reach_the_kernel_as_they_are)
{
	struct fk *k = fk_start();

	inval(k, 7, 4096, 100, NULL);
	expect_inode(k, 7, 4096, 100);
	inval(k, 7, 4096, 0, NULL);
	expect_inode(k, 7, 4096, 0);
	inval(k, 7, 10, INT64_MAX, NULL);
	expect_inode(k, 7, 10, 0);
	inval(k, 7, -1, 0, NULL);
	expect_inode(k, 7, -1, 0);
	k->fs.notify->inval_entry(k->fs.notify_ctx, 1, "name-and-more", 4);
	expect_entry(k, 1, "name");
	fk_stop(k);
}
END_TEST

START_TEST(what_touches_is_told_once_and_every_done_is_called)
{
	struct fk *k = fk_start();
	struct gate g;
	atomic_int done = 0;

	gate_close(k, &g);
	inval(k, 7, 0, 100, &done);
	inval(k, 8, 0, 100, &done);
	inval(k, 7, 100, 100, &done);   /* adjacent */
	inval(k, 7, -1, 0, &done);      /* attributes go with any range */
	inval(k, 7, 50, 500, &done);    /* overlapping */
	inval(k, 8, 5000, 1, &done);    /* apart */
	inval_entry(k, 1, "same");
	inval_entry(k, 1, "same");
	inval_entry(k, 1, "other");
	inval(k, 9, -1, 0, &done);
	inval(k, 9, 30, 10, &done);     /* a range takes the attributes along */
	gate_open(&g);
	expect_inode(k, 7, 0, 550);
	expect_inode(k, 8, 0, 100);
	expect_inode(k, 8, 5000, 1);
	expect_entry(k, 1, "same");
	expect_entry(k, 1, "other");
	expect_inode(k, 9, 30, 10);
	ck_assert_int_eq(fk_join(k), 0);
	ck_assert_int_eq(done, 8);
	gate_deinit(&g);
	fk_end(k);
}
END_TEST

START_TEST(everything_stale_means_names_and_what_is_open)
{
	struct fk *k = fk_start();

	(void)fk_open(k, 50, 0, false);
	(void)fk_open(k, 60, 0, true);
	k->fs.notify->inval_all(k->fs.notify_ctx);
	expect_epoch(k);
	expect_inode(k, FUSE_ROOT_ID, 0, 0);
	expect_inode(k, 50, 0, 0);
	expect_inode(k, 60, 0, 0);
	fk_stop(k);
}
END_TEST

START_TEST(too_many_notices_become_one)
{
	struct fk *k = fk_start();
	struct gate g;
	atomic_int done = 0;

	gate_close(k, &g);
	for (uint64_t i = 0; i < 65537; i++)
		inval(k, 1000 + i, 0, 0, i % 1000 ? NULL : &done);
	inval(k, 5, -1, 0, NULL); /* after it, still by itself */
	gate_open(&g);
	expect_epoch(k);
	expect_inode(k, FUSE_ROOT_ID, 0, 0);
	expect_inode(k, 5, -1, 0);
	ck_assert_int_eq(fk_join(k), 0);
	ck_assert_int_eq(done, 66);
	gate_deinit(&g);
	fk_end(k);
}
END_TEST

START_TEST(done_is_called_also_when_nobody_is_left_to_tell)
{
	struct fk *k = fk_start();
	struct gate g;
	atomic_int done = 0;

	gate_close(k, &g);
	for (uint64_t i = 0; i < 100; i++)
		inval(k, 1000 + i, 0, 0, &done);
	ck_assert_int_eq(close(k->sock), 0);
	k->closed = true;
	gate_open(&g);
	ck_assert_int_eq(fk_join(k), 0);
	ck_assert_int_eq(done, 100);
	inval(k, 7, 0, 0, &done); /* after the end: at once */
	ck_assert_int_eq(done, 101);
	gate_deinit(&g);
	fk_end(k);
}
END_TEST

struct pusher {
	struct fk *k;
	atomic_int *done;
};

static void *push(void *arg)
{
	struct pusher *p = arg;

	for (int i = 0; i < 2000; i++)
		inval(p->k, (uint64_t)(i % 7), i * 10, 5, p->done);
	return NULL;
}

START_TEST(any_thread_may_give_notice)
{
	struct fk *k = fk_start();
	atomic_int done = 0;
	struct pusher p = { k, &done };
	pthread_t t[3];

	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(nf_thread_start(&t[i], "push", push, &p), 0);
	while (done < 6000) {
		if (recv(k->sock, k->body, sizeof k->body, MSG_DONTWAIT) < 0)
			(void)usleep(100);
	}
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
	fk_stop(k);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "notify", 60);

	tcase_add_test(tc, notices_reach_the_kernel_as_they_are);
	tcase_add_test(tc, what_touches_is_told_once_and_every_done_is_called);
	tcase_add_test(tc, everything_stale_means_names_and_what_is_open);
	tcase_add_test(tc, too_many_notices_become_one);
	tcase_add_test(tc, done_is_called_also_when_nobody_is_left_to_tell);
	tcase_add_test(tc, any_thread_may_give_notice);
}

NF_SUITE("fuse/notify")
