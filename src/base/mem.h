/* base/mem.h - allocation, scope cleanup, ownership in plain sight. */
#ifndef NF_BASE_MEM_H
#define NF_BASE_MEM_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define NF_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Runs FN(&variable) when the variable's scope ends. */
#define nf_auto(fn) __attribute__((cleanup(fn)))

/* Hands a scope's ownership on: yields *P and leaves NULL behind. */
#define nf_steal(p)                                                                                \
	__extension__({                                                                            \
		__typeof__(*(p)) nf_stolen_ = *(p);                                                \
		*(p) = NULL;                                                                       \
		nf_stolen_;                                                                        \
	})

#define nf_container_of(ptr, type, member)                                                         \
	__extension__({                                                                            \
		__typeof__(((type *)NULL)->member) *nf_mp_ = (ptr);                                \
		(type *)(void *)((char *)nf_mp_ - offsetof(type, member));                         \
	})

static inline void nf_free_p(void *p)
{
	void **pp = p;
	free(*pp);
	*pp = NULL;
}

#define nf_auto_free nf_auto(nf_free_p)

static inline size_t nf_round_up(size_t v, size_t align) { return (v + align - 1) / align * align; }
static inline size_t nf_round_down(size_t v, size_t align) { return v / align * align; }

#define NF_MIN(a, b)                                                                               \
	__extension__({                                                                            \
		__typeof__(a) nf_a_ = (a);                                                         \
		__typeof__(b) nf_b_ = (b);                                                         \
		nf_a_ < nf_b_ ? nf_a_ : nf_b_;                                                     \
	})
#define NF_MAX(a, b)                                                                               \
	__extension__({                                                                            \
		__typeof__(a) nf_a_ = (a);                                                         \
		__typeof__(b) nf_b_ = (b);                                                         \
		nf_a_ > nf_b_ ? nf_a_ : nf_b_;                                                     \
	})

#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
#endif

/* From what others may be writing meanwhile, by design: of each byte it gets the old or the new one. */
static inline void nf_copy_unordered(void *to, const void *from, size_t len)
{
#ifdef __SANITIZE_THREAD__
	AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
#endif
	memcpy(to, from, len);
#ifdef __SANITIZE_THREAD__
	AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
}

/* Zeroes memory that held a secret; the compiler may not drop it. */
static inline void nf_wipe(void *p, size_t len) { explicit_bzero(p, len); }

#endif
