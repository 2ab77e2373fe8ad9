/* The one screen of `foliofs status`. */
#include "base/error.h"
#include "base/mem.h"
#include "daemon/control.h"
#include "store/mirror.h"

#include <inttypes.h>
#include <time.h>

void nf_text_size(struct nf_text *t, uint64_t bytes)
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB" };
	double v = (double)bytes / 1024;
	size_t i = 0;

	if (bytes < 1024) {
		nf_textf(t, "%" PRIu64 " bytes", bytes);
		return;
	}
	for (; v >= 1024 && i + 1 < NF_ARRAY_LEN(units); i++)
		v /= 1024;
	nf_textf(t, "%.1f %s", v, units[i]);
}

static bool all_on_server(const struct nf_vault_status *s) { return !s->pending_ops && !s->pending_files; }

static void text_age(struct nf_text *t, uint64_t ms)
{
	uint64_t s = ms / 1000;

	if (s < 120)
		nf_textf(t, "%" PRIu64 " s", s);
	else if (s < 7200)
		nf_textf(t, "%" PRIu64 " min", s / 60);
	else
		nf_textf(t, "%" PRIu64 " h", s / 3600);
}

static void text_time(struct nf_text *t, int64_t at_s)
{
	time_t at = at_s;
	struct tm tm;
	char buf[64];

	if (localtime_r(&at, &tm) && strftime(buf, sizeof buf, "%Y-%m-%d %H:%M:%S %Z", &tm))
		nf_textf(t, "%s", buf);
}

static void text_pending(struct nf_text *t, const struct nf_vault_status *s)
{
	nf_textf(t, "safe to switch off   ");
	if (all_on_server(s)) {
		nf_textf(t, "yes: everything is on the server\n");
		return;
	}
	nf_textf(t, "no: not everything is on the server (what was fsynced is safe on this machine)\n");
	nf_textf(t, "not on the server    %" PRIu64 " changes, %" PRIu64 " files with data, ", s->pending_ops,
		 s->pending_files);
	nf_text_size(t, s->pending_bytes);
	nf_textf(t, ", the oldest for ");
	text_age(t, s->oldest_ms);
	nf_textf(t, "\n");
	nf_textf(t, "safe in about        ");
	if (s->safe_in_ms >= 0)
		text_age(t, (uint64_t)s->safe_in_ms + 999);
	else
		nf_textf(t, "unknown: %s", !s->connected || s->held ? "not connected" : s->manual ? "sync=manual: `foliofs sync` sends it" :
			 "nothing was sent yet to measure by");
	if (s->safe_in_ms >= 0 && s->upload_bytes_per_s) {
		nf_textf(t, ", at ");
		nf_text_size(t, s->upload_bytes_per_s);
		nf_textf(t, "/s");
	}
	nf_textf(t, "\n");
	if (s->committing) {
		nf_textf(t, "sending              ");
		nf_text_size(t, s->upload_done_bytes);
		nf_textf(t, " of ");
		nf_text_size(t, s->upload_total_bytes);
		nf_textf(t, "\n");
	}
}

static const char *link_word(const struct nf_vault_status *s)
{
	if (s->held)
		return "held";
	if (s->probing)
		return "probing";
	if (!s->connected)
		return "disconnected";
	return s->reintegrating ? "reintegrating" : "connected";
}

static void text_link(struct nf_text *t, const struct nf_vault_status *s)
{
	nf_textf(t, "connected            ");
	if (s->held)
		nf_textf(t, "no: offline by command; `foliofs online` ends it");
	else if (s->reintegrating)
		nf_textf(t, "yes, sending what was done while it was not");
	else if (s->connected)
		nf_textf(t, "yes");
	else if (s->probing)
		nf_textf(t, "being tried");
	else
		nf_textf(t, "no: %s", s->last_error ? nf_strerror(s->last_error) : "nothing was exchanged yet");
	nf_textf(t, ", for ");
	text_age(t, s->link_ms);
	nf_textf(t, "\n");
}

static const char *keys_word(const struct nf_vault_status *s)
{
	switch (s->keys) {
	case NF_KEYS_CURRENT: return "current";
	case NF_KEYS_UNCHECKED: return "unchecked";
	case NF_KEYS_REMOVED: return "removed";
	case NF_KEYS_CHANGED: return "changed";
	}
	return "";
}

