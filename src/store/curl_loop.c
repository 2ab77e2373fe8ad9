#include "store/curl_loop.h"

#include "aio/thread.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lock.h"
#include "base/mem.h"

#include <stdatomic.h>

enum {
	/* Connections that BACKGROUND leaves alone. */
	RESERVED = 2,
	CONNECTIONS_MAX = 64,
	/* A longer sleep of the loop gains nothing. */
	POLL_MAX_MS = 60000,
	/* How much of a second a bucket holds: short bursts, smooth rate. */
	BUCKET_PARTS = 4,
	/* While paused for bandwidth the loop looks this often. */
	PAUSE_NS = 20000000,
};

/* A token bucket; may go into debt by one piece. */
struct bucket {
	uint64_t rate_bytes; /* per second; 0: no limit */
	int64_t tokens;
	uint64_t at_ns;
};

/* I set before publication;  l lock;  T the loop's thread only */
struct nf_curl_loop {
	struct nf_lock lock;
	struct nf_list incoming; /* l */
	bool stop;               /* l */
	bool cancels;            /* l  some transfer was cancelled */
	pthread_t thread;        /* I */
	bool thread_runs;        /* I */
	CURLM *multi;            /* T, but for curl_multi_wakeup() */
	nf_curl_setup_fn setup;  /* I */
	void *ctx;               /* I */
	unsigned connections;    /* I */
	struct nf_list queue[NF_STORE_BACKGROUND + 1]; /* T */
	struct nf_list sleeping; /* T */
	struct nf_list active;   /* T */
	unsigned nr_active;      /* T */
	size_t nr_all;           /* T  queued, sleeping and active */
	CURL *spare[CONNECTIONS_MAX]; /* T */
	unsigned nr_spare;
	struct bucket up, down; /* T */
};

/* -- bandwidth -- */

static bool bucket_open(struct bucket *b)
{
	if (!b->rate_bytes)
		return true;
	uint64_t now_ns = nf_clock_ns();
	int64_t full = (int64_t)NF_MAX(b->rate_bytes / BUCKET_PARTS, (uint64_t)1);
	uint64_t passed_ns = NF_MIN(now_ns - b->at_ns, NF_NS_PER_S);
	int64_t more = (int64_t)((__uint128_t)passed_ns * b->rate_bytes / NF_NS_PER_S);
	if (more) {
		b->tokens = NF_MIN(full, b->tokens + more);
		b->at_ns = now_ns;
	}
	return b->tokens > 0;
}

static void bucket_take(struct bucket *b, size_t n)
{
	if (b->rate_bytes)
		b->tokens -= (int64_t)n;
}

/* Waiting for bandwidth is our own doing: it counts as progress. */
static void pause_xfer(struct nf_xfer *x)
{
	x->paused = true;
	x->progress_ns = nf_clock_ns();
}

size_t nf_curl_loop_allow_up(struct nf_xfer *x, size_t want)
{
	struct bucket *b = &x->loop->up;

	if (!bucket_open(b)) {
		pause_xfer(x);
		return 0;
	}
	size_t n = b->rate_bytes ? NF_MIN(want, (size_t)b->tokens) : want;
	bucket_take(b, n);
	return n;
}

bool nf_curl_loop_allow_down(struct nf_xfer *x, size_t len)
{
	struct bucket *b = &x->loop->down;

	if (!bucket_open(b)) {
		pause_xfer(x);
		return false;
	}
	bucket_take(b, len);
	return true;
}

/* -- transfers -- */

static int on_progress(void *arg, curl_off_t dltotal, curl_off_t dlnow, curl_off_t ultotal,
		       curl_off_t ulnow)
{
	struct nf_xfer *x = arg;

	(void)dltotal;
	(void)ultotal;
	if (dlnow + ulnow != x->moved_bytes) {
		x->moved_bytes = dlnow + ulnow;
		x->progress_ns = nf_clock_ns();
	}
	return 0;
}

static int easy_take(struct nf_curl_loop *l, CURL **out)
{
	if (l->nr_spare) {
		*out = l->spare[--l->nr_spare];
		return 0;
	}
	CURL *easy = curl_easy_init();
	if (!easy)
		return nf_fail(-ENOMEM);
	int r = l->setup(easy, l->ctx);
	if (r) {
		curl_easy_cleanup(easy);
		return nf_fail(r);
	}
	curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
	*out = easy;
	return 0;
}

/* Tells the owner; X may be gone afterwards unless it goes again. */
static void finish(struct nf_curl_loop *l, struct nf_xfer *x, CURLcode code, int why)
{
	CURL *easy = x->easy;

	nf_list_del(&x->link);
	x->again = false;
	l->nr_all--;
	if (easy)
		l->nr_active--;
	x->finished(x, code, why);
	if (easy)
		l->spare[l->nr_spare++] = easy;
}

