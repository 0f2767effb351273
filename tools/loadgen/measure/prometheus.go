package measure

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Ratio is what one counter of the server grew by for each unit that another grew by: "events per commit".
type Ratio struct{ Name, Of, Per string }

// ParseRatio reads "A/B", where A and B are names of Prometheus counters.
func ParseRatio(name, text string) (Ratio, error) {
	of, per, ok := strings.Cut(text, "/")
	if !ok || of == "" || per == "" {
		return Ratio{}, fmt.Errorf("ratio %q is not counter/counter", text)
	}
	return Ratio{name, of, per}, nil
}

// readCounters sums the samples of each counter over all labels and endpoints; nil if nothing was asked for.
func (m *Meter) readCounters(ctx context.Context) (map[string]float64, error) {
	if len(m.Ratios) == 0 {
		return nil, nil
	}
	sums := make(map[string]float64)
	for _, r := range m.Ratios {
		sums[r.Of], sums[r.Per] = 0, 0
	}
	for _, url := range m.Metrics {
		if err := addSamples(ctx, url, sums); err != nil {
			return nil, fmt.Errorf("metrics of %s: %w", url, err)
		}
	}
	return sums, nil
}

func addSamples(ctx context.Context, url string, sums map[string]float64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	return scanSamples(resp.Body, sums)
}

// scanSamples reads the text format of Prometheus: name{labels} value [time].
func scanSamples(r io.Reader, sums map[string]float64) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		end := strings.IndexAny(line, "{ ")
		if end < 0 {
			continue
		}
		name, rest := line[:end], line[end:]
		if _, wanted := sums[name]; !wanted {
			continue
		}
		if brace := strings.LastIndexByte(rest, '}'); brace >= 0 {
			rest = rest[brace+1:]
		}
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return fmt.Errorf("sample %q", line)
		}
		v, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return fmt.Errorf("sample %q: %w", line, err)
		}
		sums[name] += v
	}
	return lines.Err()
}

// ratios are what the counters come to between two readings; those whose divisor did not move are left out.
func (m *Meter) ratios(before, after map[string]float64) map[string]float64 {
	if after == nil {
		return nil
	}
	out := make(map[string]float64, len(m.Ratios))
	for _, r := range m.Ratios {
		if per := after[r.Per] - before[r.Per]; per > 0 {
			out[r.Name] = (after[r.Of] - before[r.Of]) / per
		}
	}
	return out
}
