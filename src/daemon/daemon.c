#include "daemon/daemon.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "codec/keymem.h"
#include "daemon/control.h"
#include "daemon/explain.h"
#include "daemon/hidden.h"
#include "daemon/paths.h"
#include "daemon/unlock.h"
#include "store/link.h"
#include "store/mirror.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { PROBE_TIMEOUT_MS = 10000 };

struct daemon {
	struct nf_daemon_config *c;      /* borrowed */
	struct nf_daemon_report *report; /* borrowed */
	char *safe;                      /* the address without secrets; owned, as all below */
	struct nf_header *header;        /* once the vault is open: who meets the store's only */
	struct nf_slot_key *slot_key;    /* key memory */
	struct nf_store *mirror;         /* the vault's; NULL: none */
	struct nf_vault_paths paths;
	struct nf_vault *vault;
	struct nf_control_env env;
	struct nf_hidden *hidden;
	struct nf_front *front;
	struct nf_control *control;
};

/* --- signals ------------------------------------------------------------------------- */

static struct nf_front *_Atomic signalled; /* what a signal stops */
static _Atomic int signals;

static void on_signal(int sig)
{
	static const char once_more[] = "foliofs: still storing what was written; once more leaves at once\n";
	struct nf_front *f = atomic_load(&signalled);
	int n = atomic_fetch_add(&signals, 1);

	(void)sig;
	if (n == 0 && f)
		nf_front_stop(f);
	else if (n == 1)
		(void)!write(STDERR_FILENO, once_more, sizeof once_more - 1);
	else
		_exit(1);
}

