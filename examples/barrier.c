/* barrier FILE - two records, the second of which never is there without the first, without an fsync between them.
 *
 *	barrier FILE    writes a journal record, a barrier, then the data it announces
 *
 * A program that keeps a journal usually waits for the disk between the two (fdatasync).  On foliofs it need not: the
 * barrier orders them, and nobody waits. */
#include <foliofs/ioctl.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int put(int fd, const char *text, off_t at)
{
	size_t len = strlen(text);

	return pwrite(fd, text, len, at) == (ssize_t)len ? 0 : -1;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		(void)fprintf(stderr, "usage: barrier FILE\n");
		return 2;
	}
	int fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0 || put(fd, "about to write at 4096\n", 0)) {
		perror(argv[1]);
		return 1;
	}
	if (ioctl(fd, FOLIOFS_IOC_BARRIER)) {
		if (errno != ENOTTY) {
			perror("barrier");
			return 1;
		}
		(void)fprintf(stderr, "%s is not on foliofs: waiting for the disk instead\n", argv[1]);
		if (fdatasync(fd)) {
			perror("fdatasync");
			return 1;
		}
	}
	if (put(fd, "the data\n", 4096) || close(fd)) {
		perror(argv[1]);
		return 1;
	}
	return 0;
}
