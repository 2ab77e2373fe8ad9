/* aio/power.h - does this machine run on battery? */
#ifndef NF_AIO_POWER_H
#define NF_AIO_POWER_H

#include <stdbool.h>

#define NF_POWER_DIR "/sys/class/power_supply"

/* True only if it is said so: nothing that feeds the machine is connected, and a battery of its own is in use.  Reads at most
 * 64 supplies in DIR, each a few short files; may block briefly. */
bool nf_on_battery(const char *dir);

#endif
