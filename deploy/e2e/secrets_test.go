//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-ws/gatehouse/token"
)

// secrets is every token that was issued in this run.
var secrets vault

type vault struct {
	mu     sync.Mutex
	tokens []string
}

func (v *vault) add(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tokens = append(v.tokens, text)
}

func (v *vault) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.tokens)
}

// needles are the forms in which a token's secret parts could show.
func needles(text string) [][]byte {
	out := [][]byte{[]byte(text), []byte(text[len(token.Prefix):])}
	var t token.Token
	if err := token.Parse([]byte(text), &t); err != nil {
		return out
	}
	d := t.Secret.Digest()
	for _, b := range [][]byte{t.Secret[:], d[:]} {
		out = append(out, b, []byte(hex.EncodeToString(b)), bytes.ToUpper([]byte(hex.EncodeToString(b))))
		for shift := range 3 { // base64 of longer data that holds the secret
			padded := append(make([]byte, shift), b...)
			for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				e := []byte(enc.EncodeToString(padded))
				out = append(out, e[4:len(e)-4]) // what neighbours can't change
			}
		}
	}
	return out
}

// search reads every file below dir and names those that hold a secret.
func (v *vault) search(dir string) (found []string, files int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all [][]byte
	for _, t := range v.tokens {
		all = append(all, needles(t)...)
	}
	// One look-up table by the needles' first bytes keeps this linear.
	byHead := map[[8]byte][][]byte{}
	for _, n := range all {
		byHead[[8]byte(n)] = append(byHead[[8]byte(n)], n)
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for i := 0; i+8 <= len(text); i++ {
			for _, n := range byHead[[8]byte(text[i:])] {
				if bytes.HasPrefix(text[i:], n) {
					found = append(found, path)
					return nil
				}
			}
		}
		return nil
	})
	return found, files, err
}

// missing wants no secret in the files below dir but in one that it plants there.
func (v *vault) missing(dir string) (files int, err error) {
	v.mu.Lock()
	canary, planted := filepath.Join(dir, "canary.log"), `{"msg":"x`+v.tokens[len(v.tokens)-1]+`"}`
	v.mu.Unlock()
	if err := os.WriteFile(canary, []byte(planted), 0o600); err != nil {
		return 0, err
	}
	found, files, err := v.search(dir)
	switch {
	case err != nil:
		return 0, err
	case !slices.Contains(found, canary):
		return 0, errors.New("the one that was planted is not found")
	case len(found) > 1:
		return 0, fmt.Errorf("in %s", strings.Join(slices.DeleteFunc(found, func(f string) bool { return f == canary }), ", "))
	}
	return files - 1, nil
}

// told keeps what a program told its peer, to be searched when all tests are
// over.
func told(text string) {
	f, err := os.OpenFile(filepath.Join(artifacts, "told.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		panic(err)
	}
}

// The search must be able to fail: each form of a secret, planted inside a log
// line, is found.
func TestSearchFindsPlantedSecrets(t *testing.T) {
	key := token.EdgeKey{ID: 1, Key: [token.EdgeKeySize]byte{1}}
	tok, err := token.NewRing([]token.EdgeKey{key}).Mint(1, farFuture, zeroReader{})
	if err != nil {
		t.Fatal(err)
	}
	text := string(tok.AppendText(nil))
	var v vault
	v.add(text)
	for i, n := range needles(text) {
		dir := t.TempDir()
		line := append(append([]byte(`{"msg":"x`), n...), `"}`...)
		if err := os.WriteFile(filepath.Join(dir, "log"), line, 0o600); err != nil {
			t.Fatal(err)
		}
		if found, _, err := v.search(dir); err != nil || len(found) != 1 {
			t.Errorf("form %d is not found: %v", i, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "log"), []byte(tok.ID.String()+" gh1_[scrubbed]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if files, err := v.missing(dir); files != 1 || err != nil {
		t.Errorf("a token's public id counts as a secret: %d files, %v", files, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.missing(dir); err == nil || err.Error() != "in "+filepath.Join(dir, "log") {
		t.Errorf("beside the planted one: %v", err)
	}
}
