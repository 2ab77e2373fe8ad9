#include "foliofs/store.h"

#include "store/address.h"
#include "store/fault.h"
#include "store/types.h"

#include "aio/file.h"
#include "base/mem.h"

#include <stdio.h>

#define FAULT "fault+"

static bool is_path(const char *s)
{
	return *s == '/' || !strcmp(s, ".") || !strcmp(s, "..") || !strncmp(s, "./", 2) ||
	       !strncmp(s, "../", 3);
}

static int open_dir(const char *path, const struct nf_store_options *opt, bool create, struct nf_store **out)
{
	enum nf_dir_root root = create ? NF_DIR_IS_MADE : opt->may_be_away ? NF_DIR_MAY_BE_AWAY : NF_DIR_IS_THERE;

	return nf_fail(nf_store_dir_new(path, &nf_file_real, root, out));
}

static int open_file_url(const char *rest, const struct nf_store_options *opt, bool create, struct nf_store **out)
{
	nf_auto_free char *path = NULL;

	if (*rest != '/')
		return nf_fail(-NF_E_STORE_URL);
	int r = nf_percent_decode(rest, strlen(rest), &path);
	if (r)
		return nf_fail(r);
	return nf_fail(open_dir(path, opt, create, out));
}

static int open_mem(const char *name, struct nf_store **out)
{
	for (const char *p = name; *p; p++)
		if (!nf_store_part_ok(p, 1) && !strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZ._", *p))
			return nf_fail(-NF_E_STORE_URL);
	return nf_fail(nf_store_mem_new(name, out));
}

static int open_fault(const char *rest, const struct nf_store_options *opt, bool create,
		      struct nf_store **out)
{
	/* The last '?': rules of a filter further down stay with it. */
	const char *q = strrchr(rest, '?');
	nf_auto_free char *below_address = q ? strndup(rest, (size_t)(q - rest)) : strdup(rest);
	struct nf_store *below;

	if (!below_address)
		return nf_fail(-ENOMEM);
	int r = nf_store_open(below_address, opt, create, &below);
	nf_wipe(below_address, strlen(below_address));
	if (r)
		return nf_fail(r);
	r = nf_store_fault_new(below, q ? q + 1 : "", out);
	if (r)
		nf_store_free(below);
	return nf_fail(r);
}

static int open_net(const char *address, const struct nf_store_options *opt, bool create,
		    struct nf_store **out)
{
	struct nf_address a;
	int r = nf_address_parse(address, &a);

	if (r)
		return nf_fail(r);
	if (!a.tls && !nf_address_loopback(&a) && !opt->insecure_http)
		r = -EPERM;
	else
		r = nf_store_dav_new(&a, opt, create, out);
	nf_address_deinit(&a);
	return nf_fail(r);
}

int nf_store_open(const char *address, const struct nf_store_options *opt, bool create,
		  struct nf_store **out)
{
	static const struct nf_store_options none;

	if (!opt)
		opt = &none;
	if (!strncmp(address, FAULT, strlen(FAULT)))
		return nf_fail(open_fault(address + strlen(FAULT), opt, create, out));
	if (!strncmp(address, "mem:", 4))
		return nf_fail(open_mem(address + 4, out));
	if (!strncmp(address, "file://", 7))
		return nf_fail(open_file_url(address + 7, opt, create, out));
	if (is_path(address))
		return nf_fail(open_dir(address, opt, create, out));
	return nf_fail(open_net(address, opt, create, out));
}

/* An address that does not parse is cut behind its last '@', wherever that is: a
 * password with a '/' in it must not be printed either. */
static char *safe_unparsed(const char *s)
{
	const char *colon = strstr(s, "://");
	const char *from = colon ? colon + 3 : s;
	const char *at = strrchr(from, '@');
	const char *rest = at ? at + 1 : from;
	char *out;

	if (asprintf(&out, "%.*s%.*s", (int)(from - s), s, (int)strcspn(rest, "?#"), rest) < 0)
		return NULL;
	return out;
}

char *nf_store_address_safe(const char *address)
{
	struct nf_address a;
	char *out;

	if (!strncmp(address, FAULT, strlen(FAULT))) {
		const char *rest = address + strlen(FAULT);
		const char *q = strrchr(rest, '?');
		nf_auto_free char *below = q ? strndup(rest, (size_t)(q - rest)) : strdup(rest);
		nf_auto_free char *safe = below ? nf_store_address_safe(below) : NULL;
		if (below)
			nf_wipe(below, strlen(below));
		if (!safe || asprintf(&out, FAULT "%s", safe) < 0)
			return NULL;
		return out;
	}
	if (is_path(address) || !strncmp(address, "mem:", 4) || !strncmp(address, "file://", 7))
		return strdup(address);
	if (nf_address_parse(address, &a))
		return safe_unparsed(address);
	out = nf_address_text(&a);
	nf_address_deinit(&a);
	return out;
}
