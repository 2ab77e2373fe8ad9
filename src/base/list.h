/* base/list.h - intrusive doubly linked list, as the kernel's list_head. */
#ifndef NF_BASE_LIST_H
#define NF_BASE_LIST_H

#include "base/mem.h"

#include <stdbool.h>

struct nf_list {
	struct nf_list *prev;
	struct nf_list *next;
};

static inline void nf_list_init(struct nf_list *l) { l->prev = l->next = l; }
static inline bool nf_list_empty(const struct nf_list *l) { return l->next == l; }
/* Inserts N before AT: at the tail when AT is the list's head. */
static inline void nf_list_add_tail(struct nf_list *at, struct nf_list *n)
{
	n->prev = at->prev;
	n->next = at;
	at->prev->next = n;
	at->prev = n;
}
static inline void nf_list_add_head(struct nf_list *at, struct nf_list *n)
{
	nf_list_add_tail(at->next, n);
}
/* Takes N off its list and leaves it empty: taking it off again is harmless. */
static inline void nf_list_del(struct nf_list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	nf_list_init(n);
}
/* Moves all of FROM to the tail of TO. */
static inline void nf_list_splice(struct nf_list *to, struct nf_list *from)
{
	if (nf_list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	nf_list_init(from);
}

#define nf_list_entry(ptr, type, member) nf_container_of(ptr, type, member)
#define nf_list_first(head, type, member) nf_list_entry((head)->next, type, member)
#define nf_list_last(head, type, member) nf_list_entry((head)->prev, type, member)
#define nf_list_for_each(pos, head, type, member)                                                  \
	for (type *pos = nf_list_entry((head)->next, type, member); &pos->member != (head);        \
	     pos = nf_list_entry(pos->member.next, type, member))
/* The body may take POS off the list and free it. */
#define nf_list_for_each_safe(pos, head, type, member)                                             \
	for (type *pos = nf_list_entry((head)->next, type, member),                                \
		  *nf_n_ = nf_list_entry(pos->member.next, type, member);                          \
	     &pos->member != (head);                                                               \
	     pos = nf_n_, nf_n_ = nf_list_entry(nf_n_->member.next, type, member))

#endif
