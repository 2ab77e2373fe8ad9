/* vault/ahead.c - blocks that go to the server before the commit that will name them.
 *
 *   stored by a request ---> window on v->ahead, if    its file is in a cut, and has AHEAD_FILE_BYTES or more, or
 *                                                      it is a stream: v->stream_bytes since the last cut
 *   a pack's worth there --> nf_ahead_turn(): the newest blocks of these windows, as they are now --> upload.c
 *
 * So copying, sealing and sending run side by side, and a commit sends only what is left.  A head names a pack only
 * once that is there, as ever; a pack that no head ever names is litter, which a collector takes.  What was overwritten
 * or removed before the cut has been sent in vain: it is counted, and when that was much no stream is sent ahead any
 * more.  After an error nothing is, until a commit went through. */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "vault/commit.h"
#include "vault/upload.h"

#include <inttypes.h>

enum {
	AHEAD_FILE_BYTES = 1 << 20,
	AHEAD_WINDOWS_MAX = 4096,
	/* In vain: so much, and more than this part of all. */
	WASTE_BYTES = 64 << 20,
	WASTE_SHARE = 4,
};

struct window {
	struct nf_list link;
	uint64_t ino, first_block, bytes;
};

static bool wasteful(const struct nf_vault *v)
{
	return v->ahead_wasted_bytes > WASTE_BYTES && v->ahead_wasted_bytes > v->ahead_sent_bytes / WASTE_SHARE;
}

static bool is_stream(const struct nf_vnode *vn)
{
	const struct nf_vault *v = vn->v;

	return vn->stream_bytes >= v->stream_bytes && !v->manual && !wasteful(v);
}

static void wake(struct nf_vault *v) NF_REQUIRES(v->ns)
{
	if (v->ahead_bytes >= nf_upload_pack_bytes(v))
		nf_cond_broadcast(&v->ahead_wake);
}

static void add_window(struct nf_vnode *vn, uint64_t first_block, uint64_t bytes)
{
	struct nf_vault *v = vn->v;

	NF_ASSERT(nf_lock_held(&v->ns));
	if (v->nr_ahead == AHEAD_WINDOWS_MAX || v->read_only)
		return; /* the commit sends it */
	struct window *w = calloc(1, sizeof *w);
	if (!w)
		return;
	w->ino = vn->ino;
	w->first_block = first_block;
	w->bytes = bytes;
	nf_list_add_tail(&v->ahead, &w->link);
	v->nr_ahead++;
	v->ahead_bytes += bytes;
}

/* All that is stored and in no operation yet. */
static void add_all(struct nf_vnode *vn)
{
	for (struct nf_avl_node *n = nf_avl_first(&vn->acc); n; n = nf_avl_next(n)) {
		const struct nf_acc *a = nf_container_of(n, const struct nf_acc, node);
		uint64_t bytes = 0;
		for (int b = 0; b < NF_WINDOW_BLOCKS; b++)
			bytes += a->known[b] ? a->refs[b].sealed_len : 0;
		if (bytes)
			add_window(vn, a->first_block, bytes);
	}
}

void nf_ahead_stored(struct nf_vnode *vn, uint64_t first_block, uint64_t sealed_bytes)
{
	bool was = is_stream(vn);

	vn->stream_bytes += sealed_bytes;
	if (vn->orphan)
		return;
	if (!was && is_stream(vn) && !vn->in_cut)
		add_all(vn); /* this window is in it */
	else if (was || (vn->in_cut && vn->stream_bytes >= AHEAD_FILE_BYTES))
		add_window(vn, first_block, sealed_bytes);
	wake(vn->v);
}

void nf_ahead_cut(struct nf_vnode *vn)
{
	if (vn->stream_bytes >= AHEAD_FILE_BYTES && !is_stream(vn) && !vn->orphan)
		add_all(vn);
	/* What of it is still to be stored for the cut counts on. */
	vn->stream_bytes = vn->stream_bytes >= AHEAD_FILE_BYTES ? AHEAD_FILE_BYTES : 0;
	wake(vn->v);
}

