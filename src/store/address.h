/* store/address.h - the address of a server, taken apart. */
#ifndef NF_STORE_ADDRESS_H
#define NF_STORE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

struct nf_address {
	bool dav; /* dav://, davs://; else plain HTTP */
	bool tls;
	char *host;   /* as in a URL: [v6] with brackets */
	unsigned port;
	char *path;   /* percent-encoded, begins and ends with '/' */
	char *user;     /* decoded; NULL: none */
	char *password; /* decoded; NULL: none */
};

/* -NF_E_STORE_URL or -ENOMEM. */
int nf_address_parse(const char *s, struct nf_address *out);
/* Wipes the secrets. */
void nf_address_deinit(struct nf_address *a);
/* scheme://host[:port]/path as the user wrote the scheme; malloc'd. */
char *nf_address_text(const struct nf_address *a);
/* http[s]://host:port, no path; malloc'd. */
char *nf_address_origin(const struct nf_address *a);
bool nf_address_loopback(const struct nf_address *a);

/* Decodes %XX of S (LEN bytes) into a malloc'd string; -NF_E_STORE_URL for a
 * broken escape or a decoded NUL, -ENOMEM. */
int nf_percent_decode(const char *s, size_t len, char **out);

#endif
