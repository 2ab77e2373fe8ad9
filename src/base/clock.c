#include "base/clock.h"

#include <stdatomic.h>

static _Atomic uint64_t fake_ns;
static atomic_bool fake_on;
static _Atomic uint64_t fake_asleep_ns;

static uint64_t read_ns(clockid_t clock)
{
	struct timespec ts;
	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * NF_NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t nf_clock_ns(void)
{
	if (atomic_load(&fake_on))
		return atomic_load(&fake_ns);
	return read_ns(CLOCK_MONOTONIC);
}

uint64_t nf_clock_asleep_ns(void)
{
	/* In this order the difference is never negative. */
	uint64_t awake = read_ns(CLOCK_MONOTONIC);
	return read_ns(CLOCK_BOOTTIME) - awake + atomic_load(&fake_asleep_ns);
}

struct timespec nf_clock_real(void)
{
	struct timespec ts;
	if (atomic_load(&fake_on)) {
		uint64_t ns = atomic_load(&fake_ns);
		ts.tv_sec = (time_t)(ns / NF_NS_PER_S);
		ts.tv_nsec = (long)(ns % NF_NS_PER_S);
		return ts;
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	return ts;
}

void nf_clock_fake_set(uint64_t now_ns)
{
	atomic_store(&fake_ns, now_ns);
	atomic_store(&fake_on, true);
}

void nf_clock_fake_end(void) { atomic_store(&fake_on, false); }

void nf_clock_fake_asleep(uint64_t ns) { atomic_store(&fake_asleep_ns, ns); }
