/* daemon/json.h - reading the flat JSON objects of the control socket.
 *
 * A bounded scanner for one line: members of the outermost object by name.  Writing is
 * nf_text_json().  Everything is checked: a peer may send anything. */
#ifndef NF_DAEMON_JSON_H
#define NF_DAEMON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The member's string, decoded, malloc'd into *OUT.  -ENOENT if it is not there, -NF_E_FORMAT_BAD
 * if the line is no JSON object or the member no string. */
int nf_json_string(const char *line, const char *key, char **out);
/* The member's integer. */
int nf_json_int(const char *line, const char *key, int64_t *out);
/* The member as it stands in the line, borrowed: [*P, *P + *LEN). */
int nf_json_raw(const char *line, const char *key, const char **p, size_t *len);

#endif
