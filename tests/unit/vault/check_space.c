/* Who waits for room on the disk, who does not, and how it ends.  A vault with its threads; the disk says what the test wants. */
#include "aio/file.h"
#include "store/fault.h"
#include "store/link.h"
#include "vfs.h"
#include "vault/commit.h"
#include "vault/space.h"

#include <stdatomic.h>
#include <time.h>

static atomic_bool full;
/* The journal's segments: whoever removes one waits while it is held; what is full is not any more when one has gone. */
static atomic_bool held;
static atomic_uint at_gate, to_fail;

static int room(const struct nf_file_ops *o, const char *path, struct nf_file_room *out)
{
	int r = nf_file_real.room(o, path, out);

	if (full)
		out->free_bytes = 0;
	return r;
}

static void take_a_nap(void)
{
	struct timespec t = { .tv_nsec = 5000000 };

	(void)nanosleep(&t, NULL);
}

static int unlink_held(const struct nf_file_ops *o, const char *path)
{
	if (!strstr(path, "/journal/"))
		return nf_file_real.unlink(o, path);
	at_gate++;
	while (held)
		take_a_nap();
	if (to_fail && to_fail--)
		return -EIO;
	int r = nf_file_real.unlink(o, path);
	full = false;
	return r;
}

/* WAIT_MS: without progress.  What is written goes to the store within a tenth of a second or so, if that takes it. */
static struct vfs mount_it(const struct vfs_site *s, struct nf_file_ops *files, uint32_t wait_ms, bool manual, struct nf_store **fault)
{
	char cache[200], state[200];
	struct nf_vault_options o = vfs_options(s, "a", cache, state);
	struct vfs m;

	*files = nf_file_real;
	files->room = room;
	files->unlink = unlink_held;
	full = held = false;
	at_gate = to_fail = 0;
	*fault = o.store;
	o.files = files;
	o.no_threads = false;
	o.write_back_ms = 50;
	o.poll_ms = 1000;
	o.manual = manual;
	o.room_wait_ms = wait_ms;
	ck_assert_int_eq(nf_vault_open(&o, &m.v), 0);
	m.fs = nf_vault_fs(m.v);
	return m;
}

static void disk_is_full(struct vfs *m, bool is)
{
	full = is;
	nf_room_ask(m->v->room);
}

/* A call that somebody else than this thread ends. */
struct later {
	struct nf_call c;
	atomic_bool done;
	int error;
};

static void later_done(struct nf_call *c, int error)
{
	struct later *l = nf_container_of(c, struct later, c);

	l->error = error;
	l->done = true;
}

static void begin(struct vfs *m, struct later *l)
{
	l->c.done = later_done;
	m->fs->ops->submit(m->fs, &l->c);
}

static int end(struct later *l)
{
	while (!l->done)
		take_a_nap();
	free(l->c.kept);
	l->c.kept = NULL;
	return l->error;
}

static void in_line(struct vfs *m, unsigned nr)
{
	while (atomic_load(&m->v->room_line) != nr)
		take_a_nap();
}

