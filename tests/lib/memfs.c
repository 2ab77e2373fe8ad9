/* A filesystem in memory.
 *
 *   memfs.nodes[ino] -> node -> dir: entries[] by rising cookie
 *                            -> file: chunks, a tree by index of CHUNK_BYTES each (a hole is no chunk)
 *                            -> link: target
 *   A node lives while it has links or is open. */
#include "memfs.h"

#include "aio/pool.h"
#include "base/assert.h"
#include "base/avl.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lock.h"
#include "base/mem.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { CHUNK_BYTES = 4096, ROOT_INO = 1 };

struct chunk {
	struct nf_avl_node link;
	uint64_t index;
	char bytes[CHUNK_BYTES];
};

struct entry {
	char *name;
	uint64_t ino;
	uint64_t cookie;
};

struct xattr {
	struct xattr *next;
	char *name;
	void *value;
	size_t size;
};

struct node {
	struct nf_attr a;
	unsigned opens;
	struct nf_avl chunks;
	uint64_t nr_chunks;
	struct entry *entries;
	size_t nr, cap;
	uint64_t next_cookie;
	uint64_t parent;
	char *target;
	struct xattr *xattrs;
};

struct memfs {
	struct nf_fs fs;
	struct nf_lock lock;
	struct node **nodes;
	size_t nr, cap;
	unsigned defer;
	_Atomic unsigned calls;
	struct nf_pool *pool;
};

struct job {
	struct nf_work work;
	struct memfs *m;
	struct nf_call *c;
};

/* --- nodes --------------------------------------------------------------------------- */

static struct node *node_of(struct memfs *m, uint64_t ino)
{
	return ino && ino < m->nr ? m->nodes[ino] : NULL;
}

static int node_new(struct memfs *m, uint32_t mode, const struct nf_call *c, struct node **out)
{
	if (m->nr >= m->cap) {
		size_t cap = m->cap ? m->cap * 2 : 1024;
		struct node **n = realloc(m->nodes, cap * sizeof(*n));
		if (!n)
			return -ENOMEM;
		m->nodes = n;
		m->cap = cap;
	}
	struct node *n = calloc(1, sizeof *n);
	if (!n)
		return -ENOMEM;
	struct timespec now = nf_clock_real();
	n->a = (struct nf_attr){
		.ino = m->nr, .mode = mode, .nlink = S_ISDIR(mode) ? 2 : 1, .blksize = 4096,
		.uid = c ? c->uid : getuid(), .gid = c ? c->gid : getgid(),
		.atime = now, .mtime = now, .ctime = now, .btime = now,
	};
	n->next_cookie = 3;
	nf_avl_init(&n->chunks, NULL);
	m->nodes[m->nr++] = n;
	*out = n;
	return 0;
}

static int cmp_chunk(const void *key, const struct nf_avl_node *at)
{
	uint64_t k = *(const uint64_t *)key;
	const struct chunk *ch = nf_container_of(at, const struct chunk, link);

	return k < ch->index ? -1 : k > ch->index;
}

/* Frees whole chunks in [from, to) by index. */
static void drop_chunks(struct node *n, uint64_t from, uint64_t to)
{
	struct nf_avl_node *at = nf_avl_lower(&n->chunks, &from, cmp_chunk);

	while (at) {
		struct chunk *ch = nf_container_of(at, struct chunk, link);
		struct nf_avl_node *next = nf_avl_next(at);
		if (ch->index >= to)
			break;
		nf_avl_erase(&n->chunks, at);
		free(ch);
		n->nr_chunks--;
		at = next;
	}
	n->a.blocks = n->nr_chunks * (CHUNK_BYTES / 512);
}

static void node_free(struct memfs *m, struct node *n)
{
	m->nodes[n->a.ino] = NULL;
	drop_chunks(n, 0, UINT64_MAX);
	for (size_t i = 0; i < n->nr; i++)
		free(n->entries[i].name);
	free(n->entries);
	while (n->xattrs) {
		struct xattr *x = n->xattrs;
		n->xattrs = x->next;
		free(x->name);
		free(x->value);
		free(x);
	}
	free(n->target);
	free(n);
}

