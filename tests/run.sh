#!/bin/bash
# Every test: installs what is missing (Debian 12), builds three times, runs.
#
#   build-asan   address and undefined-behaviour sanitizers, lock order, costly checks: all programs
#   build-tsan   thread sanitizer: the programs with threads
#   build        as users have it: check programs once more with their own summary, mounted tests
#
# Ends with what failed (some 50 lines, the names last), one line per step, and status 1 if any failed.
# Every step is bounded.
set -u
cd "$(dirname "$0")/.." || exit 1
sh tests/install.sh test || exit 1

jobs=$(nproc)
export PYTHONDONTWRITEBYTECODE=1
results=()
reports=() # for failures.py: a kind and a file, in turn
failed=0
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

# step SECONDS NAME COMMAND...
# REPORT, if set: "meson FILE" or "junit FILE", where COMMAND writes which of its tests failed and why.
step()
{
	local limit=$1 name=$2 begun word=ok status out tee kind='' file=''
	local log="$tmp/$name.txt"
	shift 2
	read -r kind file <<<"${REPORT-}"
	[ -n "$file" ] && rm -f "$file"
	echo "== $name"
	begun=$SECONDS
	exec {out}> >(exec tee "$log")
	tee=$!
	timeout --kill-after=30 "$limit" "$@" >&"$out" 2>&1 {out}>&-
	status=$?
	exec {out}>&-
	# A process that was left behind may hold the pipe open.
	timeout 5 tail --pid=$tee -f /dev/null
	if [ $status != 0 ]; then
		word=FAILED
		failed=1
		if [ $status = 124 ] || [ $status = 137 ]; then
			echo "timed out: ended after $limit s" | tee -a "$log"
		fi
		# What was ended has not told all; what told nothing failed otherwise.
		if [ -s "$file" ]; then
			reports+=("$kind" "$file")
		fi
		if [ ! -s "$file" ] || [ $status = 124 ] || [ $status = 137 ]; then
			reports+=(text "$log")
		fi
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
		if ! out=$(FOLIOFS_CHECK_PLAIN=1 FOLIOFS_MODEL_OPS=200000 CK_FORK=no timeout 300 "$t" 2>&1 ||
			{ echo "ended with status $? (124: after 300 s)"; false; }); then
			word=FAILED
			failed=1
			echo "$out" | tee "$tmp/${t##*/}.txt"
			reports+=(text "$tmp/${t##*/}.txt")
		fi
		echo "${t##*/}: $(grep -E '^[0-9]+%: Checks' <<<"$out" | tail -1)"
	done
	results+=("$word  check programs, plain")
}

build build-asan -Db_sanitize=address,undefined -Dlock_check=true -Dparanoid=true
REPORT="meson build-asan/meson-logs/testlog.json" \
	step 1500 "all programs, address and undefined-behaviour sanitizers" \
		meson test -C build-asan --no-rebuild --print-errorlogs --no-suite e2e --no-suite spin --num-processes "$jobs"

build build-tsan -Db_sanitize=thread
threads=$(meson test -C build-tsan --list --no-rebuild 2>/dev/null | sed -n 's#.* / ##p' |
	grep -E '^(aio|store|fuse|netfs)/|^(cache|journal)/check|^vault/(check_(ahead|fetch|held|look|pack|pin|space|vault)|model_vault)')
# shellcheck disable=SC2086
FOLIOFS_MODEL_OPS=6000 REPORT="meson build-tsan/meson-logs/testlog.json" \
	step 1200 "programs with threads, thread sanitizer" \
		meson test -C build-tsan --no-rebuild --print-errorlogs --num-processes "$jobs" $threads

build build
echo "== check programs, plain"
plain_programs
REPORT="meson build/meson-logs/testlog.json" \
	step 900 "models of the protocol" meson test -C build --no-rebuild --print-errorlogs --suite spin

# Distribution's Python: its pytest, cryptography and zstandard are those of packages.txt.
NF_BUILD=$PWD/build REPORT="junit $tmp/mounted.xml" \
	step 1800 "mounted tests and the second reader" \
		/usr/bin/python3 -m pytest -q -ra -p no:cacheprovider --junitxml="$tmp/mounted.xml" tests/e2e tests/reader

if [ ${#reports[@]} != 0 ]; then
	echo "== what failed"
	/usr/bin/python3 tests/lib/failures.py 32 "${reports[@]}"
fi
echo
printf '%s\n' "${results[@]}"
exit $failed
