/* base/assert.h - assertions about our own state, on in every build.
 *
 * NF_ASSERT stays in release builds: a daemon that holds the only copy of
 * somebody's work stops rather than goes on from an impossible state.
 * NF_ASSERT_PARANOID is for checks that cost more than the work they guard and
 * exists only with -Dparanoid=true.  Neither is ever used on data that came
 * from the disk, the network or the kernel.
 */
#ifndef NF_BASE_ASSERT_H
#define NF_BASE_ASSERT_H

_Noreturn void nf_assert_failed(const char *expr, const char *func, const char *file, int line);

#define NF_ASSERT(e)                                                                               \
	((e) ? (void)0 : nf_assert_failed(#e, __func__, __FILE__, __LINE__))

#ifdef NF_PARANOID
#define NF_ASSERT_PARANOID(e) NF_ASSERT(e)
#else
#define NF_ASSERT_PARANOID(e) ((void)sizeof(e))
#endif

#endif
