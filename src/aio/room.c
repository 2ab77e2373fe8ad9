/* The account of a disk's room.  Threads: any caller. */
#include "aio/room.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/trace.h"

#include <inttypes.h>

enum { LOOK_MS = 100, SPARE_SHARE = 8 };

/* I never changed;  l lock */
struct nf_room {
	struct nf_lock lock;
	const struct nf_file_ops *files; /* I */
	char *path;			 /* I */
	struct nf_file_room disk;	 /* l  as last asked */
	uint64_t asked_ns;		 /* l  when; 0: never */
	uint64_t unseen_bytes;		 /* l  written since */
	uint64_t taken_bytes;		 /* l */
	uint64_t owed_bytes[NF_ROOM_OWED_NR]; /* l */
};

int nf_room_new(const struct nf_file_ops *files, const char *path, struct nf_room **out)
{
	struct nf_room *r = calloc(1, sizeof *r);

	if (!r)
		return nf_fail(-ENOMEM);
	r->files = files;
	r->path = strdup(path);
	if (!r->path) {
		free(r);
		return nf_fail(-ENOMEM);
	}
	nf_lock_init(&r->lock, NF_RANK_LEAF);
	*out = r;
	return 0;
}

void nf_room_free(struct nf_room *r)
{
	if (!r)
		return;
	NF_ASSERT(r->taken_bytes == 0);
	nf_lock_deinit(&r->lock);
	free(r->path);
	free(r);
}

/* What was written while the disk was asked may be in its answer or not: it counts on. */
void nf_room_ask(struct nf_room *r)
{
	struct nf_file_room now = { 0 };

	nf_lock_take(&r->lock);
	uint64_t before = r->unseen_bytes;
	nf_lock_drop(&r->lock);
	uint64_t at = nf_clock_ns();
	if (r->files->room(r->files, r->path, &now) < 0)
		now = (struct nf_file_room){ 0 };
	nf_lock_take(&r->lock);
	r->disk = now;
	r->asked_ns = at;
	r->unseen_bytes -= NF_MIN(before, r->unseen_bytes);
	nf_lock_drop(&r->lock);
}

uint64_t nf_room_spare(const struct nf_file_room *disk)
{
	return NF_MIN((uint64_t)NF_ROOM_SPARE_BYTES, disk->total_bytes / SPARE_SHARE);
}

static uint64_t sum(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

static uint64_t claimed_locked(const struct nf_room *r)
{
	uint64_t all = r->taken_bytes;

	for (int i = 0; i < NF_ROOM_OWED_NR; i++)
		all = sum(all, r->owed_bytes[i]);
	return all;
}

static uint64_t left_locked(const struct nf_room *r, enum nf_room_use use)
{
	uint64_t spare = use == NF_ROOM_FREE ? nf_room_spare(&r->disk) / 2 : nf_room_spare(&r->disk);
	uint64_t gone = sum(sum(claimed_locked(r), r->unseen_bytes), spare);

	return r->disk.free_bytes - NF_MIN(r->disk.free_bytes, gone);
}

bool nf_room_take_known(struct nf_room *r, enum nf_room_use use, uint64_t bytes)
{
	nf_lock_take(&r->lock);
	bool had = left_locked(r, use) >= bytes;
	if (had)
		r->taken_bytes += bytes;
	nf_lock_drop(&r->lock);
	return had;
}

bool nf_room_take(struct nf_room *r, enum nf_room_use use, uint64_t bytes)
{
	nf_lock_take(&r->lock);
	bool old = r->asked_ns == 0 || nf_clock_ns() > r->asked_ns + LOOK_MS * NF_NS_PER_MS;
	nf_lock_drop(&r->lock);
	if (!old && nf_room_take_known(r, use, bytes))
		return true;
	nf_room_ask(r);
	bool had = nf_room_take_known(r, use, bytes);
	if (!had)
		nf_trace(JOURNAL, "no room for bytes=%" PRIu64 " use=%d", bytes, use);
	return had;
}

void nf_room_give(struct nf_room *r, uint64_t bytes)
{
	nf_lock_take(&r->lock);
	NF_ASSERT(r->taken_bytes >= bytes);
	r->taken_bytes -= bytes;
	nf_lock_drop(&r->lock);
}

void nf_room_wrote(struct nf_room *r, uint64_t bytes)
{
	nf_lock_take(&r->lock);
	r->unseen_bytes = sum(r->unseen_bytes, bytes);
	nf_lock_drop(&r->lock);
}

void nf_room_owe(struct nf_room *r, enum nf_room_owed what, uint64_t bytes)
{
	nf_lock_take(&r->lock);
	r->owed_bytes[what] = bytes;
	nf_lock_drop(&r->lock);
}

uint64_t nf_room_claimed(struct nf_room *r)
{
	nf_lock_take(&r->lock);
	uint64_t bytes = claimed_locked(r);
	nf_lock_drop(&r->lock);
	return bytes;
}

uint64_t nf_room_left(struct nf_room *r)
{
	nf_lock_take(&r->lock);
	uint64_t bytes = left_locked(r, NF_ROOM_WRITE);
	nf_lock_drop(&r->lock);
	return bytes;
}

bool nf_room_is_short(struct nf_room *r, uint64_t bytes)
{
	nf_lock_take(&r->lock);
	bool is = r->disk.free_bytes < sum(sum(claimed_locked(r), r->unseen_bytes), bytes);
	nf_lock_drop(&r->lock);
	return is;
}

bool nf_room_could(struct nf_room *r, uint64_t bytes)
{
	nf_lock_take(&r->lock);
	bool could = bytes <= r->disk.total_bytes - nf_room_spare(&r->disk);
	nf_lock_drop(&r->lock);
	return could;
}

bool nf_room_same_disk(struct nf_room *r, const char *path)
{
	struct nf_file_room a, b;

	return r->files->room(r->files, r->path, &a) == 0 && r->files->room(r->files, path, &b) == 0 && a.disk == b.disk &&
	       a.total_bytes == b.total_bytes;
}

void nf_room_stats(struct nf_room *r, struct nf_room_stats *out)
{
	nf_lock_take(&r->lock);
	*out = (struct nf_room_stats){ .free_bytes = r->disk.free_bytes, .total_bytes = r->disk.total_bytes,
				       .spare_bytes = nf_room_spare(&r->disk), .taken_bytes = r->taken_bytes,
				       .owed_bytes = claimed_locked(r) - r->taken_bytes };
	nf_lock_drop(&r->lock);
}

void nf_room_to_text(struct nf_room *r, struct nf_text *t)
{
	struct nf_room_stats s;

	nf_room_stats(r, &s);
	nf_textf(t, "room free=%" PRIu64 " of=%" PRIu64 " owed=%" PRIu64 " taken=%" PRIu64 " spare=%" PRIu64 "\n", s.free_bytes,
		 s.total_bytes, s.owed_bytes, s.taken_bytes, s.spare_bytes);
}