static void end_active(struct nf_curl_loop *l, struct nf_xfer *x, CURLcode code, int why)
{
	curl_multi_remove_handle(l->multi, x->easy);
	finish(l, x, code, why);
}

static void start_one(struct nf_curl_loop *l, struct nf_xfer *x)
{
	CURL *easy = NULL;
	int r = easy_take(l, &easy);

	if (r) {
		finish(l, x, CURLE_OK, r);
		return;
	}
	nf_list_del(&x->link);
	nf_list_add_tail(&l->active, &x->link);
	l->nr_active++;
	x->easy = easy;
	x->started = true;
	x->paused = false;
	x->moved_bytes = 0;
	x->progress_ns = nf_clock_ns();
	curl_easy_setopt(easy, CURLOPT_PRIVATE, x);
	curl_easy_setopt(easy, CURLOPT_XFERINFODATA, x);
	r = x->start(x, easy);
	if (!r && curl_multi_add_handle(l->multi, easy) != CURLM_OK)
		r = -ENOMEM;
	if (r)
		finish(l, x, CURLE_OK, r);
}

static bool may_start(const struct nf_curl_loop *l, enum nf_store_priority p)
{
	unsigned limit = l->connections;

	if (p == NF_STORE_BACKGROUND)
		limit = limit > RESERVED ? limit - RESERVED : 1;
	return l->nr_active < limit;
}

static void start_queued(struct nf_curl_loop *l)
{
	for (int p = 0; p <= NF_STORE_BACKGROUND; p++)
		while (!nf_list_empty(&l->queue[p]) && may_start(l, (enum nf_store_priority)p))
			start_one(l, nf_list_first(&l->queue[p], struct nf_xfer, link));
}

void nf_curl_loop_again(struct nf_xfer *x, uint64_t delay_ns)
{
	struct nf_curl_loop *l = x->loop;

	x->easy = NULL;
	x->again = true;
	l->nr_all++;
	if (delay_ns) {
		x->wake_ns = nf_clock_ns() + delay_ns;
		nf_list_add_tail(&l->sleeping, &x->link);
	} else {
		nf_list_add_head(&l->queue[x->priority], &x->link);
	}
}

static void take_incoming(struct nf_curl_loop *l, bool *stop, bool *cancels)
{
	struct nf_list fresh;

	nf_list_init(&fresh);
	nf_lock_take(&l->lock);
	nf_list_splice(&fresh, &l->incoming);
	*stop = l->stop;
	*cancels = l->cancels;
	l->cancels = false;
	nf_lock_drop(&l->lock);
	nf_list_for_each_safe(x, &fresh, struct nf_xfer, link) {
		nf_list_del(&x->link);
		nf_list_add_tail(&l->queue[x->priority], &x->link);
		l->nr_all++;
	}
}

/* Ends the first cancelled transfer of LIST.  The owner's callback may change the
 * list, so the search starts again afterwards. */
static bool cancel_first(struct nf_curl_loop *l, struct nf_list *list)
{
	nf_list_for_each(x, list, struct nf_xfer, link) {
		if (!x->cancelled)
			continue;
		if (x->easy)
			end_active(l, x, CURLE_OK, -NF_E_CANCELLED);
		else
			finish(l, x, CURLE_OK, -NF_E_CANCELLED);
		return true;
	}
	return false;
}

static void do_cancels(struct nf_curl_loop *l)
{
	for (int p = 0; p <= NF_STORE_BACKGROUND; p++)
		while (cancel_first(l, &l->queue[p]))
			;
	while (cancel_first(l, &l->sleeping))
		;
	while (cancel_first(l, &l->active))
		;
}

static uint64_t deadline_of(const struct nf_xfer *x)
{
	return x->progress_ns + (uint64_t)x->timeout_ms * NF_NS_PER_MS;
}

/* Moves whose time has come to their queues; returns when the next one's comes. */
static uint64_t wake_sleepers(struct nf_curl_loop *l)
{
	uint64_t now_ns = nf_clock_ns(), next_ns = now_ns + POLL_MAX_MS * NF_NS_PER_MS;

	nf_list_for_each_safe(x, &l->sleeping, struct nf_xfer, link) {
		if (x->wake_ns > now_ns) {
			next_ns = NF_MIN(next_ns, x->wake_ns);
			continue;
		}
		nf_list_del(&x->link);
		nf_list_add_tail(&l->queue[x->priority], &x->link);
	}
	return next_ns;
}

static void resume_if_allowed(struct nf_curl_loop *l, struct nf_xfer *x)
{
	x->progress_ns = nf_clock_ns();
	if (!bucket_open(&l->up) || !bucket_open(&l->down))
		return;
	x->paused = false;
	/* May call the body callbacks, which may pause again. */
	curl_easy_pause(x->easy, CURLPAUSE_CONT);
}