static void node_unref(struct memfs *m, struct node *n)
{
	if (!n->opens && !n->a.nlink)
		node_free(m, n);
}

static void touch(struct node *n, bool data)
{
	n->a.ctime = nf_clock_real();
	if (data)
		n->a.mtime = n->a.ctime;
}

/* --- bytes --------------------------------------------------------------------------- */

static struct chunk *chunk_at(struct node *n, uint64_t index, bool make)
{
	struct nf_avl_node *at = nf_avl_find(&n->chunks, &index, cmp_chunk);

	if (at || !make)
		return at ? nf_container_of(at, struct chunk, link) : NULL;
	struct chunk *ch = calloc(1, sizeof *ch);
	if (!ch)
		return NULL;
	ch->index = index;
	(void)nf_avl_add(&n->chunks, &index, cmp_chunk, &ch->link);
	n->nr_chunks++;
	n->a.blocks = n->nr_chunks * (CHUNK_BYTES / 512);
	return ch;
}

static int put_bytes(struct node *n, uint64_t pos, const char *p, uint64_t len)
{
	while (len) {
		uint64_t in = pos % CHUNK_BYTES, part = NF_MIN(len, CHUNK_BYTES - in);
		struct chunk *ch = chunk_at(n, pos / CHUNK_BYTES, true);
		if (!ch)
			return -ENOSPC;
		memcpy(ch->bytes + in, p, part);
		pos += part;
		p += part;
		len -= part;
		n->a.size_bytes = NF_MAX(n->a.size_bytes, pos);
	}
	return 0;
}

static void get_bytes(struct node *n, uint64_t pos, char *p, uint64_t len)
{
	while (len) {
		uint64_t in = pos % CHUNK_BYTES, part = NF_MIN(len, CHUNK_BYTES - in);
		struct chunk *ch = chunk_at(n, pos / CHUNK_BYTES, false);
		if (ch)
			memcpy(p, ch->bytes + in, part);
		else
			memset(p, 0, part);
		pos += part;
		p += part;
		len -= part;
	}
}

static void zero_bytes(struct node *n, uint64_t pos, uint64_t end)
{
	uint64_t first = (pos + CHUNK_BYTES - 1) / CHUNK_BYTES, last = end / CHUNK_BYTES;

	if (first > last) { /* inside one chunk */
		struct chunk *ch = chunk_at(n, pos / CHUNK_BYTES, false);
		if (ch)
			memset(ch->bytes + pos % CHUNK_BYTES, 0, end - pos);
		return;
	}
	struct chunk *head = chunk_at(n, pos / CHUNK_BYTES, false);
	struct chunk *tail = chunk_at(n, last, false);
	if (pos % CHUNK_BYTES && head)
		memset(head->bytes + pos % CHUNK_BYTES, 0, CHUNK_BYTES - pos % CHUNK_BYTES);
	if (tail)
		memset(tail->bytes, 0, end % CHUNK_BYTES);
	drop_chunks(n, first, last);
}

static void set_size(struct node *n, uint64_t size)
{
	if (size < n->a.size_bytes)
		zero_bytes(n, size, nf_round_up(n->a.size_bytes, CHUNK_BYTES));
	n->a.size_bytes = size;
}

static void kill_suidgid(struct node *n)
{
	n->a.mode &= ~(uint32_t)S_ISUID;
	if (n->a.mode & S_IXGRP)
		n->a.mode &= ~(uint32_t)S_ISGID;
}

/* --- directories --------------------------------------------------------------------- */

static struct entry *entry_find(struct node *dir, const char *name)
{
	for (size_t i = 0; i < dir->nr; i++) {
		if (!strcmp(dir->entries[i].name, name))
			return &dir->entries[i];
	}
	return NULL;
}

