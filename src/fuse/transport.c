/* Between the kernel (or a test's socket) and libfuse's decoder.
 *
 *   offset 0        40                80             80 + max_write
 *   | fuse_in_header | write_in, ...   | data          |      one request
 *   The buffer begins 80 bytes before a page, so that the data of a WRITE is page-aligned.
 *
 * libfuse 3.14 trusts what it decodes, so every request is first checked against wire_ops[].  Here, too,
 * is all that libfuse does not know: TMPFILE and STATX travel through its CREATE and GETATTR and
 * handlers tell them apart by nf_raw_current(); INIT's answer is completed on its way out; INTERRUPT and
 * FORGET never reach it; what is not in the table is answered ENOSYS. */
#include "fuse/session.h"

#include "base/error.h"
#include "base/trace.h"

#include <limits.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	PAGE_BYTES = 4096,
	DATA_OFFSET = sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in),
	/* Room for the fixed part and a setxattr of 64 KiB with its name. */
	EXTRA_BYTES = 65536 + PAGE_BYTES,
};

enum tail {
	TAIL_NONE, /* after the fixed part come `names` strings, each ended by NUL */
	TAIL_WRITE,
	TAIL_SETXATTR,
	TAIL_IOCTL,
	TAIL_INIT,
};

struct wire_op {
	bool known;
	uint8_t names; /* strings after the fixed part */
	uint16_t arg_bytes;
	enum tail tail;
};

#define OP(arg) { .known = true, .arg_bytes = (arg) }
#define OP_NAMES(arg, n) { .known = true, .arg_bytes = (arg), .names = (n) }
#define OP_TAIL(arg, n, t) { .known = true, .arg_bytes = (arg), .names = (n), .tail = (t) }

static const struct wire_op wire_ops[NF_WIRE_OPCODE_NR] = {
	[FUSE_LOOKUP] = OP_NAMES(0, 1),
	[FUSE_FORGET] = OP(sizeof(struct fuse_forget_in)),
	[FUSE_GETATTR] = OP(sizeof(struct fuse_getattr_in)),
	[FUSE_SETATTR] = OP(sizeof(struct fuse_setattr_in)),
	[FUSE_READLINK] = OP(0),
	[FUSE_SYMLINK] = OP_NAMES(0, 2),
	[FUSE_MKNOD] = OP_NAMES(sizeof(struct fuse_mknod_in), 1),
	[FUSE_MKDIR] = OP_NAMES(sizeof(struct fuse_mkdir_in), 1),
	[FUSE_UNLINK] = OP_NAMES(0, 1),
	[FUSE_RMDIR] = OP_NAMES(0, 1),
	[FUSE_RENAME] = OP_NAMES(sizeof(struct fuse_rename_in), 2),
	[FUSE_LINK] = OP_NAMES(sizeof(struct fuse_link_in), 1),
	[FUSE_OPEN] = OP(sizeof(struct fuse_open_in)),
	[FUSE_READ] = OP(sizeof(struct fuse_read_in)),
	[FUSE_WRITE] = OP_TAIL(sizeof(struct fuse_write_in), 0, TAIL_WRITE),
	[FUSE_STATFS] = OP(0),
	[FUSE_RELEASE] = OP(sizeof(struct fuse_release_in)),
	[FUSE_FSYNC] = OP(sizeof(struct fuse_fsync_in)),
	[FUSE_SETXATTR] = OP_TAIL(FUSE_COMPAT_SETXATTR_IN_SIZE, 1, TAIL_SETXATTR),
	[FUSE_GETXATTR] = OP_NAMES(sizeof(struct fuse_getxattr_in), 1),
	[FUSE_LISTXATTR] = OP(sizeof(struct fuse_getxattr_in)),
	[FUSE_REMOVEXATTR] = OP_NAMES(0, 1),
	[FUSE_FLUSH] = OP(sizeof(struct fuse_flush_in)),
	[FUSE_INIT] = OP_TAIL(16, 0, TAIL_INIT),
	[FUSE_OPENDIR] = OP(sizeof(struct fuse_open_in)),
	[FUSE_READDIR] = OP(sizeof(struct fuse_read_in)),
	[FUSE_RELEASEDIR] = OP(sizeof(struct fuse_release_in)),
	[FUSE_FSYNCDIR] = OP(sizeof(struct fuse_fsync_in)),
	[FUSE_CREATE] = OP_NAMES(sizeof(struct fuse_create_in), 1),
	[FUSE_INTERRUPT] = OP(sizeof(struct fuse_interrupt_in)),
	[FUSE_DESTROY] = OP(0),
	[FUSE_IOCTL] = OP_TAIL(sizeof(struct fuse_ioctl_in), 0, TAIL_IOCTL),
	[FUSE_BATCH_FORGET] = OP(sizeof(struct fuse_batch_forget_in)),
	[FUSE_FALLOCATE] = OP(sizeof(struct fuse_fallocate_in)),
	[FUSE_READDIRPLUS] = OP(sizeof(struct fuse_read_in)),
	[FUSE_RENAME2] = OP_NAMES(sizeof(struct fuse_rename2_in), 2),
	[FUSE_LSEEK] = OP(sizeof(struct fuse_lseek_in)),
	[FUSE_COPY_FILE_RANGE] = OP(sizeof(struct fuse_copy_file_range_in)),
	[FUSE_TMPFILE] = OP_NAMES(sizeof(struct fuse_create_in), 1),
	[NF_WIRE_STATX] = OP(sizeof(struct nf_wire_statx_in)),
};

