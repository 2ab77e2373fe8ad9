/* What the library asks of the filesystem: reading, sealing and storing blocks.
 *
 *	encrypt_block   a new version, sealed                       any thread, in parallel
 *	write_block     into a file of its own
 *	write_stored    reads find the new version from here on
 *	group_stored    the map names the versions: a crash keeps all of the group or nothing of it */
#include "toy.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>

enum { NONCE = 12, TAG = 16, SEAL_BYTES = NONCE + TAG };

/* --- sealed bytes: nonce | ciphertext | tag --------------------------------------------------------- */

/* WHO and WHAT are part of the seal: no block can stand for another, nor an old one for a new one. */
static int gcm(const struct toy *t, bool seal, uint64_t who, uint64_t what, const uint8_t *nonce, const void *in, size_t len,
	       uint8_t *out, uint8_t *tag)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	uint64_t aad[2] = { who, what };
	int n;

	bool ok = c && EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, t->key, nonce, seal) &&
		  EVP_CipherUpdate(c, NULL, &n, (uint8_t *)aad, sizeof aad) && EVP_CipherUpdate(c, out, &n, in, (int)len) &&
		  (seal || EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG, tag)) && EVP_CipherFinal_ex(c, out + n, &n) &&
		  (!seal || EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG, tag));
	EVP_CIPHER_CTX_free(c);
	return ok ? 0 : seal ? -NF_E_XFORM_CRYPTO : -NF_E_XFORM_BAD_TAG;
}

/* *OUT is malloc'd, LEN + SEAL_BYTES. */
static int seal(const struct toy *t, uint64_t who, uint64_t what, const void *plain, size_t len, void **out)
{
	uint8_t *to = *out = malloc(len + SEAL_BYTES);

	if (!to)
		return -ENOMEM;
	return RAND_bytes(to, NONCE) == 1 ? gcm(t, true, who, what, to, plain, len, to + NONCE, to + NONCE + len) :
					    -NF_E_XFORM_CRYPTO;
}

static int unseal(const struct toy *t, uint64_t who, uint64_t what, uint8_t *from, size_t len, void *out)
{
	if (len < SEAL_BYTES)
		return -NF_E_XFORM_TRUNCATED;
	return gcm(t, false, who, what, from, from + NONCE, len - SEAL_BYTES, out, from + len - TAG);
}

/* --- files of STORE ---------------------------------------------------------------------------------- */

static int write_file(const struct toy *t, const char *name, const void *bytes, size_t len)
{
	int fd = openat(t->dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, bytes, len);
	int r = n == (ssize_t)len && !fsync(fd) ? 0 : n >= 0 && n < (ssize_t)len ? -ENOSPC : -errno;
	(void)close(fd);
	return r;
}

