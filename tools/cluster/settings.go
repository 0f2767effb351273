package cluster

import (
	"crypto/tls"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ConfigFile is what all processes of the cluster read; what is different is on their command lines.
func (c *Cluster) ConfigFile() string { return filepath.Join(c.cfg.Dir, "hanse.yaml") }

// LogDir has a file for each process.
func (c *Cluster) LogDir() string { return filepath.Join(c.cfg.Dir, "log") }

func (c *Cluster) writeConfig() error {
	set := map[string]string{
		"server_names":                      "[" + strconv.Quote(c.ServerName) + "]",
		"client.public_base_url":            strconv.Quote(c.BaseURL),
		"client.public_server":              strconv.Quote(c.ServerName),
		"media.store.url":                   strconv.Quote("file://" + filepath.Join(c.cfg.Dir, "media")),
		"data_dir":                          strconv.Quote(filepath.Join(c.cfg.Dir, "data")),
		"drain_delay":                       "1s",
		"listen.trusted_proxies":            `[127.0.0.0/8, "::1/128"]`,
		"client.registration.enabled":       "true",
		"client.registration.shared_secret": strconv.Quote(c.SharedSecret),
		"federation.ca_files":               "[" + strconv.Quote(c.CA.CertFile) + "]",
		"federation.allow":                  `[127.0.0.0/8, "::1/128"]`,
		"rate_limits.enabled":               "false",
	}
	if !c.cfg.AllInOne {
		set["nats.url"] = strconv.Quote("nats://" + c.natsAddr)
		set["redis.url"] = strconv.Quote("redis://" + c.redisAddr)
		set["postgresql.max_conns"] = "12"
		var dsns []string
		for _, p := range c.pgs {
			dsns = append(dsns, strconv.Quote(p.server.DSN(database)))
		}
		set["postgresql.shards"] = "[" + strings.Join(dsns, ", ") + "]"
	}
	maps.Copy(set, c.cfg.Settings)
	return os.WriteFile(c.ConfigFile(), []byte(toYAML(set)), 0o600)
}

// toYAML nests values by the dots of their keys.
func toYAML(set map[string]string) string {
	var b strings.Builder
	var open []string
	for _, key := range slices.Sorted(maps.Keys(set)) {
		path := strings.Split(key, ".")
		sections, name := path[:len(path)-1], path[len(path)-1]
		same := 0
		for same < len(open) && same < len(sections) && open[same] == sections[same] {
			same++
		}
		for i := same; i < len(sections); i++ {
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", i), sections[i])
		}
		open = sections
		fmt.Fprintf(&b, "%s%s: %s\n", strings.Repeat("  ", len(sections)), name, set[key])
	}
	return b.String()
}

func edgeTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
}
