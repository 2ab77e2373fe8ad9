/* vault/call.c - running the calls of the FUSE edge.
 *
 *   submit -> handler under the namespace lock
 *        0 or error      -> done
 *        NF_TREE_WANT    -> fetch the nodes, run the handler again from the start
 *        NF_CALL_PENDING -> the handler has started something that ends or re-runs the call
 *
 * Handlers look first and change afterwards, so running one again is harmless.  What must outlive one
 * run (nodes met, a reference to a file, an I/O under way) hangs on the call's struct nf_run.
 *
 * Before the first run there must be room for what may come of it (space.c).
 *
 * Interrupts: a call of a kind that changes nothing is answered at once; its run lives on without the
 * call until what it waits for ends.  Others only while they wait for room, before anything was done. */
#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "pagecache/region.h"
#include "vault/space.h"

nf_handler *const nf_handlers[NF_CALL_NR] = {
	[NF_CALL_LOOKUP] = nf_do_lookup,
	[NF_CALL_GETATTR] = nf_do_getattr,
	[NF_CALL_SETATTR] = nf_do_setattr,
	[NF_CALL_READLINK] = nf_do_readlink,
	[NF_CALL_MKNOD] = nf_do_create,
	[NF_CALL_MKDIR] = nf_do_create,
	[NF_CALL_UNLINK] = nf_do_unlink,
	[NF_CALL_RMDIR] = nf_do_unlink,
	[NF_CALL_SYMLINK] = nf_do_create,
	[NF_CALL_RENAME] = nf_do_rename,
	[NF_CALL_LINK] = nf_do_link,
	[NF_CALL_CREATE] = nf_do_create,
	[NF_CALL_TMPFILE] = nf_do_tmpfile,
	[NF_CALL_OPEN] = nf_do_open,
	[NF_CALL_RELEASE] = nf_do_release,
	[NF_CALL_READ] = nf_do_read,
	[NF_CALL_WRITE] = nf_do_write,
	[NF_CALL_FLUSH] = nf_do_flush,
	[NF_CALL_FSYNC] = nf_do_fsync,
	[NF_CALL_OPENDIR] = nf_do_opendir,
	[NF_CALL_READDIR] = nf_do_readdir,
	[NF_CALL_RELEASEDIR] = nf_do_releasedir,
	[NF_CALL_FSYNCDIR] = nf_do_fsyncdir,
	[NF_CALL_STATFS] = nf_do_statfs,
	[NF_CALL_SETXATTR] = nf_do_setxattr,
	[NF_CALL_GETXATTR] = nf_do_getxattr,
	[NF_CALL_LISTXATTR] = nf_do_listxattr,
	[NF_CALL_REMOVEXATTR] = nf_do_removexattr,
	[NF_CALL_FALLOCATE] = nf_do_fallocate,
	[NF_CALL_LSEEK] = nf_do_lseek,
	[NF_CALL_COPY_RANGE] = nf_do_copy_range,
	[NF_CALL_IOCTL] = nf_do_ioctl,
};

/* Calls whose answer may be given up without undoing anything. */
static bool may_abandon(enum nf_call_op op)
{
	return op == NF_CALL_LOOKUP || op == NF_CALL_GETATTR || op == NF_CALL_READLINK ||
	       op == NF_CALL_READ || op == NF_CALL_READDIR || op == NF_CALL_GETXATTR ||
	       op == NF_CALL_LISTXATTR || op == NF_CALL_FSYNC || op == NF_CALL_FSYNCDIR ||
	       op == NF_CALL_LSEEK || op == NF_CALL_STATFS;
}

static void run_free(struct nf_run *run)
{
	nf_want_deinit(&run->want);
	free(run->fetch);
	free(run->state);
	free(run->buf);
	free(run);
}

void *nf_call_state(struct nf_call *c, size_t size)
{
	struct nf_run *run = nf_run_of(c);
	if (!run->state)
		run->state = calloc(1, size);
	return run->state;
}

/* Drops the run's file; not under the namespace lock. */
static void run_release(struct nf_vault *v, struct nf_run *run)
{
	if (!run->vn && !run->vn2)
		return;
	nf_lock_take(&v->ns);
	if (run->vn)
		nf_vnode_put(run->vn);
	if (run->vn2)
		nf_vnode_put(run->vn2);
	run->vn = run->vn2 = NULL;
	nf_space_note(v);
	nf_lock_drop(&v->ns);
}

struct nf_call *nf_run_claim(struct nf_run *run)
{
	nf_lock_take(&run->v->run_lock);
	struct nf_call *c = run->call;
	run->call = NULL;
	if (c)
		c->fs_priv[0] = NULL;
	nf_lock_drop(&run->v->run_lock);
	return c;
}

