/* vault/vault.c - opening, closing, and what is asked of a vault from outside. */
#include "vault/vault.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/trace.h"
#include "vault/header.h"
#include "vault/mend.h"
#include "vault/reborn.h"
#include "vault/recover.h"
#include "vault/shelf.h"
#include "vault/space.h"
#include "vault/upload.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

enum {
	NODES_BYTES = 24 << 20,
	AIO_DEPTH = 32,
	POOL_THREADS = 4,
	NODE_THREADS = 2,
	MIN_FREE_BYTES = 64 << 20, /* the cache never takes the room that journal and state live from */
	MEET_EVERY_MS = 600000,
	PATH_DEPTH_MAX = 4096,
	STREAM_BYTES = 64 << 20,
	ROOM_WAIT_MS = 10000,
	/* What takes no time worth telling, and what a commit takes beside sending. */
	SMALL_BYTES = 64 << 10,
	ROUND_TRIPS_MS = 500,
	COUNTER_SLACK = 1 << 16, /* numbers skipped after a restart: what was used and not remembered */
};

struct nf_fs *nf_vault_fs(struct nf_vault *v) { return &v->fs; }

/* --- opening ------------------------------------------------------------------------------------- */

static int open_local(struct nf_vault *v, const struct nf_vault_options *o)
{
	nf_auto_free char *lock = NULL;

	int r = nf_aio_new(AIO_DEPTH, &v->aio);
	if (r < 0 || !o->cache_dir)
		return r;
	v->cache_path = strdup(o->cache_dir);
	if (!v->cache_path || asprintf(&lock, "%s/lock", o->cache_dir) < 0)
		return nf_fail(-ENOMEM);
	r = nf_file_mkdirs(v->files, o->cache_dir);
	if (r == 0)
		r = v->files->lock(v->files, lock, &v->lock);
	if (r < 0)
		return r;
	v->min_free_bytes = NF_MAX(o->min_free_bytes, (uint64_t)MIN_FREE_BYTES);
	struct nf_cache_options c = { .dir = o->cache_dir, .size_limit_bytes = o->cache_size_bytes,
				      .min_free_bytes = v->min_free_bytes,
				      .hold = o->state_dir && nf_pins_exist(v->files, o->state_dir),
				      .files = v->files,
				      .aio = v->aio };
	return nf_cache_open(&c, &v->cache);
}

static int read_local(void *ctx, const struct nf_pack_id *pack, uint32_t offset_bytes, void *buf, size_t len)
{
	struct nf_vault *v = ctx;
	struct nf_journal_pos pos = { nf_ref_local_segment(pack), offset_bytes };

	int r = v->journal ? nf_journal_read(v->journal, pos, buf, len) : -EINVAL;
	return r == -EINVAL ? nf_fail(-NF_E_PACK_MISSING) : r;
}

static int open_machines(struct nf_vault *v, const struct nf_vault_options *o)
{
	struct nf_netfs_options n = { .memory_bytes = o->memory_bytes, .write_back_ms = v->write_back_ms,
				      .block_max_bytes = 1u << NF_BLOCK_SHIFT_MAX };

	int r = nf_nodes_new(NODES_BYTES, &v->nodes);
	if (r == 0)
		r = nf_pool_new("nf-call", POOL_THREADS, 0, &v->pool);
	if (r == 0)
		r = nf_pool_new("nf-node", NODE_THREADS, 0, &v->node_pool);
	if (r == 0)
		r = nf_netfs_new(&n, &v->lib);
	struct nf_fetch_options f = { .store = v->store, .cache = v->cache, .ring = v->ring,
				      .nodes = v->nodes, .pool = v->node_pool, .read_local = read_local,
				      .read_local_ctx = v };
	if (r == 0)
		r = nf_fetch_new(&f, &v->fetch);
	if (r == 0)
		r = nf_look_new(v->store, v->ring, v->fetch, &v->look);
	v->src = (struct nf_node_source){ .nodes = v->nodes, .load = nf_fetch_load, .ctx = v->fetch };
	return r;
}

