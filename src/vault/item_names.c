/* Lists of names: DIRENT, PARENT and XATTR values.  Each is one or more entries, strictly ascending by name (as
 * bytes, the shorter first), so that a set has one encoding.
 *
 * An iteration checks the whole value when it begins; so editing and searching never half-believe one. */
#include "vault/item.h"

#include "base/error.h"

#include <dirent.h>

enum { XATTR_VALUE_MAX_BYTES = 64 << 10 };

static int name_cmp(const char *x, size_t nx, const char *y, size_t ny)
{
	int c = memcmp(x, y, nx < ny ? nx : ny);

	return c ? c : (nx > ny) - (nx < ny);
}

/* Any of the three kinds. */
struct entry {
	const char *name;
	uint8_t name_len;
	const uint8_t *start; /* the entry as encoded */
	size_t len;
	struct nf_dirent dirent;
	struct nf_xattr_entry xattr;
};
typedef void read_fn(struct nf_rd *rd, const struct nf_pack_id *self, struct entry *e);

static void read_name(struct nf_rd *rd, struct entry *e)
{
	e->name_len = nf_rd_u8(rd);
	e->name = (const char *)nf_rd_bytes(rd, e->name_len);
}

static bool type_is_valid(uint8_t type)
{
	return type == DT_FIFO || type == DT_CHR || type == DT_DIR || type == DT_BLK || type == DT_REG ||
	       type == DT_LNK || type == DT_SOCK;
}

static void read_dirent(struct nf_rd *rd, const struct nf_pack_id *self, struct entry *e)
{
	(void)self;
	e->dirent.ino = nf_rd_u64(rd);
	e->dirent.type = nf_rd_u8(rd);
	read_name(rd, e);
	if (rd->bad || !nf_name_is_valid(e->name, e->name_len) || !nf_ino_is_valid(e->dirent.ino) ||
	    !type_is_valid(e->dirent.type))
		rd->bad = true;
	e->dirent.name = e->name;
	e->dirent.name_len = e->name_len;
}

static void read_parent(struct nf_rd *rd, const struct nf_pack_id *self, struct entry *e)
{
	(void)self;
	read_name(rd, e);
	if (rd->bad || !nf_name_is_valid(e->name, e->name_len))
		rd->bad = true;
}

static void read_xattr(struct nf_rd *rd, const struct nf_pack_id *self, struct entry *e)
{
	struct nf_xattr_entry *x = &e->xattr;
	size_t n;

	read_name(rd, e);
	uint8_t kind = nf_rd_u8(rd);
	if (rd->bad || kind > 1 || e->name_len == 0 || memchr(e->name, 0, e->name_len)) {
		rd->bad = true;
		return;
	}
	*x = (struct nf_xattr_entry){ .name = e->name, .name_len = e->name_len, .is_blob = kind == 1 };
	if (x->is_blob) {
		nf_ref_decode(rd, self, &x->blob);
		x->birth = nf_rd_u64(rd);
		x->index = nf_rd_u32(rd);
		if (rd->bad || nf_ref_check(&x->blob) < 0 || x->blob.level != 0 ||
		    x->blob.plain_len > XATTR_VALUE_MAX_BYTES || x->birth >> 63)
			rd->bad = true;
	} else {
		x->value = nf_rd_str16(rd, &n);
		x->value_len = (uint16_t)n;
	}
}

static void read_entry(struct nf_rd *rd, read_fn *read, const struct nf_pack_id *self, struct entry *e)
{
	memset(e, 0, sizeof *e);
	e->start = rd->p;
	read(rd, self, e);
	e->len = (size_t)(rd->p - e->start);
}

static int check_list(const void *value, size_t len, read_fn *read)
{
	struct nf_rd rd = nf_rd_of(value, len);
	struct entry e, before = { .name = NULL };

	do {
		read_entry(&rd, read, NULL, &e);
		if (!rd.bad && before.name && name_cmp(before.name, before.name_len, e.name, e.name_len) >= 0)
			rd.bad = true;
		before = e;
	} while (!rd.bad && nf_rd_left(&rd));
	return nf_rd_error(&rd, true);
}

static int iter(const void *value, size_t len, read_fn *read, const struct nf_pack_id *self, size_t *pos,
		struct entry *e)
{
	if (*pos == 0) {
		int r = check_list(value, len, read);
		if (r < 0)
			return r;
	}
	if (*pos >= len)
		return NF_TREE_NONE;
	struct nf_rd rd = nf_rd_of((const uint8_t *)value + *pos, len - *pos);
	read_entry(&rd, read, self, e);
	int r = nf_rd_error(&rd, false);
	if (r == 0)
		*pos += e->len;
	return r;
}

/* --- editing -------------------------------------------------------------------------- */

typedef void copy_fn(const struct entry *e, struct nf_buf *out);

/* Copies the list with ADDED (the new entry, encoded; NULL: none) in NAME's place. EXISTED says whether NAME was
 * there. */
static int edit(const void *value, size_t len, read_fn *read, const struct nf_pack_id *self, copy_fn *copy,
		const char *name, size_t name_len, const struct nf_buf *added, bool *existed,
		struct nf_buf *out)
{
	size_t pos = 0, before = out->len;
	bool placed = !added;
	struct entry e;
	int r = NF_TREE_NONE;

	*existed = false;
	while (value && (r = iter(value, len, read, self, &pos, &e)) == 0) {
		int cmp = name_cmp(e.name, e.name_len, name, name_len);
		if (cmp >= 0 && !placed) {
			nf_buf_bytes(out, added->p, added->len);
			placed = true;
		}
		if (cmp == 0)
			*existed = true;
		else
			copy(&e, out);
	}
	if (r < 0)
		return r;
	if (!placed)
		nf_buf_bytes(out, added->p, added->len);
	if (out->len - before > NF_VALUE_MAX)
		return nf_fail(-ENOSPC);
	return nf_buf_error(out);
}

