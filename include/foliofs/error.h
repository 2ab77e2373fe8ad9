/* foliofs/error.h - the error codes that foliofs itself finds.
 *
 * Every function that can fail returns int: 0 for success, a negative value
 * for failure, and a positive value only where its comment lists it, as a
 * condition its direct caller must handle.  A negative value is either -errno
 * (what the system said) or -NF_E_<ROW> (what we found ourselves).  Codes are
 * passed upward unchanged and become an errno at one edge (nf_errno()).
 *
 * Rows: name, errno at the edge, one sentence.  Rows are only ever appended:
 * the numbers appear in traces and in --json output.
 */
#ifndef FOLIOFS_ERROR_H
#define FOLIOFS_ERROR_H

#include <errno.h>

/* What is declared here is what the shared library shows. */
#pragma GCC visibility push(default)

#define NF_ERRORS(X)                                                                               \
	/* codec */                                                                                \
	X(XFORM_BAD_TAG, EIO, "authentication tag does not match")                                 \
	X(XFORM_TRUNCATED, EIO, "sealed object ends early")                                        \
	X(XFORM_DECOMPRESS, EIO, "compressed data is damaged")                                     \
	X(XFORM_CRYPTO, EIO, "the cryptographic library refused an operation")                     \
	X(KEY_WRONG, EACCES, "wrong passphrase or key")                                            \
	X(KEY_CHANGED, EKEYREVOKED, "the vault has new keys (key rekey): unmount, and mount again with its passphrase") \
	X(KEY_EPOCH_UNKNOWN, EIO, "sealed under a key epoch this ring does not hold")              \
	X(KDF_LIMIT, EINVAL, "key derivation cost is outside the accepted range")                  \
	/* formats */                                                                              \
	X(FORMAT_BAD, EIO, "malformed object")                                                     \
	X(FORMAT_UNKNOWN, EPROTONOSUPPORT, "unknown format version or suite")                      \
	X(HEADER_FOREIGN, EPERM, "header belongs to another vault than the one remembered")        \
	X(HEADER_ROLLBACK, EPERM, "header is older than the one remembered")                       \
	X(HEADER_MISSING, ENOENT, "no vault header found on the store")                            \
	X(HEADER_LOST, ENOENT, "the vault's header is gone from the store")                         \
	X(HEAD_ROLLBACK, EPERM, "the store shows an older state than this device has seen")        \
	X(TREE_BAD, EIO, "tree node is inconsistent")                                              \
	X(PACK_MISSING, EIO, "a pack that is referred to is missing on the store")                 \
	/* store */                                                                                \
	X(STORE_NOT_FOUND, ENOENT, "object not found on the store")                                \
	X(STORE_DENIED, EACCES, "the server refuses the credentials")                              \
	X(STORE_FULL, ENOSPC, "the server has no space left")                                      \
	X(STORE_TOO_LARGE, EFBIG, "the server refuses a body of this size")                        \
	X(STORE_BUSY, EAGAIN, "the server asks to try later")                                      \
	X(STORE_PROTOCOL, EREMOTEIO, "the server's answer makes no sense")                         \
	X(STORE_SHORT, EREMOTEIO, "the server sent fewer bytes than it announced")                 \
	X(STORE_UNKNOWN_OUTCOME, EIO, "the request was sent and its outcome is unknown")           \
	X(STORE_NOT_DAV, EPROTONOSUPPORT, "the server does not speak WebDAV at this address")      \
	X(STORE_TLS, EACCES, "the server's certificate was not accepted")                          \
	X(STORE_READONLY, EROFS, "this store cannot be written")                                   \
	X(STORE_URL, EINVAL, "store address not understood")                                       \
	X(OFFLINE, ENETDOWN, "server cannot be reached")                                           \
	X(TIMEOUT, ETIMEDOUT, "no progress within the configured time")                            \
	X(CANCELLED, EINTR, "cancelled")                                                           \
	/* local disk */                                                                           \
	X(CACHE_LOCKED, EBUSY, "cache directory is in use by another daemon")                      \
	X(JOURNAL_BAD, EIO, "journal record does not authenticate")                                \
	X(STATE_BAD, EIO, "local state file is damaged")                                           \
	/* filesystem */                                                                           \
	X(STALE_HANDLE, ESTALE, "the open file was replaced by another version")                   \
	X(NO_INODE, ENOENT, "no such inode")                                                       \
	X(FULL, ENOSPC, "no space left for data that must be kept")                                \
	X(SNAPSHOT_NONE, ENOENT, "there is no such snapshot")                                      \
	X(SNAPSHOT_AMBIGUOUS, ENOTUNIQ, "several snapshots have this name: add @ID, as `snapshot DIR list` shows it")  \
	X(OPTION, EINVAL, "option not understood")                                                  \
	X(WRITER_CLONED, EPERM, "another device writes as this one: its state was copied or restored; mount it again") \
	X(GC_TOO_MUCH, EAGAIN, "collecting would read more than it may now; `foliofs gc` has no such limit")

enum nf_error {
	NF_E_BASE = 10000,
#define X(name, err, text) NF_E_##name,
	NF_ERRORS(X)
#undef X
	NF_E_NR
};

/* The errno (positive) that CODE (negative) becomes at the edge; 0 for 0. */
int nf_errno(int code);

/* A static sentence for CODE, never NULL. */
const char *nf_strerror(int code);

/* The row's name ("XFORM_BAD_TAG") or the errno's ("ENOENT"); never NULL. */
const char *nf_error_name(int code);

#pragma GCC visibility pop

#endif
