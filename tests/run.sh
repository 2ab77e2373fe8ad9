#!/bin/bash
# Every test: installs what is missing (Debian 12), builds three times, runs.
#
#   build-asan   address and undefined-behaviour sanitizers, lock order, costly checks: all programs
#   build-tsan   thread sanitizer: the programs with threads
#   build        as users have it: check programs once more with their own summary, mounted tests
#
# Ends with one line per step, and status 1 if any failed.  Every step is bounded.
set -u
cd "$(dirname "$0")/.." || exit 1
sh tests/install.sh test || exit 1

jobs=$(nproc)
export PYTHONDONTWRITEBYTECODE=1
results=()
failed=0

# step SECONDS NAME COMMAND...
step()
{
	local limit=$1 name=$2 begun word
	shift 2
	echo "== $name"
	begun=$SECONDS
	if timeout --kill-after=30 "$limit" "$@"; then
		word=ok
	else
		word=FAILED
		failed=1
	fi
	results+=("$word  $name ($((SECONDS - begun)) s)")
}

# build DIR OPTION...
build()
{
	local dir=$1
	shift
	if [ ! -f "$dir/build.ninja" ]; then
		step 120 "configure $dir" meson setup "$dir" "$@" >"$dir.log" 2>&1
	fi
	step 900 "build $dir" ninja -C "$dir" -j "$jobs" >>"$dir.log" 2>&1
	grep -E '(warning|error|FAILED):' "$dir.log"
	tail -1 "$dir.log"
	rm -f "$dir.log"
}

# Each check program with Check's own line: "100%: Checks: N, Failures: 0, Errors: 0".
plain_programs()
{
	local t out word=ok
	for t in build/tests/*_check_* build/tests/*_model_* build/tests/*_crash_* build/tests/*_proto_*; do
		[ -f "$t" ] && [ -x "$t" ] || continue
		out=$(FOLIOFS_CHECK_PLAIN=1 FOLIOFS_MODEL_OPS=200000 CK_FORK=no timeout 300 "$t" 2>&1) || { word=FAILED; failed=1; echo "$out"; }
		echo "${t##*/}: $(grep -E '^[0-9]+%: Checks' <<<"$out" | tail -1)"
	done
	results+=("$word  check programs, plain")
}

build build-asan -Db_sanitize=address,undefined -Dlock_check=true -Dparanoid=true
step 1500 "all programs, address and undefined-behaviour sanitizers" \
	meson test -C build-asan --no-rebuild --print-errorlogs --no-suite e2e --no-suite spin --num-processes "$jobs"

build build-tsan -Db_sanitize=thread
threads=$(meson test -C build-tsan --list --no-rebuild 2>/dev/null | sed -n 's#.* / ##p' |
	grep -E '^(aio|store|fuse|netfs)/|^(cache|journal)/check|^vault/(check_(ahead|fetch|held|look|pack|pin|space|vault)|model_vault)')
# shellcheck disable=SC2086
FOLIOFS_MODEL_OPS=6000 step 1200 "programs with threads, thread sanitizer" \
	meson test -C build-tsan --no-rebuild --print-errorlogs --num-processes "$jobs" $threads

build build
echo "== check programs, plain"
plain_programs
step 900 "models of the protocol" meson test -C build --no-rebuild --print-errorlogs --suite spin

# Distribution's Python: its pytest, cryptography and zstandard are those of packages.txt.
NF_BUILD=$PWD/build step 1800 "mounted tests and the second reader" \
	/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/e2e tests/reader

echo
printf '%s\n' "${results[@]}"
exit $failed