void nf_run_end(struct nf_run *run, int error)
{
	struct nf_call *c = nf_run_claim(run);
	struct nf_vault *v = run->v;

	run_release(v, run);
	nf_space_leave(run);
	if (c) {
		run_free(run);
		nf_call_done(c, error);
	} else {
		run_free(run);
	}
	if (atomic_fetch_sub(&v->calls, 1) == 1) {
		nf_lock_take(&v->ns);
		nf_cond_broadcast(&v->changed);
		nf_lock_drop(&v->ns);
	}
}

static void run_again(struct nf_work *w)
{
	nf_run_step(nf_container_of(w, struct nf_run, work));
}

void nf_run_again(struct nf_run *run)
{
	nf_count(NF_C_RESTARTS, 1);
	nf_pool_add(run->v->pool, &run->work);
}

static void nodes_came(struct nf_fetch_nodes *fn)
{
	struct nf_run *run = fn->ctx;

	if (fn->error < 0)
		nf_run_end(run, fn->error);
	else
		nf_run_again(run);
}

static int fetch_wanted(struct nf_run *run)
{
	if (!run->fetch)
		run->fetch = calloc(1, sizeof *run->fetch);
	if (!run->fetch)
		return nf_fail(-ENOMEM);
	struct nf_fetch_nodes *fn = run->fetch;
	NF_ASSERT(run->want.nr > 0);
	memcpy(fn->refs, run->want.refs, run->want.nr * sizeof fn->refs[0]);
	fn->nr = run->want.nr;
	fn->priority = NF_STORE_FOREGROUND;
	fn->done = nodes_came;
	fn->ctx = run;
	fn->error = 0;
	run->want.nr = 0;
	nf_fetch_nodes(run->v->fetch, fn);
	return 0;
}

/* Runs the handler once.  An abandoned call's run ends here. */
void nf_run_step(struct nf_run *run)
{
	struct nf_vault *v = run->v;

	nf_lock_take(&run->v->run_lock);
	struct nf_call *c = run->call;
	run->stepping = c != NULL;
	nf_lock_drop(&run->v->run_lock);
	if (!c) {
		nf_run_end(run, 0);
		return;
	}
	run->want.nr = 0;
	nf_lock_take(&v->ns);
	int r = nf_handlers[c->op](v, c, &run->want);
	nf_space_note(v);
	/* A run that was put on a list may be taken from it, and end, as soon as the namespace lock is dropped. */
	nf_lock_take(&v->run_lock);
	bool started = run->start != NULL;
	run->stepping = false;
	nf_lock_drop(&v->run_lock);
	nf_lock_drop(&v->ns);
	if (r == NF_CALL_PENDING) {
		/* What a handler starts, it starts without the lock. */
		if (started) {
			void (*start)(struct nf_run *) = run->start;
			run->start = NULL;
			start(run);
		}
		return;
	}
	if (r == NF_TREE_WANT) {
		r = fetch_wanted(run);
		if (r == 0)
			return;
	}
	nf_run_end(run, r);
}

static void submit(struct nf_fs *fs, struct nf_call *c)
{
	struct nf_vault *v = nf_container_of(fs, struct nf_vault, fs);
	/* What lets go of a file cannot fail. */
	bool must = c->op == NF_CALL_RELEASE || c->op == NF_CALL_RELEASEDIR;
	struct nf_run *run = must ? nf_record_alloc(sizeof *run) : calloc(1, sizeof *run);

	if (!run) {
		nf_call_done(c, -ENOMEM);
		return;
	}
	atomic_fetch_add(&v->calls, 1);
	run->v = v;
	run->call = c;
	run->op = c->op;
	nf_work_init(&run->work, run_again);
	nf_list_init(&run->waiting);
	c->fs_priv[0] = run;
	/* Data is copied only by calls that really wait; see nf_run_keep(). */
	if (nf_space_enter(run))
		nf_run_step(run);
}

static void interrupt(struct nf_fs *fs, struct nf_call *c)
{
	struct nf_vault *v = nf_container_of(fs, struct nf_vault, fs);

	if (!may_abandon(c->op)) {
		nf_space_interrupt(v, c);
		return;
	}
	nf_lock_take(&v->run_lock);
	struct nf_run *run = c->fs_priv[0];
	bool mine = run && run->call == c && !run->stepping;
	if (mine) {
		run->call = NULL;
		c->fs_priv[0] = NULL;
	}
	nf_lock_drop(&v->run_lock);
	if (mine)
		nf_call_done(c, -EINTR);
}

const struct nf_fs_ops nf_vault_fs_ops = { .submit = submit, .interrupt = interrupt };