/* The newest state that can be had: the store's, or what is remembered. */
static int first_base(struct nf_vault *v, const struct nf_state *s, const char *expect)
{
	struct nf_look_result look;

	if (s->base.id.seq) {
		int r = nf_head_copy(&v->base, &s->base);
		return r;
	}
	int r = nf_look(v->look, &look);
	if (r < 0)
		return r;
	if (look.nr_leaves == 0)
		return nf_fail(-NF_E_HEADER_MISSING);
	r = nf_head_copy(&v->base, look.leaves[look.nr_leaves - 1]);
	if (r == 0 && expect) {
		char now[24];
		nf_head_fingerprint(&v->base, now);
		if (strcmp(now, expect))
			return nf_fail(-NF_E_HEAD_ROLLBACK);
	}
	v->connected = r == 0;
	/* The first commit may go on this look: what it names was there by then (G4). */
	if (r == 0 && look.nr_leaves == 1) {
		v->base_seen_ns = nf_clock_ns();
		nf_lock_take(&v->ns);
		v->look_date_s = look.server_date_s;
		nf_lock_drop(&v->ns);
	}
	return r;
}

static void recover_begin(struct nf_vault *v, struct nf_recovered *rc)
{
	nf_recovered_deinit(rc);
	*rc = (struct nf_recovered){ .v = v, .contained = nf_vector_seq(&v->base.vector, v->writer) };
}

/* What is valid of a damaged journal.  RC, to be filled anew. */
static int salvage_journal(struct nf_vault *v, const struct nf_journal_options *o, struct nf_recovered *rc)
{
	nf_auto_free char *aside = NULL;

	if (asprintf(&aside, "%s/damaged-%" PRId64, o->dir, (int64_t)nf_clock_real().tv_sec) < 0)
		return nf_fail(-ENOMEM);
	recover_begin(v, rc);
	int r = nf_journal_salvage(o, aside, &v->salvaged);
	recover_begin(v, rc);
	if (r == 0)
		v->aside = nf_steal(&aside);
	return r == 0 ? nf_journal_open(o, &v->journal) : r;
}

static int open_journal(struct nf_vault *v, const struct nf_state *s)
{
	nf_auto_free char *dir = NULL;
	struct nf_recovered rc = { 0 };

	(void)s;
	if (asprintf(&dir, "%s/journal", v->state_path) < 0)
		return nf_fail(-ENOMEM);
	recover_begin(v, &rc);
	struct nf_journal_options o = { .dir = dir, .files = v->files, .seal = &nf_vault_journal_seal,
					.seal_ctx = v, .replay = nf_recover_record, .replay_ctx = &rc, .room = v->room };
	int r = nf_journal_open(&o, &v->journal);
	if (r == -NF_E_JOURNAL_BAD && v->repair)
		r = salvage_journal(v, &o, &rc);
	if (r == 0 && v->writer)
		r = nf_recover_replay(v, &rc);
	nf_recovered_deinit(&rc);
	return r;
}

static void take_state(struct nf_vault *v, const struct nf_state *s)
{
	memcpy(v->device_id, s->device_id, sizeof v->device_id);
	memcpy(v->writer_id, s->writer_id, sizeof v->writer_id);
	v->writer = s->writer;
	v->next_counter = s->next_counter;
}

static int open_state(struct nf_vault *v, const struct nf_vault_options *o, struct nf_state *s)
{
	if (!o->state_dir) {
		nf_random(v->device_id, sizeof v->device_id);
		return 0;
	}
	v->state_path = strdup(o->state_dir);
	if (!v->state_path)
		return nf_fail(-ENOMEM);
	int r = nf_file_mkdirs(v->files, o->state_dir);
	if (r < 0)
		return r;
	r = nf_state_load(v, s);
	if (r == -ENOENT) {
		nf_random(v->device_id, sizeof v->device_id);
		return 0;
	}
	if (r == 0)
		take_state(v, s);
	return r;
}

