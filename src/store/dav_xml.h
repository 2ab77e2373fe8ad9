/* store/dav_xml.h - the answer to a PROPFIND, parsed as it arrives.
 *
 * The text comes from a stranger: no DTD and no entities, bounded depth, bounded
 * text, bounded bytes for each response and in all, and only names directly in
 * the collection that was asked are kept. */
#ifndef NF_STORE_DAV_XML_H
#define NF_STORE_DAV_XML_H

#include "store/types.h"

/* What the answer says of one resource; UINT64_MAX where it does not. */
struct nf_dav_props {
	uint64_t size_bytes;
	uint64_t quota_used_bytes;
	uint64_t quota_free_bytes;
	int64_t mtime_s; /* 0: not said */
	bool is_dir;
};

struct nf_dav_xml;

/* PATH: what was asked, percent-encoded, with or without trailing slash. */
int nf_dav_xml_new(const char *path, struct nf_dav_xml **out);
void nf_dav_xml_free(struct nf_dav_xml *x); /* NULL allowed */
/* -NF_E_STORE_PROTOCOL, -ENOMEM; the same again for all that follows. */
int nf_dav_xml_feed(struct nf_dav_xml *x, const void *p, size_t len);
/* The text is complete.  *SELF describes what was asked; an answer that leaves it
 * out is refused, as it speaks of something else.  Children go to CHILDREN if not
 * NULL. */
int nf_dav_xml_end(struct nf_dav_xml *x, struct nf_dav_props *self, struct nf_entries *children);

#endif
