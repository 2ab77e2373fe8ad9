/* Loaded before the C library: names that end in ".test" are looked up as the file $NF_RESOLVER says, "here" (loopback), "none"
 * (there is no such name), or "silent" (no answer for a minute, as from a resolver behind a line that is dead). */
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SILENT_S = 60 };

__attribute__((visibility("default"))) int getaddrinfo(const char *restrict node, const char *restrict service,
						       const struct addrinfo *restrict hints, struct addrinfo **restrict res)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	const char *path = getenv("NF_RESOLVER"), *tail = node ? strrchr(node, '.') : NULL;
	char word[16] = "";

	*(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
	if (!path || !tail || strcmp(tail, ".test") != 0)
		return real(node, service, hints, res);
	FILE *f = fopen(path, "re");
	if (f) {
		if (!fgets(word, sizeof word, f))
			word[0] = '\0';
		(void)fclose(f);
	}
	if (!strcmp(word, "here"))
		return real("127.0.0.1", service, hints, res);
	if (strcmp(word, "silent") != 0)
		return EAI_NONAME;
	(void)sleep(SILENT_S);
	return EAI_AGAIN;
}
