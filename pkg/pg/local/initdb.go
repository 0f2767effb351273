package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// inheritedDir is the data directory as the child sees it: the first of exec.Cmd.ExtraFiles.
const inheritedDir = "/proc/self/fd/3"

// hba lets in whoever the operating system vouches for; pg_ident.conf says who that may be.
const hba = "local all all peer map=hanse\n"

// prepare makes sure that dir is a data directory that the account owns, and finds the programs for it.
func prepare(ctx context.Context, dir string, acc account) (Programs, error) {
	b, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return initialise(ctx, dir, acc)
	}
	if err != nil {
		return Programs{}, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return Programs{}, fmt.Errorf("PG_VERSION: %w", err)
	}
	programs, err := Find(major)
	if err != nil {
		return Programs{}, fmt.Errorf("the data were written by another version: %w", err)
	}
	return programs, writeAccess(dir, acc)
}

// initialise runs initdb beside dir and moves the result there when it is complete.
func initialise(ctx context.Context, dir string, acc account) (Programs, error) {
	programs, err := Find(0)
	if err != nil {
		return Programs{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return Programs{}, err
	}
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil { // of a start that was interrupted
		return Programs{}, err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return Programs{}, err
	}
	if err := os.Chown(fresh, acc.uid, acc.gid); err != nil {
		return Programs{}, err
	}
	if err := initdb(ctx, fresh, programs, acc); err != nil {
		return Programs{}, err
	}
	if err := writeAccess(fresh, acc); err != nil {
		return Programs{}, err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Programs{}, fmt.Errorf("exists, but is not a PostgreSQL data directory: %w", err)
	}
	return programs, os.Rename(fresh, dir)
}

func initdb(ctx context.Context, dir string, programs Programs, acc account) error {
	open, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer open.Close()
	cmd := exec.CommandContext(ctx, filepath.Join(programs.Dir, "initdb"), "-D", inheritedDir, "-U", User,
		"--auth=peer", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions")
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.ExtraFiles = []*os.File{open}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: acc.cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// writeAccess says who may connect. It is written at each start: the account may be root's today and was not
// yesterday.
func writeAccess(dir string, acc account) error {
	ident := fmt.Sprintf("hanse %q %s\nhanse root %s\n", acc.name, User, User)
	for name, content := range map[string]string{"pg_hba.conf": hba, "pg_ident.conf": ident} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return err
		}
		if err := os.Chown(file, acc.uid, acc.gid); err != nil {
			return err
		}
	}
	return nil
}
