#!/bin/sh
# Runs a server with all roles in one process, for 'make run'. The data directory keeps everything, its configuration
# file too. The variables count when the data directory is new; later the configuration file does.
#
#   SERVER_NAME  name of the server (localhost:8448)
#   DATA         data directory (data)
#   CLIENT_PORT  port of the client API (8008)
#   CA           directory of the CA for local certificates, shared by servers that shall talk to each other (data/ca)
set -eu

data=${DATA:-data}
file=$data/hanse.yaml

# write makes a new configuration file, and a certificate.
write() {
	server_name=${SERVER_NAME:-localhost:8448}
	client_port=${CLIENT_PORT:-8008}
	ca=${CA:-data/ca}
	host=${server_name%:*}
	case "$server_name" in
	*:*) port=${server_name##*:} ;;
	*) port=8448 ;;
	esac
	bin/dev-cert --ca "$ca" --out "$data" "$host"
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
  public_base_url: "http://localhost:$client_port"
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
}

# get prints a value of the configuration.
get() { bin/hanse --config "$file" config "$1"; }

# refuse ends because a variable asks for another server than the one in the data directory.
refuse() {
	echo "make run: $file is the configuration of another server: $1 is $2 there, not $3." >&2
	echo "For a new server beside it name another directory: make run DATA=data2 SERVER_NAME=localhost:8449 CLIENT_PORT=8010" >&2
	echo "To change a setting of this server, edit $file. A server's name never changes." >&2
	exit 1
}

mkdir -p "$data"
[ -e "$file" ] || write

names=$(get server_names)
address=$(get listen.client.address)
if [ -n "${SERVER_NAME:-}" ] && ! echo "$names" | grep -qxF -- "$SERVER_NAME"; then
	refuse server_names "$names" "$SERVER_NAME"
fi
if [ -n "${CLIENT_PORT:-}" ] && [ "${address##*:}" != "$CLIENT_PORT" ]; then
	refuse listen.client.address "$address" "port $CLIENT_PORT"
fi

cat <<TEXT

Hanse $(echo $names)
  for clients (homeserver URL)   $(get client.public_base_url)
  new account, in another shell  bin/hanse --config $file user create NAME
  configuration                  $file
  a second server                make run DATA=data2 SERVER_NAME=localhost:8449 CLIENT_PORT=8010
  end                            Ctrl-C

TEXT
exec bin/hanse --config "$file" run
