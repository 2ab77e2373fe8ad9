/* The queue of the HTTP loop, against a server that takes connections and says
 * nothing. */
#include "foliofs/store.h"

#include "aio/pool.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "suite.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 5, OPS_MAX = 32 };

struct async {
	struct nf_store_op op;
	struct nf_completion done;
	uint8_t body[16];
};

static int listener;
static int accepted[OPS_MAX];
static int nr_accepted;
static struct nf_store *store;
static struct async ops[OPS_MAX];

static void setup(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof a;
	char url[64];
	struct nf_store_options opt = { .connections = CONNECTIONS, .timeout_ms = 20000 };

	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
	ck_assert_int_eq(listen(listener, 64), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&a, &len), 0);
	snprintf(url, sizeof url, "dav://127.0.0.1:%u/", ntohs(a.sin_port));
	ck_assert_int_eq(nf_store_open(url, &opt, false, &store), 0);
	nr_accepted = 0;
}

static void teardown(void)
{
	nf_store_free(store);
	while (nr_accepted)
		close(accepted[--nr_accepted]);
	close(listener);
}

/* Takes connections until none came for QUIET_MS; how many there are now. */
static int connections(int quiet_ms)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };

	while (nr_accepted < OPS_MAX && poll(&p, 1, quiet_ms) == 1)
		accepted[nr_accepted++] = accept(listener, NULL, NULL);
	return nr_accepted;
}

static void on_done(struct nf_store_op *op) { nf_completion_set(&((struct async *)op)->done); }

static void start(int i, enum nf_store_verb verb, enum nf_store_priority priority)
{
	struct async *a = &ops[i];

	a->op = (struct nf_store_op){ .verb = verb, .name = "x", .priority = priority, .done = on_done };
	a->op.buf = a->body;
	if (verb == NF_STORE_GET)
		a->op.length_bytes = sizeof a->body;
	ck_assert_int_eq(nf_completion_init(&a->done), 0);
	nf_store_submit(store, &a->op);
}

static int finish(int i)
{
	nf_completion_wait(&ops[i].done);
	nf_completion_deinit(&ops[i].done);
	return ops[i].op.error;
}

START_TEST(background_never_takes_the_last_two_connections)
{
	for (int i = 0; i < 10; i++)
		start(i, NF_STORE_GET, NF_STORE_BACKGROUND);
	ck_assert_int_eq(connections(300), CONNECTIONS - 2);
	for (int i = 10; i < 20; i++)
		start(i, NF_STORE_GET, i % 2 ? NF_STORE_NORMAL : NF_STORE_FOREGROUND);
	ck_assert_int_eq(connections(300), CONNECTIONS);
	for (int i = 0; i < 20; i++)
		nf_store_cancel(store, &ops[i].op);
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(finish(i), -NF_E_CANCELLED);
}
END_TEST

START_TEST(foreground_overtakes_what_waits)
{
	for (int i = 0; i < CONNECTIONS; i++)
		start(i, NF_STORE_GET, NF_STORE_NORMAL);
	ck_assert_int_eq(connections(300), CONNECTIONS);
	start(CONNECTIONS, NF_STORE_GET, NF_STORE_NORMAL);
	start(CONNECTIONS + 1, NF_STORE_STAT, NF_STORE_FOREGROUND);
	nf_store_cancel(store, &ops[0].op);
	ck_assert_int_eq(finish(0), -NF_E_CANCELLED);
	ck_assert_int_eq(connections(300), CONNECTIONS + 1);
	char head[5] = "";
	ck_assert_int_eq(recv(accepted[CONNECTIONS], head, 4, MSG_WAITALL), 4);
	ck_assert_str_eq(head, "HEAD");
	for (int i = 1; i < CONNECTIONS + 2; i++)
		nf_store_cancel(store, &ops[i].op);
	for (int i = 1; i < CONNECTIONS + 2; i++)
		ck_assert_int_eq(finish(i), -NF_E_CANCELLED);
}
END_TEST

START_TEST(cancelling_ends_an_operation_soon)
{
	uint64_t began_ns = nf_clock_ns();

	start(0, (enum nf_store_verb)_i, NF_STORE_FOREGROUND);
	if (_i % 2)
		connections(100);
	nf_store_cancel(store, &ops[0].op);
	ck_assert_int_eq(finish(0), -NF_E_CANCELLED);
	ck_assert_uint_lt(nf_clock_ns() - began_ns, 5 * NF_NS_PER_S);
}
END_TEST

START_TEST(the_time_limit_of_one_operation_counts)
{
	struct nf_store_op op = { .verb = NF_STORE_LIST, .timeout_ms = 200 };
	uint64_t began_ns = nf_clock_ns();

	ck_assert_int_eq(nf_store_run(store, &op), -NF_E_TIMEOUT);
	ck_assert_uint_lt(nf_clock_ns() - began_ns, 5 * NF_NS_PER_S);
	op = (struct nf_store_op){ .verb = NF_STORE_DELETE, .name = "x", .timeout_ms = 200 };
	ck_assert_int_eq(nf_store_run(store, &op), -NF_E_STORE_UNKNOWN_OUTCOME);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *t = nf_case(s, "queue", 60);

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, background_never_takes_the_last_two_connections);
	tcase_add_test(t, foreground_overtakes_what_waits);
	tcase_add_loop_test(t, cancelling_ends_an_operation_soon, 0, NF_STORE_VERB_NR);
	tcase_add_test(t, the_time_limit_of_one_operation_counts);
}

NF_SUITE("store/dav_queue")
