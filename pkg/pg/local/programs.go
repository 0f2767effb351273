package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrNotInstalled is returned when the machine has no PostgreSQL server programs.
var ErrNotInstalled = errors.New("no PostgreSQL server programs found (Debian: apt-get install postgresql)")

// Programs is a directory with initdb and postgres of one version.
type Programs struct {
	Dir   string
	Major int
}

// patterns is where distributions put the server programs of each major version.
var patterns = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu, SUSE
	"/usr/pgsql-*/bin",          // PGDG RPMs
	"/usr/libexec/postgresql*",  // Alpine
	"/opt/homebrew/opt/postgresql@*/bin",
}

// Find returns the installed programs: of the given major version, or the newest if major is 0.
func Find(major int) (Programs, error) {
	var best Programs
	for _, dir := range candidates() {
		v, err := version(dir)
		if err != nil || (major != 0 && v != major) {
			continue
		}
		if v > best.Major {
			best = Programs{Dir: dir, Major: v}
		}
	}
	if best.Dir == "" {
		if major != 0 {
			return best, fmt.Errorf("version %d: %w", major, ErrNotInstalled)
		}
		return best, ErrNotInstalled
	}
	return best, nil
}

func candidates() []string {
	var dirs []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err == nil {
			dirs = append(dirs, found...)
		}
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(initdb))
	}
	return dirs
}

// version asks the server program of a directory for its major version.
func version(dir string) (int, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return 0, err
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output() // postgres (PostgreSQL) 15.18 (Debian ...)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(out), ") ")
	digits := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = rest[:i]
	}
	return strconv.Atoi(digits)
}

// account is who a server runs as.
type account struct {
	name     string
	uid, gid int
	cred     *syscall.Credential // nil: as this process
}

// accountFor returns the account for a data directory: this process's, or for root the directory's owner, or
// "postgres" where there is none yet.
func accountFor(dir string) (account, error) {
	self, err := user.Current()
	if err != nil {
		return account{}, fmt.Errorf("find the account of this process: %w", err)
	}
	if os.Geteuid() != 0 {
		return account{name: self.Username, uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	owner, err := ownerOf(dir)
	if err != nil {
		return account{}, err
	}
	uid, uidErr := strconv.Atoi(owner.Uid)
	gid, gidErr := strconv.Atoi(owner.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return account{}, err
	}
	cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return account{name: owner.Username, uid: uid, gid: gid, cred: cred}, nil
}

func ownerOf(dir string) (*user.User, error) {
	info, err := os.Stat(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			owner, err := user.LookupId(strconv.Itoa(int(st.Uid)))
			if err != nil {
				return nil, fmt.Errorf("owner of %s: %w", dir, err)
			}
			return owner, nil
		}
	}
	owner, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no account for it: %w", err)
	}
	return owner, nil
}
