# What pg_createcluster does, in short.
set -eu
bin=/usr/lib/postgresql/15/bin
data=/var/lib/postgresql/15/main
postgres() {
	program=$1
	shift
	setpriv --reuid=postgres --regid=postgres --clear-groups $bin/$program "$@"
}
if [ ! -e $data/PG_VERSION ]; then
	mkdir -p $data /run/postgresql
	chown postgres:postgres $data /run/postgresql
	postgres initdb --pgdata=$data --auth=trust --no-locale --encoding=UTF8 --data-checksums --no-sync
	echo "host all all 10.99.0.0/24 trust" >>$data/pg_hba.conf
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups $bin/postgres -D $data \
	-c listen_addresses='*' -c shared_buffers=16MB -c jit=off
