#include "fakekernel.h"

#include "base/error.h"
#include "base/text.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>

#define FLAG(k, member) (((struct fuse_init_out *)(void *)(k)->body)->member)

START_TEST(init_takes_the_features_we_want_and_no_others)
{
	struct fk *k = fk_start_raw(1);
	uint32_t on = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_DONT_MASK | FUSE_DO_READDIRPLUS |
		      FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
		      FUSE_CACHE_SYMLINKS | FUSE_EXPLICIT_INVAL_DATA | FUSE_POSIX_ACL |
		      FUSE_HANDLE_KILLPRIV_V2 | FUSE_INIT_EXT | FUSE_MAX_PAGES | FUSE_BIG_WRITES |
		      FUSE_HAS_IOCTL_DIR;
	uint32_t off = FUSE_WRITEBACK_CACHE | FUSE_AUTO_INVAL_DATA | FUSE_SPLICE_READ |
		       FUSE_SPLICE_WRITE | FUSE_SPLICE_MOVE | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS |
		       FUSE_EXPORT_SUPPORT | FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT |
		       FUSE_SETXATTR_EXT | FUSE_HANDLE_KILLPRIV;

	fk_init(k, ~UINT32_C(0), ~UINT32_C(0));
	ck_assert_uint_eq(FLAG(k, flags) & on, on);
	ck_assert_uint_eq(FLAG(k, flags) & off, 0);
	ck_assert_uint_eq(FLAG(k, flags2), NF_WIRE_DIRECT_IO_ALLOW_MMAP);
	ck_assert_uint_eq(FLAG(k, max_write), 65536);
	ck_assert_uint_eq(FLAG(k, max_pages), 16);
	ck_assert_uint_eq(FLAG(k, max_readahead), 1 << 20);
	ck_assert_uint_eq(FLAG(k, max_background), 64);
	ck_assert_uint_eq(FLAG(k, congestion_threshold), 48);
	ck_assert_uint_eq(FLAG(k, time_gran), 1);
	fk_stop(k);
}
END_TEST

START_TEST(init_takes_nothing_an_older_kernel_does_not_offer)
{
	struct fk *k = fk_start_raw(1);
	uint32_t offered = FUSE_ASYNC_READ | FUSE_BIG_WRITES;

	fk_init(k, offered, 0);
	ck_assert_uint_eq(FLAG(k, flags) & ~(offered | FUSE_MAX_PAGES), 0);
	ck_assert_uint_eq(FLAG(k, flags2), 0);
	fk_stop(k);
}
END_TEST

/* --- each opcode ------------------------------------------------------------------- */

static const struct nf_attr some_attr = {
	.ino = 77, .size_bytes = 12345, .blocks = 32, .mode = S_IFREG | 0640, .nlink = 3, .uid = 5,
	.gid = 6, .rdev = 0x0fa42040, .blksize = 4096, .atime = { 100, 1 }, .mtime = { -200, 2 },
	.ctime = { 300, 3 }, .btime = { 400, 4 },
};

static int give_attr(struct nf_call *c)
{
	c->attr = some_attr;
	return 0;
}

static void check_entry(const struct fuse_entry_out *e)
{
	ck_assert_uint_eq(e->nodeid, 77);
	ck_assert_uint_eq(e->generation, 0);
	ck_assert_uint_eq(e->entry_valid, 200);
	ck_assert_uint_eq(e->attr_valid, 100);
	ck_assert_uint_eq(e->attr_valid_nsec, 500000000);
	ck_assert_uint_eq(e->attr.ino, 77);
	ck_assert_uint_eq(e->attr.size, 12345);
	ck_assert_uint_eq(e->attr.blocks, 32);
	ck_assert_int_eq((int64_t)e->attr.mtime, -200);
	ck_assert_uint_eq(e->attr.mtimensec, 2);
	ck_assert_uint_eq(e->attr.mode, S_IFREG | 0640);
	ck_assert_uint_eq(e->attr.nlink, 3);
	ck_assert_uint_eq(e->attr.rdev, 0x0fa42040);
}

/* Sends, checks what the filesystem saw in general and the answer's size. */
static const struct nf_call *pass(struct fk *k, uint32_t opcode, const void *arg, size_t arg_bytes,
				  const void *tail, size_t tail_bytes, enum nf_call_op op, size_t answer)
{
	unsigned before = k->nr_seen;

	fk_expect(k, fk_send2(k, opcode, 5, arg, arg_bytes, tail, tail_bytes), 0, answer);
	ck_assert_uint_eq(k->nr_seen, before + 1);
	ck_assert_str_eq(nf_call_name(k->seen.op), nf_call_name(op));
	ck_assert_uint_eq(k->seen.ino, 5);
	ck_assert_uint_eq(k->seen.uid, 11);
	ck_assert_uint_eq(k->seen.gid, 22);
	ck_assert_uint_eq(k->seen.pid, 33);
	return &k->seen;
}

