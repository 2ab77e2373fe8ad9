/* base/error.h - raising errors so that a failure leaves a trace.
 *
 * nf_fail(r) returns r unchanged and, when r is negative and failure tracing
 * is on (FOLIOFS_TRACE_FAIL in the environment, or nf_error_trace(true)),
 * prints where it passed.  It is wrapped where a code is raised and passed.
 */
#ifndef NF_BASE_ERROR_H
#define NF_BASE_ERROR_H

#include "foliofs/error.h"
#include <stdbool.h>

int nf_fail_at(int code, const char *func, const char *file, int line);
void nf_error_trace(bool on);

#define nf_fail(r) nf_fail_at((r), __func__, __FILE__, __LINE__)

#endif
