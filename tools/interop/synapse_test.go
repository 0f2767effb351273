//go:build interop

package interop

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"hanse/pkg/freeport"
	"hanse/tools/cluster"
)

//go:embed requirements.txt
var requirements string

// synapse is a Synapse with SQLite, its federation listener behind TLS of the tests' CA.
type synapse struct {
	child
	python     string
	serverName string
	secret     string
	link       *link // before its federation listener
	reader     reader
}

// install makes a virtual environment with the pinned Synapse, once for each pin, and returns its Python.
func install(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(requirements))
	dir := filepath.Join(cache, "hanse-interop", hex.EncodeToString(sum[:6]))
	python := filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return python, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	list := filepath.Join(filepath.Dir(dir), "requirements.txt")
	if err := os.WriteFile(list, []byte(requirements), 0o644); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"python3", "-m", "venv", dir},
		{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", list},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return python, os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644)
}

const synapseConfig = `
server_name: %[1]q
pid_file: %[2]q
public_baseurl: %[3]q
report_stats: false
signing_key_path: %[4]q
media_store_path: %[5]q
database:
  name: sqlite3
  args: {database: %[6]q}
listeners:
  - {port: %[7]d, bind_addresses: ["127.0.0.1"], type: http, tls: false, resources: [{names: [client], compress: false}]}
  - {port: %[8]d, bind_addresses: ["127.0.0.1"], type: http, tls: true, resources: [{names: [federation, keys], compress: false}]}
tls_certificate_path: %[9]q
tls_private_key_path: %[10]q
federation_custom_ca_list: [%[11]q]
ip_range_blacklist: []
federation_ip_range_blacklist: []
trusted_key_servers: []
suppress_key_server_warning: true
registration_shared_secret: %[12]q
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
allow_public_rooms_over_federation: true
allow_public_rooms_without_auth: true
serve_server_wellknown: false
default_room_version: "11"
presence: {enabled: true}
room_list_publication_rules: [{action: allow}]
log_config: %[13]q
federation:
  destination_min_retry_interval: 1s
  destination_max_retry_interval: 2s
  max_long_retry_delay: 1s
  max_long_retries: 3
  client_timeout: 20s
experimental_features: {msc4291_enabled: true}
rc_message: {per_second: 10000, burst_count: 10000}
rc_registration: {per_second: 10000, burst_count: 10000}
rc_login:
  address: {per_second: 10000, burst_count: 10000}
  account: {per_second: 10000, burst_count: 10000}
  failed_attempts: {per_second: 10000, burst_count: 10000}
rc_joins:
  local: {per_second: 10000, burst_count: 10000}
  remote: {per_second: 10000, burst_count: 10000}
rc_room_creation: {per_second: 10000, burst_count: 10000}
rc_joins_per_room: {per_second: 10000, burst_count: 10000}
rc_invites:
  per_room: {per_second: 10000, burst_count: 10000}
  per_user: {per_second: 10000, burst_count: 10000}
  per_issuer: {per_second: 10000, burst_count: 10000}
rc_key_requests: {per_second: 10000, burst_count: 10000}
rc_federation: {window_size: 1000, sleep_limit: 10000, sleep_delay: 10, reject_limit: 100000, concurrent: 100}
`

const synapseLog = `
version: 1
formatters: {plain: {format: '%%(asctime)s %%(name)s %%(levelname)s %%(request)s %%(message)s'}}
handlers: {file: {class: logging.FileHandler, formatter: plain, filename: %q}}
root: {level: INFO, handlers: [file]}
disable_existing_loggers: false
`

// newSynapse lays a Synapse out in dir; start runs it.
func newSynapse(ctx context.Context, dir string, ca *cluster.CA) (*synapse, error) {
	python, err := install(ctx)
	if err != nil {
		return nil, fmt.Errorf("install Synapse: %w", err)
	}
	client, err := freeport.Port()
	if err != nil {
		return nil, err
	}
	federation, err := freeport.Port()
	if err != nil {
		return nil, err
	}
	link, err := newLink("127.0.0.1:" + strconv.Itoa(federation))
	if err != nil {
		return nil, err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	s := &synapse{
		child: child{
			name: "Synapse", dir: dir, command: []string{python, "-m", "synapse.app.homeserver", "-c", at("homeserver.yaml")},
			logs: []string{"output.log", "synapse.log"}, baseURL: "http://127.0.0.1:" + strconv.Itoa(client),
		},
		python: python, serverName: "127.0.0.1:" + strconv.Itoa(link.port()), link: link, secret: "interop-secret",
	}
	cert, key, err := ca.IssueFiles(dir, "synapse", "127.0.0.1", "localhost")
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(synapseConfig, s.serverName, at("synapse.pid"), s.baseURL, at("signing.key"), at("media"), at("homeserver.db"),
		client, federation, cert, key, ca.CertFile, s.secret, at("log.yaml"))
	if err := errors.Join(
		os.WriteFile(at("homeserver.yaml"), []byte(config), 0o600),
		os.WriteFile(at("log.yaml"), []byte(fmt.Sprintf(synapseLog, at("synapse.log"))), 0o600),
	); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, python, "-m", "synapse.app.homeserver", "-c", at("homeserver.yaml"), "--generate-keys").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("generate keys: %w\n%s", err, out)
	}
	return s, nil
}

// close ends Synapse and what stands around it.
func (s *synapse) close() error {
	return errors.Join(s.reader.stop(), s.stop(), s.link.close())
}
