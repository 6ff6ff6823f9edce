//go:build !unix

package boltstore

import "io"

// lockFolder can't lock folders here.
func lockFolder(string) (io.Closer, error) { return nil, nil }
