#!/bin/sh
# Installs the packages of tests/packages.txt that are missing: install.sh build|test
# By apt, as root or through sudo.  Servers among them are not started.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
want=$(sed -e "$([ "${1:-test}" = build ] && echo '/tests only/,$d')" -e 's/#.*//' "$here/packages.txt")
missing=
for p in $want; do
	dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null | grep -q '^ii' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
sudo=
if [ "$(id -u)" != 0 ]; then
	sudo=$(command -v sudo) || { echo "missing packages; as root do: apt-get install$missing" >&2; exit 1; }
fi
# Debian starts a server when it is installed unless this file says no; one that is there already stays as it is.
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
	$sudo chmod 755 $policy
	made=1
	trap '[ -z "$made" ] || $sudo rm -f $policy' EXIT
fi
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
