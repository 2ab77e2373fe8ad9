/* One operation, encoded:
 *
 *   kind u8 | mode u8 | time s64, u32 | length u32 | body of that length
 *
 * Every kind has a put_ and a get_ function that list its fields in the order of docs/format.md section 8; a
 * get_ function returns false for a value outside its limits.  What is read past the end of the body, or left
 * over of it, is found once, in nf_op_decode(). */
#include "vault/op.h"

#include "base/error.h"
#include "base/mem.h"
#include "vault/tree.h"

#include <inttypes.h>

enum {
	OP_HEAD_BYTES = 1 + 1 + 12 + 4,
	RANGE_BYTES = 16,
	WINDOW_BYTES_MIN = 8 + 2,
	PREFIX_MAX = (1 << 23) - 1,
	NS_PER_S = 1000000000,
	/* An XATTR item holds at least the entry's own name and lengths beside the value. */
	XATTR_INLINE_MAX = NF_VALUE_MAX - NF_NAME_MAX - 4,
	XATTR_BLOB_MAX = 65536,
	COLLECT_KEY_BYTES = 16,
};

/* --- encoding ------------------------------------------------------------------ */

static void put_str8(struct nf_buf *b, const char *s, uint8_t len)
{
	nf_buf_u8(b, len);
	nf_buf_bytes(b, s, len);
}

static void put_time(struct nf_buf *b, struct timespec t)
{
	nf_buf_u64(b, (uint64_t)t.tv_sec);
	nf_buf_u32(b, (uint32_t)t.tv_nsec);
}

static void put_stamp(struct nf_buf *b, struct nf_stamp s)
{
	nf_buf_u32(b, s.writer);
	nf_buf_u64(b, s.seq);
}

static void put_create(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u64(b, op->parent);
	nf_buf_u64(b, op->ino);
	nf_buf_u32(b, op->mode);
	nf_buf_u32(b, op->uid);
	nf_buf_u32(b, op->gid);
	nf_buf_u64(b, op->rdev);
	nf_buf_u8(b, op->block_shift);
	put_str8(b, op->name, op->name_len);
	nf_buf_str16(b, op->target, op->target_len);
}

static void put_link(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u64(b, op->parent);
	nf_buf_u64(b, op->ino);
	put_str8(b, op->name, op->name_len);
}

static void put_unlink(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u64(b, op->parent);
	nf_buf_u64(b, op->ino);
	put_stamp(b, op->stamp);
	put_str8(b, op->name, op->name_len);
}

static void put_rename(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u64(b, op->parent);
	nf_buf_u64(b, op->ino);
	nf_buf_u64(b, op->new_parent);
	nf_buf_u64(b, op->replaced);
	put_stamp(b, op->stamp);
	nf_buf_u8(b, op->flags);
	put_str8(b, op->name, op->name_len);
	put_str8(b, op->new_name, op->new_name_len);
}

static void put_setattr(struct nf_buf *b, const struct nf_op *op)
{
	const struct nf_op_attrs *x = &op->base, *y = &op->now;
	const uint32_t words[3][2] = { { x->mode, y->mode }, { x->uid, y->uid }, { x->gid, y->gid } };
	const struct timespec times[4][2] = { { x->atime, y->atime },
					      { x->mtime, y->mtime },
					      { x->ctime, y->ctime },
					      { x->btime, y->btime } };

	nf_buf_u64(b, op->ino);
	nf_buf_u8(b, op->mask);
	for (unsigned i = 0; i < 3; i++) {
		if (op->mask & 1u << i) {
			nf_buf_u32(b, words[i][0]);
			nf_buf_u32(b, words[i][1]);
		}
	}
	for (unsigned i = 0; i < 4; i++) {
		if (op->mask & 8u << i) {
			put_time(b, times[i][0]);
			put_time(b, times[i][1]);
		}
	}
}