START_TEST(calls_on_names_carry_everything)
{
	struct fk *k = fk_start();
	const struct nf_call *c;
	size_t entry = sizeof(struct fuse_entry_out);

	k->answer = give_attr;
	c = pass(k, FUSE_LOOKUP, "name", 5, NULL, 0, NF_CALL_LOOKUP, entry);
	ck_assert_str_eq(c->name, "name");
	check_entry((void *)k->body);
	struct fuse_mknod_in mknod_in = { .mode = S_IFCHR | 0666, .rdev = 0x103, .umask = 027 };
	c = pass(k, FUSE_MKNOD, &mknod_in, sizeof mknod_in, "dev", 4, NF_CALL_MKNOD, entry);
	ck_assert_uint_eq(c->mode, S_IFCHR | 0666);
	ck_assert_uint_eq(c->rdev, 0x103);
	ck_assert_uint_eq(c->umask, 027);
	struct fuse_mkdir_in mkdir_in = { .mode = 0777, .umask = 022 };
	c = pass(k, FUSE_MKDIR, &mkdir_in, sizeof mkdir_in, "dir", 4, NF_CALL_MKDIR, entry);
	ck_assert_uint_eq(c->mode & 07777, 0777);
	ck_assert_uint_eq(c->umask, 022);
	c = pass(k, FUSE_SYMLINK, "link\0target/..", 15, NULL, 0, NF_CALL_SYMLINK, entry);
	ck_assert_str_eq(c->name, "link");
	ck_assert_str_eq(c->name2, "target/..");
	struct fuse_link_in link_in = { .oldnodeid = 9 };
	fk_expect(k, fk_send2(k, FUSE_LINK, 5, &link_in, sizeof link_in, "new", 4), 0, entry);
	ck_assert_uint_eq(k->seen.op, NF_CALL_LINK);
	ck_assert_uint_eq(k->seen.ino, 9);
	ck_assert_uint_eq(k->seen.ino2, 5);
	ck_assert_str_eq(k->seen.name2, "new");
	c = pass(k, FUSE_UNLINK, "gone", 5, NULL, 0, NF_CALL_UNLINK, 0);
	ck_assert_str_eq(c->name, "gone");
	(void)pass(k, FUSE_RMDIR, "gone", 5, NULL, 0, NF_CALL_RMDIR, 0);
	struct fuse_rename_in rename_in = { .newdir = 6 };
	c = pass(k, FUSE_RENAME, &rename_in, sizeof rename_in, "a\0b", 4, NF_CALL_RENAME, 0);
	ck_assert_uint_eq(c->ino2, 6);
	ck_assert_str_eq(c->name, "a");
	ck_assert_str_eq(c->name2, "b");
	ck_assert_uint_eq(c->flags, 0);
	struct fuse_rename2_in rename2_in = { .newdir = 6, .flags = RENAME_EXCHANGE };
	c = pass(k, FUSE_RENAME2, &rename2_in, sizeof rename2_in, "a\0b", 4, NF_CALL_RENAME, 0);
	ck_assert_uint_eq(c->flags, RENAME_EXCHANGE);
	rename2_in.flags = RENAME_WHITEOUT;
	fk_expect(k, fk_send2(k, FUSE_RENAME2, 5, &rename2_in, sizeof rename2_in, "a\0b", 4), -EINVAL, 0);
	fk_stop(k);
}
END_TEST

static int give_negative(struct nf_call *c)
{
	c->attr = (struct nf_attr){ 0 };
	return 0;
}

START_TEST(a_negative_entry_has_its_own_time_out)
{
	struct fk *k = fk_start();
	const struct fuse_entry_out *e = (void *)k->body;

	k->answer = give_negative;
	(void)pass(k, FUSE_LOOKUP, "none", 5, NULL, 0, NF_CALL_LOOKUP, sizeof *e);
	ck_assert_uint_eq(e->nodeid, 0);
	ck_assert_uint_eq(e->entry_valid, 300);
	fk_stop(k);
}
END_TEST

static int give_blob(struct nf_call *c)
{
	static const char blob[] = "0123456789";

	c->buf = strdup(blob);
	c->count = strlen(blob);
	return 0;
}

static int give_statfs(struct nf_call *c)
{
	c->statfs = (struct nf_statfs){ .total_bytes = 1 << 20, .free_bytes = 1 << 19, .files = 7,
					.files_free = 8, .name_max = 255 };
	return 0;
}

START_TEST(calls_on_attributes_carry_everything)
{
	struct fk *k = fk_start();
	const struct nf_call *c;
	struct fuse_getattr_in getattr_in = { 0 };
	const struct fuse_attr_out *a = (void *)k->body;
	const struct nf_wire_statx_out *x = (void *)k->body;

	k->answer = give_attr;
	(void)pass(k, FUSE_GETATTR, &getattr_in, sizeof getattr_in, NULL, 0, NF_CALL_GETATTR, sizeof *a);
	ck_assert_uint_eq(a->attr_valid, 100);
	ck_assert_uint_eq(a->attr.size, 12345);
	struct nf_wire_statx_in statx_in = { .sx_mask = STATX_BTIME };
	(void)pass(k, NF_WIRE_STATX, &statx_in, sizeof statx_in, NULL, 0, NF_CALL_GETATTR, sizeof *x);
	ck_assert_uint_eq(x->mask, STATX_BASIC_STATS | STATX_BTIME);
	ck_assert_int_eq(x->btime.tv_sec, 400);
	ck_assert_int_eq(x->mtime.tv_sec, -200);
	ck_assert_uint_eq(x->size, 12345);
	ck_assert_uint_eq(x->rdev_major, 0x420);
	ck_assert_uint_eq(x->rdev_minor, 0xfa40);

	struct fuse_setattr_in s = {
		.valid = FATTR_MODE | FATTR_UID | FATTR_SIZE | FATTR_ATIME | FATTR_ATIME_NOW |
			 FATTR_MTIME | FATTR_CTIME | FATTR_KILL_SUIDGID,
		.mode = 04755, .uid = 8, .size = 1 << 30, .mtime = 50, .mtimensec = 51, .ctime = 60,
	};
	c = pass(k, FUSE_SETATTR, &s, sizeof s, NULL, 0, NF_CALL_SETATTR, sizeof *a);
	ck_assert_uint_eq(c->mask, NF_SET_MODE | NF_SET_UID | NF_SET_SIZE | NF_SET_ATIME_NOW |
				   NF_SET_MTIME | NF_SET_CTIME | NF_SET_KILL_SUIDGID);
	ck_assert_uint_eq(c->attr.mode & 07777, 04755);
	ck_assert_uint_eq(c->attr.uid, 8);
	ck_assert_uint_eq(c->attr.size_bytes, 1 << 30);
	ck_assert_int_eq(c->attr.mtime.tv_sec, 50);
	ck_assert_int_eq(c->attr.mtime.tv_nsec, 51);
	ck_assert_int_eq(c->attr.ctime.tv_sec, 60);

	k->answer = give_statfs;
	const struct fuse_statfs_out *st = (void *)k->body;
	(void)pass(k, FUSE_STATFS, NULL, 0, NULL, 0, NF_CALL_STATFS, sizeof *st);
	ck_assert_uint_eq(st->st.blocks * st->st.frsize, 1 << 20);
	ck_assert_uint_eq(st->st.bavail * st->st.frsize, 1 << 19);
	ck_assert_uint_eq(st->st.namelen, 255);

	k->answer = give_blob;
	(void)pass(k, FUSE_READLINK, NULL, 0, NULL, 0, NF_CALL_READLINK, 10);
	ck_assert_mem_eq(k->body, "0123456789", 10);
	fk_stop(k);
}
END_TEST