static int entry_add(struct node *dir, const char *name, struct node *n)
{
	if (dir->nr == dir->cap) {
		size_t cap = dir->cap ? dir->cap * 2 : 16;
		struct entry *e = realloc(dir->entries, cap * sizeof *e);
		if (!e)
			return -ENOMEM;
		dir->entries = e;
		dir->cap = cap;
	}
	char *copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	dir->entries[dir->nr++] = (struct entry){ copy, n->a.ino, dir->next_cookie++ };
	if (S_ISDIR(n->a.mode)) {
		n->parent = dir->a.ino;
		dir->a.nlink++;
	}
	touch(dir, true);
	return 0;
}

static void entry_remove(struct node *dir, struct entry *e, const struct node *n)
{
	if (S_ISDIR(n->a.mode))
		dir->a.nlink--;
	free(e->name);
	memmove(e, e + 1, (size_t)(dir->entries + dir->nr - e - 1) * sizeof *e);
	dir->nr--;
	touch(dir, true);
}

static int dir_of(struct memfs *m, uint64_t ino, struct node **out)
{
	struct node *n = node_of(m, ino);

	if (!n || !n->a.nlink)
		return -ENOENT;
	if (!S_ISDIR(n->a.mode))
		return -ENOTDIR;
	*out = n;
	return 0;
}

static int find(struct memfs *m, uint64_t parent, const char *name, struct node **dir,
		struct entry **e, struct node **n)
{
	int r = dir_of(m, parent, dir);

	if (r)
		return r;
	*e = entry_find(*dir, name);
	if (!*e)
		return -ENOENT;
	*n = node_of(m, (*e)->ino);
	return 0;
}

static struct xattr **xattr_find(struct node *n, const char *name)
{
	struct xattr **at = &n->xattrs;

	while (*at && strcmp((*at)->name, name))
		at = &(*at)->next;
	return at;
}

/* The umask counts unless the directory has a default ACL. */
static uint32_t masked(struct node *dir, const struct nf_call *c, uint32_t mode)
{
	return *xattr_find(dir, "system.posix_acl_default") ? mode : mode & ~c->umask;
}

static int make(struct memfs *m, struct nf_call *c, const char *name, uint32_t mode, struct node **out)
{
	struct node *dir, *n;
	int r = dir_of(m, c->ino, &dir);

	if (!r && entry_find(dir, name))
		r = -EEXIST;
	if (!r)
		r = node_new(m, S_ISLNK(mode) ? mode : masked(dir, c, mode), c, &n);
	if (r)
		return r;
	if (dir->a.mode & S_ISGID) {
		n->a.gid = dir->a.gid;
		if (S_ISDIR(mode))
			n->a.mode |= S_ISGID;
	}
	r = entry_add(dir, name, n);
	if (r)
		return r;
	*out = n;
	return 0;
}

/* --- calls on names ------------------------------------------------------------------ */

static int give(struct nf_call *c, const struct node *n)
{
	c->attr = n->a;
	return 0;
}

static int do_lookup(struct memfs *m, struct nf_call *c)
{
	struct node *dir, *n;
	struct entry *e;
	int r = find(m, c->ino, c->name, &dir, &e, &n);

	if (r == -ENOENT && node_of(m, c->ino)) {
		c->attr = (struct nf_attr){ 0 };
		return 0;
	}
	return r ? r : give(c, n);
}

static int do_mknod(struct memfs *m, struct nf_call *c)
{
	struct node *n;
	int r = make(m, c, c->name, c->mode, &n);

	if (r)
		return r;
	n->a.rdev = c->rdev;
	return give(c, n);
}

static int do_mkdir(struct memfs *m, struct nf_call *c)
{
	struct node *n;
	int r = make(m, c, c->name, (c->mode & 07777) | S_IFDIR, &n);

	return r ? r : give(c, n);
}

static int do_symlink(struct memfs *m, struct nf_call *c)
{
	struct node *n;
	int r = make(m, c, c->name, S_IFLNK | 0777, &n);

	if (r)
		return r;
	n->target = strdup(c->name2);
	n->a.size_bytes = strlen(c->name2);
	return n->target ? give(c, n) : -ENOMEM;
}

