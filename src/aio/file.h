/* aio/file.h - every file operation the daemon does on its own disk, as a table.
 *
 * Cache, journal, local packs, state files and the directory store use nothing
 * but this table, so that tests can put a disk under them that crashes, tears,
 * reorders, is full or fails (src/aio/file_crash.h).  All calls block on the
 * local disk; none is made on a FUSE thread except pread of cached data.
 *
 * A path is absolute or relative to the process; every open is O_CLOEXEC.
 * Results: 0 or -errno; counts come back through out-parameters.  pread and
 * pwrite transfer everything or fail (pread: -NF_E_XFORM_TRUNCATED at end of
 * file, with *GOT bytes before it).
 */
#ifndef NF_AIO_FILE_H
#define NF_AIO_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct iovec;
struct nf_file_ops;

/* One open file; made by open, freed by close. */
struct nf_file {
	const struct nf_file_ops *ops;
	int fd; /* -1 for files that only a test table knows */
};

struct nf_file_dirent {
	char *name;
	bool is_dir;
};

struct nf_file_room {
	uint64_t free_bytes; /* for who may use it */
	uint64_t total_bytes;
	uint64_t disk; /* which: paths on one have the same */
};

struct nf_file_ops {
	const char *name;
	void *ctx; /* the table's own */

	/* FLAGS: O_RDONLY/O_RDWR, O_CREAT, O_EXCL, O_TRUNC. */
	int (*open)(const struct nf_file_ops *o, const char *path, int flags, mode_t mode,
		    struct nf_file **out);
	/* NULL allowed. */
	void (*close)(struct nf_file *f);
	int (*pread)(struct nf_file *f, void *buf, size_t len, uint64_t offset_bytes, size_t *got);
	int (*pwrite)(struct nf_file *f, const void *buf, size_t len, uint64_t offset_bytes);
	/* [Optional] the NR pieces one behind the other, as one pwrite would; through nf_file_pwritev() only. */
	int (*pwritev)(struct nf_file *f, const struct iovec *iov, int nr, uint64_t offset_bytes);
	int (*fdatasync)(struct nf_file *f);
	int (*ftruncate)(struct nf_file *f, uint64_t size_bytes);
	/* Frees the blocks of a range, size kept. */
	int (*punch)(struct nf_file *f, uint64_t offset_bytes, uint64_t len_bytes);
	int (*size)(struct nf_file *f, uint64_t *size_bytes);
	int (*rename)(const struct nf_file_ops *o, const char *from, const char *to);
	int (*unlink)(const struct nf_file_ops *o, const char *path);
	int (*rmdir)(const struct nf_file_ops *o, const char *path);
	/* 0 also if it exists already. */
	int (*mkdir)(const struct nf_file_ops *o, const char *path, mode_t mode);
	/* Makes names created, renamed and removed in a directory durable. */
	int (*fsync_dir)(const struct nf_file_ops *o, const char *path);
	/* Entries but . and .., in no order; the caller frees with nf_file_list_free(). */
	int (*list)(const struct nf_file_ops *o, const char *path, struct nf_file_dirent **out,
		    size_t *nr);
	/* Size of a path in bytes; -ENOENT. */
	int (*stat)(const struct nf_file_ops *o, const char *path, uint64_t *size_bytes,
		    bool *is_dir, int64_t *mtime_s);
	/* Takes PATH (made if missing) for this process alone, until close; -NF_E_CACHE_LOCKED if
	 * another one has it. */
	int (*lock)(const struct nf_file_ops *o, const char *path, struct nf_file **out);
	/* Room on the file system that PATH is on. */
	int (*room)(const struct nf_file_ops *o, const char *path, struct nf_file_room *out);
};

/* The real disk. */
extern const struct nf_file_ops nf_file_real;

/* Where the table has none: gathered, and one pwrite. */
int nf_file_pwritev(struct nf_file *f, const struct iovec *iov, int nr, uint64_t offset_bytes);
void nf_file_list_free(struct nf_file_dirent *list, size_t nr);
/* Makes the name PATH durable where it stands: fsync_dir of its parent. */
int nf_file_sync_name(const struct nf_file_ops *o, const char *path);
/* mkdir -p with mode 0700 for what is made; its names are durable afterwards. */
int nf_file_mkdirs(const struct nf_file_ops *o, const char *path);
/* Writes a whole small file durably: temporary name, fdatasync, rename, fsync of the
 * directory. */
int nf_file_replace(const struct nf_file_ops *o, const char *path, const void *data, size_t len);
/* Reads a whole small file of at most MAX bytes; *OUT is the caller's (free). */
int nf_file_slurp(const struct nf_file_ops *o, const char *path, size_t max, void **out,
		  size_t *len);

#endif
