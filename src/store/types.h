/* store/types.h - what the stores share among themselves; not for other layers. */
#ifndef NF_STORE_TYPES_H
#define NF_STORE_TYPES_H

#include "foliofs/store.h"

#include "aio/pool.h"
#include "base/error.h"

/* True if NAME is a relative name this layer accepts; "" only with EMPTY_OK. */
bool nf_store_name_ok(const char *name, bool empty_ok);
/* The same for one component of LEN bytes: [a-z0-9-]+. */
bool nf_store_part_ok(const char *part, size_t len);

/* Ends OP with ERROR: counts the bytes moved and calls done.  Every leaf store
 * ends its operations here; filters call op->done themselves. */
void nf_store_finish(struct nf_store_op *op, int error);

/* How much of an object of SIZE bytes the GET asks for goes to op->buf.  Sets
 * op->size_bytes.  -NF_E_STORE_SHORT if the range reaches past the end and the
 * op does not say `whole`. */
int nf_store_clip(struct nf_store_op *op, uint64_t size_bytes, size_t *n);

/* Sum of the PUT's iov; false if it is not op->length_bytes. */
bool nf_store_iov_ok(const struct nf_store_op *op);

/* -- a listing being built -- */

struct nf_entries {
	struct nf_store_entry *v;
	size_t nr;
	size_t cap;
};

void nf_entries_deinit(struct nf_entries *e);
/* Copies NAME.  -NF_E_STORE_PROTOCOL beyond NF_STORE_LIST_MAX; -ENOMEM. */
int nf_entries_add(struct nf_entries *e, const char *name, size_t name_len, bool is_dir,
		   uint64_t size_bytes, int64_t mtime_s);
/* Sorts by name, drops doubles, and hands the array to OP. */
void nf_entries_give(struct nf_entries *e, struct nf_store_op *op);

/* -- directories known to exist; forgotten all at once when there are too many -- */

enum { NF_KNOWN_MAX = 4096 };
struct nf_known {
	char **v;
	size_t nr;
};

void nf_known_deinit(struct nf_known *k);
bool nf_known_has(const struct nf_known *k, const char *path, size_t len);
/* Failing to remember is no error: it is merely found out again. */
void nf_known_add(struct nf_known *k, const char *path, size_t len);

/* Hands OP to SUBMIT and waits for its done; returns op->error. */
int nf_store_wait(struct nf_store *s, struct nf_store_op *op,
		  void (*submit)(struct nf_store *s, struct nf_store_op *op));

/* -- local stores: an operation is one blocking call on a pool of their own -- */

struct nf_local {
	struct nf_pool *pool;
	struct nf_store *store;
	/* Does OP; blocks on the local disk at most.  0 or negative. */
	int (*run)(struct nf_store *s, struct nf_store_op *op);
};

void nf_local_submit(struct nf_local *l, struct nf_store_op *op);
/* Ends OP with -NF_E_CANCELLED if it has not begun. */
void nf_local_cancel(struct nf_store_op *op);

/* -- constructors -- */

/* What is asked of the directory of a store when it is opened. */
enum nf_dir_root { NF_DIR_IS_THERE, NF_DIR_MAY_BE_AWAY, NF_DIR_IS_MADE };

struct nf_file_ops;
int nf_store_mem_new(const char *name, struct nf_store **out);
/* FILES is borrowed until the store is freed. */
int nf_store_dir_new(const char *path, const struct nf_file_ops *files, enum nf_dir_root root,
		     struct nf_store **out);

struct nf_address;
int nf_store_dav_new(const struct nf_address *a, const struct nf_store_options *opt, bool create,
		     struct nf_store **out);

#endif
