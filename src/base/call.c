/* What a struct nf_call can do by itself, for both of its sides. */
#include "foliofs/fs.h"

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"

const char *nf_call_name(enum nf_call_op op)
{
	static const char *const names[NF_CALL_NR] = {
#define X(name) [NF_CALL_##name] = #name,
		NF_CALLS(X)
#undef X
	};
	return (unsigned)op < NF_CALL_NR ? names[op] : "?";
}

void nf_call_done(struct nf_call *c, int error)
{
	NF_ASSERT(error <= 0);
	c->done(c, error);
}

int nf_call_keep_data(struct nf_call *c)
{
	if (c->kept || !c->data)
		return 0;
	void *copy = malloc(c->size ? c->size : 1);
	if (!copy)
		return nf_fail(-ENOMEM);
	memcpy(copy, c->data, c->size);
	nf_count(NF_C_WRITE_COPIED_BYTES, c->size);
	c->data = c->kept = copy;
	return 0;
}
