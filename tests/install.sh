#!/bin/sh
# Installs what of a package list is missing (Debian, as root or by sudo).
# Usage: tests/install.sh LIST
set -eu
missing=
for p in $(sed 's/#.*//' "$1"); do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
# Servers are started by the tests, on their own ports, not by their packages.
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e "$policy" ]; then
	made=1
	printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
	$sudo chmod 755 "$policy"
fi
trap 'if [ -n "$made" ]; then $sudo rm -f "$policy"; fi' EXIT
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
