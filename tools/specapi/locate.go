package specapi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// EnvDir names the environment variable that overrides where the data lies.
const EnvDir = "HANSE_SPEC_DIR"

// ErrNoData is returned by Locate when the specification's data is nowhere.
var ErrNoData = errors.New("specapi: data of the Matrix specification not found; set " + EnvDir)

// Locate returns the folder that holds the specification's api/ and
// event-schemas/ folders: $HANSE_SPEC_DIR, else, for the working directory and
// each folder above it, spec/data, ../shared/spec/data or
// node_modules/@matrix-org/spec. The npm package has held only sas-emoji.json so
// far; it counts when it carries the API data.
func Locate() (string, error) {
	if dir := os.Getenv(EnvDir); dir != "" {
		if d, ok := dataIn(dir); ok {
			return d, nil
		}
		return "", fmt.Errorf("specapi: %s=%s holds no api/client-server", EnvDir, dir)
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("specapi: working directory: %w", err)
	}
	for {
		for _, rel := range []string{
			"spec/data",
			"../shared/spec/data",
			"node_modules/@matrix-org/spec",
		} {
			if d, ok := dataIn(filepath.Join(wd, rel)); ok {
				return d, nil
			}
		}
		up := filepath.Dir(wd)
		if up == wd {
			return "", ErrNoData
		}
		wd = up
	}
}

// dataIn finds the data in dir itself or in its data/ or data-definitions/.
func dataIn(dir string) (string, bool) {
	for _, d := range []string{dir, filepath.Join(dir, "data"), filepath.Join(dir, "spec", "data")} {
		if st, err := os.Stat(filepath.Join(d, "api", "client-server")); err == nil && st.IsDir() {
			return d, true
		}
	}
	return "", false
}

// Load reads the specification's data from dir, or from where Locate finds it
// when dir is empty.
func Load(dir string) (*Spec, error) {
	if dir == "" {
		d, err := Locate()
		if err != nil {
			return nil, err
		}
		dir = d
	}
	d, ok := dataIn(dir)
	if !ok {
		return nil, fmt.Errorf("%w (looked in %s)", ErrNoData, dir)
	}
	return LoadFS(os.DirFS(d))
}

// apiFolders are the documents with operations that a homeserver serves.
var apiFolders = []string{"api/client-server", "api/server-server"}

// LoadFS is Load for a file system whose root holds api/ and event-schemas/.
func LoadFS(fsys fs.FS) (*Spec, error) {
	var names []string
	for _, folder := range apiFolders {
		m, err := fs.Glob(fsys, folder+"/*.yaml")
		if err != nil {
			return nil, fmt.Errorf("specapi: list %s: %w", folder, err)
		}
		names = append(names, m...)
	}
	if len(names) == 0 {
		return nil, ErrNoData
	}
	src := newSource(fsys)
	docs, err := src.parseAll(names)
	if err != nil {
		return nil, err
	}
	s := &Spec{src: src, seen: map[string]*counter{}, compiled: map[string]*lazySchema{}}
	for i, name := range names {
		if err := s.addDocument(name, docs[i]); err != nil {
			return nil, fmt.Errorf("specapi: %s: %w", name, err)
		}
	}
	s.routes.sort()
	s.initCompiler()
	return s, nil
}