START_TEST(extended_attributes_pass_both_ways)
{
	struct fk *k = fk_start();
	const struct nf_call *c;
	struct fuse_getxattr_in get = { .size = 10 };
	struct { uint32_t size, flags; } set = { .size = 5, .flags = 1 };
	const struct fuse_getxattr_out *out = (void *)k->body;

	c = pass(k, FUSE_SETXATTR, &set, sizeof set, "user.x\0value", 12, NF_CALL_SETXATTR, 0);
	ck_assert_str_eq(c->name, "user.x");
	ck_assert_uint_eq(c->size, 5);
	ck_assert_uint_eq(c->flags, 1);
	k->answer = give_blob;
	c = pass(k, FUSE_GETXATTR, &get, sizeof get, "user.x", 7, NF_CALL_GETXATTR, 10);
	ck_assert_mem_eq(k->body, "0123456789", 10);
	get.size = 0;
	c = pass(k, FUSE_GETXATTR, &get, sizeof get, "user.x", 7, NF_CALL_GETXATTR, sizeof *out);
	ck_assert_uint_eq(out->size, 10);
	get.size = 9;
	fk_expect(k, fk_send2(k, FUSE_GETXATTR, 5, &get, sizeof get, "user.x", 7), -ERANGE, 0);
	get.size = 100;
	(void)pass(k, FUSE_LISTXATTR, &get, sizeof get, NULL, 0, NF_CALL_LISTXATTR, 10);
	c = pass(k, FUSE_REMOVEXATTR, "user.x", 7, NULL, 0, NF_CALL_REMOVEXATTR, 0);
	ck_assert_str_eq(c->name, "user.x");
	fk_stop(k);
}
END_TEST

/* --- open files ---------------------------------------------------------------------- */

static int give_count(struct nf_call *c)
{
	c->count = c->size;
	return 0;
}

static int give_data(struct nf_call *c)
{
	static struct iovec iov[2] = { { (void *)(uintptr_t) "abc", 3 }, { (void *)(uintptr_t) "defg", 4 } };

	c->iov = iov;
	c->nr_iov = 2;
	return 0;
}

static int give_position(struct nf_call *c)
{
	c->offset += 1000;
	return 0;
}

