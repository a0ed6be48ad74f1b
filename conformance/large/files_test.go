package large_test

import (
	"bytes"
	"errors"
	"io"
	"os"
)

// sameFiles compares two files in pieces.
func sameFiles(a, b string) (bool, error) {
	fa, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer fb.Close()
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errA := io.ReadFull(fa, bufA)
		m, errB := io.ReadFull(fb, bufB)
		if n != m || !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		if errA != nil || errB != nil {
			endA := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
			endB := errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)
			if endA && endB {
				return true, nil
			}
			return false, errors.Join(errA, errB)
		}
	}
}