static void put_data(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u64(b, op->ino);
	put_stamp(b, op->stamp);
	nf_buf_u8(b, op->flags);
	put_time(b, op->mtime);
	nf_buf_u64(b, op->size_before);
	nf_buf_u64(b, op->least_size);
	nf_buf_u64(b, op->size_after);
	nf_buf_u32(b, op->nr_ranges);
	nf_buf_bytes(b, op->ranges, (size_t)op->nr_ranges * RANGE_BYTES);
	nf_buf_str16(b, op->inline_data, op->inline_len);
	nf_buf_u32(b, op->nr_windows);
	nf_buf_bytes(b, op->windows, op->windows_len);
}

static void put_xattr(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u64(b, op->ino);
	nf_buf_u8(b, op->flags);
	put_str8(b, op->name, op->name_len);
	if (op->flags & NF_OPF_BLOB) {
		nf_ref_encode(b, &op->blob);
		nf_buf_u64(b, op->blob_birth);
		nf_buf_u32(b, op->blob_index);
	} else {
		nf_buf_str16(b, op->value, op->value_len);
	}
}

static void put_claim(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u32(b, op->prefix);
	nf_buf_bytes(b, op->writer_id, sizeof op->writer_id);
	put_str8(b, op->host, op->host_len);
}

static void put_snapshot(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u8(b, op->flags);
	nf_snapshot_put(b, &op->snapshot);
}

static void put_collect(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u8(b, op->flags);
	nf_buf_u8(b, op->item);
	nf_buf_u64(b, (uint64_t)op->date_s);
	nf_buf_u32(b, op->nr_keys);
	nf_buf_bytes(b, op->keys, (size_t)op->nr_keys * COLLECT_KEY_BYTES);
}

static void put_move(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u64(b, op->ino);
	nf_buf_u32(b, op->nr_windows);
	nf_buf_bytes(b, op->windows, op->windows_len);
}

static void put_reseal(struct nf_buf *b, const struct nf_op *op)
{
	put_move(b, op);
	nf_buf_u32(b, op->nr_windows);
	nf_buf_bytes(b, op->olds, op->olds_len);
}

static void put_place(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u32(b, op->nr_places);
	nf_buf_bytes(b, op->places, (size_t)op->nr_places * NF_PLACE_ENCODED);
}

static void put_body(struct nf_buf *b, const struct nf_op *op)
{
	switch (op->kind) {
	case NF_OP_CREATE: put_create(b, op); break;
	case NF_OP_LINK: put_link(b, op); break;
	case NF_OP_UNLINK: put_unlink(b, op); break;
	case NF_OP_RENAME: put_rename(b, op); break;
	case NF_OP_SETATTR: put_setattr(b, op); break;
	case NF_OP_DATA: put_data(b, op); break;
	case NF_OP_XATTR: put_xattr(b, op); break;
	case NF_OP_CLAIM: put_claim(b, op); break;
	case NF_OP_SNAPSHOT: put_snapshot(b, op); break;
	case NF_OP_COLLECT: put_collect(b, op); break;
	case NF_OP_MOVE: put_move(b, op); break;
	case NF_OP_PLACE: put_place(b, op); break;
	case NF_OP_RESEAL: put_reseal(b, op); break;
	case NF_OP_KIND_NR: break;
	}
}

void nf_op_encode(struct nf_buf *b, const struct nf_op *op)
{
	nf_buf_u8(b, (uint8_t)op->kind);
	nf_buf_u8(b, (uint8_t)op->conflict_mode);
	put_time(b, op->time);
	size_t at = b->len;
	nf_buf_u32(b, 0);
	put_body(b, op);
	if (!b->failed)
		nf_put_le32(b->p + at, (uint32_t)(b->len - at - 4));
}

/* --- decoding ------------------------------------------------------------------ */

static bool ino_ok(uint64_t ino)
{
	return ino >> 63 == 0 && (ino >> 40 != 0 || ino == NF_INO_ROOT || ino == NF_INO_STASH);
}

static bool get_ino(struct nf_rd *rd, uint64_t *out)
{
	*out = nf_rd_u64(rd);
	return ino_ok(*out);
}

static bool get_time(struct nf_rd *rd, struct timespec *out)
{
	out->tv_sec = (int64_t)nf_rd_u64(rd);
	out->tv_nsec = nf_rd_u32(rd);
	return out->tv_nsec < NS_PER_S;
}

