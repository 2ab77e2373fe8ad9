/* vault/snapshot.c - retained cuts of the whole vault.
 *
 *   create   commit everything; the head that shows it is a cut; an operation names it; commit that
 *   look at  open the vault read-only with the root that the name stands for
 *
 * A snapshot is an item of the tree that holds a head's root, so it costs an item, travels with merges as any other
 * operation, and keeps what the root reaches from the collector. */
#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"
#include "vault/vault_i.h"

#include <stdio.h>

static struct nf_key key_of(struct nf_vault *v, const char *name)
{
	return (struct nf_key){ .type = NF_ITEM_SNAPSHOT, .a = nf_ring_name_hash(v->ring, name, strlen(name)) };
}

static void describe(const struct nf_snapshot_entry *e, struct nf_snapshot *out)
{
	memcpy(out->name, e->name, e->name_len);
	out->name[e->name_len] = '\0';
	for (int i = 0; i < NF_SNAPSHOT_ID_BYTES; i++)
		(void)snprintf(out->id + 2 * i, 3, "%02x", e->rand[i]);
	out->head_seq = e->seq;
	out->time_s = e->time_s;
}

/* The first item at or after FROM; blocks for missing nodes. */
static int next_item(struct nf_vault *v, const struct nf_key *from, struct nf_key *key, struct nf_val *val)
{
	const struct nf_key to = { .type = NF_ITEM_SNAPSHOT + 1 };
	struct nf_want w = NF_WANT_INIT;
	int r;

	for (;;) {
		nf_lock_take(&v->ns);
		struct nf_view view = nf_vault_view(v);
		r = nf_view_next(&view, from, &to, &w, key, val);
		nf_lock_drop(&v->ns);
		if (r != NF_TREE_WANT)
			break;
		r = v->src.load(v->src.ctx, &w);
		if (r < 0)
			break;
	}
	nf_want_deinit(&w);
	return r;
}

int nf_vault_snapshots(struct nf_vault *v, bool (*each)(void *ctx, const struct nf_snapshot *s), void *ctx)
{
	struct nf_key at = { .type = NF_ITEM_SNAPSHOT }, key;
	struct nf_snapshot_entry e;
	struct nf_snapshot s;
	int r;

	for (;;) {
		struct nf_val val = { 0 };
		size_t pos = 0;
		r = next_item(v, &at, &key, &val);
		if (r)
			break;
		while ((r = nf_snapshot_iter(val.p, val.len, &val.self, &pos, &e)) == 0) {
			describe(&e, &s);
			if (!each(ctx, &s))
				break;
		}
		nf_val_deinit(&val);
		if (r <= 0)
			return r;
		at = key;
		at.b++;
	}
	return r == NF_TREE_NONE ? 0 : r;
}

struct chosen {
	const char *name, *id;
	struct nf_snapshot_entry e; /* name borrowed from `name` */
	unsigned nr;
};

/* Is E what NAME (with the beginning of an id, if any) means? */
static bool is_meant(const struct chosen *c, const struct nf_snapshot_entry *e)
{
	struct nf_snapshot s;

	describe(e, &s);
	return !strcmp(s.name, c->name) && (!c->id || !strncmp(s.id, c->id, strlen(c->id)));
}

/* Fills C->e. */
static int choose(struct nf_vault *v, struct chosen *c)
{
	struct nf_key from = key_of(v, c->name), key;
	struct nf_snapshot_entry e;
	struct nf_val val = { 0 };
	size_t pos = 0;

	int r = next_item(v, &from, &key, &val);
	if (r < 0)
		return r;
	if (r || key.a != from.a)
		goto out;
	while ((r = nf_snapshot_iter(val.p, val.len, &val.self, &pos, &e)) == 0) {
		if (!is_meant(c, &e))
			continue;
		c->e = e;
		c->e.name = c->name;
		c->nr++;
	}
out:
	nf_val_deinit(&val);
	if (r < 0)
		return r;
	return c->nr == 1 ? 0 : nf_fail(c->nr ? -NF_E_SNAPSHOT_AMBIGUOUS : -NF_E_SNAPSHOT_NONE);
}

static int record(struct nf_vault *v, const struct nf_snapshot_entry *e, bool forget)
{
	struct nf_op op = { .kind = NF_OP_SNAPSHOT, .conflict_mode = NF_MODE_STASH, .time = nf_clock_real(),
			    .flags = forget ? NF_OPF_FORGET : 0, .snapshot = *e };

	return nf_vault_do_waiting(v, &op);
}

int nf_vault_snapshot_create(struct nf_vault *v, const char *name, _Atomic bool *stop)
{
	struct chosen c = { .name = name };

	if (v->read_only)
		return nf_fail(-EROFS);
	if (!nf_name_is_valid(name, strlen(name)))
		return nf_fail(-EINVAL);
	int r = choose(v, &c);
	if (r == 0 || r == -NF_E_SNAPSHOT_AMBIGUOUS)
		return nf_fail(-EEXIST);
	if (r != -NF_E_SNAPSHOT_NONE)
		return r;
	r = nf_vault_sync(v, stop);
	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	struct nf_snapshot_entry e = { .name = name, .name_len = (uint8_t)strlen(name), .seq = v->base.id.seq,
				       .time_s = v->base.time.tv_sec, .root = v->base.root };
	memcpy(e.rand, v->base.id.rand, sizeof e.rand);
	memcpy(e.tag, v->base.id.tag, sizeof e.tag);
	nf_lock_drop(&v->ns);
	r = record(v, &e, false);
	return r < 0 ? r : nf_vault_sync(v, stop);
}

int nf_vault_snapshot_remove(struct nf_vault *v, const char *name, const char *id, _Atomic bool *stop)
{
	struct chosen c = { .name = name, .id = id };

	if (v->read_only)
		return nf_fail(-EROFS);
	int r = choose(v, &c);
	if (r == 0)
		r = record(v, &c.e, true);
	return r < 0 ? r : nf_vault_sync(v, stop);
}

/* NAME or NAME@ID. */
int nf_snapshot_take_root(struct nf_vault *v, const char *name)
{
	nf_auto_free char *copy = strdup(name);
	struct chosen c = { .name = copy };

	if (!copy)
		return nf_fail(-ENOMEM);
	int r = choose(v, &c);
	char *at = strrchr(copy, '@');
	if (r == -NF_E_SNAPSHOT_NONE && at) {
		*at = '\0';
		c = (struct chosen){ .name = copy, .id = at + 1 };
		r = choose(v, &c);
	}
	if (r < 0)
		return r;
	nf_lock_take(&v->ns);
	v->base.root = c.e.root;
	nf_lock_drop(&v->ns);
	return 0;
}