static struct nf_vault *new_vault(const struct nf_vault_options *o)
{
	struct nf_vault *v = calloc(1, sizeof *v);
	char host[256] = "unknown";

	if (!v) {
		nf_store_free(o->store);
		return NULL;
	}
	nf_lock_init(&v->ns, NF_RANK_NAMESPACE);
	nf_lock_init(&v->run_lock, NF_RANK_LEAF);
	nf_cond_init(&v->changed);
	nf_avl_init(&v->vnodes, NULL);
	nf_avl_init(&v->moved, NULL);
	nf_list_init(&v->ahead);
	nf_cond_init(&v->ahead_wake);
	nf_list_init(&v->closed);
	nf_list_init(&v->dirty_list);
	nf_list_init(&v->sync_waiters);
	nf_list_init(&v->fsync_waiters);
	nf_list_init(&v->room_waiters);
	nf_cond_init(&v->room_wake);
	(void)gethostname(host, sizeof host - 1);
	host[64] = '\0';
	v->fs.ops = &nf_vault_fs_ops;
	v->fs.read_only = o->read_only;
	v->store = o->store;
	v->meet = o->meet;
	v->meet_ctx = o->meet_ctx;
	v->unmet = o->meet && o->unmet;
	v->keys = v->unmet ? NF_KEYS_UNCHECKED : NF_KEYS_CURRENT;
	v->meet_every_ns = (o->meet_every_ms ? o->meet_every_ms : MEET_EVERY_MS) * NF_NS_PER_MS;
	v->met_ns = nf_clock_ns();
	v->link = nf_store_is_link(o->store) ? o->store : NULL;
	v->files = o->files ? o->files : &nf_file_real;
	v->host = strdup(o->host ? o->host : host);
	v->read_only = o->read_only;
	v->fsync_remote = o->fsync_remote;
	v->manual = o->manual;
	v->put_back = v->repair = o->repair;
	v->stream_bytes = o->ahead_bytes ? o->ahead_bytes : STREAM_BYTES;
	v->no_threads = o->no_threads;
	v->shelve_bytes = o->shelve_bytes;
	nf_gc_defaults(&v->gc);
	if (o->gc)
		v->gc = *o->gc;
	v->block_shift = o->block_shift ? o->block_shift : NF_DEFAULT_BLOCK_SHIFT;
	v->write_back_ms = o->write_back_ms ? o->write_back_ms : 5000;
	v->poll_ms = o->poll_ms ? o->poll_ms : 5000;
	v->room_wait_ms = o->room_wait_ms ? o->room_wait_ms : ROOM_WAIT_MS;
	return v;
}

/* From now on there may be something that is only here.  Durable, as what comes is. */
static int unsettle(struct nf_vault *v)
{
	nf_auto_free char *path = NULL;

	if (asprintf(&path, "%s/" NF_SETTLED_FILE, v->state_path) < 0)
		return nf_fail(-ENOMEM);
	int r = v->files->unlink(v->files, path);
	if (r == 0)
		r = nf_file_sync_name(v->files, path);
	return r == -ENOENT ? 0 : nf_fail(r);
}

/* Failing leaves it said that there may be something, which is no harm. */
static void settle(struct nf_vault *v)
{
	nf_auto_free char *path = NULL;

	if (asprintf(&path, "%s/" NF_SETTLED_FILE, v->state_path) >= 0)
		(void)nf_file_replace(v->files, path, "", 0);
}

/* Our last dot up to which everything in the base is known to be there for good. */
static uint64_t reported_seq(const struct nf_vault *v)
{
	uint64_t seq = nf_vector_seq(&v->base.vector, v->writer);

	for (const struct nf_epoch *e = v->unreported; e; e = e->next)
		seq = NF_MIN(seq, e->seq - 1);
	return seq;
}

