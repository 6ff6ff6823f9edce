package pki

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// The files of a credential's folder.
const (
	credentialCertFile = "tls.crt"
	credentialKeyFile  = "tls.key"
)

// Bundle is all that a credential calls with, in PEM.
type Bundle struct {
	Key  []byte // tls.key: nobody but its owner may have it
	Cert []byte // tls.crt: its certificate
	CA   []byte // ca.crt: the CAs to know the authority by
}

// Write puts the bundle into the folder dir. A folder that does not exist
// appears whole. In one that does, all files are written and synced first and
// then renamed into place, so a full disk harms nothing; only a crash between
// the renames can leave a key beside another's certificate, which every reader
// notices. Without overwrite, Write refuses to touch any of the three files.
func (b Bundle) Write(dir string, overwrite bool) error {
	if _, err := tls.X509KeyPair(b.Cert, b.Key); err != nil {
		return fmt.Errorf("write credential: key and certificate: %w", err)
	}
	if _, err := tlsfile.Pool(b.CA); err != nil {
		return fmt.Errorf("write credential: CA certificate %w", err)
	}
	// The certificate comes last: a folder without one holds no credential.
	files := []file{{caCertFile, 0o644, b.CA}, {credentialKeyFile, 0o600, b.Key}, {credentialCertFile, 0o644, b.Cert}}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return createFolder(dir, files)
	}
	if !overwrite {
		for _, f := range files {
			path := filepath.Join(dir, f.name)
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("write credential: %s exists: name another folder, or ask to overwrite", path)
			}
		}
	}
	return replaceFiles(dir, files)
}

// file is one to be written.
type file struct {
	name string
	mode fs.FileMode
	text []byte
}

// createFolder makes dir with files in it, all at once: it is built under
// another name and renamed. dir must be missing or empty.
func createFolder(dir string, files []file) error {
	dir = filepath.Clean(dir)
	parent, name := filepath.Split(dir)
	parent = filepath.Clean(parent)
	if err := makeFolder(parent); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, "."+name+".tmp-*") // mode 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // once renamed, it is not there
	if err := replaceFiles(tmp, files); err != nil {
		return err
	}
	// os.Rename replaces no folder, not even an empty one.
	if info, err := os.Lstat(dir); err == nil && info.IsDir() {
		if err := os.Remove(dir); err != nil {
			return fmt.Errorf("%s stays as it is (%w): name a folder that does not exist", dir, errors.Unwrap(err))
		}
	} else if err == nil {
		return fmt.Errorf("%s stays as it is (not a folder): name a folder that does not exist", dir)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return syncFolder(parent)
}

// replaceFiles writes files into dir, over what is there.
func replaceFiles(dir string, files []file) error {
	var staged []string
	defer func() {
		for _, path := range staged {
			os.Remove(path)
		}
	}()
	for _, f := range files {
		path, err := f.stage(dir)
		if err != nil {
			return err
		}
		staged = append(staged, path)
	}
	for _, f := range files {
		if err := os.Rename(staged[0], filepath.Join(dir, f.name)); err != nil {
			return err
		}
		staged = staged[1:]
	}
	return syncFolder(dir)
}

// stage writes and syncs the file under another name in dir, which it returns.
// What a crash leaves of it is never read.
func (f file) stage(dir string) (path string, err error) {
	tmp, err := os.CreateTemp(dir, "."+f.name+".tmp-*") // mode 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if closeErr := tmp.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	if _, err := tmp.Write(f.text); err != nil {
		return "", err
	}
	if err := tmp.Chmod(f.mode); err != nil {
		return "", err
	}
	return tmp.Name(), tmp.Sync()
}

// makeFolder makes dir, with mode 0700, and what is missing above it, durably.
func makeFolder(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(dir); err == nil || dir == parent {
		return err
	}
	if err := makeFolder(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

func syncFolder(dir string) error {
	if runtime.GOOS == "windows" { // has no sync of folders
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