START_TEST(calls_on_files_carry_everything)
{
	struct fk *k = fk_start();
	const struct nf_call *c;
	uint64_t fh = fk_open(k, 5, O_RDWR | O_SYNC, false);
	struct fuse_read_in read_in = { .fh = fh, .offset = 1 << 20, .size = 7 };
	struct fuse_write_in write_in = {
		.fh = fh, .offset = 99, .size = 5, .flags = O_RDWR | O_DSYNC, .lock_owner = 42,
		.write_flags = FUSE_WRITE_CACHE | FUSE_WRITE_LOCKOWNER | FUSE_WRITE_KILL_SUIDGID,
	};

	ck_assert_uint_eq(k->seen.op, NF_CALL_OPEN);
	ck_assert_uint_eq(k->seen.flags, O_RDWR | O_SYNC);
	k->answer = give_data;
	c = pass(k, FUSE_READ, &read_in, sizeof read_in, NULL, 0, NF_CALL_READ, 7);
	ck_assert_mem_eq(k->body, "abcdefg", 7);
	ck_assert_uint_eq(c->offset, 1 << 20);
	ck_assert_uint_eq(c->size, 7);
	ck_assert_ptr_eq(c->file, (void *)&fk_some_file);
	k->answer = give_count;
	c = pass(k, FUSE_WRITE, &write_in, sizeof write_in, "12345", 5, NF_CALL_WRITE,
		 sizeof(struct fuse_write_out));
	ck_assert_uint_eq(((struct fuse_write_out *)(void *)k->body)->size, 5);
	ck_assert_uint_eq(c->write_flags, NF_WRITE_CACHE | NF_WRITE_KILL_SUIDGID);
	ck_assert_uint_eq(c->flags, O_RDWR | O_DSYNC);
	ck_assert_uint_eq(c->lock_owner, 42);
	ck_assert_uint_eq(c->offset, 99);
	struct fuse_flush_in flush_in = { .fh = fh, .lock_owner = 43 };
	c = pass(k, FUSE_FLUSH, &flush_in, sizeof flush_in, NULL, 0, NF_CALL_FLUSH, 0);
	ck_assert_uint_eq(c->lock_owner, 43);
	struct fuse_fsync_in fsync_in = { .fh = fh, .fsync_flags = 1 };
	c = pass(k, FUSE_FSYNC, &fsync_in, sizeof fsync_in, NULL, 0, NF_CALL_FSYNC, 0);
	ck_assert(c->datasync);
	struct fuse_fallocate_in fa = { .fh = fh, .offset = 10, .length = 20, .mode = 3 };
	c = pass(k, FUSE_FALLOCATE, &fa, sizeof fa, NULL, 0, NF_CALL_FALLOCATE, 0);
	ck_assert_uint_eq(c->offset, 10);
	ck_assert_uint_eq(c->size, 20);
	ck_assert_uint_eq(c->mode, 3);
	k->answer = give_position;
	struct fuse_lseek_in ls = { .fh = fh, .offset = 5, .whence = SEEK_HOLE };
	c = pass(k, FUSE_LSEEK, &ls, sizeof ls, NULL, 0, NF_CALL_LSEEK, sizeof(struct fuse_lseek_out));
	ck_assert_uint_eq(c->flags, SEEK_HOLE);
	ck_assert_uint_eq(((struct fuse_lseek_out *)(void *)k->body)->offset, 1005);
	k->answer = give_count;
	uint64_t fh2 = fk_open(k, 6, O_RDWR, false);
	struct fuse_copy_file_range_in cp = { .fh_in = fh, .off_in = 1, .nodeid_out = 6, .fh_out = fh2,
					      .off_out = 2, .len = 3000 };
	c = pass(k, FUSE_COPY_FILE_RANGE, &cp, sizeof cp, NULL, 0, NF_CALL_COPY_RANGE,
		 sizeof(struct fuse_write_out));
	ck_assert_uint_eq(c->offset, 1);
	ck_assert_uint_eq(c->ino2, 6);
	ck_assert_uint_eq(c->offset2, 2);
	ck_assert_uint_eq(c->size, 3000);
	ck_assert_ptr_eq(c->file2, (void *)&fk_some_file);
	k->answer = give_blob;
	struct fuse_ioctl_in io = { .fh = fh, .cmd = 77, .in_size = 4, .out_size = 10 };
	c = pass(k, FUSE_IOCTL, &io, sizeof io, "abcd", 4, NF_CALL_IOCTL, sizeof(struct fuse_ioctl_out) + 10);
	ck_assert_uint_eq(c->cmd, 77);
	ck_assert_uint_eq(c->size, 4);
	ck_assert_uint_eq(c->out_size, 10);
	struct fuse_release_in rel = { .fh = fh };
	(void)pass(k, FUSE_RELEASE, &rel, sizeof rel, NULL, 0, NF_CALL_RELEASE, 0);
	fk_stop(k);
}
END_TEST

static int give_created(struct nf_call *c)
{
	c->attr = some_attr;
	c->keep_cache = true;
	return 0;
}

START_TEST(create_and_tmpfile_make_and_open)
{
	struct fk *k = fk_start();
	struct fuse_create_in in = { .flags = O_RDWR | O_DIRECT, .mode = S_IFREG | 0666, .umask = 077,
				     .open_flags = FUSE_OPEN_KILL_SUIDGID };
	size_t answer = sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out);
	const struct fuse_open_out *out = (void *)(k->body + sizeof(struct fuse_entry_out));
	const struct nf_call *c;

	k->answer = give_created;
	c = pass(k, FUSE_CREATE, &in, sizeof in, "new", 4, NF_CALL_CREATE, answer);
	ck_assert_str_eq(c->name, "new");
	ck_assert_uint_eq(c->umask, 077);
	ck_assert_uint_eq(c->mask, NF_SET_KILL_SUIDGID);
	check_entry((void *)k->body);
	ck_assert_uint_eq(out->open_flags,
			  FOPEN_KEEP_CACHE | FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES);
	uint64_t fh = out->fh;
	in.flags = O_WRONLY;
	in.open_flags = 0;
	c = pass(k, FUSE_TMPFILE, &in, sizeof in, "/", 2, NF_CALL_TMPFILE, answer);
	ck_assert_str_eq(c->name, "");
	ck_assert_uint_eq(c->flags, O_WRONLY);
	ck_assert_uint_eq(c->mode, S_IFREG | 0666);
	check_entry((void *)k->body);
	ck_assert_uint_eq(out->open_flags, FOPEN_KEEP_CACHE);
	ck_assert_uint_ne(out->fh, fh);
	/* The handles are of the new inode, not of its directory. */
	struct fuse_release_in rel = { .fh = fh };
	fk_expect(k, fk_send(k, FUSE_RELEASE, 5, &rel, sizeof rel), -EBADF, 0);
	fk_expect(k, fk_send(k, FUSE_RELEASE, 77, &rel, sizeof rel), 0, 0);
	fk_stop(k);
}
END_TEST

