/* vault/op.h - the operations of a delta and of the journal (docs/format.md section 8).
 *
 * One struct serves making, encoding, decoding and applying.  Decoding borrows from the encoded bytes; what an
 * operation says is checked against the limits of docs/format.md there and nowhere else. */
#ifndef NF_VAULT_OP_H
#define NF_VAULT_OP_H

#include "vault/item.h"

enum nf_op_kind {
	NF_OP_CREATE = 1,
	NF_OP_LINK = 2,
	NF_OP_UNLINK = 3,
	NF_OP_RENAME = 4,
	NF_OP_SETATTR = 5,
	NF_OP_DATA = 6,
	NF_OP_XATTR = 7,
	NF_OP_CLAIM = 8,
	NF_OP_SNAPSHOT = 9,
	NF_OP_COLLECT = 10,
	NF_OP_MOVE = 11,
	NF_OP_PLACE = 12,
	NF_OP_RESEAL = 13,
	NF_OP_KIND_NR
};

enum nf_conflict_mode {
	NF_MODE_DISCARD = 1,
	NF_MODE_REAPPLY = 2,
	NF_MODE_OVERWRITE = 3,
	NF_MODE_STASH = 4,
	NF_MODE_ASK = 5,
};

enum {
	NF_OPF_EXCHANGE = 1,      /* RENAME */
	NF_OPF_INLINE = 1,        /* DATA */
	NF_OPF_APPEND = 2,        /* DATA */
	NF_OPF_PAGE_GRANULAR = 4, /* DATA */
	NF_OPF_REMOVE = 1,        /* XATTR */
	NF_OPF_BLOB = 2,          /* XATTR */
	NF_OPF_HAD_BASE = 4,      /* XATTR */
	NF_OPF_FORGET = 1,        /* SNAPSHOT, COLLECT */
};

/* SETATTR mask bits, in encoding order. */
enum {
	NF_OPA_MODE = 1,
	NF_OPA_UID = 2,
	NF_OPA_GID = 4,
	NF_OPA_ATIME = 8,
	NF_OPA_MTIME = 16,
	NF_OPA_CTIME = 32,
	NF_OPA_BTIME = 64,
};
struct nf_op_attrs {
	uint32_t mode, uid, gid;
	struct timespec atime, mtime, ctime, btime;
};

struct nf_op {
	enum nf_op_kind kind;
	enum nf_conflict_mode conflict_mode;
	struct timespec time;
	uint64_t ino;    /* all but CLAIM, SNAPSHOT, COLLECT and PLACE */
	uint64_t parent; /* CREATE, LINK, UNLINK, RENAME */
	const char *name; /* CREATE, LINK, UNLINK, RENAME, XATTR */
	uint8_t name_len;
	uint8_t flags; /* RENAME, DATA, XATTR, SNAPSHOT, COLLECT */
	struct nf_stamp stamp; /* UNLINK, DATA: base version; RENAME: the replaced inode's */

	/* CREATE */
	uint32_t mode, uid, gid;
	uint64_t rdev;
	uint8_t block_shift;
	const char *target;
	uint16_t target_len;

	/* RENAME */
	uint64_t new_parent, replaced;
	const char *new_name;
	uint8_t new_name_len;

	/* SETATTR */
	uint8_t mask;
	struct nf_op_attrs base, now;

	/* DATA */
	struct timespec mtime;
	uint64_t size_before, least_size, size_after;
	const uint8_t *ranges; /* nr_ranges times u64 start, u64 end, LE */
	uint32_t nr_ranges;
	const uint8_t *inline_data;
	uint16_t inline_len;
	/* DATA, MOVE, RESEAL */
	const uint8_t *windows; /* nr_windows times u64 first block, str16 extent value; iterate below */
	size_t windows_len;
	uint32_t nr_windows;
	/* RESEAL: what stands there if nobody wrote since; the same windows, in the same form */
	const uint8_t *olds;
	size_t olds_len;

	/* XATTR */
	const uint8_t *value;
	uint16_t value_len;
	struct nf_ref blob;
	uint64_t blob_birth;
	uint32_t blob_index;

	/* CLAIM */
	uint32_t prefix;
	uint8_t writer_id[16];
	const char *host;
	uint8_t host_len;

	/* SNAPSHOT */
	struct nf_snapshot_entry snapshot;

	/* COLLECT: ROOT, DELTA or CONDEMNED items go (FORGET), or CONDEMNED ones come, or the COUNTER of collections. */
	uint8_t item;          /* enum nf_item_type */
	int64_t date_s;        /* the server's */
	const uint8_t *keys;   /* nr_keys times the key's a and b, big-endian */
	uint32_t nr_keys;

	/* PLACE */
	const uint8_t *places; /* nr_places times an encoded nf_place */
	uint32_t nr_places;
};

/* What a ROOT, DELTA or SNAPSHOT item names stands elsewhere, with the same content. */
enum { NF_PLACE_ENCODED = 1 + 8 + 8 + 16 + 2 * NF_REF_ENCODED };
struct nf_place {
	struct nf_key key;
	uint8_t rand[16];       /* of a snapshot's entry; zeros otherwise */
	struct nf_ref old, now; /* it is OLD that is replaced, nothing else */
};
void nf_place_encode(struct nf_buf *b, const struct nf_place *p);
/* A PLACE operation's. */
void nf_op_place(const struct nf_op *op, uint32_t i, struct nf_place *out);

void nf_op_encode(struct nf_buf *b, const struct nf_op *op);
/* Reads one operation; SELF resolves "this pack" in references (NULL: zeros stay). */
int nf_op_decode(struct nf_rd *rd, const struct nf_pack_id *self, struct nf_op *out);
/* A COLLECT operation's keys. */
struct nf_key nf_op_key(const struct nf_op *op, uint32_t i);
/* Windows of a DATA or MOVE operation: 0, NF_TREE_NONE at the end. */
int nf_op_window_iter(const struct nf_op *op, size_t *pos, uint64_t *first_block,
		      const uint8_t **value, size_t *len);
void nf_op_range(const struct nf_op *op, uint32_t i, uint64_t *start, uint64_t *end);
void nf_op_to_text(const struct nf_op *op, struct nf_text *t);

/* A delta: header and operations. */
struct nf_delta {
	uint32_t writer;
	uint64_t seq;
	struct timespec time;
	char host[256];
	struct nf_ref base_root; /* null: the empty tree */
	uint64_t first_spare;    /* ino; as many follow as there are operations */
	uint32_t nr_ops;
	const uint8_t *ops; /* encoded, borrowed */
	size_t ops_len;
	struct nf_pack_id self; /* pack it was read from */
};
void nf_delta_encode(struct nf_buf *b, const struct nf_delta *d);
/* Checks the header and that the operations decode, all of them. */
int nf_delta_decode(const void *p, size_t len, const struct nf_pack_id *self, struct nf_delta *out);

#endif
