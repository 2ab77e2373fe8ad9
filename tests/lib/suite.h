/* tests/lib/suite.h - what every check program has: main(), TAP, loops by seed.
 *
 * With FOLIOFS_CHECK_PLAIN=1 in the environment Check's own summary is printed instead of TAP.
 *
 * With FOLIOFS_CHECK_PLAIN in the environment a program prints Check's own summary
 * instead of TAP.
 *
 * A test program defines `static void suite_add(Suite *s)` and ends with
 * NF_SUITE("layer/name").  Asserts in tests are on in every build type. */
#ifndef NF_TESTS_SUITE_H
#define NF_TESTS_SUITE_H

#undef NDEBUG
#include <check.h>
#include <stdbool.h>
#include <stdbool.h>
#include <stdlib.h>

#define NF_SUITE(name)                                                                             \
	int main(void)                                                                             \
	{                                                                                          \
		Suite *s = suite_create(name);                                                     \
		suite_add(s);                                                                      \
		SRunner *r = srunner_create(s);                                                    \
		bool plain = getenv("FOLIOFS_CHECK_PLAIN") != NULL;                                \
		if (!plain)                                                                        \
			srunner_set_tap(r, "-");                                                   \
		srunner_run_all(r, plain ? CK_NORMAL : CK_SILENT);                                 \
		int failed = srunner_ntests_failed(r);                                             \
		srunner_free(r);                                                                   \
		return failed ? EXIT_FAILURE : EXIT_SUCCESS;                                       \
	}

static inline TCase *nf_case(Suite *s, const char *name, double timeout_s)
{
	TCase *tc = tcase_create(name);
	tcase_set_timeout(tc, timeout_s);
	suite_add_tcase(s, tc);
	return tc;
}

#endif
