#include "daemon/unlock.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "daemon/paths.h"
#include "store/link.h"
#include "vault/header_store.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* From the beginning; the derivation of the key takes as long or longer. */
enum { ANSWER_MS = 250 };

struct answer {
	int error;
	struct nf_unlocked u;
};

void nf_process_harden(void)
{
	struct rlimit none = { 0, 0 };

	/* Either may be refused in a sandbox; nothing depends on them. */
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	(void)setrlimit(RLIMIT_CORE, &none);
}

static bool is_offline(int r) { return r == -NF_E_OFFLINE || r == -NF_E_TIMEOUT; }

/* Which slot of H, in whatever state, SECRET opens; H gets that slot's key. */
static int find_slot(struct nf_header *h, const struct nf_secret *secret, uint8_t used[NF_SLOT_ID_BYTES])
{
	nf_auto_free void *p = NULL;
	struct nf_header *locked;
	size_t len;

	int r = nf_header_encode(h, &p, &len);
	if (r == 0)
		r = nf_header_decode(p, len, &locked);
	if (r < 0)
		return r;
	r = nf_header_unlock(locked, secret, used);
	if (r == 0)
		nf_header_hand_on_slot(h, locked);
	nf_header_free(locked);
	return r;
}

/* The newest header that NOW's root key opens. */
static int load_by_root(struct nf_store *store, const struct nf_header *now, struct nf_header **out,
			struct nf_header_found *found)
{
	struct nf_header *newest;
	uint8_t root_key[NF_KEY_BYTES];

	nf_header_root_key(now, root_key);
	struct nf_header_key by_root = { .root_key = root_key };
	int r = nf_header_store_load(store, &by_root, &newest, found);
	nf_wipe(root_key, sizeof root_key);
	if (r < 0)
		return r;
	if (found->overtaken) {
		nf_header_free(newest);
		return nf_fail(-NF_E_KEY_CHANGED);
	}
	*out = newest;
	return 0;
}

/* Replaces *H by the newest header that its root key opens. *OLDER: *H was of an older generation. */
static int take_newest(struct nf_store *store, struct nf_header **h, bool *older, struct nf_header_found *found)
{
	struct nf_header *newest;

	int r = load_by_root(store, *h, &newest, found);
	if (r < 0)
		return r;
	*older = nf_header_generation(newest) != nf_header_generation(*h);
	nf_header_free(*h);
	*h = newest;
	return 0;
}

static int open_by(struct nf_store *store, const struct nf_secret *secret, struct nf_header **out,
		   uint8_t used[NF_SLOT_ID_BYTES], struct nf_header_found *found)
{
	struct nf_header_key by_secret = { .secret = secret };
	struct nf_header *h;
	bool older = false;

	int r = nf_header_store_load(store, &by_secret, &h, found);
	if (r < 0)
		return r;
	if (!found->newest)
		r = take_newest(store, &h, &older, found);
	if (r == 0 && (older || used))
		r = find_slot(h, secret, used);
	if (r < 0) {
		nf_header_free(h);
		return r;
	}
	*out = h;
	return 0;
}

int nf_header_open_by(const char *address, struct nf_store *store, const struct nf_secret *secret, struct nf_header **out,
		      uint8_t used[NF_SLOT_ID_BYTES])
{
	struct nf_header_found found;
	struct nf_header *copy;

	int r = open_by(store, secret, out, used, &found);
	if (r == -NF_E_HEADER_MISSING && nf_pin_header(address, &copy) == 0) {
		nf_header_free(copy);
		r = -NF_E_HEADER_LOST;
	}
	return r;
}

/* -EEXIST if STORE has a header that counts beside MINE, which is unlocked. */
static int check_lost(struct nf_store *store, const struct nf_header *mine)
{
	struct nf_header_found found;
	struct nf_header *h;

	int r = load_by_root(store, mine, &h, &found);
	if (r == 0) {
		r = nf_header_generation(h) < nf_header_generation(mine) ? 0 : nf_fail(-EEXIST);
		nf_header_free(h);
		return r;
	}
	/* Whole, but not for our keys: another vault's, or newer. */
	if (r == -NF_E_KEY_WRONG || r == -NF_E_KEY_CHANGED)
		return nf_fail(-EEXIST);
	return r == -NF_E_HEADER_MISSING || r == -NF_E_FORMAT_BAD || r == -NF_E_XFORM_BAD_TAG || r == -NF_E_KDF_LIMIT ? 0 : r;
}

int nf_header_restore(const char *address, struct nf_store *store, const struct nf_secret *secret, struct nf_header **out)
{
	struct nf_header *h;
	struct nf_vault_traces t;

	int r = nf_pin_header(address, &h);
	if (r < 0)
		return r;
	r = nf_header_unlock(h, secret, NULL);
	if (r == 0)
		r = check_lost(store, h);
	if (r == 0)
		r = nf_vault_traces(store, &t);
	if (r == 0 && !t.newest_seq && !t.nr_packs && !store->no_list)
		r = nf_fail(-NF_E_HEADER_MISSING);
	if (r == 0)
		r = nf_header_store_save(store, h, NULL);
	if (r < 0) {
		nf_header_free(h);
		return r;
	}
	*out = h;
	return 0;
}

