#include "daemon/paths.h"

#include "aio/file.h"
#include "base/error.h"
#include "base/mem.h"
#include "foliofs/store.h"
#include "vault/header_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEX_ID = 2 * NF_VOLUME_ID_BYTES, PIN_FILE_MAX = 4096, HEADER_FILE_MAX = 1 << 20 };

static void hex(const uint8_t *p, size_t len, char *out)
{
	for (size_t i = 0; i < len; i++)
		(void)snprintf(out + 2 * i, 3, "%02x", p[i]);
}

static int unhex(const char *s, uint8_t *out, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned v;
		if (strspn(s + 2 * i, "0123456789abcdef") < 2 || sscanf(s + 2 * i, "%2x", &v) != 1)
			return nf_fail(-NF_E_STATE_BAD);
		out[i] = (uint8_t)v;
	}
	return 0;
}

/* $VAR/foliofs/NAME, or ~/REST/foliofs/NAME. */
static int xdg(const char *var, const char *rest, const char *name, char **out)
{
	const char *base = getenv(var), *home = getenv("HOME");
	int n;

	if (base && *base == '/')
		n = asprintf(out, "%s/foliofs/%s", base, name);
	else if (home && *home == '/')
		n = asprintf(out, "%s/%s/foliofs/%s", home, rest, name);
	else if (geteuid() == 0)
		n = asprintf(out, "/root/%s/foliofs/%s", rest, name);
	else
		return nf_fail(-ENOTDIR);
	return n < 0 ? nf_fail(-ENOMEM) : 0;
}

static int state_path(const char *name, char **out)
{
	return xdg("XDG_STATE_HOME", ".local/state", name, out);
}

void nf_vault_paths_deinit(struct nf_vault_paths *p)
{
	free(p->cache);
	free(p->state);
	*p = (struct nf_vault_paths){ 0 };
}

int nf_vault_paths_of(const uint8_t volume_id[NF_VOLUME_ID_BYTES], const char *cache_dir,
		      struct nf_vault_paths *out)
{
	char id[HEX_ID + 1];
	struct nf_vault_paths p = { 0 };

	hex(volume_id, NF_VOLUME_ID_BYTES, id);
	int r = state_path(id, &p.state);
	if (r == 0 && cache_dir && asprintf(&p.cache, "%s/%s", cache_dir, id) < 0)
		r = nf_fail(-ENOMEM);
	else if (r == 0 && !cache_dir)
		r = xdg("XDG_CACHE_HOME", ".cache", id, &p.cache);
	if (r < 0) {
		nf_vault_paths_deinit(&p);
		return r;
	}
	*out = p;
	return 0;
}

/* --- runtime directory --------------------------------------------------------------- */

char *nf_runtime_candidate(uid_t uid, unsigned i)
{
	const char *xdg_dir = uid == geteuid() ? getenv("XDG_RUNTIME_DIR") : NULL;
	char *s = NULL;
	int n = -1;

	if (i == 0 && (!xdg_dir || *xdg_dir != '/'))
		return nf_runtime_candidate(uid, 1);
	switch (i) {
	case 0: n = asprintf(&s, "%s/foliofs", xdg_dir); break;
	case 1: n = uid ? asprintf(&s, "/run/user/%u/foliofs", uid) : asprintf(&s, "/run/foliofs"); break;
	case 2: n = asprintf(&s, "/tmp/foliofs-%u", uid); break;
	default: break;
	}
	return n < 0 ? NULL : s;
}

int nf_runtime_dir(char **out)
{
	int r = -ENOENT;

	for (unsigned i = 0; i < 3; i++) {
		nf_auto_free char *path = nf_runtime_candidate(geteuid(), i);
		struct stat st;
		if (!path)
			return nf_fail(-ENOMEM);
		if (mkdir(path, 0700) && errno != EEXIST) {
			r = -errno;
			continue;
		}
		if (lstat(path, &st))
			return nf_fail(-errno);
		if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 077)
			return nf_fail(-EPERM);
		*out = nf_steal(&path);
		return 0;
	}
	return nf_fail(r);
}

/* --- the pin ------------------------------------------------------------------------- */

static int store_file(const char *address, char **out)
{
	nf_auto_free char *safe = nf_store_address_safe(address);
	char name[8 + 32 + 1] = "stores/";
	uint8_t hash[32];

	if (!safe)
		return nf_fail(-ENOMEM);
	/* Filters lie in front of a store; they do not make it another one. */
	const char *bare = safe;
	while (!strncmp(bare, "fault+", 6))
		bare += 6;
	int r = nf_sha256(bare, strlen(bare), hash);
	if (r < 0)
		return r;
	hex(hash, 16, name + 7);
	return state_path(name, out);
}

static int slurp_text(const char *path, char **out)
{
	void *p;
	size_t len;
	int r = nf_file_slurp(&nf_file_real, path, PIN_FILE_MAX, &p, &len);

	if (r < 0)
		return r;
	char *s = strndup(p, len);
	free(p);
	if (!s)
		return nf_fail(-ENOMEM);
	*out = s;
	return 0;
}

static int store_volume(const char *address, uint8_t id[NF_VOLUME_ID_BYTES], char **where)
{
	nf_auto_free char *text = NULL;

	int r = store_file(address, where);
	if (r == 0)
		r = slurp_text(*where, &text);
	return r < 0 ? r : unhex(text, id, NF_VOLUME_ID_BYTES);
}

