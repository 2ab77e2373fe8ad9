/* The hidden directory: a filter between front end and vault.  What is about it is answered at once, the rest passes. */
#include "daemon/hidden.h"

#include "base/clock.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "vault/item.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIR_INO = 16, FIRST_INO };

struct nf_hidden {
	struct nf_fs fs;
	struct nf_fs *inner;
	const struct nf_control_env *env;
	struct timespec begun;
};

static struct nf_hidden *hidden_of(struct nf_fs *fs) { return nf_container_of(fs, struct nf_hidden, fs); }

/* --- the files ------------------------------------------------------------------------------------- */

static void stats_text(const struct nf_control_env *env, struct nf_text *t)
{
	(void)env;
	nf_counters_to_text(t, 1);
}

static void regions_text(const struct nf_control_env *env, struct nf_text *t)
{
	nf_auto_free char *s = NULL;

	if (nf_vault_regions_text(env->vault, &s))
		t->failed = true;
	else
		nf_textf(t, "%s", s);
}

static const struct {
	const char *name;
	void (*text)(const struct nf_control_env *env, struct nf_text *t);
} files[] = {
	{ "status", nf_status_to_text },
	{ "stats", stats_text },
	{ "regions", regions_text },
	{ "requests", nf_requests_to_text },
};

/* An open one. */
struct shown {
	struct nf_text text;
};

static struct shown *shown_of(const struct nf_call *c) { return (struct shown *)(void *)c->file; }

static bool is_ours(uint64_t ino) { return ino >= DIR_INO && ino < FIRST_INO + NF_ARRAY_LEN(files); }

static void attr(const struct nf_hidden *h, uint64_t ino, struct nf_attr *a)
{
	bool dir = ino == DIR_INO;

	*a = (struct nf_attr){
		.ino = ino, .mode = dir ? S_IFDIR | 0500 : S_IFREG | 0400, .nlink = dir ? 2 : 1, .uid = geteuid(),
		.gid = getegid(), .blksize = 4096, .atime = h->begun, .mtime = h->begun, .ctime = h->begun, .btime = h->begun,
	};
}

static int do_lookup(const struct nf_hidden *h, struct nf_call *c)
{
	if (c->ino != DIR_INO)
		return nf_fail(-ENOTDIR);
	for (size_t i = 0; i < NF_ARRAY_LEN(files); i++) {
		if (!strcmp(c->name, files[i].name)) {
			attr(h, FIRST_INO + i, &c->attr);
			return 0;
		}
	}
	return -ENOENT;
}

static int do_open(const struct nf_hidden *h, struct nf_call *c)
{
	if (c->ino == DIR_INO)
		return nf_fail(-EISDIR);
	if ((c->flags & O_ACCMODE) != O_RDONLY || c->flags & O_TRUNC)
		return nf_fail(-EACCES); /* also for root */
	struct shown *s = calloc(1, sizeof *s);
	if (!s)
		return nf_fail(-ENOMEM);
	files[c->ino - FIRST_INO].text(h->env, &s->text);
	if (s->text.failed) {
		nf_text_deinit(&s->text);
		free(s);
		return nf_fail(-ENOMEM);
	}
	c->file = (struct nf_open_file *)(void *)s;
	c->direct_io = true; /* its size is not known before */
	return 0;
}

static int do_release(struct nf_call *c)
{
	nf_text_deinit(&shown_of(c)->text);
	free(shown_of(c));
	return 0;
}

static int do_read(struct nf_call *c)
{
	const struct nf_text *t = &shown_of(c)->text;
	struct iovec *v = (struct iovec *)(void *)c->fs_priv; /* room in the call itself */
	size_t from = (size_t)NF_MIN(c->offset, (uint64_t)t->len);

	_Static_assert(sizeof(struct iovec) <= sizeof c->fs_priv, "an iovec fits");
	*v = (struct iovec){ t->s ? t->s + from : NULL, NF_MIN(t->len - from, (size_t)c->size) };
	c->iov = v;
	c->nr_iov = v->iov_len ? 1 : 0;
	c->count = v->iov_len;
	return 0;
}

static int do_readdir(const struct nf_hidden *h, struct nf_call *c)
{
	struct nf_attr a;

	for (uint64_t i = c->offset; i < NF_ARRAY_LEN(files) + 2; i++) {
		const char *name = i == 0 ? "." : i == 1 ? ".." : files[i - 2].name;
		uint64_t ino = i == 0 ? DIR_INO : i == 1 ? NF_INO_ROOT : FIRST_INO + i - 2;
		attr(h, i < 2 ? DIR_INO : ino, &a);
		a.ino = ino;
		if (!c->fill(c, name, strlen(name), ino, a.mode, c->want_attrs && i >= 2 ? &a : NULL, i + 1))
			break;
	}
	return 0;
}