/* A writable vault: journal, writer, epoch; then what others did. */
static int open_writer(struct nf_vault *v, const struct nf_state *s)
{
	int r = unsettle(v);

	if (r == 0)
		r = open_journal(v, s);

	if (r == 0 && v->writer) {
		v->next_counter += COUNTER_SLACK;
		v->confirmed_seq = reported_seq(v);
		r = nf_fresh_epoch(v);
	} else if (r == 0) {
		r = nf_claim(v);
	}
	if (r == 0)
		v->birth = (uint64_t)v->writer << 40 | v->next_counter++;
	/* Before anything is sealed with it: the next mount must take another one, whatever becomes of this. */
	if (r == 0)
		r = nf_remember(v);
	return r;
}

/* A known vault opens without its store; a store that shows an old state is refused.  A device whose state was restored or
 * copied becomes a new writer. */
static int first_turn(struct nf_vault *v)
{
	/* A new device has just looked. */
	if (v->base_seen_ns && !v->frozen)
		return 0;
	int r = nf_commit_turn(v, false);

	if (r == -NF_E_WRITER_CLONED) {
		r = nf_reborn(v);
		if (r < 0)
			return r;
		r = nf_commit_turn(v, false);
	}
	return r == -NF_E_HEAD_ROLLBACK || r == -NF_E_STORE_DENIED || r == -NF_E_WRITER_CLONED ? r : 0;
}

static bool is_connected(struct nf_vault *v)
{
	struct nf_link_status s;

	nf_link_status(v->link, &s);
	return s.state == NF_LINK_CONNECTED;
}

int nf_vault_open(const struct nf_vault_options *o, struct nf_vault **out)
{
	struct nf_state s = { 0 };
	struct nf_vault *v = new_vault(o);

	if (!v)
		return nf_fail(-ENOMEM);
	int r = v->host ? nf_header_ring(o->header, &v->ring) : nf_fail(-ENOMEM);
	if (r == 0)
		r = nf_uploads_new(v);
	if (r == 0)
		r = open_local(v, o);
	if (r == 0)
		r = open_state(v, o, &s);
	if (r == 0 && v->state_path && !v->read_only)
		r = nf_space_init(v);
	if (r == 0)
		r = open_machines(v, o);
	if (r == 0)
		r = first_base(v, &s, o->expect);
	if (r == 0 && !v->read_only)
		r = open_writer(v, &s);
	if (r == 0 && s.base.id.seq == 0)
		r = nf_remember(v);
	/* A server that has not answered yet is not waited for: the committer goes on from here. */
	if (r == 0 && (!v->link || v->no_threads || !v->unmet || is_connected(v)))
		r = first_turn(v);
	v->fixed = o->snapshot != NULL;
	if (r == 0 && v->fixed)
		r = v->read_only ? nf_snapshot_take_root(v, o->snapshot) : nf_fail(-EINVAL);
	/* A snapshot never changes. */
	if (r == 0 && v->cache && v->state_path && !v->fixed)
		r = nf_keeper_new(v, &v->keeper);
	if (r == 0 && !v->no_threads && !v->fixed)
		r = nf_commit_start(v);
	if (r == 0 && v->keeper && !v->no_threads)
		r = nf_keeper_start(v->keeper);
	if (r == 0 && v->committer_runs && o->gc_every_ms && !v->read_only && !v->manual && !v->store->read_only)
		r = nf_idle_gc_start(v, &v->gc, o->gc_every_ms, o->power_dir);
	if (r == 0 && !v->no_threads)
		r = nf_space_start(v);
	if (r == 0 && v->link && v->committer_runs) {
		nf_link_listen(v->link, nf_commit_link, v);
		struct nf_link_status now;
		nf_link_status(v->link, &now);
		nf_commit_link(v, now.state);
		if (now.state == NF_LINK_PROBING)
			nf_link_wake(v->link);
	}
	nf_state_deinit(&s);
	if (r < 0) {
		nf_vault_close(v);
		return r;
	}
	*out = v;
	return 0;
}

