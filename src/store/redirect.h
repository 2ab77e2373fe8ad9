/* store/redirect.h - where a redirect leads, if we may go there. */
#ifndef NF_STORE_REDIRECT_H
#define NF_STORE_REDIRECT_H

/* The absolute URL of LOCATION (absolute or relative) seen from URL, malloc'd.
 * Only the same scheme, host and port, or the step from http to https on the same
 * host; anything else is -NF_E_STORE_PROTOCOL: credentials and bodies go nowhere
 * the user did not name. */
int nf_redirect(const char *url, const char *location, char **out);

#endif
