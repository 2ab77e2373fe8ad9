#!/bin/bash
# foliofs in two minutes, on Debian 12: installs what is missing, builds, and shows an encrypted folder on a
# "server" that is a temporary local directory.  Leaves nothing behind but the build and the packages.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

if [ -n "${FOLIOFS:-}" ]; then
	foliofs=$FOLIOFS
else
	say "Building (packages by apt when something is missing)"
	sh "$here/tests/install.sh" build
	work=$(mktemp -d /tmp/foliofs-build-XXXXXX)
	log=$work/log
	if ! { meson setup "$work/b" "$here" -Dtests=false && ninja -C "$work/b"; } >"$log" 2>&1; then
		tail -30 "$log"
		rm -rf "$work"
		exit 1
	fi
	foliofs=$work/b/src/foliofs
fi

dir=$(mktemp -d /tmp/foliofs-quickstart-XXXXXX)
finish()
{
	trap '' INT TERM
	"$foliofs" umount "$dir/mnt" 2>/dev/null || true
	if mountpoint -q "$dir/mnt"; then
		fusermount3 -u -z "$dir/mnt" || true
	fi
	rm -rf "$dir" "${work:-}"
}
trap finish EXIT
trap 'exit 1' INT TERM

if [ ! -w /dev/fuse ]; then
	echo "There is no usable /dev/fuse here, so nothing can be mounted (in a container: --device /dev/fuse --cap-add SYS_ADMIN)." >&2
	exit 1
fi

# A home of its own, so that yours is not touched.
mkdir -p "$dir"/{mnt,cache,state,run,config}
chmod 700 "$dir"/run
export XDG_CACHE_HOME=$dir/cache XDG_STATE_HOME=$dir/state XDG_RUNTIME_DIR=$dir/run XDG_CONFIG_HOME=$dir/config
store=$dir/server
head -c 18 /dev/urandom | base64 >"$dir/passphrase"
chmod 600 "$dir/passphrase"
pass=(--password-file "$dir/passphrase")

say "1. A vault: foliofs init $store"
"$foliofs" init "$store" "${pass[@]}"

say "2. Mount it, copy a tree in"
"$foliofs" mount "$store" "$dir/mnt" "${pass[@]}"
tree=/usr/include/linux
[ -d $tree ] || tree=$here/src
time cp -a "$tree" "$dir/mnt/tree"
ln -s tree "$dir/mnt/link"
echo "This is the text we look for on the server." >"$dir/mnt/secret plans.txt"
echo "$(find "$dir/mnt/tree" -type f | wc -l) files, $(du -sh --apparent-size "$dir/mnt/tree" | cut -f1)"

say "3. Unmount when everything is on the server"
"$foliofs" status "$dir/mnt"
"$foliofs" umount --wait "$dir/mnt"

say "4. What the server sees: random names, random bytes"
find "$store" -type f | sed "s|$dir/||" | head -8
echo "$(find "$store" -type f | wc -l) objects, $(du -sh --apparent-size "$store" | cut -f1)"
if grep -rqE 'text we look for|secret plans' "$store" "$XDG_CACHE_HOME" "$XDG_STATE_HOME"; then
	echo "FAILED: plaintext was found" >&2
	exit 1
fi
echo "Neither the text nor the file's name is anywhere on the server, in the cache or in the journal."

say "5. Another computer: empty cache, nothing remembered"
rm -rf "$dir/cache" "$dir/state"
"$foliofs" mount "$store" "$dir/mnt" "${pass[@]}"
diff -r --no-dereference "$tree" "$dir/mnt/tree"
cat "$dir/mnt/secret plans.txt"
echo "Everything is the same."
"$foliofs" umount "$dir/mnt"

say "The same on a WebDAV server"
cat <<'END'
  foliofs init  davs://USER@cloud.example.org/remote.php/dav/files/USER/vault --dav-password-file ~/.dav
  foliofs mount davs://USER@cloud.example.org/remote.php/dav/files/USER/vault ~/vault --dav-password-file ~/.dav
  foliofs status ~/vault
  foliofs umount --wait ~/vault
END
