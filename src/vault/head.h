/* vault/head.h - heads and version vectors (docs/format.md section 7). */
#ifndef NF_VAULT_HEAD_H
#define NF_VAULT_HEAD_H

#include "codec/codec.h"
#include "vault/ref.h"

#include <time.h>

enum { NF_HEAD_PARENTS_MAX = 16, NF_VECTOR_MAX = 4096, NF_HEAD_BYTES_MAX = 1 << 20 };

struct nf_vector_entry {
	uint32_t writer;
	uint64_t seq;
	uint8_t tag[16]; /* of that delta's reference */
};
/* Ascending by writer. */
struct nf_vector {
	struct nf_vector_entry *e;
	size_t nr;
};
void nf_vector_deinit(struct nf_vector *v);
int nf_vector_copy(struct nf_vector *to, const struct nf_vector *from);
/* 0: none. */
uint64_t nf_vector_seq(const struct nf_vector *v, uint32_t writer);
const struct nf_vector_entry *nf_vector_find(const struct nf_vector *v, uint32_t writer);
/* -ENOSPC beyond NF_VECTOR_MAX, as does join. */
int nf_vector_set(struct nf_vector *v, const struct nf_vector_entry *e);
/* A has, for each writer of B, at least B's seq. */
bool nf_vector_covers(const struct nf_vector *a, const struct nf_vector *b);
/* Writers, seqs and tags. Two that cover each other and are not equal hold a cloned writer. */
bool nf_vector_equal(const struct nf_vector *a, const struct nf_vector *b);
/* A becomes the greater of both for each writer. */
int nf_vector_join(struct nf_vector *a, const struct nf_vector *b);
void nf_vector_to_text(const struct nf_vector *v, struct nf_text *t);

struct nf_head_id {
	uint64_t seq;
	uint8_t rand[16];
	uint8_t tag[16];
};

struct nf_head {
	struct nf_head_id id; /* tag: of its own sealed bytes, once sealed or opened */
	uint32_t writer;
	uint64_t writer_seq;
	struct timespec time;
	size_t nr_parents;
	struct nf_head_id parents[NF_HEAD_PARENTS_MAX];
	struct nf_ref root;
	struct nf_ref delta; /* null: none */
	struct nf_pack_id meta_pack;
	uint32_t meta_offset_bytes, meta_len_bytes;
	struct nf_vector vector;
};
void nf_head_deinit(struct nf_head *h);
/* "heads/<seq>-<rand>" */
void nf_head_name(uint64_t seq, const uint8_t rand[16], char out[64]);
/* Parses the last component of a listed name; -NF_E_FORMAT_BAD. */
int nf_head_name_parse(const char *name, uint64_t *seq, uint8_t rand[16]);
/* The file's bytes, for h->id.seq and h->id.rand; sets h->id.tag.  *OUT is malloc'd. */
int nf_head_seal(struct nf_codec *c, struct nf_head *h, void **out, size_t *len);
int nf_head_open(struct nf_codec *c, uint64_t seq, const uint8_t rand[16], const void *p, size_t len,
		 struct nf_head *out);
/* The epoch that the file's bytes say they are sealed under; 0 if this is no head.  Not authenticated. */
uint32_t nf_head_epoch(const void *p, size_t len);
/* The plain form, for the above and for fuzzing. */
void nf_head_encode_plain(const struct nf_head *h, struct nf_buf *b);
int nf_head_decode_plain(uint64_t seq, const uint8_t rand[16], const void *p, size_t len,
			 struct nf_head *out);
void nf_head_to_text(const struct nf_head *h, struct nf_text *t);
/* The fingerprint a person compares: 4 groups of 5 characters, of the vector. */
void nf_head_fingerprint(const struct nf_head *h, char out[24]);

#endif
