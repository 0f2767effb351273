package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

type probeCmd struct {
	URL     []string      `arg:"" help:"What to ask."`
	Timeout time.Duration `help:"How long to try." default:"60s"`
}

func (c *probeCmd) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var errs []error
	for _, url := range c.URL {
		status, err := probe(ctx, url)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Println(status, url)
	}
	return errors.Join(errs...)
}

// probe asks until there is an answer that is no error of the server, or the time is over; the error is the last one then.
func probe(ctx context.Context, url string) (status int, err error) {
	client := &http.Client{Timeout: 10 * time.Second}
	for {
		status, err = get(ctx, client, url)
		if err == nil && status < http.StatusInternalServerError {
			return status, nil
		}
		if err == nil {
			err = fmt.Errorf("%s answers %d", url, status)
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(time.Second):
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
