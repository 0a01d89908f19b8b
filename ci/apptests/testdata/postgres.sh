# What pg_createcluster and pg_ctlcluster do, in short.
set -eu
bin=/usr/lib/postgresql/15/bin
data=/var/lib/postgresql/15/main
as="setpriv --reuid=postgres --regid=postgres --clear-groups"
mkdir -p $data /run/postgresql
chown postgres:postgres $data /run/postgresql
if [ ! -e $data/PG_VERSION ]; then
	$as $bin/initdb --pgdata=$data --auth=trust --no-locale --encoding=UTF8 --data-checksums --no-sync
	echo "host all all 10.99.0.0/24 trust" >>$data/pg_hba.conf
fi
exec $as $bin/postgres -D $data -c listen_addresses='*' -c shared_buffers=16MB -c jit=off
