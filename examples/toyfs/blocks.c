/* What the library asks of the filesystem: reading, sealing and storing blocks.
 *
 *	encrypt_block   a new version, sealed                       any thread, in parallel
 *	issue_write     the sealed block into a file of its own
 *	write_stored    reads find the new version from here on
 *	group_stored    the map names the versions: a crash keeps all of the group or nothing of it */
#include "toy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct map_head {
	uint64_t size_bytes;
	int64_t mtime_s;
	uint64_t mtime_ns;
	uint64_t nr_blocks; /* their versions follow */
};

static struct toy_file *file_of(struct nf_ictx *ic) { return (struct toy_file *)(void *)ic; }
static uint64_t *version_of(struct nf_block *b) { return (uint64_t *)(void *)b->cookie; }

static void block_name(char out[64], uint64_t ino, uint64_t index, uint64_t version)
{
	(void)snprintf(out, 64, "%" PRIx64 "-%" PRIx64 "-%" PRIx64, ino, index, version);
}

static void map_name(char out[64], uint64_t ino) { (void)snprintf(out, 64, "map-%" PRIx64, ino); }

static void remove_block(const struct toy_file *f, uint64_t index, uint64_t version)
{
	char name[64];

	block_name(name, f->ino, index, version);
	(void)unlinkat(f->t->dir, name, 0); /* what stays behind is swept at the next start */
}

/* --- reading ------------------------------------------------------------------------------------- */

static uint64_t current_version(struct toy_file *f, uint64_t index)
{
	(void)pthread_mutex_lock(&f->t->lock);
	uint64_t v = index < f->nr_blocks ? f->version[index] : 0;
	(void)pthread_mutex_unlock(&f->t->lock);
	return v;
}

static int read_block(struct toy_file *f, struct nf_block *b)
{
	for (;;) {
		uint64_t v = current_version(f, b->index);
		char name[64];
		size_t len = 0;

		b->hole = v == 0;
		if (b->hole)
			return 0;
		block_name(name, f->ino, b->index, v);
		int r = toy_read_file(f->t, name, &b->sealed, &len);
		if (r == -ENOENT && current_version(f, b->index) != v)
			continue; /* replaced meanwhile */
		if (r < 0)
			return r;
		b->owned = true; /* the library frees it */
		b->sealed_len = (uint32_t)len;
		b->plain_len = len > TOY_SEAL_BYTES ? (uint32_t)len - TOY_SEAL_BYTES : 0;
		*version_of(b) = v;
		return 0;
	}
}

static void issue_read(struct nf_subreq *sq)
{
	struct toy *t = file_of(sq->ic)->t;

	(void)pthread_mutex_lock(&t->lock);
	sq->priv = t->reads;
	t->reads = sq;
	(void)pthread_cond_signal(&t->more);
	(void)pthread_mutex_unlock(&t->lock);
}

void *toy_reader(void *arg)
{
	struct toy *t = arg;

	(void)pthread_mutex_lock(&t->lock);
	while (!t->stop || t->reads) {
		struct nf_subreq *sq = t->reads;
		if (!sq) {
			(void)pthread_cond_wait(&t->more, &t->lock);
			continue;
		}
		t->reads = sq->priv;
		(void)pthread_mutex_unlock(&t->lock);
		int r = 0;
		for (unsigned i = 0; i < sq->nr_blocks && r == 0; i++)
			r = read_block(file_of(sq->ic), &sq->blocks[i]);
		nf_subreq_terminated(sq, r);
		(void)pthread_mutex_lock(&t->lock);
	}
	(void)pthread_mutex_unlock(&t->lock);
	return NULL;
}

static int decrypt_block(struct nf_rreq *rq, struct nf_block *b, void *out)
{
	struct toy_file *f = file_of(nf_rreq_ictx(rq));

	/* Where it belongs is part of the seal: no block can stand for another. */
	return toy_unseal(f->t, f->ino << 24 ^ b->index, *version_of(b), b->sealed, b->sealed_len, out);
}

/* --- writing ---------------------------------------------------------------------------------------- */