static void get_stamp(struct nf_rd *rd, struct nf_stamp *out)
{
	out->writer = nf_rd_u32(rd);
	out->seq = nf_rd_u64(rd);
}

/* A str8 without NUL; MIN bytes at least. */
static bool get_str8(struct nf_rd *rd, uint8_t min, const char **s, uint8_t *len)
{
	*len = nf_rd_u8(rd);
	*s = (const char *)nf_rd_bytes(rd, *len);
	return !rd->bad && *len >= min && (*len == 0 || !memchr(*s, 0, *len));
}

static bool get_name(struct nf_rd *rd, const char **s, uint8_t *len)
{
	if (!get_str8(rd, 1, s, len) || memchr(*s, '/', *len))
		return false;
	return !(**s == '.' && (*len == 1 || (*len == 2 && (*s)[1] == '.')));
}

static bool mode_ok(uint32_t mode)
{
	if (mode & ~(uint32_t)(S_IFMT | 07777))
		return false;
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return true;
	default:
		return false;
	}
}

static bool get_create(struct nf_rd *rd, struct nf_op *op)
{
	size_t len;

	if (!get_ino(rd, &op->parent) || !get_ino(rd, &op->ino) || op->ino >> 40 == 0)
		return false;
	op->mode = nf_rd_u32(rd);
	op->uid = nf_rd_u32(rd);
	op->gid = nf_rd_u32(rd);
	op->rdev = nf_rd_u64(rd);
	op->block_shift = nf_rd_u8(rd);
	if (!mode_ok(op->mode) || !get_name(rd, &op->name, &op->name_len))
		return false;
	op->target = (const char *)nf_rd_str16(rd, &len);
	op->target_len = (uint16_t)len;
	if (S_ISREG(op->mode) ? op->block_shift < NF_BLOCK_SHIFT_MIN || op->block_shift > NF_BLOCK_SHIFT_MAX
			      : op->block_shift != 0)
		return false;
	if (!S_ISLNK(op->mode))
		return len == 0;
	return len >= 1 && len <= NF_SYMLINK_MAX && !memchr(op->target, 0, len);
}

static bool get_link(struct nf_rd *rd, struct nf_op *op)
{
	return get_ino(rd, &op->parent) && get_ino(rd, &op->ino) &&
	       get_name(rd, &op->name, &op->name_len);
}

static bool get_unlink(struct nf_rd *rd, struct nf_op *op)
{
	if (!get_ino(rd, &op->parent) || !get_ino(rd, &op->ino))
		return false;
	get_stamp(rd, &op->stamp);
	return get_name(rd, &op->name, &op->name_len);
}

static bool get_rename(struct nf_rd *rd, struct nf_op *op)
{
	if (!get_ino(rd, &op->parent) || !get_ino(rd, &op->ino) || !get_ino(rd, &op->new_parent))
		return false;
	op->replaced = nf_rd_u64(rd);
	get_stamp(rd, &op->stamp);
	op->flags = nf_rd_u8(rd);
	return (op->replaced == 0 || ino_ok(op->replaced)) && op->flags <= NF_OPF_EXCHANGE &&
	       get_name(rd, &op->name, &op->name_len) &&
	       get_name(rd, &op->new_name, &op->new_name_len);
}

static bool get_setattr(struct nf_rd *rd, struct nf_op *op)
{
	struct nf_op_attrs *x = &op->base, *y = &op->now;
	uint32_t *const words[3][2] = { { &x->mode, &y->mode }, { &x->uid, &y->uid }, { &x->gid, &y->gid } };
	struct timespec *const times[4][2] = { { &x->atime, &y->atime },
					       { &x->mtime, &y->mtime },
					       { &x->ctime, &y->ctime },
					       { &x->btime, &y->btime } };

	if (!get_ino(rd, &op->ino))
		return false;
	op->mask = nf_rd_u8(rd);
	if (op->mask & 0x80)
		return false;
	for (unsigned i = 0; i < 3; i++) {
		if (op->mask & 1u << i) {
			*words[i][0] = nf_rd_u32(rd);
			*words[i][1] = nf_rd_u32(rd);
		}
	}
	for (unsigned i = 0; i < 4; i++) {
		if (op->mask & 8u << i && (!get_time(rd, times[i][0]) || !get_time(rd, times[i][1])))
			return false;
	}
	/* An inode's type never changes. */
	return ((x->mode | y->mode) & ~(uint32_t)(S_IFMT | 07777)) == 0 &&
	       ((x->mode ^ y->mode) & S_IFMT) == 0;
}