static _Thread_local struct nf_raw raw_current;

const struct nf_raw *nf_raw_current(void) { return &raw_current; }

/* --- checking ---------------------------------------------------------------------- */

static bool is_xattr_op(uint32_t opcode)
{
	return opcode == FUSE_GETXATTR || opcode == FUSE_SETXATTR || opcode == FUSE_REMOVEXATTR;
}

/* One name of a directory or of an attribute.  TMPFILE's "/" is no name of a file. */
static int check_name(uint32_t opcode, const char *name, size_t len)
{
	if (!len)
		return nf_fail(-EINVAL);
	if (len > NF_FUSE_NAME_MAX)
		return nf_fail(is_xattr_op(opcode) ? -ERANGE : -ENAMETOOLONG);
	if (is_xattr_op(opcode) || opcode == FUSE_TMPFILE)
		return 0;
	if (memchr(name, '/', len) || !strcmp(name, ".") || !strcmp(name, ".."))
		return nf_fail(-EINVAL);
	return 0;
}

/* The strings at P; *USED becomes their length with the NULs. */
static int check_names(const struct wire_op *op, uint32_t opcode, const char *p, size_t left,
		       size_t *used)
{
	const char *at = p;

	for (unsigned i = 0; i < op->names; i++) {
		const char *end = left ? memchr(at, '\0', left) : NULL;
		if (!end)
			return nf_fail(-EINVAL);
		size_t len = (size_t)(end - at);
		bool target = opcode == FUSE_SYMLINK && i == 1;
		int r = target ? (!len ? -ENOENT : len >= PATH_MAX ? -ENAMETOOLONG : 0) :
				 check_name(opcode, at, len);
		if (r)
			return nf_fail(r);
		left -= len + 1;
		at = end + 1;
	}
	*used = (size_t)(at - p);
	return 0;
}

static int check_tail(enum tail tail, const void *arg, size_t left)
{
	const struct fuse_init_in *init = arg;

	switch (tail) {
	case TAIL_WRITE:
		return ((const struct fuse_write_in *)arg)->size <= left ? 0 : nf_fail(-EINVAL);
	case TAIL_SETXATTR:
		return ((const struct fuse_setxattr_in *)arg)->size <= left ? 0 : nf_fail(-EINVAL);
	case TAIL_IOCTL:
		return ((const struct fuse_ioctl_in *)arg)->in_size <= left ? 0 : nf_fail(-EINVAL);
	case TAIL_INIT:
		if (init->flags & FUSE_INIT_EXT && left < sizeof *init - 16)
			return nf_fail(-EINVAL);
		return 0;
	case TAIL_NONE:
		return 0;
	}
	return nf_fail(-EINVAL);
}

/* Everything libfuse's decoder takes for granted. */
static int check_request(const struct fuse_in_header *in, size_t len)
{
	size_t used = 0;

	if (in->opcode >= NF_WIRE_OPCODE_NR || !wire_ops[in->opcode].known)
		return -ENOSYS; /* no failure: how the kernel learns what we do without */
	const struct wire_op *op = &wire_ops[in->opcode];
	size_t left = len - sizeof *in;
	if (in->len != len || left < op->arg_bytes)
		return nf_fail(-EINVAL);
	const char *arg = (const char *)(in + 1);
	left -= op->arg_bytes;
	int r = check_names(op, in->opcode, arg + op->arg_bytes, left, &used);
	if (r)
		return r;
	return check_tail(op->tail, arg, left - used);
}

/* --- sending ----------------------------------------------------------------------- */

static ssize_t put(struct nf_front *f, int fd, struct iovec *iov, int nr_iov)
{
	if (!f->over_socket)
		return writev(fd, iov, nr_iov);
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = (size_t)nr_iov };
	return sendmsg(fd, &m, MSG_NOSIGNAL);
}

/* INIT's answer with the features that libfuse 3.14 has no names for, and two that it
 * takes note of and forgets. */
