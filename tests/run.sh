#!/bin/bash
# Builds with sanitizers and passes every test.  Installs what is missing (Debian 12).
#
#   build-asan   address + undefined, lock order and costly invariants checked: everything but mounts
#   build-tsan   thread sanitizer: what runs concurrently
#   build        optimised: Check's own summaries, models of the protocol, mounted tests
set -euo pipefail
cd "$(dirname "$0")/.."
tests/install.sh tests/packages.txt
export PYTHONDONTWRITEBYTECODE=1
python=/usr/bin/python3
failed=()

configure() { # DIR OPTION...
	local dir=$1
	shift
	if [ -d "$dir" ]; then
		meson setup --reconfigure "$dir" "$@" >/dev/null
	else
		meson setup "$dir" "$@" >/dev/null
	fi
	ninja -C "$dir" | grep -E 'warning:|error:|FAILED' || [ "${PIPESTATUS[0]}" = 0 ]
}

step() { # NAME COMMAND...
	local name=$1 start=$SECONDS
	shift
	echo "== $name"
	if "$@"; then
		echo "== $name: ok, $((SECONDS - start)) s"
	else
		echo "== $name: FAILED, $((SECONDS - start)) s"
		failed+=("$name")
	fi
}

check_summaries() {
	local program out bad=0
	for program in build/tests/*_check_*; do
		[ -x "$program" ] && [ ! -d "$program" ] || continue
		if ! out=$(CK_FORK=no FOLIOFS_CHECK_PLAIN=1 timeout 300 "$program" 2>&1); then
			bad=1
			echo "$out"
		fi
		echo "$(basename "$program"): $(echo "$out" | grep -E '^[0-9]+%: Checks:')" || bad=1
	done
	return $bad
}

suites() { # DIR SUITE...
	local dir=$1 args=()
	shift
	for s in "$@"; do args+=(--suite "$s"); done
	timeout 2400 meson test -C "$dir" --no-rebuild --print-errorlogs "${args[@]}"
}

# Programs with more than one thread.
concurrent() {
	local tests
	tests=$(meson test -C build-tsan --list --no-rebuild 2>/dev/null | sed -n 's#.* / ##p' |
		grep -E '^(aio|store|fuse|netfs)/|^(cache|journal)/check|^vault/(check_(fetch|look|pack|vault)|model_vault)')
	# shellcheck disable=SC2086
	FOLIOFS_MODEL_OPS=${FOLIOFS_MODEL_OPS:-6000} timeout 2400 meson test -C build-tsan --no-rebuild --print-errorlogs $tests
}

mounted() { timeout 2400 "$python" -m pytest -q -p no:cacheprovider --durations=10 tests/e2e; }

step "build with address and undefined sanitizers" configure build-asan \
	-Db_sanitize=address,undefined -Db_lundef=false -Dlock_check=true -Dparanoid=true
step "tests under address and undefined sanitizers" suites build-asan unit model crash proto fuzz lint
step "build with the thread sanitizer" configure build-tsan -Db_sanitize=thread -Db_lundef=false -Dlock_check=true
step "concurrent tests under the thread sanitizer" concurrent
step "optimised build" configure build
step "models of the protocol" suites build spin
step "unit tests, optimised" check_summaries
step "mounted tests" mounted

if [ ${#failed[@]} -gt 0 ]; then
	echo "FAILED: ${failed[*]}"
	exit 1
fi
echo "all tests passed"
