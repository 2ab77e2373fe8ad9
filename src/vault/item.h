/* vault/item.h - the values of tree items, in memory and encoded (docs/format.md section 6).
 *
 * Decoding checks everything a value says against the limits of docs/format.md; encoding cannot fail but
 * for memory (see nf_buf). */
#ifndef NF_VAULT_ITEM_H
#define NF_VAULT_ITEM_H

#include "base/buf.h"
#include "base/text.h"
#include "vault/tree.h"

#include <sys/stat.h>
#include <time.h>

enum {
	NF_INO_ROOT = 1,
	NF_INO_STASH = 2,
	NF_NAME_MAX = 255,
	NF_INLINE_MAX = 512,
	NF_SYMLINK_MAX = 4095,
	NF_WINDOW_BLOCKS = 128,
	NF_BLOCK_SHIFT_MIN = 12,
	NF_BLOCK_SHIFT_MAX = 22,
};

/* True for values that may hold references (EXTENT, XATTR, ROOT, DELTA, SNAPSHOT). */
bool nf_item_has_refs(uint8_t type);
/* Appends a value read from SELF as it has to stand in another pack: "this pack" is written out.
 * -NF_E_FORMAT_BAD if the value does not parse. */
int nf_item_rebase(uint8_t type, const void *value, size_t len, const struct nf_pack_id *self,
		   struct nf_buf *out);

int nf_extent_rebase(const void *value, size_t len, const struct nf_pack_id *self, struct nf_buf *out);
int nf_xattr_rebase(const void *value, size_t len, const struct nf_pack_id *self, struct nf_buf *out);
/* 1, 2 or one with a writer's prefix. */
bool nf_ino_is_valid(uint64_t ino);
/* 1 to 255 bytes without '/' and NUL, not "." or "..". */
bool nf_name_is_valid(const char *name, size_t len);

/* Which version of a content: the dot that made it. */
struct nf_stamp {
	uint32_t writer;
	uint64_t seq;
};

static inline bool nf_stamp_equal(struct nf_stamp x, struct nf_stamp y)
{
	return x.writer == y.writer && x.seq == y.seq;
}

enum { NF_INODE_INLINE = 1 };

struct nf_inode_item {
	uint32_t mode;
	uint32_t uid, gid;
	uint32_t nlink;
	uint64_t size_bytes;
	uint64_t rdev;
	struct timespec atime, mtime, ctime, btime;
	uint8_t block_shift;
	uint8_t flags;
	struct nf_stamp stamp;
	uint16_t inline_len;
	const uint8_t *inline_data; /* borrowed from the encoded value or the caller */
};
void nf_inode_encode(struct nf_buf *b, const struct nf_inode_item *i);
int nf_inode_decode(const void *p, size_t len, struct nf_inode_item *out);
void nf_inode_to_text(const struct nf_inode_item *i, struct nf_text *t);

/* Lists of names: DIRENT values.  Iterate with pos from 0; 0, NF_TREE_NONE at the end, negative. */
struct nf_dirent {
	uint64_t ino;
	uint8_t type; /* DT_* */
	const char *name; /* not NUL-terminated; borrowed */
	uint8_t name_len;
};
int nf_dirent_iter(const void *value, size_t len, size_t *pos, struct nf_dirent *out);
/* Finds NAME: 0 or NF_TREE_NONE. */
int nf_dirent_find(const void *value, size_t len, const char *name, size_t name_len,
		   struct nf_dirent *out);
/* VALUE (NULL: none) with the entry added or (INO 0) removed, sorted by name.  An empty result
 * means that the item goes. -EEXIST / -ENOENT; -ENOSPC over NF_VALUE_MAX. */
int nf_dirent_edit(const void *value, size_t len, const struct nf_dirent *add_or_remove,
		   struct nf_buf *out);
/* PARENT values: sets of names. */
int nf_names_iter(const void *value, size_t len, size_t *pos, const char **name, uint8_t *name_len);
int nf_names_edit(const void *value, size_t len, const char *name, size_t name_len, bool add,
		  struct nf_buf *out);

/* XATTR values. */
struct nf_xattr_entry {
	const char *name;
	uint8_t name_len;
	bool is_blob;
	const uint8_t *value; /* inline */
	uint16_t value_len;
	struct nf_ref blob; /* is_blob; plain_len is the value's length */
	uint64_t birth;
	uint32_t index;
};
int nf_xattr_iter(const void *value, size_t len, const struct nf_pack_id *self, size_t *pos,
		  struct nf_xattr_entry *out);
/* As nf_dirent_edit(), but an entry of the same name is replaced.  References in VALUE are written out against
 * SELF. */
int nf_xattr_edit(const void *value, size_t len, const struct nf_pack_id *self,
		  const struct nf_xattr_entry *e, bool add, struct nf_buf *out);

/* One block's reference.  pack all zeros and sealed_len 0: a hole.  Before a block is on the server `pack` is a
 * local name: see vault/blocks.h. */
struct nf_block_ref {
	struct nf_pack_id pack;
	uint32_t offset_bytes;
	uint32_t sealed_len; /* 0: a hole */
	uint32_t plain_len;
	uint64_t birth;
	uint32_t index;
	uint32_t epoch;
	uint8_t flags;
	uint8_t tag[16];
};
/* EXTENT values <-> arrays of NF_WINDOW_BLOCKS references.  `explicit_holes`: deltas; KNOWN (may be NULL when
 * not explicit) says which of the entries are named at all. */
