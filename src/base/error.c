#include "base/error.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct row {
	const char *name;
	int err;
	const char *text;
};

static const struct row rows[] = {
#define X(name, err, text) { #name, err, text },
	NF_ERRORS(X)
#undef X
};

static const struct row *row_of(int code)
{
	int n = -code - NF_E_BASE - 1;

	if (n < 0 || n >= (int)(sizeof rows / sizeof rows[0]))
		return NULL;
	return &rows[n];
}

int nf_errno(int code)
{
	if (code >= 0)
		return 0;
	const struct row *r = row_of(code);
	if (r)
		return r->err;
	return -code < NF_E_BASE ? -code : EIO;
}

const char *nf_strerror(int code)
{
	if (code >= 0)
		return "success";
	const struct row *r = row_of(code);
	if (r)
		return r->text;
	const char *text = strerrordesc_np(-code);
	return text ? text : "unknown error";
}

const char *nf_error_name(int code)
{
	if (code >= 0)
		return "OK";
	const struct row *r = row_of(code);
	if (r)
		return r->name;
	const char *name = strerrorname_np(-code);
	return name ? name : "UNKNOWN";
}

/* -1: not asked yet.  Racing first calls read the same environment. */
static atomic_int trace_state = -1;

void nf_error_trace(bool on)
{
	atomic_store_explicit(&trace_state, on, memory_order_relaxed);
}

int nf_fail_at(int code, const char *func, const char *file, int line)
{
	if (code >= 0)
		return code;
	int on = atomic_load_explicit(&trace_state, memory_order_relaxed);
	if (on < 0) {
		on = getenv("FOLIOFS_TRACE_FAIL") != NULL;
		atomic_store_explicit(&trace_state, on, memory_order_relaxed);
	}
	if (on)
		fprintf(stderr, "fail: %s at %s %s:%d\n", nf_error_name(code), func, file, line);
	return code;
}
