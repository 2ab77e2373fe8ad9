#include "base/lock.h"

#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const char *const rank_names[] = {
#define X(name) "NF_RANK_" #name,
	NF_RANKS(X)
#undef X
};

const char *nf_rank_name(enum nf_rank rank)
{
	return rank < NF_RANK_NR ? rank_names[rank] : "?";
}

#ifdef NF_LOCK_CHECK
enum { HELD_MAX = 16 };
static _Thread_local const struct nf_lock *held[HELD_MAX];
static _Thread_local int nr_held;

static void note_take(const struct nf_lock *l)
{
	for (int i = 0; i < nr_held; i++) {
		if (held[i]->rank < l->rank)
			continue;
		fprintf(stderr, "lock order: %s taken under %s\n", nf_rank_name(l->rank),
			nf_rank_name(held[i]->rank));
		abort();
	}
	NF_ASSERT(nr_held < HELD_MAX);
	held[nr_held++] = l;
}

static void note_drop(const struct nf_lock *l)
{
	for (int i = nr_held - 1; i >= 0; i--) {
		if (held[i] != l)
			continue;
		held[i] = held[--nr_held];
		return;
	}
	NF_ASSERT(!"dropping a lock this thread does not hold");
}

bool nf_lock_held(const struct nf_lock *l)
{
	for (int i = 0; i < nr_held; i++)
		if (held[i] == l)
			return true;
	return false;
}
#else
static inline void note_take(const struct nf_lock *l) { (void)l; }
static inline void note_drop(const struct nf_lock *l) { (void)l; }
bool nf_lock_held(const struct nf_lock *l)
{
	(void)l;
	return true;
}
#endif

void nf_lock_init(struct nf_lock *l, enum nf_rank rank)
{
	pthread_mutex_init(&l->m, NULL);
	l->rank = rank;
}

void nf_lock_deinit(struct nf_lock *l) { pthread_mutex_destroy(&l->m); }

NF_NO_TSA void nf_lock_take(struct nf_lock *l)
{
	note_take(l);
	int r = pthread_mutex_lock(&l->m);
	NF_ASSERT(r == 0);
}

NF_NO_TSA void nf_lock_drop(struct nf_lock *l)
{
	note_drop(l);
	int r = pthread_mutex_unlock(&l->m);
	NF_ASSERT(r == 0);
}

void nf_cond_init(struct nf_cond *c)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->c, &attr);
	pthread_condattr_destroy(&attr);
}

void nf_cond_deinit(struct nf_cond *c) { pthread_cond_destroy(&c->c); }

void nf_cond_wait(struct nf_cond *c, struct nf_lock *l)
{
	note_drop(l);
	pthread_cond_wait(&c->c, &l->m);
	note_take(l);
}

bool nf_cond_wait_until(struct nf_cond *c, struct nf_lock *l, uint64_t deadline_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(deadline_ns / 1000000000u),
			       .tv_nsec = (long)(deadline_ns % 1000000000u) };
	note_drop(l);
	int r = pthread_cond_timedwait(&c->c, &l->m, &ts);
	note_take(l);
	return r == 0;
}

void nf_cond_signal(struct nf_cond *c) { pthread_cond_signal(&c->c); }
void nf_cond_broadcast(struct nf_cond *c) { pthread_cond_broadcast(&c->c); }