/* --- closing ----------------------------------------------------------------------------------------- */

/* Waits until all files in memory are gone. */
static void drop_files(struct nf_vault *v)
{
	nf_lock_take(&v->ns);
	v->stopping = true;
	nf_list_for_each_safe(vn, &v->dirty_list, struct nf_vnode, dirty) {
		nf_vnode_clean(vn);
		if (vn->refs == 0) {
			vn->refs = 1;
			nf_vnode_put(vn);
		}
	}
	/* A cut whose data could not be stored holds its files. */
	for (struct nf_avl_node *n = nf_avl_first(&v->vnodes); n; n = nf_avl_next(n)) {
		struct nf_vnode *vn = nf_container_of(n, struct nf_vnode, node);
		if (vn->in_cut) {
			vn->in_cut = false;
			nf_vnode_put(vn);
		}
	}
	nf_vnode_trim(v, 0);
	while (!nf_avl_empty(&v->vnodes) || v->asides)
		nf_cond_wait(&v->changed, &v->ns);
	nf_lock_drop(&v->ns);
}

/* What is in the journal is durable, and whoever opens it next can see that: what does not open then is damage, and no torn
 * tail, which would take all behind it along.  A full disk may leave it unsaid. */
static void end_segment(struct nf_vault *v)
{
	uint64_t number;

	if (nf_journal_rotate(v->journal, &number) < 0)
		nf_trace(JOURNAL, "the last segment stays open");
}

/* Everything dirty becomes operations, operations become journal. */
static int store_locally(struct nf_vault *v)
{
	int first = nf_settle(v), r = nf_vault_journal(v, true);

	return r < 0 ? r : first;
}

void nf_vault_close(struct nf_vault *v)
{
	if (!v)
		return;
	if (v->link)
		nf_link_listen(v->link, NULL, NULL);
	nf_idle_gc_stop(v);
	nf_space_stop(v);
	nf_keeper_stop(v->keeper);
	nf_commit_stop(v);
	nf_uploads_free(v->uploads); /* what is under way reads the journal */
	v->uploads = NULL;
	if (v->pool) {
		nf_lock_take(&v->ns);
		while (atomic_load(&v->calls))
			nf_cond_wait(&v->changed, &v->ns);
		nf_lock_drop(&v->ns);
		if (v->journal && v->current && store_locally(v) < 0)
			nf_trace(JOURNAL, "not everything could be stored at close");
		else if (v->journal && v->current && !v->renewing && nf_commit_is_settled(v))
			settle(v);
		else if (v->journal && v->current)
			end_segment(v);
		drop_files(v);
	}
	nf_idle_gc_free(v);
	nf_keeper_free(v->keeper);
	nf_netfs_free(v->lib);
	nf_look_free(v->look);
	nf_fetch_free(v->fetch);
	nf_pool_free(v->pool);
	nf_pool_free(v->node_pool);
	nf_journal_close(v->journal);
	nf_epoch_free(v->frozen);
	nf_epoch_free(v->current);
	nf_shelf_free(v);
	nf_lock_take(&v->ns);
	nf_ahead_clear(v);
	nf_moved_trim(v, UINT64_MAX);
	nf_lock_drop(&v->ns);
	nf_named_reported(v, UINT64_MAX);
	nf_pack_set_deinit(&v->named);
	free(v->touched);
	nf_mend_free(v->mend);
	nf_nodes_free(v->nodes);
	nf_cache_close(v->cache);
	nf_space_deinit(v);
	nf_aio_free(v->aio);
	nf_store_free(v->store);
	nf_head_deinit(&v->base);
	nf_ring_free(v->ring);
	v->files->close(v->lock);
	free(v->aside);
	free(v->state_path);
	free(v->cache_path);
	free(v->host);
	nf_cond_deinit(&v->room_wake);
	nf_cond_deinit(&v->ahead_wake);
	nf_cond_deinit(&v->changed);
	nf_lock_deinit(&v->run_lock);
	nf_lock_deinit(&v->ns);
	free(v);
}

