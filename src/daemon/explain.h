/* daemon/explain.h - an error code as a sentence: the thing, the cause, what to do. */
#ifndef NF_DAEMON_EXPLAIN_H
#define NF_DAEMON_EXPLAIN_H

/* STORE is the address without secrets; WHERE a file that remembers otherwise (NULL: unknown). Malloc'd; NULL: no
 * memory. */
char *nf_explain(int code, const char *store, const char *where);

#endif
