#include "base/trace.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lock.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { RING_SLOTS = 4096, SLOT_BYTES = 200 };

struct slot {
	uint64_t number; /* 0: never written */
	uint64_t at_ns;
	enum nf_area area;
	char text[SLOT_BYTES];
};

_Atomic uint32_t nf_trace_mask;

static struct nf_lock lock = NF_LOCK_INIT(NF_RANK_TRACE);
static struct slot *ring; /* allocated when first needed; never freed */
static uint64_t last_number;
static _Atomic int log_level = NF_LOG_INFO;
static _Atomic int log_fd = STDERR_FILENO;

static const char *const area_names[] = {
#define X(id, name) name,
	NF_AREAS(X)
#undef X
};

void nf_trace_at(enum nf_area area, const char *fmt, ...)
{
	va_list ap;
	uint64_t now = nf_clock_ns();

	nf_lock_take(&lock);
	if (!ring)
		ring = calloc(RING_SLOTS, sizeof *ring);
	if (ring) {
		struct slot *s = &ring[++last_number % RING_SLOTS];
		s->number = last_number;
		s->at_ns = now;
		s->area = area;
		va_start(ap, fmt);
		vsnprintf(s->text, sizeof s->text, fmt, ap);
		va_end(ap);
	}
	nf_lock_drop(&lock);
}

static int area_bits(const char *name, size_t len, uint32_t *bits)
{
	if (len == 3 && !memcmp(name, "all", 3)) {
		*bits = (1u << NF_AREA_NR) - 1;
		return 0;
	}
	for (unsigned i = 0; i < NF_AREA_NR; i++) {
		if (strlen(area_names[i]) == len && !memcmp(area_names[i], name, len)) {
			*bits = 1u << i;
			return 0;
		}
	}
	return nf_fail(-NF_E_OPTION);
}

int nf_trace_set(const char *spec)
{
	uint32_t mask = atomic_load(&nf_trace_mask);

	while (*spec) {
		bool off = *spec == '-';
		spec += off;
		size_t len = strcspn(spec, ",");
		uint32_t bits = 0;
		int r = area_bits(spec, len, &bits);
		if (r < 0)
			return r;
		mask = off ? mask & ~bits : mask | bits;
		spec += len;
		spec += *spec == ',';
	}
	atomic_store(&nf_trace_mask, mask);
	return 0;
}

void nf_trace_read(struct nf_text *t, uint64_t *since)
{
	nf_lock_take(&lock);
	uint64_t first = last_number > RING_SLOTS ? last_number - RING_SLOTS + 1 : 1;
	if (first <= *since)
		first = *since + 1;
	for (uint64_t n = first; ring && n <= last_number; n++) {
		const struct slot *s = &ring[n % RING_SLOTS];
		nf_textf(t, "%" PRIu64 " %" PRIu64 ".%06" PRIu64 " %s: %s\n", s->number,
			 s->at_ns / NF_NS_PER_S, s->at_ns % NF_NS_PER_S / 1000, area_names[s->area],
			 s->text);
	}
	*since = last_number;
	nf_lock_drop(&lock);
}

void nf_log_set(enum nf_log_level level) { atomic_store(&log_level, (int)level); }
void nf_log_to(int fd) { atomic_store(&log_fd, fd); }

void nf_log(enum nf_log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int fd = atomic_load(&log_fd);

	if (fd < 0 || (int)level > atomic_load(&log_level))
		return;
	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof line - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	size_t len = NF_MIN((size_t)n, sizeof line - 2);
	line[len++] = '\n';
	/* A log that cannot be written has nowhere to complain. */
	(void)!write(fd, line, len);
}

_Noreturn void nf_assert_failed(const char *expr, const char *func, const char *file, int line)
{
	struct nf_text t = NF_TEXT_INIT;
	uint64_t since = 0;

	fprintf(stderr, "assertion failed: %s at %s %s:%d\n", expr, func, file, line);
	/* The lock may be ours: read only when it is free. */
	if (pthread_mutex_trylock(&lock.m) == 0) {
		pthread_mutex_unlock(&lock.m);
		nf_trace_read(&t, &since);
		fputs(nf_text_str(&t), stderr);
	}
	abort();
}