static bool get_ranges(struct nf_rd *rd, struct nf_op *op)
{
	uint64_t start, end, last = 0;

	op->nr_ranges = nf_rd_u32(rd);
	if (op->nr_ranges > nf_rd_left(rd) / RANGE_BYTES)
		return false;
	op->ranges = nf_rd_bytes(rd, (size_t)op->nr_ranges * RANGE_BYTES);
	for (uint32_t i = 0; i < op->nr_ranges; i++) {
		nf_op_range(op, i, &start, &end);
		if (start < last || start >= end || end > INT64_MAX)
			return false;
		last = end;
	}
	return true;
}

/* The file's block size is not known here: a plain length is held against the greatest; who applies the operation
 * decodes again with the inode's. */
static bool window_ok(const uint8_t *value, size_t len)
{
	struct nf_block_ref refs[NF_WINDOW_BLOCKS];
	bool known[NF_WINDOW_BLOCKS];
	struct nf_extent_ref ref;

	return len >= 1 && len <= NF_VALUE_MAX &&
	       nf_extent_patch_decode(value, len, true, 1u << NF_BLOCK_SHIFT_MAX, &ref, refs, known) == 0;
}

static bool get_windows(struct nf_rd *rd, struct nf_op *op)
{
	uint64_t first = 0, next = 0;
	const uint8_t *value = NULL;
	size_t pos = 0, len;
	int r;

	op->nr_windows = nf_rd_u32(rd);
	if (op->nr_windows > nf_rd_left(rd) / WINDOW_BYTES_MIN)
		return false;
	op->windows = rd->p;
	for (uint32_t i = 0; i < op->nr_windows; i++) {
		(void)nf_rd_u64(rd);
		(void)nf_rd_str16(rd, &len);
	}
	if (rd->bad)
		return false;
	op->windows_len = (size_t)(rd->p - op->windows);
	while ((r = nf_op_window_iter(op, &pos, &first, &value, &len)) == 0) {
		if (first < next || first % NF_WINDOW_BLOCKS || first > (uint64_t)INT64_MAX >> NF_BLOCK_SHIFT_MIN ||
		    !window_ok(value, len))
			return false;
		next = first + NF_WINDOW_BLOCKS;
	}
	return r == NF_TREE_NONE;
}

static bool get_data(struct nf_rd *rd, struct nf_op *op)
{
	size_t len;

	if (!get_ino(rd, &op->ino))
		return false;
	get_stamp(rd, &op->stamp);
	op->flags = nf_rd_u8(rd);
	if (op->flags & ~(NF_OPF_INLINE | NF_OPF_APPEND | NF_OPF_PAGE_GRANULAR) || !get_time(rd, &op->mtime))
		return false;
	op->size_before = nf_rd_u64(rd);
	op->least_size = nf_rd_u64(rd);
	op->size_after = nf_rd_u64(rd);
	if (op->size_before > INT64_MAX || op->size_after > INT64_MAX ||
	    (op->least_size > INT64_MAX && op->least_size != UINT64_MAX))
		return false;
	if (!get_ranges(rd, op))
		return false;
	op->inline_data = nf_rd_str16(rd, &len);
	op->inline_len = (uint16_t)len;
	if (!get_windows(rd, op))
		return false;
	if (!(op->flags & NF_OPF_INLINE))
		return len == 0;
	return len <= NF_INLINE_MAX && len == op->size_after && op->nr_windows == 0;
}

