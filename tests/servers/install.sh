#!/bin/sh
# Installs from Debian what the tests start as private servers. Does nothing where all of it is there.
# Installs only: no service is started, no PostgreSQL cluster made.
set -eu

# A line for each need: a file that must exist (a pattern will do), and the Debian package that brings it.
needs='
/usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server
/usr/bin/epmd                         erlang-base
/usr/lib/postgresql/*/bin/postgres    postgresql
/usr/bin/ceph                         ceph-common
/usr/bin/ceph-mon                     ceph-mon
/usr/bin/ceph-osd                     ceph-osd
/usr/bin/radosgw                      radosgw
'

missing=$(printf '%s' "$needs" | while read -r file package; do
    # shellcheck disable=SC2086
    [ -z "$file" ] || ls $file >/dev/null 2>&1 || echo "$package"
done)
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

# Debian starts a server as soon as it is installed, unless this file says no (101).
if [ ! -e "$policy" ]; then
    ours="$ours $policy"
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
mkdir -p "$(dirname "$no_cluster")"
ours="$ours $no_cluster"
echo "create_main_cluster = false" >"$no_cluster"

echo "Installing" $missing
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $missing
