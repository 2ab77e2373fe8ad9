/* Values of a fixed form, and what all values share.  Lists of names are in item_names.c, extents in
 * item_extent.c. */
#include "vault/item.h"

#include "base/error.h"
#include "base/mem.h"

enum { INODE_VERSION = 1, NSEC = 1000000000 };

static int check(const struct nf_rd *rd, bool valid)
{
	int r = nf_rd_error(rd, true);

	return r < 0 || valid ? r : nf_fail(-NF_E_FORMAT_BAD);
}

bool nf_ino_is_valid(uint64_t ino)
{
	uint64_t prefix = ino >> 40;

	return prefix == 0 ? ino == NF_INO_ROOT || ino == NF_INO_STASH : prefix < UINT64_C(1) << 23;
}

bool nf_name_is_valid(const char *name, size_t len)
{
	if (len == 0 || len > NF_NAME_MAX || memchr(name, '/', len) || memchr(name, 0, len))
		return false;
	return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

/* --- INODE ------------------------------------------------------------------------- */

static void put_time(struct nf_buf *b, const struct timespec *t)
{
	nf_buf_u64(b, (uint64_t)t->tv_sec);
	nf_buf_u32(b, (uint32_t)t->tv_nsec);
}

static struct timespec get_time(struct nf_rd *rd)
{
	struct timespec t = { .tv_sec = (time_t)nf_rd_u64(rd) };

	t.tv_nsec = nf_rd_u32(rd);
	if (t.tv_nsec >= NSEC)
		rd->bad = true;
	return t;
}

void nf_inode_encode(struct nf_buf *b, const struct nf_inode_item *i)
{
	nf_buf_u8(b, INODE_VERSION);
	nf_buf_u32(b, i->mode);
	nf_buf_u32(b, i->uid);
	nf_buf_u32(b, i->gid);
	nf_buf_u32(b, i->nlink);
	nf_buf_u64(b, i->size_bytes);
	nf_buf_u64(b, i->rdev);
	put_time(b, &i->atime);
	put_time(b, &i->mtime);
	put_time(b, &i->ctime);
	put_time(b, &i->btime);
	nf_buf_u8(b, i->block_shift);
	nf_buf_u8(b, i->flags);
	nf_buf_u32(b, i->stamp.writer);
	nf_buf_u64(b, i->stamp.seq);
	nf_buf_str16(b, i->inline_data, i->inline_len);
}

static bool mode_is_valid(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return (mode & ~(uint32_t)(S_IFMT | 07777)) == 0;
	default:
		return false;
	}
}

static bool content_is_valid(const struct nf_inode_item *i)
{
	bool in = i->flags & NF_INODE_INLINE;

	if (S_ISLNK(i->mode))
		return i->inline_len >= 1 && i->inline_len <= NF_SYMLINK_MAX;
	if (S_ISREG(i->mode) && in)
		return i->inline_len <= NF_INLINE_MAX && i->size_bytes == i->inline_len;
	return !in && i->inline_len == 0;
}

static bool inode_is_valid(const struct nf_inode_item *i)
{
	if (!mode_is_valid(i->mode) || i->nlink == 0 || i->size_bytes > INT64_MAX ||
	    (i->flags & ~NF_INODE_INLINE))
		return false;
	if (S_ISREG(i->mode) ? i->block_shift < NF_BLOCK_SHIFT_MIN || i->block_shift > NF_BLOCK_SHIFT_MAX
			     : i->block_shift != 0)
		return false;
	if (S_ISDIR(i->mode) && i->size_bytes != 0)
		return false;
	return content_is_valid(i);
}

