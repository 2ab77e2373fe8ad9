/* Random operations on one file of a mounted filesystem, against an array of bytes in memory.
 *
 *	fsxlike [-n OPS] [-s SEED] [-l MAX_BYTES] [-o EXPECTED] [-v] MODE FILE
 *
 * After every operation the size and the whole content are compared.  Four descriptors are open at once: two ordinary
 * ones, one with O_APPEND, one with O_DIRECT; a mode says how often which operation comes and through which of them:
 *
 *	buffered   reads and writes            mmap     shared mappings beside reads and writes
 *	append     O_APPEND beside truncation  direct   O_DIRECT only
 *	two        all of it through two descriptors, one O_DSYNC
 *	mixed      everything
 *
 * Half of what goes through O_DIRECT is whole pages, the other half any bytes, from and to memory at any address.
 *
 * Prints its seed, and at a difference the last operations. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, LOG = 64, LINE = 120 };

enum op {
	OP_READ, OP_WRITE, OP_APPEND, OP_MAPREAD, OP_MAPWRITE, OP_DIRECT_READ, OP_DIRECT_WRITE, OP_TRUNCATE, OP_PUNCH,
	OP_ZERO, OP_ZERO_KEEP, OP_FALLOCATE, OP_FALLOCATE_KEEP, OP_COPY, OP_FSYNC, OP_REOPEN, OP_DROP, OP_NR
};

static const char *const op_names[OP_NR] = { "read", "write", "append", "mapread", "mapwrite", "direct read", "direct write",
	"truncate", "punch", "zero range", "zero range keep size", "fallocate", "fallocate keep size",
	"copy_file_range", "fsync", "close and open", "drop caches" };

struct mode {
	const char *name;
	bool second;
	uint8_t weight[OP_NR];
};

static const struct mode modes[] = {
	/*                      rd  wr  ap  mr  mw  dr  dw  tr  pu  ze  zk  fa  fk  cp  fs  ro  dc */
	{ "buffered", false,  { 10, 20, 0,  0,  0,  0,  0,  6,  4,  4,  2,  2,  2,  4,  2,  1,  2 } },
	{ "mmap",     false,  { 5,  8,  0,  10, 20, 0,  0,  6,  4,  3,  2,  2,  1,  3,  2,  1,  2 } },
	{ "append",   false,  { 6,  3,  20, 0,  0,  0,  0,  8,  2,  1,  1,  1,  1,  2,  2,  1,  2 } },
	{ "direct",   false,  { 0,  0,  0,  0,  0,  10, 20, 6,  4,  3,  2,  2,  1,  2,  2,  1,  0 } },
	{ "two",      true,   { 8,  16, 6,  0,  0,  0,  0,  6,  4,  3,  2,  2,  1,  3,  2,  1,  2 } },
	{ "mixed",    true,   { 8,  12, 4,  6,  10, 6,  8,  8,  5,  4,  3,  3,  2,  4,  3,  2,  4 } },
};

static struct {
	const char *path;
	char from_path[4096];
	const struct mode *mode;
	uint64_t random;
	uint8_t *want, *buf;
	size_t size, max;
	int fd[2], append, direct, from;
	char log[LOG][LINE];
	unsigned long op;
	bool verbose;
} t;

static uint64_t next(void)
{
	/* xorshift64* */
	t.random ^= t.random >> 12;
	t.random ^= t.random << 25;
	t.random ^= t.random >> 27;
	return t.random * UINT64_C(0x2545f4914f6cdd1d);
}

static size_t below(size_t n) { return n ? (size_t)(next() >> 16) % n : 0; }

__attribute__((format(printf, 1, 2)))
static _Noreturn void fail(const char *fmt, ...)
{
	va_list ap;
	for (unsigned long i = t.op >= LOG ? t.op - LOG + 1 : 0; i <= t.op; i++)
		printf("%s\n", t.log[i % LOG]);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	exit(1);
}

static void must(long long r, const char *what)
{
	if (r < 0)
		fail("%s: %s", what, strerror(errno));
}

__attribute__((format(printf, 1, 2)))
static void note(const char *fmt, ...)
{
	va_list ap;
	char *line = t.log[t.op % LOG];
	int n = snprintf(line, LINE, "%lu ", t.op);
	va_start(ap, fmt);
	vsnprintf(line + n, LINE - (size_t)n, fmt, ap);
	va_end(ap);
	if (t.verbose)
		puts(line);
}

