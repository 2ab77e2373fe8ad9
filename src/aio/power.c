/* aio/power.c - what the kernel says of power supplies.
 *
 *     DIR/AC/type  = Mains     online = 0|1
 *     DIR/BAT0/type = Battery  status = Charging|Discharging|Full|...   scope = System|Device (a mouse, say; often absent)
 *
 * Several say different things at once: one that feeds the machine is enough for "no".  Whatever is not understood says
 * nothing.  Not by nf_file_ops: it is no disk of ours. */
#include "aio/power.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SUPPLIES_MAX = 64, VALUE_MAX = 32 };

/* The file's first word; "" if it is not there, is no plain file or is longer than any that is known. */
static void value_of(int dir, const char *supply, const char *name, char out[VALUE_MAX])
{
	char path[NAME_MAX + 16];
	struct stat st;
	ssize_t n = 0;

	out[0] = '\0';
	if (snprintf(path, sizeof path, "%s/%s", supply, name) >= (int)sizeof path)
		return;
	/* It may be anything: a pipe does not hold us up. */
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		n = read(fd, out, VALUE_MAX);
	(void)close(fd);
	n = n < 0 || n == VALUE_MAX ? 0 : n;
	out[n] = '\0';
	out[strcspn(out, "\n")] = '\0';
}

struct power {
	bool fed, in_use;
};

static void ask(struct power *p, int dir, const char *supply)
{
	char type[VALUE_MAX], scope[VALUE_MAX], value[VALUE_MAX];

	value_of(dir, supply, "type", type);
	value_of(dir, supply, "scope", scope);
	if (!strcmp(scope, "Device"))
		return;
	if (!strcmp(type, "Battery")) {
		value_of(dir, supply, "status", value);
		p->in_use |= !strcmp(value, "Discharging");
	} else if (!strcmp(type, "Mains") || !strncmp(type, "USB", 3) || !strcmp(type, "Wireless")) {
		value_of(dir, supply, "online", value);
		/* 2: on line, programmable. */
		p->fed |= !strcmp(value, "1") || !strcmp(value, "2");
	}
}

bool nf_on_battery(const char *dir)
{
	struct power p = { 0 };
	struct dirent *e;
	DIR *d = opendir(dir);

	if (!d)
		return false;
	for (int nr = 0; nr < SUPPLIES_MAX && (e = readdir(d)); nr++)
		if (e->d_name[0] != '.')
			ask(&p, dirfd(d), e->d_name);
	(void)closedir(d);
	return p.in_use && !p.fed;
}
