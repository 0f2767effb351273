package people

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
)

var prepared struct {
	sync.Mutex
	commands map[Kind][]string
}

// program builds or installs what a kind needs, once, and returns its command line.
func program(kind Kind) ([]string, error) {
	prepared.Lock()
	defer prepared.Unlock()
	if command := prepared.commands[kind]; command != nil {
		return command, nil
	}
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return nil, errors.New("where is the source?")
	}
	dir := filepath.Dir(filepath.Dir(file))
	build := map[Kind]func(dir string) ([]string, error){Go: buildGo, JS: installJS}[kind]
	command, err := build(dir)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", kind, err)
	}
	if prepared.commands == nil {
		prepared.commands = make(map[Kind][]string)
	}
	prepared.commands[kind] = command
	return command, nil
}

// cacheDir is where what was built stays for the next test, one test process at a time.
func cacheDir() (dir string, unlock func(), err error) {
	dir = filepath.Join(os.TempDir(), fmt.Sprintf("hanse-e2e-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return "", nil, err
	}
	return dir, func() { f.Close() }, nil
}

func buildGo(dir string) ([]string, error) {
	cache, unlock, err := cacheDir()
	if err != nil {
		return nil, err
	}
	defer unlock()
	bin := filepath.Join(cache, "gomatrix")
	cmd := exec.Command("go", "build", "-tags", "goolm", "-o", bin, "./gomatrix")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return []string{bin}, nil
}

func installJS(dir string) ([]string, error) {
	into, err := installPackages(dir)
	return []string{"node", filepath.Join(into, "main.mjs")}, err
}

// installPackages installs the packages of js/package-lock.json into the cache, under the lock file's hash.
func installPackages(dir string) (string, error) {
	cache, unlock, err := cacheDir()
	if err != nil {
		return "", err
	}
	defer unlock()
	lock, err := os.ReadFile(filepath.Join(dir, "js", "package-lock.json"))
	if err != nil {
		return "", err
	}
	into := filepath.Join(cache, fmt.Sprintf("js-%.8x", sha256.Sum256(lock)))
	if err := copyFiles(filepath.Join(dir, "js"), into); err != nil {
		return "", err
	}
	done := filepath.Join(into, "node_modules", ".installed")
	if _, err := os.Stat(done); errors.Is(err, fs.ErrNotExist) {
		cmd := exec.Command("npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--ignore-scripts")
		cmd.Dir = into
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("npm ci: %w: %s", err, out)
		}
		if err := os.WriteFile(done, nil, 0o644); err != nil {
			return "", err
		}
	}
	return into, nil
}

// Packages returns the folder of what is written in JavaScript, with its packages installed.
func Packages() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("where is the source?")
	}
	return installPackages(filepath.Dir(filepath.Dir(file)))
}

// copyFiles copies the files of a folder, but not its folders: Node finds packages beside the program.
func copyFiles(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}