static int pin_load(const char *path, struct nf_header_pin *out)
{
	nf_auto_free char *text = NULL;
	char id[HEX_ID + 1], commitment[65], epoch[65];
	struct nf_header_pin p = { 0 };

	int r = slurp_text(path, &text);
	if (r < 0)
		return r;
	int n = sscanf(text, "volume %32s generation %" SCNu64 " commitment %64s epoch %" SCNu32 " %64s", id, &p.generation,
		       commitment, &p.epoch, epoch);
	if (n != 3 && n != 5)
		return nf_fail(-NF_E_STATE_BAD);
	r = unhex(id, p.volume_id, sizeof p.volume_id);
	if (r == 0)
		r = unhex(commitment, p.commitment, sizeof p.commitment);
	if (r == 0 && n == 5)
		r = unhex(epoch, p.epoch_commitment, sizeof p.epoch_commitment);
	if (r == 0)
		*out = p;
	return r;
}

static int in_state(const uint8_t volume_id[NF_VOLUME_ID_BYTES], const char *name, char **out)
{
	char id[HEX_ID + 1 + 16];

	hex(volume_id, NF_VOLUME_ID_BYTES, id);
	(void)snprintf(id + HEX_ID, sizeof id - HEX_ID, "/%s", name);
	return state_path(id, out);
}

int nf_pin_check(const char *address, const struct nf_header *h, char **where)
{
	nf_auto_free char *by_address = NULL, *pin_path = NULL;
	uint8_t id[NF_VOLUME_ID_BYTES];
	struct nf_header_pin pin;

	int r = store_volume(address, id, &by_address);
	if (r == 0 && memcmp(id, nf_header_volume_id(h), sizeof id))
		r = nf_fail(-NF_E_HEADER_FOREIGN);
	if (r < 0 && r != -ENOENT) {
		*where = nf_steal(&by_address);
		return r;
	}
	r = in_state(nf_header_volume_id(h), "pin", &pin_path);
	if (r == 0)
		r = pin_load(pin_path, &pin);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = nf_header_pin_check(&pin, h);
	if (r < 0)
		*where = nf_steal(&pin_path);
	return r;
}

static int replace_in(const char *path, const void *p, size_t len)
{
	nf_auto_free char *dir = strdup(path);

	if (!dir)
		return nf_fail(-ENOMEM);
	*strrchr(dir, '/') = '\0';
	int r = nf_file_mkdirs(&nf_file_real, dir);
	return r < 0 ? r : nf_file_replace(&nf_file_real, path, p, len);
}

static int save_header(const struct nf_header *h)
{
	nf_auto_free char *path = NULL;
	nf_auto_free void *p = NULL;
	size_t len;

	int r = in_state(nf_header_volume_id(h), "header", &path);
	if (r == 0)
		r = nf_header_encode(h, &p, &len);
	return r < 0 ? r : replace_in(path, p, len);
}

static bool has_header(const struct nf_header *h)
{
	nf_auto_free char *path = NULL;

	return in_state(nf_header_volume_id(h), "header", &path) == 0 &&
	       nf_file_real.stat(&nf_file_real, path, NULL, NULL, NULL) == 0;
}

int nf_pin_save(const char *address, const struct nf_header *h)
{
	nf_auto_free char *path = NULL, *by_address = NULL;
	struct nf_header_pin pin, old;
	char id[HEX_ID + 1], commitment[65], epoch[65], text[384];

	int r = nf_header_pin_of(h, &pin);
	if (r == 0)
		r = in_state(pin.volume_id, "pin", &path);
	if (r == 0)
		r = store_file(address, &by_address);
	if (r < 0)
		return r;
	hex(pin.volume_id, sizeof pin.volume_id, id);
	hex(pin.commitment, sizeof pin.commitment, commitment);
	hex(pin.epoch_commitment, sizeof pin.epoch_commitment, epoch);
	/* A wiped device has the pin still, but no header. */
	if (pin_load(path, &old) || old.generation != pin.generation || old.epoch != pin.epoch ||
	    !has_header(h)) {
		int n = snprintf(text, sizeof text, "volume %s\ngeneration %" PRIu64 "\ncommitment %s\nepoch %" PRIu32 " %s\n", id,
				 pin.generation, commitment, pin.epoch, epoch);
		r = save_header(h);
		if (r == 0)
			r = replace_in(path, text, (size_t)n);
	}
	return r < 0 ? r : replace_in(by_address, id, HEX_ID);
}

int nf_known_volume(const char *address, uint8_t volume_id[NF_VOLUME_ID_BYTES])
{
	nf_auto_free char *by_address = NULL;

	return store_volume(address, volume_id, &by_address);
}

int nf_pin_header(const char *address, struct nf_header **out)
{
	nf_auto_free char *by_address = NULL, *path = NULL;
	nf_auto_free void *p = NULL;
	uint8_t id[NF_VOLUME_ID_BYTES];
	size_t len;

	int r = store_volume(address, id, &by_address);
	if (r == 0)
		r = in_state(id, "header", &path);
	if (r == 0)
		r = nf_file_slurp(&nf_file_real, path, HEADER_FILE_MAX, &p, &len);
	return r < 0 ? r : nf_header_decode(p, len, out);
}