static bool get_xattr(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_op *op)
{
	size_t len = 0;

	if (!get_ino(rd, &op->ino))
		return false;
	op->flags = nf_rd_u8(rd);
	if (op->flags & ~(NF_OPF_REMOVE | NF_OPF_BLOB | NF_OPF_HAD_BASE) ||
	    !get_str8(rd, 1, &op->name, &op->name_len))
		return false;
	if (op->flags & NF_OPF_BLOB) {
		nf_ref_decode(rd, self, &op->blob);
		op->blob_birth = nf_rd_u64(rd);
		op->blob_index = nf_rd_u32(rd);
		return !(op->flags & NF_OPF_REMOVE) && !rd->bad && nf_ref_check(&op->blob) == 0 &&
		       op->blob.level == 0 && op->blob.plain_len <= XATTR_BLOB_MAX;
	}
	op->value = nf_rd_str16(rd, &len);
	op->value_len = (uint16_t)len;
	return len <= (op->flags & NF_OPF_REMOVE ? 0 : XATTR_INLINE_MAX);
}

static bool get_claim(struct nf_rd *rd, struct nf_op *op)
{
	op->prefix = nf_rd_u32(rd);
	nf_rd_copy(rd, op->writer_id, sizeof op->writer_id);
	return op->prefix >= 1 && op->prefix <= PREFIX_MAX && get_str8(rd, 0, &op->host, &op->host_len);
}

static bool get_snapshot(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_op *op)
{
	op->flags = nf_rd_u8(rd);
	nf_snapshot_get(rd, self, &op->snapshot);
	return op->flags <= NF_OPF_FORGET;
}

static bool get_collect(struct nf_rd *rd, struct nf_op *op)
{
	op->flags = nf_rd_u8(rd);
	op->item = nf_rd_u8(rd);
	op->date_s = (int64_t)nf_rd_u64(rd);
	op->nr_keys = nf_rd_u32(rd);
	if (op->flags > NF_OPF_FORGET || op->nr_keys > nf_rd_left(rd) / COLLECT_KEY_BYTES)
		return false;
	op->keys = nf_rd_bytes(rd, (size_t)op->nr_keys * COLLECT_KEY_BYTES);
	if (!op->keys)
		return op->nr_keys == 0 && op->item == NF_ITEM_CONDEMNED;
	if (op->item == NF_ITEM_COUNTER) {
		struct nf_key key = op->nr_keys == 1 ? nf_op_key(op, 0) : (struct nf_key){ 0 };
		return !op->flags && key.a == NF_COUNTER_COLLECTED && key.b == 0;
	}
	/* Whatever else may go: nobody adds roots or deltas this way. */
	return op->item == NF_ITEM_CONDEMNED ||
	       (op->flags & NF_OPF_FORGET && (op->item == NF_ITEM_ROOT || op->item == NF_ITEM_DELTA));
}

static bool get_move(struct nf_rd *rd, struct nf_op *op)
{
	return get_ino(rd, &op->ino) && get_windows(rd, op);
}

/* Both say something of the same windows. */
static bool get_reseal(struct nf_rd *rd, struct nf_op *op)
{
	struct nf_op was = { 0 };
	size_t pos = 0, was_pos = 0, len;
	uint64_t first = 0, was_first = 0;
	const uint8_t *value;

	if (!get_move(rd, op) || !get_windows(rd, &was) || was.nr_windows != op->nr_windows)
		return false;
	for (uint32_t i = 0; i < op->nr_windows; i++) {
		if (nf_op_window_iter(op, &pos, &first, &value, &len) || nf_op_window_iter(&was, &was_pos, &was_first, &value, &len) ||
		    first != was_first)
			return false;
	}
	op->olds = was.windows;
	op->olds_len = was.windows_len;
	return true;
}

void nf_place_encode(struct nf_buf *b, const struct nf_place *p)
{
	uint8_t raw[16];

	nf_put_be64(raw, p->key.a);
	nf_put_be64(raw + 8, p->key.b);
	nf_buf_u8(b, p->key.type);
	nf_buf_bytes(b, raw, sizeof raw);
	nf_buf_bytes(b, p->rand, sizeof p->rand);
	nf_ref_encode(b, &p->old);
	nf_ref_encode(b, &p->now);
}

