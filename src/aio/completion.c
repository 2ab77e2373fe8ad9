/* One event between two threads: the setter on any thread, one or more waiters.
 * The last waiter may free it as soon as wait returns: set touches nothing after
 * dropping the lock. */
#include "aio/pool.h"
#include "base/error.h"
#include "base/lock.h"

/* l lock.  A leaf: callbacks that hold something may set it. */
struct nf_completion_priv {
	struct nf_lock lock;
	struct nf_cond cond; /* l */
	bool set;	     /* l */
};

int nf_completion_init(struct nf_completion *c)
{
	struct nf_completion_priv *p = calloc(1, sizeof *p);

	if (!p)
		return nf_fail(-ENOMEM);
	nf_lock_init(&p->lock, NF_RANK_LEAF);
	nf_cond_init(&p->cond);
	c->priv = p;
	return 0;
}

void nf_completion_deinit(struct nf_completion *c)
{
	if (!c->priv)
		return;
	nf_cond_deinit(&c->priv->cond);
	nf_lock_deinit(&c->priv->lock);
	free(c->priv);
	c->priv = NULL;
}

void nf_completion_set(struct nf_completion *c)
{
	struct nf_completion_priv *p = c->priv;

	nf_lock_take(&p->lock);
	p->set = true;
	nf_cond_broadcast(&p->cond);
	nf_lock_drop(&p->lock);
}

void nf_completion_wait(struct nf_completion *c)
{
	struct nf_completion_priv *p = c->priv;

	nf_lock_take(&p->lock);
	while (!p->set)
		nf_cond_wait(&p->cond, &p->lock);
	nf_lock_drop(&p->lock);
}