int nf_extent_decode(const void *p, size_t len, const struct nf_pack_id *self, uint32_t block_bytes,
		     struct nf_block_ref out[NF_WINDOW_BLOCKS], bool known[NF_WINDOW_BLOCKS]);
void nf_extent_encode(struct nf_buf *b, const struct nf_block_ref in[NF_WINDOW_BLOCKS],
		      const bool known[NF_WINDOW_BLOCKS], uint32_t block_bytes, bool explicit_holes);
/* A whole EXTENT value by reference: the value at key (INO, EXTENT, FIRST_BLOCK) in a sealed leaf, which is one of
 * segments.  In trees and deltas it stands alone (`whole`); in a layer segments may follow, which count more. */
struct nf_extent_ref {
	struct nf_ref leaf;
	uint64_t ino;
	uint64_t first_block;
};
enum { NF_EXTENT_REF_ENCODED = 1 + 52 + 8 + 8 };
void nf_extent_ref_encode(struct nf_buf *b, const struct nf_extent_ref *r);
/* True for one that was decoded before and stands alone. */
bool nf_extent_is_ref(const void *p, size_t len);
/* 0, NF_TREE_NONE if the value is one of segments only, or negative. */
int nf_extent_ref_decode(const void *p, size_t len, const struct nf_pack_id *self, bool whole,
			 struct nf_extent_ref *out);
/* A value of a delta (WHOLE) or a layer, in which packs are named: *REF is what it stands on (leaf null: on whatever
 * is below), OUT and KNOWN what its own segments say. */
int nf_extent_patch_decode(const void *p, size_t len, bool whole, uint32_t block_bytes, struct nf_extent_ref *ref,
			   struct nf_block_ref out[NF_WINDOW_BLOCKS], bool known[NF_WINDOW_BLOCKS]);
void nf_extent_patch_encode(struct nf_buf *b, const struct nf_extent_ref *ref,
			    const struct nf_block_ref in[NF_WINDOW_BLOCKS], const bool known[NF_WINDOW_BLOCKS],
			    uint32_t block_bytes);
void nf_extent_ref_to_text(const struct nf_extent_ref *r, struct nf_text *t);

/* WRITER, ROOT, DELTA, COUNTER values. */
struct nf_writer_item {
	uint8_t id[16];
	uint64_t seq;
	int64_t seen_s;
	uint64_t next_counter;
	char host[256];
};
void nf_writer_encode(struct nf_buf *b, const struct nf_writer_item *w);
int nf_writer_decode(const void *p, size_t len, struct nf_writer_item *out);
struct nf_root_item {
	uint8_t rand[16];
	uint8_t tag[16];
	int64_t time_s;
	struct nf_ref root;
	struct nf_ref now; /* where a tree with the same content stands since the collector came by; null: root */
};
/* Of a tree that is not empty. */
bool nf_root_is_valid(const struct nf_ref *root);
static inline const struct nf_ref *nf_root_now(const struct nf_root_item *r)
{
	return nf_ref_is_null(&r->now) ? &r->root : &r->now;
}
void nf_root_encode(struct nf_buf *b, const struct nf_root_item *r);
int nf_root_decode(const void *p, size_t len, const struct nf_pack_id *self, struct nf_root_item *out);
struct nf_delta_item {
	struct nf_ref delta;
	int64_t time_s;
	uint64_t head_seq; /* of the head that published it: grows along causes */
};
void nf_delta_item_encode(struct nf_buf *b, const struct nf_delta_item *d);
int nf_delta_item_decode(const void *p, size_t len, const struct nf_pack_id *self,
			 struct nf_delta_item *out);
/* SNAPSHOT values: the retained heads that bear a name of this hash, by (name, rand).  One name may stand for several
 * heads: two machines may have given it at once. */
struct nf_snapshot_entry {
	const char *name; /* 1 to 255 bytes, valid as a file's; borrowed */
	uint8_t name_len;
	uint64_t seq;     /* of the head */
	uint8_t rand[16];
	uint8_t tag[16];
	int64_t time_s;   /* the head's */
	struct nf_ref root;
};
/* One entry, as it stands in values and in operations. */
void nf_snapshot_put(struct nf_buf *b, const struct nf_snapshot_entry *e);
/* RD goes bad for what is outside the limits. */
void nf_snapshot_get(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_snapshot_entry *out);
/* As nf_dirent_iter(). */
int nf_snapshot_iter(const void *value, size_t len, const struct nf_pack_id *self, size_t *pos,
		     struct nf_snapshot_entry *out);
/* VALUE (NULL: none) with E added, or the entry of its (name, rand) removed; empty: the item goes. -EEXIST / -ENOENT;
 * -ENOSPC over NF_VALUE_MAX. */
int nf_snapshot_edit(const void *value, size_t len, const struct nf_pack_id *self,
		     const struct nf_snapshot_entry *e, bool add, struct nf_buf *out);
/* CONDEMNED values: when, by the server's clock; the key is the pack's id. */
struct nf_key nf_condemned_key(const struct nf_pack_id *pack);
void nf_condemned_pack(const struct nf_key *key, struct nf_pack_id *out);
int nf_condemned_decode(const void *p, size_t len, int64_t *date_s);
/* COLLECTED: when a collector last did something, by the server's clock. */
enum nf_tree_counter { NF_COUNTER_INODES = 1, NF_COUNTER_BYTES = 2, NF_COUNTER_COLLECTED = 3 };
void nf_counter_encode(struct nf_buf *b, int64_t v);
int nf_counter_decode(const void *p, size_t len, int64_t *out);

#endif