/* Replaces *K, unlocked, by what the store has now, which SECRET must open too. */
static int take_current(struct nf_store *store, const struct nf_secret *secret, struct nf_header **k,
			struct nf_header_found *found)
{
	uint8_t used[NF_SLOT_ID_BYTES];
	struct nf_header *h;

	int r = load_by_root(store, *k, &h, found);
	if (r < 0)
		return r;
	if (!found->newest)
		r = nf_fail(-NF_E_KEY_WRONG);
	else if (nf_header_same_slots(h, *k))
		nf_header_hand_on_slot(h, *k);
	else
		r = find_slot(h, secret, used);
	if (r < 0) {
		nf_header_free(h);
		return r;
	}
	nf_header_free(*k);
	*k = h;
	return 0;
}

/* The header of a vault that this device knows as *K, by SECRET.  The key is derived from the copy while the server is asked,
 * and a second time only where the server has other slots.  A server that does not answer soon, or not as ours would, is not
 * waited for (*KEPT); one that refuses us, or has no vault, is another matter. */
static int open_known(struct nf_store *store, const struct nf_secret *secret, struct nf_header **k, bool *kept,
		      struct nf_header_found *found)
{
	uint64_t until_ns = nf_clock_ns() + ANSWER_MS * NF_NS_PER_MS;
	struct nf_link_status s;
	struct nf_header *h;

	nf_link_wake(store);
	int mine = nf_header_unlock(*k, secret, NULL), r = mine;
	*kept = nf_link_settle(store, until_ns) != NF_LINK_CONNECTED;
	if (*kept) {
		nf_link_status(store, &s);
		if (s.last_error == -NF_E_HEADER_MISSING)
			return nf_fail(-NF_E_HEADER_LOST);
		return s.last_error == -NF_E_STORE_DENIED ? s.last_error : mine;
	}
	if (r == 0)
		r = take_current(store, secret, k, found);
	if (r < 0 && !is_offline(r)) {
		/* The copy has nothing to say to it: other keys, or another vault. */
		r = open_by(store, secret, &h, NULL, found);
		if (r == 0) {
			nf_header_free(*k);
			*k = h;
		}
	}
	*kept = is_offline(r);
	return *kept ? mine : r == -NF_E_HEADER_MISSING ? nf_fail(-NF_E_HEADER_LOST) : r;
}

/* The copy that this device remembers; -ENOENT: none. */
static int load_kept(const char *address, const struct nf_header_key *key, struct nf_header **out)
{
	struct nf_header *h;

	int r = nf_pin_header(address, &h);
	if (r < 0)
		return -ENOENT;
	r = key->secret ? nf_header_unlock(h, key->secret, NULL) : nf_header_unlock_root(h, key->root_key);
	if (r < 0) {
		nf_header_free(h);
		return r;
	}
	*out = h;
	return 0;
}

/* What the link found, where it is the link that says R. */
static int why(struct nf_store *store, int r)
{
	struct nf_link_status s;

	if (!nf_store_is_link(store))
		return r;
	nf_link_status(store, &s);
	return s.last_error ? s.last_error : r;
}

/* *KEPT, in: do not ask the store; out: it was not asked, or did not answer. */
static int load(const char *address, struct nf_store *store, const struct nf_header_key *key,
		struct nf_header **out, bool *kept, struct nf_header_found *found)
{
	int r = -NF_E_OFFLINE;

	if (!*kept)
		r = key->secret ? open_by(store, key->secret, out, NULL, found) :
				  nf_header_store_load(store, key, out, found);
	if (r == 0 && found->overtaken) {
		nf_header_free(*out);
		*out = NULL;
		r = nf_fail(-NF_E_KEY_CHANGED);
	}
	*kept = is_offline(r);
	if (!*kept)
		return r;
	int r2 = load_kept(address, key, out);
	/* Where nothing is remembered, why the store is away is what counts. */
	return r2 == -ENOENT ? why(store, r) : r2;
}

/* Hands the header just loaded to who opens the vault next, so that it need not be loaded again.  What is wrong with it is
 * found there. */
static bool remembers(const char *address, const struct nf_header *h)
{
	nf_auto_free char *where = NULL;

	return nf_pin_check(address, h, &where) == 0 && nf_pin_save(address, h) == 0;
}

static void child(const char *address, const struct nf_store_options *so, const struct nf_secret *secret, bool offline,
		  struct answer *a)
{
	struct nf_link_options lo = { .held = offline };
	struct nf_header_key key = { .secret = secret };
	struct nf_header_found found = { 0 };
	struct nf_unlocked *u = &a->u;
	struct nf_header *h = NULL;
	struct nf_store *store;

