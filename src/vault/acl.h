/* vault/acl.h - POSIX ACLs as the kernel stores them in system.posix_acl_* : u32 version 2, then entries of u16 tag,
 * u16 permissions, u32 id, little-endian. */
#ifndef NF_VAULT_ACL_H
#define NF_VAULT_ACL_H

#include "base/buf.h"

#define NF_ACL_ACCESS "system.posix_acl_access"
#define NF_ACL_DEFAULT "system.posix_acl_default"

/* 0 or -EINVAL. */
int nf_acl_check(const void *acl, size_t len);
/* What a new object inherits from the default ACL DEF of its directory: *MODE is cut down, *ACCESS receives its access ACL
 * (empty: *MODE says it all). */
int nf_acl_create(const void *def, size_t len, uint32_t *mode, struct nf_buf *access);
/* The permission bits that access ACL says: *MODE is changed; *PLAIN: the bits say it all. */
int nf_acl_to_mode(const void *acl, size_t len, uint32_t *mode, bool *plain);
/* The ACL after chmod to MODE. */
int nf_acl_chmod(const void *acl, size_t len, uint32_t mode, struct nf_buf *out);

#endif
