/* aio/crash_log.h - the operations recorded by a disk in memory.  For
 * src/aio/file_crash*.c only. */
#ifndef NF_AIO_CRASH_LOG_H
#define NF_AIO_CRASH_LOG_H

#include "aio/crash_tree.h"
#include "aio/file_crash.h"
#include "base/lock.h"

struct nf_crash_op {
	enum nf_crash_kind kind;
	bool safe; /* durable at once */
	uint32_t ino;
	uint32_t dir, dir_to; /* of names */
	char *name, *name_to;
	uint64_t offset; /* truncate: the new size */
	uint64_t len;
	void *data;
};

/* I never changed;  l lock (a leaf: it is the bottom of everything) */
struct nf_crash {
	struct nf_lock lock;
	struct nf_file_ops ops;	 /* I */
	struct nf_ct base;	 /* I  before the first operation */
	struct nf_ct now;	 /* l  after the last */
	struct nf_crash_op *log; /* l */
	size_t nr_ops;		 /* l */
	size_t cap_ops;		 /* l */
	uint64_t *durable_at;	 /* l  of the first nr_durable operations: the first cut that cannot undo it */
	size_t nr_durable;	 /* l */
	unsigned nr_open;	 /* l */
	uint64_t room_bytes;	 /* l */
	/* l  the fault to come: after `fail_after` more of `fail_kind` */
	enum nf_crash_kind fail_kind;
	uint64_t fail_after;
	/* l  after `fill_after` more that take room `fill_times` find none; how many did so far */
	uint64_t fill_after, fill_times, filled;
	int fail_err;
};

/* Changes T as OP says. */
void nf_crash_apply(struct nf_ct *t, const struct nf_crash_op *op);
/* An empty disk whose tree is *TREE (taken). */
struct nf_crash *nf_crash_of_tree(struct nf_ct *tree);

#endif