/* C is on one of ours. */
static int answer(const struct nf_hidden *h, struct nf_call *c)
{
	switch ((int)c->op) {
	case NF_CALL_LOOKUP:
		return do_lookup(h, c);
	case NF_CALL_GETATTR:
		attr(h, c->ino, &c->attr);
		return 0;
	case NF_CALL_OPEN:
		return do_open(h, c);
	case NF_CALL_RELEASE:
		return do_release(c);
	case NF_CALL_READ:
		return do_read(c);
	case NF_CALL_READDIR:
		return do_readdir(h, c);
	case NF_CALL_OPENDIR:
		return c->ino == DIR_INO ? 0 : nf_fail(-ENOTDIR);
	case NF_CALL_RELEASEDIR:
	case NF_CALL_FLUSH:
	case NF_CALL_FSYNC:
	case NF_CALL_FSYNCDIR:
	case NF_CALL_LISTXATTR:
		return 0;
	case NF_CALL_GETXATTR:
		return -ENODATA;
	case NF_CALL_IOCTL:
		return -ENOTTY;
	case NF_CALL_LSEEK:
	case NF_CALL_COPY_RANGE:
		return -EOPNOTSUPP;
	default:
		return nf_fail(-EPERM);
	}
}

/* --- what passes ----------------------------------------------------------------------------------- */

static bool is_name(uint64_t dir, const char *name) { return dir == NF_INO_ROOT && !strcmp(name, NF_HIDDEN_NAME); }

/* The directory's own name, in the root: 1: C is not about it. */
static int answer_name(const struct nf_hidden *h, struct nf_call *c)
{
	switch ((int)c->op) {
	case NF_CALL_LOOKUP:
		if (!is_name(c->ino, c->name))
			return 1;
		attr(h, DIR_INO, &c->attr);
		return 0;
	case NF_CALL_CREATE:
	case NF_CALL_MKNOD:
	case NF_CALL_MKDIR:
	case NF_CALL_SYMLINK:
		return is_name(c->ino, c->name) ? nf_fail(-EEXIST) : 1;
	case NF_CALL_LINK:
		return is_name(c->ino2, c->name2) ? nf_fail(-EEXIST) : is_ours(c->ino2) ? nf_fail(-EPERM) : 1;
	case NF_CALL_UNLINK:
	case NF_CALL_RMDIR:
		return is_name(c->ino, c->name) ? nf_fail(-EPERM) : 1;
	case NF_CALL_RENAME:
		return is_name(c->ino, c->name) || is_name(c->ino2, c->name2) || is_ours(c->ino2) ? nf_fail(-EPERM) : 1;
	case NF_CALL_COPY_RANGE:
		return is_ours(c->ino2) ? nf_fail(-EPERM) : 1;
	default:
		return 1;
	}
}

static void submit(struct nf_fs *fs, struct nf_call *c)
{
	struct nf_hidden *h = hidden_of(fs);
	int r = is_ours(c->ino) && c->op != NF_CALL_STATFS ? answer(h, c) : answer_name(h, c);

	if (r == 1)
		h->inner->ops->submit(h->inner, c);
	else
		nf_call_done(c, r);
}

static void interrupt(struct nf_fs *fs, struct nf_call *c)
{
	struct nf_hidden *h = hidden_of(fs);

	/* Ours are done at once, and use the call's room otherwise. */
	if (!is_ours(c->ino) && h->inner->ops->interrupt)
		h->inner->ops->interrupt(h->inner, c);
}

static const struct nf_fs_ops hidden_ops = { .submit = submit, .interrupt = interrupt };

int nf_hidden_new(struct nf_fs *inner, const struct nf_control_env *env, struct nf_hidden **out)
{
	struct nf_hidden *h = calloc(1, sizeof *h);

	if (!h)
		return nf_fail(-ENOMEM);
	h->fs.ops = &hidden_ops;
	h->fs.read_only = inner->read_only;
	h->inner = inner;
	h->env = env;
	h->begun = nf_clock_real();
	*out = h;
	return 0;
}

struct nf_fs *nf_hidden_fs(struct nf_hidden *h) { return &h->fs; }

void nf_hidden_notify(struct nf_hidden *h, bool on)
{
	h->inner->notify_ctx = on ? h->fs.notify_ctx : NULL;
	h->inner->notify = on ? h->fs.notify : NULL;
}

void nf_hidden_free(struct nf_hidden *h) { free(h); }