static int do_readlink(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);

	if (!n || !n->target)
		return n ? -EINVAL : -ENOENT;
	c->buf = strdup(n->target);
	return c->buf ? 0 : -ENOMEM;
}

static void drop_link(struct memfs *m, struct node *n)
{
	n->a.nlink = S_ISDIR(n->a.mode) ? 0 : n->a.nlink - 1;
	touch(n, false);
	node_unref(m, n);
}

static int do_unlink(struct memfs *m, struct nf_call *c)
{
	struct node *dir, *n;
	struct entry *e;
	int r = find(m, c->ino, c->name, &dir, &e, &n);

	if (!r && S_ISDIR(n->a.mode))
		r = -EISDIR;
	if (r)
		return r;
	entry_remove(dir, e, n);
	drop_link(m, n);
	return 0;
}

static int do_rmdir(struct memfs *m, struct nf_call *c)
{
	struct node *dir, *n;
	struct entry *e;
	int r = find(m, c->ino, c->name, &dir, &e, &n);

	if (!r && !S_ISDIR(n->a.mode))
		r = -ENOTDIR;
	if (!r && n->nr)
		r = -ENOTEMPTY;
	if (r)
		return r;
	entry_remove(dir, e, n);
	drop_link(m, n);
	return 0;
}

static int do_link(struct memfs *m, struct nf_call *c)
{
	struct node *dir, *n = node_of(m, c->ino);
	int r = dir_of(m, c->ino2, &dir);

	if (!n)
		return -ENOENT;
	if (!r && entry_find(dir, c->name2))
		r = -EEXIST;
	if (!r)
		r = entry_add(dir, c->name2, n);
	if (r)
		return r;
	n->a.nlink++;
	touch(n, false);
	return give(c, n);
}

static int exchange(struct node *dir, struct entry *e, struct node *n, struct node *dir2,
		    struct entry *e2, struct node *n2)
{
	uint64_t ino = e->ino;

	e->ino = e2->ino;
	e2->ino = ino;
	if (S_ISDIR(n->a.mode)) {
		n->parent = dir2->a.ino;
		dir->a.nlink--;
		dir2->a.nlink++;
	}
	if (S_ISDIR(n2->a.mode)) {
		n2->parent = dir->a.ino;
		dir2->a.nlink--;
		dir->a.nlink++;
	}
	touch(dir, true);
	touch(dir2, true);
	touch(n, false);
	touch(n2, false);
	return 0;
}

static int may_replace(const struct node *n, const struct node *old)
{
	if (S_ISDIR(old->a.mode) && !S_ISDIR(n->a.mode))
		return -EISDIR;
	if (!S_ISDIR(old->a.mode) && S_ISDIR(n->a.mode))
		return -ENOTDIR;
	return old->nr ? -ENOTEMPTY : 0;
}

static int do_rename(struct memfs *m, struct nf_call *c)
{
	struct node *dir, *dir2, *n, *old = NULL;
	struct entry *e;
	int r = find(m, c->ino, c->name, &dir, &e, &n);

	if (!r)
		r = dir_of(m, c->ino2, &dir2);
	if (r)
		return r;
	struct entry *e2 = entry_find(dir2, c->name2);
	if (e2)
		old = node_of(m, e2->ino);
	if (c->flags & RENAME_EXCHANGE)
		return old ? exchange(dir, e, n, dir2, e2, old) : -ENOENT;
	if (old && c->flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (old == n)
		return 0;
	r = old ? may_replace(n, old) : 0;
	if (r)
		return r;
	if (old) {
		entry_remove(dir2, e2, old);
		drop_link(m, old);
	}
	entry_remove(dir, entry_find(dir, c->name), n);
	r = entry_add(dir2, c->name2, n);
	touch(n, false);
	return r;
}

/* --- attributes ---------------------------------------------------------------------- */

static int do_getattr(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);

	return n ? give(c, n) : -ENOENT;
}