int nf_inode_decode(const void *p, size_t len, struct nf_inode_item *out)
{
	struct nf_rd rd = nf_rd_of(p, len);
	struct nf_inode_item i;
	size_t n;

	memset(&i, 0, sizeof i);
	if (nf_rd_u8(&rd) != INODE_VERSION)
		return nf_fail(-NF_E_FORMAT_BAD);
	i.mode = nf_rd_u32(&rd);
	i.uid = nf_rd_u32(&rd);
	i.gid = nf_rd_u32(&rd);
	i.nlink = nf_rd_u32(&rd);
	i.size_bytes = nf_rd_u64(&rd);
	i.rdev = nf_rd_u64(&rd);
	i.atime = get_time(&rd);
	i.mtime = get_time(&rd);
	i.ctime = get_time(&rd);
	i.btime = get_time(&rd);
	i.block_shift = nf_rd_u8(&rd);
	i.flags = nf_rd_u8(&rd);
	i.stamp.writer = nf_rd_u32(&rd);
	i.stamp.seq = nf_rd_u64(&rd);
	i.inline_data = nf_rd_str16(&rd, &n);
	i.inline_len = (uint16_t)n;
	int r = check(&rd, inode_is_valid(&i));
	if (r == 0)
		*out = i;
	return r;
}

void nf_inode_to_text(const struct nf_inode_item *i, struct nf_text *t)
{
	nf_textf(t, "mode=%o uid=%u gid=%u nlink=%u size=%llu rdev=%llx shift=%u flags=%u stamp=%u.%llu "
		    "mtime=%lld.%09ld inline=%u",
		 i->mode, i->uid, i->gid, i->nlink, (unsigned long long)i->size_bytes,
		 (unsigned long long)i->rdev, i->block_shift, i->flags, i->stamp.writer,
		 (unsigned long long)i->stamp.seq, (long long)i->mtime.tv_sec, i->mtime.tv_nsec,
		 i->inline_len);
}

/* --- the vault's own records ---------------------------------------------------------- */

void nf_writer_encode(struct nf_buf *b, const struct nf_writer_item *w)
{
	size_t len = strnlen(w->host, sizeof w->host - 1);

	nf_buf_bytes(b, w->id, sizeof w->id);
	nf_buf_u64(b, w->seq);
	nf_buf_u64(b, (uint64_t)w->seen_s);
	nf_buf_u64(b, w->next_counter);
	nf_buf_u8(b, (uint8_t)len);
	nf_buf_bytes(b, w->host, len);
}

int nf_writer_decode(const void *p, size_t len, struct nf_writer_item *out)
{
	struct nf_rd rd = nf_rd_of(p, len);
	struct nf_writer_item w;

	memset(&w, 0, sizeof w);
	nf_rd_copy(&rd, w.id, sizeof w.id);
	w.seq = nf_rd_u64(&rd);
	w.seen_s = (int64_t)nf_rd_u64(&rd);
	w.next_counter = nf_rd_u64(&rd);
	size_t n = nf_rd_u8(&rd);
	nf_rd_copy(&rd, w.host, n);
	/* The counter may stand just behind its last value: no number is left then. */
	int r = check(&rd, w.next_counter <= UINT64_C(1) << 40 && strlen(w.host) == n);
	if (r == 0)
		*out = w;
	return r;
}

void nf_root_encode(struct nf_buf *b, const struct nf_root_item *i)
{
	nf_buf_bytes(b, i->rand, sizeof i->rand);
	nf_buf_bytes(b, i->tag, sizeof i->tag);
	nf_buf_u64(b, (uint64_t)i->time_s);
	nf_ref_encode(b, &i->root);
	if (!nf_ref_is_null(&i->now))
		nf_ref_encode(b, &i->now);
}

/* A null reference is all zeros. */
static bool root_is_valid(const struct nf_ref *root)
{
	static const struct nf_ref null;

	return nf_ref_is_null(root) ? nf_ref_equal(root, &null)
				    : nf_ref_check(root) == 0 && root->plain_len <= 2 * NF_NODE_MAX;
}

bool nf_root_is_valid(const struct nf_ref *root) { return !nf_ref_is_null(root) && root_is_valid(root); }