/* Nothing goes through the kernel's page cache. */
static bool direct_only(void) { return !t.mode->weight[OP_READ]; }

static void open_all(void)
{
	int plain = direct_only() ? O_DIRECT : 0;
	t.fd[0] = open(t.path, O_RDWR | O_CREAT | plain, 0644);
	t.fd[1] = open(t.path, O_RDWR | plain | (t.mode->second ? O_DSYNC : 0));
	t.append = open(t.path, O_RDWR | O_APPEND | plain);
	t.direct = open(t.path, O_RDWR | O_DIRECT);
	if (t.fd[0] < 0 || t.fd[1] < 0 || t.append < 0 || t.direct < 0)
		fail("open: %s", strerror(errno));
}

static void close_all(void)
{
	must(close(t.fd[0]), "close");
	must(close(t.fd[1]), "close");
	must(close(t.append), "close");
	must(close(t.direct), "close");
}

static int any_fd(void) { return t.fd[t.mode->second && below(2)]; }

static void fill(uint8_t *p, size_t len)
{
	uint64_t word = next();
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(word >> (i % 8 * 8)) ^ (uint8_t)(i / 8);
}

static void compare(const uint8_t *got, size_t from, size_t len, const char *how)
{
	if (!memcmp(got, t.want + from, len))
		return;
	size_t i = 0, bad = 0;
	while (got[i] == t.want[from + i])
		i++;
	for (size_t k = i; k < len; k++)
		bad += got[k] != t.want[from + k];
	fail("%s: first difference at %#zx: is %02x, should be %02x; %zu bytes differ up to %#zx", how, from + i, got[i],
	     t.want[from + i], bad, from + len);
}

static void whole(int fd, void *buf, size_t off, size_t len, bool writing)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = writing ? pwrite(fd, (char *)buf + at, len - at, (off_t)(off + at))
				    : pread(fd, (char *)buf + at, len - at, (off_t)(off + at));
		must(n, writing ? "write" : "read");
		if (n == 0)
			fail("%s of %zu bytes at %#zx ended after %zu", writing ? "write" : "read", len, off, at);
		at += (size_t)n;
	}
}

static void check(void)
{
	struct stat st;
	must(fstat(t.fd[0], &st), "fstat");
	if ((size_t)st.st_size != t.size)
		fail("size is %#llx, should be %#zx", (long long)st.st_size, t.size);
	/* Now and then as the server has it, not the kernel's cache. */
	bool direct = direct_only() || (t.mode->weight[OP_DIRECT_READ] && below(8) == 0);
	ssize_t n = pread(direct ? t.direct : any_fd(), t.buf, t.max + PAGE, 0);
	must(n, "read");
	if ((size_t)n != t.size)
		fail("read %#zx bytes, should be %#zx", (size_t)n, t.size);
	compare(t.buf, 0, t.size, direct ? "check, direct" : "check");
}

/* The file is at least END long: what is new is zeros. */
static void grow(size_t end)
{
	if (end > t.size) {
		memset(t.want + t.size, 0, end - t.size);
		t.size = end;
	}
}