static void set_times(struct node *n, const struct nf_call *c)
{
	struct timespec now = nf_clock_real();

	if (c->mask & NF_SET_ATIME)
		n->a.atime = c->attr.atime;
	if (c->mask & NF_SET_ATIME_NOW)
		n->a.atime = now;
	if (c->mask & NF_SET_MTIME)
		n->a.mtime = c->attr.mtime;
	if (c->mask & NF_SET_MTIME_NOW)
		n->a.mtime = now;
	n->a.ctime = c->mask & NF_SET_CTIME ? c->attr.ctime : now;
}

static int do_setattr(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);

	if (!n)
		return -ENOENT;
	if (c->mask & NF_SET_MODE)
		n->a.mode = (n->a.mode & S_IFMT) | (c->attr.mode & 07777);
	if (c->mask & NF_SET_UID)
		n->a.uid = c->attr.uid;
	if (c->mask & NF_SET_GID)
		n->a.gid = c->attr.gid;
	if (c->mask & NF_SET_KILL_SUIDGID)
		kill_suidgid(n);
	if (c->mask & NF_SET_SIZE) {
		set_size(n, c->attr.size_bytes);
		touch(n, true);
	}
	set_times(n, c);
	return give(c, n);
}

static int do_statfs(struct memfs *m, struct nf_call *c)
{
	c->statfs = (struct nf_statfs){
		.total_bytes = UINT64_C(1) << 40, .free_bytes = UINT64_C(1) << 39,
		.files = m->nr, .files_free = 1 << 20, .name_max = 255,
	};
	return 0;
}

/* An access ACL also sets the permission bits: tags 1 owner, 4 group, 16 mask, 32 other. */
static void mode_from_acl(struct node *n, const void *value, size_t size)
{
	const uint8_t *p = value;
	uint32_t bits[3] = { 0 };
	bool mask = false;

	for (size_t at = 4; at + 8 <= size; at += 8) {
		unsigned tag = p[at], perm = p[at + 2] & 7;
		if (tag == 1)
			bits[0] = perm;
		else if (tag == 16 || (tag == 4 && !mask))
			bits[1] = perm;
		else if (tag == 32)
			bits[2] = perm;
		mask |= tag == 16;
	}
	n->a.mode = (n->a.mode & ~0777u) | bits[0] << 6 | bits[1] << 3 | bits[2];
}

static int do_setxattr(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);

	if (!n)
		return -ENOENT;
	struct xattr **at = xattr_find(n, c->name), *x = *at;
	if (x && c->flags & XATTR_CREATE)
		return -EEXIST;
	if (!x && c->flags & XATTR_REPLACE)
		return -ENODATA;
	void *value = malloc(c->size + 1);
	if (value && !x) {
		x = calloc(1, sizeof *x);
		if (x && !(x->name = strdup(c->name)))
			nf_free_p(&x);
		if (x)
			*at = x;
	}
	if (!value || !x) {
		free(value);
		return -ENOMEM;
	}
	if (c->size)
		memcpy(value, c->data, c->size);
	free(x->value);
	x->value = value;
	x->size = c->size;
	if (!strcmp(c->name, "system.posix_acl_access"))
		mode_from_acl(n, value, c->size);
	touch(n, false);
	return 0;
}

static int do_getxattr(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);
	struct xattr *x = n ? *xattr_find(n, c->name) : NULL;

	if (!x)
		return n ? -ENODATA : -ENOENT;
	c->count = x->size;
	if (!c->size)
		return 0;
	c->buf = malloc(x->size + 1);
	if (!c->buf)
		return -ENOMEM;
	memcpy(c->buf, x->value, x->size);
	return 0;
}

static int do_listxattr(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);
	size_t len = 0;

	if (!n)
		return -ENOENT;
	for (struct xattr *x = n->xattrs; x; x = x->next)
		len += strlen(x->name) + 1;
	char *p = c->buf = malloc(len + 1);
	if (!p)
		return -ENOMEM;
	for (struct xattr *x = n->xattrs; x; x = x->next)
		p = stpcpy(p, x->name) + 1;
	c->count = len;
	return 0;
}