static int read_file(const struct toy *t, const char *name, void **out, size_t *len)
{
	int fd = openat(t->dir, name, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return -errno;
	*len = fstat(fd, &st) ? 0 : (size_t)st.st_size;
	*out = malloc(*len + 1);
	bool ok = *out && read(fd, *out, *len) == (ssize_t)*len;
	(void)close(fd);
	if (!ok)
		free(*out);
	return ok ? 0 : -EIO;
}

/* --- blocks --------------------------------------------------------------------------------------------- */

static struct toy_file *file_of(struct nf_ictx *ic) { return (struct toy_file *)(void *)ic; }
static uint64_t *version_of(struct nf_block *b) { return (uint64_t *)(void *)b->cookie; }
static uint64_t who(const struct toy_file *f, const struct nf_block *b) { return f->ino << 24 ^ b->index; }

static const char *block_name(char out[64], const struct toy_file *f, uint64_t index, uint64_t version)
{
	(void)snprintf(out, 64, "%" PRIx64 "-%" PRIx64 "-%" PRIx64, f->ino, index, version);
	return out;
}

static const char *map_name(char out[64], uint64_t ino)
{
	(void)snprintf(out, 64, "map-%" PRIx64, ino);
	return out;
}

/* What stays behind is swept at the next start. */
static void remove_block(const struct toy_file *f, uint64_t index, uint64_t version)
{
	char name[64];

	if (version)
		(void)unlinkat(f->t->dir, block_name(name, f, index, version), 0);
}

static uint64_t version_now(struct toy_file *f, uint64_t index)
{
	(void)pthread_mutex_lock(&f->t->lock);
	uint64_t v = index < f->nr_blocks ? f->now[index] : 0;
	(void)pthread_mutex_unlock(&f->t->lock);
	return v;
}

static int read_block(struct nf_ictx *ic, struct nf_block *b)
{
	struct toy_file *f = file_of(ic);
	char name[64];
	size_t len = 0;
	uint64_t v;
	int r;

	do { /* again if it is replaced meanwhile */
		v = version_now(f, b->index);
		b->hole = v == 0;
		r = v ? read_file(f->t, block_name(name, f, b->index, v), &b->sealed, &len) : 0;
	} while (r == -ENOENT && version_now(f, b->index) != v);
	b->owned = v && r == 0; /* the library frees it */
	b->sealed_len = (uint32_t)len;
	b->plain_len = len > SEAL_BYTES ? (uint32_t)len - SEAL_BYTES : 0;
	*version_of(b) = v;
	return r;
}

static int decrypt_block(struct nf_rreq *rq, struct nf_block *b, void *out)
{
	struct toy_file *f = file_of(nf_rreq_ictx(rq));

	return unseal(f->t, who(f, b), *version_of(b), b->sealed, b->sealed_len, out);
}

static int encrypt_block(struct nf_wreq *wq, struct nf_block *b)
{
	struct toy_file *f = file_of(nf_wreq_ictx(wq));

	*version_of(b) = ++f->t->last_version;
	b->sealed_len = b->plain_len + SEAL_BYTES;
	b->owned = true;
	return seal(f->t, who(f, b), *version_of(b), b->plain, b->plain_len, &b->sealed);
}

static bool room_locked(struct toy_file *f, uint64_t nr)
{
	for (uint64_t **p = &f->now; nr > f->nr_blocks; p = &f->kept) {
		uint64_t *more = realloc(*p, nr * sizeof *more);
		if (!more)
			return false;
		memset(more + f->nr_blocks, 0, (nr - f->nr_blocks) * sizeof *more);
		*p = more;
		if (p == &f->kept)
			f->nr_blocks = nr;
	}
	return true;
}

static int write_block(struct nf_ictx *ic, struct nf_block *b)
{
	struct toy_file *f = file_of(ic);
	char name[64];

	(void)pthread_mutex_lock(&f->t->lock);
	bool room = room_locked(f, b->index + 1); /* write_stored cannot fail */
	(void)pthread_mutex_unlock(&f->t->lock);
	return room ? write_file(f->t, block_name(name, f, b->index, *version_of(b)), b->sealed, b->sealed_len) : -ENOMEM;
}

/* What a map names stays until the next one is in place: a crash leads back to it. */
static void replace_locked(struct toy_file *f, uint64_t index, uint64_t version)
{
	if (f->now[index] != f->kept[index])
		remove_block(f, index, f->now[index]);
	f->now[index] = version;
}

static void write_stored(struct nf_wreq *wq)
{
	struct toy_file *f = file_of(nf_wreq_ictx(wq));
	unsigned nr;
	struct nf_block *b = nf_wreq_blocks(wq, &nr);

	(void)pthread_mutex_lock(&f->t->lock);
	for (unsigned i = 0; i < nr; i++)
		replace_locked(f, b[i].index, *version_of(&b[i]));
	(void)pthread_mutex_unlock(&f->t->lock);
}

/* The map, replaced at once or not at all, and then what only the last one named.  A toy writes with its lock held. */
int toy_save_locked(struct toy_file *f)
{
	size_t len = sizeof(struct toy_map) + f->nr_blocks * sizeof *f->now;
	struct toy_map *m = calloc(1, len);
	char name[64], temp[80];
	void *sealed = NULL;

	if (!m)
		return -ENOMEM;
	*m = (struct toy_map){ f->stored_bytes, ++f->t->last_version, f->mtime.tv_sec, f->mtime.tv_nsec, f->mode, f->uid,
			       f->gid, "", f->nr_blocks };
	memcpy(m->name, f->name, sizeof m->name);
	if (f->nr_blocks)
		memcpy(m->version, f->now, f->nr_blocks * sizeof *f->now);
	(void)snprintf(temp, sizeof temp, "%s.new", map_name(name, f->ino));
	int r = seal(f->t, f->ino, 0, m, len, &sealed);
	if (r == 0)
		r = write_file(f->t, temp, sealed, len + SEAL_BYTES);
	/* The directory's own fsync makes the blocks' names durable as well. */
	if (r == 0 && (fsync(f->t->dir) || renameat(f->t->dir, temp, f->t->dir, name) || fsync(f->t->dir)))
		r = -errno;
	free(sealed);
	free(m);
	for (uint64_t i = 0; r == 0 && i < f->nr_blocks; i++) {
		if (f->kept[i] != f->now[i])
			remove_block(f, i, f->kept[i]);
		f->kept[i] = f->now[i];
	}
	return r;
}

static int group_stored(struct nf_ictx *ic, const struct nf_group_info *g)
{
	struct toy_file *f = file_of(ic);
	uint64_t bb = TOY_BLOCK_BYTES, end = (g->size_bytes + bb - 1) / bb;

	(void)pthread_mutex_lock(&f->t->lock);
	for (size_t i = 0; i <= g->nr_holes; i++) {
		/* What is behind the end of the file is a hole as well. */
		uint64_t from = i < g->nr_holes ? (g->holes[i].start + bb - 1) / bb : end;
		uint64_t to = i < g->nr_holes ? g->holes[i].end / bb : f->nr_blocks;
		if (i < g->nr_holes && g->holes[i].end >= g->size_bytes)
			to = end; /* it covers the last block */
		for (; from < to && from < f->nr_blocks; from++)
			replace_locked(f, from, 0);
	}
	f->stored_bytes = g->size_bytes;
	int r = toy_save_locked(f);
	(void)pthread_mutex_unlock(&f->t->lock);
	return r;
}

static const struct nf_netfs_ops netfs_ops = {
	.name = "toyfs",
	.read_block = read_block,
	.decrypt_block = decrypt_block,
	.encrypt_block = encrypt_block,
	.write_block = write_block,
	.write_stored = write_stored,
	.group_stored = group_stored,
};

/* --- files --------------------------------------------------------------------------------------------- */

void toy_file_free(struct toy_file *f)
{
	free(f->now);
	free(f->kept);
	free(f);
}

static void on_removed(struct nf_ictx *ic)
{
	struct toy_file *f = file_of(ic);
	char name[64];

	(void)unlinkat(f->t->dir, map_name(name, f->ino), 0);
	for (uint64_t i = 0; i < f->nr_blocks; i++) {
		replace_locked(f, i, 0);
		remove_block(f, i, f->kept[i]);
	}
	toy_file_free(f);
}

void toy_file_remove(struct toy_file *f) { nf_file_discard(&f->f, on_removed); }

static int load_map(struct toy_file *f, struct toy_map *m, size_t len)
{
	if (len < sizeof *m || (len - sizeof *m) / sizeof *f->now != m->nr_blocks || m->name[TOY_NAME_MAX])
		return -NF_E_FORMAT_BAD;
	if (!room_locked(f, m->nr_blocks))
		return -ENOMEM;
	if (m->nr_blocks) {
		memcpy(f->now, m->version, m->nr_blocks * sizeof *f->now);
		memcpy(f->kept, m->version, m->nr_blocks * sizeof *f->now);
	}
	memcpy(f->name, m->name, sizeof f->name);
	f->mtime = (struct timespec){ m->mtime_s, m->mtime_ns };
	f->mode = m->mode;
	f->uid = m->uid;
	f->gid = m->gid;
	f->stamp = m->stamp;
	f->stored_bytes = m->size_bytes;
	return 0;
}

int toy_file_new(struct toy *t, uint64_t ino, struct toy_file **out)
{
	struct toy_file *f = calloc(1, sizeof *f);
	void *sealed = NULL;
	struct toy_map *m = NULL;
	char name[64];
	size_t len = 0;

	if (!f)
		return -ENOMEM;
	f->t = t;
	f->ino = ino;
	int r = read_file(t, map_name(name, ino), &sealed, &len);
	if (r == 0) {
		m = malloc(len);
		r = m ? unseal(t, ino, 0, sealed, len, m) : -ENOMEM;
		free(sealed);
		r = r ? r : load_map(f, m, len - SEAL_BYTES);
		free(m);
	}
	if (r == 0 || r == -ENOENT)
		r = nf_file_init(&f->f, t->lib, &netfs_ops, ino, TOY_BLOCK_BYTES, f->stored_bytes);
	if (r < 0)
		toy_file_free(f);
	else
		*out = f;
	return r;
}

static struct toy_file *by_ino(struct toy *t, uint64_t ino)
{
	struct toy_file *f = t->files;

	while (f && f->ino != ino)
		f = f->next;
	return f;
}

/* Two maps have one name when a crash came in the middle of a rename: it goes to the later one. */
static int add_file(struct toy *t, uint64_t ino)
{
	struct toy_file *f;
	int r = toy_file_new(t, ino, &f);

	if (r < 0)
		return r;
	for (struct toy_file *o = t->files; o; o = o->next)
		if (!strcmp(o->name, f->name))
			*(o->stamp < f->stamp ? o : f)->name = '\0';
	f->next = t->files;
	t->files = f;
	t->last_ino = ino > t->last_ino ? ino : t->last_ino;
	t->last_version = f->stamp > t->last_version ? f->stamp : t->last_version;
	return 0;
}

int toy_load(struct toy *t)
{
	DIR *d = fdopendir(dup(t->dir));
	uint64_t ino, index, version;
	struct dirent *e;
	int r = d ? 0 : -errno;

	while (r == 0 && (e = readdir(d)))
		if (sscanf(e->d_name, "map-%" SCNx64, &ino) == 1 && !strchr(e->d_name, '.'))
			r = add_file(t, ino);
	for (struct toy_file **p = &t->files, *f; r == 0 && (f = *p);) {
		if (*f->name) {
			p = &f->next;
		} else { /* removed while it was open */
			*p = f->next;
			toy_file_remove(f);
		}
	}
	if (d)
		rewinddir(d);
	while (r == 0 && (e = readdir(d))) {
		bool block = sscanf(e->d_name, "%" SCNx64 "-%" SCNx64 "-%" SCNx64, &ino, &index, &version) == 3;
		struct toy_file *f = block ? by_ino(t, ino) : NULL;
		if (block && version > t->last_version)
			t->last_version = version;
		if ((block && !(f && index < f->nr_blocks && f->now[index] == version)) || strstr(e->d_name, ".new"))
			(void)unlinkat(t->dir, e->d_name, 0);
	}
	if (d)
		(void)closedir(d);
	return r;
}
