/* vault/call_xattr.c - extended attributes and ACLs. */
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "vault/acl.h"
#include "vault/calls.h"

#include <sys/xattr.h>

/* The value of NAME on INO, copied to B. 0, NF_TREE_NONE, NF_TREE_WANT. */
static int get_value(struct nf_vault *v, uint64_t ino, const char *name, struct nf_want *w, struct nf_buf *b)
{
	struct nf_vnode *vn = nf_vnode_find(v, ino);
	struct nf_view view = vn ? nf_vnode_view(vn) : nf_vault_view(v);
	size_t len = strlen(name), pos = 0;
	struct nf_key key = nf_key_xattr(ino, nf_ring_name_hash(v->ring, name, len));
	struct nf_xattr_entry e;
	struct nf_val val = { 0 };

	int r = nf_view_lookup(&view, &key, w, &val);
	if (r)
		return r;
	while ((r = nf_xattr_iter(val.p, val.len, &val.self, &pos, &e)) == 0) {
		if (e.name_len != len || memcmp(e.name, name, len))
			continue;
		if (e.is_blob)
			r = nf_fail(-NF_E_FORMAT_UNKNOWN);
		nf_buf_bytes(b, e.value, e.is_blob ? 0 : e.value_len);
		break;
	}
	nf_val_deinit(&val);
	return r ? r : nf_buf_error(b);
}

/* Gives the bytes in B to the caller of a GET or LIST. */
static int answer(struct nf_call *c, struct nf_buf *b)
{
	c->count = b->len;
	if (c->size == 0)
		return 0;
	if (b->len > c->size)
		return nf_fail(-ERANGE);
	free(c->buf);
	c->buf = b->p;
	*b = (struct nf_buf)NF_BUF_INIT;
	return 0;
}

/* What is shown as an attribute and stands nowhere. It is not listed, so that nobody copies it. */
static const struct {
	const char *name;
	int (*value)(struct nf_vault *v, uint64_t ino, struct nf_want *w, struct nf_buf *b);
} shown[] = {
	{ NF_XATTR_PIN, nf_pin_xattr },
	{ NF_XATTR_STATE, nf_state_xattr },
};

static bool is_shown(const char *name)
{
	for (size_t i = 0; i < NF_ARRAY_LEN(shown); i++) {
		if (!strcmp(name, shown[i].name))
			return true;
	}
	return false;
}

static int get_any(struct nf_vault *v, uint64_t ino, const char *name, struct nf_want *w, struct nf_buf *b)
{
	for (size_t i = 0; i < NF_ARRAY_LEN(shown); i++) {
		if (!strcmp(name, shown[i].name))
			return shown[i].value(v, ino, w, b);
	}
	return get_value(v, ino, name, w, b);
}

int nf_do_getxattr(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_buf b = NF_BUF_INIT;
	int r = get_any(v, c->ino, c->name, w, &b);

	if (r == NF_TREE_NONE)
		r = -ENODATA; /* asked for before every write: not worth a trace */
	if (r == 0)
		r = answer(c, &b);
	nf_buf_deinit(&b);
	return r;
}

int nf_do_listxattr(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_vnode *vn = nf_vnode_find(v, c->ino);
	struct nf_view view = vn ? nf_vnode_view(vn) : nf_vault_view(v);
	struct nf_key at = nf_key_xattr(c->ino, 0), end = { .ino = c->ino, .type = NF_ITEM_XATTR + 1 };
	struct nf_buf b = NF_BUF_INIT;
	int r;

	for (;;) {
		struct nf_key key;
		struct nf_val val = { 0 };
		struct nf_xattr_entry e;
		size_t pos = 0;
		r = nf_view_next(&view, &at, &end, w, &key, &val);
		if (r)
			break;
		while ((r = nf_xattr_iter(val.p, val.len, &val.self, &pos, &e)) == 0) {
			nf_buf_bytes(&b, e.name, e.name_len);
			nf_buf_u8(&b, 0);
		}
		nf_val_deinit(&val);
		if (r < 0)
			break;
		at = key;
		at.b++;
	}
	if (r == NF_TREE_NONE)
		r = nf_buf_error(&b);
	if (r == 0)
		r = answer(c, &b);
	nf_buf_deinit(&b);
	return r;
}

static int put_value(struct nf_vault *v, uint64_t ino, const char *name, const void *value, size_t len,
		     bool remove, struct timespec time, struct nf_want *w)
{
	struct nf_op op = {
		.kind = NF_OP_XATTR, .conflict_mode = NF_MODE_STASH, .time = time, .ino = ino,
		.flags = remove ? NF_OPF_REMOVE : 0, .name = name, .name_len = (uint8_t)strlen(name),
		.value = remove ? NULL : value, .value_len = remove ? 0 : (uint16_t)len,
	};
	struct nf_vnode *vn = nf_vnode_find(v, ino);
	if (!vn || !vn->orphan)
		return nf_vault_do(v, &op, w);
	struct nf_apply a = nf_vault_apply(v, v->current, false);
	a.view = nf_vnode_view(vn);
	a.layer = vn->orphan_layer;
	int r = nf_apply(&a, &op, w);
	nf_apply_deinit(&a);
	return r;
}

