/* base/clock.h - time, in nanoseconds, from one place so that tests can step it. */
#ifndef NF_BASE_CLOCK_H
#define NF_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define NF_NS_PER_MS UINT64_C(1000000)
#define NF_NS_PER_S UINT64_C(1000000000)

/* Monotonic time; what time-outs and ages are computed from. */
uint64_t nf_clock_ns(void);

/* How long the machine has been suspended since it was started: what nf_clock_ns() does not count. */
uint64_t nf_clock_asleep_ns(void);

/* Wall-clock time; what files are stamped with. */
struct timespec nf_clock_real(void);

/* Tests: while a fake clock is set, nf_clock_ns() returns it and
 * nf_clock_real() is its value since the epoch.  Condition waits are not
 * affected: code under test takes its deadlines from timers it is stepped by. */
void nf_clock_fake_set(uint64_t now_ns);
void nf_clock_fake_end(void);

/* Tests: as if the machine had been suspended for so much longer than it was. */
void nf_clock_fake_asleep(uint64_t ns);

#endif
