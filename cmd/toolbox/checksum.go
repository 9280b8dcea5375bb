//go:build !toolbox_core

package main

import (
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
)

func checksum(args []string, create func() hash.Hash) error {
	return eachInput(args[1:], func(name string, r io.Reader) error {
		h := create()
		if _, err := io.Copy(h, r); err != nil {
			return err
		}
		_, err := fmt.Fprintf(os.Stdout, "%x  %s\n", h.Sum(nil), name)
		return err
	})
}

func md5sum(args []string) error    { return checksum(args, md5.New) }
func sha256sum(args []string) error { return checksum(args, sha256.New) }
