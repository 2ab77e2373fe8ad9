/* Printing of operations, for traces and `conflicts show`. */
#include "vault/op.h"

#include "base/mem.h"

#include <inttypes.h>

static const char *const kind_names[NF_OP_KIND_NR] = {
	[NF_OP_CREATE] = "create",   [NF_OP_LINK] = "link", [NF_OP_UNLINK] = "unlink",
	[NF_OP_RENAME] = "rename",   [NF_OP_DATA] = "data", [NF_OP_XATTR] = "xattr",
	[NF_OP_SETATTR] = "setattr", [NF_OP_CLAIM] = "claim",
	[NF_OP_SNAPSHOT] = "snapshot", [NF_OP_COLLECT] = "collect", [NF_OP_MOVE] = "move", [NF_OP_PLACE] = "place",
	[NF_OP_RESEAL] = "reseal",
};
static const char *const mode_names[] = { "?", "discard", "reapply", "overwrite", "stash", "ask" };

static void data_to_text(const struct nf_op *op, struct nf_text *t)
{
	enum { SHOWN_MAX = 8 };
	uint64_t start, end;

	nf_textf(t, " stamp=%" PRIu32 ".%" PRIu64 " size=%" PRIu64 "->%" PRIu64, op->stamp.writer, op->stamp.seq,
		 op->size_before, op->size_after);
	if (op->least_size != UINT64_MAX)
		nf_textf(t, " least=%" PRIu64, op->least_size);
	nf_textf(t, " ranges=%" PRIu32, op->nr_ranges);
	for (uint32_t i = 0; i < op->nr_ranges && i < SHOWN_MAX; i++) {
		nf_op_range(op, i, &start, &end);
		nf_textf(t, "%c%" PRIu64 "-%" PRIu64, i ? ',' : ':', start, end);
	}
	nf_textf(t, "%s windows=%" PRIu32 " inline=%u", op->nr_ranges > SHOWN_MAX ? ",..." : "", op->nr_windows,
		 op->inline_len);
	if (op->flags & NF_OPF_APPEND)
		nf_textf(t, " append");
}

void nf_op_to_text(const struct nf_op *op, struct nf_text *t)
{
	unsigned kind = (unsigned)op->kind, mode = (unsigned)op->conflict_mode;

	nf_textf(t, "%s", kind < NF_OP_KIND_NR && kind_names[kind] ? kind_names[kind] : "?");
	if (op->kind == NF_OP_CLAIM) {
		nf_textf(t, " prefix=%" PRIu32 " host=%.*s", op->prefix, op->host_len, op->host);
		return;
	}
	if (op->kind == NF_OP_SNAPSHOT) {
		nf_textf(t, " name=%.*s head=%" PRIu64 "%s", op->snapshot.name_len, op->snapshot.name,
			 op->snapshot.seq, op->flags & NF_OPF_FORGET ? " forget" : "");
		return;
	}
	if (op->kind == NF_OP_COLLECT) {
		nf_textf(t, " item=%u keys=%" PRIu32 " date=%" PRId64 "%s", op->item, op->nr_keys, op->date_s,
			 op->flags & NF_OPF_FORGET ? " forget" : "");
		return;
	}
	if (op->kind == NF_OP_PLACE) {
		nf_textf(t, " items=%" PRIu32, op->nr_places);
		return;
	}
	nf_textf(t, " ino=%" PRIx64, op->ino);
	if (op->kind == NF_OP_MOVE || op->kind == NF_OP_RESEAL)
		nf_textf(t, " windows=%" PRIu32, op->nr_windows);
	if (op->parent)
		nf_textf(t, " parent=%" PRIx64, op->parent);
	if (op->name)
		nf_textf(t, " name=%.*s", op->name_len, op->name);
	if (op->kind == NF_OP_RENAME)
		nf_textf(t, " to=%" PRIx64 "/%.*s replaced=%" PRIx64 "%s", op->new_parent, op->new_name_len,
			 op->new_name, op->replaced, op->flags & NF_OPF_EXCHANGE ? " exchange" : "");
	if (op->kind == NF_OP_CREATE)
		nf_textf(t, " mode=%o", op->mode);
	if (op->kind == NF_OP_SETATTR)
		nf_textf(t, " mask=%x", op->mask);
	if (op->kind == NF_OP_DATA)
		data_to_text(op, t);
	if (op->kind == NF_OP_XATTR)
		nf_textf(t, " flags=%x", op->flags);
	nf_textf(t, " by=%s", mode < NF_ARRAY_LEN(mode_names) ? mode_names[mode] : "?");
}