static void map_op(size_t off, size_t len, bool writing)
{
	size_t start = off / PAGE * PAGE, map_len = off + len - start;
	uint8_t *p = mmap(NULL, map_len, writing ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, t.fd[0], (off_t)start);

	if (p == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	if (writing) {
		memcpy(p + (off - start), t.buf, len);
		if (below(3) == 0)
			must(msync(p, map_len, MS_SYNC), "msync");
	} else {
		compare(p + (off - start), off, len, "mapping");
	}
	/* What a mapping shows past the end is zeros. */
	if (off + len == t.size)
		for (size_t i = map_len; i % PAGE; i++)
			if (p[i])
				fail("mapping: byte %zu past the end is %02x", i - map_len, p[i]);
	must(munmap(p, map_len), "munmap");
}

static void fallocate_op(enum op op, size_t off, size_t len)
{
	static const int flags[OP_NR] = {
		[OP_PUNCH] = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, [OP_ZERO] = FALLOC_FL_ZERO_RANGE,
		[OP_ZERO_KEEP] = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, [OP_FALLOCATE_KEEP] = FALLOC_FL_KEEP_SIZE,
	};
	must(fallocate(any_fd(), flags[op], (off_t)off, (off_t)len), op_names[op]);
	if (op == OP_ZERO || op == OP_FALLOCATE)
		grow(off + len);
	if (op == OP_FALLOCATE || op == OP_FALLOCATE_KEEP || off >= t.size)
		return;
	memset(t.want + off, 0, off + len < t.size ? len : t.size - off);
}

/* From another place of the file, or from a second file that is given the same bytes. */
static void copy_op(size_t off, size_t len)
{
	size_t from = below(t.size - len + 1);
	bool other = below(2);

	if (below(2) || direct_only()) {
		from = from / PAGE * PAGE;
		off = off / PAGE * PAGE;
	}
	if (direct_only())
		len = len / PAGE * PAGE;
	if (len == 0 || (!other && from < off + len && off < from + len))
		return;
	if (other)
		whole(t.from, t.want + from, from, len, true);
	note("copy_file_range %#zx %#zx to %#zx%s", from, from + len, off, other ? " from another file" : "");
	for (size_t at = 0; at < len;) {
		off_t a = (off_t)(from + at), b = (off_t)(off + at);
		ssize_t n = copy_file_range(other ? t.from : t.fd[0], &a, any_fd(), &b, len - at, 0);
		must(n, "copy_file_range");
		if (n == 0)
			fail("copy_file_range ended after %zu", at);
		at += (size_t)n;
	}
	grow(off + len);
	memmove(t.want + off, t.want + from, len);
}

static void drop(void)
{
	must(fdatasync(t.fd[0]), "fdatasync");
	must(posix_fadvise(t.fd[0], 0, 0, POSIX_FADV_DONTNEED), "fadvise");
}

static void write_op(enum op op, size_t off, size_t len)
{
	if (op == OP_APPEND) {
		off = t.size;
		if (off + len > t.max)
			len = t.max - off;
		note("append %#zx %#zx", off, off + len);
	}
	if (len == 0)
		return;
	uint8_t *from = t.buf + (op == OP_DIRECT_WRITE && len % PAGE ? below(PAGE) : 0);
	fill(from, len);
	if (op == OP_MAPWRITE) {
		map_op(off, len, true);
	} else if (op == OP_APPEND) {
		ssize_t n = write(t.append, from, len);
		must(n, "append");
		len = (size_t)n;
	} else {
		whole(op == OP_DIRECT_WRITE ? t.direct : any_fd(), from, off, len, true);
	}
	grow(off + len);
	memcpy(t.want + off, from, len);
}

static void read_op(enum op op, size_t off, size_t len)
{
	uint8_t *to = t.buf;

	if (op == OP_MAPREAD) {
		map_op(off, len, false);
		return;
	}
	if (op == OP_DIRECT_READ) {
		/* At the end fewer bytes come than were asked for. */
		size_t ask = off % PAGE || below(2) ? len : (len + PAGE - 1) / PAGE * PAGE;
		to += ask % PAGE ? below(PAGE) : 0;
		ssize_t n = pread(t.direct, to, ask, (off_t)off);
		must(n, "direct read");
		if ((size_t)n < len)
			fail("direct read of %zu bytes at %#zx gave %zd", len, off, n);
		len = (size_t)n;
		if (len > t.size - off)
			fail("direct read at %#zx gave %zu bytes, past the end", off, len);
	} else {
		whole(any_fd(), t.buf, off, len, false);
	}
	compare(to, off, len, op_names[op]);
}

/* Lengths from a byte to a quarter of the file; every other one aligned somehow. */
static size_t some_length(void)
{
	static const size_t unit[] = { 1, 1, 512, PAGE, 16384 };
	size_t u = unit[below(5)], len = below(below(2) ? 600 : t.max / 4) + 1;
	len = (len + u - 1) / u * u;
	return len < t.max ? len : t.max;
}

static void one(enum op op)
{
	size_t len = some_length(), off = below(t.max - len + 1);
	bool inside = op == OP_READ || op == OP_MAPREAD || op == OP_MAPWRITE || op == OP_COPY || op == OP_DIRECT_READ;
	bool aligned = (op == OP_DIRECT_READ || op == OP_DIRECT_WRITE) && below(2);

	if (aligned || below(4) == 0)
		off = off / PAGE * PAGE;
	if (aligned)
		len = (len + PAGE - 1) / PAGE * PAGE;
	if (inside) {
		if (t.size == 0)
			return;
		off = off < t.size ? off : below(t.size);
		if (aligned)
			off = off / PAGE * PAGE;
		if (len > t.size - off)
			len = t.size - off;
	}
	if (off + len > t.max)
		len = t.max - off;
	note("%s %#zx %#zx, size %#zx", op_names[op], off, off + len, t.size);
	switch (op) {
	case OP_READ:
	case OP_MAPREAD:
	case OP_DIRECT_READ:
		read_op(op, off, len);
		break;
	case OP_WRITE:
	case OP_APPEND:
	case OP_MAPWRITE:
	case OP_DIRECT_WRITE:
		write_op(op, off, len);
		break;
	case OP_TRUNCATE:
		off = below(6) ? off : below(2) ? 0 : below(600);
		note("truncate %#zx to %#zx", t.size, off);
		must(below(2) ? ftruncate(any_fd(), (off_t)off) : truncate(t.path, (off_t)off), "truncate");
		grow(off);
		t.size = off;
		break;
	case OP_COPY:
		copy_op(below(t.max - len + 1), len);
		break;
	case OP_FSYNC:
		must(below(2) ? fsync(any_fd()) : fdatasync(any_fd()), "fsync");
		break;
	case OP_REOPEN:
		close_all();
		open_all();
		break;
	case OP_DROP:
		drop();
		break;
	case OP_PUNCH:
	case OP_ZERO:
	case OP_ZERO_KEEP:
	case OP_FALLOCATE:
	case OP_FALLOCATE_KEEP:
		fallocate_op(op, off, len);
		break;
	case OP_NR:
		break;
	}
}

static enum op pick(void)
{
	size_t sum = 0, at;
	int op = 0;

	for (int i = 0; i < OP_NR; i++)
		sum += t.mode->weight[i];
	for (at = below(sum); at >= t.mode->weight[op]; op++)
		at -= t.mode->weight[op];
	return (enum op)op;
}

/* What the file should be, for a look after an unmount. */
static void save(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	must(fd, path);
	whole(fd, t.want, 0, t.size, true);
	must(close(fd), "close");
}

int main(int argc, char **argv)
{
	unsigned long ops = 20000;
	uint64_t seed = 1;
	const char *keep = NULL;
	int c;

	t.max = 192 << 10;
	while ((c = getopt(argc, argv, "n:s:l:o:v")) != -1) {
		if (c == 'n')
			ops = strtoul(optarg, NULL, 0);
		else if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (c == 'l')
			t.max = strtoul(optarg, NULL, 0) / PAGE * PAGE;
		else if (c == 'o')
			keep = optarg;
		else if (c == 'v')
			t.verbose = true;
		else
			return 2;
	}
	for (size_t i = 0; optind + 2 == argc && i < sizeof modes / sizeof modes[0]; i++)
		if (!strcmp(modes[i].name, argv[optind]))
			t.mode = &modes[i];
	if (!t.mode || t.max < 4 * PAGE) {
		fprintf(stderr, "usage: fsxlike [-n OPS] [-s SEED] [-l MAX_BYTES] [-o EXPECTED] [-v] MODE FILE\n");
		return 2;
	}
	t.path = argv[optind + 1];
	t.random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	printf("%s: %lu operations, seed %llu\n", t.mode->name, ops, (unsigned long long)seed);
	fflush(stdout);
	t.want = calloc(1, t.max + PAGE);
	if (!t.want || posix_memalign((void **)&t.buf, PAGE, t.max + 2 * PAGE))
		return 2;
	open_all();
	snprintf(t.from_path, sizeof t.from_path, "%s.from", t.path);
	t.from = open(t.from_path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	must(t.from, "open");
	must(ftruncate(t.fd[0], 0), "truncate");
	for (t.op = 0; t.op < ops; t.op++) {
		one(pick());
		check();
	}
	t.op--;
	close_all();
	must(close(t.from), "close");
	must(unlink(t.from_path), "unlink");
	if (keep)
		save(keep);
	printf("%s: passed\n", t.mode->name);
	return 0;
}
