/* AES-256-GCM: nonce 12 | ciphertext | tag 16. */
#include "toy.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NONCE = 12, TAG = 16 };

static int gcm(const struct toy *t, bool seal, const uint64_t aad[2], const uint8_t *nonce, const void *in, size_t len,
	       uint8_t *out, uint8_t *tag)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int n, tail;

	bool ok = c && EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, t->key, nonce, seal) &&
		  EVP_CipherUpdate(c, NULL, &n, (const uint8_t *)aad, 16) &&
		  EVP_CipherUpdate(c, out, &n, in, (int)len) &&
		  (seal || EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG, tag)) && EVP_CipherFinal_ex(c, out + n, &tail) &&
		  (!seal || EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG, tag));
	EVP_CIPHER_CTX_free(c);
	return ok ? 0 : seal ? -NF_E_XFORM_CRYPTO : -NF_E_XFORM_BAD_TAG;
}

int toy_seal(const struct toy *t, uint64_t who, uint64_t what, const void *plain, size_t len, void *out)
{
	uint64_t aad[2] = { who, what };
	uint8_t *to = out;

	if (RAND_bytes(to, NONCE) != 1)
		return -NF_E_XFORM_CRYPTO;
	return gcm(t, true, aad, to, plain, len, to + NONCE, to + NONCE + len);
}

int toy_unseal(const struct toy *t, uint64_t who, uint64_t what, const void *sealed, size_t len, void *out)
{
	uint64_t aad[2] = { who, what };
	const uint8_t *from = sealed;
	uint8_t tag[TAG];

	if (len < TOY_SEAL_BYTES)
		return -NF_E_XFORM_TRUNCATED;
	memcpy(tag, from + len - TAG, TAG);
	return gcm(t, false, aad, from, from + NONCE, len - TOY_SEAL_BYTES, out, tag);
}

int toy_write_file(const struct toy *t, const char *name, const void *bytes, size_t len)
{
	int fd = openat(t->dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), r = 0;

	if (fd < 0)
		return -errno;
	for (size_t at = 0; at < len && r == 0;) {
		ssize_t n = write(fd, (const char *)bytes + at, len - at);
		if (n < 0 && errno != EINTR)
			r = -errno;
		at += n > 0 ? (size_t)n : 0;
	}
	if (r == 0 && fsync(fd))
		r = -errno;
	if (close(fd) && r == 0)
		r = -errno;
	return r;
}

int toy_read_file(const struct toy *t, const char *name, void **out, size_t *len)
{
	int fd = openat(t->dir, name, O_RDONLY | O_CLOEXEC), r = 0;
	struct stat st;
	char *buf = NULL;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st))
		r = -errno;
	else if (!(buf = malloc((size_t)st.st_size + 1)))
		r = -ENOMEM;
	else if (pread(fd, buf, (size_t)st.st_size, 0) != st.st_size)
		r = -EIO;
	(void)close(fd);
	if (r) {
		free(buf);
		return r;
	}
	*out = buf;
	*len = (size_t)st.st_size;
	return 0;
}

int toy_put(const struct toy *t, const char *name, uint64_t who, const void *bytes, size_t len)
{
	char temp[64];
	void *sealed = malloc(len + TOY_SEAL_BYTES);

	if (!sealed)
		return -ENOMEM;
	(void)snprintf(temp, sizeof temp, "%s.new", name);
	int r = toy_seal(t, who, 0, bytes, len, sealed);
	if (r == 0)
		r = toy_write_file(t, temp, sealed, len + TOY_SEAL_BYTES);
	/* The directory's own fsync makes the blocks' names durable as well. */
	if (r == 0 && (fsync(t->dir) || renameat(t->dir, temp, t->dir, name) || fsync(t->dir)))
		r = -errno;
	free(sealed);
	return r;
}

int toy_get(const struct toy *t, const char *name, uint64_t who, void **out, size_t *len)
{
	void *sealed;
	size_t n;

	int r = toy_read_file(t, name, &sealed, &n);
	if (r)
		return r;
	char *plain = malloc(n + 1);
	r = plain ? toy_unseal(t, who, 0, sealed, n, plain) : -ENOMEM;
	free(sealed);
	if (r) {
		free(plain);
		return r;
	}
	*len = n - TOY_SEAL_BYTES;
	plain[*len] = '\0';
	*out = plain;
	return 0;
}
