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
// node_modules/@matrix-org/spec. The npm package has held only sas-emoji.json up
// to 1.16.0; it counts once it carries the API data.
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

// Load reads the specification's data from dir. When dir is empty it reads from
// where Locate finds the data, and if that is nowhere takes what is embedded here.
func Load(dir string) (*Spec, error) {
	if dir == "" {
		d, err := Locate()
		if errors.Is(err, ErrNoData) {
			return loadEmbedded()
		}
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
	if err := src.parseAll(names); err != nil {
		return nil, err
	}
	return build(src, names)
}

// build registers the operations of parsed documents.
func build(src *source, names []string) (*Spec, error) {
	s := &Spec{src: src, seen: map[string]*counter{}, compiled: map[string]*lazySchema{}}
	for _, name := range names {
		doc, err := src.parse(name)
		if err != nil {
			return nil, fmt.Errorf("specapi: %w", err)
		}
		if err := s.addDocument(name, doc); err != nil {
			return nil, fmt.Errorf("specapi: %s: %w", name, err)
		}
	}
	s.routes.sort()
	s.initCompiler()
	return s, nil
}
