/* aio/room.h - an account of the room on one disk.
 *
 *	what the disk says is free
 *	  - written since it was asked
 *	  - owed     accepted and not yet written, as the owner says at each change
 *	  - taken    of calls under way: what they may come to owe
 *	  - spare    for what gives room back, and for what must go on on a full disk
 *	  = what a writer may take
 *
 * Bytes are taken before a call is accepted and given back when it has ended: what it left to be written is owed then.  So
 * what is lost sight of by an error path is lost for one call, and the account is right again when that has ended.
 *
 * The disk is asked when the last answer is older than a tenth of a second, or when less is left by it than was asked for:
 * often only near the end.  Thread safe; no lock is held while the disk is asked. */
#ifndef NF_AIO_ROOM_H
#define NF_AIO_ROOM_H

#include "aio/file.h"
#include "base/text.h"

enum {
	/* Of a small disk an eighth. */
	NF_ROOM_SPARE_BYTES = 8 << 20,
};

struct nf_room;

/* What is spared of a disk. */
uint64_t nf_room_spare(const struct nf_file_room *disk);

/* What the owner owes, kinds apart only so that each is said where it changes. */
enum nf_room_owed { NF_ROOM_DATA, NF_ROOM_RECORDS, NF_ROOM_OWED_NR };
/* Who asks: a writer leaves the spare room alone; who frees more than he takes leaves half of it. */
enum nf_room_use { NF_ROOM_WRITE, NF_ROOM_FREE };

/* PATH exists; the disk under it is meant.  FILES is borrowed for the account's life.  A disk that does not answer has no room. */
int nf_room_new(const struct nf_file_ops *files, const char *path, struct nf_room **out);
void nf_room_free(struct nf_room *r); /* NULL allowed */

/* False: there is not so much now.  May ask the disk. */
bool nf_room_take(struct nf_room *r, enum nf_room_use use, uint64_t bytes);
/* The same in two steps, for who holds a lock: asks the disk; takes by what it said last. */
void nf_room_ask(struct nf_room *r);
bool nf_room_take_known(struct nf_room *r, enum nf_room_use use, uint64_t bytes);
void nf_room_give(struct nf_room *r, uint64_t bytes);
/* So much was written, before it is said to be owed no more. */
void nf_room_wrote(struct nf_room *r, uint64_t bytes);
/* From now on so much of this kind is owed, instead of what was before. */
void nf_room_owe(struct nf_room *r, enum nf_room_owed what, uint64_t bytes);

/* Owed and taken: what is going to be written. */
uint64_t nf_room_claimed(struct nf_room *r);
/* What a writer could still take, by what the disk said last. */
uint64_t nf_room_left(struct nf_room *r);
/* Is less than BYTES free, by what the disk said last, when all that is claimed was written? */
bool nf_room_is_short(struct nf_room *r, uint64_t bytes);
/* Could BYTES ever be had, with nothing else on the disk? */
bool nf_room_could(struct nf_room *r, uint64_t bytes);
/* Is PATH on the same disk? */
bool nf_room_same_disk(struct nf_room *r, const char *path);

struct nf_room_stats {
	uint64_t free_bytes, total_bytes; /* when the disk was asked last */
	uint64_t spare_bytes, owed_bytes, taken_bytes;
};
void nf_room_stats(struct nf_room *r, struct nf_room_stats *out);
void nf_room_to_text(struct nf_room *r, struct nf_text *t);

#endif