static void text_keys(struct nf_text *t, const struct nf_vault_status *s)
{
	if (s->keys == NF_KEYS_REMOVED)
		nf_textf(t, "keys                 the key this was mounted with was removed or changed; the next mount takes another one\n");
	if (s->old_keys_known && s->old_key_packs) {
		nf_textf(t, "under older keys     ");
		nf_text_size(t, s->old_key_bytes);
		nf_textf(t, " in %" PRIu64 " packs (sealed again when nothing else is done; foliofs gc: now)\n", s->old_key_packs);
	}
	if (s->keys == NF_KEYS_CHANGED)
		nf_textf(t, "keys                 the vault has new ones (key rekey): nothing is exchanged until it is mounted again with\n"
			    "                     one that was kept; what is done here meanwhile stays on this machine\n");
}

static void text_pins(struct nf_text *t, const struct nf_vault_status *s)
{
	if (!s->pins && !s->pin_error)
		return;
	nf_textf(t, "pinned               ");
	nf_text_size(t, s->pinned_present_bytes);
	nf_textf(t, " of ");
	nf_text_size(t, s->pinned_bytes);
	if (s->pinned_present_bytes < s->pinned_bytes || s->pin_error || !s->pins_current)
		nf_textf(t, ": %s", s->pin_error == -NF_E_FULL ? "it does not all fit into the cache (cache_size, min_free)" :
					s->pin_error ? nf_strerror(s->pin_error) : "being fetched");
	nf_textf(t, "\n");
}

static void text_gc(struct nf_text *t, const struct nf_vault_status *s)
{
	if (!s->gc_every_ms)
		return;
	nf_textf(t, "collector            ");
	if (s->gc_running)
		nf_textf(t, "running");
	else if (s->gc_runs)
		nf_textf(t, "ran "), text_age(t, s->gc_last_ms), nf_textf(t, " ago");
	else
		nf_textf(t, "waits until nothing else is done");
	if (s->gc_runs) {
		nf_textf(t, "; deleted ");
		nf_text_size(t, s->gc_deleted_bytes);
		nf_textf(t, ", condemned ");
		nf_text_size(t, s->gc_condemned_bytes);
	}
	if (s->gc_error && s->gc_error != -NF_E_CANCELLED)
		nf_textf(t, "; the last try: %s", nf_strerror(s->gc_error));
	nf_textf(t, "\n");
}

static void text_mirror(struct nf_text *t, const struct nf_control_env *env)
{
	struct nf_mirror_status m;

	if (!env->mirror)
		return;
	nf_mirror_status(env->mirror, &m);
	if (m.in_step)
		nf_textf(t, "mirror               in step\n");
	else
		nf_textf(t, "mirror               behind: %s; %" PRIu64 " objects copied\n",
			 m.last_error ? nf_strerror(m.last_error) : "being compared", m.copied_objects);
}

void nf_status_to_text(const struct nf_control_env *env, struct nf_text *t)
{
	struct nf_vault_status s;

	nf_vault_status(env->vault, &s);
	nf_textf(t, "store                %s\n", env->store);
	nf_textf(t, "mounted at           %s%s\n", env->mount_point, s.read_only ? " (read-only)" : "");
	text_link(t, &s);
	text_keys(t, &s);
	text_pending(t, &s);
	text_mirror(t, env);
	nf_textf(t, "open for writing     %" PRIu64 " files\n", s.open_for_write);
	nf_textf(t, "conflicts            %" PRIu64 " since it was mounted\n", s.conflicts);
	nf_textf(t, "cache                ");
	nf_text_size(t, s.cache_used_bytes);
	if (s.cache_limit_bytes) {
		nf_textf(t, " of ");
		nf_text_size(t, s.cache_limit_bytes);
	}
	nf_textf(t, ", journal ");
	nf_text_size(t, s.journal_bytes);
	nf_textf(t, "\n");
	text_pins(t, &s);
	text_gc(t, &s);
	nf_textf(t, "newest commit        %s  ", s.fingerprint);
	text_time(t, s.head_time_s);
	nf_textf(t, "\nthis device          writer %" PRIu32 ", commits %" PRIu64 ", merges %" PRIu64 "\n", s.writer,
		 s.commits, s.merges);
	nf_textf(t, "in force             write_back=%" PRIu32 "ms poll=%" PRIu32 "ms\n", s.write_back_ms, s.poll_ms);
}

static void field(struct nf_text *t, const char *name, uint64_t v)
{
	nf_textf(t, ",\"%s\":%" PRIu64, name, v);
}

