/* Runs every file of the directories given through a fuzz target: what a fuzzer once
 * found stays a test in every build.  The name is printed first, so that a crash
 * tells the file.  Fails if there is no file at all. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t len);

static int replay_file(const char *path)
{
	struct stat st;
	FILE *f = fopen(path, "rb");

	if (!f || fstat(fileno(f), &st) != 0) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	if (!S_ISREG(st.st_mode)) {
		fclose(f);
		return 0;
	}
	printf("%s\n", path);
	fflush(stdout);
	/* Exactly as long as the file, so that a sanitizer sees a read past its end. */
	size_t len = (size_t)st.st_size;
	uint8_t *p = malloc(len ? len : 1);
	if (!p || fread(p, 1, len, f) != len) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	fclose(f);
	(void)LLVMFuzzerTestOneInput(p, len); /* its result only steers a fuzzer */
	free(p);
	return 1;
}

int main(int argc, char **argv)
{
	int nr = 0;

	for (int i = 1; i < argc; i++) {
		DIR *d = opendir(argv[i]);
		if (!d) {
			perror(argv[i]);
			return EXIT_FAILURE;
		}
		for (struct dirent *e; (e = readdir(d));) {
			char path[4096];
			snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
			nr += replay_file(path);
		}
		closedir(d);
	}
	printf("%d inputs\n", nr);
	return nr ? EXIT_SUCCESS : EXIT_FAILURE;
}
