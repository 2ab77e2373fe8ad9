#include "vault/acl.h"

#include "base/error.h"

enum { ACL_VERSION = 2, HEADER = 4, ENTRY = 8, ENTRIES_MAX = 500 };
enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 16, OTHER = 32 };

static size_t nr_entries(size_t len) { return (len - HEADER) / ENTRY; }
static uint8_t *entry(uint8_t *acl, size_t i) { return acl + HEADER + i * ENTRY; }

int nf_acl_check(const void *acl, size_t len)
{
	const uint8_t *p = acl;

	if (len < HEADER || (len - HEADER) % ENTRY || nr_entries(len) > ENTRIES_MAX ||
	    nf_get_le32(p) != ACL_VERSION)
		return nf_fail(-EINVAL);
	for (size_t i = 0; i < nr_entries(len); i++) {
		unsigned tag = nf_get_le16(p + HEADER + i * ENTRY);
		if ((tag & (tag - 1)) || tag == 0 || tag > OTHER ||
		    nf_get_le16(p + HEADER + i * ENTRY + 2) > 7)
			return nf_fail(-EINVAL);
	}
	return 0;
}

/* A copy of ACL in B to change; the entries that stand for the class bits. */
struct classes {
	uint8_t *user, *group, *mask, *other;
	bool named;
};

static int open_acl(const void *acl, size_t len, struct nf_buf *b, struct classes *c)
{
	int r = nf_acl_check(acl, len);
	if (r < 0)
		return r;
	nf_buf_bytes(b, acl, len);
	r = nf_buf_error(b);
	if (r < 0)
		return r;
	*c = (struct classes){ 0 };
	for (size_t i = 0; i < nr_entries(len); i++) {
		uint8_t *e = entry(b->p, i);
		switch (nf_get_le16(e)) {
		case USER_OBJ:
			c->user = e;
			break;
		case GROUP_OBJ:
			c->group = e;
			break;
		case MASK:
			c->mask = e;
			break;
		case OTHER:
			c->other = e;
			break;
		default:
			c->named = true;
		}
	}
	return c->user && c->group && c->other ? 0 : nf_fail(-EINVAL);
}

static unsigned perm(const uint8_t *e) { return nf_get_le16(e + 2); }
static void set_perm(uint8_t *e, unsigned p) { nf_put_le16(e + 2, (uint16_t)p); }

int nf_acl_create(const void *def, size_t len, uint32_t *mode, struct nf_buf *access)
{
	struct classes c;
	struct nf_buf b = NF_BUF_INIT;
	uint32_t m = *mode;

	int r = open_acl(def, len, &b, &c);
	if (r < 0) {
		nf_buf_deinit(&b);
		return r;
	}
	uint8_t *group = c.mask ? c.mask : c.group;
	set_perm(c.user, perm(c.user) & (m >> 6 & 7));
	set_perm(group, perm(group) & (m >> 3 & 7));
	set_perm(c.other, perm(c.other) & (m & 7));
	*mode = (m & ~0777u) | perm(c.user) << 6 | perm(group) << 3 | perm(c.other);
	if (c.named || c.mask)
		nf_buf_bytes(access, b.p, b.len);
	nf_buf_deinit(&b);
	return nf_buf_error(access);
}

int nf_acl_to_mode(const void *acl, size_t len, uint32_t *mode, bool *plain)
{
	struct classes c;
	struct nf_buf b = NF_BUF_INIT;

	int r = open_acl(acl, len, &b, &c);
	if (r == 0) {
		*mode = (*mode & ~0777u) | perm(c.user) << 6 |
			perm(c.mask ? c.mask : c.group) << 3 | perm(c.other);
		*plain = !c.named && !c.mask;
	}
	nf_buf_deinit(&b);
	return r;
}

int nf_acl_chmod(const void *acl, size_t len, uint32_t mode, struct nf_buf *out)
{
	struct classes c;

	int r = open_acl(acl, len, out, &c);
	if (r < 0)
		return r;
	set_perm(c.user, mode >> 6 & 7);
	set_perm(c.mask ? c.mask : c.group, mode >> 3 & 7);
	set_perm(c.other, mode & 7);
	return 0;
}
