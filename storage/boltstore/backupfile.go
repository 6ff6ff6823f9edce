package boltstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// A backup is a header, the pages of one moment as bbolt keeps them, and a
// trailer. Numbers are big endian.
//
//	header   magic 8, format 4, page size 4, system 16, epoch 8, head 8,
//	         taken at 8 (Unix milliseconds), bytes of pages 8,
//	         SHA-256 of all this 32
//	trailer  SHA-256 of the header and the pages 32
const (
	backupMagic   = "GHBACKUP"
	backupFormat  = 1
	headerFields  = 64
	headerSize    = headerFields + sha256.Size
	trailerSize   = sha256.Size
	minPageSize   = 512 // powers of two, far beyond what systems have
	maxPageSize   = 1 << 20
	minPages      = 3 // two of meta, and a root
	maxBackupSize = 1 << 46
)

// errDamaged says that a backup is not what was taken.
var errDamaged = errors.New("the backup is damaged; use another copy, or an older one")

// header is what a backup says of itself.
type header struct {
	pageSize int
	system   storage.SystemID
	head     storage.Revision
	takenAt  time.Time
	pages    int64 // bytes
}

func (h *header) backup() storage.Backup {
	return storage.Backup{System: h.system, Head: h.head, TakenAt: h.takenAt, Bytes: headerSize + h.pages + trailerSize}
}

func appendHeader(dst []byte, h *header) []byte {
	from := len(dst)
	dst = append(dst, backupMagic...)
	dst = binary.BigEndian.AppendUint32(dst, backupFormat)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.pageSize))
	dst = append(dst, h.system[:]...)
	dst = binary.BigEndian.AppendUint64(dst, h.head.Epoch)
	dst = binary.BigEndian.AppendUint64(dst, h.head.Sequence)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.takenAt.UnixMilli()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.pages))
	sum := sha256.Sum256(dst[from:])
	return append(dst, sum[:]...)
}

// parseHeader reads the first headerSize bytes of a backup. A newer format is
// told by its number alone: all else may lie elsewhere there.
func parseHeader(b []byte) (header, error) {
	if len(b) < len(backupMagic)+4 || string(b[:len(backupMagic)]) != backupMagic {
		return header{}, errors.New("it is not a Gatehouse backup: gatehouse backup makes them")
	}
	if f := binary.BigEndian.Uint32(b[8:]); f > backupFormat {
		return header{}, fmt.Errorf("%w: the backup's format is %d, known is %d; use that newer version of Gatehouse", storage.ErrNewer, f, backupFormat)
	}
	if len(b) != headerSize {
		return header{}, fmt.Errorf("it ends within its header (%w)", errDamaged)
	}
	if sum := sha256.Sum256(b[:headerFields]); !bytes.Equal(sum[:], b[headerFields:]) {
		return header{}, fmt.Errorf("its header has another sum than it says (%w)", errDamaged)
	}
	h := header{
		pageSize: int(binary.BigEndian.Uint32(b[12:])),
		system:   storage.SystemID(b[16:32]),
		head:     storage.Revision{Epoch: binary.BigEndian.Uint64(b[32:]), Sequence: binary.BigEndian.Uint64(b[40:])},
		takenAt:  time.UnixMilli(int64(binary.BigEndian.Uint64(b[48:]))).UTC(),
		pages:    int64(binary.BigEndian.Uint64(b[56:])),
	}
	size := int64(h.pageSize)
	switch {
	case binary.BigEndian.Uint32(b[8:]) == 0, size < minPageSize, size > maxPageSize, size&(size-1) != 0,
		h.pages < minPages*size, h.pages > maxBackupSize, h.pages%size != 0, h.head.Epoch == 0:
		return header{}, fmt.Errorf("its header makes no sense (%w)", errDamaged)
	}
	return h, nil
}
