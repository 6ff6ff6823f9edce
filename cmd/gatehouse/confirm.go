package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// confirm asks a person to type value before what is described happens. Only
// call it where c.terminal is true.
func (c *cli) confirm(ctx context.Context, what, value string) error {
	fmt.Fprintf(c.stderr, "%s\nType %s to go on: ", plain(what), plain(value))
	line, err := await(ctx, func() (string, error) {
		line, err := bufio.NewReader(c.stdin).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return line, err
	})
	if err != nil {
		fmt.Fprintln(c.stderr)
		return err
	}
	if strings.TrimRight(line, "\r\n") != value {
		return failed(exitFailure, "", "not confirmed: nothing was changed")
	}
	return nil
}
