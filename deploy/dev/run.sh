#!/bin/sh
# Runs a server with all roles in one process, for 'make run'. The data directory keeps everything, its configuration
# file too: change that and start again.
#
#   SERVER_NAME  name of the server (localhost:8448)
#   DATA         data directory (data)
#   CLIENT_PORT  port of the client API (8008)
#   CA           directory of the CA for local certificates, shared by servers that shall talk to each other (data/ca)
set -eu

server_name=${SERVER_NAME:-localhost:8448}
data=${DATA:-data}
client_port=${CLIENT_PORT:-8008}
ca=${CA:-data/ca}
file=$data/hanse.yaml

host=${server_name%:*}
case "$server_name" in
*:*) port=${server_name##*:} ;;
*) port=8448 ;;
esac

mkdir -p "$data"
if [ ! -e "$file" ]; then
	bin/dev-cert --ca "$ca" --out "$data" "$host"
	base=http://localhost:$client_port
	cat >"$file.new" <<YAML
# Written by 'make run'. 'bin/hanse config --config $file' shows all there is to set.
server_names: ["$server_name"]
data_dir: "$data"
listen:
  client:
    address: "127.0.0.1:$client_port"
  federation:
    address: "127.0.0.1:$port"
    tls_cert: "$data/server.pem"
    tls_key: "$data/server.key"
  monitoring:
    address: "127.0.0.1:$((client_port + 1000))"
  trusted_proxies: ["127.0.0.0/8", "::1/128"]
client:
  public_base_url: "$base"
  public_server: "$host:$port"
  registration:
    shared_secret: "$(head -c 24 /dev/urandom | base64 | tr -d '\n')"
federation:
  # Other servers on this machine may be talked to; take this out for a server in the wide world.
  ca_files: ["$ca/ca.pem"]
  allow: ["127.0.0.0/8", "::1/128"]
log:
  format: text
YAML
	chmod 600 "$file.new"
	mv "$file.new" "$file"
fi

cat <<TEXT

Hanse $server_name
  for clients (homeserver URL)   http://localhost:$client_port
  new account, in another shell  bin/hanse --config $file user create NAME
  configuration                  $file
  a second server                make run DATA=data2 SERVER_NAME=localhost:8449 CLIENT_PORT=8010
  end                            Ctrl-C

TEXT
exec bin/hanse --config "$file" run
