/* vault/check_i.h - the parts of a check.
 *
 *   check.c         what the store holds; heads, roots, deltas; each node of each tree once
 *   check_items.c   what nodes hold; of the newest tree also whether its items agree
 *   check_repair.c  what this machine still has goes to the store again; older versions of what is lost
 *   check_mend.c    nodes of the newest tree that nobody has: what an older tree has in their place
 *   check_links.c   afterwards: names, back-references, links and counters that do not agree
 *
 * Memory: about 100 bytes an inode, 60 a pack, 80 a node. */
#ifndef NF_VAULT_CHECK_I_H
#define NF_VAULT_CHECK_I_H

#include "vault/gc.h"
#include "vault/node.h"

/* What is known of one inode of the newest tree. */
struct nf_check_seen {
	struct nf_avl_node node;
	uint64_t ino;
	uint64_t parent;    /* a directory that names it */
	uint64_t names;     /* xor over entries and back-references: 0 when they agree */
	uint64_t size_bytes;
	uint32_t mode;
	uint32_t nlink;
	uint32_t entries;   /* directory entries that name it */
	uint32_t backs;     /* back-references */
	uint32_t subdirs;
	uint8_t block_shift;
	uint8_t flags;
	bool item;          /* it has an INODE item */
	bool dir;           /* something says that it is a directory */
	bool blocks;        /* it has EXTENT items */
	uint8_t reach;      /* 0 not looked at, 1 being looked at, 2 leads to the root */
};

/* An object that does not open, though its pack is there and long enough. */
struct nf_check_bad {
	struct nf_avl_node node;
	struct nf_pack_id pack;
	uint32_t offset_bytes;
};

/* A node of the newest tree that cannot be read, and the keys it is for. */
struct nf_check_lost {
	struct nf_key from, to; /* an inode of UINT64_MAX: to the end */
	struct nf_ref ref;
	int error;
};

struct nf_check {
	struct nf_vault *v;
	struct nf_check_options o;
	struct nf_check_result r;
	bool listed;               /* `packs` has everything the store holds */
	struct nf_pack_set packs;  /* listed: it is there; needed: something names it; condemned: something of it is bad */
	struct nf_avl bad;         /* nf_check_bad */
	/* The tree under way. */
	const char *where;         /* "" for the newest, else what lines begin with */
	bool newest;
	struct nf_ref root;
	struct nf_avl visited;
	struct nf_avl inodes;      /* of the newest tree */
	struct nf_check_seen file; /* of others: the last inode met */
	int64_t counters[3];
	uint64_t lost_nodes;       /* of the newest tree */
	struct nf_check_lost *lost; /* those of them that cannot be read themselves, ascending */
	size_t nr_lost, cap_lost;
	struct nf_ref newest_root;
	uint64_t at_odds;          /* problems of items that do not agree */
	/* What was put in the place of lost nodes. */
	struct nf_check_lost *mended;
	size_t nr_mended;
	uint64_t *asof;            /* files and directories that are as an older commit has them */
	size_t nr_asof;
	uint64_t asof_seq;         /* that commit; 0: nothing was found */
	/* Files of the newest tree with blocks that cannot be read; each once, ascending. */
	uint64_t *hurt;
	size_t nr_hurt, cap_hurt;
};

/* --- check.c ------------------------------------------------------------------------- */
void nf_check_problem(struct nf_check *k, uint64_t ino, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void nf_check_say(struct nf_check *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The path of INO in the tree under way as far as it can be found. */
void nf_check_path(struct nf_check *k, uint64_t ino, char *out, size_t size);
/* [offset, offset + len) of PACK: 0, or -NF_E_PACK_MISSING, -NF_E_STORE_SHORT, other errors of the store; also what was found
 * bad there before (-NF_E_XFORM_BAD_TAG).  Notes that the pack is needed. */
int nf_check_range(struct nf_check *k, const struct nf_pack_id *pack, uint32_t offset_bytes, uint32_t len_bytes);
int nf_check_read(struct nf_check *k, const struct nf_pack_id *pack, uint32_t offset_bytes, uint32_t len_bytes, void *buf);
int nf_check_note_bad(struct nf_check *k, const struct nf_pack_id *pack, uint32_t offset_bytes);
/* Says that it is damage that was met (and notes that file INO is hurt), or gives the error back. */
int nf_check_damage(struct nf_check *k, uint64_t ino, int error);

/* --- check_items.c ------------------------------------------------------------------------ */
int nf_check_item(struct nf_check *k, const struct nf_key *key, const struct nf_val *v);
/* Afterwards, of the newest tree. */
void nf_check_agree(struct nf_check *k);
void nf_check_items_deinit(struct nf_check *k);
struct nf_check_seen *nf_check_seen(struct nf_check *k, uint64_t ino, bool make);

/* --- check_repair.c ------------------------------------------------------------------------ */
int nf_check_repair(struct nf_check *k);
/* Versions of hurt files that older trees have, beside them. */
int nf_check_restore(struct nf_check *k);


/* --- check_mend.c ------------------------------------------------------------------------------ */
/* One attempt; *DONE says that something was committed: look again. */
int nf_check_mend_nodes(struct nf_check *k, bool *done);
bool nf_check_is_mended(const struct nf_check *k, const struct nf_key *key);
/* Which paths are as they were. */
void nf_check_tell_asof(struct nf_check *k);
/* KEY of the tree under way as it stands there.  0, NF_TREE_NONE, or negative; blocks. */
int nf_check_lookup(struct nf_check *k, const struct nf_ref *root, const struct nf_key *key, struct nf_val *out);

/* --- check_links.c ------------------------------------------------------------------------------ */
/* As nf_check_mend_nodes(). */
int nf_check_mend_links(struct nf_check *k, bool *done);
/* Do entries, back-references and the item of S say the same? */
bool nf_check_agrees(const struct nf_check_seen *s);

#endif