static void copy_raw(const struct entry *e, struct nf_buf *out) { nf_buf_bytes(out, e->start, e->len); }

static void put_name(struct nf_buf *b, const char *name, uint8_t len)
{
	nf_buf_u8(b, len);
	nf_buf_bytes(b, name, len);
}

/* The result of an edit goes to OUT only if it is allowed. */
static int edit_strictly(const void *value, size_t len, read_fn *read, const char *name, size_t name_len,
			 const struct nf_buf *added, struct nf_buf *out)
{
	nf_auto(nf_buf_deinit) struct nf_buf now = NF_BUF_INIT;
	bool existed;
	int r = edit(value, len, read, NULL, copy_raw, name, name_len, added, &existed, &now);

	if (r < 0)
		return r;
	if (added ? existed : !existed)
		return nf_fail(added ? -EEXIST : -ENOENT);
	nf_buf_bytes(out, now.p, now.len);
	return nf_buf_error(out);
}

/* --- DIRENT --------------------------------------------------------------------------- */

int nf_dirent_iter(const void *value, size_t len, size_t *pos, struct nf_dirent *out)
{
	struct entry e;
	int r = iter(value, len, read_dirent, NULL, pos, &e);

	if (r == 0)
		*out = e.dirent;
	return r;
}

int nf_dirent_find(const void *value, size_t len, const char *name, size_t name_len,
		   struct nf_dirent *out)
{
	struct nf_dirent d;
	size_t pos = 0;
	int r;

	while ((r = nf_dirent_iter(value, len, &pos, &d)) == 0) {
		if (name_cmp(d.name, d.name_len, name, name_len) == 0) {
			*out = d;
			return 0;
		}
	}
	return r;
}

int nf_dirent_edit(const void *value, size_t len, const struct nf_dirent *d, struct nf_buf *out)
{
	nf_auto(nf_buf_deinit) struct nf_buf added = NF_BUF_INIT;

	if (!nf_name_is_valid(d->name, d->name_len) ||
	    (d->ino && (!nf_ino_is_valid(d->ino) || !type_is_valid(d->type))))
		return nf_fail(-EINVAL);
	nf_buf_u64(&added, d->ino);
	nf_buf_u8(&added, d->type);
	put_name(&added, d->name, d->name_len);
	int r = nf_buf_error(&added);
	return r < 0 ? r
		     : edit_strictly(value, len, read_dirent, d->name, d->name_len, d->ino ? &added : NULL, out);
}

/* --- PARENT --------------------------------------------------------------------------- */

int nf_names_iter(const void *value, size_t len, size_t *pos, const char **name, uint8_t *name_len)
{
	struct entry e;
	int r = iter(value, len, read_parent, NULL, pos, &e);

	if (r == 0) {
		*name = e.name;
		*name_len = e.name_len;
	}
	return r;
}

int nf_names_edit(const void *value, size_t len, const char *name, size_t name_len, bool add,
		  struct nf_buf *out)
{
	nf_auto(nf_buf_deinit) struct nf_buf added = NF_BUF_INIT;

	if (!nf_name_is_valid(name, name_len))
		return nf_fail(-EINVAL);
	put_name(&added, name, (uint8_t)name_len);
	int r = nf_buf_error(&added);
	return r < 0 ? r : edit_strictly(value, len, read_parent, name, name_len, add ? &added : NULL, out);
}

/* --- XATTR ---------------------------------------------------------------------------- */

int nf_xattr_iter(const void *value, size_t len, const struct nf_pack_id *self, size_t *pos,
		  struct nf_xattr_entry *out)
{
	struct entry e;
	int r = iter(value, len, read_xattr, self, pos, &e);

	if (r == 0)
		*out = e.xattr;
	return r;
}

static void put_xattr(const struct nf_xattr_entry *x, struct nf_buf *b)
{
	put_name(b, x->name, x->name_len);
	nf_buf_u8(b, x->is_blob);
	if (x->is_blob) {
		nf_ref_encode(b, &x->blob);
		nf_buf_u64(b, x->birth);
		nf_buf_u32(b, x->index);
	} else {
		nf_buf_str16(b, x->value, x->value_len);
	}
}

static void copy_xattr(const struct entry *e, struct nf_buf *out) { put_xattr(&e->xattr, out); }

int nf_xattr_edit(const void *value, size_t len, const struct nf_pack_id *self,
		  const struct nf_xattr_entry *x, bool add, struct nf_buf *out)
{
	nf_auto(nf_buf_deinit) struct nf_buf added = NF_BUF_INIT;
	nf_auto(nf_buf_deinit) struct nf_buf now = NF_BUF_INIT;
	bool existed;

	if (x->name_len == 0 || memchr(x->name, 0, x->name_len))
		return nf_fail(-EINVAL);
	if (add)
		put_xattr(x, &added);
	int r = nf_buf_error(&added);
	if (r == 0)
		r = edit(value, len, read_xattr, self, copy_xattr, x->name, x->name_len, add ? &added : NULL,
			 &existed, &now);
	if (r < 0)
		return r;
	if (!add && !existed)
		return nf_fail(-ENOENT);
	nf_buf_bytes(out, now.p, now.len);
	return nf_buf_error(out);
}

int nf_xattr_rebase(const void *value, size_t len, const struct nf_pack_id *self, struct nf_buf *out)
{
	size_t pos = 0;
	struct entry e;
	int r;

	while ((r = iter(value, len, read_xattr, self, &pos, &e)) == 0)
		copy_xattr(&e, out);
	return r < 0 ? r : nf_buf_error(out);
}
