/* aio/thread.h - how this layer starts its threads. */
#ifndef NF_AIO_THREAD_H
#define NF_AIO_THREAD_H

#include <pthread.h>

/* Starts a thread that takes no signals (those belong to the program's main
 * thread) and is called NAME (cut to 15 bytes) in ps and gdb. */
int nf_thread_start(pthread_t *t, const char *name, void *(*fn)(void *arg), void *arg);

#endif
