#include "aio/thread.h"

#include "base/error.h"

#include <signal.h>
#include <stdio.h>

int nf_thread_start(pthread_t *t, const char *name, void *(*fn)(void *arg), void *arg)
{
	sigset_t all, old;
	char cut[16];

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = pthread_create(t, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0)
		return nf_fail(-r);
	(void)snprintf(cut, sizeof cut, "%s", name);
	(void)pthread_setname_np(*t, cut); /* only for the eye */
	return 0;
}