static int do_removexattr(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);

	if (!n)
		return -ENOENT;
	struct xattr **at = xattr_find(n, c->name), *x = *at;
	if (!x)
		return -ENODATA;
	*at = x->next;
	free(x->name);
	free(x->value);
	free(x);
	touch(n, false);
	return 0;
}

/* --- open files ---------------------------------------------------------------------- */

static int open_node(struct nf_call *c, struct node *n)
{
	if (c->flags & O_TRUNC && S_ISREG(n->a.mode) && c->op == NF_CALL_OPEN) {
		set_size(n, 0);
		touch(n, true);
		if (c->mask & NF_SET_KILL_SUIDGID)
			kill_suidgid(n);
	}
	n->opens++;
	c->file = (struct nf_open_file *)(void *)n;
	c->keep_cache = true;
	return 0;
}

static int do_open(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);

	return n ? open_node(c, n) : -ENOENT;
}

static int do_create(struct memfs *m, struct nf_call *c)
{
	struct node *n;
	int r = make(m, c, c->name, (c->mode & 07777) | S_IFREG, &n);

	if (r)
		return r;
	(void)give(c, n);
	return open_node(c, n);
}

static int do_tmpfile(struct memfs *m, struct nf_call *c)
{
	struct node *n, *dir;
	int r = dir_of(m, c->ino, &dir);

	if (!r)
		r = node_new(m, masked(dir, c, (c->mode & 07777) | S_IFREG), c, &n);
	if (r)
		return r;
	n->a.nlink = 0;
	(void)give(c, n);
	return open_node(c, n);
}

static int do_release(struct memfs *m, struct nf_call *c)
{
	struct node *n = (struct node *)(void *)c->file;

	NF_ASSERT(n->opens > 0);
	n->opens--;
	node_unref(m, n);
	return 0;
}

struct answer {
	struct iovec iov;
	char bytes[];
};

static void free_answer(struct nf_call *c)
{
	free(nf_container_of(c->iov, struct answer, iov));
}

static int do_read(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);
	uint64_t len = c->offset < n->a.size_bytes ? NF_MIN(c->size, n->a.size_bytes - c->offset) : 0;
	struct answer *a = malloc(sizeof *a + len);

	if (!a)
		return -ENOMEM;
	get_bytes(n, c->offset, a->bytes, len);
	a->iov = (struct iovec){ a->bytes, len };
	c->iov = &a->iov;
	c->nr_iov = 1;
	c->release = free_answer;
	return 0;
}

static int do_write(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);
	int r = put_bytes(n, c->offset, c->data, c->size);

	if (r)
		return r;
	if (c->write_flags & NF_WRITE_KILL_SUIDGID)
		kill_suidgid(n);
	touch(n, true);
	c->count = c->size;
	return 0;
}

static int do_fallocate(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);
	uint64_t end = c->offset + c->size;

	if (c->mode & FALLOC_FL_PUNCH_HOLE || c->mode & FALLOC_FL_ZERO_RANGE) {
		if (c->offset < n->a.size_bytes)
			zero_bytes(n, c->offset, NF_MIN(end, nf_round_up(n->a.size_bytes, CHUNK_BYTES)));
	} else if (c->mode & ~(uint32_t)FALLOC_FL_KEEP_SIZE) {
		return -EOPNOTSUPP;
	}
	if (!(c->mode & FALLOC_FL_KEEP_SIZE) && end > n->a.size_bytes)
		n->a.size_bytes = end;
	touch(n, true);
	return 0;
}

