/* The region as a lock: a writer that is held in the middle of its copy keeps out those who overlap, in the order they
 * came, and nobody else.  Also: when blocks are read before they are written, and how much memory is used. */
#include "toyfile.h"

#include "base/clock.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

/* --- a writer that is held ------------------------------------------------------------------ */

enum { TRAP_BYTES = 8192 };

/* The second page of the source cannot be read until `let_go`: whoever copies from it stands still there. */
static uint8_t *trap;
static atomic_bool caught, let_go;
static struct sigaction before;

static void on_fault(int sig, siginfo_t *si, void *uc)
{
	uint8_t *at = si->si_addr;
	struct timespec ms = { .tv_nsec = 1000000 };

	(void)uc;
	if (at < trap || at >= trap + TRAP_BYTES) {
		sigaction(sig, &before, NULL);
		return;
	}
	atomic_store(&caught, true);
	while (!atomic_load(&let_go))
		nanosleep(&ms, NULL);
	mprotect(trap, TRAP_BYTES, PROT_READ | PROT_WRITE);
}

static void trap_setup(void)
{
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	setup();
	atomic_store(&caught, false);
	atomic_store(&let_go, false);
	trap = mmap(NULL, TRAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(trap, 0x11, TRAP_BYTES);
	mprotect(trap + 4096, 4096, PROT_NONE);
	sigaction(SIGSEGV, &sa, &before);
}

static void trap_teardown(void)
{
	atomic_store(&let_go, true); /* also after a test that failed */
	teardown();
	sigaction(SIGSEGV, &before, NULL);
	munmap(trap, TRAP_BYTES);
}

struct late {
	struct nf_io io;
	struct iovec v;
	uint8_t data[3 * 4096];
	atomic_uint place; /* 0: not done */
};
static atomic_uint nr_done;

static void late_done(struct nf_io *io)
{
	struct late *l = (struct late *)(void *)io;

	ck_assert_int_eq(io->error, 0);
	atomic_store(&l->place, atomic_fetch_add(&nr_done, 1) + 1);
}

static void late_write(struct late *l, uint64_t pos, size_t len, uint8_t v)
{
	memset(l, 0, sizeof *l);
	memset(l->data, v, sizeof l->data);
	l->v = (struct iovec){ l->data, len };
	l->io = (struct nf_io){ .ic = &t->ic, .pos_bytes = pos, .len_bytes = len, .iov = &l->v, .nr_iov = 1,
				.done = late_done };
	nf_write(&l->io);
}

static void *held_writer(void *arg)
{
	ck_assert_int_eq(toy_write(t, *(uint64_t *)arg, trap, TRAP_BYTES), 0);
	atomic_fetch_add(&nr_done, 1);
	return NULL;
}

START_TEST(a_held_writer_keeps_out_only_those_who_overlap_and_they_go_in_order)
{
	static struct late beside, same_block, c, d, e, far;
	uint64_t at = 100;
	pthread_t th;

	cold_file(20 * BLOCK);
	atomic_store(&nr_done, 0);
	pthread_create(&th, NULL, held_writer, &at);
	while (!atomic_load(&caught))
		usleep(1000);
	late_write(&beside, 5 * BLOCK, 4096, 0x21);
	late_write(&same_block, at + TRAP_BYTES, 1000, 0x22);
	late_write(&c, at + 5000, 3 * 4096, 0x23);       /* over the held one */
	late_write(&d, at + TRAP_BYTES + 3000, 100, 0x24); /* over c alone */
	late_write(&e, at, 200, 0x25);                   /* over the held one alone */
	late_write(&far, 10 * BLOCK, 4096, 0x26);
	usleep(20000);
	ck_assert(beside.place && same_block.place && far.place);
	ck_assert(!c.place && !d.place && !e.place);
	ck_assert_int_eq(toy_read(t, 5 * BLOCK, buf, 10), 10);
	ck_assert_uint_eq(buf[0], 0x21);
	atomic_store(&let_go, true);
	pthread_join(th, NULL);
	while (atomic_load(&nr_done) < 7)
		usleep(1000);
	memset(want + at, 0x11, TRAP_BYTES);
	memset(want + 5 * BLOCK, 0x21, 4096);
	memset(want + at + TRAP_BYTES, 0x22, 1000);
	memset(want + at + 5000, 0x23, 3 * 4096);
	memset(want + at + TRAP_BYTES + 3000, 0x24, 100);
	memset(want + at, 0x25, 200);
	memset(want + 10 * BLOCK, 0x26, 4096);
	expect_all();
}
END_TEST

/* The group was closed while it was held: what comes after it in its block waits, so that its group can be stored as
 * it was. */
START_TEST(a_held_writer_keeps_a_younger_group_out_of_its_blocks)
{
	static struct late other, far;
	uint64_t at = 0;
	pthread_t th;

	cold_file(4 * BLOCK);
	atomic_store(&nr_done, 0);
	pthread_create(&th, NULL, held_writer, &at);
	while (!atomic_load(&caught))
		usleep(1000);
	uint64_t group = nf_group_close(&t->ic);
	late_write(&other, TRAP_BYTES + 10, 50, 0x31);
	late_write(&far, 2 * BLOCK, 50, 0x32);
	usleep(20000);
	ck_assert(!other.place && far.place);
	atomic_store(&let_go, true);
	pthread_join(th, NULL);
	while (!other.place)
		usleep(1000);
	struct toy_wait w;
	toy_wait_init(&w, t);
	nf_group_flush(&w.io, group);
	ck_assert_int_eq(toy_wait_end(&w), 0);
	memset(want, 0x11, TRAP_BYTES);
	uint8_t *kept = toy_image_bytes(&t->kept, BLOCK);
	ck_assert_mem_eq(kept, want, 4 * BLOCK);
	free(kept);
	memset(want + TRAP_BYTES + 10, 0x31, 50);
	memset(want + 2 * BLOCK, 0x32, 50);
	expect_all();
}
END_TEST

START_TEST(a_long_line_of_writers_to_one_range_is_served_in_order)
{
	enum { NR = 400 };
	struct late *l = calloc(NR, sizeof *l);
	uint64_t at = 0;
	pthread_t th;

	atomic_store(&nr_done, 0);
	pthread_create(&th, NULL, held_writer, &at);
	while (!atomic_load(&caught))
		usleep(1000);
	for (unsigned i = 0; i < NR; i++)
		late_write(&l[i], i % 5 * 100, 500, (uint8_t)i);
	ck_assert_uint_eq(nr_done, 0);
	atomic_store(&let_go, true);
	pthread_join(th, NULL);
	while (atomic_load(&nr_done) < NR + 1)
		usleep(1000);
	/* Calls may end in another order than they took effect in: what counts is who wrote last. */
	memset(want, 0x11, TRAP_BYTES);
	for (unsigned i = 0; i < NR; i++)
		memset(want + i % 5 * 100, (int)i, 500);
	expect_all();
	free(l);
}
END_TEST

/* --- reading before writing ------------------------------------------------------------------- */

START_TEST(blocks_are_read_only_when_a_part_of_them_is_written)
{
	static const uint32_t sizes[] = { 4096, 16384, 65536, 1 << 20, 4 << 20 };
	uint32_t bb = sizes[_i];
	uint8_t *data = malloc(4 * (size_t)bb), *got = malloc(4 * (size_t)bb);
	struct toy *f = toy_new(96 << 20, bb, 3);

	memset(data, 1, 4 * (size_t)bb);
	for (uint32_t at = 0; at < 2 * bb + bb / 2;) {
		uint32_t n = NF_MIN(2 * bb + bb / 2 - at, 999999u);
		ck_assert_int_eq(toy_write(f, at, data + at, n), 0);
		at += n;
	}
	ck_assert_int_eq(toy_fsync(f), 0);
	ck_assert_uint_eq(f->nr_reads, 0); /* a new file */
	toy_drop_cache(f);
	/* Over a whole block, in pieces, the last first. */
	memset(data + bb, 2, bb);
	ck_assert_int_eq(toy_write(f, bb + bb / 2, data + bb + bb / 2, bb / 2), 0);
	ck_assert_int_eq(toy_write(f, bb, data + bb, 1000), 0);
	ck_assert_int_eq(toy_write(f, bb + 1000, data + bb + 1000, bb / 2 - 1000), 0);
	/* Behind the end, in a block that is not there yet. */
	memset(data + 2 * bb + bb / 2, 0, bb);
	data[3 * (size_t)bb + 5] = 3;
	ck_assert_int_eq(toy_write(f, 3 * (uint64_t)bb + 5, data + 3 * (size_t)bb + 5, 1), 0);
	ck_assert_int_eq(toy_fsync(f), 0);
	ck_assert_uint_eq(f->nr_reads, 0);
	toy_drop_cache(f);
	/* A part of one block: that one is read, once. */
	data[10] = 4;
	ck_assert_int_eq(toy_write(f, 10, data + 10, 1), 0);
	ck_assert_int_eq(toy_fsync(f), 0);
	ck_assert_uint_eq(f->nr_reads, 1);
	/* Now it is known, unless it is larger than a folio: of the other half only the request knew. */
	data[20] = 5;
	ck_assert_int_eq(toy_write(f, 20, data + 20, 1), 0);
	ck_assert_int_eq(toy_fsync(f), 0);
	ck_assert_uint_eq(f->nr_reads, bb > NF_FOLIO_MAX_BYTES ? 2 : 1);
	toy_drop_cache(f);
	for (uint64_t at = 0; at < 3 * (uint64_t)bb + 6; at += 1 << 20)
		ck_assert_int_ge(toy_read(f, at, got + at, NF_MIN(4 * (size_t)bb - at, (size_t)1 << 20)), 0);
	ck_assert_mem_eq(got, data, 3 * (size_t)bb + 6);
	toy_free(f);
	free(data);
	free(got);
}
END_TEST

/* --- memory ------------------------------------------------------------------------------------ */

static size_t resident_bytes(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fscanf(f, "%*u %lu", &pages), 1);
	fclose(f);
	return pages * 4096;
}