/* --- a new vault --------------------------------------------------------------------------------------- */

static int put_directory(struct nf_layer *l, uint64_t ino, uint32_t mode)
{
	struct timespec now = nf_clock_real();
	struct nf_inode_item item = { .mode = S_IFDIR | mode, .uid = getuid(), .gid = getgid(), .nlink = 2,
				      .atime = now, .mtime = now, .ctime = now, .btime = now };
	return nf_layer_put_inode(l, ino, &item);
}

static int no_load(void *ctx, struct nf_want *w)
{
	(void)ctx;
	(void)w;
	return nf_fail(-NF_E_TREE_BAD);
}

int nf_vault_format(struct nf_store *store, const struct nf_header *header, const char *host)
{
	struct nf_meta_pack meta = { .bytes = NF_BUF_INIT };
	struct nf_change *changes = NULL;
	struct nf_cutout *cuts = NULL;
	struct nf_layer *layer = NULL;
	struct nf_nodes *nodes = NULL;
	struct nf_ring *ring = NULL;
	struct nf_ref empty = { 0 };
	struct nf_head h = { .id.seq = 1, .time = nf_clock_real() };
	size_t nr, nr_cuts;

	(void)host;
	int r = nf_header_ring(header, &ring);
	if (r == 0)
		r = nf_layer_new(&layer);
	if (r == 0)
		r = nf_nodes_new(1 << 20, &nodes);
	if (r == 0)
		r = put_directory(layer, NF_INO_ROOT, 0755);
	if (r == 0)
		r = put_directory(layer, NF_INO_STASH, 0700);
	if (r == 0)
		r = nf_layer_batch(layer, &changes, &nr, &cuts, &nr_cuts);
	if (r == 0 && !(meta.codec = nf_codec_get(ring)))
		r = nf_fail(-ENOMEM);
	struct nf_node_source src = { .nodes = nodes, .load = no_load };
	struct nf_tree_writer w = { .emit = nf_meta_pack_emit, .ctx = &meta };
	if (r == 0)
		r = nf_tree_update(&src, &empty, changes, nr, cuts, nr_cuts, &w, &h.root);
	struct iovec iov = { meta.bytes.p, meta.bytes.len };
	struct nf_pack_put put = { .store = store, .iov = &iov, .nr_iov = 1 };
	if (r == 0)
		r = nf_pack_put(&put);
	h.root.pack = h.meta_pack = put.id;
	h.meta_len_bytes = (uint32_t)meta.bytes.len;
	if (r == 0)
		r = nf_head_put(store, meta.codec, &h);
	if (meta.codec)
		nf_codec_put(meta.codec);
	nf_buf_deinit(&meta.bytes);
	free(changes);
	free(cuts);
	nf_layer_free(layer);
	nf_nodes_free(nodes);
	nf_ring_free(ring);
	nf_head_deinit(&h);
	return r;
}

/* --- asked from outside ------------------------------------------------------------------------------------ */