static struct window *take(struct nf_vault *v)
{
	if (nf_list_empty(&v->ahead))
		return NULL;
	struct window *w = nf_list_first(&v->ahead, struct window, link);
	nf_list_del(&w->link);
	v->nr_ahead--;
	v->ahead_bytes -= w->bytes;
	return w;
}

void nf_ahead_clear(struct nf_vault *v)
{
	struct window *w;

	while ((w = take(v)))
		free(w);
}

/* The blocks of W as they are now; what needs a node that is not at hand is left to the commit. */
static bool blocks_of(struct nf_vault *v, const struct window *w, struct nf_block_ref out[NF_WINDOW_BLOCKS]) NF_REQUIRES(v->ns)
{
	struct nf_want want = NF_WANT_INIT;
	struct nf_vnode *vn = nf_vnode_find(v, w->ino);
	bool ok = vn && !vn->dying && !vn->orphan && nf_vnode_window(vn, w->first_block, &want, out) == 0;

	nf_want_deinit(&want);
	return ok;
}

/* May something be sent, and is there enough for a pack? */
static bool due(const struct nf_vault *v)
{
	return !v->ahead_failed && !v->away && !v->stopping && v->ahead_bytes >= nf_upload_pack_bytes(v);
}

/* One window. */
static int send_window(struct nf_vault *v)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	int r = 0;

	nf_lock_take(&v->ns);
	struct window *w = take(v);
	bool ok = w && blocks_of(v, w, refs);
	nf_lock_drop(&v->ns);
	free(w);
	for (int b = 0; ok && r == 0 && b < NF_WINDOW_BLOCKS; b++)
		if (refs[b].sealed_len && nf_ref_is_local(&refs[b].pack))
			r = nf_upload_add(v, &refs[b], true);
	return r;
}

int nf_ahead_turn(struct nf_vault *v)
{
	bool more = true;
	int r = 0;

	nf_upload_begin(v, false);
	while (more && r == 0) {
		nf_lock_take(&v->ns);
		more = due(v) && !v->want_filling;
		nf_lock_drop(&v->ns);
		if (more)
			r = send_window(v);
		int failed = nf_upload_failed(v);
		r = r < 0 ? r : failed;
	}
	nf_upload_pause(v);
	if (r < 0) {
		nf_trace(COMMIT, "nothing ahead of commits any more: err=%s", nf_error_name(r));
		nf_lock_take(&v->ns);
		v->ahead_failed = true;
		nf_lock_drop(&v->ns);
	}
	return r;
}

void nf_ahead_resume(struct nf_vault *v)
{
	v->ahead_failed = false;
	wake(v);
}

static void *thread(void *arg)
{
	struct nf_vault *v = arg;

	nf_lock_take(&v->ns);
	while (!v->stopping) {
		if (!due(v) || v->want_filling) {
			nf_cond_wait(&v->ahead_wake, &v->ns);
			continue;
		}
		nf_lock_drop(&v->ns);
		(void)nf_ahead_turn(v); /* noted there */
		nf_lock_take(&v->ns);
	}
	nf_lock_drop(&v->ns);
	return NULL;
}

int nf_ahead_start(struct nf_vault *v)
{
	int r = pthread_create(&v->ahead_thread, NULL, thread, v);

	if (r)
		return nf_fail(-r);
	v->ahead_runs = true;
	return 0;
}

/* The vault is `stopping`, and `stop` ends what is being sent. */
void nf_ahead_stop(struct nf_vault *v)
{
	if (!v->ahead_runs)
		return;
	nf_lock_take(&v->ns);
	nf_cond_broadcast(&v->ahead_wake);
	nf_lock_drop(&v->ns);
	pthread_join(v->ahead_thread, NULL);
	v->ahead_runs = false;
}
