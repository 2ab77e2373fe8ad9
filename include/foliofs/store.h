/* foliofs/store.h - an object store: what the vault needs of a server.
 *
 * Five verbs on names: GET a range, PUT a whole new object, STAT, LIST one
 * directory, DELETE.  Nothing else: no conditions, no locks, no rename.  Stores
 * (directory, memory, WebDAV, HTTP) and filters (faults, delay, rate, log)
 * implement the same table, so filters stack on any store.
 *
 * A name is relative, ASCII [a-z0-9/-], at most NF_STORE_NAME_MAX - 1 bytes, with
 * '/' between directories; directories are made when a PUT needs them.
 *
 * An operation is a struct the caller allocates.  nf_store_submit() starts it
 * and returns at once; `done` is called exactly once for it, on any thread of
 * the store's, possibly before submit returns, with no lock held; after that
 * the store no longer touches the struct.  Any number may run in parallel; the
 * store queues beyond its own number of connections, highest priority first.
 *
 * Errors (op->error): -NF_E_STORE_NOT_FOUND, _DENIED, _FULL, _TOO_LARGE, _BUSY,
 * _PROTOCOL, _SHORT, _UNKNOWN_OUTCOME (a PUT or DELETE that was sent and whose
 * answer was lost), _TLS, _READONLY, -NF_E_OFFLINE, -NF_E_TIMEOUT,
 * -NF_E_CANCELLED, -ENOMEM, or -errno of a local store.
 *
 * Retries: a store itself retries GET, STAT, LIST (with back-off, jitter and
 * Retry-After, within op->timeout_ms) and never a PUT: a name is written by one
 * attempt, so the caller takes a new name.  DELETE of what is gone succeeds.
 */
#ifndef FOLIOFS_STORE_H
#define FOLIOFS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* What is declared here is what the shared library shows. */
#pragma GCC visibility push(default)

enum {
	NF_STORE_NAME_MAX = 128,
	/* A listing longer than this is refused (-NF_E_STORE_PROTOCOL). */
	NF_STORE_LIST_MAX = 1000000,
};

enum nf_store_verb {
	NF_STORE_GET,
	NF_STORE_PUT,
	NF_STORE_STAT,
	NF_STORE_LIST,
	NF_STORE_DELETE,
	NF_STORE_VERB_NR
};

/* What waits for the operation; lower value goes first. */
enum nf_store_priority { NF_STORE_FOREGROUND, NF_STORE_NORMAL, NF_STORE_BACKGROUND };

struct nf_store_entry {
	char *name;          /* last component only */
	uint64_t size_bytes; /* 0 for a directory */
	int64_t mtime_s;     /* server's clock; 0 if it does not say */
	bool is_dir;
};

struct nf_store_op {
	/* Set by the caller before submit. */
	enum nf_store_verb verb;
	enum nf_store_priority priority;
	char name[NF_STORE_NAME_MAX]; /* LIST: a directory without trailing slash, "" the root */
	uint64_t offset_bytes;        /* GET */
	size_t length_bytes;          /* GET: room at buf; PUT: sum of iov */
	void *buf;                    /* GET: filled; borrowed until done */
	bool whole;                   /* GET: the object up to length_bytes; shorter is no error */
	const struct iovec *iov;      /* PUT: the body; borrowed until done */
	int nr_iov;
	uint32_t timeout_ms; /* no-progress limit; 0: the store's default */
	void (*done)(struct nf_store_op *op);
	void *ctx; /* the caller's */

	/* Set by the store before done. */
	int error;                       /* 0 or negative */
	size_t transferred_bytes;        /* GET: == length_bytes unless `whole` */
	uint64_t size_bytes;             /* GET, STAT: size of the whole object */
	int64_t server_date_s;           /* the answer's Date; 0 if none */
	struct nf_store_entry *entries;  /* LIST: the caller frees with nf_store_op_deinit() */
	size_t nr_entries;

	/* The store's own while the operation runs. */
	void *priv[4];
};

struct nf_store;

struct nf_store_ops {
	const char *name; /* "dir", "mem", "dav", "http", "fault" */

	/* [Required] Starts OP; see above.  Called with a checked name. */
	void (*submit)(struct nf_store *s, struct nf_store_op *op);

