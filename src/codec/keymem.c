#include "codec/keymem.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <string.h>

/* Room for two rings of the greatest number of epochs would be 256 KiB; real rings
 * have a few epochs.  It counts against RLIMIT_MEMLOCK (8 MiB by default, once 64 KiB). */
enum { SECURE_HEAP_BYTES = 256 * 1024, SECURE_HEAP_MIN = 32 };

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_heap(void)
{
	/* Failure leaves CRYPTO_secure_malloc() to the plain heap; 2 means "made but
	 * not locked", which still keeps it out of core dumps. */
	(void)CRYPTO_secure_malloc_init(SECURE_HEAP_BYTES, SECURE_HEAP_MIN);
}

void *nf_keymem_alloc(size_t len)
{
	(void)pthread_once(&once, make_heap);
	void *p = OPENSSL_secure_zalloc(len);
	return p ? p : OPENSSL_zalloc(len);
}

void nf_keymem_free(void *p, size_t len)
{
	/* Looks itself which of the two heaps P is from. */
	OPENSSL_secure_clear_free(p, len);
}