	a->error = nf_store_open(address, so, false, &store);
	if (a->error == 0)
		a->error = nf_link_new(store, &lo, &store);
	if (a->error)
		return;
	if (nf_pin_header(address, &h) == 0)
		a->error = open_known(store, secret, &h, &u->kept, &found);
	else
		a->error = load(address, store, &key, &h, &u->kept, &found);
	if (a->error == 0) {
		nf_header_root_key(h, u->root_key);
		(void)nf_header_slot_key(h, &u->slot_key); /* opened by its secret: it has one */
		u->fresh = !u->kept && remembers(address, h);
		u->kept |= u->fresh;
		/* Who opens the vault next meets its header once more, and writes what headers that differ come to. */
		u->fresh &= !found.needs_write;
	}
	/* The process ends: nobody waits for what hangs. */
	nf_header_free(h);
}

static int read_answer(int fd, struct answer *a)
{
	size_t got = 0;

	while (got < sizeof *a) {
		ssize_t n = read(fd, (char *)a + got, sizeof *a - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return nf_fail(-ENOMEM); /* the child was killed: most likely it had no memory */
		got += (size_t)n;
	}
	return 0;
}

int nf_unlock(const char *address, const struct nf_store_options *so, const struct nf_secret *secret, bool offline,
	      struct nf_unlocked *out)
{
	struct answer a = { 0 };
	int fd[2];

	if (pipe2(fd, O_CLOEXEC))
		return nf_fail(-errno);
	pid_t pid = fork();
	if (pid < 0) {
		int r = -errno;
		(void)close(fd[0]);
		(void)close(fd[1]);
		return nf_fail(r);
	}
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		child(address, so, secret, offline, &a);
		/* Smaller than PIPE_BUF: all or nothing; who waits sees the end of the pipe. */
		ssize_t n = write(fd[1], &a, sizeof a);
		nf_wipe(&a, sizeof a);
		_exit(n == sizeof a ? 0 : 1);
	}
	(void)close(fd[1]);
	int r = read_answer(fd[0], &a);
	(void)close(fd[0]);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (r == 0)
		r = a.error;
	if (r == 0)
		*out = a.u;
	nf_wipe(&a, sizeof a);
	return r;
}

int nf_header_open(const char *address, struct nf_store *store, const uint8_t root_key[NF_KEY_BYTES], bool *kept,
		   struct nf_header **out, char **where)
{
	struct nf_header_key key = { .root_key = root_key };
	struct nf_header_found found = { 0 };
	struct nf_header *h = NULL;

	int r = load(address, store, &key, &h, kept, &found);
	if (r == 0)
		r = nf_pin_check(address, h, where);
	if (r == 0 && !*kept)
		r = nf_pin_save(address, h);
	if (r < 0) {
		nf_header_free(h);
		return r;
	}
	*out = h;
	return 0;
}

/* After a rekey: by the slot's key, and then the newest under that root key. */
static int load_by_slot(struct nf_store *store, const struct nf_slot_key *slot_key, struct nf_header **out,
			struct nf_header_found *found)
{
	struct nf_header_key by_slot = { .slot_key = slot_key };
	struct nf_header *h;
	bool older;

	int r = nf_header_store_load(store, &by_slot, &h, found);
	if (r == 0 && !found->newest)
		r = take_newest(store, &h, &older, found);
	else if (r < 0)
		return r;
	if (r < 0) {
		nf_header_free(h);
		return r;
	}
	*out = h;
	return 0;
}

/* Writes H, merged of headers that differ, as the next generation, unless somebody else is at it. */
static void write_merged(struct nf_store *store, struct nf_header *h)
{
	uint64_t generation = nf_header_generation(h);

	if (generation == UINT32_MAX)
		return;
	nf_header_set_generation(h, generation + 1);
	if (nf_header_store_save_next(store, h, false) < 0)
		nf_header_set_generation(h, generation);
}

int nf_header_meet(const char *address, struct nf_store *store, const struct nf_header *now,
		   const struct nf_slot_key *slot_key, bool writes, struct nf_header **out, char **where)
{
	struct nf_header_found found = { 0 };
	struct nf_header *h = NULL;

	int r = load_by_root(store, now, &h, &found);
	/* The last: a store without listing shows one header, and another root key made it. */
	if ((r == -NF_E_KEY_CHANGED || r == -NF_E_KEY_WRONG || r == -NF_E_XFORM_BAD_TAG) && slot_key) {
		int by_root = r;
		r = load_by_slot(store, slot_key, &h, &found);
		if (r == -NF_E_KEY_WRONG)
			r = by_root;
	}
	if (r < 0)
		return r;
	r = nf_pin_check(address, h, where);
	if (r == 0 && found.needs_write && found.newest && writes)
		write_merged(store, h);
	if (r == 0)
		r = nf_pin_save(address, h);
	if (r < 0) {
		nf_header_free(h);
		return r;
	}
	*out = h;
	return 0;
}