	/* [Required] Asks that OP end soon with -NF_E_CANCELLED; done is still
	 * called exactly once (and may say success if it was too late).  OP must
	 * have been submitted and its done not yet returned. */
	void (*cancel)(struct nf_store *s, struct nf_store_op *op);

	/* [Required] Waits until no operation runs, then frees S (and, for a
	 * filter, what it stands on). */
	void (*free)(struct nf_store *s);

	/* [Optional] Room on the server in bytes; -NF_E_STORE_PROTOCOL if it does
	 * not say.  May block; never called from a FUSE thread. */
	int (*quota)(struct nf_store *s, uint64_t *used_bytes, uint64_t *free_bytes);

	/* [Optional] See nf_store_probe(); default: success. */
	int (*probe)(struct nf_store *s);
};

/* Embedded first in each implementation. */
struct nf_store {
	const struct nf_store_ops *ops;
	/* Largest body a PUT may have; lowered by the store after a 413. */
	_Atomic uint64_t max_put_bytes;
	bool read_only;
	bool no_list; /* plain HTTP: heads are found by `hint` and fixed names */
	char *text;   /* the address without secrets, for messages; owned */
};

/* Checks the name (-EINVAL through done), counts, then ops->submit. */
void nf_store_submit(struct nf_store *s, struct nf_store_op *op);
void nf_store_cancel(struct nf_store *s, struct nf_store_op *op);
/* Frees what the store put into a finished OP (entries). */
void nf_store_op_deinit(struct nf_store_op *op);
/* Submits OP and waits; returns op->error.  Blocks: never on a FUSE thread.
 * OP's done and ctx are used by the call. */
int nf_store_run(struct nf_store *s, struct nf_store_op *op);
/* NULL allowed. */
void nf_store_free(struct nf_store *s);

/* --- opening one ------------------------------------------------------------------- *
 *
 *   /path, ./path, file:///path            a local directory
 *   mem:NAME                               in memory, shared by NAME in this process
 *   davs://[USER[:PASS]@]HOST[:PORT]/PATH  WebDAV over TLS
 *   dav://...                              WebDAV in the clear: loopback only, unless insecure_http
 *   https://..., http://...                read-only by GET and ranges, no listing
 *   fault+ADDRESS?RULES                    a fault filter on ADDRESS, for tests
 */
struct nf_store_options {
	const char *user;          /* Basic/Digest; NULL: from the address or netrc */
	const char *password;      /* borrowed during open; copied to locked memory */
	const char *bearer_token;
	bool netrc;                /* look up ~/.netrc when nothing else is given */
	bool insecure_http;        /* allow dav:// and http:// beyond loopback */
	const char *ca_cert;       /* path; NULL: the system's */
	const char *client_cert;
	const char *client_key;
	const char *proxy;
	uint32_t connect_timeout_ms; /* 0: 10,000 */
	uint32_t timeout_ms;         /* no progress; 0: 30,000 */
	uint32_t connections;        /* 0: 8 */
	uint32_t retries;            /* 0: 5 */
	uint64_t bwlimit_up_bytes;   /* per second; 0: none */
	uint64_t bwlimit_down_bytes;
	bool may_be_away;            /* a local directory need not be there yet, as a server need not */
};

/* Opens ADDRESS; makes no request yet.  OPT may be NULL.  On success *OUT is the
 * caller's (nf_store_free).  -NF_E_STORE_URL for an address that is not
 * understood, -ENOENT if a local directory does not exist (CREATE: it is made;
 * opt->may_be_away: operations end with -NF_E_OFFLINE until it is there),
 * -EPERM for dav:// or http:// beyond loopback without opt->insecure_http. */
int nf_store_open(const char *address, const struct nf_store_options *opt, bool create,
		  struct nf_store **out);

/* Asks the server whether the address answers, speaks what its scheme says and
 * the collection exists (opened with CREATE: it is made).  0, or
 * -NF_E_STORE_NOT_DAV, _DENIED, _NOT_FOUND, _TLS, -NF_E_OFFLINE, ...; -ENOTDIR if
 * the address is a file.  Blocks; not from a store's done. */
int nf_store_probe(struct nf_store *s);

/* The address without credentials and query, in a malloc'd string; NULL: no memory. */
char *nf_store_address_safe(const char *address);

#pragma GCC visibility pop

#endif