int nf_root_decode(const void *p, size_t len, const struct nf_pack_id *self, struct nf_root_item *out)
{
	struct nf_rd rd = nf_rd_of(p, len);
	struct nf_root_item i = { 0 };

	nf_rd_copy(&rd, i.rand, sizeof i.rand);
	nf_rd_copy(&rd, i.tag, sizeof i.tag);
	i.time_s = (int64_t)nf_rd_u64(&rd);
	nf_ref_decode(&rd, self, &i.root);
	bool ok = root_is_valid(&i.root);
	if (nf_rd_left(&rd)) {
		nf_ref_decode(&rd, self, &i.now);
		ok = ok && nf_root_is_valid(&i.now);
	}
	int r = check(&rd, ok);
	if (r == 0)
		*out = i;
	return r;
}

void nf_delta_item_encode(struct nf_buf *b, const struct nf_delta_item *d)
{
	nf_ref_encode(b, &d->delta);
	nf_buf_u64(b, (uint64_t)d->time_s);
	nf_buf_u64(b, d->head_seq);
}

int nf_delta_item_decode(const void *p, size_t len, const struct nf_pack_id *self,
			 struct nf_delta_item *out)
{
	struct nf_rd rd = nf_rd_of(p, len);
	struct nf_delta_item d;

	nf_ref_decode(&rd, self, &d.delta);
	d.time_s = (int64_t)nf_rd_u64(&rd);
	d.head_seq = nf_rd_u64(&rd);
	int r = check(&rd, d.delta.level == 0 && nf_ref_check(&d.delta) == 0);
	if (r == 0)
		*out = d;
	return r;
}

void nf_counter_encode(struct nf_buf *b, int64_t v) { nf_buf_u64(b, (uint64_t)v); }

int nf_counter_decode(const void *p, size_t len, int64_t *out)
{
	struct nf_rd rd = nf_rd_of(p, len);
	int64_t v = (int64_t)nf_rd_u64(&rd);
	int r = check(&rd, true);

	if (r == 0)
		*out = v;
	return r;
}

/* --- CONDEMNED ------------------------------------------------------------------------ */

struct nf_key nf_condemned_key(const struct nf_pack_id *pack)
{
	return (struct nf_key){ .type = NF_ITEM_CONDEMNED, .a = nf_get_be64(pack->b), .b = nf_get_be64(pack->b + 8) };
}

void nf_condemned_pack(const struct nf_key *key, struct nf_pack_id *out)
{
	nf_put_be64(out->b, key->a);
	nf_put_be64(out->b + 8, key->b);
}

int nf_condemned_decode(const void *p, size_t len, int64_t *date_s)
{
	return nf_counter_decode(p, len, date_s);
}

/* --- SNAPSHOT ------------------------------------------------------------------------- */

void nf_snapshot_put(struct nf_buf *b, const struct nf_snapshot_entry *e)
{
	nf_buf_u8(b, e->name_len);
	nf_buf_bytes(b, e->name, e->name_len);
	nf_buf_u64(b, e->seq);
	nf_buf_bytes(b, e->rand, sizeof e->rand);
	nf_buf_bytes(b, e->tag, sizeof e->tag);
	nf_buf_u64(b, (uint64_t)e->time_s);
	nf_ref_encode(b, &e->root);
}

void nf_snapshot_get(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_snapshot_entry *out)
{
	struct nf_snapshot_entry e = { .name_len = nf_rd_u8(rd) };

	e.name = (const char *)nf_rd_bytes(rd, e.name_len);
	e.seq = nf_rd_u64(rd);
	nf_rd_copy(rd, e.rand, sizeof e.rand);
	nf_rd_copy(rd, e.tag, sizeof e.tag);
	e.time_s = (int64_t)nf_rd_u64(rd);
	nf_ref_decode(rd, self, &e.root);
	if (!rd->bad && (!nf_name_is_valid(e.name, e.name_len) || e.seq == 0 || nf_ref_is_null(&e.root) ||
			 !root_is_valid(&e.root)))
		rd->bad = true;
	*out = e;
}

static int snapshot_cmp(const struct nf_snapshot_entry *x, const struct nf_snapshot_entry *y)
{
	int c = memcmp(x->name, y->name, NF_MIN(x->name_len, y->name_len));

	if (c == 0)
		c = (int)x->name_len - (int)y->name_len;
	return c ? c : memcmp(x->rand, y->rand, sizeof x->rand);
}

