package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// readPassword asks for a user's password at the terminal, twice and unseen, or takes a line of standard input.
func readPassword(stdin bool, user string) (string, error) {
	in := bufio.NewReader(os.Stdin)
	if stdin {
		return readLine(in)
	}
	fd := int(os.Stdin.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", errors.New("standard input is not a terminal: use --password-stdin")
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		return "", err
	}
	defer func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }()
	var lines [2]string
	for i, prompt := range []string{"Password of " + user + ": ", "Again: "} {
		fmt.Fprint(os.Stderr, prompt)
		if lines[i], err = readLine(in); err != nil {
			return "", err
		}
		fmt.Fprintln(os.Stderr)
	}
	if lines[0] != lines[1] {
		return "", errors.New("the two passwords differ")
	}
	return lines[0], nil
}

func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil && (!errors.Is(err, io.EOF) || line == "") {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