static void catch_signals(struct nf_front *f)
{
	static const int which[] = { SIGTERM, SIGINT, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	atomic_store(&signalled, f);
	for (size_t i = 0; i < NF_ARRAY_LEN(which); i++)
		(void)sigaction(which[i], &sa, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
}

/* --- systemd ------------------------------------------------------------------------- */

/* sd_notify(3) without its library: one datagram to $NOTIFY_SOCKET. */
static void notify_systemd(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	size_t len = path ? strlen(path) : 0;

	if (!len || len >= sizeof a.sun_path || (*path != '/' && *path != '@'))
		return;
	memcpy(a.sun_path, path, len);
	if (*path == '@')
		a.sun_path[0] = '\0'; /* abstract */
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	/* Who does not listen is not told. */
	(void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&a,
		     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
	(void)close(fd);
}

/* --- assembly ------------------------------------------------------------------------ */

static int failed(struct daemon *d, enum nf_daemon_stage stage, int code, const char *sentence)
{
	d->report->code = code;
	d->report->stage = stage;
	(void)snprintf(d->report->text, sizeof d->report->text, "%s", sentence);
	return code;
}

static int explain(struct daemon *d, enum nf_daemon_stage stage, int code, const char *where)
{
	nf_auto_free char *s = nf_explain(code, d->safe ? d->safe : "the store", where);

	return failed(d, stage, code, s ? s : nf_strerror(code));
}

/* Is it still that vault, and what are its keys now?  What this device remembers is updated before they are used. */
static int meet(void *ctx, struct nf_store *store, struct nf_met *met)
{
	struct daemon *d = ctx;
	nf_auto_free char *where = NULL;
	bool writes = !d->c->vault.read_only && !store->read_only;
	struct nf_header *h;

	int r = nf_header_meet(d->c->address, store, d->header, d->slot_key, writes, &h, &where);
	if (r < 0)
		return r;
	nf_header_free(d->header);
	d->header = h;
	*met = (struct nf_met){ .header = h, .removed = !nf_header_has_slot(h, d->slot_key) };
	return 0;
}

/* Into memory that stays here; the configuration's copy is wiped. */
static int take_slot_key(struct daemon *d)
{
	struct nf_unlocked *u = &d->c->unlocked;

	d->slot_key = nf_keymem_alloc(sizeof *d->slot_key);
	if (d->slot_key)
		*d->slot_key = u->slot_key;
	nf_wipe(&u->slot_key, sizeof u->slot_key);
	return d->slot_key ? 0 : nf_fail(-ENOMEM);
}

/* Puts the mirror under *STORE; that it cannot be reached is not known here and does not matter. */
static int add_mirror(struct daemon *d, struct nf_store **store)
{
	struct nf_store *second;

	int r = nf_store_open(d->c->mirror, &d->c->store, true, &second);
	if (r == 0)
		r = nf_link_new(second, &(struct nf_link_options){ .any = true }, &second);
	if (r < 0) {
		nf_store_free(*store);
		return r;
	}
	r = nf_mirror_new(*store, second, store);
	d->mirror = r == 0 ? *store : NULL;
	return r;
}

/* Who waits for what a probe will tell waits no longer than for anything else. */
static uint32_t probe_timeout_ms(const struct nf_daemon_config *c)
{
	return c->store.timeout_ms ? NF_MIN(c->store.timeout_ms, (uint32_t)PROBE_TIMEOUT_MS) : 0;
}

static int open_vault(struct daemon *d)
{
	struct nf_daemon_config *c = d->c;
	nf_auto_free char *where = NULL;
	struct nf_store *store;
	enum nf_daemon_stage stage = NF_STAGE_STORE;

	int r = nf_store_open(c->address, &c->store, false, &store);
	if (r == 0 && c->mirror)
		r = add_mirror(d, &store);
	if (r == 0)
		r = nf_link_new(store, &(struct nf_link_options){ .held = c->offline, .wait_ms = c->link_wait_ms,
								  .probe_timeout_ms = probe_timeout_ms(c) }, &store);
	if (r < 0)
		return explain(d, stage, r, NULL);
	stage = NF_STAGE_HEADER;
	r = nf_header_open(c->address, store, c->unlocked.root_key, &c->unlocked.kept, &d->header, &where);
	nf_wipe(c->unlocked.root_key, sizeof c->unlocked.root_key);
	if (r == 0)
		r = take_slot_key(d);
	if (r == 0)
		r = nf_vault_paths_of(nf_header_volume_id(d->header), c->cache_dir, &d->paths);
	if (r < 0) {
		nf_store_free(store);
		return explain(d, stage, r, where);
	}
	c->vault.store = store; /* taken, whatever comes */
	c->vault.header = d->header;
	c->vault.cache_dir = d->paths.cache;
	c->vault.state_dir = d->paths.state;
	c->vault.meet = meet;
	c->vault.meet_ctx = d;
	c->vault.unmet = c->unlocked.kept && !c->unlocked.fresh;
	r = nf_vault_open(&c->vault, &d->vault);
	return r < 0 ? explain(d, NF_STAGE_VAULT, r, d->paths.state) : 0;
}

static int mount_front(struct daemon *d)
{
	if (!d->c->front.fsname)
		d->c->front.fsname = d->safe;
	d->env = (struct nf_control_env){ .vault = d->vault, .store = d->safe, .mount_point = d->c->front.mount_point,
					  .mirror = d->mirror, .cache_dir = d->paths.cache, .state_dir = d->paths.state };
	int r = nf_hidden_new(nf_vault_fs(d->vault), &d->env, &d->hidden);
	if (r == 0)
		r = nf_front_new(&d->c->front, nf_hidden_fs(d->hidden), &d->front);
	if (r < 0)
		return failed(d, NF_STAGE_MOUNT, r, nf_strerror(r));
	d->env.front = d->front;
	nf_hidden_notify(d->hidden, true);
	r = nf_front_mount(d->front);
	return r < 0 ? failed(d, NF_STAGE_MOUNT, r, nf_front_error(d->front)) : 0;
}

static int listen_control(struct daemon *d)
{
	nf_auto_free struct nf_mount *m = calloc(1, sizeof *m);
	char text[256];

	int r = m ? nf_mount_find(d->c->front.mount_point, true, m) : nf_fail(-ENOMEM);
	if (r == 0)
		r = nf_control_open(m, &d->env, &d->control);
	if (r == 0)
		return 0;
	(void)snprintf(text, sizeof text, "control socket cannot be made: %s; is the runtime directory yours, with mode 0700?",
		       nf_strerror(r));
	return failed(d, NF_STAGE_MOUNT, r, text);
}

/* The one place where the layers are stacked. */
static int assemble(struct daemon *d)
{
	d->safe = nf_store_address_safe(d->c->address);
	int r = d->safe ? 0 : explain(d, NF_STAGE_START, -ENOMEM, NULL);
	if (r == 0)
		r = open_vault(d);
	if (r == 0)
		r = mount_front(d);
	if (r == 0)
		r = listen_control(d);
	return r;
}

static void take_down(struct daemon *d)
{
	nf_control_close(d->control);
	catch_signals(NULL);
	if (d->front) {
		nf_hidden_notify(d->hidden, false);
		nf_front_free(d->front);
	}
	nf_hidden_free(d->hidden);
	nf_vault_close(d->vault);
	nf_header_free(d->header);
	nf_keymem_free(d->slot_key, sizeof *d->slot_key);
	nf_vault_paths_deinit(&d->paths);
	free(d->safe);
}

int nf_daemon_run(struct nf_daemon_config *c, struct nf_daemon_report *report)
{
	struct daemon d = { .c = c, .report = report };

	int r = assemble(&d);
	if (r == 0) {
		catch_signals(d.front);
		report->code = 0;
		report->stage = NF_STAGE_READY;
		c->ready(c->ctx, report);
		notify_systemd("READY=1");
		r = nf_front_loop(d.front);
		if (r < 0)
			(void)failed(&d, NF_STAGE_READY, r, "reading requests from the kernel failed");
		notify_systemd("STOPPING=1");
	}
	take_down(&d);
	return r;
}