static void complete_init(struct nf_front *f, struct fuse_init_out *out)
{
	const struct fuse_init_in *in = raw_current.arg;

	out->flags |= in->flags & (FUSE_HANDLE_KILLPRIV_V2 | FUSE_PARALLEL_DIROPS | FUSE_HAS_IOCTL_DIR);
	if (in->flags & FUSE_INIT_EXT) {
		out->flags |= FUSE_INIT_EXT;
		out->flags2 |= in->flags2 & NF_WIRE_DIRECT_IO_ALLOW_MMAP;
		/* Both came with 6.6. */
		atomic_store(&f->drops_pages, (in->flags2 & NF_WIRE_DIRECT_IO_ALLOW_MMAP) != 0);
	}
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	const struct fuse_out_header *h = iov[0].iov_base;

	if (raw_current.opcode != FUSE_INIT || count != 2 || h->error ||
	    h->unique != raw_current.in->unique || iov[1].iov_len < sizeof(struct fuse_init_out))
		return put(userdata, fd, iov, count);
	struct fuse_init_out out;
	memcpy(&out, iov[1].iov_base, sizeof out);
	complete_init(userdata, &out);
	struct iovec done[2] = { iov[0], { &out, sizeof out } };
	return put(userdata, fd, done, 2);
}

int nf_transport_send(struct nf_front *f, struct iovec *iov, int nr_iov)
{
	return put(f, fuse_session_fd(f->se), iov, nr_iov) < 0 ? -errno : 0;
}

/* --- receiving --------------------------------------------------------------------- */

static ssize_t get(struct nf_front *f, int fd, void *buf, size_t room)
{
	return f->over_socket ? recv(fd, buf, room, 0) : read(fd, buf, room);
}

static ssize_t io_read(int fd, void *buf, size_t buf_len, void *userdata)
{
	return get(userdata, fd, buf, buf_len);
}

static void decode(struct nf_front *f, void *buf, size_t len)
{
	struct fuse_in_header *in = buf;

	raw_current = (struct nf_raw){ .in = in, .arg = in + 1, .opcode = in->opcode };
	if (in->opcode == FUSE_TMPFILE)
		in->opcode = FUSE_CREATE;
	else if (in->opcode == NF_WIRE_STATX)
		in->opcode = FUSE_GETATTR;
	struct fuse_buf fb = { .size = len, .mem = buf };
	fuse_session_process_buf(f->se, &fb);
	raw_current = (struct nf_raw){ 0 };
}

static void interrupt(struct nf_front *f, const struct fuse_in_header *in)
{
	const struct fuse_interrupt_in *arg = (const void *)(in + 1);

	/* With several readers an INTERRUPT may overtake its request: EAGAIN has it sent again,
	 * as long as the request lives. */
	if (!nf_calls_interrupt(f, arg->unique))
		nf_reply_raw(f, in->unique, -EAGAIN);
}

static void handle(struct nf_front *f, void *buf, size_t len)
{
	const struct fuse_in_header *in = buf;

	if (len < sizeof *in) {
		nf_log(NF_LOG_WARN, "request too short to be answered: bytes=%zu", len);
		return;
	}
	int r = check_request(in, len);
	if (in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET)
		return; /* no table of inodes, and the kernel expects no answer */
	if (r)
		nf_reply_raw(f, in->unique, r);
	else if (in->opcode == FUSE_INTERRUPT)
		interrupt(f, in);
	else
		decode(f, buf, len);
}

/* The session's end is no error: the mount or the peer has gone. */
static bool is_end(int err)
{
	return err == ENODEV || err == ECONNABORTED || err == ECONNRESET || err == EPIPE;
}

int nf_transport_serve(struct nf_front *f)
{
	int fd = fuse_session_fd(f->se);
	size_t room = f->max_write_bytes + EXTRA_BYTES;
	nf_auto_free void *mem = aligned_alloc(PAGE_BYTES, nf_round_up(room, PAGE_BYTES) + PAGE_BYTES);

	if (!mem)
		return nf_fail(-ENOMEM);
	char *buf = (char *)mem + PAGE_BYTES - DATA_OFFSET % PAGE_BYTES;
	while (!atomic_load(&f->stopping)) {
		ssize_t n = get(f, fd, buf, room);
		if (n > 0)
			handle(f, buf, (size_t)n);
		else if (n == 0 || is_end(errno))
			return 0;
		else if (errno != EINTR && errno != EAGAIN && errno != ENOENT)
			return nf_fail(-errno);
	}
	return 0;
}

int nf_transport_attach(struct nf_front *f, int fd)
{
	static const struct fuse_custom_io io = { .writev = io_writev, .read = io_read };

	return fuse_session_custom_io(f->se, &io, fd);
}