/* Sanitizers keep what is freed and a shadow of the rest. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { RESIDENT_COUNTS = 0 };
#else
enum { RESIDENT_COUNTS = 1 };
#endif

static void null_issue(struct nf_subreq *sq)
{
	for (unsigned i = 0; i < sq->nr_blocks && sq->dir == NF_SUBREQ_READ; i++)
		sq->blocks[i].hole = true;
	nf_subreq_terminated(sq, 0);
}

static const struct nf_netfs_ops null_ops = { .name = "null", .issue_read = null_issue, .issue_write = null_issue };

static atomic_bool gone;
static void on_gone(struct nf_ictx *ic)
{
	(void)ic;
	atomic_store(&gone, true);
}

static void until_memory_is_given_back(struct nf_netfs *lib, size_t most_resident)
{
	struct nf_netfs_stats st;
	uint64_t start = nf_clock_ns();

	do {
		usleep(20000);
		nf_netfs_stats(lib, &st);
		ck_assert_msg(nf_clock_ns() - start < UINT64_C(20000000000), "%zu KiB used, %zu resident",
			      st.memory_used_bytes >> 10, resident_bytes() >> 10);
	} while (st.memory_used_bytes || (RESIDENT_COUNTS && resident_bytes() > most_resident));
}

START_TEST(memory_is_given_back_also_after_a_long_time_in_which_nothing_could_be_stored)
{
	t->lib->write_back_ns = 20 * NF_NS_PER_MS; /* four ticks */
	toy_hold(t, true);
	put(0, 512 << 10, 0x31);
	usleep(400000);
	toy_hold(t, false);
	while (nf_is_dirty(&t->ic))
		usleep(1000);
	until_memory_is_given_back(t->lib, SIZE_MAX);
	expect();
}
END_TEST