static bool place_is_valid(const struct nf_place *p)
{
	/* Sealed bytes of a delta move as they are, or are sealed again under newer keys, or that is taken back (gc_undo.c). */
	if (p->key.type == NF_ITEM_DELTA)
		return nf_ref_check(&p->old) == 0 && nf_ref_check(&p->now) == 0 && !p->old.level && !p->now.level &&
		       p->old.plain_len == p->now.plain_len &&
		       (p->old.epoch != p->now.epoch || !memcmp(p->old.tag, p->now.tag, sizeof p->now.tag));
	return (p->key.type == NF_ITEM_ROOT || p->key.type == NF_ITEM_SNAPSHOT) && nf_root_is_valid(&p->old) &&
	       nf_root_is_valid(&p->now);
}

void nf_op_place(const struct nf_op *op, uint32_t i, struct nf_place *out)
{
	struct nf_rd rd = nf_rd_of(op->places + (size_t)i * NF_PLACE_ENCODED, NF_PLACE_ENCODED);
	uint8_t raw[16];

	*out = (struct nf_place){ .key.type = nf_rd_u8(&rd) };
	nf_rd_copy(&rd, raw, sizeof raw);
	out->key.a = nf_get_be64(raw);
	out->key.b = nf_get_be64(raw + 8);
	nf_rd_copy(&rd, out->rand, sizeof out->rand);
	nf_ref_decode(&rd, NULL, &out->old);
	nf_ref_decode(&rd, NULL, &out->now);
}

static bool get_place(struct nf_rd *rd, struct nf_op *op)
{
	op->nr_places = nf_rd_u32(rd);
	if (op->nr_places > nf_rd_left(rd) / NF_PLACE_ENCODED)
		return false;
	op->places = nf_rd_bytes(rd, (size_t)op->nr_places * NF_PLACE_ENCODED);
	for (uint32_t i = 0; i < op->nr_places; i++) {
		struct nf_place p;
		nf_op_place(op, i, &p);
		if (!place_is_valid(&p))
			return false;
	}
	return true;
}

static bool get_body(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_op *op)
{
	switch (op->kind) {
	case NF_OP_CREATE: return get_create(rd, op);
	case NF_OP_LINK: return get_link(rd, op);
	case NF_OP_UNLINK: return get_unlink(rd, op);
	case NF_OP_RENAME: return get_rename(rd, op);
	case NF_OP_SETATTR: return get_setattr(rd, op);
	case NF_OP_DATA: return get_data(rd, op);
	case NF_OP_XATTR: return get_xattr(rd, self, op);
	case NF_OP_CLAIM: return get_claim(rd, op);
	case NF_OP_SNAPSHOT: return get_snapshot(rd, self, op);
	case NF_OP_COLLECT: return get_collect(rd, op);
	case NF_OP_MOVE: return get_move(rd, op);
	case NF_OP_PLACE: return get_place(rd, op);
	case NF_OP_RESEAL: return get_reseal(rd, op);
	case NF_OP_KIND_NR: break;
	}
	return false;
}

int nf_op_decode(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_op *out)
{
	struct nf_op op = { .kind = NF_OP_KIND_NR };

	unsigned kind = nf_rd_u8(rd);
	unsigned mode = nf_rd_u8(rd);
	bool ok = get_time(rd, &op.time);
	uint32_t len = nf_rd_u32(rd);
	const uint8_t *body = nf_rd_bytes(rd, len);
	if (!body || !ok || kind < NF_OP_CREATE || kind >= NF_OP_KIND_NR || mode < NF_MODE_DISCARD ||
	    mode > NF_MODE_ASK)
		return nf_fail(-NF_E_FORMAT_BAD);
	op.kind = (enum nf_op_kind)kind;
	op.conflict_mode = (enum nf_conflict_mode)mode;
	struct nf_rd in = nf_rd_of(body, len);
	if (!get_body(&in, self, &op) || nf_rd_error(&in, true) < 0)
		return nf_fail(-NF_E_FORMAT_BAD);
	*out = op;
	return 0;
}

struct nf_key nf_op_key(const struct nf_op *op, uint32_t i)
{
	const uint8_t *p = op->keys + (size_t)i * COLLECT_KEY_BYTES;

