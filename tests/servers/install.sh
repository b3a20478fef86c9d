#!/bin/sh
# Installs from Debian what the tests start as private servers. Does nothing where all of it is there.
# Installs only: no service is started, no PostgreSQL cluster made.
set -eu

packages="postgresql rabbitmq-server"

missing=""
for package in $packages; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    exec sudo "$0"
fi

policy=/usr/sbin/policy-rc.d
no_cluster=/etc/postgresql-common/createcluster.d/doctorgen-tests.conf
ours=""
leave_no_trace() {
    # shellcheck disable=SC2086
    rm -f $ours
}
trap leave_no_trace EXIT

if [ ! -e "$policy" ]; then
    ours="$ours $policy"
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
mkdir -p "$(dirname "$no_cluster")"
ours="$ours $no_cluster"
echo "create_main_cluster = false" >"$no_cluster"

echo "Installing$missing"
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $missing