START_TEST(a_writer_waits_while_the_store_may_take_something_and_goes_on_when_there_is_room)
{
	struct nf_file_ops files;
	struct vfs_site s;
	struct nf_store *fault;
	struct nf_open_file *f;
	uint64_t ino;
	char data[] = "what waits";
	vfs_site_init(&s, "fault+", "");
	struct vfs m = mount_it(&s, &files, 600000, false, &fault);

	ck_assert_int_eq(vfs_open(&m, "/f", O_RDWR | O_CREAT, 0644, &f, &ino), 0);
	ck_assert_int_eq(nf_store_fault_set(fault, "status=507:1&verbs=put"), 0);
	ck_assert_int_eq(vfs_puts(&m, "/pending", "not sent yet"), 0);
	disk_is_full(&m, true);
	struct later w = { .c = { .op = NF_CALL_WRITE, .ino = ino, .file = f, .data = data, .size = sizeof data } };
	struct later k = { .c = { .op = NF_CALL_MKDIR, .ino = 1, .mode = 0755, .name = "d" } };
	struct later u = { .c = { .op = NF_CALL_MKDIR, .ino = 1, .mode = 0755, .name = "never" } };
	begin(&m, &w);
	begin(&m, &k);
	begin(&m, &u);
	memset(data, 'x', sizeof data); /* it was borrowed */
	in_line(&m, 3);
	/* Who only looks is not held up; who gives up is let go. */
	ck_assert_int_eq(vfs_checks(&m, "/pending", "not sent yet"), 0);
	m.fs->ops->interrupt(m.fs, &u.c);
	ck_assert_int_eq(end(&u), -EINTR);
	in_line(&m, 2);
	ck_assert(!w.done && !k.done);
	disk_is_full(&m, false);
	ck_assert_int_eq(end(&w), 0);
	ck_assert_int_eq(end(&k), 0);
	ck_assert_uint_eq(w.c.count, sizeof data);
	ck_assert_int_eq(vfs_check(&m, "/f", "what waits", sizeof data), 0);
	ck_assert_int_eq(nf_store_fault_set(fault, ""), 0);
	vfs_close(&m, f, ino);
	ck_assert_int_eq(vfs_sync(&m), 0);
	nf_space_tidy(m.v); /* now and then the account is told of what was written */
	ck_assert_uint_eq(nf_room_claimed(m.v->room), 0);
	vfs_unmount(&m);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(who_waited_in_vain_is_told_and_then_everybody_at_once_until_something_was_sent)
{
	struct nf_file_ops files;
	struct vfs_site s;
	struct nf_store *fault;
	vfs_site_init(&s, "fault+", "");
	struct vfs m = mount_it(&s, &files, 200, false, &fault);

	ck_assert_int_eq(nf_store_fault_set(fault, "status=507:1&verbs=put"), 0);
	ck_assert_int_eq(vfs_puts(&m, "/pending", "not sent yet"), 0);
	disk_is_full(&m, true);
	ck_assert_int_eq(vfs_mkdir(&m, "/d"), -NF_E_FULL);
	ck_assert(m.v->room_in_vain);
	m.v->room_wait_ms = 600000; /* nobody waits any more */
	ck_assert_int_eq(vfs_mkdir(&m, "/d"), -NF_E_FULL);
	ck_assert_int_eq(vfs_checks(&m, "/pending", "not sent yet"), 0);
	ck_assert_int_eq(nf_store_fault_set(fault, ""), 0);
	ck_assert_int_eq(vfs_sync(&m), 0);
	disk_is_full(&m, false);
	ck_assert_int_eq(vfs_mkdir(&m, "/d"), 0);
	vfs_unmount(&m);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(where_nothing_is_sent_nobody_waits)
{
	struct nf_file_ops files;
	struct vfs_site s;
	struct nf_store *fault;
	struct nf_call st = { .op = NF_CALL_STATFS, .ino = 1 };
	vfs_site_init(&s, "fault+", "");
	struct vfs m = mount_it(&s, &files, 600000, true, &fault);

	ck_assert_int_eq(vfs_puts(&m, "/pending", "not sent yet"), 0);
	disk_is_full(&m, true);
	ck_assert_int_eq(vfs_mkdir(&m, "/d"), -NF_E_FULL);
	ck_assert_int_eq(vfs_call(&m, &st), 0);
	ck_assert_uint_eq(st.statfs.free_bytes, 0);
	disk_is_full(&m, false);
	ck_assert_int_eq(vfs_mkdir(&m, "/d"), 0);
	vfs_unmount(&m);
	vfs_site_deinit(&s);
}
END_TEST

static bool all_is_confirmed(struct vfs *m)
{
	nf_lock_take(&m->v->ns);
	bool is = nf_commit_target(m->v) == 0;
	nf_lock_drop(&m->v->ns);
	return is;
}

/* Everything is on the server, and the journal still has it.  _i: 0 it is about to be given back; 1 the first try fails. */
START_TEST(who_comes_between_a_confirmation_and_the_room_it_gives_back_waits_for_that)
{
	struct nf_file_ops files;
	struct vfs_site s;
	struct nf_store *fault;
	vfs_site_init(&s, "fault+", "");
	struct vfs m = mount_it(&s, &files, 600000, false, &fault);

	ck_assert_int_eq(vfs_sync(&m), 0);
	held = true;
	to_fail = (unsigned)_i;
	ck_assert_int_eq(vfs_puts(&m, "/sent", "on the server soon"), 0);
	while (at_gate == 0 || !all_is_confirmed(&m))
		take_a_nap();
	disk_is_full(&m, true);
	struct later w = { .c = { .op = NF_CALL_MKDIR, .ino = 1, .mode = 0755, .name = "d" } };
	begin(&m, &w);
	for (int i = 0; i < 40 && !w.done; i++)
		take_a_nap();
	ck_assert(!w.done);
	held = false;
	ck_assert_int_eq(end(&w), 0);
	vfs_unmount(&m);
	vfs_site_deinit(&s);
}
END_TEST

START_TEST(who_was_told_to_be_offline_is_so_when_the_answer_comes)
{
	struct nf_link_options lo = { .probe_min_ms = 50, .probe_max_ms = 200, .probe_timeout_ms = 2000,
				      .any = true };
	char cache[200], state[200];
	struct vfs_site s;
	struct vfs m;
	vfs_site_init(&s, "", "");
	struct nf_vault_options o = vfs_options(&s, "a", cache, state);

	o.no_threads = false;
	ck_assert_int_eq(nf_link_new(o.store, &lo, &o.store), 0);
	ck_assert_int_eq(nf_vault_open(&o, &m.v), 0);
	m.fs = nf_vault_fs(m.v);
	for (int i = 0; i < 50; i++) {
		ck_assert_int_eq(nf_vault_hold(m.v, true), 0);
		nf_lock_take(&m.v->ns);
		bool away = m.v->away && nf_space_left(m.v) != UINT64_MAX;
		nf_lock_drop(&m.v->ns);
		ck_assert_msg(away, "turn %d", i);
		ck_assert_int_eq(nf_vault_hold(m.v, false), 0);
		ck_assert_int_eq(nf_link_settle(m.v->link, nf_clock_ns() + 30 * NF_NS_PER_S), NF_LINK_CONNECTED);
	}
	vfs_unmount(&m);
	vfs_site_deinit(&s);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "space", 60);

	tcase_add_test(tc, a_writer_waits_while_the_store_may_take_something_and_goes_on_when_there_is_room);
	tcase_add_test(tc, who_waited_in_vain_is_told_and_then_everybody_at_once_until_something_was_sent);
	tcase_add_test(tc, where_nothing_is_sent_nobody_waits);
	tcase_add_test(tc, who_was_told_to_be_offline_is_so_when_the_answer_comes);
	tcase_add_loop_test(tc, who_comes_between_a_confirmation_and_the_room_it_gives_back_waits_for_that, 0, 2);
}

NF_SUITE("vault/space")