static int encrypt_block(struct nf_wreq *wq, struct nf_block *b)
{
	struct toy_file *f = file_of(nf_wreq_ictx(wq));
	uint64_t v = ++f->t->last_version;
	void *sealed = malloc(b->plain_len + TOY_SEAL_BYTES);

	if (!sealed)
		return -ENOMEM;
	int r = toy_seal(f->t, f->ino << 24 ^ b->index, v, b->plain, b->plain_len, sealed);
	if (r < 0) {
		free(sealed);
		return r;
	}
	b->sealed = sealed;
	b->sealed_len = b->plain_len + TOY_SEAL_BYTES;
	b->owned = true;
	*version_of(b) = v;
	return 0;
}

static void issue_write(struct nf_subreq *sq)
{
	struct toy_file *f = file_of(sq->ic);
	int r = 0;

	for (unsigned i = 0; i < sq->nr_blocks && r == 0; i++) {
		struct nf_block *b = &sq->blocks[i];
		char name[64];
		block_name(name, f->ino, b->index, *version_of(b));
		r = toy_write_file(f->t, name, b->sealed, b->sealed_len);
	}
	nf_subreq_terminated(sq, r);
}

static bool room_for(struct toy_file *f, uint64_t nr)
{
	if (nr <= f->nr_blocks)
		return true;
	uint64_t *more = realloc(f->version, nr * sizeof *more);
	if (!more)
		return false;
	memset(more + f->nr_blocks, 0, (nr - f->nr_blocks) * sizeof *more);
	f->version = more;
	f->nr_blocks = nr;
	return true;
}

/* Its file goes when the next map is in place: until then a crash leads back to it. */
static void replace_locked(struct toy_file *f, uint64_t index, uint64_t version)
{
	if (f->version[index]) {
		void *more = realloc(f->garbage, (f->nr_garbage + 1) * sizeof *f->garbage);
		if (more) { /* otherwise it is swept at the next start */
			f->garbage = more;
			f->garbage[f->nr_garbage][0] = index;
			f->garbage[f->nr_garbage++][1] = f->version[index];
		}
	}
	f->version[index] = version;
}

static void write_stored(struct nf_wreq *wq)
{
	struct toy_file *f = file_of(nf_wreq_ictx(wq));
	unsigned nr;
	struct nf_block *b = nf_wreq_blocks(wq, &nr);

	(void)pthread_mutex_lock(&f->t->lock);
	for (unsigned i = 0; i < nr; i++) {
		if (!room_for(f, b[i].index + 1)) {
			f->error = -ENOMEM;
			break;
		}
		replace_locked(f, b[i].index, *version_of(&b[i]));
	}
	(void)pthread_mutex_unlock(&f->t->lock);
}

static void apply_holes_locked(struct toy_file *f, const struct nf_group_info *g)
{
	uint64_t end = (g->size_bytes + TOY_BLOCK_BYTES - 1) / TOY_BLOCK_BYTES;

	for (size_t i = 0; i < g->nr_holes; i++) {
		const struct nf_range *h = &g->holes[i];
		uint64_t from = (h->start + TOY_BLOCK_BYTES - 1) / TOY_BLOCK_BYTES;
		/* A hole that reaches the end of the file covers its last block. */
		uint64_t to = h->end >= g->size_bytes ? end : h->end / TOY_BLOCK_BYTES;
		for (; from < to && from < f->nr_blocks; from++)
			replace_locked(f, from, 0);
	}
	for (uint64_t i = end; i < f->nr_blocks; i++)
		replace_locked(f, i, 0);
}

static int save_map_locked(struct toy_file *f, uint64_t size_bytes)
{
	struct map_head h = { size_bytes, f->mtime.tv_sec, (uint64_t)f->mtime.tv_nsec, f->nr_blocks };
	size_t len = sizeof h + f->nr_blocks * sizeof *f->version;
	char name[64], *bytes = malloc(len);

	if (!bytes)
		return -ENOMEM;
	memcpy(bytes, &h, sizeof h);
	if (f->nr_blocks)
		memcpy(bytes + sizeof h, f->version, len - sizeof h);
	map_name(name, f->ino);
	int r = toy_put(f->t, name, f->ino, bytes, len);
	free(bytes);
	return r;
}