static int do_lseek(struct memfs *m, struct nf_call *c)
{
	struct node *n = node_of(m, c->ino);
	uint64_t index = c->offset / CHUNK_BYTES, pos = c->offset;

	if (pos >= n->a.size_bytes)
		return -ENXIO;
	if (c->flags == SEEK_DATA) {
		struct nf_avl_node *at = nf_avl_lower(&n->chunks, &index, cmp_chunk);
		if (!at)
			return -ENXIO;
		pos = NF_MAX(pos, nf_container_of(at, struct chunk, link)->index * CHUNK_BYTES);
		if (pos >= n->a.size_bytes)
			return -ENXIO;
	} else {
		while (chunk_at(n, index, false))
			index++;
		pos = NF_MAX(pos, index * CHUNK_BYTES);
		pos = NF_MIN(pos, n->a.size_bytes);
	}
	c->offset = pos;
	return 0;
}

static int do_copy(struct memfs *m, struct nf_call *c)
{
	struct node *from = node_of(m, c->ino), *to = node_of(m, c->ino2);
	uint64_t len = c->offset < from->a.size_bytes ?
			       NF_MIN(c->size, from->a.size_bytes - c->offset) : 0;
	nf_auto_free char *buf = malloc(len + 1);

	if (!buf)
		return -ENOMEM;
	get_bytes(from, c->offset, buf, len);
	int r = put_bytes(to, c->offset2, buf, len);
	if (r)
		return r;
	touch(to, true);
	c->count = len;
	return 0;
}