START_TEST(memory_stays_within_its_limit_and_is_given_back_when_idle)
{
	bool big = getenv("FOLIOFS_LONG");
	size_t limit = (size_t)(big ? 64 : 32) << 20;
	uint64_t total = (uint64_t)(big ? 8192 : 256) << 20;
	struct toy f = { 0 };
	struct nf_netfs_options o = { .memory_bytes = limit, .write_back_ms = 40 };
	struct nf_netfs_stats st;
	static uint8_t piece[1 << 20];
	size_t base = resident_bytes(), most = 0;

#ifdef __GLIBC__
	/* The free end of each thread's heap counts as well; glibc keeps up to 64 MiB of it otherwise. */
	(void)mallopt(M_TRIM_THRESHOLD, 128 << 10);
#endif
	memset(piece, 7, sizeof piece);
	ck_assert_int_eq(nf_netfs_new(&o, &f.lib), 0);
	ck_assert_int_eq(nf_ictx_init(&f.ic, f.lib, &null_ops, 1, 65536, 0, 0), 0);
	for (uint64_t at = 0; at < total; at += sizeof piece) {
		int r = toy_write(&f, at, piece, sizeof piece);
		assert(r == 0);
		nf_netfs_stats(f.lib, &st);
		assert(st.memory_used_bytes <= limit);
		size_t now = resident_bytes();
		most = NF_MAX(most, now);
	}
	fprintf(stderr, "# %llu MiB written with a limit of %zu MiB: %zu MiB resident more than before\n",
		(unsigned long long)(total >> 20), limit >> 20, (most - base) >> 20);
	if (RESIDENT_COUNTS)
		ck_assert_uint_le(most - base, limit + (32 << 20));
	ck_assert_int_eq(toy_fsync(&f), 0);
	until_memory_is_given_back(f.lib, base + (8 << 20));
	atomic_store(&gone, false);
	nf_ictx_deinit(&f.ic, on_gone);
	while (!atomic_load(&gone))
		usleep(1000);
	nf_netfs_free(f.lib);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "parallel", 60);

	tcase_add_checked_fixture(tc, trap_setup, trap_teardown);
	tcase_add_test(tc, a_held_writer_keeps_out_only_those_who_overlap_and_they_go_in_order);
	tcase_add_test(tc, a_held_writer_keeps_a_younger_group_out_of_its_blocks);
	tcase_add_test(tc, a_long_line_of_writers_to_one_range_is_served_in_order);
	tcase_add_test(tc, memory_is_given_back_also_after_a_long_time_in_which_nothing_could_be_stored);
	tc = nf_case(s, "blocks", 600);
	tcase_add_loop_test(tc, blocks_are_read_only_when_a_part_of_them_is_written, 0, 5);
	tcase_add_test(tc, memory_stays_within_its_limit_and_is_given_back_when_idle);
}

NF_SUITE("netfs/parallel")