static int group_stored(struct nf_ictx *ic, const struct nf_group_info *g)
{
	struct toy_file *f = file_of(ic);

	/* A toy writes with its lock held. */
	(void)pthread_mutex_lock(&f->t->lock);
	apply_holes_locked(f, g);
	int r = f->error ? f->error : save_map_locked(f, g->size_bytes);
	f->error = r;
	for (size_t i = 0; r == 0 && i < f->nr_garbage; i++)
		remove_block(f, f->garbage[i][0], f->garbage[i][1]);
	if (r == 0)
		f->nr_garbage = 0;
	(void)pthread_mutex_unlock(&f->t->lock);
	return 0; /* fsync asks for f->error */
}

static const struct nf_netfs_ops netfs_ops = {
	.name = "toyfs",
	.issue_read = issue_read,
	.decrypt_block = decrypt_block,
	.encrypt_block = encrypt_block,
	.issue_write = issue_write,
	.write_stored = write_stored,
	.group_stored = group_stored,
};

/* --- files --------------------------------------------------------------------------------------------- */

static int load_map(struct toy_file *f, uint64_t *size_bytes)
{
	struct map_head h;
	char name[64];
	void *bytes;
	size_t len;

	map_name(name, f->ino);
	int r = toy_get(f->t, name, f->ino, &bytes, &len);
	if (r == -ENOENT)
		return 0; /* created, nothing stored yet */
	if (r < 0)
		return r;
	r = -NF_E_FORMAT_BAD;
	if (len >= sizeof h) {
		memcpy(&h, bytes, sizeof h);
		if (h.nr_blocks == (len - sizeof h) / sizeof *f->version && (len - sizeof h) % sizeof *f->version == 0)
			r = room_for(f, h.nr_blocks) ? 0 : -ENOMEM;
	}
	if (r == 0) {
		if (h.nr_blocks)
			memcpy(f->version, (char *)bytes + sizeof h, len - sizeof h);
		f->mtime = (struct timespec){ h.mtime_s, (long)h.mtime_ns };
		*size_bytes = h.size_bytes;
	}
	free(bytes);
	return r;
}

int toy_file_open(struct toy *t, struct toy_file *f)
{
	uint64_t size = 0;

	f->t = t;
	int r = load_map(f, &size);
	if (r == 0) /* stored bytes end where the file ends */
		r = nf_ictx_init(&f->ic, t->lib, &netfs_ops, f->ino, TOY_BLOCK_BYTES, size, size);
	if (r < 0)
		free(f->version);
	return r;
}

struct waiting {
	struct nf_io io;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
};

static void wake(struct waiting *w)
{
	(void)pthread_mutex_lock(&w->lock);
	w->done = true;
	(void)pthread_cond_signal(&w->cond);
	(void)pthread_mutex_unlock(&w->lock);
}

static void wait_for(struct waiting *w)
{
	(void)pthread_mutex_lock(&w->lock);
	while (!w->done)
		(void)pthread_cond_wait(&w->cond, &w->lock);
	(void)pthread_mutex_unlock(&w->lock);
}

static void on_io(struct nf_io *io) { wake(io->ctx); }

static void file_free(struct toy_file *f)
{
	free(f->version);
	free(f->garbage);
	free(f);
}

static void on_removed(struct nf_ictx *ic)
{
	struct toy_file *f = file_of(ic);
	char name[64];

	map_name(name, f->ino);
	(void)unlinkat(f->t->dir, name, 0);
	for (uint64_t i = 0; i < f->nr_blocks; i++)
		if (f->version[i])
			remove_block(f, i, f->version[i]);
	for (size_t i = 0; i < f->nr_garbage; i++)
		remove_block(f, f->garbage[i][0], f->garbage[i][1]);
	file_free(f);
}

void toy_file_remove(struct toy_file *f)
{
	nf_discard(&f->ic, 0);
	nf_ictx_deinit(&f->ic, on_removed);
}

static struct waiting *_Atomic closing;

static void on_closed(struct nf_ictx *ic)
{
	(void)ic;
	wake(closing);
}

int toy_file_close(struct toy_file *f)
{
	struct waiting w = { .io = { .ic = &f->ic, .done = on_io, .ctx = &w },
			     .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

	nf_fsync(&w.io);
	wait_for(&w);
	int r = w.io.error ? w.io.error : f->error;
	if (r < 0)
		nf_discard(&f->ic, r);
	w.done = false;
	closing = &w;
	nf_ictx_deinit(&f->ic, on_closed);
	wait_for(&w);
	file_free(f);
	return r;
}
