/* vault/quota.c - the room on the server, for statfs.
 *
 * statfs answers with what is known and never waits.  Where that is too old the committer asks when it has nothing else to
 * do: a mount whose room nobody wants to know sends nothing for it.  Nothing is asked with sync=manual, nor while the
 * server is away. */
#include "base/error.h"
#include "base/trace.h"
#include "vault/commit.h"

enum {
	FRESH_MS = 60000,
	SILENT_MS = 3600000, /* a server that does not say is asked again after this */
};

bool nf_quota_due(const struct nf_vault *v, uint64_t now_ns)
{
	return v->quota_wanted && !v->manual && !v->away && now_ns >= v->quota_next_ns;
}

uint64_t nf_quota_room(struct nf_vault *v)
{
	v->quota_wanted = true;
	if (nf_quota_due(v, nf_clock_ns()))
		nf_cond_broadcast(&v->changed);
	return v->have_quota ? v->quota_free_bytes : UINT64_C(1) << 50;
}

void nf_quota_ask(struct nf_vault *v)
{
	uint64_t used = 0, room = 0;
	int r = v->store->ops->quota ? v->store->ops->quota(v->store, &used, &room) : -NF_E_STORE_PROTOCOL;
	bool silent = r == -NF_E_STORE_PROTOCOL;

	nf_trace(COMMIT, "quota free=%llu err=%s", (unsigned long long)room, r < 0 ? nf_error_name(r) : "none");
	nf_lock_take(&v->ns);
	v->quota_wanted = false;
	v->quota_next_ns = nf_clock_ns() + (silent ? SILENT_MS : FRESH_MS) * NF_NS_PER_MS;
	/* Not reached: what was known holds on. */
	if (r == 0)
		v->quota_free_bytes = room;
	if (r == 0 || silent)
		v->have_quota = r == 0;
	nf_lock_drop(&v->ns);
}