static int give_names(struct nf_call *c)
{
	struct nf_attr a = some_attr;
	char name[32];

	for (uint64_t i = c->offset; i < 1000; i++) {
		size_t len = i < 2 ? (size_t)i + 1 :
				     (size_t)snprintf(name, sizeof name, "name%llu", (unsigned long long)i);
		if (i < 2)
			memcpy(name, "..", 3);
		a.ino = 1000 + i;
		a.mode = i % 2 ? S_IFREG : S_IFDIR;
		if (!c->fill(c, name, len, a.ino, a.mode, c->want_attrs ? &a : NULL, i + 1))
			break;
	}
	return 0;
}

/* Walks a whole directory as the kernel does; the number of entries seen. */
static unsigned walk(struct fk *k, uint64_t fh, bool plus)
{
	struct fuse_read_in in = { .fh = fh, .size = 4096 };
	unsigned n = 0;

	for (;;) {
		uint64_t u = fk_send(k, plus ? FUSE_READDIRPLUS : FUSE_READDIR, 5, &in, sizeof in);
		fk_recv(k);
		ck_assert_uint_eq(k->head.unique, u);
		ck_assert_int_eq(k->head.error, 0);
		ck_assert_uint_le(k->body_bytes, 4096);
		if (!k->body_bytes)
			return n;
		for (size_t at = 0; at < k->body_bytes; n++) {
			const struct fuse_entry_out *e = (void *)(k->body + at);
			if (plus)
				at += sizeof *e;
			const struct fuse_dirent *d = (void *)(k->body + at);
			ck_assert_uint_eq(d->ino, 1000 + n);
			ck_assert_uint_eq(d->off, n + 1);
			ck_assert_uint_eq(d->type, n % 2 ? DT_REG : DT_DIR);
			ck_assert_uint_le(at + FUSE_DIRENT_SIZE(d), k->body_bytes);
			/* "." and ".." are no lookups. */
			if (plus)
				ck_assert_uint_eq(e->nodeid, n < 2 ? 0 : d->ino);
			at += FUSE_DIRENT_SIZE(d);
			in.offset = d->off;
		}
	}
}

START_TEST(directories_are_read_in_pieces_by_cookie)
{
	struct fk *k = fk_start();
	uint64_t fh = fk_open(k, 5, O_RDONLY | O_DIRECTORY, true);

	ck_assert_uint_eq(k->seen.op, NF_CALL_OPENDIR);
	k->answer = give_names;
	ck_assert_uint_eq(walk(k, fh, false), 1000);
	ck_assert_uint_eq(walk(k, fh, true), 1000);
	k->answer = NULL;
	struct fuse_fsync_in fsync_in = { .fh = fh };
	(void)pass(k, FUSE_FSYNCDIR, &fsync_in, sizeof fsync_in, NULL, 0, NF_CALL_FSYNCDIR, 0);
	struct fuse_release_in rel = { .fh = fh };
	(void)pass(k, FUSE_RELEASEDIR, &rel, sizeof rel, NULL, 0, NF_CALL_RELEASEDIR, 0);
	fk_stop(k);
}
END_TEST

static int give_many_pieces(struct nf_call *c)
{
	enum { NR = 3000 };
	static struct iovec iov[NR];

	for (int i = 0; i < NR; i++)
		iov[i] = (struct iovec){ (void *)(uintptr_t)&"0123456789"[i % 10], 1 };
	c->iov = iov;
	c->nr_iov = NR;
	return 0;
}

START_TEST(more_pieces_than_writev_takes_are_gathered)
{
	struct fk *k = fk_start();
	struct fuse_read_in in = { .fh = fk_open(k, 5, O_RDONLY, false), .size = 4096 };

	k->answer = give_many_pieces;
	(void)pass(k, FUSE_READ, &in, sizeof in, NULL, 0, NF_CALL_READ, 3000);
	for (int i = 0; i < 3000; i++)
		ck_assert_int_eq(k->body[i], '0' + i % 10);
	fk_stop(k);
}
END_TEST

/* --- errors and malformed requests ---------------------------------------------------- */

static int next_error;
static int give_error(struct nf_call *c)
{
	(void)c;
	return next_error;
}

START_TEST(codes_become_errnos_the_kernel_takes)
{
	static const struct {
		int code, error;
	} rows[] = {
		{ -ENOENT, -ENOENT }, { -NF_E_OFFLINE, -ENETDOWN }, { -NF_E_XFORM_BAD_TAG, -EIO },
		{ -NF_E_FULL, -ENOSPC }, { -NF_E_CANCELLED, -EINTR }, { -511, -511 }, { -512, -EIO },
		{ -5000, -EIO }, { -1000000, -EIO }, { INT32_MIN, -EIO },
	};
	struct fk *k = fk_start();

	k->answer = give_error;
	for (size_t i = 0; i < NF_ARRAY_LEN(rows); i++) {
		next_error = rows[i].code;
		fk_expect(k, fk_send(k, FUSE_LOOKUP, 1, "x", 2), rows[i].error, 0);
	}
	struct fuse_open_in open_in = { 0 };
	fk_expect(k, fk_send(k, FUSE_OPEN, 5, &open_in, sizeof open_in), -EIO, 0);
	fk_stop(k);
}
END_TEST

