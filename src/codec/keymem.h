/* codec/keymem.h - memory for keys.
 *
 * From OpenSSL's secure heap (locked, not dumped, guard pages) where the system
 * gives one, from the plain heap when that is full or was refused; wiped when freed
 * either way.  Thread safe. */
#ifndef NF_CODEC_KEYMEM_H
#define NF_CODEC_KEYMEM_H

#include <stddef.h>

/* Zeroed; NULL when out of memory. */
void *nf_keymem_alloc(size_t len);
/* LEN as given to alloc; P may be NULL. */
void nf_keymem_free(void *p, size_t len);

#endif
