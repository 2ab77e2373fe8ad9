/* The directory, and the store as a whole. */
#include "toy.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAMES_WHO = 1 };

struct toy_file *toy_find_locked(struct toy *t, const char *name)
{
	for (struct toy_file *f = t->files; f; f = f->next)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}

struct toy_file *toy_by_ino_locked(struct toy *t, uint64_t ino)
{
	for (struct toy_file *f = t->files; f; f = f->next)
		if (f->ino == ino)
			return f;
	return NULL;
}

int toy_names_save_locked(struct toy *t)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return -ENOMEM;
	(void)fprintf(out, "toyfs 1 %" PRIu64 "\n", t->last_ino);
	/* A name may hold any byte but '/' and 0, so it is the last thing of a record that ends in 0. */
	for (struct toy_file *f = t->files; f; f = f->next)
		if (*f->name)
			(void)fprintf(out, "%" PRIu64 " %o %u %u %s%c", f->ino, f->mode, f->uid, f->gid, f->name, 0);
	int r = ferror(out) ? -ENOMEM : 0;
	if (fclose(out))
		r = -ENOMEM;
	if (r == 0)
		r = toy_put(t, "names", NAMES_WHO, text, len);
	free(text);
	return r;
}

int toy_create_locked(struct toy *t, const char *name, uint32_t mode, uint32_t uid, uint32_t gid,
		      struct toy_file **out)
{
	struct toy_file *f = calloc(1, sizeof *f);

	if (!f)
		return -ENOMEM;
	(void)snprintf(f->name, sizeof f->name, "%s", name);
	f->ino = ++t->last_ino; /* never used twice */
	f->mode = mode;
	f->uid = uid;
	f->gid = gid;
	(void)clock_gettime(CLOCK_REALTIME, &f->mtime);
	int r = toy_file_open(t, f);
	if (r < 0) {
		free(f);
		return r;
	}
	f->next = t->files;
	t->files = f;
	*out = f;
	return 0;
}

static int load_one(struct toy *t, const char *line)
{
	struct toy_file *f = calloc(1, sizeof *f);
	int at = 0;

	if (!f)
		return -ENOMEM;
	int r = -NF_E_FORMAT_BAD;
	if (sscanf(line, "%" SCNu64 " %o %u %u %n", &f->ino, &f->mode, &f->uid, &f->gid, &at) == 4 && at &&
	    strlen(line + at) <= TOY_NAME_MAX) {
		(void)snprintf(f->name, sizeof f->name, "%s", line + at);
		r = toy_file_open(t, f);
	}
	if (r < 0) {
		free(f);
		return r;
	}
	f->next = t->files;
	t->files = f;
	return 0;
}

static int load_names(struct toy *t)
{
	char *text, *end;
	size_t len;

	int r = toy_get(t, "names", NAMES_WHO, (void **)&text, &len);
	if (r == -ENOENT)
		return toy_names_save_locked(t); /* a new store */
	if (r < 0)
		return r;
	end = memchr(text, '\n', len);
	if (!end || sscanf(text, "toyfs 1 %" SCNu64, &t->last_ino) != 1)
		r = -NF_E_FORMAT_UNKNOWN;
	for (const char *p = end ? end + 1 : text; r == 0 && p < text + len; p += strlen(p) + 1)
		r = load_one(t, p);
	free(text);
	return r;
}

static bool is_known(struct toy *t, const char *name)
{
	uint64_t ino, index, version;

	if (!strcmp(name, "names"))
		return true;
	if (sscanf(name, "map-%" SCNx64, &ino) == 1)
		return !strchr(name, '.') && toy_by_ino_locked(t, ino);
	if (sscanf(name, "%" SCNx64 "-%" SCNx64 "-%" SCNx64, &ino, &index, &version) != 3)
		return false;
	struct toy_file *f = toy_by_ino_locked(t, ino);
	if (version > t->last_version)
		t->last_version = version;
	return f && index < f->nr_blocks && f->version[index] == version;
}

/* Removes what a crash left: blocks that no map names. */
static int sweep(struct toy *t)
{
	int fd = dup(t->dir);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d) {
		if (fd >= 0)
			(void)close(fd);
		return -errno;
	}
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && !is_known(t, e->d_name))
			(void)unlinkat(t->dir, e->d_name, 0);
	(void)closedir(d);
	return 0;
}

int toy_open(const char *store, const uint8_t key[TOY_KEY_BYTES], struct toy *t)
{
	struct nf_netfs_options o = { .memory_bytes = 32 << 20, .write_back_ms = 2000 };

	*t = (struct toy){ .fs.ops = &toy_fs_ops, .last_ino = 1 };
	memcpy(t->key, key, sizeof t->key);
	(void)pthread_mutex_init(&t->lock, NULL);
	(void)pthread_cond_init(&t->more, NULL);
	t->dir = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->dir < 0)
		return -errno;
	int r = nf_netfs_new(&o, &t->lib);
	if (r == 0)
		r = -pthread_create(&t->reader, NULL, toy_reader, t);
	if (r < 0) {
		nf_netfs_free(t->lib);
		(void)close(t->dir);
		return r;
	}
	r = load_names(t);
	if (r == 0)
		r = sweep(t);
	if (r < 0)
		(void)toy_close(t);
	return r;
}

int toy_close(struct toy *t)
{
	int r = 0;

	while (t->files) {
		struct toy_file *f = t->files;
		t->files = f->next;
		int e = toy_file_close(f);
		r = r ? r : e;
	}
	(void)pthread_mutex_lock(&t->lock);
	t->stop = true;
	(void)pthread_cond_signal(&t->more);
	(void)pthread_mutex_unlock(&t->lock);
	(void)pthread_join(t->reader, NULL);
	nf_netfs_free(t->lib);
	(void)close(t->dir);
	return r;
}