START_TEST(malformed_requests_are_refused_and_go_no_further)
{
	struct fk *k = fk_start();
	uint64_t fh = fk_open(k, 5, O_RDWR, false);
	unsigned before = k->nr_seen;
	char longest[4200];
	memset(longest, 'n', sizeof longest);
	longest[256] = '\0';
	struct fuse_write_in w = { .fh = fh, .size = 6 };
	struct fuse_write_in far = { .fh = fh, .offset = INT64_MAX - 2, .size = 5 };
	struct fuse_write_in negative = { .fh = fh, .offset = UINT64_MAX - 2, .size = 5 };
	struct fuse_read_in huge = { .fh = fh, .size = 1 << 30 };
	struct { uint32_t size, flags; } set = { .size = 50 };
	struct fuse_ioctl_in io = { .fh = fh, .in_size = 5 };
	struct fuse_ioctl_in unrestricted = { .fh = fh, .flags = FUSE_IOCTL_UNRESTRICTED };
	struct fuse_lseek_in ls = { .fh = fh, .whence = SEEK_END };
	struct fuse_fallocate_in fa = { .fh = fh };
	struct fuse_read_in bad_fh = { .fh = fh + 1, .size = 4096 };
	struct fuse_setattr_in grow = { .valid = FATTR_SIZE, .size = UINT64_MAX };
	const struct {
		uint32_t opcode;
		int error;
		const void *arg;
		size_t arg_bytes;
		const void *tail;
		size_t tail_bytes;
	} rows[] = {
		{ FUSE_LOOKUP, -EINVAL, NULL, 0, NULL, 0 },
		{ FUSE_LOOKUP, -EINVAL, "abc", 3, NULL, 0 },
		{ FUSE_LOOKUP, -EINVAL, "", 1, NULL, 0 },
		{ FUSE_LOOKUP, -EINVAL, ".", 2, NULL, 0 },
		{ FUSE_LOOKUP, -EINVAL, "..", 3, NULL, 0 },
		{ FUSE_LOOKUP, -EINVAL, "a/b", 4, NULL, 0 },
		{ FUSE_LOOKUP, -ENAMETOOLONG, longest, 257, NULL, 0 },
		{ FUSE_RENAME, -EINVAL, &fh, 8, "a", 2 },
		{ FUSE_RENAME, -EINVAL, &fh, 8, "a\0b", 3 },
		{ FUSE_SYMLINK, -EINVAL, "name", 5, NULL, 0 },
		{ FUSE_SYMLINK, -ENOENT, "name\0", 6, NULL, 0 },
		{ FUSE_GETATTR, -EINVAL, &fh, 8, NULL, 0 },
		{ FUSE_SETATTR, -EINVAL, &fh, 8, NULL, 0 },
		{ FUSE_SETATTR, -EFBIG, &grow, sizeof grow, NULL, 0 },
		{ FUSE_READ, -EINVAL, &huge, sizeof huge - 1, NULL, 0 },
		{ FUSE_READ, -EINVAL, &huge, sizeof huge, NULL, 0 },
		{ FUSE_READ, -EBADF, &bad_fh, sizeof bad_fh, NULL, 0 },
		{ FUSE_READDIR, -EBADF, &bad_fh, sizeof bad_fh, NULL, 0 },
		{ FUSE_WRITE, -EINVAL, &w, sizeof w, "12345", 5 },
		{ FUSE_WRITE, -EFBIG, &far, sizeof far, "12345", 5 },
		{ FUSE_WRITE, -EFBIG, &negative, sizeof negative, "12345", 5 },
		{ FUSE_SETXATTR, -EINVAL, &set, sizeof set, "user.x\0value", 12 },
		{ FUSE_IOCTL, -EINVAL, &io, sizeof io, "1234", 4 },
		{ FUSE_IOCTL, -EINVAL, &unrestricted, sizeof unrestricted, NULL, 0 },
		{ FUSE_LSEEK, -EINVAL, &ls, sizeof ls, NULL, 0 },
		{ FUSE_FALLOCATE, -EINVAL, &fa, sizeof fa, NULL, 0 },
		{ FUSE_INIT, -EIO, &(struct fuse_init_in){ .major = 7, .minor = 45 }, 64, NULL, 0 },
		{ 53, -ENOSYS, longest, 56, NULL, 0 }, /* COPY_FILE_RANGE_64: 47 is used then */
		{ 0, -ENOSYS, NULL, 0, NULL, 0 },
		{ FUSE_BMAP, -ENOSYS, longest, 16, NULL, 0 },
		{ FUSE_POLL, -ENOSYS, longest, 24, NULL, 0 },
		{ 4096, -ENOSYS, NULL, 0, NULL, 0 },
		{ UINT32_MAX, -ENOSYS, NULL, 0, NULL, 0 },
	};

	for (size_t i = 0; i < NF_ARRAY_LEN(rows); i++) {
		uint64_t u = fk_send2(k, rows[i].opcode, 5, rows[i].arg, rows[i].arg_bytes, rows[i].tail,
				      rows[i].tail_bytes);
		fk_recv(k);
		ck_assert_uint_eq(k->head.unique, u);
		ck_assert_msg(k->head.error == rows[i].error, "row %zu: %d", i, k->head.error);
	}
	/* A length that lies, and no request at all. */
	struct fuse_in_header lie = { .len = 100, .opcode = FUSE_STATFS, .unique = 1000 };
	ck_assert_int_eq(write(k->sock, &lie, sizeof lie), sizeof lie);
	fk_expect(k, 1000, -EINVAL, 0);
	ck_assert_int_eq(write(k->sock, &lie, 7), 7);
	ck_assert_uint_eq(k->nr_seen, before);
	(void)pass(k, FUSE_UNLINK, "alive", 6, NULL, 0, NF_CALL_UNLINK, 0);
	fk_stop(k);
}
END_TEST

