#include "aio/engine.h"

#include "base/error.h"
#include "base/random.h"
#include "suite.h"
#include "tempdir.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

typedef int new_fn(unsigned depth, struct nf_aio **out);
static new_fn *const makers[] = { nf_aio_new, nf_aio_new_threads };

struct call {
	struct nf_aio_job job;
	struct nf_completion done;
};

static void call_done(struct nf_aio_job *job)
{
	nf_completion_set(&nf_container_of(job, struct call, job)->done);
}

static int run(struct nf_aio *a, struct nf_file *f, int kind, void *buf, size_t len, uint64_t at)
{
	struct call c = { .job = { .file = f,
				   .buf = buf,
				   .len_bytes = len,
				   .offset_bytes = at,
				   .done = call_done } };

	c.job.kind = kind ? NF_AIO_WRITE : NF_AIO_READ;
	ck_assert_int_eq(nf_completion_init(&c.done), 0);
	nf_aio_submit(a, &c.job);
	nf_completion_wait(&c.done);
	nf_completion_deinit(&c.done);
	return c.job.error;
}

static struct nf_file *open_file(const struct nf_tempdir *d, int flags)
{
	struct nf_file *f;

	ck_assert_int_eq(nf_file_real.open(&nf_file_real, nf_tempdir_path(d, "f"), flags, 0600, &f),
			 0);
	return f;
}

START_TEST(both_engines_say_who_they_are)
{
	struct nf_aio *a;

	ck_assert_int_eq(nf_aio_new(0, &a), -EINVAL);
	ck_assert_int_eq(nf_aio_new_threads(0, &a), -EINVAL);
	ck_assert_int_eq(nf_aio_new_threads(4, &a), 0);
	ck_assert_str_eq(nf_aio_name(a), "threads");
	nf_aio_free(a);
	ck_assert_int_eq(nf_aio_new(4, &a), 0);
	ck_assert(strcmp(nf_aio_name(a), "io_uring") == 0 || strcmp(nf_aio_name(a), "threads") == 0);
	printf("# engine: %s\n", nf_aio_name(a));
	nf_aio_free(a);
	nf_aio_free(NULL);
}
END_TEST

START_TEST(a_job_moves_all_its_bytes_or_says_why_not)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_file *f = open_file(&d, O_RDWR | O_CREAT);
	size_t len = 3 << 20;
	char *out = malloc(len), *in = malloc(len);
	struct nf_aio *a;

	for (size_t i = 0; i < len; i++)
		out[i] = (char)(i * 31 >> 3);
	ck_assert_int_eq(makers[_i](8, &a), 0);
	ck_assert_int_eq(run(a, f, 1, out, len, 4097), 0);
	ck_assert_int_eq(run(a, f, 0, in, len, 4097), 0);
	ck_assert_mem_eq(in, out, len);
	ck_assert_int_eq(run(a, f, 0, in, 0, 0), 0);
	/* The file ends in the middle: a short read, and then nothing. */
	ck_assert_int_eq(run(a, f, 0, in, 100, 4097 + len - 50), -NF_E_XFORM_TRUNCATED);
	struct nf_file *ro = open_file(&d, O_RDONLY);
	ck_assert_int_eq(run(a, ro, 1, out, 10, 0), -EBADF);
	nf_aio_free(a);
	nf_file_real.close(ro);
	nf_file_real.close(f);
	free(in);
	free(out);
}
END_TEST

/* A chain: each job, when done, submits its successor. */
struct chain {
	struct nf_aio_job job;
	struct nf_aio *a;
	atomic_int *done;
	int left;
	uint64_t value;
};

static void chain_done(struct nf_aio_job *job)
{
	struct chain *c = nf_container_of(job, struct chain, job);

	ck_assert_int_eq(job->error, 0);
	atomic_fetch_add(c->done, 1);
	if (--c->left == 0)
		return;
	if (job->kind == NF_AIO_READ) {
		c->value++;
		job->kind = NF_AIO_WRITE;
	} else {
		job->kind = NF_AIO_READ;
	}
	nf_aio_submit(c->a, job);
}

