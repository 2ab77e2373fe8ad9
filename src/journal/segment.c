/* One segment's file: made, appended to, removed.  Called by the turn's holder with
 * no lock held, so there is one writer, and a frame that fails is the last one and
 * can be taken back. */
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/trace.h"
#include "journal/frame.h"
#include "journal/types.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/uio.h>

static void segment_path(const struct nf_journal *j, uint64_t number, struct nf_text *t)
{
	nf_textf(t, "%s/%016" PRIx64 ".seg", j->dir, number);
}

void nf_segment_free(struct nf_segment *s, const struct nf_file_ops *files)
{
	if (!s)
		return;
	files->close(s->file);
	free(s);
}

int nf_segment_open(struct nf_journal *j, uint64_t number, int flags, struct nf_segment **out)
{
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT;
	nf_auto_free struct nf_segment *s = calloc(1, sizeof *s);

	segment_path(j, number, &path);
	if (!s || path.failed)
		return nf_fail(-ENOMEM);
	nf_list_init(&s->link);
	s->number = number;
	int r = j->files->open(j->files, nf_text_str(&path), flags, 0600, &s->file);
	if (r < 0)
		return nf_fail(r);
	*out = nf_steal(&s);
	return 0;
}

int nf_segment_unlink(struct nf_journal *j, uint64_t number)
{
	nf_auto(nf_text_deinit) struct nf_text path = NF_TEXT_INIT;

	segment_path(j, number, &path);
	if (path.failed)
		return nf_fail(-ENOMEM);
	return nf_fail(j->files->unlink(j->files, nf_text_str(&path)));
}

int nf_segment_make(struct nf_journal *j, uint64_t number, struct nf_segment **out)
{
	struct nf_segment *s;
	struct iovec chain = { .iov_base = j->chain, .iov_len = sizeof j->chain };

	/* A file of this number can only be what an attempt that failed left. */
	int r = nf_segment_open(j, number, O_RDWR | O_CREAT | O_TRUNC, &s);
	if (r < 0)
		return nf_fail(r);
	r = nf_segment_append(j, s, 'S', &chain, 1, 0);
	if (r == 0) {
		r = j->files->fsync_dir(j->files, j->dir);
		/* Whether the name is there nobody knows, and with a frame in it nothing may follow in the segment before: as after
		 * any sync that failed. */
		nf_lock_take(&j->lock);
		if (r < 0 && j->error == 0)
			j->error = r;
		nf_lock_drop(&j->lock);
	}
	if (r < 0) {
		nf_segment_free(s, j->files);
		(void)nf_segment_unlink(j, number); /* valid also when it stays */
		return nf_fail(r);
	}
	*out = s;
	return 0;
}

/* Head, payload and the zeros behind it, as one write. */
static int write_frame(struct nf_segment *sg, const uint8_t *head, const struct iovec *iov, int nr, size_t len)
{
	static const uint8_t zeros[NF_FRAME_ALIGN];
	nf_auto_free struct iovec *all = calloc((size_t)nr + 2, sizeof *all);

	if (!all)
		return nf_fail(-ENOMEM);
	all[0] = (struct iovec){ (void *)(uintptr_t)head, NF_FRAME_HEADER };
	memcpy(&all[1], iov, (size_t)nr * sizeof *all);
	all[nr + 1] = (struct iovec){ (void *)(uintptr_t)zeros, nf_round_up(len, NF_FRAME_ALIGN) - len };
	return nf_fail(nf_file_pwritev(sg->file, all, nr + 2, sg->written_bytes));
}

int nf_segment_append(struct nf_journal *j, struct nf_segment *s, char kind,
		      const struct iovec *iov, int nr, uint64_t synced_bytes)
{
	uint8_t head[NF_FRAME_HEADER];
	size_t len = 0;

	for (int i = 0; i < nr; i++) {
		if (iov[i].iov_len > NF_JOURNAL_FRAME_MAX - len)
			return nf_fail(-EINVAL);
		len += iov[i].iov_len;
	}
	struct nf_frame f = { .kind = kind,
			      .len_bytes = (uint32_t)len,
			      .synced_bytes = synced_bytes,
			      .number = s->next_frame };
	nf_frame_encode(&f, kind == 'D' ? NULL : iov[0].iov_base, head);
	int r = write_frame(s, head, iov, nr, len);
	if (r < 0) {
		/* What got there is overwritten by the next frame; if this too fails
		 * it is a torn tail. */
		s->torn = true;
		(void)j->files->ftruncate(s->file, s->written_bytes);
		return nf_fail(r);
	}
	if (j->room)
		nf_room_wrote(j->room, nf_frame_size(len));
	nf_lock_take(&j->lock);
	s->written_bytes += nf_frame_size(len);
	s->next_frame++;
	nf_lock_drop(&j->lock);
	nf_count(NF_C_JOURNAL_BYTES, nf_frame_size(len));
	nf_trace(JOURNAL, "append segment=%" PRIx64 " frame=%" PRIu64 " kind=%c len=%zu", s->number,
		 f.number, kind, len);
	return 0;
}

int nf_segment_end(struct nf_journal *j, struct nf_segment *s)
{
	if (!s->torn)
		return 0;
	int r = j->files->ftruncate(s->file, s->written_bytes);
	if (r == 0)
		r = j->files->fdatasync(s->file);
	if (r < 0)
		return nf_fail(r);
	nf_count(NF_C_JOURNAL_SYNCS, 1);
	s->torn = false;
	return 0;
}
