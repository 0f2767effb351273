package app

import (
	"errors"
	"log/slog"

	"hanse/pkg/appservice"
)

// Check reports what would keep a process with these roles, all of them if none is named, from starting with a configuration
// that is valid by itself: what is missing for the roles, and what is wrong with the files that it names. It connects to nothing.
func Check(cfg *Config, names []string, log *slog.Logger) error {
	specs, err := pick(names)
	if err != nil {
		return err
	}
	errs := []error{embeddedFits(cfg, specs)}
	note := func(err error) { errs = append(errs, err) }
	for _, api := range []*API{&cfg.Listen.Client, &cfg.Listen.Federation} {
		_, err := api.serverTLS()
		note(err)
	}
	_, err = cfg.Listen.GRPC.mutualTLS(log)
	note(err)
	_, err = rootCAs(cfg.Federation.CAFiles)
	note(err)
	note(appservice.CheckFiles(cfg.AppServices.Files, cfg.names()))
	if cfg.Redis.URL != "" {
		client, err := cfg.Redis.client()
		if note(err); err == nil {
			note(client.Close())
		}
	}
	return errors.Join(errs...)
}