static void pending(struct nf_vault *v, struct nf_vault_status *s)
{
	const struct nf_epoch *e[2] = { nf_epoch_below(v), v->current };
	uint64_t oldest = v->dirty_since_ns ? v->dirty_since_ns : UINT64_MAX;

	for (size_t i = 0; i < v->nr_shelf; i++) {
		s->pending_ops += v->shelf[i].nr_ops;
		s->pending_bytes += v->shelf[i].ops_bytes;
		oldest = NF_MIN(oldest, v->shelf[i].oldest_ns);
	}

	for (int i = 0; i < 2; i++) {
		if (!e[i])
			continue;
		s->pending_ops += e[i]->nr_ops;
		s->pending_bytes += e[i]->ops.len;
		if (e[i]->oldest_ns)
			oldest = NF_MIN(oldest, e[i]->oldest_ns);
	}
	for (struct nf_avl_node *n = nf_avl_first(&v->vnodes); n; n = nf_avl_next(n)) {
		struct nf_vnode *vn = nf_container_of(n, struct nf_vnode, node);
		s->open_for_write += vn->writers > 0;
		if (nf_list_empty(&vn->dirty) || vn->dying)
			continue;
		uint64_t bytes = nf_dirty_bytes(&vn->ic) + vn->acc_bytes;
		s->pending_files += bytes > 0 || !nf_avl_empty(&vn->acc);
		s->pending_bytes += bytes;
	}
	if (oldest != UINT64_MAX && (s->pending_ops || s->pending_files))
		s->oldest_ms = (nf_clock_ns() - oldest) / NF_NS_PER_MS;
}

static void link_status(struct nf_vault *v, struct nf_vault_status *s)
{
	struct nf_link_status l;

	nf_link_status(v->link, &l);
	s->connected = l.state == NF_LINK_CONNECTED;
	s->held = l.state == NF_LINK_HELD;
	s->probing = l.state == NF_LINK_PROBING;
	s->reintegrating = s->reintegrating && s->connected;
	s->link_ms = (nf_clock_ns() - l.since_ns) / NF_NS_PER_MS;
	s->upload_bytes_per_s = l.upload_bytes_per_s;
	if (l.last_error)
		s->last_error = l.last_error;
}

/* What is being sent is counted by the commit, what waits by what it takes now; a commit begins write_back after the first
 * change, unless only on command. */
static int64_t safe_in_ms(const struct nf_vault *v, const struct nf_vault_status *s)
{
	uint64_t sending = s->committing ? s->upload_total_bytes - NF_MIN(s->upload_total_bytes, s->upload_done_bytes) : 0;
	uint64_t left = NF_MAX(s->pending_bytes, sending);

	if (!s->pending_ops && !s->pending_files)
		return 0;
	if (!s->connected || s->held || (!s->upload_bytes_per_s && left > SMALL_BYTES) || (v->manual && !s->committing))
		return -1;
	uint64_t wait = s->committing ? 0 : s->write_back_ms - NF_MIN((uint64_t)s->write_back_ms, s->oldest_ms);
	uint64_t rate = NF_MAX(s->upload_bytes_per_s, (uint64_t)SMALL_BYTES);
	return (int64_t)(wait + (uint64_t)((__uint128_t)left * 1000 / rate) + ROUND_TRIPS_MS);
}

void nf_vault_status(struct nf_vault *v, struct nf_vault_status *out)
{
	struct nf_vault_status s = { 0 };
	struct nf_cache_stats cs = { 0 };

	nf_lock_take(&v->ns);
	s.connected = v->connected;
	s.read_only = v->read_only;
	s.manual = v->manual;
	s.last_error = v->last_error;
	s.keys = v->keys;
	s.key_epoch = nf_ring_newest(v->ring);
	s.old_keys_known = s.key_epoch == 1 || v->old_keys.epoch == s.key_epoch;
	s.old_key_packs = s.old_keys_known ? v->old_keys.packs : 0;
	s.old_key_bytes = s.old_keys_known ? v->old_keys.bytes : 0;
	pending(v, &s);
	s.committing = v->committing;
	s.upload_done_bytes = v->upload_done;
	s.upload_total_bytes = v->upload_total;
	s.commits = v->commits;
	s.merges = v->merges;
	s.forks = v->forks;
	s.conflicts = v->conflicts;
	s.head_seq = v->base.id.seq;
	s.head_time_s = v->base.time.tv_sec;
	nf_head_fingerprint(&v->base, s.fingerprint);
	s.writer = v->writer;
	s.writer_seq = v->confirmed_seq;
	s.write_back_ms = v->write_back_ms;
	s.poll_ms = v->poll_ms;
	s.reintegrating = v->reintegrating;
	nf_keeper_status(v, &s);
	nf_idle_gc_status(v, &s);
	nf_lock_drop(&v->ns);
	if (v->link)
		link_status(v, &s);
	s.safe_in_ms = safe_in_ms(v, &s);
	if (v->cache)
		nf_cache_stats(v->cache, &cs);
	s.cache_used_bytes = cs.used_bytes;
	s.cache_limit_bytes = cs.size_limit_bytes;
	if (v->journal)
		s.journal_bytes = nf_journal_size(v->journal);
	*out = s;
}