static int do_readdir(struct memfs *m, struct nf_call *c)
{
	struct node *dir = node_of(m, c->ino);

	if (c->offset < 1 && !c->fill(c, ".", 1, dir->a.ino, S_IFDIR, &dir->a, 1))
		return 0;
	if (c->offset < 2 && !c->fill(c, "..", 2, dir->parent, S_IFDIR, NULL, 2))
		return 0;
	size_t lo = 0, hi = dir->nr; /* the first entry behind the cookie */
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (dir->entries[mid].cookie <= c->offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (size_t i = lo; i < dir->nr; i++) {
		const struct entry *e = &dir->entries[i];
		const struct node *n = node_of(m, e->ino);
		if (!c->fill(c, e->name, strlen(e->name), e->ino, n->a.mode,
			     c->want_attrs ? &n->a : NULL, e->cookie))
			break;
	}
	return 0;
}

/* --- submit -------------------------------------------------------------------------- */

static int do_nothing(struct memfs *m, struct nf_call *c)
{
	(void)m;
	(void)c;
	return 0;
}

static int do_ioctl(struct memfs *m, struct nf_call *c)
{
	(void)m;
	(void)c;
	return -ENOTTY;
}

static void run(struct memfs *m, struct nf_call *c)
{
	static int (*const table[NF_CALL_NR])(struct memfs *m, struct nf_call *c) = {
		[NF_CALL_LOOKUP] = do_lookup, [NF_CALL_GETATTR] = do_getattr,
		[NF_CALL_SETATTR] = do_setattr, [NF_CALL_READLINK] = do_readlink,
		[NF_CALL_MKNOD] = do_mknod, [NF_CALL_MKDIR] = do_mkdir,
		[NF_CALL_UNLINK] = do_unlink, [NF_CALL_RMDIR] = do_rmdir,
		[NF_CALL_SYMLINK] = do_symlink, [NF_CALL_RENAME] = do_rename,
		[NF_CALL_LINK] = do_link, [NF_CALL_CREATE] = do_create,
		[NF_CALL_TMPFILE] = do_tmpfile, [NF_CALL_OPEN] = do_open,
		[NF_CALL_RELEASE] = do_release, [NF_CALL_READ] = do_read,
		[NF_CALL_WRITE] = do_write, [NF_CALL_FLUSH] = do_nothing,
		[NF_CALL_FSYNC] = do_nothing, [NF_CALL_OPENDIR] = do_open,
		[NF_CALL_READDIR] = do_readdir, [NF_CALL_RELEASEDIR] = do_release,
		[NF_CALL_FSYNCDIR] = do_nothing, [NF_CALL_STATFS] = do_statfs,
		[NF_CALL_SETXATTR] = do_setxattr, [NF_CALL_GETXATTR] = do_getxattr,
		[NF_CALL_LISTXATTR] = do_listxattr, [NF_CALL_REMOVEXATTR] = do_removexattr,
		[NF_CALL_FALLOCATE] = do_fallocate, [NF_CALL_LSEEK] = do_lseek,
		[NF_CALL_COPY_RANGE] = do_copy, [NF_CALL_IOCTL] = do_ioctl,
	};

	nf_lock_take(&m->lock);
	int r = table[c->op](m, c);
	nf_lock_drop(&m->lock);
	nf_call_done(c, r);
}

static void run_job(struct nf_work *w)
{
	struct job *j = nf_container_of(w, struct job, work);
	struct memfs *m = j->m;
	struct nf_call *c = j->c;

	free(j);
	run(m, c);
}

static void submit(struct nf_fs *fs, struct nf_call *c)
{
	struct memfs *m = nf_container_of(fs, struct memfs, fs);

	if (m->defer && ++m->calls % m->defer == 0) {
		struct job *j = malloc(sizeof *j);
		if (j && !nf_call_keep_data(c)) {
			j->m = m;
			j->c = c;
			nf_work_init(&j->work, run_job);
			nf_pool_add(m->pool, &j->work);
			return;
		}
		free(j);
	}
	run(m, c);
}

int memfs_new(unsigned defer, struct memfs **out)
{
	static const struct nf_fs_ops ops = { .submit = submit };
	struct memfs *m = calloc(1, sizeof *m);
	struct node *root;

	if (!m)
		return -ENOMEM;
	m->fs.ops = &ops;
	m->nr = ROOT_INO; /* number 0 is none */
	m->defer = defer;
	nf_lock_init(&m->lock, NF_RANK_NAMESPACE);
	int r = node_new(m, S_IFDIR | 0755, NULL, &root);
	if (!r)
		r = defer ? nf_pool_new("memfs", 2, 0, &m->pool) : 0;
	if (r)
		return r;
	root->parent = ROOT_INO;
	*out = m;
	return 0;
}

struct nf_fs *memfs_fs(struct memfs *m) { return &m->fs; }

void memfs_free(struct memfs *m)
{
	nf_pool_free(m->pool);
	for (size_t i = ROOT_INO; i < m->nr; i++) {
		if (!m->nodes[i])
			continue;
		NF_ASSERT(!m->nodes[i]->opens);
		node_free(m, m->nodes[i]);
	}
	free(m->nodes);
	nf_lock_deinit(&m->lock);
	free(m);
}

/* --- another client ------------------------------------------------------------------ */

int memfs_remote_write(struct memfs *m, const char *name, const char *bytes, bool all)
{
	struct node *dir, *n;
	struct entry *e;

	nf_lock_take(&m->lock);
	int r = find(m, ROOT_INO, name, &dir, &e, &n);
	uint64_t ino = r ? 0 : n->a.ino;
	if (!r)
		r = put_bytes(n, 0, bytes, strlen(bytes));
	nf_lock_drop(&m->lock);
	if (r || !m->fs.notify)
		return r;
	if (all)
		m->fs.notify->inval_all(m->fs.notify_ctx);
	else
		m->fs.notify->inval_inode(m->fs.notify_ctx, ino, 0, (int64_t)strlen(bytes), NULL, NULL);
	return 0;
}

int memfs_remote_unlink(struct memfs *m, const char *name, bool all)
{
	struct node *dir, *n;
	struct entry *e;

	nf_lock_take(&m->lock);
	int r = find(m, ROOT_INO, name, &dir, &e, &n);
	if (!r) {
		entry_remove(dir, e, n);
		drop_link(m, n);
	}
	nf_lock_drop(&m->lock);
	if (r || !m->fs.notify)
		return r;
	if (all)
		m->fs.notify->inval_all(m->fs.notify_ctx);
	else
		m->fs.notify->inval_entry(m->fs.notify_ctx, ROOT_INO, name, strlen(name));
	return 0;
}