/* Sets the mode bits of INO as an operation. */
int nf_set_mode(struct nf_vault *v, uint64_t ino, uint32_t mode, struct timespec time, struct nf_want *w)
{
	struct nf_inode_item item;
	struct nf_val val = { 0 };
	int r = nf_vault_inode(v, ino, w, &val, &item);
	if (r)
		return r;
	struct nf_op op = {
		.kind = NF_OP_SETATTR, .conflict_mode = NF_MODE_STASH, .time = time, .ino = ino,
		.mask = NF_OPA_MODE | NF_OPA_CTIME,
		.base = { .mode = item.mode, .ctime = item.ctime },
		.now = { .mode = (item.mode & S_IFMT) | (mode & 07777), .ctime = time },
	};
	nf_val_deinit(&val);
	return nf_vault_do_attr(v, &op, w);
}

static int set_access_acl(struct nf_vault *v, struct nf_call *c, struct nf_want *w, bool *plain)
{
	struct nf_attr attr;
	int r = nf_vault_attr(v, c->ino, w, &attr);
	if (r == 0)
		r = nf_acl_to_mode(c->data, c->size, &attr.mode, plain);
	if (r == 0)
		r = nf_set_mode(v, c->ino, attr.mode, nf_clock_real(), w);
	return r;
}

int nf_do_setxattr(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_buf old = NF_BUF_INIT;
	bool drop = false;
	struct nf_attr attr;

	int r = nf_may_change(v);
	if (r == 0 && is_shown(c->name))
		r = nf_fail(-EPERM);
	if (r == 0 && strlen(c->name) > NF_NAME_MAX)
		r = nf_fail(-ERANGE);
	if (r == 0 && c->size > NF_XATTR_INLINE_MAX)
		r = nf_fail(c->size > 65536 ? -E2BIG : -ENOSPC);
	if (r == 0)
		r = nf_call_keep_data(c);
	if (r == 0)
		r = nf_vault_attr(v, c->ino, w, &attr);
	if (r)
		return r == NF_TREE_NONE ? nf_fail(-ENOENT) : r;
	r = get_value(v, c->ino, c->name, w, &old);
	bool exists = r == 0;
	nf_buf_deinit(&old);
	if (r < 0 || r == NF_TREE_WANT)
		return r;
	if (exists && c->flags & XATTR_CREATE)
		return nf_fail(-EEXIST);
	if (!exists && c->flags & XATTR_REPLACE)
		return nf_fail(-ENODATA);
	r = 0;
	if (!strcmp(c->name, NF_ACL_DEFAULT)) {
		r = S_ISDIR(attr.mode) ? nf_acl_check(c->data, c->size) : nf_fail(-EACCES);
	} else if (!strcmp(c->name, NF_ACL_ACCESS)) {
		r = set_access_acl(v, c, w, &drop);
	} else if (!strncmp(c->name, "user.", 5) && !S_ISREG(attr.mode) && !S_ISDIR(attr.mode)) {
		r = nf_fail(-EPERM);
	}
	if (r)
		return r;
	if (drop && !exists)
		return 0;
	return put_value(v, c->ino, c->name, c->data, c->size, drop, nf_clock_real(), w);
}

int nf_do_removexattr(struct nf_vault *v, struct nf_call *c, struct nf_want *w)
{
	struct nf_buf old = NF_BUF_INIT;

	int r = nf_may_change(v);
	if (r == 0 && is_shown(c->name))
		r = nf_fail(-EPERM);
	if (r == 0)
		r = get_value(v, c->ino, c->name, w, &old);
	nf_buf_deinit(&old);
	if (r == NF_TREE_NONE)
		return -ENODATA;
	return r ? r : put_value(v, c->ino, c->name, NULL, 0, true, nf_clock_real(), w);
}

/* --- what a new object gets from its directory ------------------------------------------------- */

int nf_acl_inherit(struct nf_vault *v, uint64_t dir, uint32_t *mode, uint32_t umask, bool is_dir,
		   struct nf_want *w, struct nf_buf *access, struct nf_buf *inherit)
{
	struct nf_buf def = NF_BUF_INIT;

	if (S_ISLNK(*mode))
		return 0;
	int r = get_value(v, dir, NF_ACL_DEFAULT, w, &def);
	if (r == NF_TREE_NONE) {
		*mode &= ~(umask & 0777);
		r = 0;
	} else if (r == 0) {
		r = nf_acl_create(def.p, def.len, mode, access);
		if (r == 0 && is_dir)
			nf_buf_bytes(inherit, def.p, def.len);
	}
	nf_buf_deinit(&def);
	return r;
}

int nf_acl_give(struct nf_vault *v, uint64_t ino, struct timespec time, const struct nf_buf *access,
		const struct nf_buf *inherit, struct nf_want *w)
{
	int r = 0;

	if (access->len)
		r = put_value(v, ino, NF_ACL_ACCESS, access->p, access->len, false, time, w);
	if (r == 0 && inherit->len)
		r = put_value(v, ino, NF_ACL_DEFAULT, inherit->p, inherit->len, false, time, w);
	return r;
}

/* The access ACL of INO follows a chmod. */
int nf_acl_follow(struct nf_vault *v, uint64_t ino, uint32_t mode, struct timespec time, struct nf_want *w)
{
	struct nf_buf acl = NF_BUF_INIT, now = NF_BUF_INIT;
	int r = get_value(v, ino, NF_ACL_ACCESS, w, &acl);

	if (r == 0) {
		r = nf_acl_chmod(acl.p, acl.len, mode, &now);
		if (r == 0)
			r = put_value(v, ino, NF_ACL_ACCESS, now.p, now.len, false, time, w);
	}
	nf_buf_deinit(&acl);
	nf_buf_deinit(&now);
	return r == NF_TREE_NONE ? 0 : r;
}