static void field_text(struct nf_text *t, const char *name, const char *v)
{
	nf_textf(t, ",\"%s\":", name);
	nf_text_json(t, v ? v : "");
}

static void field_bool(struct nf_text *t, const char *name, bool v)
{
	nf_textf(t, ",\"%s\":%s", name, v ? "true" : "false");
}

void nf_requests_to_text(const struct nf_control_env *env, struct nf_text *t)
{
	nf_auto_free char *text = NULL;

	if (nf_vault_requests_text(env->vault, &text))
		t->failed = true;
	else
		nf_textf(t, "%s", text);
	nf_front_to_text(env->front, t);
}

void nf_status_to_json(const struct nf_control_env *env, struct nf_text *t)
{
	struct nf_vault_status s;

	nf_vault_status(env->vault, &s);
	nf_textf(t, "{\"version\":1");
	field_text(t, "store", env->store);
	field_text(t, "mount_point", env->mount_point);
	field_text(t, "cache_dir", env->cache_dir);
	field_text(t, "state_dir", env->state_dir);
	field_bool(t, "read_only", s.read_only);
	field_bool(t, "connected", s.connected);
	field_text(t, "link", link_word(&s));
	field(t, "link_ms", s.link_ms);
	if (env->mirror) {
		struct nf_mirror_status m;
		nf_mirror_status(env->mirror, &m);
		field_bool(t, "mirror_in_step", m.in_step);
		field_text(t, "mirror_last_error", m.last_error ? nf_error_name(m.last_error) : "");
		field(t, "mirror_copied_objects", m.copied_objects);
		field(t, "mirror_copied_bytes", m.copied_bytes);
	}
	field_text(t, "last_error", s.last_error ? nf_error_name(s.last_error) : "");
	field_text(t, "keys", keys_word(&s));
	field(t, "key_epoch", s.key_epoch);
	if (s.old_keys_known) {
		field(t, "old_key_packs", s.old_key_packs);
		field(t, "old_key_bytes", s.old_key_bytes);
	}
	field_bool(t, "all_on_server", all_on_server(&s));
	field_bool(t, "safe_to_switch_off", all_on_server(&s));
	if (s.safe_in_ms < 0)
		nf_textf(t, ",\"safe_in_s\":null");
	else
		field(t, "safe_in_s", ((uint64_t)s.safe_in_ms + 999) / 1000);
	field(t, "upload_bytes_per_s", s.upload_bytes_per_s);
	field(t, "pending_ops", s.pending_ops);
	field(t, "pending_files", s.pending_files);
	field(t, "pending_bytes", s.pending_bytes);
	field(t, "oldest_ms", s.oldest_ms);
	field(t, "open_for_write", s.open_for_write);
	field_bool(t, "committing", s.committing);
	field(t, "upload_done_bytes", s.upload_done_bytes);
	field(t, "upload_total_bytes", s.upload_total_bytes);
	field(t, "commits", s.commits);
	field(t, "merges", s.merges);
	field(t, "forks", s.forks);
	field(t, "conflicts", s.conflicts);
	field(t, "head_seq", s.head_seq);
	nf_textf(t, ",\"head_time_s\":%" PRId64, s.head_time_s);
	field_text(t, "fingerprint", s.fingerprint);
	field(t, "writer", s.writer);
	field(t, "writer_seq", s.writer_seq);
	field(t, "cache_used_bytes", s.cache_used_bytes);
	field(t, "cache_limit_bytes", s.cache_limit_bytes);
	field(t, "journal_bytes", s.journal_bytes);
	field(t, "pins", s.pins);
	field_bool(t, "pins_current", s.pins_current);
	field(t, "pinned_bytes", s.pinned_bytes);
	field(t, "pinned_present_bytes", s.pinned_present_bytes);
	field_text(t, "pin_error", s.pin_error ? nf_error_name(s.pin_error) : "");
	field_text(t, "gc", !s.gc_every_ms ? "off" : s.gc_running ? "running" : "waiting");
	field(t, "gc_every_ms", s.gc_every_ms);
	field(t, "gc_runs", s.gc_runs);
	field(t, "gc_last_ms", s.gc_last_ms);
	field(t, "gc_deleted_bytes", s.gc_deleted_bytes);
	field(t, "gc_condemned_bytes", s.gc_condemned_bytes);
	field_text(t, "gc_error", s.gc_error ? nf_error_name(s.gc_error) : "");
	field(t, "write_back_ms", s.write_back_ms);
	field(t, "poll_ms", s.poll_ms);
	nf_textf(t, "}");
}
