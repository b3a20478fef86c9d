#!/bin/sh
# Installs, with apt-get, the servers that the tests start themselves. Quick when all are there; starts no service.
set -eu

# One line for each need: a file that must exist (a pattern will do), and the Debian package that brings it.
needs='
/usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server
/usr/bin/epmd                         erlang-base
'

missing=$(printf '%s' "$needs" | while read -r file package; do
    [ -z "$file" ] || ls $file >/dev/null 2>&1 || echo "$package"
done | sort -u)

if [ -z "$missing" ]; then
    echo "All servers for the tests are installed."
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "There is no apt-get here. Install by your own means:" $missing >&2
    exit 1
fi

as_root=''
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "Run as root, or install sudo. Missing:" $missing >&2; exit 1; }
    as_root=sudo
fi

# Debian starts a server as soon as it is installed, unless this file says no (101). Ours are started by the tests.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
fi

echo "Installing:" $missing
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
