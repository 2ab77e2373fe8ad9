/* vault/unsent.h - operations that a writer had not sent, beside those that came to the server under its name (reborn.c).
 *
 *	unsent             a b c d e f g h      as this device made them, in order
 *	published          a b   d  f' . .      by the machine it was copied from, or before it was restored: the first of them as they
 *	                                        were or in less (squash.h), then what was done there afterwards
 *	the rest                   e   g h      to be published under another writer
 *
 * Both begin with the same operations, so what was published is the first so many of them, and the last that is found again tells how
 * many.  An operation is known by its inode, its time to the nanosecond, and its names.  Not by their place alone are told:
 *
 *	DATA       made less it stands where the first of its file stood: it tells nothing of what lies between, and the ones
 *	           of its file before it are in
 *	SETATTR    made less it stands where the last one stood: one is in only if it, or a later one of that inode, is
 *
 * What the collector did (COLLECT, MOVE, PLACE, RESEAL) and CLAIMs are no part of the rest: the next run finds that anew.
 *
 * In the rest, new inodes get new numbers, because the other machine may have given the same to others; and versions
 * of files that both may have made, of different content, are named so that they match only what is known to be the same.
 *
 * Not thread safe, needs no lock. */
#ifndef NF_VAULT_UNSENT_H
#define NF_VAULT_UNSENT_H

#include "vault/op.h"

enum { NF_UNSENT_OPS_MAX_BYTES = 64 << 20 };

struct nf_unsent_op {
	uint64_t ino;
	uint64_t print;   /* what it is known by */
	uint64_t version; /* DATA, CREATE: the published dot that left its file as this did; 0: not known */
	uint32_t at;      /* where it begins */
	uint8_t kind;
	bool found;       /* among what was published */
	bool in;          /* need not be sent */
};
/* Of one inode. */
struct nf_unsent_subject {
	uint64_t ino;
	uint64_t now;        /* its new number; 0: it keeps its own */
	uint32_t created;    /* operations + 1; 0: none */
	uint32_t published;  /* the last one whose version is, or was, known */
	uint32_t content;    /* the last DATA or CREATE that was passed */
	bool data_in, attr_in;
};
struct nf_unsent {
	uint32_t writer;
	uint64_t first_seq; /* its first dot of which something is here */
	/* A fresh inode number. */
	uint64_t (*number)(void *ctx);
	void *ctx;
	struct nf_buf ops;  /* all, as they were made: the caller adds them */
	/* Made by nf_unsent_index(). */
	struct nf_unsent_op *all;
	uint32_t nr;
	uint32_t *by_print;
	struct nf_unsent_subject *subjects;
	size_t nr_subjects;
	uint32_t nr_rest;   /* by nf_unsent_judge() */
};
void nf_unsent_deinit(struct nf_unsent *u);
/* Once all operations were added. */
int nf_unsent_index(struct nf_unsent *u);
/* Operations of the writer's dot SEQ on the server; dots ascending. */
int nf_unsent_published(struct nf_unsent *u, uint64_t seq, const void *ops, size_t len);
/* Once all of these were told: what is in? */
void nf_unsent_judge(struct nf_unsent *u);
/* Of the operations in bytes [FROM, TO), where each begins: those that are in to *IN as they are, the others to *REST as they are
 * to be published.  Called for one range after the other. */
int nf_unsent_part(struct nf_unsent *u, size_t from, size_t to, struct nf_buf *in, struct nf_buf *rest);
/* The number that INO has in the rest, once all parts were told. */
uint64_t nf_unsent_number(const struct nf_unsent *u, uint64_t ino);

#endif