int nf_snapshot_iter(const void *value, size_t len, const struct nf_pack_id *self, size_t *pos,
		     struct nf_snapshot_entry *out)
{
	if (*pos == len)
		return NF_TREE_NONE;
	struct nf_rd rd = nf_rd_of((const uint8_t *)value + *pos, len - *pos);
	struct nf_snapshot_entry e;
	bool first = *pos == 0;

	nf_snapshot_get(&rd, self, &e);
	int r = nf_rd_error(&rd, false);
	if (r < 0)
		return nf_fail(r);
	/* They ascend: OUT is what the call before gave. */
	if (!first && snapshot_cmp(out, &e) >= 0)
		return nf_fail(-NF_E_FORMAT_BAD);
	*pos = (size_t)(rd.p - (const uint8_t *)value);
	*out = e;
	return 0;
}

int nf_snapshot_edit(const void *value, size_t len, const struct nf_pack_id *self,
		     const struct nf_snapshot_entry *e, bool add, struct nf_buf *out)
{
	struct nf_snapshot_entry at;
	size_t pos = 0, from = out->len;
	bool met = false;
	int r = NF_TREE_NONE;

	while (value && (r = nf_snapshot_iter(value, len, self, &pos, &at)) == 0) {
		int c = snapshot_cmp(&at, e);
		if (c == 0 && add)
			return -EEXIST;
		if (c > 0 && add && !met)
			nf_snapshot_put(out, e);
		met = met || c == 0 || (add && c > 0);
		if (c != 0)
			nf_snapshot_put(out, &at);
	}
	if (r < 0)
		return r;
	if (!met && !add)
		return -ENOENT;
	if (!met)
		nf_snapshot_put(out, e);
	if (out->len - from > NF_VALUE_MAX)
		return -ENOSPC;
	return nf_buf_error(out);
}

/* --- values on their way into another pack ----------------------------------------------- */

bool nf_item_has_refs(uint8_t type)
{
	return type == NF_ITEM_EXTENT || type == NF_ITEM_XATTR || type == NF_ITEM_ROOT ||
	       type == NF_ITEM_DELTA || type == NF_ITEM_SNAPSHOT;
}

static int rebase_root(const void *value, size_t len, const struct nf_pack_id *self, struct nf_buf *out)
{
	struct nf_root_item i;
	int r = nf_root_decode(value, len, self, &i);

	if (r == 0)
		nf_root_encode(out, &i);
	return r;
}

static int rebase_delta(const void *value, size_t len, const struct nf_pack_id *self, struct nf_buf *out)
{
	struct nf_delta_item i;
	int r = nf_delta_item_decode(value, len, self, &i);

	if (r == 0)
		nf_delta_item_encode(out, &i);
	return r;
}

static int rebase_snapshots(const void *value, size_t len, const struct nf_pack_id *self, struct nf_buf *out)
{
	struct nf_snapshot_entry e;
	size_t pos = 0;
	int r;

	while ((r = nf_snapshot_iter(value, len, self, &pos, &e)) == 0)
		nf_snapshot_put(out, &e);
	return r < 0 ? r : 0;
}

int nf_item_rebase(uint8_t type, const void *value, size_t len, const struct nf_pack_id *self,
		   struct nf_buf *out)
{
	int r = 0;

	if (type == NF_ITEM_EXTENT)
		r = nf_extent_rebase(value, len, self, out);
	else if (type == NF_ITEM_XATTR)
		r = nf_xattr_rebase(value, len, self, out);
	else if (type == NF_ITEM_ROOT)
		r = rebase_root(value, len, self, out);
	else if (type == NF_ITEM_DELTA)
		r = rebase_delta(value, len, self, out);
	else if (type == NF_ITEM_SNAPSHOT)
		r = rebase_snapshots(value, len, self, out);
	else
		nf_buf_bytes(out, value, len);
	return r < 0 ? r : nf_buf_error(out);
}