START_TEST(nothing_but_init_is_served_before_init)
{
	struct fk *k = fk_start_raw(1);

	fk_expect(k, fk_send(k, FUSE_LOOKUP, 1, "x", 2), -EIO, 0);
	fk_init(k, ~UINT32_C(0), ~UINT32_C(0));
	fk_expect(k, fk_send(k, FUSE_UNLINK, 1, "x", 2), 0, 0);
	fk_stop(k);
}
END_TEST

/* Any bytes: every message with a header gets exactly one answer (but FORGET), nothing falls over. */
START_TEST(random_requests_do_no_harm)
{
	struct fk *k = fk_start();
	uint64_t seed = 88172645463325252ULL + (unsigned)_i, fh = fk_open(k, 5, O_RDWR, false);
	uint64_t buf[32];

	k->answer = give_created;
	for (int n = 0; n < 3000; n++) {
		for (size_t i = 0; i < NF_ARRAY_LEN(buf); i++) {
			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			buf[i] = seed % 3 == 0 ? fh : seed % 3 == 1 ? seed & 0xffff0000ffff : 0x61626300656667;
		}
		uint32_t opcode = (uint32_t)(seed >> 20) % 56;
		size_t bytes = (size_t)(seed >> 8) % sizeof buf;
		uint64_t u = fk_send(k, opcode, 5, buf, bytes);
		if (opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET)
			continue;
		fk_recv(k);
		ck_assert_msg(k->head.unique == u, "seed %d opcode %u", _i, opcode);
		ck_assert_int_le(k->head.error, 0);
	}
	fk_stop(k);
}
END_TEST

/* --- handles -------------------------------------------------------------------------- */

START_TEST(a_released_handle_is_refused_and_its_slot_used_again)
{
	struct fk *k = fk_start();
	uint64_t first = fk_open(k, 5, O_RDWR, false);
	struct fuse_release_in rel = { .fh = first };
	struct fuse_flush_in flush_in = { .fh = first };

	fk_expect(k, fk_send(k, FUSE_RELEASE, 5, &rel, sizeof rel), 0, 0);
	fk_expect(k, fk_send(k, FUSE_RELEASE, 5, &rel, sizeof rel), -EBADF, 0);
	uint64_t second = fk_open(k, 5, O_RDWR, false);
	ck_assert_uint_ne(first, second);
	ck_assert_uint_eq(first & UINT32_MAX, second & UINT32_MAX);
	fk_expect(k, fk_send(k, FUSE_FLUSH, 5, &flush_in, sizeof flush_in), -EBADF, 0);
	flush_in.fh = second;
	fk_expect(k, fk_send(k, FUSE_FLUSH, 6, &flush_in, sizeof flush_in), -EBADF, 0);
	fk_expect(k, fk_send(k, FUSE_FLUSH, 5, &flush_in, sizeof flush_in), 0, 0);
	fk_stop(k);
}
END_TEST

START_TEST(what_the_kernel_left_open_is_released_at_the_end)
{
	struct fk *k = fk_start();

	for (uint64_t i = 0; i < 200; i++)
		(void)fk_open(k, 5 + i, O_RDWR, i % 2);
	ck_assert_int_eq(fk_join(k), 0);
	ck_assert_uint_eq(k->nr_released, 200);
	fk_end(k);
}
END_TEST

START_TEST(a_file_in_use_is_not_released_under_its_call)
{
	struct fk *k = fk_start();
	uint64_t fh = fk_open(k, 5, O_RDWR, false);
	struct fuse_flush_in flush_in = { .fh = fh };
	struct fuse_release_in rel = { .fh = fh };

	fk_hold(k, true);
	uint64_t u = fk_send(k, FUSE_FLUSH, 5, &flush_in, sizeof flush_in);
	struct nf_call *c = fk_held(k, 0);
	fk_expect(k, fk_send(k, FUSE_RELEASE, 5, &rel, sizeof rel), -EBUSY, 0);
	nf_call_done(c, 0);
	fk_expect(k, u, 0, 0);
	fk_expect(k, fk_send(k, FUSE_RELEASE, 5, &rel, sizeof rel), 0, 0);
	fk_stop(k);
}
END_TEST

/* --- time ------------------------------------------------------------------------------ */

START_TEST(late_calls_are_answered_in_any_order)
{
	enum { NR = 20 };
	struct fk *k = fk_start();
	uint64_t u[NR];

	fk_hold(k, true);
	for (int i = 0; i < NR; i++)
		u[i] = fk_send(k, FUSE_UNLINK, 1, "x", 2);
	(void)fk_held(k, NR - 1);
	struct nf_text t = NF_TEXT_INIT;
	nf_front_to_text(k->front, &t);
	ck_assert_ptr_nonnull(strstr(nf_text_str(&t), "UNLINK ino=1 unique=4"));
	nf_text_deinit(&t);
	for (int i = NR - 1; i >= 0; i--) {
		nf_call_done(fk_held(k, (unsigned)i), i % 2 ? -EACCES : 0);
		fk_expect(k, u[i], i % 2 ? -EACCES : 0, 0);
	}
	fk_stop(k);
}
END_TEST