START_TEST(more_jobs_than_the_depth_all_finish_and_free_waits_for_chains)
{
	enum { NR = 200, STEPS = 21 };
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_file *f = open_file(&d, O_RDWR | O_CREAT);
	static struct chain c[NR];
	atomic_int done = 0;
	struct nf_aio *a;

	ck_assert_int_eq(makers[_i](4, &a), 0);
	for (int i = 0; i < NR; i++) {
		c[i] = (struct chain){ .a = a, .done = &done, .left = STEPS };
		c[i].job = (struct nf_aio_job){ .kind = NF_AIO_WRITE,
						.file = f,
						.buf = &c[i].value,
						.len_bytes = sizeof c[i].value,
						.offset_bytes = (uint64_t)i * 8,
						.done = chain_done };
		nf_aio_submit(a, &c[i].job);
	}
	nf_aio_free(a);
	ck_assert_int_eq(done, NR * STEPS);
	for (int i = 0; i < NR; i++) {
		uint64_t v;
		ck_assert_int_eq(nf_file_real.pread(f, &v, 8, (uint64_t)i * 8, NULL), 0);
		ck_assert_uint_eq(v, (STEPS - 1) / 2);
	}
	nf_file_real.close(f);
}
END_TEST

struct feeder {
	pthread_t t;
	struct nf_aio *a;
	struct nf_file *f;
	unsigned seed;
};

static void *feed(void *arg)
{
	struct feeder *fd = arg;
	struct nf_prng rng;
	uint8_t out[3000], in[3000];

	nf_prng_seed(&rng, fd->seed);
	for (int i = 0; i < 60; i++) {
		size_t len = 1 + nf_prng_below(&rng, sizeof out);
		uint64_t at = fd->seed * 8192 + nf_prng_below(&rng, 5000);
		memset(out, (int)nf_prng_below(&rng, 256), len);
		if (run(fd->a, fd->f, 1, out, len, at) != 0 ||
		    run(fd->a, fd->f, 0, in, len, at) != 0 || memcmp(in, out, len) != 0)
			return fd;
	}
	return NULL;
}

START_TEST(many_threads_may_submit_at_once)
{
	nf_auto_tempdir d = nf_tempdir_new();
	struct nf_file *f = open_file(&d, O_RDWR | O_CREAT);
	struct feeder fd[6];
	struct nf_aio *a;
	void *bad;

	ck_assert_int_eq(makers[_i](2, &a), 0);
	for (unsigned i = 0; i < NF_ARRAY_LEN(fd); i++) {
		fd[i] = (struct feeder){ .a = a, .f = f, .seed = i };
		ck_assert_int_eq(pthread_create(&fd[i].t, NULL, feed, &fd[i]), 0);
	}
	for (unsigned i = 0; i < NF_ARRAY_LEN(fd); i++) {
		pthread_join(fd[i].t, &bad);
		ck_assert_ptr_null(bad);
	}
	nf_aio_free(a);
	nf_file_real.close(f);
}
END_TEST

/* A file with no descriptor, as test tables have. */
static int fake_pread(struct nf_file *f, void *buf, size_t len, uint64_t offset_bytes, size_t *got)
{
	(void)f;
	memset(buf, (int)offset_bytes, len);
	*got = len;
	return 0;
}

START_TEST(a_file_without_a_descriptor_goes_through_its_table)
{
	static const struct nf_file_ops fake = { .name = "fake", .pread = fake_pread };
	struct nf_file f = { .ops = &fake, .fd = -1 };
	struct nf_aio *a;
	char b[3] = { 0 };

	ck_assert_int_eq(makers[_i](2, &a), 0);
	ck_assert_int_eq(run(a, &f, 0, b, 3, 7), 0);
	ck_assert_int_eq(b[2], 7);
	nf_aio_free(a);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "engine", 30);
	int nr = NF_ARRAY_LEN(makers);

	tcase_add_test(tc, both_engines_say_who_they_are);
	tcase_add_loop_test(tc, a_job_moves_all_its_bytes_or_says_why_not, 0, nr);
	tcase_add_loop_test(tc, more_jobs_than_the_depth_all_finish_and_free_waits_for_chains, 0, nr);
	tcase_add_loop_test(tc, many_threads_may_submit_at_once, 0, nr);
	tcase_add_loop_test(tc, a_file_without_a_descriptor_goes_through_its_table, 0, nr);
}

NF_SUITE("aio/engine")