int nf_vault_regions_text(struct nf_vault *v, char **out) { return nf_netfs_regions_text(v->lib, out); }
int nf_vault_requests_text(struct nf_vault *v, char **out) { return nf_netfs_requests_text(v->lib, out); }

/* One path component, blocking. */
static int step(struct nf_vault *v, uint64_t dir, const char *name, size_t len, uint64_t *ino)
{
	struct nf_want w = NF_WANT_INIT;
	int r;

	for (;;) {
		nf_lock_take(&v->ns);
		struct nf_view view = nf_vault_view(v);
		r = nf_view_find(&view, v->ring, dir, name, len, &w, ino, NULL);
		nf_lock_drop(&v->ns);
		if (r != NF_TREE_WANT)
			break;
		r = v->src.load(v->src.ctx, &w);
		if (r < 0)
			break;
	}
	nf_want_deinit(&w);
	return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
}

int nf_vault_resolve(struct nf_vault *v, const char *path, struct nf_attr *out)
{
	uint64_t ino = NF_INO_ROOT;
	struct nf_want w = NF_WANT_INIT;
	int r = 0;

	while (r == 0 && *path) {
		size_t len = strcspn(path, "/");
		if (len > NF_NAME_MAX)
			return nf_fail(-ENAMETOOLONG);
		if (len && !(len == 1 && *path == '.'))
			r = step(v, ino, path, len, &ino);
		path += len;
		path += *path == '/';
	}
	while (r == 0) {
		nf_lock_take(&v->ns);
		r = nf_vault_attr(v, ino, &w, out);
		nf_lock_drop(&v->ns);
		if (r != NF_TREE_WANT)
			break;
		r = v->src.load(v->src.ctx, &w);
	}
	nf_want_deinit(&w);
	return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
}

int nf_vault_path(struct nf_vault *v, uint64_t ino, char **out)
{
	nf_auto(nf_want_deinit) struct nf_want w = NF_WANT_INIT;
	nf_auto_free char *tail = strdup("");
	int r = tail ? 0 : nf_fail(-ENOMEM);

	for (int depth = 0; r == 0 && ino != NF_INO_ROOT; depth++) {
		char name[NF_NAME_MAX + 1];
		uint64_t up = 0;
		uint8_t len;
		if (depth == PATH_DEPTH_MAX)
			return nf_fail(-NF_E_TREE_BAD);
		nf_lock_take(&v->ns);
		struct nf_view view = nf_vault_view(v);
		r = nf_view_parent(&view, ino, &w, &up, name, &len);
		nf_lock_drop(&v->ns);
		if (r == NF_TREE_WANT) {
			r = v->src.load(v->src.ctx, &w);
			w.nr = 0;
			continue;
		}
		char *now = NULL;
		if (r == 0 && asprintf(&now, "%s%s%s", name, *tail ? "/" : "", tail) < 0)
			r = nf_fail(-ENOMEM);
		if (r == 0) {
			free(tail);
			tail = now;
			ino = up;
		}
	}
	if (r == 0)
		*out = nf_steal(&tail);
	return r == NF_TREE_NONE ? -ENOENT : r;
}
