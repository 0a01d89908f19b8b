set -eu
mkdir -p /var/lib/nginx /var/log/nginx
exec /usr/sbin/nginx
