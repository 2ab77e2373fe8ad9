#!/bin/bash
# Runs public test suites on a mounted vault; not part of tests/run.sh.  Needs root.
#
#   PJDFSTEST=DIR   a built checkout of pjd/pjdfstest (autoreconf -ifs && ./configure && make)
#   FSX=FILE        ltp/fsx of kdave/xfstests, built
#   FOLIOFS=FILE    the program; build/src/foliofs otherwise
#   PJD_MIN=N       how many of pjdfstest's assertions must pass
#   FSX_OPS=N       operations in each of fsx's runs
#
# Exit: 0 passed, 1 failed, 77 nothing could be run (and says why).
set -euo pipefail
cd "$(dirname "$0")/../.."
FOLIOFS=$(realpath "${FOLIOFS:-build/src/foliofs}")
PJD_MIN=${PJD_MIN:-8798}
FSX_OPS=${FSX_OPS:-100000}
ran=0
failed=0

[ "$(id -u)" = 0 ] || { echo "SKIPPED: not root"; exit 77; }
[ -x "$FOLIOFS" ] || { echo "SKIPPED: no program $FOLIOFS"; exit 77; }

dir=$(mktemp -d)
export HOME=$dir/home XDG_RUNTIME_DIR=$dir/run FOLIOFS_PASSWORD=suites
unset XDG_CACHE_HOME XDG_STATE_HOME XDG_CONFIG_HOME
mkdir -m 755 "$dir/mnt"
mkdir -m 700 "$HOME" "$XDG_RUNTIME_DIR"
chmod 755 "$dir"

end() {
	local mounted
	cd /
	mounted=$(findmnt -n -o TARGET "$dir/mnt" || true)
	[ -z "$mounted" ] || "$FOLIOFS" umount "$dir/mnt" || fusermount3 -u -z "$dir/mnt"
	findmnt -n "$dir/mnt" >/dev/null || rm -rf "$dir"
}
trap end EXIT

fresh() { # OPTION...: a new vault, mounted
	! findmnt -n "$dir/mnt" >/dev/null || "$FOLIOFS" umount "$dir/mnt"
	rm -rf "$dir/store" "$HOME"
	mkdir -m 700 "$HOME"
	"$FOLIOFS" init --kdf-cost 15 "$dir/store" >/dev/null
	"$FOLIOFS" mount "$dir/store" "$dir/mnt" --allow-other -o dev,suid --write-back 1s "$@"
}

pjdfstest() {
	local log=$dir/pjdfstest.log ok todo bad
	fresh
	mkdir "$dir/mnt/work"
	(cd "$dir/mnt/work" && prove -r -v "$1/tests") >"$log" 2>&1 || true
	ok=$(grep -c '^ok ' "$log" || true)
	todo=$(grep -c '^not ok .*# TODO' "$log" || true)
	bad=$(grep '^not ok ' "$log" | grep -vc '# TODO' || true)
	grep '^not ok ' "$log" | grep -v '# TODO' || true
	tail -n 3 "$log"
	echo "pjdfstest: $ok ok, $todo expected to fail on Linux (TODO), $bad failed; at least $PJD_MIN must not fail"
	[ $((ok + todo)) -ge "$PJD_MIN" ] && [ "$bad" = 0 ]
}

fsx() { # BLOCK ARGUMENT...
	local block=$1
	shift
	fresh --block-size "$block" --memory 16M --cache-size 32M
	if "$FSX" -q -N "$FSX_OPS" -P "$dir" "$@" "$dir/mnt/file" >"$dir/fsx.log" 2>&1; then
		echo "fsx $* (blocks of $block): $FSX_OPS operations, no difference"
		return 0
	fi
	tail -n 30 "$dir/fsx.log"
	echo "fsx $* (blocks of $block): FAILED"
	return 1
}

if [ -x "${PJDFSTEST:-}/pjdfstest" ]; then
	ran=1
	pjdfstest "$(realpath "$PJDFSTEST")" || failed=1
else
	echo "SKIPPED: pjdfstest: PJDFSTEST does not name a built checkout"
fi

if [ -x "${FSX:-}" ]; then
	ran=1
	FSX=$(realpath "$FSX")
	for b in 4K 16K 32K 1M; do
		fsx $b -S 1 -c 200 || failed=1
		fsx $b -S 2 -R -W || failed=1
		fsx $b -S 3 -f || failed=1
		fsx $b -S 4 -Z -R -W -r 4096 -w 4096 || failed=1
	done
else
	echo "SKIPPED: fsx: FSX does not name a program"
fi

if [ $ran = 0 ]; then exit 77; fi
exit $failed