	return (struct nf_key){ .type = op->item, .a = nf_get_be64(p), .b = nf_get_be64(p + 8) };
}

int nf_op_window_iter(const struct nf_op *op, size_t *pos, uint64_t *first_block,
		      const uint8_t **value, size_t *len)
{
	if (*pos == op->windows_len)
		return NF_TREE_NONE;
	struct nf_rd rd = nf_rd_of(op->windows + *pos, op->windows_len - *pos);
	uint64_t first = nf_rd_u64(&rd);
	size_t n;
	const uint8_t *v = nf_rd_str16(&rd, &n);
	if (rd.bad)
		return nf_fail(-NF_E_FORMAT_BAD);
	*pos = (size_t)(rd.p - op->windows);
	*first_block = first;
	*value = v;
	*len = n;
	return 0;
}

void nf_op_range(const struct nf_op *op, uint32_t i, uint64_t *start, uint64_t *end)
{
	const uint8_t *p = op->ranges + (size_t)i * RANGE_BYTES;

	*start = nf_get_le64(p);
	*end = nf_get_le64(p + 8);
}

/* --- deltas -------------------------------------------------------------------- */

void nf_delta_encode(struct nf_buf *b, const struct nf_delta *d)
{
	nf_buf_u8(b, 1);
	nf_buf_u32(b, d->writer);
	nf_buf_u64(b, d->seq);
	put_time(b, d->time);
	put_str8(b, d->host, (uint8_t)strnlen(d->host, 255));
	if (nf_ref_is_null(&d->base_root))
		nf_buf_zeros(b, NF_REF_ENCODED);
	else
		nf_ref_encode(b, &d->base_root);
	nf_buf_u64(b, d->first_spare);
	nf_buf_u32(b, d->nr_ops);
	nf_buf_bytes(b, d->ops, d->ops_len);
}

/* The spare numbers may not run over into the next prefix. */
static bool spare_ok(uint64_t first, uint32_t nr)
{
	return first >> 40 != 0 && first >> 63 == 0 && (first + nr) >> 40 == first >> 40;
}

static int check_ops(const struct nf_delta *d)
{
	struct nf_rd rd = nf_rd_of(d->ops, d->ops_len);
	struct nf_op op;

	for (uint32_t i = 0; i < d->nr_ops; i++) {
		int r = nf_op_decode(&rd, &d->self, &op);
		if (r < 0)
			return r;
	}
	return nf_fail(nf_rd_error(&rd, true));
}

int nf_delta_decode(const void *p, size_t len, const struct nf_pack_id *self, struct nf_delta *out)
{
	struct nf_rd rd = nf_rd_of(p, len);
	struct nf_delta d = { 0 };
	const char *host;
	uint8_t host_len;

	if (self)
		d.self = *self;
	unsigned version = nf_rd_u8(&rd);
	if (version != 1)
		return nf_fail(rd.bad ? -NF_E_FORMAT_BAD : -NF_E_FORMAT_UNKNOWN);
	d.writer = nf_rd_u32(&rd);
	d.seq = nf_rd_u64(&rd);
	if (!get_time(&rd, &d.time) || !get_str8(&rd, 0, &host, &host_len))
		return nf_fail(-NF_E_FORMAT_BAD);
	if (host_len)
		memcpy(d.host, host, host_len);
	int r = nf_ref_decode_or_null(&rd, self, &d.base_root);
	if (r < 0)
		return r;
	d.first_spare = nf_rd_u64(&rd);
	d.nr_ops = nf_rd_u32(&rd);
	d.ops = rd.p;
	d.ops_len = nf_rd_left(&rd);
	if (rd.bad || d.writer < 1 || d.writer > PREFIX_MAX || d.seq < 1 || !spare_ok(d.first_spare, d.nr_ops) ||
	    d.nr_ops > d.ops_len / OP_HEAD_BYTES)
		return nf_fail(-NF_E_FORMAT_BAD);
	r = check_ops(&d);
	if (r < 0)
		return r;
	*out = d;
	return 0;
}