START_TEST(kept_data_outlives_the_request)
{
	struct fk *k = fk_start();
	uint64_t fh = fk_open(k, 5, O_RDWR, false);
	struct fuse_write_in w = { .fh = fh, .size = 5 };

	k->keep = true;
	fk_hold(k, true);
	(void)fk_send2(k, FUSE_WRITE, 5, &w, sizeof w, "first", 5);
	(void)fk_send2(k, FUSE_WRITE, 5, &w, sizeof w, "other", 5);
	struct nf_call *c1 = fk_held(k, 0), *c2 = fk_held(k, 1);
	ck_assert_mem_eq(c1->data, "first", 5);
	ck_assert_mem_eq(c2->data, "other", 5);
	c1->count = c2->count = 5;
	nf_call_done(c1, 0);
	nf_call_done(c2, 0);
	fk_stop(k);
}
END_TEST

START_TEST(an_interrupt_reaches_the_call_and_only_it)
{
	struct fk *k = fk_start();
	struct fuse_interrupt_in in;

	fk_hold(k, true);
	uint64_t u1 = fk_send(k, FUSE_UNLINK, 1, "x", 2), u2 = fk_send(k, FUSE_UNLINK, 1, "y", 2);
	struct nf_call *c2 = fk_held(k, 1);
	in.unique = u1;
	(void)fk_send(k, FUSE_INTERRUPT, 0, &in, sizeof in);
	fk_expect(k, u1, -EINTR, 0);
	ck_assert_uint_eq(k->nr_interrupts, 1);
	ck_assert(!atomic_load(&c2->interrupted));
	/* Its request is answered: sent again by the kernel if it lives, which it does not. */
	fk_expect(k, fk_send(k, FUSE_INTERRUPT, 0, &in, sizeof in), -EAGAIN, 0);
	nf_call_done(c2, 0);
	fk_expect(k, u2, 0, 0);
	fk_stop(k);
}
END_TEST

static void *done_later(void *arg)
{
	(void)usleep(100000);
	nf_call_done(arg, 0);
	return NULL;
}

START_TEST(the_loop_waits_for_calls_in_flight)
{
	struct fk *k = fk_start();
	pthread_t t;

	fk_hold(k, true);
	(void)fk_send(k, FUSE_UNLINK, 1, "x", 2);
	struct nf_call *c = fk_held(k, 0);
	ck_assert_int_eq(nf_thread_start(&t, "later", done_later, c), 0);
	ck_assert_int_eq(fk_join(k), 0);
	ck_assert_int_eq(pthread_join(t, NULL), 0);
	fk_end(k);
}
END_TEST

START_TEST(stop_ends_the_loop_from_anywhere)
{
	struct fk *k = fk_start_raw(4);

	fk_init(k, ~UINT32_C(0), ~UINT32_C(0));
	fk_expect(k, fk_send(k, FUSE_UNLINK, 1, "x", 2), 0, 0);
	nf_front_stop(k->front);
	ck_assert_int_eq(pthread_join(k->loop, NULL), 0);
	ck_assert_int_eq(k->loop_result, 0);
	(void)close(k->sock);
	fk_end(k);
}
END_TEST

START_TEST(several_readers_answer_each_request_once)
{
	enum { NR = 3000, AHEAD = 8 };
	struct fk *k = fk_start_raw(4);
	static bool got[NR];

	memset(got, 0, sizeof got);
	fk_init(k, ~UINT32_C(0), ~UINT32_C(0));
	uint64_t first = k->unique + 2;
	for (int sent = 0, answered = 0; answered < NR;) {
		for (; sent < NR && sent - answered < AHEAD; sent++)
			(void)fk_send(k, FUSE_UNLINK, 1, "x", 2);
		fk_recv(k);
		ck_assert_int_eq(k->head.error, 0);
		uint64_t n = (k->head.unique - first) / 2;
		ck_assert_uint_lt(n, NR);
		ck_assert(!got[n]);
		got[n] = true;
		answered++;
	}
	fk_stop(k);
}
END_TEST

static void suite_add(Suite *s)
{
	TCase *tc = nf_case(s, "front", 60);

	tcase_add_test(tc, init_takes_the_features_we_want_and_no_others);
	tcase_add_test(tc, init_takes_nothing_an_older_kernel_does_not_offer);
	tcase_add_test(tc, calls_on_names_carry_everything);
	tcase_add_test(tc, a_negative_entry_has_its_own_time_out);
	tcase_add_test(tc, calls_on_attributes_carry_everything);
	tcase_add_test(tc, extended_attributes_pass_both_ways);
	tcase_add_test(tc, calls_on_files_carry_everything);
	tcase_add_test(tc, create_and_tmpfile_make_and_open);
	tcase_add_test(tc, directories_are_read_in_pieces_by_cookie);
	tcase_add_test(tc, more_pieces_than_writev_takes_are_gathered);
	tcase_add_test(tc, codes_become_errnos_the_kernel_takes);
	tcase_add_test(tc, malformed_requests_are_refused_and_go_no_further);
	tcase_add_test(tc, nothing_but_init_is_served_before_init);
	tcase_add_loop_test(tc, random_requests_do_no_harm, 0, 4);
	tcase_add_test(tc, a_released_handle_is_refused_and_its_slot_used_again);
	tcase_add_test(tc, what_the_kernel_left_open_is_released_at_the_end);
	tcase_add_test(tc, a_file_in_use_is_not_released_under_its_call);
	tcase_add_test(tc, late_calls_are_answered_in_any_order);
	tcase_add_test(tc, kept_data_outlives_the_request);
	tcase_add_test(tc, an_interrupt_reaches_the_call_and_only_it);
	tcase_add_test(tc, the_loop_waits_for_calls_in_flight);
	tcase_add_test(tc, stop_ends_the_loop_from_anywhere);
	tcase_add_test(tc, several_readers_answer_each_request_once);
}

NF_SUITE("fuse/front")
