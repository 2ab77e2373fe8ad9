/* What the kernel holds open, by number.
 *
 *   fh = generation << 32 | index + 1      h[index]: used -> free -> used (generation + 1)
 *
 * Free slots form a list through next_free.  A slot with users is not given up. */
#include "fuse/session.h"

#include "base/assert.h"
#include "base/error.h"

static struct nf_handle *find_locked(struct nf_front *f, uint64_t fh)
{
	uint64_t index = (fh & UINT32_MAX) - 1;

	if (index >= f->handles.nr)
		return NULL;
	struct nf_handle *h = &f->handles.h[index];
	return h->used && h->generation == fh >> 32 ? h : NULL;
}

static int grow_locked(struct nf_handles *hs)
{
	uint32_t cap = hs->cap ? hs->cap * 2 : 64;

	if (cap < hs->cap)
		return nf_fail(-ENFILE);
	struct nf_handle *h = realloc(hs->h, cap * sizeof *h);
	if (!h)
		return nf_fail(-ENOMEM);
	hs->h = h;
	hs->cap = cap;
	return 0;
}

int nf_handle_add_locked(struct nf_front *f, uint64_t ino, struct nf_open_file *file, bool dir,
			 uint64_t *fh)
{
	struct nf_handles *hs = &f->handles;
	uint32_t index;

	NF_ASSERT(nf_lock_held(&f->lock));
	if (hs->first_free) {
		index = hs->first_free - 1;
		hs->first_free = hs->h[index].next_free;
	} else {
		if (hs->nr == hs->cap) {
			int r = grow_locked(hs);
			if (r)
				return r;
		}
		index = hs->nr++;
		hs->h[index].generation = 0;
	}
	hs->h[index] = (struct nf_handle){
		.ino = ino, .file = file, .dir = dir, .used = true,
		.generation = hs->h[index].generation + 1,
	};
	hs->nr_used++;
	*fh = (uint64_t)hs->h[index].generation << 32 | (index + 1);
	return 0;
}

int nf_handle_get_locked(struct nf_front *f, uint64_t fh, uint64_t ino, struct nf_open_file **file)
{
	struct nf_handle *h = find_locked(f, fh);

	if (!h || h->ino != ino)
		return nf_fail(-EBADF);
	h->users++;
	*file = h->file;
	return 0;
}

void nf_handle_put_locked(struct nf_front *f, uint64_t fh)
{
	struct nf_handle *h = find_locked(f, fh);

	NF_ASSERT(h && h->users > 0);
	h->users--;
}

static void drop_locked(struct nf_handles *hs, struct nf_handle *h)
{
	NF_ASSERT(hs->nr_used > 0);
	hs->nr_used--;
	h->used = false;
	h->next_free = hs->first_free;
	hs->first_free = (uint32_t)(h - hs->h) + 1;
}

static int take_locked(struct nf_front *f, uint64_t fh, uint64_t ino, struct nf_open_file **file)
{
	struct nf_handle *h = find_locked(f, fh);

	if (!h || h->ino != ino)
		return nf_fail(-EBADF);
	/* The kernel releases a file after its last call; anything else is not a kernel we
	 * can follow.  What is refused here is released at the end of the session. */
	if (h->users)
		return nf_fail(-EBUSY);
	*file = h->file;
	drop_locked(&f->handles, h);
	return 0;
}

int nf_handle_take(struct nf_front *f, uint64_t fh, uint64_t ino, struct nf_open_file **file)
{
	nf_lock_take(&f->lock);
	int r = take_locked(f, fh, ino, file);
	nf_lock_drop(&f->lock);
	return r;
}

void nf_handles_release_all(struct nf_front *f)
{
	nf_lock_take(&f->lock);
	for (uint32_t i = 0; i < f->handles.nr; i++) {
		struct nf_handle *h = &f->handles.h[i];
		if (!h->used)
			continue;
		NF_ASSERT(!h->users);
		uint64_t fh = (uint64_t)h->generation << 32 | (i + 1);
		uint64_t ino = h->ino;
		bool dir = h->dir;
		nf_lock_drop(&f->lock);
		nf_handle_release(f, fh, ino, dir);
		nf_lock_take(&f->lock);
	}
	nf_lock_drop(&f->lock);
}

int nf_handles_inodes(struct nf_front *f, uint64_t **inos, size_t *nr)
{
	int r = 0;

	nf_lock_take(&f->lock);
	size_t n = 0;
	uint64_t *list = malloc((f->handles.nr_used + 1) * sizeof *list);
	if (!list)
		r = nf_fail(-ENOMEM);
	for (uint32_t i = 0; list && i < f->handles.nr; i++) {
		if (f->handles.h[i].used)
			list[n++] = f->handles.h[i].ino;
	}
	nf_lock_drop(&f->lock);
	if (r)
		return r;
	*inos = list;
	*nr = n;
	return 0;
}