/* Ends the first transfer that stands still (true: look again), lets paused ones go
 * on.  *NEXT_NS becomes at most when to look again. */
static bool watch_active(struct nf_curl_loop *l, uint64_t *next_ns)
{
	uint64_t now_ns = nf_clock_ns();

	nf_list_for_each(x, &l->active, struct nf_xfer, link) {
		if (x->paused)
			resume_if_allowed(l, x);
		if (x->paused)
			*next_ns = NF_MIN(*next_ns, now_ns + PAUSE_NS);
		if (deadline_of(x) <= now_ns) {
			end_active(l, x, CURLE_OK, -NF_E_TIMEOUT);
			return true;
		}
		*next_ns = NF_MIN(*next_ns, deadline_of(x));
	}
	return false;
}

static void do_messages(struct nf_curl_loop *l)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(l->multi, &left))) {
		char *p = NULL;
		if (m->msg != CURLMSG_DONE)
			continue;
		CURLcode code = m->data.result;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &p);
		end_active(l, (struct nf_xfer *)(void *)p, code, 0);
	}
}

static void *loop_thread(void *arg)
{
	struct nf_curl_loop *l = arg;
	bool stop, cancels;
	int running;

	for (;;) {
		take_incoming(l, &stop, &cancels);
		if (cancels)
			do_cancels(l);
		if (stop && !l->nr_all)
			return NULL;
		uint64_t next_ns = wake_sleepers(l);
		start_queued(l);
		curl_multi_perform(l->multi, &running);
		unsigned before = l->nr_active;
		do_messages(l);
		/* What ended made room, and its owner may have queued more. */
		if (l->nr_active != before || watch_active(l, &next_ns))
			continue;
		uint64_t now_ns = nf_clock_ns();
		uint64_t wait_ms = next_ns > now_ns ? (next_ns - now_ns) / NF_NS_PER_MS + 1 : 0;
		curl_multi_poll(l->multi, NULL, 0, (int)NF_MIN(wait_ms, (uint64_t)POLL_MAX_MS), NULL);
	}
}

void nf_curl_loop_submit(struct nf_curl_loop *l, struct nf_xfer *x)
{
	NF_ASSERT(x->priority >= 0 && x->priority <= NF_STORE_BACKGROUND);
	x->loop = l;
	nf_list_init(&x->link);
	nf_lock_take(&l->lock);
	NF_ASSERT(!l->stop);
	nf_list_add_tail(&l->incoming, &x->link);
	nf_lock_drop(&l->lock);
	curl_multi_wakeup(l->multi);
}

void nf_curl_loop_cancel(struct nf_curl_loop *l, struct nf_xfer *x)
{
	x->cancelled = true;
	nf_lock_take(&l->lock);
	l->cancels = true;
	nf_lock_drop(&l->lock);
	curl_multi_wakeup(l->multi);
}

void nf_curl_loop_free(struct nf_curl_loop *l)
{
	if (!l)
		return;
	if (l->thread_runs) {
		nf_lock_take(&l->lock);
		l->stop = true;
		nf_lock_drop(&l->lock);
		curl_multi_wakeup(l->multi);
		pthread_join(l->thread, NULL);
	}
	while (l->nr_spare)
		curl_easy_cleanup(l->spare[--l->nr_spare]);
	if (l->multi)
		curl_multi_cleanup(l->multi);
	nf_lock_deinit(&l->lock);
	free(l);
}

int nf_curl_loop_new(unsigned connections, uint64_t up_bytes_per_s, uint64_t down_bytes_per_s,
		     nf_curl_setup_fn setup, void *ctx, struct nf_curl_loop **out)
{
	if (!connections)
		return nf_fail(-EINVAL);
	struct nf_curl_loop *l = calloc(1, sizeof *l);
	if (!l)
		return nf_fail(-ENOMEM);
	nf_lock_init(&l->lock, NF_RANK_STORE);
	nf_list_init(&l->incoming);
	nf_list_init(&l->sleeping);
	nf_list_init(&l->active);
	for (int p = 0; p <= NF_STORE_BACKGROUND; p++)
		nf_list_init(&l->queue[p]);
	l->setup = setup;
	l->ctx = ctx;
	l->connections = NF_MIN(connections, (unsigned)CONNECTIONS_MAX);
	l->up.rate_bytes = up_bytes_per_s;
	l->down.rate_bytes = down_bytes_per_s;
	l->multi = curl_multi_init();
	int r = l->multi ? 0 : -ENOMEM;
	if (!r) {
		curl_multi_setopt(l->multi, CURLMOPT_MAXCONNECTS, (long)l->connections);
		r = nf_thread_start(&l->thread, "store-http", loop_thread, l);
		l->thread_runs = r >= 0;
	}
	if (r < 0) {
		nf_curl_loop_free(l);
		return nf_fail(r);
	}
	*out = l;
	return 0;
}
