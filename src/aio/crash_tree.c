/* Plain arrays: these disks hold tens of files and a few megabytes. */
#include "aio/crash_tree.h"

#include "base/assert.h"
#include "base/mem.h"

void *nf_ct_alloc(void *old, size_t size)
{
	void *p = realloc(old, size ? size : 1);

	NF_ASSERT(p);
	return p;
}

static void *copy_of(const void *p, size_t len)
{
	void *q = nf_ct_alloc(NULL, len);

	if (len > 0)
		memcpy(q, p, len);
	return q;
}

void nf_ct_init(struct nf_ct *t)
{
	*t = (struct nf_ct){ 0 };
	nf_ct_make(t, NF_CT_ROOT, true);
	t->inodes[NF_CT_ROOT].links = 1;
}

void nf_ct_deinit(struct nf_ct *t)
{
	for (uint32_t i = 0; i < t->nr; i++) {
		struct nf_ct_inode *in = &t->inodes[i];
		for (size_t k = 0; k < in->nr_names; k++)
			free(in->names[k].name);
		free(in->names);
		free(in->data);
		free(in->blocks);
	}
	free(t->inodes);
	*t = (struct nf_ct){ 0 };
}

void nf_ct_copy(struct nf_ct *to, const struct nf_ct *from)
{
	to->nr = from->nr;
	to->inodes = copy_of(from->inodes, from->nr * sizeof *from->inodes);
	for (uint32_t i = 0; i < to->nr; i++) {
		struct nf_ct_inode *in = &to->inodes[i];
		in->opens = 0;
		in->names = copy_of(in->names, in->nr_names * sizeof *in->names);
		for (size_t k = 0; k < in->nr_names; k++)
			in->names[k].name = copy_of(in->names[k].name,
						    strlen(in->names[k].name) + 1);
		in->data = copy_of(in->data, in->size);
		in->cap = in->size;
		in->blocks = copy_of(in->blocks, in->nr_blocks * sizeof *in->blocks);
	}
}

void nf_ct_make(struct nf_ct *t, uint32_t ino, bool is_dir)
{
	if (ino >= t->nr) {
		t->inodes = nf_ct_alloc(t->inodes, (ino + 1) * sizeof *t->inodes);
		memset(&t->inodes[t->nr], 0, (ino + 1 - t->nr) * sizeof *t->inodes);
		t->nr = ino + 1;
	}
	t->inodes[ino].is_dir = is_dir;
}

struct nf_ct_name *nf_ct_find(const struct nf_ct *t, uint32_t dir, const char *name)
{
	const struct nf_ct_inode *d = &t->inodes[dir];

	for (size_t i = 0; i < d->nr_names; i++)
		if (strcmp(d->names[i].name, name) == 0)
			return &d->names[i];
	return NULL;
}

void nf_ct_link(struct nf_ct *t, uint32_t dir, const char *name, uint32_t ino)
{
	struct nf_ct_inode *d = &t->inodes[dir];
	struct nf_ct_name *n = nf_ct_find(t, dir, name);

	t->inodes[ino].links++;
	if (n) {
		t->inodes[n->ino].links--;
		n->ino = ino;
		return;
	}
	d->names = nf_ct_alloc(d->names, (d->nr_names + 1) * sizeof *d->names);
	d->names[d->nr_names++] =
		(struct nf_ct_name){ .name = copy_of(name, strlen(name) + 1), .ino = ino };
}

void nf_ct_unlink(struct nf_ct *t, uint32_t dir, const char *name, uint32_t ino)
{
	struct nf_ct_inode *d = &t->inodes[dir];
	struct nf_ct_name *n = nf_ct_find(t, dir, name);

	if (!n || n->ino != ino)
		return;
	t->inodes[ino].links--;
	free(n->name);
	*n = d->names[--d->nr_names];
}

static void resize(struct nf_ct_inode *in, size_t size)
{
	if (size > in->cap) {
		in->cap = NF_MAX(size, 2 * in->cap);
		in->data = nf_ct_alloc(in->data, in->cap);
	}
	size_t nr_blocks = nf_round_up(size, NF_CT_BLOCK) / NF_CT_BLOCK;
	for (size_t i = nr_blocks; i < in->nr_blocks; i++)
		in->used_bytes -= in->blocks[i] ? NF_CT_BLOCK : 0;
	in->blocks = nf_ct_alloc(in->blocks, nr_blocks * sizeof *in->blocks);
	for (size_t i = in->nr_blocks; i < nr_blocks; i++)
		in->blocks[i] = false;
	in->nr_blocks = nr_blocks;
	if (size > in->size)
		memset(in->data + in->size, 0, size - in->size);
	in->size = size;
}

void nf_ct_write(struct nf_ct *t, uint32_t ino, uint64_t offset, const void *data, size_t len)
{
	struct nf_ct_inode *in = &t->inodes[ino];

	if (offset + len > in->size)
		resize(in, offset + len);
	if (!data || len == 0)
		return;
	memcpy(in->data + offset, data, len);
	for (size_t b = offset / NF_CT_BLOCK; b <= (offset + len - 1) / NF_CT_BLOCK; b++) {
		in->used_bytes += in->blocks[b] ? 0 : NF_CT_BLOCK;
		in->blocks[b] = true;
	}
}

void nf_ct_truncate(struct nf_ct *t, uint32_t ino, uint64_t size)
{
	resize(&t->inodes[ino], (size_t)size);
}

void nf_ct_reap(struct nf_ct *t, uint32_t ino)
{
	struct nf_ct_inode *in = &t->inodes[ino];

	if (in->links > 0 || in->opens > 0 || in->is_dir)
		return;
	resize(in, 0);
	free(in->data);
	in->data = NULL;
	in->cap = 0;
}

void nf_ct_punch(struct nf_ct *t, uint32_t ino, uint64_t offset, uint64_t len)
{
	struct nf_ct_inode *in = &t->inodes[ino];

	if (offset >= in->size)
		return;
	memset(in->data + offset, 0, (size_t)NF_MIN(len, in->size - offset));
	for (size_t b = nf_round_up(offset, NF_CT_BLOCK) / NF_CT_BLOCK;
	     b < in->nr_blocks && (b + 1) * NF_CT_BLOCK <= offset + len; b++) {
		in->used_bytes -= in->blocks[b] ? NF_CT_BLOCK : 0;
		in->blocks[b] = false;
	}
}

uint64_t nf_ct_needs(const struct nf_ct *t, uint32_t ino, uint64_t offset, size_t len)
{
	const struct nf_ct_inode *in = &t->inodes[ino];
	uint64_t needs = 0;

	for (size_t b = offset / NF_CT_BLOCK; len > 0 && b <= (offset + len - 1) / NF_CT_BLOCK; b++)
		if (b >= in->nr_blocks || !in->blocks[b])
			needs += NF_CT_BLOCK;
	return needs;
}

uint64_t nf_ct_used(const struct nf_ct *t)
{
	uint64_t used = 0;

	for (uint32_t i = 0; i < t->nr; i++)
		if (t->inodes[i].links > 0 || t->inodes[i].opens > 0)
			used += t->inodes[i].used_bytes;
	return used;
}
